"""One decoded depth sample to one training item (depth spec, sections 2 and 3)."""

from __future__ import annotations

import cv2
import numpy as np

from vstrain.data import codecs
from vstrain.data.depth import PSEUDO, depth_member, depth_of
from vstrain.data.kinds import SampleError
from vstrain.data.reader import empty
from vstrain.systems.depth.config import PATCH, UNLABELLED, Config

MAX_PATCHES = 8192  # of one picture; a longer panorama enters the network smaller, so memory stays bounded
SKY = "0: sky"  # a sample whose json says so under "invalid" marks its sky with depth 0


def prepare(sample: dict, config: Config, rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
    """The item of a `depth` sample, (H, W) = (S, S), S = config.image_size, or the shape of the sample's bucket:

    image      uint8 (H, W, 3) RGB
    disparity  float32 (H, W), [0, 1] by the range of the crop's valid pixels, 1 is nearest; 0 where invalid
    valid      bool (H, W)
    span       float32 (2,): the disparities that 0 and 1 stand for, in 1 / metre; of a sample that ships
               disparity (json: unit), over the largest of its map
    pseudo     bool: the label is a teacher's, or will be (a source of role unlabelled: then nothing is valid)
    flipped    bool: the item is the mirror image
    focal      float32: focal length in sides of the item (only with config.camera)

    The published rule brings both sides to S or more and cuts one S x S window: random in training, the centre
    otherwise. Here the window is cut before it is resized, so nothing is computed that is thrown away; its edges
    lie on whole pixels of the stored picture. A teacher's label has the size at which the teacher saw the picture:
    the picture is brought to that first. Raises SampleError for a sample without any valid pixel."""
    bucket = getattr(sample, "bucket", None)
    size = (bucket.height, bucket.width) if bucket else (config.image_size, config.image_size)
    unlabelled = getattr(sample, "role", None) == UNLABELLED
    pseudo = unlabelled or sample["json"].get("label") == PSEUDO
    if config.output == "metric":
        check_metres(sample)
    stored = None if unlabelled else depth_of(sample)
    picture = rgb(sample) if pseudo else None
    if pseudo and not unlabelled and picture.shape[:2] != stored.shape:
        picture = resize_image(picture, *stored.shape, config.antialias)
    shape = picture.shape[:2] if unlabelled else stored.shape
    window = source_window(shape, size, rng if training else None)
    image = empty(sample, "image", (*size, 3), np.uint8)
    cut = picture[window] if pseudo else cut_picture(sample, shape, window, size, config.antialias)
    resize_into(image, cut, config.antialias)
    if unlabelled:
        disparity, valid = np.zeros(size, np.float32), np.zeros(size, bool)
    else:
        masks = [
            resize_label(sample[name], window, size) if name in sample else None for name in ("mask.png", "sky.png")
        ]
        disparity, valid = disparity_of(sample, resize_label(stored, window, size), *masks, config.sky)
    flipped = training and bool(rng.random() < config.flip)
    if flipped:
        cv2.flip(image, 1, dst=image)
        disparity, valid = disparity[:, ::-1], valid[:, ::-1]
    disparity, span = min_max(disparity, valid)
    item = {"image": image, "disparity": disparity, "valid": valid, "span": span}
    item |= {"pseudo": np.bool_(pseudo), "flipped": np.bool_(flipped)}
    return item | ({"focal": focal_of(sample, shape, window)} if config.camera else {})


def check_metres(sample: dict) -> None:
    """Raises SampleError where the label is not in metres."""
    facts = sample["json"]
    if facts["unit"] != "depth" or facts.get("metric") is False:
        known = f"unit={facts['unit']}" + (", metric=false" if facts.get("metric") is False else "")
        raise SampleError(
            f"sample {sample['__key__']}: its label has no metres (json: {known}); metric depth is learned from data sets in "
            "metres, leave this one out or train with system.output=relative"
        )


def focal_of(sample: dict, shape: tuple[int, ...], window: tuple[slice, slice]) -> np.float32:
    """The focal length in heights of the window: from json's focal (pixels of the stored picture) or fovy (degrees, of the
    stored height)."""
    facts, height = sample["json"], window[0].stop - window[0].start
    if isinstance(facts.get("focal"), int | float):
        return np.float32(facts["focal"] / height)
    if isinstance(facts.get("fovy"), int | float):
        return np.float32(shape[0] / (2 * np.tan(np.radians(facts["fovy"]) / 2)) / height)
    raise SampleError(
        f"sample {sample['__key__']}: json has no focal (pixels) and no fovy (degrees); system.camera needs one of them, or "
        "set system.camera=null"
    )


def cut_picture(
    sample: dict, shape: tuple[int, int], window: tuple[slice, slice], size: tuple[int, int], antialias: bool
) -> np.ndarray:
    """The window of a sample's picture. With `antialias`, a JPEG that is much larger than needed is decoded at 1/2 or 1/4."""
    if antialias and "jpg" in sample and hasattr(sample, "raw"):
        enough = [-(-n * side // (part.stop - part.start)) for n, side, part in zip(size, shape, window, strict=True)]
        image = codecs.decode_jpeg(sample.raw("jpg"), tuple(enough))
    else:
        image = rgb(sample)
    factor = round(shape[0] / image.shape[0])
    if factor not in (1, 2, 4) or image.shape[:2] != (-(-shape[0] // factor), -(-shape[1] // factor)):
        raise SampleError(
            f"sample {sample['__key__']}: the picture has {image.shape[0]} x {image.shape[1]} pixels, its depth {shape[0]} x "
            f"{shape[1]}; both must be of one size"
        )
    return image[tuple(slice(part.start // factor, part.stop // factor) for part in window)]


def rgb(sample: dict) -> np.ndarray:
    """The picture of a sample as uint8 (H, W, 3)."""
    image = next(sample[name] for name in ("jpg", "png", "webp") if name in sample)
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    return np.stack([image] * 3, axis=2) if image.ndim == 2 else image[:, :, :3]


def disparity_of(
    sample: dict, stored: np.ndarray, mask: np.ndarray | None, sky: np.ndarray | None, policy: str
) -> tuple[np.ndarray, np.ndarray]:
    """(disparity float32, valid bool) of a piece (h, w) of the stored map: 1 / depth, or the stored disparity over the
    largest of the whole map; a teacher's as it is, 0 included. Under policy=far, pixels known as sky that have no label
    of their own are valid and have disparity 0."""
    stored = stored.astype(np.float32, copy=False)
    if sample["json"].get("label") == PSEUDO:
        valid = np.isfinite(stored)
        return np.where(valid, stored, 0), valid
    valid = np.isfinite(stored) & (stored > 0)
    if mask is not None:
        valid &= mask > 0
    if not valid.any() and not _any_valid(sample):
        raise SampleError(
            f"sample {sample['__key__']}: {depth_member(sample)} has no valid pixel; leave this sample out"
        )
    known = (stored == 0) if sample["json"].get("invalid") == SKY else None if sky is None else (sky > 0) & ~valid
    infinite = known if policy == "far" else None
    disparity = np.zeros(stored.shape, np.float32)
    match sample["json"]["unit"]:
        case "depth":
            np.divide(1, stored, out=disparity, where=valid)
        case "disparity":
            np.divide(stored, _largest(sample), out=disparity, where=valid)
        case unit:
            raise SampleError(f"sample {sample['__key__']}: json unit {unit!r} is neither depth nor disparity")
    return disparity, valid if infinite is None else valid | infinite


def _valid_map(sample: dict) -> np.ndarray:
    whole = depth_of(sample)
    valid = np.isfinite(whole) & (whole > 0)
    return valid & (sample["mask.png"] > 0) if "mask.png" in sample else valid


def _any_valid(sample: dict) -> bool:
    return bool(_valid_map(sample).any())


def _largest(sample: dict) -> np.float32:
    return np.float32(depth_of(sample)[_valid_map(sample)].max())


def network_size(height: int, width: int, lower: int) -> tuple[int, int]:
    """(height, width), multiples of 14 and not below `lower` (one itself), closest to the aspect ratio.
    Halves go to the even multiple."""
    scale = max(lower / height, lower / width)
    return round(height * scale / PATCH) * PATCH, round(width * scale / PATCH) * PATCH


def bounded_size(height: int, width: int, lower: int) -> tuple[int, int]:
    """`network_size`, with the long side cut down where the whole would hold more than MAX_PATCHES
    patches."""
    size = network_size(height, width, lower)
    longest = max(PATCH, MAX_PATCHES * PATCH**2 // min(size) // PATCH * PATCH)
    return min(size[0], longest), min(size[1], longest)


def resize_image(image: np.ndarray, height: int, width: int, antialias: bool) -> np.ndarray:
    """uint8 (h, w, 3) to uint8 (height, width, 3), cubic, computed in float and rounded. `antialias` first
    averages areas down to twice the size where more than half of the pixels would be skipped."""
    if antialias and (image.shape[0] > 2 * height and image.shape[1] > 2 * width):
        image = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_AREA)
    image = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def resize_into(out: np.ndarray, image: np.ndarray, antialias: bool) -> None:
    """uint8 (h, w, 3) to the size of `out`, uint8 (H, W, 3), cubic. `antialias` as in `resize_image`."""
    height, width = out.shape[:2]
    if antialias and image.shape[0] > 2 * height and image.shape[1] > 2 * width:
        image = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_AREA)
    cv2.resize(image, (width, height), dst=out, interpolation=cv2.INTER_CUBIC)


def resize_label(label: np.ndarray, window: tuple[slice, slice], size: tuple[int, int]) -> np.ndarray:
    """A window of a map to `size` by the nearest pixel centre; dtype kept."""
    rows, columns = (
        side.start + ((2 * np.arange(n) + 1) * (side.stop - side.start)) // (2 * n)
        for side, n in zip(window, size, strict=True)
    )
    return label[rows[:, None], columns]


def source_window(
    shape: tuple[int, ...], size: tuple[int, int], rng: np.random.Generator | None
) -> tuple[slice, slice]:
    """The part of a picture of `shape` that fills `size` (height, width) after the published resize: random, or the centre
    without `rng`. For a square the resize is that of `network_size`, for other shapes the aspect ratio is kept."""
    height, width = shape[:2]
    if size[0] == size[1]:
        whole = network_size(height, width, size[0])
    else:
        scale = max(size[0] / height, size[1] / width)
        whole = (height * scale, width * scale)
    parts = [
        min(side, max(1, round(n * side / full))) for n, side, full in zip(size, (height, width), whole, strict=True)
    ]
    # where a picture may be decoded at 1/2 or 1/4, it and its full depth are cut at the same place
    grid = 4 if parts[0] >= 2 * size[0] and parts[1] >= 2 * size[1] else 1
    parts = [part - part % grid for part in parts]
    free = [(side - part) // grid for side, part in zip((height, width), parts, strict=True)]
    top, left = (grid * (f // 2 if rng is None else int(rng.integers(f + 1))) for f in free)
    return slice(top, top + parts[0]), slice(left, left + parts[1])


def min_max(disparity: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map over [0, 1] (0 where invalid) and the (low, high) it had; a constant map becomes 0."""
    if not valid.any():
        return np.zeros_like(disparity), np.zeros(2, np.float32)
    low = disparity.min(where=valid, initial=np.inf)
    high = disparity.max(where=valid, initial=-np.inf)
    scaled = (disparity - low) * valid
    scaled /= max(high - low, np.finfo(np.float32).tiny)
    return scaled, np.array([low, high], np.float32)
