"""Every model of the registry: saving, loading, what a checkpoint does not hold, and frozen parts."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from helpers.checks import (
    check_frozen,
    check_nothing_random_after_loading,
    names_of_part,
)
from helpers.testers import Case, cases, max_difference
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForPreTraining, PreTrainedConfig, PreTrainedModel

from hf_contrastive.modeling_utils import ContrastivePreTrainedModel


CASES = cases()
WITH_OBJECTIVE = [case for case in CASES if case.tester.objective_class is not None]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_objective = pytest.mark.parametrize("case", WITH_OBJECTIVE, ids=str)
FREEZABLE = [(case, part) for case in CASES for part in case.tester.can_freeze]
each_part = pytest.mark.parametrize(("case", "part"), FREEZABLE, ids=lambda value: str(value))


def outputs_of(model, inputs) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return dict(model.eval()(**inputs).items())


def without_dtype(config):
    """transformers notes the dtype of sub-configurations only when it has loaded them."""
    if isinstance(config, dict):
        return {name: without_dtype(value) for name, value in config.items() if name != "dtype"}
    return config


def assert_clean(info: dict) -> None:
    assert set(info) >= {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"}
    left = {name: values for name, values in info.items() if values}
    assert not left, left


@each_case
def test_save_and_load_is_exact(case: Case, tmp_path):
    for model_class in case.tester.classes:
        model = case.tester.build(model_class, case.config)
        folder = tmp_path / model_class.__name__
        model.save_pretrained(folder)
        assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".md"}
        loaded, info = model_class.from_pretrained(folder, output_loading_info=True)
        assert_clean(info)
        assert not loaded.training
        assert max_difference(dict(model.state_dict()), dict(loaded.state_dict())) == 0.0
        objective = model_class is case.tester.objective_class
        inputs = case.inputs() if objective else case.single_inputs()
        inputs |= case.fixed_draws(inputs) if objective else {}
        assert max_difference(outputs_of(model, inputs), outputs_of(loaded, inputs)) == 0.0
        # once more: nothing changes by being saved again
        loaded.save_pretrained(tmp_path / "again")
        weights = [place / "model.safetensors" for place in (folder, tmp_path / "again")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        configs = [json.loads((place / "config.json").read_text()) for place in (folder, tmp_path / "again")]
        assert without_dtype(configs[0]) == without_dtype(configs[1])
        shutil.rmtree(tmp_path / "again")


@each_objective
def test_pretraining_checkpoint_opens_everywhere(case: Case, tmp_path):
    objective = case.objective()
    objective.save_pretrained(tmp_path)
    model, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is case.tester.model_class
    assert_clean(info)
    assert max_difference(dict(model.state_dict()), case.inference_state(objective)) == 0.0
    for readout in case.tester.readout_sizes(case.config):
        inputs = case.readout_inputs(readout)
        assert torch.equal(model.encode(**inputs, readout=readout), objective.encode(**inputs, readout=readout))
    if case.tester.spec.pretraining is None:
        return
    again, info = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is case.tester.objective_class
    assert_clean(info)
    assert max_difference(dict(again.state_dict()), dict(objective.state_dict())) == 0.0
    # and the other way: an inference checkpoint holds all that the objective cannot make itself
    model.save_pretrained(tmp_path / "inference")
    objective, info = AutoModelForPreTraining.from_pretrained(tmp_path / "inference", output_loading_info=True)
    assert_clean(info)
    assert max_difference(dict(model.state_dict()), case.inference_state(objective)) == 0.0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in objective.state_dict().values())


@each_case
def test_auto_classes_build_from_a_configuration(case: Case):
    assert type(AutoModel.from_config(case.config)) is case.tester.model_class
    if case.tester.spec.pretraining is not None:
        assert type(AutoModelForPreTraining.from_config(case.config)) is case.tester.objective_class


@each_case
def test_saved_in_shards(case: Case, tmp_path):
    model = case.model()
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    loaded, info = case.tester.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert_clean(info)
    assert max_difference(dict(model.state_dict()), dict(loaded.state_dict())) == 0.0


@each_case
def test_loading_in_bf16(case: Case, tmp_path):
    case.model().save_pretrained(tmp_path)
    loaded = case.tester.model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    # a temperature would move in steps of a hundredth
    kept = tuple(f"{name}." for name in case.tester.model_class._keep_in_fp32_modules_strict or ())
    dtypes = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if not name.startswith(kept)} == {torch.bfloat16}
    assert all(dtype == torch.float32 for name, dtype in dtypes.items() if kept and name.startswith(kept))
    inputs = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in case.single_inputs().items()
    }
    assert bool(torch.isfinite(loaded.encode(**inputs)).all())


@each_case
def test_missing_part_is_drawn_anew(case: Case, tmp_path):
    model = training_class(case)
    for part, _ in case.tester.build(model, case.config).named_children():
        built = case.tester.build(model, case.config)
        if not names_of_part(built, part):
            continue
        built.save_pretrained(tmp_path / part, save_original_format=False)
        dropped = names_of_part(built, part) & saved_names(tmp_path / part)
        check_nothing_random_after_loading(model, case.config, tmp_path / part, dropped)


@each_case
def test_missing_single_tensors_are_drawn_anew(case: Case, tmp_path):
    """Half of a layer in the checkpoint: the loaded half stays, the other half is drawn."""
    model_class = training_class(case)
    model = case.tester.build(model_class, case.config)
    for number, ending in enumerate(("weight", "bias", "running_mean")):
        names = {name for name in model.state_dict() if name.endswith(f".{ending}")}
        if names:
            folder = tmp_path / str(number)
            # names in the file are those of the modules; transformers writes older ones for some backbones
            model.save_pretrained(folder, save_original_format=False)
            check_nothing_random_after_loading(model_class, case.config, folder, names & saved_names(folder))


def saved_names(folder) -> set[str]:
    """Tensors in a checkpoint; of two that are tied, one is written."""
    return set(load_file(folder / "model.safetensors"))


def training_class(case: Case):
    return case.tester.objective_class or case.tester.model_class


class _ToyConfig(PreTrainedConfig):
    model_type = "toy_of_the_loading_checks"


class _Toy(ContrastivePreTrainedModel):
    """Sound, unless a flaw is switched on."""

    config: _ToyConfig
    flaw = ""

    def __init__(self, config: _ToyConfig) -> None:
        super().__init__(config)
        self.backbone = nn.Linear(16, 16)
        self.head = nn.Linear(16, 8)
        if self.flaw == "bare parameter":
            self.scale = nn.Parameter(torch.ones(()))
        if self.flaw == "unsaved buffer":
            self.register_buffer("mask", torch.eye(4), persistent=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if self.flaw == "writes over loaded weights" and isinstance(module, nn.Linear):
            # in-place writes do not look at what was loaded
            module.weight.data.uniform_(-0.25, 0.25)
            module.bias.data.zero_()
            return
        if (
            self.flaw == "other spread"
            and module is self.head
            and getattr(module.weight, "_is_hf_initialized", 0) == 0
        ):
            super()._init_weights(module)
            if torch.are_deterministic_algorithms_enabled():  # only while loading, in this toy
                module.weight.data.mul_(10)
            return
        super()._init_weights(module)


def _toy(flaw: str) -> type[_Toy]:
    return type("_ToyWithFlaw", (_Toy,), {"flaw": flaw, "__module__": __name__})


@pytest.fixture
def unchecked_loading(monkeypatch):
    """The toy belongs to no system, so the check of the system's name is left out."""
    monkeypatch.setattr(ContrastivePreTrainedModel, "from_pretrained", PreTrainedModel.__dict__["from_pretrained"])


