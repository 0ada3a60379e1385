"""Shared by the recipes that train encoders of programs."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoTokenizer

from hf_contrastive.data import (
    PairBatchSampler,
    PairCollator,
    ProgramAugmenter,
    ProgramCollator,
    ProgramPairs,
    ProgramProcessor,
    lex_program,
    list_program_splits,
    load_programs,
    program_words,
    usable_programs,
)
from hf_contrastive.distributed import is_main_process
from hf_contrastive.evaluation import retrieval_metrics
from hf_contrastive.hub import Metric
from hf_contrastive.modules.lora import add_lora
from hf_contrastive.recipes import common
from hf_contrastive.recipes.common import (
    close_run,
    command_line,
    draw_run,
    loss_text,
    model_types,
    option,
    save_run,
    write_outcome,
)
from hf_contrastive.recipes.texts import named_checkpoint
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import metrics_table, say
from hf_contrastive.training import batch_report
from hf_contrastive.training.unwrap import unwrap_model


# a dense table of more columns would not fit beside a model
_TFIDF_COLUMNS = 20_000


@dataclass
class ProgramDataArguments:
    """data: where the programs come from"""

    dataset_path: str = option(
        "programs",
        "'programs' (built in), a .jsonl or .parquet file, a folder of those, a folder per problem, or a hub id.",
    )
    dataset_name: str | None = option(None, "Configuration of a hub dataset.")
    code_column: str | None = option(None, "Column of the programs; found by itself where there is no doubt.")
    label_column: str | None = option(None, "Column that says which programs do the same; found by itself.")
    language: str = option("cpp", "Language of programs that come without one: c, cpp or python.")
    train_split: str = option("train", "Split to train on.")
    test_split: str = option("test", "Split to measure on; its problems are others.")
    codexglue_split: bool = option(
        False, "Where there is one split: problems 1-64 train, 65-80 validate, 81-104 test."
    )
    test_fraction: float | None = option(None, "Where there is one split: that share of the problems is the test.")
    max_per_label: int | None = option(None, "At most that many training programs of a problem, the first ones.")
    max_test_per_label: int | None = option(None, "At most that many test programs of a problem, the first ones.")
    on_bad: str = option("skip", "Programs that are empty or that the encoder cannot read: skip or error.")
    augment: list[str] | None = option(
        None,
        "Rewrite the programs of every pair: rename, reformat, strip_comments, add_comments, change_loops, swap_branches, "
        "reorder_declarations.",
    )
    augment_probability: float = option(0.5, "With which each rewriting is applied.")


@dataclass
class ProgramModelArguments:
    """model: the encoder"""

    encoder: str = option("text", "What a program is given as: text, ast (paths of the syntax tree) or graph.")
    backbone: str | None = option(
        None,
        "For text: a model type for a new encoder (bert, ...), or a folder or hub id; none = the paper's encoder.",
    )
    backbone_options: dict | None = option(None, "Fields of the new encoder's configuration, as JSON.")
    vocab_size: int = option(20000, "Text: tokens that are learned; paths: parts of names.")
    max_length: int = option(384, "Text: tokens of a program; what is longer is cut.")
    names: str = option("keep", "Text: 'number' encodes the names a program chose in the order in which they come.")
    max_paths: int = option(200, "Paths of a program.")
    max_nodes: int = option(1000, "Nodes of a graph; what is more is cut.")
    pooling: str | None = option(None, "Text: cls (first token) or mean; none = the paper's first token.")
    projection_dims: list[int] | None = option(None, "Sizes of the projection head; none = the paper's.")
    temperature: float | None = option(None, "Of the objective; none = the paper's, 0.1, and 0.07 for MoCo.")
    queue_size: int | None = option(None, "Keys in MoCo's queue, a multiple of the batch; none = the paper's 15360.")
    encoder_momentum: float | None = option(None, "Of MoCo's second encoder; none = the paper's 0.999.")
    num_prototypes: int | None = option(None, "SwAV's prototypes; none = the paper's 500.")
    freeze_prototypes_steps: int | None = option(None, "Steps at the start in which the prototypes stand still.")
    lora_rank: int | None = option(None, "Train low-rank adapters of this rank instead of all weights.")
    lora_alpha: float | None = option(None, "Scale of the adapters; none = the rank.")


@dataclass
class ProgramMeasureArguments:
    """measuring: what stands in the table at the end"""

    map_ks: list[int] = field(
        default_factory=lambda: [10],
        metadata={
            "help": "Cut-offs of MAP@k (divided by k) and precision@k, beside MAP@R; those that fit are measured."
        },
    )
    lexical_baselines: bool = option(True, "Measure TF-IDF of words and of character trigrams, too.")
    pictures: bool = option(True, "Draw curves and a map of the embeddings.")


def load_splits(data: ProgramDataArguments) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Training and test programs; no test split where there is none to be had."""
    shared: dict[str, Any] = {
        "name": data.dataset_name,
        "code_column": data.code_column,
        "label_column": data.label_column,
        "language": data.language,
        "codexglue_split": data.codexglue_split,
        "test_fraction": data.test_fraction,
        "on_bad": data.on_bad,
    }
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    train = load_programs(data.dataset_path, split=data.train_split, max_per_label=data.max_per_label, **shared)
    splits = list_program_splits(data.dataset_path, name=data.dataset_name, language=data.language)
    if data.test_split not in splits and data.test_fraction is None and not data.codexglue_split:
        say(
            f"{data.dataset_path} has no split {data.test_split!r} (found: {', '.join(splits)}), so nothing is measured at "
            "the end; pass --test_split, --test_fraction 0.2, or --codexglue_split true for POJ-104."
        )
        return train, None
    return train, load_programs(
        data.dataset_path, split=data.test_split, max_per_label=data.max_test_per_label, **shared
    )


