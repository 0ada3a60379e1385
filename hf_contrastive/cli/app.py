"""Puts the commands together; imports only typer, rich and the registry."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_contrastive.cli import (
    clones,
    embed,
    env,
    evaluate,
    export,
    filter,
    generate,
    index,
    info,
    link,
    list_systems,
    plot,
    recommend,
    score,
    train,
)
from hf_contrastive.cli.common import ExampleCommand, ExampleGroup, examples
from hf_contrastive.version import __version__


LOOK = "Look around"
WORK = "Train and use"
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


def split_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Take `--debug` out wherever it stands, except behind `train`, where it belongs to the recipe.

    Args:
        arguments (`list[str]`): as typed.

    Returns:
        The arguments without it, and whether it was there.
    """
    end = arguments.index("train") if "train" in arguments else len(arguments)
    own = arguments[:end]
    return [argument for argument in own if argument != "--debug"] + arguments[end:], "--debug" in own


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf-contrastive {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (also: HF_CONTRASTIVE_DEBUG=1).")
    ] = False,
) -> None:
    """Contrastive learning for the Hugging Face stack: train, embed, evaluate, look."""


def build_app() -> typer.Typer:
    """The typer application with all commands."""
    app = typer.Typer(
        name="hf-contrastive",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings=HELP_NAMES,
        add_completion=True,
    )
    app.callback(
        cls=ExampleGroup,
        epilog=examples(
            "hf-contrastive list",
            "hf-contrastive train simclr digits",
            "hf-contrastive embed out/simclr-digits digits -o digits.parquet",
            "hf-contrastive evaluate knn out/simclr-digits digits",
            "hf-contrastive COMMAND --help",
        ),
    )(_root)
    app.command("list", cls=ExampleCommand, rich_help_panel=LOOK, epilog=list_systems.EXAMPLES)(list_systems.command)
    app.command("info", cls=ExampleCommand, rich_help_panel=LOOK, epilog=info.EXAMPLES)(info.command)
    app.command("env", cls=ExampleCommand, rich_help_panel=LOOK, epilog=env.EXAMPLES)(env.command)
    app.command(
        "train",
        cls=ExampleCommand,
        rich_help_panel=WORK,
        epilog=train.EXAMPLES,
        # everything behind the system, `--help` included, is the recipe's
        context_settings={"help_option_names": [], "ignore_unknown_options": True, "allow_interspersed_args": False},
    )(train.command)
    app.command("embed", cls=ExampleCommand, rich_help_panel=WORK, epilog=embed.EXAMPLES)(embed.command)
    app.command("export", cls=ExampleCommand, rich_help_panel=WORK, epilog=export.EXAMPLES)(export.command)
    app.add_typer(index.build(), name="index", rich_help_panel=WORK)
    app.add_typer(evaluate.build(), name="evaluate", rich_help_panel=WORK)
    app.command("score", cls=ExampleCommand, rich_help_panel=WORK, epilog=score.EXAMPLES)(score.command)
    app.command("generate", cls=ExampleCommand, rich_help_panel=WORK, epilog=generate.EXAMPLES)(generate.command)
    app.command("filter", cls=ExampleCommand, rich_help_panel=WORK, epilog=filter.EXAMPLES)(filter.command)
    app.command("clones", cls=ExampleCommand, rich_help_panel=WORK, epilog=clones.EXAMPLES)(clones.command)
    app.command("link", cls=ExampleCommand, rich_help_panel=WORK, epilog=link.EXAMPLES)(link.command)
    app.command("recommend", cls=ExampleCommand, rich_help_panel=WORK, epilog=recommend.EXAMPLES)(recommend.command)
    app.command("plot", cls=ExampleCommand, rich_help_panel=WORK, epilog=plot.EXAMPLES)(plot.command)
    return app
