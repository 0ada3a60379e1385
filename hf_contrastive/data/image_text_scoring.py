"""Images and texts compared by a pair of encoders of any kind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor


_INPUTS = ("pixel_values", "input_ids", "attention_mask", "token_type_ids")


class ImageTextScorer:
    """Embeds images and texts with any pair of encoders: of this library, or a CLIP-like model of transformers.

    Args:
        model: with `get_image_features(pixel_values=...)` and `get_text_features(input_ids=..., attention_mask=...)`.
        processor: its processor, called with `images=` or `text=`.
        device (`torch.device` or `str`, *optional*): where to compute; where the model is by default.
        batch_size (`int`, defaults to 64): images or texts at a time.

    Example:

    ```python
    >>> from PIL import Image
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ConvEncoderConfig, DualEncoderProcessor, MofiConfig, MofiModel
    >>> from hf_contrastive.data import ImageTextScorer, image_processor, train_word_tokenizer
    >>> text = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    >>> poolings = {"image_pooling": "mean", "text_pooling": "mean"}
    >>> model = MofiModel(MofiConfig(vision_config=ConvEncoderConfig(channels=[8]), text_config=text, projection_dim=8, **poolings))
    >>> scorer = ImageTextScorer(model, DualEncoderProcessor(image_processor(16), train_word_tokenizer(["a cat"])))
    >>> scorer.embed_images([Image.new("RGB", (20, 16))]).shape, scorer.embed_texts(["a cat", "a"]).shape
    (torch.Size([1, 8]), torch.Size([2, 8]))

    ```
    """

    def __init__(
        self, model: Any, processor: Any, *, device: torch.device | str | None = None, batch_size: int = 64
    ) -> None:
        for name in ("get_image_features", "get_text_features"):
            if not callable(getattr(model, name, None)):
                raise ValueError(f"{type(model).__name__} has no {name}; give a pair of encoders, such as CLIP's")
        if batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size!r}; expected 1 or more")
        self.model, self.processor, self.batch_size = model, processor, batch_size
        if device is not None:
            model.to(device)
        self.model.eval()

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str,
        processor: Any = None,
        *,
        device: torch.device | str | None = None,
        batch_size: int = 64,
        **options: Any,
    ) -> ImageTextScorer:
        """Load a pair of encoders and its processor.

        Args:
            checkpoint (`str`): folder or hub id.
            processor (*optional*): instead of the checkpoint's own.
            device, batch_size: as above.
            **options: further ones of `AutoModel.from_pretrained`, such as `dtype`.

        Raises:
            ValueError: no pair of encoders, or no processor beside it.
            OSError: no such checkpoint.
        """
        model = AutoModel.from_pretrained(checkpoint, use_safetensors=True, **options)
        scorer = cls(model, processor, device=device, batch_size=batch_size)
        if processor is None:
            try:
                scorer.processor = AutoProcessor.from_pretrained(checkpoint)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"{checkpoint} has no readable processor ({error}); save the image processor and the tokenizer that the weights "
                    "were trained with beside them: processor.save_pretrained(folder)."
                ) from error
        return scorer

    @torch.no_grad()
    def _embed(self, inputs: Mapping[str, torch.Tensor], get: Callable[..., Any]) -> torch.Tensor:
        device = next(self.model.parameters()).device
        found = get(**{name: value.to(device) for name, value in inputs.items() if name in _INPUTS})
        found = getattr(found, "pooler_output", found)
        return torch.nn.functional.normalize(found.float(), dim=-1, eps=1e-12).cpu()

    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Embeddings of length 1.

        Args:
            images (`Sequence[PIL.Image.Image]`): in RGB.

        Returns:
            `torch.Tensor` `[images, dim]`, float32, on the CPU.
        """
        return torch.cat(
            [
                self._embed(self.processor(images=list(part), return_tensors="pt"), self.model.get_image_features)
                for part in chunks_of(images, self.batch_size)
            ]
        )

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of length 1.

        Args:
            texts (`Sequence[str]`): texts; cut at what the model takes.

        Returns:
            `torch.Tensor` `[texts, dim]`, float32, on the CPU.
        """
        options: dict[str, Any] = {"padding": True, "truncation": True, "return_tensors": "pt"}
        config: Any = getattr(self.model, "config", None)
        # trained on texts of one length only, and without a mask
        siglip = str(getattr(config, "model_type", "")).startswith("siglip")
        if siglip:
            options |= {"padding": "max_length", "max_length": config.text_config.max_position_embeddings}
        parts = []
        for part in chunks_of(texts, self.batch_size):
            inputs = dict(self.processor(text=list(part), **options))
            if siglip:
                inputs.pop("attention_mask", None)
            parts.append(self._embed(inputs, self.model.get_text_features))
        return torch.cat(parts)

    def describe(self) -> str:
        """Which model it is, by its class and weights, in one line."""
        digest = hashlib.blake2b(digest_size=8)
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return f"{type(self.model).__name__} ({digest.hexdigest()})"


def chunks_of(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Parts of a sequence.

    Args:
        values (`Sequence`): any.
        size (`int`): of each part but the last.
    """
    for start in range(0, len(values), size):
        yield values[start : start + size]


__all__ = ["ImageTextScorer", "chunks_of"]
