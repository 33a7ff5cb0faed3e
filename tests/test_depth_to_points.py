# SPDX-License-Identifier: MIT
import pytest
import torch

from models.data.camera import Camera, intrinsics
from pointloss import depth_to_points, reference, transform_points

K = torch.tensor([[50.0, 0.5, 12], [0, 40, 9], [0, 0, 1]], dtype=torch.float64)


def test_agrees_with_reference(dtype, device):
    depth = 1 + torch.rand(2, 6, 9, device=device, dtype=dtype)
    k = torch.stack([K, K + torch.diag(torch.tensor([3.0, 5, 0]).double())]).to(device, dtype)
    found = depth_to_points(depth, k)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double().cpu(), reference.depth_to_points(depth, k))
    torch.testing.assert_close(depth_to_points(depth[0], K.to(k)), found[0])
    torch.testing.assert_close(depth_to_points(depth, K.to(k))[0], found[0])


def test_by_hand(device):
    k = torch.tensor([[2.0, 0, 1], [0, 2, 1], [0, 0, 1]], device=device)
    found = depth_to_points(torch.tensor([[4.0, 0], [2, 4]], device=device), k)
    assert found[0, 0].tolist() == [-1, -1, 4]
    assert found[0, 1].tolist() == [0, 0, 0]
    assert found[1, 0].tolist() == [-0.5, 0.5, 2]


def test_lands_on_the_points_that_were_projected(device):
    """The conventions are those of the cameras of the renderings."""
    camera = Camera(40, 25, 2.0)
    k = torch.from_numpy(intrinsics(64, None)).to(device)
    pose = torch.from_numpy(camera.extrinsics()).to(device)
    depth = 1.5 + torch.rand(64, 64, dtype=torch.float64, device=device)
    points = depth_to_points(depth, k)
    rays = points @ k.T
    pixel = rays[..., :2] / rays[..., 2:]
    assert pixel[5, 7].cpu().allclose(torch.tensor([7.5, 5.5]).double())
    there = transform_points(points, pose, inverse=True)
    back = transform_points(there, pose)
    torch.testing.assert_close(back, points)
    # The camera looks at the origin: the point on the axis at its distance is the origin.
    middle = torch.tensor([[0, 0, 2.0]], dtype=torch.float64, device=device)
    assert transform_points(middle, pose, inverse=True).abs().max() < 1e-12


def test_gradients_and_compile(device, gradcheck):
    depth = (1 + torch.rand(1, 2, 3, dtype=torch.float64, device=device)).requires_grad_()
    gradcheck(depth_to_points, (depth, K.to(device).requires_grad_()))
    compiled = torch.compile(depth_to_points, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(depth, K.to(device)), depth_to_points(depth, K.to(device)))


def test_errors():
    with pytest.raises(
        ValueError, match=r"depth must have shape \[B, H, W\] or \[H, W\], got \[3\]"
    ):
        depth_to_points(torch.ones(3), K)
    with pytest.raises(
        ValueError, match=r"intrinsics must have shape \[2, 3, 3\] or \[3, 3\], got"
    ):
        depth_to_points(torch.ones(2, 4, 4), K.expand(3, 3, 3))
    with pytest.raises(TypeError, match=r"depth must be float16, .*, got int64"):
        depth_to_points(torch.ones(4, 4).long(), K)
