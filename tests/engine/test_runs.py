"""Whole runs of the plug-in system, which lives outside the package: the files, the resume, the ranks, the sweep."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from tests.conftest import PLUGIN, command, metrics, until, weights
from vstrain.engine.wandb_history import records, written

HARD = ["system.dropout=0.3", "trainer.accumulate=2", "data.workers=1"]  # all that could make a resume inexact


@pytest.fixture(scope="module")
def whole(tmp_path_factory, depth_shards):
    """The run directory of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    words = [
        "experiment=toy",
        f"data.train.urls=[{depth_shards}/train-*.tar]",
        f"data.val.urls=[{depth_shards}/val-*.tar]",
    ]
    line, env = command(*words, *HARD, f"run.dir={folder / 'run'}")
    subprocess.run(line, env=env, cwd=folder, check=True, capture_output=True)
    return folder / "run"


def test_a_run_leaves_what_it_promises(whole):
    promised = {"resolved.yaml", "stamp.json", "metrics.jsonl", "logs", "checkpoints", "pictures"}
    assert promised <= {path.name for path in whole.iterdir()}
    lines = metrics(whole)
    assert all(isinstance(line["step"], int) for line in lines)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "val/loss" in line] == [6, 12]
    stamp = json.loads((whole / "stamp.json").read_text())
    assert stamp["versions"]["torch"] and stamp["data"]["train"] and stamp["host"]
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["last", "step-00000008", "step-00000012"]
    assert (whole / "checkpoints" / "last").resolve().name == "step-00000012"
    assert json.loads((whole / "state.json").read_text())["status"] == "finished"


def test_ctrl_c_saves_and_a_resume_equals_the_undisturbed_run_bit_for_bit(whole, vstrain, toy_words, tmp_path):
    run = tmp_path / "run"
    stopped = vstrain(*toy_words, *HARD, f"run.dir={run}", code=75, TOY_SIGNAL_AT="9")  # inside step 5 of 12
    assert f"vstrain train resume={run.name}" in stopped.stderr
    assert json.loads((run / "state.json").read_text())["status"] == "stopped"
    assert (run / "checkpoints" / "last").resolve().name == "step-00000005"
    vstrain("train", f"resume={run}")
    assert metrics(run) == metrics(whole)
    expected, found = weights(whole), weights(run)
    assert expected.keys() == found.keys()
    assert all(expected[name].tobytes() == found[name].tobytes() for name in expected)


def test_a_resume_on_other_ranks_and_workers_goes_on_at_the_exact_sample(vstrain, toy_words, tmp_path):
    """Stopped in mid-epoch on one rank, continued on two with data workers. Every step's loss is that of the undisturbed run,
    so each step had the same samples; a stream that is one step late does not pass."""
    undisturbed, elastic = tmp_path / "undisturbed", tmp_path / "elastic"
    vstrain(*toy_words, f"run.dir={undisturbed}")
    vstrain(*toy_words, f"run.dir={elastic}", code=75, TOY_SIGNAL_AT="5")
    stopped_at = int((elastic / "checkpoints" / "last").resolve().name.removeprefix("step-"))
    assert stopped_at == 5
    vstrain("train", f"resume={elastic}", "trainer.devices=2", "data.workers=1")
    losses = [{m["step"]: m["train/loss"] for m in metrics(run) if "train/loss" in m} for run in (undisturbed, elastic)]
    assert losses[0].keys() == losses[1].keys()
    late = [abs(losses[0][step] - losses[0][step + 1]) for step in range(6, 12)]
    assert min(late) > 2e-5  # ten times what the comparison allows
    for step, loss in losses[0].items():
        assert losses[1][step] == pytest.approx(loss, rel=1e-5, abs=1e-6), step


def test_a_damaged_checkpoint_is_passed_over_and_lines_are_not_doubled(whole, vstrain, tmp_path):
    """As after a power cut: state.json says running, the newest checkpoint is half-written, metrics run ahead of it."""
    import shutil

    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    newest = run / "checkpoints" / "step-00000012" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    done = vstrain("train", f"resume={run}")
    assert "step-00000012 is damaged" in done.stderr and "resuming at step 8" in done.stderr
    assert metrics(run) == metrics(whole)
    assert all((weights(run)[name] == value).all() for name, value in weights(whole).items())


