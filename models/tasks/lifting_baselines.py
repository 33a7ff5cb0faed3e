# SPDX-License-Identifier: MIT
"""What lifts keypoints without 3D-LFM: for each rig on its own, from its training shapes.

They know which joint is which, so they answer only for rigs that they have shapes of. `flat` needs
nothing. Every shape is in the frame and the unit of the keypoints (models.data.rigs.Views).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.data.rigs import JOINTS, TURNS, Pool, Rig, Views
from pointloss import procrustes

FLAT, MEAN, PCA = "flat", "mean shape", "PCA"
MLP, RETRIEVAL = "MLP, fixed order", "nearest view"
BASES = 10  # of the PCA
BANK = 8192  # views among which the nearest is looked for
WEIGHTS = (1e-3, 1e-2, 1e-1)  # of the PCA's prior; the validation views choose


def masked_error(shape: Tensor, views: Views, align: bool) -> Tensor:
    """Mean squared error of the visible joints' coordinates, [B], in the unit of views.size.

    With `align` after the similarity that brings the shape [B, N, 3] closest to the truth.
    """
    if align:
        with torch.no_grad():  # at the minimum over similarities a change of theirs changes nothing
            fit = procrustes(shape, views.truth, mask=views.mask)
        shape = fit.apply(shape)
    square = ((shape - views.truth) * views.mask[..., None]).square().sum((1, 2))
    error: Tensor = square / (3 * views.mask.sum(1) * views.size.square())
    return error


def place(shape: Tensor, views: Views, rounds: int = 30) -> Tensor:
    """The shape [B, N, 3] turned, scaled and moved to project onto the keypoints (orthographic).

    The depths that the keypoints lack are those of the shape as it is placed, and the shape is
    placed anew by `procrustes`, in turn; no round fits the keypoints worse. It begins with the
    affine map that fits them best.
    """
    mask = views.mask[..., None]
    centred = (shape - (shape * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)) * mask
    inner = centred.transpose(1, 2) @ centred
    slack = 1e-4 * inner.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + 1e-9
    inner = inner + slack * torch.eye(3, device=shape.device)
    affine = torch.linalg.solve(inner, centred.transpose(1, 2) @ views.keypoints)  # [B, 3, 2]
    normal = torch.linalg.cross(affine[..., 0], affine[..., 1])
    length = affine.square().sum((1, 2)).div(2).sqrt()[:, None]
    normal = length * normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-9)
    depth = (centred @ normal[..., None]).squeeze(-1)
    placed = shape
    for _ in range(rounds):
        target = torch.cat([views.keypoints, depth[..., None]], -1)
        placed = procrustes(shape, target, mask=views.mask).apply(shape)
        depth = placed[..., 2]
    return placed


class Bases:
    """Mean shape and principal components of each rig's training shapes."""

    def __init__(self, rigs: Sequence[Rig], device: str):
        parts = [self._components(rig.shapes.to(device)) for rig in rigs]
        self.mean, self.bases = (torch.stack(part) for part in zip(*parts, strict=True))

    @staticmethod
    def _components(shapes: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3] and [BASES, N, 3], times its standard deviation each; 0 where there are fewer."""
        flat = shapes.flatten(1)
        mean = flat.mean(0)
        _, deviation, rows = torch.linalg.svd(flat - mean, full_matrices=False)
        rows = rows * deviation[:, None] / len(flat) ** 0.5
        bases = flat.new_zeros(BASES, flat.shape[1])
        bases[: len(rows)] = rows[:BASES]
        return mean.unflatten(0, (JOINTS, 3)), bases.unflatten(1, (JOINTS, 3))

    def average(self, views: Views, rig: Tensor) -> Tensor:
        """The mean shapes of the rigs [B]."""
        return self.mean[rig]

    def fit(self, views: Views, rig: Tensor, weight: float, rounds: int = 15) -> Tensor:
        """Shape and pose in turn: the pose by `place`, then the components by least squares.

        `weight` is that of their prior, a standard normal distribution.
        """
        mean, bases, mask = self.mean[rig], self.bases[rig], views.mask
        prior = weight * torch.eye(BASES, device=mean.device)
        shape = mean
        for number in range(rounds):
            fit = procrustes(shape, place(shape, views, 30 if number == 0 else 5), mask=mask)
            both = torch.cat([bases, mean[:, None]], 1)  # [B, BASES + 1, N, 3]
            turned = torch.einsum("bij,bknj->bkni", fit.rotation[:, :2], both)
            turned = (fit.scale[:, None, None, None] * turned) * mask[:, None, :, None]
            left = views.keypoints - turned[:, -1] - fit.translation[:, None, :2]
            design = turned[:, :-1].flatten(2)  # [B, BASES, 2 N]
            right = design @ (left * mask[..., None]).flatten(1)[..., None]
            found = torch.linalg.solve(design @ design.transpose(1, 2) + prior, right)
            shape = mean + (found[..., None] * bases).sum(1)
        return place(shape, views)


class FixedOrder(nn.Module):
    """MLPs for R rigs, one each, after SimpleBaseline (Martinez et al. 2017): joints in order.

    Two residual blocks; it reads keypoints and mask and gives a shape, as the lifter does.
    """

    def __init__(self, rigs: int, width: int):
        super().__init__()
        sizes = [(3 * JOINTS, width), *[(width, width)] * 4, (width, 3 * JOINTS)]
        self.weights = nn.ParameterList(torch.randn(rigs, a, b) * (2 / a) ** 0.5 for a, b in sizes)
        self.biases = nn.ParameterList(torch.zeros(rigs, 1, b) for _, b in sizes)

    def forward(self, views: Views) -> Tensor:
        """Views of all rigs in turn, [R b, ...] -> [R b, N, 3]."""
        x = torch.cat([views.keypoints, views.mask[..., None]], -1).flatten(1)
        x = x.unflatten(0, (len(self.weights[0]), -1))

        def layer(number: int, x: Tensor) -> Tensor:
            return torch.baddbmm(self.biases[number], x, self.weights[number])

        x = layer(0, x).relu()
        for block in (1, 3):
            x = x + 0.5 * layer(block + 1, layer(block, x).relu()).relu()
        shape: Tensor = layer(5, x).flatten(0, 1).unflatten(1, (JOINTS, 3))
        return shape

    def of(self, views: Views, rig: Tensor) -> Tensor:
        """Views [B, ...] of rigs [B] -> [B, N, 3]."""
        count = len(self.weights[0])
        every = self(Views(*(torch.cat([field] * count) for field in views)))
        rows: Tensor = every.unflatten(0, (count, -1))
        return rows[rig, torch.arange(len(rig), device=rig.device)]


def nearest_view(rigs: Sequence[Rig], device: str) -> Callable[[Views, Tensor], Tensor]:
    """Looks for the nearest of BANK views of a rig; gives its shape in the frame of that view.

    The views in the bank show all joints; those that a query does not show are left out of both.
    """
    pool = Pool([rigs], device, occlusion=0.0)
    generator = torch.Generator().manual_seed(1)
    numbers = torch.rand(BANK, TURNS, generator=generator).to(device)
    banks = [
        pool.draw(numbers, torch.full((BANK,), rig, device=device)) for rig in range(len(rigs))
    ]

    def find_all(views: Views, rig: Tensor) -> Tensor:
        shapes = torch.empty_like(views.truth)
        for number in rig.unique().tolist():
            rows = (rig == number).nonzero()[:, 0]
            shapes[rows] = find(Views(*(field[rows] for field in views)), number)
        return shapes

    def find(views: Views, number: int) -> Tensor:
        bank = banks[number]
        seen = views.mask[..., None].float()  # [B, N, 1]
        known = (
            bank.truth[None]
            - torch.einsum("bnx,knc->bkc", seen, bank.truth)[:, :, None]
            / (seen.sum(1)[:, None, None])
        )
        known = known * seen[:, None]
        spread = known[..., :2].square().sum((2, 3), keepdim=True) / seen.sum(1)[:, None, None]
        known = known / spread.sqrt().clamp(min=1e-6)
        gap = (known[..., :2] - views.keypoints[:, None]).square().sum((2, 3))
        return known[torch.arange(len(gap), device=device), gap.argmin(1)]

    return find_all
