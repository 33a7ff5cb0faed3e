# SPDX-License-Identifier: MIT
"""Results as tables for people (Markdown), for spreadsheets (CSV) and for programs (JSON)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from models import files, log, plots
from models.baselines import FLOOR, ORACLE, RETRIEVAL
from models.paired import show
from models.tables import FILE, IMAGES, KEYS, MACRO, Row, competes, sign


@dataclass(frozen=True)
class Results:
    """Everything a table or a picture needs; plain data for JSON but for the pictures.

    Every list of rows is what models.tables or models.uncertainty says.
    """

    method: str  # what was scored; the other methods of `rows` stand beside it
    header: list[str]
    conventions: dict[str, list[str]]
    rows: list[Row]
    objects: list[Row]
    scores: list[Row]
    differences: list[Row]
    uncertainty: list[Row]  # empty without draws
    cost: dict[str, Any]  # of models.cost.measure; empty for clouds from files
    config: dict[str, dict[str, Any]]
    pictures: plots.Pictures | None = None

    def of(self, protocol: str, **chosen: str) -> list[Row]:
        """The rows of a protocol with these values."""
        chosen = {"protocol": protocol, **chosen}
        return [row for row in self.rows if all(row[k] == v for k, v in chosen.items())]


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


def number(column: str, value: Any) -> str:
    """A cell: counts as they are, three digits after the point of what is below 1, else two."""
    if value is None:
        return "-"
    if isinstance(value, int | str):
        return str(value)
    if column == "gap":
        return f"{value:.2%}"
    return f"{value:.3f}" if column.startswith("F@") or abs(value) < 1 else f"{value:.2f}"


def title(column: str) -> str:
    """A column's name with an arrow to where the better numbers are."""
    return column + ("", " ↑", " ↓")[sign(column)]


def embolden(texts: list[str], values: list[float | None], better: int) -> list[str]:
    """The best of `values` in bold, by the sign of `better`; those that are None do not compete."""
    known = [better * value for value in values if value is not None]
    if not better or len(known) < 2:
        return texts
    best = max(known)
    winners = {
        t for t, v in zip(texts, values, strict=True) if v is not None and better * v == best
    }
    return [
        f"**{t}**" if v is not None and t in winners else t
        for t, v in zip(texts, values, strict=True)
    ]


