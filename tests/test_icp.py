# SPDX-License-Identifier: MIT
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pointloss import Similarity, icp, nearest
from pointloss.testing.clouds import make, surface


def moved(device, dtype=torch.float32, batch=2, n=120):
    """Clouds, and the same after a small motion, in another order."""
    x, _ = make(surface, batch, n, 1, dtype=torch.float64)
    turn = torch.from_numpy(Rotation.from_euler("xyz", [4, -3, 5], degrees=True).as_matrix())
    motion = Similarity(
        torch.ones(batch).double(),
        turn.expand(batch, 3, 3),
        torch.tensor([0.01, -0.02, 0.015]).double().expand(batch, 3),
    )
    y = motion.apply(x)[:, torch.randperm(n)]
    motion = Similarity(*(v.to(device, dtype) for v in motion))
    return x.to(device, dtype), y.to(device, dtype), motion


def test_recovers_a_small_motion(dtype, device):
    x, y, motion = moved(device, dtype)
    found = icp(x, y)
    torch.testing.assert_close(tuple(found.motion), tuple(motion), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.motion.inverse().apply(y), motion.inverse().apply(y),
                               rtol=0, atol=1e-5)  # fmt: skip
    assert found.converged.all()
    assert found.distance.lt(1e-5).all()


def plain_icp(x, y, rounds):
    """One cloud in float64, with numpy's SVD: the rotation and the translation."""
    x64, y64 = x.double().cpu().numpy(), y.double().cpu().numpy()
    rotation, translation, previous = np.eye(3), np.zeros(3), np.inf
    for _ in range(rounds):
        moved = torch.from_numpy(x64 @ rotation.T + translation).to(x)
        found = nearest(moved, y)
        distance = found.dist.double().sqrt().mean().item()
        if abs(previous - distance) < 1e-5 or distance == 0:
            break
        previous, matched = distance, y64[found.idx.cpu()]
        mean_x, mean_y = x64.mean(0), matched.mean(0)
        u, _, vh = np.linalg.svd((matched - mean_y).T @ (x64 - mean_x))
        rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vh))]) @ vh
        translation = mean_y - rotation @ mean_x
    return rotation, translation


def test_agrees_with_a_plain_loop(device):
    x, y = make(surface, 3, 60, 50, device=device)
    found = icp(x, y, max_rounds=8)
    for b in range(3):
        rotation, translation = plain_icp(x[b], y[b], 8)
        np.testing.assert_allclose(found.motion.rotation[b].cpu(), rotation, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            found.motion.translation[b].cpu(), translation, rtol=0, atol=1e-6
        )


def test_clouds_do_not_disturb_each_other(device):
    x, y, _ = moved(device)
    x[1] = y[1]  # done at once
    found = icp(x, y)
    assert found.rounds[1] == 0
    assert torch.equal(found.motion.apply(x)[1], x[1])
    alone = icp(x[0], y[0])
    torch.testing.assert_close(tuple(alone.motion), tuple(v[0] for v in found.motion))
    assert alone.rounds == found.rounds[0]


def test_lengths(device):
    x, y, _ = moved(device)
    lengths = torch.tensor([100, 120], device=device), torch.tensor([110, 90], device=device)
    found = icp(x, y, x_lengths=lengths[0], y_lengths=lengths[1], max_rounds=3)
    cut = icp(x[0, :100], y[0, :110], max_rounds=3)
    torch.testing.assert_close(tuple(v[0] for v in found.motion), tuple(cut.motion))


def test_scale_and_initial(device):
    x, y, motion = moved(device, torch.float64)
    start = motion._replace(scale=torch.full_like(motion.scale, 1.4))
    found = icp(x, 1.5 * y, scale=True, initial=start._replace(translation=1.5 * start.translation))
    torch.testing.assert_close(found.motion.scale, 1.5 * motion.scale, rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match=r"icp: initial.scale must have shape \[2\], got \[1\]"):
        icp(x, y, initial=Similarity(*(v[:1] for v in motion)))


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_empty_clouds_stay(n, m, device):
    found = icp(torch.rand(2, n, 3, device=device), torch.rand(2, m, 3, device=device))
    assert torch.equal(found.motion.rotation.cpu(), torch.eye(3).expand(2, 3, 3))
    assert found.distance.isinf().all()
    assert not found.converged.any()


def test_nan_shows(device):
    x, y, _ = moved(device)
    x[0, 0] = torch.nan
    found = icp(x, y)
    assert found.distance.isnan().tolist() == [True, False]
    assert found.converged.tolist() == [False, True]


def test_gradient_is_that_of_the_last_fit(device):
    x, y, _ = moved(device, torch.float64, 1, 5)
    x, y = x[0].requires_grad_(), y[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: tuple(icp(x, y, max_rounds=1).motion), (x, y))


def test_compiles_whole(device):
    x, y, _ = moved(device, n=20)
    compiled = torch.compile(icp, fullgraph=True, backend="eager")
    expected = icp(x, y, max_rounds=1)
    torch.testing.assert_close(tuple(compiled(x, y, max_rounds=1).motion), tuple(expected.motion))


def test_errors():
    with pytest.raises(ValueError, match=r"icp: x must have shape \[B, N, 3\]"):
        icp(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"icp: max_rounds must be at least 0, got -1"):
        icp(torch.zeros(4, 3), torch.zeros(4, 3), max_rounds=-1)
