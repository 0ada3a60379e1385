"""Measures of generated text: values worked out by hand, the naive formulas, refusals."""

from __future__ import annotations

import importlib.util
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.text_models import letter_tokenizer, tiny_model

from hf_contrastive.evaluation import (
    coherence,
    continuation_log_probability,
    diversity,
    isotropy,
    isotropy_of_texts,
    mauve,
    repetition,
)


@pytest.fixture(scope="module")
def tokenizer():
    return letter_tokenizer()


# ---- repetition and diversity


def test_repetition_by_hand():
    # "a b a b": ab ba ab, 2 of 3 are new; "c d": cd
    assert repetition(["a b a b"], 2) == pytest.approx(100 / 3)
    assert repetition(["a b a b", "c d"], 2) == pytest.approx(25.0)
    # the same bigram in two texts is no repetition
    assert repetition(["a b", "a b"], 2) == 0.0
    assert repetition(["a  a\na\ta"], 1) == 75.0
    assert repetition(["a a a a a"], 4) == 50.0
    # nothing that is long enough
    assert repetition(["a", ""], 2) == 0.0
    assert repetition([], 2) == 0.0


def test_repetition_of_the_published_code():
    # without the last n-gram of every text: ab ba | cd is gone
    assert repetition(["a b a b", "c d"], 2, official=True) == 0.0
    # ab ba ab: one of three; rounded to two decimals
    assert repetition(["a b a b a"], 2, official=True) == 33.33
    assert repetition(["a b a b a"], 2) == 50.0


def test_diversity_by_hand():
    result = diversity(["a b a b a", "one two three four"])
    # 2-grams: 2 of 4, and 3 of 3; 3-grams: 2 of 3, and 2 of 2; 4-grams: 2 of 2, and 1 of 1
    assert result == pytest.approx({"rep-2": 200 / 7, "rep-3": 20.0, "rep-4": 0.0, "diversity": 5 / 7 * 0.8})
    assert list(result) == ["rep-2", "rep-3", "rep-4", "diversity"]
    official = diversity(["a b a b a", "one two three four"], official=True)
    # 2-grams: 2 of 3, and 2 of 2; 3-grams: 2 of 2, and 1 of 1
    assert official == pytest.approx({"rep-2": 20.0, "rep-3": 0.0, "rep-4": 0.0, "diversity": 0.8})
    assert diversity(["a a a a a a a a"])["diversity"] == pytest.approx(1 / 7 * 1 / 6 * 1 / 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: repetition("one text", 2), "`texts` is one text; pass a list"),
        (lambda: diversity("one text"), "`texts` is one text; pass a list"),
        (lambda: repetition(["a b"], 0), "`n` is 0, but it must be 1 or more"),
    ],
)
def test_repetition_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- log-probability and coherence


def test_log_probability_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]], dtype=torch.float64))
    ids = torch.tensor([0, 1, 2])
    # token 1 after position 0, token 2 after position 1; the last position predicts nothing
    both = (math.log(0.25) + math.log(0.7)) / 2
    assert continuation_log_probability(logits, ids, 1) == pytest.approx(both, rel=1e-12)
    assert continuation_log_probability(logits, ids, 2) == pytest.approx(math.log(0.7), rel=1e-12)
    # logits need not be normalised; half precision is computed in float32
    assert continuation_log_probability(logits + 5.0, ids, 1) == pytest.approx(both, rel=1e-12)
    half = logits.bfloat16()
    assert continuation_log_probability(half, ids, 1) == continuation_log_probability(half.float(), ids, 1)


@pytest.mark.parametrize(
    ("shape", "length", "prefix", "message"),
    [
        ((4,), 4, 1, r"`logits` \[4\] and `ids` \[4\]"),
        ((3, 8), 4, 1, r"`logits` \[3, 8\] and `ids` \[4\]"),
        ((4, 8), 4, 0, "`prefix_length` is 0, but it must be from 1 to 3"),
        ((4, 8), 4, 4, "`prefix_length` is 4, but it must be from 1 to 3"),
    ],
)
def test_log_probability_refuses(shape, length, prefix, message):
    with pytest.raises(ValueError, match=message):
        continuation_log_probability(torch.zeros(shape), torch.zeros(length, dtype=torch.long), prefix)
    with pytest.raises(ValueError, match=r"`ids` \[1, 4\]"):
        continuation_log_probability(torch.zeros(4, 8), torch.zeros(1, 4, dtype=torch.long), 1)


def log_probability_token_by_token(model, ids, prefix_length):
    """Every prefix in a forward pass of its own."""
    with torch.no_grad():
        steps = range(prefix_length, len(ids))
        return np.mean([float(model(ids[None, :n]).logits[0, -1].log_softmax(-1)[ids[n]]) for n in steps])


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_coherence_is_the_formula(name, tokenizer):
    model = tiny_model(name)
    prefixes, continuations = ["hello", "Some", "x"], ["There", "a longer text.", "no"]
    expected = []
    for prefix, continuation in zip(prefixes, continuations, strict=True):
        before = [1, *tokenizer(prefix)["input_ids"]]
        ids = torch.tensor(before + tokenizer(continuation)["input_ids"])
        expected.append(log_probability_token_by_token(model, ids, len(before)))
    found = coherence(prefixes, continuations, model, tokenizer)
    assert found == pytest.approx(np.mean(expected), rel=1e-4)  # a mean over texts, not over tokens
    # without a continuation a text does not count
    more = coherence([*prefixes, "y", "z"], [*continuations, "", " \n"], model, tokenizer)
    assert more == found


