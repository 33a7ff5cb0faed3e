# SPDX-License-Identifier: MIT
"""A cloud that turns once around, as a GIF, beside the image that it was made from."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from torch import Tensor

from models import files
from models.data.camera import Camera

FRAMES = 36
MILLISECONDS = 80  # a frame; viewers take no less than 20
SIDE = 240  # pixels of each half
FIRST = 55.0  # azimuth of the first frame, degrees: before the front, a little to its side
ELEVATION = 25.0  # degrees
REACH = 0.75  # of the axes; half the diagonal of a cloud is at most 0.87
COLOURS = 64  # of the palette, all frames together


def turntable(path: Path, image: Tensor, cloud: Tensor) -> None:
    """Write `path`: image [3, H, W] in 0..1 and cloud [N, 3], y up, coloured by the height.

    The same input gives the same bytes.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(4.8, 2.4), dpi=SIDE / 2.4)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.9, wspace=0.02)
    left.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
    left.set_title("input", fontsize=9)
    right.set_title("reconstruction", fontsize=9)
    points = cloud.double().numpy()
    colour = points[:, 1]
    dots = right.scatter(points[:, 0], points[:, 1], c=colour, s=3, cmap="viridis", linewidths=0)
    right.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
    for ax in (left, right):
        ax.set(xticks=[], yticks=[])
    frames = []
    for number in range(FRAMES):
        camera = Camera(FIRST + 360 * number / FRAMES, ELEVATION, 1.0)
        across, up, back = camera.axes() @ points.T
        order = np.argsort(back, kind="stable")  # far points first, so that near ones cover them
        dots.set_offsets(np.column_stack([across, up])[order])
        dots.set_array(colour[order])
        figure.canvas.draw()
        frames.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()))  # type: ignore[attr-defined]
    plt.close(figure)
    # The extremes of the colours matter, which a median cut would average away.
    palette = frames[0].quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with files.replacing(path) as file:
        frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0
        )
