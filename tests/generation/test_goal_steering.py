"""Steering by token: the scores are those of the full reward model on every candidate, whatever `generate` does with
the rows."""

from __future__ import annotations

import inspect

import pytest
import torch
from helpers import text_models
from helpers.text_models import DECODERS, letter_tokenizer, padded, prompts, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessor

from hf_contrastive import GoalConditionedRewardModel
from hf_contrastive.generation import GoalSteering, goal_states, goal_steered_generate


ROWS = (9, 4, 6)
TOKENS = 12


def own_model(name, settings):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


def reward_of(name, seed=1):
    if name == "jamba":
        model = own_model("jamba", {**DECODERS["jamba"], "attn_layer_period": 2, "attn_layer_offset": 1})
    elif name == "mamba":
        model = own_model(
            "mamba", {**text_models._SPECIAL, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
        )
    else:
        model = tiny_model(name)
    reward_model = GoalConditionedRewardModel.from_backbone(model)
    generator = torch.Generator().manual_seed(seed)
    reward_model.set_goal_state(torch.randn(reward_model.config.state_size, generator=generator))
    return reward_model


class Naive(LogitsProcessor):
    """The definition: the whole reward model on every candidate's whole text, one after the other."""

    def __init__(self, reward_model, weight, top_k, mask):
        self.reward_model, self.weight, self.top_k, self.mask = reward_model, weight, top_k, mask

    @torch.no_grad()
    def __call__(self, input_ids, scores):
        new = torch.full_like(scores, -torch.inf)
        training = self.reward_model.training
        self.reward_model.eval()
        copies = len(input_ids) // len(self.mask)
        for row, ids in enumerate(input_ids):
            mask = self.mask[row // copies]
            ids = torch.cat([ids[: len(mask)][mask.bool()], ids[len(mask) :]])
            likely = scores[row].log_softmax(-1)
            for token in likely.topk(self.top_k).indices:
                text = torch.cat([ids, token[None]])[None]
                q = self.reward_model(text, torch.ones_like(text)).q_values[0, -1] if self.weight else 0.0
                new[row, token] = likely[token] + self.weight * q
        self.reward_model.train(training)
        return new


def run(model, processor, inputs, **options):
    torch.manual_seed(0)
    options = {"max_new_tokens": TOKENS, "return_dict_in_generate": True, "output_scores": True, **options}
    return model.generate(**inputs, logits_processor=[processor], **options)


def assert_same(found, expected):
    assert torch.equal(found.sequences, expected.sequences)
    for one, other in zip(found.scores, expected.scores, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "num_return_sequences": 2},
    "beams": {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 7},
    "processors": {"repetition_penalty": 1.4, "min_new_tokens": 5, "no_repeat_ngram_size": 2},
    "static cache": {"cache_implementation": "static"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_scores_are_those_of_the_full_model(name, mode):
    model, reward_model = tiny_model(name), reward_of("gpt2")
    inputs = padded(model, prompts(*ROWS))
    mask = inputs["attention_mask"]
    steering = GoalSteering(reward_model, 6.0, 5, attention_mask=mask)
    expected = run(model, Naive(reward_model, 6.0, 5, mask), inputs, **MODES[mode])
    assert_same(run(model, steering, inputs, **MODES[mode]), expected)
    assert_same(run(model, steering, inputs, **MODES[mode]), expected)  # the same object again
    unsteered = run(model, Naive(reward_model, 0.0, 5, mask), inputs, **MODES[mode])
    assert unsteered.sequences.shape != expected.sequences.shape or not torch.equal(
        unsteered.sequences, expected.sequences
    )


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "greedy") for name in (*DECODERS, "mamba") if name not in ("gpt_neox", "gpt2")),
        *((name, "beams") for name in ("mistral_window", "bloom", "jamba", "mamba")),
    ],
)
def test_reward_models_of_many_kinds(name, mode):
    model, reward_model = tiny_model("llama"), reward_of(name)
    inputs = padded(model, prompts(*ROWS))
    mask = inputs["attention_mask"]
    expected = run(model, Naive(reward_model, 6.0, 4, mask), inputs, **{**MODES[mode], "max_new_tokens": 6})
    for _ in range(2):
        steering = GoalSteering(reward_model, 6.0, 4, attention_mask=mask)
        assert_same(run(model, steering, inputs, **{**MODES[mode], "max_new_tokens": 6}), expected)
    ways = set(goal_states._verified.get(reward_model, {}).values()) or {"anew"}
    assert ways == {{"jamba": "columns", "mamba": "anew"}.get(name, "pieces")}


