"""Collators: what comes out, and an epoch that reaches workers which run already."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hf_contrastive.data import (
    EvalCollator,
    EvalTransform,
    MultiViewCollator,
    PreloadedImages,
    SimCLRViews,
    load_images,
)


def make_rows(count: int) -> list[dict]:
    pixels = [np.random.default_rng(row).integers(0, 256, (12, 12, 3), dtype=np.uint8) for row in range(count)]
    return [
        {"image": Image.fromarray(image), "index": row, "label": row % 3, "text": "left out"}
        for row, image in enumerate(pixels)
    ]


def test_batch_holds_views_index_and_sample_ids():
    rows, views = make_rows(6), SimCLRViews(8)
    collator = MultiViewCollator(views, sample_id_column="label")
    batch = collator([rows[5], rows[2]])
    assert set(batch) == {"pixel_values", "index", "sample_ids"}
    assert torch.equal(batch["pixel_values"], views([rows[5]["image"], rows[2]["image"]], [5, 2], 0))
    assert batch["index"].tolist() == [5, 2]
    assert batch["sample_ids"].tolist() == [2, 2]
    assert set(MultiViewCollator(views, keep_index=False)([rows[0]])) == {"pixel_values"}


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_epoch_reaches_persistent_workers(context, workers):
    rows, collator = make_rows(6), MultiViewCollator(SimCLRViews(8))
    loader = DataLoader(
        rows, 3, collate_fn=collator, num_workers=workers, persistent_workers=True, multiprocessing_context=context
    )
    for epoch in (0, 4):
        collator.set_epoch(epoch)
        got = torch.cat([batch["pixel_values"] for batch in loader])
        alone = MultiViewCollator(SimCLRViews(8))
        alone.set_epoch(epoch)
        assert torch.equal(got, alone(rows)["pixel_values"])


def test_collator_can_be_copied_and_pickled():
    collator = MultiViewCollator(SimCLRViews(8))
    collator.set_epoch(7)
    for other in (copy.deepcopy(collator), pickle.loads(pickle.dumps(collator))):
        assert other.epoch == 7
        other.set_epoch(1)
        assert collator.epoch == 7


def test_missing_columns_and_bad_rows_are_named():
    rows = make_rows(6)
    with pytest.raises(
        ValueError, match="'cluster' not found; the row has image, index, label, text; pass sample_id_c"
    ):
        MultiViewCollator(SimCLRViews(8), "cluster")([rows[0]])
    with pytest.raises(ValueError, match="'picture' not found"):
        MultiViewCollator(SimCLRViews(8), image_column="picture")([rows[0]])
    with pytest.raises(ValueError, match="column 'text', row 0: 'left out' is not a whole number"):
        MultiViewCollator(SimCLRViews(8), "text")([rows[0]])
    with pytest.raises(ValueError, match=r"image in row 7 \(file a\.png\) cannot be read"):
        MultiViewCollator(SimCLRViews(8))([rows[0], {"image": {"bytes": b"no", "path": "a.png"}, "index": 7}])
    for collator in (MultiViewCollator(SimCLRViews(8)), EvalCollator(EvalTransform(8))):
        with pytest.raises(ValueError, match="batch is empty"):
            collator([])


def test_eval_collator():
    rows = make_rows(6)
    batch = EvalCollator(EvalTransform(8))([rows[4], rows[1]])
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert (batch["index"].tolist(), batch["label"].tolist()) == ([4, 1], [1, 1])
    assert set(EvalCollator(EvalTransform(8))([{"image": rows[0]["image"]}])) == {"pixel_values"}
    assert EvalCollator(EvalTransform(8), label_column="index")([rows[3]])["label"].tolist() == [3]
    with pytest.raises(
        ValueError, match="'class' not found; the row has image, index, label, text; pass label_column"
    ):
        EvalCollator(EvalTransform(8), label_column="class")([rows[0]])


def test_preloaded_images_give_the_same_batches():
    data = load_images("digits", max_samples=12)
    preloaded = PreloadedImages(data, channels=1)
    collator = MultiViewCollator(SimCLRViews.digits(), "label")
    lazy, held = (next(iter(DataLoader(rows, 12, collate_fn=collator))) for rows in (data, preloaded))
    assert lazy.keys() == held.keys()
    assert all(torch.equal(lazy[name], held[name]) for name in lazy)
    assert preloaded.column_names == ["image", "label", "index"]
    with pytest.raises(ValueError, match="max_bytes=100 decoded"):
        PreloadedImages(data, max_bytes=100)
    with pytest.raises(ValueError, match="column 'photo' not found"):
        PreloadedImages(data, image_column="photo")
