"""The gradient cache gives the gradient of the big batch."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from helpers.toy_system import toy_model

from hf_contrastive.training import cached_backward


def _values(rows: int = 7, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(rows, 2, 6, generator=torch.Generator().manual_seed(3), dtype=dtype)


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 50])
def test_gradients_equal_the_big_batch(chunk_size: int) -> None:
    model = toy_model().double()
    model.queue.normal_()
    reference, ids = copy.deepcopy(model), torch.tensor([0, 1, 2, 0, 3, 4, 1])
    loss = reference(_values(), sample_ids=ids).loss
    loss.backward()
    output = cached_backward(model, {"values": _values(), "sample_ids": ids}, chunk_size)
    assert not output.loss.requires_grad
    torch.testing.assert_close(output.loss, loss.detach(), rtol=0, atol=1e-12)
    expected = _gradients(reference)
    assert "temperature.log_value" in expected
    assert set(expected) == set(_gradients(model))
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12, msg=name)


def test_gradients_add_up_and_scale() -> None:
    model = toy_model().double()
    cached_backward(model, {"values": _values()}, 2)
    once = _gradients(model)
    cached_backward(model, {"values": _values()}, 3, scale=0.5)
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, 1.5 * once[name], rtol=0, atol=1e-12)


def test_with_a_grad_scaler() -> None:
    model = toy_model()
    reference, values = copy.deepcopy(model), _values(8, torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cached_backward(model, {"values": values}, 3, scale=scaler.scale(torch.tensor(1.0)))
    scaler.step(optimizer)
    scaler.update()
    reference(values).loss.backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    for one, two in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_dropout_is_the_same_in_both_passes() -> None:
    # With one chunk, the same random state must give exactly what plain backward gives.
    model = toy_model(dropout=0.5).double()
    reference = copy.deepcopy(model)
    torch.manual_seed(11)
    reference(_values()).loss.backward()
    after_plain = torch.rand(1)
    torch.manual_seed(11)
    cached_backward(model, {"values": _values()}, 7)
    after_cached = torch.rand(1)
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, _gradients(reference)[name], rtol=0, atol=1e-12)
    # the random stream goes on as if there had been one forward
    assert torch.equal(after_plain, after_cached)
    # also when the objective itself draws
    objective = model.compute_objective
    model.compute_objective = lambda *inputs: (torch.rand(3), objective(*inputs))[1]
    torch.manual_seed(11)
    model(_values())
    after_plain = torch.rand(1)
    torch.manual_seed(11)
    cached_backward(model, {"values": _values()}, 7)
    assert torch.equal(after_plain, torch.rand(1))
    model.compute_objective = objective
    # With several chunks: the gradient is that of the loss which the same masks give (finite differences).
    model.zero_grad()
    torch.manual_seed(11)
    cached_backward(model, {"values": _values()}, 3)
    weight, step = model.projection_head.weight, 1e-6

    def loss_at(shift: float) -> float:
        with torch.no_grad():
            weight[0, 0] += shift
            torch.manual_seed(11)
            parts = [model.embed_views(part) for part in _values().split(3)]
            value = model.compute_objective({name: torch.cat([p[name] for p in parts]) for name in parts[0]}).loss
            weight[0, 0] -= shift
        return float(value)

    slope = (loss_at(step) - loss_at(-step)) / (2 * step)
    assert float(weight.grad[0, 0]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_batch_norm_moves_once_and_is_announced_once() -> None:
    model = toy_model(batch_norm=True).double()
    reference = copy.deepcopy(model)
    with pytest.warns(UserWarning, match=r"batch norm layers .*chunks of 4 rows"):
        cached_backward(model, {"values": _values(8)}, 4)
    for part in _values(8).split(4):
        reference.embed_views(part)
    assert int(model.backbone[1].num_batches_tracked) == 2
    torch.testing.assert_close(model.backbone[1].running_mean, reference.backbone[1].running_mean)
    torch.testing.assert_close(model.backbone[1].running_var, reference.backbone[1].running_var)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_backward(model, {"values": _values(8)}, 4)


def test_batch_norm_in_eval_mode_is_exact_and_silent() -> None:
    model = toy_model(batch_norm=True).double().eval()
    reference = copy.deepcopy(model)
    reference(_values()).loss.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_backward(model, {"values": _values()}, 2)
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, _gradients(reference)[name], rtol=0, atol=1e-12)


def test_under_autocast() -> None:
    model = toy_model()
    reference = copy.deepcopy(model)
    values = _values(8, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reference(values).loss.backward()
        output = cached_backward(model, {"values": values}, 4)
    assert output.projections.dtype == torch.bfloat16
    expected = torch.cat([g.flatten() for g in _gradients(reference).values()])
    found = torch.cat([g.flatten() for g in _gradients(model).values()])
    assert torch.nn.functional.cosine_similarity(expected, found, dim=0) > 0.999
    assert float((expected - found).norm() / expected.norm()) < 0.03


def test_one_chunk_under_autocast_is_plain_backward() -> None:
    """Bit for bit: operations of the backward pass keep the number formats of their forward."""
    model = toy_model()
    model.queue.normal_()
    reference = copy.deepcopy(model)
    values = _values(8, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = reference(values).loss
    loss.backward()  # where torch says it belongs, outside
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cached_backward(model, {"values": values}, 8)
    for name, gradient in _gradients(model).items():
        assert torch.equal(gradient, _gradients(reference)[name]), name


def test_frozen_parts_get_no_gradient() -> None:
    model = toy_model(frozen_modules=["backbone"]).double()
    cached_backward(model, {"values": _values()}, 2)
    assert model.projection_head.weight.grad is not None
    assert all(p.grad is None for p in model.backbone.parameters())


def test_a_memory_of_one_chunk() -> None:
    """No more rows than a chunk are ever embedded at a time, and the objective sees all of them once."""
    model, seen, whole = toy_model(), [], []
    embed, objective = model.embed_views, model.compute_objective
    model.embed_views = lambda values: (seen.append(len(values)), embed(values))[1]
    model.compute_objective = lambda embeds, **others: (
        whole.append(len(embeds["projections"])),
        objective(embeds, **others),
    )[1]
    cached_backward(model, {"values": _values(7, torch.float32)}, 3)
    assert seen == [3, 3, 1, 3, 3, 1]
    assert whole == [7]


@pytest.mark.parametrize("chunk_size", [0, -1, 2.0, True])
def test_bad_chunk_size(chunk_size: object) -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        cached_backward(toy_model(), {"values": _values()}, chunk_size)  # ty: ignore[invalid-argument-type]


def test_missing_input() -> None:
    with pytest.raises(ValueError, match="values"):
        cached_backward(toy_model(), {"images": _values()}, 2)
