"""Exact ray intersections with unit shapes, each in its own local frame.

Rays are origins (3, 1) or (3, N) and directions (3, N), float64, of any length: the answer `t` (N,) counts in lengths of
the direction, and np.inf is a miss. Because an affine map of a ray keeps `t`, a pose may scale a shape along its axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

EPSILON = 1e-9
TINY = 1e-12


def _nearest(*candidates: np.ndarray) -> np.ndarray:
    """The smallest t in front of the origin among candidates (N,), np.inf where there is none."""
    t = np.full_like(candidates[0], np.inf)
    for candidate in candidates:
        np.minimum(t, candidate, out=t, where=candidate > EPSILON)
    return t


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(3, N) . (3, N) -> (N,); several times faster than a sum over the first axis."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _away_from_zero(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < TINY, x.dtype.type(TINY), x)


class Shape:
    """`flat`: made of planes, so textures lie on its faces instead of running through its body."""

    flat = False
    closed = True  # has an outside that rays come from, so it can cast a shadow

    def intersect(self, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def normal(self, p: np.ndarray) -> np.ndarray:
        """Outward normals (3, N), any length, at surface points p (3, N)."""
        raise NotImplementedError

    @cached_property
    def outline(self) -> np.ndarray:
        """Points (3, K) whose convex hull is the shape's (for a ball to within one per cent)."""
        raise NotImplementedError

    def rest(self, p: np.ndarray) -> np.ndarray:
        """Where the surface points p (3, N) lie when the shape is not bent."""
        return p

    def bent(self, p: np.ndarray) -> np.ndarray:
        """The inverse of `rest`."""
        return p


class Ball(Shape):
    """x^2 + y^2 + z^2 <= 1."""

    def intersect(self, o, d):
        a, b, c = dot(d, d), dot(o, d), dot(o, o) - 1
        inside = b * b - a * c
        root = np.sqrt(np.maximum(inside, 0))
        return np.where(inside > 0, _nearest((-b - root) / a, (-b + root) / a), np.inf)

    def normal(self, p):
        return p

    @cached_property
    def outline(self):
        z = np.linspace(-1, 1, 400)
        turn = np.arange(400) * np.pi * (3 - np.sqrt(5))
        return np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z])


class Box(Shape):
    """The cube [-1, 1]^3."""

    flat = True

    def intersect(self, o, d):
        d = _away_from_zero(d)
        low, high = (-1 - o) / d, (1 - o) / d
        first, last = np.minimum(low, high), np.maximum(low, high)
        enter = np.maximum(np.maximum(first[0], first[1]), first[2])
        leave = np.minimum(np.minimum(last[0], last[1]), last[2])
        return np.where(enter < leave, _nearest(enter, leave), np.inf)

    def normal(self, p):
        axis = np.abs(p).argmax(0)
        return np.where(axis == np.arange(3)[:, None], np.sign(p), 0.0)

    @cached_property
    def outline(self):
        return np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), float).reshape(3, -1)


class Room(Box):
    """The cube [-1, 1]^3 seen from within; it casts no shadow."""

    closed = False


class Disc(Shape):
    """z = 0, x^2 + y^2 <= 1: floors and open ground; it casts no shadow."""

    flat = True
    closed = False

    def intersect(self, o, d):
        t = _nearest(-o[2] / _away_from_zero(d[2]))
        with np.errstate(invalid="ignore"):
            x, y = o[0] + t * d[0], o[1] + t * d[1]
            return np.where(x * x + y * y <= 1, t, np.inf)

    def normal(self, p):
        return np.array([0.0, 0.0, 1.0])[:, None] + 0 * p

    @cached_property
    def outline(self):
        turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        return np.stack([np.cos(turn), np.sin(turn), 0 * turn])


