# SPDX-License-Identifier: MIT
"""One image -> 32^3 voxels, with the four latent spaces of a survey of image-based reconstruction.

After chapter 3 of a digest of Han, Laga and Bennamoun, "Image-based 3D Object Reconstruction:
State-of-the-Art and Trends in the Deep Learning Era" (TPAMI 2021, https://arxiv.org/abs/1906.06543).
What its text fixes, and the presets keep:

- `tl` (3.1 and the TL architecture of 3): a volume encoder of 3-D convolutions, after 3D ShapeNets;
  an object and its image map to the same point of the latent space.
- `vae` (3.2): the image maps to mean and deviation of a normal distribution, a sample is decoded.
- `hierarchical` (3.3, Liu, Giles and Ororbia 2018): a global layer of latent variables and local
  ones, each given the codes above it through skips; all of them, laid flat, are the code.
- `disentangled` (3.4): shape and pose in codes of their own. Light would be the third; the lamp of
  the renderings hangs at the camera, so there is nothing to tell it from the pose.

Dropout leaves out single features of the image and whole channels of the decoder (Tompson et al.
2015, "spatial dropout"). The text tells no sizes but those of 3D ShapeNets. Encoder of the image:
that of models.networks.efficient, the same for all four. Decoder, the code's widths, where the
local codes stand, how shape and pose are held apart and the one length of codes without a deviation
are ours.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks import efficient
from models.networks.base import choose, draw_latent, float32_apply
from models.networks.decoder import FEATURE

FIRST = 4  # voxels a side of the decoder's first layer
RESOLUTION = 32  # voxels a side of its last
LEVELS = 3  # of transposed convolutions between them
GROUPS = 4  # of channels; the decoder sees codes of two kinds, whose statistics no norm may mix


class Preset(NamedTuple):
    encoder: efficient.Preset
    widths: tuple[int, int, int]  # channels of the decoder at 4, 8 and 16 voxels a side
    code: int  # width of the global, or shape, code
    shared: bool = False  # `tl`: volumes are encoded too
    normal: bool = False  # the code is a normal distribution
    local: tuple[int, ...] = ()  # channels of the local codes at 4, 8 ... voxels a side
    pose: int = 0  # width of the pose code


_FULL = Preset(efficient.PRESETS["default"], (256, 128, 64), 100)
_TINY = Preset(efficient.PRESETS["tiny-64"], (48, 24, 12), 32)
PRESETS = {
    "tl": _FULL._replace(shared=True),
    "vae": _FULL._replace(normal=True),
    "hierarchical": _FULL._replace(code=32, normal=True, local=(8, 4)),
    "disentangled": _FULL._replace(pose=16),
    "tl-tiny": _TINY._replace(shared=True),
    "vae-tiny": _TINY._replace(normal=True),
    "hierarchical-tiny": _TINY._replace(code=16, normal=True, local=(2, 1)),
    "disentangled-tiny": _TINY._replace(pose=8),
}


class Volumes(NamedTuple):
    """A forward pass; None for what the preset or the call does not have. R = 32."""

    logits: Tensor  # [B, R, R, R] of the occupancy, object frame
    code: Tensor  # [B, L] all that was decoded; of `disentangled` the shape code
    pose: Tensor | None = None  # [B, P] the pose code
    mu: Tensor | None = None  # [B, L]
    logvar: Tensor | None = None  # [B, L]
    target: Tensor | None = None  # [B, L] the code that `code` has to match
    again: Tensor | None = None  # [B, R, R, R] logits of the volumes' own codes
    azimuth: Tensor | None = None  # [B, 2] cosine and sine of the camera's, from the pose code
    swapped: Tensor | None = None  # [B, R, R, R] logits of each shape in the pose of `partner`


def up(channels_in: int, channels_out: int) -> nn.Sequential:
    """Twice the voxels a side."""
    return nn.Sequential(
        nn.ConvTranspose3d(channels_in, channels_out, 4, 2, 1, bias=False),
        nn.GroupNorm(GROUPS, channels_out),
        nn.LeakyReLU(0.1),
    )


def down(channels_in: int, channels_out: int) -> nn.Sequential:
    """Half the voxels a side."""
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 4, 2, 1, bias=False),
        nn.GroupNorm(GROUPS, channels_out),
        nn.LeakyReLU(0.1),
    )


class Decoder(nn.Module):
    """Code [B, L], and local codes that join on the way -> logits [B, 32, 32, 32].

    beside: channels that join the features at 4, 8 and 16 voxels a side.
    """

    def __init__(self, code: int, widths: tuple[int, int, int], beside: Sequence[int] = (0, 0, 0)):
        super().__init__()
        self.widths = widths
        self.first = nn.Sequential(nn.Linear(code, widths[0] * FIRST**3), nn.LeakyReLU(0.1))
        inputs = [width + more for width, more in zip(widths, beside, strict=True)]
        self.levels = nn.ModuleList(
            [up(before, width) for before, width in zip(inputs[:2], widths[1:], strict=True)]
        )
        self.last = nn.ConvTranspose3d(inputs[2], 1, 4, 2, 1)

    def forward(
        self, code: Tensor, local: Sequence[Tensor] = (), keep: Tensor | None = None
    ) -> Tensor:
        """keep: factors [B, sum(widths)] of the channels of all levels, see VoxelNetwork."""
        x = self.first(code).unflatten(1, (self.widths[0], FIRST, FIRST, FIRST))
        factors = None if keep is None else keep.to(x.dtype).split(self.widths, dim=1)
        for number in range(LEVELS):
            if factors is not None:
                x = x * factors[number][:, :, None, None, None]
            if number < len(local):
                x = torch.cat([x, local[number].to(x.dtype)], dim=1)
            x = self.levels[number](x) if number < LEVELS - 1 else float32_apply(self.last, x)
        return x[:, 0]


class VolumeEncoder(nn.Module):
    """Occupancy [B, 32, 32, 32] -> code [B, L]: three 3-D convolutions and a linear layer."""

    def __init__(self, code: int, widths: tuple[int, int, int]):
        super().__init__()
        channels = (1, *reversed(widths))
        self.layers = nn.Sequential(*(down(a, b) for a, b in pairwise(channels)))
        self.code = nn.Linear(widths[0] * FIRST**3, code)

    def forward(self, volume: Tensor) -> Tensor:
        return self.code(self.layers(2 * volume[:, None] - 1).flatten(1))


class LocalCodes(nn.Module):
    """Feature and global code -> mean and log-variance of local codes, from coarse to fine.

    Each level is told the feature, the global code and the level above: the skips of the method.
    """

    def __init__(self, code: int, channels: tuple[int, ...]):
        super().__init__()
        self.shapes = [(c, *3 * [FIRST * 2**level]) for level, c in enumerate(channels)]
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes]
        inputs = [FEATURE + code + above for above in (0, *self.sizes[:-1])]
        self.levels = nn.ModuleList(
            [nn.Linear(n, 2 * size) for n, size in zip(inputs, self.sizes, strict=True)]
        )

    def forward(
        self, feature: Tensor, code: Tensor, noise: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Codes, means and log-variances of all levels, [B, size] each."""
        drawn = [None] * len(self.sizes) if noise is None else noise.split(self.sizes, dim=1)
        above: list[Tensor] = []
        codes, means, logvars = [], [], []
        for level, eps in zip(self.levels, drawn, strict=True):
            mu, logvar = level(torch.cat([feature, code, *above], 1)).float().chunk(2, dim=1)
            above = [draw_latent(mu, logvar, eps)]
            codes += above
            means.append(mu)
            logvars.append(logvar)
        return codes, means, logvars


