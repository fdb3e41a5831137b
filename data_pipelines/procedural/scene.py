"""What a scene is: parts with poses and materials, lamps, a sky; and which part a ray meets first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from data_pipelines.procedural.shapes import Shape, dot
from data_pipelines.procedural.texture import Material

Colour = tuple[float, float, float]
IDENTITY = np.eye(3)
DISC = np.sqrt((np.arange(4) + 0.5) / 4) * np.stack([np.cos(2.4 * np.arange(4)), np.sin(2.4 * np.arange(4))])


def rotate(matrix: np.ndarray, p: np.ndarray) -> np.ndarray:
    """matrix (3, 3) @ p (3, N); einsum sums in one order, where a BLAS may choose by its number of threads."""
    return np.einsum("ij,jn->in", matrix, p)


@dataclass(frozen=True)
class Part:
    """One textured shape. world = rotation @ (scale * local) + position. `grain`: metres a local unit counts for in the
    texture (the scale when the part was made), so that a texture sticks to a part that grows. `group`: the object that
    the part belongs to; -1 is scenery."""

    shape: Shape
    material: Material
    position: np.ndarray
    scale: np.ndarray
    rotation: np.ndarray
    grain: np.ndarray
    group: int = -1

    @cached_property
    def single(self) -> Part:
        """The same part in float32, precise enough for shadows."""
        fields = ("position", "scale", "rotation", "grain")
        return replace(self, **{name: getattr(self, name).astype(np.float32) for name in fields})

    def to_local(self, p: np.ndarray) -> np.ndarray:
        return rotate(self.rotation.T, p - self.position[:, None]) / self.scale[:, None]

    def to_world(self, p: np.ndarray) -> np.ndarray:
        return rotate(self.rotation, p * self.scale[:, None]) + self.position[:, None]

    def normal(self, local: np.ndarray) -> np.ndarray:
        """Unit world normals (3, N) of local normals (3, N)."""
        n = rotate(self.rotation, local / self.scale[:, None])
        return n / np.sqrt(dot(n, n))

    @cached_property
    def reach(self) -> float:
        """Radius of a sphere about `position` that holds the part."""
        return 1.01 * float(np.sqrt(((self.shape.outline * self.scale[:, None]) ** 2).sum(axis=0).max()))

    @cached_property
    def bulk(self) -> float:
        """Radius of the ball that blocks about as much light."""
        return float(np.prod(self.scale) ** (1 / 3))

    def intersect(self, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        o, d = rotate(self.rotation.T, origin - self.position[:, None]), rotate(self.rotation.T, direction)
        return self.shape.intersect(o / self.scale[:, None], d / self.scale[:, None])

    def near(self, origin: np.ndarray, direction: np.ndarray, length2: np.ndarray, spread: float = 0.0) -> np.ndarray:
        """Indices of the rays that pass through the bounding sphere; `length2` (N,) are squared lengths of the directions.
        With `spread`, rays to anywhere within that distance of origin + direction count."""
        gap = self.position[:, None] - origin
        along = dot(gap, direction)
        away2 = dot(gap, gap) - along * np.abs(along) / length2
        reach = self.reach + spread * np.clip(along / length2, 0, 1) if spread else self.reach
        return np.flatnonzero(away2 <= reach * reach)


def part(shape: Shape, material: Material, position, scale, rotation: np.ndarray = IDENTITY, group: int = -1) -> Part:
    """`scale`: half-sizes along the local axes, one number or three."""
    scale = np.broadcast_to(np.asarray(scale, float), 3).copy()
    return Part(shape, material, np.asarray(position, float), scale, rotation, scale, group)


def moved(
    parts: list[Part], position=(0, 0, 0), rotation: np.ndarray = IDENTITY, scale: float = 1.0, group: int | None = None
) -> list[Part]:
    """The parts after the similarity p -> rotation @ (scale * p) + position; textures stick to them."""
    return [
        replace(
            one,
            position=rotation @ (scale * one.position) + np.asarray(position, float),
            rotation=rotation @ one.rotation,
            scale=scale * one.scale,
            group=one.group if group is None else group,
        )
        for one in parts
    ]


@dataclass(frozen=True)
class Light:
    """A ball of light. Its irradiance is `colour` at `reference` metres; the sun is a ball far away."""

    position: np.ndarray
    radius: float
    colour: Colour
    reference: float


def sun(elevation: float, azimuth: float, colour: Colour, blur: float = 0.03) -> Light:
    """`blur`: the sun's radius as seen from the ground, in radians; shadows are as soft as this is large."""
    e, a = np.radians(elevation), np.radians(azimuth)
    far = 1000.0
    return Light(far * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)]), far * blur, colour, far)


@dataclass(frozen=True)
class Sky:
    """Light from everywhere: what a ray that meets nothing sees, and the ambient light on surfaces."""

    zenith: Colour
    horizon: Colour
    ground: Colour
    ambient: float = 0.5
    clouds: float = 0.0


@dataclass(frozen=True)
class Scene:
    parts: list[Part]
    lights: list[Light]
    sky: Sky
    exposure: float = 1.0
    haze: float = 0.0  # share of the horizon's colour that ten metres of air add, 1 - exp(-10 haze) = that share


def cast(parts: list[Part], origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First hits of rays: origin (3, 1) or (3, N), direction (3, N) -> t (N,), inf where nothing; part index (N,), -1 there."""
    t = np.full(direction.shape[1], np.inf)
    index = np.full(direction.shape[1], -1, np.int32)
    length2 = dot(direction, direction)
    for k, one in enumerate(parts):
        rays = one.near(origin, direction, length2) if one.shape.closed else slice(None)
        if one.shape.closed and not rays.size:
            continue
        tk = one.intersect(origin if origin.shape[1] == 1 else origin[:, rays], direction[:, rays])
        closer = tk < t[rays]
        t[rays] = np.where(closer, tk, t[rays])
        index[rays] = np.where(closer, k, index[rays])
    return t, index


def visibility(parts: list[Part], start: np.ndarray, light: Light, picks: np.ndarray) -> np.ndarray:
    """Share (N,) of the light that each start point (3, N) sees. `picks` (S, N): which S points of the light's DISC to try."""
    axis = light.position / np.linalg.norm(light.position)
    side = np.cross(axis, [0.3, 0.5, 0.8])
    side /= np.linalg.norm(side)
    disc = light.radius * (np.outer(side, DISC[0]) + np.outer(np.cross(axis, side), DISC[1]))
    start, disc = start.astype(np.float32), disc.astype(np.float32)
    middle = light.position.astype(np.float32)[:, None] - start
    length2 = dot(middle, middle)
    lit = np.ones(picks.shape, bool)
    for one in (one.single for one in parts if one.shape.closed):
        rays = one.near(start, middle, length2, light.radius)
        if rays.size:
            toward = middle[:, None, rays] + disc[:, picks[:, rays]]
            origin = np.broadcast_to(start[:, None, rays], toward.shape)
            lit[:, rays] &= one.intersect(origin.reshape(3, -1), toward.reshape(3, -1)).reshape(toward.shape[1:]) >= 1
    return lit.mean(axis=0, dtype=np.float32)
