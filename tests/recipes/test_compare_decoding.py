"""Ways of decoding side by side: the functions, and the command as a user types it."""

from __future__ import annotations

import json

import datasets
import pytest
import torch
from helpers.recipes import run_recipe
from helpers.text_models import letter_tokenizer, tiny_model

from hf_contrastive.evaluation import coherence, diversity
from hf_contrastive.recipes.decoding import (
    DecodingArguments,
    Prompts,
    continue_prompts,
    make_prompts,
    measure_decoding,
    measure_reference,
    trace_contrastive,
)


@pytest.fixture(scope="module")
def tokenizer():
    return letter_tokenizer()


@pytest.fixture
def model():
    return tiny_model("gpt2")


PROMPTS = Prompts([[5, 6, 7], [9, 8], [20, 21, 22, 23]], [[8, 9], [10, 11], [24, 25]])
OPTIONS = DecodingArguments(new_tokens=6, decoding_batch_size=2)


@pytest.mark.parametrize("method", ["greedy", "beam", "contrastive"])
def test_batches_are_the_prompts_one_by_one(model, tokenizer, method):
    together = continue_prompts(model, tokenizer, PROMPTS, method, OPTIONS)
    alone = [continue_prompts(model, tokenizer, Prompts([row], []), method, OPTIONS)[0] for row in PROMPTS.prefixes]
    assert together == alone
    assert all(tokenizer.eos_token_id not in row for row in together)


def test_ways_differ_and_follow_their_settings(model, tokenizer):
    found = {m: continue_prompts(model, tokenizer, PROMPTS, m, OPTIONS) for m in ("greedy", "nucleus", "contrastive")}
    assert found["greedy"] != found["contrastive"]
    assert found["nucleus"] != found["greedy"]
    model.generation_config.update(do_sample=True, temperature=0.1, top_k=3, repetition_penalty=2.0)  # of a checkpoint
    assert continue_prompts(model, tokenizer, PROMPTS, "greedy", OPTIONS) == found["greedy"]
    state = torch.get_rng_state()
    assert continue_prompts(model, tokenizer, PROMPTS, "nucleus", OPTIONS) == found["nucleus"]
    assert torch.equal(torch.get_rng_state(), state)
    assert continue_prompts(model, tokenizer, PROMPTS, "nucleus", OPTIONS, seed=1) != found["nucleus"]
    zero = DecodingArguments(new_tokens=6, penalty_alpha=0.0)
    assert continue_prompts(model, tokenizer, PROMPTS, "contrastive", zero) == found["greedy"]
    with pytest.raises(ValueError, match="`method` is 'typical'; known are greedy"):
        continue_prompts(model, tokenizer, PROMPTS, "typical", OPTIONS)


def test_rows_of_the_table(model, tokenizer):
    kept: dict[str, list[str]] = {}
    rows = measure_decoding("m", model, tokenizer, PROMPTS, OPTIONS, scorer=(model, tokenizer), keep=kept)
    assert [row["decoding"] for row in rows] == ["greedy", "beam 4", "nucleus 0.95", "contrastive k5 a0.6"]
    greedy = continue_prompts(model, tokenizer, PROMPTS, "greedy", OPTIONS)
    assert rows[0]["length"] == pytest.approx(sum(map(len, greedy)) / 3)
    assert kept["greedy"] == tokenizer.batch_decode(greedy, skip_special_tokens=True)
    # greedy search takes the most likely token every time
    assert rows[0]["coherence"] > rows[2]["coherence"]
    reference = measure_reference(PROMPTS, tokenizer, (model, tokenizer))
    assert reference["model"] == "people"
    assert reference["length"] == 2
    assert reference["diversity"] is None  # no text has four words: nothing is said, rather than 100


def test_diversity_is_that_of_the_evaluation(model, tokenizer, monkeypatch):
    texts = ["a b a b a b c d", "e f g h"]
    monkeypatch.setattr(type(tokenizer), "batch_decode", lambda self, *args, **kwargs: texts)
    row = measure_reference(PROMPTS, tokenizer)
    assert row["diversity"] == pytest.approx(100 * diversity(texts)["diversity"])
    assert "coherence" not in row


