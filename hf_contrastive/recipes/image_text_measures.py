"""What recipes of images with texts measure: retrieval both ways, zero-shot classes, linear probes with few labels."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from hf_contrastive.data.image_texts import text_ids
from hf_contrastive.evaluation import linear_probe, paired_retrieval_metrics, zero_shot_accuracy
from hf_contrastive.families.dual_encoder.modeling_two_towers import unit
from hf_contrastive.hub import Metric
from hf_contrastive.recipes.common import option, several
from hf_contrastive.recipes.image_measures import labels_of
from hf_contrastive.reporting import metrics_table
from hf_contrastive.training.unwrap import unwrap_model
from hf_contrastive.utils import evaluation_mode


if TYPE_CHECKING:
    from hf_contrastive.recipes.image_texts import ImageTextPipeline


@dataclass
class ImageTextMeasureArguments:
    """measuring: what stands in the table at the end"""

    recall_ks: list[int] = several([1, 5, 10], "Cut-offs of recall, in both directions; those that fit are measured.")
    label_fractions: list[float] = several(
        [0.1, 1.0], "Shares of the training labels that linear probes of the image features learn from."
    )
    label_draws: int = option(3, "Draws of every share below 1.")
    label_strengths: list[float] = several(
        [0.01],
        "C of the probes of shares below 1, where no label is left to choose it; further ones get columns of their own.",
    )
    prompt: str = option("{}", "Text of a class for zero-shot classification; {} stands for its name.")
    supervised_steps: int = option(
        0, "Also train the image encoder from nothing on the smallest share of the labels, that many steps."
    )
    supervised_learning_rate: float = option(1e-3, "AdamW's, for that.")
    pictures: bool = option(True, "Draw curves, embedding map, similarities of pairs and neighbours.")

    def check(self) -> None:
        """Refuse before a training what could not be measured after it.

        Raises:
            ValueError: a share or a strength outside its range, or none.
        """
        for name, values, largest in (
            ("label_fractions", self.label_fractions, 1.0),
            ("label_strengths", self.label_strengths, float("inf")),
        ):
            if not values or not all(0 < value <= largest for value in values):
                most = " and at most 1" if largest == 1 else ""
                raise ValueError(
                    f"`{name}` is {values}, expected one or more numbers above 0{most}, such as --{name} 0.1"
                )


@torch.no_grad()
def encode_pairs(
    model: Any,
    dataset: Any,
    collator: Any,
    *,
    texts: bool = True,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """Images, their first texts and the image encoder's features.

    Args:
        model: a dual encoder.
        dataset (`datasets.Dataset`): rows with `image`, `texts`, `index`.
        collator (`Callable`): rows to `pixel_values` and the inputs of the text encoder.
        texts (`bool`, defaults to `True`): embed the texts, too.
        batch_size (`int`): rows at a time.
        device: where to compute.

    Returns:
        `dict`: `image`, `text` `[rows, projection_dim]` of length 1, `features` `[rows, image_dim]`.
    """
    inner = unwrap_model(model)
    parts: dict[str, list[np.ndarray]] = {}
    with evaluation_mode(inner):
        for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collator):
            given = {name: batch[name].to(device) for name in inner.view_inputs if name in batch}
            # both readouts of one pass through the image encoder
            features, projections = inner.embed_images(given.pop("pixel_values"))
            found = {"image": unit(projections), "features": features}
            if texts:
                found["text"] = unit(inner.embed_texts(**given)[1])
            for name, value in found.items():
                parts.setdefault(name, []).append(value.float().cpu().numpy())
    return {name: np.concatenate(part) for name, part in parts.items()}


def recalls(encoded: Mapping[str, np.ndarray], texts: Sequence[str], ks: Sequence[int]) -> dict[str, float]:
    """Recall@k from texts to images and back; all pairs with one text are right answers for each other.

    Args:
        encoded (`Mapping`): of [`encode_pairs`].
        texts (`Sequence[str]`): the text of every row.
        ks (`Sequence[int]`): cut-offs.

    Returns:
        `dict`: `text_to_image@<k>`, `image_to_text@<k>`.
    """
    ks = [k for k in ks if k <= len(texts)]
    found = paired_retrieval_metrics(encoded["text"], encoded["image"], ids=text_ids(texts).numpy(), ks=ks)
    directions = {"text_to_image": "x_to_y", "image_to_text": "y_to_x"}
    return {f"{name}@{k}": float(found[f"{way}/recall@{k}"]) for name, way in directions.items() for k in ks}


@torch.no_grad()
def zero_shot(
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    prompt: str,
    processor: Any,
    device: torch.device | str,
) -> float:
    """Accuracy of taking the class whose text is nearest to the image.

    Args:
        model: a dual encoder.
        images (`[rows, projection_dim]` array): of [`encode_pairs`].
        labels (`[rows]` integers): the right classes.
        names (`Sequence[str]`): of the classes.
        prompt (`str`): the text of a class, with `{}` for its name.
        processor: makes the inputs of the text encoder.
        device: where to compute.
    """
    inputs = {
        name: value.to(device) for name, value in processor.tokenize([prompt.format(name) for name in names]).items()
    }
    return float(zero_shot_accuracy(images, unwrap_model(model).encode(**inputs).cpu(), labels)["accuracy"])


def draw_labels(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows of a share of the labels, the same share of every class, at least one of each.

    Args:
        labels (`[rows]` integers): classes.
        fraction (`float`): above 0, up to 1.
        seed (`int`): of the draw.
    """
    random = np.random.RandomState(seed)
    groups = [random.permutation(np.flatnonzero(labels == value)) for value in np.unique(labels)]
    return np.sort(np.concatenate([group[: max(1, round(fraction * len(group)))] for group in groups]))


