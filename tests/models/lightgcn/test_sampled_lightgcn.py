"""LightGCN on sampled neighbours: exact where nothing is left out, right on average otherwise."""

from __future__ import annotations

import pytest
import torch
from helpers.gloo import GlooPool

from hf_contrastive.data import NeighbourSamplingCollator
from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig
from hf_contrastive.models.lightgcn.modeling_lightgcn import LightGCNModel


USERS, ITEMS = 12, 15
SUBGRAPH = ("node_ids", "edge_index", "edge_weights")


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """User 11 and item 14 have nothing; item 0 has nearly all users."""
    chosen = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.2
    chosen[:, 0] = True
    chosen[11], chosen[:, 14] = False, False
    users, items = chosen.nonzero().T
    return users, items


def build(**fields) -> LightGCNModel:
    torch.manual_seed(0)
    sizes = {"num_users": USERS, "num_items": ITEMS, "hidden_size": 6, "num_layers": 2, "reg_weight": 0.1}
    model = LightGCNModel(LightGCNConfig(**{**sizes, **fields}))
    model.set_interactions(*pairs())
    return model.double().train()


def triples(batch: int = 6, negatives: int | None = None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (batch,) if negatives is None else (batch, negatives)
    ids = {
        "user_ids": torch.randint(0, USERS, (batch,), generator=generator),
        "pos_item_ids": torch.randint(0, ITEMS, (batch,), generator=generator),
        "neg_item_ids": torch.randint(0, ITEMS, shape, generator=generator),
    }
    ids["user_ids"][0], ids["pos_item_ids"][0] = 11, 14  # nodes without edges
    return ids


def sampler(fan_out) -> NeighbourSamplingCollator:
    return NeighbourSamplingCollator(pairs(), USERS, ITEMS, fan_out, engine="own")


def gradients(model: LightGCNModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    found = model(**batch)
    found.loss.backward()
    return found, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("negatives", [None, 3])
@pytest.mark.parametrize("penalty_form", ["half_sq", "frobenius"])
def test_with_all_neighbours_it_is_the_whole_graph(layers, negatives, penalty_form):
    model = build(num_layers=layers, penalty_form=penalty_form)
    batch = triples(negatives=negatives)
    expected, expected_grads = gradients(model, batch)
    for fan_out in ([max(USERS, ITEMS)] * max(1, layers), [-1] * (layers + 1)):  # a hop too many does no harm
        found, grads = gradients(model, sampler(fan_out)(batch))
        for name in ("loss", "bpr_loss", "reg_loss", "user_embeds", "pos_item_embeds"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected_grads[name], rtol=1e-11, atol=1e-14)


def test_the_mean_over_draws_is_the_whole_graph():
    model = build()
    batch = triples()
    with torch.no_grad():
        expected, collator = model(**batch), sampler([3, 2])
        draws = []
        for epoch in range(500):
            collator.set_epoch(epoch)
            draws.append(model(**collator(batch)).user_embeds)
    draws = torch.stack(draws)
    error = (draws.mean(0) - expected.user_embeds).abs()
    spread = draws.std(0) / len(draws) ** 0.5
    assert bool((error <= 5 * spread + 1e-12).all())
    assert float(spread.max()) < 0.15 * float(expected.user_embeds.abs().mean())
    assert float(draws.std(0).max()) > 0  # draws differ


def test_dropped_edges_are_made_up_for():
    model = build(edge_dropout=0.4)
    batch = sampler([-1, -1])(triples())
    expected = build()(**batch).user_embeds
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([model(**batch).user_embeds for _ in range(500)])
    assert bool(((draws.mean(0) - expected).abs() <= 5 * draws.std(0) / 500**0.5 + 1e-12).all())
    assert float(draws.std(0).max()) > 0
    assert torch.equal(model.eval()(**batch).user_embeds, expected)


def test_only_the_subgraph_is_looked_at():
    model = build()
    batch = sampler([1, 1])(triples())
    outside = torch.ones(USERS + ITEMS, dtype=torch.bool)
    outside[batch["node_ids"]] = False
    assert bool(outside.any())
    before = model(**batch).loss
    with torch.no_grad():
        model.user_embedding.weight[outside[:USERS]] = torch.nan
        model.item_embedding.weight[outside[USERS:]] = torch.nan
    found, grads = gradients(model, batch)
    assert torch.equal(found.loss, before)
    for grad, rows in zip(grads.values(), (outside[:USERS], outside[USERS:]), strict=True):
        assert not bool(grad[rows].any())


@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
def test_precisions(precision):
    model, batch = build(), sampler([3, 2])(triples())
    expected = model(**batch).loss
    if precision == "bfloat16":
        found = model.bfloat16()(**batch).loss
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.float()(**batch).loss
    found.backward()
    assert bool(torch.isfinite(model.user_embedding.weight.grad).all())
    torch.testing.assert_close(found.double(), expected, rtol=0.1, atol=0.02)


def test_inference_knows_nothing_of_samples():
    model = build()
    expected = build().vectors()
    model(**sampler([1, 1])(triples())).loss.backward()
    torch.testing.assert_close(model.vectors(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch.pop("edge_weights"), "give all of `node_ids`, `edge_index` and `edge_weights`, or none"),
        (
            lambda batch: batch.update(node_ids=batch["node_ids"].flip(0)),
            "`node_ids` must begin with the nodes of the batch",
        ),
        (lambda batch: batch.update(edge_index=batch["edge_index"].flip(1)), "heads of `edge_index` must ascend"),
        (
            lambda batch: batch.update(sampler([2])(triples())),
            "ends before num_layers=2 steps .* a fan_out of 2 numbers",
        ),
        (lambda batch: batch.update(edge_keep=torch.ones(4)), "without `edge_keep`"),
        (lambda batch: [batch.pop(name) for name in ("pos_item_ids", "neg_item_ids")], "a subgraph goes with triples"),
        (
            lambda batch: batch.update(pos_item_ids=torch.full((6,), 13)),
            "`node_ids` must begin with the nodes of the batch",
        ),
    ],
)
def test_bad_subgraphs(change, message):
    batch = sampler([1, 1])({**triples(), "neg_item_ids": torch.zeros(6, dtype=torch.long)})
    change(batch)
    with pytest.raises(ValueError, match=message):
        build()(**batch)


def half() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One process's half of the batch, with all neighbours."""
    from hf_contrastive.distributed import get_rank

    part = slice(3 * get_rank(), 3 * get_rank() + 3)
    found, grads = gradients(build(), sampler([-1, -1])({name: ids[part] for name, ids in triples().items()}))
    return found.loss.detach(), grads


@pytest.mark.distributed
def test_two_processes_equal_one(gloo_pool: GlooPool):
    """With all neighbours only: halves of a batch draw other neighbours than the whole."""
    expected, expected_grads = gradients(build(), triples())
    found = gloo_pool.run(half)
    torch.testing.assert_close(sum(loss for loss, _ in found) / 2, expected.loss.detach())
    for name, grad in expected_grads.items():
        torch.testing.assert_close(sum(grads[name] for _, grads in found) / 2, grad)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_trainer_trains_on_samples(tmp_path, workers):
    """The collator follows the epoch; recommendations come from the whole graph."""
    from hf_contrastive.data import TripletDataset, load_interactions
    from hf_contrastive.training import ContrastiveTrainingArguments, RecommenderTrainer

    log = load_interactions("planted")
    torch.manual_seed(0)
    sizes = (log.num_users, log.num_items)
    model = LightGCNModel(LightGCNConfig(num_users=sizes[0], num_items=sizes[1], num_layers=2, hidden_size=16))
    model.set_interactions(*log.part("train"))
    collator = NeighbourSamplingCollator(log.part("train"), *sizes, fan_out=(5, 5), engine="own")
    args = ContrastiveTrainingArguments(
        tmp_path,
        use_cpu=True,
        num_train_epochs=3,
        per_device_train_batch_size=2048,
        learning_rate=0.05,
        dataloader_num_workers=workers,
        save_strategy="no",
        disable_tqdm=True,
        report_to=[],
    )
    triples_of = TripletDataset(*log.part("train"), *sizes)
    trainer = RecommenderTrainer(model, args, collator, train_dataset=triples_of, eval_dataset=log)
    before = trainer.evaluate()["eval_recall@20"]
    trainer.train()
    assert int(collator._epoch[0]) == 2
    assert trainer.evaluate()["eval_recall@20"] > 2 * before
    torch.testing.assert_close(model.vectors(), model.eval().propagate())