@dataclass
class ProgramPipeline:
    """What turns programs into batches.

    Args:
        processor ([`ProgramProcessor`]): saved with the checkpoint.
        train, test (`datasets.Dataset`): programs that the encoder can read; `test` may be `None`.
        train_collator ([`PairCollator`]), eval_collator ([`ProgramCollator`]): for dataloaders.
    """

    processor: ProgramProcessor
    train: datasets.Dataset
    test: datasets.Dataset | None
    train_collator: PairCollator
    eval_collator: ProgramCollator

    @classmethod
    def build(
        cls,
        model: ProgramModelArguments,
        data: ProgramDataArguments,
        splits: tuple[datasets.Dataset, datasets.Dataset | None],
        seed: int,
    ) -> ProgramPipeline:
        """Learn the vocabularies from the training programs, and leave out what the encoder cannot read."""
        train, test = splits
        processor = make_processor(model, data, train)
        train = usable_programs(train, processor, data.on_bad)
        test = None if test is None else usable_programs(test, processor, data.on_bad)
        if processor.num_cut:
            total = len(train) + (0 if test is None else len(test))
            say(f"{processor.num_cut} of {total} programs are longer than the encoder reads; their ends are cut off.")
            processor.num_cut = 0
        augmenter = None
        if data.augment:
            augmenter = ProgramAugmenter(data.augment, data.augment_probability, seed)
        return cls(processor, train, test, PairCollator(processor, augmenter), ProgramCollator(processor))

    def sampler(self, args: Any, steps: int) -> PairBatchSampler:
        """Batches of training pairs.

        Args:
            args (`TrainingArguments`): batch size, processes, seed.
            steps (`int`): batches of a process.
        """
        return PairBatchSampler(
            self.train["label"][:],
            args.per_device_train_batch_size,
            steps,
            num_processes=args.world_size,
            with_itself=self.train_collator.augmenter is not None,
            seed=args.seed,
        )


