"""Pairing the files of a folder.

A file's role (image, depth, mask or sky) is read off its name where the names in its folder differ in what they
say, else off the nearest folder that says it, else off its format. What is left of path and name when the
role words are taken away must agree: `a/rgb/7.jpg`, `a/depth/7.png` and `a/7_depth.npy` are all "a/7".
Or two globs say it: what their wildcards match must agree.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from data_pipelines.depth_corpus.config import Config
from data_pipelines.depth_corpus.pairs import (
    DEPTH_NAMES,
    IMAGE_NAMES,
    MASK_NAMES,
    SKY_NAMES,
    SPLITS,
    Found,
    Pair,
)
from data_pipelines.production.plan import Rejected
from vstrain.config.problems import InputError

PHOTOS = (".jpg", ".jpeg", ".webp", ".bmp")  # formats that hold no depth
PICTURES = (*PHOTOS, ".png", ".tif", ".tiff")
ARRAYS = (".npy", ".npz", ".pfm", ".exr", ".h5", ".hdf5")  # formats that hold depth or masks only
ROLES = {
    **dict.fromkeys(IMAGE_NAMES, "image"),
    **dict.fromkeys(DEPTH_NAMES, "depth"),
    **dict.fromkeys(MASK_NAMES, "mask"),
    **dict.fromkeys(SKY_NAMES, "sky"),
}
WORDS = "|".join(sorted(ROLES, key=len, reverse=True))
FIRST = re.compile(rf"^({WORDS})(?=$|[_\-. \d])[_\-. ]*")
LAST = re.compile(rf"(?:^|(?<=\d)|[_\-. ]+)({WORDS})$")

Name = tuple[str, ...]  # what the files of one sample have in common
Roles = dict[str, dict[Name, list[str]]]  # role -> name -> files


def find(source: Path, config: Config) -> Found:
    """The pairs below `source`. Raises InputError when there is nothing to pair or more than one way to."""
    files = walk(source)
    if not files:
        raise InputError(
            f"{source}: the folder is empty; expected images with depth files (layouts: docs/depth_corpus.md)"
        )
    if config.image_pattern:
        roles, other = _by_pattern(files, config)
        how = f"by image_pattern={config.image_pattern} and depth_pattern={config.depth_pattern}"
    else:
        roles, other = _by_name(files)
        how = "by folder and file names"
    if config.mask == "ignore":
        other.update(
            f"{PurePosixPath(file).suffix.lower()} (mask)" for names in roles["mask"].values() for file in names
        )
        roles["mask"] = {}
    fix = "say which to take with image_pattern= and depth_pattern= (and mask_pattern=)"
    refuse_ambiguity(source, roles, fix)
    return _join(
        source,
        {role: {name: found[0] for name, found in names.items()} for role, names in roles.items()},
        how,
        other,
    )


def walk(source: Path) -> list[str]:
    """Every file below `source`, links followed, hidden ones left out: sorted relative paths."""
    files, seen = [], set()
    for folder, folders, names in os.walk(source, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        below = Path(folder).relative_to(source)
        files += [(below / name).as_posix() for name in names if not name.startswith(".")]
    return sorted(files)


def _strip(word: str) -> tuple[str, set[str]]:
    """'7_left_depth' -> '7_left', {'depth'}: role words taken off both ends, and the roles they named."""
    roles, left = set(), word.lower()
    while found := FIRST.search(left) or LAST.search(left):
        roles.add(ROLES[found[1]])
        left = left[: found.start()] + left[found.end() :]
    return left.strip("_-. "), roles


def _strongest(roles: set[str]) -> str | None:
    return next((role for role in ("sky", "mask", "depth", "image") if role in roles), None)


def _by_name(files: list[str]) -> tuple[Roles, Counter]:
    usable = [file for file in files if file.lower().endswith((*PICTURES, *ARRAYS))]
    other = Counter(PurePosixPath(file).suffix.lower() or "no extension" for file in set(files) - set(usable))
    stems = {file: _strip(PurePosixPath(file).stem) for file in usable}
    told = defaultdict(set)
    for file, (_, said) in stems.items():
        told[PurePosixPath(file).parent].add(_strongest(said))
    roles: Roles = {role: defaultdict(list) for role in ("image", "depth", "mask", "sky")}
    for file, (stem, said) in stems.items():
        parent = PurePosixPath(file).parent
        by_stem, by_folder, folders = _strongest(said), None, []
        for folder in reversed(parent.parts):
            left, said = ("", {"image"}) if folder.lower() == "left" else _strip(folder)
            by_folder = by_folder or _strongest(said)
            folders += [left] if left else []
        # img_7.png in depth/ is depth; beside depth_7.png it is an image
        names_decide = len(told[parent]) > 1
        role = (by_stem or by_folder if names_decide else by_folder or by_stem) or "image"
        if role == "image" and file.lower().endswith(ARRAYS):
            role = "depth"
        roles[role][(*reversed(folders), stem)].append(file)
    _scenes_called_sky(roles)
    _same_stem(roles)
    return roles, other


def _scenes_called_sky(roles: Roles) -> None:
    """`sky/7.jpg` beside `sky/7_depth.png` is no mask of any image: the folder is a scene."""
    for name in [name for name in roles["sky"] if name not in roles["image"] and name in roles["depth"]]:
        roles["image"][name] = roles["sky"].pop(name)


def _same_stem(roles: Roles) -> None:
    """`7.jpg` beside `7.png`, and nothing else says what is what: jpg, webp or bmp is the photo."""
    for name, files in roles["image"].items():
        photos = [file for file in files if file.lower().endswith(PHOTOS)]
        rest = [file for file in files if file not in photos]
        if len(photos) == len(rest) == 1 and name not in roles["depth"]:
            roles["depth"][name] = rest
            roles["image"][name] = photos


def _by_pattern(files: list[str], config: Config) -> tuple[Roles, Counter]:
    roles: Roles = {role: defaultdict(list) for role in ("image", "depth", "mask", "sky")}
    used: set[str] = set()
    for role, pattern in (
        ("image", config.image_pattern),
        ("depth", config.depth_pattern),
        ("mask", config.mask_pattern),
        ("sky", config.sky_pattern),
    ):
        regex = re.compile(_regex(pattern)) if pattern else None
        for file in files:
            if regex and (match := regex.fullmatch(file)):
                roles[role][tuple(part.strip("/") for part in match.groups())].append(file)
                used.add(file)
        if pattern and not roles[role]:
            raise InputError(
                f"{role}_pattern={pattern}: no file below the source matches it "
                f"(the first file is {files[0]}); write the pattern relative to the source"
            )
    return roles, Counter(PurePosixPath(file).suffix.lower() or "no extension" for file in files if file not in used)


def _regex(glob: str) -> str:
    """A glob as a regular expression with one group a wildcard; `**/` is any number of folders."""
    parts = {"**/": "((?:.*/)?)", "*": "([^/]*)", "?": "[^/]"}
    return "".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*|\?)", glob))


def refuse_ambiguity(source: Path, roles: Roles, fix: str) -> None:
    for role, names in roles.items():
        doubles = [files for files in names.values() if len(files) > 1]
        if doubles:
            more = f" (and {len(doubles) - 1} more like this)" if len(doubles) > 1 else ""
            raise InputError(
                f"{source}: one sample has {len(doubles[0])} {role} files: {', '.join(doubles[0])}{more}; {fix}"
            )


def _join(source: Path, roles: dict[str, dict[Name, str]], how: str, other: Counter) -> Found:
    depths, masks, skies = (_adopt(roles["image"], roles[role]) for role in ("depth", "mask", "sky"))
    pairs = [
        Pair(
            "/".join(part for part in name if part) or PurePosixPath(file).stem,
            source / file,
            source / depths[name],
            source / masks[name] if name in masks else None,
            source / skies[name] if name in skies else None,
            SPLITS.get(PurePosixPath(file).parts[0].lower()) if "/" in file else None,
            str(PurePosixPath(file).parent),
        )
        for name, file in roles["image"].items()
        if name in depths
    ]
    images, counted = len(roles["image"]), len(roles["depth"])
    if not pairs:
        raise InputError(
            f"{source}: {images} images and {counted} depth files, and no pair among them{_example(roles)}; "
            "expected sister folders such as rgb/ and depth/, or names such as 7.jpg with 7_depth.png; "
            f"image_pattern= and depth_pattern= name other layouts{listed('; other files: ', other)}"
        )
    masked = sum(pair.mask is not None for pair in pairs)
    how = (
        f"{images} images, {counted} depth files, {len(roles['mask'])} masks; {len(pairs)} pairs {how}, e.g. "
        f"{pairs[0].image.relative_to(source)} + {pairs[0].depth.relative_to(source)}"
    )
    how += f"; {masked} with a mask" if masked else ""
    how += f"; {len(skies)} with a sky file" if skies else ""
    how += listed("; other files left alone: ", other)
    used = {*depths.values(), *masks.values(), *skies.values()}
    return Found(how, pairs, lone(source, roles, depths, used))


def _adopt(images: dict[Name, str], others: dict[Name, str]) -> dict[Name, str]:
    """Files of a role under the names of their images. Where no name at all agrees, files whose last part of
    the name is unique are joined by that."""
    joined = {name: file for name, file in others.items() if name in images}
    if joined:
        return joined
    by_last, files_by_last = defaultdict(list), defaultdict(list)
    for name in images:
        by_last[name[-1]].append(name)
    for name, file in others.items():
        files_by_last[name[-1]].append(file)
    return {
        names[0]: files_by_last[last][0]
        for last, names in by_last.items()
        if last and len(names) == len(files_by_last[last]) == 1
    }


def lone(source: Path, roles: dict[str, dict[Name, str]], depths: dict[Name, str], used: set[str]) -> list[Rejected]:
    """Images that have no depth in `depths`, and other files that are not among those `used` with an image."""
    left = [
        Rejected(
            file,
            "image without depth",
            f"{source / file}: no depth file belongs to this image; add one or remove the image",
        )
        for name, file in roles["image"].items()
        if name not in depths
    ]
    for role, fix in (
        ("depth", "add the image or remove the depth file"),
        ("mask", "add the image or remove the mask"),
        ("sky", "add the image or remove the sky file"),
    ):
        left += [
            Rejected(file, f"{role} without image", f"{source / file}: no image belongs to this {role} file; {fix}")
            for file in roles[role].values()
            if file not in used
        ]
    return left


def listed(words: str, other: Counter) -> str:
    return words + ", ".join(f"{count} {kind}" for kind, count in sorted(other.items())) if other else ""


def _example(roles: dict[str, dict[Name, str]]) -> str:
    if not (roles["image"] and roles["depth"]):
        return ""
    return f", e.g. {next(iter(roles['image'].values()))} and {next(iter(roles['depth'].values()))}"
