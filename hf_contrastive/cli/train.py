"""`hf-contrastive train`: finds a system's recipe and runs it, in one process or several."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_contrastive.cli.common import CliError, WrongUsage, examples, print_note
from hf_contrastive.cli.info import find_system
from hf_contrastive.registry import get_system


EXAMPLES = examples(
    "hf-contrastive train simclr",
    "hf-contrastive train simclr --help   # the recipe's own options",
    "hf-contrastive train simclr digits --num_train_epochs 5 --output_dir out/try",
    "hf-contrastive train gsimclr --config my.yaml --num-processes 2",
)
SETTINGS = (".yaml", ".yml")


def recipe_folders() -> list[Path]:
    """Where recipes may be: beside the package in a checkout, then where an installation puts them."""
    places = [Path(__file__).resolve().parents[2] / "recipes"]
    schemes = [sysconfig.get_path("data"), sys.prefix]
    with contextlib.suppress(KeyError, AttributeError):
        schemes.append(sysconfig.get_path("data", f"{os.name}_user"))
    places += [Path(scheme) / "share" / "hf_contrastive" / "recipes" for scheme in dict.fromkeys(schemes) if scheme]
    # `pip install --target DIR` puts `share` beside the package
    places.append(Path(__file__).resolve().parents[2] / "share" / "hf_contrastive" / "recipes")
    return places


def find_recipe(slug: str) -> Path:
    """The folder of a system's recipe.

    Args:
        slug (`str`): short name of the system.

    Raises:
        CliError: it is neither beside the package nor installed.
    """
    for place in recipe_folders():
        if (place / slug / "train.py").is_file():
            return place / slug
    raise CliError(
        f"the recipe of {slug!r} is not installed: expected {slug}/train.py in a checkout's recipes folder or in "
        "share/hf_contrastive/recipes of the Python installation. Type: pip install --force-reinstall --no-deps "
        "hf-contrastive, or run it from a checkout of the repository."
    )


def find_settings(recipe: Path, typed: str | None) -> Path | None:
    """The YAML file that `typed` means: a path, or the bare name of one of the recipe's own.

    Args:
        recipe (`Path`): the recipe's folder.
        typed (`str`, *optional*): as typed; without it the recipe's default, when it has one.

    Raises:
        WrongUsage: there is no such file.
    """
    own = sorted(path for path in recipe.iterdir() if path.suffix in SETTINGS)
    if typed is None:
        default = recipe / get_system(recipe.name).default_settings
        return default if default.is_file() else None
    path = Path(typed).expanduser()
    if path.is_file():
        return path
    for candidate in own:
        if typed in (candidate.name, candidate.stem):
            return candidate
    stems = [candidate.stem for candidate in own]
    near = difflib.get_close_matches(path.stem, stems, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise WrongUsage(
        f"no settings {typed!r}: it is neither a file nor one of the recipe's own ({', '.join(stems) or 'it has none'}).{hint}"
    )


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take `--config` and `--num-processes` out of what goes to the recipe.

    Args:
        arguments (`Sequence[str]`): everything after the system.

    Returns:
        The recipe's arguments in order, and `config` and `num_processes` where given.

    Raises:
        WrongUsage: one of the two without a value, or the settings named twice.
    """
    names = {"--config": "config", "--num-processes": "num_processes", "--num_processes": "num_processes"}
    rest: list[str] = []
    own: dict[str, str] = {}
    waiting = list(arguments)
    if waiting and waiting[0] and not waiting[0].startswith("-"):
        own["config"] = waiting.pop(0)
    while waiting:
        argument = waiting.pop(0)
        option, equals, value = argument.partition("=")
        if option not in names:
            rest.append(argument)
            continue
        if not equals:
            if not waiting:
                raise WrongUsage(f"{option} needs a value.")
            value = waiting.pop(0)
        if names[option] in own:
            raise WrongUsage(f"{option} {value} comes after {own[names[option]]!r} was given; name it once.")
        own[names[option]] = value
    return rest, own