def test_coherence_without_a_first_token(tokenizer):
    model, other = tiny_model("llama"), letter_tokenizer()
    other.bos_token = None
    ids = torch.tensor(tokenizer("helloThere")["input_ids"])
    expected = log_probability_token_by_token(model, ids, 5)
    assert coherence(["hello"], ["There"], model, other) == pytest.approx(expected, rel=1e-4)
    # nothing to condition on
    assert coherence(["hello", ""], ["There", "There"], model, other) == pytest.approx(expected, rel=1e-4)


def test_dropout_is_off_and_the_model_stays_as_it_was(tokenizer):
    model = tiny_model("gpt2")
    assert model.config.resid_pdrop > 0
    texts = (["hello", "you"], ["There", "are"])
    scores, spread = coherence(*texts, model, tokenizer), isotropy_of_texts(texts[0], model, tokenizer)
    model.train()
    assert coherence(*texts, model, tokenizer) == scores
    assert isotropy_of_texts(texts[0], model, tokenizer) == spread
    assert model.training
    with pytest.raises(ValueError, match="no text has a continuation"):
        coherence(["a"], [""], model, tokenizer)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_coherence_refuses(tokenizer):
    model = tiny_model("gpt2")
    for texts, message in (
        ((["a", "b"], ["c"]), "2 prefixes, but 1 continuations"),
        ((["a"], [" "]), "no text has a continuation"),
        (([], []), "no text has a continuation"),
        (("a", ["c"]), "`prefixes` is one text"),
        ((["a"], "c"), "`continuations` is one text"),
        ((["a", "a"], ["b", "c" * 130]), "text 1: it has 132 tokens.*128 positions.*shorten"),
    ):
        with pytest.raises(ValueError, match=message):
            coherence(*texts, model, tokenizer)


# ---- isotropy


def test_isotropy_by_hand():
    same, opposite, square = torch.ones(3, 4), torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), torch.eye(2)
    assert isotropy([same])["isotropy"] == pytest.approx(0.0, abs=1e-12)
    assert isotropy([opposite])["isotropy"] == pytest.approx(2.0)
    assert isotropy([square])["isotropy"] == pytest.approx(1.0)
    # pooled over pairs, not over texts: 6 pairs of cosine 1, 2 of -1, 2 of 0
    pooled = isotropy([same, opposite, square])
    assert pooled == pytest.approx({"self_similarity": 0.4, "isotropy": 0.6})
    # one token is no pair
    assert isotropy([same, opposite, square, torch.ones(1, 4)]) == pooled


def test_isotropy_is_the_formula():
    texts = [torch.randn(length, 6, generator=torch.Generator().manual_seed(length)) for length in (2, 5, 9)]
    total = pairs = 0
    for hidden in texts:
        for i, first in enumerate(hidden.double()):
            for j, second in enumerate(hidden.double()):
                if i != j:
                    total += float(torch.cosine_similarity(first, second, dim=0))
                    pairs += 1
    assert isotropy(iter(texts))["isotropy"] == pytest.approx(1 - total / pairs, rel=1e-9)


def test_isotropy_refuses():
    with pytest.raises(ValueError, match=r"text 1 have shape \[1, 2, 3\], expected \[length, dim\]"):
        isotropy([torch.ones(2, 3), torch.ones(1, 2, 3)])
    for nothing in ([], [torch.ones(1, 3)]):
        with pytest.raises(ValueError, match="no text has two tokens"):
            isotropy(nothing)


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_isotropy_of_texts_is_that_of_their_states(name, tokenizer):
    model, texts = tiny_model(name), ["hello", "a", "A longer text.", ""]
    with torch.no_grad():
        states = [
            model(torch.tensor([tokenizer(text)["input_ids"]]), output_hidden_states=True).hidden_states[-1][0]
            for text in (texts[0], texts[2])
        ]
    assert isotropy_of_texts(texts, model, tokenizer) == pytest.approx(isotropy(states), rel=1e-6)
    cut = isotropy_of_texts(texts, model, tokenizer, max_length=4)
    assert cut == pytest.approx(isotropy([hidden[:4] for hidden in states]), rel=1e-5)
    assert cut != isotropy_of_texts(texts, model, tokenizer, max_length=5)


def test_long_texts_are_cut_to_256_tokens(tokenizer):
    model = tiny_model("llama")
    text = "".join(np.random.default_rng(0).choice(list("abcdefgh"), 300))
    assert isotropy_of_texts([text], model, tokenizer) == isotropy_of_texts([text[:256]], model, tokenizer)
    whole = isotropy_of_texts([text], model, tokenizer, max_length=None)
    assert whole == isotropy_of_texts([text], model, tokenizer, max_length=300)
    assert whole != isotropy_of_texts([text], model, tokenizer)


