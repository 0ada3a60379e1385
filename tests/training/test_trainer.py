"""ContrastiveTrainer on a system that the library does not know."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.toy_system import ToyRows, plain_batch, toy_model, toy_trainer
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_contrastive.data import DistinctLabelBatchSampler
from hf_contrastive.evaluation import knn_accuracy
from hf_contrastive.training import (
    AfterOptimizerStepCallback,
    CollapseWarning,
    ContrastiveTrainer,
    ContrastiveTrainingArguments,
    NonFiniteLossError,
    unwrap_model,
)


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# ---- what a step does ----


def test_a_quiet_run_without_warnings(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer = toy_trainer(tmp_path, max_steps=2, monitor_collapse=True)
        trainer.train()
    assert trainer.state.global_step == 2


def test_after_optimizer_step_runs_once_per_real_step(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_steps=3, gradient_accumulation_steps=2)
    trainer.train()
    assert int(trainer.model.steps) == 3


def test_after_optimizer_step_works_with_the_plain_trainer(tmp_path: Path) -> None:
    model = toy_model()
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=2, disable_tqdm=True, save_strategy="no", remove_unused_columns=False
    )

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"values": torch.stack([torch.stack([row["values"], row["values"] + 1]) for row in rows])}

    trainer = Trainer(
        model,
        args,
        collate,
        train_dataset=ToyRows(16),
        callbacks=[AfterOptimizerStepCallback()],  # ty: ignore[invalid-argument-type]
    )
    assert not trainer.model_accepts_loss_kwargs  # it would multiply the loss by the accumulation steps
    trainer.train()
    assert int(model.steps) == 2


@pytest.mark.parametrize("skipped", [False, True])
def test_a_step_that_the_loss_scaler_skipped_does_not_count(skipped: bool) -> None:
    model, optimizer = toy_model(), SimpleNamespace(step_was_skipped=skipped)
    AfterOptimizerStepCallback().on_optimizer_step(None, None, None, model=model, optimizer=optimizer)
    assert int(model.steps) == (not skipped)


@pytest.mark.parametrize("cache", [None, 2])
def test_accumulated_loss_is_the_mean_of_its_micro_batches(tmp_path: Path, cache: int | None) -> None:
    """Two micro-batches of the same rows are one batch: same logged loss, same weights after the step."""

    class Twice(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, row: int) -> dict[str, Any]:
            return ToyRows(4)[row % 4]

    options = {
        "train_sampling_strategy": "sequential",
        "max_steps": 1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",  # Adam would hide a gradient of the wrong size
        "max_grad_norm": 0.0,
        "gradient_cache_chunk_size": cache,
    }
    one = toy_trainer(tmp_path / "one", train_dataset=Twice(), **options)
    two = toy_trainer(tmp_path / "two", train_dataset=Twice(), gradient_accumulation_steps=2, **options)
    one.train()
    two.train()
    losses = [trainer.state.log_history[0]["loss"] for trainer in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] > 0.5
    for name, tensor in _state(one.model).items():
        torch.testing.assert_close(tensor, two.model.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def test_gradient_cache_trains_like_the_whole_batch(tmp_path: Path) -> None:
    whole = toy_trainer(tmp_path / "whole", toy_model().double(), max_steps=3, monitor_collapse=True, monitor_steps=1)
    cached = toy_trainer(
        tmp_path / "cached",
        toy_model().double(),
        max_steps=3,
        gradient_cache_chunk_size=3,
        monitor_collapse=True,
        monitor_steps=1,
    )
    for trainer in (whole, cached):
        collate = trainer.data_collator
        trainer.data_collator = lambda rows, collate=collate: {
            name: value.double() if value.is_floating_point() else value for name, value in collate(rows).items()
        }
        trainer.train()
    for name, tensor in _state(whole.model).items():
        torch.testing.assert_close(tensor, cached.model.state_dict()[name], rtol=0, atol=1e-10, msg=name)
    for one, two in zip(whole.state.log_history[:3], cached.state.log_history[:3], strict=True):
        for name in ("loss", "grad_norm", "pos_sim", "effective_rank"):
            assert one[name] == pytest.approx(two[name], rel=1e-5), name


def test_frozen_parts_stay_frozen(tmp_path: Path) -> None:
    model = toy_model(frozen_modules=["backbone"], batch_norm=True)
    before = _state(model)
    toy_trainer(tmp_path, model, max_steps=2, weight_decay=0.1).train()
    for name, tensor in _state(model).items():
        assert torch.equal(tensor, before[name]) == name.startswith("backbone"), name


def test_lora_passes_through(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["backbone.0"], modules_to_save=["projection_head", "temperature"])
    model = get_peft_model(toy_model(), config)
    inner = unwrap_model(model)
    before = _state(model)
    trainer = toy_trainer(
        tmp_path,
        model,
        max_steps=3,
        save_strategy="steps",
        save_steps=2,
        monitor_collapse=True,
        monitor_steps=1,
        eval_dataset=ToyRows(8),
        eval_data_collator=plain_batch,
        probe_metrics=["retrieval"],
    )
    trainer.train()
    assert "eval_recall@1" in trainer.evaluate()
    assert int(inner.steps) == 3
    changed = {name for name, tensor in _state(model).items() if not torch.equal(tensor, before[name])}
    assert any("lora_B" in name for name in changed)
    assert any("projection_head.modules_to_save" in name for name in changed)
    assert any("temperature.modules_to_save" in name for name in changed)
    assert not any("base_layer" in name or "original_module" in name for name in changed)
    assert (tmp_path / "checkpoint-2" / "adapter_model.safetensors").is_file()
    cached = toy_trainer(tmp_path / "cached", get_peft_model(toy_model(), config), gradient_cache_chunk_size=2)
    cached.train()
    assert int(unwrap_model(cached.model).steps) == 8


def test_a_batch_sampler_decides_the_batches(tmp_path: Path) -> None:
    labels = [row // 2 for row in range(24)]
    seen: list[list[int]] = []
    trainer = toy_trainer(tmp_path, train_batch_sampler=DistinctLabelBatchSampler(labels, 4, seed=3), max_steps=6)
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: (seen.append([row["index"] for row in rows]), collate(rows))[1]
    trainer.train()
    assert seen[:6] == list(DistinctLabelBatchSampler(labels, 4, seed=3))
    assert all(len({labels[row] for row in batch}) == 4 for batch in seen)


def test_sample_ids_come_from_a_column(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, sample_id_column="label", per_device_train_batch_size=8)
    batch = trainer.data_collator([ToyRows(8)[row] for row in range(8)])
    selected = trainer.select_inputs(batch)
    assert torch.equal(selected["sample_ids"], batch["label"])
    assert set(selected) == {"values", "sample_ids"}
    assert trainer.ignored_inputs == {"index"}
    plain = toy_trainer(tmp_path, per_device_train_batch_size=8)
    with torch.no_grad():
        masked, unmasked = trainer.compute_loss(trainer.model, batch), plain.compute_loss(plain.model, batch)
    assert masked < unmasked - 0.1  # same weights; fewer negatives


# ---- refusals ----


def test_missing_columns_are_listed(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, data_collator=lambda rows: {"image": torch.zeros(4, 2)})
    with pytest.raises(ValueError, match="the model needs values, but the batch has image"):
        trainer.train()
    trainer = toy_trainer(tmp_path, sample_id_column="caption")
    with pytest.raises(ValueError, match=r"'caption', but the batch has values, index, label"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_device_train_batch_size": 1}, "a batch of one has no negatives"),
        ({"train_dataset": ToyRows(0)}, "`train_dataset` is empty"),
        ({"train_dataset": ToyRows(3)}, "has 3 rows, fewer than one batch of 4"),
    ],
)
def test_training_data_that_cannot_work(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_trainer(tmp_path, **options).train()


def test_batch_norm_with_one_row(tmp_path: Path) -> None:
    model = toy_model(batch_norm=True)
    embed = model.embed_views
    model.embed_views = lambda values: embed(values[:1, :1])
    with pytest.raises(ValueError, match="batch norm met a single row"):
        toy_trainer(tmp_path, model).train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe_metrics": ["knn"], "eval_dataset": ToyRows(8), "eval_data_collator": plain_batch}, "`probe_dataset`"),
        ({"probe_metrics": ["retrieval"], "eval_dataset": ToyRows(8)}, "`eval_data_collator`"),
        ({"train_batch_sampler": DistinctLabelBatchSampler(range(24), 6)}, "batches of 6, but .* is 4"),
        ({"train_batch_sampler": DistinctLabelBatchSampler(range(24), 4, num_processes=2)}, "made for 2 processes"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_trainer(tmp_path, **options)


def test_the_objective_belongs_to_the_model(tmp_path: Path) -> None:
    args = ContrastiveTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="compute_loss_func"):
        ContrastiveTrainer(toy_model(), args, compute_loss_func=lambda *inputs: 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gradient_cache_chunk_size", 0),
        ("probe_metrics", ["top1"]),
        ("probe_k", 0),
        ("monitor_steps", 0),
        ("collapse_std_threshold", -1.0),
        ("probe_max_samples", -5),
        ("per_device_train_batch_size", 0),
    ],
)
def test_bad_arguments(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` is .*, but it must be"):
        ContrastiveTrainingArguments(str(tmp_path), use_cpu=True, **{name: value})


def test_changed_defaults(tmp_path: Path) -> None:
    args = ContrastiveTrainingArguments(str(tmp_path), use_cpu=True)
    assert args.dataloader_drop_last
    assert not args.remove_unused_columns
    assert args.label_names == []
    assert args.accelerator_config.dispatch_batches is False
    own = ContrastiveTrainingArguments(str(tmp_path), use_cpu=True, accelerator_config='{"even_batches": false}')
    assert own.accelerator_config.dispatch_batches is False
    assert own.accelerator_config.even_batches is False


@pytest.mark.parametrize(
    ("metric", "given", "expected"),
    [
        ("eval_uniformity", None, False),
        ("alignment", None, False),
        ("eval_uniformity", True, True),
        ("eval_knn_top1", None, True),
        (None, None, None),
    ],
)
def test_which_way_the_best_metric_goes(tmp_path: Path, metric: Any, given: Any, expected: Any) -> None:
    args = ContrastiveTrainingArguments(
        str(tmp_path), use_cpu=True, metric_for_best_model=metric, greater_is_better=given
    )
    assert args.greater_is_better is expected


# ---- numbers that are not finite ----


class _Poisoned(torch.utils.data.Dataset):
    """A row of NaN, but only from the third batch on."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = ToyRows(24)[row]
        return {**item, "values": item["values"] * math.nan} if row == 9 else item


