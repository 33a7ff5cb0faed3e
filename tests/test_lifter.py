# SPDX-License-Identifier: MIT
"""Lifting of keypoints: network, rigs, views, baselines, and a run of seconds."""

import json

import pytest
import torch
import torch.nn.functional as F
from objects import make_set

from models import checkpoint, compare, evaluate, plots, step, train
from models import config as configs
from models.config import Config
from models.data import rigs
from models.networks.lifter import PRESETS, Attention, FourierFeatures, Lifter, Returns
from models.tasks import lifting, lifting_baselines, lifting_pictures, open_task
from pointloss import pa_mpjpe, procrustes

pytestmark = pytest.mark.usefixtures("one_cpu_thread")


def drawn_views(count=4, occlusion=0.3):
    """Views of the made-up bodies, each its own."""
    bodies = [rigs.skeleton_rig(name, bones, 8, 0) for name, bones in rigs.SKELETONS.items()]
    pool = rigs.Pool([bodies], "cpu", occlusion)
    return pool.draw(torch.rand(count, rigs.TURNS))


def see(network, views):
    with torch.no_grad():
        return network(views.keypoints, views.mask, views.edges)[0]


# ---- the network


@pytest.mark.parametrize("preset", sorted(name for name in PRESETS if name.startswith("tiny")))
def test_the_order_of_the_joints_does_not_matter(preset):
    network, views = Lifter(preset).eval(), drawn_views()
    order = torch.randperm(rigs.JOINTS)
    turned = rigs.Views(
        views.keypoints[:, order],
        views.mask[:, order],
        views.edges[:, order][:, :, order],
        views.truth[:, order],
        views.size,
    )
    expected = see(network, views)[:, order]
    torch.testing.assert_close(see(network, turned), expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_joints_that_are_not_visible_change_nothing_and_are_0():
    network, views = Lifter("tiny").eval(), drawn_views()
    shape = see(network, views)
    hidden = ~views.mask
    assert (shape[hidden] == 0).all()
    assert shape[views.mask].isfinite().all()
    other = views._replace(keypoints=views.keypoints + 7 * hidden[..., None])
    assert torch.equal(see(network, other), shape)
    # A tensor that is wider by joints that are not there gives the same.
    few = slice(0, int(views.edges.any(1).nonzero()[:, 1].max()) + 1)
    assert few.stop < rigs.JOINTS
    short = network(views.keypoints[:, few], views.mask[:, few], views.edges[:, few, few])[0]
    torch.testing.assert_close(short, shape[:, few], rtol=0, atol=1e-5)


def test_a_joint_that_is_not_visible_still_joins_its_neighbours():
    chain = torch.zeros(1, 6, 6, dtype=torch.bool)
    chain[0, range(5), range(1, 6)] = chain[0, range(1, 6), range(5)] = True
    keypoints, mask = torch.randn(1, 6, 2), torch.ones(1, 6, dtype=torch.bool)
    mask[0, 2] = False
    moved = keypoints.clone()
    moved[0, 3:] += 1
    network = Lifter("tiny-local").eval()  # whose 3 layers see as many bones far
    with torch.no_grad():
        change = network(moved, mask, chain)[0] - network(keypoints, mask, chain)[0]
    assert (change[0, :2] != 0).all()


def test_the_graph_matters_only_to_local_attention_and_the_walks(monkeypatch):
    for branch in ("local", "global"):
        both = PRESETS["tiny"]._replace(walk=0, branches=(branch, branch))
        monkeypatch.setitem(PRESETS, f"only-{branch}", both)
    views = drawn_views(occlusion=0.0)
    order = torch.tensor([*range(1, 10), 0, *range(10, rigs.JOINTS)])  # of the joints in all bodies
    rewired = views._replace(edges=views.edges[:, order][:, :, order])
    for preset, alike in (
        ("tiny", False),
        ("tiny-global", False),
        ("tiny-plain", False),
        ("only-local", False),
        ("only-global", True),
    ):
        network = Lifter(preset).eval()
        assert torch.equal(see(network, views), see(network, rewired)) == alike, preset
    # Of a joint without neighbours local attention sees the joint alone.
    alone = views._replace(edges=torch.zeros_like(views.edges))
    network, moved = Lifter("only-local").eval(), views.keypoints.clone()
    moved[:, 1] += 1
    change = see(network, alone) - see(network, alone._replace(keypoints=moved))
    assert (change[:, 2:] == 0).all()


def test_walks_come_back_as_often_as_counted_by_hand():
    # A triangle 0 1 2 with a joint 3 at 2; joint 4 is not there.
    edges = torch.zeros(1, 5, 5, dtype=torch.bool)
    for a, b in ((0, 1), (1, 2), (0, 2), (2, 3)):
        edges[0, a, b] = edges[0, b, a] = True
    returns = Returns(3, 3)
    torch.nn.init.eye_(returns.read.weight)
    torch.nn.init.zeros_(returns.read.bias)
    count, two, three = (returns(edges)[0] / torch.tensor([1 / 4, 3, 3])).unbind(-1)
    assert count.tolist() == [2, 2, 3, 1, 0]
    # Back after 2 steps from 0: by 1, 1/2 1/2, or by 2, 1/2 1/3.
    torch.testing.assert_close(two, torch.tensor([5 / 12, 5 / 12, 2 / 3, 1 / 3, 0]))
    # After 3: round the triangle, either way.
    torch.testing.assert_close(three, torch.tensor([1 / 6, 1 / 6, 1 / 6, 0, 0]))


def test_attention_is_that_of_torch():
    attention, x = Attention(16, 2), torch.randn(3, 5, 16)
    allowed = torch.rand(3, 4, 5, 5) < 0.5
    allowed = allowed | torch.eye(5, dtype=torch.bool)
    bias = torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, -torch.inf)
    query, key, value = attention.qkv(x).view(3, 5, 3, 4, 8).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(query, key, value, allowed)
    torch.testing.assert_close(attention(x, bias), expected.transpose(1, 2).flatten(2))


