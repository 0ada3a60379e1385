"""`hf-contrastive recommend`: the best items for users of a recommender's log, or for somebody new."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_contrastive.cli.common import (
    CliError,
    Progress,
    WrongUsage,
    examples,
    print_json,
    print_line,
    print_note,
    print_table,
    quiet_libraries,
)
from hf_contrastive.cli.evaluate import OUT, Device
from hf_contrastive.cli.rows_file import RowsFile, check_rows_file


EXAMPLES = examples(
    "hf-contrastive recommend out/lightgcn-planted --user 17 --user 99 --k 5",
    "hf-contrastive recommend out/lightgcn-ml-100k --user 196 --titles ml-100k/ml-100k.item",
    "hf-contrastive recommend out/lightgcn-planted --history 3 --history 41 --json",
    "hf-contrastive recommend out/mf-planted --users-file users.txt -o lists.parquet",
)
LIST, TITLES = "Lists", "Titles"
NEW = "new user"
#: names under which titles are found when the user names no column
TITLE_COLUMNS = ("title", "item_title", "movie_title", "product_title", "name", "item_name")
# users at a time: their lists are written before the next ones are made
_CHUNK = 10_000


def command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder or hub id of a recommender.")],
    user: Annotated[list[str] | None, typer.Option(help="A user of the log; may be given several times.")] = None,
    users_file: Annotated[Path | None, typer.Option(help="Text file with users of the log, one a line.")] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(help="Instead: an item that somebody new has chosen; may be given several times."),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Items for each user.", rich_help_panel=LIST)] = 10,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="An item that nobody gets; may be given several times.", rich_help_panel=LIST),
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Also offer what a user already has.", rich_help_panel=LIST)
    ] = False,
    titles: Annotated[
        Path | None,
        typer.Option(help="File with a title for each item: .item, .csv, .jsonl or .parquet.", rich_help_panel=TITLES),
    ] = None,
    title_column: Annotated[
        str | None, typer.Option(help="Column of the titles. (default: found by itself)", rich_help_panel=TITLES)
    ] = None,
    item_column: Annotated[
        str | None, typer.Option(help="Column of the items. (default: found by itself)", rich_help_panel=TITLES)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write to this file, .jsonl, .csv or .parquet, one line an item.",
            rich_help_panel=OUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.", rich_help_panel=OUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=OUT)
    ] = False,
    device: Device = "auto",
) -> None:
    """List the best items for users of the log, or for somebody new.

    What they have, in training or by --history, is left out. Somebody new needs MF, LightGCN, SGL, SimGCL or BM3.
    """
    users = _users(user, users_file, history)
    check_rows_file(output, overwrite, "lists.csv")
    if titles is None and (title_column or item_column):
        raise WrongUsage("--title-column and --item-column say where to look in the file of --titles; give that, too.")
    rows = None if titles is None else _open_titles(titles, title_column, item_column)
    recommender = load_recommender(checkpoint, device)
    if history is None and not include_seen and not recommender.model.history.is_set:
        raise CliError(
            f"{recommender.name} does not say what users have (saved without histories); type --include-seen, and leave out what "
            "they have yourself."
        )
    named = None if rows is None else _read_titles(rows, recommender.model)
    settings = {"k": k, "exclude_seen": not include_seen, "exclude": recommender.ids(exclude or [], "item")}
    chosen = None if history is None else recommender.ids(history, "item")
    told: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        writer = progress = None
        if output is not None:
            writer = stack.enter_context(_writer(output, recommender.model, named is not None))
            progress = stack.enter_context(Progress("recommending", len(users), unit="users"))
        for start in range(0, len(users), _CHUNK):
            part = users[start : start + _CHUNK]
            lists = _lists(recommender, part, chosen, settings, named)
            if writer is None or as_json:
                told += lists
            if writer is not None and progress is not None:
                writer.write({"user": one["user"], **item} for one in lists for item in one["items"])
                progress.advance(len(part))
    if as_json:
        about = {"checkpoint": recommender.name, **settings}
        print_json({**about, **({} if chosen is None else {"history": chosen}), "users": told})
    elif writer is None:
        _show(told, chosen, named is not None)
        _tell(told, k, titles)
    if writer is not None:
        (print_note if as_json else print_line)(f"wrote {output}: {writer.lines} lines for {len(users)} users")


def _users(user: Sequence[str] | None, users_file: Path | None, history: Sequence[str] | None) -> list[str]:
    """Whom to recommend to, each once, in the order given."""
    given = user is not None or users_file is not None
    if given == (history is not None):
        seen = "--history goes with neither --user nor --users-file" if given else "there is nobody to recommend to"
        raise WrongUsage(
            f"{seen}; type --user NAME or --users-file FILE for users of the log, or --history ITEM for somebody new."
        )
    if history is not None:
        return [NEW]
    found = list(user or [])
    if users_file is not None:
        try:
            lines = users_file.expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise WrongUsage(f"--users-file {users_file} cannot be read: {why}.") from error
        lines = [line.strip() for line in lines if line.strip()]
        if not lines:
            raise WrongUsage(f"--users-file {users_file} holds no user; write one a line.")
        found += lines
    return list(dict.fromkeys(found))


# ---------------------------------------------------------------------------------------------------------------- model


@dataclass
class Recommender:
    """A loaded recommender, and the name that may be written down."""

    model: Any
    name: str

    def ids(self, typed: Sequence[str], kind: str) -> list[Any]:
        """Users or items as the model knows them: by token, or by number where it has none.

        Args:
            typed (`Sequence[str]`): from the command line.
            kind (`str`): `user` or `item`.
        """
        if getattr(self.model, f"{kind}_tokens") is not None:
            return list(typed)
        bad = next((text for text in typed if not (text.isascii() and text.isdigit())), None)
        if bad is not None:
            rows = getattr(self.model.config, f"num_{kind}s")
            raise CliError(
                f"unknown {kind} {bad!r}: {self.name} has no names of {kind}s, they are numbers from 0 to {rows - 1}."
            )
        return [int(text) for text in typed]


def load_recommender(checkpoint: str, device: str = "auto") -> Recommender:
    """Load a recommender of any system.

    Args:
        checkpoint (`str`): folder or hub id.
        device (`str`): as `--device`.

    Raises:
        CliError: another kind of model, or missing weights.
        OSError, ValueError: what `check_checkpoint` found wrong.
    """
    import torch
    from transformers import AutoModel

    from hf_contrastive.cli.checkpoints import look_at, pick_device, public_name
    from hf_contrastive.registry import REGISTRY

    target = pick_device(device)
    checkpoint = os.path.expanduser(checkpoint)
    info = look_at(checkpoint)
    if info.system is None or info.is_adapter or info.system.domain != "interaction":
        kind = (
            "an adapter"
            if info.is_adapter
            else f"a {info.model_type!r} model"
            if info.model_type
            else "no known model"
        )
        systems = [slug for slug, spec in REGISTRY.items() if spec.domain == "interaction"]
        raise CliError(
            f"{checkpoint} is {kind}, not a recommender; give a folder that a training of one of {', '.join(systems)} wrote. To "
            "train one, type: hf-contrastive train lightgcn."
        )
    with quiet_libraries():
        model, loaded = AutoModel.from_pretrained(
            checkpoint, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise CliError(
            f"{checkpoint} lacks {len(missing)} weights of the model, the first is {missing[0]!r}; drawn at random, they would give "
            "meaningless lists. Take another checkpoint."
        )
    return Recommender(model.eval().to(target), public_name(checkpoint))


def _lists(
    recommender: Recommender,
    users: Sequence[str],
    history: Sequence[Any] | None,
    settings: dict[str, Any],
    titles: dict[str, str] | None,
) -> list[dict[str, Any]]:
    """`{"user", "items": [{"rank", "item", "title", "score"}]}` for every user."""
    whom = {"users": recommender.ids(users, "user")} if history is None else {"histories": [history]}
    try:
        found = recommender.model.recommend(**whom, **settings)
    except (ValueError, NotImplementedError) as error:
        raise CliError(str(error).replace("`k`", "--k")) from error
    return [
        {
            "user": user,
            "items": [
                {
                    "rank": rank,
                    "item": item,
                    **({} if titles is None else {"title": titles.get(str(item))}),
                    "score": round(score, 6),
                }
                for rank, (item, score) in enumerate(row, 1)
            ],
        }
        for user, row in zip(users, found, strict=True)
    ]


# --------------------------------------------------------------------------------------------------------------- titles


@dataclass
class _Titles:
    """Blocks of rows with items and titles, not read yet."""

    blocks: Iterator[Any]
    item: str
    title: str
    file: str


def _open_titles(file: Path, title_column: str | None, item_column: str | None) -> _Titles:
    """Find the columns; wrong files are told before a large model is loaded."""
    from hf_contrastive.data.interaction_files import ROLES, atomic_blocks, table_blocks
    from hf_contrastive.data.sources import load_split, rows_source

    file = file.expanduser()
    if not file.is_file():
        raise WrongUsage(f"--titles {file} is {'a folder' if file.is_dir() else 'not there'}; give a file.")
    try:
        if file.suffix == ".item":
            names, blocks = atomic_blocks(file)
        else:
            with quiet_libraries():
                source = rows_source(file, None, False, None, {})
                rows, _ = load_split(file, source, source.splits()[0], None, False)
            names, blocks = list(rows.column_names or []), table_blocks(rows)
    except ValueError as error:
        raise CliError(str(error).replace("none of .parquet", "none of .item, .parquet")) from error
    found = []
    for option, wanted, known in (
        ("--item-column", item_column, ROLES["item"]),
        ("--title-column", title_column, TITLE_COLUMNS),
    ):
        column = next((name for name in ([wanted] if wanted else known) if name in names), None)
        if column is None:
            seen = f"is {wanted!r}" if wanted else "is needed"
            raise WrongUsage(f"{option} {seen}: {file.name} has the columns {', '.join(names)}; name one of them.")
        found.append(column)
    return _Titles(blocks, *found, file.name)


def _read_titles(rows: _Titles, model: Any) -> dict[str, str]:
    """Titles of the model's items."""
    known = set(model.item_tokens or map(str, range(model.config.num_items)))
    titles: dict[str, str] = {}
    try:
        for block in rows.blocks:
            for item, title in zip(
                block.column(rows.item).to_pylist(), block.column(rows.title).to_pylist(), strict=True
            ):
                # a column with gaps was read as floats
                name = str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)
                if name in known and title is not None:
                    titles[name] = " ".join(str(title).split())
    except ValueError as error:
        raise CliError(f"--titles: {error}") from error
    if not titles:
        raise CliError(
            f"none of the {len(known)} items of the model is in the column {rows.item!r} of {rows.file}; name another one with "
            "--item-column, or take the file that belongs to the log."
        )
    return titles


