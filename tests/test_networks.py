# SPDX-License-Identifier: MIT
"""The four networks: sizes as derived from the papers' code, shapes, what is frozen and drawn."""

import pytest
import torch

from models.build import build_network, initialise
from models.config import Config, ConfigError, Network, update
from models.cost import count_macs, count_parameters
from models.networks import NETWORKS
from models.networks.base import float32_apply
from models.networks.efficient import EfficientPointNet
from models.networks.lmnet import LMNet, PointAutoencoder
from models.networks.reconstnet import PRESETS, ReconstNet, ResNet

# Conv and linear multiply-accumulates by hand, layer by layer, and parameters.
SIZES = [
    ("efficient", "default", 128, 2048, 419_407_168, 12_062_560),
    ("efficient", "default", 137, 2048, 512_268_016, 12_062_560),
    ("efficient", "default", 224, 2048, 1_268_802_880, 12_062_560),
    ("efficient", "wide-128", 128, 2048, 1_447_798_080, 12_621_968),  # 2.9 GFLOP
    ("efficient", "mac-224", 224, 2048, 2_882_061_632, 13_430_344),  # 2.9 GMAC
    ("efficient", "mac-224", 128, 2048, 946_185_536, 13_430_344),
    ("efficient", "mac-224-no-skip", 128, 2048, 933_602_624, 12_643_912),
    ("efficient", "mac-224-early-stride", 128, 2048, 910_992_704, 14_331_808),
    ("efficient", "mac-224-flatten", 128, 2048, 953_865_536, 21_110_344),
    ("efficient", "tiny-64", 64, 2048, 69_909_824, 8_584_416),
    ("psgn", "r2n2_128", 128, 1024, 2_322_366_464, 42_892_137),
    ("lmnet", "plain", 128, 2048, 1_936_916_480, 22_732_512),
    ("lmnet", "plain", 224, 2048, 5_928_157_184, 31_383_264),
    ("reconstnet", "resnet-50", 128, 2048, 1_343_690_048, 32_631_856),
    ("reconstnet", "resnet-50", 137, 2048, 1_745_243_136, 32_631_856),
    ("reconstnet", "resnet-50", 224, 2048, 4_096_251_200, 32_631_856),
]


@pytest.mark.parametrize(("name", "preset", "size", "points", "macs", "parameters"), SIZES)
def test_sizes_are_pinned(name, preset, size, points, macs, parameters):
    values = {"name": name, "preset": preset, "points": points}
    config = update(Config(), {"network": values, "data": {"image_size": size}})
    network = build_network(config)
    assert count_macs(network, config) == macs
    assert count_parameters(network, config) == parameters


def tiny(name, preset="tiny-64", points=256):
    return NETWORKS[name](preset, points=points, image_size=64)


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_repeatable_evaluation(name, device):
    network = tiny(name).eval().to(device)
    image, points = torch.rand(2, 3, 64, 64).to(device), torch.rand(2, 256, 3).to(device)
    out = network(image, points)
    assert out.points.shape == (2, 256, 3)
    assert torch.equal(out.points, network(image, points).points)
    if network.latent:
        assert out.mu.shape == out.logvar.shape == (2, network.latent)
        noise = torch.randn(2, network.latent, device=device)
        assert not torch.equal(out.points, network(image, points, noise).points)
        assert torch.equal(out.points, network(image, points, 0 * noise).points)  # z = mu


@pytest.mark.parametrize(
    ("name", "preset"),
    [*((name, "tiny-64") for name in NETWORKS), ("lmnet", "tiny-64-probabilistic")],
)
def test_a_network_gives_what_it_says(name, preset):
    network = tiny(name, preset)
    out = network(torch.rand(2, 3, 64, 64), torch.rand(2, 256, 3))
    assert network.gives() == {key for key, value in out._asdict().items() if value is not None}


@pytest.mark.parametrize("name", ["psgn", "lmnet", "reconstnet", "efficient"])
def test_the_true_cloud_does_not_leak_into_the_reconstruction(name):
    network, image = tiny(name).eval(), torch.rand(2, 3, 64, 64)
    assert torch.equal(network(image).points, network(image, torch.rand(2, 256, 3)).points)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_trained_weight_gets_a_gradient(name):
    preset = "tiny-64-probabilistic" if name == "lmnet" else "tiny-64"
    network = tiny(name, preset).train()
    noise = torch.randn(4, network.latent) if network.latent else None
    out = network(torch.rand(4, 3, 64, 64), torch.rand(4, 256, 3), noise)
    out.points.square().sum().backward()
    for key, value in network.named_parameters():
        # The decoder passes gradients on to the latent, but is itself frozen in the second stage.
        assert (value.grad is not None) == value.requires_grad, key
        if value.requires_grad:
            assert value.grad.abs().sum() > 0 or "bias" in key or "logvar" in key, key


