# SPDX-License-Identifier: MIT
"""One training step, as Python runs it or as one CUDA graph: the same arithmetic.

A step of these networks is some thousand small kernels, which a GPU finishes faster than Python
starts them. Captured once and replayed, they start at once.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from models import distributed
from models.average import Average, tensors
from models.clock import StepClock
from models.config import Config

if TYPE_CHECKING:  # a task may take steps of its own
    from models.tasks.base import Task

WARM_UP = 3  # steps before a capture, as torch asks for: libraries choose kernels and take memory


class Trained(NamedTuple):
    """What a step changes."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    objective: nn.Module  # what the loss keeps
    average: Average  # of the network's weights


def make_optimiser(network: nn.Module, config: Config, device: str) -> torch.optim.AdamW:
    """AdamW, with decay for matrices and filters; on CUDA its rate is a tensor, see set_rate."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.optim.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    cuda = device.startswith("cuda")
    lr = torch.tensor(config.optim.lr, device=device) if cuda else config.optim.lr
    return torch.optim.AdamW(groups, lr, fused=cuda, capturable=cuda)


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, object]) -> None:
    """Load a state dict; kernels and memory format are the device's, not the checkpoint's."""
    own = optimiser.param_groups
    kinds = [{key: group[key] for key in ("lr", "fused", "capturable")} for group in own]
    saved: list[dict[str, object]] = state["param_groups"]  # type: ignore[assignment]
    groups = [group | kind for group, kind in zip(saved, kinds, strict=True)]
    optimiser.load_state_dict(state | {"param_groups": groups})
    for weight, values in optimiser.state.items():
        for name, value in values.items():
            if value.shape == weight.shape:  # the fused kernel wants the weight's strides
                values[name] = torch.empty_like(weight).copy_(value)


def learning_rate(config: Config, epoch: float, per_epoch: int, seconds: float) -> float:
    """The rate at `epoch` (counted from 0, with its fraction), of `per_epoch` steps each.

    In the first optim.warmup steps it rises evenly. "step" multiplies by optim.step_factor every
    optim.step_epochs. "cosine" is half a cosine from optim.lr down to a hundredth of it. It follows
    the epochs or max_minutes, whichever is further on: on a machine that needs the time limit the
    rate still comes down before the end.
    """
    options = config.optim
    step = round(epoch * per_epoch)
    full = options.lr * min(1.0, (step + 1) / (options.warmup + 1))
    if options.schedule == "step":
        return full * options.step_factor ** (int(epoch) // options.step_epochs)
    limit = 60 * options.max_minutes
    over = max(epoch / options.epochs, seconds / limit if limit else 0.0)
    return full * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(over, 1.0))))


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next step."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)  # in place: a captured step reads it there
        else:
            group["lr"] = lr


class Step:
    """Does a step when it is called; nothing in it waits for the GPU.

    Args:
        trained: what a step changes.
        model: the network, or its wrapper for several processes.
        task: makes a batch of the tensors that a call is given, and a loss of the batch.

    On one GPU the first call captures the step, if optim.graph is set: some steps are done to warm
    up, then all that a step changes and the random numbers are put back. Tensors of later
    calls must have the shapes of the first call's. Random numbers are those of the step without a
    graph, and so are the results up to the order of sums (bit for bit with optim.deterministic).
    """

    def __init__(self, trained: Trained, model: nn.Module, task: "Task"):
        self.trained, self.model, self.task = trained, model, task
        self.options, self.device = task.config.optim, torch.device(task.device)
        self.clock = StepClock(task.device)
        cuda = self.device.type == "cuda"
        self.captures = cuda and self.options.graph and distributed.world() == 1
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()  # of the graph
        self.numbers = torch.empty(0)  # its result
        self.names = ("loss", *task.terms, "norm")

    def __call__(self, inputs: tuple[Tensor, ...], lr: float) -> Tensor:
        """One step at the rate `lr`.

        Returns what self.names names, float32 [K] on the device: the terms of the loss and the norm
        of its gradient, of the weights before the step.
        """
        set_rate(self.trained.optimiser, lr)
        if self.captures and self.graph is None:
            self._capture(inputs)
        self.clock.mark("begin")
        if self.graph is None:
            numbers = self._compute(inputs)
        else:
            for own, value in zip(self.inputs, inputs, strict=True):
                own.copy_(value)
            self.graph.replay()
            numbers = self.numbers.clone()
        self.clock.mark("end")
        return numbers

    def _compute(self, inputs: tuple[Tensor, ...]) -> Tensor:
        network, optimiser, objective, average = self.trained
        options, task = self.options, self.task
        batch = task.draw(network, inputs)
        # No weight is used twice, and what the cache holds would outlive a capture.
        bf16 = options.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            out = task.forward(self.model, batch)
        self.clock.mark("loss")
        terms = task.loss(objective, out, batch)
        self.clock.mark("backward")
        self.clock.watch(out[0])
        # Freed and not zeroed, so that a capture has its gradients in its own memory.
        optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        weights = list(network.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
        if options.grad_clip:
            nn.utils.clip_grads_with_norm_(weights, options.grad_clip, norm)
        optimiser.step()
        average.update(network)
        return torch.stack([*terms.values(), norm]).detach()

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(value.clone() for value in inputs)
        before = self._changed()
        kept = {key: value.clone() for key, value in before.items()}
        random = torch.cuda.get_rng_state(self.device)
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._compute(self.inputs)
        torch.cuda.current_stream(self.device).wait_stream(aside)
        self.trained.optimiser.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        # A thread of the loader may take pinned memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.numbers = self._compute(self.inputs)
        self.graph = graph
        for key, value in self._changed().items():
            # In place, where the graph reads it. What was not there yet starts at 0: Adam's state.
            value.copy_(kept[key]) if key in kept else value.zero_()
        torch.cuda.set_rng_state(random, self.device)
        self.clock.marks = {}

    @torch.no_grad()
    def _changed(self) -> dict[object, Tensor]:
        """Every tensor that a step changes and the next one reads, by a key of its own."""
        network, optimiser, objective, average = self.trained
        found: dict[object, Tensor] = {}
        for number, value in enumerate([*tensors(network), *tensors(average)]):
            found[number] = value.detach()
        for number, parameter in enumerate(network.parameters()):
            for name, value in optimiser.state.get(parameter, {}).items():
                found[number, name] = value
        found.update(objective.state_dict())  # also prices, which are no buffer
        return found
