"""The recipes of images with texts, and of records, as a user runs them: short and refused; see test_recipes.py for what all owe."""

from __future__ import annotations

import json

import pytest
from helpers.recipes import ROOT, SHORT, check_refused, default, run
from transformers import AutoImageProcessor, AutoModel

from hf_contrastive.data import make_glyph_logos
from hf_contrastive.hub import validate_card
from hf_contrastive.registry import REGISTRY


@pytest.mark.recipe
def test_short_run_on_pairs(tmp_path, capsys):
    slug, out = "convirt", tmp_path / "out"
    words = ("--max_steps", "60", "--max_test_samples", "200", "--label_draws", "1", "--eval_strategy", "steps")
    words += ("--eval_steps", "40", "--probe_metrics", "pairs", "--supervised_steps", "3", "--warmup_steps", "6")
    words += ("--label_strengths", "0.01", "8")
    run(slug, default(slug), *words, "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in (
        "Batch report",
        "per anchor",
        "such pairs are masked",
        "untrained encoders",
        "linear, labels 10%, C 8",
        "to evaluate",
        "to resume",
    ):
        assert part in said
    results = json.loads((out / "all_results.json").read_text())
    by_name = {row["model"]: row for row in results["pair_rows"]}
    trained, untrained = by_name[REGISTRY[slug].title], by_name["untrained encoders"]
    for measure in ("text_to_image@10", "image_to_text@10"):
        assert trained[measure] > 3 * untrained[measure]
    assert trained["linear@100%"] > untrained["linear@100%"]
    # another strength is another probe
    assert trained["linear@10%"] != trained["linear@10%, C 8"] > 0
    assert any(name.startswith("same image encoder") for name in by_name)
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    measured = next(line for line in logged if "eval_text_to_image_recall@10" in line)
    assert measured["eval_loss"] > 0
    assert {path.name for path in (out / "plots").glob("*.png")} >= {"similarity_heatmap.png", "training_curves.png"}
    card = validate_card(out / "README.md")
    assert card["pipeline_tag"] == "zero-shot-image-classification"
    assert card["model-index"][0]["results"]
    # the code of the card runs as it stands
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace('"out"', f'"{out}"'), {})
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is REGISTRY[slug].model_class()


@pytest.mark.recipe
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--augmentation", "strong"), "presets are: convirt"),
        (("--view_options", '{"flop": 1}'), "`view_options` has flop"),
        (("--label_strengths", "0"), "`label_strengths` is [0.0], expected one or more numbers above 0"),
        (("--tokenizer", "byte"), "one of word, wordpiece, character"),
        (("--lambda_image_to_text", "2"), "`lambda_image_to_text` is 2"),
        (("--dataset_path", "./nothing.csv"), "does not exist"),
        (("--test_every", "1"), "give 2 or more"),
    ],
)
def test_a_wrong_value_for_pairs_is_one_line(words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, "convirt", default("convirt"), *words)


