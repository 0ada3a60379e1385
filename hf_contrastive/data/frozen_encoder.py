"""Any encoder of transformers as it is: what its vectors depend on, texts and images in batches, pooling."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import tqdm
from torch import Tensor, nn

from hf_contrastive.data.vector_cache import Fingerprint


POOLINGS = ("mean", "cls", "pooler")
# what an encoder's vectors depend on; cards and the like may change
_ENCODER_FILES = (".json", ".txt", ".model", ".safetensors")


class FrozenEncoder:
    """An encoder that is not loaded yet: what its vectors depend on, and how to get it."""

    def __init__(self, fingerprint: str, load: Callable[[Any], tuple[Any, Any]]) -> None:
        self.fingerprint, self.load = fingerprint, load


def open_encoder(encoder: Any, kind: str, pooling: str) -> FrozenEncoder:
    if isinstance(encoder, (tuple, list)):
        if len(encoder) != 2 or not isinstance(encoder[0], nn.Module) or not hasattr(encoder[1], "save_pretrained"):
            raise ValueError(
                f"`encoder` holds {', '.join(type(one).__name__ for one in encoder)}; expected (model, processor) of "
                "transformers, a folder or a hub id"
            )
        model, processor = encoder
        return FrozenEncoder(_model_fingerprint(model, processor), lambda device: (_moved(model, device), processor))
    if not isinstance(encoder, (str, os.PathLike)):
        raise ValueError(
            f"`encoder` is a {type(encoder).__name__}; expected a folder, a hub id, or (model, processor)"
        )
    name = os.fspath(encoder)
    folder = Path(name).expanduser()
    options: dict[str, Any] = {}
    if folder.is_dir():
        found = Fingerprint()
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

    return FrozenEncoder(fingerprint, load)


def _moved(model: Any, device: Any) -> Any:
    return model if device is None else model.to(device)


def _model_fingerprint(model: Any, processor: Any) -> str:
    found = Fingerprint()
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


def token_limit(model: Any, tokenizer: Any, max_length: int | None) -> int | None:
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


def tokenize(
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


def pad_rows(rows: Sequence[dict[str, list[int]]], tokenizer: Any, width: int | None) -> dict[str, Tensor]:
    """A batch padded on the right, so that it does not matter what the tokenizer has (no padding token, the other side)."""
    width = width or max(len(row["input_ids"]) for row in rows)
    fills = {"input_ids": tokenizer.pad_token_id or 0}
    return {
        name: torch.tensor([row[name] + [fills.get(name, 0)] * (width - len(row[name])) for row in rows])
        for name in rows[0]
    }


def embed_batch(model: Any, inputs: dict[str, Tensor], kind: str, pooling: str) -> Tensor:
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


def in_batches(
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


__all__ = [
    "POOLINGS",
    "FrozenEncoder",
    "embed_batch",
    "in_batches",
    "open_encoder",
    "pad_rows",
    "token_limit",
    "tokenize",
]
