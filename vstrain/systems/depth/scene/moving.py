"""What is made of a video: its frames pass one by one, memory does not grow with its length."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from vstrain.systems.depth.config import Predict
from vstrain.systems.depth.pictures import colour
from vstrain.systems.depth.scene import stereo
from vstrain.systems.depth.scene.edges import sharpen
from vstrain.systems.depth.scene.movie import Source, Writer
from vstrain.systems.depth.scene.steady import Steady
from vstrain.systems.depth.scene.still import disparity_facts, write_png16

log = logging.getLogger("vstrain")
OUTPUTS = ("depth", "frames", "stereo", "anaglyph")
FILES = {"depth": "depth.mp4", "stereo": "stereo_sbs.mp4", "anaglyph": "anaglyph.mp4"}


def convert(
    source: Source,
    disparity: Callable[[np.ndarray], np.ndarray],
    enlarge: Callable[[np.ndarray, tuple[int, int]], np.ndarray],
    options: Predict,
    metric: bool,
    out: Path,
    name: str,
    progress: Callable[[float], None],
) -> list[Path]:
    """Writes the asked outputs of a video. `disparity` maps a frame uint8 (H, W, 3) to a map (h, w) of the network's own
    size, `enlarge` brings one to a frame's; progress(share of the frames done). Raises UnreadableVideo; what was begun is
    then removed."""
    steady = Steady(options.video, fit=not metric)
    quantity = "1 / metre" if metric else "disparity, aligned over the frames of a shot, larger is nearer"
    wanted = [what for what in OUTPUTS if what in options.outputs]
    paths = {what: out / f"{name}_{FILES[what]}" for what in wanted if what in FILES}
    written = list(paths.values())
    with ExitStack() as stack:
        writers = {
            what: stack.enter_context(Writer(path, source.rate, options.crf, source)) for what, path in paths.items()
        }
        for number, frame in enumerate(source.frames()):
            values = disparity(frame.picture)
            small = cv2.resize(frame.picture, values.shape[::-1], interpolation=cv2.INTER_AREA)
            unit = enlarge(steady(values, small), frame.picture.shape[:2])
            if "depth" in writers:
                writers["depth"].write(colour(unit), frame.time)
            if "frames" in wanted:
                written.append(folder_file(out / f"{name}_frames", number))
                write_png16(written[-1], unit, disparity_facts(quantity, steady.low, steady.high))
            if "stereo" in wanted or "anaglyph" in wanted:
                spread = int(np.ceil(1.5 * min(unit.shape) / min(values.shape)))
                both = stereo.pair(frame.picture, sharpen(unit, spread, options.edge), options.stereo, options.edge)
                for what, joined in (("stereo", stereo.side_by_side), ("anaglyph", stereo.anaglyph)):
                    if what in writers:
                        writers[what].write(joined(*both), frame.time)
            progress(min(1, (number + 1) / source.count))
    flicker = steady.flicker
    log.info(
        "%s: %d frames; still pixels flicker by %.4f of the range frame by frame, %.4f aligned",
        source.path,
        number + 1,
        flicker.before,
        flicker.after,
    )
    return written


def folder_file(folder: Path, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    return folder / f"{number:06d}.png"
