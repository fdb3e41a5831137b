"""What vstrain costs beside the bare network: `python -m benchmarks.depth.run [--rounds 5] [--write]`.

Training: the same steps (network, loader, loss, optimiser) in a bare PyTorch loop and in vstrain's run with its boundary,
logging and agreement, turn by turn. Labelling: pictures in shards to labels in shards, against the bare forward pass over
the same pictures, decoded before. Memory: the largest of a training step with and without checkpointing, counted by autograd.
On a GPU the same command takes vitl at 518 with bf16, compiled, against eager: images/s and model FLOPs utilisation.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import Report
from vstrain.config import rundir
from vstrain.config.command import Command
from vstrain.config.schema import TrainConfig
from vstrain.data.index import Index
from vstrain.data.keyed import draw_key
from vstrain.data.reader import Reader
from vstrain.data.writer import ShardWriter
from vstrain.engine import build, hardware, label, train
from vstrain.engine.boundary import StepBoundary
from vstrain.engine.guards import StopFlag
from vstrain.systems.depth.label import Labeller
from vstrain.verbs import embedded

PAGE = Path(__file__).parents[2] / "docs" / "depth.md"


def config_of(folder: Path, *words: str) -> TrainConfig:
    """A teacher on pictures of its own size, ready to run."""
    common = [
        "experiment=depth_teacher",
        f"site.data_root={folder}/data",
        "data.procedural.val_samples=8",
        "data.workers=1",
    ]
    config, _ = embedded.prepare(Command("train", TrainConfig, [*common, *words], embedded.check).config())
    return config


class Clock:
    """Seconds between the ends of optimiser steps."""

    def __init__(self):
        self.ends = []

    def tick(self) -> None:
        self.ends.append(time.perf_counter())

    def typical(self, skip: int = 5) -> float:
        """The lower quartile: what a step takes while nothing else wants the cores."""
        return float(np.quantile(np.diff(self.ends)[skip:], 0.25))


def bare(config: TrainConfig) -> float:
    """Seconds a step of a plain loop over the same loader."""
    torch.manual_seed(draw_key(config.seed, -1, 0))
    system = build.build_system(config)
    system.configure_model()
    optimizer, clock = system.configure_optimizers(), Clock()
    for batch in build.Batches(config, None).train(0):
        loss = system.objective(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.typical()


def ours(config: TrainConfig, run_dir: Path) -> float:
    """Seconds a step of vstrain's own run: data workers, boundary, logging and the agreement of ranks."""
    shutil.rmtree(run_dir, ignore_errors=True)
    rundir.create(config, run_dir.parent, run_dir, {})
    batches, clock = build.Batches(config, run_dir), Clock()
    facts = train.identity(config, batches)

    class Timed(StepBoundary):
        def on_train_batch_end(self, trainer, *rest) -> None:
            super().on_train_batch_end(trainer, *rest)
            clock.tick()

        def _validate(self, *rest) -> None:
            pass

    boundary = Timed(config, run_dir, batches, StopFlag(), 0, facts)
    torch.manual_seed(draw_key(config.seed, -1, 0))
    trainer = train.build_trainer(config, run_dir, boundary, 0)
    trainer.fit(build.build_system(config), batches.train(0))
    return clock.typical()


def training(report: Report, folder: Path, rounds: int) -> None:
    rows = []
    for name, words in (
        ("demo network, 126 x 126, batch 8", ("trainer.max_steps=60", "data.procedural.samples=400")),
        ("vits, 126 x 126, batch 8", ("system.size=vits", "trainer.max_steps=14", "data.procedural.samples=400")),
    ):
        config = config_of(folder, *words, "trainer.log_every=10", "callbacks.checkpoint.every=1000000")
        pairs = []
        for turn in range(rounds):  # each side goes first in turn: the machine's speed drifts
            if turn % 2:
                pairs.append((bare(config), ours(config, folder / "run")))
            else:
                pairs.append((ours(config, folder / "run"), bare(config))[::-1])
        ratio = statistics.median(b / a for a, b in pairs)
        rows.append([name, *(f"{statistics.median(side) * 1e3:.1f} ms" for side in zip(*pairs, strict=True)), ratio])
        report.check(f"training step against the bare loop, {name}", "<= 1.02", ratio)
    report.table(["training step", "bare loop", "vstrain", "ratio"], rows)


