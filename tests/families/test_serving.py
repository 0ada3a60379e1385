"""Recommenders in use: new users, indexes, and lists that are the same on every way."""

from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest
import torch

from hf_contrastive.data import TripletDataset, load_interactions
from hf_contrastive.families.recommender import serving
from hf_contrastive.families.recommender.item_index import ItemIndex
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
SIZES = {"num_users": USERS, "num_items": ITEMS, "hidden_size": 6, "initializer": "normal"}
FEATURES = {"image": 5}
#: of i8 nobody has anything in training
HISTORIES = [["i0"], ["i8", "i3", "i5"], ["i2", "i7", "i2", "i1"]]
MODELS = {
    "mf": lambda: MFModel(MFConfig(**SIZES)),
    "lightgcn": lambda: LightGCNModel(LightGCNConfig(**SIZES, num_layers=3)),
    "sgl": lambda: SGLModel(SGLConfig(**SIZES, num_layers=2)),
    "simgcl": lambda: SimGCLModel(SimGCLConfig(**SIZES, num_layers=3)),
    "simgcl_tables": lambda: SimGCLModel(SimGCLConfig(**SIZES, num_layers=2, include_tables=True)),
    "bm3": lambda: BM3Model(BM3Config(**SIZES, num_layers=2, feature_dims=FEATURES)),
    "dccf": lambda: DCCFModel(DCCFConfig(**SIZES, num_intents=4, num_layers=1)),
    "siger": lambda: SIGERModel(SIGERConfig(**SIZES, feature_dims=FEATURES)),
}
ALONG_EDGES = ["lightgcn", "sgl", "simgcl", "simgcl_tables", "bm3"]
along_edges = pytest.mark.parametrize("name", ALONG_EDGES)
fold_in = pytest.mark.parametrize("name", ["mf", *ALONG_EDGES])


def chosen() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(USERS, ITEMS, generator=generator) < 0.4
    matrix[:, 8] = False
    matrix[:, 0] |= ~matrix.any(1)
    return matrix


def build(name: str, tokens: bool = True):
    torch.manual_seed(0)
    model = MODELS[name]()
    names = {"user_tokens": [f"u{n}" for n in range(USERS)], "item_tokens": [f"i{n}" for n in range(ITEMS)]}
    model.set_interactions(*chosen().nonzero().T, **(names if tokens else {}))
    if hasattr(model, "set_features"):
        model.set_features({"image": torch.rand(ITEMS, 5)})
    return model


# ------------------------------------------------------------------------------------------------------------ new users


@along_edges
def test_a_new_user_is_a_node_with_an_empty_row(name):
    model = build(name).double()
    layers = model.config.num_layers
    own = chosen().double()
    adjacency = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    adjacency[:USERS, USERS:], adjacency[USERS:, :USERS] = own, own.T
    degrees = adjacency.sum(1).clamp(min=1)
    normal = adjacency / (degrees[:, None] * degrees).sqrt()
    rows = [torch.cat([model.user_embedding.weight, model.item_embedding.weight]).detach()]
    for _ in range(layers):
        rows.append(normal @ rows[-1])
    expected = []
    for history in HISTORIES:
        items = sorted({int(item[1:]) for item in history})
        final = torch.zeros(6, dtype=torch.float64)
        for layer in range(layers):
            for item in items:
                final += rows[layer][USERS + item] / (len(items) * degrees[USERS + item]).sqrt()
        with_tables = name != "simgcl"
        final /= layers + with_tables
        if name == "bm3":
            final = model.predictor.weight.detach() @ final + model.predictor.bias.detach()
        expected.append(final)
    torch.testing.assert_close(model.fold_in(HISTORIES), torch.stack(expected))


@pytest.mark.parametrize("name", ["lightgcn", "sgl", "simgcl", "simgcl_tables"])
def test_a_trained_user_folded_in_lacks_the_own_row_only(name):
    model = build(name).double()
    found = model.fold_in([[f"i{item}" for item in row.nonzero().flatten()] for row in chosen()])
    own = 0 if name == "simgcl" else model.user_embedding.weight.detach() / (model.config.num_layers + 1)
    torch.testing.assert_close(found, model.vectors()[0] - own)


