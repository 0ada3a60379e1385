"""What is the reward model's own: the objective against a plain one, padding, goals, scores, the programs that use it."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.text_models import letter_tokenizer, tiny_model
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from hf_contrastive import GoalConditionedRewardConfig, GoalConditionedRewardModel
from hf_contrastive.data import PreferenceCollator, load_preferences, tokenize_preferences
from hf_contrastive.hub import export_backbone
from hf_contrastive.modules.lora import add_lora
from hf_contrastive.modules.reward_readout import goal_similarity
from hf_contrastive.training import cached_backward


def wrapped(name: str = "gpt2", **fields) -> GoalConditionedRewardModel:
    torch.manual_seed(0)
    return GoalConditionedRewardModel.from_backbone(tiny_model(name), **fields).eval()


def texts(lengths=(9, 6, 8), seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 61, (length,), generator=generator) for length in lengths]


def padded(rows, side="left", width=None):
    width = width or max(map(len, rows))
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask


def pairs(side="left", batch=3, samples=4):
    generator = torch.Generator().manual_seed(5)
    chosen, rejected = texts((9, 6, 8)[:batch]), texts((7, 10, 6)[:batch], seed=4)
    found = {}
    for name, rows in (("chosen", chosen), ("rejected", rejected)):
        found[f"{name}_input_ids"], found[f"{name}_attention_mask"] = padded(rows, side, 11)
        found[f"{name}_num_actions"] = torch.tensor([len(row) - 3 for row in rows])
    found["draw_positive"] = torch.rand(batch, 2, samples, generator=generator)
    found["draw_negative_source"], found["draw_negative_goal"] = torch.rand(2, batch, samples, generator=generator)
    return found, chosen, rejected


def naive(model, chosen, rejected, inputs, margin=None):
    """Loop over pairs and states, each text alone and without padding."""
    config, near, counts, far, preferences = model.config, [], [], [], []
    for row, (one, other) in enumerate(zip(chosen, rejected, strict=True)):
        states = [model.backbone(input_ids=ids[None]).last_hidden_state[0] for ids in (one, other)]
        rewards = [model.value_head(h[-1]) for h in states]
        preferences.append(-F.logsigmoid(rewards[0] - rewards[1] - (0 if margin is None else margin[row])))

        def place(draw, kind, percentile, states=states, row=row):
            count = int(inputs[f"{('chosen', 'rejected')[kind]}_num_actions"][row])
            from_end = int(((percentile - 1) * float(draw) + 1) * count + 1)
            return len(states[kind]) - min(from_end, len(states[kind]) - 1)

        draws = inputs["draw_positive"][row]
        sources = [place(min(a, b), 0, config.source_state_percentile) for a, b in draws.T]
        goals = [place(max(a, b), 0, config.goal_state_percentile) for a, b in draws.T]
        own = []
        for source in sources:
            later = [goal for goal in goals if goal >= source or not config.future_only]
            targets = [states[0][goal] for goal in later]
            if config.strategy == "cosine_avg":
                targets = [torch.stack(targets).mean(0)] if targets else []
            own += [F.cosine_similarity(states[0][source], target, dim=0).sigmoid() for target in targets]
        near.append(torch.stack(own).sum())
        counts.append(len(own))
        sources = [place(d, 0, config.source_state_percentile) for d in inputs["draw_negative_source"][row]]
        goals = [place(d, 1, config.goal_state_percentile) for d in inputs["draw_negative_goal"][row]]
        targets = [states[1][goal] for goal in goals]
        if config.strategy == "cosine_avg":
            targets = [torch.stack(targets).mean(0)]
        far.append(
            torch.stack(
                [F.cosine_similarity(states[0][s], t, dim=0).sigmoid() for s in sources for t in targets]
            ).mean()
        )
    near, counts, far = torch.stack(near), torch.tensor(counts), torch.stack(far)
    if config.per_sample:
        goal = (-(near / counts).log() - (1 - far).log()).mean()
    else:
        goal = -(near.sum() / counts.sum()).log() - (1 - far.mean()).log()
    preference = torch.stack(preferences).mean()
    return preference, goal, preference + config.beta * goal


SETTINGS = [
    {},
    {"strategy": "cosine_avg"},
    {"future_only": True},
    {"future_only": True, "strategy": "cosine_avg", "goal_state_percentile": 0.6},
    {"per_sample": True, "source_state_percentile": 0.4},
    {"value_head": "mlp", "beta": 2.0, "goal_state_percentile": 0.5},
]


@pytest.mark.parametrize("fields", SETTINGS, ids=lambda fields: "-".join(map(str, fields.values())) or "official")
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_losses_are_those_of_the_paper(name, fields):
    model = wrapped(name, **fields).double()
    inputs, chosen, rejected = pairs()
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    margin = torch.tensor([0.0, 0.7, -0.2], dtype=torch.float64)
    outputs = model(**inputs, margin=margin)
    expected = naive(model, chosen, rejected, inputs, margin)
    found = (outputs.preference_loss, outputs.contrastive_loss, outputs.loss)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    ours = torch.autograd.grad(outputs.loss, list(model.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(expected[2], list(model.parameters()), allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_future_only_leaves_pairs_out():
    """Otherwise the two settings above would compare equal things."""
    inputs, *_ = pairs()
    with torch.no_grad():
        losses = [float(wrapped(future_only=flag)(**inputs).contrastive_loss) for flag in (False, True)]
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gpt_neox", "bloom", "mistral_window"])
def test_scores_do_not_depend_on_padding(name):
    model = wrapped(name).double()
    model.set_goal_state(torch.randn(model.config.state_size))
    rows = texts()
    # BLOOM's attention works in float32 whatever the model does
    close = {"rtol": 1e-4, "atol": 1e-6} if name == "bloom" else {"rtol": 1e-7, "atol": 1e-7}
    with torch.no_grad():
        alone = [model(row[None]) for row in rows]
        for side, width in (("left", None), ("right", None), ("left", 14), ("right", 14)):
            ids, mask = padded(rows, side, width)
            outputs = model(ids, mask)
            for number, one in enumerate(alone):
                where = mask[number].bool()
                torch.testing.assert_close(outputs.logits[number], one.logits[0], **close)
                for key in ("token_rewards", "q_values", "last_hidden_state"):
                    torch.testing.assert_close(outputs[key][number][where], one[key][0], **close)
                    assert not outputs[key][number][~where].any()
            torch.testing.assert_close(outputs.rewards, outputs.logits[:, 0])
            last = [float(outputs.token_rewards[n][mask[n].bool()][-1]) for n in range(3)]
            torch.testing.assert_close(outputs.rewards, torch.tensor(last, dtype=torch.float64))


def test_pairs_do_not_depend_on_the_side_of_the_padding():
    model = wrapped().double()
    torch.testing.assert_close(model(**pairs("left")[0]).loss, model(**pairs("right")[0]).loss)


def test_without_a_mask_padding_is_found():
    model = wrapped()
    ids, mask = padded(texts(), "right")
    assert torch.equal(model(ids).logits, model(ids, mask).logits)
    model.config.get_text_config().pad_token_id = None
    with pytest.raises(
        ValueError, match=r"a batch of 3 texts has no `attention_mask`, and the model has no pad token"
    ):
        model(ids)
    assert model(ids[:1]).logits.shape == (1, 1)  # one text needs none


def test_pad_token_outside_the_vocabulary_is_never_looked_up():
    model = wrapped()
    ids, mask = padded(texts(), "right")
    expected = model(ids, mask).logits
    hidden, _, _ = model._states(ids.masked_fill(mask == 0, 10**6), mask)
    assert bool(torch.isfinite(hidden).all())
    torch.testing.assert_close(model.value_head(hidden[1, 5])[None], expected[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"chosen_num_actions": torch.tensor([0, 3, 3])},
            r"`chosen_num_actions` of row 0 is 0, but it must be from 1 to 8",
        ),
        ({"rejected_num_actions": torch.tensor([4, 3, 6])}, r"`rejected_num_actions` of row 2 is 6, .* from 1 to 5"),
        ({"chosen_num_actions": None}, r"needs `chosen_num_actions` .* set beta=0"),
        ({"rejected_input_ids": None}, r"`rejected_input_ids` is missing"),
        ({"input_ids": torch.ones(1, 3).long()}, r"pass either `input_ids` .* or `chosen_input_ids`"),
        ({"chosen_attention_mask": torch.ones(3, 2)}, r"`chosen_attention_mask` has shape \[3, 2\]"),
        ({"rejected_input_ids": torch.full((3, 11), 61)}, r"`rejected_input_ids` has the token 61"),
        ({"draw_positive": torch.rand(2, 2, 4)}, r"`draw_positive` has shape \[2, 2, 4\], expected \[3, 2, 16\]"),
        ({"chosen_attention_mask": torch.zeros(3, 11).long()}, r"row 0 of the batch has no token"),
        ({"margin": torch.ones(2)}, r"`margin` has shape \[2\], expected one number a pair"),
    ],
)
def test_bad_inputs_are_refused_in_words(change, message):
    inputs, *_ = pairs()
    with pytest.raises(ValueError, match=message):
        wrapped()(**{**inputs, **change})


def test_beta_0_is_bradley_terry_alone():
    inputs, *_ = pairs()
    model = wrapped(beta=0.0)
    assert "Bradley-Terry" in model.describe_objective()
    assert "cosine" in wrapped().describe_objective()
    outputs = model(**inputs)
    assert torch.equal(outputs.loss, outputs.preference_loss)
    assert float(outputs.contrastive_loss) > 0  # watched
    assert not outputs.contrastive_loss.requires_grad
    bare = {name: value for name, value in inputs.items() if "actions" not in name and "draw" not in name}
    torch.testing.assert_close(model(**bare).loss, outputs.loss)
    assert "contrastive_loss" not in model(**bare)


def test_training_draws_and_evaluation_does_not():
    model = wrapped(sim_samples=2, unsim_samples=2)
    inputs = {name: value for name, value in pairs()[0].items() if "draw" not in name}
    assert torch.equal(model(**inputs).loss, model(**inputs).loss)
    model.train()
    torch.manual_seed(0)
    losses = [float(model(**inputs).contrastive_loss.detach()) for _ in range(3)]
    assert len(set(losses)) == 3
    torch.manual_seed(0)
    assert float(model(**inputs).contrastive_loss) == losses[0]


def test_quantiles_stand_for_the_draws():
    """With many states, the evaluation's value is the one that training has in the mean."""
    inputs = {name: value for name, value in pairs()[0].items() if "draw" not in name}
    model = wrapped(sim_samples=400, unsim_samples=400)
    with torch.no_grad():
        quiet = model(**inputs)
        model.training = True  # draws, without dropout
        torch.manual_seed(1)
        drawn = [model(**inputs) for _ in range(20)]
    for name in ("pos_sim", "neg_sim", "contrastive_loss"):
        mean = torch.stack([one[name] for one in drawn]).mean()
        assert abs(float(quiet[name] - mean)) < 0.01


