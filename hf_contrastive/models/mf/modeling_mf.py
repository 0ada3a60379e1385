"""Matrix factorisation: the score of a user and an item is the product of their rows."""

from __future__ import annotations

from torch import Tensor

from hf_contrastive.families.recommender.modeling_recommender import RecommenderModel
from hf_contrastive.models.mf.configuration_mf import MFConfig


class MFModel(RecommenderModel):
    """Matrix factorisation trained by Bayesian personalised ranking (https://arxiv.org/abs/1205.2618).

    Args:
        config ([`MFConfig`]): sizes and objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.mf.configuration_mf import MFConfig
    >>> from hf_contrastive.models.mf.modeling_mf import MFModel
    >>> model = MFModel(MFConfig(num_users=3, num_items=4, hidden_size=8))
    >>> ids = torch.tensor([0, 1])
    >>> model(user_ids=ids, pos_item_ids=ids, neg_item_ids=ids + 1).user_embeds.shape
    torch.Size([2, 8])

    ```
    """

    config: MFConfig

    def propagate(self) -> tuple[Tensor, Tensor]:
        """The rows of the tables.

        Returns:
            `(users [num_users, hidden_size], items [num_items, hidden_size])`.
        """
        return self.user_embedding.weight, self.item_embedding.weight

    def can_propagate(self) -> bool:
        """No graph is needed."""
        return True


__all__ = ["MFModel"]
