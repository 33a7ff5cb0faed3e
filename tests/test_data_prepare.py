# SPDX-License-Identifier: MIT
"""Sources of meshes: packages, catalogues, folders; and what happens to a bad one."""

import io
import json
import zipfile

import numpy as np
import pytest
from meshes import ac3d, box, deb, needs_renderer, obj

from models.data import contact_sheet
from models.data.camera import read_metadata
from models.data.categories import category_of
from models.data.dataset import ReconstructionDataset
from models.data.prepare import __main__ as prepare
from models.data.prepare import objects
from models.data.prepare.archives import PrepareError
from models.data.prepare.licences import CC0, CC_BY, FREE, FREE_ART, terms_of
from models.data.prepare.sources import debian, flightgear, meshes, sweethome
from models.data.prepare.sources.sweethome import LIBRARIES, LIBRARY_PACKAGE, parse_catalogue


def test_catalogue_and_categories():
    text = "# note\nid=x\nname#2=Chair\nname#1=Table lamp\\u20ac\nmodel#1=/a/b.obj\n"
    assert parse_catalogue(text) == [
        {"name": "Table lamp\u20ac", "model": "/a/b.obj"}, {"name": "Chair"}
    ]  # fmt: skip
    names = {"Table lamp": "lamp", "Bedside table": "cabinet", "Table tennis": None,
             "Wheelchair": "chair", "Corner sofa": "sofa", "Spoon": None, "TV 16:9": "monitor",
             "TV stand": "cabinet", "TV remote control": None, "TV plug": None, "Xylophone": None,
             "Mobile phone": "telephone", "Headphones": None, "Screen door": None,
             "Chest": "cabinet", "Chest freezer": None, "Flat TV": "monitor", "Class seat": "chair",
             "Seat Leon": "car", "Floor uplight": "lamp", "Wall spotlight": "lamp",
             "White light source": None, "Car model": None}  # fmt: skip
    assert {name: category_of(name) for name in names} == names


def test_a_models_own_licence_overrules_the_library():
    texts = {
        "Released under\nCreative Commons Zero (Public Domain)": CC0,
        "Released under Creative Commons Attribution 3.0": CC_BY,
        "Creative Commons Attribution-ShareAlike 3.0": None,
        "https://creativecommons.org/licenses/by-nc/3.0/": None,
        "nothing of note": CC0,
    }
    for text, expected in texts.items():
        with zipfile.ZipFile(io.BytesIO(), "w") as archive:
            archive.writestr("lib/a/LICENSE.TXT", text)
            archive.writestr("lib/LICENSE.TXT", "licenses/by-nc/3.0")  # another folder's
            assert terms_of(archive, "lib/a/a.obj", "Me", CC0).licence is expected


def test_a_copyleft_library_is_asked_for_by_name(tmp_path):
    package = sweethome.NONFREE_PACKAGE
    for name in LIBRARIES[package]:
        with zipfile.ZipFile(tmp_path / f"{name}.sh3f", "w") as archive:
            lines = "name#1=Desk\nmodel#1=/a/desk.obj\ncreator#1=Me\n"
            archive.writestr("PluginFurnitureCatalog.properties", lines)
            archive.writestr("a/desk.obj", "")
    items = sweethome.collect_libraries(package, tmp_path, "1")
    assert {item.model for item in items} == {"contributions-desk", "lucapresidente-desk"}
    assert {item.terms.licence for item in items} == {FREE_ART}
    assert FREE_ART not in FREE
    assert package in debian.PACKAGES
    assert package not in debian.DEFAULT
    (tmp_path / "LucaPresidente.sh3f").unlink()
    with pytest.raises(PrepareError, match="no library LucaPresidente.sh3f"):
        sweethome.collect_libraries(package, tmp_path, "1")


