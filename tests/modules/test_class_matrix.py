"""Class vectors: draws, what is refused; the loss itself is tested beside the other losses, several processes with MOFI."""

from __future__ import annotations

import pytest
import torch

from hf_contrastive.modules.class_matrix import ClassMatrix, ShardedClassMatrix


def test_every_class_is_drawn_about_as_often():
    matrix, labels = ClassMatrix(50, 2, num_sampled=10), torch.tensor([4, 4, 9])
    counts = torch.zeros(50)
    for _ in range(600):
        drawn = matrix.draw(labels)
        assert drawn[:2].tolist() == [4, 9]
        counts[drawn] += 1
        matrix.after_step(None)
    assert counts[[4, 9]].tolist() == [600, 600]
    others = torch.cat([counts[:4], counts[5:9], counts[10:]])
    # 8 of 48: 100 each, standard deviation about 9
    assert float((others - 100).abs().max()) < 45
    assert float(others.mean()) == pytest.approx(100)


def test_more_labels_than_are_to_be_drawn():
    matrix = ClassMatrix(10, 2, num_sampled=3)
    assert matrix.draw(torch.arange(6)).tolist() == list(range(6))
    assert matrix.draw(torch.full((4,), -1)).shape == (3,)
    assert ClassMatrix(10, 2).draw(torch.arange(6)) is None


def test_only_candidates_get_a_gradient():
    torch.manual_seed(0)
    matrix = ClassMatrix(10, 4)
    matrix(torch.randn(2, 4), torch.tensor([1, 5]), candidates=torch.tensor([1, 5, 8])).backward()
    assert matrix.weight.grad.abs().sum(1).nonzero()[:, 0].tolist() == [1, 5, 8]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((1, 4), "`num_classes` is 1"), ((4, 0), "`dim` is 0"), ((4, 4, -1), "`num_sampled` is -1")],
)
def test_sizes_that_make_no_sense_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        ClassMatrix(*sizes)


def test_shards_of_one_process_are_the_matrix():
    torch.manual_seed(0)
    whole = ClassMatrix(10, 4, num_sampled=6)
    parts = ShardedClassMatrix.from_full(whole.weight, num_sampled=6)
    features, labels = torch.randn(5, 4), torch.tensor([1, 2, 2, -1, 9])
    assert torch.equal(parts.full(), whole.weight)
    torch.testing.assert_close(parts(features, labels), whole(features, labels))
    torch.testing.assert_close(
        parts.cosine(features, torch.tensor([3, 1])), whole.cosine(features, torch.tensor([3, 1]))
    )
    assert float(parts.gradient_norm()) == 0
    parts(features, labels).backward()
    torch.testing.assert_close(parts.gradient_norm(), parts.weight.grad.norm())
    new = ShardedClassMatrix(400, 8)
    assert 0.018 < float(new.weight.detach().std()) < 0.022
    assert torch.equal(new.weight, ShardedClassMatrix(400, 8).weight)
    assert not torch.equal(new.weight, ShardedClassMatrix(400, 8, seed=1).weight)
