"""`vstrain [train] experiment=…`: compose, validate, make the run directory, launch. Also sweeps and `resume=RUN_DIR`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from vstrain.config import rundir
from vstrain.config.command import Command, search_path
from vstrain.config.problems import ConfigError, Problem, nearest
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.verbs import embedded, sweep
from vstrain.verbs.launching import launch

USAGE = """vstrain [train] experiment=NAME key=value …

  experiment=depth_teacher | story_image | story_motion | multiview_boost | drag_editor, or one of your own (--config-dir)
  scale=demo | small | base | large        the size; demo runs on a laptop's CPU
  data=shards data.train.urls='[DIR/train-*.tar]' data.val.urls='[DIR/val-*.tar]'
  trainer.max_steps=N trainer.devices=N trainer.precision=32|bf16-mixed optim.lr=X seed=N
  strategy=auto|single|ddp|fsdp2|hsdp|zero1|zero2|zero3    (docs/strategies.md)
  logger=wandb   run.dir=PATH   site=NAME   launcher=local|slurm|torchrun|kubernetes|skypilot (docs/clusters.md)
  resume=RUN_DIR                           go on with a run, on any number of devices and workers;
                                           trainer.* callbacks.* guards.* logger.* launcher.* strategy.* may change;
                                           launcher=NAME takes it elsewhere, strategy=NAME spreads it otherwise
  -m key=a,b                               one run for every combination"""

READING = ("data.workers", "data.ahead", "data.timeout", "data.max_damaged", "data.cache")  # how, not what
RESUMABLE = (
    "trainer.",
    "callbacks.",
    "guards.",
    "logger.",
    "launcher",
    "strategy",
    *READING,
)  # what a resumed run may change


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    if any(word.startswith("resume=") for word in argv):
        return resume(argv)
    command = Command("train", TrainConfig, argv, check)
    if command.flags:
        return with_hydra(command)
    return start(command.config(), replace=True)


def check(config: TrainConfig, origin) -> list[Problem]:
    """What the schema cannot know: the data that the system needs, the packages that its choices need."""
    return [*embedded.check(config, origin), *unusable(config, origin)]


def unusable(config: TrainConfig, origin) -> list[Problem]:
    problems, name = [], config.strategy.name
    if name.startswith("zero") and not find_spec("deepspeed"):
        sentence = (
            f"{name} needs DeepSpeed, which is not installed here; pip install 'vstrain[deepspeed]', or use fsdp2"
        )
        problems.append(Problem("strategy", sentence, origin("strategy.name")))
    if config.attention == "xformers" and not find_spec("xformers"):
        sentence = "xformers is not installed here; pip install 'vstrain[xformers]', or use attention=sdpa"
        problems.append(Problem("attention", sentence, origin("attention")))
    if config.attention in ("xformers", "flex") and config.trainer.accelerator == "cpu":
        sentence = f"{config.attention} has kernels for CUDA only, and trainer.accelerator=cpu; use attention=sdpa"
        problems.append(Problem("attention", sentence, origin("attention")))
    return problems


def start(config: TrainConfig, replace: bool, made: Callable[[Path], None] = lambda run_dir: None, **queueing) -> int:
    """Everything between a valid configuration and the running worker. `made` is told the new run directory."""
    config, fingerprints = embedded.prepare(config)
    root = Path(config.run.root) / config.run.experiment
    run_dir = rundir.create(config, root, Path(config.run.dir) if config.run.dir else None, {"data": fingerprints})
    made(run_dir)
    print(
        f"{config.run.experiment}, scale {config.run.scale}, site {config.site.name}: {run_dir}",
        file=sys.stderr,
    )
    return launch(config, run_dir, replace, **queueing)


def resume(argv: list[str]) -> int:
    """Go on with a run in its own directory, under its own resolved.yaml."""
    run_dir = Path(next(word.partition("=")[2] for word in argv if word.startswith("resume="))).absolute()
    overrides = [word for word in argv if not word.startswith("resume=")]
    refused = [word for word in overrides if not word.startswith(RESUMABLE)]
    if refused:
        raise ConfigError(
            [
                Problem(
                    word.partition("=")[0],
                    f"a resumed run may only change {', '.join(RESUMABLE)}",
                    f"override {word!r}",
                )
                for word in refused
            ]
        )
    values = rundir.load(run_dir)
    if values.get("verb") != "train":
        raise ConfigError([Problem("resume", f"{run_dir} is a {values.get('verb')} run; only training can be resumed")])
    for word in [word for word in overrides if word.startswith(("launcher=", "strategy="))]:
        group, _, name = word.partition("=")
        values[group] = shipped(group, name)
        overrides.remove(word)
    merged = OmegaConf.merge(OmegaConf.create(values), OmegaConf.from_dotlist(overrides))

    def origin(path: str) -> str:
        return f"resume of {run_dir}"

    config = validate(merged, TrainConfig, origin)
    if problems := unusable(config, origin):
        raise ConfigError(problems)
    rundir.write_atomic(run_dir / "resolved.yaml", rundir.dump(config))
    with (run_dir / "resumes.jsonl").open("a") as file:
        file.write(json.dumps(rundir.stamp() | {"overrides": overrides}) + "\n")
    return launch(config, run_dir, replace=True)


def shipped(group: str, name: str) -> dict:
    """The keys of `launcher=NAME` or `strategy=NAME`, in place of all that the run had."""
    file = rundir.CONF / group / f"{name}.yaml"
    if not file.is_file():
        known = [path.stem for path in file.parent.glob("*.yaml")]
        raise ConfigError([Problem(group, f"no choice {name!r}; {nearest(name, known)}", "command line")])
    return yaml.safe_load(file.read_text())


def with_hydra(command: Command) -> int:
    """What Hydra's own command line does: sweeps, --cfg, --info, shell completion."""
    import hydra

    multi = "-m" in command.flags or "--multirun" in command.flags
    if "-sc" in command.flags or "--shell-completion" in command.flags:
        overrides = command.overrides
        strip_verb_from_completion()
    else:
        overrides = (
            [*command.check_sweep(), *search_path(command.dirs)]
            if multi
            else [*command.overrides, *search_path(command.dirs)]
        )
    place = sweep.folder(command.root) if multi else None
    if multi and not any(word.startswith("hydra.sweep.dir=") for word in overrides):
        overrides.append(f"hydra.sweep.dir={place}")
    codes: list[int] = []

    def job(node: DictConfig) -> float | None:
        from hydra.core.hydra_config import HydraConfig

        facts = HydraConfig.get()
        OmegaConf.set_struct(node, False)
        node.run.experiment = facts.runtime.choices.get("experiment") or facts.runtime.choices.system
        if not multi:
            codes.append(start(command.validate_composed(node), replace=False))
            return None
        if node.run.dir is not None:
            node.run.dir = str(Path(node.run.dir) / str(facts.job.num))
        config, sampled = command.validate_composed(node), facts.runtime.choices["hydra/sweeper"] != "basic"
        return sweep.run_member(config, place, facts.job.num, list(facts.overrides.task), start, sampled)

    sys.argv = ["vstrain", *command.flags, *overrides]
    try:
        hydra.main(version_base="1.3", config_path="pkg://vstrain.conf", config_name="train")(job)()
    finally:
        if multi and sweep.members(place):
            text, code = sweep.close(place)
            codes.append(code)
            print(text, file=sys.stderr)
    return max(codes, default=0)


def strip_verb_from_completion() -> None:
    """Hydra completes overrides only: hide the verb in the line that the shell hands over."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ", 2)
    if len(words) > 1 and words[1] == "train":
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        os.environ["COMP_POINT"] = str(max(0, int(os.environ.get("COMP_POINT", len(line))) - len("train ")))
