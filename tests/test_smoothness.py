# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import reference, smoothness


def test_agrees_with_reference(dtype, device):
    values = torch.randn(3, 6, 7, dtype=dtype, device=device)
    found = smoothness(values, batch_reduction="none")
    torch.testing.assert_close(found.double().cpu(), reference.smoothness(values), rtol=1e-5,
                               atol=1e-5)  # fmt: skip
    torch.testing.assert_close(smoothness(values), found.mean())
    torch.testing.assert_close(smoothness(values[1]), found[1])


def test_by_hand(device):
    values = torch.zeros(3, 3, device=device)
    values[1, 1] = 1.0
    # d_xx is -2 in the middle row and 0 in two; d_xy is 1 in size four times; d_yy as d_xx.
    assert smoothness(values).item() == pytest.approx(2 / 3 + 2 * 1 + 2 / 3)


def test_planes_cost_nothing(device):
    x, y = torch.arange(5.0, device=device), torch.arange(4.0, device=device)[:, None]
    assert smoothness(3 * x - 2 * y + 1) == 0


def test_masked_pixels_do_not_count(device):
    values = torch.randn(1, 6, 7, dtype=torch.float64, device=device)
    mask = torch.zeros(1, 6, 7, dtype=torch.bool, device=device)
    mask[:, 1:5, 2:6] = True
    holes = torch.where(mask, values, torch.nan).requires_grad_()
    found = smoothness(holes, mask=mask)
    torch.testing.assert_close(found, smoothness(values[:, 1:5, 2:6]))
    found.backward()
    assert holes.grad.isfinite().all()
    assert smoothness(values, mask=mask & False) == 0
    assert smoothness(values[:, :1, :1]) == 0


def test_gradients_and_compile(device, gradcheck):
    values = torch.randn(1, 3, 4, dtype=torch.float64, device=device).requires_grad_()
    gradcheck(smoothness, (values,))
    compiled = torch.compile(smoothness, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(values), smoothness(values))


def test_errors():
    with pytest.raises(
        ValueError, match=r"smoothness: values must have shape \[B, H, W\] or \[H, W"
    ):
        smoothness(torch.zeros(2, 1, 4, 4))
