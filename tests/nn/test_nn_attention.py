import importlib.util

import pytest
import torch

from vstrain.config.problems import InputError
from vstrain.nn.attention import attention, require


def qkv(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, 3, n, 4, generator=generator, dtype=dtype) for n in (5, 7, 7))


def naive(q, k, v, mask=None):
    out = torch.zeros_like(q)
    for b in range(2):
        for h in range(3):
            for i in range(5):
                keys = [j for j in range(7) if mask is None or mask[b, 0, i, j]]
                scores = torch.stack([(q[b, h, i] * k[b, h, j]).sum() / 2.0 for j in keys]).exp()
                out[b, h, i] = sum(s * v[b, h, j] for s, j in zip(scores / scores.sum(), keys, strict=True))
    return out


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("impl", ["sdpa", "math", "flex"])
@pytest.mark.parametrize("masked", [False, True])
def test_every_kernel_is_the_formula(impl, masked):
    q, k, v = qkv()
    mask = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    if masked:
        mask[..., 0] = True
    torch.testing.assert_close(attention(q, k, v, mask, impl), naive(q, k, v, mask), rtol=1e-6, atol=1e-6)


def test_unknown_kernel():
    q, k, v = qkv()
    with pytest.raises(ValueError, match="expected sdpa"):
        attention(q, k, v, impl="fast")


def test_require_speaks_before_training():
    require("sdpa")
    require("math")
    if importlib.util.find_spec("xformers") is None:
        with pytest.raises(InputError, match="xformers.*not installed.*sdpa"):
            require("xformers")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="flex.*CUDA.*sdpa"):
            require("flex")
