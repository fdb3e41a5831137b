"""Other people's data sets as shards: what comes through byte by byte, what is encoded anew, counted, refused."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml
from PIL import Image

from data_pipelines.convert.config import Config
from data_pipelines.convert.run import Result, run
from tests.data_pipelines.production_world import tree
from vstrain.config.problems import InputError
from vstrain.data import codecs
from vstrain.data.index import Index, check_fields
from vstrain.data.kinds import required
from vstrain.data.reader import Reader
from vstrain.data.storage import expand
from vstrain.verbs import data as verb

DEFAULTS = Path(__file__).parents[2] / "conf/pipeline/convert.yaml"
COLUMNS = {"jpg": "image", "txt": "caption"}


def config(source, **keys) -> Config:
    source = [str(one) for one in source] if isinstance(source, list) else str(source)
    return Config(**{**yaml.safe_load(DEFAULTS.read_text()), "executor": "in_process", "source": source, **keys})


def convert(source, out, **keys) -> Result:
    return run(config(source, out=str(out), **keys), lambda *_: None)


def raw(folder: Path, split: str = "*") -> dict[str, dict[str, bytes]]:
    """key -> member -> bytes, as tarfile reads them."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(Path(folder).glob(f"{split}-*.tar")):
        with tarfile.open(shard) as tar:
            for info in tar:
                key, _, name = info.name.partition(".")
                samples.setdefault(key, {})[name] = tar.extractfile(info).read()
    return samples


def adds_up(result: Result) -> bool:
    s = result.summary
    return s["found"] == sum(s["kept"].values()) + sum(s["rejected"].values()) + s["left_out"]


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (24 + n % 3, 32, 3), dtype=np.uint8)


def picture(n: int, form: str = "jpeg", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(n)).save(buffer, form, **options)
    return buffer.getvalue()


def movie(n: int) -> bytes:
    frames = np.zeros((10, 32, 48, 3), np.uint8) + np.arange(10, dtype=np.uint8)[:, None, None, None] * 20 + np.uint8(n)
    return codecs.encode("mp4", frames, fps=5)


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for name, data in members.items():
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def downloaded(folder: Path, ending: str = "jpg", shards: int = 2, each: int = 6) -> Path:
    """What img2dataset (ending jpg) and video2dataset (ending mp4) leave: 00000.tar, 00000.parquet, 00000_stats.json."""
    for shard in range(shards):
        rows = {}
        for n in range(shard * each, (shard + 1) * each):
            facts = {
                "url": f"https://example.org/{n}",
                "status": "success",
                "caption": f"caption {n}",
                "key": f"{n:09d}",
            }
            content = picture(n) if ending == "jpg" else movie(n)
            rows[f"{n:09d}"] = {ending: content, "json": json.dumps(facts).encode(), "txt": f"caption {n}".encode()}
        write_tar(folder / f"{shard:05d}.tar", rows)
        parquet.write_table(pa.table({"url": list(rows)}), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": each, "successes": each}))
    return folder


def table(count: int = 12) -> datasets.Dataset:
    """Pictures as datasets stores them: a JPEG, a PNG, a JPEG, …"""
    content = [picture(n, "png" if n % 2 else "jpeg") for n in range(count)]
    rows = {
        "image": [{"bytes": data, "path": None} for data in content],
        "caption": [f"caption {n}" if n != 3 else None for n in range(count)],
        "score": [n / 2 for n in range(count)],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Value("string"), "score": datasets.Value("float64")}
    )
    return datasets.Dataset.from_dict(rows, features=features)


# ---- what img2dataset and video2dataset leave ---------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "kind"), [("jpg", "image"), ("mp4", "clip")])
def test_downloads_are_read_as_they_are(tmp_path, ending, kind):
    folder = downloaded(tmp_path / "in", ending)
    index = Index.open(expand([f"{folder}/*.tar"]))
    assert len(index) == 12 and not index.faults and len(index.shards) == 2
    check_fields(index, required(kind), 0.0, "shards")
    for n in (0, 5, 6, 11):
        sample = Reader(index).read(n)
        assert sample["txt"] == sample["json"]["caption"] == f"caption {n}" and sample.key == f"{n:09d}"
        assert set(sample) == {"__key__", ending, "json", "txt"}
        if ending == "jpg":
            assert (sample["jpg"] == codecs.decode("jpg", picture(n))).all()
        else:
            assert sample["mp4"].shape == (10, 32, 48, 3) and abs(int(sample["mp4"][7].mean()) - 140 - n) < 4
    assert index.frames.tolist() == [1 if ending == "jpg" else 10] * 12


