"""What a protocol makes of predictions: crops, caps, alignment, spaces, pooling, intervals, pictures."""

import csv

import numpy as np
import pytest

from tests.systems.depth.test_depth_protocols_layouts import da2k, options, photo
from vstrain.config.problems import InputError
from vstrain.data import keyed
from vstrain.systems.depth import protocols
from vstrain.systems.depth.metrics import METRICS
from vstrain.systems.depth.protocols import crops, dense, ordinal, summary
from vstrain.systems.depth.protocols.gallery import Gallery, dense_tiles, tile_size

PERFECT = {name: float(name.startswith("delta")) for name in METRICS}


def scene(seed=0, size=(20, 30)):
    """Depth from 1 to 12 metres with holes."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 12, size)
    depth[rng.random(size) < 0.2] = 0
    depth[0, 0], depth[0, 1] = np.nan, np.inf
    return depth


def known(depth):
    return np.where(np.isfinite(depth) & (depth > 0), depth, 5.0)


def judge(prediction, depth, metric=False, **keys):
    with np.errstate(invalid="ignore"):
        return dense.judge(prediction, depth, options("folder", "x", **keys), metric)


# ---- crops and caps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crop", "size", "box"),
    [
        ("garg", (375, 1242), (153, 371, 44, 1197)),
        ("garg", (370, 1224), (151, 366, 43, 1180)),  # shares of whole pixels, but for their last digit
        ("eigen", (375, 1242), (124, 342, 44, 1197)),
        ("nyu", (480, 640), (45, 471, 41, 601)),
        ("none", (3, 4), (0, 3, 0, 4)),
    ],
)
def test_crops_at_exact_pixels(crop, size, box):
    mask = crops.inside(crop, *size)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == box
    assert mask.sum() == (box[1] - box[0]) * (box[3] - box[2])


def test_the_nyu_crop_is_for_nyu():
    with pytest.raises(InputError, match="480 x 640"):
        crops.inside("nyu", 240, 320)


def test_pixels_outside_the_crop_neither_score_nor_fit():
    depth = np.random.default_rng(0).uniform(1, 12, (100, 200))
    inside = crops.inside("garg", 100, 200)
    spoiled = np.where(inside, 1 / depth, 1e3)
    for space in ("depth", "disparity"):
        judged = judge(spoiled, depth, crop="garg", space=space)
        assert judged.scores["abs_rel"] == pytest.approx(0, abs=1e-9) and judged.counted.sum() == inside.sum()
    assert judge(spoiled, depth, crop="eigen").scores["abs_rel"] > 0.1


def test_truth_beyond_the_cap_does_not_count_and_the_cap_itself_does():
    depth = np.array([[1.0, 2.0, 10.0, 10.001, 50.0]])
    judged = judge(1 / np.array([[1.0, 2.0, 10.0, 3.0, 3.0]]), depth, cap=10)
    assert judged.counted.tolist() == [[True, True, True, False, False]]
    assert judged.scores["abs_rel"] == pytest.approx(0, abs=1e-9)
    assert judge(np.ones((1, 5)), depth, cap=0.5) is None


def test_predicted_depth_ends_at_the_cap():
    depth = np.array([[2.0, 4.0, 8.0]])
    far = judge(np.array([[2.0, 4.0, 500.0]]), depth, metric=True, cap=10)
    assert far.scores["abs_rel"] == pytest.approx((10 / 8 - 1) / 3)
    assert far.scores["rmse"] == pytest.approx(np.sqrt(4 / 3))
    prediction = np.array([[1.0, 0.0, 0.0]])  # least squares: 1/2, 3/16, 3/16
    relative = judge(prediction, depth, cap=10).scores
    assert relative["abs_rel"] == pytest.approx((0 + abs(16 / 3 - 4) / 4 + abs(16 / 3 - 8) / 8) / 3)


def test_disparity_below_the_cap_is_floored_before_it_is_inverted():
    """A fit that goes below 1 / cap: as depth it is the cap, as disparity it stays."""
    depth, prediction = np.array([[1.0, 1.0, 1.0, 10.0]]), np.array([[0.0, 0.0, 5.0, -5.0]])
    truth = 1 / depth[0]
    a, b = np.polyfit(prediction[0], truth, 1)
    fitted = a * prediction[0] + b
    assert fitted.min() < 1 / 2.5
    for cap in (10, 11):
        p = 1 / np.maximum(fitted, 1 / cap)
        assert judge(prediction, depth, cap=cap).scores["abs_rel"] == pytest.approx(np.mean(np.abs(p - depth) / depth))
    raw = np.mean(np.abs(fitted - truth) / truth)
    assert judge(prediction, depth, space="disparity").scores["abs_rel"] == pytest.approx(raw)


# ---- alignment and space ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_any_scale_and_shift_of_true_disparity_is_perfect(space):
    depth = scene()
    for a, b in ((1, 0), (3, -0.4), (-2, 7), (1e-3, 1e-3)):
        found = judge(a / known(depth) + b, depth, space=space).scores
        for name, value in found.items():
            assert value == pytest.approx(PERFECT[name], abs=1e-5), name
        assert set(found) == set(METRICS) - (set() if space == "depth" else {"rmse_log", "log10", "silog"})


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_metres_are_not_fitted_unless_asked(space):
    depth, names = scene(1), ("abs_rel", "delta1")
    for align, prediction in (
        ("auto", known(depth)),
        ("scale", 3 * known(depth)),
        ("scale_shift", 3 * known(depth) - 2),
    ):
        found = judge(prediction, depth, metric=True, align=align, space=space).scores
        assert [found[name] for name in names] == pytest.approx([0, 1], abs=1e-9), align
    doubled = judge(2 * known(depth), depth, metric=True, space=space).scores
    assert doubled["abs_rel"] == pytest.approx(1 if space == "depth" else 0.5) and doubled["delta3"] == 0


def test_millimetres_for_metres_change_the_score():
    """Alignment forgives a unit in disparity space; the metric model and the cap do not."""
    depth = scene(2)
    assert judge(known(depth), depth / 1000, metric=True).scores["abs_rel"] > 100
    assert judge(known(depth), depth * 1000, metric=True) is None
    assert judge(1 / known(depth), depth * 1000) is None, "all beyond the cap"


def test_scores_of_a_noisy_prediction_against_numpy():
    depth, rng = scene(3), np.random.default_rng(4)
    prediction = (1 / known(depth) + rng.normal(0, 0.05, depth.shape)).astype(np.float32)
    keep = np.isfinite(depth) & (depth > 0)
    p, t = prediction[keep].astype(np.float64), depth[keep]
    a, b = np.polyfit(p, 1 / t, 1)
    fitted = a * p + b
    assert fitted.min() < 1 / 15, "the cap must act"
    keep15 = 1 / np.maximum(fitted, 1 / 15)
    found = judge(prediction, depth, cap=15).scores
    assert found["abs_rel"] == pytest.approx(np.mean(np.abs(keep15 - t) / t), rel=1e-9)
    assert found["rmse_log"] == pytest.approx(np.sqrt(np.mean(np.log(keep15 / t) ** 2)), rel=1e-9)
    raw = judge(prediction, depth, space="disparity").scores
    assert raw["sq_rel"] == pytest.approx(np.mean((fitted - 1 / t) ** 2 * t), rel=1e-9)
    assert raw["abs_rel"] != pytest.approx(found["abs_rel"], rel=1e-3)


def test_prediction_is_brought_to_the_size_of_the_truth(monkeypatch):
    ramp = np.add.outer(np.arange(101.0), np.arange(201.0)).astype(np.float32)
    monkeypatch.setattr(dense, "disparity_of", lambda system, image: ramp)
    assert dense.prediction_at(None, None, (101, 201)) is ramp
    half = dense.prediction_at(None, None, (51, 101))
    np.testing.assert_allclose(half, ramp[::2, ::2], atol=1e-4)  # aligned corners
    with pytest.raises(InputError, match="201 x 101 pixels, its depth 101 x 101"):
        dense.prediction_at(None, None, (101, 101))


# ---- DA-2K --------------------------------------------------------------------------------------------------------------


def test_pairs_are_strict_and_rows_come_first():
    nearness = np.zeros((3, 8))
    nearness[1, 6] = 2
    assert ordinal.correct(nearness, (((1, 6), (0, 0)), ((0, 0), (1, 6)), ((0, 1), (2, 7)))) == [True, False, False]
    with pytest.raises(IndexError, match="row 6, column 1"):
        ordinal.correct(nearness, (((6, 1), (0, 0)),))


def test_da2k_pools_pairs_and_reports_scenes(tmp_path, monkeypatch, make_system):
    pair = {"point1": [0, 5], "point2": [3, 0], "closer_point": "point1"}
    wrong = {"point1": [3, 0], "point2": [0, 5], "closer_point": "point1"}
    da2k(tmp_path, {"images/indoor/a.jpg": [pair], "images/aerial/b.jpg": [wrong, wrong, pair]})
    right = np.zeros((4, 6), np.float32)
    right[0, 5] = 1
    system, out = make_system(), tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(ordinal, "disparity_of", lambda system, image: right)
    report = protocols.evaluate(system, options("da2k", tmp_path), None, out, lambda done, total: None)
    assert report.metrics["accuracy"] == 0.5, "two of four pairs, not the mean of 1 and 1/3"
    assert report.metrics["indoor/accuracy"] == 1 and report.metrics["aerial/accuracy"] == pytest.approx(1 / 3)
    assert [row["pairs"] for row in csv.DictReader((out / "images.csv").open())] == ["1", "3"]
    metric = make_system(output="metric", max_depth=20.0)
    report = protocols.evaluate(metric, options("da2k", tmp_path), None, out, lambda done, total: None)
    assert report.metrics["accuracy"] == 0.5 and report.metrics["indoor/accuracy"] == 0, "metres: smaller is nearer"


# ---- means and intervals ------------------------------------------------------------------------------------------------


def test_images_weigh_the_same_and_groups_are_reported():
    rows = [summary.Row(f"{n}", group, 10**n, {"abs_rel": float(n)}) for n, group in enumerate(("x", "x", "y"))]
    means = summary.summarise(rows, pooled=False, resamples=200)
    assert [(part.label, part.images, part.mean["abs_rel"]) for part in means] == [
        ("x", 2, 0.5),
        ("y", 1, 2),
        ("all", 3, 1),
    ]
    assert means[-1].count == 111
    assert set(summary.flat(means)) == {f"{g}abs_rel{e}" for g in ("", "x/", "y/") for e in ("", "/low", "/high")}


def test_the_interval_is_the_bootstrap_of_a_loop():
    values, weights = np.random.default_rng(0).normal(3, 1, (25, 2)), np.arange(1.0, 26)
    low, high = summary.bootstrap(values, weights, 300)
    draws = keyed.rng(0, "bootstrap over images").multinomial(25, np.full(25, 1 / 25), size=300)
    means = []
    for draw in draws:
        images = [n for n, times in enumerate(draw) for _ in range(times)]
        assert len(images) == 25
        means.append(np.average(values[images], axis=0, weights=weights[images]))
    np.testing.assert_allclose((low, high), np.percentile(means, (2.5, 97.5), axis=0))
    again = summary.bootstrap(values, weights, 300)
    assert np.array_equal(low, again[0]) and np.array_equal(high, again[1])


def test_the_interval_covers_as_a_normal_one_does():
    values = np.random.default_rng(1).normal(0, 1, (400, 1))
    low, high = summary.bootstrap(values, np.ones(400), 4000)
    expected = 1.96 * values.std() / 20
    assert low[0] == pytest.approx(values.mean() - expected, abs=0.02)
    assert high[0] == pytest.approx(values.mean() + expected, abs=0.02)


# ---- the picture --------------------------------------------------------------------------------------------------------


def test_the_gallery_keeps_the_best_and_the_worst():
    gallery, made = Gallery(2), []

    def tiles(cost):
        made.append(cost)
        return [np.full((10, 12, 3), (cost, 0, 255), np.uint8)] * 2

    for cost in (50, 10, 90, 40, 60, 20, 95, 55):
        gallery.offer(cost, "", lambda cost=cost: tiles(cost))
    assert [entry[0] for entry in gallery._kept] == [10, 20, 90, 95]
    assert 55 not in made, "tiles of a middling image are not made"
    sheet = gallery.sheet("title")
    tops = [np.flatnonzero((sheet == (cost, 0, 255)).all(-1).any(1)) for cost in (10, 20, 95, 90)]
    assert all(len(rows) == 10 for rows in tops) and np.all(np.diff([rows[0] for rows in tops]) > 0)
    assert Gallery(3).sheet("empty").shape == (1, 1, 3)


def test_tiles_keep_the_aspect_and_show_what_counts():
    assert tile_size(375, 1242) == (320, 97) and tile_size(480, 640) == (320, 240) and tile_size(640, 480) == (180, 240)
    counted = np.zeros((480, 640), bool)
    counted[240:] = True
    disparity = np.linspace(0.1, 1, 640)[None].repeat(480, 0)
    error = np.where(counted, 0.5, 0)
    image, truth, predicted, heat = dense_tiles(photo(480, 640), disparity, disparity, error, counted)
    assert image.shape == truth.shape == (240, 320, 3)
    assert (truth[:118] == 205).all() and (truth[122:] == predicted[122:]).mean() > 0.9
    assert (heat[122:] == heat[-1, -1]).all() and heat[-1, -1].mean() > 200
