"""A tiny checkpoint and a way to call the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Called:
    """What a call of the command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd, monkeypatch) -> Callable[..., Called]:
    """Call `hf-contrastive` with these arguments; nothing is attached to a terminal."""
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "HF_CONTRASTIVE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    from hf_contrastive.cli import main

    def run(*arguments: object) -> Called:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Called(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A SimCLR checkpoint of a few hundred weights for images of 16x16 pixels."""
    import torch
    from transformers import ViTImageProcessor

    from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining

    folder = tmp_path_factory.mktemp("saved") / "tiny"
    torch.manual_seed(5)
    config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[4, 8]), projection_dims=[8, 4])
    SimCLRForPreTraining(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def birds(tmp_path_factory) -> Path:
    """Thirty colour images with ids and two classes, as parquet."""
    import datasets
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)) for _ in range(30)]
    rows = datasets.Dataset.from_dict(
        {"picture": images, "name": [f"bird-{n}" for n in range(30)], "label": [n % 2 for n in range(30)]}
    )
    path = tmp_path_factory.mktemp("data") / "birds.parquet"
    rows.to_parquet(path)
    return path
