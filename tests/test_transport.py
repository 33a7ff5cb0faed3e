# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import emd, reference, transport
from pointloss.testing.clouds import KINDS, blob, make, noisy, surface, uniform


def weighted(kind, n, m, dtype=torch.float64, device="cpu", batch=2):
    """Clouds and weights, a third of which are 0."""
    x, y = make(kind, batch, n, m, dtype=dtype)
    a, b = (torch.rand(batch, k, dtype=dtype) * (torch.rand(batch, k) > 0.3) for k in (n, m))
    a[:, 0], b[:, 0] = 0.5, 0.5
    return [t.to(device) for t in (x, y, a, b)]


def test_by_hand(device):
    """Shares 1/2 and 1/2 against 1/2, 1/4, 1/4: a quarter of the mass goes from 1 to 4."""
    x = torch.tensor([[0.0, 0], [1, 0]], device=device)
    y = torch.tensor([[0.0, 0], [1, 0], [4, 0]], device=device)
    weights = torch.tensor([2.0, 1.0, 1.0], device=device)
    found = transport(x, y, y_weights=weights, rtol=1e-6, return_plan=True)
    assert found.cost.item() == pytest.approx(0.75, 2e-6)
    plan = torch.tensor([[0.5, 0, 0], [0, 0.25, 0.25]], device=device)
    torch.testing.assert_close(found.plan, plan)
    assert transport(x, y, y_weights=weights, squared=True).cost.item() == pytest.approx(2.25, 1e-2)
    # In sixths: the first point sends 2 to y_1 and 1 to y_2, the second 1 to y_2 and 2 to y_3.
    assert transport(x, y).cost.item() == pytest.approx((1 * 1 + 2 * 3) / 6, 1e-2)
    assert emd(x, y).item() == 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_certified_against_a_linear_programme(kind, squared, device):
    dtype = torch.float64 if squared else torch.float32
    x, y, a, b = weighted(kind, 12, 17, dtype, device)
    optimum = reference.transport(x, y, a, b, squared)
    for options in ({}, {"rtol": 1e-4}, {"max_iterations": 7}):
        found = transport(x, y, a, b, squared=squared, **options)
        cost, gap = found.cost.double().cpu(), found.gap.cpu()
        rounding = 1e-6 if dtype == torch.float32 else 1e-9  # HiGHS is exact to about 1e-9
        assert (cost >= optimum * (1 - rounding)).all()
        assert (cost * (1 - gap) <= optimum * (1 + rounding)).all()
        if "max_iterations" not in options:
            assert found.converged.all()
            assert (gap <= options.get("rtol", 1e-2)).all()


@pytest.mark.parametrize("sizes", [(1, 1), (1, 9), (6, 9), (9, 6), (9, 9), (8, 11)])
def test_equal_weights(sizes, device, dtype):
    """Copies that are matched, and Sinkhorn where there would be too many, find the same."""
    x, y = make(uniform, 2, *sizes, dtype=dtype, device=device)
    one, other = (torch.ones(2, k, device=device, dtype=dtype) for k in sizes)
    optimum = reference.transport(x, y, one, other)
    found = transport(x, y, rtol=1e-3, return_plan=True)
    weighed = transport(x, y, one, other, rtol=1e-3)
    for cost in (found.cost, weighed.cost):
        torch.testing.assert_close(cost.double().cpu(), optimum, rtol=1.1e-3, atol=1e-7)
    for sums, k in zip((found.plan.sum(2), found.plan.sum(1)), sizes, strict=True):
        torch.testing.assert_close(sums, torch.full_like(sums, 1 / k))
    injection = emd(x, y, rtol=1e-3, batch_reduction="none")
    assert (injection <= found.cost * (1 + 2e-3)).all()
    if sizes[0] == sizes[1]:
        torch.testing.assert_close(found.cost, injection, rtol=2e-3, atol=0)


