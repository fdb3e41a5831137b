"""Procedural textures, filtered for the size of a pixel so that they never alias.

A pattern maps texture coordinates to weights in [0, 1] that mix a material's two colours. `at.p` (3, N) are coordinates
in cells of the pattern, `at.width` (N,) is how many cells one pixel spans; patterns fade to their mean as it grows.
On flat shapes the axis along the normal is constant, so that a pattern lies on a face instead of cutting through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vstrain.data import keyed

LATTICE = 32
CORNER = np.array([0, 1], np.int32)[None, :, None]
NOISE = keyed.rng(0, "procedural/noise").random(LATTICE**3, dtype=np.float32)


@dataclass(frozen=True)
class Material:
    """`colours`: two linear RGB albedos. `cells`: pattern cells per metre along each axis. `gloss` in [0, 1]: strength of
    highlights and reflections. `mottle` in [0, 1]: uneven brightness on top of the pattern. `glow`: light of its own."""

    pattern: str
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    cells: tuple[float, float, float] = (2.0, 2.0, 2.0)
    phase: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gloss: float = 0.1
    mottle: float = 0.1
    glow: float = 0.0


class At(NamedTuple):
    p: np.ndarray
    u: np.ndarray  # two coordinates that always run along a face: v upwards on walls
    v: np.ndarray
    width: np.ndarray


def locate(p: np.ndarray, normal: np.ndarray | None, material: Material, footprint: np.ndarray) -> At:
    """Texture coordinates of points p (3, N) in metres; `normal` (3, N) for flat shapes; `footprint` (N,) metres a pixel."""
    cells = np.array(material.cells, np.float32)[:, None]
    p = p.astype(np.float32) * cells + np.array(material.phase, np.float32)[:, None]
    width = footprint.astype(np.float32) * cells.max()
    if normal is None:
        return At(p, p[0] + p[1], p[2], width)
    axis = np.abs(normal).argmax(0)
    p = np.where(axis == np.arange(3)[:, None], np.float32(0.5), p)
    return At(p, np.where(axis == 0, p[1], p[0]), np.where(axis == 2, p[1], p[2]), width)


def albedo(material: Material, at: At) -> np.ndarray:
    """Linear RGB (3, N)."""
    weight = PATTERNS[material.pattern](at)
    first, second = (np.array(colour, np.float32)[:, None] for colour in material.colours)
    colour = first + (second - first) * weight
    if material.mottle:
        colour = colour * (
            1 + material.mottle * (2 * fbm(at.p * np.float32(1.7) + np.float32(5.3), at.width * 1.7, 1) - 1)
        )
    return colour


def lattice_noise(p: np.ndarray) -> np.ndarray:
    """Value noise in [0, 1] on the integer lattice, period 32, at p (3, N)."""
    base = np.floor(p)
    x, y, z = p - base
    corner = (base.astype(np.int32)[:, None] + CORNER) & (LATTICE - 1)
    value = NOISE[corner[0] + LATTICE * corner[1][:, None] + LATTICE**2 * corner[2][:, None, None]]
    for f in (z, y, x):
        value = value[0] + f * f * (3 - 2 * f) * (value[1] - value[0])
    return value


def fbm(p: np.ndarray, width: np.ndarray, octaves: int) -> np.ndarray:
    """Noise of several scales in [0, 1] around 0.5; scales finer than a pixel fade out."""
    total, share = np.full(p.shape[1], 0.5, np.float32), 0.5
    for k in range(octaves):
        fade = np.clip(1.5 - width * 2**k, 0, 1)
        total += share * fade * (lattice_noise(p * np.float32(2**k) + np.float32(7.1 * k)) - 0.5) * 1.4
        share /= 2
    return np.clip(total, 0, 1)


def _edge(x: np.ndarray, width: np.ndarray) -> np.ndarray:
    """A step at 0, as wide as a pixel."""
    return np.clip(x / np.maximum(width, 1e-4) + 0.5, 0, 1)


def _wave(x: np.ndarray, width: np.ndarray) -> np.ndarray:
    """A square wave of period 1."""
    return _edge(np.abs(x - np.floor(x + 0.5)) - 0.25, width)


def _plain(at: At) -> np.ndarray:
    return np.zeros_like(at.width)


def _stripes(at: At) -> np.ndarray:
    return _wave(at.v, at.width)


def _diagonal(at: At) -> np.ndarray:
    return _wave(at.u + at.v, 1.4 * at.width)


def _checker(at: At) -> np.ndarray:
    x, y, z = (2 * _wave(axis, at.width) - 1 for axis in at.p)
    return 0.5 + 0.5 * x * y * z


def _dots(at: At) -> np.ndarray:
    offset = at.p - np.floor(at.p) - 0.5
    return _edge(0.36 - np.sqrt(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2), at.width)


def _bricks(at: At) -> np.ndarray:
    row = np.floor(at.v)
    u = at.u / 2 + row * 0.5
    to_edge = np.minimum(0.5 - np.abs(u - np.floor(u) - 0.5), (0.5 - np.abs(at.v - row - 0.5)) / 2) * 2
    tone = lattice_noise(np.stack([np.floor(u), row, 0 * row]))
    return (1 - _edge(to_edge - 0.07, at.width)) + 0.25 * tone * _edge(to_edge - 0.07, at.width)


def _planks(at: At) -> np.ndarray:
    row = np.floor(at.u)
    tone = lattice_noise(np.stack([row, np.floor(at.v / 5 + row * 0.37), 0 * row]))
    grain = fbm(np.stack([at.u * 5, at.v * 0.6, row]), 5 * at.width, 2)
    seam = 1 - _edge(0.5 - np.abs(at.u - row - 0.5) - 0.03, at.width)
    return np.clip(0.55 * tone + 0.5 * grain - 0.1 + 0.5 * seam, 0, 1)


def _tiles(at: At) -> np.ndarray:
    inside = np.minimum(0.5 - np.abs(at.u - np.floor(at.u) - 0.5), 0.5 - np.abs(at.v - np.floor(at.v) - 0.5))
    tone = lattice_noise(np.stack([np.floor(at.u), np.floor(at.v), 0 * at.u]))
    return 1 - _edge(inside - 0.04, at.width) * (1 - 0.2 * tone)


def _cloudy(at: At) -> np.ndarray:
    x = np.clip((fbm(at.p, at.width, 4) - 0.25) * 2, 0, 1)
    return x * x * (3 - 2 * x)


def _spots(at: At) -> np.ndarray:
    return _edge(fbm(at.p, at.width, 2) - 0.52, 0.04 + at.width)


def _marble(at: At) -> np.ndarray:
    warped = at.p[0] * 0.7 + at.v + 3.5 * fbm(at.p, at.width, 4)
    return np.abs(np.sin(2.2 * warped)) ** 2 * np.clip(1.3 - at.width, 0, 1)


def _wood(at: At) -> np.ndarray:
    rings = np.hypot(at.p[0], at.p[1]) * 1.6 + 1.3 * fbm(at.p * np.float32(0.6), at.width, 2)
    saw = rings - np.floor(rings)
    return np.where(saw < 0.75, saw / 0.75, (1 - saw) / 0.25) * np.clip(1.3 - at.width, 0, 1)


PATTERNS = {
    "plain": _plain,
    "stripes": _stripes,
    "diagonal": _diagonal,
    "checker": _checker,
    "dots": _dots,
    "bricks": _bricks,
    "planks": _planks,
    "tiles": _tiles,
    "cloudy": _cloudy,
    "spots": _spots,
    "marble": _marble,
    "wood": _wood,
}
