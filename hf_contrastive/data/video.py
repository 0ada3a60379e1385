"""Frames of a stretch of a video file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from hf_contrastive.utils import require_package


def place_clip(start: float, length: float, end: float, duration: float | None) -> float:
    """Where a clip begins in a video that may be shorter than its transcript says.

    A clip of a span that goes on after the end of the video is the last one of the video; none begins before 0.

    Args:
        start (`float`): where it should begin, in seconds.
        length (`float`): of the clip.
        end (`float`): of the span that it was drawn from.
        duration (`float`, *optional*): of the video, where it is known.

    Returns:
        `float`: seconds, 0 or more.

    Example:

    ```python
    >>> from hf_contrastive.data.video import place_clip
    >>> place_clip(8, 4, 14, duration=10.0), place_clip(8, 4, 12, duration=3.0), place_clip(8, 4, 12, duration=60.0)
    (6.0, 0.0, 8.0)

    ```
    """
    if duration is not None and end > duration:
        start = duration - length
    return max(0.0, float(start))


def video_duration(path: str | Path) -> float | None:
    """Length of a video in seconds; `None` where the file does not tell.

    Args:
        path (`str` or `Path`): a video file.

    Raises:
        ImportError: PyAV is not installed; the message holds the command that installs it.
        FileNotFoundError: no such file.
        ValueError: the file cannot be read as a video.
    """
    with _open(path) as container:
        return _duration(container, _stream(container, path))


def read_frames(path: str | Path, start: float, length: float, fps: float = 2.0) -> np.ndarray:
    """Frames of a stretch of a video, at evenly spaced times: at each the last frame that was shown until then.

    Args:
        path (`str` or `Path`): a video file; anything that FFmpeg reads.
        start (`float`): seconds from the beginning, 0 or more.
        length (`float`): seconds.
        fps (`float`, defaults to 2): frames a second that are taken.

    Returns:
        `np.ndarray` uint8 `[frames, height, width, 3]`: `length * fps` of them, fewer where the video ends before.

    Raises:
        ImportError: PyAV is not installed; the message holds the command that installs it.
        FileNotFoundError: no such file.
        ValueError: the file cannot be read as a video, or shows nothing in that stretch.

    Example:

        >>> from hf_contrastive.data.video import read_frames
        >>> read_frames("lecture.mp4", start=12.0, length=4.0).shape  # doctest: +SKIP
        (8, 480, 854, 3)
    """
    if start < 0 or length <= 0 or fps <= 0:
        raise ValueError(
            f"start {start:g}, length {length:g}, fps {fps:g}: expected 0 or more, and above 0 for the other two."
        )
    wanted = [start + number / fps for number in range(max(1, math.ceil(length * fps - 1e-9)))]
    found: list[np.ndarray] = []
    with _open(path) as container:
        stream = _stream(container, path)
        base, begin = float(stream.time_base), stream.start_time or 0
        container.seek(begin + int(start / base), stream=stream, backward=True, any_frame=False)
        shown: Any = None
        try:
            for frame in container.decode(stream):
                if frame.pts is None:  # a damaged file: nobody knows when it is shown
                    continue
                time = (frame.pts - begin) * base
                # what was on the screen until this frame came
                while shown is not None and len(found) < len(wanted) and wanted[len(found)] < time - 1e-6:
                    found.append(_pixels(shown))
                shown = frame
                if len(found) == len(wanted):
                    break
        except require_package("av", "video").error.FFmpegError as error:
            raise ValueError(f"{path} cannot be decoded from {start:g} s on: {error}") from error
        if shown is not None:
            # the last frame is shown for as long as any other
            last = (shown.pts - begin) * base + 1 / float(stream.average_rate or fps)
            while len(found) < len(wanted) and (shown.pts - begin) * base <= wanted[len(found)] + 1e-6 < last:
                found.append(_pixels(shown))
    if not found:
        raise ValueError(f"{path} shows nothing from {start:g} to {start + length:g} s.")
    return np.stack(found)


def _open(path: str | Path) -> Any:
    av = require_package("av", "video", purpose="reading videos")
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; expected a video file.")
    try:
        return av.open(str(file))
    except av.error.FFmpegError as error:
        raise ValueError(f"{file} cannot be read as a video: {error}") from error


def _stream(container: Any, path: str | Path) -> Any:
    if not container.streams.video:
        raise ValueError(f"{path} holds no pictures, only {len(container.streams)} other streams; give a video file.")
    return container.streams.video[0]


def _duration(container: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1_000_000


def _pixels(frame: Any) -> np.ndarray:
    return frame.to_ndarray(format="rgb24")


__all__ = ["place_clip", "read_frames", "video_duration"]
