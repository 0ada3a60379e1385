"""Two tables with judged pairs: what is one thing, and that nothing of what is measured is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_contrastive.data import load_matching_tables


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "abt_buy"
FILES = {
    "tableA": "id,name,maker\n10,red lamp,Lux\n11,blue mug,\n12,old clock,Tick\n13,big lamp,Lux\n14,lamp r.,Lux\n",
    "tableB": "id,name,maker\n7,lamp (red),Lux\n8,clock,\n9,mug blue,Cup\n6,mug,Cup\n",
    "train": "ltable_id,rtable_id,label\n10,7,1\n11,7,0\n14,7,1\n",
    "valid": "ltable_id,rtable_id,label\n11,9,1\n11,6,1\n",
    "test": "ltable_id,rtable_id,label\n12,8,1\n13,7,0\n14,7,1\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


def test_records_of_one_thing_have_one_label(folder):
    found = load_matching_tables(folder)
    assert found.pool["text"][:] == ["lamp (red)", "clock", "mug blue", "mug"]
    # the mug of the left table is both mugs of the right one, but only for what is measured
    assert found.pool["label"][:] == [0, 1, 2, 2]
    assert found.valid["text"][:] == ["blue mug"]
    assert found.valid["label"][:] == [2]
    assert found.test["text"][:] == ["old clock", "lamp r."]
    assert found.test["label"][:] == [1, 0]
    # "lamp r." is also in the training pairs, and is measured: so it is not trained on
    assert found.train["text"][:] == [*found.pool["text"][:], "red lamp"]
    assert found.train["label"][:] == [0, 1, 2, 3, 0]
    assert found.train["image"][:] == [None] * 5


def test_texts_are_joined(folder):
    assert load_matching_tables(folder, text_columns=["maker", "name"]).pool["text"][:2] == ["Lux lamp (red)", "clock"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tableA", "name\nx\n", "column 'id'"),
        ("tableA", "id,name\n10,a\n10,b\n", "tableA holds an id twice"),
        ("tableB", "id,name\n7,\n8,b\n", "row 0 of tableB has no text in name"),
        ("test", "ltable_id,rtable_id\n1,2\n", "column 'label'"),
        ("test", "ltable_id,rtable_id,label\n12,99,1\n", "row 0 of test names the id 99, which tableB does not hold"),
        ("valid", "ltable_id,rtable_id,label\n11,9,0\n", "valid holds no pair with label 1"),
    ],
)
def test_what_is_wrong_is_told(folder, name, text, message):
    (folder / f"{name}.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_matching_tables(folder)


def test_a_file_that_is_not_there(folder):
    (folder / "valid.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no valid.csv; expected tableA.csv, tableB.csv"):
        load_matching_tables(folder)
    (folder / "valid.csv").write_text(FILES["valid"])
    with pytest.raises(ValueError, match="column 'title'"):
        load_matching_tables(folder, text_columns=["title"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/abt_buy")
def test_the_products_of_abt_and_buy():
    found = load_matching_tables(SHARED)
    assert len(found.pool) == 1092
    assert len(found.test) == 206
    assert not set(found.train["text"][1092:]) & set(found.test["text"][:])
