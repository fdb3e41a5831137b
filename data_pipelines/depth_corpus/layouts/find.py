"""The pairs of a public data set, as its layout says."""

from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from data_pipelines.depth_corpus.config import Config
from data_pipelines.depth_corpus.folder import Name, Roles, listed, lone, refuse_ambiguity, walk
from data_pipelines.depth_corpus.layouts.layout import Layout
from data_pipelines.depth_corpus.layouts.lists import Lists, read_lists
from data_pipelines.depth_corpus.layouts.table import LAYOUTS
from data_pipelines.depth_corpus.pairs import SPLITS, Found, Pair
from data_pipelines.production.plan import Rejected
from vstrain.config.problems import InputError

TOP = ("train", "val", "test", "training", "validation")  # folders that name a part


def find(source: Path, config: Config) -> Found:
    """The pairs below `source`. Raises InputError when this is not the layout, or a sample has two files of a role."""
    layout = LAYOUTS[config.layout]
    if not source.is_dir():
        raise InputError(f"{source}: not a folder; layout={config.layout} wants the folder that {layout.title} lies in")
    if layout.needs_hdf5 and importlib.util.find_spec("h5py") is None:
        raise InputError(
            f"layout={config.layout}: the depth of {layout.title} is stored as HDF5, which h5py reads; "
            "pip install 'vstrain[hdf5]'"
        )
    lists = read_lists(source, layout, config.train_list, config.val_list)
    roles, other = _roles(layout, walk(source), config.mask == "use")
    if not (roles["image"].keys() & roles["depth"].keys()):
        raise InputError(_not_this(source, layout, roles, other))
    refuse_ambiguity(source, roles, f"layout={config.layout} takes one of each; keep one")
    files = {role: {name: found[0] for name, found in names.items()} for role, names in roles.items()}
    if (config.train_list or config.val_list) and not any(lists.knows(layout, name) for name in files["image"]):
        raise InputError(
            f"{' and '.join(lists.read)}: no picture below {source} is listed there; expected a list of {layout.title}"
        )
    pairs, left_out = _pairs(source, layout, lists, files)
    used = {files[role][name] for role in ("depth", "mask") for name in files["image"] if name in files[role]}
    how = f"{layout.title}: {len(files['image'])} images, {len(files['depth'])} depth files, {len(files['mask'])} masks"
    how += f"; split by {' and '.join(lists.read)}" if lists.read else ""
    return Found(
        how + listed("; other files left alone: ", other), pairs, lone(source, files, files["depth"], used) + left_out
    )


def _roles(layout: Layout, files: list[str], masks: bool) -> tuple[Roles, Counter]:
    """Every file that a template fits, under its fields; and the endings of the others, counted."""
    patterns = {
        "image": layout.images,
        "depth": [layout.pattern(tree.depth) for tree in layout.trees],
        "mask": [layout.pattern(tree.mask) for tree in layout.trees if tree.mask and masks],
    }
    roles: Roles = {role: defaultdict(list) for role in (*patterns, "sky")}
    other: Counter = Counter()
    for file in files:
        for role, wanted in patterns.items():
            if (name := layout.name(file, wanted)) is not None:
                roles[role][name].append(file)
                break
        else:
            other[PurePosixPath(file).suffix.lower() or "no extension"] += 1
    return roles, other


def _pairs(
    source: Path, layout: Layout, lists: Lists, files: dict[str, dict[Name, str]]
) -> tuple[list[Pair], list[Rejected]]:
    pairs, left_out = [], []
    for name, image in files["image"].items():
        if name not in files["depth"]:
            continue
        split = lists.split(layout, name) or _top(image)
        if why := lists.excluded.get(name):
            left_out.append(_left_out(source, image, "excluded by its publisher", f"the list says: {why}"))
        elif split is None and lists.only_listed:
            left_out.append(_left_out(source, image, "not in the lists", "train_list and val_list do not name it"))
        else:
            mask = files["mask"].get(name)
            key = "/".join(name)
            pairs.append(
                Pair(
                    key,
                    source / image,
                    source / files["depth"][name],
                    source / mask if mask else None,
                    split=split,
                    group=layout.scene(name),
                )
            )
    return pairs, left_out


def _left_out(source: Path, image: str, reason: str, why: str) -> Rejected:
    return Rejected(image, reason, f"{source / image}: {why}; nothing to do unless you want it: change the list")


def _top(image: str) -> str | None:
    """The part that a folder of the path names."""
    return next((SPLITS[part] for part in map(str.lower, PurePosixPath(image).parts[:-1]) if part in TOP), None)


def _not_this(source: Path, layout: Layout, roles: Roles, other: Counter) -> str:
    tree = layout.trees[0]
    mask = f" (and {tree.mask.removeprefix('**/')})" if tree.mask else ""
    found = [file for names in roles.values() for files in names.values() for file in files][:1]
    said = f"{sum(map(len, roles['image'].values()))} such images, {sum(map(len, roles['depth'].values()))} such depth files"
    said += f", e.g. {found[0]}" if found else ""
    return (
        f"{source}: this is not the layout of {layout.title}: expected {tree.image.removeprefix('**/')} with "
        f"{tree.depth.removeprefix('**/')}{mask}, found {said}{listed('; other files: ', other)}"
    )
