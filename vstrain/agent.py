"""torchrun's agent for the processes of a run on this node: `python -m vstrain.agent DEVICES RUN_DIR`.

It starts one worker a device and passes signals on. The workers have said what there is to say, so a stop or a failed
worker ends it without a traceback; what the run came to stands in state.json.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("LOGLEVEL", "ERROR")  # torch's own agent log; read when it is imported
# else the workers' store goes down with the first agent, and a host that joins later waits for it in vain
os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")

from torch.distributed import run  # noqa: E402
from torch.distributed.elastic.multiprocessing import SignalException  # noqa: E402
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: E402

from launch import local, rendezvous  # noqa: E402
from vstrain.config import rundir  # noqa: E402

SAVE_SECONDS = 120  # what a worker gets between the signal and the end
SIGNALS = "SIGTERM,SIGINT,SIGUSR1,SIGHUP"


def main(devices: str, run_dir: str) -> int:
    """The run's own exit code, from state.json: the agent's is 1 even after a clean stop."""
    return local.exit_code(Path(run_dir), start(devices, run_dir))


def start(devices: str, run_dir: str) -> int:
    launcher = rundir.load(Path(run_dir)).get("launcher", {})
    try:
        run.main(
            [
                *rendezvous.arguments(launcher, Path(run_dir).name, os.environ),
                f"--nproc-per-node={devices}",
                f"--shutdown-timeout={SAVE_SECONDS}",
                f"--signals-to-handle={SIGNALS}",
                "-m",
                "vstrain.worker",
                run_dir,
            ]
        )
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"rank {rank} ended with exit code {failure.exitcode}; see {run_dir}/logs", file=sys.stderr)
        return 1
    except Exception as error:
        if not signalled(error):
            raise
        return 75
    return 0


def signalled(error: BaseException | None) -> bool:
    """Whether a signal is behind it: torch raises SignalException wherever the agent is at, and where that is the first line of
    its timing of a call, another exception takes its place."""
    while error is not None and not isinstance(error, SignalException):
        error = error.__context__
    return error is not None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
