"""`vstrain rehearse experiment=…`: the user's experiment, shrunk, under scripted faults, beside a run that had none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vstrain.config import rundir
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError, InputError, Problem
from vstrain.config.rehearsal import Order
from vstrain.config.schema import TrainConfig
from vstrain.verbs import embedded, rehearsal_check
from vstrain.verbs.rehearsal_check import Row
from vstrain.verbs.rehearsal_stage import SAVE_EVERY, STEPS, Stage, scene

USAGE = """vstrain rehearse experiment=NAME key=value … [ranks=N] [faults=a,b]

  the words of `vstrain train`. A few steps of that run, on N local ranks (2 to 4, 2 unless you say), once undisturbed and once
  for each fault; prints what survived and leaves a certificate, rehearsal.json. Exit code 1 if a fault was not survived.
  faults=term,kill,kill_in_save,shard,nan,disk,ranks      all of them unless you say"""

AT = SAVE_EVERY + 3  # the step that faults strike: between two saves


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv or not argv:
        print(USAGE)
        return 0
    started = time.monotonic()
    ranks, faults, rest = own_words(argv)
    command = Command("train", TrainConfig, scene(rest, ranks), embedded.check)
    if command.flags:
        raise ConfigError([Problem(command.flags[0], "no such flag of `vstrain rehearse`")])
    config, _ = embedded.prepare(command.config())
    folder = rundir.create(
        config, Path(config.run.root) / "rehearse", Path(config.run.dir) if config.run.dir else None, {}
    )
    say(f"rehearsal of {config.run.experiment}, scale {config.run.scale}, {ranks} ranks, {STEPS} steps: {folder}")
    stage = Stage(config, folder, ranks)
    if stage.launch("undisturbed", Order()) != 0:
        raise InputError(
            f"the undisturbed run does not finish; see {stage.log('undisturbed')} and mend that before a rehearsal"
        )
    say(f"undisturbed: done in {time.monotonic() - started:.0f} s")
    rows = []
    for name in faults:
        rows.append(FAULTS[name][1](stage))
        say(line(rows[-1]))
    passed = all(row.passed for row in rows)
    rundir.write_atomic(folder / "rehearsal.json", json.dumps(certificate(config, ranks, rows, passed), indent=2))
    rundir.set_state(folder, "finished" if passed else "failed", code=0 if passed else 1)
    print(table(rows))
    struck = [row for row in rows if row.survived is not None]
    print(
        f"{sum(row.passed for row in struck)} of {len(struck)} faults survived, {time.monotonic() - started:.0f} s; "
        f"certificate: {folder / 'rehearsal.json'}"
    )
    return 0 if passed else 1


def own_words(argv: list[str]) -> tuple[int, list[str], list[str]]:
    """(ranks, faults, the other words)."""
    own = dict(word.split("=", 1) for word in argv if word.startswith(("ranks=", "faults=")))
    rest = [word for word in argv if not word.startswith(("ranks=", "faults="))]
    ranks, faults = own.get("ranks", "2"), own.get("faults", ",".join(FAULTS)).split(",")
    problems = [
        Problem("faults", f"no fault {name!r}; expected some of {', '.join(FAULTS)}")
        for name in faults
        if name not in FAULTS
    ]
    if ranks not in ("2", "3", "4"):
        problems.append(Problem("ranks", f"expected 2, 3 or 4, got {ranks!r}"))
    if problems:
        raise ConfigError(problems)
    return int(ranks), faults, rest


# ---- the faults: each returns its row -------------------------------------------------------------------------------


def struck(stage: Stage, name: str, order: Order) -> Row:
    """The fault ends the run; it goes on as a launcher would let it."""
    first = stage.launch(name, order)
    if first == 0:
        return Row(
            FAULTS[name][0], False, None, None, "", "", "the fault did not strike: the run ended as if nothing was"
        )
    return compare(stage, name, stage.go_on(name))


def compare(stage: Stage, name: str, code: int, exact: bool = True, note: str = "") -> Row:
    reference, run_dir = stage.folder / "undisturbed", stage.folder / name
    if code:
        note = f"the run does not finish, see {stage.log(name)}"
    return rehearsal_check.compare(FAULTS[name][0], reference, run_dir, code == 0, exact, note)


def term(stage: Stage) -> Row:
    return struck(stage, "term", Order("term", stage.ranks - 1, AT))


def kill(stage: Stage) -> Row:
    return struck(stage, "kill", Order("kill", stage.ranks - 1, AT))


def kill_in_save(stage: Stage) -> Row:
    return struck(stage, "kill_in_save", Order("kill_in_save", 0, 2 * SAVE_EVERY, count=1))


def nan(stage: Stage) -> Row:
    """Either the run ends and goes on from its checkpoint, or it leaves the step out: then it must be the same run whichever
    rank met it."""
    if stage.launch("nan", Order("nan", stage.ranks - 1, AT)):
        return compare(stage, "nan", stage.go_on("nan"))
    code = stage.launch("nan-rank-0", Order("nan", 0, AT))
    found = rehearsal_check.compare(
        FAULTS["nan"][0],
        stage.folder / "nan-rank-0",
        stage.folder / "nan",
        code == 0,
        True,
        "left out on all ranks alike",
    )
    reference, mine = (rehearsal_check.samples(stage.folder / name)[0] for name in ("undisturbed", "nan"))
    return found if reference == mine else dataclasses.replace(found, samples=False)


def disk(stage: Stage) -> Row:
    """Room for one checkpoint and half of the next; then there is room again."""
    with stage.small_disk("disk") as (order, way, give_room):
        if order is None:
            return Row(FAULTS["disk"][0], None, None, None, "", "", way)
        code = stage.launch("disk", order)
        said = "cannot write the checkpoint" in stage.log("disk").read_text()
        if code == 0 or not said:
            return Row(FAULTS["disk"][0], False, None, None, "", "", f"{way}: the run did not say that it cannot save")
        give_room()
        return compare(stage, "disk", stage.go_on("disk"), note=way)


def shard(stage: Stage) -> Row:
    """The end of a shard is lost while the run stands still. What can still be read is read as before."""
    if stage.remote:
        return Row(FAULTS["shard"][0], None, None, None, "", "", "the shards are not local files")
    if stage.launch("shard", Order("term", 0, AT)) == 0:
        return Row(FAULTS["shard"][0], False, None, None, "", "", "the run did not stop")
    with stage.truncated_shard() as path:
        code = stage.go_on("shard")
    source = stage.config.data.train.all_sources()[0]
    damaged = rehearsal_check.damaged_keys(stage.folder / "shard", path, source.urls, stage.config.seed)
    return rehearsal_check.compare_with_damage(
        FAULTS["shard"][0], stage.folder / "undisturbed", stage.folder / "shard", code == 0, damaged
    )


def ranks(stage: Stage) -> Row:
    if stage.launch("ranks", Order("term", 0, AT)) == 0:
        return Row(FAULTS["ranks"][0], False, None, None, "", "", "the run did not stop")
    other = stage.ranks // 2
    try:
        code = stage.go_on("ranks", other)
    except ConfigError as error:
        return Row(FAULTS["ranks"][0], None, None, None, "", "", str(error.problems[0]))
    return compare(stage, "ranks", code, exact=False, note=f"from {stage.ranks} to {other}")


FAULTS: dict[str, tuple[str, Callable[[Stage], Row]]] = {
    "term": ("SIGTERM to one rank", term),
    "kill": ("SIGKILL in a step", kill),
    "kill_in_save": ("SIGKILL in the middle of a save", kill_in_save),
    "shard": ("a truncated shard", shard),
    "nan": ("a loss that is NaN", nan),
    "disk": ("a full disk", disk),
    "ranks": ("another number of ranks", ranks),
}


# ---- what is left of it ---------------------------------------------------------------------------------------------


def certificate(config: TrainConfig, ranks: int, rows: list[Row], passed: bool) -> dict:
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return rundir.stamp() | {
        "experiment": config.run.experiment,
        "strategy": config.strategy.name,
        "ranks": ranks,
        "steps": STEPS,
        "config": hashlib.sha256(text.encode()).hexdigest(),
        "passed": passed,
        "faults": [vars(row) | {"passed": row.passed} for row in rows],
    }


HEADS = ("fault", "survived", "steps redone", "samples exact", "curve", "weights", "")


def cells(row: Row) -> list[str]:
    word = {True: "yes", False: "NO", None: "-"}
    redone = "-" if row.redone is None else str(row.redone)
    survived = "not rehearsed" if row.survived is None else "yes" if row.passed else "NO"
    return [row.fault, survived, redone, word[row.samples], row.curve or "-", row.weights or "-", row.note]


def line(row: Row) -> str:
    found = [f"{head} {cell}" for head, cell in zip(HEADS[1:-1], cells(row)[1:-1], strict=True)]
    return f"{row.fault}: {', '.join(found)}" + f" ({row.note})" * bool(row.note)


def table(rows: list[Row]) -> str:
    lines = [list(HEADS), *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
