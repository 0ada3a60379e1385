"""Shared by the recipes that train language models on texts."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hf_contrastive.data import TextCollator, list_text_splits, load_texts, token_blocks, train_tokenizer
from hf_contrastive.distributed import is_main_process
from hf_contrastive.hub import Metric, export_backbone
from hf_contrastive.modules.lora import add_lora
from hf_contrastive.recipes import common
from hf_contrastive.recipes.common import (
    close_run,
    command_line,
    draw_run,
    is_adapter,
    loss_text,
    model_types,
    option,
    save_run,
    write_outcome,
)
from hf_contrastive.recipes.decoding import DecodingArguments, format_row, show_decoding
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import metrics_table, say
from hf_contrastive.training import batch_report


@dataclass
class TextDataArguments:
    """data: where the texts come from"""

    dataset_path: str = option(
        "topics", "'topics', a .txt, .jsonl, .csv or .parquet file, a folder of those, or a hub id."
    )
    dataset_name: str | None = option(None, "Configuration of a hub dataset.")
    text_column: str | None = option(None, "Column of the texts; found by itself where there is no doubt.")
    train_split: str = option("train", "Split to train on.")
    test_split: str = option("test", "Split to measure on.")
    test_fraction: float | None = option(
        None, "Where there is one split, its last part of this share is the test split."
    )
    max_train_samples: int | None = option(None, "Train on that many texts, the first ones.")
    max_test_samples: int | None = option(None, "Measure on that many texts, the first ones.")
    block_size: int = option(256, "Tokens of a row: texts are joined and cut.")


@dataclass
class LanguageModelArguments:
    """model: the language model"""

    backbone: str = option(
        "gpt2", "A model type for a new model (gpt2, llama, opt, ...), or a folder or hub id (openai-community/gpt2)."
    )
    backbone_options: dict | None = option(None, 'Fields of the new model\'s configuration, as JSON: {"n_layer": 4}.')
    vocab_size: int = option(2000, "New model: tokens of the tokenizer that is learned from the training texts.")
    tokenizer: str | None = option(None, "New model: folder or hub id of a tokenizer to take instead of learning one.")
    margin: float | None = option(None, "Margin of the contrastive loss; none = the paper's 0.5.")
    contrastive_weight: float | None = option(None, "Factor of the contrastive loss; none = the paper's 1.")
    lora_rank: int | None = option(None, "Train low-rank adapters of this rank instead of all weights.")
    lora_alpha: int | None = option(None, "Scale of the adapters; none = the rank.")


@dataclass
class TextMeasureArguments:
    """measuring: what stands in the tables at the end"""

    scorer: str | None = option(
        None,
        "Language model that scores coherence: folder or hub id, 'trained' (one more run with another seed), or none.",
    )
    pictures: bool = option(True, "Draw curves, and one continuation token by token.")


def load_splits(data: TextDataArguments) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Training and test texts; no test split where there is none to be had."""
    common: dict[str, Any] = {
        "name": data.dataset_name,
        "text_column": data.text_column,
        "test_fraction": data.test_fraction,
    }
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    train = load_texts(data.dataset_path, split=data.train_split, max_samples=data.max_train_samples, **common)
    splits = list_text_splits(data.dataset_path, name=data.dataset_name)
    if data.test_split not in splits and data.test_fraction is None:
        say(
            f"{data.dataset_path} has no split {data.test_split!r} (found: {', '.join(splits)}), so nothing is measured at "
            "the end; pass --test_split, or --test_fraction 0.1 to hold the last tenth out."
        )
        return train, None
    return train, load_texts(data.dataset_path, split=data.test_split, max_samples=data.max_test_samples, **common)