@pytest.mark.parametrize(("ending", "kind"), [("jpg", "image"), ("mp4", "clip")])
def test_downloads_are_converted_byte_by_byte(tmp_path, ending, kind):
    folder = downloaded(tmp_path / "in", ending)
    result = convert(folder, tmp_path / "out", kind=kind, val_fraction=0.25, shard_samples=4)
    assert adds_up(result) and result.summary["found"] == 12 and not result.summary["rejected"]
    written = raw(tmp_path / "out")
    original = raw_of(folder)
    assert written == original
    assert len(raw(tmp_path / "out", "val")) == result.summary["kept"]["val"] > 0
    assert len(Index.open(expand([f"{tmp_path}/out/train-*.tar"]))) == result.summary["kept"]["train"]


def raw_of(folder: Path) -> dict[str, dict[str, bytes]]:
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for info in tar:
                key, _, name = info.name.partition(".")
                samples.setdefault(key, {})[name] = tar.extractfile(info).read()
    return samples


def test_an_unfinished_download_shard_is_left_out(tmp_path):
    folder = downloaded(tmp_path / "in", shards=3)
    (folder / "00001_stats.json").unlink()
    result = convert(folder, tmp_path / "out")
    assert set(raw(tmp_path / "out")) == {f"{n:09d}" for n in (*range(6), *range(12, 18))}
    assert result.summary["rejected"] == {"unfinished shard": 1} and adds_up(result)


# ---- plain shards -----------------------------------------------------------------------------------------------------


def test_addresses_members_and_keys(tmp_path):
    """Keys with folders, that repeat in the next shard; two members of other names; splits by the names of the shards."""
    for shard, name in enumerate(("train-0", "train-1", "valid-0")):
        samples = {
            f"a/b{n}": {"image.png": picture(n, "png"), "cap.txt": b"%d" % shard, "x.cls": b"1"} for n in range(3)
        }
        write_tar(tmp_path / f"in/{name}.tar", samples)
    columns = {"png": "image.png", "txt": "cap.txt"}
    result = convert(
        [f"{tmp_path}/in/train-{{0..1}}.tar", f"{tmp_path}/in/valid-*.tar"], tmp_path / "out", columns=columns
    )
    assert result.summary["kept"] == {"train": 6, "val": 3}
    assert set(raw(tmp_path / "out", "val")) == {f"valid-0_a_b{n}" for n in range(3)}
    assert raw(tmp_path / "out", "train")["train-1_a_b2"] == {"png": picture(2, "png"), "txt": b"1"}


def test_a_damaged_tar_loses_what_is_damaged_only(tmp_path):
    samples = {f"s{n}": {"jpg": picture(n)} for n in range(4)}
    samples["s1"]["jpg"] = samples["s1"]["jpg"][:-200]
    samples["s2"]["jpg"] = b""
    path = write_tar(tmp_path / "in.tar", samples)
    data = bytearray(path.read_bytes())
    at = data.find(b"s3.jpg")
    data[at : at + 20] = b"x" * 20
    path.write_bytes(bytes(data))
    result = convert(path, tmp_path / "out", val_fraction=0)
    assert set(raw(tmp_path / "out")) == {"s0"} and adds_up(result)
    assert result.summary["rejected"] == {"damaged tar": 1, "unreadable image": 2}
    lines = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {"damaged tar", "unreadable image"}
    assert any("in.tar: row 1 (s1), jpg" in line["why"] for line in lines)


# ---- Hugging Face datasets ---------------------------------------------------------------------------------------------


def check_table(out: Path, result: Result, prefix: str = "row_") -> None:
    written = raw(out)
    assert adds_up(result) and set(written) == {f"{prefix}{n:08d}" for n in range(12)}
    for n in range(12):
        sample = written[f"{prefix}{n:08d}"]
        if n % 2:
            assert np.abs(codecs.decode("jpg", sample["jpg"]).astype(int) - pixels(n)).mean() < 12
        else:
            assert sample["jpg"] == picture(n)  # not encoded anew
        assert sample.get("txt") == (f"caption {n}".encode() if n != 3 else None)
    assert result.summary["notes"] == {"encoded anew as jpg": 6, "without txt, the cell is empty": 1}


