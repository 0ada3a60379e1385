"""Ways of decoding side by side: generate from the same prompts, measure, tell, draw."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from hf_contrastive.data import token_blocks
from hf_contrastive.evaluation import coherence, diversity
from hf_contrastive.generation import contrastive_search
from hf_contrastive.recipes.common import option
from hf_contrastive.reporting import metrics_table


METHODS = ("greedy", "beam", "nucleus", "contrastive")


@dataclass
class DecodingArguments:
    """decoding: what is generated and measured"""

    methods: list[str] = field(
        default_factory=lambda: list(METHODS),
        metadata={"help": f"Ways of decoding: {', '.join(METHODS)}; none = skip."},
    )
    num_prompts: int = option(64, "Prompts, taken evenly from the test texts.")
    prefix_length: int = option(32, "Tokens of a prompt.")
    new_tokens: int = option(128, "Tokens to generate.")
    penalty_alpha: float = option(0.6, "Contrastive search: weight of the penalty.")
    top_k: int = option(5, "Contrastive search: candidates.")
    num_beams: int = option(4, "Beam search: beams.")
    top_p: float = option(0.95, "Nucleus sampling: probability mass to draw from.")
    decoding_batch_size: int = option(16, "Prompts at a time.")

    def title(self, method: str) -> str:
        """A way of decoding with its settings, as it stands in tables."""
        return {
            "greedy": "greedy",
            "beam": f"beam {self.num_beams}",
            "nucleus": f"nucleus {self.top_p:g}",
            "contrastive": f"contrastive k{self.top_k} a{self.penalty_alpha:g}",
        }[method]


@dataclass(frozen=True)
class Prompts:
    """Beginnings of texts, and how people went on.

    Args:
        prefixes (`list[list[int]]`): token ids, all of one length.
        continuations (`list[list[int]]`): the tokens that follow in the text, all of one length.
    """

    prefixes: list[list[int]]
    continuations: list[list[int]]


def make_prompts(texts: Any, tokenizer: Any, options: DecodingArguments) -> Prompts:
    """Prompts from texts: pieces of `prefix_length + new_tokens` tokens without an end of text, evenly spaced.

    Args:
        texts (`datasets.Dataset`): with a column `text`.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        options ([`DecodingArguments`]): how many, how long.

    Raises:
        ValueError: the texts hold no piece that long; the message says what to shorten.
    """
    length = options.prefix_length + options.new_tokens
    blocks = [block for block in token_blocks(texts, tokenizer, length)["input_ids"] if len(block) == length]
    end = tokenizer.eos_token_id
    blocks = [block for block in blocks if end not in block] or blocks
    if not blocks:
        raise ValueError(
            f"the test texts hold no {length} tokens in a row for a prompt of {options.prefix_length} and "
            f"{options.new_tokens} to go on; lower --prefix_length or --new_tokens, or give more text."
        )
    count = min(options.num_prompts, len(blocks))
    chosen = [blocks[place * len(blocks) // count] for place in range(count)]
    cut = options.prefix_length
    return Prompts([block[:cut] for block in chosen], [block[cut:] for block in chosen])


def tokenize_prompts(texts: Sequence[str], tokenizer: Any) -> Prompts:
    """Prompts of one's own, of any length, without continuations.

    Raises:
        ValueError: an empty prompt.
    """
    prefixes = [tokenizer(text, add_special_tokens=True)["input_ids"] for text in texts]
    for number, ids in enumerate(prefixes):
        if not ids:
            raise ValueError(f"prompt {number + 1} is empty; give at least one word.")
    return Prompts(prefixes, [])


def check_length(model: Any, prompts: Prompts, options: DecodingArguments) -> None:
    """Refuse texts that would grow beyond the positions of a model.

    Raises:
        ValueError: says what to lower.
    """
    longest = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    prefix = max(map(len, prompts.prefixes))
    # one more for the beginning of text, which a scorer puts before the prompt
    if longest is not None and prefix + options.new_tokens + 1 > longest:
        raise ValueError(
            f"a prompt of {prefix} tokens, {options.new_tokens} new ones and the beginning of text make "
            f"{prefix + options.new_tokens + 1}, but the model has {longest} positions; lower --new_tokens or --prefix_length."
        )


@contextlib.contextmanager
def _own_settings_only(model: Any) -> Generator[None]:
    """Keeps what a checkpoint's generation config says (a repetition penalty, say) out: `generate` fills in from it."""
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


