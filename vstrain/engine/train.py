"""A training run of one process: build, fit, report."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch import Trainer

from vstrain.config import checkpoints, rundir
from vstrain.config.problems import InputError
from vstrain.config.schema import TrainConfig
from vstrain.data.keyed import draw_key
from vstrain.engine import build, guards, loggers, precision, rehearsal, restore, strategies
from vstrain.engine.boundary import StepBoundary, save_pictures
from vstrain.engine.health import watchdog
from vstrain.engine.health.supply import Supply
from vstrain.engine.validation import inference
from vstrain.system import System

log = logging.getLogger("vstrain")


def run(config: TrainConfig, run_dir: Path, until: int | None = None, closing: bool = True) -> str:
    """Train to max_steps, from the run's newest checkpoint if it has one. Returns 'finished' or 'stopped'.

    until: a step after which to stop as if a signal had come. closing: whether the system reports when training has ended."""
    stop = guards.StopFlag()
    stop.install()
    watchdog.record_collectives(run_dir)
    share = build.share()
    path, facts = checkpoints.latest(run_dir) or (None, {"step": 0})
    if path:
        check_has_state(path)
    batches = build.Batches(config, run_dir)
    torch.manual_seed(draw_key(config.seed, -1, 0))  # the same weights on every rank
    system = build.build_system(config)
    start = facts["step"]
    if path:
        check_resumable(facts, batches, path)
        log.info("resuming at step %d from %s", start, path)
    if start >= config.trainer.max_steps:
        log.info("nothing to train: step %d of trainer.max_steps=%d", start, config.trainer.max_steps)
    else:
        facts = identity(config, batches)
        boundary = StepBoundary(config, run_dir, batches, stop, start, facts, path, until)
        trainer = build_trainer(config, run_dir, boundary, start)
        # it would broadcast at every micro-batch whether a signal came, which ranks agree on in ours
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        loader = batches.train(start * config.data.batch_size, share=share)
        supply = boundary.sentry.supply = Supply(loader, boundary.meter)
        with watchdog.Watchdog(run_dir, boundary.meter, share.rank, share.world, config.guards.timeout):
            trainer.fit(system, supply)
        trainer.strategy.barrier()
        if boundary.stopped:
            signal = guards.agreed_signal(stop.raised)
            if share.rank == 0:  # by this, not by an exit code, a batch script knows whether to queue the run again
                marker = {"signal": signal, "step": trainer.global_step}
                rundir.write_atomic(run_dir / "stopped.json", json.dumps(marker))
            return "stopped"
        if trainer.global_step != config.trainer.max_steps:
            raise RuntimeError(f"training ended at step {trainer.global_step} of {config.trainer.max_steps}")
        if share.rank == 0 and closing and not rehearsal.callbacks(run_dir):
            device = trainer.strategy.root_device
            if strategies.is_sharded(trainer) or config.ema.decay:
                system = restore.load(config, run_dir / "checkpoints" / checkpoints.name(trainer.global_step))
            with trainer.precision_plugin.val_step_context():
                report(system.to(device), batches, run_dir)
        trainer.strategy.barrier()
    return "finished"


def identity(config: TrainConfig, batches: build.Batches) -> dict[str, str]:
    """What all ranks must share and what a checkpoint remembers."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return {
        "config": hashlib.sha256(text.encode()).hexdigest(),
        "data": batches.fingerprint,
        "system": config.system.module,
    }


def check_has_state(path: Path) -> None:
    if (path / "state.pt").is_file():
        raise InputError(
            f"{path}: written by an earlier version, which can be used but not trained on; start a new run"
        )
    if not checkpoints.files(path, "optimizer"):
        raise InputError(
            f"{path}: adopted weights, without an optimiser to go on with; start a new run that begins from them "
            "(depth: experiment=depth_finetune system.init=RUN_DIR)"
        )


def check_resumable(facts: dict, batches: build.Batches, path: Path) -> None:
    if facts["data"] != batches.fingerprint:
        raise InputError(
            f"{path}: was trained on data with fingerprint {facts['data']}, the shards now have {batches.fingerprint}; "
            "bring back the old shards or start a new run"
        )


def build_trainer(config: TrainConfig, run_dir: Path, boundary: StepBoundary, start: int) -> Trainer:
    """A trainer that stands at step `start`. The counter is all that Lightning's loops need to know of what went before."""
    share, local = build.share(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    own_precision = [precision.BFloat16(accelerator_of(config))] if config.trainer.precision == "bf16-true" else []
    trainer = Trainer(
        accelerator=accelerator_of(config),
        devices=local,
        num_nodes=share.world // local,  # not the configured ones: hosts may have been lost (launcher=torchrun)
        strategy=strategies.build(config, share.world),
        precision={"32": "32-true", "bf16-true": None}.get(config.trainer.precision, config.trainer.precision),
        max_steps=config.trainer.max_steps,
        max_epochs=1,  # one pass over a plan that ends with max_steps: data never stops at an epoch
        accumulate_grad_batches=config.trainer.accumulate,
        logger=loggers.build(config, run_dir, start),
        callbacks=[boundary, *rehearsal.callbacks(run_dir)],
        plugins=[cluster_environment(), *own_precision],
        default_root_dir=run_dir,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = start
    return trainer


def cluster_environment() -> ClusterEnvironment:
    """Named, so that Lightning does not look for one: its own for SLURM takes over the signals."""
    return TorchElasticEnvironment() if "RANK" in os.environ else LightningEnvironment()


def accelerator_of(config: TrainConfig) -> str:
    wanted = config.trainer.accelerator
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "trainer.accelerator=cuda, but torch sees no CUDA device here; use trainer.accelerator=cpu or auto"
        )
    return {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(wanted, wanted)


def report(system: System, batches: build.Batches, run_dir: Path, samples: int | None = None) -> None:
    """The system's own closing numbers, if it has an `evaluate.report`: printed, report.json, pictures."""
    try:
        module = build.part(batches.config.system, "evaluate")
    except InputError:
        return
    config = batches.config
    steps = batches.train_samples // config.data.batch_size
    with inference(system):
        result = module.report(system, batches.train(0, steps), batches.val(samples=samples))
    rundir.write_atomic(run_dir / "report.json", json.dumps(result.metrics, indent=2))
    save_pictures(run_dir / "pictures", result.pictures)
    log.info("\n%s\n", result.text)


def threads(config: TrainConfig) -> int:
    """CPU threads of this rank."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return config.trainer.threads or max(1, len(os.sched_getaffinity(0)) // local)
