# SPDX-License-Identifier: MIT
"""The rows of a cache of prices and matchings: a batch's start, and what its matchings leave."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pointloss.ops.assign import Assignment


def read(
    prices: Tensor, partners: Tensor, ids: Tensor, n: int, points: int
) -> tuple[Tensor, Tensor]:
    """A warm start for `assign` from the cache; that of an empty cache for an id out of range.

    Args:
        prices: float32 [samples, room], the cached prices.
        partners: int32 [samples, room], the cached matchings.
        ids: int64 [B], rows of the cache.
        n: points of x.
        points: of the larger cloud, at most `room`.

    Returns:
        price float64 [B, points] and idx int64 [B, n].

    Example:
        >>> prices, partners = torch.zeros(5, 4), torch.full((5, 4), -1, dtype=torch.int32)
        >>> price, idx = read(prices, partners, torch.tensor([3, 0]), n=2, points=4)
        >>> price.shape, idx.tolist()
        (torch.Size([2, 4]), [[-1, -1], [-1, -1]])
    """
    start = torch.ops.pointloss.price_cache_read.default(prices, partners, ids, n, points)
    return cast("tuple[Tensor, Tensor]", start)


def write(prices: Tensor, partners: Tensor, age: Tensor, ids: Tensor, found: Assignment) -> Tensor:
    """Put prices and matchings into the cache; of clouds with one id the batch's last stays.

    `age`, int64 [samples], counts up, and from 0 again for the rows that are written. An id out of
    range writes nothing. Returns the cost, NaN where the id was out of range.
    """
    cost = torch.ops.pointloss.price_cache_write.default(
        prices, partners, age, ids, found.price, found.idx, found.cost
    )
    return cast("Tensor", cost)


def _read_fake(
    _prices: Tensor, _partners: Tensor, ids: Tensor, n: int, points: int
) -> tuple[Tensor, Tensor]:
    batch = ids.shape[0]
    return (
        ids.new_empty((batch, points), dtype=torch.float64),
        ids.new_empty((batch, n), dtype=torch.int64),
    )


def _write_fake(*args: Any) -> Tensor:
    return torch.empty_like(args[-1])


torch.library.register_fake("pointloss::price_cache_read", _read_fake)
torch.library.register_fake("pointloss::price_cache_write", _write_fake)
