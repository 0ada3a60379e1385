"""What is known of the items, read from files, the hub or `datasets` objects in the order of the catalogue."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.exceptions import DatasetNotFoundError

from hf_contrastive.data.interaction_files import ROLES, IdMap, atomic_blocks, table_blocks
from hf_contrastive.data.schema import require_columns
from hf_contrastive.data.sources import hub_error, load_split, rows_source


def load_item_table(
    path: Any, item_tokens: Sequence[str], id_column: str | None = None, columns: Sequence[str] | None = None
) -> datasets.Dataset:
    """What is known of the items, in the order of the catalogue.

    Args:
        path: RecBole's atomic file (`.item`, or a folder with one), a `.csv`, `.jsonl` or `.parquet` file, a hub id, a
            `datasets.Dataset`, or a list of dicts.
        item_tokens (`list[str]`): names of the items by number, for example `data.item_tokens`.
        id_column (`str`, *optional*): column with these names; common ones (`item_id`, `asin`, ...) are found by themselves.
        columns (`list[str]`, *optional*): what to keep besides; everything by default.

    Returns:
        `datasets.Dataset`: row k tells of item k; all its columns are `None` where nothing is known. Lists of words of an
        atomic file (`token_seq`) are strings with spaces. Items without a row and repeated rows are counted in a warning (the
        first row of an item counts), rows of other items are left out.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a missing column, several splits, or no row of any item of the catalogue.

    Example:

    ```python
    >>> from hf_contrastive.data import load_item_table
    >>> rows = [{"item_id": 7, "title": "Alien"}, {"item_id": 5, "title": "Heat"}]
    >>> load_item_table(rows, ["5", "7"])["title"][:]
    ['Heat', 'Alien']

    ```
    """
    rows, text = _item_rows(path)
    columns = [columns] if isinstance(columns, str) else columns
    if id_column is None:
        id_column = next((name for name in ROLES["item"] if name in rows.column_names), ROLES["item"][0])
    require_columns(rows, {**dict.fromkeys(columns or (), "columns"), id_column: "id_column"}, text)
    if columns is not None:
        rows = rows.select_columns(list(dict.fromkeys([id_column, *columns])))
    ids = IdMap()
    blocks = table_blocks(rows.select_columns([id_column]))
    numbers = np.concatenate([np.empty(0, dtype=np.int64), *(ids.encode(one.column(id_column)) for one in blocks)])
    wanted = [ids.number.get(str(token), -2) for token in item_tokens]
    found, first = np.unique(numbers, return_index=True)
    row_of = dict(zip(found.tolist(), first.tolist(), strict=True))
    places = [row_of.get(number) for number in wanted]
    missing = places.count(None)
    if missing == len(places):
        raise ValueError(
            f"{text} has no row of any of the {len(places)} items: its column {id_column!r} holds "
            f"{', '.join(map(repr, ids.tokens[:3])) or 'nothing'}, the items are called "
            f"{', '.join(map(repr, item_tokens[:3])) or 'nothing'}; pass id_column= the column of these names"
        )
    repeated = int(np.isin(numbers, wanted).sum()) - len(set(places) - {None})
    nameless = int((numbers == -1).sum())
    if repeated:
        warnings.warn(f"{repeated} rows of {text} repeat an item; its first row counts", stacklevel=2)
    if nameless:
        warnings.warn(f"{nameless} rows of {text} have no {id_column} and were left out", stacklevel=2)
    if missing:
        warnings.warn(f"{missing} of {len(places)} items have no row in {text}; their columns are None", stacklevel=2)
        empty = datasets.Dataset.from_dict({name: [None] for name in rows.column_names}, features=rows.features)
        rows = datasets.concatenate_datasets([rows, empty])
    return rows.select([len(rows) - 1 if place is None else place for place in places])


def _item_rows(path: Any) -> tuple[datasets.Dataset, str]:
    """All rows of the source, and what it is called in messages."""
    file = Path(path).expanduser() if isinstance(path, (str, Path)) else Path()
    if isinstance(path, (str, Path)) and file.is_dir():
        atomic = sorted(file.glob("*.item"))
        if len(atomic) > 1:
            raise ValueError(f"{file.name} holds {', '.join(one.name for one in atomic)}; name one of them")
        file = atomic[0] if atomic else file
    if file.suffix == ".item":
        if not file.is_file():
            raise FileNotFoundError(f"{path} does not exist; pass an .item, .csv, .jsonl or .parquet file")
        blocks = list(atomic_blocks(file)[1])
        if not blocks:
            raise ValueError(f"{file.name} holds no row")
        return datasets.Dataset(pa.Table.from_batches(blocks)), file.name
    source = rows_source(path, None, False, None, {})
    try:
        splits = source.splits()
    except (ConnectionError, DatasetNotFoundError) as error:
        raise hub_error(path, error) from error
    if len(splits) != 1:
        raise ValueError(
            f"{source.text} has the splits {', '.join(splits)}; pass one file, or the Dataset of one split"
        )
    rows, _ = load_split(path, source, splits[0], None, False)
    if not isinstance(rows, datasets.Dataset):
        raise ValueError(f"{source.text} is a stream; pass a datasets.Dataset, whose rows can be looked up")
    return rows.with_format(None), source.text if file == Path() else file.name


__all__ = ["load_item_table"]
