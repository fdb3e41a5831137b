"""Videos whose frames are decoded when they are asked for, exactly those that are asked for.

PyAV decodes by default: its wheel brings its own FFmpeg, so all machines of a job give the same pixels, and no torch
comes into data workers. VSTRAIN_VIDEO=torchcodec takes torchcodec in exact mode instead, which uses the FFmpeg of the
machine. With one and the same FFmpeg the two are equal to the bit (yuv420p and yuv444p).
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from vstrain.data.kinds import SampleError

GOP = 24
AT_ONCE = 64  # frames that are decoded together when a clip is gone through
EXTENSIONS = ("mp4", "webm", "mkv", "avi", "mov")
WITHOUT_B_FRAMES = {"bf": "0", "mbtree": "0"}  # with mbtree x264 then writes other bytes in other processes
HIDDEN_FRAMES = ("vp8",)  # codecs some of whose packets show nothing: frames must be counted by decoding


class Clip(Sequence):
    """A video as if it were an array uint8 (T, H, W, 3) RGB: clip[i], clip[a:b:c], clip[[i, j, …]], np.asarray(clip).

    Opened at the first use, so damage is found then: SampleError. An index beyond the end is an IndexError. Frames are
    turned as the file's head says (phones). Not for several threads at once; picklable."""

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, data: bytes):
        self.data = data

    def __getstate__(self) -> dict:
        return {"data": self.data}

    @cached_property
    def decoder(self) -> PyAV | TorchCodec:
        name = os.environ.get("VSTRAIN_VIDEO", "pyav")
        if name not in DECODERS:
            raise ValueError(f"VSTRAIN_VIDEO={name}: no such video decoder; expected {' or '.join(DECODERS)}")
        return DECODERS[name](self.data)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), *self.decoder.size, 3

    @property
    def fps(self) -> float:
        """Frames a second, on average."""
        return self.decoder.fps

    def __len__(self) -> int:
        return self.decoder.length

    def __getitem__(self, index) -> np.ndarray:
        if isinstance(index, slice):
            return self.frames(range(*index.indices(len(self))))
        if np.ndim(index):
            index = np.asarray(index)
            return self.frames(np.flatnonzero(index) if index.dtype == bool else index)
        return self.frames([index])[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or np.uint8, copy=False)

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 (n, H, W, 3): frame `indices[k]` at k, in any order, also several times; negative ones from the end.
        Each group of pictures is decoded once, up to the last frame that is needed of it."""
        wanted = np.asarray(indices, np.int64).reshape(-1)
        length = len(self)
        if len(wanted) and not (-length <= wanted.min() and wanted.max() < length):
            bad = next(int(i) for i in wanted if not -length <= i < length)
            raise IndexError(f"frame {bad} of a video of {length} frames; expected {-length} to {length - 1}")
        unique, place = np.unique(wanted % max(length, 1), return_inverse=True)
        if not len(unique):
            return np.empty((0, *self.shape[1:]), np.uint8)
        frames = self.decoder.frames(unique.tolist())
        return frames if np.array_equal(wanted, unique) else frames[place]


class PyAV:
    """All packets are taken out of the container once; then frames are decoded from the keyframe before them, without
    seeking in the file, so that the container's own index plays no part.

    decoded: packets that were given to the decoder so far."""

    def __init__(self, data: bytes):
        import av

        self.decoded = 0
        try:
            self.container = av.open(io.BytesIO(data), metadata_errors="replace")
            self.stream = self.container.streams.video[0]
            self.packets = [packet for packet in self.container.demux(self.stream) if packet.size]
            self.context = self.stream.codec_context
            self.context.thread_count = 1
            self._find_frames()
        except Exception as error:  # no video stream, a codec that nobody knows, damage: many types
            raise SampleError(f"its video cannot be opened ({error})") from error
        if not self.packets or any(packet.is_corrupt for packet in self.packets):
            raise SampleError("its video is cut off or damaged")

    def _find_frames(self) -> None:
        self.fps = float(self.stream.average_rate or self.stream.guessed_rate or 0)
        shown = [packet.pts for packet in self.packets if not packet.is_discard]
        timed = all(packet.pts is not None for packet in self.packets) and len(set(shown)) == len(shown)
        self.by_time = timed and self.context.name not in HIDDEN_FRAMES
        self.times = sorted(shown) if self.by_time else []
        if not self._has_open_groups():
            self.context.options = {"err_detect": "explode"}
        self.length = len(self.times) if self.by_time else sum(1 for _ in self._decode(0, len(self.packets)))

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width), as the first frame is shown."""
        return self.frames([0]).shape[1:3]

    def _has_open_groups(self) -> bool:
        """Whether frames after a keyframe in the file are shown before it. Started there, the decoder cannot make these,
        and must not take that for damage."""
        key = None
        for packet in self.packets if self.by_time else ():
            key = packet.pts if packet.is_keyframe or key is None else key
            if packet.pts < key:
                return True
        return False

    def frames(self, wanted: list[int]) -> np.ndarray:
        """wanted: sorted, each once."""
        try:
            found = dict(self._by_time(wanted) if self.by_time else self._by_counting(wanted))
        except Exception as error:  # FFmpeg's, and what PyAV makes of impossible frames
            raise SampleError(f"its video is damaged ({error})") from error
        if missing := [n for n in wanted if n not in found]:
            raise SampleError(f"frame {missing[0]} of its video does not decode; the file is cut off or damaged")
        if len({frame.shape for frame in found.values()}) > 1:
            raise SampleError("its video changes its size on the way")
        return np.stack([found[n] for n in wanted])

    def _by_counting(self, wanted: list[int]):
        for n, frame in enumerate(self._decode(0, len(self.packets))):
            if n in wanted:
                yield n, self._pixels(frame)

    def _by_time(self, wanted: list[int]):
        """Frame n is the one with the n-th time. The keyframe to start from is the last that is shown no later: what
        follows it in the file but is shown before it belongs to the group before (open groups)."""
        place = {packet.pts: at for at, packet in enumerate(self.packets) if not packet.is_discard}
        keys = [at for at, packet in enumerate(self.packets) if packet.is_keyframe]
        key_times = [self.packets[at].pts for at in keys]
        runs: dict[int, dict[int, int]] = {}
        for n in wanted:
            before = np.searchsorted(key_times, self.times[n], side="right")
            runs.setdefault(keys[before - 1] if before else 0, {})[self.times[n]] = n
        for start, times in runs.items():
            for frame in self._decode(start, 1 + max(place[time] for time in times)):
                if frame.pts in times:
                    yield times[frame.pts], self._pixels(frame)

    def _decode(self, start: int, stop: int):
        """The frames that packets start:stop hold, in the order in which they are shown."""
        try:
            for packet in self.packets[start:stop]:
                self.decoded += 1
                yield from self.context.decode(packet)
            yield from self.context.decode(None)
        finally:
            self.context.flush_buffers()

    def _pixels(self, frame) -> np.ndarray:
        if frame.is_corrupt:
            raise SampleError(f"the frame at {frame.pts} is not whole")
        return np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns(frame))


