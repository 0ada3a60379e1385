"""SurgVLP: clips of narrated videos and the texts of two speech recognisers in one space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from hf_contrastive.families.dual_encoder.modeling_dual_encoder import (
    DualEncoderForPreTraining,
    DualEncoderModel,
    DualEncoderOutput,
)
from hf_contrastive.families.dual_encoder.modeling_two_towers import IMAGE_INPUTS, TEXT_INPUTS
from hf_contrastive.losses import clip_loss, mil_nce, nt_xent
from hf_contrastive.models.surgvlp.configuration_surgvlp import SurgVLPConfig
from hf_contrastive.models.surgvlp.pooling_surgvlp import combine_layers, sentence_of_tokens, sum_word_pieces
from hf_contrastive.modules.pooling import require_tokens
from hf_contrastive.modules.projection_head import ProjectionHead


#: the texts of the other transcript, several for each clip
MIL_INPUTS = ("mil_input_ids", "mil_attention_mask", "mil_token_type_ids")
#: two more clips, augmented
AUGMENTED_INPUTS = ("pixel_values_aug1", "pixel_values_aug2")


@dataclass
class SurgVLPOutput(DualEncoderOutput):
    """Output of SurgVLP; what is not said here is as in [`DualEncoderOutput`], where an image may be a clip.

    Args:
        info_nce_loss (`torch.FloatTensor`, scalar): InfoNCE of clips and anchor texts; with augmented clips the mean over all three.
        nt_xent_loss (`torch.FloatTensor`, scalar): the same with the directions weighted by alpha.
        mil_nce_loss (`torch.FloatTensor`, scalar): MIL-NCE of clips and the other transcript's texts; with augmented clips the mean
            over all three.
        simclr_loss (`torch.FloatTensor`, scalar): NT-Xent of the two augmented clips.
        mil_text_embeds (`torch.FloatTensor` `[batch, texts, projection_dim]`): the other transcript's texts, of length 1.
        aug1_embeds, aug2_embeds (`torch.FloatTensor` `[batch, projection_dim]`): the augmented clips, of length 1.
    """

    info_nce_loss: torch.Tensor | None = None
    nt_xent_loss: torch.Tensor | None = None
    mil_nce_loss: torch.Tensor | None = None
    simclr_loss: torch.Tensor | None = None
    mil_text_embeds: torch.Tensor | None = None
    aug1_embeds: torch.Tensor | None = None
    aug2_embeds: torch.Tensor | None = None


class _ClipsAndWords(DualEncoderModel):
    """What both classes share: clips of frames, and texts as means over words."""

    config: SurgVLPConfig

    def build_heads(self) -> None:
        """Projections; that of the texts has no layers where their features are the common space."""
        super().build_heads()
        if not self.config.project_text:
            self.text_projection = ProjectionHead(self.config.text_dim, [])

    def embed_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and projections of images, or of clips: means over their frames.

        Args:
            pixel_values (`torch.FloatTensor` `[images, channels, height, width]` or `[clips, frames, channels, height, width]`).

        Returns:
            `(features [images, image_dim], projections [images, projection_dim])`, neither normalised.

        Raises:
            ValueError: images of another shape.
        """
        if pixel_values.ndim != 5:
            if pixel_values.ndim != 4:
                raise ValueError(
                    f"`pixel_values` has shape {tuple(pixel_values.shape)}, expected [batch, channels, height, width] for images or "
                    "[batch, frames, channels, height, width] for clips."
                )
            return super().embed_images(pixel_values)
        clips, frames = pixel_values.shape[:2]
        if not frames:
            raise ValueError(f"`pixel_values` has shape {tuple(pixel_values.shape)}: clips without frames.")
        # the frames of all clips go through the encoder in one batch
        parts = super().embed_images(pixel_values.flatten(0, 1))
        features, projections = (part.view(clips, frames, -1).mean(1) for part in parts)
        return features, projections

    def text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pooled output of the text encoder, with `text_pooling="word_sum"` the mean over the words' places.

        Args:
            input_ids (`torch.LongTensor` `[texts, tokens]`): tokens.
            attention_mask (`torch.LongTensor` `[texts, tokens]`, *optional*): 0 at padding; without it every token counts.
            token_type_ids (`torch.LongTensor` `[texts, tokens]`, *optional*): left out where the encoder has none.

        Returns:
            `torch.Tensor` `[texts, text_dim]`, not normalised.

        Raises:
            ValueError: a wrong shape, a text without tokens, or one that is longer than the encoder takes.
        """
        if self.config.text_pooling != "word_sum":
            return super().text_features(input_ids, attention_mask, token_type_ids)
        states, mask = self.token_states(input_ids, attention_mask, token_type_ids)
        if not self.config.merge_word_pieces:
            return states.mean(1)
        return sentence_of_tokens(states, mask, self.config.text_length)

    def token_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The states of the tokens, the last `text_layers` layers as one, and their mask.

        Args:
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[texts, tokens]`): as for `text_features`.

        Returns:
            `(states [texts, tokens, text_dim], mask [texts, tokens])`; where pieces are not merged, of `text_length` tokens with
            padding.
        """
        config = self.config
        require_tokens(attention_mask)
        if not config.merge_word_pieces and torch.compiler.is_compiling():
            raise ValueError(
                "with merge_word_pieces=False all places of a text are read, so a graph for any number of tokens cannot be made; use "
                "merge_word_pieces=True."
            )
        if not config.merge_word_pieces and input_ids.ndim == 2 and input_ids.shape[1] < config.text_length:
            # every place is read, whatever the batch was padded to
            missing = (0, config.text_length - input_ids.shape[1])
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            attention_mask = nn.functional.pad(mask, missing)
            input_ids = nn.functional.pad(
                input_ids, missing, value=getattr(config.text_config, "pad_token_id", 0) or 0
            )
            token_type_ids = None if token_type_ids is None else nn.functional.pad(token_type_ids, missing)
        outputs = self.text_outputs(input_ids, attention_mask, token_type_ids, output_hidden_states=True)
        # of encoders that normalise at the end (CLIP's), the last layer is what came out of the norm; of BERT it is the same
        layers = (*outputs.hidden_states[:-1], outputs.last_hidden_state)
        return combine_layers(layers, config.text_layers, config.layer_aggregation), attention_mask

    def embed_words(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        is_continuation_piece: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The words of texts: sums of their pieces, zeros after the last word. The sentence is their mean.

        Args:
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[texts, tokens]`): as for `text_features`.
            is_continuation_piece (bool `torch.Tensor` `[tokens of the vocabulary]`, *optional*): which tokens go on with the word
                before them; [`continuation_pieces`] makes it of a tokenizer. Needed where pieces are merged.

        Returns:
            `torch.Tensor` `[texts, text_length, text_dim]`; where pieces are not merged, the states of all places.

        Raises:
            ValueError: no `is_continuation_piece` where pieces are merged.
        """
        states, mask = self.token_states(input_ids, attention_mask, token_type_ids)
        if not self.config.merge_word_pieces:
            return states
        if is_continuation_piece is None:
            raise ValueError(
                "`is_continuation_piece` is missing: which tokens go on with a word is known by the tokenizer; give "
                "continuation_pieces(tokenizer)."
            )
        continues = is_continuation_piece.to(input_ids.device).bool()[input_ids]
        return sum_word_pieces(states, mask, continues, self.config.text_length)[0]


class SurgVLPModel(_ClipsAndWords):
    """Image encoder, text encoder and the projection of images for inference.

    `encode(pixel_values)` of images `[batch, channels, height, width]` or of clips `[batch, frames, channels, height, width]`, and
    `encode(input_ids=..., attention_mask=...)`, give embeddings that can be compared with each other.

    Args:
        config ([`SurgVLPConfig`]): encoders, pooling, common space.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ConvEncoderConfig, SurgVLPConfig, SurgVLPModel
    >>> text = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    >>> model = SurgVLPModel(SurgVLPConfig(vision_config=ConvEncoderConfig(channels=[8, 16]), text_config=text, text_layers=2))
    >>> clips, texts = torch.rand(2, 4, 3, 16, 16), torch.tensor([[2, 7, 9], [2, 5, 3], [2, 8, 3]])
    >>> model(clips, texts).logits_per_image.shape
    torch.Size([2, 3])

    ```
    """

    config: SurgVLPConfig


class SurgVLPForPreTraining(_ClipsAndWords, DualEncoderForPreTraining):
    """SurgVLP with its objective (https://arxiv.org/abs/2307.15220, and the released training code).

    With clips v_i, anchor texts t_i, the K texts u_ik of the other transcript, s the cosine and T the temperature,

        InfoNCE = 1/2 mean over i of ( -log softmax over k of (s(v_i, t_k) / T) at i  -log softmax over k of (s(t_i, v_k) / T) at i ),

    MIL-NCE is [`mil_nce`] of v and u on products as they are, and with `objective="paper"` the loss is their sum. With
    `objective="released"` there are two augmented clips w_1, w_2 as well, and the loss is

        ( V(v) + V(w_1) + V(w_2) + NT-Xent(w_1, w_2) ) / 4,
        V(x) = ( InfoNCE(x, t) + InfoNCE weighted by alpha(x, t) + MIL-NCE(x, u) ) / 3.

    Args:
        config ([`SurgVLPConfig`]): encoders, pooling, objective.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ConvEncoderConfig, SurgVLPConfig, SurgVLPForPreTraining
    >>> text = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    >>> config = SurgVLPConfig(vision_config=ConvEncoderConfig(channels=[8, 16]), text_config=text, text_layers=2)
    >>> clips, anchors = torch.rand(2, 4, 3, 16, 16), torch.tensor([[2, 7, 3], [2, 5, 3]])
    >>> others = torch.tensor([[[2, 7, 3], [2, 8, 3]], [[2, 5, 3], [2, 6, 3]]])
    >>> outputs = SurgVLPForPreTraining(config)(clips, anchors, mil_input_ids=others)
    >>> outputs.loss.shape, outputs.mil_text_embeds.shape
    (torch.Size([]), torch.Size([2, 2, 16]))

    ```
    """

    config: SurgVLPConfig
    view_inputs = (*IMAGE_INPUTS, *TEXT_INPUTS, *MIL_INPUTS, *AUGMENTED_INPUTS)
    output_class = SurgVLPOutput

    def describe_objective(self) -> str:
        """The objective with the values of this model's configuration."""
        config = self.config
        info = f"InfoNCE(clip, anchor; T {config.temperature:g})"
        scale = f"cosines / {config.mil_temperature:g}" if config.normalize_mil else "products as they are"
        mil = f"MIL-NCE(clip, other texts; {scale})"
        if config.objective == "info_nce":
            return info
        if config.objective == "paper":
            return f"{info} + {mil}"
        return (
            f"1/4 [ NT-Xent(two augmented clips; T {config.temperature:g}) + sum over clip and both augmented of 1/3 ( {info} + the "
            f"same with weight {config.alpha:g} from clip to text + {mil} ) ]"
        )

    def embed_views(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        mil_input_ids: torch.Tensor | None = None,
        mil_attention_mask: torch.Tensor | None = None,
        mil_token_type_ids: torch.Tensor | None = None,
        pixel_values_aug1: torch.Tensor | None = None,
        pixel_values_aug2: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Clips, anchor texts, the other transcript's texts and augmented clips, before normalisation.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, frames, channels, height, width]`, or images without frames): clips.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`): their anchor texts.
            mil_input_ids, mil_attention_mask, mil_token_type_ids (`torch.LongTensor` `[batch, texts, tokens]`, *optional*): the other
                transcript's texts.
            pixel_values_aug1, pixel_values_aug2 (as `pixel_values`, *optional*): augmented clips.

        Returns:
            `dict`: `image_embeds`, `text_embeds` `[batch, projection_dim]`, `image_features`, `text_features` `[batch, size]`, and
            where they are given `mil_text_embeds` `[batch, texts, projection_dim]`, `aug1_embeds`, `aug2_embeds`
            `[batch, projection_dim]`.

        Raises:
            ValueError: a wrong shape, or parts of different length.
        """
        augmented = {"pixel_values_aug1": pixel_values_aug1, "pixel_values_aug2": pixel_values_aug2}
        named = {"input_ids": input_ids, "mil_input_ids": mil_input_ids, **augmented}
        for name, value in named.items():
            if value is not None and len(value) != len(pixel_values):
                raise ValueError(
                    f"`pixel_values` has {len(pixel_values)} clips and `{name}` has {len(value)} rows; row i of all inputs belongs to "
                    "clip i. For a comparison of all with all use the class without ForPreTraining."
                )
        for name, value in augmented.items():
            if value is not None and value.shape[1:] != pixel_values.shape[1:]:
                raise ValueError(
                    f"`pixel_values` has shape {tuple(pixel_values.shape)} and `{name}` {tuple(value.shape)}; augmented clips are as "
                    "long and as large as the clips."
                )
        # all clips in one batch, as in the published code: batch norm takes its statistics over all of them
        clips = [pixel_values, *(value for value in augmented.values() if value is not None)]
        features, projections = self.embed_images(torch.cat(clips) if len(clips) > 1 else pixel_values)
        parts = iter(projections.split(len(pixel_values)))
        text_features, text_embeds = self.embed_texts(input_ids, attention_mask, token_type_ids)
        found = {
            "image_embeds": next(parts),
            "text_embeds": text_embeds,
            "image_features": features[: len(pixel_values)],
            "text_features": text_features,
        }
        if mil_input_ids is not None:
            found["mil_text_embeds"] = self._embed_several(mil_input_ids, mil_attention_mask, mil_token_type_ids)
        for name, pixels in (("aug1_embeds", pixel_values_aug1), ("aug2_embeds", pixel_values_aug2)):
            if pixels is not None:
                found[name] = next(parts)
        return found

    def _embed_several(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, token_type_ids: torch.Tensor | None
    ) -> torch.Tensor:
        if input_ids.ndim != 3 or not input_ids.shape[1]:
            raise ValueError(
                f"`mil_input_ids` has shape {tuple(input_ids.shape)}, expected [batch, texts, tokens] with at least one text a clip."
            )
        given = (input_ids, attention_mask, token_type_ids)
        flat = [None if value is None else value.flatten(0, 1) for value in given]
        _, projections = self.embed_texts(cast(torch.Tensor, flat[0]), flat[1], flat[2])
        return projections.view(*input_ids.shape[:2], -1)

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The loss and its terms.

        Args:
            embeds (`dict`): what `embed_views` returns, of this process.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): clips with the same id are never each other's negatives.

        Raises:
            ValueError: the objective needs texts or clips that were not given.
        """
        config = self.config
        needed = {"paper": ("mil_text_embeds",), "info_nce": ()}
        needed["released"] = ("mil_text_embeds", "aug1_embeds", "aug2_embeds")
        inputs = dict(zip(needed["released"], ("mil_input_ids", *AUGMENTED_INPUTS), strict=True))
        missing = [inputs[name] for name in needed[config.objective] if name not in embeds]
        if missing:
            raise ValueError(
                f"the objective {config.objective!r} needs {', '.join(f'`{name}`' for name in missing)}; give them, or choose another "
                "`objective` in the configuration."
            )
        # under autocast projected clips are in half precision and texts, which are not projected, are not
        embeds = {name: value if value.dtype == torch.float64 else value.float() for name, value in embeds.items()}
        clips = ["image_embeds", *(("aug1_embeds", "aug2_embeds") if config.objective == "released" else ())]
        terms = {"info_nce_loss": self._mean(clips, lambda clip: self._info_nce(embeds, clip, sample_ids))}
        if config.objective != "info_nce":
            terms["mil_nce_loss"] = self._mean(clips, lambda clip: self._mil_nce(embeds, clip, sample_ids))
        if config.objective == "released":
            alpha = float(config.alpha)
            terms["nt_xent_loss"] = self._mean(clips, lambda clip: self._info_nce(embeds, clip, sample_ids, alpha))
            temperature = 1 / self.scale()
            terms["simclr_loss"] = nt_xent(
                embeds["aug1_embeds"], embeds["aug2_embeds"], temperature, sample_ids=sample_ids, gather=True
            )
        # of the released total three quarters are the means over clips of the three terms' mean, so all four weigh the same
        total = cast(torch.Tensor, sum(terms.values()))
        return {"loss": total / 4 if config.objective == "released" else total, **terms}

    @staticmethod
    def _mean(clips: list[str], term: Any) -> torch.Tensor:
        return torch.stack([term(clip) for clip in clips]).mean()

    def _info_nce(
        self, embeds: dict[str, torch.Tensor], clip: str, sample_ids: torch.Tensor | None, weight: float = 0.5
    ) -> torch.Tensor:
        options: dict[str, Any] = {"weight_a_to_b": weight, "sample_ids": sample_ids, "gather": True}
        return clip_loss(embeds[clip], embeds["text_embeds"], self.scale(), **options)

    def _mil_nce(self, embeds: dict[str, torch.Tensor], clip: str, sample_ids: torch.Tensor | None) -> torch.Tensor:
        config = self.config
        # computed in float32 whatever autocast says: products of wide embeddings overflow in half precision
        return mil_nce(
            embeds[clip],
            embeds["mil_text_embeds"],
            temperature=float(config.mil_temperature) if config.normalize_mil else 1.0,
            normalize=config.normalize_mil,
            sample_ids=sample_ids,
            gather=True,
        )

    def chance_loss(self, rows: int, views: int) -> float | None:
        """Loss of a model that tells nothing apart.

        Args:
            rows (`int`): clips of a global batch.
            views (`int`): not read.
        """
        if rows < 2:
            return None
        info, mil = math.log(rows), math.log(2 * rows)  # a clip's own texts are counted twice among all
        if self.config.objective == "released":
            return (2 * info + mil + math.log(2 * rows - 1)) / 4
        return info if self.config.objective == "info_nce" else info + mil

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        mil_input_ids: torch.Tensor | None = None,
        mil_attention_mask: torch.Tensor | None = None,
        mil_token_type_ids: torch.Tensor | None = None,
        pixel_values_aug1: torch.Tensor | None = None,
        pixel_values_aug2: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> SurgVLPOutput:
        """Embed clips and texts and compare them.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, frames, channels, height, width]`, or `[batch, channels, height, width]`): clips,
                or images.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` `[batch, tokens]`): the anchor text of each.
            mil_input_ids, mil_attention_mask, mil_token_type_ids (`torch.LongTensor` `[batch, texts, tokens]`, *optional*): texts of the
                other transcript around the clip's time, at least one of which fits; needed by MIL-NCE.
            pixel_values_aug1, pixel_values_aug2 (as `pixel_values`, *optional*): two augmented clips; needed by
                `objective="released"`.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): clips with the same id are never negatives of each other (exact
                false-negative mask), for example one id for all clips with one text.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`SurgVLPOutput`], without logits: the class without ForPreTraining gives those.

        Raises:
            ValueError: a wrong shape, a text without tokens, an input that the objective needs and that is missing.
        """
        embeds = self.embed_views(
            pixel_values,
            input_ids,
            attention_mask,
            token_type_ids,
            mil_input_ids,
            mil_attention_mask,
            mil_token_type_ids,
            pixel_values_aug1,
            pixel_values_aug2,
        )
        return self.compute_objective(embeds, sample_ids, return_loss)


__all__ = ["SurgVLPForPreTraining", "SurgVLPModel", "SurgVLPOutput"]
