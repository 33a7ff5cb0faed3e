# SPDX-License-Identifier: MIT
"""Hausdorff, density-aware Chamfer, normal consistency, and the metrics of generated sets."""

from functools import partial

import numpy as np
import pytest
import torch

from pointloss import (
    chamfer,
    density_aware_chamfer,
    emd,
    f_score,
    generation_metrics,
    hausdorff,
    nearest,
    normal_consistency,
    pairwise_chamfer,
    pairwise_emd,
    reference,
)
from pointloss.testing.clouds import KINDS, make, surface, uniform


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_hausdorff(kind, device):
    x, y = make(kind, 2, 40, 50, dtype=torch.float64, device=device)
    for b in range(2):
        d = reference.pairwise(x[b].cpu(), y[b].cpu()).sqrt()
        forward, back = d.amin(1).amax(), d.amin(0).amax()
        torch.testing.assert_close(hausdorff(x, y)[b].cpu(), forward.maximum(back))
        torch.testing.assert_close(hausdorff(x[b], y[b], direction="x_to_y").cpu(), forward)


@pytest.mark.parametrize("percentile", [0, 50, 95, 97.3, 100])
@pytest.mark.parametrize("direction", ["both", "x_to_y"])
def test_hausdorff_percentile(percentile, direction, device, dtype):
    """numpy's percentile of each direction's distances; padding does not count."""
    x, y = make(surface, 2, 40, 50, dtype=dtype, device=device)
    lengths = torch.tensor([40, 21], device=device), torch.tensor([50, 1], device=device)
    options = {"direction": direction, "percentile": percentile}
    found = hausdorff(x, y, x_lengths=lengths[0], y_lengths=lengths[1], **options)
    assert found.dtype == dtype
    for b in range(2):
        a, c = x[b, : lengths[0][b]].cpu(), y[b, : lengths[1][b]].cpu()
        d = reference.pairwise(a, c).sqrt().numpy()
        expected = np.percentile(d.min(1), percentile)
        if direction == "both":
            expected = max(expected, np.percentile(d.min(0), percentile))
        torch.testing.assert_close(found[b].item(), expected, rtol=1e-5, atol=1e-6)
    alone = hausdorff(x[0], y[0], **options)
    torch.testing.assert_close(alone, found.new_tensor(hausdorff(x, y, **options)[0].item()))


def test_hausdorff_percentile_by_hand(device):
    x = torch.tensor([[0.0], [1], [2], [10]], device=device, requires_grad=True)
    y = torch.zeros(1, 1, device=device)  # distances 0, 1, 2, 10
    value = hausdorff(x, y, percentile=50)
    value.backward()
    assert value.item() == 1.5
    assert x.grad.flatten().tolist() == [0, 0.5, 0.5, 0]
    lost = hausdorff(x, torch.full_like(y, torch.nan), percentile=50, direction="x_to_y")
    assert lost.item() == torch.inf
    nan = torch.tensor([[0.0], [torch.nan]], device=device)
    assert hausdorff(nan, y, percentile=50).isnan()
    with pytest.raises(ValueError, match="percentile must be from 0 to 100, got 101"):
        hausdorff(x, y, percentile=101)


SIZE_FACTORS = ("none", "ratio", "ratio_at_least_1")


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("size_factor", SIZE_FACTORS)
@pytest.mark.parametrize("n_lambda", [0, 0.5, 1])
def test_density_aware_chamfer(n_lambda, size_factor, squared, device):
    x, y = make(surface, 3, 40, 50, dtype=torch.float64, device=device)
    options = {
        "alpha": 20,
        "n_lambda": n_lambda,
        "size_factor": size_factor,
        "squared": squared,
    }
    value = density_aware_chamfer(x, y, batch_reduction="none", **options)
    expected = reference.density_aware_chamfer(x.cpu(), y.cpu(), **options)
    torch.testing.assert_close(value.cpu(), expected)
    torch.testing.assert_close(density_aware_chamfer(x, y, **options), value.mean())
    assert density_aware_chamfer(x, x, **options) == 0