def test_fourier_features_have_the_kernel_of_a_gaussian():
    features = FourierFeatures(8192, spread=2.0)
    x, y = torch.tensor([[[0.3, -0.1]]]), torch.tensor([[[0.5, 0.2]]])
    found = (features(x) * features(y)).sum().item()
    assert found == pytest.approx(torch.exp(-2 * (x - y).square().sum()).item(), abs=0.05)
    assert not list(features.parameters())


# ---- the data


def test_a_view_is_the_truth_without_its_depth():
    views = drawn_views(64)
    count = views.mask.sum(1)
    assert torch.equal(views.keypoints, views.truth[..., :2])
    assert (views.truth[~views.mask] == 0).all()
    torch.testing.assert_close(views.truth.sum(1), torch.zeros(64, 3), rtol=0, atol=1e-4)
    spread = (views.keypoints.square().sum((1, 2)) / count).sqrt()
    torch.testing.assert_close(spread, torch.ones(64))
    assert (views.size >= 1).all()
    assert (views.edges == views.edges.transpose(1, 2)).all()


def test_as_many_joints_are_hidden_as_asked():
    bones = rigs.SKELETONS["hand"]
    pool = rigs.Pool([[rigs.skeleton_rig("hand", bones, 4, 0)]], "cpu", 0.3)
    shown = pool.draw(torch.rand(500, rigs.TURNS)).mask.sum(1)
    assert shown.max() == len(bones) == 21
    assert shown.min() == 21 - 6  # 30 %
    assert len(shown.unique()) == 7
    pool.occlusion = 0.0
    assert (pool.draw(torch.rand(50, rigs.TURNS)).mask.sum(1) == 21).all()


def test_views_of_one_shape_are_one_shape():
    rig = rigs.skeleton_rig("biped", rigs.SKELETONS["biped"], 1, 0)
    views, number = lifting.views_of([rig], 5, 0.0, seed=0)
    assert number.tolist() == [0] * 5
    first = views.truth[:1].expand(5, -1, -1)
    assert (pa_mpjpe(first, views.truth, mask=views.mask) < 1e-5).all()
    assert (views.truth[1:] - first[1:]).abs().amax((1, 2)).min() > 0.05


