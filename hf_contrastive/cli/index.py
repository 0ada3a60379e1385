"""`hf-contrastive index build|search|info`: embeddings in an index, and the nearest of them."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_contrastive.cli.common import (
    CliError,
    ExampleCommand,
    ExampleGroup,
    Progress,
    WrongUsage,
    examples,
    give_json,
    print_line,
    print_note,
    print_table,
    wants_stdout,
)
from hf_contrastive.cli.evaluate import JsonFile
from hf_contrastive.cli.rows_file import RowsFile, check_rows_file


if TYPE_CHECKING:
    import numpy as np

    from hf_contrastive.cli.embedding_files import Embeddings
    from hf_contrastive.vector_index import Neighbours, VectorIndex

EXAMPLES = examples(
    "hf-contrastive index build digits.parquet --out digits-index",
    "hf-contrastive index search digits-index --id 17 -k 5",
    "hf-contrastive index info digits-index",
)
BUILD_EXAMPLES = examples(
    "hf-contrastive index build digits.parquet --out digits-index",
    "hf-contrastive index build photos.npy --out photos-index --kind ivfpq --code-size 32 --dtype float16",
    "hf-contrastive index build new.parquet --out digits-index --add",
)
SEARCH_EXAMPLES = examples(
    "hf-contrastive index search digits-index --id 17 -k 5",
    "hf-contrastive index search digits-index --queries queries.parquet -k 10 --out neighbours.parquet",
    "hf-contrastive index search photos-index --queries queries.npy --effort 4 --json -",
)
INFO_EXAMPLES = examples("hf-contrastive index info digits-index", "hf-contrastive index info digits-index --json -")
DATA, KIND, MEASURE, OUT, SEARCH = "Data", "Index", "Measure", "Output", "Search"
# queries at a time: their lists are written before the next ones are made
_CHUNK = 1000

IdColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the ids. (default: id, ids or index; else vectors are numbered)", rich_help_panel=DATA
    ),
]
VectorColumn = Annotated[
    str | None, typer.Option(help="Column of the vectors. (default: found by itself)", rich_help_panel=DATA)
]


class IndexGroup(ExampleGroup):
    """Its commands in the order of their use."""

    order = ("build", "search", "info")


def build() -> typer.Typer:
    """The group of index commands."""
    group = typer.Typer(
        cls=IndexGroup,
        no_args_is_help=True,
        rich_markup_mode="rich",
        help="Put embeddings into an index, and find the nearest of them.",
        epilog=EXAMPLES,
    )
    group.command("build", cls=ExampleCommand, epilog=BUILD_EXAMPLES)(build_command)
    group.command("search", cls=ExampleCommand, epilog=SEARCH_EXAMPLES)(search_command)
    group.command("info", cls=ExampleCommand, epilog=INFO_EXAMPLES)(info_command)
    return group


@contextlib.contextmanager
def _as_typed() -> Generator[None]:
    """Errors of the library with the options of the command line in them."""
    try:
        yield
    except ValueError as error:
        text = re.sub(r"\b(kind|dtype)='(\w+)'", r"--\1 \2", str(error))
        text = re.sub(
            r"\bkeep_vectors=(True|False)", lambda m: f"--{'' if m[1] == 'True' else 'no-'}keep-vectors", text
        )
        text = re.sub(r"\bnormalize=True", "--normalize", text)
        text = text.replace("`vectors`", "EMBEDDINGS").replace("`queries`", "--queries").replace("`ids`", "ids")
        text = re.sub(r"`(\w+)`", lambda m: "--" + m[1].replace("_", "-"), text)
        raise CliError(
            re.sub(r"(--kind \w+) has no (\w+);", lambda m: f"{m[1]} has no --{m[2].replace('_', '-')};", text)
        ) from error


# ---------------------------------------------------------------------------------------------------------------- build


def build_command(
    embeddings: Annotated[
        Path, typer.Argument(metavar="EMBEDDINGS", help="File of vectors: .parquet, .npy or .safetensors.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Folder of the index.", rich_help_panel=OUT)
    ],
    add: Annotated[
        bool, typer.Option("--add", help="Put the vectors into the index that is there.", rich_help_panel=OUT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing index.", rich_help_panel=OUT)
    ] = False,
    json_file: JsonFile = None,
    id_column: IdColumn = None,
    vector_column: VectorColumn = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="exact, flat, hnsw, ivfpq, or auto: by the number of vectors. (default: auto)", rich_help_panel=KIND
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(
            "--normalize/--no-normalize",
            help="Scale vectors to length 1: scores are cosines. (default: normalize)",
            rich_help_panel=KIND,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, or float16 in half the room. (default: float32)", rich_help_panel=KIND),
    ] = None,
    keep_vectors: Annotated[
        bool | None,
        typer.Option(
            "--keep-vectors/--no-keep-vectors",
            help="ivfpq: keep vectors beside the codes, for exact scores. (default: keep-vectors)",
            rich_help_panel=KIND,
        ),
    ] = None,
    nlist: Annotated[
        int | None, typer.Option(help="ivfpq: clusters. (default: 4 sqrt(vectors))", rich_help_panel=KIND)
    ] = None,
    nprobe: Annotated[
        int | None, typer.Option(help="ivfpq: clusters a search looks into. (default: 64)", rich_help_panel=KIND)
    ] = None,
    code_size: Annotated[
        int | None,
        typer.Option(
            help="ivfpq: bytes of a code. (default: a quarter of the numbers, at most 64)", rich_help_panel=KIND
        ),
    ] = None,
    links: Annotated[
        int | None, typer.Option(help="hnsw: neighbours in the graph. (default: 32)", rich_help_panel=KIND)
    ] = None,
    ef_construction: Annotated[
        int | None, typer.Option(help="hnsw: vectors in view while building. (default: 80)", rich_help_panel=KIND)
    ] = None,
    ef_search: Annotated[
        int | None, typer.Option(help="hnsw: vectors in view of a search. (default: 128)", rich_help_panel=KIND)
    ] = None,
    reproducible: Annotated[
        bool | None,
        typer.Option(
            "--reproducible/--no-reproducible",
            help="hnsw: one thread, the same graph every time. (default: reproducible)",
            rich_help_panel=KIND,
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Measure recall@k.", rich_help_panel=MEASURE)] = 10,
    recall_queries: Annotated[
        int, typer.Option(min=0, help="Vectors of the index to measure with; 0: do not.", rich_help_panel=MEASURE)
    ] = 1000,
) -> None:
    """Build an index of embeddings, or add to one, and say what its approximation costs.

    What hf-contrastive embed writes is read as it is. The folder appears whole, or stays as it was.
    """
    chosen: dict[str, Any] = {
        "kind": kind,
        "normalize": normalize,
        "dtype": dtype,
        "keep_vectors": keep_vectors,
        "reproducible": reproducible,
        "nlist": nlist,
        "nprobe": nprobe,
        "code_size": code_size,
        "links": links,
        "ef_construction": ef_construction,
        "ef_search": ef_search,
    }
    chosen = {name: value for name, value in chosen.items() if value is not None}
    out = out.expanduser()
    _check_out(out, add, overwrite, list(chosen))

    from hf_contrastive.cli.embedding_files import read_embeddings
    from hf_contrastive.vector_index import VectorIndex

    with _as_typed():
        old = VectorIndex.load(out, memory_map=False) if add else None
        if old is not None and old.ids is not None:
            id_column = id_column or old.facts.about.get("id_column")
        found = read_embeddings(embeddings, "EMBEDDINGS", id_column, vector_column)
        print_note(f"{'adding' if add else 'indexing'} {len(found.vectors):,} vectors of {embeddings.name}")
        before = 0 if old is None else len(old)
        start = time.perf_counter()
        if old is None:
            index = VectorIndex.build(found.vectors, found.ids, about=_about(found), **chosen)
        else:
            index = old
            _tell_source(index, found)
            # an index without ids goes on numbering, but does not lose ids that were asked for
            index.add(found.vectors, found.ids if index.ids is not None or id_column else None)
        seconds = time.perf_counter() - start
        index.save(out)
    record = {**_describe(out), "added": len(index) - before, "seconds": round(seconds, 3)}
    # on the disk by now, whatever the measure takes
    record.update(_measure(index, k, recall_queries))
    if not wants_stdout(json_file):
        _show_built(record, out)
    _tell_ids(index)
    _tell_growth(index)
    give_json(record, json_file)


def _check_out(out: Path, add: bool, overwrite: bool, chosen: list[str]) -> None:
    """Refuse what cannot be written before anything is read."""
    if add and overwrite:
        raise WrongUsage("--add keeps the index that --overwrite would replace; type one of them.")
    if add and chosen:
        options = ", ".join("--" + name.replace("_", "-") for name in chosen)
        raise WrongUsage(f"--add puts vectors into an index as it was built; leave out {options}, or build anew.")
    if out.exists() and not out.is_dir():
        raise WrongUsage(f"--out {out} is a file; give a folder for the index.")
    there = (out / "index.json").is_file()
    if add and not there:
        raise CliError(f"--add: no index in {out}; leave out --add to build one, or give its folder.")
    if add or not out.is_dir() or not any(out.iterdir()):
        return
    if not there:
        raise CliError(f"{out} holds other things than an index; nothing was changed. Give a new folder.")
    if not overwrite:
        raise CliError(
            f"{out} holds an index; nothing was changed. Type --overwrite to replace it, --add to put vectors in, or another --out."
        )


def _about(found: Embeddings) -> dict[str, Any]:
    return {**found.about, **({} if found.id_column is None else {"id_column": found.id_column})}


def _tell_source(index: VectorIndex, found: Embeddings) -> None:
    for name in ("model", "readout"):
        ours, theirs = index.facts.about.get(name), found.about.get(name)
        if ours and theirs and ours != theirs:
            print_note(
                f"note: the vectors are by {name} {theirs!r}, those of the index by {ours!r}; their products may mean nothing."
            )


def _measure(index: VectorIndex, k: int, queries: int) -> dict[str, Any]:
    """Recall beside an exact search, where there is one to compare with."""
    if index.kind in ("exact", "flat"):
        return {"recall": 1.0, "k": k, "recall_queries": 0}
    if not queries or not index.facts.vectors_kept or len(index) < 2:
        return {"recall": None, "k": k, "recall_queries": 0}
    k = min(k, len(index) - 1)
    queries = min(queries, len(index))
    print_note(f"measuring recall@{k} with {queries:,} vectors of the index")
    return {"recall": round(index.sample_recall(k, size=queries), 5), "k": k, "recall_queries": queries}


def _show_built(record: dict[str, Any], out: Path) -> None:
    rows = _rows(record)
    rows.append(["added" if record["added"] < record["rows"] else "built", f"{record['seconds']:.1f} s"])
    if record["recall"] is None:
        told = "not measured" + ("" if record["vectors_kept"] else ": no vectors are kept to compare with")
    elif record["recall_queries"]:
        told = f"{record['recall']:.4f} of an exact search ({record['recall_queries']:,} vectors of the index, each without itself)"
    else:
        told = "1: every vector is looked at"
    rows.append([f"recall@{record['k']}", told])
    print_table(None, rows)
    print_line(f"wrote {out}; to search, type: hf-contrastive index search {out} --queries FILE")


def _tell_ids(index: VectorIndex) -> None:
    if index.ids is None:
        return
    counts = index.ids.value_counts()
    more = counts.filter(counts.field("counts").to_numpy(zero_copy_only=False) > 1)
    if len(more):
        print_note(
            f"note: {len(more):,} ids stand for more than one vector (first: {more.field('values')[0].as_py()!r}); all are kept."
        )


def _tell_growth(index: VectorIndex) -> None:
    """Where an index that grew would be built otherwise now."""
    from hf_contrastive.vector_index import choose_kind

    facts = index.facts
    kind, why = choose_kind(len(index), index.dim, facts.dtype, facts.options.get("links", 32))
    if facts.why != "asked for" and kind != facts.kind:
        print_note(f"note: auto would take {kind} by now ({why}); build anew for it.")
    elif facts.trained_on and len(index) > 4 * facts.trained_on:
        print_note(
            f"note: clusters and codes were trained on {facts.trained_on:,} of the {len(index):,} vectors; build anew when recall falls."
        )


# --------------------------------------------------------------------------------------------------------------- search


def search_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of an index.")],
    queries: Annotated[
        Path | None, typer.Option(help="File of vectors to search with: .parquet, .npy or .safetensors.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--id", help="Instead: a vector of the index by its id; may be given several times."),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Neighbours of each query.", rich_help_panel=SEARCH)] = 10,
    effort: Annotated[
        int,
        typer.Option(
            min=1, help="hnsw, ivfpq: look at so many times as much; slower, finds more.", rich_help_panel=SEARCH
        ),
    ] = 1,
    rescore: Annotated[
        bool | None,
        typer.Option(
            "--rescore/--no-rescore",
            help="ivfpq: exact scores of the best. (default: where vectors are kept)",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    id_column: IdColumn = None,
    vector_column: VectorColumn = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Write to this file, .parquet, .jsonl or .csv, one line a neighbour.",
            rich_help_panel=OUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.", rich_help_panel=OUT)
    ] = False,
    show: Annotated[int, typer.Option(min=1, help="Queries to print without --out.", rich_help_panel=OUT)] = 5,
    json_file: JsonFile = None,
) -> None:
    """Find the nearest vectors of an index, for vectors of a file or of the index itself.

    A vector of the index is left out of its own list. The index stays on the disk; only what is looked at is read.
    """
    if (queries is None) is (not name):
        seen = "neither of --queries and --id is" if queries is None else "both of --queries and --id are"
        raise WrongUsage(f"{seen} given; type --queries FILE, or --id ID for a vector of the index.")
    if name and (id_column or vector_column):
        raise WrongUsage(
            "--id-column and --vector-column say where to look in the file of --queries; give that instead of --id."
        )
    check_rows_file(out, overwrite, "neighbours.parquet", "--out")

    from hf_contrastive.vector_index import VectorIndex

    with _as_typed():
        index = VectorIndex.load(folder)
        if name:
            labels, asked = _of_index(index, name)
        else:
            assert queries is not None
            labels, asked = _of_file(index, queries, id_column, vector_column)
        lists = _search(index, labels, asked, not name, {"k": k, "effort": effort, "rescore": rescore})
        shown: list[dict[str, Any]] = []
        wanted = len(labels) if json_file is not None else show if out is None else 0
        with contextlib.ExitStack() as stack:
            writer = None
            if out is not None:
                writer = stack.enter_context(RowsFile(out.expanduser(), _types(labels, index)))
                progress = stack.enter_context(Progress("searching", len(labels), unit="queries"))
            for part in lists:
                shown += part[: max(0, wanted - len(shown))]
                if writer is not None:
                    writer.write({"query": one["query"], **found} for one in part for found in one["neighbours"])
                    progress.advance(len(part))
                elif len(shown) >= wanted:
                    break
    give_json({"kind": index.kind, "rows": len(index), "k": k, "effort": effort, "queries": shown}, json_file)
    if wants_stdout(json_file):
        return
    if writer is not None:
        print_line(f"wrote {out}: {writer.lines} lines for {len(labels)} queries")
    else:
        _show_lists(shown[:show], len(labels))


def _of_index(index: VectorIndex, names: list[str]) -> tuple[list[Any], np.ndarray]:
    """Vectors of the index with these ids; one id may have several."""
    import numpy as np

    labels, rows = [], []
    texts = index.ids is not None and str(index.ids.type) == "large_string"
    for name in names:
        whole = re.fullmatch(r"-?[0-9]{1,18}", name)
        found = index.rows_of(int(name) if whole and not texts else name)
        labels += [name if texts else int(name)] * len(found)
        rows += found
    return labels, np.asarray(rows, dtype=np.int64)


def _of_file(
    index: VectorIndex, file: Path, id_column: str | None, vector_column: str | None
) -> tuple[list[Any], np.ndarray]:
    from hf_contrastive.cli.embedding_files import read_embeddings
    from hf_contrastive.vector_index.storage import as_ids

    found = read_embeddings(file, "--queries", id_column, vector_column)
    if not len(found.vectors):
        raise CliError(f"--queries {file} holds no vector; give a file with at least one.")
    _tell_source(index, found)
    labels = (
        list(range(len(found.vectors))) if found.ids is None else as_ids(found.ids, len(found.vectors)).to_pylist()
    )
    return labels, found.vectors


def _search(
    index: VectorIndex, labels: list[Any], asked: np.ndarray, by_vector: bool, settings: dict[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    """`{"query", "neighbours": [{"rank", "id", "score"}]}` for every query, some at a time."""
    for start in range(0, len(labels), _CHUNK):
        part = asked[start : start + _CHUNK]
        found: Neighbours = index.search(part, **settings) if by_vector else index.neighbours_of(part, **settings)
        yield [
            {
                "query": label,
                "neighbours": [
                    {"rank": rank, "id": name, "score": round(score, 6)}
                    for rank, (name, score) in enumerate(zip(names, scores, strict=True), 1)
                    if name is not None
                ],
            }
            for label, names, scores in zip(
                labels[start : start + _CHUNK], found.ids, found.scores.tolist(), strict=True
            )
        ]


def _types(labels: list[Any], index: VectorIndex) -> dict[str, str]:
    texts = index.ids is not None and str(index.ids.type) == "large_string"
    return {
        "query": "string" if isinstance(labels[0], str) else "int64",
        "rank": "int32",
        "id": "string" if texts else "int64",
        "score": "float32",
    }


def _show_lists(lists: list[dict[str, Any]], total: int) -> None:
    for place, one in enumerate(lists):
        if place:
            print_line()
        print_line(f"query {one['query']}", style="bold")
        rows = [[str(found["rank"]), str(found["id"]), f"{found['score']:.4f}"] for found in one["neighbours"]]
        if rows:
            print_table(["rank", "id", "score"], rows, right=("rank", "score"), no_wrap=("rank", "id", "score"))
        else:
            print_line("nothing was found; try a larger --effort")
    if total > len(lists):
        print_note(f"note: {len(lists)} of {total} queries are shown; --show prints more, --out FILE writes all.")


# ----------------------------------------------------------------------------------------------------------------- info


def info_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of an index.")],
    json_file: JsonFile = None,
) -> None:
    """Say what an index holds, how it was built and how much room it takes; nothing large is read."""
    with _as_typed():
        record = _describe(folder.expanduser())
    if not wants_stdout(json_file):
        print_table(None, _rows(record))
    give_json(record, json_file)


def _describe(folder: Path) -> dict[str, Any]:
    """What the folder says of the index, with the sizes of its files."""
    from dataclasses import asdict

    from hf_contrastive.vector_index.storage import read_facts

    facts, files = read_facts(folder)
    sizes = {name: one["bytes"] for name, one in files.items()}
    sizes["index.json"] = (folder / "index.json").stat().st_size
    return {"index": folder.resolve().name, **asdict(facts), "files": sizes, "bytes": sum(sizes.values())}


def _rows(record: dict[str, Any]) -> list[list[str]]:
    about = record["about"]
    scaled = "scaled to length 1 (scores are cosines)" if record["normalized"] else "as they are (scores are products)"
    kept = record["dtype"] if record["vectors_kept"] else "not kept beside the codes"
    ids = "none, vectors are numbered"
    if "ids.arrow" in record["files"]:
        ids = f"from {about['id_column']}" if "id_column" in about else "given"
    rows = [
        ["kind", f"{record['kind']} ({record['why']})"],
        ["vectors", f"{record['rows']:,} of {record['dim']} numbers, {scaled}, {kept}"],
        ["ids", ids],
    ]
    if record["options"]:
        rows.append(["options", ", ".join(f"{name} {value}" for name, value in record["options"].items())])
    if record["trained_on"] is not None:
        rows.append(["trained on", f"{record['trained_on']:,} vectors"])
    source = [f"{name} {about[name]}" for name in ("model", "dataset", "split", "readout") if name in about]
    if source:
        rows.append(["made from", ", ".join(source)])
    parts = ", ".join(f"{name} {_size(size)}" for name, size in record["files"].items())
    rows.append(["on the disk", f"{_size(record['bytes'])}: {parts}"])
    return rows


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
