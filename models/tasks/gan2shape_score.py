# SPDX-License-Identifier: MIT
"""SIDE and MAD of predicted depth on held-out views, beside what learns little or nothing."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from models import checkpoint, files
from models import config as configs
from models.build import open_split
from models.config import Config
from models.cost import describe_machine
from models.data.dataset import ReconstructionDataset
from models.data.renders import Renders, read_renders
from models.determinism import deterministic
from models.networks.gan2shape import Guess, PhotoGeometric, intrinsics
from models.report import as_json, table
from models.tables import TRUE_DEPTH, short
from models.tasks import gan2shape_pictures
from models.tasks.gan2shape_baselines import CATEGORY, Guesser, baselines, network_guesser
from models.tasks.results import Results, by_group
from models.tasks.results import write as write_results
from pointloss import depth_to_normals, mean_angle_deviation, scale_invariant_depth_error

NETWORK, SUPERVISED = "autoencoder", f"supervised{TRUE_DEPTH}"
COLUMNS = ["SIDE x100", "MAD in degrees"]
OBLIQUE = 35.0  # degrees from the front at which the tables part the views
SHOWN = 6  # objects in the pictures


class Scored(NamedTuple):
    """Everything the tables and pictures need."""

    results: Results
    views: list[dict[str, Any]]  # {view, yaw}
    values: dict[str, Tensor]  # by method: [views, COLUMNS]
    turned: dict[str, float]  # mean error of the yaw in degrees, by network
    pictures: list[gan2shape_pictures.Picture]


def judge(depth: Tensor, views: Renders, rows: Tensor, lens: Tensor) -> Tensor:
    """SIDE x100 and MAD of depth [B, H, W]: [B, 2] float64 on the CPU; masks lose 1 pixel."""
    truth, normal = views.depth[rows], views.normal[rows]
    side = 100 * scale_invariant_depth_error(depth, truth, erode=1)
    found = depth_to_normals(depth, lens, mask=truth > 0)
    angle = mean_angle_deviation(found, normal, mask=truth > 0, erode=1)
    return torch.stack([side, angle], 1).double().cpu()


def method_of(config: Config) -> str:
    """What a run's network is called in the tables."""
    options = config.gan2shape
    if options.w_depth:
        return SUPERVISED
    words = [NETWORK]
    words += [] if options.w_flipped else ["without symmetry"]
    words += [] if options.prior == "ellipsoid" else [f"from a {options.prior} start"]
    words += [] if options.w_view else ["without the cameras' distribution"]
    return ", ".join(words)


def make(config: Config, state: dict[str, Any], device: str) -> PhotoGeometric:
    """The network of a checkpoint, in evaluation mode."""
    options = config.gan2shape
    network = PhotoGeometric(
        config.network.preset,
        config.data.image_size,
        options.fov,
        prior=options.prior,
        own_view=options.w_depth > 0,
        flip=False,
    ).to(device)
    checkpoint.restore(network, state, "network")
    return network.eval()


def others(config: Config, device: str) -> dict[str, PhotoGeometric]:
    """The networks of the runs in gan2shape.beside, by what they are."""
    found = {}
    for run in config.gan2shape.beside.split():
        state = checkpoint.load(checkpoint.choose(run), device, checkpoint.SCORED)
        own = configs.update(Config(), state["config"])
        found[method_of(own)] = make(own, state, device)
    return found


@torch.no_grad()
def yaw_error(network: PhotoGeometric, views: Renders, rows: Tensor) -> Tensor:
    """Degrees between the yaw that the network sees and the camera's, [B]."""
    out: Guess = network(views.image[rows].float() / 255)
    return torch.rad2deg(out.parts.view[:, 0] - views.yaw[rows]).abs()


@deterministic()
def score(
    config: Config,
    network: PhotoGeometric,
    state: dict[str, Any],
    device: str,
    commit: str | None = None,
) -> Scored:
    """Score the network, the runs beside it and every baseline on evaluate.views views each."""
    data = open_split(config, config.evaluate.split)
    views = read_renders(data, depth=True, normal=True).to(device)
    networks = {method_of(config): network} | others(config, device)
    methods: dict[str, Guesser] = {name: network_guesser(one) for name, one in networks.items()}
    if config.evaluate.baselines:
        methods |= baselines(training_views(config), config.gan2shape.fov)
    chosen = spread(data, config.evaluate.views)
    found: dict[str, list[Tensor]] = {name: [] for name in methods}
    turned: dict[str, list[Tensor]] = {
        name: [] for name, one in networks.items() if not one.own_view
    }
    lens = intrinsics(config.data.image_size, config.gan2shape.fov).to(device)
    parts = torch.tensor(chosen, device=device).split(config.evaluate.batch_size)
    for rows in tqdm(parts, "scores", unit="batch", leave=False, disable=None):
        image = views.image[rows].float() / 255
        for name, guesser in methods.items():
            found[name].append(judge(guesser(image), views, rows, lens))
        for name, values in turned.items():
            values.append(yaw_error(networks[name], views, rows).cpu())
    scores = {name: torch.cat(each) for name, each in found.items()}
    yaw = torch.rad2deg(views.yaw).cpu()
    header = describe(config, data, chosen, state)
    results = tabulate(config, data, chosen, scores, yaw[chosen].abs(), header)
    results.header.append(describe_machine(device, commit))
    return Scored(
        results,
        [{"view": data.name(n), "yaw": short(yaw[n].item())} for n in chosen],
        scores,
        {name: torch.cat(each).mean().item() for name, each in turned.items()},
        _pictures(network, data, views, chosen),
    )


