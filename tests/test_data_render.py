# SPDX-License-Identifier: MIT
"""From a mesh to points and views: sampling, cameras, ray casting."""

import numpy as np
import pytest
from meshes import BOX_FACES, box, needs_renderer

from models.data import maps
from models.data.camera import (
    FOV,
    FURTHEST,
    Camera,
    intrinsics,
    read_metadata,
    window,
)
from models.data.prepare import ac3d
from models.data.prepare.render import Renderer
from models.data.prepare.rig import fitting_distance, orbit
from models.data.prepare.sample import sample_surface, unit_box
from models.data.prepare.splits import families, near_duplicates, split
from tests import meshes


def test_sampling_is_uniform_over_the_area():
    # Two triangles of area 1 and 3, the larger again cut in four quarters of equal area.
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0], [10, 0, 0], [12, 0, 0], [10, 3, 0.0]])
    count, faces = 40_000, np.array([[0, 1, 2], [3, 4, 5]])
    points = sample_surface(vertices, faces, count, np.random.default_rng(0))
    large = points[points[:, 0] >= 5] - [10, 0, 0]
    u, v = large[:, 0] / 2, large[:, 1] / 3
    assert (u + v).max() <= 1
    seen = np.array([count - len(large), (u > 0.5).sum(), (v > 0.5).sum(),
                     ((u < 0.5) & (v < 0.5) & (u + v < 0.5)).sum(),
                     ((u < 0.5) & (v < 0.5) & (u + v >= 0.5)).sum()])  # fmt: skip
    expected = count * np.array([4, 3, 3, 3, 3]) / 16
    assert ((seen - expected) ** 2 / expected).sum() < 18.5  # chi-square, 4 degrees, p = 0.001


def test_sampling_skips_faces_without_area_and_rejects_none():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
    faces = np.array([[0, 0, 0], [0, 1, 2], [1, 1, 2]])
    points = sample_surface(vertices, faces, 500, np.random.default_rng(1))
    assert np.isfinite(points).all()
    assert np.ptp(points[:, 0]) > 0.5
    with pytest.raises(ValueError, match="no surface"):
        sample_surface(vertices, np.array([[0, 0, 1]]), 5, np.random.default_rng(1))
    with pytest.raises(ValueError, match="not finite"):
        unit_box(vertices * np.nan)


@needs_renderer
def test_near_duplicates_are_found():
    shapes = {}
    for name, size in {"a": (1, 0.5, 0.5), "b": (1, 0.505, 0.5), "c": (1, 0.56, 0.5)}.items():
        rng = np.random.default_rng(len(shapes))
        shapes[name] = sample_surface(box(*size), BOX_FACES, 32768, rng)
    assert near_duplicates(shapes) == [("a", "b")]


def test_split_keeps_families_whole_and_trains_every_category():
    names = {"a": "x", "b": "y", "c": "y", "d": "z"}
    assert families(names, [("a", "b")]) == {"a": "x", "b": "x", "c": "x", "d": "z"}
    family = {f"{i}": f"f{i // 3}" for i in range(120)} | {"only": "one"}
    category = dict.fromkeys(family, "chair") | {"only": "bench"}
    parts = split(family, category)
    assert parts == split(dict(reversed(family.items())), category)
    assert parts["only"] == "train"
    assert all(parts[f"{3 * i}"] == parts[f"{3 * i + 2}"] for i in range(40))
    assert list(parts.values()).count("test") == pytest.approx(24, abs=3)
    assert list(parts.values()).count("val") == pytest.approx(12, abs=3)


def test_a_fixed_split_stays_and_takes_the_family_along():
    family = {f"{i}": f"f{i // 3}" for i in range(120)}
    category = dict.fromkeys(family, "chair")
    free = split(family, category)
    moved = {"train": "test", "test": "val", "val": "train"}
    fixed = {key: moved[free[key]] for key in ("0", "30", "60")}
    parts = split(family, category, fixed | {"gone": "test"})
    for key, part in fixed.items():
        assert [parts[f"{int(key) + i}"] for i in range(3)] == [part] * 3
    assert list(parts.values()).count("test") == pytest.approx(24, abs=3)


def test_cameras_follow_the_r2n2_frame_and_fit_the_object():
    # Azimuth 0 on +x, 90 on +z: what blender makes of (x, y, z) is (x, -z, y), turned by -azimuth.
    side = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(Camera(0, 0, 1).axes(), side, atol=1e-12)
    np.testing.assert_allclose(Camera(90, 0, 1).axes(), np.eye(3), atol=1e-12)
    vertices = box(1, 0.2, 0.7)
    for camera in orbit(vertices, 12, np.random.default_rng(5)):
        assert 1.05 <= camera.distance / fitting_distance(vertices, camera) <= 1.2


