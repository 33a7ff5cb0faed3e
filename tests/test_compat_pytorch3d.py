# SPDX-License-Identifier: MIT
"""pytorch3d's documented behaviour, against plain torch over all pairs of points."""

import runpy
from pathlib import Path

import pytest
import torch

from pointloss.compat.pytorch3d import chamfer_distance, knn_gather, knn_points

KS = (1, 2, 5, 16)


@pytest.fixture
def clouds(device):
    """Three pairs with lengths; the shortest cloud has three points."""
    x, y = (torch.randn(3, n, 3, dtype=torch.float64, device=device) for n in (12, 9))
    lengths = {
        "x_lengths": torch.tensor([12, 5, 3], device=device),
        "y_lengths": torch.tensor([9, 4, 7], device=device),
    }
    normals = {
        "x_normals": torch.nn.functional.normalize(torch.randn_like(x), dim=-1),
        "y_normals": torch.nn.functional.normalize(torch.randn_like(y), dim=-1),
    }
    return x, y, lengths, normals


def distances(a, b, norm):
    diff = a.unsqueeze(1) - b.unsqueeze(0)
    return diff.square().sum(-1) if norm == 2 else diff.abs().sum(-1)


def one_way(a, b, a_normals, b_normals, norm, abs_cosine):
    """Distances and normal terms of one pair of clouds, [n] each."""
    dist, idx = distances(a, b, norm).min(1)
    cosine = torch.nn.functional.cosine_similarity(a_normals, b_normals[idx], dim=-1)
    return dist, 1 - (cosine.abs() if abs_cosine else cosine)


def expected(x, y, lengths, normals, weights, batch, points, norm, single, abs_cosine):
    """(loss, loss_normals), cloud by cloud, as pytorch3d's documentation defines them."""
    rows = []
    for b, (n, m) in enumerate(zip(*(v.tolist() for v in lengths.values()), strict=True)):
        a, c, an, cn = x[b, :n], y[b, :m], *(v[b] for v in normals.values())
        there = one_way(a, c, an[:n], cn[:m], norm, abs_cosine)
        back = one_way(c, a, cn[:m], an[:n], norm, abs_cosine)
        reduce = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}[points]
        parts = [[reduce(v) for v in way] for way in ((there,) if single else (there, back))]
        join = max if points == "max" else sum
        rows.append(torch.stack([join(way[i] for way in parts) for i in (0, 1)]))
    values = torch.stack(rows)
    if weights is not None:
        values = values * weights.unsqueeze(1)
    if batch is not None:
        values = values.sum(0)
    if batch == "mean":
        values = values / (3 if weights is None else weights.sum())
    return values.unbind(-1)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("single", [False, True], ids=["both", "single"])
@pytest.mark.parametrize("points", ["mean", "sum", "max"])
def test_every_reduction(points, single, norm, clouds, device):
    x, y, lengths, normals = clouds
    w = torch.tensor([0.5, 0, 3], dtype=x.dtype, device=device)
    for batch in ("mean", "sum", None):
        for weights in (None, w):
            for abs_cosine in (True, False):
                options = (batch, points, norm, single, abs_cosine)
                found = chamfer_distance(
                    x, y, *lengths.values(), *normals.values(), weights, *options
                )
                torch.testing.assert_close(
                    found, expected(x, y, lengths, normals, weights, *options)
                )
    loss, none = chamfer_distance(x, y, point_reduction=points, norm=norm)
    assert loss.shape == ()
    assert none is None


@pytest.mark.parametrize("weights", [None, [0.5, 0, 3]], ids=["plain", "weights"])
def test_unreduced(weights, clouds, device):
    x, y, lengths, normals = clouds
    scale = torch.ones(3, 1, dtype=x.dtype, device=device)
    if weights is not None:
        weights = torch.tensor(weights, dtype=x.dtype, device=device)
        scale = weights.unsqueeze(1)
    given = {**lengths, **normals, "weights": weights, "batch_reduction": None}
    (to_y, to_x), (n_y, n_x) = chamfer_distance(x, y, point_reduction=None, **given)
    for b, (n, m) in enumerate(zip(*(v.tolist() for v in lengths.values()), strict=True)):
        sides = x[b, :n], y[b, :m], normals["x_normals"][b, :n], normals["y_normals"][b, :m]
        there = one_way(*sides, 2, True)
        back = one_way(sides[1], sides[0], sides[3], sides[2], 2, True)
        for found, term in zip((to_y, n_y, to_x, n_x), (*there, *back), strict=True):
            torch.testing.assert_close(found[b, : len(term)], scale[b] * term)
            assert found[b, len(term) :].eq(0).all()
    one, n_one = chamfer_distance(x, y, point_reduction=None, single_directional=True, **given)
    assert torch.equal(one, to_y)
    assert torch.equal(n_one, n_y)


