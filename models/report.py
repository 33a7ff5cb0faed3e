# SPDX-License-Identifier: MIT
"""Results as tables for people (Markdown), for spreadsheets (CSV) and for programs (JSON)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models import files, log, plots

PUBLISHED = """\
Published, under other conditions (table 2 of the paper; CD, EMD x100; FLOPs as printed):

| method         |   CD |   EMD | FLOPs |
| -------------- | ---: | ----: | ----: |
| PSGN           | 9.11 | 12.29 |     - |
| 3D-LMNet       | 8.91 |  9.70 |    4G |
| 3D-ReconstNet  | 6.26 |  6.20 |    4G |
| the paper's    | 5.87 |  5.81 |  2.9G |

Not one comparison, and not comparable with the tables above. The first two rows agree with what
3D-LMNet reports as means over three categories of Pix3D, though the paper says 13 of ShapeNet.
3D-ReconstNet's code trains one network per category for 1024 points, 3D-LMNet's one for all.
"4G" is 3.87 GFLOP (1.94 GMAC) at 128 x 128 for 3D-LMNet, but 4.10 GMAC (8.19 GFLOP) at 224 x 224
for ResNet-50. FLOPs are no measure of memory.
"""


Row = dict[str, Any]  # {method, category, n, one key a column}


class Pictures(NamedTuple):
    """Some reconstructions to look at, one entry each."""

    images: list[Tensor]  # [3, H, W]
    truths: list[Tensor]  # [N, 3]
    predictions: list[Tensor]  # [N, 3]
    labels: list[str]


@dataclass(frozen=True)
class Results:
    """Everything a table or a picture needs; rows and cost are plain data for JSON."""

    method: str  # what was scored; the other methods of `rows` stand beside it
    header: list[str]
    rows: list[Row]
    cost: dict[str, Any]  # of models.cost.measure; empty for clouds from files
    config: dict[str, dict[str, Any]]
    pictures: Pictures


def tabulate(methods: dict[str, Tensor], columns: list[str], categories: list[str]) -> list[Row]:
    """Scores [S, columns] by method -> a row for each category, their mean, and all images.

    "mean" is the mean of the categories' means, which the papers report; "all images" the mean over
    images. Every image counts. The column "gap" takes the largest in place of the mean.
    """
    rows = []
    for method, scores in methods.items():
        if len(scores) != len(categories):
            raise ValueError(f"{method}: {len(scores)} scores for {len(categories)} images")
        values = scores.double()

        def row(category: str, part: Tensor, n: int, method: str = method) -> Row:
            numbers = dict(zip(columns, part.mean(dim=0).tolist(), strict=True))
            if "gap" in numbers:
                numbers["gap"] = part[:, columns.index("gap")].max().item()
            return {"method": method, "category": category, "n": n, **numbers}

        means = []
        for category in sorted(set(categories)):
            part = values[torch.tensor([c == category for c in categories])]
            rows.append(row(category, part, len(part)))
            means.append(list(rows[-1].values())[3:])
        rows.append(row("mean", torch.tensor(means, dtype=torch.float64), len(values)))
        rows.append(row("all images", values, len(values)))
    return rows


# Columns of what the network costs: how they are called in Markdown, key of `cost`, unit of it.
COSTS = {
    "M parameters": ("parameters", 1e6),
    "GMAC": ("macs", 1e9),
    "GFLOP": ("flops", 1e9),
    "ms an image": ("milliseconds", 1),
    "peak MiB": ("peak_mib", 1),
}


def cost_columns(results: Results, row: Row) -> dict[str, float | None]:
    """The columns of COSTS for a row: None beside what has no network, none without any network."""
    if not results.cost:
        return {}
    own = row["method"] == results.method
    found = {name: results.cost[key] if own else None for name, (key, _) in COSTS.items()}
    return {name: value and value / COSTS[name][1] for name, value in found.items()}


def _number(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    if column == "gap":
        return f"{value:.2%}"
    return f"{value:.3f}" if column.startswith("F@") or abs(value) < 1 else f"{value:.2f}"


def _table(first: str, rows: list[Row], columns: list[str]) -> str:
    """A Markdown table whose source is aligned as well."""
    lines = [[first, *columns]]
    for row in rows:
        numbers = [str(row[c]) if c == "n" else _number(c, row[c]) for c in columns]
        lines.append([row[first], *numbers])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = [
        " | ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    rule = " | ".join("-" * (w - 1) + ":" if i else "-" * w for i, w in enumerate(widths))
    return "\n".join(f"| {line} |" for line in (texts[0], rule, *texts[1:])) + "\n"


def describe_cost(results: Results) -> list[str]:
    """What the network costs, with the input that it was measured at."""
    if not (c := results.cost):
        return []
    options = results.config["network"]
    memory = "" if c["peak_mib"] is None else f", {c['peak_mib']:.0f} MiB at the peak"
    return [
        f"{options['name']} {options['preset']}: {c['parameters'] / 1e6:.2f} M parameters, "
        f"{c['macs'] / 1e9:.3f} GMAC = {c['flops'] / 1e9:.3f} GFLOP for an image of "
        f"{c['image_size']} x {c['image_size']}; {c['milliseconds']:.2f} ms an image{memory}, in "
        f"float32 batches of {c['batch_size']}."
    ]


def as_markdown(results: Results) -> str:
    """The tables as people read them, with every convention in the lines above."""
    columns = list(results.rows[0])[3:]
    costs = list(cost_columns(results, results.rows[0]))
    own = [row for row in results.rows if row["method"] == results.method]
    means = [row | cost_columns(results, row) for row in results.rows if row["category"] == "mean"]
    sides = [c for c in ("CD", "EMD") if c in columns]
    by_category = {row["category"]: {"category": row["category"]} for row in own}
    for row in results.rows:
        for c in sides:
            by_category[row["category"]][f"{row['method']} {c}"] = row[c]
    wide = [f"{row['method']} {c}" for row in means[1:] for c in sides]
    parts = [
        "\n".join(f"{line}  " for line in [*results.header, *describe_cost(results)]),
        f"**{results.method}**, by category. mean: of the categories, as the papers do.",
        _table("category", own, ["n", *columns]),
        "Beside it, means of the categories. mean shape: the training set's. cluster: the mean of "
        "the shapes like the one retrieved. nearest image: the training object whose image is "
        "nearest. oracle: the training object whose shape is nearest. floor: the truth against "
        "another sampling of itself.",
        _table("method", means, [*columns, *costs]),
    ]
    if wide:
        parts.append(_table("category", list(by_category.values()), wide))
    return "\n\n".join(part.rstrip("\n") for part in [*parts, PUBLISHED]) + "\n"


def write(results: Results, folder: Path) -> None:
    """results.md, results.csv, results.json and the picture grid."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "results.md", as_markdown(results))
    rows = [row | cost_columns(results, row) for row in results.rows]
    log.write_csv(folder / "results.csv", rows, [*results.header, *describe_cost(results)])
    record = {
        "method": results.method,
        "header": results.header,
        "cost": results.cost,
        "rows": results.rows,
        "config": results.config,
    }
    files.write_text(folder / "results.json", json.dumps(record, indent=1) + "\n")
    plots.reconstructions(folder / "reconstructions.png", *results.pictures)
