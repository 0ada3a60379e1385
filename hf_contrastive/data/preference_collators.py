"""Tokenised preference pairs and completions, padded to batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch


class _Padding:
    """Rows of tokens to equal length."""

    def __init__(
        self, tokenizer_or_pad_id: Any, padding_side: Literal["left", "right"], pad_to_multiple_of: int | None
    ) -> None:
        pad = (
            tokenizer_or_pad_id
            if isinstance(tokenizer_or_pad_id, int)
            else getattr(tokenizer_or_pad_id, "pad_token_id", None)
        )
        if pad is None:
            raise ValueError(
                "the tokenizer has no padding token; type: tokenizer.pad_token = tokenizer.eos_token (or pass a token's id)"
            )
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of must be at least 1, got {pad_to_multiple_of!r}")
        self.pad_token_id, self.padding_side, self.pad_to_multiple_of = int(pad), padding_side, pad_to_multiple_of or 1

    def pad(self, rows: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask, each `[rows, longest]`."""
        longest = max(len(row) for row in rows)
        longest = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        ids = torch.full((len(rows), longest), self.pad_token_id)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            start = longest - len(row) if self.padding_side == "left" else 0
            place = slice(start, start + len(row))
            ids[number, place], mask[number, place] = torch.as_tensor(row, dtype=torch.long), 1
        return ids, mask


def _actions(rows: Sequence[Mapping[str, Any]], prefix: str) -> torch.Tensor:
    counts = []
    for number, row in enumerate(rows):
        count, length = int(row[f"{prefix}num_actions"]), len(row[f"{prefix}input_ids"])
        if not 0 < count < length:
            name = f"record {int(row['index'])}" if "index" in row else f"row {number} of the batch"
            raise ValueError(
                f"{name}: {prefix}num_actions is {count}, but {prefix}input_ids has {length} tokens; expected 1 to "
                f"{length - 1}: an answer has at least one token, and behind it comes the end of text"
            )
        counts.append(count)
    return torch.tensor(counts)


class PreferenceCollator:
    """Rows of [`tokenize_preferences`] to a batch for a reward model.

    Args:
        tokenizer_or_pad_id: a tokenizer with a padding token, or the id of one.
        padding_side (`str`): `"left"`, as the published reward models are trained, or `"right"`.
        pad_to_multiple_of (`int`, *optional*): round the length up, which some hardware likes.

    Raises:
        ValueError: a tokenizer without a padding token, or another side.

    Example:

    ```python
    >>> from hf_contrastive.data import PreferenceCollator
    >>> row = {"chosen_input_ids": [5, 6, 2], "chosen_num_actions": 1}
    >>> row |= {"rejected_input_ids": [5, 7, 8, 2], "rejected_num_actions": 2}
    >>> PreferenceCollator(0)([row])["chosen_input_ids"].tolist()
    [[0, 5, 6, 2]]

    ```
    """

    def __init__(
        self,
        tokenizer_or_pad_id: Any,
        padding_side: Literal["left", "right"] = "left",
        pad_to_multiple_of: int | None = None,
    ) -> None:
        self.padding = _Padding(tokenizer_or_pad_id, padding_side, pad_to_multiple_of)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch.

        Returns:
            `chosen_input_ids`, `chosen_attention_mask`, `rejected_input_ids`, `rejected_attention_mask` `[batch, longest]`,
            all of one length, so that both can go through the model together; `chosen_num_actions`, `rejected_num_actions`
            `[batch]`; `margin` `[batch]` (float) if the rows have it.

        Raises:
            ValueError: an answer without tokens, or with as many as the row has (the record's `index` is given).
        """
        both = [row[f"{kind}_input_ids"] for kind in ("chosen", "rejected") for row in rows]
        ids, mask = self.padding.pad(both)
        batch: dict[str, torch.Tensor] = {}
        for place, kind in ((slice(0, len(rows)), "chosen"), (slice(len(rows), None), "rejected")):
            batch[f"{kind}_input_ids"], batch[f"{kind}_attention_mask"] = ids[place], mask[place]
            batch[f"{kind}_num_actions"] = _actions(rows, f"{kind}_")
        if "margin" in rows[0]:
            batch["margin"] = torch.tensor([float(row["margin"]) for row in rows], dtype=torch.float32)
        return batch


class AnswerCollator:
    """Rows of [`tokenize_completions`] to a batch for a reward model.

    Args:
        tokenizer_or_pad_id, padding_side, pad_to_multiple_of: as for [`PreferenceCollator`].

    Example:

    ```python
    >>> from hf_contrastive.data import AnswerCollator
    >>> rows = [{"input_ids": [5, 6, 2], "num_actions": 1}, {"input_ids": [7, 2], "num_actions": 1}]
    >>> AnswerCollator(0)(rows)["input_ids"].tolist()
    [[5, 6, 2], [0, 7, 2]]

    ```
    """

    def __init__(
        self,
        tokenizer_or_pad_id: Any,
        padding_side: Literal["left", "right"] = "left",
        pad_to_multiple_of: int | None = None,
    ) -> None:
        self.padding = _Padding(tokenizer_or_pad_id, padding_side, pad_to_multiple_of)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` `[batch, longest]`, `num_actions` `[batch]`; errors as [`PreferenceCollator`]."""
        ids, mask = self.padding.pad([row["input_ids"] for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "num_actions": _actions(rows, "")}


__all__ = ["AnswerCollator", "PreferenceCollator"]
