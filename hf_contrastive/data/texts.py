"""Texts for language models: loading, a small tokenizer of one's own, blocks of tokens, batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from hf_contrastive.data.schema import missing_column
from hf_contrastive.data.sources import (
    Source,
    files_by_split,
    hub_error,
    hub_source,
    innermost_cause,
    parquet_source,
    saved_source,
    split_of_stem,
    split_rank,
)


_TEXT_NAMES = ("text", "content", "document", "sentence")
_TABLES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
_END, _PAD = "<|endoftext|>", "<|pad|>"
# of the built-in texts, the last tenth is for measuring
_TOPICS_TEST = 0.1


def load_texts(
    path_or_id: str | Path,
    *,
    split: str = "train",
    name: str | None = None,
    text_column: str | None = None,
    test_fraction: float | None = None,
    max_samples: int | None = None,
    cache_dir: str | None = None,
) -> datasets.Dataset:
    """Loads texts from wherever they are as a `datasets.Dataset` with the columns `text` and `index`.

    Args:
        path_or_id: one of
            - `"topics"`: the chapters on the language that Python carries for its own `help()` (English, 0.46 million
              characters; the last tenth is the split `test`);
            - a `.txt` file (one text), or a folder of those (`train*.txt`, `valid*.txt`, `test*.txt` are splits);
            - a `.parquet`, `.jsonl`, `.json` or `.csv` file, or a folder of those;
            - a folder written by `save_to_disk`;
            - the id of a dataset on the hub, such as `"Salesforce/wikitext"`.
        split (`str`): name of the split.
        name (`str`, *optional*): configuration of a hub dataset, such as `"wikitext-103-raw-v1"`.
        text_column (`str`, *optional*): the column of the texts; found by itself where there is no doubt.
        test_fraction (`float`, *optional*): where the data has a single split, its last part (that share of the characters,
            cut at the end of a line) is `"test"`, and the rest `"train"`. The end and not a random part: neighbouring lines
            know of each other.
        max_samples (`int`, *optional*): at most so many texts, the first ones.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        `datasets.Dataset`: `text` and `index` (`int64`, row number); empty texts are left out.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a split or column that is missing (the found ones are listed), or no text at all.

    Example:

    ```python
    >>> from hf_contrastive.data import load_texts
    >>> topics = load_texts("topics", split="test")
    >>> topics.column_names
    ['text', 'index']

    ```
    """
    if test_fraction is not None and not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction!r}")
    if max_samples is not None and (isinstance(max_samples, bool) or max_samples < 1):
        raise ValueError(f"max_samples must be at least 1, got {max_samples!r}")
    source = _source(path_or_id, name, cache_dir)
    try:
        splits = source.splits()
        hold_out = (
            test_fraction is not None and len(splits) == 1 and "test" not in splits and split in (*splits, "test")
        )
        wanted = splits[0] if hold_out else split
        if wanted not in splits:
            text = (
                f"split {split!r} not found; {source.text} has {', '.join(splits) or 'none'}; pass split= one of them"
            )
            if len(splits) == 1 and split == "test":
                text += ", or test_fraction=0.1 to hold a tenth of it out"
            raise ValueError(text)
        rows: Any = source.load(wanted)
    except (ConnectionError, DatasetNotFoundError) as error:
        raise hub_error(path_or_id, error) from error
    except DatasetGenerationError as error:
        raise ValueError(f"{source.text}, split {split!r}, cannot be read: {innermost_cause(error)}") from error
    column = _text_column(rows, text_column, source.text)
    rows = rows.select_columns([column])
    if column != "text":
        rows = rows.rename_column(column, "text")
    rows = rows.filter(_is_not_empty)
    if hold_out:
        assert test_fraction is not None
        first, last = cut_texts(rows["text"], test_fraction)
        rows = datasets.Dataset.from_dict({"text": last if split == "test" else first}).filter(_is_not_empty)
    if len(rows) == 0:
        raise ValueError(f"split {split!r} of {source.text} has no text; expected at least one")
    if max_samples is not None:
        rows = rows.select(range(min(max_samples, len(rows))))
    return rows.add_column("index", np.arange(len(rows), dtype=np.int64))


def list_text_splits(path_or_id: str | Path, *, name: str | None = None) -> list[str]:
    """Names of the splits a source of texts has; arguments as for [`load_texts`].

    Example:

    ```python
    >>> from hf_contrastive.data import list_text_splits
    >>> list_text_splits("topics")
    ['train', 'test']

    ```
    """
    return sorted(_source(path_or_id, name, None).splits(), key=split_rank)


def _is_not_empty(row: dict[str, Any]) -> bool:
    return bool(row["text"] and row["text"].strip())


def _source(path_or_id: str | Path, name: str | None, cache_dir: str | None) -> Source:
    text = str(path_or_id)
    if text == "topics":
        return Source("Python's help topics", lambda: ["train", "test"], _topics)
    path = Path(text).expanduser()
    if path.is_file():
        return _files(text, {split_of_stem(path.stem) or "train": [path]}, cache_dir)
    if path.is_dir():
        saved = saved_source(path)
        if saved is not None:
            return saved
        for suffix in (*_TABLES, ".txt"):
            for folder in (path, path / "data"):
                files = sorted(folder.glob(f"*{suffix}")) if folder.is_dir() else []
                if files:
                    return _files(text, files_by_split(files), cache_dir)
        raise ValueError(f"no texts in {text}: expected {', '.join(_TABLES)} or .txt files, or a save_to_disk folder")
    if isinstance(path_or_id, Path) or text.startswith((".", "/", "~", "\\")) or path.suffix in (*_TABLES, ".txt"):
        raise FileNotFoundError(
            f"{text} does not exist; pass 'topics', a .txt, .jsonl, .csv or .parquet file, a folder of those, or a hub id "
            "such as 'Salesforce/wikitext'"
        )
    return hub_source(text, name, False, cache_dir)


def _files(text: str, files: dict[str, list[Path]], cache_dir: str | None) -> Source:
    suffix = next(iter(files.values()))[0].suffix
    if suffix == ".parquet":
        return parquet_source(text, files, False, cache_dir)

    def load(split: str) -> datasets.Dataset:
        names = files[split]
        if suffix == ".txt":
            return datasets.Dataset.from_dict({"text": [_read(file) for file in names]})
        found = datasets.load_dataset(
            _TABLES[suffix], data_files={split: [str(file) for file in names]}, split=split, cache_dir=cache_dir
        )
        assert isinstance(found, datasets.Dataset)
        return found

    if suffix not in (*_TABLES, ".txt"):
        raise ValueError(f"file {text} is no {', '.join(_TABLES)} or .txt file; convert it to one of these")
    return Source(text, lambda: list(files), load)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error}; convert it first") from error


def _topics(split: str) -> datasets.Dataset:
    from pydoc_data import topics

    texts = [topics.topics[key] for key in sorted(topics.topics)]
    return datasets.Dataset.from_dict({"text": cut_texts(texts, _TOPICS_TEST)[split == "test"]})


def cut_texts(texts: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Cuts a list of texts in two: the last `fraction` of all characters is the second part.

    The text in which the cut falls is cut at the end of a line; one of a single line goes to the first part.

    Args:
        texts (`Sequence[str]`): in order.
        fraction (`float`): share of the second part, between 0 and 1.

    Returns:
        `(first, second)`: lists of texts.

    Example:

    ```python
    >>> from hf_contrastive.data.texts import cut_texts
    >>> cut_texts(["one line\\n" * 4], 0.5)
    (['one line\\none line\\n'], ['one line\\none line\\n'])

    ```
    """
    texts = list(texts)
    left = round((1 - fraction) * sum(map(len, texts)))
    for number, text in enumerate(texts):
        if left < len(text):
            place = text.rfind("\n", 0, left) + 1 if left else 0
            if left and not place:
                place = text.find("\n", left) + 1 or len(text)
            return [*texts[:number], text[:place]], [text[place:], *texts[number + 1 :]]
        left -= len(text)
    return texts, []