# --------------------------------------------------------------------------------------------------------------- output


def _writer(path: Path, model: Any, titled: bool) -> RowsFile:
    """For lists, one line an item."""
    types = {
        "user": "string",
        "rank": "int32",
        "item": "int64" if model.item_tokens is None else "string",
        **({"title": "string"} if titled else {}),
        "score": "float32",
    }
    return RowsFile(path, types)


def _show(lists: Sequence[dict[str, Any]], history: Sequence[Any] | None, titled: bool) -> None:
    header = ["rank", "item", *(["title"] if titled else []), "score"]
    for place, one in enumerate(lists):
        if place:
            print_line()
        what = "" if history is None else f" who has {', '.join(map(str, history))}"
        print_line(f"{one['user']}{what}", style="bold")
        rows = [
            [
                str(item["rank"]),
                str(item["item"]),
                *([item["title"] or "-"] if titled else []),
                f"{item['score']:.4f}",
            ]
            for item in one["items"]
        ]
        if rows:
            print_table(header, rows, right=("rank", "score"), no_wrap=("rank", "item", "score"))
        else:
            print_line("nothing is left to recommend")


def _tell(lists: Sequence[dict[str, Any]], k: int, titles: Path | None) -> None:
    """Say where lists are short, and where titles are missing."""
    short = [one for one in lists if len(one["items"]) < k]
    if short:
        print_note(
            f"note: {len(short)} of {len(lists)} lists are shorter than --k {k} (first: {short[0]['user']}), for nothing else is left."
        )
    shown = {item["item"]: item.get("title") for one in lists for item in one["items"]}
    untitled = [item for item, title in shown.items() if title is None]
    if titles is not None and untitled:
        print_note(
            f"note: {len(untitled)} of {len(shown)} items have no title in {titles.name} (first: {untitled[0]})."
        )
