"""Arguments of `ContrastiveTrainer`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments


PROBES = ("knn", "linear", "retrieval", "views", "pairs")

# transformers takes every metric but a loss for one that should grow
LOWER_IS_BETTER = ("alignment", "uniformity")


@dataclass
class ContrastiveTrainingArguments(TrainingArguments):
    r"""
    `transformers.TrainingArguments` plus what contrastive training needs; only the new fields are listed here.

    Defaults that differ from transformers: `dataloader_drop_last=True` (a filled-up last batch repeats samples, which
    would be false negatives), `remove_unused_columns=False` (views are made while loading), `label_names=[]`,
    `accelerator_config={"dispatch_batches": False}` (streamed rows may hold images and text),
    `logging_nan_inf_filter=False` (a loss that is not finite stops the run), `average_tokens_across_devices=False`,
    `logging_steps=10`. `greater_is_better` is false by default for alignment and uniformity as `metric_for_best_model`.
    `resume_from_checkpoint` may also be `True`: the last checkpoint of `output_dir`.

    Args:
        gradient_cache_chunk_size (`int`, *optional*): rows embedded at a time; none = the whole batch at once.
        sample_id_column (`str`, *optional*): batch entry with ids or labels; equal ids are never negatives.
        probe_metrics (`list[str]`, defaults to none): what `evaluate()` measures on the embeddings: `"knn"`, `"linear"` (both
            need `probe_dataset`), `"retrieval"`, `"views"` (alignment of two views; needs no labels), `"pairs"` (of a model of two
            modalities: loss and retrieval of partners; needs no labels).
        probe_k (`int`, defaults to 20): neighbours that vote in kNN.
        probe_max_samples (`int`, *optional*): at most that many rows of each evaluation dataset, drawn once.
        probe_readout (`str`, *optional*): where the model is read, one of `model.readouts`; its first by default.
        probe_label_column (`str`, defaults to `"label"`): batch entry with the labels.
        monitor_collapse (`bool`, defaults to `True`): watch the training embeddings.
        monitor_steps (`int`, defaults to 10): look at every so many steps.
        collapse_std_threshold (`float`, defaults to 0.05): warn below this spread (`std * sqrt(dim)`, 1 is even).
        collapse_rank_threshold (`float`, defaults to 1.5): warn below this effective rank.
        collapse_patience (`int`, defaults to 5): consecutive looks before a warning about collapse or chance level.
        chance_tolerance (`float`, defaults to 0.01): relative distance from the chance level that still counts as chance.

    Raises:
        ValueError: a value out of range; the message names the field, the value and what is allowed.

    Example:

    ```python
    >>> from hf_contrastive import ContrastiveTrainingArguments
    >>> args = ContrastiveTrainingArguments(output_dir="out", use_cpu=True, probe_metrics=["knn"])
    >>> args.dataloader_drop_last, args.monitor_collapse
    (True, True)

    ```
    """

    _VALID_DICT_FIELDS = TrainingArguments._VALID_DICT_FIELDS

    # Changed defaults
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Drop the last incomplete batch: filling it up would repeat samples."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Remove columns the model does not take before the collator sees them."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide NaN and infinity in the log; here they stop the run instead."}
    )
    average_tokens_across_devices: bool = field(
        default=False, metadata={"help": "Of language models; contrastive losses are means over anchors."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps (below 1: share of the run)."})

    resume_from_checkpoint: str | bool | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None, metadata={"help": "Continue a run: a checkpoint folder, or true for the last one of output_dir."}
    )

    # Memory
    gradient_cache_chunk_size: int | None = field(
        default=None,
        metadata={
            "help": "Gradient cache: rows embedded at a time, for batches larger than memory; none = all at once."
        },
    )

    # Data
    sample_id_column: str | None = field(
        default=None, metadata={"help": "Batch entry with ids or labels; rows of equal id are never negatives."}
    )

    # Evaluation while training
    probe_metrics: list[str] = field(
        default_factory=list, metadata={"help": "What evaluate() measures: knn, linear, retrieval, views, pairs."}
    )
    probe_k: int = field(default=20, metadata={"help": "Neighbours that vote in the kNN probe."})
    probe_max_samples: int | None = field(
        default=None, metadata={"help": "At most that many rows of each evaluation dataset; none = all."}
    )
    probe_readout: str | None = field(
        default=None, metadata={"help": "Where the model is read for probes; none = its first readout."}
    )
    probe_label_column: str = field(default="label", metadata={"help": "Batch entry with the labels of the probes."})

    # Monitors
    monitor_collapse: bool = field(
        default=True, metadata={"help": "Watch the training embeddings and warn of collapse."}
    )
    monitor_steps: int = field(default=10, metadata={"help": "Look at the embeddings every so many steps."})
    collapse_std_threshold: float = field(
        default=0.05, metadata={"help": "Warn when std * sqrt(dim) of the embeddings falls below (1 = evenly spread)."}
    )
    collapse_rank_threshold: float = field(
        default=1.5, metadata={"help": "Warn when the effective rank of the embeddings falls below."}
    )
    collapse_patience: int = field(
        default=5, metadata={"help": "Consecutive looks before a warning about collapse or chance level."}
    )
    chance_tolerance: float = field(
        default=0.01, metadata={"help": "Relative distance from the loss of guessing that still counts as guessing."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.accelerator_config, str) and self.accelerator_config.startswith("{"):
            self.accelerator_config = json.loads(self.accelerator_config)
        if self.accelerator_config is None:
            self.accelerator_config = {}
        if isinstance(self.accelerator_config, dict):
            self.accelerator_config = {"dispatch_batches": False, **self.accelerator_config}
        if isinstance(self.resume_from_checkpoint, str) and self.resume_from_checkpoint.lower() in ("true", "false"):
            self.resume_from_checkpoint = self.resume_from_checkpoint.lower() == "true"
        if self.label_names is None:
            self.label_names = []
        if isinstance(self.probe_metrics, str):
            self.probe_metrics = [self.probe_metrics]
        self.probe_metrics = list(self.probe_metrics or [])
        if self.greater_is_better is None and str(self.metric_for_best_model).endswith(LOWER_IS_BETTER):
            self.greater_is_better = False
        self._check()
        super().__post_init__()

    def _check(self) -> None:
        for name in ("gradient_cache_chunk_size", "probe_max_samples"):
            _require(getattr(self, name) is None or _is_count(getattr(self, name)), name, self, "a whole number >= 1")
        for name in ("probe_k", "monitor_steps", "collapse_patience", "per_device_train_batch_size"):
            _require(_is_count(getattr(self, name)), name, self, "a whole number >= 1")
        for name in ("collapse_std_threshold", "collapse_rank_threshold", "chance_tolerance"):
            value = getattr(self, name)
            _require(isinstance(value, (int, float)) and value >= 0, name, self, "a number >= 0")
        unknown = [name for name in self.probe_metrics if name not in PROBES]
        _require(not unknown, "probe_metrics", self, f"a list of {', '.join(PROBES)}")
        dtype_conflict = self.deepspeed and self.gradient_cache_chunk_size
        _require(
            not dtype_conflict, "gradient_cache_chunk_size", self, "none with DeepSpeed; use data parallel training"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(condition: bool, name: str, arguments: Any, expected: str) -> None:
    if not condition:
        raise ValueError(f"`{name}` is {getattr(arguments, name)!r}, but it must be {expected}.")
