"""Shared by the recipes that train dual encoders on images with texts."""

from __future__ import annotations

import copy
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, set_seed

from hf_contrastive.data import (
    ImageTextCollator,
    PairEvalCollator,
    ProcessorTransform,
    SimCLRViews,
    character_tokenizer,
    image_processor,
    list_image_text_splits,
    load_image_texts,
    train_word_tokenizer,
)
from hf_contrastive.data.image_texts import text_ids
from hf_contrastive.distributed import is_main_process
from hf_contrastive.families.dual_encoder.configuration_dual_encoder import DualEncoderConfig
from hf_contrastive.families.dual_encoder.processing_dual_encoder import DualEncoderProcessor
from hf_contrastive.modules.lora import add_lora
from hf_contrastive.recipes import common
from hf_contrastive.recipes.common import (
    RunArguments,
    close_run,
    command_line,
    configuration_arguments,
    draw_run,
    loss_text,
    model_types,
    option,
    plain_errors,
    prepare_output,
    save_run,
    train_or_load,
    write_outcome,
)
from hf_contrastive.recipes.image_measures import labels_of
from hf_contrastive.recipes.image_text_measures import (
    ImageTextMeasureArguments,
    card_metrics,
    encode_pairs,
    measure_table,
    show_table,
)
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import say
from hf_contrastive.training import (
    ContrastiveTrainer,
    ContrastiveTrainingArguments,
    batch_report,
    parse_recipe_arguments,
)


VIEW_PRESETS: dict[str, Callable[..., SimCLRViews]] = {
    "convirt": SimCLRViews.convirt,
    "imagenet": SimCLRViews.imagenet,
    "cifar": SimCLRViews.cifar,
}


@dataclass
class ImageTextDataArguments:
    """data: where the images and their texts come from"""

    dataset_path: str = option(
        "glyphs",
        "'glyphs' (drawn by this library), a .csv or .jsonl of image paths and texts, a folder of images with metadata.jsonl, "
        ".parquet or .tar files, or a hub id.",
    )
    dataset_name: str | None = option(None, "Configuration of a hub dataset.")
    image_column: str | None = option(None, "Column of the images; found by itself where there is no doubt.")
    text_columns: list[str] | None = option(
        None, "Columns of the texts, each a text or a list of them; one is drawn at every step. Found by itself."
    )
    label_column: str | None = option(None, "Column of the labels, used only to measure.")
    sentences: bool = option(False, "Cut the texts into sentences, of which one is drawn at every step.")
    text_replace: dict | None = option(None, 'Replaced in every text, as JSON: {"_": " "}.')
    train_split: str = option("train", "Split to train on.")
    test_split: str = option("test", "Split to measure on.")
    test_fraction: float | None = option(None, "Hold this share out as the test split where there is only one split.")
    test_every: int | None = option(None, "Instead: row numbers that this divides are the test split.")
    max_train_samples: int | None = option(None, "Train on that many pairs, drawn with the seed.")
    max_test_samples: int | None = option(None, "Measure on that many pairs, drawn with the seed.")
    on_bad: str = option("skip", "Rows without a readable image or a text: 'skip' with a count, or 'stop'.")
    mask_duplicates: bool = option(True, "Pairs with the same text are not each other's negatives.")


@dataclass
class ImageTextViewArguments:
    """views: how an image is changed at every step"""

    image_size: int = option(224, "Side of the images in pixels.")
    augmentation: str = option("convirt", f"Preset: {', '.join(VIEW_PRESETS)}.")
    view_options: dict | None = option(None, 'Changes to the preset, as JSON: {"flip": 0.0, "blur_p": 0.5}.')