@dataclass(frozen=True)
class Frustum(Shape):
    """Round about z, |z| <= 1, radius 1 at the bottom and `top` at the top: 1 is a cylinder, 0 a cone."""

    top: float = 1.0

    def _radius(self, z):
        return (1 + self.top) / 2 + (self.top - 1) / 2 * z

    def intersect(self, o, d):
        slope = (self.top - 1) / 2
        radius = self._radius(o[2])
        a = d[0] ** 2 + d[1] ** 2 - (slope * d[2]) ** 2
        b = o[0] * d[0] + o[1] * d[1] - slope * d[2] * radius
        c = o[0] ** 2 + o[1] ** 2 - radius**2
        inside = b * b - a * c
        root = np.sqrt(np.maximum(inside, 0))
        a = _away_from_zero(a)
        sides = [
            np.where((inside > 0) & (np.abs(o[2] + t * d[2]) <= 1), t, np.inf)
            for t in ((-b - root) / a, (-b + root) / a)
        ]
        caps = []
        for end in (-1.0, 1.0):
            t = (end - o[2]) / _away_from_zero(d[2])
            x, y = o[0] + t * d[0], o[1] + t * d[1]
            caps.append(np.where(x * x + y * y <= self._radius(end) ** 2, t, np.inf))
        return _nearest(*sides, *caps)

    def normal(self, p):
        r = np.hypot(p[0], p[1])
        side = np.stack([p[0], p[1], -(self.top - 1) / 2 * r])
        on_cap = np.abs(np.abs(p[2]) - 1) < np.abs(r - self._radius(p[2]))
        return np.where(on_cap, np.stack([0 * r, 0 * r, np.sign(p[2])]), side)

    @cached_property
    def outline(self):
        rim = Disc().outline
        up = np.array([[0.0], [0.0], [1.0]])
        return np.concatenate([rim - up, rim * self.top + up], axis=1)


@dataclass(frozen=True)
class Prism(Shape):
    """A flat outline pulled along z, |z| <= 1. `rings`: closed polygons in the unit disc; a ring within a ring is a hole."""

    rings: tuple[tuple[tuple[float, float], ...], ...]
    flat = True

    @cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Start points and edge vectors, each (2, E, 1)."""
        rings = [np.array(ring, float) for ring in self.rings]
        start = np.concatenate(rings)
        step = np.concatenate([np.roll(ring, -1, axis=0) - ring for ring in rings])
        return start.T[:, :, None], step.T[:, :, None]

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Even-odd rule for points (N,)."""
        (x0, y0), (dx, dy) = (edge.astype(x.dtype) for edge in self.edges)
        spans = (y0 <= y) != (y0 + dy <= y)
        crossing = x0 + (y - y0) / _away_from_zero(dy) * dx
        return ((spans & (x < crossing)).sum(0) & 1).astype(bool)

    def intersect(self, o, d):
        (x0, y0), (ex, ey) = (edge.astype(d.dtype) for edge in self.edges)
        cross = _away_from_zero(d[0] * ey - d[1] * ex)
        px, py = x0 - o[0], y0 - o[1]
        t, along = (px * ey - py * ex) / cross, (px * d[1] - py * d[0]) / cross
        hit = (along >= 0) & (along <= 1) & (np.abs(o[2] + t * d[2]) <= 1) & (t > EPSILON)
        sides = np.where(hit, t, np.inf).min(0)
        caps = []
        for end in (-1.0, 1.0):
            t = (end - o[2]) / _away_from_zero(d[2])
            caps.append(np.where(self.inside(o[0] + t * d[0], o[1] + t * d[1]), t, np.inf))
        return _nearest(sides, *caps)

    def normal(self, p):
        (x0, y0), (ex, ey) = self.edges
        px, py = p[0] - x0, p[1] - y0
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        gap = np.hypot(px - along * ex, py - along * ey)
        nearest = gap.argmin(0)
        nx, ny = (ey / np.hypot(ex, ey))[nearest, 0], (-ex / np.hypot(ex, ey))[nearest, 0]
        outward = np.where(self.inside(p[0] + 1e-6 * nx, p[1] + 1e-6 * ny), -1.0, 1.0)
        on_cap = np.abs(np.abs(p[2]) - 1) < gap.min(0)
        return np.where(
            on_cap, np.stack([0 * nx, 0 * nx, np.sign(p[2])]), np.stack([outward * nx, outward * ny, 0 * nx])
        )

    @cached_property
    def outline(self):
        start = self.edges[0][:, :, 0]
        return np.concatenate([np.vstack([start, np.full(start.shape[1], end)]) for end in (-1.0, 1.0)], axis=1)


