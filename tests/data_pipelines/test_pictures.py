"""Unlabelled pictures: what counts, what is left out and why, and shards that hold the very bytes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from data_pipelines.pictures import scan as scanning
from data_pipelines.pictures.run import run
from data_pipelines.pictures.sets import SETS
from tests.data_pipelines.pictures_world import collect, config, encoded, scene, tar, write
from tests.data_pipelines.production_world import tree
from vstrain.config.problems import InputError
from vstrain.data import codecs

NEEDS_LMDB = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('lmdb')", reason="needs lmdb")


def stored(out) -> dict[str, dict[str, bytes]]:
    """Every sample of `out`: key -> member -> bytes."""
    samples = {}
    for shard in sorted(Path(out).glob("train-*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                key, _, name = member.name.partition(".")
                samples.setdefault(key, {})[name] = archive.extractfile(member).read()
    return samples


def summary_of(out) -> dict:
    """The summary, when it adds up with the shards and the ledger."""
    summary = json.loads((Path(out) / "summary.json").read_text())
    ledger = [json.loads(line) for line in (Path(out) / "rejected.jsonl").read_text().splitlines()]
    reasons = {}
    for line in ledger:
        reasons[line["reason"]] = reasons.get(line["reason"], 0) + 1
        assert line["sample"] and line["why"] and "\n" not in line["why"]
    assert reasons == summary["rejected"] and summary["kept"]["train"] == len(stored(out))
    assert summary["found"] == summary["kept"]["train"] + len(ledger) + summary["left_out"]
    return summary


def folder(root: Path, count: int) -> Path:
    for seed in range(count):
        write(root / f"{seed % 3}/{seed:03d}.jpg", encoded(scene(seed)))
    return root


def test_bytes_stay_as_they_are_in_a_folder_a_tar_and_a_parquet_file(tmp_path):
    forms = {"a.jpg": "JPEG", "b.JPEG": "JPEG", "c.png": "PNG", "d.webp": "WEBP"}
    data = {name: encoded(scene(seed), form) for seed, (name, form) in enumerate(forms.items())}
    for name, one in data.items():
        write(tmp_path / f"folder/x/{name}", one)
    write(tmp_path / "folder/x/notes.txt", b"left alone")
    tar(tmp_path / "tars/x.tar", {f"./{name}": one for name, one in data.items()} | {"a.json": b"{}"})
    table = pa.table({"image": [{"bytes": one, "path": name} for name, one in data.items()], "label": [1, 2, 3, 4]})
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    parquet.write_table(pa.table({"jpg": list(data.values())}), tmp_path / "plain.parquet")
    for number, source in enumerate(("folder", "tars", "rows.parquet", "plain.parquet")):
        collect(tmp_path / source, tmp_path / f"out{number}")
        samples = stored(tmp_path / f"out{number}")
        assert sorted(one for sample in samples.values() for name, one in sample.items() if name != "json") == sorted(
            data.values()
        )
        assert not summary_of(tmp_path / f"out{number}")["rejected"]
        if number < 2:
            assert {key: set(sample) for key, sample in samples.items()} == {
                "x_a": {"jpg", "json"}, "x_b": {"jpg", "json"}, "x_c": {"png", "json"}, "x_d": {"webp", "json"}
            }  # fmt: skip
    assert json.loads(stored(tmp_path / "out0")["x_a"]["json"]) == {
        "source": "folder",
        "look": "real",
        "file": "x/a.jpg",
    }
    assert json.loads((tmp_path / "out0/summary.json").read_text())["pictures"].endswith("other files: 1 .txt")


def test_pictures_of_one_name_are_all_kept(tmp_path):
    for seed, name in enumerate(("a.jpg", "a.png", "b c.jpg", "b_c.jpg")):
        write(tmp_path / "one" / name, encoded(scene(seed), "PNG" if name.endswith("png") else "JPEG"))
    write(tmp_path / "two/a.jpg", encoded(scene(9)))
    collect([str(tmp_path / "one"), str(tmp_path / "two")], tmp_path / "out")
    assert len(stored(tmp_path / "out")) == 5 == summary_of(tmp_path / "out")["kept"]["train"]


def test_what_cannot_be_stored_as_it_is_becomes_an_upright_jpeg(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = (scene(1)[..., 0].astype(np.uint16) << 8) + 7
    alpha = np.dstack([scene(2), np.full((96, 128), 255, np.uint8)])
    write(tmp_path / "in/turned.jpg", encoded(scene(0), exif=turned))
    write(tmp_path / "in/deep.png", encoded(deep, "PNG"))
    write(tmp_path / "in/alpha.png", encoded(alpha, "PNG"))
    write(tmp_path / "in/old.bmp", encoded(scene(3), "BMP"))
    collect(tmp_path / "in", tmp_path / "out")
    samples = stored(tmp_path / "out")
    rgb = {key: codecs.decode("jpg", sample["jpg"]).astype(int) for key, sample in samples.items()}
    expected = {
        "turned": np.rot90(scene(0), -1),
        "deep": np.dstack([scene(1)[..., 0]] * 3),
        "alpha": scene(2),
        "old": scene(3),
    }
    assert rgb.keys() == expected.keys()
    for key, picture in expected.items():
        assert rgb[key].shape == picture.shape and np.abs(rgb[key] - picture).mean() < 3
    notes = summary_of(tmp_path / "out")["notes"]
    assert notes["turned upright by EXIF and encoded anew"] == 1 and sum(notes.values()) == 4


def test_max_side_shrinks_and_leaves_smaller_ones_alone(tmp_path):
    small = encoded(scene(1, 48, 64))
    write(tmp_path / "in/large.png", encoded(scene(0, 150, 200), "PNG"))
    write(tmp_path / "in/small.jpg", small)
    collect(tmp_path / "in", tmp_path / "out", max_side=100, min_side=32)
    samples = stored(tmp_path / "out")
    assert codecs.decode("jpg", samples["large"]["jpg"]).shape == (75, 100, 3) and samples["small"]["jpg"] == small


BAD = {
    "empty.jpg": (b"", "unreadable image"),
    "cut.jpg": (encoded(scene(0))[:2000], "unreadable image"),
    "page.jpg": (b"<html>not found</html>", "unreadable image"),
    "cut.png": (encoded(scene(0), "PNG")[:3000], "unreadable image"),
    "small.jpg": (encoded(scene(1, 63, 80)), "too small"),
    "wide.jpg": (encoded(scene(2, 64, 257)), "too long and narrow"),
    "tall.jpg": (encoded(scene(3, 257, 64)), "too long and narrow"),
    "thread.jpg": (encoded(scene(4, 20, 300)), "too small"),  # the first reason counts
    "grey.jpg": (encoded(np.full((80, 80, 3), 130, np.uint8)), "nearly one colour"),
    "noise.png": (
        encoded(np.random.default_rng(0).integers(126, 130, (80, 80, 3), dtype=np.uint8), "PNG"),
        "nearly one colour",
    ),
}


def test_every_planted_fault_is_counted_once_with_its_reason(tmp_path):
    for name, (data, _) in BAD.items():
        write(tmp_path / "in" / name, data)
    for seed, size in ((10, (64, 80)), (11, (64, 256)), (12, (256, 64))):  # just within the limits
        write(tmp_path / f"in/good{seed}.jpg", encoded(scene(seed, *size)))
    result = collect(tmp_path / "in", tmp_path / "out")
    assert set(stored(tmp_path / "out")) == {"good10", "good11", "good12"}
    ledger = {row["sample"]: row for row in map(json.loads, (tmp_path / "out/rejected.jsonl").read_text().splitlines())}
    assert {name: row["reason"] for name, row in ledger.items()} == {name: reason for name, (_, reason) in BAD.items()}
    assert all(str(tmp_path / "in" / name) in row["why"] for name, row in ledger.items())
    assert "63" in ledger["small.jpg"]["why"] and "min_side=64" in ledger["small.jpg"]["why"]
    summary_of(tmp_path / "out")
    assert "found 13 = kept 3 + rejected 10 + left out by limit 0" in result.text


def test_near_duplicates_are_found_and_the_first_by_name_stays(tmp_path):
    source = folder(tmp_path / "in", 30)
    rgb = scene(4, 96, 128)
    copies = {
        "z/same.jpg": encoded(rgb),
        "z/worse.jpg": encoded(rgb, quality=40),
        "z/other.png": encoded(rgb, "PNG"),
        "z/smaller.jpg": encoded(np.asarray(Image.fromarray(rgb).resize((96, 72), Image.LANCZOS))),
        "z/larger.webp": encoded(
            np.asarray(Image.fromarray(rgb).resize((300, 225), Image.BICUBIC)), "WEBP", quality=80
        ),
    }
    for name, data in copies.items():
        write(source / name, data)
    firsts = dict.fromkeys(copies, "1/004.jpg")
    for seed in range(10, 20):
        write(source / f"z/again{seed}.jpg", encoded(scene(seed), quality=70))
        firsts[f"z/again{seed}.jpg"] = f"{seed % 3}/{seed:03d}.jpg"
    collect(source, tmp_path / "out")
    assert set(stored(tmp_path / "out")) == {f"{seed % 3}_{seed:03d}" for seed in range(30)}
    ledger = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert {row["sample"] for row in ledger} == set(firsts) and {row["reason"] for row in ledger} == {"near-duplicate"}
    assert all(f"{firsts[row['sample']]}, which stays" in row["why"] for row in ledger)
    summary_of(tmp_path / "out")
    collect(source, tmp_path / "all", duplicate_bits=None)
    assert len(stored(tmp_path / "all")) == 45


def test_the_bytes_do_not_depend_on_who_does_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "PIECE", 7)
    source = folder(tmp_path / "in", 24)
    write(source / "z.jpg", encoded(scene(3), quality=50))
    write(source / "y.jpg", b"")
    keys = {"shard_samples": 5}
    collect(source, tmp_path / "pool", executor="pool", processes=2, **keys)
    collect(source, tmp_path / "alone", executor="in_process", **keys)
    for part in ("2/2", "1/2"):
        result = collect(source, tmp_path / "parts", part=part, **keys)
        assert (result.outcome.summary is None) == (part == "2/2")
    assert tree(tmp_path / "pool") == tree(tmp_path / "alone") == tree(tmp_path / "parts")
    assert summary_of(tmp_path / "pool")["rejected"] == {"near-duplicate": 1, "unreadable image": 1}
    ledger = [json.loads(line) for line in (tmp_path / "pool/rejected.jsonl").read_text().splitlines()]
    assert ["0 bytes" in row["why"] for row in ledger if row["sample"] == "y.jpg"] == [True]


def test_a_stopped_job_goes_on_and_leaves_the_same_bytes(tmp_path, monkeypatch, capsys):
    source = folder(tmp_path / "in", 24)
    monkeypatch.setattr(scanning, "PIECE", 5)
    collect(source, tmp_path / "whole", shard_samples=4)
    for stage, at in (("scan", 10), ("train", 8)):

        def stop(now, done, total, stage=stage, at=at):
            if (now, done) == (stage, at):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(config(source, out=str(tmp_path / "out"), shard_samples=4), stop)
        said = {"scan": "stopped: 10 of 24 pictures were looked at", "train": "stopped: 2 of 6 shards"}[stage]
        assert said in capsys.readouterr().err
    calls = []
    run(config(source, out=str(tmp_path / "out"), shard_samples=4), lambda *call: calls.append(call))
    assert calls[0] == ("scan", 24, 24) and ("train", 8, 24) in calls
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_killed_by_force_in_the_first_pass(tmp_path):
    source = tmp_path / "in"
    data = [encoded(scene(seed, 240, 320)) for seed in range(8)]
    for number in range(1600):
        write(source / f"{number:04d}.jpg", data[number % 8])
    line = [sys.executable, "-m", "vstrain.cli", "data", "pictures", f"source={source}", "executor=in_process"]
    where = {"cwd": Path(__file__).parents[2], "stderr": subprocess.DEVNULL}
    job = subprocess.Popen([*line, f"out={tmp_path / 'out'}"], **where)
    while not list(tmp_path.glob("out.scan/*.npz")):
        assert job.poll() is None
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "out").exists()
    for out in ("out", "whole"):
        subprocess.run([*line, f"out={tmp_path / out}"], check=True, **where)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert summary_of(tmp_path / "out")["rejected"] == {"near-duplicate": 1592}


def test_two_jobs_look_at_every_picture_once(tmp_path, monkeypatch):
    """A piece that another process holds is waited for, not done twice."""
    source = folder(tmp_path / "in", 6)
    monkeypatch.setattr(scanning, "PIECE", 3)
    keys = {"out": str(tmp_path / "out"), "executor": "in_process"}
    pictures_done = multiprocessing.get_context("fork").Queue()
    real = scanning._examine_all

    def slow(pictures, digest):
        pictures_done.put(len(pictures))
        time.sleep(0.3)
        return real(pictures, digest)

    monkeypatch.setattr(scanning, "_examine_all", slow)
    jobs = [
        multiprocessing.get_context("fork").Process(target=run, args=(config(source, **keys), lambda *_: None))
        for _ in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    assert sum(pictures_done.get() for _ in range(2)) == 6 and pictures_done.empty()
    assert len(stored(tmp_path / "out")) == 6


def test_other_limits_need_no_new_look_and_other_pictures_do(tmp_path, monkeypatch):
    source = folder(tmp_path / "in", 6)
    write(source / "small.jpg", encoded(scene(9, 40, 40)))
    collect(source, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out.scan").glob("*.npz")}
    monkeypatch.setattr(scanning, "_examine", lambda picture: pytest.fail("looked again"))
    collect(source, tmp_path / "out", min_side=32, overwrite=True)
    assert len(stored(tmp_path / "out")) == 7
    monkeypatch.undo()
    write(source / "more.jpg", encoded(scene(10)))
    collect(source, tmp_path / "out", overwrite=True)
    assert before.keys() == {"000000.npz"} and len(stored(tmp_path / "out")) == 7
    for name, data, says in (
        ("a", before["000000.npz"], "is of other pictures; remove"),
        ("b", before["000000.npz"][:400], "is damaged; remove it"),
    ):
        collect(source, tmp_path / name)
        write(tmp_path / f"{name}.scan/000000.npz", data)
        with pytest.raises(InputError, match=f"{name}.scan/000000.npz: {says}"):
            collect(source, tmp_path / name)
    (tmp_path / "taken.scan").mkdir()
    (tmp_path / "taken.scan/thesis.tex").touch()
    with pytest.raises(InputError, match="is not empty and holds no scan of pictures"):
        collect(source, tmp_path / "taken")


def test_a_picture_that_changed_between_the_passes_is_not_stored(tmp_path):
    source = folder(tmp_path / "in", 6)

    def spoil(stage, done, total):
        if stage == "train" and done == 0:
            write(source / "0/003.jpg", encoded(scene(77)))
            (source / "1/004.jpg").unlink()

    run(config(source, out=str(tmp_path / "out")), spoil)
    assert set(stored(tmp_path / "out")) == {"0_000", "1_001", "2_002", "2_005"}
    assert summary_of(tmp_path / "out")["rejected"] == {"changed since it was looked at": 2}


def test_limit_is_a_random_choice_that_is_made_before_anything_is_read(tmp_path):
    source = folder(tmp_path / "in", 20)
    chosen = []
    for seed in (0, 0, 1):
        collect(source, tmp_path / f"out{len(chosen)}", limit=8, seed=seed)
        assert summary_of(tmp_path / f"out{len(chosen)}")["left_out"] == 12
        with np.load(tmp_path / f"out{len(chosen)}.scan/000000.npz") as known:
            assert len(known["facts"]) == 8
        chosen.append(set(stored(tmp_path / f"out{len(chosen)}")))
    assert chosen[0] == chosen[1] != chosen[2]


def test_rows_of_a_group_stay_together_and_other_pictures_part(tmp_path):
    rows = pa.table({"jpg": [encoded(scene(seed)) for seed in range(24)]})
    parquet.write_table(rows, tmp_path / "rows.parquet", row_group_size=6)
    collect(tmp_path / "rows.parquet", tmp_path / "out")
    groups = [int(key.rpartition("_")[2]) // 6 for key in stored(tmp_path / "out")]
    assert (
        sorted(groups) == sorted(list(range(4)) * 6)
        and sum(a != b for a, b in zip(groups, groups[1:], strict=False)) == 3
    )
    collect(folder(tmp_path / "in", 24), tmp_path / "parted")
    order = [int(key.rpartition("_")[2]) for key in stored(tmp_path / "parted")]
    assert order != sorted(order) and sorted(order) == list(range(24))


DOWNLOADS = {  # set -> (names that count, names that do not)
    "bdd100k": (
        ["images/100k/train/0000f77c-6257be58.jpg", "bdd100k/frames/train/0000f77c-6257be58/0000001.jpg"],
        ["images/100k/val/b1c66a42-6f7d68ca.jpg", "labels/100k/train/0000f77c.png", "images/100k/test/c.jpg"],
    ),
    "google_landmarks": (
        ["train/0/a/f/0af3b00f4e5a1b2c.jpg", "9/9/9/9990b00f4e5a1b2c.jpg"],
        ["index/0/a/f/0af3b00f4e5a1b2c.jpg", "test/0/a/f/0af3b00f4e5a1b2c.jpg", "train/0/a/e/0af3b00f4e5a1b2c.jpg"],
    ),
    "imagenet21k": (
        ["n01440764/n01440764_10.JPEG", "winter21_whole/n00004475/n00004475_32.JPEG"],
        ["val/n01440764/n01440764_11.JPEG", "n01440764/n01440765_10.JPEG"],
    ),
    "lsun": (
        [f"bedroom_train/{'0' * 40}.webp", f"church_outdoor_train_lmdb/0/a/{'ab' * 20}.jpg"],
        [f"bedroom_val/{'1' * 40}.webp", f"church_outdoor_val_lmdb/0/a/{'cd' * 20}.jpg", "bedroom_train/other.jpg"],
    ),
    "objects365": (
        ["train/patch0/objects365_v1_00000000.jpg", "images/v2/patch50/objects365_v2_01234567.jpg"],
        ["val/patch0/objects365_v1_00000001.jpg", "train/other/objects365_v1_00000002.jpg"],
    ),
    "openimages": (
        ["train/0a1b2c3d4e5f6789.jpg", "train_a/fa1b2c3d4e5f6789.jpg"],
        ["validation/0a1b2c3d4e5f6780.jpg", "test/0a1b2c3d4e5f6781.jpg", "train/x.jpg"],
    ),
    "places365": (
        ["data_256/a/airfield/00000001.jpg", "places365_standard/train/airfield/00000001.jpg", "data_large/b/bar/indoor/3.jpg"],
        ["val_256/Places365_val_00000001.jpg", "test_large/Places365_test_00000001.jpg", "places365_standard/val/bar/2.jpg"],
    ),
    "sa1b": (["sa_000020/sa_223750.jpg", "raw/sa_000021/sa_223751.jpg"], ["sa_000020/preview.jpg"]),
}  # fmt: skip
IN_ARCHIVES = {
    "google_landmarks": ("train/images_000.tar", "0/a/f/0af3b00f4e5a1b2c.jpg"),
    "imagenet21k": ("n01440764.tar", "n01440764_10.JPEG"),
    "objects365": ("train/patch0.tar", "patch0/objects365_v1_00000000.jpg"),
    "openimages": ("train_0.tar", "train_0/0a1b2c3d4e5f6789.jpg"),
    "places365": ("train_256_places365standard.tar", "data_256/a/airfield/00000001.jpg"),
    "sa1b": ("sa_000020.tar", "./sa_223750.jpg"),
}


def test_every_set_but_your_own_has_a_download_here():
    assert set(DOWNLOADS) == set(SETS) - {"own"}


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_set_takes_its_training_pictures(name, tmp_path):
    taken, left = DOWNLOADS[name]
    for seed, path in enumerate([*taken, *left]):
        write(tmp_path / "in" / path, encoded(scene(seed)))
    result = collect(tmp_path / "in", tmp_path / "out", layout=name)
    facts = [json.loads(sample["json"]) for sample in stored(tmp_path / "out").values()]
    assert {one["file"] for one in facts} == set(taken) and {one["source"] for one in facts} == {name}
    assert f"{SETS[name].title}: {len(taken)} pictures; {len(left)} others are not of the set" in result.text
    summary_of(tmp_path / "out")


@pytest.mark.parametrize("name", IN_ARCHIVES)
def test_a_set_is_read_from_its_archives(name, tmp_path):
    archive, member = IN_ARCHIVES[name]
    tar(tmp_path / "in" / archive, {member: encoded(scene(1)), member.rpartition(".")[0] + ".json": b"{}"})
    collect(tmp_path / "in", tmp_path / "out", layout=name)
    (sample,) = stored(tmp_path / "out").values()
    assert sample["jpg"] == encoded(scene(1))


@pytest.mark.parametrize("name", DOWNLOADS)
def test_another_tree_is_refused_with_what_was_expected_and_found(name, tmp_path):
    with pytest.raises(InputError) as error:
        collect(folder(tmp_path / "in", 2), tmp_path / "out", layout=name)
    said = (
        f"this is not the layout of {SETS[name].title}: expected {SETS[name].expected}; found 2 other pictures, e.g. "
    )
    assert said in str(error.value) and "\n" not in str(error.value)


@NEEDS_LMDB
def test_lsun_is_read_from_its_databases(tmp_path):
    import lmdb

    data = {f"{seed:040x}": encoded(scene(seed), "WEBP" if seed else "JPEG") for seed in range(4)}
    for part, keys in (("bedroom_train_lmdb", list(data)[:3]), ("bedroom_val_lmdb", list(data)[3:])):
        (tmp_path / "in").mkdir(exist_ok=True)
        with (
            lmdb.open(str(tmp_path / "in" / part), map_size=1 << 20) as database,
            database.begin(write=True) as writing,
        ):
            for key in keys:
                writing.put(key.encode(), data[key])
    collect(tmp_path / "in", tmp_path / "out", layout="lsun", processes=2)
    samples = stored(tmp_path / "out")
    assert {key.rpartition("_")[2]: sample.get("webp") or sample["jpg"] for key, sample in samples.items()} == {
        key: data[key] for key in list(data)[:3]
    }


def test_a_database_without_its_reader_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    write(tmp_path / "in/bedroom_train_lmdb/data.mdb", b"x")
    with pytest.raises(InputError, match=r"bedroom_train_lmdb: is an LMDB database.*pip install 'vstrain\[lmdb\]'"):
        collect(tmp_path / "in", tmp_path / "out", layout="lsun")


def test_a_source_that_cannot_be_used_gets_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "zipped/a.tar.gz", b"\x1f\x8b")
    write(tmp_path / "bad/a.tar", b"no tar at all" * 100)
    write(tmp_path / "rows/a.parquet", b"PAR")
    parquet.write_table(pa.table({"a": [b"x"], "b": [b"y"]}), tmp_path / "two.parquet")
    for source, says in (
        ("gone", "no such source"),
        ("empty", "no pictures there: expected jpg"),
        ("zipped", "a.tar.gz: single pictures of a compressed archive cannot be read; unpack it"),
        ("bad", "a.tar: is not a tar file"),
        ("rows", "a.parquet: is not a parquet file"),
        (
            "two.parquet",
            r"2 columns hold bytes \(columns with bytes: a, b\); name the one of the pictures with column=",
        ),
    ):
        with pytest.raises(InputError, match=says) as error:
            collect(tmp_path / source, tmp_path / "out")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="did you mean places365"):
        config(tmp_path, layout="place365")


def test_nothing_kept_is_an_error_that_keeps_the_list(tmp_path):
    write(tmp_path / "in/a.jpg", b"")
    with pytest.raises(InputError, match=r"all 1 samples were rejected \(1 unreadable image\).*a.jpg: .*0 bytes"):
        collect(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists() and (tmp_path / "out.rejected.jsonl").read_text().count("\n") == 1


def test_damage_in_a_tar_costs_its_own_member(tmp_path):
    path = tar(tmp_path / "in/a.tar", {f"{seed}.jpg": encoded(scene(seed)) for seed in range(3)})
    data = bytearray(path.read_bytes())
    at = data.index(b"1.jpg\0")
    data[at + 150] ^= 0xFF
    path.write_bytes(data)
    collect(tmp_path / "in", tmp_path / "out")
    assert set(stored(tmp_path / "out")) == {"a_0", "a_2"} and summary_of(tmp_path / "out")["rejected"] == {
        "damaged tar": 1
    }