def test_density_aware_chamfer_tells_noise_apart_by_default(device):
    """Two samples of one sphere of unit size: the paper's alpha is made for squared distances."""
    x, y, noise = torch.randn(3, 2048, 3).to(device)
    x, y = (0.5 * p / p.norm(dim=1, keepdim=True) for p in (x, y))
    found = [density_aware_chamfer(x + scale * noise, y).item() for scale in (0, 0.01, 0.05)]
    assert found == pytest.approx([0.597, 0.63, 0.839], abs=0.01)


def test_density_aware_chamfer_lengths_nan_and_gradient(device, gradcheck):
    x, y = make(uniform, 3, 20, 30, dtype=torch.float64, device=device)
    n, m = torch.tensor([20, 5, 0], device=device), torch.tensor([30, 9, 30], device=device)
    options = {"alpha": 5, "batch_reduction": "none"}
    value = density_aware_chamfer(x, y, x_lengths=n, y_lengths=m, **options)
    cut = density_aware_chamfer(x[1, :5], y[1, :9], **options)
    torch.testing.assert_close(value[1], cut)
    for size_factor in SIZE_FACTORS:  # by the valid points
        value = density_aware_chamfer(
            x, y, x_lengths=n, y_lengths=m, size_factor=size_factor, **options
        )
        a, b = x[1:2, :5].cpu(), y[1:2, :9].cpu()
        expected = reference.density_aware_chamfer(a, b, alpha=5, size_factor=size_factor)
        torch.testing.assert_close(value[1:2].cpu(), expected)
    x[0, 0] = torch.nan
    assert density_aware_chamfer(x, y, **options).isnan().tolist() == [True, False, False]
    a = torch.rand(1, 5, 3, device=device, dtype=torch.float64, requires_grad=True)
    b = torch.rand(1, 6, 3, device=device, dtype=torch.float64, requires_grad=True)
    gradcheck(lambda p, q: density_aware_chamfer(p, q, alpha=2), (a, b))


def test_density_aware_chamfer_in_deterministic_mode(device, deterministic):
    x, y = (p.requires_grad_() for p in make(surface, 2, 40, 50, device=device))
    value = density_aware_chamfer(x, y, alpha=10)
    grads = torch.autograd.grad(value, (x, y), retain_graph=True)
    again = torch.autograd.grad(value, (x, y))
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))


def test_normal_consistency(device):
    x, y = make(surface, 2, 40, 50, dtype=torch.float64, device=device)
    n, m = torch.randn_like(x), torch.randn_like(y)
    unit_n, unit_m = n / n.norm(dim=-1, keepdim=True), m / m.norm(dim=-1, keepdim=True)
    for absolute in (True, False):
        value = normal_consistency(x, y, n, m, absolute=absolute)
        for b in range(2):
            there = (unit_n[b] * unit_m[b][nearest(x, y).idx[b]]).sum(-1)
            back = (unit_m[b] * unit_n[b][nearest(y, x).idx[b]]).sum(-1)
            if absolute:
                there, back = there.abs(), back.abs()
            torch.testing.assert_close(value[b], (there.mean() + back.mean()) / 2)
    torch.testing.assert_close(normal_consistency(x[0], y[0], n[0], m[0]).shape, torch.Size([]))
    lengths = torch.tensor([40, 7], device=device)
    value = normal_consistency(x, y, n, m, x_lengths=lengths)
    torch.testing.assert_close(value[1], normal_consistency(x[1, :7], y[1], n[1, :7], m[1]))
    with pytest.raises(ValueError, match="normal_consistency: y_normals must have shape"):
        normal_consistency(x, y, n, m[:, :3])


def test_normals_of_padding_never_reach_a_gradient(device):
    x, y = make(surface, 1, 6, 7, dtype=torch.float64, device=device)
    n, m = torch.randn_like(x), torch.randn_like(y)
    n[:, 4:] = torch.nan
    n.requires_grad_()
    value = normal_consistency(x, y, n, m, x_lengths=torch.tensor([4], device=device))
    (grad,) = torch.autograd.grad(value.sum(), n)
    assert grad.isfinite().all()
    assert grad[:, 4:].eq(0).all()


@pytest.mark.parametrize("absolute", [True, False])
def test_normal_consistency_gradient(absolute, device, gradcheck):
    """To both clouds' normals; the neighbours are constants."""
    x, y = make(surface, 2, 6, 7, dtype=torch.float64, device=device)
    n, m = torch.randn_like(x).requires_grad_(), torch.randn_like(y).requires_grad_()
    gradcheck(lambda p, q: normal_consistency(x, y, p, q, absolute=absolute), (n, m))


