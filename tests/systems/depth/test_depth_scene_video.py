"""Videos in, steady videos out; large photos by tiles without seams."""

import gc
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from tests.systems.depth.conftest import KEYS
from vstrain.systems.depth.config import Predict, Video
from vstrain.systems.depth.predict import disparity_of, predict
from vstrain.systems.depth.scene import movie, moving
from vstrain.systems.depth.scene.steady import Steady, alike, fit_scale_shift
from vstrain.systems.depth.scene.tiles import fitted, ramp, starts, tiled

OPTIONS = Video(**KEYS["predict"]["video"])


def picture(height=48, width=64, seed=0):
    """Smooth, so that H.264 keeps it."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + seed) * np.cos(y / b) for a, b in ((9, 7), (5, 11), (13, 6))]
    return np.uint8(127 + 100 * np.stack(waves, 2))


def clip(path, frames=12, size=(48, 64), rate=25, sound="aac", codec="libx264", times=None):
    """A still picture with a tone; `times` are the frames' own, in milliseconds."""
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = size[1], size[0], "yuv420p"
        if times:
            video.codec_context.time_base = Fraction(1, 1000)
        tone = out.add_stream(sound, rate=48000, layout="mono") if sound else None
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(*size), format="rgb24")
            frame.pts, frame.time_base = (times[i], Fraction(1, 1000)) if times else (i, Fraction(1, rate))
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if tone:
            add_sound(out, tone, 48000 * frames // rate)
    return path


def add_sound(out, tone, samples):
    wave = np.sin(np.arange(samples) / 30).astype(np.float32)[None] / 4
    for start in range(0, samples, 1024):
        part = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], format="fltp", layout="mono")
        part.rate, part.pts, part.time_base = 48000, start, Fraction(1, 48000)
        out.mux(tone.encode(part))
    out.mux(tone.encode(None))


def packets(path, kind):
    with av.open(str(path)) as source:
        stream = getattr(source.streams, kind)[0]
        return [(p.pts * p.time_base, bytes(p)) for p in source.demux(stream) if p.pts is not None and p.size]


def pictures_of(path):
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        return [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in source.decode(stream)]


def convert(path, out, disparity, outputs, metric=False):
    steps = []
    options = Predict(**{**KEYS["predict"], "outputs": outputs})
    with movie.opened(path) as source:
        written = moving.convert(source, disparity, enlarge, options, metric, out, "v", steps.append)
    return written, steps


def enlarge(values, size):
    return cv2.resize(values, size[::-1])


class Wild:
    """Disparity of a still scene with another scale and shift in every frame, and a little noise."""

    def __init__(self, noise=0.0):
        self.rng, self.noise = np.random.default_rng(0), noise
        y, x = np.mgrid[:24, :32]
        self.truth = (np.hypot(y - 12, x - 16) < 8) * 0.5 + y / 50

    def __call__(self, frame):
        scale, shift = self.rng.uniform(0.2, 5), self.rng.uniform(-3, 3)
        values = self.truth + self.noise * self.rng.standard_normal(self.truth.shape)
        return (scale * values + shift).astype(np.float32)


# ---- steady over time -------------------------------------------------------------------------------------------------


def test_random_scales_and_shifts_of_a_still_video_are_taken_out():
    wild, steady, still = Wild(), Steady(OPTIONS, fit=True), picture(24, 32)
    units = [steady(wild(None), still) for _ in range(20)]
    assert max(np.abs(unit - units[0]).max() for unit in units) < 1e-4
    assert steady.flicker.pixels == 19 * 24 * 32 and steady.flicker.after < 1e-5


def test_noise_does_not_shrink_the_map_however_long_the_video():
    wild, steady, still = Wild(noise=0.1), Steady(OPTIONS, fit=True), picture(24, 32)
    for _ in range(150):
        steady(wild(None), still)
    assert 0.6 < steady.high - steady.low < 1.6  # least squares on y alone would leave 0.9 ** 150


