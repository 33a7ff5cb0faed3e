# SPDX-License-Identifier: MIT
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pointloss import EMDLoss, assign, emd, pairwise_emd, reference
from pointloss.ops import _certificate
from pointloss.ops.assign import assign_batched
from pointloss.testing.clouds import KINDS, make, surface, uniform
from pointloss.testing.streams import capture


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_within_rtol_of_the_optimum(kind, squared, device, dtype):
    for n, m in ((1, 1), (64, 64), (30, 90), (90, 30)):
        x, y = make(kind, 2, n, m, dtype=dtype, device=device)
        value = emd(x, y, squared=squared, rtol=1e-3, batch_reduction="none").double().cpu()
        optimum = reference.optimal_cost(x, y, squared)
        rounding = 1e-5 if dtype == torch.float32 else 1e-12
        assert (value >= optimum * (1 - rounding)).all()
        assert (value <= optimum / (1 - 1e-3) * (1 + rounding)).all()
        assert value.dtype == torch.float64


@pytest.mark.sanitize
def test_reductions(device, deterministic):
    x, y = make(surface, 3, 30, 40, device=device)
    found = assign(x, y)
    per_cloud = emd(x, y, batch_reduction="none")
    torch.testing.assert_close(per_cloud, found.cost.float())
    torch.testing.assert_close(emd(x, y), per_cloud.mean())
    torch.testing.assert_close(emd(x, y, batch_reduction="sum"), per_cloud.sum())
    torch.testing.assert_close(
        emd(x, y, point_reduction="sum", batch_reduction="none"), 30 * per_cloud
    )
    unreduced = emd(x, y, point_reduction="none")
    torch.testing.assert_close(unreduced.mean(1), per_cloud)
    swapped = emd(y, x, point_reduction="none")
    assert (swapped == 0).sum() == 30  # 10 of 40 points of each cloud have no partner
    torch.testing.assert_close(emd(y, x, batch_reduction="none"), per_cloud, rtol=2e-2, atol=0)


def test_lengths_equal_the_cut_clouds(device):
    x, y = make(surface, 3, 30, 40, device=device)
    n, m = torch.tensor([30, 1, 17], device=device), torch.tensor([12, 40, 0], device=device)
    padded = emd(x, y, x_lengths=n, y_lengths=m, rtol=1e-4, batch_reduction="none")
    for b in range(3):
        cut = emd(x[b, : n[b]], y[b, : m[b]], rtol=1e-4)
        torch.testing.assert_close(padded[b], cut, rtol=2e-4, atol=0)


@pytest.mark.sanitize
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 8), (8, 5)])
def test_gradients(squared, sizes, device):
    x = torch.rand(2, sizes[0], 3, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, sizes[1], 3, device=device, dtype=torch.float64, requires_grad=True)

    def loss(a, b):
        return emd(a, b, squared=squared, rtol=0)

    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))


