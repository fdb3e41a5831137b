"""NYU Depth v2: the official labelled file, or folders extracted from it.

    nyu_depth_v2_labeled.mat    images (1449, 3, 640, 480) uint8, rawDepths (1449, 640, 480) float32 metres, 0 = invalid
    splits.mat                  testNdxs, 654 numbers counted from 1
or  rgb/NAME.*, depth/NAME.*    raw depth, integers x depth_scale or floats in metres"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from vstrain.config.problems import InputError
from vstrain.systems.depth.protocols import files
from vstrain.systems.depth.protocols.config import NYUv2
from vstrain.systems.depth.protocols.layouts.folder import same_names
from vstrain.systems.depth.protocols.listing import Listing, Sample, wrong_layout

LABELLED = "nyu_depth_v2_labeled.mat"


def find(root: Path, options: NYUv2) -> Listing:
    if not (root / LABELLED).is_file():
        if not ((root / "rgb").is_dir() and (root / "depth").is_dir()):
            raise wrong_layout(root, f"{LABELLED} with {options.split}, or folders rgb/ and depth/")
        pairs = same_names(root, "rgb", "depth")
        return Listing(
            [Sample(key, partial(_read, *pair, options.depth_scale)) for key, pair in pairs.items()], "rgb/ and depth/"
        )
    h5py, loadmat = _readers()
    if not (root / options.split).is_file():
        raise InputError(f"split={options.split}: not in {root}; expected the official splits.mat beside {LABELLED}")
    try:
        numbers = loadmat(str(root / options.split))["testNdxs"].ravel().tolist()
        file = h5py.File(root / LABELLED, "r")
        total = len(file["images"]), len(file["rawDepths"])
    except (KeyError, OSError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{root}: {LABELLED} and {options.split} do not read ({error}); expected images and rawDepths in the one, "
            "testNdxs in the other: download them again"
        ) from error
    if not numbers or not 1 <= min(numbers) <= max(numbers) <= min(total):
        raise InputError(f"{root / options.split}: testNdxs are not within the {min(total)} images of {LABELLED}")
    return Listing([Sample(f"{n:04d}", partial(labelled, file, n)) for n in numbers], f"testNdxs of {options.split}")


def labelled(file, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(photo uint8 (480, 640, 3), raw depth float32 (480, 640)) of image `number`, counted from 1 as MATLAB does. HDF5
    shows MATLAB's arrays with their axes in reverse."""
    photo, depth = file["images"][number - 1], file["rawDepths"][number - 1]
    return np.ascontiguousarray(photo.transpose(2, 1, 0)), np.ascontiguousarray(depth.T)


def _readers():
    try:
        import h5py
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError(
            f"{LABELLED} needs {error.name}, which is not installed: pip install 'vstrain[eval]', or give folders rgb/ "
            "and depth/"
        ) from error
    return h5py, loadmat


def _read(image: Path, depth: Path, scale: float) -> tuple[np.ndarray, np.ndarray]:
    values = files.array(depth)
    return files.picture(image), values if values.dtype.kind == "f" else values * np.float32(scale)
