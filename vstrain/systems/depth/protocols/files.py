"""Reading one file of a data set; every failure is an InputError that names it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np

from vstrain.config.problems import InputError
from vstrain.data import codecs
from vstrain.systems.depth.photo import UnreadablePhoto, read_photo

ARRAY_NAMES = ("depth", "disparity", "z")  # of the depth map among several arrays of a .npz


def picture(path: Path) -> np.ndarray:
    """uint8 RGB (H, W, 3), upright."""
    try:
        return read_photo(path)
    except UnreadablePhoto as problem:
        raise InputError(f"{path}: {problem}") from problem


def jpeg(path: Path) -> np.ndarray:
    """uint8 RGB (H, W, 3) as the pixels are stored, whatever the EXIF tag says of turning them."""
    try:
        return codecs.decode("jpg", content(path))
    except ValueError as error:
        raise InputError(f"{path}: does not decode as JPEG ({error}); it may be cut short") from error


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); the data set is not whole") from error


def array(path: Path) -> np.ndarray:
    """Numbers as they are stored, (H, W): npy, npz, exr, png, tiff or pfm."""
    data, suffix = content(path), path.suffix.lower()
    try:
        if suffix in (".npy", ".npz", ".exr"):
            values = codecs.decode(path.name.lower(), data)
        else:
            values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, cv2.error) as error:
        raise InputError(f"{path}: does not decode as {suffix}; it may be cut short") from error
    if isinstance(values, dict):
        names = [name for name in values if name.lower() in ARRAY_NAMES] or list(values)
        if len(names) != 1:
            raise InputError(f"{path}: holds the arrays {', '.join(values)}; expected one, or one named depth")
        values = values[names[0]]
    if values is None:
        raise InputError(f"{path}: not a depth file; expected png, tiff, npy, npz, exr or pfm")
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.reshape(values.shape[1:] if values.shape[0] == 1 else values.shape[:2])
    if values.ndim != 2 or values.dtype.kind not in "fuib":
        raise InputError(f"{path}: {values.dtype} {values.shape}; expected one map of numbers (H, W)")
    return values


def depth_16_bit(path: Path) -> np.ndarray:
    """As `array`, of a picture of 16-bit integers; one of 8 bits is a view of depth, not depth."""
    values = array(path)
    if values.dtype != np.uint16:
        raise InputError(f"{path}: {values.dtype} numbers; expected a PNG of 16 bits, one channel")
    return values
