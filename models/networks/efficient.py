# SPDX-License-Identifier: MIT
"""Efficient feature map extraction for 3-D point cloud reconstruction from one image.

After the Korean paper "3D point cloud reconstruction from 2D images using an efficient feature
map extraction network" (title translated; its table 2: CD 5.87, EMD 5.81, 2.9 GFLOP).
What its text fixes, and this file keeps:

- no size reduction until the middle of the encoder, paid for with few channels and a shallow net;
- the early feature goes to the last layer directly, not block by block;
- feature 1000 -> mu, sigma of 100 -> z = mu + sigma * eps -> 512 -> 1024 -> 6144 -> 2048 x 3.

Its figure 4, the layer table, was not at hand. Widths, depths and the form of the skip (max-pool,
one linear projection, addition) are therefore ours; so are batch norm and LeakyReLU(0.1) in the
encoder, the global average before the feature, 0.5 taken off the image and the start from a mean
shape. Log-variance for sigma, the decoder's slope of 0.01 and the tanh at the end follow the public
code of 3D-ReConstnet, which the paper starts from.
"""

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.base import Network, Reconstruction, choose
from models.networks.decoder import FEATURE, LATENT, LatentDecoder


class Preset(NamedTuple):
    """The encoder: `full` layers of `stem` channels at full size, then one halving per width.

    The others are for ablations, each of one of the paper's choices.
    """

    stem: int
    full: int
    down: tuple[int, ...]
    skip: bool = True  # the early feature goes to the last layer
    early_stride: bool = False  # the first layer halves, so `full` layers work at half size
    flatten: bool = False  # the feature is of every place of the last layer, not of their mean


PRESETS = {
    "default": Preset(16, 7, (32, 64, 128, 256, 512)),  # 1.27 GMAC at 224 x 224
    "wide-128": Preset(32, 6, (64, 128, 256, 512)),  # the paper's 2.9 G read as FLOP at 128 x 128
    "mac-224": Preset(24, 8, (48, 96, 192, 384, 512)),  # the paper's 2.9 G read as MAC at 224 x 224
    "tiny-64": Preset(16, 3, (32, 64, 128, 256)),  # minutes on two CPU cores at 64 x 64
}
_MAC = PRESETS["mac-224"]
PRESETS |= {
    "mac-224-no-skip": _MAC._replace(skip=False),
    # Twice the channels at half the size: 4 % fewer operations than mac-224 at 128 x 128.
    "mac-224-early-stride": Preset(48, 8, (96, 192, 384, 512), early_stride=True),
    "mac-224-flatten": _MAC._replace(flatten=True),
}


def conv_block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, LeakyReLU(0.1)."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.1),
    )


class Encoder(nn.Module):
    """Image [B, 3, H, W] -> feature [B, 1000]; about half of the layers work at the full H x W."""

    def __init__(self, preset: Preset, image_size: int):
        super().__init__()
        stem, full, down = preset.stem, preset.full, preset.down
        self.stem = conv_block(3, stem, stride=2 if preset.early_stride else 1)
        self.full = nn.Sequential(*(conv_block(stem, stem) for _ in range(full)))
        self.down = nn.Sequential(*(conv_block(a, b, stride=2) for a, b in pairwise((stem, *down))))
        # No norm, no activation: the skip only has to fit in width and size.
        self.skip = nn.Conv2d(stem, down[-1], 8, stride=8, bias=False) if preset.skip else None
        self.last = conv_block(down[-1], down[-1])
        self.flatten = preset.flatten
        side = -(-image_size // 2 ** (len(down) + preset.early_stride)) if self.flatten else 1
        self.feature = nn.Linear(down[-1] * side**2, FEATURE)

    def forward(self, image: Tensor) -> Tensor:
        early = self.stem(image)  # [B, stem, H, W]
        deep = self.down(self.full(early))  # [B, C, h, w]
        if self.skip is not None:
            h, w = deep.shape[-2:]
            deep = deep + self.skip(F.adaptive_max_pool2d(early, (8 * h, 8 * w)))
        last = self.last(deep)  # [B, C, h, w]
        return self.feature(last.flatten(1) if self.flatten else last.mean(dim=(2, 3)))  # [B, 1000]


class EfficientPointNet(Network):
    """One RGB image -> points of the whole object, through a latent of 100 normal variables.

    Args:
        preset: a name in PRESETS.
        points: number of points of the cloud.
        image_size: side of the square image, used by the preset that flattens; for the others any
            size from 32 on works.
        out_act: "tanh" keeps every coordinate in (-1, 1); "none" leaves them free.
    """

    latent = LATENT
    sources = frozenset({"start_from_mean"})

    def __init__(
        self,
        preset: str = "default",
        points: int = 2048,
        image_size: int = 128,
        out_act: str = "tanh",
    ):
        super().__init__()
        self.encoder = Encoder(choose(PRESETS, preset), image_size)
        self.decoder = LatentDecoder(points, out_act)

    def start_from(self, cloud: Tensor) -> None:
        """Make `cloud` [N, 3] the first output, see LatentDecoder."""
        self.decoder.start_from(cloud)

    def forward(
        self, image: Tensor, points: Tensor | None = None, noise: Tensor | None = None
    ) -> Reconstruction:
        """Reconstruct image [B, 3, H, W], values 0..1; `points` is not used.

        `noise` [B, 100], standard normal, draws z = mu + sigma * noise as in training; without it
        z = mu, so that evaluation can be repeated.
        """
        return self.decoder(self.encoder(image - 0.5), noise)
