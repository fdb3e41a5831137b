"""The system as the engine sees it."""

import numpy as np
import torch

from vstrain.systems.multiview.cameras import pose_code


def test_condition_latents_carry_the_noise_that_their_labels_announce(make_config, make_system, make_batch):
    config = make_config(augment={"noise": 1})
    system, batch = make_system(config), make_batch(config, training=True)
    noisy = system.conditions(batch).latents
    clean = system.conditions({**batch, "noise_level": torch.zeros_like(batch["noise_level"])}).latents
    assert torch.equal(noisy[:, 0], clean[:, 0])  # view 0 is trusted
    assert torch.equal(batch["code"][:, 2:, 2].long(), batch["noise_level"][:, 1:])
    abar = system.schedule.alphas_cumprod[batch["noise_level"][:, 1:]][..., None, None, None]
    left = (noisy[:, 1:] - abar.sqrt() * clean[:, 1:]) / (1 - abar).sqrt()
    assert left.mean().abs() < 0.05 and (left.std() - 1).abs() < 0.05
    assert torch.equal(system.conditions(batch).latents, noisy)  # drawn from the batch's keys alone


def test_an_object_does_not_depend_on_its_neighbours(make_config, make_system, make_batch):
    config = make_config(targets=2, layout="both")
    system, batch = make_system(config), make_batch(config, count=4)
    together = system.evaluate(batch)["loss"]
    for b in (0, 3):
        one = {name: value[b : b + 1] for name, value in batch.items()}
        torch.testing.assert_close(system.evaluate(one)["loss"][0], together[b])


def test_objective_is_the_mean_over_objects(make_config, make_system, make_batch):
    config = make_config(targets=2, dropout=dict(everything=0, text=0, pictures=0))
    system, batch = make_system(config), make_batch(config, count=4)
    with torch.no_grad():
        torch.testing.assert_close(system.objective(batch).loss, system.evaluate(batch)["loss"].mean())
        halves = [system.objective({n: v[rows] for n, v in batch.items()}).loss for rows in (slice(2), slice(2, 4))]
    torch.testing.assert_close(system.objective(batch).loss.detach(), torch.stack(halves).mean())


def test_every_trainable_parameter_gets_a_gradient(make_config, make_system, make_batch):
    config = make_config()
    system, batch = make_system(config).train(), make_batch(config)
    system.objective(batch).loss.backward()
    assert not [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
    groups = {group.name: group for group in system.param_groups()}
    listed = [id(p) for group in groups.values() for p in group.params]
    assert sorted(listed) == sorted(id(p) for p in system.parameters() if p.requires_grad)
    names = {id(p): name for name, p in system.named_parameters()}
    new = {names[id(p)] for p in groups["new"].params}
    assert groups["new"].lr_scale == 10 and groups["base"].lr_scale == 1
    parts = ("unet.class_embedding", "resampler", "processor")
    assert new == {name for name in names.values() if any(part in name for part in parts)}


def test_sampling_depends_on_keys_and_conditions_alone(make_config, make_system, make_batch):
    config = make_config(targets=2)
    system, batch = make_system(config), make_batch(config)
    torch.manual_seed(1)
    first = system.sample(batch, system.conditions(batch))
    torch.manual_seed(2)
    assert torch.equal(system.sample(batch, system.conditions(batch)), first)
    assert first.shape == batch["targets"].shape and first.abs().max() <= 1
    other = system.sample({**batch, "key": batch["key"] + 50}, system.conditions(batch))
    assert not torch.allclose(other, first)
    picture = system.pictures(batch)["novel_views"]
    assert picture.dtype == np.uint8 and picture.ndim == 3


def test_guidance_scale_1_is_conditional_and_0_unconditional(make_config, make_system, make_batch):
    """Scale 0 must not see the conditions; scale 1 must."""
    batch = make_batch(make_config())
    spoiled = {**batch, "conditions": batch["conditions"].roll(1, dims=0)}
    for scale, same in ((0.0, True), (1.0, False)):
        system = make_system(make_config(sampling={"guidance": scale}))
        seen, other = (system.sample(batch, system.conditions(x)) for x in (batch, spoiled))
        assert torch.allclose(seen, other, atol=1e-5) == same


def pose_puzzle(count: int, generator: np.random.Generator) -> dict[str, torch.Tensor]:
    """Flat pictures: red and blue belong to the object, green is the cosine of the azimuth that it is seen from. So a
    target takes both, the conditions for red and blue and its own pose for green."""
    azimuth = np.concatenate([generator.uniform(-180, 180, (count, 2)).round(), [[0, 90, 180, 270]] * count], axis=1)
    colour = np.repeat(generator.uniform(-1, 1, (count, 1, 3)), 6, axis=1)
    colour[..., 1] = np.cos(np.radians(azimuth))
    views = torch.from_numpy(colour).float()[..., None, None].expand(-1, -1, -1, 8, 8).contiguous()
    zero = np.zeros(6)
    return {
        "targets": views[:, :2],
        "conditions": views[:, 2:],
        "present": torch.ones(count, 4, dtype=torch.bool),
        "noise_level": torch.zeros(count, 4, dtype=torch.int64),
        "code": torch.from_numpy(np.stack([pose_code(zero, row, zero, 2, zero, zero) for row in azimuth])),
        "ids": torch.zeros(count, 8, dtype=torch.int64),
        "key": torch.from_numpy(generator.integers(0, 2**60, count)),
    }


def test_conditions_and_pose_together_explain_the_target(make_config, make_system):
    """Under so much noise that the noisy target says next to nothing."""
    config = make_config(
        size=8,
        targets=2,
        vision={"size": 8},
        unet={"channels": [32], "attention": [True], "from_scratch": True},
        diffusion={"prediction": "sample", "beta_start": 0.05, "beta_end": 0.2},
    )
    system = make_system(config, filled=False).train()
    generator = np.random.default_rng(0)
    optimiser = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        system.objective(pose_puzzle(16, generator)).loss.backward()
        optimiser.step()
    system.eval()
    with torch.no_grad():
        metrics = {name: value.mean().item() for name, value in system.evaluate(pose_puzzle(64, generator)).items()}
    assert metrics["loss"] < 0.5 * metrics["loss_wrong_pose"]
    assert metrics["loss"] < 0.5 * metrics["loss_shuffled"]