@torch.no_grad()
def continue_prompts(
    model: Any, tokenizer: Any, prompts: Prompts, method: str, options: DecodingArguments, seed: int = 0
) -> list[list[int]]:
    """Generate with one way of decoding.

    Args:
        model: a language model, in eval mode.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        prompts ([`Prompts`]): batches are padded on the left.
        method (`str`): one of `METHODS`.
        options ([`DecodingArguments`]): settings.
        seed (`int`): of nucleus sampling.

    Returns:
        `list[list[int]]`: new tokens of every prompt, up to the end of text (not included).
    """
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end if end is not None else 0)
    settings: dict[str, Any] = {
        "max_new_tokens": options.new_tokens, "do_sample": False, "pad_token_id": pad, "eos_token_id": end,
        "bos_token_id": tokenizer.bos_token_id,
    }  # fmt: skip
    call: dict[str, Any] = {}
    if method == "beam":
        settings["num_beams"] = options.num_beams
    elif method == "nucleus":
        settings |= {"do_sample": True, "top_p": options.top_p, "top_k": 0, "temperature": 1.0}
    elif method == "contrastive":
        settings |= {"penalty_alpha": options.penalty_alpha, "top_k": options.top_k}
        call["custom_generate"] = contrastive_search
    elif method != "greedy":
        raise ValueError(f"`method` is {method!r}; known are {', '.join(METHODS)}.")
    found: list[list[int]] = []
    config = GenerationConfig(**settings)
    device = next(model.parameters()).device
    # what is drawn must not depend on what was drawn before, nor change what comes after
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _own_settings_only(model):
        torch.manual_seed(seed)
        for start in range(0, len(prompts.prefixes), options.decoding_batch_size):
            part = prompts.prefixes[start : start + options.decoding_batch_size]
            longest = max(map(len, part))
            ids = torch.tensor([[pad] * (longest - len(row)) + row for row in part], device=device)
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in part], device=device)
            output = model.generate(ids, attention_mask=mask, generation_config=config, **call)
            for row in output[:, longest:].tolist():
                cut = next((place for place, token in enumerate(row) if token == end), len(row))
                found.append(row[:cut])
    return found


def measure_decoding(
    name: str,
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    options: DecodingArguments,
    *,
    scorer: tuple[Any, Any] | None = None,
    seed: int = 0,
    keep: dict[str, list[str]] | None = None,
) -> list[dict[str, Any]]:
    """All ways of decoding of one model on the same prompts.

    Args:
        name (`str`): of the model, for the table.
        model, tokenizer, prompts, options, seed: as in [`continue_prompts`].
        scorer (`(model, tokenizer)`, *optional*): measures coherence.
        keep (`dict`, *optional*): gets the texts by way of decoding.

    Returns:
        One row a way: `model`, `decoding`, `diversity` (percent), `rep-2`, `rep-3`, `rep-4` (percent), `coherence`,
        `length` (mean number of tokens); `None` where no text has four words.
    """
    model.eval()
    rows = []
    for method in options.methods:
        tokens = continue_prompts(model, tokenizer, prompts, method, options, seed)
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        if keep is not None:
            keep[options.title(method)] = texts
        rows.append(
            {
                "model": name,
                "decoding": options.title(method),
                **_measures(prompts.prefixes, tokens, texts, tokenizer, scorer),
            }
        )
    return rows


