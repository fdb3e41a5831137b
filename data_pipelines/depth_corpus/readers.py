"""Bytes of one file -> an array. Every reader raises ReadError, one sentence, for what it cannot take."""

from __future__ import annotations

import io
import re
import tempfile
import warnings
import zipfile
from pathlib import PurePath

import cv2
import numpy as np
from PIL import Image

from vstrain.config.problems import InputError

EXIF_ORIENTATION = 0x0112
LOSSY = ("JPEG", "WEBP", "MPO")
DEPTH_NAMES = {"depth", "disparity", "z"}  # what a depth array is called inside a .npz, .exr or .h5


class ReadError(ValueError):
    """One sentence: which file, what was expected, what to do."""


def read_image(name: str, data: bytes) -> tuple[np.ndarray, int]:
    """A picture as uint8 (H, W, 3) RGB, not turned, and its EXIF orientation (1..8, 1 = upright). Transparent
    pixels are laid over white, 16-bit pictures keep their upper 8 bits; CMYK, grey, palette become RGB."""
    image = _open(name, data, "an image (jpg, png, webp, tiff or bmp)")
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    if image.mode == "F":
        raise ReadError(
            f"{name}: a picture of floating-point numbers; expected 8 or 16 bits a channel, convert it first"
        )
    if image.mode.startswith("I"):
        grey = (np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8)
        rgb = np.repeat(grey[..., None], 3, axis=2)
    else:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        rgb = np.array(image.convert("RGB"))
    return rgb, orientation if orientation in range(1, 9) else 1


