"""Every shipped YAML composes, validates, and builds."""

from __future__ import annotations

import pytest
import torch
import yaml

from vstrain.config import rundir
from vstrain.config.command import Command
from vstrain.config.compose import CONF
from vstrain.config.problems import ConfigError
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.config.verbs import MODELS
from vstrain.engine import build
from vstrain.verbs import embedded

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
SCALES = sorted(path.stem for path in (CONF / "scale").glob("*.yaml"))
NEEDED = {
    "depth_student": ["system.student.teacher=runs/teacher"],
    "depth_finetune": ["system.init=runs/teacher"],
}
GROUPS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name in ("callbacks", "launcher", "logger", "optim", "schedule", "site", "strategy", "trainer")
)


def words(experiment: str) -> list[str]:
    """What a user must say to run an experiment."""
    return [f"experiment={experiment}", *NEEDED.get(experiment, [])]


def compose(*words: str) -> TrainConfig:
    return Command("train", TrainConfig, list(words), embedded.check).config()


def test_the_published_experiments_are_there():
    assert {"depth_teacher", "story_image", "story_motion", "multiview_boost", "drag_editor"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_at_every_scale_validates(experiment, scale):
    config = compose(*words(experiment), f"scale={scale}")
    assert config.run.experiment == experiment and config.run.scale == scale


@pytest.mark.parametrize("word", GROUPS)
def test_every_group_choice_validates(word):
    compose("experiment=depth_teacher", word)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_demo_scale_builds_with_disjoint_blocks_and_every_trained_weight_in_one_group(experiment):
    config = compose(*words(experiment))
    with torch.device("meta"):
        system = build.build_system(config)
        system.configure_model()
    grouped = [id(parameter) for group in system.param_groups() for parameter in group.params]
    trained = [id(parameter) for parameter in system.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trained) and trained
    inside = [id(parameter) for block in system.blocks() for parameter in block.parameters()]
    assert len(inside) == len(set(inside)) and len(set(inside) & set(trained)) > len(trained) / 2


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_experiment_files_say_how_to_run_them(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"experiment={path.stem}" in line for line in header)


def test_recipes_are_stated_and_unknown_ones_refused():
    for path in (CONF / "variant").glob("*.yaml"):
        _, stage, recipe = path.stem.split("_")
        config = compose(*words(f"depth_{stage}"), f"recipe={recipe}", "scale=large")
        assert (config.run.stage, config.run.recipe) == (stage, recipe)
    with pytest.raises(ConfigError, match="no such recipe"):
        compose("experiment=depth_teacher", "recipe=indoor")


def test_the_published_numbers_of_depth():
    """Depth spec, 4.6 and 6."""

    def config(stage, recipe):
        return compose(*words(f"depth_{stage}"), f"recipe={recipe}", "scale=large")

    for stage in ("teacher", "student"):
        v1, v2 = config(stage, "v1"), config(stage, "v2")
        assert (v1.optim.name, v2.optim.name, v1.system.version, v2.system.version) == ("adamw", "adam", "v1", "v2")
        assert v1.optim.lr == v2.optim.lr == 5e-6 and v1.system.head_lr_scale == v2.system.head_lr_scale == 10
        assert (v1.system.loss.gradient_weight, v2.system.loss.gradient_weight) == (0, 2)
        assert v1.schedule.name == v2.schedule.name == "linear" and v1.schedule.final == 0
        assert v1.system.image_size == v2.system.image_size == 518
    teacher, student = config("teacher", "v2"), config("student", "v2")
    assert (teacher.data.batch_size, teacher.trainer.max_steps) == (64, 160_000)
    assert (student.data.batch_size, student.trainer.max_steps) == (192, 480_000)
    assert student.system.loss.drop == 0.1 and student.system.student.ratio == (0, 1)
    first = config("student", "v1").system
    assert first.student.ratio == (1, 2) and first.student.alignment.margin == 0.85 and first.loss.drop == 0
    assert first.perturb.cutmix == 0.5 and first.student.labelled_weight == first.student.alignment.weight
    metric = config("metric", "outdoor")
    assert (metric.system.max_depth, metric.data.batch_size, metric.schedule.power) == (80, 32, 0.9)


def test_presets_and_systems_belong_together():
    systems = {path.stem for path in (CONF / "system").glob("*.yaml")}
    presets = {tuple(path.stem.rsplit("_", 1)) for path in (CONF / "preset").glob("*.yaml")}
    assert presets == {(system, scale) for system in systems for scale in SCALES}


@pytest.mark.parametrize("verb", ["predict", "eval", "export", "label", "replay"])
def test_job_roots_hold_exactly_the_keys_of_their_schema(verb):
    keys = {key for name in ("job", verb) for key in yaml.safe_load((CONF / f"{name}.yaml").read_text())} - {
        "defaults",
        "hydra",
    }
    assert keys == set(MODELS[verb].model_fields)


def test_a_run_from_before_a_key_existed_takes_its_shipped_value(tmp_path):
    values = compose("experiment=depth_teacher").model_dump(mode="json")
    del (
        values["system"]["pictures"],
        values["system"]["predict"]["crf"],
        values["trainer"]["compile"],
        values["optim"]["fused"],
        values["ema"],
        values["guards"],
    )
    values["system"]["flip"] = 0.125
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(values))
    config = validate(rundir.load(tmp_path), TrainConfig)
    assert config.system.pictures == 5 and config.system.predict.crf == 18
    assert config.system.flip == 0.125 and config.system.size == "tiny"
    assert config.guards.non_finite == "stop"
    assert (
        config.trainer.compile is False
        and config.optim.fused == "auto"
        and config.ema.decay is None
        and config.trainer.max_steps == 1300
    )
