"""What the benchmarks share: alternating runs, ratios, peak memory, goals, the machine in words, sections of RESULTS.md."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hf_contrastive.reporting import replace_section


RESULTS = Path(__file__).parents[1] / "RESULTS.md"

TITLE = """# Results

Speed and memory beside other libraries. Every section is written by the command it names; numbers are never typed by hand.
The other libraries are installed by `pip install -e ".[bench]"`. A machine does not run at one speed for long, so the
methods of a comparison take turns (A B A B ...) and speed is a ratio, round by round.
"""

T = TypeVar("T")


def take_turns(methods: Mapping[str, Callable[[], T]], repeats: int, warmup: int = 1) -> dict[str, list[T]]:
    """
    What every method returns, in turns: A B C A B C ... Whatever else the machine does then meets all of them alike.

    Args:
        methods (`Mapping[str, Callable]`): what to run, by name.
        repeats (`int`): rounds that count.
        warmup (`int`, defaults to 1): rounds before them that do not.

    Returns:
        `dict[str, list]`: the results of each round, by name.
    """
    results: dict[str, list[T]] = {name: [] for name in methods}
    for round_number in range(warmup + repeats):
        for name, method in methods.items():
            result = method()
            if round_number >= warmup:
                results[name].append(result)
    return results


def alternate(methods: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """
    Seconds of every method, which take turns as in [`take_turns`].

    Args:
        methods (`Mapping[str, Callable]`): what to time, by name.
        repeats (`int`): timed rounds.
        warmup (`int`, defaults to 1): rounds before them that are not timed.

    Returns:
        `dict[str, list[float]]`: seconds of each round, by name.
    """

    def timed(method: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            method()
            return time.perf_counter() - start

        return run

    return take_turns({name: timed(method) for name, method in methods.items()}, repeats, warmup)


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest ratio to the reference, round by round."""
    ratios = [a / b for a, b in zip(seconds, reference, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def format_ratio(values: tuple[float, float, float]) -> str:
    return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


def verdict(value: float, at_least: float) -> str:
    """Whether a ratio reaches its goal, and by how much it does not."""
    if value >= at_least:
        return f"met ({value:.2f})"
    short = 100 * (1 - value / at_least)
    # a near miss must not read as "1.00 instead of 1"
    number, percent = (f"{value:.3f}", f"{short:.1f}") if short < 1 else (f"{value:.2f}", f"{short:.0f}")
    return f"missed: {number} instead of {at_least:g}, {percent} % short"


def verdict_at_most(value: float, at_most: float) -> str:
    """Whether a ratio stays below its goal, and by how much it does not."""
    if value <= at_most:
        return f"met ({value:.2f})"
    over = 100 * (value / at_most - 1)
    number, percent = (f"{value:.3f}", f"{over:.1f}") if over < 1 else (f"{value:.2f}", f"{over:.0f}")
    return f"missed: {number} instead of at most {at_most:g}, {percent} % over"


def goals(lines: Sequence[str]) -> str:
    """The last paragraph of a section: one line a goal."""
    return "\n".join(f"- Goal: {line}" for line in lines)


def peak_extra_bytes(method: Callable[[], Any]) -> int:
    """
    How far the memory of this process rises above where it stands while the method runs.

    Call it in a fresh process: memory that an earlier run gave back to the allocator would not be counted again.
    """
    cleared = False
    with contextlib.suppress(OSError):  # Linux: forget the peak so far
        Path("/proc/self/clear_refs").write_text("5")
        cleared = True
    before = _status_bytes("VmRSS") if cleared else _max_rss()
    method()
    after = _status_bytes("VmHWM") if cleared else _max_rss()
    return after - before


def _status_bytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def _max_rss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Answering:
    """A process of another environment that answers lines of JSON.

    Args:
        command: its words; the script is the last one that ends in `.py`.
        threads: for the libraries in it.
        folder: where it stands; here by default.
        variables: of its environment, besides.
    """

    def __init__(self, command: Sequence[str], threads: int, folder: str | None = None, **variables: str) -> None:
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self.name = next(Path(word).name for word in reversed(command) if word.endswith(".py"))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **limits, **variables},
        )

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            SystemExit: the process is gone.
            RuntimeError: the answer is an error.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()} at {what!r}; its last lines say why")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}, {what}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def machine(threads: int | None = None) -> str:
    """Processor, memory and accelerator in words; no name of a host or a path."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        processor = found.group(1).strip() if found else processor
    parts = [f"{processor}, {count(os.cpu_count() or 1, 'core')}"]
    with contextlib.suppress(OSError, ValueError):
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory")
    if threads is not None:
        parts.append(count(threads, "thread"))
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    else:
        parts.append("no GPU")
    return ", ".join(parts)


def versions(packages: Iterable[str]) -> str:
    """`torch 2.8.0, lightly 1.5.0, ...`; a package that is not installed is named as absent."""
    parts = [f"python {platform.python_version()}"]
    for package in packages:
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{package} absent")
    return ", ".join(parts)


def command_line(script: str) -> str:
    """The command that is running, as one would type it in the root of the repository; folders of this machine left out."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join(["python", f"benchmarks/{script}", *words])


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join([" --- ", *[" ---: "] * (len(header) - 1)]) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def facts(script: str, packages: Iterable[str], threads: int | None = None) -> str:
    """Command, date, machine and versions: what stands under the title of every section."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return f"`{command_line(script)}`\n\n{today}. {machine(threads)}. {versions(packages)}."


def write_section(path: str | Path, name: str, text: str) -> None:
    """
    Replaces the section `name` of a Markdown file, between its two markers; adds it at the end when it is new.

    The list of goals at the top of the file is gathered anew from all of its sections.

    Args:
        path (`str` or `Path`): the file; made with a title when it does not exist.
        name (`str`): name of the section, in the markers.
        text (`str`): Markdown, its own heading included.
    """
    path = Path(path)
    page = path.read_text(encoding="utf-8") if path.exists() else replace_section(TITLE, "goals", "")
    page = replace_section(page, name, text)
    page = replace_section(page, "goals", _all_goals(page))
    path.write_text(page, encoding="utf-8")


def _all_goals(page: str) -> str:
    """What was aimed at and what was reached, section by section."""
    parts = ["## Goals"]
    for name, section in re.findall(r"<!-- begin: (\S+) -->\n(.*?)<!-- end: \1 -->", page, flags=re.DOTALL):
        title = re.search(r"^## (.+)$", section, flags=re.MULTILINE)
        found = re.findall(r"^- Goal: (.+)$", section, flags=re.MULTILINE)
        if name != "goals" and title and found:
            parts.append("\n".join([f"{title.group(1)}:\n", *(f"- {line}" for line in found)]))
    return "\n\n".join(parts)
