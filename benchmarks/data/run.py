"""Our loader and its peers side by side, in one run: `python -m benchmarks.data.run`.

The peers have an environment of their own, so that the project's stays clean:

    python -m venv PEERS && PEERS/bin/pip install --no-deps -r benchmarks/data/peers.txt -e .
    PEERS/bin/python -m benchmarks.data.run [--samples N] [--rounds R] [--only NAME,...] [--write]

Every round runs everybody once (A B C A B C ...), each in a fresh process with OMP_NUM_THREADS=1 and two workers, all
files in the page cache. Figures are medians over the rounds, ratios are medians of the ratios within a round. CPU is
user + system of the whole process tree after ten batches. A demanded figure that is missed is printed as FAIL.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.data import corpus as corpora
from benchmarks.data import ours
from benchmarks.data.functions import BATCH
from benchmarks.data.measure import Job, spawn
from benchmarks.data.peer import Bare, TorchHandOver
from benchmarks.data.peers import PEERS, all_peers
from benchmarks.data.torch_peers import WebDatasetStateful
from benchmarks.report import Report, around, median, ratio

US, WDS, BARE, STATEFUL = ours.Ours.name, "webdataset", Bare.name, WebDatasetStateful.name
PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@dataclass
class Bench:
    corpus: Path
    rounds: int
    batches: int
    peers: list[str]
    report: Report = field(default_factory=Report)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return int(self.corpus.name.split("-")[1])

    def job(self, peer: str, function: str = "images", **changes) -> Job:
        return Job(peer, str(self.corpus), function, **{"batches": self.batches, **changes})

    def measure(self, job: Job) -> dict:
        """One result, also appended to measured.jsonl of the corpus. A peer that fails is left out from then on."""
        if job.peer in self.errors:
            return {"error": self.errors[job.peer]}
        result = spawn(job)
        if "error" in result:
            self.errors[job.peer] = result["error"]
            print(f"{job.peer}: {result['error']}", flush=True)
        with (self.corpus / "measured.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), **asdict(job), **result}) + "\n")
        return result

    def interleaved(self, jobs: dict[str, Job]) -> dict[str, dict[str, list[float]]]:
        """Row name -> figure -> one value a round."""
        for job in {(job.peer, job.variant): job for job in jobs.values()}.values():
            self.measure(Job(**{**asdict(job), "build": True}))
        found: dict = defaultdict(lambda: defaultdict(list))
        for number in range(self.rounds):
            for row, job in jobs.items():
                result = self.measure(job)
                for figure, value in result.items():
                    found[row][figure].append(value)
                cpu = f"{result['cpu_ms']:.2f} ms CPU" if "cpu_ms" in result else ""
                print(
                    f"  round {number + 1}: {row} {cpu} {result.get('first_s', 0):.2f} s to the first batch", flush=True
                )
        return {row: figures for row, figures in found.items() if "error" not in figures}


def decode(bench: Bench) -> None:
    """The JPEG stage against a C loop on libjpeg-turbo, the same pictures, one thread."""
    from vstrain.data import codecs

    what = "JPEG decoding, images a CPU second: ours / C loop on libjpeg-turbo"
    pictures = [sample["jpg"] for sample in islice(corpora.read(bench.corpus, "images"), 192)]
    with tempfile.TemporaryDirectory() as folder:
        program, blob = Path(folder) / "loop", Path(folder) / "pictures"
        source = str(Path(__file__).with_name("jpeg_loop.c"))
        built = subprocess.run(
            ["cc", "-O2", source, "-ljpeg", "-o", program], capture_output=True, text=True, check=False
        )
        if built.returncode:
            why = next((line for line in built.stderr.splitlines() if "error" in line), built.stderr)[-120:]
            bench.report.check(what, ">= 0.93", None, f"{why}; install libjpeg62-turbo-dev and cc")
            return
        blob.write_bytes(b"".join(len(data).to_bytes(4, "little") + data for data in pictures))
        own, limit = [], []
        for _ in range(max(5, bench.rounds)):
            output = subprocess.run([program, blob, "2"], capture_output=True, text=True, check=True).stdout
            limit.append(len(pictures) / float(output.split()[-1]))
            start = time.process_time()
            for data in pictures:
                codecs.decode("jpg", data)
            own.append(len(pictures) / (time.process_time() - start))
    rows = [["C loop, libjpeg-turbo", median(limit), 1.0], ["vstrain.data.codecs", median(own), ratio(own, limit)]]
    bench.report.say("", "**JPEG decoding**, images a CPU second")
    bench.report.table(["decoder", "images/s", "of the limit"], rows)
    bench.report.check(what, ">= 0.93", ratio(own, limit))


def function(bench: Bench) -> None:
    """The whole work for a sample, without any loader."""
    command = [sys.executable, "-m", "benchmarks.data.functions", str(bench.corpus), str(max(3, bench.rounds))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    cost = json.loads(output.splitlines()[-1])
    names = {
        "usual": "usual code: cv2, float32, cubic, PNG16",
        "tuned_png": "tuned code: crop, resize uint8 into the batch, PNG16",
        "tuned_pco": "the same, depth by pcodec (vstrain)",
        "images": "the same, image only",
    }
    rows = [[text, median(cost[name]), ratio(cost[name], cost["usual"])] for name, text in names.items()]
    bench.report.say("", "**One sample**: image and depth, decoded, cropped, resized to 518")
    bench.report.table(["function", "CPU ms", "of the usual code"], rows)
    bench.report.check("sample function: CPU, ours / usual code", "<= 0.18", ratio(cost["tuned_pco"], cost["usual"]))
    bench.report.check(
        "sample function: CPU, ours / tuned, PNG", "<= 0.40", ratio(cost["tuned_pco"], cost["tuned_png"])
    )


def loader(bench: Bench) -> None:
    """Two workers: pictures with one function for all, then everybody on the format that it stores."""
    jobs = {name: bench.job(name) for name in (BARE, US, *bench.peers)}
    found = bench.interleaved(jobs)
    _loader_table(bench, "**Loader, 2 workers, pictures**, the same function for all", found)
    cpu = {row: figures["cpu_ms"] for row, figures in found.items()}
    own, others = cpu.get(US, []), [row for row in cpu if row not in (US, BARE, WDS)]
    bench.report.check("loader, pictures: CPU, ours / bare function", "<= 1.25", ratio(own, cpu.get(BARE, [])))
    bench.report.check("loader, pictures: CPU, ours / webdataset", "<= 0.75", ratio(own, cpu.get(WDS, [])))
    for row in others:
        bench.report.check(f"loader, pictures: CPU, ours / {row}", "<= 1.00", ratio(own, cpu[row]))

    jobs = {BARE: bench.job(BARE, "tuned_pco"), US: bench.job(US, "tuned_pco")}
    jobs |= {name: bench.job(name, "tuned_png") for name in bench.peers if "tuned_png" in PEERS[name].functions}
    jobs["webdataset, usual code"] = bench.job(WDS, "usual")
    found = bench.interleaved(jobs)
    _loader_table(bench, "**Loader, 2 workers, image and depth**, everybody on its usual stored format", found)
    wall = {row: figures["wall_ms"] for row, figures in found.items()}
    speed = {row: ratio(wall[row], wall.get(US, [])) for row in wall if row not in (US, BARE, "webdataset, usual code")}
    speed = {row: value for row, value in speed.items() if value is not None}
    best = min(speed, key=speed.get, default="")
    bench.report.check("loader, image + depth: samples/s, ours / webdataset", ">= 2.5", speed.get(WDS))
    bench.report.check("loader, image + depth: samples/s, ours / best peer", ">= 1.8", speed.get(best), best)


def _loader_table(bench: Bench, title: str, found: dict) -> None:
    wds = found.get(WDS, {})
    rows = [
        [
            row,
            median(figures["cpu_ms"]),
            ratio(figures["cpu_ms"], wds.get("cpu_ms", [])),
            median([1e3 / wall for wall in figures["wall_ms"]]),
            ratio(wds.get("wall_ms", []), figures["wall_ms"]),
            round(median(figures["pss_mb"])),
        ]
        for row, figures in sorted(found.items(), key=lambda item: median(item[1]["cpu_ms"]))
    ]
    bench.report.say("", title)
    bench.report.table(["loader", "CPU ms", "/ webdataset", "samples/s", "x webdataset", "memory MB"], rows)


def handover(bench: Bench) -> None:
    """Ready-made batches of image and depth from two workers to the trainer."""
    pair = {name: bench.job(name, batches=200) for name in (ours.HandOver.name, TorchHandOver.name)}
    found = bench.interleaved(pair)
    rows = [[row, 1e3 * median(figures["cpu_ms"])] for row, figures in found.items()]
    bench.report.say("", "**Hand-over** of ready-made batches, both sides")
    bench.report.table(["loader", "CPU microseconds a sample"], rows)
    own, theirs = (found.get(name, {}).get("cpu_ms", []) for name in pair)
    bench.report.check("hand-over: CPU, ours / DataLoader", "<= 0.15", ratio(own, theirs))
    trace = bench.measure(bench.job(ours.HandOver.name, batches=2000, trace=100)).get("trace_mb", [])
    growth = float(np.polyfit(range(len(trace) - 2), trace[2:], 1)[0]) if len(trace) > 4 else None
    bench.report.check("memory growth over 2,000 batches, MB (RSS) a 100 batches", "<= 1", growth)


def first(bench: Bench) -> None:
    """From making the loader to its first batch: at the start, and continued in the middle."""
    jobs = {name: bench.job(name, warm=1, batches=0) for name in (US, *bench.peers, STATEFUL)}
    steps = bench.samples // BATCH
    stops = {"60 batches in": min(60, max(1, steps - 2)), "at 90 % of an epoch": max(1, int(0.9 * steps))}
    resuming = [name for name in jobs if all_peers()[name].resumes]
    with tempfile.TemporaryDirectory() as folder:
        for name in resuming:
            for number, (stop, batches) in enumerate(stops.items()):
                state = str(Path(folder) / f"{name}-{number}")
                if "error" not in bench.measure(bench.job(name, warm=1, batches=batches - 1, save=state)):
                    jobs[f"{name}, {stop}"] = bench.job(name, warm=1, batches=0, load=state)
        found = bench.interleaved(jobs)
    seconds = {row: figures["first_s"] for row, figures in found.items()}
    rows = [
        [name, *(median(seconds.get(row, [])) for row in (name, *(f"{name}, {stop}" for stop in stops)))]
        for name in jobs
    ]
    rows = [row for row in rows if row[0] in found and "," not in row[0]]
    bench.report.say("", "**Seconds to the first batch**, 2 workers, pictures, from making the loader")
    bench.report.table(["loader", "at the start", *stops], sorted(rows, key=lambda row: row[1]))
    best = min((row for row in bench.peers if row in seconds), key=lambda row: median(seconds[row]), default="")
    own = seconds.get(US, [])
    bench.report.check("first batch: seconds, ours / best peer", "<= 1.00", ratio(own, seconds.get(best, [])), best)
    late = ratio(seconds.get(f"{US}, at 90 % of an epoch", []), own)
    bench.report.check("first batch: seconds at 90 % of an epoch / at the start", "<= 1.2", late)
    resumed = [seconds.get(f"{name}, 60 batches in", []) for name in (STATEFUL, US)]
    small = "" if stops["60 batches in"] == 60 else "the corpus is too small"
    what = f"60 batches in: seconds, {STATEFUL} / ours"
    bench.report.check(what, ">= 20", None if small else ratio(*resumed), small)


def plan(bench: Bench) -> None:
    """The order of 15 million samples over 4,096 ranks with 8 workers each."""
    found = ours.plan_cost() or {}
    why = "" if found else "ours.plan_cost() gives nothing yet"
    for name, (text, bound) in PLAN.items():
        bench.report.check(f"15 M samples, 4,096 ranks x 8 workers: {text}", bound, found.get(name), why)


PLAN = {
    "imbalance": ("samples between the busiest and the idlest rank", "<= 1"),
    "us_together": ("microseconds a sample for the order of a global batch", "<= 1"),
    "us_per_sample": ("microseconds a sample for the order, in a rank's batches of 8", "<= 50"),
    "start_s": ("seconds to the first ids", "<= 5"),
    "private_mb": ("private MB of a process", "<= 50"),
}
SECTIONS = {section.__name__: section for section in (decode, function, loader, handover, first, plan)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data.run", description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=6000, help="size of the corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=120, help=CLOCK)
    parser.add_argument("--only", default="", help=f"sections ({', '.join(SECTIONS)}) or peers ({', '.join(PEERS)})")
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "vstrain-benchmark")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    args = parser.parse_args()
    only = {name.strip() for name in args.only.split(",") if name.strip()}
    if unknown := only - set(SECTIONS) - set(PEERS):
        raise SystemExit(
            f"--only: {sorted(unknown)[0]} is neither a section ({', '.join(SECTIONS)}) nor a peer ({', '.join(PEERS)})"
        )
    if args.write:
        around(PAGE)  # said now, not after the measurements
    peers = [name for name in PEERS if name == WDS or name in only or not only & set(PEERS)]
    bench = Bench(corpora.make(args.root, args.samples), args.rounds, args.batches, peers)
    bench.report.say(_machine(args))
    for name, section in SECTIONS.items():
        if name in only or not only & set(SECTIONS):
            section(bench)
    bench.report.finish()
    if bench.errors:
        bench.report.say("Not measured:", "", *(f"- {peer}: {error}" for peer, error in bench.errors.items()))
    if args.write:
        bench.report.write(PAGE)


def _machine(args: argparse.Namespace) -> str:
    names = ["torch", "simplejpeg", "opencv-python-headless", "pcodec", "torchdata", *PACKAGES]
    found = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    versions = ", ".join(f"{name} {found[name]}" for name in names if name in found)
    return (
        f"{args.samples:,} samples, {args.rounds} rounds of {args.batches} batches of {BATCH}; {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, {versions}."
    )


CLOCK = "batches of 32 on the clock, a round; with less than 50 those in flight at its ends distort the figures"
PACKAGES = (*(name for name in PEERS if "dali" not in name), "nvidia-dali-cuda130")


if __name__ == "__main__":
    main()
