"""The recipe of narrated videos as a user runs it, and zero-shot recognition of frames with what it saves."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from data.test_narrations import write_lectures
from helpers.recipes import check_refused, default, run, run_recipe
from PIL import Image
from transformers import AutoModel, AutoProcessor

from hf_contrastive.evaluation import video_average_precision, video_classification_metrics
from hf_contrastive.hub import validate_card
from hf_contrastive.registry import REGISTRY


SLUG = "surgvlp"


@pytest.mark.recipe
def test_short_run_on_clips(tmp_path, capsys):
    out = tmp_path / "out"
    words = ("--max_steps", "60", "--max_test_samples", "128", "--label_draws", "1", "--compare", "info_nce")
    words += ("--max_train_samples", "512", "--warmup_steps", "6")
    run(SLUG, default(SLUG), *words, "--output_dir", str(out))
    said = capsys.readouterr().out
    for part in ("=== InfoNCE alone ===", "=== SurgVLP ===", "Batch report", "such pairs are masked"):
        assert part in said
    for part in ("of the second transcript a clip", "untrained encoders", "to evaluate", "to resume"):
        assert part in said
    results = json.loads((out / "all_results.json").read_text())
    rows = {row["model"]: row for row in results["pair_rows"]}
    assert list(rows) == ["untrained encoders", "InfoNCE alone", REGISTRY[SLUG].title]
    trained, untrained = rows[REGISTRY[SLUG].title], rows["untrained encoders"]
    for measure in ("text_to_image@10", "image_to_text@10"):
        assert trained[measure] > 2 * untrained[measure]
    assert trained["linear@100%"] > untrained["linear@100%"]
    assert results["measured"][0]["compared"] == ["text_to_image@5", "image_to_text@5"]
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"info_nce_loss", "mil_nce_loss"} <= set(next(line for line in logged if "info_nce_loss" in line))
    assert {path.name for path in (out / "plots").glob("*.png")} >= {"similarity_heatmap.png", "training_curves.png"}
    card = validate_card(out / "README.md")
    assert card["pipeline_tag"] == "zero-shot-image-classification"
    assert card["model-index"][0]["results"]
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(code.replace('"out"', f'"{out}"'), {})
    # the arms differ in what they optimise only
    configs = [json.loads((folder / "config.json").read_text()) for folder in (out, out / "info_nce")]
    assert [config.pop("objective") for config in configs] == ["paper", "info_nce"]
    assert configs[0] == configs[1]
    # the result can be trained further
    words = ("--pair", str(out), "--vision_options", "null", "--text_options", "null", "--objective", "released")
    run(SLUG, default(SLUG), *words, "--dry_run", "true", "--output_dir", str(tmp_path / "further"))
    said = " ".join(capsys.readouterr().out.split())
    assert "pixel_values_aug2 2x4x3x32x32" in said
    assert "outputs.simclr_loss" in said


@pytest.mark.recipe
@pytest.mark.skipif(
    importlib.util.find_spec("av") is None, reason="PyAV is not installed: pip install 'hf-contrastive[video]'"
)
def test_videos_are_trained_on_and_retrieved(tmp_path, capsys):
    folder, out = write_lectures(tmp_path / "lectures"), tmp_path / "out"
    words = ("--dataset_path", str(folder), "--test_split", "train", "--image_size", "16", "--max_steps", "2")
    words += (
        "--per_device_train_batch_size",
        "2",
        "--recall_ks",
        "1",
        "--objective",
        "released",
        "--save_strategy",
        "no",
    )
    with pytest.warns(UserWarning, match="1 of 3 videos have no sentence"):
        run(SLUG, default(SLUG), *words, "--output_dir", str(out), "--max_length", "8")
    said = capsys.readouterr().out
    for part in ("lectures: 2 rows", "augmented clips: 2 views", "lectures: 3 pairs that training has not seen"):
        assert part in said
    results = json.loads((out / "all_results.json").read_text())
    assert set(results["pair_rows"][1]) == {"model", "text_to_image@1", "image_to_text@1"}
    assert str(tmp_path) not in (out / "README.md").read_text()
    with pytest.warns(UserWarning, match="1 of 3 videos have no sentence"):
        run_recipe(f"{SLUG}/evaluate_zero_shot.py", str(out), "retrieval", "--data", str(folder), "--split", "train")
    assert "3 sentences and their clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--augmentation", "strong"), "presets are: clips, convirt"),
        (("--view_options", '{"flop": 1}'), "`view_options` has flop"),
        (("--augmented_options", '{"flop": 1}', "--objective", "released"), "`augmented_options` has flop"),
        (("--compare", "clip"), "--compare has clip; known are: info_nce, paper, paper_cosine, released"),
        (("--objective", "all"), "`objective` is 'all'"),
        (("--text_layers", "5"), "`text_layers` is 5"),
        (("--projection_dim", "8"), "`projection_dim` is 8"),
        (("--drop_words", "1"), "`drop` is 1"),
        (("--num_texts", "0"), "`num_texts` is 0"),
        (("--train_split", "night"), "split 'night' not found"),
        (("--dataset_path", "./nothing.csv"), "does not exist"),
    ],
)
def test_a_wrong_value_for_narrations_is_one_line(words, message, tmp_path, capsys):
    check_refused(tmp_path, capsys, message, SLUG, default(SLUG), *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rows_per", "word"), "`per` is 'word'"),
        (("--clip_seconds", "4"), "`clip_seconds` is [4]"),
        (("--train_split", "val"), "splits there: train"),
        (("--other_folder", "other"), "does not exist"),
    ],
)
def test_a_wrong_value_for_videos_is_one_line(words, message, tmp_path, capsys):
    folder = write_lectures(tmp_path / "lectures", videos=False)
    check_refused(tmp_path, capsys, message, SLUG, default(SLUG), "--dataset_path", str(folder), *words)


# ---- zero-shot recognition ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from helpers.dual_encoder_tester import text_encoders

    from hf_contrastive import ConvEncoderConfig, DualEncoderProcessor, SurgVLPConfig, SurgVLPForPreTraining
    from hf_contrastive.data import image_processor, train_word_tokenizer

    folder = tmp_path_factory.mktemp("surgvlp")
    torch.manual_seed(0)
    text = text_encoders()["bert"]
    text.vocab_size, text.max_position_embeddings = 200, 40
    config = SurgVLPConfig(
        vision_config=ConvEncoderConfig(channels=[8, 16]), text_config=text, text_layers=2, text_length=40
    )
    SurgVLPForPreTraining(config).save_pretrained(folder)
    tokenizer = train_word_tokenizer(["the surgeon uses hook and grasper to cut the duct", "washing"], max_length=40)
    DualEncoderProcessor(image_processor(16, [0.5] * 3, [0.25] * 3), tokenizer).save_pretrained(folder)
    return folder


def write_frame(path, seed, size=(40, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_phases(checkpoint, tmp_path, capsys):
    labels = {"video01": [1, 2, 2, 11], "video02": [3, 1, 1]}
    (tmp_path / "csvs").mkdir()
    prompts = ["the surgeon uses the hook", "the grasper", "washing"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    pixels = {}
    for number, (video, own) in enumerate(labels.items()):
        rows = "".join(f"{video}_{place}.png,{label}\n" for place, label in enumerate(own))
        (tmp_path / "csvs" / f"{video}.csv").write_text(f"path,label\n{rows}")
        pixels[video] = []
        for place in range(len(own)):
            path = tmp_path / "frames" / f"{video}_{place + 1}.png"
            write_frame(path, 10 * number + place)
            # 36 wide and 20 high, then a square of 16 out of the middle
            small = Image.open(path).resize((36, 20), Image.Resampling.BILINEAR).crop((10, 2, 26, 18))
            pixels[video].append((torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255 - 0.5) / 0.25)
    words = ("phases", "--frames", str(tmp_path / "frames"), "--labels", str(tmp_path / "csvs"))
    words += ("--prompts", str(tmp_path / "prompts.txt"), "--resize", "20", "36", "--crop", "16")
    run_recipe(f"{SLUG}/evaluate_zero_shot.py", str(checkpoint), *words, "--json", str(tmp_path / "found.json"))
    assert "1 frames dropped" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    texts = model.encode(**processor(text=prompts))
    guessed = [(model.encode(torch.stack(pixels[video])) @ texts.T).argmax(1) + 1 for video in labels]
    expected = video_classification_metrics(guessed, list(labels.values()), drop_labels=[11])
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["f1_macro"] == pytest.approx(expected["f1_macro"])
    # plain prompts by name
    run_recipe(
        f"{SLUG}/evaluate_zero_shot.py", str(checkpoint), *words[:5], "--prompts", "autolaparo", "--videos", "video02"
    )
    assert "not those of the paper" in capsys.readouterr().out
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    with pytest.raises(SystemExit):
        run_recipe(f"{SLUG}/evaluate_zero_shot.py", str(checkpoint), *words)
    assert "labels go from 1 to 3 and there are 2 prompts" in capsys.readouterr().err


def test_tools_and_triplets(checkpoint, tmp_path, capsys):
    # two videos of six frames; triplets 0: 0,0,0; 1: 0,0,1; 2: 1,1,0
    table = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0]])
    (tmp_path / "maps.txt").write_text("".join(f"{n},{i},{v},{t}\n" for n, (i, v, t) in enumerate(table)))
    rng = np.random.default_rng(0)
    labels = {}
    for video in ("VID01", "VID02"):
        bits = (rng.random((6, 3)) < 0.4).astype(int)
        bits[0], bits[1] = 1, 0
        labels[video] = bits
        classes = {"triplet": 3, "instrument": 6, "verb": 10, "target": 15}
        for kind, count in classes.items():
            own = np.zeros((6, count), dtype=int)
            for triplet in range(3):
                place = triplet if kind == "triplet" else table[triplet][("instrument", "verb", "target").index(kind)]
                own[:, place] |= bits[:, triplet]
            (tmp_path / kind).mkdir(exist_ok=True)
            lines = "".join(f"{frame},{','.join(map(str, row))}\n" for frame, row in enumerate(own))
            (tmp_path / kind / f"{video}.txt").write_text(lines)
        for frame in range(6):
            write_frame(tmp_path / "frames" / video / f"{frame:06d}.png", frame + 100 * len(labels), size=(16, 16))
    words = ("--frames", str(tmp_path / "frames"), "--json", str(tmp_path / "found.json"))
    run_recipe(
        f"{SLUG}/evaluate_zero_shot.py", str(checkpoint), "tools", *words, "--labels", str(tmp_path / "instrument")
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ap"][2:] == [None] * 4
    assert found["map"] == pytest.approx(np.mean(found["ap"][:2]))
    script = (f"{SLUG}/evaluate_zero_shot.py", str(checkpoint), "triplets", *words, "--labels", str(tmp_path))
    run_recipe(*script, "--map", str(tmp_path / "maps.txt"))
    said = capsys.readouterr().out
    assert "instrument-target" in said
    assert "(triplet), not those of the paper" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {"instrument", "verb", "target", "triplet", "instrument-verb", "instrument-target"}
    # what a pair scores is the largest score of its triplets
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    texts = model.encode(
        **processor(
            text=[
                "the surgeon uses the grasper to grasp the gallbladder",
                "the surgeon uses the grasper to grasp the cystic plate",
                "the surgeon uses the bipolar forceps to retract the gallbladder",
            ]
        )
    )
    scores, targets = [], []
    for video, bits in labels.items():
        images = [np.array(Image.open(tmp_path / "frames" / video / f"{frame:06d}.png")) for frame in range(6)]
        pixels = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        own = model.encode(pixels) @ texts.T
        scores.append(torch.stack([own[:, :2].max(1).values, own[:, 2]], 1))
        targets.append(np.stack([bits[:, :2].max(1), bits[:, 2]], 1))
    assert found["instrument-verb"]["map"] == pytest.approx(video_average_precision(scores, targets)["map"])
    with pytest.raises(SystemExit):
        run_recipe(*script)
    assert "give --triplet-prompts, or --map" in capsys.readouterr().err


def test_two_transcripts_as_two_modalities(tmp_path, capsys):
    folder, card = write_lectures(tmp_path / "lectures", videos=False), tmp_path / "card.md"
    card.write_text("# SurgVLP\n")
    words = (
        "--train-split",
        "train",
        "--test-split",
        "train",
        "--epochs",
        "1",
        "--batch-size",
        "2",
        "--seeds",
        "0",
        "1",
    )
    with pytest.warns(UserWarning, match="1 of 3 videos have no sentence"):
        run_recipe(f"{SLUG}/align_transcripts.py", str(folder), *words, "--card", str(card))
    written = card.read_text()
    for part in (
        "3 training sentences of 2 lectures, 1 steps",
        "| untrained encoder |",
        "minus InfoNCE alone by seed",
    ):
        assert part in written
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="1 of 3 videos have no sentence"):
        run_recipe(f"{SLUG}/align_transcripts.py", str(folder), *words[:4], "--batch-size", "9")
    assert "3 sentences to train on, fewer than --batch-size 9" in capsys.readouterr().err
