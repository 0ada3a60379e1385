"""The recipe of logo identification: one vector of picture and text, from several views of each brand."""

from __future__ import annotations

import copy
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from transformers import set_seed

from hf_contrastive.data import (
    LogoViews,
    MPerClassBatchSampler,
    OcrNoise,
    ProcessorTransform,
    RecordCollator,
    SceneViews,
    SimCLRViews,
    load_logos,
    make_glyph_logos,
    open_logo_references,
)
from hf_contrastive.distributed import is_main_process
from hf_contrastive.families.dual_encoder.processing_dual_encoder import DualEncoderProcessor
from hf_contrastive.families.dual_encoder.record_encoding import encode_fused
from hf_contrastive.recipes import common
from hf_contrastive.recipes.common import (
    check_choice,
    close_run,
    command_line,
    draw_run,
    loss_text,
    option,
    plain_errors,
    prepare_output,
    save_run,
    train_or_load,
    write_outcome,
)
from hf_contrastive.recipes.image_texts import (
    VIEW_PRESETS,
    TowerArguments,
    make_model,
    make_tokenizer,
    make_views,
    parse_tower_arguments,
    trained_image_processor,
)
from hf_contrastive.recipes.logo_measures import (
    RIVALS,
    LogoMeasureArguments,
    encode_models,
    logo_columns,
    logo_metrics,
    logo_rows,
    show_rows,
)
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import say
from hf_contrastive.training import (
    ContrastiveTrainer,
    batch_report,
)
from hf_contrastive.training.unwrap import unwrap_model


QUERIES = ("scene", "others")
# added to the seed of a run for what is drawn to measure
_QUERY_SEED = 1000


@dataclass
class LogoDataArguments:
    """data: where the logos come from"""

    dataset_path: str = option(
        "glyphs",
        "'glyphs' (drawn by this library), or a table of logos with a picture, a brand and, where one was read, a text: .csv, .jsonl, "
        ".parquet, a folder, a hub id.",
    )
    image_column: str | None = option(None, "Column of the pictures or their paths; found by itself.")
    brand_column: str | None = option(None, "Column of the brands; found by itself.")
    text_column: str | None = option(None, "Column of the texts; text or ocr by default.")
    test_every: int | None = option(None, "Brands whose number this divides are measured, the others are trained on.")
    test_fraction: float = option(0.2, "Without it: this share of the brands is measured, drawn with split_seed.")
    split_seed: int = option(0, "Seed of these shares; that of the run changes everything else.")
    queries: str = option(
        "scene",
        "What is looked for among the first drawings of test brands: scene (the same drawing as in a photo), others (further ones).",
    )
    references_path: str | None = option(None, "Instead of test brands of dataset_path: table of known logos.")
    query_path: str | None = option(None, "And table of the logos that are looked for among them.")
    distractors_path: str | None = option(
        None, "Further references of brands that nobody looks for: a table, or a folder of pictures."
    )
    ocr_drop: float = option(0.075, "Noise of texts: a character is dropped with this probability.")
    ocr_replace: float = option(0.075, "Noise of texts: a character becomes another one with this probability.")
    text_dropout: float = option(0.2, "A text is left out with this probability, so that icons without one work, too.")
    query_noise: float | None = option(
        None, "Noise of the texts of queries, half dropped and half replaced; none = as in training."
    )
    max_train_samples: int | None = option(None, "Train on that many brands, the first ones.")
    max_test_samples: int | None = option(None, "Measure with that many brands, the first ones.")
    on_bad: str = option("skip", "Rows without a picture: 'skip' with a count, or 'stop'.")


@dataclass
class LogoViewArguments:
    """views: how a picture is changed at every step"""

    image_size: int = option(224, "Side of the pictures in pixels.")
    augmentation: str = option("logos", "Preset: logos, or one of those of other images (imagenet, cifar, convirt).")
    view_options: dict | None = option(None, 'Changes to the preset, as JSON: {"rotate": 5.0, "blur_p": 0.5}.')
    random_ground: bool = option(True, "Transparent drawings over a random colour, not always over white.")
    scene_training: bool = option(False, "Views of training are as in a photo, too: shrunk, covered, noisy.")
    scene_options: dict | None = option(None, 'Of queries as in a photo, as JSON: {"shrink": 0.4, "cover": 0.4}.')


