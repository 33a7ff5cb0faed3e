# SPDX-License-Identifier: MIT
"""3D-ReconstNet: Li, Zhang, Zhang et al., "3D-ReConstnet: A Single-View 3D-Object Point Cloud
Reconstruction Network" (IEEE Access 2020), https://doi.org/10.1109/ACCESS.2020.2992554

A ResNet-50 (He et al. 2016, with the stride in the 3 x 3 convolution) up to its 1000 outputs, then
the latent and decoder of networks/decoder.py. The authors start from ImageNet weights; here the
network starts from nothing unless `network.pretrained` names a file of them. The authors' code
feeds the image as 0..255; here it is normalised as those weights expect.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.base import Network, Reconstruction, choose
from models.networks.decoder import FEATURE, LATENT, LatentDecoder


class Preset(NamedTuple):
    width: int  # channels of the stem and of the first stage's narrow layers
    blocks: tuple[int, int, int, int]


PRESETS = {
    "resnet-50": Preset(64, (3, 4, 6, 3)),  # 1.34 GMAC at 128 x 128
    "tiny-64": Preset(8, (1, 1, 1, 1)),
}
# ImageNet's mean and deviation of each colour, 0..1: what pretrained weights expect.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the width, and the input added."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + short)


class ResNet(nn.Module):
    """Image [B, 3, H, W], normalised -> [B, 1000]; the names of its weights are torchvision's."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, preset: Preset):
        super().__init__()
        width = preset.width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = width
        for stage, blocks in enumerate(preset.blocks):
            narrow, layers = width * 2**stage, []
            for block in range(blocks):
                layers.append(Bottleneck(channels, narrow, 2 if stage and not block else 1))
                channels = 4 * narrow
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, FEATURE)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


class ReconstNet(Network):
    """One RGB image -> points, through a latent of 100 normal variables.

    Args:
        preset: a name in PRESETS.
        points: number of points of the cloud.
        image_size: not used; any size from 32 on works.
        out_act: "tanh" as in the authors' code, or "none".
    """

    latent = LATENT
    sources = frozenset({"start_from_mean", "pretrained"})
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        preset: str = "resnet-50",
        points: int = 2048,
        image_size: int = 128,
        out_act: str = "tanh",
    ):
        super().__init__()
        self.encoder = ResNet(choose(PRESETS, preset))
        self.decoder = LatentDecoder(points, out_act)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def take_pretrained(self, state: dict[str, Tensor]) -> None:
        """Load ImageNet weights: a state dict of torchvision's resnet50."""
        self.encoder.load_state_dict(state)

    def start_from(self, cloud: Tensor) -> None:
        """Make `cloud` [N, 3] the first output, see LatentDecoder."""
        self.decoder.start_from(cloud)

    def forward(
        self, image: Tensor, points: Tensor | None = None, noise: Tensor | None = None
    ) -> Reconstruction:
        """Reconstruct image [B, 3, H, W], values 0..1; `points` is not used.

        `noise` [B, 100], standard normal, draws the latent; without it z = mu.
        """
        return self.decoder(self.encoder((image - self.mean) / self.deviation), noise)