def test_gradient_cache_is_exact():
    inputs, *_ = pairs()
    plain, cached = wrapped().double(), wrapped().double()
    loss = plain(**inputs).loss
    loss.backward()
    outputs = cached_backward(cached, inputs, chunk_size=2)
    torch.testing.assert_close(outputs.loss, loss)
    for one, other in zip(plain.parameters(), cached.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


# ---- Goal ----


def test_goal_state_is_the_mean_last_state_and_is_saved(tmp_path):
    model = wrapped()
    inputs, chosen, _ = pairs()
    with torch.no_grad():
        states = torch.stack([model.backbone(input_ids=row[None]).last_hidden_state[0, -2] for row in chosen])
    goal = model.compute_goal_state([inputs])
    torch.testing.assert_close(goal, states.mean(0))
    halves = [{name: value[rows] for name, value in inputs.items()} for rows in (slice(0, 2), slice(2, 3))]
    torch.testing.assert_close(model.compute_goal_state(halves), goal)
    ids, mask = padded([row[:-1] for row in chosen])
    torch.testing.assert_close(model.compute_goal_state([{"input_ids": ids, "attention_mask": mask}]), goal)
    assert model.goal_state is None
    assert model(ids, mask).q_values is None
    model.set_goal_state(goal)
    expected = model(ids, mask)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.goal_state, goal)
    assert torch.equal(loaded(ids, mask).q_values, expected.q_values)
    other = torch.randn(32)
    q_values = loaded(ids, mask, goal_state=other).q_values
    torch.testing.assert_close(q_values, goal_similarity(expected.last_hidden_state, other) * mask)
    loaded.set_goal_state(None)
    assert "q_values" not in loaded(ids, mask)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (torch.zeros(32), r"`goal_state` is zero"),
        (torch.ones(16), r"`goal_state` has shape \[16\], but the hidden states of this model have 32 numbers"),
        (torch.full((32,), torch.nan), r"`goal_state` has NaN"),
        (torch.ones(32).long(), r"`goal_state` is Tensor, expected a floating-point tensor \[32\]"),
    ],
)
def test_bad_goals_are_refused(goal, message):
    model = wrapped()
    with pytest.raises(ValueError, match=message):
        model.set_goal_state(goal)
    with pytest.raises(ValueError, match=message):
        model(torch.tensor([[3, 4]]), goal_state=goal)
    assert model.goal_state is None


