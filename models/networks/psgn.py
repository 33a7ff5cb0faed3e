# SPDX-License-Identifier: MIT
"""PSGN: Fan, Su and Guibas, "A Point Set Generation Network for 3D Object Reconstruction from a
Single Image" (CVPR 2017), https://arxiv.org/abs/1612.00603

The variant of its public code for 128 x 128 renderings of 3D-R2N2. One branch of linear layers
gives 256 free points, one of transposed convolutions 3 points for each pixel of a 16 x 16 map.
Another number of points changes the first branch. Without that code's weight decay; the weights
start as He et al. (2015) have them, for which the paper says nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.base import (
    Network,
    Reconstruction,
    choose,
    float32_apply,
    he_initialise,
)
from models.networks.encoder import PyramidEncoder, conv


class Preset(NamedTuple):
    widths: tuple[int, ...]  # of the encoder's levels
    linear: tuple[int, int]  # hidden layers of the branch of free points


PRESETS = {
    "r2n2_128": Preset((32, 64, 128, 256, 512), (2048, 1024)),  # 2.32 GMAC at 128 x 128
    "tiny-64": Preset((4, 8, 16, 32, 64), (128, 64)),
}


class PSGN(Network):
    """One RGB image -> points, without a latent distribution.

    Args:
        preset: a name in PRESETS.
        points: number of points; more than the map's 3 (image_size / 8)^2.
        image_size: side of the square image, a multiple of 32.
        out_act: "none" as in the paper, or "tanh".
    """

    def __init__(
        self,
        preset: str = "r2n2_128",
        points: int = 1024,
        image_size: int = 128,
        out_act: str = "none",
    ):
        super().__init__()
        widths, hidden = choose(PRESETS, preset)
        self.out_act = out_act
        grid = 3 * (image_size // 8) ** 2
        if points <= grid:
            raise ValueError(
                f"network.points: psgn's map alone has {grid} points at this image size; "
                f"expected more, got {points}"
            )
        w3, w4 = widths[3], widths[4]
        self.encoder = PyramidEncoder(widths, image_size)
        self.free = nn.Sequential(
            nn.Flatten(),
            nn.Linear(w4 * (image_size // 32) ** 2, hidden[0]),
            nn.ReLU(inplace=True),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(inplace=True),
        )
        self.free_points = nn.Linear(hidden[1], 3 * (points - grid))
        self.up4 = nn.ConvTranspose2d(w4, w3, 5, 2, 2, output_padding=1)
        self.side4 = nn.Conv2d(w4, w3, 3, 1, 1)
        self.mix4 = conv(w3, w3)
        self.up3 = nn.ConvTranspose2d(w3, w3 // 2, 5, 2, 2, output_padding=1)
        self.side3 = nn.Conv2d(w3, w3 // 2, 3, 1, 1)
        self.mix3 = nn.Sequential(conv(w3 // 2, w3 // 2), conv(w3 // 2, w3 // 2))
        self.map_points = nn.Conv2d(w3 // 2, 9, 3, 1, 1)
        he_initialise(self)
        for layer in (self.free_points, self.map_points):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)

    def forward(
        self, image: Tensor, points: Tensor | None = None, noise: Tensor | None = None
    ) -> Reconstruction:
        """Reconstruct image [B, 3, S, S], values 0..1; `points` and `noise` are not used."""
        eighth, sixteenth, bottom = self.encoder(image - 0.5)
        free = float32_apply(self.free_points, self.free(bottom))
        x = self.mix4(torch.relu(self.up4(bottom) + self.side4(sixteenth)))  # [B, w3, S/16, S/16]
        x = self.mix3(torch.relu(self.up3(x) + self.side3(eighth)))  # [B, w3 / 2, S/8, S/8]
        grid = float32_apply(self.map_points, x).permute(0, 2, 3, 1)  # [B, S/8, S/8, 9]
        cloud = torch.cat([free.unflatten(1, (-1, 3)), grid.reshape(len(grid), -1, 3)], dim=1)
        return Reconstruction(torch.tanh(cloud) if self.out_act == "tanh" else cloud)
