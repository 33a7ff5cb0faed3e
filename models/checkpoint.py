# SPDX-License-Identifier: MIT
"""Checkpoints: plain data and tensors, written whole or not at all, read without running code."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import files
from models.config import Config

NAME, BEST = "checkpoint.pt", "best.pt"
FORMAT = 2
# What models.train writes, beside what the task keeps: enough to be scored into best.pt, all of it
# into checkpoint.pt. "network" has the weights to use, averaged over the steps; "trained" those of
# the last step.
SCORED = {"config", "network", "history"}
PARTS = SCORED | {"trained", "averaged", "optimiser", "objective", "seconds"}


class CheckpointError(ValueError):
    """A checkpoint that is missing or not ours; the message is one line for people."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `path` whole, or raise CheckpointError and leave the old one as it was."""
    try:
        with files.replacing(path) as file:
            torch.save({"format": FORMAT, **state}, file)
    except (OSError, RuntimeError) as error:  # torch has RuntimeError for a disk that is full
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        kept = "; the last one that was written is as it was" if path.is_file() else ""
        raise CheckpointError(f"{path}: not written: {reason}{kept}") from None


def read(path: Path, device: str | torch.device = "cpu") -> Any:
    """What torch.save wrote into `path`, by weights_only: a stranger's file cannot run code.

    torch does not look at the checksums in the file, so they are compared first: a bit that the
    disk or the network has turned is an error and no other weight.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        # Files of torch 1.5 and before are no archives and have no checksums.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise CheckpointError(f"{path}: damaged: the checksum of {damaged} is wrong")
        return torch.load(path, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a broken file makes the readers raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: not readable: {reason}") from None


def load(
    path: Path, device: str | torch.device = "cpu", parts: Iterable[str] = ()
) -> dict[str, Any]:
    """Read a checkpoint of models.train that has `parts`."""
    state = read(path, device)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of models.train (format {FORMAT})")
    require(state, path, parts)
    return state


def require(state: dict[str, Any], path: Path, parts: Iterable[str]) -> None:
    """Raise CheckpointError if `state`, read from `path`, lacks one of `parts`."""
    if missing := set(parts) - state.keys():
        raise CheckpointError(f"{path}: parts are missing: {', '.join(sorted(missing))}")


def restore(module: nn.Module, state: dict[str, Any], part: str) -> None:
    """Load `part` of a checkpoint into a module that the config has built."""
    try:
        module.load_state_dict(state[part])
    except KeyError:
        raise CheckpointError(f"the checkpoint has no part {part!r}") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{part} of the checkpoint does not fit the config: {reason}"
        ) from None


def choose(run: str | Path, which: str = "best") -> Path:
    """The file of a run folder: its "best" epoch on the validation split, or the "last" one.

    A file stands for itself. A run that has not finished an epoch has no best one yet.
    """
    run = Path(run)
    path = run if run.is_file() else run / (BEST if which == "best" else NAME)
    if which == "best" and not path.is_file():
        path = run / NAME
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    return path


def newest(runs: Path) -> Path:
    """The run folder in `runs` whose checkpoint was written last."""
    found = sorted(runs.glob(f"*/{NAME}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CheckpointError(f"{runs}: no run with a {NAME} to resume")
    return found[-1].parent


def describe(state: dict[str, Any], config: Config) -> list[str]:
    """Sentences: which weights `config` scores, and what their score does not mean."""
    chosen, data, split = state.get("chosen_on"), state["config"]["data"], config.evaluate.split
    why = f"the best on split {chosen!r}" if chosen else "its last"
    notes = [f"Weights after epoch {len(state['history'])} of the run, {why}."]
    if data["root"] != config.data.root:
        return notes
    if data.get("fold", -1) != config.data.fold:
        notes.append("WARNING: trained on another fold, so these objects may be trained on.")
    elif split == data["train_split"]:
        notes.append("WARNING: trained on this very split.")
    elif split == chosen:
        notes.append("WARNING: the best epoch was chosen on this very split.")
    return notes