def test_objects_with_padded_points(clouds):
    x, y, lengths, normals = clouds

    class Pointclouds:
        def __init__(self, points, count, normals):
            self.points_padded = lambda: points
            self.num_points_per_cloud = lambda: count
            self.normals_padded = lambda: normals

    a = Pointclouds(x, lengths["x_lengths"], normals["x_normals"])
    b = Pointclouds(y, lengths["y_lengths"], normals["y_normals"])
    found = chamfer_distance(a, b)
    torch.testing.assert_close(found, chamfer_distance(x, y, **lengths, **normals))
    plain = chamfer_distance(a, Pointclouds(y, lengths["y_lengths"], None))
    assert plain[1] is None
    torch.testing.assert_close(plain[0], found[0])


def test_gradients(clouds, gradcheck):
    x, y, lengths, normals = (v[:, :4] if isinstance(v, torch.Tensor) else v for v in clouds)
    lengths = {name: n.clamp_max(4) for name, n in lengths.items()}
    normals = {name: n[:, :4] for name, n in normals.items()}
    w = torch.tensor([0.5, 0.25, 3], dtype=x.dtype, device=x.device)
    gradcheck(
        lambda a, b: chamfer_distance(a, b, **lengths, **normals, weights=w)[0],
        (x.clone().requires_grad_(), y.clone().requires_grad_()),
    )


def test_empty_clouds(clouds, device):
    """An empty target is no perfect match; weight 0 leaves it out. A batch of none is 0."""
    x, y, *_ = clouds
    lengths = torch.tensor([9, 0, 9], device=device)
    loss = chamfer_distance(x, y, y_lengths=lengths, batch_reduction=None)[0]
    assert loss.isinf().tolist() == [False, True, False]
    w = torch.tensor([1.0, 0, 1], dtype=x.dtype, device=device)
    kept = chamfer_distance(x, y, y_lengths=lengths, weights=w)[0]
    torch.testing.assert_close(kept, loss[[0, 2]].mean())
    alone = chamfer_distance(x, y, y_lengths=lengths, weights=w, batch_reduction=None)[0]
    torch.testing.assert_close(alone, torch.where(w == 0, 0, loss))
    assert chamfer_distance(x[:0], y[:0])[0] == 0


def test_gradient_at_equal_coordinates_is_0(device):
    x = torch.rand(1, 5, 3, device=device, requires_grad=True)
    loss, _ = chamfer_distance(x, x.detach().clone(), norm=1)
    assert torch.autograd.grad(loss, x)[0].eq(0).all()


def test_errors(clouds):
    x, y, _, normals = clouds
    negative = -torch.ones(3, dtype=x.dtype, device=x.device)
    for options, text in (
        ({"batch_reduction": "max"}, "batch_reduction must be one of 'mean', 'sum', None"),
        ({"point_reduction": "none"}, "point_reduction must be one of .*, got 'none'"),
        ({"point_reduction": None}, "point_reduction None needs batch_reduction None"),
        ({"norm": 3}, "norm must be one of 1, 2"),
        ({"weights": negative[:2]}, r"weights must have shape \[3\], got \[2\]"),
        ({**normals, "y_normals": normals["x_normals"]}, "idx.y_to_x must have shape"),
        ({"x_lengths": negative[:2].long()}, r"x_lengths must have shape \[3\]"),
    ):
        with pytest.raises(ValueError, match=text):
            chamfer_distance(x, y, **options)
    with pytest.raises(ValueError, match=r"x must have shape \[N, P, D\], got \[12, 3\]"):
        chamfer_distance(x[0], y[0])
    if x.device.type == "cpu":
        with pytest.raises(ValueError, match="weights must not be negative"):
            chamfer_distance(x, y, weights=negative)
    else:
        assert chamfer_distance(x, y, weights=negative)[0].isnan()


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("k", KS)
def test_knn_points(k, norm, clouds):
    x, y, lengths, _ = clouds
    n, m = lengths.values()
    for ends in ({}, {"lengths1": n, "lengths2": m}):
        dists, idx, near = knn_points(x, y, norm=norm, K=k, return_nn=True, **ends)
        assert (dists.shape, idx.shape, near.shape) == ((3, 12, k), (3, 12, k), (3, 12, k, 3))
        assert idx.dtype == torch.int64
        for b in range(3):
            rows = n[b] if ends else 12
            columns = m[b] if ends else 9
            found = min(k, columns)
            pairs = distances(x[b, :rows], y[b, :columns], norm)
            expected, order = pairs.sort(dim=1, stable=True)
            torch.testing.assert_close(dists[b, :rows, :found], expected[:, :found])
            assert torch.equal(idx[b, :rows, :found], order[:, :found])
            torch.testing.assert_close(near[b, :rows, :found], y[b][order[:, :found]])
            for past in (dists[b, rows:], idx[b, rows:], dists[b, :, found:], idx[b, :, found:]):
                assert past.eq(0).all()
            assert near[b, :, found:].eq(0).all()
    assert knn_points(x, y, K=k).knn is None