@pytest.mark.parametrize("kind", [surface, noisy, blob], ids=lambda k: k.__name__)
def test_plan_and_potentials_are_feasible_and_prove_the_gap(kind, device):
    x, y, a, b = weighted(kind, 60, 45, device=device)
    found = transport(x, y, a, b, return_plan=True)
    share_a, share_b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    assert (found.plan >= 0).all()
    torch.testing.assert_close(found.plan.sum(2), share_a, rtol=0, atol=1e-14)
    torch.testing.assert_close(found.plan.sum(1), share_b, rtol=0, atol=1e-14)
    d = (x.unsqueeze(2) - y.unsqueeze(1)).norm(dim=-1)
    torch.testing.assert_close(found.cost, (found.plan * d).sum((1, 2)))
    f, g = found.x_potential, found.y_potential
    assert (f.unsqueeze(2) + g.unsqueeze(1) <= d + 1e-12).all()
    bound = (f * share_a).sum(1) + (g * share_b).sum(1)
    torch.testing.assert_close(found.gap, (found.cost - bound) / found.cost, rtol=0, atol=1e-9)


@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_gradients_of_points_and_weights(squared, device):
    """Between the vertices of the programme the cost is smooth: central differences, in a batch."""
    step, sizes, shapes = 1e-3, [6, 8, 3, 4], [(3, 2), (4, 2), (3,), (4,)]
    point = 0.5 + torch.rand(sum(sizes), device=device, dtype=torch.float64)

    def cost(rows):
        parts = [p.view(-1, *s) for p, s in zip(rows.split(sizes, 1), shapes, strict=True)]
        return transport(*parts, squared=squared, rtol=1e-7).cost

    steps = step * torch.eye(len(point), device=device, dtype=torch.float64)
    found = cost(point + torch.cat([steps, -steps]))
    expected = (found[: len(point)] - found[len(point) :]) / (2 * step)
    rows = point.unsqueeze(0).requires_grad_()
    (grad,) = torch.autograd.grad(cost(rows), rows, create_graph=True)
    torch.testing.assert_close(grad[0], expected, rtol=0, atol=1e-3)
    with pytest.raises(RuntimeError, match="transport: it has no second derivative"):
        grad.sum().backward()


def test_gradient_of_copies_is_that_of_the_matching(device):
    x, y = make(surface, 2, 20, 20, dtype=torch.float64, device=device)
    x, y = x.requires_grad_(), y.requires_grad_()
    mine = torch.autograd.grad(transport(x, y, rtol=0).cost.mean(), (x, y))
    for a, b in zip(mine, torch.autograd.grad(emd(x, y, rtol=0), (x, y)), strict=True):
        torch.testing.assert_close(a, b)


def test_lengths_and_masks_equal_the_cut_clouds(device):
    x, y, a, b = weighted(uniform, 10, 12, device=device, batch=3)
    n, m = torch.tensor([10, 1, 7], device=device), torch.tensor([5, 12, 9], device=device)
    mask = torch.rand(3, 12, device=device) < 0.5
    mask[:, 3] = True
    b = b + 0.1
    x[1, 1:], a[2, 7:], y[~mask] = torch.nan, -1, torch.inf
    options = {"rtol": 1e-5, "return_plan": True}
    padded = transport(x, y, a, b, x_lengths=n, y_mask=mask, **options)
    for i in range(3):
        k, inside = n[i], mask[i]
        cut = transport(x[i, :k], y[i, inside], a[i, :k], b[i, inside], **options)
        torch.testing.assert_close(padded.cost[i], cut.cost, rtol=2e-5, atol=0)
        torch.testing.assert_close(padded.plan[i, :k, inside].sum(0), cut.plan.sum(0))
        assert padded.plan[i, :, ~inside].eq(0).all()
        assert padded.x_potential[i, k:].eq(0).all()
        assert padded.y_potential[i, ~inside].eq(0).all()
    x = make(uniform, 3, 10, 12, device=device)[0]
    equal = transport(x, x, x_lengths=n, y_lengths=m.clamp_max(10), rtol=1e-5)
    for i in range(3):
        cut = transport(x[i, : n[i]], x[i, : m[i].clamp_max(10)], rtol=1e-5)
        torch.testing.assert_close(equal.cost[i], cut.cost, rtol=2e-5, atol=1e-9)


