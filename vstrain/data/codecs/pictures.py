"""Pictures: JPEG by simplejpeg (libjpeg-turbo), PNG and WebP by OpenCV."""

from __future__ import annotations

import io

import numpy as np

FACTORS = (4, 2)  # other DCT scales run scalar code and take longer than a full decode


def decode_jpeg(data: bytes, at_least: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 (H, W, 3) RGB. With at_least=(h, w) the decoder itself shrinks the picture to a half or a quarter (sides
    rounded up) where that leaves h x w or more; about the mean of the pixels that fall together.

    Grey becomes three equal channels; CMYK is converted without a colour profile. EXIF turns nothing. Raises ValueError
    for damaged data, also where only the end is missing."""
    import simplejpeg

    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    smaller = _smaller(height, width, at_least) if at_least else None
    if space in ("CMYK", "YCCK"):
        return _decode_cmyk(data, smaller)
    if smaller is None:
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    return simplejpeg.decode_jpeg(data, colorspace="RGB", min_height=smaller[0], min_width=smaller[1])


def _smaller(height: int, width: int, at_least: tuple[int, int]) -> tuple[int, int] | None:
    """(height, width) at the smallest scale that is allowed; None: the full size."""
    for factor in FACTORS:
        scaled = -(-height // factor), -(-width // factor)
        if scaled[0] >= at_least[0] and scaled[1] >= at_least[1]:
            return scaled
    return None


def _decode_cmyk(data: bytes, smaller: tuple[int, int] | None) -> np.ndarray:
    """Pillow, which knows Adobe's inverted inks and, unlike OpenCV, refuses truncated files."""
    import cv2
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            rgb = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ValueError(str(error)) from error
    return rgb if smaller is None else cv2.resize(rgb, smaller[::-1], interpolation=cv2.INTER_AREA)


def encode_jpeg(value: np.ndarray, quality: int) -> bytes:
    import simplejpeg

    value = np.ascontiguousarray(value)
    if value.ndim == 2 or value.shape[2] == 1:
        return simplejpeg.encode_jpeg(value.reshape(*value.shape[:2], 1), quality=quality, colorspace="GRAY")
    return simplejpeg.encode_jpeg(value, quality=quality, colorsubsampling="444")


def encode_cv2(extension: str, value: np.ndarray, flags: list) -> bytes:
    import cv2

    if value.ndim == 3:
        value = cv2.cvtColor(value, cv2.COLOR_RGB2BGR if value.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    flags = [getattr(cv2, flag) if isinstance(flag, str) else flag for flag in flags]
    ok, data = cv2.imencode(extension, value, flags)
    if not ok:
        raise ValueError(f"cannot encode an array {value.shape} {value.dtype} as {extension}")
    return data.tobytes()


def decode_cv2(name: str, data: bytes) -> np.ndarray:
    import cv2

    value = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if value is None:
        raise ValueError(f"member {name!r}: the bytes are not a picture")
    if value.ndim == 3:
        value = cv2.cvtColor(value, cv2.COLOR_BGR2RGB if value.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return value
