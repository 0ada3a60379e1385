"""`hf-contrastive plot`: pictures of a finished or running training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_contrastive.cli.common import CliError, examples, print_line


EXAMPLES = examples("hf-contrastive plot out/simclr-digits", "hf-contrastive plot out/simclr-digits -o pictures")


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Output folder of a training.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the pictures. (default: plots in the run's folder)"),
    ] = None,
) -> None:
    """Draw the curves and embedding pictures of a run, each with the CSV behind it."""
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise CliError(f"no run folder {run}: expected the output folder of a training (its --output_dir).")

    from hf_contrastive.reporting import plot_run

    for picture in plot_run(folder, folder / "plots" if output is None else output.expanduser()):
        print_line(f"{picture.path} ({picture.title}; numbers in {picture.data_path.name})")
