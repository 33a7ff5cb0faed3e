# SPDX-License-Identifier: MIT
"""PointFlow's metrics, cloud by cloud, with scipy's matching."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from pointloss import occupancy_jsd
from pointloss.compat.pointflow import (
    EMD_CD,
    compute_all_metrics,
    jsd_between_point_cloud_sets,
)


@pytest.fixture
def sets(device):
    draw = [torch.randn(n, 16, 3, dtype=torch.float64, device=device) for n in (5, 4)]
    return [0.4 * d / d.norm(dim=-1, keepdim=True) for d in draw]


def distance(a, b, kind):
    pairs = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").cpu()
    if kind == "CD":
        return (pairs.square().amin(0).mean() + pairs.square().amin(1).mean()).item()
    rows, columns = linear_sum_assignment(pairs)
    return pairs[rows, columns].mean().item()


def matrix(a, b, kind):
    return np.array([[distance(p, q, kind) for q in b] for p in a])


def test_every_key_by_brute_force(sets):
    """Within 1 % of scipy's EMD; counts agree if no nearest cloud is that near to the second."""
    samples, refs = sets
    found = compute_all_metrics(samples, refs, 7)
    assert len(found) == 12
    for kind, rtol in (("CD", 1e-9), ("EMD", 1e-2)):
        cross = matrix(refs, samples, kind)  # [R, S]
        everyone = np.block(
            [[matrix(refs, refs, kind), cross], [cross.T, matrix(samples, samples, kind)]]
        )
        np.fill_diagonal(everyone, np.inf)
        by_reference = everyone.argmin(1) < len(refs)
        true, false = by_reference[:4], ~by_reference[4:]
        expected = {
            "lgan_mmd": cross.min(1).mean(),
            "lgan_mmd_smp": cross.min(0).mean(),
            "lgan_cov": len(set(cross.argmin(0))) / 4,
            "acc_t": true.mean(),
            "acc_f": false.mean(),
            "acc": np.concatenate([true, false]).mean(),
        }
        for name, value in expected.items():
            key = f"1-NN-{kind}-{name}" if "acc" in name else f"{name}-{kind}"
            assert found[key].item() == pytest.approx(value, rel=rtol), key


def test_pairs_of_reconstruction(sets):
    samples, refs = sets[0][:4], sets[1]
    for reduced in (True, False):
        found = EMD_CD(samples, refs, 3, reduced=reduced)
        for kind, rtol in (("CD", 1e-9), ("EMD", 1e-2)):
            each = [distance(p, q, kind) for p, q in zip(samples, refs, strict=True)]
            expected = np.mean(each) if reduced else np.array(each)
            assert found[f"MMD-{kind}"].cpu().numpy() == pytest.approx(expected, rel=rtol)
    with pytest.raises(ValueError, match="both sets must have one size, got 5 and 4"):
        EMD_CD(*sets, 3)


def test_jsd_of_arrays(sets):
    value = jsd_between_point_cloud_sets(*(s.cpu().numpy() for s in sets))
    assert value == pytest.approx(occupancy_jsd(*sets).item())
