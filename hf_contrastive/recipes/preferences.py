"""Shared by the recipes that train on preference pairs."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from hf_contrastive.data import (
    AnswerCollator,
    LengthReport,
    PreferenceCollator,
    TextCollator,
    list_preference_splits,
    load_completions,
    load_preferences,
    load_texts,
    token_blocks,
    tokenize_completions,
    tokenize_preferences,
    word_problem_texts,
)
from hf_contrastive.distributed import is_main_process
from hf_contrastive.evaluation import answer_metrics, min_q_values
from hf_contrastive.hub import Metric, export_backbone
from hf_contrastive.models.simctg.configuration_simctg import SimCTGConfig
from hf_contrastive.models.simctg.modeling_simctg import SimCTGForCausalLM
from hf_contrastive.modules.lora import add_lora
from hf_contrastive.recipes import common
from hf_contrastive.recipes import texts as language
from hf_contrastive.recipes.common import (
    close_run,
    command_line,
    draw_run,
    loss_text,
    option,
    train_or_load,
    write_outcome,
)
from hf_contrastive.recipes.texts import named_checkpoint
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import metrics_table, say
from hf_contrastive.training import LanguageModelTrainer, batch_report
from hf_contrastive.training.unwrap import unwrap_model


#: texts that a language model is pre-trained on with the built-in data
ARITHMETIC_TEXTS = 20_000
#: parts of an answer after which its reward is looked at
PERCENTILES = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass
class PreferenceDataArguments:
    """data: pairs to train on, and answers that are known to be right or wrong"""

    dataset_path: str = option(
        "arithmetic", "'arithmetic', a .jsonl, .csv or .parquet file (also .gz), a folder of those, or a hub id."
    )
    dataset_name: str | None = option(None, "Configuration of a hub dataset.")
    prompt_column: str | None = option(None, "Column of the prompts; common names are found by themselves.")
    chosen_column: str | None = option(None, "Column of the preferred answers.")
    rejected_column: str | None = option(None, "Column of the other answers.")
    margin_column: str | None = option(None, "Column that says by how much the preferred answer is better.")
    train_split: str = option("train", "Split to train on.")
    test_split: str = option("test", "Split to measure on.")
    test_fraction: float | None = option(
        None, "Where there is one split, hold the pairs of this share of prompts out."
    )
    max_train_samples: int | None = option(None, "Train on that many pairs, the first ones.")
    max_test_samples: int | None = option(None, "Measure on that many pairs and answers, the first ones.")
    completions: str | None = option(
        None, "Answers with marks for AUROC and votes: as dataset_path; 'arithmetic' has its own."
    )
    max_length: int = option(256, "Tokens of a prompt with its answer.")
    on_long: str = option("truncate", "Longer ones: truncate (start of the prompt first), drop, or error.")
    on_empty: str = option("error", "Empty answers: error (names the records), or drop (says how many).")
    as_chat: bool = option(False, "Write texts with the tokenizer's chat template.")


@dataclass
class RewardModelArguments:
    """model: the reward model and what it starts from"""

    backbone: str = option(
        "gpt2", "A model type for a new language model (gpt2, llama, ...), or a folder or hub id of a trained one."
    )
    backbone_options: dict | None = option(None, 'Fields of the new model\'s configuration, as JSON: {"n_layer": 4}.')
    tokenizer: str | None = option(None, "New model: folder or hub id of a tokenizer to take instead of learning one.")
    vocab_size: int = option(1000, "New model: tokens of the tokenizer that is learned from the texts.")
    pretrain_steps: int = option(0, "New model: steps as a language model before it becomes a reward model.")
    pretrain_texts: str | None = option(
        None, "Texts for that, as load_texts reads them; none = prompts with preferred answers."
    )
    pretrain_batch_size: int = option(32, "Rows of max_length tokens a step and process.")
    pretrain_learning_rate: float = option(1e-3, "Learning rate of these steps.")
    value_head: str | None = option(None, "linear or mlp; none = the paper's linear.")
    beta: float | None = option(None, "Weight of the contrastive loss; none = the paper's 0.5; 0 = Bradley-Terry.")
    sim_samples: int | None = option(None, "Source and goal states of a pair; none = the paper's 16.")
    unsim_samples: int | None = option(None, "Negative states of a pair; none = the paper's 16.")
    source_state_percentile: float | None = option(None, "Sources from the earlier 1 - this of the answer.")
    goal_state_percentile: float | None = option(None, "Goals from the earlier 1 - this of the answer.")
    strategy: str | None = option(None, "cosine or cosine_avg; none = cosine.")
    future_only: bool = option(False, "Only goals that come after their source.")
    per_sample: bool = option(False, "Logarithms of the contrastive loss per pair instead of over the batch.")
    lora_rank: int | None = option(None, "Train low-rank adapters of this rank instead of all weights.")
    lora_alpha: int | None = option(None, "Scale of the adapters; none = the rank.")


@dataclass
class RewardMeasureArguments:
    """measuring: what stands in the tables at the end"""

    goal_samples: int | None = option(1000, "Training pairs that the goal state is the mean of; none = all.")
    threshold: float | None = option(
        0.0, "An answer whose Q-value falls below is filtered; none = what keeps the share of keep_right."
    )
    keep_right: float = option(0.9, "Share of preferred training answers that a threshold of none keeps.")
    skip_tokens: int = option(5, "First tokens of an answer that are not filtered by.")
    write_questions: int = option(
        0, "Let the language model answer that many test questions, filtered while it writes."
    )
    write_samples: int = option(8, "Answers a question.")
    write_temperature: float = option(1.0, "Temperature of these answers; higher, and more of them are wrong.")
    pictures: bool = option(True, "Draw curves, and reward and Q-value along right and wrong answers.")


def fields_of(model: RewardModelArguments, beta: float | None = None) -> dict[str, Any]:
    """The fields of the system's configuration that the arguments set; `beta` of an arm goes before that of the arguments."""
    names = (
        "value_head",
        "sim_samples",
        "unsim_samples",
        "source_state_percentile",
        "goal_state_percentile",
        "strategy",
    )
    given = {name: getattr(model, name) for name in names if getattr(model, name) is not None}
    beta = model.beta if beta is None else beta
    given |= {} if beta is None else {"beta": beta}
    return {**given, "future_only": model.future_only, "per_sample": model.per_sample}