def test_a_saved_data_set(tmp_path):
    table().save_to_disk(tmp_path / "in")
    check_table(tmp_path / "out", convert(tmp_path / "in", tmp_path / "out", columns=COLUMNS))


def test_a_folder_of_parquet_files(tmp_path):
    for part in range(3):
        table().select(range(4 * part, 4 * part + 4)).to_parquet(tmp_path / f"in/data/{part}.parquet", batch_size=3)
    check_table(tmp_path / "out", convert(tmp_path / "in", tmp_path / "out", columns=COLUMNS, shard_samples=5))


def test_a_stream(tmp_path):
    (tmp_path / "in").mkdir()
    table().to_parquet(tmp_path / "in/a.parquet")
    keys = {"columns": COLUMNS, "streaming": True, "shard_samples": 5, "executor": "pool", "processes": 2}
    with pytest.raises(InputError, match="does not say how many rows its train has; give limit="):
        convert(tmp_path / "in", tmp_path / "out", **keys)
    result = convert(tmp_path / "in", tmp_path / "out", **keys, limit=14)
    assert result.summary["rejected"] == {"no such row": 2} and result.summary["kept"]["train"] == 12
    written = raw(tmp_path / "out")
    assert len(written) == 12 and written["row_00000010"]["jpg"] == picture(10)


def test_splits_of_the_source_are_followed(tmp_path):
    datasets.DatasetDict({"train": table(8), "validation": table(3), "test": table(2)}).save_to_disk(tmp_path / "in")
    result = convert(tmp_path / "in", tmp_path / "out", columns=COLUMNS, val_fraction=0.5, limit=4)
    assert result.summary["kept"] == {"train": 4, "val": 4} and result.summary["left_out"] == 5 and adds_up(result)


def test_splits_of_different_columns(tmp_path):
    less = table(3).remove_columns("caption")
    datasets.DatasetDict({"train": table(4), "test": less}).save_to_disk(tmp_path / "in")
    with pytest.raises(InputError, match="has no column caption; expected one of image, score"):
        convert(tmp_path / "in", tmp_path / "out", columns=COLUMNS)
    result = convert(tmp_path / "in", tmp_path / "out", columns={"png": "image"})
    assert result.summary["kept"] == {"train": 4, "val": 3}
    assert raw(tmp_path / "out", "train")["row_00000001"] == {"png": picture(1, "png")}


def test_a_saved_data_set_of_videos(tmp_path):
    features = datasets.Features({"video": datasets.Video(), "caption": datasets.Value("string")})
    rows = {"video": [{"bytes": movie(n), "path": None} for n in range(3)], "caption": list("abc")}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "in")
    columns = {"mp4": "video", "txt": "caption"}
    convert(
        tmp_path / "in", tmp_path / "out", kind="clip", columns=columns, executor="pool", processes=2, shard_samples=1
    )
    assert raw(tmp_path / "out") == {f"row_{n:08d}": {"mp4": movie(n), "txt": b"abc"[n : n + 1]} for n in range(3)}


def test_json_of_columns_and_arrays(tmp_path):
    rows = {"pixels": [pixels(0).tolist()], "a": [1.5], "b": [["x", "y"]], "about": ['{"k": 1}']}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", columns={"png": "pixels", "json": ["a", "b"]}, val_fraction=0)
    (sample,) = raw(tmp_path / "out").values()
    assert json.loads(sample["json"]) == {"a": 1.5, "b": ["x", "y"]}
    assert (codecs.decode("png", sample["png"]) == pixels(0)).all()
    convert(tmp_path / "in", tmp_path / "two", columns={"png": "pixels", "json": "about"}, val_fraction=0)
    assert json.loads(next(iter(raw(tmp_path / "two").values()))["json"]) == {"k": 1}


