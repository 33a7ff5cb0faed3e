# SPDX-License-Identifier: MIT
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
import torch
from clouds import KINDS, make, surface, uniform
from streams import capture
from torch._subclasses import FakeTensorMode

from pointloss import EMDLoss, assign, emd, pairwise_emd, reference
from pointloss.ops.assign import assign_batched


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


def test_reductions(device):
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


@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 8), (8, 5)])
def test_gradients(squared, sizes, device):
    x = torch.rand(2, sizes[0], 3, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, sizes[1], 3, device=device, dtype=torch.float64, requires_grad=True)

    def loss(a, b):
        return emd(a, b, squared=squared, rtol=0)

    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))


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

    monkeypatch.setattr("pointloss.losses.emd.assign_batched", missed)
    monkeypatch.setattr("pointloss.losses._certificate._under_way", deque())


@pytest.mark.parametrize("loss", [emd, EMDLoss()], ids=["emd", "EMDLoss"])
def test_a_missed_certificate_warns(loss, missing, device):
    x, y = make(surface, 2, 20, 30, device=device)
    if device.type == "cuda":  # it comes with the next call, and nothing waits
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss(x, y)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    with pytest.warns(RuntimeWarning, match="a matching.* is not certified to rtol") as caught:
        loss(x, y)
    assert loss is not emd or caught[0].filename == __file__


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


def test_module_keeps_prices_per_sample(device, deterministic):
    x, y = make(surface, 4, 200, 200, device=device)
    loss = EMDLoss(rtol=1e-3, price_cache=(10, 200)).to(device)
    ids = torch.tensor([9, 0, 4, 2], device=device)
    first = loss(x, y, ids)
    zeros = torch.zeros(4, 200, dtype=torch.float64, device=device)  # an empty cache's prices
    cold = assign(x, y, rtol=1e-3, price=zeros)
    torch.testing.assert_close(loss.price_cache[ids], cold.price.float())
    assert loss.price_cache[1].eq(0).all()
    torch.testing.assert_close(loss(x, y, ids), first, rtol=2e-3, atol=0)
    warm = assign(x, y, rtol=1e-3, price=loss.price_cache[ids])
    assert (warm.rounds < cold.rounds).all()
    fresh = EMDLoss(price_cache=(10, 200))
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh.price_cache.to(device), loss.price_cache)


def test_price_cache_moves_and_is_saved_like_a_buffer():
    model = torch.nn.Sequential(EMDLoss(price_cache=(3, 5)))
    loss = model[0]
    loss(torch.rand(2, 5, 3), torch.rand(2, 5, 3), torch.tensor([0, 2]))
    state = model.state_dict()
    assert torch.equal(state["0.price_cache"], loss.price_cache)
    assert model.double()[0].price_cache.dtype == torch.float64
    fresh = torch.nn.Sequential(EMDLoss(price_cache=(3, 5)))
    assert fresh.load_state_dict(state).missing_keys == []
    assert torch.equal(fresh[0].price_cache, state["0.price_cache"])
    assert fresh.to("meta")[0].price_cache.device.type == "meta"
    with pytest.raises(RuntimeError, match="Missing key.*0.price_cache"):
        model.load_state_dict({})
    with pytest.raises(RuntimeError, match="Unexpected key.*0.price_cache"):
        torch.nn.Sequential(EMDLoss()).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"size mismatch for 0.price_cache: \[3, 5\]"):
        torch.nn.Sequential(EMDLoss(price_cache=(4, 5))).load_state_dict(state)


def test_batches_padded_to_less_than_the_cache(device, deterministic):
    x, y = make(surface, 2, 30, 40, device=device)
    loss = EMDLoss(price_cache=(4, 50)).to(device)
    ids = torch.tensor([3, 1], device=device)
    loss(x, y, ids)
    kept = loss.price_cache.clone()
    assert kept[ids, 40:].eq(0).all()
    loss(x[:, :20], y[:, :10], ids)
    assert torch.equal(loss.price_cache[:, 20:], kept[:, 20:])
    assert loss(x[0], y[0], ids[0]).isfinite()


