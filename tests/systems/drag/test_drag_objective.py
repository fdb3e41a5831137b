"""The loss, picture ranges, and what evaluate promises."""

import pytest
import torch

from vstrain.data import keyed
from vstrain.systems.drag.objective import denoising_loss, kept, to_bytes, to_unit


def test_loss_is_the_weighted_mean_by_hand():
    generator = torch.Generator().manual_seed(0)
    answer, wanted = torch.randn(2, 3, 4, 4, 5, generator=generator)
    mask = (torch.rand(3, 1, 4, 5, generator=generator) < 0.5).float()
    weight = torch.tensor([1.0, 0.5, 8.0])
    loss = denoising_loss(answer, wanted, weight, mask, 3.0)
    for b in range(3):
        total = shares = 0.0
        for y in range(4):
            for x in range(5):
                share = 3.0 if mask[b, 0, y, x] else 1.0
                shares += share * 4
                total += share * sum((float(answer[b, c, y, x]) - float(wanted[b, c, y, x])) ** 2 for c in range(4))
        assert loss[b].item() == pytest.approx(float(weight[b]) * total / shares, rel=1e-5)


def test_mask_weight_one_is_the_plain_mean_squared_error():
    answer, wanted = torch.randn(2, 3, 4, 4, 5, generator=torch.Generator().manual_seed(1))
    loss = denoising_loss(answer, wanted, torch.ones(3), torch.ones(3, 1, 4, 5), 1.0)
    torch.testing.assert_close(loss.mean(), torch.nn.functional.mse_loss(answer, wanted))


def test_bytes_survive_the_model_range():
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    unit = to_unit(bytes_)
    assert unit.shape == (1, 3, 16, 16) and unit.min() == -1 and unit.max() == 1
    assert torch.equal(to_bytes(unit), bytes_)
    bright = to_unit(torch.full((1, 2, 2, 3), 250, dtype=torch.uint8))  # no guess from the picture's minimum
    assert bright.min() > 0.9
    assert torch.equal(
        to_bytes(torch.full((1, 3, 1, 1), 0.5 / 127.5 * 1.02)), torch.full((1, 1, 1, 3), 128, dtype=torch.uint8)
    )
    assert to_bytes(torch.tensor([-1.7, 1.7, 0.0]).view(1, 3, 1, 1)).flatten().tolist() == [0, 255, 128]


def test_conditions_are_dropped_as_often_as_said():
    draws = keyed.uniform(torch.arange(4000), "point_drop")
    assert 0.08 < (~kept(draws, 0.1)).float().mean() < 0.12
    assert kept(draws, 0.0).all() and not kept(draws, 1.0).any()


def test_loss_is_the_mean_of_samples_whatever_the_batch(make_system, make_batch, randomise_projections):
    """Equal shares of ranks average exactly: one sample's loss does not know the others."""
    system, batch = make_system(), make_batch(count=4)
    randomise_projections(system)
    whole = system.objective(batch).loss
    parts = [system.objective({k: v[i : i + 1] for k, v in batch.items()}).loss for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(parts).mean(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_evaluate_compares_under_one_noise(make_system, make_batch, randomise_projections):
    system, batch = make_system().eval(), make_batch(count=4)
    untrained = system.evaluate(batch)
    assert torch.equal(untrained["loss"], untrained["loss_shuffled"]) and (untrained["point_gain"] == 0).all()
    randomise_projections(system)
    values = system.evaluate(batch)
    assert all(value.shape == (4,) for value in values.values())
    assert not torch.equal(values["loss"], values["loss_shuffled"]) and (values["point_gain"] != 0).all()
    other = system.evaluate(batch | {"maps": batch["maps"].roll(1, 0)})
    torch.testing.assert_close(other["loss"], values["loss_shuffled"])
    nothing = system.evaluate(batch | {"maps": torch.zeros_like(batch["maps"])})  # LayerNorm's bias is still zero
    torch.testing.assert_close(nothing["loss"], values["loss"] + values["point_gain"])


def test_norms_and_biases_are_not_decayed(make_system):
    weights, norms = make_system().param_groups()
    assert weights.weight_decay is None and norms.weight_decay == 0
    assert all(p.ndim > 1 for p in weights.params) and all(p.ndim == 1 for p in norms.params)
    trained = sum(p.requires_grad for p in make_system().parameters())
    assert len(weights.params) + len(norms.params) == trained


def test_a_few_steps_learn_to_follow_the_points(make_system, make_batch):
    """Overfit two samples that differ in their targets alone: only the points tell which is which."""
    system = make_system(point_drop=0.0, codec={"scale": 0.5}, diffusion={"prediction": "sample"})
    two = make_batch(count=2)
    two["source"][1], two["mask"][:], two["maps"][1, 0] = two["source"][0], True, two["maps"][0, 0]
    batch = {name: tensor.repeat(4, *[1] * (tensor.ndim - 1)) for name, tensor in two.items()}
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], 5e-3)
    for step in range(60):
        optimizer.zero_grad()
        system.objective(batch | {"key": torch.arange(8) + 8 * step}).loss.backward()
        optimizer.step()
    with torch.no_grad():
        values = [system.eval().evaluate(batch | {"key": torch.arange(8) + 10_000 + 8 * i}) for i in range(2)]
    loss, shuffled = (torch.stack([v[name] for v in values]).mean() for name in ("loss", "loss_shuffled"))
    assert loss < 0.4 * shuffled, (loss, shuffled)
