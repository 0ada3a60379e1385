"""Goal-conditioned reward models: training beside TRL's RewardTrainer, and what stopping hopeless answers saves in time.

python benchmarks/reward_models.py                   # CPU; --device cuda with one GPU
python benchmarks/reward_models.py --parts filter    # one of the two parts
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import datasets
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config
from transformers.utils import logging

from hf_contrastive import (
    ContrastiveTrainingArguments,
    GoalConditionedRewardModel,
    GoalConditionedRewardTrainer,
)
from hf_contrastive.data import (
    PreferenceCollator,
    load_preferences,
    tokenize_preferences,
    train_tokenizer,
    word_problem_texts,
)
from hf_contrastive.generation import filter_generations


PEER, PLAIN, GOAL = "TRL RewardTrainer", "this library, Bradley-Terry", "this library, with the goal loss"
#: layers, width, pairs of a batch, solved examples before the question (they make it longer), by device
TRAINING = {
    "cpu": [(4, 256, 8, 0), (4, 256, 4, 5)],
    "cuda": [(12, 768, 64, 0), (12, 768, 16, 5)],
}
#: layers, width, rows written at the same time, new tokens
WRITING = {"cpu": (6, 256, 64, 96), "cuda": (12, 768, 512, 192)}
SHARES = (0.25, 0.5, 0.75)
SPEED_GOAL, COST_GOAL, SAVING_GOAL = 1.0, 0.05, 0.10


def language_model(layers: int, width: int, vocabulary: int, positions: int, seed: int = 0) -> Any:
    """A GPT-2 without dropout, random weights."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=layers,
        n_embd=width,
        n_head=width // 32,
        n_positions=positions,
        vocab_size=vocabulary,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return AutoModelForCausalLM.from_config(config)


# ---- Training ----


def long_pairs(count: int, examples: int) -> Any:
    """Word problems, each behind so many solved ones."""
    pairs: Any = load_preferences("arithmetic", max_samples=count)
    if not examples:
        return pairs
    solved = word_problem_texts(examples * count, seed=7)

    def lengthen(row: dict[str, Any], number: int) -> dict[str, Any]:
        before = "\n\n".join(solved[examples * number : examples * (number + 1)])
        return {"prompt": f"{before}\n\n{row['prompt']}"}

    return pairs.map(lengthen, with_indices=True)


