# SPDX-License-Identifier: MIT
"""Pictures: the curves, the grid, which images, and where the camera sees a point."""

import matplotlib.pyplot as plt
import torch
from PIL import Image

from models import log, plots
from models.data.camera import Camera, intrinsics
from models.data.dataset import View


def camera(azimuth=90.0, size=64):
    pose = torch.from_numpy(Camera(azimuth, 0.0, 2.0).extrinsics()).float()
    lens = torch.from_numpy(intrinsics(size, size)).float()
    return View(torch.tensor(azimuth), torch.tensor(0.0), pose, lens)


def test_every_category_is_shown_once():
    assert plots.choose_rows(["b", "b", "c", "a", "a"]) == [3, 0, 2]


def test_points_are_drawn_where_the_camera_sees_them():
    """From +z: the origin in the middle, +x to the right, +y up, +z near."""
    cloud = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0, 0.2, 0], [0, 0, 0.2]])
    pixels, near = plots.project(cloud, camera())
    torch.testing.assert_close(pixels[0], torch.tensor([32.0, 32.0]))
    assert pixels[1, 0] > 34
    assert pixels[2, 1] < 30
    torch.testing.assert_close(near, torch.tensor([0.0, 0, 0, 0.2]), atol=1e-5, rtol=0)


def test_the_grid_says_what_colours_and_numbers_are(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    cloud = torch.rand(20, 3) - 0.5
    unknown = View(*(torch.full_like(field, float("nan")) for field in camera()))
    rows = [
        plots.Picture(torch.ones(3, 64, 64), cloud, cloud, pose, "chair\nCD 8.8")
        for pose in (camera(), unknown)
    ]
    plots.reconstructions(tmp_path / "a.png", plots.Pictures(rows, "CD by hand"))
    (figure,) = figures
    *grid, bar = figure.axes
    assert len(grid) == 2 * 7
    assert grid[0].get_ylabel() == "chair\nCD 8.8"
    assert "colour: depth" in bar.get_xlabel()
    assert "CD by hand" in bar.get_xlabel()
    assert len(grid[1].collections) == len(grid[2].collections) == 1
    assert grid[8].texts[0].get_text() == "camera not known"
    assert Image.open(tmp_path / "a.png").width == 1540
    monkeypatch.undo()
    plt.close(figure)


def test_one_loss_without_validation_images_is_drawn(tmp_path):
    log.write_csv(tmp_path / "metrics.csv", [{"epoch": 1, "lr": 0.1, "loss": 2.0, "cd": 2.0}])
    plots.loss_curves(tmp_path / "metrics.csv", tmp_path / "loss_curves.png")
    assert (tmp_path / "loss_curves.png").stat().st_size > 1000
