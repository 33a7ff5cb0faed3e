# SPDX-License-Identifier: MIT
"""A step of a training loop as one CUDA graph, which starts its small kernels at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.step import WARM_UP


class Replayed:
    """Does `compute` when it is called: on CUDA first as Python runs it, then as a graph.

    Args:
        compute: changes tensors in place and gives numbers; no argument of it changes from call to
            call, and nothing in it waits for the GPU. Random numbers are the device's.
        optimisers: those whose step is part of it; with capturable=True on CUDA.
        device: of all its tensors.
        graph: False: as Python runs it, always.
    """

    def __init__(
        self,
        compute: Callable[[], Tensor],
        optimisers: Sequence[torch.optim.Optimizer],
        device: str,
        graph: bool,
    ):
        self.compute, self.optimisers = compute, optimisers
        self.device = torch.device(device)
        self.captures = graph and self.device.type == "cuda"
        self.runs, self.graph = 0, torch.cuda.CUDAGraph() if self.captures else None
        self.numbers = torch.empty(0)  # the graph's result

    def __call__(self) -> Tensor:
        if self.graph is None:
            return self.compute()
        self.runs += 1
        if self.runs <= WARM_UP:
            return self._aside()
        if self.runs == WARM_UP + 1:
            self._capture(self.graph)
        self.graph.replay()
        return self.numbers.clone()

    def _aside(self) -> Tensor:
        """A step on a stream of its own, as torch asks for before a capture."""
        aside, main = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            numbers = self.compute()
        main.wait_stream(aside)
        return numbers

    def _capture(self, graph: torch.cuda.CUDAGraph) -> None:
        for optimiser in self.optimisers:  # gradients have to lie in the graph's own memory
            optimiser.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.numbers = self.compute()