def table(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table whose source is aligned as well."""
    cells = [head, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    texts = [
        " | ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    rule = " | ".join("-" * (w - 1) + ":" if i else "-" * w for i, w in enumerate(widths))
    return "\n".join(f"| {line} |" for line in (texts[0], rule, *texts[1:]))


def columns_table(rows: list[Row], columns: Sequence[str]) -> str:
    """A line for each row, named by the first column; the best method that competes in bold."""
    first, *others = columns
    cells = [[row[first] for row in rows]]
    for column in others:
        texts = [number(column, row[column]) for row in rows]
        compete = [first == "method" and competes(row[first]) for row in rows]
        values = [row[column] if c else None for row, c in zip(rows, compete, strict=True)]
        cells.append(embolden(texts, values, sign(column)))
    return table([first, *map(title, others)], [list(line) for line in zip(*cells, strict=True)])


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


def verdict(results: Results, protocol: str) -> str:
    """One sentence: the scored clouds against retrieval by image, between oracle and floor."""
    means = {row["method"]: row for row in results.of(protocol, category=MACRO)}
    own, parts = means[results.method], []
    for column in (c for c in ("CD", "EMD") if c in own):
        text = f"{column} {number(column, own[column])}"
        difference = next(
            (
                row
                for row in results.differences
                if (row["protocol"], row["method"], row["column"]) == (protocol, RETRIEVAL, column)
            ),
            None,
        )
        notes = []
        if difference:
            gap, error = difference["mean"], difference["error"]
            word = (
                "level with"
                if abs(gap) <= 2 * error
                else "better than"
                if gap < 0
                else "worse than"
            )
            text += f", {word} {RETRIEVAL}'s {number(column, means[RETRIEVAL][column])}"
            notes.append(f"difference {show(gap, error)}")
        notes += [f"{m} {number(column, means[m][column])}" for m in (ORACLE, FLOOR) if m in means]
        parts.append(text + (f" ({', '.join(notes)})" if notes else ""))
    return f"By `{protocol}`: **{'; '.join(parts)}.**"


def _method_table(results: Results, protocol: str) -> str:
    rows = []
    for row in results.of(protocol, category=MACRO):
        (images,) = results.of(protocol, category=IMAGES, method=row["method"])
        beside = {f"{c}, images": images[c] for c in ("CD", "EMD") if c in row}
        numbers = {key: value for key, value in row.items() if key not in KEYS}
        rows.append({"method": row["method"], **numbers, **beside, **cost_columns(results, row)})
    return columns_table(rows, list(rows[0]))


def _difference_table(results: Results, protocol: str) -> str:
    found = [row for row in results.differences if row["protocol"] == protocol]
    columns = list(dict.fromkeys(row["column"] for row in found))
    lines: dict[str, list[str]] = {}
    for row in found:
        line = lines.setdefault(row["method"], [f"{results.method} - {row['method']}"])
        line.append(show(row["mean"], row["error"]))
        if row["column"] in ("CD", "EMD"):
            line.append(show(row["images"], row["images_error"]))
    heads = [[title(c), *([f"{c}, images ↓"] if c in ("CD", "EMD") else [])] for c in columns]
    return table(["difference", *sum(heads, [])], list(lines.values()))


def _category_table(results: Results, protocol: str, column: str) -> str:
    """A line for each category: how many objects and images, and every method's `column`."""
    rows = results.of(protocol)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for first in results.of(protocol, method=methods[0]):
        found = [results.of(protocol, category=first["category"], method=m)[0] for m in methods]
        texts = [number(column, row[column]) for row in found]
        values = [row[column] if competes(row["method"]) else None for row in found]
        counts = [str(first["objects"]), str(first["images"])]
        lines.append([first["category"], *counts, *embolden(texts, values, sign(column))])
    return table([title(column), "objects", "images", *methods], lines)


def _section(results: Results, protocol: str) -> list[str]:
    own = results.of(protocol, method=results.method)
    columns = [key for key in own[0] if key not in KEYS]
    parts = [
        f"## {protocol}",
        "\n".join(f"{line}  " for line in results.conventions[protocol]),
        "Means of the categories, as the papers have it; of the images where a column says so. The "
        "best of what sees the image alone is bold.",
        _method_table(results, protocol),
    ]
    if any(row["protocol"] == protocol for row in results.differences):
        parts += [
            f"{results.method} minus the others, ± one standard error (a paired bootstrap over "
            f"objects, 2000 draws). Where less is better (↓), less than 0 is an advantage.",
            _difference_table(results, protocol),
        ]
    parts += [
        f"**{results.method}** by category.",
        columns_table(own, ["category", "objects", "images", *columns]),
    ]
    parts += [
        _category_table(results, protocol, c)
        for c in ("CD", "EMD")
        if c in columns and any(row["method"] != results.method for row in results.of(protocol))
    ]
    if rows := [row for row in results.uncertainty if row["protocol"] == protocol]:
        parts += [
            "How sure the network is. spread: how far a point's draws lie from their mean, x100 of "
            "the set's unit. CD for the mean of the latent, for one draw, for the best of all.",
            columns_table(rows, [key for key in rows[0] if key != "protocol"]),
        ]
    return parts


def as_markdown(results: Results) -> str:
    """A verdict first, then the tables as people read them, with every convention above them."""
    protocols = list(results.conventions)
    parts = [
        f"# {results.method}",
        "\n".join(f"{verdict(results, protocol)}  " for protocol in protocols),
        "CD, EMD: less is better (↓). F: more is better (↑). Better and worse: by more than two "
        "standard errors of the paired difference.",
        "\n".join(f"{line}  " for line in [*results.header, *describe_cost(results)]),
        "mean shape: the training set's. cluster: the mean of the shapes like the one retrieved. "
        "nearest image: the training object whose image is nearest. oracle: the training object "
        "whose shape is nearest, by CD before any alignment. floor: the truth against another "
        "sampling of itself.",
        *(part for protocol in protocols for part in _section(results, protocol)),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(record: dict[str, Any]) -> str:
    """JSON with one line for each entry of each part, so that long lists stay short files."""

    def part(value: Any) -> str:
        if isinstance(value, dict):
            inner = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()]
            return "{\n" + ",\n".join(inner) + "\n }" if inner else "{}"
        if isinstance(value, list):
            inner = [f"  {json.dumps(entry)}" for entry in value]
            return "[\n" + ",\n".join(inner) + "\n ]" if inner else "[]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f" {json.dumps(k)}: {part(v)}" for k, v in record.items()) + "\n}\n"


def write(results: Results, folder: Path) -> None:
    """results.md, results.csv, results.json and the picture grid."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "results.md", as_markdown(results))
    rows = [row | cost_columns(results, row) for row in results.rows]
    columns = dict.fromkeys(key for row in rows for key in row)  # protocols differ in theirs
    conventions = [line for lines in results.conventions.values() for line in lines]
    log.write_csv(
        folder / "results.csv",
        [{key: row.get(key) for key in columns} for row in rows],
        [*results.header, *conventions, *describe_cost(results)],
    )
    record = asdict(replace(results, pictures=None))
    del record["pictures"]
    files.write_text(folder / FILE, as_json(record))
    if results.pictures:
        plots.reconstructions(folder / "reconstructions.png", results.pictures)
