"""The examples in the docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest


MODULES = [
    "hf_contrastive.distributed",
    "hf_contrastive.losses.clip",
    "hf_contrastive.losses.info_nce",
    "hf_contrastive.losses.nt_xent",
    "hf_contrastive.losses.sup_con",
    "hf_contrastive.modules.logit_scale",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