def test_metadata_is_what_r2n2_writes():
    (camera,) = read_metadata("116.161328 27.4157270441 0 0.709302 25\n")
    assert camera == Camera(116.161328, 27.4157270441, 0.709302 * FURTHEST)
    assert read_metadata(camera.metadata())[0] == pytest.approx(camera, abs=1e-4)
    with pytest.raises(ValueError, match="line 2: expected five numbers"):
        read_metadata("1 2 0 0.7 25\n1 2 0\n")
    with pytest.raises(ValueError, match="rolled by 5"):
        read_metadata("1 2 5 0.7 25\n")


@pytest.mark.parametrize(("width", "size"), [(137, 128), (137, 64), (137, None), (64, 128)])
def test_matrices_put_a_point_on_its_pixel(width, size):
    camera, point = Camera(33, 28, 1.4), np.array([0.2, 0.1, -0.3])
    pixel = intrinsics(width, size) @ camera.extrinsics() @ [*point, 1]
    right, up, back = camera.axes() @ point
    reach = (camera.distance - back) * np.tan(np.deg2rad(FOV) / 2)
    whole = (np.array([right, -up]) / reach + 1) / 2 * width  # in the uncut image
    offset, side = window(width, size)
    np.testing.assert_allclose(pixel[:2] / pixel[2], (whole - offset) * (size or width) / side)
    assert pixel[2] == pytest.approx(camera.distance - back)


def slab_test(camera, half, size):
    """Which pixel centres see the box [-half, half]: rays against three slabs, [size, size]."""
    right, up, back = camera.axes()
    reach = np.tan(np.deg2rad(FOV) / 2)
    grid = ((np.arange(size) + 0.5) / size * 2 - 1) * reach
    ray = grid[None, :, None] * right - grid[:, None, None] * up - back
    near, far = np.sort([(sign * half - camera.distance * back) / ray for sign in (-1, 1)], axis=0)
    return near.max(axis=-1) <= far.min(axis=-1)


@needs_renderer
def test_the_silhouette_of_a_box_is_exact():
    half = np.array([0.5, 0.25, 0.35])
    renderer = Renderer(box(*2 * half), BOX_FACES, np.tile([0.8, 0.2, 0.1], (12, 1)))
    for camera in orbit(box(*2 * half), 8, np.random.default_rng(0)):
        seen, expected = renderer.hits(camera, 66) >= 0, slab_test(camera, half, 66)
        assert (seen != expected).mean() < 5e-4  # rays that graze an edge may go either way
        image = renderer.render(camera, 22).image
        assert image.shape == (22, 22, 4)
        coverage = expected.reshape(22, 3, 22, 3).mean(axis=(1, 3))
        assert np.abs(image[..., 3] / 255 - coverage).mean() < 2e-3
        inside = image[image[..., 3] == 255]
        assert (inside[:, 0] > inside[:, 1]).all()
        assert (image[image[..., 3] == 0] == 0).all()


