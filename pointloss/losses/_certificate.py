# SPDX-License-Identifier: MIT
"""A warning where a loss's matching missed its certificate. Nothing waits for the GPU."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops import _function
from pointloss.ops.assign import Assignment

# CUDA calls that nobody has looked at yet, oldest first: the costs of the clouds that missed, NaN
# for the others, on their way to the CPU, and the event after that copy.
_under_way: deque[tuple[torch.cuda.Event, Tensor]] = deque()


def watch(op: str, found: Assignment) -> None:
    """Warn if a cloud that could be judged has not converged; on CUDA in a later call.

    Does nothing where there is no number to look at: in torch.compile, in torch.func, under
    another tracer, on the meta device, and while a CUDA graph is captured.
    """
    device = found.converged.device
    if not _function.is_eager() or device.type == "meta":
        return
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return
    # One copy; what else there is to do happens on the CPU, in plain Python: it is the faster.
    missed = torch.where(found.converged, torch.nan, found.cost)
    if device.type == "cuda":
        arrived, call = _exchange(missed), " of an earlier call"
    else:
        arrived, call = missed.tolist(), ""
    if any(cost < torch.inf for cost in arrived):  # costs of NaN and inf show in the loss
        _checks.warn(
            f"{op}: a matching{call} is not certified to rtol; its value may lie further above the "
            "optimum. emd(..., return_assignment=True) tells of which cloud, and its gap",
            RuntimeWarning,
        )


def _exchange(missed: Tensor) -> list[float]:
    """Send a CUDA call's `missed` on its way; returns those that have arrived."""
    arrived: list[float] = []
    while _under_way:
        # Taken before it is looked at: threads may share the queue.
        event, copy = _under_way.popleft()
        if not event.query():
            _under_way.appendleft((event, copy))
            break
        arrived += copy.tolist()
    event, copy = torch.cuda.Event(), missed.to("cpu", non_blocking=True)
    event.record(torch.cuda.current_stream(missed.device))
    _under_way.append((event, copy))
    return arrived