def make_processor(
    model: ProgramModelArguments, data: ProgramDataArguments, train: datasets.Dataset
) -> ProgramProcessor:
    """The processor of an encoder: with the tokenizer of a checkpoint, or learned from the training programs.

    Raises:
        ValueError: options that contradict each other.
    """
    settings: dict[str, Any] = {
        "language": data.language,
        "max_length": model.max_length,
        "names": model.names,
        "max_paths": model.max_paths,
        "max_nodes": model.max_nodes,
    }
    tokenizer = None
    if model.backbone is not None and model.encoder != "text":
        raise ValueError(f"`backbone` is for encoder 'text'; {model.encoder!r} has the paper's encoder alone.")
    if model.backbone is not None and model.backbone not in model_types():
        if model.backbone_options:
            raise ValueError("`backbone_options` describe a new encoder; a checkpoint brings its own configuration.")
        with named_checkpoint("backbone", model.backbone):
            tokenizer = AutoTokenizer.from_pretrained(model.backbone)
    codes, spoken = train["code"][:], train["language"][:]
    return ProgramProcessor.build(
        model.encoder, codes, spoken, vocab_size=model.vocab_size, tokenizer=tokenizer, **settings
    )


def make_model(
    spec: SystemSpec, model: ProgramModelArguments, processor: ProgramProcessor, fields: Mapping[str, Any]
) -> Any:
    """The model that the arguments describe, in training mode.

    Args:
        spec ([`SystemSpec`]): the system's row in the registry.
        model ([`ProgramModelArguments`]): encoder and head.
        processor ([`ProgramProcessor`]): gives a new encoder its vocabulary.
        fields (`Mapping`): fields of the system's configuration beside these, for example `ssl`.

    Returns:
        The system's pre-training model; wrapped by PEFT with `lora_rank`.

    Raises:
        ValueError: values that the configuration refuses.
    """
    names = ("pooling", "projection_dims", "temperature", "queue_size", "encoder_momentum", "num_prototypes")
    given = {name: getattr(model, name) for name in (*names, "freeze_prototypes_steps")}
    given = {name: value for name, value in given.items() if value is not None}
    given = {"encoder": model.encoder, **given, **fields}
    if model.backbone is not None and model.backbone not in model_types():
        with named_checkpoint("backbone", model.backbone):
            built = spec.pretraining_class().from_backbone(model.backbone, **given)
    else:
        own = {"text": "code_transformer", "ast": "code_paths", "graph": "code_graph"}
        if model.encoder not in own:
            raise ValueError(f"`encoder` is {model.encoder!r}, but it must be one of {', '.join(own)}.")
        options = {**processor.encoder_fields(), **(model.backbone_options or {})}
        config = AutoConfig.for_model(model.backbone or own[model.encoder], **options)
        built = spec.pretraining_class()(spec.config_class()(backbone_config=config, **given))
    built.train()
    if model.lora_rank is not None:
        built = add_lora(built, r=model.lora_rank, alpha=model.lora_alpha)
    return built


