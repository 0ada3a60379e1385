"""Reading what a training run left in its folder. Needs neither torch nor matplotlib."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


METRICS_FILE = "metrics.jsonl"
EMBEDDINGS_FILE = "embeddings.npz"


@dataclass(frozen=True)
class Run:
    """What was found in a run folder.

    Args:
        folder (`Path`): the folder.
        metrics (`list[dict]`): one dictionary a log line, in the order of steps: `step`, `epoch`, `loss`, ... Empty only
            in a folder that holds embeddings alone.
        trainer_state (`dict`, *optional*): of the newest checkpoint or the folder itself.
        results (`dict`, *optional*): `all_results.json`.
        embeddings (`dict[str, ndarray]`): the arrays of `embeddings.npz`, empty when there is none.
    """

    folder: Path
    metrics: list[dict[str, Any]]
    trainer_state: dict[str, Any] | None = None
    results: dict[str, Any] | None = None
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, one dictionary a step.

    Lines of the same step are merged; where a resumed run wrote a step again, the later value counts. A line that is not
    JSON (the run was killed while writing it) is left out with a warning.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        `list[dict]`: in the order of steps.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no line that could be read.

    Example:

    ```python
    >>> import tempfile, pathlib
    >>> from hf_contrastive.reporting import read_metrics
    >>> file = pathlib.Path(tempfile.mkdtemp(), "metrics.jsonl")
    >>> _ = file.write_text('{"step": 1, "loss": 2.0}\\n{"step": 1, "std": 0.1}\\n')
    >>> read_metrics(file)
    [{'step': 1, 'loss': 2.0, 'std': 0.1}]

    ```
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a run writes it while it trains")
    lines, broken = [], []
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            line = None
        if isinstance(line, dict):
            lines.append(line)
        else:
            broken.append(number)
    if broken:
        warnings.warn(
            f"{path}: left out {len(broken)} line(s) that are not JSON (first: line {broken[0]})", stacklevel=2
        )
    if not lines:
        raise ValueError(f"{path} holds no metrics: the run stopped before its first log line (see `logging_steps`)")
    return merge_steps(lines)


def merge_steps(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One dictionary a step, in the order of steps; later values win. A line without a step belongs to the one before."""
    steps: dict[float, dict[str, Any]] = {}
    step: float = 0
    for line in lines:
        given = line.get("step", step)
        step = given if isinstance(given, (int, float)) and not isinstance(given, bool) else step
        steps.setdefault(step, {"step": step}).update(line)
    return [steps[step] for step in sorted(steps)]


def read_run(folder: str | Path) -> Run:
    """Reads a run folder: `metrics.jsonl`, `trainer_state.json`, `all_results.json`, `embeddings.npz`, each if there.

    Without a `metrics.jsonl` the log history inside `trainer_state.json` is taken (of the newest checkpoint, when the folder
    itself has none).

    Args:
        folder (`str` or `Path`): the output folder of a training run, or one of its checkpoints.

    Returns:
        [`Run`]: what was found.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no metrics; the message lists what it holds.
        ValueError: a file is there but cannot be read.

    Example:

    ```python
    >>> import tempfile, pathlib
    >>> from hf_contrastive.reporting import read_run
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\\n')
    >>> read_run(folder).metrics
    [{'step': 1, 'loss': 2.0}]

    ```
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the output folder of a training run")
    checkpoints = sorted(
        (path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)),
        key=lambda path: int(path.name.rpartition("-")[2]),
        reverse=True,
    )
    state = next(
        (
            _read_json(where / "trainer_state.json")
            for where in (folder, *checkpoints)
            if (where / "trainer_state.json").is_file()
        ),
        None,
    )
    results_path = folder / "all_results.json"
    results = _read_json(results_path) if results_path.is_file() else None
    if (folder / METRICS_FILE).is_file():
        metrics = read_metrics(folder / METRICS_FILE)
    elif state and state.get("log_history"):
        metrics = merge_steps(state["log_history"])
    elif (folder / EMBEDDINGS_FILE).is_file():
        metrics = []
    else:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        raise FileNotFoundError(
            f"{folder} holds neither {METRICS_FILE} nor a trainer_state.json with a log history (found: {found}); give the "
            "output folder of a training run"
        )
    return Run(folder, metrics, state, results, _read_embeddings(folder / EMBEDDINGS_FILE))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); it may have been cut off while it was written") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def save_embeddings(
    folder: str | Path,
    *,
    embeddings: Any = None,
    labels: Any = None,
    class_names: Any = None,
    z_i: Any = None,
    z_j: Any = None,
    images: Any = None,
    data: str | None = None,
) -> Path:
    """Leaves embeddings in a run folder (`embeddings.npz`) so that `plot_run` draws them.

    Args:
        folder (`str` or `Path`): the run folder.
        embeddings (`[N, D]`, *optional*): embeddings for the map and the neighbours.
        labels (`[N]`, *optional*): their classes.
        class_names (`Sequence[str]`, *optional*): names of the classes 0, 1, ...
        z_i (`[M, D']`, *optional*): projections of one view, for heat map and histogram.
        z_j (`[M, D']`, *optional*): projections of the other view.
        images (`[N, ...]` array, *optional*): the images of `embeddings`, for the neighbours.
        data (`str`, *optional*): what data these are, for the titles: `"digits, test split"`.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: nothing to save, or lengths that do not fit.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive.reporting import save_embeddings
    >>> save_embeddings(tempfile.mkdtemp(), embeddings=[[1.0, 0.0]], labels=[3]).name
    'embeddings.npz'

    ```
    """
    given = {
        "embeddings": embeddings,
        "labels": labels,
        "class_names": class_names,
        "z_i": z_i,
        "z_j": z_j,
        "images": images,
    }
    arrays = {
        name: value.detach().cpu().float().numpy() if hasattr(value, "detach") and value.is_floating_point() else value
        for name, value in given.items()
        if value is not None
    }
    arrays = {
        name: value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        for name, value in arrays.items()
    }
    for name, array in arrays.items():
        if array.dtype.kind == "O":
            raise ValueError(f"`{name}` is not an array of numbers or strings (images of several sizes?)")
    if "embeddings" not in arrays and not {"z_i", "z_j"} <= arrays.keys():
        raise ValueError("nothing to draw: give `embeddings`, or `z_i` and `z_j`")
    for name in ("labels", "images"):
        if name in arrays and ("embeddings" not in arrays or len(arrays[name]) != len(arrays["embeddings"])):
            raise ValueError(f"`{name}` has {len(arrays[name])} rows; `embeddings` must have as many")
    if data is not None:
        arrays["data"] = np.asarray(data)
    path = Path(folder) / EMBEDDINGS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return path


def _read_embeddings(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it, or run the evaluation again") from error
