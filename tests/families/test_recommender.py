"""Recommenders: the objective, several processes, what a checkpoint brings, recommendations."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from helpers.checks import poisoned_memory
from helpers.gloo import GlooPool

from hf_contrastive.models.bm3.configuration_bm3 import BM3Config
from hf_contrastive.models.bm3.modeling_bm3 import BM3Model
from hf_contrastive.models.dccf.configuration_dccf import DCCFConfig
from hf_contrastive.models.dccf.modeling_dccf import DCCFModel
from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig
from hf_contrastive.models.lightgcn.modeling_lightgcn import LightGCNModel
from hf_contrastive.models.mf.configuration_mf import MFConfig
from hf_contrastive.models.mf.modeling_mf import MFModel
from hf_contrastive.models.sgl.configuration_sgl import SGLConfig
from hf_contrastive.models.sgl.modeling_sgl import SGLModel
from hf_contrastive.models.siger.configuration_siger import SIGERConfig
from hf_contrastive.models.siger.modeling_siger import SIGERModel
from hf_contrastive.models.simgcl.configuration_simgcl import SimGCLConfig
from hf_contrastive.models.simgcl.modeling_simgcl import SimGCLModel


USERS, ITEMS = 7, 9
TOKENS = {"user_tokens": [f"u{n}" for n in range(USERS)], "item_tokens": [f"i{n}" for n in range(ITEMS)]}
SIZES = {"num_users": USERS, "num_items": ITEMS, "hidden_size": 6}
FEATURES = {"image": 5, "text": 4}
MODELS = {
    "mf": lambda: MFModel(MFConfig(**SIZES, penalty_form="frobenius")),
    "mf_unpenalised": lambda: MFModel(MFConfig(**SIZES, reg_weight=0.0)),
    "lightgcn": lambda: LightGCNModel(LightGCNConfig(**SIZES, num_layers=2, edge_dropout=0.3)),
    "simgcl": lambda: SimGCLModel(SimGCLConfig(**SIZES, noise_size=0.3, initializer="normal")),
    "sgl": lambda: SGLModel(SGLConfig(**SIZES, dropout=0.3, initializer="normal")),
    "sgl_sum": lambda: SGLModel(
        SGLConfig(**SIZES, dropout=0.3, initializer="normal", negatives="all", reduction="sum", reg_weight=0.1)
    ),
    "dccf": lambda: DCCFModel(DCCFConfig(**SIZES, num_intents=4, num_layers=1)),
    "bm3": lambda: BM3Model(BM3Config(**SIZES, feature_dims=FEATURES)),
    "siger": lambda: SIGERModel(
        SIGERConfig(**SIZES, feature_dims=FEATURES, likeness_neighbours=3, co_occurrence_neighbours=2)
    ),
}
each_model = pytest.mark.parametrize("name", MODELS)


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """User 6 has nothing."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(USERS, ITEMS, generator=generator) < 0.4
    chosen[6] = False
    users, items = chosen.nonzero().T
    return users, items


def build(name: str, seed: int = 0, tokens: bool = True):
    torch.manual_seed(seed)
    model = MODELS[name]()
    model.set_interactions(*pairs(), **(TOKENS if tokens else {}))
    if hasattr(model, "set_features"):
        generator = torch.Generator().manual_seed(9)
        model.set_features({key: torch.rand(ITEMS, size, generator=generator) for key, size in FEATURES.items()})
    return model


