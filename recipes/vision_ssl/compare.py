"""All systems that compare views of images, on the same backbone, data and budget: table, plot, page.

    python recipes/vision_ssl/compare.py recipes/vision_ssl/digits.yaml
    python recipes/vision_ssl/compare.py recipes/vision_ssl/small.yaml --seeds 0 1 2 --page docs/comparison.md \
        --name "CIFAR-10, 5000 images" -- --dataset_path ../shared/data/cifar10_small

Every system runs its own recipe in a process of its own, so that its peak memory is its own, for as many views as the file
says. What stands after `--` goes to every recipe. A finished run is not repeated as long as the settings are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
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
from hf_contrastive.reporting import (
    markdown_table,
    mean_and_spread,
    metrics_table,
    plot_accuracy_bars,
    say,
    write_section,
)


ROOT = Path(__file__).resolve().parents[2]
COLUMNS = {"knn": "kNN %", "linear": "linear probe %", "projection_rank": "rank of projections"}


def read_settings(path: Path) -> dict[str, Any]:
    """The file: `shared` fields, `views` in all, and the fields of each system."""
    return read_comparison(path, {"shared": "fields", "views": "number"}, "image")


def words_of(slug: str, settings: Mapping[str, Any], seed: int, folder: Path, extra: Sequence[str]) -> list[str]:
    """The command line of one system's recipe, without the file.

    Args:
        slug (`str`): the system.
        settings (`Mapping`): of the YAML.
        seed (`int`): of the run.
        folder (`Path`): its output.
        extra (`Sequence[str]`): further words for every recipe.
    """
    fields = {**settings["shared"], **(settings["systems"][slug] or {})}
    views = fields.get("num_views", 2) + fields.get("num_local_views", 0)
    if slug == "npid":  # one view of each image
        fields.setdefault("num_views", 1)
        views = fields["num_views"]
    steps = round(settings["views"] / (views * fields["per_device_train_batch_size"]))
    words = option_words({**fields, "max_steps": steps, "seed": seed, "output_dir": str(folder)})
    return [*words, "--pictures", "false", "--save_strategy", "no", *extra]


def run_one(slug: str, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a recipe in a process of its own.

    Args:
        slug (`str`): the system.
        words (`Sequence[str]`): its command line.
        folder (`Path`): its output; what is finished there is read.

    Returns:
        `dict`: `all_results.json` of the run, with `peak_memory` in bytes.

    Raises:
        SystemExit: the run failed.
    """
    note = folder / "compare.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8"))["words"] == list(words):
        memory = json.loads(note.read_text(encoding="utf-8"))["peak_memory"]
    else:
        command = [sys.executable, str(ROOT / "recipes" / slug / "train.py"), *words, "--overwrite"]
        say(shlex.join(["python", f"recipes/{slug}/train.py", *words]))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ})
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            sys.exit(f"error: the recipe of {slug} failed; run the command above to see why.")
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        note.write_text(json.dumps({"words": list(words), "peak_memory": memory}), encoding="utf-8")
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    return {**results, "peak_memory": memory}


