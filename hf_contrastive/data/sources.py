"""Where rows come from, whatever they hold: splits by file names, parquet files, saved folders, the hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets


Loaded = datasets.Dataset | datasets.IterableDataset

SPLIT_ALIASES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_ALIASES |= {"validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}


def split_of_stem(stem: str) -> str | None:
    """`train`, `train-00000-of-00002`, `cifar_test` ... -> the split's name."""
    words = stem.lower().replace("-", "_").replace(".", "_").split("_")
    for word in (words[0], words[-1]):
        if word in SPLIT_ALIASES:
            return SPLIT_ALIASES[word]
    return None


def files_by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files grouped by the split that their names say; files whose names say none are all `train`."""
    named: dict[str, list[Path]] = {}
    for file in sorted(files):
        named.setdefault(split_of_stem(file.stem) or "", []).append(file)
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