def triples(batch: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = {"user_ids": USERS, "pos_item_ids": ITEMS, "neg_item_ids": ITEMS}
    return {name: torch.randint(0, rows, (batch,), generator=generator) for name, rows in ids.items()}


def draws(model) -> dict[str, torch.Tensor]:
    """What a training step draws, fixed."""
    generator = torch.Generator().manual_seed(5)
    if isinstance(model, LightGCNModel):
        return {"edge_keep": (torch.rand(model.graph().num_edges, generator=generator) < 0.7).float()}
    if isinstance(model, SimGCLModel):
        return {"noise": torch.rand(2, 2, USERS + ITEMS, 6, generator=generator)}
    if isinstance(model, SIGERModel):
        return {"noise": {key: torch.rand(2, USERS + ITEMS, 6, generator=generator) for key in FEATURES}}
    if isinstance(model, BM3Model):
        rows = {"user": USERS, **dict.fromkeys(("item", *FEATURES), ITEMS)}
        return {"keep_masks": {key: torch.rand(n, 6, generator=generator) < 0.5 for key, n in rows.items()}}
    return {}


def step(model, batch: dict[str, torch.Tensor], **others):
    """A step; BM3 has no negatives."""
    names = ("user_ids", "pos_item_ids", "neg_item_ids")[: 2 if isinstance(model, BM3Model) else 3]
    return model(**{name: batch[name] for name in names}, **others)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bm3"])
def test_several_negatives_are_their_mean(name):
    model = build(name).eval()
    batch = triples()
    others = torch.stack([triples(seed=seed)["neg_item_ids"] for seed in (1, 2, 3)], 1)
    joined = model(**{**batch, "neg_item_ids": others}, **draws(model))
    each = [model(**{**batch, "neg_item_ids": column}, **draws(model)) for column in others.unbind(1)]
    torch.testing.assert_close(joined.bpr_loss, torch.stack([one.bpr_loss for one in each]).mean())


@each_model
def test_a_few_steps_learn_the_pairs(name):
    model = build(name).train()
    users, items = pairs()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(60):
        negative = torch.randint(0, ITEMS, users.shape, generator=generator)
        batch = {"user_ids": users, "pos_item_ids": items, "neg_item_ids": negative}
        found = step(model, batch)
        loss = found.reconstruction_loss if name == "bm3" else found.bpr_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_optimizer_step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    with torch.no_grad():
        user, item = model.eval().propagate()
    torch.testing.assert_close(model.vectors(), (user, item))  # never the vectors of an earlier step


@pytest.mark.parametrize("name", ["mf", "lightgcn"])
def test_without_a_weight_the_penalty_is_only_looked_at(name):
    model = build(name).eval()
    weighted = step(model, triples())
    model.config.reg_weight = 0.0
    found = step(model, triples())
    torch.testing.assert_close(found.reg_loss, weighted.reg_loss.detach())
    assert not found.reg_loss.requires_grad
    assert torch.equal(found.loss, weighted.bpr_loss)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(weighted.bpr_loss, parameters)
    torch.testing.assert_close(torch.autograd.grad(found.loss, parameters), expected)


def half(name: str):
    """One process's half of the batch: the loss, and its gradients."""
    from hf_contrastive.distributed import get_rank

    model = build(name).train()
    part = slice(4 * get_rank(), 4 * get_rank() + 4)
    found = step(model, {key: ids[part] for key, ids in triples().items()}, **draws(model))
    found.loss.backward()
    return found.loss.detach(), {key: p.grad for key, p in model.named_parameters() if p.requires_grad}


@pytest.mark.distributed
@each_model
def test_two_processes_equal_one(name, gloo_pool: GlooPool):
    model = build(name).train()
    expected = step(model, triples(), **draws(model)).loss
    expected.backward()
    found = gloo_pool.run(half, name)
    torch.testing.assert_close(sum(loss for loss, _ in found) / 2, expected.detach())
    for key, parameter in ((key, p) for key, p in model.named_parameters() if p.requires_grad):
        torch.testing.assert_close(sum(grads[key] for _, grads in found) / 2, parameter.grad, rtol=1e-4, atol=1e-7)


@each_model
def test_a_checkpoint_recommends_and_trains_on(name, tmp_path):
    model = build(name)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "id_maps.json"}
    with poisoned_memory():
        loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    for found, expected in zip(*(one.recommend(["u3", "u6"], k=4) for one in (loaded, model)), strict=True):
        assert [item for item, _ in found] == [item for item, _ in expected]
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key]), key
    losses = [step(one.train(), triples(), **draws(model)).loss for one in (model, loaded)]
    assert torch.equal(*losses)


@each_model
def test_a_checkpoint_without_histories(name, tmp_path):
    model = build(name)
    model.save_pretrained(tmp_path, save_memory=False)
    loaded = type(model).from_pretrained(tmp_path)
    found, expected = (one.recommend(["u1"], k=ITEMS, exclude_seen=False)[0] for one in (loaded, model))
    assert [item for item, _ in found] == [item for item, _ in expected]
    with pytest.raises(ValueError, match="does not say what users have seen"):
        loaded.recommend(["u1"], k=3)
    if not isinstance(model, MFModel):
        with pytest.raises(ValueError, match="call set_interactions"):
            step(loaded, triples())
    loaded.set_interactions(*pairs(), **TOKENS)
    found, expected = (one.recommend(["u1"], k=3)[0] for one in (loaded, model))
    assert [item for item, _ in found] == [item for item, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])


def test_vectors_in_a_state_made_before(tmp_path):
    """The trainer hands its own state to `save_pretrained`."""
    model = build("lightgcn")
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = LightGCNModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.user_vectors, model.user_vectors)
    assert int(loaded.vectors_ready) == 1


@each_model
def test_recommendations(name):
    model = build(name)
    users, items = pairs()
    user, item = model.vectors()
    scores = user @ item.T
    scores[users, items] = -torch.inf
    found = model.recommend(TOKENS["user_tokens"], k=3)
    for row, answer in zip(scores, found, strict=True):
        best, order = row.sort(descending=True, stable=True)  # of equal scores the lower number first
        count = min(3, int((row > -torch.inf).sum()))
        assert [token for token, _ in answer] == [f"i{number}" for number in order[:count].tolist()]
        assert [score for _, score in answer] == pytest.approx(best[:count].tolist(), rel=1e-5)
    # nothing of what is left out; a short list where little is left
    few = model.recommend(["u0"], k=ITEMS - 2, exclude=["i1", "i2"])[0]
    own = {f"i{number}" for number in items[users == 0].tolist()}
    assert not own & {token for token, _ in few}
    assert {token for token, _ in few} == {f"i{number}" for number in range(ITEMS)} - own - {"i1", "i2"}
    assert build(name, tokens=False).recommend([2], k=1)[0][0][0] == int(scores[2].argmax())


