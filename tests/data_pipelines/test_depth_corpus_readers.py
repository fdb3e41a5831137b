"""Every format read back exactly from a file that something else wrote."""

import io
import struct

import av
import cv2
import numpy as np
import OpenEXR
import pytest
from PIL import Image, ImageOps

from data_pipelines.depth_corpus.readers import ReadError, read_depth, read_image, read_mask, turn

RNG = np.random.default_rng(0)
U16 = RNG.integers(0, 2**16, (5, 7), dtype=np.uint16)
F32 = RNG.random((5, 7), dtype=np.float32) * 9


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def numpy_bytes(save, *args, **kwargs) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


def ffmpeg_exr(values: np.ndarray, path) -> bytes:
    """EXR by FFmpeg: RGB planes that are all the same."""
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("exr", rate=1)
        stream.height, stream.width, stream.pix_fmt = *values.shape, "gbrpf32le"
        frame = av.VideoFrame.from_ndarray(np.repeat(values[..., None], 3, axis=2), format="gbrpf32le")
        container.mux([*stream.encode(frame), *stream.encode()])
    return path.read_bytes()


def exr(path, channels: dict, compression=OpenEXR.ZIP_COMPRESSION) -> bytes:
    OpenEXR.File({"compression": compression, "type": OpenEXR.scanlineimage}, channels).write(str(path))
    return path.read_bytes()


def pfm(values: np.ndarray, order: str) -> bytes:
    height, width = values.shape
    rows = b"".join(struct.pack(f"{order}{width}f", *row) for row in values[::-1])
    return f"Pf\n{width} {height}\n{'-1.0' if order == '<' else '1.0'}\n".encode() + rows


CASES = {
    "png16": ("a.png", U16, lambda a, _: cv2.imencode(".png", a)[1].tobytes()),
    "png8": ("a.png", (U16 >> 8).astype(np.uint8), lambda a, _: cv2.imencode(".png", a)[1].tobytes()),
    "png grey as rgb": (
        "a.png",
        (U16 >> 8).astype(np.uint8),
        lambda a, _: cv2.imencode(".png", np.repeat(a[..., None], 3, 2))[1].tobytes(),
    ),
    "tiff u16": ("a.tiff", U16, lambda a, _: saved(Image.fromarray(a), "TIFF", compression="tiff_lzw")),
    "tiff f32": ("a.tif", F32, lambda a, _: saved(Image.fromarray(a), "TIFF")),
    "npy": ("a.npy", F32, lambda a, _: numpy_bytes(np.save, a)),
    "npy f16 (H, W, 1)": ("a.npy", F32.astype(np.float16), lambda a, _: numpy_bytes(np.save, a[..., None])),
    "npy f64 (1, H, W)": ("a.npy", F32.astype(np.float64), lambda a, _: numpy_bytes(np.save, a[None])),
    "npy Fortran": ("a.npy", F32, lambda a, _: numpy_bytes(np.save, np.asfortranarray(a))),
    "npz one": ("a.npz", F32, lambda a, _: numpy_bytes(np.savez_compressed, anything=a)),
    "npz depth": ("a.npz", F32, lambda a, _: numpy_bytes(np.savez, depth=a, valid=a > 0)),
    "pfm little": ("a.pfm", F32, lambda a, _: pfm(a, "<")),
    "pfm big": ("a.pfm", F32, lambda a, _: pfm(a, ">")),
    "pfm opencv": ("a.pfm", F32, lambda a, _: cv2.imencode(".pfm", a)[1].tobytes()),
    "exr ffmpeg": ("a.exr", F32, lambda a, path: ffmpeg_exr(a, path)),
    "exr Z half": ("a.exr", F32.astype(np.float16), lambda a, path: exr(path, {"Z": a})),
    "exr Z beside colour": (
        "a.exr",
        F32,
        lambda a, path: exr(path, {"R": a + 1, "G": a + 2, "B": a + 3, "Z": a}),
    ),
    "exr layer": (
        "a.exr",
        F32,
        lambda a, path: exr(path, {"Depth.V": a, "Beauty.R": a + 1}, OpenEXR.PIZ_COMPRESSION),
    ),
}


@pytest.mark.parametrize("name, truth, write", CASES.values(), ids=CASES.keys())
def test_depth_reads_back_exactly(name, truth, write, tmp_path):
    got = read_depth(name, write(truth, tmp_path / "a.exr"))
    assert got.dtype == truth.dtype
    np.testing.assert_array_equal(got, truth)