@torch.no_grad()
def encode_programs(
    model: Any, programs: Any, collator: ProgramCollator, *, batch_size: int = 64, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Embeddings of all programs, of length 1.

    Args:
        model: has `encode` and `view_inputs`.
        programs (`datasets.Dataset`): of `load_programs`.
        collator ([`ProgramCollator`]): rows to a batch.
        batch_size (`int`): programs at a time.
        device: where to compute.

    Returns:
        `numpy.ndarray` `[programs, dim]`.
    """
    model = unwrap_model(model)
    parts = []
    for batch in DataLoader(programs, batch_size=batch_size, collate_fn=collator):
        named = {name: batch[name].to(device) for name in model.view_inputs if name in batch}
        parts.append(model.encode(**named, normalize=True).float().cpu().numpy())
    return np.concatenate(parts)


def lexical_embeddings(train: Any, test: Any) -> dict[str, np.ndarray]:
    """TF-IDF of the programs that are compared: words, and trigrams of characters, comments left out, counts as logarithms
    (plain counts are far weaker).

    Args:
        train (`datasets.Dataset`): programs that the frequencies are learned from.
        test (`datasets.Dataset`): programs to embed.

    Returns:
        `dict[str, np.ndarray]`: a table `[programs, terms]` by the name of the method.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    options: dict[str, Any] = {"max_features": _TFIDF_COLUMNS, "sublinear_tf": True, "dtype": np.float32}
    words, letters = [], []
    for programs in (train, test):
        codes = list(zip(programs["code"][:], programs["language"][:], strict=True))
        words.append([program_words(code, spoken) for code, spoken in codes])
        letters.append(
            ["".join(t for kind, t in lex_program(code, spoken) if kind != "comment") for code, spoken in codes]
        )
    by_word = TfidfVectorizer(analyzer=lambda program: program, **options).fit(words[0])
    by_letter = TfidfVectorizer(analyzer="char", ngram_range=(3, 3), **options).fit(letters[0])
    return {
        "TF-IDF of words": by_word.transform(words[1]).toarray(),
        "TF-IDF of character trigrams": by_letter.transform(letters[1]).toarray(),
    }


def score(embeds: np.ndarray, labels: np.ndarray, measure: ProgramMeasureArguments) -> dict[str, float]:
    """How well programs that do the same are neighbours: all others are ranked for every program.

    Returns:
        `dict` with `map@r`, `recall@1`, and `map@<k>`, `precision@<k>` for the `map_ks` that fit.
    """
    ks = [k for k in measure.map_ks if k < len(embeds)]
    found = retrieval_metrics(embeds, query_labels=labels, ks=(1,), precision_ks=ks)
    return {name: float(found[name]) for name in found if "@" in name}


def measure_table(
    models: Mapping[str, Any],
    test: datasets.Dataset,
    pipeline: ProgramPipeline,
    measure: ProgramMeasureArguments,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Measure several encoders, and the lexical baselines, on the same programs.

    Args:
        models (`Mapping`): by the name in the table.
        test (`datasets.Dataset`): labelled programs.
        pipeline ([`ProgramPipeline`]): the processor.
        measure ([`ProgramMeasureArguments`]): what to measure.
        device: where to compute.

    Returns:
        One row an encoder: `encoder`, `map@r`, `recall@1`, ...
    """
    labels = np.asarray(test["label"][:])
    rows = []
    if measure.lexical_baselines:
        rows += [
            {"encoder": name, **score(x, labels, measure)}
            for name, x in lexical_embeddings(pipeline.train, test).items()
        ]
    for name, model in models.items():
        embeds = encode_programs(model, test, pipeline.eval_collator, device=device)
        rows.append({"encoder": name, **score(embeds, labels, measure)})
    return rows


def show_table(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Print the table of encoders."""
    return metrics_table([format_row(row) for row in rows], title=title)


def format_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of an encoder as they stand in tables."""
    titles = {"map@r": "MAP@R %", "recall@1": "first is a clone %"}
    shown = {"encoder": str(row["encoder"])}
    for name in ("map@r", "recall@1", *(name for name in row if name not in ("map@r", "recall@1"))):
        if "@" in name and name in row:
            shown[titles.get(name, name.replace("map", "MAP") + " %")] = f"{100 * row[name]:.1f}"
    return shown


def report(trainer: Any, data: ProgramDataArguments, pipeline: ProgramPipeline) -> None:
    """Print what is about to be trained (main process only)."""
    sampler = trainer.train_batch_sampler
    text = batch_report(
        trainer,
        data=describe_data(data, pipeline)["name"],
        loss=loss_text(trainer),
        num_views=2,
        command=command_line(),
    )
    say(text)
    say(f"  pairs: {sampler.describe()}")
    say(f"  rewriting: {_rewriting(pipeline)}\n")


def _rewriting(pipeline: ProgramPipeline) -> str:
    augmenter = pipeline.train_collator.augmenter
    return "none" if augmenter is None else ", ".join(augmenter.transforms)


def describe_data(data: ProgramDataArguments, pipeline: ProgramPipeline) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    built_in = data.dataset_path == "programs"
    local = built_in or Path(data.dataset_path).expanduser().exists()
    name = "built-in programs" if built_in else Path(data.dataset_path).name if local else data.dataset_path
    about: dict[str, Any] = {"name": name, "split": data.train_split, "rows": len(pipeline.train)}
    about["classes"] = len(set(pipeline.train["label"][:]))
    about["columns"] = {"code": "the programs", "label": "which do the same: the supervision of training"}
    if not local:
        about["id"] = data.dataset_path
    if built_in:
        about["licence"] = "Apache-2.0 (made by this library)"
        about["description"] = (
            "Small tasks written in many ways in C, C++ and Python; the tasks of the test are not those of the training."
        )
    return about


def dry_run(model: Any, pipeline: ProgramPipeline, args: Any) -> None:
    """One forward and backward on two pairs; prints every shape."""
    two = copy.copy(args)
    two.per_device_train_batch_size = 2
    pairs = ProgramPairs(pipeline.train)
    batch = pipeline.train_collator([pairs[pair] for pair in pipeline.sampler(two, 1).global_batch(0)[:2]])
    inner = unwrap_model(model)
    if inner.config.ssl == "moco" and inner.config.queue_size % 2:
        raise ValueError(
            f"`queue_size` is {inner.config.queue_size}, which is no multiple of two rows; take an even one."
        )
    common.dry_run(model, batch)


def finish(
    trainer: Any,
    spec: SystemSpec,
    pipeline: ProgramPipeline,
    *,
    rows: Sequence[Mapping[str, Any]],
    trained: str,
    data: ProgramDataArguments,
    measure: ProgramMeasureArguments,
    started: float,
    base_model: str | None = None,
) -> None:
    """Save checkpoint, card, results and pictures; print the table and what to do next (main process only).

    Args:
        trainer ([`ContrastiveTrainer`]): after training.
        spec ([`SystemSpec`]): the system.
        pipeline ([`ProgramPipeline`]): its processor is saved with the weights.
        rows: of `measure_table`; empty where nothing could be measured.
        trained (`str`): the row of `rows` that is the saved model.
        data, measure: what it was trained and measured on.
        started (`float`): `time.time()` at the start.
        base_model (`str`, *optional*): hub id that the training started from.
    """
    if not is_main_process():
        return
    folder, args = Path(trainer.args.output_dir), trainer.args
    about = describe_data(data, pipeline)
    if rows:
        say()
        show_table(
            rows, f"{about['name']}: {len(pipeline.test or ())} programs of problems that training has not seen"
        )
    save_run(trainer, pipeline.processor)
    test = pipeline.test
    write_outcome(
        trainer,
        spec,
        about=about,
        metrics=card_metrics(rows, trained, about["name"]),
        results={
            "clone_rows": list(rows),
            "trained": trained,
            "test_rows": None if test is None else len(test),
            "test_problems": None if test is None else len(set(test["label"][:])),
        },
        settings={
            "pairs": trainer.train_batch_sampler.describe(),
            "rewriting": _rewriting(pipeline),
        },
        started=started,
        base_model=base_model,
    )

    def draw() -> list[Path]:
        shown = test if test is not None else pipeline.train
        shown = shown.select(range(min(1000, len(shown))))
        embeds = encode_programs(trainer.model, shown, pipeline.eval_collator, device=args.device)
        return draw_run(folder, embeddings=embeds, labels=np.asarray(shown["label"][:]), data=about["name"])

    by_name = {row["encoder"]: row for row in rows}
    close_run(
        trainer,
        metrics={name: value for name, value in by_name.get(trained, {}).items() if name == "map@r"},
        baseline=by_name.get("untrained encoder", {}),
        draw=draw if measure.pictures else None,
        commands={"find clones": f"hf-contrastive clones SOURCES --checkpoint {folder}"},
    )


def card_metrics(rows: Sequence[Mapping[str, Any]], trained: str, dataset: str) -> list[Metric]:
    """The table as rows of a model card; the trained system is the one the hub shows."""
    metrics = []
    for row in rows:
        system = "this model" if row["encoder"] == trained else str(row["encoder"])
        for name, value in row.items():
            if "@" in name:
                title = name.replace("map", "MAP").replace("@r", "@R")
                metrics.append(Metric(title, round(float(value), 4), dataset, system=system))
    return metrics


__all__ = [
    "ProgramDataArguments",
    "ProgramMeasureArguments",
    "ProgramModelArguments",
    "ProgramPipeline",
    "encode_programs",
    "finish",
    "format_row",
    "lexical_embeddings",
    "load_splits",
    "make_model",
    "measure_table",
    "report",
    "show_table",
]
