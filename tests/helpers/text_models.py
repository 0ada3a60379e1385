"""Tiny language models of many architectures, with weights large enough that their choices differ."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM


_SPECIAL = {"vocab_size": 61, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = {
    **_SPECIAL,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
_GPT2 = {**_SPECIAL, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_BART = {
    **_SPECIAL,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": None},
    "mistral_window": {**_LLAMA, "sliding_window": 6},
    "opt": {**_LLAMA, "ffn_dim": 48, "word_embed_proj_dim": 16},
    "gpt_neox": _LLAMA,
    "gptj": {**_GPT2, "rotary_dim": 4},
    "gemma2": _LLAMA,
    "phi": _LLAMA,
    "cohere": _LLAMA,
    "bloom": {**_SPECIAL, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "jamba": _LLAMA,
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": {
        **_SPECIAL,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    },
    "bart": _BART,
}


@lru_cache
def _state(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return _build(name, "eager").state_dict()


def _build(name: str, attn_implementation: str | None) -> Any:
    settings = {**DECODERS, **ENCODER_DECODERS}[name]
    config = AutoConfig.for_model(name.removesuffix("_window"), **settings)
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    model = auto_class.from_config(config, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


def tiny_model(name: str, attn_implementation: str | None = None) -> Any:
    """A new model of that architecture, the same weights every time, in eval mode."""
    model = _build(name, attn_implementation)
    model.load_state_dict(_state(name))
    return model


def prompts(*lengths: int, seed: int = 1) -> list[torch.Tensor]:
    """Random prompts of these lengths, without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 61, (length,), generator=generator) for length in lengths]


def padded(model: Any, rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch: padded on the left for decoders, on the right for encoders."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if model.config.is_encoder_decoder else slice(longest - len(row), longest)
        ids[number, place], mask[number, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def letter_tokenizer() -> Any:
    """A tokenizer for the tiny models: one token for each of 58 characters, after the three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?-:"
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
