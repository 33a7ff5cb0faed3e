# SPDX-License-Identifier: MIT
import copy
import pickle

import pytest
import torch

from pointloss import NearestIndex, nearest
from pointloss.testing.clouds import CROWDED, KINDS, make, uniform
from pointloss.testing.streams import aside, capture

# Below and above what is worth an index, and on CUDA what a block searches without one. No larger:
# CUDA has no trees for norm 1 and float64, where every pair of points is looked at.
SIZES = [(1, 1, 1), (2, 31, 300), (3, 700, 900), (2, 300, 9000), (1, 9000, 500)]


def assert_same(index, x, y, y_lengths=None, **options):
    found = index.query(x, **options)
    expected = nearest(x, y, y_lengths=y_lengths, **options)
    torch.testing.assert_close(found.dist, expected.dist, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found.idx, expected.idx)


@pytest.mark.parametrize("kind", KINDS + CROWDED, ids=lambda k: k.__name__)
def test_same_bits_as_nearest(kind, device, dtype):
    for batch, n, m in SIZES:
        x, y = make(kind, batch, n, m, device=device, dtype=dtype)
        index = NearestIndex(y)
        assert_same(index, x, y)
        assert_same(index, y[:, ::30], y)  # queried again, with other points and another size
        assert_same(index, x[:, :50], y, norm=1)


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 9])
def test_any_dimension(dim, device, dtype):
    x = torch.randn(2, 70, dim, device=device, dtype=dtype)
    y = torch.randn(2, 400, dim, device=device, dtype=dtype)
    assert_same(NearestIndex(y), x, y)


@pytest.mark.sanitize
def test_conventions(device):
    """NaN, infinity, lengths in and out of range, and empty clouds, as in nearest."""
    for n, m in ((700, 900), (9000, 12000)):
        x, y = make(uniform, 5, n, m, device=device)
        x[0, ::7, 1], y[0, ::3, 2], y[2] = torch.nan, torch.nan, torch.nan
        x[1, 5], y[1, ::2] = torch.inf, -torch.inf
        lengths = torch.tensor([n, 0, 33, n + 1, 257], device=device)
        for y_lengths in (None, lengths, torch.full_like(lengths, -1)):
            index = NearestIndex(y, y_lengths=y_lengths)
            assert_same(index, x, y, y_lengths)
            assert_same(index, x, y, y_lengths, x_lengths=lengths)
            assert index.query(x[:, :0]).dist.shape == (5, 0)
    index = NearestIndex(y[:, :0])
    assert (index.query(x).dist[3:] == torch.inf).all()
    assert NearestIndex(y[:0]).query(x[:0]).idx.shape == (0, 9000)


@pytest.mark.sanitize
def test_single_clouds_halves_and_strides(device):
    x, y = make(uniform, 2, 400, 12000, device=device)
    single, batched = NearestIndex(y[0]).query(x[0]), NearestIndex(y).query(x)
    assert torch.equal(single.dist, batched.dist[0])
    assert torch.equal(single.idx, batched.idx[0])
    half = NearestIndex(y.half()).query(x.half())
    assert torch.equal(half.dist, nearest(x.half(), y.half()).dist)
    turned = y.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(NearestIndex(turned).query(x).idx, batched.idx)


def test_gradients(device):
    x = torch.rand(2, 6, 3, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, 150, 3, device=device, dtype=torch.float64, requires_grad=True)

    def dist(a, b):
        return NearestIndex(b).query(a).dist

    assert torch.autograd.gradcheck(dist, (x, y))
    assert torch.autograd.gradgradcheck(dist, (x, y))
    expected = torch.autograd.grad(nearest(x, y).dist.square().sum(), (x, y))
    index = NearestIndex(y)
    found = torch.autograd.grad(index.query(x).dist.square().sum(), (x, y))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_vmap_over_grad(device):
    x, y = torch.rand(4, 2, 9, 3, device=device), torch.rand(2, 200, 3, device=device)
    index = NearestIndex(y)

    def loss(a):
        return index.query(a).dist.sum()

    mapped = torch.func.vmap(torch.func.grad(loss))(x)
    for k in range(4):
        torch.testing.assert_close(mapped[k], torch.func.grad(loss)(x[k]))


def test_compile_fullgraph(device):
    x, y = torch.rand(2, 20, 3, device=device), torch.rand(2, 300, 3, device=device)
    index = NearestIndex(y)
    compiled = torch.compile(lambda a: index.query(a).dist.sum(), fullgraph=True)
    torch.testing.assert_close(compiled(x), nearest(x, y).dist.sum())


