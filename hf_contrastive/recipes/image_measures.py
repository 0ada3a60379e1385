"""What image recipes measure and show: accuracies of features, geometry of projections, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from hf_contrastive.data import MultiViewCollator, ProcessorTransform, SimCLRViews, image_processor
from hf_contrastive.evaluation import bootstrap_interval, effective_rank, knn_predict, linear_probe
from hf_contrastive.hub import Metric
from hf_contrastive.recipes.common import option
from hf_contrastive.reporting import metrics_table, plot_run, plot_views, save_embeddings
from hf_contrastive.training.unwrap import unwrap_model


if TYPE_CHECKING:
    from hf_contrastive.recipes.images import Pipeline


@dataclass
class MeasureArguments:
    """measuring: what stands in the table at the end"""

    knn_k: int = option(20, "Neighbours that vote in kNN (cosine similarity, equal votes).")
    linear_probe: bool = option(True, "Also train a linear classifier on the frozen features.")
    readout: str | None = option(None, "Where the encoder is read: backbone, projection_1, ...; none = backbone.")
    pictures: bool = option(True, "Draw embedding map, curves, views, similarities and neighbours.")


@torch.no_grad()
def encode_images(
    model: Any,
    dataset: Any,
    collator: Any,
    *,
    readout: str | None = None,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Features of all images of a dataset.

    Args:
        model: has `encode`; `None` gives the pixels themselves.
        dataset (`datasets.Dataset`): the images.
        collator (`Callable`): rows to `pixel_values`.
        readout (`str`, *optional*): where to read.
        batch_size (`int`): rows at a time.
        device: where to compute.

    Returns:
        `numpy.ndarray` `[rows, dim]`.
    """
    parts = []
    for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collator):
        pixels = batch["pixel_values"]
        if model is None:
            parts.append(pixels.flatten(1).numpy())
        else:
            parts.append(unwrap_model(model).encode(pixels.to(device), readout=readout).float().cpu().numpy())
    return np.concatenate(parts)


def images_per_second(trainer: Any, num_views: float) -> float | None:
    """Views that went through the network per second of training, or `None` where nothing was trained.

    Args:
        trainer ([`ContrastiveTrainer`]): after training.
        num_views (`float`): views of each image, by their pixels.
    """
    for line in reversed(trainer.state.log_history):
        if "train_samples_per_second" in line:
            return round(num_views * line["train_samples_per_second"], 1)
    return None


def labels_of(dataset: Any | None) -> np.ndarray | None:
    """The label column as an array, or `None`."""
    if dataset is None or "label" not in (dataset.column_names or []):
        return None
    return np.asarray(dataset["label"][:])


def score(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    measure: MeasureArguments,
    rare: Sequence[Any] | None = None,
) -> dict[str, float]:
    """kNN and linear-probe accuracy of features, with a 95 % bootstrap interval over the test images.

    Args:
        train, train_labels, test, test_labels: features and labels.
        measure ([`MeasureArguments`]): what to measure.
        rare (`Sequence`, *optional*): labels of classes whose accuracy is told apart.

    Returns:
        `dict` with `knn`, `knn_low`, `knn_high` and, if wanted, `linear`, and `rare`: the linear probe's mean accuracy over
        the classes `rare`.
    """
    predicted = knn_predict(train, train_labels, test, k=min(measure.knn_k, len(train)))
    correct = np.asarray(predicted) == test_labels
    low, high = bootstrap_interval(correct)
    results = {"knn": float(correct.mean()), "knn_low": low, "knn_high": high}
    if measure.linear_probe:
        probe = linear_probe(train, train_labels, test, test_labels)
        results["linear"] = float(probe["accuracy"])
        found = [probe["per_class"][label] for label in rare or [] if label in probe["per_class"]]
        if found:
            results["rare"] = float(np.mean(found))
    return results


def measure_table(
    models: Mapping[str, Any],
    train: Any,
    test: Any,
    pipeline: Pipeline,
    measure: MeasureArguments,
    device: torch.device | str = "cpu",
    rare: Sequence[Any] | None = None,
) -> list[dict[str, Any]]:
    """Measure several encoders on the same images in the same way.

    Args:
        models (`Mapping[str, model or None]`): by the name in the table; `None` = raw pixels.
        train, test (`datasets.Dataset`): labelled images.
        pipeline ([`Pipeline`]): the transform.
        measure ([`MeasureArguments`]): what to measure.
        device: where to compute.
        rare (`Sequence`, *optional*): labels of classes whose accuracy is told apart.

    Returns:
        One row per model: `features`, `knn`, `linear`, ...

    Raises:
        ValueError: images without labels.
    """
    train_labels, test_labels = labels_of(train), labels_of(test)
    if train_labels is None or test_labels is None:
        raise ValueError("there is nothing to measure: the training or the test images have no column 'label'.")
    rows = []
    for name, model in models.items():
        features = [
            encode_images(
                model,
                part,
                pipeline.eval_collator,
                readout=measure.readout if model is not None else None,
                device=device,
            )
            for part in (train, test)
        ]
        row = {"features": name, **score(features[0], train_labels, features[1], test_labels, measure, rare)}
        if model is not None:
            row.update(geometry(model, test, pipeline, device))
        rows.append(row)
    return rows


