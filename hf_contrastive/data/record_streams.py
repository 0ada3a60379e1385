"""Streams of images with texts, with images as they are stored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from hf_contrastive.data.loading import _source as source_of_images
from hf_contrastive.data.sources import TABLES, rows_source, table_suffix


def open_records(
    path_or_id: str | Path, *, split: str = "train", name: str | None = None, image_column: str = "image"
) -> datasets.IterableDataset:
    """Images with texts as a stream, from wherever they are, with images as they are stored.

    Args:
        path_or_id (`str` or `Path`): a `.csv` or `.jsonl` file of image paths (relative to it) and texts, or what [`load_images`] takes: a
            folder of images with `metadata.jsonl`, `.parquet` or `.tar` files, the id of a dataset on the hub.
        split (`str`, defaults to `"train"`): name of the split.
        name (`str`, *optional*): configuration of a hub dataset.
        image_column (`str`, defaults to `"image"`): column of the images or paths.

    Returns:
        `datasets.IterableDataset`.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a split that is missing.
    """
    file = Path(path_or_id).expanduser()
    suffix = table_suffix(file) if file.is_file() else None
    if suffix is not None and TABLES[suffix] != "parquet":
        source = rows_source(str(file), None, True, None, {})
        split = split if split in source.splits() else source.splits()[0]
    else:
        source = source_of_images(path_or_id, name, True, image_column, None, None)
    if split not in source.splits():
        raise ValueError(
            f"split {split!r} not found; {source.text} has {', '.join(source.splits())}; pass one of them"
        )
    records: Any = source.load(split)
    if isinstance(records, datasets.Dataset):
        records = records.to_iterable_dataset()
    if isinstance((records.features or {}).get(image_column), datasets.Image):
        records = records.cast_column(image_column, datasets.Image(decode=False))
    return records


def records_from(records: Any, image_column: str, first: int) -> Iterator[Mapping[str, Any]]:
    """Records from number `first` on, with images as they are stored.

    Args:
        records: a `datasets.Dataset`, a stream, or a list.
        image_column (`str`): column of the images.
        first (`int`): records that are passed over.
    """
    features = getattr(records, "features", None) or {}
    if isinstance(features.get(image_column), datasets.Image):
        records = records.cast_column(image_column, datasets.Image(decode=False))
    if isinstance(records, datasets.IterableDataset):
        return iter(records.skip(first) if first else records)
    if isinstance(records, datasets.Dataset):
        return iter(records.select(range(min(first, len(records)), len(records))))
    return itertools.islice(iter(records), first, None)


__all__ = ["open_records", "records_from"]
