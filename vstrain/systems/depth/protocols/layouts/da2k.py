"""DA-2K: annotations.json, {picture: [{point1: [row, column], point2: [row, column], closer_point: "point1"}, …]}, beside the
pictures, whose folder names the kind of scene."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path, PurePosixPath

from vstrain.config.problems import InputError
from vstrain.systems.depth.protocols import files
from vstrain.systems.depth.protocols.config import Protocol
from vstrain.systems.depth.protocols.listing import Listing, OrdinalSample, Point, wrong_layout

ANNOTATIONS = "annotations.json"
POINTS = ("point1", "point2")


def find(root: Path, options: Protocol) -> Listing:
    path = root / ANNOTATIONS
    if not path.is_file():
        raise wrong_layout(root, f"{ANNOTATIONS} with the pictures that it names")
    try:
        annotations = json.loads(path.read_text())
        samples = [
            OrdinalSample(
                PurePosixPath(name).as_posix(),
                partial(files.picture, root / name),
                tuple(map(pair_of, pairs)),
                PurePosixPath(name).parent.name,
            )
            for name, pairs in annotations.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not DA-2K's annotations ({type(error).__name__}: {error}); expected {{picture: [{{point1: [row, "
            "column], point2: [row, column], closer_point}, …]}"
        ) from error
    missing = [sample.key for sample in samples if not (root / sample.key).is_file()]
    if missing or not samples:
        raise InputError(
            f"{path}: names {len(samples)} pictures, of which {len(missing)} are not below {root} "
            f"({', '.join(missing[:3])}); unpack the whole data set there"
        )
    return Listing(samples, ANNOTATIONS)


def pair_of(annotation: dict) -> tuple[Point, Point]:
    """(nearer point, farther point), (row, column) each."""
    closer = annotation["closer_point"]
    if closer not in POINTS:
        raise ValueError(f"closer_point is {closer!r}, expected point1 or point2")
    first, second = ((int(row), int(column)) for row, column in (annotation[name] for name in POINTS))
    return (first, second) if closer == "point1" else (second, first)
