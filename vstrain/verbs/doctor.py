"""`vstrain doctor`: what this machine has, and what is missing for what."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

CORE = (
    "torch",
    "lightning",
    "hydra-core",
    "diffusers",
    "transformers",
    "webdataset",
    "datasets",
    "opencv-python-headless",
    "av",
    "simplejpeg",
    "pcodec",
    "wandb",
)
EXTRAS = {
    "deepspeed": "strategy=zero1|zero2|zero3",
    "xformers": "attention=xformers on CUDA",
    "ray": "pipelines over many machines",
}
TOOLS = {"sbatch": "launcher=slurm", "g++": "DeepSpeed's CPU extensions", "nvidia-smi": "CUDA devices"}


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(
            "vstrain doctor: versions, devices, memory, disk; exit code 1 when a core package is missing or does not import"
        )
        return 0
    table = Table("what", "found", "remark")
    missing = []
    table.add_row(
        "python",
        platform.python_version(),
        "" if platform.python_version_tuple() >= ("3", "11") else "3.11 or newer is needed",
    )
    for name in CORE:
        found = version(name)
        missing += [name] if found is None else []
        table.add_row(name, found or "-", "" if found else "MISSING: install vstrain again")
    for name, purpose in EXTRAS.items():
        found = version(name)
        table.add_row(f"{name} (extra)", found or "-", "" if found else f"not here; only needed for {purpose}")
    if importlib.util.find_spec("torchvision"):
        table.add_row(
            "torchvision",
            version("torchvision") or "?",
            "not used by vstrain; next to a CPU build of torch it breaks lightning",
        )
    for name, purpose in TOOLS.items():
        table.add_row(
            name,
            shutil.which(name) or "-",
            "" if shutil.which(name) else f"not here; only needed for {purpose}",
        )
    table.add_row("cores", str(len(os.sched_getaffinity(0))), "")
    table.add_row("memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB", "")
    table.add_row("disk here", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free", str(Path.cwd()))
    table.add_row(
        "shared memory",
        f"{shutil.disk_usage('/dev/shm').free / 2**30:.1f} GiB free",
        "/dev/shm, for data workers",
    )
    for row in devices():
        table.add_row(*row)
    Console().print(table)
    return 1 if missing else 0


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def devices() -> list[tuple[str, str, str]]:
    import torch

    rows = [
        (
            f"cuda:{i}",
            torch.cuda.get_device_name(i),
            f"{torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB",
        )
        for i in range(torch.cuda.device_count())
    ]
    return rows or [("cuda", "-", "none: training runs on the CPU")]