def make_tokenizer(model: Any, texts: Iterable[str]) -> Any:
    """The tokenizer that belongs to the model: its own, the one named, or one learned from the training texts.

    Args:
        model: argument group with `backbone`, `backbone_options`, `tokenizer` and `vocab_size`.
        texts (iterable of `str`): to learn from.

    Raises:
        ValueError: options that contradict each other.
    """
    new = model.backbone in model_types()
    if not new and model.tokenizer is not None:
        raise ValueError("`tokenizer` is for a new model; a checkpoint brings its own.")
    if not new and model.backbone_options:
        raise ValueError("`backbone_options` describe a new model; a checkpoint brings its own configuration.")
    if new and model.tokenizer is None:
        config = AutoConfig.for_model(model.backbone, **(model.backbone_options or {}))
        longest = getattr(config, "max_position_embeddings", None)
        return train_tokenizer(texts, model.vocab_size, max_length=longest)
    place = model.tokenizer if new and model.tokenizer is not None else model.backbone
    with named_checkpoint("tokenizer" if new else "backbone", place):
        return AutoTokenizer.from_pretrained(place)


def new_backbone_config(model: Any, tokenizer: Any) -> Any:
    """Configuration of a new language model, with vocabulary and special tokens of the tokenizer.

    Args:
        model: argument group with `backbone` and `backbone_options`.
        tokenizer (`PreTrainedTokenizerBase`): of [`make_tokenizer`].
    """
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    options = {"vocab_size": len(tokenizer), **special, **(model.backbone_options or {})}
    return AutoConfig.for_model(model.backbone, **options)


def check_length(config: Any, argument: str, length: int) -> None:
    """Refuse rows that are longer than a model's positions.

    Raises:
        ValueError: names argument, length and positions.
    """
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ValueError(
            f"`{argument}` is {length}, but the model has {longest} positions; pass --{argument} {longest} or less."
        )


def make_model(
    spec: SystemSpec, model: LanguageModelArguments, tokenizer: Any, block_size: int, fields: Mapping[str, Any]
) -> Any:
    """The model that the arguments describe, in training mode.

    Args:
        spec ([`SystemSpec`]): the system's row in the registry.
        model ([`LanguageModelArguments`]): language model.
        tokenizer (`PreTrainedTokenizerBase`): gives a new model its vocabulary and special tokens.
        block_size (`int`): tokens of a row; must fit the model.
        fields (`Mapping`): fields of the system's configuration; `None` values = the paper's.

    Returns:
        The system's model; wrapped by PEFT with `lora_rank`.

    Raises:
        ValueError: rows longer than the model's positions, or options that contradict each other.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if model.backbone in model_types():
        config = new_backbone_config(model, tokenizer)
        built = spec.model_class()(spec.config_class()(backbone_config=config, **given))
    else:
        with named_checkpoint("backbone", model.backbone):
            built = spec.model_class().from_backbone(model.backbone, **given)
    check_length(built.config, "block_size", block_size)
    built.train()
    if model.lora_rank is not None:
        built = add_lora(built, r=model.lora_rank, alpha=model.lora_alpha)
    return built


@dataclass
class TextPipeline:
    """What turns texts into batches.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): saved with the checkpoint.
        train, test (`datasets.Dataset`): rows of tokens; `test` may be `None`.
        collator ([`TextCollator`]): rows to a batch.
    """

    tokenizer: Any
    train: datasets.Dataset
    test: datasets.Dataset | None
    collator: TextCollator

    @classmethod
    def build(
        cls, tokenizer: Any, train: datasets.Dataset, test: datasets.Dataset | None, block_size: int
    ) -> TextPipeline:
        """Cut the texts into rows of tokens."""
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        blocks = [None if part is None else token_blocks(part, tokenizer, block_size) for part in (train, test)]
        return cls(tokenizer, blocks[0], blocks[1], TextCollator(0 if pad is None else pad))  # ty: ignore[invalid-argument-type]


def load_language_model(place: str, argument: str) -> tuple[Any, Any]:
    """A causal language model in eval mode, on the GPU where there is one, and its tokenizer.

    Args:
        place (`str`): folder or hub id.
        argument (`str`): the option that named it, for the message.

    Raises:
        ValueError: there is no such checkpoint.
    """
    with named_checkpoint(argument, place):
        model: Any = AutoModelForCausalLM.from_pretrained(place, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(place)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def load_scorer(place: str) -> tuple[Any, Any]:
    """Language model and tokenizer that score coherence; as [`load_language_model`]."""
    return load_language_model(place, "scorer")


@contextlib.contextmanager
def named_checkpoint(argument: str, place: str) -> Generator[None]:
    """Says which argument named a checkpoint that cannot be loaded."""
    try:
        yield
    except OSError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"`{argument}` is {place!r}, but there is no such checkpoint to load ({first}); pass a folder or a hub id."
        ) from error


def report(trainer: Any, data: TextDataArguments, pipeline: TextPipeline) -> None:
    """Print what is about to be trained (main process only)."""
    about = describe_data(data, pipeline)
    say(
        batch_report(
            trainer,
            data=f"{about['name']} in rows of {data.block_size} tokens",
            loss=loss_text(trainer),
            num_views=0,
            command=command_line(),
        )
    )
    say()


def describe_data(data: TextDataArguments, pipeline: TextPipeline) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    topics = data.dataset_path == "topics"
    local = topics or Path(data.dataset_path).expanduser().exists()
    path = Path(data.dataset_path)
    name = path.name if local and not topics else data.dataset_path
    if path.suffix == ".txt" and path.parent.name:
        name = f"{path.parent.name}/{path.name}"
    about: dict[str, Any] = {"name": "Python's help topics" if topics else name, "split": data.train_split}
    about["rows"] = len(pipeline.train)
    about["columns"] = {"text": f"joined and cut into rows of {data.block_size} tokens"}
    if not local:
        about["id"] = data.dataset_path
    if topics:
        about["licence"] = "Python Software Foundation License"
        about["description"] = (
            "Chapters of the language reference that Python carries for `help()`; the last tenth is the test."
        )
    return about


def show_models(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Print perplexity and isotropy of several models."""
    return metrics_table([format_model(row) for row in rows], title=title)


