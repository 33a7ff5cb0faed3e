# SPDX-License-Identifier: MIT
"""From a collapsed cloud: Chamfer distance leaves most points where others are, EMD leaves none.

    python examples/collapsed.py [--out FOLDER]

128 points start as one small cluster and follow the gradient of a loss to a target of 128 points,
as the output of an untrained network does. Under Chamfer distance many of them share a target and
many targets get none: both its directions can be small all the same. A one-to-one matching gives
every point a target of its own. Writes collapsed.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pointloss import chamfer, emd, nearest
from pointloss.testing.clouds import blob, make


def descend(
    loss: Callable[[Tensor, Tensor], Tensor], start: Tensor, target: Tensor, steps: int
) -> tuple[Tensor, list[int]]:
    """Adam on the points themselves; the final points, and the targets reached after each step."""
    x = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    reached = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss(x, target).backward()
        optimiser.step()
        schedule.step()
        reached.append(targets_reached(x.detach(), target))
    return x.detach(), reached


def targets_reached(x: Tensor, target: Tensor) -> int:
    """How many points of the target are the nearest one of some point of x."""
    return int(nearest(x, target).idx.unique().numel())


def main(argv: Sequence[str] | None = None) -> dict[str, int]:
    """Run both losses and draw them; returns the targets that each has reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    parser.add_argument("--points", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    start, target = (c[0] for c in make(blob, 1, args.points, args.points))
    losses = {"Chamfer": chamfer, "EMD": emd}
    ends, curves = {}, {}
    for name, loss in losses.items():
        ends[name], curves[name] = descend(loss, start, target, args.steps)

    figure = plt.figure(figsize=(12, 3.8), layout="constrained")
    clouds = {"start": start, **ends}
    for column, (name, cloud) in enumerate(clouds.items(), 1):
        panel = figure.add_subplot(1, 4, column, projection="3d")
        panel.scatter(*target.T, s=14, facecolors="none", edgecolors="0.6", label="target")
        panel.scatter(*cloud.T, s=9, color="tab:red", label="points")
        panel.set(xticks=[], yticks=[], zticks=[], aspect="equal")
        panel.set_title(f"{name}: {targets_reached(cloud, target)} of {len(target)} targets")
    figure.legend(*panel.get_legend_handles_labels(), loc="lower left", fontsize=8)
    panel = figure.add_subplot(1, 4, 4)
    for name, curve in curves.items():
        panel.plot(curve, label=name)
    panel.set(xlabel="step", title="targets reached", ylim=(0, args.points * 1.05))
    panel.legend()
    figure.savefig(args.out / "collapsed.png", dpi=110)
    plt.close(figure)

    found = {name: curve[-1] for name, curve in curves.items()}
    for name, count in found.items():
        print(f"{name}: {count} of {args.points} targets have a point")
    print(f"wrote {args.out / 'collapsed.png'}")
    return found


if __name__ == "__main__":
    main()