def test_flicker_is_the_mean_difference_of_still_pixels():
    steady, still = Steady(OPTIONS, fit=False), picture(24, 32)
    first = np.linspace(0, 1, 24 * 32).reshape(24, 32)
    second, moved = first.copy(), still.copy()
    second[:, 20:] += 0.1  # a flicker of the right part
    moved[:, :8], second[:, :8] = moved[:, :8] // 2, 7  # what moves counts nothing
    units = [steady(values, shown).copy() for values, shown in ((first, still), (second, moved))]
    blurred = [cv2.GaussianBlur(shown, (0, 0), 1).astype(int) for shown in (still, moved)]
    quiet = np.abs(blurred[1] - blurred[0]).max(2) < OPTIONS.static
    assert not quiet[:, :8].all() and quiet[:, 14:].all() and steady.flicker.pixels == quiet.sum()
    assert steady.flicker.after == pytest.approx(np.abs(units[1] - units[0])[quiet].mean())
    assert steady.flicker.before == pytest.approx(np.abs(second / 7 - first)[quiet].mean(), rel=1e-2)


def test_what_moves_does_not_disturb_the_fit():
    rng = np.random.default_rng(0)
    reference = rng.random((24, 32))
    values = (reference - 0.3) / 2.5
    values[:8] = rng.random((8, 32)) * 9  # a third of the map is something new
    a, b = fit_scale_shift(values, reference, np.ones((24, 32)))
    assert (a, b) == pytest.approx((2.5, 0.3), abs=0.02)
    flat = fit_scale_shift(np.full((4, 4), 2.0), np.full((4, 4), 5.0), np.ones((4, 4)))
    assert flat == pytest.approx((1, 3))


def test_a_cut_begins_anew():
    steady = Steady(OPTIONS, fit=True)
    steady(Wild().truth, picture(24, 32))
    other = np.tile(np.linspace(7, 9, 32), (24, 1)).astype(np.float32)
    unit = steady(other, 255 - picture(24, 32))
    assert steady.flicker.pixels == 0 and steady.aligned.min() == 0 and steady.aligned.max() == 1
    assert unit[0, 0] == 0 and unit[0, -1] == 1
    assert alike(picture(), picture()) == pytest.approx(1) and alike(picture(), 255 - picture()) == pytest.approx(
        -1, abs=1e-3
    )
    black = np.zeros((8, 8, 3), np.uint8)
    assert alike(black, black) == 1 and alike(black, black + 200) == 0


# ---- videos -----------------------------------------------------------------------------------------------------------