def test_bones_keep_their_lengths_and_joints_turn():
    bones = rigs.SKELETONS["quadruped"]
    numbers = torch.rand(1, len(bones), 4).expand(6, -1, -1).clone()
    numbers[..., 1:] = torch.rand(6, len(bones), 3)  # one animal in six poses
    shapes = rigs.pose(bones, numbers)
    parents = [bone[0] for bone in bones[1:]]
    length = (shapes[:, 1:] - shapes[:, parents]).norm(dim=2)
    ratio = length / length[:, :1]  # the size is that of the pose's box
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert (pa_mpjpe(shapes[:1].expand(6, -1, -1), shapes)[1:] > 0.01).all()


def test_turns_are_rotations():
    turns = rigs.turn(torch.randn(50, 3, dtype=torch.float64))
    identity = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    torch.testing.assert_close(turns @ turns.transpose(1, 2), identity)
    assert (torch.linalg.det(turns) > 0).all()
    small = rigs.turn(torch.tensor([0.0, 0.0, 1e-3], dtype=torch.float64))
    assert small[1, 0].item() == pytest.approx(1e-3, rel=1e-5)


def test_a_rig_finds_the_same_place_on_moved_copies():
    cloud = torch.rand(64, 3) * torch.tensor([1.0, 0.5, 0.2])
    shift = torch.tensor([[0.0, 0, 0], [0.02, 0, 0], [0, -0.02, 0]])
    clouds = cloud + shift[:, None]
    one, two = rigs.assigned_rigs("box", ["a", "b", "c"], clouds, 2, (6, 8))
    assert one.joints.sum() == 6
    assert two.joints.sum() == 8
    torch.testing.assert_close(
        one.shapes[1:, :6] - one.shapes[:1, :6],
        shift[1:, None].expand(2, 6, 3),
        rtol=0,
        atol=1e-6,
    )
    assert (one.edges == one.edges.T).all()
    assert not one.edges.diagonal().any()
    assert (one.edges.sum(1)[:6] >= 3).all()
    assert not one.edges[6:].any()


def test_every_group_is_drawn_equally_often():
    def rig(value):
        bones = rigs.SKELETONS["biped"]
        made = rigs.skeleton_rig(str(value), bones, 2, value)
        edges = torch.zeros_like(made.edges)
        edges[0, value] = True
        return rigs.Rig("", "", made.shapes, made.objects, made.joints, edges)

    pool = rigs.Pool([[rig(0)], [rig(1), rig(2)]], "cpu", 0.0)
    edges = pool.draw(torch.rand(4000, rigs.TURNS)).edges
    share = [edges[:, 0, i].float().mean().item() for i in range(3)]
    assert share == pytest.approx([0.5, 0.25, 0.25], abs=0.04)


# ---- loss and baselines


def test_the_loss_knows_a_shape_in_any_frame_only_with_procrustes():
    views = drawn_views()
    turned = 3 * views.truth @ rigs.turn(torch.randn(4, 3)) + 1
    assert (lifting_baselines.masked_error(turned, views, align=True) < 1e-8).all()
    assert (lifting_baselines.masked_error(turned, views, align=False) > 0.1).all()
    depths = views.truth * torch.tensor([1.0, 1, 0])
    found = lifting_baselines.masked_error(depths, views, align=False)
    lost = views.truth[..., 2].square().sum(1) / (3 * views.mask.sum(1) * views.size.square())
    torch.testing.assert_close(found, lost)


