"""The system as the engine sees it."""

import pytest
import torch
from pydantic import ValidationError

from vstrain.systems.depth.objective import depth_loss
from vstrain.systems.depth.pictures import colour
from vstrain.systems.depth.student import view

PERTURB = {
    "which": "all",
    "jitter": 1.0,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.2,
    "blur": 1.0,
    "sigma": (0.5, 2.0),
    "cutmix": 0.0,
    "area": (0.02, 0.4),
    "aspect": 3.3,
}


def test_objective_is_the_stated_sum(make_system, scene_batch):
    system, batch = make_system(), scene_batch()
    loss, metrics = system.objective(batch)
    terms = depth_loss(system(batch["image"]), batch["disparity"], batch["valid"], "median_mad", "mae")
    assert torch.equal(metrics["residual"], terms[0].mean()) and torch.equal(metrics["gradient"], terms[1].mean())
    assert loss.item() == pytest.approx((terms[0].mean() + 2 * terms[1].mean()).item(), rel=1e-6)


def test_loss_is_the_mean_of_equal_shares(make_system, scene_batch):
    system, batch = make_system(), scene_batch()
    batch["valid"][0] = False  # a share with an empty picture must not weigh differently
    whole = system.objective(batch).loss
    halves = [system.objective({k: v[part] for k, v in batch.items()}).loss for part in (slice(0, 4), slice(4, 8))]
    assert whole.item() == pytest.approx((sum(halves) / 2).item(), rel=1e-5)


def test_perturbing_belongs_to_the_sample_and_to_training(make_system, scene_batch):
    """A picture is changed in the same way alone and in any batch, by what its key draws; the numbers of evaluation are not."""
    plain, system, batch = make_system().eval(), make_system(perturb=PERTURB).eval(), scene_batch()

    def pixels(system, batch):
        return view(system.config.perturb, batch).pixels

    assert pixels(system, batch).shape == pixels(plain, batch).shape
    assert not torch.allclose(pixels(system, batch), pixels(plain, batch))
    backwards = {name: value.flip(0) for name, value in batch.items()}
    torch.testing.assert_close(pixels(system, backwards).flip(0), pixels(system, batch))
    assert not torch.allclose(pixels(system, batch | {"key": batch["key"] + 1}), pixels(system, batch))
    with torch.no_grad():
        for name, value in plain.evaluate(batch).items():
            assert torch.equal(system.evaluate(batch)[name], value), name
    off = make_system(perturb=PERTURB | {"jitter": 0.0, "blur": 0.0})
    torch.testing.assert_close(pixels(off, batch), pixels(plain, batch))


def test_evaluate_gives_the_training_loss_of_each_sample(make_system, scene_batch):
    system, batch = make_system().eval(), scene_batch()
    with torch.no_grad():
        scores = system.evaluate(batch)
        assert all(score.shape == (8,) and score.dtype == torch.float32 for score in scores.values())
        assert scores["loss"].mean().item() == pytest.approx(system.objective(batch).loss.item(), rel=1e-5)
        swapped = {**batch, "image": batch["image"].roll(1, 0)}
        torch.testing.assert_close(scores["loss_shuffled"], system.evaluate(swapped)["loss"])


def test_two_rates_cover_every_trainable_parameter_once(make_system):
    system = make_system(head_lr_scale=10)
    encoder, head = system.param_groups()
    assert (encoder.lr_scale, head.lr_scale) == (1, 10)
    ids = [id(p) for group in (encoder, head) for p in group.params]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in system.parameters() if p.requires_grad}
    assert {id(p) for p in encoder.params} <= {id(p) for p in system.net.backbone.parameters()}


def test_builds_on_the_meta_device_without_reading_a_checkpoint(make_config):
    from vstrain.systems.depth.module import System

    system = System(make_config(size="vitl", init="absent.pth"))
    with torch.device("meta"):
        system.configure_model()
    assert sum(p.numel() for p in system.parameters()) == 335_315_649


def test_config_refuses_what_does_not_exist(make_config):
    with pytest.raises(ValidationError, match="vitg exists in version v2 only"):
        make_config(size="vitg", version="v1")
    with pytest.raises(ValidationError, match="multiple of 14"):
        make_config(image_size=128)


def test_picture_shows_every_column(make_system, scene_batch):
    system, batch = make_system(pictures=3).eval(), scene_batch()
    batch["valid"][0, :28] = False
    with torch.no_grad():
        sheet = system.pictures(batch)["depth"]
    assert sheet.dtype.name == "uint8" and sheet.shape == (34 + 3 * 258, 4 * 258 + 6, 3)
    truth = sheet[34:286, 264:516]  # second column of the first row: its upper half is invalid and grey
    assert (truth[10:110, 10:240] == 128).all() and not (truth[140:, :] == 128).all()


def test_colour_runs_from_blue_to_red_through_every_anchor():
    import numpy as np

    ramp = colour(np.linspace(-0.5, 1.5, 401)[None])[0].astype(int)
    assert tuple(ramp[0]) == (0x5E, 0x4F, 0xA2) and tuple(ramp[-1]) == (0x9E, 0x01, 0x42)
    assert tuple(ramp[200]) == (0xFF, 0xFF, 0xBF) and np.abs(np.diff(ramp, axis=0)).max() < 12
