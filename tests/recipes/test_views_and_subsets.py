"""Long-tailed training parts, local crops and equal budgets of recipes that train on views."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from hf_contrastive import get_system, load_images
from hf_contrastive.data import MultiCropViews, SimCLRViews
from hf_contrastive.recipes import arms, images


def test_a_long_tailed_part_is_numbered_anew():
    digits = load_images("digits")
    part, rare = images.long_tail(digits, images.DataArguments(imbalance="linear"))
    before, after = (np.bincount(images.labels_of(data), minlength=10) for data in (digits, part))
    assert after.tolist() == [int((label + 1) / 10 * count) for label, count in enumerate(before)]
    assert rare == [0, 1, 2]
    assert part["index"][:] == list(range(len(part)))
    # the other columns stay together
    same = next(row for row in range(len(digits)) if digits[row]["image"].tobytes() == part[3]["image"].tobytes())
    assert digits[same]["label"] == part[3]["label"]


def test_without_imbalance_nothing_changes():
    digits = load_images("digits")
    part, rare = images.long_tail(digits, images.DataArguments())
    assert part is digits
    assert rare is None


def test_imbalance_needs_labels_and_a_known_kind():
    digits = load_images("digits")
    with pytest.raises(ValueError, match="`imbalance` goes by the labels"):
        images.long_tail(digits.remove_columns("label"), images.DataArguments(imbalance="linear"))
    with pytest.raises(ValueError, match="`mode` is 'steep'"):
        images.long_tail(digits, images.DataArguments(imbalance="steep"))


def test_accuracy_of_rare_classes():
    train, test = np.eye(3).repeat(40, 0), np.eye(3).repeat(10, 0)
    labels, wrong = np.repeat([0, 1, 2], 40), np.repeat([0, 1, 2], 10)
    test[:5] = np.eye(3)[1]  # half of class 0 looks like class 1
    found = images.score(train, labels, test, wrong, images.MeasureArguments(), rare=[0, 2])
    assert found["rare"] == pytest.approx(0.75)
    assert "rare" not in images.score(train, labels, test, wrong, images.MeasureArguments())


def test_local_crops_by_arguments():
    views = images.make_views(images.ViewArguments(image_size=28, num_local_views=4), seed=3)
    assert isinstance(views, MultiCropViews)
    assert (views.local.num_views, views.local.size, views.local.crop_scale) == (4, 12, (0.05, 0.14))
    assert views.local.seed == views.seed == 3
    assert isinstance(images.make_views(images.ViewArguments(), seed=3), SimCLRViews)


def test_a_system_without_place_for_local_crops_says_so():
    views = images.make_views(images.ViewArguments(num_local_views=2), seed=0)
    with pytest.raises(ValueError, match="SimCLR takes no local crops; leave out --num_local_views"):
        images.make_model(get_system("simclr"), images.ModelArguments(backbone="conv_encoder"), views)


def test_equal_budgets_count_pixels():
    args = SimpleNamespace(
        per_device_train_batch_size=10, world_size=1, gradient_accumulation_steps=1, max_steps=-1, num_train_epochs=3
    )
    crops = images.make_views(images.ViewArguments(image_size=16, num_local_views=4, local_size=8), seed=0)
    # 30 steps of 2 views and 4 crops of a quarter
    assert arms._equal_budget(args, range(100), crops.full_views, 2.0) == 45
    args.max_steps = 40
    assert arms._equal_budget(args, range(100), 5.0, 2.0) == 100
