"""Label files, prompts and frames of the surgical videos that SurgVLP is measured on."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


#: names of classes, in the order of the labels; what they are called in texts
PHASES = {
    "cholec80": (
        "preparation",
        "dissection of the calot triangle",
        "clipping and cutting of the cystic duct and artery",
        "dissection of the gallbladder from the liver",
        "packaging of the gallbladder",
        "cleaning and coagulation",
        "retraction of the gallbladder",
    ),
    "autolaparo": (
        "preparation",
        "division of ligament and peritoneum",
        "division of the uterine vessels and ligament",
        "transection of the vagina",
        "removal of the specimen",
        "suturing",
        "washing",
    ),
}
COMPONENTS = {
    "instrument": ("grasper", "bipolar forceps", "hook", "scissors", "clipper", "irrigator"),
    "verb": (
        *("grasp", "retract", "dissect", "coagulate", "clip", "cut", "aspirate", "irrigate", "pack"),
        "do nothing",
    ),
    "target": (
        *("gallbladder", "cystic plate", "cystic duct", "cystic artery", "cystic pedicle", "blood vessel", "fluid"),
        *("abdominal wall", "liver", "adhesion", "omentum", "peritoneum", "gut", "specimen bag", "nothing"),
    ),
}
_TEMPLATES = {
    "phase": "laparoscopic surgery, {}",
    "instrument": "a laparoscopic view with a {}",
    "verb": "the surgeon uses an instrument to {}",
    "target": "an instrument works on the {}",
}


def default_prompts(kind: str, data: str = "cholec80") -> list[str]:
    """Plain texts for the classes, written for this library. The published ones are longer; give them as a file.

    Args:
        kind (`str`): `"phase"`, `"instrument"`, `"verb"` or `"target"`.
        data (`str`, defaults to `"cholec80"`): of phases, `"cholec80"` or `"autolaparo"`.

    Returns:
        `list[str]`, in the order of the labels.

    Raises:
        ValueError: another kind or data set.

    Example:

    ```python
    >>> from hf_contrastive.models.surgvlp.data_surgvlp import default_prompts
    >>> default_prompts("instrument")[:2]
    ['a laparoscopic view with a grasper', 'a laparoscopic view with a bipolar forceps']

    ```
    """
    if kind not in _TEMPLATES:
        raise ValueError(f"`kind` is {kind!r}, expected one of {', '.join(_TEMPLATES)}.")
    if kind == "phase" and data not in PHASES:
        raise ValueError(
            f"there are no prompts for the phases of {data!r}, only for {', '.join(PHASES)}; give a file."
        )
    names = PHASES[data] if kind == "phase" else COMPONENTS[kind]
    return [_TEMPLATES[kind].format(name).replace("the nothing", "nothing") for name in names]


def read_prompts(path: str | Path) -> list[str]:
    """Texts of classes: one a line in the order of the labels, or `number:text` with the numbers from 0 on.

    Args:
        path (`str` or `Path`): the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no text, or numbers with gaps.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hf_contrastive.models.surgvlp.data_surgvlp import read_prompts
    >>> path = Path(tempfile.mkdtemp()) / "prompts.txt"
    >>> _ = path.write_text("1:the hook cuts\\n0:the grasper holds\\n")
    >>> read_prompts(path)
    ['the grasper holds', 'the hook cuts']

    ```
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file with the text of one class on each line.")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty; expected the text of one class on each line.")
    numbered = [re.match(r"(\d+)\s*:\s*(.+)", line) for line in lines]
    if not all(numbered):
        return lines
    found = {int(one[1]): one[2] for one in numbered if one is not None}
    if sorted(found) != list(range(len(lines))):
        raise ValueError(
            f"{path} has {len(lines)} lines, but their numbers are not those from 0 to {len(lines) - 1}, each once."
        )
    return [found[number] for number in range(len(lines))]


@dataclass(frozen=True)
class LabelledFrames:
    """Frames of one video with their labels.

    Args:
        video (`str`): its name.
        paths (`tuple[Path, ...]`): of the frames.
        labels (`np.ndarray`): `[frames]` class numbers, or `[frames, classes]` of 0 and 1.
    """

    video: str
    paths: tuple[Path, ...]
    labels: np.ndarray


def read_phases(table: str | Path, frames: str | Path, *, offset: int = 1) -> LabelledFrames:
    """Frames and phases of a video, as the tables of Cholec80 and AutoLaparo in the official code name them.

    Args:
        table (`str` or `Path`): a `.csv` with the columns `path` (`<video>_<number>.png`) and `label` (from 1 on).
        frames (`str` or `Path`): folder of the frames.
        offset (`int`, defaults to 1): what is added to the number in the table to get that of the file (official code).

    Returns:
        [`LabelledFrames`] with labels as in the table.

    Raises:
        FileNotFoundError: the table, or a frame, is not there (counted, the first one named).
        ValueError: a column is missing, a path of another form, a label that is no number.
    """
    table = Path(table).expanduser()
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist; expected a .csv with the columns path, label.")
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in ("path", "label") if not rows or name not in rows[0]]
    if missing:
        raise ValueError(
            f"{table} has no column {', '.join(missing)}; it has {', '.join(rows[0]) if rows else 'no rows'}."
        )
    names, labels = [], []
    for number, row in enumerate(rows):
        match = re.fullmatch(r"(.*_)(\d+)(\.\w+)", row["path"])
        if match is None or not row["label"].strip().isdigit():
            raise ValueError(
                f"{table}, row {number}: {row['path']!r}, {row['label']!r}; expected <video>_<number>.png and a label number."
            )
        names.append(f"{match[1]}{int(match[2]) + offset}{match[3]}")
        labels.append(int(row["label"]))
    return LabelledFrames(table.stem, _existing(frames, names), np.array(labels))


def read_bits(table: str | Path, frames: str | Path, *, pattern: str = "{video}/{frame:06d}.png") -> LabelledFrames:
    """Frames and labels of a video, as CholecT50 has them: a line `frame,b1,...,bC` with bits for C classes.

    Args:
        table (`str` or `Path`): the `.txt` file, named as the video.
        frames (`str` or `Path`): folder of the frames.
        pattern (`str`, defaults to `"{video}/{frame:06d}.png"`): path of a frame below it.

    Returns:
        [`LabelledFrames`] with labels `[frames, classes]`.

    Raises:
        FileNotFoundError: the table, or a frame, is not there.
        ValueError: lines that are none of that form.
    """
    table = Path(table).expanduser()
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist; expected a .txt with lines frame,b1,...,bC.")
    lines = [line.split(",") for line in table.read_text(encoding="utf-8-sig").split()]
    try:
        numbers = np.array([[int(value) for value in line] for line in lines], dtype=np.int64)
    except ValueError as error:
        raise ValueError(
            f"{table} holds other lines than frame,b1,...,bC of whole numbers, all of one length."
        ) from error
    if numbers.ndim != 2 or numbers.shape[1] < 2 or not np.isin(numbers[:, 1:], (0, 1)).all():
        raise ValueError(f"{table} holds other lines than frame,b1,...,bC with bits of 0 and 1.")
    names = [pattern.format(video=table.stem, frame=int(number)) for number in numbers[:, 0]]
    return LabelledFrames(table.stem, _existing(frames, names), numbers[:, 1:])


def read_triplet_map(path: str | Path) -> np.ndarray:
    """Which instrument, verb and target a triplet is made of: lines `triplet,instrument,verb,target` (further numbers are not read;
    lines that begin with # are comments), as CholecT50's `maps.txt`.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `np.ndarray` `[triplets, 3]`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: other lines, or triplets with gaps.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected lines triplet,instrument,verb,target.")
    lines = [
        line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip() and line.lstrip()[0] != "#"
    ]
    try:
        numbers = np.array([[int(value) for value in line.split(",")[:4]] for line in lines], dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"{path} holds other lines than triplet,instrument,verb,target.") from error
    if numbers.ndim != 2 or numbers.shape[1] != 4 or sorted(numbers[:, 0]) != list(range(len(numbers))):
        raise ValueError(f"{path} must name every triplet from 0 on once, as triplet,instrument,verb,target.")
    return numbers[np.argsort(numbers[:, 0]), 1:]


def triplet_prompts(triplets: np.ndarray) -> list[str]:
    """Plain texts of triplets, written for this library: what does what to what.

    Args:
        triplets (`[n, 3]` integers): of [`read_triplet_map`].

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.models.surgvlp.data_surgvlp import triplet_prompts
    >>> triplet_prompts(np.array([[2, 2, 0]]))
    ['the surgeon uses the hook to dissect the gallbladder']

    ```
    """
    names = [COMPONENTS[kind] for kind in ("instrument", "verb", "target")]
    return [
        f"the surgeon uses the {names[0][one]} to {names[1][two]}"
        + ("" if names[2][three] == "nothing" else f" the {names[2][three]}")
        for one, two, three in triplets.tolist()
    ]


def _existing(frames: str | Path, names: Sequence[str]) -> tuple[Path, ...]:
    folder = Path(frames).expanduser()
    paths = tuple(folder / name for name in names)
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"{len(absent)} of {len(paths)} frames are not there, the first is {absent[0]}")
    return paths


__all__ = [
    "COMPONENTS",
    "PHASES",
    "LabelledFrames",
    "default_prompts",
    "read_bits",
    "read_phases",
    "read_prompts",
    "read_triplet_map",
    "triplet_prompts",
]
