"""`hf-contrastive info`: one system and the fields of its configuration."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from hf_contrastive.cli.common import WrongUsage, examples, print_json, print_line, print_table


if TYPE_CHECKING:
    from hf_contrastive.registry import SystemSpec

EXAMPLES = examples("hf-contrastive info simclr", "hf-contrastive info gsimclr --json")


def find_system(slug: str) -> SystemSpec:
    """The row of a system, or a usage error that names the nearest ones.

    Args:
        slug (`str`): as typed.

    Raises:
        WrongUsage: no such system.
    """
    from hf_contrastive.registry import REGISTRY

    if slug not in REGISTRY:
        near = difflib.get_close_matches(slug.lower(), REGISTRY, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise WrongUsage(
            f"unknown system {slug!r}; {hint}The systems are: {', '.join(REGISTRY)} (hf-contrastive list)."
        )
    return REGISTRY[slug]


_ENTRY = re.compile(r"^(?P<names>\w+(?:, \w+)*) \((?P<type>[^:]*?(?:\([^)]*\)[^:]*?)*)\):(?P<text>.*)$")


def parse_arguments(docstring: str | None) -> dict[str, dict[str, str]]:
    """The `Args:` section of a docstring.

    Args:
        docstring (`str`, *optional*): in the form of this library.

    Returns:
        `dict`: argument to `{"type", "meaning"}`, in order.

    Example:

    ```python
    >>> from hf_contrastive.cli.info import parse_arguments
    >>> text = "A class.\\n\\nArgs:\\n    k (`int`, defaults to 5): neighbours\\n        that vote."
    >>> parse_arguments(text)["k"]["meaning"]
    'neighbours that vote.'

    ```
    """
    lines = inspect.cleandoc(docstring or "").splitlines()
    if "Args:" not in lines:
        return {}
    found: dict[str, dict[str, str]] = {}
    current: list[dict[str, str]] = []
    indent = None
    for line in lines[lines.index("Args:") + 1 :]:
        if line.strip() and not line.startswith(" "):
            break
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip()) if indent is None else indent
        entry = _ENTRY.match(line.strip()) if len(line) - len(line.lstrip()) == indent else None
        if entry:
            current = []
            for name in entry["names"].split(", "):
                # `list[int]`, defaults to ... -> list[int]
                found[name] = {"type": re.split(r", (?:\*optional\*|defaults)", entry["type"])[0].replace("`", "")}
                found[name]["meaning"] = entry["text"].strip()
                current.append(found[name])
        else:
            for item in current:
                item["meaning"] = f"{item['meaning']} {line.strip()}".strip()
    return found


def _shown(value: Any) -> Any:
    if hasattr(value, "to_diff_dict"):
        return value.model_type
    return value


def config_fields(config_class: Any) -> list[dict[str, Any]]:
    """Fields of a configuration class, own ones and those of its family, with meaning and default.

    Args:
        config_class (`type`): a `PreTrainedConfig` of this library.

    Returns:
        `list[dict]`: `name`, `type`, `meaning`, `default`, in the order of the docstrings.
    """
    from transformers import PreTrainedConfig

    documented: dict[str, dict[str, str]] = {}
    for cls in config_class.__mro__:
        if cls is PreTrainedConfig:
            break
        for name, entry in parse_arguments(cls.__doc__ if "__doc__" in vars(cls) else None).items():
            documented.setdefault(name, entry)
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    own = {field.name: field for field in dataclasses.fields(config_class) if field.name not in common}
    defaults = config_class()
    order = [name for name in documented if name in own] + [name for name in own if name not in documented]
    rows = []
    for name in order:
        entry = documented.get(name, {})
        rows.append(
            {
                "name": name,
                "type": entry.get("type") or str(own[name].type),
                "meaning": entry.get("meaning", "").replace("`", ""),
                "default": _shown(getattr(defaults, name)),
            }
        )
    return rows


def command(
    system: Annotated[
        str, typer.Argument(metavar="SYSTEM", help="Short name of the system, see hf-contrastive list.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Explain one system: paper, classes, recipe, and every field of its configuration."""
    spec = find_system(system)
    models: list[dict[str, Any]] = []
    for model in spec.models:
        names = [reference.partition(":")[2] for reference in (model.model, model.pretraining) if reference]
        fields = config_fields(model.config_class())
        config_name = model.config.partition(":")[2]
        models.append({"model_type": model.model_type, "config": config_name, "classes": names, "fields": fields})
    if as_json:
        facts = ("slug", "title", "summary", "domain", "task", "status", "paper_title", "paper_url", "year", "bibtex")
        print_json({**{name: getattr(spec, name) for name in facts}, "recipe": spec.recipe, "models": models})
        return
    print_line(f"{spec.title} ({spec.slug}), {spec.status}", style="bold")
    print_line(spec.summary)
    print_line()
    print_table(
        None,
        [
            ["paper", f"{spec.paper_title} ({spec.year})"],
            ["", spec.paper_url],
            ["for", f"{spec.domain}; {spec.task}"],
            ["input", f"{spec.main_input}, from the dataset column {spec.column}"],
            ["import", f"from hf_contrastive import {', '.join([models[0]['config'], *models[0]['classes']])}"],
            ["recipe", f"{spec.recipe}/train.py"],
            ["train", f"hf-contrastive train {spec.slug}"],
            ["options", f"hf-contrastive train {spec.slug} --help"],
        ],
    )
    for model in models:
        print_line()
        print_line(
            f"{model['config']} (model type {model['model_type']}: {', '.join(model['classes'])})", style="bold"
        )
        _print_fields(model["fields"])


def _print_fields(fields: list[dict[str, Any]]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal or console.width >= 120:
        print_table(
            ["field", "type", "default", "meaning"],
            [[row["name"], row["type"], repr(row["default"]), row["meaning"]] for row in fields],
            styles={"field": "cyan"},
            no_wrap=("field",),
        )
        return
    for row in fields:  # four columns in 80 characters leave no room to read the last
        head = Text.assemble((row["name"], "cyan"), f" ({row['type']}, default {row['default']!r})")
        console.print(head)
        console.print(Padding(Text(row["meaning"]), (0, 0, 0, 4)))
