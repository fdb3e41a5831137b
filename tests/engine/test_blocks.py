"""Activation checkpointing, compilation, precision and the fused optimiser on the shipped systems."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vstrain.config.command import Command
from vstrain.config.problems import InputError
from vstrain.config.schema import TrainConfig
from vstrain.data.keyed import rng
from vstrain.engine import blocks, build, precision
from vstrain.nn import attention
from vstrain.verbs import embedded

EXPERIMENTS = ("depth_teacher", "story_image", "story_motion", "multiview_boost", "drag_editor")


@pytest.fixture(scope="module", params=EXPERIMENTS)
def case(request):
    """(configuration, the first batch) of an experiment at demo scale."""
    config = Command("train", TrainConfig, [f"experiment={request.param}"]).config()
    prepare = build.part(config.system, "prepare").prepare
    sample = embedded.one_sample(config)
    items = [prepare(sample, config.system, rng(n, "test"), True) for n in range(2)]
    batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
    return config, batch | {"key": torch.arange(2), "weight": torch.ones(2)}


def built(config: TrainConfig, words: dict, optim: dict | None = None):
    trainer = config.trainer.model_copy(update=words)
    torch.manual_seed(0)
    changes = {"trainer": trainer} | ({"optim": config.optim.model_copy(update=optim)} if optim else {})
    system = build.build_system(config.model_copy(update=changes))
    system.configure_model()
    for module in system.modules():  # dropout, so that draws must repeat
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    return system.train()


def step(system, batch) -> tuple[torch.Tensor, dict, int]:
    """(loss, gradients, bytes that autograd keeps for the backward pass)."""
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in system.parameters()}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = system.objective(batch).loss
    loss.backward()
    gradients = {name: p.grad for name, p in system.named_parameters() if p.requires_grad}
    return loss.detach(), gradients, sum(size for pointer, size in kept.items() if pointer not in weights)


def test_checkpointing_saves_memory_and_changes_no_gradient(case):
    config, batch = case
    memory = {}
    for mode in ("none", "selective", "full"):
        system = built(config, {"checkpointing": mode})
        loss, gradients, memory[mode] = step(system, batch)
        if mode == "none":
            expected, names = (loss, gradients), list(system.state_dict())
        assert list(system.state_dict()) == names
        assert torch.equal(loss, expected[0])
        for name, gradient in gradients.items():
            assert gradient is not None, name
            torch.testing.assert_close(gradient, expected[1][name], rtol=1e-4, atol=1e-7, msg=name)
    assert memory["full"] < 0.8 * memory["none"], memory


def test_attention_reaches_every_system(case, monkeypatch):
    """The formula instead of torch's kernel: another way to the same loss, and what cannot run here is said."""
    config, batch = case
    choices = [{"attention": "math"}, {"attention": "sdpa"}]
    name = f"experiment={config.run.experiment}"
    losses = []
    for choice in choices:
        words = [name, *(f"{key}={value}" for key, value in choice.items())]
        calls, formula = [], attention._math
        monkeypatch.setattr(attention, "_math", lambda *x, calls=calls, formula=formula: calls.append(1) or formula(*x))
        system = built(Command("train", TrainConfig, words).config(), {})
        losses.append(step(system, batch)[0])
        monkeypatch.setattr(attention, "_math", formula)
        assert bool(calls) == (choice["attention"] == "math")
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="attention=flex: it trains on a CUDA device and this machine has none"):
            build.build_system(config.model_copy(update={"attention": "flex"}))


def test_bf16_weights_leave_buffers_and_islands_alone(case):
    config, batch = case
    system, plain = built(config, {"precision": "bf16-true"}), built(config, {})
    assert {p.dtype for p in system.parameters()} == {torch.bfloat16}
    for (name, buffer), (_, same) in zip(system.named_buffers(), plain.named_buffers(), strict=True):
        assert buffer.dtype == same.dtype and torch.equal(buffer, same), name
    with precision.BFloat16("cpu").train_step_context():
        loss, gradients, _ = step(system, batch)
    assert loss.dtype == torch.float32 and {g.dtype for g in gradients.values()} == {torch.bfloat16}
    torch.testing.assert_close(loss, step(plain, batch)[0], rtol=0.05, atol=0.02)
    with precision.BFloat16("cpu").val_step_context(), torch.no_grad():
        assert all(torch.isfinite(value).all() for value in system.eval().evaluate(batch).values())


def test_fused_updates_equal_plain_ones():
    config = Command("train", TrainConfig, ["experiment=depth_teacher"]).config()
    found = []
    for fused in (False, True, "auto"):
        system = built(config, {}, {"fused": fused})
        optimizer = system.configure_optimizers()
        assert bool(optimizer.defaults["fused"]) == (fused is True)
        for parameter in system.parameters():
            parameter.grad = torch.full_like(parameter, 0.1) if parameter.requires_grad else None
        optimizer.step()
        found.append(torch.cat([p.detach().flatten() for p in system.parameters()]))
    torch.testing.assert_close(found[1], found[0])
    assert torch.equal(found[2], found[0])


class Small(torch.nn.Module):
    """Two blocks of one class and different widths."""

    config = SimpleNamespace(module="small")
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        linear, gelu = torch.nn.Linear, torch.nn.GELU
        self.parts = torch.nn.Sequential(*(torch.nn.Sequential(linear(n, n + 1), gelu()) for n in (4, 5)))

    def blocks(self):
        return list(self.parts)


def trainer(**words):
    return Command("train", TrainConfig, ["experiment=depth_teacher"]).config().trainer.model_copy(update=words)


def test_compiled_blocks_equal_eager_ones_under_the_same_names():
    x, found = torch.randn(3, 4), []
    for words in ({}, {"compile": True}, {"compile": True, "checkpointing": "selective"}):
        system = Small()
        blocks.apply(system, trainer(**words))
        out = system.parts(x)
        out.square().sum().backward()
        found.append((out, system.parts[0][0].weight.grad))
        assert list(system.state_dict()) == list(Small().state_dict())
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=1e-5, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # compiled, and not fallen back to eager


def test_what_cannot_be_compiled_is_said_at_the_start(monkeypatch):
    from torch._inductor import cpp_builder, exc

    def missing():
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    with pytest.raises(InputError, match="a C.. compiler, and none is found"):
        blocks.apply(Small(), trainer(compile=True))
    monkeypatch.setattr(Small, "blocks", lambda self: [])
    with pytest.raises(InputError, match="trainer.checkpointing: system small names no blocks"):
        blocks.apply(Small(), trainer(checkpointing="full"))
