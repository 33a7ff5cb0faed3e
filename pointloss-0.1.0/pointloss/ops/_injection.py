# SPDX-License-Identifier: MIT
"""Gathers by an injection, and the order in which the points of a masked cloud come first."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pointloss.ops import _function


def inverse(idx: Tensor, size: int) -> Tensor:
    """The inverse of an injection [B, N] into range(size): [B, size], -1 where nothing maps."""
    batch, n = idx.shape
    # Unmatched entries go to one spare column, which is cut off again.
    found = idx.new_full((batch, size + 1), -1)
    position = torch.arange(n, device=idx.device).expand(batch, n)
    return found.scatter(1, torch.where(idx >= 0, idx, size), position)[:, :size]


def gather(values: Tensor, idx: Tensor, inverse: Tensor) -> Tensor:
    """values[b, idx[b, i]] of values [B, M, D], 0 where idx is -1; idx [B, N] is an injection."""
    return cast("Tensor", _function.call(_Gather, values, idx, inverse))


class _Gather(torch.autograd.Function):
    """The adjoint of a gather by an injection is the gather by its inverse.

    So there are no atomics, the same bits come every time, and its derivative of every order is its
    own.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, idx: Tensor, inverse: Tensor) -> Tensor:
        if values.shape[1] == 0:
            return values.new_zeros((values.shape[0], idx.shape[1], values.shape[2]))
        found = (idx >= 0).unsqueeze(-1)
        column = idx.clamp_min(0).unsqueeze(-1).expand(-1, -1, values.shape[2])
        return torch.where(found, values.gather(1, column), 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        idx, inverse = ctx.saved_tensors
        return gather(grad, inverse, idx), None, None


class Order(NamedTuple):
    """A permutation of the rows of each cloud that brings the points of a mask to the front."""

    rows: Tensor  # int64 [B, N], the row as given of the point that now stands here
    places: Tensor  # its inverse: where the point of this row now stands

    @staticmethod
    def of(mask: Tensor) -> Order:
        """The order of a mask [B, N]; the points on either side of it keep their sequence."""
        behind = mask.sum(1, keepdim=True) + (~mask).cumsum(1)
        places = torch.where(mask, mask.cumsum(1), behind) - 1
        return Order(inverse(places, mask.shape[1]), places)

    def apply(self, values: Tensor) -> Tensor:
        """Values [B, N, ...] of the points as given, in this order."""
        return _permute(values, self.rows, self.places)

    def undo(self, values: Tensor) -> Tensor:
        """Values [B, N, ...] in this order, as the points were given."""
        return _permute(values, self.places, self.rows)

    def name(self, idx: Tensor) -> Tensor:
        """Indices [B, ...] into points in this order as rows as given; -1 stays."""
        return _look_up(self.rows, idx)

    def find(self, idx: Tensor) -> Tensor:
        """Indices [B, ...] of rows as given as places in this order; what is none becomes -1."""
        known = (idx >= 0) & (idx < self.places.shape[1])
        return _look_up(self.places, torch.where(known, idx, -1))


def _permute(values: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    # Not reshape(B, N, -1), which cannot tell the last size of no numbers.
    flat = values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    if values.is_floating_point():
        return gather(flat, rows, places).view(values.shape)
    return flat.gather(1, rows.unsqueeze(-1).expand_as(flat)).view(values.shape)


def _look_up(table: Tensor, idx: Tensor) -> Tensor:
    found = table.gather(1, idx.clamp_min(0).flatten(1)).view_as(idx)
    return torch.where(idx >= 0, found, -1)
