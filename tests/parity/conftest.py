"""`--golden DIR`: where the fixtures lie, as DIR/<slug>/<case>.safetensors with a .json beside each."""

from __future__ import annotations

from pathlib import Path

import pytest


DEFAULT_GOLDEN = Path(__file__).parents[1] / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        default=str(DEFAULT_GOLDEN),
        metavar="DIR",
        help="folder of parity fixtures, DIR/<slug>/<name>.safetensors (default: tests/golden)",
    )
    parser.addoption(
        "--adapters",
        default=str(Path(__file__).parent),
        metavar="DIR",
        help="folder of adapter modules, DIR/<slug>.py with a dict ADAPTERS (default: tests/parity)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fixture_file" not in metafunc.fixturenames:
        return
    # a run over all of tests/ loads this file too late to parse its options
    golden = Path(metafunc.config.getoption("--golden", default=str(DEFAULT_GOLDEN)))
    if not golden.is_dir():
        raise pytest.UsageError(f"--golden {golden}: no such folder; expected <slug>/<name>.safetensors inside it")
    # a case without any tensor may come as a .json alone
    files = sorted(
        {file.with_suffix(".json") for kind in ("safetensors", "json") for file in golden.glob(f"*/*.{kind}")}
    )
    if not files:
        raise pytest.UsageError(f"--golden {golden}: no fixtures found; expected <slug>/<name>.safetensors inside it")
    metafunc.parametrize("fixture_file", files, ids=[f"{file.parent.name}/{file.stem}" for file in files])


@pytest.fixture
def adapter_folder(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.getoption("--adapters", default=str(Path(__file__).parent)))
