"""Depth networks from wherever they come: a run of vstrain, an export, a Hugging Face folder, an official .pth.

A network is its tensors, by the names Hugging Face has on disk, and facts that tensors do not show: V1 and V2, relative and
metric files have the same names and shapes (depth spec, 9). Where nothing states a fact, it is asked for and never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import xxhash
import yaml
from pydantic import ValidationError, model_validator
from safetensors.torch import load_file
from torch import Tensor
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

from vstrain.config import checkpoints
from vstrain.config.problems import InputError
from vstrain.config.strict import PositiveFloat, PositiveInt, Strict
from vstrain.interop.depth_anything import (
    State,
    disk_state,
    fill_encoder,
    hub_folder,
    load_encoder,
    read_state,
    to_hf,
)
from vstrain.system import System
from vstrain.systems.depth.network import SIZES, build_network

FIXED = {"size", "version", "output", "max_depth"}  # facts that are the network's own; the others are ways to use it
FACTS = "vstrain"  # the key of config.json under which an export keeps its facts


class Facts(Strict):
    """What the JSON file beside an official .pth says. The first three cannot be left out."""

    size: Literal["tiny", "vits", "vitb", "vitl", "vitg"]
    version: Literal["v1", "v2"]
    output: Literal["relative", "metric"]
    max_depth: PositiveInt | None = None  # metric: metres at which the output ends
    pos_embed: Literal["official", "hf"] = "official"
    image_size: PositiveInt | None = None  # pixels: side of the pictures that it was trained with, where that is known
    camera: PositiveFloat | None = None  # metric: focal length, in picture sides, of the camera that metres are for
    digest: str | None = None  # of the tensors, see `digest`

    @model_validator(mode="after")
    def _fits(self) -> Facts:
        if (self.output == "metric") != (self.max_depth is not None):
            raise ValueError(f"output={self.output} with max_depth={self.max_depth}: metric has one, relative has none")
        return self


class Network(NamedTuple):
    state: State  # by Hugging Face's names on disk, on the CPU
    facts: Facts


def read_network(path: str, key: str, stated: dict | None = None) -> Network:
    """The network at `path`, which the configuration key `key` named:
        a run directory, its checkpoints folder or one checkpoint
        a folder with config.json and model.safetensors (`vstrain export`, Hugging Face), or hub:OWNER/NAME
        an official .pth, bare or wrapped by a trainer, with its facts in a .json of the same name, or in `stated`
    `stated`: facts that the user gave; they complete a .pth, must agree with what else is known of the network, and decide how
    it is used. Raises InputError."""
    stated = stated or {}
    file = Path(path)
    if path.startswith("hub:"):
        file = hub_folder(path, key)
    if file.suffix == ".safetensors" and (file.parent / "config.json").is_file():
        file = file.parent
    if checkpoints.is_run(file):
        network = _from_run(file, key)
    elif (file / "config.json").is_file():
        network = _from_folder(file, key)
    elif file.is_file():
        network = _from_official(file, key, stated)
    else:
        raise InputError(
            f"{key}={path}: no depth network there; expected a run directory, one of its checkpoints, a folder with "
            "config.json and model.safetensors, or an official .pth"
        )
    for name in FIXED & set(stated):
        if (found := getattr(network.facts, name)) != stated[name]:
            raise InputError(
                f"{key}={path}: its {name} is {found}, not {stated[name]}; leave {name} out or give another file"
            )
    network = network._replace(facts=_facts(network.facts.model_dump() | stated, key))
    _check(network, f"{key}={path}")
    return network


def load_network(net: DepthAnythingForDepthEstimation, path: str, key: str, encoder_only: bool) -> None:
    """Copies the network at `path` (see `read_network`) into `net`; `encoder_only`: its encoder alone, for which a DINOv2
    release will do and facts are not needed. Raises InputError where sizes, versions or kinds of output differ."""
    if encoder_only and not checkpoints.is_run(Path(path)):
        load_encoder(net.backbone, path, key)
        return
    network = read_network(path, key)
    if encoder_only:
        prefix = "backbone."
        state = {name.removeprefix(prefix): x for name, x in network.state.items() if name.startswith(prefix)}
        fill_encoder(net.backbone, state, f"{key}={path}")
        return
    theirs, mine = _skeleton(network.facts).config, net.config
    for what, found, expected in (
        ("encoder width", theirs.backbone_config.hidden_size, mine.backbone_config.hidden_size),
        ("number of blocks", theirs.backbone_config.num_hidden_layers, mine.backbone_config.num_hidden_layers),
        ("set of blocks that the head reads (version)", *(list(c.backbone_config.out_indices) for c in (theirs, mine))),
        ("kind of output", theirs.depth_estimation_type, mine.depth_estimation_type),
        ("max_depth", theirs.max_depth, mine.max_depth),
    ):
        if found != expected:
            raise InputError(
                f"{key}={path}: its {what} is {found}, this network's is {expected}; set system.size, version, output and "
                "max_depth as the file has them, or take its encoder alone"
            )
    fill(net, network.state, f"{key}={path}")


def fill(net: DepthAnythingForDepthEstimation, state: State, source: str) -> None:
    """Copies `state` (names on disk) into `net`. Raises InputError, naming `source`, for missing tensors or other shapes."""
    _check_shapes({name: x.shape for name, x in disk_state(net).items()}, state, source)
    loaded = DepthAnythingForDepthEstimation.from_pretrained(None, config=net.config, state_dict=dict(state))
    net.load_state_dict(loaded.state_dict())


def adopt(path: str, stated: dict) -> tuple[dict, Callable[[System], None]]:
    """For `vstrain adopt`: (the keys of the system's Config that the weights decide, what copies them into a system).
    `stated`: the keys that the user gave."""
    network = read_network(
        path, "weights", {name: value for name, value in stated.items() if name in Facts.model_fields}
    )
    changes = network.facts.model_dump(exclude={"digest"}, exclude_none=True) | {"init": path, "init_parts": "all"}
    changes |= {"max_depth": network.facts.max_depth, "camera": network.facts.camera}
    return changes, partial(_fill_system, network.state, path)


def _fill_system(state: State, path: str, system: System) -> None:
    fill(system.net, state, f"weights={path}")


def digest(path: str, key: str = "weights") -> str:
    """xxh3 (64 bits, hexadecimal) of the network's tensors: the same for all layouts of one network."""
    return digest_of(read_network(path, key).state)


def digest_of(state: State) -> str:
    """Of names, types, shapes and bytes, in the order of the names on disk."""
    total = xxhash.xxh3_64()
    for name in sorted(state):
        tensor = state[name].detach().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def _from_run(path: Path, key: str) -> Network:
    run_dir, checkpoint = checkpoints.find(path, key)
    config = yaml.safe_load((run_dir / "resolved.yaml").read_text())["system"]
    if config.get("module") != "vstrain.systems.depth":
        raise InputError(f"{key}={path}: a run of {config.get('module')}; expected one of vstrain.systems.depth")
    facts = Facts(**{name: config.get(name) for name in Facts.model_fields if name != "digest"})
    prefix = "net."
    state = {
        name.removeprefix(prefix): x
        for file in checkpoints.weight_files(checkpoint)
        for name, x in load_file(file).items()
        if name.startswith(prefix)
    }
    return Network(disk_state(_skeleton(facts), state), facts)


def _from_folder(path: Path, key: str) -> Network:
    """Without facts of ours the position rule is "hf": what transformers itself computes from this folder."""
    state, config = read_state(path, key), json.loads((path / "config.json").read_text())
    if FACTS in config:
        return Network(state, _facts(config[FACTS], f"{path / 'config.json'}: {FACTS}"))
    config = DepthAnythingConfig.from_pretrained(path)
    backbone = config.backbone_config
    size = _size(backbone.hidden_size, backbone.num_hidden_layers, f"{key}={path}")
    version = next((v for v in ("v2", "v1") if _taps(size, v) == list(backbone.out_indices)), None)
    if version is None:
        raise InputError(
            f"{path / 'config.json'}: its head reads the blocks {list(backbone.out_indices)}, expected {_taps(size, 'v2')} "
            f"(v2) or {_taps(size, 'v1')} (v1); give a Depth Anything network"
        )
    metric = config.depth_estimation_type == "metric"
    values = {"size": size, "version": version, "output": config.depth_estimation_type, "pos_embed": "hf"}
    return Network(state, _facts(values | {"max_depth": config.max_depth if metric else None}, str(path)))


def _from_official(path: Path, key: str, stated: dict) -> Network:
    state = to_hf(read_state(path, key))
    values = json.loads(_beside(path).read_text()) if _beside(path).is_file() else {}
    if missing := [name for name in ("size", "version", "output") if name not in values | stated]:
        raise InputError(
            f"{key}={path}: tensors do not show its {', '.join(missing)}; say so in {_beside(path)}, as "
            '{"size": "vitl", "version": "v2", "output": "relative"} (metric: with "max_depth": 20), or once for all with '
            "`vstrain adopt weights=FILE system.size=… system.version=… system.output=…`"
        )
    facts = _facts(stated | values, str(_beside(path)))
    if facts.digest and facts.digest != digest_of(state):
        raise InputError(
            f"{key}={path}: not the file that {_beside(path)} describes; bring back that file, or remove the .json"
        )
    return Network(state, facts)


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _facts(values: dict, source: str) -> Facts:
    try:
        return Facts.model_validate(values)
    except ValidationError as error:
        detail = error.errors()[0]
        raise InputError(f"{source}: {'.'.join(map(str, detail['loc']))} {detail['msg']}") from error


def _size(dim: int, depth: int, source: str) -> str:
    for name, size in SIZES.items():
        if (size.dim, size.depth) == (dim, depth):
            return name
    raise InputError(f"{source}: an encoder {dim} wide of {depth} blocks is none of {', '.join(SIZES)}")


def _taps(size: str, version: str) -> list[int]:
    if version == "v2":
        return [tap + 1 for tap in SIZES[size].taps]
    return list(range(SIZES[size].depth - 3, SIZES[size].depth + 1))


def _skeleton(facts: Facts) -> DepthAnythingForDepthEstimation:
    """The network of `facts` without storage."""
    with torch.device("meta"):
        return build_network(facts.size, facts.version, facts.pos_embed, facts.max_depth)


def _check(network: Network, source: str) -> None:
    _check_shapes({name: x.shape for name, x in disk_state(_skeleton(network.facts)).items()}, network.state, source)


def _check_shapes(expected: dict[str, torch.Size], state: dict[str, Tensor], source: str) -> None:
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or extra:
        raise InputError(
            f"{source}: its tensors are not this network's: {len(missing)} missing {missing[:2]}, {len(extra)} unknown "
            f"{extra[:2]}; check size and file"
        )
    for name, shape in expected.items():
        if state[name].shape != shape:
            what = "position table" if name.endswith("position_embeddings") else name
            raise InputError(
                f"{source}: its {what} is {tuple(state[name].shape)}, this network's is {tuple(shape)}; check size"
            )
