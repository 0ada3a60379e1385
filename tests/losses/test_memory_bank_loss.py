"""InfoNCE against a memory bank, and margins, against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from hf_contrastive.losses import info_nce, memory_bank_nce, with_margin
from hf_contrastive.losses import memory_bank as loss_module


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive_margin(cosine: float, margin: float, kind: str) -> float:
    if kind == "cosine":
        return cosine - margin
    if margin < 0 and cosine >= math.cos(margin):
        return cosine + margin * math.sin(margin)
    if margin > 0 and cosine <= math.cos(math.pi - margin):
        return cosine - margin * math.sin(math.pi - margin)
    return math.cos(math.acos(cosine) + margin)


@pytest.mark.parametrize(("margin", "kind"), [(0.3, "cosine"), (-0.5, "cosine"), (0.4, "angle"), (-0.5, "angle")])
def test_margins(margin, kind):
    cosine = torch.linspace(-1, 1, 41, dtype=torch.float64, requires_grad=True)
    found = with_margin(cosine, margin, kind)
    expected = [naive_margin(value, margin, kind) for value in cosine.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    # finite at both ends, where the slope of the root is not
    assert bool(torch.isfinite(torch.autograd.grad(found.sum(), cosine)[0]).all())


@pytest.mark.parametrize(("margin", "kind"), [(0.0, "cosine"), (-0.5, "cosine"), (0.3, "angle")])
@pytest.mark.parametrize("chunk", [2**24, 60])
@pytest.mark.parametrize("ratio", [0, 100])
def test_loss_and_gradient(margin, kind, chunk, ratio, monkeypatch):
    monkeypatch.setattr(loss_module, "_CHUNK", chunk)
    monkeypatch.setattr(loss_module, "_DENSE_RATIO", ratio)  # rows looked up, or all products made
    query, bank = rows(5, 4).requires_grad_(), normalize(rows(20, 4, seed=1), dim=1)
    generator = torch.Generator().manual_seed(2)
    positive = torch.randint(0, 20, (5,), generator=generator)
    negative = torch.randint(0, 20, (5, 7), generator=generator)
    negative[0, :2] = negative[0, 2]  # repeats count again
    found = memory_bank_nce(query, bank, positive, negative, temperature=0.2, margin=margin, margin_type=kind)
    unit = normalize(query, dim=1)
    likeness = torch.stack([unit[i] @ bank[positive[i]] for i in range(5)])
    likeness = with_margin(likeness, margin, kind)
    others = torch.stack([bank[negative[i]] @ unit[i] for i in range(5)])
    logits = torch.cat([likeness[:, None], others], 1) / 0.2
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, query)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_rows_with_the_id_of_the_query_are_no_negatives():
    query, bank = rows(3, 4), normalize(rows(10, 4, seed=1), dim=1)
    positive, negative = torch.tensor([0, 1, 2]), torch.tensor([[3, 4, 5]] * 3)
    bank_ids, sample_ids = torch.arange(10) % 5, torch.tensor([3, 9, 9])
    each = {"reduction": "none", "sample_ids": sample_ids, "bank_ids": bank_ids}
    found = memory_bank_nce(query, bank, positive, negative, **each)
    without = memory_bank_nce(query, bank, positive, negative[:, 1:], reduction="none")
    whole = memory_bank_nce(query, bank, positive, negative, reduction="none")
    torch.testing.assert_close(found, torch.stack([without[0], whole[1], whole[2]]))


def test_margin_of_info_nce():
    query, key, queue = rows(4, 3), rows(4, 3, seed=1), rows(6, 3, seed=2)
    options = {"temperature": 0.2, "in_batch_negatives": False}
    found = info_nce(query, key, queue, margin=-0.5, **options)
    likeness = (normalize(query, dim=1) * normalize(key, dim=1)).sum(1) + 0.5
    logits = torch.cat([likeness[:, None], normalize(query, dim=1) @ normalize(queue, dim=1).T], 1) / 0.2
    torch.testing.assert_close(found, -logits.log_softmax(1)[:, 0].mean())
    assert torch.equal(info_nce(query, key, queue, margin=0.0, **options), info_nce(query, key, queue, **options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive_index": torch.tensor([0, 10, 2])}, "names row 10, but the bank has the rows 0 to 9"),
        ({"negative_index": torch.tensor([[0], [-1], [2]])}, "names row -1"),
        ({"bank": torch.ones(10, 3)}, "rows of 4 numbers"),
        ({"sample_ids": torch.tensor([0, 1, 2])}, "give both or neither"),
        ({"margin_type": "arc"}, "one of 'cosine', 'angle'"),
        ({"margin_type": "angle", "margin": 4.0}, "an angle between -pi and pi"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {
        "query": rows(3, 4).float(),
        "bank": torch.ones(10, 4),
        "positive_index": torch.tensor([0, 1, 2]),
        "negative_index": torch.tensor([[3], [4], [5]]),
        "margin": 0.1,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        memory_bank_nce(**given)
