"""Features of items: what is known of them, any encoder of transformers over their texts or images, vectors kept in a cache."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import string
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import cached_assets_path
from huggingface_hub.utils import tqdm
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from hf_contrastive.data.images import image_to_array, unreadable_name
from hf_contrastive.data.interaction_files import ROLES, IdMap, atomic_blocks, table_blocks
from hf_contrastive.data.processors import ProcessorTransform
from hf_contrastive.data.schema import require_columns
from hf_contrastive.data.sources import hub_error, load_split, rows_source


logger = logging.getLogger(__name__)

POOLINGS = ("mean", "cls", "pooler")
# part of every key: raise it when vectors come out otherwise, or the file is laid out otherwise
FORMAT = 1
_TENSOR = "features"
# what an encoder's vectors depend on; cards and the like may change
_ENCODER_FILES = (".json", ".txt", ".model", ".safetensors")


# ----------------------------------------------------------------------------------------------------------------- table


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


# -------------------------------------------------------------------------------------------------------------- encoding


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
    fingerprint = _Fingerprint()
    absent = rows.look(fingerprint)
    if absent.all():
        raise ValueError(f"none of the {len(table)} rows has any {rows.what}; name other columns")
    opened = _open(encoder, rows.kind, pooling)
    settings = {"format": FORMAT, "kind": rows.kind, "pooling": pooling, "normalize": normalize}
    if rows.kind == "text":
        settings["max_length"] = max_length
    for part in (json.dumps(settings, sort_keys=True), opened.fingerprint):
        fingerprint.add(part.encode())
    file = _cache_file(cache_dir, fingerprint.hexdigest())
    kept = None if file is None else _read(file, len(table))
    if kept is None:
        started = time.time()
        model, processor = opened.load(device)
        with _evaluation(model):
            vectors, counts = rows.encode(model, processor, absent, batch_size, max_length, pooling)
        vectors = _fill(vectors, normalize)
        counts["without"] = int(len(table) - counts["encoded"])
        logger.info("%d rows encoded in %.1f s", counts["encoded"], time.time() - started)
        if file is not None:
            _write(file, vectors, counts)
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

    def look(self, fingerprint: _Fingerprint) -> np.ndarray:
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
        limit = _limit(model, tokenizer, max_length)
        rows = np.flatnonzero(~absent)
        tokens, cut = _tokenize(tokenizer, [self.texts[row] for row in rows], limit, mask=None if towers else True)
        # a text of which nothing is left has no vector
        order = [place for place in range(len(rows)) if tokens[place]["input_ids"]]
        order.sort(key=lambda place: -len(tokens[place]["input_ids"]))
        # some towers for texts (SigLIP) were trained with texts of full length, and see the padding
        width = limit if towers else None

        def embed(places: Sequence[int]) -> Tensor:
            return _embed(model, _pad([tokens[place] for place in places], tokenizer, width), self.kind, pooling)

        vectors = _in_batches(embed, order, rows, len(absent), batch_size)
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

    def look(self, fingerprint: _Fingerprint) -> np.ndarray:
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
            return _embed(model, {"pixel_values": pixels}, self.kind, pooling)

        vectors = _in_batches(embed, range(len(rows)), rows, len(absent), batch_size)
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


# ------------------------------------------------------------------------------------------------------------- the model


class _Encoder:
    """An encoder that is not loaded yet: what its vectors depend on, and how to get it."""

    def __init__(self, fingerprint: str, load: Callable[[Any], tuple[Any, Any]]) -> None:
        self.fingerprint, self.load = fingerprint, load


def _open(encoder: Any, kind: str, pooling: str) -> _Encoder:
    if isinstance(encoder, (tuple, list)):
        if len(encoder) != 2 or not isinstance(encoder[0], nn.Module) or not hasattr(encoder[1], "save_pretrained"):
            raise ValueError(
                f"`encoder` holds {', '.join(type(one).__name__ for one in encoder)}; expected (model, processor) of "
                "transformers, a folder or a hub id"
            )
        model, processor = encoder
        return _Encoder(_model_fingerprint(model, processor), lambda device: (_moved(model, device), processor))
    if not isinstance(encoder, (str, os.PathLike)):
        raise ValueError(
            f"`encoder` is a {type(encoder).__name__}; expected a folder, a hub id, or (model, processor)"
        )
    name = os.fspath(encoder)
    folder = Path(name).expanduser()
    options: dict[str, Any] = {}
    if folder.is_dir():
        found = _Fingerprint()
        for file in sorted(folder.iterdir()):
            if file.suffix in _ENCODER_FILES and file.is_file():
                found.add(file.name.encode())
                with file.open("rb") as stream:
                    while block := stream.read(2**24):
                        found.add(block)
        fingerprint, place = found.hexdigest(), str(folder)
    elif isinstance(encoder, os.PathLike) or name.startswith((".", "/", "~", "\\")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"{name} does not exist; pass a folder with config.json and model.safetensors, or a hub id"
        )
    else:
        from transformers.utils import cached_file

        try:
            config = Path(str(cached_file(name, "config.json")))
        except OSError as error:
            raise ValueError(
                f"encoder {name!r} is no folder here, and the hub did not hand out a model of that name: {error}"
            ) from error
        # the folder of a file from the hub is named by its commit: key and weights are of the same one
        options["revision"] = config.parent.name
        fingerprint, place = f"{name}@{config.parent.name}", name

    def load(device: Any) -> tuple[Any, Any]:
        import transformers

        opener = transformers.AutoTokenizer if kind == "text" else transformers.AutoImageProcessor
        try:
            processor = opener.from_pretrained(place, **options)
        except (OSError, ValueError) as error:
            wanted = "tokenizer" if kind == "text" else "image processor"
            raise ValueError(f"encoder {name} has no {wanted} that can be read: {error}") from error
        model, info = transformers.AutoModel.from_pretrained(
            place, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        )
        # transformers would draw them, and only warn; nothing but pooling="pooler" reads a pooler
        missing = [
            key for key in sorted(info["missing_keys"]) if pooling == "pooler" or "pooler" not in key.split(".")
        ]
        if missing:
            raise ValueError(
                f"encoder {name} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:3])}); they would "
                "be random"
            )
        return _moved(model, device or ("cuda" if torch.cuda.is_available() else "cpu")), processor

    return _Encoder(fingerprint, load)


def _moved(model: Any, device: Any) -> Any:
    return model if device is None else model.to(device)


def _model_fingerprint(model: Any, processor: Any) -> str:
    found = _Fingerprint()
    config = {name: value for name, value in model.config.to_dict().items() if name not in ("_name_or_path",)}
    found.add(type(model).__name__.encode(), json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found.add(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), content.data)
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            content = file.read_bytes()
            if file.name == "tokenizer.json":
                # a tokenizer remembers how the last call cut and padded
                known = {**json.loads(content), "truncation": None, "padding": None}
                content = json.dumps(known, sort_keys=True).encode()
            found.add(file.name.encode(), content)
    return found.hexdigest()


@contextmanager
def _evaluation(model: nn.Module) -> Generator[None]:
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _limit(model: Any, tokenizer: Any, max_length: int | None) -> int | None:
    """Tokens of a text: what was asked for, or the most that tokenizer and model take."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if max_length is None:
        # tokenizers without a limit have an enormous one
        known = [limit for limit in (positions, tokenizer.model_max_length) if limit and limit < 10**6]
        return min(known, default=None)
    if positions is not None and max_length > positions:
        raise ValueError(f"`max_length` is {max_length}, but {type(model).__name__} takes {positions} tokens")
    if max_length <= (special := tokenizer.num_special_tokens_to_add()):
        raise ValueError(f"`max_length` is {max_length}, but the tokenizer adds {special} tokens to every text")
    return max_length