@pytest.mark.parametrize("options", [{}, {"alpha": 3.0, "ridge": 0.2}, {"alpha": 0.0, "ridge": 1.0}])
def test_ridge_of_a_new_user(options):
    model = build("mf").double()
    alpha, ridge = options.get("alpha", 10.0), options.get("ridge", 10.0)
    items = model.item_embedding.weight.detach()
    penalty = ridge * (items**2).sum(0).mean()
    expected = []
    for history in HISTORIES:
        target = torch.zeros(ITEMS, dtype=torch.float64)
        target[[int(item[1:]) for item in history]] = 1
        weight = (1 + alpha * target).sqrt()
        rows = torch.cat([items * weight[:, None], penalty.sqrt() * torch.eye(6, dtype=torch.float64)])
        wanted = torch.cat([target * weight, torch.zeros(6, dtype=torch.float64)])
        expected.append(torch.linalg.lstsq(rows, wanted[:, None]).solution[:, 0])
    torch.testing.assert_close(model.fold_in(HISTORIES, **options), torch.stack(expected))
    scores = (torch.stack(expected)[1] @ items.T).tolist()
    best = max((n for n in range(ITEMS) if n not in (3, 5, 8)), key=scores.__getitem__)
    [[(item, score)]] = model.recommend(histories=HISTORIES[1:2], k=1, **options)
    assert (item, score) == (f"i{best}", pytest.approx(scores[best], rel=1e-5))


@fold_in
def test_lists_for_new_users(name):
    model = build(name)
    vectors, items = model.fold_in(HISTORIES), model.vectors()[1]
    for row, history, found in zip(
        vectors @ items.T, HISTORIES, model.recommend(histories=HISTORIES, k=ITEMS), strict=True
    ):
        left = [n for n in row.argsort(descending=True).tolist() if f"i{n}" not in history]
        assert [item for item, _ in found] == [f"i{n}" for n in left]
        assert [score for _, score in found] == pytest.approx(row[left].tolist(), rel=1e-4, abs=1e-6)
    everything = model.recommend(histories=HISTORIES, k=ITEMS - 1, exclude_seen=False, exclude=["i4"])
    assert all({item for item, _ in row} == {f"i{n}" for n in range(ITEMS) if n != 4} for row in everything)
    # neither order nor repeats nor the others matter; numbers where there are no tokens
    torch.testing.assert_close(model.fold_in([["i1", "i7", "i2"]])[0], vectors[2])
    plain = build(name, tokens=False)
    torch.testing.assert_close(plain.fold_in([np.array([0]), torch.tensor([8, 3, 5]), [2, 7, 1]]), vectors)
    assert model.fold_in([]).shape == (0, 6)
    assert model.recommend(histories=[], k=2) == []
    assert not vectors.requires_grad


@fold_in
def test_a_checkpoint_folds_in_with_its_histories(name, tmp_path):
    model = build(name)
    expected = model.fold_in(HISTORIES)
    model.save_pretrained(tmp_path / "whole")
    torch.testing.assert_close(type(model).from_pretrained(tmp_path / "whole").fold_in(HISTORIES), expected)
    model.save_pretrained(tmp_path / "without", save_memory=False)
    loaded = type(model).from_pretrained(tmp_path / "without")
    if name == "mf":
        torch.testing.assert_close(loaded.fold_in(HISTORIES), expected)
        assert [len(row) for row in loaded.recommend(histories=HISTORIES, k=2)] == [2, 2, 2]
    else:
        for call in (loaded.fold_in, lambda histories: loaded.recommend(histories=histories)):
            with pytest.raises(ValueError, match="no graph to propagate along: call set_interactions"):
                call(HISTORIES)


@fold_in
def test_what_is_kept_follows_the_model(name):
    """Tables for new users are made once, and anew after training, other pairs, other weights, another type."""
    model = build(name)
    before = model.fold_in(HISTORIES)
    for module in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(module.fold_in(HISTORIES), before)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.item_embedding.weight.mul_(-2.0).add_(0.3)
    model.after_optimizer_step()
    after = model.fold_in(HISTORIES)
    assert not torch.allclose(after, before)
    fresh = build(name)
    with torch.no_grad():
        fresh.item_embedding.weight.copy_(model.item_embedding.weight)
    torch.testing.assert_close(after, fresh.fold_in(HISTORIES))
    model.load_state_dict(state)
    torch.testing.assert_close(model.fold_in(HISTORIES), before)
    torch.testing.assert_close(model.double().fold_in(HISTORIES), before.double(), rtol=1e-4, atol=1e-5)
    model.float().set_interactions([0, 1, 2], [0, 1, 2], item_tokens=[f"i{n}" for n in range(ITEMS)])
    assert torch.allclose(model.fold_in(HISTORIES), before, rtol=1e-4, atol=1e-5) == (name == "mf")


