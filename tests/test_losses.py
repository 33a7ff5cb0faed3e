# SPDX-License-Identifier: MIT
"""What every loss takes: value and both gradients, against plain torch in float64."""

from functools import partial

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from pointloss import ChamferLoss, EMDLoss, chamfer, emd, hausdorff, reference
from pointloss.testing.streams import aside


def nearest_means(x, y, norm=2, squared=True):
    return reference.chamfer(x[None], y[None], norm, squared)[0]


def farthest(x, y):
    d = reference.pairwise(x, y).sqrt()
    return d.amin(1).amax().maximum(d.amin(0).amax())


def optimal_mean(x, y, squared=False):
    d = reference.pairwise(x, y)
    d = d if squared else d.sqrt()
    return d[linear_sum_assignment(d.detach().numpy())].mean()


# rtol: so near to the optimum that the matching is the optimal one.
LOSSES = {
    "chamfer": (chamfer, nearest_means),
    "chamfer, root": (partial(chamfer, squared=False), partial(nearest_means, squared=False)),
    "chamfer, l1": (partial(chamfer, norm=1), partial(nearest_means, norm=1)),
    "hausdorff": (lambda x, y, **k: hausdorff(x, y, **k).mean(), farthest),
    "emd": (partial(emd, rtol=1e-6), optimal_mean),
    "emd, squared": (partial(emd, rtol=1e-6, squared=True), partial(optimal_mean, squared=True)),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def expected(name, x, y, n=None, m=None):
    """The mean over the clouds, and both gradients, in float64 on the CPU."""
    a, b = (p.detach().double().cpu().requires_grad_() for p in (x, y))
    n = [a.shape[1]] * len(a) if n is None else n.tolist()
    m = [b.shape[1]] * len(b) if m is None else m.tolist()
    each = [LOSSES[name][1](a[k, : n[k]], b[k, : m[k]]) for k in range(len(a))]
    value = torch.stack(each).mean()
    return value.detach(), *torch.autograd.grad(value, (a, b))


def assert_right(name, x, y, tolerance=1e-5, **lengths):
    """For leaves x and y."""
    value = LOSSES[name][0](x, y, **lengths)
    found = (value.detach(), *torch.autograd.grad(value, (x, y)))
    best = expected(name, x, y, lengths.get("x_lengths"), lengths.get("y_lengths"))
    for mine, exact, cloud in zip(found, best, (value, x, y), strict=True):
        assert mine.dtype == cloud.dtype
        assert mine.shape == cloud.shape
        assert (mine.double().cpu() - exact).norm() <= tolerance * exact.norm()


def draw(*shape, device, dtype=torch.float32):
    """The same numbers on every device. None of them tie: a tie has many gradients."""
    return torch.rand(*shape, dtype=dtype).to(device).requires_grad_()


@every_loss
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 16, 64])
def test_any_dimension(name, dim, device, dtype):
    x, y = (draw(2, k, dim, device=device, dtype=dtype) for k in (12, 15))
    n, m = torch.tensor([12, 7], device=device), torch.tensor([4, 15], device=device)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert_right(name, x, y, tolerance)
    assert_right(name, x, y, tolerance, x_lengths=n, y_lengths=m)


@every_loss
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_halves(name, half, device):
    """Computed in float32; each gradient has its cloud's dtype."""
    x, y = (draw(2, k, 3, device=device, dtype=half) for k in (12, 15))
    value = LOSSES[name][0](x, y)
    assert value.dtype == torch.float32
    best = expected(name, x, y)
    torch.testing.assert_close(value.detach().double().cpu(), best[0], rtol=1e-5, atol=0)
    for mine, exact in zip(torch.autograd.grad(value, (x, y)), best[1:], strict=True):
        assert mine.dtype == half
        rounding = torch.finfo(half).eps
        assert (mine.double().cpu() - exact).norm() <= rounding * exact.norm()


@every_loss
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.float64),
        (torch.float64, torch.float16),
    ],
    ids=str,
)
def test_two_dtypes_are_promoted(name, dtypes, autocast, device):
    """As torch.promote_types says, halves in float32; each gradient has its cloud's dtype."""
    x, y = (draw(2, k, 3, device=device, dtype=t) for k, t in zip((12, 15), dtypes, strict=True))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        value = LOSSES[name][0](x, y)
    assert value.dtype == torch.promote_types(*dtypes)
    best = expected(name, x, y)
    rtol = 1e-5 if value.dtype == torch.float32 else 1e-12
    torch.testing.assert_close(value.detach().double().cpu(), best[0], rtol=rtol, atol=0)
    grads = torch.autograd.grad(value, (x, y))
    for mine, exact, dtype in zip(grads, best[1:], dtypes, strict=True):
        assert mine.dtype == dtype
        rounding = max(torch.finfo(dtype).eps, rtol)
        assert (mine.double().cpu() - exact).norm() <= rounding * exact.norm()


