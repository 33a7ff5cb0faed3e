# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import mutual_nearest, nearest, reference
from pointloss.testing.clouds import lattice, make, surface, uniform


@pytest.mark.parametrize("kind", [surface, uniform, lattice], ids=lambda k: k.__name__)
def test_agrees_with_reference(kind, dtype, device):
    x, y = make(kind, 2, 40, 30, device=device, dtype=dtype)
    found = mutual_nearest(x, y)
    assert torch.equal(found.idx.cpu(), reference.mutual_nearest(x, y))
    paired = found.idx >= 0
    assert torch.equal(found.dist[paired], nearest(x, y).dist[paired])
    assert found.dist[~paired].isinf().all()
    assert torch.equal(mutual_nearest(x[1], y[1]).idx, found.idx[1])


def test_finds_a_permutation(device):
    x, _ = make(surface, 1, 50, 1, device=device)
    order = torch.randperm(50, device=device)
    assert torch.equal(mutual_nearest(x[0][order], x[0]).idx, order)


def test_by_hand(device):
    x, y = torch.tensor([[0.0], [1], [1.2]]), torch.tensor([[1.15], [7]])
    dist, idx = mutual_nearest(x.to(device), y.to(device), norm=1)
    assert idx.tolist() == [-1, -1, 0]
    assert dist[2].item() == pytest.approx(0.05, abs=1e-6)


def test_lengths_nan_and_empty(device):
    x, y = make(uniform, 2, 6, 5, device=device)
    lengths = torch.tensor([6, 3], device=device), torch.tensor([5, 0], device=device)
    x[0, 2] = torch.nan
    dist, idx = mutual_nearest(x, y, x_lengths=lengths[0], y_lengths=lengths[1])
    assert idx[0, 2] == -1
    assert dist[0, 2].isnan()
    assert idx[1].eq(-1).all()
    assert dist[1, 3:].eq(0).all()
    assert mutual_nearest(x, y[:, :0]).idx.eq(-1).all()


def test_gradients_and_compile(device, gradcheck):
    x, y = (v.requires_grad_() for v in make(uniform, 1, 4, 3, device=device, dtype=torch.float64))

    def paired(x, y):
        found = mutual_nearest(x, y)
        return torch.where(found.idx >= 0, found.dist, 0)

    gradcheck(paired, (x, y))
    compiled = torch.compile(mutual_nearest, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, y).idx, mutual_nearest(x, y).idx)


def test_errors():
    with pytest.raises(ValueError, match="mutual_nearest: norm must be one of 1, 2, got 3"):
        mutual_nearest(torch.zeros(2, 3), torch.zeros(2, 3), norm=3)