def quarter_turns(frame) -> int:
    """By how many quarters, counter-clockwise, the file's head wants an av.VideoFrame to be turned."""
    return round(frame.rotation / 90) % 4


class TorchCodec:
    """torchcodec in exact mode: it scans the packets at opening, too."""

    def __init__(self, data: bytes):
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError) as error:
            raise ValueError(
                "VSTRAIN_VIDEO=torchcodec: it cannot be loaded here; install vstrain[video] and FFmpeg's shared libraries, "
                "or take VSTRAIN_VIDEO=pyav"
            ) from error
        try:
            self.video = VideoDecoder(data, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        except Exception as error:  # many types
            raise SampleError(f"its video cannot be opened ({error})") from error
        about = self.video.metadata
        self.length, self.size = about.num_frames, (about.height, about.width)
        self.fps = float(about.average_fps or 0)

    def frames(self, wanted: list[int]) -> np.ndarray:
        try:
            return self.video.get_frames_at(wanted).data.numpy()
        except Exception as error:  # many types
            raise SampleError(f"its video is damaged ({error})") from error


DECODERS = {"pyav": PyAV, "torchcodec": TorchCodec}


def encode_video(frames: np.ndarray | Clip, fps: float) -> bytes:
    """uint8 (T, H, W, 3) as H.264 in MP4: closed groups of at most GOP frames without B-frames, the index in front."""
    import av

    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:  # FFmpeg opens it anew to move the index to the front
        with av.open(file.name, "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream(
                "libx264",
                rate=Fraction(fps).limit_denominator(1001),
                options={"crf": "16", "g": str(GOP), "flags": "+cgop", "threads": "1", **WITHOUT_B_FRAMES},
            )
            stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv444p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return Path(file.name).read_bytes()


def video_size(data: bytes) -> tuple[int, int, int]:
    """(frames, height, width) as the first frame is shown; packets are counted where the head does not say how many."""
    import av

    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    with av.open(io.BytesIO(data)) as container:
        frame = next(container.decode(video=0))
        size = (frame.height, frame.width) if quarter_turns(frame) % 2 == 0 else (frame.width, frame.height)
        return frames, *size
