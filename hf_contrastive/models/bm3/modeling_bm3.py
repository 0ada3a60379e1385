"""BM3: predictions of users, items and modalities against targets that dropout has thinned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_contrastive.distributed import broadcast_from_first
from hf_contrastive.families.recommender.item_features import HasItemFeatures
from hf_contrastive.families.recommender.modeling_recommender import RecommenderModel
from hf_contrastive.families.recommender.serving import Histories, fold_in_along_edges
from hf_contrastive.models.bm3.configuration_bm3 import BM3Config


@dataclass
class BM3Output(ModelOutput):
    """Output of BM3 on a batch of pairs.

    Args:
        loss (`torch.FloatTensor`, scalar): the objective; averaged over processes it is that of the joined batch.
        reconstruction_loss (`torch.FloatTensor`, scalar): users against their items and back.
        alignment_loss (`torch.FloatTensor`, scalar): modalities against the items, summed over modalities.
        masking_loss (`torch.FloatTensor`, scalar): modalities against themselves, summed over modalities.
        reg_loss (`torch.FloatTensor`, scalar): norms of all vectors over the number of items, without its weight.
        user_embeds (`torch.FloatTensor` `[batch, hidden_size]`): vectors of the users, before the predictor.
        pos_item_embeds (`torch.FloatTensor` `[batch, hidden_size]`): of the items.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    masking_loss: torch.Tensor | None = None
    reg_loss: torch.Tensor | None = None
    user_embeds: torch.Tensor | None = None
    pos_item_embeds: torch.Tensor | None = None


