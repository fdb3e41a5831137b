"""KITTI: pictures of the raw recordings, depth of the depth benchmark.

    <…>/<date>/<drive>_sync/image_02/data/<frame>.png     (or .jpg)
    <…>/<drive>_sync/proj_depth/groundtruth/image_02/<frame>.png    uint16, metres x 256, 0 = invalid
<…> is root or up to two folders below it, such as raw/ and data_depth_annotated/val/."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from vstrain.config.problems import InputError
from vstrain.systems.depth.protocols import files
from vstrain.systems.depth.protocols.config import KittiEigen
from vstrain.systems.depth.protocols.listing import Listing, Sample, wrong_layout

STORED = 256  # stored number of one metre
DEPTHS = "*_sync/proj_depth/groundtruth/image_02/*.png"
IMAGE_PARTS, DEPTH_PARTS = 4, 5  # of a path, from the folder of the drive to the file
EXPECTED = "<date>/<drive>_sync/image_02/data/*.png with <drive>_sync/proj_depth/groundtruth/image_02/*.png"


def find(root: Path, options: KittiEigen) -> Listing:
    bases = [root, *_folders(root), *(inner for folder in _folders(root) for inner in _folders(folder))]
    if options.split is not None:
        path = Path(options.split).expanduser()
        return Listing(_listed(path, bases), f"list {path.name}")
    samples = {}
    for depth in (path for base in bases for path in base.glob(DEPTHS)):
        drive, frame = depth.parts[-DEPTH_PARTS], depth.stem
        image = _picture(bases, PurePosixPath(drive[:10], drive, "image_02/data", f"{frame}.png"))
        if image is not None:
            samples[f"{drive}/{frame}"] = partial(_read, image, depth)
    if not samples:
        raise wrong_layout(root, EXPECTED)
    return Listing([Sample(key, read) for key, read in sorted(samples.items())], "every pair below root")


def _listed(path: Path, bases: list[Path]) -> list[Sample]:
    """The samples of a published list: a line holds the picture, the depth and maybe a focal length. The folders that
    such a path begins with are another machine's; what follows them is looked for below root. Depth `None` is
    what Eigen's list says of images without improved ground truth."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"split={path}: cannot be read; expected a text file with `image depth` a line") from error
    images, depths = Remap(bases, IMAGE_PARTS), Remap(bases, DEPTH_PARTS)
    samples = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[1:2] == ["None"]:
            continue
        if len(words) < 2:
            raise InputError(f"split={path}: line {number} is {line.strip()!r}; expected `image depth`")
        image, depth = images.find(words[0]), depths.find(words[1])
        for word, found in zip(words, (image, depth), strict=False):
            if found is None:
                raise InputError(f"split={path}: line {number}: {word} is not below {bases[0]}, nor is any end of it")
        key = f"{image.parts[-IMAGE_PARTS]}/{image.stem}"
        samples.append(Sample(key, partial(_read, image, depth)))
    if not samples:
        raise InputError(f"split={path}: names no image; expected a text file with `image depth` a line")
    return samples


class Remap:
    """Finds the file that a path of another machine means: the longest end of it that exists below one of `bases`. An end
    has at least `parts` parts."""

    def __init__(self, bases: list[Path], parts: int):
        self.bases, self.parts = bases, parts
        self._worked: list[tuple[Path, int]] = []  # (base, number of parts cut off), the last success first

    def find(self, path: str) -> Path | None:
        parts = PurePosixPath(path).parts
        ends = range(max(0, len(parts) - self.parts) + 1)
        for base, cut in (*self._worked, *((base, cut) for cut in ends for base in self.bases)):
            if cut in ends and (found := _picture([base], PurePosixPath(*parts[cut:]))):
                self._worked = [(base, cut), *(way for way in self._worked if way != (base, cut))]
                return found
        return None


def _picture(bases: list[Path], tail: PurePosixPath) -> Path | None:
    """The file `tail` below the first base that has it, as PNG or JPEG."""
    tails = [tail.with_suffix(suffix) for suffix in dict.fromkeys((tail.suffix, ".png", ".jpg"))]
    return next((base / name for base in bases for name in tails if (base / name).is_file()), None)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _read(image: Path, depth: Path) -> tuple[np.ndarray, np.ndarray]:
    return files.picture(image), files.depth_16_bit(depth) / np.float32(STORED)
