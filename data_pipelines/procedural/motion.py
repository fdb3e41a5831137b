"""How things move: paths with their own timing, and where surface points go with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.procedural.camera import Camera, turn
from data_pipelines.procedural.scene import Part, cast, moved
from data_pipelines.procedural.shapes import Cutout

EASES: dict[str, Callable[[float], float]] = {
    "steady": lambda t: t,
    "accelerates": lambda t: t * t,
    "brakes": lambda t: t * (2 - t),
    "swings": lambda t: np.sin(np.pi / 2 * 1.6 * t) / np.sin(np.pi / 2 * 1.6 * 0.625),
}


@dataclass(frozen=True)
class Motion:
    """From t = 0 to t = 1 a thing goes from `start` by `shift` metres along a path that bulges sideways by `arc` times its
    length, turns by `spin` degrees about z, grows by the factor `grow` and (cut-outs) bends by `bend`."""

    start: np.ndarray
    heading: float = 0.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    arc: float = 0.0
    spin: float = 0.0
    grow: float = 1.0
    bend: float = 0.0
    ease: str = "steady"

    def pose(self, parts: list[Part], t: float, group: int) -> list[Part]:
        """The parts, made about the origin, as they stand in the world at time t in [0, 1]."""
        s = EASES[self.ease](t)
        shift = np.array(self.shift)
        sideways = np.array([-shift[1], shift[0], 0.0]) * self.arc * 4 * s * (1 - s)
        if self.bend:
            parts = [
                replace(one, shape=replace(one.shape, bend=self.bend * s)) if isinstance(one.shape, Cutout) else one
                for one in parts
            ]
        where = self.start + s * shift + sideways
        return moved(parts, where, turn("z", self.heading + s * self.spin), self.grow**s, group)


@dataclass(frozen=True)
class Tracks:
    """The path of N surface points over T frames. `xy` (T, N, 2) pixels, `visible` (T, N): inside the frame and in sight."""

    xy: np.ndarray
    visible: np.ndarray


def follow(frames: list[tuple[list[Part], Camera]], x: np.ndarray, y: np.ndarray, size: int, query: int = 0) -> Tracks:
    """Exact tracks of the points that pixels x, y (N,) of frame `query` show. `frames`: parts (the same ones, in the same
    order) and camera of each frame. A pixel that shows nothing gets a track that is never visible."""
    parts, camera = frames[query]
    direction = camera.rays(x, y, size, size)
    t, index = cast(parts, camera.position[:, None], direction)
    shown = np.flatnonzero(index >= 0)
    rest = np.zeros((3, x.size))
    for k in np.unique(index[shown]):
        at = np.flatnonzero(index == k)
        local = parts[k].to_local(camera.position[:, None] + t[at] * direction[:, at])
        rest[:, at] = parts[k].shape.rest(local)
    xy, visible = np.zeros((len(frames), x.size, 2), np.float32), np.zeros((len(frames), x.size), bool)
    for frame, (parts, camera) in enumerate(frames):
        point = np.zeros((3, x.size))
        for k in np.unique(index[shown]):
            at = np.flatnonzero(index == k)
            point[:, at] = parts[k].to_world(parts[k].shape.bent(rest[:, at]))
        px, py, depth = camera.project(point[:, shown], size, size)
        xy[frame, shown] = np.stack([px, py], axis=1)
        inside = (
            (depth > 0)
            & (np.abs(px - (size - 1) / 2) <= (size - 1) / 2)
            & (np.abs(py - (size - 1) / 2) <= (size - 1) / 2)
        )
        first, seen = cast(parts, camera.position[:, None], point[:, shown] - camera.position[:, None])
        visible[frame, shown] = inside & (seen == index[shown]) & (np.abs(first - 1) < 1e-4)
    return Tracks(xy, visible)
