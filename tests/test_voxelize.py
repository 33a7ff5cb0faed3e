# SPDX-License-Identifier: MIT
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointloss import reference, voxelize


def test_agrees_with_reference(dtype, device):
    points = (1.2 * torch.rand(2, 200, 3, dtype=dtype) - 0.6).to(device)  # some lie outside
    found = voxelize(points, 4)
    assert found.dtype == torch.int64
    assert torch.equal(found.cpu(), reference.voxelize(points, 4))
    assert torch.equal(voxelize(points[1], 4), found[1])
    other = voxelize(points, 3, low=-0.25, high=0.75)
    assert torch.equal(other.cpu(), reference.voxelize(points, 3, -0.25, 0.75))


def test_by_hand(device):
    points = [[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5], [0.0, 0, -0.01], [0.51, 0, 0], [0.4, 0.1, 0.1]]
    grid = voxelize(torch.tensor(points, device=device), 2)
    expected = torch.zeros(2, 2, 2, dtype=torch.int64)
    expected[0, 0, 0], expected[1, 1, 1], expected[1, 1, 0] = 1, 2, 1
    assert torch.equal(grid.cpu(), expected)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(0, 40))
def test_every_inner_point_counts_once(seed, resolution, n):
    points = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed))
    grid = voxelize(points, resolution, low=0.0, high=1.0)
    assert grid.sum() == n
    finer = voxelize(points, 2 * resolution, low=0.0, high=1.0)
    pooled = torch.nn.functional.avg_pool3d(finer[None, None].double(), 2)[0, 0] * 8
    assert torch.equal(pooled.long(), grid)


def test_mask_nan_and_infinity(device):
    points = torch.zeros(2, 3, 3, device=device)
    points[0, 1, 2], points[1, 0, 0] = torch.nan, torch.inf
    mask = torch.tensor([[True, True, False], [True, True, True]], device=device)
    assert voxelize(points, 2, mask=mask).sum((1, 2, 3)).tolist() == [1, 2]
    assert voxelize(points[:, :0], 2).eq(0).all()


def test_compiles_whole(device):
    points = torch.rand(2, 9, 3, device=device) - 0.5
    compiled = torch.compile(voxelize, fullgraph=True, backend="eager")
    assert torch.equal(compiled(points, 4), voxelize(points, 4))


def test_errors():
    points = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="voxelize: resolution must be at least 1, got 0"):
        voxelize(points, 0)
    with pytest.raises(ValueError, match=r"voxelize: low must be less than high, got 0.5 and -0.5"):
        voxelize(points, 2, low=0.5, high=-0.5)
    with pytest.raises(ValueError, match=r"points must have shape \[B, N, 3\] or \[N, 3\], got"):
        voxelize(points[:, :2], 2)
