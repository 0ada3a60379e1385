"""An index gives back what was put in, exactly where it says so, from memory or in place, and is never half written."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_contrastive import VectorIndex
from hf_contrastive.vector_index import choose_kind, exact, storage
from hf_contrastive.vector_index.exact import Gallery, by_faiss, by_matrix, exact_search


ROWS, DIM = 1200, 24
INDEX_KINDS = ["exact", "flat", "hnsw", "ivfpq"]
kinds = pytest.mark.parametrize("kind", INDEX_KINDS)
engines = pytest.mark.parametrize("engine", [by_matrix, by_faiss])


def clustered(rows: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((30, dim))
    return (centres[rng.integers(30, size=rows)] + 0.5 * rng.standard_normal((rows, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Clusters, with some vectors twice and one of zeros."""
    found = clustered(ROWS)
    found[700:720] = found[100:120]
    found[5] = 0
    return found


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(40, seed=1)


def by_definition(gallery: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every product alone, in float64; of equal scores the lower row."""
    scores = np.array(
        [[np.float32(np.add.reduce(a * b)) for a in gallery.astype(float)] for b in queries.astype(float)]
    )
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


def scaled(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def same(found, expected) -> None:
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.scores, expected.scores)
    assert found.ids == expected.ids


# ---------------------------------------------------------------------------------------------------------------- exact

GALLERIES = {
    "random": np.random.default_rng(0).standard_normal((300, 7)),
    "twenty, again and again": np.tile(np.random.default_rng(1).standard_normal((20, 7)), (15, 1)),
    "collapsed": np.ones((200, 5)),
    "nearly collapsed": 1 + 1e-7 * np.random.default_rng(2).standard_normal((200, 9)),
    "zeros": np.zeros((60, 3)),
    "many equal products": np.random.default_rng(3).integers(-1, 2, (300, 6)),
}


@engines
@pytest.mark.parametrize("name", GALLERIES)
def test_exact_search_is_the_definition(name, engine, monkeypatch):
    gallery = GALLERIES[name].astype(np.float32)
    queries = np.random.default_rng(4).standard_normal((9, gallery.shape[1])).astype(np.float32)
    queries[0], queries[1] = 0, gallery[3]
    for k in (1, 4, len(gallery)):
        scores, rows = by_definition(gallery, queries, k)
        for held in (2**23, 150):  # products at a time
            monkeypatch.setattr(exact, "_PRODUCTS", held)
            for cuts in ([], [7, 50]):
                found = exact_search(Gallery(np.split(gallery, cuts)), queries, k, engine)
                np.testing.assert_array_equal(found[0], scores)
                np.testing.assert_array_equal(found[1], rows)


@engines
def test_the_answer_does_not_depend_on_the_company(vectors, queries, engine):
    gallery = Gallery([vectors])
    scores, rows = exact_search(gallery, queries, 9, engine)
    for number in range(0, 40, 13):
        alone = exact_search(gallery, queries[number : number + 1], 9, engine)
        np.testing.assert_array_equal(alone[0][0], scores[number])
        np.testing.assert_array_equal(alone[1][0], rows[number])


def test_all_rows_are_looked_at_again_only_where_rounding_may_decide(vectors, queries, monkeypatch):
    asked = []
    sweep = exact._sweep
    monkeypatch.setattr(
        exact, "_sweep", lambda gallery, queries, *rest: asked.append(len(queries)) or sweep(gallery, queries, *rest)
    )
    exact_search(Gallery([vectors]), queries, 5)
    assert asked == []
    exact_search(Gallery([np.repeat(vectors[:40], 30, axis=0)]), queries, 5)
    assert sum(asked) == len(queries)


def test_products_beyond_float32_are_refused():
    long = VectorIndex.build([[1e30, 0.0]], kind="exact", normalize=False)
    with pytest.raises(ValueError, match=r"length 1e\+30 and queries of length 1e\+10.*normalize=True"):
        long.search([[1e10, 0.0]], k=1)
    assert VectorIndex.build([[1e30, 0.0]], kind="exact").search([[1e10, 0.0]], k=1).scores.item() == 1


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_flat_is_exact_to_the_last_bit(vectors, queries, dtype, normalize):
    options = {"dtype": dtype, "normalize": normalize}
    expected = VectorIndex.build(vectors, kind="exact", **options).search(queries, 30)
    same(VectorIndex.build(vectors, kind="flat", **options).search(queries, 30), expected)
    gallery = (scaled(vectors) if normalize else vectors).astype(dtype).astype(np.float32)
    scores, rows = by_definition(gallery, scaled(queries) if normalize else queries, 30)
    np.testing.assert_array_equal(expected.rows.numpy(), rows)
    np.testing.assert_allclose(expected.scores.numpy(), scores, rtol=1e-6)
    # of vectors that stand there twice the first is first
    [first] = VectorIndex.build(vectors, kind="flat", **options).search(vectors[110:111], 2).rows.tolist()
    assert not normalize or first == [110, 710]


def test_without_faiss(vectors, queries, tmp_path, monkeypatch):
    flat = VectorIndex.build(vectors, kind="flat")
    flat.save(tmp_path / "flat")
    VectorIndex.build(vectors, kind="hnsw").save(tmp_path / "hnsw")
    expected = flat.search(queries)
    monkeypatch.setitem(sys.modules, "faiss", None)
    auto = VectorIndex.build(vectors)
    assert (auto.kind, auto.facts.why) == ("exact", "faiss is not installed, and an exact search needs none")
    same(auto.search(queries), expected)
    same(VectorIndex.load(tmp_path / "flat").search(queries), expected)
    for call in (lambda: VectorIndex.build(vectors, kind="hnsw"), lambda: VectorIndex.load(tmp_path / "hnsw")):
        with pytest.raises(ImportError, match=r"pip install faiss-cpu\..*exact"):
            call()


# ---------------------------------------------------------------------------------------------------------- approximate


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("kind", "options"), [("hnsw", {}), ("ivfpq", {}), ("ivfpq", {"nlist": 20, "nprobe": 10})])
def test_an_approximate_index_finds_nearly_all_with_exact_scores(vectors, queries, kind, options, dtype):
    """Measured: 1.0 (hnsw), 0.99 and more (ivfpq)."""
    made = VectorIndex.build(vectors, kind=kind, dtype=dtype, **options)
    exactly = VectorIndex.build(vectors, kind="exact", dtype=dtype).search(queries, len(vectors))
    found = made.search(queries, 10)
    assert made.recall(queries, 10) > 0.95
    assert made.sample_recall(10, size=100) > 0.95
    hits = [len({*a} & {*b}) / 10 for a, b in zip(found.rows.tolist(), exactly.rows[:, :10].tolist(), strict=True)]
    # twice the same vector: either may be found
    assert made.recall(queries, 10) == pytest.approx(np.mean(hits), abs=0.01)
    score = torch.zeros(len(queries), len(vectors)).scatter(1, exactly.rows, exactly.scores)
    assert torch.equal(score.gather(1, found.rows), found.scores)
    assert torch.equal(found.scores, found.scores.sort(dim=1, descending=True).values)


def test_more_effort_and_exact_scores_find_more():
    rows, asked = (
        np.random.default_rng(0).standard_normal((2000, 16)),
        np.random.default_rng(1).standard_normal((50, 16)),
    )
    lists = VectorIndex.build(rows, kind="ivfpq", nlist=40, nprobe=2, code_size=2)
    steps = [lists.recall(asked, 10, rescore=False), lists.recall(asked, 10), lists.recall(asked, 10, effort=20)]
    assert steps[0] < steps[1] < steps[2]
    graph = VectorIndex.build(rows, kind="hnsw", links=4, ef_search=1)
    assert graph.recall(asked, 10) < graph.recall(asked, 10, effort=100)
    assert VectorIndex.build(rows, kind="flat").recall(asked, 10) == 1


def test_what_a_search_does_not_find(vectors):
    lists = VectorIndex.build(vectors, [f"v{n}" for n in range(ROWS)], "ivfpq", nlist=60, nprobe=1)
    for rescore in (True, False):
        found = lists.search(vectors[:3], ROWS, rescore=rescore)
        missing = found.rows == -1
        assert bool(missing.any())
        assert bool((found.scores[missing] == -torch.inf).all())
        assert all(
            (name is None) == (row == -1) for name, row in zip(found.ids[0], found.rows[0].tolist(), strict=True)
        )
        assert not missing[:, 0].any()
    assert lists.recall(vectors[:3], ROWS) < 1


def test_codes_alone(vectors, queries, tmp_path):
    whole = VectorIndex.build(vectors, kind="ivfpq")
    codes = VectorIndex.build(vectors, kind="ivfpq", keep_vectors=False)
    same(codes.search(queries), whole.search(queries, rescore=False))
    assert not torch.equal(codes.search(queries).scores, whole.search(queries).scores)
    codes.save(tmp_path / "codes")
    assert sorted(path.name for path in (tmp_path / "codes").iterdir()) == ["index.faiss", "index.json"]
    loaded = VectorIndex.load(tmp_path / "codes")
    loaded.add(queries)
    assert len(loaded) == ROWS + len(queries)
    for call in (
        lambda: loaded.recall(queries),
        lambda: loaded.search(queries, rescore=True),
        lambda: loaded.neighbours_of([3]),
    ):
        with pytest.raises(ValueError, match=r"codes alone .*build it anew with keep_vectors=True"):
            call()


@pytest.mark.parametrize("dim", [1, 7, 10])
def test_codes_of_any_width(dim):
    rows = clustered(400, dim)
    made = VectorIndex.build(rows, kind="ivfpq", normalize=False)
    assert made.recall(rows[:50], 5) > 0.95
    made.add(rows[:3])
    assert made.vectors([401]).tolist() == rows[1:2].tolist()


def test_near_the_vectors_of_the_index_itself(vectors):
    for kind in INDEX_KINDS:
        found = VectorIndex.build(vectors, kind=kind).neighbours_of([110, 3], 5)
        assert found.rows[0, 0] == 710
        assert not bool((found.rows == torch.tensor([[110], [3]])).any())
    collapsed = VectorIndex.build(np.ones((50, 4)), kind="exact")
    assert collapsed.neighbours_of([40], 3).rows.tolist() == [[0, 1, 2]]
    assert collapsed.sample_recall(5, size=20) == 1


@pytest.mark.parametrize(
    ("rows", "dim", "kind"),
    [
        (50_000, 2048, "flat"),
        (50_001, 128, "hnsw"),
        (1_000_000, 768, "hnsw"),
        (1_000_000, 2048, "ivfpq"),
        (1_000_001, 8, "ivfpq"),
    ],
)
def test_auto(rows, dim, kind):
    found, why = choose_kind(rows, dim)
    assert found == kind
    assert "float16" not in why
    assert kind != "ivfpq" or ("1,000,000" if dim == 8 else "GiB") in why


# --------------------------------------------------------------------------------------------------- building and adding


@kinds
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_two_builds_give_the_same_files(vectors, kind, dtype, tmp_path):
    for name in "ab":
        VectorIndex.build(vectors, kind=kind, dtype=dtype).save(tmp_path / name)
    files = [path.name for path in (tmp_path / "a").iterdir()]
    assert len(files) > 1
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["exact", "flat"])
def test_added_in_pieces_is_built_at_once(vectors, queries, kind, dtype, normalize, tmp_path):
    names = [f"v{n}" for n in range(ROWS)]
    options = {"kind": kind, "dtype": dtype, "normalize": normalize}
    whole = VectorIndex.build(vectors, names, **options)
    grown = VectorIndex.build(vectors[:1], names[:1], **options)
    for start, end in [(1, 2), (2, 3), (3, 500), (500, 501), (501, 501), (501, 1000)]:
        grown.add(vectors[start:end], names[start:end])
    grown.save(tmp_path / "grown")
    for mapped in (True, False):
        loaded = VectorIndex.load(tmp_path / "grown", mapped)
        for start, end in [(1000, 1100), (1100, ROWS)]:
            loaded.add(torch.from_numpy(vectors[start:end]), names[start:end])
        same(loaded.search(queries, 20), whole.search(queries, 20))
        loaded.save(tmp_path / "again")
        whole.save(tmp_path / "whole")
        for name in ("vectors.npy", "index.json"):
            one, other = ((tmp_path / folder / name).read_text("latin-1") for folder in ("again", "whole"))
            # ids are in other pieces, so that their file is another
            assert one == other or (
                name == "index.json" and json.loads(one)["longest"] == json.loads(other)["longest"]
            )


def test_many_small_pieces_become_few():
    gallery = Gallery([np.ones((1, 2), dtype=np.float32)])
    for number in range(300):
        gallery.append(np.full((100, 2), number, dtype=np.float32))
    assert len(gallery) == 30001
    assert len(gallery.parts) < 4
    large = gallery.parts[0]
    gallery.append(np.ones((1, 2), dtype=np.float32))
    assert gallery.parts[0] is large
    assert gallery.take(np.array([0, 1, 30000, 150]))[:, 0].tolist() == [1, 0, 299, 1]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_added_vectors_are_found(vectors, queries, kind, dtype, tmp_path):
    made = VectorIndex.build(vectors, kind=kind, dtype=dtype)
    made.save(tmp_path / "index")
    answers = []
    for loaded in (made, VectorIndex.load(tmp_path / "index"), VectorIndex.load(tmp_path / "index", memory_map=False)):
        for part in np.array_split(queries, 3):
            loaded.add(part)
        answers.append(loaded.search(queries, 4))
        assert answers[-1].rows[:, 0].tolist() == list(range(ROWS, ROWS + len(queries)))
        same(answers[-1], answers[0])
        assert loaded.recall(queries) > 0.95
        assert loaded.facts.trained_on == (ROWS if kind == "ivfpq" else None)
        loaded.save(tmp_path / "index")  # over the one it is mapped from
        same(VectorIndex.load(tmp_path / "index").search(queries, 4), answers[0])
        VectorIndex.build(vectors, kind=kind, dtype=dtype).save(tmp_path / "index")


def test_an_index_that_changed_since_it_was_loaded_takes_no_more(vectors, tmp_path):
    VectorIndex.build(vectors, kind="hnsw").save(tmp_path / "index")
    loaded = VectorIndex.load(tmp_path / "index")
    other = VectorIndex.load(tmp_path / "index")
    other.add(vectors[:3])
    other.save(tmp_path / "index")
    with pytest.raises(ValueError, match="index has changed since it was loaded; load it again"):
        loaded.add(vectors[:2])
    assert len(loaded) == ROWS
    assert loaded.search(vectors[:1], 1).rows.tolist() == [[0]]


@pytest.mark.parametrize("kind", ["exact", "ivfpq"])
def test_what_the_caller_does_later_changes_nothing(vectors, kind):
    mine = torch.from_numpy(vectors.copy())
    made = VectorIndex.build(mine, kind=kind, normalize=False)
    made.add(mine)
    before = made.vectors([3, ROWS + 3])
    mine.zero_()
    np.testing.assert_array_equal(made.vectors([3, ROWS + 3]), before)
    assert before.any()


def test_tensors_of_any_type_and_with_gradient(vectors):
    weight = torch.nn.Parameter(torch.from_numpy(vectors[:50]).bfloat16())
    made = VectorIndex.build(weight, torch.arange(50) * 3, "exact")
    found = made.search(weight[:4], 1)
    assert found.ids == [[0], [3], [6], [9]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(made.search(weight[:4], 1), found)
    assert made.search(torch.zeros(0, DIM), 3).rows.shape == (0, 3)
    assert made.search(torch.zeros(0, DIM), 3).ids == []


# ------------------------------------------------------------------------------------------------------------------ ids

NAMES = {
    "texts": [f"größe-{n % 900}" for n in range(ROWS)],
    "numbers": [(n % 900) * 10**12 - 5 for n in range(ROWS)],
    "numpy": np.arange(ROWS, dtype=np.uint8) % 200,
    "numpy texts": np.array([f"x{n % 900}" for n in range(ROWS)]),
}


@kinds
@pytest.mark.parametrize("name", NAMES)
def test_ids_survive(vectors, queries, kind, name, tmp_path):
    names = NAMES[name]
    made = VectorIndex.build(vectors, names, kind)
    plain = [value.item() if hasattr(value, "item") else value for value in names]
    made.save(tmp_path / "index")
    for loaded in (made, VectorIndex.load(tmp_path / "index"), VectorIndex.load(tmp_path / "index", memory_map=False)):
        found = loaded.search(queries, 6)
        assert found.ids == [[plain[row] for row in rows] for rows in found.rows.tolist()]
        assert loaded.rows_of(plain[3]) == [row for row, one in enumerate(plain) if one == plain[3]]
    for number in range(20):
        loaded.add(queries[number : number + 1], [plain[number]])
    assert loaded.rows_of(plain[7])[-1] == ROWS + 7
    loaded.save(tmp_path / "index")
    again = VectorIndex.load(tmp_path / "index")
    assert again.search(queries[7:8], 1).ids == [[plain[7]]]
    assert again.ids_of(np.array([[ROWS + 3, -1]])) == [[plain[3], None]]


def test_numbers_where_there_are_no_ids(vectors):
    made = VectorIndex.build(vectors)
    assert made.search(vectors[9:10], 1).ids == [[9]]
    assert made.rows_of(9) == [9]
    for name in (ROWS, -1, "9"):
        with pytest.raises(ValueError, match=f"no vector has the id {name!r}; vectors are known by number, 0 to 1199"):
            made.rows_of(name)
    named = VectorIndex.build(vectors[:3], ["a", "b", "c"])
    with pytest.raises(ValueError, match="no vector has the id 1; ids are texts, the first are 'a', 'b', 'c'"):
        named.rows_of(1)


# -------------------------------------------------------------------------------------------------------------- folders


@kinds
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_index_comes_back_from_its_folder(vectors, queries, kind, dtype, tmp_path):
    made = VectorIndex.build(vectors, kind=kind, dtype=dtype, about={"model": "tiny"})
    expected = made.search(queries, 9)
    folder = tmp_path / "deep" / "index"
    made.save(folder)
    made.save(str(folder))  # again, over it
    assert [path.name for path in folder.parent.iterdir()] == ["index"]
    for mapped in (True, False):
        loaded = VectorIndex.load(folder, mapped)
        assert repr(loaded) == f"VectorIndex(kind={kind!r}, rows=1200, dim=24, normalized=True)"
        assert loaded.facts == made.facts
        same(loaded.search(queries, 9), expected)
        assert loaded.recall(queries) == made.recall(queries)
        np.testing.assert_array_equal(loaded.vectors([4, 1199]), made.vectors([4, 1199]))
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    assert str(tmp_path).encode() not in content
    assert b"pickle" not in content


def test_files_of_another_kind_do_not_stay(vectors, tmp_path):
    VectorIndex.build(vectors, range(ROWS), kind="ivfpq").save(tmp_path / "index")
    (tmp_path / "index" / "notes.txt").write_text("mine")
    VectorIndex.build(vectors, kind="flat").save(tmp_path / "index")
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["index.json", "notes.txt", "vectors.npy"]
    VectorIndex.build(vectors, kind="hnsw").save(tmp_path / "index")
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["index.faiss", "index.json", "notes.txt"]


MEASURE = """
import json, re, sys
import faiss
import numpy as np
from hf_contrastive import VectorIndex
def held(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
VectorIndex.build(np.eye(3), kind="exact").search(np.eye(3), 1)  # what is loaded once is not counted
found, kept = {}, []
for folder in sys.argv[2:]:
    anonymous, mapped = held("RssAnon"), held("RssFile")
    kept.append(VectorIndex.load(folder, memory_map=sys.argv[1] == "map"))
    kept[-1].vectors([len(kept[-1]) // 2])
    found[kept[-1].kind] = [held("RssAnon") - anonymous, held("RssFile") - mapped]
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_mapped_index_is_not_read_into_memory(tmp_path):
    rows = clustered(30_000, 128)
    options = {"hnsw": {"links": 4, "ef_construction": 4}, "ivfpq": {"nlist": 20, "code_size": 8}}
    for kind in INDEX_KINDS:
        VectorIndex.build(rows, range(len(rows)), kind, **options.get(kind, {})).save(tmp_path / kind)
    found = {}
    for how in ("map", "read"):
        words = [sys.executable, "-c", MEASURE, how, *(str(tmp_path / kind) for kind in INDEX_KINDS)]
        found[how] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
    for kind in INDEX_KINDS:
        assert found["read"][kind][0] > 0.9 * rows.nbytes
        assert found["map"][kind][0] < 0.1 * rows.nbytes
        if kind != "hnsw":  # faiss walks once through a graph when it opens it
            assert found["map"][kind][1] < 0.5 * rows.nbytes


@kinds
def test_a_save_that_fails_leaves_the_old_index(vectors, queries, kind, tmp_path, monkeypatch):
    made = VectorIndex.build(vectors, range(ROWS), kind)
    expected = made.search(queries)
    made.save(tmp_path / "index")
    made.add(queries, range(len(queries)))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write_index", "_write_vectors", "_file_facts"):
        with monkeypatch.context() as patch:
            patch.setattr(storage, name, fail)
            if (name, kind) not in [("write_index", "exact"), ("write_index", "flat"), ("_write_vectors", "hnsw")]:
                with pytest.raises(OSError, match=r"disk is full.*index.*unchanged"):
                    made.save(tmp_path / "index")
        assert [path.name for path in tmp_path.iterdir()] == ["index"]
    same(VectorIndex.load(tmp_path / "index").search(queries), expected)
    same(VectorIndex.load(tmp_path / "index", memory_map=False).search(queries), expected)


def test_a_kill_between_files_is_completed_by_the_next_load(vectors, queries, tmp_path):
    VectorIndex.build(vectors, range(ROWS), "ivfpq").save(tmp_path / "index")
    np.save(tmp_path / "more.npy", queries)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"""
import os
import numpy as np
from hf_contrastive import VectorIndex
index = VectorIndex.load({str(tmp_path / "index")!r})
index.add(np.load({str(tmp_path / "more.npy")!r}), range(40))
replace = os.replace
def replace_one_then_die(source, destination):
    replace(source, destination)
    if os.path.basename(os.path.dirname(destination)) == "index":
        os._exit(9)
os.replace = replace_one_then_die
index.save({str(tmp_path / "index")!r})
""",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 9, done.stderr
    assert len(VectorIndex.load(tmp_path / "index", memory_map=False)) == ROWS + 40


def damage(folder: Path, file: str, how: str) -> None:
    path = folder / file
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    elif how == "flip":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif how == "other":  # of the right size
        path.write_bytes(b"x" * len(content))


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("how", ["cut", "empty", "gone", "other"])
@pytest.mark.parametrize(
    ("kind", "file"),
    [("flat", "vectors.npy"), ("hnsw", "index.faiss"), ("ivfpq", "index.faiss"), ("exact", "ids.arrow")],
)
def test_files_that_are_not_whole(vectors, kind, file, how, mapped, tmp_path):
    VectorIndex.build(vectors, [str(n) for n in range(ROWS)], kind).save(tmp_path)
    damage(tmp_path, file, how)
    what = {"cut": "it was cut short", "empty": "has 0 bytes", "gone": "is missing"}.get(
        how, "is no index of faiss|is no array|holds no ids" if mapped else "has changed since it was written"
    )
    with pytest.raises(ValueError, match=f"{file}.*({what})"):
        VectorIndex.load(tmp_path, mapped)


@kinds
def test_a_changed_number_is_found_when_all_is_read(vectors, kind, tmp_path):
    VectorIndex.build(vectors, kind=kind).save(tmp_path)
    damage(tmp_path, "index.faiss" if kind in ("hnsw", "ivfpq") else "vectors.npy", "flip")
    with pytest.raises(ValueError, match="has changed since it was written; copy the whole folder again"):
        VectorIndex.load(tmp_path, memory_map=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "a cake"}, "its format is 'a cake'"),
        ({"version": 2}, "its version is 2, this release reads up to 1; update it"),
        ({"rows": -3}, "a number in it cannot be"),
        ({"rows": "many"}, "a number in it cannot be"),
        ({"longest": float("nan")}, "a number in it cannot be"),
        ({"kind": "tree"}, "kind 'tree' with 'float32' is unknown"),
        ({"files": {"../secret": {"bytes": 3, "blake2b": ""}}}, "it names the files ../secret"),
        ({"dim": None}, "a number in it cannot be"),
        ({"kind": ...}, "'kind' is missing"),
    ],
)
def test_descriptions_that_are_broken(vectors, change, message, tmp_path):
    VectorIndex.build(vectors, kind="flat").save(tmp_path)
    path = tmp_path / "index.json"
    content = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    with pytest.raises(ValueError, match=f"index.json does not describe an index: {message}"):
        VectorIndex.load(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"index.json does not describe an index.*Build it anew"):
        VectorIndex.load(tmp_path)


def test_files_of_another_index(vectors, tmp_path):
    VectorIndex.build(vectors, kind="flat").save(tmp_path / "a")
    np.save(tmp_path / "a" / "vectors.npy", vectors.reshape(ROWS // 2, 2 * DIM))
    with pytest.raises(ValueError, match=r"holds float32 \[600, 48\], expected float32 \[1200, 24\]"):
        VectorIndex.load(tmp_path / "a")
    # a pickle of the right size is not opened
    path = tmp_path / "a" / "vectors.npy"
    np.save(path, np.array([{}] * 3, dtype=object), allow_pickle=True)
    facts = json.loads((tmp_path / "a" / "index.json").read_text())
    facts["files"]["vectors.npy"]["bytes"] = path.stat().st_size
    (tmp_path / "a" / "index.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="is no array"):
        VectorIndex.load(tmp_path / "a")
    VectorIndex.build(vectors, kind="hnsw").save(tmp_path / "b")
    facts = json.loads((tmp_path / "b" / "index.json").read_text())
    (tmp_path / "b" / "index.json").write_text(json.dumps({**facts, "rows": 7}))
    with pytest.raises(ValueError, match="holds IndexHNSWFlat of 1200 vectors, expected hnsw of 7"):
        VectorIndex.load(tmp_path / "b")


# ------------------------------------------------------------------------------------------------------------ bad input


def small(kind: str = "exact", **options) -> VectorIndex:
    return VectorIndex.build(clustered(20), kind=kind, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: small("tree"), ValueError, "`kind` is 'tree'; expected one of auto, exact, flat, hnsw, ivfpq"),
        (lambda: small("flat", nprobe=3), ValueError, "kind='flat' has no nprobe; its options are: none"),
        (lambda: small("hnsw", nlist=3), ValueError, "its options are: links, ef_construction, ef_search"),
        (lambda: small("hnsw", links=0), ValueError, "`links` is 0; expected 1 or more"),
        (lambda: small("ivfpq"), ValueError, "trains 256 codes, and there are 20 vectors; take kind='flat'"),
        (lambda: small("ivfpq", nlist=21), ValueError, "`nlist` is 21, but there are 20 vectors"),
        (lambda: small("ivfpq", code_size=25), ValueError, "`code_size` is 25, but there are 24 numbers in a vector"),
        (lambda: small(dtype="int8"), ValueError, "`dtype` is 'int8'; expected one of float32, float16"),
        (lambda: small(keep_vectors=False), ValueError, "only kind='ivfpq' can do with keep_vectors=False"),
        (
            lambda: VectorIndex.build(np.zeros((0, 4))),
            ValueError,
            r"shape \[0, 4\]; an index needs at least one vector",
        ),
        (lambda: VectorIndex.build([]), ValueError, r"shape \[0\], expected \[rows, dim\]"),
        (lambda: VectorIndex.build(np.zeros(4)), ValueError, r"shape \[4\], expected \[rows, dim\]"),
        (lambda: VectorIndex.build([["a"]]), ValueError, "holds <U1, expected numbers"),
        (
            lambda: VectorIndex.build([[1.0], [np.nan], [np.inf]]),
            ValueError,
            r"`vectors`: 2 of 3 rows hold NaN or infinity \(first: row 1\)",
        ),
        (
            lambda: VectorIndex.build([[1e5]], normalize=False, dtype="float16"),
            ValueError,
            "numbers beyond 65504.*take dtype='float32'",
        ),
        (lambda: VectorIndex.build(np.ones((3, 2)), ["a", "b"]), ValueError, "2 `ids` for 3 vectors"),
        (lambda: VectorIndex.build(np.ones((3, 2)), ["a", None, "b"]), ValueError, "missing .first: of vector 1"),
        (lambda: VectorIndex.build(np.ones((2, 2)), ["a", 1]), ValueError, "`ids` are not of one type"),
        (
            lambda: VectorIndex.build(np.ones((2, 2)), [0.5, 1.5]),
            ValueError,
            "of type double; expected whole numbers or",
        ),
        (lambda: VectorIndex.build(np.ones((2, 2)), [True, False]), ValueError, "of type bool"),
        (lambda: small().search(np.ones((2, 5))), ValueError, "`queries` have 5 numbers, but the index has 24"),
        (lambda: small().search(np.full((1, DIM), np.nan)), ValueError, "`queries`: 1 of 1 rows hold NaN"),
        (lambda: small().search(np.ones((1, DIM)), 21), ValueError, "`k` is 21, but the index has 20 vectors"),
        (lambda: small().search(np.ones((1, DIM)), 0), ValueError, "`k` is 0"),
        (lambda: small().search(np.ones((1, DIM)), 3, effort=0), ValueError, "`effort` is 0; expected 1 or more"),
        (lambda: small().recall(np.ones((0, DIM))), ValueError, "`queries` has no row"),
        (lambda: small().neighbours_of([20]), ValueError, "there is no vector 20; the index has 0 to 19"),
        (lambda: small().neighbours_of([3], 20), ValueError, "`k` is 20, but there are 19 other vectors"),
        (lambda: small().add(np.ones((2, 5))), ValueError, "`vectors` have 5 numbers, but the index has 24"),
        (lambda: small().add(np.full((1, DIM), np.inf)), ValueError, "NaN or infinity"),
        (lambda: small().add(np.ones((1, DIM)), ["a"]), ValueError, "knows its vectors by number; give ids for all"),
        (
            lambda: small(ids=range(20)).add(np.ones((1, DIM))),
            ValueError,
            "has ids, the new vectors none; give ids for",
        ),
        (
            lambda: small(ids=range(20)).add(np.ones((1, DIM)), ["a"]),
            ValueError,
            "the ids of the index are whole numbers, the new ones texts; give whole numbers",
        ),
        (lambda: VectorIndex.load("no/where"), FileNotFoundError, r"no index in no.where.*hf-contrastive index build"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_refused_addition_changes_nothing(vectors):
    for kind in INDEX_KINDS:
        made = VectorIndex.build(vectors, range(ROWS), kind)
        for rows, names in ((np.full((1, DIM), np.nan), [1]), (np.ones((1, DIM)), ["x"]), (np.ones((2, DIM)), [1])):
            with pytest.raises(ValueError, match=r"NaN|texts|2 vectors"):
                made.add(rows, names)
        assert len(made) == ROWS == len(made.ids)
        assert made.search(vectors[:1], ROWS).rows.max() < ROWS
