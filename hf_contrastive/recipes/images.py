"""Shared by the recipes that train an encoder on views of images."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from hf_contrastive.data import (
    DistinctLabelBatchSampler,
    EvalCollator,
    MultiCropViews,
    MultiViewCollator,
    ProcessorTransform,
    SimCLRViews,
    image_processor,
    imbalanced_subset,
    list_splits,
    load_images,
)
from hf_contrastive.distributed import is_main_process
from hf_contrastive.modules.lora import add_lora
from hf_contrastive.recipes import common
from hf_contrastive.recipes.common import (
    RUN_FILES,
    RunArguments,
    base_model_of,
    check_choice,
    close_run,
    command_line,
    loss_text,
    model_types,
    option,
    plain_errors,
    prepare_output,
    resume_from,
    save_run,
    train_or_load,
    write_outcome,
)
from hf_contrastive.recipes.image_measures import (
    MeasureArguments,
    card_metrics,
    draw_pictures,
    encode_images,
    images_per_second,
    labels_of,
    measure_table,
    score,
    show_table,
    top1,
)
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import say
from hf_contrastive.training import batch_report
from hf_contrastive.training.unwrap import unwrap_model


VIEW_PRESETS: dict[str, Callable[..., SimCLRViews]] = {
    "imagenet": SimCLRViews.imagenet,
    "cifar": SimCLRViews.cifar,
    "gsimclr_cifar": SimCLRViews.gsimclr_cifar,
    "gsimclr_imagenet": SimCLRViews.gsimclr_imagenet,
    "digits": SimCLRViews.digits,
}


@dataclass
class DataArguments:
    """data: where the images come from"""

    dataset_path: str = option("digits", "'digits', a folder of images, .parquet or .npz files, or a hub id.")
    dataset_name: str | None = option(None, "Configuration of a hub dataset.")
    image_column: str | None = option(None, "Column of the images; found by itself where there is no doubt.")
    label_column: str | None = option(None, "Column of the labels, used only to measure.")
    train_split: str = option("train", "Split to train on.")
    test_split: str = option("test", "Split to measure on.")
    test_fraction: float | None = option(None, "Hold this share out as the test split where there is only one split.")
    max_train_samples: int | None = option(None, "Train on that many images, drawn with the seed.")
    max_test_samples: int | None = option(None, "Measure on that many images, drawn with the seed.")
    on_unreadable: str = option("stop", "An image that cannot be read: 'stop', or 'skip' with a count.")
    streaming: bool = option(False, "Read the training images as you go; needs max_steps.")
    imbalance: str | None = option(
        None, "Train on a long-tailed part, linear or exponential in the class; features are measured with all images."
    )
    imbalance_seed: int = option(2021, "Seed of the draw of that part.")


@dataclass
class ViewArguments:
    """views: how two views of an image are made"""

    image_size: int = option(32, "Side of the views in pixels.")
    augmentation: str = option("cifar", f"Preset: {', '.join(VIEW_PRESETS)}.")
    num_views: int = option(2, "Views of each image.")
    num_local_views: int = option(0, "Small local crops of each image beside the views, for systems that take them.")
    local_size: int | None = option(None, "Side of the local crops in pixels; none = three sevenths of image_size.")
    local_crop_scale: list[float] | None = option(
        None, "Share of the image's area that a local crop covers; none = 0.05 to 0.14."
    )
    view_options: dict | None = option(None, 'Changes to the preset, as JSON: {"flip": 0.0, "blur_p": 0.5}.')


@dataclass
class ModelArguments:
    """model: backbone and projection head"""

    backbone: str = option(
        "resnet", "A model type (resnet, vit, conv_encoder, ...), or a folder or hub id to start from."
    )
    backbone_options: dict | None = option(None, 'Fields of the backbone configuration, as JSON: {"depths": [2, 2]}.')
    pooling: str = option("auto", "From the backbone's output to one vector: auto, mean, cls, pooler.")
    projection_dims: list[int] | None = option(None, "Sizes of the projection head's layers; none = the paper's.")
    projection_batch_norm: bool | None = option(None, "Batch norm in the projection head; none = the paper's.")
    temperature: float | None = option(None, "Divides the cosine similarities; none = the paper's.")
    freeze_backbone: bool = option(False, "Train the projection head alone.")
    lora_rank: int | None = option(None, "Train low-rank adapters of this rank on the backbone instead of all of it.")
    lora_alpha: int | None = option(None, "Scale of the adapters; none = twice the rank.")
    sync_batch_norm: bool = option(False, "Batch-norm statistics over all processes (GPU only).")


def load_splits(data: DataArguments, seed: int) -> tuple[Any, Any | None]:
    """Training and test images; no test split where there is none to be had.

    Args:
        data ([`DataArguments`]): where from.
        seed (`int`): of the draws.

    Returns:
        `(train, test or None)`: `datasets` objects with `image`, `label` (if known) and `index`.
    """
    common: dict[str, Any] = {
        "name": data.dataset_name,
        "image_column": data.image_column,
        "label_column": data.label_column,
        "on_unreadable": data.on_unreadable,
        "test_fraction": data.test_fraction,
        "seed": seed,
    }
    train = load_images(
        data.dataset_path,
        split=data.train_split,
        streaming=data.streaming,
        max_samples=data.max_train_samples,
        **common,
    )
    splits = list_splits(data.dataset_path, name=data.dataset_name)
    if data.test_split not in splits and data.test_fraction is None:
        say(
            f"{data.dataset_path} has no split {data.test_split!r} (found: {', '.join(splits)}), so nothing is measured at "
            "the end; pass --test_split, or --test_fraction 0.2 to hold a part out."
        )
        return train, None
    test = load_images(data.dataset_path, split=data.test_split, max_samples=data.max_test_samples, **common)
    return train, test


#: classes whose accuracy is told apart where training is long-tailed
NUM_RARE = 3


def long_tail(train: Any, data: DataArguments) -> tuple[Any, list[Any] | None]:
    """The long-tailed part to train on, if asked for, numbered anew, and its rarest classes.

    Args:
        train (`datasets.Dataset`): the training images, with labels.
        data ([`DataArguments`]): says which part.

    Returns:
        `(train, None)` unchanged without `imbalance`, else `(part, labels of the three rarest classes)`.

    Raises:
        ValueError: no labels to go by, or an unknown kind of imbalance.
    """
    if data.imbalance is None:
        return train, None
    labels = None if data.streaming else labels_of(train)
    if labels is None:
        raise ValueError(
            "`imbalance` goes by the labels of all training images; give labelled data without --streaming."
        )
    classes, codes = np.unique(labels, return_inverse=True)
    selected, sizes = imbalanced_subset(codes, data.imbalance, len(classes), data.imbalance_seed)
    part = train.select(np.sort(selected)).remove_columns("index")
    part = part.add_column("index", np.arange(len(part), dtype=np.int64))
    rare = np.argsort(sizes, kind="stable")[:NUM_RARE]
    say(f"{data.imbalance} imbalance: {len(part)} of {len(train)} training images, by class {sizes.tolist()}")
    return part, [classes[code].item() for code in rare]


def make_views(view: ViewArguments, seed: int) -> SimCLRViews | MultiCropViews:
    """The random views that the arguments describe, with local crops if asked for.

    Raises:
        ValueError: unknown preset or option.
    """
    if view.augmentation not in VIEW_PRESETS:
        raise ValueError(f"`augmentation` is {view.augmentation!r}; presets are: {', '.join(VIEW_PRESETS)}.")
    changes = {"channels": 3, "num_views": view.num_views, "seed": seed, **(view.view_options or {})}
    allowed = set(SimCLRViews(view.image_size).to_dict())
    unknown = sorted(set(changes) - allowed)
    if unknown:
        raise ValueError(f"`view_options` has {', '.join(unknown)}; known are: {', '.join(sorted(allowed))}.")
    views = VIEW_PRESETS[view.augmentation](view.image_size, **changes)
    if view.num_local_views == 0:
        return views
    size = max(1, round(view.image_size * 3 / 7)) if view.local_size is None else view.local_size
    return MultiCropViews(views, view.num_local_views, size, view.local_crop_scale or (0.05, 0.14))


def takes_local_crops(spec: SystemSpec) -> bool:
    """Whether a system's objective has a place for local crops.

    Args:
        spec ([`SystemSpec`]): the system.
    """
    return "local_pixel_values" in spec.pretraining_class().view_inputs


def make_model(
    spec: SystemSpec,
    model: ModelArguments,
    views: SimCLRViews | MultiCropViews,
    objective: Mapping[str, Any] | None = None,
) -> Any:
    """The pre-training model that the arguments describe, in training mode.

    Args:
        spec ([`SystemSpec`]): the system's row in the registry.
        model ([`ModelArguments`]): backbone and head.
        views ([`SimCLRViews`]): tells channels and size of the images.
        objective (`Mapping`, *optional*): further fields of the system's configuration; `None` values = the paper's.

    Raises:
        ValueError: a field was given that the system does not have, or local crops that it does not take.

    Returns:
        A `ForPreTraining` model; wrapped by PEFT with `lora_rank`.
    """
    if isinstance(views, MultiCropViews) and not takes_local_crops(spec):
        raise ValueError(f"{spec.title} takes no local crops; leave out --num_local_views.")
    fields: dict[str, Any] = {"pooling": model.pooling}
    for name in ("projection_dims", "projection_batch_norm", "temperature"):
        if getattr(model, name) is not None:
            fields[name] = getattr(model, name)
    fields.update({name: value for name, value in (objective or {}).items() if value is not None})
    unknown = sorted(set(fields) - set(spec.config_class().__dataclass_fields__))
    if unknown:
        raise ValueError(
            f"{spec.title} has no setting {', '.join(unknown)}; hf-contrastive info {spec.slug} lists all."
        )
    if model.freeze_backbone:
        fields["frozen_modules"] = ["backbone"]
    if model.backbone in model_types():
        options: dict[str, Any] = {"num_channels": views.channels, **(model.backbone_options or {})}
        probe = AutoConfig.for_model(model.backbone)
        if hasattr(probe, "image_size"):
            options.setdefault("image_size", views.size)
        config = AutoConfig.for_model(model.backbone, **options)
        built = spec.pretraining_class()(spec.config_class()(backbone_config=config, **fields))
    else:
        if model.backbone_options:
            raise ValueError("`backbone_options` describe a new backbone; a checkpoint brings its own configuration.")
        built = spec.pretraining_class().from_backbone(model.backbone, **fields)
    built.train()
    if model.sync_batch_norm:
        built = torch.nn.SyncBatchNorm.convert_sync_batchnorm(built)
    if model.lora_rank is not None:
        built = add_lora(built, r=model.lora_rank, alpha=model.lora_alpha)
    return built


@dataclass
class Pipeline:
    """Transforms that belong together: random views for training, the saved processor for everything else.

    Args:
        views ([`SimCLRViews`] or [`MultiCropViews`]): random views.
        processor: the image processor saved with the checkpoint.
        train_collator, eval_collator: for dataloaders.
    """

    views: SimCLRViews | MultiCropViews
    processor: Any
    train_collator: MultiViewCollator
    eval_collator: EvalCollator

    @classmethod
    def build(cls, views: SimCLRViews | MultiCropViews, sample_id_column: str | None = None) -> Pipeline:
        """Derive processor and collators from the views."""
        processor = image_processor(views.size, views.mean, views.std)
        evaluate = EvalCollator(ProcessorTransform(processor, views.channels))
        return cls(views, processor, MultiViewCollator(views, sample_id_column), evaluate)


def stop(message: str) -> None:
    """End the command with one line and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def describe_data(data: DataArguments, train: Any, test: Any | None) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    local = Path(data.dataset_path).expanduser().exists() or data.dataset_path == "digits"
    name = (
        "scikit-learn digits"
        if data.dataset_path == "digits"
        else Path(data.dataset_path).name
        if local
        else data.dataset_path
    )
    about: dict[str, Any] = {"name": name, "split": data.train_split}
    if hasattr(train, "__len__"):
        about["rows"] = len(train)
    if not local:
        about["id"] = data.dataset_path
    labels = labels_of(train) if hasattr(train, "__len__") else None
    columns = {"image": "the images", "index": "row number"}
    if labels is not None:
        classes = len(np.unique(labels))
        about["classes"] = classes
        columns["label"] = f"{classes} classes, used only to measure"
    about["columns"] = columns
    if data.dataset_path == "digits":
        about["licence"] = "BSD-3-Clause (bundled with scikit-learn); original scans: UCI, CC BY 4.0"
        about["description"] = (
            "8x8 scans of handwritten digits; training rows and test rows (the last half) are of different writers."
        )
    return about


