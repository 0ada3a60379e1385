"""The metric folders open with `evaluate.load` offline and say what the plain functions say."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import os
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from helpers.text_models import letter_tokenizer, tiny_model

import hf_contrastive.metrics as metrics
from hf_contrastive import evaluation
from hf_contrastive.metrics import METRICS, metric_path


def test_the_copies_go_to_the_cache_of_the_tests():
    evaluate.load(metric_path("knn"))
    assert list((Path(os.environ["HF_MODULES_CACHE"])).rglob("knn.py"))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    rows = (rng.normal(size=(3, 5))[labels] + rng.normal(size=(90, 5))).astype(np.float32)
    return rows[:60], labels[:60], rows[60:], labels[60:]


def test_knn(data):
    train, labels, test, answers = data
    metric = evaluate.load(metric_path("knn"))
    arguments = {"train_embeddings": train, "train_labels": labels, "k": 7, "ks": [1], "weighting": "temperature"}
    expected = evaluation.knn_accuracy(*data, k=7, ks=[1], weighting="temperature")
    assert metric.compute(predictions=test, references=answers, **arguments) == expected
    # in batches, as tensors
    metric.add_batch(predictions=torch.as_tensor(test[:13]), references=torch.as_tensor(answers[:13]))
    metric.add_batch(predictions=test[13:], references=answers[13:])
    assert metric.compute(**arguments) == expected
    with pytest.raises(ValueError, match="knn needs `train_embeddings` and `train_labels`"):
        metric.compute(predictions=test, references=answers)


def test_linear_probe(data):
    train, labels, test, answers = data
    result = evaluate.load(metric_path("linear_probe")).compute(
        predictions=test, references=answers, train_embeddings=train, train_labels=labels, seed=3, Cs=[0.1, 1.0]
    )
    assert result == evaluation.linear_probe(*data, seed=3, Cs=[0.1, 1.0])


def test_retrieval(data):
    train, labels, test, answers = data
    metric = evaluate.load(metric_path("retrieval"))
    alone = metric.compute(predictions=test, references=answers, ks=[1, 2])
    assert alone == pytest.approx(evaluation.retrieval_metrics(test, query_labels=answers, ks=[1, 2]))
    against = metric.compute(
        predictions=test, references=answers, gallery_embeddings=train.astype(float), gallery_labels=labels
    )
    assert against == evaluation.retrieval_metrics(test, train, query_labels=answers, gallery_labels=labels)


def test_zero_shot(data):
    train, labels, test, answers = data
    metric = evaluate.load(metric_path("zero_shot"))
    prompts = [train[labels == label].astype(float).tolist() for label in range(3)]  # classes of several sizes
    found = metric.compute(predictions=test, references=answers, prompt_embeddings=prompts, ks=[2])
    classes = evaluation.zero_shot_class_embeddings([np.array(one) for one in prompts])
    assert found == evaluation.zero_shot_accuracy(test, classes, answers, ks=[2])
    with pytest.raises(ValueError, match="zero_shot needs `prompt_embeddings`"):
        metric.compute(predictions=test, references=answers)


def test_linkage(data):
    train, labels, test, answers = data
    metric = evaluate.load(metric_path("linkage"))
    exemplars = {"exemplar_embeddings": train, "exemplar_labels": labels}
    for threshold in (None, 0.9):
        found = metric.compute(predictions=test, references=answers, threshold=threshold, **exemplars)
        links = evaluation.link_to_exemplars(test, train, labels, threshold=threshold)
        linked = (links.labels != -9).mean()
        assert found == {"accuracy": evaluation.linkage_accuracy(links.labels, answers), "linked": linked}
        assert (linked == 1) == (threshold is None)
    with pytest.raises(ValueError, match="linkage needs `exemplar_embeddings` and `exemplar_labels`"):
        metric.compute(predictions=test, references=answers)


def test_alignment_uniformity(data):
    first, second = data[0][:30], data[2]
    result = evaluate.load(metric_path("alignment_uniformity")).compute(predictions=first, references=second, t=1)
    assert result["alignment"] == pytest.approx(evaluation.alignment(first, second))
    assert result["uniformity"] == pytest.approx(
        (evaluation.uniformity(first, t=1) + evaluation.uniformity(second, t=1)) / 2
    )
    assert result["pos_sim"] == pytest.approx(evaluation.positive_negative_similarity(first, second)["pos_sim"])


def test_effective_rank(data):
    result = evaluate.load(metric_path("effective_rank")).compute(predictions=data[0])
    assert result["effective_rank"] == pytest.approx(evaluation.effective_rank(data[0]))
    assert result["std"] == pytest.approx(evaluation.embedding_std(data[0]))
    assert result["healthy_std"] == 5**-0.5


TEXTS = ["hello hello hello hello hello", "one two three four", "a b a b"]


@pytest.mark.parametrize("options", [{}, {"official": True}], ids=["exact", "official"])
def test_diversity(options):
    metric = evaluate.load(metric_path("diversity"))
    expected = evaluation.diversity(TEXTS, **options)
    assert metric.compute(predictions=TEXTS, **options) == expected
    for text in TEXTS:
        metric.add(prediction=text)
    assert metric.compute(**options) == expected
    assert evaluation.diversity(TEXTS) != evaluation.diversity(TEXTS, official=True)


@pytest.fixture(scope="module")
def language_model():
    return tiny_model("gpt2"), letter_tokenizer()


@pytest.fixture(scope="module")
def language_model_folder(language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("language_model")
    for part in language_model:
        part.save_pretrained(folder)
    return str(folder)


def test_coherence(language_model, language_model_folder):
    metric = evaluate.load(metric_path("coherence"))
    prefixes, continuations = ["hello", "a", "some"], ["there", "b", ""]
    model, tokenizer = language_model
    expected = {"coherence": evaluation.coherence(prefixes, continuations, model, tokenizer)}
    texts = {"predictions": continuations, "references": prefixes}
    assert metric.compute(**texts, model=model, tokenizer=tokenizer) == expected
    assert metric.compute(**texts, model_id=language_model_folder, device="cpu") == pytest.approx(expected)
    # which is which
    assert metric.compute(
        predictions=prefixes[:2], references=continuations[:2], model=model, tokenizer=tokenizer
    ) != (metric.compute(predictions=continuations[:2], references=prefixes[:2], model=model, tokenizer=tokenizer))


def test_isotropy(language_model, language_model_folder):
    metric = evaluate.load(metric_path("isotropy"))
    model, tokenizer = language_model
    texts = ["hello", "some more text", "a"]
    expected = evaluation.isotropy_of_texts(texts, model, tokenizer)
    assert metric.compute(predictions=texts, model=model, tokenizer=tokenizer) == expected
    assert metric.compute(predictions=texts, model_id=language_model_folder, device="cpu") == pytest.approx(expected)
    short = metric.compute(predictions=texts, model=model, tokenizer=tokenizer, max_length=3)
    assert short == evaluation.isotropy_of_texts(texts, model, tokenizer, max_length=3) != expected
    # more than 256 tokens are not read; this model has 128 positions
    with pytest.raises(ValueError, match="text 0: it has 256 tokens"):
        metric.compute(predictions=["a" * 300], model=model, tokenizer=tokenizer)


@pytest.mark.parametrize("name", ["coherence", "isotropy"])
def test_a_language_model_is_needed(name, language_model, tmp_path):
    metric = evaluate.load(metric_path(name))
    model, tokenizer = language_model
    texts = {"predictions": ["there"], **({"references": ["hello"]} if name == "coherence" else {})}
    for options, message in (
        ({}, f"{name} needs a language model, but `model` and `tokenizer` is missing.*model_id="),
        ({"model": model}, f"{name} needs a language model, but `tokenizer` is missing"),
        ({"tokenizer": tokenizer}, "but `model` is missing"),
        ({"model": "gpt2", "tokenizer": tokenizer}, "`model` is the name 'gpt2'; pass it as model_id='gpt2'"),
        ({"model_id": "gpt2", "model": model}, "`model_id` is 'gpt2', and `model` or `tokenizer` is given too"),
        ({"model_id": "gpt2", "tokenizer": tokenizer}, "`model_id` is 'gpt2', and"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.compute(**texts, **options)
    # a pickle is not opened
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        metric.compute(**texts, model_id=str(tmp_path))


needs_mauve = pytest.mark.skipif(
    importlib.util.find_spec("mauve") is None,
    reason="mauve-text is not installed (pip install 'hf-contrastive[text]')",
)


@needs_mauve
def test_text_mauve():
    rng = np.random.default_rng(0)
    texts = [str(number) for number in range(40)]
    options = {
        "p_features": rng.normal(size=(40, 3)),
        "q_features": rng.normal(size=(40, 3)) + 1,
        "num_buckets": 4,
        "kmeans_num_redo": 1,
    }
    metric = evaluate.load(metric_path("text_mauve"))
    expected = evaluation.mauve(texts, texts, **options)
    assert metric.compute(predictions=texts, references=texts, **options) == {"mauve": expected}
    assert 1 < expected < 99
    predictions = ["", *texts[1:]]
    expected = evaluation.mauve(texts, predictions, letter_tokenizer(), **options)
    found = metric.compute(predictions=predictions, references=texts, tokenizer=letter_tokenizer(), **options)
    assert found == {"mauve": expected}


def test_text_mauve_asks_for_the_right_texts(monkeypatch):
    from types import SimpleNamespace

    seen: dict = {}
    fake = SimpleNamespace(compute_mauve=lambda **options: seen.update(options) or SimpleNamespace(mauve=0.5))
    monkeypatch.setitem(sys.modules, "mauve", fake)
    metric = evaluate.load(metric_path("text_mauve"))
    texts = {"predictions": ["abc", ""], "references": ["vwxyz", "q"]}
    found = metric.compute(**texts, tokenizer=letter_tokenizer(), max_text_length=9)
    assert found == {"mauve": 50.0}
    assert (seen["p_text"], seen["q_text"], seen["max_text_length"]) == (["vwx"], ["abc"], 9)


def test_text_mauve_without_its_package(monkeypatch):
    """It opens, and says what to install when it is computed."""
    monkeypatch.setitem(sys.modules, "mauve", None)
    metric = evaluate.load(metric_path("text_mauve"))
    with pytest.raises(ImportError, match=r"mauve-text; type: pip install 'hf-contrastive\[text\]'"):
        metric.compute(predictions=["a"], references=["b"])


def test_auroc():
    metric = evaluate.load(metric_path("auroc"))
    rewards, correct = [0.9, 0.2, 0.2, -1.0, 0.5], [True, True, False, False, False]
    expected = {"auroc": evaluation.auroc(rewards, correct)}
    assert metric.compute(predictions=rewards, references=correct) == expected
    # in batches, as tensors
    metric.add_batch(predictions=torch.tensor(rewards[:2], dtype=torch.float64), references=torch.tensor(correct[:2]))
    metric.add_batch(predictions=np.array(rewards[2:]), references=np.array(correct[2:]))
    assert metric.compute() == expected
    token_rewards = [[0.1 * (i + 1) * (-1) ** j + reward for j in range(i + 2)] for i, reward in enumerate(rewards)]
    inputs = {"predictions": rewards, "references": correct, "token_rewards": token_rewards}
    partial = evaluation.partial_auroc(token_rewards, correct, [0.5, 1])
    assert len(set(partial.values())) == 2
    found = metric.compute(**inputs, percentiles=[0.5, 1])
    assert found == {**expected, "auroc@0.5": partial[0.5], "auroc@1.0": partial[1.0]}
    assert len(metric.compute(**inputs)) == 12
    with pytest.raises(ValueError, match="`percentiles` needs `token_rewards`"):
        metric.compute(predictions=rewards, references=correct, percentiles=[0.5])
    metric = evaluate.load(metric_path("auroc"))
    with pytest.raises(ValueError, match="AUROC is undefined: of 2 labels 2 are 1 and 0 are 0"):
        metric.compute(predictions=[0.1, 0.2], references=[1, 1])


def test_filtered_majority_vote():
    metric = evaluate.load(metric_path("filtered_majority_vote"))
    samples = {
        "q_values": [[0.3, 0.2], [0.3, -0.2, 0.1], [0.1], [0.3, 0.2, 0.1], [-0.1, 0.2], [0.2, 0.2]],
        "questions": ["a", "a", "a", "b", "b", "b"],
    }
    answers, correct = ["1", None, None, None, "2", "2"], [True, False, False, False, True, False]
    for options in ({}, {"threshold": 0.0, "skip_tokens": 1}, {"threshold": 0.2, "skip_tokens": 0}):
        expected = evaluation.filtered_majority_vote(answers, correct, *samples.values(), **options).summary()
        assert metric.compute(predictions=answers, references=correct, **samples, **options) == expected
    assert expected["filtered"] == 4
    # in batches; a batch may begin with no answer; questions may be numbers
    for part in (slice(0, 2), slice(2, 6)):
        metric.add_batch(
            predictions=answers[part],
            references=np.array(correct[part]),
            q_values=[torch.tensor(row, dtype=torch.float64) for row in samples["q_values"][part]],
            questions=[{"a": 7, "b": 3}[question] for question in samples["questions"][part]],
        )
    assert metric.compute(**options) == expected


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_described_and_its_example_runs(name):
    metric = evaluate.load(metric_path(name))
    assert metric.description.strip()
    assert "@" in metric.citation
    example = doctest.DocTestParser().get_doctest(metric.inputs_description, {}, name, None, 0)
    assert len(example.examples) >= 4
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("name", METRICS)
def test_imports_stand_one_per_line(name):
    """`evaluate` reads `import a, b` as a dependency called `a,`."""
    tree = ast.parse(Path(metric_path(name), f"{name}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert node.lineno == node.end_lineno
            assert isinstance(node, ast.ImportFrom) or len(node.names) == 1


def test_the_list_is_the_folders_and_each_is_a_package():
    here = Path(metrics.__file__).parent
    assert {path.parent.name for path in here.glob("*/*.py") if path.stem == path.parent.name} == set(METRICS)
    for name in METRICS:  # a folder without __init__.py would not be in the wheel
        assert importlib.import_module(f"hf_contrastive.metrics.{name}").__doc__


def test_unknown_name():
    with pytest.raises(ValueError, match="`name` is 'bleu'; the metrics are alignment_uniformity"):
        metric_path("bleu")
