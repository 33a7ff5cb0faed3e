# SPDX-License-Identifier: MIT
"""Two clouds coloured by the distance of each point to the other cloud."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointloss._optional import need
from pointloss.compare.measure import Pair, distances
from pointloss.io import write_ply

SUFFIXES = (".png", ".ply")
_DRAWN = 60_000  # points per panel of a picture
# Across, up, towards the viewer: right-handed, so that nothing is mirrored.
_VIEWS = (("x", "y", "z"), ("-z", "y", "x"), ("x", "z", "-y"))


def write(path: Path, pair: Pair, names: tuple[str, str]) -> None:
    """A picture of both clouds from three sides (.png), or A's points with their distance (.ply).

    Args:
        path: the file; its ending decides.
        pair: the clouds as they were compared.
        names: of A and B, for the titles.

    Raises:
        ImportError: matplotlib is not installed; the message has the pip command.
        OSError: the file cannot be written.
    """
    dist = [d.double().numpy() for d in distances(pair)]
    top = max(float(np.percentile(d, 95)) for d in dist)
    top = top if top > 0 else 1.0
    if path.suffix.lower() == ".ply":
        _write_ply(path, pair.x.cpu().numpy(), dist[0], top)
    else:
        _write_png(path, [c.cpu().numpy() for c in (pair.x, pair.y)], dist, top, names)


def _write_ply(
    path: Path, points: NDArray[np.float32], dist: NDArray[np.float64], top: float
) -> None:
    """Points with their distance, and its colour."""
    matplotlib = need("matplotlib", "colouring a heatmap")
    colours = matplotlib.colormaps["viridis"](np.minimum(dist / top, 1), bytes=True)
    red, green, blue, _ = colours.T
    with path.open("wb") as file:
        write_ply(file, points, distance=dist, red=red, green=green, blue=blue)


def _write_png(
    path: Path,
    clouds: list[NDArray[np.float32]],
    dist: list[NDArray[np.float64]],
    top: float,
    names: tuple[str, str],
) -> None:
    need("matplotlib", "drawing a heatmap")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(_VIEWS), squeeze=False)
    everything = np.concatenate(clouds)
    low, high = everything.min(axis=0), everything.max(axis=0)
    reach = max(float((high - low).max()), 1e-12) * 0.52
    rng = np.random.default_rng(0)
    for row, cloud, distance, name, other in zip(
        panels, clouds, dist, names, ("B", "A"), strict=True
    ):
        chosen = rng.permutation(len(cloud))[:_DRAWN]
        points, colour = cloud[chosen] - (low + high) / 2, distance[chosen]
        for ax, view in zip(row, _VIEWS, strict=True):
            across, up, near = (_along(points, axis) for axis in view)
            order = near.argsort()  # far points first, so that near ones cover them
            shown = ax.scatter(
                across[order], up[order], c=colour[order], vmin=0, vmax=top, linewidths=0,
                s=min(12.0, max(0.5, 120_000 / len(points))), cmap="viridis",
            )  # fmt: skip
            ax.set(
                xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal",
                xticks=[], yticks=[], xlabel=view[0], ylabel=view[1],
            )  # fmt: skip
        row[1].set_title(f"{name}: distance to {other}, mean {distance.mean():.4g}")
    bar = figure.colorbar(shown, ax=panels, shrink=0.7, extend="max")
    bar.set_label("distance to the nearest point of the other cloud; the scale ends at HD95")
    figure.savefig(path, dpi=110)


def _along(points: NDArray[np.float32], axis: str) -> NDArray[np.float32]:
    """Coordinates along an axis such as "x" or "-z"."""
    values: NDArray[np.float32] = points[:, "xyz".index(axis[-1])]
    return -values if axis[0] == "-" else values
