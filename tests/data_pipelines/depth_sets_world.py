"""Miniature trees of public depth data sets, as they lie on a disk after the download.

Pictures are 4 x 6 and hold a number; depth maps are given by the tests."""

import struct
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image

SIZE = (4, 6)  # height, width


def photo(path: Path, number: int = 0, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 40 + 10 * number, np.uint8)).save(path)


def png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def pfm(path: Path, values: np.ndarray) -> None:
    """Rows bottom up, little endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = b"".join(struct.pack(f"<{len(row)}f", *row) for row in values[::-1].tolist())
    path.write_bytes(f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode() + body)


def npy(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def exr(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"Y": np.ascontiguousarray(values, np.float32)}
    OpenEXR.File({"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION}, channels).write(str(path))


def hdf5(path: Path, name: str, values: np.ndarray) -> None:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[name] = values


def flat(value: float, dtype=np.float32) -> np.ndarray:
    return np.full(SIZE, value, dtype)
