"""From a resolved configuration to the first step, item by item: a run of the worker with a clock at its seams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.report import Report

SCRIPT = """
import sys, time
began = float(sys.argv[2])
marks = [("python itself", time.time() - began)]
def mark(name):
    marks.append((name, time.time() - began - sum(seconds for _, seconds in marks)))
from pathlib import Path
run_dir = Path(sys.argv[1])
from vstrain.config import rundir
from vstrain.config.schema import MODELS
from vstrain.config.validate import validate
config = validate(rundir.load(run_dir), MODELS["train"])
mark("read and validate the configuration")
import torch
mark("import torch")
import lightning.pytorch
mark("import lightning")
from vstrain import worker
from vstrain.engine import build, console, train
build.part(config.system, "module")
mark("import the engine and the system")

def timed(owner, name, label, before="the rest"):
    inner = getattr(owner, name)
    def outer(*args, **words):
        mark(before)
        value = inner(*args, **words)
        mark(label)
        return value
    setattr(owner, name, outer)

timed(build, "Batches", "open the data")
timed(build, "build_system", "make the system")
timed(train, "build_trainer", "make the trainer")
start, end = train.StepBoundary.on_train_batch_start, train.StepBoundary.on_train_batch_end
begin = train.StepBoundary.on_train_start
def on_train_start(self, *args):
    begin(self, *args)
    mark("build networks and optimiser, agree on what is run")
def on_train_batch_start(self, *args):
    mark("first batch")
    start(self, *args)
class Done(BaseException): pass
def on_train_batch_end(self, *args):
    mark("first step")
    import json
    merged = {}
    for name, seconds in marks:
        merged[name] = merged.get(name, 0) + seconds
    Path(sys.argv[3]).write_text(json.dumps(merged))
    import os
    os._exit(0)
train.StepBoundary.on_train_start = on_train_start
train.StepBoundary.on_train_batch_start = on_train_batch_start
train.StepBoundary.on_train_batch_end = on_train_batch_end
worker.main(run_dir)
"""

CREATE = """
import sys
from pathlib import Path
from vstrain.config import rundir
from vstrain.config.command import Command
from vstrain.config.schema import TrainConfig
from vstrain.verbs import embedded
config, _ = embedded.prepare(Command("train", TrainConfig, sys.argv[2:], embedded.check).config())
rundir.create(config, Path(), Path(sys.argv[1]), {})
"""


def startup(report: Report, folder: Path, times: int = 3) -> None:
    """Medians of several starts of depth_teacher at demo scale; the files lie in the machine's cache."""
    import statistics
    import time

    run_dir, out = folder / "start", folder / "marks.json"
    words = [
        "experiment=depth_teacher",
        f"site.data_root={folder}/data",
        "data.procedural.samples=64",
        "data.workers=1",
    ]
    words += ["data.procedural.val_samples=8", "trainer.max_steps=10"]
    subprocess.run([sys.executable, "-c", CREATE, str(run_dir), *words], check=True, stderr=subprocess.DEVNULL)
    found = []
    for _ in range(times + 1):
        line = [sys.executable, "-c", SCRIPT, str(run_dir), str(time.time()), str(out)]
        subprocess.run(line, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
        found.append(json.loads(out.read_text()))
    items = {name: statistics.median(one[name] for one in found[1:]) for name in found[-1]}  # the first one warms up
    rows = [[name, f"{seconds:.2f} s"] for name, seconds in items.items()]
    report.table(
        ["start of a run, depth_teacher at demo scale", ""], [*rows, ["together", f"{sum(items.values()):.2f} s"]]
    )
