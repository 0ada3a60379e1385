"""Where rows come from, whatever they hold: splits by file names, parquet files, saved folders, the hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError


Loaded = datasets.Dataset | datasets.IterableDataset

SPLIT_ALIASES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_ALIASES |= {"validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
# tables of rows by the end of their names; what `datasets` calls the kind. In a folder the first kind found is read.
TABLES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
TABLES |= {f"{suffix}.gz": TABLES[suffix] for suffix in (".jsonl", ".json", ".csv")}


def split_of_stem(stem: str) -> str | None:
    """`train`, `train-00000-of-00002`, `cifar_test` ... -> the split's name."""
    words = stem.lower().replace("-", "_").replace(".", "_").split("_")
    for word in (words[0], words[-1]):
        if word in SPLIT_ALIASES:
            return SPLIT_ALIASES[word]
    return None


def table_suffix(file: Path) -> str | None:
    """`.jsonl`, `.jsonl.gz`, ... when the name says a table of rows, otherwise nothing."""
    suffix = "".join(file.suffixes[-2:]) if file.suffix == ".gz" else file.suffix
    return suffix if suffix in TABLES else None


def split_of_file(file: Path) -> str | None:
    """The split that a file's name says: `harmless_test.jsonl.gz` -> `test`."""
    return split_of_stem(file.name.removesuffix(table_suffix(file) or file.suffix))


def files_by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files grouped by the split that their names say; files whose names say none are all `train`."""
    named: dict[str, list[Path]] = {}
    for file in sorted(files):
        named.setdefault(split_of_file(file) or "", []).append(file)
    if set(named) == {""}:
        return {"train": named[""]}
    unnamed = named.pop("", [])
    if unnamed:
        shown = ", ".join(file.name for file in unnamed[:3])
        warnings.warn(f"files whose names say no split are left out: {shown} ({len(unnamed)} in all)", stacklevel=4)
    return named


class Source:
    """The splits that a source has, and how to load one."""

    def __init__(self, text: str, splits: Callable[[], list[str]], load: Callable[[str], Loaded]) -> None:
        self.text, self.splits, self.load = text, splits, load


def innermost_cause(error: BaseException) -> str:
    """The innermost cause, which is what the user can act on."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def split_rank(split: str) -> tuple[int, str]:
    """Key by which splits are sorted: train, validation, test, others."""
    order = ("train", "validation", "test")
    return (order.index(split) if split in order else len(order), split)


def hub_error(path_or_id: Any, error: BaseException) -> ValueError:
    """What to say when the hub has no such dataset, or cannot be reached."""
    return ValueError(
        f"{path_or_id!r} is no local path, and the hub did not hand out a dataset of that name: {error}; check the "
        "spelling, the network and `hf auth login`, or pass a local folder or file"
    )


def parquet_source(text: str, files: dict[str, list[Path]], streaming: bool, cache_dir: str | None) -> Source:
    """Parquet files by split."""

    def load(split: str) -> Loaded:
        names = [str(file) for file in files[split]]
        try:
            return datasets.load_dataset(
                "parquet", data_files={split: names}, split=split, streaming=streaming, cache_dir=cache_dir
            )
        except Exception as error:
            raise ValueError(f"{', '.join(names)} cannot be read as parquet: {innermost_cause(error)}") from error

    return Source(text, lambda: list(files), load)


def table_source(text: str, files: dict[str, list[Path]], streaming: bool, cache_dir: str | None) -> Source:
    """Files of rows by split, all of one of the kinds in `TABLES`."""
    kind = TABLES[table_suffix(next(iter(files.values()))[0]) or ".parquet"]
    if kind == "parquet":
        return parquet_source(text, files, streaming, cache_dir)

    def load(split: str) -> Loaded:
        names = [str(file) for file in files[split]]
        return datasets.load_dataset(
            kind, data_files={split: names}, split=split, streaming=streaming, cache_dir=cache_dir
        )

    return Source(text, lambda: list(files), load)


