# SPDX-License-Identifier: MIT
"""The HTML page: whole, without the network, and with the numbers that were put in."""

import base64
import json

import numpy as np
import pytest
import torch
from objects import make_set
from pages import check_alone, data_of
from runs import make_run

from models import page, viewer
from pointloss import chamfer

pytestmark = pytest.mark.usefixtures("one_cpu_thread")


def array(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def cloud_of(packed):
    return array(packed["points"], "<i2").reshape(-1, 3) / 32767 * packed["reach"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    root = make_set(folder / "set")
    run = make_run(root, folder / "run")
    (run / "metrics.csv").write_text(
        "epoch,lr,cd,val_cd,minutes\n1,.1,0.25,nan,1\n2,.1,0.2,0.4,2\n"
    )
    return root, run


def test_a_page_gives_back_what_was_put_in():
    torch.manual_seed(0)
    points, truth = torch.randn(50, 3), torch.rand(60, 3)
    cloud = viewer.judge(points, truth, torch.rand(50))
    image = torch.rand(3, 8, 8)
    name = "</script><b>chair"
    html = page.page("T", [], ["a"], [page.Shown(name, "c", image, truth, {"a": cloud})])
    check_alone(html)
    (shown,) = data_of(html)["objects"]
    assert shown["name"] == name
    reach = points.abs().max().item()
    packed = shown["clouds"]["a"]
    assert np.abs(cloud_of(packed) - points.numpy()).max() <= reach / 65534 * 1.01
    assert np.abs(cloud_of(shown["truth"]) - truth.numpy()).max() <= 1 / 65534 * 1.01
    assert packed["cd"] == pytest.approx(100 * chamfer(points, truth, squared=False).item())
    limit = data_of(html)["limits"]["distance"]
    exact = torch.cdist(points, truth).min(dim=1).values.numpy()
    shaded = array(packed["distance"], "u1") / 255 * limit
    assert np.abs(shaded - exact.clip(max=limit)).max() <= limit / 500
    assert len(array(packed["missed"], "u1")) == 60
    assert len(array(packed["spread"], "u1")) == 50


def test_the_page_of_a_run(world, tmp_path):
    _, run = world
    out = tmp_path / "new" / "page.html"
    assert viewer.main([str(run), "--out", str(out), "--device", "cpu"]) == 0
    html = out.read_text()
    check_alone(html)
    data = data_of(html)
    assert data["systems"] == ["run"]
    assert [o["name"].split("/")[:2] for o in data["objects"]] == [
        ["03001627", "m5"],
        ["04379243", "m5"],
    ]
    assert [o["name"][-2:] for o in data["objects"]] == ["00", "01"]  # another side of each
    assert data["objects"][0]["camera"] == [90, 27]
    results = json.loads((run / "results.json").read_text())
    charts = data["charts"]
    assert charts["curves"]["run"] == {"epoch": [1, 2], "cd": [0.25, 0.2], "val_cd": [None, 0.4]}
    assert charts["compute"]["run"] == pytest.approx(results["cost"]["macs"] / 1e9, abs=1e-4)
    protocol = results["rows"][0]["protocol"]
    own = {
        row["category"]: row["CD"]
        for row in results["rows"]
        if (row["protocol"], row["method"]) == (protocol, results["method"])
    }
    found = {key: value["CD"] for key, value in charts["errors"]["run"].items()}
    assert found == pytest.approx(own, abs=1e-4)
    assert results["conventions"][protocol][0] in data["notes"]
    for word in ("best", "median", "worst", "requestAnimationFrame", "onpointermove"):
        assert word in html


def test_systems_of_different_sizes_share_a_truth(world, tmp_path):
    root, run = world
    second = make_run(root, tmp_path / "second", points=256)
    out = tmp_path / "page.html"
    words = ["--out", str(out), "--device", "cpu", "--objects", "1"]
    assert viewer.main([str(run), str(second), *words]) == 0
    (shown,) = data_of(out.read_text())["objects"]
    assert len(cloud_of(shown["truth"])) == 64
    for name, points in (("run", 64), ("second", 256)):
        packed = shown["clouds"][name]
        assert len(cloud_of(packed)) == len(array(packed["distance"], "u1")) == points
        assert len(array(packed["missed"], "u1")) == 64  # a value for each point of the truth


def test_the_same_runs_give_the_same_page(world, tmp_path):
    pages = []
    for name in ("a.html", "b.html"):
        assert viewer.main([str(world[1]), "--out", str(tmp_path / name), "--device", "cpu"]) == 0
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_runs_on_other_objects_do_not_share_a_page(world, tmp_path, capsys):
    root, run = world
    other = make_set(tmp_path / "set")
    (other / "splits" / "test_models.json").write_text('{"03001627": ["03001627/m5"]}')
    second = make_run(other, tmp_path / "second")
    words = ["--out", str(tmp_path / "page.html"), "--device", "cpu"]
    assert viewer.main([str(run), str(second), *words]) == 2
    assert f"{second}: evaluated on other objects than {run}" in capsys.readouterr().err
    assert viewer.main([str(run), str(run), *words]) == 2
    assert "two of the runs are called" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "chosen"), [(9, [0, 1, 2, 3, 4]), (5, [0, 1, 2, 3, 4]), (3, [0, 2, 3]), (1, [3])]
)
def test_best_median_and_worst_are_among_few(wanted, chosen):
    assert viewer.spaced([5.0, 2.0, 3.0, 1.0, 4.0], wanted) == chosen
