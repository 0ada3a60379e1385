"""Matrix factorisation: the score of a user and an item is the product of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hf_contrastive.families.recommender.modeling_recommender import BatchRows, RecommenderModel
from hf_contrastive.families.recommender.serving import Histories, history_numbers
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

    def look_up(self, user_ids: Tensor, item_ids: Tensor, **draws: Any) -> BatchRows:
        """As of every recommender; the vectors are the rows of the tables, so that one look-up does for both."""
        users, items = self.propagate()
        rows = users.index_select(0, user_ids), items.index_select(0, item_ids)
        return BatchRows(*rows, *rows, all_vectors=(users, items))

    @torch.no_grad()
    def fold_in(
        self, histories: Sequence[Sequence[Any]] | Histories, *, alpha: float = 10.0, ridge: float = 10.0
    ) -> Tensor:
        """Vectors of users who were not in the training, by a weighted regression on the trained item vectors.

        With items q_i, C the chosen ones and s the mean of the diagonal of Q^T Q, a user's p minimises
        sum over all i of w_i (p . q_i - [i in C])^2 + ridge s |p|^2, w_i = 1 + alpha in C and 1 elsewhere: the half step of
        implicit alternating least squares (Hu, Koren & Volinsky 2008). It is NOT the pairwise objective that the items were trained
        with, and scores are not comparable with those of trained users.

        Args:
            histories (`Sequence[Sequence]`): for each new user the items chosen, tokens, or numbers where the model knows no tokens;
                repeats count once.
            alpha (`float`, defaults to 10.0): additional weight of a chosen item.
            ridge (`float`, defaults to 10.0): penalty on the vector, relative to the items' s. With small values the zeros of all
                other items count more, and lists get worse.

        Returns:
            `Tensor` `[U, hidden_size]`.

        Raises:
            ValueError: an empty history, unknown items, a negative alpha, or a ridge that is not above 0.
        """
        if not (alpha >= 0 and ridge > 0):
            raise ValueError(f"`alpha` is {alpha} and `ridge` {ridge}; expected alpha from 0, ridge above 0.")
        chosen = history_numbers(self, histories)
        items = self.vectors()[1]
        whole = self.kept("gram", lambda: items.double().T @ items.double())
        whole = whole + ridge * whole.diagonal().mean() * torch.eye(len(whole), dtype=whole.dtype, device=items.device)
        found = items.new_zeros(len(chosen.starts) - 1, items.shape[1])
        for user, (start, end) in enumerate(pairwise(chosen.starts.tolist())):
            rows = items[chosen.items[start:end]].double()
            found[user] = torch.linalg.solve(whole + alpha * rows.T @ rows, (1 + alpha) * rows.sum(0))
        return found

    def can_propagate(self) -> bool:
        """No graph is needed."""
        return True


__all__ = ["MFModel"]
