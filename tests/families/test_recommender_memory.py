"""The estimate of memory: it grows with every size, says what takes it, and refuses only what does not fit."""

from __future__ import annotations

import pytest
import torch

from hf_contrastive.families.recommender import memory
from hf_contrastive.families.recommender.memory import check_memory, estimate_training_memory, free_memory
from hf_contrastive.models.bm3.configuration_bm3 import BM3Config
from hf_contrastive.models.dccf.configuration_dccf import DCCFConfig
from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig
from hf_contrastive.models.lightgcn.modeling_lightgcn import LightGCNModel
from hf_contrastive.models.mf.configuration_mf import MFConfig
from hf_contrastive.models.sgl.configuration_sgl import SGLConfig
from hf_contrastive.models.siger.configuration_siger import SIGERConfig
from hf_contrastive.models.simgcl.configuration_simgcl import SimGCLConfig


CONFIGS = {
    "mf": MFConfig,
    "lightgcn": LightGCNConfig,
    "sgl": SGLConfig,
    "simgcl": SimGCLConfig,
    "dccf": DCCFConfig,
    "bm3": BM3Config,
    "siger": SIGERConfig,
}
PARTS = ["tables", "gradients", "optimizer", "activations", "graph", "batch"]
SIZES = {"num_users": 100_000, "num_items": 50_000, "hidden_size": 64}
each_system = pytest.mark.parametrize("name", CONFIGS)


def estimate(name: str, interactions: int = 2_000_000, batch: int = 2048, options: dict | None = None, **fields):
    return estimate_training_memory(CONFIGS[name](**{**SIZES, **fields}), interactions, batch, **(options or {}))


@each_system
def test_more_of_anything_takes_more(name):
    few = estimate(name)
    assert list(few.parts) == PARTS
    assert few.total == sum(few.parts.values())
    more = [
        estimate(name, num_users=110_000),
        estimate(name, num_items=60_000),
        estimate(name, hidden_size=80),
        estimate(name, interactions=2_500_000),
        estimate(name, batch=3000),
        estimate(name, options={"dtype_bytes": 8}),
        estimate(name, options={"num_negatives": 4}),
    ]
    if name in ("sgl", "simgcl", "dccf", "lightgcn"):
        more.append(estimate(name, num_layers=5))
    if name in ("bm3", "siger"):
        more.append(estimate(name, feature_dims={"image": 4096, "text": 384, "audio": 8}))
    assert all(one.total > few.total for one in more)
    assert all(
        one >= before for other in more for one, before in zip(other.parts.values(), few.parts.values(), strict=True)
    )


def test_what_can_be_counted_by_hand():
    table = 150_000 * 64 * 4
    found = estimate("lightgcn", options={"optimizer": "adamw_torch_fused"})
    assert (found.tables, found.gradients, found.optimizer) == (2 * table, table, 2 * table)
    assert estimate("lightgcn", options={"optimizer": "sgd"}).optimizer == 0
    # AdamW in several kernels works in copies of the larger table
    parts = [estimate("mf", options={"optimizer": name}).activations for name in ("adamw_torch", "adamw_torch_fused")]
    assert parts == [2 * 100_000 * 64 * 4, table]
    assert estimate("lightgcn", options={"optimizer": "adagrad"}).optimizer == table
    assert estimate("lightgcn", options={"optimizer": "a_new_one"}).optimizer == 2 * table
    features = 50_000 * 100 * 4
    trained, frozen = (
        estimate("bm3", feature_dims={"image": 100}, freeze_features=freeze) for freeze in (False, True)
    )
    assert trained.tables == frozen.tables == 2 * table + features
    assert (trained.gradients, frozen.gradients) == (table + features, table)
    assert estimate("siger", feature_dims={"image": 100}).gradients == table
    # the graph as it is made
    model = LightGCNModel(LightGCNConfig(num_users=30, num_items=20, hidden_size=4))
    model.set_interactions(torch.arange(30), torch.arange(30) % 20)
    held = [*model.graph().buffers(), model.history.items, model.history.counts]
    exact = sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert estimate_training_memory(model.config, 30, 1).graph == pytest.approx(exact, rel=0.1)


def test_passes_of_the_systems():
    """Measured peaks of one step on a log of two million pairs (CPU, AdamW): within 30 %."""
    measured = {"lightgcn": 454, "simgcl": 755, "sgl": 947, "dccf": 2054}  # MB
    for name, size in measured.items():
        assert estimate(name, num_layers=2).total / 1e6 == pytest.approx(size, rel=0.3)


def test_sampled_training_needs_less_for_activations():
    big = {"num_users": 5_000_000, "num_items": 1_000_000}
    fused = {"optimizer": "adamw_torch_fused"}
    full = estimate("lightgcn", 20_000_000, options=fused, **big)
    last = 0
    for fan_out in ((5, 5), (15, 10), (15, 10, 5), (-1, -1)):
        sampled = estimate("lightgcn", 20_000_000, options={"fan_out": fan_out, **fused}, **big)
        assert last < sampled.activations
        last = sampled.activations
        assert {name: sampled.parts[name] for name in PARTS if name != "activations"} == {
            name: full.parts[name] for name in PARTS if name != "activations"
        }
        if fan_out == (5, 5):
            assert sampled.activations < 0.6 * full.activations
    assert (full.sampled_neighbours, sampled.sampled_neighbours) == ("15 10 5", "")
    assert estimate("sgl").sampled_neighbours == ""


def test_what_does_not_fit_is_refused(monkeypatch):
    big = estimate("lightgcn", 100_000_000, num_users=7_000_000, num_items=3_000_000)
    monkeypatch.setattr(memory, "free_memory", lambda device: int(23e9))
    with pytest.raises(
        ValueError,
        match=r"^training needs about 28 GB on cpu \(activations 10 GB, graph 5.3 GB, tables 5.1 GB\), and 23 GB are free; "
        r"use sampled training \(--sampled_neighbours 15 10 5\), a smaller --hidden_size \(now 64\), or a larger machine\.$",
    ):
        check_memory(big, "cpu")
    monkeypatch.setattr(memory, "free_memory", lambda device: big.total)
    check_memory(big, "cpu")
    with pytest.raises(ValueError, match="on cpu in each of 2 processes"):
        check_memory(big, "cpu", processes=2)
    # sampling is no way out where tables alone are too much, or where the system has none
    monkeypatch.setattr(memory, "free_memory", lambda device: int(5e9))
    for one in (big, estimate("simgcl", 100_000_000, num_users=7_000_000, num_items=3_000_000)):
        with pytest.raises(ValueError, match=r"and 5.0 GB are free; use .*a smaller --hidden_size") as error:
            check_memory(one, torch.device("cuda", 0))
        assert "--sampled_neighbours" not in str(error.value)
        assert " on cuda:0 " in str(error.value)


@each_system
def test_no_false_alarm(name, monkeypatch):
    tiny = estimate(name, 10_000, 256, num_users=600, num_items=400)
    check_memory(tiny, "cpu")
    assert tiny.total < 2e8
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    check_memory(estimate(name, 10**12, num_users=10**9, num_items=10**9), "cpu")  # nobody knows what is free


def test_free_memory():
    assert 10**7 < free_memory("cpu") < 10**15
    assert free_memory("meta") is None


def test_bad_input():
    with pytest.raises(ValueError, match="`num_interactions` is -1; expected 0 or more"):
        estimate("mf", -1)
