"""Shapes, counts, gradients, and what must not change the answer."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from vstrain.config.compose import Composer
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.systems.drag.attention import fused_blocks
from vstrain.systems.drag.encoder import AppearanceEncoder
from vstrain.systems.drag.module import System
from vstrain.systems.drag.objective import to_unit


def count(module, keep=lambda name: True):
    return sum(p.numel() for name, p in module.named_parameters() if keep(name))


def tiny_unet(down, up, mid, layers):
    return UNet2DConditionModel(
        in_channels=9, out_channels=4, block_out_channels=(4,) * len(down), down_block_types=down,
        up_block_types=up, mid_block_type=mid, layers_per_block=layers, norm_num_groups=2, attention_head_dim=2,
        cross_attention_dim=6,
    )  # fmt: skip


CROSS_DOWN, DOWN, CROSS_UP, UP = "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
MID = "UNetMidBlock2DCrossAttn"
LAYOUTS = {
    "sd": ((CROSS_DOWN, DOWN), (UP, CROSS_UP), MID, 2),
    "everywhere": ((CROSS_DOWN, CROSS_DOWN), (CROSS_UP, CROSS_UP), MID, 1),
    "inner": ((DOWN, CROSS_DOWN, DOWN), (UP, CROSS_UP, UP), MID, 1),
    "mid": ((DOWN, DOWN), (UP, UP), MID, 1),
    "down": ((DOWN, CROSS_DOWN, DOWN), (UP, UP, UP), None, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_encoder_gives_what_the_whole_unet_would_read(layout):
    """Every normalised input equals the one that hooks see in the uncut UNet, and every parameter takes part."""
    torch.manual_seed(0)
    whole = tiny_unet(*LAYOUTS[layout])
    twin = UNet2DConditionModel.from_config(whole.config)
    twin.load_state_dict(whole.state_dict())
    seen = {}
    for name, block in fused_blocks(whole, "full").items():
        block.norm1.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    latent, text = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 6)
    nine = torch.cat([latent, torch.zeros(2, 5, 8, 8)], 1)  # the cut input convolution sees the first four alone
    whole(nine, torch.zeros(2, dtype=torch.int64), text)

    encoder = AppearanceEncoder(twin, 4, "full")
    bank = encoder(latent, text)
    assert list(bank) == list(seen)
    for name in bank:
        torch.testing.assert_close(bank[name], seen[name], rtol=1e-5, atol=1e-5)
    sum(feature.square().sum() for feature in bank.values()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    assert count(encoder) < count(whole)


def preset(scale):
    """The system that `experiment=drag_editor scale=...` builds, on the meta device."""
    with Composer("train", ["experiment=drag_editor", f"scale={scale}"]) as composer:
        config = validate(composer.compose(), TrainConfig)
    with torch.device("meta"):
        system = System(config.system)
        system.configure_model()
    return system


def test_published_counts():
    system = preset("large")
    model = system.model
    assert count(model.unet, lambda name: "processor" not in name) == 859_535_364
    assert count(model.point_network) == 75_479_616
    assert len(model.projections.levels) == 16
    assert count(model.unet, lambda name: "processor" in name) + count(model.image_encoder.project) == 22_319_616
    trained = {name.split(".")[1] for name, p in system.named_parameters() if p.requires_grad}
    assert trained == {"encoder", "point_network", "projections"}


def test_presets_grow():
    sizes = [count(preset(scale)) for scale in ("demo", "small", "base", "large")]
    assert sizes[0] < 5e6 < sizes[1] < sizes[2] < sizes[3]


def groups(system):
    model = system.model
    linear = {n: p for n, p in model.projections.named_parameters() if n.endswith("1.weight")}
    norms = {n: p for n, p in model.projections.named_parameters() if not n.endswith("1.weight")}
    return linear, norms, dict(model.point_network.named_parameters())


def backward(system, batch):
    system.zero_grad(set_to_none=True)
    system.objective(batch).loss.backward()


def test_gradients_of_the_first_two_steps(make_system, make_batch):
    """Zero-initialised projections: step one moves them alone, step two the point convolutions, too."""
    system, batch = make_system(point_drop=0.0), make_batch()
    linear, norms, convolutions = groups(system)
    backward(system, batch)
    assert all(p.grad.abs().max() > 0 for p in linear.values())
    assert all((p.grad == 0).all() for p in (*norms.values(), *convolutions.values()))
    assert all(p.grad.abs().max() > 0 for n, p in system.model.encoder.named_parameters() if "to_k.bias" not in n)
    torch.optim.SGD(system.parameters(), lr=1.0).step()
    backward(system, batch)
    assert all(p.grad.abs().max() > 0 for p in (*linear.values(), *convolutions.values()))


def test_every_trained_parameter_has_a_gradient_even_without_points(make_system, make_batch):
    """What plain DDP needs (find_unused_parameters=False), also for a share whose points and images are all dropped."""
    for drop in (0.0, 1.0):
        system = make_system(point_drop=drop, image_drop=drop)
        backward(system, make_batch())
        assert [n for n, p in system.named_parameters() if p.requires_grad and p.grad is None] == []
        assert [n for n, p in system.named_parameters() if not p.requires_grad and "tower" not in n] == []


def test_a_frozen_unet_still_carries_gradient_to_the_encoder(make_system, make_batch, monkeypatch):
    monkeypatch.setattr("vstrain.systems.drag.pretrained.load_unet", _random_unet(make_system))
    system = make_system(train_unet=False)
    backward(system, make_batch())
    trained = {n.split(".")[1] for n, p in system.named_parameters() if p.requires_grad}
    assert trained == {"encoder", "point_network", "projections"}
    assert all(p.grad is not None for p in system.parameters() if p.requires_grad)
    assert next(system.model.encoder.parameters()).grad.abs().max() > 0


def _random_unet(make_system):
    from vstrain.systems.drag.pretrained import load_unet

    return lambda config: load_unet(config.model_copy(update={"train_unet": True}))


def test_a_frozen_unet_needs_weights(make_system):
    with pytest.raises(ValueError, match="system.unet.path"):
        make_system(train_unet=False)


def answer(system, batch, **changed):
    batch = batch | changed
    conditions = system.model.conditions(to_unit(batch["source"]), batch["mask"], batch["maps"])
    z = torch.randn(len(batch["source"]), 12, 8, 8, generator=torch.Generator().manual_seed(5))
    return system.model.eval()(z, torch.full((len(z),), 500), conditions), conditions


@torch.no_grad()
def test_encoder_starts_from_the_unet(make_system):
    model = make_system().model
    unet = dict(model.unet.named_parameters())
    for name, parameter in model.encoder.unet.named_parameters():
        wanted = unet[name][:, : parameter.shape[1]] if name == "conv_in.weight" else unet[name]
        assert torch.equal(parameter, wanted), name
        assert parameter.data_ptr() != unet[name].data_ptr()


@torch.no_grad()
def test_points_mean_nothing_at_first_and_something_later(make_system, make_batch, randomise_projections):
    system, batch = make_system(), make_batch()
    other = batch["maps"].roll(1, 0)
    torch.testing.assert_close(answer(system, batch)[0], answer(system, batch, maps=other)[0], rtol=0, atol=0)
    randomise_projections(system)
    assert (answer(system, batch)[0] - answer(system, batch, maps=other)[0]).abs().max() > 1e-3


@torch.no_grad()
def test_null_branch_forgets_the_points_and_nothing_else(make_system, make_batch, randomise_projections):
    system, batch = make_system(), make_batch()
    randomise_projections(system)
    _, conditions = answer(system, batch)
    null = conditions.without_points()
    model, z, t = system.model, torch.randn(3, 12, 8, 8), torch.tensor([10, 400, 900])
    fresh = make_system()  # the same seed, projections still zero
    torch.testing.assert_close(model(z, t, null), fresh.model.eval()(z, t, conditions._replace(points=null.points)))
    assert all((x == 0).all() for pair in null.points.values() for x in pair)
    assert null.bank is conditions.bank and null.tokens is conditions.tokens
    kept = torch.tensor([True, False, True])
    source = to_unit(batch["source"])
    mixed = model.conditions(source, batch["mask"], batch["maps"], keep_points=kept)
    for name, pair in mixed.points.items():
        for half, full in zip(pair, conditions.points[name], strict=True):
            assert (half[1] == 0).all() and torch.equal(half[0], full[0])


@torch.no_grad()
def test_masked_source_hides_the_inside(make_system, make_batch):
    system, batch = make_system(), make_batch()
    model, source = system.model, to_unit(batch["source"])
    repainted = torch.where(batch["mask"][:, None], torch.ones_like(source), source)
    a = model.conditions(source, batch["mask"], batch["maps"])
    b = model.conditions(repainted, batch["mask"], batch["maps"])
    assert torch.equal(a.inpaint, b.inpaint) and not torch.equal(*(c.bank[next(iter(a.bank))] for c in (a, b)))
    single = torch.zeros(3, 16, 16, dtype=torch.bool)
    single[:, 5, 9] = True  # one pixel marks its latent cell
    latent_mask = model.conditions(source, single, batch["maps"]).inpaint[:, 0]
    assert torch.equal(torch.nonzero(latent_mask), torch.tensor([[0, 2, 4], [1, 2, 4], [2, 2, 4]]))


def test_adapter_weights_load_by_their_published_names(make_system, tmp_path):
    donor = make_system(seed=7)
    crosses = [p for n, p in donor.model.unet.attn_processors.items() if n.endswith("attn2.processor")]
    project = donor.model.image_encoder.project
    state = {
        "image_proj": {"proj.weight": project.image_embeds.weight.detach(), "proj.bias": project.image_embeds.bias.detach(),
                       "norm.weight": project.norm.weight.detach(), "norm.bias": project.norm.bias.detach()},
        "ip_adapter": {f"{2 * i + 1}.to_{kind}_ip.weight": getattr(p, f"to_{kind}_ip")[0].weight.detach()
                       for i, p in enumerate(crosses) for kind in "kv"},
    }  # fmt: skip
    torch.save(state, tmp_path / "ip.bin")
    loaded = make_system(seed=8, image={"adapter": str(tmp_path / "ip.bin")})
    for name, value in donor.model.unet.state_dict().items():
        same = torch.equal(value, loaded.model.unet.state_dict()[name])
        assert same == ("_ip." in name) or value.unique().numel() == 1, name
    torch.testing.assert_close(loaded.model.image_encoder.project.state_dict(), project.state_dict())
    del state["ip_adapter"]["3.to_k_ip.weight"]
    torch.save(state, tmp_path / "ip.bin")
    with pytest.raises(ValueError, match=r"system.image.adapter=.*ip.bin: not the weights of an IP-Adapter"):
        make_system(image={"adapter": str(tmp_path / "ip.bin")})
