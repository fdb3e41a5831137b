"""One pair -> one DepthSample (vstrain.data.kinds), or the reason why not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from data_pipelines.depth_corpus.config import Config
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
    image, orientation = _read("image", pair.image, _image)
    raw = _read("depth", pair.depth, read_depth)
    image = _turned(image, orientation, raw.shape, config, notes)
    if raw.dtype.itemsize == 1 and config.unit == "depth":
        raise Refused(
            "8-bit depth",
            f"{pair.depth}: 8 bits are too few for metres; expected 16-bit or float depth, "
            "or unit=disparity if it is a relative disparity picture",
        )
    notes += [EIGHT_BIT] if raw.dtype.itemsize == 1 else []
    notes += [INTEGER_METRES] if raw.dtype.kind in "ui" and config.unit == "depth" and config.depth_scale == 1 else []
    values = _scaled(raw, config)
    if pair.mask is not None:
        mask = _read("mask", pair.mask, read_mask)
        if mask.shape != values.shape:
            raise Refused(
                "size mismatch",
                f"{pair.mask}: the mask is {_size(mask)}, its depth {_size(values)}; expected the same size",
            )
        values[mask if config.mask_valid == "zero" else ~mask] = 0
    image, values = _shrunk(*_same_size(pair, image, values, config), config.max_side)
    valid = values > 0
    share = float(valid.mean())
    if not valid.any():
        raise Refused(
            "no valid depth",
            f"{pair.depth}: no valid pixel, all {values.size} are zero, negative, not finite or masked out; "
            "check depth_scale, invalid, far and the mask",
        )
    if share < config.min_valid:
        raise Refused(
            "too few valid pixels",
            f"{pair.depth}: {share:.1%} of the pixels are valid, min_valid={config.min_valid:g} asks for more",
        )
    meta = {
        "unit": config.unit,
        "look": config.look,
        "source": Path(config.source).name,
        "image": _name(pair.image, config),
        "depth": _name(pair.depth, config),
        "valid": round(share, 6),
    }
    return Made(
        {"__key__": pair.key, config.image_format: image, "depth.pco": values, "json": meta},
        tuple(notes),
        {"median": float(f"{np.median(values[valid]):.5g}")},
    )


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


def _scaled(raw: np.ndarray, config: Config) -> np.ndarray:
    """float32 metres or disparity; 0 where nothing was measured."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = (raw.astype(np.float64) * config.depth_scale).astype(np.float32)
        bad = ~np.isfinite(values) | (values <= 0) | np.isin(raw, config.invalid)
        if config.far is not None:
            bad |= values > config.far
    values[bad] = 0
    return values


def _same_size(pair: Pair, image: np.ndarray, values: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    if image.shape[:2] == values.shape:
        return image, values
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
        return image, cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return _resized(image, values.shape), values


def _shrunk(image: np.ndarray, values: np.ndarray, side: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Depth is picked, never averaged: a mean across an edge is a surface that is not there."""
    if side is None or max(values.shape) <= side:
        return image, values
    height, width = (max(1, round(n * side / max(values.shape))) for n in values.shape)
    return _resized(image, (height, width)), cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


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
