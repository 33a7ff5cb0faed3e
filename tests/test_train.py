# SPDX-License-Identifier: MIT
"""Training runs of seconds on a made-up set: what is done, kept, measured and refused."""

import csv
import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from objects import make_set, settings

from models import checkpoint, evaluate, files, judge, losses, train
from models import config as configs
from models.build import open_split
from models.clock import StepClock
from models.config import Config
from models.networks import NETWORKS
from models.step import learning_rate
from models.tasks import open_task
from models.tasks.reconstruction import Reconstruction

pytestmark = pytest.mark.usefixtures("one_cpu_thread", "no_pictures")


@pytest.fixture
def root(tmp_path):
    return make_set(tmp_path / "set")


def test_learning_rate_follows_the_clock_where_it_is_ahead():
    config = configs.override(Config(), ["optim.epochs=10", "optim.max_minutes=1"])
    full = config.optim.lr
    assert learning_rate(config, 0, 8, 0) == pytest.approx(full)
    assert learning_rate(config, 5, 8, 6) == pytest.approx(0.505 * full)
    assert learning_rate(config, 0, 8, 30) == pytest.approx(0.505 * full)
    assert learning_rate(config, 10, 8, 6) == pytest.approx(0.01 * full)


def test_learning_rate_rises_evenly_at_first():
    config = configs.override(
        Config(), ["optim.schedule=step", "optim.lr=1", "optim.warmup=3", "optim.epochs=4"]
    )
    rates = [learning_rate(config, step / 3, 3, 0) for step in range(5)]
    assert rates == [0.25, 0.5, 0.75, 1, 1]


