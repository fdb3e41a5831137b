import pytest
import torch
from diffusers import AutoencoderKL
from pydantic import ValidationError

from vstrain.diffusion.codec import KLCodec, build_codec
from vstrain.diffusion.config import Codec

KL = {"name": "autoencoder_kl", "path": None, "factor": 8, "channels": 4, "scale": 0.18215}


def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("name", "factor"), [("identity", 1), ("space_to_depth", 2), ("space_to_depth", 4)])
def test_exact_codecs_come_back(name, factor):
    codec = build_codec(Codec(name=name, path=None, factor=factor, channels=3 * factor**2, scale=2.0))
    latents = codec.encode(pixels())
    assert latents.shape == (2, 3 * factor**2, 8 // factor, 12 // factor)
    assert torch.equal(codec.decode(latents), pixels())
    block = pixels()[1, 2, factor : 2 * factor, :factor].flatten()
    torch.testing.assert_close(latents[1, 2 * factor**2 :, 1, 0], 2.0 * block)


def test_autoencoder_has_the_published_size_on_meta():
    with torch.device("meta"):
        codec = build_codec(Codec(**KL))
    assert sum(p.numel() for p in codec.parameters()) == 83_653_863
    assert not any(p.requires_grad for p in codec.parameters())


def test_autoencoder_without_weights_says_what_to_do():
    with pytest.raises(ValueError, match="codec.path=None.*space_to_depth"):
        build_codec(Codec(**KL))


def test_autoencoder_reads_its_folder_and_draws_by_key(tmp_path):
    torch.manual_seed(0)
    shape = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4}
    AutoencoderKL(**shape).save_pretrained(tmp_path)
    codec = build_codec(Codec(**{**KL, "path": str(tmp_path)}))
    assert isinstance(codec.train(), KLCodec)
    assert not codec.autoencoder.training
    mean = codec.encode(pixels())
    drawn = codec.encode(pixels(), torch.tensor([3, 4]))
    assert torch.equal(codec.encode(pixels().flip(0), torch.tensor([4, 3])).flip(0), drawn)
    posterior = codec.autoencoder.encode(pixels()).latent_dist
    z = (drawn - mean) / (posterior.std * 0.18215)
    assert abs(z.mean()) < 0.1
    assert abs(z.std() - 1) < 0.1
    torch.testing.assert_close(mean, posterior.mean * 0.18215)


def test_codec_shape_must_fit():
    with pytest.raises(ValidationError, match="space_to_depth has factor 4 and 48 channels"):
        Codec(name="space_to_depth", path=None, factor=4, channels=12, scale=1.0)
