"""Finds and removes what must not leave the machine: local paths in configurations and texts."""

from __future__ import annotations

import codecs
import json
import os
import re
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any


# Keys that hold the place a thing came from: a hub id may stay, a local path may not.
_SOURCE_KEYS = {"_name_or_path", "name_or_path", "base_model_name_or_path", "model_name_or_path"}

# Folders that are the same on every machine and say nothing about the user.
_SYSTEM_ROOTS = {"dev", "proc", "sys", "usr", "bin", "sbin", "lib", "lib32", "lib64", "etc", "boot"}

# Where people keep their work, on machines other than this one too.
_KNOWN_ROOTS = {
    *("home", "root", "Users", "Volumes", "tmp", "var", "mnt", "media", "opt", "srv", "run", "private"),
    *("work", "workspace", "data", "datasets", "scratch", "storage", "shared", "projects", "export", "cluster"),
    *("content", "kaggle", "dbfs", "gpfs", "lustre", "nfs", "net", "fsx", "efs", "cache"),
}

# Vocabularies legitimately hold pieces of anything.
_VOCABULARY_FILES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "spiece.model"}

_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@lru_cache(maxsize=1)
def _path_pattern() -> re.Pattern[str]:
    roots = set(_KNOWN_ROOTS)
    for place in (Path("/"), Path.home().anchor):
        try:
            roots |= {path.name for path in Path(place).iterdir() if path.is_dir() and not path.name.startswith(".")}
        except OSError:
            continue
    for place in (Path.home(), Path.cwd(), Path(tempfile.gettempdir())):
        if len(place.parts) > 1 and place.parts[0] == "/":
            roots.add(place.parts[1])
    named = "|".join(sorted((re.escape(root) for root in roots - _SYSTEM_ROOTS), key=len, reverse=True))
    inside = r"[^\s\"'`<>|*?,;:()\[\]{}]"
    posix = rf"(?:file://)?/(?:{named})/{inside}+"
    home = rf"~(?:[A-Za-z_][\w.-]*)?/{inside}+"
    windows = r"[A-Za-z]:(?:\\\\?|/)(?![/\\])" + rf"{inside}+"
    share = r"\\\\\\?\\?[\w.-]+\\" + rf"{inside}+"
    # Not inside a word, a URL or a longer relative path.
    return re.compile(rf"(?<![\w/.:~<\\-])(?:{posix}|{home}|{windows}|{share})|(?<![\w/])file:///{inside}+")


def find_local_paths(text: str) -> list[tuple[int, str]]:
    """Absolute local paths in a text.

    Args:
        text (`str`): any text.

    Returns:
        `list[tuple[int, str]]`: line number (from 1) and the path found there.

    Example:

    ```python
    >>> from hf_contrastive.hub import find_local_paths
    >>> find_local_paths("see https://host/data/x\\nread /home/user/images/1.png")
    [(2, '/home/user/images/1.png')]

    ```
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        found += [(number, match.group(0)) for match in _path_pattern().finditer(line)]
    return found


def is_local_path(value: str) -> bool:
    """Whether a model or data source is a place on this machine rather than a hub id.

    Args:
        value (`str`): for example the `_name_or_path` of a configuration.

    Example:

    ```python
    >>> from hf_contrastive.hub import is_local_path
    >>> [is_local_path(value) for value in ("microsoft/resnet-18", "./out", "/srv/model", "a/b/c", "")]
    [False, True, True, True, False]

    ```
    """
    if not value:
        return False
    if value.startswith(("/", "~", ".", "\\", "file:")) or re.match(r"[A-Za-z]:[\\/]", value):
        return True
    # Loading prefers an existing folder to a hub id of the same name; what is no id can only have been a path.
    return os.path.isdir(value) or not _REPO_ID.fullmatch(value)


def _shorten(match: re.Match[str]) -> str:
    return "<local>/" + re.split(r"[\\/]", match.group(0).rstrip("\\/"))[-1]


def scrub_text(text: str) -> str:
    """Replace absolute local paths by `<local>/name`.

    Args:
        text (`str`): any text.

    Returns:
        `str`: the text with only the last part of every absolute local path.

    Example:

    ```python
    >>> from hf_contrastive.hub import scrub_text
    >>> scrub_text("train.py --dataset_path /home/user/cifar10")
    'train.py --dataset_path <local>/cifar10'

    ```
    """
    return _path_pattern().sub(_shorten, text)


def scrub_config(config: Any) -> Any:
    """A copy of a configuration without local paths.

    `_name_or_path` and its relatives (`base_model_name_or_path` of an adapter) are emptied when they name a local
    folder, at any depth; a hub id stays. Other absolute paths lose all but their last part.

    Args:
        config: the dictionary of a JSON file (or any value inside one).

    Returns:
        The same structure, scrubbed; the argument is not changed.

    Example:

    ```python
    >>> from hf_contrastive.hub import scrub_config
    >>> scrub_config({"_name_or_path": "/home/user/x", "backbone_config": {"_name_or_path": "microsoft/resnet-18"}})
    {'_name_or_path': '', 'backbone_config': {'_name_or_path': 'microsoft/resnet-18'}}

    ```
    """
    if isinstance(config, dict):
        result = {}
        for key, value in config.items():
            if key in _SOURCE_KEYS and isinstance(value, str):
                result[key] = "" if is_local_path(value) else value
            elif key == "best_model_checkpoint" and isinstance(value, str):
                result[key] = re.split(r"[\\/]", value.rstrip("\\/"))[-1]
            else:
                result[key] = scrub_config(value)
        return result
    if isinstance(config, list):
        return [scrub_config(value) for value in config]
    return scrub_text(config) if isinstance(config, str) else config


def _json_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.json")):
        if path.is_file() and path.name not in _VOCABULARY_FILES and not path.name.endswith(".index.json"):
            yield path


def scrub_folder(folder: str | os.PathLike) -> list[str]:
    """Remove local paths from the JSON files of a folder, in place.

    Args:
        folder: a checkpoint or adapter folder.

    Returns:
        `list[str]`: names of the files that were changed.
    """
    folder = Path(folder)
    changed = []
    for path in _json_files(folder):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError):
            continue
        clean = scrub_config(content)
        if clean != content:
            # A new file instead of an edit in place: the old one may be shared with another folder by a hard link.
            path.unlink()
            path.write_text(json.dumps(clean, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            changed.append(path.relative_to(folder).as_posix())
    return changed


def local_paths_in_file(path: str | os.PathLike) -> list[tuple[int, str]]:
    """Absolute local paths in a text file or in the metadata of a safetensors file; nothing for other files."""
    path = Path(path)
    if path.name in _VOCABULARY_FILES:
        return []
    if path.suffix == ".safetensors":
        with open(path, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(size)) if 0 < size <= path.stat().st_size else {}
        return find_local_paths("\n".join(map(str, (header.get("__metadata__") or {}).values())))
    data = path.read_bytes()
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        text = data.decode("utf-16", errors="replace")
    elif b"\0" in data[:8192]:
        return []
    else:
        text = data.decode("utf-8", errors="replace")  # a letter of another encoding does not hide the rest
    found = find_local_paths(text)
    if path.suffix == ".json":
        # In JSON a backslash is doubled and a slash may be escaped.
        found += find_local_paths(text.replace("\\\\", "\\").replace("\\/", "/"))
    return sorted(set(found))
