"""`hf-contrastive train`: finds the recipe and its settings, starts the processes, passes everything on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_contrastive.cli import train
from hf_contrastive.cli.common import CliError, WrongUsage
from hf_contrastive.registry import REGISTRY


RECIPE = """
import json, os, pathlib, sys
if "--help" in sys.argv:
    print("help of the recipe", sys.argv[1:])
    sys.exit(0)
rank = os.environ.get("RANK", "0")
names = ("WORLD_SIZE", "ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES")
seen = {"arguments": sys.argv[1:], **{name: os.environ.get(name) for name in names}}
pathlib.Path(os.environ["SEEN"], "rank" + rank + ".json").write_text(json.dumps(seen))
sys.exit(int(os.environ.get("LEAVE_WITH", "0")))
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "recipes" / "simclr"
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(RECIPE)
    (folder / "digits.yaml").write_text("a: 1\n")
    (folder / "cifar10.yaml").write_text("a: 2\n")
    monkeypatch.setattr(train, "recipe_folders", lambda: [tmp_path / "recipes"])
    monkeypatch.setenv("SEEN", str(tmp_path))
    monkeypatch.setattr(train, "_cuda_devices", lambda: 0)
    return folder


def seen(recipe: Path, rank: int = 0) -> dict:
    return json.loads((recipe.parents[1] / f"rank{rank}.json").read_text())


def test_the_default_settings_and_unknown_options_pass_through(call, recipe):
    called = call("train", "simclr", "--lr", "-1", "--flag", "--debug", "--name=x y")
    assert called.code == 0
    assert seen(recipe)["arguments"] == [str(recipe / "digits.yaml"), "--lr", "-1", "--flag", "--debug", "--name=x y"]
    assert "settings digits.yaml, 1 process" in called.err


@pytest.mark.parametrize(
    "words",
    [
        ["simclr", "cifar10"],
        ["simclr", "cifar10.yaml"],
        ["simclr", "--config", "cifar10"],
        ["--config", "cifar10", "simclr"],
        ["simclr", "--config=cifar10.yaml"],
    ],
    ids=" ".join,
)
def test_settings_by_name(call, recipe, words):
    assert call("train", *words, "--x", "1").code == 0
    assert seen(recipe)["arguments"] == [str(recipe / "cifar10.yaml"), "--x", "1"]


def test_settings_by_path(call, recipe, tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 3\n")
    assert call("train", "simclr", tmp_path / "mine.yaml").code == 0
    assert seen(recipe)["arguments"] == [str(tmp_path / "mine.yaml")]


def test_missing_settings_list_the_recipes_own(call, recipe):
    called = call("train", "simclr", "cifar11")
    assert called.code == 2
    assert "cifar10, digits" in called.err
    assert "Did you mean cifar10?" in called.err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["simclr", "digits", "--config", "cifar10"], "name"),
        (["simclr", "--config"], "needs a value"),
        (["simclr", "--num-processes", "many"], "--num-processes"),
        (["simclr", "--num-processes", "0"], "at least 1"),
    ],
)
def test_wrong_usage(call, recipe, words, part):
    called = call("train", *words)
    assert called.code == 2
    assert part in called.err
    assert not (recipe.parents[1] / "rank0.json").exists()


def test_help_of_the_recipe_and_of_the_command(call, recipe):
    assert call("train", "simclr", "--help").out == "help of the recipe ['--help']\n"
    assert "--num-processes" in call("train", "--help").out
    assert call("train").code == 2


def test_the_exit_code_is_passed_on(call, recipe, monkeypatch):
    monkeypatch.setenv("LEAVE_WITH", "7")
    assert call("train", "simclr").code == 7


@pytest.mark.distributed
def test_two_processes_really_start_on_cpu(call, recipe):
    called = call("train", "simclr", "--num-processes", "2", "--x", "1")
    assert called.code == 0
    assert "2 processes" in called.err
    for rank in (0, 1):
        found = seen(recipe, rank)
        assert found["WORLD_SIZE"] == "2"
        assert found["ACCELERATE_USE_CPU"] == "true"
        assert found["arguments"] == [str(recipe / "digits.yaml"), "--x", "1"]


def test_one_process_on_a_machine_with_several_devices_sees_one(monkeypatch):
    monkeypatch.setattr(train, "_cuda_devices", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert train.build_command(Path("t.py"), [], 1)[1] == {"CUDA_VISIBLE_DEVICES": "2"}
    assert train.count_processes(None) == 4
    assert "ACCELERATE_USE_CPU" not in train.build_command(Path("t.py"), [], 4)[1]


def test_a_signal_gives_128_plus_its_number(recipe):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert train.run([sys.executable, "-c", code], {}) == 128 + signal.SIGTERM


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_reaches_the_recipe_which_stops_by_itself(tmp_path):
    child = (
        "import pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "try:\n    time.sleep(30)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.2); sys.exit(5)\n"
    )
    ready = tmp_path / "ready"
    parent = (
        "import sys; from hf_contrastive.cli.train import run; "
        f"sys.exit(run([sys.executable, '-c', {child!r}, {str(ready)!r}], {{}}))"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    for _ in range(400):
        if ready.exists():
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    assert process.wait(timeout=20) == 5


def test_recipe_is_found_beside_the_package_or_where_it_was_installed(tmp_path, monkeypatch):
    installed = tmp_path / "share" / "hf_contrastive" / "recipes"
    (installed / "simclr").mkdir(parents=True)
    (installed / "simclr" / "train.py").touch()
    monkeypatch.setattr(train.sys, "prefix", str(tmp_path))
    assert installed in train.recipe_folders()
    assert train.recipe_folders()[0] == Path(train.__file__).resolve().parents[2] / "recipes"
    monkeypatch.setattr(train, "recipe_folders", lambda: [tmp_path / "nothing", installed])
    assert train.find_recipe("simclr") == installed / "simclr"
    with pytest.raises(CliError, match=r"gsimclr/train\.py"):
        train.find_recipe("gsimclr")


def test_every_system_has_a_recipe_that_is_installed():
    from setuptools.config.pyprojecttoml import load_file

    root = Path(train.__file__).resolve().parents[2]
    files = load_file(root / "pyproject.toml")["tool"]["setuptools"]["data-files"]
    for spec in REGISTRY.values():
        patterns = files[f"share/hf_contrastive/recipes/{spec.slug}"]
        assert patterns == [f"{spec.recipe}/*.py", f"{spec.recipe}/*.yaml"]
        assert train.find_settings(root / spec.recipe, None) is not None, "no digits.yaml, or another default"


def test_split_arguments():
    assert train.split_arguments(["a.yaml", "--x", "--config_file", "y"]) == (
        ["--x", "--config_file", "y"],
        {"config": "a.yaml"},
    )
    assert train.split_arguments(["--num_processes=3"]) == ([], {"num_processes": "3"})
    with pytest.raises(WrongUsage, match="once"):
        train.split_arguments(["a.yaml", "--config", "b.yaml"])
