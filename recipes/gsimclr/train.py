"""G-SimCLR: autoencoder -> k-means pseudo-labels -> guided batches -> NT-Xent, beside SimCLR with random batches.

accelerate launch recipes/gsimclr/train.py recipes/gsimclr/digits.yaml
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field

from transformers import set_seed

from hf_contrastive import (
    ContrastiveTrainer,
    ContrastiveTrainingArguments,
    DistinctLabelBatchSampler,
    PseudoLabeler,
    get_system,
)
from hf_contrastive.models.gsimclr.autoencoder_training import AutoencoderArguments, train_autoencoder
from hf_contrastive.models.gsimclr.data_gsimclr import false_negative_report
from hf_contrastive.recipes import images
from hf_contrastive.recipes.schedules import restarting_cosine
from hf_contrastive.reporting import metrics_table, say
from hf_contrastive.training import parse_recipe_arguments


SPEC = get_system("gsimclr")
EXAMPLE = """accelerate launch recipes/gsimclr/train.py recipes/gsimclr/cifar10.yaml --num_clusters 128
accelerate launch recipes/gsimclr/train.py recipes/gsimclr/digits.yaml --dataset_path my_photos --image_size 32"""

# what stands in the table: the name and which class is saved
ARMS = {
    "random": ("SimCLR", "simclr"),
    "guided": ("G-SimCLR", "gsimclr"),
    "official": ("G-SimCLR, official order", "gsimclr"),
    "oracle": ("true labels as guidance", "gsimclr"),
}


@dataclass
class GuidanceArguments:
    """guidance: pseudo-labels and what is compared"""

    num_clusters: int = field(default=64, metadata={"help": "Clusters of k-means; the paper takes the batch size."})
    cluster_seed: int = field(default=0, metadata={"help": "random_state of k-means."})
    arms: list[str] = field(
        default_factory=lambda: ["random", "guided"],
        metadata={
            "help": "Trained one after the other with equal steps, the last one is the checkpoint: random (SimCLR), guided "
            "(distinct pseudo-labels in every batch), official (order of the published code), oracle (true labels)."
        },
    )
    restart_period: int | None = field(
        default=None,
        metadata={"help": "Cosine decay that restarts, first after that many steps; none = lr_scheduler_type."},
    )
    restart_factor: int = field(
        default=2,
        metadata={"help": "Every period is that many times the one before; 0 = no restart, the rate stays 0."},
    )


def main() -> None:
    # arguments
    data, view, model_arguments, autoencoder, guidance, measure, run, args = parse_recipe_arguments(
        (
            images.DataArguments,
            images.ViewArguments,
            images.ModelArguments,
            AutoencoderArguments,
            GuidanceArguments,
            images.MeasureArguments,
            images.RunArguments,
            ContrastiveTrainingArguments,
        ),
        prog="recipes/gsimclr/train.py",
        description="Train G-SimCLR (https://arxiv.org/abs/2009.12007) and SimCLR side by side, measure, save.",
        example=EXAMPLE,
    )
    started = time.time()
    images.check_choice("arms", guidance.arms, ARMS)
    images.prepare_output(args, run)

    # data and views
    with images.plain_errors():
        everything, test = images.load_splits(data, args.seed)
        train, rare = images.long_tail(everything, data)
        views = images.make_views(view, args.seed)
    pipeline = images.Pipeline.build(views, args.sample_id_column)
    labels = images.labels_of(train)
    if "oracle" in guidance.arms and labels is None:
        raise SystemExit(
            "error: --arms oracle needs a label column; the data has none. Leave it out or name the column."
        )

    # stage 1: denoising autoencoder; stage 2: its features are clustered
    set_seed(args.seed)
    embeds = train_autoencoder(train, views.size, views.channels, autoencoder, args, dry_run=run.dry_run)
    with images.plain_errors():
        train = PseudoLabeler(guidance.num_clusters, guidance.cluster_seed).add_to(train, embeds)
    pseudo_labels = train["pseudo_label"][:]
    batch_size, processes = args.per_device_train_batch_size, args.world_size
    table = false_negative_report(pseudo_labels, labels, batch_size * processes, seed=args.seed)
    metrics_table(
        table, title=f"what guidance does to batches of {batch_size * processes}, {guidance.num_clusters} clusters"
    )

    # stage 3: one run per arm, equal in everything but the order of the images; where nothing is said, SimCLR gets the
    # head of G-SimCLR and not its own
    for name in ("projection_dims", "projection_batch_norm", "temperature"):
        if getattr(model_arguments, name) is None:
            setattr(model_arguments, name, getattr(SPEC.config_class()(), name))
    steps = (
        args.max_steps if args.max_steps > 0 else int(args.num_train_epochs * (len(train) // (batch_size * processes)))
    )
    encoders: dict[str, object] = {"raw pixels": None}
    speeds: dict[str, float | None] = {}
    trainer = None
    for arm in guidance.arms:
        title, slug = ARMS[arm]
        final = arm == guidance.arms[-1]
        arm_args = copy.copy(args)
        arm_args.max_steps = steps
        arm_args.output_dir = args.output_dir if final else f"{args.output_dir}/{arm}"
        set_seed(args.seed)
        with images.plain_errors():
            model = images.make_model(get_system(slug), model_arguments, views)
        encoders.setdefault("untrained encoder", copy.deepcopy(model))
        sampler = None
        if arm != "random":
            sampler = DistinctLabelBatchSampler(
                labels if arm == "oracle" else pseudo_labels,
                batch_size,
                num_processes=processes,
                strict=arm != "official",
                reshuffle=arm != "official",
                seed=args.seed,
            )
        if run.dry_run:
            images.dry_run(model, train, pipeline, sampler)
            continue
        trainer = ContrastiveTrainer(
            model,
            arm_args,
            data_collator=pipeline.train_collator,
            train_dataset=train,
            eval_dataset=test if args.eval_strategy != "no" else None,
            eval_data_collator=pipeline.eval_collator,
            probe_dataset=everything if images.labels_of(test) is not None else None,
            train_batch_sampler=sampler,
            processing_class=pipeline.processor,
        )
        if guidance.restart_period is not None:
            optimizer = trainer.create_optimizer()
            trainer.lr_scheduler = restarting_cosine(optimizer, guidance.restart_period, guidance.restart_factor)
        say(f"\n=== {title} ===")
        images.report(trainer, pipeline, data, train, pseudo_labels)
        images.train_or_load(trainer, arm_args, pipeline.processor, final=final)
        encoders[title] = model
        speeds[title] = images.images_per_second(trainer, views.num_views)
    if trainer is None:
        return

    # what came out
    rows = []
    if images.labels_of(test) is not None and labels is not None:
        rows = images.measure_table(encoders, everything, test, pipeline, measure, args.device, rare)
    images.finish(
        trainer,
        SPEC if guidance.arms[-1] != "random" else get_system("simclr"),
        pipeline,
        rows=rows,
        trained=ARMS[guidance.arms[-1]][0],
        data=data,
        splits=(train, test),
        measure=measure,
        started=started,
        base_model=images.base_model_of(model_arguments),
        extra_results={
            "views_per_second": speeds,
            "guidance": table,
            "num_clusters": guidance.num_clusters,
            "batch_size": batch_size,
        },
    )
    trainer.end()


if __name__ == "__main__":
    main()
