# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import depth_to_normals, lambert_shading, reference, rerender

K = torch.tensor([[20.0, 0, 4], [0, 20, 3], [0, 0, 1]], dtype=torch.float64)
STAY = torch.eye(4, dtype=torch.float64)[:3]


def turn(degrees, depth=2.0):
    """A camera motion: a turn of the scene about the vertical axis through (0, 0, depth)."""
    c, s = torch.deg2rad(torch.tensor(degrees).double()).cos(), torch.deg2rad(
        torch.tensor(degrees).double()).sin()  # fmt: skip
    rotation = torch.stack([torch.stack([c, 0 * c, s]), STAY[1, :3], torch.stack([-s, 0 * c, c])])
    centre = torch.tensor([0, 0, depth]).double()
    return torch.cat([rotation, (centre - rotation @ centre)[:, None]], 1)


def scene(device="cpu", dtype=torch.float64, height=6, width=8):
    depth = 2 + 0.2 * torch.rand(height, width, dtype=torch.float64)
    texture = torch.rand(3, height, width, dtype=torch.float64)
    return (v.to(device, dtype) for v in (depth, texture, K))


def test_agrees_with_reference(dtype, device):
    depth, texture, k = scene(device, dtype)
    pose = turn(8).to(k)
    found = rerender(depth, texture, k, pose, supersample=1, softness=0.05)
    image, seen = reference.rerender(depth, texture, k, pose, 0.05)
    well = found.coverage.cpu() > 0.01  # less fades to the background
    tolerance = {"rtol": 0, "atol": 1e-9 if dtype == torch.float64 else 1e-3}
    torch.testing.assert_close(found.image.double().cpu()[:, well], image[:, well], **tolerance)
    torch.testing.assert_close(found.depth.double().cpu()[well], seen[well], **tolerance)
    assert well.sum() > 24
    assert found.image.dtype == dtype


def test_the_same_view_gives_the_same_image(device):
    depth, texture, k = scene(device)
    found = rerender(depth, texture, k, STAY.to(device), supersample=1)
    torch.testing.assert_close(found.image, texture)
    torch.testing.assert_close(found.depth, depth)
    torch.testing.assert_close(found.coverage, torch.ones_like(depth))


def test_a_near_neighbour_does_not_darken_an_edge(device):
    """Samples of weight 0 at a pixel must not decide what is in front there."""
    _, texture, k = scene(device)
    depth = torch.ones(6, 8, dtype=torch.float64, device=device)
    depth[:, 4:] = 4
    found = rerender(depth, texture, k, STAY.to(device), supersample=1)
    torch.testing.assert_close(found.image, texture)
    # Nor may a sample of hardly any weight: what it cannot fill is not black.
    aside = STAY.clone().to(device)
    aside[0, 3] = 1e-5
    found = rerender(depth, torch.ones_like(texture), k, aside, supersample=1)
    assert found.image.min() > 0.999


def test_supersampling_leaves_no_gaps(device):
    depth, texture, k = scene(device)
    closer = STAY.clone()
    closer[2, 3] = -1.0  # about twice as large
    found = rerender(depth, torch.ones_like(texture), k, closer.to(device))
    torch.testing.assert_close(found.image, torch.ones_like(texture))
    assert found.coverage.min() > 0.1
    assert (found.depth - (depth - 1)).abs().max() < 0.2


def test_what_is_in_front_hides_what_is_behind(device):
    """Two pixels fall on one: the nearer one is seen."""
    k = torch.tensor([[10.0, 0, 2], [0, 10, 0.5], [0, 0, 1]], device=device)
    depth = torch.tensor([[0, 4.0, 1.0, 0]], device=device)
    texture = torch.tensor([[[0, 5.0, 1.0, 0]]], device=device)
    pose = torch.tensor([[1.0, 0, 0, 0.0], [0, 1, 0, 0], [0, 0, 1, 0]], device=device)
    pose[0, 3] = -0.1  # pixel 1 at depth 4 goes to u = 1.25, pixel 2 at depth 1 to u = 1.5
    found = rerender(depth, texture, k, pose, supersample=1)
    assert found.image[0, 0, 1].item() == pytest.approx(1, abs=1e-4)
    assert found.depth[0, 1].item() == pytest.approx(1, abs=1e-4)
    assert found.image[0, 0, 3] == 0