def _text_column(rows: Any, wanted: str | None, text: str) -> str:
    names = list(rows.column_names)
    if wanted is not None:
        if wanted not in names:
            raise ValueError(missing_column(wanted, names, "text_column"))
        return wanted
    strings = [n for n in names if getattr(rows.features[n], "dtype", None) in ("string", "large_string")]
    for name in _TEXT_NAMES:
        if name in strings:
            return name
    if len(strings) == 1:
        return strings[0]
    raise ValueError(
        f"cannot tell which column of {text} holds the texts: it has {', '.join(names)}; pass text_column= its name"
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int | None = None) -> Any:
    """A byte-level BPE tokenizer (as GPT-2's, https://github.com/openai/gpt-2) learned from texts, for small models.

    Args:
        texts (iterable of `str`): what to learn from.
        vocab_size (`int`): tokens, with the 256 bytes, end of text and padding among them; 260 or more.
        max_length (`int`, *optional*): the longest input of the model it is for.

    Returns:
        `PreTrainedTokenizerFast` with `eos_token` and `bos_token` `<|endoftext|>`, and a `pad_token` of its own.

    Raises:
        ValueError: a vocabulary that does not hold the bytes.

    Example:

    ```python
    >>> from hf_contrastive.data import train_tokenizer
    >>> tokenizer = train_tokenizer(["to be, or not to be"], 300)
    >>> tokenizer.decode(tokenizer("not to be")["input_ids"])
    'not to be'

    ```
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 260:
        raise ValueError(
            f"`vocab_size` is {vocab_size}, but it must be 260 or more: 256 bytes, two special tokens, merges."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END, _PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    options: dict[str, Any] = {} if max_length is None else {"model_max_length": max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_END, bos_token=_END, pad_token=_PAD, **options
    )


class _Blocks:
    """Tokenises a batch of texts, joins them and cuts them; an object, so that `datasets` can name its cache by it."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        end = self.tokenizer.eos_token_id
        encoded = self.tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]
        ids: list[int] = []
        for one in encoded:
            ids += one if end is None else [*one, end]
        blocks = [ids[start : start + self.length] for start in range(0, len(ids), self.length)]
        return {"input_ids": [block for block in blocks if len(block) > 1]}


