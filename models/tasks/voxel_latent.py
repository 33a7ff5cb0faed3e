# SPDX-License-Identifier: MIT
"""What the codes of a voxel network are like: what the survey asks of a latent space.

Each preset is made for one of them, and all of them are measured on each, so that the four stand
side by side.
"""

import math
from typing import Any

import torch
from torch import Tensor

from models import report
from models.config import Config
from models.networks.voxel import VoxelNetwork
from models.tasks.voxel_answers import (
    Method,
    Seen,
    Split,
    look,
    mirrored,
    nearest_volumes,
    thin_iou,
    volume_codes,
)
from pointloss import voxel_iou

PAIRS, STEPS = 64, 10  # of the interpolation
PROBED = 2048  # training images, at most, that the probes are fitted to
RIDGE = 1e-2  # of a probe, in units of a standardised code


@torch.no_grad()
def between(network: VoxelNetwork, first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Probabilities [steps + 1, R, R, R] on the straight line between two codes [L]."""
    part = torch.linspace(0, 1, steps + 1, device=first.device)[:, None]
    return network.decode(torch.lerp(first, last, part)).float().sigmoid()


def choose_pairs(objects: Tensor, pairs: int, seed: int) -> Tensor:
    """Images [K, 2] of two different objects each, K <= pairs; objects: [S]."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(objects), (4 * pairs, 2), generator=generator)
    return drawn[objects[drawn[:, 0]] != objects[drawn[:, 1]]][:pairs]


def interpolation(
    network: VoxelNetwork,
    code: Tensor,
    objects: Tensor,
    train: Tensor,
    threshold: float,
    device: str,
    seed: int,
) -> dict[str, float]:
    """How evenly the shape changes on the way between the codes of two images of two objects.

    Each step changes 1 - IoU of the grid. The path is as long as its steps together; `largest step`
    is the share of the largest (1/10 if all are alike), `detour` the path's length over the change
    from end to end. `nearest` is the IoU of the shape halfway to the training volume nearest to it,
    beside that of the ends: a shape halfway that is like nothing lies far below them.
    """
    largest, detour, halves, ends = [], [], [], []
    for one, other in choose_pairs(objects, PAIRS, seed).tolist():
        path = between(network, code[one].to(device), code[other].to(device), STEPS)
        grids = path > threshold
        change = 1 - voxel_iou(grids[1:].float(), grids[:-1])
        length = change.sum().item()
        straight = 1 - voxel_iou(grids[0].float(), grids[-1]).item()
        if straight > 0.1:  # else there is nothing on the way
            largest.append(change.max().item() / length)
            detour.append(length / straight)
        halves.append(grids[STEPS // 2].cpu())
        ends += [grids[0].cpu(), grids[-1].cpu()]
    if not largest:
        return {}
    _, half = nearest_volumes(torch.stack(halves), train, device)
    _, end = nearest_volumes(torch.stack(ends), train, device)
    return {
        "largest step": sum(largest) / len(largest),
        "detour": sum(detour) / len(detour),
        "nearest, halfway": half.mean().item(),
        "nearest, at the ends": end.mean().item(),
    }


def angle_error(found: Tensor, true: Tensor) -> Tensor:
    """Degrees [S] between angles in degrees, 0 to 180."""
    return ((found - true + 180).remainder(360) - 180).abs()


def probe(code: Tensor, azimuth: Tensor, test: Tensor) -> Tensor:
    """Degrees that a linear map reads from codes `test` [S, L], fitted to `code` [T, L].

    Ridge regression onto cosine and sine of azimuth [T], degrees, in float64.
    """
    mean, scale = code.double().mean(0), code.double().std(0).clamp_min(1e-9)

    def rows(x: Tensor) -> Tensor:
        return torch.cat([(x.double() - mean) / scale, torch.ones(len(x), 1).double()], dim=1)

    a, angle = rows(code), azimuth.double().deg2rad()
    wanted = torch.stack([angle.cos(), angle.sin()], dim=1)
    gram = a.T @ a + RIDGE * len(a) * torch.eye(a.shape[1], dtype=torch.float64)
    cos, sin = (rows(test) @ torch.linalg.solve(gram, a.T @ wanted)).unbind(1)
    return torch.atan2(sin, cos).rad2deg()


def share_within(code: Tensor, objects: Tensor) -> float:
    """The variance of codes [S, L] among the views of an object, as a share of all of it."""
    _, which, count = objects.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(count), code.shape[1], dtype=torch.float64)
    means = means.index_add_(0, which, code.double()) / count[:, None]
    within = (code.double() - means[which]).square().sum()
    return float(within / (code.double() - code.double().mean(0)).square().sum())


def poses(seen: Seen, fitted: Seen, objects: Tensor) -> dict[str, float]:
    """What the codes know of the camera: median errors of the azimuth in degrees; chance is 90."""
    if not (seen.azimuth.isfinite().all() and fitted.azimuth.isfinite().all()):
        return {}
    found = {"azimuth from the code": probe(fitted.code, fitted.azimuth, seen.code)}
    if seen.pose is not None and fitted.pose is not None:
        found["azimuth from the pose code"] = probe(fitted.pose, fitted.azimuth, seen.pose)
    if seen.angle is not None:
        found["azimuth told by the network"] = seen.angle
    numbers = {k: angle_error(v, seen.azimuth).median().item() for k, v in found.items()}
    numbers["variance within an object"] = share_within(seen.code, objects)
    if seen.pose is not None:
        numbers["variance within an object, pose code"] = share_within(seen.pose, objects)
    return numbers


def recall(code: Tensor, objects: Tensor, gallery: Tensor) -> dict[str, float]:
    """How often the volume code nearest to an image's is its own object's.

    code: [S, L] of images; gallery: [O, L] of the split's volumes, of which objects [S] are theirs.
    """
    rank = torch.cdist(code, gallery).argsort(1)
    place = (rank == objects[:, None]).int().argmax(1)
    return {
        "recall@1": (place == 0).double().mean().item(),
        "recall@5": (place < 5).double().mean().item(),
        "median place": place.double().median().item() + 1,
        "volumes to choose from": len(gallery),
    }


def study(
    network: VoxelNetwork,
    seen: Seen,
    methods: dict[str, Method],
    test: Split,
    train: Split,
    config: Config,
    device: str,
    threshold: float,
) -> dict[str, Any]:
    """Everything above, as plain data."""
    truth = test.volumes[test.objects]
    thin = {name: thin_iou(m.grids[m.chosen], truth) for name, m in methods.items()}
    bank = mirrored(train.volumes, config.augment.mirror)
    every = max(1, math.ceil(len(train.keep) / PROBED))
    fitted = look(network, train._replace(keep=train.keep[::every]), config, device, threshold)
    found: dict[str, Any] = {
        "preset": config.network.preset,
        "code": {"width": network.code, "pose": network.pose, "normal variables": network.latent},
        "thin parts, IoU": {name: iou.nanmean().item() for name, iou in thin.items()},
        "interpolation": interpolation(
            network, seen.code, test.objects, bank, threshold, device, config.evaluate.seed
        ),
        "pose": poses(seen, fitted, test.objects),
    }
    if network.volume_encoder is not None:
        gallery = volume_codes(network, test.volumes, device)
        found["shared code"] = recall(seen.code, test.objects, gallery)
    return found


NOTES = {
    "thin parts, IoU": "within one voxel of what no block of 3^3 full voxels covers",
    "interpolation": f"{STEPS} even steps between the codes of two images of two objects; a step "
    "changes 1 - IoU. largest step: its share of the path, 0.1 if all are alike. detour: the "
    "path's length over the change from end to end. nearest: IoU to the nearest training volume",
    "pose": "median error in degrees, chance is 90; the share of the code's variance that is among "
    "the views of one object, 0 if the code does not know the view",
    "shared code": "the volume codes of the test objects, by their distance to an image's code",
}


def as_markdown(latent: dict[str, Any]) -> str:
    """A table for each property."""
    code = ", ".join(f"{key} {value}" for key, value in latent["code"].items())
    parts = [f"## The latent space of {latent['preset']}", f"Code: {code}."]
    for name, note in NOTES.items():
        if latent.get(name):
            cells = [[key, report.number(key, value)] for key, value in latent[name].items()]
            parts += [f"{name}: {note}.", report.table([name, ""], cells)]
    return "\n\n".join(parts) + "\n"
