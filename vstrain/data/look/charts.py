"""Panels of a few kinds: histogram, bars, scatter. Each is uint8 (HEIGHT, WIDTH, 3) with a title and labelled axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vstrain.data.look import canvas
from vstrain.data.look.canvas import BLUE, GREY, INK, ORANGE, RULE

WIDTH, HEIGHT = 500, 330
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 58, 52  # from the panel's edge to the plotting area
PALE = (143, 177, 219)
MOST_BARS, FEWEST_BARS = 40, 8


@dataclass
class Axis:
    """From values to pixels: `low` at pixel `start`, `high` at pixel `end`, evenly or in the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value):
        low, high, value = (np.log(x) if self.log else np.asarray(x, float) for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers inside the axis."""
        if not self.log:
            return nice_ticks(self.low, self.high, most)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [s * 10.0**e for e in range(first, last + 1) for s in steps if self.low <= s * 10.0**e <= self.high]
            if len(ticks) <= most + 1:
                break
        else:
            ticks = ticks[:: -(-len(ticks) // most)]
        return ticks if len(ticks) > 1 else nice_ticks(self.low, self.high, 4)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high], about `most` of them."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: 1500 -> 1.5k."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.4g}"


def panel(title: str, note: str = "") -> np.ndarray:
    out = canvas.blank(WIDTH, HEIGHT, (255, 255, 255))
    canvas.frame(out, 0, 0, WIDTH, HEIGHT, RULE)
    canvas.write(out, 16, 10, title, 16, INK)
    canvas.write(out, 16, 33, canvas.wrap(note, 12, WIDTH - 32, 1), 12, GREY)
    return out


def _axes(out: np.ndarray, x: Axis, y: Axis, label: str, whole: bool = False) -> None:
    for value in y.ticks(5):
        if whole and value % 1:
            continue
        at = float(y(value))
        canvas.line(out, [(x.start, at), (x.end, at)], (236, 236, 232))
        text = short(value)
        canvas.write(out, LEFT - 8 - canvas.text_width(text, 11), at - 8, text, 11, GREY)
    canvas.line(out, [(x.start, y.start), (x.end, y.start)], GREY)
    right = -1e9
    for value in x.ticks():
        at, text = float(x(value)), short(value)
        half = canvas.text_width(text, 11) / 2
        canvas.line(out, [(at, y.start), (at, y.start + 4)], GREY)
        if at - half > right + 6:
            canvas.write_centred(out, at, y.start + 6, text, 11, GREY)
            right = at + half
    canvas.write_centred(out, (x.start + x.end) / 2, y.start + 24, label, 12, GREY)


def bins(values: np.ndarray, log: bool = False, whole: bool = False) -> np.ndarray:
    """Edges of histogram bins: one a number where these are few whole ones, else evenly (or in the logarithm)."""
    low, high = float(values.min()), float(values.max())
    count = int(np.clip(2 * math.sqrt(len(values)), FEWEST_BARS, MOST_BARS))
    if whole and high - low < MOST_BARS:
        return np.arange(low - 0.5, high + 1)
    if low == high:
        return np.array([low * 0.9, low * 1.1]) if low > 0 else np.array([low - 0.5, low + 0.5])
    if log and low > 0:
        return np.geomspace(low * 0.999, high * 1.001, count + 1)
    return np.linspace(low, high, count + 1)


def histogram(
    title: str,
    label: str,
    edges: np.ndarray,
    heights: np.ndarray,
    log: bool = False,
    marks: dict[str, float] | None = None,
    note: str = "",
) -> np.ndarray:
    """heights[i] stands between edges[i] and edges[i + 1]; marks: name -> place of an upright line."""
    out = panel(title, note)
    low, high = float(edges[0]), float(edges[-1])
    if len(heights) < 5 and not log:  # few bars stay narrow, in the middle
        room = (high - low) * 4 / len(heights)
        low, high = low - room, high + room
    x = Axis(low, high, LEFT, WIDTH - RIGHT, log)
    y = Axis(0, max(float(heights.max()), 1e-9) * 1.08, HEIGHT - BOTTOM, TOP + 18 * bool(marks))
    _axes(out, x, y, label, whole=heights.dtype.kind == "i")
    for left, right, height in zip(x(edges[:-1]), x(edges[1:]), heights, strict=True):
        if height:
            canvas.box(out, left + 0.5, min(float(y(height)), y.start - 1), max(right - 0.5, left + 1.5), y.start, BLUE)
    _marks(out, x, y, marks or {})
    return out


def _marks(out: np.ndarray, x: Axis, y: Axis, marks: dict[str, float]) -> None:
    right = -1e9
    for name, value in sorted(marks.items(), key=lambda mark: mark[1]):
        at, half = float(x(value)), canvas.text_width(name, 11) / 2
        canvas.line(out, [(at, y.start), (at, y.end)], ORANGE)
        place = min(max(at, x.start + half, right + half + 6), x.end - half)
        canvas.write_centred(out, place, y.end - 17, name, 11, ORANGE)
        right = place + half


def bars(title: str, rows: list[tuple[str, float]], note: str = "") -> np.ndarray:
    """Lying bars, the longest text and bar first."""
    out = panel(title, note)
    if not rows:
        return out
    step = (HEIGHT - TOP - 14) / len(rows)
    size = 11 if step < 17 else 12
    wide = min(max(canvas.text_width(name, size) for name, _ in rows), 150)
    x = Axis(0, max(count for _, count in rows), 16 + wide + 8, WIDTH - RIGHT - 44)
    for number, (name, count) in enumerate(rows):
        y = TOP + number * step
        name = canvas.wrap(name, size, wide, 1)[0]
        canvas.write(out, 16 + wide - canvas.text_width(name, size), y + step / 2 - size * 0.72, name, size, INK)
        canvas.box(out, x.start, y + 2, max(float(x(count)), x.start + 1), y + step - 2, BLUE)
        canvas.write(out, float(x(count)) + 6, y + step / 2 - 8, short(count), 11, GREY)
    return out


def scatter(title: str, xs: np.ndarray, ys: np.ndarray, counts: np.ndarray, labels: tuple[str, str], note: str = ""):
    """A disc a place, its area by the count; both axes from zero at one scale."""
    out = panel(title, note)
    high = float(max(xs.max(), ys.max())) * 1.12
    tall = HEIGHT - BOTTOM - TOP
    # the same number of units a pixel in both directions: a square picture lies on the diagonal
    x = Axis(0, high * (WIDTH - LEFT - RIGHT) / tall, LEFT, WIDTH - RIGHT)
    y = Axis(0, high, HEIGHT - BOTTOM, TOP)
    _axes(out, x, y, labels[0])
    canvas.write(out, LEFT + 6, TOP - 2, labels[1], 12, GREY)
    canvas.line(out, [(x.start, y.start), (float(x(high)), y.end)], RULE)
    radii = 3 + 11 * np.sqrt(counts / counts.max())
    for n in np.argsort(-counts, kind="stable"):
        place = float(x(xs[n])), float(y(ys[n]))
        canvas.dot(out, *place, radii[n], (255, 255, 255))
        canvas.dot(out, *place, radii[n] - 0.8, PALE)
    return out