def test_parameters_of_the_paper():
    network = EfficientPointNet("tiny-64")
    hidden = [layer.out_features for layer in network.decoder.hidden if hasattr(layer, "bias")]
    assert [*hidden, network.decoder.last.out_features] == [512, 1024, 6144]
    assert network.encoder.feature.out_features == 1000
    assert network(torch.rand(1, 3, 64, 64).repeat(2, 1, 1, 1)).mu.shape == (2, 100)


@pytest.mark.parametrize("name", ["efficient", "reconstnet"])
def test_starts_from_the_given_cloud(name):
    network = tiny(name, points=64).eval()
    cloud = torch.rand(64, 3) - 0.5
    network.start_from(cloud)
    points = network(torch.rand(1, 3, 64, 64)).points[0]
    assert (points - cloud).abs().max() < 0.05
    with pytest.raises(ValueError, match="expected \\[64, 3\\]"):
        network.start_from(torch.zeros(3, 3))


def test_lmnet_takes_the_autoencoder_and_keeps_it_frozen():
    autoencoder = PointAutoencoder("tiny-64", points=64)
    network = LMNet("tiny-64-probabilistic", points=64, image_size=64)
    network.take_autoencoder(autoencoder.state_dict())
    points = torch.rand(4, 64, 3)
    before = autoencoder.eval()(torch.zeros(4, 3, 64, 64), points).points
    network.train()
    out = network(torch.rand(4, 3, 64, 64), points)
    torch.testing.assert_close(out.target, autoencoder.point_encoder(points))
    torch.testing.assert_close(network.decoder(out.target), before)
    (out.latent - out.target).abs().mean().backward()
    trained = {k.split(".")[0] for k, v in network.named_parameters() if v.grad is not None}
    assert trained == {"encoder", "mu"}  # without noise the width does not reach the latent
    # Training steps of the image's side leave the frozen batch norms where they were.
    assert torch.equal(network.decoder(out.target), network.eval().decoder(out.target))


def test_the_autoencoder_does_not_mind_the_order_of_points():
    network, points = tiny("lmnet-autoencoder").eval(), torch.rand(1, 256, 3)
    shuffled = points[:, torch.randperm(256)]
    image = torch.zeros(1, 3, 64, 64)
    assert torch.equal(network(image, points).points, network(image, shuffled).points)


def test_psgn_has_two_branches():
    """Moving the linear branch moves 256 - 192 points of 256, the map's stay."""
    network, image = tiny("psgn").eval(), torch.rand(1, 3, 64, 64)
    before = network(image).points
    with torch.no_grad():
        network.free_points.bias += 1
    moved = (network(image).points - before).abs().amax(dim=2)[0]
    assert (moved > 0.5).sum() == 256 - 3 * 8 * 8
    with pytest.raises(ValueError, match="psgn's map alone has 192 points"):
        tiny("psgn", points=192)


def test_resnet_is_torchvisions():
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet50(weights=None).eval()
    ours = ResNet(PRESETS["resnet-50"]).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-4)


def test_pretrained_weights_come_from_a_file(tmp_path):
    donor, network = tiny("reconstnet"), tiny("reconstnet")
    torch.save(donor.encoder.state_dict(), tmp_path / "resnet.pth")
    options = Network(name="reconstnet", pretrained=str(tmp_path / "resnet.pth"))
    initialise(network, options, torch.zeros(256, 3))
    assert torch.equal(network.encoder.fc.weight, donor.encoder.fc.weight)


def test_coordinates_are_never_rounded_to_bfloat16():
    layer, x = torch.nn.Linear(8, 3), torch.rand(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(float32_apply(layer, x), float32_apply(layer.float(), x))
        assert float32_apply(layer, x.bfloat16()).dtype == torch.float32
        for name in NETWORKS:
            network = tiny(name).train()
            out = network(torch.rand(2, 3, 64, 64), torch.rand(2, 256, 3))
            assert out.points.dtype == torch.float32, name


def test_the_latent_to_match_is_the_same_under_bf16():
    network, image, points = tiny("lmnet").eval(), torch.rand(2, 3, 64, 64), torch.rand(2, 256, 3)
    expected = network(image, points).target
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(image, points).target, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_name_what_they_know(name):
    with pytest.raises(ValueError, match="network.preset: expected one of"):
        NETWORKS[name]("huge")


def test_encoders_of_levels_want_a_size_that_halves():
    with pytest.raises(ValueError, match="data.image_size: this network needs a multiple of 32"):
        NETWORKS["psgn"]("tiny-64", points=4096, image_size=137)


def test_an_unknown_network_is_named():
    with pytest.raises(ConfigError, match="network.name: expected one of efficient"):
        build_network(update(Config(), {"network": {"name": "psng"}}))


def test_reconstnet_normalises_as_imagenet_weights_expect():
    network = ReconstNet("tiny-64", points=64).eval()
    seen = []
    network.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].expand(1, 3, 64, 64))
    torch.testing.assert_close(seen[0], torch.zeros(1, 3, 64, 64), rtol=0, atol=1e-6)
