# SPDX-License-Identifier: MIT
"""The prices that EMDLoss keeps between steps: rows, sizes, state dicts, processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pointloss import EMDLoss, assign
from pointloss.testing.clouds import make, surface, uniform


def test_keeps_prices_per_sample(device, deterministic):
    x, y = make(surface, 4, 200, 200, device=device)
    loss = EMDLoss(rtol=1e-3, price_cache=(10, 200)).to(device)
    ids = torch.tensor([9, 0, 4, 2], device=device)
    first = loss(x, y, ids)
    # An empty cache's prices and matching.
    zeros, none = torch.zeros(4, 200, device=device), torch.full((4, 200), -1, device=device)
    cold = assign(x, y, rtol=1e-3, price=zeros, idx=none)
    torch.testing.assert_close(loss.price_cache[ids], cold.price.float())
    assert torch.equal(loss.idx_cache[ids], cold.idx.int())
    assert loss.price_cache[1].eq(0).all()
    assert loss.idx_cache[1].eq(-1).all()
    torch.testing.assert_close(loss(x, y, ids), first, rtol=2e-3, atol=0)
    warm = assign(x, y, rtol=1e-3, price=loss.price_cache[ids], idx=loss.idx_cache[ids])
    assert (warm.rounds < cold.rounds).all()
    fresh = EMDLoss(price_cache=(10, 200))
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh.price_cache.to(device), loss.price_cache)
    assert torch.equal(fresh.idx_cache.to(device), loss.idx_cache)


def test_a_matching_that_still_serves_stays(device):
    """Points that move towards their partners keep them: the step costs a look at the distances."""
    x, y = make(surface, 2, 200, 200, device=device)
    loss, ids = EMDLoss(price_cache=(2, 200)).to(device), torch.arange(2, device=device)
    loss(x, y, ids)
    idx = loss.idx_cache.clone()
    partner = y.gather(1, idx.long().unsqueeze(-1).expand_as(y))
    x = x + 0.1 * (partner - x)
    found = assign(x, y, price=loss.price_cache, idx=idx)
    torch.testing.assert_close(loss(x, y, ids), found.cost.mean().float())
    if device.type == "cuda":
        assert found.rounds.eq(0).all()
        assert torch.equal(loss.idx_cache, idx)


def test_price_cache_moves_and_is_saved_like_a_buffer():
    model = torch.nn.Sequential(EMDLoss(price_cache=(3, 5)))
    loss = model[0]
    loss(torch.rand(2, 5, 3), torch.rand(2, 5, 3), torch.tensor([0, 2]))
    state = model.state_dict()
    assert torch.equal(state["0.price_cache"], loss.price_cache)
    assert torch.equal(state["0.idx_cache"], loss.idx_cache)
    kept = loss.price_cache.clone()
    assert torch.equal(model.half().double()[0].price_cache, kept)
    assert loss.idx_cache.dtype == torch.int32
    fresh = torch.nn.Sequential(EMDLoss(price_cache=(3, 5)))
    assert fresh.load_state_dict(state).missing_keys == []
    assert torch.equal(fresh[0].price_cache, state["0.price_cache"])
    assert torch.equal(fresh[0].idx_cache, state["0.idx_cache"])
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
            assert loss.price_cache[[0, 2]].eq(0).all()  # it is nobody's row
            assert loss.idx_cache[[0, 2]].eq(-1).all()


def test_a_sample_twice_in_a_batch_keeps_the_last(device, deterministic):
    x, y = make(surface, 3, 30, 30, device=device)
    loss = EMDLoss(price_cache=(4, 30)).to(device)
    loss(x, y, torch.tensor([2, 0, 2], device=device, dtype=torch.int32))
    zeros, none = torch.zeros(3, 30, device=device), torch.full((3, 30), -1, device=device)
    last = assign(x, y, price=zeros, idx=none)
    assert torch.equal(loss.idx_cache[[0, 2]], last.idx[1:].int())
    assert torch.equal(loss.price_cache[[0, 2]], last.price[1:].float())
    assert loss._age.tolist() == [0, 1, 0, 1]


def test_every_row_ages_once(device):
    """In a cache of more rows than a block has threads, and by a batch without clouds."""
    loss = EMDLoss(price_cache=(600, 30)).to(device)
    x, y = make(surface, 2, 30, 30, device=device)
    loss(x, y, torch.tensor([3, 599], device=device))
    loss(x[:0], y[:0], torch.tensor([], device=device, dtype=torch.int64))
    age = torch.full((600,), 2)
    age[[3, 599]] = 1
    assert torch.equal(loss._age.cpu(), age)


def test_opcheck(device):
    """What the ops of the cache tell torch of themselves, ids out of range among them."""
    kept = torch.rand(4, 6, device=device), torch.ones(4, 6, dtype=torch.int32, device=device)
    ids, age = torch.tensor([1, -1, 4], device=device), torch.zeros(4, dtype=int, device=device)
    read, write = torch.ops.pointloss.price_cache_read, torch.ops.pointloss.price_cache_write
    torch.library.opcheck(read, (*kept, ids, 3, 5))
    price, idx = read(*kept, ids, 3, 5)
    assert torch.equal(price[0], kept[0][1, :5].double())
    assert price[1:].eq(0).all()
    assert idx.tolist() == [[1] * 3, [-1] * 3, [-1] * 3]
    cost = torch.ones(3, dtype=torch.float64, device=device)
    torch.library.opcheck(write, (*kept, age, ids.clamp(0, 3), price, idx, cost))  # without NaN
    assert write(*kept, age, ids, price, idx, cost).isnan().tolist() == [False, True, True]
    with pytest.raises(RuntimeError, match="no room"):
        read(*kept, ids, 3, 7)


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
    written, matched = loss.price_cache[ids].clone(), loss.idx_cache[ids].clone()
model(torch.rand(0, 9, 3), torch.rand(0, 9, 3), ids[:0]).backward()  # DDP would copy rank 0's here
assert loss.price_cache[ids].equal(written)
loss.gather_price_cache()
assert loss.price_cache[ids].equal(written)
assert loss.idx_cache[ids].equal(matched)
assert loss.idx_cache[:5].sort().values.equal(torch.arange(9, dtype=torch.int32).expand(5, 9))
assert loss.idx_cache[5].eq(-1).all()
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


def test_price_cache_compiles_whole(device, deterministic):
    x, y = make(surface, 2, 20, 20, device=device)
    eager, loss = (EMDLoss(price_cache=(3, 20), batch_reduction="none").to(device) for _ in "12")
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ids in ([0, 2], [1, 0]):
        ids = torch.tensor(ids, device=device)
        torch.testing.assert_close(compiled(x, y, ids), eager(x, y, ids))
        torch.testing.assert_close(loss.price_cache, eager.price_cache)
    assert compiled(x, y, ids - 1)[1].isnan()  # out of range
