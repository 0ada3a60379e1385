"""Many texts to embeddings: sorted by length, so that little is computed for padding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


#: tokens of a batch, padding included, on a CPU: what lies in the cache is computed fastest
_CPU_TOKENS = 2048


@torch.inference_mode()
def encode_texts(
    model: Any,
    texts: Sequence[str],
    processor: Any,
    *,
    batch_size: int = 64,
    readout: str | None = None,
    normalize: bool = False,
    bf16: bool = False,
    advance: Callable[[int], None] = lambda rows: None,
) -> Tensor:
    """Embeddings of many texts by a dual encoder's text encoder, in the order of the texts.

    Texts are tokenised at once and sorted by their number of tokens; a batch is padded to its longest text only. The result does
    not depend on the order or on `batch_size` (up to rounding).

    Args:
        model ([`DualEncoderModel`]): the model; its mode is left as it was.
        texts (`Sequence[str]`): texts, none of them empty.
        processor ([`DualEncoderProcessor`]): of the checkpoint; texts are cut at its tokenizer's `model_max_length`.
        batch_size (`int`, defaults to 64): most texts at a time; on a CPU long texts come in smaller batches.
        readout (`str`, *optional*): one of `model.readouts`; the first one by default.
        normalize (`bool`, defaults to `False`): scale every row to length 1.
        bf16 (`bool`, defaults to `False`): compute in bfloat16 where that is safe (autocast): faster where the hardware has it.
        advance (`Callable`): called with the number of texts done, after each batch.

    Returns:
        `Tensor` `[texts, dim]`, float32, on the CPU.

    Raises:
        ValueError: no texts, an empty text, a batch size below 1.

    Example:

    ```python
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ConVIRTConfig, ConVIRTModel, ConvEncoderConfig, DualEncoderProcessor
    >>> from hf_contrastive.data import image_processor, train_word_tokenizer
    >>> from hf_contrastive.families.dual_encoder.text_encoding import encode_texts
    >>> processor = DualEncoderProcessor(image_processor(16), train_word_tokenizer(["a red cat", "a dog"]))
    >>> text = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    >>> model = ConVIRTModel(ConVIRTConfig(vision_config=ConvEncoderConfig(channels=[8]), text_config=text, projection_dim=8))
    >>> encode_texts(model, ["a red cat", "a dog"], processor).shape
    torch.Size([2, 8])

    ```
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size}, but it must be 1 or more.")
    texts = list(texts)
    if not texts:
        raise ValueError("`texts` is empty; give at least one text.")
    device = next(model.parameters()).device
    encoded = processor.tokenize(texts, padding=False, return_tensors=None)
    ids, lengths = encoded["input_ids"], [len(one) for one in encoded["input_ids"]]
    order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)
    pad = processor.tokenizer.pad_token_id or 0
    left = processor.tokenizer.padding_side == "left"
    rows: Tensor | None = None
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        most = batch_size if device.type != "cpu" else min(batch_size, max(1, _CPU_TOKENS // longest))
        chosen = order[start : start + most]
        batch = torch.full((len(chosen), longest), pad, dtype=torch.long)
        mask = torch.zeros_like(batch)
        for row, number in enumerate(chosen):
            places = slice(longest - lengths[number], None) if left else slice(0, lengths[number])
            batch[row, places] = torch.as_tensor(ids[number])
            mask[row, places] = 1
        # sorted by length, many batches hold no padding: attention without a mask is faster
        given = None if lengths[chosen[-1]] == longest else mask.to(device)
        safe = torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()
        with safe:
            found = model.encode(
                input_ids=batch.to(device), attention_mask=given, readout=readout, normalize=normalize
            )
        if rows is None:
            rows = torch.empty(len(texts), found.shape[1])
        rows[chosen] = found.float().cpu()
        start += len(chosen)
        advance(len(chosen))
    assert rows is not None
    return rows


__all__ = ["encode_texts"]
