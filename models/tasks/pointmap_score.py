# SPDX-License-Identifier: MIT
"""Scores of predicted pointmaps on held-out pairs, beside what learns little or nothing.

Error: pointmap_error over both views together, up to scale and shift. Pose: the second camera's
rotation and the direction of its place, from procrustes between its own pointmap and the one in the
first camera's frame. Every method is asked about the same pairs, at the pixels that see the object.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models import checkpoint, files
from models import config as configs
from models.alignment import STEPS, Edges, align
from models.config import Config
from models.cost import describe_machine
from models.data.pairs import Pair, Pairs, relative_motion, turn
from models.determinism import deterministic
from models.networks.pointmap import Pointmaps
from models.paired import bootstrap, show
from models.report import as_json, table
from models.tables import short
from models.tasks import pointmap_pictures
from models.tasks.pointmap_baselines import (
    BLANKED,
    BLANKED_POSED,
    CATEGORY,
    NETWORK,
    PLANE,
    RETRIEVAL,
    Guess,
    guessers,
    unit_size,
)
from models.tasks.results import Results, by_group
from models.tasks.results import write as write_results
from pointloss import pointmap_error, transform_points

TREE, DESCENT = "spanning tree", "global alignment"
NEAR = 15.0  # degrees that a pose may be off, the field's RRA@15 and RTA@15
COLUMNS = ["error", "error of rotation", f"within {NEAR:g}°: rotation"]
COLUMNS += [f"within {NEAR:g}°: translation"]
ALIGNED_SIDE = 48  # pixels of a view's side that a global alignment uses


def judge(guess: Guess, pair: Pair) -> Tensor:
    """A method's answers for a batch: [B, COLUMNS] float64, on the CPU."""
    error = pointmap_error(guess.points, pair.points, mask=pair.mask)
    rotation = turn(guess.motion[:, :, :3] @ pair.motion[:, :, :3].mT)
    ways = [F.normalize(motion[:, :, 3].double(), dim=1) for motion in (guess.motion, pair.motion)]
    # Half of the chord, which is exact also for small angles.
    chord = torch.linalg.vector_norm(ways[0] - ways[1], dim=1) / 2
    translation = torch.rad2deg(2 * chord.clamp(max=1).asin())
    columns = (error, rotation, rotation <= NEAR, translation <= NEAR)
    return torch.stack([column.double() for column in columns], 1).cpu()


class Pixels(NamedTuple):
    """Of every pixel that sees the object: how sure the network is, and how far off."""

    confidence: Tensor
    error: Tensor


def judge_pixels(guess: Guess, pair: Pair) -> Pixels:
    """Errors are distances as in the loss, each pair over its mean distance to the camera."""
    assert guess.confidence is not None
    points, truth = (unit_size(p, pair.mask) for p in (guess.points, pair.points))
    off = torch.linalg.vector_norm(points - truth, dim=-1)
    return Pixels(guess.confidence[pair.mask].cpu(), off[pair.mask].cpu())


def deciles(pixels: Pixels) -> list[float]:
    """Mean error of the pixels in each tenth, from the least sure to the most."""
    order = pixels.confidence.argsort(stable=True)
    return [part.double().mean().item() for part in pixels.error[order].tensor_split(10)]


class Aligned(NamedTuple):
    """A global alignment of all views of an object, beside the spanning tree that it began with."""

    object: str
    views: int
    error: dict[str, float]  # pointmap_error over all views
    near: dict[str, float]  # share of the pairs of cameras whose rotation is within NEAR


def _edges(network: nn.Module, test: Pairs, numbers: Tensor, stride: int) -> Edges:
    """The network's word on these pairs of one object, its views numbered from 0."""
    samples = test.index[numbers]
    pair = test(numbers)
    with torch.no_grad():
        out: Pointmaps = network(pair.image[:, :, :3])
    points = out.points[:, :, ::stride, ::stride].flatten(2, 3)
    weights = (1 + out.confidence.exp()) * pair.mask
    return Edges(samples - samples.min(), points, weights[:, :, ::stride, ::stride].flatten(2))


def connected(views: Tensor) -> bool:
    """Whether edges [E, 2] join all views from 0 to the largest."""
    reached, pairs = {0}, views.tolist()
    for _ in pairs:
        reached |= {view for pair in pairs for view in pair if reached & set(pair)}
    return len(reached) == int(views.max()) + 1


