"""Guidance, prior, candidates, and the promise about the outside."""

import pytest
import torch

from vstrain.diffusion.config import Diffusion
from vstrain.diffusion.schedule import NoiseSchedule
from vstrain.systems.drag.evaluate import psnr_inside, report
from vstrain.systems.drag.sample import composite, edit, guidance_scales, prior, timesteps


@pytest.fixture
def schedule(make_config):
    return NoiseSchedule(make_config().diffusion)


def test_inverse_square_guidance_of_eight_steps():
    wanted = [3, 2.53125, 2.125, 1.78125, 1.5, 1.28125, 1.125, 1.03125]
    assert guidance_scales("inv_square", 3.0, 8) == wanted


@pytest.mark.parametrize(
    ("name", "halfway"),
    [("none", 4.0), ("linear", 2.5), ("square", 3.25), ("quadratic", 3.625), ("inv_square", 1.75)],
)
def test_guidance_starts_at_its_largest(name, halfway):
    scales = guidance_scales(name, 4.0, 8)
    assert scales[0] == 4 and scales[4] == halfway
    assert guidance_scales(name, 1.0, 5) == [1.0] * 5


def test_prior_is_the_source_under_the_last_noise(schedule, make_config):
    source, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sampling = make_config().sampling
    z = prior(source, noise, schedule, sampling)
    torch.testing.assert_close(z, 0.0682649 * source + 0.9976672 * noise, rtol=1e-5, atol=1e-6)
    assert torch.equal(prior(source, noise, schedule, sampling.model_copy(update={"prior": "noise"})), noise)


def test_prior_at_the_first_timestep(schedule, make_config):
    """25 leading steps begin at t = 961."""
    sampling = make_config(sampling={"steps": 25, "prior_t": "first_timestep"}).sampling
    assert int(timesteps(schedule, sampling)[0]) == 961
    source, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    abar = schedule.alphas_cumprod[961]
    torch.testing.assert_close(
        prior(source, noise, schedule, sampling), abar.sqrt() * source + (1 - abar).sqrt() * noise
    )


def test_composite_is_bitwise_outside():
    generator = torch.Generator().manual_seed(0)
    edited, source = torch.randint(0, 256, (2, 3, 9, 7, 3), dtype=torch.uint8, generator=generator)
    mask = torch.rand(3, 9, 7, generator=generator) < 0.4
    result = composite(edited, source, mask)
    assert torch.equal(result[~mask], source[~mask]) and torch.equal(result[mask], edited[mask])
    assert torch.equal(composite(edited, source, torch.zeros_like(mask)), source)


def run(system, batch, seeds, **sampling):
    config = system.config.sampling.model_copy(update=sampling)
    return edit(system.model.eval(), system.schedule, config, batch["source"], batch["mask"], batch["maps"], seeds)


def test_the_outside_of_an_edit_is_the_source(make_system, make_batch, randomise_projections):
    system, batch = make_system(), make_batch()
    randomise_projections(system)
    results = run(system, batch, [0, 1])
    assert results.shape == (3, 2, 16, 16, 3) and results.dtype == torch.uint8
    outside = ~batch["mask"]
    for candidate in results.unbind(1):
        assert torch.equal(candidate[outside], batch["source"][outside])
        assert not torch.equal(candidate[~outside], batch["source"][~outside])


def test_a_candidate_is_reproducible_alone(make_system, make_batch, randomise_projections):
    system, batch = make_system(), make_batch(count=2)
    randomise_projections(system)
    together = run(system, batch, [5, 6, 7])
    alone = run(system, {k: v[1:] for k, v in batch.items()}, [6])
    assert (together[1, 1].int() - alone[0, 0].int()).abs().max() <= 1  # the last bit belongs to the kernels
    assert (together[1, 1].int() - together[1, 2].int()).abs().max() > 5


def test_guidance_acts_on_the_points_alone(make_system, make_batch, randomise_projections):
    """Without point terms every guidance gives one result; with them it does not; 1 runs a single branch."""
    system, batch = make_system(), make_batch()
    rows = []
    system.model.unet.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0])))
    plain, strong = (run(system, batch, [0], guidance=g).int() for g in (1.0, 4.0))
    assert (plain - strong).abs().max() <= 1
    assert rows == [3] * 3 + [6] * 3
    randomise_projections(system)
    plain, strong = (run(system, batch, [0], guidance=g).int() for g in (1.0, 4.0))
    assert (plain - strong).abs().max() > 3


def test_an_edit_without_points_is_the_null_branch(make_system, make_batch, randomise_projections):
    system, batch = make_system(), make_batch()
    settings = (system.schedule, system.config.sampling, batch["source"], batch["mask"])
    before = edit(system.model.eval(), *settings, batch["maps"], [3])
    randomise_projections(system)
    assert torch.equal(edit(system.model, *settings, batch["maps"].roll(1, 0), [3], with_points=False), before)
    assert not torch.equal(edit(system.model, *settings, batch["maps"], [3]), before)


def test_report_scores_only_the_inside(make_system, make_batch):
    system, batch = make_system().eval(), make_batch(count=4)
    result = report(system, [], [batch | {"weight": torch.tensor([1.0, 1.0, 1.0, 0.0])}])
    error = (batch["source"].double() - batch["target"].double()).square().mean(-1)
    by_hand = [10 * torch.log10(255**2 / error[b][batch["mask"][b]].mean()).item() for b in range(3)]
    assert result.metrics["unchanged/psnr_inside"] == pytest.approx(sum(by_hand) / 3)
    assert result.metrics["outside_changed"] == 0 and result.metrics["model/psnr_inside"] < 30
    perfect = psnr_inside(batch["target"], batch["target"], batch["mask"])
    assert (perfect == 60).all() and "3 held-out pairs" in result.text


def test_guided_answer_by_hand(make_system, make_batch, randomise_projections):
    """null + w (points - null), with the weight of the step that is run."""
    from vstrain.systems.drag.objective import to_unit
    from vstrain.systems.drag.sample import guided

    system, batch = make_system(), make_batch()
    randomise_projections(system)
    model = system.model.eval()
    with torch.no_grad():
        conditions = model.conditions(to_unit(batch["source"]), batch["mask"], batch["maps"])
        z, t = torch.randn(3, 12, 8, 8), torch.full((3,), 600)
        denoise = guided(model, conditions, {600: 2.5, 300: 1.0})
        points, null = model(z, t, conditions), model(z, t, conditions.without_points())
        torch.testing.assert_close(denoise(z, t), null + 2.5 * (points - null), rtol=1e-4, atol=1e-5)
        t = torch.full((3,), 300)
        assert torch.equal(denoise(z, t), model(z, t, conditions))


def test_pictures_show_every_row(make_system, make_batch):
    grid = make_system().eval().pictures(make_batch())["drag"]
    assert grid.dtype == "uint8" and grid.ndim == 3
    blank = (grid == 255).all(axis=(1, 2))
    assert blank.mean() < 0.1 and grid.shape[1] > 4 * 192  # source, two candidates, truth


def test_x0_capped_is_the_published_weight(make_config):
    schedule = NoiseSchedule(Diffusion(**make_config(diffusion={"loss_weight": "x0_capped"}).diffusion.model_dump()))
    t = torch.tensor([0, 300, 700, 999])
    a = schedule.alphas_cumprod[t]
    torch.testing.assert_close(schedule.weight(t), ((1 - a) / a).clamp(max=8))
