"""A scene seen by a camera: colour with soft shadows and smooth edges; exact depth, normals and part ids."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data_pipelines.procedural import texture
from data_pipelines.procedural.camera import Camera
from data_pipelines.procedural.scene import Part, Scene, Sky, cast, visibility
from data_pipelines.procedural.shapes import Room, dot

LIFT = 1e-4  # metres between a surface and the start of its shadow rays
SUBPIXELS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))


class View(NamedTuple):
    rgb: np.ndarray  # uint8 (H, W, 3); where alpha is 0: the sky, or black without one
    alpha: np.ndarray  # float32 (H, W), the share of each pixel that parts cover
    depth: np.ndarray  # float64 (H, W) metres along the axis at the pixel centre, inf where there is nothing
    normal: np.ndarray  # float64 (H, W, 3) unit world normals at the pixel centre, 0 where there is nothing
    part: np.ndarray  # int32 (H, W) index into scene.parts, -1 where there is nothing


class Hits(NamedTuple):
    t: np.ndarray
    index: np.ndarray
    normal: np.ndarray
    rgb: np.ndarray


def render(scene: Scene, camera: Camera, width: int, height: int, *, lit: bool = True, background: bool = True) -> View:
    """`lit=False` gives bare albedo, `background=False` keeps the sky out of the colours (for straight alpha)."""
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[:height, :width])

    def trace(x, y, picks):
        return _trace(scene, camera.position[:, None], camera.rays(x, y, width, height), picks,
                      1 / camera.focal(height), lit, background)

    centre = trace(x, y, np.broadcast_to(np.arange(len(SUBPIXELS))[:, None], (len(SUBPIXELS), x.size)))
    rgb, alpha = centre.rgb, (centre.index >= 0).astype(np.float32)
    rough = np.flatnonzero(_edges(centre, height, width))
    if rough.size:
        dx, dy = (np.repeat(axis, rough.size) for axis in np.array(SUBPIXELS).T)
        picks = np.repeat(np.arange(len(SUBPIXELS)), rough.size)[None]
        fine = trace(np.tile(x[rough], len(SUBPIXELS)) + dx, np.tile(y[rough], len(SUBPIXELS)) + dy, picks)
        share = (fine.index >= 0).astype(np.float32).reshape(len(SUBPIXELS), -1)
        weight = np.ones_like(share) if background else share
        total = (fine.rgb.reshape(3, len(SUBPIXELS), -1) * weight).sum(axis=1)
        rgb[:, rough] = total / np.maximum(weight.sum(axis=0), 1e-6)
        alpha[rough] = share.mean(axis=0)
    rgb = np.round(255 * np.clip(rgb, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    return View(
        np.ascontiguousarray(rgb.T).reshape(height, width, 3),
        alpha.reshape(height, width),
        centre.t.reshape(height, width),
        np.ascontiguousarray(centre.normal.T).reshape(height, width, 3),
        centre.index.reshape(height, width),
    )


def _edges(hits: Hits, height: int, width: int) -> np.ndarray:
    """(H * W,) bool: pixels next to another part or to a crease."""
    index, normal = hits.index.reshape(height, width), hits.normal.reshape(3, height, width)
    edge = np.zeros((height, width), bool)
    for one, other in ((np.s_[..., 1:], np.s_[..., :-1]), (np.s_[..., 1:, :], np.s_[..., :-1, :])):
        n = dot(normal[one], normal[other])
        differs = (index[one] != index[other]) | ((n < 0.8) & (index[one] >= 0))
        edge[one] |= differs
        edge[other] |= differs
    return edge.ravel()


def _trace(scene: Scene, origin: np.ndarray, direction: np.ndarray, picks: np.ndarray, pixel: float, lit: bool,
           background: bool) -> Hits:
    t, index = cast(scene.parts, origin, direction)
    normal = np.zeros_like(direction)
    rgb = np.zeros(direction.shape, np.float32)
    seen, missed = np.flatnonzero(index >= 0), np.flatnonzero(index < 0)
    if background and lit:
        rgb[:, missed] = tone(sky_colour(scene.sky, direction[:, missed]) * scene.exposure)
    if seen.size:
        point = origin + t[seen] * direction[:, seen]
        local_normal, albedo, gloss, glow = _surface(scene.parts, index[seen], point, direction[:, seen], t[seen] * pixel)
        normal[:, seen] = local_normal
        colour = albedo
        if lit:
            light = _lighting(scene, index[seen], point, direction[:, seen], local_normal, albedo, gloss, picks[:, seen])
            colour = light + glow * albedo
            colour = tone(_through_air(scene, colour, t[seen]) * scene.exposure)
        rgb[:, seen] = colour
    return Hits(t, index, normal, rgb)


def _surface(parts: list[Part], index: np.ndarray, point: np.ndarray, direction: np.ndarray, footprint: np.ndarray):
    """World normals facing the ray (3, N), albedo (3, N), gloss (N,) and glow (N,) of hit points (3, N)."""
    normal, albedo = np.empty_like(point), np.empty(point.shape, np.float32)
    gloss, glow = np.empty(point.shape[1], np.float32), np.empty(point.shape[1], np.float32)
    for k in np.unique(index):
        at, one = np.flatnonzero(index == k), parts[k]
        local = one.to_local(point[:, at])
        n = one.normal(local)
        facing = dot(n, direction[:, at])
        normal[:, at] = np.where(facing > 0, -n, n)
        slant = np.maximum(np.abs(facing) / np.sqrt(dot(direction[:, at], direction[:, at])), 0.15)
        grain = one.shape.rest(local) * one.grain[:, None]
        face = one.shape.normal(local) if one.shape.flat else None
        where = texture.locate(grain, face, one.material, footprint[at] / slant)
        albedo[:, at] = texture.albedo(one.material, where)
        gloss[at], glow[at] = one.material.gloss, one.material.glow
    return normal, albedo, gloss, glow


def _lighting(scene: Scene, index, point, direction, normal, albedo, gloss, picks) -> np.ndarray:
    """Light (3, N) that leaves the points towards the eye: ambient, lamps with soft shadows, highlights, reflected sky."""
    view = (-direction / np.sqrt(dot(direction, direction))).astype(np.float32)
    n = normal.astype(np.float32)
    openness = _openness(scene.parts, index, point.astype(np.float32), n)
    colour = albedo * _ambient(scene.sky, n) * openness
    fresnel = gloss * (0.04 + 0.5 * (1 - np.clip(dot(n, view), 0, 1)) ** 5)
    mirror = 2 * dot(n, view) * n - view
    colour += fresnel * openness * sky_colour(scene.sky, mirror)
    for light in scene.lights:
        to_light = light.position[:, None] - point
        distance = np.sqrt(dot(to_light, to_light))
        toward = (to_light / distance).astype(np.float32)
        facing = dot(n, toward)
        bright = np.flatnonzero(facing > 0)
        shown = np.zeros_like(facing)
        start = point[:, bright] + LIFT * np.maximum(1, distance[bright] / 50) * normal[:, bright]
        shown[bright] = visibility(scene.parts, start, light, picks[:, bright])
        half = toward + view
        half /= np.sqrt(dot(half, half)) + 1e-6
        highlight = gloss * 1.2 * np.clip(dot(n, half), 0, 1) ** (20 + 120 * gloss)
        power = (light.reference / distance).astype(np.float32) ** 2 * shown
        lamp = np.array(light.colour, np.float32)[:, None] * power
        colour += (albedo * np.maximum(facing, 0) + highlight * (facing > 0)) * lamp
    return colour


def _openness(parts: list[Part], index: np.ndarray, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Share (N,) of ambient light that reaches the points: every other part blocks it like a ball, walls meet in dark corners."""
    openness = np.ones(point.shape[1], np.float32)
    for k, one in enumerate(parts):
        if one.shape.closed:
            gap = one.position.astype(np.float32)[:, None] - point
            square = np.maximum(dot(gap, gap), np.float32(one.bulk**2))
            facing = np.maximum(dot(gap, normal), 0) / np.sqrt(square)
            openness *= 1 - np.where(index == k, 0, 0.8 * facing * np.float32(one.bulk**2) / square)
        elif isinstance(one.shape, Room):
            local = np.abs(one.to_local(point))
            gap = np.maximum(1 - local, 0) * one.scale[:, None]
            openness *= (1 - 0.4 * np.exp(-gap / 0.4) * (1 - np.abs(normal))).prod(0).astype(np.float32)
    return openness


