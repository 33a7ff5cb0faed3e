# SPDX-License-Identifier: MIT
"""3D-LFM: Dabhi, Jeni and Lucey, "3D-LFM: Lifting Foundation Model" (2023),
https://arxiv.org/abs/2312.11894

Keypoints of one view -> their 3-D shape, for any kind of object and any number and order of joints.
What its text fixes, and this file keeps:

- keypoints enter by a tokenised position encoding of analytic random Fourier features, which knows
  neither order nor meaning of a joint; a mask says which joints are visible;
- each layer has attention among neighbours of the skeleton (local, a graph) and among all joints
  (global) side by side, joined, then an MLP with GELU and layer norm;
- an MLP decodes the tokens into a shape in a canonical frame; a Procrustes fit, in the loss, brings
  it to the truth.

Widths, depths, the standard deviation of the frequencies and the place of the norms (before each
part, with a residual around it) are ours. So is what a token knows of the skeleton: a joint that is
not visible keeps its place in the graph, with a learnt vector for its position, and every joint
tells how walks along the bones come back to it (`Returns`). Both see the graph alone, so that the
network stays equivariant and needs no names of joints.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.base import choose, float32_apply


class Preset(NamedTuple):
    """Sizes, and the variants of the document's ablations."""

    depth: int
    width: int
    heads: int
    walk: int = 8  # steps of the walks of `Returns`; 0: without it
    learnt: bool = False  # an MLP in place of the Fourier features
    branches: tuple[str, str] = ("local", "global")  # the attention of both halves of a layer


PRESETS = {"default": Preset(6, 256, 8), "tiny": Preset(3, 64, 4)}
for _size, _preset in list(PRESETS.items()):
    PRESETS |= {
        f"{_size}-learnt": _preset._replace(learnt=True),
        f"{_size}-plain": _preset._replace(walk=0),
        f"{_size}-local": _preset._replace(branches=("local", "local")),
        f"{_size}-global": _preset._replace(branches=("global", "global")),
    }


class FourierFeatures(nn.Module):
    """Positions [B, N, 2] -> [B, N, width]: sqrt(2 / width) [sin(x W + b), cos(x W + b)].

    W and b are drawn once and never trained. W is normal with standard deviation `spread`, in
    radians per unit; a cosine kernel of two features so is exp(-(spread |x - y|)^2 / 2).
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, width: int, spread: float = 2.0):
        super().__init__()
        self.register_buffer("frequencies", spread * torch.randn(2, width // 2))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width // 2))

    def forward(self, x: Tensor) -> Tensor:
        turns = x @ self.frequencies + self.phases
        return torch.cat([turns.sin(), turns.cos()], -1) * turns.shape[-1] ** -0.5


class Returns(nn.Module):
    """The place of each joint in the skeleton [B, N, N] -> [B, N, width].

    It reads the number of neighbours and the chances that a random walk along the edges is back
    after 2 to `steps` steps (Dwivedi et al. 2022, https://arxiv.org/abs/2110.07875, section 3.1).
    """

    def __init__(self, steps: int, width: int):
        super().__init__()
        self.steps = steps
        self.read = nn.Linear(steps, width)

    def forward(self, edges: Tensor) -> Tensor:
        count = edges.sum(-1)
        step = edges / count.clamp(min=1)[..., None]
        walk, found = step, [count / 4]  # all brought to a size of about 1
        for _ in range(self.steps - 1):
            walk = walk @ step
            found.append(3 * walk.diagonal(dim1=1, dim2=2))
        out: Tensor = self.read(torch.stack(found, -1))
        return out


class Attention(nn.Module):
    """Two multi-head attentions of tokens [B, N, C], side by side: [B, N, 2 C].

    `bias` [B, 2 heads, N, N] is 0 where a head may look, and -inf elsewhere; the first half of the
    heads makes the first attention. Plain products, since the tiles of fused kernels are made for
    hundreds of tokens and a skeleton has few.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 2 * 3 * width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, 2 * self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.contiguous().flatten(1, 2).unbind()  # [B 2 heads, N, C / heads]
        bias = bias.to(value.dtype).flatten(0, 1)
        scores = torch.baddbmm(bias, query, key.mT, alpha=key.shape[-1] ** -0.5)
        weights = scores.softmax(-1, dtype=value.dtype)  # sums are of float32 all the same
        read = torch.bmm(weights, value).unflatten(0, (-1, 2 * self.heads))
        return read.transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """Both attentions, joined, then an MLP; a residual around each part."""

    def __init__(self, preset: Preset):
        super().__init__()
        width = preset.width
        self.before = nn.LayerNorm(width)
        self.attention = Attention(width, preset.heads)
        self.join = nn.Linear(2 * width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.join(self.attention(self.before(x), bias))
        out: Tensor = x + self.mlp(x)
        return out


class Lifter(nn.Module):
    """Keypoints -> shape in a canonical frame, equivariant to the order of the joints.

    Args:
        preset: a name in PRESETS.
    """

    def __init__(self, preset: str = "default"):
        super().__init__()
        options = choose(PRESETS, preset)
        width = options.width
        # The attention of each head of a layer.
        self.branches = [branch for branch in options.branches for _ in range(options.heads)]
        self.encoding: nn.Module = (
            nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
            if options.learnt
            else FourierFeatures(width)
        )
        self.hidden = nn.Parameter(torch.randn(width) * width**-0.5)
        self.returns = Returns(options.walk, width) if options.walk else None
        self.layers = nn.ModuleList(Layer(options) for _ in range(options.depth))
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3)
        )

    def forward(self, keypoints: Tensor, mask: Tensor, edges: Tensor) -> tuple[Tensor]:
        """The shape of each view.

        keypoints: [B, N, 2], centred on the mean of the visible joints, with a mean square distance
            of 1 from it; the others may hold anything finite.
        mask: bool [B, N], the joints that are visible.
        edges: bool [B, N, N], symmetric: which joints are neighbours in the skeleton, also those
            that are not visible. One without a neighbour that is not visible is not there at all.

        Returns a shape [B, N, 3] float32, in a tuple; 0 for joints that are not visible.
        """
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        there = mask | edges.any(-1)
        pairs = there[:, :, None] & there[:, None]
        # A joint that is not there sees itself, since a softmax over nothing is NaN.
        kinds = {"local": pairs & edges | itself, "global": pairs | itself}
        allowed = torch.stack([kinds[branch] for branch in self.branches], 1)
        x = float32_apply(self.encoding, keypoints)
        x = torch.where(mask[..., None], x, self.hidden)
        if self.returns is not None:
            x = x + float32_apply(self.returns, edges)
        # 0 and -inf are the same in any precision; of the smallest it is cast once at most.
        bias = torch.zeros_like(allowed, dtype=torch.bfloat16).masked_fill(~allowed, -torch.inf)
        for layer in self.layers:
            x = layer(x, bias)
        return (float32_apply(self.head, x) * mask[..., None],)
