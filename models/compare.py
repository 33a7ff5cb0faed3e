# SPDX-License-Identifier: MIT
"""Put results of models.evaluate beside one another, with the errors of their differences.

    python -m models.compare RUN [RUN ...] [--protocol plain] [--against NAME] [--out FOLDER]

RUN is a folder with a results.json, such a file, or a folder of such folders, which is a system of
its name, one run for each fold or seed. Other runs that differ in nothing but the set, its
fold or the seed are one system, and NAME=RUN puts a run into the system NAME. A system's objects
are those of all its folds; seeds on one fold are averaged object by object. A baseline of a fold is
that of the first RUN on it; baselines of one name that mean different things, such as the mean of
clouds and the mean of voxels, are told apart. What knows more than a system (the truth, the rig,
the pose) stands last and is no competitor. Prints a table of each column (CD, EMD) for each
protocol, and with --out writes compare.md and compare.json.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from models import config as configs
from models import files
from models.config import Config
from models.data.dataset import FURNITURE
from models.paired import DRAWS, Estimate, bootstrap, show
from models.report import as_json, embolden, number, table, title
from models.tables import BEST_OF, FILE, TRUE_POSE, Row, competes, read_results, sign
from models.tasks import TASKS
from models.tasks.pointmap_baselines import BLANKED
from models.tasks.voxel_answers import SHARED

# Settings that do not make another system of a run: what it ran on, and how it is judged.
CIRCUMSTANCES = {
    *("data.root", "data.fold", "data.workers", "optim.seed", "optim.deterministic", "optim.graph"),
    "network.autoencoder",  # a path, another one on every fold
    *("lifting.views", "lifting.mlp_steps", "pointmap.aligned"),
}
# What a baseline's name means hangs on these, and on the kind of the problem.
MEANING = {
    *("data.train_split", "augment.mirror", "voxel.source", "pointmap.least", "pointmap.most"),
    *("lifting.held_out", "lifting.anchors", "lifting.other_anchors", "lifting.occlusion"),
}
OF_NETWORK = (BLANKED, BLANKED + TRUE_POSE, SHARED)  # methods that ask the system's own network
KINDS = ("system", "baseline", "variant", "bound")  # of rows, in their order: see Record.kind


class Record(NamedTuple):
    """One results.json."""

    system: str
    fold: str
    objects: list[Row]
    scores: list[Row]
    method: str
    baselines: str  # what tells its baselines from those of the same name elsewhere, or ""

    def kind(self, method: str) -> str:
        """One of KINDS: a variant asks the system's network another way, a bound knows more."""
        if method == self.method:
            return "system"
        if not competes(method):
            return "bound"
        return "baseline" if self.shares(method) else "variant"

    def shares(self, method: str) -> bool:
        """Whether a method asks no network of this system, and so is the same beside others."""
        own = method == self.method or method.startswith(self.method + BEST_OF)
        return not own and method not in OF_NETWORK

    def name(self, method: str) -> str:
        """What one of its methods is called beside those of other records."""
        if self.shares(method):
            return f"{method} ({self.baselines})" if self.baselines else method
        own = method.startswith(self.method) and method not in OF_NETWORK
        return self.system + method.removeprefix(self.method) if own else f"{self.system}: {method}"


class Column(NamedTuple):
    """What one protocol and column know of a system: a score for each (fold, object)."""

    values: dict[tuple[str, str], float]
    categories: dict[tuple[str, str], str]
    images: dict[tuple[str, str], int]
    kind: str  # see Record.kind

    def estimate(self, keys: Iterable[tuple[str, str]], minus: "Column | None" = None) -> Estimate:
        """The mean over `keys`, or that of the difference to another system."""
        keys = sorted(keys)
        values = [self.values[k] - (minus.values[k] if minus else 0.0) for k in keys]
        return bootstrap(values, [self.categories[k] for k in keys], [self.images[k] for k in keys])


def read(run: str) -> dict[str, Any]:
    """A results.json of models.evaluate; ValueError if it is none, or too old to be compared.

    With `system`, the NAME of NAME=RUN, or "".
    """
    path, system = Path(run), ""
    if not path.exists() and "=" in run:
        system, _, run = run.partition("=")
        path = Path(run)
    record = read_results(path)
    if not {"objects", "scores", "config"} <= record.keys():
        raise ValueError(f"{path}: holds no scores by object; score it again: models.evaluate")
    return {"system": system, **record}


