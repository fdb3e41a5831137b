"""One sample as a picture of a given width: what its kind needs to be judged by eye."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from vstrain.data.checks.content import PICTURES, flaws, lacking, picture_name, valid_depth, video_name
from vstrain.data.codecs.video import EXTENSIONS
from vstrain.data.depth import depth_of
from vstrain.data.kinds import SampleError
from vstrain.data.look import cameras, canvas
from vstrain.data.look.canvas import GREY, INK, PINK, RED
from vstrain.data.reader import DamagedSample

WHITE, BLACK, GAP, TEXT, PAD = (255, 255, 255), (0, 0, 0), 4, 13, 10
COLUMNS, PLAIN_COLUMNS = {"depth": 4, "story": 1, "multiview": 2, "drag": 3}, 5
SHOTS_A_ROW, FRAMES_A_SHOT, VIEW_COLUMNS = 4, 3, 6
LOW, HIGH = 2, 98  # percentiles of nearness between which colours run


def tile(sample: Mapping, kind: str | None, width: int) -> np.ndarray:
    """uint8 (H, width, 3). A sample that is damaged, or that does not fit its kind, gives a red tile with the reason."""
    key = sample["__key__"]
    try:
        values = {"__key__": key} | {name: sample[name] for name in _needed(sample)}
        wrong = [f"member {name} is missing" for name in lacking(kind, values)]
        wrong += [flaw.sentence for flaw in flaws(kind, values)]
        if not wrong:
            draw = {"depth": depth, "story": story, "multiview": multiview, "drag": drag}.get(kind, plain)
            return _card(key, draw(values, width - 2 * PAD), width)
    except DamagedSample as error:
        wrong = [error.reason]
    except SampleError as error:  # a video, which is decoded when it is drawn
        wrong = [str(error)]
    return red(key, "; ".join(wrong), width)


def _needed(sample: Mapping) -> list[str]:
    return [name for name in sample if not name.startswith(("__", "normal_", "depth_", "tracks")) and _decodes(name)]


def _decodes(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in (*PICTURES, *EXTENSIONS, "pco", "exr", "npy", "npz", "json", "txt")


def _card(key: str, body: np.ndarray, width: int) -> np.ndarray:
    """The body on white with the sample's key above."""
    head = canvas.line_height(TEXT) + PAD
    out = canvas.blank(width, head + len(body) + PAD, WHITE)
    canvas.write(out, PAD, PAD - 3, canvas.wrap(key, TEXT, width - 2 * PAD, 1), TEXT, GREY)
    canvas.paste(out, body, PAD, head)
    canvas.frame(out, 0, 0, width, len(out), canvas.RULE)
    return out


def red(key: str, reason: str, width: int) -> np.ndarray:
    """The tile of a sample that cannot be shown."""
    lines = canvas.wrap(reason, TEXT, width - 2 * PAD, 6)
    out = canvas.blank(width, 3 * PAD + canvas.line_height(TEXT) * (1 + len(lines)), PINK)
    canvas.frame(out, 0, 0, width, len(out), RED, 2)
    y = canvas.write(out, PAD, PAD, canvas.wrap(key, TEXT, width - 2 * PAD, 1), TEXT, INK)
    canvas.write(out, PAD, y + 4, lines, TEXT, RED)
    return out


def _with_caption(body: np.ndarray, text: str, most: int) -> np.ndarray:
    lines = canvas.wrap(text, TEXT, body.shape[1], most)
    out = canvas.blank(body.shape[1], len(body) + 4 + canvas.line_height(TEXT) * len(lines), WHITE)
    canvas.paste(out, body, 0, 0)
    canvas.write(out, 0, len(body) + 3, lines, TEXT, INK)
    return out