@needs_renderer
def test_bad_arguments_get_one_line(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "full" / "manifest.json").write_text('["mine too"]')
    (tmp_path / "file").touch()
    (tmp_path / "mine" / "table").mkdir(parents=True)
    (tmp_path / "mine" / "table" / "a.obj").touch()
    new = str(tmp_path / "new")
    cases = [
        (["debian", str(tmp_path / "full")], "was not made by this command"),
        (["debian", str(tmp_path / "file")], "is a file"),
        (["debian", new, "--debs", str(tmp_path / "none")], "no such folder"),
        (["debian", new, "--debs", str(tmp_path / "full")], "no sweethome3d-furniture"),
        (["debian", new, "--views", "100"], "at most 99"),
        (["debian", new, "--contact-sheet", "a.jpg"], "ending in .png"),
        (["meshes", str(tmp_path / "none"), new], "no such folder"),
        (["meshes", str(tmp_path / "full"), new], "found no mesh"),
        (
            ["meshes", str(tmp_path / "mine"), new, "--categories", "tabel"],
            "no such mesh; of table",
        ),
    ]
    for words, message in cases:
        assert prepare.main(words) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error
    with pytest.raises(SystemExit):
        prepare.main(["debian", new, "--views", "0"])
    assert (tmp_path / "full" / "letter.txt").exists()


@pytest.fixture
def debs(tmp_path):
    """Packages with two tables and a broken one, two liveries of an aircraft, a ship, a lamp."""
    lines, data, empty = [], io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number, name in enumerate(("good", "broken", "red"), 1):
            lines += [f"name#{number}=Table", f"model#{number}=/lib/{name}/{name}.obj",
                      f"creator#{number}={name}", f"width#{number}=1"]  # fmt: skip
            text = obj(box(1, 0.5, 0.2 * number) * 100 + 7, "m")
            archive.writestr(f"lib/{name}/{name}.obj", "v 1 2" if name == "broken" else text)
            archive.writestr(f"lib/{name}/m.mtl", "newmtl m\nKd 1 0 0\n")
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "")
    first, *others = LIBRARIES[LIBRARY_PACKAGE]
    libraries = [(f"./usr/{first}.sh3f", data.getvalue())]
    libraries += [(f"./usr/{name}.sh3f", empty.getvalue()) for name in others]
    folder = tmp_path / "debs"
    folder.mkdir()
    deb(folder / "sweethome3d-furniture_9-1_all.deb", libraries)
    root = "./usr/share/games/flightgear/"
    plane = ac3d(box(4, 1, 3)).replace("kids 1", "kids 2", 1)
    # A wake twice as long as the aircraft, which must not count.
    wake = ac3d(box(9, 0.1, 0.1)).replace('"box"', '"Wake"')
    plane += wake[wake.index("OBJECT poly") :]
    aircraft = [(f"{root}AI/Aircraft/73{n}/Models/73{n}.ac", plane.encode()) for n in (5, 6)]
    aircraft.append((f"{root}AI/Aircraft/735/Models/light.ac", plane.encode()))
    aircraft.append((f"{root}AI/Traffic/other.ac", b"not wanted"))
    deb(folder / "flightgear-data-ai_1%3a9-1_all.deb", aircraft)
    ship = [(f"{root}Models/Maritime/Civilian/LargeFerry.ac", ac3d(box(1, 1, 4)).encode())]
    deb(folder / "flightgear-data-models_9-1_all.deb", ship)
    return folder


PACKAGES = ("sweethome3d-furniture", "flightgear-data-ai", "flightgear-data-models")


def tree(root):
    """{relative path: bytes} of all files."""
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@needs_renderer
def test_packages_are_prepared_and_a_broken_mesh_skipped(debs, tmp_path, capsys):
    words = ["--debs", str(debs), "--size", "16", "--views", "3", "--quiet", "--packages"]
    trees = []
    for out, jobs in ((tmp_path / "one", "1"), (tmp_path / "two", "2")):
        assert prepare.main(["debian", str(out), *words, *PACKAGES, "--jobs", jobs]) == 0
        assert "broken.obj" in capsys.readouterr().err
        trees.append(tree(out))
    assert trees[0] == trees[1]  # the number of processes changes nothing
    objects = json.loads(trees[0][next(p for p in trees[0] if p.name == "manifest.json")])[
        "objects"
    ]
    by_name = {r["model"]: r for r in objects}
    assert set(by_name) == {"blendswap-cc-0-good", "blendswap-cc-0-red", "fg-735-735",
                            "fg-736-736", "fg-civilian-largeferry"}  # fmt: skip
    plane = by_name["fg-735-735"]
    assert plane["family"] == by_name["fg-736-736"]["family"] == "flightgear/boeing-737"
    assert (plane["source"]["version"], plane["licence"]) == ("1:9-1", "GPL-2.0-or-later")
    assert plane["scale"] == 0.25  # the wake is left out
    tables = [r["split"] for r in objects if r["category"] == "table"]
    assert sorted(tables) == ["test", "train"]  # of two tables, one is kept for the test
    for model, extent in (("fg-735-735", (0.75, 0.25, 1)), ("fg-civilian-largeferry", (0.25,) * 3)):
        cloud = tmp_path / "one" / "ShapeNet_pointclouds" / by_name[model]["synset"] / model
        points = np.load(cloud / "pointcloud_2048.npy").astype(float)
        if model == "fg-735-735":  # nose along -x: now along +z
            np.testing.assert_allclose(np.ptp(points, axis=0), extent, atol=0.01)
    train = ReconstructionDataset(tmp_path / "one", "train", geometry=True)
    sample = train[0]
    assert (sample.image[0] > sample.image[1]).any()  # the material's red arrived
    assert ((sample.depth > 0) == (sample.normal != 0).any(dim=0)).all()
    assert contact_sheet.contact_sheet(tmp_path / "one").size[0] > 16
    assert contact_sheet.main([str(tmp_path / "one"), str(tmp_path / "sheets")]) == 0
    names = {path.stem for path in (tmp_path / "sheets").iterdir()}
    assert names == {"airplane", "table", "vessel"}


