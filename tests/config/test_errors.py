"""The catalogue of configuration mistakes: each is refused with its place, what was expected, and what to do."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from vstrain.config.command import Command
from vstrain.config.problems import ConfigError
from vstrain.config.schema import TrainConfig
from vstrain.verbs import embedded, train

DEPTH = ["experiment=depth_teacher"]


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Command("train", TrainConfig, list(words), embedded.check).config()
    return [str(problem) for problem in caught.value.problems]


def test_a_correct_configuration_passes():
    config = Command("train", TrainConfig, [*DEPTH, "optim.lr=1e-3", "trainer.max_steps=7"], embedded.check).config()
    assert (config.optim.lr, config.trainer.max_steps, config.run.experiment) == (1e-3, 7, "depth_teacher")


@pytest.mark.parametrize("word", ["optim.lrr=3", "+optim.lrr=3", "++optim.lrr=3"])
def test_unknown_key_however_it_is_spelled(word):
    (text,) = problems(*DEPTH, word)
    assert text.startswith("optim.lrr: no such key; did you mean optim.lr?")
    assert "override 'optim.lrr=3'" in text


def test_unknown_key_inside_an_experiment_file(tmp_path):
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("# @package _global_\ndefaults: [depth_teacher, _self_]\noptim: {lrr: 3}\n")
    (text,) = problems("experiment=mine", "--config-dir", str(tmp_path))
    assert text.startswith("optim.lrr: no such key; did you mean optim.lr?")
    assert str(file) in text


def test_all_mistakes_at_once():
    texts = problems(
        *DEPTH, "optim.lrr=3", "trainer.devices=two", "seed=-1", "scale=tiny", "system.sizes=vits", "nonsense"
    )
    starts = {text.partition(":")[0] for text in texts}
    assert starts == {"optim.lrr", "trainer.devices", "seed", "scale", "system.sizes", "nonsense"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["experiment=depth_techer"], "experiment: no choice 'depth_techer'; did you mean depth_teacher?"),
        ([*DEPTH, "optim.lr=fast"], "optim.lr: expected a valid number"),
        ([*DEPTH, "optim.lr=0"], "optim.lr: expected greater than 0, got 0"),
        ([*DEPTH, "trainer.precision=16"], "trainer.precision: expected '32', 'bf16-mixed' or 'bf16-true', got 16"),
        ([*DEPTH, "systm=depth"], "systm: no such key; did you mean system?"),
        (
            [*DEPTH, "data.procedural.sampels=9"],
            "data.procedural.sampels: no such key; did you mean data.procedural.samples?",
        ),
        ([*DEPTH, "system.module=nowhere.at_all"], "system.module: cannot use 'nowhere.at_all'"),
        ([*DEPTH, "data=shards"], "config: data=shards needs data.train.urls and data.val.urls"),
        ([*DEPTH, "data.batch_size=15", "trainer.accumulate=2"], "config: data.batch_size=15 must be a multiple of"),
        ([*DEPTH, "strategy=single", "trainer.devices=2"], "config: strategy=single runs on one device"),
        ([*DEPTH, "optim.lr=${optim.nothing}"], "optim.lr: "),
        ([*DEPTH, "--config-dir", "no/such/folder"], "--config-dir: "),
    ],
)
def test_catalogue(words, expected):
    assert any(text.startswith(expected) for text in problems(*words)), problems(*words)


def test_missing_values_name_the_key_to_set(tmp_path):
    (tmp_path / "system").mkdir()
    (tmp_path / "system" / "bare.yaml").write_text("module: vstrain.systems.depth\ndata_kind: depth\n")
    texts = problems("system=bare", "--config-dir", str(tmp_path))
    assert any(text.startswith("optim.lr: missing; set optim.lr=…") for text in texts)


def test_broken_yaml_names_its_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "broken.yaml").write_text("optim: {lr: [}\n")
    (text,) = problems("experiment=broken", "--config-dir", str(tmp_path))
    assert "broken.yaml" in text


def test_a_file_of_the_user_may_not_hide_a_packaged_one(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "depth_teacher.yaml").write_text("# @package _global_\nseed: 5\n")
    (text,) = problems(*DEPTH, "--config-dir", str(tmp_path))
    assert "depth_teacher.yaml" in text and "rename" in text


def test_every_job_of_a_sweep_is_checked_before_the_first_starts():
    with pytest.raises(ConfigError) as caught:
        Command("train", TrainConfig, ["-m", *DEPTH, "optim.lr=1e-3,fast", "seed=1,-2"], embedded.check).check_sweep()
    assert {problem.path for problem in caught.value.problems} == {"optim.lr", "seed"}


def test_the_parent_never_imports_torch(tmp_path):
    code = (
        "import sys\nfrom vstrain.cli import run\n"
        "assert run('train', ['experiment=depth_teacher', 'optim.lrr=1']) == 2\n"
        "heavy = [name for name in ('torch', 'lightning', 'transformers', 'diffusers') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys\nfrom vstrain import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = [name for name in ('torch', 'hydra', 'pydantic', 'numpy') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout and "doctor" in done.stdout


def test_unknown_verb(vstrain):
    assert "no verb 'trian'; did you mean train?" in vstrain("trian", "experiment=depth_teacher", code=2).stderr


def test_hydras_own_flags_work(vstrain, tmp_path):
    composed = yaml.safe_load(vstrain("experiment=depth_teacher", "optim.lr=0.5", "--cfg", "job").stdout)
    assert composed["optim"]["lr"] == 0.5 and composed["system"]["module"] == "vstrain.systems.depth"
    assert "preset: depth_demo" in vstrain("experiment=depth_teacher", "--info", "defaults-tree").stdout
    assert list(tmp_path.iterdir()) == []


def test_tab_completion_offers_choices(vstrain):
    line = "vstrain train experiment=depth_t"
    done = vstrain("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert "experiment=depth_teacher" in done.stdout


def test_what_this_machine_lacks_is_said_before_any_data_is_made(monkeypatch):
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    lacking = [*DEPTH, "strategy=zero2", "attention=xformers", "trainer.accelerator=cpu"]
    with pytest.raises(ConfigError) as caught:
        Command("train", TrainConfig, lacking, train.check).config()
    first, second, third = (str(problem) for problem in caught.value.problems)
    assert first.startswith("strategy: zero2 needs DeepSpeed") and "pip install 'vstrain[deepspeed]'" in first
    assert second.startswith("attention: xformers is not installed") and "attention=sdpa" in second
    assert (
        third.startswith("attention: xformers has kernels for CUDA only") and "override 'attention=xformers'" in third
    )
