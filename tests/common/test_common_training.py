"""Every system of the registry: steps of the Trainer, exact resume, two processes, LoRA."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.checks import local_paths_in, tensors_of
from helpers.ddp_checks import check_two_processes_equal_one
from helpers.testers import Case, cases, max_difference
from torch import nn
from transformers import AutoModel

from hf_contrastive import ContrastiveTrainer, ContrastiveTrainingArguments
from hf_contrastive.modules.lora import add_lora


CASES = [case for case in cases() if case.tester.objective_class is not None]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
FREEZABLE = [(case, part) for case in CASES for part in case.tester.can_freeze]
WITH_LORA = [case for case in CASES if case.tester.lora]
each_lora = pytest.mark.parametrize("case", WITH_LORA, ids=str)
ROWS = 24


def make_trainer(case: Case, model, folder, **settings) -> ContrastiveTrainer:
    inputs = case.inputs(batch=ROWS)
    rows = [{name: value[row] for name, value in inputs.items()} for row in range(ROWS)]
    options = {
        "max_steps": 2,
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "weight_decay": 0.1,
        "dataloader_pin_memory": False,
    }
    arguments = ContrastiveTrainingArguments(str(folder), **{**options, **settings})
    return ContrastiveTrainer(model, arguments, train_dataset=rows)


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}


@each_case
def test_two_steps_of_the_trainer(case: Case, tmp_path):
    model = case.objective()
    before = snapshot(model)
    trainer = make_trainer(case, model, tmp_path)
    result = trainer.train()
    assert result.global_step == 2
    assert result.training_loss == pytest.approx(
        sum(trainer.state.log_history[i]["loss"] for i in (0, 1)) / 2, rel=1e-3
    )
    parts = tuple(f"{name}." for name in case.tester.parts_of(case.config))
    moving = {name: p for name, p in model.named_parameters() if p.requires_grad or name.startswith(parts)}
    still = [name for name, p in moving.items() if torch.equal(before[name], p)]
    assert not still, f"two steps with weight decay did not move {still}"
    trainer.save_model(str(tmp_path / "final"))
    assert local_paths_in(tmp_path / "final") == []
    loaded = AutoModel.from_pretrained(tmp_path / "final")
    assert max_difference(dict(loaded.state_dict()), case.inference_state(model)) == 0.0


@each_case
def test_resume_is_exact(case: Case, tmp_path):
    straight = case.objective()
    make_trainer(case, straight, tmp_path, max_steps=4, save_strategy="steps", save_steps=2).train()
    resumed = case.objective(seed=3)
    torch.manual_seed(99)
    make_trainer(case, resumed, tmp_path / "other", max_steps=4).train(str(tmp_path / "checkpoint-2"))
    case.tester.settle(straight), case.tester.settle(resumed)
    assert max_difference(snapshot(straight), snapshot(resumed)) == 0.0
    # the last two steps changed something, or this comparison would say nothing
    halfway = AutoModel.from_pretrained(tmp_path / "checkpoint-2")
    assert max_difference(dict(halfway.state_dict()), case.inference_state(straight)) > 0


@pytest.mark.parametrize(("case", "part"), FREEZABLE, ids=str)
def test_frozen_part_does_not_move_in_the_trainer(case: Case, part: str, tmp_path):
    config = type(case.config).from_dict({**case.config.to_dict(), "frozen_modules": [part]})
    case.tester.build(case.tester.objective_class, config).save_pretrained(tmp_path / "start")
    model = case.tester.objective_class.from_pretrained(tmp_path / "start")
    before = snapshot(model)
    make_trainer(case, model, tmp_path / "run").train()
    moved = [name for name, tensor in snapshot(model).items() if not torch.equal(tensor, before[name])]
    assert not [name for name in moved if name.startswith(f"{part}.")]
    assert moved


@pytest.mark.distributed
@each_case
def test_two_processes_equal_one(case: Case, gloo_pool):
    check_two_processes_equal_one(gloo_pool, case, training=False)


def keeps_batch_statistics(case: Case) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in case.objective().modules())


@pytest.mark.distributed
@pytest.mark.parametrize("case", [case for case in CASES if not keeps_batch_statistics(case)], ids=str)
def test_two_processes_equal_one_in_training_mode(case: Case, gloo_pool):
    check_two_processes_equal_one(gloo_pool, case, training=True)


@pytest.mark.distributed
@pytest.mark.parametrize(("flaw", "message"), [("local negatives", "^loss "), ("lost gradient", "^gradient of ")])
def test_two_process_check_catches_flaws(flaw, message, gloo_pool):
    case = next(case for case in WITH_LORA if not keeps_batch_statistics(case))
    with pytest.raises(AssertionError, match=message):
        check_two_processes_equal_one(gloo_pool, case, training=False, flaw=flaw)


def encodings(model, case: Case) -> dict[str, torch.Tensor]:
    inputs = case.single_inputs()
    return {readout: model.encode(**inputs, readout=readout) for readout in case.tester.readout_sizes(case.config)}


@each_lora
def test_lora_trains_saves_loads_and_merges(case: Case, tmp_path):
    from peft import PeftModel

    base = case.objective()
    untouched = copy.deepcopy(base)
    model = add_lora(base, r=4)
    start = encodings(model, case)
    assert max_difference(start, encodings(untouched, case)) == 0.0, "a new adapter changes nothing"
    parts = [name for name, child in untouched.named_children() if any(p.requires_grad for p in child.parameters())]
    trainable = {name for name, parameter in model.get_base_model().named_parameters() if parameter.requires_grad}
    for part in parts:
        assert any(name.startswith(f"{part}.") for name in trainable), f"nothing of {part} is trained"
    state = tuple(f"{name}." for name, _ in model.get_base_model().training_state())
    originals = {
        name: p.clone()
        for name, p in model.get_base_model().named_parameters()
        if name not in trainable and not name.startswith(state)
    }

    make_trainer(case, model, tmp_path / "run", max_steps=3).train()
    after = dict(model.get_base_model().named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in originals.items()), "frozen weights moved"
    trained = encodings(model, case)
    assert min(float((trained[r] - start[r]).abs().max()) for r in trained) > 1e-3

    # the two halves of forward, as the gradient cache calls them
    inputs = case.inputs()
    model.eval()
    with torch.no_grad():
        inner = model.get_base_model()
        whole = model(**inputs).loss
        views = {name: value for name, value in inputs.items() if name in inner.view_inputs}
        others = {name: value for name, value in inputs.items() if name not in inner.view_inputs}
        assert torch.equal(inner.compute_objective(inner.embed_views(**views), **others).loss, whole)

    model.save_pretrained(str(tmp_path / "adapter"))
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    loaded = PeftModel.from_pretrained(untouched, str(tmp_path / "adapter"))
    assert max_difference(encodings(loaded, case), trained) == 0.0
    again = dict(loaded.get_base_model().named_buffers())
    buffers = dict(model.get_base_model().named_buffers())
    # queues and momentum encoders are training's own
    active = [name for name in buffers if "original_module" not in name and not name.startswith(state)]
    assert all(torch.equal(buffers[name], again[name]) for name in active), "running statistics were not saved"

    merged = model.merge_and_unload()
    assert type(merged) is case.tester.objective_class
    assert set(merged.state_dict()) == set(case.objective().state_dict())
    assert max_difference(encodings(merged, case), trained) < 1e-5
    merged.save_pretrained(tmp_path / "merged")
    assert max_difference(encodings(AutoModel.from_pretrained(tmp_path / "merged"), case), trained) < 1e-5


# one model without and one with state of the training
LORA_RESUME = [WITH_LORA[0], next(case for case in WITH_LORA if case.tester.parts_of(case.config))]


@pytest.mark.parametrize("case", LORA_RESUME, ids=str)
def test_lora_resume_is_exact(case: Case, tmp_path):
    straight = add_lora(case.objective(), r=2, dropout=0.1)
    make_trainer(case, straight, tmp_path, max_steps=4, save_strategy="steps", save_steps=2).train()
    torch.manual_seed(7)
    resumed = add_lora(case.objective(), r=2, dropout=0.1)
    make_trainer(case, resumed, tmp_path / "other", max_steps=4).train(str(tmp_path / "checkpoint-2"))
    assert max_difference(snapshot(straight), snapshot(resumed)) == 0.0
