"""The denoiser's invariants (spec sections 3.1, 4.1, 4.5) and the published size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from omegaconf import OmegaConf
from torch import nn

from vstrain.systems.multiview.cameras import pose_code
from vstrain.systems.multiview.config import Config
from vstrain.systems.multiview.network import MultiviewUNet
from vstrain.systems.multiview.objective import Conditions

CONF = Path(__file__).parents[3] / "conf"
B, C = 2, 4


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_conditions(targets=1, views=C):
    features = draw(B, views or 1, 5, 16, seed=2)
    present = torch.ones(B, views, dtype=torch.bool)
    return Conditions(
        torch.arange(16).view(B, 8),
        draw(B, views, 12, 8, 8, seed=1),
        features,
        present,
        draw(B, targets + views, 10, seed=3),
    )


@pytest.fixture
def network(make_config, make_system):
    return make_system(make_config()).network


def answer(network, noisy, t, conditions, bank=None):
    with torch.no_grad():
        return network(noisy, t, conditions, network.context(conditions), bank)


def times(*values):
    return torch.tensor([values] * B)


def base_unet(network):
    """The stock diffusers UNet with the network's own weights, and without anything of ours."""
    keys = {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    base = UNet2DConditionModel.from_config({**network.unet.config, **keys}).eval()
    state = network.unet.state_dict()
    base.load_state_dict({name: state[name] for name in base.state_dict()})
    assert set(state) - set(base.state_dict()) == {n for n in state if "processor" in n or "class_embedding" in n}
    return base


def test_one_frame_is_the_base_model(make_config, make_system):
    network = make_system(make_config(), filled=False).network
    noisy, conditions = draw(B, 1, 12, 8, 8), make_conditions(views=0)
    with torch.no_grad():
        expected = base_unet(network)(noisy[:, 0], torch.tensor([700] * B), network.text_encoder(conditions.ids)).sample
    assert torch.equal(answer(network, noisy, times(700), conditions)[:, 0], expected)


def test_before_training_every_frame_is_what_the_base_model_gives(make_config, make_system):
    """New layers begin without effect: with no view present a target is the base model's, too; condition frames always are."""
    network = make_system(make_config(), filled=False).network
    noisy, conditions = draw(B, 1, 12, 8, 8), make_conditions()
    conditions = replace(conditions, present=torch.zeros_like(conditions.present))
    rows = []
    hook = network.unet.register_forward_hook(lambda module, inputs, output: rows.append(output.sample))
    target = answer(network, noisy, times(700), conditions)
    hook.remove()
    base, text = base_unet(network), network.text_encoder(conditions.ids)
    with torch.no_grad():
        expected = base(noisy[:, 0], torch.tensor([700] * B), text).sample
        frames = base(conditions.latents.flatten(0, 1), 0, text.repeat_interleave(C, dim=0)).sample
    torch.testing.assert_close(target[:, 0], expected)
    torch.testing.assert_close(rows[0].unflatten(0, (B, 1 + C))[:, 1:].flatten(0, 1), frames)


def test_condition_frames_stand_at_timestep_0(network):
    seen = []
    network.unet.time_proj.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    answer(network, draw(B, 2, 12, 8, 8), times(700, 300), make_conditions(targets=2))
    assert seen[0].view(B, 2 + C).tolist() == [[700, 300, 0, 0, 0, 0]] * B


def test_condition_frames_do_not_depend_on_the_target(network):
    banks = [{}, {}]
    answer(network, draw(B, 1, 12, 8, 8), times(900), make_conditions(), banks[0])
    answer(network, 5 * draw(B, 1, 12, 8, 8, seed=9), times(10), make_conditions(), banks[1])
    assert len(banks[0]) == sum(name.endswith("attn1.processor") for name in network.unet.attn_processors) > 0
    for layer, (keys, values) in banks[0].items():
        assert torch.equal(keys, banks[1][layer][0]) and torch.equal(values, banks[1][layer][1])


def test_remembered_conditions_equal_recomputed_ones(network):
    conditions, bank = make_conditions(targets=2), {}
    conditions.present[0, 2] = False
    first = draw(B, 2, 12, 8, 8)
    torch.testing.assert_close(
        answer(network, first, times(900, 500), conditions, bank), answer(network, first, times(900, 500), conditions)
    )
    rows = []
    network.unet.register_forward_hook(lambda module, inputs, output: rows.append(len(output.sample)))
    later = draw(B, 2, 12, 8, 8, seed=8)
    remembered = answer(network, later, times(300, 20), conditions, bank)
    assert rows == [B * 2]  # the targets alone
    torch.testing.assert_close(remembered, answer(network, later, times(300, 20), conditions))


def test_targets_of_one_object_do_not_see_each_other(network):
    both, noisy = make_conditions(targets=2), draw(B, 2, 12, 8, 8)
    together = answer(network, noisy, times(900, 100), both)
    for j, t in enumerate((900, 100)):
        code = torch.cat([both.code[:, j : j + 1], both.code[:, 2:]], dim=1)
        alone = answer(network, noisy[:, j : j + 1], times(t), replace(both, code=code))
        torch.testing.assert_close(together[:, j : j + 1], alone)


def test_order_of_condition_views_does_not_matter(network):
    """Apart from view 0, whose picture tokens the targets copy."""
    conditions, order = make_conditions(), torch.tensor([0, 3, 1, 2])
    conditions.present[1, 2] = False
    turned = replace(
        conditions,
        latents=conditions.latents[:, order],
        features=conditions.features[:, order],
        present=conditions.present[:, order],
        code=torch.cat([conditions.code[:, :1], conditions.code[:, 1:][:, order]], dim=1),
    )
    noisy = draw(B, 1, 12, 8, 8)
    torch.testing.assert_close(
        answer(network, noisy, times(500), turned), answer(network, noisy, times(500), conditions)
    )
    mixed = replace(turned, latents=conditions.latents)  # pictures and poses no longer belong together
    assert not torch.allclose(answer(network, noisy, times(500), mixed), answer(network, noisy, times(500), conditions))


def test_dropped_is_absent(network):
    conditions, noisy = make_conditions(), draw(B, 1, 12, 8, 8)
    dropped = replace(conditions, present=conditions.present.clone())
    dropped.present[:, 2] = False
    left = torch.tensor([0, 1, 3])
    absent = replace(
        conditions,
        latents=conditions.latents[:, left],
        features=conditions.features[:, left],
        present=conditions.present[:, left],
        code=torch.cat([conditions.code[:, :1], conditions.code[:, 1:][:, left]], dim=1),
    )
    without = answer(network, noisy, times(500), absent)
    torch.testing.assert_close(answer(network, noisy, times(500), dropped), without)
    assert not torch.allclose(answer(network, noisy, times(500), conditions), without)


def test_every_part_of_the_conditions_has_an_effect(network):
    conditions, noisy = make_conditions(), draw(B, 1, 12, 8, 8)
    before = answer(network, noisy, times(500), conditions)
    for name in ("ids", "latents", "features", "code"):
        changed = replace(conditions, **{name: getattr(conditions, name).roll(1, dims=0)})
        assert (answer(network, noisy, times(500), changed) - before).abs().max() > 1e-4, name


@pytest.mark.parametrize(("azimuth", "nearest"), [(10, 0), (80, 1), (-170, 2), (-100, 3)])
def test_from_scratch_a_target_first_reads_the_view_of_the_nearest_pose(make_config, make_system, azimuth, nearest):
    """Before any training; all frames show one picture, so that poses alone tell the views apart. Keys begin equal to queries,
    so those of a frame at the target's pose are what the target asks with."""
    network = make_system(make_config(unet={"from_scratch": True}), filled=False).network
    zero, turns, bank = np.zeros(2 + C), np.array([0, 0, 90, 180, 270, azimuth], dtype=float), {}
    code = torch.from_numpy(pose_code(zero, turns, zero, 1, zero, zero)).expand(B, -1, -1)
    same = make_conditions(views=C + 1)
    same = replace(same, latents=draw(1, 1, 12, 8, 8).expand(B, C + 1, -1, -1, -1), code=code)
    answer(network, draw(B, 1, 12, 8, 8), times(0), same, bank)
    read = torch.zeros(C)
    for keys, _ in bank.values():
        scores = torch.einsum("bnqd,bcnkd->bnqck", keys[:, C], keys[:, :C]) / keys.shape[-1] ** 0.5
        read += scores.flatten(-2).softmax(-1).unflatten(-1, (C, -1)).sum(-1).mean(dim=(0, 1, 2))
    assert read.argmax() == nearest


@pytest.mark.parametrize(("choice", "views"), [("first", 1), ("own", C)])
def test_picture_tokens(make_config, make_system, choice, views):
    network = make_system(make_config(picture_tokens=choice)).network
    pictures = draw(B, C, 3, 16, 16)
    features = network.features(pictures)
    assert features.shape == (B, views, 5, 16) and not features.requires_grad
    tokens = network.context(replace(make_conditions(targets=2), features=features)).picture_tokens
    assert tokens.shape == (B, 2 + C, 3, 16)
    assert torch.equal(tokens[:, 0], tokens[:, 2]) and torch.equal(tokens[:, 1], tokens[:, 2])
    assert torch.equal(tokens[:, 3], tokens[:, 2]) == (choice == "first")


def test_published_size():
    """SD 2.1-base's UNet has 865,910,724 parameters; the new layers have what their shapes say."""
    preset = OmegaConf.load(CONF / "preset/multiview_large.yaml").system
    keys = OmegaConf.merge(OmegaConf.load(CONF / "system/multiview.yaml"), preset, {"attention": "sdpa"})
    with torch.device("meta"):
        network = MultiviewUNet(Config(**OmegaConf.to_container(keys)))
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    camera, resampler, *pictures = network.new_layers()
    assert count(camera) == 11 * 1280 + 1281 * 1280
    assert sum(map(count, pictures)) == 2 * 1024 * (5 * 320 + 5 * 640 + 6 * 1280)
    assert count(network.unet) - count(camera) - sum(map(count, pictures)) == 865_910_724
    block = 2 * 2 * 1024 + 4 * 1024 * 768 + 2 * 1024 + 2 * 4 * 1024 * 1024
    assert count(resampler) == 16 * 1024 + 1281 * 1024 + 4 * block + 1025 * 1024 + 2 * 1024
    assert count(network.vision_encoder) == 630_766_080  # CLIP ViT-H/14 without its projection
    assert count(network.text_encoder) == 340_387_840  # 23 of OpenCLIP ViT-H's 24 text layers
    assert not any(p.requires_grad for m in (network.vision_encoder, network.text_encoder) for p in m.parameters())
    heads = [m.heads for name, m in network.unet.named_modules() if name.endswith("attn1")]
    assert set(heads) == {5, 10, 20}
    assert isinstance(network.unet.mid_block.attentions[0].proj_in, nn.Linear)
