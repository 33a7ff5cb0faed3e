# SPDX-License-Identifier: MIT
"""DUSt3R: two images of a scene -> the point that each of their pixels sees, in the first camera.

Wang, Leroy, Cabon, Chidlovskii, Revaud, "DUSt3R: Geometric 3D Vision Made Easy" (CVPR 2024),
sections 3.1 and 3.2. Fixed there: one ViT encoder for both images; two decoders of the same shape
with weights of their own, in which each block attends to its own tokens, then to the other view's
tokens as the block before has left them; a head of each view for its pointmap and the confidence
of each point; both pointmaps in the frame of the first camera. As in CroCo v2, on which the paper
builds, attention knows places by rotary embeddings, in two dimensions.
Ours: the sizes; that training starts from random weights; and, for few images have to suffice, that
tokens also have learnt embeddings of their places, and that heads give what is added to a plane.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.base import choose, float32_apply

BASE = 100.0  # of the rotary embeddings' frequencies, as in CroCo v2


class Preset(NamedTuple):
    """Sizes; a head's width must be a multiple of 4."""

    patch: int  # pixels of a token's side
    width: int  # of the encoder's tokens
    heads: int
    blocks: int
    decoder_width: int
    decoder_heads: int
    decoder_blocks: int


PRESETS = {
    "patch-8": Preset(8, 256, 4, 6, 192, 3, 4),
    "patch-16": Preset(16, 384, 6, 8, 256, 4, 6),
    "tiny": Preset(8, 96, 3, 3, 96, 3, 2),
}


class Pointmaps(NamedTuple):
    """What the network says of the views of a batch."""

    points: Tensor  # [B, 2, H, W, 3] float32, first camera's frame, up to a scale
    confidence: Tensor  # [B, 2, H, W] float32; the confidence itself is 1 + exp of it


class Places(nn.Module):
    """Rotary embeddings of tokens on a grid of `side` x `side` (Su et al. 2021, in 2-D).

    Half of a head's pairs of channels turn with the token's row, half with its column, so a score
    of query and key depends on how far apart they lie and not on where.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, side: int, head: int):
        super().__init__()
        if head % 4:
            raise ValueError(f"a head's width must be a multiple of 4, got {head}")
        frequency = BASE ** (-torch.arange(head // 4) / (head // 4))
        angle = torch.arange(side)[:, None] * frequency  # [side, head / 4]
        rows = angle.repeat_interleave(side, 0)
        angles = torch.cat([rows, angle.repeat(side, 1)], dim=1)  # [side^2, head / 2]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn queries or keys [B, heads, T, head]."""
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], dim=-1)


class Attention(nn.Module):
    """Tokens attend to tokens, their own or others'."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor, places: Places) -> Tensor:
        """What x [B, T, width] reads in y [B, T, width]."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), *self.key_value(y).chunk(2, dim=-1))
        )
        read = F.scaled_dot_product_attention(places(q).to(v.dtype), places(k).to(v.dtype), v)
        return self.out(read.transpose(1, 2).flatten(2))


def _mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention, self.mlp = Attention(width, heads), _mlp(width)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        own = self.norms[0](x)
        x = x + self.attention(own, own, places)
        return x + self.mlp(self.norms[1](x))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attention, self.cross = Attention(width, heads), Attention(width, heads)
        self.mlp = _mlp(width)

    def forward(self, x: Tensor, other: Tensor, places: Places) -> Tensor:
        own = self.norms[0](x)
        x = x + self.attention(own, own, places)
        x = x + self.cross(self.norms[1](x), self.norms[2](other), places)
        return x + self.mlp(self.norms[3](x))


class Branch(nn.Module):
    """The decoder of one of the views, and its head."""

    def __init__(self, preset: Preset):
        super().__init__()
        width, heads = preset.decoder_width, preset.decoder_heads
        self.enter = nn.Linear(preset.width, width)
        self.blocks = nn.ModuleList(
            DecoderBlock(width, heads) for _ in range(preset.decoder_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 4 * preset.patch**2)


class PointmapNetwork(nn.Module):
    """See the head of this file.

    Args:
        preset: a key of PRESETS.
        image_size: pixels of an image's side, a multiple of the preset's patch.
    """

    start: Tensor

    def __init__(self, preset: str, image_size: int):
        super().__init__()
        sizes = choose(PRESETS, preset)
        if image_size % sizes.patch:
            raise ValueError(
                f"data.image_size: expected a multiple of {sizes.patch} for network.preset "
                f"{preset!r}, got {image_size}"
            )
        self.patch, self.side = sizes.patch, image_size // sizes.patch
        self.embed = nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch)
        self.place = nn.Parameter(0.02 * torch.randn(self.side**2, sizes.width))
        self.places = Places(self.side, sizes.width // sizes.heads)
        self.encoder = nn.ModuleList(
            EncoderBlock(sizes.width, sizes.heads) for _ in range(sizes.blocks)
        )
        self.norm = nn.LayerNorm(sizes.width)
        self.decoder_places = Places(self.side, sizes.decoder_width // sizes.decoder_heads)
        self.one, self.two = Branch(sizes), Branch(sizes)
        self.apply(_initialise)
        for branch in (self.one, self.two):
            nn.init.normal_(branch.head.weight, std=0.002)
        # What the heads give is added to a plane before the camera.
        self.register_buffer("start", _plane(image_size), persistent=False)

    def encode(self, image: Tensor) -> Tensor:
        """Images [N, 3, S, S] in 0..1 -> tokens [N, T, width]."""
        x = self.embed(2 * image - 1).flatten(2).transpose(1, 2) + self.place
        for block in self.encoder:
            x = block(x, self.places)
        return self.norm(x)

    def forward(self, image: Tensor) -> Pointmaps:
        """Pointmaps of pairs of images [B, 2, 3, S, S] with values in 0..1."""
        tokens = self.encode(image.flatten(0, 1)).unflatten(0, (-1, 2))
        first, second = self.one.enter(tokens[:, 0]), self.two.enter(tokens[:, 1])
        for a, b in zip(self.one.blocks, self.two.blocks, strict=True):
            # Both read what the block before has left.
            first, second = (
                a(first, second, self.decoder_places),
                b(second, first, self.decoder_places),
            )
        maps = torch.stack([self._head(self.one, first), self._head(self.two, second)], dim=1)
        return Pointmaps(_unfold(maps[..., :3] + self.start), maps[..., 3])

    def _head(self, branch: Branch, tokens: Tensor) -> Tensor:
        """Tokens [B, T, width] -> [B, S, S, 4] float32: what stands for points and confidence."""
        values = float32_apply(branch.head, float32_apply(branch.norm, tokens))
        grid = values.transpose(1, 2).unflatten(2, (self.side, self.side))
        return F.pixel_shuffle(grid, self.patch).permute(0, 2, 3, 1)


def _plane(side: int) -> Tensor:
    """[S, S, 3] of which `_unfold` makes a plane before a camera with 53 degrees across."""
    across = (torch.arange(side) + 0.5) / side - 0.5
    ray = torch.stack([*torch.meshgrid(across, across, indexing="xy"), torch.ones(side, side)], 2)
    length = torch.linalg.vector_norm(ray, dim=2, keepdim=True)
    return ray / length * torch.log1p(length)


def _unfold(values: Tensor) -> Tensor:
    """x -> x / |x| * (exp |x| - 1): any distance is within reach, near ones are fine."""
    length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values * (torch.expm1(length) / length.clamp_min(1e-6))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
