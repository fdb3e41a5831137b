"""What a sample of each kind holds: the names of its shard members, their types, shapes and units.

A sample in Python is a dict `{"__key__": str, <member name>: value}`; `vstrain.data.codecs` turns values into bytes and
back by the member's extension. The same dict goes into `ShardWriter.write` and comes out of the reader.
Images are uint8 (H, W, 3) RGB unless said otherwise. Geometry: world right-handed and z up, cameras OpenGL (x right,
y up, looking along -z), degrees, metres; points are (x, y) pixels with pixel centres at integers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np

DepthSample = TypedDict(
    "DepthSample",
    {
        "__key__": str,
        "jpg": NotRequired[np.ndarray],  # uint8 (H, W, 3); one of jpg, png, webp
        "png": NotRequired[np.ndarray],
        "webp": NotRequired[np.ndarray],
        # (H, W): metres along the optical axis, or disparity; <= 0 or non-finite: invalid. Pipelines write depth.pco, float32;
        # read are also depth.png, depth.exr, depth.npy, depth.npz (vstrain.data.depth). A teacher's label (json: "label":
        # "pseudo", float16) has the size at which the teacher saw the picture, and counts everywhere
        "depth.pco": np.ndarray,
        "mask.png": NotRequired[np.ndarray],  # uint8 (H, W): 0 invalid, else valid
        "sky.png": NotRequired[np.ndarray],  # uint8 (H, W): not 0 is sky, where the depth is 0
        # {"unit": "depth" | "disparity", "look": "synthetic" | "real" | ..., "source": str, ...,
        #  "depth_scale": float; needed for stored integers only: x depth_scale = metres or disparity,
        #  "focal": float; focal length along x in pixels of the stored picture, where it is known,
        #  "metric": False; where depth is known up to a factor only}
        "json": dict,
    },
)

StorySample = TypedDict(
    "StorySample",
    {
        "__key__": str,
        "mp4": np.ndarray,  # uint8 (T, H, W, 3), one long video of several shots; read as a vstrain.data.codecs.Clip
        # {"fps": float, "characters": {name: description}, "shots": [{"start": first frame, "end": one past the last,
        #  "caption": str, "characters": [name, ...], "activity": str, "background": str}]}
        "json": dict,
    },
)

MultiviewSample = TypedDict(
    "MultiviewSample",
    {
        "__key__": str,
        # for view v = 000, 001, ...: f"rgba_{v:03d}.png" uint8 (H, W, 4) straight alpha; f"normal_{v:03d}.png" uint8 (H, W, 3),
        # world normal, (n + 1) / 2; f"depth_{v:03d}.npy" float32 (H, W) along the axis, 0 = nothing
        # {"version": 1, "convention": "opengl", "up": "z", "views": [{"c2w": 4x4, "fovy": deg, "width", "height",
        #  "elev": deg, "azim": deg, "radius": float, "layout": str}]}
        "camera.json": dict,
        "meta.json": dict,  # source, licence, caption, normalisation 4x4, render engine
        "txt": str,  # caption
    },
)

DragSample = TypedDict(
    "DragSample",
    {
        "__key__": str,
        "src.webp": np.ndarray,  # uint8 (H, W, 3), lossless: the frame before
        "tgt.webp": np.ndarray,  # uint8 (H, W, 3), lossless: the frame after
        "mask.png": np.ndarray,  # uint8 (H, W): 255 where the picture may change
        # {"handles": [[x, y], ...], "targets": [[x, y], ...], "src_index": int, "tgt_index": int, "tracker": "exact", ...}
        "points.json": dict,
        "mp4": NotRequired[np.ndarray],  # uint8 (T, H, W, 3): the whole short video
        "tracks.npz": NotRequired[dict],  # {"xy": float32 (T, N, 2), "visible": bool (T, N), "moving": bool (T, H, W)}
        "meta.json": dict,  # {"camera": "still" | "moving", "video": str, "licence": str, ...}
    },
)


ImageSample = TypedDict(
    "ImageSample",
    {
        "__key__": str,
        "jpg": NotRequired[np.ndarray],  # uint8 (H, W, 3); one of jpg, png, webp
        "png": NotRequired[np.ndarray],
        "webp": NotRequired[np.ndarray],
        "txt": NotRequired[str],  # caption
        "json": NotRequired[dict],  # whatever else is known
    },
)

ClipSample = TypedDict(
    "ClipSample",
    {
        "__key__": str,
        "mp4": np.ndarray,  # uint8 (T, H, W, 3); read as a vstrain.data.codecs.Clip
        "txt": NotRequired[str],  # caption
        "json": NotRequired[dict],  # whatever else is known; "fps" is used when an array is written
    },
)


@dataclass(frozen=True)
class Kind:
    """`required`: members that every sample has, "jpg|png" where one of several will do; `numbered`: name patterns with {}
    that must be there from 000 on; `optional`: the rest. Any other member is refused on writing."""

    name: str
    required: tuple[str, ...]
    numbered: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def __contains__(self, member: str) -> bool:
        names = {name for names in self.required for name in names.split("|")} | set(self.optional)
        pattern = re.sub(r"_\d{3}(?=\.)", "_{}", member)
        return member in names or pattern in {name for name in (*self.numbered, *self.optional) if "{}" in name}


PICTURE = "jpg|png|webp"
SIZED = ("jpg", "png", "webp", "pco", "exr", "npy")  # members that are one picture or map
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "depth",
            (PICTURE, "depth.pco|depth.png|depth.exr|depth.npy|depth.npz", "json"),
            optional=("mask.png", "sky.png"),
        ),
        Kind("story", ("mp4", "json")),
        Kind(
            "multiview",
            ("camera.json", "meta.json", "txt"),
            numbered=("rgba_{}.png",),
            optional=("normal_{}.png", "depth_{}.npy"),
        ),
        Kind(
            "drag",
            ("src.webp", "tgt.webp", "mask.png", "points.json", "meta.json"),
            optional=("mp4", "tracks.npz"),
        ),
        Kind("image", (PICTURE,), optional=("txt", "json")),
        Kind("clip", ("mp4",), optional=("txt", "json")),
    )
}


def required(kind: str) -> list[str]:
    """Members that every sample of a kind has; "jpg|png|webp" stands for one of these."""
    spec = KINDS[kind]
    return [*spec.required, *(pattern.format("000") for pattern in spec.numbered)]


class SampleError(ValueError):
    """One sentence: which sample, which member, what was expected."""


def check(kind: str, sample: dict[str, Any]) -> None:
    """Raise SampleError unless `sample` has the members of its kind, no others, and pictures of one size."""
    spec, key = KINDS[kind], sample.get("__key__", "?")
    if not isinstance(key, str) or not key or "." in key or "/" in key:
        raise SampleError(f"sample key {key!r}: expected a name without dots and slashes")
    members = set(sample) - {"__key__"}
    if extra := sorted(member for member in members if member not in spec):
        raise SampleError(f"sample {key}: member {extra[0]!r} does not belong to kind {kind!r}")
    for names in required(kind):
        first, *others = names.split("|")
        if not members & {first, *others}:
            instead = f"; {' or '.join(others)} would do" if others else ""
            raise SampleError(f"sample {key}: member {first} is missing (kind {kind!r}{instead})")
    sizes = {
        name: sample[name].shape[:2]
        for name in members
        if name.endswith(("jpg", "png", "webp", "pco", "exr", "npy"))
        and "_" not in name
        and not isinstance(sample[name], bytes)
    }
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {h}x{w}" for name, (h, w) in sorted(sizes.items()))
        raise SampleError(f"sample {key}: pictures differ in size (height x width): {listed}")
