"""Bytes of a shard member <-> Python value, by the member's extension.

jpg png webp   uint8 (H, W), (H, W, 3) RGB or (H, W, 4) RGBA; webp is lossless; png also uint16 (H, W); jpg is read as RGB
pco            any numeric array up to 8 bytes an element, lossless (pcodec behind a small npy-like header)
npy npz        arrays, dict of arrays
exr            float (H, W), read only
json txt       dict, str
mp4            written from uint8 (T, H, W, 3) RGB, H.264 with GOP 24; read as a Clip, which decodes the frames that are used
webm mkv avi mov   read only, as mp4
"""

from __future__ import annotations

import io
import json

import numpy as np

from vstrain.data.codecs import arrays, pictures, video
from vstrain.data.codecs.pictures import decode_jpeg
from vstrain.data.codecs.video import GOP, Clip

__all__ = ["GOP", "Clip", "decode", "decode_jpeg", "encode", "picture_size"]


def encode(name: str, value, *, quality: int = 92, fps: float = 8.0) -> bytes:
    """`value` as the bytes of member `name`; bytes and clips stay as they are. `quality` applies to jpg, `fps` to mp4."""
    extension = extension_of(name)
    if isinstance(value, bytes):
        return value
    match extension:
        case "jpg" | "jpeg":
            return pictures.encode_jpeg(value, quality)
        case "png":
            return pictures.encode_cv2(".png", value, [])
        case "webp":
            return pictures.encode_cv2(".webp", value, ["IMWRITE_WEBP_QUALITY", 101])
        case "pco":
            return arrays.encode_pco(value)
        case "npy":
            return arrays.encode_npy(value)
        case "npz":
            return arrays.encode_npz(value)
        case "json":
            return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        case "txt":
            return value.encode()
        case "mp4":
            return value.data if isinstance(value, Clip) else video.encode_video(value, fps)
    raise ValueError(f"member {name!r}: no codec for this extension")


def decode(name: str, data: bytes):
    """The value of member `name`; raises ValueError for bytes that do not decode (a Clip: when it is used)."""
    match extension_of(name):
        case "jpg" | "jpeg":
            return decode_jpeg(data)
        case "png" | "webp":
            return pictures.decode_cv2(name, data)
        case "pco":
            return arrays.decode_pco(data)
        case "exr":
            return arrays.decode_exr(data)
        case "npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        case "npz":
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return dict(archive)
        case "json":
            return json.loads(data)
        case "txt":
            return data.decode()
        case extension if extension in video.EXTENSIONS:
            return Clip(data)
    raise ValueError(f"member {name!r}: no codec for this extension")


def picture_size(name: str, data: bytes) -> tuple[int, int, int]:
    """(frames, height, width) of a picture (frames 1) or video member, from its head; zeros for any other."""
    try:
        match extension_of(name):
            case "jpg" | "jpeg":
                import simplejpeg

                return 1, *simplejpeg.decode_jpeg_header(data)[:2]
            case "png" | "webp":
                from PIL import Image

                with Image.open(io.BytesIO(data)) as image:
                    return 1, image.height, image.width
            case extension if extension in video.EXTENSIONS:
                return video.video_size(data)
    except Exception:  # a damaged picture is found when it is decoded; decoders raise many types
        pass
    return 0, 0, 0


def extension_of(name: str) -> str:
    return name.rsplit(".", 1)[-1].lower()
