"""`hf-contrastive filter`: sample answers, stop the hopeless ones, take the best, and look whether it still reads well."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_contrastive.cli.common import (
    CliError,
    WrongUsage,
    examples,
    give_json,
    print_line,
    print_note,
    print_table,
    quiet_libraries,
    wants_stdout,
)
from hf_contrastive.cli.evaluate import PROTOCOL, Device, JsonFile
from hf_contrastive.cli.reward_models import (
    MODEL_TYPE,
    Dtype,
    RewardModel,
    SkipTokens,
    Threshold,
    as_typed,
    first_words,
    load_reward_model,
    tell_no_goal,
)


if TYPE_CHECKING:
    import torch

    from hf_contrastive.generation import FilteredGenerations

EXAMPLES = examples(
    r"hf-contrastive filter out/gcrm-arithmetic/language_model out/gcrm-arithmetic --prompt $'Question: 2 + 3?\nAnswer:\n'",
    "hf-contrastive filter my_model my_reward_model --samples 16 --threshold 0.4 --temperature 0.8 < prompt.txt",
)


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of the language model that writes.")],
    reward_model: Annotated[
        str, typer.Argument(metavar="REWARD_MODEL", help="Folder or hub id of the goal-conditioned reward model.")
    ],
    prompt: Annotated[str | None, typer.Option(help="Text to answer; standard input by default.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to write.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="End an answer after that many tokens.")] = 128,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 more of the same, above 1 more varied. (default: the model's)")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens of this sum. (default: the model's)")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Draw from that many tokens, 0 = all. (default: the model's)")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draws; the same seed gives the same answers.")] = 0,
    threshold: Threshold = 0.0,
    skip_tokens: SkipTokens = 5,
    as_chat: Annotated[
        bool,
        typer.Option("--as-chat", help="Write the prompt with the model's chat template.", rich_help_panel=PROTOCOL),
    ] = False,
    json_file: JsonFile = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Sample answers, stop hopeless ones while they are written, and take the one with the best reward.

    Rewards can be won by answers that read badly, so the language model's own log-probability stands beside them.
    """
    if prompt is None:
        if sys.stdin.isatty():
            raise WrongUsage("there is no prompt; type --prompt 'some text', or pipe a text in.")
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise WrongUsage("the prompt is empty; give at least one word.")

    reward = load_reward_model(reward_model, device, dtype)
    if not reward.has_goal:
        raise CliError(tell_no_goal(reward))
    writer, tokenizer, name = _load_writer(model, reward.model.device, dtype)
    given = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    sampling: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    inputs = _prompt_ids(tokenizer, prompt, as_chat, name)
    same = tokenizer.get_vocab() == reward.tokenizer.get_vocab()
    if as_chat and not same:
        raise CliError(
            f"{name} and {reward.name} read different tokens, so the chat written for one is not what the other was trained "
            "on; leave --as-chat out, or take a reward model trained from this language model."
        )
    print_note(f"{name} writes {samples} answers of at most {max_new_tokens} tokens")

    from hf_contrastive.generation import filter_generations

    try:
        with quiet_libraries():
            found = filter_generations(
                writer,
                reward.model,
                inputs if as_chat else prompt,
                tokenizer=tokenizer,
                reward_tokenizer=reward.tokenizer,
                num_samples=samples,
                threshold=threshold,
                skip_tokens=skip_tokens,
                seed=seed,
                max_new_tokens=max_new_tokens,
                do_sample=True,
                **sampling,
            )
            answers = _describe(found, inputs["input_ids"][0], writer, reward, skip_tokens, None if same else prompt)
    except ValueError as error:
        raise CliError(as_typed(str(error))) from error
    kept = [answer for answer in answers if answer["kept"]]
    best = max(kept, key=lambda answer: answer["reward"], default=None)
    stages = [_stage("all", answers), *([_stage("kept", kept), _stage("best", [best])] if best else [])]
    record = {
        "model": name,
        "reward_model": reward.name,
        "prompt": prompt,
        "settings": {
            **sampling,
            "samples": samples,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "threshold": threshold,
            "skip_tokens": skip_tokens,
            "as_chat": as_chat,
        },
        "answers": answers,
        "best": None if best is None else best["sample"],
        "tokens": {"written": found.tokens_generated, "at_most": found.tokens_limit},
        "guard": stages,
    }
    if not wants_stdout(json_file):
        _show(answers, best, stages, record["tokens"])
    _warn(answers, best, stages, threshold)
    give_json(record, json_file)