@pytest.mark.sanitize
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
@pytest.mark.parametrize("over_points", ["mean", "sum", "none"])
@pytest.mark.parametrize("over_batch", ["mean", "sum", "none"])
def test_the_kernel_and_torch_give_one_gradient(over_points, over_batch, squared, device, dtype):
    """The fast backward against the differentiable one that create_graph takes."""
    x, y = (p.requires_grad_() for p in make(surface, 4, 300, 310, dtype=dtype, device=device))
    n = torch.tensor([300, 7, 0, 301], device=device)
    options = {"squared": squared, "point_reduction": over_points, "batch_reduction": over_batch}
    value = emd(x, y, x_lengths=n, **options)
    weight = torch.randn_like(value)
    for grad in (weight, torch.full_like(weight, torch.nan)):  # NaN stays where there are pairs
        fast = torch.autograd.grad(value, (x, y), grad, retain_graph=True)
        slow = torch.autograd.grad(value, (x, y), grad, create_graph=True, retain_graph=True)
        torch.testing.assert_close(fast, slow, equal_nan=True)
        assert all(part[2:].eq(0).all() for part in fast)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_beyond_the_range_of_float(scale, device):
    """Value and gradients of plain distances whose squares overflow or vanish in float32."""
    x, y = make(surface, 2, 50, 50, device=device)
    a, b = ((p * scale).requires_grad_() for p in (x, y))
    value, found = emd(a, b, return_assignment=True)
    grads = torch.autograd.grad(value, (a, b), create_graph=True)
    for mine, other in zip(grads, torch.autograd.grad(value, (a, b)), strict=True):
        torch.testing.assert_close(mine, other)
    partner = b.detach().double().gather(1, found.idx.unsqueeze(-1).expand(-1, -1, 3))
    dist = (a.detach().double() - partner).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(value.double(), dist.mean(), rtol=1e-6, atol=0)
    each = emd(a, b, point_reduction="none", price=found.price, idx=found.idx)
    torch.testing.assert_close(each.double().mean(), dist.mean(), rtol=1e-2, atol=0)
    unit = ((a.detach().double() - partner) / dist).float()
    torch.testing.assert_close(grads[0].detach(), unit / 100)


def test_opcheck(device):
    x, y = make(uniform, 2, 10, 12, device=device)
    n, m = torch.tensor([3, 10], device=device), torch.tensor([12, 0], device=device)
    ops = torch.ops.pointloss
    found = assign(x, y)
    missed = torch.zeros((), dtype=torch.bool, pin_memory=device.type == "cuda")
    for grad, lengths, reductions, needed in (
        (torch.rand((), device=device), (None, None), ("mean", "mean"), (True, True)),
        (torch.rand(2, device=device), (n, m), ("sum", "none"), (True, False)),
        (torch.rand(2, 10, device=device), (n, m), ("none", "mean"), (False, True)),
    ):
        clouds, pairs = (x, y, *lengths), (found.idx, found.cost)
        args = (*clouds, *pairs, found.converged, False, *reductions)
        torch.library.opcheck(ops.emd.default, args)
        if device.type == "cpu":  # opcheck copies its arguments into memory that is not pinned
            torch.library.opcheck(ops.emd.watched, (*args, missed), test_utils="test_schema")
        args = (grad, *clouds, *pairs, False, *reductions, *needed)
        torch.library.opcheck(ops.emd_backward.default, args)
    assert not missed
    args = (x, y, None, None, *pairs, ~found.converged, False, "mean", "mean")
    ops.emd.watched(*args, missed)
    if device.type == "cuda":
        torch.cuda.synchronize()
    assert missed


def test_a_step_takes_few_ops(device):
    """Each one is a launch, and small ones take the host longer than the device."""

    class Counted(TorchDispatchMode):
        names = ()

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            self.names += (op.name(),)
            return op(*args, **(kwargs or {}))

    x, y = (p.requires_grad_() for p in make(surface, 2, 20, 30, device=device))
    with Counted() as counted:
        torch.autograd.grad(emd(x, y), (x, y))
    launches = [name for name in counted.names if "detach" not in name]
    assert len(launches) <= 4, launches


@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_hundreds_of_dimensions(squared, device, dtype):
    x, y = (
        torch.randn(2, k, 300, device=device, dtype=dtype, requires_grad=True) for k in (20, 25)
    )
    value, found = emd(x, y, squared=squared, rtol=1e-6, batch_reduction="none",
                       return_assignment=True)  # fmt: skip
    best = reference.optimal_cost(x.detach(), y.detach(), squared)
    torch.testing.assert_close(value.detach().cpu().double(), best, rtol=1e-5, atol=0)
    value.sum().backward()
    for b in range(2):
        diff = (x[b] - y[b, found.idx[b]]).detach()
        slope = 2 * diff if squared else diff / diff.norm(dim=1, keepdim=True)
        torch.testing.assert_close(x.grad[b], slope / 20)
        torch.testing.assert_close(y.grad[b, found.idx[b]], -slope / 20)


