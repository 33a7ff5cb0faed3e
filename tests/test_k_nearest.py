# SPDX-License-Identifier: MIT
"""nearest with k: sorted lists of neighbours, on both devices and by both methods."""

import pytest
import torch

from pointloss import NearestIndex, nearest, reference
from pointloss.testing.clouds import CROWDED, KINDS, duplicates, equal, lattice, make, uniform
from pointloss.testing.streams import aside, capture

COUNTS = [1, 2, 3, 8, 17, 64]
SIZES = [(1, 1, 1), (3, 2, 31), (2, 31, 2), (2, 129, 31), (1, 31, 129), (1, 129, 1025)]


def by_sorting(x, y, k, norm=2):
    """The k least of all distances in x's dtype: nearest's own bits, one point of y at a time."""
    columns = [
        nearest(x, y[:, j : j + 1], norm=norm, method="brute").dist for j in range(len(y[0]))
    ]
    d = torch.stack(columns, 2)
    values, order = d.sort(dim=2, stable=True)
    missing = max(0, k - d.shape[2])
    values = torch.nn.functional.pad(values[..., :k], (0, missing), value=torch.inf)
    return values, torch.nn.functional.pad(order[..., :k], (0, missing), value=-1)


def assert_agrees(x, y, k, **options):
    """With the reference: distances to rounding, and each index attains its distance."""
    found = nearest(x, y, k=k, **options)
    lengths = {key: v.cpu() for key, v in options.items() if isinstance(v, torch.Tensor)}
    norm = options.get("norm", 2)
    expected = reference.k_nearest(x.cpu(), y.cpu(), k, norm=norm, **lengths)
    tolerance = 1e-6 if x.dtype == torch.float32 else 1e-14
    torch.testing.assert_close(
        found.dist.double().cpu(), expected.dist, rtol=tolerance, atol=0, equal_nan=True
    )
    idx = found.idx.cpu()
    assert torch.equal(idx < 0, expected.idx < 0)
    b, i, place = (idx >= 0).nonzero(as_tuple=True)
    attained = (x.cpu()[b, i].double() - y.cpu()[b, idx[b, i, place]].double()).abs()
    attained = attained.sum(-1) if norm == 1 else attained.square().sum(-1)
    torch.testing.assert_close(attained, expected.dist[b, i, place], rtol=tolerance, atol=0)
    rows = idx.sort(2).values
    assert not ((rows[..., 1:] == rows[..., :-1]) & (rows[..., 1:] >= 0)).any()
    return found


def assert_same(found, expected):
    torch.testing.assert_close(found.dist, expected.dist, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found.idx, expected.idx)


@pytest.mark.parametrize("k", COUNTS)
@pytest.mark.parametrize("norm", [1, 2])
def test_agrees_with_reference(k, norm, device, dtype):
    for batch, n, m in SIZES:
        x, y = make(uniform, batch, n, m, dtype=dtype, device=device)
        assert_agrees(x, y, k, norm=norm)


@pytest.mark.sanitize
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("norm", [1, 2])
def test_has_the_bits_of_brute_force(dim, norm, device, dtype):
    """Of the distances of single points, sorted; also where most of them are equal."""
    for x in (torch.randn(2, 19, dim, dtype=dtype), torch.randint(3, (2, 19, dim)).to(dtype)):
        x = x.to(device)
        y = torch.cat([x.flip(1), x[:, :9], x[:, 3:7] + 1], 1)
        for k in (2, 8, 40):
            dist, idx = by_sorting(x, y, k, norm)
            found = nearest(x, y, k=k, norm=norm)
            assert torch.equal(found.dist, dist)
            assert torch.equal(found.idx, idx)


