"""Recipes as a user starts them, without the start of another interpreter."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_contrastive.registry import REGISTRY


ROOT = Path(__file__).resolve().parents[2]
#: short runs: what a full run of the recipe's default does, in seconds
SHORT = ("--max_steps", "120")


def run_recipe(path: str, *words: str) -> None:
    """`main()` of a file in `recipes/` with these words on the command line."""
    file = ROOT / "recipes" / path
    spec = importlib.util.spec_from_file_location(f"recipe_{path.replace('/', '_').removesuffix('.py')}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before, sys.argv = sys.argv, [str(file), *words]
    try:
        spec.loader.exec_module(module)
        module.main()
    finally:
        sys.argv = before
        del sys.modules[spec.name]


def run(slug: str, *words: str) -> None:
    """`main()` of a system's recipe with these words on the command line."""
    run_recipe(f"{slug}/train.py", *words)


def default(slug: str) -> str:
    """The YAML of a system that needs no download."""
    return str(ROOT / "recipes" / slug / REGISTRY[slug].default_settings)


def check_refused(tmp_path: Path, capsys: Any, message: str, slug: str, *words: str) -> None:
    """A recipe that ends with exit code 2 and this message, without a traceback."""
    with pytest.raises(SystemExit) as stopped:
        run(slug, *words, "--output_dir", str(tmp_path / "out"))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert "error: " in error
    assert "Traceback" not in error
