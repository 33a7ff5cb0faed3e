# SPDX-License-Identifier: MIT
"""Train a network, then score it on held-out objects.

    python -m models.train              the set in the repository, minutes on two CPU cores
    python -m models.train --config F.toml --set loss.w_kl=0 --out runs/no-kl
    python -m models.train --resume     go on with the newest run in runs/
    torchrun --nproc-per-node 2 -m models.train --config F.toml        two GPUs (or processes)

A run folder holds config.toml, metrics.csv, checkpoint.pt (to go on), best.pt (the best epoch on
the validation split), loss_curves.png and what models.evaluate writes. Ctrl-C, or a kill, keeps the
last whole epoch. A resumed run goes on bit for bit on the same device as if it had never stopped:
every random number of an epoch comes from (seed, epoch). On a GPU that asks for
optim.deterministic = true. Only where optim.max_minutes cuts a run short has the clock a say.
"""

import argparse
import math
import sys
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from models import checkpoint, distributed, files, log, plots
from models import config as configs
from models.average import Average
from models.build import pick_device
from models.config import Config, ConfigError, Evaluate
from models.determinism import deterministic
from models.step import Step, Trained, learning_rate, make_optimiser, restore_optimiser
from models.tasks import open_task
from models.tasks.base import Batches, Task

RUNS = Path("runs")
DEFAULT = Path(__file__).parent / "configs" / "default.toml"
INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


class Run(NamedTuple):
    """What a checkpoint holds of a run, besides its config."""

    trained: Trained
    kept: dict[str, Tensor]  # what the task needs in evaluation: Task.keeps
    history: list[log.Row]  # one row of metrics.csv per epoch that is over
    seconds: float  # trained so far


def begin(task: Task, resumed: dict[str, Any] | None = None) -> Run:
    """A fresh run, or the one in a loaded checkpoint."""
    options, device = task.config.optim, task.device
    torch.manual_seed(options.seed)
    network = task.build().to(device)
    if device.startswith("cuda"):
        for weight in network.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.to(memory_format=torch.channels_last)
    objective = task.objective(network)
    if resumed:
        checkpoint.restore(network, resumed, "trained")
        checkpoint.restore(objective, resumed, "objective")
        history, seconds = resumed["history"], resumed["seconds"]
        kept = {key: resumed[key] for key in task.keeps}
    else:
        began = time.monotonic()
        kept, history = task.initialise(network), []
        seconds = time.monotonic() - began
    optimiser, average = (
        make_optimiser(network, task.config, device),
        Average(network, options.average),
    )
    average.to(device)
    if resumed:
        restore_optimiser(optimiser, resumed["optimiser"])
        checkpoint.restore(average.network, resumed, "network")
        average.steps.fill_(resumed["averaged"])
    trained = Trained(network, optimiser, objective, average)
    return Run(trained, kept, list(history), seconds)


def save(run: Run, task: Task, out: Path) -> None:
    """Checkpoint first, then the readable copy of its history, which can be written again.

    Raises FloatingPointError if a weight is not finite: what was saved before stays.
    """
    config = task.config
    network, optimiser, objective, average = run.trained
    weights = network.state_dict()
    wrong = [k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all()]
    if wrong:
        raise FloatingPointError(
            f"{len(wrong)} of {len(weights)} weights are not finite after epoch "
            f"{len(run.history)}, the first is {wrong[0]}; lower optim.lr ({config.optim.lr:.2g})"
        )
    scored = {
        "config": configs.to_dict(config),
        "network": average.network.state_dict(),
        **run.kept,
        "history": run.history,
    }
    rows = [row for row in run.history if row.keys() >= set(task.chooses)]
    values = [sum(row[key] for key in task.chooses) for row in rows]
    if values and values[-1] == min(
        filter(math.isfinite, values), default=None
    ):  # latest of equals
        checkpoint.save(out / checkpoint.BEST, scored | {"chosen_on": config.data.val_split})
    parts = {
        "trained": weights,
        "averaged": average.steps.item(),
        "optimiser": optimiser.state_dict(),
        "objective": objective.state_dict(),
        "seconds": run.seconds,
    }
    checkpoint.save(out / checkpoint.NAME, scored | parts)
    files.write_text(out / "config.toml", configs.dumps(config))
    if run.history:
        log.write_csv(out / "metrics.csv", run.history)


