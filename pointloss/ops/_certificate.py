# SPDX-License-Identifier: MIT
"""A warning where a loss's matching missed its certificate. Nothing waits for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops import _function

# One pinned bool for each device. Never freed: a queued kernel may still write to it.
_of_device: dict[torch.device, Tensor] = {}


def flag(device: torch.device) -> Tensor | None:
    """A bool on the CPU for `matched_distance`, which sets it where a matching missed.

    On CUDA it lies in pinned memory and is set when the GPU gets there. None where there is no
    number to look at: in torch.compile, in torch.func, under another tracer, on the meta device,
    and while a CUDA graph is captured.
    """
    if not _function.is_eager() or device.type == "meta":
        return None
    if device.type == "cpu":
        return torch.zeros((), dtype=torch.bool, device="cpu")
    if torch.cuda.is_current_stream_capturing():
        return None
    missed = _of_device.get(device)
    if missed is None:
        with torch.inference_mode(False):
            missed = torch.zeros((), dtype=torch.bool, device="cpu", pin_memory=True)
        missed = _of_device.setdefault(device, missed)  # another thread may have been first
    return missed


def watch(op: str, missed: Tensor | None) -> None:
    """Warn if a `flag` is set: on CUDA by an earlier call."""
    if missed is None or not missed.item():
        return
    missed.fill_(False)
    earlier = any(missed is of_device for of_device in _of_device.values())
    call = " of an earlier call" if earlier else ""
    _checks.warn(
        f"{op}: a matching{call} is not certified to rtol; its value may lie further above the "
        "optimum. emd(..., return_assignment=True) tells of which cloud, and its gap",
        RuntimeWarning,
    )
