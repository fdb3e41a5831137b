"""Where a run goes: the keys of every `launcher=NAME`. `name` tells which of them a configuration has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from vstrain.config.strict import NonNegativeInt, PositiveFloat, PositiveInt, Strict

Word = Annotated[str, StringConstraints(pattern=r"^[^\s\"'`$\\]+$")]  # goes into a script as it is
Phrase = Annotated[str, StringConstraints(pattern=r'^[^"`$\\\n]+$')]  # stands between quotes


def _time(text: str) -> str:
    """A bare number is refused: YAML reads an unquoted 2:00:00 as 7200, which SLURM takes for minutes."""
    hours, _, rest = text.rpartition("-")
    parts = rest.split(":")
    if not (len(parts) == 3 or (hours and len(parts) <= 3)) or not all(
        part.isdigit() for part in [*parts, hours or "0"]
    ):
        raise ValueError(f"expected hours:minutes:seconds or days-hours:minutes:seconds, quoted in YAML, got {text!r}")
    return text


Time = Annotated[str, AfterValidator(_time)]


class Local(Strict):
    """This machine."""

    name: Literal["local"]
    nodes: Literal[1]


class Container(Strict):
    kind: Literal["none", "apptainer", "pyxis"]
    image: str | None  # a .sif file or an address that the container runtime knows
    mounts: list[Word]  # folders that the container sees, besides the run directory and the working folder

    @model_validator(mode="after")
    def _has_image(self) -> Container:
        if (self.kind == "none") != (self.image is None):
            raise ValueError(
                f"container.kind={self.kind} with container.image={self.image}; set both, or none and null"
            )
        return self


class Slurm(Strict):
    """`sbatch`; the command returns when the job is queued."""

    name: Literal["slurm"]
    nodes: PositiveInt  # each with trainer.devices tasks
    via: Literal["srun", "torchrun"]  # who starts the ranks: SLURM one task a device, or torchrun's agent one a node
    account: Word | None
    partition: Word | None
    qos: Word | None
    constraint: Phrase | None  # features of nodes, e.g. a100&nvlink
    time: Time | None  # days-hours:minutes:seconds; null: what the partition gives
    memory: Word | None  # of a node, e.g. 64G; 0 is all of it
    cpus: PositiveInt | None  # a task (a device)
    gpus: (
        Word | None
    )  # what is asked for, trainer.devices of it a node: gpu, gpu:a100; none with trainer.accelerator=cpu
    gpus_as: Literal["gres", "gpus-per-node"]  # the option that the site takes
    exclude: Word | None  # nodes to stay off
    exclusive: bool  # whole nodes
    container: Container
    python: Word | None  # interpreter of the ranks; null: the one that submits, python3 in a container
    setup: list[str]  # shell lines before the run: module load …, export …
    lead: PositiveInt  # seconds between SLURM's warning and the time limit: a save must fit in
    fruitless: NonNegativeInt  # restarts in a row without a new checkpoint, until the run counts as failed
    concurrent: PositiveInt | None  # jobs of a sweep that run at the same time; null: as many as the cluster lets
    wait: bool  # stay until the job has ended: for samplers that need its result (hydra/sweeper=optuna)
    extra: list[str]  # further options of sbatch, as they stand after #SBATCH
    # device that the nodes have, a name of conf/hardware or a file like those: the run is planned for it first; null: it is not
    hardware: Word | None
    unfit: Literal["warn", "refuse"]  # what happens when the plan says that it cannot fit


class Torchrun(Strict):
    """Nodes without a scheduler: the first host starts the run, every other one joins by `vstrain join RUN_DIR`."""

    name: Literal["torchrun"]
    nodes: PositiveInt  # hosts that the run starts with, each with trainer.devices processes
    least: PositiveInt | None  # goes on with so many hosts when others are lost; null: waits for replacements
    endpoint: Word | None  # host:port at which they meet, on the first host; null: this host's name, port 29400
    restarts: NonNegativeInt  # how often the workers of a host are started again after a failure
    gather: PositiveFloat  # seconds to wait for further hosts once `least` are there
    keep_alive: PositiveInt  # seconds between signs of life; three missed ones and a host counts as lost

    @model_validator(mode="after")
    def _range(self) -> Torchrun:
        if self.least is not None and self.least > self.nodes:
            raise ValueError(f"launcher.least={self.least} is more than launcher.nodes={self.nodes}")
        return self


class Kubernetes(Strict):
    """A PyTorchJob of Kubeflow's training operator, written into the run directory; you apply it."""

    name: Literal["kubernetes"]
    nodes: PositiveInt  # pods, each with trainer.devices processes
    image: Word  # holds vstrain and what it needs
    namespace: Word
    volume: Word  # a persistent volume claim that all pods may write to
    mount: Word  # where it stands in a pod: the run directory must be below it
    cpus: PositiveInt  # a pod
    memory: Word  # a pod, e.g. 64Gi
    gpu: Word  # the resource name of a GPU; none is asked for with trainer.accelerator=cpu
    restarts: NonNegativeInt  # pods that may fail until the job counts as failed


class SkyPilot(Strict):
    """A SkyPilot task, written into the run directory; you launch it."""

    name: Literal["skypilot"]
    nodes: PositiveInt  # machines, each with trainer.devices processes
    gpu: Word | None  # kind of GPU, e.g. A100; trainer.devices of it a machine. null: CPU machines
    cpus: Word  # of a machine, e.g. 8+
    memory: Word  # GiB of a machine, e.g. 32+
    infra: Word | None  # where, e.g. aws/us-east-1, k8s; null: the cheapest place
    spot: bool  # machines that may be taken away: restarted as a managed job
    store: Literal["s3", "gcs", "azure", "r2"] | None  # a bucket that holds the run directory; null: the machine's disk
    image: Word | None
    setup: list[str]  # shell lines that install vstrain on a fresh machine

    @model_validator(mode="after")
    def _outlives_machines(self) -> SkyPilot:
        if self.store is None and (self.spot or self.nodes > 1):
            raise ValueError(
                f"launcher.nodes={self.nodes}, launcher.spot={self.spot}: the run directory must be in a bucket that all "
                "machines see; set launcher.store"
            )
        return self


Launcher = Annotated[Local | Slurm | Torchrun | Kubernetes | SkyPilot, Field(discriminator="name")]
