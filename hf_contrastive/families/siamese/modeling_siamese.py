"""One backbone, one projection head, several views of each image."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from hf_contrastive.families.siamese.configuration_siamese import SiameseConfig, TemperatureConfig
from hf_contrastive.families.trained_backbones import fill_backbone, load_backbone, without_pooler
from hf_contrastive.losses import nt_xent, nt_xent_multi_view
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel
from hf_contrastive.modules.momentum_encoder import MomentumEncoder, shuffled_forward
from hf_contrastive.modules.pooling import pool_image
from hf_contrastive.modules.projection_head import ProjectionHead
from hf_contrastive.modules.training_state import TRAINING_PARTS
from hf_contrastive.outputs import EmbeddingOutput, ViewsOutput
from hf_contrastive.tensor_utils import fast_layout


class SiameseModel(ContrastivePreTrainedModel):
    """Backbone and projection head over single images; base of the systems' inference models.

    Args:
        config ([`SiameseConfig`]): backbone and head.
    """

    config: SiameseConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    view_inputs = ("pixel_values",)
    _keys_to_ignore_on_load_unexpected = [TRAINING_PARTS]

    def __init__(self, config: SiameseConfig) -> None:
        super().__init__(config)
        self.backbone = self.new_backbone()
        self.projection_head = ProjectionHead(
            config.embed_dim,
            config.projection_dims or [],
            batch_norm=config.projection_batch_norm,
            last_batch_norm=config.projection_last_batch_norm,
            last_bias=config.projection_last_bias,
            hidden_affine=config.projection_hidden_affine,
            hidden_bias=config.projection_hidden_bias,
        )
        hidden = [f"projection_{number + 1}" for number in range(len(config.projection_dims or []) - 1)]
        self.readouts = ("backbone", *hidden, "projection")
        self.build_training_parts()
        self.post_init()

    def new_backbone(self) -> nn.Module:
        """A backbone with random weights, as the configuration describes it."""
        backbone_config = cast(PreTrainedConfig, self.config.backbone_config)
        options = {} if self.config.pooling == "pooler" else without_pooler(backbone_config)
        return AutoModel.from_config(backbone_config, **options)

    def build_training_parts(self) -> None:
        """Predictors, momentum encoders, queues, banks, prototypes: nothing for inference."""

    @classmethod
    def from_backbone(cls, backbone: str | os.PathLike | nn.Module, **config_fields: Any) -> Any:
        """Build the model on a trained backbone: a folder or hub id of any transformers vision model, or the model.

        Args:
            backbone (`str`, `Path` or `PreTrainedModel`): what to start from.
            **config_fields: fields of the configuration other than `backbone_config`.

        Returns:
            The model, in training mode, with the backbone's weights and a new projection head.

        Raises:
            ValueError: the backbone lacks tensors that its configuration asks for; the first one is named.

        Example:

        ```python
        >>> from hf_contrastive import ConvEncoderConfig, ConvEncoderModel, SimCLRForPreTraining
        >>> encoder = ConvEncoderModel(ConvEncoderConfig(channels=[8, 16]))
        >>> SimCLRForPreTraining.from_backbone(encoder, projection_dims=[16, 8]).config.backbone_config.model_type
        'conv_encoder'

        ```
        """
        trained, missing = load_backbone(backbone, pooler=config_fields.get("pooling") == "pooler")
        model = cls(cls.config_class(backbone_config=trained.config, **config_fields))
        fill_backbone(model, trained, missing)
        return model.train()

    def pool(self, outputs: Any) -> torch.Tensor:
        """One vector per image from the backbone's output, as `config.pooling` says.

        Args:
            outputs (`ModelOutput`): of the backbone, with `last_hidden_state` as a map `[batch, dim, height, width]`
                or a sequence `[batch, positions, dim]`.

        Returns:
            `torch.Tensor` `[batch, dim]`.
        """
        return pool_image(outputs, self.config.pooling, type(self.backbone).__name__)

    def forward(self, pixel_values: torch.Tensor) -> EmbeddingOutput:
        """Features and projections of single images.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): images.

        Returns:
            [`EmbeddingOutput`] with `embeds`, `projections` and `last_hidden_state`.

        Raises:
            ValueError: images of another shape.
        """
        self._check(pixel_values, "[batch, channels, height, width]", 4)
        outputs = self.backbone(pixel_values=fast_layout(pixel_values))
        embeds = self.pool(outputs)
        return EmbeddingOutput(
            embeds=embeds,
            projections=self.projection_head(embeds),
            last_hidden_state=outputs.last_hidden_state,
        )

    def _check(self, pixel_values: torch.Tensor, expected: str, ndim: int, name: str = "pixel_values") -> None:
        if pixel_values.ndim != ndim:
            raise ValueError(f"`{name}` has shape {tuple(pixel_values.shape)}, expected {expected}.")
        channels = self.config.num_channels
        if pixel_values.shape[-3] != channels:
            raise ValueError(
                f"`{name}` has {pixel_values.shape[-3]} channels, but the backbone takes {channels}; convert the "
                f"images or set num_channels={pixel_values.shape[-3]} in `backbone_config`."
            )

    def _embed_for_encode(self, pixel_values: torch.Tensor, *, readout: str) -> torch.Tensor:
        self._check(pixel_values, "[batch, channels, height, width]", 4)
        embeds = self.pool(self.backbone(pixel_values=fast_layout(pixel_values)))
        number = self.readouts.index(readout)
        return embeds if number == 0 else self.projection_head(embeds, num_layers=number)


class SiameseForPreTraining(SiameseModel):
    """Several views of each image; base of the systems' classes with an objective.

    The objective is NT-Xent; a system with another one overrides `loss_terms` (and `output_class`, `objective_formula`,
    `has_negatives`). Parts for training only are made in `build_training_parts` under the names of `TRAINING_PARTS`.
    """

    objective_formula = (
        "NT-Xent: mean over anchors of -log softmax(cosine / {temperature:g}) at the other view of the same image"
    )
    output_class: type[ViewsOutput] = ViewsOutput
    #: views that the objective needs
    min_views: ClassVar[int] = 2
    #: whether all views go through the network at once, so that batch norm sees their joint statistics, or one by one
    joint_views: ClassVar[bool] = True
    _keys_to_ignore_on_load_unexpected = None
    _keys_to_ignore_on_load_missing = [TRAINING_PARTS]

    def embed_images(
        self,
        pixel_values: torch.Tensor,
        backbone: Callable[..., Any] | None = None,
        head: Callable[..., Any] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and projections of every view.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`): the views.
            backbone, head (`Callable`, *optional*): a momentum encoder's; the model's own by default.

        Returns:
            `(embeds [batch, views, dim], projections [batch, views, projection_dim])`.
        """
        backbone = self.backbone if backbone is None else backbone
        head = self.projection_head if head is None else head
        batch, views = pixel_values.shape[:2]
        if self.joint_views or views == 1:
            embeds = self.pool(backbone(pixel_values=fast_layout(pixel_values.flatten(0, 1))))
            return embeds.unflatten(0, (batch, views)), head(embeds).unflatten(0, (batch, views))
        embeds = [self.pool(backbone(pixel_values=fast_layout(view))) for view in pixel_values.unbind(1)]
        return torch.stack(embeds, 1), torch.stack([head(view) for view in embeds], 1)

    @torch.no_grad()
    def embed_with_momentum(
        self, pixel_values: torch.Tensor, shuffle: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and projections of every view by the momentum encoder, without gradient.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`): the views.
            shuffle (`bool`, defaults to `False`): shuffle the images over the processes (ShuffleBN).

        Returns:
            `(embeds [batch, views, dim], projections [batch, views, projection_dim])`.
        """
        slow = cast(MomentumEncoder, self.momentum_encoder)

        def run(images: torch.Tensor) -> torch.Tensor:
            return torch.cat(self.embed_images(images, slow.part("backbone"), slow.part("projection_head")), -1)

        joined = shuffled_forward(run, pixel_values) if shuffle and self.training else run(pixel_values)
        projection_dim = (self.config.projection_dims or [0])[-1]
        return joined[..., :-projection_dim], joined[..., -projection_dim:]

    def embed_views(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features and projections of every view.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`): the views.

        Returns:
            `{"projections": [batch, views, projection_dim], "embeds": [batch, views, dim]}`.
        """
        self._check(pixel_values, "[batch, views, channels, height, width]", 5)
        embeds, projections = self.embed_images(pixel_values)
        return {"projections": projections, "embeds": embeds}

    def compute_objective(
        self,
        embeds: dict[str, torch.Tensor],
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> ViewsOutput:
        """The objective over the views of the batch, gathered from all processes.

        Args:
            embeds (`dict`): what `embed_views` returns, for the whole batch.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): rows with the same id are never negatives.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`ViewsOutput`].
        """
        terms: dict[str, torch.Tensor] = {}
        if return_loss:
            self.check_views(embeds, sample_ids)
            terms = self.loss_terms(embeds, sample_ids)
        return self.make_output(embeds, terms)

    def check_views(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None = None) -> None:
        """Refuse too few views, and ids where nothing would read them.

        Args:
            embeds (`dict`): what `embed_views` returns.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): as given.

        Raises:
            ValueError: says what to give.
        """
        views = embeds["projections"].shape[1]
        if views < self.min_views:
            raise ValueError(
                f"`pixel_values` holds {views} view of each image, the objective compares at least {self.min_views}; use "
                f"a view transform with num_views={self.min_views}."
            )
        if sample_ids is not None and not self.has_negatives:
            raise ValueError(
                f"{type(self).__name__} has no negatives, so `sample_ids` would do nothing; leave it out."
            )

    def make_output(self, embeds: dict[str, torch.Tensor], terms: dict[str, torch.Tensor]) -> ViewsOutput:
        """The output: loss terms, and the embeddings that `output_class` has fields for.

        Args:
            embeds (`dict`): what `embed_views` returns.
            terms (`dict`): what `loss_terms` returns; empty without loss.
        """
        names = {field.name for field in dataclasses.fields(self.output_class)}
        return self.output_class(**{name: value for name, value in embeds.items() if name in names}, **terms)

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The loss, and its terms by name where it has several.

        Args:
            embeds (`dict`): what `embed_views` returns, of this process; enough views.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): rows with the same id are never negatives.

        Returns:
            `{"loss": scalar, ...}`, the fields of `output_class` beside the embeddings.
        """
        projections = embeds["projections"]
        config = cast(TemperatureConfig, self.config)
        options: dict[str, Any] = {"temperature": config.temperature, "sample_ids": sample_ids, "gather": True}
        if projections.shape[1] == 2:
            return {"loss": nt_xent(projections[:, 0], projections[:, 1], **options)}
        return {"loss": nt_xent_multi_view(projections, **options)}

    def count_negatives(self, rows: int, views: int) -> int:
        """Negatives of one anchor; read only where `has_negatives`.

        Args:
            rows (`int`): rows of a global batch.
            views (`int`): views of each row that are compared.
        """
        return views * (rows - 1)

    def chance_loss(self, rows: int, views: int) -> float | None:
        """Loss of a model that tells nothing apart, or `None` where there is no such level.

        Args:
            rows (`int`): rows of a global batch.
            views (`int`): views of each row that are compared.
        """
        return math.log(self.count_negatives(rows, views) + 1) if self.has_negatives else None

    def forward(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor],
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> ViewsOutput:
        """Embed views and compare them.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`, or a sequence of one tensor
                `[batch, channels, height, width]` per view): the views.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): rows with the same id are never negatives of each
                other (exact false-negative mask), for example labels or ids of duplicates.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`ViewsOutput`] with `loss`, `embeds` and `projections`.

        Raises:
            ValueError: a wrong shape, or fewer than two views.
        """
        if not isinstance(pixel_values, torch.Tensor):
            pixel_values = torch.stack(list(pixel_values), dim=1)
        return self.compute_objective(self.embed_views(pixel_values), sample_ids, return_loss)
