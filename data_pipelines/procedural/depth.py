"""Kind depth: one picture of one scene with its exact depth, in a clean or a rough look.

Scenes differ in everything that a mean depth map or a plane could exploit: rooms, open ground, corridors and close-ups;
camera height, pitch, roll and field of view; large things near and small things far. Depths are about 1 to 20 metres.
"""

from __future__ import annotations

import cv2
import numpy as np

from data_pipelines.procedural import looks, props
from data_pipelines.procedural.camera import Camera, look_at, turn
from data_pipelines.procedural.config import DepthWorld
from data_pipelines.procedural.looks import Look
from data_pipelines.procedural.scene import Part, Scene, moved, part
from data_pipelines.procedural.shade import render
from data_pipelines.procedural.shapes import GLYPHS, Ball, Box, Disc, Frustum, Prism, Room
from vstrain.data import keyed

FAR = 25.0  # metres to the rim of open ground; beyond it is sky


def make(config: DepthWorld, split: str, index: int) -> dict:
    """Sample `index` of `split`: a DepthSample; the sky's depth is stored as 0 (invalid)."""
    rng = keyed.rng(keyed.draw_key(config.seed, 0, index), f"procedural/depth/{split}")
    look: Look = "real" if split.endswith("_real") else "synthetic"
    name = list(SCENES)[rng.choice(len(SCENES), p=SHARES)]
    scene, camera = SCENES[name](rng, look)
    view = render(scene, camera, config.size, config.size)
    rgb = photograph(view.rgb, rng) if look == "real" else view.rgb
    depth = np.where(np.isfinite(view.depth), view.depth, 0).astype(np.float32)
    facts = {
        "unit": "depth",
        "look": look,
        "source": "procedural",
        "scene": name,
        "fovy": round(camera.fovy, 3),
        "invalid": "0: sky",
    }
    return {"__key__": f"{split}_{index:07d}", "jpg": rgb, "depth.pco": depth, "json": facts}


