"""The estimate of memory that recipes of recommenders make before they train, beside the measured peak of training steps.

Each system on a made log, each size in a process of its own: tables, AdamW, three steps, on the CPU. The estimates come from
`step_memory` of the configurations.

    python benchmarks/recommender_memory.py [--systems mf lightgcn ...] [--pairs 200000 2000000] [--no-write]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from hf_contrastive.data import NeighbourSamplingCollator, TripletDataset
from hf_contrastive.families.recommender.memory import estimate_training_memory
from hf_contrastive.registry import REGISTRY, get_system


SYSTEMS = [slug for slug, row in REGISTRY.items() if row.domain == "interaction"]
SAMPLED = "lightgcn, sampled"
FAN_OUT = (10, 5)
BATCH, DIM, LAYERS = 2048, 64, 2
GOAL = 0.3
HEADER = ["system", "pairs", "users + items", "measured, MB", "estimate, MB", "estimate / measured", "largest parts"]


def train(name: str, num_users: int, num_items: int, pairs: int, batch_size: int, steps: int) -> tuple[Any, int]:
    """Three steps; the configuration, and pairs without repeats."""
    fan_out = FAN_OUT if name == SAMPLED else None
    spec = get_system(name.partition(",")[0])
    rng = np.random.default_rng(0)
    users = rng.integers(num_users, size=pairs)
    items = (num_items * rng.random(pairs) ** 2).astype(np.int64)  # some are popular
    fields: dict[str, Any] = {"num_users": num_users, "num_items": num_items, "hidden_size": DIM}
    if name != "mf":
        fields["num_layers"] = LAYERS
    config: Any = spec.config_class()(**fields)
    model: Any = spec.model_class()(config).train()
    model.set_interactions(users, items)
    if hasattr(model, "set_features"):
        model.set_features({side: torch.rand(num_items, size) for side, size in config.feature_dims.items()})
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    triples = TripletDataset(users, items, num_users, num_items)
    collate = (
        NeighbourSamplingCollator(model.graph(), num_users, num_items, fan_out, engine="own") if fan_out else None
    )
    for _ in range(steps):
        batch: Any = triples.__getitems__(rng.integers(len(triples), size=batch_size).tolist())
        batch = collate(batch) if collate else batch
        if "neg_item_ids" not in model.view_inputs:
            batch.pop("neg_item_ids")
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_optimizer_step()
    return config, len(triples.histories.items)


def measure(name: str, pairs: int, threads: int) -> dict[str, Any]:
    """Measured peak and estimate; to be run in a fresh process."""
    torch.set_num_threads(threads)
    train(name, 50, 60, 500, 20, 2)  # what is loaded once is not counted
    num_users, num_items = pairs // 20, pairs // 40
    found: list[Any] = []
    peak = common.peak_extra_bytes(lambda: found.extend(train(name, num_users, num_items, pairs, BATCH, 3)))
    config, distinct = found
    fan_out = FAN_OUT if name == SAMPLED else None
    estimate = estimate_training_memory(config, distinct, BATCH, fan_out=fan_out)
    parts = sorted(estimate.parts.items(), key=lambda part: -part[1])[:3]
    return {
        "system": name,
        "pairs": distinct,
        "nodes": num_users + num_items,
        # the log itself and the histories that negatives are drawn from are not in the estimate
        "peak": peak - 32 * distinct,
        "estimate": estimate.total,
        "parts": ", ".join(f"{part} {size / 1e6:.0f}" for part, size in parts),
    }


def row_of(found: dict[str, Any]) -> list[object]:
    ratio = found["estimate"] / found["peak"]
    sizes = [f"{found[name] / 1e6:.0f}" for name in ("peak", "estimate")]
    return [found["system"], f"{found['pairs']:,}", f"{found['nodes']:,}", *sizes, f"{ratio:.2f}", found["parts"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--systems", nargs="+", choices=[*SYSTEMS, SAMPLED], default=[*SYSTEMS, SAMPLED], help="default: all"
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[200_000, 2_000_000], help="default: 200000 2000000")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    parser.add_argument("--no-write", action="store_true", help="print the section instead of writing it")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.systems[0], args.pairs[0], args.threads)))
        return
    rows = []
    for pairs in args.pairs:
        for name in args.systems:
            words = ["--one", "--systems", name, "--pairs", str(pairs), "--threads", str(args.threads)]
            variables = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
            command = [sys.executable, __file__, *words]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(common.table(HEADER, [row_of(rows[-1])]).splitlines()[-1], flush=True)
    off = max(rows, key=lambda row: abs(row["estimate"] / row["peak"] - 1))
    worst = abs(off["estimate"] / off["peak"] - 1)
    verdict = "met" if worst <= GOAL else "missed"
    text = "\n\n".join(
        [
            common.facts("recommender_memory.py", ["torch", "hf-contrastive"], args.threads),
            f"Batches of {BATCH} triples, {DIM} numbers a row, {LAYERS} layers, AdamW, float32, features of the default sizes, on the CPU "
            f"(not measured on GPU); sampled: {' '.join(map(str, FAN_OUT))} neighbours. Measured: how far the process rises while it makes "
            "the model and three steps, without the log and the histories of the draws.",
            common.table(HEADER, [row_of(row) for row in rows]),
            common.goals(
                [
                    f"estimates within {100 * GOAL:.0f} % of the peak: {verdict}; the worst is {100 * worst:.0f} % off "
                    f"({off['system']}, {off['pairs']:,} pairs)"
                ]
            ),
        ]
    )
    if args.no_write:
        print(text)
    else:
        common.write_section(args.output, "recommender memory", text)


if __name__ == "__main__":
    main()