@dataclass
class BatchArguments:
    """batches: which views stand side by side"""

    views_per_brand: int = option(
        2, "V, views of each brand: other drawings where there are some, or one changed anew."
    )
    num_passes: int | None = option(None, "Passes over the brands in an epoch; none = about all pictures.")


class LogoData(NamedTuple):
    """What a run is trained and measured on; all tables have `image`, `text`, `label`, `index`.

    Args:
        train: views of brands.
        references, queries: known logos, and what is looked for among them.
        distractors: further references, or none.
        name (`str`): what the card calls it.
        scene (`bool`): queries are references seen as in a photo.
    """

    train: datasets.Dataset
    references: datasets.Dataset
    queries: datasets.Dataset
    distractors: datasets.Dataset | None
    name: str
    scene: bool


def load_splits(data: LogoDataArguments) -> LogoData:
    """Everything a run needs from the data.

    Args:
        data ([`LogoDataArguments`]): where it is.

    Raises:
        ValueError: tables that do not fit; the message says what to change.
    """
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    check_choice("queries", [data.queries], QUERIES)
    options: dict[str, Any] = {
        "image_column": data.image_column,
        "brand_column": data.brand_column,
        "text_column": data.text_column,
        "on_bad": data.on_bad,
    }
    if (data.references_path is None) != (data.query_path is None):
        raise ValueError(
            "`references_path` and `query_path` belong together: known logos, and those that are looked for"
        )
    built_in = data.dataset_path == "glyphs"
    local = Path(data.dataset_path).expanduser()
    name = "drawn logos" if built_in else local.name if local.exists() else data.dataset_path
    tables = [make_glyph_logos("train") if built_in else load_logos(data.dataset_path, **options)]
    if data.references_path is not None and data.query_path is not None:
        tables += [load_logos(path, **options) for path in (data.references_path, data.query_path)]
    elif built_in:
        tables.append(make_glyph_logos("test"))
    else:
        tables = list(_split(tables[0], data))
    numbered = _numbered(tables)
    train = _first_brands(numbered[0], data.max_train_samples)
    test = _first_brands(numbered[1], data.max_test_samples)
    if len(numbered) == 3:
        known = np.unique(np.asarray(test["label"][:]))
        asked = np.flatnonzero(np.isin(np.asarray(numbered[2]["label"][:]), known))
        if not len(asked):
            raise ValueError(
                "no query has a brand of the references; the names of the brands must be the same in both tables"
            )
        found = LogoData(train, test, numbered[2].select(asked), None, name, False)
    else:
        found = LogoData(train, *_first_drawings(test, data.queries), None, name, data.queries == "scene")
    if data.distractors_path is not None:
        place = Path(data.distractors_path).expanduser()
        listed = place.is_dir() and not any(place.glob("*.parquet")) and not any(place.glob("metadata.*"))
        others = open_logo_references(place) if listed else load_logos(data.distractors_path, **options)
        (others,) = _numbered([others])
        found = found._replace(distractors=others)
    own = found.distractors
    return found._replace(
        train=_renumbered(found.train),
        references=_renumbered(found.references),
        queries=_renumbered(found.queries),
        distractors=None if own is None else _renumbered(own),
    )


def _split(rows: datasets.Dataset, data: LogoDataArguments) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training brands and test brands."""
    labels = np.asarray(rows["label"][:])
    brands, first = np.unique(labels, return_index=True)
    brands = brands[np.argsort(first)]
    if data.test_every is not None:
        if data.test_every < 2:
            raise ValueError(
                f"`test_every` is {data.test_every}, expected 2 or more: one brand in so many is measured"
            )
        # numbers of the table itself where brands are numbers
        numbers = brands if brands.dtype.kind in "iu" else np.arange(len(brands))
        held = brands[numbers % data.test_every == 0]
    else:
        count = round(data.test_fraction * len(brands))
        held = np.random.RandomState(data.split_seed).permutation(brands)[:count]
    inside = np.isin(labels, held)
    if not inside.any() or inside.all():
        raise ValueError(
            f"of {len(brands)} brands {len(held)} are measured, so none is left on one side; change --test_every or --test_fraction"
        )
    return rows.select(np.flatnonzero(~inside)), rows.select(np.flatnonzero(inside))


def _numbered(tables: Sequence[datasets.Dataset]) -> list[datasets.Dataset]:
    """The same integers for the same brands in all tables."""
    names = list(dict.fromkeys(str(brand) for table in tables for brand in table["label"][:]))
    numbers = {name: number for number, name in enumerate(names)}
    return [
        table.remove_columns("label").add_column(
            "label", np.array([numbers[str(brand)] for brand in table["label"][:]], dtype=np.int64)
        )
        for table in tables
    ]


def _first_brands(rows: datasets.Dataset, count: int | None) -> datasets.Dataset:
    labels = np.asarray(rows["label"][:])
    kept = list(dict.fromkeys(labels.tolist()))[:count]
    return rows if count is None else rows.select(np.flatnonzero(np.isin(labels, kept)))


def _first_drawings(rows: datasets.Dataset, queries: str) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The first drawing of each brand, and what is looked for."""
    labels = np.asarray(rows["label"][:])
    first = np.sort(np.unique(labels, return_index=True)[1])
    references = rows.select(first)
    if queries == "scene":
        return references, references
    rest = np.setdiff1d(np.arange(len(rows)), first)
    if not len(rest):
        raise ValueError("every test brand has one drawing, so there is no other to look for; pass --queries scene")
    return references, rows.select(rest)


