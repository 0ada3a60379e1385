"""Code clone detection: what padding, labels, queue, momentum and prototypes do, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.programs import code_backbones, code_inputs
from transformers import AutoModel, BertConfig, BertModel, GPT2Config

from hf_contrastive import (
    CodeCloneConfig,
    CodeCloneForPreTraining,
    CodeCloneModel,
    CodeGraphConfig,
    CodeGraphModel,
)
from hf_contrastive.backbones.modeling_code_encoders import softmax_aggregate
from hf_contrastive.losses import info_nce, nt_xent, sup_con, uni_con


KINDS = ("text", "ast", "graph")


def make(kind: str = "text", seed: int = 0, **fields) -> CodeCloneForPreTraining:
    torch.manual_seed(seed)
    options = {"projection_dims": [6], "queue_size": 12, "num_prototypes": 5, **fields}
    return CodeCloneForPreTraining(CodeCloneConfig(encoder=kind, backbone_config=code_backbones()[kind], **options))


def widen(inputs: dict[str, torch.Tensor], more: int) -> dict[str, torch.Tensor]:
    """The same programs with more padding."""
    wide = {}
    for name, value in inputs.items():
        filler = -1 if name in ("node_types", "edge_index", "edge_types") else 0
        axis = value.ndim - (2 if name in ("start_tokens", "path_nodes", "end_tokens") else 1)
        shape = list(value.shape)
        shape[axis] = more
        wide[name] = torch.cat([value, torch.full(shape, filler)], axis)
    return wide


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(kind, training):
    model = make(kind).double().train(training)
    inputs = code_inputs(kind, model.config.backbone_config, (4, 2), seed=1)
    # statistics of batch norm are those of the programs, whatever fills them up
    torch.testing.assert_close(model(**widen(inputs, 3)).projections, model(**inputs).projections)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_program_is_refused(kind):
    model = make(kind).eval()
    inputs = code_inputs(kind, model.config.backbone_config, (3,), seed=0)
    for name in ("attention_mask", "path_nodes"):
        if name in inputs:
            inputs[name][1] = 0
    if kind == "graph":
        inputs["node_types"][1], inputs["edge_types"][1] = -1, -1
    with pytest.raises(ValueError, match=r"row 1 of .* holds no"):
        model.encode(**inputs)


def test_a_graph_without_edges_and_edges_to_nowhere():
    model = make("graph").eval()
    nodes = torch.tensor([[1, 2, -1]])
    nothing = torch.full((1, 2, 4), -1), torch.full((1, 4), -1)
    assert torch.isfinite(model.encode(nodes, *nothing)).all()
    for edge in ([0, 2], [0, 3], [-1, 0]):
        index = torch.tensor(edge).view(1, 2, 1)
        with pytest.raises(ValueError, match="names a node that its graph does not have"):
            model.encode(nodes, index, torch.zeros(1, 1).long())


def test_softmax_aggregation_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    messages = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 0, 2, 2, 2, 4, 0])
    found = softmax_aggregate(messages, target, 5, temperature=0.7)
    for node in range(5):
        own = messages[target == node]
        expected = ((0.7 * own).softmax(0) * own).sum(0) if len(own) else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(found[node], expected)
    assert torch.autograd.gradcheck(lambda m: softmax_aggregate(m, target, 5, 0.7), (messages,))
    big = softmax_aggregate(messages.detach() + 1e4, target, 5)
    assert torch.isfinite(big).all()


def test_more_rounds_of_messages_reach_farther():
    chain = torch.tensor([[0, 1], [1, 2]]).unsqueeze(0)
    for rounds, reaches in ((1, False), (2, True)):
        torch.manual_seed(0)
        config = CodeGraphConfig(node_vocab_size=9, edge_vocab_size=2, embedding_size=8, num_conv_layers=rounds)
        model = CodeGraphModel(config).double().eval()
        states = [
            model(torch.tensor([[first, 5, 6]]), chain, torch.zeros(1, 2).long()).last_hidden_state[0, 2]
            for first in (1, 2)
        ]
        assert bool((states[0] - states[1]).abs().max() > 1e-9) == reaches


def test_simclr_is_supervised_with_labels_and_nt_xent_without():
    model = make(projection_batch_norm=False).eval()
    inputs = code_inputs("text", model.config.backbone_config, (6, 2), seed=2)
    labels = torch.tensor([0, 1, 1, 2, 0, 3])
    outputs = model(**inputs, labels=labels)
    torch.testing.assert_close(outputs.loss, sup_con(outputs.projections, labels, 0.1))
    outputs = model(**inputs)
    torch.testing.assert_close(outputs.loss, nt_xent(*outputs.projections.unbind(1), 0.1))
    # features of length 1 are projected: their size does not matter
    assert torch.allclose(model.project(outputs.embeds), model.project(3 * outputs.embeds))
    assert not torch.allclose(make(normalize_features=False).project(outputs.embeds), make().project(outputs.embeds))
    with pytest.warns(UserWarning, match="has no negatives"):
        assert torch.isfinite(model(**inputs, labels=torch.zeros(6).long()).loss)


@pytest.mark.parametrize("kind", KINDS)
def test_moco_steps_as_the_official_code(kind):
    """Keys of the slow encoder, the old queue in the loss; then EMA and the new keys with their labels."""
    model = make(kind, ssl="moco", encoder_momentum=0.9).train()
    inputs = code_inputs(kind, model.config.backbone_config, (4, 2), seed=3)
    labels = torch.tensor([2, 0, 2, 5])
    with torch.no_grad():
        for parameter in model.momentum_encoder.parameters():
            parameter.mul_(0.9)
    slow = copy.deepcopy(model.momentum_encoder)
    before = model.queue.features.clone(), model.queue.ids.clone()
    outputs = model(**inputs, labels=labels)
    query, key = outputs.projections.unbind(1)
    torch.testing.assert_close(outputs.loss, uni_con(query, key, labels, *before, 0.07))
    outputs.loss.backward()
    assert torch.equal(model.queue.features, before[0])
    assert all(parameter.grad is None for parameter in model.momentum_encoder.parameters())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    optimizer.step()
    model.after_optimizer_step()
    assert model.queue.ids.tolist() == [2, 0, 2, 5, *[-1] * 8]
    torch.testing.assert_close(model.queue.features[:4], torch.nn.functional.normalize(key.detach(), dim=1))
    fast = dict(model.backbone.named_parameters())
    for name, parameter in model.momentum_encoder.part("backbone").named_parameters():
        old = dict(slow.part("backbone").named_parameters())[name]
        torch.testing.assert_close(parameter, 0.9 * old + 0.1 * fast[name])
    again = model(**inputs, labels=labels)  # three of the queue are positives of the first row now
    assert again.loss.item() != outputs.loss.item()
    model.eval()
    without = model(**inputs)
    query, key = without.projections.unbind(1)
    expected = info_nce(query, key, model.queue.features, temperature=0.07, in_batch_negatives=False)
    torch.testing.assert_close(without.loss, expected)
    staged = len(model.queue._staged)
    model(**inputs, labels=labels)
    assert len(model.queue._staged) == staged  # evaluation fills no queue


def test_swav_keeps_prototypes_at_length_1_and_still_at_first():
    model = make(ssl="swav", freeze_prototypes_steps=1).train()
    inputs = code_inputs("text", model.config.backbone_config, (6, 2), seed=4)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for moves in (False, True):
        before = model.prototypes.weight.detach().clone()
        optimizer.zero_grad()
        model(**inputs, labels=torch.arange(6)).loss.backward()
        model.before_optimizer_step()
        optimizer.step()
        model.after_optimizer_step()
        assert torch.allclose(before, model.prototypes.weight, atol=1e-6) != moves
        torch.testing.assert_close(model.prototypes.weight.norm(dim=1), torch.ones(5))
    assert not model.has_negatives
    assert make().has_negatives


def test_any_text_encoder_of_transformers(tmp_path):
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 30,
    }
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    ids, mask = torch.randint(4, 30, (3, 5)), torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [1] * 2 + [0] * 3])
    for pooling in ("auto", "mean"):
        model = CodeCloneForPreTraining.from_backbone(tmp_path / "bert", pooling=pooling, projection_dims=[4]).eval()
        assert "pooler.dense.weight" not in dict(model.backbone.named_parameters())
        hidden = model.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = (
            hidden[:, 0]
            if pooling == "auto"
            else torch.stack([hidden[row, : int(mask[row].sum())].mean(0) for row in range(3)])
        )
        torch.testing.assert_close(model.encode(ids, mask), expected)
        model.save_pretrained(tmp_path / pooling)
        loaded = AutoModel.from_pretrained(tmp_path / pooling)
        assert torch.equal(loaded.encode(ids, mask), model.encode(ids, mask))
    # padding on the left: the first token is the first real one
    config = CodeCloneConfig(
        backbone_config=GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=30), projection_dims=[4]
    )
    decoder = CodeCloneModel(config).eval()
    left = torch.tensor([[0, 0, 7, 8, 9]]), torch.tensor([[0, 0, 1, 1, 1]])
    hidden = decoder.backbone(input_ids=left[0], attention_mask=left[1]).last_hidden_state
    torch.testing.assert_close(decoder.encode(*left), hidden[:, 2])


def test_wrong_inputs_are_told():
    model = make().eval()
    good = code_inputs("text", model.config.backbone_config, (3, 2), seed=0)
    graph = code_inputs("graph", code_backbones()["graph"], (3, 2), seed=0)
    for inputs, message in (
        (graph, "takes programs as 'text', which needs input_ids; got node_types"),
        ({}, "needs input_ids; got nothing"),
        ({"input_ids": good["input_ids"][:, 0]}, "expected pairs of programs"),
        ({**good, "labels": torch.arange(2)}, "one label a pair"),
        ({**good, "labels": torch.arange(3) - 1}, None),
        ({"input_ids": torch.ones(3, 2, 17).long()}, "17 tokens, but the encoder has 16 positions"),
    ):
        if message is None:
            with pytest.raises(ValueError, match="holds -1"):
                make(ssl="moco")(**inputs)
            continue
        with pytest.raises(ValueError, match=message):
            model(**inputs)
    with pytest.raises(ValueError, match="expected single programs"):
        CodeCloneModel(model.config)(good["input_ids"])
    with pytest.raises(ValueError, match="set queue_size=10"):
        make(ssl="moco").train()(**code_inputs("text", model.config.backbone_config, (5, 2), seed=0))


def test_defaults_are_those_of_the_paper():
    assert CodeCloneConfig().projection_dims == [128, 128]
    moco = CodeCloneConfig(ssl="moco")
    assert (moco.projection_dims, moco.projection_dim, moco.temperature, moco.queue_size) == ([], 128, 0.07, 15360)
    for kind, name in (("ast", "code_paths"), ("graph", "code_graph")):
        assert CodeCloneConfig(encoder=kind).backbone_config.model_type == name
