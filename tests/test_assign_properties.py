# SPDX-License-Identifier: MIT
"""What holds of every assignment, on clouds and options drawn at random."""

import torch
from certificates import assert_valid
from hypothesis import given
from hypothesis import strategies as st

from pointloss import assign, reference
from pointloss.testing.clouds import CROWDED, KINDS, blob, make, surface, uniform

SEED, POINTS = st.integers(0, 2**31), st.integers(1, 60)


@given(SEED, POINTS, POINTS, st.sampled_from(KINDS))
def test_certificate_property(device, seed, n, m, kind):
    x, y = make(kind, 1, n, m, seed=seed, device=device)
    found = assign(x, y)
    assert_valid(x, y, found, 1e-2)
    assert found.converged.all()


@given(SEED, POINTS, st.floats(1, 8), st.sampled_from(KINDS))
def test_certificate_property_of_unequal_sizes(device, seed, n, ratio, kind):
    x, y = make(kind, 1, n, max(n, round(ratio * n)), seed=seed, device=device)
    for a, b in ((x, y), (y, x)):
        found = assign(a, b)
        assert_valid(a, b, found, 1e-2)
        assert found.converged.all()


@given(
    SEED,
    st.integers(1, 300),
    st.sampled_from([0, 1, 2, 20, 150, 300]),
    st.sampled_from(KINDS + CROWDED),
    st.booleans(),
    st.sampled_from([1e-2, 1e-4, 0]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_every_target_property(device, seed, n, more, kind, squared, rtol, dtype):
    """The CPU reaches what it is asked for; CUDA's integers may not, and then say so."""
    x, y = make(kind, 1, n, n + more, seed=seed, dtype=dtype, device=device)
    for a, b in ((x, y), (y, x)):
        gap = assert_valid(a, b, assign(a, b, squared=squared, rtol=rtol), rtol, squared)
        # Not 0: prices that are sums of costs carry their rounding.
        assert device.type != "cpu" or gap <= max(rtol, 1e-9)


@given(SEED, POINTS, POINTS, st.sampled_from(KINDS))
def test_warm_start_property(device, seed, n, m, kind):
    """Neither its own prices nor disturbed ones leave a warm start worse certified."""
    generator = torch.Generator().manual_seed(seed)
    x, y = make(kind, 1, n, m, seed=seed, device=device)
    cold = assign(x, y)
    noise = torch.rand(cold.price.shape, generator=generator, dtype=torch.float64).to(device)
    mixed = cold.idx[:, torch.randperm(n, generator=generator).to(device)]
    for price, idx in (
        (cold.price, None),
        (cold.price + 0.1 * noise, None),
        (cold.price, cold.idx),
        (cold.price + 0.1 * noise, mixed),
    ):
        warm = assign(x, y, price=price, idx=idx)
        assert_valid(x, y, warm, 1e-2)
        assert (warm.gap <= cold.gap.clamp_min(1e-2)).all()


@given(SEED, POINTS, POINTS, st.sampled_from([surface, uniform, blob]), st.booleans())
def test_invariance_property(device, seed, n, m, kind, squared):
    """Moving, turning, scaling and reordering both clouds keeps the cost, within the gaps."""
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    rows, columns = (torch.randperm(k, generator=generator).to(device) for k in (n, m))
    x, y = make(kind, 1, n, m, dtype=torch.float64, seed=seed, device=device)
    turn = turn.to(device)
    plain = assign(x, y, squared=squared, rtol=1e-3)
    for a, b, factor in (
        (x + 3, y + 3, 1),
        (x @ turn, y @ turn, 1),
        (7 * x, 7 * y, 49 if squared else 7),
        (x[:, rows], y[:, columns], 1),
        (y, x, 1),
    ):
        found = assign(a, b, squared=squared, rtol=1e-3)
        reference.matching_cost(a, b, found.idx, squared)  # raises unless it is one-to-one
        costs = torch.stack([found.cost / factor, plain.cost])
        # Both lie above the one optimum, by their gaps at most; moving the clouds rounds them.
        gaps = torch.stack([found.gap, plain.gap]) + 1e-12
        assert (costs.amax(0) - costs.amin(0) <= (gaps * costs).amax(0)).all()
