"""Run a recipe with several seeds and write mean and spread into its model card.

    python recipes/run_seeds.py recipes/gsimclr/train.py recipes/gsimclr/small.yaml --seeds 0 1 2 \
        --name "CIFAR-10, 5000 images" --card model_cards/gsimclr.md -- --dataset_path ../shared/data/cifar10_small

What stands after `--` goes to the recipe. Every run leaves its folder below --out; a finished one is not repeated as long as
the settings are the same.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from hf_contrastive.recipes.comparisons import file_label, split_words
from hf_contrastive.recipes.entity_measures import TITLES
from hf_contrastive.recipes.image_text_measures import column_title
from hf_contrastive.recipes.linkage_measures import link_columns
from hf_contrastive.reporting import markdown_table, mean_and_spread, write_section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="recipes/<system>/train.py")
    parser.add_argument("config", help="YAML of the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--name", required=True, help="heading of the section in the card")
    parser.add_argument("--card", required=True, type=Path, help="model_cards/<system>.md")
    parser.add_argument("--out", type=Path, default=Path("out/seeds"), help="default: out/seeds")
    own, recipe_words = split_words(sys.argv[1:])
    args = parser.parse_args(own)
    slug = Path(args.recipe).parent.name
    label = file_label(args.name)
    results = []
    for seed in args.seeds:
        folder = args.out / f"{slug}-{label}-{seed}"
        wanted = {"words": recipe_words, "settings": Path(args.config).read_text(encoding="utf-8")}
        note = folder / "run_seeds.json"
        finished = (folder / "all_results.json").is_file()
        if finished and (not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != wanted):
            sys.exit(f"error: {folder} was run with other settings; delete it, or choose another --out.")
        if not finished:
            command = [sys.executable, args.recipe, args.config, *recipe_words, "--seed", str(seed)]
            command += ["--output_dir", str(folder), "--pictures", "false"]
            if folder.exists():
                command.append("--overwrite")
            print(shlex.join(command[1:]), flush=True)
            subprocess.run(command, check=True)
            note.write_text(json.dumps(wanted), encoding="utf-8")
        results.append(json.loads((folder / "all_results.json").read_text(encoding="utf-8")))
    section = seeds_section(args, recipe_words, results)
    write_section(args.card, args.name, section)
    print(section)


def seeds_section(args: argparse.Namespace, recipe_words: list[str], results: list[dict]) -> str:
    """The table of all seeds, with the command that makes it."""
    words = ["python", "recipes/run_seeds.py", args.recipe, args.config, "--seeds", *map(str, args.seeds)]
    words += ["--name", args.name, "--card", str(args.card), *(["--", *recipe_words] if recipe_words else [])]
    if "measured" in results[0]:
        body = measured_tables(results)
    elif "decoding" in results[0]:
        body = text_tables(results)
    elif "reward_models" in results[0]:
        body = preference_tables(results)
    elif "pair_rows" in results[0]:
        body = pair_tables(results)
    elif "clone_rows" in results[0]:
        body = program_tables(results)
    elif "entity_rows" in results[0]:
        body = entity_tables(results)
    elif "link_rows" in results[0]:
        body = link_tables(results)
    else:
        body = image_tables(results)
    first = results[0]
    days = sorted({result["date"] for result in results})
    dates = list(dict.fromkeys((days[0], days[-1])))
    seconds = statistics.median(result["seconds"] for result in results)
    head = f"mean ± standard deviation over the seeds {', '.join(map(str, args.seeds))}."
    if len(args.seeds) == 1:
        head = f"one seed ({args.seeds[0]}), so nothing is known of the spread."
    lines = [
        f"### {args.name}",
        "",
        *[line.replace("{seeds}", head) for line in body],
        f"{first['machine']}; {seconds:.0f} s a seed (median, on a shared machine); {' to '.join(dates)}. Command:",
        "",
        f"    {shlex.join(words)}",
    ]
    return "\n".join(lines)


def measured_tables(results: list[dict]) -> list[str]:
    """Tables of recipes that say themselves what stands in them: `measured` holds, for each table, `title`, `columns` (for
    each its name, title, factor and digits), `rows` (each with `model`) and `compared`, the columns whose differences are told by seed.
    """
    first = results[0]
    lines = [f"{first['about']}, {first['steps']} steps; {{seeds}}", ""]
    for number, table in enumerate(first["measured"]):
        by_seed = [{row["model"]: row for row in result["measured"][number]["rows"]} for result in results]
        columns = {name: about for name, *about in table["columns"]}
        if number:
            lines += ["", f"{table['title']}:", ""]
        shown = []
        for name, row in by_seed[0].items():
            line = {"model": name}
            for column, (title, factor, digits) in columns.items():
                own = [factor * seed[name][column] for seed in by_seed if seed[name].get(column) is not None]
                line[title] = mean_and_spread(own, digits) if column in row and own else "-"
            shown.append(line)
        lines += [markdown_table(shown), ""]
        for column in table.get("compared", ()):
            title, factor, digits = columns[column]
            best = by_seed[0].get(first["trained"], {})
            for name, row in by_seed[0].items():
                if name == first["trained"] or row.get(column) is None or best.get(column) is None:
                    continue
                gains = [factor * (seed[first["trained"]][column] - seed[name][column]) for seed in by_seed]
                told = ", ".join(f"{gain:+.{digits}f}" for gain in gains)
                mean = statistics.mean(gains)
                lines.append(f"- {title}: {first['trained']} minus {name} by seed: {told}; mean {mean:+.{digits}f}.")
    return [*lines, ""]


def text_tables(results: list[dict]) -> list[str]:
    """Perplexity and isotropy of every model, and what every way of decoding writes."""
    first = results[0]
    prompts = first["prompts"]
    lines = [
        f"{first['train_rows']} training rows of up to {first['block_size']} tokens, {first['steps']} steps; {{seeds}}",
        "",
    ]
    table = []
    for row in first["models"]:
        line = {"model": row["model"]}
        for key, title, digits in (
            ("loss", "test loss", 3),
            ("perplexity", "perplexity", 1),
            ("isotropy", "isotropy", 3),
        ):
            values = [other[key] for result in results for other in result["models"] if other["model"] == row["model"]]
            line[title] = mean_and_spread(values, digits)
        table.append(line)
    lines += [markdown_table(table), ""]
    lines.append(
        f"{prompts['count']} prompts of {prompts['length']} tokens from the test texts, {prompts['new_tokens']} new tokens; diversity "
        "and repetition in percent, coherence: mean log-probability of a token under the scorer (nats):"
    )
    table = []
    for row in first["decoding"]:
        line = {"model": row["model"], "decoding": row["decoding"]}
        for key, digits in (("diversity", 1), ("rep-2", 1), ("rep-4", 1), ("coherence", 2), ("length", 1)):
            values = [
                other[key]
                for result in results
                for other in result["decoding"]
                if (other["model"], other["decoding"]) == (row["model"], row["decoding"])
                and other.get(key) is not None
            ]
            line["tokens" if key == "length" else key] = mean_and_spread(values, digits) if values else "-"
        table.append(line)
    return [*lines, "", markdown_table(table), ""]


def preference_tables(results: list[dict]) -> list[str]:
    """What rewards and Q-values tell right from wrong by, the filtered vote, and answers that were stopped while written."""
    first = results[0]
    lines = [
        f"{first['train_rows']} training pairs of up to {first['max_length']} tokens, {first['steps']} steps; {{seeds}}"
    ]
    names = [row["model"] for row in first["reward_models"]]

    def values(name: str, key: str, part: str | None = None) -> list[float]:
        rows = [row for result in results for row in result["reward_models"] if row["model"] == name]
        return [row[key] if part is None else row[key][part] for row in rows if key in row]

    kinds = {
        "accuracy": ("pairs right %", 100, 1),
        "auroc": ("AUROC", 1, 3),
        "auroc_within": ("AUROC within questions", 1, 3),
        "q_auroc": ("AUROC of lowest Q", 1, 3),
        "q_auroc_within": ("of lowest Q within questions", 1, 3),
        "vote": ("vote %", 100, 1),
        "filtered_vote": ("filtered vote %", 100, 1),
        "filtered_share": ("filtered %", 100, 1),
        "tokens_saved_share": ("tokens saved %", 100, 1),
        "pos_sim": ("cosine of positives", 1, 2),
        "neg_sim": ("of negatives", 1, 2),
    }
    table = []
    for name in names:
        line = {"model": name}
        for key, (title, factor, digits) in kinds.items():
            found = [factor * value for value in values(name, key)]
            if found:
                line[title] = mean_and_spread(found, digits)
        table.append(line)
    if "answers" in first["reward_models"][0]:
        row = first["reward_models"][0]
        lines[0] += f" {row['answers']} marked answers, {100 * row['correct']:.1f} % right."
    lines += ["", markdown_table(table), ""]
    if "partial_auroc" in first["reward_models"][0]:
        table = []
        for name in names:
            shares = first["reward_models"][0]["partial_auroc"]
            line = {"AUROC of the reward after": name}
            line |= {
                f"{100 * float(share):.0f} %": mean_and_spread(values(name, "partial_auroc", share), 3)
                for share in shares
            }
            table.append(line)
        lines += [markdown_table(table), ""]
    if len(names) > 2:
        for key in ("accuracy", "auroc", "auroc_within", "q_auroc", "filtered_vote"):
            title, factor, digits = kinds[key]
            last, before = values(names[-1], key), values(names[-2], key)
            gains = [factor * (one - two) for one, two in zip(last, before, strict=True)]
            if gains:
                shown = ", ".join(f"{gain:+.{digits}f}" for gain in gains)
                mean = statistics.mean(gains)
                lines.append(f"- {title}: {names[-1]} minus {names[-2]} by seed: {shown}; mean {mean:+.{digits}f}.")
        lines.append("")
    if first.get("written"):
        table = []
        for place, row in enumerate(first["written"]):
            own = [result["written"][place] for result in results]
            share = [100 * one["kept"] / one["answers"] for one in own]
            plain = [result["written"][0] for result in results]
            table.append(
                {
                    "written by the language model": "stopped below the threshold" if place else "no filter",
                    "answers": row["answers"],
                    "kept %": mean_and_spread(share, 1),
                    "right of these %": mean_and_spread([100 * one["right"] for one in own], 1),
                    "vote %": mean_and_spread([100 * one["vote"] for one in own], 1),
                    "tokens": mean_and_spread([one["tokens"] for one in own], 0),
                    "tokens saved %": mean_and_spread(
                        [100 - 100 * one["tokens"] / two["tokens"] for one, two in zip(own, plain, strict=True)], 1
                    ),
                }
            )
        lines += [markdown_table(table), ""]
    return lines


def program_tables(results: list[dict]) -> list[str]:
    """How well programs that do the same are neighbours, for every encoder."""
    first = results[0]
    table = []
    for row in first["clone_rows"]:
        line = {"encoder": row["encoder"]}
        for key in ("map@r", "recall@1", *(name for name in row if name not in ("map@r", "recall@1", "encoder"))):
            title = {"map@r": "MAP@R %", "recall@1": "first is a clone %"}.get(key, f"{key.replace('map', 'MAP')} %")
            own = [one for result in results for one in result["clone_rows"] if one["encoder"] == row["encoder"]]
            line[title] = mean_and_spread([100 * one[key] for one in own], 1)
        table.append(line)
    lines = [
        f"{first['train_rows']} training programs, {first['test_rows']} test programs of {first['test_problems']} other "
        f"problems, {first['steps']} steps an objective; {{seeds}}",
        "",
        markdown_table(table),
        "",
    ]
    by_seed = [{row["encoder"]: 100 * row["map@r"] for row in result["clone_rows"]} for result in results]
    for name in ("SimCLR", "MoCo", "SwAV"):
        gains = [seed[name] - seed["untrained encoder"] for seed in by_seed if name in seed]
        if gains:
            shown = ", ".join(f"{gain:+.1f}" for gain in gains)
            lines.append(
                f"- MAP@R: {name} minus the untrained encoder by seed: {shown}; mean {statistics.mean(gains):+.1f}."
            )
    return [*lines, ""]


def link_tables(results: list[dict]) -> list[str]:
    """Linkage accuracy by each side and by both, and clusters for every threshold."""
    first, trained = results[0], results[0]["trained"]
    by_seed = [{row["model"]: row for row in result["link_rows"]} for result in results]
    columns = link_columns(first["link_rows"])
    table = []
    for name, row in by_seed[0].items():
        line = {"model": name}
        for column in columns:
            own = [100 * seed[name][column] for seed in by_seed if column in seed[name]]
            line[f"{column} %"] = mean_and_spread(own, 1) if own else "-"
        if "chosen w" in row:
            line["chosen w"] = ", ".join(f"{seed[name]['chosen w']:g}" for seed in by_seed)
        else:
            line["chosen w"] = "-"
        table.append(line)
    lines = [
        f"{first['train_rows']} training records, {first['test_queries']} test records linked to {first['pool']} known ones, "
        f"{first['steps']} steps in the last stage; {{seeds}}",
        "",
        markdown_table(table),
        "",
    ]
    best, strings = (
        "pooled, chosen w",
        [name for name, row in by_seed[0].items() if set(row) == {"model", "text only"}],
    )
    # what the pooled embedding has to beat: its own sides, the texts as they stand, and what it was before the last stage
    rivals = [(trained, "image only", "its image only"), (trained, "text only", "its text only")]
    rivals += [(name, "text only", name) for name in strings]
    rivals += [(name, best, name) for name in by_seed[0] if name.startswith("after ")]
    for name, column, shown in rivals:
        if best in by_seed[0][trained] and column in by_seed[0][name]:
            gains = [100 * (seed[trained][best] - seed[name][column]) for seed in by_seed]
            told = ", ".join(f"{gain:+.1f}" for gain in gains)
            lines.append(f"- {best}: {trained} minus {shown} by seed: {told}; mean {statistics.mean(gains):+.1f}.")
    lines += [
        "",
        "Clusters of the test records and theirs among the known ones; w and threshold chosen on the other half:",
        "",
    ]
    table = []
    for row in first["cluster_rows"]:
        own = [one for result in results for one in result["cluster_rows"] if one["model"] == row["model"]]
        line = {"adjusted Rand index": row["model"], "chosen": mean_and_spread([one["ari"] for one in own], 3)}
        for place, threshold in enumerate(row["thresholds"]):
            line[f"at {threshold:g}"] = mean_and_spread([one["ari_per_threshold"][place] for one in own], 2)
        table.append(line)
    return [*lines, markdown_table(table), ""]


def entity_tables(results: list[dict]) -> list[str]:
    """Retrieval among unseen entities of every arm, the differences between arms, and how well wrong labels were told apart."""
    first, measured = results[0], list(TITLES)
    by_seed = [{row["model"]: row for row in result["entity_rows"]} for result in results]
    table = []
    for name, row in by_seed[0].items():
        line = {"model": name}
        for key in measured:
            line[f"{TITLES[key]} %"] = (
                mean_and_spread([100 * seed[name][key] for seed in by_seed], 1) if key in row else "-"
            )
        table.append(line)
    lines = [
        f"{first['train_rows']} training images of {first['entities']} entities, {first['test_images']} test images of "
        f"{first['test_entities']} others, {first['steps']} steps in the last arm; {{seeds}}",
        "",
        markdown_table(table),
        "",
    ]
    names = list(by_seed[0])
    arms = names[names.index("untrained encoders") + 1 :]
    pairs = [(one, other) for place, one in enumerate(arms) for other in arms[:place]]
    pairs.append((first["trained"], "untrained encoders"))
    for one, other in pairs:
        gains = [100 * (seed[one]["map"] - seed[other]["map"]) for seed in by_seed]
        shown = ", ".join(f"{gain:+.1f}" for gain in gains)
        lines.append(f"- mAP: {one} minus {other} by seed: {shown}; mean {statistics.mean(gains):+.1f}.")
    if "judged" in first:
        shares = {
            "wrong": "wrong labels of all",
            "dropped_wrong": "of those dropped",
            "kept_wrong": "of those kept",
        }
        told = [
            f"{title} {mean_and_spread([100 * result['judged'][key] for result in results], 1)} %"
            for key, title in shares.items()
        ]
        area = mean_and_spread([result["judged"]["auroc"] for result in results], 3)
        lines.append(f"- cosine of image and name: AUROC {area} for right labels; {', '.join(told)}.")
    return [*lines, ""]


def pair_tables(results: list[dict]) -> list[str]:
    """Retrieval both ways, zero-shot classes and linear probes of every model."""
    first = results[0]
    kinds = ("text_to_image", "image_to_text", "zero_shot", "linear")

    def place(name: str) -> tuple[int, float, str]:
        kind, _, cut = name.partition("@")
        return kinds.index(kind), float(cut.partition("%")[0] or 0), cut

    measures = sorted({name for row in first["pair_rows"] for name in row if name != "model"}, key=place)
    table = []
    for row in first["pair_rows"]:
        line = {"model": row["model"]}
        own = [one for result in results for one in result["pair_rows"] if one["model"] == row["model"]]
        for name in measures:
            title = f"{column_title(name)} %"
            line[title] = mean_and_spread([100 * one[name] for one in own], 1) if name in row else "-"
        table.append(line)
    lines = [
        f"{first['train_rows']} training pairs, {first['test_rows']} test pairs, {first['steps']} steps; {{seeds}}",
        "",
        markdown_table(table),
        "",
    ]
    names = [row["model"] for row in first["pair_rows"]]
    by_seed = [{row["model"]: row for row in result["pair_rows"]} for result in results]
    for name in measures:
        for other in names:
            if other == first["trained"] or name not in by_seed[0][other]:
                continue
            gains = [100 * (seed[first["trained"]][name] - seed[other][name]) for seed in by_seed]
            if name.startswith("linear") or "@10" in name:
                shown = ", ".join(f"{gain:+.1f}" for gain in gains)
                lines.append(
                    f"- {column_title(name)}: {first['trained']} minus {other} by seed: {shown}; mean "
                    f"{statistics.mean(gains):+.1f}."
                )
    return [*lines, ""]


def image_tables(results: list[dict]) -> list[str]:
    """Accuracy of every kind of features, and what guidance did to the batches."""
    first = results[0]
    names = [row["features"] for row in first["rows"]]
    columns = {"knn": f"kNN(k={first['knn_k']}) %", "linear": "linear probe %"}
    table = []
    for name in names:
        line = {"features": name}
        for key, title in columns.items():
            line[title] = mean_and_spread(
                [100 * row[key] for result in results for row in result["rows"] if row["features"] == name]
            )
        for key, title, digits in (
            ("projection_rank", "rank of projections", 1),
            ("projection_variance", "their variance", 3),
            ("rare", "rarest classes %", 2),
        ):
            factor = 100 if key == "rare" else 1
            found = [
                factor * row[key]
                for result in results
                for row in result["rows"]
                if row["features"] == name and key in row
            ]
            if found:
                line[title] = mean_and_spread(found, digits)
        table.append(line)
    lines = [
        f"{first['train_rows']} training images, {first['test_rows']} test images, {first['steps']} steps; {{seeds}}",
        "",
        markdown_table(table),
        "",
    ]
    if len(names) > 3:
        for key, title in columns.items():
            for other in names[2:-1]:  # the trained ones
                last, before = (
                    [100 * row[key] for result in results for row in result["rows"] if row["features"] == name]
                    for name in (names[-1], other)
                )
                gains = [one - two for one, two in zip(last, before, strict=True)]
                lines.append(
                    f"- {title[:-2]}: {names[-1]} minus {other} by seed: {', '.join(f'{gain:+.2f}' for gain in gains)}; mean "
                    f"{statistics.mean(gains):+.2f}."
                )
        lines.append("")
    if first.get("guidance"):
        head = f"Batches of {first['batch_size']}, {first['num_clusters']} clusters, seed {first['seed']} (shares, not percent):"
        columns = ["order", *(name for name in first["guidance"][0] if name != "order")]
        lines += [head, "", markdown_table(first["guidance"], columns), ""]
    return lines


if __name__ == "__main__":
    main()
