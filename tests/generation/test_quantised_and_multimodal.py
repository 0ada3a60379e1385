"""Contrastive search on quantised weights, half precision, and on models that see pictures.

All ways to compute the candidates must give the tokens of a decoding that has no cache at all: every candidate of every
step is encoded with the whole sequence, pictures included.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from helpers.text_models import padded, prompts, tiny_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, BitNetQuantConfig

from hf_contrastive import contrastive_search
from hf_contrastive.generation import rank_candidates, search


STEPS = 8
PATHS = ("auto", "shared", "batched", "sequential")
# of a picture, and the end of text: never generated here
SPECIAL = [2, 57, 58, 59, 60]
IMAGE = 60


def decode(model, inputs, path="auto", **options):
    return model.generate(
        **inputs,
        custom_generate=contrastive_search,
        candidate_path=path,
        penalty_alpha=0.6,
        top_k=4,
        max_new_tokens=STEPS,
        suppress_tokens=SPECIAL,
        **options,
    )


@torch.no_grad()
def without_cache(model, inputs, alpha=0.6, k=4) -> torch.Tensor:
    """One prompt `[1, length]`: the definition, with k + 1 passes over the whole sequence for each token."""

    def followed_by(token: int) -> dict[str, torch.Tensor]:
        ids = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
        longer = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for name in ("token_type_ids", "mm_token_type_ids"):  # what is generated is text
            if name in inputs:
                longer[name] = nn.functional.pad(inputs[name], (0, 1))
        return longer

    def read(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = model(**inputs, use_cache=False, output_hidden_states=True)
        return outputs.logits[0, -1].double(), outputs.hidden_states[-1][0].double()

    for _ in range(STEPS):
        logits, _ = read(inputs)
        logits[SPECIAL] = -torch.inf
        probabilities, tokens = logits.softmax(-1).topk(k)
        scores = []
        for probability, token in zip(probabilities, tokens, strict=True):
            _, hidden = read(followed_by(int(token)))
            likeness = torch.cosine_similarity(hidden[:-1], hidden[-1:], dim=-1).max()
            scores.append((1 - alpha) * probability - alpha * likeness)
        inputs = followed_by(int(tokens[torch.stack(scores).argmax()]))
    return inputs["input_ids"]


# ---- quantised weights


class Int8Linear(nn.Module):
    """Weights of 8 bits with one scale for each output, activations as they are: what weight-only libraries do."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(states, self.weight.to(states.dtype) * self.scale, self.bias)


