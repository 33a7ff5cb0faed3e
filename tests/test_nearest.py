# SPDX-License-Identifier: MIT
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pointloss import NearestIndex, nearest, nearest_both, reference
from pointloss.testing.clouds import (
    CROWDED,
    EQUIDISTANT,
    KINDS,
    axis,
    blob,
    make,
    middle,
    surface,
    uniform,
)
from pointloss.testing.streams import aside, capture

SIZES = [(1, 1, 1), (3, 1, 7), (2, 31, 33), (1, 129, 2), (2, 257, 1025), (1, 1000, 513)]


def assert_agrees(x, y, **options):
    """Distances to rounding; an index is right if it attains the reference's distance."""
    found = nearest(x, y, **options)
    lengths = {k: v.cpu() for k, v in options.items() if isinstance(v, torch.Tensor)}
    expected = reference.nearest(x.cpu(), y.cpu(), norm=options.get("norm", 2), **lengths)
    tolerance = 1e-6 if x.dtype == torch.float32 else 1e-14
    torch.testing.assert_close(
        found.dist.double().cpu(), expected.dist, rtol=tolerance, atol=0, equal_nan=True
    )
    idx = found.idx.cpu()
    assert torch.equal(idx < 0, expected.idx < 0)
    b, i = (idx >= 0).nonzero(as_tuple=True)
    attained = (x.cpu()[b, i].double() - y.cpu()[b, idx[b, i]].double()).abs()
    attained = attained.sum(-1) if options.get("norm") == 1 else attained.square().sum(-1)
    torch.testing.assert_close(attained, expected.dist[b, i], rtol=tolerance, atol=0)
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("norm", [1, 2])
def test_agrees_with_reference(kind, norm, device, dtype):
    for batch, n, m in SIZES:
        x, y = make(kind, batch, n, m, dtype=dtype, device=device)
        assert_agrees(x, y, norm=norm)


@pytest.mark.sanitize
@pytest.mark.parametrize("dim", [1, 2, 4, 7, 64])
def test_any_dimension(dim, device, dtype):
    # The second pair is as large as several points per thread take on a GPU.
    for n, m in ((70, 300), (700, 1500))[: 2 if dim < 8 else 1]:
        x = torch.randn(2, n, dim, device=device, dtype=dtype)
        y = torch.randn(2, m, dim, device=device, dtype=dtype)
        assert_agrees(x, y)
        assert_agrees(x, y, norm=1)


def float32_distances(x, y):
    """All of them [N, M]: axis by axis, each square in one fused multiply-add."""
    total = torch.zeros(len(x), len(y))
    for k in range(x.shape[1]):
        diff = x[:, None, k] - y[None, :, k]
        total = (diff.double() ** 2 + total.double()).float()  # float64 imitates it
    return total


def spread(n, m, dim):
    return torch.randn(n, dim), torch.randn(m, dim)


def tied(n, m, dim):
    return torch.randint(2, (n, dim)).float(), torch.randint(2, (m, dim)).float()


def offset(n, m, dim):
    return tuple(1e6 + p for p in spread(n, m, dim))


def subnormal(n, m, dim):
    return tuple(1e-21 * p for p in spread(n, m, dim))


@pytest.mark.parametrize("dim", [1, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33, 64])
@pytest.mark.parametrize("kind", [spread, tied, offset, subnormal], ids=lambda k: k.__name__)
def test_distances_have_the_bits_of_their_definition(dim, kind, device):
    """Also beside the sizes that a GPU shares out: 16 targets, 32 and 128 points, 8 axes."""
    for n, m in ((1, 17), (31, 15), (129, 130)):
        x, y = kind(n, m, dim)
        there, back = nearest_both(x.to(device), y.to(device), method="brute")
        dist = float32_distances(x, y)
        for found, expected in ((there, dist), (back, dist.T)):
            assert torch.equal(found.dist.cpu(), expected.amin(1))
            assert torch.equal(found.idx.cpu(), expected.argmin(1))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("norm", [1, 2])
def test_devices_agree_bit_for_bit(kind, norm, dtype, cuda):
    for batch, n, m in SIZES:
        x, y = make(kind, batch, n, m, dtype=dtype)
        cpu, cuda = nearest(x, y, norm=norm), nearest(x.cuda(), y.cuda(), norm=norm)
        assert torch.equal(cpu.dist, cuda.dist.cpu())
        assert torch.equal(cpu.idx, cuda.idx.cpu())


