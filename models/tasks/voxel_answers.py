# SPDX-License-Identifier: MIT
"""What a voxel network, and the baselines beside it, answer to the images of a split."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from models.baselines import ORACLE, RETRIEVAL, nearest_images, thumbnails
from models.build import open_split
from models.config import Config, ConfigError
from models.data.dataset import ReconstructionDataset, Sample
from models.data.occupancy import around, thin_parts
from models.networks.voxel import VoxelNetwork
from models.score import open_asked, spread_views
from models.tasks.voxels import THRESHOLDS, ious, open_volumes
from pointloss import voxel_iou
from pointloss.protocols import Protocol

MEAN, SHARED = "mean shape", "nearest code"  # names in the tables


class Split(NamedTuple):
    """The images of a split that are looked at, in their order."""

    data: ReconstructionDataset
    keep: list[int]  # samples
    volumes: Tensor  # [O, R, R, R] bool, true

    @property
    def objects(self) -> Tensor:
        return torch.tensor([self.data.samples[i][0] for i in self.keep])

    def loader(self, config: Config) -> "DataLoader[Sample]":
        return DataLoader(
            Subset(self.data, self.keep),
            config.evaluate.batch_size,
            num_workers=config.data.workers if self.data.images is None else 0,
        )


class Seen(NamedTuple):
    """What the network made of the S images of a split."""

    grids: Tensor  # [S, R, R, R] bool, at the threshold
    code: Tensor  # [S, L]
    pose: Tensor | None  # [S, P]
    angle: Tensor | None  # [S] degrees, the azimuth that the network tells
    thumbs: Tensor  # [S, F]
    azimuth: Tensor  # [S] degrees, true


@torch.no_grad()
def search_threshold(network: VoxelNetwork, split: Split, config: Config, device: str) -> float:
    """The one of THRESHOLDS with the largest mean IoU over the images."""
    sums = ious(network, split.loader(config), split.volumes, device)
    return THRESHOLDS[int(sums.argmax())].item()


@torch.no_grad()
def look(
    network: VoxelNetwork, split: Split, config: Config, device: str, threshold: float
) -> Seen:
    """Every image of a split once."""
    found: list[list[Tensor]] = [[] for _ in Seen._fields]
    for batch in tqdm(split.loader(config), "scores", unit="batch", leave=False, disable=None):
        out = network(batch.image.to(device))
        angle = None
        if out.azimuth is not None:
            angle = torch.atan2(out.azimuth[:, 1], out.azimuth[:, 0]).rad2deg()
        grids = out.logits.float().sigmoid() > threshold
        fields = (grids, out.code, out.pose, angle, thumbnails(batch.image), batch.camera.azimuth)
        for values, field in zip(found, fields, strict=True):
            if field is not None:
                values.append(field.cpu())
    return Seen(*(torch.cat(values) if values else None for values in found))  # type: ignore[arg-type]


def mirrored(volumes: Tensor, mirror: str) -> Tensor:
    """Volumes [O, R, R, R], and after them their mirror images in `mirror`; see with_mirrored."""
    return volumes if mirror == "none" else torch.cat([volumes, volumes.flip(" xyz".index(mirror))])


def mean_volume(volumes: Tensor, held_out: Split) -> Tensor:
    """The mean of volumes [O, R, R, R], cut where the IoU over a split's images is best."""
    mean = volumes.float().mean(0)
    owners, count = held_out.objects.unique(return_counts=True)
    truth = held_out.volumes[owners]
    iou = voxel_iou(mean.expand(len(truth), -1, -1, -1), truth, THRESHOLDS).double()
    grid: Tensor = mean > THRESHOLDS[int((count[:, None] * iou).sum(0).argmax())]
    return grid


def nearest_volumes(volumes: Tensor, among: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """The row of `among` [T, R, R, R] with the largest IoU for each of volumes [O, R, R, R].

    Returns rows [O] int64 and their IoU [O].
    """
    bank = among.flatten(1).to(device).float()
    rows, scores = [], []
    for part in volumes.split(256):
        own = part.flatten(1).to(device).float()
        both = own @ bank.T
        iou = both / (own.sum(1)[:, None] + bank.sum(1) - both).clamp_min(1)
        best = iou.max(1)
        rows.append(best.indices.cpu())
        scores.append(best.values.cpu())
    return torch.cat(rows), torch.cat(scores)


def thin_iou(grids: Tensor, truth: Tensor) -> Tensor:
    """IoU [S] within one voxel of the truth's thin parts, its bulk left out; NaN without any."""
    thin = thin_parts(truth)
    near = around(thin) & ~(truth & ~thin)
    iou = voxel_iou(grids.float(), truth, mask=near)
    return torch.where(thin.flatten(1).any(1), iou, torch.nan)


@torch.no_grad()
def volume_codes(network: VoxelNetwork, volumes: Tensor, device: str) -> Tensor:
    """The shared codes [O, L] of volumes (tl)."""
    parts = [network.encode_volumes(v.to(device).float()).cpu() for v in volumes.split(256)]
    return torch.cat(parts)


class Method(NamedTuple):
    """An answer to every image: grids[chosen]."""

    grids: Tensor  # [K, R, R, R] bool
    chosen: Tensor  # [S] int64


def methods_beside(
    config: Config,
    network: VoxelNetwork,
    seen: Seen,
    test: Split,
    held_out: Split,
    train: Split,
    device: str,
) -> dict[str, Method]:
    """The baselines, and with a code that volumes share what is retrieved through it."""
    mirror = config.augment.mirror
    bank = mirrored(train.volumes, mirror)
    loader = train.loader(config)
    retrieved, turned = nearest_images(seen.thumbs, loader, device, mirror != "none")
    found = {
        MEAN: Method(mean_volume(bank, held_out)[None], torch.zeros_like(test.objects)),
        RETRIEVAL: Method(bank, retrieved + len(train.volumes) * turned),
    }
    if network.volume_encoder is not None:
        codes = volume_codes(network, bank, device)
        found[SHARED] = Method(bank, torch.cdist(seen.code, codes).argmin(1))
    oracle, _ = nearest_volumes(test.volumes, bank, device)
    return found | {ORACLE: Method(bank, oracle[test.objects])}


def open_parts(config: Config, device: str) -> tuple[Protocol, Split, Split, Split]:
    """The protocol, and what is scored, validated and retrieved from."""
    protocol, data = open_asked(config)
    held_out = open_split(config, config.data.val_split)
    if not held_out.samples:
        raise ConfigError(
            f"data.val_split: {config.data.val_split!r} holds no images to search a threshold on"
        )
    train = open_split(config, config.data.train_split)
    kept = spread_views(data.samples, config.evaluate.views)
    splits = [(data, kept), *((d, list(range(len(d.samples)))) for d in (held_out, train))]
    parts = [Split(d, keep, open_volumes(config, d, device)) for d, keep in splits]
    return (protocol, *parts)  # type: ignore[return-value]
