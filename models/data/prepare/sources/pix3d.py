# SPDX-License-Identifier: MIT
"""Pix3D as its authors pack it: photos, masks and models -> one object a model, one view a photo.

DIR/pix3d.json, DIR/img/<category>/, DIR/mask/<category>/, DIR/model/<category>/
Photos are chosen and cut as in 3D-LMNet: nothing truncated or occluded; what the mask leaves of the
bounding box, its longest side scaled to 93 of 128 pixels, in the middle of the picture.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.data.categories import SYNSETS
from models.data.prepare.archives import PrepareError, inside
from models.data.prepare.licences import Licence, Terms
from models.data.prepare.mesh import Item, Mesh
from models.data.prepare.objects import Options, fresh_folders, item_record, write_clouds
from models.data.prepare.pictures import open_picture

CATEGORIES = ("chair", "sofa", "table")  # those that 3D-LMNet reports and ShapeNet shares
_SHARE = 93 / 128  # of the picture that the longest side of the object takes
_HIDDEN = ("truncated", "occluded", "slightly_occluded")
_TERMS = Terms(Licence("CC-BY-4.0", "http://pix3d.csail.mit.edu"), "Sun et al., Pix3D, CVPR 2018")


def collect(folder: Path, categories: list[str] | None) -> list[Item]:
    """One item a model, with its usable photos. Raises PrepareError where the data set is not."""
    wanted = categories or list(CATEGORIES)
    if unknown := sorted(set(wanted) - set(SYNSETS)):
        raise PrepareError(f"--categories {unknown[0]}: has no synset; of {', '.join(CATEGORIES)}")
    photos: dict[tuple[str, str], list[tuple[str, str, tuple[float, ...]]]] = defaultdict(list)
    for number, entry in enumerate(read_index(folder)):
        try:
            if entry["category"] in wanted and not any(entry[word] for word in _HIDDEN):
                box = tuple(float(edge) for edge in entry["bbox"])
                photo = (entry["img"], entry["mask"], box)
                photos[entry["category"], entry["model"]].append(photo)
        except (KeyError, TypeError, ValueError) as error:
            raise PrepareError(f"{folder / 'pix3d.json'}: entry {number}: {error!r}") from None
    items = []
    for (category, path), found in sorted(photos.items()):
        # model/chair/IKEA_BERNHARD/bernhard.obj; some folders hold several models.
        name = path.removeprefix(f"model/{category}/").rpartition(".")[0]
        items.append(
            Item(
                category=category,
                model=re.sub(r"[^\w-]", "_", name),
                name=name,
                source={"library": "Pix3D", "file": path},
                container=folder,
                path=path,
                family=f"{category}/{name.split('/')[0]}",
                terms=_TERMS,
                photos=tuple(found),
            )
        )
    return items


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The entries of pix3d.json."""
    path = folder / "pix3d.json"
    missing = [name for name in ("img", "mask", "model") if not (folder / name).is_dir()]
    if missing or not path.is_file():
        raise PrepareError(
            f"{folder}: no {missing[0] + '/' if missing else 'pix3d.json'}; expected Pix3D "
            "as it is unpacked: pix3d.json, img/, mask/ and model/, from http://pix3d.csail.mit.edu"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PrepareError(f"{path}: not JSON ({error})") from None
    if not isinstance(index, list) or not all(isinstance(entry, dict) for entry in index):
        raise PrepareError(f"{path}: expected a list of photos")
    return index


def write_object(item: Item, mesh: Mesh, options: Options) -> dict[str, Any]:
    """Write one model's clouds and cut photos; its manifest record, without family and split."""
    views, clouds = fresh_folders(options.out, item.key)
    hashes = write_clouds(mesh, item.key, clouds, options)
    (views / "rendering").mkdir()
    for number, (photo, mask, box) in enumerate(item.photos):
        paths = [photo_path(item.container, name) for name in (photo, mask)]
        image = cut(paths[0], paths[1], box, options.size)
        image.save(views / "rendering" / f"{number:02d}.png", optimize=True)
    record = {**item_record(item, mesh), "photos": [photo for photo, _, _ in item.photos]}
    return {**record, "views": len(item.photos), "sha256": hashes}


def photo_path(folder: Path, name: str) -> Path:
    """folder/name, refused where it leads out of the folder."""
    path = inside(folder, name)
    if path is None:
        raise ValueError(f"{name!r} leads out of {folder}")
    return path


def cut(photo: Path, mask: Path, box: tuple[float, ...], size: int) -> Image.Image:
    """The object alone, alpha = mask, centred on size x size pixels."""
    with open_picture(photo) as file:
        image = file.convert("RGB")
    with open_picture(mask) as file:
        # Masks are 0 or 255. Multiplied as bytes they would wrap around: only their sign counts.
        alpha = Image.fromarray((np.asarray(file.convert("L")) > 0).astype(np.uint8) * 255)
    if alpha.size != image.size:
        raise ValueError(f"{mask.name} is {alpha.size} pixels, its photo {image.size}")
    image.putalpha(alpha)
    left, top, right, bottom = (round(edge) for edge in box)
    if not (left < right and top < bottom):
        raise ValueError(f"{photo.name}: empty bounding box {box}")
    image = image.crop((left, top, right, bottom))
    scale = size * _SHARE / max(image.size)
    small = image.resize([max(1, round(side * scale)) for side in image.size],
                         Image.Resampling.BILINEAR)  # fmt: skip
    if not np.asarray(small)[..., 3].any():
        raise ValueError(f"{photo.name}: the mask leaves nothing")
    picture = Image.new("RGBA", (size, size))
    picture.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return picture
