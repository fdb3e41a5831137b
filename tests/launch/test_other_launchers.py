"""torchrun's words for every launcher; the files for Kubernetes and SkyPilot against those parts of their schemas that we use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from torch.distributed.run import get_args_parser

from launch import manifests, rendezvous
from launch.files import LaunchError
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError
from vstrain.config.schema import TrainConfig
from vstrain.verbs import embedded

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9.]+(m|[kMGTP]i?)?$")]


class Exact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Env(Exact):
    name: str
    value: str  # Kubernetes refuses numbers


class Mount(Exact):
    name: Name
    mountPath: Annotated[str, StringConstraints(pattern="^/")]


class Resources(Exact):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Container(Exact):
    name: Literal["pytorch"]  # the operator looks for this name
    image: str
    workingDir: str
    command: list[str]
    env: list[Env]
    resources: Resources
    volumeMounts: list[Mount]


class Volume(Exact):
    name: Name
    persistentVolumeClaim: dict[Literal["claimName"], str] | None = None
    emptyDir: dict[Literal["medium"], Literal["Memory"]] | None = None


class PodSpec(Exact):
    terminationGracePeriodSeconds: int
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume]


class Template(Exact):
    spec: PodSpec


class Replica(Exact):
    replicas: Annotated[int, Field(ge=1)]
    restartPolicy: Literal["Always", "OnFailure", "Never", "ExitCode"]
    template: Template


class Replicas(Exact):
    Master: Replica
    Worker: Replica | None = None


class RunPolicy(Exact):
    cleanPodPolicy: Literal["All", "Running", "None"]
    backoffLimit: Annotated[int, Field(ge=0)]


class JobSpec(Exact):
    nprocPerNode: Annotated[str, StringConstraints(pattern="^(auto|cpu|gpu|[0-9]+)$")]
    runPolicy: RunPolicy
    pytorchReplicaSpecs: Replicas


class Meta(Exact):
    name: Name
    namespace: Name


class PyTorchJob(Exact):
    """kubeflow.org/v1, as the training operator's custom resource definition has it."""

    apiVersion: Literal["kubeflow.org/v1"]
    kind: Literal["PyTorchJob"]
    metadata: Meta
    spec: JobSpec


class SkyResources(Exact):
    infra: str | None = None
    accelerators: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+:\d+$")] | None = None
    cpus: Annotated[str, StringConstraints(pattern=r"^\d+\+?$")]
    memory: Annotated[str, StringConstraints(pattern=r"^\d+\+?$")]
    use_spot: bool
    image_id: str | None = None


class Store(Exact):
    name: Name
    source: str
    store: Literal["s3", "gcs", "azure", "r2"]
    mode: Literal["MOUNT", "COPY", "MOUNT_CACHED"]


class SkyTask(Exact):
    """SkyPilot's task YAML."""

    name: Name
    num_nodes: Annotated[int, Field(ge=1)]
    workdir: str
    resources: SkyResources
    file_mounts: dict[str, Store | str]
    envs: dict[str, str]
    setup: str
    run: str


def compose(*words: str) -> TrainConfig:
    return Command("train", TrainConfig, ["experiment=depth_teacher", *words], embedded.check).config()


def render(make, run_dir: str, *words: str) -> tuple[dict, str]:
    config = compose(*words)
    text, _, command = make(
        Path(run_dir), config.launcher, config.trainer.devices, config.trainer.accelerator, Path("/work/x")
    )
    return yaml.safe_load(text), command


@pytest.mark.parametrize("nodes", [1, 4])
def test_pytorchjob(nodes):
    words = ["launcher=kubernetes", f"launcher.nodes={nodes}", "trainer.devices=2", "launcher.mount=/work"]
    values, command = render(manifests.kubernetes, "/work/runs/Depth_Teacher/20260101-120000-ab12", *words)
    job = PyTorchJob.model_validate(values)
    assert job.metadata.name == "vstrain-20260101-120000-ab12" and command.startswith("kubectl apply -f /work/runs/")
    assert (job.spec.pytorchReplicaSpecs.Worker is None) == (nodes == 1)
    replicas = [one for one in (job.spec.pytorchReplicaSpecs.Master, job.spec.pytorchReplicaSpecs.Worker) if one]
    assert sum(one.replicas for one in replicas) == nodes
    for one in replicas:
        (container,) = one.template.spec.containers
        assert container.command[-3:] == ["vstrain.agent", "2", "/work/runs/Depth_Teacher/20260101-120000-ab12"]
        assert container.resources.limits["nvidia.com/gpu"] == "2"
    values, _ = render(manifests.kubernetes, "/work/r", *words, "trainer.accelerator=cpu")
    assert "nvidia" not in str(PyTorchJob.model_validate(values))


