"""One vector for a logo from its picture and the text that was read in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.utils import ModelOutput

from hf_contrastive.distributed import all_gather_no_grad
from hf_contrastive.families.dual_encoder.modeling_two_towers import IMAGE_INPUTS, TEXT_INPUTS, TwoTowerModel, unit
from hf_contrastive.losses import sup_con, triplet_margin_loss
from hf_contrastive.models.logo.configuration_logo import LogoConfig


@dataclass
class LogoOutput(ModelOutput):
    """Output of the logo encoder.

    Args:
        loss (`torch.FloatTensor`, scalar): the objective; the mean over the views of this process.
        embeds (`torch.FloatTensor` `[batch, projection_dim]`): logos, of length 1.
        fused_input (`torch.FloatTensor` `[batch, image_dim + text_dim]`): what the embedding is made of: image and text features, each
            of length 1; zeros in place of a text that is not there.
        image_features (`torch.FloatTensor` `[batch, image_dim]`): pooled output of the image encoder.
        text_features (`torch.FloatTensor` `[batch, text_dim]`): pooled output of the text encoder; zeros without a text.
    """

    loss: torch.Tensor | None = None
    embeds: torch.Tensor | None = None
    fused_input: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    text_features: torch.Tensor | None = None


def fuse_features(
    image_features: torch.Tensor, text_features: torch.Tensor, has_text: torch.Tensor | None = None
) -> torch.Tensor:
    """Both features of every logo side by side, each scaled to length 1; zeros for a text that is not there.

    Args:
        image_features (`torch.Tensor` `[batch, image_dim]`): of the pictures.
        text_features (`torch.Tensor` `[batch, text_dim]`): of the texts.
        has_text (`torch.Tensor` `[batch]`, *optional*): 0 or False where no text was read.

    Returns:
        `torch.Tensor` `[batch, image_dim + text_dim]`.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.models.logo.modeling_logo import fuse_features
    >>> fuse_features(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0]))
    tensor([[0.6000, 0.8000, 0.0000, 0.0000]])

    ```
    """
    texts = unit(text_features)
    if has_text is not None:
        texts = torch.where(has_text.bool()[:, None], texts, 0.0)
    return torch.cat([unit(image_features), texts], dim=1)


class LogoModel(TwoTowerModel):
    """Image encoder, text encoder and their fusion, for inference.

    With v and t the features of picture and text, each scaled to length 1 (t = 0 where no text was read), the embedding is
    unit(W2 relu(W1 [v, t] + b1) + b2).

    `encode(pixel_values, input_ids=..., attention_mask=...)` gives one vector for each logo; without texts that of the pictures
    alone. A text is not there where `has_text` is False or its `attention_mask` is zero throughout.

    Args:
        config ([`LogoConfig`]): encoders, fusion.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, LogoConfig, LogoModel
    >>> model = LogoModel(LogoConfig(vision_config=ConvEncoderConfig(channels=[8, 16])))
    >>> pictures, texts = torch.rand(2, 3, 16, 16), torch.tensor([[5, 9, 12], [6, 0, 0]])
    >>> model.encode(pictures, input_ids=texts, attention_mask=(texts > 0).long()).shape, model.encode(pictures).shape
    (torch.Size([2, 128]), torch.Size([2, 128]))

    ```
    """

    config: LogoConfig
    view_inputs = (*IMAGE_INPUTS, *TEXT_INPUTS, "has_text")

    def build_heads(self) -> None:
        """The fusion of both features into the embedding."""
        config = self.config
        self.fusion = nn.Sequential(
            nn.Linear(config.image_dim + config.text_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.projection_dim),
        )

    def _frozen(self) -> list[nn.Module]:
        # an encoder that is not run gets no gradient: DistributedDataParallel would wait for it
        unused = {"image": [self.text_model], "text": [self.vision_model]}.get(self.config.modalities, [])
        return [*super()._frozen(), *unused]

    def fuse(
        self, image_features: torch.Tensor, text_features: torch.Tensor, has_text: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From the features of pictures and texts to embeddings.

        Args:
            image_features (`torch.Tensor` `[batch, image_dim]`): of the pictures.
            text_features (`torch.Tensor` `[batch, text_dim]`): of the texts.
            has_text (`torch.Tensor` `[batch]`, *optional*): 0 or False where no text was read.

        Returns:
            `(fused [batch, image_dim + text_dim], embeddings [batch, projection_dim])`, the embeddings not yet of length 1.
        """
        fused = fuse_features(image_features, text_features, has_text)
        return fused, self.fusion(fused.to(next(self.fusion.parameters()).dtype))

    def embed_logos(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Features, what is fused, and embeddings before they are normalised.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): pictures; may lack with `modalities="text"`.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`, *optional*): texts that were read.
            has_text (bool `torch.Tensor` `[batch]`, *optional*): False where no text was read. What stands in its place is not read.

        Returns:
            `{"embeds": [batch, projection_dim], "fused_input", "image_features", "text_features"}`.

        Raises:
            ValueError: what `modalities` asks for lacks, or not as many texts as pictures.
        """
        modalities = self.config.modalities
        needed = {"image": pixel_values, "both": pixel_values, "text": input_ids}[modalities]
        if needed is None:
            name = "input_ids" if modalities == "text" else "pixel_values"
            raise ValueError(
                f"{type(self).__name__} with modalities={modalities!r} needs `{name}`, which is not given."
            )
        count, device = len(needed), needed.device
        weight = next(self.fusion.parameters())
        if modalities == "text":
            images = weight.new_zeros(count, self.config.image_dim)
        else:
            assert pixel_values is not None
            images = self.image_features(pixel_values)
        rows = torch.zeros(count, dtype=torch.bool, device=device)
        texts = weight.new_zeros(count, self.config.text_dim)
        if input_ids is not None and modalities != "image":
            rows = self._rows_with_text(input_ids, attention_mask, has_text, count)
            named = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
            (texts,) = self.embed_rows(
                lambda **given: [self.text_features(**given)], named, rows, (self.config.text_dim,), self.fusion
            )
        fused, embeds = self.fuse(images, texts, rows)
        return {"embeds": embeds, "fused_input": fused, "image_features": images, "text_features": texts}

    @staticmethod
    def _rows_with_text(
        input_ids: torch.Tensor, attention_mask: torch.Tensor | None, has_text: torch.Tensor | None, count: int
    ) -> torch.Tensor:
        if len(input_ids) != count:
            raise ValueError(
                f"{count} pictures and {len(input_ids)} texts are no logos; row i of `input_ids` belongs to row i of `pixel_values`, "
                "and `has_text` says where no text was read."
            )
        rows = torch.ones(count, dtype=torch.bool, device=input_ids.device)
        if has_text is not None:
            if has_text.shape != (count,):
                raise ValueError(
                    f"`has_text` has shape {tuple(has_text.shape)}, expected [{count}], one entry for each logo."
                )
            rows = has_text.bool()
        return rows if attention_mask is None else rows & attention_mask.bool().any(1)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
    ) -> LogoOutput:
        """Embeddings of logos.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): pictures; may lack with `modalities="text"`.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`, *optional*): texts that were read.
            has_text (bool `torch.Tensor` `[batch]`, *optional*): False where no text was read; a row whose mask is zero throughout has
                none either.

        Returns:
            [`LogoOutput`] without loss.

        Raises:
            ValueError: no pictures, a wrong shape, not as many texts as pictures.
        """
        found = self.embed_logos(pixel_values, input_ids, attention_mask, token_type_ids, has_text)
        return LogoOutput(**{**found, "embeds": unit(found["embeds"])})

    def _embed_for_encode(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        *,
        readout: str,
    ) -> torch.Tensor:
        if readout == "backbone":
            if pixel_values is None:
                raise ValueError(
                    "`readout` is 'backbone', the features of the picture, but `pixel_values` is not given."
                )
            return self.image_features(pixel_values)
        return unit(self.embed_logos(pixel_values, input_ids, attention_mask, token_type_ids, has_text)["embeds"])


class LogoForPreTraining(LogoModel):
    """The logo encoder with its objective over all views of a batch (https://arxiv.org/abs/2211.12926).

    With z_i the embeddings of the views, of length 1, and P(i) the other views of the brand of view i, the mean over the views with
    such others of

        -1/|P(i)| * sum over p in P(i) of log( exp(z_i z_p / T) / sum over k != i of exp(z_i z_k / T) );

    with two views for each brand this is SimCLR's NT-Xent. `loss_type="triplet"` takes [`triplet_margin_loss`] instead.

    Args:
        config ([`LogoConfig`]): encoders, fusion, objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, LogoConfig, LogoForPreTraining
    >>> model = LogoForPreTraining(LogoConfig(vision_config=ConvEncoderConfig(channels=[8, 16])))
    >>> texts = torch.tensor([[5, 9, 12], [6, 0, 0], [5, 9, 13], [0, 0, 0]])
    >>> outputs = model(torch.rand(4, 3, 16, 16), texts, (texts > 0).long(), labels=torch.tensor([3, 8, 3, 8]))
    >>> outputs.loss.shape, outputs.embeds.shape
    (torch.Size([]), torch.Size([4, 128]))

    ```
    """

    objective_formula = "{objective} over the views of brands; picture and text fused ({modalities})"
    output_class: ClassVar[type[ModelOutput]] = LogoOutput

    def describe_objective(self) -> str:
        """The objective with the values of this model's configuration."""
        config = self.config
        objective = f"supervised contrastive loss at temperature {config.temperature:g}"
        if config.loss_type == "triplet":
            objective = f"triplet loss with margin {config.triplet_margin:g}"
        return self.objective_formula.format(objective=objective, modalities=config.modalities)

    def embed_views(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Every view before normalisation; see [`~LogoModel.embed_logos`].

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): pictures.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`, *optional*): their texts.
            has_text (bool `torch.Tensor` `[batch]`, *optional*): False where no text was read.
        """
        return self.embed_logos(pixel_values, input_ids, attention_mask, token_type_ids, has_text)

    def compute_objective(
        self, embeds: dict[str, torch.Tensor], labels: torch.Tensor | None = None, return_loss: bool = True
    ) -> LogoOutput:
        """The objective over the views of the batch, gathered from all processes.

        Args:
            embeds (`dict`): what `embed_views` returns, for the whole batch.
            labels (`torch.LongTensor` `[batch]`): the brand of each view.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`LogoOutput`].

        Raises:
            ValueError: a loss without `labels`, or no brand with two views.
        """
        logos = unit(embeds["embeds"])
        loss = self.brand_loss(logos, labels) if return_loss else None
        return LogoOutput(**{**embeds, "embeds": logos}, loss=loss)

    def brand_loss(self, logos: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """The loss over the views of all processes.

        Args:
            logos (`torch.Tensor` `[batch, projection_dim]`): of length 1.
            labels (`torch.LongTensor` `[batch]`): the brand of each view.

        Raises:
            ValueError: no labels, or no brand with two views.
        """
        if labels is None:
            raise ValueError(
                "`labels`, the brand of each view, is not given; the loss needs it (return_loss=False gives embeddings alone)."
            )
        # of all processes, so that all of them stop
        everyone = all_gather_no_grad(labels)
        if len(everyone.unique()) == len(everyone):
            raise ValueError(
                f"no brand in this batch has two views ({len(everyone)} views of as many brands), so there is nothing to learn from; "
                "draw batches with two rows or more of each brand, for example with MPerClassBatchSampler(m=2)."
            )
        if self.config.loss_type == "triplet":
            return triplet_margin_loss(logos, labels, margin=float(self.config.triplet_margin), gather=True)
        return sup_con(logos, labels, float(self.config.temperature), gather=True)

    def chance_loss(self, rows: int, views: int) -> float | None:
        """Loss of a model that tells nothing apart; of the triplet loss it is the margin.

        Args:
            rows (`int`): views of a global batch.
            views (`int`): not read.
        """
        if self.config.loss_type == "triplet":
            return float(self.config.triplet_margin)
        return math.log(rows - 1) if rows > 2 else None

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> Any:
        """Embed views of logos and compare them.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): pictures, for example two of each brand.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`, *optional*): texts that were read.
            has_text (bool `torch.Tensor` `[batch]`, *optional*): False where no text was read; a row whose mask is zero throughout has
                none either.
            labels (`torch.LongTensor` `[batch]`): the brand of each view; any integers.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`LogoOutput`].

        Raises:
            ValueError: a wrong shape, a loss without `labels`, or no brand with two views.
        """
        embeds = self.embed_views(pixel_values, input_ids, attention_mask, token_type_ids, has_text)
        return self.compute_objective(embeds, labels, return_loss)


__all__ = ["LogoForPreTraining", "LogoModel", "LogoOutput", "fuse_features"]
