"""Videos, a frame at a time: reading any that FFmpeg reads, writing H.264 in MP4."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

log = logging.getLogger("vstrain")
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
BT709 = 1  # code of primaries, transfer and matrix, ITU-T H.273


class UnreadableVideo(ValueError):
    """One sentence that says what is wrong with a file."""


class Frame(NamedTuple):
    picture: np.ndarray  # uint8 RGB (H, W, 3), upright
    time: int  # in `Source.time_base`, growing


class Source:
    """An opened video: its pace and its frames, decoded as they are asked for."""

    def __init__(self, path: Path, container: av.container.InputContainer):
        self.path, self.container, self.stream = path, container, container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(30)
        self.time_base = self.stream.time_base
        seconds = (self.stream.duration or 0) * self.time_base or Fraction(container.duration or 0, av.time_base)
        self.count = self.stream.frames or round(seconds * self.rate) or 1  # an estimate where the file does not say

    def frames(self) -> Iterator[Frame]:
        """Raises UnreadableVideo where the file is damaged."""
        step, last = max(1, round(1 / self.rate / self.time_base)), None
        try:
            for frame in self.container.decode(self.stream):
                time = frame.pts
                if time is None or (last is not None and time <= last):
                    time = 0 if last is None else last + step
                last = time
                upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield Frame(np.ascontiguousarray(upright), time)
        except av.FFmpegError as error:
            raise UnreadableVideo(f"the video does not decode ({error}); it may be cut short") from error
        if last is None:
            raise UnreadableVideo("the video holds no frame; it may be cut short")


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Raises UnreadableVideo."""
    try:
        container = av.open(str(path))
    except FileNotFoundError as error:
        raise UnreadableVideo("no such file; check the path") from error
    except (av.FFmpegError, OSError) as error:
        raise UnreadableVideo(f"not a video that FFmpeg opens ({error}); convert it to MP4 first") from error
    with container:
        if not container.streams.video:
            raise UnreadableVideo("no pictures in it, only sound; expected a video")
        yield Source(path, container)


class Writer:
    """`with Writer(path, rate, crf) as writer: writer.write(picture)`: H.264, yuv420p, BT.709, which any player plays. Odd
    sides lose a pixel, since chroma has half the size. With a `source`, its time base and its sound are kept. On an error
    the file is removed."""

    def __init__(self, path: Path, rate: Fraction | int, crf: int, source: Source | None = None):
        self.path = path
        self.time_base = source.time_base if source else 1 / Fraction(rate)
        self.container = av.open(str(path), "w", options={"movflags": "faststart"})
        self.stream = self.container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        self.sound = Sound(source.path, self.container) if source else None
        self.count = 0

    def __enter__(self) -> Writer:
        return self

    def write(self, picture: np.ndarray, time: int | None = None) -> None:
        """Adds uint8 RGB (H, W, 3), at `time` in units of the source's time base, else one frame after the last."""
        height, width = (side // 2 * 2 for side in picture.shape[:2])
        if self.count == 0:
            context = self.stream.codec_context
            context.height, context.width, context.pix_fmt = height, width, "yuv420p"
            context.time_base = self.time_base
            context.color_primaries = context.color_trc = context.colorspace = BT709
            context.color_range = ColorRange.MPEG
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        frame.pts, frame.time_base = self.count if time is None else time, self.time_base
        self.count += 1
        self.container.mux(self.stream.encode(frame))
        if self.sound:
            self.sound.until(frame.pts * self.time_base)

    def __exit__(self, kind, *error) -> None:
        if kind is None:
            self.container.mux(self.stream.encode(None))
            if self.sound:
                self.sound.until(None)
        if self.sound:
            self.sound.close()
        self.container.close()
        if kind is not None:
            self.path.unlink(missing_ok=True)


class Sound:
    """The first audio stream of a file, copied packet by packet as it is beside the pictures of an MP4."""

    def __init__(self, path: Path, target: av.container.OutputContainer):
        self.source, self.target, self.packets = av.open(str(path)), target, iter(())
        self.waiting = None
        if not self.source.streams.audio:
            return
        stream = self.source.streams.audio[0]
        name = stream.codec_context.codec.canonical_name
        if name not in target.supported_codecs:
            log.info("%s: its sound is %s, which MP4 does not hold; the results are silent", path, name)
            return
        self.stream = target.add_stream_from_template(stream)
        self.packets = (packet for packet in self.source.demux(stream) if packet.pts is not None)

    def until(self, seconds: Fraction | None) -> None:
        """Copies what is heard before `seconds`, or all that is left."""
        while (packet := self.waiting or next(self.packets, None)) is not None:
            self.waiting = packet
            if seconds is not None and packet.pts * packet.time_base > seconds:
                return
            self.waiting = None
            packet.stream = self.stream
            self.target.mux(packet)

    def close(self) -> None:
        self.source.close()