@pytest.mark.parametrize("kind", KINDS + CROWDED + EQUIDISTANT, ids=lambda k: k.__name__)
def test_methods_agree_bit_for_bit(kind, device):
    """Sizes on both sides of the methods' crossovers, also far apart from each other."""
    sizes = [
        *SIZES,
        (2, 2048, 2048),
        (1, 5000, 40),
        (1, 3, 9000),
        (1, 8193, 8200),
        (1, 2048, 16384),
    ]
    for batch, n, m in sizes:
        x, y = make(kind, batch, n, m, device=device)
        brute, tree = nearest(x, y, method="brute"), nearest(x, y, method="tree")
        assert torch.equal(brute.dist, tree.dist), (n, m)
        assert torch.equal(brute.idx, tree.idx), (n, m)
        assert torch.equal(nearest(x, y).idx, brute.idx), (n, m)


@pytest.mark.parametrize(
    ("batch", "n", "m"), [(1, 3000, 4000), (70, 8192, 8192), (1, 70000, 66000), (1, 600000, 550000)]
)
@pytest.mark.parametrize("kind", [surface, blob, axis, middle])
@pytest.mark.parametrize("scale", [1, 4e19], ids=["usual", "squares overflow"])
def test_every_launch_of_the_cuda_trees(batch, n, m, kind, scale, cuda):
    """Sizes that take the launches with other blocks, and fewer lanes a query."""
    x, y = (scale * p for p in make(kind, batch, n, m, device="cuda"))
    rows = slice(0, None, max(1, n // 5000))
    there, back = nearest_both(x, y, method="tree")
    for found, a, b in ((there, x, y), (back, y, x)):
        brute = nearest(a[:, rows], b, method="brute")
        assert torch.equal(found.dist[:, rows], brute.dist)
        assert torch.equal(found.idx[:, rows], brute.idx)
        for alone in (nearest(a, b, method="tree"), NearestIndex(b).query(a)):
            assert torch.equal(alone.dist, found.dist)
            assert torch.equal(alone.idx, found.idx)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 8])
def test_the_cpu_tree_in_every_form(dim, norm, dtype):
    for kind in KINDS + CROWDED:
        for batch, n, m in ((1, 700, 900), (3, 300, 41)):
            clouds = make(kind, batch, n, m, dtype=dtype)
            # More axes: the same points seen from elsewhere, which ties stay ties under.
            x, y = (torch.cat([t, t.flip(-1), t], -1)[..., :dim].contiguous() for t in clouds)
            brute, tree = (nearest_both(x, y, norm=norm, method=k) for k in ("brute", "tree"))
            for a, b in zip(brute, tree, strict=True):
                assert torch.equal(a.dist, b.dist)
                assert torch.equal(a.idx, b.idx)


