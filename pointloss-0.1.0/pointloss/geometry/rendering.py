# SPDX-License-Identifier: MIT
"""A depth map with its texture, seen from elsewhere and under another light."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.geometry.depth_to_normals import normals_of
from pointloss.geometry.depth_to_points import lift
from pointloss.geometry.lambert_shading import lambert_shading
from pointloss.geometry.transform_points import move

_LEAST = 1e-3  # sum of bilinear weights below which a pixel fades to 0 instead of jumping


class Rendering(NamedTuple):
    """What `rerender` gives."""

    image: Tensor
    depth: Tensor
    coverage: Tensor


Rendering.image.__doc__ = "[B, C, H, W]; 0 where nothing is seen."
Rendering.depth.__doc__ = "[B, H, W] along the new optical axis; 0 where nothing is seen."
Rendering.coverage.__doc__ = "[B, H, W]; samples per pixel, 1 in the first view, 0: none."


def rerender(
    depth: Tensor,
    texture: Tensor,
    intrinsics: Tensor,
    extrinsics: Tensor,
    *,
    mask: Tensor | None = None,
    light: Tensor | None = None,
    ambient: float | Tensor = 0.0,
    diffuse: float | Tensor = 1.0,
    supersample: int = 3,
    softness: float = 0.01,
) -> Rendering:
    """The surface of a depth map, with its texture, seen by a camera that was moved.

    Differentiable. The maps are sampled `supersample` times more finely on both axes (bilinear),
    lifted to points, moved, projected, and spread over the four pixels around each (bilinear
    splatting). Where several samples fall on a pixel, each has the weight (z0 / z)^(1 / softness),
    with z its depth and z0 the least depth at that pixel: a softmax over -log depth, which does not
    depend on the unit (softmax splatting, Niklaus and Liu 2020, with the depth as its importance).
    No mesh, no rasteriser. Where the surface is stretched more than `supersample` times, gaps show.

    Args:
        depth: [B, H, W] or [H, W] along the optical axis; a pixel whose depth is not above 0 or not
            finite shows nothing.
        texture: [B, C, H, W] or [C, H, W].
        intrinsics: [3, 3] or [B, 3, 3] of both cameras, in pixels, as for `depth_to_points`.
        extrinsics: [3, 4] or [B, 3, 4], camera that saw the depth -> new camera: [R | t].
        mask: bool [B, H, W], the pixels that take part.
        light: [3] or [B, 3], towards the light in the first camera's frame. The texture is then an
            albedo, and multiplied by `lambert_shading` with the depth's normals.
        ambient: see `lambert_shading`.
        diffuse: see `lambert_shading`.
        supersample: samples per pixel on each axis.
        softness: a surface behind another by this share of its depth has 1 / e of its weight.

    Returns:
        Rendering(image, depth, coverage), without batch axis for a single map. Differentiable in
        all tensors but the mask; which samples meet a pixel is piecewise constant.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.

    Determinism: on the CPU deterministic. On CUDA sums are made in any order, except under
    torch.use_deterministic_algorithms(True), which covers values and gradients. Nothing waits for
    the GPU.

    Example:
        >>> k = torch.tensor([[4.0, 0, 2], [0, 4, 2], [0, 0, 1]])
        >>> closer = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1]])
        >>> seen = rerender(torch.full((4, 4), 2.0), torch.ones(3, 4, 4), k, closer)
        >>> seen.image.shape, seen.depth[2, 2].item()
        (torch.Size([3, 4, 4]), 1.0)
    """
    op = "rerender"
    arrays = _checks.Arrays(
        op, depth=depth, texture=texture, intrinsics=intrinsics, extrinsics=extrinsics, light=light
    )
    depth = arrays.take("depth", depth, "B H W")
    texture = arrays.take("texture", texture, "B C H W")
    k = arrays.take("intrinsics", intrinsics, "B 3 3", shared=True)
    pose = arrays.take("extrinsics", extrinsics, "B 3 4", shared=True)
    seen = arrays.mask("mask", mask, "B H W") & (depth > 0) & depth.isfinite()
    if supersample < 1:
        raise ValueError(f"{op}: supersample must be at least 1, got {supersample}")
    if not softness > 0:
        raise ValueError(f"{op}: softness must be above 0, got {softness}")
    if light is not None:
        light = arrays.take("light", light, "B 3", shared=True)
        normals = normals_of(depth, k, seen)
        shade = lambert_shading(normals, light, ambient=ambient, diffuse=diffuse)
        texture = texture * shade.unsqueeze(1)
    size = (depth.shape[1], depth.shape[2])
    depth, texture, seen = _finer(depth, texture, seen, supersample)
    lens = torch.cat([k[:, :2] * supersample, k[:, 2:]], 1)
    points = move(lift(depth, lens).flatten(1, 2), pose)  # [B, P, 3]
    out = _splat(points, texture, seen, k, size, softness)
    image, z, weight = out[:, :-2], out[:, -2], out[:, -1]
    found = Rendering(image, z, weight / supersample**2)
    return Rendering(*(v[0] for v in found)) if arrays.single else found


def _finer(
    depth: Tensor, texture: Tensor, seen: Tensor, times: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The maps at `times` the resolution: [B, tH, tW], [B, P, C], bool [B, P] with P = t^2 H W."""
    share = seen.unsqueeze(1).to(depth.dtype)
    maps = torch.cat([depth.unsqueeze(1), texture], 1)
    maps = torch.cat([torch.where(seen.unsqueeze(1), maps, 0), share], 1)
    maps = _stretch(_stretch(maps, times, 2), times, 3)
    # Beside pixels that show nothing, the mean of those that do; the outline stays where it was.
    share = maps[:, -1:]
    inside = share >= 0.5
    maps = torch.where(inside, maps[:, :-1] / torch.where(inside, share, 1), 0)
    return maps[:, 0], maps[:, 1:].flatten(2).mT, inside.flatten(1)


