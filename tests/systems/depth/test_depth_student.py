"""The student: what it sees, what it is taught, and that neither depends on how a batch is cut."""

import numpy as np
import pytest
import torch

from tests.systems.depth.test_depth_module import PERTURB
from vstrain.config.problems import InputError
from vstrain.data.keyed import rng
from vstrain.data.kinds import SampleError
from vstrain.nn.frozen import Frozen
from vstrain.systems.depth import student
from vstrain.systems.depth.objective import alignment_loss, cutmix_loss, depth_loss, silog_loss
from vstrain.systems.depth.prepare import prepare

STUDENT = {"ratio": (1, 2), "labelled_weight": 0.25, "pseudo_weight": 0.5, "alignment": None, "teacher": None}
ALIGNMENT = {"weight": 0.7, "margin": 0.85, "size": "tiny", "init": "random"}
MIX = PERTURB | {"which": "pseudo", "cutmix": 1.0}


@pytest.fixture
def mixed_batch(scene_batch):
    """Twelve rows, pseudo labelled like a mixture 1:2: two, one true, two, one true, …"""
    batch = scene_batch(count=12)
    batch["pseudo"] = torch.tensor([True, False, True] * 4)
    batch["valid"][:, :9] = False
    batch["valid"][4] = True
    return batch


# ---- objectives ----------------------------------------------------------------------------------------------------------


def test_drop_leaves_out_the_largest_tenth_of_each_picture():
    """Residuals 0 … 9 against a target of zeros: mae of the smallest nine is 4, of all ten 4.5."""
    prediction = torch.arange(10.0).reshape(1, 2, 5).repeat(2, 1, 1)
    target, valid = torch.zeros(2, 2, 5), torch.ones(2, 2, 5, dtype=torch.bool)
    from vstrain.systems.depth.objective import residual_cost

    cost = residual_cost(prediction - target, valid, "mae", torch.tensor([0.1, 0.0]))
    assert cost.tolist() == [4.0, 4.5]
    assert residual_cost(prediction, valid, "mse", torch.tensor([0.1, 0.0])).tolist() == pytest.approx(
        [204 / 18, 285 / 20]
    )
    valid[0, 0, :] = False  # 5 … 9 are left, the 90th percentile is 8.6
    assert residual_cost(prediction, valid, "mae", torch.tensor([0.1, 0.1]))[0] == 6.5


