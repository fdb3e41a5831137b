"""One drag sample to one training item."""

from __future__ import annotations

import cv2
import numpy as np

from vstrain.data.kinds import SampleError
from vstrain.systems.drag.config import Config
from vstrain.systems.drag.points import MAX_PAIRS, inside, rasterise


def prepare(sample: dict, config: Config, rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
    """Source and target frame, mask and points, cropped, scaled and flipped together; P = MAX_PAIRS.

    source, target  uint8 (S, S, 3), S = config.size    mask  bool (S, S): True where the picture may change
    maps            int32 (2, S, S): ids of handles, of targets (see points.rasterise)
    handles, targets  float32 (P, 2): (x, y) pixels, NaN behind the last pair

    Training takes 1..P pairs and a crop around them at random; otherwise P pairs and the largest square.
    """
    source, target, mask = sample["src.webp"], sample["tgt.webp"], sample["mask.png"] > 127
    pairs = _pairs(sample)
    if training:
        pairs = _choose(pairs, config.points.permute_ids, rng)
    pairs = pairs[:, :MAX_PAIRS]
    x, y, side = _window(pairs, mask.shape, config.crop_min if training else 1.0, rng)
    source, target = (
        _resize(picture[y : y + side, x : x + side], config.size) for picture in (source, target)
    )
    mask = _resize(mask[y : y + side, x : x + side].astype(np.float32), config.size) > 0
    pairs = (pairs - np.array([x, y]) + 0.5) * (config.size / side) - 0.5
    if training and rng.random() < config.flip:
        source, target, mask = source[:, ::-1], target[:, ::-1], mask[:, ::-1]
        pairs = np.stack([config.size - 1 - pairs[..., 0], pairs[..., 1]], axis=-1)
    pairs = pairs[:, inside(pairs[0], config.size, config.size) & inside(pairs[1], config.size, config.size)]
    padded = np.full((2, MAX_PAIRS, 2), np.nan, np.float32)
    padded[:, : pairs.shape[1]] = pairs
    return {
        "source": np.ascontiguousarray(source),
        "target": np.ascontiguousarray(target),
        "mask": np.ascontiguousarray(mask),
        "maps": rasterise(*pairs, config.size, config.size, config.points.radius),
        "handles": padded[0],
        "targets": padded[1],
    }


def _pairs(sample: dict) -> np.ndarray:
    """(2, N, 2) float64: handles, targets."""
    points, where = sample["points.json"], f"sample {sample['__key__']}: points.json"
    try:
        pairs = np.array([points["handles"], points["targets"]], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise SampleError(
            f"{where} must hold 'handles' and 'targets', lists of [x, y] of one length ({error})"
        ) from error
    if pairs.ndim != 3 or pairs.shape[2] != 2:
        raise SampleError(f"{where} must hold at least one handle and its target as [x, y]")
    if not inside(pairs.reshape(-1, 2), *sample["mask.png"].shape[:2]).all():
        raise SampleError(f"{where} has a point outside of the picture")
    return pairs


def _choose(pairs: np.ndarray, permute: bool, rng: np.random.Generator) -> np.ndarray:
    """1..MAX_PAIRS of the N pairs, every count alike, in their own order unless `permute`."""
    total = pairs.shape[1]
    chosen = rng.permutation(total)[: rng.integers(1, min(total, MAX_PAIRS) + 1)]
    return pairs[:, chosen if permute else np.sort(chosen)]


def _window(
    pairs: np.ndarray, shape: tuple[int, int], smallest: float, rng: np.random.Generator
) -> tuple[int, int, int]:
    """(x, y, side) of a random square that holds all points where one can; side between `smallest` and 1
    times the picture's short side."""
    short = min(shape)
    low = np.floor(pairs.min(axis=(0, 1)) + 0.5).astype(int)
    high = np.floor(pairs.max(axis=(0, 1)) + 0.5).astype(int)
    needed = min(int((high - low).max()) + 1, short)
    side = int(rng.integers(max(needed, round(smallest * short)), short + 1))
    corner = [_place(low[axis], high[axis], side, shape[1 - axis], rng) for axis in (0, 1)]
    return corner[0], corner[1], side


def _place(low: int, high: int, side: int, length: int, rng: np.random.Generator) -> int:
    """Start of `side` pixels of `length` that hold low..high, or as many of them as fit."""
    first, last = max(high - side + 1, 0), min(low, length - side)
    return int(rng.integers(first, last + 1)) if first <= last else min(first, length - side)


def _resize(picture: np.ndarray, size: int) -> np.ndarray:
    """Pixel areas map to pixel areas: x' = (x + 1/2) size / side - 1/2."""
    smooth = cv2.INTER_AREA if len(picture) > size else cv2.INTER_LINEAR
    return picture if len(picture) == size else cv2.resize(picture, (size, size), interpolation=smooth)
