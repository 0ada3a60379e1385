"""What scripts share that run several recipes: words, names and paths."""

from __future__ import annotations

import pytest
from helpers.recipes import ROOT

from hf_contrastive.recipes.comparisons import file_label, option_words, shown_path, split_words
from hf_contrastive.reporting import mean_and_spread


def test_words_and_names(tmp_path):
    assert split_words(["a.yaml", "--name", "x", "--", "--lr", "1", "--"]) == (
        ["a.yaml", "--name", "x"],
        ["--lr", "1", "--"],
    )
    assert split_words(["a.yaml"]) == (["a.yaml"], [])
    fields = {"lr": 1e-3, "ks": [10, 20], "amp": True, "features": {"image": "a b.npy"}, "name": "x"}
    assert option_words(fields) == [
        *("--lr", "0.001", "--ks", "10", "20", "--amp", "true"),
        *("--features", '{"image": "a b.npy"}', "--name", "x"),
    ]
    assert file_label(" CIFAR-10, 5000 images!") == "cifar-10-5000-images"
    assert shown_path(ROOT / "recipes" / "mf" / "train.py", ROOT) == "recipes/mf/train.py"
    assert shown_path(tmp_path / "page.md", ROOT) == "page.md"  # nothing of the machine


def test_spread_over_seeds():
    assert mean_and_spread([1.0, 3.0], 1) == "2.0 ± 1.4"
    assert mean_and_spread([0.12345], 3) == "0.123"
    with pytest.raises(ValueError, match="is empty; give one number"):
        mean_and_spread([])
