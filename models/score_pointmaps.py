# SPDX-License-Identifier: MIT
"""Scores of predicted pointmaps on held-out pairs, beside what learns little or nothing.

Error: pointmap_error over both views together, up to scale and shift. Pose: the second camera's
rotation and the direction of its place, from procrustes between its own pointmap and the one in the
first camera's frame. Every method is asked about the same pairs, at the pixels that see the object.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn
from tqdm import tqdm

from models import config as configs
from models import files, log, merged_clouds
from models.alignment import STEPS, Edges, align
from models.augment import mirror_pair
from models.baselines import thumbnails
from models.config import Config
from models.cost import describe_machine
from models.data.pairs import Pair, Pairs, relative_motion, turn
from models.determinism import deterministic
from models.networks.pointmap import Pointmaps
from models.paired import Estimate, bootstrap, show
from models.report import as_json, table
from models.tables import short
from pointloss import depth_to_points, pointmap_error, procrustes, transform_points

NETWORK, BLANKED, RETRIEVAL = "pointmap", "second view blanked", "nearest pair"
CATEGORY, PLANE = "category's mean depth, true pose", "plane at the median depth, true pose"
TREE, DESCENT = "spanning tree", "global alignment"
NEAR = 15.0  # degrees that a pose may be off, the field's RRA@15 and RTA@15
BINS = (15, 30, 45, 60, 75, 90)  # degrees between the cameras
ALIGNED_SIDE = 48  # pixels of a view's side that a global alignment uses


class Guess(NamedTuple):
    """What a method says of a batch of pairs."""

    points: Tensor  # [B, 2, H, W, 3], first camera's frame, any unit
    motion: Tensor | None = None  # [B, 3, 4], second camera's frame -> first's; None: not asked
    confidence: Tensor | None = None  # [B, 2, H, W]


Guesser = Callable[[Pair, Tensor], Guess]  # of pairs, and of their numbers


def pose(own: Tensor, points: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """A camera from its view's pointmap in its own frame and in another's, both [B, H, W, 3].

    Returns [B, 3, 4], own frame -> the other, in the other's unit. mask, weights: [B, H, W].
    """
    fit = procrustes(
        own.flatten(1, 2),
        points.flatten(1, 2),
        mask=mask.flatten(1),
        weights=None if weights is None else weights.flatten(1),
    )
    return torch.cat([fit.rotation, fit.translation.unsqueeze(2)], 2)


def network_guesser(network: nn.Module) -> Guesser:
    """Both orders of the pair are asked: the second view's own pointmap is the other's first."""

    @torch.no_grad()
    def guess(pair: Pair, _: Tensor) -> Guess:
        image = pair.image[:, :, :3]
        out, swapped = network(image), network(image.flip(1))
        weights = (1 + out.confidence[:, 1].exp()) * (1 + swapped.confidence[:, 0].exp())
        motion = pose(swapped.points[:, 0], out.points[:, 1], pair.mask[:, 1], weights)
        return Guess(out.points, motion, out.confidence)

    return guess


def blanked_guesser(network: nn.Module) -> Guesser:
    """The same network; whichever view is asked about, the other one shows nothing.

    The two answers share no unit, so each is divided by its mean distance, as in the loss.
    """

    @torch.no_grad()
    def guess(pair: Pair, _: Tensor) -> Guess:
        image = pair.image[:, :, :3]
        one, two = image.unbind(1)
        blank = torch.ones_like(one)
        first: Pointmaps = network(torch.stack([one, blank], 1))
        second: Pointmaps = network(torch.stack([blank, two], 1))
        own: Pointmaps = network(torch.stack([two, blank], 1))
        points = [first.points[:, 0], second.points[:, 1]]
        alone = [unit_size(p, m) for p, m in zip(points, pair.mask.unbind(1), strict=True)]
        motion = pose(own.points[:, 0], points[1], pair.mask[:, 1])
        return Guess(torch.stack(alone, 1), motion)

    return guess


def unit_size(points: Tensor, mask: Tensor) -> Tensor:
    """Points [B, ..., 3] over the mean distance to the origin of those that count, [B, ...]."""
    distance = torch.linalg.vector_norm(points, dim=-1) * mask
    size = distance.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)
    return points / size.clamp_min(1e-8).view(-1, *[1] * (points.dim() - 1))


def _with_true_pose(depth: Tensor, test: Pairs, pair: Pair, numbers: Tensor) -> Guess:
    """Depth maps [B, 2, H, W], lifted by the true cameras."""
    intrinsics = test.views.intrinsics[test.index[numbers]]
    points = depth_to_points(depth.flatten(0, 1), intrinsics.flatten(0, 1)).unflatten(0, (-1, 2))
    second = transform_points(points[:, 1], pair.motion)
    return Guess(torch.stack([points[:, 0], second], 1))


def plane_guesser(test: Pairs) -> Guesser:
    """Each view is a plane at the median of its true depth."""

    def guess(pair: Pair, numbers: Tensor) -> Guess:
        depth = test.views.depth[test.index[numbers]]  # [B, 2, H, W]
        seen = torch.where(depth > 0, depth, torch.nan).flatten(2)
        middle = seen.nanmedian(2).values[:, :, None, None]
        return _with_true_pose(middle.expand_as(depth), test, pair, numbers)

    return guess


def category_guesser(train: Pairs, test: Pairs) -> Guesser:
    """At each pixel the mean depth of the category's training views, counted from the object's
    centre, whose true distance is given; where none of them sees anything, that of the centre.
    """
    views = train.views
    member = torch.tensor([train.data.object_categories[o] for o, _ in train.data.samples])
    seen = views.depth > 0
    relative = (views.depth - views.extrinsics[:, 2, 3, None, None]) * seen
    means = torch.zeros(len(train.data.categories), *views.depth.shape[1:]).to(relative)
    for category in member.unique().tolist():
        own = (member == category).to(seen.device)
        means[category] = relative[own].sum(0) / seen[own].sum(0).clamp_min(1)

    def guess(pair: Pair, numbers: Tensor) -> Guess:
        categories = [test.category(number) for number in numbers.tolist()]
        distance = test.views.extrinsics[test.index[numbers], 2, 3]  # [B, 2]
        depth = means[categories].unsqueeze(1) + distance[:, :, None, None]
        return _with_true_pose(depth, test, pair, numbers)

    return guess


def retrieval_guesser(train: Pairs, mirrored: bool) -> Guesser:
    """The training pair whose two images are nearest (L2 of thumbnails), also mirrored.

    A pixel that sees nothing in the retrieved pair takes the point of its nearest one that does.
    """
    images = train.views.image[:, :3].float() / 255
    flips = (False, True) if mirrored else (False,)
    keys = [thumbnails(images.flip(3) if flip else images) for flip in flips]

    def guess(pair: Pair, _: Tensor) -> Guess:
        one, two = (thumbnails(image[:, :3]) for image in pair.image.unbind(1))
        distances = [
            torch.cdist(one, key).square()[:, train.index[:, 0]]
            + torch.cdist(two, key).square()[:, train.index[:, 1]]
            for key in keys
        ]
        found = torch.cat(distances, 1).argmin(1)
        near = train(found % len(train))
        flipped = found >= len(train)
        turned = mirror_pair(near)
        points = torch.where(flipped[:, None, None, None, None], turned.points, near.points)
        mask = torch.where(flipped[:, None, None, None], turned.mask, near.mask)
        motion = torch.where(flipped[:, None, None], turned.motion, near.motion)
        return Guess(_filled(points, mask), motion)

    return guess


def _filled(points: Tensor, mask: Tensor) -> Tensor:
    """[B, 2, H, W, 3] with the point of the nearest pixel that sees one at those that do not."""
    flat, seen = points.flatten(0, 1), mask.flatten(0, 1).cpu().numpy()
    filled = []
    for view, known in zip(flat, seen, strict=True):
        row, column = distance_transform_edt(~known, return_distances=False, return_indices=True)
        filled.append(view[torch.from_numpy(row).long(), torch.from_numpy(column).long()])
    return torch.stack(filled).view_as(points)


class Scores(NamedTuple):
    """Of one method, for each pair; NaN where it was not asked for a pose."""

    error: Tensor  # [P]
    rotation: Tensor  # [P] degrees off
    translation: Tensor  # [P] degrees off, of its direction


def judge(guess: Guess, pair: Pair) -> Scores:
    """A method's answers for a batch, on the CPU."""
    error = pointmap_error(guess.points, pair.points, mask=pair.mask)
    if guess.motion is None:
        nothing = torch.full_like(error, torch.nan)
        return Scores(*(x.double().cpu() for x in (error, nothing, nothing)))
    rotation = turn(guess.motion[:, :, :3] @ pair.motion[:, :, :3].mT)
    directions = (guess.motion[:, :, 3], pair.motion[:, :, 3])
    cosine = torch.cosine_similarity(*directions, dim=1).clamp(-1, 1)
    translation = torch.rad2deg(cosine.acos())
    return Scores(*(x.double().cpu() for x in (error, rotation, translation)))


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