def test_the_unit_of_length_does_not_matter(device):
    depth, texture, k = scene(device)
    pose, wide = turn(10).to(device), turn(10).to(device)
    wide[:, 3] *= 1000
    found, large = rerender(depth, texture, k, pose), rerender(1000 * depth, texture, k, wide)
    torch.testing.assert_close(found.image, large.image)


def test_masked_pixels_and_batches(device):
    depth, texture, k = scene(device)
    mask = torch.ones(6, 8, dtype=torch.bool, device=device)
    mask[:, :4] = False
    holes = torch.where(mask, depth, torch.nan)
    holes[5] = 0
    paint = torch.where(mask, texture, torch.nan)
    poses = torch.stack([STAY, turn(5)]).to(device)
    found = rerender(holes.expand(2, 6, 8), paint.expand(2, 3, 6, 8), k, poses)
    assert found.image.isfinite().all()
    assert found.coverage[0, :, :3].eq(0).all()
    assert found.coverage[0, 5, 5:].max() < 0.2  # the samples in row 4 reach half a pixel further
    torch.testing.assert_close(found.depth[0, :4, 5:], depth[:4, 5:], rtol=0.06, atol=0)
    alone = rerender(depth, texture, k, poses[1], mask=mask & (holes > 0))
    torch.testing.assert_close(found.image[1], alone.image)


def test_light(device):
    depth, texture, k = scene(device)
    light = torch.tensor([1.0, 0.5, -1]).double().to(device)
    found = rerender(depth, texture, k, STAY.to(device), light=light, ambient=0.3, diffuse=0.7,
                     supersample=1)  # fmt: skip
    shade = lambert_shading(depth_to_normals(depth, k), light, ambient=0.3, diffuse=0.7)
    torch.testing.assert_close(found.image, texture * shade)


def test_nothing_in_sight(device):
    depth, texture, k = scene(device)
    behind = STAY.clone().to(device)
    behind[2, 3] = -10
    depth.requires_grad_()
    found = rerender(depth, texture, k, behind)
    assert all(v.eq(0).all() for v in found)
    sum(v.sum() for v in found).backward()
    assert depth.grad.eq(0).all()


def test_gradients(device):
    depth, texture, k = scene(device, height=2, width=3)
    light = torch.tensor([0.2, 0.5, -1], device=device).double()
    inputs = [v.requires_grad_() for v in (depth, texture, k, turn(6).to(device), light)]

    def seen(depth, texture, k, pose, light):
        return rerender(depth, texture, k, pose, light=light, supersample=2, softness=0.1)

    assert torch.autograd.gradcheck(seen, inputs, nondet_tol=1e-12)


def test_deterministic_on_request(device, deterministic):
    def once():
        torch.manual_seed(0)
        depth, texture, k = scene(device, torch.float32, 24, 32)
        inputs = [v.requires_grad_() for v in (depth, texture)]
        found = rerender(*inputs, k, turn(20).to(k))
        found.image.square().sum().backward()
        return found.image, *(v.grad for v in inputs)

    for first, second in zip(once(), once(), strict=True):
        assert torch.equal(first, second)


def test_compiles_whole(device):
    depth, texture, k = scene(device)
    compiled = torch.compile(rerender, fullgraph=True, backend="eager")
    pose = turn(6).to(device)
    torch.testing.assert_close(
        compiled(depth, texture, k, pose).image, rerender(depth, texture, k, pose).image
    )


def test_errors():
    depth, texture, k = scene()
    with pytest.raises(ValueError, match=r"rerender: texture must have shape \[C, 6, 8\], got"):
        rerender(depth, texture[0], k, STAY)
    with pytest.raises(ValueError, match="rerender: softness must be above 0, got 0"):
        rerender(depth, texture, k, STAY, softness=0)
    with pytest.raises(ValueError, match="rerender: supersample must be at least 1, got 0"):
        rerender(depth, texture, k, STAY, supersample=0)
