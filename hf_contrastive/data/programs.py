"""Programs that are labelled by what they do: loading POJ-104 in all its forms, and one's own folders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_contrastive.data.program_tasks import make_programs
from hf_contrastive.data.program_tokens import ENDINGS, check_language, program_words
from hf_contrastive.data.schema import missing_column
from hf_contrastive.data.sources import SPLIT_ALIASES, Source, load_split, rows_source, split_rank, table_suffix


#: the problems of every split of POJ-104 in CodeXGLUE, https://arxiv.org/abs/2102.04664
CODEXGLUE_SPLITS = {"train": range(1, 65), "validation": range(65, 81), "test": range(81, 105)}
ON_BAD = ("skip", "error")
_CODE_NAMES = ("code", "content", "func", "source", "text")
_LABEL_NAMES = ("label", "problem", "problem_id", "target", "task")
_ID_NAMES = ("id", "name", "path", "file")
# of the built-in programs
_BUILT_IN = {"train": (0, 40), "test": (1, 24)}


def load_programs(
    path_or_id: Any,
    *,
    split: str = "train",
    name: str | None = None,
    code_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    language: str = "cpp",
    codexglue_split: bool = False,
    test_fraction: float | None = None,
    max_per_label: int | None = None,
    on_bad: str = "skip",
    cache_dir: str | None = None,
) -> datasets.Dataset:
    """Loads labelled programs from wherever they are.

    Args:
        path_or_id: one of
            - `"programs"`: small tasks in C, C++ and Python, written in many ways by this library; training and test have
              different tasks;
            - a `.parquet`, `.jsonl`, `.json` or `.csv` file, or a folder of those (`train*`, `validation*`, `test*` are splits);
            - a folder with a folder per problem that holds source files (POJ-104 as it was published: `1/1.txt`), or with
              such folders below `train`, `validation` and `test`;
            - a folder written by `save_to_disk`, or rows at hand;
            - the id of a dataset on the hub, such as `"google/code_x_glue_cc_clone_detection_poj104"`.
        split (`str`): name of the split.
        name (`str`, *optional*): configuration of a hub dataset.
        code_column, label_column, id_column (`str`, *optional*): where what stands; found by themselves where there is no doubt.
        language (`str`, defaults to `"cpp"`): of programs whose file ending or column `language` says none; C++ reads C, too.
        codexglue_split (`bool`, defaults to `False`): where there is one split, cut it by the problems 1-64, 65-80 and 81-104
            as CodeXGLUE does.
        test_fraction (`float`, *optional*): where there is one split, the last problems, of that share, are `"test"`. Problems
            are never cut: a program is tested on tasks that training has not seen.
        max_per_label (`int`, *optional*): at most so many programs of a problem, the first ones.
        on_bad (`str`, defaults to `"skip"`): what happens with empty programs: `"skip"` leaves them out and says which,
            `"error"` stops.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        `datasets.Dataset` with the columns `id` (text), `label` (whole number), `code`, `language` and `index` (row number).

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: no such split or column, no programs, an empty program with `on_bad="error"`.

    Example:

    ```python
    >>> from hf_contrastive.data import load_programs
    >>> programs = load_programs([{"id": "a", "label": "7", "code": "int main() { return 0; }"}])
    >>> programs[0]["label"], programs[0]["language"]
    (7, 'cpp')

    ```
    """
    check_language(language)
    if on_bad not in ON_BAD:
        raise ValueError(f"`on_bad` is {on_bad!r}, but it must be 'skip' or 'error'.")
    if codexglue_split and test_fraction is not None:
        raise ValueError("`codexglue_split` and `test_fraction` both cut the data; give one of them.")
    source = _source(path_or_id, name, language, cache_dir)
    if codexglue_split and len(source.splits()) == 1 and split in CODEXGLUE_SPLITS:
        rows, _ = load_split(path_or_id, source, source.splits()[0], None, False)
        kept = set(CODEXGLUE_SPLITS[split])
    else:
        rows, hold_out = load_split(path_or_id, source, split, test_fraction, False)
        kept = None
        if hold_out:
            labels = _labels(rows, _column(rows, label_column, _LABEL_NAMES, "label_column", source.text), "the data")
            problems = sorted(set(labels))
            cut = len(problems) - max(1, round((test_fraction or 0) * len(problems)))
            kept = set(problems[cut:] if split == "test" else problems[:cut])
    programs = _tidy(rows, (code_column, label_column, id_column), language, source.text, kept, on_bad)
    if max_per_label is not None:
        seen: dict[int, int] = {}
        first = []
        for row, label in enumerate(programs["label"][:]):
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= max_per_label:
                first.append(row)
        programs = programs.select(first).remove_columns("index")
        programs = programs.add_column("index", np.arange(len(first)))
    return programs


def list_program_splits(path_or_id: Any, *, name: str | None = None, language: str = "cpp") -> list[str]:
    """The splits that [`load_programs`] finds: train, validation, test, others.

    Args:
        path_or_id, name, language: as for [`load_programs`].
    """
    return sorted(_source(path_or_id, name, language, None).splits(), key=split_rank)


def _source(path_or_id: Any, name: str | None, language: str, cache_dir: str | None) -> Source:
    built_in = Source("the built-in programs", lambda: list(_BUILT_IN), _built_in)
    path = Path(str(path_or_id)).expanduser() if isinstance(path_or_id, (str, Path)) else None
    if path is not None and path.is_dir() and str(path_or_id) != "programs":
        tables = [file for place in (path, path / "data") if place.is_dir() for file in place.iterdir()]
        saved = (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()
        if not saved and not any(table_suffix(file) for file in tables):
            return _folder_source(path, language)
    return rows_source(path_or_id, name, False, cache_dir, {"programs": built_in})


def _built_in(split: str) -> datasets.Dataset:
    seed, count = _BUILT_IN[split]
    return datasets.Dataset.from_list(make_programs(split, count, seed))


def _folder_source(path: Path, language: str) -> Source:
    """A folder per problem, perhaps below a folder per split."""
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != ".")
    by_split = {SPLIT_ALIASES[f.name.lower()]: f for f in folders if f.name.lower() in SPLIT_ALIASES}
    if by_split:
        return Source(str(path), lambda: list(by_split), lambda split: _read_folder(by_split[split], language))
    return Source(str(path), lambda: ["train"], lambda _: _read_folder(path, language))


def _read_folder(path: Path, language: str) -> datasets.Dataset:
    rows, ignored, damaged = [], 0, []
    problems = sorted(
        (folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != "."),
        key=lambda folder: (not folder.name.isdigit(), int(folder.name) if folder.name.isdigit() else 0, folder.name),
    )
    for problem in problems:
        for file in sorted(problem.iterdir()):
            if file.suffix.lower() not in ENDINGS and file.suffix.lower() != ".txt":
                ignored += 1
                continue
            code, whole = read_source(file)
            identity = f"{problem.name}/{file.name}"
            if not whole:
                damaged.append(identity)
            spoken = ENDINGS.get(file.suffix.lower(), language)
            rows.append({"id": identity, "label": problem.name, "code": code, "language": spoken})
    if not rows:
        raise ValueError(
            f"no programs in {path}: expected tables (.jsonl, .parquet, .csv), or a folder per problem with source files "
            f"({', '.join(ENDINGS)}, .txt)"
        )
    if ignored:
        warnings.warn(f"{ignored} files in {path.name} are no source files and were ignored", stacklevel=4)
    if damaged:
        warnings.warn(
            f"{len(damaged)} programs hold bytes that are no UTF-8, which were replaced: {some_of(damaged)}",
            stacklevel=4,
        )
    return datasets.Dataset.from_list(rows)


def read_source(file: Path) -> tuple[str, bool]:
    """Text of a source file, and whether all of it was UTF-8; other bytes are replaced by a mark.

    Args:
        file (`Path`): what to read.
    """
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig"), True
    except UnicodeDecodeError:
        return content.decode("utf-8", errors="replace"), False


def some_of(names: Sequence[str], limit: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def drop_bad(kind: str, bad: Sequence[tuple[str, str]], total: int, on_bad: str) -> None:
    """Say which programs cannot be used, or stop.

    Args:
        kind (`str`): what is the matter, for the message.
        bad (sequence of `(id, why)`): the programs.
        total (`int`): of how many.
        on_bad (`str`): `"skip"` or `"error"`.

    Raises:
        ValueError: with `on_bad="error"`, or when no program is left.
    """
    if not bad:
        return
    text = (
        f"{len(bad)} of {total} programs {kind}: {some_of([f'{name} ({why})' if why else name for name, why in bad])}"
    )
    if on_bad == "error":
        raise ValueError(f"{text}; remove them, or pass on_bad='skip'")
    if len(bad) == total:
        raise ValueError(f"{text}; there is nothing left")
    warnings.warn(f"{text}; they are left out", stacklevel=3)


def _column(rows: Any, wanted: str | None, known: Sequence[str], argument: str, text: str) -> str:
    names = list(rows.column_names)
    if wanted is not None:
        if wanted not in names:
            raise ValueError(missing_column(wanted, names, argument))
        return wanted
    for one in known:
        if one in names:
            return one
    raise ValueError(
        f"cannot tell which column of {text} is the {argument.removesuffix('_column')}: it has {', '.join(names)}; pass "
        f"{argument}= its name"
    )


def _labels(rows: Any, column: str, text: str) -> list[int]:
    values = rows[column][:]
    if any(value is None for value in values):
        raise ValueError(
            f"row {values.index(None)} of {text} has no label in column {column!r}; remove it or label it"
        )
    try:
        return [int(value) for value in values]
    except (TypeError, ValueError):
        numbers = {label: number for number, label in enumerate(sorted({str(value) for value in values}))}
        return [numbers[str(value)] for value in values]


def _tidy(
    rows: Any, columns: tuple[str | None, ...], language: str, text: str, kept: set[int] | None, on_bad: str
) -> datasets.Dataset:
    code = _column(rows, columns[0], _CODE_NAMES, "code_column", text)
    label = _column(rows, columns[1], _LABEL_NAMES, "label_column", text)
    identity = next((one for one in _ID_NAMES if one in rows.column_names), None)
    if columns[2] is not None:
        identity = _column(rows, columns[2], (), "id_column", text)
    codes, labels = rows[code][:], _labels(rows, label, text)
    names = [str(one) for one in (rows[identity][:] if identity else range(len(codes)))]
    spoken = rows["language"][:] if "language" in rows.column_names else [language] * len(codes)
    places = [row for row in range(len(codes)) if kept is None or labels[row] in kept]
    if not places:
        raise ValueError(
            f"{text} has no programs of the problems asked for; its labels are {some_of(sorted(map(str, set(labels))))}"
        )
    bad, good = [], []
    for row in places:
        one = codes[row] if isinstance(codes[row], str) else ""
        if one.strip() and program_words(one, check_language(spoken[row] or language)):
            good.append(row)
        else:
            bad.append((names[row], ""))
    drop_bad("are empty", bad, len(places), on_bad)
    return datasets.Dataset.from_dict(
        {
            "id": [names[row] for row in good],
            "label": [labels[row] for row in good],
            "code": [codes[row] for row in good],
            "language": [spoken[row] or language for row in good],
            "index": list(range(len(good))),
        }
    )


__all__ = ["CODEXGLUE_SPLITS", "drop_bad", "list_program_splits", "load_programs", "read_source", "some_of"]