def align_object(network: nn.Module, test: Pairs, numbers: Tensor) -> tuple[Aligned, Any]:
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
    name = test.data.objects[test.owner(int(numbers[0]))]
    colours = test.views.image[samples, :3, ::stride, ::stride].float() / 255
    shown = merged_clouds.Merged(name, colours.permute(0, 2, 3, 1), mask, truth, clouds)
    return Aligned(name, count, error, near), shown


class Results(NamedTuple):
    """Everything the tables and pictures need."""

    header: list[str]
    pairs: list[dict[str, Any]]  # {pair, category, angle}
    scores: dict[str, Scores]
    deciles: list[float]
    aligned: list[Aligned]
    config: dict[str, Any]
    objects: list[str]  # of each pair
    pictures: list[Any]
    alignments: list[Any]


@deterministic()
def score(
    config: Config,
    network: nn.Module,
    state: dict[str, Any],
    train: Pairs,
    test: Pairs,
    commit: str | None = None,
) -> Results:
    """Score the network and every baseline on evaluate.views pairs of each test object."""
    device = test.index.device
    chosen = test.spread(config.evaluate.views)
    guessers: dict[str, Guesser] = {NETWORK: network_guesser(network)}
    if config.evaluate.baselines:
        guessers |= {
            BLANKED: blanked_guesser(network),
            RETRIEVAL: retrieval_guesser(train, config.augment.mirror != "none"),
            CATEGORY: category_guesser(train, test),
            PLANE: plane_guesser(test),
        }
    found: dict[str, list[Scores]] = {name: [] for name in guessers}
    pixels, pictures, shown = [], [], set[int]()
    parts = torch.tensor(chosen, device=device).split(config.evaluate.batch_size)
    for rows in tqdm(parts, "scores", unit="batch", leave=False):
        pair = test(rows)
        for name, guesser in guessers.items():
            guess = guesser(pair, rows)
            found[name].append(judge(guess, pair))
            if name != NETWORK:
                continue
            pixels.append(judge_pixels(guess, pair))
            for row, number in enumerate(rows.tolist()):
                if (category := test.category(number)) not in shown:
                    shown.add(category)
                    pictures.append(_picture(test, number, pair, guess, row))
    aligned, alignments = [], []
    for numbers in tqdm(_to_align(config, test), "alignments", leave=False):
        one, picture = align_object(network, test, numbers)
        aligned.append(one)
        alignments.append(picture)
    options = config.pointmap
    why = f"the best on split {state['chosen_on']!r}" if state.get("chosen_on") else "its last"
    header = [
        f"Split {config.evaluate.split!r}: {len({test.owner(n) for n in chosen})} objects, "
        f"{len(chosen)} ordered pairs of views, {options.least:g} to {options.most:g} degrees "
        f"apart, "
        f"{config.data.image_size} x {config.data.image_size} pixels.",
        f"Weights after epoch {len(state['history'])} of the run, {why}.",
        describe_machine(str(device), commit),
    ]
    return Results(
        header,
        [_describe(test, number) for number in chosen],
        {n: Scores(*map(torch.cat, zip(*s, strict=True))) for n, s in found.items()},
        deciles(Pixels(*map(torch.cat, zip(*pixels, strict=True)))),
        aligned,
        configs.to_dict(config),
        [test.data.objects[test.owner(number)] for number in chosen],
        pictures,
        alignments,
    )


