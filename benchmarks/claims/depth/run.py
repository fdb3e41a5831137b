"""The argument of Depth Anything at small scale: `python -m benchmarks.claims.depth.run [--seeds 3] [--steps 700] [--write]`.

From random weights, on the procedural world's two looks. The clean look has exact labels; pictures of the rough look are
taken for unlabelled, and all scores are of held-out rough pictures. Every model is a run of `vstrain`, every label one of
`vstrain label`; what is compared differs in nothing but what the row says. Scores are AbsRel after a fit of scale and shift,
means over test pictures; intervals are 95 % of a bootstrap over seeds and pictures, paired where two models are compared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.report import Report
from vstrain.data.index import Index
from vstrain.data.reader import Reader
from vstrain.data.storage import expand
from vstrain.data.writer import ShardWriter
from vstrain.engine import build
from vstrain.engine.restore import restore
from vstrain.systems.depth.metrics import depth_scores

PAGE = Path(__file__).parents[3] / "docs" / "depth.md"
SIDE, LABELLED, TEST, UNLABELLED = 70, 1500, 300, (250, 1000, 4000)
BOOTSTRAPS = 4000
STUDENTS = 100  # their seeds begin here: a student must not begin with its teacher's random weights
PERTURB = {"sigma": "[0.1,0.5]", "hue": "0.1"}  # blur in proportion to the picture


class Lab:
    """Runs of one benchmark, in a folder of their own; a run that is there is not made again."""

    def __init__(self, folder: Path, steps: int):
        self.folder, self.steps = folder, steps
        self.pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def vstrain(self, *words: str) -> None:
        line = [sys.executable, "-m", "vstrain.cli", *words]
        done = subprocess.run(
            line, cwd=self.folder, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(line)}\n{done.stderr}")

    def train(self, name: str, seed: int, experiment: str, *words: str, after: Future | None = None) -> Future:
        run = self.folder / f"{name}-{seed}"

        def work() -> Path:
            if after is not None:
                after.result()
            if not (run / "report.json").is_file():
                self.vstrain(f"experiment={experiment}", *self.common, f"seed={seed}", f"run.dir={run}", *words)
            return run

        return self.pool.submit(work)

    @property
    def common(self) -> list[str]:
        return [
            *("data=shards", f"data.val.urls=[{self.data}/val_real-*.tar]", "data.batch_size=12", "data.workers=0"),
            *(f"system.image_size={SIDE}", f"trainer.max_steps={self.steps}", "trainer.threads=1", "seed=0"),
            *(f"callbacks.validation.every={self.steps}", f"callbacks.checkpoint.every={self.steps}"),
        ]

    @property
    def data(self) -> Path:
        return next((self.folder / "data" / "procedural").glob("depth-*"))

    def render(self) -> None:
        """The embedded data set of these sizes, by a training of one step."""
        sizes = {
            "samples": LABELLED,
            "val_samples": 60,
            "real_samples": UNLABELLED[-1],
            "real_val_samples": TEST,
            "size": SIDE + 2,
        }
        if not (self.folder / "data").is_dir():
            words = [f"data.procedural.{name}={value}" for name, value in sizes.items()]
            self.vstrain("experiment=depth_teacher", *words, "trainer.max_steps=1", f"run.dir={self.folder}/render")


def student(labelled: str, pseudo: Path, perturb: bool = True) -> list[str]:
    sources = f"[{{urls: ['{labelled}'], weight: 1}}, {{urls: ['{pseudo}/labels-*.tar'], weight: 2}}]"
    words = ["recipe=v1", "system.student.teacher=null", f"data.train.sources={sources}"]
    if not perturb:
        return [*words, "system.perturb=null"]
    return words + [f"system.perturb.{key}={value}" for key, value in PERTURB.items()]


def from_labels(lab: Lab, seed: int) -> dict[str, Future]:
    """The models that learn from true labels alone."""
    clean, noisy = (f"data.train.urls=[{folder}/train-*.tar]" for folder in (lab.data, lab.folder / "noisy"))
    return {
        "teacher": lab.train("teacher", seed, "depth_teacher", "recipe=v1", clean),
        "noisy": lab.train("noisy", seed, "depth_teacher", "recipe=v1", noisy),
    }


def from_teacher(lab: Lab, seed: int, teacher: Future) -> dict[str, Future]:
    """The students. What they wait for was handed in before them, so nobody waits for ever."""
    labels = {}
    for count in UNLABELLED:
        folder = lab.folder / f"labels-{seed}-{count}"
        labels[count] = folder, lab.pool.submit(label, lab, teacher, folder, count)
    align = (
        f"system.student.alignment={{weight: 0.333333, margin: 0.85, size: tiny, init: {lab.folder}/teacher-{seed}}}"
    )
    few, middle, many = UNLABELLED

    def train(name: str, count: int, *more: str, perturb: bool = True) -> Future:
        folder, made = labels[count]
        words = student(f"{lab.data}/train-*.tar", folder, perturb)
        return lab.train(name, STUDENTS + seed, "depth_student", *words, *more, after=made)

    return {
        "student": train("student", middle),
        "plain": train("plain", middle, perturb=False),
        "aligned": train("aligned", middle, align),
        "few": train("few", few),
        "many": train("many", many),
    }


def label(lab: Lab, teacher: Future, folder: Path, count: int) -> None:
    run = teacher.result()
    if not (folder / "summary.json").is_file():
        words = [
            f"ckpt={run}",
            f"urls=[{lab.data}/train_real-*.tar]",
            f"output={folder}",
            f"limit={count}",
            "threads=1",
        ]
        lab.vstrain("label", *words, "overwrite=true")


def noisy_labels(lab: Lab) -> None:
    """The pictures of the middle unlabelled set with labels as a cheap depth camera gives them: edges bleed, dark places and
    borders are missing, depth is quantised and off by a smooth error of 10 %."""
    out = lab.folder / "noisy"
    if out.is_dir():
        return
    reader = Reader(Index.open(expand([f"{lab.data}/train_real-*.tar"])))
    with ShardWriter(out, "train", "depth") as writer:
        for n in range(UNLABELLED[1]):
            sample = reader.read(n)
            depth = sensor(sample["depth.pco"], sample["jpg"], np.random.default_rng(n))
            if (depth > 0).any():
                writer.write(
                    {"__key__": sample.key, "jpg": sample.raw("jpg"), "depth.pco": depth, "json": {"unit": "depth"}}
                )


def sensor(depth: np.ndarray, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    seen = depth > 0
    near = cv2.erode(np.where(seen, depth, 1e3).astype(np.float32), np.ones((5, 5)))  # the nearer side bleeds
    wrong = cv2.resize(rng.normal(0, 0.1, (4, 4)).astype(np.float32), depth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    measured = np.round(near * np.exp(wrong) * 10) / 10
    edges = cv2.morphologyEx(depth, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0.5
    missing = ~seen | (edges & (rng.random(depth.shape) < 0.5)) | (picture.mean(2) < 30)
    return np.where(missing, 0, measured).astype(np.float32)


@torch.no_grad()
def scores(run: Path) -> np.ndarray:
    """(2, TEST): AbsRel of every test picture, over all its pixels and over those beside a jump of depth by a tenth or more."""
    job = SimpleNamespace(ckpt=str(run), system={}, accelerator="cpu")
    system, trained, _ = restore(job)
    batches = build.Batches(trained, None).val()
    found = []
    for batch in batches:
        fitted, truth, counted = system.fitted(system(batch["image"]).float(), batch)
        high, low = F.max_pool2d(truth, 3, 1, 1), -F.max_pool2d(-torch.where(counted, truth, torch.inf), 3, 1, 1)
        edge = counted & (high > 1.1 * low)
        both = [depth_scores(fitted, truth, pixels)["abs_rel"] for pixels in (counted, edge)]
        found.append(torch.stack(both)[:, batch["weight"] > 0])
    return torch.cat(found, dim=1).double().numpy()


def interval(samples: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high): 95 % of a bootstrap over both axes of (seeds, pictures)."""
    rng = np.random.default_rng(0)
    seeds, pictures = samples.shape
    means = [
        samples[rng.integers(seeds, size=seeds)][:, rng.integers(pictures, size=pictures)].mean()
        for _ in range(BOOTSTRAPS)
    ]
    return float(samples.mean()), *(float(x) for x in np.percentile(means, (2.5, 97.5)))


