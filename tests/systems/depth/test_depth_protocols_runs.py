"""`vstrain eval protocol=…` from the words to the files, on tiny networks."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

from tests.systems.depth.test_depth_protocols_layouts import diode, kitti, options, photo, write
from vstrain.config import checkpoints, rundir
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError, InputError
from vstrain.config.schema import TrainConfig
from vstrain.config.verbs import EvalConfig
from vstrain.engine import evaluate as engine
from vstrain.systems.depth import protocols
from vstrain.systems.depth.metrics import METRICS
from vstrain.systems.depth.protocols import dense
from vstrain.verbs import job
from vstrain.verbs.eval import with_protocol


@pytest.fixture
def run_of(tmp_path, make_system):
    """A run directory with a checkpoint of a tiny network, without having trained."""

    def make(**keys):
        folder = tmp_path / "run"
        step = folder / "checkpoints" / "step-00000001"
        step.mkdir(parents=True)
        system = make_system(**keys)
        words = ["experiment=depth_teacher", "scale=demo", "system.image_size=56", "system.size=tiny"]
        values = yaml.safe_load(rundir.dump(Command("train", TrainConfig, words).config()))
        values["system"] = system.config.model_dump(mode="json")
        (folder / "resolved.yaml").write_text(yaml.safe_dump(values))
        weights = {name: value.contiguous() for name, value in system.state_dict().items()}
        save_file(weights, step / "model.safetensors")
        files = {"model.safetensors": checkpoints.checksum(step / "model.safetensors")}
        (step / "meta.json").write_text(json.dumps({"step": 1, "samples_seen": 1, "files": files}))
        (folder / "checkpoints" / "last").symlink_to(step.name)
        return folder

    return make


def configured(*words):
    return Command("eval", EvalConfig, with_protocol([*words, "accelerator=cpu", "threads=1"]), job.check).config()


def test_a_whole_run_leaves_its_numbers_and_what_pins_them(tmp_path, run_of, capsys):
    kitti(tmp_path / "kitti", (5, 69, 7))
    for path in (tmp_path / "kitti").glob("data*/**/*.png"):
        write(path, np.random.default_rng(len(path.name)).integers(0, 20000, (40, 120), dtype=np.uint16))
    for path in (tmp_path / "kitti").glob("raw/**/*.png"):
        write(path, photo(40, 120))
    words = [f"ckpt={run_of()}", "protocol=kitti_eigen", f"root={tmp_path / 'kitti'}", "resamples=50"]
    out = tmp_path / "out"
    out.mkdir()
    assert engine.run(configured(*words, f"output={out}"), out) == "finished"
    facts = json.loads((out / "results.json").read_text())
    assert facts["protocol"]["cap"] == 80 and facts["protocol"]["crop"] == "garg" and facts["version"] == 1
    assert facts["images"] == 3 and facts["weights"]["model.safetensors"]["xxh3"] and facts["system"]["size"] == "tiny"
    assert facts["warnings"] == ["3 images, published scores are over 652: do not compare"]
    rows = list(csv.DictReader((out / "images.csv").open()))
    assert len(rows) == 3
    for name in METRICS:
        mean = np.mean([float(row[name]) for row in rows])
        assert facts["metrics"][name] == pytest.approx(mean, rel=1e-12)
        assert facts["metrics"][f"{name}/low"] <= mean <= facts["metrics"][f"{name}/high"]
    assert cv2.imread(str(out / "pictures/kitti_eigen_best_and_worst.png")).shape[2] == 3

    other = tmp_path / "other"
    shutil.copytree(tmp_path / "kitti", tmp_path / "moved")
    moved = [word.replace("/kitti", "/moved") for word in words]
    engine.run(configured(*moved, "samples=2", "cap=70", "crop=none", "space=disparity", f"output={other}"), other)
    again = json.loads((other / "results.json").read_text())
    assert again["images"] == 2 and again["samples"] == 2 and again["list"] != facts["list"]
    assert again["protocol"]["cap"] == 70 and again["protocol"]["space"] == "disparity"
    assert any("first 2 of 3" in warning for warning in again["warnings"])
    engine.run(configured(*moved, f"output={other}"), other)
    repeated = json.loads((other / "results.json").read_text())
    assert repeated["list"] == facts["list"] and repeated["metrics"] == facts["metrics"], (
        "another place, the same numbers"
    )


def test_images_without_a_pixel_to_count_are_named(tmp_path, make_system):
    diode(tmp_path)
    depth = next(tmp_path.glob("val/outdoor/**/*_depth.npy"))
    np.save(depth, np.full((5, 7, 1), 300, np.float32))
    system = make_system()
    report = protocols.evaluate(system, options("diode", tmp_path), None, tmp_path, lambda done, total: None)
    (name,) = report.facts["not_scored"]
    assert name.startswith("outdoor/") and name in report.text and "2 images" in report.text
    with pytest.raises(InputError, match="none of 2 images"):
        protocols.evaluate(system, options("diode", tmp_path, cap=0.01), None, tmp_path, lambda done, total: None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["protocol=kiti_eigen", "root=."], "protocol: no choice 'kiti_eigen'; did you mean kitti_eigen?"),
        (
            ["protocol=xyz", "root=."],
            "no choice 'xyz'; expected one of da2k, diode, eth3d, folder, kitti_eigen, nyuv2, sintel",
        ),
        (["protocol.root=."], "protocol: missing; set protocol=… (expected one of da2k"),
        (["protocol=sintel"], "protocol.root: missing; set protocol.root="),
        (["protocol=sintel", "root=/nowhere"], "root=/nowhere: no such folder"),
        (["protocol=sintel", "root=.", "cap=far"], "protocol.cap: expected a valid number"),
        (["protocol=sintel", "root=.", "crop=middle"], "protocol.crop: expected 'none', 'garg', 'eigen' or 'nyu'"),
        (["protocol=sintel", "root=.", "rendring=clean"], "did you mean protocol.rendering?"),
        (["protocol=sintel", "root=.", "align=none"], "align=none needs a metric model"),
        (["protocol=sintel", "root=.", "urls=[x.tar]"], "urls and protocol"),
        (["protocol=sintel", "root=."], "expected training/final/<scene>/frame_*.png"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_starts(words, sentence, run_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ckpt = run_of()
    with pytest.raises(ConfigError) as error:
        configured(f"ckpt={ckpt}", *words)
    assert sentence in str(error.value) and len(error.value.problems) == 1


def test_words_of_the_verb_stay_its_own():
    words = ["ckpt=x", "protocol=diode", "cap=7", "samples=3", "system.image_size=28", "output=o", "run.dir=d"]
    assert with_protocol(words) == [*words[:2], "protocol.cap=7", *words[3:]]
    assert with_protocol(["ckpt=x", "cap=7"]) == ["ckpt=x", "cap=7"]


def test_a_system_without_protocols_says_so():
    from vstrain.systems.drag.config import Config

    system = Config.model_construct(module="vstrain.systems.drag")
    (problem,) = job.check_protocol({"name": "diode"}, system, lambda path: "")
    assert "vstrain.systems.drag has no protocols" in problem.sentence
    system = Config.model_construct(module="vstrain.systems.depth")
    (problem,) = job.check_protocol({"name": "mine"}, system, lambda path: "")
    assert "knows no protocol 'mine'; expected one of da2k" in problem.sentence


def test_the_parent_part_is_torch_free():
    import subprocess
    import sys

    code = "import sys, vstrain.systems.depth.protocols; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metric_predictions_are_metres(make_system, tmp_path, monkeypatch):
    """The whole protocol on a metric system: exact metres are perfect, a factor of two is not."""
    write(tmp_path / "rgb/1.png", photo(30, 40))
    depth = np.random.default_rng(0).uniform(1, 20, (30, 40)).astype(np.float32)
    write(tmp_path / "depth/1.npy", depth)
    system = make_system(output="metric", max_depth=80.0)
    for factor, expected in ((1, 0), (2, 1)):
        monkeypatch.setattr(dense, "disparity_of", lambda system, image, factor=factor: factor * depth)
        report = protocols.evaluate(system, options("folder", tmp_path), None, tmp_path, lambda done, total: None)
        assert (
            report.metrics["abs_rel"] == pytest.approx(expected, abs=1e-6)
            and "metric model, no alignment" in report.text
        )
    assert "field of view" not in report.text
    system = make_system(output="metric", max_depth=80.0, camera=1.0)
    report = protocols.evaluate(system, options("folder", tmp_path), None, tmp_path, lambda done, total: None)
    assert "field of view 55 degrees" in report.facts["how"], "metres of a system with a camera depend on it"
