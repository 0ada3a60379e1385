"""SimGCL: two passes along the same edges, each with noise of its own, shall agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_contrastive.distributed import broadcast_from_first
from hf_contrastive.families.recommender.modeling_recommender import (
    RecommenderModel,
    RecommenderOutput,
    contrast_nodes,
)
from hf_contrastive.families.recommender.serving import Histories, fold_in_along_edges
from hf_contrastive.models.simgcl.configuration_simgcl import SimGCLConfig


@dataclass
class SimGCLOutput(RecommenderOutput):
    """Output of SimGCL on a batch of triples.

    Args:
        loss, bpr_loss, reg_loss, user_embeds, pos_item_embeds: as in [`RecommenderOutput`].
        contrastive_loss (`torch.FloatTensor`, scalar): of users and of items, without its weight.
    """

    contrastive_loss: torch.Tensor | None = None


class SimGCLModel(RecommenderModel):
    """SimGCL (https://arxiv.org/abs/2112.08679, equations 7 to 10).

    A noisy pass makes x <- A x + eps * sign(A x) * n / ||n|| in every layer, n uniform from 0 to 1. Final vectors are means over
    the layers from 1 on. InfoNCE compares two noisy passes, over the users and over the chosen items of the batch.

    Args:
        config ([`SimGCLConfig`]): sizes, layers, noise and objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.simgcl.configuration_simgcl import SimGCLConfig
    >>> from hf_contrastive.models.simgcl.modeling_simgcl import SimGCLModel
    >>> model = SimGCLModel(SimGCLConfig(num_users=2, num_items=3, hidden_size=8))
    >>> model.set_interactions(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
    >>> ids = torch.tensor([0, 1])
    >>> bool(model(user_ids=ids, pos_item_ids=ids, neg_item_ids=1 - ids).contrastive_loss > 0)
    True

    ```
    """

    config: SimGCLConfig
    output_class = SimGCLOutput
    objective_formula = "BPR + {contrastive_weight:g} x InfoNCE of two noisy passes at temperature {temperature:g} + {reg_weight:g} x penalty"

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Means over the layers, without noise.

        Returns:
            `(users [num_users, hidden_size], items [num_items, hidden_size])`.
        """
        return self.split(self.view(None))

    def fold_in(self, histories: Sequence[Sequence[Any]] | Histories) -> Tensor:
        """As of every recommender; a new user is a node with edges to its items and a table row of zero."""
        config = self.config
        return fold_in_along_edges(self, histories, config.num_layers, include_tables=config.include_tables)

    def view(self, noise: Tensor | None) -> Tensor:
        """One pass.

        Args:
            noise (`Tensor` `[num_layers, num_nodes, hidden_size]`, *optional*): uniform from 0 to 1; none by default.

        Returns:
            `Tensor` `[num_nodes, hidden_size]`.
        """
        graph, x = self.graph(), self.tables()
        if noise is None:  # the mean from layer 1 on is one step after that of one layer less
            if self.config.include_tables:
                return graph.mean_of_steps(x, self.config.num_layers)
            return graph.propagate(graph.mean_of_steps(x, self.config.num_layers - 1))
        total = x if self.config.include_tables else torch.zeros_like(x)
        for layer in range(self.config.num_layers):
            x = graph.propagate(x)
            x = x + _displacement(x, noise[layer], self.config.noise_size)
            total = total + x
        return total / (self.config.num_layers + self.config.include_tables)

    def loss_terms(
        self,
        terms: dict[str, Tensor],
        embeds: dict[str, Tensor],
        users: Tensor,
        items: Tensor,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Adds the contrast of two noisy passes."""
        config, table = self.config, self.user_embedding.weight
        if noise is None:
            shape = (2, config.num_layers, config.num_users + config.num_items, config.hidden_size)
            noise = broadcast_from_first(torch.rand(shape, device=table.device, dtype=table.dtype))
        views = [self.split(self.view(draw)) for draw in noise]
        contrasts = [
            contrast_nodes(views[0][side], views[1][side], embeds[name], config.temperature)
            for side, name in enumerate(("user_ids", "pos_item_ids"))
        ]
        terms["contrastive_loss"] = contrasts[0] + contrasts[1]
        terms["loss"] = terms["loss"] + config.contrastive_weight * terms["contrastive_loss"]
        return terms

    def forward(
        self,
        user_ids: Tensor,
        pos_item_ids: Tensor | None = None,
        neg_item_ids: Tensor | None = None,
        noise: Tensor | None = None,
        return_loss: bool = True,
    ) -> RecommenderOutput:
        """Score triples.

        Args:
            user_ids (`LongTensor` `[batch]`): users; alone they have vectors and no loss.
            pos_item_ids (`LongTensor` `[batch]`, *optional*): an item of each that the user chose.
            neg_item_ids (`LongTensor` `[batch]` or `[batch, negatives]`, *optional*): items that the user did not choose.
            noise (`Tensor` `[2, num_layers, num_nodes, hidden_size]`, *optional*): uniform from 0 to 1; drawn by default.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`SimGCLOutput`].
        """
        embeds = self.embed_triples(user_ids, pos_item_ids, neg_item_ids)
        return self.compute_objective(embeds, return_loss, noise=noise)


@torch.no_grad()  # the sign has no gradient, and autograd need not find that out
def _displacement(x: Tensor, noise: Tensor, size: float) -> Tensor:
    lengths = torch.linalg.vector_norm(noise, dim=1, keepdim=True).clamp(min=1e-12)
    return x.sign().mul_(noise).mul_(size / lengths)


__all__ = ["SimGCLModel", "SimGCLOutput"]
