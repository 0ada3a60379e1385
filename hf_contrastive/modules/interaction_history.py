"""The training pairs of a recommender, kept with it: what a user has seen, and the graph to propagate along."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import initialization as init

from hf_contrastive.modules.bipartite_graph import BipartiteGraph
from hf_contrastive.modules.training_state import TrainingState
from hf_contrastive.tensor_utils import ragged_places


class InteractionHistory(TrainingState):
    """Pairs of users and items, sorted by user and item.

    They are saved with the model, so that it can leave out what a user has seen, and can be trained on without the log;
    `save_pretrained(save_memory=False)` leaves them out (they say what people did).

    Args:
        num_users (`int`), num_items (`int`): how many there are.
        num_interactions (`int`, defaults to 0): pairs; 0 for none yet.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.interaction_history import InteractionHistory
    >>> history = InteractionHistory(num_users=3, num_items=4)
    >>> history.set_pairs(torch.tensor([2, 0, 0]), torch.tensor([1, 3, 0]))
    >>> history.items_of(0).tolist(), history.items_of(1).tolist(), history.graph().num_edges
    ([0, 3], [], 6)

    ```
    """

    is_memory = True

    items: Tensor
    counts: Tensor

    def __init__(self, num_users: int, num_items: int, num_interactions: int = 0) -> None:
        super().__init__()
        self.num_users, self.num_items = num_users, num_items
        self.register_buffer("items", torch.zeros(num_interactions, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(num_users, dtype=torch.int32))
        self._keep_graph(None)
        self.register_load_state_dict_post_hook(_forget_graph)

    def _keep_graph(self, graph: BipartiteGraph | None) -> None:
        # no part of the module: DistributedDataParallel would send its buffers around at every step
        object.__setattr__(self, "_graph", graph)

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Nobody has seen anything, where the checkpoint brought nothing."""
        init.zeros_(self.items)
        init.zeros_(self.counts)

    def set_pairs(self, users: Any, items: Any) -> None:
        """Keep these pairs and forget others; repeats count once.

        Args:
            users (`[E]` whole numbers), items (`[E]` whole numbers): of the training part.

        Raises:
            ValueError: as for [`BipartiteGraph`].
        """
        graph = BipartiteGraph(users, items, self.num_users, self.num_items)
        device = self.items.device
        self.items = (graph.columns[: graph.num_edges // 2] - self.num_users).to(device, torch.int32)
        self.counts = graph.degrees()[: self.num_users].to(device, torch.int32)
        self._keep_graph(graph)

    @property
    def is_set(self) -> bool:
        """Whether there are pairs; a checkpoint without them leaves none."""
        return len(self.items) > 0 and int(self.counts.sum()) == len(self.items)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """`(users [E], items [E])`, sorted."""
        users = torch.repeat_interleave(torch.arange(self.num_users, device=self.counts.device), self.counts.long())
        return users, self.items.long()

    def items_of(self, user: int) -> Tensor:
        """Items of one user, sorted."""
        start = int(self.counts[:user].sum())
        return self.items[start : start + int(self.counts[user])].long()

    def places(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Places in a matrix `[users, num_items]` of what these users have.

        Args:
            users (`LongTensor` `[U]`): users, in any order.

        Returns:
            `(row, item)`, two `LongTensor` of one length.
        """
        ends = self.counts.long().cumsum(0)[users]
        row, place = ragged_places(ends - self.counts[users], ends)
        return row, self.items[place].long()

    def graph(self) -> BipartiteGraph:
        """The graph of the pairs, on the device of this part; made once.

        Raises:
            ValueError: there are no pairs.
        """
        if not self.is_set:
            raise ValueError(
                "the model knows no interactions, so that there is no graph to propagate along: call "
                "set_interactions(users, items) with the training part (a checkpoint saved with save_memory=False has none)."
            )
        graph: BipartiteGraph | None = getattr(self, "_graph", None)
        if graph is None:
            graph = BipartiteGraph(*self.pairs(), self.num_users, self.num_items)
        if graph.columns.device != self.items.device:
            graph = graph.to(self.items.device)
        self._keep_graph(graph)
        return graph

    def extra_repr(self) -> str:
        return f"num_users={self.num_users}, num_items={self.num_items}, num_interactions={len(self.items)}"


def _forget_graph(history: InteractionHistory, incompatible_keys: Any) -> None:
    """Other pairs may have been loaded."""
    history._keep_graph(None)


__all__ = ["InteractionHistory"]