def _load_writer(checkpoint: str, device: torch.device, dtype: str) -> tuple[Any, Any, str]:
    """The language model on its device, its tokenizer, and the name that may be written down."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from hf_contrastive.cli.checkpoints import public_name

    checkpoint = os.path.expanduser(checkpoint)
    with quiet_libraries():
        try:
            config = AutoConfig.from_pretrained(checkpoint)
            if config.model_type == MODEL_TYPE:
                raise WrongUsage(
                    f"{checkpoint} is a reward model, which writes no text; type the language model first, the reward model second."
                )
            writer = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, use_safetensors=True).eval()
            tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        except (OSError, ValueError) as error:
            # behind the first line transformers lists every class it knows
            reason = str(error).strip().partition("\n")[0]
            raise CliError(
                f"{checkpoint} is no language model that can be loaded with its tokenizer: {reason}"
            ) from error
    return writer.to(device), tokenizer, public_name(checkpoint)


def _prompt_ids(tokenizer: Any, prompt: str, as_chat: bool, name: str) -> dict[str, torch.Tensor]:
    """The prompt as one row of tokens."""
    import torch

    if not as_chat:
        ids = tokenizer(prompt)["input_ids"]
    elif not getattr(tokenizer, "chat_template", None):
        raise WrongUsage(f"--as-chat needs a chat template, and the tokenizer of {name} has none; leave it out.")
    else:
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    row = torch.tensor([ids])
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def _describe(
    found: FilteredGenerations,
    prompt: torch.Tensor,
    writer: Any,
    reward: RewardModel,
    skip_tokens: int,
    read_as: str | None,
) -> list[dict[str, Any]]:
    """Everything that is known of the answers, in the order in which they were sampled.

    Args:
        found: of `filter_generations`.
        prompt (`torch.LongTensor` `[tokens]`): as the language model reads it.
        writer, reward: the models.
        skip_tokens (`int`): first tokens whose Q-values do not count.
        read_as (`str`, *optional*): the prompt as text, where the reward model reads other tokens.
    """
    import torch

    from hf_contrastive.evaluation import continuation_log_probability, min_q_values
    from hf_contrastive.utils import evaluation_mode

    assert found.texts is not None
    lowest = min_q_values(found.q_values, skip_tokens).tolist()
    answers = []
    with torch.no_grad(), evaluation_mode(writer), evaluation_mode(reward.model):
        for row, text in enumerate(found.texts):
            ids = torch.cat([prompt, found.sequences[row].cpu()]).to(writer.device)
            inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])}
            # of the language model as it is, at temperature 1, however it was sampled
            fluency = continuation_log_probability(writer(**inputs).logits[0], ids, len(prompt))
            kept, stop, value = found.kept[row], found.stopped_at[row], found.rewards[row]
            if value is None:
                value = _reward_so_far(reward, inputs) if read_as is None else _reward_of_text(reward, read_as, text)
            answers.append(
                {
                    "sample": row + 1,
                    "answer": text,
                    "kept": kept,
                    "stopped_at_token": None if stop is None else stop + 1,
                    "ended": found.finished[row],
                    "tokens": len(found.sequences[row]),
                    "reward": value,
                    "lowest_q": lowest[row],
                    "log_probability": fluency,
                }
            )
    return answers


def _reward_so_far(reward: RewardModel, inputs: dict[str, torch.Tensor]) -> float:
    """Reward at the last token of an unfinished text."""
    return float(reward.model(**inputs).rewards[0])


def _reward_of_text(reward: RewardModel, prompt: str, answer: str) -> float | None:
    """The same where the reward model reads other tokens; none without a word."""
    from hf_contrastive.models.gcrm.scoring_gcrm import text_batches

    if not answer.strip():
        return None
    batches = text_batches(reward.model, reward.tokenizer, prompt, answer, batch_size=1, max_length=None, end=False)
    return _reward_so_far(reward, next(batches)[0])


def _stage(name: str, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Reward and fluency of some of the answers: means over the answers, and the spread of the fluency."""
    import numpy as np

    rewards = [answer["reward"] for answer in answers if answer["reward"] is not None]
    fluency = [answer["log_probability"] for answer in answers]
    return {
        "answers": name,
        "count": len(answers),
        "reward": float(np.mean(rewards)) if rewards else None,
        "log_probability": float(np.mean(fluency)),
        "log_probability_std": float(np.std(fluency)),
    }


