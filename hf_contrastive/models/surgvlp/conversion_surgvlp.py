"""The published weights of SurgVLP in this library."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, ResNetConfig

from hf_contrastive.models.surgvlp.configuration_surgvlp import SurgVLPConfig
from hf_contrastive.models.surgvlp.modeling_surgvlp import SurgVLPForPreTraining


_IMAGE, _HEAD, _TEXT = "backbone_img.model.", "backbone_img.global_embedder.", "backbone_text.model."
#: part of torchvision's name -> part of the name in transformers' ResNet
_RESNET = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
)
#: no weights, or of a classifier that the model does not use
_LEFT_OUT = re.compile(r"^backbone_img\.model\.fc\.|\.position_ids$|^backbone_text\.model\.pooler\.")


def load_published_weights(
    weights: Mapping[str, Tensor] | str | os.PathLike, *, num_attention_heads: int | None = None, **config_fields: Any
) -> SurgVLPForPreTraining:
    """A model with the published weights: `backbone_img.model.*` (torchvision's ResNet), `backbone_img.global_embedder.*` and
    `backbone_text.model.*` (BERT). Sizes are read off the tensors.

    Files are opened as safetensors only. A file that was pickled (`.pth`) has to be opened by you, if you trust it, with
    `torch.load(file, weights_only=True, map_location="cpu")`; give what it holds.

    Args:
        weights (`Mapping[str, Tensor]`, `str` or `Path`): tensors by name, or a `.safetensors` file.
        num_attention_heads (`int`, *optional*): of the text encoder, which its tensors do not tell; its width / 64 by default.
        **config_fields: further fields of [`SurgVLPConfig`].

    Returns:
        [`SurgVLPForPreTraining`] in eval mode; save it with `save_pretrained`.

    Raises:
        ValueError: a pickled file, names that are not known, or tensors that are missing (the first ones are named).

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.surgvlp.conversion_surgvlp import load_published_weights
    >>> weights = torch.load("SurgVLP.pth", weights_only=True, map_location="cpu")  # doctest: +SKIP
    >>> load_published_weights(weights).save_pretrained("surgvlp")  # doctest: +SKIP

    ```
    """
    state = _read(weights)
    renamed = rename_published_weights(state)
    config = _configuration(renamed, num_attention_heads, config_fields)
    model = SurgVLPForPreTraining(config)
    expected = set(model.state_dict())
    missing = sorted(name for name in expected - set(renamed) if not name.endswith("num_batches_tracked"))
    unknown = sorted(set(renamed) - expected)
    if missing or unknown:
        parts = [
            f"{len(names)} {what} (for example {names[0]!r})"
            for names, what in ((missing, "missing"), (unknown, "left over"))
            if names
        ]
        raise ValueError(
            f"the tensors do not make a SurgVLP: {' and '.join(parts)}; give all of a published checkpoint."
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    other = [name for name, tensor in renamed.items() if tuple(tensor.shape) != shapes[name]]
    if other:
        raise ValueError(
            f"{len(other)} tensors have another shape than a ResNet or a BERT of these sizes, for example {other[0]!r}: "
            f"{tuple(renamed[other[0]].shape)} instead of {shapes[other[0]]}."
        )
    model.load_state_dict(renamed, strict=False)
    return model.eval()


def rename_published_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of the published tensors in this library.

    Args:
        state (`Mapping[str, Tensor]`): tensors by their published names, of a model with or without DataParallel's `module.`.

    Returns:
        `dict[str, Tensor]`: the same tensors; what the model does not use (a classifier, BERT's pooler) is left out.

    Raises:
        ValueError: a name that is not known.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.surgvlp.conversion_surgvlp import rename_published_weights
    >>> list(rename_published_weights({"backbone_img.model.layer2.0.conv3.weight": torch.zeros(1)}))
    ['vision_model.encoder.stages.1.layers.0.layer.2.convolution.weight']

    ```
    """
    renamed = {}
    for full, tensor in state.items():
        name = full.removeprefix("module.")
        if _LEFT_OUT.search(name):
            continue
        if name.startswith(_IMAGE):
            new = f"vision_model.{_resnet_name(name.removeprefix(_IMAGE))}"
        elif name.startswith(_HEAD):
            new = f"image_projection.layers.0.0.{name.removeprefix(_HEAD)}"
        elif name.startswith(_TEXT):
            new = f"text_model.{name.removeprefix(_TEXT)}"
        else:
            raise ValueError(
                f"the tensor {full!r} is none of a published SurgVLP, whose names begin with {_IMAGE}, {_HEAD} or {_TEXT}"
            )
        renamed[new] = tensor
    return renamed


def _resnet_name(name: str) -> str:
    def stage(match: re.Match) -> str:
        return f"encoder.stages.{int(match[1]) - 1}.layers.{match[2]}."

    def layer(match: re.Match) -> str:
        kind = "convolution" if match[1] == "conv" else "normalization"
        return f".layer.{int(match[2]) - 1}.{kind}."

    for pattern, new in _RESNET:
        name = re.sub(pattern, new, name)
    if not name.startswith("embedder."):
        name = re.sub(r"^layer(\d+)\.(\d+)\.", stage, name)
        name = re.sub(r"\.(conv|bn)(\d+)\.", layer, name)
    return name


def _configuration(
    renamed: Mapping[str, Tensor], num_attention_heads: int | None, fields: Mapping[str, Any]
) -> SurgVLPConfig:
    """Sizes of both encoders, read off their tensors."""

    def size(name: str, dimension: int = 0) -> int:
        if name not in renamed:
            raise ValueError(
                f"the tensors do not make a SurgVLP: {name!r} is missing; give all of a published checkpoint."
            )
        return int(renamed[name].shape[dimension])

    def count(pattern: str) -> int:
        return len({match[1] for name in renamed if (match := re.match(pattern, name))})

    stage, text = "vision_model.encoder.stages", "text_model.embeddings"
    first = f"{stage}.0.layers.0.layer"
    bottleneck = f"{first}.2.convolution.weight" in renamed
    last = 2 if bottleneck else 1
    stages = count(r"vision_model\.encoder\.stages\.(\d+)\.")
    vision = ResNetConfig(
        num_channels=size("vision_model.embedder.embedder.convolution.weight", 1),
        embedding_size=size("vision_model.embedder.embedder.convolution.weight"),
        hidden_sizes=[size(f"{stage}.{number}.layers.0.layer.{last}.convolution.weight") for number in range(stages)],
        depths=[count(rf"vision_model\.encoder\.stages\.{number}\.layers\.(\d+)\.") for number in range(stages)],
        layer_type="bottleneck" if bottleneck else "basic",
    )
    width = size(f"{text}.word_embeddings.weight", 1)
    language = BertConfig(
        vocab_size=size(f"{text}.word_embeddings.weight"),
        hidden_size=width,
        num_hidden_layers=count(r"text_model\.encoder\.layer\.(\d+)\."),
        num_attention_heads=num_attention_heads or max(1, width // 64),
        intermediate_size=size("text_model.encoder.layer.0.intermediate.dense.weight"),
        max_position_embeddings=size(f"{text}.position_embeddings.weight"),
        type_vocab_size=size(f"{text}.token_type_embeddings.weight"),
    )
    return SurgVLPConfig(vision_config=vision, text_config=language, **fields)


def _read(weights: Mapping[str, Tensor] | str | os.PathLike) -> Mapping[str, Tensor]:
    if isinstance(weights, Mapping):
        wrong = [name for name, value in weights.items() if not isinstance(value, torch.Tensor)]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} holds a {type(weights[wrong[0]]).__name__} and no tensor; give the tensors by name, in a checkpoint of a "
                "training run for example checkpoint['state_dict']."
            )
        return weights
    path = Path(weights).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is no .safetensors file, and pickled files are never opened here; if you trust it, pass "
            'torch.load(file, weights_only=True, map_location="cpu").'
        )
    from safetensors.torch import load_file

    return load_file(path)


__all__ = ["load_published_weights", "rename_published_weights"]