def consistency(x, y, absolute, **lengths):
    """Of normals that depend on the points, so that gradients can be asked for."""
    return normal_consistency(x, y, x + 1, y + 1, absolute=absolute, **lengths)


# Measures [B] with their values where exactly one of the two clouds is empty, and where both are.
WORST = {
    "chamfer": (partial(chamfer, batch_reduction="none"), torch.inf, 0),
    "chamfer, root": (partial(chamfer, squared=False, batch_reduction="none"), torch.inf, 0),
    "chamfer, sum": (
        partial(chamfer, point_reduction="sum", batch_reduction="none"),
        torch.inf,
        0,
    ),
    "hausdorff": (hausdorff, torch.inf, 0),
    "hausdorff, 95": (partial(hausdorff, percentile=95), torch.inf, 0),
    "emd": (partial(emd, batch_reduction="none"), torch.inf, 0),
    "density_aware_chamfer": (partial(density_aware_chamfer, batch_reduction="none"), 1, 0),
    "f_score": (lambda x, y, **lengths: f_score(x, y, 0.1, **lengths).f_score, 0, 0),
    "normal_consistency": (partial(consistency, absolute=True), 0, 0),
    "normal_consistency, signed": (partial(consistency, absolute=False), -1, 0),
}
every_measure = pytest.mark.parametrize("name", WORST)


@every_measure
@pytest.mark.parametrize("rows", [0, 6])
def test_an_empty_cloud_never_wins(name, rows, device):
    """Neither one without rows nor one of length 0, on either side; its gradient is 0, not NaN."""
    measure, worst, of_two = WORST[name]
    full, empty = torch.rand(2, 5, 3, device=device), torch.rand(2, rows, 3, device=device)
    zero = torch.zeros(2, dtype=torch.int64, device=device)
    for x, y, lengths, expected in (
        (full, empty, {"y_lengths": zero}, worst),
        (empty, full, {"x_lengths": zero}, worst),
        (empty, empty, {"x_lengths": zero, "y_lengths": zero}, of_two),
    ):
        for options in ({}, lengths) if rows == 0 else (lengths,):
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            value = measure(a, b, **options)
            assert value.tolist() == [expected] * 2
            if name != "f_score":
                for grad in torch.autograd.grad(value.sum(), (a, b)):
                    assert grad.eq(0).all()


@every_measure
@pytest.mark.parametrize("rows", [0, 6])
def test_a_length_out_of_range_is_nan(name, rows, device):
    """Of either cloud, also where the other one has no rows that could carry it."""
    measure = WORST[name][0]
    full, other = torch.rand(2, 5, 3, device=device), torch.rand(2, rows, 3, device=device)
    for bad in (6, -1):
        lengths = torch.tensor([5, bad], device=device)
        for value in (measure(full, other, x_lengths=lengths),
                      measure(other, full, y_lengths=lengths)):  # fmt: skip
            assert value.isnan().tolist() == [False, True]


def test_metrics_compile_whole(device):
    x, y = make(uniform, 2, 5, 6, device=device)
    lengths = torch.tensor([5, 0], device=device)

    def metrics(x, y):
        names = ("density_aware_chamfer", "f_score", "normal_consistency")
        return [WORST[name][0](x, y, x_lengths=lengths) for name in names]

    compiled = torch.compile(metrics, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), metrics(x, y))


