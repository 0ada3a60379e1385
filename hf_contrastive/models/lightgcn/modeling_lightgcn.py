"""LightGCN: the mean of the tables after 0, 1, 2, ... steps along the edges."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_contrastive.distributed import broadcast_from_first
from hf_contrastive.families.recommender.modeling_recommender import RecommenderModel, RecommenderOutput
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

    def propagate_in_training(self, edge_keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same with edges left out.

        Args:
            edge_keep (`Tensor` `[num_edges]`, *optional*): 1 for edges that stay, row by row; drawn by default.
        """
        share = self.config.edge_dropout
        if not self.training or share == 0:
            return self.propagate()
        graph = self.graph()
        if edge_keep is None:
            edge_keep = broadcast_from_first(torch.rand(graph.num_edges, device=graph.columns.device)) >= share
        weights = graph.keep_edges(edge_keep, renormalise=False) / (1 - share)
        return self.split(self.mean_over_layers(self.config.num_layers, [weights] * self.config.num_layers))

    def forward(
        self,
        user_ids: Tensor,
        pos_item_ids: Tensor | None = None,
        neg_item_ids: Tensor | None = None,
        edge_keep: Tensor | None = None,
        return_loss: bool = True,
    ) -> RecommenderOutput:
        """Score triples.

        Args:
            user_ids (`LongTensor` `[batch]`): users; alone they have vectors and no loss.
            pos_item_ids (`LongTensor` `[batch]`, *optional*): an item of each that the user chose.
            neg_item_ids (`LongTensor` `[batch]` or `[batch, negatives]`, *optional*): items that the user did not choose.
            edge_keep (`Tensor` `[num_edges]`, *optional*): 1 for edges that stay in this training step; drawn by default.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`RecommenderOutput`].
        """
        embeds = self.embed_triples(user_ids, pos_item_ids, neg_item_ids)
        return self.compute_objective(embeds, return_loss, edge_keep=edge_keep)


__all__ = ["LightGCNModel"]
