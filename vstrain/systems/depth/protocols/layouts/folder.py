"""A user's own pairs: <images>/**/NAME.* with <depths>/**/NAME.*, the same relative names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from vstrain.config.problems import InputError
from vstrain.systems.depth.protocols import files
from vstrain.systems.depth.protocols.config import Folder
from vstrain.systems.depth.protocols.listing import Listing, Sample, wrong_layout


def find(root: Path, options: Folder) -> Listing:
    if not all((root / name).is_dir() for name in (options.images, options.depths)):
        raise wrong_layout(
            root, f"folders {options.images}/ and {options.depths}/ (other names: images=NAME depths=NAME)"
        )
    pairs = same_names(root, options.images, options.depths)
    samples = [
        Sample(key, partial(_read, *pair, options.unit, options.depth_scale)) for key, pair in sorted(pairs.items())
    ]
    return Listing(samples, f"{options.images}/ and {options.depths}/")


def same_names(root: Path, images: str, depths: str) -> dict[str, tuple[Path, Path]]:
    """{relative name without extension: (picture, depth file)}. Every file must have its partner, and one alone."""
    found = [_names(root / images), _names(root / depths)]
    lone = found[0].keys() ^ found[1].keys()
    if lone or not found[0]:
        example = f" ({sorted(lone)[0]} is one)" if lone else ""
        raise InputError(
            f"root={root}: {len(found[0])} pictures in {images}/, {len(found[1])} depth files in {depths}/, {len(lone)} "
            f"without partner{example}; expected files of the same relative names in both"
        )
    return {key: (found[0][key], found[1][key]) for key in sorted(found[0])}


def _names(folder: Path) -> dict[str, Path]:
    names: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in names:
                raise InputError(f"{path}: {names[key].name} has the same name; keep one of the two")
            names[key] = path
    return names


def _read(image: Path, depth: Path, unit: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
    values = files.array(depth)
    if values.dtype == np.uint8 and unit == "depth":
        raise InputError(
            f"{depth}: 8-bit numbers are too coarse for depth; expected 16 bits or floats, or unit=disparity"
        )
    values = values.astype(np.float64) * scale
    if unit == "disparity":
        values = np.divide(1, values, out=np.zeros_like(values), where=values > 0)
    return files.picture(image), values
