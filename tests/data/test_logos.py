"""Views of logos as in scenes, tables of logos, the index of WiRLD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_contrastive import DualEncoderProcessor, LogoImageProcessor
from hf_contrastive.data import (
    LogoViews,
    OcrNoise,
    RecordCollator,
    SceneViews,
    SimCLRViews,
    character_tokenizer,
    load_logos,
    make_glyph_logos,
    open_logo_references,
    read_logo_index,
)
from hf_contrastive.data.logo_views import square


SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "wirld_index_sample" / "wirld_urls_2000.tsv"
STILL = {
    "num_views": 1,
    "crop": False,
    "affine_p": 0.0,
    "perspective_p": 0.0,
    "jitter_p": 0.0,
    "gray_p": 0.0,
    "blur_p": 0.0,
    "mean": None,
    "std": None,
}


def test_squares_are_padded_in_the_middle():
    made = square(np.zeros((2, 6, 3), np.uint8))
    assert made.shape == (6, 6, 3)
    assert (made[2:4] == 0).all()
    assert (made[:2] == 255).all()
    assert (made[4:] == 255).all()
    assert square(made) is made


def test_transparent_drawings_get_another_ground_each_time():
    views = LogoViews(SimCLRViews.logos(8, **STILL))
    drawing = Image.new("RGBA", (16, 8), (0, 0, 0, 0))
    drawing.paste((255, 0, 0, 255), (4, 2, 12, 6))
    seen = [views([drawing], [3], epoch)[0, 0] for epoch in range(3)]
    for picture in seen:  # one colour from edge to edge, padding included, and the red of the drawing
        corner = picture[:, 0, 0]
        assert torch.equal(picture[:, :2], corner[:, None, None].expand(3, 2, 8))
        assert torch.allclose(picture[:, 4, 4], torch.tensor([1.0, 0.0, 0.0]), atol=0.2)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(views([drawing], [3], 1)[0, 0], seen[1])
    white = LogoViews(SimCLRViews.logos(8, **STILL), random_ground=False)([drawing], [3], 0)[0, 0]
    assert bool((white[:, 0] == 1).all())
    # what has no transparency lies on white
    assert bool((views([Image.new("RGB", (16, 8))], [3], 0)[0, 0, :, 0] == 1).all())


def test_an_image_that_comes_twice_is_changed_anew():
    views = LogoViews(SimCLRViews.logos(16, num_views=1))
    picture = make_glyph_logos("test")[0]["image"]
    first, second = views([picture, picture], [5, 5], 0, np.array([0, 1]))[:, 0]
    assert not torch.equal(first, second)
    assert torch.equal(views([picture], [5], 0)[0, 0], first)


def test_scenes_are_shrunk_covered_and_noisy():
    grey = Image.new("RGB", (20, 20), (128, 128, 128))
    still = LogoViews(SimCLRViews.logos(20, **STILL))
    plain = still([grey], [0], 0)
    assert torch.allclose(SceneViews(still, shrink=0.5, cover=0, noise=0)([grey], [0], 0), plain, atol=1e-5)
    covered = SceneViews(still, shrink=1, cover=0.5, noise=0)([grey], [0], 0)
    changed = (covered - plain).abs().amax(2)[0, 0] > 1e-4
    assert int(changed.sum()) == 100
    noisy = SceneViews(still, shrink=1, cover=0, noise=0.1)([grey], [0], 0) - plain
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.1)
    # in units of pixels from 0 to 1, also where they are normalised
    scaled = LogoViews(SimCLRViews.logos(20, **{**STILL, "mean": 0.5, "std": 0.25}))
    both = [SceneViews(one, shrink=1, cover=0.4, noise=0.1)([grey], [0], 0) for one in (still, scaled)]
    torch.testing.assert_close(both[1] * 0.25 + 0.5, both[0], atol=1e-5, rtol=0)
    alone = SceneViews(still)([grey], [7], 2)
    together = SceneViews(still)([grey, grey], [4, 7], 2)
    torch.testing.assert_close(together[1], alone[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink": 0.0}, "shrink must be a share"),
        ({"cover": 1.5}, "cover must be a share"),
        ({"noise": -1}, "noise must be"),
    ],
)
def test_scenes_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        SceneViews(LogoViews(SimCLRViews.logos(8, num_views=1)), **options)
    with pytest.raises(ValueError, match="views must make one view"):
        LogoViews(SimCLRViews.logos(8))


def test_texts_are_left_out_at_random_and_the_same_again():
    logos = make_glyph_logos("train").filter(lambda text: bool(text), input_columns="text")
    rows = [logos[row] for row in range(200)]
    rows = [{**row, "label": number} for number, row in enumerate(rows)]
    processor = DualEncoderProcessor(LogoImageProcessor.of_size(8), character_tokenizer())
    views = LogoViews(SimCLRViews.logos(8, num_views=1))
    collator = RecordCollator(views, processor, text_dropout=0.3, seed=2)
    has = collator(rows)["has_text"]
    assert 0.2 < float((~has).float().mean()) < 0.4
    assert torch.equal(collator(rows)["has_text"], has)
    # the noise of the others does not depend on it
    noise = OcrNoise("abc", 0.2, 0.2)
    with_dropout = RecordCollator(views, processor, corrupt=noise, text_dropout=0.3, seed=2)
    without = RecordCollator(views, processor, corrupt=noise, seed=2)
    index, again = np.array([row["index"] for row in rows]), np.zeros(len(rows), dtype=np.int64)
    texts = [one.read_texts(rows, index, again) for one in (with_dropout, without)]
    assert [a for a in texts[0] if a] == [b for a, b in zip(*texts, strict=True) if a]
    collator.set_epoch(1)
    assert not torch.equal(collator(rows)["has_text"], has)
    with pytest.raises(ValueError, match="text_dropout must be a probability"):
        RecordCollator(views, processor, text_dropout=1.5)


def test_drawn_logos_are_the_same_every_time_and_of_other_brands():
    train, test = make_glyph_logos("train"), make_glyph_logos("test")
    assert not set(train["label"][:]) & set(test["label"][:])
    assert len(set(test["label"][:])) == len(test)
    again = make_glyph_logos("test")
    assert again[7]["label"] == test[7]["label"]
    assert np.array_equal(np.asarray(again[7]["image"]), np.asarray(test[7]["image"]))
    others = make_glyph_logos("others", 30)
    assert len(set(others["label"][:])) == 30
    assert not set(others["label"][:]) & {*train["label"][:], *test["label"][:]}
    assert make_glyph_logos("others", 10)["label"][:] == others["label"][:10]
    with pytest.raises(ValueError, match="split 'valid' not found"):
        make_glyph_logos("valid")
    with pytest.raises(ValueError, match="`brands` is 300; the split 'test' has 1 to 200"):
        make_glyph_logos("test", 300)


def test_a_table_of_logos():
    picture = Image.new("L", (8, 4))
    rows = [
        {"image": picture, "brand": "acme", "ocr": "ACME"},
        {"image": None, "brand": "acme", "ocr": "lost"},
        {"image": picture, "brand": "zeta", "ocr": None},
    ]
    with pytest.warns(UserWarning, match="left out: 1 of 3 logos have no picture, the first is row 1"):
        logos = load_logos(rows)
    assert logos["text"][:] == ["ACME", ""]
    assert logos["label"][:] == ["acme", "zeta"]
    with pytest.raises(ValueError, match="1 of 3 logos have no picture"):
        load_logos(rows, on_bad="stop")
    with pytest.raises(ValueError, match="has no column of brands"):
        load_logos([{"image": picture, "company": "acme"}])
    assert load_logos([{"image": picture, "company": "acme"}], brand_column="company")[0]["label"] == "acme"


def test_the_index_of_wirld(tmp_path):
    (tmp_path / "a.txt").write_text("wikidata_id\timage_url\nQ1\thttp://x.org/one.svg\n\nQ22\thttp://x.org/two.png\n")
    (tmp_path / "b.tsv").write_text("Q3\thttp://x.org/three.jpg\n")
    index = read_logo_index(tmp_path)
    assert index["brand"][:] == ["Q1", "Q22", "Q3"]
    (tmp_path / "bad.txt").write_text("Q1\thttp://x.org/one.svg\nQ2 http://x.org/two.svg\n")
    with pytest.raises(ValueError, match=r"line 2 of bad.txt is .*, expected Qid<TAB>url"):
        read_logo_index(tmp_path / "bad.txt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_logo_index(tmp_path / "none.txt")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (4, 4)).save(pictures / "Q22.png")
    (pictures / "Q1.svg").write_text("<svg/>")
    with pytest.warns(
        UserWarning, match="2 of 3 references have no picture in pictures; 1 files are no pictures, for example Q1.svg"
    ):
        references = open_logo_references(pictures, index)
    assert references["label"][:] == ["Q22"]
    assert references[0]["image"].size == (4, 4)


@pytest.mark.skipif(not SAMPLE.is_file(), reason="needs ../shared/data/wirld_index_sample")
def test_the_sample_of_the_published_index():
    with pytest.warns(UserWarning, match=r"left out: \d+ brands without a picture"):
        index = read_logo_index(SAMPLE)
    assert 1900 < len(index) < 2000
    assert all(brand.startswith("Q") for brand in index["brand"][:])