def training_sides(
    setting: tuple[int, int, int, int], steps: int, device: str
) -> tuple[dict[str, Callable[[], float]], float]:
    """Seconds that every side takes for the same steps on the same pairs, and the tokens of these steps."""
    layers, width, batch, examples = setting
    count = steps * batch
    pairs = long_pairs(count, examples)
    tokenizer = train_tokenizer(word_problem_texts(2000), 600)
    rows, lengths = tokenize_preferences(pairs, tokenizer, max_length=1024)
    if lengths.prompts_cut or lengths.answers_cut:
        raise SystemExit(f"pairs were cut, so the two sides would differ:\n{lengths}")
    tokens = sum(len(row["chosen_input_ids"]) + len(row["rejected_input_ids"]) for row in rows)
    lm = language_model(layers, width, len(tokenizer), 1024)
    folder = tempfile.mkdtemp()
    lm.save_pretrained(folder)
    common_settings: dict[str, Any] = {
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-4,
        "logging_steps": max(1, steps // 2),
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": device == "cpu",
        "bf16": device == "cuda",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    ready = GoalConditionedRewardModel.from_backbone(folder)

    def ours(beta: float) -> Callable[[], float]:
        def run() -> float:
            model = copy.deepcopy(ready)
            model.config.beta = beta
            trainer = GoalConditionedRewardTrainer(
                model,
                ContrastiveTrainingArguments(tempfile.mkdtemp(), **common_settings),
                data_collator=PreferenceCollator(tokenizer),
                train_dataset=rows,
            )
            return quiet(trainer)

        return run

    methods = {GOAL: ours(0.5), PLAIN: ours(0.0)}
    with contextlib.suppress(ImportError):
        trl = importlib.import_module("trl")
        plain = datasets.Dataset.from_list(
            [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in pairs]
        )

        def peer() -> float:
            model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
            args = trl.RewardConfig(tempfile.mkdtemp(), max_length=1024, **common_settings)
            trainer = trl.RewardTrainer(model, args=args, train_dataset=plain, processing_class=tokenizer)
            return quiet(trainer)

        methods[PEER] = peer
    return methods, tokens


def quiet(trainer: Any) -> float:
    """Seconds of the training loop; what it prints is left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        return trainer.train().metrics["train_runtime"]


def training_part(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    rows, reached = [], []
    for setting in TRAINING[options.device]:
        methods, tokens = training_sides(setting, options.steps, options.device)
        seconds = common.take_turns(methods, options.rounds)
        length = tokens / (2 * options.steps * setting[2])
        place = f"{setting[0]} layers of {setting[1]}, {setting[2]} pairs of {length:.0f} tokens an answer"
        for name, values in seconds.items():
            ratio = "-"
            if PEER in seconds:
                ratio = "1" if name == PEER else common.format_ratio(common.ratio(seconds[PEER], values))
            rows.append([place, name, f"{tokens / statistics.median(values):.0f}", ratio])
        if PEER in seconds:
            value = common.ratio(seconds[PEER], seconds[GOAL])
            reached.append(
                f"at least {SPEED_GOAL:g} x TRL's tokens per second with the goal loss on, {place}: "
                f"{common.verdict(value[0], SPEED_GOAL)} (rounds {value[1]:.2f} to {value[2]:.2f})."
            )
        cost = common.ratio(seconds[GOAL], seconds[PLAIN])
        reached.append(
            f"the goal loss takes less than {100 * COST_GOAL:.0f} % of a step, {place}: "
            f"{common.verdict_at_most(cost[0], 1 + COST_GOAL)} times a step without it (rounds {cost[1]:.3f} to {cost[2]:.3f})."
        )
        print(rows[-3:], flush=True)
    header = ["model and batch", "trainer", "tokens/s", f"speed / {PEER}"]
    text = (
        f"Training: GPT-2 without dropout, the same pairs (word problems, made longer by solved examples before them), AdamW, "
        f"{'bfloat16 autocast' if options.device == 'cuda' else 'float32'}, no gradient checkpointing. A round is "
        f"{options.steps} steps of the trainer, from the first batch on; {common.count(options.rounds, 'round')} in turns "
        "after one to warm up; ratios of speeds, round by round: median (smallest to largest). TRL pads on the right and "
        "passes a mask; this library moves padding to the end and passes none."
    )
    return [text, common.table(header, rows)], reached


# ---- Stopping hopeless answers ----


def filter_part(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    layers, width, count, new_tokens = WRITING[options.device]
    writer = language_model(layers, width, 600, 512).to(options.device).eval()
    reward_model = GoalConditionedRewardModel.from_backbone(language_model(layers, width, 600, 512, seed=1))
    reward_model.to(options.device).eval()
    torch.manual_seed(2)
    reward_model.set_goal_state(torch.randn(width))
    prompts = torch.randint(2, 600, (count // 8, 48), device=options.device)
    fixed: dict[str, Any] = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": True}
    mask = torch.ones_like(prompts)

    def write(threshold: float | None) -> Any:
        return filter_generations(
            writer,
            reward_model,
            {"input_ids": prompts, "attention_mask": mask},
            num_samples=8,
            threshold=threshold,
            check_every=options.check_every,
            seed=0,
            **fixed,
        )

    def generate(score: bool) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            torch.manual_seed(0)
            ids = writer.generate(input_ids=prompts, attention_mask=mask, num_return_sequences=8, **fixed)
            for part in ids.split(64) if score else ():
                reward_model(part, torch.ones_like(part))
            synchronise(options.device)

        return run

    complete = write(None)
    lowest = torch.stack([values[5:].min() for values in complete.q_values])
    found: dict[float, Any] = {}
    methods: dict[str, Callable[[], Any]] = {"generate": generate(False), "generate, then score": generate(True)}
    methods["filter_generations, nothing filtered"] = lambda: write(None)
    for share in SHARES:
        level = float(lowest.quantile(share))

        def run(share: float = share, level: float = level) -> None:
            found[share] = write(level)
            synchronise(options.device)

        methods[f"{100 * share:.0f} % of the answers stopped"] = run
    seconds = common.alternate(methods, options.rounds)
    rows, reached = [], []
    for name, values in seconds.items():
        place = list(methods).index(name) - 3
        saved = 0.0
        if place >= 0:
            saved = 1 - found[SHARES[place]].tokens_generated / complete.tokens_generated
        against = [common.ratio(values, seconds[other]) for other in ("generate, then score", "generate")]
        shown = [
            f"{100 * (1 - ratio[0]):.1f} ({100 * (1 - ratio[2]):.1f} to {100 * (1 - ratio[1]):.1f})"
            for ratio in against
        ]
        rows.append([name, f"{100 * saved:.1f}" if place >= 0 else "-", f"{statistics.median(values):.2f}", *shown])
        if place >= 0:
            time_saved = 1 - against[0][0]
            word = "met" if time_saved >= saved - SAVING_GOAL else "missed"
            reached.append(
                f"wall time saved at least the tokens' share minus 10 points, {name}: {word} ({100 * time_saved:.1f} % of the time "
                f"for {100 * saved:.1f} % of the tokens; against writing alone, without any Q-value, {100 * (1 - against[1][0]):.1f} %)."
            )
        print(rows[-1], flush=True)
    header = ["", "tokens saved %", "seconds", "time saved % against generate, then score", "against generate alone"]
    text = (
        f"Stopping hopeless answers while they are written: {count} answers of {new_tokens} tokens to {count // 8} prompts of 48, "
        f"sampled; language model and reward model are GPT-2s of {layers} layers of {width} (float32, random weights, so that "
        f"the threshold can be set to any share); a look every {options.check_every} tokens. `generate, then score` gives the same "
        f"answers, rewards and Q-values without stopping any. {common.count(options.rounds, 'round')} in turns after one to warm up; "
        "median (smallest to largest)."
    )
    return [text, common.table(header, rows)], reached


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


PARTS = {"training": training_part, "filter": filter_part}


def report(options: argparse.Namespace) -> Iterator[str]:
    texts: list[str] = []
    reached: list[str] = []
    for name in options.parts:
        started = time.time()
        found, goals = PARTS[name](options)
        texts += found
        reached += goals
        print(f"{name}: {time.time() - started:.0f} s", flush=True)
        place = "one GPU" if options.device == "cuda" else "CPU"
        yield "\n\n".join(
            [
                f"## Goal-conditioned reward models, {place}",
                common.facts(
                    "reward_models.py",
                    ["torch", "transformers", "trl", "hf-contrastive"],
                    None if options.device == "cuda" else options.threads,
                ),
                *texts,
                common.goals(reached),
            ]
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: both")
    parser.add_argument("--device", choices=list(TRAINING), default="cpu", help="default: cpu")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default: 5)")
    parser.add_argument("--steps", type=int, default=6, help="training steps of a round (default: 6)")
    parser.add_argument("--check_every", type=int, default=8, help="tokens between two looks (default: 8)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    options = parser.parse_args()
    if min(options.rounds, options.steps, options.check_every, options.threads) < 1:
        parser.error("--rounds, --steps, --check_every and --threads must be at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and there is none")
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore")
    name = f"reward_models_{options.device}"
    for text in report(options):
        common.write_section(options.output, name, text)
        print(f"written: section {name!r} of {options.output.name}", flush=True)


if __name__ == "__main__":
    main()
