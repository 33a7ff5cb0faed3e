# SPDX-License-Identifier: MIT
"""Means, medians and lengths whose values and gradients stay defined where something is missing."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss._reduce import safe_sqrt


def length(vectors: Tensor) -> Tensor:
    """Euclidean length over the last axis; its derivative at the zero vector is 0."""
    return safe_sqrt(vectors.square().sum(-1))


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis; the zero vector stays, with derivative 0."""
    size = length(vectors).unsqueeze(-1)
    return torch.where(size > 0, vectors / torch.where(size > 0, size, 1), 0)


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """Values [..., K] where mask [...] holds, and 0 elsewhere, so that no NaN is left there."""
    return torch.where(mask.unsqueeze(-1), values, 0)


def mean(values: Tensor, mask: Tensor, axes: int) -> Tensor:
    """Mean over the last `axes` axes of what the mask keeps; 0 where it keeps nothing."""
    over = tuple(range(-axes, 0))
    count = mask.sum(over).to(values.dtype)
    return torch.where(mask, values, 0).sum(over) / count.clamp_min(1)


def median(values: Tensor, mask: Tensor) -> Tensor:
    """The lower median over the last axis of what the mask keeps; 0 where it keeps nothing."""
    # By sorting, because torch.median has no deterministic form on CUDA.
    mask = mask.expand_as(values)
    ordered = torch.where(mask, values, torch.inf).sort(-1).values
    count = mask.sum(-1, keepdim=True)
    middle = ordered.gather(-1, ((count - 1) // 2).clamp_min(0)).squeeze(-1)
    return torch.where(count.squeeze(-1) > 0, middle, 0)


def erode(mask: Tensor, pixels: int) -> Tensor:
    """Masks [B, H, W] without the pixels within `pixels` of the outside or of the image's edge."""
    if pixels == 0:
        return mask
    outside = torch.nn.functional.pad((~mask).float(), (pixels,) * 4, value=1.0)
    reach = torch.nn.functional.max_pool2d(outside.unsqueeze(1), 2 * pixels + 1, stride=1)
    return reach.squeeze(1) == 0
