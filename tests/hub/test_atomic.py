"""A save that is killed or finds the disk full leaves the previous checkpoint as it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_contrastive.hub import atomic_folder, finish_interrupted_save


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_new_folder_appears_only_at_the_end(tmp_path):
    target = tmp_path / "out" / "checkpoint-4"
    with atomic_folder(target) as folder:
        write(folder, config__json="new")
        write(folder / "inner", a__txt="x")
        assert not target.exists()
    assert read(target) == {"config.json": "new"}
    assert read(target / "inner") == {"a.txt": "x"}
    assert hidden(target.parent) == []


def test_existing_folder_keeps_files_that_were_not_written(tmp_path):
    target = tmp_path / "model"
    write(target, config__json="old", notes__txt="mine")
    (target / "checkpoint-2").mkdir()
    with atomic_folder(target) as folder:
        write(folder, config__json="new", model__safetensors="w")
    assert read(target) == {"config.json": "new", "notes.txt": "mine", "model.safetensors": "w"}
    assert (target / "checkpoint-2").is_dir()
    assert hidden(tmp_path) == []


def test_single_weight_file_does_not_survive_beside_new_shards(tmp_path):
    # transformers would load the old model.safetensors and ignore the new shards
    target = tmp_path / "model"
    write(target, **{"model__safetensors": "old", "config__json": "old"})
    with atomic_folder(target) as folder:
        (folder / "model-00001-of-00002.safetensors").write_text("a")
        (folder / "model.safetensors.index.json").write_text("i")
    assert sorted(read(target)) == ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]


def test_save_without_weights_leaves_weights_alone(tmp_path):
    target = tmp_path / "model"
    write(target, model__safetensors="old")
    with atomic_folder(target) as folder:
        write(folder, preprocessor_config__json="p")
    assert read(target) == {"model.safetensors": "old", "preprocessor_config.json": "p"}


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(3)])
def test_failure_leaves_everything_as_it_was(tmp_path, error):
    target = tmp_path / "model"
    write(target, config__json="old")

    def save() -> None:
        with atomic_folder(target) as folder:
            write(folder, config__json="half")
            raise error

    with pytest.raises(type(error)):
        save()
    assert read(target) == {"config.json": "old"}
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_explained(tmp_path, error):
    target = tmp_path / "model"
    write(target, config__json="old")
    with pytest.raises(OSError, match=r"disk is full.*model.*unchanged.*MB free") as caught:
        with atomic_folder(target):
            raise error
    assert caught.value.errno == errno.ENOSPC
    assert read(target) == {"config.json": "old"}


def test_full_disk_while_flushing(tmp_path, monkeypatch):
    target = tmp_path / "model"
    write(target, config__json="old")

    def no_room(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="disk is full"):
        with atomic_folder(target) as folder:
            write(folder, config__json="new")
    assert read(target) == {"config.json": "old"}
    assert hidden(tmp_path) == []


def run_until_killed(source: str) -> None:
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr


def test_kill_while_writing(tmp_path):
    target = tmp_path / "model"
    write(target, config__json="old", model__safetensors="old")
    run_until_killed(
        f"""
import os
from hf_contrastive.hub.atomic import atomic_folder
with atomic_folder({str(target)!r}) as folder:
    (folder / "model.safetensors").write_text("half")
    os._exit(9)
"""
    )
    assert read(target) == {"config.json": "old", "model.safetensors": "old"}
    assert len(hidden(tmp_path)) == 1
    with atomic_folder(target) as folder:
        write(folder, config__json="new")
    assert hidden(tmp_path) == [], "the next save removes what the killed one left"


def test_kill_while_moving_into_place_is_completed_later(tmp_path):
    target = tmp_path / "model"
    write(target, config__json="old", model__safetensors="old")
    run_until_killed(
        f"""
import os
from hf_contrastive.hub import atomic
replace = os.replace
def replace_one_then_die(source, destination):
    replace(source, destination)
    os._exit(9)
with atomic.atomic_folder({str(target)!r}) as folder:
    for name in ("config.json", "model-00001-of-00001.safetensors"):
        (folder / name).write_text("new")
    os.replace = replace_one_then_die
"""
    )
    assert read(target)["model.safetensors"] == "old"
    assert finish_interrupted_save(target)
    assert read(target) == {"config.json": "new", "model-00001-of-00001.safetensors": "new"}
    assert hidden(tmp_path) == []
    assert not finish_interrupted_save(target)


def test_running_save_of_another_process_is_not_removed(tmp_path):
    target = tmp_path / "model"
    with atomic_folder(target) as outer:
        write(outer, config__json="outer")
        with atomic_folder(target) as inner:
            write(inner, config__json="inner")
        assert outer.is_dir()
    assert read(target) == {"config.json": "outer"}


def test_a_file_is_refused(tmp_path):
    (tmp_path / "model").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        with atomic_folder(tmp_path / "model"):
            pass
