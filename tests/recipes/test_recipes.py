"""The recipes as a user runs them: dry, short, resumed, refused; every system of the registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.recipes import ROOT, SHORT, check_refused, default, run
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
)

from hf_contrastive.data import ProgramProcessor, train_tokenizer
from hf_contrastive.hub import validate_card
from hf_contrastive.recipes import (
    entities,
    image_texts,
    images,
    linkage,
    logos,
    narrations,
    preferences,
    programs,
    recommendations,
    texts,
)
from hf_contrastive.registry import REGISTRY


SYSTEMS = list(REGISTRY)
IMAGE_SYSTEMS = [slug for slug, row in REGISTRY.items() if row.domain == "image"]
TEXT_SYSTEMS = [slug for slug, row in REGISTRY.items() if row.domain == "text"]
RECOMMENDERS = [slug for slug, row in REGISTRY.items() if row.domain == "interaction"]
SHARED = {
    "image": images,
    "image-text": image_texts,
    "text": texts,
    "preference": preferences,
    "code": programs,
    "interaction": recommendations,
}
#: systems whose recipe shares another module
SHARED_BY_SYSTEM = {"clippings": linkage, "logo": logos, "mofi": entities, "surgvlp": narrations}
YAMLS = sorted(path.relative_to(ROOT).as_posix() for slug in SYSTEMS for path in ROOT.glob(f"recipes/{slug}/*.yaml"))
#: clusters and a predictor that is set have to form first
LATER = dict.fromkeys(("directpred", "interclr"), ("--max_steps", "240"))
QUICK = ("--max_steps", "6", "--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "5")
#: what a system needs beside these to be quick
OWN = {
    "gsimclr": ("--autoencoder_epochs", "1"),
    "simctg": (
        *("--num_prompts", "2", "--prefix_length", "8", "--new_tokens", "8", "--per_device_train_batch_size", "4"),
        *("--block_size", "48", "--vocab_size", "300"),
    ),
    "code_clone": ("--max_per_label", "6", "--max_test_per_label", "4", "--queue_size", "64"),
    "gcrm": (
        *("--pretrain_steps", "4", "--pretrain_batch_size", "4", "--per_device_train_batch_size", "4"),
        *("--max_train_samples", "60", "--max_test_samples", "40", "--write_questions", "2", "--write_samples", "2"),
    ),
}
#: what makes a run cheaper without changing the training
PLAIN = {"image": ("--pictures", "false", "--linear_probe", "false"), "text": ("--pictures", "false")}
PLAIN["preference"] = PLAIN["code"] = PLAIN["text"]
PLAIN["image-text"] = (*PLAIN["text"], "--max_train_samples", "400", "--max_test_samples", "60")
# what is saved by steps is measured by steps
PLAIN["interaction"] = ("--pictures", "false", "--eval_strategy", "steps", "--eval_steps", "3")


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """A tokenizer for a handful of steps does not need as many texts."""
    monkeypatch.setattr(preferences, "ARITHMETIC_TEXTS", 500)


@pytest.mark.recipe
@pytest.mark.parametrize("slug", SYSTEMS)
def test_dry_run_writes_nothing(slug, tmp_path, capsys):
    run(slug, default(slug), "--dry_run", "true", "--output_dir", str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "dry run: one step on two rows" in said
    assert "outputs.loss" in said
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.recipe
@pytest.mark.parametrize("slug", IMAGE_SYSTEMS)
def test_short_run(slug, tmp_path, capsys):
    out = tmp_path / "out"
    run(slug, default(slug), *LATER.get(slug, SHORT), *OWN.get(slug, ()), "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in ("Batch report", "per anchor", "untrained encoder", "to evaluate", "to resume"):
        assert part in said
    results = json.loads((out / "all_results.json").read_text())
    by_name = {row["features"]: row for row in results["rows"]}
    trained = by_name[REGISTRY[slug].title]
    # so few steps are enough to beat what was there before
    assert trained["linear"] > by_name["untrained encoder"]["linear"]
    assert trained["linear"] > by_name["raw pixels"]["linear"]
    assert (out / "metrics.jsonl").is_file()
    assert {path.name for path in (out / "plots").glob("*.png")} >= {"views.png", "training_curves.png"}
    card = validate_card(out / "README.md")
    assert card["library_name"] == "hf_contrastive"
    assert card["model-index"][0]["results"]
    assert not list(out.glob("*.bin"))
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is REGISTRY[slug].model_class()
    image = Image.new("RGB", (30, 40))
    pixel_values = AutoImageProcessor.from_pretrained(out)(image, return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 16, 16)


@pytest.mark.recipe
@pytest.mark.parametrize("slug", SYSTEMS)
def test_resumed_is_uninterrupted(slug, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = [default(slug), *QUICK, *OWN.get(slug, ()), *PLAIN[REGISTRY[slug].domain]]
    run(slug, *words, "--output_dir", str(whole))
    # as a run that was killed between its two checkpoints left it
    shutil.copytree(whole, parts)
    for name in ("checkpoint-6", "model.safetensors", "config.json", "README.md", "all_results.json"):
        path = parts / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(slug, *words, "--output_dir", str(parts), "--resume_from_checkpoint", "true")
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    measured = [json.loads((folder / "all_results.json").read_text()) for folder in (whole, parts)]
    tables = {
        "clippings": ("link_rows", "cluster_rows"),
        "logo": ("measured",),
        "mofi": ("entity_rows",),
        "image": ("rows",),
        "image-text": ("pair_rows",),
        "text": ("models", "decoding"),
        "preference": ("reward_models",),
        "code": ("clone_rows",),
        "interaction": ("ranking",),
    }
    tables = tables.get(slug, tables[REGISTRY[slug].domain])
    for table in tables:
        assert measured[0][table] == measured[1][table]
        assert measured[0][table]


@pytest.mark.recipe
@pytest.mark.parametrize("slug", TEXT_SYSTEMS)
def test_short_run_on_texts(slug, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("--max_steps", "30", "--per_device_train_batch_size", "8", "--block_size", "96", "--vocab_size", "600")
    words += ("--num_prompts", "4", "--new_tokens", "24", "--warmup_steps", "4", "--scorer", "trained")
    run(slug, default(slug), *words, "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in ("Batch report", "=== MLE ===", "perplexity", "coherence", "to generate", "to compare", "to resume"):
        assert part in said
    assert "per anchor" not in said
    results = json.loads((out / "all_results.json").read_text())
    by_name = {row["model"]: row for row in results["models"]}
    title = REGISTRY[slug].title
    assert by_name[title]["perplexity"] < 0.6 * by_name["before training"]["perplexity"]
    # what the contrastive loss is for
    assert by_name[title]["isotropy"] > by_name["MLE"]["isotropy"]
    decoded = {(row["model"], row["decoding"]): row for row in results["decoding"]}
    assert len(decoded) == 9
    assert all(row["coherence"] is None or row["coherence"] < 0 for row in decoded.values())
    people = decoded["people", "the text itself"]
    assert people["diversity"] > 50
    assert people["length"] == 24
    samples = json.loads((out / "samples.json").read_text())
    assert len(samples["prompts"]) == len(samples[f"{title}, greedy"]) == 4
    assert {path.name for path in (out / "plots").glob("*.png")} >= {"contrastive_search.png", "training_curves.png"}
    card = validate_card(out / "README.md")
    assert card["library_name"] == "hf_contrastive"
    assert card["pipeline_tag"] == "text-generation"
    assert card["model-index"][0]["results"]
    assert not list(out.glob("*.bin"))
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is REGISTRY[slug].model_class()
    inputs = AutoTokenizer.from_pretrained(out)("The class", return_tensors="pt")
    assert (
        model.generate(**inputs, penalty_alpha=0.6, top_k=4, max_new_tokens=4).shape[1] > inputs["input_ids"].shape[1]
    )
    # the code of the card runs as it stands
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace('"out"', f'"{out}"'), {})
    # the arms differ in the weight of the contrastive loss only
    configs = [json.loads((folder / "config.json").read_text()) for folder in (out, out / "mle")]
    assert [config.pop("contrastive_weight") for config in configs] == [1.0, 0.0]
    assert configs[0] == configs[1]


@pytest.mark.recipe
@pytest.mark.parametrize("slug", RECOMMENDERS)
def test_short_run_on_interactions(slug, tmp_path, capsys):
    out, title = tmp_path / "out", REGISTRY[slug].title
    epochs = "40" if slug == "bm3" else "8"
    run(slug, default(slug), "--num_train_epochs", epochs, "--patience", "5", "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in ("600 users, 400 items", "Batch report", "popularity", "untrained", "to recommend", "to resume"):
        assert part in said
    assert "per anchor" not in said
    results = json.loads((out / "all_results.json").read_text())
    rows = {row["model"]: row for row in results["ranking"]}
    assert list(rows) == ["popularity", "untrained", title]
    for split in ("valid", "test"):
        assert rows[title][split]["recall@20"] > rows["popularity"][split]["recall@20"]
        assert rows[title][split]["recall@20"] > rows["untrained"][split]["recall@20"]
        assert {"recall@10", "ndcg@20", "precision@20", "map@20", "mrr@20", "hit@20"} <= set(rows[title][split])
    # the saved model is that of the best epoch
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seen = [line["eval_recall@20"] for line in logged if "eval_recall@20" in line]
    assert rows[title]["valid"]["recall@20"] == pytest.approx(max(seen), abs=1e-9)
    assert results["best_epoch"] == seen.index(max(seen)) + 1
    assert {path.name for path in (out / "plots").glob("*.png")} >= {"training_curves.png"}
    card = validate_card(out / "README.md")
    assert card["library_name"] == "hf_contrastive"
    assert card["model-index"][0]["results"]
    assert not list(out.rglob("*.bin"))
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is REGISTRY[slug].model_class()
    assert len(model.recommend([model.user_tokens[3]], k=5)[0]) == 5
    # the code of the card runs as it stands
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace('"out"', f'"{out}"'), {})


@pytest.mark.parametrize(
    ("slug", "words", "message"),
    [
        ("lightgcn", ("--dataset_path", "/nowhere/at/all.inter"), "does not exist"),
        ("lightgcn", ("--mask", "test"), "--mask has test; known are: train, train+valid"),
        ("lightgcn", ("--select_on", "train"), "--select_on has train; known are: valid, test"),
        ("lightgcn", ("--sampling", "items"), "--sampling has items; known are: interactions, users"),
        ("lightgcn", ("--split", "weekly"), "`split` is 'weekly'"),
        ("lightgcn", ("--split", "time"), "split='time' needs times"),
        ("lightgcn", ("--ratios", "0.9", "0.0", "0.1"), "the valid part is empty, so no epoch can be chosen"),
        ("lightgcn", ("--edge_dropout", "1"), "`edge_dropout` is 1.0"),
        ("lightgcn", ("--user_core", "500"), "nothing of"),
        ("lightgcn", ("--sampled_neighbours", "5"), "--sampled_neighbours has 1 numbers, but the model has 2 layers"),
        ("sgl", ("--sampled_neighbours", "5", "5"), "is for systems that take a subgraph (LightGCN), not for SGL"),
    ],
)
def test_a_wrong_value_for_interactions_is_one_line(slug, words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, slug, default(slug), *words)


def test_a_system_with_features_says_what_is_missing(tmp_path, capsys):
    log = tmp_path / "log.csv"
    log.write_text("user,item\n" + "".join(f"{u},{i}\n" for u in range(6) for i in range(10)))
    with pytest.raises(SystemExit):
        run("bm3", default("bm3"), "--dataset_path", str(log), "--output_dir", str(tmp_path / "out"))
    assert "BM3 needs features of the items, and the data has none; pass --features" in capsys.readouterr().err


@pytest.mark.recipe
def test_features_from_titles(tmp_path, capsys):
    """A log and a table of items are enough: an encoder makes the features."""
    titles = {item: ["red tea", "green tea", "rice", "salt"][item % 4] + f" {item}" for item in range(12)}
    tokenizer = train_tokenizer(list(titles.values()), 300)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = BertModel(BertConfig(vocab_size=len(tokenizer), **sizes))
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    shop, out = tmp_path / "shop", tmp_path / "out"
    shop.mkdir()
    rows = [f"{user},{(user + step * step) % 12}" for user in range(30) for step in range(6)]
    (shop / "log.csv").write_text("user,item\n" + "\n".join(dict.fromkeys(rows)) + "\n")
    (shop / "items.csv").write_text("item,title\n" + "".join(f"{item},{title}\n" for item, title in titles.items()))
    words = ["--dataset_path", str(shop / "log.csv"), "--item_table", "items.csv", "--text_columns", "title"]
    words += ["--feature_cache", str(tmp_path / "cache"), "--num_train_epochs", "2", "--ks", "3", "5"]
    words += ["--metric_for_best_model", "recall@5", "--output_dir", str(out), "--ratios", "0.6", "0.2", "0.2"]
    with pytest.raises(SystemExit):
        run("bm3", default("bm3"), *words)
    assert "pass --feature_encoder a folder or hub id of an encoder" in capsys.readouterr().err
    run("bm3", default("bm3"), *words, "--feature_encoder", str(tmp_path / "encoder"), "--pictures", "false")
    model = AutoModel.from_pretrained(out)
    assert model.config.feature_dims == {"text": 16}
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    assert "features: text" in (out / "README.md").read_text()


@pytest.fixture
def easy_pairs(tmp_path):
    """Pairs and marked answers that a few steps suffice for: the good answers speak of other things than the bad ones."""
    words = {True: ["sun", "rose", "song", "bread"], False: ["mud", "rust", "noise", "sand"]}
    questions = [f"What is number {number} like?" for number in range(80)]

    def answer(number, good):
        return (
            " and ".join(words[good][(number * step) % 4] for step in (1, 3, 5))
            + f"\nA: {number if good else number + 1}"
        )

    pairs = [
        {"question": q, "correct": answer(n, True), "incorrect": answer(n, False)} for n, q in enumerate(questions)
    ]
    completions = [
        {
            "question": f"What is thing {n % 10} like?",
            "generated_solution": answer(n + n // 10, n % 3 == 0),
            "is_correct": n % 3 == 0,
            "predicted_answer": str(n % 3),
        }
        for n in range(40)
    ]
    for name, rows in (("pairs.jsonl", pairs), ("answers.jsonl", completions)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.recipe
def test_short_run_on_preferences(easy_pairs, capsys):
    out = easy_pairs / "out"
    words = ["--dataset_path", str(easy_pairs / "pairs.jsonl"), "--completions", str(easy_pairs / "answers.jsonl")]
    words += ["--test_fraction", "0.25", "--pretrain_steps", "30", "--pretrain_batch_size", "8", "--max_steps", "40"]
    words += [
        "--per_device_train_batch_size",
        "8",
        "--write_questions",
        "3",
        "--write_samples",
        "4",
        "--vocab_size",
        "400",
    ]
    run("gcrm", default("gcrm"), *words, "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in (
        "=== language model: 30 steps",
        "=== Bradley-Terry ===",
        "Batch report",
        "training pairs:",
        "AUROC of Q",
    ):
        assert part in said
    assert "per anchor" not in said
    assert "tokens written" in said
    results = json.loads((out / "all_results.json").read_text())
    rows = {row["model"]: row for row in results["reward_models"]}
    assert list(rows) == ["before training", "Bradley-Terry", "Goal-conditioned"]
    for name in ("Bradley-Terry", "Goal-conditioned"):
        assert rows[name]["accuracy"] > 0.9
        assert rows[name]["auroc"] > max(0.9, rows["before training"]["auroc"])
    # what the contrastive loss is for
    ours = rows["Goal-conditioned"]
    assert ours["contrastive_loss"] < rows["Bradley-Terry"]["contrastive_loss"]
    assert ours["q_auroc"] > 0.9
    assert [row["answers"] for row in results["written"]] == [12, 12]
    assert results["written"][1]["tokens"] <= results["written"][0]["tokens"]
    assert {path.name for path in (out / "plots").glob("*.png")} >= {"reward_courses.png", "training_curves.png"}
    card = validate_card(out / "README.md")
    assert card["pipeline_tag"] == "text-classification"
    assert card["model-index"][0]["results"]
    assert not list(out.rglob("*.bin"))
    model, info = AutoModelForSequenceClassification.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is REGISTRY["gcrm"].model_class()
    assert model.goal_state is not None
    # the code of the card runs as it stands
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    found: dict = {}
    exec(code.replace('"out"', f'"{out}"'), found)
    assert found["rewards"].shape == (2,)
    # the arms differ in the weight of the contrastive loss only
    configs = [json.loads((folder / "config.json").read_text()) for folder in (out, out / "bt")]
    assert [config.pop("beta") for config in configs] == [0.5, 0.0]
    for config in configs:
        config.pop("reward_mean"), config.pop("reward_std")
    assert configs[0] == configs[1]


@pytest.mark.recipe
def test_adapters_of_a_reward_model(easy_pairs):
    out, base = easy_pairs / "out", easy_pairs / "base"
    words = [
        *OWN["gcrm"],
        "--dataset_path",
        str(easy_pairs / "pairs.jsonl"),
        "--test_fraction",
        "0.25",
        "--pictures",
        "false",
    ]
    words += ["--max_steps", "2", "--write_questions", "0", "--arms", "gcrm"]
    run("gcrm", default("gcrm"), *words, "--output_dir", str(base))
    settings = default("gcrm")
    rest = [*words, "--backbone", str(base / "language_model"), "--backbone_options", "null", "--lora_rank", "2"]
    run("gcrm", settings, *rest, "--pretrain_steps", "0", "--output_dir", str(out))
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()
    names = load_file(out / "adapter_model.safetensors")
    assert any("value_head" in name for name in names)
    assert any("goal" in name for name in names)
    validate_card(out / "README.md")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--arms", "both"), "--arms has both; known are: bt, gcrm"),
        (("--dataset_path", "/nowhere/at/all.jsonl"), "does not exist"),
        (("--beta", "-1"), "`beta` is -1.0"),
        (("--strategy", "euclid"), "`strategy` is 'euclid'"),
        (("--max_length", "500"), "`max_length` is 500, but the model has 160 positions; pass --max_length 160"),
        (("--on_long", "wrap"), "--on_long has wrap; known are: truncate, drop, error"),
        (("--max_length", "40", "--on_long", "error"), "40"),
        (("--backbone", "/no/such/model", "--backbone_options", "null"), "`backbone` is '/no/such/model'"),
        (("--backbone", "/no/such/model"), "`backbone_options` describe a new model"),
        (("--chosen_column", "good"), "good"),
    ],
)
def test_a_wrong_value_for_preferences_is_one_line(words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, "gcrm", default("gcrm"), *OWN["gcrm"], *words)


@pytest.mark.recipe
def test_arms_differ_in_the_order_of_the_images_only(tmp_path):
    out = tmp_path / "out"
    run("gsimclr", default("gsimclr"), *QUICK, *OWN["gsimclr"], "--pictures", "false", "--output_dir", str(out))
    saved = [json.loads((folder / "config.json").read_text()) for folder in (out, out / "random")]
    for config in saved:
        for name in ("architectures", "model_type", "transformers_version"):
            config.pop(name, None)
    assert saved[0] == saved[1]
    guidance = {row["order"]: row for row in json.loads((out / "all_results.json").read_text())["guidance"]}
    assert guidance["guided (strict)"]["repeated pseudo-labels"] == 0
    assert guidance["random"]["repeated pseudo-labels"] > guidance["official"]["repeated pseudo-labels"] > 0


@pytest.mark.recipe
def test_short_run_on_programs(tmp_path, capsys):
    out = tmp_path / "out"
    words = ("--max_steps", "30", "--max_per_label", "16", "--max_test_per_label", "8", "--queue_size", "64")
    words += ("--per_device_train_batch_size", "16", "--max_length", "96")
    run("code_clone", default("code_clone"), *words, "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in ("Batch report", "per anchor", "=== MoCo ===", "=== SwAV ===", "untrained encoder", "to find clones"):
        assert part in said
    results = json.loads((out / "all_results.json").read_text())
    rows = {row["encoder"]: row for row in results["clone_rows"]}
    # on problems that training has not seen
    for name in ("SimCLR", "SwAV", "MoCo"):
        assert rows[name]["map@r"] > rows["untrained encoder"]["map@r"] > rows["TF-IDF of words"]["map@r"]
    assert (results["test_rows"], results["test_problems"]) == (96, 12)
    assert {path.name for path in (out / "plots").glob("*.png")} >= {"embedding_map.png", "training_curves.png"}
    card = validate_card(out / "README.md")
    assert card["pipeline_tag"] == "feature-extraction"
    assert card["model-index"][0]["results"]
    assert not list(out.rglob("*.bin"))
    model, info = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert type(model) is REGISTRY["code_clone"].model_class()
    assert ProgramProcessor.from_pretrained(out).settings["names"] == "number"
    # the code of the card runs as it stands
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    found: dict = {}
    exec(code.replace('"out"', f'"{out}"'), found)
    # these two differ in a name only
    assert torch.allclose(found["embeddings"][0], found["embeddings"][1], atol=1e-6)
    # the arms differ in the objective only
    configs = [json.loads((out / arm / "config.json").read_text()) for arm in ("", "moco", "swav")]
    assert [config.pop("ssl") for config in configs] == ["simclr", "moco", "swav"]
    assert [config.pop("temperature") for config in configs] == [0.1, 0.07, 0.1]
    assert configs[0] == configs[1] == configs[2]


@pytest.mark.recipe
@pytest.mark.parametrize("encoder", ["ast", "graph"])
def test_programs_as_trees_with_rewriting(encoder, tmp_path, capsys):
    out = tmp_path / "out"
    words = (
        *OWN["code_clone"],
        "--arms",
        "simclr",
        "--encoder",
        encoder,
        "--backbone_options",
        "null",
        "--names",
        "keep",
    )
    words += ("--pooling", "auto", "--max_steps", "3", "--per_device_train_batch_size", "4", "--max_paths", "20")
    words += ("--augment", "rename", "reformat", "--pictures", "false", "--lexical_baselines", "false")
    run("code_clone", default("code_clone"), *words, "--output_dir", str(out))
    assert "rewriting: rename, reformat" in capsys.readouterr().out
    assert AutoModel.from_pretrained(out).config.encoder == encoder
    assert ProgramProcessor.from_pretrained(out).encoder == encoder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--arms", "byol"), "--arms has byol; known are: simclr, moco, swav"),
        (("--dataset_path", "/nowhere/at/all"), "does not exist"),
        (("--on_bad", "ignore"), "`on_bad` is 'ignore'"),
        (("--augment", "shuffle"), "`transforms` has 'shuffle'"),
        (("--vocab_size", "20"), "`vocab_size` is 20, but it must be 260 or more"),
        (("--encoder", "ast", "--backbone", "bert"), "`backbone` is for encoder 'text'"),
        (("--backbone", "/no/such/model", "--backbone_options", "null"), "`backbone` is '/no/such/model'"),
        (("--temperature", "0"), "`temperature` is 0.0"),
        (("--names", "drop"), "`names` is 'drop'"),
    ],
)
def test_a_wrong_value_for_programs_is_one_line(words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, "code_clone", default("code_clone"), *OWN["code_clone"], *words)


@pytest.mark.recipe
@pytest.mark.distributed
def test_two_processes(tmp_path):
    command = [sys.executable, "-m", "hf_contrastive.cli", "train", "gsimclr", "digits", "--num-processes", "2"]
    command += [*QUICK, *OWN["gsimclr"], "--pictures", "false", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("=== G-SimCLR ===") == 1
    assert "from 2 devices" in done.stdout
    assert AutoModel.from_pretrained(tmp_path / "out").config.model_type == "gsimclr"


def test_an_earlier_run_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit) as stopped:
        run("simclr", default("simclr"), "--output_dir", str(tmp_path))
    assert stopped.value.code == 2
    assert "--resume_from_checkpoint true" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"


def test_a_folder_that_is_no_run_is_never_deleted(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit):
        run("simclr", default("simclr"), "--output_dir", str(tmp_path), "--overwrite", "true")
    assert "is no folder of a run" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("left", ["all_results.json", "metrics.jsonl", "checkpoint-3", "mle/checkpoint-3"])
def test_a_run_is_deleted_on_demand(left, tmp_path):
    out = tmp_path / "out"
    (out / left).mkdir(parents=True)
    images.prepare_output(Arguments(str(out)), images.RunArguments(overwrite=True))
    assert not out.exists()


class Arguments:
    """The part of the training arguments that `prepare_output` reads."""

    resume_from_checkpoint = None

    def __init__(self, output_dir: str) -> None:
        self.output_dir = output_dir


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--augmentation", "foo"), "`augmentation` is 'foo'; presets are: imagenet"),
        (("--dataset_path", "/nowhere/at/all"), "does not exist"),
        (("--temperature", "0"), "`temperature` is 0.0"),
    ],
)
def test_a_wrong_value_is_one_line(words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, "simclr", default("simclr"), *words)


@pytest.mark.recipe
def test_adapters_of_a_language_model_end_in_one_that_can_be_used(tmp_path, capsys):
    out = tmp_path / "out"
    words = (*OWN["simctg"], "--max_steps", "3", "--warmup_steps", "1", "--arms", "simctg", "--methods", "greedy")
    run("simctg", default("simctg"), *words, "--lora_rank", "2", "--pictures", "false", "--output_dir", str(out))
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()
    assert f"hf-contrastivegenerate{out / 'merged'}" in "".join(capsys.readouterr().out.split())  # lines are wrapped
    model, info = AutoModelForCausalLM.from_pretrained(out / "merged", output_loading_info=True)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert not any(info.values())
    tokens = AutoTokenizer.from_pretrained(out / "merged")("The class", return_tensors="pt")
    assert model.generate(**tokens, max_new_tokens=2).shape[0] == 1
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert '"out/merged"' in code
    exec(code.replace('"out', f'"{out}'), {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--arms", "mle", "both"), "--arms has both; known are: mle, simctg"),
        (("--methods", "topk"), "--methods has topk; known are: greedy, beam, nucleus, contrastive"),
        (("--dataset_path", "/nowhere/at/all.txt"), "does not exist"),
        (("--margin", "2"), "`margin` is 2.0"),
        (("--block_size", "300"), "`block_size` is 300, but the model has 256 positions; pass --block_size 256"),
        (
            ("--new_tokens", "250"),
            "a prompt of 32 tokens, 250 new ones and the beginning of text make 283, but the model has 256",
        ),
        (("--backbone", "/no/such/model", "--backbone_options", "{}"), "`backbone` is '/no/such/model'"),
        (("--scorer", "/no/such/model"), "`scorer` is '/no/such/model', but there is no such checkpoint"),
        (("--prefix_length", "40000"), "the test texts hold no 40096 tokens in a row"),
        (("--vocab_size", "20"), "`vocab_size` is 20, but it must be 260 or more"),
    ],
)
def test_a_wrong_value_for_texts_is_one_line(words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, "simctg", default("simctg"), *words)


def test_the_command_can_be_repeated(monkeypatch, tmp_path):
    recipe = ROOT / "recipes" / "simclr"
    monkeypatch.setattr(
        "sys.argv", [str(recipe / "train.py"), str(recipe / "digits.yaml"), "--output_dir", str(tmp_path / "my run")]
    )
    assert images.command_line(public=True) == (
        "accelerate launch recipes/simclr/train.py recipes/simclr/digits.yaml --output_dir 'my run'"
    )
    assert images.command_line() == (
        f"accelerate launch {recipe / 'train.py'} {recipe / 'digits.yaml'} --output_dir '{tmp_path / 'my run'}'"
    )


class Stop(Exception):
    """Raised where the data would be loaded."""


@pytest.mark.parametrize("path", YAMLS)
def test_settings_are_understood(path, tmp_path, monkeypatch):
    """Every YAML of the repository is parsed, model and views are built as it says."""
    seen = {}

    def load_splits(data, *seed):
        seen["data"] = data
        raise Stop

    slug = path.split("/")[1]
    monkeypatch.setattr(SHARED_BY_SYSTEM.get(slug, SHARED[REGISTRY[slug].domain]), "load_splits", load_splits)
    # bf16 asks for hardware that may not be here
    with pytest.raises(Stop):
        run(slug, str(ROOT / path), "--output_dir", str(tmp_path / "out"), "--bf16", "false")
    assert seen["data"].dataset_path


def test_misspelt_field_names_the_nearest(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("simclr", default("simclr"), "--temprature", "0.2", "--output_dir", str(tmp_path / "out"))
    assert "temperature" in capsys.readouterr().err


def test_too_little_memory_is_said_before_training(tmp_path, capsys, monkeypatch):
    from hf_contrastive.families.recommender import memory

    monkeypatch.setattr(memory, "free_memory", lambda device: 10_000)
    with pytest.raises(SystemExit) as stopped:
        run("lightgcn", default("lightgcn"), "--output_dir", str(tmp_path / "out"))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: training needs about")
    assert not (tmp_path / "out" / "model.safetensors").exists()
