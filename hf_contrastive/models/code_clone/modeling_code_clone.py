"""Contrastive code clone detection: programs that do the same are neighbours."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.utils import ModelOutput

from hf_contrastive.backbones.modeling_code_encoders import check_not_empty, code_encoder_inputs
from hf_contrastive.families.trained_backbones import fill_backbone, load_backbone, without_pooler
from hf_contrastive.losses import sinkhorn, sup_con, swapped_prediction, uni_con
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel
from hf_contrastive.models.code_clone.configuration_code_clone import ENCODERS, CodeCloneConfig
from hf_contrastive.modules.feature_queue import FeatureQueue
from hf_contrastive.modules.momentum_encoder import MomentumEncoder
from hf_contrastive.modules.pooling import pool_text
from hf_contrastive.modules.projection_head import ProjectionHead
from hf_contrastive.modules.prototypes import Prototypes
from hf_contrastive.modules.training_state import TRAINING_PARTS
from hf_contrastive.outputs import EmbeddingOutput


INPUTS = tuple(name for kind in ENCODERS for name in code_encoder_inputs(kind))
_FORMULAS = {
    "simclr": "SupCon: mean over programs of -log softmax(cosine / {temperature:g}) at the programs of its label",
    "moco": "UniCon: log(1 + sum exp(n) * sum exp(-p)), cosines / {temperature:g} of {queue_size} keys of a queue, by label",
    "swav": "SwAV: cross-entropy between the assignment of one program to {num_prototypes} prototypes and the other's",
}


@dataclass
class CodeCloneOutput(ModelOutput):
    """Output of the objective over pairs of programs.

    Args:
        loss (`torch.FloatTensor`, scalar): the objective; the mean over the pairs of this process.
        embeds (`torch.FloatTensor` `[batch, 2, dim]`): embeddings of both programs.
        projections (`torch.FloatTensor` `[batch, 2, projection_dim]`): what the objective compares.
    """

    loss: torch.Tensor | None = None
    embeds: torch.Tensor | None = None
    projections: torch.Tensor | None = None


class CodeCloneModel(ContrastivePreTrainedModel):
    """Encoder of programs and projection head for inference; `encode` gives the embeddings that are compared.

    Args:
        config ([`CodeCloneConfig`]): encoder and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import CodeCloneConfig, CodeCloneModel, CodeTransformerConfig
    >>> backbone = CodeTransformerConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)
    >>> model = CodeCloneModel(CodeCloneConfig(backbone_config=backbone))
    >>> model.encode(torch.tensor([[2, 7, 9], [2, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]), normalize=True).shape
    torch.Size([2, 16])

    ```
    """

    config: CodeCloneConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    input_modalities = ["text"]
    view_inputs = INPUTS
    readouts = ("backbone", "projection")
    _keys_to_ignore_on_load_unexpected = [TRAINING_PARTS]

    def __init__(self, config: CodeCloneConfig) -> None:
        super().__init__(config)
        backbone_config = cast(PreTrainedConfig, config.backbone_config)
        self.backbone = AutoModel.from_config(backbone_config, **without_pooler(backbone_config))
        self.projection_head = ProjectionHead(
            config.embed_dim,
            config.projection_dims or [],
            batch_norm=config.projection_batch_norm,
            last_bias=config.ssl != "simclr",
        )
        self.build_training_parts()
        self.post_init()

    def build_training_parts(self) -> None:
        """Momentum encoder, queue, prototypes: nothing for inference."""

    @classmethod
    def from_backbone(cls, backbone: str | os.PathLike | nn.Module, **config_fields: Any) -> Any:
        """Build the model on a trained encoder: a folder or hub id of a text encoder of transformers or of an encoder of this
        library, or the model.

        Args:
            backbone (`str`, `Path` or `PreTrainedModel`): what to start from, for example `"microsoft/codebert-base"`.
            **config_fields: fields of the configuration other than `backbone_config`.

        Returns:
            The model, in training mode, with the encoder's weights and a new projection head.

        Raises:
            ValueError: the encoder lacks tensors that its configuration asks for; the first one is named.

        Example:

        ```python
        >>> from hf_contrastive import CodeCloneForPreTraining, CodeGraphConfig, CodeGraphModel
        >>> encoder = CodeGraphModel(CodeGraphConfig(embedding_size=8))
        >>> CodeCloneForPreTraining.from_backbone(encoder, encoder="graph").config.backbone_config.embedding_size
        8

        ```
        """
        trained, missing = load_backbone(backbone)
        model = cls(cls.config_class(backbone_config=trained.config, **config_fields))
        fill_backbone(model, trained, missing, "encoder")
        return model.train()

    def select_inputs(self, given: dict[str, torch.Tensor | None], ndim: int) -> dict[str, torch.Tensor]:
        """The inputs of this model's kind of encoder.

        Args:
            given (`dict`): all inputs by name, `None` where not given.
            ndim (`int`): dimensions that come before those of one program: 1 for programs, 2 for pairs of them.

        Returns:
            `dict[str, torch.Tensor]`: what the encoder takes.

        Raises:
            ValueError: inputs of another kind of encoder, missing ones, or a wrong shape.
        """
        names = code_encoder_inputs(self.config.encoder)
        found = {name: value for name, value in given.items() if value is not None}
        required = [name for name in names if name != "attention_mask"]
        wrong = [name for name in found if name not in names]
        missing = [name for name in required if name not in found]
        if wrong or missing:
            raise ValueError(
                f"this model takes programs as {self.config.encoder!r}, which needs {', '.join(required)}; got "
                f"{', '.join(found) or 'nothing'}."
            )
        sizes = {"input_ids": 1, "attention_mask": 1, "node_types": 1, "edge_types": 1}
        shape = "[batch, 2, ...]" if ndim == 2 else "[batch, ...]"
        for name, value in found.items():
            if value.ndim != ndim + sizes.get(name, 2) or (ndim == 2 and value.shape[1] != 2):
                what = "pairs of programs" if ndim == 2 else "single programs"
                raise ValueError(f"`{name}` has shape {tuple(value.shape)}, expected {what} {shape}.")
        return found

    def embed_programs(
        self, inputs: dict[str, torch.Tensor], backbone: nn.Module | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings of single programs.

        Args:
            inputs (`dict`): of [`select_inputs`].
            backbone (`nn.Module`, *optional*): a momentum encoder's; the model's own by default.

        Returns:
            `(embeds [batch, dim], states of the encoder)`.
        """
        backbone = self.backbone if backbone is None else backbone
        config = self.config
        if config.encoder != "text":
            outputs = backbone(**inputs)
            return outputs.pooler_output, outputs.last_hidden_state
        mask = inputs.get("attention_mask")
        if mask is None:
            pad = getattr(config.backbone_config, "pad_token_id", None)
            ids = inputs["input_ids"]
            mask = torch.ones_like(ids) if pad is None else (ids != pad).long()
        check_not_empty(mask != 0, "input_ids", "tokens")
        outputs = backbone(input_ids=inputs["input_ids"], attention_mask=mask)
        pooled = pool_text(outputs, mask, "mean" if config.pooling == "mean" else "cls", type(backbone).__name__)
        return pooled, outputs.last_hidden_state

    def project(self, embeds: torch.Tensor, head: nn.Module | None = None) -> torch.Tensor:
        """What the objective compares, not normalised.

        Args:
            embeds (`torch.Tensor` `[batch, dim]`): of [`embed_programs`].
            head (`nn.Module`, *optional*): a momentum encoder's; the model's own by default.
        """
        if self.config.ssl == "simclr" and self.config.normalize_features:
            embeds = nn.functional.normalize(embeds, dim=-1)
        return (self.projection_head if head is None else head)(embeds)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        start_tokens: torch.Tensor | None = None,
        path_nodes: torch.Tensor | None = None,
        end_tokens: torch.Tensor | None = None,
        node_types: torch.Tensor | None = None,
        edge_index: torch.Tensor | None = None,
        edge_types: torch.Tensor | None = None,
    ) -> EmbeddingOutput:
        """Embeddings and projections of single programs, given in the form of `config.encoder`.

        Args:
            input_ids, attention_mask (`torch.LongTensor` `[batch, tokens]`): `"text"`: tokens, and 1 where one is.
            start_tokens, end_tokens (`torch.LongTensor` `[batch, paths, parts]`): `"ast"`: names at both ends of a path.
            path_nodes (`torch.LongTensor` `[batch, paths, nodes]`): `"ast"`: types of the nodes of a path.
            node_types (`torch.LongTensor` `[batch, nodes]`): `"graph"`: type of every node.
            edge_index (`torch.LongTensor` `[batch, 2, edges]`): `"graph"`: from where and to where.
            edge_types (`torch.LongTensor` `[batch, edges]`): `"graph"`: type of every edge.

        Returns:
            [`EmbeddingOutput`] with `embeds`, `projections` and `last_hidden_state`.

        Raises:
            ValueError: inputs of another kind of encoder, wrong shapes, or an empty program.
        """
        given = (
            input_ids, attention_mask, start_tokens, path_nodes, end_tokens, node_types, edge_index, edge_types
        )  # fmt: skip
        inputs = self.select_inputs(dict(zip(INPUTS, given, strict=True)), 1)
        embeds, hidden = self.embed_programs(inputs)
        return EmbeddingOutput(embeds=embeds, projections=self.project(embeds), last_hidden_state=hidden)

    def _embed_for_encode(self, *inputs: torch.Tensor, readout: str, **named: torch.Tensor | None) -> torch.Tensor:
        names = code_encoder_inputs(self.config.encoder)
        if len(inputs) > len(names):
            raise ValueError(f"`encode` takes {', '.join(names)} here, got {len(inputs)} tensors.")
        given = {**dict(zip(names, inputs, strict=False)), **named}
        embeds, _ = self.embed_programs(self.select_inputs(given, 1))
        return embeds if readout == "backbone" else self.project(embeds)


class CodeCloneForPreTraining(CodeCloneModel):
    """The encoder with its objective over pairs of programs that do the same (https://arxiv.org/abs/2206.08726, section 3.3).

    With `labels` the objectives of SimCLR and MoCo are supervised: all programs of a label belong together (SupCon; UniCon
    against a queue that keeps labels). Without, every pair stands alone (NT-Xent, InfoNCE). SwAV learns from the pairs and
    reads no labels. Call `after_optimizer_step()` in a loop of your own: it moves the momentum encoder, fills the queue and
    brings the prototypes back to length 1.

    Args:
        config ([`CodeCloneConfig`]): encoder, head and objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import CodeCloneConfig, CodeCloneForPreTraining, CodeTransformerConfig
    >>> backbone = CodeTransformerConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)
    >>> model = CodeCloneForPreTraining(CodeCloneConfig(ssl="moco", backbone_config=backbone, queue_size=8))
    >>> model(torch.randint(4, 50, (4, 2, 9)), labels=torch.tensor([3, 3, 1, 0])).loss.backward()
    >>> model.after_optimizer_step()
    >>> model.queue.ids.tolist()
    [3, 3, 1, 0, -1, -1, -1, -1]

    ```
    """

    _keys_to_ignore_on_load_unexpected = None
    _keys_to_ignore_on_load_missing = [TRAINING_PARTS]

    @property
    def has_negatives(self) -> bool:  # ty: ignore[incompatible-property-override]
        """Whether other programs are pushed away: not in SwAV."""
        return self.config.ssl != "swav"

    def describe_objective(self) -> str:
        """The objective in one line."""
        return _FORMULAS[self.config.ssl].format(**self.config.to_dict())

    def build_training_parts(self) -> None:
        """Momentum encoder and queue for MoCo, prototypes for SwAV."""
        config = self.config
        if config.ssl == "moco":
            parts = {"backbone": self.backbone, "projection_head": self.projection_head}
            self.momentum_encoder = MomentumEncoder(parts, config.encoder_momentum)
            self.queue = FeatureQueue(config.queue_size, config.projection_dim)
        elif config.ssl == "swav":
            self.prototypes = Prototypes(config.projection_dim, config.num_prototypes, config.freeze_prototypes_steps)

    def embed_views(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        start_tokens: torch.Tensor | None = None,
        path_nodes: torch.Tensor | None = None,
        end_tokens: torch.Tensor | None = None,
        node_types: torch.Tensor | None = None,
        edge_index: torch.Tensor | None = None,
        edge_types: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Embeddings and projections of both programs of every pair; the second one's without gradient in MoCo.

        Args:
            input_ids, attention_mask, start_tokens, path_nodes, end_tokens, node_types, edge_index, edge_types: as in
                `CodeCloneModel.forward`, each with a second axis of 2: `[batch, 2, ...]`.

        Returns:
            `{"projections": [batch, 2, projection_dim], "embeds": [batch, 2, dim]}`.
        """
        given = (
            input_ids, attention_mask, start_tokens, path_nodes, end_tokens, node_types, edge_index, edge_types
        )  # fmt: skip
        inputs = self.select_inputs(dict(zip(INPUTS, given, strict=True)), 2)
        if self.config.ssl != "moco":
            embeds, _ = self.embed_programs({name: value.flatten(0, 1) for name, value in inputs.items()})
            projections = self.project(embeds)
            return {"projections": projections.unflatten(0, (-1, 2)), "embeds": embeds.unflatten(0, (-1, 2))}
        embeds, _ = self.embed_programs({name: value[:, 0] for name, value in inputs.items()})
        slow = self.momentum_encoder
        with torch.no_grad():
            keys, _ = self.embed_programs({name: value[:, 1] for name, value in inputs.items()}, slow.part("backbone"))
            key_projections = self.project(keys, slow.part("projection_head"))
        projections = torch.stack([self.project(embeds), key_projections], 1)
        return {"projections": projections, "embeds": torch.stack([embeds, keys], 1)}

    def compute_objective(
        self, embeds: dict[str, torch.Tensor], labels: torch.Tensor | None = None, return_loss: bool = True
    ) -> CodeCloneOutput:
        """The objective over the pairs of the batch, gathered from all processes.

        Args:
            embeds (`dict`): what `embed_views` returns, for the whole batch.
            labels (`torch.LongTensor` `[batch]`, *optional*): which pairs do the same, 0 or more.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`CodeCloneOutput`].
        """
        projections = embeds["projections"]
        if labels is not None and labels.shape != projections.shape[:1]:
            raise ValueError(
                f"`labels` has shape {tuple(labels.shape)}, expected one label a pair, [{len(projections)}]."
            )
        loss = None
        if return_loss:
            loss = {"simclr": self._sup_con, "moco": self._uni_con, "swav": self._swav}[self.config.ssl](
                projections, labels
            )
        return CodeCloneOutput(loss=loss, embeds=embeds["embeds"], projections=projections)

    def _sup_con(self, projections: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return sup_con(projections, labels, cast(float, self.config.temperature), gather=True)

    def _uni_con(self, projections: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        queue = self.queue.rows()
        projections = projections.to(queue.dtype)
        query, key = projections[:, 0], projections[:, 1].detach()
        loss = uni_con(query, key, labels, queue, self.queue.ids, cast(float, self.config.temperature))
        if self.training:
            self.queue.stage(key, labels)
        return loss

    def _swav(self, projections: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        config = self.config
        scores = self.prototypes(nn.functional.normalize(projections, dim=-1)).transpose(0, 1)
        codes = [
            sinkhorn(side, config.sinkhorn_epsilon, config.sinkhorn_iterations, gather=True)
            for side in scores.detach()
        ]
        return swapped_prediction(
            scores,
            torch.stack(codes),
            cast(float, config.temperature),
            mean_over_prototypes=config.mean_over_prototypes,
        )

    def count_negatives(self, rows: int, views: int) -> int:
        """Negatives of one anchor, those of its label not yet taken away.

        Args:
            rows (`int`): pairs of a global batch.
            views (`int`): programs of a pair.
        """
        return self.config.queue_size if self.config.ssl == "moco" else views * (rows - 1)

    def chance_loss(self, rows: int, views: int) -> float | None:
        """Loss of a model that tells nothing apart, or `None` where labels decide it (MoCo) or there are no negatives.

        Args:
            rows (`int`): pairs of a global batch.
            views (`int`): programs of a pair.
        """
        return math.log(self.count_negatives(rows, views) + 1) if self.config.ssl == "simclr" else None

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        start_tokens: torch.Tensor | None = None,
        path_nodes: torch.Tensor | None = None,
        end_tokens: torch.Tensor | None = None,
        node_types: torch.Tensor | None = None,
        edge_index: torch.Tensor | None = None,
        edge_types: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> CodeCloneOutput:
        """Embed both programs of every pair and compare them.

        Args:
            input_ids, attention_mask, start_tokens, path_nodes, end_tokens, node_types, edge_index, edge_types: as in
                `CodeCloneModel.forward`, each with a second axis of 2: `[batch, 2, ...]`.
            labels (`torch.LongTensor` `[batch]`, *optional*): pairs with the same label do the same, 0 or more. SwAV does not
                read them.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`CodeCloneOutput`] with `loss`, `embeds` and `projections`.

        Raises:
            ValueError: inputs of another kind of encoder, wrong shapes, an empty program, a queue that is no multiple of the
                global batch.
        """
        embeds = self.embed_views(
            input_ids, attention_mask, start_tokens, path_nodes, end_tokens, node_types, edge_index, edge_types
        )
        return self.compute_objective(embeds, labels, return_loss)


__all__ = ["CodeCloneForPreTraining", "CodeCloneModel", "CodeCloneOutput"]