def rows_source(
    path_or_id: Any, name: str | None, streaming: bool, cache_dir: str | None, built_in: Mapping[str, Source]
) -> Source:
    """Rows from wherever they are: built in, in memory, a file, a folder, the hub.

    Args:
        path_or_id: a name in `built_in`, rows at hand (`datasets` objects, a list of dicts), a path, or a hub id.
        name (`str`, *optional*): configuration of a hub dataset.
        streaming (`bool`): read as you go.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.
        built_in (`Mapping[str, Source]`): what comes with this library, by name.

    Returns:
        [`Source`].

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a file or folder that holds no table of rows.
    """
    if isinstance(path_or_id, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        return Source("the data given", lambda: [str(split) for split in path_or_id], path_or_id.__getitem__)
    if isinstance(path_or_id, (datasets.Dataset, datasets.IterableDataset)):
        return Source("the data given", lambda: ["train"], lambda _: path_or_id)
    if isinstance(path_or_id, (list, tuple)):
        return Source("the records given", lambda: ["train"], lambda _: datasets.Dataset.from_list(list(path_or_id)))
    text = str(path_or_id)
    if text in built_in:
        return built_in[text]
    kinds = ", ".join(TABLES)
    path = Path(text).expanduser()
    if path.is_file():
        if table_suffix(path) is None:
            raise ValueError(f"file {text} is none of {kinds}; convert it to one of these")
        return table_source(text, {split_of_file(path) or "train": [path]}, streaming, cache_dir)
    if path.is_dir():
        saved = saved_source(path)
        if saved is not None:
            return saved
        for suffix in TABLES:
            for folder in (path, path / "data"):
                files = sorted(folder.glob(f"*{suffix}")) if folder.is_dir() else []
                if files:
                    return table_source(text, files_by_split(files), streaming, cache_dir)
        raise ValueError(f"no rows in {text}: expected {kinds} files, or a save_to_disk folder")
    if isinstance(path_or_id, Path) or text.startswith((".", "/", "~", "\\")) or table_suffix(path):
        named = ", ".join(repr(known) for known in built_in)
        raise FileNotFoundError(
            f"{text} does not exist; pass {named + ', ' if named else ''}a file ({kinds}), a folder of those, a "
            "save_to_disk folder, or a hub id"
        )
    return hub_source(text, name, streaming, cache_dir)


def load_split(
    path_or_id: Any,
    source: Source,
    split: str,
    test_fraction: float | None,
    streaming: bool,
    any_name: bool = False,
) -> tuple[Loaded, bool]:
    """One split of a source, and whether a test part has still to be held out of it.

    Args:
        path_or_id: what the user passed, for messages.
        source ([`Source`]): of it.
        split (`str`): name of the split.
        test_fraction (`float`, *optional*): share that is held out as `"test"` where the source has a single split.
        streaming (`bool`): read as you go.
        any_name (`bool`): a single split serves as `"test"`, whatever it is called.

    Returns:
        `(rows, hold_out)`: with `hold_out` the rows are the whole single split.

    Raises:
        ValueError: a split that is not there (those found are listed), a hub dataset that cannot be had, a file that
            cannot be read, a part held out of a stream.
    """
    if test_fraction is not None and not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction!r}")
    try:
        splits = source.splits()
        hold_out = test_fraction is not None and len(splits) == 1 and split in (*splits, "train", "test")
        if hold_out and streaming:
            raise ValueError("test_fraction needs the whole data at hand; pass streaming=False")
        wanted = splits[0] if hold_out or (any_name and split == "test" and len(splits) == 1) else split
        if wanted not in splits:
            text = (
                f"split {split!r} not found; {source.text} has {', '.join(splits) or 'none'}; pass split= one of them"
            )
            if len(splits) == 1 and split in ("train", "test"):
                text += ", or test_fraction=0.1 to hold a tenth of it out as 'test'"
            raise ValueError(text)
        rows = source.load(wanted)
    except (ConnectionError, DatasetNotFoundError) as error:
        raise hub_error(path_or_id, error) from error
    except DatasetGenerationError as error:
        raise ValueError(f"{source.text}, split {split!r}, cannot be read: {innermost_cause(error)}") from error
    if streaming and isinstance(rows, datasets.Dataset):
        rows = rows.to_iterable_dataset()
    return rows, hold_out


def hub_source(text: str, name: str | None, streaming: bool, cache_dir: str | None) -> Source:
    """A dataset of the hub."""

    def splits() -> list[str]:
        return list(datasets.get_dataset_split_names(text, name))

    def load(split: str) -> Loaded:
        return datasets.load_dataset(text, name, split=split, streaming=streaming, cache_dir=cache_dir)

    return Source(f"hub dataset {text}", splits, load)


def saved_source(path: Path) -> Source | None:
    """A folder written by `save_to_disk`, or nothing when it is none."""
    text = str(path)
    if (path / "dataset_dict.json").is_file():
        saved_splits = datasets.DatasetDict.load_from_disk(text)
        return Source(text, lambda: [str(split) for split in saved_splits], saved_splits.__getitem__)
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        try:
            saved = datasets.Dataset.load_from_disk(text)
        except IndexError as error:  # how `datasets` says that there is not a single file of rows
            raise ValueError(f"{text} is empty; expected at least one row") from error
        only = str(saved.split) if saved.split is not None else "train"
        return Source(text, lambda: [only], lambda _: saved)
    return None
