"""DIODE.

val/indoors/scene_*/scan_*/<name>.png    or val/outdoor/
                           <name>_depth.npy         float32 (H, W, 1) metres
                           <name>_depth_mask.npy    (H, W), 1 = valid"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np

from vstrain.config.problems import InputError
from vstrain.systems.depth.protocols import files
from vstrain.systems.depth.protocols.config import DIODE
from vstrain.systems.depth.protocols.listing import Listing, Sample, wrong_layout

DOMAINS = ("indoors", "outdoor")
DEPTH = "_depth.npy"


def find(root: Path, options: DIODE) -> Listing:
    val = root / "val" if (root / "val").is_dir() else root
    depths = [path for domain in DOMAINS for path in sorted((val / domain).glob(f"**/*{DEPTH}"))]
    samples = []
    for depth in depths:
        stem = depth.with_name(depth.name.removesuffix(DEPTH))
        domain = stem.relative_to(val).parts[0]
        edge_mask = options.edge_mask if domain == "outdoor" else None
        samples.append(Sample(stem.relative_to(val).as_posix(), partial(_read, stem, edge_mask), domain))
    if not samples:
        raise wrong_layout(
            root, "val/indoors/ and val/outdoor/ with NAME.png, NAME_depth.npy and NAME_depth_mask.npy below"
        )
    return Listing(samples, "val" if options.edge_mask is None else f"val, edge_mask {options.edge_mask:g} outdoor")


def _read(stem: Path, edge_mask: float | None) -> tuple[np.ndarray, np.ndarray]:
    photo = files.picture(Path(f"{stem}.png"))
    depth, mask = files.array(Path(f"{stem}{DEPTH}")), files.array(Path(f"{stem}_depth_mask.npy"))
    if depth.shape != mask.shape:
        raise InputError(f"{stem}{DEPTH}: {depth.shape}, but its mask is {mask.shape}; download the scan again")
    valid = (mask != 0) & np.isfinite(depth) & (depth > 0)
    if edge_mask is not None:
        valid &= ~depth_edges(depth, valid, edge_mask)
    return photo, np.where(valid, depth, 0)


def depth_edges(depth: np.ndarray, valid: np.ndarray, jump: float) -> np.ndarray:
    """bool (H, W): pixels around which, in 3 x 3, the farthest valid depth exceeds the nearest by more than `jump` times
    the nearest."""
    kernel = np.ones((3, 3), np.uint8)
    far = cv2.dilate(np.where(valid, depth, 0).astype(np.float32), kernel)
    near = cv2.erode(np.where(valid, depth, np.inf).astype(np.float32), kernel, borderValue=np.inf)
    return far > near * (1 + jump)
