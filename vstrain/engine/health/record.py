"""What the logged numbers of a run say beside its losses: pace, split of the step, FLOP/s, memory, goodput."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from vstrain.config.schema import TrainConfig
from vstrain.engine.health.meter import FlopCount, Ledger, Meter, memory, speed


class Record:
    """Times are those of rank 0."""

    def __init__(self, config: TrainConfig, run_dir: Path, meter: Meter, trainer: Trainer):
        self.config, self.meter, self.device = config, meter, trainer.strategy.root_device
        self.devices, start = trainer.world_size, trainer.global_step
        self.ledger = Ledger(run_dir, start, trainer.is_global_zero)
        # compiled blocks and DeepSpeed's hooks do not show their operators to the counter
        countable = not config.trainer.compile and not config.strategy.name.startswith("zero")
        self.counts = trainer.is_global_zero and countable and self.ledger.flops is None
        self.counting: FlopCount | None = None
        meter.restart(start)

    def begin(self, step: int) -> None:
        """A micro-batch of optimiser step `step` (0-based)."""
        self.meter.step = step + 1
        self.meter.enter("forward")
        if self.counts:
            self.counting, self.counts = FlopCount(), False

    def end(self, batch: dict) -> None:
        """The micro-batch is through."""
        if self.counting:
            self.ledger.count(self.counting.end(len(batch["key"])))
            self.counting = None
        self.meter.enter("loop")

    def values(self, step: int) -> dict[str, float]:
        """Since the last call."""
        found, first = self.meter.window(step), self.meter.first
        samples = self.config.data.batch_size * (step - first)
        working = (found["time/step"] - found["time/validation"] - found["time/save"]) * (step - first)
        half = self.config.trainer.precision.startswith("bf16")
        found |= speed(self.ledger.flops, samples, working, self.devices, self.device, half)
        self.meter.restart(step)
        return (
            found
            | {
                "time/samples_per_second": self.config.data.batch_size / found["time/step"],
                "time/goodput": self.ledger.goodput(self.meter.useful),
            }
            | memory(self.device)
        )

    def saved(self, step: int) -> None:
        self.ledger.note(step, self.meter.useful_now())
