"""Picture, mask and points go through crop, scale and flip together."""

import numpy as np
import pytest

from vstrain.data.kinds import SampleError
from vstrain.systems.drag.points import NO_POINT
from vstrain.systems.drag.prepare import prepare

RED, BLUE = (255, 0, 0), (0, 0, 255)


def sample(height=48, width=48, pairs=1, seed=0, block=2):
    """Grey frames; pair 0 is a red block in the source that is a blue one in the target."""
    rng = np.random.default_rng(seed)
    points = np.stack([rng.integers(4, width - 4, (2, pairs)), rng.integers(4, height - 4, (2, pairs))], -1)
    frames = np.full((2, height, width, 3), 100, np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for frame, points_of_frame, colour in zip(frames, points, (RED, BLUE), strict=True):
        x, y = points_of_frame[0]
        frame[y - block : y + block + 1, x - block : x + block + 1] = colour
        mask[y - block : y + block + 1, x - block : x + block + 1] = 255
    return {
        "__key__": f"s{seed}",
        "src.webp": frames[0],
        "tgt.webp": frames[1],
        "mask.png": mask,
        "points.json": {"handles": points[0].tolist(), "targets": points[1].tolist()},
        "meta.json": {},
    }


def centre(picture, channel):
    """Mean position (x, y) of what stands out in `channel`, weighted by how far it stands out."""
    weight = np.clip(picture[..., channel].astype(float) - 100, 0, None)
    yy, xx = np.mgrid[: len(picture), : len(picture)]
    return np.array([(weight * xx).sum(), (weight * yy).sum()]) / weight.sum()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("size", [24, 64])
def test_points_follow_the_colour_that_they_mark(seed, size, make_config):
    config = make_config(size=size)
    item = prepare(sample(seed=seed), config, np.random.default_rng(seed), training=True)
    margin = 2.5 * size / (0.4 * 48) + 1  # nearer to the border, the crop may cut the block and move its centre
    for picture, points, channel in (("source", "handles", 0), ("target", "targets", 2)):
        x, y = item[points][0]
        if margin < min(x, y) and max(x, y) < size - 1 - margin:
            np.testing.assert_allclose(centre(item[picture], channel), (x, y), atol=0.08)
        assert item["mask"][round(float(y)), round(float(x))]


def test_both_flips_and_many_crops_occur(make_config):
    items = [prepare(sample(seed=3), make_config(), np.random.default_rng(i), True) for i in range(60)]
    drags = np.array([item["targets"][0] - item["handles"][0] for item in items])
    assert 10 < (drags[:, 0] > 0).sum() < 50
    assert len(np.unique(np.abs(drags[:, 0]).round(2))) > 5


def test_maps_hold_the_points_that_are_listed(make_config):
    for seed in range(10):
        item = prepare(sample(pairs=7, seed=seed), make_config(), np.random.default_rng(seed), True)
        used = item["handles"][:, 0] != NO_POINT
        for plane, name in zip(item["maps"], ("handles", "targets"), strict=True):
            pixels = np.floor(item[name][used] + 0.5).astype(int)
            last = {(x, y): k for k, (x, y) in enumerate(pixels.tolist(), start=1)}
            assert np.count_nonzero(plane) == len(last)
            assert all(plane[y, x] == k for (x, y), k in last.items())


def test_training_takes_every_number_of_pairs(make_config):
    counts = [
        int(
            (prepare(sample(pairs=4), make_config(), np.random.default_rng(i), True)["handles"][:, 0] != NO_POINT).sum()
        )
        for i in range(80)
    ]
    assert set(counts) == {1, 2, 3, 4} and min(counts.count(n) for n in set(counts)) > 8


def test_validation_changes_nothing_of_a_picture_that_its_box_fills(make_config):
    raw = sample(16, 16, pairs=3, block=1)
    item = prepare(raw, make_config(size=16, crop_min=1.0), np.random.default_rng(0), training=False)
    np.testing.assert_array_equal(item["source"], raw["src.webp"])
    np.testing.assert_array_equal(item["target"], raw["tgt.webp"])
    np.testing.assert_array_equal(item["mask"], raw["mask.png"] > 0)
    np.testing.assert_array_equal(item["handles"][:3], raw["points.json"]["handles"])
    assert (item["handles"][3:] == NO_POINT).all()


def test_validation_crops_alike_every_time(make_config):
    a, b = (prepare(sample(pairs=3), make_config(), np.random.default_rng(i), False) for i in range(2))
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("training", [False, True])
def test_the_crop_holds_points_and_mask(training, make_config):
    """Nothing of the mask is lost, wherever in a wide picture it is, when a square has room for it."""
    scales = []
    for seed in range(40):
        raw = sample(40, 80, seed=seed)
        handle, target = (np.array(raw["points.json"][name][0]) for name in ("handles", "targets"))
        if np.abs(handle - target).max() > 40 - 5 or (handle == target).all():
            continue
        item = prepare(raw, make_config(size=40, flip=0.0), np.random.default_rng(seed), training)
        drag = item["targets"][0] - item["handles"][0]
        scale = np.linalg.norm(drag) / np.linalg.norm(target - handle)
        before, after = (np.argwhere(mask) for mask in (raw["mask.png"], item["mask"]))
        np.testing.assert_allclose(np.ptp(after, axis=0) + 1, (np.ptp(before, axis=0) + 1) * scale, atol=1 + scale)
        scales.append(scale)
    assert len(scales) > 15 and 0.99 < min(scales) < 1.3 and 1.5 < max(scales) <= 40 / 16 + 1e-6


def test_permuted_numbers_only_when_asked(make_config):
    raw = sample(pairs=6)
    xs = np.array(raw["points.json"]["handles"])[:, 0]
    still = {"flip": 0.0, "crop_min": 1.0, "size": 48}
    for permute in (False, True):
        ordered = []
        for i in range(20):
            item = prepare(raw, make_config(**still, points={"permute_ids": permute}), np.random.default_rng(i), True)
            taken = item["handles"][(item["handles"][:, 0] != NO_POINT), 0]
            where = [int(np.flatnonzero(xs == x)[0]) for x in taken]
            ordered.append(where == sorted(where))
        assert all(ordered) != permute


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"handles": [[1, 1]]}, "must hold 'handles' and 'targets'"),
        ({"handles": [[1, 1], [2, 2]], "targets": [[1, 1]]}, "of one length"),
        ({"handles": [], "targets": []}, "at least one handle"),
        ({"handles": [[1, 1]], "targets": [[1, 48]]}, "outside of the picture"),
        ({"handles": [[1, 1]], "targets": [[1, None]]}, "sample s0"),
    ],
)
def test_bad_points_are_named(points, message, make_config):
    raw = sample() | {"points.json": points}
    with pytest.raises(SampleError, match=message):
        prepare(raw, make_config(), np.random.default_rng(0), False)