def _stretch(maps: Tensor, times: int, axis: int) -> Tensor:
    """Linear interpolation at `times` samples per pixel, evenly spaced; constant at the ends.

    As sums of slices, whose gradient is deterministic, where interpolate's is not on CUDA.
    """
    size = maps.shape[axis]
    first, last = maps.narrow(axis, 0, 1), maps.narrow(axis, size - 1, 1)
    wide = torch.cat([first, maps, last], axis)
    samples = []
    for i in range(times):
        place = (i + 0.5) / times + 0.5  # from the centre of the pixel before
        start, share = int(place), place % 1
        before, after = wide.narrow(axis, start, size), wide.narrow(axis, min(start + 1, 2), size)
        samples.append((1 - share) * before + share * after)
    return torch.stack(samples, axis + 1).flatten(axis, axis + 1)


def _splat(
    points: Tensor, texture: Tensor, seen: Tensor, k: Tensor, size: tuple[int, int], softness: float
) -> Tensor:
    """Spread points [B, P, 3] with texture [B, P, C] over pixels: [B, C + 2, H, W].

    The last two channels are the depth and the sum of the bilinear weights.
    """
    (height, width), batch = size, points.shape[0]
    z = points[..., 2]
    seen = seen & (z > 0)
    z = torch.where(seen, z, 1)
    x, y = (points[..., i] / z for i in (0, 1))
    fx, skew, cx, fy, cy = (k[:, i, j, None] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
    # From the corner of the image to the centre of its first pixel: half a pixel.
    u, v = fx * x + skew * y + cx - 0.5, fy * y + cy - 0.5
    left, top = u.detach().floor(), v.detach().floor()
    # What lies far outside must not overflow as an index.
    seen = seen & (left >= -1) & (left < width) & (top >= -1) & (top < height)
    column, row = (torch.where(seen, t, 0).long() for t in (left, top))
    first = torch.arange(batch, device=z.device).unsqueeze(1) * (height * width)
    spare = batch * height * width  # takes what falls on no pixel
    targets, weights = [], []
    for down in (0, 1):
        for right in (0, 1):
            r, c = row + down, column + right
            hit = seen & (r >= 0) & (r < height) & (c >= 0) & (c < width)
            targets.append(torch.where(hit, first + r * width + c, spare).flatten())
            share = (1 - (u - left - right).abs()) * (1 - (v - top - down).abs())
            weights.append(torch.where(hit, share, 0))
    # The weights' logarithms, from which each pixel's largest is taken off: none under- or
    # overflows, and the largest is 1.
    logits, peak = [], z.new_full((spare + 1,), -torch.inf)
    for target, share in zip(targets, weights, strict=True):
        logits.append(torch.where(share > 0, share, 1).log() - z.log() / softness)
        there = torch.where(share > 0, logits[-1].detach(), -torch.inf)
        peak = peak.scatter_reduce(0, target, there.flatten(), "amax")
    peak = torch.where(peak.isinf(), 0, peak)  # pixels that nothing falls on
    values = torch.cat([texture, z.unsqueeze(-1), torch.ones_like(z).unsqueeze(-1)], -1)
    total = values.new_zeros(spare + 1, values.shape[-1] + 1)
    for target, share, logit in zip(targets, weights, logits, strict=True):
        below = torch.where(share > 0, logit - peak[target].view_as(z), 0)
        near = torch.where(share > 0, below.exp(), 0)
        rows = torch.cat([near.unsqueeze(-1) * values, share.unsqueeze(-1)], -1)
        total = total.index_add(0, target, rows.flatten(0, 1))
    total = total[:spare].unflatten(0, (batch, height, width))
    weight, coverage = total[..., -2:-1], total[..., -1:]
    mean = total[..., :-2] / torch.where(weight > 0, weight, 1)
    mean = mean * (coverage / _LEAST).clamp_max(1)
    return torch.cat([mean, coverage], -1).movedim(-1, 1)
