"""What training takes away and what it asks for (spec sections 4.2, 4.4, 6.1)."""

import pytest
import torch

from vstrain.data import keyed
from vstrain.systems.multiview.config import Dropout
from vstrain.systems.multiview.objective import Conditions, draw_null, nothing, null, shuffled, wrong_pose

NULL_IDS = torch.full((8,), 7)


@pytest.fixture
def conditions():
    torch.manual_seed(0)
    return Conditions(
        torch.arange(32).view(4, 8),
        torch.randn(4, 3, 2, 4, 4),
        torch.randn(4, 3, 5, 6),
        torch.rand(4, 3) < 0.7,
        torch.randn(4, 5, 10),
    )


def flags(*objects):
    return torch.tensor([i in objects for i in range(4)])


def test_null_takes_exactly_what_it_says(conditions):
    out = null(conditions, flags(0), flags(1), flags(2), NULL_IDS)
    text, pictures, everything = (torch.tensor(rows) for rows in ([0, 1], [0, 2], [0]))
    assert torch.equal(out.ids[text], NULL_IDS.expand(2, 8)) and torch.equal(out.ids[2:], conditions.ids[2:])
    assert not out.features[pictures].any() and torch.equal(out.features[[1, 3]], conditions.features[[1, 3]])
    assert not out.latents[everything].any() and torch.equal(out.latents[1:], conditions.latents[1:])
    assert not out.code[0, :, 2:4].any()  # labels
    poses = [0, 1, 4, 5, 6, 7, 8, 9]
    assert torch.equal(out.code[..., poses], conditions.code[..., poses])
    assert torch.equal(out.code[1:], conditions.code[1:]) and torch.equal(out.present, conditions.present)


def test_nothing_is_null_for_everybody(conditions):
    out = nothing(conditions, NULL_IDS)
    assert not out.latents.any() and not out.features.any() and not out.code[..., 2:4].any()
    assert torch.equal(out.ids, NULL_IDS.expand(4, 8)) and torch.equal(out.code[..., 4:], conditions.code[..., 4:])


def test_shares_of_null_exclude_each_other():
    u = (torch.arange(1000) + 0.5) / 1000
    drawn = torch.stack(draw_null(u, Dropout(everything=0.1, text=0.2, pictures=0.05)))
    assert drawn.sum(dim=1).tolist() == [100, 200, 50] and drawn.sum(dim=0).max() == 1
    assert not torch.stack(draw_null(u, Dropout(everything=0, text=0, pictures=0))).any()


def test_shuffled_and_wrong_pose(conditions):
    other = shuffled(conditions)
    for name, value in vars(conditions).items():
        assert torch.equal(getattr(other, name), value[[3, 0, 1, 2]])
    turned = wrong_pose(conditions)
    assert conditions.targets == 2
    assert torch.equal(turned.code[:, :2], conditions.code[[3, 0, 1, 2], :2])
    assert torch.equal(turned.code[:, 2:], conditions.code[:, 2:]) and torch.equal(turned.latents, conditions.latents)


def test_loss_ignores_the_output_of_condition_frames(make_config, make_system, make_batch):
    config = make_config(targets=2)
    system, batch = make_system(config), make_batch(config)
    clean = system.evaluate(batch)["loss"]
    rows = torch.arange(3 * 6).view(3, 6)[:, 2:].flatten()

    def spoil(module, inputs, output):
        return output.index_fill(0, rows, 1e3)

    hook = system.network.unet.conv_out.register_forward_hook(spoil)
    assert torch.equal(system.evaluate(batch)["loss"], clean)
    hook.remove()
    hook = system.network.unet.conv_out.register_forward_hook(lambda m, i, output: output.index_fill(0, rows - 1, 1e3))
    assert not torch.equal(system.evaluate(batch)["loss"], clean)  # the last target's row: the test can fail
    hook.remove()


def test_loss_is_the_mean_squared_error_of_the_noise(make_config, make_system, make_batch):
    """An independent computation of one object's loss: epsilon, uniform weight, one timestep and noise a target."""
    config = make_config(targets=2)
    system, batch = make_system(config), make_batch(config)
    conditions = system.conditions(batch)
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, dim=0)
    expected = torch.zeros(3, dtype=torch.float64)
    for b in range(3):
        one = conditions.map(lambda value, b=b: value[b : b + 1])
        for j in range(2):
            key = batch["key"][b : b + 1] + j
            noise, t = keyed.normal(key, (12, 8, 8), "noise"), keyed.integers(key, 0, 1000, "timestep")
            clean = torch.nn.functional.pixel_unshuffle(batch["targets"][b, j], 2)
            noisy = (abar[t].sqrt() * clean + (1 - abar[t]).sqrt() * noise).float()
            times = torch.zeros(1, 2, dtype=torch.long)
            times[0, j] = t
            padded = torch.zeros(1, 2, 12, 8, 8)
            padded[0, j] = noisy[0]
            with torch.no_grad():
                answer = system.network(padded, times, one, system.network.context(one))[0, j]
            expected[b] += (answer - noise[0]).double().square().mean() / 2
    torch.testing.assert_close(system.evaluate(batch)["loss"].double(), expected, rtol=1e-4, atol=1e-5)
