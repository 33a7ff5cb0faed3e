# SPDX-License-Identifier: MIT
"""The evaluation conventions: what they ignore and measure, and that ICP is undone exactly."""

import torch

from models import protocols


def rotation_about(axis, degrees):
    axis = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    k = torch.linalg.cross(torch.eye(3, dtype=torch.float64), axis.expand(3, 3))
    return torch.linalg.matrix_exp(torch.deg2rad(torch.tensor(degrees)) * k)


def test_a_cloud_scores_zero_against_itself():
    cloud = torch.rand(2, 1024, 3)
    scores = protocols.PROTOCOLS["lmnet"].score(cloud, cloud)
    assert scores.cd.max() < 1e-3
    assert scores.emd.max() < 1e-3


def test_lmnet_ignores_scale_and_position():
    x, y = torch.rand(2, 1024, 3), torch.rand(2, 1024, 3)
    lmnet = protocols.PROTOCOLS["lmnet"]
    torch.testing.assert_close(
        lmnet.score(x, y).cd, lmnet.score(4 * x - 3, y + 2).cd, rtol=1e-2, atol=0
    )


def test_lmnet_of_a_known_pair_is_the_value_by_hand():
    # Two lattices, one shifted inside the same box: every distance is known. No ICP, by hand.
    protocol = protocols.Protocol("plain", points=4, own_box=False, icp_rounds=0)
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]])
    scores = protocol.score(x, x + torch.tensor([0.0, 0.25, 0]))
    torch.testing.assert_close(scores.cd, torch.tensor([50.0]))
    torch.testing.assert_close(scores.emd, torch.tensor([25.0]))


def test_unit_box():
    x = torch.tensor([[[1.0, 2, 3], [5, 4, 3]], [[7.0, 7, 7], [7, 7, 7]]])
    expected = torch.tensor([[[-0.5, -0.25, 0], [0.5, 0.25, 0]], [[0.0, 0, 0], [0, 0, 0]]])
    assert torch.equal(protocols.unit_box(x), expected)


def test_icp_recovers_a_motion_and_inverts_it_exactly():
    torch.manual_seed(0)
    x = torch.rand(3, 300, 3, dtype=torch.float64) * torch.tensor([1.0, 0.6, 0.3])
    rotation = rotation_about([0.3, 1.0, -0.2], 8.0)
    translation = torch.tensor([0.03, -0.02, 0.04], dtype=torch.float64)
    y = x @ rotation.T + translation
    motion = protocols.icp(x, y, max_rounds=100, tolerance=1e-12)
    torch.testing.assert_close(motion.rotation, rotation.expand(3, 3, 3))
    torch.testing.assert_close(motion.translation, translation.expand(3, 1, 3))
    torch.testing.assert_close(motion.invert(y), x, rtol=0, atol=1e-12)
    # 3D-LMNet's inverse, y R - t, is off by |t - t R|: the mistake this test is here for.
    assert (y @ rotation - translation - x).norm(dim=-1).max() > 1e-3


def test_rigid_fit_never_reflects():
    x = torch.randn(4, 50, 3, dtype=torch.float64)
    fit = protocols.rigid_fit(x, x * torch.tensor([-1.0, 1, 1]))
    torch.testing.assert_close(torch.linalg.det(fit.rotation), torch.ones(4, dtype=torch.float64))
