"""Shared by the recipes that train on preference pairs."""

from __future__ import annotations

import copy
import datetime
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hf_contrastive.data import (
    AnswerCollator,
    LengthReport,
    PreferenceCollator,
    TextCollator,
    final_answer,
    list_preference_splits,
    load_completions,
    load_preferences,
    load_texts,
    token_blocks,
    tokenize_completions,
    tokenize_preferences,
    train_tokenizer,
    word_problem_texts,
)
from hf_contrastive.distributed import is_main_process
from hf_contrastive.hub import Metric, export_backbone, write_model_card
from hf_contrastive.models.simctg.configuration_simctg import SimCTGConfig
from hf_contrastive.models.simctg.modeling_simctg import SimCTGForCausalLM
from hf_contrastive.modules.lora import add_lora
from hf_contrastive.recipes.common import (
    card_settings,
    command_line,
    loss_text,
    machine,
    model_types,
    option,
    train_or_load,
    write_results,
)
from hf_contrastive.recipes.texts import named_checkpoint
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import metrics_table, plot_run, say
from hf_contrastive.training import LanguageModelTrainer, batch_report, final_report
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
    """The tokenizer that belongs to the model: its own, the one named, or one learned from the texts; with a pad token.

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
        return train_tokenizer(texts or [], model.vocab_size, getattr(config, "max_position_embeddings", None))
    place = model.tokenizer if new and model.tokenizer is not None else model.backbone
    with named_checkpoint("tokenizer" if new else "backbone", place):
        tokenizer: Any = AutoTokenizer.from_pretrained(place)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        say(
            f"{place} has no pad token; its end-of-text token {tokenizer.eos_token!r} pads, too (masked, so it never counts)."
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
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(
        model.backbone, **{"vocab_size": len(tokenizer), **special, **(model.backbone_options or {})}
    )
    _check_length(config, data.max_length)
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


def _check_length(config: Any, max_length: int) -> None:
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and max_length > longest:
        raise ValueError(
            f"`max_length` is {max_length}, but the model has {longest} positions; pass --max_length {longest} or less."
        )


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
    _check_length(built.config, max_length)
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
    name = "arithmetic word problems" if built_in else path.name if local else data.dataset_path
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
    batch = pipeline.collator([pipeline.train[row] for row in range(min(2, len(pipeline.train)))])
    model.train()
    outputs = model(**batch)
    outputs.loss.backward()
    lines = [{"tensor": name, "shape": "x".join(map(str, value.shape))} for name, value in batch.items()]
    for name, value in outputs.items():
        shape = "x".join(map(str, value.shape)) or f"scalar {float(value.detach()):.4f}"
        lines.append({"tensor": f"outputs.{name}", "shape": shape})
    with_gradient = sum(parameter.grad is not None for parameter in unwrap_model(model).parameters())
    metrics_table(lines, title="dry run: one step on two rows")
    say(f"{with_gradient} parameter tensors got a gradient; nothing was written.")


def calibrate(trainer: Any, pipeline: PreferencePipeline, options: RewardMeasureArguments) -> float:
    """The threshold that was asked for, or the one that keeps a share of the preferred training answers."""
    if options.threshold is not None:
        return options.threshold
    from hf_contrastive.evaluation import min_q_values

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


def measure(trainer: Any, name: str, pipeline: PreferencePipeline, options: RewardMeasureArguments) -> dict[str, Any]:
    """Set the goal state, then one row of the table: pairs, AUROC of reward and Q-value, filtered vote."""
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
    if pipeline.completions is not None:
        row["threshold"] = calibrate(trainer, pipeline, options)
        found = trainer.evaluate_completions(
            pipeline.completions,
            pipeline.answer_collator,
            threshold=row["threshold"],
            skip_tokens=options.skip_tokens,
            percentiles=PERCENTILES,
        )
        row |= {
            key: found[key]
            for key in ("auroc", "auroc_within", "q_auroc", "q_auroc_within", "answers", "correct")
            if key in found
        }
        row["partial_auroc"] = {f"{share:g}": value for share, value in found["partial_auroc"].items()}
        if "vote" in found and any(answer is not None for answer in pipeline.completions["predicted_answer"]):
            vote = found["vote"]
            row |= {
                "vote": vote.accuracy_unfiltered,
                "filtered_vote": vote.accuracy,
                "filtered_share": vote.filtered_share,
                "tokens_saved_share": vote.tokens_saved_share,
            }
    return row


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


def same_answer(one: str | None, other: str | None) -> bool:
    """Whether two final answers are the same number, or else the same text."""
    if one is None or other is None:
        return False
    plain = [text.replace("$", "").replace(",", "").strip().rstrip(".") for text in (one, other)]
    try:
        return float(plain[0]) == float(plain[1])
    except ValueError:
        return plain[0] == plain[1]


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
    from hf_contrastive.generation import filter_generations

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
        finals = [final_answer(text) for text in written.texts or ()]
        right = [same_answer(final, known[p][1]) for final, p in zip(finals, written.prompt_index, strict=True)]
        votes = 0
        for question in range(len(known)):
            own = [number for number, p in enumerate(written.prompt_index) if p == question]
            kept = [number for number in own if written.kept[number]] or own
            counts = Counter(finals[number] for number in kept if not right[number])
            votes += sum(right[number] for number in kept) >= max(counts.values(), default=1)
        kept = [number for number, is_kept in enumerate(written.kept) if is_kept]
        rows.append(
            {
                "decoding": name,
                "answers": len(finals),
                "kept": len(kept),
                "right": float(np.mean([right[number] for number in kept])) if kept else 0.0,
                "vote": votes / len(known),
                "tokens": int(written.tokens_generated),
                "seconds": seconds,
            }
        )
    return rows


def save(trainer: Any, tokenizer: Any) -> Path:
    """Write model and tokenizer to the run's folder (main process only).

    Returns:
        `Path`: the folder.
    """
    folder = Path(trainer.args.output_dir)
    if is_main_process():
        inner = trainer.accelerator.unwrap_model(trainer.model)
        (inner if hasattr(inner, "peft_config") else unwrap_model(trainer.model)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def finish(
    trainer: Any,
    spec: SystemSpec,
    pipeline: PreferencePipeline,
    *,
    rows: Sequence[Mapping[str, Any]],
    written: Sequence[Mapping[str, Any]],
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
        trained (`str`): name of the saved model in `rows`.
        data, options: what it was trained on and how it was measured.
        started (`float`): `time.time()` at the start.
        base_model (`str`, *optional*): hub id that the training started from.
    """
    scores = None
    if options.pictures and pipeline.completions is not None:  # on all processes, each scores a share
        scores = trainer.score_completions(pipeline.completions, pipeline.answer_collator)
    if not is_main_process():
        return
    folder, args, seconds = Path(trainer.args.output_dir), trainer.args, time.time() - started
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
    inner = trainer.accelerator.unwrap_model(trainer.model)
    training = {
        "data": about,
        "settings": {**card_settings(trainer), "tokens of a row": data.max_length},
        "loss": loss_text(trainer),
        "command": command_line(public=True),
        "date": datetime.date.today().isoformat(),
        "hardware": machine(),
        "wall_time": seconds,
    }
    card: dict[str, Any] = {
        "spec": spec,
        "config": unwrap_model(trainer.model).config,
        "metrics": _card_metrics(rows, trained, about["name"]),
        "training": training,
        "base_model": base_model,
        # what started from somebody's weights keeps their licence, which is not known here
        "licence": "unknown" if base_model else "apache-2.0",
        "is_adapter": hasattr(inner, "peft_config"),
    }
    trainer.card_fields = card
    write_model_card(
        folder, model_name=f"{spec.title} on {about['name']}", log_history=trainer.state.log_history, **card
    )
    results = {
        "system": spec.slug,
        "reward_models": list(rows),
        "written": list(written),
        "trained": trained,
        "seed": args.seed,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "data": about["name"],
        "train_rows": about["rows"],
        "lengths": {name: lengths.to_dict() for name, lengths in pipeline.lengths.items()},
        "max_length": data.max_length,
        "command": training["command"],
        "date": training["date"],
        "machine": training["hardware"],
    }
    write_results(folder, results)
    if options.pictures:
        _draw(folder, scores, pipeline, f"{trained} on {about['name']}")
    if args.push_to_hub:
        trainer.push_to_hub()
    row = next((row for row in rows if row["model"] == trained), {})
    before = rows[0] if rows and rows[0]["model"] != trained else {}
    numbers = ("accuracy", "auroc", "q_auroc")
    say()
    say(
        final_report(
            trainer,
            metrics={name: float(row[name]) for name in numbers if name in row},
            baseline={name: float(before[name]) for name in numbers if name in before},
            command=command_line(),
            commands={
                "score": f"hf-contrastive score {folder} --prompt 'Question: ...' --answer 'one' --answer 'another'",
            },
        )
    )


def _draw(folder: Path, scores: Any, pipeline: PreferencePipeline, about: str) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        say("no pictures were drawn: matplotlib is not installed; type: pip install 'hf-contrastive[plots]'")
        return
    from hf_contrastive.reporting import plot_reward_courses

    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    drawn = [picture.path for picture in plot_run(folder, plots)]
    if scores and pipeline.completions is not None:
        q_values = None if scores[0]["q_values"] is None else [one["q_values"] for one in scores]
        picture = plot_reward_courses(
            [one["token_rewards"] for one in scores],
            q_values,
            list(pipeline.completions["is_correct"]),
            plots / "reward_courses.png",
            data=about,
        )
        drawn.append(picture.path)
    say(f"pictures: {', '.join(str(path) for path in drawn)}")


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
    "save",
    "start",
    "write_answers",
]
