# SPDX-License-Identifier: MIT
"""An object cut out of somebody's picture, and framed as the renderings of models.data are."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

# How the objects of models.data stand in their images, measured over the 1344 renderings of the
# set in the repository, as shares of the image's side.
LONGEST = 0.79  # longest side of the object's box, mean
BELOW = 0.04  # how far the middle of the box lies below the image's, mean
LONGEST_RANGE = (0.54, 0.95)
ACROSS_RANGE = (-0.13, 0.13)  # middle of the box to the right of the image's
BELOW_RANGE = (-0.08, 0.17)

PLAIN = 24  # of 255: a colour no further from the background's, in each channel, belongs to it
BORDER = 0.75  # share of the border's pixels that a plain background has at least
SPECK = 0.01  # parts smaller than this share of the largest part are dirt
CURE = (
    "give --mask FILE (white where the object is), or an RGBA image; any program that removes "
    "backgrounds makes one"
)


class Cutout(NamedTuple):
    """A square RGBA image, and in words how it came about."""

    image: Image.Image
    how: str


def read_picture(path: Path) -> Image.Image:
    """Any 8 bit image that Pillow reads, upright as its EXIF data say, as RGBA.

    Raises:
        ValueError: it is no such image.
    """
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"{path}: expected 8 bits a channel, got mode {file.mode}")
            return ImageOps.exif_transpose(file).convert("RGBA")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """A mask of `size` (width, height): its alpha if it has any, else its brightness.

    Raises:
        ValueError: it is no image, or has another size.
    """
    mask = read_picture(path)
    if mask.size != size:
        raise ValueError(
            f"{path}: the mask has {mask.width} x {mask.height} pixels, its image "
            f"{size[0]} x {size[1]}; they must be equal"
        )
    alpha = mask.getchannel("A")
    return mask.convert("L") if alpha.getextrema() == (255, 255) else alpha


def plain_background(image: Image.Image) -> Image.Image | None:
    """The mask [L] of what differs from a background of one colour; None if it has many.

    The background's colour is the median of the border's pixels. What has that colour inside the
    object is taken for background too: one sees through the back of a chair.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.int16)
    rows = (pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1])
    border = np.concatenate(rows)
    colour = np.median(border, axis=0)
    if (np.abs(border - colour).max(axis=1) <= PLAIN).mean() < BORDER:
        return None
    parts, count = ndimage.label(np.abs(pixels - colour).max(axis=2) > PLAIN)
    area = np.bincount(parts.ravel(), minlength=count + 1)
    area[0] = 0
    kept = area > SPECK * area.max()
    return Image.fromarray(np.where(kept[parts], 255, 0).astype(np.uint8))


def object_box(alpha: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what is at least half covered; None if nothing is."""
    return alpha.point(lambda value: 255 if value > 127 else 0).getbbox()


def is_framed(size: tuple[int, int], box: tuple[int, int, int, int]) -> bool:
    """Whether the object stands in a square image as the renderings' objects do."""
    left, top, right, bottom = box
    side = size[0]
    numbers = (
        max(right - left, bottom - top),
        (left + right - side) / 2,
        (top + bottom - side) / 2,
    )
    ranges = (LONGEST_RANGE, ACROSS_RANGE, BELOW_RANGE)
    return size[0] == size[1] and all(
        low <= number / side <= high for number, (low, high) in zip(numbers, ranges, strict=True)
    )


def frame(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The square around an object's box that has the renderings' mean margin; clear outside."""
    left, top, right, bottom = box
    side = round(max(right - left, bottom - top) / LONGEST)
    x = round((left + right - side) / 2)
    y = round((top + bottom - side) / 2 - BELOW * side)
    return image.crop((x, y, x + side, y + side))


def cut_out(path: Path, mask: Path | None = None) -> Cutout:
    """Cut the object out of a picture, by `mask`, its alpha, or its plain background.

    An image that is framed like the renderings stays whole, so that one of them gives what
    models.evaluate sees; every other one is cut to a square around the object.

    Raises:
        ValueError: no image, no mask to be had, or nothing in it.
    """
    image = read_picture(path)
    alpha, how = image.getchannel("A"), "by its alpha"
    if mask is not None:
        alpha, how = read_mask(mask, image.size), f"by {mask}"
    elif alpha.getextrema() == (255, 255):
        found = plain_background(image)
        if found is None:
            raise ValueError(f"{path}: it has no alpha and no plain background; {CURE}")
        alpha, how = found, "by its plain background"
    box = object_box(alpha)
    if box is None:
        raise ValueError(f"{path}: the mask is empty ({how}); {CURE}")
    image.putalpha(alpha)
    left, top, right, bottom = box
    if left == 0 or top == 0 or (right, bottom) == image.size:
        how += "; the object touches the border: what is cut off cannot be seen"
    if is_framed(image.size, box):
        return Cutout(image, f"object found {how}; framed as in training")
    return Cutout(frame(image, box), f"object found {how}; cropped around it")
