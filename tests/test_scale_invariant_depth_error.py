# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import reference, scale_invariant_depth_error


def depths(device="cpu", dtype=torch.float64):
    d, t = (1 + torch.rand(2, 3, 6, 7, dtype=torch.float64)).to(device, dtype)
    return d, t, torch.rand(3, 6, 7, device=device) > 0.3


def test_agrees_with_reference(dtype, device):
    d, t, mask = depths(device, dtype)
    found = scale_invariant_depth_error(d, t, mask=mask)
    expected = reference.scale_invariant_depth_error(d, t, mask)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(scale_invariant_depth_error(d[1], t[1], mask=mask[1]), found[1])


def test_by_hand(device):
    d = torch.tensor([[1.0, torch.e**2]], device=device)
    found = scale_invariant_depth_error(d, torch.ones_like(d))  # logs 0 and 2: deviation 1
    assert found.item() == pytest.approx(1)


def test_a_factor_costs_nothing(device):
    d, t, _ = depths(device)
    torch.testing.assert_close(
        scale_invariant_depth_error(1000 * d, t), scale_invariant_depth_error(d, t)
    )
    assert scale_invariant_depth_error(7 * t, t).max() < 1e-12


def test_invalid_pixels_do_not_count(device):
    d, t, mask = depths(device)
    for k, bad in enumerate((0.0, -1.0, torch.nan, torch.inf)):
        mask[0, 0, k] = False
        (d if k % 2 else t)[0, 0, k] = bad
    mask[1] = False
    d.requires_grad_()
    found = scale_invariant_depth_error(d, t, mask=mask)
    torch.testing.assert_close(
        found[0].cpu(), reference.scale_invariant_depth_error(d[:1], t[:1], mask[:1])[0]
    )
    assert found[1] == 0
    # The values alone exclude the same pixels.
    mask[0, 0, :4] = True
    torch.testing.assert_close(scale_invariant_depth_error(d, t, mask=mask)[0], found[0])
    found.sum().backward()
    assert d.grad.isfinite().all()
    assert d.grad[~mask].eq(0).all()


def test_erosion(device):
    d, t, _ = depths(device)
    mask = torch.ones_like(d, dtype=torch.bool)
    mask[:, 2, 2] = False
    found = scale_invariant_depth_error(d, t, mask=mask, erode=1)
    left = torch.zeros_like(mask)
    left[:, 1:-1, 1:-1] = True
    left[:, 1:4, 1:4] = False
    torch.testing.assert_close(found, scale_invariant_depth_error(d, t, mask=left))


def test_gradients_and_compile(device, gradcheck):
    inputs = [v[:1, :2, :3].clone().requires_grad_() for v in depths(device)[:2]]
    gradcheck(scale_invariant_depth_error, inputs)
    compiled = torch.compile(scale_invariant_depth_error, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), scale_invariant_depth_error(*inputs))


def test_gradient_at_a_perfect_prediction_is_zero(device):
    d = torch.ones(3, 3, device=device, requires_grad=True)
    scale_invariant_depth_error(d, torch.full((3, 3), 2.0, device=device)).backward()
    assert d.grad.eq(0).all()


def test_errors():
    d, t, _ = depths()
    with pytest.raises(ValueError, match=r"depth_error: truth must have shape \[3, 6, 7\], got"):
        scale_invariant_depth_error(d, t[0])
    with pytest.raises(ValueError, match="erode must be at least 0, got -1"):
        scale_invariant_depth_error(d, t, erode=-1)
