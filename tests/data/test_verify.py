"""Planted damage of every kind is found once, with its reason, and nothing else is; repair keeps all that is intact."""

from __future__ import annotations

import gzip
import io
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data import kinds_made as made
from vstrain.data import tar
from vstrain.data.checks import survey as s
from vstrain.data.checks.content import EMPTY_MASK, FIELDS, MISSING, NO_DEPTH, SIZES, guess_kind
from vstrain.data.checks.repair import LEFT_OUT, repair
from vstrain.data.checks.verify import verify
from vstrain.data.index import Index, sidecar
from vstrain.data.problems import DataError
from vstrain.data.reader import Reader


def check(urls: list[str], **options):
    return verify(urls, options.pop("processes", 1), **options)


def places(url: str) -> dict[tuple[str, str], tuple[int, int]]:
    """(key, member) -> (offset, size), by the standard library's reader."""
    with tarfile.open(url) as file:
        return {tuple(m.name.split(".", 1)): (m.offset_data, m.size) for m in file.getmembers()}


def flip(url: str, at: int, bit: int = 0) -> None:
    data = bytearray(Path(url).read_bytes())
    data[at] ^= 1 << bit
    Path(url).write_bytes(data)


def named(report) -> list[tuple[str, str, str]]:
    return [(Path(f.shard).name, f.key, f.reason) for f in report.findings]


def without_index(urls: list[str]) -> list[str]:
    Path(sidecar(urls)).unlink()
    return urls


# ---- sound data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", made.KINDS)
@pytest.mark.parametrize("index", [True, False])
def test_sound_data_has_no_findings(tmp_path, kind, index):
    urls = made.write(tmp_path, kind, index=index)
    report = check(urls)
    assert report.findings == [] and report.kind == kind
    assert report.samples == 12 and report.compared == (3 if index else 0)
    assert report.sizes == [Path(url).stat().st_size for url in urls]


def test_shards_checked_alone_use_the_index_of_all(tmp_path):
    urls = made.write(tmp_path, "depth")
    offset, size = places(urls[1])[made.key(5), "mask.png"]
    flip(urls[1], offset + size - 1)
    report = check(urls[1:2])
    assert report.compared == 1
    assert named(report) == [("train-000001.tar", made.key(5), s.HASH)]


# ---- bytes ------------------------------------------------------------------------------------------------------------


