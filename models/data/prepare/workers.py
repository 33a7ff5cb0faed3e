# SPDX-License-Identifier: MIT
"""One task an item on several processes, each item within bounds of time and memory."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

_BOUNDED = sys.platform != "win32"  # Windows has neither setrlimit nor timers


class Limits(NamedTuple):
    """What one object may take. Memory is bounded on Linux, time also on macOS."""

    seconds: float = 600
    memory_gb: float = 4
    file_mb: int = 64  # a mesh, a material file or a texture


def in_processes(
    task: Callable[..., Any], items: list[Any], jobs: int, limits: Limits, *arguments: Any
) -> Generator[tuple[Any, Any]]:
    """(item, task(item, *arguments)) in any order, on `jobs` processes.

    A process that dies takes the whole pool along without a word about whose fault it was. So what
    was still under way is done again, one process an item: the item that kills its process again
    gets a reason (str) for a result, and so does one that takes too long.
    """
    left = []
    pool = ProcessPoolExecutor(jobs, initializer=_bound_memory, initargs=(limits,))
    try:
        futures = {pool.submit(_timed, task, limits, item, *arguments): item for item in items}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                left.append(futures[future])
    finally:  # Ctrl-C must not wait for all that is still queued
        pool.shutdown(cancel_futures=True)
    for item in left:
        with ProcessPoolExecutor(1, initializer=_bound_memory, initargs=(limits,)) as pool:
            try:
                result = pool.submit(_timed, task, limits, item, *arguments).result()
            except BrokenProcessPool:
                result = "its process died (out of memory or time, or a fault in a reader)"
        yield item, result


def _bound_memory(limits: Limits) -> None:
    """Let this process allocate limits.memory_gb more than it has now."""
    if not _BOUNDED:
        return
    import resource

    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        used = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
    except (OSError, StopIteration):
        used = 0
    # Not the address space: every thread reserves 64 MB of it and uses little.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = used + int(limits.memory_gb * 2**30)
    resource.setrlimit(
        resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
    )


def _timed(task: Callable[..., Any], limits: Limits, item: Any, *arguments: Any) -> Any:
    """task(item, *arguments), or a reason (str) where it takes longer than limits.seconds."""
    if not _BOUNDED:
        return task(item, *arguments)
    import resource

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    # Again every second: a reader may catch everything and go on.
    signal.setitimer(signal.ITIMER_REAL, limits.seconds, 1)
    # Compiled code sees no exception: its process ends once it has used twice the time.
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    seconds = int(used.ru_utime + used.ru_stime + 2 * limits.seconds) + 1
    if hard == resource.RLIM_INFINITY or seconds < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    try:
        return task(item, *arguments)
    except TimeoutError:
        return f"took longer than {limits.seconds:g} s (--max-seconds)"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
