"""Shared by the recipes that train dual encoders on narrated videos, or on clips and images with noisy captions in their place."""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from hf_contrastive.data import (
    ClipEvalCollator,
    NarrationClips,
    NarrationCollator,
    NoisyCaptions,
    ProcessorTransform,
    SimCLRViews,
    SquareCropViews,
    image_processor,
    load_narrations,
    make_glyph_clips,
)
from hf_contrastive.data.image_texts import text_ids
from hf_contrastive.data.narrations import list_narration_splits
from hf_contrastive.families.dual_encoder.processing_dual_encoder import DualEncoderProcessor
from hf_contrastive.recipes import common, image_texts
from hf_contrastive.recipes.common import (
    check_choice,
    command_line,
    loss_text,
    option,
    plain_errors,
    prepare_output,
    several,
    train_or_load,
)
from hf_contrastive.recipes.image_measures import labels_of
from hf_contrastive.recipes.image_text_measures import (
    ImageTextMeasureArguments,
    column_title,
    encode_pairs,
    measure_table,
    recalls,
)
from hf_contrastive.recipes.image_texts import (
    VIEW_PRESETS,
    ImageTextDataArguments,
    ImageTextViewArguments,
    TowerArguments,
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


PRESETS = {"clips": SquareCropViews.clips, **VIEW_PRESETS}
#: further models of a comparison: what tables call them, and the fields of the configuration that they change
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "info_nce": ("InfoNCE alone", {"objective": "info_nce"}),
    "paper": ("InfoNCE + MIL-NCE", {"objective": "paper"}),
    "paper_cosine": ("InfoNCE + MIL-NCE on cosines", {"objective": "paper", "normalize_mil": True}),
    "released": ("released objective", {"objective": "released"}),
}
_GLYPH_SPLITS = ("train", "test")
#: measures that are repeated over seeds, in the order of the table
_COMPARED = ("image_to_text", "text_to_image", "linear")


@dataclass
class NarrationDataArguments(ImageTextDataArguments):
    """data: where the clips, their sentences and the second transcript come from"""

    dataset_path: str = option(
        "glyphs",
        "'glyphs' (clips drawn by this library), a folder of narrated videos (with splits/, videos/ and two folders of transcripts), or "
        "images with texts as for the other dual encoders: .csv, .jsonl, .parquet, a folder, a hub id.",
    )
    text_columns: list[str] | None = option(
        None, "Columns of the texts, each a text or a list: the first text is the caption. Found by itself."
    )
    sentences: bool = option(False, "Cut the texts into sentences, of which the first is the caption.")
    num_texts: int = option(2, "Texts of the second transcript for each clip.")
    drop_words: float = option(0.5, "Without transcripts: share of the words that captions lose.")
    anchor_folder: str = option("aws_narration_texts", "Of videos: folder of the clips' own transcript.")
    other_folder: str = option("whisper_narration_texts", "Of videos: folder of the second transcript.")
    rows_per: str = option("video", "Of videos: an epoch draws one sentence a 'video', or takes every 'sentence'.")
    clip_seconds: list[int] = several([3, 5], "Of videos: shortest and longest clip.")
    clip_fps: float = option(2.0, "Of videos: frames a second that are read.")


@dataclass
class NarrationViewArguments(ImageTextViewArguments):
    """views: how clips are changed at every step"""

    image_size: int = option(336, "Side of the frames in pixels.")
    augmentation: str = option("clips", f"Preset, the same for all frames of a clip: {', '.join(PRESETS)}.")
    augmented_options: dict | None = option(
        None, "Changes to SimCLR's augmentation of the two further clips (objective released), as JSON."
    )


@dataclass
class NarrationMeasureArguments(ImageTextMeasureArguments):
    """measuring: what stands in the table at the end"""

    compare: list[str] = several([], f"Also train from the same start with these objectives: {', '.join(ARMS)}.")


