"""Top-N recommendation: the whole catalogue ranked for every user, and what is found among the first k."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from hf_contrastive.evaluation._checks import as_embeddings, as_pair, blocks, check_count
from hf_contrastive.evaluation.bounded_search import BoundedSearch
from hf_contrastive.tensor_utils import distinct, ragged_places, top_k


RANKING_METRICS = ("recall", "ndcg", "precision", "map", "mrr", "hit", "recall_micro")

# so many scores at a time stay in a processor's cache until the best of them are found
CPU_SCORES = 2**21
# catalogues from so many items on are searched with bounds, for lists up to so long: others are scored as a whole as quickly
_BOUNDED_FROM, _BOUNDED_K = 4096, 64
# so many places of lists are found together
_PLACES = 2**18


@torch.no_grad()
def recommendation_metrics(
    user_x: Any,
    item_x: Any = None,
    *,
    relevant: Any,
    exclude: Any = None,
    users: Any = None,
    ks: Sequence[int] = (10, 20),
    metrics: Sequence[str] = ("recall", "ndcg", "precision", "map", "mrr", "hit"),
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Rank all items for every user and measure what stands among the first k.

    With T_u the user's relevant items and hit_j = 1 if the item in place j is one of them:

    - `recall@k`: sum over j <= k of hit_j / |T_u| (all of T_u, also where it is larger than k);
    - `precision@k`: the same sum / k; `hit@k`: 1 if it is not 0;
    - `mrr@k`: 1 / place of the first hit, 0 without one among the first k;
    - `ndcg@k`: sum of hit_j / log2(j + 1), divided by its largest possible value, sum over j <= min(k, |T_u|) of 1 / log2(j + 1);
    - `map@k`: sum of (hits up to j) / j * hit_j, divided by min(k, |T_u|);
    - `recall_micro@k`: hits of all users / relevant items of all users.

    The others are means over the users that have a relevant item. Of equal scores the item with the lower number ranks first.

    Args:
        user_x (`[U, D]` array or tensor): vectors of the users; without `item_x` the scores themselves, `[U, I]`.
        item_x (`[I, D]` array or tensor, *optional*): vectors of the items; the score is the dot product.
        relevant (`[P, 2]` integers): pairs (row of `user_x`, item) that count as found.
        exclude (`[E, 2]` integers, *optional*): pairs that are not ranked, for example what the user had in training.
        users (`[M]` integers, *optional*): measure only these rows of `user_x`; all by default.
        ks (`Sequence[int]`, defaults to (10, 20)): lengths of the list.
        metrics (`Sequence[str]`): any of the above.
        chunk_size (`int`, *optional*): users at a time; memory is O(chunk_size * I), and every score is computed. By default a
            block of scores stays below 64 MB, and on a CPU, in catalogues from 4096 items on, items are passed over that cannot be
            among a user's first k by the lengths of the vectors ([`BoundedSearch`]).

    Returns:
        `dict`: `<metric>@<k>` for every metric and k (0 to 1), `n_users` (that were averaged), `n_items`,
        `users_without_relevant` (that were not).

    Raises:
        ValueError: wrong shapes, NaN or infinity, rows or items that do not exist, k larger than the catalogue, an unknown
            metric, or no user with a relevant item.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import recommendation_metrics
    >>> scores = [[0.9, 0.8, 0.1], [0.2, 0.1, 0.3]]
    >>> found = recommendation_metrics(scores, relevant=[(0, 1), (1, 2)], exclude=[(0, 0)], ks=[1])
    >>> found["recall@1"], found["ndcg@1"], found["n_users"]
    (1.0, 1.0, 2)

    ```
    """
    cutoffs = sorted({check_count("ks", k) for k in ks})
    unknown = [name for name in metrics if name not in RANKING_METRICS]
    if unknown or not cutoffs or not metrics:
        raise ValueError(
            f"`metrics` is {list(metrics)} and `ks` {list(ks)}; give at least one k and metrics out of "
            f"{', '.join(RANKING_METRICS)}"
        )
    user_vectors, item_vectors = _vectors(user_x, item_x)
    items = user_vectors.shape[1] if item_vectors is None else len(item_vectors)
    if cutoffs[-1] > items:
        raise ValueError(f"`ks` asks for the first {cutoffs[-1]} items, but the catalogue has {items}")
    rows = len(user_vectors)
    wanted = _Pairs("relevant", relevant, rows, items, user_vectors.device)
    hidden = None if exclude is None else _Pairs("exclude", exclude, rows, items, user_vectors.device)
    chosen = torch.arange(rows, device=user_vectors.device)
    if users is not None:
        chosen = _row_numbers(users, rows).to(user_vectors.device)
    measured = chosen[wanted.counts[chosen] > 0]
    if not len(measured):
        raise ValueError("no user has a relevant item; check `relevant` and `users`")

    sums = {f"{name}@{k}": 0.0 for name in metrics for k in cutoffs}
    for part, found in rank_blocks(user_vectors, item_vectors, measured, cutoffs[-1], hidden, chunk_size):
        hit = wanted.contain(part, found)
        if hidden is not None:  # where a user has seen nearly everything, the end of the list is not ranked at all
            hit &= ~hidden.contain(part, found)
        _add(sums, hit.double(), wanted.counts[part].double(), metrics, cutoffs)
    total = float(wanted.counts[measured].sum())
    result: dict[str, Any] = {
        name: value / (total if name.startswith("recall_micro@") else len(measured)) for name, value in sums.items()
    }
    return {
        **result,
        "n_users": len(measured),
        "n_items": items,
        "users_without_relevant": len(chosen) - len(measured),
    }


