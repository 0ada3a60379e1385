"""`hf-contrastive info`: every field of every system is explained."""

from __future__ import annotations

import json

import pytest

from hf_contrastive.cli.info import config_fields, parse_arguments
from hf_contrastive.registry import REGISTRY


def test_parse_arguments():
    doc = """Title.

    Args:
        one (`int`, defaults to 3): first,
            over two lines: yes.
        two, three (`list[int]`, *optional*): both.
        four (`dict` or `PreTrainedConfig`, *optional*):
            below (in brackets).

    Example:
        five (`int`): not an argument.
    """
    found = parse_arguments(doc)
    assert list(found) == ["one", "two", "three", "four"]
    assert found["one"] == {"type": "int", "meaning": "first, over two lines: yes."}
    assert found["three"] == {"type": "list[int]", "meaning": "both."}
    assert found["four"] == {"type": "dict or PreTrainedConfig", "meaning": "below (in brackets)."}
    assert parse_arguments(None) == {}
    assert parse_arguments("No section.") == {}


@pytest.mark.parametrize("slug", REGISTRY)
def test_every_field_has_a_meaning(slug):
    for model in REGISTRY[slug].models:
        config = model.config_class()()
        rows = config_fields(model.config_class())
        assert rows
        assert all(row["meaning"] and row["type"] for row in rows), [r["name"] for r in rows if not r["meaning"]]
        names = {row["name"] for row in rows}
        assert "frozen_modules" in names  # inherited from the base of all configurations
        saved = {key for key in config.to_dict() if key in type(config).__dataclass_fields__}
        own = {name for name in saved if any(name in vars(cls).get("__annotations__", {}) for cls in _ours(config))}
        assert own <= names


def _ours(config):
    return [cls for cls in type(config).__mro__ if cls.__module__.startswith("hf_contrastive.")]


def test_fields_of_the_family_are_shown_with_the_systems_default(call):
    shown = json.loads(call("info", "gsimclr", "--json").out)
    assert [model["model_type"] for model in shown["models"]] == ["gsimclr", "denoising_autoencoder"]
    fields = {row["name"]: row for row in shown["models"][0]["fields"]}
    assert fields["projection_dims"]["default"] == [256, 128, 50]
    assert fields["temperature"] == {**fields["temperature"], "type": "float", "default": 0.1}
    assert fields["backbone_config"]["default"] == "cifar_resnet"


def test_the_page_names_paper_classes_and_recipe(call):
    text = call("info", "simclr").out
    spec = REGISTRY["simclr"]
    for part in (spec.paper_url, "SimCLRForPreTraining", "recipes/simclr/train.py", "hf-contrastive train simclr"):
        assert part in text
    assert "temperature" in text
