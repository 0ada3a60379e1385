"""Recommenders in use: lists for users of the log and for new ones, and indexes for large catalogues."""

from __future__ import annotations

import difflib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_contrastive.families.recommender.item_index import ItemIndex
from hf_contrastive.tensor_utils import ragged_places, top_k


#: scores that are held at a time
_BLOCK = 2**23
# outside the models, so that they can be copied and sent to other processes
_KEPT: weakref.WeakKeyDictionary[Any, dict[str, tuple[Any, int, Any]]] = weakref.WeakKeyDictionary()


class RecommendsItems:
    """Mixin, before the model's base: lists of items for users of the log and for new ones."""

    def recommend(
        self: Any,
        users: Sequence[Any] | Tensor | None = None,
        k: int = 10,
        *,
        histories: Sequence[Sequence[Any]] | None = None,
        exclude_seen: bool = True,
        exclude: Sequence[Any] | None = None,
        index: ItemIndex | None = None,
        **fold_in: Any,
    ) -> list[list[tuple[Any, float]]]:
        """The k best items for each user, of the log or new. Scores of new users are not comparable with those of others.

        Args:
            users (`Sequence` of tokens, or of whole numbers where the model knows no tokens): whom to recommend to.
            k (`int`, defaults to 10): how many items.
            histories (`Sequence[Sequence]`): instead of `users`, what each new user has chosen (tokens or numbers), see
                [`~RecommendsItems.fold_in`].
            exclude_seen (`bool`, defaults to `True`): leave out what the user has in training, or in the history given.
            exclude (`Sequence`, *optional*): items (tokens or numbers, as `users`) that nobody gets, for example what is sold out.
            index ([`ItemIndex`], *optional*): search there instead of scoring all items; of [`~RecommendsItems.build_index`].
            **fold_in: with `histories`, further arguments of the system's `fold_in` (MF: `alpha`, `ridge`).

        Returns:
            For each user a list of `(item, score)`, best first; shorter than k where nothing is left.

        Raises:
            ValueError: unknown users or items, k larger than the catalogue, no training pairs to leave out, an empty history, or
                an index of other item vectors.
            NotImplementedError: `histories`, and the system cannot fold in.

        Example:

        ```python
        >>> import torch
        >>> from hf_contrastive.models.mf.configuration_mf import MFConfig
        >>> from hf_contrastive.models.mf.modeling_mf import MFModel
        >>> model = MFModel(MFConfig(num_users=2, num_items=3))
        >>> tokens = {"user_tokens": ["ann", "bob"], "item_tokens": ["tea", "milk", "rice"]}
        >>> model.set_interactions([0, 0, 1], [0, 1, 2], **tokens)
        >>> [item for item, score in model.recommend(["ann"], k=3)[0]]
        ['rice']
        >>> [item for item, score in model.recommend(histories=[["tea", "rice"]], k=3)[0]]
        ['milk']

        ```
        """
        if (users is None) is (histories is None):
            raise ValueError(
                f"{'neither' if users is None else 'both'} of `users` and `histories` given; give users of the log, or what new "
                "users have chosen."
            )
        if users is not None and fold_in:
            raise TypeError(f"recommend() takes {', '.join(fold_in)} with `histories` only.")
        device = self.vectors()[1].device
        wanted: _LogUsers | _NewUsers
        if users is None:
            assert histories is not None
            chosen = history_numbers(self, histories)
            wanted = _NewUsers(self.fold_in(chosen, **fold_in), chosen)
        else:
            numbers = numbers_of(users, self.user_tokens, self.config.num_users, "user")
            wanted = _LogUsers(self, torch.tensor(numbers, dtype=torch.long, device=device))
            if exclude_seen and not self.history.is_set:
                raise ValueError(
                    "the checkpoint does not say what users have seen (saved with save_memory=False?); pass exclude_seen=False, "
                    "or call set_interactions with the training pairs."
                )
        hidden = set(numbers_of([] if exclude is None else exclude, self.item_tokens, self.config.num_items, "item"))
        left = self.config.num_items - len(hidden)
        if not 1 <= k <= left:
            raise ValueError(f"`k` is {k}, but there are {left} items to recommend; expected 1 to {left}.")
        if not self.kept("finite", lambda: all(bool(torch.isfinite(rows).all()) for rows in self.vectors())):
            raise ValueError(
                "the model's vectors hold NaN or infinity: its training diverged. Take an earlier checkpoint."
            )
        ranking = _Ranking(
            self, wanted, k, torch.tensor(sorted(hidden), dtype=torch.long, device=device), exclude_seen
        )
        found = ranking.exact(torch.arange(len(wanted), device=device)) if index is None else ranking.through(index)
        names = self.item_tokens
        return [[(item if names is None else names[item], score) for item, score in row] for row in found]

    def fold_in(self: Any, histories: Sequence[Sequence[Any]] | Histories) -> Tensor:
        """Vectors of users who were not in the training, from the items that they chose; nothing is trained.

        Args:
            histories (`Sequence[Sequence]`): for each new user the items chosen, tokens, or numbers where the model knows no tokens;
                repeats count once.

        Returns:
            `Tensor` `[U, dim]`: their products with the items' final vectors are scores.

        Raises:
            ValueError: an empty history, or unknown items.
            NotImplementedError: the system cannot.
        """
        raise NotImplementedError(
            f"{type(self).__name__} cannot fold in new users: what it makes of a user goes through that user's own trained row. Train "
            "with these users in the log, or take a model with `fold_in`, for example LightGCN or MF."
        )

    def build_index(self: Any, kind: str = "flat", **options: int | None) -> ItemIndex:
        """An index of the item vectors, for catalogues that are too large to score every item.

        Args:
            kind (`str`, defaults to `"flat"`): `"flat"` (exact), `"ivf"` (looks into some clusters of items) or `"hnsw"` (walks along
                a graph of near items; more memory, no clusters).
            **options: see [`ItemIndex.build`].

        Returns:
            [`ItemIndex`]: for `recommend(..., index=index)`; what an approximate one costs is `index.recall(...)`.

        Raises:
            ImportError: faiss is missing.
            ValueError: an unknown kind, or options that are not those of the kind.

        Example:

        ```python
        >>> import torch
        >>> from hf_contrastive.models.mf.configuration_mf import MFConfig
        >>> from hf_contrastive.models.mf.modeling_mf import MFModel
        >>> model = MFModel(MFConfig(num_users=2, num_items=3))
        >>> model.set_interactions([0, 0, 1], [0, 1, 2])
        >>> index = model.build_index("flat")
        >>> model.recommend([0], k=1, index=index)[0][0][0]
        2

        ```
        """
        return ItemIndex.build(self.vectors()[1], kind, **options)

    def kept(self: Any, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, kept as long as the final vectors stay as they are: such things cost a pass over the catalogue.

        Args:
            name (`str`): of the thing.
            make (`Callable`): makes it.
        """
        vectors = self.vectors()[1]
        # torch counts the writes into a tensor; one made in inference mode has no counter
        version = -1 if vectors.is_inference() else vectors._version
        things = _KEPT.setdefault(self, {})
        found = things.get(name)
        if found is None or found[0]() is not vectors or found[1] != version or version < 0:
            found = things[name] = (weakref.ref(vectors), version, make())
        return found[2]


# ------------------------------------------------------------------------------------------------------------ new users


@dataclass
class Histories:
    """What new users have chosen, as numbers.

    Args:
        items (`LongTensor` `[E]`): user by user, sorted and without repeats within a user.
        starts (`LongTensor` `[U + 1]`): where each user's items begin, and E.
    """

    items: Tensor
    starts: Tensor


def history_numbers(model: Any, histories: Sequence[Sequence[Any]] | Histories) -> Histories:
    """Histories checked and numbered, on the device of the model's vectors.

    Args:
        model ([`RecommenderModel`]): knows its items.
        histories (`Sequence[Sequence]`): items of each new user; [`Histories`] stay as they are.

    Raises:
        ValueError: an empty history, or unknown items.
    """
    if isinstance(histories, Histories):
        return histories
    flat: list[Any] = []
    lengths = []
    for place, history in enumerate(histories):
        if isinstance(history, str) or not hasattr(history, "__len__"):
            raise ValueError(
                f"history {place} is {history!r}; expected a list of items for each new user, for example [['tea', 'milk']]."
            )
        if not len(history):
            raise ValueError(
                f"history {place} is empty: a new user needs at least one item. For people without any, recommend what is popular."
            )
        flat += _plain(history)
        lengths.append(len(history))
    num_items = model.config.num_items
    numbers = torch.tensor(numbers_of(flat, model.item_tokens, num_items, "item"), dtype=torch.long)
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long))
    keys = torch.unique(rows * num_items + numbers)
    counts = torch.bincount(keys // num_items, minlength=len(lengths))
    starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    device = model.vectors()[1].device
    return Histories((keys % num_items).to(device), starts.to(device))


@torch.no_grad()
def fold_in_along_edges(
    model: Any, histories: Sequence[Sequence[Any]] | Histories, num_layers: int, *, include_tables: bool = True
) -> Tensor:
    """Means over layers of new nodes whose own row is zero, joined to the graph by their items (LightGCN and its kin).

    With X_l the trained rows of layer l, d_i a trained item's neighbours (at least 1) and S the items of the new user, its layer
    l + 1 is the sum over i in S of X_l[i] / sqrt(|S| d_i). The new edges change nothing else, so every history is on its own.

    Args:
        model ([`RecommenderModel`]): with its training pairs.
        histories (`Sequence[Sequence]` or [`Histories`]): items of each new user.
        num_layers (`int`): steps along the edges, L.
        include_tables (`bool`, defaults to `True`): whether the model's mean counts layer 0, here zero.

    Returns:
        `Tensor` `[U, hidden_size]`.

    Raises:
        ValueError: no layer, an empty history, unknown items, or no training pairs.
    """
    if num_layers == 0:
        raise ValueError("num_layers is 0: nothing goes along the edges, so items say nothing of a new user. Take MF.")

    def make() -> Tensor:
        graph, x = model.graph(), model.tables()
        total = torch.zeros_like(x)
        for layer in range(num_layers):
            x = x if layer == 0 else graph.propagate(x)
            total = total + x
        scale = graph.degrees().clamp(min=1).rsqrt().to(x.dtype) / (num_layers + include_tables)
        return (total * scale[:, None])[model.config.num_users :]

    chosen = history_numbers(model, histories)
    rows = model.kept("fold_in", make)
    sums = F.embedding_bag(chosen.items, rows, chosen.starts, mode="sum", include_last_offset=True)
    return sums * chosen.starts.diff().rsqrt().to(sums.dtype)[:, None]


# --------------------------------------------------------------------------------------------------------------- lists


class _LogUsers:
    """Users of the log, by number."""

    def __init__(self, model: Any, numbers: Tensor) -> None:
        self.model, self.numbers = model, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def vectors(self, places: Tensor) -> Tensor:
        return self.model.vectors()[0][self.numbers[places]]

    def seen(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """`(row, item)` of what these users have; rows from 0."""
        return self.model.history.places(self.numbers[places])

    def num_seen(self) -> Tensor:
        return self.model.history.counts[self.numbers].long()


class _NewUsers:
    """The same for users that were folded in."""

    def __init__(self, vectors: Tensor, histories: Histories) -> None:
        self.rows, self.histories = vectors, histories

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, places: Tensor) -> Tensor:
        return self.rows[places]

    def seen(self, places: Tensor) -> tuple[Tensor, Tensor]:
        starts = self.histories.starts
        row, place = ragged_places(starts[places], starts[places + 1])
        return row, self.histories.items[place]

    def num_seen(self) -> Tensor:
        return self.histories.starts.diff()


Found = list[list[tuple[int, float]]]


class _Ranking:
    """Lists of item numbers for some users, with what is left out; memory does not grow with the number of users."""

    def __init__(self, model: Any, users: _LogUsers | _NewUsers, k: int, hidden: Tensor, exclude_seen: bool) -> None:
        self.users, self.k, self.hidden, self.exclude_seen = users, k, hidden, exclude_seen
        self.model, self.num_items = model, model.config.num_items

    @torch.no_grad()
    def exact(self, places: Tensor) -> Found:
        """All items are scored."""
        columns = self.model.vectors()[1].float().T
        answers: Found = []
        for part in places.split(max(1, _BLOCK // self.num_items)):
            scores = self.users.vectors(part).float() @ columns
            scores[:, self.hidden] = -torch.inf
            if self.exclude_seen:
                scores[self.users.seen(part)] = -torch.inf
            values, items = top_k(scores, self.k)
            answers += _pairs(values, items, values > -torch.inf)
        return answers

    @torch.no_grad()
    def through(self, index: ItemIndex) -> Found:
        """Through an index: as many items more as are hidden from a user, and again with more while a list is short."""
        if not index.ready_for(self.model):
            sizes = [list(one) for one in ((index.num_items, index.dim), self.model.vectors()[1].shape)]
            what = (
                f"it holds {sizes[0]} numbers, the model {sizes[1]}" if sizes[0] != sizes[1] else "they have changed"
            )
            raise ValueError(
                f"`index` is not of this model's item vectors ({what}; trained further, or another checkpoint?); build it anew: "
                f"model.build_index({index.kind!r})."
            )
        count, device = len(self.users), self.hidden.device
        seen = self.users.num_seen() if self.exclude_seen else torch.zeros(count, dtype=torch.long, device=device)
        fetch = (self.k + len(self.hidden) + seen).clamp(max=self.num_items)
        left, effort = fetch.argsort(), 1
        answers: Found = [[] for _ in range(count)]
        while len(left):
            short = []
            for part in _blocks(left, fetch):
                found, complete = self._search(index, part, int(fetch[part].max()), effort)
                for place, row in zip(part.tolist(), found, strict=True):
                    answers[place] = row
                short.append(part[~complete])
            left = torch.cat(short)
            # what an approximate index does not reach at all is looked up without it
            done = left[fetch[left] >= self.num_items]
            for place, row in zip(done.tolist(), self.exact(done), strict=True):
                answers[place] = row
            left = left[fetch[left] < self.num_items]
            fetch, effort = (2 * fetch).clamp(max=self.num_items), 2 * effort
        return answers

    def _search(self, index: ItemIndex, part: Tensor, fetch: int, effort: int) -> tuple[Found, Tensor]:
        """Lists of some users, and whether each is as long as it can be."""
        values, items = (x.to(part.device) for x in index._search(self.users.vectors(part), fetch, effort))
        shown = (items >= 0) & ~torch.isin(items, self.hidden)
        most = torch.full((len(part),), self.num_items - len(self.hidden), device=part.device)
        if self.exclude_seen:
            row, item = self.users.seen(part)
            keys = torch.arange(len(part), device=part.device)[:, None] * self.num_items + items
            shown &= ~torch.isin(keys, row * self.num_items + item)
            most -= torch.bincount(row[~torch.isin(item, self.hidden)], minlength=len(part))
        shown &= shown.cumsum(1) <= self.k
        return _pairs(values, items, shown), shown.sum(1) >= most.clamp(max=self.k)


def _pairs(values: Tensor, items: Tensor, shown: Tensor) -> Found:
    counts = shown.sum(1).tolist()
    pairs = list(zip(items[shown].tolist(), values[shown].tolist(), strict=True))
    ends = np.cumsum(counts).tolist()
    return [pairs[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _blocks(places: Tensor, fetch: Tensor) -> list[Tensor]:
    """Users of similar length together, each block of bounded size."""
    places = places[fetch[places].argsort()]
    blocks, start = [], 0
    widths = fetch[places].tolist()
    while start < len(widths):
        end = start + 1
        while (
            end < len(widths) and (end + 1 - start) * widths[end] <= _BLOCK // 8 and widths[end] <= 2 * widths[start]
        ):
            end += 1
        blocks.append(places[start:end])
        start = end
    return blocks


def numbers_of(ids: Sequence[Any] | Tensor, tokens: list[str] | None, rows: int, kind: str) -> list[int]:
    """Numbers of users or items.

    Args:
        ids (`Sequence` or `Tensor`): tokens, or numbers where there are no tokens.
        tokens (`list[str]`, *optional*): names by number.
        rows (`int`): how many there are.
        kind (`str`): `"user"` or `"item"`, for messages.

    Raises:
        ValueError: unknown ones (with similar names), or a text instead of a list.
    """
    if isinstance(ids, str):
        raise ValueError(f"expected a list of {kind}s, got the text {ids!r}; put it into a list")
    values = _plain(ids)
    if tokens is None:
        bad = next((v for v in values if not isinstance(v, int) or isinstance(v, bool) or not 0 <= v < rows), None)
        if bad is not None:
            raise ValueError(f"unknown {kind} {bad!r}: the model has no {kind} tokens, {kind}s are 0 to {rows - 1}.")
        return values
    wanted = {str(value) for value in values}
    number = {token: place for place, token in enumerate(tokens) if token in wanted} if wanted else {}
    unknown = [str(value) for value in values if str(value) not in number]
    if unknown:
        near = difflib.get_close_matches(unknown[0], tokens[:10000], n=3)
        hint = f"; similar are {', '.join(near)}" if near else ""
        raise ValueError(f"{len(unknown)} unknown {kind}s (first: {unknown[0]!r}){hint}.")
    return [number[str(value)] for value in values]


def _plain(ids: Any) -> list[Any]:
    """A list of Python values; numbers of numpy and torch become whole numbers."""
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    return [value.item() if hasattr(value, "item") else value for value in values]


__all__ = [
    "Histories",
    "RecommendsItems",
    "fold_in_along_edges",
    "history_numbers",
    "numbers_of",
]