def _tokenize(
    tokenizer: Any, texts: Sequence[str], limit: int | None, mask: bool | None
) -> tuple[list[dict[str, list[int]]], int]:
    """Inputs of every text, not padded, and how many texts were cut."""
    rows: list[dict[str, list[int]]] = []
    cut = 0
    for start in range(0, len(texts), 1000):
        chunk = list(texts[start : start + 1000])
        options = {"return_attention_mask": mask, "verbose": False}
        encoded = _rows(tokenizer(chunk, truncation=False, padding=False, **options))
        long = [place for place, row in enumerate(encoded) if limit is not None and len(row["input_ids"]) > limit]
        if long:
            cut += len(long)
            shorter = tokenizer([chunk[place] for place in long], truncation=True, max_length=limit, **options)
            for place, row in zip(long, _rows(shorter), strict=True):
                encoded[place] = row
        rows += encoded
    return rows, cut


def _rows(encoded: Any) -> list[dict[str, list[int]]]:
    return [dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)]


def _pad(rows: Sequence[dict[str, list[int]]], tokenizer: Any, width: int | None) -> dict[str, Tensor]:
    """A batch padded on the right, so that it does not matter what the tokenizer has (no padding token, the other side)."""
    width = width or max(len(row["input_ids"]) for row in rows)
    fills = {"input_ids": tokenizer.pad_token_id or 0}
    return {
        name: torch.tensor([row[name] + [fills.get(name, 0)] * (width - len(row[name])) for row in rows])
        for name in rows[0]
    }