NAMES = {
    "teacher": f"teacher: {LABELLED} clean labelled pictures",
    "student": f"student: these, and {UNLABELLED[1]} rough pictures with the teacher's labels, perturbed",
    "plain": "the same without perturbation",
    "aligned": "student with features kept near the teacher's encoder",
    "few": f"student with {UNLABELLED[0]} rough pictures",
    "many": f"student with {UNLABELLED[2]} rough pictures",
    "noisy": f"{UNLABELLED[1]} rough pictures with a cheap sensor's labels",
}
CLAIMS = [  # (claim, better, worse); None: only the sign is reported
    ("(b) a student beats its teacher where nothing is labelled", "student", "teacher"),
    ("(c) perturbation helps", "student", "plain"),
    ("(c') pseudo labels without perturbation against the teacher", "plain", "teacher"),
    ("(d) feature alignment against none", "aligned", "student"),
    ("(e) clean synthetic labels, then pseudo labels, beat noisy real labels", "student", "noisy"),
    ("(e') clean synthetic labels alone against noisy real labels", "teacher", "noisy"),
    (f"(f) {UNLABELLED[1]} unlabelled pictures against {UNLABELLED[0]}", "student", "few"),
    (f"(f) {UNLABELLED[2]} against {UNLABELLED[1]}", "many", "student"),
    (f"(f) {UNLABELLED[2]} against {UNLABELLED[0]}", "many", "few"),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument(
        "--folder", type=Path, default=Path("claims-depth"), help="runs are kept here, and not made again"
    )
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    args = parser.parse_args()
    began = time.monotonic()
    args.folder.mkdir(exist_ok=True)
    lab = Lab(args.folder.absolute(), args.steps)
    lab.render()
    noisy_labels(lab)
    runs = [from_labels(lab, seed) for seed in range(args.seeds)]
    for seed, made in enumerate(runs):
        made |= from_teacher(lab, seed, made["teacher"])
    found = {name: np.stack([scores(run[name].result()) for run in runs]) for name in NAMES}
    report = Report()
    report.say(
        f"`python -m benchmarks.claims.depth.run --seeds {args.seeds} --steps {args.steps}`: {len(NAMES) * args.seeds} models of "
        f"{args.steps} steps of 12 pictures {SIDE} x {SIDE}, seeds 0 to {args.seeds - 1}, {TEST} rough test pictures, "
        f"{(time.monotonic() - began) / 60:.0f} minutes on {len(os.sched_getaffinity(0))} cores.",
    )
    rows = []
    for name, text in NAMES.items():
        (mean, low, high), (edge, _, _) = (interval(found[name][:, k]) for k in (0, 1))
        seeds = ", ".join(f"{x:.4f}" for x in found[name][:, 0].mean(1))
        rows.append([text, f"{mean:.4f}", f"{low:.4f} to {high:.4f}", seeds, f"{edge:.4f}"])
    report.table(["model", "AbsRel", "95 %", "seeds", "at edges"], rows)
    rows = []
    for claim, better, worse in CLAIMS:
        cells = []
        for k in (0, 1):
            mean, low, high = interval((found[worse] - found[better])[:, k])
            verdict = "holds" if low > 0 else "the opposite" if high < 0 else "not seen"
            cells += [f"{mean:+.4f} ({low:+.4f} to {high:+.4f})", verdict]
        rows.append([claim, *cells])
    report.table(["claim", "AbsRel gained (95 %)", "", "at edges", ""], rows)
    if args.write:
        report.write(PAGE, "claims")


if __name__ == "__main__":
    main()
