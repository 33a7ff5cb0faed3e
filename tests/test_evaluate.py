# SPDX-License-Identifier: MIT
"""Evaluation: every image counts once, by a convention that is said, and repeatably.

Several tests stand for a mistake in the public evaluation code of 3D-LMNet or 3D-ReconstNet; their
names say what this project must not do.
"""

import csv
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from objects import make_set, settings
from scores import BARE, rows_of, save_clouds, score_clouds

import pointloss
from models import checkpoint, compare, evaluate, judge, train
from models import config as configs
from models.build import open_split
from models.config import Config, ConfigError
from models.score import score as score_state
from models.score import spread_views
from models.tasks import open_task
from pointloss.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("one_cpu_thread", "no_pictures")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The made-up set and a run on it: (root, run)."""
    folder = tmp_path_factory.mktemp("world")
    root = make_set(folder / "set")
    words = ["--device", "cpu", "--out", str(folder / "run"), *settings(root, optim_epochs=1)]
    assert train.main(words) == 0
    return root, folder / "run"


def score(run, *words, out):
    assert evaluate.main([str(run), "--out", str(out), *words]) == 0
    return out


def test_every_image_counts_whatever_the_batch(world, tmp_path):
    """Not: the last batch dropped, or sums divided by the number of pairs instead of batches."""
    tables = []
    for batch in (1, 3, 16):  # 4 images
        words = [*BARE, "--set", f"evaluate.batch_size={batch}"]
        rows = rows_of(score(world[1], *words, out=tmp_path / str(batch)))
        tables.append(rows)
        assert all(
            (row["images"], row["objects"])
            == ((4, 2) if row["category"] in ("mean", "all images") else (2, 1))
            for row in rows
        )
    for row in zip(*tables, strict=True):
        for other in row[1:]:
            assert other["images"] == row[0]["images"]
            assert other["CD"] == pytest.approx(row[0]["CD"], rel=1e-4)
            assert other["EMD"] == pytest.approx(row[0]["EMD"], rel=1e-2)  # its certificate


def test_the_views_that_are_scored_go_around_the_object():
    """Not: the first few, where the views lie in order around the object."""
    samples = [(0, view) for view in range(24)] + [(1, view) for view in range(3)]

    def views(wanted, owner):
        chosen = [samples[i] for i in spread_views(samples, wanted)]
        return [view for of, view in chosen if of == owner]

    assert views(4, 0) == [0, 6, 12, 18]
    assert len(views(5, 0)) == 5
    assert views(2, 1) == [0, 2]
    assert views(3, 1) == views(24, 1) == views(0, 1) == [0, 1, 2]
    assert views(0, 0) == views(24, 0) == list(range(24))


def test_repeated_evaluation_gives_the_same_numbers(world, tmp_path, monkeypatch, device):
    """Not: the latent drawn anew, an unseeded choice of points, or a matching left to a race."""
    monkeypatch.setattr(evaluate, "pick_device", lambda name: str(device))
    rows = [rows_of(score(world[1], out=tmp_path / name)) for name in ("one", "two")]
    assert rows[0] == rows[1]
    clouds = save_clouds(world[0], tmp_path / "clouds", 2048)
    seeds = [
        rows_of(score_clouds(world[0], clouds, *BARE, "--set", f"evaluate.seed={s}"))
        for s in (0, 1)
    ]
    assert seeds[0][0]["CD"] != seeds[1][0]["CD"]
    drawn = rows_of(score(world[1], *BARE, "--set", "evaluate.draw=true", out=tmp_path / "four"))
    assert drawn[0]["CD"] != rows[0][0]["CD"]


def test_random_points_are_each_clouds_own_and_seeded(world, tmp_path):
    words = [*BARE, "--set", "evaluate.sampling=random"]
    rows = rows_of(score(world[1], *words, out=tmp_path / "one"))
    words += ["--set", "evaluate.batch_size=3"]
    again = rows_of(score(world[1], *words, out=tmp_path / "two"))
    for row, other in zip(rows, again, strict=True):
        assert other["CD"] == pytest.approx(row["CD"], rel=1e-4)


def test_the_split_that_is_reported_did_not_choose_the_epoch(world, tmp_path):
    shown = (score(world[1], *BARE, out=tmp_path / "one") / "results.md").read_text()
    assert "WARNING" not in shown
    shown = (
        score(world[1], *BARE, "--split", "val", out=tmp_path / "two") / "results.md"
    ).read_text()
    assert "WARNING: the best epoch was chosen on this very split" in shown
    config = checkpoint.load(checkpoint.choose(world[1]))["config"]
    assert config["data"]["val_split"] != config["evaluate"]["split"]
    # The warning belongs to the weights, whatever was asked for and however they are called.
    words = [*BARE, "--split", "val", "--set", "evaluate.checkpoint=last"]
    shown = (score(world[1], *words, out=tmp_path / "3") / "results.md").read_text()
    assert "WARNING" not in shown
    best = shutil.copy(world[1] / checkpoint.BEST, tmp_path / "copy.pt")
    shown = (score(best, *words, out=tmp_path / "four") / "results.md").read_text()
    assert "WARNING: the best epoch was chosen on this very split" in shown


def test_a_run_says_itself_which_epoch_it_wants_scored(world, tmp_path):
    run = shutil.copytree(world[1], tmp_path / "run")
    state = checkpoint.load(run / checkpoint.NAME)
    state["config"]["evaluate"]["checkpoint"] = "last"
    checkpoint.save(run / checkpoint.NAME, state)
    shown = (score(run, *BARE, out=tmp_path / "out") / "results.md").read_text()
    assert "its last" in shown
    words = [*BARE, "--set", "evaluate.checkpoint=best"]
    shown = (score(run, *words, out=tmp_path / "out") / "results.md").read_text()
    assert "the best on split 'val'" in shown


def test_another_question_does_not_overwrite_the_runs_own_answer(world, tmp_path):
    run = shutil.copytree(world[1], tmp_path / "run")
    before = (run / "results.json").read_bytes()
    words = ["--protocol", "occnet", *BARE]
    assert evaluate.main([str(run), *words]) == 0
    assert (run / "results.json").read_bytes() == before
    out = run / "protocol=occnet,baselines=False"
    assert "Convention occnet" in (out / "results.md").read_text()


def test_results_lie_in_a_folder_of_what_differs(tmp_path):
    def folder(run=None, pred_dir=None, out=None, own=(), asked=(), samples=0):
        args = SimpleNamespace(run=run, pred_dir=pred_dir, out=out, samples=samples)
        own = configs.override(Config(), list(own))
        return evaluate.results_folder(args, own, configs.override(own, list(asked)))

    (tmp_path / "best.pt").touch()
    assert folder(run=tmp_path) == tmp_path
    assert folder(run=tmp_path, own=["evaluate.split=val"]) == tmp_path
    assert folder(run=tmp_path, asked=["data.root=/a/b"]) == tmp_path / "root=_a_b"
    assert folder(run=tmp_path, samples=4) == tmp_path / "samples=4"
    assert folder(run=tmp_path / "best.pt") == tmp_path / "best"
    assert folder(pred_dir=tmp_path, asked=["data.root=x"]) == tmp_path
    assert folder(pred_dir=tmp_path, asked=["evaluate.views=2"]) == tmp_path / "views=2"
    assert folder(run=tmp_path, out=tmp_path / "x", asked=["evaluate.views=2"]) == tmp_path / "x"


def test_saved_clouds_are_those_that_were_scored(world, tmp_path):
    """What --save-clouds writes, --pred-dir scores alike."""
    pytest.importorskip("trimesh")
    out = score(world[1], *BARE, "--save-clouds", out=tmp_path)
    again = score_clouds(world[0], out / "clouds", *BARE)
    for row, other in zip(
        rows_of(out, "plain", method="efficient"),
        rows_of(again, "plain", method="clouds"),
        strict=True,
    ):
        assert {**row, "method": ""} == {**other, "method": ""}


def test_draws_stand_beside_the_mean_of_the_latent(world, tmp_path):
    out = score(world[1], *BARE, "--samples", "3", out=tmp_path)
    (own,) = rows_of(out, method="efficient", category="all images")
    (best,) = rows_of(out, method="efficient, best of 3", category="all images")
    table = json.loads((out / "results.json").read_text())["uncertainty"]
    rows = {(row["protocol"], row["seen from"]): row for row in table}
    everything = rows["lmnet", "anywhere"]
    assert everything["images"] == 4
    assert everything["spread"] > 0
    assert everything["CD at the mean"] == pytest.approx(own["CD"])
    assert everything["CD of the best"] == pytest.approx(best["CD"])
    assert everything["CD of a draw"] >= best["CD"]
    assert "How sure the network is" in (out / "results.md").read_text()


def test_scores_by_object_are_the_means_of_its_images(world, tmp_path):
    record = json.loads((score(world[1], out=tmp_path) / "results.json").read_text())
    assert [row["images"] for row in record["objects"]] == [2, 2]
    (values,) = [
        row["values"]
        for row in record["scores"]
        if (row["protocol"], row["method"], row["column"]) == ("plain", "efficient", "CD")
    ]
    for value, row in zip(values, rows_of(tmp_path, "plain", method="efficient"), strict=False):
        assert value == pytest.approx(row["CD"], rel=1e-4)
    found = {(r["protocol"], r["method"], r["column"]) for r in record["differences"]}
    assert ("lmnet", "nearest image", "EMD") in found
    assert compare.main([str(tmp_path)]) == 0


def test_a_folder_of_runs_is_a_system(world, tmp_path, capsys):
    run = score(world[1], out=tmp_path / "mine" / "fold-0")
    shutil.copytree(run, tmp_path / "mine" / "fold-1")
    assert compare.main([str(tmp_path / "mine")]) == 0
    assert "| mine " in capsys.readouterr().out


def test_the_tables_say_their_convention_and_their_cost(world, tmp_path):
    out = score(world[1], out=tmp_path / "out")
    shown = (out / "results.md").read_text()
    for text in (
        *("x100", "not squared", "1024 points a cloud", "ICP", "seed 0", "4 images"),
        *("GMAC", "GFLOP", "ms an image", "M parameters", "32 x 32", "CD ↓", "F@5% ↑"),
        *("| mean shape", "| cluster", "| nearest image", "| oracle", "| floor"),
    ):
        assert text in shown, text
    assert (
        f"a CPU (threads: 1), torch {torch.__version__}, pointloss {pointloss.__version__}."
        in shown
    )
    shown = (score(world[1], "--commit", "0a1b2c", out=out) / "results.md").read_text()
    assert f"pointloss {pointloss.__version__}, commit 0a1b2c." in shown
    record = json.loads((out / "results.json").read_text())
    assert record["cost"]["flops"] == 2 * record["cost"]["macs"]
    assert record["config"]["network"]["preset"] == "tiny-64"
    lines = (out / "results.csv").read_text().splitlines()
    notes = [line for line in lines if line.startswith("# ")]
    assert notes[: len(record["header"])] == [f"# {line}" for line in record["header"]]
    table = list(csv.DictReader(lines[len(notes) :]))
    assert len(table) == 2 * 6 * 4
    for row in table:
        own = row["method"] == "efficient"
        assert (float(row["GMAC"]) == record["cost"]["macs"] / 1e9) if own else row["GMAC"] == ""
    assert "EMD, images ↓ | M parameters |  GMAC | GFLOP | ms an image | peak MiB |" in shown
    columns = set(record["rows"][0])
    assert {"CD", "CD to truth", "CD to pred", "EMD", "gap", "F@1%", "F@2%", "F@5%"} < columns
    for row in record["rows"]:
        assert row["CD"] == pytest.approx(row["CD to truth"] + row["CD to pred"], rel=1e-4)
        assert row["gap"] <= 0.01


@pytest.mark.parametrize(
    ("sizes", "protocol", "expected"),
    [
        ((64, 1024, 2048, 16384), "lmnet", (1024, 16384, 2048)),
        ((64, 1024, 2048), "lmnet", (1024, 2048, 2048)),
        ((1024, 2048, 16384, 20000), "what3d", (16384, 16384, 20000)),
        ((64, 256, 1024), "lmnet", (1024, 1024, None)),
        ((1024,), "lmnet", (1024, 1024, None)),
    ],
)
def test_the_samplings_of_a_set_are_put_to_use(tmp_path, sizes, protocol, expected):
    root = make_set(tmp_path / "set", points=sizes)
    values = {"data": {"root": str(root)}, "network": {"points": sizes[0]}}
    config = configs.update(Config(), values)
    convention = PROTOCOLS[protocol]
    truth = judge.open_truth(convention, open_split(config, "test"))
    found = [None if c is None else c.shape[1] for c in (truth.clouds, truth.dense, truth.other)]
    assert tuple(found) == expected
    assert truth.other_is_dense == (expected[1] == expected[2])


def test_a_size_that_one_object_lacks_is_not_used(world, tmp_path):
    root = shutil.copytree(world[0], tmp_path / "set")
    data = open_split(configs.update(Config(), {"data": {"root": str(root)}}), "test")
    (root / "ShapeNet_pointclouds" / data.objects[-1] / "pointcloud_1024.npy").unlink()
    truth = judge.open_truth(PROTOCOLS["lmnet"], data)
    assert truth.clouds.shape[1] == 2048


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_runs(world, tmp_path, name):
    words = ["--protocol", name, *BARE]
    out = score(world[1], *words, out=tmp_path)
    (mean,) = rows_of(out, name, method="efficient", category="mean")
    assert 0 < mean["CD"] < 1000
    assert f"Convention {name} (" in (tmp_path / "results.md").read_text()


def test_baselines_order_as_they_must(world, tmp_path):
    """On two kinds of boxes: what looks at the image beats what does not."""
    out = score(world[1], out=tmp_path)
    cd = {row["method"]: row["CD"] for row in rows_of(out, category="mean")}
    assert cd["nearest image"] < cd["mean shape"]
    assert cd["cluster"] < cd["mean shape"]
    assert cd["floor"] < cd["oracle"] < cd["mean shape"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such checkpoint"),
        (["{run}", "--protocol", "lmnett"], "evaluate.protocol: expected one of plain, lmnet"),
        (["{run}", "--split", "dev"], "split must be one of"),
        (["{run}", "--set", "evaluate.sampling=all"], "expected 'fixed' or 'random'"),
        (["{run}", "--samples", "1"], "--samples: expected 2 or more, got 1"),
        (["{run}", "--views", "-1"], "evaluate.views: expected 0 or more, got -1"),
    ],
)
def test_evaluate_errors_are_one_line(world, words, message, capsys):
    assert evaluate.main([word.format(run=world[1]) for word in words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("lifter", {"protocol": "plain"}, "--protocol: lifter has no use for it"),
        ("lifter", {"evaluate.seed": 3}, "evaluate.seed: lifter has no use for it"),
        ("pointmap", {"protocol": "lmnet"}, "--protocol: pointmap has no use for it"),
        ("pointmap", {"evaluate.draw": True}, "evaluate.draw: pointmap has no use for it"),
        ("voxel", {"evaluate.baselines": False}, "evaluate.baselines: voxel has no use for it"),
        ("lifter", {"views": 3, "split": "val"}, None),
        ("pointmap", {"views": 3, "evaluate.batch_size": 2}, None),
        ("voxel", {"views": 3, "protocol": "plain", "evaluate.seed": 1}, None),
        ("efficient", {"views": 3, "protocol": "plain", "evaluate.draw": True}, None),
    ],
)
def test_what_a_kind_does_not_follow_is_refused(name, flags, message):
    own = configs.update(Config(), {"network": {"name": name}})
    given = {key: value for key, value in flags.items() if "." not in key}
    told = given | {key.partition(".")[2]: value for key, value in flags.items() if "." in key}
    asked = configs.update(own, {"evaluate": told})
    task = open_task(asked, "cpu")
    if message is None:
        task.refuse_unfollowed(own.evaluate, given)
        return
    with pytest.raises(ConfigError, match=message):
        task.refuse_unfollowed(own.evaluate, given)


def test_what_the_weights_have_seen_is_told():
    own = configs.update(Config(), {"data": {"root": "set", "fold": 1}})
    state = {"config": configs.to_dict(own), "history": [{}, {}], "chosen_on": "val"}

    def told(**values):
        return checkpoint.describe(state, configs.update(own, values))

    assert told() == ["Weights after epoch 2 of the run, the best on split 'val'."]
    for values, warning in (
        ({"evaluate": {"split": "val"}}, "the best epoch was chosen on this very split"),
        ({"evaluate": {"split": "train"}}, "trained on this very split"),
        ({"data": {"fold": 2}}, "trained on another fold"),
    ):
        assert told(**values)[1:] == [line for line in told(**values) if warning in line]
        assert len(told(**values)) == 2
    assert len(told(data={"root": "another", "fold": 2})) == 1
    del state["chosen_on"]
    assert told(evaluate={"split": "val"}) == ["Weights after epoch 2 of the run, its last."]


def test_a_network_is_not_loaded_from_anothers_checkpoint(world):
    state = checkpoint.load(checkpoint.choose(world[1]))
    config = configs.update(Config(), state["config"])
    config = configs.update(config, {"network": {"points": 256}})
    with pytest.raises(checkpoint.CheckpointError, match="does not fit the config"):
        score_state(config, "cpu", state)


def test_an_empty_split_is_an_error(tmp_path, capsys):
    root = make_set(tmp_path / "set", points=(64,))
    (root / "splits" / "test_models.json").write_text("{}")
    config = configs.update(Config(), {"data": {"root": str(root)}, "network": {"points": 64}})
    with pytest.raises(ConfigError, match="evaluate.split: 'test' of .* holds no"):
        score_state(config, "cpu", pred_dir=tmp_path)
    folder = save_clouds(make_set(tmp_path / "other"), tmp_path / "clouds", 1024)
    (tmp_path / "other" / "splits" / "train_models.json").write_text("{}")
    words = ["--pred-dir", str(folder), "--set", f"data.root={tmp_path / 'other'}"]
    assert evaluate.main(words) == 2
    assert "data.train_split: 'train' of" in capsys.readouterr().err
    assert evaluate.main([*words, *BARE]) == 0
