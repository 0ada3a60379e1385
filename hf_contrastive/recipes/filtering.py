"""For recipes of reward models: answers that the language model writes, with and without stopping hopeless ones."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from hf_contrastive.data import final_answer, same_answer
from hf_contrastive.evaluation import filtered_majority_vote
from hf_contrastive.generation import filter_generations
from hf_contrastive.recipes.preferences import PreferencePipeline, RewardMeasureArguments
from hf_contrastive.recipes.texts import named_checkpoint


def reference_answers(pipeline: PreferencePipeline) -> dict[int, tuple[str, str]]:
    """Prompt and right final answer of every test question of which a right answer is known."""
    found: dict[int, tuple[str, str]] = {}
    rows = pipeline.completions
    if rows is None:
        return found
    for row in rows.select_columns(["prompt", "is_correct", "predicted_answer", "question_id"]):
        if row["is_correct"] and row["predicted_answer"] is not None and isinstance(row["prompt"], str):
            found.setdefault(row["question_id"], (row["prompt"], row["predicted_answer"]))
    return found


def write_answers(
    reward_model: Any,
    place: str | torch.nn.Module,
    pipeline: PreferencePipeline,
    options: RewardMeasureArguments,
    threshold: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Answers that the language model writes to test questions, with and without stopping hopeless ones.

    Args:
        reward_model ([`GoalConditionedRewardModel`]): with a goal.
        place (`str`): the language model.
        pipeline ([`PreferencePipeline`]): gives questions and their right answers.
        options ([`RewardMeasureArguments`]): how many.
        threshold (`float`): of the Q-values.
        seed (`int`): of the draws.

    Returns:
        Two rows, without and with the filter: accuracy of single answers and of the vote, tokens written, seconds.
    """
    known = list(reference_answers(pipeline).values())[: options.write_questions]
    if not known:
        return []
    with named_checkpoint("backbone", str(place)):
        writer: Any = AutoModelForCausalLM.from_pretrained(str(place), use_safetensors=True)
    device = next(reward_model.parameters()).device
    writer.to(device).eval()
    reward_model.eval()
    rows = []
    limit = getattr(writer.config, "max_position_embeddings", None) or 10**9
    longest = max(len(pipeline.tokenizer(prompt)["input_ids"]) for prompt, _ in known)
    new_tokens = min(limit - longest, max(pipeline.completions["num_actions"]) + 8)  # ty: ignore[not-subscriptable]
    for name, level in (("no filter", None), (f"Q-value below {threshold:.3f} stops", threshold)):
        started = time.perf_counter()
        written = filter_generations(
            writer,
            reward_model,
            [prompt for prompt, _ in known],
            tokenizer=pipeline.tokenizer,
            num_samples=options.write_samples,
            threshold=level,
            skip_tokens=options.skip_tokens,
            seed=seed,
            max_new_tokens=new_tokens,
            do_sample=True,
            temperature=options.write_temperature,
        )
        seconds = time.perf_counter() - started
        # an answer that names no result is one more wrong answer, the same for all of them
        finals = [final_answer(text) or "no answer" for text in written.texts or ()]
        right = [same_answer(final, known[p][1]) for final, p in zip(finals, written.prompt_index, strict=True)]
        vote = filtered_majority_vote(
            finals, right, written.q_values, written.prompt_index, threshold, options.skip_tokens
        )
        kept = [number for number, is_kept in enumerate(written.kept) if is_kept]
        rows.append(
            {
                "decoding": name,
                "answers": len(finals),
                "kept": len(kept),
                "right": float(np.mean([right[number] for number in kept])) if kept else 0.0,
                "vote": vote.accuracy_unfiltered if level is None else vote.accuracy,
                "tokens": int(written.tokens_generated),
                "seconds": seconds,
            }
        )
    return rows


__all__ = ["reference_answers", "write_answers"]
