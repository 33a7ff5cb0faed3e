# SPDX-License-Identifier: MIT
"""Feature -> normal latent -> cloud: the second half of 3D-ReconstNet and of EfficientPointNet.

mu, logvar of 100 each; 100 -> 512 -> 1024 -> 3 N, LeakyReLU(0.01) between, tanh at the end.
"""

import torch
from torch import Tensor, nn

from models.networks.base import Reconstruction, draw_latent, float32_apply

FEATURE, LATENT = 1000, 100


class LatentDecoder(nn.Module):
    """Feature [B, 1000] -> Reconstruction of `points` points."""

    def __init__(self, points: int, out_act: str):
        super().__init__()
        self.points, self.out_act = points, out_act
        self.mu = nn.Linear(FEATURE, LATENT)
        self.logvar = nn.Linear(FEATURE, LATENT)
        self.hidden = nn.Sequential(
            nn.Linear(LATENT, 512), nn.LeakyReLU(0.01), nn.Linear(512, 1024), nn.LeakyReLU(0.01)
        )
        self.last = nn.Linear(1024, 3 * points)

    def forward(self, feature: Tensor, noise: Tensor | None = None) -> Reconstruction:
        mu, logvar = self.mu(feature).float(), self.logvar(feature).float()  # [B, 100] each
        latent = draw_latent(mu, logvar, noise)
        points = float32_apply(self.last, self.hidden(latent)).unflatten(1, (self.points, 3))
        if self.out_act == "tanh":
            points = torch.tanh(points)
        return Reconstruction(points, mu, logvar, latent)

    @torch.no_grad()
    def start_from(self, cloud: Tensor) -> None:
        """Make `cloud` [N, 3] the first output: the last layer's bias, with its weights shrunk.

        The network then learns what differs from a mean shape, which saves the first epochs.
        A tenth of the weights is still enough to pass gradients on.
        """
        if cloud.shape != (self.points, 3):
            raise ValueError(f"start_from: expected [{self.points}, 3], got {list(cloud.shape)}")
        self.last.weight.mul_(0.1)
        bias = torch.atanh(cloud.clamp(-0.999, 0.999)) if self.out_act == "tanh" else cloud
        self.last.bias.copy_(bias.flatten())
