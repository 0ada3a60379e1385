"""Tables of records to link: an image, a text, or both, and where it is known what the record is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets
import numpy as np

from hf_contrastive.data.glyphs import COLOURS, GLYPHS, glyph_name, make_glyphs
from hf_contrastive.data.schema import column_names_of, missing_column
from hf_contrastive.data.sources import load_split, rows_source


#: names under which columns are found when the user names none, the first that is there
IMAGE_COLUMNS = ("image", "image_path", "path", "file_name", "filename", "crop")
TEXT_COLUMNS = ("text", "ocr", "ocr_text", "caption", "name", "title")
LABEL_COLUMNS = ("label", "labels", "cluster", "cluster_label")


def load_linkage_table(
    path_or_id: Any,
    *,
    split: str = "train",
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    keep_columns: Sequence[str] = (),
    optional_columns: Sequence[str] = (),
    text_columns: Sequence[str] = TEXT_COLUMNS,
    label_columns: Sequence[str] = LABEL_COLUMNS,
    on_bad: Literal["stop", "skip"] = "skip",
    cache_dir: str | None = None,
) -> datasets.Dataset:
    """Loads a table of records, each with an image, a text, or both.

    A record without a text, or without an image (no value, or a file that is not there), is kept with the other side alone. Records
    with neither are left out, and counted.

    Args:
        path_or_id: a `.csv`, `.jsonl` or `.parquet` file, a folder of those, a `save_to_disk` folder, a hub id, `datasets` rows, or a
            list of dicts.
        split (`str`): name of the split, where there are several.
        image_column (`str`, *optional*): images, or paths of them (relative to the file); found by itself under the usual names.
        text_column (`str`, *optional*): texts; found by itself. A table may have one of the two columns alone.
        label_column (`str`, *optional*): what each record is, integers or strings; found by itself where there is one.
        keep_columns (`Sequence[str]`): further columns to hand on.
        optional_columns (`Sequence[str]`): the same of columns that need not be there.
        text_columns, label_columns (`Sequence[str]`): names under which texts and labels are looked for.
        on_bad (`str`): an image file that is not there: `"skip"` goes on without this image, with a warning that counts, `"stop"`
            raises at the first.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        `datasets.Dataset`: `image` (nothing where it lacks), `text` (empty where it lacks), `label` where there is one, `index` (the
        row's number in the table).

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a column that is missing (those found are listed), or nothing left.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data import load_linkage_table
    >>> rows = [{"image": Image.new("L", (8, 4)), "text": "Smith & Co", "label": 3}, {"image": None, "text": "Smith", "label": 3}]
    >>> table = load_linkage_table(rows)
    >>> table.column_names, table[1]["image"], table[1]["text"]
    (['image', 'text', 'label', 'index'], None, 'Smith')

    ```
    """
    if on_bad not in ("stop", "skip"):
        raise ValueError(f"on_bad must be 'stop' or 'skip', got {on_bad!r}")
    source = rows_source(path_or_id, None, False, cache_dir, {})
    splits = source.splits()
    rows: Any = load_split(path_or_id, source, splits[0] if len(splits) == 1 else split, None, False)[0]
    names = column_names_of(rows)
    shown = source.text
    image = _column("image_column", image_column, IMAGE_COLUMNS, names, shown)
    text = _column("text_column", text_column, text_columns, [name for name in names if name != image], shown)
    label = _column("label_column", label_column, label_columns, names, shown)
    if image is None and text is None:
        raise ValueError(
            f"{missing_column('text', names, 'text_column', shown)}; a record needs an image or a text, see image_column, too"
        )
    rows = rows.with_format(None)
    folder = _folder_of(path_or_id)
    texts = [" ".join(str(value).split()) if value is not None else "" for value in rows[text][:]] if text else None
    images, absent = _images(rows, image, folder) if image else (None, [])
    count = len(rows)
    if absent:
        row, path = absent[0]
        what = f"{len(absent)} of {count} images of {shown} are not there, the first in row {row}: {path}"
        if on_bad == "stop" or len(absent) == count:
            raise ValueError(f"{what}; mend the paths (they are relative to the file), or pass on_bad='skip'")
        warnings.warn(f"{what}; these records go on without an image", stacklevel=2)
    has = np.zeros(count, dtype=bool)
    for values in (texts, images):
        if values is not None:
            has |= np.array([bool(value) for value in values], dtype=bool)
    kept = np.flatnonzero(has)
    if not len(kept):
        raise ValueError(f"none of the {count} rows of {shown} has an image or a text; name the columns")
    if len(kept) < count:
        warnings.warn(
            f"left out: {count - len(kept)} of {count} rows of {shown} have neither an image nor a text, the first is row "
            f"{int(np.flatnonzero(~has)[0])}",
            stacklevel=2,
        )
    columns: dict[str, list[Any]] = {
        "image": [None] * len(kept) if images is None else [images[row] for row in kept],
        "text": [""] * len(kept) if texts is None else [texts[row] for row in kept],
    }
    features: dict[str, Any] = {"image": datasets.Image(), "text": datasets.Value("string")}
    if label is not None:
        columns["label"], features["label"] = _labels(rows, label, kept)
    further = [*keep_columns, *(name for name in optional_columns if name in names)]
    further = [name for name in dict.fromkeys(further) if name not in columns]
    for name in further:
        if name not in names:
            raise ValueError(missing_column(name, names, "keep_columns", shown))
        values = rows[name][:]
        columns[name], features[name] = [values[row] for row in kept], rows.features[name]
    columns["index"], features["index"] = kept.tolist(), datasets.Value("int64")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _column(argument: str, wanted: str | None, known: Sequence[str], names: Sequence[str], shown: str) -> str | None:
    if wanted is not None and wanted not in names:
        raise ValueError(missing_column(wanted, names, argument, shown))
    return wanted if wanted is not None else next((name for name in known if name in names), None)


def _folder_of(path_or_id: Any) -> Path:
    if not isinstance(path_or_id, (str, Path)):
        return Path()
    path = Path(path_or_id).expanduser()
    return path.parent if path.is_file() else path if path.is_dir() else Path()


def _images(rows: Any, column: str, folder: Path) -> tuple[list[Any], list[tuple[int, str]]]:
    """Undecoded images, nothing where one lacks; and the files that are not there."""
    if isinstance(rows.features[column], datasets.Image):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    found: list[Any] = []
    absent: list[tuple[int, str]] = []
    for row, value in enumerate(rows[column][:]):
        if isinstance(value, Mapping):
            content, path = value.get("bytes"), value.get("path")
        elif isinstance(value, bytes):
            content, path = value, None
        else:
            content, path = None, str(value) if value else None
        if content:
            found.append({"bytes": content, "path": None})
            continue
        file = None if not path else folder / path
        if file is not None and not file.is_file():
            absent.append((row, str(file)))
            file = None
        found.append(None if file is None else {"bytes": None, "path": str(file)})
    return found, absent


def _labels(rows: Any, column: str, kept: np.ndarray) -> tuple[list[Any], Any]:
    """Labels as integers or strings, nothing where one lacks."""
    feature = rows.features[column]
    values = rows[column][:]
    if isinstance(feature, datasets.ClassLabel):
        values = [None if value is None else feature.int2str(value) for value in values]
    chosen = [values[row] for row in kept]
    given = [value for value in chosen if value is not None]
    # a column with gaps was read as floats
    if all(isinstance(value, (int, float)) and float(value).is_integer() for value in given):
        return [None if value is None else int(value) for value in chosen], datasets.Value("int64")
    return [None if value is None else str(value) for value in chosen], datasets.Value("string")


class JudgedPairs(NamedTuple):
    """What [`load_judged_pairs`] returns, all of them with `image`, `text`, `label`, `index`.

    Args:
        pool: the known records, each its own label.
        queries: records that have a match in the pool, with its label.
        others: records that have none, labels of their own below 0.
    """

    pool: datasets.Dataset
    queries: datasets.Dataset
    others: datasets.Dataset


def load_judged_pairs(
    pairs: str | Path,
    pictures: str | Path | None = None,
    *,
    query_column: str = "source_name",
    candidate_column: str = "candidate_name",
    verdict_column: str = "label",
    picture_name_column: str = "name",
    picture_column: str = "image",
    cache_dir: str | None = None,
) -> JudgedPairs:
    """Records from a table of pairs of texts that somebody has judged, and a table with a picture for each text.

    Texts that are equal are one record. The pool is every candidate; a query is a text that was judged to be one of them.

    Args:
        pairs (`str` or `Path`): `.csv`, `.jsonl` or `.parquet` file, a pair a row.
        pictures (`str` or `Path`, *optional*): file with a picture for each text; without it the records are texts alone.
        query_column, candidate_column (`str`): the two texts of a pair.
        verdict_column (`str`): 1 where they are the same; anything else is no match.
        picture_name_column, picture_column (`str`): columns of `pictures`.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        [`JudgedPairs`].

    Raises:
        FileNotFoundError: a file that does not exist.
        ValueError: a column that is missing, no pair with a match, a query that matches two candidates.

    Example:

    ```python
    >>> import pathlib, tempfile
    >>> from hf_contrastive.data import load_judged_pairs
    >>> file = pathlib.Path(tempfile.mkdtemp(), "pairs.csv")
    >>> _ = file.write_text("source_name,candidate_name,label\\nSmith Co,Smith & Co,1\\nSmith Co,Smythe,0\\nIBM,Imber,0\\n")
    >>> found = load_judged_pairs(file)
    >>> found.pool["text"][:], found.queries[0]["label"], found.others["text"][:]
    (['Smith & Co', 'Smythe', 'Imber'], 0, ['IBM'])

    ```
    """
    source = rows_source(pairs, None, False, cache_dir, {})
    rows: Any = source.load(source.splits()[0]).with_format(None)
    for argument, column in (
        ("query_column", query_column),
        ("candidate_column", candidate_column),
        ("verdict_column", verdict_column),
    ):
        if column not in rows.column_names:
            raise ValueError(missing_column(column, rows.column_names, argument, source.text))
    queries, candidates = ([str(text or "") for text in rows[name][:]] for name in (query_column, candidate_column))
    pool = {text: number for number, text in enumerate(dict.fromkeys(text for text in candidates if text))}
    matches: dict[str, int] = {}
    for query, candidate, verdict in zip(queries, candidates, rows[verdict_column][:], strict=True):
        same = str(verdict) in ("1", "1.0", "True") and query and candidate
        if same and matches.setdefault(query, pool[candidate]) != pool[candidate]:
            raise ValueError(f"{source.text}: {query!r} matches two candidates; a query of this table has one match")
    if not matches:
        raise ValueError(
            f"{source.text} holds no pair with a verdict of 1 in {verdict_column!r}; name the right column"
        )
    rest = [text for text in dict.fromkeys(queries) if text and text not in matches and text not in pool]
    drawn = None if pictures is None else _pictures(pictures, picture_name_column, picture_column, cache_dir)
    tables = []
    for labels in (pool, matches, {text: -1 - number for number, text in enumerate(rest)}):
        tables.append(_named_table(labels, drawn))
    return JudgedPairs(*tables)


def _pictures(file: str | Path, name_column: str, column: str, cache_dir: str | None) -> dict[str, Any]:
    source = rows_source(file, None, False, cache_dir, {})
    rows: Any = source.load(source.splits()[0]).with_format(None)
    for argument, name in (("picture_name_column", name_column), ("picture_column", column)):
        if name not in rows.column_names:
            raise ValueError(missing_column(name, rows.column_names, argument, source.text))
    return dict(zip(rows[name_column][:], _images(rows, column, _folder_of(file))[0], strict=True))


def _named_table(labels: Mapping[str, int], pictures: Mapping[str, Any] | None) -> datasets.Dataset:
    columns = {
        "image": [None if pictures is None else pictures.get(text) for text in labels],
        "text": list(labels),
        "label": list(labels.values()),
        "index": list(range(len(labels))),
    }
    features = {"image": datasets.Image(), "text": datasets.Value("string")}
    features |= {name: datasets.Value("int64") for name in ("label", "index")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def make_glyph_records(split: str = "train") -> datasets.Dataset:
    """The drawn glyphs as records: an entity is a character in a colour, its text is its name.

    Args:
        split (`str`, defaults to `"train"`): `"train"` (1,536 records of 90 entities) or `"test"` (384).

    Returns:
        `datasets.Dataset`: `image`, `text` ("red letter a"), `label` (number of the entity), `index`.

    Raises:
        ValueError: another split.

    Example:

    ```python
    >>> from hf_contrastive.data.linkage_tables import make_glyph_records
    >>> records = make_glyph_records("test")
    >>> len(records), len(set(records["label"][:]))
    (384, 90)

    ```
    """
    glyphs = make_glyphs(split)
    names = [f"{colour} {glyph_name(glyph)}" for glyph in GLYPHS for colour in COLOURS]
    texts = [row[1] for row in glyphs["texts"][:]]
    rows = glyphs.remove_columns(["texts", "label"]).add_column("text", texts)
    numbers = {name: number for number, name in enumerate(names)}
    rows = rows.add_column("label", np.array([numbers[text] for text in texts], dtype=np.int64))
    return rows.add_column("index", np.arange(len(rows), dtype=np.int64))


__all__ = ["JudgedPairs", "load_judged_pairs", "load_linkage_table", "make_glyph_records"]
