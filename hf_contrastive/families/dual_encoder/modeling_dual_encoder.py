"""One image encoder, one text encoder, one space."""

from __future__ import annotations

import inspect
import math
import os
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.utils import ModelOutput

from hf_contrastive.families.dual_encoder.configuration_dual_encoder import DualEncoderConfig
from hf_contrastive.families.trained_backbones import fill_backbone, load_backbone, without_pooler
from hf_contrastive.losses import clip_loss
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel
from hf_contrastive.modules.logit_scale import LogitScale
from hf_contrastive.modules.pooling import pool_image, pool_text
from hf_contrastive.modules.projection_head import ProjectionHead
from hf_contrastive.tensor_utils import fast_layout


#: arguments of `forward` by the encoder that reads them
IMAGE_INPUTS = ("pixel_values",)
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


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


class DualEncoderModel(ContrastivePreTrainedModel):
    """Image encoder, text encoder and their projections; base of the systems' inference models.

    Works in the pipelines `zero-shot-image-classification`, `image-feature-extraction` and `feature-extraction` of
    transformers.

    Args:
        config ([`DualEncoderConfig`]): encoders, pooling, common space.
    """

    config: DualEncoderConfig
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    towers = ("vision_model", "text_model")
    view_inputs = (*IMAGE_INPUTS, *TEXT_INPUTS)
    encode_inputs = IMAGE_INPUTS
    readouts = ("projection", "backbone")
    # a temperature in half precision would move in steps of a hundredth
    _keep_in_fp32_modules_strict = ["logit_scale"]

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__(config)
        self.vision_model = self._new_tower(config.vision_config, config.image_pooling)
        self.text_model = self._new_tower(config.text_config, config.text_pooling)
        self.image_projection = self.new_projection(config.image_dim)
        self.text_projection = self.new_projection(config.text_dim)
        self.logit_scale = (
            LogitScale(1 / config.temperature, config.max_logit_scale) if config.learn_temperature else None
        )
        self._text_arguments = frozenset(inspect.signature(type(self.text_model).forward).parameters)
        self.post_init()

    @staticmethod
    def _new_tower(config: Any, pooling: str) -> nn.Module:
        options = {} if pooling == "pooler" else without_pooler(config)
        return AutoModel.from_config(cast(PreTrainedConfig, config), **options)

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
    def from_towers(
        cls, vision: str | os.PathLike | nn.Module, text: str | os.PathLike | nn.Module, **config_fields: Any
    ) -> Any:
        """Build the model on two trained encoders, each a folder or hub id of any transformers model, or the model.

        Of a model with both (CLIP, SigLIP, a checkpoint of this family) the wanted one is taken. Projections and temperature
        are new; [`~DualEncoderModel.from_pair`] keeps those of a trained pair.

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

    # ---- Freezing ----

    def _freeze(self) -> None:
        super()._freeze()
        config = self.config
        for layer in text_layers(self.text_model)[: config.freeze_text_layers] if config.freeze_text_layers else ():
            layer.requires_grad_(False)
        if config.freeze_text_embeddings:
            text_embeddings(self.text_model).requires_grad_(False)

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
        features = pool_image(outputs, self.config.image_pooling, type(self.vision_model).__name__)
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
        outputs = self.text_model(**taken)
        features = pool_text(outputs, attention_mask, self.config.text_pooling, type(self.text_model).__name__)
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


__all__ = [
    "DualEncoderForPreTraining",
    "DualEncoderModel",
    "DualEncoderOutput",
    "text_embeddings",
    "text_layers",
    "unit",
]
