"""Images with texts: loading, one text a step, batches for a dual encoder."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from torch import Tensor

from hf_contrastive.data.glyphs import make_glyphs
from hf_contrastive.data.loading import list_columns, list_splits, load_images
from hf_contrastive.data.random_numbers import stateless_uniform
from hf_contrastive.data.schema import column_names_of, integer_column, missing_column
from hf_contrastive.data.shared_epoch import SharedEpoch
from hf_contrastive.data.sources import TABLES, rows_source, split_of_file, table_suffix


_TEXT_NAMES = ("text", "texts", "caption", "captions", "sentence", "sentences", "description", "report", "txt")
_IMAGE_PATH_NAMES = ("image", "image_path", "path", "file_name", "filename", "img", "Path")
# what ends a sentence, when white space or the end of the text follows; a point inside 0.5 or e.g. a name does not
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w+")
#: the view number of the draw of a text, beside those of image views
_TEXT_VIEW = 1 << 20


def split_sentences(text: str, min_words: int = 3) -> list[str]:
    """Sentences of a text: cut after `.`, `!`, `?` and at line ends.

    Args:
        text (`str`): for example a report.
        min_words (`int`, defaults to 3): shorter sentences are left out.

    Returns:
        `list[str]`: the sentences; the whole text where none is long enough; empty for a text without any word.

    Example:

    ```python
    >>> from hf_contrastive.data import split_sentences
    >>> split_sentences("No acute disease. Heart size is 0.5 of the chest. Normal.")
    ['No acute disease.', 'Heart size is 0.5 of the chest.']

    ```
    """
    text = " ".join(text.split()) if "\n" not in text else text
    found = [" ".join(part.split()) for part in _SENTENCE_END.split(text)]
    kept = [part for part in found if len(_WORD.findall(part)) >= min_words]
    whole = " ".join(text.split())
    return kept or ([whole] if _WORD.search(whole) else [])


def load_image_texts(
    path_or_id: str | Path | Sequence[str | Path],
    *,
    split: str = "train",
    name: str | None = None,
    image_column: str | None = None,
    text_columns: Sequence[str] | str | None = None,
    label_column: str | None = None,
    sentences: bool = False,
    replace: Mapping[str, str] | None = None,
    keep_columns: Sequence[str] = (),
    on_bad: Literal["stop", "skip"] = "skip",
    max_samples: int | None = None,
    test_fraction: float | None = None,
    every: int | None = None,
    seed: int = 0,
    cache_dir: str | None = None,
) -> datasets.Dataset:
    """Loads images with one or several texts each, with the columns `image`, `texts`, `label` (where there is one) and `index`.

    Args:
        path_or_id: one of
            - `"glyphs"`: drawn letters and digits with captions, made by this library (1,536 train, 384 test);
            - a `.csv` or `.jsonl` file with a column of image paths (relative to the file) and of texts;
            - what [`load_images`] takes: a folder of images with `metadata.jsonl`, `.parquet` files, a `save_to_disk` folder,
              the id of a dataset on the hub, such as `"jxie/flickr8k"`.
        split (`str`): name of the split.
        name (`str`, *optional*): configuration of a hub dataset.
        image_column (`str`, *optional*): the column of the images, or of their paths; found by itself where there is no doubt.
        text_columns (`str` or list, *optional*): columns of the texts; each holds a text or a list of texts, all of which belong to
            the image. Found by itself under the usual names (`text`, `caption`, `captions`, ...).
        label_column (`str`, *optional*): the column of the labels, used only to measure.
        sentences (`bool`): cut every text into sentences, as ConVIRT trains on; see [`split_sentences`].
        replace (`Mapping[str, str]`, *optional*): what is put in place of what in every text, for example `{"_": " "}`.
        keep_columns (`Sequence[str]`): further columns to hand on.
        on_bad (`str`): what happens to a row without a readable image or without a text: `"skip"` leaves it out with a warning
            that counts, `"stop"` raises at the first.
        max_samples (`int`, *optional*): at most that many rows, drawn with `seed`.
        test_fraction (`float`, *optional*): where the data has a single split, hold this share out as `"test"`, drawn with `seed`.
        every (`int`, *optional*): instead of a share: row numbers divisible by it are `"test"`, the others `"train"`.
        seed (`int`): seed of the draws.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        `datasets.Dataset`: `image`, `texts` (list of `str`), `label` (where there is one), `index`.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: a split or column that is missing (the found ones are listed), or nothing left.

    Example:

    ```python
    >>> from hf_contrastive.data import load_image_texts
    >>> glyphs = load_image_texts("glyphs", split="test")
    >>> glyphs.column_names, glyphs[0]["image"].size
    (['image', 'texts', 'label', 'index'], (32, 32))

    ```
    """
    if on_bad not in ("stop", "skip"):
        raise ValueError(f"on_bad must be 'stop' or 'skip', got {on_bad!r}")
    if every is not None and (every < 2 or test_fraction is not None):
        raise ValueError(
            f"every={every!r} holds out the row numbers that it divides: give 2 or more, and no test_fraction beside it"
        )
    if path_or_id == "glyphs":
        rows, text_columns = make_glyphs(split), "texts"
    else:
        options: dict[str, Any] = {
            "split": "train" if every is not None else split,
            "name": name,
            "keep_columns": keep_columns,
            "label_column": label_column,
            "test_fraction": test_fraction,
            "seed": seed,
            "cache_dir": cache_dir,
        }
        rows, text_columns = _load_rows(path_or_id, image_column, text_columns, on_bad, options)
    if every is not None:
        held = np.arange(len(rows)) % every == 0
        if split not in ("train", "test"):
            raise ValueError(f"split {split!r} not found; every={every} makes 'train' and 'test'")
        rows = rows.select(np.flatnonzero(held if split == "test" else ~held))
    columns = [text_columns] if isinstance(text_columns, str) else list(text_columns)
    rows = _join_texts(rows, columns, keep_columns, sentences, replace or {}, on_bad)
    if max_samples is not None and max_samples < len(rows):
        rows = rows.select(np.sort(np.random.RandomState(seed).permutation(len(rows))[:max_samples]))
    rows = rows.remove_columns([column for column in ("index",) if column in rows.column_names])
    return rows.add_column("index", np.arange(len(rows), dtype=np.int64))


def list_image_text_splits(path_or_id: Any, *, name: str | None = None) -> list[str]:
    """Names of the splits a source of images with texts has.

    Args:
        path_or_id: as for [`load_image_texts`].
        name (`str`, *optional*): configuration of a hub dataset.
    """
    if path_or_id == "glyphs":
        return ["train", "test"]
    table = _table_file(path_or_id)
    if table is not None:
        return [split_of_file(table) or "train"]
    return list_splits(path_or_id, name=name)


def _table_file(path_or_id: Any) -> Path | None:
    if not isinstance(path_or_id, (str, Path)):
        return None
    path = Path(path_or_id).expanduser()
    suffix = table_suffix(path)
    return path if path.is_file() and suffix is not None and TABLES[suffix] != "parquet" else None


def _load_rows(
    path_or_id: Any,
    image_column: str | None,
    text_columns: Sequence[str] | str | None,
    on_bad: Literal["stop", "skip"],
    options: dict[str, Any],
) -> tuple[datasets.Dataset, Sequence[str] | str]:
    """Rows with `image`, the columns of texts and what else is kept, and the names of the columns of texts."""
    table = _table_file(path_or_id)
    if table is not None:
        rows: Any = rows_source(str(table), None, False, options["cache_dir"], {}).load(
            split_of_file(table) or "train"
        )
        found = column_names_of(rows)
        image_column = image_column or next((column for column in _IMAGE_PATH_NAMES if column in found), None)
        if image_column is None or image_column not in found:
            raise ValueError(missing_column(image_column or "image", found, "image_column", str(table)))
        folder = table.parent
        paths = [None if not path else str(folder / path) for path in rows[image_column][:]]
        absent = [row for row, path in enumerate(paths) if path is None or not Path(path).is_file()]
        if absent:
            first = paths[absent[0]]
            what = (
                f"{len(absent)} of {len(paths)} images of {table} are not there, the first in row {absent[0]}: {first}"
            )
            if on_bad == "stop" or len(absent) == len(paths):
                raise ValueError(f"{what}; mend the paths (they are relative to the file), or pass on_bad='skip'")
            warnings.warn(f"left out: {what}", stacklevel=3)
        rows = rows.remove_columns([image_column]).add_column("image", [path or "" for path in paths])
        rows = rows.select(sorted(set(range(len(rows))) - set(absent))).cast_column("image", datasets.Image())
        path_or_id, image_column = rows, "image"
    names = list_columns(path_or_id, split=options["split"], name=options["name"], cache_dir=options["cache_dir"])
    if text_columns is None:
        chosen: Sequence[str] = [column for column in _TEXT_NAMES if column in names][:1]
        if not chosen:
            raise ValueError(missing_column("text", names, "text_columns"))
    else:
        chosen = [text_columns] if isinstance(text_columns, str) else list(text_columns)
        for column in chosen:
            if column not in names:
                raise ValueError(missing_column(column, names, "text_columns"))
    kept = [column for column in dict.fromkeys([*options.pop("keep_columns"), *chosen]) if column != "label"]
    rows = load_images(
        path_or_id,
        image_column=image_column,
        keep_columns=kept,
        on_unreadable=on_bad,
        **options,
    )
    assert isinstance(rows, datasets.Dataset)
    return rows, chosen


def _join_texts(
    rows: datasets.Dataset,
    columns: list[str],
    keep: Sequence[str],
    sentences: bool,
    replace: Mapping[str, str],
    on_bad: str,
) -> datasets.Dataset:
    """One list of clean texts a row; rows without any are left out, and counted."""
    values = [rows.with_format(None)[column][:] for column in columns]
    joined: list[list[str]] = []
    empty: list[int] = []
    for row, parts in enumerate(zip(*values, strict=True)):
        texts: list[str] = []
        for text in (one for part in parts for one in ([part] if isinstance(part, str) or part is None else part)):
            clean = str(text or "")
            for old, new in replace.items():
                clean = clean.replace(old, new)
            # line ends tell sentences apart
            texts += split_sentences(clean) if sentences else [" ".join(clean.split())]
        texts = [text for text in dict.fromkeys(texts) if text]
        joined.append(texts)
        if not texts:
            empty.append(row)
    if empty:
        what = f"{len(empty)} of {len(joined)} rows have no text in {', '.join(columns)}, the first is row {empty[0]}"
        if on_bad == "stop" or len(empty) == len(joined):
            raise ValueError(f"{what}; mend or remove them" + ("" if on_bad == "stop" else "; nothing is left"))
        warnings.warn(f"left out: {what}", stacklevel=3)
    drop = [column for column in rows.column_names if column in columns and column not in keep]
    rows = rows.remove_columns(drop)
    rows = rows.add_column("texts", joined, feature=datasets.List(datasets.Value("string")))
    if empty:
        bad = set(empty)
        rows = rows.select([row for row in range(len(rows)) if row not in bad])
    order = ["image", "texts", *[column for column in rows.column_names if column not in ("image", "texts")]]
    return rows.select_columns(order)


def text_ids(texts: Sequence[str]) -> Tensor:
    """One id for each distinct text, the same in every batch and process: 63 bits of a hash, capitals and spaces aside.

    Args:
        texts (`Sequence[str]`): texts.

    Returns:
        `LongTensor` `[texts]`.

    Example:

    ```python
    >>> from hf_contrastive.data.image_texts import text_ids
    >>> ids = text_ids(["A cat", "a  cat", "a dog"])
    >>> bool(ids[0] == ids[1]), bool(ids[0] == ids[2])
    (True, False)

    ```
    """
    digests = [hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest() for text in texts]
    return torch.tensor([int.from_bytes(digest, "little") >> 1 for digest in digests], dtype=torch.int64)


def duplicate_texts(texts: Sequence[Sequence[str]]) -> int:
    """Rows that share a text with an earlier row.

    Args:
        texts (`Sequence[Sequence[str]]`): the texts of every row.
    """
    counts = Counter(id for row in texts for id in set(text_ids(row).tolist()))
    seen: set[int] = set()
    repeated = 0
    for row in texts:
        ids = {id for id in text_ids(row).tolist() if counts[id] > 1}
        repeated += bool(ids & seen)
        seen |= ids
    return repeated


class ImageTextCollator(SharedEpoch):
    """Makes a batch of pairs for training: one random view of every image, one of its texts, drawn anew each epoch.

    The draws have no state: they depend on `seed`, the epoch and the row's `index` alone.

    Args:
        views (callable): `views(images, indices, epoch) -> Tensor [B, 1, C, H, W]`, for example `SimCLRViews(num_views=1)`.
        processor: with `tokenize(texts)`, for example [`DualEncoderProcessor`].
        mask_duplicates (`bool`, defaults to `True`): give pairs of one text the same `sample_ids`, so that they are not each
            other's negatives.
        corrupt (callable, *optional*): `corrupt(text, rng) -> str`, noise on the drawn text; `rng` is a `numpy` generator.
        sample_id_column (`str`, *optional*): integer column that becomes `sample_ids` instead.
        seed (`int`, defaults to 0): of the draws of texts.

    Returns (when called with a list of rows):
        `dict[str, Tensor]`: `pixel_values` `[B, C, H, W]`, `input_ids`, `attention_mask` `[B, tokens]`, `sample_ids` and `index` `[B]`.

    Example:

    ```python
    >>> from hf_contrastive import DualEncoderProcessor
    >>> from hf_contrastive.data import ImageTextCollator, SimCLRViews, image_processor, load_image_texts, train_word_tokenizer
    >>> glyphs = load_image_texts("glyphs")
    >>> tokenizer = train_word_tokenizer(text for texts in glyphs["texts"] for text in texts)
    >>> collator = ImageTextCollator(SimCLRViews(32, num_views=1), DualEncoderProcessor(image_processor(32), tokenizer))
    >>> batch = collator([glyphs[0], glyphs[1]])
    >>> batch["pixel_values"].shape, len(batch["input_ids"])
    (torch.Size([2, 3, 32, 32]), 2)

    ```
    """

    def __init__(
        self,
        views: Callable[..., Tensor],
        processor: Any,
        *,
        mask_duplicates: bool = True,
        corrupt: Callable[[str, np.random.Generator], str] | None = None,
        sample_id_column: str | None = None,
        seed: int = 0,
    ) -> None:
        self.views, self.processor, self.seed = views, processor, seed
        self.mask_duplicates, self.corrupt, self.sample_id_column = mask_duplicates, corrupt, sample_id_column
        super().__init__()

    def draw_texts(self, examples: Sequence[Mapping[str, Any]]) -> list[str]:
        """One text of every row, with its noise.

        Args:
            examples (`Sequence[Mapping]`): rows with `texts` and `index`.
        """
        index = integer_column([row["index"] for row in examples], "index")
        draws = stateless_uniform(self.seed, self.epoch, index, np.full(len(index), _TEXT_VIEW), 2)
        texts = [row["texts"][int(u * len(row["texts"]))] for row, u in zip(examples, draws[:, 0], strict=True)]
        if self.corrupt is None:
            return texts
        seeds = (draws[:, 1] * 2**53).astype(np.int64)
        made = [self.corrupt(text, np.random.default_rng(seed)) for text, seed in zip(texts, seeds, strict=True)]
        # a text of which nothing is left would have no embedding
        return [new if new.strip() else old for new, old in zip(made, texts, strict=True)]

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if len(examples) == 0:
            raise ValueError("the batch is empty; expected at least one row")
        for column in ("image", "texts", "index"):
            if column not in examples[0]:
                raise ValueError(missing_column(column, examples[0], None, "the row"))
        index = integer_column([row["index"] for row in examples], "index")
        texts = self.draw_texts(examples)
        batch = {"pixel_values": self.views([row["image"] for row in examples], index, self.epoch)[:, 0]}
        batch.update(self.processor.tokenize(texts))
        batch["index"] = torch.from_numpy(index)
        if self.sample_id_column is not None:
            ids = [row[self.sample_id_column] for row in examples]
            batch["sample_ids"] = torch.from_numpy(integer_column(ids, self.sample_id_column))
        elif self.mask_duplicates:
            batch["sample_ids"] = text_ids(texts)
        return batch


class PairEvalCollator:
    """Makes a batch of pairs for measuring: the image as the processor makes it, and the row's first text.

    Args:
        transform (callable): `transform(images, rows) -> Tensor [B, C, H, W]`, for example [`ProcessorTransform`].
        processor: with `tokenize(texts)`, for example [`DualEncoderProcessor`].

    Returns (when called with a list of rows):
        `dict[str, Tensor]`: `pixel_values`, `input_ids`, `attention_mask`, `index`, `sample_ids` (one for each distinct text),
        and `label` where the rows have one.
    """

    def __init__(self, transform: Callable[..., Tensor], processor: Any) -> None:
        self.transform, self.processor = transform, processor

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if len(examples) == 0:
            raise ValueError("the batch is empty; expected at least one row")
        index = integer_column([row["index"] for row in examples], "index")
        batch = {"pixel_values": self.transform([row["image"] for row in examples], index)}
        texts = [row["texts"][0] for row in examples]
        batch.update(self.processor.tokenize(texts))
        batch["index"], batch["sample_ids"] = torch.from_numpy(index), text_ids(texts)
        if "label" in examples[0]:
            batch["label"] = torch.from_numpy(integer_column([row["label"] for row in examples], "label"))
        return batch


__all__ = [
    "ImageTextCollator",
    "PairEvalCollator",
    "duplicate_texts",
    "list_image_text_splits",
    "load_image_texts",
    "split_sentences",
    "text_ids",
]
