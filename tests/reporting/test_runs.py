"""Run folders: what is there is read, what is broken is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hf_contrastive.reporting import read_metrics, read_run, save_embeddings


def write(folder, lines, name="metrics.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_lines_of_a_step_are_merged_and_a_resumed_run_overwrites(tmp_path):
    path = write(
        tmp_path,
        [
            {"step": 10, "loss": 3.0},
            {"step": 20, "loss": 2.0},
            {"step": 10, "eval_knn_top1": 0.5},
            {"step": 20, "loss": 1.5},
            {"train_runtime": 9.0},
        ],
    )
    assert read_metrics(path) == [
        {"step": 10, "loss": 3.0, "eval_knn_top1": 0.5},
        {"step": 20, "loss": 1.5, "train_runtime": 9.0},
    ]


def test_a_line_cut_by_a_kill_is_left_out_with_a_warning(tmp_path):
    path = write(tmp_path, [{"step": 1, "loss": 3.0}, '{"step": 2, "lo', "", {"step": 3, "loss": 1.0}, "[1]"])
    with pytest.warns(UserWarning, match=r"left out 2 line\(s\) that are not JSON \(first: line 2\)"):
        assert [line["step"] for line in read_metrics(path)] == [1, 3]


def test_empty_and_absent_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics.jsonl does not exist"):
        read_metrics(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="stopped before its first log line"):
        read_metrics(write(tmp_path, [""]))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_run(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"holds neither metrics.jsonl nor .* \(found: config.json\)"):
        read_run(tmp_path / "other")


def test_whole_run(tmp_path):
    write(tmp_path, [{"step": 1, "loss": 3.0}])
    (tmp_path / "all_results.json").write_text('{"knn_top1": 0.9}')
    for step in (9, 10):
        write(tmp_path / f"checkpoint-{step}", [{"global_step": step, "log_history": []}], "trainer_state.json")
    run = read_run(tmp_path)
    assert run.metrics == [{"step": 1, "loss": 3.0}]
    assert run.results == {"knn_top1": 0.9}
    assert run.trainer_state is not None
    assert run.trainer_state["global_step"] == 10  # by number, not by letter
    assert run.embeddings == {}


def test_log_history_stands_in_for_a_missing_metrics_file(tmp_path):
    history = [{"loss": 2.0, "step": 5, "epoch": 1.0}, {"eval_loss": 1.0, "step": 5}]
    write(tmp_path / "checkpoint-5", [{"log_history": history}], "trainer_state.json")
    assert read_run(tmp_path).metrics == [{"step": 5, "loss": 2.0, "epoch": 1.0, "eval_loss": 1.0}]


def test_a_broken_json_file_is_named(tmp_path):
    write(tmp_path, [{"step": 1, "loss": 3.0}])
    (tmp_path / "all_results.json").write_text('{"knn')
    with pytest.raises(ValueError, match=r"all_results.json is not JSON .* cut off"):
        read_run(tmp_path)


def test_embeddings_round_trip(tmp_path):
    z = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    save_embeddings(tmp_path, embeddings=z, labels=torch.arange(4), class_names=["a", "b"], data="digits, test split")
    run = read_run(tmp_path)
    assert run.metrics == []
    assert np.array_equal(run.embeddings["embeddings"], z.detach().float().numpy())
    assert run.embeddings["labels"].tolist() == [0, 1, 2, 3]
    assert str(run.embeddings["data"]) == "digits, test split"


def test_embeddings_refusals(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        save_embeddings(tmp_path, labels=[1])
    with pytest.raises(ValueError, match="`labels` has 1 rows; `embeddings` must have as many"):
        save_embeddings(tmp_path, embeddings=np.eye(3), labels=[1])
    images = np.empty(2, dtype=object)
    with pytest.raises(ValueError, match="`images` is not an array of numbers"):
        save_embeddings(tmp_path, embeddings=np.eye(2), images=images)
    assert not list(tmp_path.iterdir())
    (tmp_path / "embeddings.npz").write_bytes(b"PK cut")
    with pytest.raises(ValueError, match=r"embeddings.npz cannot be read"):
        read_run(tmp_path)
