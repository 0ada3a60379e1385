"""Filtered sampling: what is kept is what would have been said anyway, Q-values are those of a full pass, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import text_models
from helpers.text_models import DECODERS, letter_tokenizer, padded, prompts, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, StoppingCriteria

from hf_contrastive import GoalConditionedRewardModel, contrastive_search
from hf_contrastive.data import train_tokenizer
from hf_contrastive.generation import filter_generations, goal_states, row_decoding
from hf_contrastive.generation.row_decoding import InverseSampler, row_draws


ROWS = (9, 4, 6)
LIMIT = 21
#: what a model of that architecture says to this temperature is varied, and ends now and then
SAMPLING = {"max_new_tokens": LIMIT, "temperature": 2.5, "top_k": 0, "suppress_tokens": [0, 1]}


def language_model(name):
    if name == "jamba":  # of the helper's two layers none is attention, which `generate` itself cannot do
        settings = {**DECODERS["jamba"], "attn_layer_period": 2, "attn_layer_offset": 1}
        return own_model("jamba", settings)
    if name == "mamba":
        return own_model("mamba", {**text_models._SPECIAL, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4})
    return tiny_model(name)


def own_model(name, settings):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


def reward_of(model, seed=1):
    reward_model = GoalConditionedRewardModel.from_backbone(model)
    generator = torch.Generator().manual_seed(seed)
    reward_model.set_goal_state(torch.randn(reward_model.config.state_size, generator=generator))
    return reward_model


def full_pass(reward_model, prompt, answer):
    """Q-values of the answer's tokens and its reward, everything read at once."""
    reward_model.eval()
    ids = torch.cat([prompt, answer])[None]
    with torch.no_grad():
        outputs = reward_model(ids, torch.ones_like(ids))
    return outputs.q_values[0, -len(answer) :], float(outputs.rewards[0])


