"""One encoded picture: does it decode, how large is it, how much is on it, and a hash that survives compression and scaling."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data_pipelines.convert.members import SIGNS
from data_pipelines.depth_corpus.readers import ReadError, orientation_of, read_image, turn
from vstrain.data import codecs

GRID, FREQUENCIES = 32, 8  # of the perceptual hash


@dataclass(frozen=True)
class Decoded:
    """rgb: uint8 (H, W, 3), upright. member: the name under which its bytes can be kept as they are; None where they must be
    encoded anew, and why."""

    rgb: np.ndarray
    member: str | None
    why: str = ""


def decode(data: bytes) -> Decoded:
    """Raises ReadError ("it: …") for what is no picture, is damaged, or ends early."""
    form = next((name for name, (at, sign) in SIGNS.items() if data[at : at + len(sign)] == sign), None)
    if form in ("jpg", "png", "webp") and orientation_of(data) == 1:
        try:
            rgb = codecs.decode(form, data)
        except ValueError as error:
            if form == "jpg":
                raise ReadError(f"it: damaged or cut short ({error}); bring it back or leave it out") from error
            rgb = None
        if rgb is not None and rgb.dtype == np.uint8 and (rgb.ndim == 2 or rgb.shape[2] == 3):
            return Decoded(np.stack([rgb] * 3, axis=2) if rgb.ndim == 2 else rgb, form)
    rgb, orientation = read_image("it", data)
    if orientation != 1:
        return Decoded(turn(rgb, orientation), None, "turned upright by EXIF and encoded anew")
    return Decoded(rgb, None, "not 8-bit RGB or grey as jpg, png or webp, and encoded anew as jpg")


def grey_grid(rgb: np.ndarray) -> np.ndarray:
    """uint8 (32, 32): grey levels, each the mean of the pixels that it covers."""
    return cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (GRID, GRID), interpolation=cv2.INTER_AREA)


def contrast(grid: np.ndarray) -> float:
    """Standard deviation of the grey levels."""
    return float(grid.astype(np.float64).std())


def perceptual_hash(grid: np.ndarray) -> int:
    """64 bits: which of the 8 x 8 lowest frequencies of the cosine transform are above their median (Zauner 2010, Implementation
    and Benchmarking of Perceptual Image Hash Functions). Rounded, so that the order of sums does not show."""
    lowest = np.round(BASIS @ grid.astype(np.float64) @ BASIS.T, 3)
    bits = (lowest > np.median(lowest)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _basis() -> np.ndarray:
    """The first 8 vectors (8, 32) of the orthonormal cosine transform (DCT-II)."""
    k, x = np.arange(FREQUENCIES)[:, None], np.arange(GRID)
    scale = np.where(k == 0, np.sqrt(1 / GRID), np.sqrt(2 / GRID))
    return scale * np.cos(np.pi * (2 * x + 1) * k / (2 * GRID))


BASIS = _basis()
