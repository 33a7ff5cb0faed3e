# SPDX-License-Identifier: MIT
import math

import pytest
import torch

from pointloss import pointmap_loss, reference


def maps(device="cpu", dtype=torch.float64, batch=2, size=4):
    x, y = torch.randn(2, batch, 2, size, size, 3, dtype=torch.float64).to(device, dtype)
    c = torch.randn(batch, 2, size, size, dtype=torch.float64).to(device, dtype)
    return x, y, c, torch.rand(batch, 2, size, size, device=device) > 0.3


def test_agrees_with_reference(dtype, device):
    x, y, c, mask = maps(device, dtype)
    found = pointmap_loss(x, y, confidence=c, mask=mask, batch_reduction="none")
    expected = reference.pointmap_loss(x, y, c, mask)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pointmap_loss(x, y, confidence=c, mask=mask), found.mean())
    torch.testing.assert_close(pointmap_loss(x[0], y[0], confidence=c[0], mask=mask[0]), found[0])


def test_by_hand(device):
    x = torch.tensor([[[[0.0, 0, 2]]], [[[0, 0, 4]]]], device=device)  # mean distance 3
    y = torch.tensor([[[[0.0, 0, 1]]], [[[0, 0, 1]]]], device=device)  # mean distance 1
    assert pointmap_loss(x, y).item() == pytest.approx(1 / 3 + 1 / 3)
    c = torch.zeros(2, 1, 1, device=device)  # C = 2
    expected = 2 * (2 / 3) - 2 * 0.2 * math.log(2)
    assert pointmap_loss(x, y, confidence=c).item() == pytest.approx(expected)
    assert pointmap_loss(x, y, normalize=False).item() == pytest.approx(1 + 3)


def test_the_scale_does_not_matter_and_the_shift_does(device):
    x, y, _, mask = maps(device)
    torch.testing.assert_close(pointmap_loss(7 * x, y, mask=mask), pointmap_loss(x, y, mask=mask))
    assert pointmap_loss(5 * y, y, mask=mask) < 1e-12
    assert pointmap_loss(y + 1, y, mask=mask) > 0.1


def test_confidence_is_best_at_alpha_over_the_error(device):
    """The minimum over C of C l - alpha log C is at C = alpha / l, if that is above 1."""
    y = torch.tensor([[[[0.0, 0, 1], [0, 0.05, 1]]]], device=device)
    c = torch.zeros(1, 1, 2, device=device, requires_grad=True)
    x = y + 0.05
    pointmap_loss(x, y, confidence=c, alpha=0.2, normalize=False).backward()
    assert c.grad.lt(0).all()  # l = 0.087, C = 2 < 0.2 / l: more confidence
    c.grad = None
    pointmap_loss(y + 1, y, confidence=c, alpha=0.2, normalize=False).backward()
    assert c.grad.gt(0).all()


def test_invalid_pixels_do_not_count(device):
    x, y, c, mask = maps(device)
    mask[0, 1] = False  # a view without a valid pixel
    bad = [torch.where(mask if v.dim() == 4 else mask.unsqueeze(-1), v, torch.nan).requires_grad_()
           for v in (x, y, c)]  # fmt: skip
    found = pointmap_loss(bad[0], bad[1], confidence=bad[2], mask=mask)
    torch.testing.assert_close(found, pointmap_loss(x, y, confidence=c, mask=mask))
    found.backward()
    assert all(v.grad.isfinite().all() for v in bad)


def test_degenerate_maps_have_finite_gradients(device):
    zero = torch.zeros(1, 2, 2, 2, 3, device=device, requires_grad=True)
    found = pointmap_loss(zero, torch.zeros_like(zero))
    found.backward()
    assert found == 0
    assert zero.grad.eq(0).all()
    nothing = torch.zeros(1, 2, 2, 2, dtype=torch.bool, device=device)
    assert pointmap_loss(zero, zero + 1, mask=nothing) == 0


def test_gradients_and_compile(device, gradcheck):
    x, y, c, mask = maps(device, batch=1, size=2)
    inputs = [v.requires_grad_() for v in (x, y, c)]

    def loss(x, y, c):
        return pointmap_loss(x, y, confidence=c, mask=mask)

    gradcheck(loss, inputs)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))


def test_errors():
    x, y, c, mask = maps()
    with pytest.raises(
        ValueError, match=r"confidence must have shape \[2, 2, 4, 4\], got \[2, 4, 4"
    ):
        pointmap_loss(x, y, confidence=c[0])
    with pytest.raises(ValueError, match=r"truth must have shape \[2, 2, 4, 4, 3\], got"):
        pointmap_loss(x, y[:1])
    with pytest.raises(TypeError, match="mask must be bool, got float32"):
        pointmap_loss(x, y, mask=mask.float())
