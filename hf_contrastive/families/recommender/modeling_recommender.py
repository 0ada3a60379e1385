"""Tables of users and items, the pairwise objective, and top-N recommendation from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput, cached_file

from hf_contrastive.distributed import all_gather_no_grad
from hf_contrastive.families.recommender.configuration_recommender import RecommenderConfig
from hf_contrastive.families.recommender.serving import RecommendsItems
from hf_contrastive.losses import bpr_loss, embedding_penalty, info_nce
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel
from hf_contrastive.modules.bipartite_graph import BipartiteGraph
from hf_contrastive.modules.interaction_history import InteractionHistory
from hf_contrastive.utils import evaluation_mode


ID_MAPS = "id_maps.json"


@dataclass
class RecommenderOutput(ModelOutput):
    """Output of a recommender on a batch of triples.

    Args:
        loss (`torch.FloatTensor`, scalar): the objective; averaged over processes it is that of the joined batch.
        bpr_loss (`torch.FloatTensor`, scalar): the pairwise term.
        reg_loss (`torch.FloatTensor`, scalar): the penalty on the embeddings, without its weight.
        user_embeds (`torch.FloatTensor` `[batch, dim]`): final vectors of the users.
        pos_item_embeds (`torch.FloatTensor` `[batch, dim]`): final vectors of the chosen items.
    """

    loss: torch.Tensor | None = None
    bpr_loss: torch.Tensor | None = None
    reg_loss: torch.Tensor | None = None
    user_embeds: torch.Tensor | None = None
    pos_item_embeds: torch.Tensor | None = None


@dataclass
class BatchRows:
    """What the objective looks up for a batch.

    Args:
        users (`[n, dim]`), items (`[m, dim]`): final vectors.
        user_tables (`[n, hidden_size]`), item_tables (`[m, hidden_size]`): rows of the tables.
        all_vectors (`tuple`, *optional*): final vectors of all users and of all items, for `loss_terms`, which is left out without
            them.
        parts (`dict`): what `loss_terms` needs besides.
    """

    users: Tensor
    items: Tensor
    user_tables: Tensor
    item_tables: Tensor
    all_vectors: tuple[Tensor, Tensor] | None = None
    parts: dict[str, Any] = field(default_factory=dict)


class RecommenderModel(RecommendsItems, ContrastivePreTrainedModel):
    """Base of recommenders: one class trains and recommends.

    A system says in `propagate` how final vectors come from the tables, and in `loss_terms` what is learned beyond the pairwise
    loss. Final vectors are saved with the model, so that a checkpoint recommends without its graph.

    Args:
        config ([`RecommenderConfig`]): sizes and objective.
    """

    config: RecommenderConfig
    base_model_prefix = ""
    main_input_name = "user_ids"
    view_inputs = ("user_ids", "pos_item_ids", "neg_item_ids")
    readouts = ("user", "item")
    output_class: type[RecommenderOutput] = RecommenderOutput
    objective_formula = (
        "BPR: mean of log(1 + exp(score of another item - score of the chosen one)) + {reg_weight:g} x penalty"
    )
    _keys_to_ignore_on_load_missing = [r"^history\."]
    _keys_to_ignore_on_load_unexpected = [r"^history\."]

    user_vectors: Tensor
    item_vectors: Tensor
    vectors_ready: Tensor

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__(config)
        self.user_embedding = nn.Embedding(config.num_users, config.hidden_size)
        self.item_embedding = nn.Embedding(config.num_items, config.hidden_size)
        self.history = InteractionHistory(config.num_users, config.num_items, config.num_interactions)
        self.register_buffer("user_vectors", torch.zeros(config.num_users, self.vector_size(config)))
        self.register_buffer("item_vectors", torch.zeros(config.num_items, self.vector_size(config)))
        self.register_buffer("vectors_ready", torch.zeros((), dtype=torch.long))
        self.user_tokens: list[str] | None = None
        self.item_tokens: list[str] | None = None
        self.build_parts()
        self.post_init()
        # every process computes the same ones; DistributedDataParallel would send them around at every step
        self._ddp_params_and_buffers_to_ignore += ["user_vectors", "item_vectors", "vectors_ready"]

    @property
    def adds_terms(self) -> bool:
        """Whether the objective is more than the pairwise one, of all vectors."""
        return type(self).loss_terms is not RecommenderModel.loss_terms

    @staticmethod
    def vector_size(config: RecommenderConfig) -> int:
        """Numbers of a final vector."""
        return config.hidden_size

    def build_parts(self) -> None:
        """Parts beyond the tables."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):
            config = self.config
            if config.initializer == "normal":
                init.normal_(module.weight, std=config.initializer_range)
            elif config.initializer == "xavier_uniform":
                init.xavier_uniform_(module.weight)
            else:
                init.xavier_normal_(module.weight)
        if isinstance(module, RecommenderModel):
            for buffer in (module.user_vectors, module.item_vectors, module.vectors_ready):
                init.zeros_(buffer)

    # ------------------------------------------------------------------------------------------------ interactions

    def set_interactions(
        self,
        users: Any,
        items: Any,
        *,
        user_tokens: Sequence[str] | None = None,
        item_tokens: Sequence[str] | None = None,
    ) -> None:
        """Give the training pairs: the graph to propagate along, and what recommendations leave out.

        Args:
            users (`[E]` whole numbers), items (`[E]` whole numbers): the pairs of the training part, for example
                `data.part("train")`.
            user_tokens (`list[str]`, *optional*), item_tokens (`list[str]`, *optional*): names by number, saved with the model.

        Raises:
            ValueError: no pair, numbers outside the tables, or another number of names than rows.
        """
        for kind, tokens, rows in (
            ("user", user_tokens, self.config.num_users),
            ("item", item_tokens, self.config.num_items),
        ):
            if tokens is not None and len(tokens) != rows:
                raise ValueError(f"{len(tokens)} {kind} tokens were given, but the model has num_{kind}s={rows}.")
        self.history.set_pairs(users, items)
        self.config.num_interactions = len(self.history.items)
        self.user_tokens = None if user_tokens is None else [str(token) for token in user_tokens]
        self.item_tokens = None if item_tokens is None else [str(token) for token in item_tokens]
        self.vectors_ready.zero_()

    def graph(self) -> BipartiteGraph:
        """The graph of the training pairs."""
        return self.history.graph()

    # ------------------------------------------------------------------------------------------------------ training

    def tables(self) -> Tensor:
        """Rows of users, then of items, `[num_users + num_items, hidden_size]`."""
        return torch.cat([self.user_embedding.weight, self.item_embedding.weight])

    def mean_over_layers(self, num_layers: int, weights: Sequence[Tensor] | None = None) -> Tensor:
        """The mean of the tables after 0 to `num_layers` steps along the edges (LightGCN).

        Args:
            num_layers (`int`): steps; 0 needs no graph.
            weights (`Sequence[Tensor]`, *optional*): of the edges in every step, `[num_edges]` each; the graph's by default.

        Returns:
            `Tensor` `[num_users + num_items, hidden_size]`.
        """
        x = total = self.tables()
        if num_layers and weights is None:
            return self.graph().mean_of_steps(x, num_layers)
        for layer in range(num_layers):
            x = self.graph().propagate(x, None if weights is None else weights[layer])
            total = total + x
        return total / (num_layers + 1)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Final vectors of all users and items, with gradient.

        Returns:
            `(users [num_users, dim], items [num_items, dim])`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how final vectors are made; override `propagate`."
        )

    def propagate_in_training(self, **draws: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Final vectors as the objective sees them, where they are others than those of inference (dropped edges).

        Args:
            **draws (`Tensor`, *optional*): random draws of the system, to fix them.

        Returns:
            `(users [num_users, dim], items [num_items, dim], parts)`: `parts` holds what `loss_terms` needs besides, by name.
        """
        return *self.propagate(), {}

    def look_up(self, user_ids: Tensor, item_ids: Tensor, **draws: Any) -> BatchRows:
        """Final vectors and table rows of a batch. Systems that need no others may find them without all vectors in between.

        Args:
            user_ids (`LongTensor` `[n]`), item_ids (`LongTensor` `[m]`): numbers, checked.
            **draws (`Tensor`, *optional*): random draws of the system, to fix them.
        """
        users, items, parts = self.propagate_in_training(**draws)
        with nullcontext() if self.config.reg_weight else torch.no_grad():  # without a weight it is only looked at
            tables = (
                self.user_embedding.weight.index_select(0, user_ids),
                self.item_embedding.weight.index_select(0, item_ids),
            )
        # index_select: its gradient takes half the time of that of indexing
        return BatchRows(
            users.index_select(0, user_ids), items.index_select(0, item_ids), *tables, (users, items), parts
        )

    def split(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of users and rows of items."""
        return nodes[: self.config.num_users], nodes[self.config.num_users :]

    def embed_views(self, user_ids: Tensor, pos_item_ids: Tensor, neg_item_ids: Tensor) -> dict[str, Tensor]:
        """The numbers of a batch, checked; vectors are made for all of them at once in `compute_objective`.

        Args:
            user_ids (`LongTensor` `[batch]`), pos_item_ids (`LongTensor` `[batch]`), neg_item_ids (`LongTensor` `[batch]` or
                `[batch, negatives]`).
        """
        self._check_ids("user_ids", user_ids, self.config.num_users)
        for name, ids in (("pos_item_ids", pos_item_ids), ("neg_item_ids", neg_item_ids)):
            self._check_ids(name, ids, self.config.num_items)
            if len(ids) != len(user_ids):
                raise ValueError(f"`user_ids` has {len(user_ids)} rows and `{name}` {len(ids)}; give one for each.")
        return {"user_ids": user_ids, "pos_item_ids": pos_item_ids, "neg_item_ids": neg_item_ids}

    def _check_ids(self, name: str, ids: Tensor, rows: int) -> None:
        if ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"`{name}` must hold whole numbers, got {ids.dtype}.")
        if not ids.numel():
            return
        low, high = (int(end) for end in ids.aminmax())
        if not 0 <= low <= high < rows:
            raise ValueError(f"`{name}` goes from {low} to {high}, but the model has 0 to {rows - 1}.")

    def compute_objective(
        self, embeds: dict[str, Tensor], return_loss: bool = True, **draws: Any
    ) -> RecommenderOutput:
        """The objective over a batch.

        Args:
            embeds (`dict`): what `embed_views` returns.
            return_loss (`bool`, defaults to `True`): compute the loss.
            **draws (`Tensor`, *optional*): random draws of the system, to fix them.
        """
        if "pos_item_ids" not in embeds:
            return self.output_class(user_embeds=self.propagate()[0].index_select(0, embeds["user_ids"]))
        chosen, others = embeds["pos_item_ids"], embeds["neg_item_ids"]
        # at once: every look-up has a gradient as large as the table
        rows = self.look_up(
            embeds["user_ids"], torch.cat([chosen, others.flatten()]) if return_loss else chosen, **draws
        )
        if not return_loss:
            return self.output_class(user_embeds=rows.users, pos_item_embeds=rows.items)
        user, config = rows.users, self.config
        positive, negative = _apart(rows.items, others)
        scores = (
            (user * positive).sum(-1),
            (user[:, None] * negative if negative.dim() == 3 else user * negative).sum(-1),
        )
        terms = {"bpr_loss": bpr_loss(*scores, form=config.bpr_form)}
        table_positive, table_negative = _apart(rows.item_tables, others)
        tables = [rows.user_tables, table_positive]
        tables += table_negative.unbind(1) if negative.dim() == 3 else [table_negative]
        with nullcontext() if config.reg_weight else torch.no_grad():  # without a weight it is only looked at
            terms["reg_loss"] = embedding_penalty(*tables, form=config.penalty_form, gather=True)
        terms["loss"] = terms["bpr_loss"] + config.reg_weight * terms["reg_loss"]
        if rows.all_vectors is not None:
            terms = self.loss_terms(terms, embeds, *rows.all_vectors, **rows.parts, **draws)
        return self.output_class(**terms, user_embeds=user, pos_item_embeds=positive)

    def loss_terms(
        self,
        terms: dict[str, Tensor],
        embeds: dict[str, Tensor],
        users: Tensor,
        items: Tensor,
        **parts: Any,
    ) -> dict[str, Tensor]:
        """What the system adds to the pairwise objective.

        Args:
            terms (`dict`): `loss`, `bpr_loss`, `reg_loss`.
            embeds (`dict`): what `embed_views` returns.
            users (`[num_users, dim]`), items (`[num_items, dim]`): final vectors.
            **parts (*optional*): of `propagate_in_training`, and random draws of the system.

        Returns:
            The fields of `output_class`.
        """
        return terms

    def forward(
        self,
        user_ids: Tensor,
        pos_item_ids: Tensor | None = None,
        neg_item_ids: Tensor | None = None,
        return_loss: bool = True,
    ) -> RecommenderOutput:
        """Score triples.

        Args:
            user_ids (`LongTensor` `[batch]`): users; alone they have vectors and no loss.
            pos_item_ids (`LongTensor` `[batch]`, *optional*): an item of each that the user chose.
            neg_item_ids (`LongTensor` `[batch]` or `[batch, negatives]`, *optional*): items that the user did not choose.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`RecommenderOutput`].

        Raises:
            ValueError: numbers outside the tables, rows that do not fit, one of both items missing, or no interactions where the model
                propagates along them.
        """
        return self.compute_objective(self.embed_triples(user_ids, pos_item_ids, neg_item_ids), return_loss)

    def embed_triples(
        self, user_ids: Tensor, pos_item_ids: Tensor | None, neg_item_ids: Tensor | None
    ) -> dict[str, Tensor]:
        """`embed_views` of arguments that may be missing: users alone have vectors and no loss."""
        if pos_item_ids is None and neg_item_ids is None:
            self._check_ids("user_ids", user_ids, self.config.num_users)
            return {"user_ids": user_ids}
        if pos_item_ids is None or neg_item_ids is None:
            raise ValueError(
                "give both `pos_item_ids` and `neg_item_ids`, or neither (vectors of the users, no loss)."
            )
        return self.embed_views(user_ids, pos_item_ids, neg_item_ids)

    def set_epoch(self, epoch: int) -> None:
        """An epoch begins; what a system draws once an epoch is drawn anew. The trainer calls this.

        Args:
            epoch (`int`): its number, from 0.
        """

    def chance_loss(self, rows: int, views: int) -> float | None:
        """None: small tables, as usual here, stay near the loss of guessing for a while."""
        return None

    def after_optimizer_step(self) -> None:
        """Final vectors are no longer those of the tables."""
        super().after_optimizer_step()
        self.vectors_ready.zero_()

    # ----------------------------------------------------------------------------------------------------- inference

    @torch.no_grad()
    def refresh_vectors(self) -> None:
        """Compute the final vectors of all users and items from the tables and the graph."""
        with evaluation_mode(self):
            users, items = self.propagate()
        self.user_vectors.copy_(users)
        self.item_vectors.copy_(items)
        self.vectors_ready.fill_(1)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Final vectors, `(users [num_users, dim], items [num_items, dim])`; computed where they are not those of the tables."""
        if not int(self.vectors_ready):
            self.refresh_vectors()
        return self.user_vectors, self.item_vectors

    def _embed_for_encode(
        self, user_ids: Tensor | None = None, item_ids: Tensor | None = None, *, readout: str
    ) -> Tensor:
        ids, other = (item_ids, user_ids) if readout == "item" else (user_ids, item_ids)
        if ids is None or other is not None:
            raise ValueError(
                f"readout={readout!r} takes `{readout}_ids` and nothing else; give `user_ids`, or `item_ids` with readout='item'."
            )
        self._check_ids(f"{readout}_ids", ids, getattr(self.config, f"num_{readout}s"))
        return self.vectors()[self.readouts.index(readout)][ids]

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as every model does, with final vectors and names of users and items."""
        if kwargs.get("is_main_process", True) is not False and (not int(self.vectors_ready)) and self.can_propagate():
            self.refresh_vectors()
            state = kwargs.get("state_dict")
            if state is not None:  # the trainer's, made before
                for name in ("user_vectors", "item_vectors", "vectors_ready"):
                    if name in state:
                        state[name] = getattr(self, name)
        super().save_pretrained(save_directory, *args, **kwargs)

    def write_extra_files(self, folder: Path) -> None:
        """Names of users and items, beside the weights."""
        names = {"users": self.user_tokens, "items": self.item_tokens}
        if any(tokens is not None for tokens in names.values()):
            (folder / ID_MAPS).write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as every model, with the names of users and items."""
        names = ("revision", "token", "cache_dir", "subfolder", "local_files_only")
        options = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        file = cached_file(
            pretrained_model_name_or_path, ID_MAPS, _raise_exceptions_for_missing_entries=False, **options
        )
        if file is not None:
            found = json.loads(Path(file).read_text(encoding="utf-8"))
            model.user_tokens, model.item_tokens = found["users"], found["items"]
        return loaded

    def can_propagate(self) -> bool:
        """Whether final vectors can be computed now."""
        return self.history.is_set


def global_unique(ids: Tensor) -> Tensor:
    """Different numbers of the batch of all processes, sorted, the same on every process."""
    return torch.unique(all_gather_no_grad(ids.flatten()))


def contrast_nodes(first: Tensor, second: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views of the nodes of a batch: each node of the first view finds itself among those of the second.

    Args:
        first (`Tensor` `[nodes, dim]`), second (`Tensor` `[nodes, dim]`): the views, of all nodes.
        ids (`LongTensor` `[batch]`): nodes of this process's batch; each counts once, whatever the process.
        temperature (`float`): T.

    Returns:
        `Tensor`: a scalar, the same on every process; 0 where the batch has a single node.
    """
    nodes = global_unique(ids)
    if len(nodes) < 2:
        return (first[nodes] * 0).sum()
    kind = torch.promote_types(first.dtype, second.dtype)  # under autocast one of them may be bfloat16
    return info_nce(
        first.index_select(0, nodes).to(kind), second.index_select(0, nodes).to(kind), temperature=temperature
    )


