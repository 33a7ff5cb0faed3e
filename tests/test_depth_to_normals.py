# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import depth_to_normals, depth_to_points, reference

K = torch.tensor([[40.0, 0, 8], [0, 40, 6], [0, 0, 1]], dtype=torch.float64)


def sphere(device, dtype=torch.float64):
    """Depth [12, 16] of a unit sphere at depth 3 under K / 2, its true normals, and where it is."""
    k = K.to(device)
    k = k * k.new_tensor([[0.4], [0.4], [1]])
    k = torch.cat([k[:, :2], K[:, 2:].to(device)], 1)
    rays = depth_to_points(torch.ones(12, 16, dtype=torch.float64, device=device), k)
    a, b = rays.square().sum(-1), -6 * rays[..., 2]
    root = b.square() - 32 * a
    seen = root > 0
    depth = torch.where(seen, (-b - root.clamp_min(0).sqrt()) / (2 * a), 0)
    centre = depth.new_tensor([0, 0, 3.0])
    return depth.to(dtype), k.to(dtype), depth_to_points(depth, k) - centre, seen


def test_agrees_with_reference(dtype, device):
    depth = 3 + torch.rand(2, 5, 6, device=device, dtype=dtype)
    found = depth_to_normals(depth, K.to(device, dtype))
    assert found.dtype == dtype
    expected = reference.depth_to_normals(depth, K.expand(2, 3, 3))
    torch.testing.assert_close(found.double().cpu(), expected, rtol=0, atol=1e-4)


def test_a_tilted_plane_by_hand(device):
    """z = 3 + x has the normal (1, 0, -1) / sqrt 2, also at the border."""
    rays = depth_to_points(torch.ones(12, 16, dtype=torch.float64, device=device), K.to(device))
    normals = depth_to_normals(3 / (1 - rays[..., 0]), K.to(device))
    expected = normals.new_tensor([0.5**0.5, 0, -(0.5**0.5)])
    torch.testing.assert_close(normals, expected.expand_as(normals))


def test_a_sphere(device):
    depth, k, truth, seen = sphere(device)
    normals = depth_to_normals(depth, k)
    assert normals[~seen].eq(0).all()
    assert normals[seen].norm(dim=-1).sub(1).abs().max() < 1e-9
    cosine = (normals * truth).sum(-1)[3:9, 5:11]
    assert cosine.min() > 0.995  # differences over two pixels


def test_missing_neighbours(device):
    depth = torch.full((3, 3), 2.0, device=device)
    depth[0, 0], depth[1, 2] = 0, torch.nan
    mask = torch.ones(3, 3, dtype=torch.bool, device=device)
    mask[2, 0] = False
    normals = depth_to_normals(depth, K.to(device).float(), mask=mask)
    assert normals.isfinite().all()
    none = normals.eq(0).all(-1)
    # Of the pixels in the first column only the middle one is there, and it has no neighbour below
    # or above; the corners on the right have none in their column.
    assert none.tolist() == [[True, False, True], [True, False, True], [True, False, True]]
    assert normals[1, 1].tolist() == [0, 0, -1]


def test_gradients_and_compile(device, gradcheck):
    depth = (2 + torch.rand(1, 3, 3, dtype=torch.float64, device=device)).requires_grad_()
    gradcheck(lambda d, k: depth_to_normals(d, k), (depth, K.to(device).requires_grad_()))
    compiled = torch.compile(depth_to_normals, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(depth, K.to(device)), depth_to_normals(depth, K.to(device)))


def test_gradient_is_finite_where_there_is_no_normal(device):
    depth = torch.tensor([[1.0, 0, torch.nan, 2], [0, 0, torch.inf, 2]], device=device)
    depth.requires_grad_()
    depth_to_normals(depth, K.to(device).float()).sum().backward()
    assert depth.grad.isfinite().all()


def test_errors():
    with pytest.raises(
        ValueError, match=r"depth_to_normals: mask must have shape \[2, 4, 5\], got"
    ):
        depth_to_normals(torch.ones(2, 4, 5), K, mask=torch.ones(4, 5, dtype=torch.bool))
