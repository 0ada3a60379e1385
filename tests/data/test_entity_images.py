"""Images of entities: what is read from where, which entities are held out, wrong labels, batches."""

from __future__ import annotations

import io
import json
import tarfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_contrastive import DualEncoderProcessor
from hf_contrastive.data import (
    EntityCollator,
    SimCLRViews,
    decode_image,
    image_processor,
    load_entity_images,
    train_word_tokenizer,
)
from hf_contrastive.data.entity_images import (
    describe_entities,
    entity_texts,
    glyph_entity_rows,
    make_glyph_entities,
    split_entities,
    wrong_entities,
)
from hf_contrastive.data.record_streams import open_records


def png(value: int) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (value, value, value)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(**columns) -> datasets.Dataset:
    rows = {"image": [png(value) for value in range(len(next(iter(columns.values()))))], **columns}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


BRANDS = {
    "brand_id": [0, 0, 1, 2, 2, 3, 3, 3, 10, 6],
    "brand": ["Aa", "Aa", "Bb", "Cc", "Cc", "Dd", "Dd", "Dd", "Ee", "Ff"],
    "about": ["firm", "firm", None, "", "", "bank", "bank", "bank", "x", "y"],
    "alt": ["a logo", "", None, "cc", "Cc", "dd logo", "dd", "dd", "e", "f"],
}


def test_texts_of_an_entity():
    assert entity_texts("A  b", "c") == ["A b", "A b, c"]
    assert entity_texts("A", "", ["", None, "A", "x  y"]) == ["A", "x y"]


def test_rows_with_columns_of_any_name(tmp_path):
    file = tmp_path / "logos.parquet"
    table(**BRANDS).to_parquet(file)
    options = {"entity_column": "brand_id", "name_column": "brand", "cache_dir": str(tmp_path / "cache")}
    rows = load_entity_images(file, description_column="about", text_columns="alt", **options)
    assert rows.column_names == ["image", "entity", "entity_name", "texts", "index"]
    # numbers sort as numbers
    assert rows["entity"][:] == ["00", "00", "01", "02", "02", "03", "03", "03", "10", "06"]
    assert rows["texts"][:4] == [["Aa", "Aa, firm", "a logo"], ["Aa", "Aa, firm"], ["Bb"], ["Cc", "cc"]]
    assert load_entity_images(file, **options)["texts"][0] == ["Aa"]
    for argument, column in (("entity_column", "id"), ("name_column", "title"), ("text_columns", ["alt", "caption"])):
        with pytest.raises(
            ValueError, match=f"column '{column if isinstance(column, str) else column[-1]}' not found"
        ):
            load_entity_images(file, **{**options, argument: column})
    with pytest.raises(ValueError, match="column 'entity_id' not found"):
        load_entity_images(file, cache_dir=str(tmp_path / "cache"))


def test_table_of_paths(tmp_path):
    for value in range(3):
        (tmp_path / f"{value}.png").write_bytes(png(value)["bytes"])
    text = "image,entity_id,entity_name,entity_description,text\n"
    text += "".join(f"{value}.png,Q{value % 2},name {value % 2},what,alt {value}\n" for value in range(3))
    (tmp_path / "images.csv").write_text(text)
    rows = load_entity_images(tmp_path / "images.csv", cache_dir=str(tmp_path / "cache"))
    assert rows["entity"][:] == ["Q0", "Q1", "Q0"]
    assert rows["texts"][1] == ["name 1", "name 1, what", "alt 1"]
    assert rows[2]["image"].size == (6, 6)
    # the same as a stream of records
    stream = list(open_records(tmp_path / "images.csv"))
    assert [record["image"] for record in stream] == ["0.png", "1.png", "2.png"]
    assert stream[1]["text"] == "alt 1"


def test_streams_keep_images_as_they_are_stored(tmp_path):
    table(**BRANDS).to_parquet(tmp_path / "logos.parquet")
    records = list(open_records(tmp_path / "logos.parquet"))
    assert [record["image"]["bytes"] for record in records] == [png(value)["bytes"] for value in range(10)]
    with pytest.raises(ValueError, match="split 'test' not found"):
        open_records(tmp_path / "logos.parquet", split="test")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_records(tmp_path / "nothing.parquet")


