"""One object of kind `multiview` to one training item. NumPy and OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np

from vstrain.data.kinds import SampleError
from vstrain.nn.tokens import tokenizer
from vstrain.systems.multiview import augment, cameras
from vstrain.systems.multiview.config import Config

# condition layouts and their numbers of views; every other view can be a target
LAYOUTS = {"instant3d4": 4, "zero123pp6": 6}
LARGEST_NOISE_LABEL = 500
AGREE_DEGREES = 0.5  # a view's written angles against those of its matrix


def prepare(sample: dict, config: Config, rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
    """Targets and condition views of one object, with T = config.targets, C = 4 or 6, F = T + C:

    targets     (T, 3, size, size) float32 in [-1, 1]
    conditions  (C, 3, size, size) float32 in [-1, 1]; views 1.. corrupted (spec section 5.3) when training
    present     (C,) bool: what attention may see; a layout of 4 beside one of 6 fills two absent slots
    noise_level (C,) int64: the timestep of the noise that belongs on a condition latent, 0 = none
    code        (F, 10) float32: see vstrain.systems.multiview.cameras.pose_code
    ids         (text.length,) int64: the caption
    """
    views = _views(sample)
    conditions = _layout(sample, views, config, rng)
    targets = _targets(sample, views, config, rng)
    pictures = [_rgba(sample, view, config.size) for view in targets + conditions]
    poses = np.array([cameras.spherical(views[view]["c2w"]) for view in targets + conditions])
    noise, distort = np.zeros(len(poses)), np.zeros(len(poses))
    background, present = 1.0, np.ones(len(conditions), dtype=bool)
    corrupted = range(len(targets) + 1, len(poses)) if training else ()
    if training:
        background = augment.background(rng, config.augment)
        present = augment.kept_views(rng, len(conditions), config.augment)
    for frame in corrupted:
        view = augment.corrupt(rng, pictures[frame], background, config.augment)
        pictures[frame], noise[frame], distort[frame] = view.picture, view.noise, view.distort
        poses[frame, :2] += view.turn
    pictures = [
        picture if frame in corrupted else augment.over(picture, background) for frame, picture in enumerate(pictures)
    ]
    label = noise if config.raw_noise_label else noise / LARGEST_NOISE_LABEL
    absent = max(LAYOUTS.values()) - len(conditions) if config.layout == "both" else 0
    stack = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) * 2.0 - 1.0
    return {
        "targets": stack[: len(targets)],
        "conditions": _pad(stack[len(targets) :], absent),
        "present": _pad(present, absent),
        "noise_level": _pad(noise[len(targets) :].astype(np.int64), absent),
        "code": _pad(cameras.pose_code(*poses.T, len(targets), label, distort), absent),
        "ids": tokenizer(config.text)(sample["txt"]),
    }


def _views(sample: dict) -> list[dict]:
    """The views of camera.json; SampleError for a convention that is not ours."""
    camera, key = sample["camera.json"], sample["__key__"]
    if (camera["convention"], camera["up"]) != ("opengl", "z"):
        raise SampleError(
            f"sample {key}: camera.json says convention {camera['convention']!r}, up {camera['up']!r};"
            " expected 'opengl' and 'z': convert the cameras when writing the shards"
        )
    for v, view in enumerate(camera["views"]):
        elevation, azimuth, _ = cameras.spherical(view["c2w"])
        off = max(abs(elevation - view["elev"]), abs(cameras.wrap(azimuth - view["azim"])))
        if off > AGREE_DEGREES:
            raise SampleError(
                f"sample {key}: camera.json view {v} says elev {view['elev']:.1f}, azim {view['azim']:.1f};"
                f" its c2w stands at {elevation:.1f}, {azimuth:.1f}; expected z up, azimuth 0 on +x, 90 on +y"
            )
    return camera["views"]


def _layout(sample: dict, views: list[dict], config: Config, rng: np.random.Generator) -> list[int]:
    """Indices of the condition views, in the order of their layout."""
    name = list(LAYOUTS)[rng.integers(len(LAYOUTS))] if config.layout == "both" else config.layout
    found = [v for v, view in enumerate(views) if view["layout"] == name]
    if len(found) != LAYOUTS[name]:
        raise SampleError(
            f"sample {sample['__key__']}: camera.json has {len(found)} views of layout {name!r},"
            f" expected {LAYOUTS[name]}"
        )
    return found


def _targets(sample: dict, views: list[dict], config: Config, rng: np.random.Generator) -> list[int]:
    free = [v for v, view in enumerate(views) if view["layout"] not in LAYOUTS]
    if len(free) < config.targets:
        raise SampleError(
            f"sample {sample['__key__']}: camera.json has {len(free)} views outside the condition layouts,"
            f" system.targets={config.targets} needs as many"
        )
    return [free[i] for i in rng.permutation(len(free))[: config.targets]]


def _rgba(sample: dict, view: int, size: int) -> np.ndarray:
    """(size, size, 4) float32 in [0, 1], straight alpha."""
    rgba = sample[f"rgba_{view:03d}.png"]
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.shape[0] != rgba.shape[1]:
        raise SampleError(
            f"sample {sample['__key__']}: rgba_{view:03d}.png is {rgba.shape}, expected a square picture with alpha"
        )
    full = rgba.astype(np.float32) / 255.0
    if rgba.shape[0] == size:
        return full
    full[..., :3] *= full[..., 3:]  # colour is averaged by coverage
    small = cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA)
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return small


def _pad(values: np.ndarray, count: int) -> np.ndarray:
    """`count` more rows of zeros (False)."""
    return np.pad(values, [(0, count)] + [(0, 0)] * (values.ndim - 1))
