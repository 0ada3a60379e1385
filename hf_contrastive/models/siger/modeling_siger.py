"""SIGER, reconstructed: behaviour along the graph of users and items, semantics along graphs of items, aligned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hf_contrastive.distributed import broadcast_from_first
from hf_contrastive.families.recommender.item_features import HasItemFeatures
from hf_contrastive.families.recommender.modeling_recommender import (
    RecommenderModel,
    RecommenderOutput,
    contrast_nodes,
    global_unique,
)
from hf_contrastive.models.siger.configuration_siger import SIGERConfig
from hf_contrastive.modules.item_graph import ItemGraph, co_occurrence_graph, likeness_graph


@dataclass
class SIGEROutput(RecommenderOutput):
    """Output of SIGER on a batch of triples.

    Args:
        loss, bpr_loss, reg_loss, user_embeds, pos_item_embeds: as in [`RecommenderOutput`].
        perturbation_loss (`torch.FloatTensor`, scalar): contrast of noisy views, mean over modalities, without its weight.
        anchor_loss (`torch.FloatTensor`, scalar): modalities against behaviour, without its weight.
        fused_loss (`torch.FloatTensor`, scalar): behaviour against fused modalities, without its weight.
    """

    perturbation_loss: torch.Tensor | None = None
    anchor_loss: torch.Tensor | None = None
    fused_loss: torch.Tensor | None = None


class SIGERModel(HasItemFeatures, RecommenderModel):
    """SIGER (https://arxiv.org/abs/2508.06154), a reconstruction from the abstract that is not verified against the authors' code.

    Behaviour is a LightGCN on users and items. For every modality, item rows gated by the projected features go along a graph of
    items, a blend of likeness by features and of common users, and from there to the users. A learned softmax mixes the
    modalities; final vectors are behaviour plus mixture. Beside the pairwise loss: InfoNCE of two views whose noise is as long as
    a share of each row, alignment of every modality with behaviour as the anchor, and of behaviour with the mixture.

    Args:
        config ([`SIGERConfig`]): sizes, modalities, graphs and objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.siger.configuration_siger import SIGERConfig
    >>> from hf_contrastive.models.siger.modeling_siger import SIGERModel
    >>> model = SIGERModel(SIGERConfig(num_users=2, num_items=3, hidden_size=8, feature_dims={"audio": 5}))
    >>> model.set_interactions(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
    >>> model.set_features({"audio": torch.rand(3, 5)})
    >>> ids = torch.tensor([0, 1])
    >>> bool(model(user_ids=ids, pos_item_ids=ids, neg_item_ids=1 - ids).anchor_loss > 0)
    True

    ```
    """

    config: SIGERConfig
    output_class = SIGEROutput
    objective_formula = (
        "BPR + {perturbation_weight:g} x noisy views + {anchor_weight:g} x anchors + {fused_weight:g} x fusion, InfoNCE at "
        "temperature {temperature:g}, + {reg_weight:g} x penalty"
    )

    def build_parts(self) -> None:
        """Features (not trained), projections and gates of the modalities, and what mixes them."""
        config = self.config
        self.build_features()
        self.gates = nn.ModuleDict(
            {name: nn.Linear(config.hidden_size, config.hidden_size) for name in config.feature_dims}
        )
        self.mixer = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.Tanh(), nn.Linear(config.hidden_size, 1, bias=False)
        )
        self._keep_graphs(None)
        self.register_load_state_dict_post_hook(_forget_graphs)

    def _keep_graphs(self, graphs: dict[str, ItemGraph] | None) -> None:
        # no part of the module, like the graph of users and items
        object.__setattr__(self, "_item_graphs", graphs)

    def _frozen(self) -> list[nn.Module]:
        return [*super()._frozen(), self.features]

    def set_features(self, features: Mapping[str, Any]) -> None:
        """As of every recommender with features; the graphs of items are made anew."""
        super().set_features(features)
        self._keep_graphs(None)

    def set_interactions(self, users: Any, items: Any, **tokens: Any) -> None:
        """As of every recommender; the graphs of items are made anew."""
        super().set_interactions(users, items, **tokens)
        self._keep_graphs(None)

    def item_graphs(self) -> dict[str, ItemGraph]:
        """The blended graph of every modality, and `collaborative`; made once from features and training pairs."""
        graphs: dict[str, ItemGraph] | None = getattr(self, "_item_graphs", None)
        device = self.user_embedding.weight.device
        if graphs is None:
            config = self.config
            users, items = (ids.cpu() for ids in self.history.pairs())
            self.history.graph()  # says what to do where there are no pairs
            together = co_occurrence_graph(
                users,
                items,
                config.num_users,
                config.num_items,
                config.co_occurrence_neighbours,
                max_history=config.max_history,
            ).normalised()
            graphs = {"collaborative": together}
            for name in config.feature_dims:
                features = self.get_parameter(f"features.{name}.weight").detach().cpu()
                likeness = likeness_graph(
                    features, config.likeness_neighbours, binary=config.edge_weight == "binary"
                ).normalised()
                graphs[f"likeness.{name}"] = likeness
                graphs[f"blend.{name}"] = likeness.blend(together, config.collaborative_share)
        graphs = {name: graph.to(device) for name, graph in graphs.items()}
        self._keep_graphs(graphs)
        return graphs

    def behaviour(self) -> Tensor:
        """Means over the layers of the graph of users and items, `[num_nodes, hidden_size]`."""
        return self.mean_over_layers(self.config.num_layers)

    def semantics(self) -> dict[str, Tensor]:
        """By modality, what features make of the items and of their users, `[num_nodes, hidden_size]`."""
        graph, graphs, found = self.graph(), self.item_graphs(), {}
        table = self.item_embedding.weight
        for name in self.config.feature_dims:
            projected = self.projections[name](self.features[name].weight)
            rows = table * self.gates[name](projected).sigmoid()
            for _ in range(self.config.num_semantic_layers):
                rows = graphs[f"blend.{name}"].propagate(rows)
            nodes = torch.cat([rows.new_zeros(self.config.num_users, rows.shape[1]), rows])
            found[name] = torch.cat([self.split(graph.propagate(nodes))[0], rows])
        return found

    def mixture(self, semantics: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Modalities mixed node by node.

        Args:
            semantics (`dict[str, Tensor]`): of every modality.

        Returns:
            `(mixture [num_nodes, hidden_size], weights [num_nodes, modalities])`.
        """
        rows = torch.stack(list(semantics.values()), 1)
        weights = self.mixer(rows).squeeze(-1).softmax(1)
        return (weights[..., None] * rows).sum(1), weights

    def noisy_view(self, rows: Tensor, noise: Tensor) -> Tensor:
        """Rows moved by a share of their own length, in the quadrant they are in.

        Args:
            rows (`Tensor` `[num_nodes, hidden_size]`): of a modality.
            noise (`Tensor` `[num_nodes, hidden_size]`): uniform from 0 to 1.
        """
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True) if self.config.perturbation == "modulus" else 1.0
        with torch.no_grad():  # the sign has no gradient, and autograd need not find that out
            direction = rows.sign().mul_(normalize(noise, dim=1))
        return rows + self.config.noise_size * length * direction

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Behaviour plus mixture.

        Returns:
            `(users [num_users, hidden_size], items [num_items, hidden_size])`.
        """
        return self.split(self.behaviour() + self.mixture(self.semantics())[0])

    def propagate_in_training(self, noise: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The same, and what the contrasts compare."""
        behaviour, semantics = self.behaviour(), self.semantics()
        mixture, _ = self.mixture(semantics)
        parts = {"behaviour": self.split(behaviour), "semantics": semantics, "mixture": self.split(mixture)}
        return *self.split(behaviour + mixture), parts

    def loss_terms(
        self,
        terms: dict[str, Tensor],
        embeds: dict[str, Tensor],
        users: Tensor,
        items: Tensor,
        *,
        behaviour: tuple[Tensor, Tensor],
        semantics: dict[str, Tensor],
        mixture: tuple[Tensor, Tensor],
        noise: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Adds the three contrasts."""
        config = self.config
        sides = list(enumerate(("user_ids", "pos_item_ids")))
        perturbation = anchor = fused = users.new_zeros(())
        for name, rows in semantics.items():
            draw = (
                noise[name]
                if noise is not None
                else broadcast_from_first(torch.rand(2, *rows.shape, device=rows.device, dtype=rows.dtype))
            )
            first, second = (self.split(self.noisy_view(rows, one)) for one in draw)
            for side, ids in sides:
                perturbation = perturbation + contrast_nodes(
                    first[side], second[side], embeds[ids], config.temperature
                )
        by_side = [[self.split(rows)[side] for rows in semantics.values()] for side, _ in sides]
        for side, ids in sides:
            rows = behaviour[side].detach() if config.detach_anchor else behaviour[side]
            anchor = anchor + _anchor_contrast(
                rows, by_side[side], embeds[ids], config.temperature, joint=config.anchor_mode == "joint"
            )
            fused = fused + contrast_nodes(behaviour[side], mixture[side], embeds[ids], config.temperature)
        terms["perturbation_loss"] = perturbation / len(semantics)
        terms["anchor_loss"] = anchor
        terms["fused_loss"] = fused
        terms["loss"] = (
            terms["loss"]
            + config.perturbation_weight * terms["perturbation_loss"]
            + config.anchor_weight * anchor
            + config.fused_weight * fused
        )
        return terms

    def forward(
        self,
        user_ids: Tensor,
        pos_item_ids: Tensor | None = None,
        neg_item_ids: Tensor | None = None,
        noise: dict[str, Tensor] | None = None,
        return_loss: bool = True,
    ) -> RecommenderOutput:
        """Score triples.

        Args:
            user_ids (`LongTensor` `[batch]`): users; alone they have vectors and no loss.
            pos_item_ids (`LongTensor` `[batch]`, *optional*): an item of each that the user chose.
            neg_item_ids (`LongTensor` `[batch]` or `[batch, negatives]`, *optional*): items that the user did not choose.
            noise (`dict[str, Tensor]`, *optional*): by modality `[2, num_nodes, hidden_size]`, uniform from 0 to 1; drawn by
                default.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`SIGEROutput`].
        """
        embeds = self.embed_triples(user_ids, pos_item_ids, neg_item_ids)
        return self.compute_objective(embeds, return_loss, noise=noise)


def _forget_graphs(model: SIGERModel, incompatible_keys: Any) -> None:
    """Other features or pairs may have been loaded."""
    model._keep_graphs(None)


def _anchor_contrast(
    anchors: Tensor, modalities: list[Tensor], ids: Tensor, temperature: float, *, joint: bool
) -> Tensor:
    """InfoNCE of anchors against the modalities of the same nodes, in one softmax over all of them or in one for each."""
    if not joint:
        parts = [contrast_nodes(anchors, rows, ids, temperature) for rows in modalities]
        return torch.stack(parts).sum()
    nodes = global_unique(ids)
    unit = normalize(anchors[nodes], dim=1, eps=1e-12)
    logits = torch.stack([unit @ normalize(rows[nodes], dim=1, eps=1e-12).T for rows in modalities]) / temperature
    own = logits.diagonal(dim1=1, dim2=2).logsumexp(0)
    return (logits.logsumexp((0, 2)) - own).mean()


__all__ = ["SIGERModel", "SIGEROutput"]
