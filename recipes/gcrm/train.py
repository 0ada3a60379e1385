"""Goal-conditioned reward model: train it on preference pairs, measure what reward and Q-values tell, save it.

accelerate launch recipes/gcrm/train.py recipes/gcrm/arithmetic.yaml
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field

from transformers import set_seed

from hf_contrastive import ContrastiveTrainingArguments, GoalConditionedRewardTrainer, get_system
from hf_contrastive.recipes import common, filtering, preferences
from hf_contrastive.reporting import say
from hf_contrastive.training import parse_recipe_arguments, unwrap_model


SPEC = get_system("gcrm")
EXAMPLE = """accelerate launch recipes/gcrm/train.py recipes/gcrm/hh_rlhf.yaml --backbone meta-llama/Llama-3.2-1B --bf16 true
accelerate launch recipes/gcrm/train.py --dataset_path my_pairs.jsonl --test_fraction 0.1 --backbone Qwen/Qwen2.5-0.5B \\
    --lora_rank 16 --max_length 1024 --num_train_epochs 1 --learning_rate 1e-4 --output_dir out/mine"""
#: name of an arm -> its title in tables, and the weight of its contrastive loss (none = what --beta says)
ARMS = {"bt": ("Bradley-Terry", 0.0), "gcrm": ("Goal-conditioned", None)}


@dataclass
class ArmArguments:
    """comparison: what is trained"""

    arms: list[str] = field(
        default_factory=lambda: ["gcrm"],
        metadata={"help": "bt (Bradley-Terry alone), gcrm; several are trained in turn, the last one is kept."},
    )


def main() -> None:
    # arguments
    data, model_arguments, comparison, options, run, args = parse_recipe_arguments(
        (
            preferences.PreferenceDataArguments,
            preferences.RewardModelArguments,
            ArmArguments,
            preferences.RewardMeasureArguments,
            common.RunArguments,
            ContrastiveTrainingArguments,
        ),
        prog="recipes/gcrm/train.py",
        description="Train a goal-conditioned reward model (https://arxiv.org/abs/2407.13887) on preference pairs.",
        example=EXAMPLE,
    )
    started = time.time()
    common.check_choice("arms", comparison.arms, ARMS)
    common.check_choice("on_long", [data.on_long], ("truncate", "drop", "error"))
    common.check_choice("on_empty", [data.on_empty], ("error", "drop"))
    common.prepare_output(args, run)

    # data, and the language model that everything starts from
    new = model_arguments.backbone in common.model_types()
    with common.plain_errors():
        pairs = preferences.load_splits(data)
        texts = preferences.language_texts(model_arguments, data, pairs) if new else None
        tokenizer = preferences.make_tokenizer(model_arguments, texts)
        pipeline = preferences.PreferencePipeline.build(tokenizer, pairs, data)
    fields = {arm: preferences.fields_of(model_arguments, ARMS[arm][1]) for arm in comparison.arms}
    with common.plain_errors():
        for given in fields.values():  # wrong values are named before anything is trained
            SPEC.config_class()(backbone_config={"model_type": "gpt2"}, **given)
    set_seed(args.seed)
    place = model_arguments.backbone
    if new:
        with common.plain_errors():
            place = preferences.start(model_arguments, data, tokenizer, texts or [], args, run.dry_run)

    # one run an arm, alike in everything but the weight of the contrastive loss
    rows, scores, trainer, title = [], None, None, ""
    for arm in comparison.arms:
        final = arm == comparison.arms[-1]
        title = ARMS[arm][0]
        set_seed(args.seed)
        with common.plain_errors():
            model = preferences.make_model(SPEC, model_arguments, place, data.max_length, fields[arm])
        if run.dry_run:
            preferences.dry_run(model, pipeline)
            continue
        arm_args = copy.copy(args)
        arm_args.output_dir = args.output_dir if final else f"{args.output_dir}/{arm}"
        trainer = GoalConditionedRewardTrainer(
            model,
            arm_args,
            data_collator=pipeline.collator,
            train_dataset=pipeline.train,
            eval_dataset=pipeline.test if args.eval_strategy != "no" else None,
            processing_class=tokenizer,
        )
        say(f"\n=== {title} ===")
        if not rows and (pipeline.test is not None or pipeline.completions is not None):
            rows.append(preferences.measure(trainer, "before training", pipeline, options)[0])
            unwrap_model(trainer.model).set_goal_state(None)
        preferences.report(trainer, data, pipeline)
        common.train_or_load(trainer, arm_args, tokenizer, final=final)
        # saved before it is measured: hours of training must not depend on a table
        if final:
            common.save_run(trainer, tokenizer)
        row, scores = preferences.measure(trainer, title, pipeline, options)
        rows.append(row)
        if final:
            common.save_run(trainer, tokenizer)  # once more, with the goal
    if trainer is None:
        return

    # what comes of stopping hopeless answers while they are written
    written = []
    if options.write_questions and common.is_main_process():
        reward_model = unwrap_model(trainer.model)
        written = filtering.write_answers(
            reward_model, place, pipeline, options, rows[-1].get("threshold", 0.0), args.seed
        )
    preferences.finish(
        trainer,
        SPEC,
        pipeline,
        rows=rows,
        written=written,
        scores=scores,
        trained=title,
        data=data,
        options=options,
        started=started,
        base_model=common.base_model_of(model_arguments),
    )
    trainer.end()


if __name__ == "__main__":
    main()
