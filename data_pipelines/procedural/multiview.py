"""Kind multiview: one object, centred and scaled to bounding-sphere radius 0.5, seen by the cameras of a named layout.

RGBA has straight alpha, depth runs along the axis, normals are world normals; the object stands z up and faces +x.
"""

from __future__ import annotations

import numpy as np

from data_pipelines.procedural import looks, props
from data_pipelines.procedural.camera import orbit, turn
from data_pipelines.procedural.config import MultiviewWorld
from data_pipelines.procedural.scene import Part, Scene, Sky, moved, part, sun
from data_pipelines.procedural.shade import View, render
from data_pipelines.procedural.shapes import GLYPHS, Ball, Box, Frustum, Prism, star
from vstrain.data import keyed

RADIUS = 0.5  # of the bounding sphere
INSTANT3D4 = [(0.0, azimuth) for azimuth in (0, 90, 180, 270)]  # (elevation, azimuth)
ZERO123PP6 = [(20.0 if k % 2 == 0 else -10.0, 30.0 + 60 * k) for k in range(6)]

Shot = tuple[str, float, float, float, float]  # layout, elevation, azimuth, radius, fovy


def make(config: MultiviewWorld, split: str, index: int) -> dict:
    """Sample `index` of `split`: a MultiviewSample."""
    rng = keyed.rng(keyed.draw_key(config.seed, 0, index), f"procedural/multiview/{split}")
    parts, caption = thing(rng)
    parts, normalisation = normalised(parts)
    elevation, azimuth = rng.uniform(35, 70), rng.uniform(0, 360)
    sky = Sky((0.95, 0.97, 1.0), (0.9, 0.9, 0.9), (0.55, 0.53, 0.5), ambient=0.7)
    scene = Scene(parts, [sun(elevation, azimuth, (1.1, 1.05, 1.0), 0.06)], sky, exposure=0.75)
    key = f"{split}_{index:07d}"
    sample = {"__key__": key, "txt": caption}
    views = []
    for v, (layout, e, a, radius, fovy) in enumerate(LAYOUTS[config.layout](rng, config)):
        camera = orbit(e, a, radius, fovy)
        sample |= _members(v, render(scene, camera, config.size, config.size, background=False))
        views.append(
            {
                "c2w": camera.c2w.tolist(),
                "fovy": fovy,
                "width": config.size,
                "height": config.size,
                "elev": e,
                "azim": a,
                "radius": radius,
                "layout": layout,
            }
        )
    sample["camera.json"] = {"version": 1, "convention": "opengl", "up": "z", "views": views}
    sample["meta.json"] = {
        "source": "procedural",
        "licence": "CC0-1.0",
        "caption": caption,
        "parts": len(parts),
        "normalisation": normalisation.tolist(),
        "engine": "vstrain procedural ray caster",
        "light": {"elevation": elevation, "azimuth": azimuth},
    }
    return sample


def _members(v: int, view: View) -> dict:
    rgba = np.dstack([view.rgb, np.round(255 * view.alpha).astype(np.uint8)])
    there = view.part >= 0
    normal = np.where(there[..., None], np.round(255 * (view.normal + 1) / 2), 0).astype(np.uint8)
    depth = np.where(there, view.depth, 0).astype(np.float32)
    return {f"rgba_{v:03d}.png": rgba, f"normal_{v:03d}.png": normal, f"depth_{v:03d}.npy": depth}


def boost_train(rng: np.random.Generator, config: MultiviewWorld) -> list[Shot]:
    """Both condition layouts and random targets, all with one field of view and one radius drawn for the object: the
    bounding sphere fills 1/1.25 to 1/1.05 of the frame; instant3d4's own camera is at the wide end of that range."""
    fovy = rng.uniform(30, 50)
    radius = rng.uniform(1.05, 1.25) * RADIUS / np.sin(np.radians(fovy) / 2)
    targets = [(rng.uniform(-20, 45), rng.uniform(0, 360)) for _ in range(config.targets)]
    named = [("instant3d4", INSTANT3D4), ("zero123pp6", ZERO123PP6), ("boost_train", targets)]
    return [(layout, e, a, float(radius), float(fovy)) for layout, poses in named for e, a in poses]


