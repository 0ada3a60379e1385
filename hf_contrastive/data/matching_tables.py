"""Two tables of records and the pairs that somebody has judged: the form in which entity matching data are published."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from hf_contrastive.data.schema import missing_column
from hf_contrastive.data.sources import rows_source


#: files of a folder, without their ends
TABLES, PARTS = ("tableA", "tableB"), ("train", "valid", "test")
_ENDS = (".csv", ".jsonl", ".parquet")
_PAIR_COLUMNS = ("ltable_id", "rtable_id", "label")


class MatchingTables(NamedTuple):
    """What [`load_matching_tables`] returns; all tables have `image` (nothing), `text`, `label`, `index`.

    Args:
        train: records of both tables to train on. Records of one thing, as the training pairs say, have one label.
        pool: the records of the right table.
        valid, test: records of the left table that have a match there; its label is theirs. None of them is in `train`.
    """

    train: datasets.Dataset
    pool: datasets.Dataset
    valid: datasets.Dataset
    test: datasets.Dataset


def load_matching_tables(
    folder: str | os.PathLike,
    *,
    text_columns: Sequence[str] | None = None,
    id_column: str = "id",
    cache_dir: str | None = None,
) -> MatchingTables:
    """Loads records and judged pairs in the form of DeepMatcher (Mudgal and others, "Deep Learning for Entity Matching", 2018).

    The folder holds `tableA` and `tableB` with an id, and `train`, `valid` and `test` with `ltable_id`, `rtable_id` and `label` (1 =
    the same), each as `.csv`, `.jsonl` or `.parquet`. A record may match several. The pairs of `valid` and `test` say nothing about
    what is trained: a left record that has a match there is not in `train`.

    Args:
        folder (`str` or `Path`): the folder.
        text_columns (`Sequence[str]`, *optional*): columns whose texts, joined, are a record; by default the first one after the id.
        id_column (`str`, defaults to `"id"`): ids of both tables.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        [`MatchingTables`].

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: a column that is missing, ids that are not in the tables, a part without a match.

    Example:

    ```python
    >>> import pathlib, tempfile
    >>> from hf_contrastive.data import load_matching_tables
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "tableA.csv").write_text("id,name\\n0,red lamp\\n1,blue mug\\n2,old clock\\n")
    >>> _ = (folder / "tableB.csv").write_text("id,name\\n7,lamp (red)\\n8,clock\\n9,mug blue\\n")
    >>> for part, pair in {"train": "0,7", "valid": "1,9", "test": "2,8"}.items():
    ...     _ = (folder / f"{part}.csv").write_text(f"ltable_id,rtable_id,label\\n{pair},1\\n")
    >>> found = load_matching_tables(folder)
    >>> found.train["text"][:], found.test[0]["text"], found.pool[found.test[0]["label"]]["text"]
    (['lamp (red)', 'clock', 'mug blue', 'red lamp'], 'old clock', 'clock')

    ```
    """
    place = Path(folder).expanduser()
    rows = {name: _read(place, name, cache_dir) for name in (*TABLES, *PARTS)}
    texts, ids = [], []
    for name in TABLES:
        columns = rows[name].column_names
        if id_column not in columns:
            raise ValueError(missing_column(id_column, columns, "id_column", name))
        chosen = list(text_columns or [column for column in columns if column != id_column][:1])
        for column in chosen:
            if column not in columns:
                raise ValueError(missing_column(column, columns, "text_columns", name))
        values = zip(*(rows[name][column][:] for column in chosen), strict=True)
        texts.append(
            [" ".join(" ".join(str(value) for value in some if value is not None).split()) for some in values]
        )
        ids.append({value: row for row, value in enumerate(rows[name][id_column][:])})
        if len(ids[-1]) < len(texts[-1]):
            raise ValueError(f"{name} holds an id twice; every record needs its own")
        if not all(texts[-1]):
            raise ValueError(f"row {texts[-1].index('')} of {name} has no text in {', '.join(chosen)}; leave it out")
    matches = {part: _matches(rows[part], part, ids) for part in PARTS}
    for part, pairs in matches.items():
        if not len(pairs):
            raise ValueError(f"{part} holds no pair with label 1")
    everything = _components(np.concatenate([*matches.values()]), len(texts[0]), len(texts[1]))
    known = _components(matches["train"], len(texts[0]), len(texts[1]))
    held = np.unique(np.concatenate([matches["valid"][:, 0], matches["test"][:, 0]]))
    left = np.setdiff1d(matches["train"][:, 0], held)
    training = _table(
        [*texts[1], *(texts[0][row] for row in left)],
        np.concatenate([known[1], known[0][left]]),
    )
    parts = []
    for part in ("valid", "test"):
        own = np.unique(matches[part][:, 0])
        parts.append(_table([texts[0][row] for row in own], everything[0][own]))
    return MatchingTables(training, _table(texts[1], everything[1]), *parts)


def _read(folder: Path, name: str, cache_dir: str | None) -> Any:
    file = next((folder / f"{name}{end}" for end in _ENDS if (folder / f"{name}{end}").is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"{folder.name} holds no {name}.csv; expected {', '.join(f'{one}.csv' for one in (*TABLES, *PARTS))}"
        )
    source = rows_source(file, None, False, cache_dir, {})
    return source.load(source.splits()[0]).with_format(None)


def _matches(rows: Any, name: str, ids: Sequence[dict[Any, int]]) -> np.ndarray:
    """`[pairs, 2]` row numbers of the pairs that are the same."""
    for column in _PAIR_COLUMNS:
        if column not in rows.column_names:
            raise ValueError(missing_column(column, rows.column_names, None, name))
    pairs = []
    for line, (left, right, label) in enumerate(zip(*(rows[column][:] for column in _PAIR_COLUMNS), strict=True)):
        for table, value, known in zip(TABLES, (left, right), ids, strict=True):
            if value not in known:
                raise ValueError(f"row {line} of {name} names the id {value!r}, which {table} does not hold")
        if str(label) in ("1", "1.0", "True"):
            pairs.append((ids[0][left], ids[1][right]))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _components(pairs: np.ndarray, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both tables: records that are the same, also by way of others, have the number of their first right record."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = left + right
    graph = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], left + pairs[:, 1])), shape=(size, size))
    found = connected_components(graph, directed=False)[1]
    first = np.full(size, -1)
    first[found[left:][::-1]] = np.arange(right)[::-1]
    alone = first[found] < 0  # left records without a match
    labels = np.where(alone, right + np.arange(size), first[found])
    return labels[:left], labels[left:]


def _table(texts: Sequence[str], labels: np.ndarray) -> datasets.Dataset:
    columns = {
        "image": [None] * len(texts),
        "text": list(texts),
        "label": labels.tolist(),
        "index": list(range(len(texts))),
    }
    features = {"image": datasets.Image(), "text": datasets.Value("string")}
    features |= {name: datasets.Value("int64") for name in ("label", "index")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


__all__ = ["MatchingTables", "load_matching_tables"]