@dataclass
class Preferences:
    """Loaded data: pairs to train and to test on, and answers with marks; the last two may be `None`."""

    train: datasets.Dataset
    test: datasets.Dataset | None
    completions: datasets.Dataset | None


def load_splits(data: PreferenceDataArguments) -> Preferences:
    """Pairs and marked answers; no test pairs where there are none to be had."""
    common: dict[str, Any] = {
        "name": data.dataset_name,
        "test_fraction": data.test_fraction,
        "on_empty": data.on_empty,
    }
    columns = {
        name: getattr(data, name) for name in ("prompt_column", "chosen_column", "rejected_column", "margin_column")
    }
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    train = load_preferences(
        data.dataset_path, split=data.train_split, max_samples=data.max_train_samples, **common, **columns
    )
    test: Any = None
    splits = list_preference_splits(data.dataset_path, name=data.dataset_name)
    if data.test_split in splits or data.test_fraction is not None:
        test = load_preferences(
            data.dataset_path, split=data.test_split, max_samples=data.max_test_samples, **common, **columns
        )
    else:
        say(
            f"{data.dataset_path} has no split {data.test_split!r} (found: {', '.join(splits)}), so no pairs are measured at "
            "the end; pass --test_split, or --test_fraction 0.1 to hold a tenth of the prompts out."
        )
    place = data.completions or ("arithmetic" if data.dataset_path == "arithmetic" else None)
    completions = None
    if place is not None:
        completions = load_completions(place, split=data.test_split, max_samples=data.max_test_samples)
    return Preferences(train, test, completions)  # ty: ignore[invalid-argument-type]


