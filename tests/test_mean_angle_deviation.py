# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import mean_angle_deviation, reference


def normals(device="cpu", dtype=torch.float64):
    a, b = torch.randn(2, 2, 4, 5, 3, dtype=torch.float64).to(device, dtype)
    return a, b


def test_agrees_with_reference(dtype, device):
    a, b = normals(device, dtype)
    found = mean_angle_deviation(a, b)
    expected = reference.mean_angle_deviation(a, b)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean_angle_deviation(a[1], b[1]), found[1])
    radians = mean_angle_deviation(a, b, degrees=False)
    torch.testing.assert_close(radians.rad2deg(), found)


def test_by_hand(device):
    x, y = torch.eye(3, device=device)[:2]
    a = torch.stack([x, x, x])[None]
    b = torch.stack([y, 3 * (x + y), -x])[None]
    assert mean_angle_deviation(a, b).item() == pytest.approx((90 + 45 + 180) / 3)
    # 1e-4 radians, which the arc cosine of float32 rounds to 0 or 3.5e-4.
    near = mean_angle_deviation(a[:, :1], a[:, :1] + 1e-4 * y, degrees=False)
    assert near.item() == pytest.approx(1e-4, rel=1e-4)


def test_the_kinks_have_gradient_zero(device):
    """An angle of 0 or of 180 degrees, where the arc cosine's slope is infinite."""
    for sign in (1, -1):
        a = torch.tensor([[[0.6, 0.0, -0.8]]], device=device, requires_grad=True)
        found = mean_angle_deviation(a, sign * a.detach())
        assert found.item() == pytest.approx(0 if sign == 1 else 180, abs=1e-4)
        found.backward()
        assert a.grad.eq(0).all()


def test_pixels_without_a_normal_do_not_count(device):
    a, b = normals(device)
    mask = torch.ones(2, 4, 5, dtype=torch.bool, device=device)
    mask[0, 0], mask[1] = False, False
    a[0, 0, 0], b[0, 0, 1:3] = 0, 0
    a[0, 0, 3:] = torch.nan
    a.requires_grad_()
    found = mean_angle_deviation(a, b, mask=mask)
    torch.testing.assert_close(found[0], mean_angle_deviation(a[0, 1:], b[0, 1:]))
    assert found[1] == 0
    found.sum().backward()
    assert a.grad.isfinite().all()
    eroded = mean_angle_deviation(a, b, mask=mask, erode=1)
    torch.testing.assert_close(eroded[0], mean_angle_deviation(a[0, 2:3, 1:4], b[0, 2:3, 1:4]))


def test_gradients_and_compile(device, gradcheck):
    inputs = [v[:1, :2, :2].clone().requires_grad_() for v in normals(device)]
    gradcheck(mean_angle_deviation, inputs)
    compiled = torch.compile(mean_angle_deviation, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), mean_angle_deviation(*inputs))


def test_errors():
    a, b = normals()
    with pytest.raises(ValueError, match=r"truth must have shape \[2, 4, 5, 3\], got \[4, 5, 3\]"):
        mean_angle_deviation(a, b[0])
    with pytest.raises(ValueError, match="mean_angle_deviation: erode must be at least 0, got -2"):
        mean_angle_deviation(a, b, erode=-2)
