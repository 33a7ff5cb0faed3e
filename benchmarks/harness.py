# SPDX-License-Identifier: MIT
"""How every benchmark measures: verify first, then medians, by CUDA events on a GPU.

A GPU measurement queues a short wait before the start event, so that the op's launches are already
queued when the clock starts: what is timed is the op on the device, not Python in front of it.
`eager=True` leaves the wait out and so times what a user sees who calls the op on an idle GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Long enough to cover the launches of one call (about 20 launches of 5 us), in clock ticks.
_QUEUE_AHEAD = 400_000
# Repetitions beyond this many seconds, and as many of warm-up, teach nothing more.
_PATIENCE_S = 1.0


class _EventTime:
    """A moment on the GPU's clock; the difference of two is seconds, and waits for both."""

    def __init__(self) -> None:
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, start: _EventTime) -> float:
        self.event.synchronize()
        return start.event.elapsed_time(self.event) * 1e-3


def timer() -> Any:
    """The timer for pytest-benchmark: GPU events where there is a GPU, else the wall clock."""
    return _EventTime() if torch.cuda.is_available() else time.perf_counter()


def measure(
    benchmark: Any,
    call: Callable[[], Any],
    *,
    rounds: int = 30,
    warmup: int = 3,
    eager: bool = False,
) -> tuple[float, Any]:
    """Time `call` through pytest-benchmark: the median in seconds, and what it last returned.

    A slow call runs in fewer rounds than asked for; without warm-up in as many.
    """

    def prepare() -> None:
        _wait()
        if torch.cuda.is_available() and not eager:
            torch.cuda._sleep(_QUEUE_AHEAD)

    spent, fastest = 0.0, 0.0
    while warmup > 0 and spent < _PATIENCE_S:
        warmup -= 1
        _wait()
        start = time.perf_counter()
        call()
        _wait()
        took = time.perf_counter() - start
        spent, fastest = spent + took, min(fastest or took, took)
    rounds = max(1, min(rounds, int(_PATIENCE_S / fastest))) if fastest else rounds
    result = benchmark.pedantic(call, setup=prepare, rounds=rounds, iterations=1)
    return float(benchmark.stats.stats.median), result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def training_step(
    loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> Callable[[], None]:
    """Forward and backward of a loss to both inputs, which need gradients."""

    def step() -> None:
        x.grad = y.grad = None
        loss(x, y).backward()

    return step


def device() -> torch.device:
    """The device that benchmarks run on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peak_bytes(call: Callable[[], Any]) -> int | None:
    """Device memory that a call needs beyond what is allocated before it; None on the CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def paired_cpu_seconds(
    ours: Callable[[], Any], theirs: Callable[[], Any], *, rounds: int = 5
) -> tuple[float, float]:
    """Median wall time of two CPU functions, run in turns so that a busy machine hits both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, seconds in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return tuple(sorted(s)[len(s) // 2] for s in times)  # type: ignore[return-value]
