"""What recipes of record linkage measure: the nearest known record, by each side and by both, and clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np
import torch

from hf_contrastive.evaluation import clustering_scores, link_to_exemplars, linkage_accuracy, nearest_texts
from hf_contrastive.hub import Metric
from hf_contrastive.recipes.common import option, several
from hf_contrastive.reporting import metrics_table
from hf_contrastive.tensor_utils import pool_modalities
from hf_contrastive.training.unwrap import unwrap_model


if TYPE_CHECKING:
    from hf_contrastive.recipes.linkage import LinkageData, LinkagePipeline


#: column of the texts before noise was put into them
CLEAN_TEXT = "clean_text"
#: what stands in the table of links, in this order
LINK_COLUMNS = ("text only", "image only", "pooled, w 0.5", "pooled, chosen w")


@dataclass
class LinkageMeasureArguments:
    """measuring: what stands in the tables at the end"""

    image_weights: list[float] = several(
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], "Weights of the image that are tried, from 0 to 1."
    )
    cluster_thresholds: list[float] = several(
        [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5], "Cosine distances that are tried for clusters, from 0 to 2."
    )
    string_matching: bool = option(True, "Also link by Levenshtein distance of the texts.")
    pictures: bool = option(True, "Draw curves, embedding map and similarities of images and texts.")


class Task(NamedTuple):
    """Records to link and the known ones.

    Args:
        queries, pool (`datasets.Dataset`): with `image`, `text`, `label`, `index`.
    """

    queries: datasets.Dataset
    pool: datasets.Dataset


@torch.no_grad()
def encode_records(
    model: Any, rows: datasets.Dataset, collator: Any, *, batch_size: int = 128, device: torch.device | str = "cpu"
) -> dict[str, np.ndarray]:
    """Embeddings of both sides of records; zeros where a side lacks.

    Args:
        model: a dual encoder.
        rows (`datasets.Dataset`): records.
        collator ([`RecordCollator`]): without draws.
        batch_size (`int`): records at a time.
        device: where to compute.

    Returns:
        `dict`: `image`, `text` `[rows, projection_dim]` of length 1; `has_image`, `has_text` bool `[rows]`.
    """
    inner = unwrap_model(model)
    inner.to(device)
    parts: dict[str, list[np.ndarray]] = {"image": [], "text": [], "has_image": [], "has_text": []}
    # no dataloader: it would draw from the random numbers of training
    for start in range(0, len(rows), batch_size):
        size = min(batch_size, len(rows) - start)
        batch = collator([rows[row] for row in range(start, start + size)])
        for side, names in (("image", ("pixel_values",)), ("text", ("input_ids", "attention_mask", "token_type_ids"))):
            given = {name: batch[name].to(device) for name in names if name in batch}
            has = batch.get(f"has_{side}", torch.full((size,), bool(given)))
            found = np.zeros((size, inner.config.projection_dim), dtype=np.float32)
            if given:
                chosen = {name: value[has] for name, value in given.items()}
                found[has.numpy()] = inner.encode(**chosen).float().cpu().numpy()
            parts[side].append(found)
            parts[f"has_{side}"].append(has.numpy())
    return {name: np.concatenate(part) for name, part in parts.items()}


def pool_records(encoded: Mapping[str, np.ndarray], image_weight: float) -> np.ndarray:
    """Pooled embeddings of [`encode_records`].

    Args:
        encoded (`Mapping`): both sides.
        image_weight (`float`): weight of the image; records that lack a side have the other one alone.
    """
    tensors = {name: torch.from_numpy(value) for name, value in encoded.items()}
    masks = {name: tensors[name] for name in ("has_image", "has_text")}
    return pool_modalities(tensors["image"], tensors["text"], image_weight, **masks).numpy()


def encode_task(
    model: Any, task: Task, pipeline: LinkagePipeline, device: torch.device | str = "cpu"
) -> list[dict[str, np.ndarray]]:
    """Both sides of queries and pool, as of [`encode_records`]; queries as their collator changes them.

    Args:
        model: a dual encoder.
        task ([`Task`]): the records.
        pipeline ([`LinkagePipeline`]): the collators.
        device: where to compute.
    """
    collators = pipeline.query_collator, pipeline.eval_collator
    return [
        encode_records(model, rows, collator, device=device) for rows, collator in zip(task, collators, strict=True)
    ]


def accuracy(encoded: Sequence[Mapping[str, np.ndarray]], task: Task, weight: float) -> float:
    """Share of the queries whose nearest known record has their label.

    Args:
        encoded: queries and pool, each of [`encode_records`].
        task ([`Task`]): their labels.
        weight (`float`): of the image.
    """
    queries, pool = (pool_records(one, weight) for one in encoded)
    links = link_to_exemplars(queries, pool, np.asarray(task.pool["label"][:]))
    return linkage_accuracy(links.labels, np.asarray(task.queries["label"][:]))


def link_table(
    models: Mapping[str, Any],
    found: LinkageData,
    pipeline: LinkagePipeline,
    measure: LinkageMeasureArguments,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Linkage accuracy of several models on the same queries.

    Args:
        models (`Mapping`): by the name in the table; the first is untrained.
        found ([`LinkageData`]): `valid` chooses the weight, `test` is measured.
        pipeline ([`LinkagePipeline`]): the processor.
        measure ([`LinkageMeasureArguments`]): weights to try.
        device: where to compute.

    Returns:
        One row a model: `image only`, `text only`, `pooled, w 0.5`, `pooled, chosen w` and `chosen w` (where records have both
        sides), and a row of string matching.
    """
    rows: list[dict[str, Any]] = []
    for name, model in models.items():
        encoded = {
            part: encode_task(model, task, pipeline, device)
            for part, task in (("valid", found.valid), ("test", found.test))
        }
        row: dict[str, Any] = {"model": name}
        sides = [side for side in ("image", "text") if all(one[f"has_{side}"].all() for one in encoded["test"])]
        for side in sides:
            row[f"{side} only"] = accuracy(encoded["test"], found.test, 1.0 if side == "image" else 0.0)
        if any(one["has_image"].any() for one in encoded["test"]) and any(
            one["has_text"].any() for one in encoded["test"]
        ):
            tried = [accuracy(encoded["valid"], found.valid, weight) for weight in measure.image_weights]
            chosen = float(measure.image_weights[int(np.argmax(tried))])
            row["pooled, w 0.5"] = accuracy(encoded["test"], found.test, 0.5)
            row["pooled, chosen w"] = accuracy(encoded["test"], found.test, chosen)
            row["chosen w"] = chosen
        rows.append(row)
    if measure.string_matching:
        rows += _string_matching(found.test)
    return rows


