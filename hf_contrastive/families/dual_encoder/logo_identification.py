"""Which brand is it? References in an index, queries against it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_contrastive.data import image_to_array
from hf_contrastive.vector_index import VectorIndex


@dataclass(frozen=True)
class LogoMatch:
    """One brand that a logo may be.

    Args:
        brand (`str`): of the reference.
        score (`float`): cosine of the two embeddings.
        reference (`int`): number of the reference, in the order in which they were added.
    """

    brand: str
    score: float
    reference: int


class LogoIdentifier:
    """Recognises brands from one reference picture or more of each (https://arxiv.org/abs/2211.12926): the nearest reference by cosine.

    The references lie in a [`VectorIndex`]: exact up to 50,000, then a graph, so that 100,000 brands take a few milliseconds a logo.
    A brand may have several references, any of which may match.

    Args:
        model ([`LogoModel`]): a trained one; set to eval mode. Any model whose `encode` takes pictures and texts.
        processor ([`DualEncoderProcessor`]): image processor and tokenizer of the model.
        ocr (`Callable`, *optional*): reads the text of a picture: `ocr(image) -> str`, empty where there is none. Without one texts
            are what the caller gives.
        batch_size (`int`, defaults to 64): logos at a time.

    Example:

    ```python
    >>> from hf_contrastive import ConvEncoderConfig, DualEncoderProcessor, LogoConfig, LogoIdentifier, LogoImageProcessor, LogoModel
    >>> from hf_contrastive.data import character_tokenizer, make_glyph_logos
    >>> logos = make_glyph_logos("test").select(range(8))
    >>> model = LogoModel(LogoConfig(vision_config=ConvEncoderConfig(channels=[8, 16])))
    >>> identifier = LogoIdentifier(model, DualEncoderProcessor(LogoImageProcessor.of_size(32), character_tokenizer()))
    >>> identifier.add(logos["image"], logos["label"], texts=logos["text"])
    >>> found = identifier.identify([logos[2]["image"]], texts=[logos[2]["text"]], k=2)
    >>> found[0][0].brand == logos[2]["label"], len(found[0])
    (True, 2)

    ```
    """

    def __init__(
        self, model: Any, processor: Any, *, ocr: Callable[[Any], str] | None = None, batch_size: int = 64
    ) -> None:
        self.model, self.processor, self.ocr, self.batch_size = model.eval(), processor, ocr, batch_size
        #: the references; its ids are the brands
        self.index: VectorIndex | None = None

    def __len__(self) -> int:
        return 0 if self.index is None else len(self.index)

    @torch.no_grad()
    def embed(self, images: Sequence[Any], texts: Sequence[str | None] | None = None) -> np.ndarray:
        """Embeddings of logos.

        Args:
            images (sequence): pictures of any kind: PIL, arrays, tensors.
            texts (sequence of `str`, *optional*): what is written in each; empty or `None` where nothing is. Without it `ocr` reads
                them, where there is one.

        Returns:
            `np.ndarray` `[logos, dim]`, of length 1.

        Raises:
            ValueError: not as many texts as pictures, or no picture.
        """
        if len(images) == 0:
            raise ValueError("there is no picture to embed; give at least one")
        if texts is None:
            texts = [None if self.ocr is None else self.ocr(image) for image in images]
        if len(texts) != len(images):
            raise ValueError(
                f"{len(images)} pictures and {len(texts)} texts; give a text for each, empty where there is none"
            )
        device = next(self.model.parameters()).device
        found = []
        for start in range(0, len(images), self.batch_size):
            some = [image_to_array(image) for image in images[start : start + self.batch_size]]
            some = [one if one.dtype == np.uint8 else np.rint(255 * one).astype(np.uint8) for one in some]
            given = self.processor.image_processor(some, input_data_format="channels_last", return_tensors="pt")
            inputs: dict[str, Any] = {"pixel_values": given["pixel_values"]}
            words = [(text or "").strip() for text in texts[start : start + self.batch_size]]
            if any(words):
                stand_in = next(text for text in words if text)
                inputs.update(self.processor.tokenize([text or stand_in for text in words]))
                inputs["has_text"] = torch.tensor([bool(text) for text in words])
            inputs = {name: value.to(device) for name, value in inputs.items() if name in self.model.view_inputs}
            found.append(self.model.encode(**inputs).float().cpu().numpy())
        return np.concatenate(found)

    def add(
        self,
        images: Sequence[Any],
        brands: Sequence[Any],
        texts: Sequence[str | None] | None = None,
        kind: str = "auto",
    ) -> None:
        """Add references.

        Args:
            images (sequence): pictures.
            brands (sequence): the brand of each; a brand may come several times.
            texts (sequence of `str`, *optional*): what is written in each.
            kind (`str`, defaults to `"auto"`): of the index, at the first call; see [`VectorIndex`].

        Raises:
            ValueError: not as many brands as pictures.
        """
        if len(brands) != len(images):
            raise ValueError(f"{len(images)} pictures and {len(brands)} brands; give the brand of each picture")
        self.add_embeddings(self.embed(images, texts), brands, kind)

    def add_embeddings(self, embeddings: np.ndarray, brands: Iterable[Any], kind: str = "auto") -> None:
        """Add references that were embedded before.

        Args:
            embeddings (`np.ndarray` `[references, dim]`): of [`~LogoIdentifier.embed`].
            brands (iterable): the brand of each.
            kind (`str`, defaults to `"auto"`): of the index, at the first call.

        Raises:
            ValueError: not as many brands as embeddings.
        """
        names = [str(brand) for brand in brands]
        if len(names) != len(embeddings):
            raise ValueError(f"{len(embeddings)} embeddings and {len(names)} brands; give the brand of each")
        if self.index is None:
            self.index = VectorIndex.build(embeddings, names, kind=kind)
        else:
            self.index.add(embeddings, names)

    def identify(
        self,
        images: Sequence[Any],
        boxes: Sequence[Any] | None = None,
        texts: Any = None,
        k: int = 1,
    ) -> Any:
        """The nearest references of every logo.

        Args:
            images (sequence): crops of logos; with `boxes` whole pictures.
            boxes (sequence, *optional*): for each picture the boxes that a detector found, `[[left, top, right, bottom], ...]` in
                pixels. The crops are cut out and identified.
            texts (sequence, *optional*): what is written in each logo; with `boxes` a list for each picture.
            k (`int`, defaults to 1): matches of each logo.

        Returns:
            `list[list[LogoMatch]]`: for each logo the best first; with `boxes` a list of these for each picture.

        Raises:
            ValueError: no references yet, or a box that lies outside its picture.
        """
        if self.index is None:
            raise ValueError("there is no reference yet; call `add` with pictures and their brands first")
        if boxes is None:
            return self._matches(self.embed(images, texts), k) if len(images) else []
        if len(boxes) != len(images):
            raise ValueError(
                f"{len(images)} pictures and {len(boxes)} lists of boxes; give a list for each, empty where none was found"
            )
        crops, words, counts = [], [], [len(some) for some in boxes]
        for number, (image, some) in enumerate(zip(images, boxes, strict=True)):
            array = image_to_array(image)
            crops += [_crop(array, box, number) for box in some]
            if texts is not None:
                if len(texts[number]) != len(some):
                    raise ValueError(
                        f"picture {number} has {len(some)} boxes and {len(texts[number])} texts; give one for each"
                    )
                words += list(texts[number])
        found = self._matches(self.embed(crops, words if texts is not None else None), k) if crops else []
        ends = np.cumsum(counts).tolist()
        return [found[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def _matches(self, embeddings: np.ndarray, k: int) -> list[list[LogoMatch]]:
        assert self.index is not None
        near = self.index.search(embeddings, k=min(k, len(self)))
        return [
            [LogoMatch(*one) for one in zip(brands, scores, rows, strict=True) if one[2] >= 0]
            for brands, scores, rows in zip(near.ids, near.scores.tolist(), near.rows.tolist(), strict=True)
        ]

    def save(self, folder: str | os.PathLike) -> None:
        """Save the references (not the model).

        Args:
            folder (`str` or `Path`): a new folder, or one that was saved before.

        Raises:
            ValueError: no references yet.
        """
        if self.index is None:
            raise ValueError("there is no reference to save; call `add` first")
        self.index.save(Path(folder))

    def load(self, folder: str | os.PathLike) -> None:
        """Take the references of a saved folder in place of one's own.

        Args:
            folder (`str` or `Path`): of [`~LogoIdentifier.save`].

        Raises:
            FileNotFoundError: no such folder.
            ValueError: an index without brands, or with vectors of another size than the model's.
        """
        index = VectorIndex.load(Path(folder))
        if index.ids is None:
            raise ValueError(f"the index in {folder} holds vectors without names; save one with LogoIdentifier.save")
        dim = getattr(self.model.config, "projection_dim", index.dim)
        if index.dim != dim:
            raise ValueError(
                f"the references of {folder} have {index.dim} numbers, those of this model {dim}; embed them with this model"
            )
        self.index = index


def _crop(array: np.ndarray, box: Any, number: int) -> np.ndarray:
    left, top, right, bottom = (round(float(value)) for value in box)
    height, width = array.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"the box {[left, top, right, bottom]} of picture {number} does not lie in it ({width} x {height} pixels); expected "
            "[left, top, right, bottom]"
        )
    return array[top:bottom, left:right]


__all__ = ["LogoIdentifier", "LogoMatch"]
