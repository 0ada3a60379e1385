"""SimCLR: train an image encoder without labels, measure it, save it.

accelerate launch recipes/simclr/train.py recipes/simclr/digits.yaml
"""

from __future__ import annotations

import copy
import time

from transformers import set_seed

from hf_contrastive import ContrastiveTrainer, ContrastiveTrainingArguments, get_system
from hf_contrastive.recipes import images
from hf_contrastive.training import parse_recipe_arguments


SPEC = get_system("simclr")
EXAMPLE = """accelerate launch recipes/simclr/train.py recipes/simclr/cifar10.yaml --temperature 0.2
accelerate launch recipes/simclr/train.py --dataset_path my_photos --backbone vit --image_size 96 --augmentation imagenet"""


def main() -> None:
    # arguments
    data, view, model_arguments, measure, run, args = parse_recipe_arguments(
        (
            images.DataArguments,
            images.ViewArguments,
            images.ModelArguments,
            images.MeasureArguments,
            images.RunArguments,
            ContrastiveTrainingArguments,
        ),
        prog="recipes/simclr/train.py",
        description="Train SimCLR (https://arxiv.org/abs/2002.05709) on images, measure the features, save the encoder.",
        example=EXAMPLE,
    )
    started = time.time()
    images.prepare_output(args, run)

    # data and views
    with images.plain_errors():
        train, test = images.load_splits(data, args.seed)
        views = images.make_views(view, args.seed)
    pipeline = images.Pipeline.build(views, args.sample_id_column)
    labelled = images.labels_of(test) is not None and not data.streaming

    # model; the copy is what training has to beat
    set_seed(args.seed)
    with images.plain_errors():
        model = images.make_model(SPEC, model_arguments, views)
    untrained = copy.deepcopy(model)
    if run.dry_run:
        images.dry_run(model, train, pipeline)
        return

    # trainer
    trainer = ContrastiveTrainer(
        model,
        args,
        data_collator=pipeline.train_collator,
        train_dataset=train,
        eval_dataset=test if args.eval_strategy != "no" else None,
        eval_data_collator=pipeline.eval_collator,
        probe_dataset=train if labelled else None,
        processing_class=pipeline.processor,
    )
    images.report(trainer, pipeline, data, train, images.labels_of(train))
    trainer.train(resume_from_checkpoint=images.resume_from(args))

    # what came out
    rows = []
    if labelled:
        encoders = {"raw pixels": None, "untrained encoder": untrained, "SimCLR": model}
        rows = images.measure_table(encoders, train, test, pipeline, measure, args.device)
    images.finish(
        trainer,
        SPEC,
        pipeline,
        rows=rows,
        trained="SimCLR",
        data=data,
        splits=(train, test),
        measure=measure,
        started=started,
        base_model=images.base_model_of(model_arguments),
    )
    trainer.end()


if __name__ == "__main__":
    main()
