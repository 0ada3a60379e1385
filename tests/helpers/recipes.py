"""Recipes as a user starts them, without the start of another interpreter."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]


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