def test_coherence_is_that_of_the_evaluation(model, tokenizer):
    found = measure_reference(PROMPTS, tokenizer, (model, tokenizer))["coherence"]
    texts = [tokenizer.batch_decode(part) for part in (PROMPTS.prefixes, PROMPTS.continuations)]
    assert found == coherence(*texts, model, tokenizer)
    silent = Prompts(PROMPTS.prefixes, [[], [], []])
    assert measure_reference(silent, tokenizer, (model, tokenizer))["coherence"] is None


def test_prompts_are_spread_over_the_text(tokenizer):
    text = "".join(chr(ord("a") + n % 26) for n in range(200))
    texts = datasets.Dataset.from_dict({"text": [text]})
    prompts = make_prompts(texts, tokenizer, DecodingArguments(num_prompts=4, prefix_length=3, new_tokens=5))
    assert [len(row) for row in prompts.prefixes] == [3] * 4
    whole = tokenizer(text)["input_ids"]
    for number, (prefix, continuation) in enumerate(zip(prompts.prefixes, prompts.continuations, strict=True)):
        start = 8 * (number * 25 // 4)
        assert prefix + continuation == whole[start : start + 8]
    with pytest.raises(ValueError, match="hold no 400 tokens in a row for a prompt of 300"):
        make_prompts(texts, tokenizer, DecodingArguments(prefix_length=300, new_tokens=100))


def test_trace_tells_what_was_chosen(model, tokenizer):
    rows = trace_contrastive(model, tokenizer, [5, 6, 7], OPTIONS)
    ids = continue_prompts(model, tokenizer, Prompts([[5, 6, 7]], []), "contrastive", OPTIONS)[0]
    assert [row["token"] for row in rows][: len(ids)] == [tokenizer.decode([token]) for token in ids]
    for row in rows:
        assert row["confidence"] <= row["most_probable_confidence"]
        assert (row["rank"] == 0) == (row["token"] == row["most_probable"])
        if row["rank"]:
            assert row["penalty"] < row["most_probable_penalty"]


def run(*words: str) -> None:
    run_recipe("simctg/compare_decoding.py", *words)


@pytest.fixture
def checkpoint(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def test_command_with_own_prompts(checkpoint, tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("hello\n\nworld\n")
    run(
        *("--models", checkpoint, "--prompts", "abc", "--prompts_file", str(file), "--new_tokens", "5"),
        *("--scorer", checkpoint, "--output_dir", str(tmp_path / "out")),
    )
    said = capsys.readouterr().out
    for part in ("3 prompts", "beam 4", "coherence", "prompt: abc", "--- tiny, contrastive k5 a0.6", "picture:"):
        assert part in said
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(result["rows"]) == 4
    assert result["prompts"] == {"tiny": ["abc", "hello", "world"]}
    assert str(tmp_path) not in json.dumps(result)
    assert (tmp_path / "out" / "plots" / "tiny.png").is_file()


def test_command_with_a_text(checkpoint, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("".join(chr(ord("a") + n * n % 26) for n in range(99)) + "\n" + "abcdefgh" * 9)
    run(
        *("--models", checkpoint, "--dataset_path", str(tmp_path / "text.txt"), "--test_fraction", "0.4"),
        *("--num_prompts", "2", "--prefix_length", "4", "--new_tokens", "4", "--methods", "greedy"),
        *("--output_dir", str(tmp_path / "out")),
    )
    said = capsys.readouterr().out
    assert "people" in said
    assert "isotropy" in said
    assert "picture" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--prompts", "abc", "--models", "/no/such/model"),
            "`models` is '/no/such/model', but there is no such checkpoint",
        ),
        (("--prompts", "abc", "--new_tokens", "200"), "make 204, but the model has 128 positions; lower --new_tokens"),
        (("--dataset_path", "/no/such/text.txt"), "does not exist"),
        (("--prompts", "abc", "--methods", "best"), "--methods has best; known are"),
        (("--prompts_file", "/no/such/file.txt"), "No such file"),
    ],
)
def test_command_refuses_in_one_line(checkpoint, words, message, tmp_path, capsys):
    words = words if "--models" in words else ("--models", checkpoint, *words)
    with pytest.raises(SystemExit) as stopped:
        run(*words, "--output_dir", str(tmp_path / "out"))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