def test_the_graph_is_walked_once_for_many_calls(monkeypatch):
    from hf_contrastive.modules.bipartite_graph import BipartiteGraph

    model = build("lightgcn")
    model.vectors()
    steps = []
    walk = BipartiteGraph.propagate
    monkeypatch.setattr(BipartiteGraph, "propagate", lambda *words: steps.append(1) or walk(*words))
    for _ in range(3):
        model.recommend(histories=HISTORIES, k=2)
    assert len(steps) == 2  # of three layers the last one is the users' own


@pytest.mark.parametrize("name", ["dccf", "siger"])
def test_systems_that_cannot_fold_in(name):
    model = build(name)
    for call in (model.fold_in, lambda histories: model.recommend(histories=histories)):
        with pytest.raises(
            NotImplementedError, match=r"cannot fold in new users.*Train with these users.*LightGCN or MF"
        ):
            call(HISTORIES)


def test_no_layer_says_nothing_of_a_new_user():
    model = LightGCNModel(LightGCNConfig(**SIZES, num_layers=0))
    model.set_interactions(*chosen().nonzero().T)
    with pytest.raises(ValueError, match="num_layers is 0"):
        model.fold_in([[1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.fold_in([["i1"], []]), "history 1 is empty: a new user needs at least one item"),
        (lambda m: m.fold_in([["i1"], ["i2", "i_2"]]), "1 unknown items .first: 'i_2'.; similar are i2"),
        (lambda m: m.fold_in(["i1", "i2"]), "history 0 is 'i1'; expected a list of items for each new user"),
        (lambda m: m.fold_in([3]), "history 0 is 3; expected a list"),
        (lambda m: m.recommend(histories=[[]]), "history 0 is empty"),
        (lambda m: m.recommend(), "neither of `users` and `histories` given"),
        (lambda m: m.recommend(["u1"], histories=[["i1"]]), "both of `users` and `histories` given"),
        (lambda m: m.recommend(histories=[["i1"]], k=0), "`k` is 0, but there are 9 items"),
        (lambda m: m.recommend(histories=[["i1"]], exclude=["x"]), "1 unknown items"),
        (lambda m: m.fold_in([["i1"]], ridge=0.0), "expected alpha from 0, ridge above 0"),
        (lambda m: m.fold_in([["i1"]], alpha=-1.0), "expected alpha from 0, ridge above 0"),
    ],
)
def test_bad_histories(call, message):
    with pytest.raises(ValueError, match=message):
        call(build("mf"))


def test_options_of_new_users_with_users_of_the_log():
    with pytest.raises(TypeError, match="takes alpha with `histories` only"):
        build("mf").recommend(["u1"], alpha=3.0)
    with pytest.raises(TypeError, match="alpha"):
        build("lightgcn").recommend(histories=[["i1"]], alpha=3.0)


