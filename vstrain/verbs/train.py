"""`vstrain [train] experiment=…`: compose, validate, make the run directory, launch. Also sweeps and `resume=RUN_DIR`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from vstrain.config import rundir
from vstrain.config.command import Command, search_path
from vstrain.config.problems import ConfigError, Problem
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.verbs import embedded
from vstrain.verbs.launching import launch

USAGE = """vstrain [train] experiment=NAME key=value …

  experiment=depth_teacher | story_image | story_motion | multiview_boost | drag_editor, or one of your own (--config-dir)
  scale=demo | small | base | large        the size; demo runs on a laptop's CPU
  data=shards data.train.urls='[DIR/train-*.tar]' data.val.urls='[DIR/val-*.tar]'
  trainer.max_steps=N trainer.devices=N trainer.precision=32|bf16-mixed optim.lr=X seed=N strategy=auto|single|ddp
  logger=wandb   run.dir=PATH   site=NAME
  resume=RUN_DIR                           go on with a run, on any number of devices and workers;
                                           trainer.* callbacks.* guards.* logger.* may change
  -m key=a,b                               one run for every combination"""

READING = ("data.workers", "data.ahead", "data.timeout", "data.max_damaged", "data.cache")  # how, not what
RESUMABLE = ("trainer.", "callbacks.", "guards.", "logger.", *READING)  # what a resumed run may change


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    if any(word.startswith("resume=") for word in argv):
        return resume(argv)
    command = Command("train", TrainConfig, argv, embedded.check)
    if command.flags:
        return with_hydra(command)
    return start(command.config(), replace=True)


def start(config: TrainConfig, replace: bool) -> int:
    """Everything between a valid configuration and the running worker."""
    config, fingerprints = embedded.prepare(config)
    root = Path(config.run.root) / config.run.experiment
    run_dir = rundir.create(config, root, Path(config.run.dir) if config.run.dir else None, {"data": fingerprints})
    print(
        f"{config.run.experiment}, scale {config.run.scale}, site {config.site.name}: {run_dir}",
        file=sys.stderr,
    )
    return launch(config, run_dir, replace)


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
    merged = OmegaConf.merge(OmegaConf.create(values), OmegaConf.from_dotlist(overrides))
    config = validate(merged, TrainConfig, lambda path: f"resume of {run_dir}")
    rundir.write_atomic(run_dir / "resolved.yaml", rundir.dump(config))
    with (run_dir / "resumes.jsonl").open("a") as file:
        file.write(json.dumps(rundir.stamp() | {"overrides": overrides}) + "\n")
    return launch(config, run_dir, replace=True)


def with_hydra(command: Command) -> int:
    """What Hydra's own command line does: sweeps, --cfg, --info, shell completion."""
    import hydra

    sweep = "-m" in command.flags or "--multirun" in command.flags
    if "-sc" in command.flags or "--shell-completion" in command.flags:
        overrides = command.overrides
        strip_verb_from_completion()
    else:
        overrides = (
            [*command.check_sweep(), *search_path(command.dirs)]
            if sweep
            else [*command.overrides, *search_path(command.dirs)]
        )
    codes: list[int] = []

    def job(node: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        facts = HydraConfig.get()
        OmegaConf.set_struct(node, False)
        node.run.experiment = facts.runtime.choices.get("experiment") or facts.runtime.choices.system
        if node.run.dir is not None and sweep:
            node.run.dir = str(Path(node.run.dir) / str(facts.job.num))
        config = command.validate_composed(node)
        codes.append(start(config, replace=False))

    sys.argv = ["vstrain", *command.flags, *overrides]
    hydra.main(version_base="1.3", config_path="pkg://vstrain.conf", config_name="train")(job)()
    return max(codes, default=0)


def strip_verb_from_completion() -> None:
    """Hydra completes overrides only: hide the verb in the line that the shell hands over."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ", 2)
    if len(words) > 1 and words[1] == "train":
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        os.environ["COMP_POINT"] = str(max(0, int(os.environ.get("COMP_POINT", len(line))) - len("train ")))
