"""Clips: the frames that are asked for, exactly, and nothing more than their groups decoded."""

from __future__ import annotations

import io
import pickle
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from vstrain.data import codecs
from vstrain.data.codecs.video import GOP, Clip, PyAV
from vstrain.data.kinds import SampleError

FRAMES = 60


def movie(height: int = 48, width: int = 64, frames: int = FRAMES) -> np.ndarray:
    """A texture that slides; the brightness of a corner grows by 4 a frame, so that no two frames are alike."""
    rng = np.random.default_rng(3)
    texture = np.kron(rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8), np.ones((8, 8, 1)))
    frames = np.stack([np.roll(texture[:height, :width], 2 * n, 1) for n in range(frames)]).astype(np.uint8)
    frames[:, :16, :16] = (4 * np.arange(len(frames)) % 256)[:, None, None, None]
    return frames


def encoded(frames, form="mp4", codec="libx264", pixels="yuv420p", times=None, **options) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10, options={"threads": "1", **options})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for n, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = int(times[n]), Fraction(1, 1000)
                stream.codec_context.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def straight(data: bytes) -> np.ndarray:
    """Every frame, one after the other, as PyAV's own loop gives them."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


VARIABLE = np.cumsum(np.random.default_rng(0).integers(20, 400, FRAMES))
FILES = {
    **{
        f"gop {gop}, {bf} B-frames": {"g": str(gop), "bf": str(bf), "sc_threshold": "0"}
        for gop in (1, 12, 24, 250)
        for bf in (0, 3)
    },
    "open groups": {"g": "12", "bf": "3", "x264-params": "open-gop=1", "form": "matroska"},
    "variable frame rate": {"g": "12", "bf": "3", "times": VARIABLE},
    "4:4:4": {"pixels": "yuv444p", "g": "12"},
    "mov": {"form": "mov", "bf": "3", "g": "12"},
    "webm vp9": {"form": "webm", "codec": "libvpx-vp9", "g": "12", "deadline": "realtime"},
    "webm vp8 with hidden frames": {
        "form": "webm",
        "codec": "libvpx",
        "g": "24",
        "auto-alt-ref": "1",
        "lag-in-frames": "12",
        "b": "90000",
    },
    "avi without times": {"form": "avi", "codec": "mpeg4", "g": "12", "bf": "2", "q": "3"},
}


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_that_of_a_straight_decode(name):
    data = encoded(movie(), **FILES[name])
    whole = straight(data)
    clip = Clip(data)
    assert len(clip) == len(whole) == FRAMES and clip.shape == whole.shape and clip.fps > 0
    np.testing.assert_array_equal(np.asarray(clip), whole)
    for n in range(FRAMES):
        assert (Clip(data)[n] == whole[n]).all(), n
    some = [41, 3, 3, -1, 17, 40, 59, 0, 3]
    np.testing.assert_array_equal(clip.frames(some), whole[some])


def test_odd_sides():
    frames = movie(47, 61, 9)
    clip = codecs.decode("mp4", codecs.encode("mp4", frames))
    assert clip.shape == (9, 47, 61, 3)
    assert np.abs(np.asarray(clip).astype(int) - frames).mean() < 6
    assert (clip[4] == straight(clip.data)[4]).all()


def test_a_clip_is_indexed_like_an_array():
    clip = Clip(encoded(movie(), g="12"))
    whole = np.asarray(clip)
    for index in (
        0,
        -1,
        np.int64(7),
        slice(5, 40, 7),
        slice(None, None, -1),
        slice(9, 9),
        [4, 4, 1],
        np.array([[2]])[0],
    ):
        got = clip[index]
        assert got.dtype == np.uint8 and got.shape == whole[index].shape and (got == whole[index]).all()
    assert (clip[np.arange(FRAMES) % 20 == 0] == whole[::20]).all()
    assert clip.frames([]).shape == (0, 48, 64, 3) and clip.ndim == 4 and clip.dtype == np.uint8
    assert (np.stack(list(clip)) == whole).all() and (np.asarray(clip, np.float32) == whole).all()
    assert (pickle.loads(pickle.dumps(clip))[30] == whole[30]).all()


@pytest.mark.parametrize("index", [FRAMES, -FRAMES - 1, 10**6])
def test_beyond_the_end(index):
    with pytest.raises(IndexError, match=f"frame {index} of a video of 60 frames; expected -60 to 59"):
        Clip(encoded(movie()))[index]


@pytest.mark.parametrize("n", [0, 23, 24, 30, 47, 59])
def test_one_frame_costs_its_group_at_most(n):
    clip = codecs.decode("mp4", codecs.encode("mp4", movie()))
    clip[n]
    assert 1 <= clip.decoder.decoded <= GOP
    clip = Clip(encoded(movie(), g="12", bf="3", sc_threshold="0"))
    assert clip.decoder.decoded == 0
    clip[n]
    assert clip.decoder.decoded <= 12 + 3


def test_frames_of_one_group_are_decoded_together():
    clip = Clip(encoded(movie(), g="12", bf="0", sc_threshold="0"))
    clip.frames([50, 14, 12, 13, 14])
    assert clip.decoder.decoded == 3 + 3  # 12, 13, 14 and 48, 49, 50


def test_what_the_writer_writes():
    frames = movie()
    data = codecs.encode("mp4", frames, fps=12)
    assert data == codecs.encode("mp4", frames, fps=12)
    assert data.find(b"moov") < data.find(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert stream.average_rate == 12 and stream.frames == FRAMES
    keys = [n for n, packet in enumerate(packets) if packet.is_keyframe]
    assert keys[0] == 0 and max(np.diff([*keys, FRAMES])) <= GOP
    assert all(packet.pts == packet.dts for packet in packets)  # no B-frames
    clip = codecs.decode("mp4", data)
    assert codecs.encode("mp4", clip) == codecs.encode("mp4", data) == data
    assert codecs.picture_size("mp4", data) == (FRAMES, 48, 64)
    assert codecs.picture_size("webm", encoded(frames, **FILES["webm vp9"])) == (FRAMES, 48, 64)


@pytest.mark.parametrize(
    ("front", "share"),
    [(front, share) for front in (True, False) for share in (0.0, 0.1, 0.5, 0.9, 0.95)] + [(True, 0.999)],
)
def test_a_video_that_is_cut_off_is_found(front, share):
    data = codecs.encode("mp4", movie()) if front else encoded(movie(), g="24")
    clip = codecs.decode("mp4", data[: int(share * len(data))])
    with pytest.raises(SampleError, match="its video"):
        clip[0]


def test_damage_is_found_where_it_is():
    data = bytearray(codecs.encode("mp4", movie()))
    with av.open(io.BytesIO(bytes(data))) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][30]
    data[packet.pos + 8 : packet.pos + packet.size] = bytes([0x55]) * (packet.size - 8)
    clip = Clip(bytes(data))
    assert (clip[23] == straight(codecs.encode("mp4", movie()))[23]).all()
    with pytest.raises(SampleError, match="video"):
        clip[30]


def test_any_damage_gives_frames_or_one_sentence():
    """Whatever bytes: a loader can quarantine a SampleError and nothing else."""
    rng = np.random.default_rng(9)
    frames = movie(frames=12)
    names = ["gop 12, 3 B-frames", "open groups", "webm vp9", "webm vp8 with hidden frames", "avi without times"]
    files = [codecs.encode("mp4", frames), *(encoded(frames, **FILES[name]) for name in names)]
    sentences = 0
    for n in range(120):
        data = bytearray(files[n % len(files)])
        for _ in range(rng.integers(1, 8)):
            at = int(rng.integers(len(data) if n % 3 else 1500))
            data[at : at + int(rng.integers(1, 5))] = rng.bytes(int(rng.integers(0, 5)))
        try:
            clip = Clip(bytes(data))
            assert np.asarray(clip).shape == clip.shape and clip.fps >= 0
        except SampleError as error:
            assert "its video" in str(error) and "\n" not in str(error)
            sentences += 1
        codecs.picture_size("mp4", bytes(data))
    assert 40 < sentences < 120


def test_sound_alone_is_no_video():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(SampleError, match="cannot be opened"):
        len(Clip(buffer.getvalue()))


def turned(data: bytes, quarters: int) -> bytes:
    """An MP4 with the matrix of its track set to `quarters` counter-clockwise (ISO 14496-12, tkhd version 0)."""
    turned = bytearray(data)
    at = data.find(b"tkhd") + 4 + 4 + 20 + 16
    assert struct.unpack(">9i", data[at : at + 36])[0] == 1 << 16
    cos, sin = (round(f(quarters * np.pi / 2)) << 16 for f in (np.cos, np.sin))
    turned[at : at + 36] = struct.pack(">9i", cos, -sin, 0, sin, cos, 0, 0, 0, 1 << 30)
    return bytes(turned)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_videos_of_phones_are_upright(quarters, monkeypatch):
    data = codecs.encode("mp4", movie(frames=12))
    upright = np.rot90(straight(data), quarters, axes=(1, 2))
    data = turned(data, quarters)
    for name in ("pyav", "torchcodec") if loads_torchcodec() else ("pyav",):
        monkeypatch.setenv("VSTRAIN_VIDEO", name)
        clip = codecs.decode("mp4", data)
        assert clip.shape == upright.shape and (clip[[7, 2]] == upright[[7, 2]]).all()
    assert codecs.picture_size("mp4", data) == upright.shape[:3]


def loads_torchcodec() -> bool:
    try:
        import torchcodec  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


def test_the_decoder_can_be_chosen(monkeypatch):
    clip = Clip(encoded(movie(frames=3)))
    assert isinstance(clip.decoder, PyAV)
    monkeypatch.setenv("VSTRAIN_VIDEO", "ffmpg")
    with pytest.raises(ValueError, match="VSTRAIN_VIDEO=ffmpg: no such video decoder; expected pyav or torchcodec"):
        len(pickle.loads(pickle.dumps(clip)))


@pytest.mark.parametrize("name", ["gop 12, 3 B-frames", "4:4:4", "variable frame rate", "open groups", "webm vp9"])
def test_both_decoders_give_the_same_pixels(name, monkeypatch):
    """Where torchcodec finds an FFmpeg. Another version of it than PyAV's may round colours otherwise."""
    if not loads_torchcodec():
        pytest.skip("torchcodec does not load here")
    import torchcodec

    data = encoded(movie(), **FILES[name])
    ours = np.asarray(Clip(data)).astype(int)
    monkeypatch.setenv("VSTRAIN_VIDEO", "torchcodec")
    theirs = Clip(data)
    assert theirs.shape == ours.shape
    same = torchcodec.ffmpeg_major_version == av.library_versions["libavcodec"][0] - 54
    assert np.abs(np.asarray(theirs) - ours).max() <= (0 if same else 3)
    assert np.abs(theirs[[41, 3, 3, -1]] - ours[[41, 3, 3, -1]]).max() <= (0 if same else 3)
    with pytest.raises(SampleError, match="its video"):
        Clip(data[:200])[0]