def report(
    trainer: Any, pipeline: Pipeline, data: DataArguments, train: Any, ids: Sequence[Any] | np.ndarray | None = None
) -> None:
    """Print what is about to be trained (main process only).

    Args:
        trainer ([`ContrastiveTrainer`]): ready to train.
        pipeline ([`Pipeline`]): for the views.
        data ([`DataArguments`]): where the images come from.
        train (`datasets.Dataset`): the images.
        ids (`Sequence`, *optional*): labels from which the expected number of false negatives follows.
    """
    about = describe_data(data, train, None)
    used = ["image", "index"] + ([trainer.args.sample_id_column] if trainer.args.sample_id_column else [])
    text = batch_report(
        trainer,
        data=about["name"],
        loss=loss_text(trainer),
        num_views=pipeline.views.num_views,
        columns_used=used,
        labels=None if ids is None else list(ids),
        command=command_line(),
    )
    say(text)
    say(f"  views: {pipeline.views.describe()}\n")


def finish(
    trainer: Any,
    spec: SystemSpec,
    pipeline: Pipeline,
    *,
    rows: Sequence[Mapping[str, Any]],
    trained: str,
    data: DataArguments,
    splits: tuple[Any, Any | None],
    measure: MeasureArguments,
    started: float,
    base_model: str | None = None,
    extra_results: Mapping[str, Any] | None = None,
) -> None:
    """Save checkpoint, card, results and pictures; print the table and what to do next (main process only).

    Args:
        trainer ([`ContrastiveTrainer`]): after training.
        spec ([`SystemSpec`]): the system.
        pipeline ([`Pipeline`]): transforms; the processor is saved with the weights.
        rows: of `measure_table`; empty where nothing could be measured.
        trained (`str`): the row of `rows` that is the saved model.
        data, splits, measure: what it was trained and measured on.
        started (`float`): `time.time()` at the start.
        base_model (`str`, *optional*): hub id that the training started from.
        extra_results (`Mapping`, *optional*): further entries of `all_results.json`.
    """
    if not is_main_process():
        return
    folder, args = trainer.args.output_dir, trainer.args
    about = describe_data(data, *splits)
    title = (
        f"{about['name']}: {data.train_split} {len(splits[0]) if hasattr(splits[0], '__len__') else 'stream'} images"
    )
    if rows:
        say()
        show_table(rows, measure, f"{title}, measured on {len(splits[1]) if splits[1] is not None else 0} others")
    save_run(trainer, pipeline.processor)
    write_outcome(
        trainer,
        spec,
        about=about,
        metrics=card_metrics(rows, trained, about["name"], measure),
        results={
            "rows": list(rows),
            "knn_k": measure.knn_k,
            "test_rows": len(splits[1]) if splits[1] is not None else None,
            **(extra_results or {}),
        },
        settings={
            "views": pipeline.views.describe(),
            "batches": "guided" if trainer.train_batch_sampler is not None else "random",
        },
        started=started,
        base_model=base_model,
        image_size=pipeline.views.size,
    )
    shown, model = splits[1] if splits[1] is not None else splits[0], unwrap_model(trainer.model)
    draw = partial(draw_pictures, folder, model, shown, pipeline, about["name"], args.device)
    by_name = {row["features"]: row for row in rows}
    close_run(
        trainer,
        metrics=top1(by_name.get(trained)),
        baseline=top1(by_name.get("untrained encoder")),
        draw=draw if measure.pictures and not data.streaming else None,
        dataset=data.dataset_path,
    )


