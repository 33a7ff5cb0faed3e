# SPDX-License-Identifier: MIT
"""DUSt3R's pointmaps: the network, its pairs of views, its scores, and global alignment."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from models import train
from models.alignment import Edges, align
from models.augment import PairAugmentation, mirror_pair, roll_pair
from models.config import Augment, ConfigError, load, override
from models.data.camera import Camera, intrinsics
from models.data.dataset import ReconstructionDataset
from models.data.maps import write_depth
from models.data.pairs import Pair, Pairs, turn
from models.networks.pointmap import PointmapNetwork, Pointmaps
from models.step import Step
from models.tasks import open_task, pointmap_baselines, pointmap_score
from models.tasks.pointmap_baselines import Guess, pose
from models.tasks.pointmap_score import Aligned, Pixels, alignment_table, deciles, judge
from pointloss import depth_to_points, pointmap_loss, transform_points

SIDE = 32  # pixels
VIEWS = (10.0, 40.0, 80.0, 135.0)  # azimuths
SHAPES = {"03001627": (0.3, 0.5, 0.3), "04379243": (0.5, 0.2, 0.4)}  # half axes of ellipsoids


def see(axes, camera):
    """Image [S, S, 4] uint8 and depth [S, S] of an ellipsoid around the origin."""
    pixel = np.arange(SIDE) + 0.5
    u, v = np.meshgrid(pixel, pixel)
    ray = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics(SIDE, SIDE)).T
    extrinsics = camera.extrinsics()
    rotation, moved = extrinsics[:, :3], extrinsics[:, 3]
    way, origin = ray @ rotation / axes, -(moved @ rotation) / axes
    a, b, c = (way**2).sum(-1), way @ origin, origin @ origin - 1
    inside = b**2 - a * c
    depth = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, 0)
    place = depth[..., None] * way + origin
    colours = 60 + 150 * (place * [1, 0.7, 0.9] + 1) / 2
    alpha = np.full((SIDE, SIDE, 1), 255) * (depth > 0)[..., None]
    return np.concatenate([colours * (alpha > 0), alpha], -1).astype(np.uint8), depth


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """10 ellipsoids, 4 views each: of each kind 3 train, 1 validates, 1 tests."""
    root = tmp_path_factory.mktemp("ellipsoids")
    splits = {"train": {}, "val": {}, "test": {}}
    for synset, shape in SHAPES.items():
        for number in range(5):
            key = f"{synset}/m{number}"
            split = {3: "val", 4: "test"}.get(number, "train")
            splits[split].setdefault(synset, []).append(key)
            axes = np.array(shape) * (0.8 + 0.05 * number)
            home, clouds = root / "ShapeNetRendering" / key, root / "ShapeNet_pointclouds" / key
            for folder in (home / "rendering", home / "depth", clouds):
                folder.mkdir(parents=True)
            np.save(clouds / "pointcloud_64.npy", np.zeros((64, 3), "<f2"))
            cameras = [Camera(azimuth, 27.0, 1.5) for azimuth in VIEWS]
            for view, camera in enumerate(cameras):
                image, depth = see(axes, camera)
                Image.fromarray(image).save(home / "rendering" / f"{view:02d}.png")
                write_depth(home / "depth" / f"{view:02d}.png", depth)
            lines = "".join(f"{camera.metadata()}\n" for camera in cameras)
            (home / "rendering" / "rendering_metadata.txt").write_text(lines)
    (root / "splits").mkdir()
    for split, table in splits.items():
        (root / "splits" / f"{split}_models.json").write_text(json.dumps(table))
    return root


@pytest.fixture(scope="module")
def pairs(root):
    return Pairs(ReconstructionDataset(root, "train", SIDE, 64), 15, 90)


def configure(root, **more):
    """The tiny config on the set at `root`; `more` as section_key=value."""
    values = {"data.root": json.dumps(str(root)), "data.image_size": SIDE, "network.points": 64}
    values |= {"optim.batch_size": 4, "optim.epochs": 1, "optim.epoch_steps": 2}
    values |= {"evaluate.views": 1, "pointmap.aligned": 1}
    values |= {key.replace("_", ".", 1): value for key, value in more.items()}
    config = load("models/configs/pointmap-tiny.toml")
    return override(config, [f"{key}={value}" for key, value in values.items()])


def some_pair():
    """Two views of two wavy walls, with exact points: the pair, and each view's intrinsics."""
    k = torch.tensor([[40.0, 0, 24], [0, 40, 24], [0, 0, 1]])
    wave = 0.1 * torch.linspace(0, 9, 48).sin()
    depth = torch.tensor([[1.5, 1.7], [2.0, 1.9]])[..., None, None] + wave + wave[:, None]
    x, y, z = 0.1, 0.5, 0.05
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    motion = torch.cat([torch.linalg.matrix_exp(skew), torch.tensor([[0.3], [0.1], [0.2]])], 1)
    motion = motion.expand(2, 3, 4)
    second = transform_points(depth_to_points(depth[:, 1], k), motion)
    points = torch.stack([depth_to_points(depth[:, 0], k), second], 1)
    image = torch.rand(2, 2, 4, 48, 48)
    return Pair(image, points, torch.ones(2, 2, 48, 48, dtype=torch.bool), motion), k


