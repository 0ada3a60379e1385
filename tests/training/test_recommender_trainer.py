"""`RecommenderTrainer`: full ranking while training, early stopping on the right part, what is drawn by the epoch."""

from __future__ import annotations

import accelerate.optimizer
import numpy as np
import pytest
import torch
from helpers.gloo import GlooPool, fresh_accelerator
from transformers import EarlyStoppingCallback

from hf_contrastive import (
    ContrastiveTrainingArguments,
    LightGCNConfig,
    LightGCNModel,
    MFConfig,
    MFModel,
    SGLConfig,
    SGLModel,
    TripletDataset,
    load_interactions,
)
from hf_contrastive.evaluation import recommendation_metrics
from hf_contrastive.training import RecommenderTrainer


def make_log():
    """Forty users; the last one has a test row and nothing to train on."""
    rng = np.random.RandomState(0)
    rows = []
    for user in range(40):
        for place, item in enumerate(rng.permutation(30)[: 4 + user % 9]):
            rows.append({"user": user, "item": int(item), "x_label": [0, 0, 1, 2][place] if place < 4 else 0})
    rows.append({"user": 40, "item": 3, "x_label": 2})
    return load_interactions(rows)


def make_trainer(folder, model_class=LightGCNModel, config=None, callbacks=(), **settings):
    data = make_log()
    config = config or LightGCNConfig(num_users=data.num_users, num_items=data.num_items, hidden_size=8, num_layers=2)
    torch.manual_seed(1)
    model = model_class(config)
    model.set_interactions(*data.part("train"))
    options = {name: settings.pop(name) for name in ("ks", "mask", "metrics", "eval_split") if name in settings}
    args = ContrastiveTrainingArguments(
        str(folder),
        **{
            **{"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 64, "save_strategy": "no"},
            **{"dataloader_drop_last": False, "learning_rate": 0.02, "report_to": "none"},
            **settings,
        },
    )
    triples = TripletDataset(*data.part("train"), data.num_users, data.num_items, seed=3)
    return RecommenderTrainer(
        model, args, train_dataset=triples, eval_dataset=data, callbacks=list(callbacks), **{"ks": (3, 5), **options}
    )


def test_evaluation_is_that_of_the_metrics(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3, metrics=("recall", "map"))
    trainer.train()
    data, model = trainer.eval_dataset, trainer.model
    users = list(range(40))  # not the one without training rows
    for split, mask in (("valid", ("train",)), ("test", ("train",)), ("test", ("train", "valid"))):
        trainer.mask = "+".join(mask)
        found = trainer.evaluate(split=split)
        expected = recommendation_metrics(
            *model.vectors(), relevant=data.pairs(split), exclude=data.pairs(*mask), ks=(3, 5), users=users
        )
        for name in ("recall@3", "recall@5", "map@5"):
            assert found[f"eval_{name}"] == pytest.approx(expected[name])
        assert found["eval_users"] == 40
        assert "eval_ndcg@5" not in found
    # the two masks differ, or one of them was not used
    trainer.mask = "train"
    other = trainer.evaluate(split="test")
    assert any(other[name] != found[name] for name in found if "@" in name)
    # on the valid part its own items are never hidden
    trainer.mask = "train+valid"
    assert trainer.evaluate(split="valid")["eval_recall@5"] > 0


def test_early_stopping_keeps_the_best_epoch(tmp_path):
    trainer = make_trainer(
        tmp_path,
        callbacks=[EarlyStoppingCallback(3)],
        num_train_epochs=60,
        learning_rate=0.1,
        eval_strategy="epoch",
        save_strategy="best",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="recall@5",
    )
    trainer.train()
    seen = [line["eval_recall@5"] for line in trainer.state.log_history if "eval_recall@5" in line]
    assert len(seen) == seen.index(max(seen)) + 1 + 3 < 60
    assert trainer.evaluate()["eval_recall@5"] == max(seen)


def test_views_follow_the_epoch(tmp_path):
    data = make_log()
    config = SGLConfig(num_users=data.num_users, num_items=data.num_items, hidden_size=8, dropout=0.3)
    trainer = make_trainer(tmp_path, SGLModel, config, num_train_epochs=3, per_device_train_batch_size=1000)
    seen = []
    draw = trainer.model.draw_views
    trainer.model.draw_views = lambda epoch: (seen.append(epoch), draw(epoch))
    trainer.train()
    assert seen == [0, 1, 2]
    assert int(trainer.train_dataset._epoch) == 2


def test_packages_are_looked_up_once_a_run(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("accelerate.optimizer.is_lomo_available", lambda: bool(calls.append(1)))
    before = accelerate.optimizer.is_lomo_available
    trainer = make_trainer(tmp_path, max_steps=4)
    during = []
    step = trainer.training_step
    trainer.training_step = lambda *args: (during.append(accelerate.optimizer.is_lomo_available()), step(*args))[1]
    trainer.train()
    assert during == [False] * 4
    assert len(calls) == 1
    assert accelerate.optimizer.is_lomo_available is before
    trainer.training_step = lambda *args: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert accelerate.optimizer.is_lomo_available is before
    assert trainer.state.total_flos == 0  # the estimate takes whole tables for used


def ranked(folder: str):
    fresh_accelerator()
    trainer = make_trainer(folder, MFModel, MFConfig(num_users=41, num_items=30, hidden_size=8))
    generator = np.random.RandomState(1)
    for name in ("user_embedding", "item_embedding"):
        weight = getattr(trainer.model, name).weight
        weight.data.copy_(weight.new_tensor(generator.normal(size=tuple(weight.shape))))
    return {name: value for name, value in trainer.evaluate(split="test").items() if "@" in name or "users" in name}


@pytest.mark.distributed
def test_two_processes_rank_as_one(tmp_path, gloo_pool: GlooPool):
    expected = ranked(str(tmp_path / "one"))
    first, second = gloo_pool.run(ranked, str(tmp_path / "two"))
    assert first == second
    assert first == pytest.approx(expected)


def trained(folder: str, batch_size: int, model_class: str):
    """Weights after three steps on as many rows in all; in float64, so that what is left is a mistake and no rounding."""
    fresh_accelerator()
    torch.manual_seed(0)
    sizes = {"num_users": 41, "num_items": 30, "hidden_size": 8}
    kinds = {"LightGCN": (LightGCNModel, LightGCNConfig), "SGL": (SGLModel, SGLConfig), "MF": (MFModel, MFConfig)}
    model, config = kinds[model_class]
    trainer = make_trainer(
        folder, model, config(**sizes), max_steps=3, per_device_train_batch_size=batch_size, logging_steps=1
    )
    trainer.model.double()
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.distributed
@pytest.mark.parametrize("model_class", ["LightGCN", "SGL", "MF"])
def test_two_processes_train_as_one(model_class, tmp_path, gloo_pool: GlooPool):
    losses, expected = trained(str(tmp_path / "one"), 64, model_class)
    for found, weights in gloo_pool.run(trained, str(tmp_path / "two"), 32, model_class):
        assert found == pytest.approx(losses, rel=1e-6)
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": "valid"}, "`mask` is 'valid'; expected one of train, train.valid"),
        ({"eval_split": "train"}, "`eval_split` is 'train'; expected valid or test"),
        ({"metrics": ("auc",)}, "`metrics` is .'auc'.; expected names out of recall"),
    ],
)
def test_bad_settings(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **settings)


def test_other_data_is_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="evaluated on an InteractionDataset, got list"):
        trainer.evaluate([{"user_ids": 1}])
    log = make_log()
    log.part("valid")
    log._parts["valid"] = (np.array([40]), np.array([1]))
    with pytest.raises(ValueError, match="the valid part has 1 pairs of no user with training items"):
        trainer.evaluate(log)
