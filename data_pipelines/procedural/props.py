"""Things made of a few parts. Each stands on z = 0 about the origin and is about one metre large; `scene.moved` places it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_pipelines.procedural import looks
from data_pipelines.procedural.camera import turn
from data_pipelines.procedural.looks import Look
from data_pipelines.procedural.scene import Colour, Part, part
from data_pipelines.procedural.shapes import GLYPHS, Ball, Box, Frustum, Prism, blob, star
from data_pipelines.procedural.texture import Material

Paint = Callable[..., Material]  # (size, patterns=None) -> a new material


def painter(rng: np.random.Generator, colours: list[Colour], look: Look) -> Paint:
    return lambda size=0.5, patterns=None: looks.material(rng, colours, look, size, patterns)


def box(rng: np.random.Generator, paint: Paint) -> list[Part]:
    half = rng.uniform(0.2, 0.5, 3)
    return [part(Box(), paint(), (0, 0, half[2]), half)]


def ball(rng: np.random.Generator, paint: Paint) -> list[Part]:
    radius = rng.uniform(0.25, 0.5)
    return [part(Ball(), paint(), (0, 0, radius), radius)]


def pillar(rng: np.random.Generator, paint: Paint) -> list[Part]:
    radius, half = rng.uniform(0.15, 0.45), rng.uniform(0.2, 0.6)
    return [part(Frustum(rng.choice([0.0, 0.6, 1.0])), paint(), (0, 0, half), (radius, radius, half))]


def drum(rng: np.random.Generator, paint: Paint) -> list[Part]:
    """A cylinder on its side."""
    radius, half = rng.uniform(0.15, 0.35), rng.uniform(0.2, 0.5)
    return [part(Frustum(), paint(), (0, 0, radius), (radius, radius, half), turn("y", 90))]


def letter(rng: np.random.Generator, paint: Paint) -> list[Part]:
    rings = GLYPHS[list(GLYPHS)[rng.integers(len(GLYPHS))]]
    deep = rng.uniform(0.1, 0.25)
    return [part(Prism(rings), paint(), (0, 0, 0.4), (0.55, 0.55, deep), turn("z", 90) @ turn("x", 90))]


def rock(rng: np.random.Generator, paint: Paint) -> list[Part]:
    """An extruded blob, lying."""
    half = rng.uniform(0.1, 0.35)
    return [part(Prism(blob(rng)), paint(), (0, 0, half), (0.5, 0.5, half))]


def table(rng: np.random.Generator, paint: Paint) -> list[Part]:
    wide, deep, high = rng.uniform(0.45, 0.8), rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.5)
    top, leg = paint(0.6), paint(0.3)
    corners = [(sx * (wide - 0.08), sy * (deep - 0.08)) for sx in (-1, 1) for sy in (-1, 1)]
    legs = [part(Frustum(), leg, (x, y, high / 2), (0.045, 0.045, high / 2)) for x, y in corners]
    things = [box, ball, pillar][rng.integers(3)](rng, paint)
    small = [
        part(one.shape, one.material, one.position * 0.35 + [0, 0, 2 * 0.03 + high], one.scale * 0.35) for one in things
    ]
    return [part(Box(), top, (0, 0, high + 0.03), (wide, deep, 0.03)), *legs, *small]


def chair(rng: np.random.Generator, paint: Paint) -> list[Part]:
    wood, high = paint(0.4), rng.uniform(0.35, 0.5)
    legs = [part(Box(), wood, (x, y, high / 2), (0.03, 0.03, high / 2)) for x in (-0.2, 0.2) for y in (-0.2, 0.2)]
    return [
        part(Box(), wood, (0, 0, high), (0.24, 0.24, 0.03)),
        part(Box(), paint(0.4), (-0.21, 0, high + 0.3), (0.03, 0.24, 0.3)),
        *legs,
    ]


def tree(rng: np.random.Generator, paint: Paint) -> list[Part]:
    trunk, crown = paint(0.4, ("wood", "cloudy")), paint(0.5, ("spots", "cloudy", "plain"))
    high = rng.uniform(0.3, 0.6)
    parts = [part(Frustum(0.7), trunk, (0, 0, high / 2), (0.07, 0.07, high / 2))]
    if rng.random() < 0.5:
        sizes = ((0.45, 0.0), (0.36, 0.28), (0.26, 0.54))
        return parts + [part(Frustum(0.0), crown, (0, 0, high + z + 0.2), (r, r, 0.25)) for r, z in sizes]
    return parts + [
        part(Ball(), crown, (*rng.uniform(-0.18, 0.18, 2), high + 0.15 + 0.2 * k), rng.uniform(0.25, 0.38))
        for k in range(3)
    ]


def tower(rng: np.random.Generator, paint: Paint) -> list[Part]:
    """A few blocks on top of each other, each a little turned and smaller."""
    parts, z, half = [], 0.0, 0.45
    for _ in range(rng.integers(2, 5)):
        high = rng.uniform(0.12, 0.3)
        shape = (Box(), Frustum(), Frustum(0.7), Prism(star(6, 0.7)))[rng.integers(4)]
        parts.append(part(shape, paint(), (0, 0, z + high), (half, half, high), turn("z", rng.uniform(0, 90))))
        z, half = z + 2 * high, half * rng.uniform(0.55, 0.9)
    return [*parts, part(Ball(), paint(0.3), (0, 0, z + half * 0.6), half * 0.6)]


def arch(rng: np.random.Generator, paint: Paint) -> list[Part]:
    pillars, thick, high = paint(), rng.uniform(0.08, 0.15), rng.uniform(0.3, 0.5)
    return [part(Box(), pillars, (0, side, high), (thick, thick, high)) for side in (-0.35, 0.35)] + [
        part(Box(), paint(), (0, 0, 2 * high + 0.1), (thick * 1.3, 0.35 + 1.5 * thick, 0.1))
    ]


def dumbbell(rng: np.random.Generator, paint: Paint) -> list[Part]:
    ends, r = paint(0.4), rng.uniform(0.18, 0.28)
    return [part(Frustum(), paint(0.4), (0, 0, r), (0.07, 0.07, 0.4), turn("x", 90))] + [
        part(Ball(), ends, (0, side, r), r) for side in (-0.4, 0.4)
    ]


def house(rng: np.random.Generator, paint: Paint) -> list[Part]:
    wide, deep, high = rng.uniform(0.3, 0.5), rng.uniform(0.3, 0.5), rng.uniform(0.25, 0.5)
    gable = Prism((((-1.0, -0.5), (1.0, -0.5), (0.0, 0.6)),))
    door = paint(0.5, ("plain",))
    return [
        part(Box(), paint(0.6), (0, 0, high), (wide, deep, high)),
        part(gable, paint(0.5), (0, 0, 2 * high + 0.2), (deep * 1.15, 0.4, wide * 1.1), turn("z", 90) @ turn("x", 90)),
        part(Box(), door, (wide, 0, high * 0.5), (0.02, 0.1, high * 0.5)),
        part(Box(), door, (wide, deep * 0.55, high * 1.2), (0.02, 0.08, 0.1)),
    ]


def snowman(rng: np.random.Generator, paint: Paint) -> list[Part]:
    body, r = paint(), rng.uniform(0.25, 0.35)
    return [
        part(Ball(), body, (0, 0, r), r),
        part(Ball(), body, (0, 0, 2.5 * r), 0.75 * r),
        part(Ball(), body, (0, 0, 3.55 * r), 0.5 * r),
        part(Frustum(), paint(0.3), (0, 0, 4.15 * r), (0.42 * r, 0.42 * r, 0.3 * r)),
        part(Frustum(0.0), paint(0.3), (0.6 * r, 0, 3.55 * r), (0.05, 0.05, 0.12), turn("y", 90)),
    ]


SMALL = (box, ball, pillar, drum, letter, rock, tower, dumbbell, snowman)
FURNITURE = (table, chair, box, tower, pillar, arch)
OUTDOOR = (tree, tree, house, rock, arch, box, ball, tower, letter, drum, snowman)
COMPOSITE = (table, chair, tree, tower, arch, dumbbell, house, snowman)
