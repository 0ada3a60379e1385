"""What the commands share: errors, plain or rich output, progress. Light on purpose: torch is imported elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup


class CliError(Exception):
    """The work failed; the message says what was seen, what was expected and what to type."""

    exit_code = 1


class WrongUsage(CliError):
    """The command was typed wrongly."""

    exit_code = 2


def examples(*commands: str) -> str:
    """The examples at the end of a `--help`, for the epilog of an [`ExampleCommand`]."""
    return "\n".join(commands)


def _show_examples(epilog: str | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text("Examples", style="bold"))
    for line in (epilog or "").splitlines():
        console.print(Text(f"  {line}", style="green"))
    console.print()


class ExampleCommand(TyperCommand):
    """A command whose `--help` ends with examples, one a line (typer sets an epilog as running text)."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, then the examples."""
        epilog, self.epilog = self.epilog, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = epilog
        _show_examples(epilog)


class ExampleGroup(TyperGroup):
    """The same for a group; its commands are listed in the order of their use."""

    order: tuple[str, ...] = (
        "list",
        "info",
        "env",
        "train",
        "embed",
        "index",
        "evaluate",
        "score",
        "generate",
        "filter",
        "clones",
        "link",
        "export",
        "recommend",
        "plot",
        "knn",
        "linear",
        "retrieval",
        "zero-shot",
    )

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, then the examples."""
        epilog, self.epilog = self.epilog, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = epilog
        _show_examples(epilog)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in order."""
        return sorted(super().list_commands(ctx), key=self.order.index)


def print_error(error: Exception) -> int:
    """Print an error as one paragraph on stderr.

    Args:
        error (`Exception`): what happened.

    Returns:
        `int`: the exit code.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = " ".join(text.split()) or type(error).__name__
    if not isinstance(error, (CliError, ValueError, OSError, ImportError)):
        # not one of the errors this library words for users: name it, and say how to see more
        text = f"{type(error).__name__}: {text} (set HF_CONTRASTIVE_DEBUG=1 to see where it happened)"
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), text))
    return getattr(error, "exit_code", 1)


def print_line(text: str = "", style: str = "") -> None:
    """One line on stdout; long lines are not cut."""
    Console(highlight=False, soft_wrap=True).print(Text(text, style=style))


def print_note(text: str) -> None:
    """One line on stderr, for what is not the result."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text))


def print_json(value: Any) -> None:
    """JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def replace_file(temporary: Path, path: Path) -> None:
    """Put a finished file in its place, whole."""
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a file that is complete or untouched."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    replace_file(temporary, path)


def wants_stdout(file: Path | None) -> bool:
    """Whether `--json -` asks for JSON on stdout, so that nothing else may stand there."""
    return file is not None and str(file) == "-"


def give_json(record: dict[str, Any], file: Path | None) -> None:
    """Print the numbers as JSON or write them to a file, as `--json` asks."""
    if file is None:
        return
    if wants_stdout(file):
        print_json(record)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print_line(f"wrote {file}")


def print_table(
    header: Sequence[str] | None,
    rows: Sequence[Sequence[str]],
    *,
    styles: dict[str, str] | None = None,
    no_wrap: Sequence[str] = (),
    right: Sequence[str] = (),
) -> None:
    """A table on stdout: drawn by rich on a terminal, otherwise plain columns that are never wrapped.

    Args:
        header (`Sequence[str]`, *optional*): names of the columns; none for a list of facts.
        rows: the cells, as text.
        styles (`dict`, *optional*): style of a column by name.
        no_wrap, right: columns that are not wrapped, or aligned to the right.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
        widths = [max((len(line[column]) for line in lines), default=0) for column in range(len(lines[0]))]
        for line in lines:
            cells = [
                cell.rjust(width) if header and header[column] in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            sys.stdout.write("  ".join(cells).rstrip() + "\n")
        return
    table = Table(box=None, show_header=header is not None, pad_edge=False, padding=(0, 2, 0, 0))
    if header is None:
        table.add_column(style="cyan", no_wrap=True)
        for _ in range(len(rows[0]) - 1 if rows else 1):
            table.add_column(overflow="fold")
    for name in header or ():
        table.add_column(
            name,
            style=(styles or {}).get(name),
            no_wrap=name in no_wrap,
            overflow="fold",
            justify="right" if name in right else "left",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


class Progress:
    """Counts rows on stderr: a live bar on a terminal, a line now and then otherwise.

    Args:
        what (`str`): what is done, for example `"embedding train"`.
        total (`int`): rows in all.
        done (`int`): rows done before.
        unit (`str`): what the rows are.
    """

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "images") -> None:
        self.what, self.total, self.done, self.unit = what, total, done, unit
        self.start, self.first = time.monotonic(), done
        self.told = self.start
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Progress:
        console = Console(stderr=True)
        if console.is_terminal:
            from rich import progress

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn(self.unit),
                progress.TimeRemainingColumn(),
                console=console,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=self.total, completed=self.done)
        return self

    def advance(self, rows: int) -> None:
        """Count `rows` more."""
        self.done += rows
        if self.bar is not None:
            self.bar.advance(self.task, rows)
        elif time.monotonic() - self.told > 15:
            self.told = time.monotonic()
            share = 100 * self.done / max(self.total, 1)
            sys.stderr.write(f"{self.what}: {self.done} of {self.total} {self.unit} ({share:.0f} %)\n")

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif error[0] is None:
            seconds = time.monotonic() - self.start
            rate = (self.done - self.first) / max(seconds, 1e-9)
            sys.stderr.write(f"{self.what}: {self.done} {self.unit} in {seconds:.1f} s ({rate:.0f} a second)\n")


@contextlib.contextmanager
def quiet_libraries() -> Generator[None, None, None]:
    """No bars and no chatter of transformers and datasets while the block runs; their settings are restored."""
    import datasets
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    no_data_bars = datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if not no_data_bars:
            datasets.enable_progress_bars()
