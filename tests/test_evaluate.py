# SPDX-License-Identifier: MIT
"""Evaluation: every image counts once, by a convention that is said, and repeatably.

Several tests stand for a mistake in the public evaluation code of 3D-LMNet or 3D-ReconstNet; their
names say what this project must not do.
"""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from objects import make_set, settings

import pointloss
from models import checkpoint, evaluate, plots, report, train
from models import config as configs
from models.build import open_split
from models.config import Config, ConfigError

pytestmark = pytest.mark.usefixtures("one_cpu_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The made-up set and a run on it: (root, run)."""
    folder = tmp_path_factory.mktemp("world")
    root = make_set(folder / "set")
    words = ["--device", "cpu", "--out", str(folder / "run"), *settings(root, optim_epochs=1)]
    assert train.main(words) == 0
    return root, folder / "run"


def rows_of(folder, **chosen):
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return [row for row in rows if all(row[key] == value for key, value in chosen.items())]


def score(run, *words, out):
    assert evaluate.main([str(run), "--out", str(out), *words]) == 0
    return out


def save_clouds(root, folder, points, views=None, change=lambda cloud: cloud):
    """The true test clouds as predictions, one file an object or one a view."""
    data = open_split(configs.update(Config(), {"data": {"root": str(root)}}), "test")
    for key, cloud in zip(data.objects, data.clouds(points), strict=True):
        names = [f"{key}.npy"] if views is None else [f"{key}/{v:02d}.npy" for v in range(views)]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(folder / name, change(cloud).numpy())
    return folder


def score_clouds(root, folder, *words):
    base = ["--out", str(folder), "--set", f"data.root={json.dumps(str(root))}"]
    assert evaluate.main(["--pred-dir", str(folder), *base, *words]) == 0
    return folder


def test_a_cloud_against_itself_scores_zero(world, tmp_path):
    folder = score_clouds(world[0], save_clouds(world[0], tmp_path / "own", 1024))
    (mean,) = rows_of(folder, method="own", category="mean")
    assert mean["CD"] == mean["CD to truth"] == mean["EMD"] == 0
    assert 0 < mean["F@1%"] < 1  # against the densest sampling: not the same points


def test_truth_against_another_sampling_is_the_floor(world, tmp_path):
    folder = score_clouds(world[0], save_clouds(world[0], tmp_path / "other", 256))
    (own,) = rows_of(folder, method="other", category="mean")
    (floor,) = rows_of(folder, method="floor", category="mean")
    assert own["CD"] > 2
    assert floor["CD"] > 2
    assert 0 < floor["F@1%"] < 0.9  # not the very points it is compared with


def test_floor_of_real_furniture_is_that_of_the_survey(tmp_path):
    """Two samplings of 1024 points: CD 3.2 to 5.6, EMD 3.5 to 5.2 on furniture like this."""
    from models.data.dataset import FURNITURE

    folder = save_clouds(FURNITURE, tmp_path / "truth", 2048)
    words = ["--set", "evaluate.baselines=false", "--views", "1", "--set", "evaluate.batch_size=64"]
    score_clouds(FURNITURE, folder, *words)
    (mean,) = rows_of(folder, method="truth", category="mean")
    assert 3 < mean["CD"] < 6
    assert 3 < mean["EMD"] < 6


def test_every_image_counts_whatever_the_batch(world, tmp_path):
    """Not: the last batch dropped, or sums divided by the number of pairs instead of batches."""
    tables = []
    for batch in (1, 3, 16):  # 4 images
        words = ["--set", f"evaluate.batch_size={batch}"]
        rows = rows_of(score(world[1], *words, out=tmp_path / str(batch)))
        tables.append(rows)
        assert all(
            row["n"] == (4 if row["category"] in ("mean", "all images") else 2) for row in rows
        )
    for row in zip(*tables, strict=True):
        for other in row[1:]:
            assert other["n"] == row[0]["n"]
            assert other["CD"] == pytest.approx(row[0]["CD"], rel=1e-4)
            assert other["EMD"] == pytest.approx(row[0]["EMD"], rel=1e-2)  # its certificate


def test_the_views_that_are_scored_go_around_the_object():
    """Not: the first few, where the views lie in order around the object."""
    samples = [(0, view) for view in range(24)] + [(1, view) for view in range(3)]

    def views(wanted, owner):
        chosen = [samples[i] for i in evaluate.spread_views(samples, wanted)]
        return [view for of, view in chosen if of == owner]

    assert views(4, 0) == [0, 6, 12, 18]
    assert len(views(5, 0)) == 5
    assert views(2, 1) == [0, 2]
    assert views(3, 1) == views(24, 1) == views(0, 1) == [0, 1, 2]
    assert views(0, 0) == views(24, 0) == list(range(24))


def test_the_mean_is_over_categories_and_images_are_beside_it():
    scores = torch.tensor([[1.0, 0.1], [3.0, 0.3], [8.0, 0.2]])
    rows = report.tabulate({"net": scores}, ["CD", "gap"], ["a", "a", "b"])
    by_name = {row["category"]: row for row in rows}
    assert by_name["a"]["CD"] == 2
    assert by_name["mean"]["CD"] == 5
    assert by_name["all images"]["CD"] == 4
    assert by_name["mean"]["gap"] == pytest.approx(0.3)  # the largest
    with pytest.raises(ValueError, match="2 scores for 3 images"):
        report.tabulate({"net": scores[:2]}, ["CD", "gap"], ["a", "a", "b"])


def test_repeated_evaluation_gives_the_same_numbers(world, tmp_path, monkeypatch, device):
    """Not: the latent drawn anew, an unseeded choice of points, or a matching left to a race."""
    monkeypatch.setattr(evaluate, "pick_device", lambda name: str(device))
    rows = [rows_of(score(world[1], out=tmp_path / name)) for name in ("one", "two")]
    assert rows[0] == rows[1]
    clouds = save_clouds(world[0], tmp_path / "clouds", 2048)
    seeds = [rows_of(score_clouds(world[0], clouds, "--set", f"evaluate.seed={s}")) for s in (0, 1)]
    assert seeds[0][0]["CD"] != seeds[1][0]["CD"]
    drawn = rows_of(score(world[1], "--set", "evaluate.draw=true", out=tmp_path / "four"))
    assert drawn[0]["CD"] != rows[0][0]["CD"]


def test_random_points_are_each_clouds_own_and_seeded(world, tmp_path):
    words = ["--set", "evaluate.sampling=random"]
    rows = rows_of(score(world[1], *words, out=tmp_path / "one"))
    words += ["--set", "evaluate.batch_size=3"]
    again = rows_of(score(world[1], *words, out=tmp_path / "two"))
    for row, other in zip(rows, again, strict=True):
        assert other["CD"] == pytest.approx(row["CD"], rel=1e-4)


def test_both_clouds_are_scaled(world, tmp_path):
    """Not: the prediction in its own unit box and the truth as it is."""
    folder = save_clouds(world[0], tmp_path / "big", 1024, change=lambda c: 3 * c + 5)
    (mean,) = rows_of(score_clouds(world[0], folder), method="big", category="mean")
    assert mean["CD"] < 1e-3


def test_the_split_that_is_reported_did_not_choose_the_epoch(world, tmp_path):
    shown = (score(world[1], out=tmp_path / "one") / "results.md").read_text()
    assert "WARNING" not in shown
    shown = (score(world[1], "--split", "val", out=tmp_path / "two") / "results.md").read_text()
    assert "WARNING: the best epoch was chosen on this very split" in shown
    config = checkpoint.load(checkpoint.choose(world[1]))["config"]
    assert config["data"]["val_split"] != config["evaluate"]["split"]
    # The warning belongs to the weights, whatever was asked for and however they are called.
    words = ["--split", "val", "--set", "evaluate.checkpoint=last"]
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
    shown = (score(run, out=tmp_path / "out") / "results.md").read_text()
    assert "its last" in shown
    words = ["--set", "evaluate.checkpoint=best"]
    shown = (score(run, *words, out=tmp_path / "out") / "results.md").read_text()
    assert "the best on split 'val'" in shown


def test_another_question_does_not_overwrite_the_runs_own_answer(world, tmp_path):
    run = shutil.copytree(world[1], tmp_path / "run")
    before = (run / "results.json").read_bytes()
    words = ["--protocol", "occnet", "--set", "evaluate.baselines=false"]
    assert evaluate.main([str(run), *words]) == 0
    assert (run / "results.json").read_bytes() == before
    out = run / "protocol=occnet,baselines=False"
    assert "Convention occnet" in (out / "results.md").read_text()


def test_results_lie_in_a_folder_of_what_differs(tmp_path):
    def folder(run=None, pred_dir=None, out=None, own=(), asked=()):
        args = SimpleNamespace(run=run, pred_dir=pred_dir, out=out)
        own = configs.override(Config(), list(own))
        return evaluate.results_folder(args, own, configs.override(own, list(asked)))

    (tmp_path / "best.pt").touch()
    assert folder(run=tmp_path) == tmp_path
    assert folder(run=tmp_path, own=["evaluate.split=val"]) == tmp_path
    assert folder(run=tmp_path, asked=["data.root=/a/b"]) == tmp_path / "root=_a_b"
    assert folder(run=tmp_path / "best.pt") == tmp_path / "best"
    assert folder(pred_dir=tmp_path, asked=["data.root=x"]) == tmp_path
    assert folder(pred_dir=tmp_path, asked=["evaluate.views=2"]) == tmp_path / "views=2"
    assert folder(run=tmp_path, out=tmp_path / "x", asked=["evaluate.views=2"]) == tmp_path / "x"


@pytest.mark.parametrize("name", ["oracle", "floor", "mean shape"])
def test_clouds_never_give_way_to_a_baseline_of_their_name(world, tmp_path, name):
    folder = save_clouds(world[0], tmp_path / name, 1024)
    score_clouds(world[0], folder)
    (own,) = rows_of(folder, method=f"{name} (--pred-dir)", category="mean")
    (beside,) = rows_of(folder, method=name, category="mean")
    assert own["CD"] == 0 < beside["CD"]


def test_clouds_of_the_folder_one_stands_in_have_its_name(world, tmp_path, monkeypatch):
    folder = save_clouds(world[0], tmp_path / "mine", 1024)
    monkeypatch.chdir(folder)
    score_clouds(world[0], ".", "--set", "evaluate.baselines=false")
    assert rows_of(folder, method="mine")


def test_one_file_a_view_or_one_an_object(world, tmp_path):
    by_object = score_clouds(world[0], save_clouds(world[0], tmp_path / "x", 256))
    by_view = score_clouds(world[0], save_clouds(world[0], tmp_path / "y" / "x", 256, views=2))
    assert rows_of(by_object) == rows_of(by_view)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is there"),
        (lambda path: np.save(path, np.zeros((0, 3))), "N > 0"),
        (lambda path: np.save(path, np.zeros((5, 2))), "expected \\[N, 3\\]"),
        (lambda path: np.save(path, np.full((5, 3), np.nan)), "all finite"),
        (lambda path: np.save(path, np.array([{}])), "not a readable array"),
        (lambda path: np.save(path, np.zeros((5, 3), complex)), "expected real numbers"),
        (lambda path: np.save(path, np.zeros((7, 3))), "differ in their number"),
    ],
)
def test_bad_clouds_are_named(world, tmp_path, make, message, capsys):
    folder = save_clouds(world[0], tmp_path / "p", 64)
    path = next(folder.rglob("*.npy"))
    path.unlink()
    make(path)
    words = ["--pred-dir", str(folder), "--set", f"data.root={json.dumps(str(world[0]))}"]
    words += ["--set", "evaluate.batch_size=1"]  # files are compared across batches too
    assert evaluate.main([*words, "--set", "evaluate.baselines=false"]) == 2
    assert pytest.importorskip("re").search(message, capsys.readouterr().err)


