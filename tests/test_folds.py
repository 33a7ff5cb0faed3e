# SPDX-License-Identifier: MIT
"""Splits by family for cross-validation."""

from collections import Counter

import pytest
from objects import make_set

from models.data.dataset import FURNITURE, ReconstructionDataset
from models.data.folds import FOLDS, split_by_family
from models.data.manifest import read_manifest


def test_folds_test_every_object_once_and_part_no_family():
    records = read_manifest(FURNITURE)["objects"]
    copy = {**records[0], "model": "copy", "stretch": [1, 2, 1]}
    family = {f"{r['synset']}/{r['model']}": r["family"] for r in [*records, copy]}
    tested, copied = Counter(), set()
    for fold in range(FOLDS):
        tables = split_by_family([*records, copy], fold)
        keys = {s: {k for part in table.values() for k in part} for s, table in tables.items()}
        homes = {s: {family[key] for key in part} for s, part in keys.items()}
        assert not homes["train"] & homes["test"] | homes["train"] & homes["val"]
        assert not homes["val"] & homes["test"]
        copied |= {s for s, part in keys.items() if f"{copy['synset']}/copy" in part}
        tested.update(keys["test"])
        assert len(keys["test"]) == pytest.approx(0.2 * len(records), rel=0.25)
        assert len(keys["val"]) == pytest.approx(0.1 * len(records), rel=0.25)
        assert {"chair", "table"} <= {
            r["category"] for r in records if f"{r['synset']}/{r['model']}" in keys["test"]
        }
    assert copied == {"train"}
    assert tested == Counter({key: 1 for key in family if not key.endswith("/copy")})


def test_a_fold_of_a_data_set():
    splits = [ReconstructionDataset(split=s, fold=1, in_memory=0) for s in ("train", "val", "test")]
    own = [ReconstructionDataset(split=s, in_memory=0) for s in ("train", "val", "test")]
    assert sorted(sum((d.objects for d in splits), [])) == sorted(sum((d.objects for d in own), []))
    assert splits[2].objects != own[2].objects
    assert splits[0].synsets == own[0].synsets


def test_a_fold_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data.fold: expected 0 to 4, or -1, got 5"):
        ReconstructionDataset(fold=5, in_memory=0)
    with pytest.raises(ValueError, match="does not tell the family of 03001627/m0 and 11 more"):
        ReconstructionDataset(make_set(tmp_path / "set"), fold=0)
