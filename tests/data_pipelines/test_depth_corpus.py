"""From a folder, a manifest or a saved data set to shards: what comes back, is counted, is refused."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import datasets
import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from data_pipelines.depth_corpus.run import Unfinished, run
from tests.data_pipelines.depth_corpus_world import config, convert, scene, write_folder, write_png
from tests.data_pipelines.production_world import tree
from vstrain.config.problems import InputError
from vstrain.data import codecs


def read(out, split: str = "*") -> dict[str, dict]:
    """Every sample of `out`, decoded, by key."""
    samples = {}
    for shard in sorted(Path(out).glob(f"{split}-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                samples.setdefault(key, {})[name] = codecs.decode(name, tar.extractfile(member).read())
    return samples


def counts_add_up(result) -> bool:
    return result.found == sum(result.kept.values()) + sum(result.rejected.values()) + result.left_out


def test_shards_hold_exactly_what_the_folder_held(tmp_path):
    result = convert(
        write_folder(tmp_path / "in", 12), tmp_path / "out", depth_scale=0.001, image_format="png", shard_samples=5
    )
    assert result.found == sum(result.kept.values()) == 12 and not result.rejected and not result.warnings
    assert len(list((tmp_path / "out").glob("train-*.tar"))) == -(-result.kept["train"] // 5)
    samples = read(tmp_path / "out")
    assert set(samples) == {f"{number:04d}" for number in range(12)}
    for key, sample in samples.items():
        image, depth = scene(int(key))
        np.testing.assert_array_equal(sample["png"], image)
        assert sample["depth.pco"].dtype == np.float32
        np.testing.assert_array_equal(sample["depth.pco"], (depth * 0.001).astype(np.float32))
        assert sample["json"] == {
            "unit": "depth",
            "look": "real",
            "source": "in",
            "image": f"rgb/{key}.png",
            "depth": f"depth/{key}.png",
            "valid": round(float((depth > 0).mean()), 6),
        }


def test_jpeg_stays_close(tmp_path):
    image = cv2.resize(scene(0)[0], (160, 120), interpolation=cv2.INTER_CUBIC)
    write_png(tmp_path / "in/a.png", image)
    write_png(tmp_path / "in/a_depth.png", np.full((120, 160), 700, np.uint16))
    convert(tmp_path / "in", tmp_path / "out", depth_scale=0.001)
    assert np.abs(read(tmp_path / "out")["a"]["jpg"].astype(int) - image).mean() < 1.5


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    source = write_folder(tmp_path / "in", 30)
    (source / "rgb/0007.png").write_bytes(b"")
    for processes in (1, 2):
        convert(source, tmp_path / f"out{processes}", processes=processes, shard_samples=8)
    one, two = tree(tmp_path / "out1"), tree(tmp_path / "out2")
    assert one == two and "train-000002.tar" in one and "rejected.jsonl" in one


PLANTED = {  # number of the sample -> (what is done to it, the reason, what the sentence says)
    0: (lambda image, depth: image.write_bytes(b""), "unreadable image", "0 bytes"),
    1: (lambda image, depth: image.write_bytes(image.read_bytes()[:300]), "unreadable image", "damaged"),
    2: (lambda image, depth: image.write_text("<html>"), "unreadable image", "not a picture"),
    3: (lambda image, depth: depth.write_bytes(depth.read_bytes()[:200]), "unreadable depth", "damaged"),
    4: (lambda image, depth: write_png(depth, scene(0)[0]), "unreadable depth", "colour picture"),
    5: (
        lambda image, depth: write_png(depth, np.zeros((12, 16), np.uint16)),
        "no valid depth",
        "all 192 are zero",
    ),
    6: (lambda image, depth: write_png(depth, np.ones((24, 32), np.uint16)), "size mismatch", "resize=depth"),
    7: (
        lambda image, depth: write_png(depth, np.ones((16, 12), np.uint16)),
        "size mismatch",
        "aspect ratios",
    ),
    8: (lambda image, depth: write_png(depth, np.ones((12, 16), np.uint8)), "8-bit depth", "unit=disparity"),
    9: (lambda image, depth: depth.unlink(), "image without depth", "no depth file"),
    10: (lambda image, depth: image.unlink(), "depth without image", "no image"),
}


def test_every_planted_mistake_is_counted_once_with_its_reason(tmp_path):
    source = write_folder(tmp_path / "in", 20)
    for number, (spoil, _, _) in PLANTED.items():
        spoil(source / f"rgb/{number:04d}.png", source / f"depth/{number:04d}.png")
    result = convert(source, tmp_path / "out", depth_scale=0.001)
    assert result.found == 20 and sum(result.kept.values()) == 9 and counts_add_up(result)
    assert set(read(tmp_path / "out")) == {f"{number:04d}" for number in range(11, 20)}
    ledger = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    by_number = {int(line["sample"].split("/")[-1][:4]): line for line in ledger}
    assert len(ledger) == len(by_number) == len(PLANTED)
    for number, (_, reason, says) in PLANTED.items():
        line = by_number[number]
        assert line["reason"] == reason and says in line["why"], line
        assert str(source) in line["why"] and "\n" not in line["why"]
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (
        summary["rejected"] == result.rejected and summary["found"] == 20 and summary["config"]["depth_scale"] == 0.001
    )
    assert f"rejected {len(PLANTED)}" in result.text and "rejected.jsonl" in result.text


def test_nothing_kept_is_an_error_that_keeps_the_list(tmp_path):
    source = write_folder(tmp_path / "in", 3)
    for path in (source / "depth").iterdir():
        write_png(path, np.zeros((12, 16), np.uint16))
    with pytest.raises(InputError, match="all 3 samples were rejected \\(3 no valid depth\\)"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len((tmp_path / "out.rejected.jsonl").read_text().splitlines()) == 3


def test_values_are_scaled_and_invalid_ones_become_zero(tmp_path):
    stored = np.array([[1.0, -2.0, np.nan, np.inf], [0.0, 99.0, 40.0, 7.0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.uint8)
    write_png(tmp_path / "in/a.png", np.zeros((2, 4, 3), np.uint8))
    write_png(tmp_path / "in/a_mask.png", mask)
    np.save(tmp_path / "in/a_depth.npy", stored)

    def depth(**keys):
        convert(tmp_path / "in", tmp_path / "out", overwrite=True, **keys)
        return read(tmp_path / "out")["a"]["depth.pco"].tolist()

    assert depth(depth_scale=0.5) == [[0.5, 0, 0, 0], [0, 49.5, 20, 0]]
    assert depth(depth_scale=0.5, invalid=[99]) == [[0.5, 0, 0, 0], [0, 0, 20, 0]]
    assert depth(depth_scale=0.5, far=20) == [[0.5, 0, 0, 0], [0, 0, 20, 0]]
    assert depth(mask="ignore") == [[1, 0, 0, 0], [0, 99, 40, 7]]
    assert depth(mask_valid="zero") == [[0, 0, 0, 0], [0, 0, 0, 7]]
    with pytest.raises(InputError, match="37.5% of the pixels are valid, min_valid=0.5"):
        depth(min_valid=0.5)


@pytest.mark.parametrize("resize, image_size, depth_size", [("depth", (12, 16), (12, 16)), ("image", (6, 8), (6, 8))])
def test_resize_brings_image_and_depth_together(resize, image_size, depth_size, tmp_path):
    image, depth = scene(3)[0], np.arange(1, 49, dtype=np.uint16).reshape(6, 8)
    write_png(tmp_path / "in/rgb/a.png", image)
    write_png(tmp_path / "in/depth/a.png", depth)
    convert(tmp_path / "in", tmp_path / "out", resize=resize, image_format="png")
    sample = read(tmp_path / "out")["a"]
    assert sample["png"].shape[:2] == image_size and sample["depth.pco"].shape == depth_size
    np.testing.assert_array_equal(sample["depth.pco"], np.kron(depth, np.ones((2, 2))) if resize == "depth" else depth)
    expected = image if resize == "depth" else image.reshape(6, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(sample["png"] - expected).max() <= 0.5  # half a grey level of rounding


def test_max_side_shrinks_and_never_invents_depth(tmp_path):
    write_png(tmp_path / "in/rgb/a.png", scene(0, 30, 50)[0])
    edge = np.where(np.arange(50) < 23, 1000, 9000).astype(np.uint16)
    write_png(tmp_path / "in/depth/a.png", np.tile(edge, (30, 1)))
    convert(tmp_path / "in", tmp_path / "out", max_side=20)
    sample = read(tmp_path / "out")["a"]
    assert sample["jpg"].shape == (12, 20, 3) and set(np.unique(sample["depth.pco"])) == {1000, 9000}


@pytest.mark.parametrize("turned_depth", [True, False])
def test_the_size_of_the_depth_decides_whether_a_photo_is_turned(turned_depth, tmp_path):
    image, depth = scene(1)
    exif = Image.Exif()
    exif[0x0112] = 6  # seen a quarter turn clockwise
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in/a.png", exif=exif)
    write_png(tmp_path / "in/a_depth.png", np.rot90(depth, -1) if turned_depth else depth)
    result = convert(tmp_path / "in", tmp_path / "out", depth_scale=0.001, image_format="png")
    np.testing.assert_array_equal(read(tmp_path / "out")["a"]["png"], np.rot90(image, -1) if turned_depth else image)
    assert not any("EXIF" in warning for warning in result.warnings)


def test_a_turn_that_sizes_cannot_confirm_is_made_and_said(tmp_path):
    image, depth = scene(1)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in/a.png", exif=exif)
    write_png(tmp_path / "in/a_depth.png", depth)
    result = convert(tmp_path / "in", tmp_path / "out", image_format="png")
    np.testing.assert_array_equal(read(tmp_path / "out")["a"]["png"], image[::-1, ::-1])
    assert any("EXIF" in warning for warning in result.warnings)
    convert(tmp_path / "in", tmp_path / "out", image_format="png", exif="ignore", overwrite=True)
    np.testing.assert_array_equal(read(tmp_path / "out")["a"]["png"], image)


def test_units_that_cannot_be_right_are_said(tmp_path):
    source = write_folder(tmp_path / "in", 3)
    assert "depth_scale=0.001" in convert(source, tmp_path / "a").warnings[0]
    assert any("median depth is" in warning for warning in convert(source, tmp_path / "b", depth_scale=100).warnings)
    assert not convert(source, tmp_path / "c", depth_scale=0.001).warnings
    for path in (source / "depth").iterdir():
        write_png(path, np.full((12, 16), 9, np.uint8))
    result = convert(source, tmp_path / "d", unit="disparity")
    assert "3 of 3 samples: 8-bit disparity" in result.warnings[0]
    assert {sample["json"]["unit"] for sample in read(tmp_path / "d").values()} == {"disparity"}


def test_the_split_belongs_to_the_key_and_survives_growth(tmp_path):
    keys = {}
    for count in (40, 60):
        convert(write_folder(tmp_path / "in", count), tmp_path / f"out{count}", val_fraction=0.2)
        keys[count] = {split: set(read(tmp_path / f"out{count}", split)) for split in ("train", "val")}
    assert keys[40]["val"] == {key for key in keys[60]["val"] if int(key) < 40}
    assert 4 <= len(keys[60]["val"]) <= 20 and not keys[60]["val"] & keys[60]["train"]
    other = convert(tmp_path / "in", tmp_path / "other", val_fraction=0.2, seed=1)
    assert set(read(other.out, "val")) != keys[60]["val"]


def test_a_handful_of_samples_still_has_one_for_validation(tmp_path):
    assert convert(write_folder(tmp_path / "in", 4), tmp_path / "out", val_fraction=0.001).kept == {
        "train": 3,
        "val": 1,
    }
    none = convert(tmp_path / "in", tmp_path / "none", val_fraction=0)
    assert none.kept == {"train": 4, "val": 0} and "no sample fell to val" in none.text
    assert "data.val.urls=OTHER_SHARDS" in none.text


def test_folders_can_be_kept_on_one_side(tmp_path):
    for number in range(8):
        write_folder(tmp_path / f"in/scene{number}", 3)
    convert(tmp_path / "in", tmp_path / "out", val_fraction=0.3, split_by="folder")
    sides = [{key.split("_")[0] for key in read(tmp_path / "out", split)} for split in ("train", "val")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_limit_takes_a_part_and_says_so(tmp_path):
    result = convert(write_folder(tmp_path / "in", 9), tmp_path / "out", limit=4)
    assert result.left_out == 5 and counts_add_up(result) and "left out by limit 5" in result.text


def test_a_manifest_and_a_saved_data_set_give_the_same_arrays(tmp_path):
    source = write_folder(tmp_path / "in", 6)
    lines = [f"rgb/{n:04d}.png,depth/{n:04d}.png,{'val' if n == 5 else 'train'}" for n in range(6)]
    (source / "pairs.csv").write_text("\n".join(["image,depth,split", *lines, "rgb/gone.png,depth/0001.png,train", ""]))
    listed = convert(source / "pairs.csv", tmp_path / "listed", depth_scale=0.001, image_format="png")
    assert listed.kept == {"train": 5, "val": 1} and listed.rejected == {"missing file": 1}

    def rows(numbers):
        return datasets.Dataset.from_dict(
            {
                "rgb": [str(source / f"rgb/{n:04d}.png") for n in numbers],
                "depth_map": [scene(n)[1] for n in numbers],
            },
            features=datasets.Features({"rgb": datasets.Image(), "depth_map": datasets.Array2D((12, 16), "uint16")}),
        )

    datasets.DatasetDict({"train": rows(range(5)), "validation": rows([5])}).save_to_disk(tmp_path / "saved")
    saved = convert(tmp_path / "saved", tmp_path / "from_saved", depth_scale=0.001, image_format="png")
    assert saved.kept == listed.kept and "image=rgb, depth=depth_map" in saved.pairing
    ours = sorted(read(tmp_path / "listed").items())
    theirs = sorted(read(tmp_path / "from_saved").items())
    for (_, one), (_, other), n in zip(ours, theirs, range(6), strict=True):
        for sample in (one, other):
            np.testing.assert_array_equal(sample["png"], scene(n)[0])
            np.testing.assert_array_equal(sample["depth.pco"], (scene(n)[1] * 0.001).astype(np.float32))


def test_a_saved_data_set_with_encoded_depth(tmp_path):
    image, depth = scene(0)
    write_png(tmp_path / "a.png", image)
    write_png(tmp_path / "d.png", depth)
    table = datasets.Dataset.from_dict(
        {"image": [str(tmp_path / "a.png")], "depth": [(tmp_path / "d.png").read_bytes()]}
    )
    table.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "out", depth_scale=0.001)
    np.testing.assert_array_equal(read(tmp_path / "out")["row_000000"]["depth.pco"], (depth * 0.001).astype(np.float32))


def test_a_source_that_cannot_be_used_gets_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.zip").touch()
    for source, says in (
        ("gone", "no such source"),
        ("empty", "the folder is empty"),
        ("a.zip", "not a manifest; expected a folder"),
    ):
        with pytest.raises(InputError, match=says) as error:
            convert(tmp_path / source, tmp_path / "out")
        assert str(tmp_path / source) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_only_replaced_when_asked_and_ours(tmp_path):
    source, out = write_folder(tmp_path / "in", 3), tmp_path / "out"
    first = convert(source, out)
    assert convert(source, out) == first  # it is there already
    write_folder(source, 5)
    for keys in ({}, {"depth_scale": 0.001}):
        with pytest.raises(InputError, match="holds a data set of other .*overwrite=true replaces it"):
            convert(source, out, **keys)
    assert sum(convert(source, out, overwrite=True).kept.values()) == len(read(out)) == 5
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not written by depth_corpus"):
        convert(source, precious, overwrite=True)
    assert (precious / "thesis.tex").exists()
    with pytest.raises(InputError, match="is a file"):
        convert(source, precious / "thesis.tex")


def test_a_stopped_run_goes_on_where_it_was_and_leaves_no_trace(tmp_path, capsys):
    source, out, calls = write_folder(tmp_path / "in", 30), tmp_path / "out", []
    (source / "rgb/0007.png").write_bytes(b"")
    keys = {"shard_samples": 8, "val_fraction": 0.2}
    convert(source, tmp_path / "whole", **keys)

    def stop(split, done, total):
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(source, out=str(out), **keys), stop)
    assert "stopped: 2 of" in capsys.readouterr().err and not (out / "summary.json").exists()
    run(config(source, out=str(out), **keys), lambda *call: calls.append(call))
    assert calls[0][1] == 16 and tree(out) == tree(tmp_path / "whole")


def test_the_interrupt_key_ends_the_command_in_one_line_and_the_same_command_goes_on(tmp_path):
    source, out = write_folder(tmp_path / "in", 400), tmp_path / "out"
    line = [
        sys.executable,
        "-m",
        "vstrain.cli",
        "data",
        "depth_corpus",
        f"source={source}",
        f"out={out}",
        "processes=2",
    ]
    job = subprocess.Popen(
        line, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(out.glob(".production/*-*.json")):
        assert job.poll() is None
        time.sleep(0.005)
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does it: to the workers, too
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 130 and "the same command goes on" in said and "Traceback" not in said, said
    done = {row.stem: (out / f"{row.stem}.tar").stat().st_mtime_ns for row in out.glob(".production/*-*.json")}
    subprocess.run(line, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    after = {path.stem: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert done and done.items() < after.items() and len(read(out)) == 400  # a task without its row is done again


def test_array_jobs_share_the_work(tmp_path):
    source = write_folder(tmp_path / "in", 30)
    whole = convert(source, tmp_path / "whole", shard_samples=4)
    for part in ("2/2", "1/2"):
        result = convert(source, tmp_path / "out", shard_samples=4, part=part)
        assert isinstance(result, Unfinished) == (part == "2/2")
        assert part == "1/2" or "this job's part is done; 4 of 8 shards" in result.text
    assert tree(tmp_path / "out") == tree(tmp_path / "whole") and result.kept == whole.kept


def test_progress_counts_every_pair(tmp_path):
    calls = []
    keys = {"shard_samples": 2, "val_fraction": 0}
    run(config(write_folder(tmp_path / "in", 5), out=str(tmp_path / "out"), **keys), lambda *call: calls.append(call))
    assert calls == [("train", done, 5) for done in (0, 2, 4, 5)]


def test_the_next_command_is_one_that_hydra_reads(tmp_path):
    result = convert(write_folder(tmp_path / "in", 4), tmp_path / "my data", val_fraction=0.3)
    command = shlex.split(result.text.splitlines()[-1].removeprefix("next: "))
    assert command[:3] == ["vstrain", "experiment=depth_teacher", "data=shards"]
    overrides = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(command[3:])}
    assert set(overrides) == {"data.train.urls", "data.val.urls"}
    assert all(len(list(Path("/").glob(urls[0][1:]))) == 1 for urls in overrides.values())


def test_plain_webdataset_reads_the_shards_as_the_page_says(tmp_path, monkeypatch):
    convert(write_folder(tmp_path / "in", 5), tmp_path / "data/in", depth_scale=0.001)
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    example = page.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(tmp_path)
    seen = {}
    exec(example, seen)
    assert seen["image"].shape == (12, 16, 3) and seen["image"].dtype == np.uint8
    number = int(seen["sample"]["__key__"])
    np.testing.assert_array_equal(seen["depth"], (scene(number)[1] * 0.001).astype(np.float32))
    assert seen["about"]["unit"] == "depth"
