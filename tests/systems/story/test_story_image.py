import subprocess
import sys

import numpy as np
import pytest
import torch

from vstrain.config.problems import ConfigError
from vstrain.data.kinds import SampleError
from vstrain.systems.story.frames import caption_text, fit
from vstrain.systems.story.image.module import System
from vstrain.systems.story.image.objective import drop_captions, story_loss, story_noise
from vstrain.systems.story.image.prepare import prepare


@pytest.fixture
def system(make_config):
    torch.manual_seed(0)
    system = System(make_config("story_image"))
    system.configure_model()
    return system


def test_every_scale_has_its_published_size(make_config):
    count = {}
    for scale in ("demo", "small", "base", "large"):
        with torch.device("meta"):
            system = System(make_config("story_image", f"scale={scale}", tiny=False))
            system.configure_model()
        count[scale] = sum(p.numel() for p in system.unet.parameters())
    assert count["large"] == 859_520_964
    assert count["demo"] < count["small"] < count["base"] < count["large"]


def test_sharing_layers_of_the_published_network(make_config):
    """9 layers: three at each of the three resolutions that the up path attends at."""
    with torch.device("meta"):
        system = System(make_config("story_image", "scale=large", tiny=False))
        system.configure_model()
    sharing = [name for name, p in system.unet.attn_processors.items() if type(p).__name__ == "ConsistentProcessor"]
    assert len(sharing) == 9
    assert {name.split(".")[1] for name in sharing} == {"1", "2", "3"}


def test_prepare_takes_every_shot_once_with_its_caption(make_config, story):
    config = make_config("story_image", "system.images=4")
    item = prepare(story(), config, np.random.default_rng(0), True)
    assert item["images"].shape == (4, 3, 16, 16)
    numbers = item["images"][:, 0, 0, 0]
    assert (numbers // 8).tolist() == [0, 1, 2, 3]  # frames of shots 0, 1, 2, 3
    assert [caption_text(row)[-6:] for row in item["caption"]] == [f"take {k}" for k in range(4)]
    assert not np.array_equal(item["tokens"][0], item["tokens"][1])
    more = prepare(story(shots=2), config, np.random.default_rng(0), True)
    assert (more["images"][:, 0, 0, 0] // 8).tolist() == [0, 0, 1, 1]


def test_prepare_follows_one_character(make_config, story):
    sample = story()
    for shot in sample["json"]["shots"][1:3]:
        shot["characters"] = ["Ann"]
    sample["json"]["shots"][3]["characters"] = ["Ann", "Sid"]
    item = prepare(sample, make_config("story_image"), np.random.default_rng(0), True)
    assert set(item["images"][:, 0, 0, 0] // 8) <= {1, 2, 3}  # Ann is in three shots, Sid in two


def test_prepare_says_what_is_wrong(make_config, story):
    sample = story()
    sample["json"]["shots"][1]["end"] = 99
    with pytest.raises(SampleError, match="s0: shot 8..99 is not inside the video of 32 frames"):
        prepare(sample, make_config("story_image"), np.random.default_rng(0), True)
    sample["json"]["shots"] = []
    with pytest.raises(SampleError, match="s0: json lists no shots"):
        prepare(sample, make_config("story_image"), np.random.default_rng(0), True)


def test_fit_crops_the_centre():
    frames = np.zeros((1, 4, 8, 3), np.uint8)
    frames[0, :, 2:6] = 200
    assert (fit(frames, 4) == 200).all()
    assert fit(np.zeros((2, 30, 17, 3), np.uint8), 12).shape == (2, 3, 12, 12)


def test_noise_belongs_to_the_story_and_time_to_all_its_pictures(system):
    latents = torch.zeros(3, 2, 12, 8, 8)
    keys = torch.tensor([5, 6, 7])
    noise, t = story_noise(system.schedule, keys, latents)
    one, t_one = story_noise(system.schedule, keys[1:2], latents[:1])
    assert torch.equal(noise[1], one[0])
    assert torch.equal(t[1:2], t_one)
    assert (noise[0, 0] - noise[0, 1]).abs().max() > 1
    seen = []
    story_loss(lambda x, t: seen.append(t) or x, system.schedule, latents, noise, t)
    assert torch.equal(seen[0], t.repeat_interleave(2))


def test_loss_of_a_perfect_and_of_a_known_wrong_answer(system):
    latents = torch.randn(2, 3, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    noise, t = story_noise(system.schedule, torch.tensor([1, 2]), latents)
    x0 = latents.flatten(0, 1)
    assert system.schedule.config.prediction == "sample"
    assert story_loss(lambda x, t: x0, system.schedule, latents, noise, t).tolist() == [0, 0]
    off = torch.arange(6.0).reshape(6, 1, 1, 1)  # picture n is wrong by n
    loss = story_loss(lambda x, t: x0 + off, system.schedule, latents, noise, t)
    weight = system.schedule.weight(t)
    torch.testing.assert_close(loss, weight * torch.tensor([5 / 3, 50 / 3]), rtol=1e-5, atol=0)


def test_caption_drop_takes_whole_stories():
    keys, empty = torch.arange(2000), torch.zeros(3, dtype=torch.int64)
    tokens = torch.ones(2000, 4, 3, dtype=torch.int64)
    dropped = drop_captions(tokens, empty, keys, 0.1)
    gone = (dropped == 0).flatten(1)
    assert torch.equal(gone.any(dim=1), gone.all(dim=1))
    assert gone.all(dim=1).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(drop_captions(tokens, empty, keys, 0.0), tokens)


def test_objective_is_a_mean_over_samples_and_reaches_every_weight(system, make_batch):
    batch = make_batch(prepare, system.config)
    whole = system.objective(batch).loss
    whole.backward()
    assert not [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
    parts = [system.objective({name: x[n : n + 1] for name, x in batch.items()}).loss for n in range(4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-5, atol=1e-6)


def test_pictures_share_only_when_asked(system, make_batch):
    """Sampling without sharing gives a picture that does not depend on the other pictures of its story."""
    batch = make_batch(prepare, system.config)
    keys, tokens = batch["key"][:1], batch["tokens"][:1]
    changed = tokens.clone()
    changed[0, 1] = system.empty_tokens
    difference = {}
    for share in (False, True):
        one, two = (system.draw(keys, words, share)[0, 0] for words in (tokens, changed))
        difference[share] = (one - two).abs().max().item()
    assert difference[False] < 1e-5
    assert difference[True] > 1e-4


def test_captions_are_used_after_seconds_of_training(system, make_batch):
    batch = make_batch(prepare, system.config, repeat=2)
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    for step in range(60):
        batch["key"] = torch.arange(8) + 1000 * step
        system.objective(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    batch["key"] = torch.arange(8) + 777_777
    with torch.no_grad():
        values = system.eval().evaluate(batch)
    assert values["loss"].shape == (8,)
    assert values["loss_shuffled"].mean() > 1.5 * values["loss"].mean()


def test_config_errors(make_config):
    with pytest.raises(ConfigError, match="size=18 must be a multiple of codec.factor x UNet stride = 4"):
        make_config("story_image", "system.size=18")
    with pytest.raises(ConfigError, match="unet.channels has 2 levels"):
        make_config("story_image", "system.unet.transformers=[true]")


@pytest.mark.parametrize("name", ["image", "motion"])
def test_data_workers_need_no_torch(name):
    code = f"import sys, vstrain.systems.story.{name}.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mixed_precision_stays_near_full(system, make_batch):
    batch = make_batch(prepare, system.config)
    full = system.objective(batch).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = system.objective(batch).loss
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(full.item(), rel=0.02)
