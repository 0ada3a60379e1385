"""The published preprocessing of MOFI."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from transformers import AutoImageProcessor, AutoProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hf_contrastive import DualEncoderProcessor, MofiImageProcessor
from hf_contrastive.data import ProcessorTransform, train_word_tokenizer


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def published(size: int):
    return transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Resize(size, antialias=False),
            transforms.CenterCrop(size),
            transforms.Normalize(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
        ]
    )


@pytest.mark.parametrize(
    ("width", "height"), [(300, 250), (251, 402), (97, 64), (64, 64), (20, 33), (225, 224), (1000, 60)]
)
@pytest.mark.parametrize("size", [64, 97])
def test_pixels_are_those_of_the_published_code(width, height, size):
    image = picture(width, height)
    found = MofiImageProcessor.of_size(size)(images=[image], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(found, published(size)(image), rtol=0, atol=2e-5)


def test_antialias_is_off_unless_asked_for():
    image = picture(300, 250)
    rough = MofiImageProcessor.of_size(32)
    smooth = MofiImageProcessor.of_size(32, antialias=True)
    one, two = (processor(images=[image], return_tensors="pt")["pixel_values"] for processor in (rough, smooth))
    assert float(one.std()) > 2 * float(two.std())
    assert torch.equal(rough(images=[image], antialias=True, return_tensors="pt")["pixel_values"], two)


def test_kinds_and_sizes_of_images_in_one_batch():
    processor = MofiImageProcessor.of_size(32)
    images = [picture(50, 40), picture(33, 70, 1), picture(50, 40, 2)]
    batch = processor(images=images, return_tensors="pt")["pixel_values"]
    for row, image in enumerate(images):
        assert torch.equal(processor(images=[image], return_tensors="pt")["pixel_values"][0], batch[row])
    assert torch.equal(ProcessorTransform(processor)(images), batch)
    grey = processor(images=[images[0].convert("L")], return_tensors="pt")["pixel_values"]
    assert grey.shape == (1, 3, 32, 32)


def test_saved_and_loaded_by_auto_classes(tmp_path):
    processor = MofiImageProcessor.of_size(48, antialias=True)
    both = DualEncoderProcessor(processor, train_word_tokenizer(["a name"]))
    both.save_pretrained(tmp_path / "both")
    processor.save_pretrained(tmp_path / "one")
    for loaded in (
        AutoImageProcessor.from_pretrained(tmp_path / "one"),
        AutoImageProcessor.from_pretrained(tmp_path / "both"),
        AutoProcessor.from_pretrained(tmp_path / "both").image_processor,
    ):
        assert type(loaded) is MofiImageProcessor
        assert loaded.antialias is True
        assert loaded.to_dict() == processor.to_dict()
    image = picture(60, 50)
    expected = processor(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(loaded(images=[image], return_tensors="pt")["pixel_values"], expected)
    code = (
        "import hf_contrastive\nfrom transformers import AutoImageProcessor\n"
        f"print(type(AutoImageProcessor.from_pretrained({str(tmp_path / 'one')!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "MofiImageProcessor", done.stderr[-2000:]
