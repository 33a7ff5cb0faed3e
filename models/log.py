# SPDX-License-Identifier: MIT
"""The numbers of the epochs: a line on the screen, a CSV file, TensorBoard."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from models import files
from models.config import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Row = dict[str, float]  # the numbers of an epoch


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], notes: Iterable[str] = ()) -> None:
    """The keys of the first row are the columns; `notes` stand above them, after a "#"."""
    text = io.StringIO(newline="")
    text.writelines(f"# {note}\n" for note in notes)
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def open_tensorboard(out: Path, epoch: int) -> "SummaryWriter":
    """A writer into the run folder that forgets what an interrupted run wrote after `epoch`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        cure = "pip install -e '.[tensorboard]' or pip install tensorboard, or set it to false"
        raise ConfigError(f"log.tensorboard: tensorboard is not installed; {cure}") from None
    return SummaryWriter(out / "tensorboard", purge_step=epoch + 1)


TIMES = ("step_ms", "loss_share", "loader_share", "minutes")  # of a row, what no seed can repeat


def tell(row: Row, batch: int, unit: str, board: "SummaryWriter | None", bar: "tqdm[Any]") -> None:
    """One line for people, and the same numbers for TensorBoard if there is a `board`.

    A step takes `batch` of what `unit` names, in the plural.
    """
    losses = "  ".join(f"{k} {v:.4f}" for k, v in list(row.items())[2:] if k not in TIMES)
    line = f"epoch {row['epoch']:3d}  {losses}"
    if row["epoch"] > 1:  # the first one still warms up
        rate = 1000 * batch / row["step_ms"]
        parts = f"losses {row['loss_share']:.0%}, waiting for {unit} {row['loader_share']:.0%}"
        line += f"  ({rate:.0f} {unit}/s; {row['step_ms']:.1f} ms a step: {parts})"
    bar.write(line)
    if board:
        for key, value in row.items():
            board.add_scalar(key.replace("val_", "val/"), value, row["epoch"])
        board.flush()
