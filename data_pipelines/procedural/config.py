"""What can be asked of the procedural world: one config a kind of data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vstrain.config.strict import NonNegativeInt, PositiveInt, Strict

Size = Annotated[int, Field(ge=16, le=2048)]


class World(Strict):
    samples: PositiveInt  # of split train
    val_samples: PositiveInt
    size: Size  # side of the square pictures in pixels
    seed: NonNegativeInt = 0


class DepthWorld(World):
    """Scenes with exact depth. Splits train and val have the synthetic look, train_real and val_real the real one."""

    samples: PositiveInt = 2000
    val_samples: PositiveInt = 200
    size: Size = 128
    real_samples: NonNegativeInt = 0
    real_val_samples: NonNegativeInt = 0


class StoryWorld(World):
    """Long videos of `shots` hard-cut shots of `frames` frames with characters that keep their identity."""

    samples: PositiveInt = 120
    val_samples: PositiveInt = 16
    size: Size = 64
    shots: PositiveInt = 4
    frames: PositiveInt = 16
    fps: Annotated[float, Field(gt=0)] = 8.0


class MultiviewWorld(World):
    """Objects of bounding-sphere radius 0.5 under the cameras of `layout`."""

    samples: PositiveInt = 400
    val_samples: PositiveInt = 40
    size: Size = 64
    layout: Literal["boost_train", "mvdream4", "instant3d4", "zero123pp6", "random32"] = "boost_train"
    targets: Annotated[int, Field(ge=1, le=32)] = 12  # random views of boost_train


class DragWorld(World):
    """Short videos of moving objects with exact tracks. Split moving has a moving camera, the others a still one."""

    samples: PositiveInt = 1500
    val_samples: PositiveInt = 100
    moving_samples: NonNegativeInt = 0
    size: Size = 64
    frames: Annotated[int, Field(ge=2, le=120)] = 8
    tracks: Annotated[int, Field(ge=32)] = 256  # tracked points a video
    videos: bool = False  # write the mp4 and tracks.npz members, too


CONFIGS: dict[str, type[World]] = {
    "depth": DepthWorld,
    "story": StoryWorld,
    "multiview": MultiviewWorld,
    "drag": DragWorld,
}


def splits(config: World) -> dict[str, int]:
    """Split -> number of samples, empty splits left out."""
    counts = {"train": config.samples, "val": config.val_samples}
    match config:
        case DepthWorld():
            counts |= {"train_real": config.real_samples, "val_real": config.real_val_samples}
        case DragWorld():
            counts |= {"moving": config.moving_samples}
    return {split: count for split, count in counts.items() if count}