def photograph(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a cheap camera makes of a picture uint8 (H, W, 3): blur, vignetting, white balance, contrast and sensor noise."""
    height, width = rgb.shape[:2]
    x = cv2.GaussianBlur(rgb.astype(np.float32) / 255, (0, 0), rng.uniform(0.3, 1.0) * width / 128)
    v, u = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    x *= (1 - rng.uniform(0, 0.35) * (u * u + v * v) / 2)[..., None]
    x *= rng.uniform(0.88, 1.12, 3).astype(np.float32)
    x = np.clip(x, 0, 1) ** np.float32(rng.uniform(0.8, 1.3))
    shot, read = rng.uniform(0.01, 0.05), rng.uniform(0.003, 0.02)
    x += rng.standard_normal(x.shape, np.float32) * np.sqrt(shot**2 * np.clip(x, 0, 1) + read**2, dtype=np.float32)
    return np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)


def place(rng: np.random.Generator, things: list[list[Part]], spots: np.ndarray, sizes: np.ndarray) -> list[Part]:
    """The things on the ground at `spots` (N, 2), each turned at random and `sizes` (N,) metres large."""
    parts = []
    for k, (thing, (x, y), size) in enumerate(zip(things, spots, sizes, strict=True)):
        parts += moved(thing, (x, y, 0), turn("z", rng.uniform(0, 360)), size, group=k)
    return parts


def pick(rng: np.random.Generator, kinds: tuple, count: int, paint: props.Paint) -> list[list[Part]]:
    return [kinds[rng.integers(len(kinds))](rng, paint) for _ in range(count)]


def scattered(rng: np.random.Generator, count: int, near: float, far: float, spread: float) -> np.ndarray:
    """Spots (count, 2) in a fan along +x, denser near the camera, kept apart from one another."""
    spots = np.empty((0, 2))
    while len(spots) < count:
        x = near * (far / near) ** rng.random()
        spot = np.array([x, x * rng.uniform(-spread, spread)])
        if not len(spots) or np.linalg.norm(spots - spot, axis=1).min() > 0.12 * x:
            spots = np.vstack([spots, spot])
    return spots


def air(rng: np.random.Generator, look: Look, reach: float, most: float = 0.75) -> float:
    """Haze a metre. The far end, `reach` metres away, takes half of `most` to `most` of the horizon's colour in synthetic
    air, which lets even a small network see distance; in the real look anything from nothing to that."""
    share = rng.uniform(0.5 * most, most) if look == "synthetic" else rng.uniform(0.0, most)
    return float(-np.log(1 - share) / reach)


def outdoors(rng: np.random.Generator, look: Look) -> tuple[Scene, Camera]:
    """Open ground with things near and far, sometimes hills and blocks on the horizon."""
    colours = looks.palette(rng, look)
    paint = props.painter(rng, colours, look)
    ground = paint(rng.uniform(1, 4), ("cloudy", "checker", "tiles", "spots", "planks", "plain"))
    parts = [part(Disc(), ground, (0, 0, 0), FAR)]
    spots = scattered(rng, int(rng.integers(6, 13)), 2.0, 17.0, 0.55)
    sizes = rng.uniform(0.5, 1.6, len(spots)) * (0.6 + 0.07 * spots[:, 0])
    parts += place(rng, pick(rng, props.OUTDOOR, len(spots), paint), spots, sizes)
    for _ in range(rng.integers(0, 6)):
        angle, distance = rng.uniform(-0.7, 0.7), rng.uniform(13, 20)
        where = np.array([distance * np.cos(angle), distance * np.sin(angle), 0.0])
        half = rng.uniform((0.8, 0.8, 0.8), (3, 3, 3.5))
        shape = Ball() if rng.random() < 0.5 else Box()
        up = 0.0 if isinstance(shape, Ball) else half[2]
        parts.append(part(shape, paint(3), where + [0, 0, up], half, turn("z", rng.uniform(0, 90))))
    sky, lights = looks.daylight(rng, look)
    high = rng.uniform(0.7, 3.5)
    camera = look_at(
        (0, 0, high),
        (10, rng.uniform(-1.5, 1.5), high + 10 * np.tan(rng.uniform(-0.42, 0.08))),
        rng.uniform(40, 65),
        rng.normal(0, 3),
    )
    return Scene(
        parts, lights, sky, 0.75 if look == "synthetic" else rng.uniform(0.5, 1.1), air(rng, look, FAR)
    ), camera


def _room(rng: np.random.Generator, look: Look, half: np.ndarray, paint: props.Paint) -> list[Part]:
    """Walls, floor and ceiling of half-sizes `half` with the floor on z = 0, a rug, and frames on the walls."""
    wall = paint(1.2, ("plain", "plain", "stripes", "bricks", "tiles", "cloudy"))
    parts = [
        part(Room(), wall, (0, 0, half[2]), half),
        part(Box(), paint(1.2, ("planks", "checker", "tiles", "plain")), (0, 0, 0), (half[0], half[1], 0.005)),
        part(Frustum(), paint(1.0), (*(half[:2] * rng.uniform(-0.4, 0.4, 2)), 0), (*rng.uniform(0.6, 1.4, 2), 0.015)),
    ]
    for side in (-1, 1):
        for x in half[0] * rng.uniform(-0.9, 0.9, rng.integers(0, 3)):
            size = rng.uniform(0.2, 0.5, 2)
            where = (x, side * (half[1] - 0.02), half[2] * rng.uniform(0.9, 1.3))
            parts.append(part(Box(), paint(0.5), where, (size[0], 0.02, size[1])))
    return parts


def indoors(rng: np.random.Generator, look: Look) -> tuple[Scene, Camera]:
    """A furnished room seen from one end or corner."""
    half = rng.uniform((1.8, 1.5, 1.2), (5.0, 3.2, 1.7))
    paint = props.painter(rng, looks.palette(rng, look), look)
    parts = _room(rng, look, half, paint)
    count = int(rng.integers(5, 11))
    things = pick(rng, props.FURNITURE + props.SMALL, count, paint)
    spots = half[:2] * rng.uniform((-0.35, -0.85), (0.85, 0.85), (count, 2))
    parts += place(rng, things, spots, rng.uniform(0.6, 1.4, count))
    eye = np.array([-0.92 * half[0], half[1] * rng.uniform(-0.8, 0.8), rng.uniform(0.5, 2.0 * half[2] - 0.4)])
    aim = np.array([half[0] * rng.uniform(0.2, 0.8), half[1] * rng.uniform(-0.6, 0.6), rng.uniform(0.2, 1.3)])
    sky, lights = looks.lamplight(rng, look, half)
    camera = look_at(eye, aim, rng.uniform(50, 72), rng.normal(0, 2))
    return Scene(parts, lights, sky, rng.uniform(0.7, 1.0), air(rng, look, 2 * half[0], 0.5)), camera


def corridor(rng: np.random.Generator, look: Look) -> tuple[Scene, Camera]:
    """A long room with columns along its sides and something in the way."""
    half = rng.uniform((6.0, 1.2, 1.2), (9.5, 2.6, 2.0))
    paint = props.painter(rng, looks.palette(rng, look), look)
    parts = _room(rng, look, half, paint)
    column, thick = paint(0.6), rng.uniform(0.1, 0.25)
    shape = Box() if rng.random() < 0.5 else Frustum()
    for x in np.arange(-half[0] + 2.5, half[0], rng.uniform(2.0, 3.5)):
        parts += [
            part(shape, column, (x, s * (half[1] - 1.5 * thick), half[2]), (thick, thick, half[2])) for s in (-1, 1)
        ]
    count = int(rng.integers(3, 7))
    spots = np.stack([rng.uniform(-0.6, 0.8, count) * half[0], rng.uniform(-0.6, 0.6, count) * half[1]], 1)
    parts += place(rng, pick(rng, props.SMALL + props.FURNITURE, count, paint), spots, rng.uniform(0.5, 1.2, count))
    eye = np.array([-0.97 * half[0], half[1] * rng.uniform(-0.5, 0.5), rng.uniform(0.6, 1.8)])
    aim = np.array([rng.uniform(-0.5, 0.8) * half[0], half[1] * rng.uniform(-0.7, 0.7), rng.uniform(0.3, 1.6)])
    sky, lights = looks.lamplight(rng, look, half)
    scene = Scene(parts, lights, sky, rng.uniform(0.8, 1.1), air(rng, look, 2 * half[0], 0.5))
    return scene, look_at(eye, aim, rng.uniform(48, 68), rng.normal(0, 2))


def closeup(rng: np.random.Generator, look: Look) -> tuple[Scene, Camera]:
    """Things on a board, seen from near and often from above, with a wall some way behind."""
    paint = props.painter(rng, looks.palette(rng, look), look)
    depth = rng.uniform(1.5, 6.0)
    wall = paint(1.0, ("plain", "cloudy", "dots", "stripes", "bricks"))
    parts = [
        part(Disc(), paint(1.2, ("wood", "planks", "checker", "plain", "marble")), (0, 0, 0), FAR),
        part(Box(), wall, (depth + 1, 0, 5), (0.1, 12, 5), turn("z", rng.uniform(-25, 25))),
    ]
    count = int(rng.integers(4, 10))
    spots = scattered(rng, count, 1.0, max(2.0, depth), 0.6) - [1.2, 0]
    parts += place(rng, pick(rng, props.SMALL, count, paint), spots, rng.uniform(0.25, 0.75, count))
    if rng.random() < 0.4:
        glyph = Prism(list(GLYPHS.values())[rng.integers(len(GLYPHS))])
        parts.append(
            part(
                glyph,
                paint(0.4),
                (*(rng.uniform(-0.4, 0.6, 2)), rng.uniform(0.6, 1.0)),
                (0.3, 0.3, 0.08),
                turn("z", rng.uniform(0, 360)) @ turn("x", rng.uniform(30, 150)),
            )
        )
    eye = np.array([-rng.uniform(1.2, 2.2), rng.uniform(-0.6, 0.6), rng.uniform(0.3, 2.2)])
    aim = np.array([rng.uniform(0.0, 0.8), rng.uniform(-0.3, 0.3), rng.uniform(0.0, 0.4)])
    sky, lights = looks.daylight(rng, look)
    camera = look_at(eye, aim, rng.uniform(42, 62), rng.normal(0, 4))
    haze = air(rng, look, depth + 3, 0.5)
    return Scene(parts, lights, sky, 0.75 if look == "synthetic" else rng.uniform(0.5, 1.0), haze), camera


SCENES = {"outdoors": outdoors, "indoors": indoors, "corridor": corridor, "closeup": closeup}
SHARES = (0.35, 0.3, 0.1, 0.25)
