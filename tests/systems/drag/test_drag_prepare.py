"""Picture, mask and points go through crop, scale and flip together."""

import numpy as np
import pytest

from vstrain.data.kinds import SampleError
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
    config = make_config(size=size, crop_min=0.4)
    item = prepare(sample(seed=seed), config, np.random.default_rng(seed), training=True)
    margin = 2.5 * size / (0.4 * 48) + 1  # nearer to the border, the crop may cut the block and move its centre
    for picture, points, channel in (("source", "handles", 0), ("target", "targets", 2)):
        x, y = item[points][0]
        if margin < min(x, y) and max(x, y) < size - 1 - margin:
            np.testing.assert_allclose(centre(item[picture], channel), (x, y), atol=0.08)
        assert item["mask"][round(float(y)), round(float(x))]


def test_both_flips_and_many_crops_occur(make_config):
    items = [
        prepare(sample(seed=3), make_config(crop_min=0.4), np.random.default_rng(i), True) for i in range(60)
    ]
    drags = np.array([item["targets"][0] - item["handles"][0] for item in items])
    assert 10 < (drags[:, 0] > 0).sum() < 50
    assert len(np.unique(np.abs(drags[:, 0]).round(2))) > 5


def test_maps_hold_the_points_that_are_listed(make_config):
    for seed in range(10):
        item = prepare(sample(pairs=7, seed=seed), make_config(), np.random.default_rng(seed), True)
        used = np.isfinite(item["handles"][:, 0])
        for plane, name in zip(item["maps"], ("handles", "targets"), strict=True):
            pixels = np.floor(item[name][used] + 0.5).astype(int)
            last = {(x, y): k for k, (x, y) in enumerate(pixels.tolist(), start=1)}
            assert np.count_nonzero(plane) == len(last)
            assert all(plane[y, x] == k for (x, y), k in last.items())


def test_training_takes_every_number_of_pairs(make_config):
    counts = [
        int(np.isfinite(prepare(sample(pairs=4), make_config(), np.random.default_rng(i), True)["handles"][:, 0]).sum())
        for i in range(80)
    ]
    assert set(counts) == {1, 2, 3, 4} and min(counts.count(n) for n in set(counts)) > 8


def test_validation_changes_nothing_of_a_fitting_sample(make_config):
    raw = sample(16, 16, pairs=3, block=1)
    item = prepare(raw, make_config(size=16), np.random.default_rng(0), training=False)
    np.testing.assert_array_equal(item["source"], raw["src.webp"])
    np.testing.assert_array_equal(item["target"], raw["tgt.webp"])
    np.testing.assert_array_equal(item["mask"], raw["mask.png"] > 0)
    np.testing.assert_array_equal(item["handles"][:3], raw["points.json"]["handles"])
    assert np.isnan(item["handles"][3:]).all()


def test_a_wide_picture_gives_a_square_with_its_points(make_config):
    for seed in range(20):
        raw = sample(32, 64, seed=seed)
        item = prepare(raw, make_config(size=32), np.random.default_rng(seed), training=False)
        assert item["source"].shape == (32, 32, 3)
        span = np.ptp([raw["points.json"]["handles"][0][0], raw["points.json"]["targets"][0][0]])
        if span < 32:
            np.testing.assert_allclose(centre(item["source"], 0), item["handles"][0], atol=1.1)
            assert np.isfinite(item["targets"][0]).all()


def test_permuted_numbers_only_when_asked(make_config):
    raw = sample(pairs=6)
    xs = np.array(raw["points.json"]["handles"])[:, 0]
    still = {"flip": 0.0, "crop_min": 1.0, "size": 48}
    for permute in (False, True):
        ordered = []
        for i in range(20):
            item = prepare(raw, make_config(**still, points={"permute_ids": permute}), np.random.default_rng(i), True)
            taken = item["handles"][np.isfinite(item["handles"][:, 0]), 0]
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
