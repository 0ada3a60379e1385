"""Every configuration of the registry: round trips, refusals, documentation."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
import torch
from helpers.checks import local_paths_in
from helpers.testers import TESTS, Case, cases, missing_tester, rows
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig


CASES = cases()
FIRST = [case for number, case in enumerate(CASES) if case.tester not in [c.tester for c in CASES[:number]]]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_model = pytest.mark.parametrize("case", FIRST, ids=str)


def own_fields(config: Any) -> list[str]:
    return sorted(set(type(config).__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__))


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}-{row[2].model_type}")
def test_row_has_a_tester(row):
    problem = missing_tester(*row)
    assert problem is None, problem


@each_case
def test_to_dict_and_back(case: Case):
    config = case.config
    again = type(config).from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert json.loads(config.to_json_string(use_diff=False)) == json.loads(again.to_json_string(use_diff=False))


@each_case
def test_save_and_load(case: Case, tmp_path):
    config = case.config
    config.save_pretrained(tmp_path)
    for loaded in (type(config).from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is type(config)
        for field in own_fields(config):
            ours, theirs = getattr(config, field), getattr(loaded, field)
            assert type(ours) is type(theirs), field
            if isinstance(ours, PreTrainedConfig):
                ours, theirs = ours.to_dict(), theirs.to_dict()
                for transient in ("_name_or_path", "transformers_version"):
                    ours.pop(transient, None), theirs.pop(transient, None)
            assert ours == theirs, field


@each_case
def test_sub_configs_may_be_given_as_dict(case: Case):
    config = case.config
    for name in type(config).sub_configs:
        fields = {field: getattr(config, field) for field in own_fields(config)}
        fields[name] = getattr(config, name).to_dict()
        again = type(config)(**fields)
        assert type(getattr(again, name)) is type(getattr(config, name))
        assert again.to_dict() == config.to_dict()


@each_model
def test_defaults_are_a_valid_configuration(case: Case):
    config = type(case.config)()
    assert config.model_type == case.tester.model_type
    assert type(config).from_dict(config.to_dict()).to_dict() == config.to_dict()


@each_model
def test_two_configurations_share_no_lists(case: Case):
    first, second = type(case.config)(), type(case.config)()
    for field in own_fields(first):
        value = getattr(first, field)
        if isinstance(value, list):
            value.append(99)
            assert getattr(second, field) != value, f"{field} is one list shared by all configurations"


@each_model
def test_bad_values_are_refused_in_words(case: Case):
    config_class = type(case.config)
    validators = {
        name
        for base in config_class.__mro__
        if base.__module__.startswith("hf_contrastive")
        for name in vars(base)
        if name.startswith("validate_")
    }
    seen = set()
    for refusal in case.tester.refusals:
        with pytest.raises((ValueError, StrictDataclassError)) as caught:
            config_class(**refusal.fields)
        message = str(caught.value)
        assert f"`{refusal.field}`" in message, f"{refusal.fields}: {message}"
        assert refusal.allowed in message, f"{refusal.fields}: {message}"
        if refusal.field in refusal.fields:
            assert repr(refusal.fields[refusal.field]) in message, f"{refusal.fields}: {message}"
        error: BaseException | None = caught.value
        while error is not None:
            seen |= {frame.name for frame in traceback.extract_tb(error.__traceback__)}
            error = error.__cause__
    never = validators - seen
    assert not never, f"no refusal in the tester exercises {sorted(never)} of {config_class.__name__}"


@each_model
def test_bad_values_are_refused_on_loading(case: Case, tmp_path):
    refusal = next(refusal for refusal in case.tester.refusals if refusal.field in refusal.fields)
    case.config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **refusal.fields}))
    with pytest.raises((ValueError, StrictDataclassError), match=refusal.field):
        AutoConfig.from_pretrained(tmp_path)


@each_model
def test_wrong_types_are_refused(case: Case):
    config = case.config
    for field in own_fields(config):
        with pytest.raises((TypeError, ValueError, StrictDataclassError), match=field):
            setattr(config, field, object())


@each_model
def test_typos_are_refused(case: Case):
    config = case.config
    for field in own_fields(config):
        typo = field[: len(field) // 2] + field[len(field) // 2 + 1 :]
        with pytest.raises(ValueError, match=rf"no field '{typo}'; did you mean '{field}'"):
            type(config)(**{typo: getattr(config, field)})


@each_model
def test_every_field_is_documented(case: Case):
    documentation = type(case.config).__doc__ or ""
    missing = [field for field in own_fields(case.config) if f"{field} (`" not in documentation]
    missing = [field for field in missing if field != "frozen_modules"]  # documented in the base class
    assert not missing, f"{type(case.config).__name__} does not document {missing}"


@pytest.mark.parametrize("case", [c for c in CASES if "backbone_config" in type(c.config).sub_configs], ids=str)
def test_no_local_path_is_written(case: Case, tmp_path):
    backbone = case.tester.backbone_auto_class.from_config(case.config.backbone_config)
    backbone.save_pretrained(tmp_path / "secret_folder")
    model = case.tester.objective_class.from_backbone(
        str(tmp_path / "secret_folder"), **case.tester.backbone_fields(case.config)
    )
    # otherwise this test would not look at what it is about
    assert str(tmp_path) in json.dumps(model.backbone.config.to_dict() | model.config.to_dict(), default=str)
    model.config.save_pretrained(tmp_path / "config_only")
    model.save_pretrained(tmp_path / "model")
    type(model).from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    for name in ("config_only", "model", "again"):
        assert local_paths_in(tmp_path / name) == [], name
        assert "secret_folder" not in (tmp_path / name / "config.json").read_text()


@pytest.mark.parametrize("case", [c for c in FIRST if c.tester.can_freeze], ids=str)
def test_freezing_an_unknown_part_is_refused(case: Case):
    config = type(case.config).from_dict({**case.config.to_dict(), "frozen_modules": ["backbnoe"]})
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"`frozen_modules` names 'backbnoe', but the parts of .* are: "):
        case.tester.model_class(config)


def test_a_row_without_tester_is_told_what_to_write():
    spec = CASES[0].tester.spec
    problem = missing_tester("new_system", TESTS / "models" / "new_system" / "tester_new_system.py", spec)
    assert problem is not None
    assert "write tests/models/new_system/tester_new_system.py with `class SimCLRTester(ModelTester)`" in problem
