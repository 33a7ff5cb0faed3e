# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import chamfer, pad


def clouds(device, dtype=torch.float64):
    return [torch.rand(n, 3, dtype=dtype, device=device) for n in (4, 0, 7, 1)]


def test_list_and_packed_give_the_same(device):
    given = clouds(device)
    points, lengths = pad(given)
    assert points.shape == (4, 7, 3)
    assert lengths.tolist() == [4, 0, 7, 1]
    for cloud, row, n in zip(given, points, lengths, strict=True):
        assert torch.equal(row[:n], cloud)
        assert row[n:].eq(0).all()
    offsets = torch.tensor([0, 4, 4, 11, 12], device=device, dtype=torch.int32)
    packed = pad(torch.cat(given), offsets)
    assert torch.equal(packed.points, points)
    assert torch.equal(packed.lengths, lengths)
    assert torch.equal(pad(torch.cat(given), offsets, size=9).points[:, :7], points)
    assert pad(given, size=9).points.shape == (4, 9, 3)


def test_gradient_reaches_the_packed_points(gradcheck, device):
    offsets = torch.tensor([0, 2, 2, 5], device=device)
    packed = torch.rand(5, 2, device=device, dtype=torch.float64, requires_grad=True)
    gradcheck(lambda p: pad(p, offsets).points, (packed,))
    a, b = packed.split([2, 3])
    gradcheck(lambda a, b: pad([a, b]).points, (a, b))


def test_what_does_not_fit_shows_in_the_loss(device):
    packed = torch.rand(5, 3, device=device)
    whole = torch.rand(3, 4, 3, device=device)
    for offsets, size, lost in (
        ([0, 2, 4, 9], 5, 1),
        ([-1, 2, 4, 5], None, 1),
        ([0, 1, 2, 5], 2, 1),
        ([3, 1, 2, 5], 4, 3),
        ([0, 3, 1, 4], None, 3),
    ):
        points, lengths = pad(packed, torch.tensor(offsets, device=device), size=size)
        loss = chamfer(points, whole, x_lengths=lengths, batch_reduction="none")
        assert loss.isnan().sum() == lost
    points, lengths = pad([packed[:1], packed], size=3)
    loss = chamfer(points, whole[:2], x_lengths=lengths, batch_reduction="none")
    assert loss.isnan().tolist() == [False, True]


def test_halves_and_doubles_are_promoted(device):
    x = torch.rand(3, 3, device=device)
    assert pad([x.half(), x.double()]).points.dtype == torch.float64


def test_errors(device):
    x = torch.rand(3, 3, device=device)
    for wrong, error, text in (
        (([],), ValueError, "at least one, got an empty list"),
        ((x,), TypeError, "packed tensor with offsets, got Tensor without offsets"),
        (([x, x[:, :2]],), ValueError, r"clouds\[1\] must have shape \[N, 3\], got \[3, 2\]"),
        (([x[0]],), ValueError, r"clouds\[0\] must have shape \[N, D\], got \[3\]"),
        (([x.cpu().numpy()],), TypeError, r"torch.from_numpy\(clouds\[0\]\)"),
        ((x, [0, 3]), TypeError, r"torch.tensor\(offsets\)"),
        ((x, torch.tensor([0.0, 3.0], device=device)), TypeError, "offsets must be integer"),
        ((x, torch.tensor(3, device=device)), ValueError, r"offsets must have shape \[B \+ 1\]"),
        ((x[0], torch.tensor([0, 3], device=device)), ValueError, r"clouds must have shape \[sum"),
    ):
        with pytest.raises(error, match=text):
            pad(*wrong)
    with pytest.raises(ValueError, match="size must be at least 0"):
        pad([x], size=-1)
