"""SGL: two graphs with gaps, drawn anew every epoch, shall give the same vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_contrastive.distributed import get_world_size
from hf_contrastive.families.recommender.modeling_recommender import (
    RecommenderModel,
    RecommenderOutput,
    contrast_nodes,
    contrast_with_all,
)
from hf_contrastive.families.recommender.serving import Histories, fold_in_along_edges
from hf_contrastive.models.sgl.configuration_sgl import SGLConfig
from hf_contrastive.modules.keyed_random import KeyedDraws


@dataclass
class SGLOutput(RecommenderOutput):
    """Output of SGL on a batch of triples.

    Args:
        loss, bpr_loss, reg_loss, user_embeds, pos_item_embeds: as in [`RecommenderOutput`].
        contrastive_loss (`torch.FloatTensor`, scalar): of users and of items, without its weight.
    """

    contrastive_loss: torch.Tensor | None = None


class SGLModel(RecommenderModel):
    """SGL (https://arxiv.org/abs/2010.10783, equations 4 to 10).

    Vectors are those of a LightGCN. InfoNCE compares the vectors of two corrupted graphs, over the users and over the chosen
    items of the batch. What is left out depends on seed and epoch alone: call [`~SGLModel.draw_views`] at the beginning of every
    epoch in a loop of your own.

    Args:
        config ([`SGLConfig`]): sizes, layers, corruption and objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.sgl.configuration_sgl import SGLConfig
    >>> from hf_contrastive.models.sgl.modeling_sgl import SGLModel
    >>> model = SGLModel(SGLConfig(num_users=2, num_items=3, hidden_size=8))
    >>> model.set_interactions(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
    >>> model.draw_views(epoch=0)
    >>> ids = torch.tensor([0, 1])
    >>> bool(model(user_ids=ids, pos_item_ids=ids, neg_item_ids=1 - ids).contrastive_loss > 0)
    True

    ```
    """

    config: SGLConfig
    output_class = SGLOutput
    objective_formula = (
        "BPR + {contrastive_weight:g} x InfoNCE of two graphs with {augmentation} {dropout:g} at temperature {temperature:g} + "
        "{reg_weight:g} x penalty"
    )

    def build_parts(self) -> None:
        """No views yet."""
        self._views: list[list[Tensor]] = []

    def set_interactions(self, users: Any, items: Any, **tokens: Any) -> None:
        """As of every recommender; views are drawn anew."""
        super().set_interactions(users, items, **tokens)
        self._views = []

    def set_epoch(self, epoch: int) -> None:
        """The trainer calls this at the beginning of every epoch."""
        self.draw_views(epoch)

    @torch.no_grad()
    def draw_views(self, epoch: int = 0) -> None:
        """Draw what is left out of the two graphs of an epoch.

        Args:
            epoch (`int`, defaults to 0): its number.
        """
        config, graph = self.config, self.graph()
        rows, columns = graph.rows(), graph.columns
        # a pair is one edge in both directions: named by its place among the user's
        pair = torch.minimum(torch.arange(graph.num_edges, device=columns.device), graph.mirror)
        layers = config.num_layers if config.augmentation == "random_walk" else 1
        self._views = []
        for view in range(2):
            weights = []
            for layer in range(layers):
                names = (
                    torch.arange(graph.num_nodes, device=columns.device)
                    if config.augmentation == "node_dropout"
                    else pair
                )
                words = KeyedDraws(config.seed, epoch, names).words(2 * layer + view, torch.zeros_like(names[:1]))
                keep = words[:, 0].double() >= config.dropout * 2.0**62
                if config.augmentation == "node_dropout":
                    keep = keep[rows] & keep[columns]
                weights.append(graph.keep_edges(keep))
            self._views.append(weights * (config.num_layers // layers))

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Means over the layers of the whole graph.

        Returns:
            `(users [num_users, hidden_size], items [num_items, hidden_size])`.
        """
        return self.split(self.mean_over_layers(self.config.num_layers))

    def fold_in(self, histories: Sequence[Sequence[Any]] | Histories) -> Tensor:
        """As of every recommender; a new user is a node of the whole graph with edges to its items and a table row of zero."""
        return fold_in_along_edges(self, histories, self.config.num_layers)

    def _view(self, weights: Sequence[Tensor]) -> Tensor:
        """The mean over the layers of one graph, whose weights are the same in both directions."""
        if all(one is weights[0] for one in weights):
            return self.graph().mean_of_steps(self.tables(), len(weights), weights[0])
        return self.mean_over_layers(len(weights), weights)

    def loss_terms(
        self, terms: dict[str, Tensor], embeds: dict[str, Tensor], users: Tensor, items: Tensor, **draws: Any
    ) -> dict[str, Tensor]:
        """Adds the contrast of the two graphs."""
        config = self.config
        if not self._views:
            self.draw_views()
        views = [self.split(self._view(weights)) for weights in self._views]
        contrasts = []
        for side, name in enumerate(("user_ids", "pos_item_ids")):
            if config.negatives == "batch":
                contrasts.append(contrast_nodes(views[0][side], views[1][side], embeds[name], config.temperature))
            else:
                contrasts.append(
                    contrast_with_all(
                        views[0][side], views[1][side], embeds[name], config.temperature, config.reduction
                    )
                )
        terms["contrastive_loss"] = contrasts[0] + contrasts[1]
        if config.reduction == "sum":
            # averaged over the processes, it is the sum of the joined batch
            terms["bpr_loss"] = terms["bpr_loss"] * len(embeds["user_ids"]) * get_world_size()
            terms["contrastive_loss"] = terms["contrastive_loss"] * get_world_size()
        terms["loss"] = (
            terms["bpr_loss"]
            + config.reg_weight * terms["reg_loss"]
            + config.contrastive_weight * terms["contrastive_loss"]
        )
        return terms


__all__ = ["SGLModel", "SGLOutput"]
