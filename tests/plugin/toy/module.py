"""A fifth system that lives outside the package: a two-layer regression of disparity, with dropout to test exactness."""

import os
import signal
import time
from pathlib import Path

import torch

from vstrain.data import keyed
from vstrain.system import Objective, ParamGroup
from vstrain.system import System as Base


class System(Base):
    def build(self):
        width = self.config.width
        self.network = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Dropout(self.config.dropout),
            torch.nn.Conv2d(width, 1, 1),
        )

    def blocks(self):
        return [self.network[0], self.network[3]]

    def param_groups(self):
        first, last = (list(self.network[at].parameters()) for at in (0, 3))
        return [ParamGroup("first", first), ParamGroup("last", last, lr_scale=0.5)]

    def residual(self, batch, noise=0.0):
        image = batch["image"].permute(0, 3, 1, 2).float() / 255
        image = image + noise * keyed.normal(batch["key"], tuple(image.shape[1:]), "noise")
        return (self.network(image)[:, 0] - batch["disparity"]).abs().flatten(1).mean(1)

    def objective(self, batch):
        self.calls = getattr(self, "calls", 0) + 1
        if os.environ.get("TOY_SIGNAL_AT") == str(self.calls):  # as if the user pressed Ctrl-C in the middle of a step
            os.kill(os.getpid(), signal.SIGINT)
        if os.environ.get("TOY_KILL_AT") == str(self.calls) and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)  # as if the machine had run out of memory; once
        if os.environ.get("TOY_RAISE_AT") == str(self.calls):
            raise ArithmeticError("the toy is broken")
        time.sleep(float(os.environ.get("TOY_PAUSE", 0)))  # a run that takes its time without taking the processor's
        if "TOY_HANG" in os.environ:
            self.hang()
        loss = self.residual(batch, noise=0.1).mean()
        if "TOY_HIDDEN" in os.environ and Path(self.trainer.default_root_dir).name == os.environ["TOY_HIDDEN"]:
            self.began = getattr(self, "began", self.trainer.global_step)  # state that no checkpoint holds
            loss = loss * (1 + self.began / 100)
        match os.environ.get("TOY_FLAW"):  # mistakes that a system may make
            case "rank":
                loss = loss * (1 + int(os.environ.get("RANK", 0)))
            case "history":
                loss = loss * (1 + 0.01 * self.calls)
        return Objective(self.trouble(loss), {"loss_again": loss})

    def hang(self):
        """TOY_HANG=STEP:RANK."""
        step, rank = map(int, os.environ["TOY_HANG"].split(":"))
        if (step, rank) == (self.trainer.global_step + 1, self.trainer.global_rank):
            time.sleep(1000)

    def trouble(self, loss):
        """TOY_TROUBLE=STEP:RANK:KIND makes the loss of that step wrong on that rank: nan, gradient, or a factor."""
        if "TOY_TROUBLE" not in os.environ:
            return loss
        step, rank, kind = os.environ["TOY_TROUBLE"].split(":")
        if (int(step), int(rank)) != (self.trainer.global_step + 1, self.trainer.global_rank):
            return loss
        if kind == "gradient":  # finite, but the slope of the root at 0 is not
            return loss + (0 * next(self.parameters()).sum()).sqrt()
        return loss * float(kind)

    def evaluate(self, batch):
        return {"loss": self.residual(batch)}
