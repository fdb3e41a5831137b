from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from vstrain.systems.depth.config import Config

SHIPPED = OmegaConf.load(Path(__file__).parents[3] / "conf" / "system" / "depth.yaml")
KEYS = {**OmegaConf.to_container(SHIPPED), "size": "tiny", "image_size": 56, "pictures": 2, "attention": "sdpa"}


@pytest.fixture
def make_config():
    return lambda **keys: Config(**{**KEYS, **keys})


@pytest.fixture
def make_system(make_config):
    def make(seed: int = 0, **keys):
        from vstrain.systems.depth.module import System

        torch.manual_seed(seed)
        system = System(make_config(**keys))
        system.configure_model()
        return system

    return make


@pytest.fixture
def scene_batch():
    """Batches of a toy world that a network learns in seconds: a bright square in front of a dark wall."""

    def make(size: int = 56, count: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 60, (count, size, size, 3), dtype=np.uint8)
        disparity = np.zeros((count, size, size), np.float32)
        for i in range(count):
            y, x = rng.integers(0, size // 2, 2)
            image[i, y : y + size // 2, x : x + size // 2] += 180
            disparity[i, y : y + size // 2, x : x + size // 2] = 1
        return {
            "image": torch.from_numpy(image),
            "disparity": torch.from_numpy(disparity),
            "valid": torch.ones(count, size, size, dtype=torch.bool),
            "span": torch.tensor([[0.1, 0.5]]).repeat(count, 1),
            "pseudo": torch.zeros(count, dtype=torch.bool),
            "flipped": torch.zeros(count, dtype=torch.bool),
            "key": torch.arange(count) + 1000 * seed,
            "weight": torch.ones(count),
        }

    return make
