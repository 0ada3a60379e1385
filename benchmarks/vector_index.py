"""Retrieval at scale: building, size, speed, recall and memory of every kind of `VectorIndex`.

Galleries of made vectors in clusters, whose spread falls from the first number to the last as that of real embeddings does. Queries
are further vectors of the same clusters. Recall is measured beside kind "flat". Speeds come from alternating rounds in one process in
which all indexes are mapped from the disk, memory from a fresh process for each.

    python benchmarks/vector_index.py [--sizes 100000 1000000] [--threads 1] [--quick] [--no-write]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from hf_contrastive import VectorIndex
from hf_contrastive.vector_index import choose_kind


SECTION = "vector-index"
KINDS = ("exact", "flat", "hnsw", "ivfpq")
#: lines of the table of searches: kind, and how it is searched
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact (without faiss)": ("exact", {}),
    "flat": ("flat", {}),
    "hnsw": ("hnsw", {}),
    "hnsw, effort 4": ("hnsw", {"effort": 4}),
    "ivfpq": ("ivfpq", {}),
    "ivfpq, effort 4": ("ivfpq", {"effort": 4}),
    "ivfpq, codes alone": ("ivfpq", {"rescore": False}),
}
K, BATCH, SINGLE = 10, 100, 20
GOAL_RECALL, GOAL_MEMORY = 0.95, 0.1
BUILT = ["kind", "vectors", "build, s", "disk, MB", "vectors a second"]
SEARCHED = [
    "search",
    "recall@10",
    "queries a second, one by one",
    f"batches of {BATCH}",
    "times flat, one by one",
    "batches",
]
HELD = ["kind", "opened, s", "own memory, MB", "pages of the file, MB", f"own, after {BATCH} queries", "pages"]


def draw(rows: int, dim: int, seed: int, clusters: int) -> np.ndarray:
    """Vectors around centres; number j is spread as 1 / sqrt(j)."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    # the centres of a size are always the same
    centres = np.random.default_rng(clusters).standard_normal((clusters, dim), dtype=np.float32) * spread
    found = np.empty((rows, dim), dtype=np.float32)
    for start in range(0, rows, 2**16):
        part = found[start : start + 2**16]
        part[:] = centres[rng.integers(clusters, size=len(part))]
        part += 0.5 * spread * rng.standard_normal(part.shape, dtype=np.float32)
    return found


def held(field: str) -> int:
    return common._status_bytes(field)


def memory_of(folder: str, queries: str, threads: int) -> dict[str, Any]:
    """What a mapped index takes; to be run in a fresh process."""
    _set_threads(threads)
    asked = np.load(queries)[:BATCH]
    VectorIndex.build(asked, kind="flat").search(asked, K)  # what is loaded once is not counted
    before = {field: held(field) for field in ("RssAnon", "RssFile")}
    start = time.perf_counter()
    index = VectorIndex.load(folder)
    index.search(asked[:1], K)
    found: dict[str, Any] = {"kind": index.kind, "seconds": time.perf_counter() - start}
    found["opened"] = [held(field) - value for field, value in before.items()]
    index.search(asked, K)
    found["searched"] = [held(field) - value for field, value in before.items()]
    return found


def _set_threads(threads: int) -> None:
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def build(gallery: Path, folder: Path, kind: str) -> list[object]:
    """A line of the table of builds."""
    vectors = np.load(gallery, mmap_mode="r")
    start = time.perf_counter()
    index = VectorIndex.build(vectors, kind=kind)
    seconds = time.perf_counter() - start
    index.save(folder / kind)
    size = sum(path.stat().st_size for path in (folder / kind).iterdir())
    return [kind, f"{len(index):,}", f"{seconds:.1f}", f"{size / 1e6:,.1f}", f"{len(index) / seconds:,.0f}"]


def search(folder: Path, queries: np.ndarray, repeats: int) -> tuple[list[list[object]], dict[str, float]]:
    """Lines of the table of searches, and recalls by name."""
    indexes = {kind: VectorIndex.load(folder / kind) for kind in KINDS}
    found = [indexes[kind].search(queries[:BATCH], K) for kind in ("exact", "flat")]
    if not torch.equal(found[0].rows, found[1].rows) or not torch.equal(found[0].scores, found[1].scores):
        raise SystemExit("exact and flat differ; they must be the same to the last bit")

    def batches(kind: str, options: dict[str, Any]) -> Callable[[], Any]:
        return lambda: indexes[kind].search(queries[:BATCH], K, **options)

    def singles(kind: str, options: dict[str, Any]) -> Callable[[], Any]:
        return lambda: [indexes[kind].search(queries[n : n + 1], K, **options) for n in range(SINGLE)]

    seconds = [
        common.alternate({name: make(*one) for name, one in VARIANTS.items()}, repeats) for make in (singles, batches)
    ]
    recalls = {name: indexes[kind].recall(queries, K, **options) for name, (kind, options) in VARIANTS.items()}
    lines: list[list[object]] = []
    for name in VARIANTS:
        speeds = [
            f"{count / statistics.median(times[name]):,.0f}"
            for count, times in zip((SINGLE, BATCH), seconds, strict=True)
        ]
        ratios = [common.format_ratio(common.ratio(times["flat"], times[name])) for times in seconds]
        lines.append([name, f"{recalls[name]:.4f}", *speeds, *ratios])
    return lines, recalls


