import numpy as np
import pytest
import torch

from vstrain.config.compose import Composer
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 70, 220), "white": (235, 235, 235)}
TINY = {
    "story_image": [
        "system.size=16", "system.images=2", "system.text.width=16", "system.text.length=8",
        "system.unet.channels=[16,32]", "system.codec.channels=12", "system.codec.factor=2",
        "system.diffusion.prediction=sample",
    ],
    "story_motion": [
        "system.size=16", "system.frames=4", "system.text.width=16", "system.text.length=8",
        "system.unet.channels=[16,32]", "system.codec.channels=12", "system.codec.factor=2",
        "system.vision.size=16", "system.predictor.width=16", "system.diffusion.prediction=sample",
    ],
}  # fmt: skip


@pytest.fixture
def make_config():
    """The system node of an experiment's YAML files; tiny=True makes it small enough for a test."""

    def make(experiment: str, *overrides: str, tiny: bool = True):
        words = [f"experiment={experiment}", *(TINY[experiment] if tiny else []), *overrides]
        with Composer("train", words) as composer:
            return validate(composer.compose(), TrainConfig).system

    return make


@pytest.fixture
def story():
    """A story of four shots: one character, a square of one colour, slides over a background of another."""

    def make(colour: str = "red", shots: int = 4, length: int = 8, size: int = 16) -> dict:
        video = np.full((shots * length, size, size, 3), 128, np.uint8)
        for n in range(shots * length):
            left = (n % length) * (size // 2) // length
            video[n, 4:12, left : left + 8] = COLOURS[colour]
            video[n, 0, 0] = n  # the frame's number
        parts = [
            {
                "start": k * length,
                "end": (k + 1) * length,
                "caption": f"a {colour} square slides, take {k}",
                "characters": ["Sid"],
                "activity": "slides",
                "background": "grey",
            }
            for k in range(shots)
        ]
        return {
            "__key__": "s0",
            "mp4": video,
            "json": {"fps": 8.0, "characters": {"Sid": f"a {colour} square"}, "shots": parts},
        }

    return make


@pytest.fixture
def make_batch(story):
    """Prepared stories of the four colours, `repeat` times, as the loader would stack them."""

    def make(prepare, config, repeat: int = 1) -> dict[str, torch.Tensor]:
        rows = [
            prepare(story(colour), config, np.random.default_rng(n), True) for n in range(repeat) for colour in COLOURS
        ]
        batch = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
        return batch | {"key": torch.arange(len(rows)) + 100, "weight": torch.ones(len(rows))}

    return make
