"""A card states what was done and measured, in metadata the hub accepts."""

from __future__ import annotations

import math

import pytest
import yaml

from hf_contrastive import get_system
from hf_contrastive.hub import CardError, Metric, validate_card, write_model_card


CONFIG = {
    "model_type": "simclr",
    "_name_or_path": "/home/user/start",
    "temperature": 0.5,
    "projection_dims": [64, 32],
    "backbone_config": {"model_type": "resnet", "num_channels": 1},
}
METRICS = [
    Metric("kNN accuracy", 0.9123, "digits", std=0.004, seeds=3, note="k = 20, cosine", split="test"),
    Metric("linear probe accuracy", 0.95, "digits", split="test"),
    {"name": "kNN accuracy", "value": 0.85, "dataset": "digits", "split": "test", "system": "untrained encoder"},
]
TRAINING = {
    "data": {
        "name": "digits",
        "id": "me/digits",
        "rows": 1438,
        "licence": "cc-by-4.0",
        "columns": {"image": {"type": "image", "size": "8 x 8"}, "label": {"type": "int", "size": "10 classes"}},
    },
    "settings": {"learning rate": 1e-3, "batch size": 64},
    "command": "accelerate launch recipes/simclr/train.py --dataset_path /home/user/digits",
    "date": "2026-01-02",
    "hardware": "2 CPU cores",
    "wall_time": 95.0,
}
LOG = [{"step": i, "epoch": i / 10, "loss": 4.0 - i / 50} for i in range(1, 101)] + [
    {"step": 100, "epoch": 10.0, "eval_knn_top1": 0.91, "eval_runtime": 1.0},
    {"train_runtime": 95.0, "train_loss": 3.0, "step": 100},
]


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    path = write_model_card(
        tmp_path_factory.mktemp("card"),
        config=CONFIG,
        metrics=METRICS,
        training=TRAINING,
        licence="apache-2.0",
        repo_id="me/simclr-digits",
        base_model="/home/user/start",
        log_history=LOG,
        extra={"Pictures": "![map](embedding_map.png)"},
    )
    return path.read_text()


def test_front_matter(card):
    data = front_matter(card)
    assert data["library_name"] == "hf_contrastive"
    assert data["pipeline_tag"] == get_system("simclr").pipeline_tag
    assert data["license"] == "apache-2.0"
    assert {"contrastive-learning", "simclr"} <= set(data["tags"])
    assert data["datasets"] == ["me/digits"]
    assert "base_model" not in data, "a local base is no hub id"
    assert validate_card(card) == data


def test_model_index_round_trip(card):
    from huggingface_hub import ModelCard

    data = ModelCard(card).data
    assert data.model_name == "simclr-digits"
    measured = {(r.metric_name, r.metric_value) for r in data.eval_results}
    assert measured == {("kNN accuracy", 0.9123), ("linear probe accuracy", 0.95)}, "baselines are not this model's"
    knn = next(r for r in data.eval_results if r.metric_name == "kNN accuracy")
    assert (knn.dataset_name, knn.dataset_split, knn.metric_args) == ("digits", "test", {"seeds": 3, "std": 0.004})
    assert front_matter(str(ModelCard(card))) == front_matter(card)


def test_text(card):
    for expected in (
        "| **this model** | digits (test) | kNN accuracy | 0.9123 ± 0.004 | 3 | k = 20, cosine |",
        "| untrained encoder | digits (test) | kNN accuracy | 0.85 |",
        "| image | image | 8 x 8 |",
        "| temperature | 0.5 |",
        "| projection_dims | 64, 32 |",
        "| learning rate | 0.001 |",
        "@inproceedings{chen2020simclr",
        "| wall time | 95.0 s |",
        "| training data | cc-by-4.0 |",
        "![map](embedding_map.png)",
        'AutoModel.from_pretrained("me/simclr-digits")',
        "torch.rand(2, 1, 32, 32)",
        "| 100 | 10.0 | 2 |",
        "--dataset_path <local>/digits",
        "2026-01-02",
    ):
        assert expected in card.replace("| 10 |", "| 10.0 |"), expected
    assert "/home/" not in card
    assert "fine-tuned" not in card
    assert "eval_runtime" not in card
    assert len([line for line in card.splitlines() if line.startswith("| ") and "0.91" in line]) >= 2


def test_nothing_measured_is_said(tmp_path):
    text = write_model_card(tmp_path, config=CONFIG).read_text()
    assert "Nothing was measured" in text
    data = front_matter(text)
    assert "model-index" not in data
    assert data["license"] == "unknown", "nobody is given rights that the author did not give"
    assert "not stated by the author" in text


def test_hub_base_is_named(tmp_path):
    text = write_model_card(tmp_path, config=CONFIG, base_model="microsoft/resnet-18").read_text()
    assert front_matter(text)["base_model"] == "microsoft/resnet-18"
    assert "https://huggingface.co/microsoft/resnet-18" in text


def test_plain_backbone_card(tmp_path):
    text = write_model_card(tmp_path, config={"model_type": "resnet", "num_channels": 3}).read_text()
    assert front_matter(text)["library_name"] == "transformers"
    assert "import hf_contrastive" not in text


def test_own_backbone_and_component_say_what_they_are(tmp_path):
    text = write_model_card(tmp_path, config={"model_type": "conv_encoder", "num_channels": 1}).read_text()
    assert front_matter(text)["library_name"] == "hf_contrastive"
    assert "import hf_contrastive" in text
    assert "plain transformers" not in text
    text = write_model_card(tmp_path, config={"model_type": "denoising_autoencoder"}).read_text()
    assert "The `denoising_autoencoder` of a **G-SimCLR** run" in text
    assert "encode(" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"licence": "apache"}, "license 'apache' is not an id"),
        ({"metrics": [Metric("kNN", math.nan, "digits")]}, "'kNN' on 'digits' has value nan"),
        ({"metrics": [Metric("kNN", 0.5, "digits", std=math.inf)]}, "has std inf"),
        ({"metrics": [{"name": "kNN", "value": 1.0}]}, "lacks dataset"),
        ({"metrics": [{"nmae": "kNN", "value": 1.0, "dataset": "d"}]}, "'nmae'.*known are"),
        ({"base_model": "not an id"}, None),
        ({"training": {"data": {"id": "a b"}}}, "datasets 'a b' is not a hub id"),
        ({"tags": ["x" * 90]}, "must be a short text"),
        ({"extra": "[More Information Needed]"}, "placeholder"),
    ],
)
def test_refusals(tmp_path, arguments, message):
    if message is None:  # what is no hub id is taken for a local folder and not shown
        assert "not an id" not in write_model_card(tmp_path, config=CONFIG, **arguments).read_text()
        return
    with pytest.raises(CardError, match=message):
        write_model_card(tmp_path, config=CONFIG, **arguments)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\nlicense: mit\n---\n", "no 'library_name'"),
        ("---\nlicense: other\nlibrary_name: x\n---\n", "needs 'license_name'"),
        ("---\n: [\n---\n", "not valid YAML"),
        ("---\nlicense: mit\nlibrary_name: x\n---\nsee /home/user/x\n", "local path /home/user/x in line 5"),
    ],
)
def test_foreign_cards_are_checked(text, message):
    with pytest.raises(CardError, match=message):
        validate_card(text)
