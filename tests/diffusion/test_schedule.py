import numpy as np
import pytest
import torch
from pydantic import ValidationError

PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def naive_abar(kind: str) -> np.ndarray:
    if kind == "linear":
        return np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


@pytest.mark.parametrize(("kind", "last"), [("scaled_linear", 0.0046601), ("linear", 0.0015790)])
def test_published_noise_levels(kind, last, schedule):
    abar = schedule(beta_schedule=kind).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(abar, naive_abar(kind), rtol=2e-4)
    assert abar[-1] == pytest.approx(last, abs=5e-7)


def test_zero_terminal_snr_is_the_published_rescaling(schedule):
    root = naive_abar("scaled_linear") ** 0.5
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    s = schedule(zero_terminal_snr=True, prediction="v_prediction")
    np.testing.assert_allclose(s.alphas_cumprod.double().sqrt().numpy(), expected, atol=2e-5)
    assert s.alphas_cumprod[-1] == 0


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_target_and_its_inverses(prediction, schedule):
    s = schedule(prediction=prediction)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 6, 3, 4, 5, generator=generator, dtype=torch.float64)
    t = torch.tensor([0, 1, 100, 500, 900, 999])
    abar = s.alphas_cumprod.double()[t][:, None, None, None]
    x_t = s.add_noise(x0, noise, t)
    torch.testing.assert_close(x_t, abar**0.5 * x0 + (1 - abar) ** 0.5 * noise, rtol=1e-12, atol=1e-12)
    target = s.target(x0, noise, t)
    velocity = abar**0.5 * noise - (1 - abar) ** 0.5 * x0
    naive = {"epsilon": noise, "sample": x0, "v_prediction": velocity}[prediction]
    torch.testing.assert_close(target, naive, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(s.x0(target, x_t, t), x0)
    torch.testing.assert_close(s.epsilon(target, x_t, t), noise)


@pytest.mark.parametrize("loss_weight", ["min_snr", "x0_capped"])
def test_weights_see_the_same_x0_error_in_every_parameterisation(loss_weight, schedule):
    """Answers that stand for the same wrong x0 cost the same, whatever the network predicts."""
    generator = torch.Generator().manual_seed(1)
    x0, noise, wrong = torch.randn(3, 5, 2, 3, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor([5, 200, 500, 800, 999])
    losses = []
    for prediction in PREDICTIONS:
        s = schedule(prediction=prediction, loss_weight=loss_weight)
        x_t = s.add_noise(x0, noise, t)
        implied_noise = (x_t - s.add_noise(wrong, torch.zeros_like(wrong), t)) / s._signal_noise(t, x_t)[1]
        answer = {"epsilon": implied_noise, "sample": wrong, "v_prediction": s.target(wrong, implied_noise, t)}[
            prediction
        ]
        losses.append(s.loss(answer, x0, noise, t))
    torch.testing.assert_close(losses[0], losses[2], rtol=2e-3, atol=0)
    torch.testing.assert_close(losses[1], losses[2], rtol=2e-3, atol=0)


def test_weights_in_closed_form(schedule):
    t = torch.arange(1000)
    a = naive_abar("scaled_linear")
    snr = a / (1 - a)
    expected = {
        ("epsilon", "min_snr"): np.minimum(snr, 5) / snr,
        ("v_prediction", "min_snr"): np.minimum(snr, 5) / (snr + 1),
        ("sample", "min_snr"): np.minimum(snr, 5),
        ("epsilon", "x0_capped"): np.minimum((1 - a) / a, 8),
        ("sample", "x0_capped"): np.minimum(1, 8 * snr),
        ("epsilon", "uniform"): np.ones(1000),
    }
    for (prediction, loss_weight), weight in expected.items():
        s = schedule(prediction=prediction, loss_weight=loss_weight)
        np.testing.assert_allclose(s.weight(t).numpy(), weight, rtol=2e-3)


def test_loss_is_a_mean_per_sample(schedule):
    s = schedule(loss_weight="min_snr")
    noise, x0 = torch.zeros(2, 2, 3, 4)
    t = torch.tensor([10, 990])
    prediction = torch.stack([torch.full((3, 4), 2.0), torch.full((3, 4), 3.0)])
    torch.testing.assert_close(s.loss(prediction, x0, noise, t), s.weight(t) * torch.tensor([4.0, 9.0]))


def test_draws_belong_to_the_sample(schedule):
    s = schedule(offset_noise=0.5)
    noise, t = s.draw(torch.tensor([7, 8, 9]), (2, 3, 4, 4))
    again, t_again = s.draw(torch.tensor([9, 7]), (2, 3, 4, 4))
    assert torch.equal(noise[[2, 0]], again)
    assert torch.equal(t[[2, 0]], t_again)
    offset = (noise - schedule().draw(torch.tensor([7, 8, 9]), (2, 3, 4, 4))[0]).flatten(2)
    assert offset.std(dim=2).max() < 1e-6  # one number a sample and channel ...
    assert offset.mean(dim=2).unique().numel() == 6  # ... and another for each


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"prediction": "epsilon"}, "prediction=epsilon"),
        ({"prediction": "v_prediction", "loss_weight": "min_snr"}, "loss_weight=min_snr"),
        ({"prediction": "sample", "offset_noise": 0.1}, "offset_noise"),
    ],
)
def test_what_zero_terminal_snr_does_not_go_with(keys, word, diffusion):
    with pytest.raises(ValidationError, match=word):
        diffusion(zero_terminal_snr=True, **keys)


def test_process_stays_real_under_the_meta_device(schedule):
    with torch.device("meta"):
        s = schedule()
    assert s.alphas_cumprod.device.type == "cpu"
    assert s.weight(torch.tensor([3])).item() == 1.0
