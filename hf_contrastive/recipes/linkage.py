"""Shared by the recipes that link records: data, batches, two stages of training, and what is saved."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import set_seed

from hf_contrastive.data import (
    HardNegativeBatchSampler,
    MPerClassBatchSampler,
    ProcessorTransform,
    RecordCollator,
    ScanViews,
)
from hf_contrastive.distributed import is_distributed, is_main_process
from hf_contrastive.evaluation import mine_hard_negatives
from hf_contrastive.families.dual_encoder.processing_dual_encoder import DualEncoderProcessor
from hf_contrastive.families.dual_encoder.record_encoding import encode_records, pool_records
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
    resume_from,
    save_run,
    several,
    train_or_load,
    write_outcome,
)
from hf_contrastive.recipes.image_texts import (
    TowerArguments,
    make_model,
    make_tokenizer,
    parse_tower_arguments,
    trained_image_processor,
)
from hf_contrastive.recipes.linkage_data import (
    LinkageData,
    LinkageDataArguments,
    describe_data,
    load_splits,
    ocr_noise,
)
from hf_contrastive.recipes.linkage_measures import (
    LinkageMeasureArguments,
    cluster_table,
    encode_models,
    link_metrics,
    link_table,
    show_tables,
)
from hf_contrastive.recipes.schedules import restarting_cosine
from hf_contrastive.registry import SystemSpec
from hf_contrastive.reporting import say
from hf_contrastive.training import (
    ContrastiveTrainer,
    batch_report,
)
from hf_contrastive.training.unwrap import unwrap_model


STAGES = ("alignment", "pooling")
PREPARATIONS = ("firms", "newspapers", "stretch")
AUGMENTATIONS = ("scan", "none")
# added to the seed of a run for what is drawn to measure
_QUERY_SEED = 1000


@dataclass
class LinkageViewArguments:
    """views: how an image is prepared, and changed at every step"""

    preparation: str = option(
        "firms", "firms (padded to a near square), newspapers (central square), stretch (as it is, resized)."
    )
    border: str = option("white", "With firms: the padding is white, or median (of the pixels on the border).")
    image_size: int = option(224, "Side of the images in pixels; with stretch their height.")
    image_width: int | None = option(None, "With stretch: width of the images; none = image_size.")
    augmentation: str = option("none", "none (as in the paper's final results), scan (moved, blurred, noisy).")
    view_options: dict | None = option(None, 'Strengths of scan, as JSON: {"rotate": 3, "blur": 0.5}.')
    scan_queries: bool = option(False, "Measure with queries that are changed by scan, too; known records are not.")


@dataclass
class StageArguments:
    """schedule: the stages that are trained, one after the other; the training group is that of the last stage"""

    stages: list[str] = several(STAGES, "alignment (of images and texts, without labels), pooling (with labels).")
    alignment_epochs: float = option(1.0, "Epochs of the first stage; max_steps holds for both.")
    alignment_learning_rate: float | None = option(None, "Learning rate of the first stage; none = learning_rate.")
    alignment_weight_decay: float | None = option(None, "Weight decay of the first stage; none = weight_decay.")
    alignment_batch_size: int | None = option(None, "Batch of the first stage; none = per_device_train_batch_size.")
    per_label: int = option(3, "Second stage: m, records of each label in a batch.")
    num_passes: int | None = option(None, "Second stage: passes over the labels in an epoch; none = all records.")
    hard_negatives: bool = option(False, "Second stage: batches of labels that the model confuses.")
    group_size: int = option(3, "Of hard negatives: k, a label and its k - 1 nearest ones.")
    remine: bool = option(False, "Of hard negatives: look for them anew at every epoch, not once.")
    all_of_small: bool = option(False, "Of hard negatives: all records of a label with fewer than per_label.")
    restart_period: int | None = option(
        None, "Cosine decay that restarts, first after that many steps; none = lr_scheduler_type."
    )
    restart_factor: int = option(2, "Every period is that many times the one before; 0 = no restart.")


@dataclass
class LinkagePipeline:
    """What turns records into batches.

    Args:
        processor ([`DualEncoderProcessor`]): saved with the checkpoint.
        align_collator, pool_collator ([`RecordCollator`]): of the two stages.
        eval_collator ([`RecordCollator`]): nothing is drawn.
        query_collator ([`RecordCollator`]): of the records that are measured; the same draws every time.
        size (`int`): height of the images.
        channels (`int`): of the images.
        about (`str`): how images are prepared and changed.
    """

    processor: DualEncoderProcessor
    align_collator: RecordCollator
    pool_collator: RecordCollator
    eval_collator: RecordCollator
    query_collator: RecordCollator
    size: int
    channels: int
    about: str

    @property
    def views(self) -> LinkagePipeline:
        """Itself: where the size of the images is looked up."""
        return self

    @classmethod
    def build(
        cls,
        data: LinkageDataArguments,
        view: LinkageViewArguments,
        towers: TowerArguments,
        found: LinkageData,
        args: Any,
        image_processor: Any,
    ) -> LinkagePipeline:
        """Open or learn the tokenizer, and make transforms that fit the encoders."""
        for name, value, known in (
            ("preparation", view.preparation, PREPARATIONS),
            ("augmentation", view.augmentation, AUGMENTATIONS),
        ):
            if value not in known:
                raise ValueError(f"`{name}` is {value!r}; known are: {', '.join(known)}.")
        trained = trained_image_processor(towers.pair or towers.vision)
        statistics: dict[str, Any] = {}
        if trained is not None:
            statistics = {"image_mean": list(trained.image_mean), "image_std": list(trained.image_std)}
        images = make_image_processor(view, image_processor, statistics)
        texts = [text for text in found.train["text"][:] if text]
        words = datasets.Dataset.from_dict({"texts": [[text] for text in texts]})
        processor = DualEncoderProcessor(images, make_tokenizer(towers, words))
        transform = ProcessorTransform(images)
        views: Any = transform
        evaluate = RecordCollator(transform, processor, augment=False, labels=False, mask_duplicates=False)
        query = evaluate
        if view.augmentation == "scan":
            allowed = ScanViews(transform).strengths
            unknown = sorted(set(view.view_options or {}) - set(allowed))
            if unknown:
                raise ValueError(f"`view_options` has {', '.join(unknown)}; known are: {', '.join(allowed)}.")
            views = ScanViews(transform, **(view.view_options or {}), seed=args.seed)
            if view.scan_queries:  # other draws than those of training
                scans = ScanViews(transform, **(view.view_options or {}), seed=args.seed + _QUERY_SEED)
                query = RecordCollator(scans, processor, labels=False, mask_duplicates=False)
        elif view.scan_queries:
            raise ValueError("`scan_queries` goes with augmentation scan; pass --augmentation scan, too.")
        elif view.view_options:
            raise ValueError("`view_options` are strengths of augmentation scan; pass --augmentation scan, too.")
        drawn: dict[str, Any] = {
            "augment": view.augmentation != "none",
            "corrupt": ocr_noise(data, found.train),
            "seed": args.seed,
        }
        about = f"{view.preparation} ({view.border} border)" if view.preparation == "firms" else view.preparation
        about += (
            f", {view.image_size} x {view.image_width or view.image_size}" if view.preparation == "stretch" else ""
        )
        about += f"; {views.describe()}" if view.augmentation == "scan" else "; no augmentation"
        about += ", of what is looked for, too" if view.scan_queries else ""
        return cls(
            processor,
            RecordCollator(views, processor, labels=False, mask_duplicates=data.mask_duplicates, **drawn),
            RecordCollator(views, processor, **drawn),
            evaluate,
            query,
            view.image_size,
            3,
            about,
        )


def make_image_processor(view: LinkageViewArguments, image_processor: Any, statistics: Mapping[str, Any]) -> Any:
    """The image processor that the arguments describe.

    Args:
        view ([`LinkageViewArguments`]): preparation and size.
        image_processor: the class, with `firms` and `newspapers`.
        statistics (`Mapping`): mean and standard deviation of a trained encoder; those of CLIP where it is empty.
    """
    if view.preparation == "firms":
        return image_processor.firms(view.image_size, border=view.border, **statistics)
    if view.preparation == "newspapers":
        return image_processor.newspapers(view.image_size, **statistics)
    size = {"height": view.image_size, "width": view.image_width or view.image_size}
    return image_processor(size=size, crop_size=size, do_center_crop=False, **statistics)


class HardNegativeMiner:
    """Groups of labels for [`HardNegativeBatchSampler`], mined with the model as it is; kept in a folder for a resumed run.

    Args:
        model: what is trained.
        rows (`datasets.Dataset`): records; the first of each label is its exemplar.
        collator ([`RecordCollator`]): without draws.
        k (`int`): labels of a group.
        folder (`Path`): where groups are kept.
        remine (`bool`): groups differ from epoch to epoch.
        device: where to compute.
    """

    def __init__(
        self, model: Any, rows: datasets.Dataset, collator: Any, k: int, folder: Path, remine: bool, device: Any
    ) -> None:
        self.model, self.collator, self.k = model, collator, k
        self.folder, self.remine, self.device = folder, remine, device
        self.labels, first = np.unique(np.asarray(rows["label"][:]), return_index=True)
        self.exemplars = rows.select(first)

    def __call__(self, epoch: int) -> np.ndarray:
        """`[labels, k]` labels, on all processes the same."""
        file = self.folder / (f"epoch-{epoch}.npy" if self.remine else "once.npy")
        found: list[Any] = [None]
        if is_main_process():
            if file.is_file():
                found = [np.load(file)]
            else:
                encoded = encode_records(unwrap_model(self.model), self.exemplars, self.collator, device=self.device)
                weight = float(unwrap_model(self.model).config.image_weight)
                found = [mine_hard_negatives(pool_records(encoded, weight), self.labels, self.k).labels]
                self.folder.mkdir(parents=True, exist_ok=True)
                temporary = file.with_suffix(".tmp.npy")
                np.save(temporary, found[0])
                temporary.replace(file)
        if is_distributed():
            torch.distributed.broadcast_object_list(found, 0)
        return found[0]


def make_sampler(
    stage: StageArguments, args: Any, model: Any, found: LinkageData, pipeline: LinkagePipeline, resumed: bool
) -> Any:
    """Batches of the second stage.

    Args:
        stage ([`StageArguments`]): plain batches, or hard negatives.
        args (`TrainingArguments`): batch size, processes, seed, folder.
        model: what hard negatives are mined with.
        found ([`LinkageData`]): the records.
        pipeline ([`LinkagePipeline`]): embeds exemplars.
        resumed (`bool`): groups that an earlier run has mined are taken.
    """
    labels = np.asarray(found.train["label"][:])
    shared: dict[str, Any] = {"m": stage.per_label, "num_processes": args.world_size, "seed": args.seed}
    batch = args.per_device_train_batch_size
    if not stage.hard_negatives:
        return MPerClassBatchSampler(labels, batch, num_passes=stage.num_passes, **shared)
    folder = Path(args.output_dir) / "hard_negatives"
    if not resumed and is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
    miner = HardNegativeMiner(
        model, found.train, pipeline.eval_collator, stage.group_size, folder, stage.remine, args.device
    )
    options = {"k": stage.group_size, "remine": stage.remine, "all_of_small": stage.all_of_small}
    return HardNegativeBatchSampler(labels, miner, batch, **options, **shared)


def stage_arguments(args: Any, stage: StageArguments, name: str) -> Any:
    """The training arguments of one stage.

    Args:
        args (`TrainingArguments`): of the command, which are those of the second stage.
        stage ([`StageArguments`]): what is different in the first one.
        name (`str`): of `STAGES`.
    """
    own = copy.copy(args)
    if name == "alignment":
        own.num_train_epochs = stage.alignment_epochs
        if stage.alignment_learning_rate is not None:
            own.learning_rate = stage.alignment_learning_rate
        if stage.alignment_weight_decay is not None:
            own.weight_decay = stage.alignment_weight_decay
        if stage.alignment_batch_size is not None:
            own.per_device_train_batch_size = stage.alignment_batch_size
        if stage.stages[-1] != name:
            own.output_dir = f"{args.output_dir}/{name}"
    return own


def report(trainer: Any, found: LinkageData, pipeline: LinkagePipeline, name: str, sampler: Any) -> None:
    """Print what is about to be trained (main process only)."""
    rows = found.train if name == "pooling" else found.aligned
    used = ["image", "text", "index", *(["label"] if name == "pooling" else [])]
    text = batch_report(
        trainer,
        data=found.name,
        loss=loss_text(trainer),
        num_views=2 if name == "alignment" else 1,
        columns_used=used,
        labels=np.asarray(rows["label"][:]).tolist() if name == "pooling" else None,
        ids_masked=True,
        command=command_line(),
    )
    say(text)
    say(f"  images: {pipeline.about}")
    if sampler is not None:
        say(f"  batches: {sampler.describe()}")
    say()


def finish(
    trainer: Any,
    spec: SystemSpec,
    pipeline: LinkagePipeline,
    found: LinkageData,
    *,
    rows: Sequence[Mapping[str, Any]],
    clusters: Sequence[Mapping[str, Any]],
    trained: str,
    about: Mapping[str, Any],
    measure: LinkageMeasureArguments,
    started: float,
    base_model: str | None = None,
) -> None:
    """Save checkpoint, card, results and pictures; print the tables and what to do next (main process only).

    Args:
        trainer ([`ContrastiveTrainer`]): after training.
        spec ([`SystemSpec`]): the system.
        pipeline ([`LinkagePipeline`]): its processor is saved with the weights.
        found ([`LinkageData`]): the data.
        rows, clusters: of `link_table` and `cluster_table`.
        trained (`str`): the row of the saved model.
        about (`Mapping`): of the data, for the card.
        measure ([`LinkageMeasureArguments`]): whether pictures are drawn.
        started (`float`): `time.time()` at the start.
        base_model (`str`, *optional*): hub id that the training started from.
    """
    if not is_main_process():
        return
    folder, args = Path(trainer.args.output_dir), trainer.args
    say()
    show_tables(rows, clusters, found)
    save_run(trainer, pipeline.processor)
    write_outcome(
        trainer,
        spec,
        about=about,
        metrics=link_metrics(rows, clusters, trained, found.name),
        results={
            "link_rows": list(rows),
            "cluster_rows": list(clusters),
            "trained": trained,
            "test_queries": len(found.test.queries),
            "pool": len(found.test.pool),
        },
        settings={"images": pipeline.about, "texts cut": pipeline.processor.num_cut},
        started=started,
        base_model=base_model,
        image_size=pipeline.size,
    )
    by_name = {row["model"]: row for row in rows}
    columns = [column for column in ("image only", "text only", "pooled, chosen w") if column in by_name[trained]]
    untrained = next(iter(by_name.values()))
    close_run(
        trainer,
        metrics={f"{column} accuracy": by_name[trained][column] for column in columns},
        baseline={f"{column} accuracy": untrained[column] for column in columns},
        draw=partial(draw_pictures, folder, trainer.model, found, pipeline, args.device) if measure.pictures else None,
        commands={
            "link": f"hf-contrastive link {folder} RECORDS.csv KNOWN.csv -o matches.parquet",
            "embed": f"hf-contrastive embed {folder} IMAGES -o embeddings.parquet",
        },
    )


def draw_pictures(folder: Path, model: Any, found: LinkageData, pipeline: LinkagePipeline, device: Any) -> list[Path]:
    """Curves, map and similarities of a run, as PNG with the CSV behind each.

    Args:
        folder (`Path`): the run; pictures go to its `plots/`.
        model: the trained model.
        found ([`LinkageData`]): records to show.
        pipeline ([`LinkagePipeline`]): the processor.
        device: where to compute.
    """
    shown = found.test.queries.select(range(min(500, len(found.test.queries))))
    encoded = encode_records(unwrap_model(model), shown, pipeline.eval_collator, device=device)
    both = encoded["has_image"] & encoded["has_text"]
    pairs = (
        {name: encoded[side][both][:64] for name, side in (("z_i", "image"), ("z_j", "text"))} if both.any() else {}
    )
    return draw_run(
        folder,
        embeddings=pool_records(encoded, float(unwrap_model(model).config.image_weight)),
        labels=np.asarray(shown["label"][:]),
        **pairs,
        data=found.name,
    )


def run(spec: SystemSpec, image_processor: Any, *, description: str, example: str) -> None:
    """A whole recipe: arguments, data, model, both stages, measuring, saving.

    Args:
        spec ([`SystemSpec`]): the system whose recipe this is.
        image_processor: class of the image processors, with `firms` and `newspapers`.
        description, example (`str`): for `--help`.
    """
    data, view, towers, objective, stage, measure, run_arguments, args = parse_tower_arguments(
        spec,
        (LinkageDataArguments, LinkageViewArguments, StageArguments, LinkageMeasureArguments),
        "objective: pooling, common space, what is optimised",
        description=description,
        example=example,
    )
    started = time.time()
    check_choice("stages", stage.stages, STAGES)
    prepare_output(args, run_arguments)

    # data
    with plain_errors():
        found = load_splits(data, args.seed)
        pipeline = LinkagePipeline.build(data, view, towers, found, args, image_processor)

    # model
    set_seed(args.seed)
    with plain_errors():
        model = make_model(spec, towers, pipeline, dataclasses.asdict(objective))
    models: dict[str, Any] = {"untrained encoders": copy.deepcopy(model)}  # what training has to beat
    if run_arguments.dry_run:
        if len(found.aligned) > 1:
            batch = pipeline.align_collator([found.aligned[row] for row in range(2)])
        else:  # no record has both sides
            batch = pipeline.pool_collator([found.train[row] for row in range(2)])
        common.dry_run(model, batch)
        return

    # one stage after the other
    trainer: Any = None
    for name in stage.stages:
        final = name == stage.stages[-1]
        own = stage_arguments(args, stage, name)
        sampler = None
        if name == "pooling":
            with plain_errors():
                sampler = make_sampler(stage, own, model, found, pipeline, bool(resume_from(args)))
        trainer = ContrastiveTrainer(
            model,
            own,
            data_collator=pipeline.pool_collator if name == "pooling" else pipeline.align_collator,
            train_dataset=found.train if name == "pooling" else found.aligned,
            train_batch_sampler=sampler,
            processing_class=pipeline.processor,
        )
        if stage.restart_period is not None:
            trainer.lr_scheduler = restarting_cosine(
                trainer.create_optimizer(), stage.restart_period, stage.restart_factor
            )
        say(f"\n=== {name} ===")
        report(trainer, found, pipeline, name, sampler)
        train_or_load(trainer, own, pipeline.processor, final=final)
        models[spec.title if final else f"after {name}"] = model if final else copy.deepcopy(model)

    # what came out
    encoded = encode_models(models, found, pipeline, args.device)
    rows, clusters = (table(encoded, found, measure) for table in (link_table, cluster_table))
    finish(
        trainer,
        spec,
        pipeline,
        found,
        rows=rows,
        clusters=clusters,
        trained=spec.title,
        about=describe_data(data, found),
        measure=measure,
        started=started,
        base_model=common.hub_id(towers.pair or towers.vision),
    )
    trainer.end()


__all__ = [
    "HardNegativeMiner",
    "LinkagePipeline",
    "LinkageViewArguments",
    "StageArguments",
    "make_image_processor",
    "make_sampler",
    "run",
]
