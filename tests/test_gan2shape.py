# SPDX-License-Identifier: MIT
"""GAN2Shape: its surface seen by rays, the autoencoder's task, the GAN and the three steps."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from models import predict, train
from models.config import ConfigError, load, override, to_dict
from models.data.camera import Camera, intrinsics
from models.data.dataset import ReconstructionDataset
from models.data.maps import write_depth, write_normal
from models.data.renders import field_of_view, read_renders
from models.gan2shape import fit, score, train_gan
from models.gan2shape.replay import Replayed
from models.gan2shape.stylegan import (
    Discriminator,
    Generator,
    Linear,
    equalised,
    feature_distance,
)
from models.gan2shape.surfaces import Reliefs
from models.networks import gan2shape as networks
from models.networks.gan2shape import (
    Parts,
    PhotoGeometric,
    in_solid,
    lamp,
    march,
    pose_of,
    towards,
    turn,
    under_relief,
)
from models.tasks import gan2shape_baselines, gan2shape_score, open_task
from models.tasks.gan2shape import Varied, image_distance, to_uniform
from pointloss import depth_to_normals, depth_to_points, rerender

pytestmark = pytest.mark.usefixtures("one_cpu_thread")

SIDE, FOV, DISTANCE = 16, 15.0, 4.4
VIEWS = (30.0, 75.0, 140.0)  # azimuths


def see(axes, camera):
    """Image [S, S, 4] uint8, depth [S, S] and normals [S, S, 3] of an ellipsoid around 0."""
    pixel = np.arange(SIDE) + 0.5
    u, v = np.meshgrid(pixel, pixel)
    ray = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics(SIDE, SIDE, FOV)).T
    extrinsics = camera.extrinsics()
    rotation, moved = extrinsics[:, :3], extrinsics[:, 3]
    way, origin = ray @ rotation / axes, -(moved @ rotation) / axes
    a, b, c = (way**2).sum(-1), way @ origin, origin @ origin - 1
    inside = b**2 - a * c
    depth = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, 0)
    place = depth[..., None] * way + origin
    normal = place / axes @ rotation.T
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True) * (depth > 0)[..., None]
    colours = 60 + 150 * (place * [1, 0.7, 0.9] + 1) / 2
    alpha = np.full((SIDE, SIDE, 1), 255) * (depth > 0)[..., None]
    return np.concatenate([colours * (alpha > 0), alpha], -1).astype(np.uint8), depth, normal


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """5 ellipsoids, 3 views each, from the front: 3 train, 1 validates, 1 tests."""
    root = tmp_path_factory.mktemp("ellipsoids")
    splits = {"train": {}, "val": {}, "test": {}}
    for number in range(5):
        key = f"04256520/m{number}"
        split = {3: "val", 4: "test"}.get(number, "train")
        splits[split].setdefault("04256520", []).append(key)
        axes = np.array([0.48, 0.25, 0.35]) * (1 - 0.04 * number)
        home, clouds = root / "ShapeNetRendering" / key, root / "ShapeNet_pointclouds" / key
        for folder in (home / "rendering", home / "depth", home / "normal", clouds):
            folder.mkdir(parents=True)
        np.save(clouds / "pointcloud_64.npy", np.zeros((64, 3), "<f2"))
        cameras = [Camera(azimuth, 10.0, DISTANCE) for azimuth in VIEWS]
        for view, camera in enumerate(cameras):
            image, depth, normal = see(axes, camera)
            Image.fromarray(image).save(home / "rendering" / f"{view:02d}.png")
            write_depth(home / "depth" / f"{view:02d}.png", depth)
            write_normal(home / "normal" / f"{view:02d}.png", normal)
        lines = "".join(f"{camera.metadata()}\n" for camera in cameras)
        (home / "rendering" / "rendering_metadata.txt").write_text(lines)
    (root / "splits").mkdir()
    for split, table in splits.items():
        (root / "splits" / f"{split}_models.json").write_text(json.dumps(table))
    manifest = {"image": {"fov": FOV}, "frame": {"front": "+z"}, "objects": []}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def configure(root, name="gan2shape-tiny", **more):
    """A config on the set at `root`; `more` as section_key=value."""
    values = {"data.root": json.dumps(str(root)), "data.image_size": SIDE, "network.points": 64}
    values |= {"optim.batch_size": 4, "optim.epochs": 1, "optim.epoch_steps": 2}
    values |= {"network.preset": "tiny", "gan.width": 16}
    values |= {key.replace("_", ".", 1): value for key, value in more.items()}
    return [f"{key}={value}" for key, value in values.items()], f"models/configs/{name}.toml"


def made(root, **more):
    words, path = configure(root, **more)
    return override(load(path), words)


def meet(depth, view, steps=48):
    """Points [B, H, W, 3] and depths [B, H, W] where rays meet a depth map."""
    met = march(under_relief(depth, FOV), pose_of(view), depth.shape[-1], FOV, steps)
    return met.points, met.depth


def test_rays_meet_a_surface_where_it_is():
    """Against the closed form: a plane through the centre, turned, scaled and moved."""
    view = torch.tensor([[0.5, 0.2, 0.1, 0.01, -0.02]], dtype=torch.float64)
    depth = torch.ones(1, 64, 64, dtype=torch.float64)
    points, found = meet(depth, view, 32)
    normal = turn(view[:, 0], view[:, 1])[0] @ torch.tensor([0, 0, 1.0]).double()
    k = intrinsics(64, 64, FOV)
    ray = depth_to_points(torch.ones(64, 64).double(), torch.from_numpy(k))
    centre = torch.tensor([0.01, -0.02, 1.0]).double()
    expected = (centre @ normal) / (ray @ normal)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-9)
    assert (points[0, ..., 2] - 1).abs().max() < 1e-9


def test_rays_agree_with_the_splatted_surface():
    """pointloss.rerender spreads points; where it leaves no gaps both see the same depth."""
    wave = 0.02 * torch.linspace(0, 6, 64).sin()
    depth = (1 + wave + wave[:, None])[None]
    view = torch.tensor([[0.15, -0.1, 0.0, 0.0, 0.0]])
    pose = pose_of(view)
    centre = torch.tensor([0.0, 0.0, 1.0])
    motion = torch.cat([pose[:, :, :3], (centre - pose[0, :, :3] @ centre)[None, :, None]], 2)
    lens = networks.intrinsics(64, FOV)
    splat = rerender(depth, depth[:, None], lens, motion)
    inner = splat.coverage[0, 12:-12, 12:-12] > 0.5
    _, found = meet(depth, view)
    off = (found[0, 12:-12, 12:-12] - splat.depth[0, 12:-12, 12:-12])[inner].abs()
    assert off.mean() < 5e-4


def test_the_gradient_of_what_rays_meet_is_that_of_differences():
    torch.manual_seed(0)
    ramp = torch.linspace(-0.03, 0.03, 16, dtype=torch.float64)
    depth = (1 + ramp**2 * 20 + ramp[:, None] * 0.3)[None]
    view = torch.tensor([[0.4, 0.1, 0.05, 0.005, 0.004]], dtype=torch.float64, requires_grad=True)
    weight = torch.zeros(16, 16, dtype=torch.float64)
    weight[5:11, 5:11] = torch.rand(6, 6, dtype=torch.float64)

    def value(v):
        return (meet(depth, v)[1][0] * weight).sum()

    (slope,) = torch.autograd.grad(value(view), view)
    for place in range(5):
        step = torch.zeros_like(view)
        step[0, place] = 4e-3  # above the rounding of the halvings, 2e-5
        with torch.no_grad():
            difference = (value(view + step) - value(view - step)) / 8e-3
        assert slope[0, place].item() == pytest.approx(difference.item(), rel=0.06, abs=0.05)


def test_rays_meet_a_ball_where_it_is_and_fade_at_its_outline():
    """Against the closed form, moved and scaled."""
    network, side = PhotoGeometric("tiny", 64, FOV).double(), 64
    view = torch.tensor([[0.6, 0.2, 0.1, 0.01, -0.02]], dtype=torch.float64)
    radius = torch.full((1, side, side), 0.07, dtype=torch.float64)
    white = torch.ones(1, 3, side, side, dtype=torch.float64)
    light = lamp(torch.zeros(1, 2).double())
    seen = network.see(Parts(radius, white, view, light), pose_of(view), light)
    ray = depth_to_points(torch.ones(side, side).double(), network.lens)
    centre, large = torch.tensor([0.01, -0.02, 1.0]).double(), 0.07 * math.exp(0.1)
    a, b = ray.square().sum(2), ray @ centre
    root = b.square() - a * (centre.square().sum() - large**2)
    hit = root > 0
    expected = (b - root.clamp(min=0).sqrt()) / a
    inner = root > 2e-4  # a map of 64 pixels is not quite a ball; flat rays meet it elsewhere
    torch.testing.assert_close(seen.depth[0][inner], expected[inner], rtol=0, atol=5e-5)
    assert ((seen.image[0, 3] > 0.5) != hit).sum() <= 4
    edge = (seen.image[0, 3] > 0.05) & (seen.image[0, 3] < 0.95)
    assert edge.sum() > 2 * math.pi * 15
    # What faces the lamp is bright, what does not has the ambient light.
    assert seen.image[0, 0][inner].max() == pytest.approx(1, abs=1e-3)


def test_the_gradient_of_a_solid_is_that_of_differences():
    torch.manual_seed(0)
    network = PhotoGeometric("tiny", SIDE, FOV).double()
    network.steps = 48
    waves = torch.nn.functional.interpolate(
        torch.randn(3, 1, 4, 4, dtype=torch.float64), size=(SIDE, SIDE), mode="bicubic"
    )[:, 0]
    radius = (0.07 * (1 + 0.1 * waves[:1])).requires_grad_()
    view = torch.tensor([[0.4, 0.15, 0.1, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    grey = torch.full((1, 3, SIDE, SIDE), 0.5, dtype=torch.float64)
    light = lamp(torch.tensor([[0.3, -0.4]], dtype=torch.float64))

    def value(r, v):
        seen = network.see(Parts(r, grey, v, light), pose_of(v), light)
        return (seen.image[0, 3] * waves[1]).sum()

    slopes = torch.autograd.grad(value(radius, view), (radius, view))
    with torch.no_grad():
        step = 1e-3 * waves[2:]
        found = (slopes[0] * step).sum()
        difference = (value(radius + step, view) - value(radius - step, view)) / 2
        assert found.item() == pytest.approx(difference.item(), rel=0.03)
        for place in range(3):
            step = torch.zeros_like(view)
            step[0, place] = 1e-3
            difference = (value(radius, view + step) - value(radius, view - step)) / 2e-3
            assert slopes[1][0, place].item() == pytest.approx(
                difference.item(), rel=0.05, abs=0.02
            )


def test_a_map_over_directions_gives_each_direction_its_own_pixel():
    way = towards(16)
    numbers = torch.arange(256.0).view(1, 16, 16)
    points = (way + torch.tensor([0.0, 0, 1]))[None, None]
    found = in_solid(numbers)(points)[0, 0] + 1
    disc = torch.linalg.norm(torch.stack(torch.meshgrid(
        *(2 * [(torch.arange(16) + 0.5) / 8 - 1]), indexing="ij")), dim=0) < 0.95  # fmt: skip
    torch.testing.assert_close(found[disc], numbers[0][disc], rtol=0, atol=0.02)


def test_a_mirrored_image_has_the_opposite_yaw():
    torch.manual_seed(0)
    network = PhotoGeometric("tiny", SIDE, FOV)
    torch.nn.init.normal_(network.view.last.weight)
    image = torch.rand(3, 4, SIDE, SIDE)
    one, two = network.viewpoint(image), network.viewpoint(image.flip(3))
    sign = torch.tensor([-1.0, 1, 1, -1, 1])
    torch.testing.assert_close(two, one * sign)


def test_training_sees_the_opposite_yaw_and_the_mirrored_maps():
    """Both at once give the mirrored image, under a light from the camera."""
    torch.manual_seed(0)
    network = PhotoGeometric("tiny", SIDE, FOV).train()
    image = torch.rand(2, 4, SIDE, SIDE)
    parts = network.parts(image)
    view = torch.tensor([[0.5, 0.2, 0.1, 0.01, -0.02]]).expand(2, 5)
    waves = torch.nn.functional.interpolate(torch.randn(2, 1, 4, 4), size=(SIDE, SIDE))[:, 0]
    parts = parts._replace(
        shape=parts.shape * (1 + 0.1 * waves), view=view, light=lamp(0 * view[:, :2])
    )
    one = network.see(parts, pose_of(view), parts.light)
    two = network.see(networks.mirror(parts), pose_of(view * network.opposite), parts.light)
    torch.testing.assert_close(one.image, two.image.flip(3), rtol=0, atol=1e-3)
    out = network(image)
    assert out.other.shape == out.flipped.shape == image.shape
    assert network.eval()(image).other is None


def test_the_surface_learns_from_the_better_sign_of_the_yaw(root):
    task = open_task(made(root), "cpu")
    network = task.build()
    image = torch.rand(2, 4, SIDE, SIDE)
    out = network.train()(image)
    view = out.parts.view.detach().clone().requires_grad_()
    view.data[:, 0] = torch.tensor([0.4, -0.2])
    worse = image + torch.tensor([0.5, 0.25])[:, None, None, None]
    other = torch.stack([image[0], worse[1] + 1])  # right for the first image
    out = out._replace(image=worse, other=other, parts=out.parts._replace(view=view))
    found = task.loss(task.objective(network), out, Varied(image, image[:, 0]))
    assert found["image"].item() == pytest.approx(3 * 0.25 / 2, abs=1e-5)
    assert found["side"].item() == pytest.approx(0.4 / 2)
    (slope,) = torch.autograd.grad(found["side"], view)
    assert slope[:, 0].tolist() == [0.5, 0]


def test_the_cameras_distribution_is_met_by_a_uniform_sample():
    values = torch.linspace(-1, 1, 201)[1::2]
    assert to_uniform(values[torch.randperm(100)], -1, 1) < 1e-6
    assert to_uniform(torch.zeros(100), -1, 1) == pytest.approx(0.5)
    assert image_distance(torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)).tolist() == [3, 3]


def test_the_ellipsoid_in_the_mask_is_a_ball_on_a_disc():
    side = 64
    pixel = 2 * math.tan(math.radians(FOV) / 2) / side
    place = torch.arange(side) + 0.5 - side / 2
    square = place**2 + place[:, None] ** 2
    image = torch.ones(1, 4, side, side)
    image[0, 3] = (square < 20**2).float()
    ball = 1 - pixel * (400 - square).clamp(min=0).sqrt()
    for guess in (gan2shape_baselines.ellipsoid, gan2shape_baselines.inflated):
        off = (guess(image, FOV)[0] - ball)[square < 18**2].abs().max()
        assert off < 1.5 * pixel


def test_the_truth_of_a_set_is_read_in_units_of_the_distance(root):
    data = ReconstructionDataset(root, "test", SIDE, 64)
    views = read_renders(data, depth=True, normal=True)
    assert field_of_view(data) == pytest.approx(FOV, abs=1e-3)
    assert torch.rad2deg(views.yaw).tolist() == pytest.approx([60, 15, -50], abs=1e-3)
    lens = networks.intrinsics(SIDE, FOV)
    score_ = gan2shape_score.judge(views.depth, views, torch.arange(3), lens)
    assert score_[:, 0].max() < 1e-3
    assert score_[:, 1].max() < 12  # differences over three pixels of a ball of 16 pixels


def test_a_view_turned_to_the_left_has_a_positive_yaw(root):
    """The networks' yaw and the set's: a side that is near in the image is near in the surface."""
    data = ReconstructionDataset(root, "test", SIDE, 64)
    views = read_renders(data, depth=True, normal=True)
    # The ellipsoid is wide and flat, so in a view from its left (+x) the right part is farther.
    x = torch.linspace(-0.09, 0.09, SIDE)
    flat = (1 + 0 * x).expand(SIDE, SIDE)[None]
    _, depth = meet(flat, torch.tensor([[views.yaw[0].item(), 0, 0, 0, 0]]))
    row = views.depth[0][SIDE // 2]
    seen = row[row > 0]
    assert (depth[0, 8, -3] - depth[0, 8, 2]).sign() == (seen[-1] - seen[0]).sign()


def run(root, out, **more):
    words, path = configure(root, **more)
    sets = [word for pair in words for word in ("--set", pair)]
    return train.main(["--config", path, "--out", str(out), "--device", "cpu", *sets])


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(root, out) == 0
    return out


def test_a_tiny_run_writes_its_tables_and_pictures(trained, root):
    text = (trained / "results.md").read_text()
    for name in ("plane", "ellipsoid in the mask", "inflated mask", "category's mean, true depth"):
        assert f"| {name}" in text
    assert "error of the yaw" in text
    for name in ("reconstructions.png", "reconstructions.gif", "views.json", "best.pt"):
        assert (trained / name).stat().st_size > 0
    supervised = made(root, gan2shape_w_depth=1.0, gan2shape_beside=json.dumps(str(trained)))
    task = open_task(supervised, "cpu")
    network = task.build().eval()
    state = {
        "network": network.state_dict(),
        "history": [],
        "config": to_dict(supervised),
    }
    scored = gan2shape_score.score(supervised, network, state, "cpu")
    assert list(scored.values)[:2] == ["supervised, true depth", "autoencoder"]


def test_a_supervised_run_learns_depth(root, tmp_path):
    assert run(root, tmp_path / "run", gan2shape_w_depth=1.0, optim_epochs=2) == 0
    assert "supervised, true depth" in (tmp_path / "run" / "results.md").read_text()


def test_a_picture_gives_depth_normals_and_a_turntable(trained, root, tmp_path):
    image = root / "ShapeNetRendering/04256520/m4/rendering/00.png"
    run = tmp_path / "best epoch alone"
    run.mkdir()
    shutil.copy(trained / "best.pt", run)
    words = [str(image), "--weights", str(run), "--out", str(tmp_path), "--device", "cpu"]
    assert predict.main(words) == 0
    for suffix in ("png", "gif", "ply"):
        assert (tmp_path / f"00.{suffix}").stat().st_size > 0
    with np.load(tmp_path / "00.npz") as file:
        assert file["depth"].shape == (SIDE, SIDE)
        inside = ~np.isnan(file["depth"])
        length = np.linalg.norm(file["normal"], axis=-1)
        assert inside.any()
        assert not length[~inside].any()
        assert np.isclose(length[inside], 1, atol=1e-5).mean() > 0.9  # a lone pixel has none


def test_a_set_with_another_lens_is_refused(root):
    config = made(root, gan2shape_fov=20.0)
    with pytest.raises(ConfigError, match="15 degrees across, not 20"):
        open_task(config, "cpu").check()


def test_the_discriminator_tells_images_apart_by_its_features():
    torch.manual_seed(0)
    critic, image = Discriminator(SIDE, 16), torch.rand(4, 4, SIDE, SIDE)
    assert feature_distance(critic, image, image).tolist() == [0, 0, 0, 0]
    assert (feature_distance(critic, image, 1 - image) > 0).all()
    generator = Generator(SIDE, 16)
    z = torch.randn(4, 16)
    assert generator(z).shape == (4, 4, SIDE, SIDE)
    w = generator.mapping(z)
    torch.testing.assert_close(generator.mapping.part(w, 8), w)


def test_rates_of_scaled_weights_are_equalised_learning():
    """Adam on weights of variance 1 that are scaled in the pass: the same layer, step by step."""
    torch.manual_seed(0)
    layer = Linear(9, 5, gain=2.0, rate=0.1)
    scale = 2 / 3 * 0.1
    plain = (layer.weight.detach() / scale).requires_grad_(True)
    offset = (layer.bias.detach() / 0.1).requires_grad_(True)
    ours = torch.optim.Adam(equalised(layer, 0.01), eps=0)
    theirs = torch.optim.Adam([plain, offset], 0.01, eps=0)
    for _ in range(3):
        x, wanted = torch.randn(4, 9), torch.randn(4, 5)
        outs = layer(x), torch.nn.functional.linear(x, plain * scale, offset * 0.1)
        torch.testing.assert_close(*outs)
        for out, optimiser in zip(outs, (ours, theirs), strict=True):
            optimiser.zero_grad()
            (out - wanted).square().sum().backward()
            optimiser.step()


def test_real_and_made_images_share_a_pass_of_the_discriminator():
    torch.manual_seed(0)
    critic, images = Discriminator(SIDE, 16), torch.rand(8, 4, SIDE, SIDE)
    both = torch.cat([critic(part) for part in images.split(4)])
    torch.testing.assert_close(critic(images), both)


def test_a_replayed_step_does_what_python_does(device):
    torch.manual_seed(0)
    found = []
    for graph in (False, True):
        x = torch.ones(3, device=device, requires_grad=True)
        cuda = device.type == "cuda"
        optimiser = torch.optim.Adam([x], 0.1, fused=cuda, capturable=cuda)

        def step(x=x, optimiser=optimiser):
            loss = (x - 2).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.detach()

        replayed = Replayed(step, [optimiser], str(device), graph)
        found.append(torch.stack([replayed() for _ in range(6)]).cpu())
    torch.testing.assert_close(*found)
    assert found[0][-1] < found[0][0]


@pytest.fixture(scope="module")
def gan(root, tmp_path_factory):
    """A run of train_gan, a few steps long."""
    out = tmp_path_factory.mktemp("gan")
    words, path = configure(root, "gan2shape-gan", gan_steps=3, gan_every=2)
    command = ["--config", path, "--out", str(out), "--device", "cpu", "--set", *words]
    assert train_gan.main(command) == 0
    return out


def test_a_gan_goes_on_from_the_networks_of_another_run(gan, root, tmp_path):
    for name in ("generator.pt", "discriminator.pt", "samples.png", "nearest.png"):
        assert (gan / name).stat().st_size > 0
    words, path = configure(
        root, "gan2shape-gan", gan_start=json.dumps(str(gan)), gan_steps=4, gan_lr=1e-9
    )
    command = ["--config", path, "--out", str(tmp_path), "--device", "cpu", "--set", *words]
    assert train_gan.main(command) == 0
    for name in ("generator.pt", "discriminator.pt"):
        old, new = (torch.load(run / name)["network"] for run in (gan, tmp_path))
        for key, value in old.items():
            torch.testing.assert_close(new[key], value, rtol=1e-3, atol=1e-6)
    assert torch.load(tmp_path / "generator.pt")["steps"] == 4


STEPS = {f"fit_{name}_steps": 2 for name in ("invert", "albedo", "offset", "shape", "descent")}


def fit_of(root, gan, out, **more):
    """What models.gan2shape.fit says of a round of a few steps."""
    options = STEPS | {"fit_rounds": 1, "fit_samples": 2, "fit_batch_size": 4} | more
    options["fit_gan"] = json.dumps(str(gan))
    words, path = configure(root, "gan2shape-fit", **options)
    command = ["--config", path, "--out", str(out), "--device", "cpu", "--set", *words]
    return fit.main(command)


def test_the_three_steps_run_and_go_on(root, gan, trained, tmp_path):
    out, alone = tmp_path / "fit", tmp_path / "alone"
    assert fit_of(root, gan, out) == 0
    assert (
        fit.main(["--out", str(out), "--resume", "--set", "fit.rounds=2", "--device", "cpu"]) == 0
    )
    assert fit_of(root, gan, alone, fit_alone="true", fit_views=2, fit_project="descent") == 0
    assert score.main([str(out), "--fits", str(alone), "--beside", str(trained)]) == 0
    text = (out / "results.md").read_text()
    for name in (
        "GAN2Shape, start",
        "GAN2Shape, round 1",
        "projected by descent, each image alone",
    ):
        assert name in text
    assert "| projected, round 2" in text
    assert (out / "projections.png").stat().st_size > 0


@pytest.mark.parametrize("project", ["direction", "none", "views"])
def test_closed_surfaces_are_fitted(root, gan, trained, tmp_path, project, monkeypatch):
    monkeypatch.setattr(fit, "DIRECTION", fit.CHUNK)
    start = json.dumps(str(trained))
    assert fit_of(root, gan, tmp_path, fit_start=start, fit_project=project) == 0
    with np.load(tmp_path / "depths.npz") as file:
        assert sorted(file.files) == ["round_0", "round_1", "views"]
        assert np.abs(file["round_1"].astype(float) - file["round_0"]).max() > 0
    fitted = score.read_fitted(tmp_path)
    words = {
        "direction": "turned along one direction",
        "none": "without the GAN",
        "views": "from other views, true pose",
    }
    assert fitted.method == f"GAN2Shape, on closed surfaces, {words[project]}"


def test_pseudo_samples_fill_the_image_and_have_no_streaks(root):
    """An ellipsoid from 35 degrees aside is as wide as the mask: no wall shows behind it."""
    config = made(root, fit_yaw=35.0)
    image = open_task(config, "cpu").validation.image[:1].float() / 255
    reliefs = Reliefs(config)
    maps = reliefs.maps(image, reliefs.first(image))
    turned = reliefs.turned(image, maps, torch.tensor([[1.0, 0.0]]))
    assert turned.yaw.item() == pytest.approx(math.radians(35))
    alpha = reliefs.see(maps, turned.pose, lamp(torch.zeros(1, 2))).image[0, 3]
    widths = [(mask > 0.5).any(0).sum().item() for mask in (image[0, 3], alpha)]
    assert abs(widths[0] - widths[1]) <= 1


def test_first_shapes_are_a_ball_or_flat():
    depth = networks.first_depth(SIDE, FOV, "ellipsoid")
    normals = depth_to_normals(depth, networks.intrinsics(SIDE, FOV))
    assert normals[SIDE // 2, SIDE // 2, 2] < -0.8
    assert networks.first_depth(SIDE, FOV, "flat").unique().tolist() == [1.0]
    ball, plate = (networks.first_radius(SIDE, prior) for prior in ("ellipsoid", "flat"))
    assert ball.unique().numel() == 1
    assert (plate * towards(SIDE)[..., 2])[SIDE // 2, SIDE // 2].item() == pytest.approx(-0.02)
    assert plate.max() == ball.max()