def load_splits(data: NarrationDataArguments, num_frames: int, seed: int) -> tuple[Any, Any]:
    """Training rows and test rows; no test rows where there are none to be had.

    Args:
        data ([`NarrationDataArguments`]): where from.
        num_frames (`int`): frames of a clip.
        seed (`int`): of the draws.

    Returns:
        `(NarrationClips or NoisyCaptions, NarrationClips, datasets.Dataset or None)`.
    """
    noisy = {"num_texts": data.num_texts, "drop": data.drop_words, "seed": seed}
    if data.dataset_path == "glyphs":
        for name in (data.train_split, data.test_split):
            if name not in _GLYPH_SPLITS:
                raise ValueError(f"split {name!r} not found; the built-in clips have {', '.join(_GLYPH_SPLITS)}.")
        train, test = (make_glyph_clips(name, num_frames) for name in (data.train_split, data.test_split))
        train, test = _limit(train, data.max_train_samples, seed), _limit(test, data.max_test_samples, seed)
        return NoisyCaptions(train, **noisy), test
    known = list_narration_splits(data.dataset_path)
    if not known:
        train, test = image_texts.load_splits(data, seed)
        return NoisyCaptions(train, **noisy), test
    if len(data.clip_seconds) != 2:
        raise ValueError(
            f"`clip_seconds` is {data.clip_seconds}, expected two numbers: the shortest and the longest clip."
        )
    options: dict[str, Any] = {
        "num_frames": num_frames,
        "num_texts": data.num_texts,
        "lengths": tuple(data.clip_seconds),
        "fps": data.clip_fps,
        "seed": seed,
    }
    folders = {"anchor": data.anchor_folder, "other": data.other_folder}
    videos = load_narrations(data.dataset_path, data.train_split, **folders)
    train = NarrationClips(videos, per=data.rows_per, **options)  # ty: ignore[invalid-argument-type]
    if data.test_split not in known:
        say(
            f"{data.dataset_path} has no split {data.test_split!r} (found: {', '.join(known)}), so nothing is measured at the end; pass "
            "--test_split."
        )
        return _limit(train, data.max_train_samples, seed), None
    test = NarrationClips(load_narrations(data.dataset_path, data.test_split, **folders), draw=False, **options)
    return _limit(train, data.max_train_samples, seed), _limit(test, data.max_test_samples, seed)


def _limit(rows: Any, count: int | None, seed: int) -> Any:
    if count is None or count >= len(rows):
        return rows
    return rows.select(np.sort(np.random.RandomState(seed).permutation(len(rows))[:count]))


@dataclass
class NarrationPipeline:
    """What turns rows into batches.

    Args:
        views ([`SimCLRViews`]): the random view of a clip.
        processor ([`DualEncoderProcessor`]): saved with the checkpoint.
        train_collator, eval_collator: for training and for measuring.
    """

    views: SimCLRViews
    processor: DualEncoderProcessor
    train_collator: NarrationCollator
    eval_collator: ClipEvalCollator

    @classmethod
    def build(
        cls,
        data: NarrationDataArguments,
        view: NarrationViewArguments,
        towers: TowerArguments,
        train: Any,
        args: Any,
        *,
        objectives: Sequence[str],
        text_length: int | None = None,
    ) -> NarrationPipeline:
        """Open or learn the tokenizer, and make transforms that fit the encoders.

        Args:
            data, view, towers: arguments.
            train: the training rows, whose texts a new tokenizer learns from.
            args (`TrainingArguments`): seed and id column.
            objectives (`Sequence[str]`): what is trained; says whether augmented clips are made.
            text_length (`int`, *optional*): tokens of the longest text that the model takes.
        """
        images = trained_image_processor(towers.pair or towers.vision)
        views = make_views(view, images, args.seed, PRESETS)
        if images is None:
            images = image_processor(views.size, views.mean, views.std)
        tokenizer = make_tokenizer(towers, _Texts(train))  # ty: ignore[invalid-argument-type]
        if text_length is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, text_length)
        processor = DualEncoderProcessor(images, tokenizer)
        options: dict[str, Any] = {
            "mask_duplicates": data.mask_duplicates,
            "sample_id_column": args.sample_id_column,
            "augment": cls._augment(view, views, args.seed) if "released" in objectives else None,
            "others": set(objectives) != {"info_nce"},
        }
        args.sample_id_column = None  # the collator has read it
        evaluate = ClipEvalCollator(ProcessorTransform(images), processor)
        return cls(views, processor, NarrationCollator(views, processor, **options), evaluate)

    @staticmethod
    def _augment(view: NarrationViewArguments, views: SimCLRViews, seed: int) -> SimCLRViews:
        # brightness, contrast and saturation by 0.4, hue by 0.1, as in the published code
        fields: dict[str, Any] = {
            "jitter_strength": 0.5,
            "mean": views.mean,
            "std": views.std,
            "channels": views.channels,
        }
        changes = {**fields, "seed": seed, "first_view": 1, **(view.augmented_options or {})}
        unknown = sorted(set(changes) - set(SimCLRViews(view.image_size).to_dict()))
        if unknown:
            known = ", ".join(sorted(SimCLRViews(view.image_size).to_dict()))
            raise ValueError(f"`augmented_options` has {', '.join(unknown)}; known are: {known}.")
        return SimCLRViews.imagenet(view.image_size, **{**changes, "num_views": 2})


