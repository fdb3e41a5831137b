"""Seconds that each output of `vstrain predict` takes for a photo, beside the network.

python benchmarks/depth_scene.py [HEIGHT WIDTH]   (default 3024 4032)
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import yaml

from vstrain.systems.depth.config import Predict
from vstrain.systems.depth.scene import still
from vstrain.systems.depth.scene.camera import Scene, camera_of, over_range
from vstrain.systems.depth.scene.edges import sharpen

SHIPPED = Path(__file__).parents[1] / "conf" / "system" / "depth.yaml"


def main(height: int = 3024, width: int = 4032) -> None:
    options = Predict(**yaml.safe_load(SHIPPED.read_text())["predict"])
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8), (width, height))
    small = np.tile(np.linspace(0, 1, 518, dtype=np.float32)[:, None], (1, 686))
    for row, column, radius in rng.integers(40, 480, (20, 3)):
        cv2.circle(small, (int(column), int(row)), int(radius) // 8, float(row) / 518 + 0.2, -1)
    disparity = cv2.resize(small, (width, height))
    camera = camera_of(height, width, None, options.fov)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        took("depth", lambda: still.depth(photo, disparity, False, camera.text, out, "a"))
        unit = took("sharp edges", lambda: sharpen(over_range(disparity)[0], 9, options.edge))
        scene = Scene(photo, unit, 1 / options.far_ratio, 1.0, camera, False)
        for name, make in still.OUTPUTS.items():
            took(name, lambda make=make: make(scene, options, out, "a"))


def took(name: str, work):
    began = time.perf_counter()
    result = work()
    print(f"{name:12} {time.perf_counter() - began:6.2f} s", flush=True)
    return result


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
