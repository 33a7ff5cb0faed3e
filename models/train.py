# SPDX-License-Identifier: MIT
"""Train a single-image reconstruction network, then score it on held-out objects.

    python -m models.train              the set in the repository, minutes on two CPU cores
    python -m models.train --config F.toml --set loss.w_kl=0 --out runs/no-kl
    python -m models.train --resume     go on with the newest run in runs/

A run folder holds config.toml, metrics.csv, checkpoint.pt, loss_curves.png and what
models.evaluate writes. Ctrl-C keeps the checkpoint of the last whole epoch. A resumed run goes on
bit for bit (CPU) as if it had never stopped: every random number of an epoch comes from
(seed, epoch). Only where optim.max_minutes cuts a run short has the clock a say.
"""

import argparse
import csv
import math
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from models import checkpoint, plots
from models import config as configs
from models.config import Config
from models.evaluate import (
    Samples,
    as_markdown,
    build_network,
    count_macs,
    evaluate,
    load_split,
    mean_shape,
    open_split,
    pick_device,
    predict,
    write,
)
from pointloss import EMDLoss, chamfer, emd

RUNS = Path("runs")
DEFAULT = Path(__file__).parent / "configs" / "default.toml"
INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


class Run(NamedTuple):
    """What a checkpoint holds of a run, besides its config."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    emd_loss: EMDLoss
    mean: Tensor  # [N, 3] mean shape of the training set
    history: list[dict]  # one row of metrics.csv per epoch that is over
    seconds: float  # trained so far


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Equation 3, KL(N(mu, sigma^2) || N(0, 1)): sum over the L of [B, L], mean over B."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(dim=1).mean()


def augment(image: Tensor, points: Tensor, options: configs.Augment) -> tuple[Tensor, Tensor]:
    """Mirror half of the samples, jitter brightness and contrast; [B, 3, H, W] and [B, N, 3].

    The cloud stands in the object's frame with x to its side. So the flipped image is the view,
    from the opposite azimuth, of the object mirrored in x: both are mirrored or none.
    """
    b, device = len(image), image.device
    if options.mirror:
        flip = torch.rand(b, device=device) < 0.5
        image = torch.where(flip[:, None, None, None], image.flip(3), image)
        sides = torch.where(flip[:, None], points.new_tensor([-1, 1, 1]), 1.0)  # [B, 3]
        points = points * sides[:, None]
    brightness = 1 + options.brightness * (2 * torch.rand(b, 1, 1, 1, device=device) - 1)
    contrast = 1 + options.contrast * (2 * torch.rand(b, 1, 1, 1, device=device) - 1)
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return ((image - mean) * contrast + mean * brightness).clamp(0, 1), points


def learning_rate(config: Config, epoch: float, seconds: float) -> float:
    """Half a cosine from optim.lr down to a hundredth of it.

    It follows the epochs or max_minutes, whichever is further on: on a machine that needs the time
    limit the rate still comes down before the end.
    """
    limit = 60 * config.optim.max_minutes
    over = max(epoch / config.optim.epochs, seconds / limit if limit else 0.0)
    return config.optim.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(over, 1.0))))


def held_out_losses(network: nn.Module, config: Config, held_out: Samples, device: str) -> dict:
    """Chamfer and EMD, as in the loss, on the first view of every held-out object."""
    weights = config.loss
    predicted = predict(network, held_out.images, config.evaluate.batch_size, device).to(device)
    truth = held_out.clouds[held_out.objects].to(device)
    cd = chamfer(predicted, truth, squared=weights.chamfer_squared)
    matched = emd(predicted, truth, rtol=weights.emd_rtol)
    return {"heldout_cd": cd.item(), "heldout_emd": matched.item()}


def begin(config: Config, samples: int, device: str, resumed: dict | None) -> Run:
    """A fresh run, or the one in a loaded checkpoint."""
    torch.manual_seed(config.optim.seed)
    network = build_network(config).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.optim.lr)
    cache = (samples, config.network.points) if config.loss.emd_cache else None
    emd_loss = EMDLoss(rtol=config.loss.emd_rtol, price_cache=cache).to(device)
    if resumed:
        checkpoint.restore(network, resumed, "network")
        checkpoint.restore(emd_loss, resumed, "emd_loss")
        optimiser.load_state_dict(resumed["optimiser"])
        mean, history, seconds = (resumed[key] for key in ("mean_shape", "history", "seconds"))
        return Run(network, optimiser, emd_loss, mean, list(history), seconds)
    began = time.monotonic()
    mean = mean_shape(open_split(config, config.data.train_split).points, seed=config.optim.seed)
    if config.network.start_from_mean:
        network.start_from(mean.to(device))
    return Run(network, optimiser, emd_loss, mean, [], time.monotonic() - began)


def save(run: Run, config: Config, out: Path) -> None:
    """Checkpoint first, then the readable copy of its history, which can be written again."""
    parts = {
        "config": configs.to_dict(config),
        "network": run.network.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "emd_loss": run.emd_loss.state_dict(),
        "mean_shape": run.mean,
        "history": run.history,
        "seconds": run.seconds,
    }
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(out / checkpoint.NAME, parts)
    (out / "config.toml").write_text(configs.dumps(config), encoding="utf-8")
    if run.history:
        with open(out / "metrics.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(run.history[0]))
            writer.writeheader()
            writer.writerows(run.history)


def train_epoch(
    run: Run, config: Config, loader: DataLoader, epoch: int, device: str, bar: tqdm
) -> dict:
    """One pass over the training images; the mean losses and the last learning rate."""
    weights = config.loss
    began = time.monotonic() - run.seconds
    torch.manual_seed(config.optim.seed * 1_000_003 + epoch)  # every draw of this epoch, see above
    loader.generator.manual_seed(config.optim.seed * 1_000_003 + epoch)
    run.network.train()
    sums = torch.zeros(4, device=device)  # loss, kl, cd, emd
    for step, batch in enumerate(loader):
        seconds = time.monotonic() - began
        if step and 0 < config.optim.max_minutes < seconds / 60:
            bar.write(f"optim.max_minutes is used up: stopped in epoch {epoch + 1}")
            break
        lr = learning_rate(config, epoch + step / len(loader), seconds)
        for group in run.optimiser.param_groups:
            group["lr"] = lr
        image, points = augment(batch.image.to(device), batch.points.to(device), config.augment)
        points_hat, mu, logvar = run.network(image)  # [B, N, 3], [B, 100], [B, 100]
        # Equations 1, 4 and 5 with means for sums, so that no weight depends on the point count.
        kl = kl_standard_normal(mu, logvar)
        cd = chamfer(points_hat, points, squared=weights.chamfer_squared)
        # Prices belong to the points of the true cloud. Mirroring both clouds changes no distance,
        # so a sample and its mirror image share them.
        ids = batch.sample.to(device) if weights.emd_cache else None
        matched = run.emd_loss(points_hat, points, ids=ids)
        loss = weights.w_kl * kl + weights.w_cd * cd + weights.w_emd * matched
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(run.network.parameters(), config.optim.grad_clip)
        run.optimiser.step()
        sums += torch.stack([loss, kl, cd, matched]).detach()
        means = dict(zip(("loss", "kl", "cd", "emd"), (sums / (step + 1)).tolist(), strict=True))
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss is {means['loss']} in epoch {epoch + 1}; lower optim.lr (now {lr:.2g})"
            )
        bar.set_postfix_str("  ".join(f"{key} {means[key]:.4f}" for key in ("kl", "cd", "emd")))
        bar.update()
    return {"lr": lr, **means}


def train(config: Config, out: Path, device: str, resumed: dict | None = None) -> Run:
    """Train into `out`, from the start or from a loaded checkpoint."""
    data = open_split(config, config.data.train_split)
    held_out = load_split(config, config.evaluate.split, views=1)
    run = begin(config, len(data), device, resumed)
    loader = DataLoader(
        data,
        config.optim.batch_size,
        shuffle=True,
        drop_last=len(data) > config.optim.batch_size,  # batch norm wants more than a left-over
        num_workers=config.data.workers,
        generator=torch.Generator(),
    )
    save(run, config, out)  # so that even the first epoch can be interrupted
    epochs, limit, first = config.optim.epochs, 60 * config.optim.max_minutes, len(run.history)
    with tqdm(total=len(loader) * epochs, initial=len(loader) * first, unit="step") as bar:
        for epoch in range(first, epochs):
            if limit and epoch and run.seconds > limit:
                break
            began = time.monotonic()
            bar.set_description(f"epoch {epoch + 1}/{epochs}")
            row = {"epoch": epoch + 1, **train_epoch(run, config, loader, epoch, device, bar)}
            row |= held_out_losses(run.network, config, held_out, device)
            run = run._replace(seconds=run.seconds + time.monotonic() - began)
            run.history.append(row | {"minutes": round(run.seconds / 60, 3)})
            save(run, config, out)
            losses = "  ".join(f"{key} {row[key]:.4f}" for key in list(row)[3:])
            bar.write(f"epoch {epoch + 1:3d}  {losses}")
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


def prepare(args: argparse.Namespace, device: str) -> tuple[Config, Path, dict | None]:
    """Config, run folder and, for --resume, the loaded checkpoint."""
    if args.resume is None:
        config, resumed = configs.load(args.config or DEFAULT), None
        out = args.out or RUNS / f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{config.network.name}"
        if (out / checkpoint.NAME).exists():
            raise ValueError(f"{out} holds a run already; continue it with --resume {out}")
    else:
        path = checkpoint.find(args.resume or checkpoint.newest(RUNS))
        out, resumed = path.parent, checkpoint.load(path, device, checkpoint.PARTS)
        config = configs.update(Config(), resumed["config"])
    config = configs.override(config, args.set)
    if args.epochs is not None:
        config = configs.update(config, {"optim": {"epochs": args.epochs}})
    macs = count_macs(build_network(config), config.data.image_size)  # also checks the names
    print(
        f"run folder {out}; {config.network.name} {config.network.preset} "
        f"({macs / 1e9:.3f} GMAC an image) on {device}\n[loss] {config.loss}"
    )
    return config, out, resumed


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    began = time.monotonic()
    out = None
    try:
        device = pick_device(args.device)
        config, out, resumed = prepare(args, device)
        run = train(config, out, device, resumed)
        if run.history:
            plots.loss_curves(out / "metrics.csv", out / "loss_curves.png")
        results = evaluate(run.network, config, device, run.mean)
        write(results, out, config)
    except KeyboardInterrupt:
        kept = out and (out / checkpoint.NAME).exists()
        how = f"; go on with: python -m models.train --resume {out}" if kept else ""
        print(f"\ninterrupted{how}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    minutes = (time.monotonic() - began) / 60
    print(f"\n{as_markdown(results)}\n{out}: table, checkpoint, pictures; {minutes:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