def off_pixels(pair, k, factor=None, right=0.0, down=0.0):
    """How far points appear from the pixels that they belong to, once zoom and shift are known."""
    own = pair.points.clone()
    own[:, 1] = transform_points(pair.points[:, 1], pair.motion, inverse=True)
    factor = torch.ones(2, 2) if factor is None else factor
    flat = (own @ k.T)[..., :2] / own[..., 2:]
    moved = torch.stack(torch.broadcast_tensors(*map(torch.as_tensor, (right, down))), -1)
    moved = moved.expand(2, 2, 2)[:, :, None, None]
    seen = (flat - 24) * factor[..., None, None, None] + 24 + 24 * moved
    pixel = torch.arange(48) + 0.5
    grid = torch.stack(torch.meshgrid(pixel, pixel, indexing="xy"), -1)
    return (seen - grid)[pair.mask].abs().max().item()


def test_pairs_are_turned_by_what_was_asked_and_lie_on_the_object(pairs):
    assert len(pairs) == 6 * 2 * 4  # 30, 40, 55 and 70 degrees, both ways
    assert pairs.angle.min() > 15
    expected = {30.0, 40.0, 55.0, 70.0}
    assert {round(angle) for angle in pairs.angle.tolist()} <= expected
    batch = pairs(torch.tensor([0, len(pairs) - 1]))
    assert batch.points.shape == (2, 2, SIDE, SIDE, 3)
    assert batch.image.shape == (2, 2, 4, SIDE, SIDE)
    first = pairs.views.extrinsics[pairs.index[[0, len(pairs) - 1], 0]]
    for row, (shape, number) in enumerate(((SHAPES["03001627"], 0), (SHAPES["04379243"], 2))):
        axes = torch.tensor(shape) * (0.8 + 0.05 * number)
        place = transform_points(batch.points[row], first[row], inverse=True)[batch.mask[row]]
        # Depth has steps of 1e-4, half an axis is 0.16.
        torch.testing.assert_close((place / axes).square().sum(-1), torch.ones(len(place)),
                                   rtol=0, atol=2e-3)  # fmt: skip
        assert not batch.points[row][~batch.mask[row]].any()
    assert pairs.name(0).startswith("03001627/m0/00-")
    assert len(pairs.spread(3)) == 18
    assert pairs.spread(0) == list(range(len(pairs)))


def test_a_set_without_depth_is_refused_with_the_cure(root, tmp_path):
    other = tmp_path / "set"
    other.symlink_to(root)
    config = configure("models/data/furniture", data_image_size=64, network_points=2048)
    with pytest.raises(ConfigError, match="without --no-geometry"):
        open_task(config, "cpu").check()
    with pytest.raises(ConfigError, match="no training object has two views"):
        open_task(configure(root, pointmap_least=1, pointmap_most=2), "cpu").batches()


def test_an_empty_validation_split_is_told_before_the_training(root, tmp_path, capsys):
    config = configure(root, data_val_split='"val"', pointmap_least=20)
    task = open_task(config, "cpu")
    task.batches()
    assert "no epoch is the best" not in capsys.readouterr().out
    config = configure(root, pointmap_least=20)
    task = open_task(config, "cpu")
    task.validation = Pairs(ReconstructionDataset(root, "val", SIDE, 64), 1, 2)  # none
    task.batches()
    assert "data.val_split: 'val' holds no pairs" in capsys.readouterr().out
    assert task.validate(None) == {}


def test_a_mirrored_pair_is_still_what_its_cameras_see():
    pair, k = some_pair()
    assert off_pixels(pair, k) < 1e-4
    mirrored = mirror_pair(pair)
    assert off_pixels(mirrored, k) < 1e-4
    assert torch.equal(mirrored.image.flip(4), pair.image)
    torch.testing.assert_close(torch.linalg.det(mirrored.motion[:, :, :3]), torch.ones(2))


