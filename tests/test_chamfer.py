# SPDX-License-Identifier: MIT
import pytest
import torch
from clouds import KINDS, make, surface, uniform

from pointloss import ChamferLoss, chamfer, nearest, reference


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("options", [{}, {"squared": False}, {"norm": 1}], ids=["sq", "root", "l1"])
def test_agrees_with_reference(kind, options, device, dtype):
    x, y = make(kind, 3, 65, 130, dtype=dtype, device=device)
    value = chamfer(x, y, batch_reduction="none", **options)
    expected = reference.chamfer(x.cpu(), y.cpu(), **options)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(value.double().cpu(), expected, rtol=tolerance, atol=0)
    assert value.dtype == dtype


def test_reductions(device):
    x, y = make(surface, 3, 30, 40, dtype=torch.float64, device=device)
    to_y, to_x = nearest(x, y).dist, nearest(y, x).dist
    per_cloud = to_y.mean(1) + to_x.mean(1)
    assert torch.allclose(chamfer(x, y), per_cloud.mean())
    assert torch.allclose(chamfer(x, y, batch_reduction="sum"), per_cloud.sum())
    assert torch.allclose(chamfer(x, y, batch_reduction="none"), per_cloud)
    total = chamfer(x, y, point_reduction="sum", batch_reduction="none")
    assert torch.allclose(total, to_y.sum(1) + to_x.sum(1))
    hausdorff = chamfer(x, y, point_reduction="max", squared=False, batch_reduction="none")
    assert torch.allclose(hausdorff, to_y.amax(1).maximum(to_x.amax(1)).sqrt())
    unreduced = chamfer(x, y, point_reduction="none")
    assert torch.equal(unreduced.x_to_y, to_y)
    assert torch.equal(unreduced.y_to_x, to_x)


def test_directions(device):
    x, y = make(surface, 2, 30, 40, dtype=torch.float64, device=device)
    forward, back = chamfer(x, y, direction="x_to_y"), chamfer(x, y, direction="y_to_x")
    assert torch.allclose(forward + back, chamfer(x, y))
    assert torch.allclose(forward, chamfer(y, x, direction="y_to_x"))
    unreduced = chamfer(x, y, direction="x_to_y", point_reduction="none")
    assert unreduced.y_to_x is None


def test_lengths_equal_the_cut_clouds(device):
    x, y = make(surface, 3, 30, 40, dtype=torch.float64, device=device)
    n, m = torch.tensor([30, 1, 17], device=device), torch.tensor([2, 40, 9], device=device)
    for options in ({}, {"point_reduction": "sum"}, {"point_reduction": "max"}):
        padded = chamfer(x, y, x_lengths=n, y_lengths=m, batch_reduction="none", **options)
        for b in range(3):
            cut = chamfer(x[b, : n[b]], y[b, : m[b]], **options)
            torch.testing.assert_close(padded[b], cut)


def test_weights(device):
    x, y = make(surface, 2, 30, 40, dtype=torch.float64, device=device)
    w = torch.rand(2, 30, device=device, dtype=torch.float64)
    n = torch.tensor([30, 11], device=device)
    dist = nearest(x, y, x_lengths=n).dist
    w_valid = w * (torch.arange(30, device=device) < n.unsqueeze(1))
    options = {"x_weights": w, "x_lengths": n, "direction": "x_to_y", "batch_reduction": "none"}
    expected = (w_valid * dist).sum(1) / w_valid.sum(1)
    torch.testing.assert_close(chamfer(x, y, **options), expected)
    torch.testing.assert_close(
        chamfer(x, y, point_reduction="sum", **options), (w_valid * dist).sum(1)
    )
    ones = torch.ones_like(w)
    torch.testing.assert_close(chamfer(x, y, x_weights=ones), chamfer(x, y))
    assert chamfer(x, y, x_weights=0 * w, direction="x_to_y") == 0


def test_empty_conventions(device):
    x, y = make(uniform, 2, 5, 6, device=device)
    assert chamfer(x[:0], y[:0]) == 0
    assert chamfer(x[:0], y[:0], batch_reduction="none").shape == (0,)
    assert chamfer(x[:, :0], y, direction="x_to_y") == 0
    assert chamfer(x[:, :0], y, point_reduction="max", direction="x_to_y") == 0
    assert chamfer(x, y[:, :0]).isinf()
    lengths = torch.tensor([0, -1], device=device)
    for how in ("mean", "sum", "max"):
        options = {"point_reduction": how, "direction": "x_to_y", "batch_reduction": "none"}
        value = chamfer(x[:, :0], y, x_lengths=lengths, **options)
        assert value.isnan().tolist() == [False, True]
    x.requires_grad_()
    chamfer(x, y[:, :0]).backward()
    assert x.grad.eq(0).all()


def test_nan_and_bad_lengths_show_in_the_loss(device):
    x, y = make(uniform, 2, 5, 6, device=device)
    n = torch.tensor([5, 6], device=device)
    assert chamfer(x, y, x_lengths=n).isnan()
    per_cloud = chamfer(x, y, x_lengths=n, batch_reduction="none")
    assert per_cloud.isnan().tolist() == [False, True]
    x[0, 0, 0] = torch.nan
    assert chamfer(x, y, batch_reduction="none").isnan().tolist() == [True, False]


