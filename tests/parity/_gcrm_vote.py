"""Adapter of the filtered majority vote of goal-conditioned reward models, and of the AUROCs stored with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_contrastive.evaluation import auroc, filtered_majority_vote, partial_auroc


def run_filtered_majority_vote(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    records = config["records"]
    correct = [record["is_correct"] for record in records]
    q_values = [record["cosine_sim"] for record in records]
    vote = filtered_majority_vote(
        [record["predicted_answer"] for record in records],
        correct,
        q_values,
        # a question is known by its place: the reference takes no notice of two that read the same
        [index % config["num_questions"] for index in range(len(records))],
        threshold=config["filter_threshold"],
        skip_tokens=config["skip_first_tokens"],
    )
    percentiles = config["partial_percentiles"]
    # partial rewards are stored with those of the last prompt tokens before them
    answers = [record["partial_rewards"][-len(q) :] for record, q in zip(records, q_values, strict=True)]
    partial = partial_auroc(answers, correct, percentiles)
    results = {
        "accuracy_filtered": vote.accuracy,
        "accuracy_majority": vote.accuracy_unfiltered,
        "auroc": auroc([record["reward"] for record in records], correct),
        "filtered_per_question": vote.filtered_per_question,
        "partial_auroc": [partial[share] for share in percentiles],
        "proportion_correct": vote.proportion_correct,
        "proportion_correct_filtered": vote.proportion_correct_filtered,
        "tokens": vote.tokens_per_question,
        "tokens_saved": vote.tokens_saved_per_question,
    }
    return {f"expected.{name}": torch.tensor(value, dtype=torch.float64) for name, value in results.items()}
