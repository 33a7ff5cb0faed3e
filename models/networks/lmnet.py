# SPDX-License-Identifier: MIT
"""3D-LMNet: Mandikal, Navaneet, Agarwal and Babu, "3D-LMNet: Latent Embedding Matching for Accurate
and Diverse 3D Point Cloud Reconstruction from a Single Image" (BMVC 2018),
https://arxiv.org/abs/1807.07796

Two stages. A point autoencoder learns a latent of 512 numbers for clouds (PointAutoencoder). Then
an image encoder learns to hit the latent of the true cloud, and the frozen decoder turns it into
points (LMNet). The probabilistic variant gives a normal distribution over the latent, whose width
the view-angle loss sets: wide where the view hides much.
Layer widths after the public code; it gives the image as 0..255, here 0..1 with 0.5 taken off.
"""

from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.base import (
    Network,
    Reconstruction,
    choose,
    draw_latent,
    float32_apply,
    he_initialise,
)
from models.networks.encoder import PyramidEncoder


class Preset(NamedTuple):
    image: tuple[int, ...]  # widths of the image encoder's levels
    cloud: tuple[int, ...]  # widths of the point encoder; the last is the latent's
    decoder: tuple[int, int]
    probabilistic: bool = False


_IMAGE, _CLOUD = (32, 64, 128, 256, 512), (64, 128, 128, 256, 512)
_TINY_IMAGE, _TINY_CLOUD = (4, 8, 16, 32, 64), (16, 32, 64)
PRESETS = {
    "plain": Preset(_IMAGE, _CLOUD, (256, 256)),  # 1.94 GMAC at 128 x 128
    "probabilistic": Preset(_IMAGE, _CLOUD, (256, 256), True),
    "tiny-64": Preset(_TINY_IMAGE, _TINY_CLOUD, (64, 64)),
    "tiny-64-probabilistic": Preset(_TINY_IMAGE, _TINY_CLOUD, (64, 64), True),
}


class PointEncoder(nn.Module):
    """Cloud [B, N, 3] -> latent [B, L], whatever the order of the points: PointNet's maximum."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv1d(before, width, 1), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, points: Tensor) -> Tensor:
        return self.layers(points.mT).amax(dim=2)


class PointDecoder(nn.Module):
    """Latent [B, L] -> cloud [B, N, 3]."""

    def __init__(self, latent: int, hidden: tuple[int, int], points: int, out_act: str):
        super().__init__()
        self.points, self.out_act = points, out_act
        layers: list[nn.Module] = []
        for before, width in zip((latent, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Linear(hidden[-1], 3 * points)

    def forward(self, latent: Tensor) -> Tensor:
        cloud = float32_apply(self.last, self.hidden(latent)).unflatten(1, (self.points, 3))
        return torch.tanh(cloud) if self.out_act == "tanh" else cloud


class PointAutoencoder(Network):
    """The first stage: a cloud to itself through the latent. Takes the arguments of LMNet."""

    reads_points = True

    def __init__(
        self,
        preset: str = "plain",
        points: int = 2048,
        image_size: int = 128,
        out_act: str = "none",
    ):
        super().__init__()
        options = choose(PRESETS, preset)
        self.point_encoder = PointEncoder(options.cloud)
        self.decoder = PointDecoder(options.cloud[-1], options.decoder, points, out_act)

    def forward(
        self, image: Tensor, points: Tensor | None = None, noise: Tensor | None = None
    ) -> Reconstruction:
        """Reconstruct points [B, N, 3]; `image` and `noise` are not used."""
        if points is None:
            raise ValueError("PointAutoencoder: it reads clouds, so `points` is needed")
        return Reconstruction(self.decoder(float32_apply(self.point_encoder, points)))


class LMNet(Network):
    """The second stage: one RGB image -> latent -> points; only the image's side is trained.

    Args:
        preset: a name in PRESETS, the same as the autoencoder's, or its probabilistic twin.
        points: number of points of the cloud.
        image_size: side of the square image, a multiple of 32.
        out_act: "none" as in the paper, or "tanh".
    """

    sources = frozenset({"autoencoder"})
    required = MappingProxyType(
        {
            "autoencoder": "3D-LMNet needs a trained point autoencoder; train one "
            "(configs/lmnet-autoencoder.toml) and name its run folder here"
        }
    )

    def __init__(
        self,
        preset: str = "plain",
        points: int = 2048,
        image_size: int = 128,
        out_act: str = "none",
    ):
        super().__init__()
        options = choose(PRESETS, preset)
        width = options.cloud[-1]
        self.latent = width if options.probabilistic else 0
        self.encoder = PyramidEncoder(options.image, image_size)
        feature = options.image[-1] * (image_size // 32) ** 2
        self.mu = nn.Linear(feature, width)
        self.logvar = nn.Linear(feature, width) if options.probabilistic else None
        he_initialise(self)
        for layer in (self.mu, self.logvar):
            if layer is not None:  # no ReLU follows, and sigma starts near 1
                nn.init.normal_(layer.weight, std=0.1 * feature**-0.5)
        self.point_encoder = PointEncoder(options.cloud)
        self.decoder = PointDecoder(width, options.decoder, points, out_act)
        self.point_encoder.requires_grad_(False)
        self.decoder.requires_grad_(False)

    def gives(self) -> frozenset[str]:
        return super().gives() | {"latent", "target"}

    def take_autoencoder(self, state: dict[str, Tensor]) -> None:
        """Load the weights of a trained PointAutoencoder of the same widths."""
        for part in ("point_encoder", "decoder"):
            own = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(part)}
            getattr(self, part).load_state_dict(own)

    def train(self, mode: bool = True) -> "LMNet":
        """The frozen autoencoder stays in evaluation mode: its batch norm must not drift."""
        super().train(mode)
        self.point_encoder.eval()
        self.decoder.eval()
        return self

    def forward(
        self, image: Tensor, points: Tensor | None = None, noise: Tensor | None = None
    ) -> Reconstruction:
        """Reconstruct image [B, 3, S, S], values 0..1.

        With the true cloud `points` [B, N, 3] the result holds the latent to match as `target`;
        `noise` [B, L], standard normal, draws the latent (probabilistic presets).
        """
        feature = self.encoder(image - 0.5).bottom.flatten(1)
        mu = self.mu(feature).float()  # [B, L]
        logvar = None if self.logvar is None else self.logvar(feature).float()
        latent = mu if logvar is None else draw_latent(mu, logvar, noise)
        with torch.no_grad():
            target = None if points is None else float32_apply(self.point_encoder, points)
        return Reconstruction(
            self.decoder(latent), None if logvar is None else mu, logvar, latent, target
        )
