# SPDX-License-Identifier: MIT
"""What a source may not do: leave its folder, reach behind a link, take all memory or time."""

import io
import os
import struct
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from meshes import ar, box, deb, needs_renderer, obj
from PIL import Image

from models.data.prepare import __main__ as prepare
from models.data.prepare import ac3d, archives, licences, pictures, workers
from models.data.prepare.archives import FolderFiles, PrepareError, unpack_deb
from models.data.prepare.mesh import ac3d_parts, texture_colours
from models.data.prepare.sources import debian, flightgear, sweethome


@pytest.mark.parametrize("name", ["../evil.sh3f", "/evil.sh3f", "a/../../evil.sh3f", "..\\e.sh3f"])
def test_nothing_is_unpacked_outside_the_target(tmp_path, name):
    package, target = deb(tmp_path / "a.deb", [(name, b"evil")]), tmp_path / "in" / "out"
    if ".." in name and "/" in name:
        with pytest.raises(PrepareError, match="outside the destination"):
            unpack_deb(package, target, lambda name: True)
    else:  # harmless once the slash in front is gone, or a plain name
        unpack_deb(package, target, lambda name: True)
    assert all(path.is_relative_to(target) for path in tmp_path.rglob("*.sh3f"))


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "FIFOTYPE"])
def test_links_and_devices_are_left_out(tmp_path, kind):
    package = deb(tmp_path / "a.deb", [("a.sh3f", getattr(tarfile, kind)), ("b.sh3f", b"b")])
    (written,) = unpack_deb(package, tmp_path / "o", lambda name: True)
    assert (written.name, written.read_bytes()) == ("b.sh3f", b"b")
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["b.sh3f"]


def test_unpack_names_rubbish(tmp_path):
    (tmp_path / "b.deb").write_bytes(b"rubbish")
    with pytest.raises(PrepareError, match="no ar header"):
        unpack_deb(tmp_path / "b.deb", tmp_path / "o", lambda name: True)
    with pytest.raises(PrepareError, match="no sweethome3d-furniture"):
        debian.find_deb("sweethome3d-furniture", tmp_path)