def test_a_rolled_pair_is_still_what_its_cameras_see():
    pair, k = some_pair()
    factor = torch.tensor([1.1, 0.95, 1.0, 1.05])
    right, down = torch.tensor([0.1, -0.05, 0.0, 0.1]), torch.tensor([0.0, 0.1, -0.1, 0.02])
    angle = torch.tensor([0.3, -0.2, 0.1, 0.25])
    rolled = roll_pair(pair, factor, right, down, angle)
    assert 0.5 < rolled.mask.float().mean() < 1
    # Points are those of the nearest pixel: half a pixel either way, seen obliquely and zoomed.
    shape = (2, 2)
    off = off_pixels(rolled, k, factor.view(shape), right.view(shape), down.view(shape))
    assert off < 0.5 * 2**0.5 * 1.1 + 0.05


def test_augmentation_keeps_pairs_true_and_blanks_one_view():
    pair, _ = some_pair()
    nothing = Augment(mirror="none", brightness=0, contrast=0, scale=0, shift=0, colours=False,
                      background=0)  # fmt: skip
    pair.image[:, :, 3] = 1
    same = PairAugmentation(nothing, 0, 0)
    image, out = same(pair, torch.rand(2, same.draws))
    torch.testing.assert_close(image, pair.image[:, :, :3], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.points, pair.points)
    blank = PairAugmentation(nothing, 0, 1)
    draws = torch.rand(2, blank.draws)
    draws[:, 4] = torch.tensor([0.1, 0.9])
    image, out = blank(pair, draws)
    assert out.mask.flatten(2).any(2).tolist() == [[False, True], [True, False]]
    assert (image[0, 0] == 1).all()
    assert (image[1, 1] == 1).all()
    assert image[0, 1].std() > 0.1


def test_the_network_sees_both_images(device):
    network = PointmapNetwork("tiny", SIDE).to(device)
    image = torch.rand(2, 2, 3, SIDE, SIDE, device=device)
    out = network(image)
    assert out.points.shape == (2, 2, SIDE, SIDE, 3)
    assert out.confidence.shape == (2, 2, SIDE, SIDE)
    assert out.points[..., 2].mean() > 0.5  # a plane before the camera
    other = network(torch.stack([image[:, 0], torch.rand_like(image[:, 1])], 1))
    assert (other.points[:, 0] - out.points[:, 0]).abs().mean() > 1e-4  # cross-attention
    with pytest.raises(ValueError, match="multiple of 8"):
        PointmapNetwork("tiny", 30)
    with torch.autocast(device.type, torch.bfloat16):
        assert network(image).points.dtype == torch.float32


def test_what_is_masked_trains_nothing():
    network = PointmapNetwork("tiny", SIDE)
    out = network(torch.rand(1, 2, 3, SIDE, SIDE))
    mask = torch.zeros(1, 2, SIDE, SIDE, dtype=torch.bool)
    mask[:, 0, 8:20, 8:20] = True
    truth = torch.rand(1, 2, SIDE, SIDE, 3)
    for part in out:
        part.retain_grad()
    pointmap_loss(out.points, truth, confidence=out.confidence, mask=mask).backward()
    for part in out:
        assert part.grad[mask].abs().min() > 0
        assert not part.grad[~mask].any()


def steps(config, device, count):
    """The numbers of `count` steps on the same pairs."""
    task = open_task(config, device)
    ((_, inputs), *_) = task.batches()
    run = train.begin(task)
    step = Step(run.trained, run.trained.network, task)
    values = []
    for _ in range(count):
        torch.manual_seed(0)  # of the augmentation
        values.append(step(inputs, config.optim.lr).cpu())
    return torch.stack(values), step.names


def test_the_loss_falls_in_a_few_steps(root):
    values, names = steps(configure(root, pointmap_blank=0, pointmap_roll=0), "cpu", 12)
    assert names == ("loss", "distance", "norm")
    assert values.isfinite().all()
    assert values[-3:, 1].mean() < 0.8 * values[0, 1]


def test_a_captured_step_is_the_step(root, cuda):
    values, _ = steps(configure(root, optim_graph="true"), "cuda", 3)
    expected, _ = steps(configure(root, optim_graph="false"), "cuda", 3)
    torch.testing.assert_close(values, expected, rtol=2e-3, atol=2e-3)


def test_turns_are_exact_also_when_they_are_small():
    for degrees in (1e-3, 20.0, 179.0):
        angle = torch.deg2rad(torch.tensor(degrees))
        cos, sin = angle.cos(), angle.sin()
        matrix = torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        assert turn(matrix).item() == pytest.approx(degrees, rel=1e-4)


