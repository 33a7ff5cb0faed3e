# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import f_score, reference
from pointloss.testing.clouds import KINDS, make, surface, uniform


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("radius", [0.01, 0.1, 2.0])
def test_agrees_with_reference(kind, radius, device):
    x, y = make(kind, 2, 70, 110, dtype=torch.float64, device=device)
    value = f_score(x, y, radius).f_score.cpu()
    torch.testing.assert_close(value, reference.f_score(x.cpu(), y.cpu(), radius))


def test_each_side_has_its_own_count(device):
    x = torch.tensor([[0.0, 0], [0, 1], [9, 9], [8, 8]], device=device)
    y = torch.tensor([[0.0, 0.1], [0, 5]], device=device)
    found = f_score(x, y, 0.5)
    assert found.precision.item() == 0.25
    assert found.recall.item() == 0.5
    torch.testing.assert_close(found.f_score.item(), 2 * 0.25 * 0.5 / 0.75)


def test_the_radius_itself_does_not_count(device):
    x, y = torch.zeros(1, 3, device=device), torch.tensor([[0.5, 0, 0]], device=device)
    assert f_score(x, y, 0.5).f_score == 0
    assert f_score(x, y, 0.5001).f_score == 1


def test_several_radii_at_once(device):
    x, y = make(surface, 3, 70, 60, device=device)
    radii = torch.tensor([0.01, 0.05, 0.2])
    together = f_score(x, y, radii)
    assert together.f_score.shape == (3, 3)
    for k, radius in enumerate(radii):
        alone = f_score(x, y, float(radius))
        assert torch.equal(alone.f_score, together.f_score[:, k])
        assert torch.equal(alone.recall, together.recall[:, k])


def test_a_radius_that_is_none_gives_nan(device):
    """In a tensor; nobody waits for a GPU to look at it. Numbers raise: test_checks.py."""
    x, y = make(surface, 3, 70, 60, device=device)
    for score in f_score(x, y, torch.tensor([-0.1, 0.1, torch.nan], device=device)):
        assert score.isnan().tolist() == [[True, False, True]] * 3


def test_lengths_and_empty(device):
    x, y = make(uniform, 3, 20, 30, device=device)
    n, m = torch.tensor([20, 5, 0], device=device), torch.tensor([30, 9, 30], device=device)
    found = f_score(x, y, 0.2, x_lengths=n, y_lengths=m)
    cut = f_score(x[1, :5], y[1, :9], 0.2)
    assert torch.equal(found.precision[1], cut.precision)
    assert torch.equal(found.recall[1], cut.recall)
    assert found.f_score[2] == 0
    assert not found.f_score.isnan().any()


def test_a_cloud_against_itself_is_perfect(device):
    x, _ = make(surface, 2, 50, 1, device=device)
    assert f_score(x, x, 1e-6).f_score.eq(1).all()
