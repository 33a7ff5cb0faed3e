# SPDX-License-Identifier: MIT
"""Where the time of the training steps goes, measured without holding up the GPU."""

import time
from typing import Any

import torch
from torch import Tensor


class StepClock:
    """Marks moments on the device's own time line and adds up what lies between them.

    On CUDA a mark is an event in the stream, read only when `drain` is called, so no step waits.
    The time between the end of a step and the next "begin" is the device idle because the loader
    had no batch. The share of the losses is their forward pass and their part of the backward pass:
    from its start until the gradient of the points is there.
    """

    def __init__(self, device: str):
        self.cuda = device.startswith("cuda")
        self.steps: list[dict[str, Any]] = []  # a moment is an event on CUDA, else seconds
        self.seconds = {"wait": 0.0, "loss": 0.0, "step": 0.0}
        self.previous: Any = None
        self.marks: dict[str, Any] = {}

    def mark(self, name: str) -> None:
        """Names of a step in order: begin, loss, backward, gradient (from `watch`), end."""
        if self.cuda:
            moment: Any = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = time.perf_counter()
        self.marks[name] = moment
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
        for marks in self.steps:
            if self.previous is not None:
                self.seconds["wait"] += self._between(self.previous, marks["begin"])
                self.seconds["step"] += self._between(self.previous, marks["end"])
                self.seconds["loss"] += self._between(marks["loss"], marks["backward"])
                if "gradient" in marks:
                    self.seconds["loss"] += self._between(marks["backward"], marks["gradient"])
            self.previous = marks["end"]
        self.steps = []

    def shares(self) -> dict[str, float]:
        """loss_share and loader_share of the steps' time, 0..1, without the first step."""
        whole = self.seconds["step"] or float("nan")
        return {
            "loss_share": self.seconds["loss"] / whole,
            "loader_share": self.seconds["wait"] / whole,
        }
