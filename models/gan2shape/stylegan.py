# SPDX-License-Identifier: MIT
"""A small StyleGAN2 for images of 64 x 64 pixels and less.

Karras, Laine, Aittala, Hellsten, Lehtinen and Aila, "Analyzing and Improving the Image Quality of
StyleGAN" (CVPR 2020). Kept: the mapping network with its lower learning rate, modulated and
demodulated convolutions, equalised learning rates, output skips in the generator, residual blocks
and the deviation of the minibatch in the discriminator. Left out: noise inputs (a rendering has no
stochastic detail), path length regularisation, style mixing. Blurs are those of bilinear resizing.
Images have four channels, colours on white and alpha, in -1..1.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = 8  # of the mapping network
SLOW = 0.01  # factor of the mapping network's learning rate
GAIN = math.sqrt(2)  # after a leaky ReLU
CHANNELS = 4
GROUP = 4  # images over which the discriminator looks at the deviation


class Linear(nn.Module):
    """A linear layer with an equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, *, rate: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class Conv(nn.Module):
    """A convolution with an equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, size: int, *, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.padding = 1 / math.sqrt(inputs * size**2), size // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def rectify(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * GAIN


def double(x: Tensor) -> Tensor:
    """Twice the pixels a side; as a blur of the repeated ones, whose gradients are cheap."""
    return F.avg_pool2d(F.pad(F.interpolate(x, scale_factor=2), (1, 1, 1, 1), "replicate"), 3, 1)


class Mapping(nn.Module):
    """z [B, Z] -> w [B, Z]."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList(Linear(width, width, rate=SLOW) for _ in range(LAYERS))

    def forward(self, z: Tensor) -> Tensor:
        return self.part(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8), 0)

    def part(self, h: Tensor, first: int, end: int = LAYERS) -> Tensor:
        """What the layers from `first` up to `end` make of h [B, Z]."""
        for layer in self.layers[first:end]:
            h = rectify(layer(h))
        return h


class Modulated(nn.Module):
    """A convolution whose inputs are scaled by a style."""

    def __init__(self, inputs: int, outputs: int, size: int, width: int, *, demodulate: bool):
        super().__init__()
        self.style = Linear(width, inputs, bias=1.0)
        self.conv = Conv(inputs, outputs, size, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            style = self.style(w.float())
            if self.demodulate:
                power = (self.conv.weight * self.conv.scale).square().sum((2, 3))  # [O, I]
                norm = torch.rsqrt(style.square() @ power.T + 1e-8)
        x = x * style[:, :, None, None].to(x.dtype)
        out: Tensor = self.conv(x)
        if self.demodulate:
            out = out * norm[:, :, None, None].to(out.dtype)
        return out + self.bias[:, None, None].to(out.dtype)


class Synthesis(nn.Module):
    """w [B, W, Z], one for each layer -> images [B, 4, S, S]."""

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        inputs = [widths[0], *widths[:-1]]
        self.ups = nn.ModuleList(
            Modulated(a, b, 3, width, demodulate=True)
            for a, b in zip(inputs[1:], widths[1:], strict=True)
        )
        self.convs = nn.ModuleList(Modulated(b, b, 3, width, demodulate=True) for b in widths)
        self.colours = nn.ModuleList(
            Modulated(b, CHANNELS, 1, width, demodulate=False) for b in widths
        )
        self.codes = 2 * len(widths)

    def forward(self, w: Tensor) -> Tensor:
        x = self.first.expand(len(w), -1, -1, -1)
        x = rectify(self.convs[0](x, w[:, 0]))
        image: Tensor = self.colours[0](x, w[:, 1])
        for number in range(1, len(self.convs)):
            x = rectify(self.ups[number - 1](double(x), w[:, 2 * number - 1]))
            x = rectify(self.convs[number](x, w[:, 2 * number]))
            image = double(image) + self.colours[number](x, w[:, 2 * number + 1])
        return image.float()


class Generator(nn.Module):
    """z [B, Z], normal -> images [B, 4, S, S] in about -1..1.

    Args:
        side: pixels, a power of 2 from 8 on.
        width: Z, and channels at 4 to 16 pixels; half of it at 32, a quarter at 64.
    """

    def __init__(self, side: int, width: int):
        super().__init__()
        self.width = width
        self.mapping = Mapping(width)
        self.synthesis = Synthesis(widths(side, width), width)

    @property
    def codes(self) -> int:
        """Layers that each read a code of their own."""
        return self.synthesis.codes

    def spread(self, w: Tensor) -> Tensor:
        """One w [B, Z] for all layers: [B, W, Z]."""
        return w.unsqueeze(1).expand(-1, self.codes, -1)

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.synthesis(self.spread(self.mapping(z)))
        return image


def widths(side: int, width: int) -> list[int]:
    """Channels at 4, 8 ... `side` pixels."""
    levels = round(math.log2(side / 4))
    if levels < 1 or 4 * 2**levels != side:
        raise ValueError(f"data.image_size: expected a power of 2 from 8 on, got {side}")
    return [width // max(1, 2 ** (level - 2)) for level in range(levels + 1)]


class Block(nn.Module):
    """Half of the pixels a side, with a residual connection."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.one, self.two = Conv(inputs, inputs, 3), Conv(inputs, outputs, 3)
        self.skip = Conv(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(rectify(self.two(rectify(self.one(x)))), 2)
        out: Tensor = (y + self.skip(F.avg_pool2d(x, 2))) / GAIN
        return out


class Discriminator(nn.Module):
    """Images [B, 4, S, S] -> how real they look, [B]."""

    def __init__(self, side: int, width: int):
        super().__init__()
        channels = widths(side, width)[::-1]
        self.first = Conv(CHANNELS, channels[0], 1)
        self.blocks = nn.ModuleList(
            Block(a, b) for a, b in zip(channels, channels[1:], strict=False)
        )
        self.conv = Conv(channels[-1] + 1, channels[-1], 3)
        self.hidden = Linear(16 * channels[-1], channels[-1])
        self.last = Linear(channels[-1], 1)

    def features(self, image: Tensor) -> list[Tensor]:
        """What each level makes of images, from fine to coarse: they stand in for a perceptual
        network's in the distances between images."""
        x = rectify(self.first(image))
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def forward(self, image: Tensor) -> Tensor:
        x = self.features(image)[-1]
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            group = GROUP if len(x) % GROUP == 0 else len(x)
            parts = x.view(group, -1, *x.shape[1:])
            deviation = (parts.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # [B / group]
            more = deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
            x = rectify(self.conv(torch.cat([x, more], 1)))
            out: Tensor = self.last(rectify(self.hidden(x.flatten(1))))[:, 0]
        return out


def feature_distance(critic: Discriminator, x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the discriminator's features of images, [B], summed over levels.

    Each level is in units of its features of y.
    """
    total = torch.zeros(len(x), device=x.device)
    for a, b in zip(critic.features(x), critic.features(y), strict=True):
        unit = b.detach().float().abs().mean().clamp_min(1e-6)
        total = total + (a.float() - b.float()).abs().mean((1, 2, 3)) / unit
    return total / len(critic.blocks)
