"""Contrastive losses beside their peers: time and memory of one forward and backward pass, normalisation included.

Peers: plain PyTorch (cross-entropy on the whole matrix), open_clip's ClipLoss, lightly's NTXentLoss and the ranking
losses of sentence-transformers, each called on embeddings. Every method gets the same embeddings and must return the
same loss. Times come from alternating runs in one process, memory from a fresh process for each method.

Install the peers beside this package first: pip install -e ".[bench]"
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_contrastive.losses import clip_loss, info_nce, nt_xent


OURS = "hf_contrastive"
LIMIT_BYTES = 10e9
Step = Callable[[], Tensor]

FAMILIES = {
    "symmetric": "Symmetric (CLIP): rows and columns of `a b^T / 0.07`",
    "one-way": "One direction (InfoNCE, multiple negatives ranking): rows of `a b^T / 0.07`",
    "nt_xent": "NT-Xent (SimCLR): 2N rows against each other, temperature 0.1",
}
# exact products of a whole matrix that a forward and backward pass cannot do without; NT-Xent's matrix is symmetric
PRODUCTS = {"symmetric": 3.0, "one-way": 3.0, "nt_xent": 1.5}
SCALE = 1 / 0.07
TEMPERATURE = 0.1


# -------------------------------------------------------------------------------------------------------- methods
# each builder gets the two embeddings and returns a function that makes the loss; the caller runs backward


def ours_symmetric(a: Tensor, b: Tensor) -> Step:
    return lambda: clip_loss(a, b, SCALE)


def plain_symmetric(a: Tensor, b: Tensor) -> Step:
    target = torch.arange(len(a), device=a.device)

    def step() -> Tensor:
        logits = SCALE * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return step


def open_clip_symmetric(a: Tensor, b: Tensor) -> Step:
    loss = importlib.import_module("open_clip.loss").ClipLoss()
    return lambda: loss(F.normalize(a, dim=-1), F.normalize(b, dim=-1), SCALE)


def _ranking_loss(name: str, symmetric: bool, **settings: object) -> Any:
    importlib.import_module("sentence_transformers")
    try:  # where the newest versions keep them
        losses = importlib.import_module("sentence_transformers.sentence_transformer.losses")
    except ImportError:
        losses = importlib.import_module("sentence_transformers.losses")
    model = torch.nn.Sequential(torch.nn.Identity())  # the losses only look at what kind of encoder it is
    if symmetric:
        settings |= {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    return getattr(losses, name)(model=model, scale=SCALE, **settings)


def ranking(symmetric: bool) -> Callable[[Tensor, Tensor], Step]:
    def build(a: Tensor, b: Tensor) -> Step:
        loss = _ranking_loss("MultipleNegativesRankingLoss", symmetric)
        return lambda: loss.compute_loss_from_embeddings([a, b], None)

    return build


def cached_ranking(symmetric: bool) -> Callable[[Tensor, Tensor], Step]:
    """Its rows in chunks, each chunk with its own backward pass, as the class does it before the encoder."""

    def build(a: Tensor, b: Tensor) -> Step:
        loss = _ranking_loss("CachedMultipleNegativesRankingLoss", symmetric, mini_batch_size=1024)
        return lambda: loss.calculate_loss([[a], [b]], with_backward=True)

    return build


def ours_one_way(a: Tensor, b: Tensor) -> Step:
    return lambda: info_nce(a, b, temperature=1 / SCALE)


def plain_one_way(a: Tensor, b: Tensor) -> Step:
    target = torch.arange(len(a), device=a.device)
    return lambda: F.cross_entropy(SCALE * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T, target)


def ours_nt_xent(a: Tensor, b: Tensor) -> Step:
    return lambda: nt_xent(a, b, TEMPERATURE)


def plain_nt_xent(a: Tensor, b: Tensor) -> Step:
    n = len(a)
    target = (torch.arange(2 * n, device=a.device) + n) % (2 * n)

    def step() -> Tensor:
        u = F.normalize(torch.cat([a, b]), dim=-1)
        logits = (u @ u.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        return F.cross_entropy(logits, target)

    return step


def lightly_nt_xent(a: Tensor, b: Tensor) -> Step:
    loss = importlib.import_module("lightly.loss").NTXentLoss(temperature=TEMPERATURE)
    return lambda: loss(a, b)


METHODS: dict[str, dict[str, Callable[[Tensor, Tensor], Step]]] = {
    "symmetric": {
        OURS: ours_symmetric,
        "plain PyTorch": plain_symmetric,
        "open_clip": open_clip_symmetric,
        "sentence-transformers": ranking(True),
        "sentence-transformers, cached": cached_ranking(True),
    },
    "one-way": {
        OURS: ours_one_way,
        "plain PyTorch": plain_one_way,
        "sentence-transformers": ranking(False),
        "sentence-transformers, cached": cached_ranking(False),
    },
    "nt_xent": {OURS: ours_nt_xent, "plain PyTorch": plain_nt_xent, "lightly": lightly_nt_xent},
}


def embeddings(n: int, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, d, generator=generator)
    b = a + torch.randn(n, d, generator=generator)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return a.to(device, dtype).requires_grad_(), b.to(device, dtype).requires_grad_()


def runner(family: str, method: str, a: Tensor, b: Tensor) -> Callable[[], float]:
    """One forward and backward pass; returns the loss."""
    step = METHODS[family][method](a, b)

    def run() -> float:
        a.grad = b.grad = None
        loss = step()
        if loss.requires_grad:  # the cached loss has done its own backward pass
            loss.backward()
        if a.is_cuda:
            torch.cuda.synchronize()
        return float(loss.detach())

    return run


# ---------------------------------------------------------------------------------------------------------- memory


def measure_memory(family: str, method: str, n: int, d: int, device: torch.device) -> dict[str, float]:
    """In this process: peak extra bytes and the loss of one pass, after a small one that loads every library."""
    runner(family, method, *embeddings(64, d, device))()
    run = runner(family, method, *embeddings(n, d, device))
    values: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        values.append(run())
        return {"bytes": torch.cuda.max_memory_allocated() - before, "loss": values[0]}
    return {"bytes": common.peak_extra_bytes(lambda: values.append(run())), "loss": values[0]}


def memory_in_a_fresh_process(family: str, method: str, n: int, args: argparse.Namespace) -> dict[str, float] | str:
    command = [sys.executable, str(Path(__file__).resolve()), "--memory-of", family, method, str(n)]
    command += ["--dim", str(args.dim), "--threads", str(args.threads), "--device", str(args.device)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return f"failed: {lines[-1][:120]}" if done.returncode > 0 else "killed (out of memory?)"
    return json.loads(done.stdout.strip().splitlines()[-1])


# ---------------------------------------------------------------------------------------------------------- report


def absent(family: str, method: str) -> str | None:
    """Why a method cannot be run at all, None when it can."""
    try:
        METHODS[family][method](*embeddings(4, 8, torch.device("cpu")))
    except ImportError as error:
        return f"absent: {error}"
    return None


def benchmark(family: str, n: int, args: argparse.Namespace, memory: dict[tuple[str, str, int], float]) -> list[list]:
    """Rows of the table: method, seconds, ratio to ours, peak extra memory, ratio of it."""
    notes: dict[str, str] = {}
    losses: dict[str, float] = {}
    for method in METHODS[family]:
        reason = absent(family, method)
        known = [(size, memory[family, method, size]) for size in args.sizes if (family, method, size) in memory]
        if reason is None and known and method != OURS:
            size, used = known[-1]
            forecast = used * (n / size) ** 2
            if n > size and forecast > LIMIT_BYTES:
                reason = f"skipped: would need about {forecast / 1e9:.0f} GB"
        if reason is None:
            found = memory_in_a_fresh_process(family, method, n, args)
            if isinstance(found, str):
                reason = found
            else:
                memory[family, method, n] = found["bytes"]
                losses[method] = found["loss"]
        if reason is not None:
            notes[method] = reason
        print(f"  {family} N={n} {method}: {reason or f'{memory[family, method, n] / 1e6:.0f} MB'}", flush=True)

    tolerance = 1e-4 if args.device.type == "cpu" else 2e-2
    for method, loss in losses.items():
        if abs(loss - losses[OURS]) > tolerance * abs(losses[OURS]):
            raise SystemExit(f"{family}, N={n}: {method} says the loss is {loss}, {OURS} says {losses[OURS]}")

    a, b = embeddings(n, args.dim, args.device)
    runs = {method: runner(family, method, a, b) for method in METHODS[family] if method not in notes}
    seconds = common.alternate(runs, args.repeats)
    rows = []
    for method in METHODS[family]:
        if method in notes:
            rows.append([method, notes[method], "", "", ""])
            continue
        used = memory[family, method, n]
        rows.append(
            [
                method,
                f"{statistics.median(seconds[method]) * 1e3:.1f}",
                "1" if method == OURS else common.format_ratio(common.ratio(seconds[method], seconds[OURS])),
                f"{used / 1e6:.0f}",
                "1" if method == OURS else f"{used / max(memory[family, OURS, n], 1):.1f}",
            ]
        )
    print(*rows, sep="\n", flush=True)
    return rows


def floor(family: str, n: int, args: argparse.Namespace) -> str:
    """How long the unavoidable matrix products take alone, at the speed of one product of a cache-sized tile."""
    side = 2 * n if family == "nt_xent" else n
    tile = min(2048, side)
    a, b = embeddings(tile, args.dim, args.device)
    out = torch.empty(tile, tile, dtype=a.dtype, device=a.device)

    def product() -> None:
        torch.mm(a.detach(), b.detach().T, out=out)
        if a.is_cuda:
            torch.cuda.synchronize()

    seconds = statistics.median(common.alternate({"product": product}, 20)["product"])
    total = PRODUCTS[family] * (side / tile) ** 2 * seconds
    return (
        f"The matrix products alone ({PRODUCTS[family]:g} times {side} x {side} x {args.dim}) take about "
        f"{total * 1e3:.1f} ms here: no method that computes every similarity can be faster."
    )


def large_run(args: argparse.Namespace) -> str:
    """Our symmetric loss alone on a batch whose matrix nobody could hold (the idea of Inf-CL: tiles all the way)."""
    a, b = embeddings(args.large, args.dim, args.device)
    run = runner("symmetric", OURS, a, b)
    runner("symmetric", OURS, *embeddings(8192, args.dim, args.device))()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = common.alternate({OURS: run}, 1, warmup=0)[OURS][0]
    used = torch.cuda.max_memory_allocated() - before
    return f"Symmetric loss at N = {args.large}: {seconds:.1f} s, {used / 1e6:.0f} MB extra."


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 16384], help="batch sizes N")
    parser.add_argument("--dim", type=int, default=256, help="width of the embeddings (default: 256)")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="which losses")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(device), help=f"default here: {device}")
    parser.add_argument("--large", type=int, default=2**20, help="batch of the single large run on a GPU; 0: none")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.sizes = sorted(args.sizes)
    if args.repeats < 1 or min(args.sizes) < 2:
        parser.error("--repeats must be at least 1 and every size at least 2")
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        family, method, n = args.memory_of
        print(json.dumps(measure_memory(family, method, int(n), args.dim, args.device)))
        return
    memory: dict[tuple[str, str, int], float] = {}
    on_gpu = args.device.type == "cuda"
    parts = [
        "## Contrastive losses",
        common.facts(
            "losses.py",
            ["torch", "lightly", "open_clip_torch", "sentence-transformers", "hf-contrastive"],
            args.threads,
        ),
        f"Forward and backward pass, normalisation included, width {args.dim}, "
        f"{'bfloat16' if on_gpu else 'float32'}. {args.repeats} alternating rounds in one process; the ratio is "
        "method / ours, round by round: median (smallest to largest). Peak memory above the inputs, one pass in a fresh "
        "process. All methods of a table returned the same loss.",
    ]
    gpu = "see the device above" if on_gpu else "not measured on GPU"
    header = ["method", "ms (median)", f"time / {OURS}", "peak extra MB", f"memory / {OURS}", "GPU (bfloat16)"]
    for family in args.families:
        for n in args.sizes:
            rows = [[*row, gpu] for row in benchmark(family, n, args, memory)]
            parts += [f"### {FAMILIES[family]}, N = {n}", common.table(header, rows), floor(family, n, args)]
    if on_gpu and args.large:
        parts += ["### A batch beyond any matrix", large_run(args)]
    common.write_section(args.output, "losses", "\n\n".join(parts))
    print(f"written: section 'losses' of {args.output.name}")


if __name__ == "__main__":
    main()
