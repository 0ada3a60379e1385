"""Looks at a checkpoint before it is loaded, so that a wrong one is refused in words a user can act on."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_contrastive.hub.atomic import complete_quietly
from hf_contrastive.hub.scrub import is_local_path
from hf_contrastive.registry import SystemSpec, all_model_specs, find_by_model_type


_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint is, read from its configuration only.

    Args:
        model_type (`str`): of its `config.json`; empty for an adapter.
        architectures (`tuple[str, ...]`): class names it was saved from.
        system (`SystemSpec`, *optional*): the row of the registry it belongs to.
        is_adapter (`bool`): a PEFT adapter without the weights of its base.
        base_model (`str`): the base of an adapter.
        weights (`tuple[str, ...]`): its safetensors files; empty for a checkpoint on the hub.
        config (`dict`): the whole configuration.
    """

    model_type: str
    architectures: tuple[str, ...] = ()
    system: SystemSpec | None = None
    is_adapter: bool = False
    base_model: str = ""
    weights: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def _seems_local(name: str) -> bool:
    if is_local_path(name) or name.endswith(("/", os.sep)):
        return True
    # `out/simclr` has the form of a hub id; an existing `out` says that a folder was meant.
    parent = os.path.dirname(name)
    return bool(parent) and os.path.isdir(parent)


def _listing(folder: Path, limit: int = 12) -> str:
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir() if path.name[0] != ".")
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "nothing"


def _missing(name: str) -> FileNotFoundError:
    path = Path(name).expanduser()
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    near = difflib.get_close_matches(path.name, [p.name for p in parent.iterdir() if p.is_dir()], n=1)
    hint = f" Did you mean {parent / near[0]}?" if near else ""
    return FileNotFoundError(
        f"no checkpoint folder {name}: the nearest existing folder, {parent}, holds {_listing(parent)}.{hint} "
        "Give a folder with config.json, or a hub id such as user/name."
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not readable JSON ({error}): the file is damaged or was cut short; take another checkpoint."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a JSON object with the configuration.")
    return content