def probes(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    measure: ImageTextMeasureArguments,
) -> dict[str, float]:
    """Linear probes of image features with shares of the labels: means over the draws.

    Args:
        train, train_labels, test, test_labels: features and labels.
        measure ([`ImageTextMeasureArguments`]): shares and draws.

    Returns:
        `dict`: `linear@<percent>%`, and for the second and further strengths `linear@<percent>%, C <strength>`.
    """
    results = {}
    for fraction in measure.label_fractions:
        # of a few labels a class none can be held out to choose the regularisation
        for place, strength in enumerate(measure.label_strengths if fraction < 1 else [None]):
            scores = []
            for draw in range(measure.label_draws if fraction < 1 else 1):
                rows = draw_labels(train_labels, fraction, draw)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # slow convergence at weak regularisation tells nothing here
                    found = linear_probe(train[rows], train_labels[rows], test, test_labels, C=strength)
                scores.append(float(found["accuracy"]))
            further = f", C {strength:g}" if place else ""
            results[f"linear@{100 * fraction:g}%{further}"] = float(np.mean(scores))
    return results


def supervised_accuracy(
    model: Any,
    train: Any,
    test: Any,
    pipeline: ImageTextPipeline,
    measure: ImageTextMeasureArguments,
    device: torch.device | str = "cpu",
) -> float:
    """Accuracy of an untrained image encoder that is trained end to end on the smallest share of the labels.

    Args:
        model: an untrained dual encoder; not changed.
        train, test (`datasets.Dataset`): labelled rows.
        pipeline ([`ImageTextPipeline`]): views and processor.
        measure ([`ImageTextMeasureArguments`]): share, draws, steps, learning rate.
        device: where to compute.

    Returns:
        `float`: the mean over the draws.
    """
    train_labels, test_labels = labels_of(train), labels_of(test)
    assert train_labels is not None
    assert test_labels is not None
    fraction, scores = min(measure.label_fractions), []
    for draw in range(measure.label_draws if fraction < 1 else 1):
        rows = draw_labels(train_labels, fraction, draw)
        torch.manual_seed(draw)
        inner = copy.deepcopy(unwrap_model(model)).to(device).train()
        inner.vision_model.requires_grad_(True)
        classes = int(max(train_labels.max(), test_labels.max())) + 1
        head = nn.Linear(inner.config.image_dim, classes).to(device)
        parameters = [*inner.vision_model.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=measure.supervised_learning_rate, weight_decay=1e-4)
        order = torch.Generator().manual_seed(draw)
        size = min(128, len(rows))
        for step in range(measure.supervised_steps):
            chosen = rows[torch.randperm(len(rows), generator=order)[:size].numpy()]
            images = [train[int(row)]["image"] for row in chosen]
            pixels = pipeline.views(images, chosen, step)[:, 0].to(device)
            loss = nn.functional.cross_entropy(
                head(inner.embed_images(pixels)[0]), torch.as_tensor(train_labels[chosen], device=device)
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        features = torch.as_tensor(
            encode_pairs(inner, test, pipeline.eval_collator, texts=False, device=device)["features"]
        )
        with torch.no_grad():
            guessed = head.cpu()(features).argmax(1).numpy()
        scores.append(float((guessed == test_labels).mean()))
    return float(np.mean(scores))


def measure_table(
    models: Mapping[str, Any],
    train: Any,
    test: Any,
    pipeline: ImageTextPipeline,
    measure: ImageTextMeasureArguments,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Measure several dual encoders on the same pairs.

    Args:
        models (`Mapping`): by the name in the table; the first is untrained.
        train, test (`datasets.Dataset`): pairs; labels are used where there are any.
        pipeline ([`ImageTextPipeline`]): the processor.
        measure ([`ImageTextMeasureArguments`]): what to measure.
        device: where to compute.

    Returns:
        One row a model: `model`, `text_to_image@<k>`, `image_to_text@<k>`, and with labels `zero_shot`, `linear@<percent>%`.
    """
    texts = [row[0] for row in test["texts"][:]]
    labels = [labels_of(part) for part in (train, test)]
    names = getattr(test.features.get("label"), "names", None)
    rows: list[dict[str, Any]] = []
    for name, model in models.items():
        encoded = encode_pairs(model, test, pipeline.eval_collator, device=device)
        row: dict[str, Any] = {"model": name, **recalls(encoded, texts, measure.recall_ks)}
        if labels[0] is not None and labels[1] is not None:
            if names:
                row["zero_shot"] = zero_shot(
                    model, encoded["image"], labels[1], names, measure.prompt, pipeline.processor, device
                )
            learned = encode_pairs(model, train, pipeline.eval_collator, texts=False, device=device)["features"]
            row.update(probes(learned, labels[0], encoded["features"], labels[1], measure))
        rows.append(row)
    if measure.supervised_steps and labels[0] is not None and labels[1] is not None:
        found = supervised_accuracy(next(iter(models.values())), train, test, pipeline, measure, device)
        share = f"linear@{100 * min(measure.label_fractions):g}%"
        rows.append({"model": f"same image encoder, {measure.supervised_steps} supervised steps", share: found})
    return rows


def format_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of a model as they stand in tables, in percent."""
    shown = {"model": str(row["model"])}
    for name, value in row.items():
        if name != "model":
            shown[column_title(name)] = f"{100 * value:.1f}"
    return shown


def column_title(name: str) -> str:
    """What a table calls a measure."""
    kind, _, cut = name.partition("@")
    titles = {"text_to_image": "text to image R@", "image_to_text": "image to text R@", "linear": "linear, labels "}
    return f"{titles[kind]}{cut}" if kind in titles else name.replace("_", "-")


def show_table(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Print the table of models."""
    columns = list(dict.fromkeys(name for row in rows for name in format_row(row)))
    return metrics_table([{name: format_row(row).get(name, "-") for name in columns} for row in rows], title=title)


def card_metrics(rows: Sequence[Mapping[str, Any]], trained: str, dataset: str) -> list[Metric]:
    """The table as rows of a model card; the trained system is the one the hub shows."""
    metrics = []
    for row in rows:
        system = "this model" if row["model"] == trained else str(row["model"])
        for name, value in row.items():
            if name != "model":
                metrics.append(Metric(column_title(name), round(float(value), 4), dataset, system=system))
    return metrics


__all__ = [
    "ImageTextMeasureArguments",
    "card_metrics",
    "column_title",
    "draw_labels",
    "encode_pairs",
    "format_row",
    "measure_table",
    "probes",
    "recalls",
    "show_table",
    "supervised_accuracy",
    "zero_shot",
]
