"""Histograms of a data set: sizes of all samples from the index; depth, captions and clips from samples spread over it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from vstrain.data.checks.content import valid_depth
from vstrain.data.depth import depth_of
from vstrain.data.index import Index
from vstrain.data.look import canvas, charts
from vstrain.data.look.facts import facts, sample_bytes, size_text, spread_over
from vstrain.data.look.tiles import caption
from vstrain.data.reader import DamagedSample, Reader

COLUMNS, MARGIN, BETWEEN = 3, 28, 14
DEPTH_EDGES = np.geomspace(1e-3, 1e5, 641)  # metres; 80 bins a power of ten
WORDS = 14
COMMON = re.compile(
    "a|an|and|are|as|at|be|by|for|from|has|have|in|into|is|it|its|of|on|one|or|s|that|the|their|there|this|to|two|up|"
    "was|while|with|which"
)


@dataclass
class Quantity:
    """A number a sample (or several). whole: counts things; log: spread over powers of ten."""

    title: str
    label: str
    values: np.ndarray
    log: bool = False
    whole: bool = False

    def line(self) -> str:
        low, q1, middle, q3, high = np.percentile(self.values, [0, 25, 50, 75, 100])
        low, q1, middle, q3, high = map(charts.short, (low, q1, middle, q3, high))
        if low == high:
            return f"{self.title}: all {low}"
        return f"{self.title}: {low} to {high}, median {middle}, middle half {q1} to {q3}"

    def panel(self) -> np.ndarray:
        log = self.log and self.values.min() > 0 and self.values.max() > 8 * self.values.min()
        edges = charts.bins(self.values, log, self.whole)
        heights = np.histogram(self.values, edges)[0]
        middle = float(np.median(self.values))
        low, high = charts.short(self.values.min()), charts.short(self.values.max())
        note = f"{len(self.values)} values, " + (f"all {low}" if low == high else f"{low} to {high}")
        return charts.histogram(
            self.title, self.label, edges, heights, log, {f"median {charts.short(middle)}": middle}, note
        )


@dataclass
class Content:
    """What was found in the samples that were read."""

    read: int = 0
    damaged: int = 0
    units: Counter = field(default_factory=Counter)
    depth: np.ndarray = field(default_factory=lambda: np.zeros(len(DEPTH_EDGES) - 1))  # sum of each sample's shares
    valid: list[float] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    numbers: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, values) -> None:
        self.numbers.setdefault(name, []).extend(np.atleast_1d(values).tolist())


@dataclass
class Stats:
    lines: list[str]
    picture: np.ndarray


def stats(index: Index, samples: int, progress: Callable[[str, int, int], None] | None = None) -> Stats:
    """The numbers as text, and all histograms as one picture. At most `samples` samples are read."""
    known = facts(index)
    content = read(index, known.kind, samples, progress)
    quantities = _of_index(index) + _of_content(content)
    panels = _sizes(index) + [quantity.panel() for quantity in quantities]
    panels += _depth(content) + _words(content)
    lines = [f"{known.samples} samples, {size_text(known.bytes)}, kind {known.kind or 'unknown'}"]
    lines.append(
        f"sizes of all samples; contents of {content.read} spread over the data set, {content.damaged} damaged"
    )
    lines += [quantity.line() for quantity in quantities] + _depth_lines(content)
    if words := frequent(content.captions):
        lines.append("frequent words: " + ", ".join(f"{word} {count}" for word, count in words))
    return Stats(lines, _arrange(lines[0], lines[1], panels))


def read(index: Index, kind: str | None, samples: int, progress=None) -> Content:
    """Collect from samples spread over the data set; damaged ones are counted and left out."""
    content, reader = Content(), Reader(index)
    chosen = spread_over(len(index), samples)
    collect = {"depth": _read_depth, "story": _read_story, "multiview": _read_multiview, "drag": _read_drag}
    for done, n in enumerate(chosen):
        sample = reader.read(n)
        try:
            collect.get(kind, _read_plain)(sample, content)
            content.read += 1
        except (DamagedSample, KeyError, TypeError, ValueError, AttributeError):
            content.damaged += 1
        if progress:
            progress("samples", done + 1, len(chosen))
    return content


# ---- reading --------------------------------------------------------------------------------------------------------


def _read_depth(sample: Mapping, content: Content) -> None:
    valid, unit = valid_depth(sample), sample["json"].get("unit")
    counts = np.histogram(depth_of(sample)[valid], DEPTH_EDGES)[0]
    content.depth += counts / max(valid.sum(), 1)
    content.valid.append(100 * float(valid.mean()))
    content.units[unit] += 1
    _read_plain(sample, content)


def _read_story(sample: Mapping, content: Content) -> None:
    about = sample["json"]
    lengths = [(shot["end"] - shot["start"]) / about["fps"] for shot in about["shots"]]
    content.captions += [shot["caption"] for shot in about["shots"]]
    content.add("seconds a shot", lengths)
    content.add("shots a clip", len(lengths))
    content.add("frames a second", about["fps"])
    content.add("seconds a clip", about["shots"][-1]["end"] / about["fps"])


def _read_multiview(sample: Mapping, content: Content) -> None:
    views = sample["camera.json"]["views"]
    places = np.array([np.asarray(view["c2w"], float)[:3, 3] for view in views])
    distance = np.linalg.norm(places, axis=1)
    content.add("views an object", len(views))
    content.add("camera distance", distance)
    content.add("camera elevation", np.degrees(np.arcsin(places[:, 2] / np.maximum(distance, 1e-9))))
    content.captions.append(sample["txt"])


def _read_drag(sample: Mapping, content: Content) -> None:
    points = sample["points.json"]
    way = np.asarray(points["targets"], float) - np.asarray(points["handles"], float)
    content.add("points a sample", len(way))
    content.add("drag length", np.hypot(*way.T))
    content.add("part that may move", 100 * float((sample["mask.png"] > 0).mean()))


def _read_plain(sample: Mapping, content: Content) -> None:
    if text := caption(sample):
        content.captions.append(text)
    about = sample.get("json")
    if isinstance(about, dict) and isinstance(about.get("fps"), int | float):
        content.add("frames a second", about["fps"])


# ---- quantities and panels --------------------------------------------------------------------------------------------

UNITS = {  # name -> unit on the axis, whether it counts things
    "seconds a shot": ("seconds", False),
    "shots a clip": ("shots", True),
    "frames a second": ("frames a second", False),
    "seconds a clip": ("seconds", False),
    "views an object": ("views", True),
    "camera distance": ("distance from the object's middle", False),
    "camera elevation": ("degrees above the ground", False),
    "points a sample": ("points", True),
    "drag length": ("pixels", False),
    "part that may move": ("% of the pixels", False),
}


def _of_index(index: Index) -> list[Quantity]:
    sized = index.width > 0
    out = []
    if sized.any():
        ratio = index.width[sized] / index.height[sized].astype(float)
        out.append(Quantity("Aspect ratio", "width / height", ratio))
    out.append(Quantity("Bytes a sample", "bytes", sample_bytes(index), log=True))
    if (index.frames > 1).any():
        out.append(Quantity("Clip length", "frames", index.frames[index.frames > 1], whole=True))
    return out


def _of_content(content: Content) -> list[Quantity]:
    out = [
        Quantity(name.capitalize(), UNITS[name][0], np.array(values), whole=UNITS[name][1])
        for name, values in content.numbers.items()
    ]
    if content.captions:
        lengths = np.array([len(text.split()) for text in content.captions])
        out.append(Quantity("Caption length", "words", lengths, whole=True))
    return out


def _sizes(index: Index) -> list[np.ndarray]:
    sized = index.width > 0
    if not sized.any():
        return []
    pairs, counts = np.unique(np.stack([index.width[sized], index.height[sized]], 1), axis=0, return_counts=True)
    top = np.argsort(-counts, kind="stable")[:3]
    note = f"{len(pairs)} size{'s' * (len(pairs) > 1)}: " + ", ".join(
        f"{pairs[n][0]}x{pairs[n][1]} ({counts[n]})" for n in top
    )
    return [charts.scatter("Resolution", pairs[:, 0], pairs[:, 1], counts, ("width", "height"), note)]


def _depth_percentiles(content: Content, shares=(1, 50, 99)) -> list[float]:
    """Depth below which these percents of the valid pixels lie, every sample counting alike."""
    total = np.cumsum(content.depth)
    places = [int(np.searchsorted(total, share / 100 * total[-1])) for share in shares]
    return [float(np.sqrt(DEPTH_EDGES[n] * DEPTH_EDGES[n + 1])) for n in places]


def _depth_lines(content: Content) -> list[str]:
    if not content.depth.any():
        return []
    low, middle, high = _depth_percentiles(content)
    valid = Quantity("Valid pixels", "%", np.array(content.valid)).line()
    return [
        f"depth ({_unit(content)}): 1 % below {low:.3g}, half below {middle:.3g}, 1 % above {high:.3g}",
        f"{valid} (% of a picture)",
    ]


def _unit(content: Content) -> str:
    return "metres" if set(content.units) == {"depth"} else " and ".join(sorted(map(str, content.units)))


def _depth(content: Content) -> list[np.ndarray]:
    if not content.depth.any():
        return []
    used = np.flatnonzero(content.depth)
    first, last = used[0] // 8 * 8, min(used[-1] // 8 * 8 + 8, len(content.depth))
    group = max((last - first) // 8 // 8 * 2, 1)  # at most about 40 bars
    last = first + -(-(last - first) // group) * group
    heights = np.pad(content.depth, (0, group))[first:last].reshape(-1, group).sum(1) / content.read * 100
    edges = DEPTH_EDGES[np.minimum(np.arange(first, last + 1, group), len(DEPTH_EDGES) - 1)]
    low, middle, high = _depth_percentiles(content)
    marks = {f"1 % {low:.3g}": low, f"50 % {middle:.3g}": middle, f"99 % {high:.3g}": high}
    panels = [
        charts.histogram(
            "Depth", _unit(content), edges, heights, True, marks, "% of the valid pixels, every sample counting alike"
        )
    ]
    shares = np.array(content.valid)
    edges = np.linspace(0, 100, 41)
    note = f"{(shares > 99.95).mean() * 100:.3g} % of the samples are valid everywhere"
    panels.append(
        charts.histogram("Valid pixels", "% of a picture", edges, np.histogram(shares, edges)[0], False, None, note)
    )
    return panels


def frequent(captions: list[str], most: int = WORDS) -> list[tuple[str, int]]:
    """The words that most captions have, without the likes of "the"; ties in the order of the alphabet."""
    counts: Counter = Counter()
    for text in captions:
        words = set(re.findall(r"[^\W\d_]+", text.lower()))
        counts.update(word for word in words if not COMMON.fullmatch(word))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]


def _words(content: Content) -> list[np.ndarray]:
    words = frequent(content.captions)
    return (
        [charts.bars("Frequent words", words, f"captions that have them, of {len(content.captions)}")] if words else []
    )


def _arrange(title: str, note: str, panels: list[np.ndarray]) -> np.ndarray:
    rows = -(-len(panels) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * charts.WIDTH + (COLUMNS - 1) * BETWEEN
    out = canvas.blank(width, 92 + rows * (charts.HEIGHT + BETWEEN) + MARGIN - BETWEEN)
    canvas.write(out, MARGIN, 20, title, 26)
    canvas.write(out, MARGIN, 58, note, 14, canvas.GREY)
    for number, part in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        canvas.paste(out, part, MARGIN + column * (charts.WIDTH + BETWEEN), 92 + row * (charts.HEIGHT + BETWEEN))
    return out