def test_no_text_has_no_goal():
    with pytest.raises(ValueError, match=r"`batches` is empty"):
        wrapped().compute_goal_state([])


def test_an_adapter_takes_its_goal_along(tmp_path):
    from peft import PeftModel

    model = add_lora(wrapped(), r=2)
    goal = torch.randn(32)
    model.get_base_model().set_goal_state(goal)
    assert torch.equal(model.get_base_model().goal_state, goal)
    model.save_pretrained(str(tmp_path))
    assert any("goal" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(wrapped(), str(tmp_path))
    assert torch.equal(loaded.get_base_model().goal_state, goal)
    assert torch.equal(loaded.merge_and_unload().goal_state, goal)


# ---- Scores ----


def test_scores_of_texts():
    model, tokenizer = wrapped(), letter_tokenizer()
    model.set_goal_state(torch.randn(32))
    prompts, answers = ["abc", "what", "x"], ["yes", "nono", "maybe"]
    found = model.score(prompts, answers, tokenizer=tokenizer, batch_size=2)
    for prompt, answer, reward in zip(prompts, answers, found, strict=True):
        ids = torch.tensor([[*tokenizer(prompt + answer)["input_ids"], tokenizer.eos_token_id]])
        torch.testing.assert_close(model(ids).rewards[0], reward)
        torch.testing.assert_close(model.score(prompt, answer, tokenizer=tokenizer)[0], reward)
    # one prompt goes with all answers
    many = model.score("abc", answers, tokenizer=tokenizer)
    torch.testing.assert_close(many[0], found[0])
    details = model.score(prompts, answers, tokenizer=tokenizer, details=True)
    torch.testing.assert_close(details.rewards, found)
    for answer, tokens, rewards, q_values in zip(
        answers, details.tokens, details.token_rewards, details.q_values, strict=True
    ):
        assert tokenizer.decode(tokens) == answer
        assert len(rewards) == len(q_values) == len(tokens)
    ids = torch.tensor([tokenizer("abcyes")["input_ids"]])
    torch.testing.assert_close(details.q_values[0], model(ids).q_values[0, 3:], rtol=1e-4, atol=1e-5)
    model.train()
    torch.testing.assert_close(model.score(prompts, answers, tokenizer=tokenizer), found)
    assert model.training


def test_chats_are_scored_through_the_template():
    model, tokenizer = wrapped(), letter_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + '!' }}{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}"
    )
    chat = [{"role": "user", "content": "abc"}], [{"role": "assistant", "content": "yes"}]
    plain = model.score("u:abc!a:", "yes!", tokenizer=tokenizer)
    torch.testing.assert_close(model.score(*chat, tokenizer=tokenizer), plain)
    torch.testing.assert_close(model.score("abc", "yes", tokenizer=tokenizer, as_chat=True), plain)


