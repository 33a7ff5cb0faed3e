# SPDX-License-Identifier: MIT
"""The voxel network: its four latents, its loss terms, what is measured of it, whole runs."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from objects import make_set, settings

from models import config as configs
from models import distributed, evaluate, plots, train
from models.config import Config, ConfigError, Voxel
from models.networks.decoder import FEATURE
from models.networks.voxel import PRESETS, RESOLUTION, Volumes, VoxelNetwork
from models.tasks import open_task, voxel_plots
from models.tasks import voxel_latent as latent
from models.tasks.voxel_answers import (
    Split,
    mean_volume,
    mirrored,
    nearest_volumes,
    thin_iou,
)
from models.tasks.voxels import (
    TERMS,
    Objective,
    Truth,
    cross_entropy,
    turn,
)

pytestmark = pytest.mark.usefixtures("one_cpu_thread")

TINY = [name for name in PRESETS if name.endswith("-tiny")]
WEIGHTS = {
    "tl-tiny": ["voxel.w_again=1", "voxel.w_code=0.1"],
    "vae-tiny": ["voxel.w_kl=1e-4"],
    "hierarchical-tiny": ["voxel.w_kl=1e-4"],
    "disentangled-tiny": ["voxel.w_code=0.1", "voxel.w_azimuth=0.1", "voxel.w_swapped=0.5"],
}


def words(root, preset, **more):
    found = settings(
        root,
        network_name='"voxel"',
        network_preset=f'"{preset}"',
        voxel_source='"silhouette"',
        optim_epochs=1,
        evaluate_views=1,
        **more,
    )
    return found + [word for weight in WEIGHTS[preset] for word in ("--set", weight)]


def make_task(root, preset, *more):
    given = [word for word in words(root, preset) if word != "--set"]
    return open_task(configs.override(Config(), [*given, *more]), "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("voxel") / "set", points=(64, 256))


@pytest.mark.parametrize("preset", TINY)
def test_a_preset_gives_what_it_says(preset):
    network = VoxelNetwork(preset, 32)
    image, volumes = torch.rand(4, 3, 32, 32), (torch.rand(4, 32, 32, 32) > 0.8).float()
    noise = torch.randn(4, network.latent) if network.latent else None
    out = network(image, volumes, noise, torch.tensor([1, 2, 3, 0]))
    assert {name for name, field in out._asdict().items() if field is not None} == network.gives()
    assert out.logits.shape == (4, *3 * [RESOLUTION])
    sum(field.sum() for field in out if field is not None and field.requires_grad).backward()
    assert all(p.grad is not None for p in network.parameters())
    network.eval()
    alone = network(image)
    again = network.decode(alone.code)
    assert torch.allclose(alone.logits, again, atol=1e-5)


@pytest.mark.parametrize("preset", ["vae-tiny", "hierarchical-tiny"])
def test_noise_moves_every_normal_variable(preset):
    network = VoxelNetwork(preset, 32).eval()
    image, noise = torch.rand(2, 3, 32, 32), torch.randn(2, network.latent)
    mean, drawn = network(image), network(image, noise=noise)
    assert torch.equal(mean.code, mean.mu)
    width = network.code  # those of the global code alone: below it the means change as well
    expected = noise * torch.exp(0.5 * drawn.logvar)
    assert torch.allclose((drawn.code - drawn.mu), expected, atol=1e-5)
    assert torch.allclose(drawn.mu[:, :width], mean.mu[:, :width])
    assert (network.latent > width) == (preset == "hierarchical-tiny")


def test_volumes_teach_the_code_and_the_image_follows():
    network = VoxelNetwork("tl-tiny", 32)
    out = network(torch.rand(2, 3, 32, 32), torch.ones(2, 32, 32, 32))
    assert not out.target.requires_grad
    TERMS["code"].value(Voxel(), out, None).backward()
    assert torch.allclose(out.code.square().mean(1), torch.ones(2), atol=1e-3)
    assert torch.allclose(out.target.square().mean(1), torch.ones(2), atol=1e-3)
    assert all(p.grad is None for p in network.volume_encoder.parameters())
    assert network.mu.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="only the preset tl encodes volumes"):
        VoxelNetwork("vae-tiny", 32).encode_volumes(torch.ones(1, 32, 32, 32))


def test_the_pose_code_does_not_reach_the_object_frame():
    network = VoxelNetwork("disentangled-tiny", 32).eval()
    code, pose = torch.randn(2, network.code), torch.randn(2, network.pose)
    assert not torch.allclose(network.decode(code), network.decode(code, pose))
    out = network(torch.rand(4, 3, 32, 32), partner=torch.tensor([1, 2, 3, 0]))
    assert torch.equal(out.target, out.code[[2, 3, 0, 1]])
    expected = network.decode(out.code, out.pose[[1, 2, 3, 0]])
    assert torch.allclose(out.swapped, expected, atol=1e-5)


def test_an_unknown_preset_is_told():
    with pytest.raises(ValueError, match="network.preset: expected one of tl, vae, hier"):
        VoxelNetwork("va")


def test_turned_volumes_have_the_camera_on_x():
    """A camera at azimuth a looks from (cos a, 0, sin a)."""
    size = RESOLUTION
    for degrees in (0, 90, 180, 30, -135):
        angle = torch.tensor([math.radians(degrees)])
        volume = torch.zeros(1, size, size, size)
        place = torch.tensor([0.4 * angle.cos().item(), -0.2, 0.4 * angle.sin().item()])
        x, y, z = ((place + 0.5) * size).long().tolist()
        volume[0, x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = 1
        found = turn(volume, angle)[0]
        along = (torch.arange(size) + 0.5) / size - 0.5
        grid = torch.stack(torch.meshgrid(along, along, along, indexing="ij"), dim=-1)
        centre = math.sqrt(2) * (grid * found[..., None]).sum((0, 1, 2)) / found.sum()
        assert torch.allclose(centre, torch.tensor([0.4, -0.2, 0.0]), atol=0.03)
        assert found.sum().item() == pytest.approx(27 / math.sqrt(2) ** 3, rel=0.2)


def test_loss_terms_by_hand():
    logits, truth = torch.randn(2, 4, 4, 4), (torch.rand(2, 4, 4, 4) > 0.5).float()
    plain = F.binary_cross_entropy_with_logits(logits, truth)
    assert torch.allclose(cross_entropy(logits, truth, 1.0), plain)
    certain = torch.full((1, 1, 1, 2), 0.0)
    found = cross_entropy(certain, torch.tensor([[[[1.0, 0.0]]]]), 3.0)
    assert found.item() == pytest.approx(2 * math.log(2))
    out = VoxelNetwork("disentangled-tiny", 32)(torch.rand(2, 3, 32, 32))
    out = out._replace(azimuth=torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    truth = Truth(truth, torch.tensor([math.pi / 2, -math.pi / 2]), None)
    assert TERMS["azimuth"].value(Voxel(), out, truth).item() == pytest.approx(2.0)


def test_weights_without_their_field_are_told():
    def check(preset, has_azimuth=True, **weights):
        Objective(Voxel(**weights)).check(VoxelNetwork(preset, 32), has_azimuth)

    with pytest.raises(ConfigError, match="voxel.w_again: this preset gives no again"):
        check("vae-tiny", w_again=1.0)
    with pytest.raises(ConfigError, match="voxel.w_swapped: this set does not tell the cameras"):
        check("disentangled-tiny", has_azimuth=False, w_swapped=1.0)
    with pytest.raises(ConfigError, match="every weight is 0"):
        check("tl-tiny", w_occupancy=0.0)
    check("tl-tiny", has_azimuth=False, w_again=1.0, w_code=1.0)


def test_a_batch_is_mirrored_with_its_volumes(root):
    task = make_task(root, "vae-tiny")
    own = torch.rand(len(task.data.objects), *3 * [RESOLUTION]) > 0.5
    own[:, : RESOLUTION // 2] = False  # all of them on the side of +x
    task.volumes = own
    network = task.build()
    samples = torch.arange(len(task.data))[:16]
    batch = task.draw(network, (samples,))
    left = batch.truth.volume[:, : RESOLUTION // 2].flatten(1).any(1)
    flat = own[task.owners[samples]].float()
    assert left.any()
    assert not left.all()
    assert torch.equal(batch.truth.volume[~left], flat[~left])
    assert torch.equal(batch.truth.volume[left], flat[left].flip(1))
    # The camera goes to the other side with them.
    azimuth = task.data.azimuth[samples].deg2rad()
    assert torch.allclose(batch.truth.azimuth[~left], azimuth[~left])
    assert torch.allclose(batch.truth.azimuth[left], math.pi - azimuth[left])


def test_pairs_show_one_object_from_two_sides(root):
    task = make_task(root, "disentangled-tiny")
    task.volumes = torch.rand(len(task.data.objects), *3 * [RESOLUTION]) > 0.5
    samples = task._with_other_views(torch.tensor([0, 3, 5, 6]))
    assert samples.tolist() == [0, 3, 1, 2]  # two views each
    batch = task.draw(task.build(), (torch.tensor([0, 3, 5, 6]),))
    assert torch.equal(batch.truth.volume[:2], batch.truth.volume[2:])
    assert batch.partner.tolist() == [1, 2, 3, 0]
    expected = turn(batch.truth.volume, batch.truth.azimuth[batch.partner])
    assert torch.equal(batch.truth.turned, expected)
    with pytest.raises(ConfigError, match="optim.batch_size: this preset trains on pairs"):
        make_task(root, "disentangled-tiny", "optim.batch_size=5").check()


@pytest.mark.parametrize("preset", ["disentangled-tiny", "hierarchical-tiny"])
def test_every_number_of_processes_draws_one_batch(root, preset, monkeypatch):
    task = make_task(root, preset, "voxel.dropout=0.3")
    task.volumes = torch.rand(len(task.data.objects), *3 * [RESOLUTION]) > 0.5
    network = task.build()
    samples = torch.arange(8)

    def draw(world, rank):
        monkeypatch.setattr(distributed, "world", lambda: world)
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        torch.manual_seed(0)
        return task.draw(network, (samples[rank::world],))

    whole = draw(1, 0)
    for rank in (0, 1):
        part = draw(2, rank)
        assert torch.equal(part.image, whole.image[rank::2])
        assert torch.equal(part.keep, whole.keep[rank::2])
        assert torch.equal(part.truth.volume, whole.truth.volume[rank::2])
        if part.noise is not None:
            assert torch.equal(part.noise, whole.noise[rank::2])
        if part.partner is not None:
            assert torch.equal(rank + 2 * part.partner, whole.partner[rank::2])
            assert torch.equal(part.truth.turned, whole.truth.turned[rank::2])
    monkeypatch.setattr(distributed, "world", lambda: 8)
    if preset == "disentangled-tiny":
        with pytest.raises(ConfigError, match="make it even in each process"):
            make_task(root, preset, "optim.batch_size=8").check()


def test_dropout_leaves_out_features_and_channels(root):
    network = VoxelNetwork("tl-tiny", 32)
    image, volumes = torch.rand(4, 3, 32, 32), torch.ones(4, 32, 32, 32)
    plain = network(image, volumes)
    keep = torch.ones(4, network.dropped)
    same = network(image, volumes, keep=keep)
    assert torch.allclose(same.logits, plain.logits, atol=1e-6)
    seen = []
    network.decoder.levels[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    keep[1, :FEATURE] = 0  # the code is what is left: that of any image
    first, second, _ = network.decoder.widths
    keep[2, FEATURE + first + 1] = 0
    out = network(image, volumes, keep=keep)
    assert torch.allclose(network.mu.bias, network.mu(torch.zeros(1, FEATURE))[0])
    assert torch.allclose(out.code[1], network.norm(network.mu.bias), atol=1e-5)
    for features in seen:  # of the image's code and of the volume's
        assert not features[2, 1].any()
        assert features[2, [0, *range(2, second)]].flatten(1).any(1).all()
    task = make_task(root, "vae-tiny", "voxel.dropout=0.3")
    keep = task.draw(task.build(), (torch.arange(16),)).keep
    assert keep.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert keep.mean().item() == pytest.approx(1, abs=0.02)
    with pytest.raises(ConfigError, match="voxel.dropout: expected a share below 1"):
        make_task(root, "vae-tiny", "voxel.dropout=1").check()


def boxes(*sides):
    grids = torch.zeros(len(sides), 8, 8, 8, dtype=torch.bool)
    for grid, side in zip(grids, sides, strict=True):
        grid[:side, :side, :side] = True
    return grids


def test_baselines_of_volumes():
    truth = boxes(2, 4, 4)
    rows, iou = nearest_volumes(boxes(3, 8), truth, "cpu")
    assert rows.tolist() == [1, 1]
    assert iou.tolist() == pytest.approx([27 / 64, 64 / 512])
    assert torch.equal(mirrored(truth, "x")[3:], truth.flip(1))
    assert torch.equal(mirrored(truth, "z")[3:], truth.flip(3))
    held_out = Split(None, [0, 1], truth)
    held_out = held_out._replace(data=type("Data", (), {"samples": [(1, 0), (2, 0)]}))
    assert torch.equal(mean_volume(truth, held_out), truth[1])
    thin = torch.zeros(2, 8, 8, 8, dtype=torch.bool)
    thin[0, 1:4, 1:4, 1:4] = True
    thin[0, 4:8, 2, 2] = True
    thin[1, :4, :4, :4] = True
    found = thin_iou(thin & (torch.arange(8) < 6)[:, None, None], thin)
    assert found[0].item() == pytest.approx(0.5)  # half of the leg; the block does not count
    assert found[1].isnan()


def test_probes_read_what_is_there():
    torch.manual_seed(0)
    azimuth = 360 * torch.rand(200)
    angle = azimuth.deg2rad()
    told = torch.stack([3 * angle.cos() + 1, angle.sin(), torch.randn(200)], dim=1)
    found = latent.probe(told[:100], azimuth[:100], told[100:])
    assert latent.angle_error(found, azimuth[100:]).median() < 3
    blind = torch.randn(200, 3)
    found = latent.probe(blind[:100], azimuth[:100], blind[100:])
    assert 60 < latent.angle_error(found, azimuth[100:]).median() < 120
    error = latent.angle_error(torch.tensor([179.0, 10.0]), torch.tensor([-179.0, 370.0]))
    assert error.tolist() == [2.0, 0.0]


def test_variance_within_an_object_and_recall():
    objects = torch.tensor([0, 0, 1, 1])
    by_object = torch.tensor([[1.0], [1.0], [5.0], [5.0]])
    by_view = torch.tensor([[1.0], [5.0], [1.0], [5.0]])
    assert latent.share_within(by_object, objects) == pytest.approx(0)
    assert latent.share_within(by_view, objects) == pytest.approx(1)
    gallery = torch.tensor([[1.0], [4.0], [9.0]])
    found = latent.recall(torch.tensor([[0.0], [8.0]]), torch.tensor([0, 1]), gallery)
    assert found["recall@1"] == 0.5
    assert found["recall@5"] == 1
    assert found["median place"] == 1  # torch's median is the lower one


def test_interpolation_tells_a_jump_from_an_even_way():
    class Ball:
        """Decodes a number to a cube that grows evenly, or at once."""

        def __init__(self, jump):
            self.jump = jump

        def decode(self, code):
            size = torch.where(code > 0.5, 1.0, 0.2) if self.jump else code
            along = torch.arange(16)[None, :, None, None] / 16
            return (100 * (size[:, :, None, None] - along)).expand(-1, 16, 16, 16)

    code, objects = torch.tensor([[0.2], [1.0]]), torch.tensor([0, 1])
    train = torch.ones(1, 16, 16, 16, dtype=torch.bool)
    even, jump = (
        latent.interpolation(Ball(jump), code, objects, train, 0.5, "cpu", 0)
        for jump in (False, True)
    )
    assert jump["largest step"] == pytest.approx(1)
    assert jump["detour"] == pytest.approx(1)
    assert even["largest step"] < 0.3
    assert even["nearest, at the ends"] == pytest.approx((1 + 4 / 16) / 2, abs=0.05)


@pytest.mark.parametrize("preset", TINY)
def test_a_step_and_a_validation(root, preset):
    task = make_task(root, preset)
    network = task.build()
    objective = task.objective(network)
    task.volumes = torch.rand(len(task.data.objects), *3 * [RESOLUTION]) > 0.5
    batch = task.draw(network, (torch.arange(4),))
    terms = task.loss(objective, task.forward(network, batch), batch)
    assert tuple(terms) == ("loss", *task.terms)
    terms["loss"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    loader, volumes = task.validation
    logits = torch.full_like(volumes[:1].float(), -9.0)
    found = task.validate(lambda image: Volumes(logits.expand(len(image), -1, -1, -1), image))
    assert found == {"val_error": 1.0, "val_threshold": 0.05}
    right = iter([volumes[batch.object].float() for batch in loader])
    found = task.validate(lambda image: Volumes(next(right) * 9 - 3, image))
    assert found["val_error"] == 0


@pytest.mark.parametrize("preset", ["tl-tiny", "disentangled-tiny"])
def test_a_run_of_seconds(root, tmp_path, preset, monkeypatch):
    monkeypatch.setattr(latent, "PAIRS", 2)
    monkeypatch.setattr(plots, "loss_curves", lambda *given: None)  # of every kind
    monkeypatch.setattr(plots, "reconstructions", lambda *given: None)
    monkeypatch.setattr(voxel_plots, "ROWS", 1)
    monkeypatch.setattr(voxel_plots, "SIZE", 16)
    if preset == "tl-tiny":
        monkeypatch.setattr(voxel_plots, "draw", lambda *given: None)
    out = tmp_path / "run"
    given = words(root, preset, evaluate_protocol='"plain"')
    assert train.main(["--out", str(out), *given]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"results.md", "results.json", "latent.json", "best.pt"} <= names
    drawn = {"voxels.png", "interpolation.png", "swapped.png"}
    assert names & drawn == (drawn if preset == "disentangled-tiny" else set())
    record = json.loads((out / "results.json").read_text())
    methods = {row["method"] for row in record["rows"]}
    expected = {"voxel", "mean shape", "nearest image", "oracle", "floor"}
    assert methods == expected | ({"nearest code"} if preset == "tl-tiny" else set())
    scored = [r for r in record["scores"] if r["method"] == "floor" and r["column"] == "IoU"]
    assert all(value == 1 for row in scored for value in row["values"])
    if preset != "tl-tiny":
        return
    # Its clouds are scored alike as anybody's.
    pytest.importorskip("trimesh")
    clouds, again = tmp_path / "again" / "clouds", tmp_path / "other"
    assert evaluate.main([str(out), "--save-clouds", "--out", str(clouds.parent)]) == 0
    assert len(list(clouds.glob("*/*/*.ply"))) == 2
    told = {"data.root": json.dumps(str(root)), "evaluate.baselines": "false", "network.points": 64}
    more = [word for key, value in told.items() for word in ("--set", f"{key}={value}")]
    more += ["--views", "1", "--protocol", "plain", "--out", str(again)]
    assert evaluate.main(["--pred-dir", str(clouds), *more]) == 0
    other = json.loads((again / "results.json").read_text())
    cd = [
        next(r["values"] for r in found["scores"] if (r["method"], r["column"]) == (name, "CD"))
        for found, name in ((record, "voxel"), (other, "clouds"))
    ]
    assert cd[0] == pytest.approx(cd[1], rel=1e-3)
