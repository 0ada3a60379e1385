"""SimCTG: a causal language model whose tokens have hidden states that can be told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import ModelOutput

from hf_contrastive.families.decoder.modeling_decoder import DecoderPreTrainedModel
from hf_contrastive.generation.door import ContrastiveGenerationMixin, wire_contrastive_search
from hf_contrastive.losses import next_token_loss, simctg_loss
from hf_contrastive.models.simctg.configuration_simctg import SimCTGConfig


@dataclass
class SimCTGOutput(ModelOutput):
    """Output of SimCTG.

    Args:
        loss (`torch.FloatTensor`, scalar): `mle_loss + contrastive_weight * contrastive_loss`.
        mle_loss (`torch.FloatTensor`, scalar): mean cross-entropy of the next token, in nats.
        contrastive_loss (`torch.FloatTensor`, scalar): of the hidden states, not weighted; from 0 to margin + 1.
        logits (`torch.FloatTensor` `[batch, length, vocabulary]`): of the next token at every position.
        last_hidden_state (`torch.FloatTensor` `[batch, length, dim]`): what the output matrix is applied to.
        hidden_states (`tuple[torch.FloatTensor]`): of every layer, when asked for.
    """

    loss: torch.Tensor | None = None
    mle_loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class SimCTGForCausalLM(ContrastiveGenerationMixin, DecoderPreTrainedModel):
    """Any causal language model with SimCTG's objective (https://arxiv.org/abs/2202.06417, equations 1 to 3).

    `generate` is that of the language model, and contrastive search when `penalty_alpha` is set. To train a pretrained
    model further, build it with [`~SimCTGForCausalLM.from_backbone`]; `hf_contrastive.hub.export_backbone` writes the
    trained language model back in its own form.

    Args:
        config ([`SimCTGConfig`]): language model, margin and weight.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import SimCTGConfig, SimCTGForCausalLM
    >>> backbone = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}
    >>> backbone |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    >>> model = SimCTGForCausalLM(SimCTGConfig(backbone_config=backbone))
    >>> ids = torch.tensor([[5, 6, 7, 8]])
    >>> outputs = model(ids, labels=ids)
    >>> outputs.loss.backward()
    >>> sorted(name for name in outputs if name.endswith("loss")), outputs.logits.shape
    (['contrastive_loss', 'loss', 'mle_loss'], torch.Size([1, 4, 50]))
    >>> model.eval().generate(ids, penalty_alpha=0.6, top_k=4, max_new_tokens=3, min_new_tokens=3).shape
    torch.Size([1, 7])

    ```
    """

    config: SimCTGConfig
    backbone_auto_class = AutoModelForCausalLM
    writes_text = True
    view_inputs = ("input_ids", "attention_mask")
    has_negatives = False
    readouts = ("mean", "last")
    objective_formula = (
        "SimCTG: cross-entropy of the next token + {contrastive_weight:g} * mean over pairs i != j of a text of "
        "max(0, {margin:g} - 1 + cosine(h_i, h_j))"
    )

    def __init__(self, config: SimCTGConfig) -> None:
        super().__init__(config)
        self.backbone: Any = AutoModelForCausalLM.from_config(cast(PreTrainedConfig, config.backbone_config))
        self.post_init()

    @property
    def generation_config(self) -> Any:
        """That of the language model: there is one, whoever is asked."""
        backbone = self._modules.get("backbone")
        return vars(self).get("_generation_config") if backbone is None else backbone.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        backbone: Any = self._modules.get("backbone")
        if backbone is None:  # transformers sets one before the parts are built
            vars(self)["_generation_config"] = value
        else:
            backbone.generation_config = value

    def get_output_embeddings(self) -> nn.Module:
        """The output matrix of the language model."""
        return self.backbone.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output matrix of the language model."""
        self.backbone.set_output_embeddings(new_embeddings)

    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """As `transformers.GenerationMixin.generate` of the language model; contrastive search for `penalty_alpha` above 0.

        Args:
            inputs (`torch.LongTensor` `[batch, length]`, *optional*): the prompt.
            generation_config (`GenerationConfig`, *optional*): the model's own by default.
            **kwargs: as for `transformers.GenerationMixin.generate`, and `penalty_scope`, `low_memory` of
                [`contrastive_search`].

        Returns:
            What `generate` returns.

        Raises:
            ValueError: what [`contrastive_search`] refuses.
        """
        kwargs = wire_contrastive_search(generation_config or self.generation_config, kwargs)
        return self.backbone.generate(inputs, generation_config, **kwargs)

    def embed_views(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Logits and hidden states of every token.

        Args:
            input_ids (`torch.LongTensor` `[batch, length]`): tokens.
            attention_mask (`torch.LongTensor` `[batch, length]`, *optional*): 0 for padding.

        Returns:
            `{"logits": [batch, length, vocabulary], "last_hidden_state": [batch, length, dim], "attention_mask": [batch,
            length]}`.
        """
        embeds, _ = self._run(input_ids, attention_mask)
        return embeds

    def compute_objective(
        self, embeds: dict[str, torch.Tensor], labels: torch.Tensor | None = None, return_loss: bool = True
    ) -> SimCTGOutput:
        """The two losses over the batch; means are over the tokens and pairs of all processes.

        Args:
            embeds (`dict`): what `embed_views` returns.
            labels (`torch.LongTensor` `[batch, length]`, *optional*): the tokens themselves, not shifted; -100 is not
                predicted. Without them there is no loss.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`SimCTGOutput`].
        """
        logits, hidden = embeds["logits"], embeds["last_hidden_state"]
        terms: dict[str, Any] = {}
        if labels is not None and return_loss:
            if labels.shape != logits.shape[:2]:
                raise ValueError(
                    f"`labels` has shape {list(labels.shape)}, expected that of `input_ids`, {list(logits.shape[:2])}: "
                    "the tokens themselves, not shifted, with -100 where nothing is predicted."
                )
            weight = self.config.contrastive_weight
            compared = hidden if weight else hidden.detach()  # with weight 0 it is only watched
            terms["mle_loss"] = next_token_loss(logits, labels, gather=True)
            terms["contrastive_loss"] = simctg_loss(
                compared, embeds["attention_mask"], self.config.margin, gather=True
            )
            terms["loss"] = terms["mle_loss"] + weight * terms["contrastive_loss"] if weight else terms["mle_loss"]
        return SimCTGOutput(logits=logits, last_hidden_state=hidden, **terms)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_loss: bool = True,
        output_hidden_states: bool = False,
    ) -> SimCTGOutput:
        """Predict the next token everywhere, and compare the hidden states of every text.

        Args:
            input_ids (`torch.LongTensor` `[batch, length]`): tokens, padded on the right.
            attention_mask (`torch.LongTensor` `[batch, length]`, *optional*): 0 for padding. Without it, a run of pad tokens
                at either end of a row counts as padding (but for one at the end, when it is the end-of-text token too).
            labels (`torch.LongTensor` `[batch, length]`, *optional*): usually `input_ids` with -100 at padding; they are
                shifted here. Without them there is no loss.
            return_loss (`bool`, defaults to `True`): compute the loss.
            output_hidden_states (`bool`, defaults to `False`): return the states of every layer.

        Returns:
            [`SimCTGOutput`].

        Raises:
            ValueError: shapes that do not fit, or token ids outside the vocabulary.
        """
        embeds, states = self._run(input_ids, attention_mask)
        outputs = self.compute_objective(embeds, labels, return_loss)
        if output_hidden_states:
            outputs.hidden_states = states
        return outputs

    def _run(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, ...]]:
        self.check_ids(input_ids, attention_mask)
        mask = self.mask_of(input_ids) if attention_mask is None else attention_mask
        outputs = self.backbone(
            input_ids=input_ids, attention_mask=mask, output_hidden_states=True, use_cache=False, return_dict=True
        )
        states = outputs.hidden_states
        if not states:
            raise ValueError(f"{type(self.backbone).__name__} returns no hidden states, which SimCTG compares.")
        return {"logits": outputs.logits, "last_hidden_state": states[-1], "attention_mask": mask}, states

    def _embed_for_encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, *, readout: str
    ) -> torch.Tensor:
        embeds, _ = self._run(input_ids, attention_mask)
        hidden, mask = embeds["last_hidden_state"], embeds["attention_mask"]
        if readout == "last":
            places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
            last = places.masked_fill(mask == 0, 0).amax(1)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        weights = mask.to(hidden.dtype)[..., None]
        return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1)


__all__ = ["SimCTGForCausalLM", "SimCTGOutput"]
