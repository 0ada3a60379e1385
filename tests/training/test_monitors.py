"""What the monitors see and when they speak."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from accelerate import Accelerator

from hf_contrastive.training.monitors import (
    CollapseMonitor,
    CollapseWarning,
    chance_loss,
    describe_non_finite,
    embedding_statistics,
    find_views,
    non_finite_message,
    unclipped_norm,
)


def _monitor(patience: int = 2) -> CollapseMonitor:
    return CollapseMonitor(std_threshold=0.05, rank_threshold=1.5, patience=patience, chance_tolerance=0.01)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_views_are_found_by_role() -> None:
    z, a, b = _random(4, 2, 8), _random(4, 8), _random(4, 8, seed=1)
    views, joint = find_views({"loss": torch.tensor(1.0), "embeds": _random(4, 2, 3), "projections": z})
    assert joint
    assert torch.equal(views[1], z[:, 1])
    views, joint = find_views({"image_embeds": a, "text_embeds": b})
    assert not joint
    assert torch.equal(views[0], a)
    assert torch.equal(views[1], b)
    views, _ = find_views({"embeds": a})
    assert len(views) == 1
    assert find_views({"loss": torch.tensor(1.0)}) == ([], False)


def test_statistics_against_definitions() -> None:
    one, two = _random(16, 8), _random(16, 8, seed=1)
    found = embedding_statistics([one, two])
    u, v = torch.nn.functional.normalize(one, dim=1), torch.nn.functional.normalize(two, dim=1)
    similarity = u @ v.T
    off = ~torch.eye(16, dtype=torch.bool)
    assert found["pos_sim"] == pytest.approx(float(similarity.diagonal().mean()), abs=1e-6)
    assert found["neg_sim"] == pytest.approx(float(similarity[off].mean()), abs=1e-6)
    assert found["alignment"] == pytest.approx(float((u - v).square().sum(1).mean()), abs=1e-6)
    assert found["std"] == pytest.approx(float(u.std(0, correction=0).mean()), abs=1e-6)
    values = torch.linalg.svdvals(one)
    shares = values / values.sum()
    assert found["effective_rank"] == pytest.approx(float((-shares * shares.log()).sum().exp()), rel=1e-5)
    assert embedding_statistics([one[:1]]) == {}
    assert embedding_statistics([one * math.nan]) == {}
    assert embedding_statistics([torch.zeros(4, 3)])["effective_rank"] == 0


def test_chance_is_what_equal_similarities_cost() -> None:
    from hf_contrastive.losses import clip_loss, nt_xent

    z = torch.ones(6, 4)
    assert chance_loss([z, z], True, 1) == pytest.approx(float(nt_xent(z, z)), rel=1e-6)
    assert chance_loss([z, z], False, 1) == pytest.approx(float(clip_loss(z, z, 10.0)), rel=1e-6)
    assert chance_loss([z, z], True, 2) == pytest.approx(math.log(23))
    assert chance_loss([z], True, 1) is None
    assert chance_loss([z[:1], z[:1]], True, 1) is None


def test_healthy_embeddings_are_quiet() -> None:
    monitor = _monitor(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(5):
            monitor.update({"projections": _random(8, 2, 6, seed=step)}, loss=1.5, step=step)
    assert set(monitor.latest) == {"std", "effective_rank", "uniformity", "pos_sim", "neg_sim", "alignment"}


@pytest.mark.parametrize("kind", ["point", "line"])
def test_collapse_needs_patience_and_is_said_once(kind: str) -> None:
    direction = _random(1, 1, 6)
    sign = _random(8, 2, 1).sign() if kind == "line" else torch.ones(8, 2, 1)
    outputs = {"projections": direction * sign}
    monitor = _monitor(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.update(outputs, loss=1.0, step=10)
        monitor.update({"projections": _random(8, 2, 6)}, loss=1.0, step=20)  # recovered: the count starts anew
        monitor.update(outputs, loss=1.0, step=30)
    with pytest.warns(CollapseWarning, match=r"step 40: the embeddings collapse .* effective rank 1.00 of 6.*Try"):
        monitor.update(outputs, loss=1.0, step=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.update(outputs, loss=1.0, step=50)


def test_a_loss_at_chance_is_said_once() -> None:
    monitor, outputs = _monitor(2), {"projections": _random(8, 2, 6)}
    monitor.update(outputs, loss=math.log(15) * 1.005, step=1)
    with pytest.warns(CollapseWarning, match=r"level of guessing \(ln 15 = 2.708\), for 2 looks"):
        monitor.update(outputs, loss=math.log(15) * 0.995, step=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.update(outputs, loss=math.log(15), step=3)
        _monitor(1).update(outputs, loss=math.log(15) * 0.95, step=3)


def test_scalar_outputs_are_logged_too() -> None:
    monitor = _monitor()
    outputs = {"loss": torch.tensor(1.0), "logit_scale": torch.tensor(14.3), "projections": _random(4, 2, 3)}
    assert monitor.update(outputs, 1.0, 1)["logit_scale"] == pytest.approx(14.3)
    assert "loss" not in monitor.latest


def test_state_goes_through_json() -> None:
    monitor, other = _monitor(), _monitor()
    monitor.update({"projections": torch.ones(8, 2, 6)}, loss=1.0, step=1)
    other.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert other.state_dict() == monitor.state_dict()
    with pytest.warns(CollapseWarning):
        other.update({"projections": torch.ones(8, 2, 6)}, loss=1.0, step=2)


def test_non_finite_parts_are_named() -> None:
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 0] = math.inf
    inputs = {"values": torch.tensor([1.0, math.nan]), "ids": torch.tensor([1, 2])}
    found = describe_non_finite(layer, inputs, {"loss": torch.tensor(math.nan)})
    assert found == ["input values (1 of 2 numbers)", "output loss", "parameter weight (1 of 4 numbers)"]
    assert "data itself" in non_finite_message("the loss", 3, found)
    assert "earlier checkpoint" in non_finite_message("the loss", 3, found[1:])
    assert "lower learning rate" in non_finite_message("the loss", 3, found[1:2])


def test_norm_without_clipping_is_that_of_trainer_and_leaves_gradients() -> None:
    model = torch.nn.Linear(4, 3)
    model(torch.randn(5, 4)).square().sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    accelerator = Accelerator(cpu=True)
    norm = unclipped_norm(accelerator, model)
    assert all(torch.equal(parameter.grad, kept) for parameter, kept in zip(model.parameters(), before, strict=True))
    torch.testing.assert_close(norm, accelerator.clip_grad_norm_(model.parameters(), float("inf")))
    assert unclipped_norm(accelerator, model, grad_norm=3.0) == 3.0
    model.bias.grad = model.bias.grad.to_sparse()
    assert unclipped_norm(accelerator, model) is None  # left to Trainer