def cross(a, b):
    """z of the cross product of vectors in the plane."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def z_buffer(vertices, faces, camera, size):
    """Nearest face [size, size] (-1: none) and its depth at the pixel centres, face by face.

    Projects each triangle and fills its bounding box: another way to the picture than casting rays.
    """
    points = np.column_stack([vertices, np.ones(len(vertices))]) @ camera.extrinsics().T
    depth = points[:, 2]
    pixel = (points @ intrinsics(size, None).T)[:, :2] / depth[:, None]
    nearest, owner = np.full((size, size), np.inf), np.full((size, size), -1)
    for number, face in enumerate(faces):
        a, b, c = pixel[face]
        area = cross(b - a, c - a)
        if area == 0:
            continue
        low = np.clip(np.floor(pixel[face].min(axis=0) - 0.5), 0, size).astype(int)
        high = np.clip(np.ceil(pixel[face].max(axis=0) + 0.5), 0, size).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
        p = np.stack([x, y], axis=-1)
        weight = np.stack([cross(c - b, p - b), cross(a - c, p - c), cross(b - a, p - a)]) / area
        z = 1 / np.tensordot(1 / depth[face], weight, axes=1)  # 1 / z is linear on the picture
        part = np.s_[low[1] : high[1], low[0] : high[0]]
        wins = (weight >= 0).all(axis=0) & (z < nearest[part])
        nearest[part] = np.where(wins, z, nearest[part])
        owner[part] = np.where(wins, number, owner[part])
    return owner, np.where(owner >= 0, nearest, 0)


@needs_renderer
def test_ray_casting_agrees_with_a_z_buffer():
    vertices, faces = meshes.boxes(12)
    renderer = Renderer(vertices, faces, np.full((len(faces), 3), 0.5))
    corner = vertices[faces]
    normals = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    for camera in orbit(vertices, 6, np.random.default_rng(1)):
        owner, expected = z_buffer(vertices, faces, camera, 96)
        hit, view = renderer.hits(camera, 96), renderer.render(camera, 96)
        both = (owner >= 0) & (hit >= 0)
        assert both.sum() / ((owner >= 0) | (hit >= 0)).sum() > 0.99
        # Where two boxes meet either may be in front; elsewhere it is one surface.
        assert (owner == hit)[both].mean() > 0.99
        assert np.abs(view.depth - expected)[owner == hit].max() < 1e-5
        assert (view.depth[owner < 0] == 0).mean() > 0.999
        outward = normals[owner] @ camera.axes().T * [1, -1, -1]
        facing = outward * -np.sign((outward * rays(camera, 96)).sum(axis=-1))[..., None]
        np.testing.assert_allclose(view.normal[both & (owner == hit)],
                                   facing[both & (owner == hit)], atol=1e-6)  # fmt: skip
        assert (view.normal[(owner < 0) & (hit < 0)] == 0).all()


def rays(camera, size):
    """Directions through the pixel centres in the camera frame, [size, size, 3]."""
    grid = np.arange(size) + 0.5
    x, y = np.meshgrid(grid, grid)
    pixel = np.stack([x, y, np.ones_like(x)], axis=-1)
    return pixel @ np.linalg.inv(intrinsics(size, None)).T


def test_maps_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 2.5, (9, 9)) * (rng.random((9, 9)) < 0.7)
    normal = rng.normal(size=(9, 9, 3))
    normal *= (depth > 0)[..., None] / np.linalg.norm(normal, axis=-1, keepdims=True)
    maps.write_depth(tmp_path / "d.png", depth)
    maps.write_normal(tmp_path / "n.png", normal)
    assert np.abs(maps.read_depth(tmp_path / "d.png") - depth).max() <= 0.51 * maps.DEPTH_STEP
    read = maps.read_normal(tmp_path / "n.png")
    assert ((read == 0).all(axis=-1) == (depth == 0)).all()
    cosine = (read * normal).sum(axis=-1)[depth > 0]
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 0.5
    with pytest.raises(ValueError, match="beyond"):
        maps.write_depth(tmp_path / "d.png", depth + 9)
    with pytest.raises(ValueError, match="16 bit"):
        maps.read_depth(tmp_path / "n.png")


def test_ac3d_places_and_triangulates():
    # A kid turned by 90 degrees about y and moved, inside a parent that is moved too.
    text = meshes.ac3d(box(2, 4, 6), "rot 0 0 -1 0 1 0 1 0 0\nloc 10 0 0").replace(
        "kids 1", 'data 11\nkids 9\nSURF\nloc 0 1 0\ntexture "x y.png"\nkids 1', 1
    )
    materials, (part,) = ac3d.parse(text)
    assert materials == [ac3d.Material((1, 0, 0), 0)]
    np.testing.assert_allclose(part.vertices.min(axis=0), [7, -1, -1])
    np.testing.assert_allclose(part.vertices.max(axis=0), [13, 3, 1])
    assert part.faces.shape == (12, 3)
    corner = part.vertices[part.faces]
    areas = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    assert np.linalg.norm(areas, axis=1).sum() / 2 == pytest.approx(2 * (2 * 4 + 2 * 6 + 4 * 6))


def test_ac3d_strips_lines_and_rubbish():
    # A blank line among the vertices: an aircraft of FlightGear has one.
    start = 'AC3Db\nOBJECT poly\nname "s"\nnumvert 4\n0 0 0\n1 0 0\n\n0 1 0\n1 1 0\nnumsurf 2\n'
    refs = "refs 4\n0 0 0\n1 0 0\n2 0 0\n3 0 0\n"
    _, (part,) = ac3d.parse(f"{start}SURF 0x14\nmat 0\n{refs}SURF 0x12\nmat 0\n{refs}kids 0\n")
    corner = part.vertices[part.faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    np.testing.assert_allclose(normal, [[0, 0, 1]] * 2)  # both wound alike
    for text, message in [
        ("PK\x03\x04", "not an AC3D"),
        (start.replace("1 1 0", "1 x 0"), "line 9"),
        (f"{start}SURF 0x10\nmat 0\n{refs.replace('3', '4', 1)}", "line"),
        (start + "SURF 0x10\nmat 0\n", "ends inside a surface"),
        (f"{start}SURF 0x10\nmat 0\n{refs.replace('3 0', '9 0')}kids 0\n", "out of range"),
    ]:
        with pytest.raises(ValueError, match=message):
            ac3d.parse(text)