COLOURS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
BAD = {
    "jpeg": ("a.jpg", saved(Image.fromarray(COLOURS), "JPEG"), "loses depth"),
    "colour map": ("a.png", saved(Image.fromarray(COLOURS), "PNG"), "colour picture"),
    "palette": ("a.png", saved(Image.fromarray(COLOURS).quantize(8), "PNG"), "palette"),
    "empty": ("a.npy", b"", "0 bytes"),
    "garbage": ("a.exr", b"garbage" * 9, "does not begin like"),
    "text as png": ("a.png", b"not a picture", "not a picture"),
    "cut png": ("a.png", cv2.imencode(".png", np.tile(U16, (9, 9)))[1].tobytes()[:900], "damaged"),
    "cut tiff": ("a.tif", saved(Image.fromarray(U16), "TIFF")[:60], "cut off"),
    "cut npy": ("a.npy", numpy_bytes(np.save, F32)[:-1], "damaged"),
    "cut npz": ("a.npz", numpy_bytes(np.savez, F32)[:80], "damaged"),
    "pickle": ("a.npy", numpy_bytes(np.save, np.array([{}], object)), "damaged"),
    "cut pfm": ("a.pfm", pfm(F32, "<")[:-4], "136 bytes of pixels, a 7x5 PFM has 140"),
    "pfm header": ("a.pfm", b"Pf\nseven five\n", "header"),
    "two arrays": ("a.npz", numpy_bytes(np.savez, a=F32, b=F32), "a, b"),
    "three dimensions": ("a.npy", numpy_bytes(np.save, np.zeros((5, 7, 3))), "(5, 7, 3)"),
    "complex": ("a.npy", numpy_bytes(np.save, np.zeros((5, 7), complex)), "complex"),
    "no pixels": ("a.npy", numpy_bytes(np.save, np.zeros((0, 7))), "(0, 7)"),
}


@pytest.mark.parametrize("name, data, says", BAD.values(), ids=BAD.keys())
def test_a_bad_depth_file_gets_one_sentence(name, data, says):
    with pytest.raises(ReadError) as error:
        read_depth(name, data)
    assert str(error.value).startswith(f"{name}: ") and says in str(error.value) and "\n" not in str(error.value)


def test_a_cut_exr_and_one_without_depth_are_refused(tmp_path):
    data = exr(tmp_path / "a.exr", {"Z": np.tile(F32, (20, 20))})
    with pytest.raises(ReadError, match="damaged"):
        read_depth("a.exr", data[: len(data) // 2])
    with pytest.raises(ReadError, match="channels B, G, R"):
        read_depth("a.exr", exr(tmp_path / "b.exr", {"R": F32, "G": F32 + 1, "B": F32}))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_as_pillow_turns(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(COLOURS), "PNG", exif=exif)
    image, read = read_image("a.png", data)
    assert read == orientation
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(turn(image, read), expected)


def test_pictures_of_every_mode_become_rgb():
    grey = COLOURS[..., 0]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image("a", saved(Image.fromarray(COLOURS), "BMP"))[0], COLOURS)
    np.testing.assert_array_equal(read_image("a", saved(Image.fromarray(COLOURS), "WEBP", lossless=True))[0], COLOURS)
    np.testing.assert_array_equal(read_image("a", saved(Image.fromarray(COLOURS), "TIFF"))[0], COLOURS)
    np.testing.assert_array_equal(read_image("a", saved(Image.fromarray(grey), "PNG"))[0], as_rgb)
    np.testing.assert_array_equal(
        read_image("a", saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"))[0], as_rgb
    )
    np.testing.assert_array_equal(read_image("a", saved(Image.fromarray(grey > 99), "PNG"))[0], 255 * (as_rgb > 99))
    sixteen = cv2.imencode(".png", COLOURS[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(read_image("a", sixteen)[0], COLOURS)
    few = Image.fromarray(COLOURS).quantize(8)
    np.testing.assert_array_equal(read_image("a", saved(few, "PNG"))[0], np.array(few.convert("RGB")))
    cmyk = np.zeros((5, 7, 4), np.uint8)
    cmyk[..., 1] = 255  # magenta ink only
    np.testing.assert_array_equal(
        read_image("a", saved(Image.fromarray(cmyk, "CMYK"), "TIFF"))[0], [[[255, 0, 255]] * 7] * 5
    )


def test_transparent_pixels_are_white():
    rgba = np.dstack([COLOURS, np.full((5, 7), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    image, _ = read_image("a.png", saved(Image.fromarray(rgba), "PNG"))
    assert image[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(image[1:], COLOURS[1:])


def test_masks_are_true_where_not_zero():
    truth = F32 > 4
    for data in (
        saved(Image.fromarray(truth), "PNG"),
        saved(Image.fromarray(truth.astype(np.uint8)), "PNG"),
        numpy_bytes(np.save, truth),
        numpy_bytes(np.save, truth * 1.0),
        saved(Image.fromarray(np.repeat(truth[..., None] * np.uint8(255), 3, 2)), "PNG"),
        saved(Image.fromarray(np.kron(truth, np.ones((8, 8))).astype(np.uint8) * 255), "JPEG"),
    ):
        name = "a.npy" if data.startswith(b"\x93") else "a.png"
        got = read_mask(name, data)
        np.testing.assert_array_equal(got if got.shape == truth.shape else got[4::8, 4::8], truth)
