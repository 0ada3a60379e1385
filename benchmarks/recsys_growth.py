"""Growth of LightGCN with the number of pairs, one size in a process of its own; `recsys.py` runs it.

    python benchmarks/recsys_growth.py 100000 1

The numbers are pairs and threads; it prints one row as JSON.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import common
import numpy as np
import torch

from hf_contrastive import LightGCNConfig, LightGCNModel
from hf_contrastive.data import TripletDataset


# time and memory shall grow with at most this power of the number of pairs
GOAL_POWER = 1.1
HEADER = [
    "pairs",
    "users + items",
    "edges",
    "graph, s",
    "propagation, s",
    "training step, s",
    "ns an edge, step",
    "sums alone, s",
    "peak memory, GB",
    "bytes a pair",
]


def grow(size: int, threads: int, batch: int, dim: int, layers: int) -> dict[str, float]:
    """A LightGCN of a made log: seconds of a training step and of a propagation, peak memory. To be run in a fresh process.

    Args:
        size (`int`): pairs.
        threads (`int`): of torch.
        batch (`int`), dim (`int`), layers (`int`): triples a step, numbers a row, steps along the edges.

    Returns:
        `dict[str, float]`: one row of the table.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    num_users, num_items = size // 10, size * 3 // 100
    facts: dict[str, float] = {"pairs": size, "nodes": num_users + num_items}

    def timed(method: Callable[[], Any], count: int = 5) -> float:
        method()
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            method()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    def work() -> None:
        users, items = rng.integers(num_users, size=size), rng.integers(num_items, size=size)
        config = LightGCNConfig(num_users=num_users, num_items=num_items, hidden_size=dim, num_layers=layers)
        model: Any = LightGCNModel(config).train()
        start = time.perf_counter()
        model.set_interactions(users, items)
        facts["edges"] = model.graph().num_edges
        facts["graph"] = time.perf_counter() - start
        triples = TripletDataset(users, items, num_users, num_items)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def step() -> None:
            rows = triples.__getitems__(torch.randint(size, (batch,)).tolist())
            model(**rows).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            model.after_optimizer_step()

        facts["step"] = timed(step)
        with torch.no_grad():
            facts["propagation"] = timed(model.propagate)

    facts["bytes"] = common.peak_extra_bytes(work)
    # a propagation sums a row for every edge, layer by layer
    nodes = num_users + num_items
    table = torch.zeros(nodes, dim)
    ids = torch.randint(nodes, (nodes, round(facts["edges"] / nodes)))

    def read() -> None:
        for _ in range(layers):
            torch.nn.functional.embedding_bag(ids, table, mode="sum")

    facts["reading"] = timed(read)
    return facts


def measure(sizes: Iterable[int], threads: int, batch: int, dim: int, layers: int) -> Iterator[dict[str, float]]:
    """[`grow`] for every size, each in a fresh process."""
    for size in sizes:
        command = [sys.executable, __file__, *map(str, (size, threads, batch, dim, layers))]
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=variables, check=True)
        yield json.loads(done.stdout.splitlines()[-1])


def row_of(facts: Mapping[str, float]) -> list[str]:
    """A row of the table."""
    return [
        f"{facts['pairs']:,}",
        f"{facts['nodes']:,}",
        f"{facts['edges']:,}",
        f"{facts['graph']:.2f}",
        f"{facts['propagation']:.4f}",
        f"{facts['step']:.4f}",
        f"{1e9 * facts['step'] / facts['edges']:.0f}",
        f"{facts['reading']:.4f}",
        f"{facts['bytes'] / 1e9:.2f}",
        f"{facts['bytes'] / facts['pairs']:.0f}",
    ]


def power(rows: Sequence[Mapping[str, float]], what: str) -> list[float]:
    """Between neighbouring sizes, the power of the number of edges with which a figure grows."""
    return [
        math.log(after[what] / before[what]) / math.log(after["edges"] / before["edges"])
        for before, after in itertools.pairwise(rows)
    ]


def goal_line(rows: Sequence[Mapping[str, float]]) -> str:
    """The goal, whether it is met, and how reading the rows alone grows."""
    texts = {"step": "training step", "propagation": "propagation", "bytes": "peak memory"}
    reached = "; ".join(
        f"{text} {', '.join(common.verdict_at_most(value, GOAL_POWER) for value in power(rows, what))}"
        for what, text in texts.items()
    )
    sizes = " to ".join(f"{row['pairs']:,}" for row in rows)
    reading = ", ".join(f"{value:.2f}" for value in power(rows, "reading"))
    return (
        f"growth with at most the power {GOAL_POWER:g} of the number of edges, {sizes} pairs: {reached} (summing as many rows at "
        f"random, and nothing else: {reading})."
    )


def text(rows: Sequence[Mapping[str, float]], batch: int, layers: int) -> list[str]:
    """The part of the section."""
    return [
        "### Growth",
        "LightGCN on made logs (pairs drawn evenly, 10 pairs a user, 10 users to 3 items), each size in a process of its own. A training "
        f"step: {batch} triples drawn, forward, backward, Adam; a propagation: final vectors of all users and items, without gradient. "
        f"Sums alone: `embedding_bag` over as many rows, {layers} an edge, drawn at random from a table of that size: by how much it grows "
        "beyond the number of edges, any sum over neighbours does, for tables leave the processor's cache. Median of 5. Peak memory: how far "
        "the process rises above what it holds after its imports, making log and graph included.",
        common.table(HEADER, [row_of(row) for row in rows]),
    ]


def main() -> None:
    size, threads, *rest = map(int, sys.argv[1:])
    batch, dim, layers = rest or (2048, 64, 2)
    print(json.dumps(grow(size, threads, batch, dim, layers)))


if __name__ == "__main__":
    main()
