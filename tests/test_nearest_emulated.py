# SPDX-License-Identifier: MIT
"""The device code of nearest's brute force and tree on a CPU: every form gives the CPU's bits.

See tests/emulator. Memory that a block may not touch is watched by AddressSanitizer, and warps are
held back at random while others go on.
"""

import numpy as np
import pytest
import torch
from emulation import compiled, output

from pointloss import nearest_both
from pointloss.testing.clouds import EQUIDISTANT, blob, clusters, far, lattice, make, surface

SCHEDULE = (50, 20, 300)  # as in test_assign_emulated.py
# Points per lane, warps of a block, blocks of a cluster. The last searches warp by warp.
FORMS = [(4, 8, 1), (4, 2, 4), (1, 4, 1), (1, 1, 8), (4, 1, 2), (2, 4, 1), (2, 8, 1), (1, 1, 1)]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("emulated"), "nearest")


def check(program, x, y, form, norm=2, lengths=None):
    (n, dim), m = x.shape, len(y)
    lengths = lengths or (n, m)
    double = x.dtype == torch.float64
    numbers = (n, m, dim, norm, double, *form, *lengths, 1, *SCHEDULE)
    written = output(program, numbers, [x.numpy(), y.numpy()])
    given = {"x_lengths": lengths[:1], "y_lengths": lengths[1:]}
    tensors = {name: torch.tensor(value) for name, value in given.items()}
    expected = nearest_both(x[None], y[None], norm=norm, method="brute", **tensors)
    real, start = np.float64 if double else np.float32, 0
    for side, size in zip(expected, (n, m), strict=True):
        for tensor, kind in ((side.dist, real), (side.idx, np.int64)):
            found = torch.from_numpy(np.frombuffer(written, kind, size, offset=start).copy())
            start += found.nbytes
            torch.testing.assert_close(found, tensor[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dim", [1, 3, 7, 8, 17])
def test_sizes_beside_those_of_tiles(dim, form, program, dtype):
    for n, m in ((1, 16), (33, 17), (129, 65)):
        check(program, torch.randn(n, dim, dtype=dtype), torch.randn(m, dim, dtype=dtype), form)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("norm", [1, 2])
def test_ties_nan_infinity_and_lengths(norm, form, program, dtype):
    x, y = (torch.randint(2, (n, 3)).to(dtype) for n in (70, 90))
    check(program, x, y, form, norm)
    x[::7, 1], y[::3, 2] = torch.nan, torch.nan
    x[5], y[1::6] = torch.inf, -torch.inf
    x[9], y[4] = torch.finfo(dtype).max, -torch.finfo(dtype).max
    x[11], y[2] = torch.finfo(dtype).smallest_normal / 8, 0
    for lengths in (None, (70, 0), (0, 90), (33, 17), (71, 90)):
        check(program, x, y, form, norm, lengths)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("emulated"), "tree")


def check_tree(tree, x, y, indexed=False):
    n, m = len(x), len(y)
    written = output(tree, (n, m, indexed, 1, *SCHEDULE), [x.numpy(), y.numpy()])
    expected, start = nearest_both(x[None], y[None], method="brute"), 0
    for side, size in zip(expected[: 1 if indexed else 2], (n, m), strict=False):
        for tensor, kind in ((side.dist, np.float32), (side.idx, np.int64)):
            found = torch.from_numpy(np.frombuffer(written, kind, size, offset=start).copy())
            start += found.nbytes
            assert torch.equal(found, tensor[0])


@pytest.mark.parametrize("kind", [surface, far, lattice, blob, clusters, *EQUIDISTANT])
def test_the_tree(kind, tree):
    for n, m in ((672, 1056), (1600, 64)):
        x, y = (points[0] for points in make(kind, 1, n, m))
        check_tree(tree, x, y)


def test_the_tree_far_from_all_of_its_target(tree):
    """Ties in float32 all around, offsets, and squares that overflow or underflow."""
    x, y = (torch.nn.functional.normalize(torch.randn(n, 3), dim=-1) for n in (608, 1056))
    for a, b in (
        (0 * x, y),
        (1e-3 * x, y),
        (1e3 + 0.05 * x, 1e3 + y),
        (1e18 * x, 1.5e19 * y),
        (1e-21 * x, 1e-20 * y),
    ):
        check_tree(tree, a, b)
    check_tree(tree, 0.01 * x, y, indexed=True)
