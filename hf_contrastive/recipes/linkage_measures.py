"""What recipes of record linkage measure: the nearest known record, by each side and by both, and clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np
import torch

from hf_contrastive.evaluation import (
    Links,
    choose_match_threshold,
    clustering_scores,
    link_to_exemplars,
    linkage_accuracy,
    nearest_texts,
)
from hf_contrastive.families.dual_encoder.record_encoding import encode_records, pool_records
from hf_contrastive.hub import Metric
from hf_contrastive.recipes.common import option, several
from hf_contrastive.reporting import metrics_table
from hf_contrastive.training.unwrap import unwrap_model


if TYPE_CHECKING:
    from hf_contrastive.recipes.linkage import LinkageData, LinkagePipeline


#: column of the texts before noise was put into them
CLEAN_TEXT = "clean_text"
#: what stands in the table of links, in this order
LINK_COLUMNS = ("text only", "image only", "pooled, w 0.5", "pooled, chosen w", "with no match")
#: the label of a record that is linked to nothing; those of the pool are 0 and above
_NO_MATCH = -9


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
    word_matching: bool = option(False, "Also link by the words that texts share (cosine of TF-IDF).")
    pictures: bool = option(True, "Draw curves, embedding map and similarities of images and texts.")


class Task(NamedTuple):
    """Records to link and the known ones.

    Args:
        queries, pool (`datasets.Dataset`): with `image`, `text`, `label`, `index`.
        lone (`datasets.Dataset`, *optional*): further queries, of which nothing is in the pool.
    """

    queries: datasets.Dataset
    pool: datasets.Dataset
    lone: datasets.Dataset | None = None


Encoded = dict[str, np.ndarray]


def encode_models(
    models: Mapping[str, Any], found: LinkageData, pipeline: LinkagePipeline, device: torch.device | str = "cpu"
) -> dict[str, dict[str, tuple[Encoded, Encoded]]]:
    """Both sides of all queries and known records by every model; what both tables are made of.

    Args:
        models (`Mapping`): dual encoders by the name in the tables.
        found ([`LinkageData`]): the records.
        pipeline ([`LinkagePipeline`]): the collators; queries as theirs changes them.
        device: where to compute.

    Returns:
        `dict`: by model, then `valid` and `test`: queries and pool, each of [`encode_records`]; `valid, lone` and `test, lone` the
        same of records that nothing is known of, where there are any.
    """
    encoded: dict[str, dict[str, tuple[Encoded, Encoded]]] = {}
    for name, model in models.items():
        inner, pools = unwrap_model(model), {}
        for part, task in (("valid", found.valid), ("test", found.test)):
            if id(task.pool) not in pools:  # often the same for both
                pools[id(task.pool)] = encode_records(inner, task.pool, pipeline.eval_collator, device=device)
            queries = encode_records(inner, task.queries, pipeline.query_collator, device=device)
            encoded.setdefault(name, {})[part] = (queries, pools[id(task.pool)])
            if task.lone is not None:
                lone = encode_records(inner, task.lone, pipeline.query_collator, device=device)
                encoded[name][f"{part}, lone"] = (lone, pools[id(task.pool)])
    return encoded


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
    encoded: Mapping[str, Mapping[str, tuple[Encoded, Encoded]]], found: LinkageData, measure: LinkageMeasureArguments
) -> list[dict[str, Any]]:
    """Linkage accuracy of several models on the same queries.

    Args:
        encoded (`Mapping`): of [`encode_models`]; the first model is untrained.
        found ([`LinkageData`]): `valid` chooses the weight, `test` is measured.
        measure ([`LinkageMeasureArguments`]): weights to try.

    Returns:
        One row a model: `image only`, `text only`, `pooled, w 0.5`, `pooled, chosen w` and `chosen w` (where records have both
        sides), `with no match` and `threshold` (where some records have none), and rows of string matching.
    """
    rows: list[dict[str, Any]] = []
    for name, parts in encoded.items():
        row: dict[str, Any] = {"model": name}
        sides = [side for side in ("image", "text") if all(one[f"has_{side}"].all() for one in parts["test"])]
        for side in sides:
            row[f"{side} only"] = accuracy(parts["test"], found.test, 1.0 if side == "image" else 0.0)
        if all(any(one[f"has_{side}"].any() for one in parts["test"]) for side in ("image", "text")):
            tried = [accuracy(parts["valid"], found.valid, weight) for weight in measure.image_weights]
            chosen = float(measure.image_weights[int(np.argmax(tried))])
            row["pooled, w 0.5"] = accuracy(parts["test"], found.test, 0.5)
            row["pooled, chosen w"] = accuracy(parts["test"], found.test, chosen)
            row["chosen w"] = chosen
            if "test, lone" in parts:
                row |= _with_no_match(parts, found, chosen)
        rows.append(row)
    if measure.string_matching:
        rows += _string_matching(found.test)
    if measure.word_matching:
        rows.append({"model": "words in common", "text only": _word_matching(found.test)})
    return rows


def _word_matching(task: Task) -> float:
    """Linkage accuracy by the cosine of TF-IDF vectors of words, with the frequencies of the pool."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\S+")
    pool = vectorizer.fit_transform(task.pool["text"][:])
    near = (vectorizer.transform(task.queries["text"][:]) @ pool.T).toarray().argmax(1)
    return float((np.asarray(task.pool["label"][:])[near] == np.asarray(task.queries["label"][:])).mean())


