# SPDX-License-Identifier: MIT
"""Clouds of different sizes as one tensor with lengths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pointloss import _checks
from pointloss.ops import _injection


class Padded(NamedTuple):
    """Clouds of different sizes in one tensor."""

    points: Tensor
    lengths: Tensor


Padded.points.__doc__ = "[B, N, D], each cloud at the beginning of its row, 0 after it."
Padded.lengths.__doc__ = "int64 [B], the points of each cloud."


def pad(
    clouds: Sequence[Tensor] | Tensor, offsets: Tensor | None = None, *, size: int | None = None
) -> Padded:
    """Clouds of different sizes, in a list or packed into one tensor, as every op takes them.

        x, n = pad([a, b, c])                     # a list of [N_i, D]
        y, m = pad(packed, offsets)               # one tensor [sum M_i, D]
        chamfer(x, y, x_lengths=n, y_lengths=m)

    A nested tensor is such a packed one: pad(nested.values(), nested.offsets()). What an op returns
    for each point is packed again by values[torch.arange(N) < lengths[:, None]].

    Args:
        clouds: B tensors [N_i, D] on one device, with dtypes that are promoted as torch promotes
            them; N_i may be 0. Or, with offsets, the points of all clouds, [sum N_i, D].
        offsets: int [B + 1], cloud i is clouds[offsets[i]:offsets[i + 1]].
        size: the points N to pad to; None is the longest cloud's, which for a packed tensor on
            CUDA waits for the GPU to tell. A list on CUDA waits in any case, for its lengths to
            be copied there.

    Returns:
        Padded(points [B, N, D], lengths [B]). points is differentiable. If a cloud does not fit
        into `size`, or offsets into the packed tensor, no error waits for the GPU: lengths lets
        every op answer NaN. So do those of all clouds if offsets fall anywhere.

    Raises:
        ValueError: shapes or devices do not fit; the list is empty.
        TypeError: what is given are no tensors, or offsets are no whole numbers.

    Determinism: deterministic, values and gradients.

    Example:
        >>> points, lengths = pad([torch.ones(2, 3), torch.ones(1, 3)])
        >>> points.shape, lengths.tolist()
        (torch.Size([2, 2, 3]), [2, 1])
        >>> pad(torch.ones(3, 3), torch.tensor([0, 2, 3])).points.equal(points)
        True
    """
    if size is not None and size < 0:
        raise ValueError(f"pad: size must be at least 0, got {size}")
    if offsets is not None:
        return _unpack(clouds, offsets, size)
    if isinstance(clouds, Tensor) or not isinstance(clouds, Sequence):
        raise TypeError(
            "pad: clouds must be a list of tensors [N, D], or one packed tensor with offsets, "
            f"got {type(clouds).__name__} without offsets"
        )
    if len(clouds) == 0:
        raise ValueError("pad: clouds must be at least one, got an empty list")
    for i, cloud in enumerate(clouds):
        _checks.tensor("pad", f"clouds[{i}]", cloud)
        first = clouds[0]
        if cloud.dim() != 2 or cloud.shape[1] != first.shape[-1]:
            wanted = "N, D" if i == 0 else f"N, {first.shape[1]}"
            raise ValueError(
                f"pad: clouds[{i}] must have shape [{wanted}], got {list(cloud.shape)}"
            )
        if cloud.device != first.device:
            raise ValueError(f"pad: clouds[{i}] must be on {first.device}, got {cloud.device}")
    dtype = reduce(torch.promote_types, (cloud.dtype for cloud in clouds))
    points = pad_sequence([cloud.to(dtype) for cloud in clouds], batch_first=True)
    if size is not None:
        points = torch.nn.functional.pad(points, (0, 0, 0, size - points.shape[1]))
    return Padded(points, torch.tensor([len(cloud) for cloud in clouds], device=points.device))


def _unpack(packed: Sequence[Tensor] | Tensor, offsets: Tensor, size: int | None) -> Padded:
    _checks.tensor("pad", "clouds", packed)
    assert isinstance(packed, Tensor)  # for mypy
    _checks.tensor("pad", "offsets", offsets)
    if packed.dim() != 2:
        raise ValueError(f"pad: clouds must have shape [sum N, D], got {list(packed.shape)}")
    if offsets.dim() != 1 or len(offsets) == 0:
        raise ValueError(f"pad: offsets must have shape [B + 1], got {list(offsets.shape)}")
    shape = (len(offsets),)
    offsets = _checks.in_shape("pad", "offsets", offsets, shape, packed, False, integer=True).long()
    total = len(packed)
    lengths = offsets.diff()
    # Where offsets fall, clouds overlap, and none is to be trusted.
    fits = (offsets[:-1] >= 0) & (offsets[1:] <= total) & (lengths >= 0).all()
    lengths = torch.where(fits, lengths, -1)
    if size is None:
        size = max(int(lengths.max()), 0) if len(lengths) else 0
    place = torch.arange(size, device=packed.device)
    rows = offsets[:-1, None] + place
    rows = torch.where((place < lengths[:, None]) & (rows >= 0) & (rows < total), rows, -1)
    rows = rows.reshape(1, -1)
    points = _injection.gather(packed.unsqueeze(0), rows, _injection.inverse(rows, total))
    return Padded(points.view(len(lengths), size, packed.shape[1]), lengths)