def _describe(test: Pairs, number: int) -> dict[str, Any]:
    category = test.data.categories[test.category(number)]
    return {
        "pair": test.name(number),
        "category": category,
        "angle": short(test.angle[number].item()),
    }


def _picture(test: Pairs, number: int, pair: Pair, guess: Guess, row: int) -> Any:
    label = f"{test.data.categories[test.category(number)]}\n{test.angle[number].item():.0f}°"
    assert guess.confidence is not None
    return merged_clouds.PairPicture(
        label,
        pair.image[row, :, :3].permute(0, 2, 3, 1).cpu(),
        pair.mask[row].cpu(),
        pair.points[row].cpu(),
        guess.points[row].cpu(),
        guess.confidence[row].cpu(),
    )


def _to_align(config: Config, test: Pairs) -> list[Tensor]:
    """The pairs of pointmap.aligned objects, spread over the split; those whose pairs connect."""
    owners = torch.tensor([test.owner(number) for number in range(len(test))])
    groups = [(owners == owner).nonzero()[:, 0] for owner in owners.unique()]
    index = test.index.cpu()
    whole = [own for own in groups if connected(index[own] - index[own].min())]
    wanted = config.pointmap.aligned
    step = max(len(whole) / wanted, 1) if wanted else len(whole) + 1
    spread = [whole[int(n * step)] for n in range(min(wanted, len(whole)))]
    return [own.to(test.index.device) for own in spread]


