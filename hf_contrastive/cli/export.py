"""`hf-contrastive export`: a trained model for programs that do not have this library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_contrastive.cli.common import CliError, WrongUsage, examples, print_line, quiet_libraries


EXAMPLES = examples(
    "hf-contrastive export out/simclr-digits encoder",
    "hf-contrastive export out/convirt-glyphs text-encoder --to sentence-transformers",
    "hf-contrastive export out/convirt-glyphs graphs --to onnx",
    "hf-contrastive export out/convirt-glyphs vision --part vision_model",
)
KINDS = ("backbone", "sentence-transformers", "onnx")


def command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder or hub id of a trained model.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; must not exist yet.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="backbone (the bare encoder, as plain transformers loads it), sentence-transformers (a text encoder with pooling and "
            "projection) or onnx (the graphs of both sides).",
        ),
    ] = "backbone",
    part: Annotated[
        str | None,
        typer.Option(help="Of a model with several encoders: vision_model or text_model for --to backbone."),
    ] = None,
) -> None:
    """Write a trained model in the form of another program; the vectors stay the same."""
    if to not in KINDS:
        raise WrongUsage(f"--to is {to!r}; type one of {', '.join(KINDS)}.")
    if part is not None and to != "backbone":
        raise WrongUsage(f"--part chooses the encoder of --to backbone; leave it out with --to {to}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CliError(f"{folder} exists; nothing was written. Type another folder.")

    from hf_contrastive.cli.checkpoints import load_encoder
    from hf_contrastive.hub import export_backbone, export_onnx, export_sentence_transformers

    encoder = load_encoder(checkpoint, "cpu")
    if to == "backbone":
        try:
            with quiet_libraries():
                report = export_backbone(encoder.model, folder, processor=encoder.processor, part=part)
        except ValueError as error:
            raise CliError(f"{error} Type --part with one of them.") from error
        print_line(f"wrote {folder}: a {report.model_type} encoder")
        print_line(report.load)
        return
    processor = _processor(checkpoint, encoder)
    try:
        with quiet_libraries():
            if to == "onnx":
                for path in export_onnx(encoder.model, folder, processor):
                    print_line(f"wrote {path}: compared with the model")
            else:
                export_sentence_transformers(encoder.model, folder, processor)
                print_line(f"wrote {folder}: open it with SentenceTransformer({folder.name!r})")
    except (ValueError, RuntimeError) as error:
        raise CliError(str(error)) from error


def _processor(checkpoint: str, encoder: object) -> object:
    """Image processor and tokenizer of a dual encoder."""
    from transformers import AutoProcessor

    from hf_contrastive.families.dual_encoder.modeling_dual_encoder import DualEncoderModel

    model = getattr(encoder, "model", None)
    if not isinstance(model, DualEncoderModel):
        kind = f"{checkpoint} is a {type(model).__name__}"
        if hasattr(model, "text_model"):
            raise CliError(
                f"{kind}, whose texts have no space of their own: it makes one vector of picture and text. Its encoders alone: type "
                "--to backbone --part vision_model, or --part text_model."
            )
        raise CliError(f"{kind}, which has no text encoder; type --to backbone for its image encoder.")
    with quiet_libraries():
        try:
            return AutoProcessor.from_pretrained(checkpoint)
        except (OSError, ValueError) as error:
            raise CliError(
                f"{checkpoint} has no readable processor ({error}); the recipes save it beside the weights."
            ) from error
