"""How a public data set is described: where its files lie, and what its numbers mean.

A template such as `**/{scene}/imgs/{frame}.jpg` is a path below the source: `{name}` is what `fields` says of it (one folder or
name unless it says more), `*` is a part of a name without `_`, and `**/` in front is any number of folders. Files whose fields
agree are one sample, whatever stands for `*` and `**/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

HDF5 = (".h5", ".hdf5")


@dataclass(frozen=True)
class Rules:
    """What the numbers of a depth file mean. The keys of the config with these names come before them."""

    unit: Literal["depth", "disparity"]
    depth_scale: float  # stored number x depth_scale = metres or disparity
    look: Literal["real", "synthetic"]
    metric: bool = True  # False: a depth's metres are known up to a factor of its scene only
    mask_above: float | None = None  # mask numbers above this mark valid pixels; None: all but zero
    mask_valid: Literal["nonzero", "zero"] = "nonzero"
    sky_values: tuple[float, ...] = ()  # stored numbers that mean sky
    sky_far: float | None = None  # as many metres and more are a renderer's sky dome
    focal: float | None = None  # of the camera, in pixels along x
    focal_width: int | None = None  # of a picture this wide; None: of the picture as it is stored
    ray: bool = False  # distances to the camera's centre, which become depth along its axis; needs focal
    ordinal: bool = False  # a map with negative numbers orders regions and holds no depth


@dataclass(frozen=True)
class Tree:
    """Templates of the files of one sample."""

    image: str
    depth: str
    mask: str | None = None


@dataclass(frozen=True)
class Layout:
    """title: the set's own name. group: the fields that name a scene, for split_by=folder. val_lists: where a published list of
    the validation part lies below the source, if somebody put it there."""

    title: str
    rules: Rules
    trees: tuple[Tree, ...]
    group: tuple[str, ...]
    fields: dict[str, str] = field(default_factory=dict)
    val_lists: tuple[str, ...] = ()

    @cached_property
    def images(self) -> list[re.Pattern]:
        return [self.pattern(tree.image) for tree in self.trees]

    def pattern(self, template: str) -> re.Pattern:
        """The template as a regular expression over whole paths, with a group a field."""
        seen: set[str] = set()

        def part(text: str) -> str:
            if text == "**/":
                return "(?:.*?/)??"
            if text == "*":
                return "[^/_]*"
            if not text.startswith("{"):
                return re.escape(text)
            name = text[1:-1]
            if name in seen:
                return f"(?P={name})"
            seen.add(name)
            return f"(?P<{name}>{self.fields.get(name, '[^/]+')})"

        return re.compile("".join(map(part, re.split(r"(\*\*/|\*|\{\w+\})", template))), re.IGNORECASE)

    def name(self, path: str, patterns: list[re.Pattern] | None = None) -> tuple[str, ...] | None:
        """The fields of a path, in the order of the image's template; None where no pattern (by default: of images) fits."""
        for pattern in self.images if patterns is None else patterns:
            if match := pattern.fullmatch(path):
                return tuple(match[field] for field in self.images[0].groupindex)
        return None

    def scene(self, name: tuple[str, ...]) -> str:
        """The scene that a name belongs to."""
        fields = dict(zip(self.images[0].groupindex, name, strict=True))
        return "/".join(fields[one] for one in self.group)

    @property
    def needs_hdf5(self) -> bool:
        return any(tree.depth.endswith(HDF5) for tree in self.trees)
