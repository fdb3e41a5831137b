"""JPEG: scaled while decoding, grey, CMYK, damaged."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vstrain.data import codecs


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    small = np.random.default_rng(4).integers(0, 256, (height // 16 + 2, width // 16 + 2, channels), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(picture: np.ndarray, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture, mode).save(buffer, "jpeg", quality=95, **options)
    return buffer.getvalue()


def area_mean(full: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor x factor blocks; blocks at the right and lower edge hold the pixels that are there."""
    height, width = full.shape[:2]
    rows, columns = np.arange(0, height, factor), np.arange(0, width, factor)
    sums = np.add.reduceat(np.add.reduceat(full.astype(np.float64), rows, 0), columns, 1)
    count = np.minimum(factor, height - rows)[:, None] * np.minimum(factor, width - columns)
    return sums / count[..., None]


@pytest.mark.parametrize(
    ("at_least", "factor"),
    [
        (None, 1),
        ((401, 301), 1),  # the picture is smaller than that
        ((400, 300), 1),
        ((201, 100), 1),
        ((200, 151), 1),
        ((200, 150), 2),
        ((199, 10), 2),
        ((101, 75), 2),  # 3/8 would do, but is slower
        ((100, 76), 2),
        ((100, 75), 4),
        ((1, 1), 4),  # 1/8 would do
    ],
)
def test_only_halves_and_quarters_and_never_too_small(at_least, factor):
    data = codecs.encode("jpg", photo(400, 300), quality=95)
    full, scaled = codecs.decode("jpg", data), codecs.decode_jpeg(data, at_least)
    assert scaled.shape == (400 // factor, 300 // factor, 3)
    difference = np.abs(scaled - area_mean(full, factor))
    assert difference.mean() < 1 and difference.max() < 12
    if factor == 1:
        assert (scaled == full).all()


def test_every_request_is_met():
    rng = np.random.default_rng(7)
    for _ in range(150):
        height, width = rng.integers(1, 120, 2).tolist()
        data = simplejpeg.encode_jpeg(np.zeros((height, width, 3), np.uint8), colorsubsampling="420")
        least = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        got = codecs.decode_jpeg(data, least).shape[:2]
        assert got[0] >= least[0] and got[1] >= least[1]
        allowed = {(-(-height // factor), -(-width // factor)) for factor in (1, 2, 4)}
        assert got in allowed
        assert got == min(size for size in allowed if size[0] >= least[0] and size[1] >= least[1])


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_chroma_layouts(subsampling, progressive):
    data = jpeg(photo(160, 128), subsampling=subsampling, progressive=progressive)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(codecs.decode("jpeg", data) - expected).max() <= 3
    assert np.abs(codecs.decode_jpeg(data, (80, 64)) - area_mean(expected, 2)).mean() < 2.5


def test_grey():
    picture = photo(96, 64, 1)
    data = codecs.encode("jpg", picture, quality=95)
    assert simplejpeg.decode_jpeg_header(data)[2].lower() in ("gray", "grey")
    assert data == codecs.encode("jpg", picture[..., None], quality=95)
    for scaled in (codecs.decode("jpg", data), codecs.decode_jpeg(data, (48, 32))):
        assert scaled.shape[2] == 3 and (scaled == scaled[..., :1]).all()
    assert np.abs(codecs.decode("jpg", data)[..., 0].astype(int) - picture.squeeze()).max() <= 4


def test_cmyk():
    inks = photo(96, 64, 4)
    data = jpeg(inks, "CMYK")
    rgb = codecs.decode("jpg", data)
    expected = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert rgb.shape == (96, 64, 3) and np.abs(rgb - expected).mean() < 2
    assert np.abs(codecs.decode_jpeg(data, (48, 32)) - area_mean(rgb, 2)).max() <= 1
    with pytest.raises(ValueError, match="truncated"):
        codecs.decode("jpg", data[: len(data) // 2])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("at_least", [None, (10, 10)])
def test_truncated_data_raises(share, at_least):
    data = codecs.encode("jpg", photo(160, 128))
    with pytest.raises(ValueError):
        codecs.decode_jpeg(data[: int(share * len(data))], at_least)


def test_exif_turns_nothing():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert codecs.decode("jpg", jpeg(photo(96, 64), exif=exif)).shape == (96, 64, 3)
    assert codecs.picture_size("jpg", jpeg(photo(96, 64), exif=exif)) == (1, 96, 64)