def test_paths_are_relative_to_the_source(tmp_path):
    rows = {"file": ["a.jpg", "gone.jpg"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "in")
    (tmp_path / "in/a.jpg").write_bytes(picture(1))
    result = convert(tmp_path / "in", tmp_path / "out", columns={"jpg": "file"}, val_fraction=0)
    assert raw(tmp_path / "out") == {"row_00000000": {"jpg": picture(1)}}
    assert result.summary["rejected"] == {"missing file": 1}


def test_other_kinds(tmp_path):
    depth = np.arange(24 * 32, dtype=np.float32).reshape(24, 32)
    sample = {"rgb.png": picture(0, "png"), "d.npy": codecs.encode("npy", depth), "m.json": b'{"unit":"depth"}'}
    write_tar(tmp_path / "in.tar", {"s": sample, "t": sample | {"d.npy": b"nothing"}})
    columns = {"png": "rgb.png", "depth.npy": "d.npy", "json": "m.json"}
    result = convert(tmp_path / "in.tar", tmp_path / "out", kind="depth", columns=columns, val_fraction=0)
    assert raw(tmp_path / "out") == {
        "s": {"png": sample["rgb.png"], "depth.npy": sample["d.npy"], "json": sample["m.json"]}
    }
    assert result.summary["rejected"] == {"unreadable member": 1}


# ---- values -------------------------------------------------------------------------------------------------------------


def test_a_turned_photo_is_stored_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = pixels(0)
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(upright)).save(buffer, "jpeg", quality=100, subsampling=0, exif=exif)
    write_tar(tmp_path / "in.tar", {"a": {"jpg": buffer.getvalue()}})
    result = convert(tmp_path / "in.tar", tmp_path / "out", val_fraction=0)
    stored = codecs.decode("jpg", raw(tmp_path / "out")["a"]["jpg"])
    assert stored.shape == upright.shape and np.abs(stored.astype(int) - upright).mean() < 20
    assert result.summary["notes"] == {"turned upright by EXIF and encoded anew": 1}


def test_videos_of_other_containers_and_damaged_ones(tmp_path):
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=5, options={"deadline": "realtime"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for n in range(70):
            frame = np.full((32, 48, 3), 3 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    samples = {"a": {"mp4": movie(0)}, "b": {"mp4": buffer.getvalue()}, "c": {"mp4": movie(0)[:-50]}, "d": {"mp4": b""}}
    write_tar(tmp_path / "in.tar", samples)
    result = convert(tmp_path / "in.tar", tmp_path / "out", kind="clip", val_fraction=0)
    written = raw(tmp_path / "out")
    assert set(written) == {"a", "b"} and written["a"] == samples["a"]
    assert result.summary["rejected"] == {"unreadable video": 2}
    assert result.summary["notes"] == {"encoded anew as mp4": 1}
    clip, before = codecs.Clip(written["b"]["mp4"]), codecs.Clip(buffer.getvalue())
    assert clip.fps == 5 and clip.shape == (70, 32, 48, 3)
    assert np.abs(np.asarray(clip).astype(int) - np.asarray(before)).max() < 6


@pytest.mark.parametrize(
    ("column", "values", "columns", "reason"),
    [
        ("image", [None], {"jpg": "image"}, "no value"),
        ("image", [b"GIF89a nonsense"], {"jpg": "image"}, "unreadable image"),
        ("image", [[[0.5, 0.5]]], {"jpg": "image"}, "not a picture"),
        ("clip", [[[1, 2], [3, 4]]], {"mp4": "clip"}, "not a video"),
        ("words", [3], {"txt": "words"}, "not text"),
        ("words", [b"\xff\xfe\xff"], {"txt": "words"}, "not text"),
        ("facts", ["{not json"], {"json": "facts"}, "not json"),
        ("facts", [5], {"json": "facts"}, "not json"),
    ],
)
def test_values_that_do_not_fit_are_rejected(tmp_path, column, values, columns, reason):
    """The second row is fine; without it nothing would be left."""
    good = {"image": picture(0), "clip": movie(0)}
    kind = "clip" if "mp4" in columns else "image"
    main = "clip" if kind == "clip" else "image"
    rows = {main: pa.array([good[main]]), column: pa.array(values)} if column != main else {main: pa.array(values)}
    parquet.write_table(pa.table(rows), tmp_path / "a.parquet")
    columns = {("mp4" if kind == "clip" else "jpg"): main, **columns}
    with pytest.raises(InputError, match=f"all 1 samples were rejected .1 {reason}.*a.parquet: row 0"):
        convert(tmp_path / "a.parquet", tmp_path / "out", columns=columns, kind=kind)


# ---- words for mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"columns": {"jpg": "imgae"}}, "columns.jpg: .* has no column imgae; did you mean image?"),
        ({"columns": {"jgp": "image"}}, "columns.jgp: kind image has no member jgp; did you mean jpg?"),
        ({"columns": {"txt": "caption"}}, "needs jpg or png or webp; .* has image, caption, score"),
        ({}, "needs jpg or png or webp; say which column it is, as in columns={jpg: COLUMN}"),
        ({"columns": {"jpg": ["image", "score"]}}, "several columns make a json member only"),
    ],
)
def test_wrong_columns_get_one_sentence(tmp_path, keys, sentence):
    table().save_to_disk(tmp_path / "in")
    with pytest.raises(InputError, match=sentence) as error:
        convert(tmp_path / "in", tmp_path / "out", **keys)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_unknown_sources_and_kinds_get_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    for source, says in (
        (tmp_path / "gone", "no such source; expected a folder saved by datasets"),
        ("owner/name", "no such source; .* streaming=true"),
        (tmp_path / "empty", "holds no data set that can be read"),
        (tmp_path / "bad.parquet", "is not a parquet file"),
        (tmp_path / "gone.tar", "no such shard"),
        (f"{tmp_path}/*.tar", "no shard matches"),
    ):
        with pytest.raises(InputError, match=says):
            convert(source, tmp_path / "out")
    with pytest.raises(ValueError, match="no kind 'imagee'; did you mean image?"):
        config(tmp_path, kind="imagee")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    table().save_to_disk(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="needs the package datasets: pip install datasets"):
        convert(tmp_path / "in", tmp_path / "out", columns=COLUMNS)


