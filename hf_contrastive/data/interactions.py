"""Interaction logs for recommenders: who did something with which item, split into train, valid and test."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from hf_contrastive.data.interaction_files import (
    SPLITS,
    IdMap,
    adjacency_blocks,
    atomic_blocks,
    find_columns,
    split_numbers,
    table_blocks,
)
from hf_contrastive.data.interaction_splits import TEST, TRAIN, VALID, k_core, split_by_time, split_per_user
from hf_contrastive.data.planted_preferences import make_interactions
from hf_contrastive.data.sources import load_split, rows_source, split_of_stem, split_rank, table_suffix
from hf_contrastive.tensor_utils import distinct


logger = logging.getLogger(__name__)

SPLIT_RULES = ("given", "random", "time", "leave_one_out", "mmrec", "global_time")


class InteractionDataset:
    """An interaction log with users and items numbered from 0, their tokens, and the part of each row.

    Args:
        log (`datasets.Dataset`): columns `user_id`, `item_id` (whole numbers), `split` (0 train, 1 valid, 2 test), and where
            known `rating` and `timestamp`. Pairs are unique.
        user_tokens (`list[str]`), item_tokens (`list[str]`): names by number.
        item_features (`dict[str, np.ndarray]`, *optional*): by modality, `[num_items, dim]`, row = item.

    Example:

    ```python
    >>> from hf_contrastive.data import load_interactions
    >>> rows = [{"user": "ann", "item": "tea"}, {"user": "ann", "item": "milk"}, {"user": "bob", "item": "tea"}]
    >>> data = load_interactions(rows, split="random", ratios=(1.0, 0.0, 0.0))
    >>> data.num_users, data.num_items, data.item_tokens
    (2, 2, ['tea', 'milk'])

    ```
    """

    def __init__(
        self,
        log: datasets.Dataset,
        user_tokens: Sequence[str],
        item_tokens: Sequence[str],
        item_features: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.log = log
        self.user_tokens = list(user_tokens)
        self.item_tokens = list(item_tokens)
        self.item_features = dict(item_features or {})
        self._parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def num_users(self) -> int:
        """Users, those without a row in a part included."""
        return len(self.user_tokens)

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return len(self.item_tokens)

    def __len__(self) -> int:
        return len(self.log)

    def part(self, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
        """The pairs of one part.

        Args:
            split (`str`, defaults to `"train"`): `train`, `valid` or `test`.

        Returns:
            `(users [E], items [E])`, int64, in the order of the log.
        """
        if split not in SPLITS:
            raise ValueError(f"`split` is {split!r}; expected one of {', '.join(SPLITS)}")
        if not self._parts:
            table = self.log.with_format("numpy")
            number, users, items = (np.asarray(table[name][:]) for name in ("split", "user_id", "item_id"))
            for place, name in enumerate(SPLITS):
                rows = number == place
                self._parts[name] = (users[rows].astype(np.int64), items[rows].astype(np.int64))
        return self._parts[split]

    def pairs(self, *splits: str) -> np.ndarray:
        """Pairs of several parts, `[E, 2]`: what evaluation excludes or looks for.

        Args:
            *splits (`str`): `train`, `valid`, `test`.
        """
        users, items = zip(*(self.part(split) for split in splits), strict=True)
        return np.stack([np.concatenate(users), np.concatenate(items)], 1)

    def describe(self) -> dict[str, Any]:
        """Counts for a report: users, items, rows of the parts, density, users and items without a training row."""
        users, items = self.part("train")
        rows = {split: len(self.part(split)[0]) for split in SPLITS}
        return {
            "users": self.num_users,
            "items": self.num_items,
            **rows,
            "density": sum(rows.values()) / max(1, self.num_users * self.num_items),
            "users_without_train": self.num_users - len(distinct(users)),
            "items_without_train": self.num_items - len(distinct(items)),
            "features": {name: list(matrix.shape) for name, matrix in self.item_features.items()},
        }


def load_interactions(
    path_or_id: Any,
    *,
    name: str | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    timestamp_column: str | None = None,
    split_column: str | None = None,
    min_rating: float | None = None,
    user_core: int = 0,
    item_core: int = 0,
    split: str | None = None,
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    valid_fraction: float | None = None,
    seed: int = 0,
    reindex: bool = True,
    num_users: int | None = None,
    num_items: int | None = None,
    item_features: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
) -> InteractionDataset:
    """
    Reads an interaction log, cleans and splits it.

    Understood are RecBole's atomic files (`.inter`, header `user_id:token` ...; a folder that holds one), MMRec's (the same
    without types, parts in `x_label`), LightGCN's adjacency lines (`train.txt`, `test.txt`), CSV, JSON lines and parquet,
    `datasets` objects, folders of `save_to_disk`, lists of records, hub ids, and `"planted"` (made by the code, with features of
    the items, see [`make_interactions`]). Files are read in blocks; what stays in memory
    are two whole numbers a row.

    In this order: rows below `min_rating` go, repeated pairs become one, users and items with too few rows go, users and items
    are numbered by first appearance, the parts are cut.

    Args:
        path_or_id: where the log is.
        name (`str`, *optional*): configuration of a hub dataset.
        user_column, item_column, rating_column, timestamp_column, split_column (`str`, *optional*): names of the columns; common
            ones are found.
        min_rating (`float`, *optional*): keep rows with at least this rating; all by default.
        user_core (`int`), item_core (`int`): see [`k_core`].
        split (`str`, *optional*): how the parts are cut, one of

            - `"given"`: by the column `x_label` or `split` (0, 1, 2 or words), or by the names of the files;
            - `"random"`: every user's rows at random by `ratios` (RecBole's default);
            - `"time"`: every user's rows by `ratios`, the latest ones held out;
            - `"leave_one_out"`: every user's last row for testing, the one before for validation (by time where it is known);
            - `"mmrec"`: MMRec's rule, at random;
            - `"global_time"`: one moment for everybody, by `ratios` (the strictest).

            By default `"given"` where the data says so, otherwise `"random"`.
        ratios (three shares, defaults to (0.8, 0.1, 0.1)): train, valid, test.
        valid_fraction (`float`, *optional*): with `"given"` and no valid part, take this share of the training rows for it,
            at random (`seed`), never a user's only one.
        seed (`int`, defaults to 0): of everything random.
        reindex (`bool`, defaults to `True`): number by first appearance; otherwise the ids must be whole numbers from 0 and
            stay as they are.
        num_users, num_items (`int`, *optional*): without reindexing, how many there are (ids without a row included).
        item_features (`dict`, *optional*): by modality an array `[items, dim]` or an `.npy` file; row = the item's id in the
            file, which must be a whole number.
        cache_dir (`str`, *optional*): where `datasets` keeps converted files.

    Returns:
        [`InteractionDataset`].

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: missing columns, broken headers, labels of parts other than 0, 1, 2, nothing left after cleaning, features
            that do not fit or are not finite.

    Example:

    ```python
    >>> from hf_contrastive.data import load_interactions
    >>> data = load_interactions([{"user": u, "item": i} for u in range(4) for i in range(10)])
    >>> [len(data.part(split)[0]) for split in ("train", "valid", "test")]
    [32, 4, 4]

    ```
    """
    if split is not None and split not in SPLIT_RULES:
        raise ValueError(f"`split` is {split!r}; expected one of {', '.join(SPLIT_RULES)}")
    roles = {"user": user_column, "item": item_column, "rating": rating_column, "timestamp": timestamp_column}
    if isinstance(path_or_id, str) and path_or_id == "planted":
        users, items, made = make_interactions()
        path_or_id = datasets.Dataset.from_dict({"user": users, "item": items})
        item_features = made if item_features is None else item_features
    log = _read(path_or_id, name, {**roles, "split": split_column}, min_rating, cache_dir, split in (None, "given"))
    rule = split or ("given" if log.split is not None else "random")
    if rule == "given" and log.split is None:
        raise ValueError(
            f"{log.text} does not say which part a row is in; expected a column x_label or split, or files "
            f"named train and test; pass split= one of {', '.join(SPLIT_RULES[1:])}"
        )
    if rule in ("time", "global_time") and log.times is None:
        raise ValueError(
            f"split={rule!r} needs times, and {log.text} has none; pass timestamp_column= or split='random'"
        )
    log.keep(_first_of_each_pair(log))
    if user_core > 1 or item_core > 1:
        before = len(log.users)
        log.keep(k_core(log.users, log.items, user_core, item_core))
        logger.info("%d of %d rows left in the %d/%d core", len(log.users), before, user_core, item_core)
        if not len(log.users):
            raise ValueError(f"nothing of {log.text} is left in the {user_core}/{item_core} core; lower the core")
    if rule == "given":
        assert log.split is not None
        parts = log.split
        if valid_fraction is not None:
            parts = _hold_out_valid(parts, log.users, valid_fraction, seed)
    elif rule == "global_time":
        assert log.times is not None
        parts = split_by_time(log.times, ratios)
    else:
        times = log.times if rule in ("time", "leave_one_out") else None
        parts = split_per_user(
            log.users,
            ratios=None if rule == "mmrec" else ratios,
            times=times,
            leave_out=rule == "leave_one_out",
            seed=seed,
        )
    users, user_tokens = _number(log.users, log.user_tokens, reindex, num_users, "user")
    items, item_tokens = _number(log.items, log.item_tokens, reindex, num_items, "item")
    columns: dict[str, Any] = {"user_id": users, "item_id": items, "split": parts}
    if log.ratings is not None:
        columns["rating"] = log.ratings
    if log.times is not None:
        columns["timestamp"] = log.times
    table = datasets.Dataset(pa.table(columns))
    features = {
        modality: _features(modality, source, item_tokens) for modality, source in (item_features or {}).items()
    }
    return InteractionDataset(table, user_tokens, item_tokens, features)


class _Log:
    """Columns while they are being cleaned."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.users = self.items = np.empty(0, dtype=np.int64)
        self.ratings: np.ndarray | None = None
        self.times: np.ndarray | None = None
        self.split: np.ndarray | None = None
        self.user_tokens: list[str] = []
        self.item_tokens: list[str] = []

    def keep(self, rows: np.ndarray) -> None:
        if not rows.all():
            for name in ("users", "items", "ratings", "times", "split"):
                column = getattr(self, name)
                if column is not None:
                    setattr(self, name, column[rows])


