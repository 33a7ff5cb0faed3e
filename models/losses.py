# SPDX-License-Identifier: MIT
"""The training losses of the paper and of the systems that it is compared with, by weight."""

import torch
from torch import Tensor, nn

from models.config import ConfigError, Loss
from models.networks.output import Reconstruction
from pointloss import EMDLoss, chamfer

TERMS = ("cd", "emd", "kl", "view", "latent")


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Equation 3, KL(N(mu, sigma^2) || N(0, 1)): sum over the L of [B, L], mean over B."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(dim=1).mean()


def view_angle_divergence(logvar: Tensor, azimuth: Tensor, options: Loss) -> Tensor:
    """Equation 2, (sigma - eta exp(-(phi - 180)^2 / delta^2))^2, mean over the batch.

    sigma is the mean of exp(logvar / 2) over the L of [B, L], as in 3D-LMNet's code; `azimuth` [B]
    and delta are in degrees. The view from behind may vary by eta, the others should not.
    """
    off = azimuth.remainder(360) - options.view_centre
    off = (off + 180).remainder(360) - 180  # the short way round the circle
    wanted = options.view_eta * torch.exp(-((off / options.view_delta) ** 2))
    return (torch.exp(0.5 * logvar).mean(dim=1) - wanted).square().mean()


def latent_distance(latent: Tensor, target: Tensor, norm: int) -> Tensor:
    """3D-LMNet's latent matching: mean of |difference|^norm over [B, L]."""
    return (latent - target).abs().pow(norm).mean()


class Objective(nn.Module):
    """The weighted sum of the terms whose weight is not 0; it keeps the prices of the matchings.

    Args:
        options: the weights and what each term needs.
        samples: number of training samples, for the prices (float32 [samples, points]).
        points: points of a cloud.
    """

    def __init__(self, options: Loss, samples: int, points: int):
        super().__init__()
        self.options = options
        keep = options.emd_cache and options.w_emd > 0
        self.emd_loss = EMDLoss(
            rtol=options.emd_rtol, price_cache=(samples, points) if keep else None
        )

    def check(self, network: nn.Module, has_azimuth: bool) -> None:
        """Say before the first step which weight asks for what is not there."""
        if not any(getattr(self.options, f"w_{term}") for term in TERMS):
            raise ConfigError("loss: every weight is 0")
        needs = {
            "w_kl": (network.latent > 0, "this network has no latent distribution"),
            "w_view": (network.latent > 0 and has_azimuth, "needs a latent and cameras"),
            "w_latent": (hasattr(network, "take_autoencoder"), "only lmnet matches latents"),
        }
        for key, (met, why) in needs.items():
            if getattr(self.options, key) and not met:
                raise ConfigError(f"loss.{key}: {why}; set it to 0")

    def forward(
        self, out: Reconstruction, points: Tensor, ids: Tensor, azimuth: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms by name, unweighted, and "loss", their weighted sum.

        Equations 4 and 5 have means for sums, so that no weight depends on the number of points.
        """
        o, terms = self.options, {}
        if o.w_cd:
            terms["cd"] = chamfer(out.points, points, squared=o.chamfer_squared)
            if o.cd_to_truth != 1:
                one_way = chamfer(out.points, points, squared=o.chamfer_squared, direction="x_to_y")
                terms["cd"] = terms["cd"] + (o.cd_to_truth - 1) * one_way
        if o.w_emd:
            # Prices belong to the points of the true cloud. Mirroring both clouds changes no
            # distance, so a sample and its mirror image share them.
            kept = self.emd_loss.price_cache is not None
            terms["emd"] = self.emd_loss(out.points, points, ids=ids if kept else None)
        if o.w_kl:
            terms["kl"] = kl_standard_normal(out.mu, out.logvar)
        if o.w_view:
            terms["view"] = view_angle_divergence(out.logvar, azimuth, o)
        if o.w_latent:
            terms["latent"] = latent_distance(out.latent, out.target, o.latent_norm)
        loss = sum(getattr(o, f"w_{name}") * term for name, term in terms.items())
        return {"loss": loss, **terms}
