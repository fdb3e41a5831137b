"""Pictures with something on them, and sources that hold them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from data_pipelines.pictures.config import Config
from data_pipelines.pictures.run import Result, run

DEFAULTS = Path(__file__).parents[2] / "conf/pipeline/pictures.yaml"


def config(source, **keys) -> Config:
    defaults = yaml.safe_load(DEFAULTS.read_text())
    return Config(**{**defaults, "source": source if isinstance(source, list) else str(source), "processes": 1, **keys})


def collect(source, out, **keys) -> Result:
    return run(config(source, out=str(out), **keys), lambda *_: None)


def scene(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """uint8 (H, W, 3): soft blobs of many sizes, as far from another seed's as photos are from each other."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    picture = np.zeros((height, width, 3))
    for _ in range(40):
        cx, cy, size = *rng.random(2), rng.uniform(0.02, 0.3)
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / size**2)
        picture += blob[..., None] * rng.normal(0, 1, 3)
    picture = (picture - picture.min()) / np.ptp(picture)
    return (picture * 255).astype(np.uint8)


def encoded(picture: np.ndarray, form: str = "JPEG", **keys) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form, **({"quality": 92} if form == "JPEG" else {}) | keys)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