def test_opcheck(device):
    x, y = make(uniform, 2, 10, 300, device=device)
    n, m = torch.tensor([3, 10], device=device), torch.tensor([300, 7], device=device)
    build = torch.ops.pointloss.nearest_index.default
    query = torch.ops.pointloss.nearest_query.default
    # The bytes of an index are not fixed, only what is found with it: no check that compares them.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for args in ((y, None), (y, m), (y[:, :5], None)):
        torch.library.opcheck(build, args, test_utils=checks)
    torch.library.opcheck(query, (x, None, y, None, build(y, None), 2))
    torch.library.opcheck(query, (x, n, y, m, build(y, m), 1))


def test_side_stream_and_graph(cuda):
    x, y = make(uniform, 2, 9000, 9000, device="cuda")
    n = torch.tensor([9000, 10], device="cuda")
    index = NearestIndex(y)
    expected = nearest(x, y)
    assert torch.equal(aside(lambda: NearestIndex(y).query(x)).idx, expected.idx)
    captured, replay = capture(lambda: index.query(x, x_lengths=n))
    n.copy_(torch.tensor([5, 9000]))
    x.mul_(0.5)
    replay()
    expected = nearest(x, y, x_lengths=n)
    assert torch.equal(captured.dist, expected.dist)
    assert torch.equal(captured.idx, expected.idx)


@pytest.mark.parametrize("dtype_x", [torch.float16, torch.float64])
@pytest.mark.parametrize("dtype_y", [torch.bfloat16, torch.float32, torch.float64])
def test_mixed_dtypes(dtype_x, dtype_y, device):
    x, y = make(uniform, 2, 10, 600, device=device)
    x, y = x.to(dtype_x), y.to(dtype_y)
    found, expected = NearestIndex(y).query(x), nearest(x, y)
    assert torch.equal(found.dist, expected.dist)
    assert torch.equal(found.idx, expected.idx)


def test_errors(device):
    x, y = make(uniform, 2, 10, 300, device=device)
    index = NearestIndex(y)
    with pytest.raises(ValueError, match="y must have shape"):
        index.query(x[:1])
    with pytest.raises(ValueError, match="one device"):
        index.query(x.to("meta"))
    with pytest.raises(ValueError, match="norm"):
        index.query(x, norm=3)
    with pytest.raises(ValueError, match="y_lengths"):
        NearestIndex(y, y_lengths=torch.zeros(3, dtype=torch.int64, device=device))
    other = NearestIndex(y[:, :299])._index
    with pytest.raises(RuntimeError, match="another size"):
        torch.ops.pointloss.nearest_query(x, None, y[:, :150].contiguous(), None, other, 2)


@pytest.mark.parametrize("m", [20, 300, 9000])
def test_later_changes_of_y_reach_no_answer(m, device):
    x, y = make(uniform, 2, 10, m, device=device)
    before, lengths = y.clone(), torch.tensor([m, m // 2], device=device)
    index = NearestIndex(y, y_lengths=lengths)
    expected = nearest(x, before, y_lengths=lengths.clone())
    y.mul_(2)
    y.data.add_(1)
    with torch.inference_mode():
        y.view(-1)[::2] = torch.nan
    lengths.zero_()
    found = index.query(x)
    assert torch.equal(found.dist, expected.dist)
    assert torch.equal(found.idx, expected.idx)


def test_copies_answer_alike(device):
    x, y = make(uniform, 2, 10, 300, device=device)
    y.mul_(0.5)  # a tensor with a history of changes, which no copy has
    index = NearestIndex(y.requires_grad_())
    expected = nearest(x, y)
    copies = (copy.copy(index), copy.deepcopy(index), pickle.loads(pickle.dumps(index)))
    for other in copies:
        found = other.query(x)
        assert torch.equal(found.dist, expected.dist)
        assert torch.equal(found.idx, expected.idx)
        assert not found.dist.requires_grad
    assert torch.autograd.grad(index.query(x).dist.sum(), y)[0].any()


def test_built_in_inference_mode_and_queried_outside(device):
    x, y = make(uniform, 2, 10, 300, device=device)
    with torch.inference_mode():
        index = NearestIndex(y)
        unseen = NearestIndex(y.clone())
    for each in (index, unseen):
        (grad,) = torch.autograd.grad(each.query(x.requires_grad_()).dist.sum(), x)
        assert grad.any()


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_an_index_of_other_bytes_is_searched_without_harm(dim, dtype):
    """On the CPU, whatever the bytes: the answers are wrong, and memory is left alone."""
    x, y = torch.rand(2, 50, dim, dtype=dtype), torch.rand(2, 700, dim, dtype=dtype)
    right = torch.ops.pointloss.nearest_index.default(y, None)
    for trial in range(30):
        index = right.clone()
        if trial % 3 == 0:  # only the head of one image: how many leaves there are
            index[:8] = torch.randint(256, (8,), dtype=torch.uint8)
        elif trial % 3 == 1:
            index[torch.randint(len(index), (len(index) // 8,))] = 255
        else:
            index.random_(256)
        found = torch.ops.pointloss.nearest_query.default(x, None, y, None, index, 2)
        assert found[1].shape == (2, 50)
