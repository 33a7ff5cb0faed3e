# SPDX-License-Identifier: MIT
"""Errors of several methods on the same test items: as tables, and as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import files, log
from models.data.dataset import ReconstructionDataset
from models.paired import bootstrap, show
from models.report import as_json, columns_table, embolden, number, table, title
from models.tables import IMAGES, MACRO, Row, by_category, by_object, competes, short, sign


def by_group(
    groups: dict[str, Tensor],
    owners: Tensor,
    data: ReconstructionDataset,
    values: dict[str, Tensor],
) -> tuple[list[Row], dict[str, Tensor]]:
    """Items and values of `Results` from those of samples: an object is one item of each group.

    `groups` are masks [S] of the samples, `owners` [S] their objects in `data`, `values` by method
    [S, columns]. A group without samples has no items.
    """
    items: list[Row] = []
    found: dict[str, list[Tensor]] = {name: [] for name in values}
    for group, own in groups.items():
        if not own.any():
            continue
        for owner in owners[own].unique().tolist():
            category = data.categories[data.object_categories[owner]]
            items.append({"group": group, "category": category, "object": data.objects[owner]})
        for name, each in values.items():
            found[name].append(by_object(each[own], owners[own]))
    return items, {name: torch.cat(parts) for name, parts in found.items()}


@dataclass(frozen=True)
class Results:
    """What `as_markdown` and `write` need.

    The first method is what was trained. Columns are named so that models.tables.sign knows whether
    less or more is better; the first one is shown by category. Which methods may be the best, their
    names tell: models.tables.competes.
    """

    header: list[str]  # sentences: what was scored, in which unit, and what the methods are
    columns: list[str]
    items: list[Row]  # {group, category, object}: each group has tables of its own
    values: dict[str, Tensor]  # by method: [items, columns]; NaN: no answer in this whole group
    config: dict[str, dict[str, Any]]

    @property
    def method(self) -> str:
        """What was trained."""
        return next(iter(self.values))

    def groups(self) -> dict[str, list[int]]:
        """The items of each group."""
        found: dict[str, list[int]] = {}
        for number_, item in enumerate(self.items):
            found.setdefault(item["group"], []).append(number_)
        return found

    def of(self, group: list[int]) -> dict[str, Tensor]:
        """Values of the methods that answer in a group: [items of the group, columns]."""
        parts = {method: values[group] for method, values in self.values.items()}
        return {method: part for method, part in parts.items() if not part.isnan().any()}


def rows(results: Results) -> list[Row]:
    """{group, method, category, objects, images, columns}: means; see models.tables.by_category."""
    found = []
    for name, group in results.groups().items():
        categories = [results.items[i]["category"] for i in group]
        means = by_category(results.of(group), results.columns, categories, group)
        found += [{"group": name, **row} for row in means]
    return found


def differences(results: Results) -> list[Row]:
    """What was trained minus each other method: {group, method, column, fields of Estimate}."""
    found = []
    for name, group in results.groups().items():
        categories, ones = [results.items[i]["category"] for i in group], [1] * len(group)
        values = results.of(group)
        own = values.pop(results.method)
        for method, other in values.items():
            for number_, column in enumerate(results.columns):
                gap = (own - other)[:, number_].double().numpy()
                estimate = bootstrap(gap, categories, ones)._asdict()
                key = {"group": name, "method": method, "column": column}
                found.append({**key, **{k: short(v) for k, v in estimate.items()}})
    return found


def scores(results: Results) -> list[Row]:
    """The value of every item, None outside of the group: {protocol, method, column, values}."""
    found = []
    for name, group in results.groups().items():
        for method, values in results.of(group).items():
            for number_, column in enumerate(results.columns):
                line: list[float | None] = [None] * len(results.items)
                for item, value in zip(group, values[:, number_].tolist(), strict=True):
                    line[item] = float(f"{value:.5g}")
                key = {"protocol": name, "method": method, "column": column}
                found.append({**key, "values": line})
    return found


def as_markdown(results: Results) -> str:
    """For each group the means, the paired differences and the first column by category."""
    parts = [
        f"# {results.method}",
        "\n".join(f"{line}  " for line in results.header),
        "Means of the categories. The best is bold; it is chosen among the methods that see what "
        f"{results.method} sees. Differences: {results.method} minus the others, ± one standard "
        "error (a paired bootstrap over the test items, 2000 draws).",
    ]
    means, gaps, first = rows(results), differences(results), results.columns[0]
    for name in results.groups():
        own = [row for row in means if row["group"] == name]
        chosen = [row for row in own if row["category"] == MACRO]
        parts += [f"## {name}: {chosen[0]['objects']} items"]
        parts.append(columns_table(chosen, ["method", *results.columns]))
        lines = {
            row["method"]: [f"{results.method} - {row['method']}"]
            for row in gaps
            if row["group"] == name
        }
        for row in gaps:
            if row["group"] == name:
                lines[row["method"]].append(show(row["mean"], row["error"]))
        if lines:
            head = ["difference", *map(title, results.columns)]
            parts.append(table(head, list(lines.values())))
        parts.append(_by_category(results, own, first))
    return "\n\n".join(parts) + "\n"


def _by_category(results: Results, own: list[Row], column: str) -> str:
    methods = list(dict.fromkeys(row["method"] for row in own))
    names = dict.fromkeys(row["category"] for row in own if row["category"] not in (MACRO, IMAGES))
    lines = []
    for name in names:
        found = [row for row in own if row["category"] == name]
        values = [row[column] if competes(row["method"]) else None for row in found]
        texts = embolden([number(column, row[column]) for row in found], values, sign(column))
        lines.append([name, str(found[0]["objects"]), *texts])
    return table([title(column), "items", *methods], lines)


def write(results: Results, folder: Path) -> str:
    """results.md, results.csv, results.json; the tables in Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = as_markdown(results)
    files.write_text(folder / "results.md", text)
    log.write_csv(folder / "results.csv", rows(results), results.header)
    record = {
        "method": results.method,
        "header": results.header,
        "columns": results.columns,
        "rows": rows(results),
        "objects": [{**item, "images": 1} for item in results.items],
        "scores": scores(results),
        "differences": differences(results),
        "config": results.config,
    }
    files.write_text(folder / "results.json", as_json(record))
    return text
