"""Evaluation while training: embeddings of whole datasets, gathered from all processes, and what is measured on them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from hf_contrastive.evaluation import (
    alignment,
    effective_rank,
    embedding_std,
    knn_accuracy,
    linear_probe,
    paired_retrieval_metrics,
    retrieval_metrics,
    uniformity,
)
from hf_contrastive.training.monitors import find_views


def probe_metrics(
    probes: list[str],
    embeds: torch.Tensor,
    labels: torch.Tensor | None,
    train_embeds: torch.Tensor | None = None,
    train_labels: torch.Tensor | None = None,
    k: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Numbers that tell how good embeddings are.

    Args:
        probes (`list[str]`): any of `"knn"`, `"linear"` (both need the training rows), `"retrieval"`.
        embeds (`torch.Tensor` `[rows, dim]`): embeddings of the evaluation rows.
        labels (`torch.Tensor` `[rows]`, *optional*): their labels.
        train_embeds, train_labels (`torch.Tensor`, *optional*): rows that kNN searches and the linear probe learns from.
        k (`int`, defaults to 20): neighbours of kNN; at most the number of training rows.
        seed (`int`, defaults to 0): of the linear probe.

    Returns:
        `dict[str, float]`: `std`, `effective_rank`, `uniformity` always; `knn_top1`, `linear_top1`, `recall@1`,
        `recall@5`, `map@r` as asked.

    Raises:
        ValueError: labels that a probe needs are missing.
    """
    results = {
        "std": embedding_std(embeds),
        "effective_rank": effective_rank(embeds) if bool(embeds.any()) else 0.0,
        "uniformity": uniformity(embeds),
    }
    wanted = [probe for probe in probes if probe in ("knn", "linear", "retrieval")]
    if wanted and labels is None:
        raise ValueError(
            f"the probes {', '.join(wanted)} need labels, but the evaluation batches hold none; keep the label column in "
            "`eval_data_collator`, name it with `probe_label_column`, or set probe_metrics to []."
        )
    if train_embeds is None or train_labels is None:
        if "knn" in probes or "linear" in probes:
            raise ValueError("the probes knn and linear need labelled rows to learn from; pass `probe_dataset`.")
        train_embeds = embeds[:0]
    if "knn" in probes:
        scores = knn_accuracy(train_embeds, train_labels, embeds, labels, k=min(k, len(train_embeds)))
        results["knn_top1"] = scores["knn_top1"]
    if "linear" in probes:
        results["linear_top1"] = linear_probe(train_embeds, train_labels, embeds, labels, seed=seed)["accuracy"]
    if "retrieval" in probes:
        ks = [number for number in (1, 5) if number < len(embeds)]
        scores = retrieval_metrics(embeds, query_labels=labels, ks=ks)
        results.update({name: scores[name] for name in (*(f"recall@{number}" for number in ks), "map@r")})
    return results


