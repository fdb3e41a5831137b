"""Contact sheets and histograms: what is drawn stands where it should, in the colour it should have."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data import kinds_made as made
from vstrain.data import codecs
from vstrain.data.index import Index
from vstrain.data.look import cameras, canvas, charts, stats, tiles
from vstrain.data.look.facts import facts, sample_bytes, spread_over
from vstrain.data.look.sheet import save, sheet
from vstrain.data.problems import DataError
from vstrain.data.reader import Reader

WHITE = (255, 255, 255)


def opened(folder: Path, kind: str, **options) -> Index:
    return Index.open(made.write(folder, kind, **options))


def near(pixel, colour, within: int = 40) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - colour).max() <= within)


def where(image: np.ndarray, colour, within: int = 40) -> np.ndarray:
    """(n, 2) places (x, y) of a colour."""
    return np.argwhere((np.abs(image.astype(int) - colour) <= within).all(-1))[:, ::-1]


# ---- drawing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [(90, 20), (30, 85), (12, 50), (60, 9)])
def test_an_arrow_ends_at_its_target(end):
    image, start = canvas.blank(100, 100, (90, 90, 90)), (50, 50)
    canvas.arrow(image, start, end, canvas.RED)
    assert near(image[end[1], end[0]], canvas.RED)
    middle = np.round((np.array(start) + end) / 2).astype(int)
    assert near(image[middle[1], middle[0]], canvas.RED)
    red = where(image, canvas.RED)
    along = (np.array(end) - start) / np.hypot(*(np.array(end) - start))
    reach = (red - start) @ along
    assert reach.max() <= np.hypot(*(np.array(end) - start)) + 2 and reach.min() >= -3
    widths = [np.abs((red - start) @ [-along[1], along[0]])[np.abs(reach - r) < 1].max() for r in (10, reach.max() - 6)]
    assert widths[1] > 1.5 * widths[0]  # the head is at the target's end


def test_text_is_wrapped_inside_its_width():
    text = "a striped creature with a hat and a Donaudampfschifffahrtsgesellschaftskapitän walks"
    lines = canvas.wrap(text, 13, 120)
    assert all(canvas.text_width(line, 13) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == canvas.legible(text).replace(" ", "")
    short = canvas.wrap(text, 13, 120, 2)
    assert len(short) == 2 and short[1].endswith("…") and canvas.text_width(short[1], 13) <= 120
    image = canvas.blank(140, 200)
    below = canvas.write(image, 10, 20, lines, 13)
    inked = np.argwhere((image < 128).all(-1))
    assert inked[:, 0].min() >= 20 and inked[:, 0].max() <= below and inked[:, 1].max() <= 131


def test_letters_that_the_font_lacks():
    assert canvas.legible("Ménage à 3 × ß…") == "Menage a 3 x ss…"
    assert canvas.legible("猫") == "?"


def test_pictures_keep_their_aspect():
    assert canvas.fit(640, 480, 200, 200) == (200, 150) and canvas.fit(480, 640, 200, 200) == (150, 200)
    assert canvas.fit(1000, 1, 100, 100) == (100, 1)
    grey, deep = np.full((4, 4), 7, np.uint8), np.full((4, 4, 3), 0x4321, np.uint16)
    clear = np.zeros((4, 4, 4), np.uint8)
    for picture, value in ((grey, 7), (deep, 0x43), (clear, 255)):
        assert (canvas.rgb(picture) == value).all() and canvas.rgb(picture).shape == (4, 4, 3)


# ---- kinds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["depth", "disparity"])
def test_near_is_warm_and_invalid_is_black(unit):
    ramp = np.geomspace(1, 50, 400, dtype=np.float32).reshape(20, 20)
    ramp[0, :3] = (0, np.nan, -1)
    mask = np.full((20, 20), 255, np.uint8)
    mask[0, 3] = 0
    values = {
        "__key__": "a",
        "depth.pco": ramp if unit == "depth" else 1 / np.maximum(ramp, 1),
        "mask.png": mask,
        "json": {"unit": unit},
    }
    values["depth.pco"][0, :3] = (0, np.nan, -1)
    colours = tiles.depth_colours(values).astype(int)
    assert (colours[0, :4] == 0).all() and colours[0, 4:].any(-1).all()
    near_end, far_end = colours[1, 0], colours[-1, -1]
    assert near_end[0] > near_end[2] + 80 and far_end[2] > far_end[0] + 80
    plain = dict(values) | {"depth.pco": np.full((20, 20), 3, np.float32)}
    assert tiles.depth_colours(plain)[1:].any(-1).all()  # one depth everywhere has a colour, too


def test_depth_tile_has_picture_and_depth_side_by_side():
    sample = {"__key__": "a"} | made.depth(0)
    sample["png"] = np.full_like(sample["png"], (10, 200, 90))
    tile = tiles.tile(sample, "depth", 300)
    assert tile.shape[1] == 300
    green = where(tile, (10, 200, 90), 2)
    assert np.ptp(green[:, 0]) + 1 == np.ptp(green[:, 1]) + 1 == (280 - tiles.GAP) // 2
    assert green[:, 0].max() < 150
    colours = tiles.depth_colours(sample)
    x, y = green[:, 0].min() + 138 + tiles.GAP, green[:, 1].min()
    assert near(tile[y + 1, x + 1], colours[0, 0], 12) and near(tile[y + 136, x + 136], colours[-1, -1], 12)


def test_drag_tile_has_the_arrow_and_the_mask():
    sample = {"__key__": "a"} | made.drag(0)
    body = tiles.drag(sample, 2 * 240 + tiles.GAP)  # ten times the size of the pictures
    x, y = 10 * 16 + 4.5, 10 * 6 + 4.5
    assert near(body[round(y), round(x)], canvas.RED)
    assert near(body[round(y), 10 * 6 + 4], canvas.BLUE, 60)
    assert not len(where(body[:, 240:], canvas.RED))
    yellow = where(body[:240, :240], (255, 214, 10))
    assert yellow.min(0).tolist() == [40, 40] and yellow.max(0).tolist() == [199, 199]
    assert near(body[220, 20], (120,) * 3, 2) and near(body[220, 240 + tiles.GAP + 20], (140,) * 3, 2)


def seen(azimuth: float, elevation: float, number: int = 0, count: int = 1) -> np.ndarray:
    """Where the sketch shows a camera: the middle of what has its colour, from the middle of the sketch."""
    views = [{"c2w": made.pose(200, -80), "fovy": 30, "width": 4, "height": 4}] * count
    views[number] = {"c2w": made.pose(azimuth, elevation), "fovy": 30, "width": 4, "height": 4}
    image = cameras.sketch(views, 301)
    return np.median(where(image, canvas.colour_of(number, count), 60), axis=0) - 150


def test_cameras_stand_where_they_are():
    eye = cameras.EYE_AZIMUTH
    assert seen(eye, 60)[1] < seen(eye, 0)[1] < seen(eye, -40)[1]  # higher up on the picture
    right, left = seen(eye + 90, 0), seen(eye - 90, 0)
    assert right[0] > 70 and left[0] < -70 and abs(right[1] - left[1]) <= 3
    front, behind = seen(eye, 0), seen(eye + 180, 0)
    assert front[1] > 15 and behind[1] < -15  # seen from above
    assert np.abs(seen(eye + 90, 0, 2, 5) - right).max() <= 4


def test_cameras_look_at_the_object():
    view = {"c2w": made.pose(0, 0), "fovy": 40.0, "width": 30, "height": 20}
    apex, *corners = cameras._pyramid(np.array(view["c2w"]), view, 0.5)
    assert np.allclose(apex, [2, 0, 0]) and np.allclose(np.mean(corners, 0), [1.5, 0, 0])
    half = 0.5 * np.tan(np.radians(20))
    assert np.allclose(corners[0], [1.5, -1.5 * half, half])  # top left, as the camera sees it


def test_filmstrips_show_the_shots_in_order():
    body = tiles.story({"__key__": "a"} | made.story(0), 1200)
    row = body[12 + 40]
    red, green, blue = ((row.astype(int) - colour).__abs__().max(-1) < 30 for colour in
                        ([200, 30, 30], [30, 200, 30], [30, 30, 200]))  # fmt: skip
    places = [np.flatnonzero(colour) for colour in (red, green, blue)]
    assert all(len(place) > 200 for place in places)
    assert places[0].max() < places[1].min() and places[1].max() < places[2].min()
    for place in places:  # each shot's caption begins below its frames
        text = np.argwhere((body[-60:, place.min() : place.min() + 60] < 100).all(-1))
        assert len(text) > 20


def test_plain_tile_has_its_caption_below_the_picture():
    sample = {"__key__": "a", "png": np.full((50, 100, 3), (10, 200, 90), np.uint8), "txt": "a caption of five words"}
    tile = tiles.tile(sample, "image", 220)
    green = where(tile, (10, 200, 90), 2)
    assert (np.ptp(green, axis=0) + 1).tolist() == [200, 100]
    assert (tile[green[:, 1].max() + 2 : -8, 10:210] < 100).all(-1).any()
    assert tiles.caption({"json": {"caption": " a "}}) == "a" and tiles.caption({"json": [1]}) == ""


def test_a_sample_that_does_not_fit_its_kind_is_red():
    sample = {"__key__": "a"} | made.depth(0) | {"mask.png": np.zeros((24, 24), np.uint8)}
    tile = tiles.tile(sample, "depth", 300)
    assert near(tile[0, 0], canvas.RED, 2) and near(tile[5, 150], canvas.PINK, 2)
    assert (tile == tiles.red("a", "mask.png is zero everywhere, so no pixel counts", 300)).all()


@pytest.mark.parametrize("kind", made.KINDS)
def test_sheets_are_the_same_every_time(tmp_path, kind):
    index = opened(tmp_path, kind)
    picture = sheet(index, 5)
    assert picture.shape[1] == 1600 and (picture == sheet(index, 5)).all()
    assert not len(where(picture[::4, ::4], canvas.PINK, 1))
    save(picture, tmp_path / "sub" / "sheet.png")
    assert (codecs.decode("a.png", (tmp_path / "sub" / "sheet.png").read_bytes()) == picture).all()


def test_a_damaged_sample_is_red_on_the_sheet(tmp_path):
    index = opened(tmp_path, "depth")
    data = bytearray(Path(index.shards[0]).read_bytes())
    data[index.members(1)["png"][0] + 30] ^= 1
    Path(index.shards[0]).write_bytes(data)
    picture = sheet(index, 12)
    pink = where(picture, canvas.PINK, 1)
    width = (1600 - 56 - 14 * 3) // 4
    assert (
        pink[:, 0].min() >= 28 + width + 14 and pink[:, 0].max() <= 28 + 2 * width + 14
    )  # the second of the first row
    assert pink[:, 1].min() < 100 and pink[:, 1].max() < 220


def test_a_damaged_video_is_red_on_the_sheet(tmp_path):
    index = opened(tmp_path, "story", change=lambda n, x: x.update(mp4=b"nonsense") if n == 3 else None)
    assert len(where(sheet(index, 12), canvas.PINK, 1)) > 1000


def test_pictures_are_saved_as_png_only(tmp_path):
    with pytest.raises(DataError, match="ends in .png"):
        save(canvas.blank(4, 4), tmp_path / "sheet.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        save(canvas.blank(4, 4), tmp_path / "file" / "sheet.png")


# ---- facts ------------------------------------------------------------------------------------------------------------


def test_facts_agree_with_the_tar_files(tmp_path):
    index = opened(tmp_path, "multiview", change=lambda n, x: x.pop("meta.json") and None if n == 2 else None)
    known = facts(index)
    sizes: dict[str, list[int]] = {}
    totals: dict[str, int] = {}
    for shard in index.shards:
        with tarfile.open(shard) as file:
            for member in file.getmembers():
                key, name = member.name.split(".", 1)
                name = "rgba_NNN.png" if name.startswith("rgba_") else name
                sizes.setdefault(name, []).append(member.size)
                totals[key] = totals.get(key, 0) + member.size
    assert {m.name: (m.total, m.median) for m in known.members} == {
        name: (sum(values), int(np.median(values))) for name, values in sizes.items()
    }
    assert {m.name: (m.samples, m.each) for m in known.members}["rgba_NNN.png"] == (12, 4)
    assert {m.name: m.samples for m in known.members}["meta.json"] == 11
    assert sample_bytes(index).tolist() == [totals[made.key(n)] for n in range(12)]
    assert (known.samples, known.shards, known.kind) == (12, 3, "multiview")
    assert known.widths == known.heights == (24, 24) and known.fingerprint == index.fingerprint
    assert known.bytes == sum(Path(shard).stat().st_size for shard in index.shards)


def test_samples_are_spread_over_all():
    assert spread_over(10, 3) == [0, 4, 9] and spread_over(3, 10) == [0, 1, 2] and spread_over(0, 5) == []
    assert len(spread_over(15_000_000, 500)) == 500 and spread_over(15_000_000, 500)[-1] == 14_999_999


# ---- histograms -------------------------------------------------------------------------------------------------------


def test_bars_stand_at_their_values_in_proportion():
    edges, heights = np.arange(11.0), np.array([0, 5, 0, 0, 0, 0, 10, 0, 0, 0])
    image = charts.histogram("title", "label", edges, heights)
    x = charts.Axis(0, 10, charts.LEFT, charts.WIDTH - charts.RIGHT)
    blue = where(image, canvas.BLUE, 1)
    tall = {}
    for value in range(10):
        here = blue[(blue[:, 0] > x(value)) & (blue[:, 0] < x(value + 1))]
        tall[value] = np.ptp(here[:, 1]) + 1 if len(here) else 0
    assert [n for n in tall if tall[n]] == [1, 6]
    assert tall[6] == pytest.approx(2 * tall[1], abs=2) and tall[6] > 150


def test_discs_stand_at_their_sizes():
    image = charts.scatter("t", np.array([640, 768]), np.array([480, 1024]), np.array([1, 9]), ("w", "h"))
    discs = where(image, charts.PALE, 1)
    left, right = discs[discs[:, 1] > 140], discs[discs[:, 1] < 120]
    scale = (charts.HEIGHT - charts.BOTTOM - charts.TOP) / (1024 * 1.12)
    for found, (width, height) in ((left, (640, 480)), (right, (768, 1024))):
        expected = [charts.LEFT + width * scale, charts.HEIGHT - charts.BOTTOM - height * scale]
        assert np.abs(found.mean(0) - expected).max() < 1.5
    assert len(right) > 4 * len(left)


def test_axes_have_round_ticks():
    assert charts.nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert charts.Axis(0.9, 120, 0, 1, log=True).ticks() == pytest.approx([1, 2, 5, 10, 20, 50, 100])
    assert charts.Axis(1, 100, 0, 200, log=True)(10) == pytest.approx(100)
    assert charts.bins(np.array([3, 5]), whole=True).tolist() == [2.5, 3.5, 4.5, 5.5]
    assert [charts.short(v) for v in (12, 15000, 2.5e6, 0.25)] == ["12", "15k", "2.5M", "0.25"]


def test_depth_percentiles_and_words(tmp_path):
    rng = np.random.default_rng(0)
    maps = rng.lognormal(1.5, 0.8, (12, 24, 24)).astype(np.float32)
    maps[:, :6] = 0
    index = opened(tmp_path, "depth", change=lambda n, x: x.update({"depth.pco": maps[n]}))
    content = stats.read(index, "depth", 100)
    assert (content.read, content.damaged) == (12, 0) and content.valid == [75.0] * 12
    expected = np.percentile(maps[maps > 0], [1, 50, 99])
    assert stats._depth_percentiles(content) == pytest.approx(expected, rel=0.05)
    assert stats.frequent(["a red hat", "the red dog, red!", "hat"]) == [("hat", 2), ("red", 2), ("dog", 1)]


@pytest.mark.parametrize("kind", made.KINDS)
def test_stats_of_every_kind(tmp_path, kind):
    index = opened(tmp_path, kind, change=lambda n, x: x.update({"json": b"{"}) if n == 2 and "json" in x else None)
    found = stats.stats(index, 100)
    assert found.picture.shape[1] == 2 * 28 + 3 * charts.WIDTH + 2 * 14
    text = "\n".join(found.lines)
    damaged = kind in ("depth", "story")
    assert f"contents of {12 - damaged} spread over the data set, {int(damaged)} damaged" in text
    wanted = {
        "depth": ["Valid pixels: all 100", "depth (metres)"],
        "story": ["Shots a clip: all 3", "Seconds a shot: all 0.5", "Clip length: all 12", "clip 33"],
        "multiview": ["Views an object: all 4", "Camera distance: all 2", "Camera elevation: all 10"],
        "drag": ["Points a sample: all 1", "Drag length: 10 to"],
        "image": ["Aspect ratio: all 2", "Caption length: all 4", "picture 12"],
    }[kind]
    assert [words for words in wanted if words not in text] == []


def test_a_sheet_of_no_kind(tmp_path):
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as file:
        for name in ("x.cls", "y.cls"):
            member = tarfile.TarInfo(name)
            member.size = 1
            file.addfile(member, io.BytesIO(b"1"))
    index = Index.open([str(shard)])
    assert facts(index).kind is None
    assert sheet(index, 4).shape[1] == 1600 and stats.stats(index, 4).lines
    assert Reader(index).read(0).key == "x"
