"""ConVIRT: images and the sentences of their reports in one space."""

from __future__ import annotations

import torch

from hf_contrastive.families.dual_encoder.modeling_dual_encoder import DualEncoderForPreTraining, DualEncoderModel
from hf_contrastive.losses import clip_loss
from hf_contrastive.models.convirt.configuration_convirt import ConVIRTConfig


class ConVIRTModel(DualEncoderModel):
    """Image encoder, text encoder and their projections for inference.

    `encode(pixel_values)` and `encode(input_ids=..., attention_mask=...)` give embeddings that can be compared with each other;
    with `readout="backbone"` the features of the image encoder, which the paper trains it for.

    Args:
        config ([`ConVIRTConfig`]): encoders, pooling, common space.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ConVIRTConfig, ConVIRTModel, ConvEncoderConfig
    >>> text = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    >>> model = ConVIRTModel(ConVIRTConfig(vision_config=ConvEncoderConfig(channels=[8, 16]), text_config=text, projection_dim=8))
    >>> outputs = model(torch.rand(2, 3, 16, 16), torch.tensor([[2, 7, 9], [2, 5, 3], [2, 8, 3]]))
    >>> outputs.logits_per_image.shape
    torch.Size([2, 3])

    ```
    """

    config: ConVIRTConfig


class ConVIRTForPreTraining(DualEncoderForPreTraining):
    """ConVIRT with its objective (https://arxiv.org/abs/2010.00747, equations 2 to 4).

    With s the cosine, T the temperature and N pairs, the loss is the mean over pairs i of

        lambda * -log softmax over k of (s(v_i, u_k) / T) at i  +  (1 - lambda) * -log softmax over k of (s(u_i, v_k) / T) at i:

    only images and texts are compared, never images with images.

    Args:
        config ([`ConVIRTConfig`]): encoders, pooling, objective.

    Example:

    ```python
    >>> import torch
    >>> from transformers import BertConfig
    >>> from hf_contrastive import ConVIRTConfig, ConVIRTForPreTraining, ConvEncoderConfig
    >>> text = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    >>> config = ConVIRTConfig(vision_config=ConvEncoderConfig(channels=[8, 16]), text_config=text, projection_dim=8)
    >>> outputs = ConVIRTForPreTraining(config)(torch.rand(2, 3, 16, 16), torch.tensor([[2, 7, 9], [2, 5, 3]]))
    >>> outputs.loss.shape, outputs.image_embeds.shape
    (torch.Size([]), torch.Size([2, 8]))

    ```
    """

    config: ConVIRTConfig
    objective_formula = (
        "mean over pairs of {lambda_image_to_text:g} * -log softmax(cosine / {temperature:g}) from image to text and the rest "
        "from text to image"
    )

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The loss over both directions, the one from images to texts weighted by lambda."""
        loss = clip_loss(
            embeds["image_embeds"],
            embeds["text_embeds"],
            self.scale(),
            weight_a_to_b=self.config.lambda_image_to_text,
            sample_ids=sample_ids,
            gather=True,
        )
        return {"loss": loss}


__all__ = ["ConVIRTForPreTraining", "ConVIRTModel"]
