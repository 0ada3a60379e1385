"""One image encoder and one text encoder: what is the same whatever is made of their features."""

from __future__ import annotations

import inspect
import os
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from hf_contrastive.families.dual_encoder.configuration_dual_encoder import TwoTowerConfig
from hf_contrastive.families.trained_backbones import fill_backbone, load_backbone, without_pooler
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel
from hf_contrastive.modules.pooling import pool_image, pool_text
from hf_contrastive.tensor_utils import fast_layout


#: arguments of `forward` by the encoder that reads them
IMAGE_INPUTS = ("pixel_values",)
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class TwoTowerModel(ContrastivePreTrainedModel):
    """Image encoder and text encoder with their pooled features; base of all models that have both.

    Args:
        config ([`TwoTowerConfig`]): encoders and pooling.
    """

    config: TwoTowerConfig
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    towers = ("vision_model", "text_model")
    view_inputs = (*IMAGE_INPUTS, *TEXT_INPUTS)
    encode_inputs = IMAGE_INPUTS
    readouts = ("projection", "backbone")

    def __init__(self, config: TwoTowerConfig) -> None:
        super().__init__(config)
        self.vision_model = self._new_tower(config.vision_config, config.image_pooling)
        self.text_model = self._new_tower(config.text_config, config.text_pooling)
        self._text_arguments = frozenset(inspect.signature(type(self.text_model).forward).parameters)
        self.build_heads()
        self.post_init()

    @staticmethod
    def _new_tower(config: Any, pooling: str) -> nn.Module:
        options = {} if pooling == "pooler" else without_pooler(config)
        return AutoModel.from_config(cast(PreTrainedConfig, config), **options)

    def build_heads(self) -> None:
        """Make what comes after the encoders."""
        raise NotImplementedError(f"{type(self).__name__} must say in `build_heads` what comes after the encoders.")

    # ---- Starting from trained encoders ----

    @classmethod
    def from_towers(
        cls, vision: str | os.PathLike | nn.Module, text: str | os.PathLike | nn.Module, **config_fields: Any
    ) -> Any:
        """Build the model on two trained encoders, each a folder or hub id of any transformers model, or the model.

        Of a model with both (CLIP, SigLIP, a checkpoint of this family) the wanted one is taken. All that comes after the
        encoders is new; [`~DualEncoderModel.from_pair`] keeps the projections and the temperature of a trained pair.

        Args:
            vision (`str`, `Path` or `PreTrainedModel`): image encoder, for example `"microsoft/resnet-50"`.
            text (`str`, `Path` or `PreTrainedModel`): text encoder, for example `"google-bert/bert-base-uncased"`.
            **config_fields: fields of the configuration other than `vision_config` and `text_config`.

        Returns:
            The model, in training mode.

        Raises:
            ValueError: an encoder lacks tensors that its configuration asks for; the first one is named.

        Example:

        ```python
        >>> from transformers import BertConfig, BertModel
        >>> from hf_contrastive import ConvEncoderConfig, ConvEncoderModel, ConVIRTForPreTraining
        >>> vision = ConvEncoderModel(ConvEncoderConfig(channels=[8, 16]))
        >>> text = BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=30))
        >>> model = ConVIRTForPreTraining.from_towers(vision, text, projection_dim=8, freeze_text_layers=0)
        >>> model.config.vision_config.model_type, model.config.text_config.model_type
        ('conv_encoder', 'bert')

        ```
        """
        known = cls.config_class()
        given: dict[str, Any] = {"vision_model": vision, "text_model": text}
        towers: dict[str, Any] = {}
        missing: dict[str, list[str]] = {}
        for part, start in given.items():
            pooling = "image_pooling" if part == "vision_model" else "text_pooling"
            with_pooler = config_fields.get(pooling, getattr(known, pooling)) == "pooler"
            towers[part], missing[part] = load_backbone(start, pooler=with_pooler)
            inner = getattr(towers[part], part, None)
            if isinstance(inner, nn.Module) and hasattr(inner, "config"):
                towers[part] = inner
                missing[part] = [
                    name.removeprefix(f"{part}.") for name in missing[part] if name.startswith(f"{part}.")
                ]
        fields: dict[str, Any] = {
            f"{part.removesuffix('_model')}_config": tower.config for part, tower in towers.items()
        }
        model = cls(cls.config_class(**fields, **config_fields))
        for part, what in (("vision_model", "image encoder"), ("text_model", "text encoder")):
            fill_backbone(model, towers[part], missing[part], what, part)
        return model.train()

    # ---- Freezing ----

    def _freeze(self) -> None:
        super()._freeze()
        config = self.config
        for layer in text_layers(self.text_model)[: config.freeze_text_layers] if config.freeze_text_layers else ():
            layer.requires_grad_(False)
        if config.freeze_text_embeddings:
            text_embeddings(self.text_model).requires_grad_(False)

    # ---- Features ----

    def image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pooled output of the image encoder.

        Args:
            pixel_values (`torch.FloatTensor` `[images, channels, height, width]`): images.

        Returns:
            `torch.Tensor` `[images, image_dim]`, not normalised.

        Raises:
            ValueError: images of another shape.
        """
        channels = self.config.num_channels
        if pixel_values.ndim != 4:
            raise ValueError(
                f"`pixel_values` has shape {tuple(pixel_values.shape)}, expected [batch, channels, height, width]."
            )
        if pixel_values.shape[1] != channels:
            raise ValueError(
                f"`pixel_values` has {pixel_values.shape[1]} channels, but the image encoder takes {channels}; convert the "
                f"images or set num_channels={pixel_values.shape[1]} in `vision_config`."
            )
        outputs = self.vision_model(pixel_values=fast_layout(pixel_values))
        return pool_image(outputs, self.config.image_pooling, type(self.vision_model).__name__)

    def text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pooled output of the text encoder.

        Args:
            input_ids (`torch.LongTensor` `[texts, tokens]`): tokens.
            attention_mask (`torch.LongTensor` `[texts, tokens]`, *optional*): 0 at padding; without it every token counts.
            token_type_ids (`torch.LongTensor` `[texts, tokens]`, *optional*): left out where the encoder has none.

        Returns:
            `torch.Tensor` `[texts, text_dim]`, not normalised.

        Raises:
            ValueError: a wrong shape, a text without tokens, or one that is longer than the encoder takes.
        """
        outputs = self.text_outputs(input_ids, attention_mask, token_type_ids)
        return pool_text(outputs, attention_mask, self.config.text_pooling, type(self.text_model).__name__)

    def text_outputs(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """What the text encoder itself returns.

        Args:
            input_ids, attention_mask, token_type_ids: as for [`~TwoTowerModel.text_features`].
            **options: of the text encoder, for example `output_hidden_states=True`.

        Raises:
            ValueError: a wrong shape, or a text that is longer than the encoder takes.
        """
        if input_ids.ndim != 2:
            raise ValueError(f"`input_ids` has shape {tuple(input_ids.shape)}, expected [batch, tokens].")
        limit = self.config.max_text_length
        if limit is not None and input_ids.shape[1] > limit:
            raise ValueError(
                f"`input_ids` has {input_ids.shape[1]} tokens a text, but the text encoder takes at most {limit}; tokenise with "
                f"truncation=True, max_length={limit}."
            )
        named = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        taken = {name: value for name, value in named.items() if value is not None and name in self._text_arguments}
        return self.text_model(**taken, **options)

    def embed_rows(
        self,
        embed: Any,
        inputs: dict[str, torch.Tensor | None],
        rows: torch.Tensor | None,
        sizes: tuple[int, ...],
        like: nn.Module,
    ) -> list[torch.Tensor]:
        """Embed the rows that have this side; the others go through no encoder and get zeros.

        A placeholder must not enter batch statistics, and a text without tokens is refused.

        Args:
            embed (`Callable`): of the inputs, gives tensors `[n, size]`, one for each of `sizes`.
            inputs (`dict`): tensors `[batch, ...]` by the names of its arguments.
            rows (bool `torch.Tensor` `[batch]`, *optional*): which rows have this side; all by default.
            sizes (`tuple[int, ...]`): of what it gives.
            like (`nn.Module`): where there is no such row: has the type and the device of the zeros.

        Returns:
            `list` of tensors `[batch, size]`.
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        if rows is None or bool(rows.all()):
            return list(embed(**given))
        if not bool(rows.any()):
            parts = [next(like.parameters()).new_zeros(0, size) for size in sizes]
        else:
            parts = list(embed(**{name: value[rows] for name, value in given.items()}))
        spread = [part.new_zeros(len(rows), part.shape[1]) for part in parts]
        return [
            whole.masked_scatter(rows[:, None].expand_as(whole), part)
            for whole, part in zip(spread, parts, strict=True)
        ]


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, in float32 at least; a zero row stays zero.

    Args:
        rows (`torch.Tensor` `[n, dim]`): vectors.
    """
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return nn.functional.normalize(rows, dim=-1, eps=1e-12)


def text_layers(model: Any) -> nn.ModuleList:
    """The transformer layers of a text encoder, the first one first.

    Args:
        model (`PreTrainedModel`): any text encoder with `num_hidden_layers`.

    Raises:
        ValueError: there is no such list of layers.
    """
    count = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(
        f"{type(model).__name__} holds no list of {count} layers, so `freeze_text_layers` cannot tell which to freeze; set it "
        'to 0, or freeze the whole encoder with frozen_modules=["text_model"].'
    )


def text_embeddings(model: Any) -> nn.Module:
    """The embeddings of a text encoder: of tokens, and of positions and types where they stand in one module with them.

    Args:
        model (`PreTrainedModel`): any text encoder.
    """
    tokens = model.get_input_embeddings()
    for name, module in model.named_modules():
        if module is tokens:
            parent = model.get_submodule(name.rpartition(".")[0])
            return tokens if any(isinstance(part, nn.ModuleList) for part in parent.modules()) else parent
    return tokens


__all__ = ["IMAGE_INPUTS", "TEXT_INPUTS", "TwoTowerModel", "text_embeddings", "text_layers", "unit"]