def test_a_name_that_cannot_be_streamed_gets_one_sentence(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(
        InputError, match="datasets cannot stream it .*; check the name, subset= and the network"
    ) as error:
        convert(tmp_path / "nothing", tmp_path / "out", streaming=True)
    assert "\n" not in str(error.value)


# ---- production ---------------------------------------------------------------------------------------------------------


def test_stopped_and_started_again_gives_the_same_bytes(tmp_path, monkeypatch):
    from data_pipelines.convert import run as module

    folder = downloaded(tmp_path / "in", shards=3)
    convert(folder, tmp_path / "whole", shard_samples=4)
    build, seen = module.build, []

    def stopping(row, **rest):
        seen.append(row)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return build(row, **rest)

    monkeypatch.setattr(module, "build", stopping)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "halves", shard_samples=4)
    done = len(list((tmp_path / "halves").glob("*.tar")))
    convert(folder, tmp_path / "halves", shard_samples=4)
    assert 0 < done < len(list((tmp_path / "whole").glob("*.tar")))
    assert tree(tmp_path / "halves") == tree(tmp_path / "whole")


def test_changed_shards_are_another_data_set(tmp_path):
    folder = downloaded(tmp_path / "in")
    convert(folder, tmp_path / "out")
    write_tar(folder / "00000.tar", {f"{n:09d}": {"jpg": picture(n + 50)} for n in range(6)})
    for index in folder.glob(".*index"):
        index.unlink()
    with pytest.raises(InputError, match="overwrite=true"):
        convert(folder, tmp_path / "out")
    convert(folder, tmp_path / "out", overwrite=True)
    assert raw(tmp_path / "out")["000000000"] == {"jpg": picture(50)}


def test_the_command(tmp_path, capfd):
    table().save_to_disk(tmp_path / "in")
    words = [f"source={tmp_path}/in", f"out={tmp_path}/out", "columns={jpg: image, txt: caption, json: [score]}"]
    assert verb.main(["convert", *words, "executor=in_process", "val_fraction=0.1"]) == 0
    said = capfd.readouterr().err
    assert "found 12 = kept 12" in said and "6 samples: encoded anew as jpg" in said and "data.train.urls" in said
    assert json.loads(raw(tmp_path / "out")["row_00000004"]["json"]) == {"score": 2.0}
