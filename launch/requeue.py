"""The batch script's side of a run: `python -m launch.requeue begin RUN_DIR` before the ranks start, `end RUN_DIR CODE` after.

What happens next is decided by what the run has left in its directory, never by an exit code: a job script cannot tell a run
that saved and stopped from one that failed, state.json can. SLURM itself starts a job again that it has preempted, requeued or
lost a node of; what is left for us is the time limit, a warning that came before a preemption, and a start that went wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from launch import files, starts

FAILED, STOPPED = 1, 75
WARNING = "SIGUSR1"  # what SLURM sends before it takes the nodes away; INT is the user's, TERM comes from SLURM ending the job
REQUEST = "stop.json"  # `vstrain stop` was here: the run ends, whatever its ranks were at
TRIES, PAUSE = 5, 5.0  # of scontrol requeue; seconds


@dataclass(frozen=True)
class Decision:
    requeue: bool
    code: int  # of the batch script, where it is not requeued
    reason: str = ""


def decide(state: dict, stopped: dict, requested: bool, job_state: str, code: int) -> Decision:
    """What to do with a run whose ranks have ended.

    state: its state.json; stopped: stopped.json, the marker that ranks leave when they have saved on a signal; requested:
    `vstrain stop` was called; job_state: SLURM's word for the job, now that the ranks are gone; code: of srun.
    """
    status, hung = state.get("status"), state.get("cause") == "hang"  # which may be a node's doing
    if status == "finished" or (status == "failed" and not hung):
        return Decision(False, state.get("code", FAILED))
    if requested:
        return Decision(False, STOPPED, "stopped on request")
    if job_state != "RUNNING":
        return Decision(False, STOPPED, f"SLURM ends the job itself ({job_state})")
    if status == "stopped":
        warned = stopped.get("signal") == WARNING
        return Decision(warned, STOPPED, "saved before the nodes are taken away" if warned else "stopped on request")
    reason = state["error"] if hung else f"the ranks ended without a word (srun: exit code {code})"
    return Decision(True, STOPPED, reason)


def begin(run_dir: Path, limit: int) -> int:
    """0: go on with the ranks. Else the run is over, and this is the code to end with."""
    job = os.environ["SLURM_JOB_ID"]
    if (run_dir / REQUEST).exists():
        files.write(run_dir / "state.json", {"status": "stopped", "time": time.time(), "code": STOPPED})
        return STOPPED
    start = starts.add(run_dir, job)
    count = starts.fruitless(starts.read(run_dir), job)
    if count > limit:
        fail(
            run_dir,
            f"started again {count} times without a new checkpoint since step {start['step']}; see logs/slurm-{job}.out, "
            f"then go on with: vstrain train resume={run_dir}",
        )
        return FAILED
    (run_dir / "stopped.json").unlink(missing_ok=True)
    files.write(run_dir / "state.json", {"status": "starting", "time": time.time()})
    return 0


def end(run_dir: Path, code: int) -> int:
    job = os.environ["SLURM_JOB_ID"]
    state, requested = files.read(run_dir / "state.json"), (run_dir / REQUEST).exists()
    decision = decide(state, files.read(run_dir / "stopped.json"), requested, job_state(job), code)
    if decision.reason:
        print(f"vstrain: {decision.reason}{'; requeued' if decision.requeue else ''}", flush=True)
    if not decision.requeue:
        if decision.code == STOPPED and state.get("status") != "stopped":  # before the ranks could answer
            files.write(run_dir / "state.json", {"status": "stopped", "time": time.time(), "code": STOPPED})
        return decision.code
    files.write(run_dir / "state.json", {"status": "queued", "time": time.time()})
    for _ in range(TRIES):
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        if done.returncode == 0:
            time.sleep(PAUSE)  # SLURM ends this script
            return decision.code
        time.sleep(PAUSE)
    fail(
        run_dir, f"SLURM would not requeue job {job}: {done.stderr.strip()}; go on with: vstrain train resume={run_dir}"
    )
    return FAILED


def job_state(job: str) -> str:
    done = subprocess.run(["squeue", "--noheader", f"--jobs={job}", "--format=%T"], capture_output=True, text=True)
    return done.stdout.strip() or "RUNNING"  # a controller that does not answer has not ended the job


def fail(run_dir: Path, error: str) -> None:
    print(f"vstrain: {error}", file=sys.stderr, flush=True)
    files.write(run_dir / "state.json", {"status": "failed", "time": time.time(), "error": error, "code": FAILED})


def main(words: list[str]) -> int:
    verb, run_dir, number = words[0], Path(words[1]), int(words[2])
    return begin(run_dir, number) if verb == "begin" else end(run_dir, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
