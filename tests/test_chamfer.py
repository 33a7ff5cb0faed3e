# SPDX-License-Identifier: MIT
import pytest
import torch
from torch.autograd import forward_ad

from pointloss import ChamferLoss, chamfer, emd, nearest, nearest_both, reference
from pointloss.testing.clouds import KINDS, make, surface, uniform
from pointloss.testing.streams import capture


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


@pytest.mark.sanitize
def test_lengths_equal_the_cut_clouds(device):
    x, y = make(surface, 3, 30, 40, dtype=torch.float64, device=device)
    n, m = torch.tensor([30, 1, 17], device=device), torch.tensor([2, 40, 9], device=device)
    for options in ({}, {"point_reduction": "sum"}, {"point_reduction": "max"}):
        padded = chamfer(x, y, x_lengths=n, y_lengths=m, batch_reduction="none", **options)
        for b in range(3):
            cut = chamfer(x[b, : n[b]], y[b, : m[b]], **options)
            torch.testing.assert_close(padded[b], cut)


@pytest.mark.sanitize
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
    # The other cloud's length, where no row could carry the NaN.
    n, m = torch.tensor([0, 0], device=device), torch.tensor([6, 99], device=device)
    for how in ("mean", "sum", "max"):
        options = {"point_reduction": how, "batch_reduction": "none"}
        for lengths in ({"y_lengths": m}, {"x_lengths": n, "y_lengths": m}):
            value = chamfer(x[:, :0], y, direction="x_to_y", **lengths, **options)
            assert value[0] == 0
            assert value[1].isnan()
        value = chamfer(y, x[:, :0], direction="y_to_x", x_lengths=m, **options)
        assert value.isnan().tolist() == [False, True]
        value = chamfer(x[:, :0], y[:, :0], y_lengths=n - 1, **options)
        assert value.isnan().all()


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_weights_of_infinite_distances_have_gradient_0(how, device):
    """An empty target is at distance inf, whatever the weights; they get 0, not inf * 0 = NaN."""
    x, y = make(uniform, 2, 5, 6, device=device)
    w = torch.rand(2, 5, device=device, requires_grad=True)
    m = torch.tensor([6, 0], device=device)
    value = chamfer(x, y, y_lengths=m, x_weights=w, point_reduction=how, batch_reduction="none")
    assert value.isinf().tolist() == [False, True]
    (grad,) = torch.autograd.grad(value.sum(), w)
    (alone,) = torch.autograd.grad(chamfer(x[:1], y[:1], x_weights=w[:1], point_reduction=how), w)
    torch.testing.assert_close(grad, alone)
    assert grad[1].eq(0).all()
    none = chamfer(x, y[:, :0], x_weights=0 * w, direction="x_to_y", point_reduction=how)
    assert none == 0


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


def by_neighbours(x, y, found, lengths, squared=True, norm=2, direction="both", over="mean"):
    """[B] in float64 of the neighbours that `nearest_both` found, differentiable."""
    total = 0
    for way, a, b, (_, idx), n in zip(
        ("x_to_y", "y_to_x"), (x, y), (y, x), found, lengths, strict=True
    ):
        if direction not in ("both", way):
            continue
        valid = idx >= 0
        diff = a - b.gather(1, idx.clamp_min(0).unsqueeze(-1).expand_as(a))
        dist = diff.abs().sum(-1) if norm == 1 else diff.square().sum(-1)
        if norm == 2 and not squared:
            valid &= dist > 0
            dist = torch.where(valid, dist, 1).sqrt()
        part = torch.where(valid, dist, 0).sum(1)
        total = total + (part / n.clamp_min(1) if over == "mean" else part)
    return total


