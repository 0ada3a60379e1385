"""The trainer of reward models: what it logs, what it measures, and that neither batches nor processes change that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.gloo import fresh_accelerator
from helpers.text_models import letter_tokenizer, tiny_model

from hf_contrastive import ContrastiveTrainingArguments, GoalConditionedRewardModel, GoalConditionedRewardTrainer
from hf_contrastive.data import (
    AnswerCollator,
    PreferenceCollator,
    load_completions,
    load_preferences,
    tokenize_completions,
    tokenize_preferences,
)
from hf_contrastive.evaluation import auroc, auroc_within, filtered_majority_vote, partial_auroc


WORDS = ["yes", "no", "maybe", "never", "surely", "of", "course", "not", "again", "often", "seldom", "now"]


def make_pairs(count=24):
    rows = [
        {
            "prompt": "abcdefgh"[: 2 + n % 6],
            "chosen": WORDS[n % 12] * (1 + n % 3),
            "rejected": WORDS[(n + 5) % 12] + "x",
        }
        for n in range(count)
    ]
    return tokenize_preferences(load_preferences(rows), letter_tokenizer(), max_length=64)[0]


def make_completions(count=20):
    rows = [
        {
            "question": f"q{'abcde'[n % 5]}",
            "generated_solution": WORDS[n % 12] * (1 + n % 4),
            "predicted_answer": str(n % 3),
            "is_correct": n % 3 == 0,
        }
        for n in range(count)
    ]
    return tokenize_completions(load_completions(rows), letter_tokenizer(), max_length=64)[0]


def make_model(**fields):
    torch.manual_seed(0)
    model = GoalConditionedRewardModel.from_backbone(tiny_model("llama"), **{"sim_samples": 3, **fields})
    model.set_goal_state(torch.randn(32, generator=torch.Generator().manual_seed(1)))
    return model


def make_trainer(folder, model=None, eval_dataset=None, **settings):
    options = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 5,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 2,
        "dataloader_pin_memory": False,
    }
    return GoalConditionedRewardTrainer(
        model or make_model(),
        ContrastiveTrainingArguments(str(folder), **{**options, **settings}),
        data_collator=PreferenceCollator(letter_tokenizer()),
        train_dataset=make_pairs(),
        eval_dataset=eval_dataset,
    )


def test_streamed_pairs_are_trained_on_alike(tmp_path):
    """In the order in which they come, the first step sees the same pairs; the report counts what has gone by."""
    import datasets

    rows = datasets.Dataset.from_list([{"prompt": "abc", "chosen": word, "rejected": "x"} for word in WORDS])
    losses = []
    for streaming in (False, True):
        given = rows.to_iterable_dataset() if streaming else rows
        tokens, report = tokenize_preferences(
            load_preferences(given, streaming=streaming), letter_tokenizer(), max_length=64
        )
        trainer = make_trainer(tmp_path / str(streaming), make_model(beta=0.0), max_steps=1, logging_steps=1)
        trainer.train_dataset = tokens
        trainer.args.train_sampling_strategy = "sequential"
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        assert report.rows >= (4 if streaming else 12)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class Recorder(GoalConditionedRewardTrainer):
    """Keeps the model's outputs of every step."""

    def _watch(self, inputs, outputs):
        super()._watch(inputs, outputs)
        self.seen = [*getattr(self, "seen", []), {k: float(v.detach()) for k, v in outputs.items() if v.ndim == 0}]


def test_logs_are_means_over_the_steps(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.__class__ = Recorder
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["step"] for log in logs] == [2, 4]
    for number, log in enumerate(logs):
        steps = trainer.seen[2 * number : 2 * number + 2]
        for name in ("preference_loss", "contrastive_loss", "accuracy", "reward_margin", "pos_sim", "neg_sim"):
            assert log[name] == pytest.approx(np.mean([step[name] for step in steps]), rel=1e-5, abs=1e-7)
    assert logs[0]["contrastive_loss"] != logs[1]["contrastive_loss"]


def test_resumed_logs_equal_uninterrupted_ones(tmp_path):
    """Also when the checkpoint lies within the steps of one log."""
    settings = {"max_steps": 6, "logging_steps": 3, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, **settings)
    whole.train()
    resumed = make_trainer(tmp_path / "other", **settings)
    resumed.train(str(tmp_path / "checkpoint-2"))
    logs = [
        [
            {k: v for k, v in log.items() if "runtime" not in k and "per_second" not in k and k != "train_loss"}
            for log in t.state.log_history
        ]
        for t in (whole, resumed)
    ]
    assert logs[0] == logs[1]
    assert any("preference_loss" in log for log in logs[0])


