"""Adapters of code clone detection: what the library returns for the stored cases of the published code."""

from __future__ import annotations

from typing import Any

import torch
from parity._moco_step import moco_infonce
from parity._swav_head import run_sinkhorn, run_swav_head
from torch import Tensor, nn

from hf_contrastive import (
    CodeCloneConfig,
    CodeCloneForPreTraining,
    CodeGraphConfig,
    CodeGraphModel,
    CodePathsConfig,
    CodePathsModel,
    CodeTransformerConfig,
    CodeTransformerModel,
)
from hf_contrastive.evaluation import nearest_neighbours, retrieval_metrics
from hf_contrastive.losses import sup_con, uni_con
from hf_contrastive.modules.feature_queue import FeatureQueue


def load(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Fill all of a module's tensors; anything left over or not given is an error. In float64, in eval mode."""
    counters = {n: t for n, t in module.state_dict().items() if n.endswith("num_batches_tracked")}
    module.load_state_dict({**counters, **weights}, strict=True)
    return module.double().eval()


def renamed(inputs: dict[str, Tensor], start: str, names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors whose names begin with `start`, with parts of the rest replaced in order."""
    found = {}
    for name, tensor in inputs.items():
        if name.startswith(start):
            rest = name.removeprefix(start)
            for old, new in names.items():
                rest = rest.replace(old, new)
            found[rest] = tensor
    return found


def run_supcon(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    z_q, z_k = (inputs[name].requires_grad_() for name in ("z_q", "z_k"))
    loss = sup_con(torch.stack([z_q, z_k], 1), inputs["labels"], config["temperature"])
    grad_q, grad_k = torch.autograd.grad(loss, (z_q, z_k))
    return {"loss": loss, "grad_z_q": grad_q, "grad_z_k": grad_k}


def filled_queue(features: Tensor, position: int) -> FeatureQueue:
    """A queue with columns `[dim, size]` of the published code, and the row that is written next."""
    queue = FeatureQueue(features.shape[1], features.shape[0]).to(features.dtype)
    queue.features.copy_(features.T)
    queue.num_written.fill_(position)
    return queue


def run_moco_unicon(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    query, labels = inputs["q"].requires_grad_(), inputs["labels"]
    queue = filled_queue(inputs["queue_before"], int(inputs["queue_ptr_before"]))
    queue.ids.copy_(inputs["labels_queue_before"])
    loss = uni_con(query, inputs["k"], labels, queue.features, queue.ids, config["temperature"])
    queue.stage(inputs["k"], labels)
    (grad,) = torch.autograd.grad(loss, query)
    queue.after_step(None)
    return {
        "loss": loss,
        "grad_q": grad,
        "queue_after": queue.features.T,
        "labels_queue_after": queue.ids,
        "queue_ptr_after": torch.tensor([queue.position]),
    }


def run_swav_pair(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    weights = renamed(inputs, "head.", {"0.": "layers.0.0.", "1.": "layers.0.1.", "3.": "layers.1.0."})
    # a bias before a batch norm is part of the mean; here it is not built
    weights["layers.0.1.running_mean"] = weights["layers.0.1.running_mean"] - weights.pop("layers.0.0.bias")
    dim = inputs["q"].shape[1]
    model = CodeCloneForPreTraining(
        CodeCloneConfig(
            ssl="swav",
            backbone_config=CodeTransformerConfig(vocab_size=4, hidden_size=dim, num_attention_heads=1),
            projection_dims=[weights["layers.0.0.weight"].shape[0], weights["layers.1.0.weight"].shape[0]],
            num_prototypes=config["num_prototypes"],
            temperature=config["temperature"],
            sinkhorn_epsilon=config["epsilon"],
            sinkhorn_iterations=config["sinkhorn_iterations"],
            mean_over_prototypes=True,
        )
    )
    load(model.projection_head, weights)
    model.double()
    model.prototypes.weight.data.copy_(inputs["proto"])
    model.prototypes.normalize_()
    model.projection_head.train(config["batchnorm_training"])
    query, key = (inputs[name].requires_grad_() for name in ("q", "k"))
    projections = model.project(torch.cat([query, key])).unflatten(0, (2, -1)).transpose(0, 1)
    loss = model.compute_objective({"embeds": projections, "projections": projections}).loss
    grads = torch.autograd.grad(loss, (query, key, model.prototypes.weight))
    return {"loss": loss, **dict(zip(("grad_q", "grad_k", "grad_proto"), grads, strict=True))}


def run_metrics(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    features, labels, ks = inputs["features"], inputs["labels"], config["ks"]
    found = retrieval_metrics(features, query_labels=labels, ks=(), precision_ks=ks, metric="euclidean")
    outputs = {"map_at_r": torch.tensor(found["map@r"], dtype=torch.float64)}
    for k in ks:
        outputs[f"map_at_{k}"] = torch.tensor(found[f"map@{k}"], dtype=torch.float64)
        outputs[f"f1_at_{k}"] = torch.tensor(found[f"precision@{k}"], dtype=torch.float64)
        outputs[f"top_ids_{k}"] = torch.from_numpy(nearest_neighbours(features, k=k, metric="euclidean")[1])
    return outputs


def split_graphs(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """One big graph with a batch vector to padded graphs."""
    batch, (source, target) = inputs["batch"], inputs["edge_index"]
    graphs = int(batch.max()) + 1
    own = torch.zeros_like(batch)
    for graph in range(graphs):
        own[batch == graph] = torch.arange(int((batch == graph).sum()))
    edge_batch = batch[source]
    nodes = torch.full((graphs, int(batch.bincount().max())), -1)
    width = int(edge_batch.bincount().max()) if len(edge_batch) else 0
    edges, kinds = torch.full((graphs, 2, width), -1), torch.full((graphs, width), -1)
    for graph in range(graphs):
        here = edge_batch == graph
        nodes[graph, : int((batch == graph).sum())] = inputs["x"][batch == graph]
        edges[graph, :, : int(here.sum())] = torch.stack([own[source[here]], own[target[here]]])
        kinds[graph, : int(here.sum())] = inputs["edge_attr"][here]
    return nodes, edges, kinds


@torch.no_grad()
def run_encoder_gnn(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    if config["aggr"] != "softmax":
        raise ValueError(f"the convolution aggregates by softmax, the case asks for {config['aggr']!r}")
    layers = config["num_layers"]
    names = {"vertex_type_embedding": "node_embedding", "edge_type_embedding": "edge_embedding"}
    for number in reversed(range(layers)):  # "mlp.1." must not meet "mlp.12."
        names[f"gen_conv.mlp.{4 * number}."] = f"convolutions.0.linears.{number}."
        names[f"gen_conv.mlp.{4 * number + 1}."] = f"convolutions.0.norms.{number}."
    weights = renamed(inputs, "w.", names)
    model = CodeGraphModel(
        CodeGraphConfig(
            node_vocab_size=len(weights["node_embedding.weight"]),
            edge_vocab_size=len(weights["edge_embedding.weight"]),
            embedding_size=config["embedding_size"],
            conv_mlp_layers=layers,
            hidden_size=config.get("hidden_size", config["embedding_size"]),
            output_size=config["out"],
            message_eps=config["eps"],
            softmax_temperature=config["softmax_temperature"],
        )
    )
    return {"output": load(model, weights)(*split_graphs(inputs)).pooler_output}


@torch.no_grad()
def run_encoder_transformer(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    names = {"transformer.": "", "linear1": "fc1", "linear2": "fc2", "self_attn.": ""}
    weights = renamed(inputs, "w.", names)
    table = weights.pop("position_embedding.pos_embedding")[0]
    for number in range(config["num_layers"]):
        for kind in ("weight", "bias"):
            joined = weights.pop(f"layers.{number}.in_proj_{kind}")
            for name, part in zip(("q_proj", "k_proj", "v_proj"), joined.chunk(3), strict=True):
                weights[f"layers.{number}.{name}.{kind}"] = part
    model = CodeTransformerModel(
        CodeTransformerConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            num_attention_heads=config["num_heads"],
            num_hidden_layers=config["num_layers"],
            intermediate_size=config["dim_feedforward"],
            max_position_embeddings=config["max_seq_len"],
            pad_token_id=config["pad_token_id"],
        )
    )
    from hf_contrastive.backbones.modeling_code_encoders import sinusoids

    torch.testing.assert_close(sinusoids(len(table), table), table, rtol=0, atol=1e-6)
    outputs = load(model, weights)(inputs["input_ids"], inputs["attention_mask"])
    return {"output": outputs.pooler_output}


@torch.no_grad()
def run_encoder_code2class(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    names = {"encoder.": "", "classifier._attention.attn": "attention"}
    for number in range(config["classifier_layers"]):
        names[f"classifier._layers.{2 * number}."] = f"hidden_layers.{number}."
    names[f"classifier._layers.{2 * config['classifier_layers']}."] = "output_layer."
    weights = renamed(inputs, "w.", names)
    model = CodePathsModel(
        CodePathsConfig(
            token_vocab_size=len(weights["token_embedding.weight"]),
            node_vocab_size=len(weights["node_embedding.weight"]),
            embedding_size=config["embedding_size"],
            rnn_size=config["rnn"],
            classifier_size=config["classifier_size"],
            classifier_layers=config["classifier_layers"],
            output_size=config["out"],
            output_softmax=True,
        )
    )
    load(model, weights)
    per_program = inputs["contexts_per_label"].tolist()
    stacked = []
    for name in ("from_token", "path_nodes", "to_token"):
        parts = inputs[name].T.split(per_program)
        stacked.append(nn.utils.rnn.pad_sequence(list(parts), batch_first=True))
    outputs = model(*stacked)
    vectors = [row[:count] for row, count in zip(outputs.last_hidden_state, per_program, strict=True)]
    return {"context_vectors": torch.cat(vectors), "output": outputs.pooler_output}


ADAPTERS = {
    "encoder_code2class": run_encoder_code2class,
    "encoder_gnn": run_encoder_gnn,
    "encoder_transformer": run_encoder_transformer,
    "metrics": run_metrics,
    "moco_infonce": moco_infonce,
    "moco_unicon": run_moco_unicon,
    "sinkhorn": run_sinkhorn,
    "supcon": run_supcon,
    "swav_head": run_swav_head,
    "swav_pair": run_swav_pair,
}
