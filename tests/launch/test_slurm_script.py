"""What is handed to SLURM: the batch script as text, the frozen code, the ranks' places, and the decision to requeue."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from launch import freeze, ranks, requeue, slurm, starts
from launch.requeue import decide
from tests.conftest import PLUGIN
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError
from vstrain.config.schema import TrainConfig
from vstrain.verbs import embedded

SITES = Path(__file__).parents[2] / "launch" / "sites"
RUN, CWD = Path("/runs/a"), Path("/home/me")


def compose(*words: str) -> TrainConfig:
    words = ["experiment=depth_teacher", "launcher=slurm", "data.batch_size=16", *words]
    return Command("train", TrainConfig, words, embedded.check).config()


def script(*words: str) -> str:
    config = compose(*words)
    return slurm.script(RUN, config.launcher, config.trainer.devices, config.trainer.accelerator, "teacher", CWD)


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def srun(text: str) -> str:
    """The command that starts the ranks, on one line."""
    return text.replace("\\\n", "").partition("\nsrun ")[2].partition("\n")[0]


def test_the_plain_script_says_what_every_job_needs_and_nothing_else():
    text = script("launcher.nodes=2", "trainer.devices=8")
    assert directives(text) == [
        "--job-name=teacher",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gres=gpu:8",
        '--chdir="/home/me"',
        '--output="/runs/a/logs/slurm-%j.out"',
        "--open-mode=append",
        "--requeue",
        "--signal=USR1@120",
    ]
    assert srun(text).split()[0] == "--kill-on-bad-exit=1" and srun(text).endswith('-m vstrain.worker "$run"')
    assert 'PYTHONPATH="$run/code' in text and "PYTHONSAFEPATH=1" in text


def test_every_key_has_its_place():
    text = script(
        *(
            "launcher.nodes=2",
            "trainer.devices=4",
            "launcher.account=lab",
            "launcher.partition=gpu",
            "launcher.qos=high",
        ),
        *("launcher.constraint='a100&nvlink'", "launcher.time=1-12:00:00", "launcher.memory=0", "launcher.cpus=6"),
        *(
            "launcher.gpus=gpu:a100",
            "launcher.gpus_as=gpus-per-node",
            "launcher.exclude='n[3-4]'",
            "launcher.exclusive=true",
        ),
        *("launcher.lead=300", "launcher.fruitless=7", "launcher.extra=['--mail-type=END']"),
        *("launcher.setup=['module load cuda/12','export A=1']", "launcher.python=/opt/py/bin/python"),
    )
    wanted = "account=lab partition=gpu qos=high time=1-12:00:00 mem=0 cpus-per-task=6 exclude=n[3-4] exclusive mail-type=END"
    found = directives(text)
    assert {f"--{word}" for word in wanted.split()} <= set(found)
    assert '--constraint="a100&nvlink"' in found and "--gpus-per-node=a100:4" in found and "--signal=USR1@300" in found
    lines = text.splitlines()
    assert (
        lines.index("module load cuda/12")
        < lines.index("export A=1")
        < [n for n, x in enumerate(lines) if "srun" in x][0]
    )
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in srun(text) and "/opt/py/bin/python -m vstrain.worker" in srun(
        text
    )
    assert 'begin "$run" 7' in text


def test_torchrun_has_one_task_a_node_with_the_cpus_of_all_and_cpu_runs_ask_for_no_gpu():
    text = script(
        "launcher.nodes=2", "trainer.devices=4", "launcher.via=torchrun", "launcher.cpus=3", "trainer.accelerator=cpu"
    )
    found = directives(text)
    assert "--ntasks-per-node=1" in found and "--cpus-per-task=12" in found
    assert not [line for line in found if "gpu" in line] and srun(text).endswith('-m vstrain.agent 4 "$run"')


def test_containers_see_the_run_and_the_working_folder():
    words = ["launcher.container.image=/img/x.sif", "launcher.container.mounts=[/data]"]
    text = srun(script("launcher.container.kind=apptainer", *words))
    assert (
        'apptainer exec --nv --bind "/runs/a" --bind "/home/me" --bind "/data" --pwd "/home/me" "/img/x.sif" python3 -m'
        in text
    )
    text = srun(script("launcher.container.kind=pyxis", *words))
    assert '--container-image="/img/x.sif"' in text and "/runs/a:/runs/a,/home/me:/home/me,/data:/data" in text


def test_the_script_is_shell(tmp_path):
    (tmp_path / "submit.sbatch").write_text(script("launcher.setup=['if true; then','echo x','fi']"))
    subprocess.run(["bash", "-n", str(tmp_path / "submit.sbatch")], check=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["launcher.time=7200"], "launcher.time: expected hours:minutes:seconds"),
        (["launcher.partitn=x"], "launcher.partitn: no such key; did you mean launcher.partition?"),
        (["launcher.container.imag=x"], "launcher.container.imag: no such key; did you mean launcher.container.image?"),
        (
            ["launcher.container.kind=apptainer"],
            "launcher.container: container.kind=apptainer with container.image=None",
        ),
        (["launcher.via=mpi"], "launcher.via: expected 'srun' or 'torchrun'"),
        (
            ["launcher.nodes=3"],
            "config: data.batch_size=16 must be a multiple of trainer.accumulate x trainer.devices x",
        ),
        (["launcher.nodes=2", "strategy=single"], "config: strategy=single runs on one device"),
        (["launcher.account='a; rm -rf x'"], "launcher.account: "),
        (["launcher.name=pbs"], "launcher.name: expected one of 'local', 'slurm'"),
    ],
)
def test_mistakes(words, expected):
    with pytest.raises(ConfigError) as caught:
        compose(*words)
    texts = [str(problem) for problem in caught.value.problems]
    assert any(text.startswith(expected) for text in texts), texts


def test_ranks_of_an_uneven_job():
    env = {
        "SLURM_PROCID": "5",
        "SLURM_NTASKS": "7",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
        "SLURM_STEP_NODELIST": "gpu[003-005,9]-ib,login1",
        "SLURM_JOB_ID": "120007",
    }
    assert ranks.from_slurm(env) == {
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "GROUP_RANK": "2",
        "MASTER_ADDR": "gpu003-ib",
        "MASTER_PORT": str(10000 + 120007 % 20000),
    }


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [("n1", "n1"), ("n[1-2]", "n1"), ("b,a", "b"), ("r[1,3]c[05-09],x", "r1c05"), ("a-b.c[10]", "a-b.c10")],
)
def test_first_host(nodelist, first):
    assert ranks.first_host(nodelist) == first


@pytest.mark.parametrize(
    ("status", "signal", "job_state", "requeued", "code"),
    [
        ("finished", "", "RUNNING", False, 0),
        ("failed", "", "RUNNING", False, 1),  # a Python exception
        ("hung", "", "RUNNING", True, 75),
        ("hung", "", "COMPLETING", False, 75),
        ("stopped", "SIGUSR1", "RUNNING", True, 75),  # time limit, or the warning before a preemption
        ("stopped", "SIGINT", "RUNNING", False, 75),  # vstrain stop
        ("stopped", "SIGTERM", "RUNNING", False, 75),
        ("stopped", "SIGUSR1", "COMPLETING", False, 75),  # warned, then scancelled
        ("running", "", "RUNNING", True, 75),  # killed, or a node lost
        ("starting", "", "RUNNING", True, 75),  # srun could not start them: a revoked credential
        ("running", "", "COMPLETING", False, 75),  # scancel before the signal handlers stood
    ],
)
def test_what_is_requeued(status, signal, job_state, requeued, code):
    state = {"status": status} | ({"code": code} if status in ("finished", "failed") else {})
    if status == "hung":  # as the watchdog says it
        state = {"status": "failed", "code": 1, "cause": "hang", "error": "rank 5 (node3) hangs"}
    decision = decide(state, {"signal": signal} if signal else {}, False, job_state, 1)
    assert (decision.requeue, decision.code) == (requeued, code)
    assert not decide(state, {"signal": signal} if signal else {}, True, job_state, 1).requeue  # after `vstrain stop`


def test_fruitless_restarts_are_counted_since_the_last_new_step_of_this_job():
    def begun(*steps, job="7"):
        return [{"job": job, "step": step} for step in steps]

    assert starts.fruitless(begun(0), "7") == 0
    assert starts.fruitless(begun(0, 0, 0), "7") == 2
    assert starts.fruitless(begun(0, 0, 5), "7") == 0
    assert starts.fruitless(begun(0, 5, 5), "7") == 1
    assert starts.fruitless([*begun(5, 5, 5, job="6"), *begun(5)], "7") == 0  # resumed by hand


def test_a_run_that_never_gets_anywhere_ends_with_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "checkpoints" / "step-00000005").mkdir(parents=True)
    (tmp_path / "stopped.json").write_text('{"signal": "SIGUSR1"}')
    assert [requeue.begin(tmp_path, 2) for _ in range(3)] == [0, 0, 0]
    assert not (tmp_path / "stopped.json").exists()  # the marker of an earlier start decides nothing
    assert requeue.begin(tmp_path, 2) == 1
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["status"] == "failed" and "3 times without a new checkpoint since step 5" in state["error"]


def test_frozen_code_is_whole_and_holds_the_users_system(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(PLUGIN)
    code = freeze.freeze(tmp_path, "toy")
    assert {path.name for path in code.iterdir()} == {"vstrain", "data_pipelines", "launch", "conf", "toy"}
    for package in ("vstrain", "launch", "toy"):
        assert not list((code / package).rglob("__pycache__"))
    assert (code / "launch" / "templates" / "submit.sbatch").is_file() and (code / "toy" / "module.py").is_file()
    (code / "toy" / "old.py").write_text("")
    assert not (freeze.freeze(tmp_path, "vstrain.systems.depth") / "toy").exists()


@pytest.mark.parametrize("name", ["gpu_cluster", "preemptible_containers"])
def test_the_example_sites_bring_their_launcher(name):
    words = ["experiment=depth_teacher", "--config-dir", str(SITES), f"site={name}", "data.batch_size=32"]
    config = Command("train", TrainConfig, [*words, "launcher.nodes=2"], embedded.check).config()
    assert (config.launcher.name, config.site.name, config.data.root) == ("slurm", name, config.site.data_root)
    found = directives(slurm.script(RUN, config.launcher, config.trainer.devices, "cuda", "x", CWD))
    assert f"--partition={config.launcher.partition}" in found and "--nodes=2" in found
    local = Command("train", TrainConfig, [*words, "launcher=local"], embedded.check)
    with pytest.raises(ConfigError, match="launcher.partition: no such key"):  # a site's keys fit its launcher alone
        local.config()
