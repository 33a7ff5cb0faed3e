# SPDX-License-Identifier: MIT
"""Pictures of what the autoencoder sees: depth, normals, other views, other light."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models import files
from models.data.renders import Renders
from models.networks.gan2shape import BACK, Guess, PhotoGeometric, Relief, look, pose_of
from models.tasks.gan2shape_baselines import filled
from pointloss import depth_to_normals

if TYPE_CHECKING:
    from models.gan2shape.surfaces import Reliefs

TURNS = (-50.0, 0.0, 50.0)  # degrees from the front, or from the image's own view
LIGHTS = ((-1.2, 0.0), (1.2, 0.0), (0.0, -1.2))  # x and y of the light (x, y, -1)
FRAMES, MILLISECONDS = 24, 80


class Picture(NamedTuple):
    """A view, on the CPU."""

    label: str
    image: Tensor  # [3, H, W] in 0..1
    again: Tensor  # [3, H, W] the reconstruction
    depth: Tensor  # [H, W], NaN outside of the object
    normal: Tensor  # [H, W, 3]
    albedo: Tensor  # [3, H, W] from the front
    rotated: list[Tensor]  # [3, H, W] by TURNS
    relit: list[Tensor]  # [3, H, W] by LIGHTS
    frames: Tensor  # [FRAMES, 3, H, W]: swings and is lit from all sides
    true_depth: Tensor | None = None
    true_normal: Tensor | None = None


# A yaw in radians from the front, and x and y of the light or None for its own -> [3, H, W].
See = Callable[[float, tuple[float, float] | None], Tensor]


def _lit(light: Tensor, towards: tuple[float, float] | None) -> Tensor:
    """A light [1, 4], from elsewhere."""
    if towards is None:
        return light
    return torch.cat([light[:, :2], light.new_tensor([towards])], 1)


def _turned(see: See, own: float, front: float) -> dict[str, Any]:
    """Other views and lights; `own` is the yaw of the image, `front` that of the middle view."""
    circle = [2 * math.pi * n / FRAMES for n in range(FRAMES)]
    frames = [see(front + math.radians(55) * math.sin(a), None) for a in circle]
    frames += [see(own, (1.3 * math.cos(a), 1.3 * math.sin(a))) for a in circle]
    return {
        "rotated": [see(front + math.radians(degrees), None) for degrees in TURNS],
        "relit": [see(own, light) for light in LIGHTS],
        "frames": torch.stack(frames),
    }


@torch.no_grad()
def describe(network: PhotoGeometric, image: Tensor, label: str) -> Picture:
    """What the network says of an image [4, H, W], colours on white and alpha in 0..1."""
    out: Guess = network(image[None])
    parts = out.parts
    inside = image[3] > 0.5
    whole = filled(out, inside[None])
    even = torch.tensor([[1.0, 0, 0, 0]]).to(image)
    # Where nothing but depth was learnt the image itself is the texture.
    behind = torch.where(inside, parts.shape, BACK)
    relief = Relief(behind, image[None, :3], image[None, 3:])

    def see(yaw: float, towards: tuple[float, float] | None, light: Tensor) -> Tensor:
        view = parts.view.clone()
        view[:, 0] = yaw
        lit = _lit(light, towards)
        if network.own_view:
            view[:, 1:] = 0
            seen = look(relief, pose_of(view), lit, network.lens, network.fov, network.steps)
        else:
            seen = network.see(parts, pose_of(view), lit)
        return seen.image[0, :3].clamp(0, 1).cpu()

    light = even if network.own_view else parts.light
    own = 0.0 if network.own_view else parts.view[0, 0].item()
    return Picture(
        label,
        image[:3].cpu(),
        out.image[0, :3].clamp(0, 1).cpu(),
        torch.where(inside, whole[0], torch.nan).cpu(),
        depth_to_normals(whole, network.lens, mask=inside[None])[0].cpu(),
        see(0.0, None, even),
        **_turned(lambda yaw, towards: see(yaw, towards, light), own, 0.0),
    )


@torch.no_grad()
def fitted(
    surfaces: "Reliefs", image: Tensor, first: Tensor, views: Renders, number: int, name: str
) -> Picture:
    """What models.gan2shape.fit found for an image [1, 4, H, W] with a first depth [1, H, W]."""
    light, still = surfaces.light(image), torch.zeros(1, device=image.device)
    inside, maps = image[0, 3] > 0.5, surfaces.maps(image, first)

    def see(yaw: float, towards: tuple[float, float] | None) -> Tensor:
        pose = surfaces.standing(image, maps, surfaces.at(still + yaw, still, still))
        seen = surfaces.see(maps, pose, _lit(light, towards))
        return seen.image[0, :3].clamp(0, 1).cpu()

    found = Picture(
        name.split("/")[1],
        image[0, :3].cpu(),
        see(0.0, None),
        torch.where(inside, maps.depth[0], torch.nan).cpu(),
        depth_to_normals(maps.depth, surfaces.lens, mask=inside[None])[0].cpu(),
        (maps.albedo * maps.alpha + 1 - maps.alpha)[0].cpu(),
        **_turned(see, 0.0, 0.0),
    )
    return _with_truth(found, views, number)


def picture(network: PhotoGeometric, views: Renders, number: int, name: str) -> Picture:
    """A view of a set, with the truth."""
    found = describe(network, views.image[number].float() / 255, name.split("/")[1])
    return _with_truth(found, views, number)


def _with_truth(found: Picture, views: Renders, number: int) -> Picture:
    depth = views.depth[number].cpu()
    return found._replace(
        true_depth=torch.where(depth > 0, depth, torch.nan), true_normal=views.normal[number].cpu()
    )


def _colours(normal: Tensor) -> Tensor:
    """Normals [H, W, 3] as colours: right red, up green, towards the camera blue; white: none."""
    colours = normal * torch.tensor([0.5, -0.5, -0.5]) + 0.5
    return torch.where((normal == 0).all(-1, keepdim=True), 1, colours).clamp(0, 1)


def draw(path: Path, pictures: list[Picture]) -> None:
    """A line for each view; the truth where there is one."""
    known = any(one.true_depth is not None for one in pictures)
    titles = ["image", "again", "albedo", "depth"]
    titles += ["true depth", "normals", "true normals"] if known else ["normals"]
    titles += [f"from {turn:+g}°" for turn in TURNS]
    titles += ["light: left", "right", "above"]
    rows, columns = len(pictures), len(titles)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.25 * columns, 1.3 * rows + 0.3), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=8)
    for line, one in zip(axes, pictures, strict=True):
        line[0].set_ylabel(one.label[-24:], fontsize=6)
        shown = [image.permute(1, 2, 0) for image in (one.image, one.again, one.albedo)]
        shown += [d for d in (one.depth, one.true_depth) if d is not None]
        shown += [_colours(n) for n in (one.normal, one.true_normal) if n is not None]
        shown += [image.permute(1, 2, 0) for image in (*one.rotated, *one.relit)]
        for ax, pixels in zip(line, shown, strict=True):
            ax.imshow(pixels.numpy(), cmap="viridis_r")  # colours have no use for the map
            ax.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100)
    plt.close(figure)


def animate(path: Path, pictures: list[Picture], scale: int = 2) -> None:
    """A GIF: each object swings before the camera, then a light goes around it."""
    frames = torch.stack([one.frames for one in pictures])  # [P, F, 3, H, W]
    images = torch.stack([one.image for one in pictures])[:, None].expand_as(frames)
    sheet = torch.cat([images, frames], 3)  # the image above
    sheet = sheet.permute(1, 3, 0, 4, 2).flatten(2, 3)  # [F, 2H, P W, 3]
    large = sheet.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    pixels = (255 * large).round().to(torch.uint8).numpy()
    shown = [Image.fromarray(np.ascontiguousarray(frame)) for frame in pixels]
    with files.replacing(path) as file:
        shown[0].save(
            file, "GIF", save_all=True, append_images=shown[1:], duration=MILLISECONDS, loop=0
        )