def test_a_run_directory_that_pods_cannot_see_is_refused():
    with pytest.raises(LaunchError, match="/home/me/r is not below launcher.mount=/work"):
        render(manifests.kubernetes, "/home/me/r", "launcher=kubernetes")


def test_skypilot():
    task = SkyTask.model_validate(render(manifests.skypilot, "/work/r", "launcher=skypilot", "trainer.devices=2")[0])
    assert task.resources.accelerators == "A100:2" and task.file_mounts == {"/vstrain/run": "/work/r"}
    words = [
        "launcher=skypilot",
        "launcher.nodes=2",
        "launcher.store=s3",
        "launcher.spot=true",
        "trainer.accelerator=cpu",
    ]
    values, command = render(manifests.skypilot, "/work/r", *words, "launcher.infra=aws/us-east-1")
    task = SkyTask.model_validate(values)
    assert task.resources.accelerators is None and task.file_mounts["/vstrain/run"].source == "/work/r"
    assert command.startswith("sky jobs launch") and "vstrain.agent 1 /vstrain/run" in task.run
    with pytest.raises(ConfigError, match="set launcher.store"):
        compose("launcher=skypilot", "launcher.nodes=2")


def parsed(launcher: dict, env: dict):
    """torchrun's own reading of our words."""
    return get_args_parser().parse_args([*rendezvous.arguments(launcher, "run7", env), "-m", "x"])


def test_torchrun_understands_every_launcher():
    assert parsed({"name": "local"}, {}).standalone
    slurm = {"SLURM_STEP_NODELIST": "n[2-3]", "SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_ID": "5"}
    sky = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    pods = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "job-master-0", "PET_MASTER_PORT": "23456"}
    for name, env, host, port in (
        ("slurm", slurm, "n2", 10005),
        ("skypilot", sky, "10.0.0.1", 29400),
        ("kubernetes", pods, "job-master-0", 23456),
    ):
        found = parsed({"name": name}, env)
        assert (found.nnodes, found.node_rank, found.master_addr, found.master_port) == ("2", 1, host, port), name
        assert found.max_restarts == 0
    launcher = compose("launcher=torchrun", "launcher.least=1", "launcher.endpoint=h1:29400").launcher.model_dump()
    found = parsed(launcher, {})
    assert (found.nnodes, found.rdzv_backend, found.rdzv_endpoint, found.rdzv_id) == ("1:2", "c10d", "h1:29400", "run7")
    assert found.rdzv_conf == "last_call_timeout=30,keep_alive_interval=5,keep_alive_max_attempt=3"
    assert found.max_restarts == 10


def test_join_says_what_it_cannot_join(vstrain, tmp_path):
    assert "not a run directory" in vstrain("join", tmp_path, code=2).stderr
    (tmp_path / "resolved.yaml").write_text("launcher: {name: local}\n")
    assert "only a run with launcher=torchrun can be joined" in vstrain("join", tmp_path, code=2).stderr


def test_workers_that_raised_are_not_started_again_and_again(toy_words, vstrain, tmp_path):
    """The agent knows only that they ended; ten restarts would train up to the same mistake ten times."""
    words = [*toy_words, "trainer.accelerator=cpu", "trainer.devices=2", "launcher=torchrun", "launcher.nodes=1"]
    done = vstrain(*words, f"run.dir={tmp_path / 'run'}", code=1, TOY_RAISE_AT="3")
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert (state["status"], state["error"]) == ("failed", "ArithmeticError: the toy is broken")
    assert len((tmp_path / "run" / "starts.jsonl").read_text().splitlines()) == 1, done.stderr
    vstrain("resume=" + str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "state.json").read_text())["status"] == "finished"
