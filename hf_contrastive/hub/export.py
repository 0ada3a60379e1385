"""Slim export: the trained backbone alone, as plain transformers knows it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_contrastive.hub.atomic import atomic_folder
from hf_contrastive.hub.cards import write_model_card
from hf_contrastive.hub.scrub import scrub_folder
from hf_contrastive.registry import find_by_model_type


@dataclass(frozen=True)
class ExportReport:
    """What `export_backbone` wrote.

    Args:
        folder (`Path`): where.
        model_type (`str`): of the backbone.
        needs_hf_contrastive (`bool`): `import hf_contrastive` must come before loading: the architecture is this
            library's own.
        load (`str`): the code that loads it.
        merged_adapters (`bool`): LoRA weights were merged in.
        not_exported (`tuple[str, ...]`): tensors that `AutoModel` will add with random values, because the trained
            backbone has none (an unused pooler).
    """

    folder: Path
    model_type: str
    needs_hf_contrastive: bool
    load: str
    merged_adapters: bool
    not_exported: tuple[str, ...] = ()


def _has_adapters(model: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    return any(isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)) for module in model.modules())


def _replace(root: Any, name: str, new: Any) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, child, new)


def merged_copy(model: Any) -> Any:
    """A copy of a model with its LoRA adapters merged into the weights; the model itself is not changed.

    Args:
        model: a `PeftModel`, or a model with injected adapters (`model.add_adapter`).

    Returns:
        The base model with merged weights, free of PEFT; the model itself when it has no adapters.

    Raises:
        ValueError: an adapter that cannot be merged without changing the outputs.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if not _has_adapters(model):
        return model.get_base_model() if isinstance(model, PeftModel) else model
    base = copy.deepcopy(model.get_base_model() if isinstance(model, PeftModel) else model)
    # Outer modules first would hide inner ones, so take the names deepest first.
    for name, module in sorted(base.named_modules(), key=lambda item: -item[0].count(".")):
        if isinstance(module, BaseTunerLayer):
            if not hasattr(module, "merge"):
                raise ValueError(f"the adapter {type(module).__name__} at {name} cannot be merged into the weights")
            module.merge(safe_merge=True)
            _replace(base, name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            active = module.active_adapter
            active = active[0] if isinstance(active, list) else active
            _replace(base, name, module.modules_to_save[active] if active else module.original_module)
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        if attribute in base.__dict__:
            delattr(base, attribute)
    return base


def _auto_class_of(backbone: Any) -> Any:
    """The Auto class that opens a backbone again: language models keep their output matrix."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    is_language_model = type(backbone) is MODEL_FOR_CAUSAL_LM_MAPPING.get(type(backbone.config), None)
    return AutoModelForCausalLM if is_language_model else AutoModel


def _added_by_auto_model(backbone: Any, auto_class: Any) -> tuple[str, ...]:
    """Tensors that the Auto class would build from this configuration and that the backbone does not have."""
    import torch

    with torch.device("meta"):
        rebuilt = auto_class.from_config(copy.deepcopy(backbone.config))
    return tuple(sorted(set(rebuilt.state_dict()) - set(backbone.state_dict())))


def _encoder_of(model: Any, part: str | None) -> Any:
    """The encoder to write: the named one, the only one, or the model itself."""
    towers = [name for name in getattr(model, "towers", ("backbone",)) if getattr(model, name, None) is not None]
    if part is None and len(towers) < 2:
        return getattr(model, towers[0]) if towers else model
    if part is None or part not in towers:
        raise ValueError(
            f"{type(model).__name__} has the encoders {', '.join(towers) or 'none'}; `part` is {part!r}: pass one of their "
            "names."
        )
    return getattr(model, part)


def export_backbone(
    model: Any,
    folder: str | os.PathLike,
    processor: Any = None,
    card: Mapping[str, Any] | None = None,
    part: str | None = None,
) -> ExportReport:
    """Write the bare backbone of a trained model, so that plain transformers loads it with `AutoModel`
    (`AutoModelForCausalLM` for a language model).

    LoRA adapters are merged first (in a copy: the given model stays as it is). Heads, temperatures and queues stay
    behind. The outputs of the loaded backbone are equal to those of the trained one.

    Args:
        model: a trained model with an attribute `backbone` (or a PEFT wrapper of one), or a `PreTrainedModel` that is
            itself the backbone.
        folder: where to; written atomically.
        processor (*optional*): an image processor or tokenizer that is saved beside it.
        card (`dict`, *optional*): arguments for `write_model_card`.
        part (`str`, *optional*): of a model with several encoders, the one to write: `"vision_model"` or `"text_model"`.

    Returns:
        `ExportReport`: it says whether `import hf_contrastive` is needed for loading, which is so for this library's
        own small backbones.

    Raises:
        TypeError: the model has no backbone of transformers' kind.
        ValueError: the model has several encoders and `part` names none of them.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import ResNetConfig, ResNetModel
    >>> from hf_contrastive.hub import export_backbone
    >>> backbone = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    >>> export_backbone(backbone, tempfile.mkdtemp()).needs_hf_contrastive
    False

    ```
    """
    from peft import PeftModel
    from transformers import PreTrainedModel

    wrapped = model.get_base_model() if isinstance(model, PeftModel) else model
    has_adapters = _has_adapters(wrapped)
    encoder = _encoder_of(wrapped, part)
    backbone = merged_copy(encoder) if has_adapters else encoder
    if not isinstance(backbone, PreTrainedModel):
        raise TypeError(
            f"argument 'model': the backbone of {type(model).__name__} is a {type(backbone).__name__}, expected a "
            "transformers PreTrainedModel under the attribute 'backbone'."
        )
    config = backbone.config
    ours = not type(backbone).__module__.startswith("transformers.")
    package = type(backbone).__module__.partition(".")[0]
    needs_us = ours and package == "hf_contrastive"
    auto_class = _auto_class_of(backbone)
    auto = auto_class.__name__
    missing = _added_by_auto_model(backbone, auto_class)
    name = Path(folder).name
    load = (f"import {package}\n" if ours else "") + (
        f'from transformers import {auto}\n\nmodel = {auto}.from_pretrained("{name}")'
    )
    source = find_by_model_type(str(getattr(wrapped.config, "model_type", ""))) if wrapped is not encoder else None
    notes = [] if source is None else [f"This is the backbone of a trained {source.title} model ({source.paper_url})."]
    if ours:
        notes.append(
            f"`{config.model_type}` is an architecture of `{package}`: install it and write `import {package}` before "
            f"`{auto}.from_pretrained`."
        )
    else:
        notes.append("This folder loads in plain transformers; no other package is needed.")
    if missing:
        notes.append(
            f"The trained backbone has no {', '.join(missing)}: `AutoModel` adds them with random values. Read "
            "`last_hidden_state`, not `pooler_output`, or pass `add_pooling_layer=False` where the class takes it."
        )
    # `config.backbone_config` of the trained model is this very object: leave it as it was.
    before = (getattr(config, "architectures", None), getattr(config, "dtype", None))
    with atomic_folder(folder) as written:
        backbone.save_pretrained(written)
        if processor is not None:
            processor.save_pretrained(written)
        scrub_folder(written)
        options = dict(card or {})
        extra = options.pop("extra", None)
        sections = {"Loading": f"```python\n{load}\n```\n\n" + " ".join(notes)}
        if isinstance(extra, Mapping):
            sections.update(extra)
        elif extra:
            sections["More"] = str(extra)
        options.setdefault("model_name", f"{config.model_type} backbone")
        options.setdefault("repo_id", name)
        tags = [*options.pop("tags", ()), "backbone"]
        write_model_card(written, config=config.to_dict(), tags=tags, extra=sections, **options)
    config.architectures, config.dtype = before
    return ExportReport(Path(folder), str(config.model_type), needs_us, load, has_adapters, missing)
