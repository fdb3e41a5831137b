"""Bytes of a shard member <-> Python value, by the member's extension.

jpg png webp   uint8 (H, W), (H, W, 3) RGB or (H, W, 4) RGBA; webp is lossless; png also uint16 (H, W)
pco            any numeric array up to 8 bytes an element, lossless (pcodec behind a small npy-like header)
npy npz        arrays, dict of arrays
json txt       dict, str
mp4            uint8 (T, H, W, 3) RGB, H.264 with GOP 24
"""

from __future__ import annotations

import io
import json
import struct

import numpy as np

GOP = 24


def encode(name: str, value, *, quality: int = 92, fps: float = 8.0) -> bytes:
    """`value` as the bytes of member `name`. `quality` applies to jpg, `fps` to mp4."""
    match name.rsplit(".", 1)[-1]:
        case "jpg":
            import simplejpeg

            return simplejpeg.encode_jpeg(np.ascontiguousarray(value), quality=quality, colorsubsampling="444")
        case "png":
            return _cv2_encode(".png", value, [])
        case "webp":
            return _cv2_encode(".webp", value, ["IMWRITE_WEBP_QUALITY", 101])
        case "pco":
            return _pco_encode(value)
        case "npy":
            buffer = io.BytesIO()
            np.save(buffer, value)
            return buffer.getvalue()
        case "npz":
            return _npz_encode(value)
        case "json":
            return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        case "txt":
            return value.encode()
        case "mp4":
            return _mp4_encode(value, fps)
    raise ValueError(f"member {name!r}: no codec for this extension")


def decode(name: str, data: bytes):
    """The value of member `name`; raises ValueError for bytes that do not decode."""
    match name.rsplit(".", 1)[-1]:
        case "jpg" | "jpeg":
            import simplejpeg

            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        case "png" | "webp":
            return _cv2_decode(name, data)
        case "pco":
            return _pco_decode(data)
        case "npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        case "npz":
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return dict(archive)
        case "json":
            return json.loads(data)
        case "txt":
            return data.decode()
        case "mp4":
            return _mp4_decode(data)
    raise ValueError(f"member {name!r}: no codec for this extension")


def picture_size(name: str, data: bytes) -> tuple[int, int, int]:
    """(frames, height, width) of a picture (frames 1) or video member, from its head; zeros for any other."""
    try:
        match name.rsplit(".", 1)[-1]:
            case "jpg" | "jpeg":
                import simplejpeg

                return 1, *simplejpeg.decode_jpeg_header(data)[:2]
            case "png" | "webp":
                from PIL import Image

                with Image.open(io.BytesIO(data)) as image:
                    return 1, image.height, image.width
            case "mp4":
                import av

                with av.open(io.BytesIO(data)) as container:
                    stream = container.streams.video[0]
                    return stream.frames, stream.height, stream.width
    except Exception:  # a damaged picture is found when it is decoded; decoders raise many types
        pass
    return 0, 0, 0


def _cv2_encode(extension: str, value: np.ndarray, flags: list) -> bytes:
    import cv2

    if value.ndim == 3:
        value = cv2.cvtColor(value, cv2.COLOR_RGB2BGR if value.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    flags = [getattr(cv2, flag) if isinstance(flag, str) else flag for flag in flags]
    ok, data = cv2.imencode(extension, value, flags)
    if not ok:
        raise ValueError(f"cannot encode an array {value.shape} {value.dtype} as {extension}")
    return data.tobytes()


def _cv2_decode(name: str, data: bytes) -> np.ndarray:
    import cv2

    value = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if value is None:
        raise ValueError(f"member {name!r}: the bytes are not a picture")
    if value.ndim == 3:
        value = cv2.cvtColor(value, cv2.COLOR_BGR2RGB if value.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return value


def _pco_encode(value: np.ndarray) -> bytes:
    """struct: magic, dtype string, number of dimensions, sides; then a standalone pcodec stream of the flat array."""
    from pcodec import ChunkConfig, standalone

    code = np.dtype(value.dtype).str.encode()
    header = struct.pack(f"<4sB{len(code)}sB{value.ndim}I", b"PCO1", len(code), code, value.ndim, *value.shape)
    return header + standalone.simple_compress(np.ascontiguousarray(value).ravel(), ChunkConfig())


def _pco_decode(data: bytes) -> np.ndarray:
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


def _npz_encode(value: dict[str, np.ndarray]) -> bytes:
    """np.savez stores the time of day in the archive; this one gives the same bytes every time."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(value):
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)),
                encode("npy", value[name]),
                zipfile.ZIP_DEFLATED,
            )
    return buffer.getvalue()


def _mp4_encode(frames: np.ndarray, fps: float) -> bytes:
    from fractions import Fraction

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264",
            rate=Fraction(fps).limit_denominator(1001),
            options={"crf": "16", "g": str(GOP), "threads": "1"},
        )
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _mp4_decode(data: bytes) -> np.ndarray:
    import av

    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