def test_what_does_not_fit_is_said():
    model, tokenizer = wrapped(), letter_tokenizer()
    with pytest.warns(
        UserWarning, match=r"longer than 8 tokens: the start of the prompt was left out for 2 of 3 texts; for 1 of"
    ):
        found = model.score(["abcdef", "a", "ab"], ["xyz", "x", "abcdefghijk"], tokenizer=tokenizer, max_length=8)
    torch.testing.assert_close(found[0], model.score("cdef", "xyz", tokenizer=tokenizer)[0])
    torch.testing.assert_close(found[2], model.score("", "abcdefg", tokenizer=tokenizer)[0])
    with pytest.raises(ValueError, match=r"`max_length` is 500, but the model has 128 positions"):
        model.score("a", "b", tokenizer=tokenizer, max_length=500)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b"], ["x"]), r"2 prompts and 1 answers"),
        ((["a", "b"], ["x", ""]), r"answer 1: the answer is empty"),
        ((["a"], []), r"give one answer a prompt, and at least one"),
        (("a",), r"`answers` is missing"),
    ],
)
def test_bad_texts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        wrapped().score(*arguments, tokenizer=letter_tokenizer())


def test_a_tokenizer_is_found_beside_the_checkpoint(tmp_path):
    model, tokenizer = wrapped(), letter_tokenizer()
    with pytest.raises(ValueError, match=r"there is no tokenizer to read texts with"):
        model.score("a", "b")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.score("a", "b"), model.score("a", "b", tokenizer=tokenizer))


