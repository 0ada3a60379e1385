"""CLIPPINGS: one vector for a record from its image and its text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch

from hf_contrastive.families.dual_encoder.modeling_dual_encoder import (
    DualEncoderForPreTraining,
    DualEncoderModel,
    DualEncoderOutput,
)
from hf_contrastive.families.dual_encoder.modeling_two_towers import IMAGE_INPUTS, TEXT_INPUTS, unit
from hf_contrastive.losses import pair_margin_loss, sup_con
from hf_contrastive.models.clippings.configuration_clippings import ClippingsConfig
from hf_contrastive.tensor_utils import pool_modalities


#: which rows have an image, and which a text
ROW_MASKS = ("has_image", "has_text")


@dataclass
class ClippingsOutput(DualEncoderOutput):
    """Output of CLIPPINGS; what is not said here is as in [`DualEncoderOutput`].

    Args:
        image_embeds (`torch.FloatTensor` `[images, projection_dim]`): of length 1; zeros for a record without an image.
        text_embeds (`torch.FloatTensor` `[texts, projection_dim]`): of length 1; zeros for a record without a text.
        pooled_embeds (`torch.FloatTensor` `[records, projection_dim]`): one vector of length 1 for each record; absent where the
            numbers of images and texts differ.
    """

    pooled_embeds: torch.Tensor | None = None


class _Pooling(DualEncoderModel):
    """What both classes share: records that lack a side, and their pooled embeddings."""

    config: ClippingsConfig
    view_inputs = (*IMAGE_INPUTS, *TEXT_INPUTS, *ROW_MASKS)

    def embed_sides(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Features and projections of the sides that are given; what is missing goes through no encoder.

        Args:
            pixel_values (`torch.FloatTensor` `[images, channels, height, width]`, *optional*): images.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[texts, tokens]`, *optional*): texts.
            has_image, has_text (bool `torch.Tensor` `[records]`, *optional*): False where a record lacks that side.

        Returns:
            `{"image_features", "image_embeds", "text_features", "text_embeds"}`, not normalised, zeros for a missing side; and the
            masks that were given.

        Raises:
            ValueError: neither images nor texts, or masks that do not fit.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError(
                f"{type(self).__name__} got neither `pixel_values` nor `input_ids`; give one of them, or both."
            )
        found: dict[str, torch.Tensor] = {}
        for side, main, mask in (("image", pixel_values, has_image), ("text", input_ids, has_text)):
            if main is None:
                if mask is not None and bool(mask.any()):
                    missing = "pixel_values" if side == "image" else "input_ids"
                    raise ValueError(f"`has_{side}` says that there are {side}s, but `{missing}` is not given.")
                continue
            if mask is not None and mask.shape != main.shape[:1]:
                raise ValueError(
                    f"`has_{side}` has shape {tuple(mask.shape)}, expected [{len(main)}], one entry for each record."
                )
            named = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
            parts = self.embed_rows(
                self.embed_images if side == "image" else self.embed_texts,
                {"pixel_values": pixel_values} if side == "image" else named,
                None if mask is None else mask.bool(),
                (getattr(self.config, f"{side}_dim"), self.config.projection_dim),
                self.image_projection if side == "image" else self.text_projection,
            )
            found[f"{side}_features"], found[f"{side}_embeds"] = parts
            if mask is not None:
                found[f"has_{side}"] = mask.bool()
        return found

    def pool(self, embeds: dict[str, torch.Tensor], image_weight: float | None = None) -> torch.Tensor | None:
        """The pooled embedding of every record (https://arxiv.org/abs/2304.03464): unit(w * image + (1 - w) * text).

        Args:
            embeds (`dict`): `image_embeds`, `text_embeds` of length 1, or one of them, and the masks `has_image`, `has_text`.
            image_weight (`float`, *optional*): w; the configuration's by default.

        Returns:
            `torch.Tensor` `[records, projection_dim]`, or `None` where the numbers of images and texts differ.

        Raises:
            ValueError: a weight outside 0 to 1, a record that has neither side.
        """
        weight = self.config.image_weight if image_weight is None else image_weight
        if not 0 <= weight <= 1:
            raise ValueError(f"image_weight must be in [0, 1], got {weight!r}.")
        images, texts = embeds.get("image_embeds"), embeds.get("text_embeds")
        if images is None or texts is None:
            side = "image" if texts is None else "text"
            own, mask = embeds[f"{side}_embeds"], embeds.get(f"has_{side}")
            if mask is not None and not bool(mask.all()):
                raise ValueError(
                    f"record {int((~mask).nonzero()[0])} has neither an image nor a text; leave it out of the batch."
                )
            return own
        if len(images) != len(texts):
            return None
        masks = {name: embeds.get(name) for name in ROW_MASKS}
        return pool_modalities(images, texts, float(weight), **masks)

    def _embed_for_encode(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        image_weight: float | None = None,
        *,
        readout: str,
    ) -> torch.Tensor:
        found = self.embed_sides(pixel_values, input_ids, attention_mask, token_type_ids, has_image, has_text)
        if readout == "backbone":
            both = [name for name in ("image_features", "text_features") if name in found]
            if len(both) == 2:
                raise ValueError(
                    f"`readout` is 'backbone', but {type(self).__name__} got images and texts, whose features have no common space; "
                    "call it once for each, or leave `readout` out."
                )
            return found[both[0]]
        pooled = self.pool(
            {name: unit(value) if name in _SIDES else value for name, value in found.items()}, image_weight
        )
        if pooled is None:
            raise ValueError(
                f"{len(found['image_embeds'])} images and {len(found['text_embeds'])} texts are no records; row i of `input_ids` "
                "belongs to row i of `pixel_values`. Call `encode` once for each to compare all with all."
            )
        return pooled


_SIDES = ("image_embeds", "text_embeds")


class ClippingsModel(_Pooling):
    """Image encoder, text encoder and their projections, and the pooled embedding of records, for inference.

    `encode(pixel_values, input_ids=..., attention_mask=...)` gives one vector for each record, `image_weight=...` sets the weight of
    its image; with images alone or texts alone the embeddings of these. `has_image` and `has_text` tell which records lack a side.

    Args:
        config ([`ClippingsConfig`]): encoders, common space, pooling.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ClippingsConfig, ClippingsModel, ConvEncoderConfig
    >>> text = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    >>> config = ClippingsConfig(
    ...     vision_config=ConvEncoderConfig(channels=[8, 16]), text_config=text, image_pooling="mean", text_pooling="mean"
    ... )
    >>> model = ClippingsModel(config)
    >>> images, texts = torch.rand(2, 3, 16, 16), torch.tensor([[2, 7, 9], [2, 5, 3]])
    >>> model.encode(images, input_ids=texts, image_weight=0.7).shape, model.encode(input_ids=texts).shape
    (torch.Size([2, 512]), torch.Size([2, 512]))

    ```
    """

    config: ClippingsConfig

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        image_weight: float | None = None,
    ) -> ClippingsOutput:
        """Embeddings of images, of texts, or of both with their logits and their pooled embeddings.

        Args:
            pixel_values (`torch.FloatTensor` `[images, channels, height, width]`, *optional*): images.
            input_ids (`torch.LongTensor` `[texts, tokens]`, *optional*): texts; any number of them.
            attention_mask, token_type_ids (`torch.LongTensor` `[texts, tokens]`, *optional*): of the texts.
            has_image, has_text (bool `torch.Tensor` `[records]`, *optional*): False where a record lacks that side; what stands in its
                place is not read.
            image_weight (`float`, *optional*): weight of the image in the pooled embedding; the configuration's by default.

        Returns:
            [`ClippingsOutput`] without loss.

        Raises:
            ValueError: neither images nor texts, a wrong shape, a weight outside 0 to 1, a record that has neither side.
        """
        found = self.embed_sides(pixel_values, input_ids, attention_mask, token_type_ids, has_image, has_text)
        units = {name: unit(value) if name in _SIDES else value for name, value in found.items()}
        pooled = self.pool(units, image_weight)
        if all(name in units for name in _SIDES):
            units.update(self.logits(units["image_embeds"], units["text_embeds"]))
        outputs = {name: value for name, value in units.items() if name not in ROW_MASKS}
        return ClippingsOutput(**outputs, pooled_embeds=pooled)


class ClippingsForPreTraining(_Pooling, DualEncoderForPreTraining):
    """CLIPPINGS with the objectives of its two stages (https://arxiv.org/abs/2304.03464, section 3).

    Stage 1, without labels: CLIP's loss over the (image, text) pairs. Stage 2, with labels: with image and text embeddings a_i, b_i
    of length 1, z_i = unit(w * a_i + (1 - w) * b_i) and P(i) the other records with the label of record i, the mean over the
    records that have such others (and cost more than 0, as in the official code) of

        -1/|P(i)| * sum over p in P(i) of log( exp(z_i z_p / T) / sum over k != i of exp(z_i z_k / T) );

    with `loss_type="contrastive"` the margins of [`pair_margin_loss`] on the z_i instead.

    Args:
        config ([`ClippingsConfig`]): encoders, common space, pooling, objective.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ClippingsConfig, ClippingsForPreTraining, ConvEncoderConfig
    >>> text = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    >>> config = ClippingsConfig(
    ...     vision_config=ConvEncoderConfig(channels=[8, 16]), text_config=text, image_pooling="mean", text_pooling="mean"
    ... )
    >>> model = ClippingsForPreTraining(config)
    >>> images, texts = torch.rand(4, 3, 16, 16), torch.randint(2, 30, (4, 5))
    >>> aligned = model(images, texts)  # stage 1
    >>> linked = model(images, texts, labels=torch.tensor([0, 0, 1, 1]), has_text=torch.tensor([True, True, True, False]))
    >>> aligned.loss.shape, linked.pooled_embeds.shape
    (torch.Size([]), torch.Size([4, 512]))

    ```
    """

    config: ClippingsConfig
    output_class = ClippingsOutput
    objective_formula = (
        "with labels, {second}, on z = unit({image_weight:g} * image + (1 - {image_weight:g}) * text); without labels, CLIP: mean over "
        "pairs of -log softmax(cosine / temperature, at first {temperature:g}) at the partner, both ways"
    )

    def describe_objective(self) -> str:
        """The objective of both stages with the values of this model's configuration."""
        config = self.config
        second = f"supervised contrastive loss at temperature {config.supcon_temperature:g}"
        if config.loss_type == "contrastive":
            second = f"pairs of one label closer than {config.pos_margin:g}, others farther than {config.neg_margin:g}"
        fields = {name: getattr(config, name) for name in config.to_dict()}
        return self.objective_formula.format(**fields, second=second)

    def embed_views(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The sides of every record, before normalisation; see [`~ClippingsModel.embed_sides`].

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`, *optional*): images.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`, *optional*): their texts.
            has_image, has_text (bool `torch.Tensor` `[batch]`, *optional*): False where a record lacks that side.

        Raises:
            ValueError: neither images nor texts, or not as many images as texts.
        """
        found = self.embed_sides(pixel_values, input_ids, attention_mask, token_type_ids, has_image, has_text)
        if pixel_values is not None and input_ids is not None and len(pixel_values) != len(input_ids):
            raise ValueError(
                f"{len(pixel_values)} images and {len(input_ids)} texts are no records; row i of `input_ids` belongs to row i of "
                "`pixel_values`. For a comparison of all with all use the class without ForPreTraining."
            )
        return found

    def compute_objective(
        self,
        embeds: dict[str, torch.Tensor],
        labels: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> Any:
        """The objective over the records of the batch, gathered from all processes.

        Args:
            embeds (`dict`): what `embed_views` returns, for the whole batch.
            labels (`torch.LongTensor` `[batch]`, *optional*): what each record is; with them the second stage.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): in the first stage, pairs with the same id are never negatives of
                each other. In the second the labels say that, and ids are not read.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`ClippingsOutput`].

        Raises:
            ValueError: in the first stage, a record that is no pair.
        """
        units = {name: unit(value) if name in _SIDES else value for name, value in embeds.items()}
        pooled = self.pool(units)
        terms: dict[str, torch.Tensor] = {}
        if return_loss and labels is not None:
            terms["loss"] = self.pooled_loss(cast(torch.Tensor, pooled), labels)
        elif return_loss:
            self._require_pairs(embeds)
            # of the family: CLIP's loss, and how many rows the ids leave out
            found = super().compute_objective(
                {name: value for name, value in embeds.items() if name not in ROW_MASKS}, sample_ids
            )
            terms = {name: found[name] for name in ("loss", "masked_negatives") if name in found}
        outputs = {name: value for name, value in units.items() if name not in ROW_MASKS}
        return ClippingsOutput(**outputs, pooled_embeds=pooled, **terms)

    def _require_pairs(self, embeds: dict[str, torch.Tensor]) -> None:
        for side in ("image", "text"):
            if f"{side}_embeds" not in embeds:
                raise ValueError(
                    f"without `labels` images are aligned with texts, and there is no {side}; give both, or `labels` to train on pooled "
                    "embeddings."
                )
            mask = embeds.get(f"has_{side}")
            if mask is not None and not bool(mask.all()):
                raise ValueError(
                    f"without `labels` images are aligned with texts, and record {int((~mask).nonzero()[0])} has no {side}; leave such "
                    "records out of the first stage."
                )

    def pooled_loss(self, pooled_embeds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of the second stage, over the records of all processes.

        Args:
            pooled_embeds (`torch.Tensor` `[batch, projection_dim]`): of length 1.
            labels (`torch.LongTensor` `[batch]`): what each record is.
        """
        config = self.config
        if config.loss_type == "contrastive":
            near, far = float(config.pos_margin), float(config.neg_margin)
            return pair_margin_loss(pooled_embeds, labels, pos_margin=near, neg_margin=far, gather=True)
        temperature = float(config.supcon_temperature)
        return sup_con(pooled_embeds, labels, temperature, mean_of_nonzero=True, gather=True)

    def chance_loss(self, rows: int, views: int) -> float | None:
        """Loss of a model that tells nothing apart; of margins there is no such level.

        Args:
            rows (`int`): records of a global batch.
            views (`int`): not read.
        """
        return math.log(rows) if rows > 1 and self.config.loss_type == "supcon" else None

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> ClippingsOutput:
        """Embed records and compare them: without labels images with texts, with labels the pooled embeddings.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`, *optional*): images.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`, *optional*): their texts.
            labels (`torch.LongTensor` `[batch]`, *optional*): what each record is (a firm, a photo); any integers.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): without labels, pairs with the same id are never negatives of each
                other (exact false-negative mask), for example one id for all pairs with one text.
            has_image, has_text (bool `torch.Tensor` `[batch]`, *optional*): False where a record lacks that side: the weight of the
                image is then 0 or 1 for this record. What stands in its place is not read.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`ClippingsOutput`], without logits: the class without ForPreTraining gives those.

        Raises:
            ValueError: a wrong shape, a text without tokens, a record that has neither side, or, without labels, lacks one.
        """
        embeds = self.embed_views(pixel_values, input_ids, attention_mask, token_type_ids, has_image, has_text)
        return self.compute_objective(embeds, labels, sample_ids, return_loss)


__all__ = ["ClippingsForPreTraining", "ClippingsModel", "ClippingsOutput"]
