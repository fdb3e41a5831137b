"""400 samples in four shards, damaged in every way: what is intact arrives, what is lost is named once, ranks stay even."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.items import prepare
from vstrain.data import loader
from vstrain.data.index import Index
from vstrain.data.loader import Means
from vstrain.data.problems import DataError
from vstrain.data.stream import Arrangement, Share
from vstrain.data.writer import ShardWriter


@pytest.fixture
def shards(tmp_path) -> list[Path]:
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path, "train", "depth", max_count=100) as writer:
        for n in range(400):
            image = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            writer.write({"__key__": f"{n:03d}", "png": image, "depth.pco": image[..., 0] / np.float32(9), "json": {}})
    return sorted(tmp_path.glob("*.tar"))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def header(index: Index, shards: list[Path]) -> set[str]:
    """Others lose the 330 - 130 samples behind this header."""
    overwrite(shards[1], index.members(130)["depth.pco"][0] - 512, b"rubbish " * 64)
    return set()


def bit(index: Index, shards: list[Path]) -> set[str]:
    offset, size, _ = index.members(205)["png"]
    byte = shards[2].read_bytes()[offset + size // 2]
    overwrite(shards[2], offset + size // 2, bytes([byte ^ 1]))
    return {"205"}


def truncated(index: Index, shards: list[Path]) -> set[str]:
    length = shards[3].stat().st_size * 55 // 100
    shards[3].write_bytes(shards[3].read_bytes()[:length])
    ends = {n: sum(index.members(n)["png"][:2]) for n in range(300, 400)}
    return {f"{n}" for n, end in ends.items() if end > length}


def vanished(index: Index, shards: list[Path]) -> set[str]:
    """In the middle of a run: the index is open already."""
    shards[0].unlink()
    return {f"{n:03d}" for n in range(100)}


def out_of_order(index: Index, shards: list[Path]) -> set[str]:
    """Foreign shards whose samples' members do not lie together."""
    members = []
    with tarfile.open(shards[0]) as file:
        for member in file:
            members.append((member.name, file.extractfile(member).read()))
    members.sort(key=lambda member: member[0].partition(".")[2])
    with tarfile.open(shards[0], "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return set()


@pytest.mark.parametrize("damage", [header, bit, truncated, vanished, out_of_order], ids=lambda damage: damage.__name__)
def test_all_that_is_intact_arrives(shards, tmp_path, damage):
    urls = [str(path) for path in shards]
    index = Index.open(urls)
    lost = damage(index, shards)
    if damage is not vanished:
        index = Index.open(urls)
    assert len(index) == 400
    ledger, delivered = tmp_path / "quarantine.jsonl", [[], []]
    for rank in range(2):
        batches = loader.train_batches(
            [index],
            [1.0],
            prepare,
            Arrangement(0, 64),
            batch_size=20,
            accumulate=1,
            steps=20,
            share=Share(rank, 2),
            means=Means(workers=rank, ledger=ledger, max_damaged=0.5),
        )
        delivered[rank] = [batch["name"] for batch in batches]
    assert [len(names) for names in delivered[0]] == [len(names) for names in delivered[1]] == [10] * 20
    arrived = {name for rank in delivered for names in rank for name in names}
    named = [json.loads(line)["key"] for line in ledger.read_text().splitlines()] if ledger.exists() else []
    assert arrived == {f"{n:03d}" for n in range(400)} - lost
    assert sorted(named) == sorted(lost)


def test_over_the_budget_the_shard_is_named(shards, tmp_path):
    index = Index.open([str(path) for path in shards])
    vanished(index, shards)
    batches = loader.train_batches(
        [index],
        [1.0],
        prepare,
        Arrangement(0, 64),
        batch_size=20,
        accumulate=1,
        steps=20,
        means=Means(max_damaged=0.01),
    )
    with pytest.raises(DataError, match=r"train-000000.tar: .* 5 samples are damaged, more than the 4"):
        list(batches)