class VoxelNetwork(nn.Module):
    """One RGB image -> occupancy of 32^3 voxels in the object's frame, whatever the view.

    Args:
        preset: a name in PRESETS.
        image_size: side of the square image; any size from 32 on works.
    """

    latent: int  # normal variables that `noise` [B, latent] holds; 0: none
    dropped: int  # features and channels that `keep` [B, dropped] has a factor for
    reads_points = False  # what an answer costs is that of the image alone

    def __init__(self, preset: str = "vae", image_size: int = 96):
        super().__init__()
        p = choose(PRESETS, preset)
        self.code, self.pose = p.code, p.pose
        self.encoder = efficient.Encoder(p.encoder, image_size)
        self.mu = nn.Linear(FEATURE, p.code)
        self.logvar = nn.Linear(FEATURE, p.code) if p.normal else None
        # Codes that have to match have one length, or they would match by being short.
        self.norm = nn.Identity() if p.normal else nn.LayerNorm(p.code, elementwise_affine=False)
        self.local = LocalCodes(p.code, p.local) if p.local else None
        # The global code joins at every level that has a local one.
        beside = [c + p.code for c in p.local] + [0] * (LEVELS - len(p.local))
        self.decoder = Decoder(p.code + p.pose, p.widths, beside)
        self.volume_encoder = VolumeEncoder(p.code, p.widths) if p.shared else None
        self.to_pose = nn.Linear(FEATURE, p.pose) if p.pose else None
        self.to_azimuth = nn.Linear(p.pose, 2) if p.pose else None
        # The pose code of the object's own frame.
        self.own_frame = nn.Parameter(torch.zeros(p.pose)) if p.pose else None
        self.dropped = FEATURE + sum(p.widths)
        self.latent = (p.code + sum(self.local.sizes if self.local else ())) if p.normal else 0

    @property
    def pairs(self) -> bool:
        """Whether a training batch holds two views of each object: those of its second half."""
        return self.pose > 0

    def gives(self) -> frozenset[str]:
        """The fields of Volumes that a training step fills: what a loss term may need."""
        found = {"logits", "code"}
        found |= {"mu", "logvar"} if self.latent else set()
        found |= {"target", "again"} if self.volume_encoder is not None else set()
        found |= {"target", "pose", "azimuth", "swapped"} if self.pose else set()
        return frozenset(found)

    def decode(
        self, code: Tensor, pose: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Logits [B, R, R, R] of a whole code [B, L]; of `disentangled` in `pose`, or unturned.

        keep: the decoder's factors [B, sum(widths)] of `forward`'s.
        """
        if self.local is not None:
            code, *parts = code.split([self.code, *self.local.sizes], dim=1)
            spread = code[:, :, None, None, None]
            local = []
            for part, shape in zip(parts, self.local.shapes, strict=True):
                own = part.unflatten(1, shape)
                local.append(torch.cat([own, spread.expand(-1, -1, *shape[1:])], dim=1))
            return self.decoder(code, local, keep)
        if self.own_frame is not None:
            pose = self.own_frame.expand(len(code), -1) if pose is None else pose
            code = torch.cat([code, pose], dim=1)
        return self.decoder(code, keep=keep)

    def encode_volumes(self, volumes: Tensor) -> Tensor:
        """The codes [B, L] of occupancies [B, R, R, R], float 0 or 1; `tl` alone has them."""
        if self.volume_encoder is None:
            raise ValueError("encode_volumes: only the preset tl encodes volumes")
        return self.norm(self.volume_encoder(volumes).float())

    def forward(
        self,
        image: Tensor,
        volumes: Tensor | None = None,
        noise: Tensor | None = None,
        partner: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Volumes:
        """Reconstruct image [B, 3, S, S], values 0..1.

        Training gives more. `volumes` [B, R, R, R], the true occupancies in 0 and 1 (tl), which
        never reach `logits`. `noise` [B, latent], standard normal, draws the latent; without it the
        code is the mean. `partner` [B] int64, rows of the batch whose pose codes are taken
        (disentangled); the second half of the batch then shows the objects of the first. `keep`
        [B, dropped] is dropout: 0, or 1 / (1 - share), for each feature of the image and then each
        channel of the decoder's levels.
        """
        feature = self.encoder(image - 0.5)
        if keep is not None:
            features, keep = keep.split([FEATURE, self.dropped - FEATURE], dim=1)
            feature = feature * features.to(feature.dtype)
        mu, logvar = self.norm(self.mu(feature).float()), None
        parts = [mu]
        if self.logvar is not None:
            logvar = self.logvar(feature).float()
            own = None if noise is None else noise[:, : self.code]
            parts = [draw_latent(mu, logvar, own)]
        if self.local is not None and logvar is not None:
            rest = None if noise is None else noise[:, self.code :]
            codes, means, logvars = self.local(feature, parts[0], rest)
            mu, logvar = torch.cat([mu, *means], 1), torch.cat([logvar, *logvars], 1)
            parts += codes
        code = torch.cat(parts, dim=1)
        out = Volumes(self.decode(code, keep=keep), code)
        if logvar is not None:
            out = out._replace(mu=mu, logvar=logvar)
        if self.volume_encoder is not None and volumes is not None:
            target = self.encode_volumes(volumes)
            # The volumes teach their code, and the image follows it.
            out = out._replace(target=target.detach(), again=self.decode(target, keep=keep))
        if self.to_pose is not None and self.to_azimuth is not None:
            pose = self.to_pose(feature).float()
            out = out._replace(pose=pose, azimuth=float32_apply(self.to_azimuth, pose))
            if partner is not None:
                other = code.roll(len(code) // 2, 0).detach()
                swapped = self.decode(code, pose.index_select(0, partner), keep)
                out = out._replace(target=other, swapped=swapped)
        return out