def test_pairwise(device, deterministic, monkeypatch):  # else the bidders of the EMD may race
    a, b = torch.rand(3, 20, 3, device=device), torch.rand(4, 25, 3, device=device)
    whole = pairwise_chamfer(a, b)
    for i in range(3):
        for j in range(4):
            torch.testing.assert_close(whole[i, j], chamfer(a[i], b[j]))
    torch.testing.assert_close(pairwise_emd(a, b)[2, 3], emd(a[2], b[3]))
    monkeypatch.setattr("pointloss.metrics.generation._POINTS_PER_CALL", 100)
    torch.testing.assert_close(pairwise_chamfer(a, b), whole)
    assert pairwise_chamfer(a[:0], b).shape == (0, 4)
    assert pairwise_chamfer(a, b[:0].double()).shape == (3, 0)
    assert pairwise_chamfer(a[:0], b.double()).dtype == torch.float64
    assert torch.equal(pairwise_chamfer(list(a), b), whole)
    own = pairwise_chamfer(a)
    torch.testing.assert_close(own, pairwise_chamfer(a, a))
    assert torch.equal(own, own.T)
    sizes = [torch.tensor(n, device=device) for n in ([20, 3, 0], [1, 25, 9, 4])]
    cut = [[c[:n] for c, n in zip(v, m, strict=True)] for v, m in ((a, sizes[0]), (b, sizes[1]))]
    for distance in (pairwise_chamfer, pairwise_emd):
        value = distance(a, b, a_lengths=sizes[0], b_lengths=sizes[1])
        torch.testing.assert_close(value, distance(*cut))
        torch.testing.assert_close(distance(cut[1])[1, 3], distance(cut[1], cut[1])[1, 3])
        assert value[2].isinf().all()
    with pytest.raises(ValueError, match=r"pairwise_emd: a must be clouds \[S, N, D\], or a list"):
        pairwise_emd(a[0], b)
    with pytest.raises(ValueError, match="pairwise_emd: a and b must have shapes"):
        pairwise_emd(a, b[..., :2])
    with pytest.raises(ValueError, match="a_lengths do not apply to a list of clouds"):
        pairwise_chamfer(list(a), b, a_lengths=sizes[0])
    with pytest.raises(ValueError, match="b_lengths need b"):
        pairwise_chamfer(a, b_lengths=sizes[0])
    with pytest.raises(ValueError, match="a must have at least one cloud, got an empty list"):
        pairwise_chamfer([], b)
    with pytest.raises(TypeError, match=r"pairwise_chamfer: a must be .* torch.from_numpy\(a\)"):
        pairwise_chamfer(a.cpu().numpy(), b)


def test_generation_metrics(device):
    """Two well separated clusters of two clouds each, then the same set twice."""
    place = torch.tensor([0.0, 1.0, 10.0, 11.0], device=device)
    d = (place.unsqueeze(1) - place).abs()
    apart = generation_metrics(d[:2, 2:], d[:2, :2], d[2:, 2:])
    assert apart.one_nna == 1
    assert apart.coverage == 0.5
    assert apart.mmd == 9.5
    same = generation_metrics(d, d, d)
    assert same.coverage == 1
    assert same.mmd == 0
    # Each cloud's nearest is its double in the other set.
    assert [same.one_nna, same.one_nna_generated, same.one_nna_reference] == [0, 0, 0]
    assert same.mmd_generated == 0
    skew = generation_metrics(d[:1, 1:], d[:1, :1], d[1:, 1:])
    assert [skew.one_nna, skew.one_nna_generated, skew.mmd_generated] == [0.5, 0, 1]
    assert float(skew.one_nna_reference) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"generation_metrics: matrices .* got \[2, 4\], \[4, 4\]"):
        generation_metrics(d[:2], d, d)
    clouds = torch.rand(4, 5, 3, device=device)
    for given in ((clouds, clouds, clouds), (d, clouds, clouds)):
        with pytest.raises(ValueError, match=r"got \[4.*; make them of clouds .* pairwise_chamfer"):
            generation_metrics(*given)
    with pytest.raises(TypeError, match="generated_to_generated must be .* torch.from_numpy"):
        generation_metrics(d, d.cpu().numpy(), d)


def test_gradient_of_a_normal_that_many_points_are_nearest_to(device):
    """A long sum of small terms: no digit of float32 is lost."""
    n = 200_000
    x, y = (
        torch.rand(n, 3, device=device),
        torch.tensor([[0.5, 0.5, 0.5], [9, 9, 9]], device=device),
    )
    x_normals = torch.rand(n, 3, device=device) + 0.1
    y_normals = torch.tensor([[0.0, 0, 1], [0, 1, 0]], device=device)
    grads = []
    for dtype in (torch.float32, torch.float64):
        normals = y_normals.to(dtype).requires_grad_()
        value = normal_consistency(x.to(dtype), y.to(dtype), x_normals.to(dtype), normals)
        grads.append(torch.autograd.grad(value, normals)[0].double())
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9)