def _side_by_side(pictures: list[np.ndarray], width: int, columns: int | None = None, tallest: float = 1.5):
    """Pictures of one size in a grid of this width, at their own aspect; and the (width, height) of each in it."""
    columns = columns or len(pictures)
    cell = (width - GAP * (columns - 1)) // columns
    height, wide = pictures[0].shape[:2]
    wide, height = canvas.fit(wide, height, cell, round(cell * tallest))
    rows = -(-len(pictures) // columns)
    out = canvas.blank(width, rows * height + (rows - 1) * GAP, WHITE)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        canvas.paste(out, canvas.resize(picture, wide, height), column * (cell + GAP), row * (height + GAP))
    return out, (wide, height)


# ---- kinds ----------------------------------------------------------------------------------------------------------


def depth_colours(sample: Mapping) -> np.ndarray:
    """uint8 (H, W, 3): near is warm, far is cold, invalid is black; colours run evenly over 1 / depth."""
    valid, values = valid_depth(sample), depth_of(sample)
    disparity = sample["json"].get("unit") == "disparity"
    nearness = np.where(valid, values if disparity else 1 / np.where(valid, values, 1), 0).astype(np.float64)
    low, high = np.percentile(nearness[valid], [LOW, HIGH])
    out = canvas.nearness_colours((nearness - low) / (high - low) if high > low else np.full_like(nearness, 0.5))
    out[~valid] = BLACK
    return out


def depth(sample: Mapping, width: int) -> np.ndarray:
    body, _ = _side_by_side([sample[picture_name(sample)], depth_colours(sample)], width)
    valid = valid_depth(sample)
    low, high = np.percentile(depth_of(sample)[valid], [LOW, HIGH])
    unit = " m" if sample["json"].get("unit") == "depth" else " (disparity)"
    share = math.floor(1000 * valid.mean()) / 10
    return _with_caption(body, f"{low:.3g} to {high:.3g}{unit}, {share:g} % valid", 1)


def drag(sample: Mapping, width: int) -> np.ndarray:
    body, (wide, high) = _side_by_side([sample["src.webp"], sample["tgt.webp"]], width)
    height, original = sample["mask.png"].shape[:2]
    rows, columns = np.arange(high) * height // high, np.arange(wide) * original // wide
    left = np.ascontiguousarray(body[:high, :wide])
    canvas.outline(left, sample["mask.png"][rows][:, columns] > 0, (255, 214, 10))
    points = sample["points.json"]
    handles, targets = (np.asarray(points[name], float) for name in ("handles", "targets"))
    scale = np.array([wide / original, high / height])
    for start, end in zip((handles + 0.5) * scale - 0.5, (targets + 0.5) * scale - 0.5, strict=True):
        canvas.arrow(left, start, end, RED)
        canvas.dot(left, *start, 3.0, WHITE)
        canvas.dot(left, *start, 2.0, canvas.BLUE)
    canvas.paste(body, left, 0, 0)
    longest = float(np.hypot(*(targets - handles).T).max())
    text = f"{len(handles)} point{'s' * (len(handles) > 1)}, the longest way {longest:.3g} px"
    return _with_caption(body, f"{text}; before, after", 1)


def multiview(sample: Mapping, width: int) -> np.ndarray:
    views = sample["camera.json"]["views"]
    side = round(width * 0.4)
    pictures = [_numbered(sample[f"rgba_{n:03d}.png"], n, len(views)) for n in range(len(views))]
    columns = min(VIEW_COLUMNS, max(2, math.ceil(math.sqrt(len(views) * 1.5))))
    grid, _ = _side_by_side(pictures, width - side - GAP, columns)
    out = canvas.blank(width, max(len(grid), side), WHITE)
    canvas.paste(out, grid, 0, (len(out) - len(grid)) // 2)
    canvas.paste(out, cameras.sketch(views, side), width - side, (len(out) - side) // 2)
    return _with_caption(out, str(sample["txt"]), 2)


def _numbered(picture: np.ndarray, number: int, count: int) -> np.ndarray:
    """A view on white, framed in the colour of its camera in the sketch."""
    picture = canvas.resize(picture, *canvas.fit(picture.shape[1], picture.shape[0], 256, 256))
    colour = canvas.colour_of(number, count)
    canvas.frame(picture, 0, 0, picture.shape[1], len(picture), colour, 4)
    canvas.write(picture, 10, 6, str(number), 28, colour)
    return picture


def story(sample: Mapping, width: int) -> np.ndarray:
    """A filmstrip: a few frames of every shot, its caption below."""
    frames, shots = sample["mp4"], sample["json"]["shots"]
    rows = [
        _strip_row(frames, shots[first : first + SHOTS_A_ROW], first, width)
        for first in range(0, len(shots), SHOTS_A_ROW)
    ]
    fps = sample["json"]["fps"]
    note = f"{len(frames)} frames at {fps:g} a second ({len(frames) / fps:.3g} s), {len(shots)} shots"
    return _with_caption(np.concatenate(rows), note, 1)


def _strip_row(frames: np.ndarray, shots: list[dict], first: int, width: int) -> np.ndarray:
    across = (width - 3 * GAP * (SHOTS_A_ROW - 1)) // SHOTS_A_ROW
    strips = []
    for number, shot in enumerate(shots, first):
        picked = np.linspace(shot["start"], shot["end"] - 1, min(FRAMES_A_SHOT, shot["end"] - shot["start"]))
        strip = filmstrip(list(frames[picked.round().astype(int)]), across, FRAMES_A_SHOT)
        strips.append(_with_caption(strip, f"{number}  {shot['caption']}", 4))
    out = canvas.blank(width, max(map(len, strips)) + 6, WHITE)
    for place, strip in enumerate(strips):
        canvas.paste(out, strip, place * (across + 3 * GAP), 0)
    return out


def filmstrip(frames: list[np.ndarray], width: int, places: int) -> np.ndarray:
    """Frames side by side on black film with its holes, each a `places`-th of the width."""
    film, holes = (24, 24, 26), 12
    cell = (width - GAP * (places + 1)) // places
    wide, high = canvas.fit(frames[0].shape[1], frames[0].shape[0], cell, round(cell * 1.5))
    used = GAP + len(frames) * (wide + GAP)
    out = canvas.blank(width, high + 2 * holes, WHITE)
    canvas.box(out, 0, 0, used, len(out), film)
    for x in range(6, used - 8, 14):
        canvas.box(out, x, 4, x + 6, 8, (235, 235, 230))
        canvas.box(out, x, len(out) - 8, x + 6, len(out) - 4, (235, 235, 230))
    for number, picture in enumerate(frames):
        canvas.paste(out, canvas.resize(picture, wide, high), GAP + number * (wide + GAP), holes)
    return out


def plain(sample: Mapping, width: int) -> np.ndarray:
    """A picture, or some frames of a video, with whatever caption there is."""
    name = picture_name(sample)
    if name:
        body, _ = _side_by_side([sample[name]], width)
    elif name := video_name(sample):
        frames = sample[name]
        body = filmstrip(list(frames[[0, len(frames) // 2, len(frames) - 1]]), width, 3)
    else:
        body = canvas.blank(width, 1, WHITE)
    return _with_caption(body, caption(sample) or f"members {', '.join(list(sample)[1:])}", 6)


def caption(sample: Mapping) -> str:
    """The text that belongs to a sample: its txt, or the caption or text of its json; empty when there is none."""
    if isinstance(sample.get("txt"), str):
        return sample["txt"].strip()
    about = sample.get("json")
    if isinstance(about, dict):
        found = next((about[name] for name in ("caption", "text", "txt") if isinstance(about.get(name), str)), "")
        return found.strip()
    return ""