def check_steps(
    pending: list[tuple[int, Tensor, Tensor]], batches: Batches, epoch: int, lr: float
) -> None:
    """Raise FloatingPointError for the first step whose loss or gradient is not finite.

    `pending` holds the steps since the last look: number, [loss, norm of the gradient] on the
    device, the samples of the batch. It waits for the device and empties the list.
    """
    found = torch.stack([numbers for _, numbers, _ in pending]).tolist() if pending else []
    for (step, _, samples), (loss, norm) in zip(pending, found, strict=True):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"norm of the gradient is {norm}" if math.isfinite(loss) else f"loss is {loss}"
            names = ", ".join(batches.name(index) for index in samples.tolist())
            look = f", or look at the samples of this batch: {names}" if names else ""
            raise FloatingPointError(
                f"the {what} in epoch {epoch + 1}, step {step + 1}; lower optim.lr ({lr:.2g}){look}"
            )
    pending.clear()


def train_epoch(run: Run, step: Step, batches: Batches, epoch: int, bar: "tqdm[Any]") -> log.Row:
    """One epoch: rate, mean losses, where the time went."""
    config, began = step.task.config, time.monotonic() - run.seconds
    options = config.optim
    torch.manual_seed(options.seed * 1_000_003 + epoch)  # every draw of this epoch comes from here
    batches.begin(epoch)
    step.model.train()
    step.clock.restart()
    done, lr = 0, options.lr
    sums = torch.zeros(len(step.names), device=step.device)
    pending: list[tuple[int, Tensor, Tensor]] = []
    for number, (samples, inputs) in enumerate(batches):
        seconds = time.monotonic() - began
        if number and 0 < options.max_minutes < seconds / 60:
            bar.write(f"optim.max_minutes is used up: stopped in epoch {epoch + 1}")
            break
        lr = learning_rate(config, epoch + number / len(batches), len(batches), seconds)
        numbers = step(inputs, lr)
        sums, done = sums + numbers, number + 1
        pending.append((number, numbers[:: len(numbers) - 1], samples))
        if number % config.log.every == 0 or done == len(batches):  # the only wait for the GPU
            step.clock.drain()
            check_steps(pending, batches, epoch, lr)
            shown = zip(step.names[:-1], (sums / done).tolist(), strict=False)
            bar.set_postfix_str("  ".join(f"{key} {value:.4f}" for key, value in shown))
        bar.update()
    step.clock.drain()
    check_steps(pending, batches, epoch, lr)
    step.task.end_epoch(run.trained.objective)
    means = distributed.total(sums / (done * distributed.world()))
    losses = dict(zip(step.names[:-1], means.tolist(), strict=False))
    return {"lr": lr, **losses, **step.clock.summary()}


def train(task: Task, out: Path, resumed: dict[str, Any] | None = None) -> Run:
    """Train into `out`, from the start or from a loaded checkpoint."""
    config = task.config
    if config.optim.max_minutes and distributed.world() > 1:
        raise ConfigError("optim.max_minutes: clocks of processes differ; only for one process")
    batches = task.batches()
    run = begin(task, resumed)
    model = distributed.parallel(run.trained.network, task.device)
    step = Step(run.trained, model, task)
    chief = distributed.rank() == 0
    if chief:
        save(run, task, out)  # so that even the first epoch can be interrupted
    board = (
        log.open_tensorboard(out, len(run.history)) if chief and config.log.tensorboard else None
    )
    epochs, limit, first = config.optim.epochs, 60 * config.optim.max_minutes, len(run.history)
    steps = len(batches)
    silent = None if chief else True  # None: where stderr is no terminal, so that logs stay short
    with tqdm(total=steps * epochs, initial=steps * first, unit="step", disable=silent) as bar:
        for epoch in range(first, epochs):
            if limit and epoch and run.seconds > limit:
                break
            began = time.monotonic()
            bar.set_description(f"epoch {epoch + 1}/{epochs}")
            row: log.Row = {"epoch": epoch + 1}
            row |= train_epoch(run, step, batches, epoch, bar)
            row |= task.validate(run.trained.average.network)
            run = run._replace(seconds=run.seconds + time.monotonic() - began)
            run.history.append(row | {"minutes": round(run.seconds / 60, 3)})
            if chief:
                save(run, task, out)
                log.tell(row, config.optim.batch_size, task.unit, board, bar)
    return run


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("models.train", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file (default: configs/default.toml)")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="SECTION.KEY=VALUE"
    )
    parser.add_argument("--epochs", type=int, help="short for --set optim.epochs=N")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/DATE-NETWORK)")
    parser.add_argument("--resume", nargs="?", const="", metavar="RUN", help="default: the newest")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    if args.resume is not None and (args.config or args.out):
        parser.error("--resume takes config and folder from the run; drop --config and --out")
    return args


