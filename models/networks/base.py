# SPDX-License-Identifier: MIT
"""What every network returns, and the last steps that they share."""

from typing import NamedTuple

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


def choose(presets: dict, name: str):
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
            nn.init.zeros_(layer.bias)
