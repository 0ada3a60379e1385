"""What `import hf_contrastive` adds to `import transformers`, each import in a fresh process of its own.

    python benchmarks/import_time.py [--rounds 15]

The library registers its systems with transformers' Auto classes when it is imported and loads everything else on first
use. The processes take turns, so that a busy machine slows all alike; the time is that of the import statements alone,
without the start of Python.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import common


BASE, ADDED = "import transformers", "import hf_contrastive"
LIMIT_MS = 100


def import_ms(*statements: str) -> list[float]:
    """Milliseconds of each statement, one after the other in a new process."""
    lines = ["import time", "times = [time.perf_counter()]"]
    for statement in statements:
        lines += [statement, "times.append(time.perf_counter())"]
    lines.append("print(*[1e3 * (end - start) for start, end in zip(times, times[1:])])")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.strip().splitlines()[-1].split()]


def spread(name: str, values: Sequence[float]) -> list[str]:
    """A row of the table."""
    return [name, *(f"{value:.0f}" for value in (statistics.median(values), min(values), max(values)))]


def section(rounds: int) -> str:
    """Measure and write down."""
    processes = {
        "transformers": lambda: import_ms(BASE),
        "both": lambda: import_ms(BASE, ADDED),
        "alone": lambda: import_ms(ADDED),
    }
    times = common.take_turns(processes, rounds)
    base, alone = ([sum(values) for values in times[name]] for name in ("transformers", "alone"))
    both, second = [sum(values) for values in times["both"]], [values[1] for values in times["both"]]
    added = [with_ours - without for with_ours, without in zip(both, base, strict=True)]
    rows = [
        spread(f"`{BASE}`", base),
        spread(f"`{BASE}`, then `{ADDED}`", both),
        spread("difference of the two, round by round", added),
        spread(f"of the second line: `{ADDED}` alone", second),
        spread(f"`{ADDED}` without transformers", alone),
    ]
    # the difference of two long imports is noisy and may fall below 0: the goal is held against the larger of both
    cost = max(statistics.median(added), statistics.median(second))
    goal = f"`{ADDED}` adds less than {LIMIT_MS} ms to `{BASE}`: {'met' if cost < LIMIT_MS else 'missed'} ({cost:.0f} ms)."
    return "\n\n".join(
        [
            "## Import time",
            common.facts("import_time.py", ["torch", "transformers", "hf-contrastive"]),
            f"Fresh processes in turns, {common.count(rounds, 'round')} after one that fills the disk cache; time of the import statements "
            "without the start of Python. Line two / line one, round by round: median (smallest to largest) "
            f"{common.format_ratio(common.ratio(both, base))}.",
            common.table(["import", "median ms", "smallest ms", "largest ms"], rows),
            common.goals([goal]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count (default: 15)")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    text = section(options.rounds)
    print(text)
    common.write_section(options.output, "import_time", text)
    print(f"written: section 'import_time' of {options.output.name}")


if __name__ == "__main__":
    main()
