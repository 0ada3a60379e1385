"""Checkpoints are complete or absent; nothing pickled and no local path lies beside the weights of a run."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy_system import ToyForPreTraining, ToyRows, plain_batch, toy_model, toy_trainer
from transformers.trainer_utils import get_last_checkpoint

from hf_contrastive.hub import find_local_paths
from hf_contrastive.training.checkpoints import prepare_output_folder


SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_of_a_checkpoint_and_of_the_result(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, **SAVING, run_name="secret", hub_token="secret")
    trainer.train()
    trainer.save_model()
    expected = {
        *("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"),
        *("contrastive_state.json", "training_arguments.json"),
    }
    assert set(_visible(tmp_path / "checkpoint-4")) == expected
    assert set(_visible(tmp_path)) == {
        *("checkpoint-2", "checkpoint-4", "config.json", "metrics.jsonl", "model.safetensors"),
        "training_arguments.json",
    }
    text = (tmp_path / "training_arguments.json").read_text()
    assert find_local_paths(text) == []
    assert "secret" not in text
    assert str(tmp_path) not in text
    settings = json.loads(text)
    assert settings["learning_rate"] == 0.01
    assert settings["per_device_train_batch_size"] == 4
    assert "output_dir" not in settings
    again = ToyForPreTraining.from_pretrained(tmp_path)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("broken", ["model", "optimizer", "state"])
def test_a_full_disk_during_a_save_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    trainer = toy_trainer(tmp_path, **SAVING)

    def full(*args: Any, **kwargs: Any) -> None:
        if trainer.state.global_step == 4:
            Path(args[0] if broken == "model" else tmp_path / ".saving" / "checkpoint-4").mkdir(exist_ok=True)
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*args, **kwargs)

    owner, name = {
        "model": (trainer.model, "save_pretrained"),
        "optimizer": (trainer, "_save_optimizer_and_scheduler"),
        "state": (trainer, "_save_rng_state"),
    }[broken]
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(OSError, match="the disk is full"):
        trainer.train()
    assert _visible(tmp_path) == ["checkpoint-2", "metrics.jsonl"]
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")
    toy_trainer(tmp_path, max_steps=4).train(resume_from_checkpoint=True)


KILLED = """
import os, sys
from helpers.toy_system import toy_trainer
trainer = toy_trainer(sys.argv[1], save_strategy="steps", save_steps=2, max_steps=4)
original = trainer._save_optimizer_and_scheduler
def die(folder):
    original(folder)
    if trainer.state.global_step == 4:
        os._exit(9)
trainer._save_optimizer_and_scheduler = die
trainer.train()
"""


def test_a_kill_during_a_save_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True)
    assert done.returncode == 9, done.stderr.decode()[-2000:]
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")
    assert (tmp_path / ".saving" / "checkpoint-4" / "optimizer.pt").is_file()  # what the kill left
    (tmp_path / ".saving" / "checkpoint-4" / "model-00001-of-00009.safetensors").touch()
    resumed = toy_trainer(tmp_path, **SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert _visible(tmp_path) == ["checkpoint-2", "checkpoint-4", "metrics.jsonl"]
    assert not list((tmp_path / "checkpoint-4").glob("model-*"))
    whole = toy_trainer(tmp_path / "whole", max_steps=4)
    whole.train()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_save_killed_while_moving_is_completed_by_the_next_run(tmp_path: Path) -> None:
    ready = tmp_path / ".checkpoint-4.ready"
    ready.mkdir()
    (ready / "b.txt").write_text("new")
    (ready / ".manifest.json").write_text(json.dumps({"files": ["a.txt", "b.txt"], "remove": []}))
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "a.txt").write_text("new")
    (tmp_path / "checkpoint-4" / "b.txt").write_text("old")
    prepare_output_folder(tmp_path)
    assert (tmp_path / "checkpoint-4" / "b.txt").read_text() == "new"
    assert not ready.exists()
    prepare_output_folder(tmp_path / "no folder yet")


def test_training_again_into_the_same_folder_replaces_checkpoints(tmp_path: Path) -> None:
    toy_trainer(tmp_path, **SAVING).train()
    second = toy_trainer(tmp_path, toy_model(seed=5), **SAVING)
    second.train()
    saved = ToyForPreTraining.from_pretrained(tmp_path / "checkpoint-4")
    assert torch.equal(saved.projection_head.weight, second.model.projection_head.weight)


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    scores = iter([0.9, 0.1, 0.2, 0.3])
    toy_trainer(
        tmp_path,
        max_steps=4,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        save_total_limit=2,
        metric_for_best_model="score",
        eval_dataset=ToyRows(6),
        eval_data_collator=plain_batch,
        compute_metrics=lambda prediction: {"score": next(scores)},
    ).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-4"]


def test_the_card_is_ours(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_steps=2)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "fine-tuned version of" not in card
    assert "library_name" in card
    assert find_local_paths(card) == []
