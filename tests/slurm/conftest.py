"""A real SLURM of two pretend nodes on this machine, brought up for these tests and down after them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import warnings
from pathlib import Path

import pytest

from tests.conftest import command, until

ROOT = Path(__file__).parents[2]
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "munged", "mariadbd")
RANKS = ["trainer.accelerator=cpu", "trainer.devices=2", "launcher.nodes=2", "launcher=slurm"]


def testbed() -> Path:
    folder = os.environ.get("VSTRAIN_TESTBED", ROOT.parent / "shared" / "testbed")
    return Path(folder) / "slurm_testbed"


def missing() -> str:
    """Why there can be no SLURM here; '' when there can."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if os.geteuid() != 0:
        return "SLURM on one machine needs root"
    if absent:
        return f"{', '.join(absent)} not installed; `make slurm` installs Debian's SLURM"
    return "" if testbed().is_file() else f"{testbed()} does not exist; set VSTRAIN_TESTBED to its folder"


class Cluster:
    """Runs of the plug-in system as jobs of the pretend cluster."""

    def __init__(self, script: Path, shards: Path):
        self.script = script
        self.words = [
            "experiment=toy",
            f"data.train.urls=[{shards}/train-*.tar]",
            f"data.val.urls=[{shards}/val-*.tar]",
        ]
        self.words += ["system.dropout=0.3", "trainer.threads=1", "trainer.max_steps=30"]
        text = subprocess.run([script, "env"], capture_output=True, text=True, check=True).stdout
        self.env = {"SLURM_CONF": text.strip().removeprefix("export SLURM_CONF=")}

    def testbed(self, *words: str) -> None:
        subprocess.run([self.script, *words], check=True, capture_output=True, timeout=120)

    def slurm(self, *words: str) -> str:
        done = subprocess.run(words, env=os.environ | self.env, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    def vstrain(self, folder: Path, *words: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess:
        line, env = command(*words)
        env = env | self.env | extra
        done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def submit(self, run: Path, *words: str, **extra: str) -> str:
        """Queue a run of the plug-in system and return its job id; fails if that is not at once."""
        before = time.monotonic()
        done = self.vstrain(run.parent, *self.words, *RANKS, f"run.dir={run}", *words, **extra)
        assert time.monotonic() - before < 60
        return done.stdout.strip()

    def ended(self, run: Path, job: str, seconds: float = 300) -> dict:
        """state.json of a run, once its job has left the queue."""
        queued = ("squeue", "--noheader", f"--jobs={job}")
        until(lambda: not self.slurm(*queued), seconds, lambda: self.story(run), every=0.2)
        return json.loads((run / "state.json").read_text())

    def story(self, run: Path) -> str:
        return "\n".join([self.slurm("squeue"), *(path.read_text() for path in (run / "logs").glob("slurm-*.out"))])


def step(run: Path) -> int:
    """The newest logged step of a run."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    try:
        return json.loads(lines[-1])["step"]
    except (IndexError, ValueError):
        return 0


@pytest.fixture(scope="session")
def cluster(depth_shards):
    reason, script, running = missing(), testbed(), False
    if not reason:
        running = subprocess.run([script, "status"], capture_output=True).returncode == 0
        up = subprocess.run([script, "up", "-n", "2"], capture_output=True, text=True, timeout=300)
        reason = f"the pretend cluster does not come up: {up.stdout}{up.stderr}" if up.returncode else ""
    if reason:
        warnings.warn(f"NO SLURM TESTS: {reason}", stacklevel=1)
        pytest.skip(f"NO SLURM TESTS: {reason}")
    yield Cluster(script, depth_shards)
    if not running:
        subprocess.run([script, "down"], capture_output=True, timeout=120)


@pytest.fixture(scope="session")
def undisturbed(cluster, tmp_path_factory) -> Path:
    """The same run on four local ranks, from its beginning to its end."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    cluster.vstrain(run.parent, *cluster.words, "trainer.accelerator=cpu", "trainer.devices=4", f"run.dir={run}")
    return run
