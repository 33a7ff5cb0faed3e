# SPDX-License-Identifier: MIT
"""Nearest neighbours, both directions with indices.

    pytest benchmarks/bench_nearest.py --benchmark-only --benchmark-json=FILE
    python -m benchmarks.report FILE

Every result of pointloss is verified against the float64 reference before it is timed.
"""

import functools

import pytest
import torch

from benchmarks import baselines, harness
from pointloss import NearestIndex, nearest, nearest_both, reference
from pointloss.testing.clouds import (
    EQUIDISTANT,
    blob,
    duplicates,
    lattice,
    make,
    outlier,
    surface,
    two_scales,
    uniform,
)

pytestmark = pytest.mark.benchmark(timer=harness.timer)

SIZES = [(32, 256), (32, 512), (32, 2048), (32, 8192), (8, 16384)]
SIZES += [(1, 16384), (1, 131072), (1, 1048576)]
KINDS = [surface, uniform, blob, duplicates, lattice, outlier, two_scales]
ON_GPU = torch.cuda.is_available()
PEERS = baselines.nearest_peers()  # once: an import that fails is slow and prints


def verify(x, y, found):
    """A sample of two clouds against the float64 reference; the indices attain every distance."""
    for source, target, (dist, idx) in ((x, y, found[0]), (y, x, found[1])):
        # As many rows as a distance matrix of a fifth of a GB has room for; where the clouds are.
        count = min(200, max(4, 10**7 // target.shape[1]))
        rows = torch.randint(source.shape[1], (count,), device=source.device)
        for b in {0, len(source) - 1}:
            expected = reference.pairwise(source[b, rows], target[b]).amin(1)
            torch.testing.assert_close(dist[b, rows].double(), expected, rtol=1e-5, atol=0)
        attained = (source - target.gather(1, idx.unsqueeze(-1).expand_as(source))).square()
        torch.testing.assert_close(attained.sum(-1), dist, rtol=1e-5, atol=0)


# Made on the CPU, of all sizes: once for the tests that follow each other with the same.
clouds = functools.lru_cache(maxsize=1)(make)


def sizes():
    def marks(batch, points):
        return [] if ON_GPU or points <= 16384 or batch == 1 else [pytest.mark.slow]

    return [pytest.param(b, n, marks=marks(b, n), id=f"{b}x{n}") for b, n in SIZES]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize(("batch", "points"), sizes())
def test_pointloss(benchmark, kind, batch, points):
    x, y = make(kind, batch, points, points, device=harness.device())
    verify(x, y, nearest_both(x, y))
    harness.measure(benchmark, lambda: nearest_both(x, y), rounds=30 if ON_GPU else 3)
    benchmark.extra_info.update(
        op="nearest", method="pointloss", kind=kind.__name__, batch=batch, points=points,
        peak_bytes=harness.peak_bytes(lambda: nearest_both(x, y)),
    )  # fmt: skip


@pytest.mark.parametrize(("n", "m"), [(2048, 16384), (16384, 2048)])
def test_unequal(benchmark, n, m):
    x, y = make(surface, 8, n, m, device=harness.device())
    verify(x, y, nearest_both(x, y))
    harness.measure(benchmark, lambda: nearest_both(x, y), rounds=30 if ON_GPU else 3)
    benchmark.extra_info.update(
        op="nearest", method="pointloss", kind=f"surface, M = {m}", batch=8, points=n
    )


@pytest.mark.parametrize("kind", EQUIDISTANT, ids=lambda k: k.__name__)
@pytest.mark.parametrize("points", [131072, 1048576] if ON_GPU else [16384])
def test_far_from_all(benchmark, kind, points):
    """Queries to which much of the other cloud is about equally near."""
    x, y = make(kind, 1, points, points, device=harness.device())
    verify(x, y, nearest_both(x, y))
    harness.measure(benchmark, lambda: nearest_both(x, y), rounds=10 if ON_GPU else 3)
    benchmark.extra_info.update(
        op="nearest", method="pointloss", kind=kind.__name__, batch=1, points=points
    )


@pytest.mark.parametrize("part", ["build", "query"])
@pytest.mark.parametrize("points", [16384, 131072, 1048576] if ON_GPU else [16384, 131072])
def test_index(benchmark, points, part):
    """A target that stays: its index built, and asked once, one direction."""
    x, y = make(surface, 1, points, points, device=harness.device())
    index = NearestIndex(y)
    found, expected = index.query(x), nearest(x, y)
    assert torch.equal(found.dist, expected.dist)
    assert torch.equal(found.idx, expected.idx)
    calls = {"build": lambda: NearestIndex(y), "query": lambda: index.query(x)}
    harness.measure(benchmark, calls[part], rounds=10 if ON_GPU else 3)
    benchmark.extra_info.update(
        op="nearest", method="pointloss", kind=f"surface, index, {part}", batch=1, points=points
    )


def dimensions():
    """Points, their dimension and the method; on the CPU a tree up to D = 8, for D = 1 a sort."""
    for points, dim in ((16384, 1), (16384, 6), (16384, 16), (8192, 64)):
        yield from ((points, dim, k) for k in ("pointloss", "torch", "torch by products, inexact"))
        if not ON_GPU and dim <= 8:
            yield points, dim, "scipy"
        if not ON_GPU and dim == 1:
            yield points, dim, "sort"


@pytest.mark.parametrize(("points", "dim", "method"), dimensions())
def test_dimension(benchmark, points, dim, method):
    """Other dimensions than 3, one direction, with its index."""
    skip_if_too_large(method, 1, points)
    x, y = torch.rand(2, 1, points, dim, device=harness.device())
    calls = {
        "pointloss": lambda: nearest(x, y),
        "torch": lambda: torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").min(2),
        "torch by products, inexact": lambda: torch.cdist(
            x, y, compute_mode="use_mm_for_euclid_dist"
        ).min(2),
        "scipy": lambda: baselines.scipy_k_nearest(x, y, 1),
        "sort": lambda: baselines.sort_nearest(x, y),
    }
    if method == "pointloss":
        verify(x, y, nearest_both(x, y))
    harness.measure(benchmark, calls[method], rounds=30 if ON_GPU else 3)
    benchmark.extra_info.update(
        op="nearest", method=method, kind=f"even, D = {dim}", batch=1, points=points,
        peak_bytes=harness.peak_bytes(calls[method]),
    )  # fmt: skip


def scaling():
    """Powers of two and 10 million; brute force and the distance matrix while they take seconds."""
    most = 2**23 if ON_GPU else 2**18
    cases = []
    for points in [*(2**k for k in range(8, most.bit_length())), *([10**7] if ON_GPU else [])]:
        cases += [("auto", points), ("tree", points)]
        if points <= (2**18 if ON_GPU else 2**16):
            cases.append(("brute", points))
        if points <= (2**15 if ON_GPU else 2**13):
            cases.append(("torch", points))
    return cases


@pytest.mark.parametrize(("method", "points"), scaling())
def test_scaling(benchmark, method, points):
    """One pair of clouds of a surface, by each method: where do they cross, is there a cliff?"""
    x, y = clouds(surface, 1, points, points, device=harness.device())
    if method == "torch":
        call = lambda: baselines.torch_nearest(x, y)  # noqa: E731
    else:
        call = lambda: nearest_both(x, y, method=method)  # noqa: E731
        verify(x, y, call())
    harness.measure(benchmark, call, rounds=10 if points < 2**20 else 3)
    benchmark.extra_info.update(
        op="scaling", method=method, kind="surface", batch=1, points=points,
        peak_bytes=harness.peak_bytes(call),
    )  # fmt: skip


def skip_if_too_large(method, batch, points):
    """From 2^31 pairs on, torch.cdist fails on a GPU; a CPU's memory ends before."""
    if method == "torch" and batch * points * points >= (2**31 if ON_GPU else 2**28):
        pytest.skip("the full distance matrix does not fit")


@pytest.mark.parametrize("method", ["pointloss", "torch", *([] if ON_GPU else ["scipy"])])
@pytest.mark.parametrize("k", [8, 32])
@pytest.mark.parametrize(("batch", "points"), [(32, 2048), (1, 16384), (1, 131072)])
def test_k_nearest(benchmark, batch, points, k, method):
    """The k nearest of each point of x, against torch.cdist with topk and, on the CPU, cKDTree."""
    skip_if_too_large(method, batch, points)
    x, y = make(surface, batch, points, points, device=harness.device())
    calls = {
        "pointloss": lambda: nearest(x, y, k=k).dist,
        "torch": lambda: baselines.torch_k_nearest(x, y, k),
        "scipy": lambda: baselines.scipy_k_nearest(x, y, k),
    }
    rows = torch.randint(points, (50,), device=x.device)
    expected = reference.pairwise(x[-1, rows], y[-1]).topk(k, largest=False).values
    found = calls[method]()[-1].to(x.device)[rows]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-9)
    harness.measure(benchmark, calls[method], rounds=30 if ON_GPU else 3)
    benchmark.extra_info.update(
        op="nearest", method=method, kind=f"surface, k = {k}", batch=batch, points=points,
        peak_bytes=harness.peak_bytes(calls[method]),
    )  # fmt: skip


@pytest.mark.skipif(ON_GPU, reason="recorded on a machine without a GPU")
@pytest.mark.parametrize(("batch", "points"), sizes())
def test_scipy(benchmark, batch, points):
    """cKDTree and pointloss on the CPU in turns: the ratio is of one run on one machine."""
    x, y = make(surface, batch, points, points)
    theirs = baselines.scipy_nearest(x, y)
    for found, expected in zip(nearest_both(x, y), theirs, strict=True):
        torch.testing.assert_close(found.dist.double(), expected, rtol=1e-4, atol=1e-9)
    ours_s, theirs_s = harness.paired_cpu_seconds(
        lambda: nearest_both(x, y), lambda: baselines.scipy_nearest(x, y), rounds=3
    )
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(
        op="nearest", method="scipy", kind="surface", batch=batch, points=points,
        pointloss_cpu_seconds=ours_s, scipy_seconds=theirs_s,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["torch", *PEERS])
@pytest.mark.parametrize(("batch", "points"), sizes())
def test_baseline(benchmark, name, batch, points):
    skip_if_too_large(name, batch, points)
    call = baselines.torch_nearest if name == "torch" else PEERS[name]
    x, y = make(surface, batch, points, points, device=harness.device())
    harness.measure(benchmark, lambda: call(x, y), rounds=10)
    benchmark.extra_info.update(
        op="nearest", method=name, kind="surface", batch=batch, points=points
    )
