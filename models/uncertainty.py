# SPDX-License-Identifier: MIT
"""What a network with a latent does not know: clouds drawn for one image, and how far they differ.

After PSGN (Fan et al. 2017), whose network is scored by the best of its draws, and 3D-LMNet
(Mandikal et al. 2018), which wants to be less sure of what an image does not show.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.build import BACK
from models.judge import Judge
from models.tables import short

ALL = "anywhere"
SIDES = ("front", "side", "behind")


class Draws(NamedTuple):
    """K draws of each of the S images that were scored."""

    spread: Tensor  # [S], see `spread`
    scores: list[Tensor]  # of each protocol: [K, S, columns]


def draw_noise(samples: Tensor, latent: int, draws: int, seed: int) -> Tensor:
    """Standard normal numbers [draws, B, latent] on the CPU; `samples` [B] are images' numbers.

    They depend on the seed and on the image, not on the batch that it is in.
    """
    each = []
    for sample in samples.tolist():
        generator = torch.Generator().manual_seed(seed * 1_000_003 + sample)
        each.append(torch.randn(draws, latent, generator=generator))
    return torch.stack(each, dim=1)


def spread(clouds: Tensor) -> Tensor:
    """How far draws [K, B, N, 3] lie apart: [B], in the clouds' unit.

    The root mean square distance of a point from its mean over the draws, averaged over the points:
    a decoder gives its points in a fixed order.
    """
    return clouds.var(dim=0, correction=0).sum(dim=-1).sqrt().mean(dim=-1)


def best_draw(scores: Tensor) -> Tensor:
    """Scores [K, S, columns] -> [S, columns]: of each image the draw with the least CD."""
    best = scores[:, :, 0].argmin(dim=0)  # CD is the first column of every protocol
    return scores[best, torch.arange(len(best))]


def sides(azimuth: Tensor, front: str | None) -> list[str | None]:
    """From where each image [S] sees its object, by azimuth in degrees; None if nobody tells.

    Within 45 degrees of its front or its back, else from a side. `front` is the axis that the
    objects face, see ReconstructionDataset.
    """
    if front is None:
        return [None] * len(azimuth)
    off = ((azimuth - BACK[front] + 180).remainder(360) - 180).abs()  # from the view from behind
    return [
        None if angle != angle else "behind" if angle <= 45 else "front" if angle >= 135 else "side"
        for angle in off.tolist()
    ]


def tabulate(
    draws: Draws, scores: list[Tensor], judges: list[Judge], seen: list[str | None]
) -> list[dict[str, Any]]:
    """A row for each protocol and each side that objects are seen from, and one for all images.

    `scores` are those of the mean of the latent, `seen` is what `sides` gives. The spread is x100.
    """
    rows = []
    for judge, drawn, own in zip(judges, draws.scores, scores, strict=True):
        cd = torch.stack([own[:, 0], drawn[:, :, 0].mean(dim=0), best_draw(drawn)[:, 0]], dim=1)
        for side in (*SIDES, ALL):
            chosen = torch.tensor([side in (s, ALL) for s in seen])
            if not chosen.any():
                continue
            latent, one, best = cd[chosen].double().mean(dim=0).tolist()
            rows.append(
                {
                    "protocol": judge.protocol.name,
                    "seen from": side,
                    "images": int(chosen.sum()),
                    "spread": short(100 * draws.spread[chosen].double().mean().item()),
                    "CD at the mean": short(latent),
                    "CD of a draw": short(one),
                    "CD of the best": short(best),
                }
            )
    return rows
