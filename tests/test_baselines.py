# SPDX-License-Identifier: MIT
"""The predictors that learn little or nothing."""

from types import SimpleNamespace

import pytest
import torch
from objects import box_cloud

from models import baselines
from pointloss import chamfer

pytestmark = pytest.mark.usefixtures("one_cpu_thread")


def test_mean_shape_of_moved_copies_is_their_middle():
    cloud = box_cloud((1.0, 0.5, 0.5), 64, torch.Generator().manual_seed(0))
    shift = torch.tensor([0.0, 0.01, 0])
    mean = baselines.mean_shape(torch.stack([cloud - shift, cloud + shift]), "cpu")
    torch.testing.assert_close(mean.mean(0), cloud.mean(0), rtol=0, atol=1e-4)
    # Matched points differ by about the shift, so their middle stays as near to the cloud.
    assert chamfer(mean[None], cloud[None], squared=False) < 0.05


def test_clusters_part_what_is_far_apart():
    flat = [box_cloud((1.0, 0.1, 1.0), 128) for _ in range(5)]
    tall = [box_cloud((0.1, 1.0, 0.1), 128) for _ in range(4)]
    member = baselines.k_means(baselines.occupancy(torch.stack(flat + tall)).sqrt(), 2)
    assert len(member[:5].unique()) == len(member[5:].unique()) == 1
    assert member[0] != member[5]
    of, shapes = baselines.cluster_shapes(torch.stack(flat + tall), "cpu")
    assert len(of) == 9
    assert shapes.shape[1:] == (128, 3)


def test_the_oracle_finds_the_nearest_shape():
    train_clouds = torch.stack([box_cloud((1.0, h, 0.3), 256) for h in (0.1, 0.5, 0.9)])
    truth = torch.stack([box_cloud((1.0, h, 0.3), 300) for h in (0.85, 0.15)])
    assert baselines.nearest_shapes(truth, train_clouds, "cpu").tolist() == [2, 0]


def images_loader(images):
    """Batches of two images [3, H, W] with the objects 0, 1 ..., as far as retrieval looks."""
    batches = torch.stack(images).split(2)
    return [
        SimpleNamespace(image=batch, object=2 * number + torch.arange(len(batch)))
        for number, batch in enumerate(batches)
    ]


def test_retrieval_may_use_mirrored_views():
    left = torch.zeros(3, 3, 8, 8)
    for number in range(3):  # a bar on the left, in another row for each
        left[number, :, 2 * number, :3] = 1
    queries = baselines.thumbnails(torch.stack([left[2].flip(2), left[0]]))
    train = images_loader(list(left))
    found, turned = baselines.nearest_images(queries, train, "cpu", mirrored=True)
    assert found.tolist() == [2, 0]
    assert turned.tolist() == [True, False]
    _, turned = baselines.nearest_images(queries, train, "cpu", mirrored=False)
    assert turned.tolist() == [False, False]


def test_shapes_are_mirrored_with_their_views():
    clouds = torch.tensor([[[1.0, 2, 3]], [[4.0, 5, 6]]])
    both = baselines.with_mirrored(clouds, "x")
    assert both[2:].tolist() == [[[-1, 2, 3]], [[-4, 5, 6]]]
    assert baselines.with_mirrored(clouds, "z")[3].tolist() == [[4, 5, -6]]
    assert torch.equal(both[:2], clouds)
    assert torch.equal(baselines.with_mirrored(clouds, "none"), clouds)