def _read(
    path_or_id: Any,
    name: str | None,
    roles: dict[str, str | None],
    min_rating: float | None,
    cache_dir: str | None,
    parts: bool,
) -> _Log:
    blocks, text = _blocks(path_or_id, name, cache_dir)
    users, items = IdMap(), IdMap()
    columns: dict[str, list[np.ndarray]] = {}
    useless: set[str] = set()
    missing = low = 0
    for block, part in blocks:
        found = find_columns(block.schema.names, roles, text)
        if min_rating is not None and "rating" not in found:
            raise ValueError(f"`min_rating` needs ratings, and {text} has none; pass rating_column=")
        row = {role: block.column(column) for role, column in found.items()}
        values = {"users": users.encode(row["user"]), "items": items.encode(row["item"])}
        keep = (values["users"] >= 0) & (values["items"] >= 0)
        missing += int((~keep).sum())
        for role, key in (("rating", "ratings"), ("timestamp", "times")):
            if role in row and key not in useless:
                try:
                    values[key] = _numbers(row[role], found[role], text)
                except ValueError:
                    if roles[role] is not None or (role == "rating" and min_rating is not None):
                        raise
                    # found by its name alone, and nobody asked for it
                    useless.add(key)
                    columns.pop(key, None)
        if min_rating is not None:
            enough = values["ratings"] >= min_rating
            low += int((keep & ~enough).sum())
            keep &= enough
        if not parts:
            pass  # the parts are cut anew
        elif part is not None:
            values["split"] = np.full(len(keep), part, dtype=np.int8)
        elif "split" in row:
            values["split"] = split_numbers(row["split"], found["split"], text)
        for key, column in values.items():
            columns.setdefault(key, []).append(column[keep])
    log = _Log(text)
    for key, pieces in columns.items():
        setattr(log, key, np.concatenate(pieces))
    if not len(log.users):
        raise ValueError(f"{text} holds no row{f' with a rating of at least {min_rating}' if low else ''}")
    if missing:
        warnings.warn(f"{missing} rows of {text} lack a user or an item and were left out", stacklevel=3)
    if low:
        logger.info("%d rows of %s have a rating below %s and were left out", low, text, min_rating)
    log.user_tokens, log.item_tokens = users.tokens, items.tokens
    return log


