"""Every stored result of the published code against ours.

One test for each fixture DIR/<slug>/<name>: the adapter of its case (`tests/parity/<slug>.py`, `ADAPTERS[case]`) gets
the input tensors and the config, drives the public code of the library, and returns every output by name.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor


Adapter = Callable[[dict[str, Tensor], dict[str, Any]], dict[str, Tensor]]


def load_adapters(folder: Path, slug: str) -> dict[str, Adapter] | None:
    """`ADAPTERS` of one system, None when the system has no adapter module."""
    path = folder / f"{slug}.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location(f"parity_adapters_{slug}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ADAPTERS


def difference(name: str, got: Any, expected: Tensor, rtol: float, atol: float) -> str | None:
    """What is wrong with one output, None when nothing is. In float64; NaN and -inf equal to themselves."""
    got = torch.as_tensor(got).detach().cpu()
    if tuple(got.shape) != tuple(expected.shape):
        return f"{name}: shape {list(got.shape)}, expected {list(expected.shape)}"
    kind = torch.complex128 if expected.is_complex() or got.is_complex() else torch.float64
    got, expected = got.to(kind), expected.to(kind)
    good = torch.isclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)
    if bool(good.all()):
        return None
    error = (got - expected).abs()
    worst = int(torch.where(good, torch.zeros_like(error), torch.nan_to_num(error, nan=torch.inf)).flatten().argmax())
    return (
        f"{name}: {int((~good).sum())} of {good.numel()} values differ (rtol {rtol:g}, atol {atol:g}); worst at flat "
        f"index {worst}: got {got.flatten()[worst]}, expected {expected.flatten()[worst]}"
    )


def test_parity(fixture_file: Path, adapter_folder: Path) -> None:
    slug = fixture_file.parent.name
    facts = json.loads(fixture_file.read_text())
    case = facts["case"]
    adapters = load_adapters(adapter_folder, slug)
    if adapters is None:
        pytest.skip(f"no adapters for {slug}: tests/parity/{slug}.py does not exist")
    if case not in adapters:
        pytest.fail(f"tests/parity/{slug}.py has no adapter for case {case!r}; it has {sorted(adapters)}")

    tensor_file = fixture_file.with_suffix(".safetensors")
    stored = load_file(tensor_file) if tensor_file.is_file() else {}
    absent = [name for name in (*facts["inputs"], *facts["outputs"]) if name not in stored]
    if absent:
        pytest.fail(f"{tensor_file.name} lacks tensors that {fixture_file.name} names: {absent}")
    inputs = {name: stored[name].clone() for name in facts["inputs"]}
    outputs = adapters[case](inputs, facts["config"])

    tolerance = facts["tolerance"]
    by_output = facts.get("tolerance_by_output") or {}
    problems = []
    for name in facts["outputs"]:
        if name not in outputs:
            problems.append(f"{name}: not returned by the adapter, which returned {sorted(outputs)}")
            continue
        limits = by_output.get(name, tolerance)
        problem = difference(name, outputs[name], stored[name], limits["rtol"], limits["atol"])
        if problem is not None:
            problems.append(problem)
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