def test_learning_rate_in_steps():
    config = configs.override(Config(), ["optim.schedule=step", "optim.lr=1", "optim.epochs=50"])
    rates = [learning_rate(config, epoch, 8, 0) for epoch in (0, 19.9, 20, 39.9, 40, 49.9)]
    assert rates == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_the_clock_tells_losses_loader_and_the_rest_apart(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = StepClock("cpu")
    for wait in (5.0, 2.0, 2.0):  # the first step only starts the clock
        for name, after in (("begin", wait), ("loss", 1), ("backward", 2), ("end", 4)):
            now[0] += after
            if name == "end":
                now[0] += 1
                clock.mark("gradient")  # three of the last five seconds are the networks'
            clock.mark(name)
    clock.drain()
    # Of 10 seconds a step: 2 waiting, losses 2 forward and 5 backward (until the gradient).
    found = clock.summary()
    assert found == pytest.approx({"step_ms": 1e4, "loss_share": 0.7, "loader_share": 0.2})


def test_a_run_leaves_everything_and_evaluates_again(root, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    words = settings(root)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert train.main(["--out", str(out), *words]) == 0
    shown, bars = capsys.readouterr()
    assert "images/s; " in shown
    *_, plain, look = shown.splitlines()
    assert plain.startswith("By `plain`: **CD ")
    assert look == f"look at {out / 'reconstructions.png'}, {out / 'loss_curves.png'}"
    assert all(f"{what}: " in bars for what in ("scores", "nearest images", "oracle", "floor"))
    names = {path.name for path in out.iterdir()}
    expected = "config.toml metrics.csv checkpoint.pt best.pt results.md results.csv results.json"
    assert names == {*expected.split(), "loss_curves.png", "reconstructions.png"}
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    first = json.loads((out / "results.json").read_text())
    assert evaluate.main([str(out)]) == 0
    assert "x100" in capsys.readouterr().out
    again = json.loads((out / "results.json").read_text())
    assert first["rows"] == again["rows"]
    assert first["config"] == again["config"]
    # A second run never overwrites the first.
    assert train.main(["--out", str(out), *words]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_a_log_file_gets_a_line_an_epoch(root, tmp_path, capsys):
    """Captured, stderr is no terminal."""
    assert train.main(["--out", str(tmp_path / "run"), *settings(root)]) == 0
    shown, bars = capsys.readouterr()
    assert "\r" not in shown + bars
    assert bars == ""
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("epoch ")] == [
        "1",
        "2",
    ]


def break_gradient(monkeypatch, call):
    """The gradient of training step `call` is NaN, its loss is not; -> that step's samples."""
    calls, samples, forward = [], [], losses.Objective.forward

    def breaking(self, out, target):
        terms = forward(self, out, target)
        calls.append(1)
        if len(calls) == call:
            samples.extend(target.sample.tolist())
            terms["loss"] = terms["loss"] + (0 * out.points.sum()).sqrt()  # 0, with slope inf * 0
        return terms

    monkeypatch.setattr(losses.Objective, "forward", breaking)
    return samples


@pytest.mark.parametrize(("clip", "epoch"), [(1, 1), (0, 2)])
def test_a_nan_gradient_in_an_epochs_last_step_is_not_saved(
    root, tmp_path, monkeypatch, capsys, clip, epoch
):
    out, data = (
        tmp_path / "run",
        open_split(configs.update(Config(), {"data": {"root": str(root)}}), "train"),
    )
    samples = break_gradient(monkeypatch, call=4 * epoch)  # 16 images, batches of 4
    words = settings(root, optim_grad_clip=clip, log_every=100, evaluate_baselines="false")
    assert train.main(["--out", str(out), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"norm of the gradient is nan in epoch {epoch}, step 4; lower optim.lr" in error
    assert f"this batch: {', '.join(map(data.name, samples))}; go on with: " in error
    state = checkpoint.load(out / checkpoint.NAME)
    assert len(state["history"]) == epoch - 1
    assert all(value.isfinite().all() for value in state["network"].values())


def test_weights_that_are_not_finite_are_not_saved(root, tmp_path):
    task = open_task(configs.override(Config(), settings(root)[1:]), "cpu")
    run = train.begin(task)
    torch.nn.init.constant_(run.trained.network.decoder.mu.bias, float("inf"))
    with pytest.raises(
        FloatingPointError, match="1 of .* weights are not finite .*decoder.mu.bias"
    ):
        train.save(run, task, tmp_path)
    assert not list(tmp_path.glob("*.*"))


def test_an_epoch_whose_validation_is_nan_does_not_hide_later_ones(root, tmp_path):
    task = open_task(configs.override(Config(), settings(root)[1:]), "cpu")
    run = train.begin(task)
    for epoch, distance in enumerate([float("nan"), 0.1], start=1):
        run.history.append({"epoch": epoch, "val_cd": distance, "val_emd": 0.0})
        train.save(run, task, tmp_path)
        assert (tmp_path / checkpoint.BEST).exists() == (epoch == 2)


def test_two_runs_into_one_folder_are_refused(root, tmp_path, capsys):
    out = tmp_path / "run"
    with files.locked(out):
        assert train.main(["--out", str(out), *settings(root)]) == 2
        assert f"error: {out}: another run is writing into this folder" in capsys.readouterr().err
        assert not list(out.iterdir())
    with files.locked(out):  # the lock has gone with its owner
        pass


def test_threads_sleep_while_they_wait():
    """OpenMP reads its wait policy when torch is loaded, so it is set before."""
    code = "import os, sys, models; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    cwd = train.DEFAULT.parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment, cwd=cwd
    )
    assert done.stdout.split() == [b"PASSIVE", b"False"]


def test_without_validation_images_the_last_epoch_is_scored(root, tmp_path, capsys):
    (root / "splits" / "val_models.json").write_text("{}")
    out = tmp_path / "run"
    assert train.main(["--out", str(out), *settings(root, evaluate_baselines="false")]) == 0
    assert "holds no images" in capsys.readouterr().out
    assert not (out / checkpoint.BEST).exists()
    assert "after epoch 2" in (out / "results.md").read_text()


def test_without_training_images_there_is_no_run(root, tmp_path, capsys):
    (root / "splits" / "train_models.json").write_text("{}")
    assert train.main(["--out", str(tmp_path / "run"), *settings(root)]) == 2
    assert "data.train_split: 'train' of" in capsys.readouterr().err


def test_the_best_epoch_on_validation_is_kept_and_scored(root, tmp_path, monkeypatch):
    distances = iter([0.3, 0.1, 0.2])
    found = lambda *_: {"val_cd": next(distances), "val_emd": 0.0}  # noqa: E731
    monkeypatch.setattr(Reconstruction, "validate", found)
    out = tmp_path / "run"
    assert train.main(["--out", str(out), *settings(root, optim_epochs=3)]) == 0
    best = checkpoint.load(checkpoint.choose(out))
    assert [row["val_cd"] for row in best["history"]] == [0.3, 0.1]
    assert len(checkpoint.load(checkpoint.choose(out, "last"))["history"]) == 3
    assert "after epoch 2" in (out / "results.md").read_text()
    assert evaluate.main([str(out), "--set", "evaluate.checkpoint=last"]) == 0
    assert "after epoch 3" in (out / "checkpoint=last" / "results.md").read_text()
    assert "after epoch 2" in (out / "results.md").read_text()


def test_validation_does_not_depend_on_the_training_losses(root):
    found = []
    for rtol in (0.5, 1e-3):
        config = configs.override(Config(), settings(root, loss_emd_rtol=rtol)[1:])
        task = open_task(config, "cpu")
        found.append(task.validate(train.begin(task).trained.average.network))
    assert found[0] == found[1]


def test_a_clip_of_0_does_not_clip(root, tmp_path):
    heads = []
    for clip in (0, 1e9, 1e-9):
        out = tmp_path / str(clip)
        words = settings(root, optim_grad_clip=clip, optim_epochs=1, evaluate_baselines="false")
        assert train.main(["--out", str(out), *words]) == 0
        heads.append(checkpoint.load(out / checkpoint.NAME)["network"])
    assert all(torch.equal(value, heads[1][key]) for key, value in heads[0].items())
    assert any(not torch.equal(value, heads[2][key]) for key, value in heads[0].items())


def test_the_time_limit_stops_after_an_epoch(root, tmp_path, capsys):
    out = tmp_path / "run"
    words = settings(root, optim_epochs=1000, optim_max_minutes=0.0001)
    assert train.main(["--out", str(out), *words]) == 0
    assert "max_minutes" in capsys.readouterr().out
    assert len(checkpoint.load(out / checkpoint.NAME)["history"]) == 1


TINY = sorted(train.DEFAULT.parent.glob("*-tiny.toml"))
SYSTEMS = [path for path in TINY if configs.load(path).network.name in NETWORKS]


def test_every_system_runs_in_small(root, tmp_path, capsys):
    """The four systems by their small configs, 3D-LMNet in its two stages and both kinds."""
    assert {p.stem for p in SYSTEMS} == {
        *("efficient-tiny", "psgn-tiny", "reconstnet-tiny"),
        *("lmnet-autoencoder-tiny", "lmnet-tiny", "lmnet-probabilistic-tiny"),
    }
    base = ["--set", f"data.root={json.dumps(str(root))}", "--set", "evaluate.baselines=false"]
    base += ["--set", "optim.epochs=1", "--set", "network.points=256"]
    for path in SYSTEMS:  # the autoencoder is first of 3D-LMNet's by name
        words = ["--config", str(path), "--out", str(tmp_path / path.stem), *base]
        if path.stem.startswith("lmnet") and "autoencoder" not in path.stem:
            assert train.main(words) == 2
            assert "needs a trained point autoencoder" in capsys.readouterr().err
            words += ["--set", f"network.autoencoder={tmp_path / 'lmnet-autoencoder-tiny'}"]
        assert train.main(words) == 0, capsys.readouterr().err
        shown = capsys.readouterr().out
        assert "| mean " in shown, path
    state = checkpoint.load(tmp_path / "lmnet-tiny" / checkpoint.NAME)
    stage1 = checkpoint.load(tmp_path / "lmnet-autoencoder-tiny" / checkpoint.BEST)
    for key, value in stage1["network"].items():  # stage two has left the first as it was
        assert torch.equal(value, state["network"][key]), key


@pytest.mark.parametrize(("name", "key"), [("lmnet", "autoencoder"), ("reconstnet", "pretrained")])
def test_weights_that_do_not_fit_are_an_error_of_one_line(root, tmp_path, capsys, name, key):
    file = tmp_path / "weights.pt"
    words = settings(root, network_name=name, loss_w_kl=0, network_start_from_mean="false")
    words += ["--set", f"network.{key}={file}", "--out", str(tmp_path / "run")]
    weights = {"format": checkpoint.FORMAT, "network": {"x": torch.zeros(1)}}
    for content in (weights, object, torch.zeros(3)):
        torch.save(content, file)
        assert train.main(words) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert str(file) in error


@pytest.mark.parametrize(
    ("front", "values", "message"),
    [
        ("+x", {}, "augment.mirror: objects of this set face +x"),
        ("+x", {"augment_mirror": "z"}, ""),
        ("+z", {"augment_mirror": "z"}, "set it to 'x' or 'none'"),
        ("+z", {"loss_w_view": 1}, "view from behind has azimuth 270, not 180"),
        ("+z", {"loss_w_view": 1, "loss_view_centre": -90}, ""),
        (None, {"loss_w_view": 1}, ""),
    ],
)
def test_mirror_and_view_angle_agree_with_the_sets_front(root, capsys, front, values, message):
    if front:
        (root / "manifest.json").write_text(json.dumps({"frame": {"front": front}}))
    config = configs.override(Config(), settings(root, **values)[1:])
    task = open_task(config, "cpu")
    if message:
        with pytest.raises(configs.ConfigError, match=re.escape(message)):
            train.begin(task)
    else:
        train.begin(task)
    assert ("does not tell" in capsys.readouterr().out) == (front is None)


def torch_settings():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("strict", [True, False])
def test_training_leaves_torchs_settings_alone(root, tmp_path, monkeypatch, strict):
    seen, before = set(), torch_settings()
    loss, score = losses.Objective.forward, judge.Judge.score

    def noting(name, call):
        def noted(*args):
            seen.add((name, torch.are_deterministic_algorithms_enabled()))
            return call(*args)

        return noted

    monkeypatch.setattr(losses.Objective, "forward", noting("loss", loss))
    monkeypatch.setattr(judge.Judge, "score", noting("score", score))
    words = settings(root, optim_epochs=1, optim_deterministic=str(strict).lower())
    assert train.main(["--out", str(tmp_path / "run"), *words]) == 0
    # On a CPU training is always reproducible, and evaluation everywhere.
    assert seen == {("loss", True), ("score", True)}
    assert torch_settings() == before


def test_bf16_trains_close_to_float32(root, tmp_path):
    found = {}
    for precision in ("float32", "bf16"):
        out = tmp_path / precision
        words = settings(
            root, optim_precision=precision, optim_epochs=1, evaluate_baselines="false"
        )
        assert train.main(["--out", str(out), *words]) == 0
        found[precision] = checkpoint.load(out / checkpoint.NAME)["history"][0]
    assert found["bf16"]["loss"] == pytest.approx(found["float32"]["loss"], rel=0.1)
    assert found["bf16"]["loss"] != found["float32"]["loss"]


def test_tensorboard_gets_every_epoch(root, tmp_path):
    pytest.importorskip("tensorboard")
    words = settings(root, log_tensorboard="true", evaluate_baselines="false")
    out = tmp_path / "run"
    assert train.main(["--out", str(out), *words]) == 0
    assert list((out / "tensorboard").glob("events.*"))


def test_without_tensorboard_its_cure_is_told(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = settings(root, log_tensorboard="true")
    assert train.main(["--out", str(tmp_path / "run"), *words]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "optim.lrr=1"], "did you mean 'lr'"),
        (["--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["--set", "network.name=psng"], "expected one of efficient"),
        (["--set", "network.preset=giant"], "expected one of default"),
        (["--set", "optim.schedule=linear"], "expected 'cosine' or 'step'"),
        (["--set", "data.root=nowhere"], "nowhere"),
        (["--set", "data.train_split=dev"], "split must be one of"),
        (["--set", "evaluate.split=dev"], "split must be one of"),
        (["--set", "evaluate.protocol=lmnett"], "evaluate.protocol: expected one of plain, lmnet"),
        (["--set", "network.pretrained=x.pth"], "network.pretrained: efficient has no use"),
        (["--set", "loss.w_cd=0", "--set", "loss.w_emd=0", "--set", "loss.w_kl=0"], "every weight"),
        (["--resume", "nowhere"], "no such checkpoint"),
    ],
)
def test_train_errors_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "runs").exists()
