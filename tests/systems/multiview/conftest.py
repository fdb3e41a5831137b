import copy

import numpy as np
import pytest
import torch

from vstrain.systems.multiview import cameras
from vstrain.systems.multiview.config import Config
from vstrain.systems.multiview.prepare import LAYOUTS

OFF = dict(
    drop=0,
    noise=0,
    noise_max=500,
    distort=0,
    distort_max=0.5,
    rescale=0,
    rescale_min=0.25,
    jitter=0,
    jitter_degrees=5,
    colour=0,
    colour_range=0.1,
    gray_background=0,
)
TINY = dict(
    module="vstrain.systems.multiview",
    data_kind="multiview",
    size=16,
    layout="instant3d4",
    targets=1,
    raw_noise_label=True,
    picture_tokens="own",
    attention="sdpa",
    new_layer_lr_scale=10,
    diffusion=dict(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timesteps=1000,
        prediction="epsilon",
        zero_terminal_snr=False,
        loss_weight="uniform",
        min_snr_gamma=5,
        offset_noise=0,
    ),
    codec=dict(name="space_to_depth", path=None, factor=2, channels=12, scale=1.0),
    unet=dict(
        channels=[16, 32],
        attention=[True, True],
        layers=1,
        head_width=8,
        norm_groups=8,
        from_scratch=False,
    ),
    text=dict(name="tiny", path=None, length=8, vocab=64, width=16, layers=1, heads=2),
    vision=dict(name="random", path=None, size=16, patch=8, width=16, layers=2, heads=2),
    resampler=dict(width=16, depth=1, heads=2, head_width=8, queries=3),
    augment=OFF,
    dropout=dict(everything=0.1, text=0.1, pictures=0.05),
    sampling=dict(steps=3, guidance=2.0, clip=None),
)


@pytest.fixture
def make_config():
    """The tiny configuration with some keys changed: make_config(targets=2, codec={"scale": 2.0})."""

    def make(**changes) -> Config:
        keys = copy.deepcopy(TINY)
        for name, value in changes.items():
            keys[name] = {**keys[name], **value} if isinstance(value, dict) else value
        return Config(**keys)

    return make


@pytest.fixture
def make_sample():
    """One object of 3 target views and both condition layouts; view v is a disc of its own colour, off the
    middle."""

    def make(seed: int = 0, size: int = 16) -> dict:
        rng = np.random.default_rng(seed)
        poses = [(rng.uniform(-20, 45), rng.uniform(-180, 180), "random") for _ in range(3)]
        poses += [(0, a, "instant3d4") for a in (0, 90, 180, 270)]
        poses += [((20, -10)[i % 2], 30 + 60 * i, "zero123pp6") for i in range(LAYOUTS["zero123pp6"])]
        sample, views = {"__key__": f"object{seed}", "txt": f"a thing number {seed}", "meta.json": {}}, []
        y, x = np.mgrid[:size, :size]
        for v, (elev, azim, layout) in enumerate(poses):
            inside = (x - rng.uniform(5, 10) * size / 16) ** 2 + (y - rng.uniform(5, 10) * size / 16) ** 2 < (
                size / 4
            ) ** 2
            rgba = np.zeros((size, size, 4), np.uint8)
            rgba[inside] = [*rng.integers(0, 256, 3), 255]
            sample[f"rgba_{v:03d}.png"] = rgba
            c2w = cameras.orbit(elev, azim, 1.5)
            views.append(
                dict(
                    c2w=c2w.tolist(),
                    fovy=49.1,
                    width=size,
                    height=size,
                    elev=elev,
                    azim=azim,
                    radius=1.5,
                    layout=layout,
                )
            )
        sample["camera.json"] = {"version": 1, "convention": "opengl", "up": "z", "views": views}
        return sample

    return make


@pytest.fixture
def make_batch(make_sample):
    """A training batch of objects 0 .. count - 1."""
    from vstrain.systems.multiview.prepare import prepare

    def make(config: Config, count: int = 3, training: bool = False) -> dict[str, torch.Tensor]:
        items = [
            {**prepare(make_sample(i), config, np.random.default_rng(i), training), "key": np.int64(1000 + i)}
            for i in range(count)
        ]
        batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
        return batch | {"weight": torch.ones(count)}

    return make


@pytest.fixture
def make_system():
    """A built system whose zero-initialised layers have been filled, so that every path has an effect."""
    from vstrain.systems.multiview.module import System

    def make(config: Config, filled: bool = True):
        torch.manual_seed(0)
        system = System(config)
        system.configure_model()
        if filled:
            for parameter in system.network.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.05)
        return system.eval()

    return make
