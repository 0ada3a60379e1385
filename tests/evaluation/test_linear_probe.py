"""The linear probe learns what is there, never looks at the test split, and is repeatable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hf_contrastive.evaluation import linear_probe
from hf_contrastive.evaluation.linear import stratified_holdout


def make_data(seed: int = 0, n: int = 300, dim: int = 8, classes: int = 3, spread: float = 0.7):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    rows = (rng.normal(size=(classes, dim))[labels] * spread + rng.normal(size=(n, dim))).astype(np.float32)
    return rows[:200], labels[:200], rows[200:], labels[200:]


def test_fixed_strength_equals_scikit_learn():
    train, labels, test, answers = make_data()
    mean, std = train.astype(float).mean(0), train.astype(float).std(0)
    model = LogisticRegression(C=0.1, max_iter=300).fit((train - mean) / std, labels)
    predicted = model.predict((test - mean) / std)
    result = linear_probe(train, labels, test, answers, C=0.1)
    assert result["accuracy"] == (predicted == answers).mean()
    assert result["per_class"] == {c: (predicted[answers == c] == c).mean() for c in range(3)}
    assert (result["C"], result["n_validation"], result["validation_accuracy"]) == (0.1, 0, None)
    assert result["converged"]


def test_held_out_rows_do_not_set_the_scale():
    """One held-out row far away: with its share in mean and spread the others would be read wrongly."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100)
    rows = rng.normal(size=(100, 2)) + 4 * labels[:, None]
    held_out = stratified_holdout(labels, 0.3, 0)
    rows[np.flatnonzero(held_out)[0]] *= 1e4
    mean, std = rows[~held_out].mean(0), rows[~held_out].std(0)
    model = LogisticRegression(max_iter=300, tol=1e-3).fit((rows[~held_out] - mean) / std, labels[~held_out])
    expected = model.score((rows[held_out] - mean) / std, labels[held_out])
    result = linear_probe(rows, labels, rows, labels, Cs=[1.0], validation_fraction=0.3)
    assert result["validation_accuracy"] == expected
    assert expected > 0.9


