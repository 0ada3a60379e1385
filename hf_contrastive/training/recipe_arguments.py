"""Arguments of a recipe: a YAML file first, the command line over it, every value cast to its field's type."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml


# Of the hundred and more fields of `TrainingArguments`: what a run usually sets. `--help_all` shows the rest.
COMMON_TRAINING_FIELDS = (
    *("output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim", "max_grad_norm", "seed"),
    *("bf16", "use_cpu", "dataloader_num_workers", "logging_steps", "eval_strategy", "eval_steps", "save_strategy"),
    *("save_steps", "save_total_limit", "load_best_model_at_end", "metric_for_best_model", "report_to"),
    *("resume_from_checkpoint", "push_to_hub", "hub_model_id"),
)

_YES, _NO, _NONE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}, {"none", "null", "~", ""}


class RecipeArgumentError(ValueError):
    """A recipe's file or command line holds something that no field takes."""


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-3` is a number; `no`, `off`, `yes`, `on` are words (`eval_strategy: no`).

    A key given twice is an error: plain YAML silently takes the last one.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def load_yaml(text: str) -> Any:
    """Read YAML as recipes read it: no code, `1e-3` is a number, a key given twice is an error.

    Args:
        text (`str`): the YAML.

    Returns:
        what it holds.

    Raises:
        yaml.YAMLError: if it is not valid, or a mapping gives a key twice.

    Example:
        >>> load_yaml("learning_rate: 1e-3")
        {'learning_rate': 0.001}
    """
    return yaml.load(text, _Loader)


def cast_value(value: Any, annotation: Any) -> Any:
    """Turn a value from YAML or the command line into the type of a field.

    Args:
        value: a string, or what YAML made of it.
        annotation: the field's type: `int`, `float | None`, `list[str]`, `dict`, an enum, `Literal`, ...

    Returns:
        The value in that type.

    Raises:
        ValueError: it cannot be; the message says what was expected.

    Example:

    ```python
    >>> from hf_contrastive.training.recipe_arguments import cast_value
    >>> cast_value("1e-3", float), cast_value("8", int | None), cast_value("a,b", list[str]), cast_value("no", bool)
    (0.001, 8, ['a', 'b'], False)

    ```
    """
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _cast_union(value, members)
    if origin is typing.Literal:
        for member in members:
            if value == member or str(value) == str(member):
                return member
        raise ValueError(f"one of {', '.join(map(str, members))}")
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        names = [str(member.value) for member in annotation]
        if isinstance(value, annotation):
            return value
        if str(value) in names:
            return annotation(next(member.value for member in annotation if str(member.value) == str(value)))
        raise ValueError(f"one of {', '.join(names)}")
    if annotation in (list, tuple) or origin in (list, tuple):
        return _cast_list(value, (members or (Any,))[0], tuple if tuple in (annotation, origin) else list)
    if annotation is dict or origin is dict:
        return _cast_dict(value)
    if annotation is bool:
        return _cast_bool(value)
    if annotation in (int, float):
        return _cast_number(value, annotation)
    if annotation is str:
        if isinstance(value, (dict, list)) or value is None:
            raise ValueError("text")
        return str(value).lower() if isinstance(value, bool) else str(value)
    if annotation is Path:
        return Path(value)
    return value


def _cast_union(value: Any, members: tuple[Any, ...]) -> Any:
    # "none" is also a word that text fields such as `report_to` take
    says_none = isinstance(value, str) and value.strip().lower() in _NONE and str not in members
    if type(None) in members and (value is None or says_none):
        return None
    rest = [member for member in members if member is not type(None)]
    if not isinstance(value, str) and type(value) in rest:
        return value
    # strict types first; text takes anything and comes last
    order = [bool, int, float]
    rest.sort(key=lambda member: order.index(member) if member in order else 10 if member is str else 5)
    expected = []
    for member in rest:
        if len(rest) > 1 and isinstance(value, str):
            container = member in (list, tuple, dict) or typing.get_origin(member) in (list, tuple, dict)
            if (container and str in rest and not value.strip().startswith(("[", "{"))) or (
                member is bool and value.strip() in ("0", "1")
            ):
                continue
        try:
            return cast_value(value, member)
        except ValueError as error:
            expected.append(str(error))
    raise ValueError(" or ".join(dict.fromkeys(expected)) + (" or none" if type(None) in members else ""))


def _cast_list(value: Any, member: Any, make: type) -> Any:
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            value = load_yaml(text)
        else:
            value = [part.strip() for part in text.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        value = [value]
    return make(cast_value(part, member) for part in value)


def _cast_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.strip().startswith("{"):
        try:
            value = load_yaml(value)
        except yaml.YAMLError:
            raise ValueError("a mapping, on the command line as JSON: '{\"key\": value}'") from None
    if not isinstance(value, dict):
        raise ValueError("a mapping, on the command line as JSON: '{\"key\": value}'")
    return value


def _cast_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if isinstance(value, (str, int)) and text in _YES | _NO:
        return text in _YES
    raise ValueError("true or false")


def _cast_number(value: Any, kind: type) -> Any:
    expected = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(expected)
    try:
        number = int(value) if isinstance(value, (int, str)) and kind is int else float(value)
    except ValueError:
        try:
            number = float(value)
        except ValueError:
            raise ValueError(expected) from None
    if kind is int and number != int(number):
        raise ValueError(expected)
    return kind(number)


@dataclasses.dataclass
class _Option:
    name: str
    group: type
    annotation: Any
    field: dataclasses.Field
    common: bool


def _title(group: type) -> str:
    title = getattr(group, "_group_title", None) or (group.__doc__ or group.__name__).strip().splitlines()[0]
    return "Training" if _is_training(group) and not hasattr(group, "_group_title") else title.rstrip(".")


def _is_training(group: type) -> bool:
    return any(base.__name__ == "TrainingArguments" for base in group.__mro__)


def _section_names(group: type) -> set[str]:
    short = re.sub(r"Arguments$|Config$", "", group.__name__)
    names = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in (short, group.__name__)}
    # the whole title, and what stands before its colon: "data: where the texts come from" is the section `data`
    for title in (_title(group), _title(group).partition(":")[0]):
        names.add(re.sub(r"\W+", "_", title.lower()).strip("_"))
    return names | ({"training"} if _is_training(group) else set())


def _collect(groups: Sequence[type]) -> dict[str, _Option]:
    options: dict[str, _Option] = {}
    for group in cast("Sequence[Any]", groups):
        hints = typing.get_type_hints(group)
        inherited: set[str] = set()
        for base in group.__mro__[1:]:
            if base.__name__ == "TrainingArguments":
                inherited = {field.name for field in dataclasses.fields(base)}
        for field in dataclasses.fields(group):
            if not field.init:
                continue
            if field.name in options:
                owner = options[field.name].group.__name__
                raise ValueError(f"field {field.name!r} is in both {owner} and {group.__name__}; rename one.")
            own = field.name not in inherited or not _is_training(group)
            common = own or field.name in COMMON_TRAINING_FIELDS
            options[field.name] = _Option(field.name, group, hints.get(field.name, field.type), field, common)
    return options


def _unknown(name: str, options: dict[str, _Option], where: str) -> RecipeArgumentError:
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "--help_all lists all fields."
    return RecipeArgumentError(f"{where}: there is no field {name!r}; {hint}")


def _read_file(path: Path, options: dict[str, _Option], groups: Sequence[type]) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise RecipeArgumentError(f"there is no file {path}" + (f"; beside it: {', '.join(near)}" if near else ""))
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeArgumentError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise RecipeArgumentError(f"{path}: expected `field: value` lines, found a {type(content).__name__}.")
    sections = {name: group for group in groups for name in _section_names(group)}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in options and name in sections and isinstance(value, dict):
            for inner, inner_value in value.items():
                inner_name = str(inner).replace("-", "_")
                if inner_name not in options:
                    raise _unknown(inner_name, options, f"{path}, section {key}")
                _add(flat, inner_name, inner_value, str(path))
        elif name in options:
            _add(flat, name, value, str(path))
        else:
            raise _unknown(name, options, str(path))
    return {name: _cast(options[name], value, str(path)) for name, value in flat.items()}


def _add(flat: dict[str, Any], name: str, value: Any, where: str) -> None:
    if name in flat:
        raise RecipeArgumentError(f"{where}: the field {name!r} is given twice.")
    flat[name] = value


def _cast(option: _Option, value: Any, where: str) -> Any:
    try:
        return cast_value(value, option.annotation)
    except ValueError as error:
        raise RecipeArgumentError(f"{where}: {option.name} is {value!r}, expected {error}.") from None


def _is_value(token: str) -> bool:
    return not token.startswith("--") and (not re.match(r"-[A-Za-z]", token))


def _read_command_line(tokens: list[str], options: dict[str, _Option]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if not token.startswith("--"):
            raise RecipeArgumentError(
                f"command line: {token!r} belongs to no option; options are written --name value."
            )
        name, equals, text = token[2:].partition("=")
        name = name.replace("-", "_")
        given = [text] if equals else []
        while not equals and position < len(tokens) and _is_value(tokens[position]):
            given.append(tokens[position])
            position += 1
        if name not in options and name.startswith("no_") and name[3:] in options and not given:
            name, given = name[3:], ["false"]
        if name not in options:
            raise _unknown(name, options, "command line")
        option = options[name]
        if not given:
            if not _takes(option.annotation, bool):
                raise RecipeArgumentError(f"command line: --{name} needs a value.")
            given = ["true"]
        if len(given) > 1 and not (_takes(option.annotation, list) or _takes(option.annotation, tuple)):
            raise RecipeArgumentError(f"command line: --{name} takes one value, got {len(given)}: {' '.join(given)}.")
        values[name] = _cast(option, given if len(given) > 1 else given[0], "command line")
    return values


def _takes(annotation: Any, kind: type) -> bool:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_takes(member, kind) for member in typing.get_args(annotation))
    return annotation is kind or typing.get_origin(annotation) is kind


def parse_recipe_arguments(
    dataclass_types: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str = "",
    example: str = "",
) -> tuple[Any, ...]:
    """Read `train.py [file.yaml] [--field value ...]` into dataclasses.

    The file holds `field: value` lines, flat or in one section per dataclass; the command line wins over the file, also
    when it repeats a default. Dashes and underscores mean the same, `--flag` alone is true, `--no_flag` is false, lists
    are `a b`, `a,b` or `[a, b]`, mappings are JSON. `--help` shows the usual fields in groups, `--help_all` all.

    Args:
        dataclass_types (`Sequence[type]`): dataclasses with distinct field names; the group title is `_group_title` or
            the first line of the docstring, the help of a field is its metadata `help`.
        argv (`Sequence[str]`, *optional*): arguments; those of the process by default.
        prog (`str`, *optional*): name shown in the help.
        description, example (`str`): shown at the top and at the end of the help.

    Returns:
        `tuple`: one instance per dataclass, in their order.

    Raises:
        SystemExit: with code 0 after help, with code 2 after an error (printed to stderr).

    Example:

    ```python
    >>> from dataclasses import dataclass
    >>> from hf_contrastive.training import parse_recipe_arguments
    >>> @dataclass
    ... class DataArguments:
    ...     size: int = 32
    >>> parse_recipe_arguments((DataArguments,), ["--size", "64"])[0].size
    64

    ```
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    prog = prog or Path(sys.argv[0]).name
    options = _collect(dataclass_types)
    asked = {token.replace("-", "_") for token in tokens}
    if asked & {"__help", "_h", "__help_all"}:
        print(
            help_text(dataclass_types, prog=prog, description=description, example=example, full="__help_all" in asked)
        )
        raise SystemExit(0)
    try:
        values: dict[str, Any] = {}
        if tokens and tokens[0] == "--config" and len(tokens) > 1:
            tokens = tokens[1:]
        if tokens and not tokens[0].startswith("-"):
            values = _read_file(Path(tokens.pop(0)), options, dataclass_types)
        values.update(_read_command_line(tokens, options))
        return tuple(_build(group, values, options) for group in dataclass_types)
    except (ValueError, TypeError) as error:
        print(f"{prog}: error: {error}\n(for the fields and an example: {prog} --help)", file=sys.stderr)
        raise SystemExit(2) from None


def _build(group: type, values: dict[str, Any], options: dict[str, _Option]) -> Any:
    for option in options.values():
        field = option.field
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if option.group is group and required and option.name not in values:
            raise RecipeArgumentError(f"--{option.name} is needed: {_help(option) or 'it has no default'}")
    return group(**{name: value for name, value in values.items() if options[name].group is group})


def _help(option: _Option, full: bool = True) -> str:
    text = " ".join(str(option.field.metadata.get("help", "")).split())
    first, stop, _ = text.partition(". ")
    return text if full else first + stop.strip()


def _type_name(annotation: Any) -> str:
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return "|".join(dict.fromkeys(_type_name(member) for member in members if member is not type(None)))
    if origin is typing.Literal:
        return "|".join(map(str, members))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "name"
    if origin in (list, tuple):
        return f"{_type_name(members[0]) if members else 'value'} ..."
    names = {bool: "true|false", int: "int", float: "float", str: "text", dict: "json", list: "value ..."}
    return names.get(annotation, "value")


def _default(option: _Option) -> str:
    field = option.field
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "needed"
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, (dict, list)):
        return f"default: {json.dumps(value, default=str)}"
    if value is None or isinstance(value, bool):
        value = str(value).lower()
    return f"default: {value}"


def help_text(
    dataclass_types: Sequence[type], *, prog: str, description: str = "", example: str = "", full: bool = False
) -> str:
    """The text of `--help` (or of `--help_all` with `full=True`); arguments as in [`parse_recipe_arguments`]."""
    width = max(60, min(shutil.get_terminal_size((100, 20)).columns, 119))
    lines = [f"usage: {prog} [FILE.yaml] [--field value ...]", ""]
    lines += [*textwrap.wrap(description, width), ""] if description else []
    hidden = 0
    options = _collect(dataclass_types)
    for group in dataclass_types:
        lines.append(f"{_title(group)}:")
        for option in options.values():
            if option.group is not group:
                continue
            if not (full or option.common):
                hidden += 1
                continue
            lines.append(f"  --{option.name} {_type_name(option.annotation)}  ({_default(option)})")
            lines += textwrap.wrap(_help(option, full), width, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines.append("")
    if hidden:
        lines += [f"{hidden} further fields of transformers.TrainingArguments: --help_all", ""]
    lines += ["The command line wins over the file; --flag is true, --no_flag is false, dashes equal underscores."]
    lines += ["", "example:", textwrap.indent(example.strip(), "  ")] if example else []
    return "\n".join(lines)
