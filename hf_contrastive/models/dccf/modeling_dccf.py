"""DCCF: four views in every layer, of the graph, of intents, and of the graph with edges weighted by either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hf_contrastive.families.recommender.modeling_recommender import (
    RecommenderModel,
    RecommenderOutput,
    contrast_nodes,
)
from hf_contrastive.models.dccf.configuration_dccf import DCCFConfig


VIEWS = ("graph", "intent", "weighted_by_graph", "weighted_by_intent")


@dataclass
class DCCFOutput(RecommenderOutput):
    """Output of DCCF on a batch of triples.

    Args:
        loss, bpr_loss, reg_loss, user_embeds, pos_item_embeds: as in [`RecommenderOutput`].
        intent_reg_loss (`torch.FloatTensor`, scalar): squared norms of the prototypes, without their weight.
        contrastive_loss (`torch.FloatTensor`, scalar): sum over layers, views, users and items, without its weight.
    """

    intent_reg_loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None


class DCCFModel(RecommenderModel):
    """DCCF (https://arxiv.org/abs/2305.02759), in the form of the official code.

    With X_0 the tables, layer l makes four views: Z = A X_l along the graph; R, every row as a mixture of prototypes (weights:
    softmax of its products with them); and B and G, sums over the neighbours with weights that grow with the cosine of both
    ends' rows in Z and in R and add up to 1. X_(l+1) = Z + R + B + G + X_l; final vectors are the SUM of X_0 to X_L. InfoNCE
    pulls Z towards each of the others, over users and chosen items of the batch, in every layer.

    Args:
        config ([`DCCFConfig`]): sizes, layers, intents and objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.dccf.configuration_dccf import DCCFConfig
    >>> from hf_contrastive.models.dccf.modeling_dccf import DCCFModel
    >>> model = DCCFModel(DCCFConfig(num_users=2, num_items=3, hidden_size=8, num_intents=4))
    >>> model.set_interactions(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
    >>> ids = torch.tensor([0, 1])
    >>> bool(model(user_ids=ids, pos_item_ids=ids, neg_item_ids=1 - ids).contrastive_loss > 0)
    True

    ```
    """

    config: DCCFConfig
    output_class = DCCFOutput
    objective_formula = (
        "BPR + {contrastive_weight:g} x InfoNCE of the graph view against three others at temperature {temperature:g} + "
        "{reg_weight:g} x penalty + {intent_reg_weight:g} x squared prototypes"
    )

    def build_parts(self) -> None:
        """Prototypes, one a column."""
        size = (self.config.hidden_size, self.config.num_intents)
        self.user_intents = nn.Parameter(torch.empty(size))
        self.item_intents = nn.Parameter(torch.empty(size))

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DCCFModel):
            for prototypes in (module.user_intents, module.item_intents):
                init.xavier_normal_(prototypes)

    def layers(self) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Final vectors, and the views of every layer.

        Returns:
            `([num_nodes, hidden_size], [{view: [num_nodes, hidden_size]}])`.
        """
        graph, x = self.graph(), self.tables()
        total, views = x, []
        for _ in range(self.config.num_layers):
            plain = graph.propagate(x)
            users, items = self.split(x)
            intent = torch.cat([_mixture(users, self.user_intents), _mixture(items, self.item_intents)])
            found = {"graph": plain, "intent": intent}
            for name, rows in (("graph", plain), ("intent", intent)):
                found[f"weighted_by_{name}"] = graph.propagate(x, self.edge_weights(rows))
            x = plain + intent + found["weighted_by_graph"] + found["weighted_by_intent"] + x
            views.append(found)
            total = total + x
        return total, views

    def edge_weights(self, rows: Tensor) -> Tensor:
        """Weights of the edges from the likeness of both ends, adding up to 1 for every node.

        Args:
            rows (`Tensor` `[num_nodes, hidden_size]`): a view.

        Returns:
            `Tensor` `[num_edges]`.
        """
        graph = self.graph()
        likeness = graph.similarities(nn.functional.normalize(rows, dim=1))
        return graph.normalise_rows((likeness + 1) / 2)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Sums over the layers.

        Returns:
            `(users [num_users, hidden_size], items [num_items, hidden_size])`.
        """
        return self.split(self.layers()[0])

    def propagate_in_training(self) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The same, and the views that are contrasted."""
        total, views = self.layers()
        return *self.split(total), {"views": views}

    def loss_terms(
        self,
        terms: dict[str, Tensor],
        embeds: dict[str, Tensor],
        users: Tensor,
        items: Tensor,
        views: Sequence[Mapping[str, Tensor]] = (),
    ) -> dict[str, Tensor]:
        """Adds the contrast of the views and the norms of the prototypes."""
        config = self.config
        contrast = users.new_zeros(())
        for layer in views:
            anchors = self.split(layer["graph"])
            for name in VIEWS[1:]:
                others = self.split(layer[name])
                for side, ids in enumerate(("user_ids", "pos_item_ids")):
                    contrast = contrast + contrast_nodes(anchors[side], others[side], embeds[ids], config.temperature)
        terms["contrastive_loss"] = contrast
        terms["intent_reg_loss"] = self.user_intents.square().sum() + self.item_intents.square().sum()
        terms["loss"] = (
            terms["loss"]
            + config.contrastive_weight * terms["contrastive_loss"]
            + config.intent_reg_weight * terms["intent_reg_loss"]
        )
        return terms


def _mixture(rows: Tensor, prototypes: Tensor) -> Tensor:
    return (rows @ prototypes).softmax(1) @ prototypes.T


__all__ = ["VIEWS", "DCCFModel", "DCCFOutput"]
