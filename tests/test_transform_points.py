# SPDX-License-Identifier: MIT
import pytest
import torch
from scipy.spatial.transform import RigidTransform, Rotation

from pointloss import transform_points


def motions(count, dtype=torch.float64, device="cpu"):
    turns = torch.from_numpy(Rotation.random(count, rng=0).as_matrix())
    shift = torch.randn(count, 3, 1, dtype=torch.float64)
    return torch.cat([turns, shift], 2).to(device, dtype)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 6, 3)])
def test_agrees_with_scipy(shape, dtype, device):
    points = torch.randn(2, *shape, dtype=dtype, device=device)
    poses = motions(2, dtype, device)
    found = transform_points(points, poses)
    assert found.shape == points.shape
    for p, pose, f in zip(points, poses.double().cpu(), found, strict=True):
        truth = RigidTransform.from_components(pose[:, 3], Rotation.from_matrix(pose[:, :3]))
        expected = torch.from_numpy(truth.apply(p.reshape(-1, 3).double().cpu())).view(shape)
        torch.testing.assert_close(f.double().cpu(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(transform_points(p, pose.to(p)), f)
    whole = torch.cat([poses, poses.new_tensor([[[0, 0, 0, 1]]]).expand(2, 1, 4)], 1)
    assert torch.equal(transform_points(points, whole), found)


def test_inverse(device):
    points, poses = torch.randn(2, 4, 3, dtype=torch.float64, device=device), motions(2)
    there = transform_points(points, poses.to(device))
    torch.testing.assert_close(transform_points(there, poses.to(device), inverse=True), points)


def test_gradients_and_compile(device, gradcheck):
    points = torch.randn(2, 2, 3, dtype=torch.float64, device=device).requires_grad_()
    poses = motions(2, device=device).requires_grad_()
    gradcheck(transform_points, (points, poses))
    gradcheck(lambda p, e: transform_points(p, e, inverse=True), (points, poses))
    compiled = torch.compile(transform_points, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(points, poses), transform_points(points, poses))


def test_errors():
    with pytest.raises(ValueError, match=r"points must have shape \[..., 3\], got \[4, 2\]"):
        transform_points(torch.zeros(4, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"extrinsics must have shape .*, got \[3, 3\]"):
        transform_points(torch.zeros(4, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"points must have shape \[2, ..., 3\] as the extrinsics"):
        transform_points(torch.zeros(4, 3), torch.zeros(2, 3, 4))
