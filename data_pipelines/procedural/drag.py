"""Kind drag: short videos of moving things with exact point tracks, and from each one (source, target, handles, mask) pair."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.procedural import looks, props
from data_pipelines.procedural.camera import Camera, look_at
from data_pipelines.procedural.config import DragWorld
from data_pipelines.procedural.motion import EASES, Motion, Tracks, follow
from data_pipelines.procedural.scene import Light, Part, Scene, Sky, cast, moved, part
from data_pipelines.procedural.shade import render
from data_pipelines.procedural.shapes import GLYPHS, Cutout, Disc, blob, star
from vstrain.data import keyed

CHANGED = 6  # grey levels by which a pixel has to differ to count as changed by a moving shadow
MOST_PAIRS = 20
FEWEST = 8  # usable tracks in a clip worth keeping
BOLD = ("checker", "dots", "spots", "marble", "stripes", "diagonal")


class Clip(NamedTuple):
    frames: list[tuple[list[Part], Camera]]
    sky: Sky
    lights: list[Light]
    motions: list[str]  # what each moving group does


def make(config: DragWorld, split: str, index: int) -> dict:
    """Sample `index` of `split`: a DragSample. The source is frame 0."""
    rng = keyed.rng(keyed.draw_key(config.seed, 0, index), f"procedural/drag/{split}")
    camera = "moving" if split == "moving" else "still"
    key, size = f"{split}_{index:07d}", config.size
    while True:
        film = clip(rng, config.frames, camera == "moving")
        tgt = int(rng.integers((config.frames + 1) // 2, config.frames))
        moving = np.stack([_moving(*film.frames[k], size) for k in (0, tgt)])
        x, y = _queries(rng, moving[0], config.tracks)
        tracks = follow(film.frames, x, y, size)
        pairs = _pairs(rng, tracks, moving[0][y.astype(int), x.astype(int)], tgt, size)
        if pairs.size:
            break
    wanted = range(config.frames) if config.videos else (0, tgt)
    shots = {k: _render(film, k, size) for k in wanted}
    mask = edit_mask(rng, moving, shots[0], shots[tgt], camera == "still")
    sample = {
        "__key__": key,
        "src.webp": shots[0],
        "tgt.webp": shots[tgt],
        "mask.png": mask,
        "points.json": {
            "handles": tracks.xy[0, pairs].tolist(),
            "targets": tracks.xy[tgt, pairs].tolist(),
            "src_index": 0,
            "tgt_index": tgt,
            "tracker": "exact",
        },
        "meta.json": {
            "camera": camera,
            "video": key,
            "licence": "CC0-1.0",
            "source": "procedural",
            "motions": film.motions,
        },
    }
    if config.videos:
        every = np.stack([_moving(*frame, size) for frame in film.frames])
        sample["mp4"] = np.stack([shots[k] for k in wanted])
        sample["tracks.npz"] = {"xy": tracks.xy, "visible": tracks.visible, "moving": every}
    return sample


def clip(rng: np.random.Generator, frames: int, moving_camera: bool) -> Clip:
    """A board or floor with one to four things on it, of which one or two move, and a camera."""
    colours, other = looks.palette(rng, "synthetic"), looks.palette(rng, "synthetic")
    paint, floor = props.painter(rng, colours, "synthetic"), props.painter(rng, other, "synthetic")
    things = int(rng.integers(1, 5))
    movers = min(things, int(rng.integers(1, 3)))
    spots = _spots(rng, things)
    scenery = [
        part(Disc(), floor(1.8, ("checker", "cloudy", "dots", "tiles", "planks", "marble", "spots")), (0, 0, 0), 20.0)
    ]
    made, motions, names = [], [], []
    for k in range(things):
        parts = _thing(rng, paint)
        names.append(list(KINDS)[rng.integers(len(KINDS))] if k < movers else "stands")
        if names[k] == "bends":
            parts = _cutout(rng, paint)
        made.append(moved(parts, scale=rng.uniform(1.0, 1.5)))
        motions.append(
            KINDS[names[k]](rng, np.array([*spots[k], 0.0]))
            if k < movers
            else Motion(np.array([*spots[k], 0.0]), heading=rng.uniform(0, 360))
        )
    elevation, azimuth, reach = rng.uniform(35, 85), rng.uniform(0, 360), rng.uniform(4.4, 5.5)
    path = rng.uniform(-1, 1, 3) * (25.0, 8.0, 0.8) if moving_camera else np.zeros(3)
    film = []
    for t in np.linspace(0, 1, frames):
        a, e = np.radians(azimuth + t * path[0]), np.radians(min(elevation + t * path[1], 88))
        eye = (reach + t * path[2]) * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        posed = [one for k in range(things) for one in motions[k].pose(made[k], t, k if k < movers else -1)]
        film.append((scenery + posed, look_at(eye, (0, 0, 0.15), 38.0)))
    sky = Sky((0.9, 0.95, 1.0), (0.9, 0.9, 0.9), (0.5, 0.5, 0.5), ambient=0.75)
    lamp = Light(np.array([*rng.uniform(-3, 3, 2), 9.0]), 0.8, (1.0, 0.96, 0.9), 9.0)
    return Clip(film, sky, [lamp], names[:movers])


def _spots(rng: np.random.Generator, count: int) -> np.ndarray:
    """Places (count, 2) near the middle, apart from one another."""
    spots = np.empty((0, 2))
    while len(spots) < count:
        spot = rng.uniform(-1.1, 1.1, 2)
        if not len(spots) or np.linalg.norm(spots - spot, axis=1).min() > 0.75:
            spots = np.vstack([spots, spot])
    return spots


def _thing(rng: np.random.Generator, paint: props.Paint) -> list[Part]:
    if rng.random() < 0.3:
        return _cutout(rng, paint)
    kinds = (*props.SMALL, props.house, props.tree, props.arch)
    return kinds[rng.integers(len(kinds))](rng, lambda size=0.5, patterns=None: paint(1.6 * size, BOLD))


def _cutout(rng: np.random.Generator, paint: props.Paint) -> list[Part]:
    """A sheet that lies a little above the floor."""
    rings = (blob(rng), star(5, 0.5), GLYPHS["heart"], GLYPHS["plus"], GLYPHS["H"])[rng.integers(5)]
    half = rng.uniform(0.45, 0.7)
    return [part(Cutout(rings), paint(0.9, BOLD), (0, 0, 0.06), (half, half * rng.uniform(0.8, 1.3), 1.0))]


def _shift(rng: np.random.Generator, start: np.ndarray, far: float) -> tuple[float, float, float]:
    """A way along the floor that does not lead out of sight."""
    goal = rng.uniform(-1.1, 1.1, 2)
    way = goal - start[:2]
    way *= min(1.0, far / np.linalg.norm(way))
    return (float(way[0]), float(way[1]), 0.0)


def slides(rng: np.random.Generator, start: np.ndarray) -> Motion:
    ease = list(EASES)[rng.integers(len(EASES))]
    return Motion(
        start, rng.uniform(0, 360), _shift(rng, start, rng.uniform(0.6, 2.0)), rng.uniform(-0.3, 0.3), ease=ease
    )


def turns(rng: np.random.Generator, start: np.ndarray) -> Motion:
    return Motion(start, rng.uniform(0, 360), spin=rng.choice([-1, 1]) * rng.uniform(25, 100))


def travels(rng: np.random.Generator, start: np.ndarray) -> Motion:
    return Motion(
        start,
        rng.uniform(0, 360),
        _shift(rng, start, rng.uniform(0.4, 1.2)),
        rng.uniform(-0.4, 0.4),
        rng.uniform(-60, 60),
        rng.uniform(0.8, 1.3),
    )


def grows(rng: np.random.Generator, start: np.ndarray) -> Motion:
    return Motion(start, rng.uniform(0, 360), grow=rng.choice([0.6, 0.7, 1.4, 1.6]), ease="brakes")


def bends(rng: np.random.Generator, start: np.ndarray) -> Motion:
    return Motion(
        start, rng.uniform(0, 360), bend=rng.choice([-1, 1]) * rng.uniform(0.4, 0.9), spin=rng.uniform(-20, 20)
    )


KINDS = {kind.__name__: kind for kind in (slides, turns, travels, grows, bends)}


def _render(film: Clip, frame: int, size: int) -> np.ndarray:
    parts, camera = film.frames[frame]
    return render(Scene(parts, film.lights, film.sky, exposure=0.75), camera, size, size).rgb


def _moving(parts: list[Part], camera: Camera, size: int) -> np.ndarray:
    """(H, W) bool: pixels whose centre shows a thing that moves."""
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[:size, :size])
    index = cast(parts, camera.position[:, None], camera.rays(x, y, size, size))[1].reshape(size, size)
    return np.array([one.group >= 0 for one in parts] + [False])[index]


def _queries(rng: np.random.Generator, moving: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels x, y (count,) of the source frame, up to half of them on things that move."""
    size = moving.shape[0]
    order = rng.permutation(size * size)
    on = order[moving.ravel()[order]][: count // 2]
    off = order[~moving.ravel()[order]][: count - on.size]
    at = np.concatenate([on, off])
    return (at % size).astype(float), (at // size).astype(float)


def _pairs(rng: np.random.Generator, tracks: Tracks, moving: np.ndarray, tgt: int, size: int) -> np.ndarray:
    """Indices of 1 to 20 tracks on moving things, visible in source and target, that move by two pixels in 64 or more and
    start a pixel in 64 apart; none if the clip has too few."""
    way = np.linalg.norm(tracks.xy[tgt] - tracks.xy[0], axis=1)
    good = np.flatnonzero(moving & tracks.visible[0] & tracks.visible[tgt] & (way >= 2 * size / 64))
    if good.size < FEWEST:
        return good[:0]
    chosen: list[int] = []
    wanted = rng.integers(1, MOST_PAIRS + 1)
    for k in rng.permutation(good):
        apart = np.linalg.norm(tracks.xy[0, chosen] - tracks.xy[0, k], axis=1) if chosen else np.array([np.inf])
        if apart.min() >= size / 64 + 1 and len(chosen) < wanted:
            chosen.append(int(k))
    return np.array(chosen)


def edit_mask(
    rng: np.random.Generator, moving: np.ndarray, src: np.ndarray, tgt: np.ndarray, still: bool
) -> np.ndarray:
    """uint8 (H, W), 255 where the picture may change: what moves in source or target and, under a still camera, whatever
    else changed (its shadows); closed, and dilated by one to two pixels in 64."""
    size = src.shape[0]
    region = moving.any(axis=0)
    if still:
        region |= np.abs(src.astype(int) - tgt.astype(int)).max(axis=2) > CHANGED
    unit = max(1, round(size / 64))
    close, grow = 2 * unit + 1, 2 * int(rng.integers(1, 3)) * unit + 1
    region = cv2.morphologyEx(region.astype(np.uint8), cv2.MORPH_CLOSE, _disc(close))
    return 255 * cv2.dilate(region, _disc(grow))


def _disc(side: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
