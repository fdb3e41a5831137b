"""Where numbers go: metrics.jsonl always, TensorBoard and W&B by choice. All continue after a resume without gaps or doubles."""

from __future__ import annotations

import json
import netrc
import os
import uuid
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from vstrain.config.schema import TrainConfig
from vstrain.engine.wandb_history import WandbHistory


class JsonLines(Logger):
    """`metrics.jsonl`: one object a line, an integer `step` and floats. Lines past `start_step` are dropped at a resume.

    earlier: the lines that stay then."""

    def __init__(self, run_dir: Path, start_step: int):
        super().__init__()
        self.path, self.earlier = run_dir / "metrics.jsonl", []
        if self.path.exists():
            rows = [(line, _row(line)) for line in self.path.read_text().splitlines()]
            kept = [(line, row) for line, row in rows if row["step"] <= start_step]
            self.path.write_text("".join(f"{line}\n" for line, _ in kept))
            self.earlier = [row for _, row in kept]

    name = "jsonl"
    version = ""

    @rank_zero_only
    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    @rank_zero_only
    def log_hyperparams(self, *args, **kwargs) -> None:
        """resolved.yaml has them."""


def _row(line: str) -> dict:
    try:
        return {"step": float("inf")} | json.loads(line)
    except (ValueError, TypeError):
        return {"step": float("inf")}  # a line cut short by a crash


def build(config: TrainConfig, run_dir: Path, start_step: int) -> list[Logger]:
    """Loggers of rank 0; an empty list elsewhere."""
    if int(os.environ.get("RANK", 0)):
        return []
    loggers: list[Logger] = [lines := JsonLines(run_dir, start_step)]
    if config.logger.tensorboard:
        loggers.append(
            TensorBoardLogger(
                run_dir, name="", version="tensorboard", purge_step=start_step + 1 if start_step else None
            )
        )
    if config.logger.wandb.enabled:
        loggers.append(_wandb(config, run_dir, lines.earlier))
    return loggers


def has_wandb_key() -> bool:
    """A key in the environment, or one that `wandb login` has left in the netrc file."""
    try:
        return bool(os.environ.get("WANDB_API_KEY")) or any("wandb" in host for host in netrc.netrc().hosts)
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def _wandb(config: TrainConfig, run_dir: Path, rows: list[dict]) -> WandbHistory:
    """The run's id is kept in wandb_id, so that a resumed run continues the same history."""
    file = run_dir / "wandb_id"
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:8])
    mode = config.logger.wandb.mode
    if mode == "auto":
        mode = "online" if has_wandb_key() else "offline"
    os.environ["WANDB_MODE"] = mode
    return WandbHistory(
        rows,
        project=config.logger.wandb.project,
        name=run_dir.name,
        id=file.read_text().strip(),
        save_dir=run_dir,
        resume="allow",
        config=config.model_dump(mode="json"),
        offline=mode == "offline",
    )