@pytest.mark.filterwarnings("ignore:the sgd probe")
@pytest.mark.parametrize("method", ["logistic", "sgd"])
def test_learns_and_repeats(method):
    train, labels, test, answers = make_data(1, spread=2.0)
    before = torch.random.get_rng_state()
    result = linear_probe(train, labels, test, answers, method=method, seed=5)
    assert result["accuracy"] > 0.9
    assert result["n_validation"] == 20
    assert result == linear_probe(torch.as_tensor(train), labels, test, answers, method=method, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    shuffled = np.random.default_rng(0).permutation(labels)
    assert linear_probe(train, shuffled, test, answers, method=method)["accuracy"] < 0.7


@pytest.mark.filterwarnings("ignore:the sgd probe")
@pytest.mark.parametrize("method", ["logistic", "sgd"])
def test_the_test_split_chooses_nothing(method):
    """Everything learned and chosen stays the same when the test labels are scrambled."""
    train, labels, test, answers = make_data(2)
    honest = linear_probe(train, labels, test, answers, method=method)
    scrambled = linear_probe(train, labels, test, (answers + 1) % 3, method=method)
    outcome = {"accuracy", "per_class"}
    assert {k: v for k, v in honest.items() if k not in outcome} == {
        k: v for k, v in scrambled.items() if k not in outcome
    }
    assert honest["accuracy"] + scrambled["accuracy"] <= 1  # the same predictions cannot fit both


def test_the_strength_is_chosen_on_held_out_training_rows():
    """On pure noise in many dimensions strong regularisation must win over the interpolating fit."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 260)
    rows = rng.normal(size=(260, 100))
    rows[:, 0] += 2 * labels
    result = linear_probe(rows[:160], labels[:160], rows[160:], labels[160:], validation_fraction=0.4)
    weak = linear_probe(rows[:160], labels[:160], rows[160:], labels[160:], C=1e4)
    assert result["C"] <= 0.1
    assert result["accuracy"] > weak["accuracy"]
    with_choice = linear_probe(rows[:160], labels[:160], rows[160:], labels[160:], Cs=[10.0, 0.001])
    assert with_choice["C"] in (10.0, 0.001)


@pytest.mark.filterwarnings("ignore:the sgd probe")
@pytest.mark.parametrize("method", ["logistic", "sgd"])
def test_standardised_probe_ignores_the_scale_and_offset_of_features(method):
    train, labels, test, answers = make_data(3)
    scales, offsets = np.float32([1, 2, 4, 8, 0.5, 0.25, 16, 32]), np.float32([0, 1, -2, 3, 0, 8, -4, 16])
    base = linear_probe(train, labels, test, answers, method=method)
    moved = linear_probe(train * scales + offsets, labels, test * scales + offsets, answers, method=method)
    assert abs(moved["accuracy"] - base["accuracy"]) <= 0.01
    constant = np.full((200, 1), 0.1, np.float32)
    padded = linear_probe(np.c_[train, constant], labels, np.c_[test, constant[:100]], answers, method=method)
    assert abs(padded["accuracy"] - base["accuracy"]) <= 0.05


def test_sgd_warns_when_it_hardly_trained():
    train, labels, test, answers = make_data(1, spread=2.0)
    with pytest.warns(
        UserWarning, match=r"still improving when `epochs` \(4\) ended \(180 training and 20 validation"
    ):
        assert not linear_probe(train, labels, test, answers, method="sgd", epochs=4)["converged"]
    with pytest.warns(UserWarning, match=r"the sgd probe stopped after \d+ steps"):
        assert linear_probe(train, labels, test, answers, method="sgd", learning_rate=3.0)["converged"]


@pytest.mark.filterwarnings("ignore:the sgd probe")
def test_sgd_stops_early_and_restores_the_best_weights():
    train, labels, test, answers = make_data(4, spread=0.2)
    result = linear_probe(train, labels, test, answers, method="sgd", learning_rate=0.3, patience=2)
    assert result["epochs"] == result["best_epoch"] + 2 < 100
    # the run cut at the best epoch ends with the very same weights
    cut = linear_probe(train, labels, test, answers, method="sgd", learning_rate=0.3, epochs=result["best_epoch"])
    assert cut["best_epoch"] == result["best_epoch"]
    assert (cut["accuracy"], cut["validation_accuracy"]) == (result["accuracy"], result["validation_accuracy"])


@pytest.mark.filterwarnings("ignore:the sgd probe")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_sgd_trains_inside_evaluation_contexts(mode):
    train, labels, test, answers = make_data(5)
    expected = linear_probe(train, labels, test, answers, method="sgd", epochs=3)
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = linear_probe(
            torch.as_tensor(train) * 1, labels, torch.as_tensor(test) * 1, answers, method="sgd", epochs=3
        )
    assert inside == expected


def test_holdout_takes_the_same_share_of_every_class_and_never_the_last_row():
    codes = np.repeat(np.arange(4), [100, 40, 10, 1])
    mask = stratified_holdout(codes, 0.1, seed=0)
    assert np.bincount(codes[mask], minlength=4).tolist()[3] == 0
    assert abs(np.bincount(codes[mask], minlength=4) - [10, 4, 1, 0]).max() <= 1
    assert mask.sum() == 15
    many = np.repeat(np.arange(50), 4)
    assert stratified_holdout(many, 0.1, seed=1).sum() == 20
    assert np.bincount(many[stratified_holdout(many, 0.1, seed=1)]).max() == 1
    assert (stratified_holdout(many, 0.1, seed=1) != stratified_holdout(many, 0.1, seed=2)).any()


def test_string_labels_and_unseen_class():
    train, labels, test, answers = make_data(6)
    names = np.array(["ant", "bee", "cat", "dog"])
    answers = answers.copy()
    answers[:5] = 3
    with pytest.warns(UserWarning, match="5 of 100 test rows"):
        result = linear_probe(train, names[labels], test, names[answers])
    assert result["per_class"]["dog"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "svm"}, "`method` is 'svm'; expected one of 'logistic', 'sgd'"),
        ({"train_y": np.ones(200, int)}, "`train_y` holds one class only"),
        ({"validation_fraction": 0.0}, "`validation_fraction` is 0.0"),
        ({"validation_fraction": 0.001}, "holds out none of them; raise `validation_fraction` or pass `C`"),
        ({"C": -1.0}, "`C` is -1.0"),
        ({"Cs": ()}, "`Cs` is empty"),
        ({"test_x": np.ones((100, 7), np.float32)}, "8 features a row and `test_x` has 7"),
        ({"method": "sgd", "batch_size": 0}, "`batch_size` is 0"),
        ({"method": "sgd", "learning_rate": float("nan")}, "`learning_rate` is nan"),
    ],
)
def test_refusals(change, message):
    train, labels, test, answers = make_data()
    with pytest.raises(ValueError, match=message):
        linear_probe(**{"train_x": train, "train_y": labels, "test_x": test, "test_y": answers, **change})
