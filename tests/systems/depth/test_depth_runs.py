"""Whole runs of the student: ranks, accumulation and interruption change nothing; rates and mixtures are the published ones."""

import json
import os
import signal
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from tests.config.test_shipped import compose
from tests.conftest import command, metrics, until, weights
from vstrain.data.writer import ShardWriter
from vstrain.engine import build
from vstrain.engine.build import make_optimizer, rate_factor, set_learning_rate

SIDE = 56
ALIGN = "system.student.alignment={weight: 0.333333, margin: 0.85, size: tiny, init: %s}"


def write(folder, split, count, **facts):
    with ShardWriter(folder, split, "depth", max_count=20) as writer:
        for n in range(count):
            rng = np.random.default_rng([len(split), n])
            image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
            depth = np.full((SIDE, SIDE), 5.0, np.float32)
            y, x = rng.integers(0, SIDE // 2, 2)
            image[y : y + SIDE // 2, x : x + SIDE // 2] += 180
            depth[y : y + SIDE // 2, x : x + SIDE // 2] = 2
            writer.write(
                {"__key__": f"{split}{n}", "png": image, "depth.pco": depth, "json": {"unit": "depth"} | facts}
            )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """(folder with labelled, unlabelled and validation shards, run directory of a teacher of six steps)."""
    folder = tmp_path_factory.mktemp("teacher")
    for split, count in (("train", 40), ("free", 60), ("val", 8)):
        write(folder, split, count)
    words = ["experiment=depth_teacher", *sizes(folder), f"data.train.urls=[{folder}/train-*.tar]", "data.batch_size=4"]
    line, env = command(*words, "trainer.max_steps=6", "seed=5", f"run.dir={folder / 'run'}")
    done = subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, folder / "run"


def sizes(folder) -> list[str]:
    return [
        *("data=shards", f"data.val.urls=[{folder}/val-*.tar]", f"system.image_size={SIDE}", "data.val_batch_size=4"),
        *("data.workers=0", "callbacks.validation.pictures=false", "trainer.log_every=1"),
    ]


def student(folder, teacher, *words) -> list[str]:
    sources = f"[{{urls: ['{folder}/train-*.tar'], weight: 1}}, {{urls: ['{folder}/free-*.tar'], weight: 2, role: unlabelled}}]"
    return [
        *("experiment=depth_student", "recipe=v1", *sizes(folder), f"data.train.sources={sources}"),
        *(f"system.student.teacher={teacher}", ALIGN % teacher, "data.batch_size=12", "trainer.max_steps=6", *words),
    ]


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    line, env = command(*student(*teacher), f"run.dir={folder / 'run'}")
    done = subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def losses(run) -> dict[int, list[float]]:
    names = ("train/loss", "train/labelled", "train/pseudo", "train/feature")
    return {line["step"]: [line[name] for name in names] for line in metrics(run) if "train/loss" in line}


@pytest.mark.parametrize("words", [("trainer.devices=2",), ("trainer.accumulate=4",)], ids=["two ranks", "accumulated"])
def test_the_student_is_the_same_on_two_ranks_and_in_micro_batches(whole, teacher, vstrain, tmp_path, words):
    vstrain(*student(*teacher, *words), f"run.dir={tmp_path / 'run'}")
    expected, found = losses(whole), losses(tmp_path / "run")
    assert expected.keys() == found.keys() == set(range(1, 7))
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=2e-3), step
    for name, value in weights(whole).items():
        np.testing.assert_allclose(weights(tmp_path / "run")[name], value, atol=2e-3, err_msg=name)


def test_the_helpers_are_not_saved_and_the_student_differs_from_its_teacher(whole, teacher):
    _, run = teacher
    assert weights(whole).keys() == weights(run).keys()
    assert not np.allclose(weights(whole)["net.head.conv1.weight"], weights(run)["net.head.conv1.weight"], atol=1e-2)


def test_stopped_and_resumed_the_student_is_the_same_bit_for_bit(whole, teacher, tmp_path):
    line, env = command(*student(*teacher), f"run.dir={tmp_path / 'run'}")
    process = subprocess.Popen(line, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "metrics.jsonl"
    until(lambda: log.is_file() and '"step": 2' in log.read_text(), 120)
    os.kill(process.pid, signal.SIGTERM)
    process.wait()
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    if state["status"] == "stopped":  # else the run was faster than the signal
        line, env = command("train", f"resume={tmp_path / 'run'}")
        subprocess.run(line, env=env, cwd=tmp_path, check=True, capture_output=True)
    assert losses(tmp_path / "run") == losses(whole)
    for name, value in weights(whole).items():
        assert weights(tmp_path / "run")[name].tobytes() == value.tobytes(), name


def test_offline_labels_train_the_student_that_the_teacher_in_the_loop_trains(whole, teacher, vstrain, tmp_path):
    """Equal but for float16: the pictures are as large as the crop, so the teacher saw the same."""
    folder, run = teacher
    vstrain("label", f"ckpt={run}", f"urls=[{folder}/free-*.tar]", f"output={tmp_path / 'labels'}", "shard_samples=20")
    words = [
        word.replace(f"{folder}/free-", f"{tmp_path}/labels/labels-").replace(", role: unlabelled", "")
        for word in student(folder, run)
    ]
    words = ["system.student.teacher=null" if word.startswith("system.student.teacher") else word for word in words]
    vstrain(*words, f"run.dir={tmp_path / 'run'}")
    first, expected = losses(tmp_path / "run")[1], losses(whole)[1]
    assert first == pytest.approx(expected, rel=2e-3) and first != expected


@pytest.mark.parametrize(("words", "sentence"), [
    (["data.batch_size=8"], "ratio=[1, 2]: this micro-batch has"),
    (["system.student.teacher=nowhere"], "system.student.teacher=nowhere: no depth network there"),
    (["system.student.teacher=null"], "a source of role unlabelled needs system.student.teacher"),
])  # fmt: skip
def test_bad_words_end_in_one_sentence(teacher, vstrain, words, sentence):
    done = vstrain(*student(*teacher, *words), code=2)
    assert sentence in done.stderr and "Traceback" not in done.stderr


# ---- the published schedule ----------------------------------------------------------------------------------------------


def test_every_micro_batch_is_mixed_one_to_two(teacher):
    folder, run = teacher
    config = compose(*student(folder, run, "trainer.accumulate=4"))
    for batch in build.Batches(config, None).train(steps=5):
        assert batch["pseudo"].tolist() == [True, False, True] and batch["valid"][1].any()


def test_rates_differ_tenfold_and_fall_in_a_line_to_zero():
    config = compose(
        "experiment=depth_student", "recipe=v1", "scale=large", "system.student.teacher=t", "system.size=vits"
    )
    with torch.device("meta"):
        system = build.build_system(config)
        system.configure_model()
    optimizer = make_optimizer(config.optim, system.param_groups())
    steps = config.trainer.max_steps
    for step in (0, steps // 4, steps // 2, steps - 1):
        set_learning_rate(optimizer, config.optim, rate_factor(config.schedule, step, steps))
        encoder, head = (group["lr"] for group in optimizer.param_groups)
        assert head == pytest.approx(10 * encoder) and encoder == pytest.approx(5e-6 * (1 - step / steps))
    assert rate_factor(config.schedule, steps, steps) == 0
    polynomial = compose("experiment=depth_metric").schedule
    assert rate_factor(polynomial, 300, 400) == pytest.approx(0.25**0.9)


# ---- other stages --------------------------------------------------------------------------------------------------------


def test_fine_tuning_on_sparse_8_bit_labels_with_masks_and_sky(teacher, vstrain, tmp_path):
    """From pictures on a disk to a better model: 8-bit disparity, four of five pixels not measured, masks, sky."""
    _, run = teacher
    for name in ("rgb", "disparity", "mask", "sky"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    for n in range(24):
        rng = np.random.default_rng(n)
        image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        y, x = rng.integers(0, SIDE // 2, 2)
        image[y : y + 28, x : x + 28] += 180
        label = np.full((SIDE, SIDE), 40, np.uint8)
        label[y : y + 28, x : x + 28] = 200
        label[rng.random(label.shape) < 0.8] = 0
        label[:8] = 0
        mask, sky = np.full((2, SIDE, SIDE), 255, np.uint8) * np.array([1, 0], np.uint8)[:, None, None]
        mask[:, :4], sky[:8] = 0, 255
        for name, array in (("rgb", image), ("disparity", label), ("mask", mask), ("sky", sky)):
            Image.fromarray(array).save(tmp_path / "mine" / name / f"{n:03d}.png")
    vstrain("data", "depth_corpus", "source=mine", "out=shards", "unit=disparity", "val_fraction=0.3")
    urls = [f"data.{split}.urls=[{tmp_path}/shards/{split}-*.tar]" for split in ("train", "val")]
    words = [
        "experiment=depth_finetune",
        f"system.init={run}",
        *urls,
        "data=shards",
        f"system.image_size={SIDE}",
        "system.sky=far",
    ]
    vstrain(*words, "trainer.max_steps=25", "callbacks.validation.every=5", "data.workers=0", "run.dir=tuned")
    scores = [line["val/loss"] for line in metrics(tmp_path / "tuned") if "val/loss" in line]
    assert scores[-1] < 0.8 * scores[0]
    start = load_file(tmp_path / "tuned" / "checkpoints" / "last" / "model.safetensors")
    assert start.keys() == weights(run).keys()


def test_metric_depth_from_a_relative_encoder(teacher, vstrain, tmp_path):
    """The encoder is the teacher's at the start, the head is new; metres come out and their end is kept with the run."""
    folder, run = teacher
    words = ["experiment=depth_metric", f"system.init={run}", *sizes(folder), f"data.train.urls=[{folder}/train-*.tar]"]
    vstrain(*words, "trainer.max_steps=1", "optim.lr=1e-12", "data.batch_size=4", "run.dir=begun")
    begun, theirs = weights(tmp_path / "begun"), weights(run)
    for name, value in begun.items():
        close = np.allclose(value, theirs[name], atol=1e-6)
        assert close == name.startswith("net.backbone") or np.ptp(value) == 0, name
    vstrain(*words, "trainer.max_steps=60", "data.batch_size=8", "callbacks.validation.every=20", "run.dir=metric")
    scores = [line["val/abs_rel"] for line in metrics(tmp_path / "metric") if "val/abs_rel" in line]
    assert scores[-1] < 0.35 and scores[-1] < scores[0]
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "photo.png")
    vstrain("predict", "ckpt=metric", "input=photo.png", "output=out")
    metres = np.load(tmp_path / "out" / "photo_depth.npy")
    assert 1 < np.median(metres) < 10
    vstrain("export", "ckpt=metric", "output=exported")
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert (config["depth_estimation_type"], config["max_depth"]) == ("metric", 20)
