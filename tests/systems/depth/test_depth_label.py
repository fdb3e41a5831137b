"""Labelling a corpus: what a label is, and that neither kills, nor ranks, nor neighbours change one."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import command, until
from vstrain.config.problems import InputError
from vstrain.data.index import Index
from vstrain.data.reader import Reader
from vstrain.data.writer import ShardWriter
from vstrain.engine.label import Labels, check_keys, place
from vstrain.systems.depth.label import Labeller, confidence
from vstrain.systems.depth.prepare import resize_image

SIZES = [(60, 80), (80, 60), (70, 70)]  # height, width


def pictures(folder: Path, count: int = 40, split: str = "images") -> list[str]:
    generator = np.random.default_rng(0)
    with ShardWriter(folder, split, "image", max_count=16) as writer:
        for n in range(count):
            height, width = SIZES[n % len(SIZES)]
            small = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            image = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))
            writer.write(
                {"__key__": f"{split}_{n:03d}", "jpg": image, "json": {"source": "toy", "unit": "depth", "focal": 9}}
            )
    return sorted(map(str, folder.glob(f"{split}-*.tar")))


@pytest.fixture
def index(tmp_path) -> Index:
    return Index.open(pictures(tmp_path / "pictures"))


def labels_of(index, system, count=None, **keys):
    words = {"batch": 4, "task": 16, "workers": 2} | keys
    labels = Labels(index, Labeller(system, None, False, "32"), {"teacher": "0123"}, **words)
    return [labels(n, confidence) for n in range(count or len(index))]


def test_a_label_is_the_teachers_disparity_at_its_own_size(index, make_system):
    system = make_system().eval()
    reader = Reader(index)
    for n, made in enumerate(labels_of(index, system)):
        sample, picture = made.sample, reader.read(n)
        size = sample["depth.pco"] and tuple(sample["json"]["input_size"])
        assert size == {(60, 80): (56, 70), (80, 60): (70, 56), (70, 70): (56, 56)}[picture["jpg"].shape[:2]]
        with torch.no_grad():
            expected = system(torch.from_numpy(resize_image(picture["jpg"], *size, False))[None])[0].numpy()
        from vstrain.data import codecs

        label = codecs.decode("depth.pco", sample["depth.pco"])
        assert label.dtype == np.float16
        np.testing.assert_allclose(label.astype(np.float32), expected, rtol=2e-3, atol=1e-3)
        assert sample["jpg"] == picture.raw("jpg") and sample["__key__"] == picture.key  # the very bytes
        facts = sample["json"]
        assert (facts["unit"], facts["label"], facts["teacher"], facts["source"], facts["focal"]) == (
            *("disparity", "pseudo", "0123", "toy"),
            9,
        )


def test_a_batch_has_one_size_and_windows_do_not_cross_tasks(index, make_system):
    system, seen = make_system().eval(), []
    labeller = Labeller(system, None, False, "32")
    label = labeller.label
    labeller.label = lambda batch: seen.append(batch.shape) or label(batch)
    whole = Labels(index, labeller, {}, batch=4, task=16, workers=1)
    made = [whole(n, confidence).sample["depth.pco"] for n in range(len(index))]
    assert max(shape[0] for shape in seen) == 4 and len(seen) < len(index) / 2
    alone = Labels(index, labeller, {}, batch=4, task=16, workers=1)
    assert [alone(n, confidence).sample["depth.pco"] for n in range(16, 32)] == made[16:32]


def test_flip_averages_with_the_mirror_image_and_says_how_far_they_differ(make_system):
    system = make_system().eval()
    picture = np.random.default_rng(0).integers(0, 256, (1, 56, 70, 3), dtype=np.uint8)
    ((plain, none),) = Labeller(system, None, False, "32").label(picture)
    ((mirror, _),) = Labeller(system, None, False, "32").label(picture[:, :, ::-1].copy())
    ((both, error),) = Labeller(system, None, True, "32").label(picture)
    expected = (plain.astype(np.float64) + mirror[:, ::-1]) / 2
    np.testing.assert_allclose(both, expected, atol=2e-3)
    apart = np.abs(plain.astype(np.float64) - mirror[:, ::-1]).mean()
    assert none is None and error == pytest.approx(apart / np.abs(expected - np.median(expected)).mean(), rel=0.05)
    ((symmetric, _),) = Labeller(system, None, True, "32").label(np.concatenate([picture, picture[:, :, ::-1]], axis=2))
    assert np.allclose(symmetric, symmetric[:, ::-1], atol=2e-3)  # of a picture that is its own mirror image
    assert confidence({"flip_error": 0.03}) == "flip_error below 0.05" and confidence({}) is None


def test_a_metric_teacher_is_refused(make_system):
    with pytest.raises(InputError, match="predicts metres"):
        Labeller(make_system(output="metric", max_depth=20), None, False, "32")


def test_two_pictures_of_one_key_are_refused_before_the_work(tmp_path):
    shards = [*pictures(tmp_path / "a", 5, "x"), *pictures(tmp_path / "b", 3, "x")]
    index = Index.open(shards)
    with pytest.raises(InputError, match=r"the key x_00., in .*/a/x-000000.tar and .*/b/x-000000.tar"):
        check_keys(index, len(index))
    check_keys(index, 5)


def test_parts_of_jobs_and_ranks(monkeypatch):
    """Two jobs of three processes each are six parts, every one taken once."""
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    taken = []
    for job in ("1/2", "2/2"):
        for rank in range(3):
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "3")
            taken.append(place(job))
    assert taken == [f"{n}/6" for n in range(1, 7)]
    assert place("auto") == "3/3"


# ---- the verb ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run directory of two training steps."""
    folder = tmp_path_factory.mktemp("teacher")
    with ShardWriter(folder, "train", "depth") as writer:
        for n in range(8):
            depth = np.full((56, 56), 2.0, np.float32) + np.arange(56, dtype=np.float32) / 10
            image = np.random.default_rng(n).integers(0, 256, (56, 56, 3), dtype=np.uint8)
            writer.write({"__key__": f"s{n}", "png": image, "depth.pco": depth, "json": {"unit": "depth"}})
    shards = f"[{folder}/train-*.tar]"
    words = ["experiment=depth_teacher", f"data.train.urls={shards}", f"data.val.urls={shards}", "system.image_size=56"]
    line, env = command(
        *words, "trainer.max_steps=2", "data.batch_size=4", "data.workers=0", f"run.dir={folder / 'run'}"
    )
    done = subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("labels-*.tar"))}


