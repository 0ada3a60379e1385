"""The records that a recipe of record linkage trains on and measures with: where they come from and how they are shared out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from hf_contrastive.data import OcrNoise, load_judged_pairs, load_linkage_table, load_matching_tables
from hf_contrastive.data.linkage_tables import JudgedPairs, make_glyph_records
from hf_contrastive.recipes.common import option
from hf_contrastive.recipes.linkage_measures import CLEAN_TEXT, Task


@dataclass
class LinkageDataArguments:
    """data: where the records come from"""

    dataset_path: str | None = option(
        "glyphs",
        "'glyphs' (drawn by this library), or a table of records to train on with image, text and label: .csv, .jsonl, .parquet, a "
        "folder, a hub id.",
    )
    pool_path: str | None = option(None, "Table of the known records, what others are linked to.")
    query_path: str | None = option(None, "Table of records to link, whose labels are those of the pool.")
    pairs_path: str | None = option(None, "Instead of all three: a table of pairs of texts that somebody has judged.")
    pictures_path: str | None = option(None, "Table with a picture for each text of the pairs.")
    tables_path: str | None = option(
        None,
        "Instead of all: a folder of two tables of texts and judged pairs (tableA.csv, tableB.csv, train.csv, valid.csv, test.csv).",
    )
    text_columns: list[str] | None = option(
        None, "Of these two tables: columns that are joined; none = the first after the id."
    )
    image_column: str | None = option(None, "Column of the images or their paths; found by itself.")
    text_column: str | None = option(None, "Column of the texts; found by itself.")
    label_column: str | None = option(None, "Column of what each record is; found by itself.")
    query_column: str = option("source_name", "Of the pairs: column of the texts that are looked for.")
    candidate_column: str = option("candidate_name", "Of the pairs: column of the known texts.")
    verdict_column: str = option("label", "Of the pairs: column that holds 1 where both are the same.")
    no_match: bool = option(
        False, "Of the pairs: also measure with texts that match nothing; half of these are then not trained on."
    )
    test_fraction: float = option(
        0.2,
        "Without a pool: share of the labels that is held out to measure, and as many again to choose settings on.",
    )
    query_train_fraction: float = option(
        0.5, "With a pool: share of the queries that is trained on and chosen settings on; the others are measured."
    )
    split_seed: int = option(0, "Seed of these shares; that of the run changes everything else.")
    ocr_drop: float = option(0.0, "Noise of texts: a character is dropped with this probability.")
    ocr_replace: float = option(0.0, "Noise of texts: a character becomes another one with this probability.")
    max_train_samples: int | None = option(None, "Train on that many records, drawn with split_seed.")
    max_test_samples: int | None = option(None, "Measure on that many queries, drawn with split_seed.")
    on_bad: str = option("skip", "Image files that are not there: 'skip' goes on with the text, 'stop'.")
    unique_texts: bool = option(False, "First stage: of pairs with the same text the first one only.")
    mask_duplicates: bool = option(True, "First stage: pairs with the same text are not each other's negatives.")


class LinkageData(NamedTuple):
    """What a run is trained and measured on; all tables have `image`, `text`, `label`, `index`.

    Args:
        aligned: pairs of the first stage, each text once.
        train: records of the second stage; those that nothing is known of have a label of their own below 0.
        valid, test ([`Task`]): queries and the pool, to choose settings on and to measure; `valid` may hold what is trained on.
        name (`str`): what the card calls it.
    """

    aligned: datasets.Dataset
    train: datasets.Dataset
    valid: Task
    test: Task
    name: str


def load_splits(data: LinkageDataArguments, seed: int) -> LinkageData:
    """Everything a run needs from the data.

    Args:
        data ([`LinkageDataArguments`]): where it is.
        seed (`int`): of the noise of the queries.

    Raises:
        ValueError: tables that do not fit; the message says what to change.
    """
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    if data.no_match and data.pairs_path is None:
        raise ValueError("`no_match` goes with --pairs_path: only judged pairs say which records match nothing")
    if data.tables_path is not None:
        found = _from_matching_tables(data)
    elif data.pairs_path is not None:
        found = _from_pairs(data)
    elif data.dataset_path == "glyphs":
        found = _from_glyphs()
    else:
        found = _from_tables(data)
    generator = np.random.RandomState(data.split_seed)
    train = _renumbered(_draw(found.train, data.max_train_samples, generator))
    aligned = found.aligned if data.max_train_samples is None else train
    valid, test = (_drawn_task(task, data.max_test_samples, generator) for task in (found.valid, found.test))
    if data.ocr_drop or data.ocr_replace:
        noise = ocr_noise(data, train)
        assert noise is not None
        valid, test = (_read_task(task, noise, 2 * seed + number) for number, task in enumerate((valid, test)))
    return LinkageData(_pairs_once(aligned, data.unique_texts), train, valid, test, found.name)


def _drawn_task(task: Task, count: int | None, random: np.random.RandomState) -> Task:
    lone = None if task.lone is None else _renumbered(_draw(task.lone, count, random))
    return Task(_renumbered(_draw(task.queries, count, random)), task.pool, lone)


def _read_task(task: Task, noise: OcrNoise, seed: int) -> Task:
    """The queries with errors as of OCR."""
    queries = _with_texts(task.queries, noise.read(task.queries["text"][:], seed=seed))
    if task.lone is None:
        return task._replace(queries=queries)
    # draws of their own: a seed below 0 is none, and those of queries follow each other
    lone = _with_texts(task.lone, noise.read(task.lone["text"][:], seed=seed + 1_000_000))
    return task._replace(queries=queries, lone=lone)


def ocr_noise(data: LinkageDataArguments, train: datasets.Dataset) -> OcrNoise | None:
    """The noise that the arguments describe, or none."""
    if not data.ocr_drop and not data.ocr_replace:
        return None
    return OcrNoise(train["text"][:], data.ocr_drop, data.ocr_replace)


def _from_glyphs() -> LinkageData:
    train, test = make_glyph_records("train"), make_glyph_records("test")
    valid = _first_as_pool(train)
    return LinkageData(
        train, train, Task(valid.queries.select(range(400)), valid.pool), _first_as_pool(test), "drawn glyphs"
    )


def _from_pairs(data: LinkageDataArguments) -> LinkageData:
    assert data.pairs_path is not None
    found: JudgedPairs = load_judged_pairs(
        data.pairs_path,
        data.pictures_path,
        query_column=data.query_column,
        candidate_column=data.candidate_column,
        verdict_column=data.verdict_column,
    )
    valid, test = _halves(found.queries, data)
    everything = datasets.concatenate_datasets([found.pool, found.queries, found.others])
    name, trained = Path(data.pairs_path).stem, found.others
    lone: Sequence[datasets.Dataset | None] = (None, None)
    if data.no_match:
        if len(found.others) < 2:
            raise ValueError(
                f"`no_match` is true, but {len(found.others)} texts of {name} match nothing; at least 2 are needed"
            )
        lone = _halves(found.others, data)
        trained = lone[0]
    # what is measured is not among the negatives, as nothing may be known of it
    train = datasets.concatenate_datasets([found.pool, valid, trained])
    return LinkageData(everything, train, Task(valid, found.pool, lone[0]), Task(test, found.pool, lone[1]), name)


def _from_matching_tables(data: LinkageDataArguments) -> LinkageData:
    assert data.tables_path is not None
    found = load_matching_tables(data.tables_path, text_columns=data.text_columns)
    name = Path(data.tables_path).name
    return LinkageData(found.train, found.train, Task(found.valid, found.pool), Task(found.test, found.pool), name)


def _from_tables(data: LinkageDataArguments) -> LinkageData:
    options: dict[str, Any] = {
        "image_column": data.image_column,
        "text_column": data.text_column,
        "label_column": data.label_column,
        "on_bad": data.on_bad,
    }
    if data.dataset_path is None:
        raise ValueError(
            "`dataset_path` is none; give a table of records, 'glyphs', or judged pairs with --pairs_path"
        )
    if (data.pool_path is None) != (data.query_path is None):
        raise ValueError(
            "`pool_path` and `query_path` belong together: known records, and records that are linked to them"
        )
    paths = [path for path in (data.dataset_path, data.pool_path, data.query_path) if path is not None]
    tables = [load_linkage_table(path, **options) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if "label" not in table.column_names:
            raise ValueError(f"{path} has no labels; name the column with label_column")
    train, *others = _joint_labels(tables)
    name = Path(data.dataset_path).name if Path(data.dataset_path).exists() else data.dataset_path
    if others:
        pool, queries = (table.filter(lambda label: label >= 0, input_columns="label") for table in others)
        valid, test = _halves(queries, data)
        return LinkageData(train, train, Task(valid, pool), Task(test, pool), name)
    labels = np.asarray(train["label"][:])
    known = np.random.RandomState(data.split_seed).permutation(np.unique(labels[labels >= 0]))
    held = round(data.test_fraction * len(known))
    if held == 0 or len(known) <= 2 * held:
        raise ValueError(
            f"`test_fraction` is {data.test_fraction}: of {len(known)} labels that is {held} to measure on and as many to choose "
            "settings on; nothing is left to train on, or nothing is held out"
        )
    parts = [known[:held], known[held : 2 * held]]
    test, valid = (_first_as_pool(train.select(np.flatnonzero(np.isin(labels, part)))) for part in parts)
    rest = train.select(np.flatnonzero(~np.isin(labels, np.concatenate(parts))))
    return LinkageData(rest, rest, valid, test, name)


def _joint_labels(tables: Sequence[datasets.Dataset]) -> list[datasets.Dataset]:
    """The same integers for the same labels in all tables; records without one get their own below 0."""
    values = [table["label"][:] for table in tables]
    names = sorted({str(value) for one in values for value in one if value is not None})
    numbers = {name: number for number, name in enumerate(names)}
    own = iter(range(-1, -1 - sum(map(len, values)), -1))
    found = []
    for table, one in zip(tables, values, strict=True):
        labels = [next(own) if value is None else numbers[str(value)] for value in one]
        found.append(table.remove_columns("label").add_column("label", np.array(labels, dtype=np.int64)))
    return found


def _halves(queries: datasets.Dataset, data: LinkageDataArguments) -> tuple[datasets.Dataset, datasets.Dataset]:
    order = np.random.RandomState(data.split_seed).permutation(len(queries))
    first = int(data.query_train_fraction * len(queries))
    if not 0 < first < len(queries):
        raise ValueError(
            f"`query_train_fraction` is {data.query_train_fraction}: of {len(queries)} queries that leaves none on one side"
        )
    return queries.select(np.sort(order[:first])), queries.select(np.sort(order[first:]))


def _first_as_pool(rows: datasets.Dataset) -> Task:
    """The first record of each label is known, the others are to be linked."""
    first = np.unique(np.asarray(rows["label"][:]), return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(rows)), first)
    if not len(rest):
        raise ValueError("every label of the held out part has one record; there is nothing to link to it")
    return Task(rows.select(rest), rows.select(np.sort(first)))


def _draw(rows: datasets.Dataset, count: int | None, random: np.random.RandomState) -> datasets.Dataset:
    if count is None or count >= len(rows):
        return rows
    return rows.select(np.sort(random.permutation(len(rows))[:count]))


def _renumbered(rows: datasets.Dataset) -> datasets.Dataset:
    """`index` as the place in the table, on which the draws of views depend."""
    return rows.remove_columns("index").add_column("index", np.arange(len(rows), dtype=np.int64))


def _with_texts(rows: datasets.Dataset, texts: list[str]) -> datasets.Dataset:
    """What was read of the texts, and the texts themselves for a comparison."""
    return rows.rename_column("text", CLEAN_TEXT).add_column("text", texts)


def _pairs_once(rows: datasets.Dataset, unique_texts: bool) -> datasets.Dataset:
    """Records with both sides, each pair of picture and text (or each text) once: what the first stage can align."""
    texts = rows["text"][:]
    images = rows.cast_column("image", datasets.Image(decode=False))["image"][:]
    seen: set[Any] = set()
    kept = []
    for row, (text, image) in enumerate(zip(texts, images, strict=True)):
        if not text or image is None:
            continue
        key = text if unique_texts else (text, image.get("path"), hash(image.get("bytes") or b""))
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return _renumbered(rows.select(kept)) if kept else rows.select([])


def describe_data(data: LinkageDataArguments, found: LinkageData) -> dict[str, Any]:
    """What the card says of the data; a local folder appears by its name only."""
    train = found.train
    labels = np.asarray(train["label"][:])
    about: dict[str, Any] = {
        "name": found.name,
        "rows": len(train),
        "classes": len(np.unique(labels)),
        "columns": {
            "image": f"{sum(image is not None for image in _undecoded(train))} records have one",
            "text": f"{sum(map(bool, train['text'][:]))} records have one",
            "label": f"{len(np.unique(labels[labels >= 0]))} known, {int((labels < 0).sum())} records with one of their own",
        },
        "example": next((text for text in train["text"][:] if text), ""),
    }
    if data.ocr_drop or data.ocr_replace:
        about["description"] = (
            f"Noise in the texts that are read: a character is dropped with probability {data.ocr_drop:g}, another one with "
            f"{data.ocr_replace:g}; the pool's texts have none when it is measured."
        )
    if found.name == "drawn glyphs":
        about["licence"] = "Apache-2.0 (made by this library)"
    return about


def _undecoded(rows: datasets.Dataset) -> list[Any]:
    return rows.cast_column("image", datasets.Image(decode=False))["image"][:]


__all__ = ["LinkageData", "LinkageDataArguments", "describe_data", "load_splits", "ocr_noise"]
