"""Names of entities in texts: which are found, which are not, and what a table may look like."""

from __future__ import annotations

import csv
import json

import datasets
import pytest
import torch
from helpers.dual_encoder_tester import text_encoders
from transformers import BertForTokenClassification, pipeline

from hf_contrastive.data import DictionaryLinker, Entity, EntityTable, NerLinker, train_word_tokenizer


TABLE = EntityTable(
    [
        Entity("Q60", "New York", "city"),
        Entity("Q9684", "The New York Times", "newspaper"),
        Entity("Q30", "United States", "country"),
        Entity("Q312", "Apple", "technology company"),
        Entity("Q89", "apple", "fruit"),
        Entity("Q35476", "AT&T"),
        Entity("Q2407", "C++", "language"),
        Entity("Q1490", "東京", "capital of Japan"),
        Entity("Q1", "York City Hall Annex"),
        Entity("QX", "X", "letter"),
        Entity("Q2", "Zürich"),
    ],
    aliases={"Q30": ["USA", "U.S."], "Q60": ["NYC", "Big Apple"]},
)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("I love NEW york!", ["Q60"]),
        ("the new york times of today", ["Q9684"]),
        ("New York, then the New York Times", ["Q60", "Q9684"]),
        # the longest name wins, also where another one begins earlier
        ("new york city hall annex", ["Q1"]),
        ("an apple a day", ["Q312", "Q89"]),
        ("big apple", ["Q60"]),
        ("pineapples and Yorks", []),
        ("at&t's offices", ["Q35476"]),
        ("at t", []),
        ("C++ and C", ["Q2407"]),
        ("U.S. and usa", ["Q30"]),
        ("昨日東京で", ["Q1490"]),
        ("x marks", []),  # names of one character are not looked for
        ("ZU\u0308RICH", ["Q2"]),  # written with a combining mark
        ("", []),
        ("!?", []),
    ],
)
def test_names_in_a_text(text, ids):
    assert [entity.id for entity in DictionaryLinker(TABLE)(text)] == ids


def test_what_may_be_left_out():
    linker = DictionaryLinker(TABLE, min_length=1, ignore=["APPLE"])
    assert [entity.id for entity in linker("x apple")] == ["QX"]
    assert "1 ignored" in linker.describe()
    assert linker.describe() != DictionaryLinker(TABLE).describe()


def test_found_as_by_looking_for_every_name():
    """Against all substrings of words, on random texts of few words."""
    generator = torch.Generator().manual_seed(0)
    words = ["a1", "b1", "c1", "d1"]

    def draw(longest):
        size = int(torch.randint(1, longest + 1, (1,), generator=generator))
        return [words[int(i)] for i in torch.randint(4, (size,), generator=generator)]

    names = {" ".join(draw(3)) for _ in range(12)}
    table = EntityTable([Entity(name, name) for name in sorted(names)])
    for _ in range(200):
        text = draw(12)
        taken, expected = set(), []
        spans = [(s, e) for s in range(len(text)) for e in range(s + 1, len(text) + 1) if " ".join(text[s:e]) in names]
        for start, end in sorted(
            spans, key=lambda span: (span[0] - span[1], -len("".join(text[slice(*span)])), span[0])
        ):
            if not taken & set(range(start, end)):
                taken |= set(range(start, end))
                expected.append((start, end))
        assert DictionaryLinker(table).matches(text) == sorted(expected)


def rows_as(kind, rows, folder):
    path = folder / f"table.{kind}"
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables_are_read(kind, tmp_path):
    aliases = (lambda names: "|".join(names)) if kind == "csv" else list
    rows = [
        {"wikidata_id": "Q30", "name": "United States", "description": "country", "aliases": aliases(["USA", "U.S."])},
        {"wikidata_id": "Q60", "name": "New  York", "description": "", "aliases": aliases([])},
        {"wikidata_id": "Q60", "name": "NYC", "description": "city", "aliases": aliases([])},
    ]
    table = EntityTable.read(rows_as(kind, rows, tmp_path), cache_dir=str(tmp_path / "cache"))
    assert table.entities == [Entity("Q30", "United States", "country"), Entity("Q60", "New York", "")]
    assert [entity.id for entity in table.called("u.s.")] == ["Q30"]
    assert [entity.id for entity in table.called("nyc")] == ["Q60"]
    assert table.entities[0].text == "United States, country"
    assert table.entities[1].text == "New York"