def test_the_tables_say_their_convention_and_their_cost(world, tmp_path):
    out = score(world[1], out=tmp_path / "out")
    shown = (out / "results.md").read_text()
    for text in (
        *("x100", "not squared", "1024 points a cloud", "ICP", "seed 0", "4 images"),
        *("GMAC", "GFLOP", "ms an image", "M parameters", "32 x 32", "Published, under other"),
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
    assert len(table) == 6 * 4
    for row in table:
        own = row["method"] == "efficient"
        assert (float(row["GMAC"]) == record["cost"]["macs"] / 1e9) if own else row["GMAC"] == ""
    assert "F@5% | M parameters |  GMAC | GFLOP | ms an image | peak MiB |" in shown
    columns = set(record["rows"][0])
    assert {"CD", "CD to truth", "CD to pred", "EMD", "gap", "F@1%", "F@2%", "F@5%"} < columns
    for row in record["rows"]:
        assert row["CD"] == pytest.approx(row["CD to truth"] + row["CD to pred"])
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
    convention = evaluate.PROTOCOLS[protocol]
    truth = evaluate.open_truth(convention, open_split(config, "test"))
    found = [None if c is None else c.shape[1] for c in (truth.clouds, truth.dense, truth.other)]
    assert tuple(found) == expected
    assert truth.other_is_dense == (expected[1] == expected[2])


def test_a_size_that_one_object_lacks_is_not_used(world, tmp_path):
    root = shutil.copytree(world[0], tmp_path / "set")
    data = open_split(configs.update(Config(), {"data": {"root": str(root)}}), "test")
    (root / "ShapeNet_pointclouds" / data.objects[-1] / "pointcloud_1024.npy").unlink()
    truth = evaluate.open_truth(evaluate.PROTOCOLS["lmnet"], data)
    assert truth.clouds.shape[1] == 2048


@pytest.mark.parametrize("name", evaluate.PROTOCOLS)
def test_every_protocol_runs(world, tmp_path, name):
    words = ["--protocol", name, "--set", "evaluate.baselines=false"]
    (mean,) = rows_of(score(world[1], *words, out=tmp_path), method="efficient", category="mean")
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
        (["{run}", "--protocol", "lmnett"], "evaluate.protocol: expected one of lmnet"),
        (["{run}", "--split", "dev"], "split must be one of"),
        (["{run}", "--set", "evaluate.sampling=all"], "expected 'fixed' or 'random'"),
        (["{run}", "--views", "-1"], "evaluate.views: expected 0 or more, got -1"),
    ],
)
def test_evaluate_errors_are_one_line(world, words, message, capsys):
    assert evaluate.main([word.format(run=world[1]) for word in words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_a_network_is_not_loaded_from_anothers_checkpoint(world):
    state = checkpoint.load(checkpoint.choose(world[1]))
    config = configs.update(Config(), state["config"])
    config = configs.update(config, {"network": {"points": 256}})
    with pytest.raises(checkpoint.CheckpointError, match="does not fit the config"):
        evaluate.evaluate(config, "cpu", state)


def test_grid_takes_categories_in_turn():
    categories = ["a", "a", "a", "b", "b", "c"]
    assert plots.choose_rows(categories, [0, 0, 1, 2, 2, 3], rows=4) == [0, 3, 5, 2]


def test_an_empty_split_is_an_error(tmp_path, capsys):
    root = make_set(tmp_path / "set", points=(64,))
    (root / "splits" / "test_models.json").write_text("{}")
    config = configs.update(Config(), {"data": {"root": str(root)}, "network": {"points": 64}})
    with pytest.raises(ConfigError, match="evaluate.split: 'test' of .* holds no"):
        evaluate.evaluate(config, "cpu", pred_dir=tmp_path)
    folder = save_clouds(make_set(tmp_path / "other"), tmp_path / "clouds", 1024)
    (tmp_path / "other" / "splits" / "train_models.json").write_text("{}")
    words = ["--pred-dir", str(folder), "--set", f"data.root={tmp_path / 'other'}"]
    assert evaluate.main(words) == 2
    assert "data.train_split: 'train' of" in capsys.readouterr().err
    assert evaluate.main([*words, "--set", "evaluate.baselines=false"]) == 0
