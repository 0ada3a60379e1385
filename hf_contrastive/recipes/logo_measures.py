"""What the recipe of logo identification measures: same brand or not, and which of many, seen once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_contrastive.evaluation import identification_accuracy, verification_metrics
from hf_contrastive.families.dual_encoder.record_encoding import encode_fused
from hf_contrastive.hub import Metric
from hf_contrastive.recipes.common import option, several
from hf_contrastive.reporting import metrics_table
from hf_contrastive.training.unwrap import unwrap_model


if TYPE_CHECKING:
    from hf_contrastive.recipes.logos import LogoData, LogoPipeline


#: what else is trained for the table: name -> changes of the configuration
RIVALS = {
    "image": ("image only", {"modalities": "image"}),
    "text": ("text only", {"modalities": "text"}),
    "triplet": ("triplet loss", {"loss_type": "triplet"}),
}


@dataclass
class LogoMeasureArguments:
    """measuring: what stands in the table at the end"""

    rivals: list[str] = several((), f"Also train and measure with the same settings: {', '.join(RIVALS)}.")
    galleries: list[int] = several(
        (50, 150),
        "Of growing galleries: that many brands are looked for, among as many references, then among more, then all.",
    )
    negatives: int = option(1, "Wrong references that a query is compared with for verification.")
    pictures: bool = option(True, "Draw curves, embedding map and similarities.")


def encode_models(
    models: Mapping[str, Any], found: LogoData, pipeline: LogoPipeline, device: torch.device | str = "cpu"
) -> dict[str, dict[str, np.ndarray]]:
    """References, queries and distractors by every model.

    Args:
        models (`Mapping`): logo encoders by the name in the table.
        found ([`LogoData`]): the logos.
        pipeline ([`LogoPipeline`]): the collators.
        device: where to compute.

    Returns:
        `dict`: by model: `references`, `queries` and, where there are any, `distractors`.
    """
    encoded = {}
    for name, model in models.items():
        inner = unwrap_model(model)
        parts = {
            "references": encode_fused(inner, found.references, pipeline.reference_collator, device=device),
            "queries": encode_fused(inner, found.queries, pipeline.query_collator, device=device),
        }
        if found.distractors is not None:
            parts["distractors"] = encode_fused(inner, found.distractors, pipeline.reference_collator, device=device)
        encoded[name] = parts
    return encoded


def logo_rows(
    encoded: Mapping[str, Mapping[str, np.ndarray]], found: LogoData, measure: LogoMeasureArguments, seed: int
) -> list[dict[str, Any]]:
    """Verification and one-shot identification of several models on the same queries.

    Verification: the query with a reference of its brand, and with `negatives` references of other brands, drawn with the seed.

    Args:
        encoded (`Mapping`): of [`encode_models`].
        found ([`LogoData`]): brands and texts.
        measure ([`LogoMeasureArguments`]): sizes of galleries.
        seed (`int`): of the wrong references.

    Returns:
        One row a model: `auroc`, `accuracy` (at the best threshold), `top1`, `top5`, `top1 with text` (queries with a text in query and
        reference, where there are any), `<n> among <m>`, the top-1 of n brands in growing galleries, and `top1 + <n>` with distractors.
    """
    queries, references = (np.asarray(rows["label"][:]) for rows in (found.queries, found.references))
    read = [np.array([bool(text) for text in rows["text"][:]]) for rows in (found.queries, found.references)]
    # those that are looked for come first
    brands = np.array(list(dict.fromkeys([*np.unique(queries[np.isin(queries, references)]), *np.unique(references)])))
    texted = read[0] & np.isin(queries, references[read[1]])
    pairs = _pairs(queries, references, measure.negatives, seed)
    rows = []
    for name, parts in encoded.items():
        cosines = (parts["queries"][pairs[:, 0]] * parts["references"][pairs[:, 1]]).sum(1)
        told = verification_metrics(cosines, queries[pairs[:, 0]] == references[pairs[:, 1]])
        row: dict[str, Any] = {"model": name, "auroc": told["auroc"], "accuracy": told["accuracy"]}
        ks = tuple(k for k in (1, 5) if k <= len(references))
        whole = identification_accuracy(parts["queries"], queries, parts["references"], references, ks=ks)
        row |= {f"top{k}": whole[f"top{k}"] for k in ks}
        if texted.any():
            some = identification_accuracy(
                parts["queries"][texted], queries[texted], parts["references"], references, ks=(1,)
            )
            row["top1 with text"] = some["top1"]
        sizes = [size for size in measure.galleries if size < len(brands)]
        if sizes:
            own = np.isin(queries, brands[: sizes[0]])
            for size in (*sizes, len(brands)):
                there = np.isin(references, brands[:size])
                part = identification_accuracy(
                    parts["queries"][own], queries[own], parts["references"][there], references[there], ks=(1,)
                )
                row[f"{sizes[0]} among {size}"] = part["top1"]
        if "distractors" in parts:
            count = len(parts["distractors"])
            steps = [step for step in (1_000, 10_000, 100_000) if step < count] + [count]
            part = identification_accuracy(
                parts["queries"],
                queries,
                parts["references"],
                references,
                ks=(1,),
                distractor_x=parts["distractors"],
                distractor_counts=steps,
            )
            row |= {f"top1 + {step}": part[f"top1_with_{step}_distractors"] for step in steps}
        rows.append(row)
    return rows


def _pairs(queries: np.ndarray, references: np.ndarray, negatives: int, seed: int) -> np.ndarray:
    """`[pairs, 2]` rows of queries and references: of each query one right reference, and some wrong ones."""
    random = np.random.RandomState(seed)
    pairs = []
    for query, brand in enumerate(queries):
        right = np.flatnonzero(references == brand)
        wrong = np.flatnonzero(references != brand)
        if len(right):
            pairs.append((query, right[0]))
        drawn = random.permutation(len(wrong))[:negatives]
        pairs += [(query, wrong[place]) for place in drawn]
    return np.array(pairs)


def logo_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, float, int]]:
    """Columns of the table: title, factor, digits."""
    columns: dict[str, tuple[str, float, int]] = {}
    for row in rows:
        for name in row:
            if name not in ("model", *columns):
                columns[name] = ("AUROC", 1, 3) if name == "auroc" else (f"{name} %", 100, 1)
    return columns


def show_rows(rows: Sequence[Mapping[str, Any]], found: LogoData) -> None:
    """Print the table."""
    columns = logo_columns(rows)
    table = []
    for row in rows:
        line = {"model": str(row["model"])}
        for name, (title, factor, digits) in columns.items():
            line[title] = f"{factor * row[name]:.{digits}f}" if name in row else "-"
        table.append(line)
    metrics_table(table, title=f"{found.name}: {len(found.queries)} logos, {len(found.references)} references")


def logo_metrics(rows: Sequence[Mapping[str, Any]], trained: str, dataset: str) -> list[Metric]:
    """The table as rows of a model card; the trained system is the one the hub shows."""
    names = {"auroc": "verification AUROC", "accuracy": "verification accuracy at the best threshold"}
    metrics = []
    for row in rows:
        system = "this model" if row["model"] == trained else str(row["model"])
        for name in logo_columns(rows):
            if name in row:
                title = names.get(name, f"one-shot identification, {name}")
                metrics.append(Metric(title, round(float(row[name]), 4), dataset, system=system))
    return metrics


__all__ = [
    "RIVALS",
    "LogoMeasureArguments",
    "encode_models",
    "logo_columns",
    "logo_metrics",
    "logo_rows",
    "show_rows",
]