def language_texts(model: RewardModelArguments, data: PreferenceDataArguments, pairs: Preferences) -> list[str]:
    """Texts that tokenizer and language model are learned from.

    Raises:
        ValueError: pairs of chats, which are no texts without a template.
    """
    if model.pretrain_texts is not None:
        return list(load_texts(model.pretrain_texts)["text"])
    if data.dataset_path == "arithmetic":
        return word_problem_texts(ARITHMETIC_TEXTS)
    if not isinstance(pairs.train[0]["chosen"], str):
        raise ValueError(
            "a new model needs texts to learn from, but the pairs are chats; pass --pretrain_texts FILE, or start from a "
            "trained model with --backbone."
        )
    return [f"{row['prompt']}{row['chosen']}" for row in pairs.train]


def make_tokenizer(model: RewardModelArguments, texts: Sequence[str] | None) -> Any:
    """As `texts.make_tokenizer`, with a pad token, which batches of pairs need."""
    tokenizer = language.make_tokenizer(model, texts or [])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        say(
            f"the tokenizer has no pad token; its end-of-text token {tokenizer.eos_token!r} pads, too (masked, so it never counts)."
        )
    return tokenizer


@dataclass
class PreferencePipeline:
    """What turns pairs and answers into batches, and how long they are."""

    tokenizer: Any
    train: datasets.Dataset
    test: datasets.Dataset | None
    completions: datasets.Dataset | None
    collator: PreferenceCollator
    answer_collator: AnswerCollator
    lengths: Mapping[str, LengthReport]

    @classmethod
    def build(cls, tokenizer: Any, pairs: Preferences, data: PreferenceDataArguments) -> PreferencePipeline:
        """Tokenise everything; prints lengths and what was cut.

        Raises:
            ValueError: empty answers, or nothing left.
        """
        options: dict[str, Any] = {"max_length": data.max_length, "on_long": data.on_long, "as_chat": data.as_chat}
        found: dict[str, Any] = {}
        lengths: dict[str, LengthReport] = {}
        for name, rows, tokenize in (
            ("training pairs", pairs.train, tokenize_preferences),
            ("test pairs", pairs.test, tokenize_preferences),
            ("marked answers", pairs.completions, tokenize_completions),
        ):
            if rows is not None:
                found[name], lengths[name] = tokenize(rows, tokenizer, **options)
        collators = PreferenceCollator(tokenizer), AnswerCollator(tokenizer)
        test, completions = found.get("test pairs"), found.get("marked answers")
        return cls(tokenizer, found["training pairs"], test, completions, *collators, lengths)


