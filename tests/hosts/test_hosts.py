"""Runs over pretend hosts without a scheduler, each with a network of its own: what dies is replaced, and the run ends as one
that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from tests.conftest import command, metrics, until, weights
from tests.slurm.conftest import ROOT, step

TORCHRUN = [
    *("trainer.accelerator=cpu", "trainer.devices=1", "launcher=torchrun", "launcher.nodes=2"),
    *("launcher.gather=3", "launcher.keep_alive=1", "trainer.max_steps=40"),
]


def hosts_script() -> Path:
    return Path(os.environ.get("VSTRAIN_TESTBED", ROOT.parent / "shared" / "testbed")) / "hosts_testbed"


@pytest.fixture(scope="module")
def hosts():
    absent = [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]
    reason = "pretend hosts need root" if os.geteuid() else f"{', '.join(absent)} missing" if absent else ""
    reason = reason or (
        "" if hosts_script().is_file() else f"{hosts_script()} does not exist; set VSTRAIN_TESTBED to its folder"
    )
    if not reason:
        up = subprocess.run([hosts_script(), "up", "2"], capture_output=True, text=True, timeout=60)
        reason = f"the pretend hosts do not come up: {up.stdout}{up.stderr}" if up.returncode else ""
    if reason:
        warnings.warn(f"NO HOSTS TESTS: {reason}", stacklevel=1)
        pytest.skip(f"NO HOSTS TESTS: {reason}")
    yield
    subprocess.run([hosts_script(), "down"], capture_output=True, timeout=60)


def on(host: str, folder: Path, *words: str, **extra: str) -> subprocess.Popen:
    """`vstrain WORDS` on a host, in the background."""
    line, env = command(*words)
    with (folder / f"{host}.log").open("a") as log:
        return subprocess.Popen(
            [hosts_script(), "exec", host, *line],
            cwd=folder,
            env=env | {"TOY_PAUSE": "0.3"} | extra,
            stdout=log,
            stderr=log,
        )


def story(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("h*.log")))


def test_a_killed_worker_and_a_lost_host_are_replaced(hosts, toy_words, vstrain, tmp_path):
    """First a worker dies, then a whole host, for which the same one comes back after its reboot."""
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    words = [*toy_words, "system.dropout=0.3", "trainer.threads=1"]
    vstrain(*words, "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_steps=40", f"run.dir={undisturbed}")
    first = on("h1", tmp_path, *words, *TORCHRUN, f"run.dir={run}")
    until(lambda: f"vstrain join {run}" in story(tmp_path), 120, lambda: story(tmp_path))
    on("h2", tmp_path, "join", str(run), TOY_KILL_AT="6")
    until(lambda: started(run) == 2 and step(run) >= 10, 240, lambda: story(tmp_path))
    subprocess.run([hosts_script(), "crash", "h2"], check=True, capture_output=True)
    subprocess.run([hosts_script(), "restore", "h2"], check=True, capture_output=True)
    second = on("h2", tmp_path, "join", str(run))
    assert first.wait(400) == 0 and second.wait(120) == 0, story(tmp_path)
    assert started(run) == 3
    assert metrics(run) == metrics(undisturbed)
    assert all((weights(run)[name] == value).all() for name, value in weights(undisturbed).items())


def started(run: Path) -> int:
    file = run / "starts.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0
