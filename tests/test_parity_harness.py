"""The parity harness must fail when something is wrong: checked on made-up systems with known mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


PARITY = Path(__file__).parent / "parity"

ADAPTERS = """
import torch

def right(inputs, config):
    assert set(inputs) == {"x"}  # outputs are not handed over
    return {"y": inputs["x"].double() * config["factor"], "extra": torch.ones(3)}

def wrong(inputs, config):
    return {"y": inputs["x"] * config["factor"] + 1e-3}

def missing(inputs, config):
    return {"z": inputs["x"]}

def reshaped(inputs, config):
    return {"y": (inputs["x"] * config["factor"])[None]}

def broken(inputs, config):
    raise RuntimeError("adapter broke")

def odd_values(inputs, config):
    return {"y": torch.tensor([float("nan"), -float("inf"), 1.0])}

def not_nan(inputs, config):
    return {"y": torch.tensor([0.0, -float("inf"), 1.0])}

def no_inputs(inputs, config):
    assert not inputs
    return {"y": torch.arange(config["n"])}

def nothing(inputs, config):
    return {}

ADAPTERS = {f.__name__: f for f in (right, wrong, missing, reshaped, broken, odd_values, not_nan, no_inputs, nothing)}
"""


def _write(folder: Path, name: str, case: str, inputs: dict, outputs: dict, config: dict, **facts: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if inputs or outputs:
        save_file({**inputs, **outputs}, folder / f"{name}.safetensors")
    facts = {"tolerance": {"rtol": 1e-6, "atol": 1e-9}, **facts}
    facts |= {"case": case, "inputs": list(inputs), "outputs": list(outputs), "config": config}
    (folder / f"{name}.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Outcome by test id of one run over all made-up fixtures."""
    root = tmp_path_factory.mktemp("harness")
    golden, adapters = root / "golden", root / "adapters"
    adapters.mkdir()
    (adapters / "made_up.py").write_text(ADAPTERS)
    x = torch.linspace(0.5, 2, 6)
    y = {"y": x.double() * 3}
    for case in ("right", "wrong", "missing", "reshaped", "broken", "unknown_case"):
        _write(golden / "made_up", case, case, {"x": x}, y, {"factor": 3})
    loose = {"y": {"rtol": 0.0, "atol": 0.01}}
    _write(golden / "made_up", "wrong_but_loose", "wrong", {"x": x}, y, {"factor": 3}, tolerance_by_output=loose)
    odd = {"y": torch.tensor([float("nan"), -float("inf"), 1.0])}
    _write(golden / "made_up", "odd_values", "odd_values", {}, odd, {})
    _write(golden / "made_up", "not_nan", "not_nan", {}, odd, {})
    _write(golden / "made_up", "no_inputs", "no_inputs", {}, {"y": torch.arange(4)}, {"n": 4})
    _write(golden / "made_up", "nothing", "nothing", {}, {}, {})
    _write(golden / "stranger", "right", "right", {"x": x}, y, {"factor": 3})
    command = [sys.executable, "-m", "pytest", str(PARITY), "--golden", str(golden), "--adapters", str(adapters)]
    command += ["-rA", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=PARITY.parents[1], timeout=120)
    assert run.returncode == 1, run.stdout + run.stderr
    found = dict(re.findall(r"test_parity\[(\S+)\] ?.*?\b(PASSED|FAILED|SKIPPED)\b", run.stdout))
    for outcome, name in re.findall(r"^(PASSED|FAILED) \S*test_parity\[(\S+)\]", run.stdout, re.MULTILINE):
        found[name] = outcome
    if "no adapters for stranger" in run.stdout:
        found["stranger/right"] = "SKIPPED"
    found["output"] = run.stdout
    return found


@pytest.mark.parametrize("name", ["right", "wrong_but_loose", "odd_values", "no_inputs", "nothing"])
def test_harness_accepts(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[f"made_up/{name}"] == "PASSED"


@pytest.mark.parametrize("name", ["wrong", "missing", "reshaped", "broken", "unknown_case", "not_nan"])
def test_harness_refuses(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[f"made_up/{name}"] == "FAILED"


def test_harness_skips_a_system_without_adapters(outcomes: dict[str, str]) -> None:
    assert outcomes["stranger/right"] == "SKIPPED"


def test_harness_says_what_is_wrong(outcomes: dict[str, str]) -> None:
    assert "y: not returned by the adapter, which returned ['z']" in outcomes["output"]
    assert "has no adapter for case 'unknown_case'" in outcomes["output"]
    assert "shape [1, 6], expected [6]" in outcomes["output"]
    assert "6 of 6 values differ" in outcomes["output"]
