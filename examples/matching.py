# SPDX-License-Identifier: MIT
"""A matching drawn: nearest neighbours share their partners, a one-to-one matching does not.

    python examples/matching.py [--out FOLDER] [A.npy B.npy]

Between two clouds [N, 3] (a chair and another one of the repository, unless two files are given)
draws what Chamfer distance pairs and what EMD pairs, with the certificate of the latter. Writes
matching.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection
from torch import Tensor

from pointloss import Assignment, assign, nearest

OBJECTS = Path(__file__).parent.parent / "models/data/furniture/ShapeNet_pointclouds"


def read(path: Path, points: int) -> Tensor:
    """A seeded choice of so many points of a cloud in a .npy file."""
    cloud = torch.from_numpy(np.load(path).astype(np.float32))
    return cloud[torch.randperm(len(cloud), generator=torch.Generator().manual_seed(0))[:points]]


def draw(panel: plt.Axes, x: Tensor, y: Tensor, idx: Tensor, title: str) -> None:
    """Front view: x on the left, y on the right, a line for each pair."""
    shift = 1.2 * float(x[:, 0].amax() - y[:, 0].amin())
    left, right = x[:, :2], y[:, :2] + torch.tensor([shift, 0.0])
    segments = torch.stack([left, right[idx]], 1)
    height = left[:, 1] - left[:, 1].amin()
    colours = plt.get_cmap("viridis")((height / height.amax()).numpy())
    panel.add_collection(
        LineCollection(segments.numpy(), colors=colours, linewidths=0.5, alpha=0.6)
    )
    panel.scatter(*left.T, c=colours, s=7)
    used = torch.zeros(len(y), dtype=torch.bool)
    used[idx] = True
    panel.scatter(*right[used].T, s=7, color="0.2", label="has a partner")
    panel.scatter(*right[~used].T, s=12, color="tab:red", marker="x", label="has none")
    panel.set(aspect="equal", xticks=[], yticks=[], title=title)
    panel.legend(loc="lower right", fontsize=7)


def main(argv: Sequence[str] | None = None) -> Assignment:
    """Match, draw, and return the matching."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clouds", nargs="*", type=Path, help="two .npy files, [N, 3] each")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    parser.add_argument("--points", type=int, default=256)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    files = args.clouds or sorted(OBJECTS.glob("03001627/*/pointcloud_1024.npy"))[:2]
    if len(files) != 2:
        parser.error(f"expected two files, got {len(files)}")

    x, y = (read(path, args.points) for path in files)
    near, match = nearest(x, y), assign(x, y, rtol=1e-3)
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    distance = near.dist.sqrt().mean()
    draw(panels[0], x, y, near.idx, f"nearest neighbours, mean distance {distance:.4f}")
    told = f"one-to-one, mean distance {match.cost:.4f}, at most {100 * match.gap:.2f} % too long"
    draw(panels[1], x, y, match.idx, told)
    figure.savefig(args.out / "matching.png", dpi=110)
    plt.close(figure)
    print(f"{near.idx.unique().numel()} of {len(y)} points are a nearest neighbour; {told}")
    print(f"wrote {args.out / 'matching.png'}")
    return match


if __name__ == "__main__":
    main()
