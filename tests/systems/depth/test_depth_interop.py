"""Official and Hugging Face checkpoints: names, bit-exact round trips, files that other libraries open."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForDepthEstimation

from vstrain.config.problems import InputError
from vstrain.interop.depth_anything import depth_names, encoder_names, to_hf, to_official
from vstrain.systems.depth.export import export
from vstrain.systems.depth.network import SIZES, build_network


def official_state(blocks: int, dim: int = 6, swiglu: bool = False) -> dict[str, torch.Tensor]:
    """A checkpoint with official names, every tensor different; qkv and w12 are cut, so their rows must
    divide."""
    names = depth_names(blocks, swiglu)
    return {name: torch.randn(3 * dim, dim) if ".qkv." in name else torch.randn(4, 3) for name in names}


@pytest.mark.parametrize(("size", "tensors"), [("vits", 239), ("vitb", 239), ("vitl", 407), ("vitg", 631)])
def test_tensor_counts_of_both_layouts(size, tensors):
    s = SIZES[size]
    names = depth_names(s.depth, s.swiglu)
    hf = [part for cut in names.values() for part in cut]
    assert len(names) == tensors and len(hf) == len(set(hf)) == tensors + 4 * s.depth


@pytest.mark.parametrize("swiglu", [False, True])
def test_round_trip_of_an_official_file_is_bit_exact(swiglu):
    torch.manual_seed(0)
    state = official_state(2, swiglu=swiglu)
    back = to_official(to_hf(state))
    assert list(back) == list(state) and all(torch.equal(back[name], state[name]) for name in state)


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


def test_export_opens_in_transformers_and_is_equal_at_the_native_size(make_system, tmp_path):
    system = make_system(image_size=126)
    paths = export(system, tmp_path)
    assert all(path.is_file() for path in paths)
    loaded = AutoModelForDepthEstimation.from_pretrained(tmp_path).eval()
    image = torch.randint(0, 256, (1, 126, 126, 3), dtype=torch.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    pixels = processor(images=[image[0].numpy()], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).predicted_depth, system(image), atol=1e-5, rtol=1e-5)
    official = torch.load(tmp_path / "depth_anything_v2_tiny.pth")
    assert set(official) == set(depth_names(SIZES["tiny"].depth, False))
    hf = load_file(tmp_path / "model.safetensors")
    back = to_hf(official)
    assert set(back) == set(hf) and all(torch.equal(back[name], hf[name]) for name in hf)


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


def test_init_errors_say_what_to_do(make_system, tmp_path):
    with pytest.raises(InputError, match=r"no such file; download the DINOv2 release .*dinov2_vits14_pretrain.pth"):
        make_system(init=str(tmp_path / "absent.pth"))
    with torch.device("meta"):
        other = build_network("vits", "v2", "official").backbone
    state = {name: torch.zeros(1) for name in encoder_names(len(other.encoder.layer), False)}
    torch.save(state, tmp_path / "deep.pth")
    with pytest.raises(InputError, match=r"deep.pth: its tensors are not this network's: 0 missing .*unknown"):
        make_system(init=str(tmp_path / "deep.pth"))
    state = torch.load(export(make_system(), tmp_path)[-1])
    state["pretrained.pos_embed"] = torch.zeros(1, 1370, 128)
    torch.save(state, tmp_path / "grid.pth")
    with pytest.raises(InputError, match=r"grid.pth: its position table is \(1, 1370, 128\), this network's is"):
        make_system(init=str(tmp_path / "grid.pth"))
