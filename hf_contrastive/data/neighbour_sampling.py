"""Subgraphs around a batch, so that a training step of a graph recommender does not pay for the whole graph."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_contrastive.data.random_numbers import stateless_uniform
from hf_contrastive.data.shared_epoch import SharedEpoch
from hf_contrastive.data.triplets import collate_triplets
from hf_contrastive.tensor_utils import distinct
from hf_contrastive.utils import require_package


ENGINES = ("auto", "own", "pyg")


class NeighbourSamplingCollator(SharedEpoch):
    """Adds to a batch of triples the nodes within some hops of it, and edges drawn to their neighbours (GraphSAGE's sampling).

    Hop h looks at the nodes that hop h - 1 found (the first one at the batch's own): for each of them, up to `fan_out[h]`
    neighbours are drawn, evenly and without repetition. A node is drawn for once. An edge has the weight of the whole graph,
    1 / sqrt(degree of head x degree of tail), times degree / number drawn of its head, so that the mean over the draws of a sum
    over neighbours is the exact sum; with no more neighbours than `fan_out`, it is the exact sum. The mean is also exact through
    two layers. Through three or more, a walk that comes back to its head uses the same draw twice, which leaves a small bias.

    Draws depend on seed, epoch and batch alone: not on worker, process, or where a run was resumed.

    Args:
        pairs (`(users [E], items [E])`, or a `BipartiteGraph`): the training pairs, for example `data.part("train")`, or
            `model.graph()`.
        num_users (`int`), num_items (`int`): how many there are.
        fan_out (`Sequence[int]`, defaults to (15, 10)): neighbours of a node, hop by hop, as many hops as the model has layers;
            -1 for all.
        seed (`int`, defaults to 0): of the draws.
        engine (`str`, defaults to `"auto"`): what draws: `"own"` (NumPy), `"pyg"` (torch-geometric with pyg-lib; torch-sparse's draws
            are not even), or `"auto"`: torch-geometric where it can sample, otherwise our own. The two draw other neighbours from the
            same seed.

    Raises:
        ValueError: no pair, numbers outside their range, no hop, a fan-out of 0, or an unknown engine.
        ImportError: `engine="pyg"` without torch-geometric or pyg-lib.

    Example:

    ```python
    >>> from torch.utils.data import DataLoader
    >>> from hf_contrastive.data import NeighbourSamplingCollator, TripletDataset
    >>> pairs = [0, 0, 1, 2], [0, 1, 2, 2]
    >>> data = TripletDataset(*pairs, num_users=3, num_items=3)
    >>> collator = NeighbourSamplingCollator(pairs, 3, 3, fan_out=(1, 1), engine="own")
    >>> batch = next(iter(DataLoader(data, batch_size=1, collate_fn=collator)))
    >>> sorted(batch), len(batch["edge_index"]) == 2
    (['edge_index', 'edge_weights', 'neg_item_ids', 'node_ids', 'pos_item_ids', 'user_ids'], True)

    ```
    """

    def __init__(
        self,
        pairs: Any,
        num_users: int,
        num_items: int,
        fan_out: Sequence[int] = (15, 10),
        *,
        seed: int = 0,
        engine: str = "auto",
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"`engine` is {engine!r}; expected one of {', '.join(ENGINES)}")
        self.fan_out = tuple(int(count) for count in fan_out)
        if not self.fan_out or any(count == 0 or count < -1 for count in self.fan_out):
            raise ValueError(
                f"`fan_out` is {list(self.fan_out)}; expected a number of neighbours for every layer, 1 or more, or -1 for all"
            )
        self.num_users, self.num_items, self.seed = num_users, num_items, seed
        self.starts, self.columns = _neighbours(pairs, num_users, num_items)
        self.degrees = np.diff(self.starts)
        usable = pyg_can_sample()
        if engine == "pyg" and not usable:
            require_package("torch_geometric", "graph", purpose="engine='pyg'")
            raise ImportError(
                "torch-geometric is installed, but not pyg-lib, which samples for it (torch-sparse's draws are not even): install "
                "pyg-lib from PyG's own wheels, or pass engine='own'."
            )
        self.engine = ("pyg" if usable else "own") if engine == "auto" else engine
        self._sampler: Any = self._pyg_sampler() if self.engine == "pyg" else None
        super().__init__()

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """A batch of a [`TripletDataset`], or its rows, with a subgraph.

        Args:
            batch (`dict` or a list of them): `user_ids`, `pos_item_ids`, and `neg_item_ids` where there are any.

        Returns:
            `dict`: the batch, and

            - `node_ids` (`LongTensor` `[n]`): numbers of the nodes (item i is `num_users + i`), each once: those of the batch,
              ascending, then hop by hop what was found;
            - `edge_index` (`LongTensor` `[2, e]`): head (the node that sums) and tail of every edge, as places in `node_ids`; by
              head, ascending;
            - `edge_weights` (`DoubleTensor` `[e]`).
        """
        found = collate_triplets(batch)
        ids = [found["user_ids"]]
        ids += [found[name] + self.num_users for name in ("pos_item_ids", "neg_item_ids") if name in found]
        given = torch.cat([part.flatten() for part in ids]).numpy()
        seeds, key = distinct(given), zlib.crc32(given.tobytes())
        nodes, heads, tails = self._draw_pyg(seeds, key) if self._sampler is not None else self._draw(seeds, key)
        degrees, drawn = self.degrees[nodes], np.bincount(heads, minlength=len(nodes))
        scale = np.sqrt(np.maximum(degrees, 1))
        found["node_ids"] = torch.from_numpy(nodes)
        found["edge_index"] = torch.from_numpy(np.stack([heads, tails]))
        found["edge_weights"] = torch.from_numpy((scale / np.maximum(drawn, 1))[heads] / scale[tails])
        return found

    def _draw(self, seeds: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nodes by number, heads and tails as places among them."""
        place = np.full(self.num_users + self.num_items, -1, dtype=np.int32)
        place[seeds] = np.arange(len(seeds))
        nodes, heads, tails, count = [seeds], [], [], len(seeds)
        for fan_out in self.fan_out:
            front = nodes[-1]
            owner, edges = self._edges(front, fan_out, key)
            ends = self.columns[edges].astype(np.int64)
            new = ends[place[ends] < 0]
            # each once: of several writes to the same place, one stays
            place[new] = np.arange(len(new), dtype=np.int32)
            new = new[place[new] == np.arange(len(new))]
            place[new] = count + np.arange(len(new), dtype=np.int32)
            heads.append(owner + (count - len(front)))
            tails.append(place[ends].astype(np.int64))
            nodes.append(new)
            count += len(new)
        return np.concatenate(nodes), np.concatenate(heads), np.concatenate(tails)

    def _edges(self, nodes: np.ndarray, fan_out: int, key: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of the nodes, ascending, and of the edges that are drawn for them."""
        degrees, starts = self.degrees[nodes], self.starts[nodes]
        counts = degrees if fan_out < 0 else np.minimum(degrees, fan_out)
        owner = np.repeat(np.arange(len(nodes)), counts)
        begins = np.cumsum(counts) - counts
        edges = np.arange(len(owner)) + (starts - begins)[owner]  # the first ones of each
        rows = np.flatnonzero(degrees > counts)
        if len(rows):
            chosen = self._choose(nodes[rows], degrees[rows], fan_out, key)
            edges[begins[rows] + np.arange(fan_out)[:, None]] = starts[rows] + chosen
        return owner, edges

    def _choose(self, nodes: np.ndarray, degrees: np.ndarray, count: int, key: int) -> np.ndarray:
        """For every node, `count` different numbers below its degree, `[count, nodes]` (Floyd's algorithm: no trial and error)."""
        draws = stateless_uniform(self.seed, int(self._epoch[0]), nodes, np.array([key]), count).T
        chosen = np.empty(draws.shape, dtype=np.int64)
        for step, draw in enumerate(draws):
            last = degrees - count + step
            pick = (draw * (last + 1)).astype(np.int64)
            chosen[step] = np.where((chosen[:step] == pick).any(0), last, pick)
        return chosen

    def _pyg_sampler(self) -> Any:
        from torch_geometric.data import Data  # ty: ignore[import-not-found]
        from torch_geometric.sampler import NeighborSampler  # ty: ignore[import-not-found]

        heads = np.repeat(np.arange(len(self.degrees)), self.degrees)
        # PyG draws the sources of the edges into a node
        index = torch.from_numpy(np.stack([self.columns, heads]))
        graph = Data(edge_index=index, num_nodes=len(self.degrees))
        return NeighborSampler(graph, num_neighbors=list(self.fan_out), replace=False, is_sorted=True)

    def _draw_pyg(self, seeds: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from torch_geometric.sampler import NodeSamplerInput  # ty: ignore[import-not-found]

        draw = stateless_uniform(self.seed, int(self._epoch[0]), np.array([key]), np.array([0]), 1)
        with torch.random.fork_rng(devices=[]):  # PyG draws from torch's own generator
            torch.manual_seed(int(draw[0, 0] * 2**53))
            found = self._sampler.sample_from_nodes(NodeSamplerInput(input_id=None, node=torch.from_numpy(seeds)))
        heads, order = torch.sort(found.col, stable=True)
        return found.node.numpy(), heads.numpy(), found.row[order].numpy()


def pyg_can_sample() -> bool:
    """Whether torch-geometric is installed, and pyg-lib, which samples for it.

    With torch-sparse it samples, too, but the last neighbours come too rarely or never (rusty1s/pytorch_sparse#385).
    """
    try:
        from torch_geometric import typing  # ty: ignore[import-not-found]
    except ImportError:
        return False
    return bool(typing.WITH_PYG_LIB)


def _neighbours(pairs: Any, num_users: int, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each node's neighbours begin, and the neighbours, users first."""
    if hasattr(pairs, "starts"):
        if (pairs.num_users, pairs.num_items) != (num_users, num_items):
            raise ValueError(
                f"the graph has {pairs.num_users} users and {pairs.num_items} items, expected {num_users} and {num_items}"
            )
        return pairs.starts.cpu().numpy(), pairs.columns.cpu().numpy()
    users, items = (np.asarray(ids, dtype=np.int64) for ids in pairs)
    if users.ndim != 1 or users.shape != items.shape or not len(users):
        raise ValueError(
            f"`pairs` has users of shape {list(users.shape)} and items of shape {list(items.shape)}; expected two lists of one "
            "length, 1 or more"
        )
    for name, ids, count in (("users", users, num_users), ("items", items, num_items)):
        if ids.min() < 0 or ids.max() >= count:
            raise ValueError(f"`{name}` go from {ids.min()} to {ids.max()}, but there are {count} of them, from 0")
    keys = distinct(users * num_items + items)
    users, items = keys // num_items, keys % num_items
    degrees = np.concatenate([np.bincount(users, minlength=num_users), np.bincount(items, minlength=num_items)])
    starts = np.concatenate([[0], np.cumsum(degrees)])
    return starts, np.concatenate([items + num_users, users[np.argsort(items, kind="stable")]])


__all__ = ["ENGINES", "NeighbourSamplingCollator", "pyg_can_sample"]
