"""One decoded depth sample to one training item (depth spec, sections 2 and 3)."""

from __future__ import annotations

import cv2
import numpy as np

from vstrain.data.kinds import SampleError
from vstrain.systems.depth.config import PATCH, Config

SKY = "0: sky"  # a sample whose json says so under "invalid" marks its sky with depth 0


def prepare(sample: dict, config: Config, rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
    """The item of a `depth` sample, S = config.image_size:

    image      uint8 (S, S, 3) RGB
    disparity  float32 (S, S), [0, 1] by the range of the crop's valid pixels, 1 is nearest; 0 where invalid
    valid      bool (S, S)
    span       float32 (2,): the disparities that 0 and 1 stand for, in 1 / metre; of a sample that ships
               disparity (json: unit), over the largest of its map

    Both sides are brought to S or more, then one S x S window is cut: random in training, the centre
    otherwise. Raises SampleError for a sample without any valid pixel."""
    image, (disparity, valid) = rgb(sample), raw_disparity(sample, config.sky)
    image = resize_image(image, *network_size(*image.shape[:2], config.image_size), config.antialias)
    disparity, valid = resize_label(disparity, image.shape), resize_label(valid, image.shape)
    window = crop_window(image.shape, config.image_size, rng if training else None)
    image, disparity, valid = image[window], disparity[window], valid[window]
    if training and rng.random() < config.flip:
        image, disparity, valid = image[:, ::-1], disparity[:, ::-1], valid[:, ::-1]
    disparity, span = min_max(disparity, valid)
    return {"image": np.ascontiguousarray(image), "disparity": disparity, "valid": valid.copy(), "span": span}


def rgb(sample: dict) -> np.ndarray:
    """The picture of a sample as uint8 (H, W, 3)."""
    image = next(sample[name] for name in ("jpg", "png", "webp") if name in sample)
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    return np.stack([image] * 3, axis=2) if image.ndim == 2 else image[:, :, :3]


def raw_disparity(sample: dict, sky: str) -> tuple[np.ndarray, np.ndarray]:
    """(disparity float32, valid bool), (H, W): 1 / depth, or the stored disparity over its largest value. Under
    sky=far, pixels known as sky are valid and have disparity 0."""
    stored = sample["depth.pco"].astype(np.float32)
    valid = np.isfinite(stored) & (stored > 0)
    if "mask.png" in sample:
        valid &= sample["mask.png"] > 0
    if not valid.any():
        raise SampleError(f"sample {sample['__key__']}: depth.pco has no valid pixel; leave this sample out")
    marked = sky == "far" and sample["json"].get("invalid") == SKY
    infinite = (stored == 0) & marked
    safe = np.where(valid, stored, 1)
    match sample["json"]["unit"]:
        case "depth":
            disparity = 1 / safe
        case "disparity":
            disparity = safe / stored[valid].max()
        case unit:
            raise SampleError(f"sample {sample['__key__']}: json unit {unit!r} is neither depth nor disparity")
    return np.where(infinite, 0, disparity).astype(np.float32), valid | infinite


def network_size(height: int, width: int, lower: int) -> tuple[int, int]:
    """(height, width), multiples of 14 and not below `lower` (one itself), closest to the aspect ratio.
    Halves go to the even multiple."""
    scale = max(lower / height, lower / width)
    return round(height * scale / PATCH) * PATCH, round(width * scale / PATCH) * PATCH


def resize_image(image: np.ndarray, height: int, width: int, antialias: bool) -> np.ndarray:
    """uint8 (h, w, 3) to uint8 (height, width, 3), cubic, computed in float and rounded. `antialias` first
    averages areas down to twice the size where more than half of the pixels would be skipped."""
    if antialias and (image.shape[0] > 2 * height and image.shape[1] > 2 * width):
        image = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_AREA)
    image = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def resize_label(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A float or bool map (h, w) to shape[:2] by the nearest pixel centre; dtype kept."""
    resized = cv2.resize(label.astype(np.float32), shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(label.dtype)


def crop_window(shape: tuple[int, ...], side: int, rng: np.random.Generator | None) -> tuple[slice, slice]:
    """A side x side window of a picture of `shape`: random, or the centre without `rng`."""
    free = (shape[0] - side, shape[1] - side)
    top, left = (f // 2 for f in free) if rng is None else (int(rng.integers(f + 1)) for f in free)
    return slice(top, top + side), slice(left, left + side)


def min_max(disparity: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map over [0, 1] (0 where invalid) and the (low, high) it had; a constant map becomes 0."""
    if not valid.any():
        return np.zeros_like(disparity), np.zeros(2, np.float32)
    low, high = disparity[valid].min(), disparity[valid].max()
    scaled = (disparity - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.where(valid, scaled, 0).astype(np.float32), np.array([low, high], np.float32)
