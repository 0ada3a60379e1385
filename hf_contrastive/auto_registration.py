"""Registers the library's models with transformers' Auto classes, without importing torch before transformers does.

transformers has no plug-in discovery: `AutoModel` knows our checkpoints only after our package was imported, and a plain
`AutoModel.register` would import every modeling file at that moment (seconds). So registration waits until transformers
itself loads its Auto modules, and model classes are resolved when one of them is first asked for.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from hf_contrastive import registry


_CONFIG_MODULE = "transformers.models.auto.configuration_auto"
_MODELING_MODULE = "transformers.models.auto.modeling_auto"
_PROCESSING_MODULE = "transformers.models.auto.processing_auto"
_IMAGE_PROCESSING_MODULE = "transformers.models.auto.image_processing_auto"


class _LazyClass:
    """Stands in a mapping for a class that is imported when the mapping is read."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self.load = load


class _ResolvingDict(dict):
    """The part of an Auto mapping that holds classes from outside transformers; resolves `_LazyClass` on reading."""

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        if isinstance(value, _LazyClass):
            value = value.load()
            super().__setitem__(key, value)
        return value

    def get(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            return default
        return self[key]

    def values(self) -> list[Any]:  # type: ignore[override]
        return [self[key] for key in self]

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        return [(key, self[key]) for key in self]

    def __reduce__(self) -> Any:
        return (dict, (dict(self.items()),))


def _make_resolving(mapping: Any) -> _ResolvingDict:
    if not isinstance(mapping._extra_content, _ResolvingDict):
        mapping._extra_content = _ResolvingDict(mapping._extra_content)
    return mapping._extra_content


def _register_configs(module: ModuleType) -> None:
    content = _make_resolving(module.CONFIG_MAPPING)
    for spec in registry.all_model_specs():
        content[spec.model_type] = _LazyClass(spec.config_class)


def _register_models(module: ModuleType) -> None:
    for config_class in _defined_configs:
        _register_model(module, config_class)


def _register_model(module: ModuleType, config_class: type) -> None:
    for spec in registry.all_model_specs():
        if spec.config == f"{config_class.__module__}:{config_class.__name__}":
            _make_resolving(module.MODEL_MAPPING)[config_class] = _LazyClass(spec.model_class)
            if spec.pretraining is not None:
                content = _make_resolving(module.MODEL_FOR_PRETRAINING_MAPPING)
                content[config_class] = _LazyClass(spec.pretraining_class)
            if spec.causal_lm:
                content = _make_resolving(module.MODEL_FOR_CAUSAL_LM_MAPPING)
                content[config_class] = _LazyClass(spec.model_class)
            if spec.reward_model:
                content = _make_resolving(module.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
                content[config_class] = _LazyClass(spec.model_class)
            if spec.zero_shot_image:
                content = _make_resolving(module.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING)
                content[config_class] = _LazyClass(spec.model_class)


def _register_processors(module: ModuleType) -> None:
    # a folder of a processor alone is opened by the name of the class: no configuration is read, and there may be no key yet
    for spec in registry.all_model_specs():
        if spec.processor is not None:
            _make_resolving(module.PROCESSOR_MAPPING)[spec.config] = _LazyClass(spec.processor_class)
    for config_class in _defined_configs:
        _register_processor(module, config_class)


def _register_processor(module: ModuleType, config_class: type) -> None:
    for spec in registry.all_model_specs():
        if spec.processor is not None and spec.config == f"{config_class.__module__}:{config_class.__name__}":
            _make_resolving(module.PROCESSOR_MAPPING)[config_class] = _LazyClass(spec.processor_class)


def _register_image_processors(module: ModuleType) -> None:
    # AutoImageProcessor searches by the name of the class, before any configuration is read: there is no key yet
    for spec in registry.all_model_specs():
        if spec.image_processor is not None:
            _make_resolving(module.IMAGE_PROCESSOR_MAPPING)[spec.config] = _image_processor_by_backend(spec)
    for config_class in _defined_configs:
        _register_image_processor(module, config_class)


def _register_image_processor(module: ModuleType, config_class: type) -> None:
    for spec in registry.all_model_specs():
        if spec.image_processor is not None and spec.config == f"{config_class.__module__}:{config_class.__name__}":
            _make_resolving(module.IMAGE_PROCESSOR_MAPPING)[config_class] = _image_processor_by_backend(spec)


def _image_processor_by_backend(spec: registry.ModelSpec) -> _ResolvingDict:
    return _ResolvingDict({"torchvision": _LazyClass(spec.image_processor_class)})


# Model mappings are keyed by configuration classes. Importing those from a hook that runs in the middle of somebody
# else's import would be circular; each class announces itself here instead when it is defined.
_defined_configs: list[type] = []


def announce_config(config_class: type) -> None:
    """Tell the Auto classes of a configuration class of this library that has just been defined."""
    _defined_configs.append(config_class)
    module = sys.modules.get(_MODELING_MODULE)
    if module is not None and hasattr(module, "MODEL_FOR_PRETRAINING_MAPPING"):
        _register_model(module, config_class)
    module = sys.modules.get(_PROCESSING_MODULE)
    if module is not None and hasattr(module, "PROCESSOR_MAPPING"):
        _register_processor(module, config_class)
    module = sys.modules.get(_IMAGE_PROCESSING_MODULE)
    if module is not None and hasattr(module, "IMAGE_PROCESSOR_MAPPING"):
        _register_image_processor(module, config_class)


_HOOKS: dict[str, Callable[[ModuleType], None]] = {
    _CONFIG_MODULE: _register_configs,
    _MODELING_MODULE: _register_models,
    _PROCESSING_MODULE: _register_processors,
    _IMAGE_PROCESSING_MODULE: _register_image_processors,
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Runs a hook right after one of the named modules was executed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _HOOKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_then_register(module: ModuleType) -> None:
            execute(module)
            _HOOKS[fullname](module)

        spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Register now with the Auto modules that are loaded, and with the others as soon as they are."""
    for name, hook in _HOOKS.items():
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            hook(module)
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
