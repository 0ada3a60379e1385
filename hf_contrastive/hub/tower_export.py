"""A trained dual encoder for other programs: a folder of sentence-transformers, ONNX graphs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_contrastive.hub.atomic import atomic_folder
from hf_contrastive.hub.export import merged_copy
from hf_contrastive.hub.scrub import scrub_folder
from hf_contrastive.utils import evaluation_mode, require_package


# names that sentence-transformers has kept since its first versions
_MODULES = "sentence_transformers.models"
_POOLINGS = {"max": "max_tokens", "mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
_ACTIVATIONS = {nn.ReLU: "torch.nn.modules.activation.ReLU"}


def export_sentence_transformers(model: Any, folder: str | os.PathLike, processor: Any) -> Path:
    """Write the text encoder with its pooling and projection as a folder that `SentenceTransformer(folder)` opens.

    Its vectors are those of `model.encode(input_ids=...)`. Adapters are merged first, in a copy.

    Args:
        model ([`DualEncoderModel`], possibly wrapped by PEFT): a trained model.
        folder: where to; written atomically.
        processor ([`DualEncoderProcessor`]): its tokenizer is written too.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: the model pools in a way that sentence-transformers cannot, or has no text encoder.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ConVIRTConfig, ConVIRTModel, ConvEncoderConfig, DualEncoderProcessor
    >>> from hf_contrastive.data import image_processor, train_word_tokenizer
    >>> from hf_contrastive.hub import export_sentence_transformers
    >>> processor = DualEncoderProcessor(image_processor(16), train_word_tokenizer(["a red cat"]))
    >>> text = BertConfig(vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    >>> model = ConVIRTModel(ConVIRTConfig(vision_config=ConvEncoderConfig(channels=[8]), text_config=text, projection_dim=8))
    >>> sorted(path.name for path in export_sentence_transformers(model, tempfile.mkdtemp(), processor).iterdir())[:3]
    ['1_Pooling', '2_Dense', '3_Dense']

    ```
    """
    from safetensors.torch import save_file

    inner = merged_copy(model)
    if getattr(inner, "text_model", None) is None:
        raise ValueError(f"{type(inner).__name__} has no text encoder to export.")
    pooling = inner.config.text_pooling
    if pooling not in _POOLINGS:
        raise ValueError(
            f"the model pools texts by {pooling!r}, which sentence-transformers cannot; export ONNX graphs instead, or the bare "
            'encoder with export_backbone(model, folder, part="text_model").'
        )
    length = processor.tokenizer.model_max_length
    longest = inner.config.max_text_length
    length = min(number for number in (length, longest, 512) if number is not None)
    modules: list[tuple[str, str, dict[str, Any] | None, dict[str, Tensor]]] = [
        ("", "Transformer", None, {}),
        (
            "1_Pooling",
            "Pooling",
            {
                "word_embedding_dimension": inner.config.text_dim,
                **{f"pooling_mode_{name}": name == _POOLINGS[pooling] for name in _POOLINGS.values()},
            },
            {},
        ),
    ]
    for layer in inner.text_projection.layers:
        linear, *rest = layer
        activation = _ACTIVATIONS[type(rest[0])] if rest else "torch.nn.modules.linear.Identity"
        fields = {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "bias": linear.bias is not None,
            "activation_function": activation,
        }
        weights = {f"linear.{name}": value.detach().float().cpu().clone() for name, value in linear.named_parameters()}
        modules.append((f"{len(modules)}_Dense", "Dense", fields, weights))
    modules.append((f"{len(modules)}_Normalize", "Normalize", {}, {}))
    target = Path(folder)
    with atomic_folder(target) as written:
        inner.text_model.save_pretrained(written)
        processor.tokenizer.save_pretrained(written)
        # it names the processor of both sides, which would be looked for there
        settings = json.loads((written / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("processor_class", None)
        _write(written / "tokenizer_config.json", settings)
        _write(written / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
        _write(
            written / "modules.json",
            [
                {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{kind}"}
                for number, (path, kind, _, _) in enumerate(modules)
            ],
        )
        for path, _, fields, weights in modules:
            if fields is None:
                continue
            (written / path).mkdir(exist_ok=True)
            if fields:
                _write(written / path / "config.json", fields)
            if weights:
                save_file(weights, written / path / "model.safetensors")
        scrub_folder(written)
    return target


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class _ImageSide(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return nn.functional.normalize(self.model.embed_images(pixel_values)[1], dim=-1, eps=1e-12)


class _TextSide(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return nn.functional.normalize(self.model.embed_texts(input_ids, attention_mask)[1], dim=-1, eps=1e-12)


def export_onnx(
    model: Any, folder: str | os.PathLike, processor: Any, *, parts: Sequence[str] = ("image", "text")
) -> list[Path]:
    """Write the two sides as ONNX graphs, `image.onnx` and `text.onnx`, with the processor's files beside them.

    Inputs are `pixel_values` `[batch, channels, height, width]` (of the processor's size), and `input_ids` and `attention_mask`
    `[batch, tokens]`; the output `embeds` `[batch, dim]` is in the common space, of length 1. Every graph is run on other
    inputs than it was traced with and compared with the model before it is put in place.

    Args:
        model ([`DualEncoderModel`], possibly wrapped by PEFT): a trained model.
        folder: where to; written atomically.
        processor ([`DualEncoderProcessor`]): tells size and vocabulary.
        parts (`Sequence[str]`, defaults to both): `"image"`, `"text"`.

    Returns:
        `list[Path]`: the graphs.

    Raises:
        ImportError: `onnx`, `onnxscript` or `onnxruntime` is missing.
        ValueError: an unknown part.
        RuntimeError: a graph that does not give what the model gives; nothing is left in the folder.
    """
    unknown = [part for part in parts if part not in ("image", "text")]
    if unknown or not parts:
        raise ValueError(f"`parts` is {list(parts)!r}, expected image, text or both.")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require_package(package, "onnx", purpose="the export of ONNX graphs")
    inner = merged_copy(model)
    target = Path(folder)
    with evaluation_mode(inner), atomic_folder(target) as written:
        for part in parts:
            _export_side(inner, written / f"{part}.onnx", processor, part)
        processor.save_pretrained(written)
        scrub_folder(written)
    return [target / f"{part}.onnx" for part in parts]


def _export_side(model: Any, path: Path, processor: Any, part: str) -> None:
    import onnxruntime

    side, names, dynamic = (
        (_ImageSide(model), ["pixel_values"], {"pixel_values": {0: torch.export.Dim("batch", min=1)}})
        if part == "image"
        else (
            _TextSide(model),
            ["input_ids", "attention_mask"],
            {
                name: {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("tokens", min=2)}
                for name in ("input_ids", "attention_mask")
            },
        )
    )
    side.eval()
    traced, other = (_example(model, processor, part, rows, seed) for rows, seed in ((2, 0), (3, 1)))
    with torch.no_grad():
        torch.onnx.export(
            side,
            tuple(traced),
            str(path),
            input_names=names,
            output_names=["embeds"],
            dynamic_shapes=dynamic,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        expected = side(*other)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.cpu().numpy() for name, value in zip(names, other, strict=True)})
    difference = float((torch.from_numpy(found) - expected.cpu()).abs().max())
    if not difference < 1e-4:
        raise RuntimeError(
            f"the graph of the {part} side differs from the model by {difference:.2g}; it is not kept. Export the bare encoder "
            "with export_backbone instead."
        )


def _example(model: Any, processor: Any, part: str, rows: int, seed: int) -> list[Tensor]:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    if part == "image":
        size = processor.image_processor.crop_size or processor.image_processor.size
        height, width = size["height"], size["width"]
        return [torch.rand(rows, model.config.num_channels, height, width, generator=generator).to(device)]
    limit = min(model.config.max_text_length or 16, processor.tokenizer.model_max_length, 16)
    tokens = max(2, limit - 2 * seed)
    ids = torch.randint(0, len(processor.tokenizer), (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, tokens - 1 :] = 0
    return [ids.to(device), mask.to(device)]


__all__ = ["export_onnx", "export_sentence_transformers"]
