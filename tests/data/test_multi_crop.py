"""Local crops beside the global views, and long-tailed subsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_contrastive.data import MultiCropViews, MultiViewCollator, SimCLRViews, imbalanced_subset


def pictures(number: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (24, 20 + row, 3), dtype=np.uint8) for row in range(number)]


def make(**options) -> MultiCropViews:
    return MultiCropViews(SimCLRViews.cifar(16), **{"num_local_views": 3, "local_size": 7, **options})


def test_shapes_and_global_views_are_those_without_crops():
    made = make()(pictures(), [5, 6, 7], epoch=2)
    assert made["local_pixel_values"].shape == (3, 3, 3, 7, 7)
    assert torch.equal(made["pixel_values"], SimCLRViews.cifar(16)(pictures(), [5, 6, 7], epoch=2))


def test_crops_depend_on_the_image_alone():
    together = make()(pictures(), [5, 6, 7], epoch=2)["local_pixel_values"]
    alone = make()(pictures()[1:2], np.array([6]), epoch=2)["local_pixel_values"]
    assert torch.equal(together[1:2], alone)
    # more crops leave the first ones as they are; another epoch does not
    assert torch.equal(make(num_local_views=5)(pictures(), [5, 6, 7], 2)["local_pixel_values"][:, :3], together)
    assert not torch.equal(make()(pictures(), [5, 6, 7], 3)["local_pixel_values"], together)


def test_crops_have_draws_and_areas_of_their_own():
    views = make(local_crop_scale=(0.05, 0.14))
    sizes, rows = [(100, 100)] * 200, range(200)
    local, whole = (part.draw(sizes, rows)["box"] for part in (views.local, views.views))
    areas = local[:, 2] * local[:, 3] / 1e4
    assert 0.04 < areas.min() < 0.06
    assert 0.13 < areas.max() < 0.15
    own = views.local.draw(sizes, rows)["flip"].reshape(200, 3)[:, :2] == views.views.draw(sizes, rows)[
        "flip"
    ].reshape(200, 2)
    assert 0.4 < own.mean() < 0.6
    assert len(whole) == 400


def test_collator_hands_both_on():
    collator = MultiViewCollator(make(), sample_id_column="label")
    rows = [{"image": image, "index": row, "label": row} for row, image in enumerate(pictures())]
    batch = collator(rows)
    assert sorted(batch) == ["index", "local_pixel_values", "pixel_values", "sample_ids"]
    first = batch["local_pixel_values"]
    collator.set_epoch(1)
    assert not torch.equal(collator(rows)["local_pixel_values"], first)


def test_pixels_are_counted():
    views = MultiCropViews(SimCLRViews(32), num_local_views=4, local_size=16)
    assert views.full_views == 2 + 4 / 4
    assert SimCLRViews(32, num_views=5).full_views == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_local_views": 0}, "num_local_views must be a whole number of at least 1, got 0"),
        ({"local_size": 0}, "local_size must be a whole number of at least 1, got 0"),
        ({"local_crop_scale": (0.5, 0.1)}, "local_crop_scale must satisfy"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_crops_of_uncropped_views_are_refused():
    with pytest.raises(ValueError, match="crop=False; set crop=True"):
        MultiCropViews(SimCLRViews(16, crop=False))


@pytest.mark.parametrize(("mode", "sizes"), [("linear", [25, 50, 75, 100]), ("exponential", [4, 13, 36, 100])])
def test_sizes_of_a_long_tail(mode, sizes):
    targets = np.tile([2, 0, 3, 1], 100)
    selected, found = imbalanced_subset(targets, mode)
    assert found.tolist() == sizes
    assert np.bincount(targets[selected]).tolist() == sizes
    assert len(set(selected.tolist())) == len(selected)
    # class by class, not the first rows of each, and the same again
    assert (np.diff(targets[selected]) >= 0).all()
    assert selected[:25].tolist() != np.flatnonzero(targets == 0)[:25].tolist()
    assert np.array_equal(selected, imbalanced_subset(targets, mode)[0])
    assert not np.array_equal(selected, imbalanced_subset(targets, mode, seed=0)[0])


def test_a_class_without_rows_counts():
    assert imbalanced_subset([0] * 10 + [1] * 10, "linear", num_classes=4)[1].tolist() == [2, 5, 0, 0]


@pytest.mark.parametrize(
    ("targets", "mode", "message"),
    [
        ([0, 1], "steep", "`mode` is 'steep', expected one of: linear, exponential"),
        ([0.5, 1.0], "linear", "one whole number per row"),
        ([0, 5], "linear", r"must be from 0 to 1 \(num_classes=2\), got 0 to 5"),
        ([0], "linear", "no row is left"),
    ],
)
def test_refused_targets(targets, mode, message):
    with pytest.raises(ValueError, match=message):
        imbalanced_subset(targets, mode, num_classes=2)
