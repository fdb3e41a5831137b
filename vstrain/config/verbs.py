"""The keys of every verb but `train`, which stand in vstrain.config.schema; `MODELS` has them all. No torch here, as there."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vstrain.config.schema import Run, TrainConfig
from vstrain.config.strict import PositiveFloat, PositiveInt, Probability, Strict


class Hardware(Strict):
    """One device of a cluster as `vstrain plan` sees it. Rates are data-sheet rates; `efficiency` says what is reached."""

    name: str
    device: str | None = None  # a part of the name that torch gives it
    memory: PositiveFloat  # GiB a device that a process can have
    reserve: Annotated[
        float, Field(ge=0)
    ]  # GiB of it that no tensor gets: driver context, NCCL's and kernels' own buffers
    margin: Annotated[float, Field(ge=0)]  # on top of the counted peak, for fragmentation and other kernels
    bf16: PositiveFloat  # TFLOP/s, dense
    fp32: PositiveFloat
    link: PositiveFloat  # GB/s that a device sends to others of its node
    network: PositiveFloat  # GB/s that a device sends to other nodes
    write: PositiveFloat  # GB/s that a node writes to the shared file system
    efficiency: tuple[Probability, Probability]  # share of the FLOP rate that a step reaches: lowest, highest


class PlanConfig(TrainConfig):
    """`vstrain plan`: the configuration of a training run, looked at and not run."""

    verb: Literal["plan"]
    hardware: Hardware


class AdoptConfig(TrainConfig):
    """`vstrain adopt`: a run of this configuration, made from weights that come from elsewhere."""

    verb: Literal["adopt"]
    weights: str  # a file, a folder or an address that the system's part `weights` reads
    stated: list[str]  # names of the system keys that the user gave, written by the verb


class ParityConfig(TrainConfig):
    """`vstrain parity`: a few steps of this configuration under every strategy, compared."""

    verb: Literal["parity"]
    steps: Annotated[int, Field(ge=2)] = 6  # optimiser steps of each run
    ranks: list[PositiveInt] = [1, 2, 4]  # numbers of processes
    strategies: list[Literal["single", "ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3"]] = [
        *("single", "ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3")
    ]
    what: list[Literal["plain", "resumed", "accumulated"]] = ["plain", "resumed", "accumulated"]
    tolerance: PositiveFloat = (
        1e-3  # largest relative deviation of a loss; ten times it: of the weights, in units of their way
    )


class Job(Strict):
    """A verb that works on a trained checkpoint."""

    ckpt: str  # a run directory or one of its checkpoints
    run: Run
    accelerator: Literal["auto", "cpu", "cuda"]
    threads: PositiveInt | None
    averaged: bool  # use the moving average of the weights where the checkpoint has them
    system: dict[str, Any]  # keys of the system's Config that shall differ from the checkpoint's


class PredictConfig(Job):
    verb: Literal["predict"]
    input: str  # a file or a folder
    output: str | None  # where results go; null: <run directory>/results


class EvalConfig(Job):
    verb: Literal["eval"]
    urls: list[str] | None  # shards to evaluate on; null: the run's validation shards
    protocol: dict[str, Any] | None  # keys of a named evaluation of the system (conf/protocol), instead of shards
    samples: PositiveInt | None  # only the first so many
    output: str | None  # where results go; null: the run directory

    @model_validator(mode="after")
    def _one_source(self) -> EvalConfig:
        if self.urls is not None and self.protocol is not None:
            raise ValueError("urls and protocol are two ways to say what to evaluate on; give one of them")
        return self


class ExportConfig(Job):
    verb: Literal["export"]
    output: str | None


class ReplayConfig(Job):
    verb: Literal["replay"]
    batch: str  # a folder below quarantine/ of a run


class LabelConfig(Job):
    """`vstrain label`: a trained system labels shards of pictures."""

    verb: Literal["label"]
    urls: list[str]  # shards with pictures
    output: str  # folder of the labelled shards
    batch_size: PositiveInt
    size: PositiveInt | None  # short side of what the teacher sees, pixels; null: as it was trained
    flip: bool  # average with the mirror image
    precision: Literal["32", "bf16"]
    limit: PositiveInt | None  # the first so many pictures
    shard_samples: PositiveInt  # pictures of one shard
    devices: PositiveInt  # processes on this node
    part: str  # auto, all, or 2/8: the second of eight jobs that share the work
    overwrite: bool


MODELS: dict[str, type[Strict]] = {
    "train": TrainConfig,
    "plan": PlanConfig,
    "adopt": AdoptConfig,
    "parity": ParityConfig,
    "predict": PredictConfig,
    "eval": EvalConfig,
    "export": ExportConfig,
    "replay": ReplayConfig,
    "label": LabelConfig,
}