def contrast_with_all(
    first: Tensor, second: Tensor, ids: Tensor, temperature: float, reduction: str = "mean"
) -> Tensor:
    """InfoNCE between two views with all nodes of the second view as negatives (SGL as in RecBole): the cost grows with the
    number of nodes, use it below 10^5.

    Args:
        first (`Tensor` `[nodes, dim]`), second (`Tensor` `[nodes, dim]`): the views, of all nodes.
        ids (`LongTensor` `[batch]`): nodes of this process's batch; repeated ones count again.
        temperature (`float`): T.
        reduction (`str`, defaults to `"mean"`): over the batch, `"mean"` or `"sum"` (RecBole's, which grows with the batch).

    Returns:
        `Tensor`: a scalar.
    """
    # a node that comes several times in the batch is compared once
    nodes, counts = torch.unique(ids, return_counts=True)
    losses = info_nce(
        first.index_select(0, nodes),
        second.index_select(0, nodes),
        second,
        temperature=temperature,
        sample_ids=nodes,
        negative_ids=torch.arange(len(second), device=ids.device),
        in_batch_negatives=False,
        reduction="none",
    )
    loss = (losses * counts).sum()
    return loss if reduction == "sum" else loss / len(ids)


def _apart(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the chosen items and, in the shape of their numbers, of the other ones."""
    positive, negative = rows.split([len(rows) - others.numel(), others.numel()])
    return positive, negative.view(*others.shape, -1)


__all__ = [
    "BatchRows",
    "RecommenderModel",
    "RecommenderOutput",
    "contrast_nodes",
    "contrast_with_all",
    "global_unique",
]
