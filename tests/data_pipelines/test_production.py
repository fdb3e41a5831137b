"""Productions: every input once, the same bytes whoever does it and however often it is killed, one sentence when it cannot."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import xxhash
from pydantic import ValidationError

from data_pipelines.executors import Part, part_of
from data_pipelines.production import folder
from data_pipelines.production.plan import Made, Rejected
from tests.conftest import until
from tests.data_pipelines.production_world import (
    ALL_REJECTED,
    SHARD,
    TRAIN,
    UNFINISHED,
    VAL,
    execution,
    make,
    plan,
    rejected,
    run,
    tree,
)
from vstrain.config.problems import InputError
from vstrain.data.index import Index
from vstrain.data.writer import ShardWriter

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """The files of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("production") / "out"
    run(out)
    return tree(out)


def start(out: Path, **keys) -> subprocess.Popen:
    words = [f"{key}={value}" for key, value in keys.items()]
    line = [sys.executable, "-m", "tests.data_pipelines.production_world", str(out), *words]
    return subprocess.Popen(
        line, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )


def keys_of(shard: Path) -> list[str]:
    with tarfile.open(shard) as tar:
        return list(dict.fromkeys(member.name.partition(".")[0] for member in tar))


# ---- what is written ------------------------------------------------------------------------------------------------


