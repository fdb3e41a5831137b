import numpy as np
import pytest
import torch

from vstrain.systems.drag.config import Config
from vstrain.systems.drag.points import NO_POINT

KEYS = {
    "module": "vstrain.systems.drag",
    "data_kind": "drag",
    "size": 16,
    "crop_margin": 0.15,
    "crop_min": 0.4,
    "flip": 0.5,
    "codec": {"name": "space_to_depth", "path": None, "factor": 2, "channels": 12, "scale": 2.0},
    "diffusion": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "timesteps": 1000,
        "prediction": "epsilon",
        "zero_terminal_snr": False,
        "loss_weight": "uniform",
        "min_snr_gamma": 5.0,
        "offset_noise": 0.0,
    },
    "unet": {
        "path": None,
        "channels": [16, 32],
        "attention": [True, True],
        "layers": 1,
        "heads": 2,
        "norm_groups": 4,
    },
    "points": {"embed_dim": 4, "fusion": "full", "ids": "raw", "permute_ids": False, "radius": 0},
    "text": {"path": None, "length": 3, "width": 24},
    "image": {
        "path": None,
        "adapter": None,
        "size": 8,
        "patch": 4,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "embedding": 16,
        "tokens": 4,
    },
    "attention": "sdpa",
    "train_unet": True,
    "point_drop": 0.1,
    "image_drop": 0.05,
    "mask_loss_weight": 1.0,
    "sampling": {
        "steps": 3,
        "prior": "noised_source",
        "prior_t": "last",
        "spacing": "leading",
        "clip": None,
        "guidance": 2.0,
        "guidance_schedule": "inv_square",
        "candidates": 2,
    },
    "pictures": 2,
}


@pytest.fixture(scope="session")
def make_config():
    """make_config(**keys): nested dicts replace single keys of theirs."""

    def make(**keys) -> Config:
        merged = {k: {**v, **keys.get(k, {})} if isinstance(v, dict) else keys.get(k, v) for k, v in KEYS.items()}
        return Config(**merged)

    return make


@pytest.fixture
def make_system(make_config):
    def make(seed: int = 0, **keys):
        from vstrain.systems.drag.module import System

        torch.manual_seed(seed)
        system = System(make_config(**keys))
        system.configure_model()
        return system

    return make


@pytest.fixture
def make_batch():
    """A bright square that moved; the handle is its middle before, the target its middle after."""

    def make(count: int = 3, size: int = 16, seed: int = 0) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(seed)
        source = rng.integers(0, 90, (count, size, size, 3), dtype=np.uint8)
        target, mask = source.copy(), np.zeros((count, size, size), bool)
        maps = np.zeros((count, 2, size, size), np.int32)
        points = np.full((2, count, 20, 2), NO_POINT, np.float32)
        for b in range(count):
            for frame, picture in enumerate((source, target)):
                x, y = rng.integers(2, size - 2, 2)
                picture[b, y - 2 : y + 3, x - 2 : x + 3] = 230
                mask[b, y - 2 : y + 3, x - 2 : x + 3] = True
                maps[b, frame, y, x] = 1
                points[frame, b, 0] = x, y
        arrays = {"source": source, "target": target, "mask": mask, "maps": maps,
                  "handles": points[0], "targets": points[1]}  # fmt: skip
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return batch | {"key": torch.arange(count) + 100 * seed, "weight": torch.ones(count)}

    return make


@pytest.fixture
def randomise_projections():
    """Give the zero-initialised point projections weights, as training does."""

    def randomise(system, seed: int = 1, scale: float = 0.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in system.model.projections.named_parameters():
                if name.endswith("1.weight"):
                    parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))

    return randomise
