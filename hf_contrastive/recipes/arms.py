"""The recipe of systems that train an encoder on views of images, alone or beside others on the same data and budget."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import set_seed

from hf_contrastive.families.siamese.configuration_siamese import SiameseConfig
from hf_contrastive.recipes import images
from hf_contrastive.recipes.common import configuration_arguments
from hf_contrastive.registry import SystemSpec, get_system
from hf_contrastive.reporting import say
from hf_contrastive.training import ContrastiveTrainer, ContrastiveTrainingArguments, parse_recipe_arguments


@dataclass(frozen=True)
class Arm:
    """One encoder of a comparison.

    Args:
        title (`str`): its name in the table.
        slug (`str`): the system.
        fields (`Mapping`): fields of the system's configuration that make this arm; they win over the command line.
        num_views (`int`, *optional*): views of each image, where they differ from `--num_views`; the number of steps is
            changed so that every arm sees as many views in all (as many pixels, with local crops).
        crops (`bool`, defaults to `True`): with the local crops of `--num_local_views`, if the system takes any.
    """

    title: str
    slug: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    num_views: int | None = None
    crops: bool = True


def objective_arguments(specs: Sequence[SystemSpec]) -> type:
    """An argument group with the fields of the systems' configurations that no other group has.

    Args:
        specs (`Sequence[SystemSpec]`): the systems; a field of several has the help of the first.

    Returns:
        A dataclass for `parse_recipe_arguments`.
    """
    taken = {one.name for one in dataclasses.fields(SiameseConfig)}
    taken |= {one.name for one in dataclasses.fields(images.ModelArguments)} | {"num_samples"}
    return configuration_arguments(specs, taken, "objective: what is optimised")


def run(
    spec: SystemSpec,
    *,
    description: str,
    example: str,
    arms: Mapping[str, Arm] | None = None,
    default_arms: Sequence[str] = (),
    prepare: Mapping[str, Callable[..., Sequence[Any]]] | None = None,
) -> None:
    """A whole recipe: arguments, data, every arm trained and measured, the last one saved.

    Args:
        spec ([`SystemSpec`]): the system whose recipe this is.
        description, example (`str`): for `--help`.
        arms (`Mapping[str, Arm]`, *optional*): what can be compared, by the word for `--arms`; by default the system alone.
        default_arms (`Sequence[str]`): trained where `--arms` says nothing; the last one is the checkpoint. By default the
            last of `arms`.
        prepare (`Mapping`, *optional*): by slug, a function of `(model, dataset, pipeline)` that returns the callbacks which
            that system's training needs; one with a method `on_dry_run(model)` is told of a dry run instead.
    """
    arms = arms or {spec.slug: Arm(spec.title, spec.slug)}
    default = list(default_arms) or [list(arms)[-1]]
    systems = {slug: get_system(slug) for slug in dict.fromkeys([spec.slug, *(arm.slug for arm in arms.values())])}
    comparison = _arm_arguments(arms, default)
    data, view, model_arguments, objective, measure, chosen, run_arguments, args = parse_recipe_arguments(
        (
            images.DataArguments,
            images.ViewArguments,
            images.ModelArguments,
            objective_arguments(list(systems.values())),
            images.MeasureArguments,
            comparison,
            images.RunArguments,
            ContrastiveTrainingArguments,
        ),
        prog=f"{spec.recipe}/train.py",
        description=description,
        example=example,
    )
    started = time.time()
    images.check_choice("arms", chosen.arms, arms)
    images.prepare_output(args, run_arguments)

    # data and views
    with images.plain_errors():
        everything, test = images.load_splits(data, args.seed)
        train, rare = images.long_tail(everything, data)
        views = images.make_views(view, args.seed)
    pipeline = images.Pipeline.build(views, args.sample_id_column)
    labelled = images.labels_of(test) is not None and not data.streaming
    given = {name: value for name, value in dataclasses.asdict(objective).items() if value is not None}
    if args.sample_id_column and not any(
        systems[arms[name].slug].pretraining_class().has_negatives for name in chosen.arms
    ):
        images.stop(f"--sample_id_column marks false negatives, but {spec.title} has no negatives; leave it out.")

    encoders: dict[str, Any] = {"raw pixels": None}
    speeds: dict[str, float | None] = {}
    trainer, own = None, pipeline
    for name in chosen.arms:
        arm = arms[name]
        final = name == chosen.arms[-1]
        # another system of the comparison may have no use for local crops
        crops = arm.crops and (arm.slug == spec.slug or images.takes_local_crops(systems[arm.slug]))
        own = pipeline
        if arm.num_views is not None or (view.num_local_views and not crops):
            own = _with_views(view, arm.num_views or view.num_views, crops, args)
        arm_args = copy.copy(args)
        if own is not pipeline:
            arm_args.max_steps = _equal_budget(args, train, views.full_views, own.views.full_views)
        arm_args.output_dir = args.output_dir if final else f"{args.output_dir}/{name}"
        set_seed(args.seed)
        with images.plain_errors():
            fields = _fields_of(systems[arm.slug], given, arm, train)
            model = images.make_model(
                systems[arm.slug], _for_system(model_arguments, systems[arm.slug]), own.views, fields
            )
        # the copy is what training has to beat
        encoders.setdefault("untrained encoder", copy.deepcopy(model))
        callbacks = list(prepare[arm.slug](model, train, own)) if prepare and arm.slug in prepare else []
        if run_arguments.dry_run:
            for callback in callbacks:  # what training would do first, done cheaply
                getattr(callback, "on_dry_run", lambda model: None)(model)
            images.dry_run(model, train, own)
            continue
        trainer = ContrastiveTrainer(
            model,
            arm_args,
            data_collator=own.train_collator,
            train_dataset=train,
            eval_dataset=test if args.eval_strategy != "no" else None,
            eval_data_collator=own.eval_collator,
            probe_dataset=everything if labelled else None,
            processing_class=own.processor,
            callbacks=callbacks,
        )
        if len(chosen.arms) > 1:
            say(f"\n=== {arm.title} ===")
        images.report(trainer, own, data, train, images.labels_of(train))
        images.train_or_load(trainer, arm_args, own.processor, final=final)
        encoders[arm.title] = model
        speeds[arm.title] = images.images_per_second(trainer, own.views.full_views)
    if trainer is None:
        return

    # what came out
    rows = []
    if labelled:
        rows = images.measure_table(encoders, everything, test, own, measure, args.device, rare)
    last = arms[chosen.arms[-1]]
    images.finish(
        trainer,
        systems[last.slug],
        own,
        rows=rows,
        trained=last.title,
        data=data,
        splits=(train, test),
        measure=measure,
        started=started,
        base_model=images.base_model_of(model_arguments),
        extra_results={"views_per_second": speeds},
    )
    trainer.end()


def _arm_arguments(arms: Mapping[str, Arm], default: list[str]) -> type:
    known = "; ".join(f"{name} ({arm.title})" for name, arm in arms.items())
    text = f"Trained one after the other on as many views, the last one is the checkpoint. Known: {known}."
    group = dataclasses.make_dataclass(
        "ArmArguments",
        [("arms", list[str], field(default_factory=lambda: list(default), metadata={"help": text}))],
    )
    group.__doc__ = "comparison: what is trained beside"
    return group


def _with_views(view: Any, num_views: int, crops: bool, args: Any) -> images.Pipeline:
    changed = dataclasses.replace(view, num_views=num_views, num_local_views=view.num_local_views if crops else 0)
    return images.Pipeline.build(images.make_views(changed, args.seed), args.sample_id_column)


def _equal_budget(args: Any, train: Any, views: float, own_views: float) -> int:
    """Steps after which an arm with other views has seen as many of them (as many pixels, with local crops)."""
    batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    steps = args.max_steps if args.max_steps > 0 else int(args.num_train_epochs * (len(train) // batch))
    return max(1, round(steps * views / own_views))


def _fields_of(spec: SystemSpec, given: Mapping[str, Any], arm: Arm, train: Any) -> dict[str, Any]:
    known = {one.name for one in dataclasses.fields(spec.config_class())}
    fields = {name: value for name, value in given.items() if name in known}
    if "num_samples" in known:  # memory banks have a row for every image
        if not hasattr(train, "__len__"):
            raise ValueError(
                f"{spec.title} keeps a row for every image, which streamed data does not tell; leave out --streaming."
            )
        fields["num_samples"] = len(train)
    return {**fields, **arm.fields}


def _for_system(model: Any, spec: SystemSpec) -> Any:
    """Settings of another system in the comparison do not disturb one without them."""
    known = {one.name for one in dataclasses.fields(spec.config_class())}
    return model if "temperature" in known else dataclasses.replace(model, temperature=None)


__all__ = ["Arm", "objective_arguments", "run"]
