"""From the states of a text encoder to words and sentences, as SurgVLP pools them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def combine_layers(hidden_states: Sequence[Tensor], last: int, aggregation: str = "sum") -> Tensor:
    """The last layers of an encoder as one.

    Args:
        hidden_states (sequence of `Tensor` `[batch, tokens, dim]`): the embeddings and every layer, the last one at the end.
        last (`int`): how many of them.
        aggregation (`str`, defaults to `"sum"`): `"sum"` or `"mean"`.

    Returns:
        `Tensor` `[batch, tokens, dim]`.

    Raises:
        ValueError: fewer layers than that, or another aggregation.
    """
    if not 1 <= last <= len(hidden_states):
        raise ValueError(
            f"`last` is {last}, but the encoder returned {len(hidden_states)} layers, its embeddings included."
        )
    if aggregation not in ("sum", "mean"):
        raise ValueError(f"`aggregation` is {aggregation!r}, expected sum or mean.")
    # not one after the other: as one reduction it is summed as the mean is
    stacked = torch.stack(tuple(hidden_states[-last:]))
    return stacked.sum(0) if aggregation == "sum" else stacked.mean(0)


def sentence_of_tokens(states: Tensor, attention_mask: Tensor | None, length: int) -> Tensor:
    """The mean over the words of a text, of `length` places of which the empty ones are zero.

    Words are sums of their pieces, so the pieces need not be known: it is the sum of the states of all tokens, divided by `length`
    (https://arxiv.org/abs/2307.15220, text encoder of the official code).

    Args:
        states (`Tensor` `[batch, tokens, dim]`): of the tokens.
        attention_mask (`LongTensor` `[batch, tokens]`, *optional*): 0 at padding; without it every token counts.
        length (`int`): places.

    Returns:
        `Tensor` `[batch, dim]`.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.surgvlp.pooling_surgvlp import sentence_of_tokens
    >>> sentence_of_tokens(torch.tensor([[[1.0], [2.0], [9.0]]]), torch.tensor([[1, 1, 0]]), length=4)
    tensor([[0.7500]])

    ```
    """
    if attention_mask is not None:
        # not multiplied: what stands at padding may be anything
        states = states.masked_fill((attention_mask == 0)[:, :, None], 0)
    return states.sum(1) / length


def sum_word_pieces(
    states: Tensor, attention_mask: Tensor | None, continues: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """Pieces of a word summed into one vector, words side by side, zeros after the last one.

    Args:
        states (`Tensor` `[batch, tokens, dim]`): of the tokens.
        attention_mask (`LongTensor` `[batch, tokens]`, *optional*): 0 at padding; without it every token counts.
        continues (bool `Tensor` `[batch, tokens]`): True where a token goes on with the word before it.
        length (`int`): places for words.

    Returns:
        `(words [batch, length, dim], number of words [batch])`; markers at the ends of a text are words, too.

    Raises:
        ValueError: a text with more words than places.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.surgvlp.pooling_surgvlp import sum_word_pieces
    >>> continues = torch.tensor([[False, True, False]])
    >>> sum_word_pieces(torch.tensor([[[1.0], [2.0], [4.0]]]), None, continues, length=3)[0].squeeze()
    tensor([3., 4., 0.])

    ```
    """
    counts = torch.ones_like(continues) if attention_mask is None else attention_mask != 0
    starts = counts & ~continues.bool()
    # the first token starts a word whatever it is
    first = counts & (counts.cumsum(1) == 1)
    starts |= first
    number = starts.sum(1)
    if int(number.max()) > length:
        raise ValueError(f"a text has {int(number.max())} words and there are {length} places for words.")
    place = (starts.cumsum(1) - 1).clamp(min=0)
    words = states.new_zeros(len(states), length, states.shape[2])
    kept = states.masked_fill(~counts[:, :, None], 0)
    return words.scatter_add(1, place[:, :, None].expand_as(kept), kept), number


def continuation_pieces(tokenizer: Any, marker: str = "##") -> Tensor:
    """Which tokens of a vocabulary go on with the word before them.

    Args:
        tokenizer: any tokenizer of word pieces (BERT's kind).
        marker (`str`, defaults to `"##"`): what such a token begins with.

    Returns:
        bool `Tensor` `[tokens of the vocabulary]`.

    Example:

    ```python
    >>> from hf_contrastive.data import train_word_tokenizer
    >>> from hf_contrastive.models.surgvlp.pooling_surgvlp import continuation_pieces
    >>> tokenizer = train_word_tokenizer(["retract the retractor"], "wordpiece", vocab_size=60)
    >>> bool(continuation_pieces(tokenizer)[tokenizer.convert_tokens_to_ids("##r")])
    True

    ```
    """
    vocabulary = tokenizer.get_vocab()
    pieces = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.bool)
    pieces[[number for token, number in vocabulary.items() if token.startswith(marker)]] = True
    return pieces


__all__ = ["combine_layers", "continuation_pieces", "sentence_of_tokens", "sum_word_pieces"]
