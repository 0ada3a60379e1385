"""The table of systems, and the registration made from it."""

from __future__ import annotations

import dataclasses
import pickle
import re

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING, MODEL_MAPPING

from hf_contrastive import ConvEncoderConfig, auto_registration, get_system, list_systems
from hf_contrastive.registry import REGISTRY, all_model_specs, find_by_model_type


each_row = pytest.mark.parametrize("slug", list(REGISTRY))
each_spec = pytest.mark.parametrize("spec", all_model_specs(), ids=lambda spec: spec.model_type)


@each_row
def test_row_is_complete(slug):
    row = REGISTRY[slug]
    assert row.slug == slug
    assert re.fullmatch(r"[a-z0-9_]+", slug)
    for field in dataclasses.fields(row):
        if field.default is dataclasses.MISSING:
            assert getattr(row, field.name), f"{slug} has no {field.name}"
    assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", row.paper_url)
    assert row.status in ("ready", "experimental")
    assert row.bibtex.startswith("@")
    assert row.bibtex.count("{") == row.bibtex.count("}")
    assert str(row.year) in row.bibtex
    assert row.summary.endswith(".")
    assert row.model_class().main_input_name == row.main_input
    assert row.recipe == f"recipes/{slug}"
    assert row.card == f"model_cards/{slug}.md"


@each_spec
def test_references_resolve(spec):
    assert issubclass(spec.config_class(), PreTrainedConfig)
    assert spec.config_class().model_type == spec.model_type
    for model_class in (spec.model_class(), spec.pretraining_class()):
        if model_class is not None:
            assert issubclass(model_class, PreTrainedModel)
            assert model_class.config_class is spec.config_class()


def test_no_name_is_used_twice():
    types = [spec.model_type for spec in all_model_specs()]
    assert len(types) == len(set(types))
    classes = [name for spec in all_model_specs() for name in (spec.config, spec.model, spec.pretraining) if name]
    assert len(classes) == len(set(classes))


@each_spec
def test_auto_classes_know_the_model(spec):
    config_class = spec.config_class()
    assert CONFIG_MAPPING[spec.model_type] is config_class
    assert type(AutoConfig.for_model(spec.model_type)) is config_class
    assert MODEL_MAPPING[config_class] is spec.model_class()
    assert config_class in MODEL_MAPPING
    assert (config_class in MODEL_FOR_PRETRAINING_MAPPING) == (spec.pretraining is not None)
    if spec.pretraining is not None:
        assert MODEL_FOR_PRETRAINING_MAPPING[config_class] is spec.pretraining_class()


def test_auto_classes_still_know_their_own_models():
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8)
    assert type(AutoModel.from_config(config)) is ViTModel
    assert "bert" in CONFIG_MAPPING
    assert ConvEncoderConfig in list(MODEL_MAPPING.keys())


def test_whole_mappings_can_be_read():
    """Code that walks through a mapping meets classes, not the stand-ins for them."""
    assert all(isinstance(value, type) for value in CONFIG_MAPPING._extra_content.values())
    content = MODEL_MAPPING._extra_content
    assert all(isinstance(value, type) for _, value in content.items())
    restored = pickle.loads(pickle.dumps(content))
    assert restored == dict(content.items())
    assert content.get(int, "nothing") == "nothing"


def test_others_may_register_beside_us():
    class OutsideConfig(PreTrainedConfig):
        model_type = "outside_of_the_library"

    class OutsideModel(PreTrainedModel):
        config_class = OutsideConfig

        def __init__(self, config):
            super().__init__(config)
            self.layer = torch.nn.Linear(2, 2)
            self.post_init()

    AutoConfig.register("outside_of_the_library", OutsideConfig)
    AutoModel.register(OutsideConfig, OutsideModel)
    assert type(AutoModel.from_config(OutsideConfig())) is OutsideModel
    with pytest.raises(ValueError, match="AutoModelForPreTraining"):
        AutoModelForPreTraining.from_config(OutsideConfig())


def test_installing_twice_changes_nothing():
    before = dict(CONFIG_MAPPING._extra_content.items())
    auto_registration.install()
    assert dict(CONFIG_MAPPING._extra_content.items()) == before


def test_get_system():
    assert get_system("simclr").title == "SimCLR"
    with pytest.raises(KeyError, match=r"unknown system 'simclrr'.*Did you mean .*simclr"):
        get_system("simclrr")


def test_list_systems():
    assert [row.slug for row in list_systems()] == list(REGISTRY)


def test_find_by_model_type():
    assert find_by_model_type("denoising_autoencoder") is get_system("gsimclr")
    assert find_by_model_type("conv_encoder") is None
    assert find_by_model_type("bert") is None
