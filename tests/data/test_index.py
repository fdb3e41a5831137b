"""Locating members in tar files, sound and damaged; the packed index: size, staleness, refusals."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vstrain.data import tar
from vstrain.data.index import Index, check_fields, sidecar
from vstrain.data.problems import DataError
from vstrain.data.reader import DamagedSample, MissingMember, Reader

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def archive(members: list[tuple[str, bytes]], form=tarfile.PAX_FORMAT, **fields) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(data: bytes) -> list[tuple[str, bytes]]:
    return [
        (found.name, data[found.offset : found.offset + found.size])
        for found in tar.walk(data, "x.tar")
        if isinstance(found, tar.Member)
    ]


def faults(data: bytes) -> list[tar.Fault]:
    return [found for found in tar.walk(data, "x.tar") if isinstance(found, tar.Fault)]


def samples(count: int, seed: int = 0) -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(seed)
    return [
        (f"{n:04d}.{name}", rng.bytes(int(rng.integers(0, 1500)))) for n in range(count) for name in ("png", "json")
    ]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["a.png", "folder/b.png", "d/" * 40 + "deep.png", "x" * 220 + ".png", "ü/é.png"])
def test_what_tarfile_writes_is_found(form, name):
    if form == tarfile.USTAR_FORMAT and len(name) > 200:
        pytest.skip("ustar cannot hold this name")
    members = [(name, b"one"), ("z.json", b""), ("z.txt", b"x" * 513)]
    data = archive(members, form)
    assert read(data) == members and not faults(data)


@given(st.lists(st.tuples(st.text("abc./é", min_size=1, max_size=130), st.binary(max_size=1200)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_walk_agrees_with_tarfile(members):
    members = [(re.sub(r"\.+", ".", f"k{n}{name}y").replace("//", "/"), data) for n, (name, data) in enumerate(members)]
    data = archive(members, tarfile.GNU_FORMAT)
    assert read(data) == members


def test_a_base_256_size_is_understood():
    data = bytearray(archive([("a.bin", b"hello"), ("b.bin", b"y")]))
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert read(bytes(data)) == [("a.bin", b"hello"), ("b.bin", b"y")]


def test_archives_one_behind_the_other_are_read_to_the_end():
    data = archive(samples(2)) + archive(samples(3, 1))
    assert read(data) == samples(2) + samples(3, 1) and not faults(data)


@pytest.mark.parametrize("what", ["noise", "zeros", "checksum"])
@pytest.mark.parametrize("place", [0, 5, 19])
def test_a_damaged_header_costs_its_own_member(what, place):
    members = samples(10)
    data = bytearray(archive(members))
    at = [found.offset - 512 for found in tar.walk(bytes(data), "x") if isinstance(found, tar.Member)][place]
    damage = {"noise": np.random.default_rng(0).bytes(512), "zeros": bytes(512), "checksum": None}[what]
    data[at : at + 512] = damage or data[at : at + 148] + b"0000000\0" + data[at + 156 : at + 512]
    found = read(bytes(data))
    assert found == members[:place] + members[place + 1 :]
    if not (what == "zeros" and place == 19 and len(members[19][1]) == 0):
        assert [fault.offset for fault in faults(bytes(data))] == ([at] if (what, place) != ("zeros", 19) else [])


@given(st.binary(max_size=3000), st.integers(0, 12_000), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_rubbish_anywhere_never_crashes_and_never_reads_outside(rubbish, at, cut):
    data = bytearray(archive(samples(6)))
    data[at : at + len(rubbish)] = rubbish
    data = bytes(data[: len(data) - cut * 700])
    try:
        for found in tar.walk(data, "x.tar"):
            if isinstance(found, tar.Member):
                assert found.offset >= 0 and found.offset + found.size <= len(data) and found.offset % 512 == 0
    except DataError as error:
        assert str(error).startswith("x.tar: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b" + bytes(600), "compressed with gzip"),
        (b"this is no archive " * 100, "is not a tar file"),
        (archive([("/etc/passwd.txt", b"x")]), "points outside"),
        (archive([("a/../../b.txt", b"x")]), "points outside"),
    ],
)
def test_what_is_no_shard_is_refused_in_one_sentence(data, message):
    with pytest.raises(DataError, match=message):
        list(tar.walk(data, "x.tar"))


def test_links_are_named_and_not_followed():
    data = archive([("a.txt", b"")], type=tarfile.SYMTYPE, linkname="/etc/passwd") + archive([("b.txt", b"x")])
    assert read(data) == [("b.txt", b"x")] and "is a link" in faults(data)[0].reason


# ---- the index ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path) -> list[str]:
    for number in range(3):
        (tmp_path / f"s{number}.tar").write_bytes(
            archive([(f"{number}-{name}", data) for name, data in samples(8, number)])
        )
    return [str(tmp_path / f"s{number}.tar") for number in range(3)]


def contents(index: Index) -> list[tuple[str, dict[str, bytes]]]:
    reader = Reader(index)
    return [(index.key(n), {name: reader.read(n).raw(name) for name in index.members(n)}) for n in range(len(index))]


def test_index_and_tarfile_agree_on_every_byte(shards):
    found = contents(Index.open(shards))
    expected: dict[str, dict[str, bytes]] = {}
    for path in shards:
        with tarfile.open(path) as file:
            for member in file:
                key, _, name = member.name.partition(".")
                expected.setdefault(key, {})[name] = file.extractfile(member).read()
    assert dict(found) == expected and len(found) == 24
    assert contents(Index.open(shards)) == found  # from the saved file


def test_members_of_one_key_that_lie_apart_are_one_sample(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(archive([("a.png", b"1"), ("b.png", b"2"), ("a.json", b"3"), ("b.json", b"4"), ("b.json", b"5")]))
    index = Index.build([path])
    assert contents(index) == [("a", {"png": b"1", "json": b"3"}), ("b", {"png": b"2", "json": b"4"})]
    assert "there twice" in index.faults[0][2]


def test_merged_parts_equal_one_pass(shards):
    whole, merged = Index.build(shards), Index.merge([Index.build([path]) for path in shards])
    assert all((whole.arrays[name] == merged.arrays[name]).all() for name in Index.ARRAYS)
    assert whole.fingerprint == merged.fingerprint and contents(merged) == contents(whole)


def test_a_lost_header_keeps_its_sample_when_the_index_was_written_before(shards):
    index = Index.open(shards)
    before = contents(index)
    with Path(shards[1]).open("r+b") as file:
        offset = index.members(10)["png"][0] - 512
        file.seek(offset)
        file.write(bytes(512))
    assert contents(Index.open(shards)) == before
    with tarfile.open(shards[1]) as file:
        assert file.getnames() == [f"1-{name}" for name, _ in samples(8, 1)[:4]]  # what others still see
    Path(sidecar(shards)).unlink()
    rebuilt = Index.open(shards)
    assert len(rebuilt) == 24 and rebuilt.members(10).keys() == {"json"}
    assert rebuilt.faults == [(shards[1], offset, "a damaged header: the member behind it is lost")]
    assert Index.open(shards).faults == rebuilt.faults


def test_a_flipped_bit_is_found(shards):
    index = Index.open(shards)
    offset, size, _ = index.members(4)["json"]
    with Path(shards[0]).open("r+b") as file:
        file.seek(offset + size // 2)
        byte = file.read(1)[0]
        file.seek(offset + size // 2)
        file.write(bytes([byte ^ 4]))
    sample = Reader(index).read(4)
    with pytest.raises(DamagedSample, match="sample 0-0004: the bytes of member json do not match the hash"):
        sample.raw("json")
    assert sample.raw("png")  # a member that was not asked for costs nothing, and the others are sound


def test_a_cut_shard_keeps_its_index_and_a_rewritten_one_does_not(shards):
    index = Index.open(shards)
    data = Path(shards[2]).read_bytes()
    Path(shards[2]).write_bytes(data[: len(data) * 55 // 100])
    assert len(Index.open(shards)) == 24
    good = 0
    for n in range(24):
        try:
            good += all(Reader(index).read(n).raw(name) is not None for name in index.members(n))
        except DamagedSample as damage:
            assert damage.shard == shards[2]
    assert 16 < good < 24
    Path(shards[2]).write_bytes(archive(samples(2, 9)))
    assert len(Index.open(shards)) == 18


def test_a_vanished_shard_is_damage_of_its_samples(shards, tmp_path):
    index = Index.open(shards)
    (tmp_path / "s1.tar").unlink()
    with pytest.raises(DamagedSample, match="cannot be read"):
        Reader(index).read(9).raw("png")
    assert Reader(index).read(0).raw("png")


@pytest.mark.parametrize("damage", ["cut", "magic", "header", "empty"])
def test_a_damaged_index_is_made_again(shards, damage):
    before = Index.open(shards).fingerprint
    path = Path(sidecar(shards))
    data = path.read_bytes()
    path.write_bytes(
        {"cut": data[: len(data) // 2], "magic": b"X" + data[1:], "header": data[:40] + b"#" + data[41:], "empty": b""}[
            damage
        ]
    )
    with pytest.raises(DataError, match="delete it, it is made again"):
        Index.load(path, shards)
    assert Index.open(shards).fingerprint == before and Index.load(path, shards)


@given(st.integers(0, 600), st.binary(min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_a_scribble_in_the_head_of_an_index_is_noticed(tmp_path_factory, at, scribble):
    folder = tmp_path_factory.mktemp("scribble")
    path = folder / "a.tar"
    path.write_bytes(archive([("a.png", b"1")]))
    index_path = Index.build([path]).save()
    data = bytearray(index_path.read_bytes())
    length = 24 + int.from_bytes(data[8:16], "little")
    at = min(at, length - 1)
    damaged = data[:at] + scribble[: length - at] + data[at + len(scribble[: length - at]) :]
    index_path.write_bytes(damaged)
    if damaged == data:
        assert Index.load(index_path, [str(path)])
        return
    with pytest.raises(DataError):
        Index.load(index_path, [str(path)])


def test_an_index_of_another_data_set_is_refused(shards, tmp_path):
    path = Index.build(shards).save(tmp_path / "other.index")
    with pytest.raises(DataError, match=r"index of 3 other shards \(s0.tar, s1.tar …\), not of s2.tar"):
        Index.load(path, shards[::-1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg")))


def test_where_nothing_may_be_written_the_index_is_kept_elsewhere(shards, monkeypatch):
    save = Index.save

    def refuse(self, path):
        if path == Path(sidecar(shards)):
            raise PermissionError(13, "Permission denied", str(path))
        return save(self, path)

    monkeypatch.setattr(Index, "save", refuse)
    first = contents(Index.open(shards))
    monkeypatch.setattr(Index, "build", lambda *_: pytest.fail("read again"))
    assert contents(Index.open(shards)) == first and not Path(sidecar(shards)).exists()


def test_an_open_index_travels_as_its_path(shards):
    index = Index.open(shards)
    wire = pickle.dumps(index)
    assert len(wire) < 1000 and contents(pickle.loads(wire)) == contents(index)


def test_fifteen_million_samples_fit(tmp_path):
    """The format's own arithmetic, on one million samples of three members with twelve-letter keys."""
    n = 1_000_000
    rows = {"shard": n, "schema": n, "width": n, "height": n, "frames": n, "first": n, "key_end": n}
    arrays = {name: np.zeros(rows.get(name, 3 * n), Index.ARRAYS[name]) for name in Index.ARRAYS}
    arrays["keys"] = np.zeros(12 * n, np.uint8)
    arrays["key_end"][:] = np.arange(1, n + 1) * 12
    arrays["first"][:] = np.arange(n) * 3
    path = Index(["a.tar"], [0], [["jpg", "depth.pco", "json"]], arrays, []).save(tmp_path / "i")
    assert 15 * path.stat().st_size < 1.5e9
    opened = Index.load(path, ["a.tar"])
    assert opened.members(n - 1).keys() == {"jpg", "depth.pco", "json"}
    # nothing that grows with the samples is read or copied
    assert all(isinstance(array.base, np.memmap) or isinstance(array, np.memmap) for array in opened.arrays.values())


def test_a_member_missing_in_half_of_the_samples_is_refused(tmp_path):
    path = tmp_path / "half.tar"
    path.write_bytes(archive([*((f"{n}.png", b"x") for n in range(6)), *((f"{n}.json", b"{}") for n in range(3))]))
    index = Index.build([path])
    with pytest.raises(
        DataError, match="3 of 6 samples lack the member json .the first: 3 in .*half.tar, which has png"
    ):
        check_fields(index, ["png|jpg", "json"], 0.01, "data.train.urls")
    check_fields(index, ["png|jpg", "json"], 0.5, "data.train.urls")
    with pytest.raises(MissingMember, match="member json is missing; it has png"):
        Reader(index).read(3)["json"]
    assert Reader(index).read(3).get("json") is None