def _string_matching(task: Task) -> list[dict[str, Any]]:
    """Linkage accuracy by Levenshtein distance; where noise was put into the texts, of the texts without it, too."""
    pool, rows = task.pool["text"][:], []
    for name, column in (("Levenshtein distance", "text"), ("Levenshtein distance, no noise", CLEAN_TEXT)):
        queries = task.queries[column][:] if column in task.queries.column_names else []
        if queries and all(queries) and all(pool):
            near = nearest_texts(queries, pool)
            right = np.asarray(task.pool["label"][:])[near.rows] == np.asarray(task.queries["label"][:])
            rows.append({"model": name, "text only": float(right.mean())})
    return rows


def cluster_table(
    models: Mapping[str, Any],
    found: LinkageData,
    pipeline: LinkagePipeline,
    measure: LinkageMeasureArguments,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Adjusted Rand index of single-linkage clusters of the queries and their known records, for every threshold.

    Weight and threshold are chosen on `valid`; what is measured on `test` is the index with these, and with every threshold.

    Args:
        models, found, pipeline, measure, device: as of [`link_table`].

    Returns:
        One row a model: `model`, `image_weight`, `threshold`, `ari`, `thresholds`, `ari_per_threshold`.
    """
    rows = []
    for name, model in models.items():
        best: tuple[float, float, float] | None = None
        valid = _to_cluster(model, found.valid, pipeline, device)
        for weight in measure.image_weights:
            scores = clustering_scores(pool_records(valid[0], weight), valid[1], measure.cluster_thresholds)
            if best is None or scores["ari"] > best[0]:
                best = (scores["ari"], float(weight), scores["threshold"])
        assert best is not None
        test = _to_cluster(model, found.test, pipeline, device)
        scores = clustering_scores(pool_records(test[0], best[1]), test[1], measure.cluster_thresholds)
        curve = [float(value) for value in scores["ari_per_threshold"]]
        rows.append(
            {
                "model": name,
                "image_weight": best[1],
                "threshold": best[2],
                "ari": curve[list(measure.cluster_thresholds).index(best[2])],
                "thresholds": [float(value) for value in measure.cluster_thresholds],
                "ari_per_threshold": curve,
            }
        )
    return rows


def _to_cluster(
    model: Any, task: Task, pipeline: LinkagePipeline, device: Any
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Queries and those known records that one of them is, and their labels."""
    wanted = np.isin(np.asarray(task.pool["label"][:]), np.asarray(task.queries["label"][:]))
    part = Task(task.queries, task.pool.select(np.flatnonzero(wanted)))
    encoded = encode_task(model, part, pipeline, device)
    joined = {name: np.concatenate([one[name] for one in encoded]) for name in encoded[0]}
    return joined, np.concatenate([np.asarray(rows["label"][:]) for rows in part])


def link_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the measures in a table of links, in order."""
    return [name for name in LINK_COLUMNS if any(name in row for row in rows)]


def show_tables(rows: Sequence[Mapping[str, Any]], clusters: Sequence[Mapping[str, Any]], found: LinkageData) -> None:
    """Print accuracies, and the adjusted Rand index for every threshold."""
    table = []
    for row in rows:
        line = {"model": str(row["model"])}
        line |= {name: f"{100 * row[name]:.1f}" if name in row else "-" for name in link_columns(rows)}
        line["chosen w"] = f"{row['chosen w']:g}" if "chosen w" in row else "-"
        table.append(line)
    title = f"{found.name}: {len(found.test.queries)} records linked to {len(found.test.pool)} known ones, % right"
    metrics_table(table, title=title)
    table = []
    for row in clusters:
        line = {"model": str(row["model"]), "w": f"{row['image_weight']:g}", "threshold": f"{row['threshold']:g}"}
        line["ARI"] = f"{row['ari']:.3f}"
        curve = zip(row["thresholds"], row["ari_per_threshold"], strict=True)
        table.append({**line, **{f"at {threshold:g}": f"{ari:.3f}" for threshold, ari in curve}})
    metrics_table(
        table, title="clusters: w and threshold chosen on other records; adjusted Rand index at every threshold"
    )


def link_metrics(
    rows: Sequence[Mapping[str, Any]], clusters: Sequence[Mapping[str, Any]], trained: str, dataset: str
) -> list[Metric]:
    """The tables as rows of a model card; the trained system is the one the hub shows."""
    metrics = []
    for row in rows:
        system = "this model" if row["model"] == trained else str(row["model"])
        for name in link_columns(rows):
            if name in row:
                metrics.append(Metric(f"linkage accuracy, {name}", round(float(row[name]), 4), dataset, system=system))
    for row in clusters:
        system = "this model" if row["model"] == trained else str(row["model"])
        metrics.append(Metric("adjusted Rand index", round(float(row["ari"]), 4), dataset, system=system))
    return metrics


__all__ = [
    "CLEAN_TEXT",
    "LINK_COLUMNS",
    "LinkageMeasureArguments",
    "Task",
    "accuracy",
    "cluster_table",
    "encode_records",
    "encode_task",
    "link_columns",
    "link_metrics",
    "link_table",
    "pool_records",
    "show_tables",
]