class BM3Model(HasItemFeatures, RecommenderModel):
    """BM3 (https://arxiv.org/abs/2207.05969).

    Vectors are means over the layers of a LightGCN; items add their table row once more. Predictions P(x) of users, items and
    projected features are compared, by the cosine, with targets without gradient: the vectors of the partner, the item's for
    its features, and the features themselves, all after dropout. Scores are products of predictions; features act through
    the training only.

    Args:
        config ([`BM3Config`]): sizes, modalities, layers and objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.bm3.configuration_bm3 import BM3Config
    >>> from hf_contrastive.models.bm3.modeling_bm3 import BM3Model
    >>> model = BM3Model(BM3Config(num_users=2, num_items=3, hidden_size=8, feature_dims={"audio": 5}))
    >>> model.set_interactions(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]))
    >>> model.set_features({"audio": torch.rand(3, 5)})
    >>> ids = torch.tensor([0, 1])
    >>> bool(model(user_ids=ids, pos_item_ids=ids).loss > 0)
    True

    ```
    """

    config: BM3Config
    has_negatives = False
    view_inputs = ("user_ids", "pos_item_ids")
    objective_formula = "1 - cosine of predictions and thinned targets, {modality_weight:g} x that of modalities + {reg_weight:g} x norms"

    def build_parts(self) -> None:
        """Predictor, and for every modality the items' features and their projection."""
        size = self.config.hidden_size
        self.predictor = nn.Linear(size, size)
        self.build_features()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.xavier_normal_(module.weight)

    def _frozen(self) -> list[nn.Module]:
        return [*super()._frozen(), *([self.features] if self.config.freeze_features else [])]

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Vectors before the predictor.

        Returns:
            `(users [num_users, hidden_size], items [num_items, hidden_size])`.
        """
        users, items = self.split(self.mean_over_layers(self.config.num_layers))
        return users, items + self.item_embedding.weight

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Predictions of all users and items, whose products are the scores.

        Returns:
            `(users [num_users, hidden_size], items [num_items, hidden_size])`.
        """
        users, items = self.nodes()
        return self.predictor(users), self.predictor(items)

    @torch.no_grad()
    def fold_in(self, histories: Sequence[Sequence[Any]] | Histories) -> Tensor:
        """As of every recommender; the prediction of a node with edges to the new user's items and a table row of zero."""
        return self.predictor(fold_in_along_edges(self, histories, self.config.num_layers))

    def embed_views(self, user_ids: Tensor, pos_item_ids: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """The numbers of a batch, checked.

        Args:
            user_ids (`LongTensor` `[batch]`), pos_item_ids (`LongTensor` `[batch]`): observed pairs.
        """
        return super().embed_views(user_ids, pos_item_ids, pos_item_ids)

    def compute_objective(
        self, embeds: dict[str, Tensor], return_loss: bool = True, keep_masks: Mapping[str, Tensor] | None = None
    ) -> BM3Output:
        """The objective over a batch of pairs.

        Args:
            embeds (`dict`): what `embed_views` returns.
            return_loss (`bool`, defaults to `True`): compute the loss.
            keep_masks (`Mapping[str, Tensor]`, *optional*): 1 for the numbers of a target that stay, `user` and `item` and every
                modality, over the whole tables; drawn by default.
        """
        users, items = self.nodes()
        user_ids = embeds["user_ids"]
        if "pos_item_ids" not in embeds:
            return BM3Output(user_embeds=users[user_ids])
        item_ids = embeds["pos_item_ids"]
        user, item = users[user_ids], items[item_ids]
        if not return_loss:
            return BM3Output(user_embeds=user, pos_item_embeds=item)
        projected = {name: self.projections[name](self.features[name].weight) for name in self.config.feature_dims}
        targets = self._thin({"user": users, "item": items, **projected}, keep_masks)
        user_target, item_target = targets["user"][user_ids], targets["item"][item_ids]
        reconstruction = _distance(self.predictor(user), item_target) + _distance(self.predictor(item), user_target)
        alignment = masking = reconstruction.new_zeros(())
        for name, rows in projected.items():
            predicted = self.predictor(rows[item_ids])
            alignment = alignment + _distance(predicted, item_target)
            masking = masking + _distance(predicted, targets[name][item_ids])
        norms = (torch.linalg.vector_norm(users) + torch.linalg.vector_norm(items)) / self.config.num_items
        loss = reconstruction + self.config.modality_weight * (alignment + masking) + self.config.reg_weight * norms
        return BM3Output(
            loss=loss,
            reconstruction_loss=reconstruction,
            alignment_loss=alignment,
            masking_loss=masking,
            reg_loss=norms,
            user_embeds=user,
            pos_item_embeds=item,
        )

    def _thin(self, tables: dict[str, Tensor], keep_masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Targets: without gradient, after dropout, the same on every process."""
        share, found = self.config.dropout, {}
        for name, table in tables.items():
            target = table.detach()
            if keep_masks is not None:
                target = target * keep_masks[name].to(target.dtype) / (1 - share)
            elif share > 0:
                keep = broadcast_from_first(torch.rand(target.shape, device=target.device)) >= share
                target = target * keep / (1 - share)
            found[name] = target
        return found

    def forward(  # type: ignore[override]
        self,
        user_ids: Tensor,
        pos_item_ids: Tensor | None = None,
        keep_masks: dict[str, Tensor] | None = None,
        return_loss: bool = True,
    ) -> BM3Output:
        """Compare observed pairs.

        Args:
            user_ids (`LongTensor` `[batch]`): users; alone they have vectors and no loss.
            pos_item_ids (`LongTensor` `[batch]`, *optional*): an item of each that the user chose.
            keep_masks (`dict[str, Tensor]`, *optional*): see `compute_objective`.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`BM3Output`].
        """
        if pos_item_ids is None:
            self._check_ids("user_ids", user_ids, self.config.num_users)
            return self.compute_objective({"user_ids": user_ids})
        return self.compute_objective(self.embed_views(user_ids, pos_item_ids), return_loss, keep_masks=keep_masks)


def _distance(predictions: Tensor, targets: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(predictions, targets, dim=-1, eps=1e-8).mean()


__all__ = ["BM3Model", "BM3Output"]
