"""SLURM's words for a task's place, in torchrun's: everything after this is the same under both."""

from __future__ import annotations

import re
from collections.abc import Mapping

PORTS = range(10000, 30000)  # below the ports that the kernel hands out


def from_slurm(env: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK, MASTER_ADDR and MASTER_PORT of one task of a job step."""
    node = int(env["SLURM_NODEID"])
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env["SLURM_NTASKS"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks_per_node(env["SLURM_STEP_TASKS_PER_NODE"])[node]),
        "GROUP_RANK": str(node),
        "MASTER_ADDR": first_host(env["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(port(env["SLURM_JOB_ID"])),
    }


def port(job: str) -> int:
    """The same on every task of a job, and another one for its neighbour."""
    return PORTS[int(job) % len(PORTS)]


def tasks_per_node(text: str) -> list[int]:
    """'2(x3),1' -> [2, 2, 2, 1]."""
    counts = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts


def first_host(nodelist: str) -> str:
    """'gpu[003-005,9]-ib,login' -> 'gpu003-ib'."""
    host = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodelist).group()
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", host)
