"""What every kind of source becomes: pairs of an image and its depth, and what could not be paired."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import xxhash

from data_pipelines.production.plan import Rejected

IMAGE_NAMES = ("image", "images", "img", "imgs", "im", "rgb", "color", "colors", "colour", "colours",
               "photo", "photos", "picture", "pictures")  # fmt: skip
DEPTH_NAMES = ("depth", "depths", "depthmap", "depthmaps", "disparity", "disparities", "disp", "disps",
               "gt", "groundtruth", "ground_truth")  # fmt: skip
MASK_NAMES = ("mask", "masks", "valid", "validity")
SKY_NAMES = ("sky", "skies", "sky_mask", "sky_masks")
SPLITS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("val", "valid", "validation", "test"), "val")


@dataclass(frozen=True)
class Cell:
    """One value of a data set that Hugging Face `datasets` saved on disk."""

    folder: Path
    split: str | None
    row: int
    column: str

    def __str__(self) -> str:
        return f"{self.folder.name}[{self.split or 'row'} {self.row}].{self.column}"


@dataclass(frozen=True)
class Pair:
    """key: name of the sample. split: train or val where the source says so. group: the folder."""

    key: str
    image: Path | Cell
    depth: Path | Cell
    mask: Path | Cell | None = None
    sky: Path | Cell | None = None
    split: str | None = None
    group: str = ""


@dataclass
class Found:
    """how: one line that says what was found and how it was paired."""

    how: str
    pairs: list[Pair]
    rejected: list[Rejected] = field(default_factory=list)


def guess_column(columns: list[str], names: tuple[str, ...]) -> str | None:
    """The one column that is called by one of `names`, wholly or in part (depth_map, rgb_path); else None.
    A path is not a column name: it says that the header line is missing."""
    exact = [column for column in columns if column.lower() in names]
    words = {
        column: set(re.split(r"[_\- \d]+", column.lower())) for column in columns if not re.search(r"[./\\]", column)
    }
    parts = [column for column, said in words.items() if said & set(names)]
    for candidates in (exact, parts):
        if len(candidates) == 1:
            return candidates[0]
    return None


def clean_keys(pairs: list[Pair]) -> list[Pair]:
    """Keys without dots and slashes; where two names become one key, both get a hash of their name."""
    clean = [re.sub(r"[^\w-]", "_", pair.key).strip("_") or "sample" for pair in pairs]
    count = Counter(clean)
    return [
        replace(
            pair,
            key=key
            if count[key] == 1
            else f"{key}-{xxhash.xxh3_64_hexdigest(pair.key.encode('utf-8', 'replace'))[:8]}",
        )
        for pair, key in zip(pairs, clean, strict=True)
    ]
