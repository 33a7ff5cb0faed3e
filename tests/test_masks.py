# SPDX-License-Identifier: MIT
"""Masks give what the chosen points alone give, in the rows and with the indices as given."""

import copy

import pytest
import torch

import pointloss
from pointloss import EMDLoss, NearestIndex, assign, chamfer, emd, icp, nearest, nearest_both, pad
from pointloss.testing.clouds import make, surface
from pointloss.testing.streams import capture


@pytest.fixture
def masked(device):
    """Clouds, masks with NaN outside, and the chosen points padded: a full, a mixed, a bare one."""
    x, y = make(surface, 3, 20, 25, dtype=torch.float64, device=device)
    x_mask = torch.rand(3, 20, device=device) < 0.6
    y_mask = torch.rand(3, 25, device=device) < 0.6
    x_mask[0], y_mask[2] = True, True
    cut = [pad([p[m] for p, m in zip(*side, strict=True)]) for side in ((x, x_mask), (y, y_mask))]
    x, y = (torch.where(m.unsqueeze(-1), p, torch.nan) for p, m in ((x, x_mask), (y, y_mask)))
    masks = {"x_mask": x_mask, "y_mask": y_mask}
    lengths = {"x_lengths": cut[0].lengths, "y_lengths": cut[1].lengths}
    return x, y, masks, cut[0].points, cut[1].points, lengths


OPS = {
    "chamfer": {},
    "chamfer none": {"point_reduction": "none"},
    "chamfer max": {"point_reduction": "max", "squared": False},
    "emd": {},
    "emd sum": {"point_reduction": "sum", "batch_reduction": "none"},
    "f_score": {"radius": 0.1},
    "hausdorff": {"percentile": 90},
    "hausdorff max": {},
    "density_aware_chamfer": {"alpha": 10},
    "mutual_nearest": {},
    "nearest": {},
    "nearest k": {"k": 3},
    "nearest_both": {},
    "assign": {},
}


def flat(result):
    """Tensors of a result, those of each point packed by nothing but their values."""
    return [t for part in result for t in flat(part)] if isinstance(result, tuple) else [result]


@pytest.mark.sanitize
@pytest.mark.parametrize("name", OPS)
def test_a_mask_is_a_choice_of_points(name, masked, deterministic):
    x, y, masks, x_cut, y_cut, lengths = masked
    op, options = getattr(pointloss, name.split()[0]), OPS[name]
    with_mask = flat(op(x, y, **options, **masks))
    alone = flat(op(x_cut, y_cut, **options, **lengths))
    sides = {20: masks["x_mask"], 25: masks["y_mask"]}
    names = [torch.where(m, m.cumsum(1) - 1, -1) for m in sides.values()]
    for found, expected in zip(with_mask, alone, strict=True):
        if found.dim() < 2:
            torch.testing.assert_close(found, expected)
            continue
        mask = sides[found.shape[1]]
        rows = torch.arange(expected.shape[1], device=mask.device) < mask.sum(1, keepdim=True)
        if found.dtype == torch.int64:
            other = names[found.shape[1] == 20]  # indices of x's points go into y
            at = found.clamp_min(0).flatten(1)
            found = torch.where(found >= 0, other.gather(1, at).view_as(found), -1)
            assert found[~mask].eq(-1).all()
        elif name == "assign":
            continue  # the prices, see below
        elif name != "mutual_nearest":
            assert found[~mask].eq(0).all()
        torch.testing.assert_close(found[mask], expected[rows])


def test_normals_and_weights_follow_their_points(masked):
    x, y, masks, x_cut, y_cut, lengths = masked
    normals = [torch.nn.functional.normalize(torch.randn_like(p), dim=-1) for p in (x, y)]
    cut = [
        pad([v[m] for v, m in zip(n, mask, strict=True)]).points
        for n, mask in zip(normals, masks.values(), strict=True)
    ]
    torch.testing.assert_close(
        pointloss.normal_consistency(x, y, *normals, **masks),
        pointloss.normal_consistency(x_cut, y_cut, *cut, **lengths),
    )
    w = torch.rand_like(x[..., 0])
    w_cut = pad([v[m].unsqueeze(1) for v, m in zip(w, masks["x_mask"], strict=True)]).points
    torch.testing.assert_close(
        chamfer(x, y, x_weights=torch.where(masks["x_mask"], w, torch.nan), **masks),
        chamfer(x_cut, y_cut, x_weights=w_cut.squeeze(2), **lengths),
    )


@pytest.mark.sanitize
@pytest.mark.parametrize("loss", [chamfer, emd])
def test_gradients_of_masked_points_are_0(loss, masked, gradcheck):
    x, y, masks, *_ = masked
    x, y, masks = (
        x[:, :6],
        y[:, :7],
        {"x_mask": masks["x_mask"][:, :6], "y_mask": masks["y_mask"][:, :7]},
    )
    clean = [p.nan_to_num().requires_grad_() for p in (x, y)]
    gradcheck(lambda a, b: loss(a, b, **masks), clean)
    points = [p.requires_grad_() for p in (x, y)]
    for grad, same, mask in zip(
        torch.autograd.grad(loss(*points, **masks), points),
        torch.autograd.grad(loss(*clean, **masks), clean),
        masks.values(),
        strict=True,
    ):
        assert grad[~mask].eq(0).all()
        torch.testing.assert_close(grad, same)


