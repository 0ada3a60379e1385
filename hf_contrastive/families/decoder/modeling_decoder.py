"""What models on one decoder share: starting from a trained language model, embeddings, checks of token ids."""

from __future__ import annotations

import copy
import os
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModel

from hf_contrastive.families.decoder.configuration_decoder import DecoderConfig
from hf_contrastive.families.trained_backbones import fill_backbone, load_backbone
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel


class DecoderPreTrainedModel(ContrastivePreTrainedModel):
    """A decoder of transformers as `self.backbone`; the subclass builds it with `backbone_auto_class`."""

    config: DecoderConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    input_modalities = ["text"]
    #: what opens a trained language model for `from_backbone`
    backbone_auto_class: ClassVar[Any] = AutoModel
    #: whether the backbone has an output matrix, so that it writes text
    writes_text: ClassVar[bool] = False
    backbone: Any

    @classmethod
    def from_backbone(cls, backbone: str | os.PathLike | nn.Module, **config_fields: Any) -> Any:
        """Put the system on a trained language model: a folder or hub id of any causal one of transformers, or the model.

        Args:
            backbone (`str`, `Path` or `PreTrainedModel`): what to start from.
            **config_fields: fields of the system's configuration other than `backbone_config`.

        Returns:
            The system's model, in training mode, with the weights (float32) and, where it writes, the generation settings
            of the given one.

        Raises:
            ValueError: the checkpoint lacks weights; the first missing one is named.

        Example:

        ```python
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from hf_contrastive import SimCTGForCausalLM
        >>> trained = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2))
        >>> SimCTGForCausalLM.from_backbone(trained, margin=0.4).config.backbone_config.model_type
        'gpt2'

        ```
        """
        trained, missing = load_backbone(backbone, cls.backbone_auto_class)
        # copies: the given model stays as it is, whatever happens to this one
        model = cls(cls.config_class(backbone_config=copy.deepcopy(trained.config), **config_fields))
        model = model if trained.dtype == torch.float64 else model.float()
        if not cls.writes_text:
            trained = trained.base_model  # without the output matrix
        fill_backbone(model, trained, missing, "language model")
        if cls.writes_text and getattr(trained, "generation_config", None) is not None:
            model.generation_config = copy.deepcopy(trained.generation_config)
        return model.train()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings of the language model."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of the language model."""
        self.backbone.set_input_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As `transformers.PreTrainedModel.resize_token_embeddings`, on the language model."""
        return self.backbone.resize_token_embeddings(*args, **kwargs)

    def check_ids(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, name: str = "input_ids") -> None:
        """Refuse token ids and masks that do not fit, in words.

        Args:
            input_ids, attention_mask (`torch.LongTensor` `[batch, length]`): as given.
            name (`str`): what the ids are called in the message.

        Raises:
            ValueError: wrong shape or type, or (on a CPU) ids outside the vocabulary.
        """
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            raise ValueError(
                f"`{name}` has shape {list(input_ids.shape)} and type {input_ids.dtype}, expected whole numbers of shape "
                "[batch, length]."
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"`{name.replace('input_ids', 'attention_mask')}` has shape {list(attention_mask.shape)}, expected that of `{name}`, "
                f"{list(input_ids.shape)}."
            )
        # on a GPU the look at the values would make every step wait; the embedding's own assertion stops it there
        if input_ids.device.type == "cpu" and input_ids.numel():
            vocabulary = len(self.backbone.get_input_embeddings().weight)
            low, high = int(input_ids.min()), int(input_ids.max())
            if low < 0 or high >= vocabulary:
                raise ValueError(
                    f"`{name}` has the token {low if low < 0 else high}, but the vocabulary goes from 0 to "
                    f"{vocabulary - 1}; use the tokenizer of this model."
                )

    def mask_of(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The mask of a batch that came without one: 0 for runs of pad tokens at the ends of rows.

        Args:
            input_ids (`torch.LongTensor` `[batch, length]`): tokens.

        Returns:
            `torch.LongTensor` of the same shape; all ones when the model has no pad token. Where padding and end of text
            are one token, the first one behind a text is its end.
        """
        config = self.config.get_text_config()
        pad, end = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)
        if pad is None:
            return torch.ones_like(input_ids)
        is_text = input_ids != pad
        from_left, from_right = is_text.cumsum(1) > 0, is_text.flip(1).cumsum(1).flip(1) > 0
        if pad == end or (isinstance(end, (list, tuple)) and pad in end):
            # the first one behind the text is its end
            from_right[:, 1:] |= from_right[:, :-1].clone()
        return (from_left & from_right).to(input_ids.dtype)


__all__ = ["DecoderPreTrainedModel"]