def test_single_cloud(device):
    x, y = make(uniform, 1, 5, 6, device=device)
    assert chamfer(x[0], y[0]).shape == ()
    assert torch.equal(chamfer(x[0], y[0]), chamfer(x, y))
    torch.testing.assert_close(chamfer(x[0], y[0], batch_reduction="none"), chamfer(x, y))
    assert chamfer(x[0], y[0], point_reduction="none").x_to_y.shape == (5,)
    weights = torch.rand(5, device=device)
    torch.testing.assert_close(
        chamfer(x[0], y[0], x_weights=weights), chamfer(x, y, x_weights=weights[None])
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"squared": False},
        {"norm": 1},
        {"point_reduction": "max"},
        {"point_reduction": "sum", "batch_reduction": "sum"},
        {"direction": "y_to_x"},
    ],
    ids=str,
)
def test_gradients_of_points_and_weights(options, device, gradcheck):
    def draw(*shape):
        return torch.rand(*shape, device=device, dtype=torch.float64, requires_grad=True)

    x, y, w, v = draw(2, 6, 3), draw(2, 7, 3), draw(2, 6), draw(2, 7)
    n = torch.tensor([6, 4], device=device)
    args = (x, y) if options.get("point_reduction") == "max" else (x, y, w, v)

    def loss(a, b, a_weights=None, b_weights=None):
        return chamfer(a, b, x_lengths=n, x_weights=a_weights, y_weights=b_weights, **options)

    gradcheck(loss, args)


@pytest.mark.parametrize("direction", ["both", "x_to_y", "y_to_x"])
@pytest.mark.parametrize(("batch", "n", "m"), [(1, 1, 1), (3, 65, 40), (2, 40, 300)])
def test_mean_of_means(direction, batch, n, m, device, dtype):
    """Equal clouds count alike: without lengths the mean has a way of its own."""
    x, y = make(uniform, batch, n, m, dtype=dtype, device=device)
    x, y = x.requires_grad_(), y.requires_grad_()
    found = chamfer(x, y, direction=direction)
    full = torch.tensor([n] * batch, device=device)
    expected = chamfer(x, y, x_lengths=full, direction=direction)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_padding_never_reaches_a_second_derivative(device):
    x, y = make(uniform, 2, 9, 8, dtype=torch.float64, device=device)
    x[1, 4:], y[1, 3:] = torch.nan, torch.inf
    n, m = torch.tensor([9, 4], device=device), torch.tensor([8, 3], device=device)
    w = torch.rand(2, 9, device=device, dtype=torch.float64, requires_grad=True)
    x, y = x.requires_grad_(), y.requires_grad_()
    for options in ({}, {"squared": False}, {"norm": 1}):
        value = chamfer(x, y, x_lengths=n, y_lengths=m, x_weights=w, **options)
        grads = torch.autograd.grad(value, (x, y), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in grads), (x, y, w))
        assert all(g.isfinite().all() for g in (*grads, *second))


def test_coincident_points_have_gradient_zero(device):
    x = torch.rand(1, 9, 3, device=device, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    for options in ({"squared": False}, {"norm": 1}, {}):
        gx, gy = torch.autograd.grad(chamfer(x, y, **options), (x, y))
        assert gx.eq(0).all()
        assert gy.eq(0).all()


def test_half_gradients_keep_their_dtype(device):
    x = torch.rand(2, 20, 3, device=device, dtype=torch.bfloat16, requires_grad=True)
    y = torch.rand(2, 20, 3, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        value = chamfer(x, y)
    assert value.dtype == torch.float32
    value.backward()
    assert x.grad.dtype == torch.bfloat16


def test_module_is_the_function(device):
    x, y = make(uniform, 2, 5, 6, device=device)
    options = {"squared": False, "direction": "y_to_x", "batch_reduction": "sum"}
    assert torch.equal(ChamferLoss(**options)(x, y), chamfer(x, y, **options))
    assert "squared=False" in repr(ChamferLoss(**options))


@pytest.mark.parametrize("options", [{}, {"squared": False}, {"norm": 1}], ids=str)
def test_compile_fullgraph(options, device):
    x = torch.rand(2, 20, 3, device=device, requires_grad=True)
    y = torch.rand(2, 30, 3, device=device)
    n = torch.tensor([20, 3], device=device)

    def loss(a, b):
        return chamfer(a, b, x_lengths=n, **options)

    torch.compile(loss, fullgraph=True)(x, y).backward()
    grad, x.grad = x.grad, None
    loss(x, y).backward()
    torch.testing.assert_close(grad, x.grad)


def test_vmap_over_grad(device):
    x, y = torch.rand(4, 9, 3, device=device), torch.rand(4, 8, 3, device=device)
    mapped = torch.func.vmap(torch.func.grad(chamfer))(x, y)
    for k in range(4):
        torch.testing.assert_close(mapped[k], torch.func.grad(chamfer)(x[k], y[k]))


@pytest.mark.parametrize("strict", [False, True], ids=["any order", "deterministic"])
@pytest.mark.parametrize("points", [200, 12000])  # the tree of small clouds and that of large ones
def test_training_step_in_a_cuda_graph(points, strict, cuda, request):
    if strict:
        request.getfixturevalue("deterministic")
    x, y = make(surface, 2, points, points, device="cuda")
    x.requires_grad_()

    def step():
        x.grad = None
        value = chamfer(x, y, squared=False)
        value.backward()
        return value

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = step()
    y.mul_(1.5)
    graph.replay()
    grad = x.grad.clone()
    expected = step()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, x.grad)
