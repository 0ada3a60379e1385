"""UniCon against the formula written out, and where it would overflow."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from hf_contrastive.losses import info_nce, sinkhorn, swapped_prediction, uni_con


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(query, key, labels, queue, queue_labels, temperature):
    q, k, others = (normalize(x, dim=1) for x in (query, key, queue))
    losses = []
    for i in range(len(q)):
        positives = [float(q[i] @ k[i]) / temperature]
        negatives = []
        for j in range(len(others)):
            (positives if labels[i] == queue_labels[j] else negatives).append(float(q[i] @ others[j]) / temperature)
        losses.append(math.log1p(sum(map(math.exp, negatives)) * sum(math.exp(-p) for p in positives)))
    return losses


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_equals_the_formula(temperature):
    query, key, queue = draw(5, 4), draw(5, 4, seed=1), draw(9, 4, seed=2)
    labels, queue_labels = torch.tensor([0, 1, 1, 2, 7]), torch.tensor([0, 0, 1, 2, 2, -1, -1, 1, 0])
    found = uni_con(query, key, labels, queue, queue_labels, temperature, reduction="none")
    expected = naive(query, key, labels, queue, queue_labels, temperature)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert float(uni_con(query, key, labels, queue, queue_labels, temperature)) == pytest.approx(sum(expected) / 5)
    assert float(uni_con(query, key, labels, queue, queue_labels, temperature, reduction="sum")) == pytest.approx(
        sum(expected)
    )


def test_without_labels_or_positives_it_is_info_nce():
    query, key, queue = draw(5, 4), draw(5, 4, seed=1), draw(9, 4, seed=2)
    expected = info_nce(query, key, queue, temperature=0.1, in_batch_negatives=False)
    torch.testing.assert_close(uni_con(query, key, None, queue, None, 0.1), expected)
    unknown = torch.full((9,), -1)
    torch.testing.assert_close(uni_con(query, key, torch.arange(5), queue, unknown, 0.1), expected)


def test_no_negatives_is_exactly_zero_and_so_is_the_gradient():
    query = draw(3, 4).requires_grad_()
    loss = uni_con(query, draw(3, 4, seed=1), torch.zeros(3, dtype=torch.long), draw(6, 4), torch.zeros(6).long())
    loss.backward()
    assert loss.item() == 0.0
    assert not query.grad.any()


def test_small_temperatures_do_not_overflow():
    query = draw(4, 4).float().requires_grad_()
    loss = uni_con(query, -query.detach(), torch.arange(4), query.detach(), torch.tensor([3, 2, 1, 0]), 1e-3)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 1000  # exp of half of it is beyond float32
    assert torch.isfinite(query.grad).all()


def test_gradient():
    query, key, queue = draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_(), draw(5, 4, seed=2)
    labels, queue_labels = torch.tensor([0, 1, 1]), torch.tensor([0, 1, -1, 2, 1])
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, k, t: uni_con(q, k, labels, queue, queue_labels, t), (query, key, temperature)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queue_labels": None}, "`labels` came without `queue_labels`"),
        ({"labels": torch.tensor([0, -1])}, "`labels` holds -1"),
        ({"labels": torch.tensor([0.0, 1.0])}, "`labels` must hold integers"),
        ({"queue": torch.zeros(3, 5)}, "same embedding width"),
        ({"queue_labels": torch.zeros(4).long()}, "`queue_labels` must have shape"),
        ({"temperature": 0.0}, "`temperature` must be a finite number above 0"),
    ],
)
def test_refusals(fields, message):
    given = {
        "query": torch.rand(2, 4),
        "key": torch.rand(2, 4),
        "labels": torch.tensor([0, 1]),
        "queue": torch.rand(3, 4),
        "queue_labels": torch.zeros(3).long(),
    }
    with pytest.raises(ValueError, match=message):
        uni_con(**{**given, **fields})


def test_mean_over_prototypes_divides_by_their_number():
    scores = draw(2, 6, 5)
    codes = torch.stack([sinkhorn(one) for one in scores])
    whole = swapped_prediction(scores, codes, 0.1)
    torch.testing.assert_close(swapped_prediction(scores, codes, 0.1, mean_over_prototypes=True), whole / 5)
