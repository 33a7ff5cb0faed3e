# SPDX-License-Identifier: MIT
"""A call on a stream of its own, and as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def aside(call: Callable[[], Result]) -> Result:
    """What `call` returns when it runs on another stream than the current one."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = call()
    torch.cuda.current_stream().wait_stream(stream)
    return result


def capture(call: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """`call` as one CUDA graph: what it returned while captured, and what replays it.

    Whatever `call` reads must stay where it is. A step clears its gradients itself, so that those
    that it leaves are the graph's.
    """
    for _ in range(3):  # warm up off the current stream, as torch asks for before a capture
        aside(call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return result, graph.replay
