# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import pointmap_error, reference


def maps(device="cpu", dtype=torch.float64, batch=2):
    x, y = torch.randn(2, batch, 2, 4, 5, 3, dtype=torch.float64).to(device, dtype)
    return x, y


def test_agrees_with_reference(dtype, device):
    x, y = maps(device, dtype)
    found = pointmap_error(x, y)
    torch.testing.assert_close(found.double().cpu(), reference.pointmap_error(x, y), rtol=1e-5,
                               atol=1e-5)  # fmt: skip
    assert torch.equal(pointmap_error(x[1], y[1]), found[1])


def test_by_hand(device):
    y = torch.tensor([[[[0.0, 0, 1], [0, 0, 2], [0, 0, 4]]]], device=device)
    # Median depth 2; the points lie at -1, 0, 2 from it, at distances with the median 1.
    x = torch.tensor([[[[0.0, 0, 3], [0, 0, 5], [0, 0, 7]]]], device=device)
    # Likewise -2, 0, 2 with the median distance 2, so -1, 0, 1 after scaling.
    assert pointmap_error(x, y).item() == pytest.approx(1 / 3)
    assert pointmap_error(x, y, scale=False).item() == pytest.approx(1 / 3)
    assert pointmap_error(x, y, scale=False, shift=False).item() == pytest.approx(8 / 3)


def test_scale_and_depth_shift_cost_nothing(device):
    _, y = maps(device)
    moved = 3000 * y + y.new_tensor([0, 0, 50.0])
    assert pointmap_error(moved, y).max() < 1e-9
    assert pointmap_error(moved, y, shift=False).min() > 1e-3
    assert pointmap_error(moved, y, scale=False).min() > 1
    assert pointmap_error(y + y.new_tensor([1.0, 0, 0]), y).min() > 0.1


def test_invalid_pixels_do_not_count(device):
    x, y = maps(device)
    mask = torch.rand(2, 2, 4, 5, device=device) > 0.3
    mask[1] = False
    bad = torch.where(mask.unsqueeze(-1), x, torch.nan).requires_grad_()
    found = pointmap_error(bad, y, mask=mask)
    kept = [v[0][mask[0]][None, None, None] for v in (x, y)]  # one view of one row
    torch.testing.assert_close(found[:1], pointmap_error(*kept))
    assert found[1] == 0
    found.sum().backward()
    assert bad.grad.isfinite().all()


def test_gradient_and_compile(device):
    x, y = maps(device, batch=1)
    x.requires_grad_()
    pointmap_error(x, y).sum().backward()
    assert x.grad.isfinite().all()
    compiled = torch.compile(pointmap_error, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), pointmap_error(x, y))
    point = torch.zeros(1, 1, 1, 3, device=device, requires_grad=True)
    pointmap_error(point, point.detach()).backward()
    assert point.grad.eq(0).all()


def test_errors():
    x, y = maps()
    with pytest.raises(ValueError, match=r"mask must have shape \[2, 2, 4, 5\], got \[2, 4, 5\]"):
        pointmap_error(x, y, mask=torch.ones(2, 4, 5, dtype=torch.bool))
