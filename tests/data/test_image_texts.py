"""Images with texts: loading from wherever they are, bad rows, draws, batches."""

from __future__ import annotations

import json
import tarfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_contrastive import DualEncoderProcessor
from hf_contrastive.data import (
    ImageTextCollator,
    PairEvalCollator,
    ProcessorTransform,
    SimCLRViews,
    image_processor,
    list_image_text_splits,
    load_image_texts,
    split_sentences,
    train_word_tokenizer,
)
from hf_contrastive.data.image_texts import duplicate_texts, text_ids


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (10, 8), (shade, 0, 255 - shade))


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        picture(40 * number).save(tmp_path / f"{number}.png")
    return tmp_path


def write_csv(folder, rows: list[tuple[str, str]], name: str = "pairs.csv"):
    lines = ["image,caption", *(f'{image},"{text}"' for image, text in rows)]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


# ---- sentences ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No acute disease. Heart size is normal!", ["No acute disease.", "Heart size is normal!"]),
        ("Ratio of 0.5 is fine. Lungs are clear", ["Ratio of 0.5 is fine.", "Lungs are clear"]),
        ("first line here\nsecond line here", ["first line here", "second line here"]),
        ("Normal. Clear.", ["Normal. Clear."]),
        ("Normal.  Both lungs are\tclear.", ["Both lungs are clear."]),
        ("...", []),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert split_sentences(text) == expected


# ---- loading ----


def test_table_of_paths(folder):
    path = write_csv(folder, [("0.png", "a cat"), ("1.png", "a dog")])
    rows = load_image_texts(path)
    assert rows.column_names == ["image", "texts", "index"]
    assert rows["texts"][:] == [["a cat"], ["a dog"]]
    assert np.array(rows[1]["image"])[0, 0].tolist() == [40, 0, 215]
    assert list_image_text_splits(path) == ["train"]


def test_missing_images_are_counted_or_stop(folder):
    path = write_csv(folder, [("0.png", "a cat"), ("gone.png", "a dog"), ("2.png", "a bird")])
    with pytest.warns(UserWarning, match=r"1 of 3 images .* the first in row 1: .*gone.png"):
        rows = load_image_texts(path)
    assert rows["texts"][:] == [["a cat"], ["a bird"]]
    assert rows["index"][:] == [0, 1]
    with pytest.raises(ValueError, match=r"gone.png; mend the paths"):
        load_image_texts(path, on_bad="stop")


def test_broken_images_and_empty_texts_are_counted_or_stop(folder):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:40])
    path = write_csv(folder, [("0.png", "a cat"), ("1.png", "a dog"), ("2.png", "  "), ("3.png", "a fish")])
    with pytest.warns(UserWarning, match="no text in caption|images are left out") as caught:
        rows = load_image_texts(path)
    said = " ".join(str(warning.message) for warning in caught)
    assert "1 of 4 images are left out" in said
    assert "1 of 3 rows have no text in caption" in said
    assert rows["texts"][:] == [["a cat"], ["a fish"]]
    with pytest.raises(ValueError, match="cannot be read"):
        load_image_texts(path, on_bad="stop")


def test_folder_with_metadata(folder):
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"text {number}"}) for number in range(4)]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = load_image_texts(folder)
    assert [texts[0] for texts in rows["texts"]] == [f"text {number}" for number in range(4)]


def test_webdataset(folder, tmp_path):
    archive = tmp_path / "pairs-train.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(3):
            (folder / f"{number}.txt").write_text(f"text {number}")
            tar.add(folder / f"{number}.png", f"{number}.png")
            tar.add(folder / f"{number}.txt", f"{number}.txt")
    rows = load_image_texts(archive)
    assert [texts[0] for texts in rows["texts"]] == ["text 0", "text 1", "text 2"]


def test_several_columns_lists_and_replacements(tmp_path):
    columns = {
        "image": [picture(0), picture(100)],
        "description": ["grinning face", None],
        "tags": [["smile", "grinning face"], ["thumbs_up"]],
        "kind": ["a", "b"],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "description": datasets.Value("string"),
            "tags": datasets.List(datasets.Value("string")),
            "kind": datasets.Value("string"),
        }
    )
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "e.parquet")
    rows = load_image_texts(
        tmp_path / "e.parquet", text_columns=["description", "tags"], label_column="kind", replace={"_": " "}
    )
    # nothing twice, an absent description does no harm
    assert rows["texts"][:] == [["grinning face", "smile"], ["thumbs up"]]
    assert rows.features["label"].names == ["a", "b"]
    with pytest.raises(
        ValueError, match=r"column 'words' not found; .* has image, description, tags, kind; pass text_columns"
    ):
        load_image_texts(tmp_path / "e.parquet", text_columns="words")
    with pytest.raises(ValueError, match="column 'text' not found"):
        load_image_texts(rows.remove_columns("texts"))


