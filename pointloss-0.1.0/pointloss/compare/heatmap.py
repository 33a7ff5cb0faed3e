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
VIEWS = {"front": ("x", "y", "+z"), "side": ("z", "y", "-x"), "top": ("z", "x", "+y")}
_NOTE = (
    "Distances are to the nearest sampled point of the other cloud: where that is sparse, they "
    "include the gaps between its points.\nNames of the sides: for y up. The origin is the centre "
    "of B's box."
)


def check_needs() -> None:
    """Raise ImportError with the pip command where `write` would."""
    need("matplotlib", "--heatmap")


def write(path: Path, pair: Pair, names: tuple[str, str]) -> None:
    """A picture of both clouds from three sides (.png), or A's points with their distance (.ply).

    The picture shows the clouds as they were compared. The points of the .ply lie where they lie in
    A's own file, whatever centring, scaling and alignment came before the distances.

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
        _write_ply(path, pair.a, dist[0], top)
    else:
        _write_png(path, [c.cpu().numpy() for c in (pair.x, pair.y)], dist, top, names)


def _write_ply(
    path: Path, points: NDArray[np.float64], dist: NDArray[np.float64], top: float
) -> None:
    """Points with their distance, and its colour."""
    matplotlib = need("matplotlib", "--heatmap")
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
    check_needs()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(VIEWS), squeeze=False)
    everything = np.concatenate(clouds)
    low, high = everything.min(axis=0), everything.max(axis=0)
    reach = max(float((high - low).max()), 1e-12) * 0.52
    rng = np.random.default_rng(0)
    for row, cloud, distance, name, other in zip(
        panels, clouds, dist, names, ("B", "A"), strict=True
    ):
        chosen = rng.permutation(len(cloud))[:_DRAWN]
        points, colour = cloud[chosen], distance[chosen]
        for ax, (side, (across, up, near)) in zip(row, VIEWS.items(), strict=True):
            order = _along(points, near).argsort()  # far points first, so that near ones cover them
            shown = ax.scatter(
                *(_along(points, axis)[order] for axis in (across, up)),
                c=colour[order], vmin=0, vmax=top, linewidths=0,
                s=min(12.0, max(0.5, 120_000 / len(points))), cmap="viridis",
            )  # fmt: skip
            limits = {
                axis: (middle - reach, middle + reach)
                for axis, middle in zip("xyz", (low + high) / 2, strict=True)
            }
            ax.set(
                xlim=limits[across], ylim=limits[up], aspect="equal", xlabel=across, ylabel=up,
                title=f"{side}, from {near}",
            )  # fmt: skip
            ax.locator_params(nbins=5)
            ax.tick_params(labelsize=7)
        row[1].set_title(
            f"{name}: distance to {other}, mean {distance.mean():.4g}\n{row[1].get_title()}"
        )
    bar = figure.colorbar(shown, ax=panels, shrink=0.7, extend="max")
    bar.set_label("distance to the nearest point of the other cloud; the scale ends at HD95")
    figure.suptitle(_NOTE, fontsize=8)
    figure.savefig(path, dpi=110)


def _along(points: NDArray[np.float32], axis: str) -> NDArray[np.float32]:
    """Coordinates along an axis such as "x" or "-x"."""
    values: NDArray[np.float32] = points[:, "xyz".index(axis[-1])]
    return -values if axis[0] == "-" else values
