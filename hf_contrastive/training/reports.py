"""What a run says before it starts and after it ends."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hf_contrastive.training.unwrap import unwrap_model


# Numbers kept per trained weight by an optimiser, by the beginning of its name.
_OPTIMIZER_STATES = {"adam": 2, "lion": 1, "sgd": 1, "rmsprop": 1, "adagrad": 1, "adafactor": 0}
_TILE = 1024


class RunReport(dict):
    """Facts of a run by name; `str(report)` or `print(report)` gives the text."""

    def __init__(self, facts: Mapping[str, Any], lines: Sequence[tuple[str, str]], title: str) -> None:
        super().__init__(facts)
        self._lines = list(lines)
        self._title = title

    def __str__(self) -> str:
        width = max((len(name) for name, _ in self._lines), default=0)
        text = [self._title]
        for name, value in self._lines:
            wrapped = [part for line in value.split("\n") for part in (textwrap.wrap(line, 100 - width) or [""])]
            text += [f"  {name if number == 0 else '':<{width}}  {part}" for number, part in enumerate(wrapped)]
        return "\n".join(text)


def trainable_parts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Trainable and all parameters of every part (direct child) of a model.

    Args:
        model (`torch.nn.Module`): wrapped or not.

    Returns:
        `dict[str, tuple[int, int]]`: part -> (trainable, all); parts without parameters are left out.
    """
    inner = unwrap_model(model)
    parts: dict[str, tuple[int, int]] = {}
    groups = [*inner.named_children(), ("(own)", None)]
    for name, child in groups:
        parameters = list(inner.parameters(recurse=False) if child is None else child.parameters())
        if parameters:
            trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
            parts[name] = (trainable, sum(parameter.numel() for parameter in parameters))
    return parts


def expected_duplicates(labels: Sequence[Any], batch_size: int) -> float:
    """Expected number of rows in a random batch whose label another row of the batch has already shown.

    Exact for batches drawn without replacement: `B - sum_c (1 - C(n - n_c, B) / C(n, B))`.

    Args:
        labels (`Sequence`): the label or id of every row.
        batch_size (`int`): rows of a global batch, at most `len(labels)`.

    Returns:
        `float`: 0 when all labels differ.

    Example:

    ```python
    >>> from hf_contrastive.training.reports import expected_duplicates
    >>> expected_duplicates([0, 0, 1, 1], 4), expected_duplicates([0, 1, 2], 2)
    (2.0, 0.0)

    ```
    """
    rows = len(labels)
    if not 1 <= batch_size <= rows:
        raise ValueError(f"`batch_size` is {batch_size}, but it must be between 1 and the number of labels, {rows}.")

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    distinct, total = 0.0, log_choose(rows, batch_size)
    for size, classes in Counter(Counter(labels).values()).items():
        absent = math.exp(log_choose(rows - size, batch_size) - total) if batch_size <= rows - size else 0.0
        distinct += classes * (1 - absent)
    return round(max(0.0, batch_size - distinct), 6)


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 'es' if word.endswith('s') else 's'}"


