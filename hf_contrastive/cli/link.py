"""`hf-contrastive link`: which records of one table are which of another, by picture, text, or both."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_contrastive.cli.common import CliError, Progress, WrongUsage, examples, print_line, print_note, quiet_libraries
from hf_contrastive.cli.evaluate import OUT, Device
from hf_contrastive.cli.rows_file import RowsFile, check_rows_file


EXAMPLES = examples(
    "hf-contrastive link out/clippings-glyphs crops.csv known.csv -o matches.parquet --threshold 0.8",
    "hf-contrastive link me/clippings-firms crops.csv known.csv -o matches.csv --image-weight 0.7 --unmatched",
    "hf-contrastive link out/logo-glyphs crops.csv references.csv -o brands.csv --k 5 --right-id-column brand",
    "hf-contrastive link me/clippings-products tableA.csv tableB.csv -o matches.csv --text-column name --k 3",
)
TABLES, MATCHES = "Tables", "Matches"
#: names of ids when the user names no column
ID_COLUMNS = ("id", "record_id", "uid")
# records of the left table that are searched and written at a time
_CHUNK = 4096


def command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder or hub id of a trained pair.")],
    left: Annotated[str, typer.Argument(metavar="LEFT", help="Table of records to link: .csv, .jsonl or .parquet.")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="Table of the known records.")],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="File to write: .parquet, .csv or .jsonl, one line a match.", rich_help_panel=OUT
        ),
    ],
    threshold: Annotated[
        float | None,
        typer.Option(help="Only matches with a cosine above it. (default: all)", rich_help_panel=MATCHES),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Matches of each record.", rich_help_panel=MATCHES)] = 1,
    image_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the image beside the text, from 0 to 1. (default: the checkpoint's)",
            rich_help_panel=MATCHES,
        ),
    ] = None,
    unmatched: Annotated[
        bool,
        typer.Option("--unmatched", help="Also write records without a match.", rich_help_panel=MATCHES),
    ] = False,
    image_column: Annotated[
        str | None,
        typer.Option(help="Column of images or their paths. (default: found by itself)", rich_help_panel=TABLES),
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the texts. (default: found by itself)", rich_help_panel=TABLES)
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(help="Column of ids to write, too. (default: found by itself)", rich_help_panel=TABLES),
    ] = None,
    right_image_column: Annotated[
        str | None, typer.Option(help="The same of RIGHT, where it is called otherwise.", rich_help_panel=TABLES)
    ] = None,
    right_text_column: Annotated[
        str | None, typer.Option(help="The same of RIGHT, where it is called otherwise.", rich_help_panel=TABLES)
    ] = None,
    right_id_column: Annotated[
        str | None, typer.Option(help="The same of RIGHT, where it is called otherwise.", rich_help_panel=TABLES)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Records at a time.")] = 64,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.", rich_help_panel=OUT)
    ] = False,
    device: Device = "auto",
) -> None:
    """Link the records of one table to those of another, by an exact search for the nearest.

    A record may have a picture, a text, or both. --threshold leaves out what is not near enough: no match.
    """
    if image_weight is not None and not 0 <= image_weight <= 1:
        raise WrongUsage(f"--image-weight is {image_weight:g}: image_weight must be in [0, 1].")
    if threshold is not None and not -1 <= threshold <= 1:
        raise WrongUsage(f"--threshold is {threshold:g}; expected a cosine, from -1 to 1 (0.5 to 0.9 is usual).")
    if unmatched and threshold is None:
        raise WrongUsage("--unmatched goes with --threshold: without one every record has a match.")
    check_rows_file(output, overwrite, "matches.parquet")
    tables = [
        _read_table("LEFT", left, image_column, text_column, id_column),
        _read_table(
            "RIGHT",
            right,
            right_image_column or image_column,
            right_text_column or text_column,
            right_id_column or id_column,
        ),
    ]
    linker = load_linker(checkpoint, device)
    if image_weight is not None and linker.fused:
        raise WrongUsage(
            f"--image-weight is for pairs of encoders whose embeddings are pooled; {checkpoint} makes one vector of picture and text."
        )
    weight = linker.image_weight if image_weight is None else image_weight
    sides = [linker.embed(table, weight, batch_size) for table in tables]
    types = _types(tables, k)
    found = 0
    with RowsFile(output, types) as writer, Progress("linking", len(tables[0].rows), unit="records") as progress:
        for start, part in _matches(*sides, k):
            lines = list(_lines(tables, start, part, k, threshold, unmatched))
            found += len({line["left_row"] for line in lines if line["right_row"] is not None})
            writer.write(lines)
            progress.advance(len(part[0]))
    records = len(tables[0].rows)
    print_line(
        f"wrote {output}: {writer.lines} lines; {found} of {records} records have a match"
        + (f" above {threshold:g}" if threshold is not None else "")
    )


# --------------------------------------------------------------------------------------------------------------- tables


@dataclass
class _Table:
    """Records with `image`, `text`, `index`, and their ids."""

    rows: Any
    ids: list[str] | None
    texts: list[str] | None


def _read_table(
    name: str, path: str, image_column: str | None, text_column: str | None, id_column: str | None
) -> _Table:
    from hf_contrastive.data import load_linkage_table

    kept: dict[str, Any] = {"keep_columns": [id_column]} if id_column else {"optional_columns": ID_COLUMNS}
    try:
        with quiet_libraries(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            rows = load_linkage_table(path, image_column=image_column, text_column=text_column, **kept)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        for argument in ("image_column", "text_column", "keep_columns"):
            option = "--id-column" if argument == "keep_columns" else f"--{argument.replace('_', '-')}"
            text = text.replace(f"{argument}=", f"{option} ").replace(argument, option)
        raise CliError(f"{name}: {text}") from error
    ids = id_column or next((column for column in ID_COLUMNS if column in rows.column_names), None)
    for message in dict.fromkeys(str(warning.message) for warning in told if "row" in str(warning.message)):
        print_note(f"note: {name}: {message}")
    texts = rows["text"][:]
    given = None if ids is None else ["" if value is None else str(value) for value in rows[ids][:]]
    return _Table(rows, given, texts if any(texts) else None)


# ---------------------------------------------------------------------------------------------------------------- model


@dataclass
class Linker:
    """A loaded pair of encoders, what makes its inputs, and the weight of images."""

    model: Any
    processor: Any
    name: str

    @property
    def fused(self) -> bool:
        """Whether the model itself makes one vector of picture and text."""
        from hf_contrastive.families.dual_encoder.modeling_dual_encoder import DualEncoderModel

        return not isinstance(self.model, DualEncoderModel)

    @property
    def image_weight(self) -> float:
        """Of the checkpoint; a half where it has none."""
        return float(getattr(self.model.config, "image_weight", 0.5))

    def embed(self, table: _Table, image_weight: float, batch_size: int) -> Any:
        """Embeddings of length 1 of all records.

        Args:
            table: the records.
            image_weight (`float`): of records that have both sides.
            batch_size (`int`): records at a time.

        Returns:
            `torch.Tensor` `[records, dim]`.
        """
        import torch

        from hf_contrastive.data import ProcessorTransform, RecordCollator
        from hf_contrastive.families.dual_encoder.record_encoding import encode_fused, encode_records, pool_records

        transform = ProcessorTransform(self.processor.image_processor)
        collator = RecordCollator(transform, self.processor, augment=False, labels=False, mask_duplicates=False)
        options: dict[str, Any] = {"batch_size": batch_size, "device": next(self.model.parameters()).device}
        with Progress("reading records", len(table.rows), unit="records") as progress:
            options["advance"] = progress.advance
            try:
                if self.fused:
                    found = encode_fused(self.model, table.rows, collator, **options)
                else:
                    found = pool_records(encode_records(self.model, table.rows, collator, **options), image_weight)
            except ValueError as error:
                raise CliError(f"{error}; mend the file, or leave the record out.") from error
        embeds = torch.from_numpy(found)
        bad = (~torch.isfinite(embeds).all(1)).nonzero()
        if len(bad):
            raise CliError(
                f"the embedding of record {int(bad[0])} holds NaN or infinity; the training of {self.name} diverged. Take an earlier "
                "checkpoint."
            )
        return embeds


def load_linker(checkpoint: str, device: str = "auto") -> Linker:
    """Load a pair of encoders of any system that has one.

    Args:
        checkpoint (`str`): folder or hub id.
        device (`str`): as `--device`.

    Raises:
        CliError: another kind of model, no processor, missing weights.
        OSError, ValueError: what `check_checkpoint` found wrong.
    """
    import torch
    from transformers import AutoModel, AutoProcessor

    from hf_contrastive.cli.checkpoints import look_at, pick_device, public_name
    from hf_contrastive.registry import REGISTRY

    target = pick_device(device)
    checkpoint = os.path.expanduser(checkpoint)
    info = look_at(checkpoint)
    if not info.is_adapter and (info.system is None or info.system.column != "image, text"):
        kind = f"a {info.model_type!r} model" if info.model_type else "no known model"
        systems = [slug for slug, spec in REGISTRY.items() if spec.column == "image, text"]
        raise CliError(
            f"{checkpoint} is {kind}, not a pair of encoders of images and texts; give a folder that a training of one of "
            f"{', '.join(systems)} wrote. To train one, type: hf-contrastive train clippings."
        )
    with quiet_libraries():
        try:
            processor = AutoProcessor.from_pretrained(checkpoint)
        except (OSError, ValueError) as error:
            raise CliError(
                f"{checkpoint} has no readable processor, so tables cannot be turned into its inputs. The recipe saves it beside the "
                "weights; copy it from there."
            ) from error
        model, loaded = AutoModel.from_pretrained(
            checkpoint, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise CliError(
            f"{checkpoint} lacks {len(missing)} weights of the model, the first is {missing[0]!r}; drawn at random, they would give "
            "meaningless matches. Take another checkpoint."
        )
    return Linker(model.eval().to(target), processor, public_name(checkpoint))


# -------------------------------------------------------------------------------------------------------------- matches


def _matches(left: Any, right: Any, k: int) -> Iterator[tuple[int, tuple[Any, Any]]]:
    """The nearest right records of every left one, by exact cosines, a part at a time."""
    from hf_contrastive.evaluation import nearest_neighbours

    wanted = min(k, len(right))
    for start in range(0, len(left), _CHUNK):
        yield start, nearest_neighbours(left[start : start + _CHUNK], right, k=wanted, exclude_self=False)


def _types(tables: list[_Table], k: int) -> dict[str, str]:
    types: dict[str, str] = {}
    for side, table in zip(("left", "right"), tables, strict=True):
        types[f"{side}_row"] = "int64"
        if table.ids is not None:
            types[f"{side}_id"] = "string"
        if table.texts is not None:
            types[f"{side}_text"] = "string"
    return {**types, **({"rank": "int32"} if k > 1 else {}), "score": "float32"}


def _lines(
    tables: list[_Table], start: int, part: tuple[Any, Any], k: int, threshold: float | None, unmatched: bool
) -> Iterator[dict[str, Any]]:
    """A line for every match; with `unmatched` one without a right record where there is none."""

    def told(side: str, table: _Table, place: int) -> dict[str, Any]:
        line = {f"{side}_row": table.rows[place]["index"]}
        if table.ids is not None:
            line[f"{side}_id"] = table.ids[place]
        if table.texts is not None:
            line[f"{side}_text"] = table.texts[place]
        return line

    numbers = [table.rows.select_columns("index") for table in tables]
    tables = [_Table(rows, table.ids, table.texts) for rows, table in zip(numbers, tables, strict=True)]
    nothing = [name for name in _types(tables, k) if name.startswith("right")]
    for place, (scores, rows) in enumerate(zip(part[0].tolist(), part[1].tolist(), strict=True), start):
        left = told("left", tables[0], place)
        kept = [
            (rank, row, score)
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
            if threshold is None or score > threshold
        ]
        for rank, row, score in kept:
            ranked = {"rank": rank} if k > 1 else {}
            yield {**left, **told("right", tables[1], row), **ranked, "score": round(score, 6)}
        if not kept and unmatched:
            ranked = {"rank": None} if k > 1 else {}
            yield {**left, **dict.fromkeys(nothing), **ranked, "score": round(scores[0], 6)}
