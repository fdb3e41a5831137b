"""Faults at random moments, under every strategy: python benchmarks/reliability/run.py --faults 100 --seed 0 [--write]

A tiny system (tests/plugin/toy) on two ranks (one for `single`) is started again after each fault until it finishes; then every
step's samples, the whole curve and the weights must equal those of a run without faults, bit for bit. Ranks are forked from this
process, which has imported everything, and ended together when one is lost, as torchrun's agent does: a fault costs a second or
two. What a launcher itself does under faults is tested in tests/ and rehearsed by `vstrain rehearse`."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugin"
sys.path[:0] = [str(ROOT), str(PLUGIN)]
os.environ |= {"OMP_NUM_THREADS": "1", "VSTRAIN_CONF": str(PLUGIN / "conf")}

from benchmarks.report import Report  # noqa: E402
from tests.conftest import write_depth_shards  # noqa: E402
from vstrain.config import checkpoints, rehearsal, rundir  # noqa: E402
from vstrain.config.command import Command  # noqa: E402
from vstrain.config.compose import CONF  # noqa: E402
from vstrain.config.rehearsal import Order  # noqa: E402
from vstrain.config.schema import TrainConfig  # noqa: E402
from vstrain.verbs import embedded, rehearsal_check  # noqa: E402

PAGE = ROOT / "docs" / "rehearsal.md"
STEPS, SAVE_EVERY, REACH = 60, 4, 12  # a fault strikes within REACH steps of the start
KINDS = ("term", "kill", "kill_in_save", "any moment", "nan")
PATIENCE = 60  # seconds for a launch, before it counts as hung


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategies", default=",".join(sorted(p.stem for p in (CONF / "strategy").glob("*.yaml"))))
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    strategies = [name for name in given.strategies.split(",") if name != "auto"]
    import torch.distributed

    import vstrain.engine.train  # noqa: F401  before any rank is forked

    folder, report, rows = Path(tempfile.mkdtemp(prefix="reliability-")), Report(), []
    shards = write_depth_shards(folder / "data", train=64, val=4, max_count=20)
    data = [f"data.train.urls=[{shards}/train-*.tar]", f"data.val.urls=[{shards}/val-*.tar]"]
    started = time.monotonic()
    for number, name in enumerate(strategies):
        wanted = given.faults // len(strategies) + (number < given.faults % len(strategies))
        stage = Faults(name, data, folder / name, random.Random(f"{given.seed} {name}"))
        rows.append(stage.row(wanted))
        print(rows[-1], flush=True)
    heads = ["strategy", "ranks", "faults", "survived", "steps redone", "by kind"]
    report.table(heads, rows)
    struck, survived = (sum(row[column] for row in rows) for column in (2, 3))
    report.say(
        f"{survived} of {struck} faults survived (seed {given.seed}, {time.monotonic() - started:.0f} s, "
        f"{torch.__version__.partition('+')[0]} on {os.cpu_count()} cores)."
    )
    if given.write:
        report.write(PAGE, "reliability")
    if survived == struck:
        shutil.rmtree(folder)
    else:
        print(f"the runs are kept in {folder}")
    return int(survived != struck)


class Faults:
    """Runs of one strategy, struck until there were enough faults."""

    def __init__(self, strategy: str, data: list[str], folder: Path, draw: random.Random):
        self.strategy, self.folder, self.draw = strategy, folder, draw
        self.world = 1 if strategy == "single" else 2
        words = [
            "experiment=toy", *data, f"strategy={strategy}", f"trainer.devices={self.world}", f"trainer.max_steps={STEPS}",
            f"callbacks.checkpoint.every={SAVE_EVERY}", f"callbacks.validation.every={STEPS}", "system.dropout=0.3",
            "trainer.accelerator=cpu", "trainer.threads=1",
        ]  # fmt: skip
        self.config, _ = embedded.prepare(Command("train", TrainConfig, words, embedded.check).config())
        self.kinds: Counter[str] = Counter()
        self.redone = 0

    def row(self, wanted: int) -> list:
        """[strategy, ranks, faults, survived, steps redone, how many of each kind]"""
        reference = rundir.create(self.config, self.folder, self.folder / "undisturbed", {})
        if self.launch(reference, Order()) != 0:
            raise SystemExit(f"{self.strategy}: the undisturbed run does not finish, see {reference / 'logs'}")
        survived = run = 0
        while sum(self.kinds.values()) < wanted:
            before = sum(self.kinds.values())
            run_dir = rundir.create(self.config, self.folder, self.folder / f"run-{(run := run + 1)}", {})
            finished = self.suffer(run_dir, wanted)
            found = rehearsal_check.compare("", reference, run_dir, finished, exact=True)
            self.redone += found.redone
            survived += (sum(self.kinds.values()) - before) * found.passed
            if not found.passed:
                print(f"{run_dir}: {found}", flush=True)
        by_kind = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
        return [self.strategy, self.world, sum(self.kinds.values()), survived, self.redone, by_kind]

    def suffer(self, run_dir: Path, wanted: int) -> bool:
        """Launch until the run has finished, with a fault in each launch as long as some are wanted."""
        for attempt in range(1, 2 * STEPS):
            kind = self.draw.choice(KINDS) if sum(self.kinds.values()) < wanted else "none"
            code = self.launch(run_dir, self.order(kind, run_dir)._replace(attempt=attempt), kind == "any moment")
            if code == 0:
                return True
            if kind == "none":
                return False  # nothing was planted, and yet it ended
            self.kinds[kind] += 1
        return False

    def order(self, kind: str, run_dir: Path) -> Order:
        found = checkpoints.latest(run_dir)
        step = (found[1]["step"] if found else 0) + self.draw.randint(1, REACH)
        if kind == "kill_in_save":
            return Order(kind, 0, step, count=self.draw.randint(0, 3))
        return Order("none" if kind == "any moment" else kind, self.draw.randrange(self.world), step)

    def launch(self, run_dir: Path, order: Order, kill: bool = False) -> int:
        """One start of all ranks; 0 when they finished. kill: one of them is killed within a second of the first step."""
        port = free_port()
        ranks = [fork(run_dir, order, rank, self.world, port) for rank in range(self.world)]
        alive, bad, deadline = set(ranks), 0, time.monotonic() + PATIENCE
        moment = None
        while alive:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                alive.discard(pid)
                if status and not bad:
                    bad, deadline = 1, time.monotonic() + 5
                    end(alive, signal.SIGTERM)
            elif time.monotonic() > deadline:
                bad = 1
                end(alive, signal.SIGKILL)
            if kill and moment is None and has_begun(run_dir, order.attempt):
                moment = time.monotonic() + self.draw.random()
            if moment and time.monotonic() > moment:
                end({self.draw.choice(ranks)} & alive, signal.SIGKILL)
                moment = None
                kill = False
            time.sleep(0.002)
        return bad or int(rundir.state(run_dir)["status"] != "finished")


def fork(run_dir: Path, order: Order, rank: int, world: int, port: int) -> int:
    """A rank, as torchrun would start it; its process id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.environ |= order.environment()
        if world > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
            os.environ |= {name: str(value) for name, value in names.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "reliability"}
        with (run_dir / "logs" / f"out-{rank}.log").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        from vstrain import worker

        code = worker.main(run_dir)
    finally:
        os._exit(code)


def has_begun(run_dir: Path, attempt: int) -> bool:
    mark = f'"attempt": {attempt},'  # the last line may be half-written
    return any(mark in file.read_text() for file in (run_dir / rehearsal.RECORD).glob("rank-*.jsonl"))


def end(pids: set[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