def test_knn_of_nan_points_is_no_match(device):
    """Only what pytorch3d documents as padding is 0."""
    p1, p2 = torch.rand(3, 4, 3, device=device), torch.rand(3, 5, 3, device=device)
    p2[0], p2[1, 1:] = torch.nan, torch.nan
    lengths = torch.tensor([5, 3, 0], device=device)
    dists, idx, _ = knn_points(p1, p2, K=4)
    assert dists[0].isinf().all()
    assert dists[1, :, 1:].isinf().all()
    assert dists[1:, :, 0].isfinite().all()
    assert idx[:2].eq(0).all()
    dists, idx, near = knn_points(p1, p2, None, lengths, K=4, return_nn=True)
    assert dists[0].isinf().all()
    assert dists[1, :, 1:3].isinf().all()
    assert dists[1, :, 3].eq(0).all()
    assert dists[2].eq(0).all()
    assert near[2].eq(0).all()
    assert knn_points(p1, p2[:, :0]).dists.eq(0).all()
    p1[0, 0] = torch.nan
    rows = torch.tensor([4, 1, 2], device=device)
    dists = knn_points(p1, p2, rows, K=2).dists
    assert dists[0, 0].isnan().all()
    assert dists[1, 1:].eq(0).all()
    assert knn_points(p1, p2, lengths2=lengths + 3, K=2).dists[0].isnan().all()


def test_knn_errors(device):
    x = torch.rand(1, 70, 3, device=device)
    for k in (0, 65, None):
        with pytest.raises(ValueError, match=f"knn_points: K must be from 1 to 64, got {k}"):
            knn_points(x, x, K=k)
    with pytest.raises(ValueError, match=r"knn_points: p2 must have shape \[N, P, D\]"):
        knn_points(x, x[0])


def test_weights_in_vmap(clouds, device):
    x, y, *_ = clouds
    w = torch.tensor([[0.5, 0, 3], [1, 2, 0]], dtype=x.dtype, device=device)
    found = torch.func.vmap(lambda v: chamfer_distance(x, y, weights=v)[0])(w)
    expected = torch.stack([chamfer_distance(x, y, weights=v)[0] for v in w])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("points", ["mean", "sum", "max"])
def test_weight_0_does_not_hide_nan(points, clouds, device):
    x, y, *_ = clouds
    x = x.clone()
    x[1] = torch.nan
    w = torch.tensor([0.5, 0, 3], dtype=x.dtype, device=device)
    each, _ = chamfer_distance(x, y, weights=w, point_reduction=points, batch_reduction=None)
    assert each.isnan().tolist() == [False, True, False]
    for batch in ("mean", "sum"):
        options = {"point_reduction": points, "batch_reduction": batch}
        assert chamfer_distance(x, y, weights=w, **options)[0].isnan()


@pytest.mark.parametrize("k", KS[:2])
def test_knn_gradient(k, clouds, gradcheck):
    x, y, *_ = clouds
    x, y = (v[:1, :4].clone().requires_grad_() for v in (x, y))
    gradcheck(lambda a, b: knn_points(a, b, K=k, return_nn=True)[::2], (x, y))


def test_knn_gather(device):
    x = torch.arange(12.0, device=device).view(2, 3, 2)
    idx = torch.tensor([[[2, 0]], [[1, 1]]], device=device)
    assert knn_gather(x, idx).tolist() == [[[[4, 5], [0, 1]]], [[[8, 9], [8, 9]]]]
    lengths = torch.tensor([3, 1], device=device)
    assert knn_gather(x, idx, lengths)[1].tolist() == [[[8, 9], [0, 0]]]
    assert knn_gather(x[:, :0], idx).eq(0).all()
    with pytest.raises(ValueError, match=r"shapes \[N, M, U\] and \[N, L, K\], got .* \[1, 1, 2\]"):
        knn_gather(x, idx[:1])


def test_the_example_runs(capsys):
    path = Path(__file__).parent.parent / "examples" / "migrate_pytorch3d.py"
    runpy.run_path(str(path), run_name="__main__")
    assert "loss" in capsys.readouterr().out
