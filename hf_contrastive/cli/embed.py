"""`hf-contrastive embed`: images or texts to a file of vectors, in pieces that survive a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_contrastive.cli.common import (
    CliError,
    Progress,
    WrongUsage,
    examples,
    print_line,
    print_note,
    replace_file,
    write_text,
)


if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

EXAMPLES = examples(
    "hf-contrastive embed out/simclr-digits digits -o digits.parquet",
    "hf-contrastive embed user/simclr-birds birds/ -o birds.npy --normalize --batch-size 256 --num-workers 4",
    "hf-contrastive embed out/convirt-glyphs captions.csv --text-column caption -o captions.parquet",
)
ENDINGS = (".parquet", ".npy")
STATE = "state.json"
OUT, DATA, SPEED = "Output", "Data", "Speed"


def command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder or hub id of a trained model.")],
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="digits, a folder of images, a parquet or npz file, or a hub id; with --text-column a csv, jsonl or parquet file.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write, .parquet or .npy.", rich_help_panel=OUT)
    ],
    readout: Annotated[
        str | None,
        typer.Option(help="Where to read the embeddings. (default: the model's first, backbone)", rich_help_panel=OUT),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale every embedding to length 1.", rich_help_panel=OUT)
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Dataset columns to copy beside the embeddings, with commas: id,label. (default: the label)",
            rich_help_panel=OUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output file.", rich_help_panel=OUT)
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw unfinished work of an earlier run away.", rich_help_panel=OUT)
    ] = False,
    split: Annotated[str, typer.Option(help="Split of the dataset.", rich_help_panel=DATA)] = "train",
    name: Annotated[str | None, typer.Option(help="Configuration of a hub dataset.", rich_help_panel=DATA)] = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column of the images. (default: found by itself)", rich_help_panel=DATA)
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(help="Embed the texts of this column, by a model with a text encoder.", rich_help_panel=DATA),
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of the labels. (default: found by itself)", rich_help_panel=DATA)
    ] = None,
    on_unreadable: Annotated[
        str,
        typer.Option(help="At an image that cannot be read, or an empty text: stop or skip.", rich_help_panel=DATA),
    ] = "stop",
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="At most this many rows, drawn with a fixed seed.", rich_help_panel=DATA)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images or texts at a time.", rich_help_panel=SPEED)] = 64,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Compute texts in bfloat16, faster where supported.", rich_help_panel=SPEED)
    ] = False,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that read images.", rich_help_panel=SPEED)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=SPEED)] = "auto",
    shard_size: Annotated[
        int,
        typer.Option(
            min=1, help="Rows saved at a time; a run that was killed loses at most these.", rich_help_panel=SPEED
        ),
    ] = 4096,
) -> None:
    """Embed the images of a dataset, or the texts of a table, into a file of vectors.

    The work is saved in pieces to OUTPUT.parts; after a kill the same command continues and writes the same file.
    """
    if output.suffix not in ENDINGS:
        raise WrongUsage(
            f"--output is {str(output)!r}, which ends in {output.suffix or 'nothing'}; expected .parquet (index, label and "
            f"embedding) or .npy (the matrix), for example -o {output.with_suffix('.parquet')}."
        )
    check_unreadable(on_unreadable)
    parts = output.with_name(output.name + ".parts")
    if output.is_dir():
        raise WrongUsage(
            f"--output {output} is a folder; give a file, for example -o {output / 'embeddings.parquet'}."
        )
    if output.exists() and not overwrite and not parts.is_dir():
        raise _exists(output)

    from hf_contrastive.cli.checkpoints import load_encoder, load_rows, public_name
    from hf_contrastive.cli.embedding_sources import ImageSource, TextSource, text_source

    copied = None if columns is None else [column.strip() for column in columns.split(",") if column.strip()]
    encoder = load_encoder(checkpoint, device)
    readout = encoder.readout(readout)
    options: dict[str, Any] = {"batch_size": batch_size, "readout": readout, "normalize": normalize}
    source: ImageSource | TextSource
    if text_column is not None:
        copied = [column for column in copied or () if column != "index"]
        source = text_source(
            encoder,
            checkpoint,
            dataset,
            text_column,
            split=split,
            name=name,
            keep=copied,
            on_bad=on_unreadable,
            max_samples=max_samples,
            options={**options, "bf16": bf16},
        )
        copied = ["text" if column == text_column else column for column in copied]
    else:
        if bf16:
            raise WrongUsage("--bf16 is for texts; leave it out, or name their column with --text-column.")
        further = [column for column in copied or () if column not in ("index", "label")]
        images = load_rows(
            dataset,
            {"keep_columns": "--columns"},
            split=split,
            name=name,
            image_column=image_column,
            label_column=label_column,
            on_unreadable=on_unreadable,
            max_samples=max_samples,
            **({"keep_columns": further} if further else {}),
        )
        source = ImageSource(encoder, images, {**options, "num_workers": num_workers})
        if copied is None:
            copied = ["label"] if "label" in images.column_names else []
        elif "label" in copied and "label" not in images.column_names:
            raise CliError(
                f"column 'label' not found in {dataset}; leave it out of --columns, or name the labels with --label-column."
            )
        copied = [column for column in copied if column != "index"]
    rows = source.rows

    about = {
        "model": encoder.name,
        "dataset": public_name(dataset),
        "split": split,
        "rows": len(rows),
        "readout": readout,
        "normalized": normalize,
        "columns": ["index", *copied],
        **({"of": f"the texts of {text_column}"} if text_column else {}),
        **({"precision": "bfloat16"} if bf16 else {}),
    }
    state = {
        **about,
        "model weights": encoder.weights_digest(),
        source.kind: source.preparation(),
        "dataset content": source.digest(),
        "batch size": batch_size,
        "device": encoder.device.type,
        "shard size": -(-shard_size // batch_size) * batch_size,  # whole batches: a batch never depends on the kill
    }
    if output.exists() and not overwrite:
        if _read_state(parts) == state and _count_done(parts, state) == len(rows):
            # killed between the last write and the tidying up, or after --overwrite: both end in the same file
            overwrite = True
        else:
            raise _exists(output)
    _open_parts(parts, state, restart)
    done = _count_done(parts, state)
    if done:
        print_note(f"continuing after {done} of {len(rows)} rows found in {parts}")

    size = state["shard size"]
    with Progress(f"embedding {about['dataset']}", len(rows), done) as progress:
        for start in range(0, len(rows), size):
            path = _part(parts, start)
            if path.exists():
                continue
            piece = rows.select(range(start, min(start + size, len(rows))))
            embeds = source.encode(piece, progress.advance)
            _write_part(path, embeds, piece, copied)
    dim = _merge(parts, output, {**about, "label_names": _label_names(rows, copied)})
    shutil.rmtree(parts)
    print_line(
        f"wrote {output}: {len(rows)} embeddings of {dim} numbers ({readout}{', length 1' if normalize else ''})"
    )
    if output.suffix == ".npy":
        print_line(f"wrote {_sidecar(output)}: what they are, with {', '.join(about['columns'])}")


def check_unreadable(value: str) -> None:
    """Refuse anything but the two answers to an unreadable image."""
    if value not in ("stop", "skip"):
        raise WrongUsage(f"--on-unreadable is {value!r}; type stop (name the first image and stop) or skip.")


def _exists(output: Path) -> CliError:
    return CliError(f"{output} exists; nothing was changed. Type --overwrite to replace it, or another -o.")


def _sidecar(output: Path) -> Path:
    return output.with_name(output.name + ".json")


def _part(parts: Path, start: int) -> Path:
    return parts / f"rows-{start:012d}.parquet"


def _read_state(parts: Path) -> dict[str, Any] | None:
    try:
        return json.loads((parts / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _open_parts(parts: Path, state: dict[str, Any], restart: bool) -> None:
    """Make the folder of pieces; refuse pieces that another model, dataset or setting made."""
    if restart and parts.is_dir():
        shutil.rmtree(parts)
    old = _read_state(parts)
    if old is not None and old != state:
        named = []
        for key in dict.fromkeys([*old, *state]):
            was, now = old.get(key), state.get(key)
            if was != now:
                long = key in ("model weights", "image processor", "tokenizer", "dataset content")
                named.append(f"{key} changed" if long else f"{key} was {was!r} and is now {now!r}")
        raise CliError(
            f"{parts} holds unfinished work of another run: {'; '.join(named)}. Type --restart to throw it away and begin "
            "anew, repeat the earlier command to finish it, or choose another -o."
        )
    parts.mkdir(parents=True, exist_ok=True)
    if old is None:
        if any(parts.iterdir()):
            for stray in [*parts.glob("rows-*.parquet*"), *parts.glob("*.tmp")]:
                stray.unlink()  # pieces nobody can vouch for
        write_text(parts / STATE, json.dumps(state, indent=1))


def _count_done(parts: Path, state: dict[str, Any]) -> int:
    """Rows in finished pieces; a piece that is not whole is removed and made again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    for start in range(0, state["rows"], state["shard size"]):
        path = _part(parts, start)
        if not path.exists():
            continue
        try:
            found = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowInvalid):
            found = -1
        if found == min(state["shard size"], state["rows"] - start):
            done += found
        else:
            path.unlink()
    return done


