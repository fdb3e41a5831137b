"""Two gloo processes: what one rank sees, all of them decide, and every disagreement names rank and field. One launch."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import command

SCRIPT = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from vstrain import worker
from vstrain.data.loader import Loader
from vstrain.engine import guards
from vstrain.engine.health import lockstep

dist.init_process_group("gloo")
rank, cpu = dist.get_rank(), torch.device("cpu")
calls = 0
reduce = dist.all_reduce
def counted(*args, **words):
    global calls
    calls += 1
    return reduce(*args, **words)
dist.all_reduce = counted

def seen(stop=False, exhausted=False, loss=1.0, norm=2.0, **facts):
    facts = {"config": "a" * 64, "data": "b-c", "step": 7, **facts}
    return lockstep.Seen(stop, exhausted, [loss, 3.0], norm, facts)

def agree(**words):
    found = lockstep.agree(seen(**words), cpu)
    assert lockstep.gather(repr(found))[0] == repr(found)  # the same on every rank
    return found

plain = agree(loss=1.0 + 2 * rank, norm=4.0 + rank)
assert plain == lockstep.Agreed(False, (2.0 + 3.0) / 2, 9.0**0.5) and calls == 1, plain
for step in range(200):  # no false alarm, whatever the codes are
    assert lockstep.agree(seen(step=step, config=str(step), data=str(-step)), cpu).difference is None
assert agree(stop=rank == 1).stop and not agree().stop
assert agree(exhausted=rank == 1).exhausted == [1]
for wrong in (float("nan"), float("inf"), -float("inf")):
    found = agree(loss=wrong if rank else 1.0)
    assert found.broken == [1] and found.loss != found.loss and found.exhausted == [], found
    found = agree(norm=wrong if rank else 1.0)
    assert found.broken == [] and found.norm != found.norm and found.loss == 2.0, found
assert lockstep.agree(seen(loss=5.0 * rank), cpu, details=True).worst == 1
for name, mine in (("config", "z" * 64), ("data", "b-d"), ("step", 8)):
    found = agree(**({name: mine} if rank else {}))
    assert f"rank 1 (" in found.difference and f"has {name} {mine}, rank 0 has" in found.difference, found
    facts = {"config": "a", "data": "b", name: f"x{rank}"}
    try:
        lockstep.check_same(facts)
    except RuntimeError as error:
        assert f"has {name} x1, rank 0 has x0: all ranks must run the same" in str(error), error
    else:
        raise SystemExit("a disagreement went unnoticed")
three = [{"config": "a"}, {"config": "b"}, {"config": "b"}]
assert "rank 0 (x) has config a, rank 1 has b" in lockstep.difference(three, ["x", "y", "z"])  # the minority is named
assert guards.mean_over_ranks(torch.tensor([float(rank), 1.0])).tolist() == [0.5, 1.0]

# a whole run in which the data of rank 1 ends after three steps
batches = Loader._batches
def short(self):
    for number, batch in enumerate(batches(self)):
        if number == 3 and rank == 1 and len(self.plan) == 12:
            return
        yield batch
Loader._batches = short
assert worker.main(Path(sys.argv[1])) == 2
"""

CREATE = """
import sys
from pathlib import Path
from vstrain.config import rundir
from vstrain.config.command import Command
from vstrain.config.schema import TrainConfig
config = Command("train", TrainConfig, sys.argv[1:]).config()
rundir.create(config, Path(), Path(config.run.dir), {})
"""


def test_two_ranks_agree_and_a_rank_without_data_ends_all_of_them(toy_words, tmp_path):
    script, run = tmp_path / "ranks.py", tmp_path / "run"
    script.write_text(SCRIPT)
    line, env = command(*toy_words, f"run.dir={run}", "trainer.devices=2", "trainer.max_steps=12")
    subprocess.run([sys.executable, "-c", CREATE, *line[3:]], env=env, check=True)
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(run)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=180, env=env)
    assert done.returncode == 0, done.stderr
    error = json.loads((run / "state.json").read_text())["error"]
    assert "the data of rank 1 (" in error and "ran out at step 4, before trainer.max_steps" in error
