# SPDX-License-Identifier: MIT
"""Depth and normal maps as PNG: exact to half a step, and any viewer opens them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DEPTH_STEP = 1e-4  # object units a grey value; 16 bits reach 6.5 units, four times the cameras'


def write_depth(path: Path, depth: np.ndarray) -> None:
    """depth: [S, S] in object units, 0 where there is nothing -> 16 bit grey."""
    if depth.max(initial=0) > 65535 * DEPTH_STEP:
        raise ValueError(f"depth {depth.max():.3g} is beyond {65535 * DEPTH_STEP:.3g}")
    Image.fromarray(np.rint(depth / DEPTH_STEP).astype(np.uint16)).save(path)


def read_depth(path: Path) -> np.ndarray:
    """[S, S] float32 in object units, 0 where there is nothing."""
    with Image.open(path, formats=("PNG",)) as file:
        grey = np.asarray(file)
    if grey.dtype != np.uint16 or grey.ndim != 2:
        raise ValueError(f"{path}: expected 16 bit grey, got {grey.dtype} {list(grey.shape)}")
    return (grey * DEPTH_STEP).astype(np.float32)


def write_normal(path: Path, normal: np.ndarray) -> None:
    """normal: [S, S, 3], unit or 0 -> RGB, 128 + 127 n (an error of at most 0.4 degrees)."""
    Image.fromarray(np.rint(128 + 127 * normal).astype(np.uint8)).save(path)


def read_normal(path: Path) -> np.ndarray:
    """[S, S, 3] float32, unit or 0."""
    with Image.open(path, formats=("PNG",)) as file:
        normal = (np.asarray(file.convert("RGB"), dtype=np.float32) - 128) / 127
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return np.where(length > 0.5, normal / np.maximum(length, 1e-9), 0)
