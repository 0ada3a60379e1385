"""Batches of records: noise as scans and their OCR have it, and what a record lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_contrastive.data.color import gaussian_blur
from hf_contrastive.data.random_numbers import stateless_uniform
from hf_contrastive.data.schema import integer_column, missing_column
from hf_contrastive.data.shared_epoch import SharedEpoch


#: numbers of the draws of a text and of a scan, beside those of image views
_TEXT_VIEW, _SCAN_VIEW = 1 << 20, 1 << 21
#: draws of a scan: angle, shift x, shift y, zoom, blur, seed of the noise
_DRAWS = 6


class OcrNoise:
    """Errors as of OCR: every character may be dropped, or become another one.

    Args:
        alphabet (iterable of `str`): characters that others become, each as likely; for example all characters of the texts.
        drop (`float`, defaults to 0.15): probability that a character is dropped.
        replace (`float`, defaults to 0.35): probability that it becomes one of the alphabet.

    Raises:
        ValueError: an empty alphabet, probabilities that make no sense.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.data import OcrNoise
    >>> OcrNoise("abc", drop=0.2, replace=0.0)("Smith & Company", np.random.default_rng(0))
    'Smh & Comay'

    ```
    """

    def __init__(self, alphabet: Iterable[str], drop: float = 0.15, replace: float = 0.35) -> None:
        self.alphabet = sorted({character for text in alphabet for character in text if not character.isspace()})
        if not self.alphabet:
            raise ValueError("alphabet is empty; expected the characters of some texts")
        if min(drop, replace) < 0 or drop + replace > 1:
            raise ValueError(
                f"drop and replace must be 0 or more and at most 1 together, got {drop!r} and {replace!r}"
            )
        self.drop, self.replace = float(drop), float(replace)

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """The text with errors; the text itself where nothing would be left.

        Args:
            text (`str`): a text.
            rng (`np.random.Generator`): of the draws.
        """
        chance = rng.random(len(text))
        others = rng.integers(len(self.alphabet), size=len(text))
        made = []
        for character, draw, other in zip(text, chance.tolist(), others.tolist(), strict=True):
            if draw < self.drop:
                continue
            made.append(self.alphabet[other] if draw < self.drop + self.replace else character)
        found = "".join(made)
        return found if found.strip() else text

    def read(self, texts: Sequence[str], seed: int = 0) -> list[str]:
        """Every text with errors, the same ones every time.

        Args:
            texts (`Sequence[str]`): texts.
            seed (`int`, defaults to 0): of the draws.
        """
        return [self(text, np.random.default_rng([seed, row])) for row, text in enumerate(texts)]


class ScanViews:
    """What a scanner does to a picture: turned, moved and zoomed a little, blurred, with noise. After the image processor.

    The draws have no state: they depend on `seed`, the epoch, the row and how often the row has come in its batch. What comes in from
    outside is the pixel at the border.

    Args:
        transform (callable): `transform(images, rows) -> Tensor [B, C, H, W]`, for example
            [`~hf_contrastive.data.ProcessorTransform`].
        rotate (`float`, defaults to 2): largest turn in degrees, either way.
        translate (`float`, defaults to 0.03): largest shift as a share of the side, either way.
        zoom (`float`, defaults to 0.05): largest change of size, either way.
        blur (`float`, defaults to 0.8): largest standard deviation of a Gaussian blur, in pixels.
        noise (`float`, defaults to 0.05): standard deviation of the noise, in units of the processed pixels.
        seed (`int`, defaults to 0): of all draws.

    Raises:
        ValueError: a number below 0.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data import ProcessorTransform, ScanViews, image_processor
    >>> views = ScanViews(ProcessorTransform(image_processor(16)))
    >>> views([Image.new("L", (20, 16))], [0], epoch=0).shape
    torch.Size([1, 1, 3, 16, 16])

    ```
    """

    def __init__(
        self,
        transform: Callable[..., Tensor],
        rotate: float = 2.0,
        translate: float = 0.03,
        zoom: float = 0.05,
        blur: float = 0.8,
        noise: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.strengths = {"rotate": rotate, "translate": translate, "zoom": zoom, "blur": blur, "noise": noise}
        for name, value in self.strengths.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        if zoom >= 1:
            raise ValueError(f"zoom must be below 1, got {zoom!r}")
        self.transform, self.seed = transform, seed

    def __call__(
        self, images: Sequence[Any], indices: Any, epoch: int, occurrences: np.ndarray | None = None
    ) -> Tensor:
        """One view of every image.

        Args:
            images: of any kind that the transform takes.
            indices (`[B]` integers): row of each image.
            epoch (`int`): number of the epoch.
            occurrences (`np.ndarray` `[B]`, *optional*): how often the row has come before in this batch.

        Returns:
            `torch.FloatTensor` `[B, 1, channels, height, width]`.
        """
        index = integer_column(indices, "indices")
        pixels = self.transform(images, index).float()
        again = np.zeros(len(index), dtype=np.int64) if occurrences is None else occurrences
        draws = stateless_uniform(self.seed, epoch, index, _SCAN_VIEW + again, _DRAWS)
        moves = torch.from_numpy(2 * draws[:, :4] - 1)
        strengths = self.strengths
        if strengths["rotate"] or strengths["translate"] or strengths["zoom"]:
            pixels = _move(
                pixels,
                torch.deg2rad(moves[:, 0] * strengths["rotate"]),
                moves[:, 1:3] * strengths["translate"],
                1 + moves[:, 3] * strengths["zoom"],
            )
        if strengths["blur"]:
            sigma = torch.from_numpy(draws[:, 4]).float() * strengths["blur"]
            size = min(2 * max(1, round(3 * strengths["blur"])) + 1, 2 * min(pixels.shape[2:]) - 1)
            pixels = gaussian_blur(pixels, sigma.clamp(min=1e-3), size)
        if strengths["noise"]:
            seeds = (draws[:, 5] * 2**53).astype(np.int64).tolist()
            shape = pixels.shape[2:]  # of a grey scan all channels have the same noise
            noise = [torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in seeds]
            pixels = pixels + strengths["noise"] * torch.stack(noise)[:, None]
        return pixels[:, None]

    def describe(self) -> str:
        """One line for reports."""
        return "scan: " + ", ".join(f"{name} {value:g}" for name, value in self.strengths.items())


def _move(pixels: Tensor, angle: Tensor, shift: Tensor, zoom: Tensor) -> Tensor:
    """Turned about the middle, moved by shares of the side, zoomed; the border goes on outside."""
    height, width = pixels.shape[2:]
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # in units of half a side, in which a turn of a long image is no turn of a square
    rows = (
        torch.stack((cos, -sin * height / width, -2 * shift[:, 0]), 1),
        torch.stack((sin * width / height, cos, -2 * shift[:, 1]), 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1).to(pixels.dtype), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


class RecordCollator(SharedEpoch):
    """Makes a batch of records, for training and for measuring: images and texts, and which records lack one.

    A row that comes several times in a batch is changed anew each time. Draws depend on `seed`, the epoch, the row and its place among
    its own repetitions alone.

    Args:
        views (callable): `views(images, indices, epoch, occurrences) -> Tensor [B, 1, C, H, W]`, for example [`ScanViews`]; or a plain
            transform, `transform(images, rows) -> Tensor [B, C, H, W]`, with `augment=False`.
        processor: with `tokenize(texts)`, for example [`DualEncoderProcessor`].
        augment (`bool`, defaults to `True`): whether `views` draws.
        corrupt (callable, *optional*): `corrupt(text, rng) -> str`, for example [`OcrNoise`].
        text_dropout (`float`, defaults to 0): probability that the text of a record is left out, as if none had been read.
        labels (`bool`, defaults to `True`): hand the column `label` on as `labels`, so that pooled embeddings are trained.
        mask_duplicates (`bool`, defaults to `True`): without labels, give pairs of one text (before noise) the same `sample_ids`, so that
            they are not each other's negatives.
        seed (`int`, defaults to 0): of the draws of texts.

    Returns (when called with a list of rows):
        `dict[str, Tensor]`: `pixel_values`, `input_ids`, `attention_mask` (left out where no record has that side), `has_image`,
        `has_text` (bool `[B]`, only where some record lacks it), `labels` or `sample_ids`, `index`.

    Example:

    ```python
    >>> from hf_contrastive import DualEncoderProcessor
    >>> from hf_contrastive.data import ProcessorTransform, RecordCollator, ScanViews, image_processor, train_word_tokenizer
    >>> from hf_contrastive.data.linkage_tables import make_glyph_records
    >>> records = make_glyph_records("test")
    >>> processor = DualEncoderProcessor(image_processor(32), train_word_tokenizer(records["text"], "character"))
    >>> collator = RecordCollator(ScanViews(ProcessorTransform(processor.image_processor)), processor)
    >>> batch = collator([records[0], {**records[1], "image": None}])
    >>> batch["has_image"].tolist(), batch["labels"].shape
    ([True, False], torch.Size([2]))

    ```
    """

    def __init__(
        self,
        views: Callable[..., Tensor],
        processor: Any,
        *,
        augment: bool = True,
        corrupt: Callable[[str, np.random.Generator], str] | None = None,
        text_dropout: float = 0.0,
        labels: bool = True,
        mask_duplicates: bool = True,
        seed: int = 0,
    ) -> None:
        self.views, self.processor, self.augment, self.corrupt = views, processor, augment, corrupt
        if not 0 <= text_dropout <= 1:
            raise ValueError(f"text_dropout must be a probability from 0 to 1, got {text_dropout!r}")
        self.text_dropout = float(text_dropout)
        self.labels, self.mask_duplicates, self.seed = labels, mask_duplicates, seed
        super().__init__()

    def read_texts(self, examples: Sequence[Mapping[str, Any]], index: np.ndarray, again: np.ndarray) -> list[str]:
        """The text of every row, with its noise; empty where it is dropped.

        Args:
            examples (`Sequence[Mapping]`): rows with `text`.
            index, again (`np.ndarray` `[B]`): row numbers, and how often each has come before.
        """
        texts = [row["text"] or "" for row in examples]
        if self.corrupt is None and not self.text_dropout:
            return texts
        draws = stateless_uniform(self.seed, self.epoch, index, _TEXT_VIEW + again, 2)
        if self.corrupt is not None:
            seeds = (draws[:, 0] * 2**53).astype(np.int64)
            texts = [
                self.corrupt(text, np.random.default_rng(seed)) if text else text
                for text, seed in zip(texts, seeds, strict=True)
            ]
        dropped = draws[:, 1] < self.text_dropout
        return ["" if drop else text for text, drop in zip(texts, dropped, strict=True)]

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        if len(examples) == 0:
            raise ValueError("the batch is empty; expected at least one row")
        for column in ("image", "text", "index", *(["label"] if self.labels else [])):
            if column not in examples[0]:
                raise ValueError(missing_column(column, examples[0], None, "the row"))
        index = integer_column([row["index"] for row in examples], "index")
        again = occurrences(index)
        texts = self.read_texts(examples, index, again)
        has_image = torch.tensor([row["image"] is not None for row in examples])
        has_text = torch.tensor([bool(text.strip()) for text in texts])
        batch: dict[str, Tensor] = {}
        if has_image.any():
            rows = has_image.nonzero()[:, 0].numpy()
            images = [examples[row]["image"] for row in rows]
            if self.augment:
                pixels = self.views(images, index[rows], self.epoch, again[rows])[:, 0]
            else:
                pixels = self.views(images, index[rows])
            batch["pixel_values"] = pixels
            if not has_image.all():
                batch["pixel_values"] = pixels.new_zeros(len(examples), *pixels.shape[1:])
                batch["pixel_values"][rows] = pixels
                batch["has_image"] = has_image
        if has_text.any():
            # a stand-in where there is none; it is not read
            stand_in = next(text for text, has in zip(texts, has_text, strict=True) if has)
            read = [text if has else stand_in for text, has in zip(texts, has_text, strict=True)]
            batch.update(self.processor.tokenize(read))
            if not has_text.all():
                batch["has_text"] = has_text
        batch["index"] = torch.from_numpy(index)
        if self.labels:
            batch["labels"] = torch.from_numpy(integer_column([row["label"] for row in examples], "label"))
        elif self.mask_duplicates and bool(has_text.all()):
            from hf_contrastive.data.image_texts import (
                text_ids,  # `datasets` takes seconds, and workers need none of it
            )

            # the texts as they are without noise: whoever has the same name may be the same
            batch["sample_ids"] = text_ids([row["text"] for row in examples])
        return batch


def occurrences(index: np.ndarray) -> np.ndarray:
    """How often each row number has come before.

    Args:
        index (`np.ndarray` `[n]`): row numbers.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.data.records import occurrences
    >>> occurrences(np.array([4, 7, 4, 4])).tolist()
    [0, 0, 1, 2]

    ```
    """
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    new = np.concatenate(([True], ordered[1:] != ordered[:-1])) if len(index) else np.zeros(0, dtype=bool)
    place = np.arange(len(index))
    first = np.maximum.accumulate(np.where(new, place, 0))
    found = np.empty(len(index), dtype=np.int64)
    found[order] = place - first
    return found


__all__ = ["OcrNoise", "RecordCollator", "ScanViews", "occurrences"]