@pytest.mark.recipe
def test_short_run_on_records(tmp_path, capsys):
    slug, out = "clippings", tmp_path / "out"
    words = (*SHORT, "--max_test_samples", "200", "--hard_negatives", "true", "--remine", "true")
    words += ("--per_device_train_batch_size", "126", "--per_label", "3")
    run(slug, default(slug), *words, "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in ("=== alignment ===", "=== pooling ===", "Batch report", "14 groups of 3 labels x 3 rows, mined"):
        assert part in said.replace(" in a batch", "")
    for part in ("untrained encoders", "Levenshtein distance", "at 0.25", "to link", "to resume"):
        assert part in said
    results = json.loads((out / "all_results.json").read_text())
    rows = {row["model"]: row for row in results["link_rows"]}
    strings = ["Levenshtein distance", "Levenshtein distance, no noise"]
    assert list(rows) == ["untrained encoders", "after alignment", REGISTRY[slug].title, *strings]
    assert rows[strings[0]]["text only"] < rows[strings[1]]["text only"] == 1.0
    trained, untrained = rows[REGISTRY[slug].title], rows["untrained encoders"]
    for measure in ("image only", "pooled, w 0.5", "pooled, chosen w"):
        assert trained[measure] > untrained[measure] + 0.1
    # what the second stage is for
    assert trained["pooled, w 0.5"] > rows["after alignment"]["pooled, w 0.5"]
    clusters = {row["model"]: row for row in results["cluster_rows"]}
    assert clusters[REGISTRY[slug].title]["ari"] > clusters["untrained encoders"]["ari"]
    assert len(clusters[REGISTRY[slug].title]["ari_per_threshold"]) == 9
    assert sorted(path.name for path in (out / "hard_negatives").iterdir())[0] == "epoch-0.npy"
    assert {path.name for path in (out / "plots").glob("*.png")} >= {"similarity_heatmap.png", "training_curves.png"}
    card = validate_card(out / "README.md")
    assert card["model-index"][0]["results"]
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace('"out"', f'"{out}"'), {})
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is REGISTRY[slug].model_class()
    assert AutoImageProcessor.from_pretrained(out).size["shortest_edge"] == 32
    # the result can be trained further
    words = ("--pair", str(out), "--vision_options", "null", "--text_options", "null", "--supcon_temperature", "0.05")
    run(slug, default(slug), *words, "--dry_run", "true", "--output_dir", str(tmp_path / "further"))
    assert "outputs.pooled_embeds 2x64" in " ".join(capsys.readouterr().out.split())


@pytest.mark.recipe
def test_records_of_two_tables_by_their_texts_alone(tmp_path, capsys):
    """No picture anywhere: nothing is aligned, and everything that is measured and drawn does without."""
    for name, sign in (("tableA", "no. {}"), ("tableB", "number {}")):
        lines = ["id,name", *(f"{n},{sign.format(n)} lamp" for n in range(40))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    for part, rows in (("train", range(24)), ("valid", range(24, 32)), ("test", range(32, 40))):
        lines = ["ltable_id,rtable_id,label", *(f"{n},{n},1\n{n},{39 - n},0" for n in rows)]
        (tmp_path / f"{part}.csv").write_text("\n".join(lines))
    out, slug = tmp_path / "out", "clippings"
    words = [
        "--tables_path",
        str(tmp_path),
        "--max_steps",
        "6",
        "--per_device_train_batch_size",
        "16",
        "--save_strategy",
        "no",
    ]
    run(slug, str(ROOT / "recipes" / slug / "abt_buy.yaml"), *words, "--output_dir", str(out))
    assert "8 records linked to 40 known ones" in capsys.readouterr().out
    rows = {row["model"]: row for row in json.loads((out / "all_results.json").read_text())["link_rows"]}
    assert set(rows) == {"untrained encoders", REGISTRY[slug].title, "Levenshtein distance", "words in common"}
    assert all(set(row) == {"model", "text only"} for row in rows.values())
    assert rows["words in common"]["text only"] == 1.0
    assert (out / "plots" / "embedding_map.png").is_file()
    validate_card(out / "README.md")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--stages", "linking"), "--stages has linking; known are: alignment, pooling"),
        (("--preparation", "crop"), "`preparation` is 'crop'; known are: firms, newspapers, stretch"),
        (("--augmentation", "strong"), "`augmentation` is 'strong'; known are: scan, none"),
        (("--view_options", '{"flip": 1}'), "`view_options` has flip"),
        (("--augmentation", "none"), "`view_options` are strengths of augmentation scan"),
        (("--augmentation", "none", "--scan_queries", "true"), "`scan_queries` goes with augmentation scan"),
        (("--image_weight", "2"), "image_weight must be in [0, 1]"),
        (("--ocr_drop", "0.9"), "at most 1 together"),
        (("--dataset_path", "./nothing.csv"), "does not exist"),
        (("--pool_path", "known.csv", "--dataset_path", "a.csv"), "`pool_path` and `query_path` belong together"),
        (("--pairs_path", "./nothing.csv"), "does not exist"),
    ],
)
def test_a_wrong_value_for_records_is_one_line(words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, "clippings", default("clippings"), *words)


