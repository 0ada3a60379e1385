"""A run that was stopped and resumed equals the uninterrupted one, bit for bit, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy_system import ToyRows, plain_batch, toy_model, toy_trainer
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_contrastive.data import DistinctLabelBatchSampler
from hf_contrastive.training import ContrastiveTrainingArguments


class _Kill(TrainerCallback):
    """Ends the process, as far as the trainer can tell, at the beginning of a step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            raise KeyboardInterrupt


def _lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    speed = ("time", "_runtime", "_per_second")
    return [{name: value for name, value in line.items() if not name.endswith(speed)} for line in lines]


def _same(one: Any, two: Any, where: str = "") -> None:
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            _same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for number, (left, right) in enumerate(zip(one, two, strict=True)):
            _same(left, right, f"{where}[{number}]")
    else:
        assert one == two, where


@pytest.mark.parametrize("case", ["plain", "workers", "persistent_workers", "distinct", "accumulation_and_cache"])
def test_resumed_equals_uninterrupted(tmp_path: Path, case: str) -> None:
    def trainer(folder: str, **options: Any) -> Any:
        if case == "distinct":
            labels = [row // 2 for row in range(24)]
            options["train_batch_sampler"] = DistinctLabelBatchSampler(labels, 4, seed=5)
        if case == "workers":
            options["dataloader_num_workers"] = 2
        if case == "persistent_workers":  # they outlive an epoch, those of the resumed run begin in its middle
            options.update(dataloader_num_workers=1, dataloader_persistent_workers=True)
        if case == "accumulation_and_cache":
            options.update(gradient_accumulation_steps=2, gradient_cache_chunk_size=3)
        return toy_trainer(
            tmp_path / folder,
            toy_model(dropout=0.2),
            save_strategy="steps",
            save_steps=4,
            logging_steps=3,  # the log interval 4-6 lies on both sides of the checkpoint
            monitor_collapse=True,
            monitor_steps=4,  # what the log of step 6 says was seen before the checkpoint
            eval_strategy="steps",
            eval_steps=2,
            eval_dataset=ToyRows(10, seed=1),
            eval_data_collator=plain_batch,
            probe_metrics=["retrieval"],
            **options,
        )

    whole = trainer("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer("stopped", callbacks=[_Kill()]).train()
    assert max(line["step"] for line in _lines(tmp_path / "stopped")) == 6
    resumed = trainer("stopped", seed=42)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8

    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert int(resumed.model.steps) == 8
    assert bool(resumed.model.queue.any())
    one, two = tmp_path / "whole" / "checkpoint-8", tmp_path / "stopped" / "checkpoint-8"
    for name in ("optimizer.pt", "scheduler.pt"):
        _same(torch.load(one / name, weights_only=True), torch.load(two / name, weights_only=True), name)
    _same(dict(load_file(one / "model.safetensors")), dict(load_file(two / "model.safetensors")))
    assert torch.equal(
        torch.load(one / "rng_state.pth", weights_only=False)["cpu"],
        torch.load(two / "rng_state.pth", weights_only=False)["cpu"],
    )
    lines = _lines(tmp_path / "whole")
    assert lines == _lines(tmp_path / "stopped")
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 6, 8]
    assert "loss" in lines[3]
    assert "effective_rank" in lines[3]


def test_lora_resumes_exactly_with_its_queue(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    def trainer() -> Any:
        config = LoraConfig(r=2, target_modules=["backbone.0"], modules_to_save=["projection_head", "temperature"])
        model = get_peft_model(toy_model(batch_norm=True), config)
        return toy_trainer(tmp_path, model, max_steps=6, save_strategy="steps", save_steps=3)

    whole, resumed = trainer(), trainer()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    _same(dict(whole.model.state_dict()), dict(resumed.model.state_dict()))
    assert bool(whole.model.get_base_model().queue.any())


def test_epochs_reach_collator_and_sampler_also_after_resuming(tmp_path: Path) -> None:
    sampler = DistinctLabelBatchSampler(list(range(8)), 4, seed=5)
    seen: list[int] = []
    sampler.set_epoch = lambda epoch: seen.append(epoch)  # ty: ignore[invalid-assignment]
    first = toy_trainer(
        tmp_path, rows=8, train_batch_sampler=sampler, max_steps=5, save_strategy="steps", save_steps=3
    )
    first.train()
    assert first.data_collator.told == [0, 1, 2]
    assert [epoch for number, epoch in enumerate(seen) if epoch not in seen[:number]] == [0, 1, 2]
    seen.clear()
    resumed = toy_trainer(tmp_path, rows=8, train_batch_sampler=sampler, max_steps=5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))  # in the middle of epoch 1
    assert resumed.data_collator.told == [1, 2]
    assert sorted(set(seen)) == [1, 2]


def test_metrics_file_of_a_new_run_keeps_the_measurement_before_it(tmp_path: Path) -> None:
    options = {"eval_dataset": ToyRows(8), "eval_data_collator": plain_batch, "max_steps": 2}
    for _ in range(2):
        trainer = toy_trainer(tmp_path, **options)
        trainer.evaluate()
        trainer.train()
    assert [line["step"] for line in _lines(tmp_path)] == [0, 1, 2]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    toy_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    with open(tmp_path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 3, "los')
    toy_trainer(tmp_path, max_steps=3).train(resume_from_checkpoint=True)
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2, 3]


def test_resuming_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no checkpoint"):
        toy_trainer(tmp_path / "none").train(resume_from_checkpoint=True)
    toy_trainer(tmp_path / "run", max_steps=2, save_strategy="steps", save_steps=2).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    with pytest.raises(ValueError, match=r"no folder .*checkpoint-9; beside it are: checkpoint-2"):
        toy_trainer(tmp_path / "run").train(resume_from_checkpoint=str(checkpoint.parent / "checkpoint-9"))
    with pytest.raises(ValueError, match=r"1 are unknown|tensors are missing"):
        toy_trainer(tmp_path / "run", toy_model(batch_norm=True)).train(resume_from_checkpoint=str(checkpoint))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "simclr"}))
    with pytest.raises(ValueError, match="'simclr', but the model in training is 'toy_system'"):
        toy_trainer(tmp_path / "run").train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match="from_pretrained"):
        toy_trainer(tmp_path / "run").train(resume_from_checkpoint=str(checkpoint))


def test_argument_true_or_a_folder(tmp_path: Path) -> None:
    assert ContrastiveTrainingArguments(
        str(tmp_path), use_cpu=True, resume_from_checkpoint="true"
    ).resume_from_checkpoint
    args = ContrastiveTrainingArguments(str(tmp_path), use_cpu=True, resume_from_checkpoint="out/checkpoint-4")
    assert args.resume_from_checkpoint == "out/checkpoint-4"