def test_index_with_masks(masked):
    x, y, masks, *_ = masked
    y = y.requires_grad_()
    index = NearestIndex(y, y_mask=masks["y_mask"])
    for at in (index, copy.deepcopy(index)):
        found = at.query(x, x_mask=masks["x_mask"])
        for a, b in zip(found, nearest(x, y, **masks), strict=True):
            assert torch.equal(a, b)
    for _ in range(2):
        index.query(x, x_mask=masks["x_mask"]).dist.sum().backward()
    assert y.grad[~masks["y_mask"]].eq(0).all()
    alone = NearestIndex(y[1], y_mask=masks["y_mask"][1]).query(x[0])
    assert torch.equal(alone.idx, nearest(x[0], y[1], y_mask=masks["y_mask"][1]).idx)


def test_icp_leaves_masked_points_out(masked):
    x, y, masks, x_cut, y_cut, lengths = masked
    there, alone = icp(x, y, **masks), icp(x_cut, y_cut, **lengths)
    torch.testing.assert_close(there.motion, alone.motion)


def test_warm_start_of_masked_clouds(masked):
    """Prices and matching belong to rows: any other mask may follow."""
    x, y, masks, *_ = masked
    first = assign(x, y, rtol=1e-3, **masks)
    again = assign(x, y, rtol=1e-3, price=first.price, idx=first.idx, **masks)
    assert again.converged.all()
    assert (again.rounds <= first.rounds).all()
    torch.testing.assert_close(again.cost, first.cost, rtol=2e-3, atol=0)
    loss = EMDLoss(price_cache=(5, 25)).to(x.device)
    ids = torch.tensor([0, 2, 4], device=x.device)
    torch.testing.assert_close(loss(x, y, ids, **masks), emd(x, y, **masks), rtol=2e-2, atol=0)


def test_prices_stand_in_the_rows_of_the_larger_cloud(masked, deterministic):
    x, y, masks, x_cut, y_cut, lengths = masked
    given, cut = assign(x, y, **masks).price, assign(x_cut, y_cut, **lengths).price
    for b, (n, m) in enumerate(zip(*(v.tolist() for v in lengths.values()), strict=True)):
        mask = masks["x_mask" if n > m else "y_mask"][b]
        assert torch.equal(given[b, : len(mask)][mask], cut[b, : max(n, m)])


def test_compiles_and_vmaps(masked):
    x, y, masks, *_ = masked

    def distances(x, y, x_mask, y_mask):
        there, back = nearest_both(x, y, x_mask=x_mask, y_mask=y_mask)
        return *there, *back, chamfer(x, y, x_mask=x_mask, y_mask=y_mask)

    args = (x, y, *masks.values())
    expected = distances(*args)
    compiled = torch.compile(distances, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*args), expected)
    torch.testing.assert_close(torch.func.vmap(distances)(*args)[:4], expected[:4])


def test_masks_change_between_replays_of_a_graph(cuda):
    """Nothing waits for the GPU, and a captured call reads the mask of each replay."""
    x, y = make(surface, 2, 200, 300, device=cuda)
    mask = torch.rand(2, 200, device=cuda) < 0.5

    def distances():
        return chamfer(x, y, x_mask=mask), *nearest(x, y, x_mask=mask)

    torch.cuda.set_sync_debug_mode("error")
    try:
        distances()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    captured, replay = capture(distances)
    for share in (0.1, 0.9):
        mask.copy_(torch.rand(2, 200, device=cuda) < share)
        replay()
        for found, expected in zip(captured, distances(), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", [chamfer, emd])
def test_deterministic_mode_is_kept(loss, masked, deterministic):
    x, y, masks, *_ = masked
    x.requires_grad_()
    grads = [torch.autograd.grad(loss(x, y, **masks), x)[0] for _ in range(2)]
    assert torch.equal(*grads)


def test_empty_masks_are_empty_clouds(device):
    x, none = torch.rand(2, 5, 3, device=device), torch.zeros(2, 5, dtype=torch.bool, device=device)
    assert chamfer(x, x, x_mask=none, y_mask=none) == 0
    assert chamfer(x, x, x_mask=none).isinf()
    assert nearest(x, x, y_mask=none).idx.eq(-1).all()
    assert chamfer(x[:, :0], x, x_mask=none[:, :0]).isinf()


@pytest.mark.parametrize("name", OPS)
def test_masks_of_no_clouds(name, masked):
    x, y, masks, *_ = masked
    op, options = getattr(pointloss, name.split()[0]), OPS[name]
    found = flat(op(x[:0], y[:0], **options, **{key: m[:0] for key, m in masks.items()}))
    for one, expected in zip(found, flat(op(x[:0], y[:0], **options)), strict=True):
        assert one.shape == expected.shape
        assert one.dtype == expected.dtype
        assert one.eq(0).all()


def test_errors(device):
    x, mask = torch.rand(2, 5, 3, device=device), torch.ones(2, 5, dtype=torch.bool, device=device)
    lengths = torch.tensor([5, 5], device=device)
    for options, error, text in (
        ({"x_mask": mask, "x_lengths": lengths}, ValueError, "give x_lengths or x_mask, not both"),
        ({"y_mask": mask.int()}, TypeError, "y_mask must be bool, got int32"),
        ({"y_mask": mask[:, 1:]}, ValueError, r"y_mask must have shape \[2, 5\], got \[2, 4\]"),
        ({"x_mask": mask.tolist()}, TypeError, r"x_mask must be a torch.Tensor"),
    ):
        with pytest.raises(error, match=text):
            nearest(x, x, **options)
