"""Texts: loading from everywhere, splits, blocks of tokens, batches, the small tokenizer."""

from __future__ import annotations

import json

import datasets
import pytest
import torch

from hf_contrastive.data import TextCollator, list_text_splits, load_texts, token_blocks, train_tokenizer
from hf_contrastive.data.texts import cut_texts


def test_topics_are_there_without_a_download():
    train, test = load_texts("topics"), load_texts("topics", split="test")
    assert train.column_names == test.column_names == ["text", "index"]
    characters = [sum(map(len, part["text"])) for part in (train, test)]
    assert 0.09 < characters[1] / sum(characters) < 0.11
    assert train["index"][:] == list(range(len(train)))
    # the last chapter of one and the first of the other are parts of one text at most, and none comes twice
    assert not set(train["text"]) & set(test["text"])


def test_a_text_file_is_one_text_and_its_end_the_test(tmp_path):
    file = tmp_path / "novel.txt"
    lines = [f"line {number:03d}\n" for number in range(100)]
    file.write_text("".join(lines))
    assert list_text_splits(file) == ["train"]
    train, test = (load_texts(file, split=split, test_fraction=0.2) for split in ("train", "test"))
    assert train["text"][:] == ["".join(lines[:80])]
    assert test["text"][:] == ["".join(lines[80:])]
    with pytest.raises(ValueError, match=r"split 'test' not found; .* has train; .*test_fraction=0.1"):
        load_texts(file, split="test")


def test_the_cut_keeps_everything():
    texts = ["a\nb\n", "no end of line", "c\nd\ne\n"]
    for fraction in (0.01, 0.2, 0.5, 0.7, 0.99):
        first, second = cut_texts(texts, fraction)
        assert "".join(first) + "".join(second) == "".join(texts)
    assert cut_texts(["one line only"], 0.5) == (["one line only"], [""])


def test_folder_of_text_files_by_split(tmp_path):
    for name, text in (("train_1", "one"), ("train_2", "two"), ("valid", "three"), ("test", "four")):
        (tmp_path / f"{name}.txt").write_text(text)
    assert list_text_splits(tmp_path) == ["train", "validation", "test"]
    assert load_texts(tmp_path)["text"][:] == ["one", "two"]
    assert load_texts(tmp_path, split="validation")["text"][:] == ["three"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "saved"])
def test_tables(kind, tmp_path):
    rows = datasets.Dataset.from_dict({"number": [1, 2, 3], "content": ["alpha", "", "gamma"]})
    place = tmp_path / f"train.{kind}"
    if kind == "jsonl":
        rows.to_json(str(place))
    elif kind == "csv":
        rows.to_csv(str(place))
    elif kind == "parquet":
        rows.to_parquet(str(place))
    else:
        rows.save_to_disk(str(place))
    found = load_texts(place, cache_dir=str(tmp_path / "cache"))
    # the empty one is left out
    assert found.to_dict() == {"text": ["alpha", "gamma"], "index": [0, 1]}
    assert load_texts(place, cache_dir=str(tmp_path / "cache"), max_samples=1)["text"][:] == ["alpha"]


def test_holding_out_of_rows_without_a_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": null}\n{"text": "two\\nthree\\n"}\n')
    options = {"cache_dir": str(tmp_path / "cache"), "test_fraction": 0.4}
    parts = [load_texts(tmp_path / "a.jsonl", split=split, **options)["text"][:] for split in ("train", "test")]
    assert parts == [["one", "two\n"], ["three\n"]]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.txt does not exist; pass 'topics'"):
        load_texts(tmp_path / "nothing.txt")
    with pytest.raises(ValueError, match=r"no texts in .*: expected .parquet"):
        load_texts(tmp_path)
    (tmp_path / "a.jsonl").write_text(json.dumps({"left": "x", "right": "y"}) + "\n")
    options = {"cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match=r"cannot tell which column .* left, right; pass text_column="):
        load_texts(tmp_path / "a.jsonl", **options)
    assert load_texts(tmp_path / "a.jsonl", text_column="right", **options)["text"][:] == ["y"]
    with pytest.raises(ValueError, match=r"column 'middle' not found"):
        load_texts(tmp_path / "a.jsonl", text_column="middle", **options)
    with pytest.raises(ValueError, match=r"split 'dev' not found; .* has train"):
        load_texts(tmp_path / "a.jsonl", split="dev", **options)
    (tmp_path / "empty.txt").write_text(" \n ")
    with pytest.raises(ValueError, match="has no text"):
        load_texts(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt is not UTF-8 text"):
        load_texts(tmp_path / "latin.txt")
    for name, value in (("test_fraction", 1.5), ("max_samples", 0)):
        with pytest.raises(ValueError, match=name):
            load_texts("topics", **{name: value})


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat\n" * 20], 300, max_length=64)


def test_the_tokenizer_gives_every_text_back(tokenizer):
    for text in ("the cat", "ünïcödé 字 \n\t  two  spaces ", "<|not special|>"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("the cat sat")["input_ids"]) < 6  # it has learned words
    assert tokenizer.model_max_length == 64
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    with pytest.raises(ValueError, match=r"`vocab_size` is 100, but it must be 260 or more"):
        train_tokenizer(["a"], 100)


def test_blocks_hold_all_tokens_in_order(tokenizer):
    texts = datasets.Dataset.from_dict({"text": ["the cat", "sat on the mat", "zebra quartz"]})
    end = tokenizer.eos_token_id
    expected = [token for text in texts["text"] for token in [*tokenizer(text)["input_ids"], end]]
    blocks = token_blocks(texts, tokenizer, 4)["input_ids"][:]
    assert [token for block in blocks for token in block] == expected[: sum(map(len, blocks))]
    assert len(expected) - sum(map(len, blocks)) <= 1  # a last block of one token predicts nothing
    assert {len(block) for block in blocks[:-1]} == {4}
    with pytest.raises(ValueError, match="2 tokens or more"):
        token_blocks(texts, tokenizer, 1)


def test_a_real_token_equal_to_the_padding_counts():
    batch = TextCollator(pad_token_id=0)([{"input_ids": [5, 0, 7]}, {"input_ids": [8, 0]}])
    assert batch["input_ids"].tolist() == [[5, 0, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[5, 0, 7], [8, 0, -100]]
    assert batch["input_ids"].dtype == torch.int64