def test_every_kept_input_stands_in_the_shard_of_its_task_once(tmp_path):
    summary = run(tmp_path / "out").summary
    for split, count in (("train", TRAIN), ("val", VAL)):
        for task in range(-(-count // SHARD)):
            inputs = range(task * SHARD, min(count, (task + 1) * SHARD))
            first = tmp_path / f"out/{split}-{task:06d}.tar"
            parts = ([first] if first.exists() else []) + sorted(tmp_path.glob(f"out/{split}-{task:06d}-*.tar"))
            found = [key for part in parts for key in keys_of(part)]
            assert found == [f"{split}{n:03d}" for n in inputs if not rejected(split, n)]
            assert bool(parts) == bool(found)
    assert not (tmp_path / f"out/train-{ALL_REJECTED.start // SHARD:06d}.tar").exists()
    assert (tmp_path / "out/train-000000-02.tar").exists()  # shard_bytes made several parts of a task
    kept = {
        split: sum(not rejected(split, n) for n in range(count)) for split, count in (("train", TRAIN), ("val", VAL))
    }
    assert summary["kept"] == kept


def test_counters_add_up_in_all_and_by_stage_and_row(tmp_path):
    summary = run(tmp_path / "out").summary
    places = [(split, n) for split, count in (("train", TRAIN), ("val", VAL)) for n in range(count)]
    odd = Counter("odd" if n % 2 else "even" for split, n in places if rejected(split, n))
    assert summary["rejected"] == dict(sorted(odd.items())) | {"without partner": 1}
    assert (
        summary["found"] == TRAIN + VAL + 1 + 3 == sum(summary["kept"].values()) + sum(summary["rejected"].values()) + 3
    )
    find, made = summary["stages"]["find"], summary["stages"]["make"]
    assert find["read"] == find["kept"] + sum(find["rejected"].values()) + find["left_out"]
    assert made["read"] == find["kept"] == made["kept"] + sum(made["rejected"].values())
    rows = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("out/.production/*-*.json"))]
    assert len(rows) == 8 + 3 and all(row["read"] == row["kept"] + sum(row["rejected"].values()) for row in rows)
    assert sum(row["read"] for row in rows) == TRAIN + VAL
    shards = [shard for row in rows for shard in row["shards"]]
    for shard in shards:
        data = (tmp_path / "out" / shard["name"]).read_bytes()
        assert shard["bytes"] == len(data) and shard["xxh3"] == xxhash.xxh3_64_hexdigest(data)
        assert shard["samples"] == len(keys_of(tmp_path / "out" / shard["name"]))
    assert {shard["name"] for shard in shards} == {path.name for path in tmp_path.glob("out/*.tar")}
    ledger = [json.loads(line)["sample"] for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    wanted = [f"{split}/{n}" for split, n in places if rejected(split, n)]
    assert ledger == ["lone", *wanted]


def test_the_merged_index_is_the_one_of_the_shards(tmp_path):
    run(tmp_path / "out")
    for split in ("train", "val"):
        shards = sorted(str(path) for path in tmp_path.glob(f"out/{split}-*.tar"))
        saved, rebuilt = Index.open(shards), Index.build(shards)
        assert len(list(tmp_path.glob("out/.*.vstrain-index"))) == 2  # open found it and made none
        assert saved.fingerprint == rebuilt.fingerprint and len(saved) == len(rebuilt)
        assert [saved.key(n) for n in range(len(saved))] == [rebuilt.key(n) for n in range(len(rebuilt))]


def test_there_may_be_more_tasks_than_open_files(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, hard))
    try:
        assert run(tmp_path / "out", changes={"shard_samples": 1}).summary["shards"] > 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_simple_writer_writes_the_same_shards(tmp_path, undisturbed):
    with ShardWriter(tmp_path, "val", "depth", max_count=SHARD, max_bytes=10**9, jpeg_quality=90) as writer:
        for n in range(VAL):
            if not rejected("val", n):
                writer.write(make(("val", n)).sample)
    run(
        tmp_path / "out",
        changes={"inputs": {"val": [("val", n) for n in range(VAL) if not rejected("val", n)]}, "shard_bytes": 10**9},
    )
    names = sorted(path.name for path in tmp_path.glob("*.tar"))
    assert names == sorted(path.name for path in tmp_path.glob("out/*.tar")) and len(names) == 3
    assert all((tmp_path / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in names)


def test_small_data_sets_get_small_shards(tmp_path):
    for count, size in ((5, 8), (512, 8), (640, 10), (64_000, 1000), (1_000_000, 1000)):
        tasks = plan(inputs={"train": range(count)}, shard_samples=None).tasks()
        assert len(tasks) == -(-count // size) and sum(len(task.inputs) for task in tasks) == count
    assert [len(task.inputs) for task in plan(inputs={"train": range(10)}, shard_samples=4).tasks()] == [4, 4, 2]


# ---- whoever does it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_pool_writes_the_same_bytes(processes, tmp_path, undisturbed):
    run(tmp_path / "out", executor="pool", processes=processes)
    assert tree(tmp_path / "out") == undisturbed


def test_ray_writes_the_same_bytes_and_says_what_went_wrong(tmp_path, undisturbed):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        assert run(tmp_path / "out", executor="ray").summary is not None
        assert tree(tmp_path / "out") == undisturbed
        with pytest.raises(InputError, match="depth.pco is missing"):
            run(tmp_path / "wrong", without_depth, executor="ray")
        flag = tmp_path / "died"
        with pytest.raises(InputError, match="Ray lost a worker.*run the same command again"):
            run(tmp_path / "killed", partial(die_once, flag=flag), executor="ray")
        run(tmp_path / "killed", partial(die_once, flag=flag), executor="ray")
        assert tree(tmp_path / "killed") == undisturbed
    finally:
        ray.shutdown()


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_three_parts_write_the_same_bytes_and_the_last_one_finishes(order, tmp_path, undisturbed):
    outcomes = [run(tmp_path / "out", part=f"{number}/3") for number in order]
    assert [outcome.summary is None for outcome in outcomes] == [True, True, False]
    assert [outcome.done for outcome in outcomes][-1] == 11 and tree(tmp_path / "out") == undisturbed
    assert run(tmp_path / "out", part="1/3").summary == outcomes[-1].summary


def test_jobs_that_start_at_once_share_the_work(tmp_path, undisturbed):
    """Three array jobs and two that want everything, on one folder: each input is made once, one of them finishes."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    gate.mkdir()
    parts = ("1/3", "2/3", "3/3", "all", "all")
    jobs = [start(tmp_path / "out", log=log, seconds=0.01, part=part, gate=gate) for part in parts]
    until(lambda: len(list(gate.iterdir())) == len(jobs))
    (gate / "open").touch()
    codes = [job.wait() for job in jobs]
    assert codes[3:] == [0, 0] and set(codes) <= {0, UNFINISHED}, [job.stderr.read() for job in jobs]
    made = Counter(line.rsplit(" ", 1)[0] for line in log.read_text().splitlines())
    assert len(made) == TRAIN + VAL and set(made.values()) == {1}
    assert len({line.rsplit(" ", 1)[1] for line in log.read_text().splitlines()}) > 1
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.parametrize(
    ("part", "environment", "expected"),
    [
        ("all", {"RANK": "1", "WORLD_SIZE": "4"}, Part(0, 1)),
        ("2/8", {"RANK": "3", "WORLD_SIZE": "4"}, Part(1, 8)),
        ("auto", {}, Part(0, 1)),
        ("auto", {"RANK": "3", "WORLD_SIZE": "4"}, Part(3, 4)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}, Part(2, 4)),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
            | {"SLURM_ARRAY_TASK_STEP": "2", "RANK": "0", "WORLD_SIZE": "9"},
            Part(2, 3),
        ),
    ],
)
def test_the_part_of_a_job_is_read_off_its_surroundings(part, environment, expected):
    assert part_of(part, environment) == expected


def test_parts_that_make_no_sense_are_refused():
    for part in ("0/3", "4/3", "2", "x/y", ""):
        with pytest.raises(ValidationError, match="expected auto, all or NUMBER/COUNT"):
            execution(part=part)
    gaps = {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"}
    with pytest.raises(InputError, match="evenly spaced"):
        part_of("auto", gaps)


# ---- however often it is killed -------------------------------------------------------------------------------------

TOUCHED = {"open", "os.rename", "os.remove", "os.mkdir", "fcntl.lockf"}


def killed_at(event: int, out: Path) -> bool:
    """Run in a fork that kills itself at this file operation; True when it came so far."""
    child = os.fork()
    if child == 0:
        left = [event]

        def hook(name, arguments):
            if name in TOUCHED and str(out) in str(arguments[0]) or name == "fcntl.lockf":
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            run(out, changes=SMALL)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


SMALL = {
    "inputs": {"train": [("train", n) for n in range(4)], "val": [("val", 1)]},
    "shard_samples": 4,
}


def test_killed_at_every_single_file_operation_the_next_run_makes_it_whole(tmp_path):
    run(tmp_path / "whole", changes=SMALL)
    whole, event = tree(tmp_path / "whole"), 0
    while killed_at(event, tmp_path / f"out{event}"):
        out = tmp_path / f"out{event}"
        for row in out.glob(".production/*-*.json"):  # whatever is seen is whole
            for shard in json.loads(row.read_text())["shards"]:
                assert (out / shard["name"]).read_bytes() == whole[shard["name"]]
        assert all(path.read_bytes() == whole[path.name] for path in out.glob("*.tar"))
        if (out / "summary.json").exists():
            assert {name: data for name, data in tree(out).items() if not name.endswith(".index")} == whole
        run(out, changes=SMALL)
        assert tree(out) == whole, f"killed at file operation {event}"
        event += 1
    assert event > 40


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_again_and_again(seed, tmp_path, undisturbed):
    rng, out, unfinished = random.Random(seed), tmp_path / "out", 0
    for _ in range(3):
        job = start(out, executor=rng.choice(["pool", "in_process"]), seconds=0.01)
        until(lambda: (out / ".production/plan.json").exists())
        time.sleep(rng.uniform(0, 0.6))
        job.kill()
        job.wait()
        unfinished += not (out / "summary.json").exists()
    assert unfinished
    run(out, executor="pool")
    assert tree(out) == undisturbed


def test_workers_end_with_the_process_that_wanted_them(tmp_path):
    log = tmp_path / "log"
    job = start(tmp_path / "out", executor="pool", log=log, seconds=0.2)
    until(lambda: log.exists() and len({line.split()[2] for line in log.read_text().splitlines()}) == 2)
    pids = {int(line.split()[2]) for line in log.read_text().splitlines()}
    assert job.pid not in pids
    job.kill()
    job.wait()
    until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_interrupt_says_how_to_go_on_and_ends_the_workers(tmp_path, undisturbed):
    log, out = tmp_path / "log", tmp_path / "out"
    job = start(out, executor="pool", log=log, seconds=0.02)
    until(lambda: len(list(out.glob(".production/*-*.json"))) >= 2)
    job.send_signal(signal.SIGINT)
    said = job.communicate(timeout=60)[1]
    assert "of 11 shards of" in said and "the same command goes on" in said and job.returncode != 0
    assert not any(alive(int(line.split()[2])) for line in log.read_text().splitlines())
    assert not list(out.glob(".*.tmp"))
    calls = []
    run(out, progress=lambda *call: calls.append(call))
    assert tree(out) == undisturbed
    assert calls[0][0] == "train" and calls[0][1] > 0 and calls[0][2] == TRAIN  # begins where it was stopped


def test_an_interrupt_does_not_wait_for_long_work(tmp_path):
    log = tmp_path / "log"
    job = start(tmp_path / "out", executor="pool", log=log, seconds=20)
    until(log.exists)
    job.send_signal(signal.SIGINT)
    assert "0 of 11 shards" in job.communicate(timeout=60)[1]  # a task takes 160 s


def die_once(place, flag: Path):
    """Kills its process the first time it comes to input 30."""
    if place == ("train", 30) and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return make(place)


def test_a_killed_worker_is_one_sentence(tmp_path, undisturbed):
    dies = partial(die_once, flag=tmp_path / "died")
    with pytest.raises(InputError, match="a worker process was killed.*run the same command again") as error:
        run(tmp_path / "out", dies, executor="pool")
    assert "\n" not in str(error.value) and not (tmp_path / "out/summary.json").exists()
    run(tmp_path / "out", dies, executor="pool")
    assert tree(tmp_path / "out") == undisturbed


# ---- going on -------------------------------------------------------------------------------------------------------


def test_a_finished_data_set_is_left_as_it_is(tmp_path):
    out = tmp_path / "out"
    first = run(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "lock"}
    assert run(out, refuse_to_work).summary == first.summary
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def refuse_to_work(place):
    raise AssertionError(f"{place} was made again")


@pytest.mark.parametrize("name", ["train-000001.tar", "val-000002.tar", ".production/train-000004.json"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_what_was_lost_is_made_again(name, how, tmp_path, undisturbed):
    out, log = tmp_path / "out", tmp_path / "log"
    run(out)
    data = (out / name).read_bytes()
    (out / name).unlink() if how == "gone" else (out / name).write_bytes(data[:-1])
    complete = []
    run(out, partial(make, log=str(log)), progress=lambda *_: complete.append((out / "summary.json").exists()))
    assert complete and not any(complete)  # it says so only when it is again
    assert tree(out) == undisturbed and len(log.read_text().splitlines()) <= SHARD


def test_orphans_and_temporary_files_are_removed_and_nothing_else(tmp_path, undisturbed):
    out = tmp_path / "out"
    run(out, part="1/2")
    for name in ("train-000077.tar", ".val-000000.tar.tmp", "train-000001-09.tar", ".production/.x.json.tmp"):
        (out / name).write_bytes(b"rubbish")
    for name in ("notes.txt", "other-000000.tar"):
        (out / name).write_bytes(b"mine")
    run(out)
    assert tree(out) == undisturbed | {"notes.txt": b"mine", "other-000000.tar": b"mine"}


def test_another_plan_is_refused_unless_it_may_replace(tmp_path, undisturbed):
    out = tmp_path / "out"
    run(out, part="1/2")
    changed = {"config": {"size": 32}}
    with pytest.raises(InputError, match=r"size=16, now size=32\); overwrite=true replaces") as error:
        run(out, changes=changed)
    assert str(out) in str(error.value)
    with pytest.raises(InputError, match="other inputs"):
        run(out, changes={"inputs": {"train": [("train", 1)]}})
    with pytest.raises(InputError, match="the pipeline tiny"):
        run(out, changes={"pipeline": "huge"})
    for change in ({"shard_samples": 9}, {"shard_bytes": 9}, {"kind": "drag"}, {"left_out": 0}, {"rejected": ()}):
        with pytest.raises(InputError, match="overwrite=true"):
            run(out, changes=change)
    (out / "notes.txt").write_text("mine")
    run(out, changes=changed | {"shard_samples": 30}, overwrite=True)
    assert json.loads((out / "summary.json").read_text())["config"] == {"size": 32} and (out / "notes.txt").exists()
    assert not list(out.glob("train-000002*"))
    run(out, overwrite=True)
    (out / "notes.txt").unlink()
    assert tree(out) == undisturbed


def test_overwrite_goes_on_with_its_own_unfinished_work_and_replaces_a_finished_one(tmp_path, undisturbed):
    out, log = tmp_path / "out", tmp_path / "log"
    logged = partial(make, log=str(log))
    run(out, logged, part="1/2")
    run(out, logged, overwrite=True)
    assert len(log.read_text().splitlines()) == TRAIN + VAL
    run(out, logged, overwrite=True)
    assert len(log.read_text().splitlines()) == 2 * (TRAIN + VAL) and tree(out) == undisturbed


def test_nothing_is_replaced_under_a_process_that_writes(tmp_path, undisturbed):
    out = tmp_path / "out"
    job = start(out, seconds=0.05)
    until(lambda: (out / ".train-000000.tar.tmp").exists() or (out / "train-000000.tar").exists())
    with pytest.raises(InputError, match="another process is writing there"):
        run(out, changes={"config": {"size": 32}}, overwrite=True)
    assert job.wait() == 0 and tree(out) == undisturbed


def test_a_run_whose_folder_was_taken_over_stops(tmp_path):
    out = tmp_path / "out"

    def take_over(split, done, total):
        if done == SHARD:
            record = plan(config={"size": 32}).record()
            (out / ".production/plan.json").write_text(json.dumps(record))

    with pytest.raises(InputError, match="was taken over by another run"):
        run(out, progress=take_over)
    assert len(list(out.glob(".production/*-*.json"))) == 1


def test_folders_that_are_not_ours_are_never_touched(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty and not written by tiny"):
            run(tmp_path / "thesis", overwrite=overwrite)
        with pytest.raises(InputError, match="is a file"):
            run(tmp_path / "thesis/chapter.tex", overwrite=overwrite)
    assert tree(tmp_path / "thesis") == {"chapter.tex": b"x"}


# ---- what cannot be -------------------------------------------------------------------------------------------------


def same_key(place, name: str, among: set):
    made = make(place)
    return Made(made.sample | {"__key__": name}) if place in among else made


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        (("train", 0), ("train", 1), "train-000000.tar"),
        (("train", 0), ("train", 30), "train-000000.* and train-000003"),
        (("train", 0), ("val", 1), "train-000000.* and val-000000"),
    ],
)
def test_one_key_for_two_samples_is_refused(one, other, where, tmp_path):
    with pytest.raises(InputError, match=f"twin.*{where}"):
        run(tmp_path / "out", partial(same_key, name="twin", among={one, other}))
    assert not (tmp_path / "out/summary.json").exists()


def without_depth(place):
    made = make(place)
    return made if isinstance(made, Rejected) else Made({key: made.sample[key] for key in ("__key__", "png", "json")})


def test_a_sample_of_the_wrong_schema_is_one_sentence(tmp_path):
    for executor, key in (
        ("in_process", "train000"),
        ("pool", r"(train|val)\d+"),
    ):  # a pool's first failure is any task's
        with pytest.raises(InputError, match=f"sample {key}: member depth.pco is missing"):
            run(tmp_path / executor, without_depth, executor=executor)
        assert not list((tmp_path / executor).glob("*.tar*")) and not list((tmp_path / executor).glob(".*.tmp"))


def fail_to_read(place):
    if place == ("val", 5):
        raise TimeoutError(110, "Connection timed out", "/mnt/photos/5.jpg")
    return make(place)


def test_an_input_that_cannot_be_read_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(InputError, match="/mnt/photos/5.jpg: an input cannot be read .Connection timed out"):
        run(tmp_path / "out", fail_to_read)


def reject(place):
    return Rejected(f"{place[0]}/{place[1]}", "unwanted", f"{place}: is unwanted; expected another")


def test_nothing_kept_leaves_the_list_and_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"all 81 samples were rejected \(80 unwanted, 1 without partner\)"):
        run(tmp_path / "out", reject)
    assert [path.name for path in tmp_path.iterdir()] == ["out.rejected.jsonl"]
    assert len((tmp_path / "out.rejected.jsonl").read_text().splitlines()) == 81


@pytest.fixture
def disk(tmp_path):
    """`disk(options)` mounts a memory disk, or mounts it anew with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        flags = f"remount,{options}" if place.is_mount() else options
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", flags, "tmpfs", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no memory disk can be mounted here ({done.stderr.strip()})")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("executor", ["in_process", "pool"])
def test_a_full_disk_is_one_sentence_and_a_larger_one_goes_on(executor, disk, undisturbed):
    out = disk("size=160k") / "out"
    with pytest.raises(InputError, match=f"{out}: no space is left there; make room and run the same command again"):
        run(out, executor=executor)
    shards = {
        shard["name"] for row in out.glob(".production/*-*.json") for shard in json.loads(row.read_text())["shards"]
    }
    assert shards and all((out / name).read_bytes() == undisturbed[name] for name in shards)
    assert not list(out.rglob("*.tmp"))
    disk("size=4m")
    run(out, executor=executor)
    assert tree(out) == undisturbed


def test_a_read_only_disk_is_one_sentence(disk):
    out = disk("size=1m") / "out"
    run(out, part="1/2")
    disk("ro")
    with pytest.raises(InputError, match=f"{out}.*cannot be written .Read-only file system.; choose another folder"):
        run(out)
    with pytest.raises(InputError, match="cannot be written .Read-only file system."):
        run(out.with_name("new"))
    disk("rw")
    assert run(out).summary is not None


def test_locks_are_released_with_their_process(tmp_path):
    (tmp_path / folder.STATE).mkdir()
    parent, child = os.pipe()
    holder = os.fork()
    if holder == 0:
        lock = folder.Lock(tmp_path / folder.STATE / "lock")
        lock.take(5, 1, wait=True)
        os.write(child, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(parent, 1)
    with folder.locked(tmp_path) as lock:
        assert not lock.take(5, 1, wait=False) and lock.take(4, 1, wait=False) and lock.take(6, 1, wait=False)
        assert not lock.take(0, 0, wait=False)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        assert lock.take(5, 1, wait=False) and lock.take(0, 0, wait=False)
