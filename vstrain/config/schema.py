"""Every key that a run may have, with its type and its range: the table that `vstrain` validates against.

No torch here: the parent process reads this file on a login node. A system's own keys stand beside the system
(`<system.module>.config:Config`), a pipeline's beside the pipeline.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vstrain.config.launchers import Launcher
from vstrain.config.strict import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Strict


class SystemConfig(Strict):
    """What every system has. A system's `Config` inherits from this and adds its own keys."""

    module: str  # python package of the system: it holds config.py, prepare.py and module.py
    data_kind: str  # which kind of sample it trains on: a key of vstrain.data.kinds.KINDS

    def members(self, role: str | None) -> list[str] | None:
        """What samples of a source of this role must have, "jpg|png" where one of several will do; None: what their kind
        has. Raises ValueError for a role that the system does not know."""
        if role is not None:
            raise ValueError(f"role={role}: system {self.module} knows no roles; leave it out")
        return None


class Split(Strict):
    # shards: paths or addresses (s3://, gs://, hf://, https://), globs and {000..012} are expanded; `embedded:NAME` is in the
    # data set that is rendered here
    urls: list[str] | None = None


class Source(Strict):
    urls: list[str]
    weight: PositiveFloat  # its share of the stream, relative to the other sources
    role: str | None = None  # what the system shall make of its samples, e.g. unlabelled (depth)


class TrainSplit(Split):
    sources: list[Source] | None = None  # several data sets, mixed by weight; instead of urls

    def all_sources(self) -> list[Source]:
        return self.sources or [Source(urls=self.urls or [], weight=1.0)]


class BucketShape(Strict):
    height: PositiveInt  # pixels
    width: PositiveInt
    frames: NonNegativeInt = 0  # 0: pictures, or clips of any length


class DataCache(Strict):
    dir: str  # a folder on a fast local disk, shared by all processes of a node
    gigabytes: PositiveFloat  # bound on what it holds


class Data(Strict):
    source: Literal["procedural", "shards"]
    root: str  # folder under which embedded data sets are built
    train: TrainSplit
    val: Split
    batch_size: PositiveInt  # samples in one optimiser step, summed over all ranks and micro-batches
    val_batch_size: PositiveInt  # samples in one validation batch of one rank
    workers: NonNegativeInt  # decoding processes a rank; 0 decodes in the training process
    ahead: PositiveInt  # batches that each worker prepares in advance
    timeout: PositiveFloat  # seconds without progress until a worker is replaced
    block: PositiveInt  # shuffle locality: samples are permuted within blocks of this many
    lanes: PositiveInt  # parts of the data read side by side; lanes x chunk = batch_size lets a rank stay in its own shards
    chunk: PositiveInt  # samples taken from one lane at a time
    buckets: (
        list[BucketShape] | None
    )  # one shape a batch, chosen by aspect ratio and duration; null: the system's own size
    window: PositiveInt  # batches among which samples are grouped into buckets
    max_damaged: Probability  # share of a data set that may be damaged before the run ends
    cache: DataCache | None  # copies of remote shards; null reads just the bytes that are needed, each time
    procedural: dict[str, Any]  # keys of data_pipelines.procedural.config for the system's data kind


class Optim(Strict):
    name: Literal["adamw", "adam"]
    lr: PositiveFloat
    betas: tuple[Probability, Probability]
    eps: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]
    fused: Literal["auto"] | bool  # one kernel for the whole update; auto: on CUDA
    clip: PositiveFloat | None  # largest gradient norm; null leaves gradients alone


class Schedule(Strict):
    name: Literal["constant", "linear", "cosine", "polynomial"]  # decay after the warm-up, to `final` x lr at the end
    power: PositiveFloat = 1.0  # polynomial: of the share of steps that is left
    warmup_steps: NonNegativeInt
    final: Probability


class Trainer(Strict):
    max_steps: PositiveInt
    devices: PositiveInt  # processes on this node: one a device
    accelerator: Literal["auto", "cpu", "cuda"]
    precision: Literal["32", "bf16-mixed", "bf16-true"]
    checkpointing: Literal[
        "none", "selective", "full"
    ]  # what the blocks of a system compute again in the backward pass:
    # nothing, all but matrix products and attention, all; less memory for more time
    compile: bool  # torch.compile each block; the first steps take minutes
    accumulate: PositiveInt  # micro-batches in one optimiser step
    log_every: PositiveInt  # steps between two lines of train/… metrics
    threads: PositiveInt | None  # torch threads a rank on the CPU; null shares the cores out


class Best(Strict):
    metric: str  # as it is logged, e.g. val/loss
    mode: Literal["min", "max"]
    keep: PositiveInt  # how many of the best stay


class Checkpoint(Strict):
    every: PositiveInt  # steps between two checkpoints
    keep: PositiveInt  # how many of the newest stay
    keep_every: PositiveInt | None = None  # those whose step is a multiple of this stay for ever
    best: Best | None = None  # the best by a validation metric stay as well
    asynchronous: bool = True  # write in the background: a step waits for a copy in memory only


class Ema(Strict):
    decay: Annotated[float, Field(ge=0, lt=1)] | None  # of the average of trained weights; null: no average
    every: PositiveInt  # steps between two updates of the average
    start: NonNegativeInt  # the step whose weights it begins with; until then the model's own weights are used
    warmup: Literal[
        "none", "ratio", "power"
    ]  # a lower decay at first: (1 + n) / (10 + n) or 1 - (1 + n)^-power at update n
    power: PositiveFloat  # warmup=power: 2/3 for long runs, 3/4 for shorter ones


class Validation(Strict):
    every: PositiveInt  # steps between two validations
    samples: PositiveInt | None  # how many validation samples to use; null uses all
    pictures: bool  # write the system's sampling picture