@pytest.mark.parametrize("packed", ["", "gz", "bz2", "xz"])
def test_packages_are_packed_in_several_ways(tmp_path, packed):
    members = [(f"{name}.sh3f", name.encode() * 700) for name in ("a" * 200, "b", "c")]
    package = deb(tmp_path / "a.deb", members, packed)
    written = unpack_deb(package, tmp_path / "o", lambda name: name != "b.sh3f")
    assert [path.read_bytes() for path in written] == [members[0][1], members[2][1]]
    package.write_bytes(package.read_bytes()[: package.stat().st_size // 2])
    with pytest.raises(PrepareError, match=r"a\.deb: "):
        unpack_deb(package, tmp_path / "o", lambda name: False)
    zstd = ar(tmp_path / "b.deb", **{"data.tar.zst": b""})
    with pytest.raises(PrepareError, match=r"data\.tar\.zst is not supported; repack it with xz"):
        unpack_deb(zstd, tmp_path / "o", lambda name: False)


@pytest.mark.parametrize("kind", ["GNUTYPE_LONGNAME", "XHDTYPE", "XGLTYPE", "REGTYPE"])
@pytest.mark.parametrize("size", [5 << 30, -512])
def test_a_forged_header_takes_neither_memory_nor_time(tmp_path, kind, size):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = getattr(tarfile, kind), size
    content = header.tobuf(tarfile.GNU_FORMAT) + b"a" * 512
    package = ar(tmp_path / "a.deb", **{"data.tar": content})
    with pytest.raises(PrepareError, match=r"a\.deb: "):
        unpack_deb(package, tmp_path / "o", lambda name: True)


def test_a_package_is_bounded_in_all(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_TOTAL_LIMIT", 1000)
    package = deb(tmp_path / "a.deb", [("a", b"a" * 600), ("b", b"b" * 600)])
    with pytest.raises(PrepareError, match="holds more than"):
        unpack_deb(package, tmp_path / "o", lambda name: False)


def test_a_python_that_cannot_unpack_safely_is_told(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    package = deb(tmp_path / "a.deb", [("a", b"a")])
    with pytest.raises(PrepareError, match=r"a\.deb: safe unpacking needs Python 3\.10\.12"):
        unpack_deb(package, tmp_path / "o", lambda name: True)


def test_names_stay_in_the_folder_and_links_of_the_user_are_followed(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "far.png").write_bytes(b"far")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "far.png")
    files = FolderFiles(tmp_path / "in", limit=3)
    for name in ("../far.png", "a/../../far.png", "..\\far.png", str(tmp_path / "far.png")):
        with pytest.raises(KeyError, match="no file"):
            files.read(name)
    assert files.read("link.png") == b"far"
    (tmp_path / "in" / "large").write_bytes(b"large")
    with pytest.raises(ValueError, match="--max-file-mb"):
        files.read("large")


@needs_renderer
@pytest.mark.parametrize("kind", ["synset", "file", "work"])
def test_nothing_behind_a_link_of_out_is_touched(tmp_path, kind, capsys):
    mine, out = tmp_path / "mine", tmp_path / "out"
    (tmp_path / "in" / "chair").mkdir(parents=True)
    (tmp_path / "in" / "chair" / "a.obj").write_text(obj(box(1, 2, 3)))
    (mine / "a").mkdir(parents=True)
    (mine / "a" / "precious").write_text("mine")
    (out / ".work").mkdir(parents=True)
    link = {"synset": "ShapeNetRendering/03001627", "file": "CREDITS.md", "work": ".work/records"}
    (out / link[kind]).parent.mkdir(parents=True, exist_ok=True)
    (out / link[kind]).symlink_to(mine / "a" / "precious" if kind == "file" else mine)
    assert prepare.main(["meshes", str(tmp_path / "in"), str(out), "--quiet"]) == 1
    assert "is a link" in capsys.readouterr().err
    assert [p.read_text() for p in mine.rglob("*") if p.is_file()] == ["mine"]


@pytest.mark.parametrize("lines", ["numvert 1000000000", "numsurf 1\nSURF 0x10\nrefs 1000000000"])
def test_a_count_is_checked_against_the_file(lines):
    with pytest.raises(ValueError, match="1000000000 lines are announced, [12] are left"):
        ac3d.parse(f"AC3Db\nOBJECT poly\n{lines}\nkids 0\n")


def png(width, height):
    """A PNG's header alone, for a picture that nobody should decode."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return io.BytesIO(
        data + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_have_a_format_and_a_size():
    with pytest.raises(ValueError, match="13000 x 13000 pixels"):
        pictures.open_picture(png(13000, 13000))
    assert pictures.open_picture(png(8192, 8192)).size == (8192, 8192)
    other = io.BytesIO()
    Image.new("L", (4, 4)).save(other, "PPM")
    with pytest.raises(OSError, match="cannot identify"):
        pictures.open_picture(other)
    with pytest.raises(ValueError, match="format PPM"):  # as trimesh opens it, not decoded yet
        pictures.check_picture(Image.open(other))


def test_a_large_texture_costs_a_byte_a_value():
    import tracemalloc

    image = Image.new("RGB", (2000, 2000), (255, 0, 51))
    tracemalloc.start()
    colours = texture_colours(image, np.zeros((1, 3, 2)))
    assert tracemalloc.get_traced_memory()[1] < 60e6  # as float64 it took 96 MB
    tracemalloc.stop()
    np.testing.assert_allclose(colours, [[1, 0, 0.2]])


LONG_WORDS = {
    "letters": "a" * 200_000,
    "blanks": " " * 200_000,
    "heads": "<title>" * 30_000,
    "head": "<title>" + "0" * 200_000,
    "authors": "<title>" + " by a - 1" * 22_000,
    "thanks": 'thank you for downloading "' * 7_500,
    "propellers": "prop" * 50_000,
}


def read_words(word):
    """Lets every pattern that sees a source's text see the word."""
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        archive.writestr("lib/LICENSE.TXT", word)
        licences.terms_of(archive, "lib/a.obj", "", licences.CC0)
    text = f"name#1=Table {word}\ncreator#1=a{word}b\nmodel#1=a/b.obj\n{word}"
    (entry,) = sweethome.parse_catalogue(text)
    sweethome.category_of(entry["name"])
    item = sweethome._item(entry, Path("a.sh3f"), "a/b.obj", "table", {})
    surface = "numvert 3\n0 0 0\n1 0 0\n0 1 0\nnumsurf 1\nSURF 0\nrefs 3\n0 0 0\n1 0 0\n2 0 0\n"
    data = f'AC3Db\nOBJECT poly\nname "{word}"\n{surface}kids 0\n'.encode()
    ac3d_parts(data, item._replace(hidden=flightgear.HIDDEN), None)


@pytest.mark.skipif(os.name == "nt", reason="no limits on Windows")
@pytest.mark.parametrize("kind", LONG_WORDS)
def test_no_pattern_takes_the_square_of_a_long_word(kind):
    # Some hundredths of a second; a minute and more before.
    limits = workers.Limits(seconds=20)
    ((_, result),) = workers.in_processes(read_words, [LONG_WORDS[kind]], 1, limits)
    assert result is None


def dying(item):
    """A reader that takes its process down for one item."""
    if item == "bad":
        os._exit(1)
    return item.upper()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_dying_process_costs_its_item_only(jobs):
    items = ["a", "bad", "b", "c"]
    results = dict(workers.in_processes(dying, items, jobs, workers.Limits()))
    assert "process died" in results.pop("bad")
    assert results == {"a": "A", "b": "B", "c": "C"}


def greedy(item):
    """A reader that never ends, one that wants all memory, one that catches all and goes on."""
    try:
        if item == "memory":
            return len(bytearray(3 << 30))
        while item != "good":
            time.sleep(0.01)
    except BaseException:
        if item == "stubborn":
            time.sleep(60)
        raise
    return item


@pytest.mark.skipif(os.name == "nt", reason="no limits on Windows")
def test_time_and_memory_of_an_item_are_bounded():
    limits = workers.Limits(seconds=0.3, memory_gb=1)
    results = dict(workers.in_processes(greedy, ["endless", "stubborn", "good"], 3, limits))
    assert results.pop("good") == "good"
    assert all("longer than 0.3 s" in reason for reason in results.values())
    with pytest.raises(MemoryError):
        dict(workers.in_processes(greedy, ["memory"], 1, limits))


def touching(item, folder):
    """A task that leaves a trace."""
    (folder / str(item)).touch()


def test_what_is_queued_is_dropped_when_the_run_stops(tmp_path):
    results = workers.in_processes(touching, list(range(200)), 2, workers.Limits(), tmp_path)
    next(results)
    results.close()  # what Ctrl-C does to the generator
    assert len(list(tmp_path.iterdir())) < 100
