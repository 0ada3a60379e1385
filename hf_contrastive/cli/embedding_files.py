"""Vectors and their ids from files: what `hf-contrastive embed` writes, and matrices of others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_contrastive.cli.common import CliError, WrongUsage


ENDINGS = (".parquet", ".npy", ".safetensors")
#: columns that are taken when the user names none, the first that is there
VECTOR_COLUMNS = ("embedding", "embeddings", "vector", "vectors")
ID_COLUMNS = ("id", "ids", "index")
#: what is kept of the description that `embed` writes
ABOUT = ("model", "dataset", "split", "readout")
# rows of a parquet file that are read at a time
_BATCH = 2**15


@dataclass
class Embeddings:
    """A file of vectors.

    Args:
        vectors (`np.ndarray` `[rows, dim]`): as they stand in the file, not checked.
        ids (*optional*): one a vector, as pyarrow, numpy or a list gives them.
        id_column (`str`, *optional*): where they are from.
        about (`dict`): what the vectors are, as far as the file says.
    """

    vectors: np.ndarray
    ids: Any = None
    id_column: str | None = None
    about: dict[str, Any] = field(default_factory=dict)


def read_embeddings(file: Path, what: str, id_column: str | None, vector_column: str | None) -> Embeddings:
    """Read vectors and ids.

    Args:
        file (`Path`): .parquet with a column of lists; .npy, with the .npy.json of `embed` where it is there; .safetensors.
        what (`str`): `EMBEDDINGS` or the option it was typed behind, for messages.
        id_column (`str`, *optional*): column, value or tensor of the ids; by default the first of `ID_COLUMNS` that is there.
        vector_column (`str`, *optional*): column or tensor of the vectors; by default found by itself.

    Raises:
        WrongUsage: no such file, another ending, no such column.
        CliError: the content cannot be used.
    """
    file = file.expanduser()
    if file.suffix not in ENDINGS:
        raise WrongUsage(
            f"{what} is {str(file)!r}, which ends in {file.suffix or 'nothing'}; expected one of {', '.join(ENDINGS)}, for example "
            "what hf-contrastive embed writes."
        )
    if not file.is_file():
        raise WrongUsage(f"{what} {file} is {'a folder' if file.is_dir() else 'not there'}; give a file of vectors.")
    read = {".parquet": _read_parquet, ".npy": _read_npy, ".safetensors": _read_safetensors}[file.suffix]
    return read(file, id_column, vector_column)


def _pick(option: str, wanted: str | None, known: Sequence[str], names: Sequence[str], file: Path) -> str | None:
    """The column that was asked for, or the first known one that is there."""
    if wanted is not None and wanted not in names:
        raise WrongUsage(f"{option} is {wanted!r}: {file.name} has {', '.join(names) or 'none'}; name one of them.")
    return wanted if wanted is not None else next((name for name in known if name in names), None)


def _read_parquet(file: Path, id_column: str | None, vector_column: str | None) -> Embeddings:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as content:
            schema, rows = content.schema_arrow, content.metadata.num_rows
            vector_name = _pick("--vector-column", vector_column, VECTOR_COLUMNS, schema.names, file)
            id_name = _pick("--id-column", id_column, ID_COLUMNS, schema.names, file)
            if vector_name is None:
                raise WrongUsage(
                    f"--vector-column is needed: {file.name} has the columns {', '.join(schema.names)}; name the one with the vectors."
                )
            names = [vector_name, *([id_name] if id_name is not None and id_name != vector_name else [])]
            vectors, ids, done = np.empty((0, 0), dtype=np.float32), [], 0
            for batch in content.iter_batches(_BATCH, columns=names):
                block = _matrix(batch.column(vector_name), vector_name, file, done)
                if done == 0:
                    vectors = np.empty((rows, block.shape[1]), dtype=np.float32)
                if block.shape[1] != vectors.shape[1]:
                    raise _uneven(vector_name, file, done, block.shape[1], vectors.shape[1])
                vectors[done : done + len(block)] = block
                done += len(block)
                if id_name is not None:
                    ids.append(batch.column(id_name))
    except (pa.ArrowInvalid, OSError) as error:
        raise CliError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    found = pa.chunked_array(ids) if ids else None
    return Embeddings(vectors, found, id_name, _about((schema.metadata or {}).get(b"hf_contrastive")))


def _matrix(column: Any, name: str, file: Path, first: int) -> np.ndarray:
    """A block of a column of lists as rows; lists of another length are told by their row."""
    import pyarrow as pa

    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise CliError(
            f"column {name!r} of {file.name} holds {kind}, not lists of numbers; name another one with --vector-column."
        )
    if column.null_count or column.flatten().null_count:
        raise CliError(f"column {name!r} of {file.name} has gaps between rows {first} and {first + len(column) - 1}.")
    if pa.types.is_fixed_size_list(kind):
        dim = kind.list_size
    else:
        lengths = np.diff(column.offsets.to_numpy())
        dim = int(lengths[0])
        if (lengths != dim).any():
            place = int(np.flatnonzero(lengths != dim)[0])
            raise _uneven(name, file, first + place, int(lengths[place]), dim)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), dim)


def _uneven(name: str, file: Path, row: int, found: int, expected: int) -> CliError:
    return CliError(
        f"row {row} of column {name!r} of {file.name} has {found} numbers, the rows before {expected}; vectors of one index come from "
        "one encoder."
    )


def _read_npy(file: Path, id_column: str | None, vector_column: str | None) -> Embeddings:
    if vector_column is not None:
        raise WrongUsage(f"--vector-column goes with .parquet and .safetensors; {file.name} is one matrix.")
    try:
        vectors = np.load(file, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CliError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    sidecar = file.with_name(file.name + ".json")
    text = sidecar.read_bytes() if sidecar.is_file() else None
    values = _json(text).get("values", {})
    name = _pick("--id-column", id_column, ID_COLUMNS, list(values), file)
    return Embeddings(vectors, None if name is None else values[name], name, _about(text))


def _read_safetensors(file: Path, id_column: str | None, vector_column: str | None) -> Embeddings:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            shapes = {name: list(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
            wide = [name for name, shape in shapes.items() if len(shape) == 2]
            name = _pick("--vector-column", vector_column, VECTOR_COLUMNS, wide, file)
            if name is None and len(wide) != 1:
                told = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
                raise WrongUsage(
                    f"--vector-column is needed: {file.name} has the tensors {told}; name that of the vectors."
                )
            flat = [one for one, shape in shapes.items() if len(shape) == 1]
            id_name = _pick("--id-column", id_column, ID_COLUMNS, flat, file)
            vectors = content.get_tensor(name or wide[0]).float().numpy()
            ids = None if id_name is None else content.get_tensor(id_name)
    except (SafetensorError, OSError) as error:
        raise CliError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    return Embeddings(vectors, ids, id_name)


def _json(text: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _about(text: bytes | None) -> dict[str, Any]:
    return {name: value for name, value in _json(text).items() if name in ABOUT and isinstance(value, str)}
