"""MOFI: which entity an image shows, and which text belongs to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from hf_contrastive.families.dual_encoder.modeling_dual_encoder import (
    DualEncoderForPreTraining,
    DualEncoderModel,
    DualEncoderOutput,
)
from hf_contrastive.models.mofi.configuration_mofi import MofiConfig
from hf_contrastive.modules.class_matrix import ClassMatrix
from hf_contrastive.modules.training_state import TRAINING_PARTS


@dataclass
class MofiOutput(DualEncoderOutput):
    """Output of MOFI; what is not said here is as in [`DualEncoderOutput`].

    Args:
        classification_loss (`torch.FloatTensor`, scalar): the margin softmax over entities, before its weight; with several processes
            the share of this one, whose average is the mean over all labelled rows.
        contrastive_loss (`torch.FloatTensor`, scalar): the loss of images and texts, before its weight.
        entity_logits (`torch.FloatTensor` `[batch, candidates]`): scale * cosine of images and entities, without margin; only with
            `output_entity_logits`.
        entity_candidates (`torch.LongTensor` `[candidates]`): which entities these are; only with `output_entity_logits`.
    """

    classification_loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    entity_logits: torch.Tensor | None = None
    entity_candidates: torch.Tensor | None = None


class MofiModel(DualEncoderModel):
    """Image encoder, text encoder and their projections for inference; the vectors of entities are left aside.

    `encode(pixel_values)` and `encode(input_ids=..., attention_mask=...)` give embeddings that can be compared with each other;
    those of images are for image retrieval.

    Args:
        config ([`MofiConfig`]): encoders, pooling, common space.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ConvEncoderConfig, MofiConfig, MofiModel
    >>> text = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    >>> poolings = {"image_pooling": "mean", "text_pooling": "mean"}
    >>> config = MofiConfig(vision_config=ConvEncoderConfig(channels=[8, 16]), text_config=text, projection_dim=8, **poolings)
    >>> images = MofiModel(config).encode(torch.rand(3, 3, 16, 16))
    >>> (images @ images.T).shape  # cosines
    torch.Size([3, 3])

    ```
    """

    config: MofiConfig
    _keys_to_ignore_on_load_unexpected = [TRAINING_PARTS]


class MofiForPreTraining(DualEncoderForPreTraining):
    """MOFI with its objectives (https://arxiv.org/abs/2306.07952, section 4).

    With f(x) the embedding of an image of entity y, w_e the vector of entity e, s the scale and m the margin, an image costs

        -log( exp(s (cos(f(x), w_y) - m)) / ( exp(s (cos(f(x), w_y) - m)) + sum over e != y of exp(s cos(f(x), w_e)) ) ),

    where e goes through all entities, or those of the batch and others drawn at random. `"multitask"` adds CLIP's loss of images and
    texts: c * classification + (1 - c) * contrastive, on the same embeddings.

    Call `after_optimizer_step()` in a loop of your own: the draws of entities follow the number of steps.

    Args:
        config ([`MofiConfig`]): encoders, pooling, objective, number of entities.

    Raises:
        ValueError: an objective with entities and `num_entities=0`.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ConvEncoderConfig, MofiConfig, MofiForPreTraining
    >>> text = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    >>> options = {"image_pooling": "mean", "text_pooling": "mean", "num_entities": 10, "projection_dim": 8}
    >>> model = MofiForPreTraining(MofiConfig(vision_config=ConvEncoderConfig(channels=[8]), text_config=text, **options))
    >>> images, texts, labels = torch.rand(3, 3, 16, 16), torch.randint(2, 30, (3, 5)), torch.tensor([7, 2, -1])
    >>> outputs = model(images, texts, entity_labels=labels, output_entity_logits=True)
    >>> outputs.entity_logits.shape, bool(outputs.loss == (outputs.classification_loss + outputs.contrastive_loss) / 2)
    (torch.Size([3, 10]), True)

    ```
    """

    config: MofiConfig
    output_class = MofiOutput
    _keys_to_ignore_on_load_missing = [TRAINING_PARTS]
    objective_formula = "{objective}: {terms}"

    def build_heads(self) -> None:
        """Projections, temperature, and the vectors of the entities where the objective has them."""
        super().build_heads()
        config = self.config
        self.entity_head = None
        if config.objective == "contrastive":
            return
        if not config.num_entities:
            raise ValueError(
                f"`num_entities` is 0, but objective={config.objective!r} classifies entities; give the number of entities in the "
                "training data, or objective='contrastive'."
            )
        self.entity_head = ClassMatrix(
            config.num_entities, config.projection_dim, config.num_sampled_entities, config.sampling_seed
        )

    def save_pretrained(self, save_directory: Any, *args: Any, save_entity_head: bool = True, **kwargs: Any) -> None:
        """As [`~ContrastivePreTrainedModel.save_pretrained`].

        Args:
            save_directory (`str` or `Path`): target folder.
            save_entity_head (`bool`, defaults to `True`): also write the vectors of the entities, which only training needs and which
                can be larger than the model. Without them training goes on from new ones.
            *args, **kwargs: as there.
        """
        if not save_entity_head:
            state = kwargs.pop("state_dict", None)
            state = self.state_dict() if state is None else state
            kwargs["state_dict"] = {
                name: value for name, value in state.items() if not name.startswith("entity_head.")
            }
        super().save_pretrained(save_directory, *args, **kwargs)

    def describe_objective(self) -> str:
        """The objective with the values of this model's configuration."""
        config = self.config
        entities = (
            f"{self._candidates()} of {config.num_entities} entities"
            if self._candidates() < config.num_entities
            else ""
        )
        classification = (
            f"-log softmax({config.scale:g} * cosine, {config.margin:g} less at the right one) over "
            f"{entities or f'{config.num_entities} entities'}"
        )
        contrastive = (
            f"CLIP, -log softmax(cosine / temperature, at first {config.temperature:g}) at the partner, both ways"
        )
        share = config.classification_weight
        terms = {
            "supervised": classification,
            "contrastive": contrastive,
            "multitask": f"{share:g} * ({classification}) + {1 - share:g} * ({contrastive})",
        }
        return self.objective_formula.format(objective=config.objective, terms=terms[config.objective])

    def embed_views(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Images and, unless the objective is `"supervised"`, their texts, before normalisation.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): images.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`, *optional*): their texts.

        Returns:
            `{"image_embeds", "text_embeds": [batch, projection_dim], "image_features", "text_features": [batch, size]}`.

        Raises:
            ValueError: no texts where the objective needs them, or not as many as images.
        """
        if self.config.objective == "supervised":
            features, embeds = self.embed_images(pixel_values)
            return {"image_embeds": embeds, "image_features": features}
        if input_ids is None:
            raise ValueError(
                f"objective={self.config.objective!r} compares images with texts, but `input_ids` is not given; give texts, or train "
                "with objective='supervised'."
            )
        return super().embed_views(pixel_values, input_ids, attention_mask, token_type_ids)

    def compute_objective(
        self,
        embeds: dict[str, torch.Tensor],
        entity_labels: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
        entity_candidates: torch.Tensor | None = None,
        output_entity_logits: bool = False,
        return_loss: bool = True,
    ) -> Any:
        """The objective over the images of the batch, gathered from all processes.

        Args:
            embeds (`dict`): what `embed_views` returns, for the whole batch.
            entity_labels, sample_ids, entity_candidates, output_entity_logits, return_loss: as in `forward`.

        Returns:
            [`MofiOutput`].

        Raises:
            ValueError: labels that are missing while training, or out of range.
        """
        config = self.config
        contrastive = config.objective != "supervised"
        made = dict(
            super().compute_objective(embeds, sample_ids if contrastive else None, return_loss and contrastive)
        )
        images = embeds["image_embeds"]
        if contrastive and return_loss:
            made["contrastive_loss"] = made["loss"]
        head = self.entity_head
        if head is None:
            if output_entity_logits:
                raise ValueError(
                    "`output_entity_logits`: objective='contrastive' has no entities; leave it out, or train 'multitask'."
                )
        elif return_loss or output_entity_logits:
            labels = self._labels(entity_labels, images)
            candidates = head.draw(labels) if entity_candidates is None else entity_candidates
            if return_loss:
                scale, margin = float(config.scale), float(config.margin)
                found = head(images, labels, scale=scale, margin=margin, candidates=candidates)
                made["classification_loss"] = made["loss"] = found
                if contrastive:
                    share = config.classification_weight
                    made["loss"] = share * found + (1 - share) * made["contrastive_loss"]
            if output_entity_logits:
                made["entity_logits"] = config.scale * head.cosine(images, candidates)
                all_of_them = torch.arange(config.num_entities, device=images.device)
                made["entity_candidates"] = all_of_them if candidates is None else candidates
        return MofiOutput(**made)

    def _labels(self, entity_labels: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor:
        if entity_labels is not None:
            return entity_labels
        if self.training:
            raise ValueError(
                f"`entity_labels` is not given, but objective={self.config.objective!r} classifies entities; give one label an image, "
                "-1 for images without an entity."
            )
        return torch.full((len(images),), -1, device=images.device)

    def _candidates(self) -> int:
        """Entities in a softmax, where the batch holds no more."""
        config = self.config
        return min(config.num_sampled_entities or config.num_entities, config.num_entities)

    def count_negatives(self, rows: int, views: int) -> int:
        """Negatives of one image: other entities, and the texts of the other images.

        Args:
            rows (`int`): images of a global batch.
            views (`int`): not read.
        """
        entities = 0 if self.config.objective == "contrastive" else self._candidates() - 1
        return entities + (0 if self.config.objective == "supervised" else rows - 1)

    def chance_loss(self, rows: int, views: int) -> float | None:
        """Loss of a model for which all cosines are alike.

        Args:
            rows (`int`): images of a global batch.
            views (`int`): not read.
        """
        config = self.config
        contrastive = math.log(rows) if rows > 1 else 0.0
        if config.objective == "contrastive":
            return contrastive or None
        classification = math.log1p((self._candidates() - 1) * math.exp(config.scale * config.margin))
        if config.objective == "supervised":
            return classification
        share = config.classification_weight
        return share * classification + (1 - share) * contrastive

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        entity_labels: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
        entity_candidates: torch.Tensor | None = None,
        output_entity_logits: bool = False,
        return_loss: bool = True,
    ) -> MofiOutput:
        """Embed images with their texts, compare them with entities and with each other.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): images.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`, *optional*): their texts; not needed and
                not read with `objective="supervised"`.
            entity_labels (`torch.LongTensor` `[batch]`, *optional*): entity of each image, 0 to num_entities - 1, or -1 for an image
                without one, which is left out of the classification alone. In eval mode no labels mean -1 for all; not read with
                `objective="contrastive"`.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): pairs with the same id are never negatives of each other in the
                contrastive loss, for example the entity's number where texts are its name.
            entity_candidates (`torch.LongTensor` `[candidates]`, *optional*): entities to compare with, each once, those of the batch
                among them, the same on every process; instead of those that are drawn.
            output_entity_logits (`bool`, defaults to `False`): return `entity_logits` and `entity_candidates`.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`MofiOutput`], without logits of texts: the class without ForPreTraining gives those.

        Raises:
            ValueError: a wrong shape, a text without tokens, labels that are missing while training or out of range.
        """
        embeds = self.embed_views(pixel_values, input_ids, attention_mask, token_type_ids)
        return self.compute_objective(
            embeds, entity_labels, sample_ids, entity_candidates, output_entity_logits, return_loss
        )


__all__ = ["MofiForPreTraining", "MofiModel", "MofiOutput"]
