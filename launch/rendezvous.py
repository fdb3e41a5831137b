"""How torchrun's agents of a run find each other: the words for torchrun, by the kind of launcher."""

from __future__ import annotations

from collections.abc import Mapping

from launch import ranks

PORT = 29400
MISSED = 3  # signs of life that may be missed


def arguments(launcher: dict, run: str, env: Mapping[str, str]) -> list[str]:
    """launcher: a run's launcher node; run: a name that no other run on these hosts has."""
    name = launcher.get("name", "local")
    if name == "slurm":
        host = ranks.first_host(env["SLURM_STEP_NODELIST"])
        return static(env["SLURM_NNODES"], env["SLURM_NODEID"], host, ranks.port(env["SLURM_JOB_ID"]))
    if name == "skypilot":
        first = env["SKYPILOT_NODE_IPS"].split()[0]
        return static(env["SKYPILOT_NUM_NODES"], env["SKYPILOT_NODE_RANK"], first, PORT)
    if name == "kubernetes":  # the operator sets these for every pod
        return static(env["PET_NNODES"], env["PET_NODE_RANK"], env["PET_MASTER_ADDR"], env["PET_MASTER_PORT"])
    if name == "torchrun":
        return elastic(launcher, run)
    return ["--standalone", "--max-restarts=0"]


def static(nodes: str, rank: str, host: str, port: int | str) -> list[str]:
    return [
        f"--nnodes={nodes}",
        f"--node-rank={rank}",
        f"--master-addr={host}",
        f"--master-port={port}",
        "--max-restarts=0",
    ]


def elastic(launcher: dict, run: str) -> list[str]:
    nodes, least = launcher["nodes"], launcher["least"] or launcher["nodes"]
    timing = {
        "last_call_timeout": launcher["gather"],
        "keep_alive_interval": launcher["keep_alive"],
        "keep_alive_max_attempt": MISSED,
    }
    return [
        f"--nnodes={least}:{nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={launcher['endpoint']}",
        f"--rdzv-id={run}",
        "--rdzv-conf=" + ",".join(f"{key}={value:g}" for key, value in timing.items()),
        f"--max-restarts={launcher['restarts']}",
    ]
