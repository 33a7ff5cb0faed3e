# SPDX-License-Identifier: MIT
"""`emd` as a module that can keep prices and matchings between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from pointloss import _checks
from pointloss._reduce import check_reductions
from pointloss.ops import _certificate, _function, price_cache
from pointloss.ops.assign import as_given, assign_batched
from pointloss.ops.emd import reduction_of, value_of


class EMDLoss(nn.Module):
    """`emd` with its options fixed, as a module; it can keep prices per sample between steps.

    Prices and matching of the last epoch make a good start for the next: give
    `price_cache=(samples, points)` (the number of training samples, and the most points that a
    cloud has) and call with `ids`, the sample numbers [B]. The cache is two tensors of that shape,
    `price_cache` in float32 and `idx_cache` in int32, -1 for a point without partner. They move
    with the module and are saved in its state dict, but they are no buffers:
    DistributedDataParallel leaves each process its own, and `gather_price_cache` joins them.

    Example:
        >>> loss = EMDLoss(price_cache=(10, 5))
        >>> x = torch.rand(2, 5, 3)
        >>> loss(x, x, ids=torch.tensor([3, 7])).item()
        0.0
    """

    price_cache: Tensor | None
    idx_cache: Tensor | None

    def __init__(
        self,
        *,
        squared: bool = False,
        rtol: float = 1e-2,
        atol: float = 0.0,
        max_rounds: int | None = None,
        point_reduction: str = "mean",
        batch_reduction: str = "mean",
        price_cache: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        check_reductions("EMDLoss", point_reduction, batch_reduction, most=False)
        self.squared = squared
        self.rtol = rtol
        self.atol = atol
        self.max_rounds = max_rounds
        self.point_reduction = point_reduction
        self.batch_reduction = batch_reduction
        self.price_cache = self.idx_cache = None
        if price_cache is not None:
            _check_cache_size(price_cache)
            # float32 halves the memory; a rounded price is still a safe one.
            self.price_cache = torch.zeros(tuple(price_cache))
            self.idx_cache = torch.full(tuple(price_cache), -1, dtype=torch.int32)
            # Steps since this process wrote a row.
            self._age = torch.zeros(price_cache[0], dtype=torch.int64)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        *,
        x_lengths: Tensor | None = None,
        y_lengths: Tensor | None = None,
        x_mask: Tensor | None = None,
        y_mask: Tensor | None = None,
        cloud_weights: Tensor | None = None,
    ) -> Tensor:
        """See `emd`; ids, int [B], are the samples' rows in the price cache.

        Clouds may have fewer points than the cache. An id out of range raises ValueError on the
        CPU; on CUDA, where looking would wait for the GPU, and in torch.compile its loss is NaN.
        """
        valid = (x_lengths, y_lengths, x_mask, y_mask)
        c = _checks.clouds("EMDLoss", x, y, *valid, max_dim=None)
        prices, partners = self.price_cache, self.idx_cache
        price = idx = rows = None
        if (ids is None) != (prices is None):
            raise ValueError("EMDLoss: ids and price_cache go together; give both or neither")
        if ids is not None and prices is not None and partners is not None:
            rows = self._rows(ids, prices, c)
            n, most = c.x.shape[1], max(c.x.shape[1], c.y.shape[1])
            price, idx = price_cache.read(prices, partners, rows, n, most)
        reductions = self.point_reduction, self.batch_reduction
        how = reduction_of("EMDLoss", c, *reductions, cloud_weights)
        tolerances = self.rtol, self.atol
        found = assign_batched("EMDLoss", c, self.squared, *tolerances, price, idx, self.max_rounds)
        if rows is not None and prices is not None and partners is not None:
            cost = price_cache.write(prices, partners, self._age, rows, as_given(c, found))
            found = found._replace(cost=cost)
        missed = _certificate.flag(c.x.device) if self.max_rounds is None else None
        value = value_of(c, found, self.squared, how, missed)
        _certificate.watch("EMDLoss", missed)
        return value

    def _caches(self) -> dict[str, Tensor]:
        """The tensors of the cache by their names; none without a cache."""
        if self.price_cache is None or self.idx_cache is None:
            return {}
        return {"price_cache": self.price_cache, "idx_cache": self.idx_cache}

    @staticmethod
    def _rows(ids: Tensor, cache: Tensor, c: _checks.Clouds) -> Tensor:
        """Ids as int64 [B]; on CUDA and in torch.compile some may lie outside of the cache."""
        if not isinstance(ids, Tensor):
            raise TypeError(f"EMDLoss: ids must be a torch.Tensor, got {type(ids).__name__}")
        ids = _checks.in_shape("EMDLoss", "ids", ids, c.x.shape[:1], c.x, c.single, integer=True)
        if cache.device != c.x.device:
            raise ValueError(
                f"EMDLoss: price_cache is on {cache.device}, the clouds on {c.x.device}; "
                "move the module with .to(device)"
            )
        samples, room = cache.shape
        points = max(c.x.shape[1], c.y.shape[1])
        if points > room:
            raise ValueError(
                f"EMDLoss: price_cache=({samples}, {room}) has room for clouds of {room} points, "
                f"got {points}; make it price_cache=({samples}, {points})"
            )
        if ids.device.type == "cpu" and _function.is_eager():
            for row in ids.tolist():
                if not 0 <= row < samples:
                    raise ValueError(f"EMDLoss: ids must lie in 0..{samples - 1}, got {row}")
        return ids.to(torch.int64).contiguous()

    @torch.no_grad()
    def gather_price_cache(self, group: distributed.ProcessGroup | None = None) -> None:
        """Give every process of a distributed training the rows that the others have written.

        Each row comes from the process that wrote it last since the previous call, of several in
        one step from that of the lowest rank. All processes of `group` must call it: before the
        checkpoint is saved, and after each epoch where samples change their process. Does nothing
        without a price cache or without torch.distributed.
        """
        caches = self._caches()
        if not (caches and distributed.is_available() and distributed.is_initialized()):
            return
        order = self._age * distributed.get_world_size(group) + distributed.get_rank(group)
        first = order.clone()
        distributed.all_reduce(first, distributed.ReduceOp.MIN, group)
        for kept in caches.values():
            kept.masked_fill_((order != first).unsqueeze(1), 0)
            distributed.all_reduce(kept, group=group)
        self._age.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EMDLoss:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        caches = self._caches()
        for name, kept in caches.items():
            moved = fn(kept)  # to another device, but not to the module's dtype
            setattr(self, name, moved if moved.dtype == kept.dtype else kept.to(moved.device))
        if caches:
            self._age = fn(self._age)
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, kept in self._caches().items():
            destination[prefix + name] = kept

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name, kept in self._caches().items():
            key = prefix + name
            if key not in state_dict:
                missing_keys.append(key)
                continue
            saved = state_dict[key]
            if key in unexpected_keys:
                unexpected_keys.remove(key)
            if saved.shape != kept.shape:
                error_msgs.append(
                    f"size mismatch for {key}: {list(saved.shape)} in the state dict, "
                    f"{list(kept.shape)} in the module"
                )
            elif local_metadata.get("assign_to_params_buffers", False):
                setattr(self, name, saved.to(kept.dtype).contiguous())
            else:
                kept.copy_(saved)
            self._age.zero_()

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return (
            f"squared={self.squared}, rtol={self.rtol}, atol={self.atol}, "
            f"max_rounds={self.max_rounds}, "
            f"point_reduction={self.point_reduction!r}, batch_reduction={self.batch_reduction!r}"
        )


def _check_cache_size(size: tuple[int, int]) -> None:
    sized = isinstance(size, (tuple, list)) and len(size) == 2
    if not sized or not all(isinstance(v, int) and v > 0 for v in size):
        raise ValueError(
            f"EMDLoss: price_cache must be (samples, points), two whole numbers >= 1, got {size!r}"
        )
