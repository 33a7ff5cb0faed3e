# SPDX-License-Identifier: MIT
"""Train a single-image reconstruction network, then score it on held-out objects.

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
from torch.utils.data import DataLoader
from tqdm import tqdm

from models import checkpoint, distributed, files, log, plots
from models import config as configs
from models.average import Average
from models.baselines import mean_shape
from models.batches import Batches
from models.build import (
    build_network,
    check_orientation,
    check_sources,
    initialise,
    make_val_loader,
    open_training,
    pick_device,
)
from models.config import Config, ConfigError
from models.cost import count_macs
from models.data.dataset import ReconstructionDataset, Sample
from models.determinism import deterministic
from models.evaluate import evaluate, open_asked
from models.losses import Objective
from models.report import as_markdown, write
from models.step import Step, Trained, make_optimiser, restore_optimiser
from pointloss import chamfer, emd

RUNS = Path("runs")
DEFAULT = Path(__file__).parent / "configs" / "default.toml"
VAL_RTOL = 1e-2  # of the EMD that chooses the best epoch, whatever the training's is
INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


class Run(NamedTuple):
    """What a checkpoint holds of a run, besides its config."""

    trained: Trained
    mean: Tensor  # [N, 3] mean shape of the training set
    history: list[log.Row]  # one row of metrics.csv per epoch that is over
    seconds: float  # trained so far


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


def begin(
    config: Config, data: ReconstructionDataset, device: str, resumed: dict[str, Any] | None = None
) -> Run:
    """A fresh run, or the one in a loaded checkpoint."""
    torch.manual_seed(config.optim.seed)
    network = build_network(config).to(device)
    if device.startswith("cuda"):
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = Objective(config.loss, len(data), config.network.points).to(device)
    objective.check(network, has_azimuth=bool(data[0].camera.azimuth.isfinite()))
    check_sources(network, config.network)
    check_orientation(config, data.front)
    if resumed:
        checkpoint.restore(network, resumed, "trained")
        checkpoint.restore(objective, resumed, "objective")
        mean, history, seconds = (resumed[key] for key in ("mean_shape", "history", "seconds"))
    else:
        began = time.monotonic()
        clouds = data.points[:, : config.network.points]
        mean, history = mean_shape(clouds, device, seed=config.optim.seed), []
        initialise(network, config.network, mean.to(device))
        seconds = time.monotonic() - began
    optimiser, average = (
        make_optimiser(network, config, device),
        Average(network, config.optim.average),
    )
    average.to(device)
    if resumed:
        restore_optimiser(optimiser, resumed["optimiser"])
        checkpoint.restore(average.network, resumed, "network")
        average.steps.fill_(resumed["averaged"])
    trained = Trained(network, optimiser, objective, average)
    return Run(trained, mean, list(history), seconds)


def save(run: Run, config: Config, out: Path) -> None:
    """Checkpoint first, then the readable copy of its history, which can be written again.

    Raises FloatingPointError if a weight is not finite: what was saved before stays.
    """
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
        "mean_shape": run.mean,
        "history": run.history,
    }
    values = [row["val_cd"] + row["val_emd"] for row in run.history if "val_cd" in row]
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


@torch.no_grad()
def validate(run: Run, loader: DataLoader[Sample], device: str) -> dict[str, float]:
    """Mean unsquared Chamfer and EMD over the validation images, alike for all losses.

    By the averaged weights, at z = mu.
    """
    network = run.trained.average.network
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for batch in loader:
        points = batch.points.to(device)
        predicted = network(batch.image.to(device), points).points
        cd = chamfer(predicted, points, squared=False, batch_reduction="sum")
        matched = emd(predicted, points, rtol=VAL_RTOL, batch_reduction="sum")
        sums += torch.stack([cd, matched, cd.new_tensor(len(points))]).double()
    cd, matched, count = distributed.total(sums).tolist()
    return {"val_cd": cd / count, "val_emd": matched / count} if count else {}


def check_steps(
    pending: list[tuple[int, Tensor, Tensor]], data: ReconstructionDataset, epoch: int, lr: float
) -> None:
    """Raise FloatingPointError for the first step whose loss or gradient is not finite.

    `pending` holds the steps since the last look: number, [loss, norm of the gradient] on the
    device, the samples of the batch. It waits for the device and empties the list.
    """
    found = torch.stack([numbers for _, numbers, _ in pending]).tolist() if pending else []
    for (step, _, samples), (loss, norm) in zip(pending, found, strict=True):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"norm of the gradient is {norm}" if math.isfinite(loss) else f"loss is {loss}"
            names = ", ".join(data.name(index) for index in samples.tolist())
            raise FloatingPointError(
                f"the {what} in epoch {epoch + 1}, step {step + 1}; lower optim.lr ({lr:.2g}), or "
                f"look at the samples of this batch: {names}"
            )
    pending.clear()


def train_epoch(
    run: Run, step: Step, config: Config, batches: Batches, epoch: int, bar: "tqdm[Any]"
) -> log.Row:
    """One epoch: rate, mean losses, where the time went."""
    options, began = config.optim, time.monotonic() - run.seconds
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
            check_steps(pending, batches.data, epoch, lr)
            shown = zip(step.names[:-1], (sums / done).tolist(), strict=False)
            bar.set_postfix_str("  ".join(f"{key} {value:.4f}" for key, value in shown))
        bar.update()
    step.clock.drain()
    check_steps(pending, batches.data, epoch, lr)
    run.trained.objective.emd_loss.gather_price_cache()
    means = distributed.total(sums / (done * distributed.world()))
    losses = dict(zip(step.names[:-1], means.tolist(), strict=False))
    return {"lr": lr, **losses, **step.clock.summary()}


def train(config: Config, out: Path, device: str, resumed: dict[str, Any] | None = None) -> Run:
    """Train into `out`, from the start or from a loaded checkpoint."""
    if config.optim.max_minutes and distributed.world() > 1:
        raise ConfigError("optim.max_minutes: clocks of processes differ; only for one process")
    data = open_training(config)
    batches, val_loader = Batches(config, data, device), make_val_loader(config)
    run = begin(config, data, device, resumed)
    model = distributed.parallel(run.trained.network, device)
    step = Step(run.trained, model, config, batches.fetch, device)
    chief = distributed.rank() == 0
    if chief:
        save(run, config, out)  # so that even the first epoch can be interrupted
    board = (
        log.open_tensorboard(out, len(run.history)) if chief and config.log.tensorboard else None
    )
    epochs, limit, first = config.optim.epochs, 60 * config.optim.max_minutes, len(run.history)
    steps = len(batches)
    with tqdm(total=steps * epochs, initial=steps * first, unit="step", disable=not chief) as bar:
        for epoch in range(first, epochs):
            if limit and epoch and run.seconds > limit:
                break
            began = time.monotonic()
            bar.set_description(f"epoch {epoch + 1}/{epochs}")
            row: log.Row = {"epoch": epoch + 1}
            row |= train_epoch(run, step, config, batches, epoch, bar)
            row |= validate(run, val_loader, device)
            run = run._replace(seconds=run.seconds + time.monotonic() - began)
            run.history.append(row | {"minutes": round(run.seconds / 60, 3)})
            if chief:
                save(run, config, out)
                log.tell(row, config.optim.batch_size, board, bar)
    return run


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("models.train", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file (default: configs/default.toml)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--epochs", type=int, help="short for --set optim.epochs=N")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/DATE-NETWORK)")
    parser.add_argument("--resume", nargs="?", const="", metavar="RUN", help="default: the newest")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    if args.resume is not None and (args.config or args.out):
        parser.error("--resume takes config and folder from the run; drop --config and --out")
    return args


def prepare(args: argparse.Namespace, device: str) -> tuple[Config, Path, dict[str, Any] | None]:
    """Config, run folder and, for --resume, the loaded checkpoint."""
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
    open_asked(config, images=False)  # not only after hours of training
    macs = count_macs(build_network(config), config)  # also checks the names
    if distributed.rank() == 0:
        print(
            f"run folder {out}; {config.network.name} {config.network.preset} "
            f"({macs / 1e9:.3f} GMAC an image) on {device} x {distributed.world()}\n"
            f"[loss] {config.loss}"
        )
    return config, out, resumed


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    began = time.monotonic()
    out = None
    try:
        device = distributed.begin(pick_device(args.device))
        config, out, resumed = prepare(args, device)
        with ExitStack() as held:
            if distributed.rank() == 0:
                held.enter_context(files.locked(out))
            with deterministic(config.optim.deterministic or device == "cpu"):
                run = train(config, out, device, resumed)
            chief = distributed.rank() == 0
            distributed.end()
            if not chief:
                return 0
            if run.history:
                plots.loss_curves(out / "metrics.csv", out / "loss_curves.png")
            path = checkpoint.choose(out, config.evaluate.checkpoint)
            results = evaluate(config, device, checkpoint.load(path, device))
            write(results, out)
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
    print(f"\n{as_markdown(results)}\n{out}: table, checkpoint, pictures; {minutes:.1f} minutes")
    return 0


def how_to_go_on(out: Path | None, change: str = "") -> str:
    """What to append to a message if the run folder holds a checkpoint."""
    if out is None or not (out / checkpoint.NAME).exists():
        return ""
    return f"; go on with: python -m models.train --resume {out} {change}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
