"""The benchmark of recommenders still puts every system together, and what it takes times of works; that of indexes runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_contrastive.data import load_interactions


BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def recsys():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import recsys

        return recsys
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_every_system_makes_an_epoch_and_is_ranked(recsys, tmp_path):
    data = load_interactions("planted", seed=0)
    systems = {system.name: system for system in (*recsys.COMPARED, *recsys.ALONE)}
    assert set(systems) == {"mf", "lightgcn", "sgl", "simgcl", "dccf", "bm3", "siger"}
    for name, system in systems.items():
        ours = recsys.Ours(system, data, str(tmp_path / name), steps=1)
        assert ours.epoch()["seconds"] > 0
        assert 0 < ours.evaluate()["metrics"]["recall@20"] < 1


def test_answering_process(recsys, tmp_path):
    script = tmp_path / "adds.py"
    script.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    if asked['do'] == 'end': sys.exit(3)\n"
        "    bad = asked['do'] != 'add'\n"
        "    print(json.dumps({'error': 'no such thing'} if bad else {'sum': asked['a'] + asked['b']}), flush=True)\n"
    )
    process = recsys.common.Answering([sys.executable, str(script)], threads=1, folder=str(tmp_path))
    assert process.ask("add", a=1, b=2) == {"sum": 3}
    with pytest.raises(RuntimeError, match=r"adds\.py, subtract: no such thing"):
        process.ask("subtract")
    with pytest.raises(SystemExit, match=r"adds\.py ended with 3 at 'end'"):
        process.ask("end")
    process.close()


@pytest.fixture
def vector_index(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import vector_index

    return vector_index


def test_every_kind_of_index_is_measured(vector_index, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    words = ["--quick", "--sizes", "600", "--output", str(page)]
    monkeypatch.setattr(sys, "argv", ["vector_index.py", *words])
    vector_index.main(words)
    text = page.read_text()
    assert all(f"| {name} | " in text for name in (*vector_index.KINDS, *vector_index.VARIANTS))
    assert "### 600 vectors of 32 numbers" in text
    assert "- Goal: recall@10 of at least 0.95 at the default settings: hnsw, 600 vectors met" in text
    assert str(tmp_path) not in text
    with pytest.raises(SystemExit):  # numbers of a quick run do not go into RESULTS.md
        vector_index.parse(["--quick"])
