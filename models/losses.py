# SPDX-License-Identifier: MIT
"""The training losses of the paper and of the systems that it is compared with.

TERMS is the table of them. A new term is one entry there, and its weight `w_<name>` in config.Loss.
"""

import operator
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import ConfigError, Loss
from models.networks.base import Network, Reconstruction
from models.unfinished_auction import unfinished_auction
from pointloss import EMDLoss, chamfer, kl_standard_normal


class Target(NamedTuple):
    """What a batch of reconstructions is compared with."""

    points: Tensor  # [B, N, 3] true clouds
    sample: Tensor  # [B] int64, numbers of the training samples
    azimuth: Tensor | None = None  # [B] degrees, of the cameras; NaN: not known


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


def _chamfer(objective: "Objective", out: Reconstruction, target: Target) -> Tensor:
    o = objective.options
    both = chamfer(out.points, target.points, squared=o.chamfer_squared)
    if o.cd_to_truth == 1:
        return both
    there = chamfer(out.points, target.points, squared=o.chamfer_squared, direction="x_to_y")
    return both + (o.cd_to_truth - 1) * there


def _emd(objective: "Objective", out: Reconstruction, target: Target) -> Tensor:
    if objective.options.emd_matching == "many-to-one":
        partner = unfinished_auction(out.points.detach(), target.points)
        partners = target.points.gather(1, partner[:, :, None].expand_as(out.points))
        distance: Tensor = torch.linalg.vector_norm(out.points - partners, dim=2)
        return distance.mean()
    # Prices belong to the points of the true cloud. Mirroring both clouds changes no distance, so a
    # sample and its mirror image share them.
    kept = objective.emd_loss.price_cache is not None
    value: Tensor = objective.emd_loss(
        out.points, target.points, ids=target.sample if kept else None
    )
    return value


def given(value: Tensor | None) -> Tensor:
    """A field that Objective.check has asked for."""
    if value is None:
        raise ValueError("a loss term needs a field that the network or the batch does not have")
    return value


class Term(NamedTuple):
    """A training loss. Its mean over the batch is weighted by w_<name> of config.Loss."""

    title: str  # of its curve
    value: Callable[["Objective", Reconstruction, Target], Tensor]
    needs: frozenset[str] = frozenset({"points"})  # fields of Reconstruction, see Network.gives
    camera: bool = False  # it needs Target.azimuth


TERMS = {
    "cd": Term("Chamfer", _chamfer),
    "emd": Term("EMD", _emd),
    "kl": Term(
        "KL",
        lambda objective, out, target: kl_standard_normal(given(out.mu), given(out.logvar)),
        needs=frozenset({"mu", "logvar"}),
    ),
    "view": Term(
        "View angle",
        lambda objective, out, target: view_angle_divergence(
            given(out.logvar), given(target.azimuth), objective.options
        ),
        needs=frozenset({"logvar"}),
        camera=True,
    ),
    "latent": Term(
        "Latent",
        lambda objective, out, target: latent_distance(
            given(out.latent), given(out.target), objective.options.latent_norm
        ),
        needs=frozenset({"latent", "target"}),
    ),
}


class Objective(nn.Module):
    """The weighted sum of the terms whose weight is not 0; it keeps the prices of the matchings.

    Args:
        options: the weights and what each term needs.
        samples: number of training samples, for the prices (float32 [samples, points]).
        points: points of a cloud.
    """

    options: Loss
    emd_loss: EMDLoss

    def __init__(self, options: Loss, samples: int, points: int):
        super().__init__()
        self.options = options
        self.weights = {name: float(getattr(options, f"w_{name}")) for name in TERMS}
        keep = options.emd_cache and options.w_emd > 0
        self.emd_loss = EMDLoss(
            rtol=options.emd_rtol, price_cache=(samples, points) if keep else None
        )

    def check(self, network: Network, has_azimuth: bool) -> None:
        """Say before the first step which weight asks for what is not there."""
        if not any(self.weights.values()):
            raise ConfigError("loss: every weight is 0")
        for name, term in TERMS.items():
            missing = sorted(term.needs - network.gives())
            if missing:
                why = f"this network gives no {' and no '.join(missing)}"
            elif term.camera and not has_azimuth:
                why = "this set does not tell the cameras of its images"
            else:
                continue
            if self.weights[name]:
                raise ConfigError(f"loss.w_{name}: {why}; set it to 0")

    def forward(self, out: Reconstruction, target: Target) -> dict[str, Tensor]:
        """The terms by name, unweighted, and "loss", their weighted sum.

        Equations 4 and 5 have means for sums, so that no weight depends on the number of points.
        """
        terms = {
            name: term.value(self, out, target)
            for name, term in TERMS.items()
            if self.weights[name]
        }
        loss = reduce(operator.add, (self.weights[name] * terms[name] for name in terms))
        return {"loss": loss, **terms}