@dataclass
class TowerArguments:
    """model: the two encoders"""

    vision: str = option(
        "resnet", "Image encoder: a model type (resnet, vit, conv_encoder, ...), or a folder or hub id."
    )
    vision_options: dict | None = option(None, 'Fields of a new image encoder, as JSON: {"depths": [2, 2]}.')
    text: str = option("bert", "Text encoder: a model type (bert, ...), or a folder or hub id.")
    text_options: dict | None = option(None, 'Fields of a new text encoder, as JSON: {"num_hidden_layers": 2}.')
    pair: str | None = option(None, "Instead of both: a folder or hub id of a trained pair (CLIP, ...).")
    tokenizer: str = option(
        "word",
        "For a new text encoder: learn word, wordpiece or character tokens; latin = letters, digits, few marks.",
    )
    vocab_size: int = option(30_000, "Tokens that are learned at most.")
    max_length: int = option(77, "Tokens at which texts are cut, at most what the encoder takes.")
    lora_rank: int | None = option(
        None, "Train low-rank adapters of this rank on the encoders instead of all of them."
    )
    lora_alpha: float | None = option(None, "Scale of the adapters; none = the rank.")
    lora_towers: list[str] | None = option(None, "Encoders that get adapters: vision_model, text_model; none = both.")


def parse_tower_arguments(
    spec: SystemSpec, groups: Sequence[type], objective: str, *, description: str, example: str
) -> tuple[Any, ...]:
    """The command line of a recipe of two encoders.

    Args:
        spec ([`SystemSpec`]): the system.
        groups (`Sequence[type]`): its own groups: data and views first, what is done and measured last.
        objective (`str`): title of the group of the configuration's fields.
        description, example (`str`): for `--help`.

    Returns:
        Data, views, [`TowerArguments`], fields of the configuration, the other groups, [`RunArguments`], training arguments.
    """
    data, view, *others = groups
    taken = {one.name for one in dataclasses.fields(TowerArguments)} | {"vision_config", "text_config"}
    own = configuration_arguments([spec], taken, objective)
    return parse_recipe_arguments(
        (data, view, TowerArguments, own, *others, RunArguments, ContrastiveTrainingArguments),
        prog=f"{spec.recipe}/train.py",
        description=description,
        example=example,
    )


