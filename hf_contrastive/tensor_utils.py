"""Tensors and arrays looked up and ranked in ways that several rooms need."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


# columns whose maximum is looked at first in `top_k`
_GROUP = 32


def fast_layout(images: Tensor) -> Tensor:
    """Images in the memory layout in which convolutions are fastest; the numbers are the same.

    On a CPU that is channels last, in float32 and bfloat16; vision transformers do not care. Elsewhere nothing is changed.

    Args:
        images (`torch.FloatTensor` `[batch, channels, height, width]`): any layout.
    """
    if images.device.type != "cpu" or images.dtype not in (torch.float32, torch.bfloat16):
        return images
    return images.contiguous(memory_format=torch.channels_last)


def pool_modalities(
    image_embeds: Tensor,
    text_embeds: Tensor,
    image_weight: float = 0.5,
    *,
    has_image: Tensor | None = None,
    has_text: Tensor | None = None,
) -> Tensor:
    """One unit vector for each record from its image and its text: `unit(w * image + (1 - w) * text)`
    (CLIPPINGS, https://arxiv.org/abs/2304.03464).

    Args:
        image_embeds (`Tensor` `[N, D]`): rows of length 1; they are taken as they are.
        text_embeds (`Tensor` `[N, D]`): rows of length 1; row i of both is one record.
        image_weight (`float`, defaults to 0.5): w, from 0 (text only) to 1 (image only).
        has_image, has_text (bool `Tensor` `[N]`, *optional*): False where the record lacks it; w is 0 or 1 for that row, and what
            stands in the other tensor does not matter.

    Returns:
        `Tensor` `[N, D]`, dtype of the inputs. Opposite vectors of equal weight have no direction: zeros, without gradient.

    Raises:
        ValueError: a weight outside 0 to 1, shapes that do not fit, a record that has neither.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.tensor_utils import pool_modalities
    >>> pool_modalities(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.8)
    tensor([[0.9701, 0.2425]])

    ```
    """
    if not 0 <= image_weight <= 1:
        raise ValueError(f"image_weight must be in [0, 1], got {image_weight!r}.")
    if image_embeds.shape != text_embeds.shape or image_embeds.dim() != 2:
        raise ValueError(
            f"`image_embeds` and `text_embeds` must have one shape [N, D] (row i of both is one record), got "
            f"{list(image_embeds.shape)} and {list(text_embeds.shape)}."
        )
    for name, has in (("has_image", has_image), ("has_text", has_text)):
        if has is not None and (has.dtype != torch.bool or has.shape != image_embeds.shape[:1]):
            raise ValueError(
                f"`{name}` must be bool of shape [{len(image_embeds)}] (False = missing), got {has.dtype} of shape "
                f"{list(has.shape)}."
            )
    # half precision is not enough for the length of a row
    dtype = torch.promote_types(image_embeds.dtype, torch.float32)
    image, text = image_embeds.to(dtype), text_embeds.to(dtype)
    weight: float | Tensor = image_weight
    if has_image is not None or has_text is not None:
        every = torch.ones(len(image), dtype=torch.bool, device=image.device)
        seen = every if has_image is None else has_image
        read = every if has_text is None else has_text
        if not bool((seen | read).all()):
            raise ValueError(
                f"record {int((~(seen | read)).nonzero()[0])} has neither an image nor a text; leave it out of the batch."
            )
        weight = torch.where(~read, 1.0, torch.where(~seen, 0.0, image_weight)).to(dtype)[:, None]
        # a weight of 0 would not stop a NaN
        image, text = image.masked_fill(~seen[:, None], 0), text.masked_fill(~read[:, None], 0)
    pooled = weight * image + (1 - weight) * text
    length = torch.linalg.vector_norm(pooled, dim=1, keepdim=True)
    # below this a row is rounding error. What is left out by `where` gets no gradient
    short = length <= 1e-12
    return torch.where(short, 0.0, pooled / length.masked_fill(short, 1)).to(image_embeds.dtype)


def ragged_places(starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Where the entries of several lists stand that lie one behind the other in one array.

    Args:
        starts (`LongTensor` `[n]`), ends (`LongTensor` `[n]`): first place of each list, and the one behind its last.

    Returns:
        `(list, place)`, two `LongTensor` of one length: of every entry the number of its list, from 0, and its place in the array.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.tensor_utils import ragged_places
    >>> ragged_places(torch.tensor([4, 0]), torch.tensor([6, 1]))
    (tensor([0, 0, 1]), tensor([4, 5, 0]))

    ```
    """
    counts = ends - starts
    number = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    before = counts.cumsum(0) - counts
    return number, torch.arange(len(number), device=counts.device) + (starts - before)[number]


def distinct(numbers: np.ndarray) -> np.ndarray:
    """The distinct numbers of an array, rising: what `np.unique` finds, which hashes many whole numbers far longer than sorting takes.

    Args:
        numbers (`np.ndarray`): whole numbers, of any shape.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.tensor_utils import distinct
    >>> distinct(np.array([3, 1, 3])).tolist()
    [1, 3]

    ```
    """
    ordered = np.sort(numbers, axis=None)
    new = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the `k` largest scores of each row, largest first; of equal scores the lower column wins.

    Args:
        scores (`Tensor` `[rows, columns]`): without NaN.
        k (`int`): from 1 to all columns.

    Returns:
        `(values [rows, k], columns [rows, k])`.
    """
    width = scores.shape[1]
    if width < 4 * _GROUP * k or not scores.is_floating_point():
        return _plain_top_k(scores, k)
    # all of them lie in the k groups of columns with the largest maxima, which are found in one quick pass
    full = width // _GROUP
    largest = scores[:, : full * _GROUP].unflatten(1, (full, _GROUP)).amax(2)
    if full * _GROUP < width:
        largest = torch.cat([largest, scores[:, full * _GROUP :].amax(1, keepdim=True)], 1)
    groups = _plain_top_k(largest, k)[1].sort(1).values
    columns = (groups[..., None] * _GROUP + torch.arange(_GROUP, device=scores.device)).flatten(1)
    candidates = scores.gather(1, columns.clamp(max=width - 1)).masked_fill_(columns >= width, -torch.inf)
    values, places = _plain_top_k(candidates, k)
    return values, columns.gather(1, places)


def _plain_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    wide = min(k + 1, scores.shape[1])
    values, columns = scores.topk(wide, dim=1)
    # the next one tells whether others are as large as the last
    tied = values[:, k] == values[:, k - 1] if wide > k else values.new_zeros(len(values), dtype=torch.bool)
    crowded = tied.nonzero().flatten()
    values, columns = values[:, :k].contiguous(), columns[:, :k].contiguous()
    floor = values[:, -1:]
    if len(crowded):  # topk leaves open which of several equal scores it takes
        some, edge = scores[crowded], floor[crowded]
        above, level = some > edge, some == edge
        keep = above | (level & (level.cumsum(1) <= k - above.sum(1, keepdim=True)))
        columns[crowded] = keep.nonzero()[:, 1].view(len(crowded), k)
        values[crowded] = some.gather(1, columns[crowded])
    columns, order = columns.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


__all__ = ["distinct", "fast_layout", "pool_modalities", "ragged_places", "top_k"]
