"""`hf-contrastive score`: rewards and Q-values of answers, and how well they tell better answers from worse ones."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_contrastive.cli.common import (
    CliError,
    Progress,
    WrongUsage,
    examples,
    give_json,
    print_line,
    print_note,
    print_table,
    quiet_libraries,
    wants_stdout,
    write_text,
)
from hf_contrastive.cli.evaluate import DATA, OUT, PROTOCOL, SPEED, Device, JsonFile, Name, TestFraction, interval
from hf_contrastive.cli.reward_models import (
    Dtype,
    RewardModel,
    SkipTokens,
    Threshold,
    as_typed,
    first_words,
    load_reward_model,
    tell_no_goal,
)


EXAMPLES = examples(
    r"hf-contrastive score out/gcrm-arithmetic --prompt $'Question: 2 + 3?\nAnswer:\n' --answer 'A: 5' --answer 'A: 6'",
    "hf-contrastive score out/gcrm-arithmetic --prompt 'Hello' --answer 'Hi there' --tokens",
    "hf-contrastive score out/gcrm-arithmetic --data arithmetic --kind answers",
    "hf-contrastive score out/gcrm-hh-rlhf --data pairs.jsonl --out scores.jsonl --batch-size 32",
)
KINDS = ("auto", "pairs", "answers")
#: parts of an answer after which its reward is looked at, as in the recipe's table
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
ARITHMETIC = "arithmetic"
#: of the built-in data: its pairs, and its marked answers
_ARITHMETIC_COLUMNS = ("question", "correct", "incorrect", "generated_solution", "is_correct")


def command(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder or hub id of a goal-conditioned reward model.")
    ],
    prompt: Annotated[str | None, typer.Option(help="Text that is answered, written as in training.")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="An answer to it; may be given several times.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Reward and Q-value after every token, too.")] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Measure on 'arithmetic', a .jsonl, .csv or .parquet file, a folder of those, or a hub id."),
    ] = None,
    kind: Annotated[
        str, typer.Option(help="What the data has: pairs or answers; auto looks at its columns.", rich_help_panel=DATA)
    ] = "auto",
    split: Annotated[
        str | None, typer.Option(help="Split of the data. (default: test, or the only one)", rich_help_panel=DATA)
    ] = None,
    name: Name = None,
    test_fraction: TestFraction = None,
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="At most this many rows, the first ones.", rich_help_panel=DATA)
    ] = None,
    on_empty: Annotated[
        str, typer.Option(help="At an answer without a word: error or drop.", rich_help_panel=DATA)
    ] = "error",
    prompt_column: Annotated[
        str | None, typer.Option(help="Column of the prompts. (default: found by itself)", rich_help_panel=DATA)
    ] = None,
    chosen_column: Annotated[
        str | None, typer.Option(help="Pairs: column of the better answers.", rich_help_panel=DATA)
    ] = None,
    rejected_column: Annotated[
        str | None, typer.Option(help="Pairs: column of the worse answers.", rich_help_panel=DATA)
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="Answers: column of their text.", rich_help_panel=DATA)
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Answers: column that says which are right.", rich_help_panel=DATA)
    ] = None,
    threshold: Threshold = 0.0,
    skip_tokens: SkipTokens = 5,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of prompt and answer. (default: what the model can read)", rich_help_panel=PROTOCOL
        ),
    ] = None,
    as_chat: Annotated[
        bool,
        typer.Option("--as-chat", help="Write texts with the tokenizer's chat template.", rich_help_panel=PROTOCOL),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write the scores to this .jsonl file, one line a row.", rich_help_panel=OUT),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file of scores.", rich_help_panel=OUT)
    ] = False,
    json_file: JsonFile = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers at a time.", rich_help_panel=SPEED)] = 8,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Score answers with a reward model, or measure it on preference pairs or answers marked right and wrong.

    Give --prompt and one --answer or more, or --data. A Q-value tells how near the text so far is to the goal, from -1 to 1.
    """
    _check_usage(data, prompt, answer, tokens, kind, on_empty, out, overwrite)
    settings = Settings(threshold, skip_tokens, batch_size, max_length, as_chat)
    show = not wants_stdout(json_file)
    if data is None:
        assert prompt is not None
        assert answer
        reward = load_reward_model(checkpoint, device, dtype)
        record, lines = _answers_to_a_prompt(reward, prompt, answer, settings, tokens, show)
    else:
        columns = {
            "prompt_column": prompt_column,
            "chosen_column": chosen_column,
            "rejected_column": rejected_column,
            "answer_column": answer_column,
            "label_column": label_column,
        }
        options = {"test_fraction": test_fraction, "max_samples": max_samples, "on_empty": on_empty}
        # wrong data is told before a large model is loaded
        rows = _load_rows(data, kind, split, name, columns, **options)
        reward = load_reward_model(checkpoint, device, dtype)
        measured, table, lines = (_pairs if rows.kind == "pairs" else _marked_answers)(reward, rows, settings, tokens)
        about = {
            "checkpoint": reward.name,
            "data": rows.name,
            "kind": rows.kind,
            "found": rows.found,
            "split": rows.split,
        }
        record = {**about, **measured}
        if show:
            print_line(f"{reward.name} on {rows.name}, split {rows.split}", style="bold")
            print_line(f"found: {rows.found}", style="dim")
            print_table(None, table)
        if not reward.has_goal:
            print_note(f"note: {tell_no_goal(reward)}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        (print_line if show else print_note)(f"wrote {out}: {len(lines)} lines")
    give_json(record, json_file)


@dataclass
class Settings:
    """How answers are read, and what the filter would do with them."""

    threshold: float
    skip_tokens: int
    batch_size: int
    max_length: int | None
    as_chat: bool


@dataclass
class Score:
    """Scores of one answer; `cut_prompt` and `cut_answer` are tokens that did not fit."""

    reward: float
    tokens: list[int]
    token_rewards: list[float]
    q_values: list[float] | None
    lowest_q: float | None
    cut_prompt: int
    cut_answer: int


@dataclass
class Rows:
    """Loaded data: `kind` is pairs or answers, `found` says by which columns."""

    dataset: Any
    kind: str
    name: str
    split: str
    found: str


def _check_usage(
    data: str | None,
    prompt: str | None,
    answers: Sequence[str] | None,
    tokens: bool,
    kind: str,
    on_empty: str,
    out: Path | None,
    overwrite: bool,
) -> None:
    if data is None and (prompt is None or not answers):
        seen = (
            "--answer without --prompt" if answers else "no answer" if prompt is None else "--prompt without --answer"
        )
        raise WrongUsage(
            f"there is {seen}; type --prompt 'a question' --answer 'one' --answer 'another', or --data with a file of "
            "pairs or of marked answers."
        )
    if data is not None and (prompt is not None or answers):
        raise WrongUsage("--data and --prompt (--answer) exclude each other; leave one of them out.")
    if data is not None and tokens and out is None:
        raise WrongUsage("with --data, --tokens writes the values into the file of --out; type --out FILE.jsonl, too.")
    blank = [number for number, text in enumerate(answers or (), start=1) if not text.strip()]
    if blank:
        raise WrongUsage(f"--answer number {blank[0]} is empty; give at least one word.")
    if kind not in KINDS:
        raise WrongUsage(f"--kind is {kind!r}; type {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
    if on_empty not in ("error", "drop"):
        raise WrongUsage(
            f"--on-empty is {on_empty!r}; type error (name the records and stop) or drop (leave them out)."
        )
    if out is not None and out.suffix != ".jsonl":
        raise WrongUsage(
            f"--out is {str(out)!r}; it gets one JSON object a line, so type --out {out.with_suffix('.jsonl')}."
        )
    if out is not None and out.exists() and not overwrite:
        raise CliError(f"{out} exists; nothing was changed. Type --overwrite to replace it, or another --out.")


# ---------------------------------------------------------------------------- data


def _load_rows(
    data: str, kind: str, split: str | None, name: str | None, columns: dict[str, str | None], **options: Any
) -> Rows:
    """Pairs or marked answers, whichever the columns say."""
    from hf_contrastive.cli.checkpoints import public_name
    from hf_contrastive.data import column_names_of, load_completions, load_preferences
    from hf_contrastive.data.sources import load_split, rows_source

    public = public_name(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with quiet_libraries():
                if data == ARITHMETIC:
                    given, used, held = data, split or "test", False
                    names = _ARITHMETIC_COLUMNS
                else:
                    source = rows_source(data, name, False, None, {})
                    fraction = options["test_fraction"]
                    given, held = load_split(data, source, split or "test", fraction, False, any_name=split is None)
                    names = column_names_of(given)
                    used = (
                        f"{split or 'test'}, held out"
                        if held
                        else str(getattr(given, "split", None) or split or "train")
                    )
                kind, found = _find_kind(public, names, kind, columns)
                roles = ("chosen", "rejected") if kind == "pairs" else ("answer", "label")
                options |= {f"{role}_column": columns[f"{role}_column"] for role in ("prompt", *roles)}
                # the rows are at hand and called "train"; what has to be held out is held out of them
                own = used if data == ARITHMETIC else (split or "test") if held else "train"
                options["test_fraction"] = options["test_fraction"] if held else None
                load = load_preferences if kind == "pairs" else load_completions
                dataset = load(given, split=own, **options)
        except ValueError as error:
            raise CliError(as_typed(str(error).replace("the data given", public))) from error
    for text in dict.fromkeys(str(one.message) for one in caught if one.category is UserWarning):
        print_note(f"note: {text.replace('the data given', public)}")
    return Rows(dataset, kind, public, used, found)


def _find_kind(data: str, names: Sequence[str], kind: str, columns: dict[str, str | None]) -> tuple[str, str]:
    """Pairs or answers, and the columns that say so."""
    from hf_contrastive.data import completions, preferences

    for option, column in columns.items():
        if column is not None and column not in names:
            raise CliError(
                f"--{option.replace('_', '-')} is {column!r}, but {data} has the columns {', '.join(names)}."
            )
    prompt, chosen, rejected, answer, label = columns.values()
    found: dict[str, Sequence[str | None]] = {}
    if not (answer or label):
        with contextlib.suppress(ValueError):
            found["pairs"] = preferences.pair_columns(names, prompt, chosen, rejected, data)
    if not (chosen or rejected):
        with contextlib.suppress(ValueError):
            found["answers"] = completions.completion_columns(names, prompt, answer, label, data)
    wanted = next(iter(found), None) if kind == "auto" else kind if kind in found else None
    if wanted is None:
        raise CliError(
            f"{data} has the columns {', '.join(names) or 'none'}, in which there are no {'pairs or answers' if kind == 'auto' else kind}; "
            "expected prompt, chosen, rejected (pairs) or prompt, answer, is_correct (marked answers). Name other columns "
            "with --prompt-column, --chosen-column and --rejected-column, or --answer-column and --label-column."
        )
    if kind == "auto" and len(found) == 2:
        print_note(
            f"note: {data} has pairs and marked answers; these are the pairs. For the others type --kind answers."
        )
    what = "preference pairs" if wanted == "pairs" else "marked answers"
    return wanted, f"{what} (columns {', '.join(column for column in found[wanted] if column)})"


# ---------------------------------------------------------------------------- scores


def _score(
    reward: RewardModel,
    prompts: Sequence[Any],
    answers: Sequence[Any],
    called: Sequence[str],
    settings: Settings,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[Score]:
    """Scores of all answers, in order; `called` is what an answer is called in messages."""
    from hf_contrastive.evaluation import min_q_values

    order = sorted(range(len(answers)), key=lambda place: len(str(prompts[place])) + len(str(answers[place])))
    found: dict[int, Score] = {}
    size = 8 * settings.batch_size
    for start in range(0, len(order), size):
        places = order[start : start + size]
        try:
            with quiet_libraries(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is cut is told once, for all
                scores = reward.model.score(
                    [prompts[place] for place in places],
                    [answers[place] for place in places],
                    tokenizer=reward.tokenizer,
                    batch_size=settings.batch_size,
                    max_length=settings.max_length,
                    as_chat=settings.as_chat,
                    details=True,
                )
        except FloatingPointError as error:
            raise CliError(
                f"a reward of {reward.name} is not a finite number; its weights or its precision are broken (float16 overflows "
                "easily: type --dtype float32)."
            ) from error
        except ValueError as error:
            which = re.match(r"answer (\d+)", str(error))
            text = called[places[int(which[1])]] + str(error)[which.end() :] if which else str(error)
            raise CliError(as_typed(text)) from error
        lowest: list[Any] = [None] * len(places)
        if scores.q_values is not None:
            lowest = min_q_values(scores.q_values, settings.skip_tokens).tolist()
        for row, place in enumerate(places):
            found[place] = Score(
                float(scores.rewards[row]),
                scores.tokens[row],
                scores.token_rewards[row].tolist(),
                None if scores.q_values is None else scores.q_values[row].tolist(),
                lowest[row],
                scores.cut_prompts[row],
                scores.cut_answers[row],
            )
        advance(len(places))
    return [found[place] for place in range(len(answers))]


def _tell_cut(reward: RewardModel, scores: Sequence[Score], settings: Settings) -> dict[str, int]:
    """Say what did not fit; counts for the record."""
    from hf_contrastive.models.gcrm.scoring_gcrm import longest_text

    prompts, answers = (
        sum(cut > 0 for cut in cuts) for cuts in zip(*((s.cut_prompt, s.cut_answer) for s in scores), strict=True)
    )
    if prompts or answers:
        print_note(
            f"note: {max(prompts, answers)} of {len(scores)} texts are longer than {longest_text(reward.model, settings.max_length)} "
            f"tokens: the start of the prompt was left out for {prompts}, the end of the answer for {answers}"
            + (", so that only its first part is scored." if answers else ".")
        )
    return {"prompts": prompts, "answers": answers}


def _line(score: Score, tokens: bool, prefix: str = "") -> dict[str, Any]:
    """The scores of an answer as fields of a line of JSON."""
    found: dict[str, Any] = {"reward": score.reward, "lowest_q": score.lowest_q}
    if tokens:
        found |= {"token_rewards": score.token_rewards, "q_values": score.q_values}
    return {prefix + key: value for key, value in found.items()}


def _answers_to_a_prompt(
    reward: RewardModel, prompt: str, answers: Sequence[str], settings: Settings, tokens: bool, show: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score the answers typed; print them from the best to the worst."""
    called = [f"--answer number {number}" for number in range(1, len(answers) + 1)]
    scores = _score(reward, [prompt] * len(answers), answers, called, settings)
    order = sorted(range(len(scores)), key=lambda place: -scores[place].reward)
    if show:
        header = ["rank", "reward", *(["lowest Q"] if reward.has_goal else []), "answer"]
        table = []
        for rank, place in enumerate(order, start=1):
            score = scores[place]
            q_value = [] if score.lowest_q is None else [f"{score.lowest_q:.3f}"]
            table.append([str(rank), f"{score.reward:.3f}", *q_value, first_words(answers[place])])
        print_table(header, table, right=header[:-1], no_wrap=header[:-1])
        for rank, place in enumerate(order if tokens else [], start=1):
            print_line()
            print_line(f"answer of rank {rank}, token by token", style="bold")
            _print_tokens(reward, scores[place], settings)
    if not reward.has_goal:
        print_note(f"note: {tell_no_goal(reward)}")
    cut = _tell_cut(reward, scores, settings)
    lines = []
    for place, (text, score) in enumerate(zip(answers, scores, strict=True)):
        pieces = {"tokens": [reward.tokenizer.decode([token]) for token in score.tokens]} if tokens else {}
        lines.append(
            {"index": place, "rank": order.index(place) + 1, "answer": text, **_line(score, tokens), **pieces}
        )
    return {"checkpoint": reward.name, "prompt": prompt, "cut": cut, "answers": lines}, lines


def _print_tokens(reward: RewardModel, score: Score, settings: Settings) -> None:
    skip, q_values = settings.skip_tokens, score.q_values or []
    stops = [place for place, value in enumerate(q_values) if place >= skip and value < settings.threshold]
    marks = {place: ["skipped"] for place in range(min(skip, len(q_values)))}
    if score.lowest_q is not None:
        marks.setdefault(q_values.index(min(q_values[skip:] or q_values)), []).append("lowest")
    if stops:
        marks.setdefault(stops[0], []).append("the filter stops here")
    rows = []
    for place, (token, value) in enumerate(zip(score.tokens, score.token_rewards, strict=True)):
        q_value = [f"{q_values[place]:.3f}", ", ".join(marks.get(place, []))] if q_values else []
        rows.append([str(place + 1), repr(reward.tokenizer.decode([token])), f"{value:.3f}", *q_value])
    header = ["token", "text", "reward", *(["Q-value", ""] if q_values else [])]
    print_table(header, rows, right=("token", "reward", "Q-value"), no_wrap=("token", "text", "reward", "Q-value"))


# ---------------------------------------------------------------------------- measures


def _pairs(
    reward: RewardModel, rows: Rows, settings: Settings, tokens: bool
) -> tuple[dict[str, Any], list[list[str]], list[dict[str, Any]]]:
    """Numbers, their table, and a line a pair."""
    import numpy as np

    from hf_contrastive.evaluation import pairwise_accuracy

    data, count = rows.dataset, len(rows.dataset)
    index = list(data["index"])
    called = [f"record {number}, {side}" for side in ("chosen", "rejected") for number in index]
    with Progress(f"scoring {rows.name}", 2 * count, unit="answers") as progress:
        prompts, answers = list(data["prompt"]), [*data["chosen"], *data["rejected"]]
        scores = _score(reward, prompts * 2, answers, called, settings, progress.advance)
    cut = _tell_cut(reward, scores, settings)
    chosen, rejected = scores[:count], scores[count:]
    gap = np.array([one.reward - other.reward for one, other in zip(chosen, rejected, strict=True)])
    accuracy = pairwise_accuracy([one.reward for one in chosen], [one.reward for one in rejected])
    low, high = interval(accuracy, count)
    lengths = [np.array([len(one.tokens) + one.cut_answer for one in side]) for side in (chosen, rejected)]
    longer = np.sign(lengths[0] - lengths[1])
    record = {
        "pairs": count,
        "accuracy": accuracy,
        "accuracy_interval_95": (low, high),
        "margin": float(gap.mean()),
        "margin_std": float(gap.std()),
        "ties": int((gap == 0).sum()),
        "longer_answer_accuracy": float((longer > 0).mean() + (longer == 0).mean() / 2),
        "cut": cut,
    }
    table = [
        ["pairs", f"{count}"],
        ["pairwise accuracy", f"{_percent(accuracy)} (95 %: {100 * low:.1f}–{100 * high:.1f})"],
        ["mean margin", f"{gap.mean():.3f} (spread {gap.std():.3f})"],
    ]
    if record["ties"]:
        table.append(["equal rewards", f"{record['ties']} (count as wrong)"])
    if reward.has_goal:
        lowest = [[one.lowest_q for one in side] for side in (chosen, rejected)]
        record["q_accuracy"] = pairwise_accuracy(*lowest)
        table.append(["accuracy of the lowest Q-value", _percent(record["q_accuracy"])])
    table.append(
        ["accuracy of 'the longer answer'", f"{_percent(record['longer_answer_accuracy'])} (without any model)"]
    )
    lines = []
    for place, number in enumerate(index):
        line = {
            "index": number,
            **_line(chosen[place], tokens, "chosen_"),
            **_line(rejected[place], tokens, "rejected_"),
        }
        lines.append(line | ({"margin": data[place]["margin"]} if "margin" in data.column_names else {}))
    return record, table, lines


def _marked_answers(
    reward: RewardModel, rows: Rows, settings: Settings, tokens: bool
) -> tuple[dict[str, Any], list[list[str]], list[dict[str, Any]]]:
    """Numbers, their table, and a line an answer."""
    from hf_contrastive.evaluation import answer_metrics, auroc

    data = rows.dataset
    index, labels, questions = list(data["index"]), list(data["is_correct"]), list(data["question_id"])
    if len(set(labels)) < 2:
        raise CliError(
            f"all {len(labels)} answers of {rows.name} are marked {'right' if labels[0] else 'wrong'}; AUROC compares right with "
            "wrong ones. Give data with both, or name the right column with --label-column."
        )
    with Progress(f"scoring {rows.name}", len(data), unit="answers") as progress:
        called = [f"record {number}" for number in index]
        scores = _score(reward, list(data["prompt"]), list(data["answer"]), called, settings, progress.advance)
    cut = _tell_cut(reward, scores, settings)
    kinds = {question: set() for question in questions}
    for question, label in zip(questions, labels, strict=True):
        kinds[question].add(label)
    mixed = sum(len(both) == 2 for both in kinds.values())
    several = len(kinds) < len(questions)  # a vote needs several answers to a question
    found = answer_metrics(
        [vars(one) for one in scores],
        labels,
        questions,
        list(data["predicted_answer"]) if several else None,
        threshold=settings.threshold,
        skip_tokens=settings.skip_tokens,
        percentiles=SHARES,
    )
    partial = found["partial_auroc"]
    record: dict[str, Any] = {
        "answers": len(scores),
        "questions": len(kinds),
        "right": found["correct"],
        "auroc": found["auroc"],
        "auroc_within_questions": found.get("auroc_within"),
        "questions_with_both": mixed,
        "partial_auroc": {f"{share:g}": value for share, value in partial.items()},
        "length_auroc": auroc([len(one.tokens) + one.cut_answer for one in scores], labels),
        "cut": cut,
    }
    table = [
        ["answers", f"{len(scores)} to {len(kinds)} questions, {_percent(record['right'])} of them right"],
        ["AUROC of the reward", f"{record['auroc']:.3f}"],
    ]
    if mixed:
        within = (
            f"{record['auroc_within_questions']:.3f} ({mixed} of {len(kinds)} questions have right and wrong answers)"
        )
        table.append(["... within questions", within])
    for share, value in partial.items():
        last = " (at its last token; the reward is read at the end of text behind it)" if share == 1 else ""
        table.append([f"... after {100 * share:.0f} % of the answer", f"{value:.3f}{last}"])
    if reward.has_goal:
        _q_values(record, table, scores, found, settings)
    table.append(["AUROC of the length", f"{record['length_auroc']:.3f} (without any model)"])
    lines = []
    for place, number in enumerate(index):
        line = {"index": number, **_line(scores[place], tokens), "is_correct": labels[place]}
        lines.append(line | {key: data[place][key] for key in ("question_id", "predicted_answer")})
    return record, table, lines


def _q_values(
    record: dict[str, Any],
    table: list[list[str]],
    scores: Sequence[Score],
    found: dict[str, Any],
    settings: Settings,
) -> None:
    """Add what the Q-values tell, and the filtered vote where there is something to vote on."""
    import numpy as np

    lowest = np.array([one.lowest_q for one in scores], dtype=float)
    low, tenth, middle, high = np.quantile(lowest, [0, 0.1, 0.5, 1]).tolist()
    record |= {"q_auroc": found["q_auroc"], "lowest_q": {"min": low, "median": middle, "max": high}}
    table.append(["AUROC of the lowest Q-value", f"{record['q_auroc']:.3f}"])
    table.append(["lowest Q-values", f"{low:.3f} to {high:.3f}, half of them below {middle:.3f}"])
    vote = found.get("vote")
    if vote is None:
        return
    record["vote"] = {"threshold": settings.threshold, "skip_tokens": settings.skip_tokens, **vote.summary()}
    table += [
        ["vote of all answers", f"{_percent(vote.accuracy_unfiltered)} ({_percent(vote.accuracy_unfiltered_strict)})"],
        ["vote of the filtered answers", f"{_percent(vote.accuracy)} ({_percent(vote.accuracy_strict)})"],
        ["", "of the questions right; in brackets with ties as wrong"],
        [
            "filtered",
            f"{_percent(vote.filtered_share)} of the answers, whose Q-value falls below {settings.threshold:g}",
        ],
        ["tokens saved", _percent(vote.tokens_saved_share)],
    ]
    if vote.all_filtered:
        table.append(["questions with all filtered", f"{vote.all_filtered} (all their answers vote)"])
    if not vote.filtered:
        why = "no answer is" if low >= settings.threshold else "of no question some answers, but not all, are"
        print_note(
            f"note: {why} below --threshold {settings.threshold:g}, so the filter changes nothing. A tenth of the answers is below "
            f"{tenth:.3f}."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