def _renumbered(rows: datasets.Dataset) -> datasets.Dataset:
    """`index` as the place in the table, on which the draws of views depend."""
    return rows.remove_columns("index").add_column("index", np.arange(len(rows), dtype=np.int64))


def describe_data(data: LogoDataArguments, found: LogoData) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    train, brands = found.train, len(np.unique(np.asarray(found.train["label"][:])))
    about: dict[str, Any] = {
        "name": found.name,
        "rows": len(train),
        "classes": brands,
        "columns": {
            "image": f"{len(train)} drawings of {brands} brands",
            "text": f"{sum(map(bool, train['text'][:]))} drawings have one",
            "label": "the brand",
        },
        "example": next((text for text in train["text"][:] if text), ""),
        "description": (
            f"Noise in the texts: a character is dropped with probability {data.ocr_drop:g}, another one with {data.ocr_replace:g}; a "
            f"text is left out with {data.text_dropout:g}. References have their texts as they are."
        ),
    }
    if found.name == "drawn logos":
        about["licence"] = "Apache-2.0 (made by this library)"
    return about


@dataclass
class LogoPipeline:
    """What turns logos into batches.

    Args:
        views ([`SimCLRViews`]): the random view.
        processor ([`DualEncoderProcessor`]): saved with the checkpoint.
        train_collator, reference_collator, query_collator ([`RecordCollator`]): of training, of known logos (nothing is drawn), of those
            that are looked for (the same draws every time).
        about (`str`): how pictures are prepared and changed.
    """

    views: Any
    processor: DualEncoderProcessor
    train_collator: RecordCollator
    reference_collator: RecordCollator
    query_collator: RecordCollator
    about: str

    @classmethod
    def build(
        cls,
        data: LogoDataArguments,
        view: LogoViewArguments,
        towers: TowerArguments,
        found: LogoData,
        args: Any,
        image_processor: Any,
    ) -> LogoPipeline:
        """Open or make the tokenizer, and transforms that fit the encoders."""
        trained = trained_image_processor(towers.vision)
        views = make_views(view, trained, args.seed, {"logos": SimCLRViews.logos, **VIEW_PRESETS})
        statistics = {"image_mean": list(views.mean or (0.0,) * 3), "image_std": list(views.std or (1.0,) * 3)}
        images = image_processor.of_size(views.size, **statistics)
        texts = [text for text in found.train["text"][:] if text]
        words = datasets.Dataset.from_dict({"texts": [[text] for text in texts]})
        processor = DualEncoderProcessor(images, make_tokenizer(towers, words))
        changed: Any = LogoViews(views, view.random_ground)
        if view.scene_training:
            changed = _scene_views(changed, view.scene_options)
        shared: dict[str, Any] = {"mask_duplicates": False, "seed": args.seed}
        alphabet = texts or ["a"]
        train = RecordCollator(
            changed,
            processor,
            corrupt=OcrNoise(alphabet, data.ocr_drop, data.ocr_replace),
            text_dropout=data.text_dropout,
            **shared,
        )
        known = RecordCollator(ProcessorTransform(images), processor, augment=False, labels=False, **shared)
        query = known
        about = changed.describe()
        if found.scene:
            own = type(views).from_dict({**views.to_dict(), "seed": args.seed + _QUERY_SEED})
            scene = _scene_views(LogoViews(own, view.random_ground), view.scene_options)
            noise = (data.ocr_drop + data.ocr_replace) if data.query_noise is None else data.query_noise
            query = RecordCollator(
                scene,
                processor,
                corrupt=OcrNoise(alphabet, noise / 2, noise / 2),
                text_dropout=data.text_dropout,
                labels=False,
                mask_duplicates=False,
                seed=args.seed + _QUERY_SEED,
            )
            if not view.scene_training:
                about += (
                    f"; queries also shrunk to {scene.shrink:.2g}, covered {scene.cover:.2g}, noise {scene.noise:g}"
                )
        elif view.scene_options and not view.scene_training:
            raise ValueError("`scene_options` go with --queries scene: queries of a table are measured as they are")
        return cls(views, processor, train, known, query, about)


