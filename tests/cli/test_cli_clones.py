"""`hf-contrastive clones`: the pairs of a folder are ranked, odd files are told and do no harm."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from hf_contrastive import CodeCloneConfig, CodeCloneForPreTraining, CodeGraphConfig, CodeTransformerConfig
from hf_contrastive.cli.clones import rank_pairs
from hf_contrastive.data import ProgramAugmenter, ProgramProcessor, make_programs


def save(folder, kind, programs):
    codes, spoken = [one["code"] for one in programs], [one["language"] for one in programs]
    processor = ProgramProcessor.build(kind, codes, spoken, vocab_size=300, max_length=64, names="number")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "graph":
        encoder = CodeGraphConfig(embedding_size=12, conv_mlp_layers=2, **processor.encoder_fields())
    else:
        encoder = CodeTransformerConfig(**sizes, **processor.encoder_fields())
    torch.manual_seed(0)
    config = CodeCloneConfig(encoder=kind, backbone_config=encoder, projection_dims=[8])
    CodeCloneForPreTraining(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def programs():
    return [one for one in make_programs("test", 2) if one["language"] != "python"][:6]


@pytest.fixture(scope="module")
def clone_model(tmp_path_factory, programs):
    return save(tmp_path_factory.mktemp("saved") / "model", "text", programs)


@pytest.fixture
def homework(tmp_path, programs):
    """Programs, a renamed copy of the first, and what else lies in such a folder."""
    folder = tmp_path / "homework"
    (folder / "group").mkdir(parents=True)
    (folder / ".git").mkdir()
    for number, one in enumerate(programs):
        (folder / f"student{number}.{one['language']}").write_text(one["code"])
    copied = ProgramAugmenter(["rename", "strip_comments"], 1.0)(programs[0]["code"], programs[0]["language"])
    assert copied != programs[0]["code"]
    (folder / "group" / f"copied.{programs[0]['language']}").write_text(copied)
    (folder / "empty.c").write_text(" \n// nothing\n")
    (folder / "report.pdf").write_bytes(b"%PDF")
    (folder / "picture.c").write_bytes(b"\x00\x01")
    (folder / "latin.c").write_bytes("int main() { return 1; } // f\u00fcr".encode("latin-1"))
    (folder / ".git" / "hidden.c").write_text("int main() { }")
    return folder


def test_a_renamed_copy_ranks_first(call, homework, clone_model, programs):
    called = call("clones", homework, "--checkpoint", clone_model)
    assert called.code == 0, called.err
    lines = called.out.splitlines()
    assert lines[0] == "8 programs, compared by model"
    first = lines[2].split()
    assert first[:2] == ["1", "1.0000"]
    assert set(first[2:]) == {f"group/copied.{programs[0]['language']}", f"student0.{programs[0]['language']}"}
    assert lines[-1] == "20 of 28 pairs"
    assert "1 files are no source files" in called.err
    assert "empty.c is left out: it is empty" in called.err
    assert "picture.c is left out: it is no text" in called.err
    assert "latin.c holds bytes that are no UTF-8" in called.err
    assert "hidden" not in called.out + called.err


def test_json_csv_threshold_and_top(call, homework, clone_model, tmp_path):
    called = call(
        "clones", homework, "--checkpoint", clone_model, "--top", 0, "--json", "-", "--csv", tmp_path / "x/p.csv"
    )
    assert called.code == 0, called.err
    record = json.loads(called.out)
    values = [pair["similarity"] for pair in record["pairs"]]
    assert (record["files"], record["pairs_in_all"], len(values)) == (8, 28, 28)
    assert values == sorted(values, reverse=True)
    assert {one["file"] for one in record["unusable"]} == {"empty.c", "picture.c"}
    assert str(tmp_path) not in called.out
    rows = list(csv.DictReader((tmp_path / "x" / "p.csv").open()))
    assert [row["similarity"] for row in rows] == [str(value) for value in values]
    limit = values[3]
    record = json.loads(
        call("clones", homework, "--checkpoint", clone_model, "--threshold", limit, "--top", 2, "--json", "-").out
    )
    assert [pair["similarity"] for pair in record["pairs"]] == values[:2]


def test_all_files_as_one_language(call, homework, clone_model):
    (homework / "solution.txt").write_text("int main() { return 2; }")
    record = json.loads(call("clones", homework, "--checkpoint", clone_model, "--json", "-").out)
    assert record["files"] == 8
    record = json.loads(call("clones", homework, "--checkpoint", clone_model, "--language", "cpp", "--json", "-").out)
    assert record["files"] == 9


def test_what_does_not_parse_is_named(call, homework, tmp_path, programs):
    model = save(tmp_path / "graph", "graph", programs)
    (homework / "wild.c").write_text("}}}} ((( ]] == int for %% ;;; )) {{ @@@ $$ \n" * 3)
    called = call("clones", homework, "--checkpoint", model)
    assert called.code == 0, called.err
    assert "wild.c is left out: it does not parse as c" in called.err


def test_mistakes_are_one_line(call, homework, clone_model, tmp_path, checkpoint):
    for words, code, message in (
        ((tmp_path / "nowhere", "--checkpoint", clone_model), 2, "which is not there; give a folder"),
        ((homework / "empty.c", "--checkpoint", clone_model), 2, "which is a file; give a folder"),
        ((homework, "--checkpoint", clone_model, "--language", "java"), 2, "--language is 'java'"),
        ((homework / "group", "--checkpoint", clone_model), 1, "holds 1 readable source file"),
        ((homework, "--checkpoint", checkpoint), 1, "is a 'simclr' model, not a code clone model"),
        ((homework, "--checkpoint", tmp_path / "none"), 1, "no checkpoint folder"),
    ):
        called = call("clones", *words)
        assert called.code == code
        assert message in called.err
        assert len([line for line in called.err.strip().splitlines() if not line.startswith("note: ")]) == 1
    (clone_model / "program_processor.json").rename(clone_model / "aside.json")
    assert "has no program_processor.json" in call("clones", homework, "--checkpoint", clone_model).err
    (clone_model / "aside.json").rename(clone_model / "program_processor.json")


def test_ranking_of_pairs_equals_a_loop(monkeypatch):
    from hf_contrastive.cli import clones

    monkeypatch.setattr(clones, "_BLOCK", 3)
    z = torch.nn.functional.normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    z[5] = z[1]
    names = [f"f{number}" for number in range(8)]
    wanted = sorted(
        ((names[i], names[j], round(float(z[i] @ z[j]), 6)) for i in range(8) for j in range(i + 1, 8)),
        key=lambda pair: (-pair[2], pair[0], pair[1]),
    )
    pairs, total = rank_pairs(z, names, 0, None)
    assert total == 28
    assert [pair[:2] for pair in pairs] == [pair[:2] for pair in wanted]
    assert rank_pairs(z, names, 5, None)[0] == pairs[:5]
    assert rank_pairs(z, names, 0, 0.5)[1] == sum(pair[2] >= 0.5 for pair in wanted)
