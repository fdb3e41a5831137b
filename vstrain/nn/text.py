"""Text encoders: token ids to the states that cross-attention reads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from vstrain.config.problems import InputError
from vstrain.nn.config import Text
from vstrain.nn.tokens import BEGIN, PAD


class TextEncoder(nn.Module):
    """CLIP's text transformer. `tiny`: from scratch, trained along, on hashed words. `clip`: weights from
    config.path, frozen.

    forward: ids (B, length) int64 -> (B, length, width).
    """

    def __init__(self, config: Text):
        super().__init__()
        self.frozen = config.name == "clip"
        shape = CLIPTextConfig(
            vocab_size=config.vocab,
            max_position_embeddings=config.length,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            projection_dim=config.width,
            **({"bos_token_id": BEGIN, "eos_token_id": PAD, "pad_token_id": PAD} if not self.frozen else {}),
        )
        if config.name == "tiny" or torch.get_default_device().type == "meta":
            self.model = CLIPTextModel(shape)
        elif config.path is None or not (Path(config.path) / "config.json").is_file():
            raise InputError(
                f"text.path={config.path}: expected a folder with a CLIP text model"
                " (transformers layout); set it, or use text.name=tiny"
            )
        else:
            self.model = CLIPTextModel.from_pretrained(config.path, local_files_only=True)
        self.requires_grad_(not self.frozen)

    def train(self, mode: bool = True):
        return super().train(mode and not self.frozen)

    def forward(self, ids: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.model(input_ids=ids).last_hidden_state