def test_drop_equals_the_percentile_recipe():
    torch.manual_seed(0)
    prediction, target = torch.rand(2, 3, 40, 50)
    valid = torch.rand(3, 40, 50) < 0.8
    cost, gradient = depth_loss(prediction, target, valid, "median_mad", "mae", torch.full((3,), 0.1))
    for i in range(3):
        p, d = (x[i][valid[i]].double().numpy() for x in (prediction, target))
        ends = [(x - np.sort(x)[(len(x) - 1) // 2]) for x in (p, d)]
        residual = np.abs(ends[0] / np.abs(ends[0]).mean() - ends[1] / np.abs(ends[1]).mean())
        assert cost[i].item() == pytest.approx(residual[residual < np.percentile(residual, 90)].mean(), rel=1e-5)
    assert torch.equal(gradient, depth_loss(prediction, target, valid, "median_mad", "mae")[1])


def test_a_dropped_outlier_has_no_gradient_in_the_residual_term():
    torch.manual_seed(1)
    target = torch.rand(1, 10, 10)
    prediction = (target + 0.01 * torch.rand(1, 10, 10)).requires_grad_()
    from vstrain.systems.depth.objective import residual_cost

    spoiled = torch.zeros(1, 10, 10)
    spoiled[0, 3, 3] = 5
    cost = residual_cost(
        prediction - target + spoiled, torch.ones(1, 10, 10, dtype=torch.bool), "mae", torch.tensor([0.1])
    )
    cost.sum().backward()
    assert prediction.grad[0, 3, 3] == 0 and (prediction.grad != 0).sum() == 90


def halves(seed=2):
    torch.manual_seed(seed)
    prediction, target, other = torch.rand(3, 1, 24, 24)
    box = torch.zeros(1, 24, 24, dtype=torch.bool)
    box[:, 4:16, 8:20] = True
    return prediction, target, other, torch.ones_like(box), box


def test_cutmix_identities():
    prediction, target, other, valid, box = halves()
    words = ("median_mad", "mae")
    none, full = torch.zeros_like(box), torch.ones_like(box)
    for area, expected in (
        (none, depth_loss(prediction, target, valid, *words)),
        (full, depth_loss(prediction, other, valid, *words)),
    ):
        for found, wanted in zip(
            cutmix_loss(prediction, target, valid, (other, valid), area, *words), expected, strict=True
        ):
            torch.testing.assert_close(found, wanted)
    mixed = torch.where(box, other, target)
    found = cutmix_loss(prediction, target, valid, (other, valid), box, *words)
    share = box.float().mean()
    for k in range(2):
        inside = depth_loss(prediction, mixed, box, *words)[k]
        outside = depth_loss(prediction, mixed, ~box, *words)[k]
        torch.testing.assert_close(found[k], share * inside + (1 - share) * outside)


def test_cutmix_keeps_statistics_apart_and_no_gradient_crosses_the_border():
    """Each side is an affine copy of its own target, by another scale and shift: nothing to pay. One set of statistics for the
    whole picture (the planted mistake) costs much."""
    _, target, other, valid, box = halves()
    prediction = torch.where(box, 5 * other - 1, 0.2 * target + 3)
    found = cutmix_loss(prediction, target, valid, (other, valid), box, "median_mad", "mae")
    assert max(term.item() for term in found) < 1e-5
    wrong = depth_loss(prediction, torch.where(box, other, target), valid, "median_mad", "mae")
    assert min(term.item() for term in wrong) > 0.1


def test_silog_closed_forms():
    depth, valid = torch.rand(2, 6, 7) + 0.5, torch.ones(2, 6, 7, dtype=torch.bool)
    factor = torch.tensor([2.0, 0.25])[:, None, None]
    # a constant factor c: g = -ln c everywhere, sqrt((1 - balance) g^2)
    found = silog_loss(depth * factor, depth, valid, 0.5)
    torch.testing.assert_close(found, (0.5**0.5) * torch.log(factor.flatten()).abs())
    assert silog_loss(depth * factor, depth, valid, 1.0).max() < 2e-3
    valid[1] = False
    prediction = (depth * factor).requires_grad_()
    loss = silog_loss(prediction, torch.where(valid, depth, torch.inf), valid, 0.5)
    loss.sum().backward()
    assert loss[1] == 0 and prediction.grad.isfinite().all() and (prediction.grad[1] == 0).all()
    g = torch.log(depth[0].double()) - torch.log((depth[0] ** 1.5).double())
    expected = ((g**2).mean() - 0.5 * g.mean() ** 2).sqrt()
    torch.testing.assert_close(
        silog_loss(depth[:1] ** 1.5, depth[:1], valid[:1], 0.5)[0].double(), expected, rtol=1e-5, atol=0
    )


def test_alignment_is_a_test_of_each_patch():
    """Cosines 1, 0.9, 0.5, 0: with a margin of 0.85 the mean runs over the last two. A test on the mean (0.6) would keep all."""
    cosines = torch.tensor([1.0, 0.9, 0.5, 0.0])
    features = torch.stack([cosines, (1 - cosines**2).sqrt()], 1)[None]
    reference = torch.tensor([1.0, 0.0]).expand(1, 4, 2)
    assert alignment_loss(features, 3 * reference, 0.85).item() == pytest.approx((0.5 + 1.0) / 2)
    assert alignment_loss(features, reference, 1.0).item() == pytest.approx(1 - 2.4 / 4)
    assert alignment_loss(reference, reference, 0.85).item() == 0
    moving = features.clone().requires_grad_()
    alignment_loss(moving, reference, 0.85).sum().backward()
    assert (moving.grad[0, :2] == 0).all() and (moving.grad[0, 2:] != 0).any()


# ---- what it sees --------------------------------------------------------------------------------------------------------


def test_partners_are_neighbours_among_the_chosen():
    chosen = torch.tensor([True, False, True, True, False, True, True])
    assert student.partners(chosen).tolist() == [2, 1, 0, 5, 4, 3, 6]
    assert student.partners(torch.zeros(3, dtype=torch.bool)).tolist() == [0, 1, 2]


def test_the_view_is_cut_like_the_batch(make_config, mixed_batch):
    """Twelve rows at once, or in micro-batches of six or three: the same pictures, boxes and partners."""
    config = make_config(perturb=MIX).perturb
    whole = student.view(config, mixed_batch)
    for size in (3, 6):
        for start in range(0, 12, size):
            part = student.view(config, {name: value[start : start + size] for name, value in mixed_batch.items()})
            rows = slice(start, start + size)
            torch.testing.assert_close(part.pixels, whole.pixels[rows])
            assert torch.equal(part.box, whole.box[rows]) and torch.equal(part.other + start, whole.other[rows])


def test_true_labels_are_seen_unperturbed_and_boxes_hold_the_partner(make_config, mixed_batch):
    clean = student.view(None, mixed_batch).pixels
    boxes = make_config(perturb=MIX | {"jitter": 0.0, "blur": 0.0}).perturb
    mixed = student.view(boxes, mixed_batch)
    labelled = ~mixed_batch["pseudo"]
    assert not mixed.box[labelled].any() and mixed.box[~labelled].any((1, 2)).all()
    expected = torch.where(mixed.box[:, None], clean[mixed.other], clean)
    torch.testing.assert_close(mixed.pixels, expected)
    strong = student.view(make_config(perturb=MIX).perturb, mixed_batch).pixels
    assert torch.equal(strong[labelled], clean[labelled]) and not torch.allclose(strong[~labelled], clean[~labelled])


# ---- the objective of the system -----------------------------------------------------------------------------------------


def make_student(make_system, **keys):
    return make_system(perturb=MIX, **({"student": STUDENT} | keys))


@pytest.mark.parametrize("alignment", [None, ALIGNMENT])
def test_the_loss_is_the_mean_over_micro_batches(make_system, mixed_batch, alignment):
    """What makes accumulation and data parallel ranks exact: losses and gradients of equal shares average to the whole."""
    system = make_student(make_system, student=STUDENT | {"alignment": alignment})

    def gradients(parts):
        system.zero_grad()
        losses = [system.objective({k: v[part] for k, v in mixed_batch.items()}).loss / len(parts) for part in parts]
        sum(losses).backward()
        return sum(losses).item(), [p.grad.clone() for p in system.parameters() if p.grad is not None]

    whole = gradients([slice(0, 12)])
    for size in (3, 6):
        parts = gradients([slice(start, start + size) for start in range(0, 12, size)])
        assert parts[0] == pytest.approx(whole[0], rel=1e-5)
        for found, expected in zip(parts[1], whole[1], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_the_loss_is_the_stated_sum(make_system, mixed_batch):
    system = make_student(make_system, student=STUDENT | {"alignment": ALIGNMENT})
    loss, metrics = system.objective(mixed_batch)
    expected = 0.25 * metrics["labelled"] + 0.5 * metrics["pseudo"] + 0.7 * metrics["feature"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and metrics["feature"] > 0.05


def test_another_ratio_is_refused(make_system, mixed_batch):
    system = make_student(make_system)
    with pytest.raises(InputError, match=r"ratio=\[1, 2\].*1 labelled and 3.*multiple of 3"):
        system.objective(
            {
                name: value[:1].repeat_interleave(4, 0) | (value[2:6] if value.dtype == torch.bool else 0)
                if name == "pseudo"
                else value[2:6]
                for name, value in mixed_batch.items()
            }
            | {"pseudo": torch.tensor([True, False, True, True])}
        )


def test_every_trained_parameter_gets_a_gradient(make_system, mixed_batch):
    """Plain DDP waits for every one. With another width the projection is trained as well."""
    for size in ("tiny", "vits"):
        system = make_student(make_system, student=STUDENT | {"alignment": ALIGNMENT | {"size": size}})
        system.objective(mixed_batch).loss.backward()
        missing = [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        grouped = sum(p.numel() for group in system.param_groups() for p in group.params)
        assert grouped == sum(p.numel() for p in system.parameters() if p.requires_grad)
    assert any(name.startswith("project.") for name, _ in system.named_parameters())


def test_helpers_are_no_part_of_the_model(make_system):
    plain, helped = make_system(), make_student(make_system, student=STUDENT | {"alignment": ALIGNMENT})
    assert plain.state_dict().keys() == helped.state_dict().keys()
    assert len(list(plain.parameters())) == len(list(helped.parameters()))
    frozen = Frozen(torch.nn.Linear(2, 2)).to(torch.float64)
    assert frozen.net.weight.dtype == torch.float64 and not frozen.net.weight.requires_grad and not frozen.state_dict()


# ---- a teacher in the loop ----------------------------------------------------------------------------------------------


def test_online_targets_are_the_teachers_clean_unmirrored_predictions(make_system, mixed_batch):
    teacher = make_system(seed=5).eval()
    mixed_batch["flipped"] = torch.arange(12) % 4 < 2
    taught = student.taught(teacher.net, mixed_batch)
    rows = mixed_batch["pseudo"]
    assert torch.equal(taught["disparity"][~rows], mixed_batch["disparity"][~rows])
    assert taught["valid"][rows].all() and torch.equal(taught["valid"][~rows], mixed_batch["valid"][~rows])
    for i in torch.nonzero(rows).flatten().tolist():
        image = mixed_batch["image"][i]
        upright = image.flip(1) if mixed_batch["flipped"][i] else image
        with torch.no_grad():
            label = teacher(upright[None])[0]
        label = label.flip(1) if mixed_batch["flipped"][i] else label
        low, high = taught["span"][i]
        torch.testing.assert_close(taught["disparity"][i] * (high - low) + low, label, rtol=1e-4, atol=1e-5)
        assert taught["disparity"][i].min() == 0 and taught["disparity"][i].max() == 1


# ---- stored labels ------------------------------------------------------------------------------------------------------


def labelled(height=70, width=98, side=(56, 84), **facts):
    """A picture whose red and green channels ramp, and a label of the teacher's size that ramps alike, 0 included."""
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.rint(255 * x), np.rint(255 * y)[:, None]
    label = np.tile(np.linspace(0, 1, side[1], dtype=np.float16), (side[0], 1))
    return {"__key__": "s", "png": image, "depth.pco": label, "json": {"unit": "disparity", "label": "pseudo"} | facts}


@pytest.mark.parametrize("size", [(70, 98), (35, 49), (140, 200)])
@pytest.mark.parametrize("training", [True, False])
def test_a_label_of_another_size_moves_with_its_picture(make_config, size, training):
    config = make_config(image_size=56, flip=0.5)
    for seed in range(6):
        item = prepare(labelled(*size), config, rng(seed, "prepare"), training)
        assert item["pseudo"] and item["valid"].all() and item["image"].shape == (56, 56, 3)
        low, high = item["span"]
        column = (item["disparity"] * (high - low) + low)[28]
        np.testing.assert_allclose(item["image"][28, 3:-3, 0] / 255, column[3:-3], atol=0.02)


def test_zero_is_a_label_of_a_teacher_and_nothing_measured_elsewhere(make_config):
    item = prepare(labelled(side=(70, 98)), make_config(), rng(0, "prepare"), training=False)
    assert item["valid"].all()
    measured = labelled(side=(70, 98))
    measured["json"] = {"unit": "disparity"}
    measured["depth.pco"] = measured["depth.pco"].copy()
    measured["depth.pco"][:, 40:60] = 0
    item = prepare(measured, make_config(), rng(0, "prepare"), training=False)
    assert not item["valid"].all() and not item["pseudo"]


def test_an_unlabelled_picture_needs_no_depth(make_config):
    class Unlabelled(dict):
        role = "unlabelled"

    sample = Unlabelled(labelled())
    del sample["depth.pco"], sample["json"]
    item = prepare(sample, make_config(), rng(0, "prepare"), training=True)
    assert item["pseudo"] and not item["valid"].any()
    with_label = prepare(labelled(side=(70, 98)), make_config(), rng(0, "prepare"), training=True)
    assert np.array_equal(item["image"], with_label["image"])


def test_roles_are_checked_before_a_run(make_config):
    teaching = make_config(student=STUDENT | {"teacher": "runs/x"})
    assert teaching.members("unlabelled") == ["jpg|png|webp"] and teaching.members(None) is None
    with pytest.raises(ValueError, match="needs system.student.teacher"):
        make_config(student=STUDENT).members("unlabelled")
    with pytest.raises(ValueError, match="role=other"):
        teaching.members("other")


def test_sky_masks_follow_the_policy(make_config):
    """A known sky pixel is infinitely far where the data set says nothing itself, and only under sky=far."""
    sample = labelled(side=(70, 98))
    depth = np.full((70, 98), 2.0, np.float32)
    depth[:, 90:] = 4
    depth[:20] = 0
    sky = np.zeros((70, 98), np.uint8)
    sky[:30] = 255  # ten rows of it have a depth of their own
    sample |= {"depth.pco": depth, "sky.png": sky, "json": {"unit": "depth"}}
    far = prepare(sample, make_config(sky="far"), rng(0, "prepare"), training=False)
    assert far["valid"].all() and (far["disparity"][:16] == 0).all() and (far["disparity"][20:] > 0.4).all()
    ignored = prepare(sample, make_config(sky="ignore"), rng(0, "prepare"), training=False)
    assert not ignored["valid"][:16].any() and ignored["valid"][17:].all()


# ---- metres -------------------------------------------------------------------------------------------------------------


def test_metric_training_learns_metres_and_a_camera_scales_them(make_system, scene_batch):
    system, batch = make_system(output="metric", max_depth=20, sky="ignore"), scene_batch()
    assert set(system.objective(batch).metrics) == {"silog"}
    with torch.no_grad():
        assert system(batch["image"]).min() > 0 and system(batch["image"]).max() < 20
    camera = make_system(output="metric", max_depth=20, sky="ignore", camera=2.0)
    with torch.no_grad():
        near, far = (camera(batch["image"], torch.full((8,), focal)) for focal in (1.0, 3.0))
    torch.testing.assert_close(far, 3 * near)
    torch.testing.assert_close(near, system(batch["image"]) / 2)


def test_labels_without_metres_are_refused_for_metric_depth(make_config):
    config = make_config(output="metric", max_depth=20)
    for facts in ({"unit": "disparity"}, {"unit": "depth", "metric": False}):
        sample = labelled(side=(70, 98)) | {"json": facts}
        with pytest.raises(SampleError, match="no metres"):
            prepare(sample, config, rng(0, "prepare"), training=True)
        prepare(sample, make_config(), rng(0, "prepare"), training=True)


def test_metric_scores_forgive_no_scale(make_system, scene_batch):
    system, batch = make_system(output="metric", max_depth=20), scene_batch()
    low, high = batch["span"].unbind(1)
    truth = 1 / (low[:, None, None] + batch["disparity"] * (high - low)[:, None, None])
    for factor in (1.0, 1.1):
        disparity, true, counted = system.fitted(factor * truth, batch)
        error = ((true / disparity - 1).abs() * counted).mean().item()
        assert error == pytest.approx(factor - 1, abs=1e-5)


@pytest.mark.parametrize(("facts", "expected"), [({"focal": 140.0}, 2.0), ({"fovy": 90.0}, 0.5)])
def test_the_focal_length_is_in_sides_of_the_item(make_config, facts, expected):
    """A 70 x 98 picture, from which a square of 70 is cut: 140 pixels are two sides; 90 degrees over 70 rows are half a side."""
    sample = labelled(side=(70, 98))
    sample["json"] = {"unit": "depth"} | facts
    sample["depth.pco"] = sample["depth.pco"].astype(np.float32) + 1
    config = make_config(output="metric", max_depth=20, camera=1.0)
    assert prepare(sample, config, rng(0, "prepare"), training=False)["focal"] == pytest.approx(expected)
