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
GAIN = math.sqrt(2)  # of a layer before a leaky ReLU, so that variances stay
CHANNELS = 4
GROUP = 4  # images over which the discriminator looks at the deviation


class Equalised(nn.Module):
    """A layer whose weights start as variances have to be, and learn at rates of the same size.

    Karras et al. keep weights of variance 1 and scale them in every pass; with Adam it is the same
    to keep the scaled ones and to scale their rates, see `equalised`.
    """

    def __init__(self, shape: Sequence[int], gain: float, rate: float, bias: float | None):
        super().__init__()
        scale = gain / math.sqrt(math.prod(shape[1:]))
        self.weight = nn.Parameter(torch.randn(*shape) * scale)
        self.bias = None if bias is None else nn.Parameter(torch.full(shape[:1], float(bias)))
        self.rates = {"weight": scale * rate, "bias": rate}


class Linear(Equalised):
    """x [B, I] -> [B, O]."""

    def __init__(
        self, inputs: int, outputs: int, gain: float = 1, rate: float = 1, bias: float = 0
    ):
        super().__init__((outputs, inputs), gain, rate, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Conv(Equalised):
    """x [B, I, H, W] -> [B, O, H, W]."""

    def __init__(self, inputs: int, outputs: int, size: int, gain: float = 1, *, bias: bool = True):
        super().__init__((outputs, inputs, size, size), gain, 1, 0.0 if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


def equalised(network: nn.Module, lr: float) -> list[dict[str, object]]:
    """The parameters of a network for an optimiser, with the rates of Equalised."""
    rates = {}
    for module in network.modules():
        if isinstance(module, Equalised):
            rates.update({getattr(module, name): rate for name, rate in module.rates.items()})
    groups: dict[float, list[nn.Parameter]] = {}
    for weight in network.parameters():
        groups.setdefault(rates.get(weight, 1.0), []).append(weight)
    return [{"params": weights, "lr": lr * rate} for rate, weights in groups.items()]


def rectify(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def double(x: Tensor) -> Tensor:
    """Twice the pixels a side; as a blur of the repeated ones, whose gradients are cheap."""
    return F.avg_pool2d(F.interpolate(x, scale_factor=2), 3, 1, 1, count_include_pad=False)


class Mapping(nn.Module):
    """z [B, Z] -> w [B, Z]."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList(Linear(width, width, GAIN, SLOW) for _ in range(LAYERS))

    def forward(self, z: Tensor) -> Tensor:
        return self.part(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8), 0)

    def part(self, h: Tensor, first: int, end: int = LAYERS) -> Tensor:
        """What the layers from `first` up to `end` make of h [B, Z]."""
        for layer in self.layers[first:end]:
            h = rectify(layer(h))
        return h


class Modulated(nn.Module):
    """A convolution whose inputs are scaled by a style, its outputs to one variance; rectified."""

    def __init__(self, inputs: int, outputs: int, size: int, width: int):
        super().__init__()
        self.style = Linear(width, inputs, bias=1.0)
        self.conv = Conv(inputs, outputs, size, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            style = self.style(w.float())
            power = self.conv.weight.square().sum((2, 3))  # [O, I]
            norm = GAIN * torch.rsqrt(style.square() @ power.T + 1e-8)
        out: Tensor = self.conv(x * style[:, :, None, None].to(x.dtype))
        norm, bias = norm[:, :, None, None].to(out.dtype), self.bias[:, None, None].to(out.dtype)
        return rectify(torch.addcmul(bias, out, norm))


class Colours(nn.Module):
    """The image of a level: a sum of the channels, scaled by a style."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.style = Linear(width, inputs, bias=1.0)
        self.conv = Conv(inputs, CHANNELS, 1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = self.style(w.float())[:, None] * self.conv.weight[:, :, 0, 0]  # [B, 4, I]
        out: Tensor = (weight.to(x.dtype) @ x.flatten(2)).unflatten(2, x.shape[2:])
        return out + self.conv.bias[:, None, None].to(x.dtype)  # type: ignore[index]


class Synthesis(nn.Module):
    """w [B, W, Z], one for each layer -> images [B, 4, S, S]."""

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        inputs = [widths[0], *widths[:-1]]
        self.ups = nn.ModuleList(
            Modulated(a, b, 3, width) for a, b in zip(inputs[1:], widths[1:], strict=True)
        )
        self.convs = nn.ModuleList(Modulated(b, b, 3, width) for b in widths)
        self.colours = nn.ModuleList(Colours(b, width) for b in widths)
        self.codes = 2 * len(widths)

    def forward(self, w: Tensor) -> Tensor:
        x = self.first.expand(len(w), -1, -1, -1)
        x = self.convs[0](x, w[:, 0])
        image: Tensor = self.colours[0](x, w[:, 1])
        for number in range(1, len(self.convs)):
            x = self.ups[number - 1](double(x), w[:, 2 * number - 1])
            x = self.convs[number](x, w[:, 2 * number])
            image = double(image) + self.colours[number](x, w[:, 2 * number + 1])
        return image.float()


class Generator(nn.Module):
    """z [B, Z], normal -> images [B, 4, S, S] in about -1..1.

    Args:
        side: pixels, a power of 2 from 8 on.
        width: Z, and channels at 4 and 8 pixels; half of it at 16, a quarter at 32 and so on.
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
    return [max(width // 2 ** max(0, level - 1), 8) for level in range(levels + 1)]


class Block(nn.Module):
    """Half of the pixels a side, with a residual connection."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        # The sum of two is scaled by 1 / GAIN.
        self.one, self.two = Conv(inputs, inputs, 3, GAIN), Conv(inputs, outputs, 3)
        self.skip = Conv(inputs, outputs, 1, 1 / GAIN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(rectify(self.two(rectify(self.one(x)))), 2)
        out: Tensor = y + self.skip(F.avg_pool2d(x, 2))
        return out


class Discriminator(nn.Module):
    """Images [B, 4, S, S] -> how real they look, [B]; GROUP by GROUP, if they divide B."""

    def __init__(self, side: int, width: int):
        super().__init__()
        channels = widths(side, width)[::-1]
        self.first = Conv(CHANNELS, channels[0], 1, GAIN)
        self.blocks = nn.ModuleList(
            Block(a, b) for a, b in zip(channels, channels[1:], strict=False)
        )
        self.conv = Conv(channels[-1] + 1, channels[-1], 3, GAIN)
        self.hidden = Linear(16 * channels[-1], channels[-1], GAIN)
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
            parts = x.unflatten(0, (-1, group))
            deviation = (parts.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # [B / group]
            more = deviation.repeat_interleave(group)[:, None, None, None]
            more = more.expand(-1, 1, *x.shape[2:])
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
