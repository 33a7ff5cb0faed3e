# SPDX-License-Identifier: MIT
"""What models.train and models.evaluate ask of a kind of problem."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from models.config import Config, ConfigError, Evaluate


class Batches(Protocol):
    """The training batches of this process."""

    def __len__(self) -> int:
        """Steps of an epoch."""

    def begin(self, epoch: int) -> None:
        """Name the epoch that the next iteration gives; its random numbers come from there."""

    def __iter__(self) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """For each step the numbers [B] of its samples on the CPU, [0] if they have none, and the
        tensors on the device that `Task.draw` is given. Shapes are those of the first step, so that
        a step may be a CUDA graph.
        """

    def name(self, sample: int) -> str:
        """A sample as people find it, for the message about a loss that is not finite."""


class Task(ABC):
    """One kind of problem: its batches, its loss, its validation and its evaluation.

    It is made from a config and a device, opens nothing before it is asked, and holds no weights.
    `network` below is one that `build` has made, and `model` is the same or its wrapper for several
    processes. `draw`, `forward` and `loss` are what a training step does of its own: nothing in
    them may wait for the GPU, or copy to it.
    """

    section: ClassVar[str] = "loss"  # of the config: it has the weight w_<term> of each term
    unit: ClassVar[str] = "images"  # what a batch holds so many of
    # Entries of `validate` whose sum says which epoch is the best; less is better.
    chooses: ClassVar[tuple[str, ...]]
    # Entries of `initialise`, which every checkpoint holds.
    keeps: ClassVar[tuple[str, ...]] = ()
    # Arguments of models.evaluate that `evaluate` takes besides state, out and commit.
    options: ClassVar[frozenset[str]] = frozenset()
    # Settings of the config's [evaluate] that `evaluate` follows.
    follows: ClassVar[frozenset[str]] = frozenset(
        {"split", "checkpoint", "views", "batch_size", "baselines"}
    )

    def __init__(self, config: Config, device: str):
        self.config, self.device = config, device

    def refuse_unfollowed(self, usual: Evaluate, flags: Collection[str] = ()) -> None:
        """Raise ConfigError for a setting of [evaluate] that `evaluate` would not follow.

        That is one which is not as in `usual`, or whose name is among the `flags` of the command.
        """
        before, asked = asdict(usual), asdict(self.config.evaluate)
        for key in sorted({k for k in asked if asked[k] != before[k] or k in flags} - self.follows):
            name = f"--{key}" if key in flags else f"evaluate.{key}"
            raise ConfigError(f"{name}: {self.config.network.name} has no use for it")

    @abstractmethod
    def check(self) -> str:
        """Look for what would go wrong after hours of training; a few words on the network's cost.

        Raises:
            ValueError: a setting or a file that does not fit; the message is one line for people.
        """

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with fresh weights, on the CPU."""

    @abstractmethod
    def batches(self) -> Batches:
        """The training batches; the data is opened here."""

    @abstractmethod
    def objective(self, network: nn.Module) -> nn.Module:
        """What the loss keeps from step to step, in buffers of its state dict; checks the weights.

        Raises:
            ConfigError: a term whose weight is not 0 needs what network or data do not have.
        """

    def initialise(self, network: nn.Module) -> dict[str, Tensor]:
        """Give a fresh network the weights that come from elsewhere; what `keeps` names."""
        return {}

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that `loss` gives beside "loss": those whose weight is not 0."""
        weights = asdict(getattr(self.config, self.section)).items()
        return tuple(key[2:] for key, value in weights if key.startswith("w_") and value)

    @abstractmethod
    def draw(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """A step's batch of the tensors of `Batches`: varied, drawn, generated."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Any) -> Any:
        """The network's output, a tuple whose first field is the prediction; under autocast."""

    @abstractmethod
    def loss(self, objective: nn.Module, out: Any, batch: Any) -> dict[str, Tensor]:
        """ "loss", the weighted sum, and then every one of `terms`, unweighted; scalars."""

    def end_epoch(self, objective: nn.Module) -> None:  # noqa: B027 - most have nothing to do
        """Share among the processes what `objective` keeps."""

    @abstractmethod
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Numbers of the held-out split, named val_*; the same whatever the training loss.

        Empty without held-out data: then no epoch is the best.
        """

    @abstractmethod
    def evaluate(
        self, state: dict[str, Any] | None, out: Path, commit: str | None = None, **options: Any
    ) -> str:
        """Score a checkpoint's network and every baseline on the same test items.

        Writes results.md, results.csv, results.json, with the error of each item, and pictures into
        `out`. `state` is None only if an option says what is scored in its place.

        Returns:
            The tables in Markdown.
        """
