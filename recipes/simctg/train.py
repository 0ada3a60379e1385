"""SimCTG: train a language model with the contrastive loss beside the usual one, compare ways of decoding, save it.

accelerate launch recipes/simctg/train.py recipes/simctg/topics.yaml
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field

from transformers import set_seed

from hf_contrastive import ContrastiveTrainingArguments, get_system
from hf_contrastive.recipes import common, decoding, texts
from hf_contrastive.reporting import say
from hf_contrastive.training import LanguageModelTrainer, parse_recipe_arguments, unwrap_model


SPEC = get_system("simctg")
EXAMPLE = """accelerate launch recipes/simctg/train.py recipes/simctg/wikitext103.yaml --per_device_train_batch_size 8
accelerate launch recipes/simctg/train.py --dataset_path my_texts --test_fraction 0.1 --backbone openai-community/gpt2 \\
    --lora_rank 16 --block_size 256 --max_steps 2000 --learning_rate 2e-4 --output_dir out/mine"""
#: name of an arm -> its title in tables, and the weight of its contrastive loss (none = the paper's)
ARMS = {"mle": ("MLE", 0.0), "simctg": ("SimCTG", None)}
# the scorer is another draw of weights and batches
SCORER_SEED = 1000


@dataclass
class ArmArguments:
    """comparison: what is trained"""

    arms: list[str] = field(
        default_factory=lambda: ["simctg"],
        metadata={"help": "mle (the usual loss alone), simctg; several are trained in turn, the last one is kept."},
    )


def main() -> None:
    # arguments
    data, model_arguments, comparison, options, measure, run, args = parse_recipe_arguments(
        (
            texts.TextDataArguments,
            texts.LanguageModelArguments,
            ArmArguments,
            decoding.DecodingArguments,
            texts.TextMeasureArguments,
            common.RunArguments,
            ContrastiveTrainingArguments,
        ),
        prog="recipes/simctg/train.py",
        description="Train SimCTG (https://arxiv.org/abs/2202.06417) on texts, measure how it writes, save the model.",
        example=EXAMPLE,
    )
    started = time.time()
    common.check_choice("arms", comparison.arms, ARMS)
    measure.scorer = None if measure.scorer == "none" else measure.scorer
    if options.methods:
        common.check_choice("methods", options.methods, decoding.METHODS)
    common.prepare_output(args, run)

    # data
    with common.plain_errors():
        train, test = texts.load_splits(data)
        tokenizer = texts.make_tokenizer(model_arguments, train["text"])
        pipeline = texts.TextPipeline.build(tokenizer, train, test, data.block_size)
        prompts = None
        if test is not None and options.methods:
            prompts = decoding.make_prompts(test, tokenizer, options)
            options.num_prompts = len(prompts.prefixes)  # there may be fewer than were asked for

    # one run an arm, alike in everything but the weight of the contrastive loss
    arms = [*(["scorer"] if measure.scorer == "trained" and prompts else []), *comparison.arms]
    scorer = None
    if prompts and measure.scorer not in (None, "trained"):
        with common.plain_errors():
            scorer = texts.load_scorer(measure.scorer)
            decoding.check_length(scorer[0], prompts, options)
    models, decoded, samples, trace = [], [], {}, None
    trainer, title, usable = None, "", None
    for arm in arms:
        final = arm == arms[-1]
        title, weight = ARMS.get(arm, ("scorer", 0.0))
        seed = args.seed + (SCORER_SEED if arm == "scorer" else 0)
        fields = {
            "margin": model_arguments.margin,
            "contrastive_weight": model_arguments.contrastive_weight if weight is None else weight,
        }
        set_seed(seed)
        with common.plain_errors():
            model = texts.make_model(SPEC, model_arguments, tokenizer, data.block_size, fields)
        if prompts:
            with common.plain_errors():
                decoding.check_length(unwrap_model(model), prompts, options)
        if run.dry_run:
            texts.dry_run(model, pipeline)
            continue
        arm_args = copy.copy(args)
        arm_args.seed = arm_args.data_seed = seed
        arm_args.output_dir = args.output_dir if final else f"{args.output_dir}/{arm}"
        trainer = LanguageModelTrainer(
            model,
            arm_args,
            data_collator=pipeline.collator,
            train_dataset=pipeline.train,
            eval_dataset=pipeline.test if args.eval_strategy != "no" else None,
            processing_class=tokenizer,
        )
        say(f"\n=== {title} ===")
        if pipeline.test is not None and not models and arm != "scorer":
            models.append({"model": "before training", **evaluate(trainer, pipeline.test)})
        texts.report(trainer, data, pipeline)
        common.train_or_load(trainer, arm_args, tokenizer, final=final)

        # saved before it is measured: hours of training must not depend on a table
        if final:
            usable = texts.save(trainer, tokenizer)

        # how it predicts, and how it writes
        if pipeline.test is None:
            continue
        bare = unwrap_model(trainer.model).eval()
        if arm == "scorer":
            scorer = (copy.deepcopy(bare), tokenizer)
            continue
        models.append({"model": title, **evaluate(trainer, pipeline.test)})
        if prompts and common.is_main_process():
            kept: dict[str, list[str]] = {}
            decoded += decoding.measure_decoding(
                title, bare, tokenizer, prompts, options, scorer=scorer, seed=args.seed, keep=kept
            )
            samples |= {f"{title}, {name}": written for name, written in kept.items()}
            if final and measure.pictures:
                trace = decoding.trace_contrastive(bare, tokenizer, prompts.prefixes[0], options)
    if trainer is None or usable is None:
        return

    # what came out
    if prompts and common.is_main_process():
        decoded.append(decoding.measure_reference(prompts, tokenizer, scorer))
        samples["prompts"] = tokenizer.batch_decode(prompts.prefixes)
    texts.finish(
        trainer,
        SPEC,
        pipeline,
        models=models,
        decoding=decoded,
        trained=title,
        usable=usable,
        data=data,
        options=options,
        started=started,
        base_model=common.base_model_of(model_arguments),
        trace=trace,
        samples=samples,
        pictures=measure.pictures,
    )
    trainer.end()


def evaluate(trainer: LanguageModelTrainer, test: object) -> dict[str, float]:
    """Loss, perplexity and isotropy on the test rows."""
    found = trainer.evaluate(test, metric_key_prefix="test")
    return {name: found[f"test_{name}"] for name in ("loss", "perplexity", "isotropy") if f"test_{name}" in found}


if __name__ == "__main__":
    main()
