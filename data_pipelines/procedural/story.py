"""Kind story: a long video of hard-cut shots. Who is in it (fixed for the whole story) and what happens where (drawn anew
for every shot) are independent; captions tell both."""

from __future__ import annotations

import numpy as np

from data_pipelines.procedural import looks, props
from data_pipelines.procedural.camera import look_at, turn
from data_pipelines.procedural.config import StoryWorld
from data_pipelines.procedural.creatures import ACTIVITIES, COLOURS, NAMES, Character, act, character
from data_pipelines.procedural.scene import Light, Part, Scene, Sky, moved, part, sun
from data_pipelines.procedural.shade import render
from data_pipelines.procedural.shapes import Ball, Box, Disc, Frustum, Room
from data_pipelines.procedural.texture import Material
from vstrain.data import keyed


def make(config: StoryWorld, split: str, index: int) -> dict:
    """Sample `index` of `split`: a StorySample."""
    key = keyed.draw_key(config.seed, 0, index)
    rng = keyed.rng(key, f"procedural/story/{split}")
    people = cast_of(rng)
    frames, shots = [], []
    places = rng.permutation(list(PLACES))
    for k in range(config.shots):
        place = str(places[k % len(places)])
        present = [people[0]] if len(people) == 1 or rng.random() < 0.6 else people
        if len(people) > 1 and len(present) == 1 and rng.random() < 0.4:
            present = [people[1]]
        activity = list(ACTIVITIES)[rng.integers(len(ACTIVITIES))]
        start = len(frames)
        frames += _shot(rng, config, place, present, activity)
        shots.append(
            {
                "start": start,
                "end": len(frames),
                "caption": caption(present, activity, place),
                "characters": [who.name for who in present],
                "activity": activity,
                "background": place,
            }
        )
    facts = {
        "fps": config.fps,
        "characters": {who.name: who.description for who in people},
        "shots": shots,
        "source": "procedural",
    }
    return {"__key__": f"{split}_{index:07d}", "mp4": np.stack(frames), "json": facts}


def cast_of(rng: np.random.Generator) -> list[Character]:
    """One or two characters of different names and colours."""
    count = int(rng.integers(1, 3))
    names, colours = rng.permutation(NAMES)[:count], rng.permutation(COLOURS)[:count]
    return [character(rng, str(name), str(colour)) for name, colour in zip(names, colours, strict=True)]


def caption(present: list[Character], activity: str, place: str) -> str:
    """For example "Pip, a red creature ..., jumps in a meadow"."""
    who = " and ".join(f"{one.name}, {one.description}," for one in present)
    verb = activity if len(present) == 1 else activity.removesuffix("s")
    return f"{who} {verb} {WHERE[place]}"


def _shot(
    rng: np.random.Generator, config: StoryWorld, place: str, present: list[Character], activity: str
) -> list[np.ndarray]:
    """Frames uint8 (H, W, 3) of one shot; the camera stands still or drifts."""
    scenery, lights, sky, haze = PLACES[place](rng)
    along = float(rng.choice([-1, 1]) * rng.uniform(0.5, 0.9))
    apart = 0.75 if len(present) > 1 else 0.0
    marks = [(rng.uniform(-0.2, 0.2), side * apart, 0.0) for side in (-1, 1)][: len(present)]
    facing = rng.uniform(-30, 30, len(present))
    distance, high, swing = rng.uniform(2.9, 3.9) + apart, rng.uniform(0.7, 1.6), rng.uniform(-25, 25)
    drift = rng.uniform(-8, 8) if rng.random() < 0.5 else 0.0
    frames = []
    for t in np.linspace(0, 1, config.frames):
        actors = [
            one
            for k, who in enumerate(present)
            for one in act(who, activity, t, along * (0.6 if apart else 1.0), marks[k], facing[k], k)
        ]
        angle = np.radians(swing + drift * t)
        camera = look_at((distance * np.cos(angle), distance * np.sin(angle), high), (0, 0, 0.62), 42.0)
        scene = Scene(scenery + actors, lights, sky, exposure=0.75, haze=haze)
        frames.append(render(scene, camera, config.size, config.size).rgb)
    return frames


