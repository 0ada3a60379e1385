"""Recommenders on one log: a search of equal budget for each, several seeds of the best setting, one table.

    python recipes/recommenders/compare.py recipes/recommenders/planted.yaml
    python recipes/recommenders/compare.py recipes/recommenders/lastfm.yaml --seeds 0 1 2 --name "Last.FM" \
        --page RESULTS.md --cards -- --dataset_path ../shared/data/lastfm-lightgcn

Every system has as many trials as the others, each one a run of its own recipe with the first seed, stopped early on the part
that `select_on` names; the best of them is repeated with the other seeds. What stands after `--` goes to every recipe. A
finished run is not repeated as long as its words are the same; with --kept FILE its results are also kept in a file of their own, from
which they are taken where the folder of the run is gone: a comparison of many hours goes on elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import runpy
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_contrastive.recipes.comparisons import (
    chosen_systems,
    file_label,
    option_words,
    read_comparison,
    shown_path,
    split_words,
)
from hf_contrastive.registry import REGISTRY
from hf_contrastive.reporting import markdown_table, mean_and_spread, metrics_table, say, write_section


ROOT = Path(__file__).resolve().parents[2]


def read_settings(path: Path) -> dict[str, Any]:
    """The file: `shared` fields, and for each system `fields` and `trials`, as many for each.

    Args:
        path (`Path`): YAML.

    Raises:
        SystemExit: with one line, where something is missing, unknown, or unequal.
    """
    settings = read_comparison(path, {"shared": "fields"}, "interaction")
    counts = {slug: len(system.get("trials") or [{}]) for slug, system in settings["systems"].items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{slug} {count}" for slug, count in counts.items())
        sys.exit(f"error: the numbers of trials differ ({shown}); give every system as many.")
    return settings


def words_of(settings: Mapping[str, Any], slug: str, trial: Mapping[str, Any], extra: Sequence[str]) -> list[str]:
    """The command line of one run, without seed and folder.

    Args:
        settings (`Mapping`): of the YAML.
        slug (`str`): the system.
        trial (`Mapping`): fields that this trial sets.
        extra (`Sequence[str]`): further words for every recipe.
    """
    fields = {**settings["shared"], **(settings["systems"][slug].get("fields") or {}), **trial}
    return [*option_words(fields), "--pictures", "false", *extra]


def read_kept(file: Path, name: str, words: Sequence[str]) -> dict[str, Any] | None:
    """The results of a run that was finished before, or `None`.

    Args:
        file (`Path`): JSON lines of `keep`.
        name (`str`): of the run's folder.
        words (`Sequence[str]`): of its command line; with others it is another run.

    Raises:
        SystemExit: a line that is no JSON.
    """
    if not file.is_file():
        return None
    found = None
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            sys.exit(f"error: line {number} of {file} is no JSON; a write was cut short there. Delete that line.")
        if entry["run"] == name and entry["words"] == list(words):
            found = entry["results"]
    return found


def keep(file: Path, name: str, words: Sequence[str], results: Mapping[str, Any]) -> None:
    """Add the results of a finished run.

    Args:
        file (`Path`), name (`str`), words (`Sequence[str]`): as of `read_kept`.
        results (`Mapping`): `all_results.json` of the run.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"run": name, "words": list(words), "results": results}) + "\n")


