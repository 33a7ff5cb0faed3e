# SPDX-License-Identifier: MIT
"""A made-up set of boxes in the layout of models.data, and the arguments of a run of seconds."""

import json

import numpy as np
import torch
from PIL import Image

SHAPES = {"03001627": (0.4, 1.0, 0.4), "04379243": (1.0, 0.3, 0.8)}  # tall chairs, flat tables


def box_cloud(size, points, generator=None):
    """Points on the surface of a box with sides `size`."""
    cloud = torch.rand(points, 3, generator=generator) - 0.5
    axis = torch.randint(0, 3, (points, 1), generator=generator)
    side = torch.randint(0, 2, (points, 1), generator=generator) - 0.5
    return cloud.scatter(1, axis, side) * torch.tensor(size)


def make_set(root, points=(64, 256, 1024, 2048)):
    """12 objects, 2 views of 64 x 64 pixels each: 4 of 6 train, 1 validates, 1 tests."""
    generator = torch.Generator().manual_seed(0)
    splits = {"train": {}, "val": {}, "test": {}}
    for synset, shape in SHAPES.items():
        for number in range(6):
            key = f"{synset}/m{number}"
            split = {4: "val", 5: "test"}.get(number, "train")
            splits[split].setdefault(synset, []).append(key)
            size = torch.tensor(shape) * (0.9 + 0.02 * number)
            clouds = root / "ShapeNet_pointclouds" / key
            images = root / "ShapeNetRendering" / key / "rendering"
            clouds.mkdir(parents=True)
            images.mkdir(parents=True)
            for count in points:
                cloud = box_cloud(size.tolist(), count, generator).numpy()
                np.save(clouds / f"pointcloud_{count}.npy", cloud.astype("<f2"))
            w, h = (32 * size[:2]).int().tolist()
            for view in range(2):
                picture = np.zeros((64, 64, 4), np.uint8)
                picture[32 - h : 32 + h, 32 - w : 32 + w] = (90 + 40 * view, 60, 30, 255)
                Image.fromarray(picture).save(images / f"{view:02d}.png")
            lines = ["90.0 27.0 0 1.5 49.13", "181.0 29.0 0 1.5 49.13"]
            (images / "rendering_metadata.txt").write_text("\n".join(lines) + "\n")
    (root / "splits").mkdir()
    for split, table in splits.items():
        (root / "splits" / f"{split}_models.json").write_text(json.dumps(table))
    return root


def settings(root, **more):
    """--set words of a tiny run on the set at `root`; `more` as section_key=value."""
    values = {
        "data.root": json.dumps(str(root)),
        "network.points": 64,
        "data.image_size": 32,
        "optim.batch_size": 4,
        "optim.epochs": 2,
        "optim.max_minutes": 0,
        "evaluate.views": 0,
        "loss.emd_rtol": 0.05,
    }
    values |= {key.replace("_", ".", 1): value for key, value in more.items()}
    return ["--set", *(f"{key}={value}" for key, value in values.items())]