def test_ids_out_of_range(device):
    x, y = make(uniform, 2, 5, 5, device=device)
    loss = EMDLoss(price_cache=(3, 5), batch_reduction="none").to(device)
    for wrong in (3, -1):
        ids = torch.tensor([1, wrong], device=device)
        if device.type == "cpu":
            with pytest.raises(ValueError, match=rf"EMDLoss: ids must lie in 0..2, got {wrong}"):
                loss(x, y, ids)
        else:
            assert loss(x, y, ids).isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        ([0, 1], TypeError, "ids must be a torch.Tensor, got list"),
        (torch.tensor([0.0, 1]), TypeError, "ids must be integer, got float32"),
        (torch.tensor([True, False]), TypeError, "ids must be integer, got bool"),
        (torch.tensor([0]), ValueError, r"ids must have shape \[2\], got \[1\]"),
        (torch.empty(2, dtype=int, device="meta"), ValueError, "ids must be on cpu, got meta"),
    ],
)
def test_wrong_ids(ids, error, words):
    with pytest.raises(error, match=f"EMDLoss: {words}"):
        EMDLoss(price_cache=(3, 5))(torch.rand(2, 5, 3), torch.rand(2, 5, 3), ids)


@pytest.mark.parametrize("size", [10, (10,), (10, 5, 3), (10, 0), (10.0, 5)])
def test_wrong_cache_size(size):
    with pytest.raises(ValueError, match=r"EMDLoss: price_cache must be \(samples, points\), two"):
        EMDLoss(price_cache=size)


def test_clouds_that_the_cache_has_no_room_for():
    x = torch.rand(2, 60, 3)
    words = r"price_cache=\(10, 50\) has room for clouds of 50 points, got 60; make it"
    with pytest.raises(ValueError, match=f"EMDLoss: {words}"):
        EMDLoss(price_cache=(10, 50))(x, x, torch.arange(2))
    with pytest.raises(
        ValueError, match="EMDLoss: price_cache is on meta, the clouds on cpu; move"
    ):
        EMDLoss(price_cache=(10, 60)).to("meta")(x, x, torch.arange(2))


TWO_PROCESSES = """
import sys, torch
from pointloss import EMDLoss
from torch import distributed
rank = int(sys.argv[1])
distributed.init_process_group("gloo", f"file://{sys.argv[2]}", rank=rank, world_size=2)
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.loss = EMDLoss(price_cache=(6, 9))
    def forward(self, x, y, ids):
        return self.loss(self.scale * x, y, ids)
model = torch.nn.parallel.DistributedDataParallel(Model())
torch.manual_seed(rank)
loss = model.module.loss
for ids in ([[0, 1], [2, 3]], [[0, 2], [4, 1]]):  # 1 and 2 change their process
    ids = torch.tensor(ids[rank])
    model(torch.rand(2, 9, 3), torch.rand(2, 9, 3), ids).backward()
    written = loss.price_cache[ids].clone()
model(torch.rand(0, 9, 3), torch.rand(0, 9, 3), ids[:0]).backward()  # DDP would copy rank 0's here
assert loss.price_cache[ids].equal(written)
loss.gather_price_cache()
assert loss.price_cache[ids].equal(written)
assert loss.price_cache.any(1).tolist() == [True] * 5 + [False]
everywhere = [torch.empty(6, 9) for _ in range(2)]
distributed.all_gather(everywhere, loss.price_cache)
assert everywhere[0].equal(everywhere[1])
loss.gather_price_cache()  # nothing was written since
assert loss.price_cache.equal(everywhere[0])
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_price_caches_of_two_processes(tmp_path):
    """DistributedDataParallel leaves each its own, and a call joins them."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", TWO_PROCESSES]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            env=environment,
            cwd=Path(__file__).parent.parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers


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


def test_price_cache_compiles_whole(device, deterministic):
    x, y = make(surface, 2, 20, 20, device=device)
    eager, loss = (EMDLoss(price_cache=(3, 20), batch_reduction="none").to(device) for _ in "12")
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ids in ([0, 2], [1, 0]):
        ids = torch.tensor(ids, device=device)
        torch.testing.assert_close(compiled(x, y, ids), eager(x, y, ids))
        torch.testing.assert_close(loss.price_cache, eager.price_cache)
    assert compiled(x, y, ids - 1)[1].isnan()  # out of range


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