def embed_batches(
    model: Any, loader: DataLoader, accelerator: Any, readout: str | None, label_column: str
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embed all batches of a prepared dataloader and join them over the processes.

    Args:
        model: with `encode`, `encode_inputs` and `view_inputs`, not wrapped.
        loader (`DataLoader`): prepared by the accelerator; rows in order, nothing dropped.
        accelerator (`Accelerator`): gathers, and cuts the rows that filled up the last batch.
        readout (`str`, *optional*): of `encode`.
        label_column (`str`): batch entry with labels; may be absent.

    Returns:
        `(embeds [rows, dim] float32, labels [rows] or None)` on the CPU, complete on every process.

    Raises:
        ValueError: no rows.
    """
    embeds, labels = [], []
    for batch in loader:
        named = {name: batch[name] for name in model.encode_inputs or model.view_inputs if name in batch}
        with accelerator.autocast():
            rows = model.encode(**named, readout=readout).float()
        embeds.append(accelerator.gather_for_metrics(rows).cpu())
        if label_column in batch:
            labels.append(accelerator.gather_for_metrics(batch[label_column]).cpu())
    if not embeds:
        raise ValueError("the dataset to embed is empty: 0 rows; check the split name and any filter.")
    return torch.cat(embeds), torch.cat(labels) if labels else None


def alignment_of_views(model: Any, loader: DataLoader, accelerator: Any) -> dict[str, float]:
    """Mean alignment of the first two views of every row, in eval mode.

    Args:
        model: with `embed_views` and `view_inputs`, not wrapped.
        loader (`DataLoader`): prepared by the accelerator; batches of views.
        accelerator (`Accelerator`): gathers.

    Returns:
        `dict[str, float]`: `alignment`, 0 (equal) to 4.

    Raises:
        ValueError: the batches hold one view.
    """
    model.eval()
    total, rows = 0.0, 0
    for batch in loader:
        named = {name: batch[name] for name in model.view_inputs if name in batch}
        with torch.no_grad(), accelerator.autocast():
            views, _ = find_views(model.embed_views(**named))
        if len(views) < 2:
            raise ValueError("the probe 'views' needs two views of a row; the training collator makes one.")
        one, two = (accelerator.gather_for_metrics(view.float()).cpu() for view in views[:2])
        total, rows = total + alignment(one, two) * len(one), rows + len(one)
    return {"alignment": total / rows}


def pair_metrics(model: Any, loader: DataLoader, accelerator: Any) -> dict[str, float]:
    """The loss and the retrieval of partners over held-out pairs of two modalities, in eval mode.

    Args:
        model: with `embed_views` that gives two tensors `<name>_embeds`, not wrapped.
        loader (`DataLoader`): prepared by the accelerator; batches of pairs, with `sample_ids` where several pairs may be right.
        accelerator (`Accelerator`): gathers.

    Returns:
        `dict[str, float]`: `loss`, the mean over full batches (it depends on their size; none without a full one), and for both
        directions `text_to_image_recall@k`, `image_to_text_recall@k` for k of 1, 5, 10 that fit.

    Raises:
        ValueError: the model embeds no pairs.
    """
    model.eval()
    sides: dict[str, list[torch.Tensor]] = {}
    ids: list[torch.Tensor] = []
    losses, full = [], None
    for batch in loader:
        named = {name: batch[name] for name in model.view_inputs if name in batch}
        with torch.no_grad(), accelerator.autocast():
            embeds = model.embed_views(**named)
        size = len(next(iter(embeds.values())))
        full = size if full is None else full
        own = batch.get("sample_ids")
        if size == full and size * accelerator.num_processes > 1:
            # an incomplete last batch, which is filled up with earlier rows, has another level
            with torch.no_grad():
                losses.append(model.compute_objective(embeds, sample_ids=own).loss.detach().float().reshape(1))
        names = [name for name in embeds if name.endswith("_embeds") and embeds[name].ndim == 2]
        if len(names) != 2:
            raise ValueError(f"the probe 'pairs' needs a model of two modalities; {type(model).__name__} is none.")
        for name in names:
            sides.setdefault(name.removesuffix("_embeds"), []).append(
                accelerator.gather_for_metrics(embeds[name].float()).cpu()
            )
        if own is not None:
            ids.append(accelerator.gather_for_metrics(own).cpu())
    joined = {name: torch.cat(parts) for name, parts in sides.items()}
    results = {"loss": float(accelerator.gather(torch.cat(losses)).mean())} if losses else {}
    one, other = joined
    rows = len(joined[one])
    found = paired_retrieval_metrics(
        joined[one], joined[other], ids=torch.cat(ids) if ids else None, ks=[k for k in (1, 5, 10) if k <= rows]
    )
    directions = {"x_to_y": f"{one}_to_{other}", "y_to_x": f"{other}_to_{one}"}
    for name, value in found.items():
        direction, _, measure = name.partition("/")
        if measure.startswith("recall@"):
            results[f"{directions[direction]}_{measure}"] = value
    return results


#: probes that read two sides of every row, with the trainer's collator that makes the batches
PAIR_PROBES = {"views": (alignment_of_views, "data_collator"), "pairs": (pair_metrics, "eval_data_collator")}


def limit_rows(dataset: Any, max_samples: int | None, seed: int) -> Any:
    """At most `max_samples` rows, drawn once with the seed (rows are often sorted by class); order is kept.

    Args:
        dataset: anything with a length and rows; without a length the first rows are taken.
        max_samples (`int`, *optional*): none keeps all.
        seed (`int`): of the draw.

    Returns:
        The dataset or a part of it.
    """
    if max_samples is None:
        return dataset
    if not hasattr(dataset, "__len__"):
        return dataset.take(max_samples)
    if len(dataset) <= max_samples:
        return dataset
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:max_samples].sort().values
    if hasattr(dataset, "select"):
        return dataset.select(rows.tolist())
    return Subset(dataset, rows.tolist())
