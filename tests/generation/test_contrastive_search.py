"""Contrastive search: all ways give the same tokens, padding changes nothing, what is returned fits, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.text_models import DECODERS, ENCODER_DECODERS, padded, prompts, tiny_model
from transformers import DynamicCache, StoppingCriteria

from hf_contrastive import contrastive_search
from hf_contrastive.generation import candidates, search


PATHS = ("auto", "batched", "sequential")
#: models whose candidates must share the prefix, and those that cannot
SHARING = ("gpt2", "llama", "qwen2", "mistral", "opt", "gpt_neox", "gemma2", "phi", "gptj", "cohere")


def decode(model, rows, path="auto", tokens=10, **options):
    options = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": tokens, "min_new_tokens": tokens, **options}
    return model.generate(**padded(model, rows), custom_generate=contrastive_search, candidate_path=path, **options)


def continuation(model, output):
    return output if model.config.is_encoder_decoder else output[:, -10:]


@pytest.mark.parametrize("name", [*DECODERS, *ENCODER_DECODERS])
def test_every_way_and_every_padding_gives_the_same_tokens(name):
    model, rows = tiny_model(name), prompts(9, 4, 6)
    expected = [continuation(model, decode(model, [row], "batched")) for row in rows]
    for path in PATHS:
        if path == "sequential" and name in ("jamba",):  # states that cannot be taken back
            with pytest.raises(ValueError, match="leave `low_memory` out"):
                decode(model, rows, path)
            continue
        assert torch.equal(continuation(model, decode(model, rows, path)), torch.cat(expected)), path


@pytest.mark.parametrize("name", SHARING)
def test_prefix_is_shared_where_it_can_be(name):
    model = tiny_model(name)
    decode(model, prompts(5), "shared")
    assert {problem for problem, *_ in search._verified[model].values()} == {None}


@pytest.mark.parametrize("name", SHARING)
def test_keys_are_not_copied_for_grouped_queries(name):
    model = tiny_model(name)
    decode(model, prompts(5), "shared")
    config = model.config
    used = config._attn_implementation
    grouped = (
        used == "sdpa"
        and getattr(config, "num_key_value_heads", config.num_attention_heads) < config.num_attention_heads
    )
    assert [packed for *_, packed in search._verified[model].values()] == [grouped]
    assert config._attn_implementation == used
    if name == "llama":  # so that the test is not about none of them
        assert grouped


@pytest.mark.parametrize(
    ("name", "reason"),
    [("bloom", "takes no position ids"), ("mistral_window", "sliding window"), ("t5", "encoder-decoder")],
)
def test_sharing_is_refused_with_the_reason(name, reason):
    with pytest.raises(ValueError, match=f"'shared' is not possible: .*{reason}"):
        decode(tiny_model(name), prompts(9), "shared")


def test_a_model_that_misreads_the_mask_is_found_out(monkeypatch):
    """The comparison at run time, not a list of names, decides."""
    model, rows = tiny_model("gpt2"), prompts(9, 4)
    expected = decode(model, rows, "batched")
    body, original = model.transformer, model.transformer.forward

    def forward(*args, attention_mask=None, **kwargs):
        if attention_mask is not None and attention_mask.dim() == 4:
            attention_mask = torch.zeros_like(attention_mask)  # every candidate sees the others
        return original(*args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(body, "forward", forward)
    assert torch.equal(decode(model, rows, "auto"), expected)
    with pytest.raises(ValueError, match="depends on the candidates beside it"):
        decode(model, rows, "shared")


def test_logits_that_are_changed_after_the_output_matrix_are_kept(monkeypatch):
    """gemma2 caps its logits: the output matrix alone would give others."""
    model = tiny_model("gemma2")
    assert model.config.final_logit_softcapping is not None
    decode(model, prompts(5), "shared")
    assert [with_body for _, with_body, _ in search._verified[model].values()] == [False]


def test_alpha_zero_is_greedy_search():
    model, rows = tiny_model("llama"), prompts(7, 3)
    greedy = model.generate(**padded(model, rows), max_new_tokens=10, min_new_tokens=10, do_sample=False)
    assert torch.equal(decode(model, rows, penalty_alpha=0.0), greedy)
    assert not torch.equal(decode(model, rows, penalty_alpha=0.6), greedy)


def test_finished_rows_are_filled_and_others_go_on():
    model, rows = tiny_model("gpt2"), prompts(6, 5, 8, 7, 4, 9)
    output = decode(model, rows, tokens=40, min_new_tokens=None, penalty_alpha=0.9, top_k=8)[:, 9:]
    ended = (output == 2).any(1)
    assert ended.any()
    assert not ended.all()
    for row in output[ended]:
        end = int((row == 2).nonzero()[0])
        assert (row[end + 1 :] == 0).all()


def test_stopping_criteria_and_processors_are_asked():
    model = tiny_model("gpt2")

    class AfterThree(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= 8)

    assert decode(model, prompts(5), min_new_tokens=None, stopping_criteria=[AfterThree()]).shape[1] == 8
    banned = decode(model, prompts(5))[0, 5]
    assert decode(model, prompts(5), bad_words_ids=[[int(banned)]])[0, 5] != banned


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_what_is_returned_beside_the_tokens(name, path):
    model, rows = tiny_model(name, attn_implementation="eager"), prompts(6, 4)
    output = decode(
        model, rows, path, tokens=4, return_dict_in_generate=True, output_scores=True, output_logits=True,
        output_hidden_states=True, output_attentions=True, repetition_penalty=1.5,
    )  # fmt: skip
    length = output.sequences.shape[1]
    assert len(output.scores) == len(output.logits) == 4
    assert output.scores[0].shape == output.logits[0].shape == (2, 61)
    assert not torch.equal(output.scores[-1], output.logits[-1])
    hidden = output.decoder_hidden_states if name == "t5" else output.hidden_states
    attentions = output.decoder_attentions if name == "t5" else output.attentions
    start = 1 if name == "t5" else 6
    assert [step[-1].shape[1] for step in hidden] == [start, 1, 1, 1]
    assert [step[-1].shape[-1] for step in attentions] == [start, start + 1, start + 2, start + 3]
    # the states are those of the chosen tokens: the same sequence in one pass gives them too
    inputs = padded(model, rows)
    if name == "t5":
        again = model(**inputs, decoder_input_ids=output.sequences[:, :-1], output_hidden_states=True)
        expected = again.decoder_hidden_states[-1]
    else:
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 3, dtype=torch.long)], dim=1)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        again = model(output.sequences[:, :-1], attention_mask=mask, position_ids=positions, output_hidden_states=True)
        expected = again.hidden_states[-1]
    for step in range(1, 4):
        torch.testing.assert_close(hidden[step][-1][:, 0], expected[:, start + step - 1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.logits[step], again.logits[:, start + step - 1], rtol=1e-4, atol=1e-4)
    # as after greedy search: the cache ends before the last token, one row for each prompt
    assert output.past_key_values.get_seq_length() == length - 1
    own = getattr(output.past_key_values, "self_attention_cache", output.past_key_values)
    assert own.layers[0].keys.shape[0] == 2


def test_returned_cache_continues_the_sequence():
    model = tiny_model("llama")
    output = decode(model, prompts(5), return_dict_in_generate=True)
    following = model(output.sequences[:, -1:], past_key_values=output.past_key_values).logits[:, -1]
    torch.testing.assert_close(following, model(output.sequences).logits[:, -1], rtol=1e-4, atol=1e-4)


def test_scope_of_the_penalty():
    model, rows = tiny_model("llama"), prompts(9, 5)
    trace: list = []
    scoped = decode(model, rows, penalty_scope="generated", trace=trace)
    assert torch.equal(trace[0]["degeneration_penalty"], torch.zeros(2, 4))
    assert (trace[1]["degeneration_penalty"] != 0).all()
    alone = torch.cat([decode(model, [row], penalty_scope="generated")[:, -10:] for row in rows])
    assert torch.equal(scoped[:, -10:], alone)
    assert not torch.equal(scoped, decode(model, rows))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", ["shared", "batched", "sequential"])
def test_half_precision(dtype, path):
    model = tiny_model("llama").to(dtype)
    trace: list = []
    assert decode(model, prompts(6, 4), path, trace=trace).shape == (2, 16)
    assert trace[0]["contrastive_score"].dtype == torch.float32
    assert all(torch.isfinite(step["contrastive_score"]).all() for step in trace)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("implementation", ["static", "dynamic"])
def test_cache_implementations(implementation, path):
    model, rows = tiny_model("llama"), prompts(6, 4)
    expected = decode(model, rows, "batched")
    assert torch.equal(decode(model, rows, path, cache_implementation=implementation), expected)


def test_zero_states_do_not_turn_the_search_greedy():
    """A padding row of zeros once made the penalty NaN, and the padded row silently greedy."""
    model, rows = tiny_model("llama"), prompts(9, 3)
    with torch.no_grad():
        model.model.embed_tokens.weight[0].zero_()
    trace: list = []
    together = decode(model, rows, trace=trace)
    assert all(torch.isfinite(step["degeneration_penalty"]).all() for step in trace)
    assert torch.equal(together[1, -10:], decode(model, rows[1:])[0, -10:])


def test_embeddings_as_input():
    model, rows = tiny_model("gpt2"), prompts(6)
    embeds = model.get_input_embeddings()(rows[0][None])
    options = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 6, "min_new_tokens": 6}
    found = model.generate(
        inputs_embeds=embeds, attention_mask=torch.ones(1, 6), custom_generate=contrastive_search, **options
    )
    assert torch.equal(found, decode(model, rows, tokens=6)[:, 6:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty_alpha": None}, r"`penalty_alpha` is None.*penalty_alpha=0\.6"),
        ({"penalty_alpha": 1.5}, r"`penalty_alpha` is 1\.5.*0 to 1"),
        ({"penalty_alpha": -0.1}, r"`penalty_alpha` is -0\.1"),
        ({"top_k": 1}, r"`top_k` is 1.*top_k=4"),
        ({"top_k": None}, r"`top_k` is None"),
        ({"num_beams": 2}, r"`num_beams` is 2.*num_beams=1"),
        ({"num_return_sequences": 2, "do_sample": True}, r"`num_return_sequences` is 2"),
        ({"use_cache": False}, r"`use_cache` is False.*use_cache=True"),
        ({"penalty_scope": "prompt"}, r"`penalty_scope` is 'prompt'.*'all', 'generated'"),
        ({"candidate_path": "fast"}, r"`candidate_path` is 'fast'.*'auto', 'shared'"),
        ({"prefill_chunk_size": 2}, r"`prefill_chunk_size` is set"),
        ({"low_memory": True, "candidate_path": "batched"}, r"`low_memory` goes one by one"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work_are_refused(options, message):
    options = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 3, **options}
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match=message):
        model.generate(**padded(model, prompts(5)), custom_generate=contrastive_search, **options)


def test_a_cache_that_holds_a_context_is_refused():
    model = tiny_model("gpt2")
    cache = model(prompts(5)[0][None], past_key_values=DynamicCache(config=model.config)).past_key_values
    with pytest.raises(ValueError, match="already holds a context"):
        decode(model, prompts(8), past_key_values=cache)


def test_sampling_is_ignored_with_a_warning():
    model = tiny_model("gpt2")
    with pytest.warns(UserWarning, match="`do_sample=True` is ignored"):
        found = decode(model, prompts(5), do_sample=True, temperature=3.0)
    assert torch.equal(found, decode(model, prompts(5)))


def test_more_candidates_than_tokens():
    model = tiny_model("gpt2")
    with pytest.warns(UserWarning, match="more than the 61 tokens"):
        decode(model, prompts(5), top_k=100, tokens=2)


def test_low_memory_is_one_by_one(monkeypatch):
    model, rows = tiny_model("gpt2"), prompts(6, 4)
    seen = []
    original = candidates.OneByOne.forward

    def forward(self, input_ids, tokens):
        seen.append(tokens.shape)
        return original(self, input_ids, tokens)

    monkeypatch.setattr(candidates.OneByOne, "forward", forward)
    assert torch.equal(decode(model, rows, low_memory=True), decode(model, rows, "batched"))
    assert seen == [(2, 4)] * 10


def test_cache_memory_is_that_of_greedy_search():
    """Shared prefix: one row for each prompt, k positions more; no copy of the cache a step."""
    model = tiny_model("llama")
    cache = DynamicCache(config=model.config)
    decode(model, prompts(6), "shared", past_key_values=cache)
    layer = cache.layers[0]
    assert layer._all_keys.shape[0] == 1
    assert layer._all_keys.shape[2] <= 6 + 10 + 4 + 1
    before = layer._all_keys.data_ptr()
    layer.update(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8))
    assert layer._all_keys.data_ptr() == before


def test_roomy_layer_grows_and_reorders():
    keys = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    layer = candidates.RoomyLayer(keys, -keys, 5)
    for _ in range(4):
        layer.update(torch.ones(2, 3, 1, 5), torch.zeros(2, 3, 1, 5))
    assert torch.equal(layer.keys[:, :, :4], keys)
    assert layer.keys.shape[2] == layer.get_seq_length() == 8
    layer.reorder_cache(torch.tensor([1, 1, 0]))
    assert torch.equal(layer.keys[:, :, :4], keys[[1, 1, 0]])
    layer.crop(-6)
    layer.update(torch.full((3, 3, 1, 5), 7.0), torch.zeros(3, 3, 1, 5))
    assert torch.equal(layer.keys[:, :, :2], keys[[1, 1, 0], :, :2])
    assert (layer.keys[:, :, 2] == 7).all()


def test_golden_files_go_through_every_way():
    """The stored results of the published code hold on each path, not on the default only."""
    import importlib.util

    from safetensors.torch import load_file

    root = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location("parity_cs", root / "parity" / "contrastive_search.py")
    adapters = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapters)
    files = sorted((root / "golden" / "contrastive_search").glob("decode_*.json"))
    assert len(files) >= 6
    for file in files:
        facts, stored = json.loads(file.read_text()), load_file(file.with_suffix(".safetensors"))
        for path in ("batched", "sequential", *(() if "t5" in file.stem else ("shared",))):
            inputs = {name: stored[name].clone() for name in facts["inputs"]}
            found = adapters.run_decode(inputs, facts["config"], candidate_path=path)
            assert torch.equal(found["expected.sequences"], stored["expected.sequences"]), (file.stem, path)
            torch.testing.assert_close(
                found["expected.contrastive_score"], stored["expected.contrastive_score"], rtol=1e-4, atol=1e-4
            )
