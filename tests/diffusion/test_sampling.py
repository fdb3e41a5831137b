import pytest
import torch

from vstrain.diffusion.guidance import guide, rescale
from vstrain.diffusion.sampler import sample


def gaussian_answer(s, mean: float, std: float):
    """The exact network for data N(mean, std^2): E[x0 | x_t] in closed form."""

    def denoise(x, t):
        abar = s.alphas_cumprod.double()[t].reshape(-1, 1)
        x0 = mean + std**2 * abar.sqrt() / (abar * std**2 + 1 - abar) * (x - abar.sqrt() * mean)
        noise = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
        return s.target(x0, noise, t)

    return denoise


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_carries_noise_to_the_data(prediction, schedule):
    s = schedule(prediction=prediction)
    noise = torch.randn(64, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    abar = s.alphas_cumprod[-1].double()
    start = abar.sqrt() * 2.0 + (abar * 0.5**2 + 1 - abar).sqrt() * noise  # the marginal of the last step
    result = sample(gaussian_answer(s, 2.0, 0.5), s, start, steps=200)
    assert result.mean().item() == pytest.approx(2.0, abs=0.01)
    assert result.std().item() == pytest.approx(0.5, rel=0.05)
    pair = torch.stack([result.flatten(), noise.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.999  # a map of its noise


def test_a_known_x0_is_found_exactly_in_any_number_of_steps(schedule):
    s = schedule(prediction="sample", zero_terminal_snr=True)
    x0 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 6)
    for steps in (1, 4):
        torch.testing.assert_close(sample(lambda x, t: x0, s, torch.ones_like(x0), steps), x0)


def test_timesteps_start_at_the_last(schedule):
    seen = []
    s = schedule(prediction="v_prediction", zero_terminal_snr=True)
    sample(lambda x, t: seen.append(t.tolist()) or x, s, torch.zeros(2, 1), steps=50)
    assert seen[0] == [999, 999]
    assert seen[1] == [979, 979]
    assert seen[-1] == [19, 19]


def test_clip_bounds_the_sample(schedule):
    s = schedule(prediction="sample")
    result = sample(lambda x, t: 3 * torch.ones_like(x), s, torch.zeros(1, 4), steps=3, clip=1.0)
    torch.testing.assert_close(result, torch.ones(1, 4))


def test_eta_uses_the_noise_it_is_given(schedule):
    s = schedule(prediction="sample")
    noise = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="variance_noise"):
        sample(lambda x, t: x, s, noise, steps=4, eta=1.0)
    steps = []
    one = sample(lambda x, t: x, s, noise, 4, 1.0, lambda i: steps.append(i) or torch.full((1, 3), 0.5))
    two = sample(lambda x, t: x, s, noise, 4, 1.0, lambda i: torch.full((1, 3), -0.5))
    assert steps == [0, 1, 2, 3]
    torch.testing.assert_close(one, -two)
    assert one.abs().min() > 0


def test_guidance_ends():
    u, c = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(guide(u, c, 0.0), u)
    torch.testing.assert_close(guide(u, c, 1.0), c)
    torch.testing.assert_close(guide(u, c, 3.0), u + 3 * (c - u))
    guided = guide(u, c, 7.5)
    assert torch.equal(rescale(guided, c, 0.0), guided)
    torch.testing.assert_close(rescale(guided, c, 1.0).std(dim=1), c.std(dim=1))
    torch.testing.assert_close(rescale(guided, c, 0.7), 0.7 * rescale(guided, c, 1.0) + 0.3 * guided)