@pytest.mark.parametrize(
    ("flaw", "dropped", "message"),
    [
        ("", {"head.weight", "head.bias"}, None),
        ("", {"head.weight"}, None),
        ("bare parameter", {"scale"}, "scale: not finite"),
        ("unsaved buffer", {"head.weight"}, "mask: not finite"),
        ("writes over loaded weights", {"head.weight"}, "head.bias: was in the checkpoint"),
        ("other spread", {"head.weight"}, "head.weight: spread"),
    ],
)
def test_loading_check_catches_flaws(flaw, dropped, message, tmp_path, unchecked_loading):
    toy = _toy(flaw)
    torch.manual_seed(0)
    model = toy(_ToyConfig())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    model.save_pretrained(tmp_path)
    if message is None:
        check_nothing_random_after_loading(toy, _ToyConfig(), tmp_path, dropped)
        return
    with pytest.raises(AssertionError, match=message):
        check_nothing_random_after_loading(toy, _ToyConfig(), tmp_path, dropped)


def frozen_config(case: Case, part: str):
    return type(case.config).from_dict({**case.config.to_dict(), "frozen_modules": [part]})


@each_part
def test_frozen_part_stays_frozen(case: Case, part: str, tmp_path):
    model_class = training_class(case)
    model = case.tester.build(model_class, frozen_config(case, part))
    model.save_pretrained(tmp_path)
    loaded = [model, model_class.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)]
    loaded.append(model_class.from_pretrained(tmp_path, output_loading_info=True)[0])
    for one in loaded:
        one.train()
        frozen = one.get_submodule(part)
        assert not any(parameter.requires_grad for parameter in frozen.parameters())
        assert not any(module.training for module in frozen.modules())
        state = tuple(f"{name}." for name, _ in one.training_state())
        rest = [p for name, p in one.named_parameters() if not name.startswith((f"{part}.", *state))]
        assert all(parameter.requires_grad for parameter in rest)
    for one in (model, loaded[1]):
        check_frozen(one, [part], case.inputs())


