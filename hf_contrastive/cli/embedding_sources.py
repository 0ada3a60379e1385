"""What `hf-contrastive embed` embeds: images, or the texts of a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_contrastive.cli.checkpoints import Encoder, encode_batches, rows_digest
from hf_contrastive.cli.common import CliError, WrongUsage, quiet_libraries


@dataclass
class ImageSource:
    """Rows with images.

    Args:
        encoder (`Encoder`): the loaded checkpoint.
        rows (`datasets.Dataset`): with `image` and `index`.
        options (`dict`): of `encode_batches`.
    """

    encoder: Encoder
    rows: Any
    options: dict[str, Any]
    kind: str = "image processor"

    def digest(self) -> str:
        """A short hash of the rows."""
        return rows_digest(self.rows)

    def preparation(self) -> Any:
        """How inputs are made, for the record of unfinished work."""
        return json.loads(self.encoder.processor.to_json_string())

    def encode(self, piece: Any, advance: Callable[[int], None]) -> np.ndarray:
        """Embeddings `[rows, dim]` of a piece of the rows."""
        return encode_batches(self.encoder, piece, advance=advance, **self.options)


@dataclass
class TextSource:
    """Rows with texts.

    Args:
        encoder (`Encoder`): the loaded checkpoint, with a text encoder.
        rows (`datasets.Dataset`): with `text` and `index`.
        processor: its tokenizer and image processor.
        options (`dict`): of `encode_texts`.
    """

    encoder: Encoder
    rows: Any
    processor: Any
    options: dict[str, Any]
    kind: str = "tokenizer"

    def digest(self) -> str:
        """A short hash of all texts."""
        digest = hashlib.blake2b(digest_size=16)
        for text in self.rows["text"][:]:
            digest.update(text.encode() + b"\n")
        return digest.hexdigest()

    def preparation(self) -> Any:
        """How inputs are made, for the record of unfinished work."""
        tokenizer = self.processor.tokenizer
        words = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
        return {
            "vocabulary": hashlib.blake2b(words, digest_size=16).hexdigest(),
            "max_length": tokenizer.model_max_length,
        }

    def encode(self, piece: Any, advance: Callable[[int], None]) -> np.ndarray:
        """Embeddings `[rows, dim]` of a piece of the rows."""
        from hf_contrastive.families.dual_encoder.text_encoding import encode_texts

        embeds = encode_texts(
            self.encoder.model, piece["text"][:], self.processor, advance=advance, **self.options
        ).numpy()
        bad = np.flatnonzero(~np.isfinite(embeds).all(axis=1))
        if len(bad):
            raise CliError(
                f"{len(bad)} of {len(embeds)} embeddings hold NaN or infinity; the training of {self.encoder.name} diverged. "
                "Take an earlier checkpoint."
            )
        return embeds


def text_source(
    encoder: Encoder,
    checkpoint: str,
    dataset: str,
    column: str,
    *,
    split: str,
    name: str | None,
    keep: list[str],
    on_bad: str,
    max_samples: int | None,
    options: dict[str, Any],
) -> TextSource:
    """The texts of a table, and what turns them into inputs.

    Args:
        encoder (`Encoder`): the loaded checkpoint.
        checkpoint (`str`): as typed; the tokenizer lies beside the weights.
        dataset (`str`): .csv, .jsonl, .parquet, a folder of those, or a hub id.
        column (`str`): column of the texts.
        split (`str`), name (`str`, *optional*): of the dataset.
        keep (`list[str]`): further columns to copy.
        on_bad (`str`): `"stop"` or `"skip"` at a row without text.
        max_samples (`int`, *optional*): at most that many rows, drawn with a fixed seed.
        options (`dict`): of `encode_texts`.

    Raises:
        CliError: a checkpoint without a text encoder or tokenizer, a column that is missing, a row without text.
    """
    from transformers import AutoTokenizer

    from hf_contrastive.families.dual_encoder.modeling_dual_encoder import DualEncoderModel
    from hf_contrastive.families.dual_encoder.processing_dual_encoder import DualEncoderProcessor

    if not isinstance(encoder.model, DualEncoderModel):
        lacks = "has no text encoder"
        if hasattr(encoder.model, "text_model"):
            lacks = "has no space of its own for texts: it makes one vector of picture and text"
        raise CliError(
            f"{encoder.name} is a {type(encoder.model).__name__}, which {lacks}; leave out --text-column to embed images."
        )
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise CliError(
            f"{checkpoint} has no readable tokenizer ({error}); the recipes save it beside the weights."
        ) from error
    rows = text_rows(dataset, column, split=split, name=name, keep=keep, on_bad=on_bad, max_samples=max_samples)
    return TextSource(encoder, rows, DualEncoderProcessor(encoder.processor, tokenizer), options)


def text_rows(
    dataset: str, column: str, *, split: str, name: str | None, keep: list[str], on_bad: str, max_samples: int | None
) -> Any:
    """Rows of a table with `text`, `index` and the columns of `keep`.

    Args: as [`text_source`].

    Raises:
        CliError: a source, split or column that is not there; a row without text.
    """
    from hf_contrastive.data.schema import column_names_of, missing_column
    from hf_contrastive.data.sources import load_split, rows_source

    try:
        with quiet_libraries():
            loaded, _ = load_split(
                dataset, rows_source(dataset, name, False, None, {}), split, None, False, any_name=True
            )
    except (ValueError, FileNotFoundError) as error:
        raise CliError(str(error)) from error
    rows: Any = loaded
    found = column_names_of(rows)
    for wanted, option in ((column, "--text-column"), *((one, "--columns") for one in keep)):
        if wanted not in found:
            raise CliError(missing_column(wanted, found, None, dataset) + f"; type {option} with one of them.")
    rows = rows.select_columns([column, *(one for one in keep if one != column)])
    if column != "text":
        if "text" in rows.column_names:
            raise WrongUsage("--columns names 'text', which is what the embedded column is called; leave it out.")
        rows = rows.rename_column(column, "text")
    good = [row for row, text in enumerate(rows["text"][:]) if isinstance(text, str) and text.strip()]
    if len(good) < len(rows):
        bad = next(row for row in range(len(rows)) if row >= len(good) or good[row] != row)
        what = f"{len(rows) - len(good)} of {len(rows)} rows have no text in {column!r}, the first is row {bad}"
        if on_bad == "stop" or not good:
            raise CliError(f"{what}; mend them, or type --on-unreadable skip to leave them out.")
        from hf_contrastive.cli.common import print_note

        print_note(f"left out: {what}")
    rows = rows.select(good)
    if max_samples is not None and max_samples < len(rows):
        rows = rows.select(np.sort(np.random.RandomState(0).permutation(len(rows))[:max_samples]))
    rows = rows.remove_columns([one for one in rows.column_names if one == "index"])
    return rows.add_column("index", np.arange(len(rows), dtype=np.int64))


__all__ = ["ImageSource", "TextSource", "text_rows", "text_source"]
