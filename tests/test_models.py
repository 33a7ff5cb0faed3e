# SPDX-License-Identifier: MIT
import csv
import json

import pytest
import torch

from models import checkpoint, evaluate, plots, train
from models import config as configs
from models.config import Config, ConfigError
from models.networks import NETWORKS
from models.networks.efficient import EfficientPointNet


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Exact resume is promised on the CPU; on a GPU sums of gradients have no fixed order."""
    monkeypatch.setattr(evaluate, "pick_device", lambda name: "cpu")
    monkeypatch.setattr(train, "pick_device", lambda name: "cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small are slower on many threads, and far slower where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Conv and linear multiply-accumulates by hand, layer by layer (see the file of the network).
MACS = [
    ("default", 128, 419_407_168),
    ("default", 137, 512_268_016),
    ("default", 224, 1_268_802_880),
    ("wide-128", 128, 1_447_798_080),  # 2.9 GFLOP
    ("mac-224", 224, 2_882_061_632),  # 2.9 GMAC
    ("tiny-64", 64, 69_909_824),
]


@pytest.mark.parametrize(("preset", "size", "macs"), MACS)
def test_macs_are_pinned(preset, size, macs):
    assert evaluate.count_macs(EfficientPointNet(preset), size) == macs


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_repeatable_evaluation(name):
    network = NETWORKS[name]("tiny-64", points=128).eval()
    image = torch.rand(2, 3, 64, 64)
    out = network(image)
    assert out.points.shape == (2, 128, 3)
    assert out.mu.shape == out.logvar.shape == (2, 100)
    assert torch.equal(out.points, network(image).points)  # z = mu
    assert not torch.equal(out.points, network(image, sample=True).points)
    assert out.points.abs().max() <= 1  # tanh


def test_parameters_of_the_paper():
    network = EfficientPointNet("tiny-64")
    widths = [layer.out_features for layer in network.decoder if hasattr(layer, "out_features")]
    assert widths == [512, 1024, 6144]
    assert network.encoder.feature.out_features == 1000


def test_starts_from_the_given_cloud():
    network = EfficientPointNet("tiny-64", points=64).eval()
    cloud = torch.rand(64, 3) - 0.5
    network.start_from(cloud)
    points = network(torch.rand(1, 3, 64, 64)).points[0]
    assert (points - cloud).abs().max() < 0.05
    with pytest.raises(ValueError, match="expected \\[64, 3\\]"):
        network.start_from(torch.zeros(3, 3))


@pytest.mark.parametrize("bad", [{"preset": "huge"}, {"out_act": "relu"}])
def test_network_names_what_it_knows(bad):
    with pytest.raises(ValueError, match="expected"):
        EfficientPointNet(**bad)


# ---- config


def test_config_round_trip(tmp_path):
    config = configs.update(Config(), {"loss": {"w_kl": 1e-5}, "data": {"root": 'a "b"\\c\n'}})
    path = tmp_path / "config.toml"
    path.write_text(configs.dumps(config), encoding="utf-8")
    assert configs.load(path) == config
    assert configs.update(Config(), configs.to_dict(config)) == config


@pytest.mark.parametrize("path", sorted(train.DEFAULT.parent.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_configs_load(path):
    evaluate.build_network(configs.load(path))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.w_kk=1", "unknown key in \\[loss\\] 'w_kk'; did you mean 'w_kl'"),
        ("los.w_kl=1", "unknown section 'los'; did you mean 'loss'"),
        ("loss.zzzzz=1", "known: w_kl"),
        ("optim.epochs=1.5", "optim.epochs: expected int, got 1.5"),
        ("optim.epochs=true", "optim.epochs: expected int, got True"),
        ("optim.lr=0", "optim.lr: expected a number above 0"),
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
    state = checkpoint.load(checkpoint.find(tmp_path))
    assert torch.equal(state["x"], torch.arange(3))
    assert configs.update(Config(), state["config"]) == Config()
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]  # nothing left beside it


def test_a_checkpoint_without_its_parts_is_named(tmp_path):
    checkpoint.save(tmp_path / checkpoint.NAME, {"config": {}})
    with pytest.raises(checkpoint.CheckpointError, match="parts are missing: emd_loss, history"):
        checkpoint.load(tmp_path / checkpoint.NAME, parts=checkpoint.PARTS)


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / checkpoint.NAME
    checkpoint.save(path, {"x": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(path, {"x": lambda: 0})
    assert checkpoint.load(path)["x"] == 1


def test_checkpoint_errors_are_one_line(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no such checkpoint"):
        checkpoint.find(tmp_path)
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


# ---- training and evaluation on a made-up set


def box_cloud(size, points, generator):
    """Points on the surface of a box with sides `size`."""
    cloud = torch.rand(points, 3, generator=generator) - 0.5
    axis = torch.randint(0, 3, (points, 1), generator=generator)
    side = torch.randint(0, 2, (points, 1), generator=generator) - 0.5
    return cloud.scatter(1, axis, side) * size


@pytest.fixture
def furniture(tmp_path):
    """Flat and tall boxes in the layout of models.data: 12 objects, 2 views, 64 and 1024 points."""
    import numpy as np
    from PIL import Image

    root, generator = tmp_path / "set", torch.Generator().manual_seed(0)
    shapes = {"03001627": (0.4, 1.0, 0.4), "04379243": (1.0, 0.3, 0.8)}
    splits = {"train": {}, "test": {}}
    for synset, shape in shapes.items():
        for number in range(6):
            key = f"{synset}/m{number}"
            splits["test" if number == 5 else "train"].setdefault(synset, []).append(key)
            size = torch.tensor(shape) * (0.9 + 0.02 * number)
            clouds = root / "ShapeNet_pointclouds" / key
            images = root / "ShapeNetRendering" / key / "rendering"
            clouds.mkdir(parents=True)
            images.mkdir(parents=True)
            for points in (64, 1024):
                cloud = box_cloud(size, points, generator).numpy()
                np.save(clouds / f"pointcloud_{points}.npy", cloud.astype("<f2"))
            w, h = (32 * size[:2]).int().tolist()
            for view in range(2):
                picture = np.zeros((64, 64, 4), np.uint8)
                picture[32 - h : 32 + h, 32 - w : 32 + w] = (90 + 40 * view, 60, 30, 255)
                Image.fromarray(picture).save(images / f"{view:02d}.png")
    (root / "splits").mkdir()
    for split, table in splits.items():
        (root / "splits" / f"{split}_models.json").write_text(json.dumps(table))
    return root


@pytest.fixture
def tiny(furniture, tmp_path):
    """Arguments of models.train for a run of seconds, and its folder."""
    settings = [
        f"data.root={json.dumps(str(furniture))}",
        "network.points=64",
        "data.image_size=32",
        "optim.batch_size=4",
        "optim.epochs=2",
        "evaluate.views=0",
    ]
    return [word for s in settings for word in ("--set", s)], tmp_path


def losses_on_two_boxes(steps, lr, sample):
    """The loss before each of `steps` steps on one fixed batch of two objects."""
    torch.manual_seed(0)
    network = EfficientPointNet("tiny-64", points=128).train()
    image = torch.rand(2, 3, 32, 32)
    sides = ((1, 0.2, 1), (0.2, 1, 0.2))
    truth = torch.stack([box_cloud(torch.tensor(s), 128, None) for s in sides])
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        points, mu, logvar = network(image, sample=sample)
        kl = train.kl_standard_normal(mu, logvar)
        loss = train.chamfer(points, truth) + train.emd(points, truth, rtol=0.05) + 1e-4 * kl
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_one_step_lowers_the_loss():
    before, after = losses_on_two_boxes(steps=2, lr=1e-4, sample=False)
    assert after < before


def test_overfits_a_batch_of_two():
    losses = losses_on_two_boxes(steps=40, lr=1e-3, sample=True)
    assert min(losses[-5:]) < 0.6 * losses[0]


def test_kl_is_zero_at_the_standard_normal_and_known_elsewhere():
    zero = torch.zeros(4, 100)
    assert train.kl_standard_normal(zero, zero) == 0
    torch.testing.assert_close(train.kl_standard_normal(zero + 1, zero), torch.tensor(50.0))


def test_mirroring_moves_image_and_cloud_together():
    torch.manual_seed(0)
    image, points = torch.rand(16, 3, 8, 8), torch.rand(16, 5, 3)
    options = configs.Augment(brightness=0.0, contrast=0.0)
    new_image, new_points = train.augment(image, points, options)
    for i in range(16):
        flipped = not torch.allclose(new_image[i], image[i])
        expected = points[i] * torch.tensor([-1.0 if flipped else 1.0, 1, 1])
        assert torch.equal(new_points[i], expected)
        torch.testing.assert_close(new_image[i], image[i].flip(2) if flipped else image[i])


def test_learning_rate_follows_the_clock_where_it_is_ahead():
    config = configs.override(Config(), ["optim.epochs=10", "optim.max_minutes=1"])
    full = config.optim.lr
    assert train.learning_rate(config, 0, 0) == pytest.approx(full)
    assert train.learning_rate(config, 5, 6) == pytest.approx(0.505 * full)
    assert train.learning_rate(config, 0, 30) == pytest.approx(0.505 * full)
    assert train.learning_rate(config, 10, 6) == pytest.approx(0.01 * full)


def test_a_run_leaves_everything_and_evaluates_again(tiny, capsys):
    settings, folder = tiny
    out = folder / "run"
    assert train.main(["--out", str(out), *settings]) == 0
    names = {path.name for path in out.iterdir()}
    expected = "config.toml metrics.csv checkpoint.pt results.md results.csv results.json"
    assert names == {*expected.split(), "loss_curves.png", "reconstructions.png"}
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    first = (out / "results.json").read_text()
    record = json.loads(first)
    assert [row["category"] for row in record["rows"]] == ["chair", "table", "mean"]
    mean = record["rows"][-1]
    assert mean["n"] == 4
    chair, table = record["rows"][:2]
    assert mean["network CD"] == pytest.approx((chair["network CD"] + table["network CD"]) / 2)
    assert record["max_gap"] <= 1e-2
    assert mean["nearest image CD"] < mean["mean shape CD"]  # the two kinds of box look different
    capsys.readouterr()
    assert evaluate.main([str(out)]) == 0
    assert "x100, not squared" in capsys.readouterr().out
    assert (out / "results.json").read_text() == first
    # A second run never overwrites the first.
    assert train.main(["--out", str(out), *settings]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_resume_of_a_finished_epoch_is_exact(tiny):
    settings, folder = tiny
    assert train.main(["--out", str(folder / "run"), *settings]) == 0
    straight = checkpoint.load(checkpoint.find(folder / "run"))
    # A finished run that is resumed has nothing to train: it scores again and changes nothing.
    results = (folder / "run" / "results.csv").read_text()
    assert train.main(["--resume", str(folder / "run")]) == 0
    again = checkpoint.load(checkpoint.find(folder / "run"))
    for key, value in straight["network"].items():
        assert torch.equal(value, again["network"][key]), key
    assert (folder / "run" / "results.csv").read_text() == results


def test_interrupt_and_resume_give_the_straight_run(tiny, monkeypatch, capsys):
    settings, folder = tiny
    straight, parts = folder / "straight", folder / "parts"
    assert train.main(["--out", str(straight), *settings]) == 0

    # Ctrl-C in the middle of the second epoch: 20 images are 5 steps an epoch.
    calls = 0
    kl = train.kl_standard_normal

    def interrupting(mu, logvar):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return kl(mu, logvar)

    monkeypatch.setattr(train, "kl_standard_normal", interrupting)
    assert train.main(["--out", str(parts), *settings]) == train.INTERRUPTED
    assert f"--resume {parts}" in capsys.readouterr().err
    assert len(checkpoint.load(parts / checkpoint.NAME)["history"]) == 1
    monkeypatch.setattr(train, "kl_standard_normal", kl)
    assert train.main(["--resume", str(parts)]) == 0

    one, two = (checkpoint.load(checkpoint.find(run)) for run in (straight, parts))
    for part in ("network", "emd_loss"):
        for key, value in one[part].items():
            assert torch.equal(value, two[part][key]), key
    for number, state in one["optimiser"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, two["optimiser"]["state"][number][key]), key
    assert (straight / "results.csv").read_text() == (parts / "results.csv").read_text()


def test_the_time_limit_stops_after_an_epoch(tiny, capsys):
    settings, folder = tiny
    out = folder / "run"
    limits = ["--set", "optim.epochs=1000", "--set", "optim.max_minutes=0.0001"]
    assert train.main(["--out", str(out), *settings, *limits]) == 0
    assert "max_minutes" in capsys.readouterr().out
    assert len(checkpoint.load(checkpoint.find(out))["history"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "optim.lrr=1"], "did you mean 'lr'"),
        (["--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["--set", "network.name=psgn"], "expected one of efficient"),
        (["--set", "network.preset=giant"], "expected one of default"),
        (["--set", "data.root=nowhere"], "nowhere"),
        (["--set", "data.train_split=dev"], "split must be one of"),
        (["--resume", "nowhere"], "no such checkpoint"),
    ],
)
def test_train_errors_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_mean_shape_of_moved_copies_is_their_middle():
    cloud = box_cloud(torch.tensor([1.0, 0.5, 0.5]), 64, torch.Generator().manual_seed(0))
    shift = torch.tensor([0.0, 0.01, 0])
    mean = evaluate.mean_shape(torch.stack([cloud - shift, cloud + shift]))
    torch.testing.assert_close(mean.mean(0), cloud.mean(0), rtol=0, atol=1e-4)
    # Matched points differ by about the shift, so their middle stays as near to the cloud.
    assert train.chamfer(mean[None], cloud[None], squared=False) < 0.05


def test_grid_takes_categories_in_turn():
    categories = ["a", "a", "a", "b", "b", "c"]
    assert plots.choose_rows(categories, [0, 0, 1, 2, 2, 3], rows=4) == [0, 3, 5, 2]