def _material(pattern: str, first: str, second: str, cells: float = 1.5, gloss: float = 0.05) -> Material:
    return Material(pattern, (looks.linear(first), looks.linear(second)), (cells,) * 3, (3.3, 1.7, 5.1), gloss, 0.0)


def _around(rng: np.random.Generator, thing, count: int, size: tuple[float, float] = (1.0, 2.0)) -> list[Part]:
    """Things in a half circle behind the stage."""
    parts = []
    for angle in np.linspace(105, 255, count) + rng.uniform(-10, 10, count):
        away, large = rng.uniform(2.6, 5.5), rng.uniform(*size)
        where = (away * np.cos(np.radians(angle)), away * np.sin(np.radians(angle)), 0)
        parts += moved(thing(), where, turn("z", rng.uniform(0, 360)), large)
    return parts


def _ground(material: Material) -> Part:
    return part(Disc(), material, (0, 0, 0), 25.0)


def _tree(crown: Material, trunk: Material, rng: np.random.Generator) -> list[Part]:
    return props.tree(rng, lambda size=0.5, patterns=None: trunk if patterns and "wood" in patterns else crown)


def meadow(rng: np.random.Generator):
    crown, trunk = _material("spots", "3a8f3a", "5fb84e", 4), _material("plain", "7f4f24", "7f4f24")
    parts = [_ground(_material("cloudy", "6ab04c", "badc58", 2.0))] + _around(rng, lambda: _tree(crown, trunk, rng), 4)
    return (
        parts,
        [sun(50, rng.uniform(-70, 70), (1.5, 1.4, 1.2))],
        Sky((0.2, 0.45, 0.9), (0.75, 0.88, 0.98), (0.3, 0.4, 0.2), 0.75, 0.7),
        0.005,
    )


def desert(rng: np.random.Generator):
    rock = _material("cloudy", "c0764a", "8f4a2b", 2)
    parts = [_ground(_material("cloudy", "edc98a", "d9a962", 1.2))]
    parts += _around(rng, lambda: [part(Ball(), rock, (0, 0, 0), rng.uniform(0.3, 0.7, 3))], 5)
    return (
        parts,
        [sun(35, rng.uniform(-70, 70), (1.7, 1.4, 1.0))],
        Sky((0.35, 0.55, 0.85), (0.98, 0.82, 0.6), (0.5, 0.38, 0.22), 0.65),
        0.012,
    )


def snow(rng: np.random.Generator):
    crown, trunk = _material("cloudy", "dfeaf2", "2d6a4f", 5), _material("plain", "5a4632", "5a4632")
    parts = [_ground(_material("cloudy", "f4f8fb", "d5e3ee", 1.0))] + _around(rng, lambda: _tree(crown, trunk, rng), 4)
    return (
        parts,
        [sun(28, rng.uniform(-70, 70), (1.1, 1.1, 1.1))],
        Sky((0.45, 0.6, 0.85), (0.85, 0.9, 0.96), (0.6, 0.65, 0.7), 0.7, 0.8),
        0.02,
    )


def city(rng: np.random.Generator):
    walls = [
        _material("bricks", "b5533c", "e0cfc0", 3),
        _material("tiles", "5d7b93", "c9d6df", 2),
        _material("checker", "d9c27c", "8f7a4a", 1.5),
    ]

    def block() -> list[Part]:
        half = rng.uniform((0.4, 0.4, 0.6), (0.6, 0.6, 1.4))
        return [part(Box(), walls[rng.integers(3)], (0, 0, half[2]), half)]

    parts = [_ground(_material("tiles", "9aa0a6", "6c7278", 1.2)), *_around(rng, block, 5)]
    return (
        parts,
        [sun(45, rng.uniform(-70, 70), (1.3, 1.25, 1.2))],
        Sky((0.3, 0.5, 0.85), (0.8, 0.86, 0.92), (0.35, 0.35, 0.35), 0.7, 0.9),
        0.01,
    )


