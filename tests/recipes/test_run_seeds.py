"""`recipes/run_seeds.py`: means and spreads of several seeds in a model card, from what recipes leave."""

from __future__ import annotations

import json
import subprocess

import pytest
from helpers.recipes import run_recipe


RECIPE = """
import json, pathlib, sys
words = sys.argv[1:]
folder, seed = pathlib.Path(words[words.index("--output_dir") + 1]), int(words[words.index("--seed") + 1])
folder.mkdir(parents=True, exist_ok=True)
with (pathlib.Path(__file__).parent / "calls.txt").open("a") as calls:
    calls.write(" ".join(words) + "\\n")
if "--fail" in words:
    sys.exit(3)
rows = {rows}
result = {{
    "trained": "Mine", "train_rows": 40, "test_rows": 10, "steps": 5, "seconds": 2.0 + seed, "date": f"2026-01-0{{seed + 1}}",
    "machine": "a machine", **rows(seed)
}}
(folder / "all_results.json").write_text(json.dumps(result))
"""
PAIRS = """lambda seed: {"pair_rows": [
    {"model": "untrained encoders", "linear@100%": 0.5, "linear@10%, C 8": 0.2, "linear@10%": 0.25, "text_to_image@10": 0.1,
     "text_to_image@1": 0.01},
    {"model": "Mine", "linear@100%": 0.6, "linear@10%, C 8": 0.3 + 0.1 * seed, "linear@10%": 0.35, "text_to_image@10": 0.4,
     "text_to_image@1": 0.2},
]}"""
MEASURED = """lambda seed: {"about": "7 rows", "measured": [
    {"title": "First", "columns": [["a", "A %", 100, 1], ["b", "B", 1, 2]], "compared": ["a"],
     "rows": [{"model": "Mine", "a": 0.5 + 0.1 * seed, "b": 2}, {"model": "other", "a": 0.25}]},
]}"""


@pytest.fixture
def seeds(tmp_path, monkeypatch):
    """Run the script with a recipe that leaves these results."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "small.yaml").write_text("training: {}\n")
    card = tmp_path / "card.md"

    def run(rows: str, *words: str, name: str = "Small data") -> tuple[str, str]:
        (tmp_path / "mine" / "train.py").write_text(RECIPE.format(rows=rows))
        if not card.exists():
            card.write_text("# Mine\n\nText by hand.\n")
        given = ["mine/train.py", "mine/small.yaml", "--name", name, "--card", "card.md", *words]
        run_recipe("run_seeds.py", *given)
        calls = tmp_path / "mine" / "calls.txt"
        return card.read_text(), calls.read_text() if calls.exists() else ""

    return run


def test_mean_spread_and_command(seeds):
    text, calls = seeds(PAIRS, "--seeds", "0", "1", "--", "--dataset_path", "some data")
    assert "Text by hand." in text
    assert "40 training pairs, 10 test pairs, 5 steps; mean ± standard deviation over the seeds 0, 1." in text
    # columns in the order of their kind, then of the share or the length, then of the name
    head = next(line for line in text.splitlines() if line.startswith("| model"))
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "model",
        "text to image R@1 %",
        "text to image R@10 %",
        "linear, labels 10% %",
        "linear, labels 10%, C 8 %",
        "linear, labels 100% %",
    ]
    assert "| Mine | 20.0 ± 0.0 | 40.0 ± 0.0 | 35.0 ± 0.0 | 35.0 ± 7.1 | 60.0 ± 0.0 |" in text
    assert "- linear, labels 10%, C 8: Mine minus untrained encoders by seed: +10.0, +20.0; mean +15.0." in text
    assert "a machine; 2 s a seed (median, on a shared machine); 2026-01-01 to 2026-01-02." in text
    command = (
        "python recipes/run_seeds.py mine/train.py mine/small.yaml --seeds 0 1 --name 'Small data' --card card.md"
    )
    assert f"    {command} -- --dataset_path 'some data'" in text
    assert [f"--seed {seed}" in line for seed, line in enumerate(calls.splitlines())] == [True, True]


def test_a_finished_seed_is_not_repeated_and_another_run_is_not_mixed_in(seeds, tmp_path):
    seeds(MEASURED, "--seeds", "0")
    text, calls = seeds(MEASURED, "--seeds", "0", "1")
    assert len(calls.splitlines()) == 2  # seed 0 once, seed 1 once
    assert "| Mine | 55.0 ± 7.1 | 2.00 ± 0.00 |" in text
    assert "| other | 25.0 ± 0.0 | - |" in text
    assert "- A %: Mine minus other by seed: +25.0, +35.0; mean +30.0." in text
    assert text.count("### Small data") == 1
    with pytest.raises(SystemExit, match="was run with other settings"):
        seeds(MEASURED, "--seeds", "0", "--", "--learning_rate", "1")
    (tmp_path / "mine" / "small.yaml").write_text("training: {seed: 1}\n")
    with pytest.raises(SystemExit, match="was run with other settings"):
        seeds(MEASURED, "--seeds", "0")


def test_one_seed_says_so(seeds):
    text, _ = seeds(MEASURED, "--seeds", "2")
    assert "one seed (2), so nothing is known of the spread." in text


def test_a_run_that_fails_leaves_the_card_alone(seeds, tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        seeds(MEASURED, "--seeds", "0", "--", "--fail")
    assert (tmp_path / "card.md").read_text() == "# Mine\n\nText by hand.\n"
    assert not list((tmp_path / "out").rglob("run_seeds.json"))
    # and is run again, over what it left
    text, calls = seeds(MEASURED, "--seeds", "0", name="Small data")
    assert "one seed (0)" in text
    assert "--overwrite" in calls.splitlines()[-1]
    assert json.loads((tmp_path / "out/seeds/mine-small-data-0/run_seeds.json").read_text())["words"] == []
