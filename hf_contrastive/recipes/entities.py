"""Shared by the recipes that train on images of entities: data, the objectives side by side, wrong labels, what is saved."""

from __future__ import annotations

import copy
import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import set_seed

from hf_contrastive.data import EntityCollator, OcrNoise, PairEvalCollator, ProcessorTransform, load_entity_images
from hf_contrastive.data.entity_images import describe_entities, split_entities, wrong_entities
from hf_contrastive.distributed import is_main_process
from hf_contrastive.families.dual_encoder.processing_dual_encoder import DualEncoderProcessor
from hf_contrastive.recipes import common
from hf_contrastive.recipes.common import (
    close_run,
    command_line,
    loss_text,
    option,
    plain_errors,
    prepare_output,
    save_run,
    several,
    train_or_load,
    write_outcome,
)
from hf_contrastive.recipes.entity_measures import (
    EntityMeasureArguments,
    entity_metrics,
    entity_table,
    judge_labels,
    row_title,
    show_table,
)
from hf_contrastive.recipes.image_texts import (
    ImageTextPipeline,
    ImageTextViewArguments,
    TowerArguments,
    draw_pictures,
    make_model,
    make_tokenizer,
    make_views,
    parse_tower_arguments,
    trained_image_processor,
)
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import say
from hf_contrastive.training import (
    ContrastiveTrainer,
    batch_report,
)
from hf_contrastive.training.unwrap import unwrap_model


#: names of the arms that a run may train before the one it saves
NOISY, CLEAN = "wrong labels", "right labels"


@dataclass
class EntityDataArguments:
    """data: where the images and their entities come from"""

    dataset_path: str = option(
        "glyphs",
        "'glyphs' (drawn by this library), a folder that build_entities.py wrote, .parquet or .tar files, a .csv or .jsonl of image "
        "paths, a folder of images with metadata.jsonl, or a hub id.",
    )
    dataset_name: str | None = option(None, "Configuration of a hub dataset.")
    split: str = option("train", "Split to read; entities are held out of it.")
    image_column: str | None = option(None, "Column of the images; found by itself where there is no doubt.")
    entity_column: str | None = option(None, "Column of the entities' ids or numbers; none = entity_id.")
    name_column: str | None = option(None, "Column of their names; none = entity_name.")
    description_column: str | None = option(None, "Column of their descriptions; none = entity_description, if any.")
    text_columns: list[str] | None = option(None, "Columns of texts that came with an image; none = text, if any.")
    test_every: int = option(3, "Entities whose number this divides are never trained on: they are measured.")
    min_test_images: int = option(2, "Held-out entities with fewer images are left out.")
    max_train_samples: int | None = option(None, "Train on that many images, drawn with the seed.")
    max_test_samples: int | None = option(None, "Measure on that many images, drawn with the seed.")
    on_bad: str = option("skip", "Rows without a readable image or a name: 'skip' with a count, or 'stop'.")
    mask_duplicates: bool = option(True, "Images of one entity are not each other's negatives (contrastive loss).")
    text_drop: float = option(0.0, "Every character of a text may be dropped, with this probability.")
    text_replace: float = option(0.0, "Or become another one, with this probability.")


@dataclass
class EntityArmArguments:
    """arms: what else is trained, to be compared"""

    compare: list[str] = several(
        [], "Objectives that are trained first, on the same budget: contrastive, supervised, multitask."
    )
    wrong_labels: float = option(
        0.0,
        "Give that share of the images a wrong entity: trains on the right labels, on these, and without the pairs of the lowest "
        "cosine, as the model trained on these sees them.",
    )
    drop_share: float | None = option(None, "Of the images whose cosine is lowest: how many go; none = wrong_labels.")
    judge_epochs: float | None = option(
        None, "Epochs of the model that judges the pairs, less than learns them by heart; none = num_train_epochs."
    )