def test_a_node_without_edges_has_its_table_row():
    model = build("lightgcn")
    user, _ = model.vectors()
    torch.testing.assert_close(user[6], model.user_embedding.weight[6] / 3)


@each_model
def test_precisions(name):
    model = build(name)
    batch = triples()
    exact = step(model.double(), batch, **draws(model))
    assert exact.loss.dtype == torch.float64
    model = model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = step(model, batch, **draws(model))
    torch.testing.assert_close(found.loss.double(), exact.loss, rtol=1e-3, atol=1e-4)
    halved = copy.deepcopy(model).to(torch.bfloat16)
    torch.testing.assert_close(step(halved, batch, **draws(model)).loss.double(), exact.loss, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("augmentation", ["edge_dropout", "node_dropout", "random_walk"])
def test_corrupted_graphs(augmentation):
    torch.manual_seed(0)
    model = SGLModel(SGLConfig(**SIZES, num_layers=3, augmentation=augmentation, dropout=0.4))
    model.set_interactions(*pairs())
    graph = model.graph()
    heads, tails = graph.edges()[0]
    seen = []
    for epoch in range(30):
        model.draw_views(epoch)
        first, second = model._views
        assert len(first) == len(second) == 3
        assert (augmentation == "random_walk") == (not torch.equal(first[0], first[2]))
        for weights in (*first, *second):
            dense = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
            dense[heads, tails] = weights
            assert torch.equal(dense, dense.T)
            kept = (dense > 0).double()
            degrees = kept.sum(1).clamp(min=1)
            torch.testing.assert_close(dense, kept / (degrees[:, None] * degrees).sqrt())  # normalised anew
            if augmentation == "node_dropout":  # pairs are missing only where an end is
                gone = kept.sum(1) == 0
                missing = (weights == 0).nonzero().flatten()
                assert bool((gone[heads[missing]] | gone[tails[missing]]).all())
        seen += [first[0] > 0, second[0] > 0]
    share = float(torch.stack(seen).double().mean())
    assert abs(share - (0.36 if augmentation == "node_dropout" else 0.6)) < 0.06
    model.draw_views(4)
    again = model._views[0][0].clone()
    model.draw_views(5)
    assert not torch.equal(model._views[0][0], again)
    model.draw_views(4)
    assert torch.equal(model._views[0][0], again)


def test_a_batch_of_one_node_has_no_contrast():
    model = build("simgcl")
    one = torch.zeros(2, dtype=torch.long)
    found = model(user_ids=one, pos_item_ids=one, neg_item_ids=one + 1)
    assert float(found.contrastive_loss.detach()) == 0.0
    found.loss.backward()
    assert bool(torch.isfinite(model.user_embedding.weight.grad).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.recommend(["u_3"]), "1 unknown users .first: 'u_3'.; similar are u3"),
        (lambda m: m.recommend("u1"), "expected a list of users, got the text 'u1'"),
        (lambda m: m.recommend(["u1"], k=10), "`k` is 10, but there are 9 items"),
        (lambda m: m.recommend(["u1"], exclude=["i99"]), "1 unknown items"),
        (
            lambda m: m(user_ids=torch.tensor([0]), pos_item_ids=torch.tensor([0])),
            "give both `pos_item_ids` and `neg_item_ids`, or neither",
        ),
        (
            lambda m: m(**{**triples(), "user_ids": torch.full((8,), 7)}),
            "`user_ids` goes from 7 to 7, but the model has 0 to 6",
        ),
        (
            lambda m: m(**{**triples(), "neg_item_ids": torch.tensor([1])}),
            "`user_ids` has 8 rows and `neg_item_ids` 1",
        ),
        (lambda m: m(**{**triples(), "pos_item_ids": torch.ones(8)}), "must hold whole numbers, got torch.float32"),
        (lambda m: m.set_interactions([0], [9]), "`items` go from 9 to 9"),
        (
            lambda m: m.set_interactions([0], [1], user_tokens=["a"]),
            "1 user tokens were given, but the model has num_users=7",
        ),
        (lambda m: m.encode(readout="user"), "readout='user' takes `user_ids` and nothing else"),
        (lambda m: m.encode(item_ids=torch.tensor([1])), "readout='user' takes `user_ids` and nothing else"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(build("mf"))


def test_encode_gives_rows_of_final_vectors():
    model = build("lightgcn")
    user, item = model.vectors()
    assert torch.equal(model.encode(user_ids=torch.tensor([2, 2, 5])), user[[2, 2, 5]])
    assert torch.equal(model.encode(item_ids=torch.tensor([8]), readout="item"), item[[8]])


def test_forms_are_those_of_the_losses():
    from hf_contrastive.families.recommender import configuration_recommender
    from hf_contrastive.losses import bpr

    assert configuration_recommender.BPR_FORMS == bpr.BPR_FORMS
    assert configuration_recommender.PENALTY_FORMS == bpr.PENALTY_FORMS


def test_id_maps_are_plain_json(tmp_path):
    model = build("mf")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "id_maps.json").read_text()) == {
        "users": TOKENS["user_tokens"],
        "items": TOKENS["item_tokens"],
    }