def run_one(slug: str, words: Sequence[str], seed: int, folder: Path, kept: Path | None = None) -> dict[str, Any]:
    """Run a recipe in this process; what it says goes to a file beside its folder.

    Args:
        slug (`str`): the system.
        words (`Sequence[str]`): its command line.
        seed (`int`): of the run.
        folder (`Path`): its output; what is finished there is read.
        kept (`Path`, *optional*): file of finished runs, read first and added to.

    Returns:
        `dict`: `all_results.json` of the run.

    Raises:
        SystemExit: the run failed.
    """
    note, results = folder / "compare.json", folder / "all_results.json"
    before_now = None if kept is None else read_kept(kept, folder.name, words)
    if before_now is not None:
        return before_now
    if not (note.is_file() and results.is_file() and json.loads(note.read_text(encoding="utf-8")) == list(words)):
        file = ROOT / "recipes" / slug / "train.py"
        command = [*words, "--seed", str(seed), "--output_dir", str(folder), "--overwrite", "true"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        started, before, log = time.time(), sys.argv, folder.with_suffix(".log")
        sys.argv = [str(file), *command]
        try:
            with log.open("w", encoding="utf-8") as said, contextlib.redirect_stdout(said):
                runpy.run_path(str(file), run_name="__main__")
        except SystemExit as stopped:
            if stopped.code:
                sys.exit(f"error: recipes/{slug}/train.py {shlex.join(command)} failed; see above and {log}.")
        finally:
            sys.argv = before
        for checkpoint in folder.glob("checkpoint-*"):  # the best one has become the model
            for path in sorted(checkpoint.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            checkpoint.rmdir()
        note.write_text(json.dumps(list(words)), encoding="utf-8")
        say(
            f"{folder.name}: {time.time() - started:.0f} s, valid or chosen {_chosen(json.loads(results.read_text())):.4f}"
        )
    found = json.loads(results.read_text(encoding="utf-8"))
    if kept is not None:
        keep(kept, folder.name, words, found)
    return found


def own_row(result: Mapping[str, Any], name: str | None = None) -> Mapping[str, Any]:
    """The row of the trained system, or of another one."""
    wanted = REGISTRY[result["system"]].title if name is None else name
    return next(row for row in result["ranking"] if row["model"] == wanted)


def _chosen(result: Mapping[str, Any]) -> float:
    """What trials are compared by: recall of the longest list on the part that chooses."""
    return own_row(result)[result["select_on"]][f"recall@{max(result['ks'])}"]


def table_of(found: Mapping[str, Sequence[Mapping[str, Any]]], trials: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a system, popularity first.

    Args:
        found (`Mapping`): by system the results of all seeds.
        trials (`Mapping`): by system the trial that was chosen.
    """
    first = next(iter(found.values()))[0]
    rows: list[tuple[str, Sequence[Mapping[str, Any]], str | None, Any]] = [("popularity", [first], "popularity", {})]
    rows += [(REGISTRY[slug].title, runs, None, trials[slug]) for slug, runs in found.items()]
    table = []
    for title, runs, name, trial in rows:
        line: dict[str, Any] = {"model": title}
        for split, metric, k in _columns(first):
            line[f"{split} {metric[0].upper()}@{k}"] = mean_and_spread(
                [own_row(run, name)[split][f"{metric}@{k}"] for run in runs], 4
            )
        if name is None:
            line["best epoch"] = ", ".join(f"{run['best_epoch']:g}" if run["best_epoch"] else "-" for run in runs)
            line["setting"] = ", ".join(f"{key} {value}" for key, value in trial.items()) or "-"
        else:
            line |= {"best epoch": "-", "setting": "-"}
        table.append(line)
    return table


def trials_of(searched: Mapping[str, Sequence[tuple[Mapping[str, Any], float]]], title: str) -> list[dict[str, Any]]:
    """Every setting that was tried, with what it was judged by.

    Args:
        searched (`Mapping`): by system the trials and their figures, with the first seed.
        title (`str`): of the column of figures.
    """
    return [
        {
            "model": REGISTRY[slug].title,
            "setting": ", ".join(f"{key} {value}" for key, value in trial.items()) or "-",
            title: f"{figure:.4f}",
        }
        for slug, trials in searched.items()
        for trial, figure in trials
    ]


def _columns(first: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    short, long = min(first["ks"]), max(first["ks"])
    row = first["ranking"][0]
    columns = [("valid", "recall", long)] if "valid" in row else []
    if "test" in row:
        columns += [("test", metric, k) for k in dict.fromkeys((short, long)) for metric in ("recall", "ndcg")]
    return columns


def section(
    args: argparse.Namespace,
    extra: Sequence[str],
    table: Sequence[Mapping[str, Any]],
    searched: Mapping[str, Sequence[tuple[Mapping[str, Any], float]]],
    first: Mapping[str, Any],
    count: int,
    level: str,
) -> str:
    """The part of a page: what was run, the table, the command."""
    words = [
        "python",
        "recipes/recommenders/compare.py",
        shown_path(args.config, ROOT),
        "--seeds",
        *map(str, args.seeds),
    ]
    words += ["--systems", *args.systems] if args.systems else []
    words += ["--name", args.name, *(["--page", shown_path(args.page, ROOT)] if args.page else [])]
    words += ["--cards"] if args.cards else []
    words += ["--", *extra] if extra else []
    counts = first["counts"]
    rows = ", ".join(f"{counts[split]:,} {split}" for split in ("train", "valid", "test"))
    seeds = "mean ± standard deviation over the seeds " + ", ".join(map(str, args.seeds))
    part = (
        "valid part"
        if first["select_on"] == "valid"
        else "TEST part (as the figure it repeats was chosen: not an honest one)"
    )
    search = []
    if count > 1:
        title = f"{first['select_on']} R@{max(first['ks'])}"
        search = [f"All settings, seed {args.seeds[0]}:", "", markdown_table(trials_of(searched, title)), ""]
    lines = [
        f"{level} {args.name}",
        "",
        f"{counts['users']:,} users, {counts['items']:,} items, pairs: {rows}. Full ranking of the catalogue, {first['mask']} items left "
        f"out; R: recall, N: NDCG. For every system {count} setting{'s were' if count > 1 else ' was'} tried with seed {args.seeds[0]}; "
        f"setting and epoch are the best on the {part}; "
        f"{seeds if len(args.seeds) > 1 else f'seed {args.seeds[0]}, so nothing is known of the spread'}.",
        "",
        markdown_table(table),
        "",
        *search,
        f"{first['machine']}; {first['date']}. Command:",
        "",
        f"    {shlex.join(words)}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML: shared, systems (fields, trials)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--systems", nargs="+", help="only these; default: all of the file")
    parser.add_argument("--name", default="comparison", help="heading of the section")
    parser.add_argument("--page", type=Path, help="Markdown file whose section of that name is written")
    parser.add_argument("--cards", action="store_true", help="write the section into every system's card, too")
    parser.add_argument("--out", type=Path, default=Path("out/recommenders"), help="default: out/recommenders")
    parser.add_argument("--kept", type=Path, help="file of the results of finished runs, which is read and added to")
    own, extra = split_words(sys.argv[1:])
    args = parser.parse_args(own)
    settings = read_settings(args.config)
    systems = chosen_systems(args.systems, settings, args.config)

    found: dict[str, list[dict[str, Any]]] = {}
    chosen: dict[str, Any] = {}
    searched: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    count = 1
    for slug in systems:
        trials = settings["systems"][slug].get("trials") or [{}]
        count = len(trials)
        runs: list[dict[str, Any]] = []
        for number, trial in enumerate(trials):
            folder = args.out / f"{file_label(args.name)}-{slug}-{number}-{args.seeds[0]}"
            runs.append(run_one(slug, words_of(settings, slug, trial, extra), args.seeds[0], folder, args.kept))
        best = max(range(count), key=lambda number: _chosen(runs[number]))
        chosen[slug] = trials[best]
        searched[slug] = [(trial, _chosen(run)) for trial, run in zip(trials, runs, strict=True)]
        found[slug] = [runs[best]]
        for seed in args.seeds[1:]:
            folder = args.out / f"{file_label(args.name)}-{slug}-{best}-{seed}"
            found[slug].append(run_one(slug, words_of(settings, slug, trials[best], extra), seed, folder, args.kept))
    table = table_of(found, chosen)
    first = next(iter(found.values()))[0]
    metrics_table(table, title=f"{args.name}: {count} trials for every system")
    if args.page:
        write_section(args.page, args.name, section(args, extra, table, searched, first, count, "##"))
        say(f"written: section {args.name!r} of {args.page}")
    if args.cards:
        for slug in systems:
            card = ROOT / REGISTRY[slug].card
            write_section(card, args.name, section(args, extra, table, searched, first, count, "###"))
            say(f"written: section {args.name!r} of {shown_path(card, ROOT)}")


if __name__ == "__main__":
    main()
