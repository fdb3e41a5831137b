"""Whether the decoded members of one sample fit together as vstrain.data.kinds describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vstrain.data import kinds
from vstrain.data.codecs.video import EXTENSIONS
from vstrain.data.depth import MEMBERS, PSEUDO, depth_of

PICTURES = ("jpg", "jpeg", "png", "webp")


class Flaw(NamedTuple):
    """reason: one of a few fixed words, to count by; sentence: what is wrong here."""

    reason: str
    sentence: str


MISSING, SIZES, FIELDS = "member missing", "sizes differ", "wrong content"
NO_DEPTH, EMPTY_MASK = "no valid depth", "empty mask"


def guess_kind(schemas: Mapping[tuple[str, ...], int]) -> str | None:
    """The kind that at least half of the samples have the members of, of several the one that asks for the most members;
    `schemas`: member names -> how many samples."""
    fitting = {kind: sum(count for names, count in schemas.items() if _fits(kind, names)) for kind in kinds.KINDS}
    likely = [kind for kind, count in fitting.items() if count and 2 * count >= sum(schemas.values())]
    return max(likely, key=lambda kind: len(kinds.required(kind)), default=None)


def _fits(kind: str, names: tuple[str, ...]) -> bool:
    if kind == "story" and "txt" in names:  # video2dataset writes a caption for the whole clip
        return False
    return not lacking(kind, names)


def lacking(kind: str | None, names) -> list[str]:
    """Members of the kind that are not among `names`; "jpg or png" stands for either."""
    if kind is None:
        return []
    absent = [name for name in kinds.required(kind) if not set(name.split("|")) & set(names)]
    return [name.replace("|", " or ") for name in absent]


def flaws(kind: str | None, sample: Mapping) -> list[Flaw]:
    """What is wrong with a sample of a kind; `sample`: `__key__` and member name -> value. Members that are not there are
    left to `lacking`; only kinds of several members that must fit together have flaws."""
    check = {"depth": _depth, "story": _story, "multiview": _multiview, "drag": _drag}.get(kind)
    if check is None:
        return []
    try:
        return list(check(sample))
    except kinds.SampleError as error:
        return [Flaw(FIELDS, str(error).removeprefix(f"sample {sample['__key__']}: "))]
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        return [Flaw(FIELDS, f"its fields are not those of kind {kind} ({type(error).__name__}: {error})")]


def picture_name(names) -> str | None:
    """The member that is the sample's picture."""
    return next((name for name in (*PICTURES, "src.webp") if name in names), None)


def video_name(names) -> str | None:
    """The member that is the sample's video."""
    return next((name for name in EXTENSIONS if name in names), None)


def valid_depth(sample: Mapping) -> np.ndarray:
    """bool (H, W): pixels with finite, positive depth that the mask, if there is one, does not exclude."""
    depth = depth_of(sample)
    valid = np.isfinite(depth) & (depth > 0)
    mask = sample.get("mask.png")
    return valid & (mask > 0) if mask is not None and mask.shape == depth.shape else valid