def token_blocks(texts: datasets.Dataset, tokenizer: Any, length: int) -> datasets.Dataset:
    """Texts as blocks of tokens for training: joined with the end-of-text token between them, and cut.

    Args:
        texts (`datasets.Dataset`): with a column `text`.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        length (`int`): tokens of a block, 2 or more; the last one of every 1000 texts is shorter.

    Returns:
        `datasets.Dataset` with the column `input_ids`.

    Raises:
        ValueError: a length below 2.
    """
    if length < 2:
        raise ValueError(f"`length` is {length}, but a block needs 2 tokens or more.")
    return texts.map(
        _Blocks(tokenizer, length),
        batched=True,
        batch_size=1000,
        remove_columns=texts.column_names,
        keep_in_memory=len(texts) < 10_000,
    )


class TextCollator:
    """Rows of tokens to a batch, padded on the right.

    Args:
        pad_token_id (`int`): fills up; where it stands for padding, `attention_mask` is 0 and `labels` are -100. A real
            token of that id stays one.

    Example:

    ```python
    >>> from hf_contrastive.data import TextCollator
    >>> TextCollator(pad_token_id=0)([{"input_ids": [5, 6, 7]}, {"input_ids": [8, 0]}])["labels"].tolist()
    [[5, 6, 7], [8, 0, -100]]

    ```
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `labels`, each `[batch, longest]`."""
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), self.pad_token_id)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            tokens = torch.as_tensor(row["input_ids"])
            ids[number, : len(tokens)], mask[number, : len(tokens)] = tokens, 1
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


__all__ = ["TextCollator", "cut_texts", "list_text_splits", "load_texts", "token_blocks", "train_tokenizer"]
