# SPDX-License-Identifier: MIT
"""Scores of images made into plain data: means by category, means by object, differences.

Everything here is what results.json holds, one row a line, for models.report and models.compare.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.baselines import FLOOR, ORACLE
from models.data.dataset import ReconstructionDataset
from models.judge import Judge
from models.paired import bootstrap

Row = dict[str, Any]
KEYS = ("protocol", "method", "category", "objects", "images")  # of Tables.rows, then the columns
MORE = ("F@", "IoU", "within")  # is better
LESS = ("CD", "EMD", "MPJPE", "PA-MPJPE", "error", "SIDE", "MAD")  # is better
MACRO, IMAGES = "mean", "all images"  # in place of a category
FILE = "results.json"
# Ends of a method's name that say what it has beyond a system: see `competes`.
RIG_KNOWN, TRUE_POSE, TRUE_DEPTH = ", rig known", ", true pose", ", true depth"
BEST_OF = ", best of "


class Tables(NamedTuple):
    """The parts of results.json that come from the scores."""

    conventions: dict[str, list[str]]  # by protocol: units, factors and sampling
    rows: list[Row]  # {KEYS, columns}: a category's means, the categories' mean, the images' mean
    objects: list[Row]  # {object, category, images}: what the values of `scores` belong to
    # {protocol, method, column, values}: means over an object's images, of CD, EMD and IoU
    scores: list[Row]
    # {protocol, method, column, fields of paired.Estimate}: the scored clouds minus another method
    differences: list[Row]


def sign(column: str) -> int:
    """1 if more is better, -1 if less is, 0 if a column has no better."""
    return 1 if column.startswith(MORE) else -1 if column.startswith(LESS) else 0


def competes(method: str) -> bool:
    """Whether a method answers once, and from what a system sees: else it is a bound.

    Bounds see the truth, are told the rig or the pose, have learnt from depth that others have not
    seen, or are the best of several draws.
    """
    told = any(words in method for words in (RIG_KNOWN, TRUE_POSE, TRUE_DEPTH, BEST_OF))
    return method not in (ORACLE, FLOOR) and not told


def short(value: float) -> float:
    """Six digits, which is more than any score has: results.json is kept small, to be committed."""
    return float(f"{value:.6g}")


def read_results(run: Path) -> dict[str, Any]:
    """What models.evaluate has written: the results.json in the folder `run`, or that file.

    Raises:
        ValueError: there is none, or it is no JSON object.
    """
    path = run / FILE if run.is_dir() else run
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; python -m models.evaluate RUN writes it") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return record


def by_category(
    methods: dict[str, Tensor], columns: list[str], categories: list[str], objects: list[int]
) -> list[Row]:
    """Scores [S, columns] by method -> a row for each category, their mean, and all images.

    "mean" is the mean of the categories' means, which the papers report; "all images" the mean over
    images. Every image counts; `categories` and `objects` [S] are those of the images. The column
    "gap" takes the largest in place of the mean.
    """
    rows = []
    names = sorted(set(categories))
    member = {name: [c == name for c in categories] for name in names}
    for method, scores in methods.items():
        if len(scores) != len(categories):
            raise ValueError(f"{method}: {len(scores)} scores for {len(categories)} images")
        values = scores.double()
        each = torch.stack([values[torch.tensor(member[name])].mean(dim=0) for name in names])
        parts = [(name, each[i], member[name]) for i, name in enumerate(names)]
        everything = [True] * len(values)
        parts += [(MACRO, each.mean(dim=0), everything), (IMAGES, values.mean(dim=0), everything)]
        for name, means, chosen in parts:
            numbers = dict(zip(columns, map(short, means.tolist()), strict=True))
            if "gap" in numbers:
                gaps = values[torch.tensor(chosen), columns.index("gap")]
                numbers["gap"] = short(gaps.max().item())
            count = len({o for o, inside in zip(objects, chosen, strict=True) if inside})
            row = {"method": method, "category": name, "objects": count, "images": sum(chosen)}
            rows.append({**row, **numbers})
    return rows


def by_object(scores: Tensor, objects: Tensor) -> Tensor:
    """Means [O, columns] of scores [S, columns] over each object's images, by ascending number."""
    found, which, images = objects.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(found), scores.shape[1], dtype=torch.float64)
    sums.index_add_(0, which, scores.double())
    means: Tensor = sums / images[:, None]
    return means


def tabulate(
    judges: list[Judge],
    methods: list[dict[str, Tensor]],
    objects: Tensor,
    data: ReconstructionDataset,
) -> Tables:
    """Scores [S, columns] by method, of each judge, with the objects [S] of the images.

    The first method is what was scored; the differences are between it and each other one.
    """
    found, counts = objects.unique(return_counts=True)
    names = [data.categories[data.object_categories[o]] for o in found.tolist()]
    images = counts.tolist()
    categories = [data.categories[data.object_categories[o]] for o in objects.tolist()]
    keys = [data.objects[o] for o in found.tolist()]
    tables = Tables(
        {},
        [],
        [
            {"object": key, "category": name, "images": count}
            for key, name, count in zip(keys, names, images, strict=True)
        ],
        [],
        [],
    )
    for judge, scored in zip(judges, methods, strict=True):
        protocol, columns = judge.protocol.name, judge.protocol.columns()
        rows = by_category(scored, columns, categories, objects.tolist())
        tables.rows.extend({"protocol": protocol, **row} for row in rows)
        tables.conventions[protocol] = judge.describe(max(row.get("gap", 0.0) for row in rows))
        means = {method: by_object(scores, objects) for method, scores in scored.items()}
        own = next(iter(means.values()))
        for method, values in means.items():
            for column in (c for c in columns if sign(c) and not c.startswith("CD to")):
                key = {"protocol": protocol, "method": method, "column": column}
                one = values[:, columns.index(column)]
                if column in ("IoU", "CD", "EMD"):
                    tables.scores.append({**key, "values": [float(f"{v:.5g}") for v in one]})
                if values is not own and method != FLOOR:
                    gap = (own[:, columns.index(column)] - one).numpy()
                    estimate = bootstrap(gap, names, images)._asdict()
                    tables.differences.append({**key, **{k: short(v) for k, v in estimate.items()}})
    return tables
