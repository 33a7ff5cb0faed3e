# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import chamfer, nearest_both, normal_consistency, normal_loss
from pointloss.ops.chamfer import PointIndices
from pointloss.testing.clouds import make, surface


@pytest.fixture
def clouds(device):
    x, y = make(surface, 2, 20, 25, dtype=torch.float64, device=device)
    return x, y, torch.randn_like(x), torch.randn_like(y)


def expected(own, other, idx, absolute):
    """One less the cosine, [B, N], by torch."""
    near = other.gather(1, idx.unsqueeze(-1).expand_as(own))
    cosine = torch.nn.functional.cosine_similarity(own, near, dim=-1)
    return 1 - (cosine.abs() if absolute else cosine)


@pytest.mark.parametrize("absolute", [True, False])
def test_terms_and_reductions(absolute, clouds):
    x, y, n, m = clouds
    _, idx = chamfer(x, y, return_idx=True)
    there, back = expected(n, m, idx.x_to_y, absolute), expected(m, n, idx.y_to_x, absolute)
    unreduced = normal_loss(n, m, idx, absolute=absolute, point_reduction="none")
    torch.testing.assert_close(unreduced.x_to_y, there)
    torch.testing.assert_close(unreduced.y_to_x, back)
    options = {"absolute": absolute, "batch_reduction": "none"}
    mean = normal_loss(n, m, idx, **options)
    torch.testing.assert_close(mean, there.mean(1) + back.mean(1))
    torch.testing.assert_close(normal_loss(n, m, idx, absolute=absolute), mean.mean())
    most = normal_loss(n, m, idx, point_reduction="max", **options)
    torch.testing.assert_close(most, there.amax(1).maximum(back.amax(1)))
    w, v = torch.rand_like(x[..., 0]), torch.rand(2, dtype=x.dtype, device=x.device)
    one_way = idx._replace(y_to_x=None)
    value = normal_loss(n, m, one_way, absolute=absolute, x_weights=w, cloud_weights=v)
    torch.testing.assert_close(value, (v * (w * there).sum(1) / w.sum(1)).sum() / v.sum())
    if absolute:
        score = normal_consistency(x, y, n, m)
        torch.testing.assert_close(mean, 2 - 2 * score)


def test_what_has_no_neighbour_is_worst(clouds, device):
    x, y, n, m = clouds
    lengths = {"x_lengths": torch.tensor([5, 20], device=device)}
    none = {"y_lengths": torch.tensor([0, 26], device=device)}
    _, idx = chamfer(x, y, **lengths, **none, direction="x_to_y", return_idx=True)
    for absolute, worst in ((True, 1), (False, 2)):
        options = {"absolute": absolute, **lengths, **none}
        value = normal_loss(n, m, idx, **options, batch_reduction="none")
        assert value[0] == worst
        assert value[1].isnan()
        value = normal_loss(n, m, idx, **options, point_reduction="none").x_to_y
        assert value[0, 5:].eq(0).all()
        assert value[1].isnan().all()


def test_an_index_beyond_the_cloud_gives_nan(clouds):
    x, y, n, m = clouds
    _, idx = chamfer(x, y, return_idx=True)
    idx.x_to_y[0, 3] = 25
    n = n.requires_grad_()
    for masks in ({}, {"y_mask": torch.ones_like(y[..., 0], dtype=torch.bool)}):
        value = normal_loss(n, m, idx, **masks, point_reduction="none").x_to_y
        assert value.isnan().nonzero().tolist() == [[0, 3]]
        each = normal_loss(n, m, idx, **masks, batch_reduction="none")
        assert each.isnan().tolist() == [True, False]
        assert torch.autograd.grad(each[1], n)[0].isfinite().all()


@pytest.mark.parametrize("size", [1e-30, 1e-13, 1e30])
def test_normals_of_any_length(size, clouds):
    x, y, n, m = clouds
    _, idx = chamfer(x, y, return_idx=True)
    n, m = n.float(), m.float()
    expected = normal_loss(n, m, idx)
    for a, b in ((size * n, m), (n, size * m)):
        torch.testing.assert_close(normal_loss(a, b, idx), expected)
        torch.testing.assert_close(normal_consistency(x, y, a, b), normal_consistency(x, y, n, m))