@pytest.mark.parametrize("cache", [None, 2])
def test_nan_loss_stops_before_the_weights_change(tmp_path: Path, cache: int | None) -> None:
    trainer = toy_trainer(
        tmp_path,
        train_dataset=_Poisoned(),
        train_sampling_strategy="sequential",
        save_strategy="steps",
        save_steps=2,
        gradient_cache_chunk_size=cache,
    )
    with pytest.raises(NonFiniteLossError) as error:
        trainer.train()
    message = str(error.value)
    assert "the loss is not finite at step 3" in message
    assert "input values (12 of 48 numbers)" in message
    assert "output loss" in message
    assert "parameter" not in message
    assert "data itself is not finite" in message
    assert all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())
    # the checkpoint before is untouched and leads to the same place
    resumed = toy_trainer(tmp_path, train_sampling_strategy="sequential", max_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


def test_infinite_gradient_with_finite_loss_stops(tmp_path: Path) -> None:
    model = toy_model()
    trainer = toy_trainer(tmp_path, model, max_steps=2)

    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # ty: ignore[invalid-method-override]
            return gradient * math.inf

    embed = model.embed_views
    model.embed_views = lambda values: {name: Infinite.apply(part) for name, part in embed(values).items()}
    before = _state(model)
    with pytest.raises(NonFiniteLossError, match=r"the gradient is not finite at step 1.*gradient of projection_head"):
        trainer.train()
    assert torch.equal(model.projection_head.weight, before["projection_head.weight"])


# ---- monitors ----


def test_training_logs_carry_the_monitors(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, max_steps=4, monitor_collapse=True, monitor_steps=2)
    trainer.train()
    names = {"pos_sim", "neg_sim", "alignment", "uniformity", "effective_rank", "std", "grad_norm", "loss"}
    assert names <= set(trainer.state.log_history[1])
    assert "std" not in trainer.state.log_history[0]  # nobody has looked yet
    off = toy_trainer(tmp_path, max_steps=2)
    off.train()
    assert "std" not in off.state.log_history[1]


def test_a_collapsed_model_warns_once(tmp_path: Path) -> None:
    model = toy_model()
    with torch.no_grad():
        model.projection_head.weight.zero_()
        model.projection_head.bias.fill_(0.01)
    options = {"monitor_collapse": True, "monitor_steps": 1, "collapse_patience": 2, "learning_rate": 0.0}
    with pytest.warns(CollapseWarning) as caught:
        toy_trainer(tmp_path, model, **options).train()
    texts = [str(warning.message) for warning in caught if warning.category is CollapseWarning]
    assert len(texts) == 1  # though the trouble lasts, and the loss is that of guessing
    assert texts[0].startswith("step 2: the embeddings collapse")
    assert "Try a lower" in texts[0]


# ---- evaluation ----


def _evaluator(folder: Path, **options: Any) -> Any:
    options = {
        "eval_dataset": ToyRows(11, seed=1),
        "probe_dataset": ToyRows(13, seed=2),
        "eval_data_collator": plain_batch,
        "probe_metrics": ["knn", "linear", "retrieval"],
        "probe_k": 3,
        "per_device_eval_batch_size": 4,
        **options,
    }
    return toy_trainer(folder, **options)


def test_evaluate_measures_every_row_of_the_embeddings(tmp_path: Path) -> None:
    trainer = _evaluator(tmp_path)
    metrics = trainer.evaluate()
    test, train = ToyRows(11, seed=1), ToyRows(13, seed=2)
    x, y = trainer.model.encode(test.values), trainer.model.encode(train.values)
    embeds, labels = trainer.embed_dataset(test)
    torch.testing.assert_close(embeds, x)
    assert labels.tolist() == test.labels.tolist()
    expected = knn_accuracy(y, train.labels, x, test.labels, k=3)["knn_top1"]
    assert metrics["eval_knn_top1"] == expected
    assert {"eval_linear_top1", "eval_recall@1", "eval_map@r", "eval_std", "eval_uniformity"} <= set(metrics)
    assert trainer.model.training  # the mode is as before


def test_evaluation_leaves_training_alone(tmp_path: Path) -> None:
    quiet = toy_trainer(tmp_path / "quiet", toy_model(dropout=0.3), max_steps=4)
    quiet.train()
    watched = _evaluator(
        tmp_path / "watched",
        model=toy_model(dropout=0.3),
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        probe_metrics=["knn", "views"],
    )
    watched.train()
    for name, tensor in _state(quiet.model).items():
        assert torch.equal(tensor, watched.model.state_dict()[name]), name


def test_a_probe_can_choose_the_best_checkpoint(tmp_path: Path) -> None:
    scores = iter([0.5, 0.9, 0.7])
    trainer = _evaluator(
        tmp_path,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        compute_metrics=lambda prediction: {"score": next(scores), "rows": float(len(prediction.predictions))},
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert trainer.state.best_metric == 0.9
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
    assert int(trainer.model.steps) == 2  # the best one was loaded
    stored = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert stored["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")
    assert stored["log_history"][1]["eval_rows"] == 11


def test_evaluation_of_several_datasets_and_parts_of_them(tmp_path: Path) -> None:
    trainer = _evaluator(tmp_path, eval_dataset={"a": ToyRows(11), "b": ToyRows(6)}, probe_max_samples=8)
    metrics = trainer.evaluate()
    assert {"eval_a_knn_top1", "eval_b_knn_top1"} <= set(metrics)
    embeds, labels = trainer.embed_dataset(ToyRows(11), 8)
    again, _ = trainer.embed_dataset(ToyRows(11), 8)
    assert len(embeds) == 8
    assert torch.equal(embeds, again)
    assert set(labels.tolist()) == {0, 1}


def test_views_probe_is_the_alignment_of_two_views(tmp_path: Path) -> None:
    trainer = _evaluator(tmp_path, probe_metrics=["views"])
    value = trainer.evaluate()["eval_alignment"]
    assert 0 < value < 4

    def equal_views(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        values = torch.stack([row["values"] for row in rows])
        return {"values": torch.stack([values, values], 1)}

    same = _evaluator(tmp_path, probe_metrics=["views"], data_collator=equal_views)
    assert same.evaluate()["eval_alignment"] == pytest.approx(0, abs=1e-6)


def test_probes_without_labels_say_so(tmp_path: Path) -> None:
    trainer = _evaluator(tmp_path, eval_data_collator=lambda rows: {"values": plain_batch(rows)["values"]})
    with pytest.raises(ValueError, match=r"knn, linear, retrieval need labels"):
        trainer.evaluate()
    with pytest.raises(ValueError, match="0 rows"):
        trainer.evaluate(ToyRows(0))


def test_the_trainer_names_no_system() -> None:
    folder = Path(__import__("hf_contrastive").__file__).parent / "training"
    from hf_contrastive.registry import REGISTRY

    for path in folder.glob("*.py"):
        code = "\n".join(line for line in path.read_text().splitlines() if ">>>" not in line and "..." not in line)
        assert "hf_contrastive.models" not in code, path.name
        for spec in REGISTRY.values():
            assert f'"{spec.slug}"' not in code, path.name
    assert len((folder / "trainer.py").read_text().splitlines()) < 500


def test_streamed_rows_with_text_columns(tmp_path: Path) -> None:
    """No length, a column of text, several passes: every pass is a new epoch for the views."""
    from datasets import Dataset

    rows = [{**ToyRows(8)[row], "caption": f"row {row}"} for row in range(8)]
    stream = Dataset.from_list([{**row, "values": row["values"].tolist()} for row in rows]).to_iterable_dataset(2)
    trainer = toy_trainer(
        tmp_path,
        train_dataset=stream.with_format("torch"),
        eval_dataset=stream.with_format("torch"),
        eval_data_collator=plain_batch,
        probe_metrics=["retrieval"],
        probe_max_samples=6,
        max_steps=5,
    )
    trainer.train()
    assert trainer.state.global_step == 5
    assert trainer.data_collator.told == [0, 1, 2]
    assert len(trainer.embed_dataset(stream.with_format("torch"), 6)[0]) == 6
    assert "eval_recall@1" in trainer.evaluate()
