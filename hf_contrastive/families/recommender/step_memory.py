"""What a training step of a recommender holds at its peak, as each configuration says of its system."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepMemory:
    """What a step holds beside tables, gradients and the optimizer's numbers. Benchmarks compare it with measured peaks
    (`benchmarks/recommender_memory.py`).

    Args:
        rows (`float`): arrays as large as both tables.
        edge_bytes (`float`, defaults to 0): for every pair of the log, beside the graph's own.
        contrasts (`float`, defaults to 0): InfoNCE terms over nodes of the batch.
        numbers (`float`, defaults to 0): for every node, of other kinds (mixtures).
        feature_copies (`float`, defaults to 0): arrays as large as the features of a modality, while graphs are made of them before
            the first step.
        trained_features (`bool`, defaults to `False`): features of the items are trained like the tables.
        sampled (`bool`, defaults to `False`): the system can be trained on subgraphs around the batch.
    """

    rows: float
    edge_bytes: float = 0.0
    contrasts: float = 0.0
    numbers: float = 0.0
    feature_copies: float = 0.0
    trained_features: bool = False
    sampled: bool = False


__all__ = ["StepMemory"]
