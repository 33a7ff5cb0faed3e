# SPDX-License-Identifier: MIT
"""The pages' python blocks run, and print what stands below them."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A python block, and the text block that follows it without a word between.
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
PAGES = [p for p in sorted((ROOT / "docs").rglob("*.md")) if "```python" in p.read_text()]


def run_page(page):
    """What each block printed, and what the page says; the blocks of a page share their names."""
    names = {"__name__": page.stem}
    text = page.read_text()
    for block in BLOCK.finditer(text):
        # Blank lines in front, so that a traceback has the page's own line numbers.
        line = text.count("\n", 0, block.start(1))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + block[1], str(page), "exec"), names)
        yield printed.getvalue(), block[2] or ""


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_examples_run_and_print_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for printed, told in run_page(page):
        assert printed == told


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs')}\n" in navigation, page


def test_every_test_that_a_page_names_exists():
    """The table of what is supported is worth what its tests are worth."""
    text = (ROOT / "docs" / "supported.md").read_text()
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", text)
    assert len(named) > 20
    for file, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), (file, test)


def test_every_public_name_is_in_the_api_pages():
    import pointloss

    told = "".join(p.read_text() for p in (ROOT / "docs" / "api").glob("*.md"))
    for name in pointloss.__all__:
        assert name.startswith("__") or f"pointloss.{name}\n" in told, name
