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
    """What N rays meet; the last axis of every array is N."""

    direction: np.ndarray
    t: np.ndarray
    index: np.ndarray
    normal: np.ndarray  # facing the ray
    albedo: np.ndarray
    gloss: np.ndarray
    glow: np.ndarray

    def take(self, at: np.ndarray) -> Hits:
        return Hits(*(values[..., at] for values in self))


def render(scene: Scene, camera: Camera, width: int, height: int, *, lit: bool = True, background: bool = True) -> View:
    """`lit=False` gives bare albedo, `background=False` keeps the sky out of the colours (for straight alpha)."""
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[:height, :width])
    eye, samples = camera.position[:, None], len(SUBPIXELS)

    def meet(x, y):
        return _meet(scene.parts, eye, camera.rays(x, y, width, height), 1 / camera.focal(height))

    centre = meet(x, y)
    edge = _edges(centre, height, width)
    rgb, alpha = np.zeros((3, x.size), np.float32), (centre.index >= 0).astype(np.float32)
    smooth, rough = np.flatnonzero(~edge), np.flatnonzero(edge)
    picks = np.broadcast_to(np.arange(samples)[:, None], (samples, smooth.size))
    rgb[:, smooth] = _colour(scene, eye, centre.take(smooth), picks, lit, background)
    if rough.size:
        dx, dy = (np.repeat(axis, rough.size) for axis in np.array(SUBPIXELS).T)
        fine = meet(np.tile(x[rough], samples) + dx, np.tile(y[rough], samples) + dy)
        colour = _colour(scene, eye, fine, np.repeat(np.arange(samples), rough.size)[None], lit, background)
        share = (fine.index >= 0).astype(np.float32).reshape(samples, -1)
        weight = np.ones_like(share) if background else share
        total = (colour.reshape(3, samples, -1) * weight).sum(axis=1)
        rgb[:, rough] = total / np.maximum(weight.sum(axis=0), 1e-6)
        alpha[rough] = share.mean(axis=0)
    rgb = np.round(255 * np.clip(rgb, 0, 1) ** np.float32(1 / 2.2)).astype(np.uint8)
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


def _meet(parts: list[Part], eye: np.ndarray, direction: np.ndarray, pixel: float) -> Hits:
    """First hits of rays (3, N) from the eye, and the surface there; `pixel` is a pixel's size at depth 1."""
    t, index = cast(parts, eye, direction)
    normal, albedo = np.zeros_like(direction), np.zeros(direction.shape, np.float32)
    gloss, glow = np.zeros(t.shape, np.float32), np.zeros(t.shape, np.float32)
    for k in np.unique(index[index >= 0]):
        at, one = np.flatnonzero(index == k), parts[k]
        ray = direction[:, at]
        local = one.to_local(eye + t[at] * ray)
        face = one.shape.normal(local)
        n = one.normal(face)
        facing = dot(n, ray)
        normal[:, at] = np.where(facing > 0, -n, n)
        slant = np.maximum(np.abs(facing) / np.sqrt(dot(ray, ray)), 0.15)
        where = texture.locate(
            one.shape.rest(local) * one.grain[:, None],
            face if one.shape.flat else None,
            one.material,
            t[at] * pixel / slant,
        )
        albedo[:, at] = texture.albedo(one.material, where)
        gloss[at], glow[at] = one.material.gloss, one.material.glow
    return Hits(direction, t, index, normal, albedo, gloss, glow)


def _colour(scene: Scene, eye: np.ndarray, hits: Hits, picks: np.ndarray, lit: bool, background: bool) -> np.ndarray:
    """Linear RGB (3, N) in [0, 1]."""
    if not lit:
        return hits.albedo
    rgb = np.zeros(hits.direction.shape, np.float32)
    seen, missed = np.flatnonzero(hits.index >= 0), np.flatnonzero(hits.index < 0)
    if background and missed.size:
        rgb[:, missed] = tone(sky_colour(scene.sky, hits.direction[:, missed]) * scene.exposure)
    if seen.size:
        hits = hits.take(seen)
        colour = _lighting(scene, eye + hits.t * hits.direction, hits, picks[:, seen]) + hits.glow * hits.albedo
        rgb[:, seen] = tone(_through_air(scene, colour, hits.t) * scene.exposure)
    return rgb


def _lighting(scene: Scene, point: np.ndarray, hits: Hits, picks: np.ndarray) -> np.ndarray:
    """Light (3, N) that leaves the points (3, N) towards the eye: ambient, lamps with soft shadows, highlights, reflected sky."""
    view = (-hits.direction / np.sqrt(dot(hits.direction, hits.direction))).astype(np.float32)
    albedo, gloss = hits.albedo, hits.gloss
    n = hits.normal.astype(np.float32)
    openness = _openness(scene.parts, hits.index, point.astype(np.float32), n)
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
        start = point[:, bright] + LIFT * np.maximum(1, distance[bright] / 50) * hits.normal[:, bright]
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
