# SPDX-License-Identifier: MIT
"""A self-contained HTML page in which clouds can be turned; page.html draws what is put in here."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

TEMPLATE = Path(__file__).with_name("page.html")
QUANTILE = 0.98  # of all values of a measure, where its colours end
FRONT = (55.0, 25.0)  # azimuth and elevation, degrees, if the camera is not known


@dataclass(frozen=True)
class Cloud:
    """A prediction, or a truth, with what may colour its points."""

    points: Tensor  # [N, 3]
    distance: Tensor | None = None  # [N] to the truth
    spread: Tensor | None = None  # [N] over draws of the latent
    missed: Tensor | None = None  # [M] from each point of the truth to this cloud
    cd: float | None = None  # x100


class Shown(NamedTuple):
    """An object of the page."""

    name: str
    category: str
    image: Tensor  # [3, H, W] in 0..1
    truth: Tensor | None  # [M, 3]
    clouds: dict[str, Cloud]  # by system
    camera: tuple[float, float] = FRONT  # azimuth and elevation of the image, degrees


def text64(values: Tensor, kind: str) -> str:
    return base64.b64encode(values.numpy().astype(kind).tobytes()).decode()


def quantise(points: Tensor) -> dict[str, Any]:
    """[N, 3] as int16 of the largest coordinate: off by at most 1/65534 of it."""
    reach = max(points.abs().max().item(), 1e-9)
    return {"reach": reach, "points": text64((points / reach * 32767).round(), "<i2")}


def shade(values: Tensor, limit: float) -> str:
    """[N] as uint8 of `limit`, above which there is one colour."""
    return text64((values / limit * 255).round().clamp(0, 255), "u1")


def data_uri(image: Tensor) -> str:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def limits(shown: Sequence[Shown]) -> dict[str, float]:
    """Where the colours of each measure end; a measure that no cloud has is not there."""
    found = {}
    for measure in ("distance", "spread"):
        values = [getattr(cloud, measure) for entry in shown for cloud in entry.clouds.values()]
        if values := [value for value in values if value is not None]:
            ranked = torch.cat(values).sort().values
            found[measure] = max(ranked[int(QUANTILE * (len(ranked) - 1))].item(), 1e-6)
    return found


def page(
    title: str,
    notes: Sequence[str],
    systems: Sequence[str],
    shown: Sequence[Shown],
    charts: dict[str, Any] | None = None,
) -> str:
    """The HTML; `charts` as models.viewer.collect_charts gives them."""
    ends = limits(shown)
    objects = []
    for entry in shown:
        clouds = {}
        for system, cloud in entry.clouds.items():
            packed = quantise(cloud.points) | {"cd": cloud.cd}
            for measure in ("distance", "spread"):
                if (value := getattr(cloud, measure)) is not None:
                    packed[measure] = shade(value, ends[measure])
            if cloud.missed is not None:
                packed["missed"] = shade(cloud.missed, ends["distance"])
            clouds[system] = packed
        objects.append(
            {
                "name": entry.name,
                "category": entry.category,
                "image": data_uri(entry.image),
                "truth": None if entry.truth is None else quantise(entry.truth),
                "clouds": clouds,
                "camera": entry.camera,
            }
        )
    data = {
        "title": title,
        "notes": list(notes),
        "systems": list(systems),
        "limits": ends,
        "objects": objects,
        "charts": charts or {},
    }
    # "<" is the only letter that could end the script element that holds the data.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", text)