def batch_report(
    trainer: Any,
    *,
    data: str = "",
    loss: str = "",
    num_views: int = 2,
    columns_used: Sequence[str] = (),
    labels: Sequence[Any] | None = None,
    ids_masked: bool | None = None,
    command: str = "",
) -> RunReport:
    """What is about to be trained, on what, and how many positives and negatives an anchor has.

    Args:
        trainer ([`ContrastiveTrainer`]): ready to train.
        data (`str`): name of the training data.
        loss (`str`): the objective's formula in one line.
        num_views (`int`, defaults to 2): views of each sample that are compared with each other; 0 where rows are not
            compared at all (language models).
        columns_used (`Sequence[str]`): dataset columns the collator reads; the others are listed as ignored.
        labels (`Sequence`, *optional*): label or id of every training row, for the expected number of false negatives.
        ids_masked (`bool`, *optional*): equal labels are not each other's negatives; by default so where `sample_id_column` is
            set.
        command (`str`): the command that started the run, for the line on resuming.

    Returns:
        [`RunReport`]: the facts as a dictionary; `print(report)` on the main process shows the text.

    Example:

    ```python
    >>> import tempfile, torch
    >>> from hf_contrastive import (
    ...     ContrastiveTrainer, ContrastiveTrainingArguments, ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining,
    ... )
    >>> from hf_contrastive.training import batch_report
    >>> backbone = ConvEncoderConfig(channels=[4], num_channels=1)
    >>> model = SimCLRForPreTraining(SimCLRConfig(backbone_config=backbone, projection_dims=[4]))
    >>> args = ContrastiveTrainingArguments(tempfile.mkdtemp(), use_cpu=True, per_device_train_batch_size=4)
    >>> rows = [{"pixel_values": torch.rand(2, 1, 8, 8)} for _ in range(8)]
    >>> report = batch_report(ContrastiveTrainer(model, args, train_dataset=rows))
    >>> report["negatives_per_anchor"], report["steps"]
    (6, 6)

    ```
    """
    args, model, dataset = trainer.args, unwrap_model(trainer.model), trainer.train_dataset
    rows = len(dataset) if hasattr(dataset, "__len__") else None
    columns = list(getattr(dataset, "column_names", None) or [])
    used = [name for name in columns if name in columns_used] if columns_used else columns
    per_device, processes = args.per_device_train_batch_size, args.world_size
    accumulation, global_batch = args.gradient_accumulation_steps, args.per_device_train_batch_size * args.world_size
    has_negatives = getattr(model, "has_negatives", True)
    compared = num_views > 0
    has_negatives = has_negatives and compared
    negatives = 0
    if has_negatives:
        count = getattr(model, "count_negatives", None)
        negatives = num_views * (global_batch - 1) if count is None else count(global_batch, num_views)
    # a memory bank gives positives that are no views
    count_positives = getattr(model, "count_positives", None)
    positives = max(0, num_views - 1) if count_positives is None else count_positives(num_views)
    # of a sampler that puts several rows of a label side by side, these are each other's positives
    together = getattr(trainer.train_batch_sampler, "m", None)
    if together is not None and compared:
        positives, negatives = together - 1, max(0, global_batch - together)
    per_epoch, steps, epochs = _steps(trainer, rows, global_batch)

    distinct = bool(getattr(trainer.train_batch_sampler, "strict", False))
    duplicates = None
    if distinct:
        duplicates = 0.0
    elif has_negatives and labels is not None and trainer.train_batch_sampler is None and global_batch <= len(labels):
        duplicates = expected_duplicates(list(labels), global_batch)

    masked = bool(args.sample_id_column) if ids_masked is None else ids_masked
    parts = trainable_parts(model)
    trainable = sum(part[0] for part in parts.values())
    memory = _memory(
        model, trainable, str(getattr(args.optim, "value", args.optim)), num_views * per_device, global_batch
    )
    config = getattr(model, "config", None)
    encoders = [getattr(config, name, None) for name in ("backbone_config", "vision_config", "text_config")]
    kinds = [str(one.model_type) for one in encoders if one is not None]
    facts: dict[str, Any] = {
        "model": type(model).__name__,
        "backbone": " and ".join(kinds) or None,
        "data": data,
        "rows": rows,
        "columns_used": used,
        "columns_ignored": [name for name in columns if name not in used],
        "loss": loss,
        "processes": processes,
        "batch_size_per_device": per_device,
        "global_batch_size": global_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_cache_chunk_size": args.gradient_cache_chunk_size,
        "positives_per_anchor": positives,
        "negatives_per_anchor": negatives,
        "expected_duplicates_per_batch": duplicates,
        "steps_per_epoch": per_epoch,
        "steps": steps,
        "epochs": epochs,
        "parts": {name: {"trainable": part[0], "all": part[1]} for name, part in parts.items()},
        "memory_bytes": memory,
        "output_dir": args.output_dir,
    }
    lines = [
        ("model", facts["model"] + (f" on {facts['backbone']}" if facts["backbone"] else "")),
        ("parameters", _parts_text(parts)),
        ("data", f"{data or 'training set'}: " + ("unknown number of rows" if rows is None else _plural(rows, "row"))),
    ]
    if columns:
        ignored = facts["columns_ignored"]
        lines.append(("columns", f"used: {', '.join(used)}" + (f"; ignored: {', '.join(ignored)}" if ignored else "")))
    if loss:
        lines.append(("loss", loss))
    lines += [
        ("processes", f"{processes} on {args.device.type}"),
        (
            "batch",
            f"{per_device} rows x {_plural(processes, 'process')} = {global_batch}"
            + (" compared with each other" if compared else " rows")
            + (f", in chunks of {args.gradient_cache_chunk_size}" if args.gradient_cache_chunk_size else "")
            + (
                f"; {accumulation} such batches make one step ({global_batch * accumulation} rows), "
                + ("which adds no negatives" if has_negatives else "each with a loss of its own")
                if accumulation > 1
                else ""
            ),
        ),
    ]
    anchors: list[tuple[str, str]] = [
        (
            "per anchor",
            f"{_plural(positives, 'positive')}, "
            + (
                f"{_plural(negatives, 'negative')} from {_plural(processes, 'device')}"
                if has_negatives
                else "no negatives"
            ),
        ),
        ("duplicates", "rows with the same label are positives")
        if together is not None
        else ("duplicates", _duplicates_text(duplicates, distinct, masked, global_batch))
        if has_negatives
        else ("duplicates", "do not matter: nothing is pushed away from anything"),
    ]
    lines += anchors if compared else []
    lines += [
        (
            "steps",
            "unknown"
            if steps is None
            else f"{steps:,}" + (f" ({epochs:g} epochs of {per_epoch:,})" if per_epoch else ""),
        ),
        (
            "memory",
            f"{_bytes(sum(memory.values()))} per device: weights {_bytes(memory['weights'])}, gradients "
            f"{_bytes(memory['gradients'])}, optimizer {_bytes(memory['optimizer'])}"
            + (f", similarities {_bytes(memory['similarities'])}" if compared else "")
            + "; activations come on top and are not known before the first step",
        ),
        ("output", str(args.output_dir)),
        (
            "stop, resume",
            f"Ctrl-C stops; {_saving_text(args)}; continue with "
            + (f"{command} --resume_from_checkpoint true" if command else "--resume_from_checkpoint true"),
        ),
    ]
    return RunReport(facts, lines, "Batch report")