def _embed(model: Any, inputs: dict[str, Tensor], kind: str, pooling: str) -> Tensor:
    """One vector a row, `[batch, dim]`."""
    tower = getattr(model, f"get_{kind}_features", None)
    read = tower or (model.encode if hasattr(model, "readouts") else None)
    if read is not None and pooling != "mean":
        raise ValueError(f"`pooling` is {pooling!r}, but {type(model).__name__} has its own; leave it out")
    taken = inspect.signature(tower or model.forward).parameters
    if ("pixel_values" if kind == "image" else "input_ids") not in taken:
        raise ValueError(f"{type(model).__name__} takes no {kind}s; pass an encoder of {kind}s")
    # generic tokenizers hand out segments, which not every model takes
    inputs = {name: value.to(model.device) for name, value in inputs.items() if name in taken}
    if read is not None:
        found = read(**inputs)
        vectors = getattr(found, "pooler_output", found)
    else:
        vectors = _pool(model(**inputs), inputs.get("attention_mask"), pooling, type(model).__name__)
    if not isinstance(vectors, Tensor) or vectors.ndim != 2:
        raise ValueError(f"{type(model).__name__} gives no single vector for each {kind}; pass another encoder")
    return vectors.float().cpu()


def _pool(outputs: Any, mask: Tensor | None, pooling: str, name: str) -> Tensor:
    wanted = "pooler_output" if pooling == "pooler" else "last_hidden_state"
    found = getattr(outputs, wanted, None)
    if found is None:
        raise ValueError(
            f"{name} returns no {wanted}, which `pooling={pooling!r}` reads; pass another pooling or encoder"
        )
    if pooling == "pooler":
        return found.flatten(1)
    if found.ndim == 4:  # a map of a convolutional network
        if pooling == "cls":
            raise ValueError(f"`pooling` is 'cls', but {name} returns a map; pass 'mean' or 'pooler'")
        return found.mean((2, 3))
    if pooling == "cls":
        return found[:, 0]
    if mask is None:
        return found.mean(1)
    weights = mask.to(found.dtype)[..., None]
    return (found * weights).sum(1) / weights.sum(1)


def _in_batches(
    embed: Callable[[Sequence[int]], Tensor], order: Sequence[int], rows: np.ndarray, count: int, batch_size: int
) -> np.ndarray:
    """Vectors of all rows, `[count, dim]`; NaN where a row is not in `order`, which holds places in `rows`."""
    vectors = np.empty((count, 0), dtype=np.float32)
    # a bar on a terminal only
    for start in tqdm(range(0, len(order), batch_size), desc="item features", disable=None, leave=False):
        places = list(order[start : start + batch_size])
        batch = embed(places).numpy()
        bad = np.flatnonzero(~np.isfinite(batch).all(1))
        if len(bad):
            raise ValueError(f"the encoder's vector of row {rows[places[bad[0]]]} is not finite; pass it in float32")
        if not vectors.shape[1]:
            vectors = np.full((count, batch.shape[1]), np.nan, dtype=np.float32)
        vectors[rows[places]] = batch
    return vectors


# ------------------------------------------------------------------------------------------------------------- the cache


class _Fingerprint:
    """Hash of a sequence of byte strings."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, *parts: Any) -> None:
        # with numbers and lengths, so that other cuts of the same bytes are others
        self._hash.update(f"({len(parts)}".encode())
        for part in parts:
            self._hash.update(f"[{len(part)}]".encode())
            self._hash.update(part)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _cache_file(cache_dir: str | os.PathLike | None, fingerprint: str) -> Path | None:
    where: Any = None if cache_dir is None else Path(cache_dir).expanduser()
    try:
        folder = cached_assets_path("hf_contrastive", "item_features", fingerprint, assets_dir=where)
    except (OSError, ValueError) as error:
        warnings.warn(f"item features cannot be kept: {error}; pass a cache_dir= that can be written", stacklevel=3)
        return None
    return folder / "features.safetensors"


def _read(file: Path, rows: int) -> tuple[np.ndarray, dict[str, int]] | None:
    """Vectors and counts, or nothing: where there are none, or with a warning where the file is broken."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "numpy") as content:
            vectors = content.get_tensor(_TENSOR)
            known = content.metadata() or {}
        counts = {name: int(known[name]) for name in ("encoded", "without", "cut", "limit")}
        if vectors.ndim != 2 or len(vectors) != rows or vectors.dtype != np.float32:
            raise ValueError(f"it holds {vectors.dtype} {list(vectors.shape)} for {rows} rows")
        if not np.isfinite(vectors).all():
            raise ValueError("it holds numbers that are not finite")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        warnings.warn(f"{file} cannot be used ({error}); the features are made anew", stacklevel=3)
        return None
    return vectors, counts


def _write(file: Path, vectors: np.ndarray, counts: dict[str, int]) -> None:
    """Beside, then into place: a reader sees a whole file or none."""
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        save_file({_TENSOR: vectors}, part, {name: str(count) for name, count in counts.items()})
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, file)
    except (OSError, SafetensorError) as error:
        # the vectors are there, whatever becomes of the file
        warnings.warn(f"item features cannot be kept in {file}: {error}", stacklevel=3)
    finally:
        part.unlink(missing_ok=True)


__all__ = ["POOLINGS", "encode_items", "load_item_table"]