def format_model(row: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of a model as they stand in tables."""
    return {
        "model": str(row["model"]),
        "test loss": f"{row['loss']:.3f}",
        "perplexity": f"{row['perplexity']:.2f}" if row["perplexity"] < 1e5 else f"{row['perplexity']:.2e}",
        "isotropy": f"{row['isotropy']:.3f}" if "isotropy" in row else "-",
    }


def dry_run(model: Any, pipeline: TextPipeline) -> None:
    """One forward and backward on two rows; prints every shape."""
    common.dry_run(model, pipeline.collator([pipeline.train[row] for row in range(min(2, len(pipeline.train)))]))


def save(trainer: Any, tokenizer: Any) -> Path:
    """Write model and tokenizer to the run's folder (main process only).

    An adapter alone writes no text, so the language model with it merged in, as plain transformers knows it, goes to
    `merged/` beside it.

    Returns:
        `Path`: the folder to generate with.
    """
    folder = save_run(trainer, tokenizer)
    if not is_adapter(trainer):
        return folder
    if is_main_process():
        export_backbone(trainer.accelerator.unwrap_model(trainer.model), folder / "merged", processor=tokenizer)
    return folder / "merged"


def finish(
    trainer: Any,
    spec: SystemSpec,
    pipeline: TextPipeline,
    *,
    models: Sequence[Mapping[str, Any]],
    decoding: Sequence[Mapping[str, Any]],
    trained: str,
    usable: Path,
    data: TextDataArguments,
    options: DecodingArguments,
    started: float,
    base_model: str | None = None,
    trace: Sequence[Mapping[str, Any]] | None = None,
    samples: Mapping[str, Sequence[str]] | None = None,
    pictures: bool = True,
) -> None:
    """Write card, results and pictures beside what [`save`] wrote; print the tables and what to do next (main process only).

    Args:
        trainer ([`LanguageModelTrainer`]): after training.
        spec ([`SystemSpec`]): the system.
        pipeline ([`TextPipeline`]): its tokenizer is saved with the weights.
        models: a row a model with `model`, `loss`, `perplexity`, `isotropy`; empty where nothing could be measured.
        decoding: rows of `measure_decoding`.
        trained (`str`): name of the saved model in both.
        usable (`Path`): what [`save`] returned.
        data, options: what it was trained on and how it was measured.
        started (`float`): `time.time()` at the start.
        base_model (`str`, *optional*): hub id that the training started from.
        trace (*optional*): of `trace_contrastive`, to be drawn.
        samples (*optional*): generated texts, written to `samples.json`.
        pictures (`bool`): whether to draw.
    """
    if not is_main_process():
        return
    folder = Path(trainer.args.output_dir)
    about = describe_data(data, pipeline)
    if models:
        say()
        show_models(
            models, f"{about['name']}: trained on {len(pipeline.train)} rows of up to {data.block_size} tokens"
        )
    if decoding:
        say()
        show_decoding(
            decoding,
            f"{options.num_prompts} prompts of {options.prefix_length} tokens, up to {options.new_tokens} new ones",
        )
        if any("coherence" in row for row in decoding):
            say(
                "coherence: mean log-probability of a token under the scorer; near 0 is likely, and repetition is, too."
            )
    write_outcome(
        trainer,
        spec,
        about=about,
        metrics=_card_metrics(models, decoding, trained, about["name"], options),
        results={
            "models": list(models),
            "decoding": list(decoding),
            "trained": trained,
            "block_size": data.block_size,
            "prompts": {
                "count": options.num_prompts,
                "length": options.prefix_length,
                "new_tokens": options.new_tokens,
            },
        },
        settings={"tokens of a row": data.block_size},
        started=started,
        base_model=base_model,
    )
    if samples:
        text = json.dumps({name: list(texts) for name, texts in samples.items()}, indent=2, ensure_ascii=False)
        (folder / "samples.json").write_text(text + "\n", encoding="utf-8")
    row = next((row for row in models if row["model"] == trained), {})
    before = models[0] if models and models[0]["model"] != trained else {}
    numbers = ("loss", "perplexity", "isotropy")
    close_run(
        trainer,
        metrics={f"test {name}": float(row[name]) for name in numbers if name in row},
        baseline={f"test {name}": float(before[name]) for name in numbers if name in before},
        draw=partial(_draw, folder, trace, options, f"{trained} on {about['name']}") if pictures else None,
        commands={
            "generate": f"hf-contrastive generate {usable} --prompt 'The ' --penalty-alpha {options.penalty_alpha:g} "
            f"--top-k {options.top_k}",
            "compare": f"python recipes/{spec.slug}/compare_decoding.py --models {usable} --prompts 'The '",
        },
    )


def _draw(
    folder: Path, trace: Sequence[Mapping[str, Any]] | None, options: DecodingArguments, about: str
) -> list[Path]:
    from hf_contrastive.reporting import plot_contrastive_trace

    drawn = draw_run(folder)
    if trace:
        picture = plot_contrastive_trace(
            trace, folder / "plots" / "contrastive_search.png", penalty_alpha=options.penalty_alpha, data=about
        )
        drawn.append(Path(picture.path))
    return drawn


def _card_metrics(
    models: Sequence[Mapping[str, Any]],
    decoding: Sequence[Mapping[str, Any]],
    trained: str,
    dataset: str,
    options: DecodingArguments,
) -> list[Metric]:
    """The tables as rows of a model card."""
    metrics = []
    for row in models:
        system = "this model" if row["model"] == trained else row["model"]
        for name in ("perplexity", "isotropy"):
            if name in row and np.isfinite(row[name]):
                metrics.append(Metric(name, round(row[name], 4), dataset, system=system))
    for row in decoding:
        system = "this model" if row["model"] == trained else row["model"]
        note = f"{options.num_prompts} prompts of {options.prefix_length} tokens, {options.new_tokens} new"
        for name, unit in (("diversity", " %"), ("coherence", "")):
            if row.get(name) is not None:
                title = f"{name}{unit}, {row['decoding']}"
                metrics.append(Metric(title, round(row[name], 4), dataset, system=system, note=note))
    return metrics


__all__ = [
    "LanguageModelArguments",
    "TextDataArguments",
    "TextMeasureArguments",
    "TextPipeline",
    "check_length",
    "describe_data",
    "dry_run",
    "finish",
    "format_model",
    "format_row",
    "load_language_model",
    "load_scorer",
    "load_splits",
    "make_model",
    "make_tokenizer",
    "named_checkpoint",
    "new_backbone_config",
    "report",
    "show_models",
]