class _Texts:
    """The texts that a tokenizer learns from, as [`make_tokenizer`] reads them."""

    def __init__(self, train: Any) -> None:
        self.train = train

    def __getitem__(self, column: str) -> Any:
        if isinstance(self.train, NarrationClips):
            return [list(video.anchor.texts + video.other.texts) for video in self.train.videos]
        return self.train.rows[column]


def with_fields(model: Any, fields: Mapping[str, Any]) -> Any:
    """A copy of a model, with the same weights, that optimises something else.

    Args:
        model: a `ForPreTraining` model, possibly wrapped by PEFT.
        fields (`Mapping`): of its configuration, such as `objective`.
    """
    other = copy.deepcopy(model)
    inner = other.get_base_model() if hasattr(other, "peft_config") else other
    for name, value in fields.items():
        setattr(inner.config, name, value)
    return other


def describe_data(data: NarrationDataArguments, train: Any) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    if isinstance(train, NarrationClips):
        sentences = sum(len(video.anchor) for video in train.videos)
        others = sum(len(video.other) for video in train.videos)
        return {
            "name": Path(data.dataset_path).name,
            "split": data.train_split,
            "rows": len(train),
            "columns": {
                "frames": f"{train.num_frames} a clip, of {len(train.videos)} videos",
                "anchor": f"{sentences} sentences of {data.anchor_folder}",
                "others": f"{data.num_texts} a clip, of {others} sentences of {data.other_folder}",
            },
            "example": train.texts[0],
        }
    about = image_texts.describe_data(data, train.rows)
    columns = about["columns"]
    columns["texts"] = (
        f"the first one, of which each word is left out with probability {train.drop:g}, is the anchor; {train.num_texts} others, drawn "
        "from it in the same way and from the rest"
    )
    if data.dataset_path == "glyphs":
        columns["frames"] = columns.pop("image").replace("the images", "clips of letters and digits that move")
        about["name"] = "drawn glyph clips"
        about["description"] = (
            "Clips of drawn letters and digits in five colours on black, small or large, that move along a line, with captions; the test "
            "part holds other clips of the same."
        )
    return about


def report(trainer: Any, data: NarrationDataArguments, pipeline: NarrationPipeline, train: Any) -> None:
    """Print what is about to be trained (main process only)."""
    collator = pipeline.train_collator
    used = ["frames", "image", "texts", "anchor", "others", "index", collator.sample_id_column]
    if isinstance(train, NarrationClips):
        anchors = [train.plan(row)["anchor"] for row in range(len(train))]
        texts = [text for video in train.videos[:20] for text in video.anchor.texts]
    else:
        pairs = zip(train.rows["texts"][:], train.rows["index"][:], strict=True)
        anchors = [train.say(own, int(index))["anchor"] for own, index in pairs]
        texts = [one for row in train.rows["texts"][:200] for one in row]
    text = batch_report(
        trainer,
        data=describe_data(data, train)["name"],
        loss=loss_text(trainer),
        num_views=2,
        columns_used=[column for column in used if column],
        labels=text_ids(anchors).tolist(),
        ids_masked=collator.mask_duplicates or collator.sample_id_column is not None,
        command=command_line(),
    )
    say(text)
    say(f"  views: {pipeline.views.describe()}")
    if collator.augment is not None:
        say(f"  augmented clips: {getattr(collator.augment, 'describe', lambda: 'two')()}")
    lengths = [len(ids) for ids in pipeline.processor.tokenizer(texts)["input_ids"]]
    say(
        f"  texts: {len(pipeline.processor.tokenizer)} tokens known, {np.mean(lengths):.1f} a text (longest of {len(texts)}: "
        f"{max(lengths)}, cut at {pipeline.processor.tokenizer.model_max_length}); {data.num_texts} of the second transcript a clip\n"
    )


def measure_models(
    models: Mapping[str, Any],
    train: Any,
    test: Any,
    pipeline: NarrationPipeline,
    measure: NarrationMeasureArguments,
    device: Any,
) -> list[dict[str, Any]]:
    """One row a model: retrieval both ways, and with labels zero-shot classes and linear probes.

    Args:
        models (`Mapping`): by the name in the table; the first is untrained.
        train, test: of [`load_splits`].
        pipeline ([`NarrationPipeline`]): the processor.
        measure ([`NarrationMeasureArguments`]): what to measure.
        device: where to compute.
    """
    if not isinstance(test, NarrationClips):
        rows = train.rows if isinstance(train, NoisyCaptions) else train
        return measure_table(models, rows, test, pipeline, measure, device)  # ty: ignore[invalid-argument-type]
    found = []
    for name, model in models.items():
        encoded = encode_pairs(model, test, pipeline.eval_collator, batch_size=16, device=device)
        found.append({"model": name, **recalls(encoded, test.texts, measure.recall_ks)})
    return found