def test_the_gradient_of_the_loss_is_that_through_the_fit():
    views = drawn_views()
    shape = (views.truth + 0.2 * torch.randn(4, rigs.JOINTS, 3)).requires_grad_()
    fitted = procrustes(shape, views.truth, mask=views.mask).apply(shape)
    through = lifting_baselines.masked_error(fitted, views, align=False)
    held = lifting_baselines.masked_error(shape, views, align=True)
    torch.testing.assert_close(held, through)
    for one, two in zip(
        torch.autograd.grad(held.sum(), shape),
        torch.autograd.grad(through.sum(), shape),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_known_shape_is_placed_by_its_keypoints():
    views = drawn_views(32, occlusion=0.0)
    turned = (0.5 * views.truth) @ rigs.turn(torch.randn(32, 3)) + 2
    placed = lifting_baselines.place(turned, views) * views.mask[..., None]
    # The rounds come closer by a factor each, which is near 1 for a flat shape.
    torch.testing.assert_close(placed, views.truth, rtol=0, atol=2e-2)


def test_pca_finds_a_shape_that_its_components_span():
    generator = torch.Generator().manual_seed(0)
    bases = torch.randn(3, rigs.JOINTS, 3, generator=generator)
    parts = torch.randn(200, 2, generator=generator)
    shapes = bases[0] + 0.2 * torch.einsum("sk,knc->snc", parts, bases[1:])
    joints = torch.ones(rigs.JOINTS, dtype=torch.bool)
    edges = torch.zeros(rigs.JOINTS, rigs.JOINTS, dtype=torch.bool)
    rig = rigs.Rig("r", "r", shapes, ["o"] * 200, joints, edges)
    views, number = lifting.views_of([rig.of(range(5))], 1, 0.0, seed=0)
    found = lifting_baselines.Bases([rig], "cpu")
    error = pa_mpjpe(found.fit(views, number, 1e-4, rounds=30), views.truth)
    assert (error < 0.1 * pa_mpjpe(found.mean[number], views.truth)).all()


def test_the_nearest_view_is_found_also_where_joints_are_hidden():
    rig = rigs.skeleton_rig("hand", rigs.SKELETONS["hand"], 1, 0)
    pool = rigs.Pool([[rig]], "cpu", 0.3)
    generator = torch.Generator().manual_seed(1)
    numbers = torch.rand(lifting_baselines.BANK, rigs.TURNS, generator=generator)[:4]
    views = pool.draw(numbers)  # views of the bank, with hidden joints
    found = lifting_baselines.nearest_view([rig], "cpu")(views, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(found * views.mask[..., None], views.truth, rtol=0, atol=1e-4)


def test_each_mlp_has_its_own_weights_and_learns():
    bodies = [rigs.skeleton_rig(n, rigs.SKELETONS[n], 4, 0) for n in ("biped", "hand")]
    config = configs.update(
        Config(), {"lifting": {"occlusion": 0.0}, "optim": {"lr": 5e-3, "average": 0.0}}
    )
    task = lifting.FixedOrderTask(config, "cpu", bodies, each=16)
    mlp = lifting.train_fixed_order(task, steps=30)
    views, number = lifting.views_of(bodies, 2, 0.0, seed=0)
    errors = {}
    for name, order in (("own", number), ("other", 1 - number)):
        errors[name] = lifting_baselines.masked_error(mlp.of(views, order), views, True).mean()
    assert errors["own"] < 0.7 * errors["other"]


def test_an_mlp_has_the_steps_and_the_views_of_its_rig_that_the_lifter_has(words, few, monkeypatch):
    path, settings = words[1], [w for w in words[2:] if w != "--set"]
    config = configs.override(configs.load(path), [*settings, "optim.batch_size=64"])
    task, asked = open_task(config, "cpu"), []

    def train_fixed_order(made, steps):
        asked.append((len(made.rig) // len(made.fixed.counts), steps))
        return lifting_baselines.FixedOrder(1, 8)

    monkeypatch.setattr(lifting, "train_fixed_order", train_fixed_order)
    task._baselines({"history": 5 * [{}]})
    # 64 views are of 4 groups of rigs, of which the smallest, the clouds, has 1.
    assert len(task.rigs.train[0]) == 1
    assert asked == [(16, 15)]
    # Further rigs of a category: drawn, of its training shapes, never with the tested number.
    further = task.rigs.train[3]
    assert len(further) == task.config.lifting.rigs
    assert all(rig.objects == task.rigs.train[0][0].objects for rig in further)
    counts = {int(rig.joints.sum()) for rig in further}
    assert len(counts) > 3
    assert task.config.lifting.other_anchors not in counts


def test_the_poses_of_a_drawn_tree_are_one_item():
    trees = [rigs.skeleton_rig(n, rigs.SKELETONS["hand"], 3, 0) for n in ("tree 0", "tree 1")]
    for group, count in ((lifting.DRAWN, 2), (lifting.SEEN, 6)):
        items = lifting._items(group, trees)
        assert len(items) == count
        assert lifting._item_sizes(group, trees, 4) == count * [24 // count]


def test_a_picture_shows_a_view_of_each_group(tmp_path):
    hand = rigs.skeleton_rig("hand", rigs.SKELETONS["hand"], 3, 0)
    views, number = lifting.views_of([hand], 1, 0.3, seed=0)
    shown = lifting_pictures.choose("seen", [hand], number, views, 2 * views.truth, [3.0, 1, 2])
    assert [picture.label for picture in shown] == ["seen\nhand\nPA-MPJPE 2.0 %"]
    assert len(shown[0].truth) == views.mask[2].sum()
    torch.testing.assert_close(shown[0].shape, shown[0].truth)
    lifting_pictures.draw(tmp_path / "picture.png", shown)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


# ---- a run


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Arguments of a run of a few steps on a made-up set, of which tables are held out."""
    root = make_set(tmp_path_factory.mktemp("lifter") / "set")
    values = {
        "data.root": json.dumps(str(root)),
        "data.train_split": '"train"',
        "lifting.held_out": '"table hexapod"',
        "lifting.poses": 64,
        "lifting.trees": 4,
        "lifting.views": 1,
        "optim.batch_size": 8,
        "optim.epoch_steps": 3,
        "optim.epochs": 2,
        "optim.warmup": 0,
    }
    config = str(train.DEFAULT.parent / "lifter-tiny.toml")
    pairs = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return ["--config", config, *pairs]


@pytest.fixture
def few(monkeypatch):
    """The made-up set has 4 training objects a category; less to be scored, nothing to be drawn."""
    monkeypatch.setattr(lifting, "FEWEST", 4)
    monkeypatch.setattr(lifting, "TEST_POSES", 4)
    monkeypatch.setattr(lifting, "TEST_TREES", 2)
    monkeypatch.setattr(lifting_baselines, "BANK", 16)
    monkeypatch.setattr(lifting_baselines, "WEIGHTS", (1e-2,))
    monkeypatch.setattr(lifting_pictures, "draw", lambda path, pictures: path.touch())
    monkeypatch.setattr(plots, "loss_curves", lambda metrics, picture: picture.touch())


def test_training_without_drawn_trees_is_validated_without_them(words, few):
    config = configs.load(train.DEFAULT.parent / "lifter-tiny.toml")
    config = configs.override(config, [*words[3::2], "lifting.trees=0"])
    opened = lifting.open_rigs(config)
    assert not opened.train[2]
    assert len(opened.val) == len(opened.seen)


def test_a_run_of_the_tiny_config_is_scored_beside_every_baseline(words, few, tmp_path, capsys):
    out = tmp_path / "run"
    assert train.main(["--out", str(out), *words]) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert "views/s; " in shown.out + shown.err
    record = json.loads((out / "results.json").read_text())
    free = {"flat"}
    known = {"mean shape", "PCA", "MLP, fixed order", "nearest view"}
    for group, others in (
        (lifting.SEEN, free | known),
        (lifting.OTHER, free | {f"{name}, rig known" for name in known}),
        (lifting.DRAWN, free),
        (lifting.UNSEEN, free),
    ):
        methods = {row["method"] for row in record["rows"] if row["group"] == group}
        assert methods == {"lifter", *others}
    groups = {row["group"]: row["category"] for row in record["objects"]}
    assert set(groups) == {lifting.SEEN, lifting.OTHER, lifting.DRAWN, lifting.UNSEEN}
    unseen = {r["category"] for r in record["objects"] if r["group"] == lifting.UNSEEN}
    assert unseen == {"table", "hexapod"}
    assert (out / "reconstructions.png").exists()
    names = [row["object"] for row in record["objects"]]
    assert len(set(names)) == len(names)
    # The same weights give the same table, and two results can be put side by side.
    assert evaluate.main([str(out)]) == 0
    assert json.loads((out / "results.json").read_text())["scores"] == record["scores"]
    assert evaluate.main([str(out), "--samples", "4"]) == 2
    assert "--samples: lifter has no use for it" in capsys.readouterr().err
    fewer = ["--views", "2", "--split", "val", "--set", "evaluate.baselines=false"]
    assert evaluate.main([str(out), *fewer]) == 0
    text = (out / "split=val,views=2,baselines=False" / "results.md").read_text()
    assert "2 orthographic views of each shape" in text
    assert "WARNING: the best epoch was chosen on this very split" in text
    assert "PCA" not in text.partition("## ")[2]
    assert compare.main([f"a={out}", f"b={out}", "--protocol", lifting.SEEN]) == 0
    assert "PA-MPJPE" in capsys.readouterr().out


def test_interrupt_and_resume_give_the_straight_run(words, few, tmp_path, monkeypatch):
    monkeypatch.setattr(lifting.Lifting, "evaluate", lambda *_: "")
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert train.main(["--out", str(straight), *words]) == 0
    calls, call = [], step.Step.__call__

    def interrupting(*args):
        calls.append(1)
        if len(calls) == 5:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return call(*args)

    monkeypatch.setattr(step.Step, "__call__", interrupting)
    assert train.main(["--out", str(parts), *words]) == train.INTERRUPTED
    monkeypatch.setattr(step.Step, "__call__", call)
    assert train.main(["--resume", str(parts)]) == 0
    one, two = (checkpoint.load(run / checkpoint.NAME) for run in (straight, parts))
    for part in ("network", "trained"):
        for key, value in one[part].items():
            assert torch.equal(value, two[part][key]), key
    assert one["history"][1]["val_pa_mpjpe"] == two["history"][1]["val_pa_mpjpe"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lifting.other_anchors=30", "lifting.other_anchors: expected 24 or less"),
        ("lifting.occlusion=0.9", "lifting.occlusion: expected 0.5 or less"),
        ("optim.epoch_steps=0", "optim.epoch_steps: views are drawn without end"),
        ("evaluate.protocol=plain", "evaluate.protocol: lifter has no use for it"),
        ("network.preset=huge", "network.preset: expected one of default"),
        ("data.root=nowhere", "nowhere"),
    ],
)
def test_settings_that_do_not_fit_are_told(words, setting, message, tmp_path, capsys):
    assert train.main(["--out", str(tmp_path / "run"), *words, "--set", setting]) == 2
    assert message in capsys.readouterr().err


def test_without_a_category_that_is_large_enough_there_is_no_run(words, tmp_path, capsys):
    assert train.main(["--out", str(tmp_path / "run"), *words]) == 2
    assert "no category has 5 training objects" in capsys.readouterr().err


@pytest.mark.parametrize("procrustes", [True, False])
def test_steps_lower_the_loss(words, few, procrustes):
    path, settings = words[1], [w for w in words[2:] if w != "--set"]
    config = configs.override(configs.load(path), settings)
    config = configs.update(config, {"lifting": {"procrustes": procrustes}})
    task = open_task(config, "cpu")
    task.batches()
    run = train.begin(task)
    take = step.Step(run.trained, run.trained.network, task)
    losses = [take((), 2e-3)[0].item() for _ in range(20)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_how_a_shape_is_stretched_says_nothing_of_the_view(monkeypatch):
    monkeypatch.setattr(rigs, "STRETCH", 0.0)
    pool = rigs.Pool([[rigs.skeleton_rig("hand", rigs.SKELETONS["hand"], 4, 0)]], "cpu", 0.0)
    numbers = torch.rand(20, rigs.TURNS)
    others = numbers.clone()
    others[:, 4:7] = torch.rand(20, 3)
    assert torch.equal(pool.draw(numbers).keypoints, pool.draw(others).keypoints)
