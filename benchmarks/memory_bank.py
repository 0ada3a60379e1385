"""Memory banks: time and memory of sampling and loss at ImageNet's size, and upkeep of a clustered bank beside a training step.

python benchmarks/memory_bank.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import common
import torch
from torch.nn.functional import normalize

from hf_contrastive.losses import memory_bank_nce
from hf_contrastive.modules.bank_sampling import draw_same_cluster, sample_negatives
from hf_contrastive.modules.clustered_memory_bank import ClusteredMemoryBank


DIM = 128
LENGTH, CLUSTERS, NEGATIVES, POOL = 1_281_167, 10_000, 16_384, 128_000
SAMPLINGS = ("hard", "semihard", "random")
SMALL = 50_000


def make_bank(length: int, clusters: int, **options: Any) -> ClusteredMemoryBank:
    torch.manual_seed(0)
    bank = ClusteredMemoryBank(length, DIM, clusters, **options)
    bank.set_labels(torch.randperm(length) % clusters)
    return bank


def one_step(bank: ClusteredMemoryBank, batch: int, sampling: str, *, negatives: int, pool: int) -> Callable[[], None]:
    """Inter-image branch of one step: positives, negatives, loss and its gradient."""
    query = normalize(torch.randn(batch, DIM), dim=1).requires_grad_()
    index = torch.randperm(bank.length)[:batch]

    def run() -> None:
        draws, own = bank.draws(index), bank.labels[index]
        positive = draw_same_cluster(bank.labels, own, draws)
        found = sample_negatives(
            query, bank.features, bank.labels, own, negatives, sampling, pool_size=pool, draws=draws
        )
        memory_bank_nce(query, bank.features, positive, found, temperature=0.2, margin=-0.5).backward()

    return run


def measure_memory(batch: int, sampling: str) -> float:
    """Peak extra memory in GB, in a fresh process."""
    command = [sys.executable, __file__, "--peak", str(batch), sampling]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1e9


def sampling_table(repeats: int, batches: list[int]) -> str:
    bank = make_bank(LENGTH, CLUSTERS)
    rows = []
    for batch in batches:
        methods = {name: one_step(bank, batch, name, negatives=NEGATIVES, pool=POOL) for name in SAMPLINGS}
        seconds = common.alternate(methods, repeats, warmup=0)
        for name in SAMPLINGS:
            rows.append(
                [name, batch, f"{statistics.median(seconds[name]):.2f} s", f"{measure_memory(batch, name):.2f} GB"]
            )
    return common.table(["negatives", "queries", "time of a step", "peak extra memory"], rows)


def upkeep(repeats: int, batch: int) -> tuple[str, tuple[float, float, float]]:
    """Bank update, labels, centroids (every tenth step) and small clusters, against a step of ResNet-18."""
    from transformers import ResNetConfig

    from hf_contrastive import MoCoConfig, MoCoForPreTraining

    backbone = ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
    )
    model = MoCoForPreTraining(MoCoConfig(backbone_config=backbone, projection_dims=[512, DIM], queue_size=batch * 16))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    bank = make_bank(SMALL, 500)
    images = torch.rand(batch, 2, 3, 32, 32)

    def train() -> None:
        optimizer.zero_grad()
        model(images).loss.backward()
        optimizer.step()
        model.after_optimizer_step()

    def keep() -> None:
        # ten steps, in which the centroids are computed once
        for _ in range(10):
            bank.stage(torch.randperm(SMALL)[:batch], torch.randn(batch, DIM))
            bank.after_step(None)

    seconds = common.alternate({"step": train, "upkeep": keep}, repeats)
    values = common.ratio([value / 10 for value in seconds["upkeep"]], seconds["step"])
    row = ["upkeep of 50,000 rows", f"{1000 * statistics.median(seconds['upkeep']) / 10:.1f} ms"]
    step = ["step of ResNet-18 at 32 x 32", f"{1000 * statistics.median(seconds['step']):.0f} ms"]
    return common.table([f"batch {batch}", "median"], [step, row]), values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", nargs=2, metavar=("BATCH", "SAMPLING"), help="for the script itself")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        batch, sampling = int(args.peak[0]), args.peak[1]
        step = one_step(make_bank(LENGTH, CLUSTERS), batch, sampling, negatives=NEGATIVES, pool=POOL)
        print(common.peak_extra_bytes(step))
        return
    kept, ratio = upkeep(max(5, args.repeats), 64)
    values = (100 * ratio[0], 100 * ratio[1], 100 * ratio[2])
    text = "\n\n".join(
        [
            "## Memory bank (InterCLR), CPU",
            common.facts("memory_bank.py", ["torch", "scikit-learn"], args.threads),
            f"Inter-image branch of one step (positive, negatives, loss and gradient) with a bank of {LENGTH:,} x {DIM} (0.66 GB), "
            f"{CLUSTERS:,} clusters, {NEGATIVES:,} negatives out of {POOL:,}:",
            sampling_table(args.repeats, args.batches),
            "What a clustered bank costs every step (rows, labels, small clusters; centroids every tenth), in turns with a "
            "training step of MoCo v2:",
            kept,
            f"Upkeep in percent of the step: {common.format_ratio(values)}.",
            common.goals(
                [
                    f"upkeep of a bank of 50,000 rows at most 10 percent of a step of ResNet-18: {common.verdict_at_most(values[0], 10)}."
                ]
            ),
        ]
    )
    common.write_section(common.RESULTS, "memory-bank", text)
    print(text)


if __name__ == "__main__":
    main()
