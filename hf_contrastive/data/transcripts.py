"""Transcripts of narrated videos: who says what from when to when."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


_COLUMNS = ("start", "end", "text")


@dataclass(frozen=True)
class Transcript:
    """Sentences of one video with their times.

    Args:
        starts (`np.ndarray` `[sentences]`), ends (`np.ndarray` `[sentences]`): seconds from the beginning of the video.
        texts (`tuple[str, ...]`): what is said.
    """

    starts: np.ndarray
    ends: np.ndarray
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


def read_transcript(path: str | Path, *, counts: dict[str, int] | None = None) -> Transcript:
    """Read a table of sentences with the columns `start`, `end` (seconds) and `text`.

    Rows without a time, without a text, or that end before they start are left out, with a warning that counts them.

    Args:
        path (`str` or `Path`): a `.csv` file; further columns are not read.
        counts (`dict`, *optional*): instead of a warning, `rows` and `skipped` are added to what it holds, for a reader of many files.

    Returns:
        [`Transcript`], in the order of the file; without sentences where the file has none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_contrastive.data.transcripts import read_transcript
    >>> path = Path(tempfile.mkdtemp()) / "lecture.csv"
    >>> _ = path.write_text("start,end,text\\n0.0,4.5,the trocar is placed\\n4.5,9.0,here is the liver\\n")
    >>> read_transcript(path).texts
    ('the trocar is placed', 'here is the liver')

    ```
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a .csv with the columns {', '.join(_COLUMNS)}.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), list(reader.fieldnames or ())
    missing = [name for name in _COLUMNS if name not in names]
    # a file of nothing at all is a video in which nothing was understood
    if names and missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}.")
    kept = []
    for row in rows:
        start, end = (_seconds(row[name]) for name in ("start", "end"))
        text = " ".join((row["text"] or "").split())
        if start is not None and end is not None and end >= start and text:
            kept.append((start, end, text))
    skipped = len(rows) - len(kept)
    if counts is not None:
        counts["rows"] = counts.get("rows", 0) + len(rows)
        counts["skipped"] = counts.get("skipped", 0) + skipped
    elif skipped:
        warnings.warn(
            f"{path.name}: {skipped} of {len(rows)} rows left out, which have no time, no text, or end before they start",
            stacklevel=2,
        )
    starts, ends = (np.array([row[place] for row in kept], dtype=np.float64) for place in (0, 1))
    return Transcript(starts, ends, tuple(row[2] for row in kept))


def _seconds(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def overlapping_sentences(starts: Any, ends: Any, start: float, end: float) -> list[int]:
    """Sentences around a span of time, in the order of the official training code of SurgVLP
    (https://arxiv.org/abs/2307.15220): those that cover the start, those that lie inside, those that cover the end.

    A sentence that is in two of these groups is named twice, so that it weighs more among the candidates of MIL-NCE.

    Args:
        starts (`[n]` numbers), ends (`[n]` numbers): times of the sentences.
        start (`float`), end (`float`): the span. Times that are equal count as overlapping.

    Returns:
        `list[int]`: their numbers, with repeats.

    Example:

    ```python
    >>> from hf_contrastive.data.transcripts import overlapping_sentences
    >>> overlapping_sentences([0, 4, 6, 9], [4, 6, 9, 12], start=3, end=8)
    [0, 1, 2]
    >>> overlapping_sentences([0, 4, 6, 9], [4, 6, 9, 12], start=4, end=6)
    [0, 1, 1, 1, 2]

    ```
    """
    first, last = np.asarray(starts, dtype=np.float64), np.asarray(ends, dtype=np.float64)
    covers_start = (first <= start) & (last >= start)
    inside = (first >= start) & (last <= end)
    covers_end = (first <= end) & (last >= end)
    return [int(number) for group in (covers_start, inside, covers_end) for number in np.flatnonzero(group)]


def mil_candidates(starts: Any, ends: Any, start: float, end: float, num_texts: int, *, anchor: int = -1) -> list[int]:
    """The K texts of the other transcript for a span of time: the first K of [`overlapping_sentences`], filled up with the anchor.

    Filling up with an empty text would give all clips one text in common.

    Args:
        starts, ends (`[n]` numbers): times of the other transcript's sentences.
        start, end (`float`): the span.
        num_texts (`int`): K.
        anchor (`int`, defaults to -1): what stands for the anchor text.

    Returns:
        `list[int]` of length K.

    Raises:
        ValueError: K below 1.

    Example:

    ```python
    >>> from hf_contrastive.data.transcripts import mil_candidates
    >>> mil_candidates([0, 4, 6], [4, 6, 9], start=7, end=8, num_texts=3)
    [2, 2, -1]

    ```
    """
    if num_texts < 1:
        raise ValueError(f"`num_texts` is {num_texts!r}, but it must be 1 or more.")
    found = overlapping_sentences(starts, ends, start, end)[:num_texts]
    return found + [anchor] * (num_texts - len(found))


def widen_span(start: float, end: float, shortest: float = 4.0) -> tuple[float, float]:
    """A span of at least `shortest` seconds around the same middle; it begins at 0 at the earliest.

    Args:
        start, end (`float`): seconds.
        shortest (`float`, defaults to 4): seconds.

    Returns:
        `(start, end)`; as given where it is long enough.

    Example:

    ```python
    >>> from hf_contrastive.data.transcripts import widen_span
    >>> widen_span(10.0, 12.0), widen_span(0.5, 1.5), widen_span(3.0, 9.0)
    ((9.0, 13.0), (0.0, 4.0), (3.0, 9.0))

    ```
    """
    lacking = shortest - (end - start)
    if lacking <= 0:
        return start, end
    start = max(0.0, start - lacking / 2)
    return start, start + shortest


def sample_clip(
    start: float, end: float, draws: Sequence[float], lengths: tuple[int, int] = (3, 5)
) -> tuple[int, int]:
    """Where a clip begins inside a span and how long it is, in whole seconds, as the official training code of SurgVLP draws them.

    The length is uniform in `lengths`; the beginning is uniform from the span's to where the clip still ends inside it, or to the
    span's where it does not fit.

    Args:
        start, end (`float`): of the span, in seconds; cut to whole ones.
        draws (two numbers in [0, 1)): of the length, of the beginning.
        lengths (`tuple[int, int]`, defaults to (3, 5)): shortest and longest clip, both included.

    Returns:
        `(beginning, length)` in seconds.

    Raises:
        ValueError: lengths that are none.

    Example:

    ```python
    >>> from hf_contrastive.data.transcripts import sample_clip
    >>> sample_clip(10.7, 20.2, (0.0, 0.5)), sample_clip(10.0, 12.0, (0.99, 0.99))
    ((14, 3), (10, 5))

    ```
    """
    low, high = lengths
    if not 1 <= low <= high:
        raise ValueError(
            f"`lengths` is {lengths!r}, but it must be two whole numbers of seconds, 1 or more, in order."
        )
    first, last = int(start), int(end)
    length = low + int(draws[0] * (high - low + 1))
    latest = max(first, last - length)
    return first + int(draws[1] * (latest - first + 1)), length


def pick_frames(available: int, wanted: int) -> list[int]:
    """Which frames of a clip are taken: every (available // wanted)-th from the first, the last one again where there are too few.

    Args:
        available (`int`): frames that were read.
        wanted (`int`): frames of a clip.

    Returns:
        `list[int]` of `wanted` numbers.

    Raises:
        ValueError: no frame to take, or none wanted.

    Example:

    ```python
    >>> from hf_contrastive.data.transcripts import pick_frames
    >>> pick_frames(10, 4), pick_frames(6, 4), pick_frames(2, 4)
    ([0, 2, 4, 6], [0, 1, 2, 3], [0, 1, 1, 1])

    ```
    """
    if available < 1 or wanted < 1:
        raise ValueError(f"cannot take {wanted} frames of {available}; expected 1 or more of both.")
    step = max(1, available // wanted)
    return [min(number * step, available - 1) for number in range(wanted)]


__all__ = [
    "Transcript",
    "mil_candidates",
    "overlapping_sentences",
    "pick_frames",
    "read_transcript",
    "sample_clip",
    "widen_span",
]
