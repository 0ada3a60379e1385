"""The recipes of MOFI as a user runs them: arms, wrong labels, data from a stream, GPR1200; test_recipes.py says what all owe."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.dual_encoder_tester import text_encoders
from helpers.recipes import check_refused, default, run, run_recipe
from PIL import Image
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor

from hf_contrastive import ConvEncoderConfig, DualEncoderProcessor, MofiConfig, MofiImageProcessor, MofiModel
from hf_contrastive.data import ProcessorTransform, train_word_tokenizer
from hf_contrastive.evaluation import retrieval_metrics
from hf_contrastive.hub import validate_card
from hf_contrastive.recipes.entity_measures import colour_histogram


@pytest.mark.recipe
def test_short_run(tmp_path, capsys):
    out = tmp_path / "out"
    words = (
        "--max_steps",
        "60",
        "--compare",
        "supervised",
        "--max_test_samples",
        "300",
        "--num_sampled_entities",
        "40",
    )
    words += ("--eval_strategy", "steps", "--eval_steps", "30", "--probe_metrics", "retrieval")
    run("mofi", default("mofi"), *words, "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in (
        "=== supervised only ===",
        "=== MOFI ===",
        "Batch report",
        "per anchor",
        "60 entities",
        "to annotate",
        "to resume",
    ):
        assert part in said
    results = json.loads((out / "all_results.json").read_text())
    rows = {row["model"]: row for row in results["entity_rows"]}
    assert list(rows) == [
        "random vectors",
        "raw pixels",
        "colour histogram",
        "untrained encoders",
        "supervised only",
        "MOFI",
    ]
    assert results["trained"] == "MOFI"
    for name in ("supervised only", "MOFI"):
        assert rows[name]["map"] > rows["untrained encoders"]["map"] + 0.1
        assert rows[name]["map"] > rows["raw pixels"]["map"]
        # the query is a hit of rank 1
        assert rows[name]["map_with_query"] > rows[name]["map"]
    assert rows["MOFI"]["zero_shot"] > 3 * rows["untrained encoders"]["zero_shot"]
    assert rows["random vectors"]["map"] < 0.1
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("classification_loss" in line and "contrastive_loss" in line for line in logged)
    assert any("eval_map@r" in line for line in logged)
    card = validate_card(out / "README.md")
    assert card["pipeline_tag"] == "zero-shot-image-classification"
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace('"out"', f'"{out}"'), {})
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is MofiModel
    head = AutoModelForPreTraining.from_pretrained(out).entity_head
    assert head.weight.shape == (60, 64)
    assert int(head.num_steps) == 60
    assert type(AutoProcessor.from_pretrained(out).image_processor) is MofiImageProcessor


def test_colours_are_counted_whatever_the_drawing():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, :3] = (255, 0, 31)
    found = colour_histogram(Image.fromarray(image))
    assert found.nonzero()[0].tolist() == [0, 7 * 64]
    assert found[[0, 7 * 64]] == pytest.approx(0.5**0.5)
    assert (colour_histogram(image[::-1, ::-1].copy()) == found).all()


@pytest.mark.recipe
def test_wrong_labels_are_judged_and_dropped(tmp_path, capsys):
    out = tmp_path / "out"
    words = ("--wrong_labels", "0.2", "--judge_epochs", "1", "--max_train_samples", "400", "--max_test_samples", "100")
    words += (
        "--num_train_epochs",
        "2",
        "--per_device_train_batch_size",
        "64",
        "--pictures",
        "false",
        "--baselines",
        "false",
    )
    run("mofi", default("mofi"), *words, "--output_dir", str(out))
    said = capsys.readouterr().out
    assert "=== the judge of pairs ===" in said
    results = json.loads((out / "all_results.json").read_text())
    names = ["untrained encoders", "right labels", "20 % wrong labels", "20 % wrong labels, 20 % dropped"]
    assert [row["model"] for row in results["entity_rows"]] == names
    judged = results["judged"]
    assert judged["wrong"] == pytest.approx(0.2)
    assert judged["dropped_wrong"] * 0.2 + judged["kept_wrong"] * 0.8 == pytest.approx(0.2)
    assert "drawn glyphs: 320 rows" in said
    # fewer rows, but as many steps: 2 epochs of 6
    assert results["steps"] == 12


@pytest.mark.recipe
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--compare", "both"), "--compare has both; known are: contrastive, supervised, multitask"),
        (("--wrong_labels", "1"), "--wrong_labels is 1; expected a share"),
        (("--wrong_labels", "0.2", "--compare", "supervised"), "make different tables; give one of them"),
        (("--drop_share", "0"), "--drop_share is 0"),
        (("--eval_strategy", "steps", "--probe_metrics", "knn"), "pass --probe_metrics retrieval"),
        (("--test_every", "1"), "`every` is 1"),
        (("--objective", "both"), "`objective` is 'both'"),
        (("--margin", "3"), "`margin` is 3"),
        (("--dataset_path", "./nothing.parquet"), "does not exist"),
        (("--num_entities", "5"), "`num_entities` is 5, but the training data has 60 entities"),
    ],
)
def test_a_wrong_value_is_one_line(words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, "mofi", default("mofi"), *words)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small untrained pair with its processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    text = text_encoders()["bert"]
    config = MofiConfig(
        vision_config=ConvEncoderConfig(channels=[8, 16]),
        text_config=text,
        image_pooling="mean",
        text_pooling="mean",
        projection_dim=8,
    )
    MofiModel(config).save_pretrained(folder)
    words = [
        "red green blue yellow white letter digit a capital number",
        "two four five seven c e f h j k l m n p r t x",
    ]
    tokenizer = train_word_tokenizer(words, max_length=12)
    DualEncoderProcessor(MofiImageProcessor.of_size(16), tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.recipe
def test_entities_are_built_and_trained_on(checkpoint, tmp_path, capsys):
    words = ["glyphs", "--entities", "glyphs", "--clip", str(checkpoint), "--threshold", "-1", "--batch-size", "32"]
    words += ["--records-per-part", "100", "--min-images", "3"]
    run_recipe("mofi/build_entities.py", *words, "--max-records", "400", "-o", str(tmp_path / "whole"))
    said = capsys.readouterr().out
    for part in ("names of 90 entities", "400 records done", "kept", "quantiles", "--dataset_path"):
        assert part in said
    # stopped after a part, and gone on with
    run_recipe("mofi/build_entities.py", *words, "--max-records", "200", "-o", str(tmp_path / "parts"))
    run_recipe("mofi/build_entities.py", *words, "--max-records", "400", "-o", str(tmp_path / "parts"))
    files = [
        sorted(path.relative_to(tmp_path / one) for path in (tmp_path / one / "data").glob("*"))
        for one in ("whole", "parts")
    ]
    assert files[0] == files[1]
    assert all(
        (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes() for file in files[0]
    )
    # two processes
    for place in range(2):
        share = ("--share", f"{place}/2", "-o", str(tmp_path / f"share{place}"))
        run_recipe("mofi/build_entities.py", *words, "--max-records", "200", *share)
    folders = [str(tmp_path / f"share{place}") for place in range(2)]
    run_recipe("mofi/build_entities.py", "--join", *folders, "--min-images", "3", "-o", str(tmp_path / "joined"))
    tables = [pq.read_table(tmp_path / one / "entities.parquet") for one in ("whole", "joined")]
    assert tables[0].equals(tables[1])
    # what comes out is what the training reads
    out = tmp_path / "out"
    words = (
        "--dataset_path",
        str(tmp_path / "whole"),
        "--max_steps",
        "4",
        "--per_device_train_batch_size",
        "32",
        "--pictures",
        "false",
    )
    run("mofi", default("mofi"), *words, "--save_strategy", "no", "--output_dir", str(out))
    results = json.loads((out / "all_results.json").read_text())
    assert results["entities"] + results["test_entities"] == tables[0].num_rows


@pytest.mark.recipe
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("glyphs",), "entities, clip not given"),
        (
            ("glyphs", "--entities", "glyphs", "--clip", "CHECKPOINT", "--share", "2/2"),
            "--share is '2/2'; expected I/N",
        ),
        (
            ("glyphs", "--entities", "glyphs", "--clip", "CHECKPOINT", "--ner-groups", "ORG"),
            "--ner-groups goes with --ner",
        ),
        (("glyphs", "--entities", "./nothing.csv", "--clip", "CHECKPOINT"), "does not exist"),
        (("glyphs", "--entities", "glyphs", "--clip", "CHECKPOINT", "--threshold", "2"), "`threshold` is 2.0"),
        (("--join", "NOWHERE"), "holds no annotated records"),
    ],
)
def test_what_cannot_be_built_is_one_line(words, message, checkpoint, tmp_path, capsys):
    places = {"CHECKPOINT": str(checkpoint), "NOWHERE": str(tmp_path / "nowhere")}
    with pytest.raises(SystemExit) as stopped:
        run_recipe("mofi/build_entities.py", *(places.get(word, word) for word in words), "-o", str(tmp_path / "out"))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.recipe
@pytest.mark.parametrize("layout", ["numbers", "folders"])
def test_gpr1200(layout, checkpoint, tmp_path, capsys):
    random = np.random.default_rng(0)
    images, labels = tmp_path / "images", []
    for category in range(5):
        for place in range(4):
            pixels = np.clip(40 * category + random.integers(0, 60, (20, 24, 3)), 0, 255).astype(np.uint8)
            folder = images if layout == "numbers" else images / f"class{category}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(
                folder / (f"{category}_{place}.png" if layout == "numbers" else f"{place}.png")
            )
            labels.append(category)
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    paths = sorted(images.rglob("*.png"))
    embeds = model.encode(ProcessorTransform(processor.image_processor)([str(path) for path in paths]))
    for words, exclude in (((), False), (("--exclude-self",), True)):
        file = tmp_path / "map.json"
        run_recipe(
            "mofi/evaluate_gpr1200.py", str(checkpoint), str(images), "--batch-size", "7", "--json", str(file), *words
        )
        expected = retrieval_metrics(embeds, query_labels=labels, ks=(), average_precision=True, exclude_self=exclude)[
            "map"
        ]
        assert json.loads(file.read_text())["map"] == pytest.approx(expected, abs=1e-9)
        assert f"{100 * expected:.2f}" in capsys.readouterr().out
    run_recipe("mofi/evaluate_gpr1200.py", str(checkpoint), str(images), "--published", "--json", str(file))
    assert json.loads(file.read_text())["images"] == 20
    (images / "unnamed.png").write_bytes(paths[0].read_bytes())
    with pytest.raises(SystemExit):
        run_recipe("mofi/evaluate_gpr1200.py", str(checkpoint), str(images))
    assert "unnamed.png does not say its category" in capsys.readouterr().err
