"""Help, tables, exit codes, and that looking around stays light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_contrastive.registry import REGISTRY


COMMANDS = [
    [],
    ["list"],
    ["info"],
    ["env"],
    ["train"],
    ["embed"],
    ["index"],
    ["index", "build"],
    ["index", "search"],
    ["index", "info"],
    ["evaluate"],
    ["evaluate", "knn"],
    ["evaluate", "linear"],
    ["evaluate", "retrieval"],
    ["score"],
    ["generate"],
    ["filter"],
    ["clones"],
    ["recommend"],
    ["plot"],
]


@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_grouped_fits_and_ends_with_examples(call, monkeypatch, command, width):
    monkeypatch.setenv("COLUMNS", width)
    called = call(*command, "--help")
    assert called.code == 0
    assert "\x1b" not in called.out
    body, _, examples = called.out.partition("\nExamples\n")
    assert all(len(line) <= int(width) for line in body.splitlines())
    lines = examples.strip().splitlines()
    assert lines
    assert all(line.strip().startswith("hf-contrastive " + " ".join(command)) for line in lines)


def test_help_names_the_groups(call):
    assert all(name in call("--help").out for name in ("Look around", "Train and use"))
    assert all(name in call("embed", "-h").out for name in ("Output", "Data", "Speed"))


def test_looking_around_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from hf_contrastive.cli import main\n"
        "for words in (['--help'], ['list'], ['list', '--json'], ['embed', '--help'], ['train', '--help'],\n"
        "              ['embed', 'x', 'y', '-o', 'z.txt'], ['train', 'nothing'],\n"
        "              ['score', '--help'], ['score', 'x'], ['filter', '--help'], ['clones', '--help'],\n"
        "              ['recommend', '--help'], ['index', 'build', '--help'], ['index', 'search', 'x']): main(words)\n"
        "sys.stderr.write('loaded:' + str([n for n in ('torch', 'transformers', 'datasets') if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("loaded:[]")


def test_console_script():
    script = Path(sys.executable).with_name("hf-contrastive")
    environment = {**os.environ, "FORCE_COLOR": "1", "NO_COLOR": "1"}
    done = subprocess.run([script, "list"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert all(f"hf-contrastive train {slug}" in done.stdout for slug in REGISTRY)
    assert "\x1b[3" not in done.stdout  # no colour
    failed = subprocess.run([script, "info", "smclr"], capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "did you mean simclr" in failed.stderr


def test_version_and_no_arguments(call):
    from hf_contrastive import __version__

    assert call("--version").out == f"hf-contrastive {__version__}\n"
    called = call()
    assert "Usage" in called.out + called.err


def test_list_is_made_from_the_registry(call):
    called = call("list", "--json")
    rows = json.loads(called.out)
    assert [row["slug"] for row in rows] == list(REGISTRY)
    assert {row["try"] for row in rows} == {f"hf-contrastive train {slug}" for slug in REGISTRY}
    table = call("list", "--domain", "image").out
    assert all(f"{row.slug} " in table and row.title in table for row in REGISTRY.values() if row.domain == "image")
    assert len([line for line in table.splitlines() if line.startswith("simclr ")]) == 1  # never wrapped when piped


def test_list_of_an_unknown_domain(call):
    called = call("list", "--domain", "smell")
    assert called.code == 2
    assert "image" in called.err


@pytest.mark.parametrize("words", [["bogus"], ["list", "--bogus"], ["info"], ["embed", "a"], ["evaluate", "bogus"]])
def test_wrong_usage_is_2(call, words):
    called = call(*words)
    assert called.code == 2
    assert "Traceback" not in called.err
    assert called.out == ""


@pytest.mark.parametrize("words", [["info", "smclr"], ["train", "smclr"], ["train", "smclr", "--help"]])
def test_unknown_system_names_the_nearest(call, words):
    called = call(*words)
    assert called.code == 2
    assert "did you mean simclr" in called.err
    assert "gsimclr" in called.err
    assert len(called.err.strip().splitlines()) == 1


def test_errors_are_one_paragraph_and_debug_shows_where(call, tmp_path, monkeypatch):
    words = ["embed", tmp_path / "missing", "digits", "-o", tmp_path / "x.npy"]
    called = call(*words)
    assert (called.code, len(called.err.strip().splitlines())) == (1, 1)
    assert called.err.startswith("Error: ")
    assert "Traceback" in call(*words, "--debug").err
    monkeypatch.setenv("HF_CONTRASTIVE_DEBUG", "1")
    assert "Traceback" in call(*words).err
    monkeypatch.setenv("HF_CONTRASTIVE_DEBUG", "0")
    assert "Traceback" not in call(*words).err


def test_an_error_nobody_worded_is_named(call, monkeypatch, tmp_path):
    from hf_contrastive.cli import env

    def fail() -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(env, "collect", fail)
    called = call("env")
    assert called.code == 1
    assert "AttributeError: no such thing" in called.err
    assert "HF_CONTRASTIVE_DEBUG=1" in called.err


def test_env_tells_versions_and_nothing_private(call, monkeypatch, tmp_path):
    import getpass
    import platform

    import torch

    monkeypatch.setenv("HF_HOME", str(tmp_path / "kept"))
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    text = call("env").out
    assert torch.__version__.partition("+")[0] in text
    assert platform.python_version() in text
    assert "cores" in text
    assert 'pip install "hf-contrastive[' in text or "missing" not in text
    found = json.loads(call("env", "--json").out)
    assert set(found) == {"packages", "machine", "extras", "audio and video", "hub"}
    assert found["hub"]["cache"] == "a folder outside the home folder (set by HF_HOME)"
    assert found["hub"]["cache writable"].startswith("yes")
    for private in ("hf_secretsecret", str(tmp_path), str(Path.home()), platform.node()):
        assert private not in text
    if getpass.getuser() not in ("root", "user"):
        assert getpass.getuser() not in text


def test_env_says_when_the_cache_cannot_be_written(monkeypatch, tmp_path):
    import tempfile

    from hf_contrastive.cli.env import _cache

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert _cache()[1] == "no (Permission denied); set HF_HOME to a folder that can be written to"