def night(rng: np.random.Generator):
    crown, trunk = _material("plain", "1f3d4d", "1f3d4d"), _material("plain", "2b2233", "2b2233")
    glow = Material("plain", ((0.95, 0.9, 0.7),) * 2, glow=1.4, mottle=0.0)
    moon = part(Ball(), glow, (-14.0, rng.uniform(-3, 3), 6.5), 0.9)
    parts = [
        _ground(_material("cloudy", "35506b", "27405a", 1.5)),
        moon,
        *_around(rng, lambda: _tree(crown, trunk, rng), 4),
    ]
    lamp = Light(np.array([2.5, rng.uniform(-2, 2), 4.0]), 0.25, (0.8, 0.85, 1.0), 4.0)
    return parts, [lamp], Sky((0.02, 0.03, 0.12), (0.12, 0.14, 0.32), (0.05, 0.06, 0.1), 0.9), 0.0


def beach(rng: np.random.Generator):
    palm, trunk = _material("plain", "2f9e6e", "2f9e6e"), _material("stripes", "a9763f", "7f4f24", 8)

    def tree() -> list[Part]:
        fronds = [
            part(Ball(), palm, (0.25 * np.cos(a), 0.25 * np.sin(a), 1.0), (0.3, 0.09, 0.04), turn("z", np.degrees(a)))
            for a in np.arange(5) * 1.2566
        ]
        return [part(Frustum(0.6), trunk, (0, 0, 0.5), (0.06, 0.06, 0.5)), *fronds]

    sea = part(Box(), _material("marble", "1f8fb8", "5cc6d8", 1.0, 0.5), (-12.5, 0, 0), (8.0, 25, 0.02))
    parts = [_ground(_material("cloudy", "f3dfae", "e8cd8f", 1.5)), sea, *_around(rng, tree, 3, (1.4, 2.2))]
    return (
        parts,
        [sun(55, rng.uniform(-70, 70), (1.5, 1.4, 1.25))],
        Sky((0.15, 0.45, 0.9), (0.75, 0.9, 0.98), (0.5, 0.45, 0.35), 0.75, 0.5),
        0.004,
    )


def room(rng: np.random.Generator):
    wall, wood = _material("stripes", "cfe3d4", "b9d4c2", 1.5), _material("wood", "8a5a33", "a9743f", 4)
    parts = [
        part(Room(), wall, (0, 0, 1.6), (4.4, 3.6, 1.6)),
        part(Box(), _material("planks", "b98a5a", "96683c", 2.5), (0, 0, -0.005), (4.4, 3.6, 0.005)),
        part(Frustum(), _material("dots", "c8553d", "f2d0a4", 2), (0, 0, 0), (1.5, 1.5, 0.01)),
        part(Box(), _material("plain", "88c0e8", "88c0e8"), (-4.36, rng.uniform(-1, 1), 1.7), (0.03, 0.7, 0.6)),
    ]
    parts += moved(props.table(rng, lambda *_: wood), (-2.9, rng.choice([-1.9, 1.9]), 0), turn("z", 90), 1.3)
    parts += moved(
        props.chair(rng, lambda *_: wood), (-2.6, rng.uniform(-0.5, 0.5), 0), turn("z", rng.uniform(-40, 40)), 1.2
    )
    lamp = Light(np.array([0.6, rng.uniform(-1, 1), 2.9]), 0.2, (1.1, 1.0, 0.85), 2.6)
    return parts, [lamp], Sky((0.8, 0.85, 0.9), (0.85, 0.82, 0.78), (0.5, 0.42, 0.35), 0.6), 0.0


PLACES = {place.__name__: place for place in (meadow, desert, snow, city, night, beach, room)}
WHERE = {
    "meadow": "in a meadow",
    "desert": "in the desert",
    "snow": "in the snow",
    "city": "in a city street",
    "night": "at night under the moon",
    "beach": "on the beach",
    "room": "in a living room",
}
