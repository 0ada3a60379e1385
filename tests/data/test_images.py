"""Any image to the asked channels: modes, bit depths, arrays, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hf_contrastive.data import decode_image, image_to_array, images_to_arrays


COLOUR = np.array([[[255, 0, 0], [0, 128, 0]], [[10, 20, 200], [77, 77, 77]]], dtype=np.uint8)


def test_colour_and_grey():
    image = Image.fromarray(COLOUR)
    assert (image_to_array(image, 3) == COLOUR).all()
    grey = image_to_array(image, 1)
    assert grey.shape == (2, 2, 1)
    assert (grey[..., 0] == np.array(image.convert("L"))).all()
    assert (image_to_array(image.convert("L"), 3) == grey).all()


def test_transparency_is_laid_over_white():
    rgba = np.dstack([COLOUR, np.array([[255, 0], [128, 255]], dtype=np.uint8)])
    expected = np.rint(COLOUR * (rgba[..., 3:] / 255) + 255 * (1 - rgba[..., 3:] / 255))
    for source in (Image.fromarray(rgba), rgba):
        assert np.abs(image_to_array(source, 3).astype(float) - expected).max() <= 1
    grey_alpha = Image.merge("LA", (Image.new("L", (2, 1), 0), Image.new("L", (2, 1), 51)))
    assert image_to_array(grey_alpha, 1)[0, 0, 0] == 204
    floats = np.dstack([COLOUR, rgba[..., 3]]) / 255.0
    np.testing.assert_allclose(image_to_array(floats, 3), expected / 255, atol=3e-3)


def test_palette_with_and_without_transparency():
    palette = Image.fromarray(COLOUR).quantize(4)
    assert (image_to_array(palette, 3) == np.array(palette.convert("RGB"))).all()
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=palette.getpixel((0, 0)))
    reopened = Image.open(io.BytesIO(buffer.getvalue()))
    assert reopened.mode == "P"
    assert image_to_array(reopened, 3)[0, 0].tolist() == [255, 255, 255]


def test_sixteen_bit_is_scaled_not_cut_off():
    values = np.array([[0, 257, 256 * 100, 65535]], dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    png = Image.open(io.BytesIO(buffer.getvalue()))
    assert png.mode.startswith("I")
    for source in (png, Image.fromarray(values.astype(np.int32)), values):
        assert image_to_array(source, 1)[0, :, 0].tolist() == [0, 1, 100, 255]
        assert image_to_array(source, 3).shape == (1, 4, 3)


def test_one_bit_cmyk_and_other_modes():
    assert image_to_array(Image.new("1", (2, 2), 1), 1).max() == 255
    assert image_to_array(np.array([[True, False]]), 1)[0, :, 0].tolist() == [255, 0]
    for mode in ("CMYK", "YCbCr", "HSV", "LAB"):
        image = Image.fromarray(COLOUR).convert("RGB")
        if mode == "LAB":
            image = Image.new("LAB", (2, 2))
        else:
            image = image.convert(mode)
        for channels in (1, 3):
            result = image_to_array(image, channels)
            assert result.shape == (2, 2, channels)
            assert result.dtype == np.uint8
    cmyk = image_to_array(Image.fromarray(COLOUR).convert("CMYK"), 3)
    assert np.abs(cmyk.astype(int) - COLOUR).max() <= 2


def test_arrays_tensors_and_lists():
    assert (image_to_array(torch.from_numpy(COLOUR).permute(2, 0, 1), 3) == COLOUR).all()
    assert (image_to_array(COLOUR.transpose(2, 0, 1).repeat(3, axis=2), 3)[:, ::3] == COLOUR).all()
    assert (image_to_array(COLOUR.tolist(), 3) == COLOUR).all()
    floats = image_to_array(COLOUR.astype(np.float64) / 255, 3)
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, COLOUR / 255, atol=1e-7)
    luma = image_to_array(COLOUR / 255.0, 1)[..., 0]
    np.testing.assert_allclose(luma, COLOUR @ np.array([0.299, 0.587, 0.114]) / 255, atol=1e-6)
    assert image_to_array(np.zeros((5, 5, 1), np.uint8), 3).shape == (5, 5, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((2, 2), 3.5), "divide by the largest possible value"),
        (np.full((2, 2), np.nan), "not finite"),
        (np.full((2, 2), -5), r"0\.\.65535"),
        (np.full((2, 2), 70000, dtype=np.int32), r"0\.\.65535"),
        (np.zeros((9, 9, 7), np.uint8), "1 to 4 channels"),
        (np.zeros((2, 2, 3, 1), np.uint8), "2 or 3 dimensions"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.array([["a", "b"]]), "not understood"),
        (object(), "cannot read an image from a object"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        image_to_array(image)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 4"):
        image_to_array(COLOUR, 4)


def test_records_paths_and_bytes_are_opened(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(file)
    for source in (
        file,
        str(file),
        file.read_bytes(),
        {"bytes": file.read_bytes(), "path": None},
        {"path": str(file)},
    ):
        assert (image_to_array(source, 3) == COLOUR).all()
    with pytest.raises(OSError, match="neither bytes nor a path"):
        decode_image({"bytes": None, "path": None})


def test_unreadable_image_is_named_with_row_and_file(tmp_path):
    good, cut = tmp_path / "good.png", tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(good)
    cut.write_bytes(good.read_bytes()[:900])
    for source, name in (
        (str(cut), r" \(file .*cut\.png\)"),
        (cut.read_bytes(), ""),
        ({"bytes": b"x", "path": "b.jpg"}, r" \(file b\.jpg\)"),
    ):
        with pytest.raises(ValueError, match=rf"image in row 31{name} cannot be read: "):
            images_to_arrays([str(good), source], 1, [30, 31])
