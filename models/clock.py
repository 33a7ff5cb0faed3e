# SPDX-License-Identifier: MIT
"""Where the time of the training steps goes, measured without holding up the GPU."""

import time
from typing import Any

import torch
from torch import Tensor


class StepClock:
    """Marks moments on the device's own time line and adds up what lies between them.

    On CUDA a mark is an event in the stream, read only when `drain` is called, so no step waits.
    The time between the end of a step and the next "begin" is the device idle because there was no
    batch. The share of the losses is their forward pass and their part of the backward pass: from
    its start until the gradient of the points is there.

    A mark inside a CUDA graph is made again by every replay. So only the last replay before a
    `drain` can be read, and the share of the losses is that of those steps.
    """

    def __init__(self, device: str):
        self.cuda = device.startswith("cuda")
        self.replayed: dict[str, Any] = {}  # the marks inside the graph
        self.restart()

    def restart(self) -> None:
        """Forget what was measured, as at the start of an epoch."""
        self.steps: list[dict[str, Any]] = []  # a moment is an event on CUDA, else seconds
        self.seconds = {"wait": 0.0, "loss": 0.0, "step": 0.0, "parted": 0.0}
        self.count = 0
        self.previous: Any = None
        self.marks: dict[str, Any] = {}

    def mark(self, name: str) -> None:
        """Names of a step in order: begin, loss, backward, gradient (from `watch`), end."""
        if not self.cuda:
            self.marks[name] = time.perf_counter()
        elif torch.cuda.is_current_stream_capturing():
            self.replayed[name] = torch.cuda.Event(enable_timing=True, external=True)
            self.replayed[name].record()
        else:
            self.marks[name] = torch.cuda.Event(enable_timing=True)
            self.marks[name].record()
        if name == "end":
            self.steps.append(self.marks)
            self.marks = {}

    def watch(self, points: Tensor) -> None:
        """Mark "gradient" when the gradient of the network's output is complete."""
        if points.requires_grad:
            points.register_hook(lambda _: self.mark("gradient"))

    def _between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second) / 1000 if self.cuda else second - first)

    def drain(self) -> None:
        """Add up the marks so far; on CUDA it waits for the last one."""
        if self.cuda and self.steps:
            self.steps[-1]["end"].synchronize()
            self.steps[-1] = self.replayed | self.steps[-1]
        for marks in self.steps:
            if self.previous is not None:
                step = self._between(self.previous, marks["end"])
                self.seconds["wait"] += self._between(self.previous, marks["begin"])
                self.seconds["step"] += step
                self.count += 1
                if "loss" in marks:
                    self.seconds["parted"] += step
                    self.seconds["loss"] += self._between(marks["loss"], marks["backward"])
                    if "gradient" in marks:
                        self.seconds["loss"] += self._between(marks["backward"], marks["gradient"])
            self.previous = marks["end"]
        self.steps = []

    def summary(self) -> dict[str, float]:
        """Of the steps, without the first: step_ms; loss_share and loader_share of that, 0..1."""
        nan = float("nan")
        return {
            "step_ms": 1000 * self.seconds["step"] / self.count if self.count else nan,
            "loss_share": self.seconds["loss"] / (self.seconds["parted"] or nan),
            "loader_share": self.seconds["wait"] / (self.seconds["step"] or nan),
        }
