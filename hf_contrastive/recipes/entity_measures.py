"""What recipes of images of entities measure: retrieval among entities that were never seen, and which labels are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_contrastive.data import image_to_array
from hf_contrastive.evaluation import auroc, retrieval_metrics
from hf_contrastive.hub import Metric
from hf_contrastive.recipes.common import option
from hf_contrastive.recipes.image_text_measures import encode_pairs, zero_shot
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import metrics_table


if TYPE_CHECKING:
    from hf_contrastive.recipes.image_texts import ImageTextPipeline


#: measure -> what a table calls it
TITLES = {
    "map": "mAP",
    "map_with_query": "mAP, query left in",
    "recall@1": "first is right",
    "zero_shot": "zero-shot names",
}


@dataclass
class EntityMeasureArguments:
    """measuring: what stands in the table at the end"""

    prompt: str = option("{}", "Text of an entity for zero-shot classification; {} stands for its name.")
    baselines: bool = option(True, "Measure random vectors, raw pixels and colours, too.")
    pictures: bool = option(True, "Draw curves, embedding map, similarities of pairs and neighbours.")


def row_title(objective: str, spec: SystemSpec) -> str:
    """What the table calls the arm of an objective."""
    return spec.title if objective == "multitask" else f"{objective} only"


def retrieval(vectors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Every image looks for the others of its entity, by cosine, over the full ranking.

    Args:
        vectors (`[images, dim]` array), labels (`[images]` integers): embeddings and entities.

    Returns:
        `dict`: `map` without the query in the ranking, `map_with_query` with it, as the code of GPR1200 has it, `recall@1`.
    """
    found = retrieval_metrics(vectors, query_labels=labels, ks=(1,), average_precision=True, exclude_self=True)
    with_query = retrieval_metrics(vectors, query_labels=labels, ks=(), average_precision=True, exclude_self=False)
    return {"map": found["map"], "map_with_query": with_query["map"], "recall@1": found["recall@1"]}


def colour_histogram(image: Any, bins: int = 8) -> np.ndarray:
    """How often each colour comes, whatever the drawing: square roots of the shares.

    Args:
        image: of any kind that [`image_to_array`] takes.
        bins (`int`, defaults to 8): of each of red, green and blue.

    Returns:
        `np.ndarray` `[bins^3]`, of length 1.
    """
    array = image_to_array(image, 3)
    levels = array if array.dtype == np.uint8 else np.rint(array * 255)
    places = (levels.astype(np.int64) * bins // 256).reshape(-1, 3) @ (bins**2, bins, 1)
    counts = np.bincount(places, minlength=bins**3)
    return np.sqrt(counts / counts.sum()).astype(np.float32)


def entity_table(
    models: Mapping[str, Any],
    test: Any,
    pipeline: ImageTextPipeline,
    measure: EntityMeasureArguments,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Measure several models on images of entities that none of them has seen.

    Args:
        models (`Mapping`): by the name in the table.
        test (`datasets.Dataset`): with `image`, `texts`, `label`.
        pipeline ([`ImageTextPipeline`]): the processor.
        measure ([`EntityMeasureArguments`]): the prompt, baselines.
        device: where to compute.

    Returns:
        One row a model: `model`, `map`, `map_with_query`, `recall@1`, `zero_shot`.
    """
    labels = np.asarray(test["label"][:])
    names = test.features["label"].names
    rows: list[dict[str, Any]] = []
    if measure.baselines:
        noise = np.random.RandomState(0).standard_normal((len(test), 64)).astype(np.float32)
        rows.append({"model": "random vectors", **retrieval(noise, labels)})
        pixels = [
            pipeline.eval_collator.transform([test[row]["image"]], [row]).numpy().reshape(-1)
            for row in range(len(test))
        ]
        rows.append({"model": "raw pixels", **retrieval(np.stack(pixels) - np.mean(pixels, axis=0), labels)})
        colours = [colour_histogram(test[row]["image"]) for row in range(len(test))]
        rows.append({"model": "colour histogram", **retrieval(np.stack(colours) - np.mean(colours, axis=0), labels)})
    for name, model in models.items():
        encoded = encode_pairs(model, test, pipeline.eval_collator, texts=False, device=device)
        found = retrieval(encoded["image"], labels)
        found["zero_shot"] = zero_shot(
            model, encoded["image"], labels, names, measure.prompt, pipeline.processor, device
        )
        rows.append({"model": name, **found})
    return rows


def judge_labels(
    model: Any,
    rows: Any,
    wrong: np.ndarray,
    share: float,
    pipeline: ImageTextPipeline,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, dict[str, float]]:
    """Drops the images that are least like the name of their entity, as the model sees it (the filter of MOFI's data,
    https://arxiv.org/abs/2306.07952, section 3).

    Args:
        model: a dual encoder.
        rows (`datasets.Dataset`): images with `texts`, the entity's name first.
        wrong (bool `[rows]`): which labels are wrong; only measured with.
        share (`float`): of the images that go.
        pipeline ([`ImageTextPipeline`]): the processor.
        device: where to compute.

    Returns:
        `(kept, judged)`: row numbers that stay, ascending; `auroc` of the cosine for right labels, `threshold`, and the shares of wrong
        labels before, among those dropped and among those kept.
    """
    encoded = encode_pairs(model, rows, pipeline.eval_collator, device=device)
    cosines = (encoded["image"] * encoded["text"]).sum(1)
    order = np.argsort(cosines, kind="stable")
    number = round(share * len(order))
    dropped, kept = order[:number], np.sort(order[number:])
    judged = {
        "auroc": float(auroc(cosines, (~wrong).astype(int))),
        "threshold": float(cosines[order[number]]),
        "wrong": float(wrong.mean()),
        "dropped_wrong": float(wrong[dropped].mean()),
        "kept_wrong": float(wrong[kept].mean()),
    }
    return kept, judged


def show_table(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Print the table of models, in percent."""
    shown = [
        {
            "model": row["model"],
            **{name: f"{100 * row[key]:.1f}" if key in row else "-" for key, name in TITLES.items()},
        }
        for row in rows
    ]
    return metrics_table(shown, title=title)


def entity_metrics(rows: Sequence[Mapping[str, Any]], trained: str, dataset: str) -> list[Metric]:
    """The table as rows of a model card; the trained system is the one the hub shows."""
    return [
        Metric(
            name,
            round(float(row[key]), 4),
            dataset,
            system="this model" if row["model"] == trained else str(row["model"]),
        )
        for row in rows
        for key, name in TITLES.items()
        if key in row
    ]


__all__ = [
    "TITLES",
    "EntityMeasureArguments",
    "entity_metrics",
    "entity_table",
    "judge_labels",
    "retrieval",
    "row_title",
    "show_table",
]
