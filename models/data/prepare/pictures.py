# SPDX-License-Identifier: MIT
"""Pictures of a source: only the formats that such files have, and of a size that memory has."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from PIL import Image

# Pillow would try all that it knows, EPS with ghostscript too.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TGA", "TIFF", "SGI", "WEBP")
PIXELS = 8192 * 8192


def open_picture(source: Path | BinaryIO) -> Image.Image:
    """The picture, not decoded yet. OSError: another format; ValueError: too large."""
    return check_picture(Image.open(source, formats=FORMATS))


def check_picture(image: Image.Image) -> Image.Image:
    """The picture itself. Raises ValueError where its format or its size is not accepted."""
    # None: made in memory; MPO: how some cameras' JPEG files are called.
    if image.format not in (None, "MPO", *FORMATS):
        raise ValueError(f"a picture in the format {image.format}, expected {', '.join(FORMATS)}")
    if image.width * image.height > PIXELS:
        raise ValueError(f"a picture of {image.width} x {image.height} pixels, at most {PIXELS}")
    return image