def geometry(model: Any, dataset: Any, pipeline: Pipeline, device: torch.device | str = "cpu") -> dict[str, float]:
    """How much of their space the projections of images use; a collapsed model has rank 1 and variance 0.

    Args:
        model: with the readout `projection`.
        dataset (`datasets.Dataset`): the images.
        pipeline ([`Pipeline`]): the transform.
        device: where to compute.

    Returns:
        `projection_rank`: effective rank of the variances of the centred unit projections; 0 where all are one point.
        `projection_variance`: their total variance, from 0 to 1.
    """
    projections = encode_images(model, dataset, pipeline.eval_collator, readout="projection", device=device)
    unit = projections / np.maximum(np.linalg.norm(projections, axis=1, keepdims=True), 1e-12)
    variance = float(unit.astype(np.float64).var(0).sum())
    rank = effective_rank(unit, center=True, squared=True) if variance > 1e-12 else 0.0
    return {"projection_rank": rank, "projection_variance": variance}


def show_table(rows: Sequence[Mapping[str, Any]], measure: MeasureArguments, title: str) -> str:
    """Print the table of features and accuracies."""
    shown = []
    for row in rows:
        line = {
            "features": row["features"],
            f"kNN({measure.knn_k}) %": f"{100 * row['knn']:.2f}",
            "95 % interval": f"{100 * row['knn_low']:.1f} to {100 * row['knn_high']:.1f}",
        }
        if "linear" in row:
            line["linear probe %"] = f"{100 * row['linear']:.2f}"
        if "rare" in row:
            line["rarest classes %"] = f"{100 * row['rare']:.2f}"
        if "projection_rank" in row:
            line["rank of projections"] = f"{row['projection_rank']:.1f}"
            line["their variance"] = f"{row['projection_variance']:.3f}"
        shown.append(line)
    return metrics_table(shown, title=title)


def draw_pictures(
    folder: str | Path, model: Any, dataset: Any, pipeline: Pipeline, data: str, device: torch.device | str = "cpu"
) -> list[Path]:
    """Views, embedding map, similarities, neighbours and curves of a run, as PNG with the CSV behind each.

    Args:
        folder (`str` or `Path`): the run; pictures go to its `plots/`.
        model: the trained model.
        dataset (`datasets.Dataset`): images to show.
        pipeline ([`Pipeline`]): transforms.
        data (`str`): what data these are, for titles.
        device: where to compute.

    Returns:
        The PNG files.
    """
    plots = Path(folder) / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    shown = dataset.select(range(min(1000, len(dataset))))
    few = shown.select(range(min(64, len(shown))))
    # two of each image, also where the objective needs one
    pair = MultiViewCollator(SimCLRViews.from_dict({**pipeline.views.to_dict(), "num_views": 2}))
    views = pair([few[row] for row in range(len(few))])["pixel_values"]
    embeds = encode_images(model, shown, pipeline.eval_collator, device=device)
    bare = unwrap_model(model)
    projections = [
        bare.encode(views[:, view].to(device), readout=bare.readouts[-1]).float().cpu().numpy() for view in range(2)
    ]
    names = getattr(shown.features.get("label"), "names", None)
    originals = [shown[row]["image"] for row in range(len(shown))]
    pixels = ProcessorTransform(image_processor(pipeline.views.size), pipeline.views.channels)(originals).numpy()
    save_embeddings(
        folder,
        embeddings=embeds,
        labels=labels_of(shown),
        class_names=names,
        z_i=projections[0],
        z_j=projections[1],
        images=pixels,
        data=data,
    )
    picture = plot_views(
        views[:6],
        plots / "views.png",
        originals=originals[:6],
        mean=pipeline.views.mean,
        std=pipeline.views.std,
        data=data,
    )
    return [Path(picture.path), *(Path(drawn.path) for drawn in plot_run(folder, plots))]


def card_metrics(
    rows: Sequence[Mapping[str, Any]], trained: str, dataset: str, measure: MeasureArguments
) -> list[Metric]:
    """The table as rows of a model card; the trained system is the one the hub shows."""
    metrics = []
    names = {
        "knn": f"kNN accuracy (k={measure.knn_k})",
        "linear": "linear-probe accuracy",
        "rare": "linear-probe accuracy, rarest classes",
    }
    for row in rows:
        for key, name in names.items():
            if key in row:
                system = "this model" if row["features"] == trained else row["features"]
                metrics.append(Metric(name, round(row[key], 4), dataset, system=system))
    return metrics


def top1(row: Mapping[str, Any] | None) -> dict[str, float]:
    """The accuracies of a row as `final_report` names them; empty without a row."""
    return {f"{name}_top1": row[name] for name in ("knn", "linear") if name in row} if row else {}


__all__ = [
    "MeasureArguments",
    "card_metrics",
    "draw_pictures",
    "encode_images",
    "geometry",
    "images_per_second",
    "labels_of",
    "measure_table",
    "score",
    "show_table",
    "top1",
]