SIZES = [(1, 1, 1), (3, 65, 40), (2, 300, 40), (300, 3, 5), (600, 3, 5), (1, 70000, 513)]


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize(
    "reductions", [("mean", "mean"), ("sum", "none"), ("mean", "sum")], ids=str
)
@pytest.mark.parametrize(
    "options",
    [{}, {"squared": False}, {"norm": 1}, {"direction": "x_to_y"}, {"direction": "y_to_x"}],
    ids=str,
)
def test_value_and_gradients_are_those_of_the_neighbours(
    options, reductions, padded, device, dtype
):
    for batch, n, m in SIZES:
        x, y = make(uniform, batch, n, m, dtype=dtype, device=device)
        x, y = x.requires_grad_(), y.requires_grad_()
        lengths = [torch.full((batch,), k, device=device) for k in (n, m)]
        if padded:
            lengths = [k - torch.arange(batch, device=device) % (k + 1) for k in lengths]
        given = dict(zip(("x_lengths", "y_lengths"), lengths, strict=True)) if padded else {}
        over, over_batch = reductions
        value = chamfer(x, y, **given, **options, point_reduction=over, batch_reduction=over_batch)
        grad = torch.rand_like(value)
        exact = [p.detach().double().requires_grad_() for p in (x, y)]
        found = nearest_both(x, y, **given, norm=options.get("norm", 2))
        expected = by_neighbours(*exact, found, lengths, **options, over=over)
        # A cloud without neighbours is infinitely far, with gradient 0.
        lost = torch.zeros_like(expected)
        for way, a, b in (("x_to_y", *lengths), ("y_to_x", *lengths[::-1])):
            if options.get("direction", "both") in ("both", way):
                lost = torch.where((a > 0) & (b == 0), torch.inf, lost)
        expected = expected + lost
        expected = {"mean": expected.mean(), "sum": expected.sum(), "none": expected}[over_batch]
        tolerance = {"rtol": 1e-6 if dtype == torch.float32 else 1e-12, "atol": 0}
        torch.testing.assert_close(value.double(), expected, **tolerance)
        slow = torch.autograd.grad(value, (x, y), grad, create_graph=True)
        fast = torch.autograd.grad(value, (x, y), grad)
        for mine, in_torch, best in zip(
            fast, slow, torch.autograd.grad(expected, exact, grad.double()), strict=True
        ):
            # Up to some 140 terms meet at a target, and are added in the clouds' own dtype.
            limit = 140 * torch.finfo(dtype).eps
            for gradient in (mine, in_torch.detach()):
                assert (gradient.double() - best).norm() <= limit * best.norm()


def test_value_is_the_same_bits_every_time(device, dtype):
    x, y = make(surface, 3, 5000, 700, dtype=dtype, device=device)
    for options in ({}, {"squared": False, "batch_reduction": "none"}):
        value = chamfer(x, y, **options)
        assert all(torch.equal(chamfer(x, y, **options), value) for _ in range(3))


def test_sums_keep_what_float32_would_lose(device):
    """A million equal distances of which float32 sums, one after another, keep a few digits."""
    x = torch.full((1, 2**20, 3), 0.1, device=device)
    y = torch.zeros(1, 1, 3, device=device)
    one = nearest(x[:, :1], y).dist.double()
    value = chamfer(x, y, direction="x_to_y", point_reduction="sum").double()
    torch.testing.assert_close(value, one.sum() * 2**20, rtol=1e-7, atol=0)