class Callbacks(Strict):
    checkpoint: Checkpoint
    validation: Validation


class Spike(Strict):
    factor: Annotated[float, Field(gt=1)]  # a loss above this many times the median is a spike
    window: PositiveInt  # steps that the median is taken over; none is judged before so many
    action: Literal["skip", "stop", "warn"]


class Guards(Strict):
    non_finite: Literal["stop", "skip"]  # when a loss or gradient is not finite: end the run, or leave that step out
    spike: Spike | None  # null: losses may jump
    max_skipped: NonNegativeInt  # steps that a run may leave out
    quarantine: NonNegativeInt  # folders of bad batches that each rank may keep; 0 keeps none
    weights: bool  # also keep the weights that a bad batch met
    timeout: PositiveFloat  # seconds in one section of a step, or in set-up, after which a rank counts as hanging


class Wandb(Strict):
    enabled: bool
    project: str
    mode: Literal["auto", "online", "offline"]  # auto: offline unless an API key is there


class Logger(Strict):
    tensorboard: bool
    wandb: Wandb


class Strategy(Strict):
    # auto: single on one device, ddp on more
    name: Literal["auto", "single", "ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3"]
    shard: PositiveInt | None = None  # hsdp: ranks that share one copy of the model; best the devices of a node
    offload: bool = False  # fsdp2, hsdp: weights and optimiser state rest on the host; zero: the optimiser state

    @model_validator(mode="after")
    def _fits(self) -> Strategy:
        if (self.shard is None) == (self.name == "hsdp"):
            raise ValueError(
                "strategy=hsdp needs strategy.shard: how many ranks share one copy of the model"
                if self.shard is None
                else f"strategy.shard={self.shard} belongs to strategy=hsdp; leave it out with strategy={self.name}"
            )
        if self.offload and self.name in ("auto", "single", "ddp"):
            raise ValueError(f"strategy.offload=true needs fsdp2, hsdp or zero1 to zero3, not strategy={self.name}")
        return self


class Site(Strict):
    name: str
    data_root: str


class Run(Strict):
    root: str  # runs go to <root>/<experiment>/<id>
    dir: str | None  # sets the run directory outright
    experiment: str
    scale: str
    stage: str = ""  # what is learned from, e.g. teacher
    recipe: str = ""  # which variant of it, e.g. v2


class TrainConfig(Strict):
    """`vstrain [train]`: one training run."""

    verb: Literal["train"]
    seed: NonNegativeInt
    objective: str = "val/loss"  # the metric that a run hands to the sampler of a sweep, e.g. hydra/sweeper=optuna
    run: Run
    system: SystemConfig  # validated as the Config of system.module
    data: Data
    optim: Optim
    schedule: Schedule
    ema: Ema
    trainer: Trainer
    callbacks: Callbacks
    guards: Guards
    logger: Logger
    launcher: Launcher
    strategy: Strategy
    # kernel of the systems' attention (vstrain.nn.attention); math is the formula, the others need CUDA
    attention: Literal["sdpa", "math", "xformers", "flex"] = "sdpa"
    site: Site

    @property
    def world(self) -> int:
        """Ranks of the run."""
        return self.trainer.devices * self.launcher.nodes

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.data.batch_size % (self.trainer.accumulate * self.world):
            raise ValueError(
                f"data.batch_size={self.data.batch_size} must be a multiple of trainer.accumulate x trainer.devices x "
                f"launcher.nodes = {self.trainer.accumulate} x {self.trainer.devices} x {self.launcher.nodes}"
            )
        if self.strategy.name == "single" and self.world > 1:
            raise ValueError(
                f"strategy=single runs on one device, trainer.devices={self.trainer.devices}, "
                f"launcher.nodes={self.launcher.nodes}; use strategy=ddp"
            )
        if self.strategy.shard and self.world % self.strategy.shard:
            raise ValueError(
                f"strategy.shard={self.strategy.shard} must divide the {self.world} ranks "
                "(trainer.devices x launcher.nodes)"
            )
        if self.strategy.offload and self.strategy.name in ("fsdp2", "hsdp") and self.trainer.accelerator == "cpu":
            raise ValueError(
                "strategy.offload=true moves weights from the GPU to the host, and trainer.accelerator=cpu has no GPU; "
                "leave it out"
            )
        if self.strategy.name.startswith("zero") and self.trainer.precision == "bf16-true":
            raise ValueError(
                f"strategy={self.strategy.name} keeps float32 weights, so trainer.precision=bf16-true saves nothing there; "
                "use bf16-mixed, or strategy=fsdp2"
            )
        if self.strategy.name == "zero3" and self.guards.weights:
            raise ValueError(
                "guards.weights=true: the weights are not gathered under strategy=zero3; use guards.weights=false"
            )
        keep = self.callbacks.checkpoint
        if keep.best and keep.every % self.callbacks.validation.every:
            raise ValueError(
                f"callbacks.checkpoint.best needs a validation at every checkpoint: callbacks.checkpoint.every="
                f"{keep.every} must be a multiple of callbacks.validation.every={self.callbacks.validation.every}"
            )
        if self.run.recipe == "unknown":
            raise ValueError(
                "recipe=…: this experiment has no such recipe; leave it out, or take one that conf/variant has"
            )
        if self.data.train.urls and self.data.train.sources:
            raise ValueError("data.train has both urls and sources; give one of them")
        for source in self.data.train.all_sources() if isinstance(self.system, SystemConfig) else ():
            self.system.members(source.role)
        if self.data.source == "shards" and not (
            (self.data.train.urls or self.data.train.sources) and self.data.val.urls
        ):
            raise ValueError(
                "data=shards needs data.train.urls and data.val.urls, each a list such as '[folder/train-*.tar]'"
            )
        return self
