"""`vstrain adopt experiment=… weights=…`: an ordinary run directory from weights that were made elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from launch import local
from vstrain.config import rundir
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError, Problem
from vstrain.config.verbs import AdoptConfig
from vstrain.verbs import embedded

USAGE = """vstrain adopt experiment=NAME weights=FILE_OR_FOLDER system.KEY=VALUE …

  experiment=NAME          what the weights are of: depth_teacher for a relative depth network, depth_metric for a metric one
  weights=PATH             an official .pth, a folder of `vstrain export` or of Hugging Face, hub:OWNER/NAME, another run
  system.KEY=VALUE         what the weights do not show (depth: system.size system.version system.output system.max_depth)
  run.dir=PATH             where the run goes
  and the other words of `vstrain train`

  The result is a run directory with one checkpoint: predict, eval, export and label take it as ckpt=RUN_DIR.
  Example: vstrain adopt experiment=depth_teacher weights=depth_anything_v2_vits.pth \\
             system.size=vits system.version=v2 system.output=relative run.dir=runs/v2_vits"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv or not argv:
        print(USAGE)
        return 0
    words = [word.lstrip("+").partition("=")[0] for word in argv]
    stated = ",".join(word.removeprefix("system.") for word in words if word.startswith("system."))
    command = Command("train", AdoptConfig, ["verb=adopt", f"stated=[{stated}]", *argv], check)
    if command.flags:
        raise ConfigError([Problem(command.flags[0], "no such flag of `vstrain adopt`; see `vstrain adopt --help`")])
    config = command.config()
    root = Path(config.run.root) / config.run.experiment
    run_dir = rundir.create(config, root, Path(config.run.dir) if config.run.dir else None, {})
    print(f"adopt {config.weights}: {run_dir}", file=sys.stderr)
    return local.start(run_dir, 1, replace=True)


def check(config: AdoptConfig, origin) -> list[Problem]:
    """The system can read foreign weights, the data keys are right, the weights are there."""
    problems = embedded.check(config, origin)
    module = config.system.module
    if importlib.util.find_spec(f"{module}.weights") is None:
        problems.append(Problem("experiment", f"system {module} cannot adopt weights: there is no {module}.weights"))
    if not config.weights.startswith("hub:") and not Path(config.weights).exists():
        sentence = f"{config.weights} does not exist; give a file, a folder or hub:OWNER/NAME"
        problems.append(Problem("weights", sentence, origin("weights")))
    return problems
