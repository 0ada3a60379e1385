"""What the common suite must know about SimCTG."""

from __future__ import annotations

from typing import Any

import torch
from helpers.testers import ModelTester, Refusal
from helpers.text_models import DECODERS
from transformers import AutoConfig, AutoModelForCausalLM


class SimCTGTester(ModelTester):
    """SimCTG on three language models: learned positions and tied matrices, rotary positions, an untied output matrix."""

    model_type = "simctg"
    lora = True
    backbone_auto_class = AutoModelForCausalLM
    refusals = (
        Refusal({"margin": 1.5}, "margin", "from -1 to 1"),
        Refusal({"contrastive_weight": -0.5}, "contrastive_weight", "0 or more"),
        Refusal(
            {"backbone_config": {"model_type": "resnet"}}, "backbone_config.model_type", "a causal language model"
        ),
    )

    def configs(self) -> dict[str, Any]:
        # dropout would make two passes differ
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        options = {
            "gpt2": {**DECODERS["gpt2"], **still, "initializer_range": 0.2},
            "llama": {**DECODERS["llama"], "initializer_range": 0.2},
            "opt": {**DECODERS["opt"], "dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.2},
        }
        return {
            name: self.spec.config_class()(
                backbone_config=AutoConfig.for_model(name, **fields), margin=0.4, contrastive_weight=0.7
            )
            for name, fields in options.items()
        }

    def single_inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, config.get_text_config().vocab_size, (batch, 7), generator=generator)
        # texts of different length, padded on the right
        mask = (torch.arange(7) < torch.arange(batch)[:, None] % 3 + 5).long()
        return {"input_ids": ids * mask, "attention_mask": mask}

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        single = self.single_inputs(config, batch, seed)
        return {**single, "labels": single["input_ids"].masked_fill(single["attention_mask"] == 0, -100)}

    def _tensors(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        vocabulary = config.get_text_config().vocab_size
        return {"logits": (batch, 7, vocabulary), "last_hidden_state": (batch, 7, self._size(config))}

    def _size(self, config: Any) -> int:
        text = config.get_text_config()
        # OPT may project its states down before the output matrix
        return getattr(text, "word_embed_proj_dim", text.hidden_size)

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return self._tensors(config, batch)

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"loss": (), "mle_loss": (), "contrastive_loss": (), **self._tensors(config, batch)}

    def readout_sizes(self, config: Any) -> dict[str, int]:
        return {"mean": self._size(config), "last": self._size(config)}

    def backbone_features(self, backbone: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return backbone(**inputs).logits

    def backbone_fields(self, config: Any) -> dict[str, Any]:
        return {"margin": config.margin}


TESTERS = (SimCTGTester,)
