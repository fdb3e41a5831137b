"""One batch from a run's quarantine, forward and backward once more: what it does, and where it goes wrong first."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from vstrain.config import checkpoints, rundir
from vstrain.config.problems import InputError
from vstrain.config.verbs import ReplayConfig
from vstrain.engine.boundary import seed
from vstrain.engine.restore import restore, threads
from vstrain.engine.validation import to_device
from vstrain.system import System

log = logging.getLogger("vstrain")
__all__ = ["run", "threads"]


def run(config: ReplayConfig, run_dir: Path) -> str:
    folder = Path(config.batch)
    record = json.loads((folder / "record.json").read_text())
    system, trained, path = restore(config, trains=True)
    half = trained.trainer.precision.startswith("bf16")
    system.zero_grad()
    losses, alone, broken = [], [], None
    for number, micro in enumerate(record["micro"]):
        batch = read(folder, number, micro, system.device)
        with torch.autocast(system.device.type, torch.bfloat16, enabled=half), first_broken(system) as names:
            seed(micro["torch_key"], system.device)
            loss = system.objective(batch).loss
            (loss / record["accumulate"]).backward()
        losses.append(str(float(loss)))
        broken = broken or next(iter(names), None)
        with torch.autocast(system.device.type, torch.bfloat16, enabled=half), torch.no_grad():
            alone.append(each_alone(system, batch, micro["torch_key"]))
    gradients = {name: p.grad for name, p in system.named_parameters() if p.grad is not None}
    found = {
        "losses": losses,
        "recorded": [micro["loss"] for micro in record["micro"]],
        "samples": alone,
        "first_broken_output": broken,
        "broken_gradients": [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()],
        "grad_norm": str(float(torch.nn.utils.get_total_norm(gradients.values()))),
        "weights_step": checkpoints.meta(path)["step"],
    }
    rundir.write_atomic(run_dir / "replay.json", json.dumps(found, indent=2))
    log.info("%s", report(record, found, path))
    return "finished"


def read(folder: Path, number: int, micro: dict, device: torch.device) -> dict:
    file = folder / f"batch-{number}.safetensors"
    try:
        return to_device(load_file(file), device) | micro["words"]
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; copy the whole folder") from error


@contextmanager
def first_broken(system: System) -> Iterator[list[str]]:
    """Names of modules, in the order in which their outputs stopped being finite; inner modules come before outer ones."""
    names: list[str] = []

    def look(name: str):
        def hook(module, inputs, output) -> None:
            if not all(torch.isfinite(x).all() for x in tensors(output)):
                names.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in system.named_modules() if name]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def tensors(output) -> Iterator[torch.Tensor]:
    """The floating-point tensors in what a module returns."""
    if torch.is_tensor(output):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        yield from tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for one in output:
            yield from tensors(one)


def each_alone(system: System, batch: dict, key: int) -> list[str] | None:
    """The loss of each sample as a batch of its own; None where the objective needs several."""
    losses = []
    for row in range(len(batch["key"])):
        seed(key, system.device)
        try:
            losses.append(
                str(float(system.objective({name: value[row : row + 1] for name, value in batch.items()}).loss))
            )
        except (RuntimeError, ValueError, IndexError):
            return None
    return losses


def report(record: dict, found: dict, path: Path) -> str:
    lines = [f"step {record['step']} of rank {record['rank']}: {record['reason']}"]
    met, held = record["step"] - 1, found["weights_step"]
    lines.append(
        f"  weights          {path}"
        + ("" if met == held else f": weights of step {held}, the batch met those of step {met}")
    )
    for number, (micro, loss) in enumerate(zip(record["micro"], found["losses"], strict=True)):
        same = "the recorded loss exactly" if loss == micro["loss"] else f"recorded {micro['loss']}"
        lines.append(f"  micro-batch {number}    loss {loss}, {same}")
        for sample, alone in zip(micro["samples"], found["samples"][number] or [], strict=False):
            lines.append(
                f"    alone {float(alone):<12.6g} {sample['key']} in {sample['shard']} (position {sample['position']})"
            )
    broken = found["first_broken_output"]
    lines.append(
        f"  forward          first output that is not finite: {broken}"
        if broken
        else "  forward          every module's output is finite"
    )
    count = len(found["broken_gradients"])
    lines.append(
        f"  gradient         norm {found['grad_norm']}, not finite in {count} tensors"
        + (f", {found['broken_gradients'][0]} first" if count else "")
    )
    return "\n".join(lines)
