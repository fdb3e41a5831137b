import pytest

from vstrain.diffusion.config import Diffusion
from vstrain.diffusion.schedule import NoiseSchedule

BASE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "timesteps": 1000,
    "prediction": "epsilon",
    "zero_terminal_snr": False,
    "loss_weight": "uniform",
    "min_snr_gamma": 5.0,
    "offset_noise": 0.0,
}


@pytest.fixture
def diffusion():
    """Stable Diffusion's noise process, with some keys changed."""
    return lambda **keys: Diffusion(**{**BASE, **keys})


@pytest.fixture
def schedule(diffusion):
    return lambda **keys: NoiseSchedule(diffusion(**keys))
