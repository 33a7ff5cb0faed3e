# SPDX-License-Identifier: MIT
"""A look into the HTML pages that models.page writes."""

import json
import re


def data_of(html):
    """What the page's script reads."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(text)


def check_alone(html):
    """Nothing in the page is fetched from anywhere, and a browser is told to forbid it."""
    assert not re.search(r"https?:|//[a-z]+\.|@import|<link|\bfetch\(|XMLHttpRequest|url\(", html)
    assert re.findall(r"<(?:script|img)[^>]* src=", html) == []
    assert "default-src 'none'" in html
    assert "{{" not in html