def test_depth_video_keeps_pace_size_and_sound(tmp_path, caplog):
    source = clip(tmp_path / "in.mp4", size=(48, 65 // 2 * 2))
    with caplog.at_level("INFO", logger="vstrain"):
        written, steps = convert(source, tmp_path, Wild(), ["depth", "stereo", "anaglyph", "frames", "mesh"])
    names = [path.name for path in written]
    assert names[:3] == ["v_depth.mp4", "v_stereo_sbs.mp4", "v_anaglyph.mp4"] and names[-1] == "000011.png"
    assert len(names) == 15 and steps[-1] == 1 and steps == sorted(steps) and len(steps) == 12
    for path, size in zip(written, ((48, 64, 3), (48, 128, 3), (48, 64, 3)), strict=False):
        frames = pictures_of(path)
        assert [time for time, _ in frames] == [Fraction(i, 25) for i in range(12)]
        assert {frame.shape for _, frame in frames} == {size}
        assert [data for _, data in packets(path, "audio")] == [data for _, data in packets(source, "audio")]
    frames = pictures_of(tmp_path / "v_depth.mp4")
    assert max(np.abs(frame.astype(int) - frames[0][1]).mean() for _, frame in frames) < 2
    stored = [np.asarray(Image.open(path)).astype(int) for path in written[3:]]
    assert stored[0].shape == (48, 64) and max(np.abs(x - stored[0]).max() for x in stored) < 20
    text = Image.open(written[3]).text
    assert float(text["disparity_min"]) < float(text["disparity_max"])
    before, after = [float(word) for word in caplog.text.replace(",", "").split() if word.startswith("0.")]
    assert after < 1e-3 and before < 1e-3  # ranges alone differ here, which every frame's own range takes out


def test_uneven_times_are_kept(tmp_path):
    times = [0, 40, 100, 133, 300, 301]
    source = clip(tmp_path / "in.mkv", frames=6, sound=None, times=times)
    (path, *_), _ = convert(source, tmp_path, Wild(), ["depth"])
    assert [round(float(time) * 1000) for time, _ in pictures_of(path)] == times


def test_videos_of_a_phone_held_upright_stand_upright(tmp_path):
    with av.open(str(tmp_path / "in.mp4"), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.set_display_rotation(-90)  # to be shown turned clockwise
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        out.mux(video.encode(None))
    with movie.opened(tmp_path / "in.mp4") as source:
        (frame,) = source.frames()
    assert np.abs(frame.picture.astype(int) - np.rot90(picture(), -1)).mean() < 6


def test_sound_that_mp4_cannot_hold_is_left_out_with_a_word(tmp_path, caplog):
    source = clip(tmp_path / "in.mkv", sound="pcm_u8")
    with caplog.at_level("INFO", logger="vstrain"):
        (path, *_), _ = convert(source, tmp_path, Wild(), ["depth"])
    assert "pcm_u8" in caplog.text and len(pictures_of(path)) == 12


def test_frames_are_not_kept(tmp_path):
    """The writer asks for one frame after the other; nothing holds a frame that has been written."""
    most = 0

    def disparity(frame):
        nonlocal most
        most = max(most, sum(type(x) is movie.Frame for x in gc.get_objects()))
        return Wild().truth.astype(np.float32)

    convert(clip(tmp_path / "in.mp4", frames=10, sound=None), tmp_path, disparity, ["depth"])
    assert 1 <= most <= 2


def test_damaged_videos_get_one_sentence_and_leave_nothing(tmp_path, make_system):
    whole = clip(tmp_path / "whole.mp4", frames=3)
    (tmp_path / "text.mp4").write_bytes(b"hello")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:600])
    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        add_sound(out, out.add_stream("aac", rate=48000, layout="mono"), 4096)
    photo = tmp_path / "photo.png"
    Image.fromarray(picture()).save(photo)
    inputs = [tmp_path / f"{name}.mp4" for name in ("text", "cut", "song", "absent", "whole")] + [photo]
    steps = []
    system = make_system(predict={**KEYS["predict"], "outputs": ["depth"]})
    result = predict(system, inputs, tmp_path / "out", lambda done, total: steps.append((done, total)))
    assert [path for path, _ in result.refused] == inputs[:4]
    assert all("\n" not in why and str(path) in why for path, why in result.refused)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["photo_depth.npy", "photo_depth.png", "photo_side_by_side.png", "whole_depth.mp4"]
    done = [step for step, _ in steps]
    assert done == sorted(done) and done[-1] == 6 and any(4 < step < 5 for step in done) and steps[-1][1] == 6


def test_outputs_that_do_not_fit_the_kind_are_refused(tmp_path, make_system):
    photo, video = tmp_path / "a.png", clip(tmp_path / "b.mp4", frames=2)
    Image.fromarray(picture()).save(photo)
    for outputs, refused in ((["frames"], photo), (["mesh", "parallax"], video)):
        system = make_system(predict={**KEYS["predict"], "outputs": outputs, "parallax": SHORT})
        result = predict(system, [photo, video], tmp_path / outputs[0], lambda done, total: None)
        assert [path for path, _ in result.refused] == [refused] and result.written
        assert "system.predict.outputs" in result.refused[0][1]


SHORT = {**KEYS["predict"]["parallax"], "seconds": 0.2}


def test_every_output_of_a_photo_is_written(tmp_path, make_system):
    photo = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    Image.fromarray(picture(60, 80)).save(photo, exif=exif)
    outputs = ["depth", "cloud", "mesh", "stereo", "anaglyph", "parallax"]
    for output, rest in (("relative", {}), ("metric", {"max_depth": 20})):
        system = make_system(output=output, **rest, predict={**KEYS["predict"], "outputs": outputs, "parallax": SHORT})
        result = predict(system, [photo], tmp_path / output, lambda done, total: None)
        assert not result.refused and all(path.stat().st_size > 100 for path in result.written)
        assert {path.name for path in result.written} == {
            "a_depth.npy", "a_depth.png", "a_side_by_side.png", "a_cloud.ply", "a_mesh.glb", "a_stereo_sbs.jpg",
            "a_anaglyph.jpg", "a_parallax.mp4",
        }  # fmt: skip
        assert len(pictures_of(tmp_path / output / "a_parallax.mp4")) == 6
        header, _, body = (tmp_path / output / "a_cloud.ply").read_bytes().partition(b"end_header\n")
        assert b"from EXIF" in header and (b"depth: metres" in header) == (output == "metric")
        points = np.frombuffer(body, [("p", "<f4", 3), ("c", "u1", 3)])["p"]
        depth = np.load(tmp_path / output / "a_depth.npy")
        if output == "metric":
            assert -points[:, 2].min() <= depth.max() * 1.001 and -points[:, 2].max() >= depth.min() * 0.999
        else:
            assert -points[:, 2].max() == pytest.approx(1, rel=1e-3) and 2 < -points[:, 2].min() < 8.001


# ---- tiles ------------------------------------------------------------------------------------------------------------


def local(photo):
    """A network whose disparity is a function of each pixel."""
    return photo.astype(np.float32).sum(2) / 765 + 0.1


def test_tiles_of_an_exact_network_leave_no_seam():
    photo = picture(150, 230)
    np.testing.assert_allclose(tiled(local, photo, 64, 1.0), local(photo), atol=1e-5)
    np.testing.assert_allclose(tiled(local, photo, 64, 0.3), local(photo), atol=1e-5)
    assert np.array_equal(tiled(local, photo, 230, 1.0), local(photo))


def test_scale_and_shift_of_each_tile_are_taken_out():
    rng, seen = np.random.default_rng(0), []

    def wild(photo):
        seen.append(photo.shape[:2])
        if len(seen) == 1:
            return local(photo)
        return rng.uniform(0.2, 4) * local(photo) + rng.uniform(-2, 2)

    photo = picture(150, 230)
    np.testing.assert_allclose(tiled(wild, photo, 64, 0.5), local(photo), atol=1e-4)
    assert seen[0] == (150, 230) and set(seen[1:]) == {(64, 64)} and len(seen) == 1 + 3 * 5


def test_tiles_bring_detail_that_the_whole_lacks():
    def blurred(photo):
        return local(photo) if photo.shape[0] == 64 else cv2.blur(local(photo), (9, 9))

    rough = cv2.resize(picture(), (230, 150), interpolation=cv2.INTER_CUBIC) // 2
    rough[::4, ::4] += 20
    error = [np.abs(x - local(rough)).mean() for x in (tiled(blurred, rough, 64, 1 / 9), blurred(rough))]
    assert error[0] < 0.2 * error[1]


def test_a_tile_that_contradicts_gives_way():
    base = np.tile(np.linspace(0, 1, 40, dtype=np.float32), (40, 1))
    assert np.array_equal(fitted(-base, base, 1), base) and np.array_equal(fitted(np.ones_like(base), base, 1), base)


@pytest.mark.parametrize("length, side", [(64, 64), (65, 64), (4032, 1036), (1000, 14)])
def test_tiles_cover_everything_and_overlap(length, side):
    begin = starts(length, side)
    assert begin[0] == 0 and begin[-1] == length - side
    assert all(b - a <= 0.75 * side + 1 for a, b in zip(begin, begin[1:], strict=False))
    weight = ramp(side)
    assert weight.min() > 0 and weight.max() == 1 and np.array_equal(weight, weight[::-1])


def test_tile_keys_reach_the_network(make_system):
    for tile, calls in ((None, 1), (100, 1 + 3 * 4), ("auto", 1)):
        system, seen = make_system(predict={**KEYS["predict"], "tile": tile}), []
        system.net.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1), with_kwargs=True)
        assert disparity_of(system, picture(200, 290)).shape == (200, 290) and len(seen) == calls