def dry_run(
    model: Any, dataset: Any, pipeline: Pipeline, batch_sampler: DistinctLabelBatchSampler | None = None
) -> None:
    """One forward and backward on two rows; prints every shape."""
    rows = [dataset[row] for row in range(2)] if hasattr(dataset, "__len__") else list(dataset.take(2))
    batch = pipeline.train_collator(rows)
    accepted = inspect.signature(type(unwrap_model(model)).forward).parameters
    common.dry_run(model, {name: value for name, value in batch.items() if name in accepted})
    if batch_sampler is not None:
        say(f"first guided batch: rows {next(iter(batch_sampler))[:8]} ...")


__all__ = [
    "RUN_FILES",
    "DataArguments",
    "MeasureArguments",
    "ModelArguments",
    "Pipeline",
    "RunArguments",
    "ViewArguments",
    "base_model_of",
    "card_metrics",
    "check_choice",
    "command_line",
    "describe_data",
    "draw_pictures",
    "dry_run",
    "encode_images",
    "finish",
    "images_per_second",
    "labels_of",
    "load_splits",
    "long_tail",
    "make_model",
    "make_views",
    "measure_table",
    "plain_errors",
    "prepare_output",
    "report",
    "resume_from",
    "score",
    "show_table",
    "stop",
    "takes_local_crops",
    "train_or_load",
]