def measured(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table as `recipes/run_seeds.py` repeats it over seeds.

    Args:
        rows: of [`measure_models`].
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name.partition("@")[0] in _COMPARED))
    columns = [[name, f"{column_title(name)} %", 100, 1] for name in sorted(names, key=_place)]
    compared = [name for name in names if name.endswith("@5")]
    return [{"title": "Clips and texts", "columns": columns, "rows": list(rows), "compared": compared}]


def _place(name: str) -> tuple[int, float]:
    kind, _, cut = name.partition("@")
    return _COMPARED.index(kind), float(cut.partition("%")[0])


def run(spec: SystemSpec, *, description: str, example: str) -> None:
    """A whole recipe: arguments, data, models, training, measuring, saving.

    Args:
        spec ([`SystemSpec`]): the system whose recipe this is.
        description, example (`str`): for `--help`.
    """
    data, view, towers, objective, measure, run_arguments, args = parse_tower_arguments(
        spec,
        (NarrationDataArguments, NarrationViewArguments, NarrationMeasureArguments),
        "method: pooling, common space, what is optimised",
        description=description,
        example=example,
    )
    started = time.time()
    if measure.compare:
        check_choice("compare", measure.compare, ARMS)
    with plain_errors():
        measure.check()
    prepare_output(args, run_arguments)
    fields = dataclasses.asdict(objective)
    config: Any = spec.config_class()
    main_objective = fields["objective"] or config.objective

    # data
    with plain_errors(), warnings.catch_warnings():
        warnings.simplefilter("always")
        train, test = load_splits(data, fields["num_frames"] or config.num_frames, args.seed)
        words = (fields["text_pooling"] or config.text_pooling) == "word_sum"
        length = fields["text_length"] or config.text_length if words else None
        objectives = [*(ARMS[arm][1]["objective"] for arm in measure.compare), main_objective]
        pipeline = NarrationPipeline.build(data, view, towers, train, args, objectives=objectives, text_length=length)

    # model
    set_seed(args.seed)
    with plain_errors():
        model = make_model(spec, towers, pipeline, fields)
    untrained = copy.deepcopy(model)  # what training has to beat
    if run_arguments.dry_run:
        batch = pipeline.train_collator([train[row] for row in range(2)])
        common.dry_run(model, batch)
        return

    # one arm after the other, the main one at the end
    models, trainer = {"untrained encoders": untrained}, None
    for name in [*dict.fromkeys(measure.compare), None]:
        title, changed = (spec.title, {}) if name is None else ARMS[name]
        own = args if name is None else dataclasses.replace(args, output_dir=str(Path(args.output_dir) / name))
        arm = model if name is None else with_fields(untrained, changed)
        trainer = ContrastiveTrainer(
            arm.train(),
            own,
            data_collator=pipeline.train_collator,
            train_dataset=train,
            eval_dataset=test if args.eval_strategy != "no" else None,
            eval_data_collator=pipeline.eval_collator,
            probe_dataset=train.rows if isinstance(train, NoisyCaptions) and labels_of(test) is not None else None,
            processing_class=pipeline.processor,
        )
        if measure.compare:
            say(f"\n=== {title} ===")
        report(trainer, data, pipeline, train)
        train_or_load(trainer, own, pipeline.processor, final=name is None)
        models[title] = arm

    # what came out
    rows: list[dict[str, Any]] = []
    if test is not None:
        rows = measure_models(models, train, test, pipeline, measure, args.device)
    about = describe_data(data, train)
    counted = f"{about['rows']} training rows, {len(test) if test is not None else 0} test rows"
    image_texts.finish(
        trainer,
        spec,
        pipeline,  # ty: ignore[invalid-argument-type]
        rows=rows,
        data=data,
        splits=(train, test),
        measure=measure,
        started=started,
        base_model=common.hub_id(towers.pair or towers.vision),
        about=about,
        results={"measured": measured(rows), "about": counted} if rows else {},
    )
    assert trainer is not None
    trainer.end()


__all__ = [
    "ARMS",
    "NarrationDataArguments",
    "NarrationMeasureArguments",
    "NarrationPipeline",
    "NarrationViewArguments",
    "describe_data",
    "load_splits",
    "measure_models",
    "report",
    "run",
    "with_fields",
]
