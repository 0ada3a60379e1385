"""Evaluation of language models by the trainer: exact over tokens, whatever the batches and the processes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.gloo import fresh_accelerator
from helpers.text_models import tiny_model
from torch.nn import functional as F

from hf_contrastive import ContrastiveTrainingArguments, SimCTGForCausalLM
from hf_contrastive.data import TextCollator
from hf_contrastive.evaluation import isotropy
from hf_contrastive.training import LanguageModelTrainer


def rows(count: int = 7) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(2)
    return [{"input_ids": torch.randint(3, 61, (4 + n % 4,), generator=generator).tolist()} for n in range(count)]


def make_trainer(folder: Any, batch_size: int = 2, **options: Any) -> LanguageModelTrainer:
    fresh_accelerator()
    model = SimCTGForCausalLM.from_backbone(tiny_model("gpt2"))
    settings = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, **options}
    arguments = ContrastiveTrainingArguments(str(folder), per_device_eval_batch_size=batch_size, **settings)
    return LanguageModelTrainer(
        model, arguments, data_collator=TextCollator(0), train_dataset=rows(), eval_dataset=rows()
    )


def measured(folder: Any, batch_size: int) -> dict[str, float]:
    found = make_trainer(folder, batch_size).evaluate()
    return {name: found[f"eval_{name}"] for name in ("loss", "perplexity", "isotropy")}


@torch.no_grad()
def expected() -> dict[str, float]:
    model = tiny_model("gpt2")
    losses, states = [], []
    for row in rows():
        ids = torch.tensor([row["input_ids"]])
        outputs = model(ids, output_hidden_states=True)
        losses.append(F.cross_entropy(outputs.logits[0, :-1], ids[0, 1:], reduction="none"))
        states.append(outputs.hidden_states[-1][0])
    loss = float(torch.cat(losses).double().mean())
    return {"loss": loss, "perplexity": math.exp(loss), "isotropy": isotropy(states)["isotropy"]}


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_evaluation_is_over_all_tokens(batch_size, tmp_path):
    assert measured(tmp_path, batch_size) == pytest.approx(expected(), rel=1e-5)


@pytest.mark.distributed
def test_two_processes_evaluate_as_one(gloo_pool, tmp_path):
    # seven rows do not divide by two processes: what is filled up must not count
    for found in gloo_pool.run(measured, str(tmp_path), 2):
        assert found == pytest.approx(expected(), rel=1e-5)


def test_evaluation_while_training_picks_the_best(tmp_path):
    trainer = make_trainer(
        tmp_path,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        per_device_train_batch_size=1,
        learning_rate=1e-3,
        save_strategy="steps",
        save_steps=2,
        monitor_steps=1,
        metric_for_best_model="loss",
        load_best_model_at_end=True,
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "eval_perplexity" in line]
    assert [line["step"] for line in lines] == [2, 4]
    assert trainer.state.best_metric == min(line["eval_loss"] for line in lines)
    # both terms are in the log beside the loss
    terms = [line for line in trainer.state.log_history if "loss" in line and "mle_loss" in line]
    assert terms
    assert "contrastive_loss" in terms[0]


def test_evaluation_leaves_mode_and_random_numbers_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.train()
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    trainer.evaluate()
    assert torch.equal(torch.rand(1), before)
    assert trainer.model.training
    several = trainer.evaluate({"a": rows(3), "b": rows()})
    assert {"eval_a_loss", "eval_b_perplexity"} <= set(several)


def test_nothing_to_predict_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no row of the dataset has a token that is predicted"):
        make_trainer(tmp_path).evaluate([{"input_ids": [5]}])
