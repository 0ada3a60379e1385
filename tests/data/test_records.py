"""Records: noise of texts and scans, and batches in which a side lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hf_contrastive import DualEncoderProcessor
from hf_contrastive.data import (
    OcrNoise,
    ProcessorTransform,
    RecordCollator,
    ScanViews,
    image_processor,
    train_word_tokenizer,
)
from hf_contrastive.data.image_texts import text_ids
from hf_contrastive.data.records import occurrences


TEXTS = ["Smith & Co", "Mueller Ltd", "Tanaka", "Smith & Co"]
PROCESSOR = DualEncoderProcessor(image_processor(16), train_word_tokenizer(TEXTS, "character"))
TRANSFORM = ProcessorTransform(PROCESSOR.image_processor)


def rows() -> list[dict]:
    random = np.random.default_rng(0)
    return [
        {
            "image": Image.fromarray(random.integers(0, 256, (18, 30, 3), dtype=np.uint8)),
            "text": text,
            "label": number // 2,
            "index": 10 + number,
        }
        for number, text in enumerate(TEXTS)
    ]


def test_ocr_noise_has_the_shares_it_says():
    noise = OcrNoise("xyz", drop=0.2, replace=0.3)
    text = "a" * 20_000
    read = noise(text, np.random.default_rng(0))
    assert len(read) / len(text) == pytest.approx(0.8, abs=0.01)
    assert sum(map(read.count, "xyz")) / len(text) == pytest.approx(0.3, abs=0.01)
    assert OcrNoise("xyz", 0, 0)("same", np.random.default_rng(0)) == "same"
    # a text of which nothing is left stays
    assert OcrNoise("xyz", 1, 0)("abc", np.random.default_rng(0)) == "abc"
    assert noise.read(["abcdef", "abcdef"], seed=3) == noise.read(["abcdef", "abcdef"], seed=3)
    assert noise.read(["abcdefgh"], seed=3) != noise.read(["abcdefgh"], seed=4)
    for options, message in (({"drop": 0.8, "replace": 0.3}, "at most 1 together"), ({"drop": -0.1}, "0 or more")):
        with pytest.raises(ValueError, match=message):
            OcrNoise("abc", **options)
    with pytest.raises(ValueError, match="alphabet is empty"):
        OcrNoise([" ", ""])


def test_scans_have_no_state():
    views = ScanViews(TRANSFORM, noise=0.2, seed=1)
    images = [row["image"] for row in rows()]
    together = views(images, [10, 11, 12, 13], 2)
    assert together.shape == (4, 1, 3, 16, 16)
    assert torch.equal(views(images[2:3], [12], 2), together[2:3])
    for other in (views(images, [10, 11, 12, 13], 3), ScanViews(TRANSFORM, noise=0.2)(images, [10, 11, 12, 13], 2)):
        assert float((other - together).abs().max()) > 0.01
    again = views([images[0]] * 2, [10, 10], 2, np.array([0, 1]))
    assert torch.equal(again[0], together[0])
    assert float((again[1] - again[0]).abs().max()) > 0.01


def test_each_strength_can_be_left_out():
    images = [row["image"] for row in rows()]
    plain = TRANSFORM(images)
    off = {"rotate": 0, "translate": 0, "zoom": 0, "blur": 0, "noise": 0}
    assert torch.equal(ScanViews(TRANSFORM, **off)(images, range(4), 0)[:, 0], plain)
    for name, value in (("rotate", 20), ("translate", 0.2), ("zoom", 0.3), ("blur", 2.0), ("noise", 0.3)):
        changed = ScanViews(TRANSFORM, **{**off, name: value})(images, range(4), 0)[:, 0]
        assert float((changed - plain).abs().mean()) > 0.01, name
    # a plain picture stays plain when it is moved: the border goes on outside
    white = [Image.new("RGB", (30, 18), "white")]
    moved = ScanViews(TRANSFORM, **{**off, "rotate": 30, "translate": 0.4, "zoom": 0.4})(white, [0], 0)[:, 0]
    torch.testing.assert_close(moved, TRANSFORM(white))
    for name in off:
        with pytest.raises(ValueError, match=f"{name} must be a number of at least 0"):
            ScanViews(TRANSFORM, **{name: -1})


def test_a_shift_moves_pixels():
    """A long picture is turned as a picture, not as its square of coordinates."""
    from hf_contrastive.data.records import _move

    pixels = torch.zeros(1, 1, 9, 33)
    pixels[0, 0, 4, 20] = 1.0
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    moved = _move(pixels, zero, torch.tensor([[4 / 33, 1 / 9]], dtype=torch.float64), one)
    assert np.unravel_index(int(moved.argmax()), (9, 33)) == (5, 24)
    assert float(moved.max()) == pytest.approx(1.0, abs=1e-4)
    turned = _move(
        pixels, torch.full((1,), np.pi / 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64), one
    )
    # 4 to the right of the middle becomes 4 below it (or above)
    assert float(turned[0, 0, [0, 8], 16].max()) == pytest.approx(1.0, abs=1e-4)


def test_batches_of_both_stages():
    first = RecordCollator(TRANSFORM, PROCESSOR, augment=False, labels=False)(rows())
    assert set(first) == {"pixel_values", "input_ids", "attention_mask", "sample_ids", "index"}
    assert first["sample_ids"].tolist() == text_ids(TEXTS).tolist()
    noisy = RecordCollator(TRANSFORM, PROCESSOR, augment=False, labels=False, corrupt=OcrNoise(TEXTS))(rows())
    assert torch.equal(noisy["sample_ids"], first["sample_ids"])
    second = RecordCollator(ScanViews(TRANSFORM), PROCESSOR)(rows())
    assert set(second) == {"pixel_values", "input_ids", "attention_mask", "labels", "index"}
    assert second["labels"].tolist() == [0, 0, 1, 1]
    assert second["index"].tolist() == [10, 11, 12, 13]


def test_rows_that_come_twice_differ():
    corrupt = OcrNoise(TEXTS, 0.2, 0.3)
    collator = RecordCollator(ScanViews(TRANSFORM, noise=0.3), PROCESSOR, corrupt=corrupt)
    one, other, *_ = rows()
    batch = collator([one, other, one])
    assert float((batch["pixel_values"][0] - batch["pixel_values"][2]).abs().max()) > 0.01
    assert not torch.equal(batch["input_ids"][0], batch["input_ids"][2])
    alone = collator([one])
    assert torch.equal(alone["pixel_values"][0], batch["pixel_values"][0])
    collator.set_epoch(1)
    assert not torch.equal(collator([one])["pixel_values"], alone["pixel_values"])


def test_what_lacks_is_told():
    found = rows()
    found[1]["image"] = None
    found[2]["text"] = ""
    collator = RecordCollator(TRANSFORM, PROCESSOR, augment=False, corrupt=OcrNoise(TEXTS, 0.1, 0.1))
    batch = collator(found)
    assert batch["has_image"].tolist() == [True, False, True, True]
    assert batch["has_text"].tolist() == [True, True, False, True]
    assert bool((batch["pixel_values"][1] == 0).all())
    assert torch.equal(batch["pixel_values"][0], collator([found[0]])["pixel_values"][0])
    for row in found:
        row["image"] = None
    batch = collator(found)
    assert "pixel_values" not in batch
    assert "has_image" not in batch
    texts = RecordCollator(TRANSFORM, PROCESSOR, augment=False, labels=False)(found)
    assert "sample_ids" not in texts  # a text that lacks has no id
    with pytest.raises(ValueError, match="column 'label' not found"):
        collator([{"image": None, "text": "a", "index": 0}])
    with pytest.raises(ValueError, match="the batch is empty"):
        collator([])


def test_repetitions_are_counted():
    assert occurrences(np.array([3, 1, 3, 3, 1, 2])).tolist() == [0, 0, 1, 2, 1, 0]
    assert occurrences(np.zeros(0, dtype=np.int64)).tolist() == []
