"""Signals on their way to a run that this process waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARENT = """
import signal, sys
from launch import local
signal.signal(signal.SIGUSR2, lambda *args: print("requeued", flush=True))  # as submitit does
print("ended", local.wait([sys.executable, "-c", sys.argv[1]], {}), flush=True)
"""
CHILD = """
import os, signal, sys, time
def save(*args):
    time.sleep(0.5)
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_below_submitit_a_run_saves_before_it_is_requeued():
    """SLURM sends submitit's warning to the child as well, which would die of it."""
    line = [sys.executable, "-c", PARENT, CHILD]
    parent = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    for process in (child, parent.pid):
        os.kill(process, signal.SIGUSR2)
        time.sleep(0.1)
    assert parent.communicate(timeout=60)[0].split() == ["saved", "requeued", "ended", "75"]