@pytest.mark.sanitize
def test_deterministic_gradient(device, deterministic):
    x, y = make(surface, 2, 3000, 40, device=device)
    x, y = x.requires_grad_(), y.requires_grad_()
    grads = [torch.autograd.grad(chamfer(x, y, squared=False), (x, y)) for _ in range(3)]
    assert all(torch.equal(a, b) for g in grads[1:] for a, b in zip(g, grads[0], strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"squared": False},
        {"norm": 1},
        {"point_reduction": "sum", "batch_reduction": "none"},
        {"direction": "y_to_x", "batch_reduction": "sum"},
    ],
    ids=str,
)
def test_gradients_of_points(options, device, gradcheck):
    x = torch.rand(3, 6, 3, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.rand(3, 7, 3, device=device, dtype=torch.float64, requires_grad=True)
    n, m = torch.tensor([6, 4, 0], device=device), torch.tensor([7, 1, 0], device=device)
    gradcheck(lambda a, b: chamfer(a, b, x_lengths=n, y_lengths=m, **options), (x, y))
    gradcheck(lambda a, b: chamfer(a, b, **options), (x, y))


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


@pytest.mark.parametrize("over_batch", ["mean", "sum", "none"])
def test_vmap(over_batch, device):
    x, y = torch.rand(3, 2, 9, 3, device=device), torch.rand(2, 4, 8, 3, device=device)[:, :3]
    n = torch.tensor([[9, 4], [0, 5], [1, 1]], device=device)

    def loss(a, b, lengths):
        return chamfer(a, b, x_lengths=lengths, squared=False, batch_reduction=over_batch)

    mapped = torch.func.vmap(loss, in_dims=(0, 1, 0))(x, y, n)
    shared = torch.func.vmap(loss, in_dims=(None, 1, None))(x[0], y, n[0])
    for k in range(3):
        torch.testing.assert_close(mapped[k], loss(x[k], y[:, k], n[k]))
        torch.testing.assert_close(shared[k], loss(x[0], y[:, k], n[0]))
    assert torch.func.vmap(loss, in_dims=(0, 1, 0))(x[:0], y[:, :0], n[:0]).shape[0] == 0


@pytest.mark.parametrize("options", [{}, {"squared": False, "direction": "y_to_x"}], ids=str)
def test_vmap_over_grad(options, device):
    x, y = torch.rand(4, 9, 3, device=device), torch.rand(4, 8, 3, device=device)
    gradient = torch.func.grad(lambda a, b: chamfer(a, b, **options), argnums=(0, 1))
    mapped = torch.func.vmap(gradient)(x, y)
    for k in range(4):
        for found, expected in zip(mapped, gradient(x[k], y[k]), strict=True):
            torch.testing.assert_close(found[k], expected)


def test_forward_mode_raises(device):
    x = torch.rand(1, 4, 3, device=device)
    with pytest.raises(RuntimeError, match="jvp|forward"):
        torch.func.jvp(lambda a: chamfer(a, x), (x,), (x,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="jvp|forward"):
        chamfer(forward_ad.make_dual(x, x), x)


def test_opcheck(device):
    x, y = make(uniform, 2, 10, 12, device=device)
    n, m = torch.tensor([3, 10], device=device), torch.tensor([12, 0], device=device)
    ops = torch.ops.pointloss
    for args in (
        (x, y, None, None, 2, True, True, "mean", "mean"),
        (x, y, n, m, 1, True, True, "sum", "none"),
        (x.double(), y.double(), None, m, 2, False, False, "mean", "sum"),
    ):
        torch.library.opcheck(ops.chamfer.default, args)
        value, idx = ops.chamfer(*args)
        args = (torch.rand_like(value), *args[:4], idx, *args[4:])
        for flags in ((True, True, False), (False, True, True)):
            torch.library.opcheck(ops.chamfer_backward.default, (*args, *flags))


@pytest.mark.parametrize("strict", [False, True], ids=["any order", "deterministic"])
@pytest.mark.parametrize("points", [200, 12000])  # the tree of small clouds and that of large ones
def test_training_step_in_a_cuda_graph(points, strict, cuda, request):
    if strict:
        request.getfixturevalue("deterministic")
    x, y = make(surface, 2, points, points, device="cuda")
    x.requires_grad_(), y.requires_grad_()
    n = torch.tensor([points, points // 2], device="cuda")

    def step():
        x.grad = y.grad = None
        value = chamfer(x, y, x_lengths=n, squared=False)
        value.backward()
        return value

    value, replay = capture(step)
    with torch.no_grad():
        y.mul_(1.5)
    n.copy_(torch.tensor([7, points]))  # lengths may change between replays
    replay()
    grads = x.grad.clone(), y.grad.clone()
    expected = step()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grads, (x.grad, y.grad))


def test_weights_of_clouds(device):
    x, y = make(surface, 3, 30, 40, dtype=torch.float64, device=device)
    w = torch.tensor([0.5, 0, 2], dtype=torch.float64, device=device, requires_grad=True)
    point_weights = torch.rand(3, 30, dtype=torch.float64, device=device)
    lengths = torch.tensor([40, 0, 7], device=device)  # the second is at inf, with weight 0
    for loss, options in (
        (chamfer, {}),
        (chamfer, {"point_reduction": "max"}),
        (chamfer, {"x_weights": point_weights}),
        (emd, {"rtol": 1e-4}),
    ):
        each = loss(x, y, y_lengths=lengths, batch_reduction="none", **options)[[0, 2]]
        given = {"y_lengths": lengths, "cloud_weights": w, **options}
        total = loss(x, y, batch_reduction="sum", **given)
        torch.testing.assert_close(total, (w[[0, 2]] * each).sum())
        mean = loss(x, y, **given)
        torch.testing.assert_close(mean, total / 2.5)
        (grad,) = torch.autograd.grad(mean, w)
        torch.testing.assert_close(grad[[0, 2]], (each - mean) / 2.5)
        if "x_weights" not in options:
            one = loss(x[2], y[2], cloud_weights=w[2], batch_reduction="sum", **options)
            torch.testing.assert_close(one, 2 * loss(x[2], y[2], **options))
        for which in ("batch", "point"):
            with pytest.raises(
                ValueError, match=f"cloud_weights do not apply to {which}_reduction"
            ):
                loss(x, y, cloud_weights=w, **{f"{which}_reduction": "none"})
    assert chamfer(x, y, cloud_weights=0 * w) == 0
    assert chamfer(x[:0], y[:0], cloud_weights=w[:0]) == 0
    torch.testing.assert_close(ChamferLoss()(x, y, cloud_weights=w), chamfer(x, y, cloud_weights=w))
    with pytest.raises(ValueError, match=r"cloud_weights must have shape \[3\], got \[3, 1\]"):
        chamfer(x, y, cloud_weights=w.unsqueeze(1))
