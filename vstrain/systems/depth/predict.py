"""Depth of a user's own photos and videos, of any size, and what can be made of it (docs/depth_predict.md)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vstrain.system import Prediction, System
from vstrain.systems.depth.config import PATCH
from vstrain.systems.depth.photo import UnreadablePhoto, focal_35mm, read_photo
from vstrain.systems.depth.prepare import MAX_PATCHES, bounded_size, resize_image
from vstrain.systems.depth.scene import movie, moving, still
from vstrain.systems.depth.scene.camera import Camera, Scene, camera_of, over_range
from vstrain.systems.depth.scene.edges import sharpen
from vstrain.systems.depth.scene.still import NEAREST
from vstrain.systems.depth.scene.tiles import tiled


def predict(system: System, inputs: list[Path], out: Path, progress: Callable[[float, int], None]) -> Prediction:
    """For each photo NAME.* writes what `system.predict.outputs` names to `out`:
        depth      NAME_depth.npy          float32 (H, W) at the photo's size: disparity of free scale and shift, larger is
                                           nearer, or metres
                   NAME_depth.png          the same over its range as 16 bits; the range stands in the PNG's text chunks
                   NAME_side_by_side.png   the photo beside its coloured disparity
        cloud      NAME_cloud.ply          coloured points
        mesh       NAME_mesh.glb           triangles with the photo as their texture
        stereo     NAME_stereo_sbs.jpg     left | right, full width
        anaglyph   NAME_anaglyph.jpg       for red-cyan glasses
        parallax   NAME_parallax.mp4       a camera that circles before the photo, without an end
    and for each video
        depth      NAME_depth.mp4          coloured disparity, steady over time
        frames     NAME_frames/000000.png  16-bit disparity
        stereo     NAME_stereo_sbs.mp4     anaglyph   NAME_anaglyph.mp4
    `progress(done, total)` counts inputs; a video that is half done counts half. What cannot be read is refused with one
    sentence."""
    out.mkdir(parents=True, exist_ok=True)
    written, refused, names = [], [], output_names(inputs)
    for done, (path, name) in enumerate(zip(inputs, names, strict=True)):
        try:
            if path.suffix.lower() in movie.SUFFIXES:
                within = partial(_within, progress, done, len(inputs))
                written += of_video(system, path, out, name, within)
            else:
                written += of_photo(system, path, out, name)
        except (UnreadablePhoto, movie.UnreadableVideo) as problem:
            refused.append((path, f"{path}: {problem}"))
        progress(done + 1, len(inputs))
    return Prediction(written, refused)


def _within(progress: Callable[[float, int], None], done: int, total: int, share: float) -> None:
    progress(done + share, total)


def of_photo(system: System, path: Path, out: Path, name: str) -> list[Path]:
    options, photo = system.config.predict, read_photo(path)
    wanted = [what for what in still.OUTPUTS if what in options.outputs]
    if not wanted and "depth" not in options.outputs:
        raise UnreadablePhoto(
            f"a photo has no {', '.join(options.outputs)}; add depth or {', '.join(still.OUTPUTS)} to system.predict.outputs"
        )
    camera, metric = camera_of(*photo.shape[:2], focal_35mm(path), options.fov), system.config.output == "metric"
    values = disparity_of(system, photo, camera)
    written = []
    if "depth" in options.outputs:
        written += still.depth(photo, values, metric, camera.text, out, name)
    if wanted:
        scene = scene_of(system, photo, values, camera)
        written += [path for what in wanted for path in still.OUTPUTS[what](scene, options, out, name)]
    return written


def of_video(system: System, path: Path, out: Path, name: str, progress: Callable[[float], None]) -> list[Path]:
    options, metric = system.config.predict, system.config.output == "metric"
    if not set(options.outputs) & set(moving.OUTPUTS):
        raise movie.UnreadableVideo(
            f"a video has no {', '.join(options.outputs)}; add {', '.join(moving.OUTPUTS)} to system.predict.outputs"
        )

    def disparity(frame: np.ndarray) -> np.ndarray:
        values = seen(system, frame, camera_of(*frame.shape[:2], None, options.fov)).cpu().numpy()
        return 1 / values.clip(NEAREST) if metric else values

    def enlarge(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return enlarged(torch.from_numpy(values), size).numpy()

    with movie.opened(path) as source:
        return moving.convert(source, disparity, enlarge, options, metric, out, name, progress)


def disparity_of(system: System, photo: np.ndarray, camera: Camera | None = None) -> np.ndarray:
    """float32 (H, W) for uint8 RGB (H, W, 3): resized by the training rule, predicted, and brought back to the photo's size
    bilinearly with aligned corners; piece by piece where system.predict.tile asks for it. Metres with output=metric."""
    options = system.config.predict
    camera = camera or camera_of(*photo.shape[:2], None, options.fov)

    def whole(piece: np.ndarray) -> np.ndarray:
        part = Camera(*piece.shape[:2], camera.focal, camera.source)
        return enlarged(seen(system, piece, part), piece.shape[:2]).cpu().numpy()

    side = tile_side(system, *photo.shape[:2])
    return whole(photo) if side is None else tiled(whole, photo, side, 1 / shrunk(system, *photo.shape[:2]))


@torch.inference_mode()
def seen(system: System, photo: np.ndarray, camera: Camera) -> Tensor:
    """(h, w) on the system's device: the network's map at the network's own size."""
    height, width = bounded_size(*photo.shape[:2], short_side(system))
    image = torch.from_numpy(resize_image(photo, height, width, system.config.antialias))[None].to(system.device)
    if system.config.camera is None:
        return system(image).float()[0]
    focal = torch.tensor([camera.focal / camera.height], device=system.device)
    return system(image, focal).float()[0]


