"""MPI Sintel.

training/final/<scene>/frame_0001.png    or clean/
training/depth/<scene>/frame_0001.dpt    float32 202021.25, int32 width, int32 height, float32 metres row by row"""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

import numpy as np

from vstrain.config.problems import InputError
from vstrain.systems.depth.protocols import files
from vstrain.systems.depth.protocols.config import Sintel
from vstrain.systems.depth.protocols.listing import Listing, Sample, wrong_layout

TAG = 202021.25
HEADER = struct.Struct("<fii")


def find(root: Path, options: Sintel) -> Listing:
    depths = root / "training" / "depth"
    images = root / "training" / options.rendering
    pairs = [(images / path.relative_to(depths).with_suffix(".png"), path) for path in depths.glob("*/frame_*.dpt")]
    samples = [
        Sample(depth.relative_to(depths).with_suffix("").as_posix(), partial(_read, image, depth))
        for image, depth in sorted(pairs)
        if image.is_file()
    ]
    if not samples:
        raise wrong_layout(
            root, f"training/{options.rendering}/<scene>/frame_*.png with training/depth/<scene>/frame_*.dpt"
        )
    return Listing(samples, f"training, {options.rendering}")


def read_dpt(path: Path) -> np.ndarray:
    """float32 (H, W) metres."""
    data = files.content(path)
    tag, width, height = HEADER.unpack_from(data) if len(data) >= HEADER.size else (0, 0, 0)
    if tag != TAG:
        raise InputError(f"{path}: does not begin with the number {TAG}; expected a .dpt file of Sintel")
    if len(data) != HEADER.size + 4 * width * height:
        raise InputError(f"{path}: {len(data)} bytes for {width} x {height} pixels; it may be cut short")
    return np.frombuffer(data, "<f4", offset=HEADER.size).reshape(height, width)


def _read(image: Path, depth: Path) -> tuple[np.ndarray, np.ndarray]:
    return files.picture(image), read_dpt(depth)
