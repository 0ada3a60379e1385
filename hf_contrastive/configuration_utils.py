"""What all configurations of the library share."""

import difflib
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_contrastive import auto_registration


#: from the output of a vision model, or of a text model, to one vector; see `modules/pooling.py`
IMAGE_POOLINGS = ("auto", "mean", "cls", "pooler")
TEXT_POOLINGS = ("max", "mean", "cls", "last", "pooler")


@strict
class ContrastiveConfig(PreTrainedConfig):
    r"""
    Base of every configuration of the library.

    A misspelt field is an error here: transformers stores unknown keywords silently as attributes, which turns
    `temprature=0.1` into a run at the default temperature.

    Args:
        frozen_modules (`list[str]`, *optional*):
            Names of direct submodules of the model, for example `["backbone"]`, that are not trained: their parameters
            get `requires_grad=False` after construction and after `from_pretrained`, and they stay in eval mode, so
            that batch-norm statistics do not move either.
    """

    frozen_modules: list[str] | None = None

    def __init_subclass__(cls, *args: Any, **kwargs: Any) -> None:
        super().__init_subclass__(*args, **kwargs)
        auto_registration.announce_config(cls)

    def __post_init__(self, **kwargs: Any) -> None:
        fields = [name for name in type(self).__dataclass_fields__ if not name.startswith("_")]
        for name in kwargs:
            if hasattr(type(self), name):  # `model_type` and other attributes that are no fields
                continue
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.8)
            if near:
                raise ValueError(
                    f"{type(self).__name__} has no field {name!r}; did you mean {near[0]!r}? "
                    f"Fields: {', '.join(sorted(set(fields) - set(PreTrainedConfig.__dataclass_fields__)))}."
                )
        super().__post_init__(**kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write `config.json`, without local paths; see `transformers.PreTrainedConfig.save_pretrained`."""
        blank_local_paths(self)
        super().save_pretrained(save_directory, *args, **kwargs)


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Refuse a field value in a `validate_*` method.

    Args:
        condition (`bool`): whether the value is fine.
        field (`str`): name of the field.
        value: what was given.
        allowed (`str`): what is allowed, in words.

    Raises:
        ValueError: names the field, the value and what is allowed.

    Example:

    ```python
    >>> from hf_contrastive.configuration_utils import require
    >>> require(0.1 > 0, "temperature", 0.1, "a number above 0")

    ```
    """
    if not condition:
        raise ValueError(f"`{field}` is {value!r}, but it must be {allowed}.")


def feature_size_of(config: Any, field: str = "backbone_config") -> int:
    """Size of the vectors that an encoder gives, by its configuration.

    Args:
        config (`PreTrainedConfig`): of the encoder, whatever it calls its size.
        field (`str`, defaults to `"backbone_config"`): the field that holds it, for the message.

    Raises:
        ValueError: it names no size.

    Example:

    ```python
    >>> from transformers import ResNetConfig
    >>> from hf_contrastive.configuration_utils import feature_size_of
    >>> feature_size_of(ResNetConfig(hidden_sizes=[8, 16], depths=[1, 1]))
    16

    ```
    """
    sizes = getattr(config, "hidden_sizes", None)
    if sizes:
        return list(sizes)[-1]
    names = ("output_size", "hidden_size", "d_model", "num_features", "hidden_dim", "embed_dim")
    for name in names:
        size = getattr(config, name, None)
        if isinstance(size, int):
            return size
    raise ValueError(
        f"cannot tell the feature size of a {type(config).__name__}: it has none of hidden_sizes, {', '.join(names)}; set "
        f"`hidden_size` in `{field}`."
    )


def require_model_type(backbone_config: Any, example: str, field: str = "backbone_config") -> None:
    """Refuse a dictionary that describes a backbone without saying which one.

    Args:
        backbone_config: as given; anything but a dictionary is fine.
        example (`str`): a `model_type` for the message.
        field (`str`, defaults to `"backbone_config"`): the field that holds it, for the message.

    Raises:
        ValueError: the dictionary has no `model_type`.
    """
    if isinstance(backbone_config, dict) and "model_type" not in backbone_config:
        raise ValueError(
            f"`{field}` has the keys {sorted(backbone_config)}, but no 'model_type'; add for example "
            f"model_type={example!r}."
        )


def blank_local_paths(config: Any) -> None:
    """Remove folder names from a configuration and its sub-configurations, in place; hub ids stay.

    `to_dict` keeps `_name_or_path` of nested configurations, so that the path of a locally loaded backbone would be
    written to `config.json`.
    """
    from hf_contrastive.hub.scrub import is_local_path

    if is_local_path(getattr(config, "_name_or_path", "") or ""):
        config._name_or_path = ""
    for key in getattr(type(config), "sub_configs", None) or {}:
        sub_config = getattr(config, key, None)
        if sub_config is not None:
            blank_local_paths(sub_config)
