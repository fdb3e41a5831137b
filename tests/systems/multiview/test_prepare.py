"""Augmentations (spec section 5.3) and what an object becomes."""

import numpy as np
import pytest

from vstrain.data.kinds import SampleError
from vstrain.systems.multiview import augment
from vstrain.systems.multiview.prepare import prepare

ALL_ON = dict(drop=1, noise=1, distort=1, rescale=1, jitter=1, colour=1, gray_background=1)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def picture():
    return rng().random((24, 24, 3), dtype=np.float32)


def test_distortion_is_monotone_keeps_its_ends_and_stays_within_half_a_cell():
    for seed in range(200):
        axis = augment.distortion_axis(rng(seed), 64, 0.5)
        assert axis[0] == 0 and axis[-1] == 63
        assert (np.diff(axis) > 0).all()
        assert np.abs(axis - np.arange(64)).max() <= 0.5 * 0.5 * 63 / 7 + 1e-4  # 8 knots: the widest cells
    assert np.abs(augment.distortion_axis(rng(), 64, 0.5) - np.arange(64)).max() > 0.3


def test_strength_zero_is_the_identity(picture):
    np.testing.assert_allclose(augment.distort(rng(), picture, 0.0), picture, atol=1e-5)
    np.testing.assert_array_equal(augment.rescale(picture, 1.0), picture)
    np.testing.assert_allclose(augment.colour(rng(), picture, 0.0), picture, atol=2e-3)


def test_distortion_moves_mask_and_picture_together(picture):
    both = np.concatenate([picture, picture[..., :1]], axis=2)
    moved = augment.distort(rng(), both, 0.5)
    np.testing.assert_array_equal(moved[..., 0], moved[..., 3])
    assert np.abs(moved - both).max() > 0.05


def test_rescale_takes_fine_detail_away():
    checker = np.indices((32, 32)).sum(axis=0)[..., None].repeat(3, 2) % 2
    assert augment.rescale(checker.astype(np.float32), 0.5).std() < 0.05 < checker.std()


def test_view_0_always_stays_and_every_count_occurs(make_config):
    config = make_config(augment={"drop": 1}).augment
    kept = np.array([augment.kept_views(rng(seed), 4, config) for seed in range(400)])
    assert kept[:, 0].all()
    counts = np.bincount(kept.sum(axis=1), minlength=5)
    assert counts[0] == 0 and (np.abs(counts[1:] - 100) < 40).all()
    assert (np.abs(kept[:, 1:].mean(axis=0) - 0.5) < 0.1).all()  # no view is favoured


def test_shapes_and_ranges(make_config, make_sample):
    config = make_config(targets=2)
    item = prepare(make_sample(), config, rng(), training=False)
    shapes = {name: value.shape for name, value in item.items()}
    assert shapes == dict(
        targets=(2, 3, 16, 16), conditions=(4, 3, 16, 16), present=(4,), noise_level=(4,), code=(6, 10), ids=(8,)
    )
    assert item["targets"].dtype == item["conditions"].dtype == item["code"].dtype == np.float32
    assert item["targets"].max() == 1 and item["targets"].min() >= -1
    assert item["present"].all() and not item["noise_level"].any()


def test_conditions_are_the_layout_in_order_and_targets_are_not(make_config, make_sample):
    sample = make_sample()
    item = prepare(sample, make_config(targets=3), rng(), training=False)
    for c in range(4):
        shown = sample[f"rgba_{3 + c:03d}.png"].astype(np.float32) / 255
        np.testing.assert_allclose(
            (item["conditions"][c] + 1) / 2, augment.over(shown, 1.0).transpose(2, 0, 1), atol=1e-6
        )
    relative = np.degrees(np.arctan2(item["code"][3:, 5], item["code"][3:, 8]))
    np.testing.assert_allclose(relative % 360, [0, 90, 180, 270], atol=1e-4)
    elevations = sorted(np.degrees(np.arcsin(item["code"][:3, 4])))
    np.testing.assert_allclose(elevations, sorted(v["elev"] for v in sample["camera.json"]["views"][:3]), atol=1e-3)


def test_both_layouts_share_one_shape(make_config, make_sample):
    config, sample = make_config(layout="both"), make_sample()
    items = [prepare(sample, config, rng(seed), training=False) for seed in range(12)]
    counts = {int(item["present"].sum()) for item in items}
    assert counts == {4, 6}
    for item in items:
        assert item["conditions"].shape == (6, 3, 16, 16) and item["code"].shape == (7, 10)
        assert not item["conditions"][~item["present"]].any()


