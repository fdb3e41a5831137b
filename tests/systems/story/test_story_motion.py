import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from vstrain.config.problems import ConfigError
from vstrain.systems.story.motion.config import Predictor
from vstrain.systems.story.motion.module import System
from vstrain.systems.story.motion.network import Decoupled, VideoUnet
from vstrain.systems.story.motion.objective import dropped
from vstrain.systems.story.motion.predictor import MotionPredictor, interpolate
from vstrain.systems.story.motion.prepare import clip_frames, prepare
from vstrain.systems.story.unet import build_unet

LAYOUTS = ["semantic", "ends-zero", "ends-mask"]
PREDICTOR = {"input": "patch", "tokens": 3, "width": 32, "heads": 3, "head_dim": 8, "layers": 2, "resampler_layers": 1}


@pytest.fixture
def system(make_config):
    torch.manual_seed(0)
    system = System(make_config("story_motion"))
    system.configure_model()
    return system


def clip(frames: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs of a tiny VideoUnet: two clips."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "x": draw(2, 12, frames, 8, 8),
        "t": torch.tensor([100, 900]),
        "text": draw(2, 8, 16),
        "motion": draw(2, frames, 4, 16),
        "ends": draw(2, 12, 2, 8, 8),
        "told": torch.tensor([True, True]),
    }


@pytest.mark.parametrize("source", ["patch", "pooled"])
def test_untrained_predictor_interpolates_linearly(source):
    torch.manual_seed(0)
    predictor = MotionPredictor(Predictor(**{**PREDICTOR, "input": source}), 20, frames=5).double()
    first, last = torch.randn(2, 2, 7, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = predictor.read(first), predictor.read(last)
    result = predictor(first, last)
    assert result.shape == (2, 5, 3, 32)
    for frame in range(5):
        torch.testing.assert_close(result[:, frame], ends[0] + frame / 4 * (ends[1] - ends[0]))
    assert torch.equal(result[:, 0], ends[0])
    assert torch.equal(result[:, -1], ends[1])
    assert interpolate(*ends, 9)[:, [0, -1]].equal(torch.stack(ends, dim=1))


def test_trained_predictor_bends(system):
    """Frames know their place: with `out` not zero, the path leaves the straight line by another amount at each frame."""
    torch.manual_seed(0)
    predictor = MotionPredictor(Predictor(**PREDICTOR), 20, frames=5)
    torch.nn.init.normal_(predictor.out.weight)
    first, last = torch.randn(2, 2, 7, 20, generator=torch.Generator().manual_seed(1))
    bend = predictor(first, last) - interpolate(predictor.read(first), predictor.read(last), 5)
    assert all((bend[:, i] - bend[:, j]).abs().max() > 0.1 for i in range(5) for j in range(i))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_untrained_video_model_is_the_image_model(layout, make_config, tmp_path):
    config = make_config("story_motion", f"system.layout={layout}", f"system.image_unet={tmp_path}")
    torch.manual_seed(3)
    image = build_unet(config.unet, config.codec.channels, config.text.width).eval()
    image.save_pretrained(tmp_path)
    video, inputs = VideoUnet(config).eval(), clip()
    assert isinstance(UNet2DConditionModel.from_pretrained(tmp_path), UNet2DConditionModel)
    with torch.no_grad():
        frames = video(**inputs)
        for n in range(4):
            alone = image(inputs["x"][:, :, n], inputs["t"], inputs["text"]).sample
            torch.testing.assert_close(frames[:, :, n], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("injection", ["concat", "decoupled"])
def test_a_frame_reads_its_own_motion_tokens_only(injection, make_config):
    torch.manual_seed(0)
    video = VideoUnet(make_config("story_motion", "system.layout=semantic", f"system.injection={injection}")).eval()
    for processor in video.unet.attn_processors.values():
        if isinstance(processor, Decoupled):
            torch.nn.init.normal_(processor.to_v.weight)
    inputs = clip()
    with torch.no_grad():
        before = video(**inputs)
        inputs["motion"][:, 2] += 1
        moved = (video(**inputs) - before).abs().amax(dim=(0, 1, 3, 4)) > 1e-4
    assert moved.tolist() == [False, False, True, False]


def test_injection_equals_its_formula():
    """concat: one softmax over text and image tokens; decoupled: the sum of two; scale 0 is the text alone."""
    torch.manual_seed(0)
    model = build_tiny_unet()
    layer = model.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 6, 32, generator=generator)
    text, image = torch.randn(2, 5, 16, generator=generator), torch.randn(2, 3, 16, generator=generator)
    states = torch.cat([text, image], dim=1)
    stock = layer(hidden, text)

    def heads(x):
        return x.unflatten(2, (4, 8)).transpose(1, 2)

    def mixed(k, v):
        weight = (heads(layer.to_q(hidden)) @ heads(k).mT / 8**0.5).softmax(dim=-1)
        return (weight @ heads(v)).transpose(1, 2).flatten(2)

    layer.set_processor(Decoupled(layer, text_length=5, state_width=16))
    torch.testing.assert_close(layer(hidden, states), stock)  # zero at first
    torch.nn.init.normal_(layer.processor.to_v.weight)
    both = mixed(layer.to_k(text), layer.to_v(text)) + mixed(layer.processor.to_k(image), layer.processor.to_v(image))
    torch.testing.assert_close(layer(hidden, states), layer.to_out[0](both))
    layer.processor.scale = 0.0
    torch.testing.assert_close(layer(hidden, states), stock)


def build_tiny_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(32,),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=16,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )


