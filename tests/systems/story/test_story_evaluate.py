import numpy as np
import pytest
import torch

from vstrain.systems.story.image.evaluate import agreement, report
from vstrain.systems.story.image.module import System
from vstrain.systems.story.image.prepare import prepare
from vstrain.systems.story.motion.evaluate import baselines, psnr


def painted(values) -> torch.Tensor:
    """Stories of one-coloured pictures: values (S, K, 3)."""
    return torch.tensor(values).reshape(*np.shape(values), 1, 1).expand(-1, -1, -1, 12, 12)


def test_agreement_of_known_stories():
    red, blue = [0.9, -0.9, -0.9], [-0.9, -0.9, 0.9]
    assert agreement(painted([[red, red], [blue, blue]])) == (1.0, 0.0)
    assert agreement(painted([[red, blue], [red, blue]])) == (0.0, 0.5)
    half = painted([[red, red], [red, red]]).clone()
    half[0, 0, :, :, :6] = torch.tensor(blue)[:, None, None]
    assert agreement(half)[0] == pytest.approx(0.75)  # one of the two pairs overlaps by half


def test_report_counts_the_data_as_it_is(make_config, make_batch):
    torch.manual_seed(0)
    system = System(make_config("story_image"))
    system.configure_model()
    result = report(system.eval(), [], [make_batch(prepare, system.config)])
    expected = agreement(make_batch(prepare, system.config)["images"].float() / 127.5 - 1)
    assert (result.metrics["data/within"], result.metrics["data/across"]) == pytest.approx(expected)
    assert set(result.metrics) == {f"{n}/{kind}" for n in ("data", "alone", "shared") for kind in ("within", "across")}
    assert len(result.text.splitlines()) == 5


def test_motion_baselines_in_closed_form():
    clip = torch.linspace(-1, 1, 5).reshape(1, 5, 1, 1, 1).expand(1, 5, 3, 2, 2)
    made = baselines(clip)
    torch.testing.assert_close(made["cross_fade"], clip)
    assert made["nearest_end"][0, :, 0, 0, 0].tolist() == [-1, -1, -1, 1, 1]
    assert psnr(clip + 0.2, clip) == pytest.approx(20.0)
    worse_ends = clip.clone()
    worse_ends[:, [0, -1]] += 1  # not counted
    assert psnr(worse_ends + 0.2, clip) == pytest.approx(20.0)
