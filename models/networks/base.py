# SPDX-License-Identifier: MIT
"""What every network owes the loop and returns, and the last steps that they share."""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn


class Reconstruction(NamedTuple):
    """A forward pass; None for what the network does not have.

    `mu` and `logvar` are a normal distribution over the latent, which the losses may restrain.
    `latent` is what was decoded, `target` the latent of the true cloud that it has to match.
    """

    points: Tensor  # [B, N, 3]
    mu: Tensor | None = None  # [B, L]
    logvar: Tensor | None = None  # [B, L]
    latent: Tensor | None = None  # [B, L]
    target: Tensor | None = None  # [B, L]


class Network(nn.Module):
    """The base class of the networks: what training, evaluation and the tables ask of one.

    A network is built as `cls(preset, points, image_size, out_act)`, from network.* and
    data.image_size of the config, and called as `network(image, points, noise)`.
    What differs from the defaults below is said by the subclass.
    """

    latent: int = 0  # normal variables that `noise` [B, latent] holds; 0: none
    reads_points: bool = False  # it needs the true cloud, so its scores are only a bound
    # Settings of [network] that name weights from elsewhere, each with a method below.
    sources: ClassVar[frozenset[str]] = frozenset()
    # Those of them that it cannot do without, and what to tell a user who has not set one.
    required: ClassVar[Mapping[str, str]] = {}

    def gives(self) -> frozenset[str]:
        """The fields of a Reconstruction that a training step fills: what a loss term may need."""
        return frozenset({"points", "mu", "logvar", "latent"} if self.latent else {"points"})

    def start_from(self, cloud: Tensor) -> None:
        """Make `cloud` [N, 3], the mean shape, the first output: source "start_from_mean"."""
        raise NotImplementedError

    def take_pretrained(self, state: dict[str, Tensor]) -> None:
        """Load weights of another project by their names there: source "pretrained"."""
        raise NotImplementedError

    def take_autoencoder(self, state: dict[str, Tensor]) -> None:
        """Load the weights of a first stage's network: source "autoencoder"."""
        raise NotImplementedError

    def forward(
        self, image: Tensor, points: Tensor | None = None, noise: Tensor | None = None
    ) -> Reconstruction:
        """Reconstruct image [B, 3, S, S], values 0..1.

        `points` [B, N, 3] is the true cloud; only a network that reads_points may look at it for
        its output. `noise` [B, latent], standard normal, draws the latent; without it z = mu.
        """
        raise NotImplementedError


Preset = TypeVar("Preset")


def choose(presets: dict[str, Preset], name: str) -> Preset:
    """The preset of that name, or an error that lists the names."""
    if name not in presets:
        raise ValueError(f"network.preset: expected one of {', '.join(presets)}, got {name!r}")
    return presets[name]


def float32_apply(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply `layer` in float32, also under autocast.

    bfloat16 near 0.5 has steps of 0.004, as wide as the gaps between 2048 points of a unit box,
    so what reads or writes coordinates never runs in it.
    """
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


def draw_latent(mu: Tensor, logvar: Tensor, noise: Tensor | None) -> Tensor:
    """mu + sigma * noise with sigma = exp(logvar / 2), or mu where there is no noise."""
    return mu if noise is None else mu + torch.exp(0.5 * logvar) * noise


def he_initialise(module: nn.Module) -> None:
    """He et al. (2015) for ReLU stacks without batch norm; torch's default fades out in 16 layers.

    The last linear or convolution before the coordinates is left as it is: no ReLU follows it.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
