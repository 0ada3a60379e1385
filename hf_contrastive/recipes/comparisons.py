"""What scripts share that run several recipes: their files, words and names."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hf_contrastive.registry import REGISTRY
from hf_contrastive.training.recipe_arguments import load_yaml


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A script's own words, and those behind `--`, which go to every recipe.

    Args:
        words (`Sequence[str]`): for example `sys.argv[1:]`.
    """
    words = list(words)
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


def option_words(fields: Mapping[str, Any]) -> list[str]:
    """Fields of a YAML as words of a recipe's command line.

    Args:
        fields (`Mapping`): name to value; lists become several words, mappings JSON.
    """
    words = []
    for name, value in fields.items():
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict | bool) else value]
        words += [f"--{name}", *map(str, values)]
    return words


def read_comparison(path: Path, needs: Mapping[str, str], domain: str) -> dict[str, Any]:
    """The YAML of a comparison.

    Args:
        path (`Path`): the file, with `systems` by name.
        needs (`Mapping[str, str]`): what it must have besides, with a word on each.
        domain (`str`): of the systems, as in the registry.

    Raises:
        SystemExit: with one line, where something is missing or unknown.
    """
    if not path.is_file():
        near = ", ".join(sorted(other.name for other in path.parent.glob("*.yaml"))) or "none"
        sys.exit(f"error: there is no file {path}; YAML files beside it: {near}.")
    try:
        settings = load_yaml(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        sys.exit(f"error: {path} is not valid YAML: {' '.join(str(error).split())}")
    missing = [name for name in (*needs, "systems") if name not in settings]
    if missing:
        wanted = ", ".join(f"{name} ({word})" for name, word in needs.items())
        sys.exit(f"error: {path} has no {', '.join(missing)}; it needs {wanted} and systems.")
    known = [slug for slug, row in REGISTRY.items() if row.domain == domain]
    unknown = sorted(set(settings["systems"]) - set(known))
    if unknown:
        sys.exit(f"error: {path} names {', '.join(unknown)}; {domain} systems are: {', '.join(known)}.")
    return settings


def chosen_systems(wanted: Sequence[str] | None, settings: Mapping[str, Any], path: Path) -> list[str]:
    """The systems of `--systems`, all of the file by default.

    Args:
        wanted (`Sequence[str]`, *optional*): names.
        settings (`Mapping`): of `read_comparison`.
        path (`Path`): of the file, for the message.

    Raises:
        SystemExit: with one line, where the file has one of them not.
    """
    absent = [slug for slug in wanted or () if slug not in settings["systems"]]
    if absent:
        sys.exit(f"error: --systems has {', '.join(absent)}; {path} has: {', '.join(settings['systems'])}.")
    return list(wanted or settings["systems"])


def file_label(name: str) -> str:
    """A heading as part of a file's name.

    Args:
        name (`str`): for example `"CIFAR-10, 5000 images"`, which becomes `"cifar-10-5000-images"`.
    """
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def shown_path(path: str | Path, root: Path) -> str:
    """A path as a page may name it: from the root of the project, or the last part alone.

    Args:
        path (`str | Path`): of a file.
        root (`Path`): of the project.
    """
    path = Path(path).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


__all__ = ["chosen_systems", "file_label", "option_words", "read_comparison", "shown_path", "split_words"]
