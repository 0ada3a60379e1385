"""CACR: far positives attract and close negatives repel, each by its distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.families.siamese.multi_crop import MultiCropMixin
from hf_contrastive.losses import CACRTerms, cacr_loss, cacr_momentum_loss, cacr_queue_loss
from hf_contrastive.losses._engine import accumulation_dtype
from hf_contrastive.models.cacr.configuration_cacr import CACRConfig
from hf_contrastive.modules.feature_queue import FeatureQueue
from hf_contrastive.modules.momentum_encoder import MomentumEncoder
from hf_contrastive.modules.projection_head import ProjectionHead
from hf_contrastive.outputs import ViewsOutput


@dataclass
class CACROutput(ViewsOutput):
    """Output of CACR.

    Args:
        loss (`torch.FloatTensor`, scalar): attraction + repulsion.
        attraction_loss (`torch.FloatTensor`, scalar): the weighted cost of positives.
        repulsion_loss (`torch.FloatTensor`, scalar): minus the weighted cost of negatives.
        positive_weights (`torch.FloatTensor` `[batch, anchors, others]`): how the attraction of an image's views is shared
            out. In the variants `"batch"` and `"queue"` of each view over the other views; in the variant `"momentum"` of
            each target over the other views and crops. Rows sum to 1.
        embeds, projections: as in [`ViewsOutput`].
    """

    attraction_loss: torch.Tensor | None = None
    repulsion_loss: torch.Tensor | None = None
    positive_weights: torch.Tensor | None = None


class CACRModel(SiameseModel):
    """CACR's backbone and projection head for inference; `encode` gives the features.

    Args:
        config ([`CACRConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import CACRConfig, CACRModel, ConvEncoderConfig
    >>> model = CACRModel(CACRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8]))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection").shape
    torch.Size([2, 8])

    ```
    """

    config: CACRConfig


class CACRForPreTraining(MultiCropMixin, SiameseForPreTraining):
    """CACR with its objective (https://arxiv.org/abs/2105.03746, equations 4 to 7), on any number of views from two.

    The variant `"momentum"` takes local crops beside the views. With the variants `"queue"` and `"momentum"` call
    `after_optimizer_step()` in a loop of your own: it moves the momentum encoder and fills the queue.

    Args:
        config ([`CACRConfig`]): backbone, head, variant, costs and weights.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import CACRConfig, CACRForPreTraining, ConvEncoderConfig
    >>> config = CACRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[8])
    >>> outputs = CACRForPreTraining(config)(torch.rand(4, 5, 3, 32, 32))
    >>> outputs.loss.backward()
    >>> outputs.positive_weights.shape
    torch.Size([4, 5, 4])

    ```
    """

    config: CACRConfig
    output_class = CACROutput
    objective_formula = (
        "CACR ({variant}, {cost}): {alpha:g} x cost of positives weighted by softmax({tau_pos:g} x squared distance) - "
        "{beta:g} x cost of negatives weighted by softmax(-{tau_neg:g} x squared distance)"
    )

    def build_training_parts(self) -> None:
        """Momentum encoder, queue and predictor, as the variant asks for."""
        config = self.config
        dims = config.projection_dims or [0]
        if config.variant == "batch":
            return
        parts = {"backbone": self.backbone, "projection_head": self.projection_head}
        self.momentum_encoder = MomentumEncoder(parts, config.encoder_momentum, config.momentum_schedule)
        if config.variant == "queue":
            self.queue = FeatureQueue(config.queue_size, dims[-1])
        else:
            self.predictor = ProjectionHead(
                dims[-1],
                config.predictor_dims or [dims[0], dims[-1]],
                batch_norm=config.projection_batch_norm,
                last_batch_norm=config.predictor_last_batch_norm,
            )

    def describe_objective(self) -> str:
        """One line with the values of this model's configuration."""
        if self.config.variant != "momentum":
            return super().describe_objective()
        return (
            f"CACR (momentum, {self.config.cost}): cost to the momentum key weighted by softmax(squared distance / "
            f"{self.config.temperature:g}) over the views, other keys of the batch repel"
        )

    def embed_views(
        self, pixel_values: torch.Tensor, local_pixel_values: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Features and projections of every view, and what the variant compares them with.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`): the views.
            local_pixel_values (`torch.FloatTensor` `[batch, crops, channels, height', width']`, *optional*): small crops, for
                the variant `"momentum"`.

        Returns:
            `projections` and `embeds` of the views; `keys` `[batch, views, projection_dim]` with the variant `"queue"`; with
            `"momentum"` `queries` `[batch, views + crops, projection_dim]` and `keys` `[batch, targets, projection_dim]`.

        Raises:
            ValueError: a wrong shape, or crops for a variant that does not take them.
        """
        if self.config.variant != "momentum":
            if local_pixel_values is not None:
                raise ValueError(
                    f"CACR takes `local_pixel_values` with variant='momentum' only, and the variant is "
                    f"{self.config.variant!r}; leave the crops out or change the variant."
                )
            found = super().embed_views(pixel_values)
            if self.config.variant == "queue":
                found["keys"] = self.embed_with_momentum(pixel_values, shuffle=self.config.shuffle_batch_norm)[1]
            return found
        found = super().embed_views(pixel_values, local_pixel_values)
        queries = [self._predict(found["projections"])]
        targets = pixel_values if self.config.all_targets else pixel_values[:, :2]
        keys = [self.embed_with_momentum(targets)[1]]
        local = found.pop("local_projections", None)
        if local is not None and local_pixel_values is not None:
            queries.append(self._predict(local))
            if self.config.all_targets:
                with torch.no_grad():
                    keys.append(self.embed_local_crops(local_pixel_values, self.momentum_encoder)[1])
        return {**found, "queries": torch.cat(queries, 1), "keys": torch.cat(keys, 1)}

    def _predict(self, projections: torch.Tensor) -> torch.Tensor:
        return self.predictor(projections.flatten(0, 1)).unflatten(0, projections.shape[:2])

    def check_views(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None = None) -> None:
        """Refuse too few views, or another number than the configuration says.

        Args:
            embeds (`dict`): what `embed_views` returns.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): as given.

        Raises:
            ValueError: says what to give.
        """
        views = embeds.get("queries", embeds["projections"]).shape[1]
        if embeds["projections"].shape[1] < self.min_views:
            raise ValueError(
                f"CACR needs at least 2 views per instance, `pixel_values` holds {embeds['projections'].shape[1]}; use a view "
                "transform with num_views=2 or more."
            )
        wanted = self.config.num_positives
        if wanted is not None and views != wanted + 1:
            raise ValueError(
                f"num_positives={wanted} asks for {wanted + 1} views of each image, the batch holds {views}; use a view "
                f"transform with num_views={wanted + 1}, or leave num_positives out."
            )

    def make_output(self, embeds: dict[str, torch.Tensor], terms: dict[str, torch.Tensor]) -> ViewsOutput:
        """The output with the positives' weights, with or without loss.

        Args:
            embeds (`dict`): what `embed_views` returns.
            terms (`dict`): what `loss_terms` returns; empty without loss.
        """
        projections, config = embeds["projections"], self.config
        if projections.shape[1] >= 2:
            if config.variant == "momentum":
                weights = _weights_of_others(embeds["keys"], embeds["queries"], 1 / config.temperature)
            else:
                weights = _weights_of_others(projections, embeds.get("keys", projections), config.tau_pos)
            terms = {**terms, "positive_weights": weights}
        return super().make_output(embeds, terms)

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Attraction and repulsion; keys of the last view wait for the end of the optimiser step to enter the queue."""
        config = self.config
        views = embeds["projections"].transpose(0, 1)
        factors: dict[str, Any] = {
            "alpha": config.alpha,
            "beta": config.beta,
            "sample_ids": sample_ids,
            "gather": True,
        }
        if config.variant == "batch":
            terms = cacr_loss(
                views,
                config.tau_pos,
                config.tau_neg,
                choice=config.choice,
                cost=config.cost,
                rbf_t=config.rbf_t,
                debiased=config.debiased,
                tau_plus=config.tau_plus,
                detach_weights=config.detach_weights,
                **factors,
            )
            return _named(terms)
        keys = embeds["keys"].detach().transpose(0, 1)
        if config.variant == "queue":
            queue = self.queue.rows()
            terms = cacr_queue_loss(
                views.to(queue.dtype),
                keys.to(queue.dtype),
                queue,
                config.tau_pos,
                config.tau_neg,
                in_batch_negatives=config.in_batch_negatives,
                queue_ids=None if sample_ids is None else self.queue.ids,
                **factors,
            )
            if self.training:
                self.queue.stage(keys[-1], sample_ids)
            return _named(terms)
        queries = embeds["queries"].transpose(0, 1)
        targets = []
        for number, key in enumerate(keys):
            others = torch.cat([queries[:number], queries[number + 1 :]])
            targets.append(
                cacr_momentum_loss(
                    others,
                    key.to(queries.dtype),
                    config.temperature,
                    cost=config.cost,
                    reduction=config.reduction,
                    sample_ids=sample_ids,
                    gather=True,
                )
            )
        attraction = config.alpha * torch.stack([terms.attraction for terms in targets]).mean()
        repulsion = config.beta * torch.stack([terms.repulsion for terms in targets]).mean()
        return {"loss": attraction + repulsion, "attraction_loss": attraction, "repulsion_loss": repulsion}

    def count_negatives(self, rows: int, views: int) -> int:
        """Other images of the batch, the queue, or both.

        Args:
            rows (`int`): rows of a global batch.
            views (`int`): views of each row that are compared.
        """
        if self.config.variant == "queue":
            return self.config.queue_size + (rows - 1 if self.config.in_batch_negatives else 0)
        return rows - 1

    def chance_loss(self, rows: int, views: int) -> float | None:
        """None where costs are distances: a model that tells nothing apart is at 0, which is no level to stay at.

        Args:
            rows (`int`): rows of a global batch.
            views (`int`): views of each row that are compared.
        """
        if self.config.variant == "momentum" and self.config.cost == "rbf" and self.config.reduction != "sum":
            return 2 * self.config.temperature * math.log(rows) if rows > 1 else None
        return None


def _named(terms: CACRTerms) -> dict[str, torch.Tensor]:
    return {"loss": terms.loss, "attraction_loss": terms.attraction, "repulsion_loss": terms.repulsion}


@torch.no_grad()
def _weights_of_others(anchors: torch.Tensor, others: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Of each anchor `[batch, A, dim]` over the views `[batch, V, dim]` but its own: `[batch, A, V - 1]`."""
    dtype = accumulation_dtype(anchors.dtype)
    a, b = (nn.functional.normalize(rows.to(dtype), dim=-1) for rows in (anchors, others))
    count, views = a.shape[1], b.shape[1]
    distances = torch.stack([(b - anchor[:, None]).square().sum(-1) for anchor in a.unbind(1)], 1)
    own = torch.eye(count, views, dtype=torch.bool, device=a.device)
    return (sharpness * distances[:, ~own].unflatten(1, (count, views - 1))).softmax(-1)


__all__ = ["CACRForPreTraining", "CACRModel", "CACROutput"]
