# SPDX-License-Identifier: MIT
"""Families of look-alikes, and a split that never parts a family."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Any

import numpy as np

NEAR = 0.01  # mean distance between two unit-sized shapes below which they count as the same one
TEST_SHARE, VAL_SHARE = 0.20, 0.10


def shape_distance(x: tuple[Any, Any], y: tuple[Any, Any]) -> float:
    """Mean distance point -> other shape, averaged over both directions (unsquared).

    x and y are (points [N, 3], tree over a much denser sampling of the same shape): a dense target
    keeps the distance between two samplings of one shape well below NEAR.
    """
    return float(x[1].query(y[0])[0].mean() + y[1].query(x[0])[0].mean()) / 2


def near_duplicates(
    shapes: dict[str, np.ndarray], others: dict[str, np.ndarray] | None = None
) -> list[tuple[str, str]]:
    """Pairs of keys whose shapes, sampled as independent points [M, 3], nearly coincide.

    The pairs are among `shapes`, or, where `others` are given, of a shape and one of the others.
    """
    from scipy.spatial import cKDTree

    def alike(x: tuple[Any, Any], y: tuple[Any, Any]) -> bool:
        # A few points tell most pairs apart, for a tenth of the time.
        few = y[1].query(x[0][::16])[0].mean()
        return few < 3 * NEAR and shape_distance(x, y) < NEAR

    known = shapes | (others or {})
    items = {
        key: (dense[:: max(1, len(dense) // 2048)], cKDTree(dense)) for key, dense in known.items()
    }
    extent = {key: np.ptp(dense, axis=0) for key, dense in known.items()}
    left = sorted(shapes)
    pairs = []
    for i, a in enumerate(left):
        for b in left[i + 1 :] if others is None else sorted(others):
            # Boxes this different hold different shapes; it saves most of the queries.
            if np.abs(extent[a] - extent[b]).max() < 0.1 and alike(items[a], items[b]):
                pairs.append((a, b))
    return pairs


def families(names: dict[str, str], pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Family id of every key: keys with one name, and keys joined by a pair, share a family."""
    parent = {key: key for key in names}

    def root(key: str) -> str:
        while parent[key] != key:
            key = parent[key]
        return key

    first: dict[str, str] = {}
    same_name = [(first.setdefault(name, key), key) for key, name in sorted(names.items())]
    for a, b in same_name + sorted(pairs):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {key: names[root(key)] for key in names}


def split(
    family: dict[str, str], category: dict[str, str], fixed: dict[str, str] | None = None
) -> dict[str, str]:
    """Split ("train", "val", "test") of every key, about 70/10/20 per category.

    A family that has a member in `fixed` (a committed split) goes where that member is. The others
    are visited in the order of a hash of their id and go to test, then val, while they fit the
    category's quota; the rest trains. Every category keeps at least half its objects there.
    """
    members = defaultdict(list)
    for key, name in family.items():
        members[name].append(key)
    total = Counter(category.values())
    # An object to test on where one can be spared, and one to validate on where two can.
    quota = {c: {"test": max(n > 1, round(n * TEST_SHARE)), "val": max(n > 3, round(n * VAL_SHARE))}
             for c, n in total.items()}  # fmt: skip
    result = {}
    given = {family[key]: part for key, part in sorted((fixed or {}).items()) if key in family}
    order = sorted(members, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    for name in sorted(order, key=lambda name: name not in given):
        need = Counter(category[key] for key in members[name])
        fitting = (p for p in ("test", "val") if all(quota[c][p] >= n for c, n in need.items()))
        part = given.get(name) or next(fitting, "train")
        for c, n in need.items():
            if part != "train":
                quota[c][part] -= n
        result.update(dict.fromkeys(members[name], part))
    return result