def orientation_of(data: bytes) -> int:
    """The EXIF orientation of an encoded picture, 1 where it has none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(EXIF_ORIENTATION, 1) or 1
    except Exception:  # Pillow raises many types; what is damaged is found when it is decoded
        return 1


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """`image` as its EXIF orientation wants it to be seen (EXIF 2.3, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def read_depth(name: str, data: bytes | np.ndarray) -> np.ndarray:
    """The numbers of a depth file as they are stored: (H, W), integer or float, top row first. An array is
    checked and passed on."""
    if isinstance(data, np.ndarray):
        return _plane(name, data)
    match _format(name, data):
        case "npy" | "npz" as form:
            values = _numpy(name, data, form)
        case "pfm":
            values = _pfm(name, data)
        case "exr":
            values = _exr(name, data)
        case "hdf5":
            values = _hdf5(name, data)
        case "tiff":
            values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if values is None:
                raise ReadError(f"{name}: cannot be read as TIFF, perhaps it is cut off; write it again")
            values = _grey(name, values)
        case _:
            values = _png(name, data)
    return _plane(name, values)


def read_mask(name: str, data: bytes | np.ndarray, above: float | None = None) -> np.ndarray:
    """bool (H, W): True where the mask is more than `above`; None: not zero (in a lossy picture: brighter than half)."""
    if isinstance(data, np.ndarray) or _format(name, data) in ("npy", "npz", "pfm", "exr", "hdf5"):
        values = read_depth(name, data)
        return values != 0 if above is None else values > above
    image = _open(name, data, "a mask (png, npy or another picture)")
    threshold = above if above is not None else 127 if image.format in LOSSY else 0
    values = np.asarray(image if image.mode in ("1", "L", "P") or image.mode[0] in "IF" else image.convert("RGB"))
    return (values if values.ndim == 2 else values.max(axis=2)) > threshold


def _format(name: str, data: bytes) -> str:
    """By the first bytes; file names lie."""
    if not data:
        raise ReadError(f"{name}: the file is empty (0 bytes); write it again or remove it")
    signs = {
        b"\x93NUMPY": "npy",
        b"PK\x03\x04": "npz",
        b"PK\x05\x06": "npz",
        b"v/1\x01": "exr",
        b"\x89HDF\r\n\x1a\n": "hdf5",
        b"II*\0": "tiff",
        b"MM\0*": "tiff",
        b"II+\0": "tiff",
        b"MM\0+": "tiff",
    }
    for sign, form in signs.items():
        if data.startswith(sign):
            return form
    if data[:2] in (b"Pf", b"PF"):
        return "pfm"
    extension = PurePath(name).suffix.lower().lstrip(".")
    if extension in ("npy", "npz", "exr", "tif", "tiff", "pfm", "h5", "hdf5"):
        raise ReadError(f"{name}: does not begin like a .{extension} file; write it again")
    return "picture"


def _open(name: str, data: bytes, expected: str) -> Image.Image:
    if not data:
        raise ReadError(f"{name}: the file is empty (0 bytes); write it again or remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            image.load()
    except Image.UnidentifiedImageError as error:
        raise ReadError(f"{name}: not a picture that can be read; expected {expected}") from error
    except Image.DecompressionBombError as error:
        raise ReadError(f"{name}: more than {2 * Image.MAX_IMAGE_PIXELS} pixels; shrink it first") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... for damaged files
        raise ReadError(f"{name}: damaged ({error}); write it again or remove it") from error
    return image


def _png(name: str, data: bytes) -> np.ndarray:
    image = _open(name, data, "depth as 16-bit PNG, EXR, NPY, NPZ, TIFF or PFM")
    if image.format in LOSSY:
        raise ReadError(f"{name}: {image.format} loses depth; expected 16-bit PNG, EXR, NPY, NPZ, TIFF or PFM")
    if image.mode == "P":
        raise ReadError(f"{name}: a palette picture, not numbers; expected a single-channel 16-bit PNG")
    return _grey(name, np.asarray(image))


def _grey(name: str, values: np.ndarray) -> np.ndarray:
    """A colour picture whose channels are all the same is grey; any other is not depth."""
    if values.ndim == 3 and values.shape[2] in (3, 4) and (values[..., :3] == values[..., :1]).all():
        return values[..., 0]
    if values.ndim == 3 and values.shape[2] > 1:
        raise ReadError(f"{name}: a colour picture, not depth; expected one channel (a colour map cannot be undone)")
    return values


def _numpy(name: str, data: bytes, form: str) -> np.ndarray:
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if form == "npy":
            return loaded
        names = [key for key in loaded.files if key.lower() in DEPTH_NAMES] or loaded.files
        if len(names) != 1:
            raise ReadError(f"{name}: holds the arrays {', '.join(loaded.files)}; expected one, or one named depth")
        return loaded[names[0]]
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(
            f"{name}: damaged or not a plain .{form} array; save it again with numpy.save or numpy.savez"
        ) from error


def _pfm(name: str, data: bytes) -> np.ndarray:
    """Portable float map: 'Pf', width, height, a number whose sign is the byte order, rows bottom up."""
    header = re.match(rb"(P[fF])\s+(\d+)\s+(\d+)\s+([-+.\deE]+)[ \t\r]*\n", data)
    if header is None:
        raise ReadError(f"{name}: the header is not that of a PFM file (Pf, width height, scale); write it again")
    channels, width, height = 3 if header[1] == b"PF" else 1, int(header[2]), int(header[3])
    body, expected = data[header.end() :], 4 * width * height * channels
    if len(body) != expected:
        raise ReadError(f"{name}: {len(body)} bytes of pixels, a {width}x{height} PFM has {expected}; write it again")
    order = "<f4" if float(header[4]) < 0 else ">f4"
    values = np.frombuffer(body, order).reshape(height, width, channels)[::-1].astype(np.float32)
    return _grey(name, values) if channels == 3 else values[..., 0]


def _exr(name: str, data: bytes) -> np.ndarray:
    import OpenEXR

    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(data)
        file.flush()
        try:
            channels = {
                key: channel.pixels
                for key, channel in OpenEXR.File(file.name, separate_channels=True).channels().items()
            }
        except (RuntimeError, ValueError) as error:
            raise ReadError(f"{name}: damaged or not an EXR file; write it again") from error
    named = [key for key in channels if DEPTH_NAMES & set(key.lower().split("."))] or list(channels)
    if len(named) == 1:
        return channels[named[0]]
    colours = [channels[key] for key in named if key in "RGB"]
    if len(colours) == 3 and all(np.array_equal(colours[0], other, equal_nan=True) for other in colours):
        return colours[0]
    raise ReadError(
        f"{name}: channels {', '.join(sorted(channels))}; "
        "expected one channel, one named Z or depth, or equal R, G and B"
    )


def _hdf5(name: str, data: bytes) -> np.ndarray:
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{name}: is HDF5, which h5py reads; pip install 'vstrain[hdf5]'") from error
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            arrays = {key: value for key, value in file.items() if isinstance(value, h5py.Dataset)}
            names = [key for key in arrays if key.lower() in DEPTH_NAMES] or list(arrays)
            if len(names) != 1:
                raise ReadError(f"{name}: holds the arrays {', '.join(arrays)}; expected one, or one named depth")
            return arrays[names[0]][()]
    except (OSError, KeyError, RuntimeError) as error:
        raise ReadError(f"{name}: damaged or not an HDF5 file; write it again") from error


def _plane(name: str, values: np.ndarray) -> np.ndarray:
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "buif" or not values.size:
        raise ReadError(f"{name}: an array {values.shape} of {values.dtype}; expected numbers (H, W) or (H, W, 1)")
    return np.ascontiguousarray(values)