def enlarged(values: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values[None, None], size, mode="bilinear", align_corners=True)[0, 0]


def scene_of(system: System, photo: np.ndarray, values: np.ndarray, camera: Camera) -> Scene:
    """The photo with sharp depth. Metric depth is taken as it is; disparity becomes 1 / depth by a rule, since its scale
    and shift are unknown: the nearest point lies at 1, the farthest at system.predict.far_ratio."""
    options, metric = system.config.predict, system.config.output == "metric"
    unit, low, high = over_range(1 / values.clip(NEAREST) if metric else values)
    far, near = (low, high) if metric else (1 / options.far_ratio, 1.0)
    spread = max(1, int(np.ceil(1.5 * shrunk(system, *photo.shape[:2], tile_side(system, *photo.shape[:2])))))
    return Scene(photo, sharpen(unit, spread, options.edge), far, near, camera, metric)


def short_side(system: System) -> int:
    return system.config.predict.size or system.config.image_size


def shrunk(system: System, height: int, width: int, side: int | None = None) -> float:
    """How many times smaller the network sees a photo, or a tile of it, than it is."""
    height, width = min(height, side or height), min(width, side or width)
    return min(height, width) / min(bounded_size(height, width, short_side(system)))


def tile_side(system: System, height: int, width: int) -> int | None:
    """Side of the tiles in pixels of the photo; None: it is seen as a whole. auto: tiles of twice the network's short side
    for photos of more than MAX_PATCHES patches."""
    tile = system.config.predict.tile
    if tile == "auto":
        tile = 2 * short_side(system) if height * width > MAX_PATCHES * PATCH**2 else None
    return tile if tile and max(height, width) > tile else None


def output_names(inputs: list[Path]) -> list[str]:
    """The stem of each input; inputs with the same stem keep their extension, and then a number, to stay
    apart."""
    names = [path.stem for path in inputs]
    names = [path.name.replace(".", "_") if names.count(path.stem) > 1 else path.stem for path in inputs]
    return [f"{name}_{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]