def align_object(
    network: nn.Module, test: Pairs, numbers: Tensor
) -> tuple[Aligned, pointmap_pictures.Merged]:
    """All views of the object of these pairs; and the clouds to be drawn."""
    stride = max(1, test.views.depth.shape[1] // ALIGNED_SIDE)
    edges = _edges(network, test, numbers, stride)
    first, count = int(test.index[numbers].min()), int(edges.views.max()) + 1
    samples = torch.arange(first, first + count, device=numbers.device)
    motion = relative_motion(test.views.extrinsics, samples[:1].expand(count), samples)
    truth = transform_points(test.views.points(samples)[:, ::stride, ::stride], motion)
    mask = test.views.depth[samples, ::stride, ::stride] > 0
    error, near, clouds = {}, {}, {}
    for name, steps in ((TREE, 0), (DESCENT, STEPS)):
        found = align(edges, steps=steps)
        points = found.points.view_as(truth)
        error[name] = pointmap_error(points[None], truth[None], mask=mask[None]).item()
        clouds[name] = points
        one, two = torch.combinations(torch.arange(count, device=samples.device)).unbind(1)
        between, wanted = (m[one][:, :, :3].mT @ m[two][:, :, :3] for m in (found.motion, motion))
        near[name] = (turn(between @ wanted.mT) <= NEAR).double().mean().item()
    name = test.data.objects[test.owners[int(numbers[0])]]
    colours = test.views.image[samples, :3, ::stride, ::stride].float() / 255
    shown = pointmap_pictures.Merged(name, colours.permute(0, 2, 3, 1), mask, truth, clouds)
    return Aligned(name, count, error, near), shown


class Scored(NamedTuple):
    """Everything the tables and pictures need."""

    results: Results
    pairs: list[dict[str, Any]]  # {pair, degrees}
    values: dict[str, Tensor]  # by method: [pairs, COLUMNS]
    deciles: list[float]
    aligned: list[Aligned]
    pictures: list[pointmap_pictures.PairPicture]
    alignments: list[pointmap_pictures.Merged]


@deterministic()
def score(
    config: Config,
    network: nn.Module,
    state: dict[str, Any],
    train: Pairs,
    test: Pairs,
    commit: str | None = None,
) -> Scored:
    """Score the network and every baseline on evaluate.views pairs of each test object."""
    device = test.index.device
    chosen = test.spread(config.evaluate.views)
    methods = guessers(config, network, train, test)
    found: dict[str, list[Tensor]] = {name: [] for name in methods}
    pixels, pictures, shown = [], [], set[int]()
    parts = torch.tensor(chosen, device=device).split(config.evaluate.batch_size)
    for rows in tqdm(parts, "scores", unit="batch", leave=False, disable=None):
        pair = test(rows)
        for name, guesser in methods.items():
            guess = guesser(pair, rows)
            found[name].append(judge(guess, pair))
            if name == NETWORK:
                pixels.append(judge_pixels(guess, pair))
                for row, number in enumerate(rows.tolist()):
                    if (category := test.category(number)) not in shown:
                        shown.add(category)
                        pictures.append(_picture(test, number, pair, guess, row))
    aligning = tqdm(_to_align(config, test), "alignments", leave=False, disable=None)
    aligned = [align_object(network, test, numbers) for numbers in aligning]
    values = {name: torch.cat(parts) for name, parts in found.items()}
    results = tabulate(config, test, chosen, values, describe(config, test, chosen, state))
    results.header.append(describe_machine(str(device), commit))
    return Scored(
        results,
        [{"pair": test.name(n), "degrees": short(test.angle[n].item())} for n in chosen],
        values,
        deciles(Pixels(*map(torch.cat, zip(*pixels, strict=True)))),
        [one for one, _ in aligned],
        pictures,
        [picture for _, picture in aligned],
    )


def tabulate(
    config: Config,
    test: Pairs,
    chosen: list[int],
    values: dict[str, Tensor],
    header: list[str],
) -> Results:
    """Means over each object's pairs: of all of them, of the nearer ones and of the farther ones.

    Pairs of one object are no independent items, so objects are what the errors are of.
    """
    options = config.pointmap
    middle = (options.least + options.most) / 2
    angle = test.angle[chosen].cpu()
    groups = {
        "all pairs": torch.ones_like(angle, dtype=torch.bool),
        f"cameras {options.least:g} to {middle:g} degrees apart": angle < middle,
        f"cameras {middle:g} to {options.most:g} degrees apart": angle >= middle,
    }
    owners = torch.tensor([test.owners[number] for number in chosen])
    items, means = by_group(groups, owners, test.data, values)
    return Results(header, COLUMNS, items, means, configs.to_dict(config))


def describe(config: Config, test: Pairs, chosen: list[int], state: dict[str, Any]) -> list[str]:
    """What was scored, and what the columns and methods are."""
    options, side = config.pointmap, config.data.image_size
    return [
        f"Split {config.evaluate.split!r}: {len({test.owners[n] for n in chosen})} objects, "
        f"{len(chosen)} ordered pairs of views, {options.least:g} to {options.most:g} degrees "
        f"apart, {side} x {side} pixels. An item is an object, with the mean of its pairs.",
        *checkpoint.describe(state, config),
        "error: mean distance of the points of both views, up to scale and shift in depth, in "
        "units of the median distance from their middle (pointloss.pointmap_error). error of "
        "rotation: degrees between the second camera, seen from the first, and the true one; "
        f"within {NEAR:g}°: share of the pairs, by that angle and by the translation's direction.",
        f"{BLANKED}: the same network; of the two views the one that is not asked about is white, "
        f"as in {options.blank:.0%} of the training pairs. {RETRIEVAL}: the training pair whose "
        f"images are nearest. {BLANKED_POSED}, {CATEGORY} and {PLANE}: the true cameras are given, "
        "of the first the true size of each view and of the plane the true median too, so they are "
        "bounds.",
    ]


def _picture(
    test: Pairs, number: int, pair: Pair, guess: Guess, row: int
) -> pointmap_pictures.PairPicture:
    assert guess.confidence is not None
    return pointmap_pictures.PairPicture(
        f"{test.data.categories[test.category(number)]}\n{test.angle[number].item():.0f}°",
        pair.image[row, :, :3].permute(0, 2, 3, 1).cpu(),
        pair.mask[row].cpu(),
        pair.points[row].cpu(),
        guess.points[row].cpu(),
        guess.confidence[row].cpu(),
    )


def _to_align(config: Config, test: Pairs) -> list[Tensor]:
    """The pairs of pointmap.aligned objects, spread over the split; those whose pairs connect."""
    owners = torch.tensor(test.owners)
    groups = [(owners == owner).nonzero()[:, 0] for owner in owners.unique()]
    index, wanted = test.index.cpu(), config.pointmap.aligned
    whole = [own for own in groups if connected(index[own] - index[own].min())]
    step = max(len(whole) / max(wanted, 1), 1)
    spread = [whole[int(n * step)] for n in range(min(wanted, len(whole)))]
    return [own.to(test.index.device) for own in spread]


def _extra(scored: Scored) -> str:
    """The tables that only pointmaps have: confidence, alignment."""
    parts = [
        "## Confidence",
        "Mean distance of the pixels in each tenth, from the least sure to the most, in units of "
        "the pair's mean distance to the camera, x1000.",
        table(
            [f"{n}." for n in range(1, 11)], [[f"{1000 * value:.1f}" for value in scored.deciles]]
        ),
    ]
    if scored.aligned:
        parts += alignment_table(scored.aligned)
    return "\n\n".join(parts) + "\n"


def alignment_table(aligned: list[Aligned]) -> list[str]:
    """Means over objects, and the paired gain of the descent, each with its standard error."""

    def cell(values: list[float], signed: bool = False) -> str:
        estimate = bootstrap(values, [""] * len(values), [1] * len(values))
        text = show(estimate.mean, estimate.error)
        return text if signed else text.lstrip("+")

    fields = [[one.error for one in aligned], [one.near for one in aligned]]
    lines = [
        [name, *(cell([v[name] for v in field]) for field in fields)] for name in (TREE, DESCENT)
    ]
    gains = [cell([v[DESCENT] - v[TREE] for v in field], signed=True) for field in fields]
    return [
        "## All views of an object in one frame",
        f"Means over {len(aligned)} objects ± one standard error (a bootstrap over them): the "
        "error over all views, and the share of all pairs of cameras, near or far, whose rotation "
        f"is within {NEAR:g}°.",
        table(
            ["", "error ↓", f"within {NEAR:g}°: rotation ↑"],
            [*lines, [f"{DESCENT} - {TREE}", *gains]],
        ),
    ]


def write(scored: Scored, folder: Path) -> str:
    """results.md, .csv and .json as for every task; pairs.json: each pair, confidence, alignments;
    pictures. Returns the Markdown."""
    text = f"{write_results(scored.results, folder)}\n{_extra(scored)}"
    files.write_text(folder / "results.md", text)
    record = {
        "columns": COLUMNS,
        "deciles": [short(value) for value in scored.deciles],
        "aligned": [one._asdict() for one in scored.aligned],
        "pairs": scored.pairs,
        "values": [
            {"method": name, "column": column, "values": [float(f"{v:.4g}") for v in numbers]}
            for name, values in scored.values.items()
            for column, numbers in zip(COLUMNS[:2], values.T.tolist(), strict=False)
        ],
    }
    files.write_text(folder / "pairs.json", as_json(record))
    if scored.pictures:
        pointmap_pictures.draw_pairs(folder / "reconstructions.png", scored.pictures)
    if scored.alignments:
        pointmap_pictures.draw_alignments(folder / "alignments.png", scored.alignments)
    return text