def test_flipped_byte_of_a_member(tmp_path):
    urls = made.write(tmp_path, "depth")
    offset, size = places(urls[1])[made.key(6), "depth.pco"]
    flip(urls[1], offset + size // 2)
    assert named(check(urls)) == [("train-000001.tar", made.key(6), s.HASH)]
    assert named(check(urls, decode=False)) == [("train-000001.tar", made.key(6), s.HASH)]


@pytest.mark.parametrize("number", [4, 6, 7])  # first, middle and last of the shard
@pytest.mark.parametrize("member", ["depth.pco", "png"])
def test_damaged_header(tmp_path, number, member):
    urls = made.write(tmp_path, "depth")
    flip(urls[1], places(urls[1])[made.key(number), member][0] - tar.BLOCK + 3)
    report = check(urls)
    assert named(report) == [("train-000001.tar", made.key(number), s.HEADER)]
    assert report.findings[0].kept and report.lost() == {}  # the index finds the member
    report = check(without_index(urls))
    assert named(report) == [("train-000001.tar", made.key(number), s.HEADER)]
    assert report.lost() == {urls[1]: {made.key(number)}}


def test_damaged_header_in_data_of_no_kind(tmp_path):
    urls = made.write(tmp_path, "image", index=False, change=lambda n, sample: {"txt": "a", "cls.txt": "b"})
    flip(urls[0], places(urls[0])[made.key(2), "txt"][0] - tar.BLOCK)
    report = check(urls)
    assert report.kind is None
    assert named(report) == [("train-000000.tar", made.key(2), s.HEADER)]


def test_cut_off(tmp_path):
    urls = made.write(tmp_path, "depth")
    offset, _ = places(urls[1])[made.key(6), "depth.pco"]
    Path(urls[1]).write_bytes(Path(urls[1]).read_bytes()[: offset + 10])
    report = check(urls)
    assert named(report) == [("train-000001.tar", made.key(n), s.CUT_OFF) for n in (6, 7)]
    assert named(check(without_index(urls))) == [("train-000001.tar", "", s.CUT_OFF)]


def test_cut_off_in_the_middle_of_a_sample_without_index(tmp_path):
    urls = made.write(tmp_path, "depth", index=False)
    offset, _ = places(urls[1])[made.key(6), "png"]
    Path(urls[1]).write_bytes(Path(urls[1]).read_bytes()[: offset + 10])
    assert named(check(urls)) == [("train-000001.tar", made.key(6), s.CUT_OFF)]


def test_every_flipped_byte_is_found_in_its_sample(tmp_path):
    url = made.write(tmp_path, "drag", shards=1)[0]
    sound, rng = Path(url).read_bytes(), np.random.default_rng(0)
    owner = {}
    for (key, _), (offset, size) in places(url).items():
        owner |= dict.fromkeys(range(offset - tar.BLOCK, offset), ("header", key))
        owner |= dict.fromkeys(range(offset, offset + size), ("data", key))
    found = 0
    for at in rng.choice(sorted(owner), 150, replace=False).tolist():
        flip(url, at, int(rng.integers(8)))
        findings = check([url]).findings
        where, key = owner[at]
        assert [f.key for f in findings] in ([[key]] if where == "data" else [[key], []])
        assert [f.kept for f in findings] in ([[False]] if where == "data" else [[True], []])
        found += len(findings)
        Path(url).write_bytes(sound)
    assert found > 140  # of the bytes of a header only the end of its checksum field may change unseen


@pytest.mark.parametrize(
    "content", [b"", gzip.compress(b"x" * 999, mtime=0), b"no tar at all" * 99], ids=["empty", "gzip", "text"]
)
def test_shard_that_is_no_tar(tmp_path, content):
    urls = made.write(tmp_path, "depth")
    Path(urls[0]).write_bytes(content)
    report = check(urls)
    assert named(report) == [("train-000000.tar", "", s.UNREADABLE)] and report.samples == 8


def test_shard_that_points_outside(tmp_path):
    urls = made.write(tmp_path, "depth")
    with tarfile.open(urls[0], "a") as file:
        file.addfile(tarfile.TarInfo("../evil.png"), io.BytesIO())
    assert named(check(urls)) == [("train-000000.tar", "", s.UNREADABLE)]


def test_stale_and_damaged_index(tmp_path):
    urls = made.write(tmp_path, "depth")
    made.write(tmp_path / "other", "depth", shards=1, each=6)
    (tmp_path / "other" / "train-000000.tar").rename(urls[0])
    report = check(urls)
    assert named(report) == [("train-000000.tar", "", s.STALE), ("train-000001.tar", made.key(4), s.DUPLICATE),
                             ("train-000001.tar", made.key(5), s.DUPLICATE)]  # fmt: skip
    assert report.compared == 2
    Path(sidecar(urls)).write_bytes(b"VSTRIDX2 and nonsense")
    assert [f.reason for f in check(urls[1:]).findings] == [s.BAD_INDEX]


def test_bytes_behind_the_end(tmp_path):
    urls = made.write(tmp_path, "depth")
    Path(urls[0]).write_bytes(Path(urls[0]).read_bytes() + bytes(5000))
    assert named(check(urls)) == [("train-000000.tar", "", s.SIZE)]


# ---- contents -------------------------------------------------------------------------------------------------------


def lacks(name):
    return lambda sample: sample.pop(name)


def has(**members):
    return lambda sample: sample.update({name.replace("__", "."): value for name, value in members.items()})


def with_json(name, **fields):
    return lambda sample: sample[name].update(fields)


def small(name):
    return lambda sample: sample.update({name: sample[name][:-2]})


NAN = np.full((24, 24), np.nan, np.float32)
CONTENTS = {
    "not a picture": ("depth", has(png=b"nonsense"), s.DECODE),
    "json cut off": ("depth", has(json=b'{"unit":'), s.DECODE),
    "all NaN": ("depth", has(depth__pco=NAN), NO_DEPTH),
    "negative": ("depth", has(depth__pco=np.full((24, 24), -1, np.float32)), NO_DEPTH),
    "zero": ("depth", has(depth__pco=np.zeros((24, 24), np.float32)), NO_DEPTH),
    "mask all zero": ("depth", has(mask__png=np.zeros((24, 24), np.uint8)), EMPTY_MASK),
    "other size": ("depth", small("depth.pco"), SIZES),
    "mask of other size": ("depth", small("mask.png"), SIZES),
    "no depth": ("depth", lacks("depth.pco"), MISSING),
    "no picture": ("depth", lacks("png"), MISSING),
    "unknown unit": ("depth", with_json("json", unit="feet"), FIELDS),
    "json is a list": ("depth", has(json=[1]), FIELDS),
    "video damaged": ("story", has(mp4=b"nonsense"), s.DECODE),
    "shot beyond the end": ("story", lambda x: x["json"]["shots"][-1].update(end=13), SIZES),
    "shots overlap": ("story", lambda x: x["json"]["shots"][1].update(start=2), FIELDS),
    "no frame rate": ("story", with_json("json", fps=0), FIELDS),
    "view missing": ("multiview", lacks("rgba_003.png"), SIZES),
    "camera at infinity": ("multiview", lambda x: x["camera.json"]["views"][1].update(c2w=[[float("nan")] * 4] * 4), FIELDS),
    "nothing in sight": ("multiview", lambda x: [v.fill(0) for k, v in x.items() if "rgba" in k], EMPTY_MASK),
    "view of other size": ("multiview", small("rgba_002.png"), SIZES),
    "no cameras": ("multiview", lacks("camera.json"), MISSING),
    "nothing may move": ("drag", has(mask__png=np.zeros((24, 24), np.uint8)), EMPTY_MASK),
    "handle without target": ("drag", with_json("points.json", targets=[]), FIELDS),
    "frames differ": ("drag", small("tgt.webp"), SIZES),
    "picture missing": ("image", lacks("png"), MISSING),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
def test_contents(tmp_path, name):
    kind, plant, reason = CONTENTS[name]

    def change(n, sample):
        if n == 5:
            plant(sample)

    report = check(made.write(tmp_path, kind, change=change))
    assert named(report) == [("train-000001.tar", made.key(5), reason)]
    assert report.kind == kind
    undecoded = check(report.shards, decode=False)
    assert named(undecoded) == (named(report) if reason == MISSING else [])


def test_half_a_depth_map_of_nan_is_sound(tmp_path):
    half = np.where(np.arange(24)[:, None] < 12, np.nan, 1).astype(np.float32) * np.ones((24, 24), np.float32)
    assert check(made.write(tmp_path, "depth", change=lambda n, x: x.update({"depth.pco": half}))).sound


def test_valid_only_where_the_mask_is_zero(tmp_path):
    depth, mask = np.zeros((24, 24), np.float32), np.full((24, 24), 255, np.uint8)
    depth[:3], mask[:3] = 1, 0
    report = check(
        made.write(tmp_path, "depth", 1, change=lambda n, x: x.update({"depth.pco": depth, "mask.png": mask}))
    )
    assert [f.reason for f in report.findings] == [NO_DEPTH] * 4
    assert "only where mask.png is zero" in report.findings[0].detail[0]


def test_duplicate_keys(tmp_path):
    urls = made.write(tmp_path, "depth", change=lambda n, x: x.update(__key__=made.key(n % 11)))
    assert named(check(urls)) == [("train-000002.tar", made.key(0), s.DUPLICATE)]
    urls = made.write(tmp_path / "one", "depth", 1, change=lambda n, x: x.update(__key__=made.key(n % 3)))
    assert named(check(urls)) == [("train-000000.tar", made.key(0), s.TWICE)]


def test_duplicates_beside_other_damage(tmp_path):
    urls = made.write(tmp_path, "depth", change=lambda n, x: x.update(__key__=made.key(n % 10)))
    flip(urls[2], places(urls[2])[made.key(9), "png"][0])
    assert named(check(urls)) == [
        ("train-000002.tar", made.key(9), s.HASH),
        ("train-000002.tar", made.key(0), s.DUPLICATE),
        ("train-000002.tar", made.key(1), s.DUPLICATE),
    ]
    flip(urls[2], places(urls[2])[made.key(0), "png"][0] - 500)  # still whole, by the index: one finding, not two
    assert (
        named(check(urls))[1:]
        == named(check(urls, processes=2))[1:]
        == [
            ("train-000002.tar", made.key(0), s.DUPLICATE),
            ("train-000002.tar", made.key(1), s.DUPLICATE),
        ]
    )


def test_a_damaged_sample_does_not_make_its_namesake_a_duplicate(tmp_path):
    urls = made.write(tmp_path, "depth", change=lambda n, x: x.update(__key__=made.key(n % 11)))
    flip(urls[0], places(urls[0])[made.key(0), "png"][0])
    assert named(check(urls)) == [("train-000000.tar", made.key(0), s.HASH)]


def test_several_flaws_name_the_sample_once(tmp_path):
    def change(n, sample):
        if n == 5:
            sample.update({"depth.pco": NAN, "json": {"unit": "feet"}})

    (finding,) = check(made.write(tmp_path, "depth", change=change)).findings
    assert finding.reasons == (NO_DEPTH, FIELDS) and len(finding.detail) == 2


def plant_everything(folder: Path) -> tuple[list[str], set[str]]:
    """A data set of 40 samples with damage of many sorts, and the keys that are lost."""

    def change(n, sample):
        if n == 3:
            sample["depth.pco"] = NAN
        if n == 39:
            sample["__key__"] = made.key(0)

    urls = made.write(folder, "depth", shards=10, change=change)
    flip(urls[2], places(urls[2])[made.key(9), "png"][0] + 3)
    flip(urls[4], places(urls[4])[made.key(17), "png"][0] - 500)  # a header, whose member the index finds
    Path(urls[5]).write_bytes(Path(urls[5]).read_bytes()[: places(urls[5])[made.key(22), "json"][0] + 1])
    Path(urls[7]).write_bytes(b"")
    return urls, {made.key(n) for n in (3, 9, 22, 23, 28, 29, 30, 31)}


def test_processes_do_not_matter(tmp_path):
    urls, _ = plant_everything(tmp_path)
    seen = []
    one = check(urls, progress=lambda *step: seen.append(step))
    two = check(urls, processes=2)
    assert one == two and len(one.findings) == 7
    assert seen == [("shards", n + 1, 10) for n in range(10)]
    one.save(tmp_path / "findings.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert [(Path(x["shard"]).name, x["key"], x["reason"]) for x in lines] == named(one)
    assert "vstrain data repair" in one.text() and made.key(9) in one.text()


def test_kind_is_guessed_from_what_most_samples_have():
    assert guess_kind({("png", "depth.pco", "json"): 6, ("png", "json"): 4}) == "depth"
    assert guess_kind({("mp4", "json"): 3}) == "story" and guess_kind({("mp4", "json", "txt"): 3}) == "clip"
    assert guess_kind({("jpg", "json", "txt"): 3}) == "image"
    assert guess_kind({("cls",): 3}) is None and guess_kind({}) is None


# ---- repair ---------------------------------------------------------------------------------------------------------


def members(urls: list[str]) -> dict[str, dict[str, bytes]]:
    index = Index.build(urls)
    reader = Reader(index)
    samples = [reader.read(n) for n in range(len(index))]
    return {sample.key: {name: sample.raw(name) for name in list(sample)[1:]} for sample in samples}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("processes", [1, 2])
def test_repair_keeps_what_is_intact(tmp_path, processes):
    original = members(made.write(tmp_path / "sound", "depth", shards=10))
    urls, lost = plant_everything(tmp_path / "source")
    before, out = tree(tmp_path / "source"), tmp_path / "out"
    result = repair(urls, out, processes)
    shards = sorted(map(str, out.glob("*.tar")))
    kept = members(shards)
    assert set(kept) == {made.key(n) for n in range(39)} - lost
    assert kept == {key: original[key] for key in kept}
    assert check(shards).sound and check(shards).compared == 9
    assert [Path(url).name for url in shards] == [f"train-{n:06d}.tar" for n in range(10) if n != 7]
    for n in (1, 3, 6, 8):
        assert (out / Path(urls[n]).name).read_bytes() == Path(urls[n]).read_bytes()
    assert (result.kept, result.copied, result.rewritten, result.dropped) == (len(kept), 4, 5, [urls[7]])
    assert tree(tmp_path / "source") == before
    again = tree(out)
    assert repair(urls, out, processes).text() == result.text() and tree(out) == again
    left = {line["key"] for line in map(json.loads, (out / LEFT_OUT).read_text().splitlines())}
    assert left == {key for key in lost if int(key[1:]) < 28 or int(key[1:]) > 31} | {"", made.key(0)}


def test_repair_of_sound_data_is_a_copy(tmp_path):
    urls = made.write(tmp_path / "source", "story")
    result = repair(urls, tmp_path / "out", 1)
    assert (result.copied, result.rewritten, result.left_out) == (3, 0, [])
    for url in urls:
        assert (tmp_path / "out" / Path(url).name).read_bytes() == Path(url).read_bytes()
    assert Index.saved(sorted(map(str, (tmp_path / "out").glob("*.tar")))).fingerprint == Index.build(urls).fingerprint


KILLED = """
import os, signal, sys
from pathlib import Path
from vstrain.data.checks.repair import repair
left, rename = int(sys.argv[1]), Path.rename
def counted(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(self, target)
Path.rename = counted
repair(sys.argv[3:], Path(sys.argv[2]), 1)
"""


def test_killed_at_every_rename_and_run_again(tmp_path):
    urls, _ = plant_everything(tmp_path / "source")
    repair(urls, tmp_path / "whole", 1)
    whole, kills = tree(tmp_path / "whole"), 0
    out = tmp_path / "out"
    for allowed in (0, 0, 1, 3, 2, 0, 3, 1, 99):  # renames until the next kill; the record is the first
        done = subprocess.run([sys.executable, "-c", KILLED, str(allowed), str(out), *urls], timeout=60)
        kills += done.returncode == -signal.SIGKILL
        if done.returncode == 0:
            break
        for path in out.glob("*.tar"):
            assert path.read_bytes() == whole[path.name]
    assert kills == 8 and tree(out) == whole


def test_nothing_is_written_outside(tmp_path):
    urls = made.write(tmp_path / "source", "depth", index=False)
    with tarfile.open(urls[0], "a") as file:
        file.addfile(tarfile.TarInfo("../../evil.png"), io.BytesIO())
    before = set(tree(tmp_path))
    result = repair(urls, tmp_path / "a" / "out", 1)
    assert result.dropped == [urls[0]] and "points outside" in result.text()
    assert all(name.startswith("a/out/") for name in set(tree(tmp_path)) - before)


def test_folders_that_are_refused(tmp_path):
    urls = made.write(tmp_path / "source", "depth")
    before = tree(tmp_path / "source")

    def refused(out: Path, sentence: str, shards=urls) -> None:
        with pytest.raises(DataError, match=sentence):
            repair(shards, out, 1)

    refused(tmp_path / "source", "never written to")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    refused(tmp_path / "link", "never written to")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    refused(tmp_path / "full", "is not empty")
    refused(tmp_path / "full" / "notes.txt", "cannot be written")
    other = made.write(tmp_path / "other", "depth", 1)
    refused(tmp_path / "out", "have one name", urls + other)
    refused(tmp_path / "out", "named twice", [urls[0], urls[0]])
    repair(urls, tmp_path / "out", 1)
    refused(tmp_path / "out", "other shards", urls[1:])
    (tmp_path / "out" / "train-000000.tar").unlink()
    (tmp_path / "out" / "train-000000.tar").symlink_to(tmp_path / "full" / "notes.txt")
    refused(tmp_path / "out", "is a link")
    assert tree(tmp_path / "source") == before
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_sources_that_changed_are_refused(tmp_path):
    urls = made.write(tmp_path / "source", "depth")
    repair(urls, tmp_path / "out", 1)
    flip(urls[0], 600)
    with pytest.raises(DataError, match="have changed since"):
        repair(urls, tmp_path / "out", 1)


def test_nothing_intact(tmp_path):
    urls = made.write(tmp_path / "source", "depth", 1)
    Path(urls[0]).write_bytes(b"")
    with pytest.raises(DataError, match="nothing in these shards is intact"):
        repair(urls, tmp_path / "out", 1)


def test_shards_on_a_web_server(tmp_path, monkeypatch):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    paths = made.write(tmp_path / "source", "depth")
    flip(paths[1], places(paths[1])[made.key(6), "png"][0])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path / "source"))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        urls = [f"http://127.0.0.1:{server.server_port}/{Path(path).name}" for path in paths]
        report = check(urls)
        assert [(f.shard, f.key, f.reason) for f in report.findings] == [(urls[1], made.key(6), s.HASH)]
        assert report.compared == 3
        assert repair(urls, tmp_path / "out", 1).kept == 11
    finally:
        server.shutdown()
    assert (tmp_path / "out" / "train-000000.tar").read_bytes() == Path(paths[0]).read_bytes()
    assert check(sorted(map(str, (tmp_path / "out").glob("*.tar")))).sound


def test_killed_reader_is_one_sentence(tmp_path, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

    def broken(*_):
        raise BrokenProcessPool

    monkeypatch.setattr(ProcessPoolExecutor, "map", broken)
    with pytest.raises(DataError, match="fewer with processes="):
        check(made.write(tmp_path, "depth"), processes=2)


def test_random_damage_costs_only_the_samples_it_touches(tmp_path):
    urls = made.write(tmp_path / "source", "drag", shards=2, each=6)
    sound, original = Path(urls[0]).read_bytes(), members(urls)
    where, rng = places(urls[0]), np.random.default_rng(0)
    for round_ in range(40):
        data = bytearray(sound)
        touched = set()
        for _ in range(int(rng.integers(1, 4))):
            at, length = int(rng.integers(0, len(data))), int(rng.integers(1, 3000))
            data[at : at + length] = rng.bytes(len(data[at : at + length]))
            touched |= {k for (k, _), (off, size) in where.items() if off - tar.BLOCK < at + length and at < off + size}
        if round_ % 4 == 3:
            end = int(rng.integers(len(data) // 4, len(data)))
            data = data[:end]
            touched |= {k for (k, _), (off, size) in where.items() if off + size > end}
        Path(urls[0]).write_bytes(data)
        report = check(urls)
        keys = [finding.key for finding in report.findings if finding.key]
        assert len(keys) == len(set(keys)) and report.compared == 2
        assert report.lost().get(urls[0], set()) <= touched
        out = tmp_path / f"out{round_}"
        repair(urls, out, 1)
        shards = sorted(map(str, out.glob("*.tar")))
        kept = members(shards)
        assert check(shards).sound and kept == {key: original[key] for key in kept}
        assert set(original) - set(kept) == report.lost().get(urls[0], set())
