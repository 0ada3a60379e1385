"""Products of a few rows: the same results, and a model that is afterwards what it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.text_models import padded, prompts, tiny_model
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from hf_contrastive import contrastive_search
from hf_contrastive.generation import search
from hf_contrastive.generation.few_rows import column_layout, few_rows, swappable_layers


needs_mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="products are swapped with MKL only")


@needs_mkl
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 12), (1, 1, 12), (1, 4, 12), (2, 4, 12), (9, 12), (0, 12)])
@torch.no_grad()
def test_results_are_those_of_the_layer(shape, bias):
    layer, inputs = nn.Linear(12, 20, bias=bias), torch.randn(shape)
    expected = layer(inputs)
    with few_rows(swappable_layers(layer)):
        found = layer(inputs)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()


@needs_mkl
def test_a_model_is_restored_even_after_an_error():
    model = tiny_model("llama")
    before = [dict(vars(module)) for module in model.modules()]
    layers = swappable_layers(model)
    assert len(layers) > 6
    with few_rows(layers):
        assert all("forward" in vars(layer) for layer in layers)
    with pytest.raises(IndexError), few_rows(layers):
        model(torch.tensor([[1000]]))  # not in the vocabulary
    assert [dict(vars(module)) for module in model.modules()] == before


@needs_mkl
def test_layers_that_are_not_plain_are_left_alone():
    class Own(nn.Linear):
        pass

    hooked = nn.Linear(4, 4)
    hooked.forward = lambda input: input
    model = nn.ModuleList([Own(4, 4), nn.Linear(4, 4).double(), nn.Linear(4, 4, device="meta"), hooked])
    assert swappable_layers(model) == []
    plain = nn.Linear(4, 4)
    assert swappable_layers(nn.ModuleList([*model, plain])) == [plain]


@needs_mkl
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 8, 9])
@pytest.mark.parametrize("size", [16, 20])  # in equal parts, and not
@torch.no_grad()
def test_columns_are_shared_out(rows, size):
    layer, inputs = nn.Linear(12, size), torch.randn(rows, 12)
    expected = layer(inputs)
    with few_rows(swappable_layers(layer)):
        found = layer(inputs)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()


@needs_mkl
@pytest.mark.parametrize("rows", [1, 3, 8, 20])
@torch.no_grad()
def test_layers_of_gpt2_give_the_same(rows):
    layer, inputs = Conv1D(16, 12), torch.randn(1, rows, 12)
    expected = layer(inputs)
    assert swappable_layers(layer) == []  # not written column by column
    with column_layout(layer):
        layers = swappable_layers(layer)
        assert layers == [layer]
        with few_rows(layers):
            found = layer(inputs)
        torch.testing.assert_close(layer(inputs), expected)
    torch.testing.assert_close(found, expected)


@needs_mkl
def test_column_layout_leaves_the_weights_as_they_were():
    model = tiny_model("gpt2")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    identities = [id(weight) for weight in model.parameters()]
    inside = model.transformer.h[0].mlp.c_fc.weight
    with column_layout(model):
        assert not inside.is_contiguous()
        assert torch.equal(inside, before["transformer.h.0.mlp.c_fc.weight"])
    with pytest.raises(IndexError), column_layout(model):
        model(torch.tensor([[1000]]))  # not in the vocabulary
    assert [id(weight) for weight in model.parameters()] == identities
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.is_contiguous()


@needs_mkl
def test_column_layout_leaves_weights_that_others_see_alone():
    layers = nn.ModuleList([Conv1D(4, 6), Conv1D(4, 6), Conv1D(4, 6)])
    whole = torch.randn(48)
    layers[0].weight.data = whole[:24].view(6, 4)  # as FSDP has them
    layers[1].weight.data.share_memory_()
    with column_layout(layers):
        assert layers[0].weight.is_contiguous()
        assert layers[1].weight.is_contiguous()
        assert not layers[2].weight.is_contiguous()
    assert layers[0].weight.data_ptr() == whole.data_ptr()


@needs_mkl
def test_a_long_generation_writes_the_columns_and_restores_them():
    model = tiny_model("gpt2")
    seen = []
    weight = model.transformer.h[0].attn.c_attn.weight
    model.register_forward_pre_hook(lambda *_: seen.append(weight.is_contiguous()))
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3)}
    options = {"custom_generate": contrastive_search, "penalty_alpha": 0.6, "top_k": 4, "eos_token_id": None}
    long = model.generate(**inputs, max_new_tokens=40, **options)
    assert not any(seen)
    seen.clear()
    short = model.generate(**inputs, max_new_tokens=8, **options)
    assert all(seen)
    assert torch.equal(long[:, :11], short)
    assert weight.is_contiguous()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_packed_attention_is_attention(kv_heads):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 3, 8, generator=generator)
    key, value = (torch.randn(2, kv_heads, 7, 8, generator=generator) for _ in range(2))
    mask = torch.zeros(2, 1, 3, 7)
    mask[:, :, 0, 5:] = mask[1, :, 2, :3] = torch.finfo(torch.float32).min
    module = nn.Module()
    module.num_key_value_groups = 4 // kv_heads
    expected, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, scaling=0.3)
    found, _ = ALL_ATTENTION_FUNCTIONS["sdpa_packed_queries"](module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, expected)
    # without a mask of its own, and with arguments it does not know, it is the ordinary one
    expected, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, scaling=0.3)
    found, _ = ALL_ATTENTION_FUNCTIONS["sdpa_packed_queries"](module, query, key, value, None, scaling=0.3)
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="softcap"):
        ALL_ATTENTION_FUNCTIONS["sdpa_packed_queries"](module, query, key, value, mask, softcap=3.0)


def test_threads_may_share_a_model():
    model = tiny_model("llama")
    assert model.config._attn_implementation == "sdpa"
    rows = [prompts(3, 7, seed=seed) for seed in range(6)]
    options = {"custom_generate": contrastive_search, "penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 12}
    options |= {"min_new_tokens": 12}
    expected = [model.generate(**padded(model, row), **options) for row in rows]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda row: model.generate(**padded(model, row), **options), rows))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert model.config._attn_implementation == "sdpa"


@needs_mkl
def test_a_model_can_be_trained_after_inference_mode():
    model = tiny_model("gpt2")
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        model.generate(
            ids, attention_mask=torch.ones_like(ids), custom_generate=contrastive_search, penalty_alpha=0.6, top_k=4,
            max_new_tokens=40,
        )  # fmt: skip
    model.train()
    model(ids, labels=ids).loss.backward()
    assert model.transformer.h[0].mlp.c_fc.weight.grad is not None


def test_room_is_not_made_for_a_limit_that_is_not_reached():
    model = tiny_model("llama")
    ids = torch.tensor([[5, 6, 7]])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), custom_generate=contrastive_search, penalty_alpha=0.6, top_k=4,
        max_new_tokens=5000, max_time=0.0, return_dict_in_generate=True,
    )  # fmt: skip
    assert output.sequences.shape[1] < 10
    layer = output.past_key_values.layers[0]
    assert layer.keys.untyped_storage().nbytes() < 300 * layer.keys[:, :, :1].numel() * layer.keys.element_size()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_that_the_model_changes_are_its_own(dtype):
    """gemma2 caps its logits, which hardly shows where they are small."""
    model = tiny_model("gemma2").to(dtype)
    ids = torch.tensor([[5, 6, 7]])
    model.generate(
        ids, attention_mask=torch.ones_like(ids), custom_generate=contrastive_search, penalty_alpha=0.6, top_k=4,
        max_new_tokens=4, candidate_path="shared",
    )  # fmt: skip
    assert [with_body for _, with_body, _ in search._verified[model].values()] == [False]
