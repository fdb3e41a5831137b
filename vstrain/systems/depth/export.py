"""A trained network in the layouts that other libraries open."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from vstrain.interop.depth_anything import read_state, to_official
from vstrain.system import System
from vstrain.systems.depth.config import PATCH, Config
from vstrain.systems.depth.onnx import check_installed, export_onnx
from vstrain.systems.depth.weights import FACTS, Facts, digest_of


def export(system: System, out: Path) -> list[Path]:
    """Writes into `out`
        config.json, model.safetensors, preprocessor_config.json
            open with transformers: pipeline("depth-estimation", model=out), AutoModelForDepthEstimation.from_pretrained(out)
        depth_anything_VERSION[_metric]_SIZE.pth, and its facts in a .json of the same name
            the bare state dict that the official Depth Anything code loads; the facts are what tensors do not show
        depth_anything_VERSION[_metric]_SIZE.onnx
            with system.export.onnx=true, see `onnx.export_onnx`
    transformers resamples positions by its own rule: it gives what this network gives at the position table's own size
    (518 x 518 for vits to vitg), and something slightly else at other sizes where system.pos_embed=official. A metric
    network with system.camera gives metres for that camera, whoever opens it."""
    config = system.config
    if config.export.onnx:
        check_installed()
    paths = [out / name for name in ("config.json", "model.safetensors", "preprocessor_config.json")]
    system.net.save_pretrained(out)
    state = read_state(out, "output")
    facts = facts_of(config, digest_of(state))
    written = json.loads(paths[0].read_text()) | {FACTS: facts}
    paths[0].write_text(json.dumps(written, indent=2) + "\n")
    DPTImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size},
        keep_aspect_ratio=True,
        ensure_multiple_of=PATCH,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(out)
    name = f"depth_anything_{config.version}{'_metric' * (config.output == 'metric')}_{config.size}"
    paths += [out / f"{name}.pth", out / f"{name}.json"]
    torch.save(to_official(state), paths[-2])
    paths[-1].write_text(json.dumps(facts, indent=2) + "\n")
    return paths + (export_onnx(system.net, out / f"{name}.onnx") if config.export.onnx else [])


def facts_of(config: Config, digest: str) -> dict:
    """What the tensors of a network of `config` do not show, as JSON has it; `digest` tells which tensors these are."""
    known = {name: getattr(config, name) for name in Facts.model_fields if name != "digest"}
    return Facts(**known, digest=digest).model_dump(mode="json", exclude_none=True)
