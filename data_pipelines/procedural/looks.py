"""Palettes, materials and light, in two looks: a clean synthetic one and a rougher one that stands in for real photos."""

from __future__ import annotations

from typing import Literal

import numpy as np

from data_pipelines.procedural.scene import Colour, Light, Sky, sun
from data_pipelines.procedural.texture import Material

Look = Literal["synthetic", "real"]

# Each palette: five sRGB colours that go together.
CLEAN = (
    "264653 2a9d8f e9c46a f4a261 e76f51",
    "e63946 f1faee a8dadc 457b9d 1d3557",
    "8ecae6 219ebc 126782 ffb703 fb8500",
    "606c38 283618 fefae0 dda15e bc6c25",
    "ffb4a2 e5989b b5838d 6d6875 43405d",
    "003049 d62828 f77f00 fcbf49 eae2b7",
    "f94144 f8961e f9c74f 90be6d 577590",
    "7b2cbf c77dff ff9e00 ff6d00 33115c",
    "5f0f40 9a031e fb8b24 e36414 0f4c5c",
    "d8f3dc 95d5b2 52b788 2d6a4f 1b4332",
)
ROUGH = (
    "6b5b4b 8d7b66 a89a83 57503f c2b59b",
    "4f5a52 6f7a69 8f947e 3c4038 a9a791",
    "5b6068 7b8088 9a9c9c 44474d b8b3aa",
    "7a4b3a 9b6a4d b88b66 553a30 cbb093",
    "3f4a5a 5d6b7b 8492a0 2d333d a5acb0",
    "59603c 777a4a 94905f 41432b b3a878",
)
CLEAN_PATTERNS = ("plain", "plain", "stripes", "diagonal", "checker", "dots", "bricks", "wood", "spots", "marble")
ROUGH_PATTERNS = ("cloudy", "cloudy", "spots", "marble", "wood", "planks", "bricks", "tiles", "plain")


def linear(colour: str) -> Colour:
    """'rrggbb' sRGB to linear RGB in [0, 1]."""
    return tuple((int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (0, 2, 4))


def palette(rng: np.random.Generator, look: Look) -> list[Colour]:
    chosen = CLEAN if look == "synthetic" else ROUGH
    return [linear(colour) for colour in chosen[rng.integers(len(chosen))].split()]


def material(
    rng: np.random.Generator,
    colours: list[Colour],
    look: Look,
    size: float = 0.5,
    patterns: tuple[str, ...] | None = None,
) -> Material:
    """A material for a thing about `size` metres large: its pattern shows three to nine cells across."""
    patterns = patterns or (CLEAN_PATTERNS if look == "synthetic" else ROUGH_PATTERNS)
    first, second = rng.permutation(len(colours))[:2]
    pattern = patterns[rng.integers(len(patterns))]
    cells = rng.uniform(1.5, 4.5) / size * np.ones(3)
    if pattern in ("cloudy", "marble", "spots"):
        cells *= rng.uniform(0.6, 1.4, 3)
    rough = look == "real"
    return Material(
        pattern,
        (colours[first], colours[second]),
        tuple(cells.tolist()),
        tuple(rng.uniform(0, 32, 3).tolist()),
        gloss=float(rng.choice([0.0, 0.15, 0.5], p=[0.7, 0.2, 0.1] if rough else [0.3, 0.4, 0.3])),
        mottle=float(rng.uniform(0.3, 0.6) if rough else rng.uniform(0.0, 0.15)),
    )


def daylight(rng: np.random.Generator, look: Look) -> tuple[Sky, list[Light]]:
    if look == "synthetic":
        tint = rng.uniform(0, 1)
        sky = Sky(
            (0.16 + 0.1 * tint, 0.38, 0.85),
            (0.75, 0.86 - 0.1 * tint, 0.95 - 0.25 * tint),
            (0.35, 0.33, 0.3),
            ambient=0.75,
            clouds=float(rng.uniform(0, 1)),
        )
        return sky, [sun(rng.uniform(30, 65), rng.uniform(0, 360), (1.5, 1.4, 1.25), 0.03)]
    grey, warm = rng.uniform(0.4, 0.8), rng.uniform(0.0, 0.25)
    sky = Sky(
        (grey * 0.75, grey * 0.82, grey),
        (grey + warm, grey + warm / 3, grey),
        (0.2, 0.19, 0.17),
        ambient=float(rng.uniform(0.5, 1.0)),
        clouds=float(rng.uniform(0.5, 1.5)),
    )
    strength = rng.uniform(0.3, 2.2)
    colour = (strength, strength * (0.9 - 0.6 * warm), strength * (0.8 - 1.2 * warm))
    return sky, [sun(rng.uniform(10, 50), rng.uniform(0, 360), colour, float(rng.uniform(0.02, 0.12)))]


def lamplight(rng: np.random.Generator, look: Look, half: np.ndarray) -> tuple[Sky, list[Light]]:
    """Light for a room of half-sizes `half` (3,) whose floor is at z = 0."""
    if look == "synthetic":
        sky, colour = Sky((0.8, 0.85, 0.95), (0.85, 0.82, 0.78), (0.5, 0.45, 0.4), ambient=0.55), (1.15, 1.05, 0.92)
    else:
        warm, dim = rng.uniform(0.5, 1.0), rng.uniform(0.2, 0.45)
        sky = Sky((0.6, 0.6, 0.6), (0.6, 0.55, 0.5), (0.35, 0.3, 0.25), ambient=dim)
        colour = tuple((rng.uniform(0.7, 1.6) * np.array([1.0, 0.6 + 0.3 * warm, 0.3 + 0.5 * warm])).tolist())
    where = np.array([*(half[:2] * rng.uniform(-0.6, 0.6, 2)), 2 * half[2] * rng.uniform(0.8, 0.92)])
    return sky, [Light(where, float(rng.uniform(0.12, 0.3)), colour, float(half[2] * 1.4 + 0.5))]


NAMED = {
    "red": "d62839",
    "orange": "f77f00",
    "yellow": "f9c74f",
    "green": "52b14a",
    "teal": "2a9d8f",
    "blue": "2f6fde",
    "purple": "7b4fb0",
    "pink": "f28ab2",
    "brown": "7f4f24",
    "beige": "e3d5b0",
    "white": "f4f1ea",
    "grey": "8d8d8d",
    "black": "20222b",
    "olive": "6b7a3a",
    "navy": "1d3557",
}
CALLED = {
    "plain": "plain",
    "stripes": "striped",
    "diagonal": "diagonally striped",
    "checker": "checkered",
    "dots": "dotted",
    "bricks": "brick-patterned",
    "planks": "wooden",
    "tiles": "tiled",
    "cloudy": "cloudy",
    "spots": "spotted",
    "marble": "marbled",
    "wood": "wooden",
}


def colour_name(colour: Colour) -> str:
    """The nearest of the NAMED colours."""
    perceived = np.array(colour) ** (1 / 2.2)
    return min(NAMED, key=lambda name: float(((np.array(linear(NAMED[name])) ** (1 / 2.2) - perceived) ** 2).sum()))


def describe(material: Material) -> str:
    """For example "blue and white striped"."""
    first, second = (colour_name(colour) for colour in material.colours)
    if material.pattern == "plain":
        return first
    return (
        f"{CALLED[material.pattern]} {first}" if first == second else f"{first} and {second} {CALLED[material.pattern]}"
    )
