"""One drag sample to one training item."""

from __future__ import annotations

import cv2
import numpy as np

from vstrain.data.kinds import SampleError
from vstrain.systems.drag.config import Config
from vstrain.systems.drag.points import MAX_PAIRS, NO_POINT, inside, rasterise


def prepare(sample: dict, config: Config, rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
    """Source and target frame, mask and points, cropped, scaled and flipped together; P = MAX_PAIRS.

    source, target  uint8 (S, S, 3), S = config.size    mask  bool (S, S): True where the picture may change
    maps            int32 (2, S, S): ids of handles, of targets (see points.rasterise)
    handles, targets  float32 (P, 2): (x, y) pixels, NO_POINT behind the last pair

    The picture is a crop around points and mask. Training jitters it, flips, and takes 1..P pairs at random.
    """
    source, target, mask = sample["src.webp"], sample["tgt.webp"], sample["mask.png"] > 127
    pairs = _pairs(sample)
    if training:
        pairs = _choose(pairs, config.points.permute_ids, rng)
    pairs = pairs[:, :MAX_PAIRS]
    x, y, side = _window(pairs, mask, config, rng if training else None)
    source, target = (_resize(picture[y : y + side, x : x + side], config.size) for picture in (source, target))
    mask = _resize(mask[y : y + side, x : x + side].astype(np.float32), config.size) > 0
    pairs = (pairs - np.array([x, y]) + 0.5) * (config.size / side) - 0.5
    if training and rng.random() < config.flip:
        source, target, mask = source[:, ::-1], target[:, ::-1], mask[:, ::-1]
        pairs = np.stack([config.size - 1 - pairs[..., 0], pairs[..., 1]], axis=-1)
    pairs = pairs[:, inside(pairs[0], config.size, config.size) & inside(pairs[1], config.size, config.size)]
    padded = np.full((2, MAX_PAIRS, 2), NO_POINT, np.float32)
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
    pairs: np.ndarray, mask: np.ndarray, config: Config, rng: np.random.Generator | None
) -> tuple[int, int, int]:
    """(x, y, side) of a square around all points and the mask, as far as the picture has room for one. Without `rng`
    the box is in the middle of `crop_margin`; with it the margin is 0 to twice that and the box anywhere inside."""
    corners = [np.floor(pairs.reshape(-1, 2) + 0.5).astype(int), np.argwhere(mask)[:, ::-1]]
    low, high = (extreme(np.concatenate(corners), axis=0) for extreme in (np.min, np.max))
    box, short = int((high - low).max()) + 1, min(mask.shape)
    share = rng.random() if rng else 0.5
    side = box * (1 + 4 * share * config.crop_margin)
    side = min(max(round(side), round(config.crop_min * short)), short)
    x, y = (_place(low[axis], high[axis], side, mask.shape[1 - axis], rng) for axis in (0, 1))
    return x, y, side


def _place(low: int, high: int, side: int, length: int, rng: np.random.Generator | None) -> int:
    """Start of `side` pixels of `length` that hold low..high, or the middle of it where they do not fit."""
    first, last = max(high - side + 1, 0), min(low, length - side)
    if first <= last and rng:
        return int(rng.integers(first, last + 1))
    return min(max((low + high - side + 1) // 2, 0), length - side)


def _resize(picture: np.ndarray, size: int) -> np.ndarray:
    """Pixel areas map to pixel areas: x' = (x + 1/2) size / side - 1/2."""
    smooth = cv2.INTER_AREA if len(picture) > size else cv2.INTER_LINEAR
    return picture if len(picture) == size else cv2.resize(picture, (size, size), interpolation=smooth)