def test_killed_at_random_moments_and_shared_by_ranks_the_labels_are_the_same_bytes(teacher, vstrain, tmp_path):
    shards = pictures(tmp_path / "pictures", 90)
    words = ["label", f"ckpt={teacher}", f"urls=[{','.join(shards)}]", "batch_size=4", "shard_samples=10", "flip=true"]
    whole = vstrain(*words, f"output={tmp_path / 'whole'}")
    assert "90 pictures; storage about" in whole.stderr and "90 labelled, 0 rejected, 9 shards" in whole.stderr
    expected = digests(tmp_path / "whole")
    assert len(expected) == 9

    line, env = command(*words, f"output={tmp_path / 'killed'}")
    luck, cut = random.Random(3), 0
    for attempt in range(2):
        process = subprocess.Popen(line, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = luck.randint(1, 4) + 3 * attempt
        until(lambda wanted=wanted: len(digests(tmp_path / "killed")) >= wanted, 120)
        time.sleep(luck.random() / 20)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        cut += 0 < len(digests(tmp_path / "killed")) < 9
    assert cut
    vstrain(*words, f"output={tmp_path / 'killed'}", "devices=2")
    assert digests(tmp_path / "killed") == expected
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "killed")]
    assert summaries[0] == summaries[1] and sum(summaries[0]["confidence"].values()) == 90

    assert ": sound" in vstrain("data", "verify", f"{tmp_path}/whole/*.tar").stdout
    other = vstrain(
        *[word.replace("flip=true", "flip=false") for word in words], f"output={tmp_path / 'whole'}", code=2
    )
    assert "other settings (flip=True, now flip=False)" in other.stderr
    index = Index.open(sorted(map(str, (tmp_path / "whole").glob("*.tar"))))
    assert sorted(index.key(n) for n in range(len(index))) == [f"images_{n:03d}" for n in range(90)]


def test_a_damaged_picture_is_counted_and_named(teacher, vstrain, tmp_path):
    (shard,) = pictures(tmp_path / "pictures", 6)
    index = Index.open([shard])
    offset, size, _ = index.members(2)["jpg"]
    data = bytearray(Path(shard).read_bytes())
    data[offset + size // 2] ^= 255
    Path(shard).write_bytes(data)
    vstrain("label", f"ckpt={teacher}", f"urls=[{shard}]", "output=out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["kept"] == {"labels": 5} and summary["rejected"] == {"picture not usable": 1}
    assert "images_002" in (tmp_path / "out" / "rejected.jsonl").read_text()
