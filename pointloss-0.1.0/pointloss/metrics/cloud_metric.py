# SPDX-License-Identifier: MIT
"""The mean of a measure over all clouds of an evaluation, also over several processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn


class _Sums(nn.Module):
    """What CloudMetric needs of torchmetrics.Metric, for where that is not installed."""

    def add_state(self, name: str, default: Tensor, dist_reduce_fx: str) -> None:
        """A tensor that is summed over the processes in `compute` and emptied by `reset`."""
        self.register_buffer(name, default, persistent=False)

    def reset(self) -> None:
        """Forget what was seen."""
        for state in self.buffers():
            state.zero_()


if TYPE_CHECKING:
    _Base = _Sums
else:
    try:
        from torchmetrics import Metric as _Base
    except ImportError:
        _Base = _Sums


class CloudMetric(_Base):
    """Mean over clouds of `chamfer`, `emd`, `f_score`, `hausdorff`, ... with three methods.

    `update(x, y)` takes a batch, `compute()` returns the mean over all clouds so far, `reset()`
    begins again. It is a torchmetrics.Metric if torchmetrics is installed, so that it can be logged
    and collected like one; else an nn.Module with the same three methods. Under torch.distributed
    `compute` adds up sums and counts of all processes, so batches and shares of any size are right;
    every process must call it, also one that has seen nothing.

    Args:
        measure: a function (x, y, **options) that returns one number per cloud, [B], or a tuple of
            such, [B] or [B, K]. A function with `batch_reduction` is called with "none".
        **options: its other arguments, fixed here. Lengths go to `update`.

    Returns:
        From `compute` what the measure returns, float64, with the mean in place of the batch axis.
        NaN before the first cloud. One cloud with inf or NaN shows in the mean.

    Sums are float64 and lie on the metric's own device (`.to("cuda")` moves them); to sum there
    clouds of the same device waits for no GPU.

    Raises:
        ValueError: the measure does not return one number per cloud.

    Determinism: as the measure; the order of batches changes the sum's last digits.

    Example:
        >>> from pointloss import f_score
        >>> metric = CloudMetric(f_score, radius=0.5)
        >>> metric.update(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3))
        >>> metric.update(torch.zeros(3, 4, 3), torch.ones(3, 4, 3))
        >>> metric.compute().f_score.item()
        0.25
    """

    full_state_update = False  # torchmetrics: a batch's own value needs no earlier state
    is_differentiable = False
    total: Tensor  # [columns], the sum over clouds of every number that the measure returns
    count: Tensor  # scalar, clouds

    def __init__(self, measure: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        if "batch_reduction" in inspect.signature(measure).parameters:
            options["batch_reduction"] = "none"
        self.measure, self.options = measure, options
        # How many numbers a cloud has, of a cloud that any measure can judge: states have fixed
        # shapes, so that a process without data can take part in the sum.
        columns = self._columns(self._measure(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)))
        self.add_state("total", torch.zeros(columns.shape[1], dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, x: Tensor, y: Tensor, **lengths: Tensor) -> None:
        """Add the clouds x [B, N, D] against y [B, M, D]."""
        values = self._columns(self._measure(x, y, **lengths))
        self.total = self.total + values.sum(0).to(self.total.device)
        self.count = self.count + len(values)

    def compute(self) -> Any:
        """The mean over all clouds of all processes; see the class."""
        sums = torch.cat([self.total, self.count.reshape(1)])
        if _Base is _Sums and distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(sums)
        mean = sums[:-1] / sums[-1]
        parts = [part.reshape(shape) for part, shape in
                 zip(mean.split(self._sizes), self._shapes, strict=True)]  # fmt: skip
        return parts[0] if self._kind is None else self._kind(*parts)

    @torch.no_grad()
    def _measure(self, x: Tensor, y: Tensor, **lengths: Tensor) -> Any:
        return self.measure(x, y, **self.options, **lengths)

    def _columns(self, found: Any) -> Tensor:
        """What the measure returned as [B, columns], float64; remembers how to go back."""
        parts = found if isinstance(found, tuple) else (found,)
        batch = parts[0].shape[0] if parts[0].dim() else -1
        if any(part.dim() == 0 or part.shape[0] != batch for part in parts):
            name = getattr(self.measure, "__name__", self.measure)
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            raise ValueError(
                f"CloudMetric: {name} must return one number per cloud, [B], got {shapes}; pass "
                f"clouds [B, N, D], and a function without a mean over the batch"
            )
        self._kind = type(found) if isinstance(found, tuple) else None
        self._shapes = [part.shape[1:] for part in parts]
        self._sizes = [shape.numel() for shape in self._shapes]
        return torch.cat([part.double().reshape(batch, -1) for part in parts], 1)
