"""What contrastive search refuses or warns of, beside the settings of `test_contrastive_search.py`."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from helpers.text_models import letter_tokenizer, padded, prompts, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, QuantizedCache

from hf_contrastive import contrastive_search
from hf_contrastive.generation import ContrastiveGenerationMixin, generate_contrastive


def decode(model, inputs=None, **options):
    options = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 3, **options}
    inputs = padded(model, prompts(5)) if inputs is None else inputs
    return model.generate(**inputs, custom_generate=contrastive_search, **options)


def stateful_model(name: str):
    settings = {
        "mamba": {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "conv_kernel": 3},
        "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
    }[name]
    config = AutoConfig.for_model(name, vocab_size=61, pad_token_id=0, bos_token_id=1, eos_token_id=2, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty_alpha": True}, "`penalty_alpha` is True, but it must be a number"),
        ({"penalty_alpha": float("nan")}, "`penalty_alpha` is nan"),
        ({"penalty_alpha": float("inf")}, "`penalty_alpha` is inf"),
        ({"top_k": True}, "`top_k` is True"),
        ({"top_k": 0}, "`top_k` is 0"),
        ({"top_k": -3}, "`top_k` is -3"),
        ({"low_memory": True, "candidate_path": "shared"}, "`candidate_path` is 'shared'; leave one of them out"),
    ],
    ids=lambda value: "-".join(f"{name}={item}" for name, item in value.items()) if isinstance(value, dict) else "",
)
def test_values_that_only_look_right(options, message):
    with pytest.raises(ValueError, match=message):
        decode(tiny_model("gpt2"), **options)


def test_from_the_configuration_too():
    """The values of a saved generation config are checked like those of the call."""
    model = tiny_model("gpt2")
    model.generation_config.num_beams = 3
    with pytest.raises(ValueError, match=r"`num_beams` is 3.*num_beams=1"):
        decode(model)
    model = tiny_model("gpt2")
    model.generation_config.use_cache = False
    with pytest.raises(ValueError, match="`use_cache` is False"):
        decode(model)


@pytest.mark.parametrize("path", ["auto", "batched", "sequential"])
def test_quantised_cache(path):
    model = tiny_model("llama")
    message = "quantized cache cannot give back the last token.*leave `cache_implementation` out"
    with pytest.raises(ValueError, match=message):
        decode(model, past_key_values=QuantizedCache("fp8", model.config), candidate_path=path)
    with pytest.raises(ValueError, match=message):
        decode(model, cache_implementation="quantized", cache_config={"backend": "fp8"}, candidate_path=path)


@pytest.mark.parametrize("name", ["mamba", "rwkv"])
def test_models_with_a_state_in_place_of_a_cache(name):
    model = stateful_model(name)
    with pytest.raises(ValueError, match=f"{type(model).__name__} keeps no cache that contrastive search can use"):
        decode(model)


def test_models_that_return_no_hidden_states(monkeypatch):
    """It would be no contrastive search, and must not become another search in silence."""
    model = tiny_model("gpt2")
    original = model.forward

    def forward(*args, output_hidden_states=None, **kwargs):
        return original(*args, **kwargs)

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(ValueError, match=r"returned no hidden states.*takes `output_hidden_states=True`"):
        decode(model)


@pytest.mark.parametrize("path", ["auto", "shared", "batched", "sequential"])
def test_states_without_a_length_are_like_nothing(path):
    """Cosine 0, not NaN: a model whose last states are all zero decides by probability alone."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight.zero_()
    trace: list = []
    decode(model, trace=trace, candidate_path=path)
    for step in trace:
        assert torch.equal(step["degeneration_penalty"], torch.zeros(1, 4))
        assert step["selected_idx"].tolist() == [0]


def test_padding_on_the_right_is_said(caplog):
    """transformers says it before it calls us."""
    model = tiny_model("gpt2")
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
    logger = logging.getLogger("transformers")
    before, logger.propagate = logger.propagate, True
    try:
        with caplog.at_level(logging.WARNING, logger="transformers"):
            decode(model, {"input_ids": ids, "attention_mask": (ids != 0).long()})
    finally:
        logger.propagate = before
    assert any("right-padding was detected" in record.getMessage() for record in caplog.records)


def test_as_many_candidates_as_tokens_is_no_reason_to_warn():
    model = tiny_model("gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        whole = decode(model, top_k=61)
    with pytest.warns(UserWarning, match="`top_k` is 62, more than the 61 tokens of the vocabulary; 61 are used"):
        assert torch.equal(decode(model, top_k=62), whole)


@pytest.mark.parametrize("name", ["mamba", "rwkv"])
def test_low_memory_of_a_model_with_a_state(name):
    with pytest.raises(ValueError, match="keeps no cache"):
        decode(stateful_model(name), low_memory=True)


def test_the_door_refuses_what_it_would_overwrite_or_cannot_read():
    model, tokenizer = tiny_model("gpt2"), letter_tokenizer()
    unpadded = letter_tokenizer()
    unpadded.pad_token = unpadded.eos_token = None
    for inputs, options, message in (
        ("hello", {"tokenizer": tokenizer, "contrastive_streamer": object()}, "`contrastive_streamer` is set by"),
        (["hello", ""], {"tokenizer": tokenizer}, "empty text"),
        (["hello", "you"], {"tokenizer": unpadded}, "different length are padded, but the tokenizer has no pad token"),
        ("hello", {"tokenizer": tokenizer, "penalty_alpha": 2}, "`penalty_alpha` is 2"),
        ("hello", {"tokenizer": tokenizer, "num_beams": 2}, "`num_beams` is 2"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_contrastive(model, inputs, max_new_tokens=2, **options)


def test_a_text_without_a_token():
    tokenizer = letter_tokenizer()
    plain = type(tokenizer).__call__

    class Deaf(type(tokenizer)):
        def __call__(self, text, **options):
            return plain(self, "" if text == " " else text, **options)

    tokenizer.__class__ = Deaf
    with pytest.raises(ValueError, match="text 1 has no token"):
        generate_contrastive(tiny_model("gpt2"), ["hello", " "], tokenizer, max_new_tokens=2)


def test_the_mixin_needs_a_tokenizer_for_stop_strings():
    from transformers import GPT2LMHeadModel

    class Model(ContrastiveGenerationMixin, GPT2LMHeadModel):
        pass

    model = Model(tiny_model("gpt2").config).eval()
    with pytest.raises(ValueError, match="`stop_strings` need a tokenizer; pass tokenizer="):
        model.generate(**padded(model, prompts(5)), penalty_alpha=0.6, top_k=4, stop_strings="x", max_new_tokens=2)
