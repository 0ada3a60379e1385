"""Zero-shot classification against the steps written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_contrastive.evaluation import (
    zero_shot_accuracy,
    zero_shot_class_embeddings,
    zero_shot_logits,
    zero_shot_predictions,
)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_class_embeddings_weigh_every_prompt_alike():
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(5, 4, 6)) * rng.uniform(0.1, 10, size=(5, 4, 1))
    expected = unit(unit(prompts).mean(1))
    found = zero_shot_class_embeddings(prompts)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(zero_shot_class_embeddings(list(prompts)), expected, rtol=1e-12)
    single = zero_shot_class_embeddings(torch.as_tensor(prompts).float().requires_grad_())
    assert single.dtype == torch.float32
    assert not single.requires_grad
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)


def test_classes_may_have_different_numbers_of_prompts():
    rng = np.random.default_rng(1)
    ragged = [rng.normal(size=(n, 3)) for n in (1, 4, 2)]
    found = zero_shot_class_embeddings(ragged)
    np.testing.assert_allclose(found, np.stack([unit(unit(one).mean(0)) for one in ragged]), rtol=1e-12)
    np.testing.assert_allclose(found[0], unit(ragged[0][0]), rtol=1e-12)


def test_accuracy_logits_and_predictions_agree():
    rng = np.random.default_rng(2)
    x, classes, labels = rng.normal(size=(60, 8)) * 7, rng.normal(size=(6, 8)) * 3, rng.integers(0, 6, 60)
    logits = 100 * unit(x) @ unit(classes).T
    np.testing.assert_allclose(zero_shot_logits(x, classes), logits, rtol=1e-12)
    ranking = np.argsort(-logits, axis=1, kind="stable")
    assert zero_shot_predictions(x, classes, chunk_size=7).tolist() == ranking[:, 0].tolist()
    found = zero_shot_accuracy(x, classes, labels, ks=(1, 3, 6))
    for k in (1, 3, 6):
        assert found[f"top{k}"] == pytest.approx(
            np.mean([y in row[:k] for y, row in zip(labels, ranking, strict=True)])
        )
    assert found["top6"] == 1.0
    assert found["accuracy"] == found["top1"]
    per_class = [(ranking[labels == c, 0] == c).mean() for c in range(6)]
    assert found["mean_per_class_accuracy"] == pytest.approx(np.mean(per_class))
    assert (found["n"], found["n_classes"]) == (60, 6)
    assert zero_shot_accuracy(torch.as_tensor(x).bfloat16(), classes, torch.as_tensor(labels))["n"] == 60


def test_of_equally_near_classes_the_first_is_the_answer():
    assert zero_shot_predictions(np.ones((2, 2)), [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]).tolist() == [0, 0]
    assert zero_shot_predictions([[1.0, 0.1]] * 2, [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]).tolist() == [1, 1]


def test_autocast_does_not_lower_the_precision():
    rng = np.random.default_rng(3)
    x, classes = torch.as_tensor(rng.normal(size=(8, 64))).float(), torch.as_tensor(rng.normal(size=(3, 64))).float()
    expected = zero_shot_logits(x, classes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(zero_shot_logits(x, classes), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zero_shot_class_embeddings(np.ones((2, 3))), r"`prompt_embeds` has shape \[2, 3\]"),
        (lambda: zero_shot_class_embeddings([]), "`prompt_embeds` is empty"),
        (lambda: zero_shot_class_embeddings([np.ones((2, 3)), np.ones((2, 4))]), r"embeddings of \[3, 4\] features"),
        (lambda: zero_shot_class_embeddings([np.ones((2, 3)), np.ones((0, 3))]), r"`prompt_embeds\[1\]` is empty"),
        (
            lambda: zero_shot_class_embeddings(np.array([[[1.0, 0.3], [-1.0, -0.3]]])),
            "of class 0 have no mean direction",
        ),
        (lambda: zero_shot_class_embeddings(np.full((1, 1, 2), np.nan)), "NaN or infinity"),
        (lambda: zero_shot_logits(np.ones((2, 3)), np.ones((2, 3)), logit_scale=0), "`logit_scale` is 0"),
        (lambda: zero_shot_logits(np.ones((2, 3)), np.ones((2, 4))), "same encoder"),
        (
            lambda: zero_shot_accuracy(np.ones((2, 3)), np.ones((2, 3)), [0, 2]),
            "class numbers, integers from 0 to 1; got 0 to 2",
        ),
        (lambda: zero_shot_accuracy(np.ones((2, 3)), np.ones((2, 3)), ["a", "b"]), "class numbers"),
        (
            lambda: zero_shot_accuracy(np.ones((2, 3)), np.ones((2, 3)), [0]),
            "`labels` has 1 labels but `x` has 2 rows",
        ),
        (lambda: zero_shot_accuracy(np.ones((2, 3)), np.ones((2, 3)), [0, 1], ks=(3,)), "`ks` asks for 3 classes"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