def test_a_system_in_the_users_folder_is_found_and_his_files_are_not_taken_for_ours(toy_words, tmp_path):
    shutil.copytree(PLUGIN / "toy", tmp_path / "toy")
    for name in ("launch.py", "random.py", "queue.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')")
    _, env = command()
    del env["PYTHONPATH"]
    script = tmp_path / "bin" / "vstrain"  # as it is installed
    script.parent.mkdir()
    script.write_text("from vstrain.cli import main\nmain()\n")
    words = [*toy_words, "trainer.max_steps=1", "data.workers=1", f"run.dir={tmp_path / 'run'}"]
    done = subprocess.run([sys.executable, script, *words], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_seed_trains_another_model(whole, vstrain, toy_words, tmp_path):
    vstrain(*toy_words, *HARD, f"run.dir={tmp_path / 'run'}", "seed=1")
    assert any((weights(tmp_path / "run")[name] != value).any() for name, value in weights(whole).items())


def test_two_ranks_equal_one_at_the_same_global_batch(vstrain, toy_words, tmp_path):
    for devices in (1, 2):
        vstrain(*toy_words, f"run.dir={tmp_path / str(devices)}", f"trainer.devices={devices}")
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert all(np.allclose(one[name], two[name], rtol=1e-5, atol=1e-7) for name in one)
    for a, b in zip(metrics(tmp_path / "1"), metrics(tmp_path / "2"), strict=True):
        assert a.keys() == b.keys() and all(a[name] == pytest.approx(b[name], rel=1e-5) for name in a)
    assert (tmp_path / "2" / "logs" / "rank-1.log").is_file()


def test_ctrl_c_with_two_ranks_saves_on_both_and_exits_75(depth_shards, toy_words, tmp_path):
    run = tmp_path / "run"
    line, env = command(*toy_words, f"run.dir={run}", "trainer.devices=2", "trainer.max_steps=100000", "trainer.log_every=10",
                        "callbacks.checkpoint.every=100000", "callbacks.validation.every=100000")  # fmt: skip
    process = subprocess.Popen(line, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until((run / "metrics.jsonl").exists, 120)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "Traceback" not in errors and "train resume=" in errors
    step = json.loads((run / "checkpoints" / "last" / "meta.json").read_text())["step"]
    assert 0 < step < 100000 and metrics(run)[-1]["step"] <= step


def test_ctrl_c_at_a_terminal_reaches_every_process_and_still_saves(toy_words, tmp_path):
    run = tmp_path / "run"
    line, env = command(
        *toy_words, f"run.dir={run}", "data.workers=1", "trainer.max_steps=100000", "trainer.log_every=10"
    )
    process = subprocess.Popen(line, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until((run / "metrics.jsonl").exists, 120)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "Traceback" not in errors and (run / "checkpoints" / "last" / "meta.json").is_file()


def test_a_sweep_makes_one_run_a_value_also_with_two_devices(vstrain, toy_words, tmp_path):
    vstrain("-m", *toy_words, "optim.lr=1e-3,3e-4", "trainer.devices=2", "trainer.max_steps=2")
    runs = sorted((tmp_path / "runs" / "toy").iterdir())
    assert len(runs) == 2 and {line["lr"] for run in runs for line in metrics(run) if line["step"] == 1} == {1e-3, 3e-4}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"} and len(
        list((tmp_path / "runs").rglob("resolved.yaml"))
    ) == 2


def test_a_loss_that_is_not_finite_ends_the_run_with_one_sentence(vstrain, toy_words, tmp_path):
    done = vstrain(*toy_words, "optim.lr=1e30", f"run.dir={tmp_path / 'run'}", code=1)
    assert (
        "the loss of rank 0 (" in done.stderr
        and "is not finite at step" in done.stderr
        and "lower optim.lr" in done.stderr
    )
    assert json.loads((tmp_path / "run" / "state.json").read_text())["status"] == "failed"


def test_eval_repeats_the_last_validation_and_missing_abilities_are_said(whole, vstrain, tmp_path):
    vstrain("eval", f"ckpt={whole}", f"run.dir={tmp_path / 'eval'}")
    found = json.loads((tmp_path / "eval" / "eval.json").read_text())["metrics"]["loss"]
    assert found == pytest.approx(metrics(whole)[-1]["val/loss"], rel=1e-6)
    assert "system toy has no export" in vstrain("export", f"ckpt={whole}", code=2).stderr
    assert "does not exist" in vstrain("eval", "ckpt=nowhere", code=2).stderr
    assert "no such key" in vstrain("eval", f"ckpt={whole}", "system.widht=3", code=2).stderr


def test_what_a_resume_may_not_change(whole, vstrain, toy_words, tmp_path):
    assert "may only change" in vstrain("train", f"resume={whole}", "optim.lr=1", code=2).stderr
    assert "not a run directory" in vstrain("train", f"resume={tmp_path}", code=2).stderr
    again = vstrain(*toy_words, f"run.dir={whole}", code=2)
    assert "already holds a run" in again.stderr and f"resume={whole}" in again.stderr


def test_status_tells_how_runs_stand(whole, vstrain):
    text = vstrain("status", whole).stdout
    assert "finished" in text and "step 12/12" in text and "val/loss" in text
    assert "no such folder" in vstrain("status", "nowhere", code=2).stderr


def test_histories_have_every_step_once_after_a_kill(vstrain, toy_words, tmp_path):
    """W&B's helper dies with the run, TensorBoard's file goes past the checkpoint that the next start begins at."""
    run = tmp_path / "run"
    words = ["logger=wandb", "logger.tensorboard=true", "trainer.max_steps=36", f"run.dir={run}"]
    killed = {"TOY_KILL_AT": "30", "TORCHELASTIC_RESTART_COUNT": "0", "TOY_PAUSE": "0.05", "WANDB_API_KEY": ""}
    vstrain(*toy_words, *words, code=-9, **killed)
    (log,) = run.glob("wandb/offline-run-*/run-*.wandb")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])  # how much of it there is depends on the helper's luck
    assert written(run / "wandb").get("train/loss", 0) < 29
    vstrain("train", f"resume={run}", WANDB_API_KEY="")
    expected = [(line["step"], line["train/loss"]) for line in metrics(run) if "train/loss" in line]
    assert [step for step, _ in expected] == list(range(1, 37))
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [step for step, _ in expected]
    assert [event.value for event in board.Scalars("train/loss")] == pytest.approx([value for _, value in expected])
    assert [event.step for event in board.Scalars("val/loss")] == [6, 12, 18, 24, 30, 36]
    rows = sorted(history(run), key=lambda row: row["_step"])
    assert [(row["_step"], row["train/loss"]) for row in rows] == expected
    assert [row["_step"] for row in rows if "val/loss" in row] == [6, 12, 18, 24, 30, 36]


def history(run: Path) -> list[dict]:
    """The rows of all starts, as W&B's files hold them."""
    found = []
    for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        for data in records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found += [row] if row else []
    return found


def test_wandb_offline_continues_under_one_id_and_bf16_trains(vstrain, toy_words, tmp_path):
    run = tmp_path / "run"
    words = ["logger=wandb", "trainer.precision=bf16-mixed", f"run.dir={run}"]
    vstrain(*toy_words, *words, code=75, TOY_SIGNAL_AT="5", WANDB_API_KEY="")
    identity = (run / "wandb_id").read_text()
    vstrain("train", f"resume={run}", WANDB_API_KEY="")
    assert (run / "wandb_id").read_text() == identity
    histories = [path.name for path in (run / "wandb").glob("offline-run-*")]
    assert len(histories) == 2 and all(name.endswith(identity) for name in histories)
    losses = [line["train/loss"] for line in metrics(run) if "train/loss" in line]
    assert len(losses) == 12 and losses[-1] < losses[0]
