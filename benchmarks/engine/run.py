"""What the engine costs beside a bare PyTorch loop: `python -m benchmarks.engine.run [--rounds 5] [--write]`.

The same model, optimiser and batch (in memory) in a bare loop, in Lightning alone, in vstrain without guards and meter, and in
vstrain, turn by turn; `single`, and `ddp` on two ranks (one thread each). A network whose step takes some tenths of a second, and
a tiny one, where what a step costs beside the network shows in milliseconds. Then the start of a run, item by item.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.engine.startup import startup
from benchmarks.report import Report

PAGE = Path(__file__).parents[2] / "docs" / "running.md"
NETWORKS = {  # name -> width, layers, (batch, tokens), steps of a round
    "step of tenths of a second": (256, 6, (8, 196), 14),
    "tiny step": (64, 2, (4, 16), 200),
}


def sides(devices: int, network: str, rounds: int, clock: str, folder: Path) -> list[dict[str, float]]:
    """[side -> seconds a step] of each round, from processes of their own."""
    out = folder / "times.json"
    words = ["-m", "benchmarks.engine.worker", str(devices), network, str(rounds), str(folder), str(out), clock]
    if devices > 1:
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}", *words]
    subprocess.run([sys.executable, *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "LOGLEVEL": "ERROR"})
    return json.loads(out.read_text())


def steps(report: Report, folder: Path, rounds: int, clock: str) -> None:
    rows = []
    for devices in (1, 2):
        for name in NETWORKS:
            found = sides(devices, name, rounds, clock, folder)
            typical = {side: statistics.median(times[side] for times in found) for side in found[0]}

            def ratio(a: str, b: str, found=found) -> float:
                return statistics.median(times[a] / times[b] for times in found)

            what = f"{'single' if devices == 1 else 'ddp, 2 ranks'}, {name}"
            milliseconds = [f"{1e3 * typical[side]:.2f} ms" for side in ("bare", "lightning", "unguarded", "vstrain")]
            over, guards = ratio("vstrain", "bare"), ratio("vstrain", "unguarded")
            rows.append([what, *milliseconds, over, guards])
            if name != "tiny step":
                report.check(f"step against the bare loop, {what}", "<= 1.02", over)
                report.check(f"guards and meter, {what}", "<= 1.01", guards)
    heads = [
        "a step",
        "bare loop",
        "Lightning alone",
        "without guards and meter",
        "vstrain",
        "vstrain / bare",
        "guards, meter",
    ]
    report.table(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others use the machine as well"
    )
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    args = parser.parse_args()
    report = Report()
    command = f"python -m benchmarks.engine.run --rounds {args.rounds} --clock {args.clock}"
    cores = len(os.sched_getaffinity(0))
    report.say(f"`{command}`, {cores} cores; of each round the lower quartile of its steps, of the rounds the median.")
    with tempfile.TemporaryDirectory() as folder:
        steps(report, Path(folder), args.rounds, args.clock)
        startup(report, Path(folder))
    report.finish()
    if args.write:
        report.write(PAGE, "speed")


if __name__ == "__main__":
    main()
