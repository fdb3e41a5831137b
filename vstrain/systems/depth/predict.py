"""Disparity for a user's own photos of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.nn import functional as F

from vstrain.system import Prediction, System
from vstrain.systems.depth.config import PATCH
from vstrain.systems.depth.photo import UnreadablePhoto, read_photo
from vstrain.systems.depth.pictures import colour
from vstrain.systems.depth.prepare import network_size, resize_image

MAX_PATCHES = 8192  # of one photo; a longer panorama enters the network smaller, so memory stays bounded
VIEW = 1600  # pixels: longest side of a photo in the side-by-side picture


def predict(system: System, inputs: list[Path], out: Path, progress: Callable[[int, int], None]) -> Prediction:
    """For each photo NAME.* writes to `out`
        NAME_depth.npy           float32 (H, W), disparity of free scale and shift, larger is nearer, at the
                                 photo's size
        NAME_depth.png           the same over its range as 16 bits; the range stands in the PNG's text chunks
        NAME_side_by_side.png    the photo beside its coloured disparity
    `progress(done, total)` is called after each photo. What cannot be read is refused with one sentence."""
    out.mkdir(parents=True, exist_ok=True)
    written, refused, names = [], [], output_names(inputs)
    for done, (path, name) in enumerate(zip(inputs, names, strict=True), 1):
        try:
            photo = read_photo(path)
            written += save(photo, disparity_of(system, photo), out, name)
        except UnreadablePhoto as problem:
            refused.append((path, f"{path}: {problem}"))
        progress(done, len(inputs))
    return Prediction(written, refused)


@torch.inference_mode()
def disparity_of(system: System, photo: np.ndarray) -> np.ndarray:
    """float32 (H, W) for uint8 RGB (H, W, 3): resized by the training rule, predicted, and brought back to
    the photo's size bilinearly with aligned corners."""
    lower = system.config.predict_size or system.config.image_size
    height, width = bounded_size(*photo.shape[:2], lower)
    image = torch.from_numpy(resize_image(photo, height, width, system.config.antialias))
    disparity = system(image[None].to(system.device)).float()[None]
    full = F.interpolate(disparity, photo.shape[:2], mode="bilinear", align_corners=True)
    return full[0, 0].cpu().numpy()


def bounded_size(height: int, width: int, lower: int) -> tuple[int, int]:
    """`network_size`, with the long side cut down where the whole would hold more than MAX_PATCHES
    patches."""
    size = network_size(height, width, lower)
    longest = max(PATCH, MAX_PATCHES * PATCH**2 // min(size) // PATCH * PATCH)
    return min(size[0], longest), min(size[1], longest)


def save(photo: np.ndarray, disparity: np.ndarray, out: Path, name: str) -> list[Path]:
    low, high = float(disparity.min()), float(disparity.max())
    unit = (disparity - low) / max(high - low, np.finfo(np.float32).tiny)
    text = PngInfo()
    text.add_text("quantity", "disparity of free scale and shift, larger is nearer")
    text.add_text("disparity_min", repr(low))  # the disparity of pixel value 0
    text.add_text("disparity_max", repr(high))  # of pixel value 65535
    paths = [out / f"{name}_{what}" for what in ("depth.npy", "depth.png", "side_by_side.png")]
    np.save(paths[0], disparity)
    Image.fromarray(np.rint(unit * 65535).astype(np.uint16)).save(paths[1], pnginfo=text, compress_level=1)
    Image.fromarray(side_by_side(photo, unit)).save(paths[2], compress_level=1)
    return paths


def side_by_side(photo: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The photo and its coloured disparity (H, W) in [0, 1], beside each other, at most VIEW pixels a side
    each."""
    share = min(1, VIEW / max(photo.shape[:2]))
    size = tuple(max(1, round(side * share)) for side in photo.shape[1::-1])
    photo, unit = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (photo, unit))
    gap = np.full((size[1], 8, 3), 255, np.uint8)
    return np.concatenate((photo, gap, colour(unit)), axis=1)


def output_names(inputs: list[Path]) -> list[str]:
    """The stem of each input; inputs with the same stem keep their extension, and then a number, to stay
    apart."""
    names = [path.stem for path in inputs]
    names = [path.name.replace(".", "_") if names.count(path.stem) > 1 else path.stem for path in inputs]
    return [f"{name}_{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]
