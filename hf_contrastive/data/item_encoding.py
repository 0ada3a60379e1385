"""Features of items: vectors of any encoder over their texts or images, kept in a cache."""

from __future__ import annotations

import json
import logging
import os
import string
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from hf_contrastive.data.frozen_encoder import (
    POOLINGS,
    embed_batch,
    in_batches,
    open_encoder,
    pad_rows,
    token_limit,
    tokenize,
)
from hf_contrastive.data.images import image_to_array, unreadable_name
from hf_contrastive.data.processors import ProcessorTransform
from hf_contrastive.data.schema import require_columns
from hf_contrastive.data.vector_cache import Fingerprint, cache_file, read_vectors, write_vectors
from hf_contrastive.utils import evaluation_mode


logger = logging.getLogger(__name__)

# part of every key: raise it when vectors come out otherwise, or the file is laid out otherwise
FORMAT = 1


def encode_items(
    table: datasets.Dataset,
    encoder: Any,
    *,
    text_columns: Sequence[str] | None = None,
    image_column: str | None = None,
    template: str | None = None,
    batch_size: int = 64,
    max_length: int | None = None,
    pooling: str = "mean",
    normalize: bool = False,
    image_folder: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    device: Any = None,
) -> np.ndarray:
    """Vectors of items from their texts or their images, by any encoder that `AutoModel` opens.

    The vectors are kept: a second call with the same texts or images, encoder and settings reads them and loads no model.

    Args:
        table (`datasets.Dataset`): row = item, for example of [`load_item_table`].
        encoder (`str`, `Path` or `tuple`): a folder, a hub id (safetensors only, no remote code, float32), or `(model,
            processor)` in memory, which are used as they are. Of models with two towers (CLIP) the one for texts or images
            is read with its projection, of encoder-decoders the encoder, of the systems of this library `encode`.
        text_columns (`list[str]`, *optional*): joined by spaces; lists of words too. All white space becomes single spaces.
        image_column (`str`, *optional*): a `datasets.Image` column, paths, bytes or arrays. Texts or images, not both.
        template (`str`, *optional*): instead of `text_columns`: `"{title}. {genre}"`.
        batch_size (`int`, defaults to 64): rows at a time; does not change the vectors.
        max_length (`int`, *optional*): tokens of a text; by default what tokenizer and model allow. Cut texts are counted in a
            warning.
        pooling (`str`, defaults to `"mean"`): over the tokens (without padding) or places of `last_hidden_state`; `"cls"`, its
            first one; or `"pooler"`, the model's `pooler_output`.
        normalize (`bool`, defaults to `False`): scale every row to length 1.
        image_folder (`str`, *optional*): where relative paths of images start; the working folder by default.
        cache_dir (`str`, *optional*): where vectors are kept; by default with the other assets of Hugging Face libraries
            (`HF_HOME`).
        device (*optional*): a GPU if there is one; a model in memory stays where it is.

    Returns:
        `np.ndarray` `[rows, dim]`, float32. Rows without text or image get the mean of the others (as MMRec does), counted in
        a warning.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: missing columns, no text or image in any row, an image that cannot be read, an encoder that is not of the
            kind asked for or lacks weights, vectors that are not finite.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import BertConfig, BertModel
    >>> from hf_contrastive.data import encode_items, load_item_table, train_tokenizer
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> encoder = BertModel(BertConfig(vocab_size=300, **sizes)), train_tokenizer(["Alien Heat"], 300)
    >>> table = load_item_table([{"item_id": 7, "title": "Alien"}, {"item_id": 5, "title": "Heat"}], ["5", "7"])
    >>> encode_items(table, encoder, text_columns=["title"], cache_dir=tempfile.mkdtemp()).shape
    (2, 8)

    ```
    """
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` is {pooling!r}; expected one of {', '.join(POOLINGS)}")
    for name, value in (("batch_size", batch_size), ("max_length", max_length)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is {value}; expected 1 or more")
    if (image_column is None) == (text_columns is None and template is None):
        raise ValueError("pass `text_columns` or `template` for texts, or `image_column` for images, and not both")
    rows: _Texts | _Images
    if image_column is None:
        rows = _Texts(table, text_columns, template)
    else:
        rows = _Images(table, image_column, image_folder)
    fingerprint = Fingerprint()
    absent = rows.look(fingerprint)
    if absent.all():
        raise ValueError(f"none of the {len(table)} rows has any {rows.what}; name other columns")
    opened = open_encoder(encoder, rows.kind, pooling)
    settings = {"format": FORMAT, "kind": rows.kind, "pooling": pooling, "normalize": normalize}
    if rows.kind == "text":
        settings["max_length"] = max_length
    for part in (json.dumps(settings, sort_keys=True), opened.fingerprint):
        fingerprint.add(part.encode())
    file = cache_file(cache_dir, fingerprint.hexdigest())
    kept = None if file is None else read_vectors(file, len(table))
    if kept is None:
        started = time.time()
        model, processor = opened.load(device)
        with torch.no_grad(), evaluation_mode(model):
            vectors, counts = rows.encode(model, processor, absent, batch_size, max_length, pooling)
        vectors = _fill(vectors, normalize)
        counts["without"] = int(len(table) - counts["encoded"])
        logger.info("%d rows encoded in %.1f s", counts["encoded"], time.time() - started)
        if file is not None:
            write_vectors(file, vectors, counts)
    else:
        vectors, counts = kept
    if counts["without"]:
        warnings.warn(
            f"{counts['without']} of {len(table)} rows have no {rows.what} and got the mean vector of the others",
            stacklevel=2,
        )
    if counts["cut"]:
        warnings.warn(
            f"{counts['cut']} of {counts['encoded']} texts are longer than {counts['limit']} tokens and were cut (max_length)",
            stacklevel=2,
        )
    return vectors


def _fill(vectors: np.ndarray, normalize: bool) -> np.ndarray:
    """Rows of NaN get the mean of the others; every row of length 1 where asked for."""
    without = np.isnan(vectors).all(1)
    if normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if without.all():
        raise ValueError("the tokenizer makes no token of any text; pass the tokenizer of the encoder")
    if without.any():
        mean = vectors[~without].mean(0)
        vectors[without] = mean / max(float(np.linalg.norm(mean)), 1e-12) if normalize else mean
    return np.ascontiguousarray(vectors, dtype=np.float32)


class _Texts:
    """Texts of the rows."""

    kind = "text"

    def __init__(self, table: datasets.Dataset, columns: Sequence[str] | None, template: str | None) -> None:
        if template is None:
            columns = [columns] if isinstance(columns, str) else columns or ()
            self.parts: list[tuple[str, str | None]] = [(" ", name) for name in columns]
        elif columns is None:
            self.parts = _template_parts(template)
        else:
            raise ValueError("pass `text_columns` or `template`, not both: a template names its columns")
        self.columns = list(dict.fromkeys(name for _, name in self.parts if name is not None))
        if not self.columns:
            raise ValueError("no column was named; pass text_columns=['title'] or template='{title}. {genre}'")
        require_columns(table, dict.fromkeys(self.columns, "text_columns" if template is None else "template"))
        self.what = f"text in {', '.join(self.columns)}"
        self.table = table
        self.texts: list[str] = []

    def look(self, fingerprint: Fingerprint) -> np.ndarray:
        """Make the texts, take their fingerprint, and say which rows have none."""
        for batch in self.table.with_format(None).select_columns(self.columns).iter(batch_size=1000):
            for row in range(len(batch[self.columns[0]])):
                words = {name: _words(batch[name][row], name) for name in self.columns}
                text = "".join(literal + (words[name] if name else "") for literal, name in self.parts)
                self.texts.append(" ".join(text.split()) if any(words.values()) else "")
        for text in self.texts:
            fingerprint.add(text.encode())
        return np.asarray([not text for text in self.texts])

    def encode(
        self, model: Any, tokenizer: Any, absent: np.ndarray, batch_size: int, max_length: int | None, pooling: str
    ) -> tuple[np.ndarray, dict[str, int]]:
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if not hasattr(tokenizer, "model_max_length"):
            raise ValueError(f"texts need a tokenizer, got {type(tokenizer).__name__}")
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        towers = hasattr(model, "get_text_features")
        limit = token_limit(model, tokenizer, max_length)
        rows = np.flatnonzero(~absent)
        tokens, cut = tokenize(tokenizer, [self.texts[row] for row in rows], limit, mask=None if towers else True)
        # a text of which nothing is left has no vector
        order = [place for place in range(len(rows)) if tokens[place]["input_ids"]]
        order.sort(key=lambda place: -len(tokens[place]["input_ids"]))
        # some towers for texts (SigLIP) were trained with texts of full length, and see the padding
        width = limit if towers else None

        def embed(places: Sequence[int]) -> Tensor:
            return embed_batch(
                model, pad_rows([tokens[place] for place in places], tokenizer, width), self.kind, pooling
            )

        vectors = in_batches(embed, order, rows, len(absent), batch_size)
        return vectors, {"encoded": len(order), "cut": cut, "limit": limit or 0}


class _Images:
    """Images of the rows, read when they are needed."""

    kind = "image"

    def __init__(self, table: datasets.Dataset, column: str, folder: str | os.PathLike | None) -> None:
        require_columns(table, {column: "image_column"})
        table = table.with_format(None).select_columns([column])
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        self.what = f"image in {column}"
        self.table, self.column = table, column
        self.folder = Path() if folder is None else Path(folder).expanduser()

    def _images(self, rows: Iterable[int]) -> list[Any]:
        return [self._place(image) for image in self.table[list(rows)][self.column]]

    def _place(self, image: Any) -> Any:
        """The image with the place of its file, or `None`."""
        if isinstance(image, dict):
            if image.get("bytes") is not None:
                return image
            image = image.get("path")
        if isinstance(image, (str, Path)):
            return str(self.folder / Path(image).expanduser()) if str(image).strip() else None
        return image

    def look(self, fingerprint: Fingerprint) -> np.ndarray:
        """Take the fingerprint of the images, and say which rows have none."""
        absent = np.zeros(len(self.table), dtype=bool)
        for start in range(0, len(self.table), 100):
            rows = range(start, min(start + 100, len(self.table)))
            for row, image in zip(rows, self._images(rows), strict=True):
                absent[row] = image is None
                try:
                    fingerprint.add(*_content(image))
                except (OSError, ValueError) as error:
                    raise ValueError(f"{unreadable_name(row, image)}: {error}") from error
        return absent

    def encode(
        self, model: Any, processor: Any, absent: np.ndarray, batch_size: int, max_length: int | None, pooling: str
    ) -> tuple[np.ndarray, dict[str, int]]:
        processor = getattr(processor, "image_processor", processor)
        if hasattr(processor, "model_max_length"):
            raise ValueError(f"images need an image processor, got {type(processor).__name__}")
        transform = ProcessorTransform(processor, channels=_channels(model.config))
        rows = np.flatnonzero(~absent)

        def embed(places: Sequence[int]) -> Tensor:
            wanted = [int(rows[place]) for place in places]
            pixels = transform(self._images(wanted), wanted).to(model.dtype)
            return embed_batch(model, {"pixel_values": pixels}, self.kind, pooling)

        vectors = in_batches(embed, range(len(rows)), rows, len(absent), batch_size)
        return vectors, {"encoded": len(rows), "cut": 0, "limit": 0}


def _template_parts(template: str) -> list[tuple[str, str | None]]:
    """Words and the name of the column after them."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"`template` is {template!r}: {error}; expected '{{title}}. {{genre}}'") from None
    if any(spec or conversion or name == "" for _, name, spec, conversion in parts):
        raise ValueError(
            f"`template` is {template!r}; expected nothing but names in the braces: '{{title}}. {{genre}}'"
        )
    return [(literal, name) for literal, name, _, _ in parts]


def _words(value: Any, column: str) -> str:
    """A value as it stands in a text."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, (list, tuple)):
        return " ".join(filter(None, (_words(one, column) for one in value)))
    if isinstance(value, (dict, bytes)):
        raise ValueError(
            f"the column {column!r} holds {type(value).__name__}; expected texts, numbers or lists of them"
        )
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _content(image: Any) -> tuple[bytes, ...]:
    """What an image is, as bytes."""
    if image is None:
        return ()
    if isinstance(image, dict):
        return (image["bytes"],)
    if isinstance(image, str):
        return (Path(image).read_bytes(),)
    if isinstance(image, bytes):
        return (image,)
    array = image_to_array(image)
    return str((array.shape, array.dtype)).encode(), array.tobytes()


def _channels(config: Any) -> int:
    vision = getattr(config, "vision_config", config)
    return 1 if getattr(vision, "num_channels", 3) == 1 else 3


__all__ = ["POOLINGS", "encode_items"]
