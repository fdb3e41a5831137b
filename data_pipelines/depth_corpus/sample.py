"""One pair -> one DepthSample (vstrain.data.kinds), or the reason why not."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.depth_corpus.config import Config
from data_pipelines.depth_corpus.layouts.table import OWN
from data_pipelines.depth_corpus.pairs import Cell, Pair
from data_pipelines.depth_corpus.readers import ReadError, read_depth, read_image, read_mask, turn
from data_pipelines.production.plan import Made, Rejected

EIGHT_BIT = "8-bit disparity has 256 steps at most; a float or 16-bit original trains better"
INTEGER_METRES = (
    "whole numbers at depth_scale=1.0 are whole metres; millimetres want depth_scale=0.001 (Kinect, RealSense, ScanNet), "
    "TUM depth_scale=0.0002, KITTI depth_scale=0.00390625"
)
UNSURE_TURN = "an EXIF rotation was applied that the sizes cannot confirm; exif=ignore where the depth is not turned"


class Refused(ValueError):
    def __init__(self, reason: str, why: str):
        super().__init__(why)
        self.reason = reason


def build(pair: Pair, config: Config) -> Made | Rejected:
    """Read, check and convert one pair; the value `median` is that of its valid pixels. Whatever is wrong with its files
    becomes a Rejected."""
    try:
        return _build(pair, config)
    except Refused as error:
        return Rejected(_name(pair.image, config), error.reason, str(error))


def _build(pair: Pair, config: Config) -> Made:
    notes: list[str] = []
    rules = config.rules
    image, orientation = _read("image", pair.image, _image)
    raw = _read("depth", pair.depth, read_depth)
    image = _turned(image, orientation, raw.shape, config, notes)
    width = image.shape[1]
    if raw.dtype.itemsize == 1 and rules.unit == "depth":
        raise Refused(
            "8-bit depth",
            f"{pair.depth}: 8 bits are too few for metres; expected 16-bit or float depth, "
            "or unit=disparity if it is a relative disparity picture",
        )
    if config.layout == OWN:
        notes += [EIGHT_BIT] if raw.dtype.itemsize == 1 else []
        notes += [INTEGER_METRES] if raw.dtype.kind in "ui" and (rules.unit, rules.depth_scale) == ("depth", 1) else []
    values, sky = _scaled(pair, raw, config)
    if pair.mask is not None:
        mask = _mask("mask", pair.mask, values.shape, rules.mask_above) ^ (rules.mask_valid == "zero")
        values[~mask] = 0
        sky &= mask
    if pair.sky is not None:
        sky |= _mask("sky", pair.sky, values.shape, None) & (values == 0)
    image, values, sky = _shrunk(*_same_size(pair, image, values, sky, config), config.max_side)
    valid = values > 0
    share = float(valid.mean())
    if not valid.any():
        raise Refused(
            "no valid depth",
            f"{pair.depth}: no valid pixel, all {values.size} are zero, negative, not finite, sky or masked out; "
            "check depth_scale, invalid, far and the mask",
        )
    if share < config.min_valid:
        raise Refused(
            "too few valid pixels",
            f"{pair.depth}: {share:.1%} of the pixels are valid, min_valid={config.min_valid:g} asks for more",
        )
    meta = {
        "unit": rules.unit,
        "look": rules.look,
        "source": Path(config.source).name if config.layout == OWN else config.layout,
        "image": _name(pair.image, config),
        "depth": _name(pair.depth, config),
        "valid": round(share, 6),
    }
    meta |= {"metric": False} if rules.unit == "depth" and not rules.metric else {}
    if rules.focal is not None:
        meta["focal"] = round(rules.focal * image.shape[1] / (rules.focal_width or width), 4)
    sample = {"__key__": pair.key, config.image_format: image, "depth.pco": values, "json": meta}
    sample |= {"sky.png": sky.astype(np.uint8) * 255} if sky.any() else {}
    return Made(sample, tuple(notes), {"median": float(f"{np.median(values[valid]):.5g}")})


def _mask(role: str, source: Path | Cell, size: tuple[int, int], above: float | None) -> np.ndarray:
    mask = _read(role, source, partial(read_mask, above=above))
    if mask.shape != size:
        said = f"the {role} is {_size(mask)}, its depth {size[1]}x{size[0]}"
        raise Refused("size mismatch", f"{source}: {said}; expected the same size")
    return mask


def _read(role: str, source: Path | Cell, reader):
    """The value of a file or cell; `reader` takes its name and its bytes (or array)."""
    try:
        if isinstance(source, Cell):
            from data_pipelines.depth_corpus import saved

            name, data = saved.fetch(source)
        else:
            name, data = str(source), source.read_bytes()
        return reader(name, data)
    except FileNotFoundError as error:
        raise Refused(
            "missing file",
            f"{source}: no such {role} file; expected it beside the others or correct the manifest",
        ) from error
    except OSError as error:
        raise Refused(
            f"unreadable {role}",
            f"{source}: cannot be opened ({error.strerror}); check the file and its permissions",
        ) from error
    except (cv2.error, MemoryError) as error:
        raise Refused(
            f"unreadable {role}", f"{source}: cannot be decoded (damaged or far too large); write it again"
        ) from error
    except ReadError as error:
        raise Refused(f"unreadable {role}", str(error)) from error


def _image(name: str, data: bytes | np.ndarray) -> tuple[np.ndarray, int]:
    if not isinstance(data, np.ndarray):
        return read_image(name, data)
    if data.ndim != 3 or data.shape[2] != 3 or data.min() < 0 or data.max() > 255 or data.dtype.kind not in "ui":
        raise ReadError(f"{name}: an array {data.shape} of {data.dtype}; expected whole numbers 0..255 (H, W, 3) RGB")
    return data.astype(np.uint8), 1


def _turned(
    image: np.ndarray, orientation: int, depth: tuple[int, int], config: Config, notes: list[str]
) -> np.ndarray:
    """The photo turned by its EXIF orientation; with exif=auto the size of the depth can forbid it."""
    if orientation == 1 or config.exif == "ignore":
        return image
    turned = turn(image, orientation)
    if config.exif == "auto":
        fits, fits_turned = _fits(image.shape, depth), _fits(turned.shape, depth)
        if fits and not fits_turned:
            return image
        if fits == fits_turned:
            notes.append(UNSURE_TURN)
    return turned


def _fits(image: tuple[int, ...], depth: tuple[int, int]) -> bool:
    """Whether two sizes have one aspect ratio, to a pixel of the smaller."""
    (h, w), (dh, dw) = image[:2], depth
    return abs(h * dw - w * dh) <= max(h, w, dh, dw)


def _scaled(pair: Pair, raw: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """float32 metres or disparity, 0 where nothing was measured; and bool, True where the numbers say sky."""
    rules = config.rules
    if rules.ordinal and raw.min() < 0:
        raise Refused(
            "ordinal labels",
            f"{pair.depth}: negative numbers, so this map orders regions and holds no depth; nothing to do",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        exact = raw.astype(np.float64) * rules.depth_scale
        if rules.ray:
            exact *= _along_axis(raw.shape, rules.focal * raw.shape[1] / (rules.focal_width or raw.shape[1]))
        values = exact.astype(np.float32)
        sky = np.isin(raw, rules.sky_values)
        if rules.sky_far is not None:
            sky |= exact >= rules.sky_far
        bad = sky | ~np.isfinite(values) | (values <= 0) | np.isin(raw, config.invalid)
        if config.far is not None:
            bad |= values > config.far
    values[bad] = 0
    return values, sky & ~np.isin(raw, config.invalid)


@lru_cache(maxsize=4)
def _along_axis(size: tuple[int, int], focal: float) -> np.ndarray:
    """float64 (H, W): depth along the axis over distance to the centre of a camera whose axis meets the middle of the picture:
    f / sqrt(f^2 + x^2 + y^2), in pixels (Hypersim's own conversion)."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in size)
    return focal / np.sqrt(focal**2 + x**2 + y[:, None] ** 2)


def _same_size(
    pair: Pair, image: np.ndarray, values: np.ndarray, sky: np.ndarray, config: Config
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if image.shape[:2] == values.shape:
        return image, values, sky
    said = f"{pair.image}: the image is {_size(image)}, its depth {_size(values)} (width x height)"
    if not _fits(image.shape, values.shape):
        raise Refused(
            "size mismatch",
            f"{said}; not even the aspect ratios agree; expected the same size: is it the right depth file?",
        )
    if config.resize == "off":
        raise Refused(
            "size mismatch",
            f"{said}; expected the same size; resize=depth or resize=image brings them together",
        )
    if config.resize == "depth":
        return image, _picked(values, image.shape), _picked(sky, image.shape)
    return _resized(image, values.shape), values, sky


def _shrunk(
    image: np.ndarray, values: np.ndarray, sky: np.ndarray, side: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if side is None or max(values.shape) <= side:
        return image, values, sky
    size = tuple(max(1, round(n * side / max(values.shape))) for n in values.shape)
    return _resized(image, size), _picked(values, size), _picked(sky, size)


def _picked(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Labels are picked, never averaged: a mean across an edge is a surface that is not there."""
    picked = cv2.resize(labels.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return picked.astype(labels.dtype)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smaller = size[0] < image.shape[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def _name(source: Path | Cell, config: Config) -> str:
    root = Path(config.source) if Path(config.source).is_dir() else Path(config.source).parent
    return (
        source.relative_to(root).as_posix() if isinstance(source, Path) and source.is_relative_to(root) else str(source)
    )
