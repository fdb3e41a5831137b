"""A miniature world of images with depth, and the config to convert it."""

from pathlib import Path

import cv2
import numpy as np
import yaml

from data_pipelines.depth_corpus.config import Config
from data_pipelines.depth_corpus.run import Result, run

DEFAULTS = Path(__file__).parents[2] / "conf/pipeline/depth_corpus.yaml"


def config(source, **keys) -> Config:
    return Config(**{**yaml.safe_load(DEFAULTS.read_text()), "source": str(source), "processes": 1, **keys})


def convert(source, out, **keys) -> Result:
    return run(config(source, out=str(out), **keys), lambda *_: None)


def scene(seed: int, height: int = 12, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 (H, W, 3) and depth uint16 (H, W) in millimetres, of which some are 0."""
    rng = np.random.default_rng(seed)
    depth = rng.integers(500, 5000, (height, width)).astype(np.uint16)
    depth[: 1 + seed % 3, :2] = 0
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), depth


def write_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", values[..., ::-1] if values.ndim == 3 else values)[1].tobytes())


def write_folder(root: Path, count: int) -> Path:
    """rgb/0000.png with depth/0000.png, ..."""
    for number in range(count):
        image, depth = scene(number)
        write_png(root / f"rgb/{number:04d}.png", image)
        write_png(root / f"depth/{number:04d}.png", depth)
    return root
