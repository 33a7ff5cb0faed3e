# SPDX-License-Identifier: MIT
"""Bad input gets an error that names the op, the argument, what was expected and what was given."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch

from pointloss import (
    ChamferLoss,
    EMDLoss,
    assign,
    chamfer,
    density_aware_chamfer,
    emd,
    f_score,
    hausdorff,
    nearest,
    nearest_both,
)

OPS = {
    "nearest": nearest,
    "nearest_both": nearest_both,
    "chamfer": chamfer,
    "assign": assign,
    "emd": emd,
    "f_score": lambda x, y, **options: f_score(x, y, 0.1, **options),
}
every_op = pytest.mark.parametrize("name", OPS)
ANY_DIMENSION = ("assign", "emd")


def cloud(*shape, device="cpu", dtype=torch.float32):
    return torch.zeros(shape, device=device, dtype=dtype)


@every_op
def test_rank(name, device):
    with pytest.raises(ValueError, match=rf"{name}: x must have shape \[B, N, D\]"):
        OPS[name](cloud(5, device=device), cloud(5, device=device))
    with pytest.raises(ValueError, match=rf"{name}: y must have shape \[2, M, 3\], got \[5, 3\]"):
        OPS[name](cloud(2, 5, 3, device=device), cloud(5, 3, device=device))


@every_op
def test_transposed(name, device):
    x = cloud(2, 1024, 3, device=device)
    with pytest.raises(ValueError, match=r"did you mean y.transpose\(-1, -2\)"):
        OPS[name](x, x.transpose(1, 2))
    with pytest.raises(ValueError, match=r"did you mean x.transpose\(-1, -2\)"):
        OPS[name](x.transpose(1, 2), x)
    what = pytest.raises(ValueError, match=r"1 to 64 coordinates.*did you mean x.transpose")
    if name in ANY_DIMENSION:
        what = pytest.warns(UserWarning, match="taken as clouds of 3 points.*x.transpose")
    with what:
        OPS[name](x.transpose(1, 2), x.transpose(1, 2))


# Longer rows than columns, and the three that people lay in columns.
LYING = (2, 3, 20)


@every_op
def test_both_transposed(name, device):
    """[B, 3, N] with N <= 64 could be meant: it gets a number, and a warning where it is called."""
    lying = cloud(*LYING, device=device)
    with pytest.warns(UserWarning, match=f"{name}: x and y are taken as .* 3 points") as seen:
        OPS[name](lying, lying)
    assert [w.filename for w in seen] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OPS[name](lying, cloud(2, 21, 20, device=device))
        OPS[name](lying.transpose(1, 2), lying.transpose(1, 2))
        OPS[name](lying[..., :3], lying[..., :3])


def test_the_warning_comes_once_and_names_the_line_of_use(device):
    lying = cloud(*LYING, device=device).requires_grad_()
    for call in (hausdorff, partial(hausdorff, percentile=95), ChamferLoss(), EMDLoss()):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("default")
            for _ in range(3):
                call(lying, lying)
        assert [w.filename for w in seen] == [__file__]


def test_no_warning_breaks_or_leaves_a_compiled_graph():
    lying = cloud(*LYING)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.compile(chamfer, fullgraph=True, backend="aot_eager")(lying, lying)
    assert not [w for w in seen if "points" in str(w.message)]


@every_op
def test_batch_and_dimension(name, device):
    with pytest.raises(ValueError, match=r"y must have shape \[2, M, 3\], got \[3, 5, 3\]"):
        OPS[name](cloud(2, 5, 3, device=device), cloud(3, 5, 3, device=device))
    with pytest.raises(ValueError, match=r"y must have shape \[2, M, 3\], got \[2, 5, 2\]"):
        OPS[name](cloud(2, 5, 3, device=device), cloud(2, 5, 2, device=device))
    with pytest.raises(ValueError, match="(1 to 64 coordinates|at least 1 coordinate), got x"):
        OPS[name](cloud(2, 5, 0, device=device), cloud(2, 5, 0, device=device))


@every_op
def test_types(name, device):
    x = cloud(1, 5, 3, device=device)
    with pytest.raises(TypeError, match=f"{name}: x must be float16.* got int64"):
        OPS[name](x.long(), x.long())
    with pytest.raises(TypeError, match=r"y must be .*Tensor, got list; .* torch.tensor\(y\)"):
        OPS[name](x, [[0.0]])
    with pytest.raises(TypeError, match=r"x must be .*Tensor, got list; .* torch.stack\(x\)"):
        OPS[name]([x[0], x[0]], x)
    with pytest.raises(TypeError, match=r"got ndarray; did you mean torch.from_numpy\(x\)"):
        OPS[name](np.zeros((1, 5, 3)), x)
    with pytest.raises(TypeError, match="y must be a torch.Tensor, got str$"):
        OPS[name](x, "cloud")


@every_op
def test_mixed_devices(name):
    other = "cuda" if torch.cuda.is_available() else "meta"
    with pytest.raises(ValueError, match=f"{name}: x and y must be on one device, got cpu and"):
        OPS[name](cloud(1, 5, 3), cloud(1, 5, 3, device=other))


@every_op
def test_lengths(name, device):
    x = cloud(2, 5, 3, device=device)
    with pytest.raises(ValueError, match=rf"{name}: x_lengths must have shape \[2\], got \[3\]"):
        OPS[name](x, x, x_lengths=torch.zeros(3, dtype=torch.long, device=device))
    with pytest.raises(TypeError, match="y_lengths must be int32 or int64, got float32"):
        OPS[name](x, x, y_lengths=torch.zeros(2, device=device))
    with pytest.raises(TypeError, match=r"x_lengths must be .* got list; .* torch.tensor\(x_len"):
        OPS[name](x, x, x_lengths=[5, 5])
    with pytest.raises(ValueError, match="x_lengths must be on"):
        OPS[name](x, x, x_lengths=torch.zeros(2, dtype=torch.long, device="meta"))


def test_options(device):
    x = cloud(1, 5, 3, device=device)
    with pytest.raises(ValueError, match="norm must be one of 1, 2, got 3"):
        nearest(x, x, norm=3)
    with pytest.raises(ValueError, match="method must be one of 'auto', 'brute', 'tree'"):
        nearest(x, x, method="best")
    with pytest.raises(ValueError, match="nearest_both: method 'tree' needs D <= 8 on the CPU"):
        nearest_both(x.repeat(1, 1, 3), x.repeat(1, 1, 3), method="tree")
    for wrong in ("direction", "point_reduction", "batch_reduction"):
        with pytest.raises(ValueError, match=f"chamfer: {wrong} must be one of"):
            chamfer(x, x, **{wrong: "avg"})
        with pytest.raises(ValueError, match=f"ChamferLoss: {wrong} must be one of"):
            ChamferLoss(**{wrong: "avg"})
    with pytest.raises(ValueError, match="weights do not apply"):
        chamfer(x, x, x_weights=torch.ones(1, 5, device=device), point_reduction="max")
    with pytest.raises(ValueError, match=r"x_weights must have shape \[1, 5\], got \[5, 1\]"):
        chamfer(x, x, x_weights=torch.ones(5, 1, device=device))
    with pytest.raises(TypeError, match="x_weights must be floating point"):
        chamfer(x, x, x_weights=torch.ones(1, 5, device=device, dtype=torch.long))
    with pytest.raises(ValueError, match="emd: point_reduction must be one of"):
        emd(x, x, point_reduction="max")
    with pytest.raises(ValueError, match="EMDLoss: batch_reduction must be one of"):
        EMDLoss(batch_reduction="max")
    with pytest.raises(ValueError, match="rtol must be a number >= 0, got -1"):
        assign(x, x, rtol=-1)
    with pytest.raises(ValueError, match="rtol must be a number >= 0, got nan"):
        emd(x, x, rtol=float("nan"))
    with pytest.raises(ValueError, match="max_rounds must be at least 1 or None, got 0"):
        assign(x, x, max_rounds=0)
    with pytest.raises(ValueError, match=r"price must have shape \[1, 5\], got \[1, 4\]"):
        assign(x, x, price=torch.zeros(1, 4, device=device))
    with pytest.raises(TypeError, match="price must be floating point"):
        assign(x, x, price=torch.zeros(1, 5, device=device, dtype=torch.long))
    price, idx = torch.zeros(1, 5, device=device), torch.zeros(1, 5, device=device)
    with pytest.raises(ValueError, match="idx needs the price"):
        assign(x, x, idx=idx.long())
    with pytest.raises(ValueError, match=r"idx must have shape \[1, 5\], got \[1, 4\]"):
        assign(x, x, price=price, idx=idx[:, :4].long())
    with pytest.raises(TypeError, match="idx must be integer"):
        emd(x, x, price=price, idx=idx)
    with pytest.raises(ValueError, match="idx must be on"):
        assign(x, x, price=price, idx=idx.long().to("meta"))
    with pytest.raises(TypeError, match=r"x_weights must be .* got list; did you mean torch.tens"):
        chamfer(x, x, x_weights=[1.0] * 5)
    with pytest.raises(ValueError, match=r"radius must be a number or \[R\]"):
        f_score(x, x, torch.ones(2, 2))
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match=f"f_score: radius must be a number >= 0, got {wrong}"):
            f_score(x, x, wrong)
        for name in ("alpha", "n_lambda"):
            with pytest.raises(ValueError, match=f"{name} must be a number >= 0, got {wrong}"):
                density_aware_chamfer(x, x, **{name: wrong})
    with pytest.raises(ValueError, match="size_factor must be one of 'none', 'ratio'"):
        density_aware_chamfer(x, x, size_factor="big")
    with pytest.raises(ValueError, match="ids and price_cache go together"):
        EMDLoss(price_cache=(4, 5))(x, x)


def test_the_ops_guard_memory_themselves(device):
    """What Python lets through by mistake must not reach a kernel."""
    x = cloud(2, 5, 3, device=device)
    ops = torch.ops.pointloss
    for y in (x[0], x[:1], x[..., :2], x.double(), x.long()):
        with pytest.raises(RuntimeError):
            ops.nearest(x, y, None, None, 2, True, "auto")
        with pytest.raises(RuntimeError):
            ops.assign(x, y, None, None, False, 0.1, 0.0, None, None, 0, False)
    with pytest.raises(RuntimeError, match="lengths must be int64"):
        ops.nearest(x, x, torch.zeros(2, device=device), None, 2, True, "auto")
    with pytest.raises(RuntimeError, match="lengths must be"):
        ops.nearest(x, x, None, torch.zeros(3, dtype=torch.long, device=device), 2, True, "auto")
    with pytest.raises(RuntimeError, match="method must be"):
        ops.nearest(x, x, None, None, 2, True, "best")
    with pytest.raises(RuntimeError, match="norm must be 1 or 2"):
        ops.nearest(x, x, None, None, 0, True, "auto")
    wrong = torch.zeros(2, 4, device=device)
    with pytest.raises(RuntimeError, match="price must be"):
        ops.assign(x, x, None, None, False, 0.1, 0.0, wrong, None, 0, False)
    for wrong in (torch.zeros(2, 4), torch.zeros(2, 5), torch.zeros(2, 4).long()):
        with pytest.raises(RuntimeError, match="idx must be"):
            ops.assign(x, x, None, None, False, 0.1, 0.0, None, wrong.to(device), 0, False)
    y = cloud(2, 12000, 3, device=device)  # large enough for an index on either device
    index = ops.nearest_index(y, None)
    for wrong in (index[:-1], index.int(), index.reshape(-1, 1), torch.cat([index, index])):
        with pytest.raises(RuntimeError, match="index"):
            ops.nearest_query(x, None, y, None, wrong, 2)
    with pytest.raises(RuntimeError):
        ops.nearest_query(x, None, y.double(), None, index, 2)
    idx = torch.zeros(2, 5, dtype=torch.long, device=device)
    grad = torch.zeros(2, 5, device=device)
    for wrong in ((grad[:1], idx), (grad, idx[:, :4]), (grad.double(), idx), (grad, idx.int())):
        with pytest.raises(RuntimeError, match="gradient|idx"):
            ops.nearest_backward(wrong[0], None, x, x, wrong[1], idx, 2, True, True, False)
    _, found = ops.chamfer(x, x, None, None, 2, True, True, "mean", "mean")
    for over, over_batch in (("max", "mean"), ("mean", "max")):
        with pytest.raises(RuntimeError, match="reduction must be"):
            ops.chamfer(x, x, None, None, 2, True, True, over, over_batch)
    grad = torch.ones((), device=device)
    for wrong in ((grad.expand(2), found), (grad, found[:-1]), (grad.double(), found), (grad, idx)):
        with pytest.raises(RuntimeError, match="gradient|idx"):
            ops.chamfer_backward(
                wrong[0], x, x, None, None, wrong[1], 2, True, True, "mean", "mean", True, True,
                False,
            )  # fmt: skip
    cost = torch.zeros(2, device=device, dtype=torch.float64)
    met = torch.ones(2, device=device, dtype=torch.bool)
    for wrong in ((idx[:, :4], cost, met), (idx, cost.float(), met), (idx, cost, met[:1])):
        with pytest.raises(RuntimeError, match="idx|cost|converged"):
            ops.emd(x, x, None, None, *wrong, False, "mean", "mean")
    pageable = [torch.ones(1, dtype=torch.bool)] if device.type == "cuda" else []
    for missed in (met[:1].float(), met, *pageable):
        with pytest.raises(RuntimeError, match="missed must be"):
            ops.emd.watched(x, x, None, None, idx, cost, met, False, "mean", "mean", missed)
    for wrong in (
        (grad.expand(2), idx, cost), (grad, idx[:, :4], cost), (grad.double(), idx, cost),
        (grad, idx, cost.float()), (grad, idx, cost[:1]),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="gradient|idx|cost"):
            ops.emd_backward(
                wrong[0], x, x, None, None, *wrong[1:], True, "mean", "mean", True, True
            )