def test_special_tokens_of_the_tokenizer_are_read():
    """As the model reads a prompt: some models begin every text with one."""
    from tokenizers.processors import TemplateProcessing

    plain, beginning = letter_tokenizer(), letter_tokenizer()
    beginning._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert beginning("ab")["input_ids"] == [1, 3, 4]
    model = tiny_model("llama")
    with torch.no_grad():
        states = model(torch.tensor([[1, 3, 4]]), output_hidden_states=True).hidden_states[-1][0]
    assert isotropy_of_texts(["ab"], model, beginning) == pytest.approx(isotropy([states]), rel=1e-6)
    assert isotropy_of_texts(["ab"], model, beginning) != isotropy_of_texts(["ab"], model, plain)


def test_isotropy_of_texts_refuses(tokenizer, monkeypatch):
    model = tiny_model("gpt2")
    for texts, options, message in (
        ("hello", {}, "`texts` is one text"),
        (["hello"], {"max_length": 1}, "`max_length` is 1.*2 or more"),
        (["a", ""], {}, "no text has two tokens"),
        (["ab", "a" * 200], {}, "text 1: it has 200 tokens.*128 positions.*lower `max_length`"),
    ):
        with pytest.raises(ValueError, match=message):
            isotropy_of_texts(texts, model, tokenizer, **options)
    monkeypatch.setattr(model, "forward", lambda **inputs: SimpleNamespace(logits=torch.zeros(1, 5, 61)))
    with pytest.raises(ValueError, match="GPT2LMHeadModel returned no hidden states"):
        isotropy_of_texts(["hello"], model, tokenizer)


# ---- MAUVE


@pytest.fixture
def calls(monkeypatch):
    """`mauve-text` replaced by a stand-in that keeps what it was asked."""
    seen: list[dict] = []

    def compute_mauve(**options):
        seen.append(options)
        return SimpleNamespace(mauve=0.25)

    monkeypatch.setitem(sys.modules, "mauve", SimpleNamespace(compute_mauve=compute_mauve))
    return seen


def test_what_mauve_is_asked(calls):
    assert mauve(["one", "two", "three"], ["eins", " \n", "drei"], device_id=0) == 25.0
    expected = {"p_text": ["one", "three"], "q_text": ["eins", "drei"], "max_text_length": 200, "verbose": False}
    assert calls == [{**expected, "device_id": 0}]
    mauve(["one"], ["eins"], max_text_length=50, verbose=True)
    assert (calls[-1]["max_text_length"], calls[-1]["verbose"]) == (50, True)


def test_pairs_are_cut_to_the_shorter_text(calls, tokenizer):
    mauve(["abcdef", "ab", "abc", "abc", ""], ["xyz", "vwxyz", "xyz", "", "xyz"], tokenizer)
    # the fourth has no prediction, the fifth none that is left
    assert calls[0]["p_text"] == ["abc", "ab", "abc"]
    assert calls[0]["q_text"] == ["xyz", "vw", "xyz"]


def test_features_of_empty_predictions_are_left_out_too(calls):
    p_features, q_features = np.arange(6.0).reshape(3, 2), torch.arange(6.0, 12.0).view(3, 2)
    mauve(["one", "two", "three"], ["eins", "", "drei"], p_features=p_features, q_features=q_features)
    assert calls[0]["p_features"].tolist() == [[0, 1], [4, 5]]
    assert calls[0]["q_features"].tolist() == [[6, 7], [10, 11]]


def test_mauve_refuses(calls):
    for texts, options, message in (
        ((["a", "b"], ["c"]), {}, "2 references, but 1 predictions"),
        (("a", ["c"]), {}, "`references` is one text"),
        ((["a"], "c"), {}, "`predictions` is one text"),
        ((["a"], [" "]), {}, "no prediction has text"),
        ((["a"], ["b"]), {"p_features": np.ones((2, 3))}, r"`p_features` has shape \[2, 3\].*\[1, dim\]"),
        ((["a"], ["b"]), {"q_features": np.ones(3)}, r"`q_features` has shape \[3\].*\[1, dim\]"),
    ):
        with pytest.raises(ValueError, match=message):
            mauve(*texts, **options)
    assert calls == []


def test_mauve_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(ImportError, match=r"mauve-text; type: pip install 'hf-contrastive\[text\]'"):
        mauve(["a"], ["b"])


needs_mauve = pytest.mark.skipif(
    importlib.util.find_spec("mauve") is None,
    reason="mauve-text is not installed (pip install 'hf-contrastive[text]')",
)


@needs_mauve
def test_mauve_of_features():
    rng = np.random.default_rng(0)
    texts = [str(number) for number in range(60)]
    near, far = rng.normal(size=(60, 4)) + 3, rng.normal(size=(60, 4)) - 3
    options = {"num_buckets": 4, "kmeans_num_redo": 1}
    alike = mauve(texts, texts, p_features=near, q_features=near.copy(), **options)
    assert alike == pytest.approx(100.0, abs=1.0)
    assert mauve(texts, texts, p_features=near, q_features=far, **options) < 10