@pytest.mark.parametrize("name", ["gpt2", "mistral_window", "jamba", "mamba"])
def test_ended_rows_and_tokens_chosen_by_others(name):
    """A token that steering never tried (padding behind the end, another processor's choice) is read like any
    other."""
    model, reward_model = tiny_model("llama"), reward_of(name)
    inputs = padded(model, prompts(*ROWS))
    mask = inputs["attention_mask"]

    class Force(LogitsProcessor):
        def __call__(self, input_ids, scores):
            place = {9 + 3: (0, 7), 9 + 5: (1, 2)}.get(input_ids.shape[1])  # row 1 ends after six tokens
            if place is not None:
                scores = scores.clone()
                scores[place[0]] = -torch.inf
                scores[place[0], place[1]] = 0.0
            return scores

    outputs = []
    for processor in (Naive(reward_model, 6.0, 4, mask), GoalSteering(reward_model, 6.0, 4, attention_mask=mask)):
        outputs.append(
            model.generate(
                **inputs, logits_processor=[processor, Force()], max_new_tokens=TOKENS, return_dict_in_generate=True,
                output_scores=True,
            )
        )  # fmt: skip
    assert outputs[0].sequences[0, 9 + 3] == 7
    assert outputs[0].sequences[1, 9 + 5 :].tolist() == [2, *[0] * 6]
    assert_same(outputs[1], outputs[0])


def test_a_token_is_read_once(monkeypatch):
    """The chosen candidate's states are there already; beams that change places take theirs along."""
    model, reward_model = tiny_model("llama"), reward_of("gpt2")
    inputs = padded(model, prompts(*ROWS))
    mask, options = inputs["attention_mask"], {"min_new_tokens": TOKENS}
    run(model, GoalSteering(reward_model, 6.0, 4, attention_mask=mask), inputs, **options)  # it is compared here
    read, original = [], reward_model.backbone.forward

    def forward(*args, **kwargs):
        read.append(tuple(kwargs["input_ids"].shape))
        return original(*args, **kwargs)

    forward.__signature__ = inspect.signature(original)
    monkeypatch.setattr(reward_model.backbone, "forward", forward)
    for rows, mode in ((3, {}), (12, {"num_beams": 4})):
        read.clear()
        run(model, GoalSteering(reward_model, 6.0, 4, attention_mask=mask), inputs, **options, **mode)
        assert read == [(rows, 7), (rows, 2), *[(rows * 4, 1)] * TOKENS]


def test_weight_zero_leaves_the_order_and_needs_no_reading(monkeypatch):
    model, reward_model = tiny_model("llama"), reward_of("gpt2")
    inputs = padded(model, prompts(*ROWS))
    monkeypatch.setattr(reward_model.backbone, "forward", None)
    steering = GoalSteering(reward_model, 0.0, 5, attention_mask=inputs["attention_mask"])
    plain = model.generate(**inputs, max_new_tokens=TOKENS)
    assert torch.equal(model.generate(**inputs, max_new_tokens=TOKENS, logits_processor=[steering]), plain)
    scores = torch.randn(3, 61)
    found = steering(inputs["input_ids"], scores)
    assert (torch.isfinite(found).sum(1) == 5).all()
    assert torch.equal(found.topk(5).indices, scores.topk(5).indices)


def test_without_padding_no_mask_is_needed():
    model, reward_model = tiny_model("llama"), reward_of("llama")
    inputs = padded(model, prompts(6, 6))
    expected = run(model, Naive(reward_model, 6.0, 4, inputs["attention_mask"]), inputs)
    assert_same(run(model, GoalSteering(reward_model, 6.0, 4), inputs), expected)
    negative = run(model, GoalSteering(reward_model, -6.0, 4), inputs)
    assert not torch.equal(negative.sequences[:, :8], expected.sequences[:, :8])