@pytest.mark.recipe
def test_short_run_on_logos(tmp_path, capsys):
    slug, out = "logo", tmp_path / "out"
    words = (*SHORT, "--max_train_samples", "600", "--rivals", "image", "--warmup_steps", "5")
    run(slug, default(slug), *words, "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in ("Batch report", "1 positive, 126 negatives", "rows with the same label are positives", "to identify"):
        assert part in said
    results = json.loads((out / "all_results.json").read_text())
    (table,) = results["measured"]
    rows = {row["model"]: row for row in table["rows"]}
    assert list(rows) == ["untrained encoders", "image only", REGISTRY[slug].title]
    trained, untrained = rows[REGISTRY[slug].title], rows["untrained encoders"]
    assert trained["auroc"] > untrained["auroc"] + 0.03
    assert trained["auroc"] > 0.85
    assert {column[0] for column in table["columns"]} == set(trained) - {"model"}
    assert {"top1", "top5", "top1 with text", "30 among 30", "30 among 200"} < set(trained)
    assert {path.name for path in (out / "plots").glob("*.png")} >= {"similarity_heatmap.png", "training_curves.png"}
    card = validate_card(out / "README.md")
    assert card["pipeline_tag"] == "image-feature-extraction"
    assert card["model-index"][0]["results"]
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace('"out"', f'"{out}"'), {})
    assert capsys.readouterr().out.startswith("first brand")
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is REGISTRY[slug].model_class()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--queries", "photo"), "--queries has photo; known are: scene, others"),
        (("--queries", "others"), "every test brand has one drawing"),
        (("--rivals", "both"), "--rivals has both; known are: image, text, triplet"),
        (("--modalities", "audio"), "`modalities` is 'audio'"),
        (("--pair", "some/clip"), "`pair` is for systems with a common space"),
        (("--scene_options", '{"blur": 1}'), "`scene_options` has blur; known are: shrink, cover, noise"),
        (("--scene_options", '{"cover": 2}'), "cover must be a share"),
        (("--text_dropout", "2"), "text_dropout must be a probability"),
        (("--references_path", "known.csv"), "`references_path` and `query_path` belong together"),
        (("--dataset_path", "./nothing.csv"), "does not exist"),
        (("--distractors_path", "./nothing.csv"), "does not exist"),
        (("--per_device_train_batch_size", "127"), "batch_size must be divisible by m = 2"),
    ],
)
def test_a_wrong_value_for_logos_is_one_line(words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, "logo", default("logo"), *words)


def test_logos_of_tables(tmp_path, capsys):
    """References, queries and further references from tables of one's own."""
    train, test = make_glyph_logos("train", 40), make_glyph_logos("test", 9)
    for name, table in {"train": train, "known": test, "asked": test.select([3, 5])}.items():
        table.rename_column("label", "brand").to_parquet(tmp_path / f"{name}.parquet")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for row in make_glyph_logos("others", 4):
        row["image"].convert("RGB").save(pictures / f"{row['label']}.png")
    words = ["--dataset_path", str(tmp_path / "train.parquet"), "--references_path", str(tmp_path / "known.parquet")]
    words += ["--query_path", str(tmp_path / "asked.parquet"), "--distractors_path", str(pictures), "--galleries", "3"]
    words += [
        "--max_steps",
        "2",
        "--per_device_train_batch_size",
        "8",
        "--scene_training",
        "false",
        "--pictures",
        "false",
    ]
    words += ["--scene_options", "null", "--save_strategy", "no"]
    run("logo", default("logo"), *words, "--output_dir", str(tmp_path / "out"))
    (row, trained) = json.loads((tmp_path / "out" / "all_results.json").read_text())["measured"][0]["rows"]
    # the queries are the references themselves
    assert trained["top1"] == row["top1"] == 1.0
    assert {"top1 + 4", "3 among 3", "3 among 9"} < set(trained)
    words += ["--query_path", str(tmp_path / "train.parquet")]
    check_refused(
        tmp_path / "again", capsys, "no query has a brand of the references", "logo", default("logo"), *words
    )