def test_every_nth_row_is_held_out(folder):
    path = write_csv(folder, [(f"{number}.png", f"text {number}") for number in range(4)])
    train = load_image_texts(path, every=3)
    test = load_image_texts(path, every=3, split="test")
    assert [texts[0] for texts in train["texts"]] == ["text 1", "text 2"]
    assert [texts[0] for texts in test["texts"]] == ["text 0", "text 3"]
    with pytest.raises(ValueError, match="give 2 or more"):
        load_image_texts(path, every=1)


def test_glyphs_are_the_same_every_time():
    one, two = (load_image_texts("glyphs", split="test") for _ in range(2))
    assert np.array_equal(np.array(one[5]["image"]), np.array(two[5]["image"]))
    assert one["texts"][:] == two["texts"][:]
    assert one[0]["texts"][0] == "a small white letter x" or len(one[0]["texts"]) == 4
    # what the caption says is what is drawn: the brightest channel of a red glyph is red
    red = next(row for row in one if " red " in f" {row['texts'][0]} ")
    assert np.array(red["image"]).reshape(-1, 3).max(0).argmax() == 0
    with pytest.raises(ValueError, match="the built-in glyphs have train, test"):
        load_image_texts("glyphs", split="validation")


# ---- ids ----


def test_ids_are_equal_exactly_for_equal_texts():
    ids = text_ids(["A cat", "a  CAT", "a cat.", "a dog"])
    assert ids.dtype == torch.int64
    assert bool((ids >= 0).all())
    assert ids[0] == ids[1]
    assert len(set(ids.tolist())) == 3
    assert duplicate_texts([["a", "b"], ["c"], ["B "], ["a"]]) == 2


# ---- batches ----


@pytest.fixture(scope="module")
def glyphs():
    return load_image_texts("glyphs", split="test")


@pytest.fixture(scope="module")
def processor(glyphs):
    tokenizer = train_word_tokenizer(text for texts in glyphs["texts"] for text in texts)
    return DualEncoderProcessor(image_processor(16), tokenizer)


def test_draws_depend_on_epoch_and_row_alone(glyphs, processor):
    collator = ImageTextCollator(SimCLRViews(16, num_views=1), processor, seed=4)
    rows = [glyphs[row] for row in range(24)]
    first, alone = collator.draw_texts(rows), collator.draw_texts(rows[7:8])
    assert alone == first[7:8]
    assert len({text for text, row in zip(first, rows, strict=True) if text == row["texts"][0]}) < 24
    collator.set_epoch(1)
    assert collator.draw_texts(rows) != first
    collator.set_epoch(0)
    assert collator.draw_texts(rows) == first
    counts = np.zeros(4)
    for epoch in range(20):
        collator.set_epoch(epoch)
        for text, row in zip(collator.draw_texts(rows), rows, strict=True):
            counts[row["texts"].index(text)] += 1
    assert counts.min() > 0.15 * counts.sum()


def test_duplicates_share_an_id(glyphs, processor):
    rows = [{**glyphs[0], "texts": ["a cat"]}, {**glyphs[1], "texts": ["A  cat"]}, {**glyphs[2], "texts": ["a dog"]}]
    batch = ImageTextCollator(SimCLRViews(16, num_views=1), processor)(rows)
    assert batch["sample_ids"][0] == batch["sample_ids"][1] != batch["sample_ids"][2]
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask", "index", "sample_ids"}
    assert batch["pixel_values"].shape == (3, 3, 16, 16)
    plain = ImageTextCollator(SimCLRViews(16, num_views=1), processor, mask_duplicates=False)(rows)
    assert "sample_ids" not in plain


def test_noise_never_leaves_an_empty_text(glyphs, processor):
    collator = ImageTextCollator(SimCLRViews(16, num_views=1), processor, corrupt=lambda text, rng: "")
    rows = [glyphs[0]]
    assert collator.draw_texts(rows)[0] in glyphs[0]["texts"]


def test_evaluation_takes_the_first_text(glyphs, processor):
    collator = PairEvalCollator(ProcessorTransform(processor.image_processor), processor)
    batch = collator([glyphs[0], glyphs[1]])
    expected = processor.tokenize([glyphs[0]["texts"][0], glyphs[1]["texts"][0]])["input_ids"]
    assert torch.equal(batch["input_ids"], expected)
    assert batch["label"].tolist() == [glyphs[0]["label"], glyphs[1]["label"]]


@pytest.mark.parametrize("kind", ["word", "wordpiece", "character"])
def test_tokenizers(kind, tmp_path):
    tokenizer = train_word_tokenizer(
        ["a red cat", "ＲＥＤ 赤い猫"], kind, vocab_size=60, max_length=10, mark_ends=True
    )
    ids = tokenizer("A RED cat")["input_ids"]
    assert ids == tokenizer("a red cat")["input_ids"]
    assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == ["[CLS]", "[SEP]"]
    assert len(tokenizer("red " * 40, truncation=True)["input_ids"]) == 10
    assert tokenizer.pad_token_id == 0
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path)("a red cat")["input_ids"] == ids
    with pytest.raises(ValueError, match="expected one of word, wordpiece, character"):
        train_word_tokenizer(["a"], "byte")
    with pytest.raises(ValueError, match="no word to learn from"):
        train_word_tokenizer([" "])
