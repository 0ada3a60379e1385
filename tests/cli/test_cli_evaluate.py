"""`hf-contrastive evaluate` and `plot`: the numbers of the library, with protocol and baselines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_contrastive.cli import checkpoints
from hf_contrastive.evaluation import knn_accuracy, linear_probe, retrieval_metrics


@pytest.fixture(scope="module")
def digits(checkpoint):
    """Embeddings, labels and pixels of 200 + 200 digits, by the library's Python face."""
    from hf_contrastive.data import load_images

    encoder = checkpoints.load_encoder(str(checkpoint), "cpu")
    found = {}
    for split in ("train", "test"):
        rows = load_images("digits", split=split, max_samples=200)
        labels = np.asarray(rows["label"][:])
        found[split] = (checkpoints.encode_batches(encoder, rows), labels, checkpoints.raw_pixels(encoder, rows)[0])
    return found


def measured(call, *words: object) -> dict:
    called = call("evaluate", *words, "--max-samples", 200, "--json", "-")
    assert called.code == 0, called.err
    return json.loads(called.out)


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_knn(call, checkpoint, digits, temperature):
    options = [] if temperature is None else ["--temperature", temperature]
    record = measured(call, "knn", checkpoint, "digits", "--k", 5, *options)
    weighting = {} if temperature is None else {"weighting": "temperature", "temperature": temperature}
    (x, y, pixels), (test_x, test_y, test_pixels) = digits["train"], digits["test"]
    here, untrained, raw = record["results"]
    assert here["knn_top1"] == knn_accuracy(x, y, test_x, test_y, k=5, **weighting)["knn_top1"]
    assert raw["knn_top1"] == knn_accuracy(pixels, y, test_pixels, test_y, k=5, **weighting)["knn_top1"]
    assert untrained["encoder"] == "untrained encoder (seed 0)"
    assert 0.1 < untrained["knn_top1"] != here["knn_top1"]
    low, high = here["interval_95"]["knn_top1"]
    assert low < here["knn_top1"] < high
    protocol = record["protocol"]
    assert (protocol["k"], protocol["readout"], protocol["dimension"]) == (5, "backbone", 8)
    assert protocol["votes"] == ("one each" if temperature is None else "exp(cosine / 0.1)")
    assert protocol["train_split"] == "train (200 rows)"
    assert protocol["test_split"] == "test (200 rows)"


def test_linear(call, checkpoint, digits):
    record = measured(call, "linear", checkpoint, "digits", "--no-baseline", "--seed", 3)
    (x, y, _), (test_x, test_y, _) = digits["train"], digits["test"]
    assert [result["encoder"] for result in record["results"]] == ["this checkpoint"]
    assert record["results"][0]["accuracy"] == linear_probe(x, y, test_x, test_y, seed=3)["accuracy"]
    assert record["protocol"]["method"] == "logistic"


def test_retrieval(call, checkpoint, digits):
    record = measured(call, "retrieval", checkpoint, "digits", "--ks", "1,5", "--no-baseline")
    (x, y, _), (test_x, test_y, _) = digits["train"], digits["test"]
    want = retrieval_metrics(test_x, query_labels=test_y, ks=(1, 5))
    result = record["results"][0]
    assert {name: result[name] for name in ("recall@1", "recall@5", "map@r", "mrr")} == {
        name: pytest.approx(want[name], abs=1e-6) for name in ("recall@1", "recall@5", "map@r", "mrr")
    }
    assert set(result["interval_95"]) == {"recall@1", "recall@5"}
    record = measured(
        call, "retrieval", checkpoint, "digits", "--gallery-split", "train", "--ks", "1", "--no-baseline"
    )
    want = retrieval_metrics(test_x, x, query_labels=test_y, gallery_labels=y, ks=(1,))
    assert record["results"][0]["recall@1"] == want["recall@1"]
    assert record["protocol"]["gallery"] == "train (200 rows)"


