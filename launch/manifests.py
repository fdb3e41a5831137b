"""Files for clusters that take YAML: a PyTorchJob for Kubernetes, a task for SkyPilot. Rendered, not applied."""

from __future__ import annotations

import json
import re
from pathlib import Path

from launch.files import LaunchError
from launch.slurm import TEMPLATES

TEMPLATES.filters["quoted"] = json.dumps  # a JSON string is a YAML string


def kubernetes(run_dir: Path, launcher, devices: int, accelerator: str, cwd: Path) -> tuple[str, str, str]:
    """(text, file name, command). Raises LaunchError when the run directory is not on the volume that the pods mount."""
    if not run_dir.is_relative_to(launcher.mount):
        raise LaunchError(
            f"launcher=kubernetes: {run_dir} is not below launcher.mount={launcher.mount}, where the pods see the volume; "
            "set run.root to a folder below it, or launcher.mount to where the volume is here"
        )
    text = TEMPLATES.get_template("pytorchjob.yaml").render(
        launcher=launcher,
        name=dns_name(run_dir.name),
        run_dir=str(run_dir),
        code=str(run_dir / "code"),
        cwd=str(cwd),
        devices=devices,
        gpus=devices if accelerator != "cpu" else 0,
    )
    return text, "pytorchjob.yaml", f"kubectl apply -f {run_dir / 'pytorchjob.yaml'}"


def skypilot(run_dir: Path, launcher, devices: int, accelerator: str, cwd: Path) -> tuple[str, str, str]:
    """(text, file name, command)."""
    text = TEMPLATES.get_template("skypilot.yaml").render(
        launcher=launcher,
        name=dns_name(run_dir.name),
        run_dir=str(run_dir),
        cwd=str(cwd),
        devices=devices,
        gpus=devices if accelerator != "cpu" and launcher.gpu else 0,
    )
    verb = "sky jobs launch" if launcher.spot else f"sky launch -c {dns_name(run_dir.name)}"
    return text, "skypilot.yaml", f"{verb} {run_dir / 'skypilot.yaml'}"


def dns_name(text: str) -> str:
    """What Kubernetes takes for a name: at most 63 of a-z, 0-9 and -, a letter first."""
    return "vstrain-" + re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50].strip("-")
