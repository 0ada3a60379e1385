"""The recipe that links records: how data is shared out, measured, and hard negatives are kept for a resumed run."""

from __future__ import annotations

import csv
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from helpers.gloo import GlooPool
from transformers import BertConfig

from hf_contrastive import ClippingsConfig, ClippingsForPreTraining, ConvEncoderConfig, DualEncoderProcessor
from hf_contrastive.data import ProcessorTransform, RecordCollator, image_processor, train_word_tokenizer
from hf_contrastive.data.linkage_tables import make_glyph_records
from hf_contrastive.distributed import get_rank
from hf_contrastive.evaluation import mine_hard_negatives
from hf_contrastive.families.dual_encoder.record_encoding import encode_records, pool_records
from hf_contrastive.recipes.linkage import HardNegativeMiner
from hf_contrastive.recipes.linkage_data import LinkageDataArguments, load_splits
from hf_contrastive.recipes.linkage_measures import LinkageMeasureArguments, Task, accuracy, link_table
from hf_contrastive.recipes.schedules import restarting_cosine
from hf_contrastive.tensor_utils import pool_modalities


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture(scope="module")
def records():
    return some_records()


@pytest.fixture(scope="module")
def collator(records):
    return make_collator(records)


def some_records():
    return make_glyph_records("test").select(range(60))


def make_collator(records):
    processor = DualEncoderProcessor(image_processor(32), train_word_tokenizer(records["text"], "character"))
    transform = ProcessorTransform(processor.image_processor)
    return RecordCollator(transform, processor, augment=False, labels=False, mask_duplicates=False)


