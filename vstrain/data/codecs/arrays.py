"""Arrays: pcodec, NumPy's own files, OpenEXR."""

from __future__ import annotations

import io
import struct
import tempfile

import numpy as np

DEPTH_NAMES = {"depth", "disparity", "z"}  # what a depth map is called among several channels or arrays


def encode_pco(value: np.ndarray) -> bytes:
    """struct: magic, dtype string, number of dimensions, sides; then a standalone pcodec stream of the flat array."""
    from pcodec import ChunkConfig, standalone

    code = np.dtype(value.dtype).str.encode()
    header = struct.pack(f"<4sB{len(code)}sB{value.ndim}I", b"PCO1", len(code), code, value.ndim, *value.shape)
    return header + standalone.simple_compress(np.ascontiguousarray(value).ravel(), ChunkConfig())


def decode_pco(data: bytes) -> np.ndarray:
    from pcodec import standalone

    if data[:4] != b"PCO1":
        raise ValueError("a .pco member must begin with PCO1")
    dtype = np.dtype(data[5 : 5 + data[4]].decode())
    at = 5 + data[4]
    shape = struct.unpack_from(f"<{data[at]}I", data, at + 1)
    flat = standalone.simple_decompress(data[at + 1 + 4 * data[at] :])
    if flat is None or flat.dtype != dtype:
        raise ValueError(f"a .pco member holds {None if flat is None else flat.dtype}, its header says {dtype}")
    return flat.reshape(shape)


def encode_npy(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def encode_npz(value: dict[str, np.ndarray]) -> bytes:
    """np.savez stores the time of day in the archive; this one gives the same bytes every time."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(value):
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), encode_npy(value[name]), zipfile.ZIP_DEFLATED
            )
    return buffer.getvalue()


def decode_exr(data: bytes) -> np.ndarray:
    """(H, W), float16 or float32, as stored: the only channel, the one named Z or depth, or any of equal R, G and B."""
    import OpenEXR

    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(data)
        file.flush()
        try:
            found = OpenEXR.File(file.name, separate_channels=True).channels()
        except RuntimeError as error:
            raise ValueError(f"not a whole EXR file ({error})") from error
        channels = {name: np.array(channel.pixels) for name, channel in found.items()}
    named = [name for name in channels if DEPTH_NAMES & set(name.lower().split("."))] or list(channels)
    colours = [channels[name] for name in ("R", "G", "B") if name in channels]
    if len(named) == 1:
        return channels[named[0]]
    if len(colours) == 3 and all(np.array_equal(colours[0], other, equal_nan=True) for other in colours[1:]):
        return colours[0]
    raise ValueError(f"channels {', '.join(sorted(channels))}; expected one, one named Z or depth, or equal R, G and B")
