"""Pictures of decoding: confidence and penalty of every token, ways of decoding side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_contrastive.reporting import style
from hf_contrastive.reporting.style import Picture, compose_title, new_figure, save_picture, styled


_HEADER = (
    "step",
    "token",
    "confidence",
    "penalty",
    "rank",
    "most_probable",
    "most_probable_confidence",
    "most_probable_penalty",
)


def plot_contrastive_trace(
    steps: Sequence[Mapping[str, Any]],
    out: str | Path,
    *,
    penalty_alpha: float,
    per_line: int = 24,
    max_tokens: int = 96,
    data: str | None = None,
) -> Picture:
    """Contrastive search token by token: how sure the model was, and how much the token resembles what came before.

    A token is under the bars of its confidence (up) and penalty (down). Where it is not the most probable one, it is
    marked, and the one that was passed over stands below with its own numbers as hollow bars.

    Args:
        steps (`Sequence[Mapping]`): one a token, with `token`, `confidence`, `penalty`, `rank`, `most_probable`,
            `most_probable_confidence`, `most_probable_penalty`.
        out (`str` or `Path`): the PNG to write.
        penalty_alpha (`float`): weight of the penalty, for the title.
        per_line (`int`, defaults to 24): tokens in a row.
        max_tokens (`int`, defaults to 96): of more, the first ones are drawn.
        data (`str`, *optional*): model and prompt, for the title.

    Returns:
        [`Picture`]: the PNG, and a CSV with all steps.

    Raises:
        ValueError: no step.
        ImportError: matplotlib is not installed; the message holds the command.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive.reporting import plot_contrastive_trace
    >>> step = {"token": " cat", "confidence": 0.4, "penalty": 0.6, "rank": 1, "most_probable": " dog",
    ...         "most_probable_confidence": 0.5, "most_probable_penalty": 0.9}
    >>> plot_contrastive_trace([step], tempfile.mkdtemp() + "/trace.png", penalty_alpha=0.6).data_path.name
    'trace.csv'

    ```
    """
    if not steps:
        raise ValueError("`steps` is empty: there is no token to draw.")
    if per_line < 1 or max_tokens < 1:
        raise ValueError(f"`per_line` ({per_line}) and `max_tokens` ({max_tokens}) must be 1 or more.")
    shown = list(steps)[:max_tokens]
    lines = [shown[start : start + per_line] for start in range(0, len(shown), per_line)]
    width = min(per_line, len(shown))
    with styled():
        figure = new_figure(max(5.0, 0.52 * width + 1.2), 2.15 * len(lines) + 0.9)
        title = compose_title(f"Contrastive search, token by token (penalty weight {penalty_alpha:g})", data)
        figure.suptitle(title.replace("$", r"\$"))  # which would begin a formula
        plots = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
        for plot, line in zip(plots, lines, strict=True):
            _draw_line(plot, line, width)
        handles, labels = plots[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        changed = sum(step["rank"] > 0 for step in shown)
        return save_picture(
            figure,
            out,
            title=title,
            alt_text=(
                f"Bars of confidence and penalty for {len(shown)} tokens; {changed} of them are not the most probable token "
                "and are marked with the token that was passed over."
            ),
            header=_HEADER,
            rows=([number, *(step[name] for name in _HEADER[1:])] for number, step in enumerate(steps)),
        )


def _draw_line(plot: Any, line: Sequence[Mapping[str, Any]], width: int) -> None:
    places = range(len(line))
    plot.bar(
        places, [step["confidence"] for step in line], 0.72, color=style.COLORS[0], label="confidence (probability)"
    )
    plot.bar(
        places, [-step["penalty"] for step in line], 0.72, color=style.COLORS[1], label="penalty (largest cosine)"
    )
    passed = [(place, step) for place, step in zip(places, line, strict=True) if step["rank"] > 0]
    hollow = {"width": 0.72, "fill": False, "linewidth": 1.0, "linestyle": ":"}
    for sign, name, label in (
        (1, "most_probable_confidence", "of the token passed over"),
        (-1, "most_probable_penalty", None),
    ):
        plot.bar(
            [place for place, _ in passed],
            [sign * step[name] for _, step in passed],
            edgecolor=style.COLORS[2],
            label=label if passed else None,
            **hollow,
        )
    for place, step in zip(places, line, strict=True):
        other = step["rank"] > 0
        plot.annotate(
            _printable(step["token"]), (place, 0), xycoords=("data", "axes fraction"), xytext=(0, -4),
            textcoords="offset points", ha="right", va="top", rotation=40, fontsize=8,
            color=style.COLORS[2] if other else style.INK, fontweight="bold" if other else "normal", annotation_clip=False,
        )  # fmt: skip
        if other:
            plot.annotate(
                f"not {_printable(step['most_probable'])}", (place, 1.0), xytext=(0, 2), textcoords="offset points",
                ha="left", va="bottom", rotation=40, fontsize=7, color=style.COLORS[2], annotation_clip=False,
            )  # fmt: skip
    plot.axhline(0, color=style.INK, linewidth=0.8)
    plot.set_xlim(-0.6, width - 0.4)
    plot.set_ylim(-1.05, 1.05)
    plot.set_yticks([-1, 0, 1], ["1", "0", "1"])
    plot.set_xticks([])
    plot.grid(axis="x", visible=False)


def _printable(token: str) -> str:
    text = token.replace("\n", "\\n").replace("\t", "\\t")
    text = text.strip() or repr(token)
    # matplotlib takes $ for mathematics
    text = "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")
    return text if len(text) <= 14 else text[:13] + "…"


__all__ = ["plot_contrastive_trace"]
