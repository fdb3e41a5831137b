"""A little drawing: text by Pillow, smooth lines and arrows by OpenCV, on uint8 (H, W, 3) RGB arrays.

Points are (x, y) pixels with pixel centres at integers, as everywhere in vstrain.data.kinds."""

from __future__ import annotations

import colorsys
import unicodedata
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

PAPER, INK, GREY, RULE = (250, 250, 247), (34, 37, 41), (112, 117, 123), (214, 214, 208)
RED, PINK, BLUE, ORANGE = (190, 30, 38), (253, 232, 230), (43, 103, 177), (232, 119, 34)
LETTERS = {"ß": "ss", "æ": "ae", "ø": "o", "œ": "oe", "ł": "l", "×": "x", "–": "-", "—": "-", "≤": "<=", "≥": ">="}
SUBPIXEL = 4  # bits behind the point in OpenCV's drawing


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def blank(width: int, height: int, colour: Colour = PAPER) -> np.ndarray:
    return np.full((max(int(height), 1), max(int(width), 1), 3), colour, np.uint8)


# ---- text -----------------------------------------------------------------------------------------------------------


def text_width(text: str, size: int) -> int:
    return int(np.ceil(font(size).getlength(text)))


def line_height(size: int) -> int:
    return round(size * 1.35)


@lru_cache(maxsize=4096)
def _legible(letter: str) -> str:
    """A letter that the font lacks without its accents, or as a question mark."""
    missing = bytes(font(16).getmask("\ue123"))
    if letter.isascii() or bytes(font(16).getmask(letter)) != missing:
        return letter
    plain = LETTERS.get(letter) or unicodedata.normalize("NFKD", letter)
    plain = "".join(part for part in plain if part.isascii())
    return plain or ("" if unicodedata.combining(letter) else "?")


def legible(text: str) -> str:
    """The text in letters that the font has."""
    return text if text.isascii() else "".join(map(_legible, text))


def wrap(text: str, size: int, width: int, most: int | None = None) -> list[str]:
    """The text in lines of at most `width` pixels; words that are wider are cut. Beyond `most` lines it ends in "…"."""
    lines, line = [], ""
    for word in legible(text).split():
        whole = f"{line} {word}".strip()
        if text_width(whole, size) <= width:
            line = whole
            continue
        if line:
            lines.append(line)
        while text_width(word, size) > width and len(word) > 1:
            fits = max(n for n in range(1, len(word)) if n == 1 or text_width(word[:n], size) <= width)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    lines += [line] if line else []
    if most is not None and len(lines) > most:
        last = lines[most - 1]
        while last and text_width(last + "…", size) > width:
            last = last[:-1]
        lines = [*lines[: most - 1], last.rstrip(" ,.;") + "…"]
    return lines


def write(image: np.ndarray, x: float, y: float, lines: str | list[str], size: int = 13, colour: Colour = INK) -> int:
    """Write lines with the top left corner at (x, y); returns the y below them."""
    lines = [lines] if isinstance(lines, str) else lines
    if not lines:
        return int(y)
    top, bottom = max(int(y), 0), min(int(y) + line_height(size) * len(lines) + 2, len(image))
    if bottom > top:
        band = Image.fromarray(image[top:bottom])
        draw = ImageDraw.Draw(band)
        for number, line in enumerate(lines):
            draw.text((x, y - top + number * line_height(size)), legible(line), fill=colour, font=font(size))
        image[top:bottom] = np.asarray(band)
    return int(y) + line_height(size) * len(lines)


def write_centred(image: np.ndarray, x: float, y: float, text: str, size: int = 13, colour: Colour = INK) -> None:
    """One line with its middle at x and its top at y."""
    write(image, x - text_width(text, size) / 2, y, text, size, colour)


# ---- shapes ---------------------------------------------------------------------------------------------------------


def _fixed(points) -> np.ndarray:
    return np.round(np.asarray(points, float) * (1 << SUBPIXEL)).astype(np.int32).reshape(-1, 1, 2)


def line(image: np.ndarray, points, colour: Colour, width: int = 1, closed: bool = False) -> None:
    cv2.polylines(image, [_fixed(points)], closed, colour, width, cv2.LINE_AA, SUBPIXEL)