def test_columns_of_a_table_can_be_named(tmp_path):
    rows = [{"brand_id": 3, "brand": "Adobe"}, {"brand_id": 4, "brand": "Xd"}, {"brand_id": 3, "brand": "Adobe"}]
    table = EntityTable.read(datasets.Dataset.from_list(rows), id_column="brand_id", name_column="brand")
    assert [tuple(entity) for entity in table.entities] == [("3", "Adobe", ""), ("4", "Xd", "")]
    with pytest.raises(ValueError, match="column 'id' not found"):
        EntityTable.read(datasets.Dataset.from_list(rows))
    with pytest.raises(ValueError, match="column 'what' not found"):
        EntityTable.read(
            datasets.Dataset.from_list(rows), id_column="brand_id", name_column="brand", description_column="what"
        )
    with pytest.raises(FileNotFoundError, match="does not exist"):
        EntityTable.read(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ([], "`entities` is empty"),
        ([Entity("a", "A"), Entity("a", "B")], "the id 'a' comes twice, of 'A' and 'B'"),
        ([Entity("a", "A"), Entity("", "B")], "entity 1 has the id ''"),
        ([Entity("a", "  ")], "entity 0 has the id 'a' and the name '  '"),
    ],
)
def test_tables_that_are_none_are_refused(entities, message):
    with pytest.raises(ValueError, match=message):
        EntityTable(entities)


class FakeNer:
    """Every capitalised word is a mention; long ones are people."""

    task = "token-classification"

    def __call__(self, texts, aggregation_strategy, batch_size):
        assert aggregation_strategy == "simple"
        found = []
        for text in texts:
            spans, start = [], 0
            for word in text.split(" "):
                group = "PER" if len(word) > 5 else "ORG"
                if word[:1].isupper():
                    spans.append(
                        {
                            "entity_group": group,
                            "score": 0.9 if group == "ORG" else 0.6,
                            "word": word,
                            "start": start,
                            "end": start + len(word),
                        }
                    )
                start += len(word) + 1
            found.append(spans)
        return found


def test_ner_says_where_to_look():
    texts = ["Apple and an apple", "a United state of apple", "Zürich", ""]
    assert [[e.id for e in found] for found in NerLinker(FakeNer(), TABLE).link_many(texts)] == [
        ["Q312", "Q89"],
        [],
        ["Q2"],
        [],
    ]
    assert NerLinker(FakeNer(), TABLE, groups=["per"])("Apple in Zürich")[0].id == "Q2"
    assert [e.id for e in NerLinker(FakeNer(), TABLE, min_score=0.7)("Apple in Zürich")] == ["Q312", "Q89"]
    assert NerLinker(FakeNer(), TABLE).link_many([]) == []
    with pytest.raises(ValueError, match="`pipeline` is for 'text-classification'"):
        NerLinker(type("P", (), {"task": "text-classification"})(), TABLE)


def test_ner_pipeline_of_transformers():
    """A model that takes every word for a mention: then its mentions are the texts."""
    tokenizer = train_word_tokenizer(["the new york times wrote of usa"])
    config = text_encoders()["bert"]
    config.vocab_size, config.id2label, config.label2id = len(tokenizer), {0: "O", 1: "ORG"}, {"O": 0, "ORG": 1}
    torch.manual_seed(0)
    model = BertForTokenClassification(config).eval()
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([-9.0, 9.0]))
    ner = pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu")
    linker = NerLinker(ner, TABLE, groups=["ORG"], batch_size=2)
    texts = ["The new york times", "wrote of USA"]
    assert [[entity.id for entity in found] for found in linker.link_many(texts)] == [["Q9684"], ["Q30"]]
    assert [entity.id for entity in linker(texts[1])] == ["Q30"]
    assert "bert NER (ORG, score 0 or more)" in linker.describe()