def test_scores_of_the_truth_and_of_a_pose_that_is_off(pairs):
    numbers = torch.tensor([0, 20])
    pair = pairs(numbers)
    perfect = judge(Guess(3 * pair.points, pair.motion), pair)
    torch.testing.assert_close(
        perfect, torch.tensor([[0.0, 0, 1, 1]] * 2).double(), rtol=0, atol=1e-2
    )
    own = pairs.views.points(pairs.index[numbers, 1])
    found = pose(own, pair.points[:, 1], pair.mask[:, 1])
    assert turn(found[:, :, :3] @ pair.motion[:, :, :3].mT).max() < 0.05
    angle = torch.deg2rad(torch.tensor(20.0))
    turned = torch.tensor(
        [[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]]
    )
    wrong = pair.motion.clone()
    wrong[:, :, :3] = turned @ wrong[:, :, :3]
    found = judge(Guess(pair.points, wrong), pair)
    torch.testing.assert_close(found[:, 1], torch.full((2,), 20.0).double(), rtol=0, atol=1e-2)
    assert found[:, 2].tolist() == [0, 0]
    assert found[:, 3].tolist() == [1, 1]


def test_baselines_know_what_they_are_given(pairs):
    numbers = torch.tensor([1, 30])
    pair = pairs(numbers)
    retrieved = pointmap_baselines.retrieval_guesser(pairs, mirrored=True)
    found = retrieved(pair, numbers)  # the pair itself is in the training split
    torch.testing.assert_close(found.points[pair.mask], pair.points[pair.mask])
    assert found.points[~pair.mask].norm(dim=-1).min() > 0.5  # of the nearest pixel that sees
    mirrored = mirror_pair(pair)
    found = retrieved(mirrored, numbers)
    torch.testing.assert_close(found.points[mirrored.mask], mirrored.points[mirrored.mask])
    torch.testing.assert_close(found.motion, mirrored.motion)
    for guesser in (pointmap_baselines.plane_guesser(pairs),
                    pointmap_baselines.category_guesser(pairs, pairs)):  # fmt: skip
        guess = guesser(pair, numbers)
        error = judge(guess, pair)[:, 0]
        assert 0.01 < error.max() < 0.6
    plane = pointmap_baselines.plane_guesser(pairs)(pair, numbers).points[:, 0, ..., 2]
    depth = pairs.views.depth[pairs.index[1, 0]]
    assert (plane[0] == depth[depth > 0].median()).all()


def test_views_asked_about_alone_are_placed_by_the_true_pose(pairs):
    pair = pairs(torch.tensor([1, 30]))
    own = transform_points(pair.points[:, 1], pair.motion, inverse=True)
    truths = [pair.points[:, 0], own]

    def network(image):  # knows the shape of a view that stands alone, in a unit of its own
        assert (image[:, 1] == 1).all()
        view = [torch.equal(image[:, 0], pair.image[:, v, :3]) for v in (0, 1)].index(True)
        points = (3 + view) * truths[view]
        return Pointmaps(torch.stack([points, points], 1), torch.zeros(2, 2, SIDE, SIDE))

    found = pointmap_baselines.blanked_posed_guesser(network)(pair, torch.tensor([1, 30]))
    torch.testing.assert_close(found.points[pair.mask], pair.points[pair.mask])
    assert torch.equal(found.motion, pair.motion)


def test_the_gain_of_an_alignment_has_the_error_of_pairs():
    # The objects differ by far more than the gains do.
    aligned = [
        Aligned(
            f"o{n}",
            4,
            {"spanning tree": 0.2 * n, "global alignment": 0.2 * n - 0.04 - 0.02 * (n % 2)},
            {"spanning tree": 0.5, "global alignment": 0.7 + 0.1 * (n % 2)},
        )
        for n in range(1, 9)
    ]
    lines = alignment_table(aligned)[-1].split("\n")
    tree, _, gain = ([c.strip() for c in line.strip("|").split("|")] for line in lines[2:])
    # Of 8 objects, with replacement: a deviation of 0.2 * 2.29 and of 0.01, over the root of 8.
    assert tree == ["spanning tree", "0.90 ± 0.16", "0.50 ± 0.00"]
    assert gain[1].startswith("-0.0500 ± 0.003")
    assert gain[2].startswith("+0.250 ± 0.01")


def test_deciles_go_from_the_least_sure_to_the_most():
    confidence = torch.randperm(1000).float()
    assert deciles(Pixels(confidence, 1000 - confidence)) == pytest.approx(
        [950.5 - 100 * n for n in range(10)]
    )


