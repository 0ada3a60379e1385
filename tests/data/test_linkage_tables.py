"""Tables of records: what is found by itself, what lacks, what is left out and told."""

from __future__ import annotations

import csv
import warnings

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_contrastive.data import load_judged_pairs, load_linkage_table
from hf_contrastive.data.linkage_tables import make_glyph_records


def write_csv(path, *lines):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        Image.new("L", (12, 6), 40 * number).save(tmp_path / f"{number}.png")
    return tmp_path


def test_one_sided_records_stay_and_empty_ones_go(folder):
    lines = [
        ["path", "ocr", "label", "id"],
        ["0.png", "Smith  &\tCo", 7, "a"],
        ["1.png", "", 7, "b"],
        ["", "Smith", 8, "c"],
        ["", "", 9, "d"],
        ["gone.png", "Tanaka", 9, "e"],
        ["gone.png", "", 9, "f"],
    ]
    file = write_csv(folder / "records.csv", *lines)
    with pytest.warns(UserWarning, match="6") as told:
        table = load_linkage_table(file, keep_columns=["id"])
    said = "\n".join(str(one.message) for one in told)
    assert "2 of 6 images" in said
    assert "first in row 4" in said
    assert "2 of 6 rows" in said
    assert "first is row 3" in said
    assert table["text"][:] == ["Smith & Co", "", "Smith", "Tanaka"]
    assert [image is not None for image in table["image"]] == [True, True, False, False]
    assert table[1]["image"].size == (12, 6)
    assert table["label"][:] == [7, 7, 8, 9]
    assert table["id"][:] == ["a", "b", "c", "e"]
    with pytest.warns(UserWarning, match="go on without an image"):
        assert load_linkage_table(file, optional_columns=["id", "key"]).column_names[3:] == ["id", "index"]
    assert table["index"][:] == [0, 1, 2, 4]  # rows of the file
    with pytest.raises(ValueError, match=r"2 of 6 images .* row 4: .*gone.png; mend the paths"):
        load_linkage_table(file, on_bad="stop")


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_kinds_of_files(folder, ending):
    rows = datasets.Dataset.from_dict({"title": ["a", "b"], "cluster": ["x", None], "n": [1, 2]})
    path = folder / f"table.{ending}"
    rows.to_parquet(path) if ending == "parquet" else rows.to_json(path)
    table = load_linkage_table(path)
    assert table.column_names == ["image", "text", "label", "index"]
    assert table["image"][:] == [None, None]
    assert table["label"][:] == ["x", None]


def test_images_in_the_table(folder):
    images = [str(folder / "1.png"), str(folder / "2.png"), None]
    rows = datasets.Dataset.from_dict({"crop": images, "name": ["a", None, "c"]}).cast_column("crop", datasets.Image())
    rows.to_parquet(folder / "crops.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        table = load_linkage_table(folder / "crops.parquet")
    assert np.asarray(table[0]["image"]).max() == 40
    assert [image is None for image in table["image"]] == [False, False, True]
    assert table["text"][:] == ["a", "", "c"]
    assert "label" not in table.column_names


def test_labels_with_gaps_and_names(folder):
    table = load_linkage_table(write_csv(folder / "a.csv", ["text", "label"], ["a", 3], ["b", ""], ["c", -4]))
    assert table["label"][:] == [3, None, -4]
    named = datasets.Dataset.from_dict(
        {"text": ["a", "b"], "label": [1, 0]},
        features=datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
        ),
    )
    assert load_linkage_table(named)["label"][:] == ["yes", "no"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "photo"}, "column 'photo' not found; .* has words, n; pass image_column='words'"),
        ({"text_column": "ocr"}, "column 'ocr' not found"),
        ({"label_column": "firm"}, "column 'firm' not found"),
        ({}, "column 'text' not found; .* has words, n; .*text_column.*; a record needs an image or a text"),
        ({"text_column": "words", "keep_columns": ["id"]}, "column 'id' not found"),
        ({"on_bad": "ignore"}, "on_bad must be 'stop' or 'skip'"),
    ],
)
def test_columns_that_are_not_there(options, message):
    rows = datasets.Dataset.from_dict({"words": ["a"], "n": [1]})
    with pytest.raises(ValueError, match=message):
        load_linkage_table(rows, **options)


def test_nothing_left_and_nothing_there(folder):
    with pytest.raises(ValueError, match=r"none of the 2 rows .* has an image or a text"):
        load_linkage_table(write_csv(folder / "a.csv", ["text", "n"], ["", 1], ["", 2]))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_linkage_table(folder / "no.csv")
    with pytest.raises(ValueError, match="1 of 1 images"):
        load_linkage_table(write_csv(folder / "b.csv", ["path", "n"], ["gone.png", 1]))


PAIRS = (
    ["source_name", "candidate_name", "label"],
    ["A Co", "A & Co", 1],
    ["A Co", "B & Co", 0],
    ["B", "B & Co", 1],
    ["X", "A & Co", -9],
    ["B & Co", "A & Co", 0],
)


def test_judged_pairs(folder):
    file = write_csv(folder / "pairs.csv", *PAIRS)
    pictures = write_csv(
        folder / "pictures.csv", ["name", "image"], ["A Co", "0.png"], ["A & Co", "1.png"], ["X", "2.png"]
    )
    found = load_judged_pairs(file, pictures)
    assert found.pool["text"][:] == ["A & Co", "B & Co"]
    assert found.pool["label"][:] == [0, 1]
    assert [image is None for image in found.pool["image"]] == [False, True]
    assert list(zip(found.queries["text"][:], found.queries["label"][:], strict=True)) == [("A Co", 0), ("B", 1)]
    # judged to be none, and not in the pool either
    assert list(zip(found.others["text"][:], found.others["label"][:], strict=True)) == [("X", -1)]
    assert load_judged_pairs(file).pool["image"][:] == [None, None]


def test_judged_pairs_that_contradict(folder):
    file = write_csv(folder / "two.csv", *PAIRS, ["A Co", "B & Co", 1])
    with pytest.raises(ValueError, match="'A Co' matches two candidates"):
        load_judged_pairs(file)
    with pytest.raises(ValueError, match="no pair with a verdict of 1 in 'label'"):
        load_judged_pairs(write_csv(folder / "none.csv", PAIRS[0], PAIRS[2]))
    with pytest.raises(ValueError, match=r"column 'left' not found; .*query_column="):
        load_judged_pairs(file, query_column="left")


def test_glyphs_are_records():
    train, test = make_glyph_records("train"), make_glyph_records("test")
    assert len(set(train["label"][:])) == 90
    names = dict(zip(train["text"][:], train["label"][:], strict=True))
    assert len(names) == 90
    assert all(names[text] == label for text, label in zip(test["text"][:], test["label"][:], strict=True))
