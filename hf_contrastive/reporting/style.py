"""The one look of all pictures: fonts, colours, sizes, and how a picture and its data are written."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_contrastive.utils import require_package


# Ten colours chosen to stay apart for colour-blind readers and in grey (Petroff, "Accessible Color Sequences for Data
# Visualization", 2021). Classes also differ by marker, so colour is never the only sign.
COLORS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# so that all markers look equally large
MARKER_AREA = {"^": 1.2, "v": 1.2, "<": 1.2, ">": 1.2, "D": 0.8, "P": 1.5, "X": 1.4, "*": 2.2, "s": 0.9}
POSITIVE, NEGATIVE = COLORS[0], COLORS[6]
RIGHT, WRONG = COLORS[0], COLORS[6]
SEQUENTIAL = "magma"
INK, FAINT = "#222222", "#8a8a8a"

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "figure.titlesize": 13,
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "text.usetex": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Picture:
    """A picture on disk.

    Args:
        path (`Path`): the PNG.
        data_path (`Path`): the CSV with the numbers behind it.
        title (`str`): its title.
        alt_text (`str`): what it shows, in words; also stored in the PNG as `Description`.
    """

    path: Path
    data_path: Path
    title: str
    alt_text: str


def styled() -> AbstractContextManager[Any]:
    """The style for the duration of a `with`; the user's own settings come back afterwards."""
    matplotlib = require_package("matplotlib", "plots", purpose="drawing pictures")
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    return matplotlib.rc_context({**defaults, **STYLE})


def new_figure(width: float, height: float) -> Any:
    """A figure of `width` x `height` inches that draws itself: pyplot and the user's backend are not involved."""
    figure = require_package("matplotlib.figure", "plots", purpose="drawing pictures").Figure(
        figsize=(width, height), layout="constrained"
    )
    require_package("matplotlib.backends.backend_agg", "plots", purpose="drawing pictures").FigureCanvasAgg(figure)
    return figure


def save_picture(
    figure: Any, out: str | Path, *, title: str, alt_text: str, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> Picture:
    """Writes the PNG (with title and alt text inside) and the CSV of the same name beside it."""
    path = Path(out)
    if path.suffix.lower() != ".png":
        if path.suffix:
            raise ValueError(f"`out` is {path.name!r}; pictures are written as PNG: use {path.stem + '.png'!r}")
        path = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.canvas.print_png(
        str(path), metadata={"Title": title, "Description": alt_text, "Software": "hf_contrastive"}
    )
    data_path = path.with_suffix(".csv")
    with open(data_path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)
    return Picture(path, data_path, title, alt_text)


def _cell(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if value is None:
        return ""
    return f"{value:.7g}" if isinstance(value, float) else value


def compose_title(what: str, data: str | None, width: int = 70) -> str:
    """`what: data`, on two lines when one would be too long for the picture."""
    if not data:
        return what
    return f"{what}: {data}" if len(what) + len(data) + 2 <= width else f"{what}\n{data}"
