"""The comparison of recommenders: equal numbers of trials, the best one repeated, the table, nothing run twice."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest
from helpers.recipes import ROOT, run_recipe


SETTINGS = """# two recommenders
shared:
  dataset_path: planted
  num_train_epochs: 3
  per_device_train_batch_size: 2048
  hidden_size: 8
  max_grad_norm: 0
  lr_scheduler_type: constant
  dataloader_drop_last: false
  eval_strategy: epoch
  save_strategy: best
  load_best_model_at_end: true
  metric_for_best_model: recall@20
systems:
  mf:
    trials:
      - {learning_rate: 1e-5}
      - {learning_rate: 5e-2}
  lightgcn:
    fields: {num_layers: 1}
    trials:
      - {learning_rate: 5e-2}
      - {learning_rate: 1e-5}
"""


def compare(*words: str) -> None:
    run_recipe("recommenders/compare.py", *words)


@pytest.mark.recipe
def test_comparison_of_two_recommenders(tmp_path, capsys):
    config, out, page = tmp_path / "two.yaml", tmp_path / "runs", tmp_path / "page.md"
    config.write_text(SETTINGS)
    words = [str(config), "--seeds", "0", "1", "--name", "Planted", "--out", str(out), "--page", str(page)]
    kept = tmp_path / "kept" / "planted.jsonl"
    compare(*words, "--kept", str(kept))
    said = capsys.readouterr().out
    # of both systems the trial that learns was taken and repeated
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        *("planted-mf-0-0", "planted-mf-1-0", "planted-mf-1-1"),
        *("planted-lightgcn-0-0", "planted-lightgcn-1-0", "planted-lightgcn-0-1"),
    }
    text = page.read_text()
    assert "| popularity |" in text
    assert "over the seeds 0, 1" in text
    assert text.count("learning_rate 0.05") == 4  # of both systems, as chosen and among all settings
    tried = json.loads((out / "planted-mf-0-0" / "all_results.json").read_text())
    figure = next(row for row in tried["ranking"] if row["model"] == "Matrix factorisation")["valid"]["recall@20"]
    assert re.search(rf"\| Matrix factorisation \| [^|]+ \| {figure:.4f} \|", text)  # a setting that was not chosen
    rows = [
        next(
            row
            for row in json.loads((out / f"planted-lightgcn-0-{seed}" / "all_results.json").read_text())["ranking"]
            if row["model"] == "LightGCN"
        )
        for seed in (0, 1)
    ]
    mean = sum(row["test"]["recall@20"] for row in rows) / 2
    assert f"{mean:.4f} ±" in text
    assert str(tmp_path) not in text
    assert "planted-mf-1-1: " in said
    assert not list(out.rglob("checkpoint-*"))
    # again: nothing is trained, the page is the same
    compare(*words)
    assert "planted-mf-1-1: " not in capsys.readouterr().out
    assert page.read_text() == text
    # where the folders are gone, the file has the results; each run once
    shutil.rmtree(out)
    compare(*words, "--kept", str(kept))
    assert page.read_text() == text
    assert not out.exists()
    assert len(kept.read_text().splitlines()) == 6
    kept.write_text(kept.read_text()[:-20])
    with pytest.raises(SystemExit, match=r"line 6 of .* is no JSON"):
        compare(*words, "--kept", str(kept))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shared: {}", "has no systems"),
        (SETTINGS.replace("  mf:", "  simclr:"), "names simclr; interaction systems are: mf, lightgcn"),
        (SETTINGS.rpartition("      - ")[0], "the numbers of trials differ .mf 2, lightgcn 1."),
        (SETTINGS.replace("systems:", "shared:"), "'shared' is given twice"),
    ],
)
def test_bad_settings_are_one_line(text, message, tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    with pytest.raises(SystemExit, match=message):
        compare(str(config))


def test_a_missing_file_and_system(tmp_path):
    with pytest.raises(SystemExit, match="there is no file"):
        compare(str(tmp_path / "none.yaml"))
    with pytest.raises(SystemExit, match="--systems has byol"):
        compare(str(ROOT / "recipes/recommenders/planted.yaml"), "--systems", "byol")


@pytest.mark.recipe
def test_a_failed_run_stops_the_comparison(tmp_path, capsys):
    config = tmp_path / "two.yaml"
    config.write_text(SETTINGS.replace("num_layers: 1", "num_layers: -1"))
    with pytest.raises(SystemExit, match=r"recipes/lightgcn/train.py .* failed"):
        compare(str(config), "--systems", "lightgcn", "--out", str(tmp_path / "runs"))
    assert "`num_layers` is -1" in capsys.readouterr().err
    assert sys.argv[0].endswith("train.py") is False
