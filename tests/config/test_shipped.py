"""Every shipped YAML composes, validates, and builds."""

from __future__ import annotations

import pytest
import torch
import yaml

from vstrain.config.command import Command
from vstrain.config.compose import CONF
from vstrain.config.schema import MODELS, TrainConfig
from vstrain.engine import build
from vstrain.verbs import embedded

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
SCALES = sorted(path.stem for path in (CONF / "scale").glob("*.yaml"))
GROUPS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "scale", "preset", "system", "pipeline", "data")
)


def compose(*words: str) -> TrainConfig:
    return Command("train", TrainConfig, list(words), embedded.check).config()


def test_the_published_experiments_are_there():
    assert {"depth_teacher", "story_image", "story_motion", "multiview_boost", "drag_editor"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_at_every_scale_validates(experiment, scale):
    config = compose(f"experiment={experiment}", f"scale={scale}")
    assert config.run.experiment == experiment and config.run.scale == scale


@pytest.mark.parametrize("word", GROUPS)
def test_every_group_choice_validates(word):
    compose("experiment=depth_teacher", word)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_demo_scale_builds_and_every_trained_weight_is_in_one_group(experiment):
    config = compose(f"experiment={experiment}")
    with torch.device("meta"):
        system = build.build_system(config)
        system.configure_model()
    grouped = [id(parameter) for group in system.param_groups() for parameter in group.params]
    trained = [id(parameter) for parameter in system.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trained) and trained


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_experiment_files_say_how_to_run_them(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"experiment={path.stem}" in line for line in header)


def test_presets_and_systems_belong_together():
    systems = {path.stem for path in (CONF / "system").glob("*.yaml")}
    presets = {tuple(path.stem.rsplit("_", 1)) for path in (CONF / "preset").glob("*.yaml")}
    assert presets == {(system, scale) for system in systems for scale in SCALES}


@pytest.mark.parametrize("verb", ["predict", "eval", "export"])
def test_job_roots_hold_exactly_the_keys_of_their_schema(verb):
    keys = {key for name in ("job", verb) for key in yaml.safe_load((CONF / f"{name}.yaml").read_text())} - {
        "defaults",
        "hydra",
    }
    assert keys == set(MODELS[verb].model_fields)
