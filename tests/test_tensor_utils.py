"""Images and texts pooled to one vector a record, and distinct numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hf_contrastive.tensor_utils import distinct, pool_modalities


def rows(seed: int, n: int = 5, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return normalize(torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 1])
def test_equals_the_formula(weight):
    images, texts = rows(0).requires_grad_(), rows(1).requires_grad_()
    pooled = pool_modalities(images, texts, weight)
    torch.testing.assert_close(pooled, normalize(weight * images + (1 - weight) * texts))
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda a, b: pool_modalities(a, b, weight), (images, texts))


def test_missing_modalities_do_not_matter():
    images, texts = rows(0), rows(1)
    seen = torch.tensor([True, False, True, True, False])
    read = torch.tensor([True, True, False, True, True])
    expected = normalize(0.3 * images + 0.7 * texts)
    expected[~seen], expected[~read] = texts[~seen], images[~read]
    images[~seen], texts[~read] = torch.nan, torch.inf
    images.requires_grad_()
    pooled = pool_modalities(images, texts, 0.3, has_image=seen, has_text=read)
    torch.testing.assert_close(pooled, expected)
    pooled.sum().backward()
    assert bool(images.grad.isfinite().all())
    assert not images.grad[~seen].any()
    torch.testing.assert_close(pool_modalities(images[read], texts[read], 0.3, has_image=seen[read]), expected[read])


def test_opposite_rows_have_no_direction():
    images = rows(0).requires_grad_()
    pooled = pool_modalities(images, -images.detach())
    pooled.sum().backward()
    assert not pooled.any()
    assert not images.grad.any()
    assert bool(pool_modalities(images * torch.nan, rows(1)).isnan().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision(dtype):
    images, texts = rows(0, dtype=dtype), rows(1, dtype=dtype)
    pooled = pool_modalities(images, texts, 0.3)
    assert pooled.dtype == dtype
    exact = pool_modalities(images.double(), texts.double(), 0.3)
    torch.testing.assert_close(pooled.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_weight": 1.5}, r"image_weight must be in \[0, 1\], got 1.5"),
        ({"image_weight": float("nan")}, r"image_weight must be in \[0, 1\]"),
        ({"text_embeds": torch.ones(4, 4)}, r"must have one shape \[N, D\].*\[5, 4\] and \[4, 4\]"),
        ({"has_image": torch.ones(5)}, r"`has_image` must be bool of shape \[5\]"),
        ({"has_text": torch.ones(4) > 0}, r"`has_text` must be bool of shape \[5\].*got torch.bool of shape \[4\]"),
        (
            {
                "has_image": torch.tensor([True, False] * 2 + [True]),
                "has_text": torch.tensor([True] * 3 + [False] * 2),
            },
            "record 3 has neither an image nor a text",
        ),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        pool_modalities(**{"image_embeds": torch.ones(5, 4), "text_embeds": torch.ones(5, 4), **change})


@pytest.mark.parametrize("numbers", [[], [4], [3, 1, 3, 1], [[2, -1], [2, 5]]])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_distinct_is_unique(numbers, dtype):
    given = np.array(numbers, dtype=dtype)
    before = given.copy()
    found = distinct(given)
    assert found.tolist() == np.unique(given).tolist()
    assert found.dtype == dtype
    assert np.array_equal(given, before)
