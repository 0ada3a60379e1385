"""Adapters of SurgVLP: what the library returns for the stored results of the published training and evaluation code."""

from __future__ import annotations

import re
from typing import Any

import torch
from parity._numbers import as_tensors
from torch import Tensor
from transformers import BertConfig

from hf_contrastive import ConvEncoderConfig, SurgVLPConfig, SurgVLPModel
from hf_contrastive.data.transcripts import mil_candidates, overlapping_sentences
from hf_contrastive.evaluation import (
    paired_retrieval_metrics,
    video_average_precision,
    video_classification_metrics,
    zero_shot_logits,
    zero_shot_predictions,
)
from hf_contrastive.losses import clip_loss, mil_nce, nt_xent


def run_losses(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    names = ("video_embeds", "video_embeds_aug1", "video_embeds_aug2", "text_embeds_anchor", "text_embeds_mil")
    video, first, second, anchor, mil = (inputs[name].requires_grad_() for name in names)
    scale = 1 / config["temperature"]

    def terms(clips: Tensor) -> dict[str, Tensor]:
        return {
            "clip_infonce": clip_loss(clips, anchor, scale),
            "ntxent": clip_loss(clips, anchor, scale, weight_a_to_b=config["alpha"]),
            "milnce": mil_nce(clips, mil.view(len(clips), config["num_mil_texts"], -1)),
        }

    outputs = terms(video)
    for name, texts in (("clip_infonce", anchor), ("ntxent", anchor), ("milnce", mil)):
        gradients = torch.autograd.grad(outputs[name], (video, texts), retain_graph=True)
        outputs[f"{name}.grad_video"], outputs[f"{name}.grad_text"] = gradients
    outputs["simclr"] = nt_xent(first, second, config["temperature"])
    (outputs["simclr.grad_aug1"],) = torch.autograd.grad(outputs["simclr"], first, retain_graph=True)
    pairs = [sum(terms(clips).values()) / 3 for clips in (video, first, second)]
    outputs["total"] = (torch.stack(pairs).sum() + outputs["simclr"]) / 4
    gradients = torch.autograd.grad(outputs["total"], (video, first, anchor, mil))
    for name, gradient in zip(("video", "aug1", "text_anchor", "text_mil"), gradients, strict=True):
        outputs[f"total.grad_{name}"] = gradient
    return outputs


def run_retrieval_metrics(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    found = paired_retrieval_metrics(inputs["text_embeds"], inputs["video_embeds"], ks=config["ks"])
    outputs = {}
    for theirs, ours in (("t2v", "x_to_y"), ("v2t", "y_to_x")):
        outputs[f"{theirs}.MR"] = found[f"{ours}/median_rank"]
        outputs |= {f"{theirs}.R{k}": found[f"{ours}/recall@{k}"] for k in config["ks"]}
    return as_tensors(outputs)


def videos(inputs: dict[str, Tensor], part: str) -> list[Tensor]:
    """The tensors `video<number>.<part>`, in order."""
    numbers = sorted(int(match.group(1)) for name in inputs if (match := re.fullmatch(rf"video(\d+)\.{part}", name)))
    return [inputs[f"video{number}.{part}"] for number in numbers]


def run_zero_shot_phase(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    texts, frames, labels = inputs["text_embeds"], videos(inputs, "image_embeds"), videos(inputs, "labels")
    predictions = [zero_shot_predictions(one, texts) for one in frames]
    found = video_classification_metrics(predictions, labels)
    outputs: dict[str, Any] = {"accuracy": found["accuracy"], "f1_macro": found["f1_macro"]}
    for number, (one, measured) in enumerate(zip(frames, found["per_video"], strict=True)):
        logits = zero_shot_logits(one, texts, logit_scale=config["logit_scale"])
        outputs[f"video{number}.probs"] = logits.softmax(1)
        outputs |= {f"video{number}.{name}": measured[name] for name in ("accuracy", "f1_macro")}
    return as_tensors(outputs)


def run_video_average_precision(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    scores = [one.sigmoid() for one in videos(inputs, "logits")]
    found = video_average_precision(scores, videos(inputs, "targets"))
    return as_tensors({"AP": found["ap"], "mAP": found["map"]})


def run_text_encoder(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    texts = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in inputs}
    last, states = config["last_n_layers"], inputs["state_dict.embeddings.word_embeddings.weight"]
    # of one layer the published code reads what BERT itself calls the output of tokens and of the text
    pooling = {"text_pooling": "word_sum" if last > 1 else "pooler", "text_layers": last}
    model = SurgVLPModel(
        SurgVLPConfig(
            vision_config=ConvEncoderConfig(channels=[4]),
            text_config=BertConfig(**config["bert_config"]),
            text_length=texts["input_ids"].shape[1],
            layer_aggregation=config.get("aggregate_method", "sum"),
            merge_word_pieces=config.get("agg_tokens", True) and last > 1,
            **pooling,
        )
    )
    model = model.to(torch.float64 if config.get("compute_dtype") == "float64" else states.dtype).eval()
    prefix = "state_dict."
    weights = {name.removeprefix(prefix): value for name, value in inputs.items() if name.startswith(prefix)}
    result = model.text_model.load_state_dict(weights, strict=False)
    assert not result.missing_keys, result.missing_keys
    with torch.no_grad():
        words = model.embed_words(**texts, is_continuation_piece=inputs.get("is_continuation_piece"))
        sentences = model.embed_texts(**texts)[1]
    return {"word_embeds": words.transpose(1, 2), "sentence_embeds": sentences}


def run_mil_candidates(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    starts, ends = inputs["caption_start"].numpy(), inputs["caption_end"].numpy()
    listed, final = [], []
    for start, end in inputs["query"].tolist():
        found = overlapping_sentences(starts, ends, start, end)[: config["max_listed"]]
        listed.append(found + [-2] * (config["max_listed"] - len(found)))
        final.append(mil_candidates(starts, ends, start, end, config["num_texts"]))
    return {"overlapping_with_repeats": torch.tensor(listed), "final": torch.tensor(final)}


ADAPTERS = {
    "losses": run_losses,
    "mil_candidates": run_mil_candidates,
    "retrieval_metrics": run_retrieval_metrics,
    "text_encoder": run_text_encoder,
    "video_average_precision": run_video_average_precision,
    "zero_shot_phase": run_zero_shot_phase,
}
