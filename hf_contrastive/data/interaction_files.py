"""Files of interaction logs, read in blocks: text never lies in memory as a whole, tokens become whole numbers at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from hf_contrastive.data.schema import missing_column
from hf_contrastive.data.sources import Loaded


# what a column is, and the names under which it is found when the user names none
ROLES = {
    "user": ("user_id", "userID", "user", "uid", "userId", "reviewerID"),
    "item": ("item_id", "itemID", "item", "iid", "itemId", "asin", "movieId", "business_id"),
    "rating": ("rating", "ratings", "stars", "overall", "score"),
    "timestamp": ("timestamp", "time", "unixReviewTime", "date"),
    "split": ("x_label", "split"),
}
FIELD_TYPES = ("token", "token_seq", "float", "float_seq")
SPLITS = ("train", "valid", "test")
_SPLIT_WORDS = {"train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "testing": 2}


class IdMap:
    """Numbers tokens from 0 in the order of their first appearance."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def encode(self, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Numbers of a column of tokens; a missing one is -1.

        Args:
            column: strings, whole numbers, or floats that are whole.
        """
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        coded = column.dictionary_encode() if not isinstance(column, pa.DictionaryArray) else column
        known = [self._token(value) for value in coded.dictionary.to_pylist()]
        # first appearance counts, not the order of the dictionary: both are the same for pyarrow's own encoding
        numbers = np.asarray([self.number.setdefault(token, len(self.number)) for token in known], dtype=np.int64)
        places = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if not len(numbers):
            return np.full(len(places), -1, dtype=np.int64)
        return np.where(places < 0, -1, numbers[places])

    @staticmethod
    def _token(value: Any) -> str:
        return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)

    @property
    def tokens(self) -> list[str]:
        """Tokens by number."""
        return list(self.number)


def read_header(path: Path) -> list[tuple[str, str | None]]:
    """Fields of the first line of an atomic file: names and types (`None` where the file writes no types).

    Args:
        path (`Path`): `.inter`, `.item`, `.user`, `.net`, ...

    Raises:
        ValueError: an empty file, a field without a type beside others that have one, or an unknown type.
    """
    with path.open(encoding="utf-8") as file:
        line = file.readline().rstrip("\r\n")
    if not line:
        raise ValueError(f"{path.name} is empty; expected a header line such as 'user_id:token\\titem_id:token'")
    fields = [field.split(":") for field in line.split("\t")]
    if all(len(field) == 1 for field in fields):
        return [(field[0], None) for field in fields]
    for field in fields:
        if len(field) != 2 or field[1] not in FIELD_TYPES:
            raise ValueError(
                f"{path.name}: the header field {':'.join(field)!r} is no 'name:type' with a type out of "
                f"{', '.join(FIELD_TYPES)}; the header is {line!r}, separated by tabs"
            )
    return [(field[0], field[1]) for field in fields]


def atomic_blocks(path: Path, block_bytes: int = 2**24) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    """Names of the columns of an atomic file, and its rows in blocks.

    Args:
        path (`Path`): tab-separated text with a header line, typed (`user_id:token`) or not.
        block_bytes (`int`): text in memory at a time.

    Raises:
        ValueError: the header or a row does not fit.
    """
    header = read_header(path)
    names = [name for name, _ in header]
    kinds = {"token": pa.string(), "token_seq": pa.string(), "float": pa.float64(), "float_seq": pa.string()}
    types = {name: kinds[kind] for name, kind in header if kind is not None}
    # without types, ids and labels are read as they stand
    types |= {name: pa.string() for name, kind in header if kind is None and _role_of(name) in ("user", "item")}

    def rows() -> Iterator[pa.RecordBatch]:
        try:
            with pacsv.open_csv(
                path,
                read_options=pacsv.ReadOptions(column_names=names, skip_rows=1, block_size=block_bytes),
                parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
                convert_options=pacsv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""]),
            ) as reader:
                yield from reader
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path.name} cannot be read: {error}") from error

    return names, rows()


def adjacency_blocks(path: Path, lines_at_a_time: int = 65536) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (user, item) of a file with one line a user, `user item item item` (LightGCN's form), in blocks.

    Args:
        path (`Path`): text, numbers separated by spaces.

    Raises:
        ValueError: a line that holds anything but whole numbers.
    """
    users: list[np.ndarray] = []
    items: list[np.ndarray] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if not words:
                continue
            try:
                values = np.asarray(words, dtype=np.int64)
            except ValueError:
                raise ValueError(
                    f"{path.name}, line {number}: expected whole numbers 'user item item ...', found {line.strip()[:60]!r}"
                ) from None
            users.append(np.full(len(values) - 1, values[0]))
            items.append(values[1:])
            if len(users) == lines_at_a_time:
                yield np.concatenate(users), np.concatenate(items)
                users, items = [], []
    if users:
        yield np.concatenate(users), np.concatenate(items)


def table_blocks(rows: Loaded, batch_size: int = 100_000) -> Iterator[pa.Table]:
    """Rows of a `datasets` object (in memory, on disk or streamed) in blocks."""
    yield from rows.with_format("arrow").iter(batch_size=batch_size)


def _role_of(name: str) -> str | None:
    return next((role for role, names in ROLES.items() if name in names), None)


def find_columns(names: Sequence[str], given: dict[str, str | None], source: str) -> dict[str, str]:
    """Which column plays which role.

    Args:
        names (`Sequence[str]`): of the columns.
        given (`dict`): by role, the name that the user gave, or `None`.
        source (`str`): for messages.

    Raises:
        ValueError: a named column is not there, or no column of users or items is found.
    """
    found = {}
    for role, known in ROLES.items():
        wanted = given.get(role)
        if wanted is not None:
            if wanted not in names:
                raise ValueError(missing_column(wanted, names, f"{role}_column", source))
            found[role] = wanted
            continue
        match = next((name for name in known if name in names), None)
        if match is not None:
            found[role] = match
        elif role in ("user", "item"):
            raise ValueError(missing_column(known[0], names, f"{role}_column", source))
    return found


def split_numbers(column: pa.Array | pa.ChunkedArray, name: str, source: str) -> np.ndarray:
    """0, 1, 2 for train, valid, test, from such numbers or from words.

    Args:
        column: of the file.
        name (`str`), source (`str`): for messages.

    Raises:
        ValueError: anything else stands there.
    """
    coded = (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).dictionary_encode()
    numbers = [_split_number(value) for value in coded.dictionary.to_pylist()]
    places = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    bad = [value for value, number in zip(coded.dictionary.to_pylist(), numbers, strict=True) if number is None]
    if bad or (places < 0).any():
        raise ValueError(
            f"{source}: the column {name!r} holds {bad[0] if bad else None!r}; expected 0, 1, 2 or train, valid, test in every row"
        )
    return np.asarray(numbers, dtype=np.int8)[places]


def _split_number(value: Any) -> int | None:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _SPLIT_WORDS:
            return _SPLIT_WORDS[word]
        try:
            value = float(word)
        except ValueError:
            return None
    return int(value) if value in (0, 1, 2) else None


__all__ = [
    "ROLES",
    "SPLITS",
    "IdMap",
    "adjacency_blocks",
    "atomic_blocks",
    "find_columns",
    "read_header",
    "split_numbers",
    "table_blocks",
]
