# SPDX-License-Identifier: MIT
"""ShapeNet and Pix3D as people have them on disk: prepared, loaded, trained on, scored."""

import json
import sys

import numpy as np
import pytest
import torch
from meshes import box, needs_renderer, obj
from PIL import Image

from models import evaluate, train
from models.data.dataset import ReconstructionDataset
from models.data.prepare import __main__ as prepare
from models.data.prepare.sources import pix3d

CHAIR, TABLE = "03001627", "04379243"


@pytest.fixture
def shapenet(tmp_path):
    """Ten chairs and ten tables in 3D-R2N2's and 3D-LMNet's folders, three views each."""
    root, rng = tmp_path / "shapenet", np.random.default_rng(0)
    for synset, sides in ((CHAIR, (0.4, 1, 0.4)), (TABLE, (1, 0.3, 0.8))):
        for number in range(10):
            key = f"{synset}/{number:x}a0b"
            images = root / "ShapeNetRendering" / key / "rendering"
            clouds = root / "ShapeNet_pointclouds" / key
            images.mkdir(parents=True)
            clouds.mkdir(parents=True)
            (images / "renderings.txt").write_text("00.png\n01.png\n02.png\n")
            lines = [f"{rng.uniform(0, 360)} {rng.uniform(25, 30)} 0 0.8 25\n" for _ in range(3)]
            (images / "rendering_metadata.txt").write_text("".join(lines))
            width, height = (int(60 * side) for side in sides[:2])
            for view in range(3):
                picture = np.zeros((137, 137, 4), np.uint8)
                picture[68 - height : 68 + height, 68 - width : 68 + width] = (
                    9 * number,
                    90,
                    9,
                    255,
                )
                Image.fromarray(picture).save(images / f"{view:02d}.png")
            for points in (64, 1024, 2048):
                cloud = rng.uniform(-0.5, 0.5, (points, 3)) * sides
                np.save(clouds / f"pointcloud_{points}.npy", cloud)  # float64, as 3D-LMNet has it
    return root


