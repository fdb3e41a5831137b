"""Published lists of what is for training and what for validation.

A text file names a picture (its path from anywhere above the source) or a scene at the beginning of each line. A CSV is that of
Hypersim: scene_name, camera_name, frame_id, included_in_public_release, exclude_reason, split_partition_name.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.depth_corpus.layouts.layout import Layout
from data_pipelines.depth_corpus.pairs import SPLITS
from vstrain.config.problems import InputError

Name = tuple[str, ...]
COLUMNS = ("scene_name", "camera_name", "frame_id", "included_in_public_release", "split_partition_name")


@dataclass
class Lists:
    """Names (fields) and scenes with their split, and names that their publisher leaves out, with his reason."""

    names: dict[Name, str] = field(default_factory=dict)
    scenes: dict[str, str] = field(default_factory=dict)
    excluded: dict[Name, str] = field(default_factory=dict)
    only_listed: bool = False  # what no list names is left out
    read: list[str] = field(default_factory=list)  # the files

    def knows(self, layout: Layout, name: Name) -> bool:
        return name in self.names or layout.scene(name) in self.scenes

    def split(self, layout: Layout, name: Name) -> str | None:
        """train, val, or None where no list decides; where one names the validation part, the rest is train."""
        found = self.names.get(name) or self.scenes.get(layout.scene(name))
        return found or ("train" if self.read and not self.only_listed else None)


def read_lists(source: Path, layout: Layout, train: str | None, val: str | None) -> Lists:
    """The lists that the config names; without a val list, one of the set's own that lies in the source."""
    lists = Lists(only_listed=train is not None)
    own = [source / place for place in layout.val_lists if (source / place).is_file()]
    if val is not None or own:
        _read(Path(val).expanduser() if val else own[0], "val", layout, lists)
    if train is not None:
        _read(Path(train).expanduser(), "train", layout, lists)
    return lists


def _read(path: Path, split: str, layout: Layout, lists: Lists) -> None:
    key = f"{split}_list={path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key}: cannot be read ({error}); expected a text file with a picture a line") from error
    lists.read.append(path.name)
    if path.suffix.lower() == ".csv":
        _read_csv(key, text, lists)
        return
    known = len(lists.names) + len(lists.scenes)
    lines = [line.split("\t")[0].strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        name = _name(layout, line) or _name(layout, line.split()[0])
        if name is not None:
            lists.names[name] = split
        elif not set(line) & set("./\\"):
            lists.scenes[line] = split
    if len(lists.names) + len(lists.scenes) == known:
        raise InputError(
            f"{key}: none of its {len(lines)} lines names a picture of {layout.title}; expected paths such as "
            f"{layout.trees[0].image.removeprefix('**/')}, or names of scenes"
        )


def _name(layout: Layout, path: str) -> Name | None:
    """The fields of a path from anywhere above the source."""
    return layout.name(path.lstrip("./"))


def _read_csv(key: str, text: str, lists: Lists) -> None:
    rows = csv.DictReader(text.splitlines())
    if missing := [column for column in COLUMNS if column not in (rows.fieldnames or [])]:
        raise InputError(
            f"{key}: has no column {missing[0]}; expected metadata_images_split_scene_v1.csv of the Hypersim toolkit"
        )
    for row in rows:
        name = (row["scene_name"], row["camera_name"], f"{int(row['frame_id']):04d}")
        if row["included_in_public_release"].strip().lower() != "true":
            lists.excluded[name] = row.get("exclude_reason") or "not in the public release"
        elif split := SPLITS.get(row["split_partition_name"].strip().lower()):
            lists.names[name] = split
