# SPDX-License-Identifier: MIT
"""The image encoder that PSGN (its R2N2 variant) and 3D-LMNet share: 15 convolutions, no norm."""

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """For an image of S x S, widths w0 to w4."""

    eighth: Tensor  # [B, w3, S/8, S/8]
    sixteenth: Tensor  # [B, w4, S/16, S/16]
    bottom: Tensor  # [B, w4, S/32, S/32]


def conv(channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, stride, size // 2), nn.ReLU(inplace=True)
    )


class PyramidEncoder(nn.Module):
    """Image [B, 3, S, S] -> Features; S is a multiple of 32. Each level halves and then refines."""

    def __init__(self, widths: tuple[int, ...], image_size: int):
        super().__init__()
        if image_size % 32:
            raise ValueError(
                f"data.image_size: this network needs a multiple of 32, got {image_size}"
            )
        first, last = widths[0], widths[-1]
        levels = [nn.Sequential(conv(3, first), conv(first, first))]
        for before, width in pairwise(widths):
            refine = [conv(width, width) for _ in range(3 if width == last else 2)]
            levels.append(nn.Sequential(conv(before, width, stride=2), *refine))
        self.to_eighth = nn.Sequential(*levels[:-1])
        self.to_sixteenth = levels[-1]
        self.to_bottom = conv(last, last, size=5, stride=2)

    def forward(self, image: Tensor) -> Features:
        eighth = self.to_eighth(image)
        sixteenth = self.to_sixteenth(eighth)
        return Features(eighth, sixteenth, self.to_bottom(sixteenth))