def labelling(report: Report, folder: Path, rounds: int) -> None:
    """Two processes' worth of work in one: the network has the cores, reading and writing what it leaves."""
    config = config_of(folder, "system.size=vits", "data.procedural.samples=400", "trainer.max_steps=1")
    system = build.build_system(config)
    system.configure_model()
    system.eval()
    source = Index.open(config.data.train.urls)
    count, batch = 48, 8
    reader = Reader(source)
    with ShardWriter(folder / "pictures", "pictures", "image") as writer:
        for n in range(count):
            picture = np.repeat(np.repeat(reader.read(n)["jpg"], 4, 0), 5, 1)  # 512 x 640
            writer.write({"__key__": f"p{n:03d}", "jpg": picture})
    index = Index.open([str(folder / "pictures" / "pictures-000000.tar")])
    labeller = Labeller(system, 252, False, "32")
    inputs = np.stack([labeller.input(Reader(index).read(n)["jpg"]) for n in range(count)])
    pairs = []
    for _ in range(rounds):
        began = time.perf_counter()
        with torch.inference_mode():
            for start in range(0, count, batch):
                system(torch.from_numpy(inputs[start : start + batch]))
        forward = time.perf_counter() - began
        began = time.perf_counter()
        labels = label.Labels(index, labeller, {}, batch, count, None)
        with ShardWriter(folder / "labels", "labels", "depth") as writer:
            for n in range(count):
                writer.write(labels(n, lambda json: None).sample)
        pairs.append((forward, time.perf_counter() - began))
    share = statistics.median(a / b for a, b in pairs)
    figures = [f"{count / statistics.median(side):.2f}" for side in zip(*pairs, strict=True)]
    report.table(
        [
            "labelling, vits, 512 x 640 pictures seen at 252 x 322",
            "bare forward, images/s",
            "vstrain, images/s",
            "share",
        ],
        [["", *figures, share]],
    )
    report.check("labelling throughput of the bare forward pass", ">= 0.95", share)


def memory(report: Report, folder: Path) -> None:
    """Bytes that autograd keeps for the backward pass of one step, each tensor once, beside weights, gradients and moments."""
    rows = []
    for size, side, batch in (("vits", 252, 4), ("vitb", 252, 2)):
        kept = []
        for checkpointing in ("none", "full"):
            words = (
                f"system.size={size}",
                f"system.image_size={side}",
                f"trainer.checkpointing={checkpointing}",
                "trainer.max_steps=1",
            )
            config = config_of(folder, *words, f"data.batch_size={batch}", "data.procedural.samples=400")
            system = build.build_system(config)
            system.configure_model()
            system.train()
            seen: dict[int, int] = {}

            def pack(x: torch.Tensor, seen=seen) -> torch.Tensor:
                seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
                return x

            ready = next(iter(build.Batches(config, None).train(0)))
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                loss = system.objective(ready).loss
            weights = {p.untyped_storage().data_ptr() for p in system.parameters()}
            kept.append(sum(size for pointer, size in seen.items() if pointer not in weights) / 2**20)
            del loss
        rows.append([f"{size}, {side} x {side}, batch {batch}", *(f"{x:,.0f} MiB" for x in kept), kept[1] / kept[0]])
    report.table(["kept for the backward pass", "plain", "trainer.checkpointing=full", "ratio"], rows)


def gpu(report: Report) -> None:
    """vitl at 518: compiled bf16 with a fused optimiser, against plain eager float32 and bf16. Random weights and pictures."""
    from vstrain.systems.depth.network import build_network
    from vstrain.systems.depth.objective import depth_loss

    device, batch, side = torch.device("cuda"), 16, 518
    peak = hardware.peak(torch.cuda.get_device_name(), half=True)
    pictures = torch.randn(batch, 3, side, side, device=device)
    target, valid = (
        torch.rand(batch, side, side, device=device),
        torch.ones(batch, side, side, dtype=torch.bool, device=device),
    )
    rows, flops = [], 0
    for name, half, compiled in (
        ("eager, float32", False, False),
        ("eager, bf16", True, False),
        ("compiled, bf16", True, True),
    ):
        torch.cuda.empty_cache()
        net = build_network("vitl", "v2", "official").to(device)
        call = torch.compile(net) if compiled else net
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-6, fused=compiled)

        def step(call=call, optimizer=optimizer, half=half) -> None:
            with torch.autocast("cuda", torch.bfloat16, enabled=half):
                prediction = call(pixel_values=pictures).predicted_depth
            residual, gradient = depth_loss(prediction, target, valid, "median_mad", "mae")
            (residual + 2 * gradient).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        with FlopCounterMode(display=False) as counter:
            if not compiled:
                step()
        flops = counter.get_total_flops() or flops  # of the eager step
        for _ in range(5):
            step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for _ in range(20):
            step()
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / 20
        share = f"{flops / seconds / peak:.1%}" if peak else "-"
        rows.append([name, f"{batch / seconds:.1f}", share, f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"])
    report.table(
        [f"vitl at {side}, batch {batch}, {torch.cuda.get_device_name()}", "images/s", "MFU (bf16 peak)", "memory"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    args = parser.parse_args()
    logging.getLogger("vstrain").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    report = Report()
    report.say(
        f"`python -m benchmarks.depth.run --rounds {args.rounds}`, {len(os.sched_getaffinity(0))} cores, medians of the rounds."
    )
    with tempfile.TemporaryDirectory() as folder:
        training(report, Path(folder), args.rounds)
        labelling(report, Path(folder), args.rounds)
        memory(report, Path(folder))
    if torch.cuda.is_available():
        gpu(report)
    report.finish()
    if args.write:
        report.write(PAGE, "speed")


if __name__ == "__main__":
    main()
