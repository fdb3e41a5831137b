"""Official and Hugging Face checkpoints: names, bit-exact round trips, encoders from every layout."""

import json

import pytest
import torch

from tests.systems.depth.test_depth_network import PUBLISHED
from vstrain.config.problems import InputError
from vstrain.interop import depth_anything
from vstrain.interop.depth_anything import depth_names, disk_state, encoder_names, to_hf, to_official
from vstrain.systems.depth.export import export
from vstrain.systems.depth.network import SIZES, build_network


def official_state(blocks: int, dim: int = 6, swiglu: bool = False) -> dict[str, torch.Tensor]:
    """A checkpoint with official names, every tensor different; qkv and w12 are cut, so their rows must
    divide."""
    names = depth_names(blocks, swiglu)
    return {name: torch.randn(3 * dim, dim) if ".qkv." in name else torch.randn(4, 3) for name in names}


def bits(state: dict) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in state.items()}


@pytest.mark.parametrize("max_depth", [None, 20])
@pytest.mark.parametrize("size", PUBLISHED)
def test_published_counts_in_both_layouts_and_both_ways(size, max_depth):
    """Names, shapes and numbers of tensors and parameters, of the network as transformers builds it, without storage."""
    with torch.device("meta"):
        hf = disk_state(build_network(size, "v2", "official", max_depth))
    official = to_official(hf)
    back = to_hf(official)
    parameters, encoder, _, tensors = PUBLISHED[size]
    assert len(official) == tensors and len(hf) == tensors + 4 * SIZES[size].depth
    assert sum(x.numel() for x in official.values()) == parameters
    assert sum(x.numel() for name, x in official.items() if name.startswith("pretrained.")) == encoder
    assert {name: x.shape for name, x in back.items()} == {name: x.shape for name, x in hf.items()}


@pytest.mark.parametrize(("size", "max_depth"), [("vits", None), ("vits", 20), ("vitb", None)])
def test_round_trips_of_a_whole_network_keep_every_bit(size, max_depth):
    torch.manual_seed(0)
    hf = disk_state(build_network(size, "v2", "official", max_depth))
    for tensor in hf.values():
        tensor.view(-1)[0] = float("nan")  # survives a copy, no arithmetic
    before, official = bits(hf), to_official(hf)
    there = bits(official)
    assert bits(to_hf(official)) == before
    assert bits(to_official(to_hf(official))) == there


@pytest.mark.parametrize(("size", "swiglu"), [("vitl", False), ("vitg", True)])
def test_round_trips_of_the_deep_sizes_with_narrow_tensors(size, swiglu):
    torch.manual_seed(0)
    official = official_state(SIZES[size].depth, swiglu=swiglu)
    assert len(official) == PUBLISHED[size][3]
    hf = to_hf(official)
    assert bits(to_official(hf)) == bits(official) and bits(to_hf(to_official(hf))) == bits(hf)


def test_known_names_and_rows():
    state = official_state(2)
    hf = to_hf(state)
    qkv = state["pretrained.blocks.1.attn.qkv.weight"]
    assert torch.equal(hf["backbone.encoder.layer.1.attention.attention.key.weight"], qkv[6:12])
    fusion = "neck.fusion_stage.layers.0"
    for official, name in {
        "pretrained.blocks.0.ls2.gamma": "backbone.encoder.layer.0.layer_scale2.lambda1",
        "depth_head.scratch.refinenet4.resConfUnit1.conv2.bias": f"{fusion}.residual_layer1.convolution2.bias",
        "depth_head.scratch.layer1_rn.weight": "neck.convs.0.weight",
        "depth_head.resize_layers.3.weight": "neck.reassemble_stage.layers.3.resize.weight",
        "depth_head.scratch.output_conv2.2.bias": "head.conv3.bias",
    }.items():
        assert torch.equal(hf[name], state[official])


def test_wrapped_trainer_checkpoints_are_unwrapped():
    state = official_state(1)
    wrapped = {"model": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}
    assert all(torch.equal(tensor, to_hf(state)[name]) for name, tensor in to_hf(wrapped).items())


