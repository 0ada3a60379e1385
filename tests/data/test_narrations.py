"""Narrated videos and noisy captions as batches: what is drawn, what is read, what is refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from hf_contrastive import DualEncoderProcessor
from hf_contrastive.data import (
    ProcessorTransform,
    SimCLRViews,
    image_processor,
    load_image_texts,
    train_word_tokenizer,
)
from hf_contrastive.data.glyph_clips import make_glyph_clips
from hf_contrastive.data.narrations import (
    ClipEvalCollator,
    NarrationClips,
    NarrationCollator,
    NoisyCaptions,
    SquareCropViews,
    list_narration_splits,
    load_narrations,
)
from hf_contrastive.data.video import place_clip, read_frames, video_duration


needs_video = pytest.mark.skipif(
    importlib.util.find_spec("av") is None, reason="PyAV is not installed: pip install 'hf-contrastive[video]'"
)
SECONDS, RATE = 12, 10


def write_video(path, seconds=SECONDS, rate=RATE, size=(48, 32)):
    """A video whose second n is grey of level 20 n."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 1_000_000
        for number in range(int(seconds * rate)):
            level = 20 * (number // rate)
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels(frames) -> list[int]:
    """Which second each frame is of."""
    return [round(float(np.asarray(frame).mean()) / 20) for frame in frames]


def write_lectures(folder, videos=True):
    for kind, rows in (
        (
            "aws_narration_texts",
            {
                "a": ["0.5,1.5,we place the trocar", "6.0,11.0,here is the liver"],
                "b": ["2,9,the duct is cut"],
                "c": [],
            },
        ),
        (
            "whisper_narration_texts",
            {
                "a": ["0.0,3.0,now we place the trocar", "5.0,8.0,here is the liver", "9,bad,?"],
                "b": [],
                "c": ["0,1,x"],
            },
        ),
    ):
        (folder / kind).mkdir(parents=True)
        for name, lines in rows.items():
            (folder / kind / f"{name}.csv").write_text("\n".join(("start,end,text", *lines)) + "\n")
    (folder / "splits").mkdir()
    (folder / "splits" / "train.csv").write_text("video_path\na.mp4\nb.mp4\nc.mp4\n")
    if videos:
        write_video(folder / "videos" / "a.mp4")
        write_video(folder / "videos" / "b.mp4", seconds=2)
    return folder


@pytest.fixture
def lectures(tmp_path):
    with pytest.warns(UserWarning, match="left out"):
        return load_narrations(write_lectures(tmp_path, importlib.util.find_spec("av") is not None), "train")


# ---- video files ----


@needs_video
def test_frames_of_a_stretch(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    assert video_duration(path) == pytest.approx(SECONDS, abs=0.11)
    frames = read_frames(path, 3.0, 4.0, fps=2)
    assert frames.shape == (8, 32, 48, 3)
    assert frames.dtype == np.uint8
    assert levels(frames) == [3, 3, 4, 4, 5, 5, 6, 6]
    # finer than the file: a frame is shown until the next one comes
    assert levels(read_frames(path, 0.95, 0.3, fps=20)) == [0, 1, 1, 1, 1, 1]
    # what lies behind the end is not made up
    assert levels(read_frames(path, 10.0, 5.0, fps=2)) == [10, 10, 11, 11]
    with pytest.raises(ValueError, match="shows nothing from 60 to 64 s"):
        read_frames(path, 60.0, 4.0)


@needs_video
def test_wrong_videos_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; expected a video file"):
        read_frames(tmp_path / "absent.mp4", 0, 1)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        read_frames(tmp_path / "text.mp4", 0, 1)
    with pytest.raises(ValueError, match="expected 0 or more"):
        read_frames(tmp_path / "text.mp4", -1, 1)


def test_without_the_package_the_message_says_what_to_type(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"reading videos needs the package `av`.*pip install \"hf-contrastive\[video\]\""
    ):
        read_frames(tmp_path / "v.mp4", 0, 1)


def test_a_clip_is_moved_into_the_video():
    assert place_clip(8, 4, 14, 10.0) == 6.0
    assert place_clip(8, 4, 12, 2.0) == 0.0
    assert place_clip(-1, 4, 3, None) == 0.0


# ---- narrated videos ----


def test_loading_leaves_out_what_is_empty_and_counts_it(tmp_path):
    folder = write_lectures(tmp_path, videos=False)
    with pytest.warns(UserWarning, match="left out") as caught:
        videos = load_narrations(folder, "train")
    said = " ".join(str(one.message) for one in caught)
    assert "1 of 3 videos have no sentence in aws_narration_texts, the first is c" in said
    assert "1 of 7 rows of the transcripts" in said
    assert [video.video_id for video in videos] == ["a", "b"]
    assert list_narration_splits(folder) == ["train"]
    with pytest.raises(FileNotFoundError, match="splits there: train"):
        load_narrations(folder, "val")
    (folder / "whisper_narration_texts" / "a.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"a.csv does not exist"):
        load_narrations(folder, "train")


def test_draws_depend_on_seed_epoch_and_row_alone(lectures):
    clips = NarrationClips(lectures, num_texts=3, seed=4)
    assert len(clips) == 2
    plans = {}
    for epoch in range(30):
        clips.set_epoch(epoch)
        plans[epoch] = [clips.plan(row) for row in (1, 0)][::-1]
    other = NarrationClips(lectures, num_texts=3, seed=4)
    other.set_epoch(7)
    assert other.plan(0) == plans[7][0]
    assert {plan[0]["sentence"] for plan in plans.values()} == {0, 1}
    assert len({(plan[0]["clip_start"], plan[0]["clip_length"]) for plan in plans.values()}) > 3
    by_sentence = {plan[0]["sentence"]: plan[0] for plan in plans.values()}
    # 0.5 to 1.5 s becomes 0 to 4 s; a sentence that covers its beginning and lies inside comes twice
    assert (by_sentence[0]["start"], by_sentence[0]["end"]) == (0, 4)
    assert by_sentence[0]["others"] == [*["now we place the trocar"] * 2, "we place the trocar"]
    # nothing was understood by the other recogniser: the anchor stands for it
    assert plans[0][1]["others"] == ["the duct is cut"] * 3


def test_rows_to_measure_with(lectures):
    rows = NarrationClips(lectures, draw=False)
    assert rows.texts == ["we place the trocar", "here is the liver", "the duct is cut"]
    plan = rows.plan(1)
    rows.set_epoch(5)
    assert rows.plan(1) == plan
    assert (plan["clip_start"], plan["clip_length"]) == (7, 4)
    assert len(NarrationClips(lectures, per="sentence")) == 3
    for options, message in (
        ({"per": "word"}, "`per` is 'word'"),
        ({"num_texts": 0}, "must be 1 or more"),
        ({"lengths": (0, 2)}, "`lengths`"),
    ):
        with pytest.raises(ValueError, match=message):
            NarrationClips(lectures, **options)
    with pytest.raises(ValueError, match="`videos` is empty"):
        NarrationClips([])


@needs_video
def test_rows_hold_the_frames_of_their_time(lectures):
    rows = NarrationClips(lectures, draw=False, num_frames=4)
    assert levels(rows[1]["frames"]) == [7, 8, 9, 10]
    # the second video ends before its sentence: its only two seconds, the last frame repeated where it is too short
    assert levels(rows[2]["frames"]) == [0, 0, 1, 1]
    short = NarrationClips(lectures, draw=False, num_frames=6)
    assert levels(short[2]["frames"]) == [0, 0, 1, 1, 1, 1]


@needs_video
def test_batch_of_videos(lectures):
    rows = NarrationClips(lectures, num_frames=2)
    processor = DualEncoderProcessor(image_processor(16), train_word_tokenizer(rows.texts, max_length=12))
    augment = SimCLRViews.imagenet(16, jitter_strength=0.5, seed=1)
    batch = NarrationCollator(SquareCropViews.clips(16), processor, augment=augment)([rows[0], rows[1]])
    assert batch["pixel_values"].shape == (2, 2, 3, 16, 16)
    assert batch["pixel_values_aug1"].shape == batch["pixel_values_aug2"].shape == (2, 2, 3, 16, 16)
    assert batch["mil_input_ids"].shape == batch["mil_attention_mask"].shape
    assert batch["mil_input_ids"].shape[:2] == (2, 2)
    assert not torch.equal(batch["pixel_values_aug1"], batch["pixel_values_aug2"])


# ---- noisy captions ----


def test_noisy_captions_are_parts_of_the_texts():
    rows = load_image_texts("glyphs", split="test").select(range(20))
    noisy, again = NoisyCaptions(rows, num_texts=3), NoisyCaptions(rows, num_texts=3)
    assert noisy.texts == [texts[0] for texts in rows["texts"][:]]
    seen = []
    for row in range(20):
        found = noisy[row]
        words = found["texts"][0].split()
        assert 1 <= len(found["anchor"].split()) <= len(words)
        assert all(set(text.split()) <= set(words) for text in (found["anchor"], *found["others"]))
        assert {key: found[key] for key in ("anchor", "others")} == {
            key: again[row][key] for key in ("anchor", "others")
        }
        seen.append(found["anchor"])
    noisy.set_epoch(1)
    assert [noisy[row]["anchor"] for row in range(20)] != seen
    with pytest.raises(ValueError, match="`drop` is 1"):
        NoisyCaptions(rows, drop=1)
    with pytest.raises(ValueError, match="texts"):
        NoisyCaptions(rows.remove_columns("texts"))


# ---- batches ----


@pytest.fixture(scope="module")
def clips():
    rows = NoisyCaptions(make_glyph_clips("test").select(range(6)))
    processor = DualEncoderProcessor(image_processor(16), train_word_tokenizer(rows.texts, max_length=12))
    return rows, processor


def test_batch_of_clips(clips):
    rows, processor = clips
    collator = NarrationCollator(SquareCropViews.clips(16, seed=3), processor, augment=SimCLRViews(16, seed=5))
    examples = [rows[row] for row in range(4)]
    batch = collator(examples)
    assert batch["pixel_values"].shape == (4, 4, 3, 16, 16)
    assert batch["sample_ids"].shape == batch["index"].shape == (4,)
    # what a clip gets does not depend on the batch it is in
    alone = collator([examples[2]])
    for name in ("pixel_values", "pixel_values_aug1", "pixel_values_aug2"):
        assert torch.equal(batch[name][2], alone[name][0]), name
    # and differs from epoch to epoch
    collator.set_epoch(1)
    assert not torch.equal(collator(examples)["pixel_values_aug1"], batch["pixel_values_aug1"])
    without = NarrationCollator(SquareCropViews.clips(16), processor, others=False, mask_duplicates=False)(examples)
    assert set(without) == {"pixel_values", "input_ids", "attention_mask", "index"}


def test_frames_of_a_clip_are_changed_alike():
    still = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8))
    row = {"frames": [still] * 3, "anchor": "a", "others": ["a"], "index": 7}
    processor = DualEncoderProcessor(image_processor(16), train_word_tokenizer(["a"], max_length=4))
    collator = NarrationCollator(SquareCropViews.clips(16), processor, augment=SimCLRViews(16))
    flipped = set()
    for epoch in range(8):
        collator.set_epoch(epoch)
        batch = collator([row])
        clip, augmented = batch["pixel_values"][0], batch["pixel_values_aug1"][0]
        assert torch.equal(clip[0], clip[1])
        assert torch.equal(clip[0], clip[2])
        assert not torch.equal(augmented[0], augmented[1])
        flipped.add(float(clip[0].sum()))
    assert len(flipped) > 2


def test_squares_are_as_high_as_the_shorter_side():
    views = SquareCropViews.clips(16)
    boxes = views.draw([(20, 50)] * 200, range(200))["box"]
    assert set(boxes[:, 2]) == set(boxes[:, 3]) == {20}
    assert set(boxes[:, 0]) == {0}
    assert (boxes[:, 1].min(), boxes[:, 1].max()) == (0, 30)
    assert "square of the shorter side" in views.describe()


def test_batch_to_measure_with(clips):
    rows, processor = clips
    collator = ClipEvalCollator(ProcessorTransform(image_processor(16)), processor)
    batch = collator([rows[0], rows[1]])
    assert batch["pixel_values"].shape == (2, 4, 3, 16, 16)
    assert batch["label"].shape == (2,)
    images = collator([{"image": rows[0]["frames"][0], "texts": ["a"], "index": 0}])
    assert torch.equal(images["pixel_values"][0], batch["pixel_values"][0, 0])


def test_wrong_rows_are_refused(clips):
    rows, processor = clips
    collator = NarrationCollator(SquareCropViews.clips(16), processor)
    good = rows[0]
    for bad, message in (
        ({"frames": good["frames"][:2]}, "clips of 2, 4 frames in one batch"),
        ({"others": ["a"]}, "rows with 1, 2 other texts"),
    ):
        with pytest.raises(ValueError, match=message):
            collator([good, {**good, **bad}])
    with pytest.raises(ValueError, match="anchor"):
        collator([{name: value for name, value in good.items() if name != "anchor"}])
    with pytest.raises(ValueError, match="frames"):
        collator([{name: value for name, value in good.items() if name != "frames"}])
    with pytest.raises(ValueError, match="text 1 is '', expected words"):
        collator([good, {**good, "anchor": ""}])
    with pytest.raises(ValueError, match="the batch is empty"):
        collator([])
    with pytest.raises(ValueError, match="makes 3 views"):
        NarrationCollator(SquareCropViews.clips(16), processor, augment=SimCLRViews(16, num_views=3))([good])