def test_atol(device):
    """In the unit of the value; EMDLoss has it too."""
    x, y = make(surface, 2, 60, 60, device=device)
    best = reference.optimal_cost(x, y)
    for loss in (emd, EMDLoss(rtol=0, atol=1e-3, batch_reduction="none")):
        how = {"rtol": 0, "atol": 1e-3, "batch_reduction": "none"} if loss is emd else {}
        value = loss(x, y, **how).cpu()
        assert (value - best <= 1e-3).all()
        assert not torch.allclose(value.double(), best, rtol=1e-6)
    with pytest.raises(ValueError, match="emd: atol must be a number >= 0, got -1"):
        emd(x, y, atol=-1)


def test_gradient_is_deterministic_and_the_pairs_direction(device, deterministic):
    x, y = make(surface, 2, 200, 200, device=device)
    x, y = x.requires_grad_(), y.requires_grad_()
    idx = assign(x, y).idx
    grads = [torch.autograd.grad(emd(x, y), (x, y)) for _ in range(2)]
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])
    partner = y.gather(1, idx.unsqueeze(-1).expand(-1, -1, 3))
    unit = (x - partner) / (x - partner).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(grads[0][0], unit / 400)
    torch.testing.assert_close(
        grads[0][1].gather(1, idx.unsqueeze(-1).expand(-1, -1, 3)), -unit / 400
    )


def test_coincident_pairs_have_gradient_zero(device):
    x = torch.rand(1, 50, 3, device=device)
    y = x.flip(1).clone().requires_grad_()
    x.requires_grad_()
    value = emd(x, y)
    assert value == 0
    gx, gy = torch.autograd.grad(value, (x, y))
    assert gx.eq(0).all()
    assert gy.eq(0).all()


def test_what_cannot_be_judged_is_nan(device):
    x, y = make(uniform, 3, 10, 20, device=device)
    y[0, 19] = torch.nan
    m = torch.tensor([20, 21, 20], device=device)
    value = emd(x, y, y_lengths=m, batch_reduction="none")
    assert value.isnan().tolist() == [True, True, False]
    x.requires_grad_()
    emd(x, y, y_lengths=m).backward()
    assert not x.grad.isnan().any()


@pytest.mark.parametrize("sizes", [(20, 20), (30, 20), (20, 30)], ids=str)
def test_a_cloud_that_cannot_be_judged_has_gradient_zero(sizes, device):
    x, y = make(uniform, 3, *sizes, device=device)
    y[1, 7] = torch.nan
    x, y = x.requires_grad_(), y.requires_grad_()
    grads = torch.autograd.grad(emd(x, y, batch_reduction="none")[[0, 2]].sum(), (x, y))
    for grad in grads:
        assert grad.isfinite().all()
        assert grad[1].eq(0).all()
        assert grad[[0, 2]].ne(0).any(-1).sum(1).tolist() == [min(sizes)] * 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_padding_never_reaches_a_gradient(value, device):
    x, y = make(surface, 2, 20, 30, dtype=torch.float64, device=device)
    x[1, 5:], y[1, 7:] = value, value
    n, m = torch.tensor([20, 5], device=device), torch.tensor([30, 7], device=device)
    x, y = x.requires_grad_(), y.requires_grad_()
    for squared in (False, True):
        value_ = emd(x, y, x_lengths=n, y_lengths=m, squared=squared)
        grads = torch.autograd.grad(value_, (x, y), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in grads), (x, y))
        for grad, length in zip((*grads, *second), (5, 7, 5, 7), strict=True):
            assert grad.isfinite().all()
            assert grad[1, length:].eq(0).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_nothing_predicted_is_not_perfect(reduction, squared, device):
    """One empty cloud is infinitely far from any other, with gradient 0; two are equal."""
    x, y = make(uniform, 3, 5, 6, device=device)
    x, y = x.requires_grad_(), y.requires_grad_()
    n, m = torch.tensor([0, 5, 0], device=device), torch.tensor([6, 0, 0], device=device)
    options = {"squared": squared, "point_reduction": reduction, "batch_reduction": "none"}
    for a, b, lengths, expected in (
        (x, y[:, :0], {}, [torch.inf] * 3),
        (x[:, :0], y, {}, [torch.inf] * 3),
        (x[:, :0], y[:, :0], {}, [0] * 3),
        (x, y, {"x_lengths": n, "y_lengths": m}, [torch.inf, torch.inf, 0]),
    ):
        value = emd(a, b, **lengths, **options)
        points = value if reduction == "none" else value.unsqueeze(1)
        want = torch.tensor(expected, device=device, dtype=torch.float32)
        assert torch.equal(points, want.unsqueeze(1).expand_as(points))
        for grad in torch.autograd.grad(value.sum(), (x, y), materialize_grads=True):
            assert grad.eq(0).all()