def model(collator, seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = BertConfig(**sizes, vocab_size=len(collator.processor.tokenizer), initializer_range=0.3)
    options = {"projection_dim": 8, "image_pooling": "mean", "text_pooling": "mean"}
    vision = ConvEncoderConfig(channels=[4, 8])
    return ClippingsForPreTraining(ClippingsConfig(vision_config=vision, text_config=text, **options))


def test_labels_are_held_out_whole(tmp_path):
    rows = [[f"name {label} {number}", f"firm {label}"] for label in range(20) for number in range(4)]
    path = write(tmp_path / "records.csv", ["text", "label"], [*rows, ["alone", ""], ["alone too", ""]])
    found = load_splits(LinkageDataArguments(dataset_path=path, test_fraction=0.2), 0)
    parts = [set(found.train["label"][:]), set(found.valid.pool["label"][:]), set(found.test.pool["label"][:])]
    assert [len(part) for part in parts] == [14, 4, 4]  # two records have a label of their own
    assert not parts[0] & parts[1]
    assert not parts[1] & parts[2]
    assert not parts[0] & parts[2]
    assert sum(label < 0 for label in parts[0]) == 2
    for task in (found.valid, found.test):
        assert len(task.pool) == 4
        assert len(task.queries) == 12
        assert set(task.queries["label"][:]) == set(task.pool["label"][:])
    assert len(found.aligned) == 0  # there are no pictures
    assert found.train["index"][:] == list(range(len(found.train)))
    # the same for every seed of a run
    again = load_splits(LinkageDataArguments(dataset_path=path, test_fraction=0.2), 7)
    assert again.test.queries["text"][:] == found.test.queries["text"][:]
    for fraction in (0.0, 0.5):
        with pytest.raises(ValueError, match=r"`test_fraction` is .* of 20 labels"):
            load_splits(LinkageDataArguments(dataset_path=path, test_fraction=fraction), 0)


def test_pool_and_queries_of_their_own(tmp_path):
    train = write(tmp_path / "train.csv", ["text", "label"], [["a", "x"], ["b", "y"]])
    pool = write(tmp_path / "pool.csv", ["text", "label"], [["p", "x"], ["q", "z"], ["no label", ""]])
    queries = write(tmp_path / "queries.csv", ["text", "label"], [[f"q{n}", "z" if n % 2 else "x"] for n in range(10)])
    data = LinkageDataArguments(dataset_path=train, pool_path=pool, query_path=queries, query_train_fraction=0.3)
    found = load_splits(data, 0)
    assert (len(found.valid.queries), len(found.test.queries)) == (3, 7)
    assert found.test.pool["text"][:] == ["p", "q"]
    names = dict(zip(found.test.pool["text"][:], found.test.pool["label"][:], strict=True))
    assert found.train["label"][0] == names["p"]  # one numbering for all tables
    for text, label in zip(found.test.queries["text"][:], found.test.queries["label"][:], strict=True):
        assert label == names["q" if int(text[1:]) % 2 else "p"]
    with pytest.raises(ValueError, match="belong together"):
        load_splits(LinkageDataArguments(dataset_path=train, pool_path=pool), 0)
    with pytest.raises(ValueError, match=r"plain.csv has no labels"):
        load_splits(LinkageDataArguments(dataset_path=write(tmp_path / "plain.csv", ["text", "n"], [["a", 1]])), 0)


def test_pairs_that_are_measured_are_not_trained_on(tmp_path):
    rows = [[f"seen {n}", f"known {n}", 1] for n in range(10)]
    rows += [[f"seen {n}", f"known {n + 1}", 0] for n in range(9)] + [["nobody", "known 1", -9]]
    path = write(tmp_path / "pairs.csv", ["source_name", "candidate_name", "label"], rows)
    data = LinkageDataArguments(pairs_path=path, ocr_drop=0.2, ocr_replace=0.3)
    found = load_splits(data, 0)
    assert (len(found.valid.queries), len(found.test.queries), len(found.test.pool)) == (5, 5, 10)
    labels = set(found.test.queries["label"][:])
    trained = {
        text for text, label in zip(found.train["text"][:], found.train["label"][:], strict=True) if label in labels
    }
    assert trained == {f"known {label}" for label in labels}
    assert "nobody" in found.train["text"][:]
    assert all(text.startswith("seen ") for text in found.test.queries["clean_text"][:])
    # what is looked for is read with errors, the pool is not, and another seed reads other ones
    other = load_splits(data, 1)
    assert other.test.queries["text"][:] != found.test.queries["text"][:]
    assert other.test.pool["text"][:] == found.test.pool["text"][:] == [f"known {n}" for n in range(10)]
    assert found.valid.queries["text"][:] != found.test.queries["text"][:]


def test_records_without_a_match(tmp_path, collator):
    """Half of them choose the threshold, the other half is measured and was not trained on."""
    rows = [[f"seen {n}", f"known {n}", 1] for n in range(10)]
    rows += [[f"nobody {n}", f"known {n}", 0] for n in range(6)]
    path = write(tmp_path / "pairs.csv", ["source_name", "candidate_name", "label"], rows)
    found = load_splits(LinkageDataArguments(pairs_path=path, no_match=True, ocr_drop=0.1), 0)
    assert found.valid.lone is not None
    assert found.test.lone is not None
    assert (len(found.valid.lone), len(found.test.lone)) == (3, 3)
    held = set(found.test.lone["clean_text"][:])
    assert held.isdisjoint(found.train["text"][:])
    assert set(found.valid.lone["clean_text"][:]) <= set(found.train["text"][:])
    # an encoder by which every query is its own match, and those without are far from all
    size = len(found.test.pool)
    own = np.eye(size, dtype=np.float32)
    far = np.full((3, size), size**-0.5, dtype=np.float32)

    def sides(vectors):
        return {
            "image": vectors,
            "text": vectors,
            **{f"has_{one}": np.ones(len(vectors), bool) for one in ("image", "text")},
        }

    parts = {}
    for part, task in (("valid", found.valid), ("test", found.test)):
        parts[part] = (sides(own[task.queries["label"][:]]), sides(own))
        parts[f"{part}, lone"] = (sides(far), sides(own))
    row = link_table({"trained": parts}, found, LinkageMeasureArguments(string_matching=False))[0]
    assert row["with no match"] == 1.0
    assert size**-0.5 <= row["threshold"] < 1
    close = {**parts, "test, lone": (sides(own[:3]), sides(own))}
    assert (
        link_table({"trained": close}, found, LinkageMeasureArguments(string_matching=False))[0]["with no match"]
        == 5 / 8
    )
    with pytest.raises(ValueError, match="`no_match` goes with --pairs_path"):
        load_splits(LinkageDataArguments(no_match=True), 0)
    few = write(tmp_path / "few.csv", ["source_name", "candidate_name", "label"], rows[:11])
    with pytest.raises(ValueError, match="1 texts of few match nothing"):
        load_splits(LinkageDataArguments(pairs_path=few, no_match=True), 0)


def test_embeddings_of_records_that_lack_a_side(collator, records):
    rows = records.select(range(6))
    lacking = datasets.Dataset.from_dict(
        {
            "image": [None if n == 1 else rows[n]["image"] for n in range(6)],
            "text": ["" if n == 2 else rows[n]["text"] for n in range(6)],
            "label": rows["label"][:],
            "index": list(range(6)),
        },
        features=rows.features,
    )
    net = model(collator)
    state = torch.get_rng_state()
    encoded = encode_records(net, lacking, collator, batch_size=4)
    assert torch.equal(torch.get_rng_state(), state)  # training goes on as if nothing had been measured
    assert encoded["has_image"].tolist() == [True, False, True, True, True, True]
    whole = encode_records(net, rows, collator)
    pooled = pool_records(encoded, 0.7)
    images, texts = (torch.from_numpy(whole[side]) for side in ("image", "text"))
    expected = pool_modalities(images, texts, 0.7).numpy()
    expected[1], expected[2] = whole["text"][1], whole["image"][2]
    np.testing.assert_allclose(pooled, expected, atol=1e-5)
    task = Task(rows, rows)
    assert accuracy((whole, whole), task, 0.5) == 1.0


def test_hard_negatives_are_kept_for_a_resumed_run(collator, records, tmp_path):
    first, later = model(collator), model(collator, seed=1)
    miner = HardNegativeMiner(first, records, collator, 3, tmp_path / "groups", False, "cpu")
    groups = miner(0)
    labels, rows = np.unique(records["label"][:], return_index=True)
    exemplars = encode_records(first, records.select(rows), collator)
    assert groups.tolist() == mine_hard_negatives(pool_records(exemplars, 0.5), labels, 3).labels.tolist()
    # the run that goes on has another model, and takes what was mined
    assert (
        HardNegativeMiner(later, records, collator, 3, tmp_path / "groups", False, "cpu")(5).tolist()
        == groups.tolist()
    )
    again = HardNegativeMiner(later, records, collator, 3, tmp_path / "groups", True, "cpu")
    assert again(5).tolist() != groups.tolist()
    assert sorted(path.name for path in (tmp_path / "groups").iterdir()) == ["epoch-5.npy", "once.npy"]


def mined(folder: str) -> list:
    """What every process is told; the model of the second one would find other groups."""
    records = some_records()
    collator = make_collator(records)
    miner = HardNegativeMiner(model(collator, seed=get_rank()), records, collator, 3, Path(folder), True, "cpu")
    return [miner(epoch).tolist() for epoch in range(2)]


@pytest.mark.distributed
def test_all_processes_get_the_groups_of_the_first(gloo_pool: GlooPool, collator, records, tmp_path):
    alone = HardNegativeMiner(model(collator), records, collator, 3, tmp_path / "alone", True, "cpu")
    other = HardNegativeMiner(model(collator, seed=1), records, collator, 3, tmp_path / "other", True, "cpu")
    expected = [alone(epoch).tolist() for epoch in range(2)]
    assert expected[0] != other(0).tolist()
    assert gloo_pool.run(mined, str(tmp_path / "joint")) == [expected, expected]
    assert sorted(path.name for path in (tmp_path / "joint").iterdir()) == ["epoch-0.npy", "epoch-1.npy"]


def test_restarts_are_those_of_torch():
    rates = []
    for factor in (1, 2):
        parameter = torch.nn.Parameter(torch.zeros(1))
        ours = torch.optim.AdamW([parameter], lr=0.3)
        theirs = torch.optim.AdamW([parameter], lr=0.3)
        schedules = [
            restarting_cosine(ours, 10, factor),
            torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, 10, factor),
        ]
        for _ in range(75):
            rates.append([schedule.get_last_lr()[0] for schedule in schedules])
            for optimizer, schedule in zip((ours, theirs), schedules, strict=True):
                optimizer.step()
                schedule.step()
    np.testing.assert_allclose(*np.array(rates).T, atol=1e-9)