def _steps(trainer: Any, rows: int | None, global_batch: int) -> tuple[int | None, int | None, float | None]:
    args = trainer.args
    batches = None
    if trainer.train_batch_sampler is not None and hasattr(trainer.train_batch_sampler, "__len__"):
        batches = len(trainer.train_batch_sampler) // args.world_size
    elif rows is not None:
        batches = rows // global_batch if args.dataloader_drop_last else math.ceil(rows / global_batch)
    per_epoch = None if not batches else math.ceil(batches / args.gradient_accumulation_steps)
    if args.max_steps > 0:
        return per_epoch, args.max_steps, round(args.max_steps / per_epoch, 2) if per_epoch else None
    if per_epoch is None:
        return None, None, None
    return per_epoch, math.ceil(args.num_train_epochs * per_epoch), float(args.num_train_epochs)


def _memory(model: nn.Module, trainable: int, optimizer: str, anchors: int, global_batch: int) -> dict[str, int]:
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    states = next((number for start, number in _OPTIMIZER_STATES.items() if optimizer.startswith(start)), 2)
    tile = min(anchors, _TILE) * min(2 * global_batch, _TILE) * 4
    return {"weights": weights, "gradients": gradients, "optimizer": 4 * states * trainable, "similarities": 2 * tile}


def _parts_text(parts: dict[str, tuple[int, int]]) -> str:
    trainable, total = (sum(part[number] for part in parts.values()) for number in (0, 1))
    shown = []
    for name, (own, every) in parts.items():
        count = f"{own:,}" if own == every else f"{own:,} of {every:,}" if own else f"frozen ({every:,})"
        shown.append(f"{name} {count}")
    return f"{trainable:,} of {total:,} are trained: {', '.join(shown)}"


