"""Depth in every format that is read: the same numbers, to the bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from vstrain.config.compose import Composer
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.data import codecs, kinds
from vstrain.data.depth import MEMBERS, depth_of
from vstrain.data.index import Index
from vstrain.data.kinds import SampleError
from vstrain.data.reader import DamagedSample, Reader
from vstrain.data.writer import ShardWriter
from vstrain.systems.depth.prepare import prepare

RNG = np.random.default_rng(2)
MILLIMETRES = RNG.integers(0, 65536, (9, 7), dtype=np.uint16)
METRES = (RNG.random((9, 7)) * 80).astype(np.float32)
METRES[0, :3] = [np.nan, np.inf, 0]


def exr(**channels: np.ndarray) -> bytes:
    import OpenEXR

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.exr"
        OpenEXR.File({"type": OpenEXR.scanlineimage}, channels).write(str(path))
        return path.read_bytes()


def sample(name: str, stored, **facts) -> dict:
    picture = np.zeros((9, 7, 3), np.uint8)
    return {"__key__": "s", "png": picture, name: stored, "json": {"unit": "depth", **facts}}


def through_a_shard(folder: Path, one: dict):
    with ShardWriter(folder, "train", "depth") as writer:
        writer.write(one)
    return Reader(Index.open([str(folder / "train-000000.tar")])).read(0)


HALF = METRES.astype(np.float16)
FLOATS = {
    "pco": ("depth.pco", METRES, METRES),
    "pco half": ("depth.pco", HALF, HALF),
    "npy": ("depth.npy", METRES, METRES),
    "npy half": ("depth.npy", HALF, HALF),
    "npy with a channel": ("depth.npy", METRES[..., None], METRES),
    "npy double": ("depth.npy", METRES.astype(np.float64), METRES),
    "npz": ("depth.npz", {"arr_0": METRES}, METRES),
    "npz of several": ("depth.npz", {"mask": METRES > 1, "Depth": HALF}, HALF),
    "exr": ("depth.exr", exr(Z=METRES), METRES),
    "exr half": ("depth.exr", exr(Y=HALF), HALF),
    "exr layers": ("depth.exr", exr(**{"depth.Z": METRES, "R": HALF, "G": HALF, "B": HALF}), METRES),
    "exr grey": ("depth.exr", exr(R=METRES, G=METRES, B=METRES), METRES),
}


@pytest.mark.parametrize("case", FLOATS)
def test_floats_are_the_numbers_themselves(tmp_path, case):
    name, stored, expected = FLOATS[case]
    found = depth_of(through_a_shard(tmp_path, sample(name, stored, depth_scale=0.001)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("name", ["depth.png", "depth.npy", "depth.pco", "depth.npz"])
@pytest.mark.parametrize("scale", [0.001, 1 / 256, 2])
def test_integers_are_scaled(tmp_path, name, scale):
    stored = {"depth": MILLIMETRES} if name.endswith("npz") else MILLIMETRES
    read = through_a_shard(tmp_path, sample(name, stored, depth_scale=scale))
    expected = np.array([[np.float32(int(v) * scale) for v in row] for row in MILLIMETRES])
    np.testing.assert_array_equal(depth_of(read), expected)


@pytest.mark.parametrize("scale", [None, 0, -1.0, "0.001", float("nan"), True])
def test_integers_without_a_scale_are_refused(scale):
    facts = {} if scale is None else {"depth_scale": scale}
    with pytest.raises(
        SampleError, match=f"sample s: depth.png holds integers, and json's depth_scale is {scale}; .* 0.001"
    ):
        depth_of(sample("depth.png", MILLIMETRES, **facts))


@pytest.mark.parametrize(
    ("name", "stored", "sentence"),
    [
        ("depth.npy", np.zeros((9, 7, 3), np.float32), r"float32 \(9, 7, 3\); expected one map"),
        ("depth.npy", np.zeros((9, 7), bool), "expected one map of numbers"),
        ("depth.npz", {"a": METRES, "b": METRES}, "holds the arrays a, b; expected one, or one named depth"),
        ("depth.jxl", METRES, "has no depth; expected one of depth.pco, depth.png"),
    ],
)
def test_what_is_not_depth_is_named(name, stored, sentence):
    with pytest.raises(SampleError, match=f"sample s: .*{sentence}"):
        depth_of(sample(name, stored))


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [(exr(A=METRES, C=HALF), "channels A, C; expected one"), (b"v/1\x01nonsense", "not a whole EXR")],
)
def test_a_damaged_exr_is_a_damaged_sample(tmp_path, stored, sentence):
    with pytest.raises(DamagedSample, match=f"depth.exr does not decode .*{sentence}"):
        depth_of(through_a_shard(tmp_path, sample("depth.exr", stored)))


def test_the_system_reads_whichever_is_there():
    rng = np.random.default_rng(0)
    depth = rng.integers(1, 60000, (56, 70), dtype=np.uint16)
    picture = rng.integers(0, 256, (56, 70, 3), dtype=np.uint8)
    with Composer("train", ["experiment=depth_teacher", "system.image_size=28"]) as composer:
        config = validate(composer.compose(), TrainConfig).system
    metres = (depth * 0.001).astype(np.float32)
    items = [
        prepare({**sample(name, stored, depth_scale=0.001), "png": picture}, config, np.random.default_rng(5), True)
        for name, stored in (
            ("depth.pco", metres),
            ("depth.png", depth),
            ("depth.npy", metres),
            ("depth.npz", {"z": depth}),
        )
    ]
    assert items[0]["valid"].all()
    for item in items[1:]:
        for name, value in items[0].items():
            np.testing.assert_array_equal(item[name], value)
    with pytest.raises(SampleError, match="depth.png has no valid pixel"):
        prepare({**sample("depth.png", 0 * depth, depth_scale=1), "png": picture}, config, rng, False)


def test_the_kind_takes_any_of_them():
    assert "|".join(MEMBERS) in kinds.required("depth")
    for name in MEMBERS:
        kinds.check("depth", sample(name, b""))
    with pytest.raises(SampleError, match="member depth.pco is missing .*depth.png or depth.exr"):
        kinds.check("depth", {"__key__": "s", "png": b"", "json": {}})
    with pytest.raises(SampleError, match="differ in size"):
        kinds.check("depth", sample("depth.npy", METRES[:4]))


def test_a_channel_axis_may_stand_in_front():
    np.testing.assert_array_equal(depth_of(sample("depth.npy", METRES[None])), METRES)


def test_the_written_format_comes_first():
    both = sample("depth.pco", METRES) | {"depth.png": MILLIMETRES}
    np.testing.assert_array_equal(depth_of(both), METRES)


def test_codecs_name_every_member():
    assert codecs.extension_of("depth.PCO") == "pco"
    with pytest.raises(ValueError, match="no codec"):
        codecs.encode("depth.exr", METRES)
