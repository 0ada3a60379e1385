"""Tiny encoders of programs and inputs for them."""

from __future__ import annotations

from typing import Any

import torch


def code_backbones() -> dict[str, Any]:
    """Tiny configurations of the three encoders, without dropout, which would make two passes differ."""
    from hf_contrastive import CodeGraphConfig, CodePathsConfig, CodeTransformerConfig

    return {
        "text": CodeTransformerConfig(
            vocab_size=40,
            hidden_size=12,
            num_attention_heads=2,
            num_hidden_layers=2,
            intermediate_size=16,
            max_position_embeddings=16,
            embedding_dropout=0.0,
            dropout=0.0,
        ),
        "ast": CodePathsConfig(
            token_vocab_size=20,
            node_vocab_size=15,
            embedding_size=6,
            rnn_size=5,
            classifier_size=8,
            classifier_layers=1,
            output_size=10,
            dropout=0.0,
        ),
        "graph": CodeGraphConfig(
            node_vocab_size=12,
            edge_vocab_size=4,
            embedding_size=10,
            conv_mlp_layers=3,
            num_conv_layers=2,
            hidden_size=9,
            output_size=10,
            softmax_temperature=0.7,
        ),
    }


def code_inputs(kind: str, config: Any, shape: tuple[int, ...], seed: int) -> dict[str, torch.Tensor]:
    """Programs of different length, padded, as the encoder of a kind takes them.

    Args:
        kind: text, ast or graph.
        config: of the encoder; gives the vocabularies.
        shape: `(batch,)` or `(batch, 2)`.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *sizes: int) -> torch.Tensor:
        return torch.randint(low, high, (*shape, *sizes), generator=generator)

    if kind == "text":
        ids = draw(4, config.vocab_size, 9)
        ids[..., 0] = 2
        mask = (torch.arange(9) < draw(4, 10, 1)).long()
        return {"input_ids": ids * mask, "attention_mask": mask}
    if kind == "ast":
        tokens = [draw(1, config.token_vocab_size, 5, 3) * (torch.arange(3) < draw(1, 4, 5, 1)) for _ in range(2)]
        nodes = draw(1, config.node_vocab_size, 5, 6) * (torch.arange(6) < draw(2, 7, 5, 1))
        real = (torch.arange(5) < draw(2, 6, 1))[..., None].long()
        return {"start_tokens": tokens[0] * real, "path_nodes": nodes * real, "end_tokens": tokens[1] * real}
    count = draw(3, 7, 1)
    nodes = torch.where(torch.arange(6) < count, draw(0, config.node_vocab_size, 6), -1)
    real = torch.arange(9) < draw(3, 10, 1)
    edges = (torch.rand(*shape, 2, 9, generator=generator) * count[..., None]).long()
    return {
        "node_types": nodes,
        "edge_index": torch.where(real[..., None, :], edges, -1),
        "edge_types": torch.where(real, draw(0, config.edge_vocab_size, 9), -1),
    }