@pytest.mark.parametrize("kind", KINDS + CROWDED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("k", [2, 17, 64])
def test_methods_agree_bit_for_bit(kind, k, device):
    for batch, n, m in ((1, 700, 900), (2, 31, 1025), (1, 129, 9000)):
        x, y = make(kind, batch, n, m, device=device)
        assert_same(nearest(x, y, k=k, method="tree"), nearest(x, y, k=k, method="brute"))
        assert_same(NearestIndex(y).query(x, k=k), nearest(x, y, k=k))


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 8])
def test_the_cpu_tree_in_every_form(dim, norm, dtype):
    for kind in (uniform, lattice, duplicates, equal):
        clouds = make(kind, 2, 300, 500, dtype=dtype)
        x, y = (torch.cat([t, t.flip(-1), t], -1)[..., :dim].contiguous() for t in clouds)
        for k in (2, 9, 64):
            brute, tree = (nearest(x, y, k=k, norm=norm, method=m) for m in ("brute", "tree"))
            assert_same(tree, brute)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("norm", [1, 2])
def test_devices_agree_bit_for_bit(kind, norm, dtype, cuda):
    for batch, n, m in (*SIZES, (1, 300, 9000)):
        x, y = make(kind, batch, n, m, dtype=dtype)
        for k in (3, 33):
            found = nearest(x.to(cuda), y.to(cuda), k=k, norm=norm)
            assert_same(type(found)(*(t.cpu() for t in found)), nearest(x, y, k=k, norm=norm))


def test_one_neighbour_is_nearest(device, dtype):
    x, y = make(uniform, 2, 129, 1025, dtype=dtype, device=device)
    found, expected = nearest(x, y, k=1), nearest(x, y)
    assert torch.equal(found.dist, expected.dist.unsqueeze(-1))
    assert torch.equal(found.idx, expected.idx.unsqueeze(-1))


def test_ties_take_the_lowest_indices(device, dtype):
    y = torch.randint(2, (2, 700, 3), device=device).to(dtype)
    x = y[:, :50]
    for method in ("brute", "auto"):
        found = nearest(x, y, k=64, method=method)
        assert torch.equal(found.idx.cpu(), reference.k_nearest(x, y, 64).idx)


@pytest.mark.sanitize
def test_lengths(device, dtype):
    x, y = make(uniform, 6, 40, 50, dtype=dtype, device=device)
    n = torch.tensor([40, 0, 7, 1, 40, 40], device=device)
    m = torch.tensor([50, 50, 0, 1, 33, 51], device=device)
    found = assert_agrees(x, y, 17, x_lengths=n, y_lengths=m)
    assert (found.idx[2] == -1).all()
    assert (found.dist[2, :7] == torch.inf).all()
    assert (found.dist[2, 7:] == 0).all()
    assert found.dist[3, 0, 0].isfinite()
    assert (found.dist[3, 0, 1:] == torch.inf).all()
    assert found.dist[5].isnan().all()
    assert (found.idx[5] == -1).all()


@pytest.mark.sanitize
def test_conventions_of_the_tree(device):
    """NaN, infinity, overflow, lengths and empty clouds are the same to the tree."""
    for n, m in ((300, 900), (70, 9000)):
        x, y = make(uniform, 5, n, m, device=device)
        x[0, ::7, 1], y[0, ::3, 2], y[2] = torch.nan, torch.nan, torch.nan
        x[1, 5], y[1, ::2] = torch.inf, -torch.inf
        x[3, 9, 0], y[3, 4, 0] = 3e38, -3e38
        y[4, 50:] = torch.nan
        lengths = torch.tensor([n, 0, 33, n + 1, 57], device=device)
        for k in (5, 64):
            for options in ({}, {"x_lengths": lengths}, {"y_lengths": lengths.clamp(max=m)}):
                brute, tree = (nearest(x, y, k=k, method=a, **options) for a in ("brute", "tree"))
                assert_same(tree, brute)
                index = NearestIndex(y, y_lengths=options.pop("y_lengths", None))
                assert_same(index.query(x, k=k, **options), brute)
    for method in ("brute", "tree"):
        assert (nearest(x, y[:, :0], k=2, method=method).dist[3:] == torch.inf).all()
        assert nearest(x[:, :0], y, k=2, method=method).dist.shape == (5, 0, 2)
        assert nearest(x[:0], y[:0], k=2, method=method).idx.shape == (0, 70, 2)


