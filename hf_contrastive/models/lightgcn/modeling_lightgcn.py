"""LightGCN: the mean of the tables after 0, 1, 2, ... steps along the edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_contrastive.distributed import broadcast_from_first
from hf_contrastive.families.recommender.modeling_recommender import BatchRows, RecommenderModel, RecommenderOutput
from hf_contrastive.families.recommender.serving import Histories, fold_in_along_edges
from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig


class LightGCNModel(RecommenderModel):
    """LightGCN (https://arxiv.org/abs/2002.02126, equations 3, 6 and 15), trained by Bayesian personalised ranking.

    With the normalised adjacency A and the tables X_0, X_(l+1) = A X_l; final vectors are the mean of X_0 to X_L.

    Args:
        config ([`LightGCNConfig`]): sizes, layers and objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig
    >>> from hf_contrastive.models.lightgcn.modeling_lightgcn import LightGCNModel
    >>> model = LightGCNModel(LightGCNConfig(num_users=2, num_items=3, hidden_size=8))
    >>> model.set_interactions(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
    >>> ids = torch.tensor([0, 1])
    >>> bool(model(user_ids=ids, pos_item_ids=ids, neg_item_ids=1 - ids).loss > 0)
    True

    ```
    """

    config: LightGCNConfig

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Means over the layers.

        Returns:
            `(users [num_users, hidden_size], items [num_items, hidden_size])`.
        """
        return self.split(self.mean_over_layers(self.config.num_layers))

    def fold_in(self, histories: Sequence[Sequence[Any]] | Histories) -> Tensor:
        """As of every recommender; a new user is a node with edges to its items and a table row of zero."""
        return fold_in_along_edges(self, histories, self.config.num_layers)

    def look_up(
        self,
        user_ids: Tensor,
        item_ids: Tensor,
        edge_keep: Tensor | None = None,
        sample: Mapping[str, Any] | None = None,
    ) -> BatchRows:
        """Rows of the batch; on a subgraph, or on the whole graph without vectors of all nodes.

        Args:
            user_ids (`LongTensor` `[n]`), item_ids (`LongTensor` `[m]`): numbers, of a subgraph among its own.
            edge_keep (`Tensor` `[num_edges]`, *optional*): 1 for edges that stay, row by row; drawn by default.
            sample (`Mapping`, *optional*): a subgraph as `forward` prepares it.
        """
        if sample is not None:
            users, items = self._propagate_sample(**sample["edges"])
            user_tables, item_tables = sample["tables"]
            return BatchRows(
                users.index_select(0, user_ids),
                items.index_select(0, item_ids),
                user_tables.index_select(0, user_ids),
                item_tables.index_select(0, item_ids),
            )
        if self.adds_terms or not self.config.num_layers or (self.training and self.config.edge_dropout):
            return super().look_up(user_ids, item_ids, edge_keep=edge_keep)
        means, tables = self.graph().rows_of_mean(
            self.user_embedding.weight, self.item_embedding.weight, user_ids, item_ids, self.config.num_layers
        )
        return BatchRows(*means.split([len(user_ids), len(item_ids)]), *tables.split([len(user_ids), len(item_ids)]))

    def propagate_in_training(self, edge_keep: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The same with edges left out.

        Args:
            edge_keep (`Tensor` `[num_edges]`, *optional*): 1 for edges that stay, row by row; drawn by default.
        """
        share = self.config.edge_dropout
        if not self.training or share == 0:
            return *self.propagate(), {}
        graph = self.graph()
        if edge_keep is None:
            edge_keep = broadcast_from_first(torch.rand(graph.num_edges, device=graph.columns.device)) >= share
        weights = graph.keep_edges(edge_keep, renormalise=False) / (1 - share)
        return *self.split(self.mean_over_layers(self.config.num_layers, [weights] * self.config.num_layers)), {}

    def _sample(
        self, embeds: dict[str, Tensor], node_ids: Tensor, edge_index: Tensor, edge_weights: Tensor
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The batch's numbers as places among its own users and items, with their rows; and the subgraph, checked."""
        num_users, (heads, tails) = self.config.num_users, edge_index
        shifted = [ids.flatten() + (0 if name == "user_ids" else num_users) for name, ids in embeds.items()]
        seeds, places = torch.unique(torch.cat(shifted), return_inverse=True)
        count, layers = len(seeds), self.config.num_layers
        if not (torch.equal(node_ids[:count], seeds) and bool((heads.diff() >= 0).all())):
            raise ValueError(
                "`node_ids` must begin with the nodes of the batch, ascending, and the heads of `edge_index` must ascend; "
                "NeighbourSamplingCollator makes them so for this batch."
            )
        # layer by layer from the last: sums are needed of the first nodes, along the first edges
        steps, above = [], count
        for _ in range(layers):
            edges = int(torch.searchsorted(heads, above))
            below = max(above, int(tails[:edges].max()) + 1) if edges else above
            steps.append((above, edges))
            outer, above = above, below
        if layers and bool((torch.bincount(heads, minlength=outer)[count:outer] == 0).any()):
            raise ValueError(
                f"the subgraph ends before num_layers={layers} steps from the batch; give NeighbourSamplingCollator a fan_out of "
                f"{layers} numbers, one a layer."
            )
        node_ids = node_ids[:above]
        is_user = node_ids < num_users
        own = int(is_user[:count].sum())
        users = self.user_embedding(node_ids[is_user]).tensor_split([own])
        items = self.item_embedding(node_ids[~is_user] - num_users).tensor_split([count - own])
        # the batch's users and items, then other users, then other items
        later = is_user[count:]
        order = torch.where(later, later.cumsum(0), int(later.sum()) + (~later).cumsum(0)) + (count - 1)
        order = torch.cat([torch.arange(count, device=order.device), order])
        found: dict[str, Any] = {}
        sizes = [ids.numel() for ids in embeds.values()]
        for (name, ids), place in zip(embeds.items(), places.split(sizes), strict=True):
            found[name] = (place - (0 if name == "user_ids" else own)).view(ids.shape)
        rows = torch.cat([users[0], items[0], users[1], items[1]])
        edges = {
            "rows": rows,
            "order": order,
            "edge_index": edge_index,
            "edge_weights": edge_weights,
            "steps": steps[::-1],
            "sizes": (own, count - own),
        }
        return found, {"edges": edges, "tables": (users[0], items[0])}

    def _propagate_sample(
        self,
        rows: Tensor,
        order: Tensor,
        edge_index: Tensor,
        edge_weights: Tensor,
        steps: list[tuple[int, int]],
        sizes: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Means over the layers, of the batch's own users and items."""
        weights = F.dropout(edge_weights.to(rows.dtype), self.config.edge_dropout, self.training)
        heads, tails = edge_index
        x, total = rows, rows[: sum(sizes)]
        for layer, (nodes, edges) in enumerate(steps):
            ends = tails[:edges] if layer else order[tails[:edges]]
            x = _SumNeighbours.apply(x, heads[:edges], ends, weights[:edges], nodes)
            total = total + x[: sum(sizes)]
        users, items = (total / (len(steps) + 1)).split(sizes)
        return users, items

    def forward(
        self,
        user_ids: Tensor,
        pos_item_ids: Tensor | None = None,
        neg_item_ids: Tensor | None = None,
        edge_keep: Tensor | None = None,
        node_ids: Tensor | None = None,
        edge_index: Tensor | None = None,
        edge_weights: Tensor | None = None,
        return_loss: bool = True,
    ) -> RecommenderOutput:
        """Score triples.

        Args:
            user_ids (`LongTensor` `[batch]`): users; alone they have vectors and no loss.
            pos_item_ids (`LongTensor` `[batch]`, *optional*): an item of each that the user chose.
            neg_item_ids (`LongTensor` `[batch]` or `[batch, negatives]`, *optional*): items that the user did not choose.
            edge_keep (`Tensor` `[num_edges]`, *optional*): 1 for edges that stay in this training step; drawn by default.
            node_ids (`LongTensor` `[n]`, *optional*), edge_index (`LongTensor` `[2, e]`, *optional*), edge_weights (`Tensor`
                `[e]`, *optional*): a subgraph around the batch to propagate along instead of the whole graph, as
                [`NeighbourSamplingCollator`] draws it: numbers of nodes, the batch's first; heads and tails as places among them (by
                head, ascending); weights. All three or none.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`RecommenderOutput`].

        Raises:
            ValueError: a part of a subgraph without the others, one of another batch, in another order, or that ends before
                `num_layers` steps from the batch, or one with `edge_keep` or without items.
        """
        embeds: dict[str, Any] = self.embed_triples(user_ids, pos_item_ids, neg_item_ids)
        if node_ids is None and edge_index is None and edge_weights is None:
            return self.compute_objective(embeds, return_loss, edge_keep=edge_keep)
        if node_ids is None or edge_index is None or edge_weights is None:
            raise ValueError("give all of `node_ids`, `edge_index` and `edge_weights`, or none (the whole graph).")
        if edge_keep is not None or pos_item_ids is None:
            raise ValueError("a subgraph goes with triples, and without `edge_keep`, which is for the whole graph.")
        embeds, sample = self._sample(embeds, node_ids, edge_index, edge_weights)
        return self.compute_objective(embeds, return_loss, sample=sample)


class _SumNeighbours(torch.autograd.Function):
    """Sums of weighted rows along edges, by head ascending; rows of the edges are never held, in neither direction."""

    @staticmethod
    def forward(ctx, x, heads, tails, weights, nodes):
        ctx.save_for_backward(heads, tails, weights)
        ctx.rows = len(x)
        return _bags(x, heads, tails, weights, nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        heads, tails, weights = ctx.saved_tensors
        found, order = torch.sort(tails.int(), stable=True)  # short numbers sort faster
        return _bags(grad.contiguous(), found, heads[order], weights[order], ctx.rows), None, None, None, None


def _bags(x: Tensor, heads: Tensor, tails: Tensor, weights: Tensor, nodes: int) -> Tensor:
    starts = torch.bincount(heads, minlength=nodes).cumsum(0)
    starts = torch.cat([starts.new_zeros(1), starts])
    with torch.autocast(x.device.type, enabled=False):
        return F.embedding_bag(tails, x, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


__all__ = ["LightGCNModel"]