def polygon(image: np.ndarray, points, colour: Colour, opacity: float = 1.0) -> None:
    over = image if opacity == 1 else image.copy()
    cv2.fillPoly(over, [_fixed(points)], colour, cv2.LINE_AA, SUBPIXEL)
    if over is not image:
        image[:] = cv2.addWeighted(over, opacity, image, 1 - opacity, 0)


def box(image: np.ndarray, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
    """Filled, from x0, y0 up to but without x1, y1."""
    image[max(round(y0), 0) : max(round(y1), 0), max(round(x0), 0) : max(round(x1), 0)] = colour


def frame(image: np.ndarray, x0: int, y0: int, x1: int, y1: int, colour: Colour, width: int = 1) -> None:
    """The border of the box [x0, x1) x [y0, y1), inside of it."""
    box(image, x0, y0, x1, y0 + width, colour)
    box(image, x0, y1 - width, x1, y1, colour)
    box(image, x0, y0, x0 + width, y1, colour)
    box(image, x1 - width, y0, x1, y1, colour)


def dot(image: np.ndarray, x: float, y: float, radius: float, colour: Colour) -> None:
    scale = 1 << SUBPIXEL
    cv2.circle(image, (round(x * scale), round(y * scale)), round(radius * scale), colour, -1, cv2.LINE_AA, SUBPIXEL)


def arrow(image: np.ndarray, start, end, colour: Colour, width: int = 2, head: float = 8.0) -> None:
    """From `start` to `end`, the tip of the head at `end`, on a white edge that keeps it apart from any picture."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = float(np.hypot(*(end - start)))
    if length > 0:
        along = (end - start) / length
        across = np.array([-along[1], along[0]])
        head = min(head, max(length * 0.6, 4.0))
        back = end - along * head
        triangle = [end, back + across * head * 0.5, back - across * head * 0.5]
        for paint, extra in (((255, 255, 255), 2), (colour, 0)):
            line(image, [start, back], paint, width + extra)
            if extra:
                line(image, triangle, paint, extra, closed=True)
            polygon(image, triangle, paint)
    dot(image, *end, 1.5, colour)


def outline(image: np.ndarray, mask: np.ndarray, colour: Colour, x: int = 0, y: int = 0) -> None:
    """The edge of `mask` (bool, drawn at its own scale, with its corner at x, y), dark below and coloured above."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(x, y))
    cv2.drawContours(image, contours, -1, (20, 20, 20), 3, cv2.LINE_AA)
    cv2.drawContours(image, contours, -1, colour, 1, cv2.LINE_AA)


# ---- pictures -------------------------------------------------------------------------------------------------------


def fit(width: int, height: int, box_width: int, box_height: int) -> tuple[int, int]:
    """The largest (width, height) of the same aspect ratio inside a box; at least one pixel."""
    scale = min(box_width / width, box_height / height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def resize(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Any picture as uint8 (height, width, 3): grey becomes RGB, alpha goes onto white, 16 bits become 8."""
    picture = rgb(picture)
    shrinks = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def rgb(picture: np.ndarray) -> np.ndarray:
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    if picture.ndim == 2 or picture.shape[2] == 1:
        picture = np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2)
    if picture.shape[2] == 4:
        alpha = picture[..., 3:].astype(np.float32) / 255
        picture = (picture[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(picture)


def paste(image: np.ndarray, part: np.ndarray, x: int, y: int) -> None:
    """Put `part` with its corner at (x, y); what does not fit is cut off."""
    height, width = min(len(part), len(image) - y), min(part.shape[1], image.shape[1] - x)
    if height > 0 and width > 0:
        image[y : y + height, x : x + width] = part[:height, :width]


def nearness_colours(nearness: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8 RGB: 1, near, is warm (red), 0, far, is cold (blue)."""
    value = np.round(20 + 220 * np.clip(nearness, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(value, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB).reshape(*value.shape, 3)


def colour_of(number: int, count: int) -> Colour:
    """One of `count` colours that can be told apart."""
    red, green, blue = colorsys.hls_to_rgb(number / max(count, 1), 0.45, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)