@pytest.mark.parametrize(
    ("make", "overlap"),
    [
        (lambda sizes: MFModel(MFConfig(**sizes)), 0.6),
        (lambda sizes: LightGCNModel(LightGCNConfig(**sizes, num_layers=2)), 0.8),
    ],
    ids=["mf", "lightgcn"],
)
def test_lists_of_folded_in_users_are_like_their_own(make, overlap):
    """Measured: 0.74 (MF) and 0.88 (LightGCN); lists of popular items share 0.2 with them."""
    data = load_interactions("planted")
    users, items = data.part("train")
    torch.manual_seed(0)
    model = make({"num_users": data.num_users, "num_items": data.num_items}).train()
    model.set_interactions(users, items, user_tokens=data.user_tokens, item_tokens=data.item_tokens)
    triples = TripletDataset(users, items, data.num_users, data.num_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(15):
        triples.set_epoch(epoch)
        for rows in torch.randperm(len(triples), generator=generator).split(1024):
            batch = triples.collate(triples.__getitems__(rows.tolist()))
            optimizer.zero_grad()
            model(**{name: batch[name] for name in ("user_ids", "pos_item_ids", "neg_item_ids")}).loss.backward()
            optimizer.step()
    model.after_optimizer_step()
    some = range(0, data.num_users, 3)
    histories = [[data.item_tokens[item] for item in items[users == user]] for user in some]
    own = model.recommend([data.user_tokens[user] for user in some], k=20)
    new = model.recommend(histories=histories, k=20)
    popular = {data.item_tokens[item] for item in np.bincount(items).argsort()[::-1][:20]}
    sets = [[{item for item, _ in row} for row in rows] for rows in (own, new)]
    assert np.mean([len(one & other) / 20 for one, other in zip(*sets, strict=True)]) > overlap
    assert np.mean([len(one & popular) / 20 for one in sets[0]]) < 0.35


# ------------------------------------------------------------------------------------------------------------- indexes

MANY = 300


@pytest.fixture(scope="module")
def catalogue() -> MFModel:
    """Forty users, of whom the last has all but three of 300 items and the first none."""
    torch.manual_seed(1)
    model = MFModel(MFConfig(num_users=40, num_items=MANY, hidden_size=16))
    share = torch.linspace(0, 0.6, 40)
    matrix = torch.rand(40, MANY) < share[:, None]
    matrix[-1] = True
    matrix[-1, [5, 6, 7]] = False
    model.set_interactions(*matrix.nonzero().T, item_tokens=[f"i{n}" for n in range(MANY)])
    return model


def same(found, expected) -> None:
    assert [[item for item, _ in row] for row in found] == [[item for item, _ in row] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert [score for _, score in one] == pytest.approx([score for _, score in other], rel=1e-4, abs=1e-6)


CASES = [
    {},
    {"k": 200},
    {"exclude_seen": False},
    {"exclude": [f"i{n}" for n in range(0, 250)], "k": 50},
    {"exclude": ["i5", "i6"], "k": 3},
]


@pytest.mark.parametrize("block", [None, 700])
@pytest.mark.parametrize("options", CASES)
def test_a_flat_index_is_exact(catalogue, options, block, monkeypatch):
    users = [39, 0, 7, 7, *range(1, 39)]
    histories = [[f"i{n}" for n in range(start, start + 1 + 9 * start)] for start in range(20)]
    expected = [catalogue.recommend(users, **options), catalogue.recommend(histories=histories, **options)]
    scores = catalogue.vectors()[0] @ catalogue.vectors()[1].T
    if options.get("exclude_seen", True):
        assert len(expected[0][0]) <= 3  # of the user who has nearly everything
        row, item = catalogue.history.places(torch.arange(40))
        scores[row, item] = -torch.inf
    scores[:, [int(item[1:]) for item in options.get("exclude", [])]] = -torch.inf
    best = [[f"i{n}" for n in row.argsort(descending=True)[: int((row > -torch.inf).sum())]] for row in scores]
    assert [[item for item, _ in row] for row in expected[0]] == [best[user][: options.get("k", 10)] for user in users]
    if block is not None:  # one or two users at a time
        monkeypatch.setattr(serving, "_BLOCK", block)
        same(catalogue.recommend(users, **options), expected[0])
    index = catalogue.build_index("flat")
    same(catalogue.recommend(users, index=index, **options), expected[0])
    same(catalogue.recommend(histories=histories, index=index, **options), expected[1])
    assert catalogue.recommend([], index=index) == []


@pytest.mark.parametrize(
    ("kind", "options"),
    [("ivf", {"nlist": 50, "nprobe": 1}), ("ivf", {}), ("hnsw", {"links": 2, "ef_search": 1}), ("hnsw", {})],
)
@pytest.mark.parametrize("case", CASES)
def test_lists_of_an_approximate_index_are_whole(catalogue, kind, options, case):
    index = catalogue.build_index(kind, **options)
    expected = catalogue.recommend(range(40), **case)
    found = catalogue.recommend(range(40), index=index, **case)
    assert [len(row) for row in found] == [len(row) for row in expected]
    user, item = catalogue.vectors()
    for number, row in enumerate(found):
        items = [int(name[1:]) for name, _ in row]
        assert len(set(items)) == len(items)
        assert not {f"i{n}" for n in items} & set(case.get("exclude", []))
        if case.get("exclude_seen", True):
            assert not set(items) & set(catalogue.history.items_of(number).tolist())
        scores = [score for _, score in row]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx((item[items] @ user[number]).tolist(), rel=1e-4, abs=1e-6)
    if options.get("nprobe") == 1 and case == {}:  # a search alone finds too little
        assert bool((index.search(user, 150)[1] == -1).any())


def test_a_flat_index_is_asked_once_and_for_little(catalogue, monkeypatch):
    """As many items more as are hidden from each; one user who has nearly everything costs the others nothing."""
    asked, scored = [], []
    search, exact = ItemIndex._search, serving._Ranking.exact

    def counted(self, user_vectors, k, effort):
        asked.append((len(user_vectors), k))
        return search(self, user_vectors, k, effort)

    best = sorted({item for row in catalogue.recommend(range(40), 1) for item, _ in row})
    monkeypatch.setattr(ItemIndex, "_search", counted)
    monkeypatch.setattr(serving._Ranking, "exact", lambda self, places: scored.extend(places) or exact(self, places))
    catalogue.recommend(range(40), 5, exclude=best, index=catalogue.build_index())
    assert scored == []  # nothing is looked up without it
    assert sum(users for users, _ in asked) == 40
    least = sum(min(MANY, 5 + len(best) + len(catalogue.history.items_of(user))) for user in range(40))
    assert least <= sum(users * k for users, k in asked) < 2 * least


def test_what_a_search_does_not_find(catalogue):
    """Items -1 are no item: neither a score nor a hit, also beside the last item of the catalogue."""
    items = catalogue.vectors()[1].abs()
    items[-1] *= 10  # the best of everybody
    users = catalogue.vectors()[0].abs()
    index = ItemIndex.build(items, "ivf", nlist=20, nprobe=1)
    scores, found = index.search(users, 100)
    assert bool((found[:, -1] == -1).all())
    assert bool((scores[found == -1] == -torch.inf).all())
    exact = (users @ items.T).topk(100).indices
    hits = [len(set(a) & set(b)) / 100 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    assert index.recall(users, 100) == pytest.approx(np.mean(hits))


def test_recall_says_what_approximation_costs(catalogue):
    users, items = catalogue.vectors()
    exact = (users @ items.T).topk(7).indices
    shares = []
    for probes in (1, 5, 20):
        index = catalogue.build_index("ivf", nlist=20, nprobe=probes)
        found = index.search(users, 7)[1]
        shares.append(index.recall(users, 7))
        hits = [len(set(a) & set(b)) / 7 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
        assert shares[-1] == pytest.approx(np.mean(hits))
    assert shares[0] < shares[1] < shares[2] == 1
    assert catalogue.build_index("flat").recall(users.numpy(), 20) == 1
    assert catalogue.build_index("hnsw").recall(users, 10) > 0.9


@pytest.mark.parametrize(
    ("kind", "options"), [("flat", {}), ("ivf", {"nlist": 12, "nprobe": 3}), ("hnsw", {"links": 8, "ef_search": 40})]
)
def test_an_index_comes_back_from_its_file(catalogue, kind, options, tmp_path):
    index = catalogue.build_index(kind, **options)
    path = tmp_path / "deep" / "items.faiss"
    index.save(path)
    index.save(str(path))  # again, over it
    assert [file.name for file in path.parent.iterdir()] == ["items.faiss"]
    loaded = ItemIndex.load(path)
    assert repr(loaded) == f"ItemIndex(kind={kind!r}, num_items=300, dim=16)"
    assert all(
        torch.equal(*pair)
        for pair in zip(loaded.search(catalogue.vectors()[0], 9), index.search(catalogue.vectors()[0], 9), strict=True)
    )
    # the checkpoint that it belongs to takes it
    catalogue.save_pretrained(tmp_path / "model")
    model = MFModel.from_pretrained(tmp_path / "model")
    assert loaded.ready_for(model)
    same(model.recommend([3], index=loaded), catalogue.recommend([3], index=index))


def test_an_index_of_other_vectors_is_refused(catalogue):
    model = copy.deepcopy(catalogue)
    index = model.build_index("ivf")
    assert index.ready_for(model)
    model.recommend([1], index=index)
    # users may change, items may not
    with torch.no_grad():
        model.user_embedding.weight.mul_(2.0)
    model.after_optimizer_step()
    model.recommend([1], index=index)
    with torch.no_grad():
        model.item_embedding.weight[17, 3] += 1e-3
    model.after_optimizer_step()
    assert not index.ready_for(model)
    with pytest.raises(ValueError, match=r"they have changed; trained further.*model.build_index\('ivf'\)"):
        model.recommend([1], index=index)
    model.recommend([1], index=model.build_index("ivf"))
    with pytest.raises(ValueError, match=r"it holds \[300, 16\] numbers, the model \[9, 6\]"):
        build("mf").recommend(["u1"], k=2, index=index)
    assert index.ready_for(catalogue)


def test_half_precision_ranks_the_same_on_both_ways(catalogue):
    model = copy.deepcopy(catalogue).to(torch.bfloat16)
    same(model.recommend(range(40), index=model.build_index()), model.recommend(range(40)))
    assert model.fold_in([["i3", "i4"]]).dtype == torch.bfloat16
    graph = build("lightgcn").to(torch.bfloat16)
    torch.testing.assert_close(
        graph.fold_in(HISTORIES).float(), build("lightgcn").fold_in(HISTORIES), rtol=0.05, atol=0.01
    )


def wrong_file(tmp_path, content: bytes):
    path = tmp_path / "x.faiss"
    path.write_bytes(content)
    return ItemIndex.load(path)


def euclidean():
    import faiss

    return ItemIndex(faiss.IndexFlatL2(4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, _: m.build_index("tree"), ValueError, "`kind` is 'tree'; expected one of flat, ivf, hnsw"),
        (lambda m, _: m.build_index("flat", nprobe=3), ValueError, "kind='flat' has no nprobe; its options are: none"),
        (lambda m, _: m.build_index("hnsw", nlist=3), ValueError, "its options are: links, ef_search"),
        (lambda m, _: m.build_index("ivf", nlist=301), ValueError, "`nlist` is 301, but there are 300 items"),
        (lambda m, _: m.build_index("ivf", nprobe=0), ValueError, "`nprobe` is 0; expected 1 or more"),
        (lambda m, _: m.build_index().search(torch.ones(2, 5)), ValueError, "have 5 numbers, but the index has 16"),
        (lambda m, _: m.build_index().search(torch.ones(16)), ValueError, r"shape \[16\], expected \[rows, dim\]"),
        (lambda m, _: m.build_index().search(torch.ones(1, 16), 301), ValueError, "`k` is 301, but the index has 300"),
        (lambda m, _: m.build_index().recall(torch.ones(0, 16)), ValueError, "has no row"),
        (lambda m, _: ItemIndex.build(torch.full((3, 2), torch.nan)), ValueError, "NaN or infinity"),
        (lambda m, path: ItemIndex.load(path / "no.faiss"), FileNotFoundError, "no index .*no.faiss"),
        (lambda m, path: wrong_file(path, b"something else"), ValueError, "is no index of faiss, or was cut short"),
        (lambda m, path: wrong_file(path, b""), ValueError, "is no index of faiss, or was cut short"),
        (lambda m, _: euclidean(), ValueError, "kind flat, ivf, hnsw with inner products, got IndexFlatL2"),
    ],
)
def test_bad_indexes(catalogue, call, error, message, tmp_path):
    with pytest.raises(error, match=message):
        call(catalogue, tmp_path)


def test_without_faiss(catalogue, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        catalogue.build_index()
    assert len(catalogue.recommend([0], k=5)[0]) == 5


def test_a_diverged_model_recommends_nothing():
    model = build("mf")
    with torch.no_grad():
        model.user_embedding.weight[3, 0] = torch.nan
    with pytest.raises(ValueError, match="vectors hold NaN or infinity: its training diverged"):
        model.recommend(["u1"], k=2)


def test_numbers_of_numpy_and_torch():
    model = build("mf", tokens=False)
    expected = model.recommend([2, 5], k=3, exclude=[0])
    for make in (np.array, torch.tensor, lambda numbers: [np.int64(number) for number in numbers]):
        assert model.recommend(make([2, 5]), k=3, exclude=make([0])) == expected
    for bad in (True, 7, -1, 1.0, "1"):
        with pytest.raises(ValueError, match="users are 0 to 6"):
            model.recommend([bad], k=3)


def test_a_model_made_in_inference_mode():
    """Its tensors count no writes, so nothing is kept."""
    with torch.inference_mode():
        model = build("lightgcn")
        before = model.fold_in(HISTORIES)
        model.item_embedding.weight.mul_(3.0)
        model.after_optimizer_step()
        assert not torch.allclose(model.fold_in(HISTORIES), before)
        index = model.build_index()
        same(model.recommend(["u1"], k=3, index=index), model.recommend(["u1"], k=3))