def training_views(config: Config) -> Renders | None:
    """The training views with their depth, if they have any."""
    data = open_split(config, config.data.train_split)
    try:
        return read_renders(data, depth=True, normal=False)
    except FileNotFoundError:
        return None


def spread(data: ReconstructionDataset, wanted: int) -> list[int]:
    """`wanted` views of each object, spread over its own; 0: all."""
    groups: dict[int, list[int]] = {}
    for number, (owner, _) in enumerate(data.samples):
        groups.setdefault(owner, []).append(number)
    if not wanted:
        return [number for group in groups.values() for number in group]
    return [
        group[(2 * n + 1) * len(group) // (2 * wanted)]
        for group in groups.values()
        for n in range(min(wanted, len(group)))
    ]


def tabulate(
    config: Config,
    data: ReconstructionDataset,
    chosen: list[int],
    values: dict[str, Tensor],
    yaw: Tensor,
    header: list[str],
) -> Results:
    """Means over each object's views: of all of them, of those near the front, of the others.

    Views of one object are no independent items, so objects are what the errors are of.
    """
    groups = {
        "all views": torch.ones_like(yaw, dtype=torch.bool),
        f"up to {OBLIQUE:g} degrees from the front": yaw < OBLIQUE,
        f"further than {OBLIQUE:g} degrees from the front": yaw >= OBLIQUE,
    }
    owners = torch.tensor([data.samples[number][0] for number in chosen])
    items, means = by_group(groups, owners, data, values)
    return Results(header, COLUMNS, items, means, configs.to_dict(config))


def describe(
    config: Config, data: ReconstructionDataset, chosen: list[int], state: dict[str, Any]
) -> list[str]:
    """What was scored, and what the columns and methods are."""
    options, side = config.gan2shape, config.data.image_size
    by = "SIDE" if options.w_depth else "the distance of the images, without 3-D truth"
    return [
        f"Split {config.evaluate.split!r}: {len({data.samples[n][0] for n in chosen})} objects, "
        f"{len(chosen)} views, {side} x {side} pixels. An item is an object, with the mean of its "
        "views.",
        *checkpoint.describe(state, config),
        f"Epochs are chosen by {by}.",
        *describe_columns(config),
    ]


def describe_columns(config: Config) -> list[str]:
    """What the columns are, and what the methods know."""
    options = config.gan2shape
    return [
        "SIDE x100: 100 times the standard deviation of log d - log d' over the pixels of the "
        "object, the outermost left out (pointloss.scale_invariant_depth_error). MAD: mean angle "
        "between the normals of the depth map and the true ones, there "
        "(pointloss.mean_angle_deviation).",
        "ellipsoid in the mask: second moments of the mask, as deep as the mean of its half axes; "
        "inflated mask: a pillow on it. Every method is given the mask and the lens; the "
        f"autoencoder also the distribution of the cameras ({-options.azimuth:g} to "
        f"{options.azimuth:g} degrees from the front, {options.lowest:g} to {options.highest:g} "
        f"above the horizon) and of the lights (within {options.light:g} degrees of the camera). "
        f"{CATEGORY}; {SUPERVISED}: they have seen it, so they are bounds.",
    ]


def _pictures(
    network: PhotoGeometric, data: ReconstructionDataset, views: Renders, chosen: list[int]
) -> list[gan2shape_pictures.Picture]:
    """Some views of different objects, near the front and far from it."""
    owners = sorted({data.samples[n][0] for n in chosen})
    step = max(len(owners) / SHOWN, 1)
    found = []
    for place in range(min(SHOWN, len(owners))):
        own = [n for n in chosen if data.samples[n][0] == owners[int(place * step)]]
        wanted = math.radians((-50, 25, 55, -20, 40, 0)[place % 6])
        number = min(own, key=lambda n: abs(views.yaw[n].item() - wanted))
        found.append(gan2shape_pictures.picture(network, views, number, data.name(number)))
    return found


def write(scored: Scored, folder: Path) -> str:
    """results.md, .csv and .json as for every task; views.json: each view; pictures.

    Returns the Markdown.
    """
    text = write_results(scored.results, folder)
    if scored.turned:
        lines = [[name, f"{value:.1f}°"] for name, value in scored.turned.items()]
        text += "\n## Viewpoint\n\n" + "\n\n".join([
            "Mean difference of the yaw that a network sees and the camera's.",
            table(["", "error of the yaw ↓"], lines),
        ]) + "\n"  # fmt: skip
    files.write_text(folder / "results.md", text)
    record = {
        "columns": COLUMNS,
        "views": scored.views,
        "yaw": {name: short(value) for name, value in scored.turned.items()},
        "values": [
            {"method": name, "column": column, "values": [float(f"{v:.4g}") for v in numbers]}
            for name, values in scored.values.items()
            for column, numbers in zip(COLUMNS, values.T.tolist(), strict=True)
        ],
    }
    files.write_text(folder / "views.json", as_json(record))
    if scored.pictures:
        gan2shape_pictures.draw(folder / "reconstructions.png", scored.pictures)
        gan2shape_pictures.animate(folder / "reconstructions.gif", scored.pictures)
    return text