def test_nan_points_are_nobodys_neighbour(device, dtype):
    x, y = make(uniform, 2, 60, 600, dtype=dtype, device=device)
    x[0, 5, 1] = torch.nan
    y[:, 0] = torch.nan
    y[1, 10:, 2] = torch.nan
    found = assert_agrees(x, y, 17)
    assert found.dist[0, 5].isnan().all()
    assert (found.idx[0, 5] == -1).all()
    assert found.dist.isnan().sum() == 17
    assert (found.idx[1, :, 9:] == -1).all()


def test_single_clouds_halves_and_strides(device):
    x, y = make(uniform, 2, 40, 1025, device=device)
    batched = nearest(x, y, k=3)
    assert_same(nearest(x[1], y[1], k=3), type(batched)(batched.dist[1], batched.idx[1]))
    half = nearest(x.half(), y.half(), k=3)
    assert_same(half, nearest(x.half().float(), y.half().float(), k=3))
    assert_same(NearestIndex(y.half()).query(x.double(), k=3), nearest(x.double(), y.half(), k=3))
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert_same(nearest(turned, y, k=3), batched)


@pytest.mark.parametrize("norm", [1, 2])
def test_gradients(norm, device, gradcheck):
    x = torch.rand(2, 4, 3, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, 6, 3, device=device, dtype=torch.float64, requires_grad=True)
    n, m = torch.tensor([4, 3], device=device), torch.tensor([6, 2], device=device)

    def dist(a, b):  # what is finite: of the second cloud the first two places
        found = nearest(a, b, k=3, norm=norm, x_lengths=n, y_lengths=m).dist
        return found[0], found[1, :, :2]

    gradcheck(dist, (x, y))
    gradcheck(lambda a, b: NearestIndex(b).query(a, k=2, norm=norm).dist, (x, y))