def in_order(task, items, jobs, limits, *arguments):
    """workers.in_processes without processes, so that a test sees and stops what happens."""
    yield from ((item, task(item, *arguments)) for item in items)


@needs_renderer
def test_a_mesh_that_has_changed_is_done_again(tmp_path):
    path, written = tmp_path / "in" / "box" / "a.obj", []
    path.parent.mkdir(parents=True)
    options = objects.Options(tmp_path / "out", size=16, views=2, points=(64,))

    def make(sides):
        path.write_text(obj(box(*sides)))
        (item,) = meshes.collect(tmp_path / "in", "y", "", "unknown")
        built = objects.build_one(item, writing, options, tmp_path / "work")
        return built.record["source"]["sha256"]

    def writing(item, mesh, options):
        written.append(item.key)
        return objects.write_object(item, mesh, options)

    assert make((1, 2, 3)) == make((1, 2, 3))
    assert len(written) == 1
    assert make((1, 2, 3)) != make((3, 2, 1))
    assert len(written) == 2


@needs_renderer
def test_a_stopped_run_goes_on_where_it_stopped(debs, tmp_path, monkeypatch, capsys):
    words = [
        "debian",
        "--debs",
        str(debs),
        "--size",
        "16",
        "--views",
        "2",
        "--quiet",
        "--jobs",
        "1",
    ]
    assert prepare.main([*words, str(tmp_path / "straight"), "--packages", *PACKAGES]) == 0
    write, written = prepare.write_object, []
    monkeypatch.setattr(objects, "in_processes", in_order)

    def stopping(item, mesh, options):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(item.key)
        return write(item, mesh, options)

    out = tmp_path / "parts"
    monkeypatch.setattr(prepare, "write_object", stopping)
    assert prepare.main([*words, str(out), "--packages", *PACKAGES]) == 130
    assert "goes on from here" in capsys.readouterr().err
    # What is damaged meanwhile is made again.
    next((out / "ShapeNet_pointclouds" / written[0]).glob("*2048.npy")).write_bytes(b"")
    again = []
    monkeypatch.setattr(
        prepare, "write_object", lambda i, m, o: again.append(i.key) or write(i, m, o)
    )
    assert prepare.main([*words, str(out), "--packages", *PACKAGES]) == 0
    assert written[0] in again
    assert written[1] not in again
    assert tree(out) == tree(tmp_path / "straight")


