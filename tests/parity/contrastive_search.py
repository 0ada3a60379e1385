"""Adapters of contrastive search: decoding through the public entry point, SimCTG's loss, measures of text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from hf_contrastive import contrastive_search
from hf_contrastive.evaluation import continuation_log_probability, diversity, isotropy
from hf_contrastive.generation import rank_candidates
from hf_contrastive.losses import simctg_loss


def build(inputs: dict[str, Tensor], config: dict[str, Any]) -> Any:
    """The tiny model of a fixture."""
    model_config = AutoConfig.for_model(config["model_type"], **config["model_config"])
    auto_class = AutoModelForSeq2SeqLM if model_config.is_encoder_decoder else AutoModelForCausalLM
    model = auto_class.from_config(model_config).float().eval()
    weights = {name.removeprefix("model."): t for name, t in inputs.items() if name.startswith("model.")}
    for missing, source in config.get("tied_keys") or []:
        weights[missing.removeprefix("model.")] = weights[source.removeprefix("model.")]
    result = model.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys, result.unexpected_keys
    assert not [key for key in result.missing_keys if not key.endswith((".attn.bias", ".attn.masked_bias"))], result
    return model


def run_decode(inputs: dict[str, Tensor], config: dict[str, Any], **options: Any) -> dict[str, Tensor]:
    model = build(inputs, config)
    trace: list[dict[str, Tensor]] = []
    output = model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        custom_generate=contrastive_search,
        trace=trace,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **{**config["generate_kwargs"], **options},
    )
    results = {
        "sequences": output.sequences,
        "scores": torch.stack(output.scores, dim=1),
        "logits": torch.stack(output.logits, dim=1),
    }
    for name in trace[0]:
        results[name] = torch.stack([step[name] for step in trace], dim=1)
    return {f"expected.{name}": value for name, value in results.items()}


def run_rank(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    selected, penalty, score = rank_candidates(
        inputs["context_hidden"],
        inputs["candidate_hidden"],
        inputs["candidate_probs"],
        config["alpha"],
        inputs.get("context_mask"),
    )
    return {"expected.selected_idx": selected, "expected.degeneration_penalty": penalty, "expected.score": score}


def run_simctg_loss(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    hidden, logits = (inputs[name].requires_grad_() for name in ("last_hidden_states", "logits"))
    mask = inputs.get("attention_mask", inputs["input_ids"] != config["pad_token_id"])
    # the labels are shifted already
    mle = F.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten(), ignore_index=-100)
    contrastive = simctg_loss(hidden, mask, config["margin"])
    loss = mle + contrastive
    gradients = torch.autograd.grad(loss, (hidden, logits))
    return {
        "expected.mle_loss": mle,
        "expected.cl_loss": contrastive,
        "expected.loss": loss,
        "expected.grad.last_hidden_states": gradients[0],
        "expected.grad.logits": gradients[1],
    }


def run_isotropy(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    return {
        f"expected.{name}": torch.tensor(value, dtype=torch.float64)
        for name, value in isotropy(inputs.values()).items()
    }


def run_diversity(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    return {
        f"expected.{name}": torch.tensor(list(diversity(config["texts"], official).values()), dtype=torch.float64)
        for name, official in (("exact", False), ("official", True))
    }


def run_coherence(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    value = continuation_log_probability(inputs["logits"], inputs["ids"], config["prefix_len"])
    return {"expected.coherence": torch.tensor(value, dtype=torch.float64)}


ADAPTERS = {
    "coherence": run_coherence,
    "decode": run_decode,
    "diversity": run_diversity,
    "isotropy": run_isotropy,
    "rank_candidates": run_rank,
    "simctg_loss": run_simctg_loss,
}
