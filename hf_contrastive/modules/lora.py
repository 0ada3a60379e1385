"""Low-rank adapters (LoRA) on the backbone, with everything around it trained in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_contrastive.modules.training_state import TrainingState


if TYPE_CHECKING:
    from peft import PeftModel

# what PEFT keeps besides the layer itself: the untouched copy of a module that is trained in full
_UNTOUCHED_COPY = "original_module."


def lora_targets(model: nn.Module, towers: Sequence[str] | None = None) -> list[str]:
    """Full names of the layers inside the backbone that get an adapter: every Linear and Conv2d, never the head.

    The output matrix of a language model is left out: it is often the embedding matrix, which an adapter would change too.
    Convolutions in groups (depthwise ones, as in ConvNeXt) are left out: a low-rank pair of ordinary convolutions
    cannot stand for them.

    Args:
        model (`ContrastivePreTrainedModel`): a model with a submodule `backbone`, or with several encoders (`model.towers`).
        towers (sequence of `str`, *optional*): of several encoders, those that are adapted; all by default.

    Returns:
        `list[str]`: names as in `model.named_modules()`, in that order.

    Raises:
        ValueError: the model has no `backbone`, or there is nothing in it to adapt; the message names what is there.

    Example:

    ```python
    >>> from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining
    >>> from hf_contrastive.modules.lora import lora_targets
    >>> config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8])
    >>> lora_targets(SimCLRForPreTraining(config))
    ['backbone.stages.0.0', 'backbone.stages.1.0']

    ```
    """
    targets = []
    for tower, encoder in _encoders(model, towers).items():
        output_matrix = encoder.get_output_embeddings() if hasattr(encoder, "get_output_embeddings") else None
        layers = [(name, module) for name, module in encoder.named_modules() if module is not output_matrix]
        found = [f"{tower}.{name}" for name, module in layers if _can_adapt(module)]
        if not found:
            raise ValueError(
                f"no layer of {_called(tower)} can take a LoRA adapter: it needs Linear or Conv2d (without groups) layers; "
                f"found {_layer_types(encoder)}. Train the whole model instead."
            )
        targets += found
    return targets


def add_lora(
    model: nn.Module,
    r: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
    modules_to_save: Sequence[str] | None = None,
    towers: Sequence[str] | None = None,
) -> PeftModel:
    """Freeze the backbone, put LoRA adapters on its layers (https://arxiv.org/abs/2106.09685) and train the rest in full.

    The head, the temperature and every other part beside the backbone are trained and saved with the adapter. So are
    the backbone's batch norms: their running statistics move in training, and an adapter saved without them would not
    give back the model that was trained. (With `frozen_modules=["backbone"]` statistics stand still and are left out.)

    The adapter checkpoint holds no backbone weights: load it on the same base model with
    `PeftModel.from_pretrained(base, folder)`, or make one ordinary model with `merge_and_unload()`.

    Args:
        model (`ContrastivePreTrainedModel`): the model; it is changed in place.
        r (`int`, defaults to 16): rank of the adapters, 1 or more.
        alpha (`float`, *optional*): adapters are scaled by `alpha / r`; `r` by default (scale 1).
        dropout (`float`, defaults to 0.0): dropout before the adapters, from 0 to below 1.
        targets (sequence of `str`, *optional*): full names of the layers to adapt, or ends of such names
            (`["q_proj", "v_proj"]`); only layers inside the backbone are ever adapted. All of `lora_targets` by default.
        modules_to_save (sequence of `str`, *optional*): direct parts of the model that are trained in full and saved;
            by default every part beside the backbone that has trainable parameters.
        towers (sequence of `str`, *optional*): of a model with several encoders (`model.towers`), those that get adapters; all by
            default. The others stand still, unless `modules_to_save` names them.

    Returns:
        `PeftModel`: forwards everything (`encode`, `embed_views`, `compute_objective`) to the model.

    Raises:
        ValueError: a bad value; no layer, or none of a name in `targets`, can be adapted (the layer types found are
            listed); an unknown part; a trainable parameter outside any part, which PEFT would silently leave out.

    Example:

    ```python
    >>> from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining
    >>> from hf_contrastive.modules.lora import add_lora
    >>> config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8])
    >>> model = add_lora(SimCLRForPreTraining(config), r=4)
    >>> model.peft_config["default"].r
    4

    ```
    """
    from peft import LoraConfig, get_peft_model

    if r < 1:
        raise ValueError(f"`r` is {r!r}, but it must be 1 or more.")
    if alpha is not None and not alpha > 0:
        raise ValueError(f"`alpha` is {alpha!r}, but it must be above 0.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` is {dropout!r}, but it must be 0 or more and below 1.")
    layers = lora_targets(model, towers) if targets is None else _choose_layers(model, targets, towers)
    adapted = _encoders(model, towers)
    saved = [*_choose_parts(model, modules_to_save, adapted), *_moving_statistics(model, adapted)]
    names = [name for name, _ in model.named_modules()]
    for part in saved:
        same_end = [name for name in names if name.endswith(part) and name != part]
        if same_end:
            raise ValueError(
                f"the modules {part!r} and {same_end[0]!r} end alike, and PEFT would train both in full; rename one."
            )
    # PEFT matches by the end of the name; copies of the backbone (a momentum encoder) would get adapters too
    others = [name for name in names if name not in layers and any(name.endswith(f".{layer}") for layer in layers)]
    config = LoraConfig(
        r=r,
        lora_alpha=r if alpha is None else alpha,  # ty: ignore[invalid-argument-type]
        lora_dropout=dropout,
        target_modules=layers,
        exclude_modules=others or None,
        modules_to_save=saved or None,
        # with a task type PEFT calls forward with the arguments of a text model
        task_type=None,
    )
    return get_peft_model(model, config)


def trainable_parameter_table(model: nn.Module) -> list[dict[str, Any]]:
    """How many parameters each part of a model has, and how many of them are trained.

    Args:
        model (`nn.Module` or `PeftModel`): the model, with or without adapters.

    Returns:
        `list[dict]`: one row a direct part with the keys `part`, `trainable` and `total`, then a row `part="total"`.
        Adapters count for the part they sit in; the untouched copies that PEFT keeps are not counted.

    Example:

    ```python
    >>> from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining
    >>> from hf_contrastive.modules.lora import trainable_parameter_table
    >>> config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[4]), projection_dims=[8], frozen_modules=["backbone"])
    >>> trainable_parameter_table(SimCLRForPreTraining(config))[0]
    {'part': 'backbone', 'trainable': 0, 'total': 120}

    ```
    """
    from peft import PeftModel

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    counts: dict[str, list[int]] = {name: [0, 0] for name, _ in base.named_children()}
    for name, parameter in base.named_parameters():
        if _UNTOUCHED_COPY in name:
            continue
        part = name.partition(".")[0]
        row = counts.setdefault(part, [0, 0])
        row[0] += parameter.numel() if parameter.requires_grad else 0
        row[1] += parameter.numel()
    counts["total"] = [sum(row[0] for row in counts.values()), sum(row[1] for row in counts.values())]
    return [
        {"part": part, "trainable": trainable, "total": total} for part, (trainable, total) in counts.items() if total
    ]


def _encoders(model: nn.Module, towers: Sequence[str] | None = None) -> dict[str, Any]:
    parts = dict(model.named_children())
    # an encoder that a configuration leaves out is `None`, no part
    known = [name for name in getattr(model, "towers", ("backbone",)) if name in parts]
    if not known:
        raise ValueError(
            f"{type(model).__name__} has no part `backbone` to put adapters on; its parts are: {', '.join(parts)}."
        )
    if towers is None:
        return {name: parts[name] for name in known}
    if isinstance(towers, str) or not towers or set(towers) - set(known):
        raise ValueError(
            f"`towers` is {towers!r}, but it must be a list of encoders of this model: {', '.join(known)}."
        )
    return {name: parts[name] for name in known if name in towers}


def _called(tower: str) -> str:
    return "the backbone" if tower == "backbone" else f"`{tower}`"


def _can_adapt(module: nn.Module) -> bool:
    # Conv1D is what GPT-2 calls a linear layer
    return isinstance(module, (nn.Linear, Conv1D)) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _layer_types(module: nn.Module) -> str:
    counts = Counter(
        type(layer).__name__ + (" with groups" if getattr(layer, "groups", 1) > 1 else "")
        for layer in module.modules()
        if not any(True for _ in layer.children()) and any(True for _ in layer.parameters(recurse=False))
    )
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no layer with parameters"


def _choose_layers(model: nn.Module, targets: Sequence[str], towers: Sequence[str] | None) -> list[str]:
    encoders = _encoders(model, towers)
    if isinstance(targets, str) or not targets:
        raise ValueError(f"`targets` is {targets!r}, but it must be a list of layer names, for example ['q_proj'].")
    known = [
        f"{tower}.{name}"
        for tower, encoder in encoders.items()
        for name, module in encoder.named_modules()
        if _can_adapt(module)
    ]
    chosen = {target: [n for n in known if n == target or n.endswith(f".{target}")] for target in targets}
    for target, found in chosen.items():
        if not found:
            endings = sorted({name.rpartition(".")[2] for name in known})
            held = " and ".join(f"{_called(tower)} holds {_layer_types(part)}" for tower, part in encoders.items())
            raise ValueError(
                f"`targets` names {target!r}, but no Linear or Conv2d layer (without groups) of "
                f"{' or '.join(map(_called, encoders))} is called so; the layers are called "
                f"{', '.join(endings) or 'nothing'}, and {held}."
            )
    wanted = {name for found in chosen.values() for name in found}
    return [name for name in known if name in wanted]


def _choose_parts(model: nn.Module, modules_to_save: Sequence[str] | None, adapted: dict[str, Any]) -> list[str]:
    children = dict(model.named_children())
    bare = [name for name, parameter in model.named_parameters(recurse=False) if parameter.requires_grad]
    if bare:
        raise ValueError(
            f"{type(model).__name__} holds the parameter {bare[0]!r} directly; PEFT would neither train nor save it. "
            "Put it into a small module, as hf_contrastive.modules.logit_scale.LogitScale does."
        )
    if modules_to_save is None:
        parts = [
            name
            for name, child in children.items()
            if name not in getattr(model, "towers", ("backbone",))
            and not isinstance(child, TrainingState)
            and (
                any(parameter.requires_grad for parameter in child.parameters())
                # state without weights (a goal), which belongs to the checkpoint
                or (not list(child.parameters()) and any(True for _ in child.buffers()))
            )
        ]
    else:
        parts = list(modules_to_save)
        unknown = [name for name in parts if name not in children or name in adapted]
        if isinstance(modules_to_save, str) or unknown:
            raise ValueError(
                f"`modules_to_save` is {modules_to_save!r}, but it must be a list of parts beside the backbone: "
                f"{', '.join(name for name in children if name not in adapted) or 'this model has none'}."
            )
    return parts


def _moving_statistics(model: nn.Module, adapted: dict[str, Any]) -> list[str]:
    """Names of the encoders' layers whose running statistics change in training, whatever mode they are in now."""
    frozen = getattr(getattr(model, "config", None), "frozen_modules", None) or []
    return [
        f"{tower}.{name}"
        for tower, encoder in adapted.items()
        if tower not in frozen
        for name, module in encoder.named_modules()
        if getattr(module, "running_mean", None) is not None
    ]


__all__ = ["add_lora", "lora_targets", "trainable_parameter_table"]