def test_the_table_states_protocol_interval_and_baselines(call, checkpoint, tmp_path):
    file = tmp_path / "new" / "numbers.json"
    words = ["knn", checkpoint, "digits", "--k", 5, "--max-samples", 200, "--json", file]
    called = call("evaluate", *words)
    assert called.code == 0
    for part in (
        "kNN accuracy of tiny on digits",
        "k: 5; votes: one each",
        "train split: train (200 rows)",
        "bootstrap interval over the test rows",
        "this checkpoint",
        "untrained encoder (seed 0)",
        "raw pixels (16x16x3)",
        f"wrote {file}",
    ):
        assert part in called.out
    assert "not better than the baseline 'raw pixels (16x16x3)'" in called.err  # it was never trained
    assert json.loads(file.read_text())["metric"] == "knn_top1"
    assert str(checkpoint.parent) not in file.read_text()


def test_the_untrained_baseline_depends_on_its_seed_only(checkpoint):
    encoder = checkpoints.load_encoder(str(checkpoint), "cpu")
    torch.manual_seed(1)
    first = encoder.untrained(0)
    state = torch.get_rng_state()
    second = encoder.untrained(0)
    assert torch.equal(state, torch.get_rng_state())
    assert first.weights_digest() == second.weights_digest() != encoder.untrained(1).weights_digest()
    assert first.weights_digest() != encoder.weights_digest()


def test_raw_pixels_of_big_images_are_averaged(checkpoint):
    import datasets
    from PIL import Image

    encoder = checkpoints.load_encoder(str(checkpoint), "cpu")
    encoder.processor.size = {"height": 64, "width": 64}
    rows = datasets.Dataset.from_dict({"image": [Image.new("RGB", (64, 64), "white")] * 2, "index": [0, 1]})
    pixels, text = checkpoints.raw_pixels(encoder, rows)
    assert (pixels.shape, text) == ((2, 32 * 32 * 3), "32x32x3")
    np.testing.assert_allclose(pixels, 1.0, atol=1e-6)


def test_one_split_needs_a_held_out_part(call, checkpoint, birds):
    called = call("evaluate", "knn", checkpoint, birds, "--k", 3)
    assert called.code == 1
    assert "--test-split" in called.err
    assert "--test-fraction 0.2" in called.err or "--test-fraction" in called.err
    record = call("evaluate", "knn", checkpoint, birds, "--k", 3, "--test-fraction", 0.2, "--json", "-")
    assert record.code == 0, record.err
    assert json.loads(record.out)["protocol"]["test_split"] == "test (6 rows)"


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["knn", "--k", "0"], 2, "--k"),
        (["knn", "--k", "5000"], 2, "lower it"),
        (["knn", "--temperature", "0"], 2, "above 0"),
        (["knn", "--readout", "head"], 2, "projection_1"),
        (["knn", "--test-fraction", "2"], 2, "between 0 and 1"),
        (["knn", "--test-split", "dev"], 1, "--test-split"),
        (["linear", "--method", "magic"], 2, "logistic or sgd"),
        (["retrieval", "--ks", "one"], 2, "1,5,10"),
        (["retrieval", "--ks", "5000"], 2, "lower it"),
    ],
)
def test_refusals(call, checkpoint, words, code, part):
    called = call("evaluate", words[0], checkpoint, "digits", *words[1:])
    assert called.code == code, called.err
    assert part in called.err
    assert "Traceback" not in called.err


def test_data_without_labels(call, checkpoint, tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (8, 8), 40 * number).save(tmp_path / "photos" / split / f"{number}.png")
    called = call("evaluate", "linear", checkpoint, tmp_path / "photos")
    assert called.code == 1
    assert "no labels" in called.err
    assert "--label-column" in called.err


def test_plot(call, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    called = call("plot", run)
    assert called.code == 1
    assert "metrics" in called.err
    lines = [json.dumps({"step": step, "loss": 3.0 - 0.1 * step}) for step in range(5)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    called = call("plot", run, "-o", tmp_path / "pictures")
    assert called.code == 0, called.err
    written = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert written == ["training_curves.csv", "training_curves.png"]
    assert str(tmp_path / "pictures" / "training_curves.png") in called.out
    assert call("plot", run).code == 0
    assert (run / "plots" / "training_curves.png").stat().st_size > 1000
    missing = call("plot", tmp_path / "none")
    assert missing.code == 1
    assert Path("none").name in missing.err