def test_broken_weights_are_not_a_score():
    model = wrapped()
    with torch.no_grad():
        model.value_head.layers[0].weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"the reward of answer 0 is nan"):
        model.score("a", ["b", "c"], tokenizer=letter_tokenizer())


def test_goals_from_words():
    model, tokenizer = wrapped(), letter_tokenizer()

    def last(text):
        with torch.no_grad():
            return model.backbone(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0, -1]

    torch.testing.assert_close(model.goal_state_from_texts(["good"], tokenizer=tokenizer), last("good"))
    found = model.goal_state_from_texts(["ab", "c"], ["yes", "no"], tokenizer=tokenizer)
    torch.testing.assert_close(found, (last("abyes") + last("cno")) / 2)


def test_rewards_are_scaled_when_asked_for():
    ids, mask = padded(texts())
    plain = wrapped()(ids, mask)
    scaled = wrapped(normalize_reward=True, reward_mean=0.5, reward_std=2.0)
    torch.testing.assert_close(scaled(ids, mask).logits, (plain.logits - 0.5) / 2)
    inputs, *_ = pairs()
    assert torch.equal(scaled(**inputs).loss, wrapped()(**inputs).loss)  # training is not touched


# ---- Where reward models are expected ----


def test_loaded_as_a_sequence_classifier(tmp_path):
    model, tokenizer = wrapped(), letter_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert type(loaded) is GoalConditionedRewardModel
    ids, mask = padded(texts(), "right")
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    # weights that are mapped from the file start at other addresses, with which some processors round the last bit differently
    torch.testing.assert_close(loaded(input_ids=ids, attention_mask=mask).logits[:, 0], model(ids, mask).rewards)
    with pytest.raises((StrictDataclassError, ValueError), match="a reward is one number"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    classify = pipeline("text-classification", model=str(tmp_path), tokenizer=str(tmp_path), device="cpu")
    one = classify("abc")[0]
    assert one["label"] == "reward"
    expected = float(model(torch.tensor([tokenizer("abc")["input_ids"]])).rewards)
    assert one["score"] == pytest.approx(expected, abs=1e-5)


def test_values_of_hidden_states_as_ppo_reads_them():
    """TRL's PPO calls the backbone by `base_model_prefix` and `score` on its states."""
    model = wrapped()
    ids, mask = padded(texts(), "right")
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    values = model.score(hidden)
    assert values.shape == (3, 9, 1)
    torch.testing.assert_close(values[0, -1, 0], model(ids, mask).rewards[0])


def test_two_grpo_steps_with_it_as_the_reward(tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed; pip install 'hf-contrastive[trl]'")
    import datasets

    reward, tokenizer = wrapped(), letter_tokenizer()
    for folder, model in (("reward", reward), ("policy", tiny_model("gpt2"))):
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    policy = tiny_model("gpt2")
    before = policy.transformer.h[0].mlp.c_fc.weight.clone()
    args = trl.GRPOConfig(
        str(tmp_path / "out"),
        use_cpu=True,
        bf16=False,
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = trl.GRPOTrainer(
        policy,
        reward_funcs=str(tmp_path / "reward"),
        args=args,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["abc", "what", "xyz", "no"]}),
        processing_class=tokenizer,
    )
    assert type(trainer.reward_funcs[0]) is GoalConditionedRewardModel
    trainer.train()
    rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    assert len(rewards) == 2
    assert all(abs(value) > 1e-6 for value in rewards)
    assert not torch.equal(before, policy.transformer.h[0].mlp.c_fc.weight)


def test_trained_as_bradley_terry_by_trl(tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed; pip install 'hf-contrastive[trl]'")
    import datasets

    model, tokenizer = wrapped(), letter_tokenizer()
    args = trl.RewardConfig(
        str(tmp_path),
        use_cpu=True,
        bf16=False,
        max_steps=2,
        per_device_train_batch_size=2,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    rows = datasets.Dataset.from_dict(
        {"prompt": ["abc", "what"] * 2, "chosen": ["yes", "no"] * 2, "rejected": ["maybe", "ni"] * 2}
    )
    trainer = trl.RewardTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    assert [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_backbone_of_a_language_model_and_back(tmp_path):
    language_model = tiny_model("llama")
    language_model.save_pretrained(tmp_path / "lm")
    model = GoalConditionedRewardModel.from_backbone(tmp_path / "lm", beta=0.1)
    assert model.training
    assert model.config.beta == 0.1
    for name, tensor in language_model.model.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name])
    same = GoalConditionedRewardModel.from_backbone(language_model)
    assert torch.equal(same.backbone.norm.weight, model.backbone.norm.weight)
    export_backbone(model, tmp_path / "out")
    assert type(AutoModel.from_pretrained(tmp_path / "out")).__name__ == "LlamaModel"
    config = json.loads((tmp_path / "lm" / "config.json").read_text())
    (tmp_path / "lm" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"has no weights for \d+ tensors of LlamaModel, for example 'layers.2"):
        GoalConditionedRewardModel.from_backbone(tmp_path / "lm")


def test_a_new_head_is_drawn_as_the_official_code_draws_it():
    backbone = {"model_type": "gpt2", "n_embd": 512, "n_layer": 1, "n_head": 2, "vocab_size": 8}
    linear = GoalConditionedRewardModel(GoalConditionedRewardConfig(backbone_config=backbone)).value_head
    assert [layer.bias is None for layer in linear.layers] == [True]
    assert float(linear.layers[0].weight.std()) == pytest.approx(1 / 513, rel=0.15)
    mlp = GoalConditionedRewardModel(
        GoalConditionedRewardConfig(backbone_config=backbone, value_head="mlp")
    ).value_head
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(256, 512), (256, 256), (512, 256), (1, 512)]
    for layer, size in zip(mlp.layers, (512, 256, 256, 512), strict=True):
        assert float(layer.weight.std()) == pytest.approx(1 / (size + 1), rel=0.15)
    assert [layer.bias is None for layer in mlp.layers] == [False, False, False, True]


def test_collated_pairs_go_straight_in():
    tokenizer, model = letter_tokenizer(), wrapped()
    rows = [
        {"prompt": "abc", "chosen": "yes", "rejected": "maybe", "margin": 0.5},
        {"prompt": "x", "chosen": "no", "rejected": "n", "margin": 1.0},
    ]
    tokens, _ = tokenize_preferences(load_preferences(rows), tokenizer, max_length=32)
    batch = PreferenceCollator(tokenizer)(list(tokens))
    outputs = model(**batch)
    torch.testing.assert_close(outputs.chosen_rewards, model.score(["abc", "x"], ["yes", "no"], tokenizer=tokenizer))
    gap = outputs.chosen_rewards - outputs.rejected_rewards - torch.tensor([0.5, 1.0])
    torch.testing.assert_close(outputs.preference_loss, -F.logsigmoid(gap).mean())
