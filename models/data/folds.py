# SPDX-License-Identifier: MIT
"""Other splits of a prepared set, by its families: one for each fold of a cross-validation."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

FOLDS = 5  # each tests on its own fifth; two tenths a fold
TENTHS = 2 * FOLDS
Table = dict[str, list[str]]  # {synset: ["synset/model", ...]}


def split_by_family(records: Iterable[dict[str, Any]], fold: int) -> dict[str, Table]:
    """The tables "train", "val" and "test" of a fold, 0..4, from the manifest's records.

    Families, in the order of a hash of their names, fill ten tenths that are as even as they can be
    in every category. A fold tests on two of them, validates on the next and trains on the others.
    So the test objects of two folds differ, and no family is parted. Stretched copies only train.
    """
    if not 0 <= fold < FOLDS:
        raise ValueError(f"data.fold: expected 0 to {FOLDS - 1}, or -1, got {fold}")
    members: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        members[record["family"]].append(record)
    filled, everything = [Counter[str]() for _ in range(TENTHS)], Counter[int]()
    result: dict[str, Table] = {name: defaultdict(list) for name in ("train", "val", "test")}
    for family in sorted(members, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        need = Counter(r["synset"] for r in members[family] if "stretch" not in r)
        tenth = min(
            range(TENTHS),
            key=lambda t: (sum(n * filled[t][c] for c, n in need.items()), everything[t], t),
        )
        filled[tenth] += need
        everything[tenth] += need.total()
        place = (tenth - 2 * fold) % TENTHS
        split = {0: "test", 1: "test", 2: "val"}.get(place, "train")
        for record in members[family]:
            if split == "train" or "stretch" not in record:
                key = f"{record['synset']}/{record['model']}"
                result[split][record["synset"]].append(key)
    return {name: dict(table) for name, table in result.items()}
