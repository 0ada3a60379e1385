"""Caches whose layers do not all hold the text, or are of several kinds."""

from __future__ import annotations

import pytest
import torch
from helpers.text_models import padded, prompts, tiny_model
from transformers import AutoConfig, AutoModelForImageTextToText

from hf_contrastive import contrastive_search


OPTIONS = {
    "custom_generate": contrastive_search,
    "penalty_alpha": 0.6,
    "top_k": 4,
    "max_new_tokens": 8,
    "min_new_tokens": 8,
}
TEXT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cross_attention_layers": [1],
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_global_layers": 1,
    "attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "vision_output_dim": 48,
    "intermediate_layers_indices": [0],
    "max_num_tiles": 1,
    "supported_aspect_ratios": [[1, 1]],
}


def model_with_picture(length: int):
    """Llama 3.2 Vision keeps the picture's keys (5) in layers of its cache that never grow."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("mllama", vision_config=VISION, text_config=TEXT, image_token_index=60)
    model = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
            elif "gate" in name:
                parameter.fill_(0.7)
    ids = torch.tensor([[3, 4, 5, 9, 8, 7, 11, 12]])[:, :length]
    return model, {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 1, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        "aspect_ratio_ids": torch.tensor([[1]]),
        "aspect_ratio_mask": torch.tensor([[[1]]]),
        "cross_attention_mask": torch.ones(1, length, 1, 1, dtype=torch.long),
    }


# with 5 tokens the text is as long as the picture
@pytest.mark.parametrize("length", [8, 5])
@pytest.mark.parametrize("path", ["auto", "sequential"])
def test_layers_that_hold_a_picture(path, length):
    model, inputs = model_with_picture(length)
    expected = model.generate(**inputs, candidate_path="batched", **OPTIONS)
    model, inputs = model_with_picture(length)  # nothing is remembered of this one
    assert torch.equal(model.generate(**inputs, candidate_path=path, **OPTIONS), expected)


@pytest.mark.parametrize("path", ["auto", "batched", "sequential"])
def test_returned_cache_keeps_the_picture(path):
    model, inputs = model_with_picture(8)
    output = model.generate(**inputs, candidate_path=path, return_dict_in_generate=True, **OPTIONS)
    text, picture = output.past_key_values.layers
    assert picture.keys.shape[2] == 5
    assert text.keys.shape[2] == output.sequences.shape[1] - 1


@pytest.mark.parametrize("path", ["auto", "batched"])
def test_static_cache_with_window_and_full_layers(path):
    """`generate` makes room for one position less than the look-ahead of the last token needs."""
    model = tiny_model("gemma2")
    inputs = padded(model, prompts(9, 4))
    expected = model.generate(**inputs, candidate_path="batched", **OPTIONS)
    found = model.generate(**inputs, candidate_path=path, cache_implementation="static", **OPTIONS)
    assert torch.equal(found, expected)