@dataclass(frozen=True)
class Cutout(Prism):
    """A sheet z = 0 with the outline of a prism, bent in its own plane: x grows by `bend` y^2. Seen from both sides."""

    bend: float = 0.0

    def intersect(self, o, d):
        t = _nearest(-o[2] / _away_from_zero(d[2]))
        with np.errstate(invalid="ignore"):
            x, y = o[0] + t * d[0], o[1] + t * d[1]
            return np.where(self.inside(x - self.bend * y * y, y) & np.isfinite(t), t, np.inf)

    def normal(self, p):
        return np.array([0.0, 0.0, 1.0])[:, None] + 0 * p

    @cached_property
    def outline(self):
        start = self.edges[0][:, :, 0]
        return self.bent(np.vstack([start, 0 * start[:1]]))

    def rest(self, p):
        return np.stack([p[0] - self.bend * p[1] ** 2, p[1], p[2]])

    def bent(self, p):
        return np.stack([p[0] + self.bend * p[1] ** 2, p[1], p[2]])


def star(points: int, inner: float) -> tuple:
    turn = np.arange(2 * points) * np.pi / points + np.pi / 2
    radius = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return (tuple(zip((radius * np.cos(turn)).tolist(), (radius * np.sin(turn)).tolist(), strict=True)),)


def blob(rng: np.random.Generator, points: int = 28) -> tuple:
    """A soft irregular outline: a circle with a few random harmonics."""
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = 1 + sum(rng.uniform(-0.3, 0.3) / k * np.cos(k * turn + rng.uniform(0, 6.3)) for k in (2, 3, 4))
    radius /= radius.max()
    return (tuple(zip((radius * np.cos(turn)).tolist(), (radius * np.sin(turn)).tolist(), strict=True)),)


def _heart() -> tuple:
    s = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    x = 16 * np.sin(s) ** 3
    y = 13 * np.cos(s) - 5 * np.cos(2 * s) - 2 * np.cos(3 * s) - np.cos(4 * s) + 2
    return (tuple(zip((x / 18).tolist(), (y / 18).tolist(), strict=True)),)


def _glyph(*rings: str) -> tuple:
    """Rings of digit pairs on a 0..6 x 0..6 grid ('00' is bottom left) fitted into the unit disc."""
    return tuple(tuple(((int(p[0]) - 3) / 4.3, (int(p[1]) - 3) / 4.3) for p in ring.split()) for ring in rings)


GLYPHS = {
    "A": _glyph("00 20 22 42 40 60 64 46 26 04", "23 43 44 24"),
    "E": _glyph("00 60 61 21 22 52 54 24 25 65 66 06"),
    "H": _glyph("00 20 22 42 40 60 66 46 44 24 26 06"),
    "L": _glyph("00 60 62 22 26 06"),
    "T": _glyph("20 40 44 64 66 06 04 24"),
    "U": _glyph("00 60 66 46 42 22 26 06"),
    "V": _glyph("20 40 66 46 33 26 06"),
    "X": _glyph("00 20 32 40 60 43 66 46 34 26 06 23"),
    "Z": _glyph("00 60 61 22 65 66 06 05 44 01"),
    "plus": _glyph("20 40 42 62 64 44 46 26 24 04 02 22"),
    "arrow": _glyph("20 40 43 63 36 03 23"),
    "frame": _glyph("00 60 66 06", "22 42 44 24"),
    "heart": _heart(),
    "star": star(5, 0.45),
    "flower": star(8, 0.75),
    "gear": star(10, 0.8),
}