def _scene_views(views: LogoViews, options: Mapping[str, Any] | None) -> SceneViews:
    known = ("shrink", "cover", "noise")
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise ValueError(f"`scene_options` has {', '.join(unknown)}; known are: {', '.join(known)}.")
    return SceneViews(views, **(options or {}))


def report(trainer: Any, found: LogoData, pipeline: LogoPipeline, sampler: MPerClassBatchSampler) -> None:
    """Print what is about to be trained (main process only)."""
    text = batch_report(
        trainer,
        data=found.name,
        loss=loss_text(trainer),
        num_views=1,
        columns_used=["image", "text", "label", "index"],
        labels=np.asarray(found.train["label"][:]).tolist(),
        ids_masked=True,
        command=command_line(),
    )
    say(text)
    say(f"  pictures: {pipeline.about}\n  batches: {sampler.describe()}\n")


def finish(
    trainer: Any,
    spec: SystemSpec,
    pipeline: LogoPipeline,
    found: LogoData,
    *,
    rows: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    measure: LogoMeasureArguments,
    started: float,
    base_model: str | None = None,
) -> None:
    """Save checkpoint, card, results and pictures; print the table and what to do next (main process only).

    Args:
        trainer ([`ContrastiveTrainer`]): after training.
        spec ([`SystemSpec`]): the system.
        pipeline ([`LogoPipeline`]): its processor is saved with the weights.
        found ([`LogoData`]): the data.
        rows: of `logo_rows`.
        about (`Mapping`): of the data, for the card.
        measure ([`LogoMeasureArguments`]): whether pictures are drawn.
        started (`float`): `time.time()` at the start.
        base_model (`str`, *optional*): hub id that the training started from.
    """
    if not is_main_process():
        return
    folder, args = Path(trainer.args.output_dir), trainer.args
    say()
    show_rows(rows, found)
    save_run(trainer, pipeline.processor)
    brands = len(np.unique(np.asarray(found.train["label"][:])))
    told = (
        f"{len(found.train)} drawings of {brands} brands; {len(found.queries)} logos of other brands looked for among "
    )
    told += f"{len(found.references)} references"
    write_outcome(
        trainer,
        spec,
        about=about,
        metrics=logo_metrics(rows, spec.title, found.name),
        results={
            "measured": [
                {
                    "title": "logos",
                    # a list: the file sorts the names of a mapping
                    "columns": [[name, *about] for name, about in logo_columns(rows).items()],
                    "rows": list(rows),
                    "compared": [name for name in ("auroc", "top1") if name in logo_columns(rows)],
                }
            ],
            "trained": spec.title,
            "about": told,
        },
        settings={"pictures": pipeline.about, "texts cut": pipeline.processor.num_cut},
        started=started,
        base_model=base_model,
        image_size=pipeline.views.size,
    )
    by_name = {row["model"]: row for row in rows}
    names = {"auroc": "verification AUROC", "top1": "one-shot top-1"}
    close_run(
        trainer,
        metrics={names[name]: by_name[spec.title][name] for name in names},
        baseline={names[name]: by_name["untrained encoders"][name] for name in names},
        draw=partial(draw_pictures, folder, trainer.model, found, pipeline, args.device) if measure.pictures else None,
        commands={
            "identify": f"hf-contrastive link {folder} LOGOS.csv REFERENCES.csv -o found.csv --right-id-column brand",
            "embed": f"hf-contrastive embed {folder} IMAGES -o embeddings.parquet",
        },
    )


