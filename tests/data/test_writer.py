"""One shard on its way to the disk."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
import xxhash

from vstrain.data.atomic import write_file
from vstrain.data.writer import ShardFile, Shards, ShardWriter


def encoded(n: int, size: int = 100) -> dict:
    return {"__key__": f"s{n}", "png": bytes([n]) * size, "depth.pco": b"d" * size, "json": b"{}"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_shard_is_hidden_until_it_is_whole_and_knows_its_bytes(tmp_path):
    shard = ShardFile(tmp_path / "a.tar")
    for n in range(3):
        shard.add(encoded(n))
    assert names(tmp_path) == [".a.tar.tmp"]
    done = shard.commit()
    data = (tmp_path / "a.tar").read_bytes()
    assert names(tmp_path) == ["a.tar"]
    assert (done.name, done.samples, done.bytes, done.xxh3) == ("a.tar", 3, len(data), xxhash.xxh3_64_hexdigest(data))
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in tar} == {(0, 0, "", 0o444)}
    assert members == [(f"s{n}.{name}", encoded(n)[name]) for n in range(3) for name in ("depth.pco", "json", "png")]


def test_an_aborted_shard_leaves_nothing(tmp_path):
    shard = ShardFile(tmp_path / "a.tar")
    shard.add(encoded(0))
    shard.abort()
    assert names(tmp_path) == []


def test_bytes_are_on_the_disk_before_the_name_is_and_the_name_before_anything_follows(tmp_path, monkeypatch):
    done, fsync, rename = [], os.fsync, Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(Path(f"/proc/self/fd/{handle}").readlink().name), fsync(handle))
    )
    monkeypatch.setattr(
        Path, "rename", lambda self, target: (done.append(f"-> {target.name}"), rename(self, target))[1]
    )
    shard = ShardFile(tmp_path / "a.tar")
    shard.add(encoded(0))
    shard.commit()
    write_file(tmp_path / "row.json", b"{}")
    assert done == [".a.tar.tmp", "-> a.tar", tmp_path.name, ".row.json.tmp", "-> row.json", tmp_path.name]


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_file(tmp_path / "x", b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full)
        write_file(tmp_path / "x", b"new")
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("most", "sizes", "expected"),
    [
        ({"max_count": 2}, [100] * 5, [2, 2, 1]),
        ({"max_count": 5}, [100] * 5, [5]),
        ({"max_bytes": 600}, [100] * 5, [3, 2]),  # closed when it is full: a sample has 202 bytes
        ({"max_bytes": 1}, [100] * 3, [1, 1, 1]),
        ({"max_bytes": 1500}, [100, 1000, 100, 100], [2, 2]),
    ],
)
def test_shards_are_cut_by_count_and_by_bytes(most, sizes, expected, tmp_path):
    with Shards(tmp_path, "depth", lambda part: f"x-{part}.tar", **most) as shards:
        for n, size in enumerate(sizes):
            shards.write(encoded(n, size))
    assert [shard.samples for shard in shards.done] == expected and shards.count == len(sizes)
    assert names(tmp_path) == [f"x-{part}.tar" for part in range(len(expected))]


def test_a_commit_that_fails_leaves_the_shards_before_it(tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full_later(handle):
        calls.append(handle)
        if len(calls) > 2:  # the first shard and its folder
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full_later)
    with pytest.raises(OSError, match="No space"), ShardWriter(tmp_path, "train", "depth", max_count=2) as writer:
        for n in range(3):
            writer.write(encoded(n))
    assert names(tmp_path) == ["train-000000.tar"]


def test_nothing_written_is_no_shard(tmp_path):
    with ShardWriter(tmp_path / "new", "train", "depth") as writer:
        pass
    assert writer.done == [] and names(tmp_path / "new") == []