def test_condition_channels(make_config):
    inputs = clip()
    x, ends = inputs["x"], inputs["ends"]
    zero = VideoUnet(make_config("story_motion", "system.layout=ends-zero")).condition(x, ends)
    assert zero.shape == (2, 12, 4, 8, 8)
    assert torch.equal(zero[:, :, [0, 3]], ends)
    assert zero[:, :, 1:3].abs().max() == 0
    video = VideoUnet(make_config("story_motion", "system.layout=ends-mask"))
    torch.nn.init.constant_(video.gap, 0.25)
    mask = video.condition(x, ends)
    assert mask.shape == (2, 13, 4, 8, 8)
    assert (mask[:, :12, 1:3] == 0.25).all()
    assert mask[0, 12, :, 0, 0].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_not_told_is_not_seen(layout, make_config):
    torch.manual_seed(0)
    video = VideoUnet(make_config("story_motion", f"system.layout={layout}", "system.injection=concat")).eval()
    torch.nn.init.normal_(video.unet.conv_in.weight)
    inputs = clip() | {"told": torch.tensor([True, False])}
    other = clip(seed=1)
    with torch.no_grad():
        changed = video(**(inputs | {"motion": other["motion"], "ends": other["ends"]})) - video(**inputs)
    assert changed[0].abs().max() > 1e-4
    assert changed[1].abs().max() == 0


def test_drops_are_exclusive_and_keyed():
    keys = torch.arange(6000)
    text, image = dropped(keys, 0.05)
    for kind in (text & ~image, text & image, image & ~text):
        assert kind.float().mean().item() == pytest.approx(0.05, abs=0.01)
    again = dropped(keys.flip(0), 0.05)
    assert torch.equal(again[0].flip(0), text)
    assert torch.equal(again[1].flip(0), image)