def rows_of(slug: str, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row of the table for each kind of features that a system's runs measured.

    Args:
        slug (`str`): the system.
        runs (`Sequence[Mapping]`): one a seed.

    Returns:
        `list[dict]`: name, lists of values by column; the trained system comes last.
    """
    table = []
    for place, row in enumerate(runs[0]["rows"]):
        own = [run["rows"][place] for run in runs]
        line: dict[str, Any] = {"features": row["features"]}
        for key in COLUMNS:
            if key in row:
                line[key] = [one[key] for one in own]
        table.append(line)
    trained = table[-1]
    trained["features"] = REGISTRY[slug].title
    trained["speed"] = [next(reversed(run["views_per_second"].values())) for run in runs]
    trained["memory"] = [run["peak_memory"] for run in runs]
    trained["steps"] = runs[0]["steps"]
    return table


def shown(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table as text."""
    lines = []
    for row in table:
        line: dict[str, Any] = {"features": row["features"]}
        for key, title in COLUMNS.items():
            factor, digits = (100, 1) if title.endswith("%") else (1, 1)
            line[title] = mean_and_spread([factor * value for value in row[key]], digits) if key in row else "-"
        line["views/s"] = mean_and_spread(row["speed"], 0) if "speed" in row else "-"
        line["peak memory MB"] = f"{max(row['memory']) / 1e6:.0f}" if "memory" in row else "-"
        line["steps"] = row.get("steps", "-")
        lines.append(line)
    return lines


def draw(table: Sequence[Mapping[str, Any]], out: Path, data: str) -> None:
    """kNN and linear probe of every kind of features as bars; the lines are one standard deviation over the seeds."""
    bars = []
    for row in table:
        bar: dict[str, Any] = {"encoder": row["features"]}
        for key, name in (("knn", "kNN"), ("linear", "linear probe")):
            if key in row:
                mean = statistics.mean(row[key])
                bar[name] = mean
                if len(row[key]) > 1:
                    deviation = statistics.stdev(row[key])
                    bar[f"{name}_interval"] = (mean - deviation, mean + deviation)
        bars.append(bar)
    plot_accuracy_bars(bars, out, metrics=["kNN", "linear probe"], data=data)


def section(args: argparse.Namespace, extra: Sequence[str], table: Sequence[Mapping[str, Any]], first: Any) -> str:
    """The part of the page: what was run, the table, the picture, the command."""
    settings = read_settings(args.config)
    words = [
        "python",
        "recipes/vision_ssl/compare.py",
        shown_path(args.config, ROOT),
        "--seeds",
        *map(str, args.seeds),
    ]
    words += ["--name", args.name, "--page", shown_path(args.page, ROOT), *(["--", *extra] if extra else [])]
    shared = settings["shared"]
    seeds = f"mean ± standard deviation over the seeds {', '.join(map(str, args.seeds))}"
    lines = [
        f"## {args.name}",
        "",
        f"{first['train_rows']} training images, {first['test_rows']} test images, backbone `{shared['backbone']}` "
        f"{json.dumps(shared.get('backbone_options', {}))}, {settings['views']:,} views for every system, batches of "
        f"{shared['per_device_train_batch_size']} images; {seeds if len(args.seeds) > 1 else f'seed {args.seeds[0]}'}. "
        "kNN (cosine, 20 neighbours) and linear probe on the frozen backbone. Rank: effective rank of the centred unit "
        "projections of the test images. Views/s: training, with the making of the views. Peak memory: of the whole process.",
        "",
        markdown_table(shown(table)),
        "",
        f"![kNN and linear-probe accuracy of every system, as in the table]({picture_of(args).name})",
        "",
        f"{first['machine']}; {first['date']}. Command:",
        "",
        f"    {shlex.join(words)}",
    ]
    return "\n".join(lines)


def picture_of(args: argparse.Namespace) -> Path:
    """Where the picture goes: beside the page, or to the folder of the runs."""
    folder = args.page.parent if args.page else args.out
    return folder / f"comparison-{file_label(args.name)}.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML: shared, views, systems")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--systems", nargs="+", help="only these; default: all of the file")
    parser.add_argument("--name", default="comparison", help="heading of the section in the page")
    parser.add_argument("--page", type=Path, help="Markdown file whose section of that name is written")
    parser.add_argument("--out", type=Path, default=Path("out/vision_ssl"), help="default: out/vision_ssl")
    own, extra = split_words(sys.argv[1:])
    args = parser.parse_args(own)
    settings = read_settings(args.config)
    systems = chosen_systems(args.systems, settings, args.config)

    table: list[dict[str, Any]] = []
    first: Any = None
    for slug in systems:
        runs = []
        for seed in args.seeds:
            folder = args.out / f"{file_label(args.name)}-{slug}-{seed}"
            runs.append(run_one(slug, words_of(slug, settings, seed, folder, extra), folder))
        rows = rows_of(slug, runs)
        if first is None:
            first = runs[0]
            table += [row for row in rows if row["features"] in ("raw pixels", "untrained encoder")]
        table.append(rows[-1])
    metrics_table(shown(table), title=f"{args.name}: {settings['views']:,} views for every system")
    args.out.mkdir(parents=True, exist_ok=True)
    draw(table, picture_of(args), args.name)
    say(f"picture: {picture_of(args)}")
    if args.page:
        write_section(
            args.page, args.name, section(args, extra, table, first), new_page="# Comparison of image systems\n"
        )
        say(f"written: section {args.name!r} of {args.page}")


if __name__ == "__main__":
    main()