def prepare(args: argparse.Namespace, device: str) -> tuple[Task, Path, dict[str, Any] | None]:
    """Task, run folder and, for --resume, the loaded checkpoint."""
    if args.resume is None:
        config, resumed = configs.load(args.config or DEFAULT), None
        out = args.out or RUNS / f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{config.network.name}"
        if (out / checkpoint.NAME).exists():
            raise ValueError(f"{out} holds a run already; continue it with --resume {out}")
    else:
        path = checkpoint.choose(args.resume or checkpoint.newest(RUNS), "last")
        out, resumed = path.parent, checkpoint.load(path, device, checkpoint.PARTS)
        config = configs.update(Config(), resumed["config"])
    config = configs.override(config, args.set)
    if args.epochs is not None:
        config = configs.update(config, {"optim": {"epochs": args.epochs}})
    task = open_task(config, device)
    task.refuse_unfollowed(Evaluate())
    if resumed:
        checkpoint.require(resumed, path, task.keeps)
    cost = task.check()  # not only after hours of training
    if distributed.rank() == 0:
        print(
            f"run folder {out}; {config.network.name} {config.network.preset} "
            f"({cost}) on {device} x {distributed.world()}\n"
            f"[{task.section}] {getattr(config, task.section)}"
        )
    return task, out, resumed


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    began = time.monotonic()
    out = None
    try:
        device = distributed.begin(pick_device(args.device))
        task, out, resumed = prepare(args, device)
        config = task.config
        with ExitStack() as held:
            if distributed.rank() == 0:
                held.enter_context(files.locked(out))
            with deterministic(config.optim.deterministic or device == "cpu"):
                run = train(task, out, resumed)
            chief = distributed.rank() == 0
            distributed.end()
            if not chief:
                return 0
            if run.history:
                plots.loss_curves(out / "metrics.csv", out / "loss_curves.png")
            path = checkpoint.choose(out, config.evaluate.checkpoint)
            text = task.evaluate(checkpoint.load(path, device), out)
    except KeyboardInterrupt:
        print(f"\ninterrupted{how_to_go_on(out)}", file=sys.stderr)
        return INTERRUPTED
    except FloatingPointError as error:
        print(f"error: {error}{how_to_go_on(out, '--set optim.lr=RATE')}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    minutes = (time.monotonic() - began) / 60
    print(f"\n{text}\n{minutes:.1f} minutes; tables in {out}/results.md, weights in {path}")
    print("\n".join(conclusion(text, out)))
    return 0


def conclusion(text: str, out: Path) -> list[str]:
    """The verdicts once more, which long tables push off the screen, and the pictures to open."""
    verdicts = [line.strip() for line in text.splitlines() if line.startswith("By `")]
    pictures = sorted(map(str, out.glob("*.png")), reverse=True)
    return [*verdicts, f"look at {', '.join(pictures)}"]


def how_to_go_on(out: Path | None, change: str = "") -> str:
    """What to append to a message if the run folder holds a checkpoint."""
    if out is None or not (out / checkpoint.NAME).exists():
        return ""
    return f"; go on with: python -m models.train --resume {out} {change}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