def _with_no_match(
    parts: Mapping[str, tuple[Encoded, Encoded]], found: LinkageData, weight: float
) -> dict[str, float]:
    """Share of all queries, also those that nothing is known of, that are linked rightly, or rightly to nothing.

    The threshold is chosen on `valid`.
    """

    def links(part: str, task: Task) -> tuple[Links, list[int]]:
        vectors = [pool_records(parts[name][0], weight) for name in (part, f"{part}, lone")]
        pool, labels = pool_records(parts[part][1], weight), np.asarray(task.pool["label"][:])
        true = [*task.queries["label"][:], *[_NO_MATCH] * len(vectors[1])]
        return link_to_exemplars(np.concatenate(vectors), pool, labels, no_match=_NO_MATCH), true

    threshold = choose_match_threshold(*links("valid", found.valid), no_match=_NO_MATCH)["threshold"]
    tested, true = links("test", found.test)
    told = np.where(tested.scores > threshold, tested.labels, _NO_MATCH)
    return {"with no match": linkage_accuracy(told, true), "threshold": threshold}


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
    encoded: Mapping[str, Mapping[str, tuple[Encoded, Encoded]]], found: LinkageData, measure: LinkageMeasureArguments
) -> list[dict[str, Any]]:
    """Adjusted Rand index of single-linkage clusters of the queries and their known records, for every threshold.

    Weight and threshold are chosen on `valid`; what is measured on `test` is the index with these, and with every threshold.

    Args:
        encoded, found, measure: as of [`link_table`].

    Returns:
        One row a model: `model`, `image_weight`, `threshold`, `ari`, `thresholds`, `ari_per_threshold`.
    """
    thresholds = measure.cluster_thresholds
    rows = []
    for name, parts in encoded.items():
        valid, labels = _to_cluster(parts["valid"], found.valid)
        tried = [
            (clustering_scores(pool_records(valid, weight), labels, thresholds), float(weight))
            for weight in measure.image_weights
        ]
        best, weight = max(tried, key=lambda one: one[0]["ari"])
        test, labels = _to_cluster(parts["test"], found.test)
        scores = clustering_scores(pool_records(test, weight), labels, thresholds)
        curve = [float(value) for value in scores["ari_per_threshold"]]
        rows.append(
            {
                "model": name,
                "image_weight": weight,
                "threshold": best["threshold"],
                "ari": curve[list(thresholds).index(best["threshold"])],
                "thresholds": [float(value) for value in thresholds],
                "ari_per_threshold": curve,
            }
        )
    return rows


def _to_cluster(encoded: tuple[Encoded, Encoded], task: Task) -> tuple[Encoded, np.ndarray]:
    """Queries and those known records that one of them is, and their labels."""
    queries, pool = (np.asarray(rows["label"][:]) for rows in task[:2])
    wanted = np.isin(pool, queries)
    joined = {name: np.concatenate([encoded[0][name], encoded[1][name][wanted]]) for name in encoded[0]}
    return joined, np.concatenate([queries, pool[wanted]])


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
    "encode_models",
    "link_columns",
    "link_metrics",
    "link_table",
    "show_tables",
]
