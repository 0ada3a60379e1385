"""`hf-contrastive link`: matches are those of an exact search, files are whole, and what is wrong is told in words."""

from __future__ import annotations

import csv
import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_contrastive import ClippingsConfig, ClippingsForPreTraining, ClippingsImageProcessor, DualEncoderProcessor
from hf_contrastive.backbones.configuration_backbones import ConvEncoderConfig
from hf_contrastive.data import train_word_tokenizer
from hf_contrastive.tensor_utils import pool_modalities


KNOWN = ["Smith & Co", "Mueller Ltd", "Tanaka", "Ivanov", "Rossi Spa"]
SEEN = ["Smiht Co", "Tanaka", "Rosi Spa"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`(folder, model, processor)` of a tiny CLIPPINGS."""
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("saved") / "tiny"
    torch.manual_seed(0)
    tokenizer = train_word_tokenizer([*KNOWN, *SEEN], "character")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = BertConfig(**sizes, vocab_size=len(tokenizer), initializer_range=0.3)
    config = ClippingsConfig(
        vision_config=ConvEncoderConfig(channels=[4, 8]),
        text_config=text,
        projection_dim=8,
        image_pooling="mean",
        text_pooling="mean",
        image_weight=0.6,
    )
    model = ClippingsForPreTraining(config).eval()
    processor = DualEncoderProcessor(ClippingsImageProcessor.firms(16), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


@pytest.fixture
def tables(tmp_path):
    """Two tables with pictures; of the left one a record has no picture, of the right one a record has no text."""
    random = np.random.default_rng(0)
    for number in range(8):
        picture = random.integers(0, 256, (10, 24, 3), dtype=np.uint8)
        Image.fromarray(picture // (1 + number % 3)).save(tmp_path / f"{number}.png")
    left = tmp_path / "left.csv"
    with left.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "image", "text"], *([f"s{n}", f"{n}.png" if n != 1 else "", text] for n, text in enumerate(SEEN))]
        )
    right = tmp_path / "right.parquet"
    datasets.Dataset.from_dict(
        {
            "id": list(range(40, 45)),
            "image": [str(tmp_path / f"{3 + n}.png") for n in range(5)],
            "text": [text if n != 3 else None for n, text in enumerate(KNOWN)],
        }
    ).cast_column("image", datasets.Image()).to_parquet(right)
    return left, right


def expected(saved, tables, weight: float):
    """Cosines of every pair, from the model itself."""
    _, model, processor = saved
    folder, sides = tables[0].parent, []
    for texts, first, no_image, no_text in ((SEEN, 0, 1, None), (KNOWN, 3, None, 3)):
        images = [Image.open(folder / f"{first + n}.png") for n in range(len(texts))]
        pooled = pool_modalities(
            model.encode(processor(images=images)["pixel_values"]),
            model.encode(**processor(text=texts)),
            weight,
            has_image=torch.tensor([n != no_image for n in range(len(texts))]),
            has_text=torch.tensor([n != no_text for n in range(len(texts))]),
        )
        sides.append(pooled)
    return sides[0] @ sides[1].T


@pytest.mark.parametrize("weight", [None, 0.0, 0.9])
def test_matches_are_the_nearest(call, saved, tables, tmp_path, weight):
    out = tmp_path / "matches.parquet"
    words = [] if weight is None else ["--image-weight", weight]
    done = call("link", saved[0], *tables, "-o", out, *words)
    assert done.code == 0, done.err
    assert f"wrote {out}: 3 lines; 3 of 3 records have a match" in done.out
    assert "linking: 3 records in" in done.err
    table = datasets.Dataset.from_parquet(str(out))
    assert table.column_names == [
        *("left_row", "left_id", "left_text", "right_row", "right_id", "right_text", "score"),
    ]
    cosines = expected(saved, tables, 0.6 if weight is None else weight)
    assert table["right_row"][:] == cosines.argmax(1).tolist()
    assert table["score"][:] == pytest.approx(cosines.max(1).values.tolist(), abs=1e-4)
    assert table["left_id"][:] == ["s0", "s1", "s2"]
    assert table["right_id"][:] == [str(40 + row) for row in table["right_row"][:]]
    # a part of the table at a time is the same
    again = tmp_path / "again.parquet"
    call("link", saved[0], *tables, "-o", again, "--batch-size", 2, *words)
    assert datasets.Dataset.from_parquet(str(again))["right_row"][:] == table["right_row"][:]


def test_threshold_and_records_without_a_match(call, saved, tables, tmp_path):
    cosines = expected(saved, tables, 0.6)
    limit = float(cosines.max(1).values.sort().values[:2].mean())  # above one of the three
    out = tmp_path / "matches.csv"
    done = call("link", saved[0], *tables, "-o", out, "--threshold", limit)
    assert f"2 lines; 2 of 3 records have a match above {limit:g}" in done.out
    with out.open() as file:
        assert len(list(csv.DictReader(file))) == 2
    every = tmp_path / "every.jsonl"
    done = call("link", saved[0], *tables, "-o", every, "--threshold", limit, "--unmatched")
    assert "3 lines; 2 of 3 records have a match" in done.out
    lines = [json.loads(line) for line in every.read_text().splitlines()]
    lonely = [line for line in lines if line["right_row"] is None]
    assert len(lonely) == 1
    assert lonely[0]["right_text"] is None
    assert lonely[0]["score"] <= limit


def test_several_matches_of_a_record(call, saved, tables, tmp_path):
    out = tmp_path / "matches.jsonl"
    assert call("link", saved[0], *tables, "-o", out, "--k", 3).code == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["rank"] for line in lines] == [1, 2, 3] * 3
    order = expected(saved, tables, 0.6).topk(3, dim=1).indices
    assert [line["right_row"] for line in lines] == order.flatten().tolist()
    # more than there are
    assert call("link", saved[0], *tables, "-o", out, "--k", 99, "--overwrite").code == 0
    assert len(out.read_text().splitlines()) == 15


def test_tables_of_texts_alone(call, saved, tmp_path):
    left, right = tmp_path / "a.jsonl", tmp_path / "b.csv"
    left.write_text("".join(json.dumps({"firm": text}) + "\n" for text in [*SEEN, ""]))
    with right.open("w", newline="") as file:
        csv.writer(file).writerows([["company", "n"], *([text, 1] for text in KNOWN)])
    out = tmp_path / "out.csv"
    words = ["--text-column", "firm", "--right-text-column", "company"]
    done = call("link", saved[0], left, right, "-o", out, *words)
    assert done.code == 0, done.err
    assert "note: LEFT: left out: 1 of 4 rows" in done.err
    with out.open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["left_row", "left_text", "right_row", "right_text", "score"]
    assert lines[1]["right_text"] == "Tanaka"
    assert float(lines[1]["score"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image-weight", "1.5"], "--image-weight is 1.5: image_weight must be in [0, 1]."),
        (["--threshold", "2"], "--threshold is 2; expected a cosine"),
        (["--unmatched"], "--unmatched goes with --threshold"),
        (["--text-column", "words"], "LEFT: column 'words' not found"),
        (["--right-text-column", "words"], "RIGHT: column 'words' not found"),
        (["--id-column", "key"], "LEFT: column 'key' not found; "),
        (["-o", "matches.txt"], "which ends in .txt; expected one of .jsonl, .csv, .parquet"),
    ],
)
def test_what_is_wrong_is_told(call, saved, tables, tmp_path, words, message):
    out = tmp_path / "matches.csv"
    done = call("link", saved[0], *tables, "-o", out, *words)
    assert done.code in (1, 2)
    assert message in done.err
    assert "Traceback" not in done.err
    assert not out.exists()


def test_other_checkpoints_and_files(call, saved, checkpoint, tables, tmp_path):
    out = tmp_path / "matches.csv"
    done = call("link", checkpoint, *tables, "-o", out)
    assert "is a 'simclr' model, not a pair of encoders of images and texts" in done.err
    assert "type: hf-contrastive train clippings" in done.err
    done = call("link", saved[0], tables[0], tmp_path / "none.csv", "-o", out)
    assert "RIGHT: " in done.err
    assert "does not exist" in done.err
    out.write_text("mine")
    done = call("link", saved[0], *tables, "-o", out)
    assert "exists; nothing was changed" in done.err
    assert out.read_text() == "mine"


def test_help_has_examples(call):
    done = call("link", "--help")
    assert done.code == 0
    assert "hf-contrastive link out/clippings-glyphs crops.csv known.csv -o matches.parquet" in done.out


def test_logos_by_their_references(call, tmp_path):
    """A model that makes one vector of picture and text: the brand of the nearest reference, with texts where there are some."""
    from hf_contrastive import LogoConfig, LogoIdentifier, LogoImageProcessor, LogoModel
    from hf_contrastive.data import character_tokenizer, make_glyph_logos

    torch.manual_seed(0)
    model = LogoModel(
        LogoConfig(vision_config=ConvEncoderConfig(channels=[4, 8]), hidden_dim=16, projection_dim=8)
    ).eval()
    processor = DualEncoderProcessor(LogoImageProcessor.of_size(16), character_tokenizer())
    model.save_pretrained(tmp_path / "logo")
    processor.save_pretrained(tmp_path / "logo")
    known = make_glyph_logos("test", 8).rename_column("label", "brand")
    asked = known.select([4, 1, 6]).remove_columns("brand")
    known.to_parquet(tmp_path / "known.parquet")
    asked.to_parquet(tmp_path / "asked.parquet")
    words = [
        "link",
        tmp_path / "logo",
        tmp_path / "asked.parquet",
        tmp_path / "known.parquet",
        "--right-id-column",
        "brand",
    ]
    assert call(*words, "-o", tmp_path / "found.csv", "--k", "2").code == 0
    with (tmp_path / "found.csv").open() as file:
        lines = [*csv.DictReader(file)]
    assert [line["right_id"] for line in lines[::2]] == [known[row]["brand"] for row in (4, 1, 6)]
    identifier = LogoIdentifier(model, processor)
    identifier.add(known["image"], known["brand"], texts=known["text"])
    expected = identifier.identify(asked["image"], texts=asked["text"], k=2)
    assert [line["right_id"] for line in lines] == [match.brand for some in expected for match in some]
    np.testing.assert_allclose(
        [float(line["score"]) for line in lines], [match.score for some in expected for match in some], atol=1e-5
    )
    refused = call(*words, "-o", tmp_path / "more.csv", "--image-weight", "0.5")
    assert refused.code == 2
    assert "makes one vector of picture and text" in " ".join(refused.err.split())
    # what is for texts with a space of their own says so
    exported = call("export", tmp_path / "logo", tmp_path / "x", "--to", "onnx")
    assert "makes one vector of picture and text" in " ".join(exported.err.split())
    embedded = call(
        "embed", tmp_path / "logo", tmp_path / "asked.parquet", "--text-column", "text", "-o", tmp_path / "u.npy"
    )
    assert "has no space of its own for texts" in " ".join(embedded.err.split())
