"""Public sets of unlabelled pictures: which files of a download count; docs/unlabelled.md says where the facts are from.

A file's name is its path below the source. Behind the name of an archive (without .tar) or of an LMDB folder (without _lmdb)
stands that of its member, so an archive and the folder that it unpacks to have one rule."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class PictureSet:
    """pattern: of the names that count, any number of folders before. without: of folders whose pictures do not count."""

    title: str
    pattern: str
    expected: str  # for sentences
    without: str = ""

    def counts(self, name: str) -> bool:
        if not re.fullmatch(f"(?:.*/)?(?:{self.pattern})", name, re.IGNORECASE):
            return False
        return not any(re.fullmatch(self.without, folder, re.IGNORECASE) for folder in name.split("/")[:-1])


HELD_OUT = r"(?:.*_)?(?:val|validation|test)(?:_lmdb|_large|_256)?"
SETS = {
    "own": PictureSet("pictures", r"[^/]+", "jpg, png, webp, tiff, bmp, .tar, .parquet or LMDB"),
    "bdd100k": PictureSet(
        "BDD100K",
        r"(?:images|frames)/(?:[^/]+/)*train/(?:[^/]+/)?[^/]+\.jpg",
        "images/100k/train/NAME.jpg, or frames of its videos as frames/train/VIDEO/NAME.jpg",
        HELD_OUT,
    ),
    "google_landmarks": PictureSet(
        "Google Landmarks v2",
        r"([0-9a-f])/([0-9a-f])/([0-9a-f])/\1\2\3[0-9a-f]{13}\.jpg",
        "train/0/0/0/000….jpg, or train/images_000.tar",
        "index|test",
    ),
    "imagenet21k": PictureSet(
        "ImageNet-21K", r"(n\d{8})/\1_\d+\.JPEG", "n01440764/n01440764_10.JPEG, or n01440764.tar", HELD_OUT
    ),
    "lsun": PictureSet(
        "LSUN",
        r"(?:[^/]+/)+[0-9a-f]{40}(?:\.(?:webp|jpe?g))?",
        "bedroom_train_lmdb/data.mdb, or exported pictures as bedroom_train/…/HASH.webp",
        HELD_OUT,
    ),
    "objects365": PictureSet(
        "Objects365",
        r"patch\d+/objects365_v[12]_\d{8}\.jpg",
        "train/patch0/objects365_v1_00000000.jpg, or patch0.tar",
        HELD_OUT,
    ),
    "openimages": PictureSet(
        "Open Images V7",
        r"train(?:_[0-9a-f]|_\d\d)?/(?:[^/]+/)*[0-9a-f]{16}\.jpg",
        "train/0a1b2c3d4e5f6789.jpg, or train_0.tar",
        HELD_OUT,
    ),
    "places365": PictureSet(
        "Places365",
        r"(?:data|train)(?:_256|_large)?(?:_?(?:places365)?_?(?:standard|challenge))?/(?:[a-z_0-9-]+/)+[^/]+\.jpg",
        "data_large/a/airfield/00000001.jpg, data_256/…, train/airfield/00000001.jpg, or their .tar",
        HELD_OUT,
    ),
    "sa1b": PictureSet("SA-1B", r"sa_\d{6}/sa_\d+\.jpg", "sa_000000.tar, or sa_000000/sa_1.jpg"),
}
