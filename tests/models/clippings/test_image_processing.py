"""How CLIPPINGS prepares images: padding, both presets, saved and loaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from hf_contrastive import ClippingsImageProcessor, DualEncoderProcessor
from hf_contrastive.data import ProcessorTransform, train_word_tokenizer
from hf_contrastive.models.clippings.image_processing_clippings import median_pad, pad_widths


RANDOM = np.random.default_rng(0)


def scan(height: int = 20, width: int = 60, channels: int = 3) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 60), (61, 20), (33, 33), (2, 7), (13, 4)])
def test_widths_are_those_of_the_official_code(height, width):
    longest = max(height, width)
    expected = [round((10 + longest - width) / 2), round((5 + longest - height) / 2)]
    assert list(pad_widths(width, height)) == expected
    padded = median_pad(scan(height, width))
    assert padded.shape == (height + 2 * expected[1], width + 2 * expected[0], 3)


@pytest.mark.parametrize("fill", ["white", "median"])
def test_pictures_arrays_and_grey(fill):
    image = scan()
    padded = median_pad(image, fill)
    left, top = pad_widths(60, 20)
    assert (padded[top : top + 20, left : left + 60] == image).all()
    border = np.concatenate([image[:, 0], image[:, -1], image[0], image[-1]])
    value = 255 if fill == "white" else np.median(border, axis=0).astype(int)
    assert (padded[0, 0] == value).all()
    assert (np.asarray(median_pad(Image.fromarray(image), fill)) == padded).all()
    grey = image[..., 0]
    assert (median_pad(grey, fill) == median_pad(image[..., :1], fill)[..., 0]).all()
    picture = median_pad(Image.fromarray(grey), fill)
    assert (picture.mode, picture.size) == ("L", padded.shape[1::-1])
    palette = Image.fromarray(image).convert("P")
    assert median_pad(palette, fill).mode == "RGB"


@pytest.mark.parametrize(
    ("image", "fill", "message"),
    [
        (scan(), "black", "`fill` is 'black', expected one of white, median"),
        (scan().astype(np.float32), "white", "expected .* of uint8"),
        (scan()[0, 0], "white", r"has shape \(3,\)"),
        (np.zeros((0, 4), np.uint8), "white", r"has shape \(0, 4\)"),
    ],
)
def test_what_cannot_be_padded_is_refused(image, fill, message):
    with pytest.raises(ValueError, match=message):
        median_pad(image, fill)


def test_firms_are_padded_and_newspapers_cut():
    image = Image.fromarray(scan(32, 192))
    firms = ClippingsImageProcessor.firms(48, do_normalize=False, resample=0)
    pixels = firms(images=[image], return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, 48, 48)
    assert float(pixels[:, 0].min()) == 1.0  # white above the name
    # the whole name is there: the resized padded image
    padded = Image.fromarray(median_pad(np.asarray(image))).resize((48, 48), Image.Resampling.NEAREST)
    expected = torch.from_numpy(np.array(padded)).permute(2, 0, 1) / 255
    assert float((pixels - expected).abs().mean()) < 0.05
    newspapers = ClippingsImageProcessor.newspapers(32, do_normalize=False)
    pixels = newspapers(images=[image], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels, torch.from_numpy(np.array(image)[:, 80:112]).permute(2, 0, 1) / 255)


def test_kinds_of_images_give_the_same():
    processor = ClippingsImageProcessor.firms(32, border="median")
    image = scan(10, 50)
    found = [
        processor(images=[Image.fromarray(image)], return_tensors="pt")["pixel_values"],
        processor(images=[image.copy()], input_data_format="channels_last", return_tensors="pt")["pixel_values"],
        processor(images=[torch.from_numpy(image.copy()).permute(2, 0, 1)], return_tensors="pt")["pixel_values"],
        ProcessorTransform(processor)([image]),
    ]
    for other in found[1:]:
        assert torch.equal(found[0], other)
    with pytest.raises(ValueError, match="pass 8-bit images, or border=None"):
        processor(images=[torch.rand(3, 10, 50)], do_rescale=False, return_tensors="pt")
    # for a single call
    without = processor(images=[image.copy()], input_data_format="channels_last", border=None, return_tensors="pt")
    assert not torch.equal(without["pixel_values"], found[0])


@pytest.mark.parametrize("border", ["white", "median", None])
def test_saved_and_loaded_by_auto_classes(border, tmp_path):
    processor = ClippingsImageProcessor.firms(32, border=border, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is ClippingsImageProcessor
    assert loaded.to_dict() == processor.to_dict()
    both = DualEncoderProcessor(processor, train_word_tokenizer(["a name"], "character"))
    both.save_pretrained(tmp_path / "both")
    again = AutoProcessor.from_pretrained(tmp_path / "both")
    assert type(again.image_processor) is ClippingsImageProcessor
    assert again.image_processor.border == border
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "both")) is ClippingsImageProcessor


def test_loaded_in_a_new_process(tmp_path):
    """Nothing of CLIPPINGS was imported before."""
    ClippingsImageProcessor.firms(32).save_pretrained(tmp_path)
    code = (
        "import hf_contrastive\nfrom transformers import AutoImageProcessor\n"
        f"print(type(AutoImageProcessor.from_pretrained({str(tmp_path)!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "ClippingsImageProcessor", done.stderr[-2000:]


def test_another_border_is_refused():
    with pytest.raises(ValueError, match="`border` is 'grey', expected one of white, median"):
        ClippingsImageProcessor(border="grey")
