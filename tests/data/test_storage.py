from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import until
from vstrain.data import storage
from vstrain.data.cache import Cache
from vstrain.data.problems import DataError
from vstrain.data.remote import merge
from vstrain.data.storage import Storage, StorageError, expand, stat, stat_all

SIZE = 400_000
SHARDS = [f"s3://shards/ds/train-{n:03d}.tar" for n in range(4)]
SPANS = [(0, 3), (5_000, 40_000), (45_500, 40_000), (200_000, 1_000), (399_990, 10), (5_000, 100)]


def content(n: int) -> bytes:
    return np.random.default_rng(n).bytes(SIZE)


def expected(url: str, offset: int, size: int) -> bytes:
    return content(SHARDS.index(url))[offset : offset + size]


def open_files(folder: Path) -> int:
    """Descriptors of this process that point into a folder."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(entry.readlink()).startswith(str(folder))
    return count


def requests() -> list[tuple[str, int, int]]:
    """Ranges of all shards, the shards mixed."""
    return [(url, *span) for span in SPANS for url in SHARDS]


@pytest.fixture(scope="module")
def server(s3_server):
    s3_server.put("/shards")
    for n, url in enumerate(SHARDS):
        s3_server.put("/shards/" + url.removeprefix("s3://shards/"), content(n))
    s3_server.put("/shards/ds/val-000.tar", b"v")
    s3_server.put("/shards/ds/deeper/train-009.tar", b"deep")
    return s3_server


@pytest.fixture
def s3(server):
    server.calm()
    yield server
    server.calm()


@pytest.fixture
def local(tmp_path) -> list[str]:
    paths = [tmp_path / f"train-{n:03d}.tar" for n in range(4)]
    for n, path in enumerate(paths):
        path.write_bytes(content(n))
    return list(map(str, paths))


# ---- addresses ----------------------------------------------------------------------------------------------------


def test_local_addresses(local, tmp_path, monkeypatch):
    assert expand([f"{tmp_path}/train-*.tar"]) == local
    assert expand([f"{tmp_path}/train-{{002..003}}.tar", local[0]]) == [local[2], local[3], local[0]]
    assert expand([f"file://{local[1]}"]) == [f"file://{local[1]}".removeprefix("file://")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.tar").symlink_to(local[0])
    assert expand(["link.tar", "train-00[12].tar"]) == [f"{tmp_path}/link.tar", local[1], local[2]]
    (tmp_path / "odd[1].tar").write_bytes(b"")
    assert expand(["odd[1].tar"]) == [f"{tmp_path}/odd[1].tar"]
    assert stat_all([local[1], "link.tar"]) == [SIZE, SIZE] and stat(f"file://{local[0]}") == SIZE


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("{}/none-*.tar", "no shard matches this pattern; give the path of existing .tar files"),
        ("{}/none.tar", "none.tar: no such shard; give the path"),
        ("{}/none-{{0..1}}.tar", "none-0.tar: no such shard"),
        ("{}", r"this is a folder, not a shard; to take all shards in it write .*/\*.tar"),
        ("{}/a{{b", "a brace is not closed"),
        ("https://host/train-*.tar", "does not list its files"),
        ("s3://shards/ds/", r"this is a folder, not a shard; to take all shards in it write s3://shards/ds/\*.tar"),
    ],
)
def test_addresses_that_cannot_be_are_one_sentence(url, sentence, tmp_path):
    with pytest.raises(DataError, match=sentence) as caught:
        expand([url.format(tmp_path)])
    assert "\n" not in str(caught.value)


def test_no_address_and_no_permission(local, monkeypatch):
    with pytest.raises(DataError, match="the list of shards is empty"):
        expand([])
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may read everything
    with pytest.raises(DataError, match=r"train-000.tar: cannot be read \(Permission denied\)"):
        expand(local[:1])
    with pytest.raises(DataError, match="there is no such file"):
        stat(local[0] + "x")


def test_remote_addresses(s3):
    assert expand(["s3://shards/ds/train-*.tar"]) == SHARDS
    assert expand(["s3://shards/*/*/train-*.tar"]) == ["s3://shards/ds/deeper/train-009.tar"]
    assert expand(["s3://shards/ds/train-{001..002}.tar", "s3://shards/d?/val*"]) == [
        *SHARDS[1:3],
        "s3://shards/ds/val-000.tar",
    ]
    s3.calm()
    assert stat_all([*SHARDS, "s3://shards/ds/val-000.tar"]) == [SIZE] * 4 + [1]
    assert stat_all(SHARDS * 20) == [SIZE] * 80


def test_many_sizes_come_from_one_listing(s3, monkeypatch):
    monkeypatch.setattr(storage, "THREADS", 1)
    assert stat_all(SHARDS) == [SIZE] * 4
    assert (s3.count("HEAD"), s3.count("GET")) == (0, 1)
    s3.fail("denied")  # listing is not allowed, asking for each one is
    assert stat_all(SHARDS) == [SIZE] * 4 and s3.count("HEAD") == 4


def test_remote_addresses_that_cannot_be_are_one_sentence(s3, monkeypatch):
    with pytest.raises(DataError, match=r"s3://shards/ds/none-\*.tar: no shard matches this pattern"):
        expand(["s3://shards/ds/none-*.tar"])
    with pytest.raises(DataError, match="s3://nowhere/.*there is no such bucket; check its name and the endpoint"):
        expand(["s3://nowhere/train-*.tar"])
    with pytest.raises(DataError, match="none.tar: there is no such object"):
        stat_all([SHARDS[0], "s3://shards/none.tar"])
    s3.fail("denied")
    with pytest.raises(DataError, match="access was denied; check the credentials") as caught:
        expand(["s3://shards/ds/train-*.tar"])
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(DataError, match="elsewhere/.*the server cannot be reached; check the endpoint .*attempts"):
        expand(["s3://elsewhere/train-*.tar"])
    with pytest.raises(DataError, match="nothing installed reads this kind of address"):
        stat("nosuchscheme://x/y.tar")


# ---- reading ------------------------------------------------------------------------------------------------------


def test_ranges_of_local_files(local):
    reader = Storage()
    wanted = [(url, *span) for span in SPANS for url in local] + [(local[0], 5, 0)]
    assert reader.read_many(wanted) == [content(local.index(u))[o : o + s] for u, o, s in wanted]
    assert pickle.loads(pickle.dumps(reader)).read(local[2], 10, 20) == content(2)[10:30]
    with pytest.raises(StorageError, match=r"10 of 100 bytes came from offset 399990: the file ends at 400000"):
        reader.read(local[0], 399_990, 100)
    with pytest.raises(StorageError, match="x.tar: there is no such file") as caught:
        reader.read("/x.tar", 0, 1)
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.missing and again.attempts == 1 and str(again) == str(caught.value)


def test_descriptors_are_bounded_and_survive_a_fork(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "OPEN_FILES", 8)
    paths = [tmp_path / f"{n}" for n in range(30)]
    for n, path in enumerate(paths):
        path.write_bytes(bytes([n]) * 10)
    reader = Storage()
    for _ in range(2):
        assert reader.read_many([(str(p), 2, 3) for p in paths]) == [bytes([n]) * 3 for n in range(30)]
    assert open_files(tmp_path) == 8
    child = os.fork()
    if child == 0:
        good = reader.read_many([(str(p), 0, 2) for p in paths]) == [bytes([n]) * 2 for n in range(30)]
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    reader.close()
    assert open_files(tmp_path) == 0


def test_a_local_read_is_tried_again(local, monkeypatch):
    real, left = os.pread, [2]

    def stale(number, size, offset):
        if left[0] > 0:
            left[0] -= 1
            raise OSError(116, "Stale file handle")
        return real(number, size, offset)

    monkeypatch.setattr(os, "pread", stale)
    assert Storage(retries=2).read(local[0], 3, 5) == content(0)[3:8]
    left[0] = 99
    with pytest.raises(StorageError, match=r"Stale file handle \(2 attempts\)"):
        Storage(retries=1).read(local[0], 3, 5)


def test_merging_keeps_every_span_and_wastes_little():
    rng = np.random.default_rng(0)
    for _ in range(200):
        spans = [(int(o), int(s)) for o, s in zip(rng.integers(0, 10**7, 30), rng.integers(0, 10**6, 30), strict=True)]
        merged = merge(spans)
        assert all(any(start <= o and o + size <= end for start, end in merged) for o, size in spans if size)
        assert all(one[1] < two[0] for one, two in zip(merged, merged[1:], strict=False))
        needed = np.zeros(11_000, bool)  # in kB
        for offset, size in spans:
            needed[offset // 1000 : (offset + size) // 1000] = True
        assert sum(end - start for start, end in merged) / 1000 <= 1.15 * needed.sum() + 4.1 * 30 + 30
    records = [(n * 1_000_512, 1_000_000) for n in range(20)]  # tar members one after the other
    assert len(merge(records)) == 3 and sum(b - a for a, b in merge(records)) <= 1.01 * 20_000_000
    assert len(merge([(n * 500_000, 100_000) for n in range(20)])) == 20  # far apart
    assert merge([]) == [] and merge([(5, 0)]) == []


def test_ranges_of_remote_files_move_little_more_than_is_needed(s3):
    reader = Storage()
    wanted = requests()
    assert reader.read_many(wanted) == [expected(*request) for request in wanted]
    need = 4 * (3 + 40_000 + 40_000 + 1_000 + 10)
    assert need <= s3.sent <= 1.2 * need
    assert s3.count("GET") == 4 * 3 and s3.count("HEAD") == 0
    assert reader.read_many([(SHARDS[0], 7, 0)]) == [b""]
    reader.close()


@pytest.mark.parametrize("kind", ["slowdown", "throttle", "error", "reset", "truncate", "short", "slow"])
def test_faults_that_pass_are_not_seen(s3, kind):
    s3.fail(kind, 3, seconds=4)
    wanted = requests()
    reader = Storage(retries=5, timeout=3 if kind == "slow" else 60)
    assert reader.read_many(wanted) == [expected(*request) for request in wanted]
    assert s3.faults[0].times == 0  # they did happen
    assert s3.count("GET") == 4 * 3 + 3  # and nothing else was asked for again
    reader.close()


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("slowdown", "the store answered SlowDown"),
        ("throttle", "the store answered TooManyRequests"),
        ("error", "the store answered InternalError"),
        ("reset", "the connection was lost in the middle of an answer"),
        ("truncate", "the connection was lost in the middle of an answer"),
        ("short", "500 of 1000 bytes came from offset 100"),
        ("slow", "the server did not answer in time"),
    ],
)
def test_faults_that_stay_are_named_with_the_attempts(s3, kind, sentence):
    s3.fail(kind, seconds=1)
    with pytest.raises(StorageError) as caught:
        Storage(retries=2, timeout=0.5 if kind == "slow" else 60).read(SHARDS[1], 100, 1000)
    assert str(caught.value) == f"{SHARDS[1]}: {sentence} (3 attempts)"
    assert caught.value.attempts == s3.count("GET") == 3 and not caught.value.missing


def test_what_cannot_get_better_is_not_tried_again(s3):
    reader = Storage(retries=5)
    with pytest.raises(StorageError, match="none.tar: there is no such object") as caught:
        reader.read("s3://shards/none.tar", 0, 10)
    assert caught.value.missing and s3.count("GET") == 1
    for offset, came in ((399_990, 10), (500_000, 0)):
        s3.calm()
        with pytest.raises(StorageError, match=f"{came} of 100 bytes came.*: the object ends at 400000"):
            reader.read(SHARDS[0], offset, 100)
        assert s3.count("GET") == 1
    s3.calm()
    s3.fail("denied")
    with pytest.raises(StorageError, match="access was denied") as caught:
        reader.read(SHARDS[0], 0, 10)
    assert s3.count("GET") == 1 and not caught.value.missing


def test_objects_are_read_side_by_side(s3):
    until(lambda: s3.here == 0)  # answers that no earlier test waited for
    s3.calm()
    reader = Storage()
    reader.read(SHARDS[0], 0, 1)
    assert s3.most == 1
    s3.fail("slow", seconds=0.5)
    wanted = requests()
    assert reader.read_many(wanted) == [expected(*request) for request in wanted]
    assert s3.most >= 4
    reader.close()


def test_a_web_server_is_read_by_ranges(s3):
    urls = expand([f"{s3.endpoint}/shards/ds/train-{{000..001}}.tar"])
    assert stat_all(urls) == [SIZE, SIZE]
    assert Storage().read_many([(url, 10, 20) for url in urls]) == [content(0)[10:30], content(1)[10:30]]
    assert s3.sent == 40
    with pytest.raises(StorageError) as caught:
        Storage().read(urls[0] + "x", 0, 1)
    assert caught.value.missing


def test_other_addresses_go_through_fsspec(tmp_path):
    storage.write("memory://shards/a-1.tar", content(1))
    storage.write("memory://shards/a-0.tar", content(0))
    urls = expand(["memory://shards/a-*.tar"])
    assert urls == ["memory://shards/a-0.tar", "memory://shards/a-1.tar"] and stat_all(urls) == [SIZE, SIZE]
    storage.write("memory://shards/deep/a-9.tar", b"")
    assert expand(["memory://shards/d*/a-*.tar"]) == ["memory://shards/deep/a-9.tar"]
    reader = Storage(Cache(tmp_path, 10**6), retries=1)
    assert reader.read_many([(urls[1], 5, 9), (urls[0], 7, 0), (urls[0], 3, 4)]) == [
        content(1)[5:14],
        b"",
        content(0)[3:7],
    ]
    with pytest.raises(StorageError, match="there is no such file") as caught:
        reader.read("memory://shards/none", 0, 1)
    assert caught.value.missing
    with pytest.raises(StorageError, match="10 of 20 bytes came from offset 399990: the file ends at 400000"):
        reader.read(urls[0], 399_990, 20)


def test_small_files_are_written_and_read_back(s3, tmp_path):
    for url in (f"{tmp_path}/side.car", "s3://shards/ds/side.car"):
        with pytest.raises(StorageError) as caught:
            storage.get(url)
        assert caught.value.missing
        for data in (b"one", b"", b"three"):
            storage.write(url, data)
            assert storage.get(url) == data
    assert [path.name for path in tmp_path.iterdir()] == ["side.car"]
    s3.fail("slowdown", 2, method="PUT")
    storage.write("s3://shards/ds/side.car", b"again")
    assert storage.get("s3://shards/ds/side.car") == b"again"
    with pytest.raises(StorageError, match="none/side.car: there is no such file"):
        storage.write(f"{tmp_path}/none/side.car", b"x")


# ---- with a cache -------------------------------------------------------------------------------------------------


def test_prefetched_shards_are_read_without_the_network(s3, tmp_path):
    cache = Cache(tmp_path, 3 * SIZE)
    reader = Storage(cache)
    reader.prefetch(SHARDS)
    until(lambda: all(cache.path(url) for url in SHARDS[:3]))
    time.sleep(0.2)
    assert cache.path(SHARDS[3]) is None and s3.sent == 3 * SIZE  # the last one would push out the first
    s3.calm()
    wanted = requests()
    assert reader.read_many(wanted) == [expected(*request) for request in wanted]
    assert {seen[1] for seen in s3.requests} == {"/shards/ds/train-003.tar"}
    reader.prefetch(SHARDS[3:])  # the list has moved on
    until(lambda: cache.path(SHARDS[3]))
    assert cache.used() == 3 * SIZE
    reader.close()


def test_copies_that_are_needed_again_are_not_pushed_out(s3, tmp_path):
    cache = Cache(tmp_path, 3 * SIZE)
    reader = Storage(cache)
    reader.prefetch(SHARDS[:3])
    until(lambda: cache.path(SHARDS[2]))
    cache.path(SHARDS[2])  # the last used one is the one that nobody needs
    reader.prefetch([SHARDS[3], SHARDS[0], SHARDS[1]])
    until(lambda: cache.path(SHARDS[3]))
    time.sleep(0.2)
    assert [bool(cache.path(url)) for url in SHARDS] == [True, True, False, True] and s3.sent == 4 * SIZE
    reader.close()


def test_a_reader_never_waits_for_a_copy(s3, tmp_path):
    cache = Cache(tmp_path, 10 * SIZE)
    reader = Storage(cache)
    gate = threading.Event()

    def stuck(file) -> None:
        gate.wait(20)
        file.write(content(0))

    writer = threading.Thread(target=cache.fetch, args=(SHARDS[0], stuck, SIZE))
    writer.start()
    assert reader.read(SHARDS[0], 10, 20) == content(0)[10:30]
    assert s3.sent == 20
    gate.set()
    writer.join()
    assert reader.read(SHARDS[0], 10, 20) == content(0)[10:30] and s3.sent == 20


@pytest.mark.parametrize("kind", ["reset", "short", "slowdown"])
def test_copies_are_whole_under_faults(s3, tmp_path, kind):
    s3.fail(kind, 2)
    cache = Cache(tmp_path, 10 * SIZE)
    reader = Storage(cache)
    reader.prefetch(SHARDS[:2])
    until(lambda: cache.path(SHARDS[1]))
    assert [cache.path(url).read_bytes() for url in SHARDS[:2]] == [content(0), content(1)]
    assert s3.faults[0].times == 0
    reader.close()


def test_a_shard_that_cannot_be_copied_is_told_and_read_by_ranges(s3, tmp_path, caplog):
    reader = Storage(Cache(tmp_path, 10 * SIZE), retries=0)
    reader.prefetch(["s3://shards/none.tar", SHARDS[0]])
    until(lambda: reader.cache.path(SHARDS[0]))
    assert "none.tar: there is no such object; this shard is read without a copy" in caplog.text
    reader.forget(SHARDS[0])
    s3.calm()
    assert reader.read(SHARDS[0], 5, 5) == content(0)[5:10] and s3.sent == 5
    reader.close()


def test_a_changed_shard_is_copied_anew(s3, tmp_path):
    url = "s3://shards/changing.tar"
    cache = Cache(tmp_path, 10 * SIZE)
    for n in range(2):
        s3.put("/shards/changing.tar", content(n))
        reader = Storage(cache)
        reader.prefetch([url])
        until(lambda n=n: cache.path(url) and cache.path(url).read_bytes() == content(n))
        reader.close()
    assert cache.used() == SIZE


def test_two_readers_copy_each_shard_once(s3, tmp_path):
    cache = Cache(tmp_path, 10 * SIZE)
    readers = [Storage(cache), Storage(cache)]
    for reader in readers:
        reader.prefetch(SHARDS)
    until(lambda: all(cache.path(url) for url in SHARDS))
    time.sleep(0.2)
    assert s3.sent == 4 * SIZE
    for reader in readers:
        reader.close()


def prefetch_in_child(folder: Path) -> None:
    Storage(Cache(folder, 2 * SIZE)).prefetch(SHARDS[:1])
    time.sleep(600)


def test_a_process_killed_while_it_copies_is_no_harm(s3, tmp_path):
    s3.fail("slow", 1, seconds=30)
    process = multiprocessing.get_context("spawn").Process(target=prefetch_in_child, args=(tmp_path,))
    process.start()
    until(lambda: s3.count("GET"))
    process.kill()
    process.join(10)
    assert list((tmp_path / "parts").iterdir())
    reader = Storage(Cache(tmp_path, 2 * SIZE))
    reader.prefetch(SHARDS[1:3])  # both fit only once the dead one's part is gone
    until(lambda: reader.cache.path(SHARDS[2]))
    assert reader.cache.path(SHARDS[1]).read_bytes() == content(1) and not list((tmp_path / "parts").iterdir())
    reader.close()


def read_in_child(reader: Storage, results) -> None:
    wanted = requests()
    try:
        reader.read(*wanted[0])  # a single one, as it would wait for the parent's thread
        results.put([np.frombuffer(data, np.uint8).sum(dtype=np.int64) for data in reader.read_many(wanted)])
    except StorageError as error:
        results.put(str(error))


def test_other_processes_read_too(s3):
    reader, wanted = Storage(), requests()
    assert reader.read(SHARDS[0], 0, 4) == content(0)[:4]
    for method in ("spawn", "fork"):
        context = multiprocessing.get_context(method)
        results = context.Queue()
        process = context.Process(target=read_in_child, args=(reader, results))
        process.start()
        try:
            answer = results.get(timeout=120)
        finally:
            process.kill()
            process.join(10)
        if method == "spawn":
            assert answer == [np.frombuffer(expected(*r), np.uint8).sum(dtype=np.int64) for r in wanted]
        else:  # the client's threads stay behind in the parent: said, instead of hanging
            assert "start processes by 'spawn' or 'forkserver'" in answer
    reader.close()


def test_local_reading_needs_neither_torch_nor_a_remote_library(local):
    code = f"""
import sys
from vstrain.data.storage import Storage, expand, stat_all
urls = expand([{local[0]!r}])
assert stat_all(urls) == [{SIZE}] and len(Storage().read(urls[0], 5, 7)) == 7
print(sorted({{"torch", "obstore", "fsspec", "filelock"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