def test_what_is_empty_and_what_cannot_be_judged(device):
    x, y, a, b = weighted(uniform, 5, 6, device=device, batch=7)
    with torch.no_grad():
        x[3, 2, 1], a[4, 1], b[5, 2] = torch.nan, -1, torch.inf
        a[0], a[1], b[1], b[2] = 0, 0, 0, 0
    n = torch.tensor([5, 5, 5, 5, 5, 5, 6], device=device)
    inputs = [t.requires_grad_() for t in (x, y, a, b)]
    found = transport(*inputs, x_lengths=n)
    known = [torch.inf, 0, torch.inf]
    assert found.cost[:3].tolist() == known
    assert found.cost[3:].isnan().all()
    assert found.gap.tolist() == [0] * 3 + [torch.inf] * 4
    assert found.converged.tolist() == [True] * 3 + [False] * 4
    for grad in torch.autograd.grad(found.cost.sum(), inputs):
        assert grad.eq(0).all()
    assert transport(x[:0], y[:0]).cost.shape == (0,)
    assert transport(x[:, :0], y).cost.eq(torch.inf).all()
    assert transport(x[:, :0], y[:, :0]).cost.eq(0).all()


def test_a_cloud_and_itself(device, dtype):
    """Weighted, so that it is Sinkhorn's to find that nothing moves."""
    x, _, a, _ = weighted(uniform, 30, 1, dtype, device)
    x, a = x.requires_grad_(), a.requires_grad_()
    found = transport(x, x.detach(), a, a.detach())
    assert found.converged.all()
    assert (found.cost < 1e-9).all()
    grad = torch.autograd.grad(found.cost.sum(), x)[0]
    assert (grad.norm(dim=-1) <= 2 * (a / a.sum(1, keepdim=True)).amax()).all()


def test_goals(device):
    x, y, a, b = weighted(surface, 30, 40, device=device)
    stopped = transport(x, y, a, b, max_iterations=3)
    assert not stopped.converged.any()
    assert (stopped.gap < 1.1).all()
    assert stopped.iterations.eq(3).all()
    near = transport(x, y, a, b, rtol=0, atol=1e-3)
    assert near.converged.all()
    assert (near.gap * near.cost <= 1e-3).all()
    huge, tiny = (transport(s * x, s * y, a, b).cost / s for s in (1e200, 1e-200))
    torch.testing.assert_close(huge, transport(x, y, a, b).cost, rtol=1e-2, atol=0)
    torch.testing.assert_close(tiny, huge, rtol=1e-2, atol=0)


def test_halves_chunks_and_compile(device, monkeypatch):
    x, y, a, b = weighted(uniform, 9, 7, torch.float32, device, batch=5)
    half = transport(x.half().requires_grad_(), y.half(), a, b)
    assert half.cost.dtype == torch.float32
    whole = transport(x, y, a, b).cost
    monkeypatch.setattr("pointloss.ops._transport.PAIRS", {"cpu": 100, "cuda": 100})
    torch.testing.assert_close(transport(x, y, a, b).cost, whole, rtol=1e-2, atol=0)
    compiled = torch.compile(
        lambda x: transport(x, y, a, b).cost * 2, backend="eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), 2 * whole, rtol=1e-2, atol=0)


def test_errors(device):
    x, y = torch.rand(2, 4, 3, device=device), torch.rand(2, 5, 3, device=device)
    for options, text in (
        ({"x_weights": torch.rand(2, 5, device=device)}, r"x_weights must have shape \[2, 4\]"),
        ({"rtol": -1}, "rtol must be a number >= 0"),
        ({"atol": torch.nan}, "atol must be a number >= 0"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
    ):
        with pytest.raises(ValueError, match=f"transport: {text}"):
            transport(x, y, **options)
    with pytest.raises(TypeError, match="y_weights must be floating point"):
        transport(x, y, y_weights=torch.ones(2, 5, device=device, dtype=torch.int64))
