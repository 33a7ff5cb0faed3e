# SPDX-License-Identifier: MIT
"""Carving grids out of views and clouds, and what is taken from grids."""

import numpy as np
import pytest
import torch
from objects import box_cloud, make_set
from PIL import Image

from models.data import maps
from models.data.camera import Camera, intrinsics
from models.data.dataset import ReconstructionDataset
from models.data.occupancy import (
    Views,
    around,
    carve,
    occupancies,
    seen_along_axes,
    surface_points,
    thin_parts,
)
from pointloss import chamfer, voxelize

R = 16


def centres(resolution=R):
    along = (torch.arange(resolution) + 0.5) / resolution - 0.5
    return torch.stack(torch.meshgrid(along, along, along, indexing="ij"), dim=-1)


def see_ball(camera, radius, size=64):
    """Depth [size, size] along the optical axis of a ball at the origin; inf past it."""
    inverse = np.linalg.inv(intrinsics(size, None))
    pixels = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), axis=-1)
    rays = np.concatenate([pixels, np.ones((size, size, 1))], axis=2) @ inverse.T
    a, b = (rays**2).sum(2), -2 * camera.distance * rays[..., 2]
    inside = b**2 - 4 * a * (camera.distance**2 - radius**2)
    depth = (-b - np.sqrt(np.maximum(inside, 0))) / (2 * a)
    return torch.from_numpy(np.where(inside > 0, depth, np.inf)).float()


def views_of_ball(radius, outline=False):
    cameras = [Camera(a, e, 1.8) for a in range(0, 360, 60) for e in (-30, 30)]
    depth = torch.stack([see_ball(c, radius) for c in cameras])
    if outline:
        depth = torch.where(depth.isinf(), depth, 0)
    extrinsics = torch.from_numpy(np.stack([c.extrinsics() for c in cameras])).float()
    return Views(depth, extrinsics, torch.from_numpy(intrinsics(64, None)).float().expand(12, 3, 3))


@pytest.mark.parametrize("outline", [False, True])
def test_a_ball_is_carved_from_its_views(device, outline):
    radius = 0.4
    found = carve(views_of_ball(radius, outline), R, str(device)).cpu()
    distance = centres().norm(dim=-1)
    half = 0.5 / R  # a voxel reaches sqrt(3) times as far, and its cells a quarter of it
    assert found[distance < radius - half].all()
    assert not found[distance > radius + 3 * half].any()


def test_an_outline_hides_a_dent_and_depth_shows_it():
    views = views_of_ball(0.4)
    # The first camera sees through the middle of the ball's near side, up to its centre.
    depth = views.depth.clone()
    depth[0, 28:36, 28:36] = 1.8
    dented = carve(views._replace(depth=depth), R, "cpu")
    assert (carve(views, R, "cpu") & ~dented).sum() > 10
    depth[depth.isfinite()] = 0
    outline = carve(views_of_ball(0.4, outline=True), R, "cpu")
    assert torch.equal(carve(views._replace(depth=depth), R, "cpu"), outline)


def test_nothing_is_carved_outside_of_the_image():
    views = views_of_ball(0.4)
    nothing = Views(
        torch.full((1, 4, 4), torch.inf), views.extrinsics[:1], views.intrinsics[:1]
    )  # four pixels in the corner of the real image
    assert carve(nothing, R, "cpu").float().mean() > 0.9


def test_the_axes_look_under_a_table_and_not_through_gaps_between_samples(device):
    table = torch.zeros(1, R, R, R, dtype=torch.bool)
    table[0, 2:14, 12, 2:14] = True  # the plate
    table[0, 6:8, 12, 6:9] = False  # where it was not sampled
    table[0, 3, 2:12, 3] = True  # one leg
    seen = seen_along_axes(table.to(device))[0].cpu()
    assert seen[8:12, :12, 8:12].all()  # below
    assert seen[8, 13:].all()  # above
    assert not seen[6:8, 12, 6:9].any()
    assert not (seen & table[0]).any()
    closed = torch.ones(1, R, R, R, dtype=torch.bool)
    closed[0, 2:14, 2:14, 2:14] = False
    assert not seen_along_axes(closed).any()


