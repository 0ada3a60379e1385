"""One image encoder, one text encoder, one space."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers.utils import ModelOutput

from hf_contrastive.families.dual_encoder.configuration_dual_encoder import DualEncoderConfig
from hf_contrastive.families.dual_encoder.modeling_two_towers import TwoTowerModel, unit
from hf_contrastive.families.trained_backbones import fill_backbone, load_backbone
from hf_contrastive.losses import clip_loss
from hf_contrastive.modules.logit_scale import LogitScale
from hf_contrastive.modules.projection_head import ProjectionHead


@dataclass
class DualEncoderOutput(ModelOutput):
    """Output of a dual encoder over images, texts, or both.

    Args:
        loss (`torch.FloatTensor`, scalar): the objective; the mean over the pairs of this process.
        masked_negatives (`torch.FloatTensor`, scalar): pairs of this process with the id of a pair, which are not its negatives; a
            mean, only with `sample_ids`.
        image_embeds (`torch.FloatTensor` `[images, projection_dim]`): images in the common space, of length 1.
        text_embeds (`torch.FloatTensor` `[texts, projection_dim]`): texts in the common space, of length 1.
        logits_per_image (`torch.FloatTensor` `[images, texts]`): cosines divided by the temperature; of the inference model.
        logits_per_text (`torch.FloatTensor` `[texts, images]`): the same, turned over.
        image_features (`torch.FloatTensor` `[images, image_dim]`): pooled output of the image encoder.
        text_features (`torch.FloatTensor` `[texts, text_dim]`): pooled output of the text encoder.
    """

    loss: torch.Tensor | None = None
    masked_negatives: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    text_features: torch.Tensor | None = None


class DualEncoderModel(TwoTowerModel):
    """Image encoder, text encoder and their projections; base of the systems' inference models.

    Works in the pipelines `zero-shot-image-classification`, `image-feature-extraction` and `feature-extraction` of
    transformers.

    Args:
        config ([`DualEncoderConfig`]): encoders, pooling, common space.
    """

    config: DualEncoderConfig
    # a temperature in half precision would move in steps of a hundredth
    _keep_in_fp32_modules_strict = ["logit_scale"]

    def build_heads(self) -> None:
        """A projection from each encoder into the common space, and the temperature."""
        config = self.config
        self.image_projection = self.new_projection(config.image_dim)
        self.text_projection = self.new_projection(config.text_dim)
        self.logit_scale = (
            LogitScale(1 / config.temperature, config.max_logit_scale) if config.learn_temperature else None
        )

    def new_projection(self, in_dim: int) -> nn.Module:
        """A projection from an encoder's features into the common space.

        Args:
            in_dim (`int`): size of the features.
        """
        config = self.config
        sizes = [in_dim] * (config.projection_layers - 1) + [config.projection_dim]
        return ProjectionHead(in_dim, sizes, batch_norm=False, last_bias=config.projection_bias)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LogitScale):
            module.reset_parameters()

    # ---- Starting from trained encoders ----

    @classmethod
    def from_pair(cls, pretrained: str | os.PathLike | nn.Module, **config_fields: Any) -> Any:
        """Go on from a trained pair: a CLIP-like checkpoint of transformers (`CLIPModel`, `ChineseCLIPModel`,
        `VisionTextDualEncoderModel`), with its projections and temperature.

        Args:
            pretrained (`str`, `Path` or `PreTrainedModel`): the pair, for example `"openai/clip-vit-base-patch32"`.
            **config_fields: fields of the configuration other than those that the pair brings.

        Returns:
            The model, in training mode; its embeddings and logits are those of the pair.

        Raises:
            ValueError: a model that is no such pair, or projections that do not fit this system's.

        Example:

        ```python
        >>> from transformers import CLIPConfig, CLIPModel
        >>> from hf_contrastive import ClippingsForPreTraining
        >>> small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        >>> vision, text = {**small, "image_size": 16, "patch_size": 8}, {**small, "vocab_size": 40}
        >>> pair = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8))
        >>> ClippingsForPreTraining.from_pair(pair).config.projection_dim
        8

        ```
        """
        pair, missing = load_backbone(pretrained, pooler=True)
        parts = ("vision_model", "text_model", "visual_projection", "text_projection", "logit_scale")
        absent = [name for name in parts if getattr(pair, name, None) is None]
        if absent:
            raise ValueError(
                f"{type(pair).__name__} is no pair of encoders with projections and a temperature: it has no "
                f"{', '.join(absent)}. Give a CLIP-like model, or two encoders to from_towers."
            )
        if missing:
            raise ValueError(f"the given pair has no weights for {len(missing)} tensors, for example {missing[0]!r}.")
        fields = {
            "vision_config": pair.vision_model.config,
            "text_config": pair.text_model.config,
            "image_pooling": "pooler",
            "text_pooling": "pooler",
            "projection_dim": pair.visual_projection.weight.shape[0],
            **config_fields,
        }
        model = cls(cls.config_class(**fields))
        for part in ("vision_model", "text_model"):
            fill_backbone(model, getattr(pair, part), [], "pair", part)
        for mine, theirs in (("image_projection", pair.visual_projection), ("text_projection", pair.text_projection)):
            head = getattr(model, mine).state_dict()
            weights = dict(zip(head, theirs.state_dict().values(), strict=False))
            shapes = [[tuple(one.shape) for one in side.values()] for side in (head, theirs.state_dict())]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"the pair's {mine} has the shapes {shapes[1]}, this system's has {shapes[0]}; use from_towers, which makes "
                    "new projections."
                )
            getattr(model, mine).load_state_dict(weights)
        if model.logit_scale is not None:
            with torch.no_grad():
                model.logit_scale.log_scale.copy_(pair.logit_scale.detach())
        return model.train()

    # ---- Embedding ----

    def embed_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and projections of images.

        Args:
            pixel_values (`torch.FloatTensor` `[images, channels, height, width]`): images.

        Returns:
            `(features [images, image_dim], projections [images, projection_dim])`, neither normalised.

        Raises:
            ValueError: images of another shape.
        """
        features = self.image_features(pixel_values)
        return features, self.image_projection(features)

    def embed_texts(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and projections of texts.

        Args:
            input_ids (`torch.LongTensor` `[texts, tokens]`): tokens.
            attention_mask (`torch.LongTensor` `[texts, tokens]`, *optional*): 0 at padding; without it every token counts.
            token_type_ids (`torch.LongTensor` `[texts, tokens]`, *optional*): left out where the encoder has none.

        Returns:
            `(features [texts, text_dim], projections [texts, projection_dim])`, neither normalised.

        Raises:
            ValueError: a wrong shape, a text without tokens, or one that is longer than the encoder takes.
        """
        features = self.text_features(input_ids, attention_mask, token_type_ids)
        return features, self.text_projection(features)

    def scale(self) -> float | torch.Tensor:
        """1 / temperature, what cosines are multiplied by."""
        return 1 / self.config.temperature if self.logit_scale is None else self.logit_scale()

    def logits(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """`logits_per_image` and `logits_per_text` of embeddings of length 1.

        Args:
            image_embeds (`torch.Tensor` `[images, dim]`), text_embeds (`torch.Tensor` `[texts, dim]`): embeddings.
        """
        per_image = image_embeds @ text_embeds.T * self.scale()
        return {"logits_per_image": per_image, "logits_per_text": per_image.T}

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images in the common space `[images, projection_dim]`, not normalised."""
        return self.embed_images(pixel_values)[1]

    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Texts in the common space `[texts, projection_dim]`, not normalised."""
        return self.embed_texts(input_ids, attention_mask, token_type_ids)[1]

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> DualEncoderOutput:
        """Embeddings of images, of texts, or of both with their logits.

        Args:
            pixel_values (`torch.FloatTensor` `[images, channels, height, width]`, *optional*): images.
            input_ids (`torch.LongTensor` `[texts, tokens]`, *optional*): texts; any number of them.
            attention_mask, token_type_ids (`torch.LongTensor` `[texts, tokens]`, *optional*): of the texts.

        Returns:
            [`DualEncoderOutput`] without loss.

        Raises:
            ValueError: neither images nor texts, or a wrong shape.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError(
                f"{type(self).__name__} got neither `pixel_values` nor `input_ids`; give one of them, or both."
            )
        found: dict[str, torch.Tensor] = {}
        if pixel_values is not None:
            found["image_features"], projections = self.embed_images(pixel_values)
            found["image_embeds"] = unit(projections)
        if input_ids is not None:
            found["text_features"], projections = self.embed_texts(input_ids, attention_mask, token_type_ids)
            found["text_embeds"] = unit(projections)
        if "image_embeds" in found and "text_embeds" in found:
            found.update(self.logits(found["image_embeds"], found["text_embeds"]))
        return DualEncoderOutput(**found)

    def _embed_for_encode(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        *,
        readout: str,
    ) -> torch.Tensor:
        if (pixel_values is None) == (input_ids is None):
            raise ValueError(
                f"`encode` of a {type(self).__name__} takes images (`pixel_values`) or texts (`input_ids`), got "
                f"{'neither' if pixel_values is None else 'both'}; call it once for each."
            )
        if pixel_values is not None:
            features, projections = self.embed_images(pixel_values)
        else:
            features, projections = self.embed_texts(cast(torch.Tensor, input_ids), attention_mask, token_type_ids)
        return unit(projections) if readout == "projection" else features


class DualEncoderForPreTraining(DualEncoderModel):
    """Pairs of an image and a text; base of the systems' classes with an objective, by default CLIP's."""

    objective_formula = (
        "CLIP: mean over pairs of -log softmax(cosine / temperature, at first {temperature:g}) at the partner, images to texts "
        "and texts to images"
    )
    output_class: ClassVar[type[ModelOutput]] = DualEncoderOutput

    def embed_views(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Both sides of every pair, before normalisation.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): images.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`): their texts.

        Returns:
            `{"image_embeds", "text_embeds": [batch, projection_dim], "image_features", "text_features": [batch, size]}`.

        Raises:
            ValueError: as many images as texts are needed.
        """
        image_features, image_embeds = self.embed_images(pixel_values)
        if len(pixel_values) != len(input_ids):
            raise ValueError(
                f"{len(pixel_values)} images and {len(input_ids)} texts are no pairs; row i of `input_ids` belongs to row i of "
                "`pixel_values`. For a comparison of all with all use the class without ForPreTraining."
            )
        text_features, text_embeds = self.embed_texts(input_ids, attention_mask, token_type_ids)
        return {
            "image_embeds": image_embeds,
            "text_embeds": text_embeds,
            "image_features": image_features,
            "text_features": text_features,
        }

    def compute_objective(
        self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None = None, return_loss: bool = True
    ) -> Any:
        """The objective over the pairs of the batch, gathered from all processes.

        Args:
            embeds (`dict`): what `embed_views` returns, for the whole batch.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): pairs with the same id are never negatives of each other.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`DualEncoderOutput`], or the system's own.
        """
        terms = self.loss_terms(embeds, sample_ids) if return_loss else {}
        if return_loss and sample_ids is not None:
            # how many rows of the other side are left out of the sums, on average: looks at this process alone
            same = torch.unique(sample_ids, return_counts=True)[1].double()
            terms["masked_negatives"] = (same * (same - 1)).sum().float() / len(sample_ids)
        units = {name: unit(value) for name, value in embeds.items() if name.endswith("_embeds")}
        return self.output_class(**{**embeds, **units}, **terms)

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The loss, and its terms by name where it has several.

        Args:
            embeds (`dict`): what `embed_views` returns, of this process.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): pairs with the same id are never negatives.
        """
        loss = clip_loss(
            embeds["image_embeds"], embeds["text_embeds"], self.scale(), sample_ids=sample_ids, gather=True
        )
        return {"loss": loss}

    def count_negatives(self, rows: int, views: int) -> int:
        """Negatives of one anchor: the other side of the other pairs.

        Args:
            rows (`int`): pairs of a global batch.
            views (`int`): not read.
        """
        return rows - 1

    def chance_loss(self, rows: int, views: int) -> float | None:
        """Loss of a model that tells nothing apart.

        Args:
            rows (`int`): pairs of a global batch.
            views (`int`): not read.
        """
        return math.log(rows) if rows > 1 else None

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> Any:
        """Embed pairs and compare them.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): images.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`): their texts.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): pairs with the same id are never negatives of each other
                (exact false-negative mask), for example one id for all pairs with one caption.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`DualEncoderOutput`], or the system's own, without logits: the class without ForPreTraining gives those.

        Raises:
            ValueError: a wrong shape, a text without tokens.
        """
        embeds = self.embed_views(pixel_values, input_ids, attention_mask, token_type_ids)
        return self.compute_objective(embeds, sample_ids, return_loss)


__all__ = ["DualEncoderForPreTraining", "DualEncoderModel", "DualEncoderOutput"]
