# SPDX-License-Identifier: MIT
"""The formulas of the density-aware Chamfer distance's code, point by point."""

import pytest
import torch

from pointloss.compat.dcd import calc_cd, calc_dcd, calc_emd
from pointloss.testing.clouds import make, surface


def one_way(source, target, alpha, n_lambda, factor):
    """Mean over source of 1 - factor exp(-alpha d^2) / n^n_lambda, by Python loops."""
    dist, idx = (source.unsqueeze(1) - target).square().sum(-1).min(1)
    crowd = [int((idx == i).sum()) for i in idx]
    terms = [
        1 - factor * (-alpha * d).exp() / n**n_lambda for d, n in zip(dist, crowd, strict=True)
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("sizes", [(20, 20), (12, 20), (20, 12)])
@pytest.mark.parametrize("n_lambda", [1, 0.5])
@pytest.mark.parametrize("non_reg", [False, True])
def test_calc_dcd(sizes, n_lambda, non_reg, device):
    x, gt = make(surface, 2, *sizes, dtype=torch.float64, device=device)
    x.requires_grad_()
    found = calc_dcd(x, gt, alpha=40, n_lambda=n_lambda, non_reg=non_reg)
    assert len(found) == 3
    n, m = sizes
    least = 1 if non_reg else 0
    expected = torch.stack(
        [
            one_way(gt[b], x[b], 40, n_lambda, max(least, m / n)) / 2
            + one_way(x[b], gt[b], 40, n_lambda, max(least, n / m)) / 2
            for b in range(2)
        ]
    )
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in (found[0], expected)))
    raw = calc_dcd(x, gt, return_raw=True)
    assert [tuple(v.shape) for v in raw[3:]] == [(2, m), (2, n), (2, m), (2, n)]


def test_calc_cd(device):
    x, gt = make(surface, 2, 12, 20, dtype=torch.float64, device=device)
    pairs = torch.cdist(gt, x, compute_mode="donot_use_mm_for_euclid_dist")
    from_gt, from_x = pairs.amin(2), pairs.amin(1)
    plain, squared = calc_cd(x, gt)
    torch.testing.assert_close(plain, (from_gt.mean(1) + from_x.mean(1)) / 2)
    torch.testing.assert_close(squared, from_gt.square().mean(1) + from_x.square().mean(1))
    plain, squared = calc_cd(x, gt, separate=True)
    torch.testing.assert_close(plain, torch.stack([from_gt.mean(1), from_x.mean(1)]))
    _, _, f1, dist1, dist2, idx1, idx2 = calc_cd(gt, gt + 0.005, calc_f1=True, return_raw=True)
    assert f1.eq(1).all()  # 3 * 0.005^2 < 0.0001
    assert dist1.shape == dist2.shape == idx1.shape == idx2.shape
    assert idx1.dtype == torch.int32
    assert calc_cd(x[:, :0], gt)[0].isinf().all()


def test_gradient_of_coinciding_points_is_0(device):
    x = torch.rand(2, 5, 3, device=device, requires_grad=True)
    for loss in (calc_cd(x, x.detach().clone())[0], calc_emd(x, x.detach().clone())):
        assert torch.autograd.grad(loss.sum(), x)[0].eq(0).all()


def test_calc_emd(device):
    x = torch.rand(2, 30, 3, device=device)
    moved = x.roll(3, 1) + 0.125
    torch.testing.assert_close(
        calc_emd(x, moved), torch.full((2,), 0.125 * 3**0.5, device=device), atol=0.005, rtol=0
    )