def test_shapenet_is_checked_split_and_read(shapenet, tmp_path, capsys):
    (shapenet / "ShapeNetRendering" / CHAIR / "3a0b" / "rendering" / "01.png").unlink()
    (shapenet / "ShapeNet_pointclouds" / TABLE / "9a0b" / "pointcloud_2048.npy").unlink()
    for home in (shapenet / "ShapeNetRendering", shapenet / "ShapeNetRendering" / CHAIR):
        (home / ".DS_Store").write_text("stray")
    before = sorted(shapenet.rglob("*"))
    out = tmp_path / "out"
    assert prepare.main(["shapenet", str(shapenet), str(out), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert f"{CHAIR}/3a0b: 01.png" in captured.err
    assert f"{TABLE}/9a0b: no pointcloud_2048" in captured.err
    assert "18 objects" in captured.out
    assert sorted(shapenet.rglob("*")) == before
    # Without lists: the first 80 % of the sorted ids train, as in 3D-LMNet's lists.
    test = ReconstructionDataset(out, "test", image_size=128)
    assert test.objects == [f"{CHAIR}/8a0b", f"{CHAIR}/9a0b", f"{TABLE}/8a0b"]
    assert test[4].points.dtype == torch.float32
    assert test[4].camera.extrinsics[2, 3] == pytest.approx(0.8 * 1.75)
    assert test.width == 137
    assert test.front == "+x"
    # The same command again is no error, and finds what was put right.
    np.save(shapenet / "ShapeNet_pointclouds" / TABLE / "9a0b" / "pointcloud_2048.npy",
            np.zeros((2048, 3)))  # fmt: skip
    assert prepare.main(["shapenet", str(shapenet), str(out), "--quiet"]) == 0
    assert "19 objects" in capsys.readouterr().out


def test_3d_lmnets_lists_are_followed(shapenet, tmp_path):
    (shapenet / "splits").mkdir()
    lists = {"train": {CHAIR: [f"{CHAIR}/{n:x}a0b" for n in range(5, 10)]},
             "val": {CHAIR: [f"{CHAIR}/0a0b"], TABLE: [f"{TABLE}/1a0b"]}}  # fmt: skip
    for name, table in lists.items():
        (shapenet / "splits" / f"{name}_models.json").write_text(json.dumps(table))
    out = tmp_path / "out"
    assert prepare.main(["shapenet", str(shapenet), str(out), "--quiet"]) == 0
    assert len(ReconstructionDataset(out, "train").objects) == 4
    assert ReconstructionDataset(out, "test").objects == [f"{CHAIR}/0a0b", f"{TABLE}/1a0b"]
    assert ReconstructionDataset(out, "val").objects == [f"{CHAIR}/9a0b"]


def test_shapenet_errors_get_one_line(shapenet, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trimesh", None)  # not needed, and not the first to be missed
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    cases = [
        ([tmp_path / "empty", tmp_path / "out"], "no ShapeNetRendering/"),
        ([shapenet, shapenet], "one folder"),
        ([shapenet, tmp_path / "full"], "was not made by this command"),
    ]
    for words, message in cases:
        assert prepare.main(["shapenet", *map(str, words), "--quiet"]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error
    out = tmp_path / "index"
    assert prepare.main(["shapenet", str(shapenet), str(out), "--quiet"]) == 0
    # A set that is rendered into an index would land in the user's own ShapeNet.
    assert prepare.main(["meshes", str(shapenet), str(out), "--quiet"]) == 1
    assert "links to a data set of yours" in capsys.readouterr().err
    assert prepare.main(["meshes", str(shapenet), str(tmp_path / "new"), "--quiet"]) == 1
    assert (
        "pip install -e '.[data]' in the checkout, or pip install trimesh"
        in capsys.readouterr().err
    )


@pytest.fixture
def pix3d_folder(tmp_path):
    """Photos and models as Pix3D lays them out; one photo is occluded, one model lost."""
    root, index = tmp_path / "pix3d", []
    models = {"chair": ("A/a.obj", "B/b.obj", "C/c.obj", "D/d.obj", "LOST/e.obj"),
              "sofa": ("S/model.obj",), "bed": ("BED/bed.obj",)}  # fmt: skip
    for category, paths in models.items():
        for kind in ("img", "mask", "model"):
            (root / kind / category).mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(paths):
            model = root / "model" / category / path
            model.parent.mkdir(parents=True, exist_ok=True)
            if "LOST" not in path:
                model.write_text(obj(box(1, 2 - 0.4 * number, 0.5)))
            for photo in range(3):
                name = f"{category}/{number}{photo}"
                picture = np.full((60, 80, 3), 200, np.uint8)
                mask = np.zeros((60, 80), np.uint8)
                mask[10:50, 20:40] = 255
                picture[mask > 0] = (250, 10, 10)
                Image.fromarray(picture).save(root / "img" / f"{name}.jpg", quality=95)
                Image.fromarray(mask).save(root / "mask" / f"{name}.png")
                hidden = dict.fromkeys(("truncated", "occluded", "slightly_occluded"), False)
                hidden["occluded"] = photo == 2 and number == 0
                index.append({"img": f"img/{name}.jpg", "mask": f"mask/{name}.png",
                              "model": f"model/{category}/{path}", "category": category,
                              "bbox": [20, 10, 40, 50], **hidden})  # fmt: skip
    (root / "pix3d.json").write_text(json.dumps(index))
    return root


@needs_renderer
def test_pix3d_is_cut_sampled_and_read(pix3d_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "embreex", None)  # nothing is rendered
    out = tmp_path / "out"
    assert prepare.main(["pix3d", str(pix3d_folder), str(out), "--quiet", "--jobs", "1"]) == 0
    assert "LOST_e" in capsys.readouterr().err
    records = json.loads((out / "manifest.json").read_text())["objects"]
    assert {(r["category"], r["model"], r["views"]) for r in records} == {
        ("chair", "A_a", 2), ("chair", "B_b", 3), ("chair", "C_c", 3), ("chair", "D_d", 3),
        ("sofa", "S_model", 2),
    }  # fmt: skip
    data = ReconstructionDataset(out, "train")
    image = data[0].image
    assert image.shape == (3, 128, 128)
    covered = (image < 0.9).any(dim=0)
    # 20 x 40 pixels of the photo, the longer side made 93, in the middle.
    rows, columns = covered.any(dim=1).nonzero()[:, 0], covered.any(dim=0).nonzero()[:, 0]
    assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (93, pytest.approx(47, abs=1))
    assert abs(rows[0] + rows[-1] - 127) <= 2
    assert image[0, 64, 64] > 0.9 > 0.2 > image[1, 64, 64]  # the object's red, not its complement
    assert data[0].camera.azimuth.isnan()


@needs_renderer
def test_pix3d_errors_get_one_line(pix3d_folder, tmp_path, capsys):
    def fails(message, *words):
        assert prepare.main(["pix3d", str(pix3d_folder), str(tmp_path / "o"), *words]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error

    fails("has no synset", "--categories", "bed")
    (pix3d_folder / "pix3d.json").write_text('[{"category": "chair"}]')
    fails("entry 0: KeyError('truncated')")
    (pix3d_folder / "pix3d.json").write_text("[")
    fails("not JSON")
    (pix3d_folder / "pix3d.json").unlink()
    fails("no pix3d.json")


def test_pix3d_stays_in_its_folder(tmp_path):
    with pytest.raises(ValueError, match="leads out"):
        pix3d.photo_path(tmp_path, "img/../../secret.jpg")


@needs_renderer
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("source", ["shapenet", "pix3d"])
def test_trained_and_scored_on_what_was_prepared(source, request, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "pick_device", lambda name: "cpu")
    monkeypatch.setattr(evaluate, "pick_device", lambda name: "cpu")
    folder = request.getfixturevalue({"shapenet": "shapenet", "pix3d": "pix3d_folder"}[source])
    out, run = tmp_path / "out", tmp_path / "run"
    assert prepare.main([source, str(folder), str(out), "--quiet"]) == 0
    settings = {"data.root": json.dumps(str(out)), "data.image_size": 32, "optim.epochs": 1,
                "optim.batch_size": 4, "evaluate.views": 1}  # fmt: skip
    if source == "shapenet":
        settings |= {"network.points": 64, "augment.mirror": "z"}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert train.main(["--out", str(run), *words]) == 0
    assert evaluate.main([str(run)]) == 0
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert "chair" in {row["category"] for row in rows}
    assert all(np.isfinite(row["CD"]) for row in rows)
    assert "chair" in capsys.readouterr().out
