"""Named characters: creatures out of primitives whose identity is a handful of factors, and how they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_pipelines.procedural import looks
from data_pipelines.procedural.camera import turn
from data_pipelines.procedural.scene import Part, moved, part
from data_pipelines.procedural.shapes import GLYPHS, Ball, Box, Frustum, Prism, Shape
from data_pipelines.procedural.texture import Material

NAMES = ("Pip", "Momo", "Bolt", "Luna", "Toto", "Zuzu", "Kiko", "Nilo", "Vera", "Otis", "Ruby", "Finn")
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "white", "brown")
PATTERNS = ("plain", "stripes", "dots", "checker", "spots", "diagonal")
BODIES: dict[str, tuple[Shape, tuple[float, float, float]]] = {
    "round": (Ball(), (0.42, 0.42, 0.42)),
    "square": (Box(), (0.34, 0.36, 0.38)),
    "tall": (Frustum(), (0.28, 0.3, 0.5)),
    "cone-shaped": (Frustum(0.35), (0.42, 0.42, 0.45)),
    "egg-shaped": (Ball(), (0.34, 0.36, 0.5)),
}
EXTRAS = ("ears", "horns", "hat", "star", "nothing")
WITH = {
    "ears": "long ears",
    "horns": "two horns",
    "hat": "a hat",
    "star": "a star on its head",
    "nothing": "a bare head",
}


@dataclass(frozen=True)
class Character:
    """All that makes a character itself; nothing of it ever changes between shots."""

    name: str
    body: str
    colour: str
    second: str
    pattern: str
    extra: str

    @property
    def description(self) -> str:
        coat = (
            self.colour if self.pattern == "plain" else f"{self.colour} and {self.second} {looks.CALLED[self.pattern]}"
        )
        return f"{'an' if coat[0] in 'aeiou' else 'a'} {coat} {self.body} creature with {WITH[self.extra]}"


def character(rng: np.random.Generator, name: str, colour: str) -> Character:
    second = [other for other in COLOURS if other != colour][rng.integers(len(COLOURS) - 1)]
    body, pattern, extra = (list(each)[rng.integers(len(each))] for each in (BODIES, PATTERNS, EXTRAS))
    return Character(name, body, colour, second, pattern, extra)


def build(who: Character, step: float = 0.0) -> list[Part]:
    """The creature on z = 0, about a metre high, facing +x; `step` in [-1, 1] swings its feet."""
    first, second = looks.linear(looks.NAMED[who.colour]), looks.linear(looks.NAMED[who.second])
    coat = Material(who.pattern, (first, second), (4.0,) * 3, (0.25, 0.25, 0.1), gloss=0.15, mottle=0.0)
    trim = Material("plain", (second, second), gloss=0.15, mottle=0.0)
    white = Material("plain", ((0.95,) * 3,) * 2, gloss=0.3, mottle=0.0)
    black = Material("plain", ((0.01,) * 3,) * 2, gloss=0.5, mottle=0.0)
    shape, half = BODIES[who.body]
    lift = 0.12 + half[2]
    parts = [part(shape, coat, (0, 0, lift), half)]
    eye, front = lift + 0.3 * half[2], half[0] * (0.72 if who.body == "cone-shaped" else 0.9)
    for side in (-1, 1):
        parts += [
            part(Ball(), white, (front, 0.15 * side, eye), 0.125),
            part(Ball(), black, (front + 0.085, 0.155 * side, eye + 0.01), 0.065),
            part(Ball(), trim, (0.05 + 0.16 * step * side, 0.2 * side, 0.08), (0.16, 0.11, 0.08)),
        ]
    return parts + _extra(who.extra, trim, lift + half[2] * 0.93)


def _extra(extra: str, trim: Material, top: float) -> list[Part]:
    match extra:
        case "ears":
            return [
                part(Ball(), trim, (0, 0.16 * side, top + 0.2), (0.07, 0.09, 0.28), turn("x", -14 * side))
                for side in (-1, 1)
            ]
        case "horns":
            return [
                part(Frustum(0.0), trim, (0, 0.2 * side, top + 0.08), (0.09, 0.09, 0.18), turn("x", -22 * side))
                for side in (-1, 1)
            ]
        case "hat":
            return [
                part(Frustum(), trim, (0, 0, top + 0.02), (0.3, 0.3, 0.025)),
                part(Frustum(0.85), trim, (0, 0, top + 0.17), (0.19, 0.19, 0.15)),
            ]
        case "star":
            return [
                part(Prism(GLYPHS["star"]), trim, (0, 0, top + 0.2), (0.22, 0.22, 0.06), turn("z", 90) @ turn("x", 90))
            ]
    return []


@dataclass(frozen=True)
class Pose:
    """Where a creature is relative to its mark. `tumble`: axis and degrees of a turn about a point half a metre up."""

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tumble: tuple[str, float] = ("x", 0.0)
    spin: float = 0.0
    step: float = 0.0


def walks(t: float, along: float) -> Pose:
    return Pose(
        (0.0, along * (2 * t - 1), 0.05 * abs(np.sin(6 * np.pi * t))),
        ("x", 4 * np.sin(6 * np.pi * t)),
        90 * np.sign(along) * 0.55,
        np.sin(6 * np.pi * t),
    )


def runs(t: float, along: float) -> Pose:
    """Speeds up all the way."""
    return Pose(
        (0.0, along * 1.6 * (t * t - 0.5), 0.12 * abs(np.sin(10 * np.pi * t * t))),
        ("y", 12.0),
        90 * np.sign(along) * 0.55,
        np.sin(10 * np.pi * t * t),
    )


def jumps(t: float, along: float) -> Pose:
    """Two parabolas."""
    s = (2 * t) % 1.0
    return Pose((0.0, 0.4 * along * (2 * t - 1), 2.4 * s * (1 - s)), step=0.5)


def spins(t: float, along: float) -> Pose:
    return Pose(spin=float(360 * np.sign(along) * t * t * (3 - 2 * t)))


def rolls(t: float, along: float) -> Pose:
    return Pose((0.0, along * (2 * t - 1), 0.0), ("x", -360 * np.sign(along) * t))


def dances(t: float, along: float) -> Pose:
    beat = 4 * np.pi * t
    return Pose((0.0, 0.25 * np.sin(beat), 0.08 * abs(np.cos(beat))), ("x", -16 * np.sin(beat)), 20 * np.sin(beat / 2))


ACTIVITIES: dict[str, Callable[[float, float], Pose]] = {
    act.__name__: act for act in (walks, runs, jumps, spins, rolls, dances)
}


def act(who: Character, activity: str, t: float, along: float, mark, facing: float, group: int) -> list[Part]:
    """The creature at time t in [0, 1] of its activity. `mark`: where on the ground; `facing`: degrees from +x to its front;
    `along`: metres and sign of the sideways way."""
    pose = ACTIVITIES[activity](t, along)
    middle = np.array([0.0, 0.0, 0.5])
    parts = moved(moved(build(who, pose.step), -middle), middle, turn(*pose.tumble))
    parts = moved(parts, rotation=turn("z", pose.spin))
    parts = moved(parts, pose.shift)
    return moved(parts, mark, turn("z", facing), group=group)