def test_thin_parts_are_what_no_block_covers():
    grid = torch.zeros(1, R, R, R, dtype=torch.bool)
    grid[0, 2:8, 2:8, 2:8] = True
    grid[0, 8:12, 3, 3] = True  # a leg on the block
    grid[0, 0:2, 12:, 12:] = True  # a plate of two voxels at the border
    expected = grid.clone()
    expected[0, 2:8, 2:8, 2:8] = False
    assert torch.equal(thin_parts(grid), expected)
    one = torch.zeros(1, R, R, R, dtype=torch.bool)
    one[0, 0, 5, 5] = True
    assert around(one).sum() == 2 * 3 * 3


def test_surface_points_lie_half_a_voxel_in():
    grid = torch.zeros(R, R, R, dtype=torch.bool)
    grid[4:12, 4:12, 4:12] = True
    points = surface_points(grid, 500)
    assert points.shape == (500, 3)
    reach = 4 / R
    assert points.abs().max() <= reach
    # Each point is on one of the six planes through the middles of the outer voxels.
    assert torch.allclose((points.abs() - (reach - 0.5 / R)).abs().min(1).values, torch.zeros(500))
    assert (voxelize(points, R) > 0)[~grid].sum() == 0
    assert torch.equal(points, surface_points(grid, 500))
    assert surface_points(torch.zeros_like(grid), 5).shape == (0, 3)
    border = surface_points(torch.ones_like(grid), 500)
    assert border.abs().max() <= 0.5


def test_the_surface_of_carved_voxels_is_the_surface_of_the_object():
    cloud = box_cloud((0.9, 0.6, 0.4), 4096)
    grid = voxelize(cloud, 32) > 0
    found = surface_points(grid | ~seen_along_axes(grid[None])[0], 2048)
    # What another sampling of the truth has: no bias of half a voxel, 1.6 x 100.
    floor = chamfer(box_cloud((0.9, 0.6, 0.4), 2048), cloud, squared=False)
    assert chamfer(found, cloud, squared=False) < floor + 0.006


def test_volumes_of_a_set(tmp_path):
    root = make_set(tmp_path / "set", points=(2048,))
    data = ReconstructionDataset(root, "test")
    found = occupancies(data, "silhouette", 32, "cpu")
    assert found.shape == (2, 32, 32, 32)
    assert found.dtype == torch.bool
    touched = voxelize(data.points, 32) > 0
    assert (found & touched).sum() == touched.sum()
    assert found[:, 16, 16, 16].all()  # inside of a box, where no point is
    assert not touched[:, 16, 16, 16].any()
    empty = ReconstructionDataset(root, "test")
    empty.objects, empty.samples, empty.points = [], [], torch.zeros(0, 2048, 3)
    assert occupancies(empty, "silhouette", 32, "cpu").shape == (0, 32, 32, 32)
    with pytest.raises(FileNotFoundError, match="depth"):
        occupancies(data, "depth", 32, "cpu")
    # Depth maps are enough: the normals that sets have beside them are not asked for.
    for image in root.glob("ShapeNetRendering/*/*/rendering/*.png"):
        (image.parent.parent / "depth").mkdir(exist_ok=True)
        outline = np.asarray(Image.open(image))[..., 3] > 0
        distance = 1.0 * outline  # far nearer than the object: the outline alone carves
        maps.write_depth(image.parent.parent / "depth" / image.name, distance)
    assert torch.equal(occupancies(data, "depth", 32, "cpu"), found)


def test_a_set_without_cameras_cannot_be_carved(tmp_path):
    root = make_set(tmp_path / "set", points=(64,))
    for path in root.glob("ShapeNetRendering/*/*/rendering/rendering_metadata.txt"):
        path.unlink()
    data = ReconstructionDataset(root, "val", points=64)
    with pytest.raises(ValueError, match="m4/00: nothing can be carved without its camera"):
        occupancies(data, "silhouette", 32, "cpu")