@pytest.mark.parametrize(
    "fields", [{}, {"per_sample": True}, {"beta": 0.0}, {"strategy": "cosine_avg", "future_only": True}]
)
def test_evaluation_does_not_depend_on_the_batch_size(fields, tmp_path):
    model, rows = make_model(**fields).eval(), make_pairs()
    found = []
    for size in (1, 5, 24):
        trainer = make_trainer(tmp_path, model, per_device_eval_batch_size=size)
        metrics = trainer.evaluate(rows)
        found.append({k: v for k, v in metrics.items() if "runtime" not in k and "per_second" not in k})
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5, abs=1e-6)
    with torch.no_grad():
        outputs = model(**PreferenceCollator(letter_tokenizer())(list(rows)))
    for name in ("loss", "preference_loss", "contrastive_loss", "accuracy", "reward_margin", "pos_sim", "neg_sim"):
        assert found[0][f"eval_{name}"] == pytest.approx(float(outputs[name]), rel=1e-4, abs=1e-6)
    rewards = torch.cat([outputs.chosen_rewards, outputs.rejected_rewards])
    assert found[0]["eval_reward_std"] == pytest.approx(float(rewards.std()), rel=1e-4)


def test_evaluation_leaves_training_alone(tmp_path):
    plain, watched = make_model(), make_model()
    make_trainer(tmp_path / "a", plain).train()
    trainer = make_trainer(tmp_path / "b", watched, make_pairs(6), eval_strategy="steps", eval_steps=1)
    trainer.train()
    assert sum("eval_accuracy" in log for log in trainer.state.log_history) == 4
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), watched.parameters(), strict=True))


def test_answers_are_scored_as_by_the_model(tmp_path):
    model, rows = make_model().eval(), make_completions()
    trainer, collator = make_trainer(tmp_path, model), AnswerCollator(letter_tokenizer())
    scores = trainer.score_completions(rows, collator)
    for row, one in zip(rows, scores, strict=True):
        with torch.no_grad():
            outputs = model(torch.tensor([row["input_ids"]]))
        span = slice(-row["num_actions"] - 1, -1)
        assert one["reward"] == pytest.approx(float(outputs.rewards[0]), abs=1e-5)
        np.testing.assert_allclose(one["token_rewards"], outputs.token_rewards[0, span].numpy(), atol=1e-5)
        np.testing.assert_allclose(one["q_values"], outputs.q_values[0, span].numpy(), atol=1e-5)
    found = trainer.evaluate_completions(rows, collator, threshold=0.05, skip_tokens=1)
    labels = list(rows["is_correct"])
    assert found["auroc"] == auroc([one["reward"] for one in scores], labels)
    assert found["partial_auroc"] == partial_auroc(
        [one["token_rewards"] for one in scores], labels, (0.2, 0.4, 0.6, 0.8, 1.0)
    )
    expected = filtered_majority_vote(
        list(rows["predicted_answer"]), labels, [one["q_values"] for one in scores], list(rows["question_id"]), 0.05, 1
    )
    assert found["vote"] == expected
    assert 0 < expected.filtered < len(rows)
    model.set_goal_state(None)
    assert found["auroc_within"] == auroc_within([one["reward"] for one in scores], labels, list(rows["question_id"]))
    assert set(trainer.evaluate_completions(rows, collator)) == {
        "auroc",
        "auroc_within",
        "partial_auroc",
        "answers",
        "correct",
    }


def test_labels_of_one_kind_have_no_auroc(tmp_path):
    rows = make_completions().filter(lambda row: row["is_correct"])
    with pytest.raises(ValueError, match="AUROC"):
        make_trainer(tmp_path).evaluate_completions(rows, AnswerCollator(letter_tokenizer()))


def test_goal_of_a_dataset(tmp_path):
    model, rows = make_model().eval(), make_pairs(7)
    trainer = make_trainer(tmp_path, model)
    expected = model.compute_goal_state([PreferenceCollator(letter_tokenizer())(list(rows))])
    torch.testing.assert_close(trainer.compute_goal_state(rows), expected)
    few = trainer.compute_goal_state(rows, max_samples=2)
    assert not torch.allclose(few, expected)


def test_rewards_that_are_not_finite_are_named(tmp_path):
    model = make_model()
    trainer = make_trainer(tmp_path, model)
    with torch.no_grad():
        model.value_head.layers[0].weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"the rewards of pair 0 of the dataset are"):
        trainer.evaluate(make_pairs(4))


def measure_everything(folder):
    """Runs in every process."""
    fresh_accelerator()
    model = make_model().eval()
    trainer = make_trainer(folder, model, per_device_eval_batch_size=2)
    rows, answers = make_pairs(11), make_completions(9)
    metrics = trainer.evaluate(rows)
    scores = trainer.score_completions(answers, AnswerCollator(letter_tokenizer()))
    kept = {k: v for k, v in metrics.items() if "runtime" not in k and "per_second" not in k}
    return kept, [one["reward"] for one in scores], trainer.compute_goal_state(rows)


@pytest.mark.distributed
def test_two_processes_measure_what_one_does(tmp_path, gloo_pool):
    expected = measure_everything(tmp_path)
    for metrics, rewards, goal in gloo_pool.run(measure_everything, str(tmp_path)):
        assert metrics == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
        assert rewards == pytest.approx(expected[1], rel=1e-5, abs=1e-6)
        torch.testing.assert_close(goal, expected[2])
