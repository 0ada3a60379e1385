"""Narrated videos, and images with noisy captions in their place: clips with an anchor text and the texts of a second transcript."""

from __future__ import annotations

import copy
import csv
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from hf_contrastive.data.image_texts import text_ids
from hf_contrastive.data.random_numbers import stateless_uniform
from hf_contrastive.data.schema import integer_column, missing_column
from hf_contrastive.data.shared_epoch import SharedEpoch
from hf_contrastive.data.transcripts import (
    Transcript,
    mil_candidates,
    pick_frames,
    read_transcript,
    sample_clip,
    widen_span,
)
from hf_contrastive.data.video import place_clip, read_frames, video_duration
from hf_contrastive.data.views import _CROP_LEFT, _CROP_TOP, SimCLRViews


#: numbers of draws, beside those of image views
_CLIP_VIEW, _CAPTION_VIEW = 1 << 21, 1 << 22


class SquareCropViews(SimCLRViews):
    """[`SimCLRViews`] with a square as high as the shorter side, at a random place, instead of a random resized crop: how the official
    training code of SurgVLP (https://arxiv.org/abs/2307.15220) cuts clips.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data.narrations import SquareCropViews
    >>> SquareCropViews.clips(16)([Image.new("RGB", (32, 24))], indices=[0]).shape
    torch.Size([1, 1, 3, 16, 16])

    ```
    """

    @classmethod
    def clips(cls, size: int = 336, **changes: Any) -> SquareCropViews:
        """The published setting: crop and flip alone; ImageNet's mean and std.

        Args:
            size (`int`): side of the views in pixels.
            changes: any argument of [`SimCLRViews`].
        """
        plain: dict[str, Any] = {"num_views": 1, "flip": 0.5, "jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}
        return cast(SquareCropViews, cls.imagenet(size, **{**plain, **changes}))

    def _crop_boxes(self, u: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        if not self.crop:
            return super()._crop_boxes(u, heights, widths)
        side = np.minimum(heights, widths)
        top = np.floor(u[:, _CROP_TOP] * (heights - side + 1))
        left = np.floor(u[:, _CROP_LEFT] * (widths - side + 1))
        return np.stack((top, left, side, side), axis=1).astype(np.int64)

    def describe(self) -> str:
        """One line for the report at the start of a run."""
        said = super().describe()
        if not self.crop:
            return said
        crop = f"crop {self.crop_scale[0]:g}-{self.crop_scale[1]:g} of the area"
        return said.replace(crop, "square of the shorter side at a random place")


@dataclass(frozen=True)
class NarratedVideo:
    """A video and what two speech recognisers understood.

    Args:
        path (`Path`): of the video file.
        video_id (`str`): its name without the ending.
        anchor ([`Transcript`]): the transcript whose sentences are the clips' own texts.
        other ([`Transcript`]): the transcript whose sentences around a clip's time are its further texts; may be empty.
    """

    path: Path
    video_id: str
    anchor: Transcript
    other: Transcript


def load_narrations(
    folder: str | Path,
    split: str,
    *,
    anchor: str = "aws_narration_texts",
    other: str = "whisper_narration_texts",
    videos: str = "videos",
) -> list[NarratedVideo]:
    """Read the videos of a split and their transcripts: `splits/<split>.csv` (column `video_path`), `<videos>/<video_path>`, and
    `<anchor>/<id>.csv`, `<other>/<id>.csv` (columns `start`, `end`, `text`; see [`read_transcript`]).

    Args:
        folder (`str` or `Path`): what holds these folders.
        split (`str`): name of the split.
        anchor (`str`), other (`str`): folders of both transcripts.
        videos (`str`, defaults to `"videos"`): folder of the video files, which are opened later.

    Returns:
        `list[NarratedVideo]`, in the order of the split. Videos whose anchor transcript has no sentence are left out, with a warning
        that counts them, as are rows of transcripts without text or with times that are none.

    Raises:
        FileNotFoundError: the split or a transcript is not there.
        ValueError: a column is missing, or nothing is left.

    Example:

        >>> from hf_contrastive.data.narrations import load_narrations
        >>> load_narrations("surgical_lectures", "train_narration")[0].anchor.texts[0]  # doctest: +SKIP
        'the patient present with symptom compatible with acute appendicitis'
    """
    folder = Path(folder).expanduser()
    names = _split_rows(folder, split)
    counts: dict[str, int] = {}
    found, silent = [], []
    for name in names:
        video_id = str(Path(name).with_suffix(""))
        transcripts = [read_transcript(folder / kind / f"{video_id}.csv", counts=counts) for kind in (anchor, other)]
        if len(transcripts[0]):
            found.append(NarratedVideo(folder / videos / name, video_id, *transcripts))
        else:
            silent.append(video_id)
    if silent:
        what = f"{len(silent)} of {len(names)} videos have no sentence in {anchor}, the first is {silent[0]}"
        if not found:
            raise ValueError(f"{what}; nothing is left")
        warnings.warn(f"left out: {what}", stacklevel=2)
    if counts.get("skipped"):
        warnings.warn(
            f"left out: {counts['skipped']} of {counts['rows']} rows of the transcripts, which have no time, no text, or end before "
            "they start",
            stacklevel=2,
        )
    return found


def list_narration_splits(folder: str | Path) -> list[str]:
    """Names of the splits in a folder of narrated videos; empty where it is none.

    Args:
        folder (`str` or `Path`): see [`load_narrations`].
    """
    return sorted(path.stem for path in (Path(folder).expanduser() / "splits").glob("*.csv"))


def _split_rows(folder: Path, split: str) -> list[str]:
    path = folder / "splits" / f"{split}.csv"
    if not path.is_file():
        known = ", ".join(list_narration_splits(folder)) or "none"
        raise FileNotFoundError(f"{path} does not exist; splits there: {known}.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "video_path" not in rows[0]:
        raise ValueError(
            f"{path} needs the column video_path and at least one row; it has {', '.join(rows[0]) if rows else 'no rows'}."
        )
    return [row["video_path"] for row in rows]


class NarrationClips(SharedEpoch):
    """Clips of narrated videos, each with its sentence and the sentences of the other transcript around its time.

    With `draw=True` as in the official training code of SurgVLP (https://arxiv.org/abs/2307.15220): a sentence of the anchor
    transcript, widened to `shortest` seconds, a clip of 3 to 5 seconds inside. The draws depend on `seed`, the epoch and the row
    alone. With `draw=False`, to measure: every sentence a row, the clip in its middle.

    Args:
        videos (`Sequence[NarratedVideo]`): of [`load_narrations`].
        num_frames (`int`, defaults to 4): frames of a clip.
        num_texts (`int`, defaults to 2): sentences of the other transcript; filled up with the anchor sentence.
        per (`str`, defaults to `"video"`): with `draw`, one row for every `"video"` (as in the code: a sentence of it is drawn every
            epoch) or for every `"sentence"`.
        draw (`bool`, defaults to `True`): whether sentence and clip are drawn.
        lengths (`tuple[int, int]`, defaults to (3, 5)): shortest and longest clip in seconds.
        shortest (`float`, defaults to 4): seconds to which the span of a sentence is widened.
        fps (`float`, defaults to 2): frames a second that are read.
        seed (`int`, defaults to 0): of the draws.

    Rows are `dict`: `frames` (`num_frames` uint8 arrays `[height, width, 3]`), `anchor` (`str`), `others` (`num_texts` `str`), `texts`
    (the anchor alone), `index`.

    Raises:
        ValueError: no videos, or a value out of range.

    Example:

        >>> from hf_contrastive.data.narrations import NarrationClips, load_narrations
        >>> clips = NarrationClips(load_narrations("surgical_lectures", "train_narration"))  # doctest: +SKIP
        >>> clips[0]["anchor"], len(clips[0]["others"])  # doctest: +SKIP
        ('access to the peritoneum be do under direct vision', 2)
    """

    def __init__(
        self,
        videos: Sequence[NarratedVideo],
        *,
        num_frames: int = 4,
        num_texts: int = 2,
        per: Literal["video", "sentence"] = "video",
        draw: bool = True,
        lengths: tuple[int, int] = (3, 5),
        shortest: float = 4.0,
        fps: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not videos:
            raise ValueError("`videos` is empty; give at least one narrated video.")
        if per not in ("video", "sentence"):
            raise ValueError(f"`per` is {per!r}, expected video or sentence.")
        if num_frames < 1 or num_texts < 1:
            raise ValueError(f"`num_frames` is {num_frames} and `num_texts` {num_texts}; both must be 1 or more.")
        sample_clip(0, 1, (0, 0), lengths)  # refuses lengths that are none
        self.videos, self.num_frames, self.num_texts = list(videos), num_frames, num_texts
        self.draw, self.lengths, self.shortest, self.fps, self.seed = draw, lengths, shortest, fps, seed
        if draw and per == "video":
            self.rows: list[tuple[int, int | None]] = [(number, None) for number in range(len(self.videos))]
        else:
            self.rows = [(n, place) for n, video in enumerate(self.videos) for place in range(len(video.anchor))]
        #: of every row, what its draws depend on
        self.numbers = list(range(len(self.rows)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> list[str]:
        """What can be said of each row before it is drawn: its sentence, or the first one of its video."""
        return [self.videos[number].anchor.texts[place or 0] for number, place in self.rows]

    @property
    def column_names(self) -> list[str]:
        """What a row holds."""
        return ["frames", "anchor", "others", "texts", "index"]

    def select(self, rows: Iterable[int]) -> NarrationClips:
        """Some of the rows, which keep their draws.

        Args:
            rows (`Iterable[int]`): their numbers.
        """
        chosen = copy.copy(self)
        chosen.rows, chosen.numbers = [self.rows[row] for row in rows], [self.numbers[row] for row in rows]
        return chosen

    def plan(self, row: int) -> dict[str, Any]:
        """What a row holds in this epoch, without its frames.

        Args:
            row (`int`): number of the row.

        Returns:
            `dict`: `video` ([`NarratedVideo`]), `sentence` (`int`), `start`, `end` (whole seconds of the widened span), `clip_start`,
            `clip_length` (seconds), `anchor`, `others`.
        """
        number, place = self.rows[row]
        video = self.videos[number]
        draws = np.full(3, 0.5)
        if self.draw:
            draws = stateless_uniform(self.seed, self.epoch, np.array([self.numbers[row]]), np.array([_CLIP_VIEW]), 3)[
                0
            ]
        sentence = int(draws[0] * len(video.anchor)) if place is None else place
        start, end = widen_span(video.anchor.starts[sentence], video.anchor.ends[sentence], self.shortest)
        # whole seconds, as in the published code, for the clip and for what overlaps
        start, end = int(start), int(end)
        clip_start, clip_length = sample_clip(start, end, draws[1:].tolist(), self.lengths)
        anchor = video.anchor.texts[sentence]
        found = mil_candidates(video.other.starts, video.other.ends, start, end, self.num_texts)
        return {
            "video": video,
            "sentence": sentence,
            "start": start,
            "end": end,
            "clip_start": clip_start,
            "clip_length": clip_length,
            "anchor": anchor,
            "others": [anchor if one < 0 else video.other.texts[one] for one in found],
        }

    def __getitem__(self, row: int) -> dict[str, Any]:
        plan = self.plan(row)
        path, length = plan["video"].path, plan["clip_length"]
        start = place_clip(plan["clip_start"], length, plan["end"], video_duration(path))
        frames = read_frames(path, start, length, self.fps)
        return {
            "frames": [frames[number] for number in pick_frames(len(frames), self.num_frames)],
            "anchor": plan["anchor"],
            "others": plan["others"],
            "texts": [plan["anchor"]],
            "index": self.numbers[row],
        }


def drop_words(text: str, share: float, rng: np.random.Generator) -> str:
    """A text with each of its words left out with a probability; one is kept at least.

    Args:
        text (`str`): words.
        share (`float`): probability of a word to be left out.
        rng (`np.random.Generator`): draws.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.data.narrations import drop_words
    >>> drop_words("a large red letter", 1.0, np.random.default_rng(0)) in "a large red letter".split()
    True

    ```
    """
    words = text.split()
    keep = rng.random(len(words)) >= share
    if not keep.any():
        keep[int(rng.integers(len(words)))] = True
    return " ".join(word for word, kept in zip(words, keep, strict=True) if kept)


class NoisyCaptions(SharedEpoch):
    """Images or clips with captions as if two speech recognisers had heard them: the anchor is the first text with words left out, the
    others are drawn from it with other words left out and from the further texts.

    The draws depend on `seed`, the epoch and the row's `index` alone.

    Args:
        rows (`datasets.Dataset`): with `image` or `frames`, `texts` and `index`.
        num_texts (`int`, defaults to 2): other texts of a row.
        drop (`float`, defaults to 0.5): probability of a word to be left out.
        seed (`int`, defaults to 0): of the draws.

    Rows are those of `rows` with `anchor` (`str`) and `others` (`num_texts` `str`).

    Raises:
        ValueError: a value out of range, or rows without the columns.

    Example:

    ```python
    >>> from hf_contrastive.data import load_image_texts
    >>> from hf_contrastive.data.narrations import NoisyCaptions
    >>> row = NoisyCaptions(load_image_texts("glyphs", split="test"))[0]
    >>> set(row["anchor"].split()) <= set(row["texts"][0].split()), len(row["others"])
    (True, 2)

    ```
    """

    def __init__(self, rows: Any, *, num_texts: int = 2, drop: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        if num_texts < 1:
            raise ValueError(f"`num_texts` is {num_texts!r}, but it must be 1 or more.")
        if not 0 <= drop < 1:
            raise ValueError(f"`drop` is {drop!r}, but it must be a probability from 0 to below 1.")
        for column in ("texts", "index"):
            if column not in rows.column_names:
                raise ValueError(missing_column(column, rows.column_names, None, "the data"))
        self.rows, self.num_texts, self.drop, self.seed = rows, num_texts, drop, seed

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> list[str]:
        """The first text of every row, as it is."""
        return [texts[0] for texts in self.rows["texts"][:]]

    @property
    def column_names(self) -> list[str]:
        """What a row holds."""
        return [*self.rows.column_names, "anchor", "others"]

    def say(self, texts: Sequence[str], index: int) -> dict[str, Any]:
        """Anchor and other texts of a row in this epoch.

        Args:
            texts (`Sequence[str]`): the row's.
            index (`int`): the row's.
        """
        draw = stateless_uniform(self.seed, self.epoch, np.array([index]), np.array([_CAPTION_VIEW]), 1)[0, 0]
        rng = np.random.default_rng(int(draw * 2**53))
        anchor = drop_words(texts[0], self.drop, rng)
        chosen = rng.integers(len(texts), size=self.num_texts)
        others = [drop_words(texts[0], self.drop, rng) if one == 0 else texts[one] for one in chosen]
        return {"anchor": anchor, "others": others}

    def __getitem__(self, row: int) -> dict[str, Any]:
        found = self.rows[row]
        return {**found, **self.say(found["texts"], int(found["index"]))}


class NarrationCollator(SharedEpoch):
    """Makes a batch for training: clips (or images), anchor texts, the other transcript's texts, and two augmented clips.

    All frames of a clip are changed alike; of an augmented clip every frame on its own, as in the published code. The draws depend
    on the seeds of the views, the epoch and the row's `index` alone.

    Args:
        views (callable): one view of every image, `views(images, indices, epoch) -> Tensor [n, 1, C, H, W]`.
        processor: with `tokenize(texts)`, for example [`DualEncoderProcessor`].
        augment (callable, *optional*): two views of every image, for the augmented clips; without it there are none.
        others (`bool`, defaults to `True`): with the other transcript's texts.
        mask_duplicates (`bool`, defaults to `True`): give clips of one anchor text the same `sample_ids`, so that they are not each
            other's negatives.
        sample_id_column (`str`, *optional*): integer column that becomes `sample_ids` instead.

    Returns (when called with a list of rows):
        `dict[str, Tensor]`: `pixel_values` `[B, frames, C, H, W]` (`[B, C, H, W]` of rows with `image`), `input_ids`,
        `attention_mask` `[B, tokens]`, `mil_input_ids`, `mil_attention_mask` `[B, texts, tokens]`, `pixel_values_aug1`,
        `pixel_values_aug2`, `sample_ids` and `index` `[B]`.

    Example:

    ```python
    >>> from hf_contrastive import DualEncoderProcessor
    >>> from hf_contrastive.data import SimCLRViews, image_processor, load_image_texts, train_word_tokenizer
    >>> from hf_contrastive.data.narrations import NarrationCollator, NoisyCaptions
    >>> rows = NoisyCaptions(load_image_texts("glyphs", split="test"))
    >>> processor = DualEncoderProcessor(image_processor(16), train_word_tokenizer(rows.texts))
    >>> batch = NarrationCollator(SimCLRViews(16, num_views=1), processor)([rows[0], rows[1]])
    >>> batch["pixel_values"].shape, batch["mil_input_ids"].shape[:2]
    (torch.Size([2, 3, 16, 16]), torch.Size([2, 2]))

    ```
    """

    def __init__(
        self,
        views: Callable[..., Tensor],
        processor: Any,
        *,
        augment: Callable[..., Tensor] | None = None,
        others: bool = True,
        mask_duplicates: bool = True,
        sample_id_column: str | None = None,
    ) -> None:
        super().__init__()
        self.views, self.processor, self.augment, self.others = views, processor, augment, others
        self.mask_duplicates, self.sample_id_column = mask_duplicates, sample_id_column

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        if len(examples) == 0:
            raise ValueError("the batch is empty; expected at least one row")
        for column in ("anchor", "index", *(("others",) if self.others else ())):
            if column not in examples[0]:
                raise ValueError(missing_column(column, examples[0], None, "the row"))
        index = integer_column([row["index"] for row in examples], "index")
        images, frames = clip_images(examples)
        alike = np.repeat(index, frames or 1)
        batch = {"pixel_values": _as_clips(self.views(images, alike, self.epoch)[:, 0], frames)}
        anchors = [row["anchor"] for row in examples]
        batch.update(self.processor.tokenize(anchors))
        if self.others:
            batch.update(self._tokenize_others([list(row["others"]) for row in examples]))
        if self.augment is not None:
            own = alike * (frames or 1) + np.tile(np.arange(frames or 1), len(index))
            both = self.augment(images, own, self.epoch)
            if both.shape[1] != 2:
                raise ValueError(f"`augment` makes {both.shape[1]} views of an image, expected 2.")
            for number in (1, 2):
                batch[f"pixel_values_aug{number}"] = _as_clips(both[:, number - 1], frames)
        batch["index"] = torch.from_numpy(index)
        if self.sample_id_column is not None:
            ids = [row[self.sample_id_column] for row in examples]
            batch["sample_ids"] = torch.from_numpy(integer_column(ids, self.sample_id_column))
        elif self.mask_duplicates:
            batch["sample_ids"] = text_ids(anchors)
        return batch

    def _tokenize_others(self, texts: list[list[str]]) -> dict[str, Tensor]:
        counts = {len(one) for one in texts}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(
                f"rows with {', '.join(map(str, sorted(counts)))} other texts in one batch; fill up with the anchor text, so that all "
                "have the same number."
            )
        encoded = self.processor.tokenize([text for one in texts for text in one])
        return {f"mil_{name}": value.view(len(texts), -1, value.shape[1]) for name, value in encoded.items()}


class ClipEvalCollator:
    """Makes a batch for measuring: the frames as the processor makes them, and the row's first text.

    Args:
        transform (callable): `transform(images, rows) -> Tensor [n, C, H, W]`, for example [`ProcessorTransform`].
        processor: with `tokenize(texts)`, for example [`DualEncoderProcessor`].

    Returns (when called with a list of rows):
        `dict[str, Tensor]`: `pixel_values` `[B, frames, C, H, W]` (`[B, C, H, W]` of rows with `image`), `input_ids`,
        `attention_mask`, `index`, `sample_ids` (one for each distinct text), and `label` where the rows have one.
    """

    def __init__(self, transform: Callable[..., Tensor], processor: Any) -> None:
        self.transform, self.processor = transform, processor

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        if len(examples) == 0:
            raise ValueError("the batch is empty; expected at least one row")
        index = integer_column([row["index"] for row in examples], "index")
        images, frames = clip_images(examples)
        batch = {"pixel_values": _as_clips(self.transform(images, np.repeat(index, frames or 1)), frames)}
        texts = [row["texts"][0] for row in examples]
        batch.update(self.processor.tokenize(texts))
        batch["index"], batch["sample_ids"] = torch.from_numpy(index), text_ids(texts)
        if "label" in examples[0]:
            batch["label"] = torch.from_numpy(integer_column([row["label"] for row in examples], "label"))
        return batch


def clip_images(examples: Sequence[Mapping[str, Any]]) -> tuple[list[Any], int | None]:
    """The images of all rows one after the other, and how many each has; `None` for rows with `image` instead of `frames`.

    Args:
        examples (`Sequence[Mapping]`): rows.

    Raises:
        ValueError: rows with neither, or with different numbers of frames.
    """
    if "frames" not in examples[0]:
        if "image" not in examples[0]:
            raise ValueError(missing_column("frames", examples[0], None, "the row"))
        return [row["image"] for row in examples], None
    counts = {len(row["frames"]) for row in examples}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"clips of {', '.join(map(str, sorted(counts)))} frames in one batch; all must have the same number."
        )
    return [frame for row in examples for frame in row["frames"]], counts.pop()


def _as_clips(images: Tensor, frames: int | None) -> Tensor:
    return images if frames is None else images.view(-1, frames, *images.shape[1:])


__all__ = [
    "ClipEvalCollator",
    "NarratedVideo",
    "NarrationClips",
    "NarrationCollator",
    "NoisyCaptions",
    "SquareCropViews",
    "clip_images",
    "drop_words",
    "list_narration_splits",
    "load_narrations",
]