def replace_linear(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            replace_linear(child)


def torch_dynamic(model, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch names its successor, which is another package
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=dtype)


def quantised(name: str, kind: str) -> Any:
    model = tiny_model(name)
    if kind == "float16":
        return torch_dynamic(model, torch.float16)
    replace_linear(model)
    return model


@pytest.mark.parametrize("kind", ["int8", "float16"])
@pytest.mark.parametrize("name", ["llama", "opt", "mistral_window", "t5"])
def test_quantised_weights(name, kind):
    model, rows = quantised(name, kind), prompts(9, 4, 6)
    assert not any(isinstance(module, nn.Linear) and type(module) is nn.Linear for module in model.modules())
    together = decode(model, padded(model, rows))
    for path in PATHS:
        if path == "shared" and name in ("mistral_window", "t5"):
            continue  # not possible for them, quantised or not
        assert torch.equal(decode(model, padded(model, rows), path), together), path
    alone = torch.cat([decode(model, padded(model, [row]))[:, -STEPS:] for row in rows])
    assert torch.equal(together[:, -STEPS:], alone)
    if name != "t5":
        found = torch.cat([without_cache(model, padded(model, [row]))[:, -STEPS:] for row in rows])
        assert torch.equal(found, alone)


def test_quantised_weights_are_really_others():
    """Otherwise the test above would say nothing."""
    inputs = padded(tiny_model("llama"), prompts(9))
    logits = tiny_model("llama")(**inputs).logits
    for kind in ("int8", "float16"):
        assert not torch.allclose(quantised("llama", kind)(**inputs).logits, logits, atol=1e-4), kind


@pytest.fixture
def no_compiler():
    """transformers compiles these layers; the result is the same without, and seconds earlier."""
    with torch.compiler.set_stance("force_eager"):
        yield


def test_a_checkpoint_that_transformers_quantises(tmp_path, no_compiler):
    """BitNet: weights of 1.58 bits, activations of 8 bits with a scale for each token; loaded as its users load it."""
    original = tiny_model("llama")
    settings = BitNetQuantConfig(linear_class="autobitlinear", quantization_mode="online")
    original.config.quantization_config = settings.to_dict()
    original.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert {type(module).__name__ for module in model.modules()} >= {"AutoBitLinear"}
    rows = prompts(9, 4)
    together = decode(model, padded(model, rows))
    for path in PATHS:
        assert torch.equal(decode(model, padded(model, rows), path), together), path
    for row, found in zip(rows, together, strict=True):
        assert torch.equal(without_cache(model, padded(model, [row]))[0, -STEPS:], found[-STEPS:])


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_one_scale_for_all_activations_is_noticed(name):
    """torch's dynamic int8: what stands beside a token changes its state, in any decoding. It must not go unnoticed."""
    model = torch_dynamic(tiny_model(name), torch.qint8)
    inputs = padded(model, prompts(9, 4))
    assert torch.equal(decode(model, inputs, "auto"), decode(model, inputs, "batched"))
    with pytest.raises(ValueError, match=r"'shared' is not possible: .*depends on the candidates beside it"):
        decode(model, inputs, "shared")
    assert decode(model, inputs, "sequential").shape == (2, 9 + STEPS)


# ---- half precision, caches


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_in_half_precision_the_ways_differ_by_rounding_only(name, dtype):
    """Up to the first choice that is nearer than rounding, tokens and scores of all ways are the same."""
    model = tiny_model(name).to(dtype)
    inputs, limit = padded(model, prompts(6)), 0.03
    traces: dict[str, list] = {}
    for path in ("auto", "batched", "sequential"):
        decode(model, inputs, path, trace=traces.setdefault(path, []))
    reference, compared = traces["batched"], 0
    for path in ("auto", "sequential"):
        for expected, found in zip(reference, traces[path], strict=True):
            scores = expected["contrastive_score"][0].sort(descending=True).values
            ranks = expected["top_k_probs"][0]
            if not torch.equal(expected["top_k_ids"], found["top_k_ids"]):
                assert (ranks[:-1] - ranks[1:]).min() < limit
                break
            torch.testing.assert_close(found["contrastive_score"], expected["contrastive_score"], rtol=0, atol=limit)
            if not torch.equal(expected["selected_idx"], found["selected_idx"]):
                assert scores[0] - scores[1] < 2 * limit
                break
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cosines_of_half_precision_are_taken_in_float32(dtype):
    """The length of these states is no number of float16, and a sum of bfloat16 loses what differs."""
    large = torch.full((1, 2, 64), 6e4, dtype=dtype)
    _, penalty, score = rank_candidates(large, large, torch.tensor([[0.6, 0.4]]), alpha=0.5)
    assert penalty.dtype == score.dtype == torch.float32
    torch.testing.assert_close(penalty, torch.ones(1, 2), rtol=0, atol=1e-5)
    states = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.cosine_similarity(states[:, :1].double(), states[:, 1:].double(), dim=-1).amax(-1)
    found = rank_candidates(states[:, 1:], states[:, :1], torch.ones(3, 1), alpha=0.5)[1][:, 0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", ["auto", "batched", "sequential"])
@pytest.mark.parametrize("name", ["mistral_window", "t5"])
def test_static_cache(name, path):
    """The window of 6 positions closes during the prompt; a cache of fixed size holds no more than the window."""
    model = tiny_model(name)
    inputs = padded(model, prompts(9, 4))
    if name == "mistral_window" and path == "sequential":  # what left the window cannot come back
        with pytest.raises(ValueError, match="StaticCache of MistralForCausalLM cannot do; leave `low_memory` out"):
            decode(model, inputs, path, cache_implementation="static")
        return
    expected = decode(model, inputs, "batched")
    assert torch.equal(decode(model, inputs, path, cache_implementation="static"), expected)


@pytest.mark.parametrize("path", ["auto", "batched", "sequential"])
def test_sliding_window_against_the_definition(path):
    model, row = tiny_model("mistral_window"), prompts(9)
    inputs = padded(model, row)
    assert torch.equal(decode(model, inputs, path), without_cache(model, inputs))


# ---- pictures in the prompt

TEXT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
SEEING: dict[str, dict[str, Any]] = {
    "llava": {
        "vision_config": {"model_type": "clip_vision_model", **VISION},
        "text_config": {"model_type": "llama", **TEXT},
        "image_token_index": IMAGE,
        "image_seq_length": 4,
        "vision_feature_layer": -1,
    },
    # positions of three dimensions: a picture advances them by its side, not by its tokens
    "qwen2_vl": {
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "in_channels": 3,
        },
        "text_config": {
            **TEXT,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
        },
        "image_token_id": IMAGE,
        "video_token_id": 59,
        "vision_start_token_id": 58,
        "vision_end_token_id": 57,
    },
    # the tokens of a picture see each other in both directions; token types say which they are
    "gemma3": {
        "vision_config": {"model_type": "siglip_vision_model", **VISION},
        "text_config": {**TEXT, "sliding_window": 64, "query_pre_attn_scalar": 8},
        "image_token_index": IMAGE,
        "boi_token_index": 58,
        "eoi_token_index": 57,
        "mm_tokens_per_image": 4,
    },
}
IMAGE_TOKENS = {"llava": 4, "qwen2_vl": 4, "gemma3": 4}


def seeing_model(name: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(name, **SEEING[name])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


def with_pictures(name: str, *lengths: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Prompts of two tokens, a picture and `lengths` tokens; padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        before, after = (torch.randint(3, 57, (number,), generator=generator) for number in (2, length))
        rows.append(torch.cat([before, torch.full((IMAGE_TOKENS[name],), IMAGE), after]))
    longest = max(map(len, rows))
    ids = torch.stack([nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    mask = torch.stack([nn.functional.pad(torch.ones_like(row), (longest - len(row), 0)) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask}
    types = (ids == IMAGE).long()
    if name == "qwen2_vl":  # 4 x 4 patches of 2 frames, of which 2 x 2 become one token
        inputs["pixel_values"] = torch.randn(16 * len(rows), 3 * 2 * 4 * 4, generator=generator)
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]]).repeat(len(rows), 1)
        inputs["mm_token_type_ids"] = types
    else:
        inputs["pixel_values"] = torch.randn(len(rows), 3, 8, 8, generator=generator)
    if name == "gemma3":
        inputs["token_type_ids"] = types
    return inputs


def row_of(inputs: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    """One prompt of a batch, without its padding."""
    mask = inputs["attention_mask"][number].bool()
    count, row = len(inputs["input_ids"]), {}
    for name, value in inputs.items():
        if value.shape[:2] == inputs["attention_mask"].shape:
            row[name] = value[number][mask][None]
        else:
            row[name] = value.unflatten(0, (count, -1))[number]
    return row


@pytest.mark.parametrize("name", SEEING)
def test_pictures_in_the_prompt(name):
    model, inputs = seeing_model(name), with_pictures(name, 6, 3)
    prompt = inputs["input_ids"].shape[1]
    expected = torch.cat([without_cache(model, row_of(inputs, number))[:, -STEPS:] for number in range(2)])
    for path in PATHS:
        if name == "gemma3" and path == "shared":
            with pytest.raises(ValueError, match="'shared' is not possible: token type ids were given"):
                decode(model, inputs, path)
            continue
        assert torch.equal(decode(model, inputs, path)[:, prompt:], expected), path
    if name != "gemma3":
        assert {problem for problem, *_ in search._verified[model].values()} == {None}


@pytest.mark.parametrize("name", SEEING)
def test_the_picture_is_looked_at(name):
    """Another picture, another text: the tests above do not compare texts that ignore it."""
    model, inputs = seeing_model(name), with_pictures(name, 6)
    other = {**inputs, "pixel_values": -inputs["pixel_values"]}
    assert not torch.equal(decode(model, inputs), decode(model, other))
    greedy = model.generate(**inputs, max_new_tokens=STEPS, suppress_tokens=SPECIAL, do_sample=False)
    assert not torch.equal(decode(model, inputs), greedy)


def test_the_picture_is_encoded_once(monkeypatch):
    model, inputs, seen = seeing_model("llava"), with_pictures("llava", 6), []
    tower = model.model.vision_tower
    original = tower.forward
    monkeypatch.setattr(tower, "forward", lambda *args, **kwargs: seen.append(1) or original(*args, **kwargs))
    for path in ("shared", "batched", "sequential"):
        decode(model, inputs, path)
    assert len(seen) == 3