def edges_of(noise=0.0, views=5, points=200, shift=1):
    """Exact pairwise pointmaps, in random units, of views around random points; the motions too."""
    generator = torch.Generator().manual_seed(0)
    cloud = torch.rand(views, points, 3, generator=generator) - 0.5
    cameras = [Camera(50.0 * view, 27.0, 1.5).extrinsics() for view in range(views)]
    extrinsics = torch.from_numpy(np.stack(cameras)).float()
    pairs = [(n, m) for n in range(views) for m in range(views) if 0 < abs(n - m) <= shift]
    maps = torch.stack([
        torch.stack([transform_points(cloud[v], extrinsics[n]) for v in (n, m)])
        * (0.5 + torch.rand(1, generator=generator))
        for n, m in pairs
    ])  # fmt: skip
    maps = maps + noise * torch.randn(maps.shape, generator=generator)
    weights = 1 + torch.rand(maps.shape[:3], generator=generator)
    rotation = extrinsics[:1, :, :3] @ extrinsics[:, :, :3].mT
    moved = extrinsics[:1, :, 3:] - rotation @ extrinsics[:, :, 3:]
    truth = transform_points(cloud.flatten(0, 1), extrinsics[0]).view_as(cloud)
    return Edges(torch.tensor(pairs), maps, weights), torch.cat([rotation, moved], 2), truth


@pytest.mark.parametrize("count", [0, 100])
def test_alignment_finds_known_cameras_from_exact_pointmaps(count):
    edges, motion, truth = edges_of()
    edges.points[0, 0, :5], edges.weights[0, 0, :5] = 7, 0  # pixels that see nothing
    found = align(edges, steps=count)
    assert turn(found.motion[:, :, :3] @ motion[:, :, :3].mT).max() < 0.05
    size = truth.norm(dim=-1).mean() / found.points.norm(dim=-1).mean()
    torch.testing.assert_close(size * found.points, truth, rtol=0, atol=2e-3)
    torch.testing.assert_close(size * found.motion[:, :, 3], motion[:, :, 3], rtol=0, atol=2e-3)


def test_alignment_descends_where_pointmaps_disagree():
    edges, motion, truth = edges_of(noise=0.02, shift=2)
    start, found = align(edges, steps=0), align(edges, steps=60)
    assert found.loss[-1] < 0.95 * found.loss[0]
    off = []
    for one in (start, found):
        size = truth.norm(dim=-1).mean() / one.points.norm(dim=-1).mean()
        off.append((size * one.points - truth).norm(dim=-1).mean())
    assert off[1] < off[0]


def test_alignment_says_what_it_cannot_place():
    edges, _, _ = edges_of(views=4)
    chosen = torch.tensor([0, 1, 4, 5])  # 0-1 and 2-3
    with pytest.raises(ValueError, match="connect 2 of the 4 views"):
        align(Edges(*(part[chosen] for part in edges)))
    with pytest.raises(ValueError, match="each of the 4 views must be the first of an edge"):
        align(Edges(*(part[:-1] for part in edges)))


def test_a_run_trains_scores_and_draws(root, tmp_path, monkeypatch, one_cpu_thread):
    monkeypatch.setattr(pointmap_score, "STEPS", 2)
    out = tmp_path / "run"
    config = "models/configs/pointmap-tiny.toml"
    words = ["data.root", "data.image_size", "network.points", "optim.batch_size"]
    words += ["optim.epochs", "optim.epoch_steps", "evaluate.views", "pointmap.aligned"]
    values = [json.dumps(str(root)), SIDE, 64, 4, 1, 2, 1, 1]
    chosen = [w for k, v in zip(words, values, strict=True) for w in ("--set", f"{k}={v}")]
    assert train.main(["--config", config, "--out", str(out), *chosen]) == 0
    results = json.loads((out / "results.json").read_text())
    methods = {row["method"] for row in results["rows"]}
    assert methods == {"pointmap", pointmap_baselines.BLANKED, pointmap_baselines.BLANKED_POSED,
                       pointmap_baselines.RETRIEVAL, pointmap_baselines.CATEGORY,
                       pointmap_baselines.PLANE}  # fmt: skip
    pairs = json.loads((out / "pairs.json").read_text())
    assert len(pairs["deciles"]) == 10
    assert len(pairs["pairs"]) == 2
    assert set(pairs["aligned"][0]["error"]) == {"spanning tree", "global alignment"}
    for name in ("reconstructions.png", "alignments.png", "loss_curves.png", "results.csv"):
        assert (out / name).stat().st_size > 0
    assert "## Confidence" in (out / "results.md").read_text()
