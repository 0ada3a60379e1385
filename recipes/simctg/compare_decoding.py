"""Greedy, beam, nucleus and contrastive search side by side, on any language model and any prompts.

python recipes/simctg/compare_decoding.py --models out/simctg-topics --prompts "The with statement" "A function is"
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_contrastive.evaluation import isotropy_of_texts
from hf_contrastive.recipes import common, decoding, texts
from hf_contrastive.reporting import metrics_table, say
from hf_contrastive.training import parse_recipe_arguments


EXAMPLE = """python recipes/simctg/compare_decoding.py --models gpt2-large --prompts "DeepMind Company is" --new_tokens 200
python recipes/simctg/compare_decoding.py --models out/a out/b --dataset_path novel.txt --test_fraction 0.1 --scorer facebook/opt-1.3b"""


@dataclass
class CompareArguments:
    """comparison: models and prompts"""

    models: list[str] = field(metadata={"help": "Folders or hub ids of language models."})
    prompts: list[str] | None = field(
        default=None,
        metadata={"help": "Texts to go on with; without them, beginnings from the test split of dataset_path."},
    )
    prompts_file: str | None = common.option(None, "File with one prompt a line.")
    scorer: str | None = common.option(None, "Language model that scores coherence: folder or hub id.")
    seed: int = common.option(0, "Of nucleus sampling.")
    show: int = common.option(1, "Print the continuations of so many prompts.")
    output_dir: str = common.option("out/decoding", "Where table, texts and pictures go.")


def main() -> None:
    comparison, options, data = parse_recipe_arguments(
        (CompareArguments, decoding.DecodingArguments, texts.TextDataArguments),
        prog="recipes/simctg/compare_decoding.py",
        description="Compare ways of decoding: table of repetition, diversity and coherence, all texts, and contrastive "
        "search token by token.",
        example=EXAMPLE,
    )
    common.check_choice("methods", options.methods, decoding.METHODS)
    folder = Path(comparison.output_dir)
    with common.plain_errors():
        own = own_prompts(comparison)
        test = None if own else texts.load_splits(data)[1]
        if own is None and test is None:
            raise ValueError(
                "there are no prompts; pass --prompts, --prompts_file, or a --dataset_path with a test split."
            )
        scorer = None if comparison.scorer is None else texts.load_scorer(comparison.scorer)
    rows: list[dict[str, Any]] = []
    about: list[dict[str, Any]] = []
    written: dict[str, dict[str, list[str]]] = {}
    asked: dict[str, list[str]] = {}
    traced: list[tuple[str, Any, Any, Any]] = []
    for place in comparison.models:
        with common.plain_errors():
            model, tokenizer = texts.load_language_model(place, "models")
            prompts = (
                decoding.make_prompts(test, tokenizer, options)
                if own is None
                else decoding.tokenize_prompts(own, tokenizer)
            )
            decoding.check_length(model, prompts, options)
        name = Path(place).name
        name = place if name in written else name
        kept: dict[str, list[str]] = {}
        rows += decoding.measure_decoding(
            name, model, tokenizer, prompts, options, scorer=scorer, seed=comparison.seed, keep=kept
        )
        asked[name] = tokenizer.batch_decode(prompts.prefixes, skip_special_tokens=True)
        written[name] = kept
        if prompts.continuations:
            people = tokenizer.batch_decode(prompts.continuations, skip_special_tokens=True)
            whole = [prompt + text for prompt, text in zip(asked[name], people, strict=True)]
            about.append({"model": name, "isotropy": isotropy_of_texts(whole, model, tokenizer)["isotropy"]})
            if place == comparison.models[-1]:
                rows.append(decoding.measure_reference(prompts, tokenizer, scorer))
        traced.append((name, model, tokenizer, prompts))

    count = max(map(len, asked.values()))
    decoding.show_decoding(rows, f"{count} prompts, up to {options.new_tokens} new tokens")
    if about:
        say()
        metrics_table(
            [{"model": row["model"], "isotropy": f"{row['isotropy']:.3f}"} for row in about],
            title="isotropy (near 0: all states look alike, and alpha 0.6 is too much)",
        )
    for name, kept in written.items():
        for number, prompt in enumerate(asked[name][: comparison.show]):
            say(f"\nprompt: {prompt}")
            for way, found in kept.items():
                say(f"\n--- {name}, {way}\n{found[number]}")
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "rows": rows,
        "isotropy": about,
        "prompts": asked,
        "texts": written,
        "command": common.command_line(public=True, launcher="python"),
        "machine": common.machine(),
    }
    path = folder / "comparison.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False, default=float) + "\n", encoding="utf-8")
    say(f"\ntable and all texts: {path}")
    for name, model, tokenizer, prompts in traced:
        draw(folder, name, model, tokenizer, prompts, options, asked[name][0])


def own_prompts(comparison: CompareArguments) -> list[str] | None:
    """The prompts that were typed or stand in the file."""
    found = list(comparison.prompts or [])
    if comparison.prompts_file is not None:
        lines = Path(comparison.prompts_file).read_text(encoding="utf-8").splitlines()
        found += [line for line in lines if line.strip()]
    return found or None


def draw(
    folder: Path, name: str, model: Any, tokenizer: Any, prompts: Any, options: decoding.DecodingArguments, asked: str
) -> None:
    """Contrastive search token by token, for the first prompt."""
    if "contrastive" not in options.methods:
        return
    if importlib.util.find_spec("matplotlib") is None:
        say("no picture was drawn: matplotlib is not installed; type: pip install 'hf-contrastive[plots]'")
        return
    from hf_contrastive.reporting import plot_contrastive_trace

    trace = decoding.trace_contrastive(model, tokenizer, prompts.prefixes[0], options)
    shown = " ".join(asked.split())
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    picture = plot_contrastive_trace(
        trace,
        folder / "plots" / f"{safe}.png",
        penalty_alpha=options.penalty_alpha,
        data=f"{name}, after “{shown}”",
    )
    say(f"picture: {picture.path}")


if __name__ == "__main__":
    main()
