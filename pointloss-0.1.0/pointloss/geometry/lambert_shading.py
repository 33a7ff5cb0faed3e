# SPDX-License-Identifier: MIT
"""Diffuse shading."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _masked


def lambert_shading(
    normals: Tensor,
    light: Tensor,
    *,
    ambient: float | Tensor = 0.0,
    diffuse: float | Tensor = 1.0,
) -> Tensor:
    """Brightness under a distant light: ambient + diffuse * max(0, n . l) (Lambert 1760).

    An image is the albedo times this (as in GAN2Shape: Pan, Dai, Liu, Loy and Luo 2021).

    Args:
        normals: [..., 3] of unit length, such as those of `depth_to_normals`; with batched lights
            the first axis is the batch. A normal 0 gets the ambient light alone.
        light: [3] or [B, 3], from the surface towards the light, of any length but 0. In the
            camera's frame z points forward: a lamp at the camera is (0, 0, -1).
        ambient: a number, or one for each sample, [B].
        diffuse: likewise.

    Returns:
        [...], the normals' shape without its last axis; differentiable in all tensors. On the
        unlit side the gradient to normals and light is 0; so is the one to a light of length 0.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> normals = torch.tensor([[0.0, 0, -1], [0, 0, 1]])
        >>> lambert_shading(normals, torch.tensor([0.0, 0, -2]), ambient=0.25, diffuse=0.5).tolist()
        [0.75, 0.25]
    """
    op = "lambert_shading"
    levels = {"ambient": ambient, "diffuse": diffuse}
    tensors = {name: v for name, v in levels.items() if isinstance(v, Tensor)}
    arrays = _checks.Arrays(op, normals=normals, light=light, **tensors)
    if normals.dim() == 0 or normals.shape[-1] != 3:
        raise ValueError(f"{op}: normals must have shape [..., 3], got {list(normals.shape)}")
    batch = normals.shape[0] if normals.dim() > 1 else 1
    if tuple(light.shape) not in ((3,), (batch, 3)):
        raise ValueError(
            f"{op}: light must have shape [3] or [{batch}, 3], got {list(light.shape)}"
        )
    for name, value in tensors.items():
        if value.dim() > 1 or value.shape not in ((), (1,), (batch,)):
            raise ValueError(f"{op}: {name} must be a number or [{batch}], got {list(value.shape)}")
    normals, light = normals.to(arrays.dtype), _masked.unit(light.to(arrays.dtype))

    def spread(value: Tensor) -> Tensor:
        """[] or [B] -> what broadcasts with normals without their last axis."""
        value = value.to(arrays.dtype)
        return value.reshape(-1, *(1,) * (normals.dim() - 2)) if value.dim() else value

    low, gain = (spread(v) if isinstance(v, Tensor) else v for v in (ambient, diffuse))
    if light.dim() == 2:
        light = light.reshape(-1, *(1,) * (normals.dim() - 2), 3)
    return low + gain * torch.relu((normals * light).sum(-1))
