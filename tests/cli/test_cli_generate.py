"""`hf-contrastive generate`: the text comes out, settings arrive, errors are one line."""

from __future__ import annotations

import io

import pytest
from helpers.text_models import letter_tokenizer, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_contrastive.generation import generate_contrastive


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "lm"
    tiny_model("gpt2").save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    return folder


def expected(folder, **options):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return generate_contrastive(model, "hello", tokenizer, max_new_tokens=12, **options)


def test_text_comes_out(call, language_model):
    found = call("generate", language_model, "--prompt", "hello", "--max-new-tokens", 12)
    assert found.code == 0, found.err
    assert found.out.strip() == expected(language_model)


def test_settings_arrive(call, language_model):
    words = ("--penalty-alpha", 0.9, "--top-k", 6, "--penalty-scope", "generated", "--low-memory")
    found = call("generate", language_model, "--prompt", "hello", "--max-new-tokens", 12, *words)
    text = expected(language_model, penalty_alpha=0.9, top_k=6, penalty_scope="generated")
    assert found.out.strip() == text
    assert text != expected(language_model)


def test_prompt_from_standard_input(call, language_model, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    assert call("generate", language_model, "--max-new-tokens", 12).out.strip() == expected(language_model)


def test_what_is_refused(call, language_model, checkpoint, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for words, code, message in (
        ((language_model,), 2, "prompt is empty"),
        ((language_model, "--prompt", "hello", "--top-k", 1), 1, "`top_k` is 1"),
        ((language_model, "--prompt", "hello", "--penalty-alpha", 2), 1, "`penalty_alpha` is 2.0"),
        (("/nowhere/at/all", "--prompt", "hello"), 1, "is no language model that can be loaded"),
        ((checkpoint, "--prompt", "hello"), 1, "is no language model that can be loaded"),
    ):
        found = call("generate", *words)
        assert found.code == code, (words, found)
        assert message in " ".join(found.err.split())