def test_missing_and_unknown_tensors_are_named():
    state = official_state(1)
    state["depth_head.extra"] = state.pop("depth_head.projects.0.bias")
    with pytest.raises(InputError, match=r"1 missing .*projects.0.bias.*1 unknown .*extra"):
        to_hf(state)


@pytest.mark.parametrize("layout", ["dinov2.pth", "depth_anything.pth", "hf.safetensors", "hf folder"])
def test_encoder_init_from_every_layout(make_system, tmp_path, layout):
    source = make_system(seed=1)
    export(source, tmp_path)
    path = tmp_path / "depth_anything_v2_tiny.pth"
    if layout == "dinov2.pth":
        state = {
            name.removeprefix("pretrained."): t
            for name, t in torch.load(path).items()
            if name.startswith("pretrained.")
        }
        assert set(state) == set(encoder_names(SIZES["tiny"].depth, False))
        torch.save(state, path := tmp_path / layout)
    elif layout == "hf.safetensors":
        path = tmp_path / "model.safetensors"
    elif layout == "hf folder":
        path = tmp_path
    system = make_system(seed=2, init=str(path))
    mine, theirs = system.net.state_dict(), source.net.state_dict()
    for name in mine:
        same = torch.equal(mine[name], theirs[name])
        assert same if name.startswith("backbone.") else same == (name == "head.conv3.bias")


def test_a_missing_file_names_the_release_of_the_configured_size(make_system, tmp_path):
    for size, hint in {
        "tiny": "DINOv2 has no release 128 wide: set system.init=random .*on purpose",
        "vits": r"download \S+/dinov2_vits14_pretrain.pth to this path, or set system.init=random .*on purpose",
        "vitb": r"dinov2_vitb14_pretrain.pth",
    }.items():
        with pytest.raises(InputError, match=rf"system.init=.*absent.pth: no such file; .*{hint}"):
            make_system(size=size, init=str(tmp_path / "absent.pth"))


def test_init_errors_say_what_to_do(make_system, tmp_path):
    with torch.device("meta"):
        other = build_network("vits", "v2", "official").backbone
    state = {name: torch.zeros(1) for name in encoder_names(len(other.encoder.layer), False)}
    torch.save(state, tmp_path / "deep.pth")
    with pytest.raises(InputError, match=r"deep.pth: its tensors are not this network's: 0 missing .*unknown"):
        make_system(init=str(tmp_path / "deep.pth"))
    export(make_system(), tmp_path)
    state = torch.load(tmp_path / "depth_anything_v2_tiny.pth")
    state["pretrained.pos_embed"] = torch.zeros(1, 1370, 128)
    torch.save(state, tmp_path / "grid.pth")
    with pytest.raises(InputError, match=r"grid.pth: its position table is \(1, 1370, 128\), this network's is"):
        make_system(init=str(tmp_path / "grid.pth"))
    (tmp_path / "broken.pth").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"system.init=.*broken.pth: not readable as tensors .*download it again"):
        make_system(init=str(tmp_path / "broken.pth"))


def test_init_from_the_hub_is_a_folder_or_one_sentence(make_system, tmp_path, monkeypatch):
    source = make_system(seed=1)
    source.net.backbone.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "dinov2"
    asked = []

    def download(name, allow_patterns):
        asked.append(name)
        return tmp_path

    monkeypatch.setattr(depth_anything, "snapshot_download", download)
    mine = make_system(seed=2, init="hub:facebook/dinov2-tiny").net.backbone.state_dict()
    assert asked == ["facebook/dinov2-tiny"]
    assert all(torch.equal(tensor, mine[name]) for name, tensor in source.net.backbone.state_dict().items())

    def unreachable(name, allow_patterns):
        raise OSError("no route to host")

    monkeypatch.setattr(depth_anything, "snapshot_download", unreachable)
    with pytest.raises(
        InputError, match=r"init=hub:a/b: cannot download it \(no route to host\); .*give the path of a copy"
    ):
        make_system(init="hub:a/b")
