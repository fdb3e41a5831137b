"""Sizes, targets, and that picture, target and mask move together."""

import cv2
import numpy as np
import pytest

from vstrain.data.buckets import Bucket
from vstrain.data.index import Index
from vstrain.data.keyed import rng
from vstrain.data.kinds import SampleError
from vstrain.data.reader import Reader
from vstrain.data.writer import ShardWriter
from vstrain.systems.depth.prepare import network_size, prepare, resize_image


def sample(height=70, width=90, unit="depth", **members):
    """Depth 2 m at the left edge to 10 m at the right; the picture's red channel holds the column."""
    columns = np.linspace(0, 1, width, dtype=np.float32)
    depth = np.tile(2 + 8 * columns, (height, 1))
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.rint(255 * columns)
    image[..., 1] = np.rint(255 * np.linspace(0, 1, height))[:, None]
    return {"__key__": "s", "jpg": image, "depth.pco": depth, "json": {"unit": unit}, **members}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (518, 686)),
        ((375, 1242), (518, 1722)),
        ((240, 320), (518, 686)),
        ((1080, 1920), (518, 924)),
        ((100, 400), (518, 2072)),
        ((640, 480), (686, 518)),
        ((518, 518), (518, 518)),
        ((518, 525), (518, 532)),  # 37.5 patches: the half goes to 38, the even one
        ((518, 539), (518, 532)),  # 38.5 patches: to 38 again
    ],
)
def test_resize_rule(size, expected):
    assert network_size(*size, 518) == expected


def test_sizes_are_multiples_of_14_and_never_below_the_bound():
    random = np.random.default_rng(0)
    for height, width in random.integers(1, 4000, (500, 2)):
        size = network_size(int(height), int(width), 126)
        assert min(size) == 126 and size[0] % 14 == size[1] % 14 == 0


def test_target_is_min_max_normalised_disparity(make_config):
    item = prepare(sample(56, 56), make_config(), rng(0, "prepare"), training=False)
    assert item["valid"].all() and item["disparity"].dtype == np.float32
    low, high = item["span"]
    assert (low, high) == pytest.approx((1 / 10, 1 / 2))
    depth = np.tile(np.linspace(2, 10, 56), (56, 1))
    np.testing.assert_allclose(item["disparity"], (1 / depth - low) / (high - low), atol=1e-6)


def test_shipped_disparity_is_not_inverted(make_config):
    item = prepare(sample(56, 56, unit="disparity"), make_config(), rng(0, "prepare"), training=False)
    np.testing.assert_allclose(item["disparity"][0], np.linspace(0, 1, 56), atol=1e-6)
    assert tuple(item["span"]) == pytest.approx((0.2, 1))


def test_known_sky_is_the_far_end_and_enters_the_loss(make_config):
    scene = sample(56, 56)
    scene["depth.pco"][:20] = 0
    ignored = prepare(scene, make_config(), rng(0, "prepare"), training=False)
    assert not ignored["valid"][:20].any() and ignored["span"][0] == pytest.approx(0.1)
    scene["json"]["invalid"] = "0: sky"
    for sky, valid, low in (("far", True, 0), ("ignore", False, 0.1)):
        item = prepare(scene, make_config(sky=sky), rng(0, "prepare"), training=False)
        assert (item["valid"][:20] == valid).all() and (item["disparity"][:20] == 0).all()
        assert item["valid"][20:].all() and item["span"][0] == pytest.approx(low)


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
def test_invalid_depth_and_mask_leave_range_and_target(make_config, bad):
    broken = sample(56, 56)
    broken["depth.pco"][:, :10] = bad
    broken["mask.png"] = np.full((56, 56), 255, np.uint8)
    broken["mask.png"][:, 50:] = 0
    item = prepare(broken, make_config(), rng(0, "prepare"), training=False)
    assert (item["valid"] == (np.arange(56) >= 10) & (np.arange(56) < 50)).all()
    assert item["disparity"][:, 10].max() == 1 and item["disparity"][:, 49].max() == 0
    assert (item["disparity"][~item["valid"]] == 0).all()


def test_bad_samples_are_refused_in_one_sentence(make_config):
    empty = sample()
    empty["depth.pco"][:] = 0
    with pytest.raises(SampleError, match="sample s: depth.pco has no valid pixel"):
        prepare(empty, make_config(), rng(0, "prepare"), training=True)
    with pytest.raises(SampleError, match="'metres' is neither depth nor disparity"):
        prepare(sample(unit="metres"), make_config(), rng(0, "prepare"), training=True)


def test_crop_and_flip_move_picture_target_and_mask_together(make_config):
    """The picture's red and green hold the place, so the target can be recomputed from the picture alone."""
    flips, corners = set(), set()
    for draw in range(40):
        marked = sample()
        marked["mask.png"] = np.uint8(marked["jpg"][..., 0] < 200) * 255
        item = prepare(marked, make_config(), rng(draw, "prepare"), training=True)
        red = item["image"][..., 0].astype(float)
        low, high = item["span"]
        disparity = 1 / (2 + 8 * red / 255)
        inside = item["valid"] & (np.abs(red - 200) > 8)
        np.testing.assert_allclose((item["disparity"] * (high - low) + low)[inside], disparity[inside], atol=0.01)
        assert (item["valid"] == (red < 200))[np.abs(red - 200) > 8].all()
        flips.add(bool(red[0, 0] > red[0, -1]))
        corners.add((item["image"][0, 0, 1], min(red[0, 0], red[0, -1])))
    assert flips == {False, True} and len(corners) > 10


