"""The benchmark of recommenders still puts every system together, and what it takes times of works."""

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