def measure_memory(folder: Path, queries: Path, threads: int) -> list[dict[str, Any]]:
    """Each kind in a process of its own."""
    found = []
    for kind in KINDS:
        words = ["--memory-of", str(folder / kind), str(queries), "--threads", str(threads)]
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=variables)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def size_section(rows: int, args: argparse.Namespace, folder: Path) -> tuple[str, dict[str, float], float]:
    """What one gallery gave: its part of the section, recalls, and the largest share of the vectors held in memory."""
    clusters = max(2, rows // 100)
    gallery, queries = folder / "gallery.npy", folder / "queries.npy"
    np.save(gallery, draw(rows, args.dim, 0, clusters))
    np.save(queries, draw(args.queries, args.dim, 1, clusters))
    built = []
    for kind in KINDS:
        built.append(build(gallery, folder, kind))
        print(common.table(BUILT, [built[-1]]).splitlines()[-1], flush=True)
    memory = measure_memory(folder, queries, args.threads)
    searched, recalls = search(folder, np.load(queries), args.repeats)
    lines = [
        [
            one["kind"],
            f"{one['seconds']:.2f}",
            *(f"{value / 1e6:,.1f}" for value in (*one["opened"], *one["searched"])),
        ]
        for one in memory
    ]
    auto, why = choose_kind(rows, args.dim)
    parts = [
        f"### {rows:,} vectors of {args.dim} numbers, {clusters:,} clusters",
        f"`auto` takes {auto}: {why}.",
        common.table(BUILT, built),
        common.table(SEARCHED, searched),
        common.table(HELD, lines),
    ]
    share = max(one["searched"][0] for one in memory) / (4 * rows * args.dim)
    return "\n\n".join(parts), recalls, share


def goal_lines(recalls: dict[int, dict[str, float]], shares: dict[int, float]) -> list[str]:
    told = [
        f"{kind}, {rows:,} vectors {common.verdict(found[kind], GOAL_RECALL)}"
        for rows, found in recalls.items()
        for kind in ("hnsw", "ivfpq")
    ]
    held = [f"{rows:,} vectors {common.verdict_at_most(share, GOAL_MEMORY)}" for rows, share in shares.items()]
    return [
        f"recall@10 of at least {GOAL_RECALL} at the default settings: {'; '.join(told)}.",
        f"after {BATCH} queries a mapped index holds at most {GOAL_MEMORY} x the bytes of its vectors in memory of its own: {'; '.join(held)}.",
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help="vectors in the gallery (default: 100000 1000000)")
    parser.add_argument("--dim", type=int, help="numbers of a vector (default: 128)")
    parser.add_argument("--queries", type=int, help="queries that recall is measured with (default: 500)")
    parser.add_argument("--repeats", type=int, help="timed rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--quick", action="store_true", help="a small gallery, to see that everything runs")
    parser.add_argument("--work", type=Path, help="folder for galleries and indexes (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    parser.add_argument("--no-write", action="store_true", help="print the section instead of writing it")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    usual = ([2000], 32, 100, 1) if args.quick else ([100_000, 1_000_000], 128, 500, 5)
    for name, value in zip(("sizes", "dim", "queries", "repeats"), usual, strict=True):
        if getattr(args, name) is None:
            setattr(args, name, value)
    if min(args.sizes) < 300 or args.queries < BATCH or args.repeats < 1:
        parser.error(f"--sizes must be at least 300, --queries at least {BATCH} and --repeats at least 1")
    if args.quick and not args.no_write and args.output == common.RESULTS:
        parser.error("--quick measures nothing worth keeping: add --no-write, or --output FILE")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.memory_of:
        print(json.dumps(memory_of(*args.memory_of, args.threads)))
        return
    # libraries read it when they are loaded
    if os.environ.get("OMP_NUM_THREADS") != str(args.threads) and argv is None:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OMP_NUM_THREADS": str(args.threads)})
    _set_threads(args.threads)
    recalls: dict[int, dict[str, float]] = {}
    shares: dict[int, float] = {}
    parts = []
    for rows in sorted(args.sizes):
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            text, recalls[rows], shares[rows] = size_section(rows, args, Path(folder))
        parts.append(text)
        section = "\n\n".join(
            [
                "## Retrieval at scale",
                common.facts("vector_index.py", ["torch", "faiss-cpu", "numpy"], args.threads),
                f"Vectors scaled to length 1, float32, default settings, k = {K}. Recall: share of the {K} best of kind flat, {args.queries} "
                f"queries. Speeds: medians of {common.count(args.repeats, 'alternating round')}, the ratio to flat with its range (more is "
                "quicker). Memory: of a fresh process that opens the index mapped and searches, its own and pages of files, which the "
                "system takes back when it needs them.",
                *parts,
                common.goals(goal_lines(recalls, shares)),
            ]
        )
        # a size that is through is not lost when the next one is stopped
        if not args.no_write:
            common.write_section(args.output, SECTION, section)
            print(f"written: section '{SECTION}' of {args.output.name}", flush=True)
    if args.no_write:
        print(section)


if __name__ == "__main__":
    main()