@needs_renderer
@pytest.mark.parametrize("image_size", [None, 128, 64])
def test_depth_and_camera_put_every_pixel_on_the_surface(tmp_path, image_size):
    sides = np.array([1, 0.5, 0.7])
    for name in "ab":
        (tmp_path / "in" / "box").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "box" / f"{name}.obj").write_text(obj(box(*sides)))
    words = ["meshes", str(tmp_path / "in"), str(tmp_path / "out"), "--views", "3", "--quiet"]
    assert prepare.main([*words, "--points", "2048", "--jobs", "1"]) == 0
    data = ReconstructionDataset(tmp_path / "out", "train", image_size, geometry=True)
    for sample in data:
        camera, depth = sample.camera, sample.depth.numpy()
        row, column = depth.nonzero()
        pixel = np.stack([column + 0.5, row + 0.5, np.ones(len(row))])
        seen = np.linalg.inv(camera.intrinsics.numpy()) @ pixel * depth[row, column]
        turn, shift = np.split(camera.extrinsics.numpy(), [3], axis=1)
        place = turn.T @ (seen - shift)
        # The box's surface is where the largest coordinate, in half sides, is 1.
        reach = np.abs(place) / (sides[:, None] / 2)
        # Nearest pixels of a smaller picture are half a pixel off, which moves them along a side.
        error = np.abs(reach.max(axis=0) - 1)
        assert np.quantile(error, 0.9) < (0.03 if image_size == 64 else 1e-3)
        normal = turn.T @ sample.normal.numpy()[:, row, column]
        side = np.abs(normal).argmax(axis=0)
        assert (side == reach.argmax(axis=0)).mean() > 0.95
        assert (np.sign(normal) == np.sign(place))[side, np.arange(len(side))].mean() > 0.99


@needs_renderer
def test_two_files_of_one_name_are_named(tmp_path):
    for name in ("a b.obj", "a_b.obj"):
        (tmp_path / "chair").mkdir(exist_ok=True)
        (tmp_path / "chair" / name).touch()
    with pytest.raises(PrepareError, match="chair/a b.obj and chair/a_b.obj would both be called"):
        meshes.collect(tmp_path, "y", "", "")


@needs_renderer
def test_a_folder_of_meshes(tmp_path, capsys):
    source, out = tmp_path / "mine", tmp_path / "out"
    for name in ("chair/a.obj", "chair/set/b.obj", "03001627x/c.obj", "chair/d.stl"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(obj(box(1, 2, 4)))
    (source / "chair" / "d.stl").write_text("solid nothing")
    (source / "chair" / "notes.txt").write_text("no mesh")
    (source / "chair" / "e.ac").write_text(ac3d(box(1, 2, 4) + 3))
    (source / "chair" / "e.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    (source / "chair" / "g.fbx").touch()
    (source / "chair" / "h.FBX").touch()
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "f").write_text(obj(box(4, 2, 1)))  # linked, as git-annex and DVC do
    (source / "chair" / "f.obj").symlink_to(tmp_path / "far" / "f")
    words = ["meshes", str(source), str(out), "--size", "16", "--views", "2", "--quiet"]
    assert prepare.main([*words, "--up", "z", "--licence", "MIT", "--author", "Me"]) == 0
    error = capsys.readouterr().err
    assert "d.stl" in error
    assert "not read: 2 .fbx" in error
    assert "both taken: chair/e.ac, chair/e.off" in error
    manifest = json.loads((out / "manifest.json").read_text())
    objects = {r["model"]: r for r in manifest["objects"]}
    assert set(objects) == {"a", "set_b", "c", "e_ac", "e_off", "f"}
    assert objects["a"]["synset"] == "03001627"
    assert objects["c"]["synset"] == "03001627x"
    assert (objects["a"]["licence"], objects["a"]["author"]) == ("MIT", "Me")
    # Four samplings of one shape: one family, whatever the files are called.
    alike = [objects[name] for name in ("a", "set_b", "c", "e_ac")]
    assert len({r["split"] for r in alike}) == len({r["family"] for r in alike}) == 1
    points = np.load(out / "ShapeNet_pointclouds" / "03001627" / "a" / "pointcloud_1024.npy")
    np.testing.assert_allclose(np.ptp(points.astype(float), axis=0), [0.25, 1, 0.5], atol=0.02)
    path = out / "ShapeNetRendering" / "03001627" / "a" / "rendering" / "rendering_metadata.txt"
    assert len(read_metadata(path.read_text())) == 2


def test_hidden_parts_leave_the_aircraft_whole():
    import re

    hidden = ["Wake", "Propeller.Fast", "propdisc", "no1propdisk ", "Prplr-disk-R", "LHFastprop",
              "prop-blur", "disqueHelice", "GiroHeliceDEL_01", "light-cone", "Chute", "Hose",
              "rect wake-big.png", "shadow", "FCanopy-Rain"]  # fmt: skip
    kept = [
        "fuselage",
        "nosecone",
        "Propeller",
        "no1propblades",
        "wing",
        "hull",
        "Trainer",
        "drain",
    ]
    assert all(re.search(flightgear.HIDDEN, name, re.I) for name in hidden)
    assert [name for name in kept if re.search(flightgear.HIDDEN, name, re.I)] == []
