"""ETH3D, high-resolution multi-view, training scenes.

<scene>/images/dslr_images/<name>.JPG                the pictures as taken
<scene>/ground_truth_depth/dslr_images/<name>.JPG    not a JPEG: float32 metres row by row, of the picture's size; inf =
                                                     invalid"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from vstrain.config.problems import InputError
from vstrain.systems.depth.protocols import files
from vstrain.systems.depth.protocols.config import DepthProtocol
from vstrain.systems.depth.protocols.listing import Listing, Sample, wrong_layout


def find(root: Path, options: DepthProtocol) -> Listing:
    depths = sorted(root.glob("*/ground_truth_depth/dslr_images/*"))
    pairs = [(path.parents[2] / "images" / "dslr_images" / path.name, path) for path in depths]
    samples = [
        Sample(f"{depth.parents[2].name}/{depth.stem}", partial(_read, image, depth))
        for image, depth in pairs
        if image.is_file()
    ]
    if not samples:
        raise wrong_layout(
            root, "<scene>/images/dslr_images/*.JPG with <scene>/ground_truth_depth/dslr_images/* of the same names"
        )
    return Listing(samples, "training, dslr_images")


def _read(image: Path, depth: Path) -> tuple[np.ndarray, np.ndarray]:
    photo, data = files.jpeg(image), files.content(depth)
    if len(data) != 4 * photo.shape[0] * photo.shape[1]:
        raise InputError(
            f"{depth}: {len(data)} bytes; expected {4 * photo.shape[0] * photo.shape[1]}, a float32 for each pixel of "
            f"{image.name} ({photo.shape[1]} x {photo.shape[0]})"
        )
    return photo, np.frombuffer(data, "<f4").reshape(photo.shape[:2])