def load_splits(data: ImageTextDataArguments, seed: int) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Training and test pairs; no test split where there is none to be had."""
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    shared: dict[str, Any] = {
        "name": data.dataset_name,
        "image_column": data.image_column,
        "text_columns": data.text_columns,
        "label_column": data.label_column,
        "sentences": data.sentences,
        "replace": data.text_replace,
        "on_bad": data.on_bad,
        "test_fraction": data.test_fraction,
        "every": data.test_every,
        "seed": seed,
    }
    train = load_image_texts(data.dataset_path, split=data.train_split, max_samples=data.max_train_samples, **shared)
    splits = list_image_text_splits(data.dataset_path, name=data.dataset_name)
    if data.test_split not in splits and data.test_fraction is None and data.test_every is None:
        say(
            f"{data.dataset_path} has no split {data.test_split!r} (found: {', '.join(splits)}), so nothing is measured at "
            "the end; pass --test_split, or --test_fraction 0.2 to hold a part out."
        )
        return train, None
    return train, load_image_texts(
        data.dataset_path, split=data.test_split, max_samples=data.max_test_samples, **shared
    )


def make_views(
    view: Any,
    processor: Any,
    seed: int,
    presets: Mapping[str, Callable[..., SimCLRViews]] = VIEW_PRESETS,
) -> SimCLRViews:
    """The random view of an image that the arguments describe, normalised as the image processor does.

    Args:
        view ([`ImageTextViewArguments`], or others with `image_size`, `augmentation` and `view_options`): size, preset, changes.
        processor: the image processor of a trained encoder, or `None`.
        seed (`int`): of the draws.
        presets (`Mapping`, *optional*): by name what makes views of a size.

    Raises:
        ValueError: unknown preset or option.
    """
    if view.augmentation not in presets:
        raise ValueError(f"`augmentation` is {view.augmentation!r}; presets are: {', '.join(presets)}.")
    changes: dict[str, Any] = {"num_views": 1, "seed": seed}
    if processor is not None:
        changes.update(mean=list(processor.image_mean), std=list(processor.image_std))
    changes.update(view.view_options or {})
    allowed = set(SimCLRViews(view.image_size).to_dict())
    unknown = sorted(set(changes) - allowed)
    if unknown:
        raise ValueError(f"`view_options` has {', '.join(unknown)}; known are: {', '.join(sorted(allowed))}.")
    return presets[view.augmentation](view.image_size, **changes)


@dataclass
class ImageTextPipeline:
    """What turns pairs into batches.

    Args:
        views ([`SimCLRViews`]): the random view.
        processor ([`DualEncoderProcessor`]): saved with the checkpoint.
        train_collator, eval_collator: for dataloaders.
    """

    views: SimCLRViews
    processor: DualEncoderProcessor
    train_collator: ImageTextCollator
    eval_collator: PairEvalCollator

    @classmethod
    def build(
        cls,
        data: ImageTextDataArguments,
        view: ImageTextViewArguments,
        towers: TowerArguments,
        train: datasets.Dataset,
        args: Any,
    ) -> ImageTextPipeline:
        """Open or learn the tokenizer, and make transforms that fit the encoders."""
        images = trained_image_processor(towers.pair or towers.vision)
        views = make_views(view, images, args.seed)
        if images is None:
            images = image_processor(views.size, views.mean, views.std)
        processor = DualEncoderProcessor(images, make_tokenizer(towers, train))
        train_collator = ImageTextCollator(
            views,
            processor,
            mask_duplicates=data.mask_duplicates,
            sample_id_column=args.sample_id_column,
            seed=args.seed,
        )
        args.sample_id_column = None  # the collator has read it
        evaluate = PairEvalCollator(ProcessorTransform(images), processor)
        return cls(views, processor, train_collator, evaluate)


def trained_image_processor(vision: str) -> Any:
    """The image processor of a checkpoint, or `None` for a new encoder and for checkpoints without one."""
    if vision in model_types():
        return None
    try:
        return AutoImageProcessor.from_pretrained(vision)
    except (OSError, ValueError):
        return None


def make_tokenizer(towers: TowerArguments, train: datasets.Dataset) -> Any:
    """The tokenizer of a trained text encoder, or one learned from the training texts.

    Raises:
        ValueError: a checkpoint without a tokenizer.
    """
    trained = towers.pair or towers.text
    if trained not in model_types():
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(trained)
        except (OSError, ValueError) as error:
            raise ValueError(f"{trained} brings no tokenizer ({error}); give a text encoder that has one.") from error
        limit = AutoConfig.from_pretrained(trained)
        limit = getattr(limit, "text_config", limit)
        longest = DualEncoderConfig(text_config=limit).max_text_length or towers.max_length
        tokenizer.model_max_length = min(tokenizer.model_max_length, towers.max_length, longest)
        return tokenizer
    if towers.tokenizer == "latin":
        return character_tokenizer(max_length=towers.max_length)
    texts = (text for row in train["texts"] for text in row)
    return train_word_tokenizer(texts, towers.tokenizer, vocab_size=towers.vocab_size, max_length=towers.max_length)


def make_model(
    spec: SystemSpec,
    towers: TowerArguments,
    pipeline: Any,
    fields: Mapping[str, Any] | None = None,
) -> Any:
    """The pre-training model that the arguments describe, in training mode; with a checkpoint of the system itself as `pair` this one.

    Args:
        spec ([`SystemSpec`]): the system's row in the registry.
        towers ([`TowerArguments`]): the encoders.
        pipeline ([`ImageTextPipeline`] or a like one): tells the size of images and vocabulary.
        fields (`Mapping`, *optional*): further fields of the configuration; `None` values = the paper's.

    Returns:
        A `ForPreTraining` model; wrapped by PEFT with `lora_rank`.

    Raises:
        ValueError: options of a new encoder beside a checkpoint.
    """
    model_class = spec.pretraining_class()
    given = {name: value for name, value in (fields or {}).items() if value is not None}
    new_vision, new_text = towers.vision in model_types(), towers.text in model_types()
    for name, new in (("vision", new_vision), ("text", new_text)):
        if getattr(towers, f"{name}_options") and (towers.pair or not new):
            raise ValueError(f"`{name}_options` describe a new encoder; a checkpoint brings its own configuration.")
    if towers.pair is not None:
        known = AutoConfig.from_pretrained(towers.pair)
        if known.model_type == spec.model_type:  # trained further
            built = model_class.from_pretrained(towers.pair, dtype=torch.float32, **given)
        else:
            built = model_class.from_pair(towers.pair, **given)
    else:
        if new_text:
            # what was never trained cannot stand still
            given = {"freeze_text_layers": 0, "freeze_text_embeddings": False, **given}
        vision = new_tower(towers.vision, _vision_fields(towers, pipeline)) if new_vision else towers.vision
        text = new_tower(towers.text, _text_fields(towers, pipeline)) if new_text else towers.text
        if new_vision and new_text:
            built = model_class(spec.config_class()(vision_config=vision, text_config=text, **given))
        else:
            from transformers import AutoModel

            vision, text = (
                AutoModel.from_config(tower) if not isinstance(tower, str) else tower for tower in (vision, text)
            )
            built = model_class.from_towers(vision, text, **given)
    built.train()
    if towers.lora_rank is not None:
        built = add_lora(built, r=towers.lora_rank, alpha=towers.lora_alpha, towers=towers.lora_towers)
    return built


def new_tower(model_type: str, options: Mapping[str, Any]) -> Any:
    """The configuration of a new encoder.

    Args:
        model_type (`str`): of transformers or of this library.
        options (`Mapping`): its fields.
    """
    return AutoConfig.for_model(model_type, **options)


def _vision_fields(towers: TowerArguments, pipeline: ImageTextPipeline) -> dict[str, Any]:
    options: dict[str, Any] = {"num_channels": pipeline.views.channels, **(towers.vision_options or {})}
    if hasattr(AutoConfig.for_model(towers.vision), "image_size"):
        options.setdefault("image_size", pipeline.views.size)
    return options


def _text_fields(towers: TowerArguments, pipeline: ImageTextPipeline) -> dict[str, Any]:
    tokenizer = pipeline.processor.tokenizer
    options: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if hasattr(AutoConfig.for_model(towers.text), "max_position_embeddings"):
        options["max_position_embeddings"] = tokenizer.model_max_length
    return {**options, **(towers.text_options or {})}


def describe_data(data: ImageTextDataArguments, train: datasets.Dataset) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    built_in = data.dataset_path == "glyphs"
    local = built_in or Path(data.dataset_path).expanduser().exists()
    name = "drawn glyphs" if built_in else Path(data.dataset_path).name if local else data.dataset_path
    about: dict[str, Any] = {"name": name, "split": data.train_split, "rows": len(train)}
    texts = train["texts"][:]
    each = sum(map(len, texts)) / len(texts)
    columns = {"image": "the images", "texts": f"{each:.1f} an image on average, one drawn at a step"}
    labels = labels_of(train)
    if labels is not None:
        about["classes"] = len(np.unique(labels))
        columns["label"] = f"{about['classes']} classes, used only to measure"
    about["columns"] = columns
    about["example"] = " / ".join(texts[0][:3])
    if not local:
        about["id"] = data.dataset_path
    if built_in:
        about["licence"] = "Apache-2.0 (made by this library)"
        about["description"] = (
            "Drawn letters and digits in five colours on black, small or large, with captions; the test part holds other drawings of "
            "the same."
        )
    return about


def report(trainer: Any, data: ImageTextDataArguments, pipeline: ImageTextPipeline, train: datasets.Dataset) -> None:
    """Print what is about to be trained (main process only)."""
    collator = pipeline.train_collator
    used = [column for column in ("image", "texts", "index", collator.sample_id_column) if column]
    columns = zip(train["texts"][:], train["index"][:], strict=True)
    drawn = text_ids(collator.draw_texts([{"texts": texts, "index": index} for texts, index in columns])).tolist()
    text = batch_report(
        trainer,
        data=describe_data(data, train)["name"],
        loss=loss_text(trainer),
        num_views=2,
        columns_used=used,
        labels=drawn,
        ids_masked=collator.mask_duplicates or collator.sample_id_column is not None,
        command=command_line(),
    )
    say(text)
    say(f"  views: {pipeline.views.describe()}")
    texts = [one for row in train["texts"][:200] for one in row]
    lengths = [len(ids) for ids in pipeline.processor.tokenizer(texts)["input_ids"]]
    say(
        f"  texts: {len(pipeline.processor.tokenizer)} tokens known, {np.mean(lengths):.1f} a text (longest of {len(texts)}: "
        f"{max(lengths)}, cut at {pipeline.processor.tokenizer.model_max_length})\n"
    )


def finish(
    trainer: Any,
    spec: SystemSpec,
    pipeline: ImageTextPipeline,
    *,
    rows: Sequence[Mapping[str, Any]],
    data: ImageTextDataArguments,
    splits: tuple[datasets.Dataset, datasets.Dataset | None],
    measure: ImageTextMeasureArguments,
    started: float,
    base_model: str | None = None,
    about: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
) -> None:
    """Save checkpoint, card, results and pictures; print the table and what to do next (main process only).

    Args:
        trainer ([`ContrastiveTrainer`]): after training.
        spec ([`SystemSpec`]): the system.
        pipeline ([`ImageTextPipeline`]): its processor is saved with the weights.
        rows: of `measure_table`; empty where nothing could be measured.
        data, splits, measure: what it was trained and measured on.
        started (`float`): `time.time()` at the start.
        base_model (`str`, *optional*): hub id that the training started from.
        about (`Mapping`, *optional*): of the data, for the card; read off the training rows by default.
        results (`Mapping`, *optional*): further entries of `all_results.json`.
    """
    if not is_main_process():
        return
    folder, args = Path(trainer.args.output_dir), trainer.args
    train, test = splits
    about = describe_data(data, train) if about is None else about
    if rows:
        say()
        show_table(rows, f"{about['name']}: {len(test or ())} pairs that training has not seen, %")
    save_run(trainer, pipeline.processor)
    write_outcome(
        trainer,
        spec,
        about=about,
        metrics=card_metrics(rows, spec.title, about["name"]),
        results={
            "pair_rows": list(rows),
            "trained": spec.title,
            "test_rows": None if test is None else len(test),
            **(results or {}),
        },
        settings={"views": pipeline.views.describe(), "texts cut": pipeline.processor.num_cut},
        started=started,
        base_model=base_model,
        image_size=pipeline.views.size,
    )
    shown = test if test is not None else train
    draw = partial(draw_pictures, folder, trainer.model, shown, pipeline, about["name"], args.device)
    by_name = {row["model"]: row for row in rows}
    close_run(
        trainer,
        metrics=_headline(by_name.get(spec.title, {})),
        baseline=_headline(by_name.get("untrained encoders", {})),
        draw=draw if measure.pictures else None,
        commands={
            "evaluate": f"hf-contrastive evaluate knn {folder} IMAGES",
            "embed": f"hf-contrastive embed {folder} IMAGES -o embeddings.parquet",
        },
    )


def _headline(row: Mapping[str, Any]) -> dict[str, float]:
    """Of the table what the last lines of a run show, under names that say what they are."""
    names = {"text_to_image@10": "text_to_image_recall@10", "zero_shot": "zero_shot_top1"}
    names |= {
        name: f"linear_top1, {name.partition('@')[2]} of the labels"
        for name in row
        if name.startswith("linear") and name.endswith("%")
    }
    return {names[name]: value for name, value in row.items() if name in names}


def draw_pictures(
    folder: Path, model: Any, rows: datasets.Dataset, pipeline: ImageTextPipeline, data: str, device: Any
) -> list[Path]:
    """Curves, embedding map, similarities of pairs and neighbours of a run, as PNG with the CSV behind each.

    Args:
        folder (`Path`): the run; pictures go to its `plots/`.
        model: the trained model.
        rows (`datasets.Dataset`): pairs to show.
        pipeline ([`ImageTextPipeline`]): the processor.
        data (`str`): what data these are, for titles.
        device: where to compute.
    """
    shown = rows.select(range(min(1000, len(rows))))
    encoded = encode_pairs(model, shown, pipeline.eval_collator, device=device)
    # of a clip its first frame
    originals = [
        one["frames"][0] if "frames" in one else one["image"] for one in (shown[n] for n in range(len(shown)))
    ]
    pixels = ProcessorTransform(image_processor(pipeline.views.size))(originals).numpy()
    return draw_run(
        folder,
        embeddings=encoded["image"],
        labels=labels_of(shown),
        class_names=getattr((getattr(shown, "features", None) or {}).get("label"), "names", None),
        z_i=encoded["image"][:64],
        z_j=encoded["text"][:64],
        images=pixels,
        data=data,
    )


def run(spec: SystemSpec, *, description: str, example: str) -> None:
    """A whole recipe: arguments, data, model, training, measuring, saving.

    Args:
        spec ([`SystemSpec`]): the system whose recipe this is.
        description, example (`str`): for `--help`.
    """
    data, view, towers, objective, measure, run_arguments, args = parse_tower_arguments(
        spec,
        (ImageTextDataArguments, ImageTextViewArguments, ImageTextMeasureArguments),
        "objective: pooling, common space, what is optimised",
        description=description,
        example=example,
    )
    started = time.time()
    with plain_errors():
        measure.check()
    prepare_output(args, run_arguments)

    # data
    with plain_errors():
        train, test = load_splits(data, args.seed)
        pipeline = ImageTextPipeline.build(data, view, towers, train, args)

    # model
    set_seed(args.seed)
    with plain_errors():
        model = make_model(spec, towers, pipeline, dataclasses.asdict(objective))
    untrained = copy.deepcopy(model)  # what training has to beat
    if run_arguments.dry_run:
        batch = pipeline.train_collator([train[row] for row in range(2)])
        common.dry_run(model, batch)
        return

    # training
    trainer = ContrastiveTrainer(
        model,
        args,
        data_collator=pipeline.train_collator,
        train_dataset=train,
        eval_dataset=test if args.eval_strategy != "no" else None,
        eval_data_collator=pipeline.eval_collator,
        probe_dataset=train if labels_of(train) is not None else None,
        processing_class=pipeline.processor,
    )
    report(trainer, data, pipeline, train)
    train_or_load(trainer, args, pipeline.processor, final=True)

    # what came out
    rows: list[dict[str, Any]] = []
    if test is not None:
        models = {"untrained encoders": untrained, spec.title: model}
        rows = measure_table(models, train, test, pipeline, measure, args.device)
    finish(
        trainer,
        spec,
        pipeline,
        rows=rows,
        data=data,
        splits=(train, test),
        measure=measure,
        started=started,
        base_model=common.hub_id(towers.pair or towers.vision),
    )
    trainer.end()


__all__ = [
    "ImageTextDataArguments",
    "ImageTextMeasureArguments",
    "ImageTextPipeline",
    "ImageTextViewArguments",
    "TowerArguments",
    "describe_data",
    "draw_pictures",
    "finish",
    "load_splits",
    "make_model",
    "make_tokenizer",
    "make_views",
    "measure_table",
    "parse_tower_arguments",
    "report",
    "run",
]
