# SPDX-License-Identifier: MIT
"""An object cut out of a picture: every kind of input, and the frame of the training images."""

import numpy as np
import pytest
from PIL import Image

from models import cutout
from models.data.dataset import FURNITURE, ReconstructionDataset

BOX = (60, 30, 140, 130)  # left, top, right, bottom of the object in the 300 x 200 pictures below


def object_mask():
    mask = np.zeros((200, 300), bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return mask


def picture(background, rng=None):
    """A red box on a background, RGB; `rng` adds noise as a camera does."""
    image = np.empty((200, 300, 3), np.int16)
    image[:] = background
    image[object_mask()] = (200, 40, 30)
    if rng is not None:
        image += rng.integers(-6, 7, image.shape)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def save(image, path, **options):
    image.save(path, **options)
    return path


def check_framed(image):
    """The object's box has the mean size and place of the renderings' objects, to a pixel."""
    assert image.width == image.height
    left, top, right, bottom = cutout.object_box(image.getchannel("A"))
    side = image.width
    assert max(right - left, bottom - top) / side == pytest.approx(cutout.LONGEST, abs=1 / side)
    assert (left + right) / 2 == pytest.approx(side / 2, abs=1)
    assert (top + bottom) / 2 == pytest.approx((0.5 + cutout.BELOW) * side, abs=1)
    assert cutout.is_framed(image.size, (left, top, right, bottom))


def test_the_frame_is_that_of_the_renderings():
    """The constants are the means and the ranges over the committed set."""
    data = ReconstructionDataset(FURNITURE, "test", in_memory=0)
    numbers = []
    for index in range(len(data)):
        path = data._path(index, "rendering")
        with Image.open(path) as image:
            box, side = cutout.object_box(image.getchannel("A")), image.width
            assert cutout.is_framed(image.size, box), path
        left, top, right, bottom = box
        numbers.append((max(right - left, bottom - top), (top + bottom - side) / 2))
    longest, below = np.mean(numbers, axis=0) / side
    assert longest == pytest.approx(cutout.LONGEST, abs=0.02)
    assert below == pytest.approx(cutout.BELOW, abs=0.02)


def test_a_rendering_stays_whole(tmp_path):
    data = ReconstructionDataset(FURNITURE, "test", in_memory=0)
    path = data._path(3, "rendering")
    found = cutout.cut_out(path)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(found.image), np.asarray(image))
    assert "framed as in training" in found.how


def test_alpha_is_the_mask(tmp_path):
    image = picture((0, 0, 255)).convert("RGBA")
    image.putalpha(Image.fromarray(object_mask()).convert("L"))
    found = cutout.cut_out(save(image, tmp_path / "a.png"))
    check_framed(found.image)
    colours = found.image.getcolors()
    assert {colour for _, colour in colours if colour[3]} == {(200, 40, 30, 255)}


@pytest.mark.parametrize("background", [(255, 255, 255), (90, 140, 60), (0, 0, 0)])
def test_a_plain_background_is_found(tmp_path, background):
    image = picture(background, np.random.default_rng(0))
    found = cutout.cut_out(save(image, tmp_path / "a.jpg", quality=85))
    assert "plain background" in found.how
    check_framed(found.image)


def test_a_hole_shows_the_background_and_dirt_is_left_out(tmp_path):
    image = np.asarray(picture((30, 120, 200))).copy()
    image[60:90, 80:110] = (30, 120, 200)  # what one sees through the back of a chair
    image[180:183, 280:283] = 255  # a speck
    found = cutout.cut_out(save(Image.fromarray(image), tmp_path / "a.png"))
    check_framed(found.image)
    opaque = (np.asarray(found.image)[..., 3] > 0).sum()
    assert opaque == 80 * 100 - 30 * 30


def test_a_photo_needs_a_mask(tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8))
    path = save(noise, tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"no plain background; give --mask FILE"):
        cutout.cut_out(path)
    grey = save(Image.fromarray(object_mask()).convert("L"), tmp_path / "grey.png")
    clear = Image.new("RGBA", (300, 200))
    clear.putalpha(Image.fromarray(object_mask()).convert("L"))
    expected = np.asarray(noise)[BOX[1] : BOX[3], BOX[0] : BOX[2]]
    for mask in (grey, save(clear, tmp_path / "clear.png")):
        found = cutout.cut_out(path, mask).image
        check_framed(found)
        box = cutout.object_box(found.getchannel("A"))
        assert np.array_equal(np.asarray(found.crop(box).convert("RGB")), expected)


def test_what_a_mask_may_not_be(tmp_path):
    path = save(picture((255, 255, 255)), tmp_path / "a.png")
    small = save(Image.new("L", (30, 20)), tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"30 x 20 pixels, its image 300 x 200"):
        cutout.cut_out(path, small)
    empty = save(Image.new("L", (300, 200)), tmp_path / "empty.png")
    with pytest.raises(ValueError, match="the mask is empty"):
        cutout.cut_out(path, empty)
    nothing = save(Image.new("RGB", (50, 50), "white"), tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="the mask is empty"):
        cutout.cut_out(nothing)


def test_an_object_at_the_border_is_told_and_framed(tmp_path):
    image = picture((255, 255, 255)).crop((60, 0, 300, 200))
    found = cutout.cut_out(save(image, tmp_path / "a.png"))
    assert "touches the border" in found.how
    check_framed(found.image)


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to the right
    path = save(picture((255, 255, 255)), tmp_path / "a.png", exif=exif)
    box = cutout.object_box(cutout.cut_out(path).image.getchannel("A"))
    assert box[2] - box[0] == 100  # wider than high, as it is not in the file
    assert box[3] - box[1] == 80


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such image"), (b"GIF, but not", "not a readable image"), (16, "8 bits")],
)
def test_what_is_no_image(tmp_path, content, message):
    path = tmp_path / "a.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(ValueError, match=message):
        cutout.cut_out(path)