def test_validation_takes_the_centre_and_draws_nothing(make_config):
    items = [prepare(sample(), make_config(), rng(draw, "prepare"), training=False) for draw in range(3)]
    assert all(np.array_equal(items[0][name], item[name]) for item in items for name in item)
    """Cutting first gives what cutting last gives, where the window's edges lie on whole pixels: 72 of 90 columns."""
    resized = resize_image(sample()["jpg"], 56, 70, antialias=False)[:, 7:63].astype(int)
    found = items[0]["image"].astype(int)
    assert (
        np.abs(found - resized)[:, 2:-2].max() <= 1 and np.abs(found - resized).max() <= 4
    )  # cubic reaches beyond the edge
    nearest = cv2.resize(sample()["depth.pco"], (70, 56), interpolation=cv2.INTER_NEAREST_EXACT)[:, 7:63]
    low, high = items[0]["span"]
    np.testing.assert_allclose(1 / (items[0]["disparity"] * (high - low) + low), nearest, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(56, 56), (56, 84), (84, 56)])
def test_a_bucket_sets_the_shape(make_config, height, width):
    class Bucketed(dict):
        bucket = Bucket(height, width)

    item = prepare(Bucketed(sample(120, 160)), make_config(), rng(0, "prepare"), training=True)
    assert item["image"].shape == (height, width, 3) and item["disparity"].shape == item["valid"].shape == (
        height,
        width,
    )
    red = item["image"][0, :, 0].astype(float)
    green = item["image"][:, 0, 1].astype(float)
    per_column, per_row = abs(red[-1] - red[0]) * 159 / width, abs(green[-1] - green[0]) * 119 / height
    assert per_column == pytest.approx(per_row, rel=0.1)  # the aspect ratio is kept


def test_prepare_is_a_function_of_its_generator(make_config):
    a, b, c = (prepare(sample(), make_config(), rng(key, "prepare"), training=True) for key in (1, 1, 2))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["image"], c["image"])


@pytest.mark.parametrize("factor", [2, 4])
def test_a_large_jpeg_is_decoded_smaller_and_stays_in_place(make_config, tmp_path, factor):
    """Read from a shard, where the decoder does the shrinking, against the whole picture shrunk afterwards."""
    scene = sample(56 * factor + 10, 56 * factor + 40)
    with ShardWriter(tmp_path, "train", "depth", jpeg_quality=98) as writer:
        writer.write({**scene, "json": {"unit": "depth"}})
    reader = Reader(Index.open([str(path) for path in tmp_path.glob("*.tar")]))
    for draw in range(6):
        stored = prepare(reader.read(0), make_config(antialias=True), rng(draw, "prepare"), training=True)
        whole = prepare(scene, make_config(antialias=True), rng(draw, "prepare"), training=True)
        assert np.array_equal(stored["disparity"], whole["disparity"])
        assert np.abs(stored["image"].astype(int) - whole["image"]).max() <= 6
        slope = 255 / (56 * factor + 39)  # of red, a stored column
        assert abs(stored["image"][..., 0].astype(float).mean() - whole["image"][..., 0].mean()) < 0.5 * slope


def test_a_picture_and_a_depth_of_different_sizes_are_refused(make_config):
    with pytest.raises(SampleError, match="the picture has 70 x 90 pixels, its depth 70 x 88"):
        prepare(
            sample() | {"depth.pco": np.ones((70, 88), np.float32)}, make_config(), rng(0, "prepare"), training=True
        )


def test_pictures_are_resized_cubically_in_float():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = cv2.resize(image.astype(np.float64), (28, 42), interpolation=cv2.INTER_CUBIC)
    got = resize_image(image, 42, 28, antialias=False)
    np.testing.assert_allclose(got, expected.clip(0, 255), atol=0.501)


def test_antialias_averages_what_cubic_would_skip():
    """Stripes one pixel wide, shrunk eightfold, are grey; cubic alone reads four of the eight columns."""
    stripes = np.zeros((448, 448, 3), np.uint8)
    stripes[:, ::8] = 255
    smooth, plain = (resize_image(stripes, 56, 56, antialias).astype(float) for antialias in (True, False))
    smooth, plain = smooth[:, 1:-1], plain[:, 1:-1]
    assert np.abs(smooth - 255 / 8).max() < 2 and np.abs(plain - 255 / 8).min() > 20


@pytest.mark.parametrize("shape", [(56, 56), (56, 56, 3), (56, 56, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_picture_member_becomes_rgb(make_config, shape, dtype):
    grey = np.full(shape, np.iinfo(dtype).max // 2, dtype)
    members = sample(56, 56, png=grey)
    del members["jpg"]
    image = prepare(members, make_config(), rng(0, "prepare"), training=False)["image"]
    assert image.shape == (56, 56, 3) and image.dtype == np.uint8 and set(np.unique(image)) <= {127}