def load_splits(data: EntityDataArguments, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Images of entities to train on, and of others to measure on."""
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    rows = load_entity_images(
        data.dataset_path,
        split=data.split,
        name=data.dataset_name,
        image_column=data.image_column,
        entity_column=data.entity_column,
        name_column=data.name_column,
        description_column=data.description_column,
        text_columns=data.text_columns,
        on_bad=data.on_bad,  # ty: ignore[invalid-argument-type]
    )
    train, test = split_entities(rows, every=data.test_every, min_images=data.min_test_images)
    return _part(train, data.max_train_samples, seed), _part(test, data.max_test_samples, seed)


def _part(rows: datasets.Dataset, size: int | None, seed: int) -> datasets.Dataset:
    """Some of the rows; their entities keep their numbers."""
    if size is None or size >= len(rows):
        return rows
    chosen = rows.select(np.sort(np.random.RandomState(seed).permutation(len(rows))[:size]))
    return chosen.remove_columns(["index"]).add_column("index", np.arange(size, dtype=np.int64))


class EntityPipeline(ImageTextPipeline):
    """What turns images of entities into batches; see [`ImageTextPipeline`]."""

    @classmethod
    def make(
        cls,
        data: EntityDataArguments,
        view: ImageTextViewArguments,
        towers: TowerArguments,
        train: datasets.Dataset,
        args: Any,
        image_processor: Any,
    ) -> EntityPipeline:
        """Open or learn the tokenizer, and make transforms that fit the encoders.

        Args:
            data, view, towers: of the command.
            train (`datasets.Dataset`): the texts a tokenizer is learned from.
            args (`TrainingArguments`): the seed.
            image_processor: class of the image processor, with `of_size`.
        """
        trained = trained_image_processor(towers.pair or towers.vision)
        statistics: dict[str, Any] = {}
        if trained is not None:
            statistics = {"image_mean": list(trained.image_mean), "image_std": list(trained.image_std)}
        images = image_processor.of_size(view.image_size, **statistics)
        views = make_views(view, images, args.seed)
        processor = DualEncoderProcessor(images, make_tokenizer(towers, train))
        noise = None
        if data.text_drop or data.text_replace:
            noise = OcrNoise(
                (text for texts in train["texts"][:] for text in texts), data.text_drop, data.text_replace
            )
        collator = EntityCollator(
            views, processor, mask_duplicates=data.mask_duplicates, corrupt=noise, seed=args.seed
        )
        return cls(views, processor, collator, PairEvalCollator(ProcessorTransform(images), processor))


def describe_data(data: EntityDataArguments, train: datasets.Dataset, test: datasets.Dataset) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    built_in = data.dataset_path == "glyphs"
    local = built_in or Path(data.dataset_path).expanduser().exists()
    name = "drawn glyphs" if built_in else Path(data.dataset_path).name if local else data.dataset_path
    counts, held = describe_entities(train), describe_entities(test)
    about: dict[str, Any] = {"name": name, "split": data.split, "rows": len(train), "classes": counts["entities"]}
    about["columns"] = {
        "image": "the images",
        "entity": f"{counts['entities']} entities, {counts['once']} of them with one image; {held['entities']} others to measure",
        "texts": "name, name with description, texts that came with the image; one drawn at a step",
    }
    about["example"] = " / ".join(train[0]["texts"][:3])
    if not local:
        about["id"] = data.dataset_path
    if built_in:
        about["licence"] = "Apache-2.0 (made by this library)"
        about["description"] = (
            "Drawn letters and digits in five colours on black; every character in every colour is an entity."
        )
    return about


def report(
    trainer: Any,
    data: EntityDataArguments,
    pipeline: ImageTextPipeline,
    train: datasets.Dataset,
    about: Mapping[str, Any],
) -> None:
    """Print what is about to be trained (main process only)."""
    text = batch_report(
        trainer,
        data=about["name"],
        loss=loss_text(trainer),
        num_views=2,
        columns_used=["image", "texts", "label", "index"],
        labels=train["label"][:],
        ids_masked=data.mask_duplicates,
        command=command_line(),
    )
    say(text)
    counts = describe_entities(train)
    say(f"  entities: {counts['entities']}, {counts['images']} images, {counts['once']} entities with one image")
    say(f"  views: {pipeline.views.describe()}\n")


@dataclass
class Arm:
    """One training of a run.

    Args:
        name (`str`): of its row in the table.
        rows (`datasets.Dataset`): what it is trained on.
        fields (`Mapping`): of its configuration, other than those of the command.
        folder (`str`): below the run's folder; empty for the one that is saved there.
        epochs (`float`, *optional*): other than those of the command.
        budget (`int`, *optional*): rows whose optimiser steps it takes, where it has fewer itself.
    """

    name: str
    rows: datasets.Dataset
    fields: Mapping[str, Any]
    folder: str
    epochs: float | None = None
    budget: int | None = None


class EntityRun:
    """The trainings of one command, which share model sizes, data and seed.

    Args:
        spec ([`SystemSpec`]): the system.
        parts: the argument groups `(data, view, towers, objective, args)`.
        pipeline ([`EntityPipeline`]): batches.
        about (`Mapping`): of the data.
        num_entities (`int`): of the training data.
    """

    def __init__(
        self, spec: SystemSpec, parts: Any, pipeline: EntityPipeline, about: Mapping[str, Any], num_entities: int
    ) -> None:
        self.spec, self.pipeline, self.about, self.num_entities = spec, pipeline, about, num_entities
        self.data, self.view, self.towers, self.objective, self.args = parts

    def model(self, fields: Mapping[str, Any] | None = None) -> Any:
        """A new model with the command's seed."""
        set_seed(self.args.seed)
        given = {"num_entities": self.num_entities, **dataclasses.asdict(self.objective), **(fields or {})}
        given["num_entities"] = given["num_entities"] or self.num_entities
        if given["num_entities"] < self.num_entities:
            raise ValueError(
                f"`num_entities` is {given['num_entities']}, but the training data has {self.num_entities} entities; leave it out."
            )
        return make_model(self.spec, self.towers, self.pipeline, given)

    def train(self, arm: Arm, final: bool, test: datasets.Dataset | None) -> Any:
        """Train one arm; a finished one is loaded on resuming.

        Args:
            arm ([`Arm`]): what.
            final (`bool`): whether it is the one that the run saves.
            test (`datasets.Dataset`, *optional*): measured while training where `eval_strategy` says so.

        Returns:
            The trainer.
        """
        args = copy.copy(self.args)
        if arm.folder:
            args.output_dir = f"{self.args.output_dir}/{arm.folder}"
        if arm.epochs is not None:
            args.num_train_epochs = arm.epochs
        if arm.budget is not None and args.max_steps <= 0:
            batches = arm.budget // (args.per_device_train_batch_size * args.world_size)
            args.max_steps = round(args.num_train_epochs * max(1, batches // args.gradient_accumulation_steps))
        with plain_errors():
            model = self.model(arm.fields)
        trainer = ContrastiveTrainer(
            model,
            args,
            data_collator=self.pipeline.train_collator,
            train_dataset=arm.rows,
            eval_dataset=test if args.eval_strategy != "no" else None,
            eval_data_collator=self.pipeline.eval_collator,
            processing_class=self.pipeline.processor,
        )
        say(f"\n=== {arm.name} ===")
        report(trainer, self.data, self.pipeline, arm.rows, self.about)
        train_or_load(trainer, args, self.pipeline.processor, final=final)
        return trainer


def run(spec: SystemSpec, image_processor: Any, *, description: str, example: str) -> None:
    """A whole recipe: arguments, data, the arms, measuring, saving.

    Args:
        spec ([`SystemSpec`]): the system whose recipe this is.
        image_processor: class of the image processor, with `of_size`.
        description, example (`str`): for `--help`.
    """
    data, view, towers, objective, arms, measure, run_arguments, args = parse_tower_arguments(
        spec,
        (EntityDataArguments, ImageTextViewArguments, EntityArmArguments, EntityMeasureArguments),
        "method: pooling, common space, what is optimised",
        description=description,
        example=example,
    )
    started = time.time()
    prepare_output(args, run_arguments)

    # data
    with plain_errors():
        check_arms(arms, args)
        train, test = load_splits(data, args.seed)
        pipeline = EntityPipeline.make(data, view, towers, train, args, image_processor)
        about = describe_data(data, train, test)
        number = int(max(train["label"][:])) + 1
        whole = EntityRun(spec, (data, view, towers, objective, args), pipeline, about, number)
        untrained = whole.model()  # what training has to beat
    if run_arguments.dry_run:
        batch = pipeline.train_collator([train[row] for row in range(2)])
        common.dry_run(untrained, batch)
        return

    # one training after the other
    models: dict[str, Any] = {"untrained encoders": untrained}
    own = untrained.config.objective
    judged: dict[str, Any] | None = None
    if arms.wrong_labels:
        trainer, judged = train_with_wrong_labels(whole, arms, train, test, models)
    else:
        for name in [one for one in arms.compare if one != own]:
            trained = whole.train(Arm(row_title(name, spec), train, {"objective": name}, name), False, test)
            models[row_title(name, spec)] = unwrap_model(trained.model)
        trainer = whole.train(Arm(row_title(own, spec), train, {}, ""), True, test)
        models[row_title(own, spec)] = trainer.model

    # what came out
    rows = entity_table(models, test, pipeline, measure, args.device)
    finish(trainer, whole, rows, judged, test, measure, started)
    trainer.end()


def check_arms(arms: EntityArmArguments, args: Any) -> None:
    """Refuse what cannot be compared.

    Raises:
        ValueError: says what to type.
    """
    known = ("contrastive", "supervised", "multitask")
    unknown = [name for name in arms.compare if name not in known]
    if unknown:
        raise ValueError(f"--compare has {', '.join(unknown)}; known are: {', '.join(known)}.")
    if not 0 <= arms.wrong_labels < 1:
        raise ValueError(f"--wrong_labels is {arms.wrong_labels:g}; expected a share from 0 to below 1.")
    if arms.wrong_labels and arms.compare:
        raise ValueError("--compare and --wrong_labels make different tables; give one of them.")
    if arms.drop_share is not None and not 0 < arms.drop_share < 1:
        raise ValueError(f"--drop_share is {arms.drop_share:g}; expected a share between 0 and 1.")
    learned = [probe for probe in args.probe_metrics if probe in ("knn", "linear")]
    if learned and args.eval_strategy != "no":
        raise ValueError(
            f"--probe_metrics has {', '.join(learned)}, but the entities that are measured have no images to learn from; pass "
            "--probe_metrics retrieval."
        )


def train_with_wrong_labels(
    whole: EntityRun, arms: EntityArmArguments, train: datasets.Dataset, test: datasets.Dataset, models: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Right labels, wrong ones, and those that are left when the model has dropped what looks wrong to it.

    Args:
        whole ([`EntityRun`]): trains.
        arms ([`EntityArmArguments`]): shares.
        train, test (`datasets.Dataset`): the data.
        models (`dict`): gets the trained models by name.

    Returns:
        `(trainer, judged)`: of the last arm, and how well wrong labels were told apart.
    """
    noisy, wrong = wrong_entities(train, arms.wrong_labels, whole.args.seed)
    share = f"{100 * arms.wrong_labels:g} % {NOISY}"
    for name, rows, folder in ((CLEAN, train, "right_labels"), (share, noisy, "wrong_labels")):
        models[name] = unwrap_model(whole.train(Arm(name, rows, {}, folder), False, test).model)
    judge = models[share]
    if arms.judge_epochs is not None:
        judge = whole.train(Arm("the judge of pairs", noisy, {}, "judge", arms.judge_epochs), False, None).model
    kept, judged = judge_labels(
        unwrap_model(judge), noisy, wrong, arms.drop_share or arms.wrong_labels, whole.pipeline, whole.args.device
    )
    name = f"{share}, {100 * (arms.drop_share or arms.wrong_labels):g} % dropped"
    say(
        f"\ncosines tell wrong pairs from right ones with an AUROC of {judged['auroc']:.3f}; {100 * judged['dropped_wrong']:.1f} % of "
        f"those dropped are wrong, {100 * judged['kept_wrong']:.1f} % of those kept"
    )
    rows = noisy.select(kept).remove_columns(["index"]).add_column("index", np.arange(len(kept), dtype=np.int64))
    trainer = whole.train(Arm(name, rows, {}, "", budget=len(train)), True, test)
    models[name] = trainer.model
    return trainer, judged


def finish(
    trainer: Any,
    whole: EntityRun,
    rows: Sequence[Mapping[str, Any]],
    judged: Mapping[str, Any] | None,
    test: datasets.Dataset,
    measure: EntityMeasureArguments,
    started: float,
) -> None:
    """Save checkpoint, card, results and pictures; print the table and what to do next (main process only).

    Args:
        trainer ([`ContrastiveTrainer`]): of the last arm.
        whole ([`EntityRun`]): the run.
        rows: of `entity_table`, the saved model last.
        judged (`Mapping`, *optional*): of `judge_labels`.
        test (`datasets.Dataset`): what was measured.
        measure ([`EntityMeasureArguments`]): whether pictures are drawn.
        started (`float`): `time.time()` at the start.
    """
    if not is_main_process():
        return
    folder, args, pipeline, about = Path(trainer.args.output_dir), trainer.args, whole.pipeline, whole.about
    counts, trained = describe_entities(test), rows[-1]["model"]
    say()
    show_table(
        rows,
        f"{about['name']}: {counts['images']} images of {counts['entities']} entities that training has not seen, %",
    )
    save_run(trainer, pipeline.processor)
    results: dict[str, Any] = {
        "entity_rows": list(rows),
        "trained": trained,
        "entities": about["classes"],
        "test_images": counts["images"],
        "test_entities": counts["entities"],
    }
    if judged is not None:
        results["judged"] = dict(judged)
    write_outcome(
        trainer,
        whole.spec,
        about=about,
        metrics=entity_metrics(rows, trained, about["name"]),
        results=results,
        settings={"views": pipeline.views.describe(), "texts cut": pipeline.processor.num_cut},
        started=started,
        base_model=common.hub_id(whole.towers.pair or whole.towers.vision),
        image_size=pipeline.views.size,
    )
    shown = ("map", "recall@1")
    by_name = {row["model"]: row for row in rows}
    draw = partial(draw_pictures, folder, trainer.model, test, pipeline, about["name"], args.device)
    close_run(
        trainer,
        metrics={name: by_name[trained][name] for name in shown},
        baseline={name: by_name["untrained encoders"][name] for name in shown},
        draw=draw if measure.pictures else None,
        commands={
            "annotate": f"python {whole.spec.recipe}/build_entities.py IMAGES --entities TABLE --clip {folder} -o FOLDER",
            "embed": f"hf-contrastive embed {folder} IMAGES -o embeddings.parquet",
        },
    )


__all__ = [
    "EntityArmArguments",
    "EntityDataArguments",
    "EntityPipeline",
    "EntityRun",
    "describe_data",
    "finish",
    "load_splits",
    "report",
    "run",
    "train_with_wrong_labels",
]
