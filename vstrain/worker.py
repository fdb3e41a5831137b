"""One process of one run: `python -m vstrain.worker RUN_DIR`. Reads resolved.yaml, never Hydra."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from pathlib import Path

from launch import ranks, starts
from vstrain.config import rundir, userpath
from vstrain.config.problems import InputError
from vstrain.config.strict import Strict
from vstrain.config.validate import validate
from vstrain.config.verbs import MODELS

OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 75
log = logging.getLogger("vstrain")


def main(run_dir: Path) -> int:
    """Runs the job and returns the exit code; rank 0 leaves it in state.json for the parent."""
    warnings.filterwarnings("ignore")
    userpath.search()
    values = rundir.load(run_dir)
    launcher = values["launcher"] if values["verb"] == "train" else {}  # other verbs work where they are called
    if launcher.get("via") == "srun":
        os.environ.update(ranks.from_slurm(os.environ))
    state = rundir.state(run_dir)
    if launcher.get("name") == "torchrun" and state["status"] == "failed" and state.get("cause") != "hang":
        print(f"{run_dir}: has failed: {state.get('error')}", file=sys.stderr)
        os.kill(os.getppid(), signal.SIGTERM)  # the agent has started the workers again, which would fail again
        return FAILED
    rank, began = int(os.environ.get("RANK", 0)), time.time()
    config = validate(values, MODELS[values["verb"]])
    note = rundir.set_state if rank == 0 else lambda *args, **fields: None

    from vstrain.engine import console, jobs

    console.set_up_logging(run_dir, rank)
    note(run_dir, "running", host=socket.gethostname(), pid=os.getpid())
    if rank == 0 and launcher.get("name", "slurm") != "slurm":  # whose batch script notes it
        starts.add(run_dir)
    try:
        status = jobs.run(config, run_dir)
    except InputError as error:
        log.error("vstrain %s: %s", config.verb, error)
        rundir.set_failed(run_dir, began, str(error), BAD_INPUT)
        return BAD_INPUT
    except BaseException as error:
        if peer_lost(error):
            log.error("rank %d: another rank has gone: %s", rank, str(error).strip().splitlines()[0])
            return FAILED
        log.error("rank %d: %s: %s", rank, type(error).__name__, error)
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.stream.write(traceback.format_exc())
        rundir.set_failed(run_dir, began, f"{type(error).__name__}: {error}", FAILED)
        if os.environ.get("VSTRAIN_TRACEBACK"):
            raise
        log.error("the traceback is in %s", run_dir / "logs" / f"rank-{rank}.log")
        return FAILED
    code = {"finished": OK, "stopped": STOPPED}[status]
    note(run_dir, status, code=code)
    if rank == 0:
        log.info("%s", next_step(config, status, run_dir))
    shut_down()
    # an agent would start a group again of which one ended with another code; it and batch scripts read state.json
    return OK if "RANK" in os.environ else code


def peer_lost(error: BaseException) -> bool:
    """A broken connection to another process of the run: that one has the reason, or had no time to give one."""
    from torch.distributed import DistError

    signs = (
        "onnection closed by peer",
        "onnection reset by peer",
        "NCCL remote error",
        "roken pipe",
        "imed out waiting",
    )
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def next_step(config: Strict, status: str, run_dir: Path) -> str:
    """What to type next: only what the system can do."""
    with contextlib.suppress(ValueError):
        run_dir = run_dir.relative_to(Path.cwd())
    if status == "stopped":
        return f"stopped and saved. Continue with:\n  vstrain train resume={run_dir}"
    if config.verb != "train":
        return f"done: {run_dir}"
    words = {"predict": " input=YOUR_PHOTO_OR_FOLDER", "eval": "", "export": ""}
    able = [verb for verb in words if verb == "eval" or importlib.util.find_spec(f"{config.system.module}.{verb}")]
    lines = [f"  vstrain {verb} ckpt={run_dir}{words[verb]}" for verb in able]
    return "\n".join([f"done: {run_dir}  (metrics.jsonl, pictures/, checkpoints/last)", "next:", *lines])


def shut_down() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