def _show(
    answers: Sequence[dict[str, Any]],
    best: dict[str, Any] | None,
    stages: Sequence[dict[str, Any]],
    tokens: dict[str, int],
) -> None:
    lowest = float("-inf")
    order = sorted(
        answers, key=lambda one: (one["kept"], lowest if one["reward"] is None else one["reward"]), reverse=True
    )
    rows = [
        [
            str(one["sample"]),
            _number(one["reward"]),
            _number(one["lowest_q"]),
            ("kept" if one["ended"] else "kept, not ended")
            if one["kept"]
            else f"stopped at token {one['stopped_at_token']}",
            first_words(one["answer"]),
        ]
        for one in order
    ]
    header = ["sample", "reward", "lowest Q", "filter", "answer"]
    print_table(header, rows, right=header[:3], no_wrap=header[:4])
    print_line()
    kept = sum(one["kept"] for one in answers)
    print_line(
        f"{kept} of {len(answers)} kept; {tokens['written']} tokens written, at most {tokens['at_most']} without the filter"
    )
    if best is not None:
        print_line(f"best of {kept} (sample {best['sample']}, reward {_number(best['reward'])}):", style="bold")
        print_line(best["answer"].strip("\n"))
    print_line()
    titles = {"all": "all, as far as written", "kept": "kept", "best": f"best of {kept}"}
    print_table(
        ["before and after", "answers", "mean reward", "log-probability of a token"],
        [
            [titles[one["answers"]], str(one["count"]), _number(one["reward"]), _number(one["log_probability"])]
            for one in stages
        ],
        right=("answers", "mean reward", "log-probability of a token"),
    )


def _warn(
    answers: Sequence[dict[str, Any]],
    best: dict[str, Any] | None,
    stages: Sequence[dict[str, Any]],
    threshold: float,
) -> None:
    """Say when the filter does nothing or everything, and when better rewards read worse."""
    lowest = sorted(answer["lowest_q"] for answer in answers)
    reach = f"their lowest Q-values go from {_number(lowest[0])} to {_number(lowest[-1])}"
    if best is None:
        print_note(
            f"note: every answer was stopped; {reach}. Type a lower --threshold than {threshold:g}, or more --samples."
        )
    elif all(answer["kept"] for answer in answers) and len(answers) > 1:
        print_note(f"note: no answer was stopped; {reach}, the threshold is {threshold:g}.")
    everything = stages[0]
    for stage in stages[1:]:
        drop = everything["log_probability"] - stage["log_probability"]
        if drop > everything["log_probability_std"] + 1e-6:  # of two answers none is that far off
            which = "the kept answers read" if stage["answers"] == "kept" else "the best answer reads"
            print_note(
                f"note: to the language model {which} worse than all answers do ({_number(stage['log_probability'])} against "
                f"{_number(everything['log_probability'])} a token); see whether the reward is earned."
            )
            break


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
