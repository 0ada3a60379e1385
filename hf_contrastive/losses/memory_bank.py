"""InfoNCE against rows of a memory bank, which is never copied as a whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_contrastive.losses._common import (
    check_embeddings,
    check_ids,
    check_options,
    check_positive,
    negative_log_likelihood,
    reduce,
    unit_rows,
)
from hf_contrastive.losses._engine import EMPTY
from hf_contrastive.losses.margins import with_margin


# numbers of bank rows that are looked up, or of products that are made, at a time (8 MiB in float32)
_CHUNK = 2**21

# On a CPU looking up a row costs as much as some twenty products: up to so many bank rows for each one asked for, all
# products are made instead, unless the bank is so large that a block of them has few queries.
_DENSE_RATIO, _DENSE_ROWS = 16, 2**17


def memory_bank_nce(
    query: Tensor,
    bank: Tensor,
    positive_index: Tensor,
    negative_index: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    margin: float = 0.0,
    margin_type: str = "cosine",
    sample_ids: Tensor | None = None,
    bank_ids: Tensor | None = None,
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """
    InfoNCE of queries whose positives and negatives are rows of a memory bank (NPID, https://arxiv.org/abs/1805.01978; the
    inter-image loss of InterCLR, https://arxiv.org/abs/2008.11702, equation 3).

    With unit query q, positive row p, negative rows n, temperature T and the margin of [`with_margin`]:

        -log( exp(margin(q.p) / T) / (exp(margin(q.p) / T) + sum over n of exp(q.n / T)) ).

    Args:
        query (`Tensor` of shape `[N, D]`): the anchors.
        bank (`Tensor` of shape `[L, D]`): unit rows; taken as they are, without gradient.
        positive_index (integer `Tensor` of shape `[N]`): the bank row that is each query's positive.
        negative_index (integer `Tensor` of shape `[N, M]`): the bank rows that are its negatives; repeats count again.
        temperature (`float` or `Tensor` with one element, defaults to 0.07): T, above 0. A tensor gets its gradient.
        margin (`float`, defaults to 0), margin_type (`str`, defaults to `"cosine"`): on the positive, see [`with_margin`].
        sample_ids (integer `Tensor` of shape `[N]`, *optional*), bank_ids (integer `Tensor` of shape `[L]`, *optional*): a
            negative whose id is that of the query is left out. Give both or neither.
        normalize (`bool`, defaults to `True`): bring the queries to length 1.
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the N rows.

    Returns:
        `Tensor`: a scalar, or `[N]` with `reduction="none"`; float32 (float64 for float64 embeddings). Only looked-up rows
        are copied, 64 MiB at a time.

    Raises:
        ValueError: for shapes or devices that do not fit, rows outside the bank, or a temperature that is not above 0.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import memory_bank_nce
        >>> bank = torch.eye(4)
        >>> query, positive, negatives = bank[:2], torch.tensor([0, 1]), torch.tensor([[1, 2], [2, 3]])
        >>> print(f"{memory_bank_nce(query, bank, positive, negatives, temperature=1.0):.4f}")
        0.5514
    """
    check_embeddings("query", query)
    check_embeddings("bank", bank)
    check_options(None, reduction)
    if bank.shape[1] != query.shape[1] or bank.device != query.device:
        raise ValueError(
            f"`bank` must hold rows of {query.shape[1]} numbers on {query.device} like the queries, got {list(bank.shape)} on "
            f"{bank.device}."
        )
    n = query.shape[0]
    _check_rows("positive_index", positive_index, (n,), bank)
    _check_rows("negative_index", negative_index, (n, negative_index.shape[-1]), bank)
    if (sample_ids is None) != (bank_ids is None):
        raise ValueError("`sample_ids` are compared with `bank_ids`; give both or neither.")
    check_ids("sample_ids", sample_ids, [(n,)], query.device)
    check_ids("bank_ids", bank_ids, [(len(bank),)], query.device)
    _, temperature = check_positive("temperature", temperature)

    q = unit_rows(query, normalize)
    positive = (q * bank[positive_index].detach().to(q.dtype)).sum(-1)
    logits = _BankProducts.apply(q, bank.detach(), negative_index) / temperature
    if sample_ids is not None and bank_ids is not None:
        logits = logits.masked_fill(bank_ids[negative_index] == sample_ids[:, None], EMPTY)
    likeness = with_margin(positive, margin, margin_type) / temperature
    return reduce(negative_log_likelihood(likeness, logits.logsumexp(1)), reduction)


class _BankProducts(torch.autograd.Function):
    """q_i . bank[index_ij]; what is looked up (or multiplied) is thrown away and made again for the gradient."""

    @staticmethod
    def forward(ctx, q, bank, index):
        ctx.save_for_backward(bank, index)
        products = torch.empty(index.shape, dtype=q.dtype, device=q.device)
        dense = _is_dense(bank, index, q)
        # one buffer for all: on a CPU new memory costs more than the copies into it
        buffer = bank.new_empty(0)
        with torch.autocast(q.device.type, enabled=False):
            for part in _parts(bank, index, dense):
                some = index[part]
                if dense:
                    torch.gather(q[part] @ bank.T, 1, some, out=products[part])
                    continue
                torch.index_select(bank, 0, some.flatten(), out=buffer.resize_(some.numel(), bank.shape[1]))
                rows = buffer.view(*some.shape, -1).to(q.dtype)
                torch.matmul(rows, q[part].unsqueeze(-1), out=products[part].unsqueeze(-1))
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        bank, index = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            if bank.dtype == grad.dtype and not _is_dense(bank, index, grad):
                # sums of weighted rows: those of an embedding bag
                return F.embedding_bag(index, bank, mode="sum", per_sample_weights=grad.contiguous()), None, None
            grad_q = torch.empty((len(index), bank.shape[1]), dtype=grad.dtype, device=grad.device)
            dense = bank.dtype == grad.dtype
            for part in _parts(bank, index, dense):
                if dense:
                    weights = grad.new_zeros(len(index[part]), len(bank)).scatter_add_(1, index[part], grad[part])
                    torch.matmul(weights, bank, out=grad_q[part])
                else:
                    rows = bank[index[part]].to(grad.dtype)
                    torch.matmul(grad[part].unsqueeze(1), rows, out=grad_q[part].unsqueeze(1))
        return grad_q, None, None


def _is_dense(bank: Tensor, index: Tensor, query: Tensor) -> bool:
    # a bank of another type would have to be copied as a whole
    small = len(bank) <= min(_DENSE_RATIO * index.shape[1], _DENSE_ROWS)
    return small and bank.device.type == "cpu" and bank.dtype == query.dtype


def _parts(bank: Tensor, index: Tensor, dense: bool) -> list[slice]:
    numbers = len(bank) if dense else index.shape[1] * bank.shape[1]
    step = max(1, _CHUNK // max(1, numbers))
    return [slice(start, start + step) for start in range(0, len(index), step)]


def _check_rows(name: str, index: Tensor, shape: tuple[int, ...], bank: Tensor) -> None:
    check_ids(name, index, [shape], bank.device)
    if index.numel() == 0:
        raise ValueError(f"`{name}` is empty; give at least one row of the bank for each query.")
    low, high = (int(value) for value in index.aminmax())
    if low < 0 or high >= len(bank):
        raise ValueError(
            f"`{name}` names row {low if low < 0 else high}, but the bank has the rows 0 to {len(bank) - 1}."
        )


__all__ = ["memory_bank_nce"]