def expand(run: str) -> list[str]:
    """RUN itself, or NAME=RUN for every run that lies in a folder named NAME."""
    path = Path(run)
    inside = sorted(path.glob(f"*/{FILE}")) if not (path / FILE).exists() else []
    return [f"{path.name}={found.parent}" for found in inside] or [run]


def section(record: dict[str, Any]) -> str:
    """The config's section of its kind of problem: see models.tasks.base.Task."""
    task = TASKS.get(record["config"]["network"]["name"])
    return task.section if task else "loss"


def settings(record: dict[str, Any]) -> dict[str, Any]:
    """What makes a system: the settings of training, and the name of what was scored."""
    config = configs.update(Config(), record["config"])  # an older one lacks settings of today
    others = {task.section for task in TASKS.values()} - {section(record)}
    found = {
        f"{name}.{key}": value
        for name, values in configs.to_dict(config).items()
        for key, value in values.items()
        if name not in ("evaluate", "log", *others) and f"{name}.{key}" not in CIRCUMSTANCES
    }
    return {"method": record["method"], **found}


def name_systems(records: list[dict[str, Any]]) -> list[str]:
    """A short name for each record's system: its network, and what tells it from others of it."""
    tables = [settings(record) for record in records]
    names = []
    for own in tables:
        same = ("method", "network.preset")
        kin = [t for t in tables if all(t[key] == own[key] for key in same)]
        words = [
            f"{key.split('.')[1]}={value}"
            for key, value in own.items()
            if any(other.get(key) != value for other in kin)
        ]
        network = own["network.preset"] if own["method"] == own["network.name"] else ""
        names.append(", ".join([f"{own['method']} {network}".rstrip(), *words]))
    return names


def name_baselines(records: list[dict[str, Any]]) -> list[str]:
    """What tells each record's baselines from those of the others, "" if nothing does."""
    kinds = [section(record) for record in records]
    tables = [
        {key: value for key, value in settings(record).items() if key in MEANING}
        for record in records
    ]
    names = []
    for kind, own in zip(kinds, tables, strict=True):
        kin = [table for other, table in zip(kinds, tables, strict=True) if other == kind]
        words = [kind if kind != "loss" else "clouds"] if len(set(kinds)) > 1 else []
        words += [
            f"{key.split('.')[1]}={value}"
            for key, value in own.items()
            if any(other[key] != value for other in kin)
        ]
        names.append(", ".join(words))
    return names


def read_all(runs: list[str]) -> list[Record]:
    """The records, each with the name of its system and of its fold."""
    found = [read(run) for run in runs]
    roots = {record["config"]["data"]["root"] for record in found}
    short = {root: Path(root or FURNITURE).name for root in roots}
    if len(set(short.values())) < len(roots):
        short = {root: root or FURNITURE.name for root in roots}
    folds = []
    for record in found:
        data = record["config"]["data"]
        fold = "" if data.get("fold", -1) == -1 else f" {data['fold']}"
        folds.append(short[data["root"]] + fold)
    names, baselines = name_systems(found), name_baselines(found)
    return [
        Record(
            record["system"] or name,
            fold,
            record["objects"],
            record["scores"],
            record["method"],
            beside,
        )
        for record, name, fold, beside in zip(found, names, folds, baselines, strict=True)
    ]


def gather(records: list[Record], protocol: str, column: str) -> dict[str, Column]:
    """The scores of each system by (fold, object): the mean over its runs on that fold.

    Baselines are there as well, those of the first run on a fold.
    """
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    categories, images, kinds = {}, {}, {}
    for record in records:
        keys = [(record.fold, row["object"]) for row in record.objects]
        for key, row in zip(keys, record.objects, strict=True):
            categories[key], images[key] = row["category"], row["images"]
        for row in record.scores:
            if (row["protocol"], row["column"]) != (protocol, column):
                continue
            shared, name = record.shares(row["method"]), record.name(row["method"])
            kinds[name] = record.kind(row["method"])
            values = found.setdefault(name, {})
            for key, value in zip(keys, row["values"], strict=True):
                if value is not None and not (shared and key in values):
                    values.setdefault(key, []).append(value)
    return {
        name: Column(
            {k: sum(v) / len(v) for k, v in values.items()}, categories, images, kinds[name]
        )
        for name, values in found.items()
    }


