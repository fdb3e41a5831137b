"""What is made of a photo and its depth: one function an output, each writes files and returns their paths."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vstrain.systems.depth.config import Predict
from vstrain.systems.depth.pictures import beside, colour
from vstrain.systems.depth.scene import parallax as turning
from vstrain.systems.depth.scene import stereo as two_eyes
from vstrain.systems.depth.scene.camera import Scene, over_range
from vstrain.systems.depth.scene.files import write_glb, write_ply
from vstrain.systems.depth.scene.mesh import cloud as points_of
from vstrain.systems.depth.scene.mesh import mesh as mesh_of
from vstrain.systems.depth.scene.movie import Writer

NEAREST = 1e-3  # metres: metric depth is not taken to be smaller, so that 1 / depth is finite
TEXTURE = 4096  # pixels: longest side of a mesh's texture, what every viewer accepts


def depth(photo: np.ndarray, values: np.ndarray, metric: bool, camera: str, out: Path, name: str) -> list[Path]:
    paths = [out / f"{name}_{what}" for what in ("depth.npy", "depth.png", "side_by_side.png")]
    np.save(paths[0], values)
    unit, low, high = over_range(values)
    if metric:
        facts = {"quantity": "depth in metres", "depth_min": repr(low), "depth_max": repr(high)}
    else:
        facts = disparity_facts("disparity of free scale and shift, larger is nearer", low, high)
    write_png16(paths[1], unit, facts | {"camera": camera})
    disparity = 1 / values.clip(NEAREST) if metric else values
    Image.fromarray(beside(photo, colour(shown(disparity)))).save(paths[2], compress_level=1)
    return paths


def disparity_facts(quantity: str, low: float, high: float) -> dict[str, str]:
    return {"quantity": quantity, "disparity_min": repr(low), "disparity_max": repr(high)}


def write_png16(path: Path, unit: np.ndarray, facts: dict[str, str]) -> None:
    """16-bit PNG of a map (H, W) in [0, 1]; `facts` become text chunks, among them what 0 and 65535 stand for."""
    text = PngInfo()
    for name, value in facts.items():
        text.add_text(name, value)
    Image.fromarray(np.rint(unit * 65535).astype(np.uint16)).save(path, pnginfo=text, compress_level=1)


def shown(disparity: np.ndarray) -> np.ndarray:
    """Disparity (H, W) over the range of all but its outermost hundredths, [0, 1], for colouring."""
    step = max(1, min(disparity.shape) // 512)  # a sample is enough
    low, high = np.percentile(disparity[::step, ::step], (1, 99))
    return ((disparity - low) / max(high - low, np.finfo(np.float32).tiny)).clip(0, 1)


def cloud(scene: Scene, options: Predict, out: Path, name: str) -> list[Path]:
    write_ply(path := out / f"{name}_cloud.ply", *points_of(scene, options.points), scene.facts)
    return [path]


def mesh(scene: Scene, options: Predict, out: Path, name: str) -> list[Path]:
    share = min(1, TEXTURE / max(scene.unit.shape))
    size = tuple(max(1, round(side * share)) for side in scene.unit.shape[::-1])
    texture = scene.photo if share == 1 else cv2.resize(scene.photo, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", texture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, options.quality])[1].tobytes()
    surface = mesh_of(scene, options.vertices, options.edge)
    write_glb(path := out / f"{name}_mesh.glb", surface, jpeg, scene.camera, scene.facts)
    return [path]


def stereo(scene: Scene, options: Predict, out: Path, name: str) -> list[Path]:
    both = two_eyes.pair(scene.photo, scene.unit, options.stereo, options.edge)
    return [write_jpeg(out / f"{name}_stereo_sbs.jpg", two_eyes.side_by_side(*both), options.quality)]


def anaglyph(scene: Scene, options: Predict, out: Path, name: str) -> list[Path]:
    both = two_eyes.pair(scene.photo, scene.unit, options.stereo, options.edge)
    return [write_jpeg(out / f"{name}_anaglyph.jpg", two_eyes.anaglyph(*both), options.quality)]


def parallax(scene: Scene, options: Predict, out: Path, name: str) -> list[Path]:
    with Writer(path := out / f"{name}_parallax.mp4", options.parallax.fps, options.crf) as writer:
        for frame in turning.frames(scene.photo, scene.unit, options.parallax, options.edge):
            writer.write(frame)
    return [path]


def write_jpeg(path: Path, picture: np.ndarray, quality: int) -> Path:
    """Colours at full resolution: an anaglyph's left and right view differ in nothing but colour."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    path.write_bytes(cv2.imencode(".jpg", picture[..., ::-1], flags)[1].tobytes())
    return path


OUTPUTS = {"cloud": cloud, "mesh": mesh, "stereo": stereo, "anaglyph": anaglyph, "parallax": parallax}  # beside depth
