"""Code clones: train an encoder of programs with SimCLR, MoCo or SwAV on pairs that do the same, measure retrieval, save.

accelerate launch recipes/code_clone/train.py recipes/code_clone/programs.yaml
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field

from transformers import set_seed

from hf_contrastive import ContrastiveTrainer, ContrastiveTrainingArguments, get_system
from hf_contrastive.data import ProgramPairs
from hf_contrastive.recipes import common, programs
from hf_contrastive.reporting import say
from hf_contrastive.training import parse_recipe_arguments


SPEC = get_system("code_clone")
EXAMPLE = """accelerate launch recipes/code_clone/train.py recipes/code_clone/programs.yaml --encoder graph --arms simclr
accelerate launch recipes/code_clone/train.py recipes/code_clone/poj104.yaml --dataset_path POJ104/ProgramData \\
    --codexglue_split true
accelerate launch recipes/code_clone/train.py --dataset_path my_solutions --test_fraction 0.2 \\
    --backbone microsoft/codebert-base --lora_rank 16 --max_length 256 --max_steps 2000 --output_dir out/mine"""
#: name of an arm -> its title in tables
ARMS = {"simclr": "SimCLR", "moco": "MoCo", "swav": "SwAV"}


@dataclass
class ArmArguments:
    """comparison: what is trained"""

    arms: list[str] = field(
        default_factory=lambda: ["simclr"],
        metadata={"help": "simclr, moco, swav; several are trained in turn on the same pairs, the last one is kept."},
    )
    moco_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of MoCo, where it differs; the official code takes 0.03."}
    )
    moco_weight_decay: float | None = field(
        default=None, metadata={"help": "Weight decay of MoCo, where it differs; the official code takes 1e-4."}
    )


def main() -> None:
    # arguments
    data, model_arguments, comparison, measure, run, args = parse_recipe_arguments(
        (
            programs.ProgramDataArguments,
            programs.ProgramModelArguments,
            ArmArguments,
            programs.ProgramMeasureArguments,
            common.RunArguments,
            ContrastiveTrainingArguments,
        ),
        prog="recipes/code_clone/train.py",
        description="Train an encoder of programs for clone detection (https://arxiv.org/abs/2206.08726), measure, save.",
        example=EXAMPLE,
    )
    started = time.time()
    common.check_choice("arms", comparison.arms, ARMS)
    common.prepare_output(args, run)

    # data
    with common.plain_errors():
        splits = programs.load_splits(data)
        pipeline = programs.ProgramPipeline.build(model_arguments, data, splits, args.seed)
    batch = args.per_device_train_batch_size * args.world_size
    steps = args.max_steps if args.max_steps > 0 else int(args.num_train_epochs * max(1, len(pipeline.train) // batch))

    # one run an arm, alike in everything but the objective: the same pairs in the same order
    encoders: dict[str, object] = {}
    trainer, title = None, ""
    for arm in comparison.arms:
        final = arm == comparison.arms[-1]
        title = ARMS[arm]
        arm_args = copy.copy(args)
        arm_args.max_steps = steps
        arm_args.output_dir = args.output_dir if final else f"{args.output_dir}/{arm}"
        if arm == "moco":
            arm_args.learning_rate = comparison.moco_learning_rate or args.learning_rate
            if comparison.moco_weight_decay is not None:
                arm_args.weight_decay = comparison.moco_weight_decay
        set_seed(args.seed)
        with common.plain_errors():
            model = programs.make_model(SPEC, model_arguments, pipeline.processor, {"ssl": arm})
            sampler = pipeline.sampler(arm_args, steps)
        encoders.setdefault("untrained encoder", copy.deepcopy(model))
        if run.dry_run:
            programs.dry_run(model, pipeline, args)
            continue
        trainer = ContrastiveTrainer(
            model,
            arm_args,
            data_collator=pipeline.train_collator,
            train_dataset=ProgramPairs(pipeline.train),
            eval_dataset=pipeline.test if args.eval_strategy != "no" else None,
            eval_data_collator=pipeline.eval_collator,
            train_batch_sampler=sampler,
            processing_class=pipeline.processor,
        )
        say(f"\n=== {title} ===")
        programs.report(trainer, data, pipeline)
        common.train_or_load(trainer, arm_args, pipeline.processor, final=final)
        encoders[title] = model
    if trainer is None:
        return

    # what came out
    rows = []
    if pipeline.test is not None:
        rows = programs.measure_table(encoders, pipeline.test, pipeline, measure, args.device)
    checkpoint = model_arguments.backbone is not None
    programs.finish(
        trainer,
        SPEC,
        pipeline,
        rows=rows,
        trained=title,
        data=data,
        measure=measure,
        started=started,
        base_model=common.base_model_of(model_arguments) if checkpoint else None,
    )
    trainer.end()


if __name__ == "__main__":
    main()