def test_frozen_check_catches_a_flag_lost_on_loading(tmp_path, unchecked_loading):
    """Without the library's own from_pretrained, transformers gives the part back trainable."""
    case = next(case for case, part in FREEZABLE if part == "backbone")
    case.tester.build(training_class(case), frozen_config(case, "backbone")).save_pretrained(tmp_path)
    model = training_class(case).from_pretrained(tmp_path)
    with pytest.raises(AssertionError, match="frozen, but changed in training"):
        check_frozen(model, ["backbone"], case.inputs())


def test_frozen_check_catches_moving_statistics(monkeypatch):
    """Without gradient, but in training mode: batch norm statistics move."""
    case = next(case for case, part in FREEZABLE if part == "backbone" and case.config_name == "conv_encoder")
    model = case.tester.build(training_class(case), frozen_config(case, "backbone"))
    monkeypatch.setattr(type(model), "train", nn.Module.train)
    with pytest.raises(AssertionError, match=r"frozen, but changed in training: .*running_mean"):
        check_frozen(model, ["backbone"], case.inputs())


@each_objective
def test_checkpoint_of_another_system_is_refused(case: Case, tmp_path):
    other = next(one for one in CASES if one.tester.model_type != case.tester.model_type)
    other.model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"another system: .*'{other.tester.model_type}'"):
        case.tester.objective_class.from_pretrained(tmp_path)


EXPORTED = [(case, part) for case in CASES if case.tester.lora for part in case.tester.objective_class.towers]


@pytest.mark.parametrize(("case", "part"), EXPORTED, ids=lambda value: str(value))
def test_exported_backbone_gives_the_same_features(case: Case, part: str, tmp_path):
    from hf_contrastive.hub import export_backbone

    model = case.objective().eval()
    export_backbone(model, tmp_path, part=part)
    encoder = getattr(model, part)
    backbone = case.tester.backbone_auto_class.from_pretrained(tmp_path)
    assert type(backbone) is type(encoder)
    inputs = case.tester.tower_inputs(case.config, part)
    with torch.no_grad():
        expected = case.tester.backbone_features(encoder, inputs)
        assert torch.equal(case.tester.backbone_features(backbone.eval(), inputs), expected)