def test_zero_and_nan_normals(clouds):
    x, y, n, m = clouds
    _, idx = chamfer(x, y, return_idx=True)
    n[0, 0] = 0
    n = n.requires_grad_()
    value = normal_loss(n, m, idx, point_reduction="none").x_to_y
    assert value[0, 0] == 1
    assert torch.autograd.grad(value.sum(), n)[0][0, 0].eq(0).all()
    assert normal_loss(n * torch.nan, m, idx).isnan()


def test_gradient(clouds, gradcheck):
    x, y, n, m = (v[:, :5] for v in clouds)
    _, idx = chamfer(x, y, return_idx=True)
    n, m = n.clone().requires_grad_(), m.clone().requires_grad_()
    gradcheck(lambda a, b: normal_loss(a, b, idx), (n, m))


def test_masked_normals_may_be_nan(clouds, device):
    x, y, n, m = clouds
    mask = torch.rand(2, 20, device=device) < 0.5
    masks = {"x_mask": mask, "y_mask": torch.rand(2, 25, device=device) < 0.5}
    _, idx = chamfer(x, y, **masks, return_idx=True)
    clean = normal_loss(n, m, idx, **masks)
    n = torch.where(mask.unsqueeze(-1), n, torch.nan).requires_grad_()
    value = normal_loss(n, m, idx, **masks)
    torch.testing.assert_close(value, clean)
    assert torch.autograd.grad(value, n)[0].isfinite().all()
    unreduced = normal_loss(n, m, idx, **masks, point_reduction="none")
    assert unreduced.x_to_y[~mask].eq(0).all()
    torch.testing.assert_close(
        unreduced.x_to_y[mask], expected(n, m, idx.x_to_y.clamp_min(0), True)[mask]
    )


@pytest.mark.parametrize("options", [{}, {"squared": False, "point_reduction": "max"}], ids=str)
@pytest.mark.parametrize("direction", ["both", "x_to_y", "y_to_x"])
def test_indices_of_chamfer(direction, options, clouds):
    """From the fused op and the search, as `nearest` gives them; the gradient keeps its own."""
    x, y, *_ = clouds
    x = x.requires_grad_()
    value, idx = chamfer(x, y, direction=direction, return_idx=True, **options)
    plain = chamfer(x, y, direction=direction, **options)
    assert torch.equal(value, plain)
    there, back = nearest_both(x, y)
    assert (idx.x_to_y is None) if direction == "y_to_x" else torch.equal(idx.x_to_y, there.idx)
    assert (idx.y_to_x is None) if direction == "x_to_y" else torch.equal(idx.y_to_x, back.idx)
    for i in idx:
        if i is not None:
            i.fill_(-5)
    for a, b in zip(torch.autograd.grad(value, x), torch.autograd.grad(plain, x), strict=True):
        torch.testing.assert_close(a, b)
    single, idx = chamfer(x[0], y[0], direction=direction, return_idx=True, **options)
    assert single.dim() == 0
    assert {None if i is None else i.dim() for i in idx} <= {None, 1}
    found, idx = chamfer(x, y, direction=direction, point_reduction="none", return_idx=True)
    assert [i is None for i in idx] == [d is None for d in found]


def test_errors(clouds):
    x, y, n, m = clouds
    _, idx = chamfer(x, y, return_idx=True)
    with pytest.raises(ValueError, match="idx must have at least one direction"):
        normal_loss(n, m, PointIndices(None, None))
    with pytest.raises(TypeError, match=r"idx must be PointIndices, got Tensor; take the idx of"):
        normal_loss(n, m, idx.x_to_y)
    with pytest.raises(ValueError, match=r"idx.y_to_x must have shape \[2, 25\], got \[2, 20\]"):
        normal_loss(n, m, PointIndices(None, idx.x_to_y))
    with pytest.raises(ValueError, match="weights do not apply to point_reduction='none'"):
        normal_loss(n, m, idx, x_weights=n[..., 0], point_reduction="none")