def _one_size(pictures: dict[str, np.ndarray]):
    sizes = {name: picture.shape[:2] for name, picture in pictures.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {width}x{height}" for name, (height, width) in sizes.items())
        yield Flaw(SIZES, f"its pictures differ in size (width x height): {listed}")


def _depth(sample: Mapping):
    name = next((name for name in MEMBERS if name in sample), None)
    depth, mask, picture = depth_of(sample) if name else None, sample.get("mask.png"), picture_name(sample)
    pictures = {name: depth, "mask.png": mask, "sky.png": sample.get("sky.png")}
    if sample.get("json", {}).get("label") != PSEUDO:
        pictures = {picture: sample.get(picture)} | pictures
    yield from _one_size({name: value for name, value in pictures.items() if value is not None})
    if mask is not None and not mask.any():
        yield Flaw(EMPTY_MASK, "mask.png is zero everywhere, so no pixel counts")
    elif depth is not None and not valid_depth(sample).any() and not _constant_label(sample, depth):
        yield Flaw(NO_DEPTH, _why_no_depth(name, depth))
    if "json" in sample and sample["json"].get("unit") not in ("depth", "disparity"):
        yield Flaw(FIELDS, f'json has unit {sample["json"].get("unit")!r}, expected "depth" or "disparity"')


def _constant_label(sample: Mapping, depth: np.ndarray) -> bool:
    """A teacher may see nothing but sky: its zeros are labels."""
    return sample.get("json", {}).get("label") == PSEUDO and bool(np.isfinite(depth).all())


def _why_no_depth(name: str, depth: np.ndarray) -> str:
    if np.isnan(depth).all():
        return f"{name} is NaN everywhere"
    if not np.isfinite(depth).any():
        return f"{name} is nowhere finite"
    finite = depth[np.isfinite(depth)]
    if finite.max() > 0:
        return f"{name} is positive only where mask.png is zero"
    return f"{name} is negative everywhere" if finite.max() < 0 else f"{name} is nowhere positive"


def _story(sample: Mapping):
    facts, frames = sample.get("json"), len(sample["mp4"]) if "mp4" in sample else None
    if facts is None:
        return
    if not facts["fps"] > 0:
        yield Flaw(FIELDS, f"json has fps {facts['fps']}, expected more than 0")
    if not facts["shots"]:
        yield Flaw(FIELDS, "json names no shots")
    last = 0
    for number, shot in enumerate(facts["shots"]):
        if not last <= shot["start"] < shot["end"]:
            yield Flaw(FIELDS, f"shot {number} goes from frame {shot['start']} to {shot['end']}, behind frame {last}")
            return
        last = shot["end"]
        if not isinstance(shot["caption"], str):
            yield Flaw(FIELDS, f"the caption of shot {number} is not text")
    if frames is not None and last > frames:
        yield Flaw(SIZES, f"the last shot ends at frame {last}, the video has {frames}")


def _multiview(sample: Mapping):
    views = sample["camera.json"]["views"] if "camera.json" in sample else []
    colours = sorted(name for name in sample if name.startswith("rgba_"))
    if "camera.json" in sample and len(views) != len(colours):
        yield Flaw(SIZES, f"camera.json has {len(views)} views, the sample {len(colours)} pictures")
        return
    for number, view in enumerate(views):
        pose = np.asarray(view["c2w"], float)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            yield Flaw(FIELDS, f"c2w of view {number} is not a finite 4x4 matrix")
        wanted = (view["height"], view["width"])
        for name in (f"rgba_{number:03d}.png", f"normal_{number:03d}.png", f"depth_{number:03d}.npy"):
            if name in sample and sample[name].shape[:2] != wanted:
                height, width = sample[name].shape[:2]
                yield Flaw(SIZES, f"{name} is {width}x{height}, camera.json says {wanted[1]}x{wanted[0]}")
    for name in colours:
        if sample[name].ndim != 3 or sample[name].shape[2] != 4:
            yield Flaw(FIELDS, f"{name} has no alpha channel")
    if colours and not any(sample[name][..., -1].any() for name in colours):
        yield Flaw(EMPTY_MASK, "the object is in no view: alpha is zero everywhere")


def _drag(sample: Mapping):
    yield from _one_size({name: sample[name] for name in ("src.webp", "tgt.webp", "mask.png") if name in sample})
    if "mask.png" in sample and not sample["mask.png"].any():
        yield Flaw(EMPTY_MASK, "mask.png is zero everywhere, so nothing may move")
    if "points.json" in sample:
        points = sample["points.json"]
        handles, targets = (np.asarray(points[name], float) for name in ("handles", "targets"))
        if handles.ndim != 2 or handles.shape != targets.shape or handles.shape[1:] != (2,) or not len(handles):
            yield Flaw(FIELDS, f"points.json has handles {handles.shape} and targets {targets.shape}, expected (n, 2)")
        elif not (np.isfinite(handles).all() and np.isfinite(targets).all()):
            yield Flaw(FIELDS, "points.json has a point that is not finite")
