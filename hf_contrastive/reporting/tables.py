"""Tables and lines for the terminal; only the main process talks."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO


def is_main_process() -> bool:
    """Whether this process is the one that talks (rank 0). Does not import torch when nobody has yet."""
    rank = os.environ.get("RANK")
    if rank is not None and rank.isdigit():
        return int(rank) == 0
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank() == 0
    return True


def say(*values: Any, file: TextIO | None = None, sep: str = " ") -> None:
    """Prints on the main process and is silent on the others.

    Args:
        *values: what to print.
        file (text stream, *optional*): where to; standard output by default.
        sep (`str`, defaults to a space): between the values.

    Example:

    ```python
    >>> from hf_contrastive.reporting import say
    >>> say("negatives per anchor:", 126)
    negatives per anchor: 126

    ```
    """
    if is_main_process():
        print(*values, file=file or sys.stdout, sep=sep, flush=True)


def format_value(value: Any) -> str:
    """A cell as text: floats with four digits that count, `None` as a dash, `(low, high)` as an interval."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        if value == 0 or 1e-3 <= abs(value) < 1e5:
            digits = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
            return f"{value:.{digits}f}"
        return f"{value:.3g}"
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, float) for part in value):
        return f"{format_value(value[0])} to {format_value(value[1])}"
    return str(value).replace("\n", " ")


def _layout(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None
) -> tuple[list[str], list[list[str]], list[bool]]:
    """Column names, cells as text, and which columns hold numbers."""
    rows = list(rows)
    for row in rows:
        if not isinstance(row, Mapping):
            raise TypeError(f"`rows` holds a {type(row).__name__}; expected a dictionary a row (column -> value)")
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    if columns is not None and rows:
        missing = [name for name in names if not any(name in row for row in rows)]
        if missing:
            found = ", ".join(dict.fromkeys(str(name) for row in rows for name in row))
            raise ValueError(f"`columns` names {', '.join(missing)}, which no row has; the rows have {found}")
    cells = [[format_value(row.get(name)) for name in names] for row in rows]

    def numeric(name: str) -> bool:
        values = [row[name] for row in rows if row.get(name) is not None]
        plain = [value.item() if hasattr(value, "item") else value for value in values]
        return bool(plain) and all(isinstance(value, (int, float, tuple)) for value in plain)

    return names, cells, [numeric(name) for name in names]


def format_table(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None, title: str | None = None
) -> str:
    """A table as plain aligned text: words to the left, numbers to the right.

    Args:
        rows (iterable of `dict`): one a row, column name to value; a missing value becomes a dash.
        columns (`Sequence[str]`, *optional*): which columns, in which order. All by default.
        title (`str`, *optional*): a line above.

    Returns:
        `str`: the text, without a newline at the end.

    Raises:
        ValueError: a column that no row has.

    Example:

    ```python
    >>> from hf_contrastive.reporting import format_table
    >>> print(format_table([{"encoder": "pixels", "knn": 0.95}, {"encoder": "SimCLR", "knn": 0.97}]))
    encoder     knn
    -------  ------
    pixels   0.9500
    SimCLR   0.9700

    ```
    """
    names, cells, numeric = _layout(rows, columns)
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]

    def join(line: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        return "  ".join(parts).rstrip()

    lines = [join(names), "  ".join("-" * width for width in widths), *(join(line) for line in cells)]
    if not cells:
        lines.append("(no rows)")
    return "\n".join([title, *lines] if title else lines)


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and, of several, standard deviation, for tables over seeds.

    Args:
        values (`Sequence[float]`): one or more numbers.
        digits (`int`, defaults to 2): behind the point.

    Raises:
        ValueError: no value.

    Example:

    ```python
    >>> from hf_contrastive.reporting import mean_and_spread
    >>> mean_and_spread([0.25, 0.35], 3)
    '0.300 ± 0.071'

    ```
    """
    if not values:
        raise ValueError("`values` is empty; give one number a seed.")
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def markdown_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """A table in Markdown, for cards and result pages.

    Args:
        rows (iterable of `dict`): one a row, column name to value.
        columns (`Sequence[str]`, *optional*): which columns, in which order. All by default.

    Returns:
        `str`: the Markdown, without a newline at the end.

    Raises:
        ValueError: a column that no row has.

    Example:

    ```python
    >>> from hf_contrastive.reporting import markdown_table
    >>> print(markdown_table([{"encoder": "SimCLR", "knn": 0.97}]))
    | encoder | knn |
    |---|---:|
    | SimCLR | 0.9700 |

    ```
    """
    names, cells, numeric = _layout(rows, columns)

    def join(line: Iterable[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |"

    rule = "|" + "|".join("---:" if right else "---" for right in numeric) + "|"
    return "\n".join([join(names), rule, *(join(line) for line in cells)])


def metrics_table(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    title: str | None = None,
    *,
    file: TextIO | None = None,
) -> str:
    """Prints a table: drawn by rich when a terminal is attached, as plain aligned text otherwise. Main process only.

    `NO_COLOR` and `TERM=dumb` are respected.

    Args:
        rows (iterable of `dict`): one a row, column name to value.
        columns (`Sequence[str]`, *optional*): which columns, in which order. All by default.
        title (`str`, *optional*): above the table.
        file (text stream, *optional*): where to; standard output by default.

    Returns:
        `str`: the table as plain text, whatever was printed.

    Raises:
        ValueError: a column that no row has.

    Example:

    ```python
    >>> from hf_contrastive.reporting import metrics_table
    >>> text = metrics_table([{"metric": "knn_top1", "value": 0.97}], title="digits, test split")
    digits, test split
    metric     value
    --------  ------
    knn_top1  0.9700

    ```
    """
    rows = list(rows)
    text = format_table(rows, columns, title)
    file = file or sys.stdout
    if not is_main_process():
        return text
    if not (hasattr(file, "isatty") and file.isatty()) or os.environ.get("TERM") == "dumb":
        print(text, file=file, flush=True)
        return text
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names, cells, numeric = _layout(rows, columns)
    table = Table(title=Text(title) if title else None, title_justify="left", title_style="bold", header_style="bold")
    for name, right in zip(names, numeric, strict=True):
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for line in cells:
        table.add_row(*(Text(text) for text in line))  # Text: brackets in a cell are not markup
    width = shutil.get_terminal_size().columns
    Console(file=file, width=width, no_color=bool(os.environ.get("NO_COLOR"))).print(table)
    return text


def run_table(
    facts: Mapping[str, Any] | Iterable[tuple[str, Any]], title: str | None = None, *, file: TextIO | None = None
) -> str:
    """Prints facts about a run as a two-column list: what model, what data, how many negatives. Main process only.

    Args:
        facts (`dict` or iterable of `(name, value)`): what to tell, in order.
        title (`str`, *optional*): a line above.
        file (text stream, *optional*): where to; standard output by default.

    Returns:
        `str`: the text that was printed.

    Example:

    ```python
    >>> from hf_contrastive.reporting import run_table
    >>> text = run_table({"model": "SimCLR", "negatives per anchor": 126}, title="Run")
    Run
      model                 SimCLR
      negatives per anchor  126

    ```
    """
    pairs = [
        (str(name), format_value(value)) for name, value in (facts.items() if isinstance(facts, Mapping) else facts)
    ]
    width = max((len(name) for name, _ in pairs), default=0)
    lines = [f"  {name.ljust(width)}  {value}" for name, value in pairs]
    text = "\n".join([title, *lines] if title else lines)
    say(text, file=file)
    return text
