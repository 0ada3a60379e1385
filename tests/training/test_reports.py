"""What a run says before and after training."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from datasets import Dataset
from helpers.toy_system import ToyRows, toy_model, toy_trainer

from hf_contrastive.data import DistinctLabelBatchSampler
from hf_contrastive.training import batch_report, final_report
from hf_contrastive.training.reports import expected_duplicates, trainable_parts


@pytest.mark.parametrize(
    ("labels", "size"), [([0, 0, 1, 1, 2], 3), ([0, 0, 0, 1], 2), (list("aabbcc"), 4), ([0, 1], 2)]
)
def test_expected_duplicates_against_all_batches(labels: list, size: int) -> None:
    batches = list(itertools.combinations(labels, size))
    mean = sum(size - len(set(batch)) for batch in batches) / len(batches)
    assert expected_duplicates(labels, size) == pytest.approx(mean, abs=1e-6)


def test_expected_duplicates_of_many_rows_is_quick_and_finite() -> None:
    assert 245 < expected_duplicates([row % 10 for row in range(50_000)], 256) <= 246
    with pytest.raises(ValueError, match="`batch_size` is 3"):
        expected_duplicates([0, 1], 3)


def test_batch_report_counts(tmp_path: Path) -> None:
    trainer = toy_trainer(
        tmp_path,
        toy_model(frozen_modules=["backbone"]),
        gradient_accumulation_steps=2,
        max_steps=-1,
        num_train_epochs=3,
        save_strategy="steps",
        save_steps=7,
        rows=26,
    )
    labels = ToyRows(26).labels.tolist()
    report = batch_report(trainer, data="toys", loss="L = x", labels=labels, command="python run.py")
    assert report["negatives_per_anchor"] == 6  # two views of three other rows
    assert report["positives_per_anchor"] == 1
    assert report["global_batch_size"] == 4
    assert report["steps_per_epoch"] == 3  # 6 whole batches of 4 rows, two a step
    assert report["steps"] == 9
    assert report["expected_duplicates_per_batch"] == expected_duplicates(labels, 4)
    assert report["parts"]["backbone"] == {"trainable": 0, "all": 56}
    assert report["parts"]["projection_head"] == {"trainable": 45, "all": 45}
    assert report["memory_bytes"]["optimizer"] == 46 * 8  # Adam: two numbers a weight, frozen ones left out
    trainer.train()
    assert trainer.state.global_step == report["steps"]
    text = str(report)
    for part in (
        *("ToyForPreTraining", "46 of 102 are trained", "backbone frozen (56)", "toys: 26 rows", "L = x"),
        *("4 rows x 1 process = 4", "adds no negatives", "1 positive, 6 negatives from 1 device", "9 (3 epochs of 3)"),
        *("checkpoints every 7 steps", "--resume_from_checkpoint true", str(tmp_path), "python run.py"),
    ):
        assert part in " ".join(text.split()), part
    json.dumps(report)


def test_columns_used_and_ignored(tmp_path: Path) -> None:
    data = Dataset.from_dict({"image": [1] * 8, "index": range(8), "caption": ["a"] * 8})
    report = batch_report(toy_trainer(tmp_path, train_dataset=data), columns_used=["image", "index"])
    assert report["columns_ignored"] == ["caption"]
    assert "used: image, index; ignored: caption" in str(report)


def test_distinct_batches_and_masked_pairs(tmp_path: Path) -> None:
    labels = [row // 2 for row in range(24)]
    sampler = DistinctLabelBatchSampler(labels, 4)
    report = batch_report(toy_trainer(tmp_path, train_batch_sampler=sampler), labels=labels)
    assert report["expected_duplicates_per_batch"] == 0
    assert "keeps equal labels out" in str(report)
    masked = batch_report(toy_trainer(tmp_path, sample_id_column="label"), labels=labels)
    assert "such pairs are masked" in " ".join(str(masked).split())


def test_parts_of_a_model() -> None:
    assert trainable_parts(toy_model()) == {"backbone": (56, 56), "projection_head": (45, 45), "temperature": (1, 1)}


def test_final_report(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_steps=2)
    trainer.train()
    report = final_report(
        trainer,
        metrics={"eval_knn_top1": 0.9, "eval_runtime": 3.0, "eval_std": 0.2},
        baseline={"eval_knn_top1": 0.65},
        dataset="digits",
        command="python run.py",
    )
    text = " ".join(str(report).split())
    assert text.startswith("Done: 2 steps checkpoint " + str(tmp_path))
    assert "knn_top1 0.9000 untrained: 0.6500 (+0.2500)" in text
    assert "runtime" not in text
    assert f"hf-contrastive evaluate knn {tmp_path} digits" in text
    assert "python run.py --resume_from_checkpoint true" in text
