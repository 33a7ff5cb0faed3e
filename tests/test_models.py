# SPDX-License-Identifier: MIT
"""Configs, checkpoints, losses and augmentation."""

import importlib
import json
import resource
import sys

import pytest
import torch
from objects import box_cloud

from models import augment, checkpoint, losses, train
from models import config as configs
from models.baselines import FLOOR, NAMES
from models.build import build_network
from models.config import Config, ConfigError
from models.networks import NETWORKS
from models.networks.base import Reconstruction
from models.networks.efficient import EfficientPointNet
from models.report import Results, as_markdown
from models.tables import KEYS
from models.tasks import open_task
from models.unfinished_auction import unfinished_auction
from pointloss import chamfer, emd, reference
from pointloss.protocols import PLAIN, PROTOCOLS

pytestmark = pytest.mark.usefixtures("one_cpu_thread")


# ---- config


def test_config_round_trip(tmp_path):
    config = configs.update(Config(), {"loss": {"w_kl": 1e-5}, "data": {"root": 'a "b"\\c\n'}})
    path = tmp_path / "config.toml"
    path.write_text(configs.dumps(config), encoding="utf-8")
    assert configs.load(path) == config
    assert configs.update(Config(), configs.to_dict(config)) == config


MODELS = train.DEFAULT.parents[1]
CONFIGS = sorted(path.relative_to(MODELS) for path in MODELS.rglob("*.toml"))


@pytest.mark.parametrize("name", CONFIGS, ids=str)
def test_shipped_configs_load(name):
    path = MODELS / name
    open_task(configs.load(path), "cpu").build()


RESULTS = MODELS / "results"
COMMITTED = sorted(  # of clouds; test_results has the others
    path.parent.relative_to(RESULTS)
    for path in RESULTS.rglob("results.json")
    if configs.load(path.with_name("config.toml")).network.name in NETWORKS
)


def test_the_run_that_readme_shows_is_the_default():
    """But for the settings of systems that it does not run."""
    config, default = (
        configs.load(path) for path in (RESULTS / "default" / "config.toml", train.DEFAULT)
    )
    for section in ("network", "data", "augment", "loss", "optim", "evaluate"):
        assert getattr(config, section) == getattr(default, section)


@pytest.mark.parametrize("name", COMMITTED, ids=str)
def test_the_committed_results_are_what_the_code_writes(name):
    """The config loads, the columns and the note are today's."""
    folder = RESULTS / name
    config = configs.load(folder / "config.toml")
    record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert configs.update(Config(), record["config"]) == config
    if config.network.name not in NETWORKS:  # of another kind, see models/tasks/results.py
        assert list(record["rows"][0])[-len(record["columns"]) :] == record["columns"]
        text = (folder / "results.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {record['method']}\n")
        check_csv(folder, record)
        return
    asked = PROTOCOLS[config.evaluate.protocol]
    assert list(record["rows"][0]) == [*KEYS, *asked.columns()]
    beside = {*NAMES, FLOOR} if config.evaluate.baselines else set()
    assert {row["method"] for row in record["rows"]} >= {config.network.name, *beside}
    assert list(record["conventions"]) == list(dict.fromkeys([asked.name, PLAIN.name]))
    for name, lines in record["conventions"].items():
        assert lines[0].startswith(PROTOCOLS[name].describe())
    if not (folder / "results.md").exists():
        return  # of an experiment, whose tables models.compare makes
    # Pictures aside, results.md and results.csv come from results.json.
    results = Results(**record)
    assert (folder / "results.md").read_text(encoding="utf-8") == as_markdown(results)
    check_csv(folder, record)


def check_csv(folder, record):
    lines = (folder / "results.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {record['header'][0]}"
    assert len(lines) > len(record["rows"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.w_kk=1", "unknown key in \\[loss\\] 'w_kk'; did you mean 'w_kl'"),
        ("los.w_kl=1", "unknown section 'los'; did you mean 'loss'"),
        ("loss.zzzzz=1", "known: w_cd"),
        ("optim.epochs=1.5", "optim.epochs: expected int, got 1.5"),
        ("optim.epochs=true", "optim.epochs: expected int, got True"),
        ("optim.lr=0", "optim.lr: expected a number above 0"),
        ("optim.lr=nan", "optim.lr: expected a number above 0"),
        ("loss.latent_norm=3", "loss.latent_norm: expected 1 or 2, got 3"),
        ("optim.grad_clip=-1", "optim.grad_clip: expected 0 or more"),
        ("epochs=3", "expected section.key=value"),
    ],
)
def test_config_errors_help(setting, message):
    with pytest.raises(ConfigError, match=message):
        configs.override(Config(), [setting])


def test_settings_without_quotes_are_strings():
    config = configs.override(Config(), ["network.preset=wide-128", "optim.lr=1"])
    assert config.network.preset == "wide-128"
    assert config.optim.lr == 1.0


# ---- checkpoint


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / checkpoint.NAME
    checkpoint.save(path, {"config": configs.to_dict(Config()), "x": torch.arange(3)})
    state = checkpoint.load(checkpoint.choose(tmp_path))
    assert torch.equal(state["x"], torch.arange(3))
    assert configs.update(Config(), state["config"]) == Config()
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]  # nothing left beside it


