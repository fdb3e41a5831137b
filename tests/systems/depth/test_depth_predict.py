"""Any photo in, disparity at its own size out; what is no photo gets one sentence."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.systems.depth.conftest import KEYS
from vstrain.systems.depth.photo import UnreadablePhoto, focal_35mm, read_photo
from vstrain.systems.depth.predict import MAX_PATCHES, bounded_size, disparity_of, output_names, predict
from vstrain.systems.depth.scene.camera import Camera
from vstrain.verbs import job


def picture(height=40, width=60):
    """Red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // (width - 1), 255 * y // (height - 1), np.full_like(x, 90)], axis=2).astype(np.uint8)


def save(path, mode="RGB", **options):
    Image.fromarray(picture()).convert(mode).save(path, **options)
    return path


def test_modes_become_rgb(tmp_path):
    rgb, grey = picture(), np.asarray(Image.fromarray(picture()).convert("L")).astype(float)
    assert np.array_equal(read_photo(save(tmp_path / "rgb.png")), rgb)
    for name, mode in (("l.png", "L"), ("la.png", "LA")):
        assert np.array_equal(read_photo(save(tmp_path / name, mode))[..., 1], grey)
    cmyk = read_photo(save(tmp_path / "cmyk.jpg", "CMYK", quality=100))
    assert np.abs(cmyk.astype(int) - rgb).mean() < 4
    Image.fromarray((grey * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    assert np.array_equal(read_photo(tmp_path / "deep.png")[..., 2], grey)
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "float.tiff")
    assert np.abs(read_photo(tmp_path / "float.tiff")[..., 0] - grey).max() <= 1
    assert read_photo(save(tmp_path / "p.gif", "P")).shape == rgb.shape


def test_transparent_pixels_are_laid_over_white(tmp_path):
    rgba = np.dstack([picture(), np.full((40, 60), 255, np.uint8)])
    rgba[:10, ..., 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    assert (photo[:10] == 255).all() and np.array_equal(photo[10:], picture()[10:])


def test_exif_turns_the_photo_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera stood on its side: turn clockwise
    path = save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_photo(path), np.rot90(picture(), -1))


def test_files_that_are_no_photos_get_one_sentence(tmp_path, make_system):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    bad = {
        "text.jpg": (b"hello", "not a picture"),
        "empty.png": (b"", "not a picture"),
        "cut.png": ((tmp_path / "whole.png").read_bytes()[:3000], "does not decode"),
        "cut.jpg": ((tmp_path / "whole.jpg").read_bytes()[:1500], "does not decode"),
    }
    for name, (data, reason) in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UnreadablePhoto, match=reason):
            read_photo(tmp_path / name)
    inputs = [tmp_path / name for name in (*bad, "absent.png", "whole.png")]
    steps = []
    result = predict(make_system(), inputs, tmp_path / "out", lambda done, total: steps.append((done, total)))
    assert [path for path, _ in result.refused] == inputs[:5]
    assert all("\n" not in why and str(path) in why for path, why in result.refused)
    assert steps[-1] == (6, 6) and {path.name for path in result.written} == {
        "whole_depth.npy", "whole_depth.png", "whole_side_by_side.png",
    }  # fmt: skip


def test_focal_length_of_exif(tmp_path):
    for name, stated, expected in (("a.jpg", 26, 26.0), ("zero.png", 0, None), ("none.jpg", None, None)):
        exif = Image.Exif()
        if stated is not None:
            exif.get_ifd(0x8769)[0xA405] = stated
        assert focal_35mm(save(tmp_path / name, exif=exif)) == expected


def test_heic_says_what_to_do(tmp_path):
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UnreadablePhoto, match="as JPEG"):
        read_photo(tmp_path / "phone.HEIC")


def test_metres_follow_the_focal_length_where_the_network_knows_cameras(make_system):
    system = make_system(output="metric", max_depth=20, camera=1.0)
    short, long = (disparity_of(system, picture(), Camera(40, 60, focal, "")) for focal in (30.0, 60.0))
    np.testing.assert_allclose(long, 2 * short, rtol=1e-5)
    default = disparity_of(system, picture())  # by system.predict.fov
    np.testing.assert_allclose(default / short, 30 / np.tan(np.radians(55 / 2)) / 30, rtol=1e-5)


def test_written_files_agree_with_the_network(tmp_path, make_system):
    system = make_system()
    path = save(tmp_path / "photo.png")
    predict(system, [path], tmp_path / "out", lambda done, total: None)
    disparity = np.load(tmp_path / "out/photo_depth.npy")
    assert disparity.shape == (40, 60) and disparity.dtype == np.float32
    assert np.array_equal(disparity, disparity_of(system, picture()))
    stored = Image.open(tmp_path / "out/photo_depth.png")
    low, high = float(stored.text["disparity_min"]), float(stored.text["disparity_max"])
    pixels = np.asarray(stored)
    assert pixels.dtype == np.uint16 and pixels.min() == 0 and pixels.max() == 65535
    np.testing.assert_allclose(low + pixels / 65535 * (high - low), disparity, atol=(high - low) / 65535)
    view = np.asarray(Image.open(tmp_path / "out/photo_side_by_side.png"))
    assert view.shape == (40, 60 + 8 + 60, 3) and np.array_equal(view[:, :60], picture())


def test_prediction_is_brought_back_with_aligned_corners(make_system):
    """At a size that needs no resizing in, corners out equal corners of the network's map."""
    system = make_system()
    photo = picture(112, 168)  # shrinks to 56 x 84
    full = disparity_of(system, photo)
    assert full.shape == (112, 168)
    from vstrain.systems.depth.prepare import resize_image

    with torch.no_grad():
        small = system(torch.from_numpy(resize_image(photo, 56, 84, False))[None])[0].numpy()
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert full[corner] == pytest.approx(small[corner], rel=1e-6)


def test_predict_size_is_the_short_side(make_system):
    seen = []
    for keys in ({}, {"predict": {**KEYS["predict"], "size": 84}}):
        system = make_system(**keys)
        system.net.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(tuple(kwargs["pixel_values"].shape[2:])),
            with_kwargs=True,
        )
        disparity_of(system, picture(80, 80 * 2))
    assert seen == [(56, 112), (84, 168)]


@pytest.mark.parametrize("size", [(100, 100), (100, 400), (3, 5000), (20000, 7), (1, 1)])
def test_patches_are_bounded(size):
    height, width = bounded_size(*size, 518)
    assert height % 14 == width % 14 == 0 and min(height, width) >= 14
    assert height // 14 * (width // 14) <= MAX_PATCHES


def test_outputs_of_equal_stems_stay_apart(tmp_path):
    names = output_names([tmp_path / "a.png", tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "sub" / "a.png"])
    assert names == ["a_png_0", "a_jpg", "b", "a_png_3"]
    assert output_names([tmp_path / "a.jpg", tmp_path / "a.mp4"]) == ["a_jpg", "a_mp4"]


def test_one_key_of_a_section_changes_and_the_others_stay(monkeypatch):
    """system.predict.size=84 on the command line, of a run that has a whole section."""
    monkeypatch.setattr(job.rundir, "load", lambda path: {"system": {"size": "tiny", "predict": dict(KEYS["predict"])}})
    monkeypatch.setattr(job.validate, "validate", lambda values, model: values)
    values = job.trained(SimpleNamespace(ckpt="run", system={"predict": {"size": 84, "stereo": {"shift": 1.0}}}))
    expected = {**KEYS["predict"], "size": 84, "stereo": {**KEYS["predict"]["stereo"], "shift": 1.0}}
    assert values["system"] == {"size": "tiny", "predict": expected}