def instant3d4(rng: np.random.Generator, config: MultiviewWorld) -> list[Shot]:
    fovy = float(np.degrees(2 * np.arctan(16 / 35)))
    return [("instant3d4", e, a, 1.5, fovy) for e, a in INSTANT3D4]


def zero123pp6(rng: np.random.Generator, config: MultiviewWorld) -> list[Shot]:
    radius = float(RADIUS / np.tan(np.radians(15)))
    return [("zero123pp6", e, a, radius, 30.0) for e, a in ZERO123PP6]


def mvdream4(rng: np.random.Generator, config: MultiviewWorld) -> list[Shot]:
    """Distances are relative to the bounding sphere's diameter."""
    start, elevation, fovy = rng.uniform(0, 360), rng.uniform(0, 30), rng.uniform(15, 60)
    radius = float(rng.uniform(0.9, 1.1) / np.tan(np.radians(fovy) / 2) * 2 * RADIUS)
    return [("mvdream4", elevation, (start + 90 * k) % 360, radius, fovy) for k in range(4)]


def random32(rng: np.random.Generator, config: MultiviewWorld) -> list[Shot]:
    """Distances and heights are given for an object in [-1, 1]: twice ours."""
    shots = []
    for _ in range(32):
        radius, height = rng.uniform(2, 3.5) * RADIUS, rng.uniform(-0.75, 1.6) * RADIUS
        shots.append(("random32", float(np.degrees(np.arcsin(height / radius))), rng.uniform(0, 360), radius, 50.0))
    return shots


LAYOUTS = {layout.__name__: layout for layout in (boost_train, instant3d4, zero123pp6, mvdream4, random32)}


def normalised(parts: list[Part]) -> tuple[list[Part], np.ndarray]:
    """The parts with their bounding box's centre at 0 and all points within RADIUS of it, and the 4x4 map that did it."""
    points = np.concatenate([one.to_world(one.shape.outline) for one in parts], axis=1)
    centre = (points.min(axis=1) + points.max(axis=1)) / 2
    scale = RADIUS / np.linalg.norm(points - centre[:, None], axis=0).max()
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = -scale * centre
    return moved(parts, -scale * centre, scale=scale), matrix


def thing(rng: np.random.Generator) -> tuple[list[Part], str]:
    """One object out of joined primitives, and its caption."""
    paint = props.painter(rng, looks.palette(rng, "synthetic"), "synthetic")
    if rng.random() < 0.5:
        kind = props.COMPOSITE[rng.integers(len(props.COMPOSITE))]
        parts, name = kind(rng, paint), kind.__name__
    else:
        parts, name = _assembly(rng, paint), "toy"
    parts = moved(parts, rotation=turn("z", rng.choice([0.0, 90.0, 180.0, 270.0]) + rng.uniform(-30, 30)))
    large = max(parts, key=lambda one: one.bulk)
    coat = looks.describe(large.material)
    return parts, f"{'an' if coat[0] in 'aeiou' else 'a'} {coat} {name} with {_parts(parts)}"


def _parts(parts: list[Part]) -> str:
    count = len({id(one.material) for one in parts})
    return f"{count} different material" + ("s" if count > 1 else "")


def _assembly(rng: np.random.Generator, paint: props.Paint) -> list[Part]:
    """A body with three to six things stuck to it from random sides, unlike from every side."""
    body = (Ball(), Box(), Frustum(), Frustum(0.6))[rng.integers(4)]
    half = rng.uniform(0.25, 0.45, 3)
    parts = [part(body, paint(), (0, 0, 0), half)]
    glyphs = [Prism(GLYPHS[name]) for name in ("star", "heart", "plus", "gear", "flower")] + [Prism(star(3, 0.5))]
    for _ in range(rng.integers(3, 7)):
        shape = (Ball(), Box(), Frustum(), Frustum(0.0), glyphs[rng.integers(len(glyphs))])[rng.integers(5)]
        side = rng.standard_normal(3)
        side /= np.linalg.norm(side)
        size = rng.uniform(0.1, 0.26)
        scale = (size, size, size * (0.35 if isinstance(shape, Prism) else 1.0))
        rotation = turn("z", np.degrees(np.arctan2(side[1], side[0]))) @ turn("y", np.degrees(np.arccos(side[2])))
        parts.append(part(shape, paint(0.3), side * half * 1.05, scale, rotation))
    return parts