def test_a_checkpoint_without_its_parts_is_named(tmp_path):
    checkpoint.save(tmp_path / checkpoint.NAME, {"config": {}})
    with pytest.raises(
        checkpoint.CheckpointError, match="parts are missing: averaged, history, network"
    ):
        checkpoint.load(tmp_path / checkpoint.NAME, parts=checkpoint.PARTS)


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / checkpoint.NAME
    checkpoint.save(path, {"x": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(path, {"x": lambda: 0})
    assert checkpoint.load(path)["x"] == 1


def test_no_flipped_bit_changes_what_is_loaded(tmp_path):
    path, weights = tmp_path / checkpoint.NAME, torch.arange(2000.0)
    checkpoint.save(path, {"weights": weights})
    whole, found = path.read_bytes(), 0
    for place in range(0, 8 * len(whole), 8 * len(whole) // 150):
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        try:
            assert torch.equal(checkpoint.load(path)["weights"], weights), place
        except checkpoint.CheckpointError:
            found += 1
    assert found > 100  # nearly all of the file is the tensor; the rest is padding


def test_a_full_disk_is_told_and_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / checkpoint.NAME
    checkpoint.save(path, {"x": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(checkpoint.CheckpointError, match="not written: .*is as it was"):
            checkpoint.save(path, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(path)["x"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoint_errors_are_one_line(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no such checkpoint"):
        checkpoint.choose(tmp_path)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(checkpoint.CheckpointError, match="not readable"):
        checkpoint.load(broken)
    torch.save({"model": {}}, broken)
    with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint of"):
        checkpoint.load(broken)
    torch.save({"code": object}, broken)  # needs code to load: refused
    with pytest.raises(checkpoint.CheckpointError, match="not readable"):
        checkpoint.load(broken)
    with pytest.raises(checkpoint.CheckpointError, match="no run"):
        checkpoint.newest(tmp_path)


# ---- losses


def losses_on_two_boxes(steps, lr, sample):
    """The loss before each of `steps` steps on one fixed batch of two objects."""
    torch.manual_seed(0)
    network = EfficientPointNet("tiny-64", points=128).train()
    image = torch.rand(2, 3, 32, 32)
    truth = torch.stack([box_cloud(s, 128) for s in ((1, 0.2, 1), (0.2, 1, 0.2))])
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    objective = losses.Objective(configs.Loss(w_kl=1e-4), samples=2, points=128)
    found = []
    for _ in range(steps):
        out = network(image, noise=torch.randn(2, 100) if sample else None)
        loss = objective(out, losses.Target(truth, torch.arange(2)))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


def test_one_step_lowers_the_loss():
    before, after = losses_on_two_boxes(steps=2, lr=1e-4, sample=False)
    assert after < before


def test_overfits_a_batch_of_two():
    found = losses_on_two_boxes(steps=40, lr=1e-3, sample=True)
    assert min(found[-5:]) < 0.6 * found[0]


def test_kl_is_zero_at_the_standard_normal_and_known_elsewhere():
    zero = torch.zeros(4, 100)
    assert losses.kl_standard_normal(zero, zero) == 0
    torch.testing.assert_close(losses.kl_standard_normal(zero + 1, zero), torch.tensor(50.0))


def test_view_angle_divergence_by_hand():
    options = configs.Loss(view_eta=0.2, view_delta=20)
    logvar = torch.log(torch.tensor([[0.2, 0.2], [0.1, 0.5], [0.2, 0.2]]).square())
    azimuth = torch.tensor([180.0, 200.0, 0.0])  # sigma wanted: 0.2, 0.2 / e, 0
    expected = (0.0 + (0.3 - 0.2 / torch.e) ** 2 + 0.04) / 3
    found = losses.view_angle_divergence(logvar, azimuth, options)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    turned = losses.view_angle_divergence(logvar, azimuth - 360, options)
    assert turned.item() == pytest.approx(expected, rel=1e-4)


def test_objective_is_the_weighted_sum_of_what_was_asked_for():
    out = Reconstruction(
        torch.rand(2, 32, 3),
        *(torch.randn(2, 8) for _ in range(4)),
    )
    points, ids, azimuth = torch.rand(2, 32, 3), torch.arange(2), torch.tensor([170.0, 10.0])
    options = configs.Loss(
        w_cd=2.0, w_emd=3.0, w_kl=0.5, w_view=4.0, w_latent=5.0, chamfer_squared=True,
        cd_to_truth=0.5, emd_rtol=1e-6, latent_norm=2,
    )  # fmt: skip
    target = losses.Target(points, ids, azimuth)
    terms = losses.Objective(options, samples=2, points=32)(out, target)
    one_way = [
        chamfer(out.points, points, direction=direction) for direction in ("x_to_y", "y_to_x")
    ]
    expected = {
        "cd": 0.5 * one_way[0] + one_way[1],
        "emd": emd(out.points, points, rtol=1e-6),
        "kl": losses.kl_standard_normal(out.mu, out.logvar),
        "view": losses.view_angle_divergence(out.logvar, azimuth, options),
        "latent": (out.latent - out.target).square().mean(),
    }
    for key, value in expected.items():
        torch.testing.assert_close(terms[key], value, rtol=1e-5, atol=0)
    whole = sum(getattr(options, f"w_{key}") * value for key, value in expected.items())
    torch.testing.assert_close(terms["loss"], whole)
    alone = losses.Objective(configs.Loss(w_emd=0), samples=2, points=32)(out, target)
    assert list(alone) == ["loss", "cd"]


def test_an_unfinished_auction_is_many_to_one_and_a_finished_one_is_a_matching():
    x, y = torch.rand(2, 2, 40, 3, generator=torch.Generator().manual_seed(0))
    few, all_ = (unfinished_auction(x, y, rounds) for rounds in (3, 2000))
    assert all(len(row.unique()) < 40 for row in few)
    assert all(row.sort().values.equal(torch.arange(40)) for row in all_)
    best = reference.optimal_cost(x, y, squared=True)  # within N eps of it
    cost = (x - y.gather(1, all_[:, :, None].expand_as(y))).square().sum(2).mean(1)
    assert (best - 1e-6 <= cost).all()
    assert (cost <= best + 0.005).all()


def test_every_weight_has_its_term():
    weights = {key for key in configs.to_dict(Config())["loss"] if key.startswith("w_")}
    assert weights == {f"w_{name}" for name in losses.TERMS}


@pytest.mark.parametrize(
    ("name", "loss", "message"),
    [
        ("psgn", {"w_kl": 1.0}, "loss.w_kl: this network gives no logvar and no mu"),
        ("efficient", {"w_view": 1.0}, "loss.w_view: this set does not tell the cameras"),
        ("efficient", {"w_latent": 1.0}, "loss.w_latent: this network gives no target"),
    ],
)
def test_a_loss_that_the_network_cannot_have_is_named(name, loss, message):
    values = {"network": {"name": name, "points": 512}, "loss": loss}
    config = configs.update(Config(), values)
    objective = losses.Objective(config.loss, 1, 512)
    with pytest.raises(ConfigError, match=message):
        objective.check(build_network(config), has_azimuth=False)


@pytest.mark.parametrize("axis", ["x", "z"])
def test_mirroring_moves_image_cloud_and_camera_together(axis):
    """The camera of azimuth a stands at (cos a, sin a) in x and z; it is mirrored like a point."""
    torch.manual_seed(0)
    image, points, azimuth = torch.rand(16, 3, 8, 8), torch.rand(16, 5, 3), 360 * torch.rand(16)
    opaque = torch.cat([image, torch.ones(16, 1, 8, 8)], 1)
    change = augment.Augmentation(configs.Augment(axis, 0.0, 0.0, 0.0, 0.0, colours=False))
    draws = torch.rand(16, augment.DRAWS)
    new_image, new_points, new_azimuth = change(opaque, points, azimuth, draws)
    for i in range(16):
        flipped = draws[i, 0] < 0.5
        sides = torch.ones(3)
        sides[0 if axis == "x" else 2] = -1.0 if flipped else 1.0
        assert torch.equal(new_points[i], points[i] * sides)
        torch.testing.assert_close(new_image[i], image[i].flip(2) if flipped else image[i])
        old, new = torch.deg2rad(azimuth[i]), torch.deg2rad(new_azimuth[i])
        torch.testing.assert_close(new.cos(), sides[0] * old.cos(), rtol=0, atol=1e-5)
        torch.testing.assert_close(new.sin(), sides[2] * old.sin(), rtol=0, atol=1e-5)


def vary(image, **options):
    """Augmentation of one image [4, H, W] by `options` alone, in 200 draws."""
    off = {"mirror": "none", "brightness": 0.0, "contrast": 0.0, "scale": 0.0, "shift": 0.0}
    off |= {"colours": False, "background": 0.0}
    change = augment.Augmentation(configs.Augment(**(off | options)))
    draws = torch.rand(200, augment.DRAWS)
    return change(image.expand(200, -1, -1, -1), torch.zeros(200, 1, 3), torch.zeros(200), draws)[0]


def picture():
    """A box of one colour in the middle of 16 x 16 pixels, half transparent at its left side."""
    alpha = torch.zeros(1, 16, 16)
    alpha[:, 4:12, 5:12], alpha[:, 4:12, 4] = 1, 0.5
    colour = torch.tensor([0.2, 0.4, 0.6])[:, None, None]
    return torch.cat([alpha * colour + 1 - alpha, alpha])


def test_without_options_the_image_is_as_it_was():
    torch.testing.assert_close(vary(picture())[7], picture()[:3])


def test_half_of_the_images_stand_on_a_grey_that_shines_through():
    found = vary(picture(), background=0.5)
    grey = found[:, :, 0, 0]
    assert torch.equal(grey, grey[:, :1].expand(-1, 3))
    assert 0.3 < (grey[:, 0] < 1).float().mean() < 0.7
    assert found[:, 0, 8, 8].allclose(torch.tensor(0.2))
    edge = 0.5 * torch.tensor([0.2, 0.4, 0.6]) + 0.5 * grey
    torch.testing.assert_close(found[:, :, 8, 4], edge)


def test_brightness_and_colours_are_the_objects_not_the_backgrounds():
    bright = vary(picture(), brightness=0.5)
    assert (bright[:, :, 0, 0] == 1).all()
    inside = bright[:, :, 8, 8]
    moved = inside - torch.tensor([0.2, 0.4, 0.6])  # by the same light, up to half the mean of 0.4
    assert moved.abs().max() < 0.201
    assert moved.std() > 0.05
    swapped = vary(picture(), colours=True)[:, :, 8, 8]
    assert swapped.sort(1).values.allclose(torch.tensor([0.2, 0.4, 0.6]), atol=1e-6)
    assert len({tuple(row) for row in (10 * swapped).round().tolist()}) == 6


def test_scale_and_shift_move_the_object_on_its_white():
    larger = (1 - vary(picture(), scale=0.2)).sum((1, 2, 3)) / (1 - picture()[:3]).sum()
    assert larger.max() == pytest.approx(1.44, abs=0.1)
    assert larger.min() == pytest.approx(0.64, abs=0.1)
    dark = 1 - vary(picture(), shift=0.25)[:, 0]  # up to an eighth of the side, two pixels
    across = (dark.sum(1) * torch.arange(16.0)).sum(1) / dark.sum((1, 2))
    assert across.max() - across.min() == pytest.approx(4, abs=0.2)
    torch.testing.assert_close(dark.sum((1, 2)), dark.sum((1, 2))[:1].expand(200))


def test_a_run_of_a_dense_cloud_is_drawn():
    cloud = torch.arange(10.0)[None, :, None].expand(200, 10, 3)
    found = augment.choose_points(cloud, 4, torch.rand(200, augment.DRAWS))[:, :, 0]
    assert set(found[:, 0].tolist()) == set(range(10))
    assert torch.equal((found - found[:, :1]) % 10, torch.arange(4.0).expand(200, 4))
    assert augment.choose_points(cloud, 10, torch.rand(200, augment.DRAWS)) is cloud


@pytest.mark.parametrize(
    "name", ["train", "evaluate", "compare", "predict", "viewer", "weights", "step", "tasks"]
)
def test_a_command_may_be_the_first_import(name, monkeypatch):
    """Modules that import one another in a circle load in some orders only."""
    for module in [key for key in sys.modules if key.split(".")[0] == "models"]:
        monkeypatch.delitem(sys.modules, module)
    importlib.import_module(f"models.{name}")
    for module in [key for key in sys.modules if key.split(".")[0] == "models"]:
        del sys.modules[module]  # those of before come back
