"""Depth Anything and DINOv2 checkpoints: official tensor names <-> the names transformers has on disk (depth
spec, 9).

Conversion works on state dicts of files, never on live modules (transformers renames those in memory). Every
official tensor becomes one or more Hugging Face tensors, cut along the first axis; so both directions are
bit-exact. V1 and V2 files have the same names and shapes: which one a file is, and its size, has to be known
from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import Dinov2Backbone, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from vstrain.config.problems import InputError

State = dict[str, Tensor]
DOWNLOAD = "https://dl.fbaipublicfiles.com/dinov2/dinov2_{0}14/dinov2_{0}14_pretrain.pth"
RELEASES = {384: "vits", 768: "vitb", 1024: "vitl", 1536: "vitg"}  # by width


def to_hf(official: State) -> State:
    """An official relative-depth checkpoint as Hugging Face names it on disk."""
    official = unwrap(official)
    return _split(official, depth_names(*_encoder_shape(official, "pretrained.blocks.")))


def to_official(hf: State) -> State:
    """The inverse of `to_hf`."""
    return _join(hf, depth_names(*_encoder_shape(hf, "backbone.encoder.layer.")))


def unwrap(checkpoint: dict) -> State:
    """The bare state dict of an official file; training scripts wrap it as {"model": {"module.": ...}}."""
    state = checkpoint.get("model", checkpoint)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def depth_names(blocks: int, swiglu: bool) -> dict[str, tuple[str, ...]]:
    """Official name -> Hugging Face name(s) of every tensor of a Depth Anything network."""
    names = {
        f"pretrained.{official}": tuple(f"backbone.{hf}" for hf in cut)
        for official, cut in encoder_names(blocks, swiglu).items()
    }
    for i in range(4):
        fusion, official = f"neck.fusion_stage.layers.{3 - i}", f"depth_head.scratch.refinenet{i + 1}"
        pairs = [
            (f"depth_head.projects.{i}", f"neck.reassemble_stage.layers.{i}.projection"),
            (f"depth_head.resize_layers.{i}", f"neck.reassemble_stage.layers.{i}.resize"),
            (f"{official}.out_conv", f"{fusion}.projection"),
            *(
                (f"{official}.resConfUnit{k}.conv{j}", f"{fusion}.residual_layer{k}.convolution{j}")
                for k in (1, 2)
                for j in (1, 2)
            ),
        ]
        names |= _affine(pair for pair in pairs if not pair[0].endswith("resize_layers.2"))  # level 3 keeps its size
        names[f"depth_head.scratch.layer{i + 1}_rn.weight"] = (f"neck.convs.{i}.weight",)
    outputs = ("output_conv1", "output_conv2.0", "output_conv2.2")
    return names | _affine((f"depth_head.scratch.{name}", f"head.conv{i + 1}") for i, name in enumerate(outputs))


def encoder_names(blocks: int, swiglu: bool) -> dict[str, tuple[str, ...]]:
    """DINOv2 release name -> Hugging Face name(s) of every encoder tensor."""
    names = {
        "cls_token": ("embeddings.cls_token",),
        "mask_token": ("embeddings.mask_token",),
        "pos_embed": ("embeddings.position_embeddings",),
        **_affine([("patch_embed.proj", "embeddings.patch_embeddings.projection"), ("norm", "layernorm")]),
    }
    mlp = [("w12", "weights_in"), ("w3", "weights_out")] if swiglu else [("fc1", "fc1"), ("fc2", "fc2")]
    for i in range(blocks):
        block, layer = f"blocks.{i}", f"encoder.layer.{i}"
        names |= _affine(
            [
                (f"{block}.norm1", f"{layer}.norm1"),
                (f"{block}.norm2", f"{layer}.norm2"),
                (f"{block}.attn.proj", f"{layer}.attention.output.dense"),
                *((f"{block}.mlp.{official}", f"{layer}.mlp.{hf}") for official, hf in mlp),
            ]
        )
        for part in ("weight", "bias"):
            names[f"{block}.attn.qkv.{part}"] = tuple(
                f"{layer}.attention.attention.{role}.{part}" for role in ("query", "key", "value")
            )
        for k in (1, 2):
            names[f"{block}.ls{k}.gamma"] = (f"{layer}.layer_scale{k}.lambda1",)
    return names


def disk_state(model: PreTrainedModel, state: State | None = None) -> State:
    """`state` (default: the model's own), by the names that a live `model` has, by the names that it has on disk."""
    return revert_weight_conversion(model, model.state_dict() if state is None else state)


def load_encoder(backbone: Dinov2Backbone, path: str, key: str) -> None:
    """Copy a DINOv2 checkpoint into `backbone`: an official .pth, the encoder of a Depth Anything file, a .safetensors, a
    Hugging Face folder, or hub:OWNER/NAME. `key` named `path`. Raises InputError."""
    place = hub_folder(path, key) if path.startswith("hub:") else Path(path)
    if not place.exists():
        raise InputError(f"{key}={path}: no such file; {_remedy(backbone, key)}")
    state = unwrap(read_state(place, key))
    for prefix in ("pretrained.", "backbone.", "dinov2."):
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    names = encoder_names(backbone.config.num_hidden_layers, backbone.config.use_swiglu_ffn)
    if "cls_token" in state:
        state = _split(_same_names(state, names, f"{key}={path}"), names)
    fill_encoder(backbone, state, f"{key}={path}")


def fill_encoder(backbone: Dinov2Backbone, state: State, source: str) -> None:
    """Copy `state`, by the names on disk, into `backbone`. Raises InputError, naming `source`, where it does not fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in disk_state(backbone).items()}
    _same_names(state, expected, source)
    for name, shape in expected.items():
        if (found := tuple(state[name].shape)) != shape:
            what = "position table" if name == "embeddings.position_embeddings" else name
            raise InputError(f"{source}: its {what} is {found}, this network's is {shape}; give the file of this size")
    loaded = Dinov2Backbone.from_pretrained(None, config=backbone.config, state_dict=dict(state))
    backbone.load_state_dict(loaded.state_dict())


def hub_folder(address: str, key: str) -> Path:
    """The local copy of hub:OWNER/NAME, downloaded where it is not there yet."""
    name = address.removeprefix("hub:")
    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "*.safetensors"]))
    except (OSError, ValueError, HfHubHTTPError) as error:  # not reachable, no such name, not a name
        raise InputError(
            f"{key}={address}: cannot download it ({str(error).splitlines()[0]}); check the name and the connection, or give "
            "the path of a copy that you downloaded elsewhere"
        ) from error


def read_state(path: Path, key: str) -> dict:
    """The tensors of a .pth or .safetensors file, or of the model.safetensors of a Hugging Face folder, on the CPU."""
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise InputError(f"{key}={path}: no such file; give a .pth, a .safetensors or a folder with model.safetensors")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, SafetensorError, UnpicklingError) as error:
        raise InputError(
            f"{key}={path}: not readable as tensors ({str(error).splitlines()[0]}); download it again"
        ) from error


def _remedy(backbone: Dinov2Backbone, key: str) -> str:
    """What to do where a configured file of this encoder is missing."""
    dim = backbone.config.hidden_size
    random = f"set {key}=random to start from random weights on purpose (far more data and steps are needed)"
    if dim not in RELEASES:
        return f"DINOv2 has no release {dim} wide: {random}"
    return f"download {DOWNLOAD.format(RELEASES[dim])} to this path, or {random}"


def _affine(pairs) -> dict[str, tuple[str, ...]]:
    return {f"{official}.{part}": (f"{hf}.{part}",) for official, hf in pairs for part in ("weight", "bias")}


def _encoder_shape(state: State, prefix: str) -> tuple[int, bool]:
    """(number of blocks, whether the feed-forward is SwiGLU), read off the names."""
    blocks = {int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix)}
    if not blocks:
        raise InputError(f"not a Depth Anything checkpoint: no tensor is named {prefix}...")
    return max(blocks) + 1, any(".mlp.w12." in name or ".mlp.weights_in." in name for name in state)


def _split(official: State, names: dict[str, tuple[str, ...]]) -> State:
    state = _same_names(official, names, "official checkpoint")
    return {
        hf: part.clone()
        for name, cut in names.items()
        for hf, part in zip(cut, state[name].chunk(len(cut)), strict=True)
    }


def _join(hf: State, names: dict[str, tuple[str, ...]]) -> State:
    state = _same_names(hf, [part for cut in names.values() for part in cut], "Hugging Face checkpoint")
    return {name: torch.cat([state[part] for part in cut]) for name, cut in names.items()}


def _same_names(state: State, expected, source: str) -> State:
    """`state`, if it has exactly the expected names."""
    missing, extra = set(expected) - set(state), set(state) - set(expected)
    if missing or extra:
        listed = f"{len(missing)} missing {sorted(missing)[:2]}, {len(extra)} unknown {sorted(extra)[:2]}"
        raise InputError(f"{source}: its tensors are not this network's: {listed}; check size and file")
    return state