def test_clips_stay_in_their_shot(make_config, story):
    config = make_config("story_motion")
    for seed in range(20):
        item = prepare(story(), config, np.random.default_rng(seed), True)
        numbers = item["images"][:, 0, 0, 0].astype(int)
        assert len(set(numbers // 8)) == 1
        assert np.diff(numbers).min() >= 0
    rng = np.random.default_rng(0)
    assert clip_frames(8, 16, 2.0, 4, rng).tolist() in ([8, 10, 12, 14], [9, 11, 13, 15])
    assert clip_frames(8, 12, 2.0, 4, rng).tolist() == [8, 9, 10, 11]  # too short: the whole shot
    assert clip_frames(0, 1, 1.0, 4, rng).tolist() == [0, 0, 0, 0]
    begins = {clip_frames(0, 8, 1.0, 4, rng)[0] for _ in range(200)}
    assert begins == {0, 1, 2, 3, 4}


def test_published_sizes(make_config):
    count = {}
    for scale in ("demo", "small", "base", "large"):
        with torch.device("meta"):
            system = System(make_config("story_motion", f"scale={scale}", tiny=False))
            system.configure_model()
        count[scale] = {name: sum(p.numel() for p in part.parameters()) for name, part in system.named_children()}
    assert count["large"]["vision"] == 630_766_080  # OpenCLIP ViT-H/14 without its projection
    parts = dict(system.video.unet.named_parameters())
    new = {name for name in parts if "motion_modules" in name or ".processor." in name}
    spatial = sum(p.numel() for name, p in parts.items() if name not in new)
    assert spatial == 859_520_964 + 5 * 9 * 320  # Stable Diffusion 1.5 and five more input channels
    widths = 5 * [320] + 5 * [640] + 11 * [1280]  # two modules a level down, three up, one in the middle
    temporal = sum(p.numel() for name, p in parts.items() if "motion_modules" in name)
    assert temporal == sum(22 * width**2 + 21 * width for width in widths) == 453_209_280
    assert system.predictor.blocks[0].attention.to_q.weight.shape == (768, 1024)  # 12 heads of 64 at width 1024
    assert [count[scale]["video"] for scale in count] == sorted(count[scale]["video"] for scale in count)
    trained = {name.split(".")[0] for name, p in system.named_parameters() if p.requires_grad}
    assert trained == {"predictor", "video"}
    assert not [n for n, p in parts.items() if p.requires_grad and n not in new and n != "conv_in.weight"]


def test_frozen_parts_stay_bit_identical(make_config, make_batch, tmp_path):
    words = [f"system.image_unet={tmp_path}", "system.train_spatial=false"]
    config = make_config("story_motion", *words)
    torch.manual_seed(0)
    build_unet(config.unet, config.codec.channels, config.text.width).save_pretrained(tmp_path)
    system = System(config)
    system.configure_model()
    before = {name: p.clone() for name, p in system.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        system.objective(make_batch(prepare, config)).loss.backward()
        optimizer.step()
    missing = [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    moved = {name for name, p in system.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= {name for name, p in system.named_parameters() if p.requires_grad}
    for part in ("predictor.blocks.0", "motion_modules.0.proj_in", ".processor.to_k", "video.gap", "conv_in.weight"):
        assert any(part in name for name in moved), part


def test_sentences(make_config, tmp_path):
    with pytest.raises(ValueError, match="train_spatial=false.*image_unet must name"):
        VideoUnet(make_config("story_motion", "system.train_spatial=false"))
    with pytest.raises(ValueError, match="image_unet=.*expected a folder with config.json"):
        VideoUnet(make_config("story_motion", f"system.image_unet={tmp_path}"))
    build_tiny_unet().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not fit the UNet of system.unet"):
        VideoUnet(make_config("story_motion", f"system.image_unet={tmp_path}"))
    with pytest.raises(ConfigError, match="frames=40 must be at most motion.max_frames=32"):
        make_config("story_motion", "system.frames=40")


def test_ends_are_used_after_seconds_of_training(system, make_batch):
    batch = make_batch(prepare, system.config)
    optimizer = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=3e-3)
    for step in range(60):
        batch["key"] = torch.arange(4) + 1000 * step
        system.objective(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    batch["key"] = torch.arange(4) + 777_777
    with torch.no_grad():
        values = system.eval().evaluate(batch)
    assert values["loss"].shape == (4,)
    assert values["loss_shuffled"].mean() > 1.5 * values["loss"].mean()


def test_every_trainable_weight_gets_a_gradient(system, make_batch):
    system.objective(make_batch(prepare, system.config)).loss.backward()
    assert not [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
