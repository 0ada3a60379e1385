"""Contrastive losses beside their peers: time and memory of one forward and backward pass, normalisation included.

Peers: plain PyTorch (cross-entropy on the whole matrix), open_clip's ClipLoss, lightly's NTXentLoss and the ranking
losses of sentence-transformers, each called on embeddings. Every method gets the same embeddings and must return the
same loss. Times come from alternating runs in one process, memory from a fresh process for each method.

    python benchmarks/losses.py [--sizes 1024 4096 16384] [--repeats 3] [--threads 2]

Install the peers beside this package first: pip install -e ".[bench]"
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_contrastive.losses import clip_loss, info_nce, nt_xent


OURS, PLAIN, LIGHTLY = "hf_contrastive", "plain PyTorch", "lightly"
Step = Callable[[], Tensor]

FAMILIES = {
    "symmetric": "symmetric (CLIP), rows and columns of `a b^T / 0.07`",
    "one-way": "one direction (InfoNCE, multiple negatives ranking), rows of `a b^T / 0.07`",
    "nt_xent": "NT-Xent (SimCLR), 2N rows against each other, temperature 0.1",
}
PACKAGES = {
    "symmetric": ["open_clip_torch", "sentence-transformers"],
    "one-way": ["sentence-transformers"],
    "nt_xent": ["lightly"],
}
# exact products of a whole matrix that a forward and backward pass cannot do without; NT-Xent's matrix is symmetric
PRODUCTS = {"symmetric": 3.0, "one-way": 3.0, "nt_xent": 1.5}
SCALE = 1 / 0.07
TEMPERATURE = 0.1

# all timed rounds up to this N, a third of them above
FULL_ROUNDS_TO = 4096

# the goals: from this N on, so many times as fast as the fastest peer (symmetric), as lightly (NT-Xent) ...
GOAL_FROM = 4096
GOAL_SYMMETRIC = 1.3
GOAL_NT_XENT = 8.0
# ... and so many times less memory than plain PyTorch at this N
GOAL_MEMORY_AT, GOAL_MEMORY = 16384, 8.0


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
        PLAIN: plain_symmetric,
        "open_clip": open_clip_symmetric,
        "sentence-transformers": ranking(True),
        "sentence-transformers, cached": cached_ranking(True),
    },
    "one-way": {
        OURS: ours_one_way,
        PLAIN: plain_one_way,
        "sentence-transformers": ranking(False),
        "sentence-transformers, cached": cached_ranking(False),
    },
    "nt_xent": {OURS: ours_nt_xent, PLAIN: plain_nt_xent, LIGHTLY: lightly_nt_xent},
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


@dataclass
class Measured:
    """What was measured of one loss at one batch size: seconds of each round, bytes, and why a method is missing."""

    family: str
    n: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    products: float = 0.0  # seconds of the unavoidable matrix products

    def median(self, method: str) -> float:
        return statistics.median(self.seconds[method])

    def speed_up(self, method: str) -> tuple[float, float, float]:
        """How many times as fast as `method` this library is."""
        return common.ratio(self.seconds[method], self.seconds[OURS])

    @property
    def peers(self) -> list[str]:
        """Timed methods of others, the fastest first."""
        return sorted((method for method in self.seconds if method != OURS), key=self.median)


def forecast_bytes(family: str, method: str, n: int, before: list[Measured]) -> float | None:
    """Memory at a larger N, from the largest one measured: it grows with N * N for whoever holds the matrix."""
    known = [done for done in before if done.family == family and method in done.memory]
    return known[-1].memory[method] * (n / known[-1].n) ** 2 if known else None


def benchmark(family: str, n: int, args: argparse.Namespace, before: list[Measured]) -> Measured:
    """Memory of every method in its own process, then the time of all of them in turns."""
    result = Measured(family, n)
    losses: dict[str, float] = {}
    for method in METHODS[family]:
        reason = absent(family, method)
        forecast = forecast_bytes(family, method, n, before)
        if reason is None and method != OURS and forecast is not None and forecast > args.limit_gb * 1e9:
            reason = f"skipped: would need about {forecast / 1e9:.0f} GB"
        if reason is None:
            found = memory_in_a_fresh_process(family, method, n, args)
            if isinstance(found, str):
                reason = found
            else:
                result.memory[method], losses[method] = found["bytes"], found["loss"]
        if reason is not None:
            result.notes[method] = reason
        print(f"  {family} N={n} {method}: {reason or f'{result.memory[method] / 1e6:.0f} MB'}", flush=True)

    tolerance = 1e-4 if args.device.type == "cpu" else 2e-2
    for method, loss in losses.items():
        if abs(loss - losses[OURS]) > tolerance * abs(losses[OURS]):
            raise SystemExit(f"{family}, N={n}: {method} says the loss is {loss}, {OURS} says {losses[OURS]}")

    a, b = embeddings(n, args.dim, args.device)
    runs: dict[str, Callable[[], Any]] = {method: runner(family, method, a, b) for method in losses}
    products: list[float] = []
    product, share = tile_product(family, n, args)

    def time_products() -> None:  # beside the methods, so that they meet the machine in the same state
        products.extend(common.alternate({"product": product}, 5)["product"])

    # passes of many seconds: fewer of them, and nothing to warm up
    few = n > FULL_ROUNDS_TO
    turns = {**runs, "products": time_products}
    seconds = common.alternate(turns, rounds(n, args.repeats), warmup=0 if few else 1)
    del seconds["products"]
    result.products = share * min(products)  # the quickest: it is to be a bound
    result.seconds = seconds
    print(*rows(result), sep="\n", flush=True)
    return result


def rounds(n: int, repeats: int) -> int:
    """Timed rounds at batch size N."""
    return repeats if n <= FULL_ROUNDS_TO else max(2, repeats // 3)


def rows(result: Measured) -> list[list[str]]:
    """Rows of the table: method, milliseconds, ratio to ours, peak extra memory, ratio of it."""
    lines = []
    for method in METHODS[result.family]:
        if method in result.notes:
            lines.append([method, result.notes[method], "-", "-", "-"])
            continue
        used, ours = result.memory[method], result.memory[OURS]
        lines.append(
            [
                method,
                f"{result.median(method) * 1e3:.1f}",
                "1" if method == OURS else common.format_ratio(result.speed_up(method)),
                f"{used / 1e6:.1f}",
                "1" if method == OURS else f"{used / max(ours, 1):.1f}",
            ]
        )
    return lines


def tile_product(family: str, n: int, args: argparse.Namespace) -> tuple[Callable[[], None], float]:
    """One product of a cache-sized tile, and how many of these a forward and backward pass cannot do without."""
    side = 2 * n if family == "nt_xent" else n
    tile = min(2048, side)
    a, b = embeddings(tile, args.dim, args.device)
    out = torch.empty(tile, tile, dtype=a.dtype, device=a.device)

    def product() -> None:
        torch.mm(a.detach(), b.detach().T, out=out)
        if a.is_cuda:
            torch.cuda.synchronize()

    return product, PRODUCTS[family] * (side / tile) ** 2


def floor_text(result: Measured, dim: int) -> str:
    side = 2 * result.n if result.family == "nt_xent" else result.n
    return (
        f"The matrix products alone ({PRODUCTS[result.family]:g} times {side} x {side} x {dim}) take at "
        f"least about {result.products * 1e3:.1f} ms here, at the speed of the quickest product of a tile: no method that "
        "computes every similarity can be faster."
    )


def goal_lines(family: str, results: list[Measured]) -> list[str]:
    """What was aimed at for this loss, and what was reached."""
    lines = []
    large = [result for result in results if result.n >= GOAL_FROM]
    if large and family == "symmetric":
        reached = [speed_verdict(result, result.peers[0], GOAL_SYMMETRIC) for result in large if result.peers]
        aim = f"at least {GOAL_SYMMETRIC:g} times as fast as the fastest peer from N = {GOAL_FROM} on"
        lines.append(f"{aim}: {'; '.join(reached) or 'not measured, no peer is installed'}.")
    if large and family == "nt_xent":
        reached = [speed_verdict(result, LIGHTLY, GOAL_NT_XENT) for result in large]
        lines.append(
            f"at least {GOAL_NT_XENT:g} times as fast as lightly from N = {GOAL_FROM} on: {'; '.join(reached)}."
        )
    for result in results:
        if result.n == GOAL_MEMORY_AT:
            aim = f"at least {GOAL_MEMORY:g} times less peak extra memory than {PLAIN} at N = {GOAL_MEMORY_AT}"
            lines.append(f"{aim}: {memory_verdict(result, results)}.")
    return lines


def speed_verdict(result: Measured, peer: str, at_least: float) -> str:
    where = f"N = {result.n}"
    if peer not in result.seconds:
        return f"{where} not measured ({peer} {result.notes[peer]})"
    value = result.speed_up(peer)[0]
    text = f"{where} {common.verdict(value, at_least)}"
    if peer != LIGHTLY:
        text += f", the fastest is {peer}"
    if value < at_least:
        # what would be left if everything but the products took no time
        bound = result.median(peer) / result.products
        beyond = (
            "no method that computes every similarity can be more than"
            if bound < at_least
            else "with the products alone it would be"
        )
        text += (
            f" (the matrix products take {100 * result.products / result.median(OURS):.0f} % of this library's time; "
            f"{beyond} {bound:.1f} times as fast)"
        )
    return text


def memory_verdict(result: Measured, results: list[Measured]) -> str:
    if PLAIN in result.memory:
        return common.verdict(result.memory[PLAIN] / max(result.memory[OURS], 1), GOAL_MEMORY)
    smaller = [done for done in results if done.n < result.n]
    forecast = forecast_bytes(result.family, PLAIN, result.n, smaller)
    guess = f", {forecast / max(result.memory[OURS], 1):.0f} times this library's" if forecast else ""
    return f"not measured ({PLAIN} {result.notes[PLAIN]}{guess})"


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


def sections(family: str, args: argparse.Namespace) -> Iterator[str]:
    """Measure one loss; its section after every size, so that a run that is cut short leaves what it has."""
    on_gpu = args.device.type == "cuda"
    parts = [
        f"## Loss: {FAMILIES[family]}",
        common.facts("losses.py", ["torch", *PACKAGES[family], "hf-contrastive"], args.threads),
        f"Forward and backward pass, normalisation included, width {args.dim}, {'bfloat16' if on_gpu else 'float32'}. "
        f"{common.count(args.repeats, 'round')} in turns in one process ({rounds(FULL_ROUNDS_TO + 1, args.repeats)} above N "
        f"= {FULL_ROUNDS_TO}); the ratio is method / {OURS}, round by round: median (smallest to largest), above 1 where this "
        "library is faster. Peak memory above the inputs, one pass in a fresh process. All methods of a table returned the "
        "same loss.",
    ]
    gpu = "see the device above" if on_gpu else "not measured on GPU"
    header = ["method", "ms (median)", f"time / {OURS}", "peak extra MB", f"memory / {OURS}", "GPU (bfloat16)"]
    results: list[Measured] = []
    for n in args.sizes:
        result = benchmark(family, n, args, results)
        results.append(result)
        lines = [[*row, gpu] for row in rows(result)]
        parts += [f"### N = {n}", common.table(header, lines), floor_text(result, args.dim)]
        if on_gpu and args.large and family == "symmetric" and n == args.sizes[-1]:
            parts += ["### A batch beyond any matrix", large_run(args)]
        yield "\n\n".join([*parts, common.goals(goal_lines(family, results))])


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 16384], help="batch sizes N")
    parser.add_argument("--dim", type=int, default=256, help="width of the embeddings (default: 256)")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds (default: 7; a third at large N)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="which losses")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(device), help=f"default here: {device}")
    parser.add_argument("--limit-gb", type=float, default=10, help="skip methods that would need more (default: 10)")
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
    for family in args.families:  # each has its own section: one that is run again leaves the others as they are
        for text in sections(family, args):
            common.write_section(args.output, f"losses-{family}", text)
            print(f"written: section 'losses-{family}' of {args.output.name}", flush=True)


if __name__ == "__main__":
    main()
