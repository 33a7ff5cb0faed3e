# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pointloss import Similarity, procrustes, reference

DEGENERATE = {
    "plane": torch.tensor([1.0, 1, 0]),
    "line": torch.tensor([1.0, 0, 0]),
    "place": torch.zeros(3),
}


def rotations(count, seed=0):
    return torch.from_numpy(Rotation.random(count, rng=np.random.default_rng(seed)).as_matrix())


def clouds(batch=2, n=7, **options):
    draw = torch.randn(2, batch, n, 3, dtype=torch.float64).to(**options)
    return draw[0], draw[1]


@pytest.mark.parametrize("scale", [True, False])
def test_agrees_with_reference(scale, dtype, device):
    x, y = clouds(40, device=device, dtype=dtype)  # half of them fit a reflection better
    weights = torch.rand(40, 7, device=device, dtype=dtype)
    found = procrustes(x, y, weights=weights, scale=scale)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3  # some are nearly ambiguous
    expected = reference.procrustes(x, y, weights, scale)
    for value, truth in zip(found, expected, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value.double().cpu(), truth, rtol=tolerance, atol=tolerance)


def test_rotation_agrees_with_scipy(device):
    x, y = clouds(1, device=device)
    weights = torch.rand(7, dtype=torch.float64, device=device)
    found = procrustes(x[0], y[0], weights=weights, scale=False).rotation.cpu()
    centred = [(v[0] - (weights[:, None] * v[0]).sum(0) / weights.sum()).cpu() for v in (x, y)]
    truth, _ = Rotation.align_vectors(centred[1], centred[0], weights.cpu())
    torch.testing.assert_close(found, torch.from_numpy(truth.as_matrix()), rtol=0, atol=1e-12)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.floats(0.1, 10), st.integers(3, 20))
def test_recovers_a_similarity(seed, size, n):
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    motion = Similarity(torch.tensor(size).double(), rotations(1, seed)[0], 3 * x[0])
    found = procrustes(x, motion.apply(x))
    torch.testing.assert_close(tuple(found), tuple(motion), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.inverse().apply(found.apply(x)), x, rtol=1e-9, atol=1e-9)


def test_by_hand(device):
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], device=device)
    y = torch.tensor([[5.0, 0, 0], [5, 2, 0], [3, 0, 0]], device=device)
    scale, rotation, translation = procrustes(x, y)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], device=device)
    torch.testing.assert_close(rotation, turn, rtol=0, atol=1e-6)
    torch.testing.assert_close(translation, y[0], rtol=0, atol=1e-6)
    assert scale.item() == pytest.approx(2)


def test_reflection_only_on_request(device):
    x, _ = clouds(3, device=device)
    y = x * x.new_tensor([1.0, 1, -1])
    assert procrustes(x, y).rotation.det().cpu().allclose(torch.ones(3).double())
    mirrored = procrustes(x, y, reflection=True)
    assert mirrored.rotation.det().cpu().allclose(-torch.ones(3).double())
    torch.testing.assert_close(mirrored.apply(x), y)


def test_masked_points_do_not_count(device):
    x, y = clouds(2, device=device)
    mask = torch.tensor([[True] * 5 + [False] * 2, [True] * 7], device=device)
    bad = torch.where(mask.unsqueeze(-1), x, torch.nan).requires_grad_()
    found = procrustes(bad, y, mask=mask)
    cut = procrustes(x[0, :5], y[0, :5])
    torch.testing.assert_close(tuple(v[0] for v in found), tuple(cut))
    sum(v.sum() for v in found).backward()
    assert bad.grad.isfinite().all()
    assert bad.grad[0, 5:].eq(0).all()


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("n", [0, 1, 2, 8])
def test_degenerate_clouds_have_finite_values_and_gradients(kind, n, dtype, device):
    x, y = clouds(2, n, device=device, dtype=dtype)
    x, y = (v * DEGENERATE[kind].to(v) for v in (x, y))
    x, y = x.requires_grad_(), y.requires_grad_()
    found = procrustes(x, y)
    eye = torch.eye(3, dtype=dtype, device=device)
    torch.testing.assert_close(found.rotation @ found.rotation.mT, eye.expand(2, 3, 3))
    assert found.rotation.det().allclose(torch.ones(2, dtype=dtype, device=device))
    if kind == "place" or n < 2:
        assert torch.equal(found.rotation, eye.expand(2, 3, 3))
        assert found.scale.eq(1).all()
    grads = torch.autograd.grad(sum(v.square().sum() for v in found), (x, y), create_graph=True)
    sum(g.square().sum() for g in grads if g.requires_grad).backward()
    for value in (*found, *grads, x.grad, y.grad):
        assert value.isfinite().all()


def test_all_masked_is_the_identity(device):
    x, y = clouds(1, device=device)
    found = procrustes(x[0], y[0], mask=torch.zeros(7, dtype=torch.bool, device=device))
    assert found.scale == 1
    assert torch.equal(found.rotation, torch.eye(3, dtype=x.dtype, device=device))
    assert found.translation.eq(0).all()


def test_nan_shows_in_its_own_sample(device):
    x, y = clouds(2, device=device)
    x[0, 3, 1] = torch.nan
    found = procrustes(x, y)
    for value in found:
        assert value[0].isnan().any()
        assert value[1].isfinite().all()


def test_tiny_and_huge_clouds(dtype, device):
    x, _ = clouds(1, device=device, dtype=dtype)
    turn = rotations(1).to(x)
    for size in (1e-15, 1e15):
        found = procrustes(size * x, size * x @ turn.mT)
        torch.testing.assert_close(found.rotation, turn, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reflection", [False, True])
def test_gradients(reflection, device, gradcheck):
    x, y = clouds(1, 4, device=device)
    weights = torch.rand(1, 4, dtype=torch.float64, device=device)
    inputs = [v.requires_grad_() for v in (x, y, weights)]
    gradcheck(lambda x, y, w: tuple(procrustes(x, y, weights=w, reflection=reflection)[:2]), inputs)


# The corners of a cube, and of a square: all singular values tie, and two tie and one vanishes.
CUBE = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)


@pytest.mark.parametrize(
    "points", [CUBE, CUBE[:4] * torch.tensor([0, 1, 1])], ids=["cube", "square"]
)
def test_gradient_where_singular_values_tie_or_vanish(points, device):
    x = points.double().to(device)
    y = (x @ rotations(1)[0].to(device).mT).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: procrustes(x, y).rotation, (y,))


def test_compiles_whole(device):
    x, y = clouds(2, device=device, dtype=torch.float32)
    compiled = torch.compile(procrustes, fullgraph=True, backend="eager")
    torch.testing.assert_close(tuple(compiled(x, y)), tuple(procrustes(x, y)))


def test_halves_and_errors(device):
    x, y = clouds(2, device=device, dtype=torch.float16)
    assert procrustes(x, y).rotation.dtype == torch.float32
    with pytest.raises(
        ValueError, match=r"procrustes: y must have shape \[2, 7, 3\], got \[2, 6, 3"
    ):
        procrustes(x, y[:, :6])
    with pytest.raises(ValueError, match=r"x must have shape \[B, N, 3\] or \[N, 3\], got \[7, 2"):
        procrustes(x[0, :, :2], y[0, :, :2])
    with pytest.raises(TypeError, match=r"procrustes: mask must be bool, got float16"):
        procrustes(x, y, mask=x[..., 0])
    with pytest.raises(TypeError, match=r"procrustes: y must be a torch.Tensor, got list"):
        procrustes(x, [1])
