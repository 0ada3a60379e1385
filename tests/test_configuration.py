"""What all configurations share."""

from __future__ import annotations

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from hf_contrastive import ConvEncoderConfig, SimCLRConfig
from hf_contrastive.configuration_utils import blank_local_paths, require


def test_require():
    require(True, "temperature", 0.1, "above 0")
    with pytest.raises(ValueError, match=r"^`temperature` is -0.1, but it must be above 0\.$"):
        require(False, "temperature", -0.1, "above 0")


def test_fields_of_transformers_are_taken():
    config = SimCLRConfig(dtype="float32", id2label={0: "a"})
    assert config.id2label == {0: "a"}


def test_unknown_fields_that_resemble_nothing_are_kept():
    """As transformers does; newer checkpoints may hold more than this version knows."""
    assert SimCLRConfig(written_by_a_newer_version=1).written_by_a_newer_version == 1


def test_refused_when_set_later():
    config = SimCLRConfig()
    with pytest.raises(StrictDataclassError, match="temperature"):
        config.temperature = "warm"


def test_invalid_values_are_not_saved(tmp_path):
    config = SimCLRConfig()
    config.temperature = -1.0
    with pytest.raises((ValueError, StrictDataclassError), match=r"`temperature` is -1\.0"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_whole_numbers_where_floats_are_meant():
    assert SimCLRConfig(temperature=1).temperature == 1


def test_lists_are_not_shared_with_the_caller_of_from_dict():
    fields = SimCLRConfig(projection_dims=[8, 4]).to_dict()
    config = SimCLRConfig.from_dict(fields)
    assert config.projection_dims == [8, 4]
    assert SimCLRConfig().projection_dims == [2048, 128]


def test_local_paths_are_blanked_and_hub_ids_kept(tmp_path):
    config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[4]))
    config._name_or_path = str(tmp_path / "gone")
    config.backbone_config._name_or_path = "someone/encoder"
    blank_local_paths(config)
    assert config._name_or_path == ""
    assert config.backbone_config._name_or_path == "someone/encoder"
    config.save_pretrained(tmp_path)
    assert "someone/encoder" in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("name", ["relative_folder", "deep/relative/folder", "./here", "~/model"])
def test_relative_folders_are_local_paths(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relative_folder").mkdir()
    (tmp_path / "deep" / "relative" / "folder").mkdir(parents=True)
    config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[4]))
    config.backbone_config._name_or_path = name
    config.save_pretrained(tmp_path / "saved")
    assert (
        json.loads((tmp_path / "saved" / "config.json").read_text())["backbone_config"].get("_name_or_path", "") == ""
    )


def test_plain_configurations_have_no_sub_configurations():
    config = PreTrainedConfig()
    blank_local_paths(config)
    assert config._name_or_path == ""