@torch.no_grad()
def rank_items(
    user_x: Any,
    item_x: Any = None,
    *,
    k: int = 10,
    exclude: Any = None,
    chunk_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of every user, by exact search.

    Args:
        user_x (`[U, D]` array or tensor): vectors of the users; without `item_x` the scores themselves, `[U, I]`.
        item_x (`[I, D]` array or tensor, *optional*): vectors of the items; the score is the dot product.
        k (`int`, defaults to 10): how many.
        exclude (`[E, 2]` integers, *optional*): pairs (row of `user_x`, item) that are left out.
        chunk_size (`int`, *optional*): users at a time; as in [`recommendation_metrics`].

    Returns:
        `(scores, items)`, both `[U, k]`, best first; of equal scores the lower item. Where fewer than k items are left for a
        user, the rest has the score -inf and the item -1.

    Raises:
        ValueError: wrong shapes, NaN or infinity, pairs that do not exist, k larger than the catalogue.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import rank_items
    >>> rank_items([[1.0, 0.0]], [[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]], k=2, exclude=[(0, 0)])[1].tolist()
    [[1, 2]]

    ```
    """
    user_vectors, item_vectors = _vectors(user_x, item_x)
    rows = len(user_vectors)
    items = user_vectors.shape[1] if item_vectors is None else len(item_vectors)
    k = check_count("k", k)
    if k > items:
        raise ValueError(f"`k` is {k}, but the catalogue has {items} items")
    hidden = None if exclude is None else _Pairs("exclude", exclude, rows, items, user_vectors.device)
    everyone = torch.arange(rows, device=user_vectors.device)
    scores, found = [], []
    for part, columns in rank_blocks(user_vectors, item_vectors, everyone, k, hidden, chunk_size, scores):
        if hidden is not None:
            columns = columns.masked_fill(hidden.contain(part, columns), -1)
        found.append(columns)
    return torch.cat(scores).cpu().numpy(), torch.cat(found).cpu().numpy()


def rank_blocks(
    user_vectors: torch.Tensor,
    item_vectors: torch.Tensor | None,
    rows: torch.Tensor,
    k: int,
    hidden: _Pairs | None,
    chunk_size: int | None,
    scores_to: list[torch.Tensor] | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields `(rows [C], items [C, k])`, best first; scores are appended to `scores_to`."""
    on_cpu = item_vectors is not None and item_vectors.device.type == "cpu"
    if chunk_size is None and on_cpu and len(item_vectors) >= _BOUNDED_FROM and k <= _BOUNDED_K:
        search = BoundedSearch(item_vectors, CPU_SCORES)
        if search.promising:
            places = None if hidden is None else hidden.placed([block.items for block in search.blocks])
            for part in rows.split(max(1, _PLACES // k)):
                hide = None if places is None else partial(places, part)
                values, found = search(user_vectors[part], k, hide)
                if scores_to is not None:
                    scores_to.append(values)
                yield part, found
            return
        del search  # it holds a copy of the items
    items = user_vectors.shape[1] if item_vectors is None else len(item_vectors)
    columns = None if item_vectors is None else item_vectors.T.contiguous()
    room: torch.Tensor | None = None
    if chunk_size is None and user_vectors.device.type == "cpu":
        chunk_size = max(1, CPU_SCORES // items)
    for block in blocks(len(rows), items, chunk_size):
        part = rows[block]
        scores = user_vectors[part]
        if columns is not None:
            # one array for all blocks: new memory takes a CPU as long as the product
            room = scores.new_empty(len(part), items) if room is None else room
            # the caller may sit inside autocast: scores are never rounded to half precision
            with torch.autocast(scores.device.type, enabled=False):
                scores = torch.mm(scores, columns, out=room[: len(part)])
        if hidden is not None:
            scores[hidden.of(part)] = -torch.inf
        values, found = top_k(scores, k)
        if scores_to is not None:
            scores_to.append(values)
        yield part, found


def _add(
    sums: dict[str, float], hit: torch.Tensor, total: torch.Tensor, metrics: Sequence[str], cutoffs: Sequence[int]
) -> None:
    places = torch.arange(1, hit.shape[1] + 1, dtype=torch.float64, device=hit.device)
    discount = 1 / (places + 1).log2()
    found, gain = hit.cumsum(1), (hit * discount).cumsum(1)
    best, precision = discount.cumsum(0), (hit.cumsum(1) / places * hit).cumsum(1)
    first = torch.where(hit.any(1), 1 / (hit.argmax(1) + 1).double(), 0.0)
    for k in cutoffs:
        most = total.clamp(max=k)
        values = {
            "recall": found[:, k - 1] / total,
            "precision": found[:, k - 1] / k,
            "hit": (found[:, k - 1] > 0).double(),
            "mrr": torch.where(found[:, k - 1] > 0, first, 0.0),
            "ndcg": gain[:, k - 1] / best[most.long() - 1],
            "map": precision[:, k - 1] / most,
            "recall_micro": found[:, k - 1],
        }
        for name in metrics:
            sums[f"{name}@{k}"] += float(values[name].sum())


class _Pairs:
    """Pairs (user row, item), sorted, to be looked up from either side."""

    def __init__(self, name: str, pairs: Any, rows: int, items: int, device: torch.device) -> None:
        array = pairs.detach().cpu().numpy() if isinstance(pairs, torch.Tensor) else np.asarray(pairs)
        if array.size == 0:
            array = np.empty((0, 2), dtype=np.int64)
        if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
            raise ValueError(
                f"`{name}` has shape {list(array.shape)} and dtype {array.dtype}; expected integers of shape [pairs, 2]: "
                "(row of `user_x`, item)"
            )
        for column, (side, size) in enumerate((("user row", rows), ("item", items))):
            if len(array) and not (array[:, column].min() >= 0 and array[:, column].max() < size):
                raise ValueError(
                    f"`{name}` names {side} {array[:, column].min()} to {array[:, column].max()}; there are 0 to {size - 1}"
                )
        keys = distinct(array[:, 0].astype(np.int64) * items + array[:, 1])
        self.items = items
        self.keys = torch.as_tensor(keys, device=device)
        bounds = torch.arange(rows + 1, device=device) * items
        self.starts = torch.searchsorted(self.keys, bounds)
        self.counts = self.starts.diff()

    def of(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Places in a matrix `[rows, items]` of the pairs of these rows."""
        place, found = ragged_places(self.starts[rows], self.starts[rows + 1])
        return place, self.keys[found] % self.items

    def placed(self, blocks: Sequence[torch.Tensor]) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
        """For items that stand in another order: what gets rows, some of them, and a block, and returns places as `of` does."""
        order = torch.cat(list(blocks))
        place = torch.empty_like(order)
        place[order] = torch.arange(self.items, device=order.device)
        keys = (self.keys - self.keys % self.items + place[self.keys % self.items]).sort().values
        ends = np.cumsum([0] + [len(block) for block in blocks]).tolist()

        def of(rows: torch.Tensor, some: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
            first = rows[some] * self.items
            starts, stops = (torch.searchsorted(keys, first + ends[number]) for number in (block, block + 1))
            row, found = ragged_places(starts, stops)
            return row, keys[found] % self.items - ends[block]

        return of

    def contain(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Whether (rows[i], items[i, j]) is a pair."""
        if not len(self.keys):
            return torch.zeros_like(items, dtype=torch.bool)
        keys = rows[:, None] * self.items + items
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return self.keys[place] == keys


def _vectors(user_x: Any, item_x: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    if item_x is None:
        return as_embeddings("user_x", user_x), None
    return as_pair("user_x", user_x, "item_x", item_x)


def _row_numbers(users: Any, rows: int) -> torch.Tensor:
    array = users.detach().cpu().numpy() if isinstance(users, torch.Tensor) else np.asarray(users)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise ValueError(
            f"`users` has shape {list(array.shape)} and dtype {array.dtype}; expected row numbers, [users]"
        )
    if array.min() < 0 or array.max() >= rows:
        raise ValueError(f"`users` names row {array.min()} to {array.max()}; `user_x` has the rows 0 to {rows - 1}")
    return torch.as_tensor(array.astype(np.int64))


__all__ = ["RANKING_METRICS", "rank_blocks", "rank_items", "recommendation_metrics"]
