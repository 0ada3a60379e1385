"""No local path leaves: texts, configurations, weights' metadata."""

from __future__ import annotations

import json

import pytest

from hf_contrastive.hub import find_local_paths, is_local_path, scrub_config, scrub_folder, scrub_text
from hf_contrastive.hub.scrub import local_paths_in_file


@pytest.mark.parametrize(
    "text",
    [
        "/home/user/data/cifar",
        "path=/tmp/x",
        '"/{}/model"'.format("root"),
        "(/Users/user/x.png)",
        "C:\\Users\\user\\x",
        "D:/data/x",
        "~/runs/1",
        "file:///home/user/x",
        "--dataset_path=/mnt/disk1/images",
    ],
)
def test_paths_are_found_and_removed(text):
    assert find_local_paths(f"first line\n{text} end")[0][0] == 2
    assert find_local_paths(scrub_text(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/data/x",
        "../shared/data/cifar10_small",
        "recipes/simclr/train.py",
        "and/or",
        "a / b",
        "</s>",
        "#!/usr/bin/env python",
        "> /dev/null",
        "ratio 3/4, time 12:30",
        "me/x",
        "see docs/home/index.md",
        "{'a': '/'}",
        "about ~3/4 of it",
        "![](map.png)",
    ],
)
def test_other_text_stays(text):
    assert find_local_paths(text) == []
    assert scrub_text(text) == text


def test_place_of_the_tests_is_found(tmp_path):
    assert find_local_paths(f"saved to {tmp_path}/x"), "this machine's own folders count, whatever they are called"


def test_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "local").mkdir(parents=True)
    config = {
        "_name_or_path": str(tmp_path),
        "backbone_config": {"_name_or_path": "../resnet", "depths": [1, 2], "inner": [{"_name_or_path": "me/local"}]},
        "base_model_name_or_path": "microsoft/resnet-18",
        "best_model_checkpoint": "/home/user/out/checkpoint-40",
        "note": "from /home/user/x.npz",
        "size": 3,
    }
    assert scrub_config(config) == {
        "_name_or_path": "",
        "backbone_config": {"_name_or_path": "", "depths": [1, 2], "inner": [{"_name_or_path": ""}]},
        "base_model_name_or_path": "microsoft/resnet-18",
        "best_model_checkpoint": "checkpoint-40",
        "note": "from <local>/x.npz",
        "size": 3,
    }
    assert config["_name_or_path"] == str(tmp_path), "the argument is not changed"


@pytest.mark.parametrize(
    ("name", "local"),
    [("bert-base-uncased", False), ("me/x", False), ("a/b/c", True), ("out/", True), ("C:\\x", True), ("..", True)],
)
def test_hub_id_or_path(name, local):
    assert is_local_path(name) is local


def test_folder_is_scrubbed_but_not_vocabularies(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "/home/user/x"}))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"/home/user": 7}))
    (tmp_path / "other.json").write_text("not json")
    assert scrub_folder(tmp_path) == ["config.json"]
    assert json.loads((tmp_path / "config.json").read_text()) == {"_name_or_path": ""}
    assert "/home/user" in (tmp_path / "tokenizer.json").read_text()


def test_paths_in_safetensors_metadata(tmp_path):
    header = json.dumps({"__metadata__": {"source": "/home/user/x"}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert local_paths_in_file(tmp_path / "model.safetensors") == [(1, "/home/user/x")]
    (tmp_path / "picture.png").write_bytes(b"\0/home/user/x")
    assert local_paths_in_file(tmp_path / "picture.png") == []