def compare(records: list[Record], protocol: str, column: str, against: str) -> list[Row]:
    """A row for each system: means of the folds and of all, difference to the system `against`."""
    systems = gather(records, protocol, column)
    if not systems:
        return []
    if against not in systems:
        raise ValueError(f"--against: expected one of {', '.join(systems)}, got {against!r}")
    rows = []
    for system, own in systems.items():
        folds: dict[str, float] = {}
        for fold in sorted({fold for fold, _ in own.values}):
            folds[fold] = own.estimate(key for key in own.values if key[0] == fold).mean
        common = own.values.keys() & systems[against].values.keys()
        row: Row = {"protocol": protocol, "column": column, "system": system, "kind": own.kind}
        row |= {"folds": folds}
        row |= {"objects": len(own.values), **own.estimate(own.values)._asdict()}
        if system != against and common:
            difference = own.estimate(common, systems[against])
            row |= {"against": against, "common": len(common), "difference": difference._asdict()}
        rows.append(row)
    return sorted(rows, key=lambda row: (KINDS.index(row["kind"]), -sign(column) * row["mean"]))


def as_markdown(rows: list[Row]) -> str:
    """The table of one protocol and column."""
    column = rows[0]["column"]
    folds = sorted({fold for row in rows for fold in row["folds"]})
    compete = [row["kind"] != "bound" for row in rows]
    against = next((row["against"] for row in rows if "against" in row), "")

    def cells(values: list[float | None]) -> list[str]:
        texts = [number(column, value) for value in values]
        allowed = [v if c else None for v, c in zip(values, compete, strict=True)]
        return embolden(texts, allowed, sign(column))

    names = [
        row["system"] if c else f"*{row['system']}*" for row, c in zip(rows, compete, strict=True)
    ]
    parts = [names, [str(row["objects"]) for row in rows]]
    parts += [cells([row["folds"].get(fold) for row in rows]) for fold in folds if len(folds) > 1]
    for mean, error in (("mean", "error"), ("images", "images_error")):
        texts = cells([row[mean] for row in rows])
        places = [len(text.strip("*").partition(".")[2]) for text in texts]  # as the mean has them
        lines = zip(texts, places, rows, strict=True)
        parts.append([f"{text} ± {row[error]:.{digits}f}" for text, digits, row in lines])
        found = [row.get("difference") for row in rows]
        parts.append([show(d[mean], d[error]) if d else "-" for d in found])
    head = [title(column), "objects", *(folds if len(folds) > 1 else [])]
    head += ["mean", f"minus {against}", "images", f"minus {against}, images"]
    text = table(head, [list(line) for line in zip(*parts, strict=True)])
    baselines = [row for row in rows if row["kind"] == "baseline"]  # the best comes first
    return f"{text}\n\nThe best baseline: {baselines[0]['system']}." if baselines else text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="or NAME=RUN")
    parser.add_argument("--protocol", help="only this one (default: all that the results hold)")
    parser.add_argument("--against", metavar="NAME", help="default: the system of the first RUN")
    parser.add_argument("--out", type=Path, help="folder for compare.md and compare.json")
    args = parser.parse_args(argv)
    try:
        records = read_all([run for given in args.runs for run in expand(given)])
        against, folds = args.against or records[0].system, sorted({r.fold for r in records})
        protocols = dict.fromkeys(row["protocol"] for r in records for row in r.scores)
        columns = dict.fromkeys(row["column"] for r in records for row in r.scores)
        if args.protocol and args.protocol not in protocols:
            known = ", ".join(protocols)
            raise ValueError(f"--protocol: expected one of {known}, got {args.protocol!r}")
        tables = [
            compare(records, protocol, column, against)
            for protocol in ([args.protocol] if args.protocol else protocols)
            for column in columns
        ]
        tables = [rows for rows in tables if rows]
        texts = [
            f"mean: of the categories, as the papers do; images: of all images. ± one standard "
            f"error of a bootstrap over objects ({DRAWS} draws), which is paired for a difference. "
            f"↓: less is better, a difference below 0 says that a line beats {against}; ↑: more "
            f"is better. Bold: the best. In italics: bounds, which know more than a system (the "
            f"truth, the rig, the pose) or answer more than once. Folds: {', '.join(folds)}."
        ]
        for rows in tables:
            if rows[0]["column"] == next(iter(columns)):
                texts.append(f"## {rows[0]['protocol']}")
            texts.append(as_markdown(rows))
        text = "\n\n".join(texts) + "\n"
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            files.write_text(args.out / "compare.md", text)
            record = {"against": against, "rows": [row for rows in tables for row in rows]}
            files.write_text(args.out / "compare.json", as_json(record))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    if args.out:
        print(f"written: {args.out}/compare.md, .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
