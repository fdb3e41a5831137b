"""Any photo in, disparity at its own size out; what is no photo gets one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from vstrain.systems.depth.photo import UnreadablePhoto, read_photo
from vstrain.systems.depth.predict import MAX_PATCHES, bounded_size, disparity_of, output_names, predict


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
    for keys in ({}, {"predict_size": 84}):
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
