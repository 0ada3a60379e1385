"""Encoders of programs: tokens, paths in the syntax tree, graphs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention

from hf_contrastive.backbones.configuration_code_encoders import (
    CodeGraphConfig,
    CodePathsConfig,
    CodeTransformerConfig,
)
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel


class _CodeEncoder(ContrastivePreTrainedModel):
    input_modalities = ["text"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):
            # torch's own, as in the official code; beside sinusoids of size 1, normal(0, 0.02) would hide the tokens
            init.normal_(module.weight)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])

    def _embed_for_encode(self, *args: torch.Tensor, readout: str, **named: torch.Tensor) -> torch.Tensor:
        return self(*args, **named).pooler_output


class CodeTransformerModel(_CodeEncoder):
    """A transformer with sinusoidal positions and layer norm after every part; the output is the state of the first token.

    The official code takes positions from the row of the batch and attends to padding, so that an embedding there depends on
    the rest of its batch; here positions run along the program, and padding is masked.

    Args:
        config ([`CodeTransformerConfig`]): sizes.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import CodeTransformerConfig, CodeTransformerModel
    >>> model = CodeTransformerModel(CodeTransformerConfig(vocab_size=50, num_hidden_layers=1))
    >>> model(torch.tensor([[2, 7, 9], [2, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])).pooler_output.shape
    torch.Size([2, 128])

    ```
    """

    config: CodeTransformerConfig
    main_input_name = "input_ids"
    view_inputs = ("input_ids", "attention_mask")

    def __init__(self, config: CodeTransformerConfig) -> None:
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(_TransformerLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """Encode programs.

        Args:
            input_ids (`torch.LongTensor` `[batch, tokens]`): tokens, padded on the right.
            attention_mask (`torch.LongTensor` `[batch, tokens]`, *optional*): 1 at tokens, 0 at padding; by default all
                that is not the padding id counts.

        Returns:
            `last_hidden_state` `[batch, tokens, hidden_size]` and `pooler_output` `[batch, hidden_size]`.

        Raises:
            ValueError: a wrong shape, more tokens than positions, or a program without tokens.
        """
        if input_ids.ndim != 2:
            raise ValueError(f"`input_ids` has shape {tuple(input_ids.shape)}, expected [batch, tokens].")
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"`input_ids` holds {input_ids.shape[1]} tokens, but the encoder has {self.config.max_position_embeddings} "
                "positions; cut the programs, or set max_position_embeddings."
            )
        if attention_mask is None:
            pad = self.config.pad_token_id
            attention_mask = torch.ones_like(input_ids) if pad is None else (input_ids != pad).long()
        check_not_empty(attention_mask != 0, "input_ids", "tokens")
        hidden = self.token_embedding(input_ids)
        hidden = self.dropout(hidden + sinusoids(input_ids.shape[1], hidden))
        mask = (attention_mask != 0)[:, None, None, :]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=hidden, pooler_output=hidden[:, 0])


def sinusoids(length: int, like: torch.Tensor) -> torch.Tensor:
    """Sinusoidal positions `[length, dim]` (Vaswani et al. 2017, section 3.5), in type and place of `like` `[..., dim]`."""
    dim = like.shape[-1]
    positions = torch.arange(length, device=like.device, dtype=torch.float64)[:, None]
    steps = torch.arange(0, dim, 2, device=like.device, dtype=torch.float64)
    angles = positions * torch.exp(steps * (-math.log(10000.0) / dim))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(like.dtype)


class _TransformerLayer(GradientCheckpointingLayer):
    """Attention, then a feed-forward part with ReLU; layer norm after each, as torch's encoder layer has it."""

    def __init__(self, config: CodeTransformerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.dropout
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(size, size) for _ in range(3))
        self.out_proj = nn.Linear(size, size)
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.fc1, self.fc2 = nn.Linear(size, config.intermediate_size), nn.Linear(config.intermediate_size, size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        heads = [
            part(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        ]
        dropout = self.attention_dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask, dropout_p=dropout)
        hidden = self.norm1(hidden + self.dropout(self.out_proj(attended.transpose(1, 2).flatten(2))))
        return self.norm2(hidden + self.dropout(self.fc2(self.dropout(self.fc1(hidden).relu()))))


class CodePathsModel(_CodeEncoder):
    """Paths between leaves of the syntax tree, each read by an LSTM, and attention over the paths of a program.

    A path is two leaves, whose names are sums of their parts, and the types of the nodes between them
    (code2seq, https://arxiv.org/abs/1808.01400, section 3.2; here with a classifier's head in place of the decoder).

    Args:
        config ([`CodePathsConfig`]): sizes.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import CodePathsConfig, CodePathsModel
    >>> model = CodePathsModel(CodePathsConfig(token_vocab_size=9, node_vocab_size=9, output_size=16))
    >>> names, nodes = torch.randint(1, 9, (2, 5, 3)), torch.randint(1, 9, (2, 5, 7))
    >>> model(names, nodes, names).pooler_output.shape
    torch.Size([2, 16])

    ```
    """

    config: CodePathsConfig
    main_input_name = "path_nodes"
    view_inputs = ("start_tokens", "path_nodes", "end_tokens")
    supports_gradient_checkpointing = False

    def __init__(self, config: CodePathsConfig) -> None:
        super().__init__(config)
        size = config.embedding_size
        self.token_embedding = nn.Embedding(config.token_vocab_size, size, padding_idx=0)
        self.node_embedding = nn.Embedding(config.node_vocab_size, size, padding_idx=0)
        self.path_lstm = nn.LSTM(size, config.rnn_size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(2 * size + 2 * config.rnn_size, config.classifier_size, bias=False)
        self.norm = nn.LayerNorm(config.classifier_size)
        self.attention = nn.Linear(config.classifier_size, 1, bias=False)
        sizes = [config.classifier_size] * (config.classifier_layers + 1)
        self.hidden_layers = nn.ModuleList(nn.Linear(size, size) for size in sizes[1:])
        self.output_layer = nn.Linear(config.classifier_size, config.output_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.LSTM):
            bound = 1 / math.sqrt(module.hidden_size)  # torch's own
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)

    def embed_paths(
        self, start_tokens: torch.Tensor, path_nodes: torch.Tensor, end_tokens: torch.Tensor
    ) -> torch.Tensor:
        """One vector a path.

        Args:
            start_tokens, end_tokens (`torch.LongTensor` `[paths, parts]`): parts of the names at both ends, 0 fills up.
            path_nodes (`torch.LongTensor` `[paths, nodes]`): types of the nodes, 0 fills up at the end.

        Returns:
            `torch.FloatTensor` `[paths, classifier_size]`.
        """
        start, end = (self.token_embedding(tokens).sum(1) for tokens in (start_tokens, end_tokens))
        lengths = (path_nodes != 0).sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.node_embedding(path_nodes), lengths, batch_first=True, enforce_sorted=False
        )
        _, (last, _) = self.path_lstm(packed)
        nodes = last.transpose(0, 1).flatten(1)
        return self.norm(self.linear(self.dropout(torch.cat([start, nodes.to(start.dtype), end], 1)))).tanh()

    def forward(
        self, start_tokens: torch.Tensor, path_nodes: torch.Tensor, end_tokens: torch.Tensor
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """Encode programs.

        Args:
            start_tokens, end_tokens (`torch.LongTensor` `[batch, paths, parts]`): parts of the names at both ends of every
                path, 0 fills up.
            path_nodes (`torch.LongTensor` `[batch, paths, nodes]`): types of the nodes of every path, 0 fills up at the end;
                a path that begins with 0 is no path.

        Returns:
            `last_hidden_state` `[batch, paths, classifier_size]` (zeros where there is no path) and `pooler_output`
            `[batch, output_size]`.

        Raises:
            ValueError: a wrong shape, or a program without paths.
        """
        if (
            path_nodes.ndim != 3
            or start_tokens.shape != end_tokens.shape
            or start_tokens.shape[:2] != path_nodes.shape[:2]
        ):
            raise ValueError(
                "expected `start_tokens` and `end_tokens` [batch, paths, parts] and `path_nodes` [batch, paths, nodes], got "
                f"{tuple(start_tokens.shape)}, {tuple(end_tokens.shape)}, {tuple(path_nodes.shape)}."
            )
        real = path_nodes[..., 0] != 0
        check_not_empty(real, "path_nodes", "paths")
        vectors = self.embed_paths(start_tokens[real], path_nodes[real], end_tokens[real])
        hidden = vectors.new_zeros(*real.shape, vectors.shape[-1]).masked_scatter(real[..., None], vectors)
        scores = self.attention(hidden).squeeze(-1).masked_fill(~real, -torch.inf)
        pooled = (scores.softmax(1)[..., None] * hidden).sum(1)
        for layer in self.hidden_layers:
            pooled = layer(pooled).relu()
        pooled = self.output_layer(pooled)
        if self.config.output_softmax:
            pooled = pooled.softmax(-1)
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=hidden, pooler_output=pooled)


class CodeGraphModel(_CodeEncoder):
    """Graph convolution with softmax aggregation over typed nodes and edges, mean over the nodes, two layers.

    Args:
        config ([`CodeGraphConfig`]): sizes.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import CodeGraphConfig, CodeGraphModel
    >>> model = CodeGraphModel(CodeGraphConfig(node_vocab_size=9, edge_vocab_size=2)).eval()
    >>> nodes = torch.tensor([[4, 5, 6], [7, 8, -1]])  # -1 fills up
    >>> edges = torch.tensor([[[0, 1], [1, 2]], [[0, -1], [1, -1]]])
    >>> model(nodes, edges, torch.tensor([[0, 1], [0, -1]])).pooler_output.shape
    torch.Size([2, 128])

    ```
    """

    config: CodeGraphConfig
    main_input_name = "node_types"
    view_inputs = ("node_types", "edge_index", "edge_types")
    supports_gradient_checkpointing = False

    def __init__(self, config: CodeGraphConfig) -> None:
        super().__init__(config)
        self.node_embedding = nn.Embedding(config.node_vocab_size, config.embedding_size)
        self.edge_embedding = nn.Embedding(config.edge_vocab_size, config.embedding_size)
        self.convolutions = nn.ModuleList(_GraphConvolution(config) for _ in range(config.num_conv_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.embedding_size) for _ in range(config.num_conv_layers - 1))
        self.fc1 = nn.Linear(config.embedding_size, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.output_size)
        self.post_init()

    def forward(
        self, node_types: torch.Tensor, edge_index: torch.Tensor, edge_types: torch.Tensor
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """Encode graphs.

        Args:
            node_types (`torch.LongTensor` `[batch, nodes]`): type of every node, -1 fills up.
            edge_index (`torch.LongTensor` `[batch, 2, edges]`): numbers of the nodes, within their graph, that an edge comes
                from (row 0) and goes to (row 1); -1 fills up.
            edge_types (`torch.LongTensor` `[batch, edges]`): type of every edge, -1 fills up.

        Returns:
            `last_hidden_state` `[batch, nodes, embedding_size]` (zeros where there is no node) and `pooler_output`
            `[batch, output_size]`.

        Raises:
            ValueError: a wrong shape, a graph without nodes, or an edge to a node that is not there.
        """
        good = node_types.ndim == 2 and edge_index.ndim == 3 and edge_index.shape[1] == 2 and edge_types.ndim == 2
        if not good or not len(node_types) == len(edge_index) == len(edge_types):
            raise ValueError(
                "expected `node_types` [batch, nodes], `edge_index` [batch, 2, edges] and `edge_types` [batch, edges], got "
                f"{tuple(node_types.shape)}, {tuple(edge_index.shape)}, {tuple(edge_types.shape)}."
            )
        real = node_types >= 0
        check_not_empty(real, "node_types", "nodes")
        # the nodes of all graphs in a row: batch norm must not see padding
        places = torch.full_like(node_types, -1)
        places[real] = torch.arange(int(real.sum()), device=node_types.device)
        is_edge = edge_types >= 0
        wrong = is_edge & ((edge_index < 0) | (edge_index >= node_types.shape[1])).any(1)
        numbers = edge_index.clamp(0, max(node_types.shape[1] - 1, 0))
        ends = places[:, None, :].expand(-1, 2, -1).gather(2, numbers).transpose(1, 2)[is_edge]
        if bool(wrong.any()) or bool((ends < 0).any()):
            raise ValueError("`edge_index` names a node that its graph does not have; nodes are numbered from 0.")
        source, target = ends.unbind(1)
        hidden = self.node_embedding(node_types[real])
        edges = self.edge_embedding(edge_types[is_edge])
        for number, convolution in enumerate(self.convolutions):
            if number == 0:
                hidden = convolution(hidden, source, target, edges)
            else:
                hidden = hidden + convolution(self.norms[number - 1](hidden).relu(), source, target, edges)
        states = hidden.new_zeros(*real.shape, hidden.shape[-1]).masked_scatter(real[..., None], hidden)
        pooled = states.sum(1) / real.sum(1, keepdim=True).to(states.dtype)
        pooled = self.fc2(self.fc1(pooled).relu())
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=states, pooler_output=pooled)


class _GraphConvolution(nn.Module):
    """Messages relu(source + edge) + eps, softmax over the messages of a node for every channel, an MLP on the sum with the
    node itself (DeeperGCN, equations 3 to 6)."""

    def __init__(self, config: CodeGraphConfig) -> None:
        super().__init__()
        self.eps, self.temperature = config.message_eps, config.softmax_temperature
        size = config.embedding_size
        sizes = [size, *[2 * size] * (config.conv_mlp_layers - 1), size]
        self.linears = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(after) for after in sizes[1:-1])

    def forward(
        self, hidden: torch.Tensor, source: torch.Tensor, target: torch.Tensor, edges: torch.Tensor
    ) -> torch.Tensor:
        messages = (hidden[source] + edges).relu() + self.eps
        hidden = hidden + softmax_aggregate(messages, target, len(hidden), self.temperature).to(hidden.dtype)
        for linear, norm in zip(self.linears, self.norms, strict=False):
            hidden = norm(linear(hidden)).relu()
        return self.linears[-1](hidden)


def softmax_aggregate(
    messages: torch.Tensor, target: torch.Tensor, num_nodes: int, temperature: float = 1.0
) -> torch.Tensor:
    """For every node and channel the mean of the incoming messages, weighted by their softmax; zeros where none comes in.

    Args:
        messages (`torch.Tensor` `[edges, dim]`): one for each edge.
        target (`torch.LongTensor` `[edges]`): the node it goes to.
        num_nodes (`int`): nodes.
        temperature (`float`, defaults to 1.0): factor of the messages inside the softmax.

    Returns:
        `torch.Tensor` `[num_nodes, dim]`.
    """
    scores = messages * temperature
    index = target[:, None].expand_as(scores)
    largest = (
        scores.detach()
        .new_zeros(num_nodes, scores.shape[1])
        .scatter_reduce(0, index, scores.detach(), "amax", include_self=False)
    )
    weights = (scores - largest[target]).exp()
    total = weights.new_zeros(num_nodes, scores.shape[1]).index_add(0, target, weights)
    weighted = weights.new_zeros(num_nodes, scores.shape[1]).index_add(0, target, weights * messages)
    return weighted / (total + (total == 0))


def check_not_empty(real: torch.Tensor, name: str, what: str) -> None:
    """Refuse a program of which nothing is there: attention over nothing is not a number.

    Args:
        real (`torch.BoolTensor` `[batch, places]`): where something is.
        name (`str`): the input, for the message.
        what (`str`): what is missing.

    Raises:
        ValueError: names the first such row.
    """
    empty = ~real.any(1)
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        raise ValueError(f"row {row} of `{name}` holds no {what}, only padding; leave empty programs out.")


def code_encoder_inputs(encoder: str) -> tuple[str, ...]:
    """Names of the inputs that an encoder of a kind takes, in the order of its `forward`.

    Args:
        encoder (`str`): `"text"`, `"ast"` or `"graph"`.
    """
    models: dict[str, Any] = {"text": CodeTransformerModel, "ast": CodePathsModel, "graph": CodeGraphModel}
    return models[encoder].view_inputs


__all__ = [
    "CodeGraphModel",
    "CodePathsModel",
    "CodeTransformerModel",
    "code_encoder_inputs",
    "softmax_aggregate",
]