@every_loss
def test_strided_and_expanded(name, device):
    """Points in columns, and one cloud for the whole batch: gradients arrive where they belong."""
    columns, single = draw(2, 3, 12, device=device), draw(1, 15, 3, device=device)
    x, y = columns.transpose(1, 2), single.expand(2, 15, 3)
    value = LOSSES[name][0](x, y)
    grads = torch.autograd.grad(value, (columns, single))
    best = expected(name, x, y)
    torch.testing.assert_close(value.detach().double().cpu(), best[0], rtol=1e-5, atol=0)
    for mine, exact in zip(grads, (best[1].mT, best[2].sum(0, keepdim=True)), strict=True):
        assert (mine.double().cpu() - exact).norm() <= 1e-5 * exact.norm()


@every_loss
def test_one_cloud_with_and_without_a_batch_axis(name, device):
    x, y = draw(1, 12, 3, device=device), draw(1, 15, 3, device=device)
    assert_right(name, x, y)
    value = LOSSES[name][0](x[0], y[0])
    assert value.shape == ()
    best = expected(name, x, y)
    for mine, exact in zip(torch.autograd.grad(value, (x, y)), best[1:], strict=True):
        assert (mine.double().cpu() - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("name", ["chamfer", "emd"])
def test_more_clouds_than_16_bits_count(name, device):
    """A grid of blocks has 65535 rows at most; the last clouds must not be forgotten."""
    x, y = draw(70_000, 2, 3, device=device), draw(70_000, 3, 3, device=device)
    value = LOSSES[name][0](x, y, batch_reduction="sum")
    grads = torch.autograd.grad(value, (x, y))
    for rows in (slice(0, 3), slice(65534, 65538), slice(69_997, 70_000)):
        best = expected(name, x[rows], y[rows])
        for mine, exact in zip(grads, best[1:], strict=True):
            exact = exact * len(best[1])  # of a sum
            assert (mine[rows].double().cpu() - exact).norm() <= 1e-5 * exact.norm()


def test_past_2_to_the_31_elements(cuda):
    """Gradients of more numbers than 32 bits count."""
    # As in test_nearest.py, with both gradients: 60 GiB, which the H200 has.
    if torch.cuda.mem_get_info()[0] < 100 * 2**30:
        pytest.skip("needs 100 GiB of free GPU memory")
    batch, n, m = 2**18, 4096, 300
    x, y = (torch.rand(batch, k, 3, device=cuda, requires_grad=True) for k in (n, m))
    chamfer(x, y, batch_reduction="sum").backward()
    for b in (0, batch // 2, batch - 1):
        alone = [p[b : b + 1].detach().clone().requires_grad_() for p in (x, y)]
        for mine, exact in zip((x, y), torch.autograd.grad(chamfer(*alone), alone), strict=True):
            torch.testing.assert_close(mine.grad[b : b + 1], exact)


@every_loss
def test_vmap_over_grad(name, device):
    x, y = torch.rand(3, 12, 3, device=device), torch.rand(3, 15, 3, device=device)
    mapped = torch.func.vmap(torch.func.grad(LOSSES[name][0], argnums=(0, 1)))(x, y)
    best = expected(name, x, y)
    for mine, exact in zip(mapped, best[1:], strict=True):
        exact = exact * 3  # not of a mean
        assert (mine.double().cpu() - exact).norm() <= 1e-5 * exact.norm()


@every_loss
def test_gradients_twice(name, device, gradcheck):
    x, y = (draw(2, k, 3, device=device, dtype=torch.float64) for k in (5, 7))
    gradcheck(LOSSES[name][0], (x, y))


@pytest.mark.parametrize("loss", [ChamferLoss(), EMDLoss(rtol=1e-6)], ids=["chamfer", "emd"])
def test_modules_compile_whole_with_both_gradients(loss, device):
    x, y = draw(2, 12, 3, device=device), draw(2, 15, 3, device=device)
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True)(x, y), (x, y))
    for mine, exact in zip(found, torch.autograd.grad(loss(x, y), (x, y)), strict=True):
        torch.testing.assert_close(mine, exact)


@every_loss
def test_training_step_on_a_side_stream(name, cuda):
    x, y = draw(2, 12, 3, device=cuda), draw(2, 15, 3, device=cuda)
    grads = aside(lambda: torch.autograd.grad(LOSSES[name][0](x, y), (x, y)))
    for mine, exact in zip(grads, expected(name, x, y)[1:], strict=True):
        assert (mine.double().cpu() - exact).norm() <= 1e-5 * exact.norm()