def means(results: Results) -> list[dict[str, Any]]:
    """A row a method: means with their standard errors, and the network's less the method's."""
    objects = sorted(set(results.objects))
    member = torch.tensor([objects.index(name) for name in results.objects])
    counts = torch.bincount(member).tolist()
    category = {o: p["category"] for o, p in zip(results.objects, results.pairs, strict=True)}

    def estimate(values: Tensor) -> Estimate:
        sums = torch.zeros(len(objects), dtype=torch.float64).index_add(0, member, values)
        each = (sums / torch.tensor(counts)).numpy()
        return bootstrap(each, [category[name] for name in objects], counts)

    own, rows = results.scores[NETWORK], []
    for name, scores in results.scores.items():
        row: dict[str, Any] = {"method": name, "error": _plain(estimate(scores.error))}
        if name != NETWORK:
            row["difference"] = _plain(estimate(own.error - scores.error))
        if scores.rotation.isfinite().all():
            row["rotation_median"] = short(scores.rotation.median().item())
            for key in ("rotation", "translation"):
                near = (getattr(scores, key) <= NEAR).double()
                row[f"{key}_near"] = _plain(estimate(near))
        rows.append(row)
    return rows


def _plain(estimate: Estimate) -> dict[str, float]:
    return {key: short(value) for key, value in estimate._asdict().items()}