def _duplicates_text(duplicates: float | None, distinct: bool, masked: bool, global_batch: int) -> str:
    if distinct:
        return "none: the sampler keeps equal labels out of a batch"
    if duplicates is None:
        return "unknown (no labels given)"
    text = f"{duplicates:.1f} of {global_batch} rows of a batch share their label with an earlier row"
    return text + ("; such pairs are masked" if masked else "; such pairs count as negatives")


def _saving_text(args: Any) -> str:
    strategy = getattr(args.save_strategy, "value", str(args.save_strategy))
    if strategy == "steps":
        steps = args.save_steps
        return f"checkpoints every {f'{steps:g}' if steps >= 1 else f'{steps:.0%} of the'} steps"
    return {"no": "no checkpoints are written", "epoch": "a checkpoint every epoch"}.get(strategy, "the best is kept")


def final_report(
    trainer: Any,
    *,
    metrics: Mapping[str, float] | None = None,
    baseline: Mapping[str, float] | None = None,
    folder: str | None = None,
    dataset: str = "DATASET",
    command: str = "",
    commands: Mapping[str, str] | None = None,
) -> RunReport:
    """Where the result lies, what it reached against the untrained model, and what to type next.

    Args:
        trainer ([`ContrastiveTrainer`]): after training.
        metrics (`Mapping[str, float]`, *optional*): of the trained model, for example of `evaluate()`.
        baseline (`Mapping[str, float]`, *optional*): the same of the untrained model.
        folder (`str`, *optional*): the saved model; `output_dir` by default.
        dataset (`str`): data for the commands shown.
        command (`str`): the command that started the run.
        commands (`Mapping[str, str]`, *optional*): what to type next, in place of the commands for images.

    Returns:
        [`RunReport`].
    """
    folder = str(folder or trainer.args.output_dir)
    metrics, baseline = dict(metrics or {}), dict(baseline or {})
    skipped = ("_runtime", "_per_second", "_loss")
    shown = {name: value for name, value in metrics.items() if isinstance(value, float) and not name.endswith(skipped)}
    quality = {
        name: value for name, value in shown.items() if any(word in name for word in ("top1", "recall", "map@"))
    }
    for_images = {
        "evaluate": f"hf-contrastive evaluate knn {folder} {dataset}",
        "embed": f"hf-contrastive embed {folder} {dataset} -o embeddings.parquet",
    }
    next_commands = {
        **(for_images if commands is None else commands),
        "plot": f"hf-contrastive plot {folder}",
        "resume": f"{command or 'the same command'} --resume_from_checkpoint true --num_train_epochs N",
    }
    lines = [("checkpoint", folder)]
    best = getattr(trainer.state, "best_model_checkpoint", None)
    if best:
        lines.append(
            ("best checkpoint", f"{best} ({trainer.args.metric_for_best_model} {trainer.state.best_metric:.4f})")
        )
    for name, value in (quality or shown).items():
        before = baseline.get(name)
        against = "" if before is None else f"   untrained: {before:.4f} ({value - before:+.4f})"
        lines.append((name.removeprefix("eval_"), f"{value:.4f}{against}"))
    lines += [(f"to {name}", text) for name, text in next_commands.items()]
    facts = {"checkpoint": folder, "metrics": metrics, "baseline": baseline, "commands": next_commands}
    return RunReport(facts, lines, f"Done: {trainer.state.global_step:,} steps")