def test_same_draws_same_item(make_config, make_sample):
    config = make_config(augment=ALL_ON, targets=2)
    first, second, other = (prepare(make_sample(), config, rng(seed), True) for seed in (5, 5, 6))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(first["conditions"], other["conditions"])


def test_no_augmentation_is_the_clean_item(make_config, make_sample):
    """With every probability 0 training shows what validation shows; validation ignores the probabilities."""
    clean = prepare(make_sample(), make_config(layout="zero123pp6"), rng(3), training=False)
    on = make_config(layout="zero123pp6", augment=ALL_ON)
    np.testing.assert_array_equal(prepare(make_sample(), on, rng(3), False)["conditions"], clean["conditions"])
    off = prepare(make_sample(), make_config(layout="zero123pp6"), rng(3), training=True)
    np.testing.assert_array_equal(off["conditions"], clean["conditions"])
    conditions = off["code"][1:]
    np.testing.assert_array_equal(conditions, clean["code"][1:])


def test_labels_say_what_was_done(make_config, make_sample):
    item = prepare(make_sample(), make_config(augment=ALL_ON), rng(), True)
    code = item["code"]
    np.testing.assert_array_equal(code[:2, 2:4], 0)  # target and condition view 0
    assert item["noise_level"][0] == 0 and (item["noise_level"][1:] > 0).all()
    np.testing.assert_array_equal(code[1:, 2], item["noise_level"])
    assert (code[2:, 3] > 0).all() and (code[2:, 3] <= 0.5).all()
    scaled = prepare(make_sample(), make_config(augment=ALL_ON, raw_noise_label=False), rng(), True)
    np.testing.assert_allclose(scaled["code"][:, 2] * 500, code[:, 2], rtol=1e-6)


def test_jitter_turns_the_code_and_not_the_picture(make_config, make_sample):
    clean = prepare(make_sample(), make_config(), rng(), False)
    item = prepare(make_sample(), make_config(augment={"jitter": 1}), rng(), True)
    np.testing.assert_array_equal(item["conditions"], clean["conditions"])
    azimuth = np.degrees(np.arctan2(item["code"][1:, 5], item["code"][1:, 8])) % 360 - [0, 90, 180, 270]
    elevation = np.degrees(np.arcsin(item["code"][1:, 4]))
    assert azimuth[0] == 0 and elevation[0] == 0
    assert (elevation[1:] != 0).all() and np.abs(elevation).max() <= 5 and 0 < np.abs(azimuth).max() <= 5.1


def test_one_flat_background_for_all_frames(make_config, make_sample):
    config = make_config(augment={"gray_background": 1}, targets=2)
    item = prepare(make_sample(), config, rng(), True)
    corners = np.concatenate([item["targets"], item["conditions"]])[:, :, 0, 0]
    assert np.unique(corners).size == 1 and -1 <= corners[0, 0] < 1


def test_pictures_of_another_size_are_averaged_by_coverage(make_config, make_sample):
    sample = make_sample(size=32)
    opaque = sample["rgba_003.png"]
    opaque[opaque[..., 3] == 0, :3] = [255, 0, 0]  # colour where nothing is: it must not bleed
    item = prepare(sample, make_config(), rng(), False)
    expected = augment.over(opaque.astype(np.float32) / 255, 1.0).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose((item["conditions"][0] + 1) / 2, expected.transpose(2, 0, 1), atol=1e-5)


def test_wrong_convention_is_refused(make_config, make_sample):
    sample = make_sample()
    for view in sample["camera.json"]["views"]:  # y-up cameras under a label that says z-up
        view["c2w"] = (np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]) @ view["c2w"]).tolist()
    with pytest.raises(SampleError, match="object0: camera.json view 0 says elev .* z up"):
        prepare(sample, make_config(), rng(), True)
    sample["camera.json"]["up"] = "y"
    with pytest.raises(SampleError, match="up 'y'.*expected 'opengl' and 'z'"):
        prepare(sample, make_config(), rng(), True)


def test_too_few_views_are_refused(make_config, make_sample):
    sample = make_sample()
    with pytest.raises(SampleError, match="3 views outside the condition layouts, system.targets=4"):
        prepare(sample, make_config(targets=4), rng(), True)
    sample["camera.json"]["views"][4]["layout"] = "other"
    with pytest.raises(SampleError, match="3 views of layout 'instant3d4', expected 4"):
        prepare(sample, make_config(), rng(), True)
