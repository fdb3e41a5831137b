"""What becomes of a step whose loss is not finite or spikes: decided by all ranks alike, before the optimiser step."""

from __future__ import annotations

import logging
import statistics
from collections import deque
from dataclasses import dataclass

import torch

from vstrain.config.schema import Guards
from vstrain.data.problems import DataError
from vstrain.engine.health.lockstep import Agreed, Seen, agree

log = logging.getLogger("vstrain")
MOST_RANKS = 8  # whose batches are kept when no rank alone is to blame


class NotFinite(RuntimeError):
    """The loss or the gradient of a step is not finite, or its loss spikes, and the policy is to stop."""


@dataclass(frozen=True)
class Decision:
    agreed: Agreed
    reason: str = ""  # one sentence about what is wrong with the step; "" when nothing is
    suspects: tuple[int, ...] = ()  # ranks whose batches are kept
    skip: bool = False  # the optimiser step does not take place
    error: Exception | None = None  # ends the run at the end of this step, on every rank


class Guard:
    """Judges each optimiser step. Its state is the same on all ranks and goes into checkpoints, so that a resumed run judges
    as the undisturbed one would."""

    def __init__(self, config: Guards):
        self.config = config
        self.recent: deque[float] = deque(maxlen=config.spike.window if config.spike else 1)  # losses of steps taken
        self.skipped = self.spikes = 0

    def judge(self, seen: Seen, device: torch.device) -> Decision:
        agreed = agree(seen, device)
        step = seen.facts["step"]
        if agreed.difference:
            return Decision(agreed, error=RuntimeError(agreed.difference), skip=True)
        if agreed.exhausted:
            return Decision(agreed, error=DataError(_ran_out(agreed, step)), skip=True)
        if agreed.loss == agreed.loss and agreed.norm == agreed.norm:
            return self._judge_height(agreed, seen, device, step)
        if agreed.broken:
            where = ", ".join(f"{rank} ({agreed.hosts[rank]})" for rank in agreed.broken[:MOST_RANKS])
            what, suspects = f"the loss of rank {where} is not finite at step {step}", agreed.broken
        else:
            what, suspects = f"the gradient is not finite at step {step}, the losses are", range(len(agreed.hosts))
        return self._act(self.config.non_finite, agreed, what, tuple(suspects)[:MOST_RANKS])

    def _judge_height(self, agreed: Agreed, seen: Seen, device: torch.device, step: int) -> Decision:
        spike = self.config.spike
        if spike and len(self.recent) == spike.window:
            usual = statistics.median(self.recent)
            if agreed.loss > spike.factor * usual > 0:
                agreed = agree(seen, device, details=True)
                self.spikes += 1
                what = (
                    f"the loss spikes at step {step}: {agreed.loss:.4g}, more than {spike.factor:g} x the median {usual:.4g} of "
                    f"the last {spike.window} steps; the largest is that of rank {agreed.worst} ({agreed.hosts[agreed.worst]})"
                )
                return self._act(spike.action, agreed, what, (agreed.worst,))
        self.recent.append(agreed.loss)
        return Decision(agreed)

    def _act(self, action: str, agreed: Agreed, what: str, suspects: tuple[int, ...]) -> Decision:
        if action == "warn":
            self.recent.append(agreed.loss)
            return Decision(agreed, what, suspects)
        if action == "stop":
            advice = "; look at its batch with vstrain replay, lower optim.lr or set optim.clip, and resume"
            return Decision(agreed, what, suspects, skip=True, error=NotFinite(what + advice))
        self.skipped += 1
        if self.skipped > self.config.max_skipped:
            text = f"{what}, and guards.max_skipped={self.config.max_skipped} steps were skipped before; look at the batches in "
            return Decision(
                agreed, what, suspects, skip=True, error=NotFinite(text + "quarantine/ with vstrain replay")
            )
        return Decision(agreed, f"{what}; the step is skipped", suspects, skip=True)

    def state_dict(self) -> dict:
        return {"recent": list(self.recent), "skipped": self.skipped, "spikes": self.spikes}

    def load_state_dict(self, state: dict) -> None:
        self.recent.extend(state["recent"])
        self.skipped, self.spikes = state["skipped"], state["spikes"]


def _ran_out(agreed: Agreed, step: int) -> str:
    ranks = ", ".join(f"{rank} ({agreed.hosts[rank]})" for rank in agreed.exhausted[:MOST_RANKS])
    return (
        f"data.train: the data of rank {ranks} ran out at step {step}, before trainer.max_steps; all ranks must see the same "
        "shards: compare them with vstrain data verify"
    )