def _ambient(sky: Sky, normal: np.ndarray) -> np.ndarray:
    up = 0.5 + 0.5 * normal[2]
    above, below = (np.array(colour, np.float32)[:, None] for colour in (sky.zenith, sky.ground))
    side = np.array(sky.horizon, np.float32)[:, None]
    return sky.ambient * (0.5 * (below + (above - below) * up) + 0.5 * side)


def sky_colour(sky: Sky, direction: np.ndarray) -> np.ndarray:
    """Linear RGB (3, N) of rays that leave the scene."""
    d = (direction / np.sqrt(dot(direction, direction))).astype(np.float32)
    zenith, horizon, ground = (np.array(c, np.float32)[:, None] for c in (sky.zenith, sky.horizon, sky.ground))
    up, down = np.clip(d[2], 0, 1) ** 0.6, np.clip(-8 * d[2], 0, 1)
    colour = horizon + (zenith - horizon) * up
    if sky.clouds:
        high = np.maximum(d[2], 0.06)
        cover = texture.fbm(np.stack([d[0] / high, d[1] / high, 0 * high]) * np.float32(1.3) + 11, 0.1 / high, 3)
        cover = np.clip((cover - 0.62 + 0.25 * sky.clouds) * 4, 0, 1) * np.clip(d[2] * 6, 0, 1)
        colour = colour + 0.7 * cover * (0.3 + 0.85 * horizon - colour)
    return colour + (ground - colour) * down


def _through_air(scene: Scene, colour: np.ndarray, depth: np.ndarray) -> np.ndarray:
    if not scene.haze:
        return colour
    share = (1 - np.exp(-scene.haze * depth)).astype(np.float32)
    return colour + share * (np.array(scene.sky.horizon, np.float32)[:, None] - colour)


def tone(x: np.ndarray) -> np.ndarray:
    """Film-like curve to [0, 1]: the rational fit of K. Narkowicz, "ACES Filmic Tone Mapping Curve" (2015)."""
    x = np.maximum(x, 0)
    return np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