def _blocks(path_or_id: Any, name: str | None, cache_dir: str | None) -> tuple[Iterator[tuple[Any, int | None]], str]:
    """Blocks of rows with the part they are in, where the file's name says it."""
    path = Path(path_or_id).expanduser() if isinstance(path_or_id, (str, Path)) else None
    if path is not None and path.exists():
        text = path.name
        files = [path] if path.is_file() else sorted(path.glob("*.inter"))
        if files and files[0].suffix == ".inter":
            if len(files) > 1:
                raise ValueError(
                    f"{text} holds several logs: {', '.join(file.name for file in files)}; name one of them"
                )
            return ((block, None) for block in atomic_blocks(files[0])[1]), files[0].name
        files = [path] if path.is_file() else sorted(path.glob("*.txt"))
        if files and files[0].suffix == ".txt":
            return _adjacency(files), text
        if path.is_file() and table_suffix(path) is None:
            raise ValueError(
                f"{text} is no interaction log that is known here: .inter, .txt (adjacency lines), .csv, .jsonl, .parquet"
            )
    source = rows_source(path_or_id, name, False, cache_dir, {})
    splits = source.splits()

    def tables() -> Iterator[tuple[Any, int | None]]:
        for part in splits:
            word = split_of_stem(part)
            number = {"train": TRAIN, "validation": VALID, "test": TEST}.get(word or "") if len(splits) > 1 else None
            if len(splits) > 1 and number is None:
                warnings.warn(
                    f"split {part!r} of {source.text} is no train, valid or test and was left out", stacklevel=2
                )
                continue
            rows, _ = load_split(path_or_id, source, part, None, False)
            for table in table_blocks(rows):
                yield table, number

    return tables(), source.text


