"""SLURM: a readable batch script in the run directory, submitted, and what became of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launch import files
from launch.files import LaunchError

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined, keep_trailing_newline=True
)
POLL = 2.0  # seconds between two questions about a job that is waited for
RECORD = 6  # of them that a job may be out of the queue with its record still to come


def script(run_dir: Path, launcher, devices: int, accelerator: str, name: str, cwd: Path) -> str:
    """The text of submit.sbatch. launcher: the keys of conf/launcher/slurm.yaml as attributes; devices: ranks a node."""
    python = launcher.python or (sys.executable if launcher.container.kind == "none" else "python3")
    return TEMPLATES.get_template("submit.sbatch").render(
        run_dir=run_dir,
        options=options(run_dir, launcher, devices, accelerator, name, cwd),
        setup=launcher.setup,
        threads=launcher.cpus or 1,
        python=sys.executable,
        srun=srun(run_dir, launcher, cwd),
        fruitless=launcher.fruitless,
        command=[*container(run_dir, launcher, cwd), python, "-m", *worker(launcher, devices)],
    )


def options(run_dir: Path, launcher, devices: int, accelerator: str, name: str, cwd: Path) -> list[str]:
    """The lines after #SBATCH."""
    tasks = devices if launcher.via == "srun" else 1
    cpus = launcher.cpus and launcher.cpus * devices // tasks
    gpus = launcher.gpus if accelerator != "cpu" else None
    kind = gpus.removeprefix("gpu:") if gpus not in (None, "gpu") else None
    asked = {
        "gres": f"--gres={gpus}:{devices}",
        "gpus-per-node": f"--gpus-per-node={kind + ':' if kind else ''}{devices}",
    }
    given = {
        "account": launcher.account,
        "partition": launcher.partition,
        "qos": launcher.qos,
        "time": launcher.time,
        "mem": launcher.memory,
        "cpus-per-task": cpus,
        "exclude": launcher.exclude,
    }
    return [
        f"--job-name={name}",
        f"--nodes={launcher.nodes}",
        f"--ntasks-per-node={tasks}",
        *(f"--{option}={value}" for option, value in given.items() if value is not None),
        *([f'--constraint="{launcher.constraint}"'] if launcher.constraint else []),
        *([asked[launcher.gpus_as]] if gpus else []),
        *(["--exclusive"] if launcher.exclusive else []),
        f'--chdir="{cwd}"',
        f'--output="{run_dir}/logs/slurm-%j.out"',
        "--open-mode=append",
        "--requeue",
        f"--signal=USR1@{launcher.lead}",
        *launcher.extra,
    ]


def srun(run_dir: Path, launcher, cwd: Path) -> list[str]:
    """Options of srun: one lost rank ends all at once. srun does not inherit the CPUs of a task from sbatch."""
    words = ["--kill-on-bad-exit=1"]
    if launcher.cpus:
        words.append('--cpus-per-task="$SLURM_CPUS_PER_TASK"')
    if launcher.container.kind == "pyxis":
        mounts = ",".join(f"{path}:{path}" for path in (run_dir, cwd, *launcher.container.mounts))
        words += [f'--container-image="{launcher.container.image}"', f'--container-mounts="{mounts}"']
        words.append(f'--container-workdir="{cwd}"')
    return words


def container(run_dir: Path, launcher, cwd: Path) -> list[str]:
    """What stands before the interpreter."""
    if launcher.container.kind != "apptainer":
        return []
    binds = [f'--bind "{path}"' for path in (run_dir, cwd, *launcher.container.mounts)]
    return ["apptainer exec --nv", *binds, f'--pwd "{cwd}"', f'"{launcher.container.image}"']


def worker(launcher, devices: int) -> list[str]:
    """The module of a task, and its words before the run directory."""
    return ["vstrain.worker"] if launcher.via == "srun" else ["vstrain.agent", str(devices)]


def submit(run_dir: Path, text: str, dependency: str | None = None) -> str:
    """Queue a script as RUN_DIR/submit.sbatch; the job id, also left in slurm.json. Raises LaunchError with SLURM's reason."""
    file = run_dir / "submit.sbatch"
    file.write_text(text)
    if shutil.which("sbatch") is None:
        raise LaunchError(f"launcher=slurm: there is no sbatch here; run it on a login node (the script: {file})")
    words = ["sbatch", "--parsable", *([f"--dependency={dependency}"] if dependency else []), str(file)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().replace("sbatch: error: ", "").replace("\n", "; ")
        raise LaunchError(f"launcher=slurm: sbatch refused {file}: {reason}")
    job = done.stdout.strip().partition(";")[0]
    files.write(run_dir / "slurm.json", {"job": job, "submitted": time.time()})
    return job


def queue(jobs: list[str]) -> dict[str, SimpleNamespace]:
    """job id -> (state, reason) as squeue tells it, of those that are still in the queue. Raises LaunchError when SLURM does
    not answer."""
    found = {}
    if not jobs:
        return found
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--states=all", "--format=%i|%T|%r"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"squeue does not answer: {error}") from error
    if done.returncode:
        raise LaunchError(f"squeue does not answer: {done.stderr.strip()}")
    for line in done.stdout.splitlines():
        job, state, reason = line.split("|", 2)
        if job in jobs:
            found[job] = SimpleNamespace(state=state, reason=reason if reason != "None" else "")
    return found


ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def wait(run_dir: Path, job: str) -> None:
    """Until the job has left the queue for good. A requeued one has not: it is pending under the same id."""
    missing = 0
    while missing < RECORD:
        try:
            found = queue([job]).get(job)
        except LaunchError:
            found = SimpleNamespace(state="UNKNOWN")  # the controller is away: ask again
        missing = missing + 1 if found is None or found.state in ENDED else 0
        if missing and files.read(run_dir / "state.json").get("status") in ("finished", "failed", "stopped"):
            return
        time.sleep(POLL)


def signal(job: str, name: str | None) -> None:
    """Send a signal to the ranks of a job; None: take it off the queue."""
    words = ["scancel", *([f"--signal={name}"] if name else []), job]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise LaunchError(f"scancel refused: {done.stderr.strip()}")