def test_one_call():
    model, reward_model, tokenizer = tiny_model("llama"), reward_of("gpt2"), letter_tokenizer()
    inputs = padded(model, prompts(*ROWS))
    expected = run(model, Naive(reward_model, 6.0, 8, inputs["attention_mask"]), inputs).sequences
    found = goal_steered_generate(model, reward_model, inputs, weight=6.0, max_new_tokens=TOKENS)
    assert torch.equal(found, expected)
    texts = ["abcdb", "xyz"]
    batch = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    options = {"weight": 6.0, "tokenizer": tokenizer, "max_new_tokens": TOKENS}
    written = goal_steered_generate(model, reward_model, texts, **options)
    ids = goal_steered_generate(model, reward_model, batch, **options)
    assert written == tokenizer.batch_decode(ids[:, 5:], skip_special_tokens=True)
    assert goal_steered_generate(model, reward_model, "abcdb", **options) == written[0]
    stop = written[0][4]
    assert (
        goal_steered_generate(model, reward_model, "abcdb", stop_strings=stop, **options)
        == (written[0][: written[0].index(stop) + 1])
    )
    goal = -reward_model.goal_state
    assert goal_steered_generate(model, reward_model, texts, goal_state=goal, **options) != written
    contrastive = goal_steered_generate(model, reward_model, texts, top_k=4, penalty_alpha=0.6, **options)
    assert contrastive != written
    assert contrastive[0] == goal_steered_generate(model, reward_model, "abcdb", top_k=4, penalty_alpha=0.6, **options)
    assert reward_model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": float("inf")}, r"`weight` is inf"),
        ({"weight": True}, r"`weight` is True"),
        ({"top_k": 0}, r"`top_k` is 0"),
        ({"goal_state": torch.ones(3)}, r"`goal_state` is \[3\]"),
        ({"stop_strings": "a"}, r"`stop_strings` need a tokenizer"),
        ({"max_new_tokens": 120}, r"pass max_new_tokens=119 or fewer"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work_are_refused(options, message):
    model, reward_model = tiny_model("gpt2"), reward_of("gpt2")
    with pytest.raises(ValueError, match=message):
        goal_steered_generate(model, reward_model, padded(model, prompts(*ROWS)), **{"weight": 1.0, **options})


def test_models_and_masks_that_do_not_fit_are_refused():
    model, reward_model = tiny_model("gpt2"), reward_of("gpt2")
    inputs = padded(model, prompts(*ROWS))
    mask = inputs["attention_mask"]
    with pytest.raises(ValueError, match="padded on the left"):
        GoalSteering(reward_model, 1.0, attention_mask=mask.flip(1))
    steering = GoalSteering(reward_model, 1.0, attention_mask=mask[:2])
    with pytest.raises(ValueError, match="2 prompts with 9 tokens, but `generate` works on 3 rows"):
        run(model, steering, inputs)
    other = GoalConditionedRewardModel.from_backbone(own_model("gpt2", {**text_models._GPT2, "vocab_size": 70}))
    other.set_goal_state(torch.ones(32))
    with pytest.raises(ValueError, match="61 tokens, but the reward model has 70"):
        run(model, GoalSteering(other, 1.0), inputs)
    with pytest.raises(ValueError, match="61 tokens and the reward model 70"):
        goal_steered_generate(model, other, inputs, weight=1.0)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
        goal_steered_generate(tiny_model("t5"), reward_model, inputs, weight=1.0)
    short = GoalConditionedRewardModel.from_backbone(own_model("gpt2", {**text_models._GPT2, "n_positions": 12}))
    short.set_goal_state(torch.ones(32))
    with pytest.raises(ValueError, match="reached the 12 positions of the reward model"):
        run(model, GoalSteering(short, 1.0), inputs, min_new_tokens=TOKENS)
    reward_model.set_goal_state(None)
    with pytest.raises(ValueError, match="no goal state"):
        GoalSteering(reward_model, 1.0)
