# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import reference, voxel_iou


def grids(device, dtype=torch.float32):
    p = torch.rand(3, 4, 5, 6, dtype=dtype)
    return p.to(device), (torch.rand(3, 4, 5, 6) > 0.5).to(device)


def test_agrees_with_reference(dtype, device):
    p, t = grids(device, dtype)
    for threshold in (0.2, 0.5, 1.5):
        expected = reference.voxel_iou(p, t, threshold)
        torch.testing.assert_close(voxel_iou(p, t, threshold).double().cpu(), expected)
    assert torch.equal(voxel_iou(p[1], t[1]), voxel_iou(p, t)[1])


def test_by_hand(device):
    p = torch.tensor([[[0.9, 0.6, 0.5, 0.1]]], device=device)
    t = torch.tensor([[[True, False, True, True]]], device=device)
    assert voxel_iou(p, t) == 0.25  # 0.5 itself is not above the threshold
    mask = torch.tensor([[[True, False, True, True]]], device=device)
    assert voxel_iou(p, t, mask=mask).item() == pytest.approx(1 / 3)


def test_threshold_search(device):
    _, t = grids(device)
    p = torch.where(t, 0.4, 0.2)
    thresholds = torch.linspace(0.05, 0.95, 10)
    scores = voxel_iou(p, t, thresholds)
    assert scores.shape == (3, 10)
    assert thresholds[int(scores.mean(0).argmax())].item() == pytest.approx(0.25)
    assert torch.equal(scores[:, 3], voxel_iou(p, t, thresholds[3]))
    assert voxel_iou(p[0], t[0], thresholds).shape == (10,)


def test_empty_grids_and_nan(device):
    p = torch.zeros(2, 2, 2, device=device)
    t = torch.zeros(2, 2, 2, dtype=torch.bool, device=device)
    assert voxel_iou(p, t) == 1
    p[0, 0, 0] = torch.nan
    assert voxel_iou(p, t) == 1
    assert voxel_iou(p, ~t) == 0


def test_compiles_whole(device):
    p, t = grids(device)
    compiled = torch.compile(voxel_iou, fullgraph=True, backend="eager")
    assert torch.equal(compiled(p, t), voxel_iou(p, t))


def test_errors(device):
    p, t = grids(device)
    with pytest.raises(TypeError, match="voxel_iou: truth must be bool, got float32"):
        voxel_iou(p, p)
    with pytest.raises(ValueError, match=r"voxel_iou: truth must have shape \[3, 4, 5, 6\], got"):
        voxel_iou(p, t[:2])
    with pytest.raises(ValueError, match=r"threshold must be a number or \[T\], got \[1, 1\]"):
        voxel_iou(p, t, torch.zeros(1, 1))
