"""`hf-contrastive index`: what `embed` writes goes in, the right neighbours come out, and no index is ever lost."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hf_contrastive import VectorIndex
from hf_contrastive.vector_index import index as index_module


DIM = 8


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def clustered(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((20, DIM))
    return (centres[rng.integers(20, size=rows)] + 0.4 * rng.standard_normal((rows, DIM))).astype(np.float32)


def write(path: str, vectors: np.ndarray, about: dict | None = None, **columns: list) -> np.ndarray:
    """A parquet file as `embed` writes it."""
    table = pa.table({**columns, "embedding": list(vectors)})
    told = {"hf_contrastive": json.dumps({"dimension": vectors.shape[1], **(about or {})})}
    pq.write_table(table.replace_schema_metadata(told), path)
    return vectors


def rows_of(path: str) -> list[dict]:
    return pq.read_table(path).to_pylist()


def test_what_embed_writes_is_indexed_and_searched(call, checkpoint, birds):
    for output in ("birds.parquet", "birds.npy"):
        assert call("embed", checkpoint, birds, "-o", output, "--columns", "name,label").code == 0
    vectors = np.load("birds.npy")
    names = [f"bird-{n}" for n in range(30)]
    expected = VectorIndex.build(vectors, names, "exact")
    for embeddings in ("birds.parquet", "birds.npy"):
        folder = f"{embeddings}-index"
        called = call("index", "build", embeddings, "--out", folder, "--id-column", "name")
        assert called.code == 0, called.err
        assert "flat (up to 50,000 vectors" in called.out
        assert "30 of 8 numbers, scaled to length 1 (scores are cosines), float32" in called.out
        assert "from name" in called.out
        assert "model tiny, dataset birds.parquet, split train, readout backbone" in called.out
        assert "recall@10    1: every vector is looked at" in called.out
        found = call("index", "search", folder, "--id", "bird-7", "-k", "4", "--json", "-")
        [one] = json.loads(found.out)["queries"]
        assert one["query"] == "bird-7"
        near = expected.neighbours_of([7], 4)
        assert [line["id"] for line in one["neighbours"]] == near.ids[0]
        assert [line["score"] for line in one["neighbours"]] == pytest.approx(near.scores[0].tolist(), abs=1e-6)
    # the number of the row is the id when none is named
    assert call("index", "build", "birds.parquet", "--out", "plain").code == 0
    assert VectorIndex.load("plain").rows_of(12) == [12]
    for path in Path("plain").iterdir():
        assert str(checkpoint.parent).encode() not in path.read_bytes()


@pytest.mark.parametrize("output", ["near.parquet", "near.jsonl", "near.csv"])
def test_neighbours_in_a_file(call, monkeypatch, output):
    from hf_contrastive.cli import index

    gallery = write("gallery.parquet", clustered(300), id=[f"g{n}" for n in range(300)])
    queries = write("queries.parquet", clustered(25, seed=1), index=list(range(100, 125)))
    assert call("index", "build", "gallery.parquet", "--out", "gallery").code == 0
    monkeypatch.setattr(index, "_CHUNK", 10)
    called = call("index", "search", "gallery", "--queries", "queries.parquet", "-k", 3, "-o", f"new/{output}")
    assert called.code == 0, called.err
    assert f"wrote new/{output}: 75 lines for 25 queries" in called.out
    found = VectorIndex.build(gallery, [f"g{n}" for n in range(300)], "exact").search(queries, 3)
    expected = [
        {"query": 100 + place, "rank": rank, "id": name, "score": pytest.approx(score, abs=1e-5)}
        for place, (names, scores) in enumerate(zip(found.ids, found.scores.tolist(), strict=True))
        for rank, (name, score) in enumerate(zip(names, scores, strict=True), 1)
    ]
    path = Path("new") / output
    if output.endswith(".parquet"):
        got = rows_of(str(path))
    elif output.endswith(".jsonl"):
        got = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        with path.open() as file:
            got = [
                {**row, "query": int(row["query"]), "rank": int(row["rank"]), "score": float(row["score"])}
                for row in csv.DictReader(file)
            ]
    assert got == expected
    assert [one.name for one in Path("new").iterdir()] == [output]


def test_a_table_of_some_queries(call):
    write("gallery.parquet", clustered(50), id=list(range(50)))
    assert call("index", "build", "gallery.parquet", "--out", "gallery").code == 0
    called = call("index", "search", "gallery", "--queries", "gallery.parquet", "--show", 2, "-k", 2)
    lines = called.out.splitlines()
    assert (lines[0], lines[1].split(), lines[2].split()[:2]) == ("query 0", ["rank", "id", "score"], ["1", "0"])
    assert lines[2].split()[2] == "1.0000"
    assert sum(line.startswith("query ") for line in lines) == 2
    assert "2 of 50 queries are shown; --show prints more, --out FILE writes all" in called.err
    several = call("index", "search", "gallery", "--id", 3, "--id", 4, "-k", 5)
    assert several.out.count("query ") == 2
    assert "\n   1  3 " not in several.out.split("query 4")[0]


def test_adding_to_an_index(call):
    vectors = clustered(330)
    names = [f"v{n}" for n in range(330)]
    write("a.parquet", vectors[:300], {"model": "tiny"}, index=list(range(300)), name=names[:300])
    write("b.parquet", vectors[300:], {"model": "other"}, index=list(range(30)), name=names[300:])
    assert call("index", "build", "a.parquet", "--out", "x", "--id-column", "name", "--dtype", "float16").code == 0
    called = call("index", "build", "b.parquet", "--out", "x", "--add")
    assert called.code == 0, called.err
    assert "330 of 8 numbers" in called.out
    assert "added  " in called.out
    assert "the vectors are by model 'other', those of the index by 'tiny'" in called.err
    found = VectorIndex.load("x")
    assert found.search(vectors[320:321], 1).ids == [["v320"]]
    expected = VectorIndex.build(vectors, names, "exact", dtype="float16").search(vectors, 5)
    assert torch.equal(found.search(vectors, 5).rows, expected.rows)
    again = call("index", "build", "b.parquet", "--out", "x", "--add")
    assert "30 ids stand for more than one vector (first: 'v300'); all are kept" in again.err
    # an index without ids goes on numbering
    np.save("a.npy", vectors[:300])
    assert call("index", "build", "a.npy", "--out", "y").code == 0
    assert call("index", "build", "b.parquet", "--out", "y", "--add").code == 0
    assert VectorIndex.load("y").search(vectors[320:321], 1).ids == [[320]]
    refused = call("index", "build", "b.parquet", "--out", "y", "--add", "--id-column", "name")
    assert refused.code == 1
    assert "the index knows its vectors by number; give ids for all vectors, or for none" in refused.err


def test_an_index_that_outgrew_its_kind_says_so(call, monkeypatch):
    write("a.parquet", clustered(300), id=list(range(300)))
    monkeypatch.setattr(index_module, "FLAT_TO", 500)
    assert call("index", "build", "a.parquet", "--out", "x").code == 0
    assert "auto would take hnsw by now" in call("index", "build", "a.parquet", "--out", "x", "--add").err
    assert call("index", "build", "a.parquet", "--out", "y", "--kind", "ivfpq").code == 0
    for _ in range(4):
        called = call("index", "build", "a.parquet", "--out", "y", "--add")
    assert "trained on 300 of the 1,500 vectors; build anew when recall falls" in called.err


@pytest.mark.parametrize(("kind", "words"), [("hnsw", ["--links", 8]), ("ivfpq", ["--nlist", 10, "--nprobe", 3])])
def test_recall_is_measured_and_told(call, kind, words):
    write("a.parquet", clustered(600), id=list(range(600)))
    called = call("index", "build", "a.parquet", "--out", "x", "--kind", kind, *words, "-k", 5, "--json", "facts.json")
    assert called.code == 0, called.err
    record = json.loads(Path("facts.json").read_text())
    assert record["recall"] == pytest.approx(VectorIndex.load("x").sample_recall(5), abs=1e-5)
    assert f"recall@5     {record['recall']:.4f} of an exact search (600 vectors of the index, each" in called.out
    assert (record["kind"], record["why"], record["rows"], record["added"]) == (kind, "asked for", 600, 600)
    assert record["bytes"] == sum(path.stat().st_size for path in Path("x").iterdir())
    assert record["options"][words[0].removeprefix("--")] == words[1]
    assert (
        "not measured" in call("index", "build", "a.parquet", "--out", "y", "--kind", kind, "--recall-queries", 0).out
    )
    few = call("index", "search", "x", "--id", 3, "-k", 5, "--effort", 100, "--json", "-")
    assert [one["id"] for one in json.loads(few.out)["queries"][0]["neighbours"]] == VectorIndex.build(
        clustered(600), kind="exact"
    ).neighbours_of([3], 5).ids[0]


def test_an_index_of_one_vector(call):
    np.save("one.npy", clustered(1))
    called = call("index", "build", "one.npy", "--out", "x", "--kind", "hnsw")
    assert called.code == 0, called.err
    assert "recall@10    not measured" in called.out
    [found] = json.loads(call("index", "search", "x", "--queries", "one.npy", "-k", 1, "--json", "-").out)["queries"]
    assert found == {"query": 0, "neighbours": [{"rank": 1, "id": 0, "score": pytest.approx(1)}]}


def test_codes_alone(call):
    write("a.parquet", clustered(600), id=list(range(600)))
    called = call("index", "build", "a.parquet", "--out", "x", "--kind", "ivfpq", "--no-keep-vectors")
    assert "not measured: no vectors are kept to compare with" in called.out
    assert "not kept beside the codes" in called.out
    assert call("index", "search", "x", "--queries", "a.parquet", "-o", "near.parquet").code == 0
    refused = call("index", "search", "x", "--id", "3")
    assert refused.code == 1
    assert (
        "codes alone (--no-keep-vectors), and this needs the vectors; build it anew with --keep-vectors" in refused.err
    )


def test_matrices_of_others(call):
    from safetensors.torch import save_file

    vectors = clustered(40)
    np.save("plain.npy", vectors.astype(np.float64))
    save_file({"vectors": torch.from_numpy(vectors).bfloat16()}, "one.safetensors")
    save_file(
        {"text": torch.ones(40, 3), "image": torch.from_numpy(vectors), "id": torch.arange(40) + 7}, "two.safetensors"
    )
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel().astype(np.float16)), DIM)
    pq.write_table(
        pa.table({"vec": fixed, "key": pa.array([f"k{n}" for n in range(40)]).dictionary_encode()}), "f.parquet"
    )
    for file, words, name in (
        ("plain.npy", [], 5),
        ("one.safetensors", [], 5),
        ("two.safetensors", ["--vector-column", "image"], 12),
        ("f.parquet", ["--vector-column", "vec", "--id-column", "key"], "k5"),
    ):
        called = call("index", "build", file, "--out", f"{file}-index", *words)
        assert called.code == 0, called.err
        assert VectorIndex.load(f"{file}-index").search(vectors[5:6], 1).ids == [[name]]
    called = call("index", "build", "two.safetensors", "--out", "x")
    assert called.code == 2
    assert "has the tensors" in called.err
    assert "--vector-column" in called.err
    called = call("index", "build", "plain.npy", "--out", "raw", "--no-normalize")
    assert "as they are (scores are products)" in called.out
    assert VectorIndex.load("raw").vectors([3]).tolist() == vectors[3:4].tolist()


def test_an_existing_index_is_kept_unless_told(call, monkeypatch):
    write("a.parquet", clustered(300), id=list(range(300)))
    write("b.parquet", clustered(40, seed=1), id=list(range(40)))
    assert call("index", "build", "a.parquet", "--out", "x").code == 0
    before = {path.name: path.read_bytes() for path in Path("x").iterdir()}
    refused = call("index", "build", "b.parquet", "--out", "x")
    assert refused.code == 1
    assert "--overwrite to replace it, --add to put vectors in" in refused.err
    Path("bad.npy").write_bytes(b"x")
    np.save("nan.npy", np.full((3, DIM), np.nan))
    np.save("wide.npy", np.ones((3, DIM + 1)))
    for words in (
        ["bad.npy", "--overwrite"],
        ["nan.npy", "--overwrite"],
        ["b.parquet", "--overwrite", "--kind", "ivfpq"],
        ["wide.npy", "--add", "--id-column", "id"],
        ["nan.npy", "--add"],
    ):
        assert call("index", "build", *words, "--out", "x").code != 0
    with monkeypatch.context() as patch:
        from hf_contrastive.vector_index import storage

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(storage, "_write_vectors", fail)
        called = call("index", "build", "b.parquet", "--out", "x", "--add")
        assert called.code == 1
        assert "the disk is full" in called.err
    assert {path.name: path.read_bytes() for path in Path("x").iterdir()} == before
    assert call("index", "build", "b.parquet", "--out", "x", "--overwrite").code == 0
    assert len(VectorIndex.load("x")) == 40
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    refused = call("index", "build", "b.parquet", "--out", "mine", "--overwrite")
    assert refused.code == 1
    assert "holds other things than an index" in refused.err


def test_an_existing_file_of_neighbours_is_kept_unless_told(call):
    write("a.parquet", clustered(30), id=list(range(30)))
    assert call("index", "build", "a.parquet", "--out", "x").code == 0
    Path("near.jsonl").write_text("precious")
    words = ["index", "search", "x", "--queries", "a.parquet", "-o", "near.jsonl"]
    assert call(*words).code == 1
    assert call(*words, "--overwrite", "-k", 31).code == 1
    assert Path("near.jsonl").read_text() == "precious"
    assert sorted(path.name for path in Path().iterdir()) == ["a.parquet", "near.jsonl", "x"]
    assert call(*words, "--overwrite", "-k", 30).code == 0
    assert len(Path("near.jsonl").read_text().splitlines()) == 900


def test_info_reads_nothing_large(call):
    write("a.parquet", clustered(300), {"model": "tiny", "dataset": "birds"}, id=list(range(300)))
    assert call("index", "build", "a.parquet", "--out", "x", "--kind", "hnsw").code == 0
    size = (Path("x") / "index.faiss").stat().st_size
    shutil.copytree("x", "y")
    Path("y/index.faiss").write_bytes(b"")  # not looked at
    called = call("index", "info", "y")
    assert called.code == 0
    for part in ("hnsw (asked for)", "300 of 8 numbers", "from id", "links 32", "model tiny, dataset birds"):
        assert part in called.out
    record = json.loads(call("index", "info", "x", "--json", "-").out)
    assert record["files"]["index.faiss"] == size
    assert record["index"] == "x"


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["build", "a.csv", "--out", "x"], 2, [".parquet, .npy, .safetensors", "a.csv"]),
        (["build", "no.npy", "--out", "x"], 2, ["EMBEDDINGS no.npy is not there"]),
        (["build", "a.parquet", "--out", "a.npy"], 2, ["--out a.npy is a file"]),
        (["build", "a.parquet", "--out", "x", "--add"], 1, ["no index in x", "leave out --add"]),
        (
            ["build", "a.parquet", "--out", "y", "--add", "--kind", "flat", "--no-normalize"],
            2,
            ["--kind, --normalize"],
        ),
        (["build", "a.parquet", "--out", "y", "--add", "--overwrite"], 2, ["type one of them"]),
        (["build", "a.parquet", "--out", "x", "--id-column", "nam"], 2, ["'nam'", "id, embedding"]),
        (["build", "a.parquet", "--out", "x", "--vector-column", "id"], 1, ["'id'", "int64", "--vector-column"]),
        (["build", "a.npy", "--out", "x", "--vector-column", "id"], 2, ["is one matrix"]),
        (["build", "a.npy", "--out", "x", "--id-column", "id"], 2, ["a.npy has none"]),
        (["build", "label.parquet", "--out", "x"], 2, ["--vector-column is needed", "label"]),
        (["build", "uneven.parquet", "--out", "x"], 1, ["row 1", "2 numbers", "8"]),
        (["build", "gaps.parquet", "--out", "x"], 1, ["has gaps between rows 0 and 1"]),
        (["build", "text.parquet", "--out", "x"], 1, ["not lists of numbers"]),
        (["build", "cut.parquet", "--out", "x"], 1, ["cut.parquet cannot be read"]),
        (["build", "cut.npy", "--out", "x"], 1, ["cut.npy cannot be read"]),
        (["build", "cut.safetensors", "--out", "x"], 1, ["cut.safetensors cannot be read"]),
        (
            ["build", "a.npy", "--out", "x", "--kind", "tree"],
            1,
            ["--kind is 'tree'", "auto, exact, flat, hnsw, ivfpq"],
        ),
        (["build", "a.npy", "--out", "x", "--kind", "ivfpq"], 1, ["there are 30 vectors; take --kind flat"]),
        (["build", "a.npy", "--out", "x", "--kind", "hnsw", "--nlist", "3"], 1, ["--kind hnsw has no --nlist"]),
        (["build", "a.npy", "--out", "x", "--no-keep-vectors"], 1, ["--kind flat", "--no-keep-vectors"]),
        (["build", "nan.npy", "--out", "x"], 1, ["EMBEDDINGS: 3 of 3 rows hold NaN or infinity (first: row 0)"]),
        (["search", "y"], 2, ["neither of --queries and --id"]),
        (["search", "y", "--id", "3", "--queries", "a.npy"], 2, ["both of --queries and --id"]),
        (["search", "y", "--id", "3", "--id-column", "id"], 2, ["--queries"]),
        (["search", "y", "--id", "99"], 1, ["no vector has the id 99"]),
        (["search", "y", "--id", "three"], 1, ["no vector has the id 'three'", "whole numbers"]),
        (["search", "y", "--id", "3", "-k", "30"], 1, ["--k is 30, but there are 29 other vectors"]),
        (["search", "y", "--queries", "a.npy", "-o", "x.txt"], 2, ["--out is 'x.txt'", ".parquet"]),
        (["search", "y", "--queries", "wide.npy"], 1, ["--queries have 9 numbers, but the index has 8"]),
        (["search", "x", "--queries", "a.npy"], 1, ["no index in x", "hf-contrastive index build"]),
        (["info", "a.npy"], 1, ["no index in a.npy"]),
        (["info", "cut"], 1, ["does not describe an index"]),
    ],
)
def test_refusals_say_what_to_type(call, words, code, parts):
    vectors = write("a.parquet", clustered(30), id=list(range(30)))
    np.save("a.npy", vectors)
    np.save("nan.npy", np.full((3, DIM), np.nan))
    np.save("wide.npy", np.ones((3, DIM + 1)))
    pq.write_table(pa.table({"label": [1, 2]}), "label.parquet")
    pq.write_table(pa.table({"embedding": [[1.0] * 8, [1.0] * 2]}), "uneven.parquet")
    pq.write_table(pa.table({"embedding": [[1.0] * 8, None]}), "gaps.parquet")
    pq.write_table(pa.table({"embedding": ["a", "b"]}), "text.parquet")
    for name in ("cut.parquet", "cut.npy", "cut.safetensors"):
        Path(name).write_bytes(b"\x93NUMPY")
    Path("cut").mkdir()
    Path("cut/index.json").write_text("{}")
    VectorIndex.build(vectors, range(30), "exact").save("y")
    called = call("index", *words)
    assert called.code == code, called.err
    assert "Traceback" not in called.err
    told = " ".join(called.err.split())
    for part in parts:
        assert part in told
    assert not Path("x").exists()
