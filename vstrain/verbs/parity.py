"""`vstrain parity experiment=…`: the same few steps under every strategy, on 1, 2 and 4 ranks, resumed and accumulated; how far
each is from one plain process."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from launch import local
from vstrain.config import checkpoints, rundir
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError, InputError, Problem
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.config.verbs import ParityConfig
from vstrain.verbs import embedded
from vstrain.verbs.deviations import Deviation, deviation
from vstrain.verbs.nudge import nudged

USAGE = """vstrain parity experiment=NAME key=value …

  the words of `vstrain train`, and
  steps=6                                  optimiser steps of each run
  strategies='[single,ddp,fsdp2,hsdp,zero1,zero2,zero3]'  ranks='[1,2,4]'  what='[plain,resumed,accumulated]'
  tolerance=1e-3                           largest relative deviation of a loss; weights, in units of their way: 10 times it
  Runs them all here, compares each with one plain process, prints a table and writes parity.json. Exit code 1 when a row is
  beyond the tolerance or failed, or when a resumed run is not bit-equal to the undisturbed one. When a row is beyond the
  tolerance, a last one shows what changes of the last bits of the weights alone do to this experiment.
  Example: vstrain parity experiment=depth_teacher data.batch_size=8 ranks='[1,2]' system.loss.align=least_squares"""


@dataclass(frozen=True)
class Row:
    strategy: str
    ranks: int
    what: str

    @property
    def name(self) -> str:
        return f"{self.strategy}-{self.ranks}-{self.what}"


WEIGHTS = 10  # times the tolerance: where a gradient is nearly zero, Adam divides noise by noise
REFERENCE = Row("single", 1, "plain")
NUDGES = 3  # runs that show what rounding alone does


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv or not argv:
        print(USAGE)
        return 0
    command = Command("train", ParityConfig, ["verb=parity", *argv], embedded.check)
    if command.flags:
        raise ConfigError([Problem(command.flags[0], "no such flag of `vstrain parity`")])
    config, fingerprints = embedded.prepare(command.config())
    root = Path(config.run.root) / "parity"
    run_dir = rundir.create(config, root, Path(config.run.dir) if config.run.dir else None, {"data": fingerprints})
    print(f"parity of {config.run.experiment}, scale {config.run.scale}: {run_dir}", file=sys.stderr)
    reasons = execute(config, run_dir)
    facts = compare(config, run_dir, reasons)
    if any(fact["verdict"] == "beyond" and fact.get("resume_equal") is not False for fact in facts):
        facts.append(rounding(config, run_dir))
    shutil.rmtree(run_dir / "rows")
    rundir.write_atomic(run_dir / "parity.json", json.dumps(facts, indent=2))
    print("\n".join(table(facts)))
    bad = [fact["row"] for fact in facts if fact["verdict"] in ("beyond", "failed")]
    rundir.set_state(run_dir, "finished", code=int(bool(bad)))
    print(f"{len(rows(config))} rows, {len(bad)} beyond the tolerance or failed{': ' if bad else ''}{', '.join(bad)}")
    return int(bool(bad))


def rows(config: ParityConfig) -> list[Row]:
    """The matrix, the reference first; a resumed run needs the plain one beside it."""
    what = [kind for kind in ("plain", "resumed", "accumulated") if kind in config.what or kind == "plain"]
    wanted = [
        Row(strategy, ranks, kind)
        for ranks in sorted(set(config.ranks))
        for strategy in dict.fromkeys(config.strategies)
        for kind in what
        if strategy != "single" or ranks == 1
    ]
    return [REFERENCE, *(row for row in wanted if row != REFERENCE)]


def row_config(config: ParityConfig, row: Row) -> TrainConfig:
    """The training run of a row. Raises ConfigError where the experiment cannot run so."""
    if row.strategy.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError([Problem("strategy", "the package deepspeed is not installed")])
    values = config.model_dump(mode="json", by_alias=True)
    for name in ("steps", "ranks", "strategies", "what", "tolerance"):
        del values[name]
    strategy = {"name": row.strategy}
    if row.strategy == "hsdp":
        strategy["shard"] = 2 if row.ranks % 2 == 0 else 1
    values |= {
        "verb": "train",
        "strategy": strategy,
        "launcher": {"name": "local", "nodes": 1},
        "schedule": {
            "name": "constant",
            "warmup_steps": 0,
            "final": 1.0,
        },  # the weights shall go somewhere in a few steps
    }
    values["trainer"] |= {
        "devices": row.ranks,
        "max_steps": config.steps,
        "accumulate": config.trainer.accumulate * (2 if row.what == "accumulated" else 1),
        "log_every": 1,
    }
    every = 1 if row == REFERENCE else config.steps
    values["callbacks"] |= {
        "checkpoint": values["callbacks"]["checkpoint"] | {"every": every, "keep": config.steps, "best": None},
        "validation": {"every": config.steps, "samples": config.data.val_batch_size, "pictures": False},
    }
    values["logger"] = {"tensorboard": False, "wandb": values["logger"]["wandb"] | {"enabled": False}}
    return validate(values, TrainConfig)


def execute(config: ParityConfig, run_dir: Path) -> dict[Row, str]:
    """Run every row that can run, those of one number of ranks in one launch; why the others did not."""
    reasons: dict[Row, str] = {}
    for row in rows(config):
        try:
            rundir.create(row_config(config, row), run_dir, run_dir / "rows" / row.name, {})
        except ConfigError as error:
            reasons[row] = "; ".join(problem.sentence for problem in error.problems)
    for ranks in sorted({row.ranks for row in rows(config)}):
        waiting = [row for row in rows(config) if row.ranks == ranks and row not in reasons]
        while waiting and REFERENCE not in reasons:
            rundir.write_atomic(run_dir / "rows.json", json.dumps([[row.name, row.what] for row in waiting]))
            if local.start(run_dir, ranks, replace=False) == 0:
                break
            late = [row for row in waiting if rundir.state(run_dir / "rows" / row.name)["status"] != "finished"]
            if not late:
                break
            error = rundir.state(run_dir).get("error", "it ended without a word")
            reasons[late[0]] = f"failed: {error}"
            waiting = late[1:]
    if REFERENCE in reasons:
        raise InputError(f"parity: the reference, one plain process, did not run ({reasons[REFERENCE]})")
    return reasons


def compare(config: ParityConfig, run_dir: Path, reasons: dict[Row, str]) -> list[dict]:
    folder, found = run_dir / "rows", []
    for row in rows(config):
        fact = {"row": row.name} | asdict(row)
        if row in reasons:
            failed = reasons[row].startswith("failed: ")
            reason = reasons[row].removeprefix("failed: ")
            found.append(fact | {"verdict": "failed" if failed else "not run", "reason": reason})
            continue
        if row == REFERENCE:
            found.append(fact | asdict(Deviation(0.0, 0.0, 0.0, True)) | {"verdict": "ok", "reason": "the reference"})
            continue
        apart = deviation(folder / row.name, folder / REFERENCE.name, checkpoints.name(1))
        verdict, reason = "ok", ""
        if not max(apart.loss, apart.relative / WEIGHTS) <= config.tolerance:
            verdict, reason = "beyond", f"the tolerance is {config.tolerance:g}"
        if row.what == "resumed":
            plain = Row(row.strategy, row.ranks, "plain")
            again = None
            if plain not in reasons:
                again = deviation(folder / row.name, folder / plain.name, checkpoints.name(config.steps)).equal
            fact["resume_equal"] = again
            if again is False:
                verdict, reason = "beyond", "not bit-equal to the undisturbed run"
        found.append(fact | asdict(apart) | {"verdict": verdict, "reason": reason})
    return found


def rounding(config: ParityConfig, run_dir: Path) -> dict:
    """How far the reference comes to be from itself when the last bits of its weights are changed after its first step."""
    folder = run_dir / "rows"
    names = [f"rounding-{number}" for number in range(NUDGES)]
    for number, name in enumerate(names):
        rundir.create(row_config(config, REFERENCE), run_dir, folder / name, {})
        nudged(folder / name, folder / REFERENCE.name, 1, number)
    rundir.write_atomic(run_dir / "rows.json", json.dumps([[name, "plain"] for name in names]))
    fact = {"row": "rounding", "strategy": REFERENCE.strategy, "ranks": REFERENCE.ranks, "what": "rounding"}
    if local.start(run_dir, REFERENCE.ranks, replace=False) != 0:
        return fact | {"verdict": "failed", "reason": rundir.state(run_dir).get("error", "it ended without a word")}
    found = [deviation(folder / name, folder / REFERENCE.name, checkpoints.name(1)) for name in names]
    largest = {part: max(getattr(apart, part) for apart in found) for part in ("loss", "absolute", "relative")}
    return fact | largest | {"verdict": "beside", "reason": "what a change of the weights' last bits does"}


HEADS = ["strategy", "ranks", "run", "loss", "weights, absolute", "weights, relative", "resume bit-equal", "verdict"]


def cells(fact: dict) -> list[str]:
    numbers = [f"{fact[name]:.1e}" if name in fact else "-" for name in ("loss", "absolute", "relative")]
    equal = {True: "yes", False: "no", None: "-"}[fact.get("resume_equal")]
    verdict = f"{fact['verdict']}: {fact['reason']}" if fact["reason"] else fact["verdict"]
    return [fact["strategy"], str(fact["ranks"]), fact["what"], *numbers, equal, verdict]


def table(facts: list[dict]) -> list[str]:
    lines = [HEADS, *(cells(fact) for fact in facts)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
