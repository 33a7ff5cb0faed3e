# SPDX-License-Identifier: MIT
"""A run that was stopped, or shared among processes, is the run that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from objects import make_set, settings

from models import checkpoint, log, step, train

ROOT = Path(__file__).parent.parent
CONFIGS = train.DEFAULT.parent
FIRST, SECOND = "lmnet-autoencoder", ("lmnet", "lmnet-probabilistic")  # 3D-LMNet's stages

pytestmark = pytest.mark.usefixtures("one_cpu_thread", "no_pictures")


@pytest.fixture
def root(tmp_path):
    return make_set(tmp_path / "set")


def rows_of(run):
    """The scores, without the time that an image took."""
    return json.loads((run / "results.json").read_text())["rows"]


def same_state(one, two):
    """Every tensor of two loaded checkpoints is equal bit for bit."""
    for part in ("network", "trained", "objective"):
        for key, value in one[part].items():
            assert torch.equal(value, two[part][key]), key
    for number, state in one["optimiser"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, two["optimiser"]["state"][number][key]), key


def test_resume_of_a_finished_run_changes_nothing(root, tmp_path):
    run = tmp_path / "run"
    assert train.main(["--out", str(run), *settings(root)]) == 0
    straight = checkpoint.load(run / checkpoint.NAME)
    rows = rows_of(run)
    assert train.main(["--resume", str(run)]) == 0
    same_state(straight, checkpoint.load(run / checkpoint.NAME))
    assert rows_of(run) == rows


def words_of(system, root, tmp_path, **more):
    """Arguments of a run of seconds of a system by its small config.

    For 3D-LMNet's second stage this trains the first, into tmp_path.
    """
    words = ["--config", str(CONFIGS / f"{system}-tiny.toml"), *settings(root, **more)]
    if system in ("lmnet", "lmnet-probabilistic"):
        first = tmp_path / "autoencoder"
        if not first.exists():
            assert train.main(["--out", str(first), *words_of(FIRST, root, tmp_path, **more)]) == 0
        words += ["--set", f"network.autoencoder={first}"]
    return words


@pytest.mark.parametrize(
    ("system", "precision"),
    [
        *(("efficient", "float32"), ("efficient", "bf16")),
        *((name, "float32") for name in ("psgn", "reconstnet", FIRST, *SECOND)),
    ],
)
def test_interrupt_and_resume_give_the_straight_run(
    root, tmp_path, monkeypatch, capsys, device, system, precision
):
    monkeypatch.setattr(train, "pick_device", lambda name: str(device))
    more = {"data_workers": 2, "network_points": 256, "evaluate_baselines": "false"}
    more["optim_deterministic"] = "true"
    words = words_of(system, root, tmp_path, optim_precision=precision, **more)
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert train.main(["--out", str(straight), *words]) == 0
    calls, call = 0, step.Step.__call__

    def interrupting(*args):
        nonlocal calls
        calls += 1
        if calls == 6:  # 16 images are 4 steps an epoch: in the middle of the second
            raise KeyboardInterrupt
        return call(*args)

    monkeypatch.setattr(step.Step, "__call__", interrupting)
    assert train.main(["--out", str(parts), *words]) == train.INTERRUPTED
    assert f"--resume {parts}" in capsys.readouterr().err
    assert len(checkpoint.load(parts / checkpoint.NAME)["history"]) == 1
    monkeypatch.setattr(step.Step, "__call__", call)
    if system in SECOND:  # the checkpoint has the first stage's weights
        shutil.rmtree(tmp_path / "autoencoder")
    assert train.main(["--resume", str(parts)]) == 0
    same_state(*(checkpoint.load(run / checkpoint.NAME) for run in (straight, parts)))
    assert rows_of(straight) == rows_of(parts)


KILLED = """
import os, signal, sys, torch
from models import losses, train
torch.set_num_threads(1)
calls, term = [], losses.Objective.forward
def killing(*args):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return term(*args)
losses.Objective.forward = killing
train.main(sys.argv[1:])
"""


def run(words, gpus=False):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)


@pytest.mark.slow
def test_kill_and_resume_give_the_straight_run(root, tmp_path):
    straight, parts, words = tmp_path / "straight", tmp_path / "parts", settings(root)
    done = run(["-c", KILLED, "--out", str(parts), "--device", "cpu", *words])
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert train.main(["--out", str(straight), *words]) == 0
    assert train.main(["--resume", str(parts)]) == 0
    same_state(*(checkpoint.load(run / checkpoint.NAME) for run in (straight, parts)))


TOGETHER = """
import json, sys
from models import distributed, plots, train
plots.reconstructions = plots.loss_curves = lambda *_: None
device, end = distributed.begin(sys.argv[1]), distributed.end
distributed.begin, distributed.end = lambda _: device, lambda: None  # one group for all runs
for words in json.loads(sys.argv[2]):
    assert train.main(words) == 0
end()
"""


@pytest.mark.slow
def test_two_processes_train_like_one(root, tmp_path, monkeypatch, device):
    """In two steps, one an epoch; later ones part, see models/distributed.py."""
    cuda = device.type == "cuda"
    if cuda and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    monkeypatch.setattr(train, "pick_device", lambda name: str(device))
    # A matching certified to 1e-6 has one cost, however the sums before it were rounded.
    # At a high rate Adam turns the rounding of a gradient near 0 into a step of full length.
    more = {"loss_emd_rtol": 1e-6, "loss_chamfer_squared": "false", "optim_lr": 2e-4}
    more |= {"optim_batch_size": 16, "evaluate_baselines": "false"}
    systems = ("efficient", "reconstnet", *SECOND)
    words = {system: words_of(system, root, tmp_path, **more) for system in systems}
    alone, shared = (
        {
            s: ["--device", device.type, "--out", str(tmp_path / f"{s} {n}"), *words[s]]
            for s in words
        }
        for n in (1, 2)
    )
    for own in alone.values():
        assert train.main(own) == 0
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run([*torchrun, str(script), device.type, json.dumps(list(shared.values()))], gpus=cuda)
    assert done.returncode == 0, done.stderr.decode()
    for system in systems:
        states = [checkpoint.load(tmp_path / f"{system} {n}" / checkpoint.NAME) for n in (1, 2)]
        check_alike(*states, 1e-2 if cuda else 1e-3, system)  # convolutions of a GPU are TF32


def check_alike(one, two, rounding, system):
    """Checkpoints of one run by one process, and by two."""
    for row, other in zip(one["history"], two["history"], strict=True):
        assert other.keys() == row.keys(), system
        for key in row.keys() - set(log.TIMES):
            expected = pytest.approx(row[key], rel=rounding)
            assert other[key] == expected, (system, row["epoch"], key)
    first, other = (state["history"][0]["loss"] for state in (one, two))
    assert other == pytest.approx(first, rel=rounding / 100), system
    # The sum of both steps' gradients, as Adam weighs them, of all weights together.
    moments = [state["optimiser"]["state"].values() for state in (one, two)]
    here, there = (torch.cat([s["exp_avg"].flatten() for s in moment]) for moment in moments)
    assert (here - there).norm() < rounding * here.norm(), system
    # Every process has the prices of all samples.
    prices = [state["objective"].get("emd_loss.price_cache") for state in (one, two)]
    assert (prices[0] is None) == (system in SECOND), system
    assert prices[0] is None or ((prices[0] > 0).any(1) == (prices[1] > 0).any(1)).all(), system