def test_empty_conventions(device):
    x, y = make(uniform, 2, 5, 6, device=device)
    assert emd(x[:0], y[:0]) == 0
    assert emd(x[0], y[0, :0]) == torch.inf
    assert pairwise_emd(x[:, :0], y).eq(torch.inf).all()
    assert pairwise_emd(x[:, :0], y[:, :0]).eq(0).all()
    lengths = torch.tensor([0, 1], device=device)
    assert emd(x[:, :0], y, x_lengths=lengths, batch_reduction="none")[1].isnan()


def test_partners_that_are_given_away_can_be_changed(device):
    x, y = (p.requires_grad_() for p in make(surface, 1, 20, 20, device=device))
    value, found = emd(x, y, return_assignment=True)
    found.idx.fill_(10**7)
    for grad in torch.autograd.grad(value, (x, y)):
        assert grad.isfinite().all()


def test_value_with_its_assignment(device, deterministic):
    x, y = make(surface, 2, 20, 30, device=device)
    value, found = emd(x, y, return_assignment=True)
    assert torch.equal(value, emd(x, y))
    for mine, exact in zip(found, assign(x, y), strict=True):
        assert torch.equal(mine, exact)
    single = emd(x[0], y[0], return_assignment=True)[1]
    for mine, exact in zip(single, assign(x[0], y[0]), strict=True):
        assert torch.equal(mine, exact)


@pytest.fixture
def missing(monkeypatch):
    """Certificates that are missed, which ordinary clouds do not show."""

    def missed(*args):
        found = assign_batched(*args)
        return found._replace(converged=torch.zeros_like(found.converged))

    def forget():
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        for told in _certificate._of_device.values():
            told.fill_(False)

    for module in ("ops.emd", "losses.emd_loss"):
        monkeypatch.setattr(f"pointloss.{module}.assign_batched", missed)
    forget()
    yield
    forget()