def measure_reference(prompts: Prompts, tokenizer: Any, scorer: tuple[Any, Any] | None = None) -> dict[str, Any]:
    """The same measures of how people went on."""
    texts = tokenizer.batch_decode(prompts.continuations, skip_special_tokens=True)
    return {
        "model": "people",
        "decoding": "the text itself",
        **_measures(prompts.prefixes, prompts.continuations, texts, tokenizer, scorer),
    }


def _measures(
    prefixes: Sequence[list[int]], tokens: Sequence[list[int]], texts: Sequence[str], tokenizer: Any, scorer: Any
) -> dict[str, float | None]:
    found = diversity(texts)
    row: dict[str, float | None] = {"diversity": 100 * found.pop("diversity"), **found}
    # without a single 4-gram nothing is repeated, and nothing is said
    if max(len(text.split()) for text in texts) < 4:
        row = dict.fromkeys(row)
    if scorer is not None:
        before = tokenizer.batch_decode(prefixes, skip_special_tokens=True)
        something = any(text.strip() for text in texts)
        row["coherence"] = coherence(before, texts, *scorer) if something else None
    row["length"] = float(np.mean([len(one) for one in tokens]))
    return row


def show_decoding(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Print the table."""
    return metrics_table([format_row(row) for row in rows], title=title)


def format_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of a row as they stand in tables."""
    digits = {"diversity": 1, "rep-2": 1, "rep-3": 1, "rep-4": 1, "coherence": 2, "length": 1}
    units = {
        "diversity": "diversity %",
        "rep-2": "rep-2 %",
        "rep-3": "rep-3 %",
        "rep-4": "rep-4 %",
        "length": "tokens",
    }
    return {
        units.get(name, name): "-" if value is None else f"{value:.{digits[name]}f}" if name in digits else str(value)
        for name, value in row.items()
    }


@torch.no_grad()
def trace_contrastive(
    model: Any, tokenizer: Any, prefix: Sequence[int], options: DecodingArguments
) -> list[dict[str, Any]]:
    """One prompt, token by token: what was chosen, with what confidence and penalty, and what greedy search would take.

    Returns:
        One row a step: `token`, `confidence` (its probability), `penalty` (largest cosine with a token before), `rank`
        (0 = most probable), `most_probable`, its `most_probable_confidence` and `most_probable_penalty`.
    """
    trace: list[dict[str, Any]] = []
    device = next(model.parameters()).device
    end = tokenizer.eos_token_id
    settings = GenerationConfig(
        max_new_tokens=options.new_tokens, do_sample=False, eos_token_id=end, bos_token_id=tokenizer.bos_token_id,
        pad_token_id=end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        penalty_alpha=options.penalty_alpha, top_k=options.top_k,
    )  # fmt: skip
    ids = torch.tensor([list(prefix)], device=device)
    with _own_settings_only(model):
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            custom_generate=contrastive_search,
            trace=trace,
        )
    rows = []
    for step in trace:
        chosen = int(step["selected_idx"][0])
        ids_, probabilities, penalties = (
            step[name][0].tolist() for name in ("top_k_ids", "top_k_probs", "degeneration_penalty")
        )
        rows.append(
            {
                "token": tokenizer.decode([ids_[chosen]]),
                "confidence": probabilities[chosen],
                "penalty": penalties[chosen],
                "rank": chosen,
                "most_probable": tokenizer.decode([ids_[0]]),
                "most_probable_confidence": probabilities[0],
                "most_probable_penalty": penalties[0],
            }
        )
    return rows


__all__ = [
    "METHODS",
    "DecodingArguments",
    "Prompts",
    "check_length",
    "continue_prompts",
    "format_row",
    "make_prompts",
    "measure_decoding",
    "measure_reference",
    "show_decoding",
    "tokenize_prompts",
    "trace_contrastive",
]
