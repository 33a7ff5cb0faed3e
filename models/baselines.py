# SPDX-License-Identifier: MIT
"""Predictors that learn little or nothing, to be beaten before a network means anything.

After Tatarchenko et al. (2019), "What Do Single-view 3D Reconstruction Networks Learn?": the mean
shape, the mean of a cluster, retrieval by image, and the oracle that sees the true shape.
"""

import warnings

import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from models.augment import MIRROR
from models.data.dataset import Sample
from pointloss import assign, chamfer
from pointloss.protocols import bounding_box, subset

# The methods' names in the tables. The floor is the truth against another sampling of itself.
RETRIEVAL, ORACLE, FLOOR = "nearest image", "oracle", "floor"
NAMES = ("mean shape", "cluster", RETRIEVAL, ORACLE)
THUMBNAIL = 32  # pixels: retrieval compares small images, which forgives small shifts


def mean_shape(
    clouds: Tensor, device: str, rounds: int = 2, limit: int = 128, seed: int = 0
) -> Tensor:
    """The mean [N, 3] of clouds [O, N, 3], both on the CPU: a free-support Wasserstein barycentre.

    Points of different clouds do not correspond, so each round matches the mean one to one with
    every cloud and averages what each point was matched with (Cuturi and Doucet, 2014, algorithm 2,
    here for unsquared distances). At most `limit` clouds, drawn by `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = clouds[torch.randperm(len(clouds), generator=generator)[:limit]]
    parts = chosen.to(device).split(16)
    mean: Tensor = parts[0][0]
    prices: list[Tensor | None] = [None] * len(parts)
    for _ in range(rounds):
        total = torch.zeros_like(mean)
        for i, part in enumerate(parts):
            # A gap of a tenth does: the average of a hundred matchings hides more than that.
            match = assign(mean.expand_as(part), part, rtol=0.1, price=prices[i])
            prices[i] = match.price
            total += torch.gather(part, 1, match.idx[..., None].expand(-1, -1, 3)).sum(dim=0)
        mean = total / len(chosen)
    return mean.cpu()


def occupancy(clouds: Tensor, cells: int = 8) -> Tensor:
    """Share of the points in each cell of a grid over [-0.5, 0.5]^3: [O, N, 3] -> [O, cells^3]."""
    cell = ((clouds + 0.5) * cells).long().clamp(0, cells - 1)
    number = (cell[..., 0] * cells + cell[..., 1]) * cells + cell[..., 2]  # [O, N]
    shares = torch.zeros(len(clouds), cells**3)
    return shares.scatter_add_(1, number, torch.full(number.shape, 1 / clouds.shape[1]))


def k_means(features: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """Cluster [O] of each row of features [O, F]: Lloyd's algorithm from rows drawn by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    first = features[torch.randperm(len(features), generator=generator)[:clusters]]
    with warnings.catch_warnings():  # a cluster may stay empty
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        _, member = kmeans2(features.numpy(), first.numpy(), iter=20, minit="matrix")
    return torch.from_numpy(member).long()


def cluster_shapes(clouds: Tensor, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The cluster [O] of each cloud and the mean shape [K, N, 3] of each, K = sqrt(O)."""
    member = k_means(occupancy(clouds).sqrt(), max(1, round(len(clouds) ** 0.5)), seed=seed)
    _, member = member.unique(return_inverse=True)  # no empty clusters
    groups = [clouds[member == k] for k in range(member.max() + 1)]
    with tqdm(groups, "means of the clusters", leave=False, disable=None) as bar:
        shapes = [mean_shape(group, device, limit=32, seed=seed) for group in bar]
    return member, torch.stack(shapes)


def thumbnails(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] -> [B, 3 * 32 * 32] or less, means over pixels."""
    size = min(THUMBNAIL, images.shape[-1])
    return F.adaptive_avg_pool2d(images, size).flatten(1)


def with_mirrored(clouds: Tensor, mirror: str) -> Tensor:
    """Clouds [O, N, 3], and after them their mirror images in `mirror`, "x" or "z": [2 O, N, 3].

    As they are for "none": what networks are trained with (augment.mirror), retrieval may use too.
    """
    if mirror == "none":
        return clouds
    return torch.cat([clouds, clouds * clouds.new_tensor(MIRROR[mirror])])


def nearest_images(
    queries: Tensor, train: DataLoader[Sample], device: str, mirrored: bool
) -> tuple[Tensor, Tensor]:
    """What a training image shows that is nearest (L2) to each thumbnail of queries [S, P].

    Returns:
        The training object [S] int64, and whether its image was flipped [S] bool, which it never
        is unless `mirrored`. Ties go to the image that comes first, not flipped.
    """
    queries = queries.to(device)
    best = torch.full((len(queries),), float("inf"), device=device)
    found = torch.zeros(len(queries), dtype=torch.int64, device=device)
    turned = torch.zeros(len(queries), dtype=torch.bool, device=device)
    with tqdm(train, "nearest images", leave=False, disable=None) as bar:
        for batch in bar:
            images, owners = batch.image.to(device), batch.object.to(device)
            for flip in (False, True) if mirrored else (False,):
                keys = thumbnails(images.flip(3) if flip else images)
                distance, row = torch.cdist(queries, keys).min(1)
                nearer = distance < best
                best = torch.where(nearer, distance, best)
                found = torch.where(nearer, owners[row], found)
                turned = torch.where(nearer, flip, turned)
    return found.cpu(), turned.cpu()


def nearest_shapes(truth: Tensor, train: Tensor, device: str, points: int = 512) -> Tensor:
    """The oracle: the training cloud [O] nearest to each true cloud, which no network may see.

    By Chamfer distance (unsquared) of `points` points, each cloud in its own box, without ICP.
    Clouds [O, N, 3] and [T, M, 3]. A protocol that judges by other points, after ICP or by EMD may
    rank the training clouds otherwise, so the oracle's score is no strict bound for retrieval.
    """
    truth, train = (
        subset(bounding_box(c).apply(c), points, seed).to(device)
        for seed, c in enumerate((truth, train))
    )
    found = []
    with tqdm(truth, "nearest shapes", leave=False, disable=None) as bar:
        for cloud in bar:
            every = [
                chamfer(
                    cloud.expand(len(part), -1, -1), part, squared=False, batch_reduction="none"
                )
                for part in train.split(256)
            ]
            found.append(torch.cat(every).argmin())
    return torch.stack(found).cpu()