@pytest.mark.parametrize("loss", [emd, EMDLoss()], ids=["emd", "EMDLoss"])
def test_a_missed_certificate_warns(loss, missing, device):
    x, y = make(surface, 2, 20, 30, device=device)

    def twice():
        if device.type == "cuda":  # it comes with the next call at the latest, and nothing waits
            torch.cuda.set_sync_debug_mode("error")
            try:
                loss(x, y)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
        loss(x, y)

    with pytest.warns(RuntimeWarning, match="a matching.* is not certified to rtol") as caught:
        twice()
    told = [w for w in caught if w.category is RuntimeWarning]  # torch has one of its debug mode
    assert loss is not emd or told[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_no_warning_where_none_is_due(missing, device):
    x, y = make(surface, 2, 20, 30, device=device)
    unknown = torch.full_like(x, torch.nan)
    for _ in range(2):
        emd(unknown, y)  # NaN speaks for itself
        emd(x, y, max_rounds=1)  # asked for
        EMDLoss(max_rounds=1)(x, y)
        emd(x, y, return_assignment=True)
        torch.func.vmap(emd)(x.unsqueeze(1), y.unsqueeze(1))
        torch.func.grad(emd)(x, y)
        emd(x.to("meta"), y.to("meta"))
        with FakeTensorMode() as mode:
            emd(mode.from_tensor(x), mode.from_tensor(y))
        if device.type == "cuda":
            torch.cuda.synchronize()


def test_vmap_is_one_call(device, deterministic):
    """Without torch's fallback, which calls an op once a cloud."""
    x, y = make(surface, 6, 20, 30, device=device)
    x, y = x.view(3, 2, 20, 3), y.view(3, 2, 30, 3)
    n = torch.tensor([[20, 1], [7, 0], [5, 20]], device=device)
    price = assign(x.flatten(0, 1), y.flatten(0, 1)).price.view(3, 2, 30)

    def loss(x, y, n, price):
        return emd(x, y, x_lengths=n, price=price, batch_reduction="none")

    torch._C._functorch._set_vmap_fallback_enabled(False)
    try:
        mapped = torch.func.vmap(loss, in_dims=(0, 1, 0, 0))(x, y.transpose(0, 1), n, price)
        shared = torch.func.vmap(loss, in_dims=(None, 0, None, None))(x[0], y, n[0], None)
        nothing = torch.func.vmap(loss)(x[:0], y[:0], n[:0], price[:0])
        grads = torch.func.vmap(torch.func.grad(lambda *a: loss(*a).sum()))(x, y, n, price)
        found = torch.func.vmap(assign)(x, y)
    finally:
        torch._C._functorch._set_vmap_fallback_enabled(True)
    assert nothing.shape == (0, 2)
    for k in range(3):
        torch.testing.assert_close(mapped[k], loss(x[k], y[k], n[k], price[k]))
        torch.testing.assert_close(shared[k], loss(x[0], y[k], n[0], None))
        a = x[k].clone().requires_grad_()
        exact = torch.autograd.grad(loss(a, y[k], n[k], price[k]).sum(), a)[0]
        torch.testing.assert_close(grads[k], exact)
        for mine, one in zip(found, assign(x[k], y[k]), strict=True):
            assert torch.equal(mine[k], one)


def test_single_cloud_and_half(device, deterministic):
    x, y = make(uniform, 1, 20, 20, device=device)
    assert emd(x[0], y[0]).shape == ()
    assert torch.equal(emd(x[0], y[0]), emd(x, y))
    half = x.bfloat16().requires_grad_()
    emd(half, y.bfloat16()).backward()
    assert half.grad.dtype == torch.bfloat16


def test_module_is_the_function(device, deterministic):
    x, y = make(uniform, 2, 15, 16, device=device)
    options = {"squared": True, "rtol": 1e-3, "batch_reduction": "sum"}
    assert torch.equal(EMDLoss(**options)(x, y), emd(x, y, **options))
    assert "squared=True" in repr(EMDLoss(**options))


def test_compile_fullgraph(device, deterministic):
    x = torch.rand(2, 20, 3, device=device, requires_grad=True)
    y = torch.rand(2, 20, 3, device=device)
    torch.compile(emd, fullgraph=True)(x, y).backward()
    grad, x.grad = x.grad, None
    emd(x, y).backward()
    torch.testing.assert_close(grad, x.grad)
    value, found = torch.compile(emd, fullgraph=True, backend="aot_eager")(
        x, y, return_assignment=True
    )
    assert torch.equal(found.idx, assign(x, y).idx)


def test_training_step_in_a_cuda_graph(cuda, deterministic):
    x, y = make(surface, 2, 200, 200, device="cuda")
    x.requires_grad_(), y.requires_grad_()
    n = torch.tensor([200, 10], device="cuda")

    def step():
        x.grad = y.grad = None
        value = emd(x, y, x_lengths=n)
        value.backward()
        return value

    value, replay = capture(step)
    with torch.no_grad():
        y.mul_(1.5)
    n.copy_(torch.tensor([7, 200]))  # lengths may change between replays
    replay()
    grads = x.grad.clone(), y.grad.clone()
    expected = step()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grads, (x.grad, y.grad))