def by_angle(results: Results) -> list[dict[str, Any]]:
    """A row a bin of the angle between the cameras: pairs, and each method's mean error and share
    of rotations within NEAR; means over pairs."""
    angle = torch.tensor([pair["angle"] for pair in results.pairs])
    rows = []
    for low, high in zip(BINS, BINS[1:], strict=False):
        own = (low <= angle) & (angle < high)
        if not own.any():
            continue
        row: dict[str, Any] = {"angle": f"{low} to {high}", "pairs": int(own.sum())}
        row["error"] = {n: short(s.error[own].mean().item()) for n, s in results.scores.items()}
        row["near"] = {
            name: short((scores.rotation[own] <= NEAR).double().mean().item())
            for name, scores in results.scores.items()
            if scores.rotation.isfinite().all()
        }
        rows.append(row)
    return rows


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def as_markdown(results: Results) -> str:
    """The tables as people read them, each with what its numbers are."""
    rows = means(results)
    lines = []
    for row in rows:
        line = [row["method"], f"{row['error']['mean']:.3f}", f"{row['error']['images']:.3f}"]
        gap = row.get("difference")
        line.append(show(gap["mean"], gap["error"]) if gap else "-")
        if "rotation_median" in row:
            line.append(f"{row['rotation_median']:.1f}")
            line += [_percent(row[f"{key}_near"]["mean"]) for key in ("rotation", "translation")]
        else:
            line += ["-"] * 3
        lines.append(line)
    head = ["", "error ↓", "error, pairs ↓", f"{NETWORK} minus it", "rotation off, median ↓"]
    head += [f"rotation within {NEAR:g}° ↑", f"translation within {NEAR:g}° ↑"]
    parts = [
        f"# {NETWORK}",
        "\n".join(f"{line}  " for line in results.header),
        "Error: mean distance of the points of both views up to scale and shift in depth, in units "
        "of the median distance from their middle (pointloss.pointmap_error). Means are those of "
        "the categories, of pairs where a column says so; ± is one standard error of the paired "
        "difference (a bootstrap over objects, 2000 draws). Rotation and translation: of the "
        "second camera in the first's frame, degrees off; the translation's direction alone.",
        table(head, lines),
        f"**Second view blanked**: the same network, of whose two views the one that is not asked "
        f"about is white. {config_of_blanks(results)}",
    ]
    angles = by_angle(results)
    methods = list(results.scores)
    posed = list(angles[0]["near"]) if angles else []
    parts += [
        "By the angle between the cameras, means over pairs.",
        table(
            ["degrees", "pairs", *(f"error, {m}" for m in methods)]
            + [f"within {NEAR:g}°, {m}" for m in posed],
            [
                [r["angle"], str(r["pairs"]), *(f"{r['error'][m]:.3f}" for m in methods)]
                + [_percent(r["near"][m]) for m in posed]
                for r in angles
            ],
        ),
        "By confidence: mean distance of the pixels in each tenth, from the least sure to the "
        "most, in units of the pair's mean distance to the camera, x1000.",
        table([str(n) for n in range(1, 11)], [[f"{1000 * d:.1f}" for d in results.deciles]]),
    ]
    if results.aligned:
        parts += [_aligned_text(results)]
    return "\n\n".join(parts) + "\n"


def config_of_blanks(results: Results) -> str:
    """A sentence on what training has shown the network of blank views."""
    share = results.config["pointmap"]["blank"]
    return f"{_percent(share)} of the training pairs were such."


def _aligned_text(results: Results) -> str:
    count = len(results.aligned)
    lines = [
        [
            name,
            f"{sum(a.error[name] for a in results.aligned) / count:.3f}",
            _percent(sum(a.near[name] for a in results.aligned) / count),
        ]
        for name in (TREE, DESCENT)
    ]
    return (
        f"All views of {count} objects in one frame, from all of their pairs: means over the "
        f"objects. Error over all views; share of the pairs of cameras, near or far, whose "
        f"rotation is within {NEAR:g}°.\n\n"
        + table(["", "error ↓", f"rotation within {NEAR:g}° ↑"], lines)
    )


def write(results: Results, folder: Path) -> str:
    """results.md, results.csv, results.json and the pictures; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = as_markdown(results)
    files.write_text(folder / "results.md", text)
    rows = means(results)
    flat = [
        {"method": row["method"]}
        | {
            f"{key} {part}" if isinstance(value, dict) else key: number
            for key, value in row.items()
            if key != "method"
            for part, number in (value.items() if isinstance(value, dict) else [("", value)])
        }
        for row in rows
    ]
    columns = dict.fromkeys(key for row in flat for key in row)
    log.write_csv(
        folder / "results.csv",
        [{key: row.get(key) for key in columns} for row in flat],
        results.header,
    )
    record = {
        "header": results.header,
        "methods": rows,
        "angles": by_angle(results),
        "deciles": [short(value) for value in results.deciles],
        "aligned": [one._asdict() for one in results.aligned],
        "config": results.config,
        "pairs": results.pairs,
        "scores": [
            {
                "method": name,
                "column": column,
                "values": [float(f"{value:.4g}") for value in values.tolist()],
            }
            for name, scores in results.scores.items()
            for column, values in scores._asdict().items()
            if values.isfinite().all()
        ],
    }
    files.write_text(folder / "results.json", as_json(record))
    if results.pictures:
        merged_clouds.draw_pairs(folder / "reconstructions.png", results.pictures)
    if results.alignments:
        merged_clouds.draw_alignments(folder / "alignments.png", results.alignments)
    return text