def start(
    model: RewardModelArguments,
    data: PreferenceDataArguments,
    tokenizer: Any,
    texts: Sequence[str],
    args: Any,
    dry_run: bool = False,
) -> str | torch.nn.Module:
    """A new language model, trained on texts for `pretrain_steps`; written to `language_model/` of the run's folder.

    Args:
        model, data: what the arguments say.
        tokenizer (`PreTrainedTokenizerBase`): gives it vocabulary and special tokens.
        texts (`Sequence[str]`): to learn from.
        args ([`ContrastiveTrainingArguments`]): of the run; steps, batch and learning rate are replaced.
        dry_run (`bool`, defaults to `False`): train and write nothing.

    Returns:
        `str`: a folder that plain transformers loads; in a dry run the model itself.
    """
    folder = Path(args.output_dir) / "language_model"
    config = language.new_backbone_config(model, tokenizer)
    language.check_length(config, "max_length", data.max_length)
    built = SimCTGForCausalLM(SimCTGConfig(backbone_config=config, contrastive_weight=0.0))
    if dry_run:
        return built.backbone
    if model.pretrain_steps and not (folder / "config.json").is_file():
        own = copy.copy(args)
        own.output_dir, own.max_steps = str(folder / "run"), model.pretrain_steps
        own.learning_rate, own.per_device_train_batch_size = model.pretrain_learning_rate, model.pretrain_batch_size
        own.gradient_cache_chunk_size, own.push_to_hub = None, False
        # a checkpoint that is named belongs to the reward model; this part goes on from its own last one
        own.resume_from_checkpoint = True if own.resume_from_checkpoint else None
        own.eval_strategy, own.load_best_model_at_end = "no", False
        rows = token_blocks(datasets.Dataset.from_dict({"text": list(texts)}), tokenizer, data.max_length)
        trainer = LanguageModelTrainer(
            built,
            own,
            data_collator=TextCollator(tokenizer.pad_token_id),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        say(f"\n=== language model: {model.pretrain_steps} steps on {len(rows)} rows of {data.max_length} tokens ===")
        train_or_load(trainer, own, tokenizer, final=False)
        trainer.accelerator.wait_for_everyone()
        built = unwrap_model(trainer.model)
    if is_main_process() and not (folder / "config.json").is_file():
        built.to("cpu")
        export_backbone(built, folder, processor=tokenizer)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    return str(folder)


def make_model(
    spec: SystemSpec,
    model: RewardModelArguments,
    place: str | torch.nn.Module,
    max_length: int,
    fields: Mapping[str, Any],
) -> Any:
    """The reward model on a trained language model, in training mode.

    Args:
        spec ([`SystemSpec`]): the system's row in the registry.
        model ([`RewardModelArguments`]): adapters are read.
        place (`str` or model): folder or hub id of the language model, or the model.
        max_length (`int`): tokens of a row; must fit the model.
        fields (`Mapping`): of the system's configuration.

    Raises:
        ValueError: rows longer than the model's positions.
    """
    with named_checkpoint("backbone", str(place)):
        built = spec.model_class().from_backbone(place, **fields)
    language.check_length(built.config, "max_length", max_length)
    if model.lora_rank is not None:
        built = add_lora(built, r=model.lora_rank, alpha=model.lora_alpha)
    return built


def report(trainer: Any, data: PreferenceDataArguments, pipeline: PreferencePipeline) -> None:
    """Print what is about to be trained (main process only)."""
    say(
        batch_report(
            trainer,
            data=describe_data(data, pipeline)["name"],
            loss=loss_text(trainer),
            num_views=0,
            command=command_line(),
        )
    )
    for name, lengths in pipeline.lengths.items():
        say(f"{name}:")
        for line in lengths.lines():
            say(f"  {line}")
    say()


def describe_data(data: PreferenceDataArguments, pipeline: PreferencePipeline) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    built_in = data.dataset_path == "arithmetic"
    path = Path(data.dataset_path).expanduser()
    local = built_in or path.exists()
    # `pairs` or `train.jsonl` alone says little
    near = "/".join(path.resolve().parts[-2:])
    name = "arithmetic word problems" if built_in else near if local else data.dataset_path
    about: dict[str, Any] = {"name": name, "split": data.train_split, "rows": len(pipeline.train)}
    about["columns"] = {"prompt": "text", "chosen": "the preferred answer", "rejected": "the other answer"}
    if not local:
        about["id"] = data.dataset_path
    if built_in:
        about["licence"] = "apache-2.0"
        about["description"] = (
            "Word problems made by hf_contrastive, each with a right solution and one with a single mistake; test problems "
            "have other calculations than training problems."
        )
    return about


def dry_run(model: Any, pipeline: PreferencePipeline) -> None:
    """One forward and backward on two pairs; prints every shape."""
    common.dry_run(model, pipeline.collator([pipeline.train[row] for row in range(min(2, len(pipeline.train)))]))


def calibrate(trainer: Any, pipeline: PreferencePipeline, options: RewardMeasureArguments) -> float:
    """The threshold that was asked for, or the one that keeps a share of the preferred training answers."""
    if options.threshold is not None:
        return options.threshold
    count = min(len(pipeline.train), options.goal_samples or len(pipeline.train))
    rows = [pipeline.train[row] for row in range(count)]
    answers = datasets.Dataset.from_dict(
        {
            "input_ids": [row["chosen_input_ids"] for row in rows],
            "num_actions": [row["chosen_num_actions"] for row in rows],
        }
    )
    scores = trainer.score_completions(answers, pipeline.answer_collator)
    lowest = min_q_values([one["q_values"] for one in scores], options.skip_tokens)
    return float(np.quantile(lowest[np.isfinite(lowest)], 1 - options.keep_right))


def measure(
    trainer: Any, name: str, pipeline: PreferencePipeline, options: RewardMeasureArguments
) -> tuple[dict[str, Any], list[dict[str, Any]] | None]:
    """Set the goal state, then measure pairs, AUROC of reward and Q-value, and the filtered vote.

    Args:
        trainer ([`GoalConditionedRewardTrainer`]): with the model.
        name (`str`): of the model, in the table.
        pipeline ([`PreferencePipeline`]): test pairs and marked answers.
        options ([`RewardMeasureArguments`]): how.

    Returns:
        `(row of the table, scores of the marked answers or None)`.
    """
    model = unwrap_model(trainer.model)
    model.set_goal_state(trainer.compute_goal_state(max_samples=options.goal_samples))
    row: dict[str, Any] = {"model": name}
    if pipeline.test is not None:
        found = trainer.evaluate(pipeline.test, metric_key_prefix="test")
        for key in ("loss", "preference_loss", "contrastive_loss", "accuracy", "pos_sim", "neg_sim"):
            if f"test_{key}" in found:
                row[key] = found[f"test_{key}"]
        if name != "before training":
            model.config.reward_mean, model.config.reward_std = found["test_reward_mean"], found["test_reward_std"]
    if pipeline.completions is None:
        return row, None
    row["threshold"] = calibrate(trainer, pipeline, options)
    scores = trainer.score_completions(pipeline.completions, pipeline.answer_collator)
    columns = (list(pipeline.completions[name]) for name in ("is_correct", "question_id", "predicted_answer"))
    found = answer_metrics(
        scores,
        *columns,
        threshold=row["threshold"],
        skip_tokens=options.skip_tokens,
        percentiles=PERCENTILES,
    )
    row |= {key: value for key, value in found.items() if key not in ("partial_auroc", "vote")}
    row["partial_auroc"] = {f"{share:g}": value for share, value in found["partial_auroc"].items()}
    if "vote" in found:
        vote = found["vote"]
        row |= {
            "vote": vote.accuracy_unfiltered,
            "filtered_vote": vote.accuracy,
            "filtered_share": vote.filtered_share,
            "tokens_saved_share": vote.tokens_saved_share,
        }
    return row, scores


def format_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of a model as they stand in tables."""
    titles = {
        "accuracy": "pairs right %",
        "auroc": "AUROC",
        "auroc_within": "within questions",
        "q_auroc": "AUROC of Q",
        "q_auroc_within": "Q within questions",
        "vote": "vote %",
        "filtered_vote": "filtered vote %",
        "filtered_share": "filtered %",
        "tokens_saved_share": "tokens saved %",
        "threshold": "threshold of Q",
    }
    line = {"model": str(row["model"])}
    for key, title in titles.items():
        if key in row:
            line[title] = f"{row[key]:.3f}" if "auroc" in key or key == "threshold" else f"{100 * row[key]:.1f}"
    if "partial_auroc" in row:
        line["AUROC after " + "/".join(f"{100 * float(share):.0f}" for share in row["partial_auroc"]) + " %"] = (
            "/".join(f"{value:.2f}" for value in row["partial_auroc"].values())
        )
    return line


def finish(
    trainer: Any,
    spec: SystemSpec,
    pipeline: PreferencePipeline,
    *,
    rows: Sequence[Mapping[str, Any]],
    written: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Any]] | None,
    trained: str,
    data: PreferenceDataArguments,
    options: RewardMeasureArguments,
    started: float,
    base_model: str | None,
) -> None:
    """Write card, results and pictures beside the saved model; print the tables and what to do next (main process only).

    Args:
        trainer ([`GoalConditionedRewardTrainer`]): after training.
        spec ([`SystemSpec`]): the system.
        pipeline ([`PreferencePipeline`]): data.
        rows: of `measure`, one a model.
        written: of `write_answers`.
        scores: of the marked answers by the saved model, for the picture.
        trained (`str`): name of the saved model in `rows`.
        data, options: what it was trained on and how it was measured.
        started (`float`): `time.time()` at the start.
        base_model (`str`, *optional*): hub id that the training started from.
    """
    if not is_main_process():
        return
    folder = Path(trainer.args.output_dir)
    about = describe_data(data, pipeline)
    if rows:
        say()
        metrics_table(
            [format_row(row) for row in rows], title=f"{about['name']}: {len(pipeline.train)} training pairs"
        )
    if written:
        say()
        table = [
            {
                "decoding": row["decoding"],
                "kept": f"{row['kept']} of {row['answers']}",
                "right of these %": f"{100 * row['right']:.1f}",
                "vote %": f"{100 * row['vote']:.1f}",
                "tokens written": str(row["tokens"]),
                "seconds": f"{row['seconds']:.1f}",
            }
            for row in written
        ]
        metrics_table(table, title=f"written by the language model, {options.write_samples} answers a question")
    write_outcome(
        trainer,
        spec,
        about=about,
        metrics=_card_metrics(rows, trained, about["name"]),
        results={
            "reward_models": list(rows),
            "written": list(written),
            "trained": trained,
            "lengths": {name: lengths.to_dict() for name, lengths in pipeline.lengths.items()},
            "max_length": data.max_length,
        },
        settings={"tokens of a row": data.max_length},
        started=started,
        base_model=base_model,
    )
    row = next((row for row in rows if row["model"] == trained), {})
    before = rows[0] if rows and rows[0]["model"] != trained else {}
    numbers = ("accuracy", "auroc", "q_auroc")
    close_run(
        trainer,
        metrics={name: float(row[name]) for name in numbers if name in row},
        baseline={name: float(before[name]) for name in numbers if name in before},
        draw=partial(_draw, folder, scores, pipeline, f"{trained} on {about['name']}") if options.pictures else None,
        commands={
            "score": f"hf-contrastive score {folder} --prompt 'Question: ...' --answer 'one' --answer 'another'",
        },
    )


def _draw(folder: Path, scores: Any, pipeline: PreferencePipeline, about: str) -> list[Path]:
    from hf_contrastive.reporting import plot_reward_courses

    drawn = draw_run(folder)
    if scores and pipeline.completions is not None:
        q_values = None if scores[0]["q_values"] is None else [one["q_values"] for one in scores]
        picture = plot_reward_courses(
            [one["token_rewards"] for one in scores],
            q_values,
            list(pipeline.completions["is_correct"]),
            folder / "plots" / "reward_courses.png",
            data=about,
        )
        drawn.append(Path(picture.path))
    return drawn


def _card_metrics(rows: Sequence[Mapping[str, Any]], trained: str, dataset: str) -> list[Metric]:
    """The table as rows of a model card."""
    names = {"accuracy": "pairwise accuracy", "auroc": "AUROC of the reward", "q_auroc": "AUROC of the lowest Q-value"}
    metrics = []
    for row in rows:
        system = "this model" if row["model"] == trained else row["model"]
        for key, name in names.items():
            if key in row:
                note = "" if key == "accuracy" else f"{row['answers']} answers, {100 * row['correct']:.0f} % right"
                metrics.append(Metric(name, round(float(row[key]), 4), dataset, system=system, note=note))
    return metrics


__all__ = [
    "PreferenceDataArguments",
    "PreferencePipeline",
    "Preferences",
    "RewardMeasureArguments",
    "RewardModelArguments",
    "describe_data",
    "dry_run",
    "fields_of",
    "finish",
    "format_row",
    "language_texts",
    "load_splits",
    "make_model",
    "make_tokenizer",
    "measure",
    "report",
    "start",
]