def test_streams_of_archives_and_folders(tmp_path):
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "train-000.tar", "w") as archive:
        for row in range(3):
            for name, data in ((f"{row:04d}.png", png(row)["bytes"]), (f"{row:04d}.txt", f"text {row}".encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    records = list(open_records(tmp_path / "tars"))
    assert [record["image"]["bytes"] for record in records] == [png(row)["bytes"] for row in range(3)]
    assert [record["txt"] for record in records] == ["text 0", "text 1", "text 2"]
    (tmp_path / "folder").mkdir()
    for row in range(3):
        (tmp_path / "folder" / f"{row}.png").write_bytes(png(row)["bytes"])
    lines = [json.dumps({"file_name": f"{row}.png", "text": f"text {row}"}) for row in range(3)]
    (tmp_path / "folder" / "metadata.jsonl").write_text("\n".join(lines))
    records = list(open_records(tmp_path / "folder"))
    assert [record["text"] for record in records] == ["text 0", "text 1", "text 2"]
    assert all(decode_image(record["image"]).size == (6, 6) for record in records)


def test_entities_are_held_out_whole(tmp_path):
    file = tmp_path / "logos.parquet"
    table(**BRANDS).to_parquet(file)
    rows = load_entity_images(file, entity_column="brand_id", name_column="brand", cache_dir=str(tmp_path / "cache"))
    train, test = split_entities(rows, every=3)
    # 0, 3 and 6 are divided by 3, and 6 has one image
    assert test["entity"][:] == ["00", "00", "03", "03", "03"]
    assert test["label"][:] == [0, 0, 1, 1, 1]
    assert test.features["label"].names == ["Aa", "Dd"]
    assert train["entity"][:] == ["01", "02", "02", "10"]
    assert train["label"][:] == [0, 1, 1, 2]
    assert train["index"][:] == [0, 1, 2, 3]
    assert describe_entities(train) == {"entities": 3, "images": 4, "once": 2}
    with pytest.raises(ValueError, match="0 of 6 entities are left to measure on"):
        split_entities(rows, every=3, min_images=9)
    with pytest.raises(ValueError, match="`every` is 1"):
        split_entities(rows, every=1)


def test_names_of_classes_are_told_apart():
    rows = table(entity=["a", "a", "b", "b", "c", "c", "d", "d"], entity_name=["X", "X", "Y", "Y", "X", "X", "Z", "Z"])
    rows = rows.add_column("texts", [["t"]] * 8).add_column("index", list(range(8)))
    _, test = split_entities(rows, every=2)
    assert test.features["label"].names == ["X (a)", "X (c)"]


def test_wrong_labels_come_with_the_names_of_others():
    rows = load_entity_images("glyphs")
    train, _ = split_entities(rows)
    noisy, wrong = wrong_entities(train, 0.25, seed=3)
    labels, made = (np.asarray(part["label"][:]) for part in (train, noisy))
    assert wrong.mean() == pytest.approx(0.25, abs=0.001)
    assert ((labels != made) == wrong).all()
    names = dict(zip(labels.tolist(), train["entity_name"][:], strict=True))
    assert noisy["entity_name"][:] == [names[label] for label in made.tolist()]
    for row in np.flatnonzero(wrong)[:20]:
        assert noisy[int(row)]["texts"] == [noisy[int(row)]["entity_name"], *noisy[int(row)]["texts"][1:]]
        # a caption belongs to the image, and would give it away
        assert len(noisy[int(row)]["texts"]) == 2
    right = np.flatnonzero(~wrong)[:20]
    assert [noisy[int(row)]["texts"] for row in right] == [train[int(row)]["texts"] for row in right]
    assert (wrong_entities(train, 0.25, seed=3)[1] == wrong).all()
    assert not wrong_entities(train, 0.0)[1].any()
    with pytest.raises(ValueError, match=r"`share` is 1\.0"):
        wrong_entities(train, 1.0)


def test_batches_mask_images_of_one_entity():
    train, _ = split_entities(load_entity_images("glyphs"))
    tokenizer = train_word_tokenizer(text for texts in train["texts"] for text in texts)
    processor = DualEncoderProcessor(image_processor(16), tokenizer)
    views = SimCLRViews(16, num_views=1)
    rows = [train[row] for row in range(6)]
    rows[1] = {**rows[1], "label": rows[0]["label"]}
    rows[2] = {**rows[2], "label": -1}
    batch = EntityCollator(views, processor)(rows)
    assert batch["entity_labels"].tolist() == [row["label"] for row in rows]
    assert batch["sample_ids"][0] == batch["sample_ids"][1] == rows[0]["label"]
    assert int(batch["sample_ids"][2]) > 10_000
    assert "sample_ids" not in EntityCollator(views, processor, mask_duplicates=False)(rows)
    assert batch["pixel_values"].shape == (6, 3, 16, 16)
    assert torch.equal(EntityCollator(views, processor)(rows)["pixel_values"], batch["pixel_values"])
    with pytest.raises(ValueError, match="column 'label' not found"):
        EntityCollator(views, processor)(
            [{name: value for name, value in row.items() if name != "label"} for row in rows]
        )


def test_glyphs_and_their_table_agree():
    rows, entities = make_glyph_entities(), {row["id"]: row for row in glyph_entity_rows()}
    assert len(entities) == 90
    for key, name, about in zip(rows["entity_id"], rows["entity_name"], rows["entity_description"], strict=True):
        assert (entities[key]["name"], entities[key]["description"]) == (name, about)
    train, test = split_entities(load_entity_images("glyphs"))
    assert not set(train["entity"]) & set(test["entity"])
    assert set(describe_entities(test).values()) == {30, 642, 0}
