"""The value of a cell -> a member of a sample. What is encoded as the member wants it is passed on byte by byte."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.convert.sources import BadRow
from data_pipelines.depth_corpus.readers import ReadError, orientation_of, read_image, turn
from vstrain.data import codecs
from vstrain.data.codecs.video import encode_video
from vstrain.data.kinds import SampleError

SIGNS = {"jpg": (0, b"\xff\xd8\xff"), "png": (0, b"\x89PNG\r\n\x1a\n"), "webp": (8, b"WEBP"), "mp4": (4, b"ftyp")}


@dataclass
class Cell:
    """where: for sentences. folder: of relative paths. notes: what was done to the value."""

    where: str
    value: Any
    folder: Path
    quality: int
    notes: list[str] = field(default_factory=list)

    def refuse(self, reason: str, why: str) -> BadRow:
        return BadRow(reason, f"{self.where}: {why}")


def member(name: str, cell: Cell) -> Any:
    """Bytes, or what vstrain.data.codecs encodes; None for an empty cell. Raises BadRow."""
    if cell.value is None:
        return None
    match name:
        case "jpg" | "png" | "webp":
            return _picture(name, cell)
        case "mp4":
            return _video(cell)
        case "txt":
            return _text(cell)
        case _ if name.endswith("json"):
            return _facts(cell)
    return _other(name, cell)


def _content(cell: Cell) -> Any:
    """The bytes of a file that a cell holds or names; any other value as it is."""
    value = cell.value
    if isinstance(value, dict) and {"bytes", "path"} & set(value):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str):
        path = cell.folder / value
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise cell.refuse(
                "missing file", f"{path} is not there; bring it back, or take a column of files"
            ) from error
    return value


def _picture(name: str, cell: Cell) -> Any:
    data = _content(cell)
    if not isinstance(data, bytes):
        return _pixels(cell, data)
    stored, sideways = _form(data), orientation_of(data) != 1
    try:
        if stored == name and not sideways:
            codecs.decode(name, data)
            return data
        rgb, orientation = read_image("it", data)
    except (ValueError, ReadError) as error:
        raise cell.refuse("unreadable image", str(error).removeprefix("it: ")) from error
    cell.notes.append("turned upright by EXIF and encoded anew" if sideways else f"encoded anew as {name}")
    return codecs.encode(name, turn(rgb, orientation), quality=cell.quality)


def _pixels(cell: Cell, value: Any) -> np.ndarray:
    array = np.asarray(value)
    whole = array.dtype.kind in "ui" and array.size and array.min() >= 0 and array.max() <= 255
    if not whole or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise cell.refuse(
            "not a picture",
            f"{array.dtype} {array.shape}; expected an encoded picture, or 0..255 in (H, W, 3) or (H, W)",
        )
    return array.astype(np.uint8)


def _form(data: bytes) -> str | None:
    return next((form for form, (at, sign) in SIGNS.items() if data[at : at + len(sign)] == sign), None)


def _video(cell: Cell) -> Any:
    """First and last frame must decode."""
    data = _content(cell)
    if not isinstance(data, bytes):
        frames = np.asarray(data)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
            raise cell.refuse(
                "not a video", f"{frames.dtype} {frames.shape}; expected a video file or uint8 (T, H, W, 3)"
            )
        return frames
    clip = codecs.Clip(data)
    try:
        clip[[0, -1]]
        if _form(data) == "mp4":
            return data
        cell.notes.append("encoded anew as mp4")
        return encode_video(clip, clip.fps)
    except (SampleError, IndexError) as error:
        raise cell.refuse("unreadable video", str(error)) from error


def _text(cell: Cell) -> str:
    try:
        text = cell.value.decode() if isinstance(cell.value, bytes) else cell.value
    except UnicodeDecodeError as error:
        raise cell.refuse("not text", f"its bytes are not UTF-8 ({error})") from error
    if not isinstance(text, str):
        raise cell.refuse("not text", f"a {type(text).__name__}; expected a string: take another column")
    return text


def _facts(cell: Cell) -> Any:
    try:
        found = json.loads(cell.value) if isinstance(cell.value, bytes | str) else cell.value
        found = json.loads(json.dumps(found, default=_plain))
    except (ValueError, TypeError) as error:
        raise cell.refuse("not json", f"{error}; expected an object, or columns of plain values") from error
    if not isinstance(found, dict):
        raise cell.refuse(
            "not json", f"a {type(found).__name__}; expected an object: name columns as a list, json: [a, b]"
        )
    return cell.value if isinstance(cell.value, bytes) else found


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _other(name: str, cell: Cell) -> Any:
    """Any other member: encoded bytes that decode, or an array (a dict of arrays) that encodes."""
    data = _content(cell)
    try:
        if isinstance(data, bytes):
            codecs.decode(name, data)
            return data
        return codecs.encode(name, data if isinstance(data, dict) else np.asarray(data))
    except Exception as error:  # codecs raise many types
        raise cell.refuse("unreadable member", f"{name}: {error}") from error