def _write_part(path: Path, embeds: np.ndarray, rows: Any, copied: list[str]) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = rows.with_format(None).select_columns(["index", *copied])
    table = pa.table(table.with_format("arrow")[:])
    count, dim = embeds.shape
    offsets = pa.array(np.arange(0, count * dim + 1, dim, dtype=np.int32))
    vectors = pa.ListArray.from_arrays(offsets, pa.array(embeds.ravel(), pa.float32()))
    table = table.append_column("embedding", vectors).replace_schema_metadata(None)
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table, temporary)
    replace_file(temporary, path)


def _label_names(rows: Any, copied: list[str]) -> list[str] | None:
    return getattr(rows.features["label"], "names", None) if "label" in copied else None


def _merge(parts: Path, output: Path, about: dict[str, Any]) -> int:
    """All pieces as one file, which appears whole; returns the size of an embedding."""
    import pyarrow.parquet as pq

    from hf_contrastive.version import __version__

    pieces = sorted(parts.glob("rows-*.parquet"))
    dim = len(pq.read_table(pieces[0], columns=["embedding"])["embedding"][0])
    about = {**about, "dimension": dim, "dtype": "float32", "written_by": f"hf_contrastive {__version__}"}
    about = {key: value for key, value in about.items() if value is not None}
    # inside the folder of pieces: on the same disk, and tidied up with it
    temporary = parts / ("merged" + output.suffix)
    if output.suffix == ".parquet":
        schema = pq.read_schema(pieces[0]).with_metadata(
            {
                "hf_contrastive": json.dumps(about),
                **{key: str(about[key]) for key in ("model", "readout", "dimension")},
            }
        )
        with pq.ParquetWriter(temporary, schema) as writer:
            for piece in pieces:
                writer.write_table(pq.read_table(piece).replace_schema_metadata(schema.metadata))
        replace_file(temporary, output)
        return dim
    _merge_npy(pieces, temporary, dim, about["rows"])
    further: dict[str, list[Any]] = {}
    for piece in pieces:
        table: pa.Table = pq.read_table(piece).drop_columns(["embedding"])
        for key, values in table.to_pydict().items():
            further.setdefault(key, []).extend(values)
    # the facts one a line, the values (one a row of the matrix) without a line each
    facts = json.dumps(about, indent=1, ensure_ascii=False).removesuffix("\n}")
    values = json.dumps(further, ensure_ascii=False, default=str)
    write_text(_sidecar(output), f'{facts},\n "values": {values}\n}}\n')
    replace_file(temporary, output)
    return dim


def _merge_npy(pieces: list[Path], path: Path, dim: int, rows: int) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))
    start = 0
    for piece in pieces:
        vectors = pq.read_table(piece, columns=["embedding"])["embedding"].combine_chunks().flatten()
        block = np.asarray(vectors).reshape(-1, dim)
        matrix[start : start + len(block)] = block
        start += len(block)
    matrix.flush()