def _check_safetensors(path: Path) -> None:
    """A file that was cut short is named before torch meets it."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        expected = 8 + length
        if size >= 8 and expected <= size:
            try:
                header = json.loads(handle.read(length))
            except (UnicodeDecodeError, json.JSONDecodeError):
                raise ValueError(f"{path} is not a safetensors file (its header is unreadable).") from None
            header.pop("__metadata__", None)
            expected += max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < max(expected, 8):
        raise ValueError(
            f"{path} is cut short: it has {size} bytes and its header asks for {expected}. "
            "The save or the download was interrupted; take another checkpoint or fetch it again."
        )


def _weight_files(folder: Path, stem: str) -> tuple[str, ...]:
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        files = [single]
    elif index.is_file():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise FileNotFoundError(f"{index} names weight files that are not there: {', '.join(absent)}.")
        files = [folder / name for name in names]
    else:
        # variants such as model.fp16.safetensors
        files = sorted(folder.glob(f"{stem}.*.safetensors"))
    if not files:
        pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLED]
        if any(name.startswith(("pytorch_model", "adapter_model", "model")) for name in pickled):
            raise ValueError(
                f"{folder} holds only pickled weights ({', '.join(pickled)}) and this library never unpickles: a "
                "pickle can run any code. Convert it where you trust it: load it with plain transformers or torch and "
                "call save_pretrained, which writes model.safetensors."
            )
        raise FileNotFoundError(f"{folder} holds no weights ({stem}.safetensors); it holds {_listing(folder)}.")
    for path in files:
        _check_safetensors(path)
    return tuple(path.name for path in files)


def _class_names(model_type: str) -> str:
    """The classes to load a model type with, in words."""
    for spec in all_model_specs():
        if spec.model_type == model_type:
            names = [spec.model.partition(":")[2]]
            if spec.pretraining is not None:
                names.append(spec.pretraining.partition(":")[2])
            return " or ".join(f"hf_contrastive.{name}" for name in names)
    return "transformers.AutoModel"


def _expected_types(expected: SystemSpec | str | None) -> tuple[str, ...]:
    if expected is None:
        return ()
    return (expected.model_type,) if isinstance(expected, SystemSpec) else (expected,)


def _check_type(name: str, info: CheckpointInfo, expected: SystemSpec | str | None) -> None:
    types = _expected_types(expected)
    if not types or info.model_type in types:
        return
    found = repr(info.model_type)
    if info.system is not None:
        found += f" ({info.system.title})"
    if info.architectures:
        found += f", saved from {', '.join(info.architectures)}"
    wanted = repr(types[0])
    system = find_by_model_type(types[0])
    if system is not None and system.model_type == types[0]:
        wanted += f" ({system.title})"
    raise ValueError(
        f"{name} is a checkpoint of another system: found model type {found}; expected {wanted}. "
        f"Load it with {_class_names(info.model_type)}.from_pretrained, or give a checkpoint for "
        f"{_class_names(types[0])}."
    )


def _describe(config: dict[str, Any], weights: tuple[str, ...] = ()) -> CheckpointInfo:
    model_type = str(config.get("model_type") or "")
    architectures = tuple(str(name) for name in config.get("architectures") or ())
    return CheckpointInfo(model_type, architectures, find_by_model_type(model_type), weights=weights, config=config)


def _check_folder(folder: Path, name: str, expected: SystemSpec | str | None) -> CheckpointInfo:
    config_file, adapter_file = folder / "config.json", folder / "adapter_config.json"
    if adapter_file.is_file() and not config_file.is_file():
        config = _read_json(adapter_file)
        weights = _weight_files(folder, "adapter_model")
        base = str(config.get("base_model_name_or_path") or "")
        return CheckpointInfo("", is_adapter=True, base_model=base, weights=weights, config=config)
    if not config_file.is_file():
        inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
        if inner:
            raise FileNotFoundError(
                f"{name} holds no config.json, but these folders in it do: {', '.join(inner)}. Give one of them, "
                f"for example {Path(name) / inner[-1]}."
            )
        raise FileNotFoundError(f"{name} holds no config.json, so it is no checkpoint; it holds {_listing(folder)}.")
    config = _read_json(config_file)
    if not config.get("model_type"):
        raise ValueError(
            f"{config_file} names no 'model_type', so it is not the configuration of a transformers model."
        )
    info = _describe(config)
    _check_type(name, info, expected)
    return _describe(config, _weight_files(folder, "model"))


def check_checkpoint(
    folder_or_id: str | os.PathLike,
    expected: SystemSpec | str | None = None,
    *,
    subfolder: str = "",
    **hub_options: Any,
) -> CheckpointInfo:
    """Refuse a checkpoint that cannot or must not be loaded, before any weight is read.

    Args:
        folder_or_id (`str` or `os.PathLike`): a folder, or an id on the hub.
        expected (`SystemSpec` or `str`, *optional*): the system, or the `model_type`, that the checkpoint must have.
        subfolder (`str`): folder of the checkpoint inside `folder_or_id`.
        hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, for an id on the hub.

    Returns:
        `CheckpointInfo`: what it is.

    Raises:
        FileNotFoundError: the folder, its `config.json` or its weights are missing.
        NotADirectoryError: a file was given.
        ValueError: another system, only pickled weights, a damaged file.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import ResNetConfig, ResNetModel
    >>> from hf_contrastive.hub import check_checkpoint
    >>> folder = tempfile.mkdtemp()
    >>> ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(folder)
    >>> check_checkpoint(folder).model_type
    'resnet'

    ```
    """
    name = os.fspath(folder_or_id)
    path = Path(name).expanduser()
    if path.is_file():
        raise NotADirectoryError(f"{name} is a file; give the folder that holds it (with config.json).")
    if not path.is_dir() and path.parent.is_dir():
        complete_quietly(path)  # a first save may have been interrupted after it was complete
    if path.is_dir():
        folder = path / subfolder if subfolder else path
        if not folder.is_dir():
            raise _missing(str(folder))
        complete_quietly(folder)
        return _check_folder(folder, str(folder) if subfolder else name, expected)
    if _seems_local(name):
        raise _missing(name)

    from transformers import PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(name, subfolder=subfolder, **hub_options)
    info = _describe(config)
    if info.model_type:
        _check_type(name, info, expected)
    return info
