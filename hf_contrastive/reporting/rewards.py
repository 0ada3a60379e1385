"""Pictures of reward models: how reward and Q-value go along right and wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_contrastive.reporting import style
from hf_contrastive.reporting.style import Picture, compose_title, new_figure, save_picture, styled


#: places at which the courses are read, as shares of the answer
_PLACES = 20


def plot_reward_courses(
    token_rewards: Sequence[Any],
    q_values: Sequence[Any] | None,
    labels: Sequence[bool],
    out: str | Path,
    *,
    data: str | None = None,
) -> Picture:
    """Mean reward and Q-value along right and wrong answers, with the middle half of the answers as a band.

    Answers differ in length, so the axis is the share of the answer that has been read.

    Args:
        token_rewards (`Sequence` of `[tokens]`): reward up to every token, an array an answer.
        q_values (`Sequence` of `[tokens]`, *optional*): Q-value at every token; no second panel without them.
        labels (`Sequence[bool]`): whether an answer is right.
        out (`str` or `Path`): the PNG to write.
        data (`str`, *optional*): model and data, for the title.

    Returns:
        [`Picture`]: the PNG, and a CSV with the curves.

    Raises:
        ValueError: no answer, or lists of different length.
        ImportError: matplotlib is not installed; the message holds the command.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive.reporting import plot_reward_courses
    >>> picture = plot_reward_courses([[0.1, 0.9], [0.2, -0.4]], None, [True, False], tempfile.mkdtemp() + "/courses.png")
    >>> picture.path.name
    'courses.png'

    ```
    """
    counts = {len(token_rewards), len(labels), len(labels if q_values is None else q_values)}
    if len(counts) > 1 or not len(labels):
        raise ValueError(
            f"there are {len(token_rewards)} courses and {len(labels)} labels; expected one label an answer, and at least one."
        )
    panels = [("reward", "reward up to here", token_rewards)]
    if q_values is not None:
        panels.append(("q_value", "Q-value (cosine with the goal)", q_values))
    shares = np.linspace(0, 1, _PLACES + 1)[1:]
    rows: list[list[Any]] = []
    ends = {}
    with styled():
        figure = new_figure(4.6 * len(panels) + 0.6, 3.8)
        for place, (name, title, courses) in enumerate(panels):
            axis = figure.add_subplot(1, len(panels), place + 1)
            for right, color, line in ((True, style.RIGHT, "-"), (False, style.WRONG, "--")):
                own = [
                    np.asarray(c, dtype=float)
                    for c, label in zip(courses, labels, strict=True)
                    if bool(label) == right
                ]
                if not own:
                    continue
                table = np.stack([course[np.ceil(shares * len(course)).astype(int) - 1] for course in own])
                mean, low, high = table.mean(0), *np.quantile(table, [0.25, 0.75], axis=0)
                word = "right" if right else "wrong"
                axis.plot(100 * shares, mean, line, color=color, label=f"{word} ({len(own)})")
                axis.fill_between(100 * shares, low, high, color=color, alpha=0.18, linewidth=0)
                ends[name, right] = mean[-1]
                rows += [[name, word, share, *values] for share, *values in zip(shares, mean, low, high, strict=True)]
            axis.set_xlabel("share of the answer read, %")
            axis.set_ylabel(title)
            if not place:
                axis.legend(title="answers, mean and middle half")
        heading = compose_title("Along right and wrong answers", data)
        figure.suptitle(heading)
        said = ", ".join(
            f"{name} at the end {value:.2f} for {'right' if right else 'wrong'} answers"
            for (name, right), value in ends.items()
        )
        return save_picture(
            figure,
            out,
            title=heading,
            alt_text=f"Curves of the mean along the answers; {said}.",
            header=("what", "answers", "share", "mean", "quartile_1", "quartile_3"),
            rows=rows,
        )


__all__ = ["plot_reward_courses"]