def count_processes(typed: str | None) -> int:
    """How many processes to start: what was asked for, or one a CUDA device.

    Raises:
        WrongUsage: not a number of at least 1.
    """
    if typed not in (None, "auto"):
        if not typed.isdigit() or int(typed) < 1:
            raise WrongUsage(f"--num-processes is {typed!r}; expected a number of at least 1, or auto.")
        return int(typed)
    return max(1, _cuda_devices())


def _cuda_devices() -> int:
    # importing torch takes seconds and the recipe does it anyway; without this file there is no CUDA on Linux
    if sys.platform == "linux" and not os.path.exists("/dev/nvidia0") and not os.path.exists("/dev/dxg"):
        return 0
    import torch

    return torch.cuda.device_count()


def build_command(script: Path, arguments: Sequence[str], processes: int) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment that start a recipe.

    Args:
        script (`Path`): the recipe's `train.py`.
        arguments (`Sequence[str]`): for the recipe.
        processes (`int`): how many to start.

    Returns:
        The command, and the environment variables to add.
    """
    if processes == 1:
        extra = {}
        if _cuda_devices() > 1 and "LOCAL_RANK" not in os.environ:
            # one process that sees several devices would run torch's DataParallel, which splits the negatives
            extra["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        return [sys.executable, str(script), *arguments], extra
    # `accelerate launch --cpu --num_processes 2` starts one process only; torchrun starts what it is asked for
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    extra = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))}
    if _cuda_devices() < processes:
        extra["ACCELERATE_USE_CPU"] = "true"
    return [*command, str(script), *arguments], extra


def run(command: Sequence[str], extra: dict[str, str]) -> int:
    """Run a command to its end; Ctrl-C and SIGTERM reach it, and its exit code comes back.

    Args:
        command (`Sequence[str]`): program and arguments.
        extra (`dict`): environment variables to add.

    Returns:
        `int`: the exit code; 128 plus the signal when a signal ended it.
    """
    process = subprocess.Popen(command, env={**os.environ, **extra})
    previous: Any = None
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                # a terminal sends Ctrl-C to the child too: let it save and stop by itself
                continue
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
    return 128 - code if code < 0 else code


def command(
    context: typer.Context,
    system: Annotated[
        str | None,
        typer.Argument(
            metavar="SYSTEM", help="Short name of the system, see hf-contrastive list.", show_default=False
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SETTINGS] [OPTIONS]",
            help="SETTINGS: a YAML file, or the name of one of the recipe's own (default: digits). OPTIONS: any of the recipe.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="YAML file with the settings; the same as SETTINGS.", show_default=False)
    ] = None,
    num_processes: Annotated[
        str, typer.Option(help="Processes to start, also on CPU; auto: one a CUDA device, otherwise one.")
    ] = "auto",
    wants_help: Annotated[
        bool, typer.Option("--help", "-h", help="Show this; behind a SYSTEM: the options of its recipe.")
    ] = False,
) -> None:
    """Train a system with its recipe; options of the recipe override the YAML file."""
    if wants_help or system is None:
        typer.echo(context.get_help(), nl=False)
        raise typer.Exit(0 if wants_help else 2)
    spec = find_system(system)
    rest, own = split_arguments(arguments or [])
    if config is not None and "config" in own:
        raise WrongUsage(f"--config {config} and {own['config']!r} both name settings; name them once.")
    recipe = find_recipe(spec.slug)
    script = recipe / "train.py"
    asks_for_help = any(argument in ("-h", "--help", "--help_all", "--help-all") for argument in rest)
    if asks_for_help:
        code = run([sys.executable, str(script), *rest], {})
    else:
        settings = find_settings(recipe, config or own.get("config"))
        typed = own.get("num_processes") or num_processes
        processes = count_processes(typed)
        shown = "none" if settings is None else settings.name if settings.parent == recipe else str(settings)
        print_note(f"recipe {spec.recipe}/train.py, settings {shown}, {processes} process{'es' * (processes > 1)}")
        code = run(*build_command(script, [*([str(settings)] if settings else []), *rest], processes))
    raise typer.Exit(code)