def middle(found, skip):
    """A threshold that about half of the answers pass, between two values, so that rounding decides nothing."""
    lowest = sorted(float(q_values[skip:].min()) for q_values in found.q_values if len(q_values) > skip)
    return sum(lowest[len(lowest) // 2 - 1 :][:2]) / 2


def assert_same(found, expected):
    for row, (one, other) in enumerate(zip(found.sequences, expected.sequences, strict=True)):
        if found.kept[row]:
            assert torch.equal(one, other), row
        else:
            assert torch.equal(one, other[: len(one)]), row


@pytest.mark.parametrize("name", [*DECODERS, "mamba"])
def test_what_is_kept_is_what_would_have_been_said(name):
    model, reward_model = language_model(name), reward_of(tiny_model("gpt2"))
    inputs = padded(model, prompts(*ROWS))
    everything = filter_generations(model, reward_model, inputs, num_samples=4, threshold=None, **SAMPLING)
    assert everything.kept == [True] * 12
    assert everything.tokens_generated == sum(map(len, everything.sequences)) <= everything.tokens_limit == 12 * LIMIT
    assert len({tuple(row.tolist()) for row in everything.sequences}) == 12
    threshold = middle(everything, 5)
    kept = [not bool((q[5:] < threshold).any()) for q in everything.q_values]
    assert 0 < sum(kept) < 12
    for every, most in ((1, None), (3, 5), (50, 7), *([(8, 1)] if name == "llama" else [])):
        found = filter_generations(
            model,
            reward_model,
            inputs,
            num_samples=4,
            threshold=threshold,
            check_every=every,
            max_rows=most,
            **SAMPLING,
        )
        assert found.kept == kept, (every, most)
        assert_same(found, everything)
        if every < LIMIT:
            assert found.tokens_generated < everything.tokens_generated


@pytest.mark.parametrize("name", [name for name in (*DECODERS, "mamba") if name != "gpt_neox"])
def test_q_values_and_rewards_are_those_of_a_full_pass(name):
    model, reward_model = tiny_model("gpt2"), reward_of(language_model(name))
    reward_model.eval()
    rows = prompts(*ROWS)
    for first in range(2):  # the first time the model is compared, the second time that is known
        found = filter_generations(
            model, reward_model, padded(model, rows), num_samples=3, threshold=None, seed=first, **SAMPLING
        )
        for prompt, answer, q_values, reward in zip(
            found.prompt_index, found.sequences, found.q_values, found.rewards, strict=True
        ):
            expected, value = full_pass(reward_model, rows[prompt], answer)
            torch.testing.assert_close(q_values, expected, rtol=0, atol=1e-4)
            assert reward == pytest.approx(value, abs=1e-4)
    ways = set(goal_states._verified.get(reward_model, {}).values()) or {"anew"}
    assert ways == {{"jamba": "columns", "mamba": "anew"}.get(name, "pieces")}


def test_a_model_that_misreads_padding_is_found_out(monkeypatch):
    """The comparison at run time decides: then everything is read anew, and the values are still right."""
    model, reward_model = tiny_model("gpt2"), reward_of(tiny_model("llama"))
    original = reward_model.backbone.forward

    def forward(input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **kwargs):
        return original(input_ids=input_ids, past_key_values=past_key_values, **kwargs)

    monkeypatch.setattr(reward_model.backbone, "forward", forward)
    rows = prompts(*ROWS)
    found = filter_generations(model, reward_model, padded(model, rows), threshold=None, **SAMPLING)
    assert set(goal_states._verified[reward_model].values()) == {"anew"}
    for row, answer in enumerate(found.sequences):
        torch.testing.assert_close(
            found.q_values[row], full_pass(reward_model, rows[row], answer)[0], rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("skip", [0, 3, 5])
def test_where_answers_are_stopped(skip):
    model, reward_model = tiny_model("llama"), reward_of(tiny_model("gpt2"))
    inputs = padded(model, prompts(*ROWS))
    everything = filter_generations(model, reward_model, inputs, num_samples=8, threshold=None, **SAMPLING)
    found = filter_generations(
        model, reward_model, inputs, num_samples=8, threshold=-0.1, skip_tokens=skip, check_every=4, **SAMPLING
    )
    places = set()
    for row, q_values in enumerate(everything.q_values):
        below = [place for place, value in enumerate(q_values.tolist()) if value < -0.1 and place >= skip]
        assert found.stopped_at[row] == (below[0] if below else None)
        assert found.kept[row] == (not below)
        assert (found.rewards[row] is None) == bool(below)
        whole = len(everything.sequences[row])
        written = min(whole, 4 * math.ceil((below[0] + 1) / 4)) if below else whole
        assert len(found.sequences[row]) == len(found.q_values[row]) == written
        places.update(below[:1])
    assert skip in places  # so that one token more or less would be seen
    assert found.tokens_generated == sum(map(len, found.sequences))
    assert [found.rewards[row] for row in range(24) if found.kept[row]] == pytest.approx(
        [everything.rewards[row] for row in range(24) if found.kept[row]], abs=1e-5
    )


def test_draws_go_through_the_scores_behind_all_warpers():
    """Token by token the choice that temperature, top-k, top-p and the row's own draw give, computed here anew."""
    model, reward_model = tiny_model("llama"), reward_of(tiny_model("gpt2"))
    rows = prompts(*ROWS)
    found = filter_generations(
        model, reward_model, padded(model, rows), num_samples=3, threshold=None, seed=7, check_every=4,
        max_new_tokens=12, temperature=1.7, top_k=20, top_p=0.8, repetition_penalty=1.3,
    )  # fmt: skip
    for prompt, sample, answer in zip(found.prompt_index, found.sample_index, found.sequences, strict=True):
        draws = row_draws(7, (prompt, sample), 12)
        for step, token in enumerate(answer.tolist()):
            ids = torch.cat([rows[prompt], answer[:step]])
            with torch.no_grad():
                scores = model(ids[None]).logits[0, -1]
            seen = scores[ids.unique()]
            scores[ids.unique()] = torch.where(seen < 0, seen * 1.3, seen / 1.3)
            scores = scores / 1.7
            scores[scores < scores.topk(20).values[-1]] = -torch.inf
            ordered, order = scores.softmax(-1).sort()
            scores[order[ordered.cumsum(0) <= 0.2]] = -torch.inf
            below = scores.softmax(-1).double().cumsum(0)
            assert token == int((below <= draws[step] * below[-1]).sum()), (prompt, sample, step)


def test_evenly_spread_draws_give_the_probabilities():
    scores = torch.tensor([0.5, -torch.inf, 2.0, -1.0, -torch.inf])
    draws = torch.cat(
        [(torch.arange(1000, dtype=torch.float64) + 0.5) / 1000, torch.tensor([0.0, 1 - 2**-53]).double()]
    )
    chosen = InverseSampler(draws[:, None], 3)(torch.zeros(1002, 3), scores.expand(1002, -1).clone())
    assert (torch.isfinite(chosen).sum(1) == 1).all()
    counts = chosen[:1000].argmax(1).bincount(minlength=5) / 1000
    torch.testing.assert_close(counts, scores.softmax(-1), rtol=0, atol=1.1e-3)
    assert chosen[1000:].argmax(1).tolist() == [0, 3]
    with pytest.raises(FloatingPointError, match="NaN"):
        InverseSampler(draws[:, None], 3)(torch.zeros(1002, 3), torch.full((1002, 5), torch.nan))


def test_draws_follow_from_the_row_alone():
    assert torch.equal(row_draws(3, (1, 2), 40)[:7], row_draws(3, (1, 2), 7))
    assert not torch.equal(row_draws(3, (1, 2), 7), row_draws(3, (2, 1), 7))
    assert not torch.equal(row_draws(3, (1, 2), 7), row_draws(4, (1, 2), 7))
    model, reward_model = tiny_model("llama"), reward_of(tiny_model("gpt2"))
    rows = prompts(*ROWS)
    many = filter_generations(model, reward_model, padded(model, rows), num_samples=4, threshold=None, **SAMPLING)
    few = filter_generations(
        model,
        reward_model,
        padded(model, rows[:2]),
        num_samples=2,
        threshold=None,
        **{**SAMPLING, "max_new_tokens": 7},
    )
    for row, (prompt, sample) in enumerate(zip(few.prompt_index, few.sample_index, strict=True)):
        assert torch.equal(few.sequences[row], many.sequences[4 * prompt + sample][:7])
    other = filter_generations(
        model, reward_model, padded(model, rows), num_samples=4, threshold=None, seed=1, **SAMPLING
    )
    assert not any(map(torch.equal, other.sequences, many.sequences))


DETERMINISTIC = {
    "greedy": {},
    "processors": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "minimum": {"min_new_tokens": 10, "sequence_bias": [[[2], 30.0]]},
    "forced end": {"forced_eos_token_id": 2},
    "growing end": {"exponential_decay_length_penalty": (4, 1.4)},
    "banned at the start": {"begin_suppress_tokens": [11, 20, 35, 41, 50, 3]},
    "static cache": {"cache_implementation": "static"},
    "dynamic cache": {"cache_implementation": "dynamic"},
    "no cache": {"use_cache": False},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "several ends": {"eos_token_id": [2, 17, 30]},
}


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "mistral_window"])
@pytest.mark.parametrize("case", DETERMINISTIC)
def test_pieces_are_one_uninterrupted_generate(name, case):
    model, reward_model = tiny_model(name), reward_of(tiny_model("gpt2"))
    rows, options = prompts(*ROWS), dict(DETERMINISTIC[case])
    inputs = padded(model, rows)
    loop = {"custom_generate": contrastive_search} if case == "contrastive" else {"do_sample": False}
    expected = model.generate(**inputs, max_new_tokens=LIMIT, **loop, **options)[:, inputs["input_ids"].shape[1] :]
    sampled = {} if case == "contrastive" else {"do_sample": False}
    found = filter_generations(
        model, reward_model, inputs, threshold=None, check_every=4, max_new_tokens=LIMIT, **sampled, **options
    )
    ends = torch.tensor(options.get("eos_token_id", [2]))
    for row, answer in enumerate(found.sequences):
        assert torch.equal(answer, expected[row, : len(answer)])
        assert not torch.isin(answer[:-1], ends).any()
        assert (expected[row, len(answer) :] == 0).all()
        assert found.finished[row] == bool(torch.isin(answer[-1], ends))
        assert found.finished[row] or len(answer) == LIMIT
    if case == "minimum":
        assert [len(answer) for answer in found.sequences] == [11, 11, 11]
    if case == "forced end":
        assert all(int(answer[-1]) == 2 for answer in found.sequences)


def count_tokens(model, monkeypatch):
    """Tokens that go through the model, padding included."""
    seen = []
    original = model.forward

    def forward(*args, **kwargs):
        seen.append(kwargs["input_ids"].shape)
        return original(*args, **kwargs)

    forward.__signature__ = __import__("inspect").signature(original)
    monkeypatch.setattr(model, "forward", forward)
    return seen


def test_nothing_is_read_twice_and_what_is_dropped_costs_nothing(monkeypatch):
    model, reward_model = tiny_model("llama"), reward_of(tiny_model("gpt2"))
    inputs = padded(model, prompts(*ROWS))
    options = {"num_samples": 4, "check_every": 4, "max_new_tokens": 20, "min_new_tokens": 20, "temperature": 2.5}
    filter_generations(model, reward_model, inputs, threshold=None, **options)  # the reward model is compared here
    written, read = count_tokens(model, monkeypatch), count_tokens(reward_model.backbone, monkeypatch)
    filter_generations(model, reward_model, inputs, threshold=None, **options)
    assert written == [(12, 9), *[(12, 1)] * 19]
    assert read == [(3, 7), (3, 2), *[(12, 4)] * 5]
    written.clear()
    read.clear()
    found = filter_generations(model, reward_model, inputs, threshold=-0.1, **options)
    pieces = [sum(len(answer) > 4 * number for answer in found.sequences) for number in range(5)]
    assert pieces[0] == 12
    assert pieces[-1] < 6
    # each piece reads the token before it, the first one the prompts
    assert [rows for rows, _ in written] == [rows for rows in pieces if rows for _ in range(4)]
    assert read == [(3, 7), (3, 2), *[(rows, 4) for rows in pieces if rows]]


def test_rows_that_cannot_go_on_are_read_anew(monkeypatch):
    """Where a cache cannot be cut, each piece begins with everything so far; the answers are the same."""
    model, reward_model = tiny_model("llama"), reward_of(tiny_model("gpt2"))
    inputs = padded(model, prompts(*ROWS))
    expected = filter_generations(model, reward_model, inputs, num_samples=3, threshold=-0.1, **SAMPLING)
    assert 0 < sum(expected.kept) < 9
    monkeypatch.setattr(row_decoding, "can_cut", lambda cache: False)
    monkeypatch.setattr(goal_states, "can_cut", lambda cache: False)
    goal_states._verified.pop(reward_model)
    written = count_tokens(model, monkeypatch)
    found = filter_generations(model, reward_model, inputs, num_samples=3, threshold=-0.1, **SAMPLING)
    assert [length for _, length in written if length > 1][:2] == [9, 17]
    assert (found.kept, found.stopped_at) == (expected.kept, expected.stopped_at)
    assert all(map(torch.equal, found.sequences, expected.sequences))
    for one, other in zip(found.q_values, expected.q_values, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_texts_stop_strings_and_criteria():
    model, reward_model, tokenizer = tiny_model("llama"), reward_of(tiny_model("gpt2")), letter_tokenizer()
    texts = ["abcde", "xyz"]
    options = {"num_samples": 6, "threshold": None, "check_every": 5, "tokenizer": tokenizer}
    plain = filter_generations(model, reward_model, texts, **options, **SAMPLING)
    stopped = filter_generations(
        model, reward_model, texts, stop_strings=["a", "Bc", "X", "d", "e"], **options, **SAMPLING
    )
    ids = filter_generations(
        model,
        reward_model,
        tokenizer(texts, padding=True, padding_side="left", return_tensors="pt"),
        **options,
        **SAMPLING,
    )
    assert ids.texts == plain.texts
    ends = 0
    for row, (whole, text) in enumerate(zip(plain.texts, stopped.texts, strict=True)):
        cuts = [whole.find(stop) + len(stop) for stop in ("a", "Bc", "X", "d", "e") if stop in whole]
        assert text == whole[: min(cuts)] if cuts else text == whole
        assert stopped.finished[row] == bool(cuts or plain.finished[row])
        ends += bool(cuts)
    assert 0 < ends < 12

    class AfterThreeOrSix(StoppingCriteria):
        """Stays true behind the end of a row, while other rows of the piece go on."""

        def __call__(self, input_ids, scores, **kwargs):
            return input_ids.shape[1] >= 5 + 3 * (1 + input_ids[:, 5] % 2)

    found = filter_generations(
        model, reward_model, texts, stopping_criteria=[AfterThreeOrSix()], **options, **SAMPLING
    )
    ends = [3 * (1 + int(answer[0]) % 2) for answer in plain.sequences]
    assert set(ends) == {3, 6}
    expected = [answer[:end] for answer, end in zip(plain.sequences, ends, strict=True)]
    assert all(map(torch.equal, found.sequences, expected))
    assert all(found.finished)
    one = filter_generations(model, reward_model, "abcde", **options, **SAMPLING)
    assert one.texts == plain.answers_of(0) == plain.texts[:6]


def test_rows_of_a_prompt():
    model, reward_model = tiny_model("llama"), reward_of(tiny_model("gpt2"))
    found = filter_generations(
        model, reward_model, padded(model, prompts(*ROWS)), num_samples=3, threshold=-0.1, **SAMPLING
    )
    assert found.prompt_index == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.sample_index == [0, 1, 2] * 3
    assert found.rows_of(1, kept_only=False) == [3, 4, 5]
    assert found.rows_of(1) == [row for row in (3, 4, 5) if found.kept[row]]
    assert all(map(torch.equal, found.answers_of(1), [found.sequences[row] for row in found.rows_of(1)]))
    with pytest.raises(IndexError, match="prompt 3 does not exist; there are 3"):
        found.rows_of(3)


def test_words_allowed_for_a_row_follow_it():
    """The function of the constraint gets the row's own number, whoever was dropped before it."""
    model, reward_model = tiny_model("llama"), reward_of(tiny_model("gpt2"))
    inputs = padded(model, prompts(*ROWS))
    options = {"num_samples": 4, "prefix_allowed_tokens_fn": lambda row, ids: [10 + row, 30 + row], **SAMPLING}
    everything = filter_generations(model, reward_model, inputs, threshold=None, **options)
    found = filter_generations(model, reward_model, inputs, threshold=middle(everything, 5), check_every=3, **options)
    assert sum(found.kept) == 6
    assert_same(found, everything)
    for row, answer in enumerate(found.sequences):
        assert set(answer.tolist()) <= {10 + row, 30 + row}


def test_prompts_of_the_reward_model():
    model, reward_model = tiny_model("llama"), reward_of(tiny_model("gpt2"))
    rows, others = prompts(*ROWS), prompts(3, 8, 5, seed=5)
    found = filter_generations(
        model, reward_model, padded(model, rows), num_samples=3, threshold=-0.2, check_every=4,
        reward_inputs=padded(model, others), **SAMPLING,
    )  # fmt: skip
    assert 0 < sum(found.kept) < 9
    for prompt, answer, q_values in zip(found.prompt_index, found.sequences, found.q_values, strict=True):
        torch.testing.assert_close(q_values, full_pass(reward_model, others[prompt], answer)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("fast", [True, False])
def test_a_reward_model_with_its_own_tokens(fast, monkeypatch):
    model, tokenizer = tiny_model("llama"), letter_tokenizer()
    other = train_tokenizer(["abcde fghij klmno pqrst uvwxyz", "ABCDE ab AB cd CD"], 280)
    if not fast:
        monkeypatch.setattr(type(other), "is_fast", property(lambda self: False))
    settings = {**text_models._GPT2, "vocab_size": 280, "eos_token_id": other.eos_token_id, "bos_token_id": None}
    reward_model = reward_of(own_model("gpt2", {**settings, "pad_token_id": other.pad_token_id}))
    texts = ["abcde", "xyz"]
    options = {"num_samples": 6, "tokenizer": tokenizer, "reward_tokenizer": other, "skip_tokens": 3, **SAMPLING}
    everything = filter_generations(model, reward_model, texts, threshold=None, **options)
    expected = []
    for prompt, answer, text, q_values, reward in zip(
        everything.prompt_index,
        everything.sequences,
        everything.texts,
        everything.q_values,
        everything.rewards,
        strict=True,
    ):
        coded = other(texts[prompt] + text, return_offsets_mapping=True)
        own = [place for place, (_, stop) in enumerate(coded["offset_mapping"]) if stop > len(texts[prompt])]
        if not fast and own != list(range(len(other(texts[prompt])["input_ids"]), len(coded["input_ids"]))):
            expected.append(None)  # a token holds the end of the prompt, which slow tokenizers do not tell exactly
            continue
        end = [other.eos_token_id] if int(answer[-1]) == 2 else []
        ids = torch.tensor([*coded["input_ids"], *end])
        wanted, value = full_pass(reward_model, ids[: own[0]], ids[own[0] :])
        torch.testing.assert_close(q_values, wanted, rtol=0, atol=1e-4)
        assert reward == pytest.approx(value, abs=1e-4)
        reach = [stop - len(texts[prompt]) for _, stop in coded["offset_mapping"]][own[0] :]
        below = [place for place, q in enumerate(wanted.tolist()) if place >= 3 and q < -0.3]
        # every token of the writer is a letter, the end is behind the last one
        expected.append((min(reach[below[0]] if below[0] < len(reach) else 99, len(answer)) - 1) if below else None)
    found = filter_generations(model, reward_model, texts, threshold=-0.3, check_every=LIMIT, **options)
    compared = [(one, other) for one, other in zip(found.stopped_at, expected, strict=True)]
    assert sum(one is None for one, _ in compared) not in (0, 12)
    for row, (one, wanted) in enumerate(compared):
        if fast:
            assert one == wanted, row
        assert found.kept[row] == (one is None)
    # the last token counts, once nothing can come behind it
    counted = 0
    for limit in range(6, 14):
        short = {**options, "max_new_tokens": limit}
        whole = filter_generations(model, reward_model, texts, threshold=None, **short)
        for row, q_values in enumerate(whole.q_values):
            if len(q_values) > 4 and not whole.finished[row] and int(q_values[3:].argmin()) == len(q_values) - 4:
                threshold = float(q_values[3:].sort().values[:2].mean())
                judged = filter_generations(model, reward_model, texts, threshold=threshold, **short)
                assert judged.stopped_at[row] == limit - 1
                counted += 1
                break
    assert counted
    saved = filter_generations(model, reward_model, texts, threshold=-0.3, check_every=3, **options)
    assert saved.tokens_generated < found.tokens_generated
    assert_same(saved, everything)


def test_a_tokenizer_of_the_same_words_is_no_other(monkeypatch):
    model, reward_model, tokenizer = tiny_model("llama"), reward_of(tiny_model("gpt2")), letter_tokenizer()
    read = count_tokens(reward_model.backbone, monkeypatch)
    options = {"num_samples": 2, "threshold": None, "tokenizer": tokenizer, **SAMPLING}
    found = filter_generations(model, reward_model, "abcde", reward_tokenizer=letter_tokenizer(), **options)
    assert read[-1][1] <= 8  # token by token, not as text
    assert found.texts == filter_generations(model, reward_model, "abcde", **options).texts


def test_modes_come_back_and_dropout_is_off():
    model, reward_model = tiny_model("gpt2").train(), reward_of(tiny_model("gpt2"))
    model.transformer.h[0].eval()
    assert reward_model.training
    inputs = padded(model, prompts(*ROWS))
    first, second = (
        filter_generations(model, reward_model, inputs, num_samples=2, threshold=None, **SAMPLING) for _ in range(2)
    )
    assert all(map(torch.equal, first.sequences, second.sequences))
    assert all(map(torch.equal, first.q_values, second.q_values))
    assert model.training
    assert reward_model.training
    assert not model.transformer.h[0].training
    assert not any(q_values.requires_grad for q_values in first.q_values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    model, reward_model = tiny_model("llama").to(dtype), reward_of(tiny_model("gpt2")).to(dtype)
    found = filter_generations(
        model, reward_model, padded(model, prompts(*ROWS)), num_samples=2, threshold=-0.1, **SAMPLING
    )
    assert all(q_values.dtype == torch.float32 for q_values in found.q_values)
    assert set(goal_states._verified[reward_model].values()) == {"pieces"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, r"`num_samples` is 0.*1 or more"),
        ({"check_every": 0}, r"`check_every` is 0"),
        ({"skip_tokens": -1}, r"`skip_tokens` is -1.*0 or more"),
        ({"max_rows": 0}, r"`max_rows` is 0"),
        ({"threshold": 1.5}, r"`threshold` is 1\.5.*-1 to 1.*None"),
        ({"threshold": float("nan")}, r"`threshold` is nan"),
        ({"max_new_tokens": None}, r"`max_new_tokens` is missing.*max_new_tokens=256"),
        ({"max_new_tokens": 120}, r"9 tokens and its answer up to 120 more.*128 positions; pass max_new_tokens=119"),
        ({"num_samples": 2, "do_sample": False}, r"`num_samples` is 2.*deterministic.*num_samples=1"),
        ({"num_samples": 2, "penalty_alpha": 0.6, "top_k": 4}, r"`num_samples` is 2.*do_sample=True"),
        ({"num_beams": 2}, r"`num_beams` is 2.*num_beams=1"),
        ({"num_return_sequences": 3}, r"`num_return_sequences` does not work"),
        ({"max_length": 30}, r"`max_length`.*max_new_tokens"),
        ({"min_length": 30}, r"`min_length`.*min_new_tokens"),
        ({"guidance_scale": 1.5}, r"`guidance_scale` does not work"),
        ({"return_dict_in_generate": True}, r"`return_dict_in_generate` does not work"),
        ({"streamer": object()}, r"`streamer` does not work"),
        ({"stop_strings": "a"}, r"`stop_strings` need a tokenizer"),
        ({"custom_generate": contrastive_search, "do_sample": True}, r"`do_sample` is True.*itself"),
        ({"penalty_alpha": 0.6, "do_sample": True}, r"`penalty_alpha` asks for contrastive search"),
        ({"penalty_alpha": 0.6, "top_k": 4, "penalty_scope": "generated"}, r"`penalty_scope` is 'generated'"),
        ({"custom_generate": "folder"}, r"`custom_generate` is 'folder'.*function"),
        ({"goal_state": torch.ones(5)}, r"`goal_state` is \[5\].*\[32\]"),
        ({"goal_state": torch.zeros(32)}, r"`goal_state` is zero"),
        ({"reward_inputs": torch.ones(2, 3, dtype=torch.long)}, r"`reward_inputs` has 2 prompts.*3 in `inputs`"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work_are_refused(options, message):
    model, reward_model = tiny_model("gpt2"), reward_of(tiny_model("gpt2"))
    with pytest.raises(ValueError, match=message):
        filter_generations(model, reward_model, padded(model, prompts(*ROWS)), **{"max_new_tokens": 5, **options})


def test_prompts_and_models_that_cannot_work_are_refused():
    model, reward_model, tokenizer = tiny_model("gpt2"), reward_of(tiny_model("gpt2")), letter_tokenizer()

    def refuse(message, inputs, model=model, reward_model=reward_model, **options):
        with pytest.raises(ValueError, match=message):
            filter_generations(model, reward_model, inputs, max_new_tokens=5, **options)

    good = padded(model, prompts(4, 6))
    refuse("`inputs` are texts and need a tokenizer", ["abc"])
    refuse("`inputs` is empty", [], tokenizer=tokenizer)
    refuse("prompt 1 of `inputs` has no token", ["abc", ""], tokenizer=tokenizer)
    refuse("padded on the right", {name: value.flip(1) for name, value in good.items()})
    refuse("holds 'attention_mask', 'pixel_values'", {"attention_mask": 1, "pixel_values": 2})
    refuse(r"shape \[3\] and type torch.int64; expected", torch.ones(3, dtype=torch.long))
    refuse("prompt 0 has 130 tokens, but the language model has 128 positions", prompts(130)[0][None])
    short = reward_of(own_model("gpt2", {**text_models._GPT2, "n_positions": 9}))
    refuse("answer up to 5 more, but the reward model has 9 positions", good, reward_model=short)
    refuse("language model has 61 tokens and the reward model 70.*reward_tokenizer", good,
           reward_model=reward_of(own_model("gpt2", {**text_models._GPT2, "vocab_size": 70})))  # fmt: skip
    refuse("read as text; pass tokenizer", good, reward_tokenizer=tokenizer)
    refuse("T5ForConditionalGeneration is an encoder-decoder", good, model=tiny_model("t5"))
    reward_model.set_goal_state(None)
    refuse(r"no goal state.*set_goal_state\(reward_model.compute_goal_state", good)
    tokenizer.pad_token = None
    refuse("no pad token; set tokenizer.pad_token", ["abc", "ab"], tokenizer=tokenizer, goal_state=torch.ones(32))
