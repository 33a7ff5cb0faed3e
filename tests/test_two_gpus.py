# SPDX-License-Identifier: MIT
"""Every op on a GPU that is not the current one; needs two."""

import pytest
import torch

from pointloss import NearestIndex, assign, chamfer, emd, f_score, nearest
from pointloss.testing.clouds import make, surface

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture
def pair():
    """The same clouds on the CPU and on cuda:1, while cuda:0 is current."""
    torch.cuda.set_device(0)
    x, y = make(surface, 2, 300, 280)
    return (x, y), (x.to("cuda:1"), y.to("cuda:1"))


@pytest.mark.parametrize("n", [300, 9000])  # the tree of small clouds and that of large ones
def test_nearest(n):
    torch.cuda.set_device(0)
    x, y = make(surface, 2, n, n)
    here, there = nearest(x, y), nearest(x.to("cuda:1"), y.to("cuda:1"))
    assert there.idx.device == torch.device("cuda:1")
    assert torch.equal(here.idx, there.idx.cpu())
    assert torch.equal(here.dist, there.dist.cpu())
    index = NearestIndex(y.to("cuda:1"))
    assert torch.equal(here.idx, index.query(x.to("cuda:1")).idx.cpu())
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("loss", [chamfer, emd])
@pytest.mark.parametrize("strict", [False, True])
def test_losses_and_gradients(loss, strict, pair):
    torch.use_deterministic_algorithms(strict)
    try:
        grads = []
        for x, y in pair:
            x, y = x.requires_grad_(), y.requires_grad_()
            value = loss(x, y, rtol=1e-6) if loss is emd else loss(x, y)
            grads.append(
                [value.detach().cpu(), *(g.cpu() for g in torch.autograd.grad(value, (x, y)))]
            )
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=1e-5, atol=0)
    if loss is chamfer:  # two matchings may be equally good
        torch.testing.assert_close(grads[0][1:], grads[1][1:])
    assert torch.cuda.current_device() == 0


def test_assign_and_f_score(pair):
    (x, y), (a, b) = pair
    found = assign(a, b)
    assert found.idx.device == torch.device("cuda:1")
    assert found.converged.all()
    assert torch.equal(f_score(x, y, 0.05).f_score, f_score(a, b, 0.05).f_score.cpu())