def _adjacency(files: list[Path]) -> Iterator[tuple[pa.Table, int | None]]:
    parts = {file: split_of_stem(file.stem) for file in files}
    if len(files) > 1:
        # other texts (id maps, trust networks) often lie beside them
        files = [file for file in files if parts[file] is not None]
        files.sort(key=lambda file: split_rank(parts[file] or ""))
        if not files:
            raise ValueError("none of the .txt files is named train, valid or test; name one file")
    for file in files:
        part = {"train": TRAIN, "validation": VALID, "test": TEST}.get(parts[file] or "") if len(files) > 1 else None
        for users, items in adjacency_blocks(file):
            yield pa.table({"user_id": users, "item_id": items}), part


def _numbers(column: Any, name: str, text: str) -> np.ndarray:
    try:
        values = column.cast(pa.float64()) if not pa.types.is_timestamp(column.type) else column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise ValueError(f"{text}: the column {name!r} holds something that is no number: {error}") from None
    return values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()


def _first_of_each_pair(log: _Log) -> np.ndarray:
    """One row of each pair, the first one; a pair of several given parts stays in the earliest."""
    keys = log.users * (int(log.items.max()) + 1) + log.items
    rank = np.arange(len(keys)) if log.split is None else np.lexsort((np.arange(len(keys)), log.split))
    _, first = np.unique(keys[rank], return_index=True)
    keep = np.zeros(len(keys), dtype=bool)
    keep[rank[first]] = True
    dropped = len(keys) - len(first)
    if dropped:
        shared = 0
        if log.split is not None:
            part_keys = [distinct(keys[log.split == part]) for part in range(3)]
            shared = sum(len(part) for part in part_keys) - len(first)
        also = f", {shared} of them in a later part, where they could never be recommended" if shared else ""
        warnings.warn(
            f"{dropped} rows of {log.text} repeat a pair of user and item and were left out{also}", stacklevel=3
        )
    return keep


