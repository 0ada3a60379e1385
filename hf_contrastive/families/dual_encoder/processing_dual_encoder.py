"""Image processor and tokenizer of a dual encoder, saved together."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import BatchFeature, ProcessorMixin


class DualEncoderProcessor(ProcessorMixin):
    """Images and texts to the inputs of a dual encoder.

    `AutoProcessor`, `AutoImageProcessor` and `AutoTokenizer` open what it saves; pipelines use the two parts on their own.

    Args:
        image_processor: any image processor of transformers.
        tokenizer: any tokenizer of transformers. Its `model_max_length` is the length at which texts are cut.

    Example:

    ```python
    >>> from hf_contrastive import DualEncoderProcessor
    >>> from hf_contrastive.data import image_processor, train_word_tokenizer
    >>> tokenizer = train_word_tokenizer(["a red cat", "a blue dog"])
    >>> processor = DualEncoderProcessor(image_processor(16), tokenizer)
    >>> processor(text=["a blue cat", "a dog"])["input_ids"].shape
    torch.Size([2, 3])

    ```
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer)
        #: texts that were cut since this was last set to 0
        self.num_cut = 0

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare images, texts, or both.

        Args:
            images (image or list of images, *optional*): what the image processor takes.
            text (`str` or `list[str]`, *optional*): texts; padded to the longest, and cut at the tokenizer's `model_max_length`
                (a warning counts them).
            **kwargs: of the image processor or of the tokenizer; `return_tensors` is `"pt"` by default.

        Returns:
            `BatchFeature` with `pixel_values`, and `input_ids`, `attention_mask`.

        Raises:
            ValueError: neither images nor texts, or an empty text.
        """
        if images is None and text is None:
            raise ValueError("give `images`, `text`, or both; got neither.")
        kwargs.setdefault("return_tensors", "pt")
        made: dict[str, Any] = {}
        if images is not None:
            options = {name: value for name, value in kwargs.items() if name in _OF_BOTH or name not in _OF_TEXTS}
            made.update(self.image_processor(images, **options))
        if text is not None:
            options = {name: value for name, value in kwargs.items() if name in (*_OF_BOTH, *_OF_TEXTS)}
            made.update(self.tokenize(text, **options))
        return BatchFeature(made)

    def tokenize(self, text: Any, **kwargs: Any) -> Any:
        """Tokens of texts, padded to the longest and cut at the tokenizer's `model_max_length`.

        Args:
            text (`str` or `list[str]`): texts.
            **kwargs: of the tokenizer.

        Returns:
            `BatchEncoding`.

        Raises:
            ValueError: a text that is empty, or no text.
        """
        texts = [text] if isinstance(text, str) else list(text)
        for row, one in enumerate(texts):
            if not isinstance(one, str) or not one.strip():
                raise ValueError(f"text {row} is {one!r}, expected words; leave the row out, or give it a text.")
        limited = self.tokenizer.model_max_length < 1_000_000  # what transformers writes for "no limit" is larger
        encoded = self.tokenizer(texts, **{"padding": True, "truncation": limited, "return_tensors": "pt", **kwargs})
        cut = sum(bool(one.overflowing) for one in encoded.encodings or ())
        if cut:
            if not self.num_cut:
                warnings.warn(
                    f"{cut} of {len(texts)} texts are longer than {self.tokenizer.model_max_length} tokens; their ends are cut "
                    "off (further ones are counted in `num_cut` only).",
                    stacklevel=2,
                )
            self.num_cut += cut
        return encoded


_OF_BOTH = ("return_tensors",)
_OF_TEXTS = (
    "padding",
    "truncation",
    "max_length",
    "add_special_tokens",
    "return_token_type_ids",
    "padding_side",
    "pad_to_multiple_of",
)


__all__ = ["DualEncoderProcessor"]