@pytest.mark.sanitize
@pytest.mark.parametrize("norm", [1, 2])
def test_the_kernel_and_torch_give_one_gradient(norm, device, dtype):
    for dim, n, m in ((3, 70, 50), (5, 70, 50), (3, 9000, 20)):  # the last has many hits
        x = torch.rand(2, n, dim, device=device, dtype=dtype, requires_grad=True)
        y = torch.rand(2, m, dim, device=device, dtype=dtype, requires_grad=True)
        lengths = torch.tensor([n, n // 2], device=device)
        value = nearest(x, y, k=8, x_lengths=lengths, norm=norm).dist.square().sum()
        fast = torch.autograd.grad(value, (x, y), retain_graph=True)
        slow = torch.autograd.grad(value, (x, y), create_graph=True)
        for a, b in zip(fast, slow, strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=2e-6, atol=2e-6)


def test_gradient_is_zero_where_there_is_no_neighbour(device):
    x, y = make(uniform, 3, 10, 10, device=device)
    x[0, 3] = torch.nan
    x, y = x.requires_grad_(), y.requires_grad_()
    m = torch.tensor([10, 0, 99], device=device)
    nearest(x, y, k=12, y_lengths=m).dist.sum().backward()
    assert x.grad[0, 3].eq(0).all()
    assert x.grad[0, 4].ne(0).any()
    assert x.grad[1:].eq(0).all()
    assert y.grad[1:].eq(0).all()
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()


def test_deterministic_gradient(device, deterministic):
    x, y = make(uniform, 2, 2000, 40, device=device)
    y.requires_grad_()

    def gradient():
        return torch.autograd.grad(nearest(x, y, k=9).dist.square().sum(), y)[0]

    found = gradient()
    assert all(torch.equal(found, gradient()) for _ in range(3))


def test_opcheck(device):
    x, y = make(uniform, 2, 10, 300, device=device)
    n = torch.tensor([3, 10], device=device)
    op = torch.ops.pointloss.k_nearest.default
    torch.library.opcheck(op, (x, y, None, None, None, 2, 3, "auto"))
    torch.library.opcheck(op, (x.double(), y.double(), n, n, None, 1, 40, "brute"))
    index = torch.ops.pointloss.nearest_index.default(y, n)
    torch.library.opcheck(op, (x, y, None, n, index, 2, 3, "auto"))


def test_vmap_over_grad(device):
    x, y = torch.rand(4, 2, 9, 3, device=device), torch.rand(2, 200, 3, device=device)
    index = NearestIndex(y)

    def loss(a, b):
        return nearest(a, b, k=3).dist.sum() + index.query(a, k=2).dist.sum()

    mapped = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(x, y)
    for i in range(4):
        expected = torch.func.grad(loss, argnums=(0, 1))(x[i], y)
        torch.testing.assert_close(mapped[0][i], expected[0])
        torch.testing.assert_close(mapped[1][i], expected[1])
    nothing = torch.func.vmap(lambda a: nearest(a, y, k=3).dist)(x[:0])
    assert nothing.shape == (0, 2, 9, 3)


def test_forward_mode_raises(device):
    x = torch.rand(1, 4, 3, device=device)
    with pytest.raises(RuntimeError, match="jvp|forward"):
        torch.func.jvp(lambda a: nearest(a, x, k=2).dist, (x,), (x,))


def test_compile_fullgraph(device):
    x = torch.rand(2, 20, 3, device=device, requires_grad=True)
    y = torch.rand(2, 300, 3, device=device)
    index = NearestIndex(y)

    def loss(a):
        return nearest(a, y, k=4).dist.sum() + index.query(a, k=2).dist.sum()

    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(x), x)
    torch.testing.assert_close(found, torch.autograd.grad(loss(x), x)[0])


@pytest.mark.parametrize("m", [300, 9000])
def test_side_stream_and_graph(m, cuda):
    x, y = make(uniform, 2, 300, m, device="cuda")
    n = torch.tensor([300, 10], device="cuda")
    expected = nearest(x, y, k=5, x_lengths=n)
    assert torch.equal(aside(lambda: nearest(x, y, k=5, x_lengths=n)).dist, expected.dist)
    captured, replay = capture(lambda: nearest(x, y, k=5, x_lengths=n))
    n.copy_(torch.tensor([5, 300]))
    x.mul_(0.5)
    replay()
    assert_same(captured, nearest(x, y, k=5, x_lengths=n))


def test_large_clouds(device):
    """More than one upper node of the CUDA tree, and a sample of rows against brute force."""
    x, y = make(uniform, 1, 400, 40_000, device=device)
    for k in (8, 64):
        assert_same(nearest(x, y, k=k), nearest(x, y, k=k, method="brute"))


def test_errors(device):
    x, y = make(uniform, 1, 4, 5, device=device)
    for call in (lambda k: nearest(x, y, k=k), lambda k: NearestIndex(y).query(x, k=k)):
        for k in (0, -1, 65):
            with pytest.raises(ValueError, match=f"k must be from 1 to 64, got {k}"):
                call(k)
        for k in (2.0, True, torch.tensor(2)):
            with pytest.raises(TypeError, match="k must be an int or None, got"):
                call(k)
    op = torch.ops.pointloss.k_nearest.default
    with pytest.raises(RuntimeError, match=r"k must be in 1\.\.64"):
        op(x, y, None, None, None, 2, 65, "auto")
    index = torch.zeros(3, dtype=torch.uint8, device=device)
    with pytest.raises(RuntimeError, match="another size"):
        op(x, y, None, None, index, 2, 2, "auto")