def draw_pictures(folder: Path, model: Any, found: LogoData, pipeline: LogoPipeline, device: Any) -> list[Path]:
    """Curves, map and similarities of a run, as PNG with the CSV behind each.

    Args:
        folder (`Path`): the run; pictures go to its `plots/`.
        model: the trained model.
        found ([`LogoData`]): logos to show.
        pipeline ([`LogoPipeline`]): the collators.
        device: where to compute.
    """
    shown = found.queries.select(range(min(500, len(found.queries))))
    inner = unwrap_model(model)
    queries = encode_fused(inner, shown, pipeline.query_collator, device=device)
    brands = np.asarray(shown["label"][:])
    known = np.asarray(found.references["label"][:])
    own = [np.flatnonzero(known == brand)[0] for brand in brands[:64]]
    references = encode_fused(inner, found.references.select(own), pipeline.reference_collator, device=device)
    # colours of brands that are there once say nothing
    classes = brands if len(np.unique(brands)) < len(brands) else None
    return draw_run(
        folder, embeddings=queries, labels=classes, z_i=queries[: len(own)], z_j=references, data=found.name
    )


def run(spec: SystemSpec, image_processor: Any, *, description: str, example: str) -> None:
    """A whole recipe: arguments, data, model, training, rivals, measuring, saving.

    Args:
        spec ([`SystemSpec`]): the system whose recipe this is.
        image_processor: class of the image processor, with `of_size`.
        description, example (`str`): for `--help`.
    """
    data, view, towers, objective, batches, measure, run_arguments, args = parse_tower_arguments(
        spec,
        (LogoDataArguments, LogoViewArguments, BatchArguments, LogoMeasureArguments),
        "objective: pooling, fusion, what is optimised",
        description=description,
        example=example,
    )
    started = time.time()
    with plain_errors():
        for name in measure.rivals:
            check_choice("rivals", [name], tuple(RIVALS))
        if towers.pair is not None:
            raise ValueError("`pair` is for systems with a common space of images and texts; give `vision` and `text`")
    prepare_output(args, run_arguments)

    # data
    with plain_errors():
        found = load_splits(data)
        pipeline = LogoPipeline.build(data, view, towers, found, args, image_processor)
        sampler = MPerClassBatchSampler(
            np.asarray(found.train["label"][:]),
            args.per_device_train_batch_size,
            batches.views_per_brand,
            num_passes=batches.num_passes,
            num_processes=args.world_size,
            seed=args.seed,
        )

    # model
    fields = dataclasses.asdict(objective)
    set_seed(args.seed)
    with plain_errors():
        model = make_model(spec, towers, pipeline, fields)
    models: dict[str, Any] = {"untrained encoders": copy.deepcopy(model)}  # what training has to beat
    if run_arguments.dry_run:
        batch = pipeline.train_collator(
            [found.train[row] for row in next(iter(sampler))[: batches.views_per_brand * 2]]
        )
        common.dry_run(model, batch)
        return

    # training, and what it is compared with
    trainer = _train(model, args, found, pipeline, sampler, report_it=True)
    train_or_load(trainer, args, pipeline.processor, final=True)
    for name in measure.rivals:
        title, changes = RIVALS[name]
        own = copy.copy(args)
        own.output_dir, own.save_strategy, own.report_to = f"{args.output_dir}/rivals/{name}", "no", []
        own.resume_from_checkpoint = None
        set_seed(args.seed)
        rival = make_model(spec, towers, pipeline, {**fields, **changes})
        say(f"\n=== {title} ===")
        _train(rival, own, found, pipeline, sampler).train()
        models[title] = rival
    models[spec.title] = model

    # what came out
    rows = logo_rows(encode_models(models, found, pipeline, args.device), found, measure, args.seed)
    finish(
        trainer,
        spec,
        pipeline,
        found,
        rows=rows,
        about=describe_data(data, found),
        measure=measure,
        started=started,
        base_model=common.hub_id(towers.vision),
    )
    trainer.end()


def _train(
    model: Any, args: Any, found: LogoData, pipeline: LogoPipeline, sampler: Any, report_it: bool = False
) -> ContrastiveTrainer:
    trainer = ContrastiveTrainer(
        model,
        args,
        data_collator=pipeline.train_collator,
        train_dataset=found.train,
        train_batch_sampler=sampler,
        processing_class=pipeline.processor,
    )
    if report_it:
        report(trainer, found, pipeline, sampler)
    return trainer


__all__ = ["LogoData", "LogoDataArguments", "LogoPipeline", "describe_data", "load_splits", "run"]
