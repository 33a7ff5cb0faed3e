# SPDX-License-Identifier: MIT
"""Kaolin's documented behaviour: values by hand, and both sides counted."""

import pytest
import torch

from pointloss.compat.kaolin import chamfer_distance, f_score, sided_distance


@pytest.fixture
def clouds(device, dtype):
    """Two pairs of small clouds on a line in space, so that every distance is told at sight."""
    p1 = torch.tensor([[[0.0, 0, 0], [3, 0, 0]], [[0, 0, 1], [0, 0, 5]]], dtype=dtype)
    p2 = torch.tensor(
        [[[0.0, 0, 1], [3, 4, 0], [9, 0, 0]], [[0, 0, 1], [0, 0, 2], [0, 0, 3]]], dtype=dtype
    )
    return p1.to(device), p2.to(device)


def test_sided_distance(clouds):
    dist, idx = sided_distance(*clouds)
    assert dist.tolist() == [[1, 10], [0, 4]]
    assert idx.tolist() == [[0, 0], [0, 2]]
    assert dist.dtype == clouds[0].dtype
    dist, idx = sided_distance(*reversed(clouds))
    assert dist.tolist() == [[1, 16, 36], [0, 1, 4]]
    assert idx.tolist() == [[0, 1, 1], [0, 0, 0]]


def test_chamfer_distance(clouds):
    p1, p2 = clouds
    there, back = p1.new_tensor([11 / 2, 2]), p1.new_tensor([53 / 3, 5 / 3])
    torch.testing.assert_close(chamfer_distance(p1, p2), there + back)
    torch.testing.assert_close(chamfer_distance(p1, p2, 2.0, 2.0), 2 * (there + back))
    torch.testing.assert_close(chamfer_distance(p1, p2, 0.5, 3.0), 0.5 * there + 3 * back)
    plain = p1.new_tensor([(1 + 10**0.5) / 2 + 11 / 3, 1 + 1])
    torch.testing.assert_close(chamfer_distance(p1, p2, squared=False), plain)


def test_gradient_of_coinciding_points_is_0(clouds):
    p1, p2 = (p.requires_grad_() for p in clouds)
    grads = torch.autograd.grad(chamfer_distance(p1, p2, squared=False).sum(), (p1, p2))
    assert all(grad.isfinite().all() for grad in grads)


def test_halves_give_halves(clouds):
    p1, p2 = (p.half() for p in clouds)
    assert {
        v.dtype for v in (chamfer_distance(p1, p2), f_score(p1, p2), sided_distance(p1, p2)[0])
    } == {torch.float16}


def test_empty_target(clouds):
    p1, p2 = clouds
    dist, idx = sided_distance(p1, p2[:, :0])
    assert dist.isinf().all()
    assert idx.eq(-1).all()
    assert chamfer_distance(p1, p2[:, :0]).isinf().all()
    assert chamfer_distance(p1, p2[:, :0], 0.0, 1.0).tolist() == [0, 0]
    assert chamfer_distance(p1[:, :0], p2, 1.0, 0.0).tolist() == [0, 0]
    assert chamfer_distance(p1[:, :0], p2, 0.0, 0.0).tolist() == [0, 0]
    assert chamfer_distance(p1, p2[:, :0], 1.0, 0.0).isinf().all()


def test_f_score(device, dtype):
    """A point exactly at the radius is hit, and each side is divided by its own number."""
    gt = torch.tensor([[[0.0, 0, 0], [2, 0, 0], [4, 0, 0], [6, 0, 0]]], dtype=dtype, device=device)
    pred = torch.tensor([[[0.5, 0, 0], [2.25, 0, 0]]], dtype=dtype, device=device)
    torch.testing.assert_close(f_score(gt, pred, radius=0.5), gt.new_tensor([2 / 3]))
    precision, recall = 1 / 2, 1 / 4
    value = f_score(gt, pred, radius=0.25)
    torch.testing.assert_close(
        value, gt.new_tensor([2 * precision * recall / (precision + recall)])
    )
    value = f_score(gt, pred, radius=0.25, eps=0.25)
    torch.testing.assert_close(value, gt.new_tensor([2 * precision * recall]))
    assert f_score(gt, pred, radius=0.1) == 0
    assert f_score(gt, gt).item() == pytest.approx(1)