def _hold_out_valid(parts: np.ndarray, users: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    if not 0 < fraction < 1:
        raise ValueError(f"`valid_fraction` is {fraction!r}; expected a share between 0 and 1")
    if (parts == VALID).any():
        raise ValueError("`valid_fraction` was given, but the data has a valid part; leave it out")
    rows = np.random.RandomState(seed).permutation(np.flatnonzero(parts == TRAIN))
    # the first row of each user in this order stays: nobody loses the only one
    _, first = np.unique(users[rows], return_index=True)
    free = np.delete(rows, first)
    parts = parts.copy()
    parts[free[: round(len(rows) * fraction)]] = VALID
    return parts


def _number(
    ids: np.ndarray, tokens: list[str], reindex: bool, count: int | None, kind: str
) -> tuple[np.ndarray, list[str]]:
    """Final numbers of what is left, and the tokens by number."""
    if reindex:
        if count is not None:
            raise ValueError(f"`num_{kind}s` is of use with reindex=False only")
        found, first, place = np.unique(ids, return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")
        number = np.empty(len(found), dtype=np.int64)
        number[order] = np.arange(len(found))
        return number[place], [tokens[old] for old in found[order]]
    try:
        values = np.asarray([int(token) for token in tokens], dtype=np.int64)
    except ValueError:
        bad = next(token for token in tokens if not token.lstrip("-").isdigit())
        raise ValueError(
            f"reindex=False needs {kind} ids that are whole numbers, found {bad!r}; use reindex=True"
        ) from None
    final = values[ids]
    size = int(final.max()) + 1 if count is None else count
    if final.min() < 0 or final.max() >= size:
        raise ValueError(
            f"{kind} ids go from {final.min()} to {final.max()}, but num_{kind}s={size} allows 0 to {size - 1}"
        )
    return final, [str(number) for number in range(size)]


def _features(modality: str, source: Any, tokens: list[str]) -> np.ndarray:
    """Features in the order of the items, checked."""
    if isinstance(source, (str, Path)):
        try:
            source = np.load(source, allow_pickle=False, mmap_mode="r")
        except ValueError as error:
            raise ValueError(f"{modality} features: {Path(source).name} is no .npy file of numbers: {error}") from None
    matrix = source.detach().cpu().numpy() if hasattr(source, "detach") else np.asarray(source)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise ValueError(
            f"{modality} features have shape {list(matrix.shape)} and dtype {matrix.dtype}; expected numbers [items, dim]"
        )
    rows = []
    for token in tokens:
        if not token.isdigit() or int(token) >= len(matrix):
            raise ValueError(
                f"{modality} features have rows 0 to {len(matrix) - 1}, and the catalogue has the item {token!r}; row k must "
                "belong to the item with the id k"
            )
        rows.append(int(token))
    found = np.asarray(matrix[rows], dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(found).all(1))
    if len(bad):
        raise ValueError(
            f"{modality} features: {len(bad)} of {len(found)} items have NaN or infinity (first: item {tokens[bad[0]]!r})"
        )
    return found


__all__ = ["SPLIT_RULES", "InteractionDataset", "load_interactions"]
