"""`hf-contrastive clones`: a folder of programs in, the most suspicious pairs out."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_contrastive.cli.common import (
    CliError,
    Progress,
    WrongUsage,
    examples,
    give_json,
    print_line,
    print_note,
    print_table,
    quiet_libraries,
    wants_stdout,
    write_text,
)
from hf_contrastive.cli.evaluate import DATA, OUT, SPEED, Device, JsonFile


EXAMPLES = examples(
    "hf-contrastive clones homework/ --checkpoint out/code_clone-programs",
    "hf-contrastive clones homework/ --checkpoint out/code_clone-programs --threshold 0.95 --csv pairs.csv",
    "hf-contrastive clones homework/ --checkpoint out/code_clone-programs --language cpp --top 0 --json -",
)
LANGUAGES = ("auto", "c", "cpp", "python")
MODEL_TYPE = "code_clone"
#: files that are named when they could not be used
NAMED = 10
# pairs of a block of rows that are looked at at a time
_BLOCK = 512


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with source files, folders in it included.")
    ],
    checkpoint: Annotated[str, typer.Option(help="Folder or hub id of a trained code clone model.")],
    top: Annotated[int, typer.Option(min=0, help="Pairs to list, the most similar ones; 0 lists all.")] = 20,
    threshold: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Leave out pairs whose similarity (cosine) is lower.")
    ] = None,
    language: Annotated[
        str,
        typer.Option(help="auto goes by the file's ending; c, cpp or python reads all as that.", rich_help_panel=DATA),
    ] = "auto",
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write the pairs to this file.", rich_help_panel=OUT)
    ] = None,
    json_file: JsonFile = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Programs at a time.", rich_help_panel=SPEED)] = 32,
    device: Device = "auto",
) -> None:
    """Rank all pairs of source files in a folder by how alike they are.

    Files that are no sources are ignored and counted; those that are empty or cannot be read are named.
    """
    if language not in LANGUAGES:
        raise WrongUsage(f"--language is {language!r}; type {', '.join(LANGUAGES[:-1])} or {LANGUAGES[-1]}.")
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise WrongUsage(f"FOLDER is {str(folder)!r}, which is {what}; give a folder with source files.")

    found = find_sources(folder, language)
    if len(found.sources) < 2:
        raise CliError(
            f"{folder} holds {len(found.sources)} readable source file{'' if len(found.sources) == 1 else 's'} "
            f"({found.ignored} other files were ignored{_unusable(found)}); a pair needs two. Files of other endings are read "
            "with --language c, cpp or python."
        )
    encoder = load_clone_encoder(checkpoint, device)
    embeds = embed_sources(encoder, found, batch_size)
    if len(found.sources) < 2:
        raise CliError(f"fewer than two files of {folder} can be read{_unusable(found)}.")
    pairs, total = rank_pairs(embeds, [name for name, _, _ in found.sources], top, threshold)
    show = not wants_stdout(json_file)
    record: dict[str, Any] = {
        "checkpoint": encoder.name,
        "files": len(found.sources),
        "ignored": found.ignored,
        "unusable": [{"file": name, "why": why} for name, why in found.unusable],
        "pairs_in_all": len(found.sources) * (len(found.sources) - 1) // 2,
        "pairs_listed": len(pairs),
        "threshold": threshold,
        "pairs": [
            {"rank": rank, "first": first, "second": second, "similarity": round(value, 6)}
            for rank, (first, second, value) in enumerate(pairs, 1)
        ],
    }
    if show:
        _show(record, total)
    if csv_file is not None:
        csv_file.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, ["rank", "first", "second", "similarity"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(record["pairs"])
        write_text(csv_file, text.getvalue())
        (print_line if show else print_note)(f"wrote {csv_file}: {len(pairs)} pairs")
    give_json(record, json_file)


def _show(record: dict[str, Any], total: int) -> None:
    print_line(f"{record['files']} programs, compared by {record['checkpoint']}", style="bold")
    rows = [
        [str(pair["rank"]), f"{pair['similarity']:.4f}", pair["first"], pair["second"]] for pair in record["pairs"]
    ]
    if rows:
        print_table(["rank", "similarity", "first", "second"], rows, right=("rank", "similarity"))
    reached = "" if record["threshold"] is None else f" with {record['threshold']:g} or more"
    print_line(f"{len(rows)} of {total} pairs{reached}", style="dim")
    if record["ignored"]:
        print_note(f"note: {record['ignored']} files are no source files and were ignored.")
    for one in record["unusable"][:NAMED]:
        print_note(f"note: {one['file']} is left out: {one['why']}.")
    if len(record["unusable"]) > NAMED:
        print_note(f"note: {len(record['unusable']) - NAMED} further files are left out; --json names all.")


def _unusable(found: Sources) -> str:
    names = [f"{name}: {why}" for name, why in found.unusable[:3]]
    return f"; {len(found.unusable)} cannot be used, {'; '.join(names)}" if names else ""


@dataclass
class Sources:
    """What a folder holds: `(name, code, language)` of every source, files that are none, and `(name, why)` of bad ones."""

    sources: list[tuple[str, str, str]] = field(default_factory=list)
    ignored: int = 0
    unusable: list[tuple[str, str]] = field(default_factory=list)


def find_sources(folder: Path, language: str) -> Sources:
    """Read the source files of a folder and of the folders in it; hidden ones are not looked at.

    Args:
        folder (`Path`): where.
        language (`str`): `auto`, or what all files with a known ending and text files are read as.
    """
    from hf_contrastive.data.program_tokens import ENDINGS, program_words
    from hf_contrastive.data.programs import read_source

    found = Sources()
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(place) / name
            ending = file.suffix.lower()
            spoken = ENDINGS.get(ending) if language == "auto" else language
            if spoken is None or name.startswith(".") or (ending not in ENDINGS and ending != ".txt"):
                found.ignored += 1
                continue
            shown = file.relative_to(folder).as_posix()
            try:
                code, whole = read_source(file)
            except OSError as error:
                found.unusable.append((shown, f"it cannot be read ({error.strerror or type(error).__name__})"))
                continue
            if "\x00" in code:
                found.unusable.append((shown, "it is no text"))
            elif not program_words(code, spoken):
                found.unusable.append((shown, "it is empty"))
            else:
                if not whole:
                    print_note(f"note: {shown} holds bytes that are no UTF-8; they are replaced.")
                found.sources.append((shown, code, spoken))
    return found


@dataclass
class CloneEncoder:
    """A loaded model, what turns programs into its inputs, and the name that may be written down."""

    model: Any
    processor: Any
    name: str


def load_clone_encoder(checkpoint: str, device: str = "auto") -> CloneEncoder:
    """Load a code clone model and its processor.

    Args:
        checkpoint (`str`): folder or hub id.
        device (`str`): as `--device`.

    Raises:
        CliError: another model, no processor, missing weights.
        OSError, ValueError: what `check_checkpoint` found wrong.
    """
    import torch
    from transformers import AutoModel

    from hf_contrastive.cli.checkpoints import look_at, pick_device, public_name
    from hf_contrastive.data.program_processor import PROCESSOR_FILE, ProgramProcessor

    target = pick_device(device)
    checkpoint = os.path.expanduser(checkpoint)
    info = look_at(checkpoint)
    if not info.is_adapter and info.model_type != MODEL_TYPE:
        kind = f"a {info.model_type!r} model" if info.model_type else "a model without a model_type"
        raise CliError(
            f"{checkpoint} is {kind}, not a code clone model ({MODEL_TYPE!r}); give a folder that such a training wrote. To "
            f"train one, type: hf-contrastive train {MODEL_TYPE}."
        )
    with quiet_libraries():
        try:
            processor = ProgramProcessor.from_pretrained(checkpoint)
        except OSError as error:
            raise CliError(
                f"{checkpoint} has no {PROCESSOR_FILE}, so programs cannot be turned into its inputs. The recipe saves it beside "
                "the weights; copy it from there."
            ) from error
        model: Any = AutoModel.from_pretrained(checkpoint, dtype=torch.float32, use_safetensors=True)
    if model.config.encoder != processor.encoder:
        raise CliError(
            f"{checkpoint} takes programs as {model.config.encoder!r}, but its {PROCESSOR_FILE} makes {processor.encoder!r}; the "
            "files are of different trainings."
        )
    return CloneEncoder(model.eval().to(target), processor, public_name(checkpoint))


def embed_sources(encoder: CloneEncoder, found: Sources, batch_size: int) -> Any:
    """Embeddings of length 1 of all sources; those that the encoder cannot read move to the unusable ones.

    Args:
        encoder ([`CloneEncoder`]): of [`load_clone_encoder`].
        found ([`Sources`]): of [`find_sources`]; changed in place.
        batch_size (`int`): programs at a time.

    Returns:
        `torch.Tensor` `[programs, dim]`.
    """
    import torch

    from hf_contrastive.data.program_syntax import UnusableProgram

    kept, features = [], []
    for source in found.sources:
        try:
            features.append(encoder.processor.features(source[1], source[2]))
            kept.append(source)
        except UnusableProgram as error:
            found.unusable.append((source[0], str(error)))
    found.sources = kept
    device = next(encoder.model.parameters()).device
    parts = []
    with Progress("reading programs", len(kept), unit="programs") as progress:
        for start in range(0, len(kept), batch_size):
            batch = encoder.processor.pad(features[start : start + batch_size])
            named = {name: value.to(device) for name, value in batch.items()}
            parts.append(encoder.model.encode(**named, normalize=True).double().cpu())
            progress.advance(len(parts[-1]))
    embeds = torch.cat(parts) if parts else torch.zeros(0, 1)
    bad = [name for (name, _, _), row in zip(kept, embeds, strict=True) if not bool(torch.isfinite(row).all())]
    if bad:
        raise CliError(
            f"the embedding of {bad[0]} holds NaN or infinity; the training of {encoder.name} diverged. Take an earlier checkpoint."
        )
    return embeds


def rank_pairs(
    embeds: Any, names: list[str], top: int, threshold: float | None
) -> tuple[list[tuple[str, str, float]], int]:
    """The most similar pairs, of equal ones the first names first, and how many pairs reach the threshold.

    Args:
        embeds (`torch.Tensor` `[programs, dim]`): of length 1.
        names (`list[str]`): of the programs.
        top (`int`): pairs to give; 0 for all.
        threshold (`float`, *optional*): lowest similarity.
    """
    import torch

    values, places, total = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long), 0
    count = len(embeds)
    for start in range(0, count, _BLOCK):
        block = embeds[start : start + _BLOCK] @ embeds.T
        rows = torch.arange(start, start + len(block))[:, None]
        wanted = torch.arange(count)[None, :] > rows
        if threshold is not None:
            wanted &= block >= threshold - 1e-9
        total += int(wanted.sum())
        # rounded, so that copies of one program do not rank by the noise of the last digits
        values = torch.cat([values, (block[wanted] * 1e6).round() / 1e6])
        places = torch.cat([places, (rows * count + torch.arange(count))[wanted]])
        order = values.argsort(descending=True, stable=True)
        order = order[:top] if top else order
        values, places = values[order], places[order]
    pairs = [
        (names[place // count], names[place % count], min(1.0, value))
        for place, value in zip(places.tolist(), values.tolist(), strict=True)
    ]
    return pairs, total
