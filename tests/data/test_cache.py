from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
import random
import signal
import time

import pytest

from tests.conftest import until
from vstrain.data.cache import Cache
from vstrain.data.problems import DataError

SPAWN = multiprocessing.get_context("spawn")


def content(url: str, size: int) -> bytes:
    return hashlib.shake_128(url.encode()).digest(size)


def writer(url: str, size: int):
    return lambda file: file.write(content(url, size))


def held(cache: Cache) -> int:
    return sum(
        path.stat().st_size for path in cache.folder.rglob("*") if path.is_file() and path.parent.name != "locks"
    )


def test_a_copy_is_made_once_and_found_again(tmp_path):
    cache = Cache(tmp_path / "deep" / "cache", 1000)
    calls = []
    assert cache.path("s3://b/a") is None
    for _ in range(2):
        path = cache.fetch("s3://b/a", lambda file: calls.append(file.write(content("a", 300))), 300)
        assert path.read_bytes() == content("a", 300)
    assert calls == [300] and cache.path("s3://b/a") == path and cache.used() == held(cache) == 300
    assert pickle.loads(pickle.dumps(cache)).path("s3://b/a") == path
    cache.drop("s3://b/a")
    assert cache.path("s3://b/a") is None and held(cache) == 0


def test_another_version_replaces_a_copy(tmp_path):
    cache = Cache(tmp_path, 1000)
    old = cache.fetch("u", writer("old", 300), 300, etag="1")
    with old.open("rb") as still:
        new = cache.fetch("u", writer("new", 300), 300, etag="2")
        assert new.read_bytes() == content("new", 300) and cache.path("u") == new
        assert not old.exists() and still.read() == content("old", 300)  # an open file outlives its name
    assert held(cache) == 300


def test_the_least_recently_used_copy_makes_way(tmp_path):
    cache = Cache(tmp_path, 1000)
    for url in "abc":
        cache.fetch(url, writer(url, 300), 300)
        time.sleep(0.02)
    cache.path("a")
    time.sleep(0.02)
    cache.fetch("d", writer("d", 300), 300)
    assert [bool(cache.path(url)) for url in "abcd"] == [True, False, True, True]
    assert held(cache) == 900


def test_nothing_larger_than_the_bound_is_kept(tmp_path):
    cache = Cache(tmp_path, 1000)
    cache.fetch("small", writer("small", 900), 900)
    assert cache.fetch("large", lambda file: pytest.fail("downloaded"), 1001) is None
    assert cache.path("small")


def test_a_failed_or_short_download_leaves_nothing(tmp_path):
    cache = Cache(tmp_path, 1000)

    def broken(file):
        file.write(b"half")
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        cache.fetch("u", broken, 100)
    with pytest.raises(OSError, match="60 of 100 bytes"):
        cache.fetch("u", writer("u", 60), 100)
    assert cache.path("u") is None and held(cache) == 0


def test_a_full_disk_is_said_and_reading_goes_on(tmp_path, caplog, monkeypatch):
    cache = Cache(tmp_path, 10**18)
    assert cache.fetch("huge", lambda file: pytest.fail("downloaded"), 10**17) is None  # seen before the first byte
    assert "no space left on the disk" in caplog.text

    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    caplog.clear()
    assert cache.fetch("u", full, 100) is None
    assert "no space left" in caplog.text and held(cache) == 0
    assert cache.fetch("u", writer("u", 100), 100)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/cache: the cache cannot be written here .*give a folder"):
        Cache(tmp_path / "file" / "cache", 1000)
    with pytest.raises(DataError, match="positive bound"):
        Cache(tmp_path, 0)


def test_room_is_reserved_while_a_copy_is_under_way(tmp_path):
    cache, other = Cache(tmp_path, 1000), Cache(tmp_path, 1000)

    def slow(file):
        assert other.used() == 600
        assert other.fetch("b", lambda file: pytest.fail("downloaded"), 600) is None
        assert other.fetch("a", lambda file: pytest.fail("downloaded"), 600, wait=False) is None
        assert other.fetch("c", writer("c", 400), 400)
        file.write(content("a", 600))

    assert cache.fetch("a", slow, 600) and held(cache) == 1000


def hammer(folder, seed: int, results) -> None:
    """Fetch, find and read urls of several sizes at random; report (copies read, wrong copies, most bytes held)."""
    cache, rng = Cache(folder, 50_000), random.Random(seed)
    read = wrong = most = 0
    for _ in range(150):
        n = rng.randrange(20)
        url, size = f"s3://b/{n}", 4000 + 500 * n
        path = cache.path(url) or cache.fetch(url, writer(url, size), size, wait=rng.random() < 0.5)
        if path:
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # evicted between the two
                continue
            read, wrong = read + 1, wrong + (data != content(url, size))
        with cache._accounts():
            most = max(most, cache.used())
    results.put((read, wrong, most))


def test_four_processes_share_a_cache_within_its_bound(tmp_path):
    results = SPAWN.Queue()
    processes = [SPAWN.Process(target=hammer, args=(tmp_path, seed, results)) for seed in range(4)]
    for process in processes:
        process.start()
    rows = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(10)
    assert all(wrong == 0 for _, wrong, _ in rows)
    assert sum(read for read, _, _ in rows) > 100
    assert max(most for _, _, most in rows) <= 50_000 and held(Cache(tmp_path, 50_000)) <= 50_000
    assert not list((tmp_path / "parts").iterdir())


def hang(folder) -> None:
    def download(file):
        file.write(b"x" * 500)
        file.flush()
        (folder / "locks" / "started").touch()
        time.sleep(600)

    Cache(folder, 1000).fetch("u", download, 900)


def test_a_killed_writer_leaves_nothing_that_stays(tmp_path):
    cache = Cache(tmp_path, 1000)
    process = SPAWN.Process(target=hang, args=(tmp_path,))
    process.start()
    until((tmp_path / "locks" / "started").exists)
    assert cache.fetch("u", writer("u", 900), 900, wait=False) is None  # it is at work
    assert cache.fetch("v", writer("v", 900), 900) is None  # and has the room
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert held(cache) == 500 and cache.used() == 900
    assert cache.fetch("u", writer("u", 900), 900).read_bytes() == content("u", 900)
    assert held(cache) == cache.used() == 900
