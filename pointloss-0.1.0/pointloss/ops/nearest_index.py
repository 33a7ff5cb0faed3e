# SPDX-License-Identifier: MIT
"""Nearest neighbours in clouds that are searched more than once."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops import _function
from pointloss.ops.nearest import (
    Nearest,
    check_neighbours,
    k_nearest_batched,
    nearest_batched,
    nearest_gradients,
)


class NearestIndex:
    """A spatial index of y, built once and queried often: `nearest` for a target that stays.

    On the CPU it keeps the tree of each cloud of y (D <= 8), on CUDA its points in the order of a
    space-filling curve and the boxes over them (float32, D = 3). Where there is no index to
    keep (other dimensions and types, norm 1 on CUDA, clouds of some hundred points; on CUDA also
    queries of up to 8192 points in as many, which are searched faster without), a query searches as
    `nearest` does. The results have the same bits in any case.

    Args:
        y: points [B, M, D] or [M, D] with dtypes and devices as for `nearest`. The index keeps a
            copy: what happens to y afterwards changes no answer.
        y_lengths: int [B], the valid points of each y; the rest is padding. Copied, too.
        y_mask: bool [B, M], the points of y that count, in place of y_lengths; the others may hold
            anything, NaN too. Copied, too.

    A copy of the index (copy, deepcopy, pickle, torch.save) answers as the index does; it is of the
    points alone, and no gradient reaches y through it.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Memory: about 70 bytes per point on CUDA, 32 on the CPU (float32, D = 3).

    Determinism: as `nearest`.

    Example:
        >>> index = NearestIndex(torch.tensor([[0.0, 0, 2], [0, 1, 0]]))
        >>> index.query(torch.zeros(1, 3)).idx.tolist()
        [1]
    """

    def __init__(
        self, y: Tensor, *, y_lengths: Tensor | None = None, y_mask: Tensor | None = None
    ) -> None:
        # Whatever mode the index is built in, it can be queried in every other.
        with torch.inference_mode(False), torch.enable_grad():
            c = _checks.clouds("NearestIndex", y, y, y_lengths=y_lengths, y_mask=y_mask)
            self._y_order = c.y_order
            self._y = y.clone(memory_format=torch.contiguous_format)
            self._y_lengths = None if c.y_lengths is None else c.y_lengths.clone()
            self._index = torch.ops.pointloss.nearest_index.default(c.y.detach(), c.y_lengths)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_y": self._y.detach()}

    def query(
        self,
        x: Tensor,
        *,
        x_lengths: Tensor | None = None,
        x_mask: Tensor | None = None,
        norm: int = 2,
        k: int | None = None,
    ) -> Nearest:
        """What `nearest(x, y)` returns, with the same bits.

        Args:
            x: points [B, N, D] or [N, D], of y's batch size and on its device. If x has the wider
                dtype, the query searches without the index.
            x_lengths: int [B], the valid points of each x; the rest is padding.
            x_mask: bool [B, N], the points of x that count, in place of x_lengths.
            norm: 2 (squared euclidean distance) or 1 (sum of absolute differences, not squared).
            k: how many neighbours of each point, 1 to 64; None is one, without an axis for it.

        Returns:
            Nearest(dist, idx), both [B, N] or, with k, [B, N, k] ([N], [N, k] for single clouds),
            see `nearest`. dist is differentiable with respect to x and to y, twice and more.

        Raises:
            ValueError: shapes, devices, norm or k do not fit.
            TypeError: dtypes do not fit, or k is not an integer.

        Determinism: as `nearest`.

        Example:
            >>> index = NearestIndex(torch.tensor([[0.0, 0, 2], [0, 1, 0]]))
            >>> index.query(torch.zeros(1, 3)).dist.tolist()
            [1.0]
        """
        _checks.choice("NearestIndex.query", "norm", norm, (1, 2))
        check_neighbours("NearestIndex.query", k)
        y, order = self._y, self._y_order
        if order is not None:  # in each query, because a backward pass frees what it needs
            y = order.apply(y.unsqueeze(0)).squeeze(0) if y.dim() == 2 else order.apply(y)
        c = _checks.clouds("NearestIndex.query", x, y, x_lengths, self._y_lengths, x_mask)
        c = c._replace(y_order=order)
        wider = c.y.dtype != torch.promote_types(self._y.dtype, torch.float32)  # x is
        if k is not None:
            dist, idx = k_nearest_batched(c, None if wider else self._index, norm, k)
        elif wider:
            dist, idx, _, _ = nearest_batched(c, norm, both=False)
        else:
            args = (c.x, c.x_lengths, c.y, c.y_lengths, self._index, norm)
            dist, idx = _function.call(_NearestQuery, *args)
        dist, idx = c.at_x(dist), c.at_x(c.into_y(idx))
        return Nearest(dist[0], idx[0]) if c.single else Nearest(dist, idx)


class _NearestQuery(torch.autograd.Function):
    """The op with its derivative, which is that of `nearest`."""

    @staticmethod
    def forward(
        x: Tensor,
        x_lengths: Tensor | None,
        y: Tensor,
        y_lengths: Tensor | None,
        index: Tensor,
        norm: int,
    ) -> tuple[Tensor, Tensor]:
        args = (x, x_lengths, y, y_lengths, index, norm)
        out = torch.ops.pointloss.nearest_query.default(*args)
        return cast("tuple[Tensor, Tensor]", out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, _, y, _, _, ctx.norm = inputs
        idx = output[1]
        ctx.mark_non_differentiable(idx)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, idx)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        x, y, idx = ctx.saved_tensors
        # Of the other direction there is nothing.
        grads = nearest_gradients(grad, None, x, y, idx, idx[:, :0], ctx.norm)
        return grads[0], None, grads[1], None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        x_lengths: Tensor | None,
        y: Tensor,
        y_lengths: Tensor | None,
        index: Tensor,
        norm: int,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # The index knows nothing of a mapped axis; the search without it gives the same bits.
        def search(
            x: Tensor, x_lengths: Tensor | None, y: Tensor, y_lengths: Tensor | None
        ) -> tuple[Tensor, ...]:
            clouds = _checks.Clouds(x, y, x_lengths, y_lengths, single=False)
            return nearest_batched(clouds, norm, both=False)[:2]

        mapped = torch.func.vmap(search, in_dims[:4], randomness="different")
        return mapped(x, x_lengths, y, y_lengths), (0, 0)


def _nearest_index_fake(y: Tensor, y_lengths: Tensor | None) -> Tensor:
    size = torch.library.get_ctx().new_dynamic_size()  # only the kernels know it
    return y.new_empty([size], dtype=torch.uint8)


def _nearest_query_fake(
    x: Tensor,
    x_lengths: Tensor | None,
    y: Tensor,
    y_lengths: Tensor | None,
    index: Tensor,
    norm: int,
) -> tuple[Tensor, Tensor]:
    rows = x.shape[:2]
    return x.new_empty(rows), x.new_empty(rows, dtype=torch.int64)


def _nearest_index_vmap(
    info: Any, in_dims: tuple[int | None, ...], y: Tensor, y_lengths: Tensor | None
) -> tuple[Tensor, None]:
    return y.new_empty(0, dtype=torch.uint8), None  # _NearestQuery.vmap does without


torch.library.register_fake("pointloss::nearest_index", _nearest_index_fake)
torch.library.register_fake("pointloss::nearest_query", _nearest_query_fake)
torch.library.register_vmap("pointloss::nearest_index", _nearest_index_vmap)
