"""Small hand-made samples of every kind, and shards of them, for the tests of looking and checking."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vstrain.data import codecs
from vstrain.data.index import Index
from vstrain.data.writer import ShardFile

SIDE = 24


def depth(n: int) -> dict:
    rng = np.random.default_rng(n)
    ramp = np.linspace(1, 5 + n, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    return {
        "png": rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        "depth.pco": ramp,
        "mask.png": np.full((SIDE, SIDE), 255, np.uint8),
        "json": {"unit": "depth"},
    }


def story(n: int) -> dict:
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    frames = np.repeat(colours, 4, axis=0)[:, None, None] + np.zeros((12, 16, 16, 1), np.uint8)
    shots = [{"start": 4 * s, "end": 4 * s + 4, "caption": f"shot {s} of clip {n}", "characters": []} for s in range(3)]
    return {"mp4": frames, "json": {"fps": 8.0, "characters": {}, "shots": shots}}


def pose(azimuth: float, elevation: float, distance: float = 2.0) -> np.ndarray:
    """Camera to world, OpenGL, looking at the origin, z up."""
    a, e = np.radians([azimuth, elevation])
    back = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = np.stack([right, np.cross(back, right), back], 1), distance * back
    return out


def multiview(n: int) -> dict:
    azimuths = [0, 90, 180, 270]
    views = [{"c2w": pose(a, 10).tolist(), "fovy": 40.0, "width": SIDE, "height": SIDE} for a in azimuths]
    out = {"camera.json": {"version": 1, "views": views}, "meta.json": {}, "txt": f"a toy with number {n}"}
    for view in range(len(views)):
        picture = np.zeros((SIDE, SIDE, 4), np.uint8)
        picture[6:18, 6:18] = (60 * view, 100, 200, 255)
        out[f"rgba_{view:03d}.png"] = picture
    return out


def drag(n: int) -> dict:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:20, 4:20] = 255
    return {
        "src.webp": np.full((SIDE, SIDE, 3), 120, np.uint8),
        "tgt.webp": np.full((SIDE, SIDE, 3), 140, np.uint8),
        "mask.png": mask,
        "points.json": {"handles": [[6.0, 6.0]], "targets": [[16.0, 6.0 + n % 3]], "src_index": 0, "tgt_index": 7},
        "meta.json": {"camera": "still"},
    }


def image(n: int) -> dict:
    return {"png": np.full((SIDE, 2 * SIDE, 3), 10 * n, np.uint8), "txt": f"a plain picture {n}"}


KINDS = {"depth": depth, "story": story, "multiview": multiview, "drag": drag, "image": image}


def key(n: int) -> str:
    return f"s{n:04d}"


def write(folder: Path, kind: str, shards: int = 3, each: int = 4, change=None, index: bool = True) -> list[str]:
    """shards x each samples; change(n, sample) may alter or replace what is written. Returns the shards' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(shards):
        shard = ShardFile(folder / f"train-{number:06d}.tar")
        for n in range(number * each, (number + 1) * each):
            sample = KINDS[kind](n)
            sample = (change(n, sample) or sample) if change else sample
            encoded = {name: codecs.encode(name, value) for name, value in sample.items() if name != "__key__"}
            shard.add({"__key__": sample.get("__key__", key(n)), **encoded})
        shard.commit()
        paths.append(str(shard.path))
    if index:
        Index.build(paths).save()
    return paths