@pytest.mark.parametrize("norm", [1, 2])
def test_one_axis_on_the_cpu(norm, dtype):
    """Ties by value, by rounding, by squares that underflow or overflow; points that are none."""
    ones = torch.ones(2, 900, 1, dtype=dtype)
    scales = [0 * ones, ones, 1e-22 * ones, 1e19 * ones, torch.exp2(60 * torch.randn_like(ones))]
    clouds = [torch.randint(-9, 10, ones.shape) / 7 * scale for scale in scales]
    clouds += [1e6 + torch.rand_like(ones), torch.rand_like(ones)]
    for i, a in enumerate(clouds):
        for j, b in enumerate(clouds):
            x, y = a[:, :700].clone(), b.clone()
            if (i + j) % 2 == 1:
                x[:, ::7], y[:, ::5] = torch.nan, torch.inf
                x[:, 3], y[:, 4], y[:, 9] = -torch.inf, torch.nan, -0.0
            options = {"norm": norm, "x_lengths": torch.tensor([700, 13])}
            brute, tree = (nearest_both(x, y, method=k, **options) for k in ("brute", "tree"))
            for found, expected in zip(tree, brute, strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.sanitize
def test_tree_conventions(device):
    """NaN, infinity, lengths and empty clouds are the same to the tree as to brute force."""
    for n, m in ((700, 900), (700, 9000)):
        x, y = make(uniform, 5, n, m, device=device)
        x[0, ::7, 1] = torch.nan
        y[0, ::3, 2] = torch.nan
        x[1, 5] = torch.inf
        y[1, ::2] = -torch.inf
        y[2] = torch.nan
        x[3, 9, 0], y[3, 4, 0] = 3e38, -3e38
        lengths = torch.tensor([n, 0, 33, n + 1, 257], device=device)
        for options in ({}, {"x_lengths": lengths}, {"y_lengths": lengths.clamp(max=m)}):
            brute, tree = (nearest(x, y, method=k, **options) for k in ("brute", "tree"))
            torch.testing.assert_close(brute.dist, tree.dist, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(brute.idx, tree.idx)
    empty = x[:, :0]
    assert (nearest(x, empty, method="tree").dist[3:] == torch.inf).all()
    assert nearest(empty, y, method="tree").dist.shape == (5, 0)


def test_ties_take_the_lowest_index(device, dtype):
    y = torch.randint(2, (2, 700, 3), device=device).to(dtype)
    x = y[:, torch.randperm(700, device=device)[:300]]
    found = nearest(x, y)
    expected = reference.nearest(x, y)
    assert torch.equal(found.idx.cpu(), expected.idx)
    assert (found.dist == 0).all()


def test_far_offset_has_the_reference_indices(device):
    x, y = make(KINDS[-1], 2, 500, 500, device=device)
    assert torch.equal(nearest(x, y).idx.cpu(), reference.nearest(x, y).idx)


@pytest.mark.sanitize
def test_lengths(device, dtype):
    x, y = make(uniform, 5, 40, 50, dtype=dtype, device=device)
    n = torch.tensor([40, 0, 7, 1, 40], device=device)
    m = torch.tensor([50, 50, 0, 1, 33], device=device)
    found = assert_agrees(x, y, x_lengths=n, y_lengths=m)
    assert (found.idx[2] == -1).all()
    assert (found.dist[2, :7] == torch.inf).all()
    assert (found.dist[2, 7:] == 0).all()
    half = nearest(x, y, x_lengths=n.int(), y_lengths=m.int())
    assert torch.equal(half.dist, found.dist)


@pytest.mark.parametrize("bad", [-1, 41, 2**40])
def test_length_out_of_range_is_nan(bad, device, dtype):
    x, y = make(uniform, 2, 40, 40, dtype=dtype, device=device)
    lengths = torch.tensor([40, bad], device=device)
    for options in ({"x_lengths": lengths}, {"y_lengths": lengths}):
        found = assert_agrees(x, y, **options)
        assert found.dist[1].isnan().all()
        assert (found.idx[1] == -1).all()
        assert (found.idx[0] >= 0).all()


def test_nan_points_are_nobodys_neighbour(device, dtype):
    x, y = make(uniform, 2, 60, 600, dtype=dtype, device=device)
    x[0, 5, 1] = torch.nan
    y[:, 0] = torch.nan
    y[1, 100:, 2] = torch.nan
    found = assert_agrees(x, y)
    assert found.dist[0, 5].isnan()
    assert found.idx[0, 5] == -1
    assert found.dist.isnan().sum() == 1
    assert not (found.idx == 0).any()
    everything = nearest(x, torch.full_like(y, torch.nan))
    assert (everything.idx == -1).all()
    assert everything.dist[1].isinf().all()


def test_infinite_and_overflowing_coordinates(device):
    x = torch.tensor([[[0.0, 0, 0], [torch.inf, 0, 0], [3e38, 0, 0]]], device=device)
    y = torch.tensor([[[-3e38, 0, 0], [1.0, 0, 0]]], device=device)
    found = assert_agrees_in_float(x, y)
    assert found.idx.tolist() == [[1, -1, -1]]
    assert found.dist.tolist() == [[1.0, torch.inf, torch.inf]]


def assert_agrees_in_float(x, y):
    # float64 does not overflow where float32 does, so only the conventions are compared.
    found = nearest(x, y)
    assert torch.equal(found.idx < 0, found.dist.isinf())
    return found


def test_empty(device, dtype):
    def cloud(*shape):
        return torch.zeros(shape, device=device, dtype=dtype)

    assert nearest(cloud(0, 5, 3), cloud(0, 4, 3)).dist.shape == (0, 5)
    assert nearest(cloud(2, 0, 3), cloud(2, 4, 3)).idx.shape == (2, 0)
    found = nearest(cloud(2, 5, 3), cloud(2, 0, 3))
    assert (found.dist == torch.inf).all()
    assert (found.idx == -1).all()


def test_single_cloud_drops_the_batch_axis(device):
    x, y = make(uniform, 1, 9, 8, device=device)
    single, batched = nearest(x[0], y[0]), nearest(x, y)
    assert torch.equal(single.dist, batched.dist[0])
    assert torch.equal(single.idx, batched.idx[0])


@pytest.mark.sanitize
@pytest.mark.parametrize("norm", [1, 2])
def test_both_directions_at_once(norm, device, dtype):
    for batch, n, m in (*SIZES, (2, 2048, 2048), (1, 9000, 500)):
        x, y = make(uniform, batch, n, m, dtype=dtype, device=device)
        lengths = torch.full((batch,), n // 2, device=device)
        there, back = nearest_both(x, y, x_lengths=lengths, norm=norm)
        for found, alone in (
            (there, nearest(x, y, x_lengths=lengths, norm=norm)),
            (back, nearest(y, x, y_lengths=lengths, norm=norm)),
        ):
            assert torch.equal(found.dist, alone.dist)
            assert torch.equal(found.idx, alone.idx)
    assert nearest_both(x[0], y[0])[1].idx.shape == (500,)


def test_strided_and_expanded_inputs(device):
    base = torch.rand(2, 3, 40, device=device)
    x, y = base.transpose(1, 2), torch.rand(30, 6, device=device)[:, ::2].expand(2, 30, 3)
    found, copied = nearest(x, y), nearest(x.contiguous(), y.contiguous())
    assert torch.equal(found.dist, copied.dist)
    assert torch.equal(found.idx, copied.idx)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(half, device):
    x = torch.rand(2, 50, 3, device=device, dtype=half, requires_grad=True)
    y = torch.rand(2, 60, 3, device=device, dtype=half)
    found = nearest(x, y)
    assert found.dist.dtype == torch.float32
    assert torch.equal(found.dist, nearest(x.float(), y.float()).dist)
    found.dist.sum().backward()
    assert x.grad.dtype == half


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("dtype_x", "dtype_y", "computed"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.float16, torch.float64),
    ],
    ids=str,
)
def test_two_dtypes_are_promoted(dtype_x, dtype_y, computed, autocast, device):
    x, y = make(uniform, 1, 20, 20, device=device)
    x, y = x.to(dtype_x).requires_grad_(), y.to(dtype_y).requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        found = nearest(x, y)
    assert found.dist.dtype == computed
    assert torch.equal(found.dist, nearest(x.to(computed), y.to(computed)).dist)
    grads = torch.autograd.grad(found.dist.sum(), (x, y))
    assert [g.dtype for g in grads] == [dtype_x, dtype_y]


@pytest.mark.parametrize(("batch", "n", "m"), [(1, 2**30, 16), (2**18, 4096, 300)])
def test_past_2_to_the_31_elements(batch, n, m, cuda):
    """The last rows of more numbers than 32 bits count, by brute force and by a tree."""
    # The clouds and their neighbours take 24 GiB, which few GPUs have to spare. The H200 has;
    # a skip there would be listed in benchmarks/results/tests-nvidia-h200.json.
    if torch.cuda.mem_get_info()[0] < 48 * 2**30:
        pytest.skip("needs 48 GiB of free GPU memory")
    x = torch.rand(batch, n, 3, device=cuda)
    y = torch.rand(1, m, 3, device=cuda).expand(batch, m, 3)
    found = nearest(x, y)
    for b, rows in ((0, slice(0, 100)), (batch - 1, slice(n - 100, n))):
        expected = nearest(x[b, rows].clone(), y[b], method="brute")
        assert torch.equal(found.dist[b, rows], expected.dist)
        assert torch.equal(found.idx[b, rows], expected.idx)


def test_more_pairs_than_31_bits_count(device):
    x, y = make(uniform, 1, 50_000, 50_000, device=device)
    brute, tree = nearest(x, y, method="brute"), nearest(x, y, method="tree")
    assert torch.equal(brute.dist, tree.dist)
    assert torch.equal(brute.idx, tree.idx)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize(("batch", "n", "m"), [(32, 130, 70), (6, 600, 700)])
def test_many_small_clouds_have_the_bits_of_one(batch, n, m, norm, device):
    """Brute force takes other tiles for many clouds than for one, and each decides ties alike."""
    x, y = (torch.randint(6, (batch, size, 3), device=device).float() for size in (n, m))
    x[1, 3], y[2, 5] = torch.nan, torch.inf
    lengths = {
        name: torch.randint(size // 2, size + 1, (batch,), device=device)
        for name, size in (("x_lengths", n), ("y_lengths", m))
    }
    together = nearest_both(x, y, norm=norm, method="brute", **lengths)
    for b in (0, 1, 2, batch - 1):
        own = {name: length[b : b + 1] for name, length in lengths.items()}
        alone = nearest_both(x[b : b + 1], y[b : b + 1], norm=norm, method="brute", **own)
        for found, expected in zip(together, alone, strict=True):
            assert torch.equal(found.idx[b], expected.idx[0])
            assert torch.equal(found.dist[b].nan_to_num(-1), expected.dist[0].nan_to_num(-1))


def test_many_clouds(device):
    x, y = torch.rand(70_000, 2, 3, device=device), torch.rand(70_000, 3, 3, device=device)
    found = nearest(x, y)
    expected = (x.unsqueeze(2) - y.unsqueeze(1)).square().sum(-1).min(2)
    torch.testing.assert_close(found.dist, expected.values)


def test_opcheck(device):
    x, y = make(uniform, 2, 10, 12, device=device)
    n = torch.tensor([3, 10], device=device)
    op = torch.ops.pointloss.nearest.default
    for args in (
        (x, y, None, None, 2, False, "auto"),
        (x, y, n, n, 1, True, "auto"),
        (x.double(), y.double(), n, None, 2, True, "brute"),
    ):
        torch.library.opcheck(op, args)
    _, idx_x, _, idx_y = op(x, y, None, None, 2, True, "auto")
    grad_x, grad_y = torch.rand(2, 10, device=device), torch.rand(2, 12, device=device)
    op = torch.ops.pointloss.nearest_backward.default
    for grads in ((grad_x, grad_y), (None, grad_y), (grad_x, None)):
        torch.library.opcheck(op, (*grads, x, y, idx_x, idx_y, 2, True, False, False))
        torch.library.opcheck(op, (*grads, x, y, idx_x, idx_y, 2, True, True, True))


def test_vmap_over_grad(device):
    x = torch.rand(4, 2, 9, 3, device=device)
    y = torch.rand(2, 8, 3, device=device)

    def loss(a, b):
        return nearest(a, b).dist.sum()

    mapped = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(x, y)
    for k in range(4):
        expected = torch.func.grad(loss, argnums=(0, 1))(x[k], y)
        torch.testing.assert_close(mapped[0][k], expected[0])
        torch.testing.assert_close(mapped[1][k], expected[1])


def test_vmap_over_nothing(device):
    x, y = torch.rand(0, 2, 9, 3, device=device), torch.rand(2, 8, 3, device=device)
    found = torch.func.vmap(lambda a: nearest(a, y).dist, in_dims=0)(x)
    assert found.shape == (0, 2, 9)


def test_forward_mode_raises(device):
    x = torch.rand(1, 4, 3, device=device)
    with pytest.raises(RuntimeError, match="jvp|forward"):
        torch.func.jvp(lambda a: nearest(a, x).dist, (x,), (x,))


def test_compile_fullgraph(device):
    x = torch.rand(2, 20, 3, device=device, requires_grad=True)
    y = torch.rand(2, 30, 3, device=device)
    compiled = torch.compile(lambda a, b: nearest(a, b).dist.sum(), fullgraph=True)
    compiled(x, y).backward()
    grad, x.grad = x.grad, None
    nearest(x, y).dist.sum().backward()
    torch.testing.assert_close(grad, x.grad)
    torch.testing.assert_close(compiled(x.detach(), y), nearest(x, y).dist.sum().detach())


def test_side_stream_and_graph(cuda):
    x, y = make(uniform, 2, 300, 300, device="cuda")
    n = torch.tensor([300, 10], device="cuda")
    expected = nearest(x, y, x_lengths=n)
    assert torch.equal(aside(lambda: nearest(x, y, x_lengths=n)).dist, expected.dist)
    captured, replay = capture(lambda: nearest(x, y, x_lengths=n))
    n.copy_(torch.tensor([5, 300]))  # lengths may change between replays
    x.mul_(0.5)
    replay()
    again = nearest(x, y, x_lengths=n)
    assert torch.equal(captured.dist, again.dist)
    assert torch.equal(captured.idx, again.idx)


@given(
    st.integers(0, 2**31),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(KINDS),
)
def test_invariances(device, seed, n, m, kind):
    """Permuting y permutes the answer; scaling by powers of two keeps it to the bit."""
    x, y = make(kind, 1, n, m, dtype=torch.float64, seed=seed, device=device)
    found = nearest(x, y)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed)).to(device)
    assert torch.equal(nearest(x, y[:, order]).dist, found.dist)
    assert torch.equal(nearest(4 * x, 4 * y).idx, found.idx)
    assert torch.equal(nearest(4 * x, 4 * y).dist, 16 * found.dist)
    assert (found.dist <= (x - y[:, :1]).square().sum(-1) * (1 + 1e-12)).all()
