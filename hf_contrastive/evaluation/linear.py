"""Linear probes: how well one linear layer reads the classes out of frozen embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from hf_contrastive.evaluation._checks import (
    as_labels,
    as_pair,
    check_choice,
    check_count,
    check_positive,
    encode_labels,
)
from hf_contrastive.evaluation.neighbours import check_classes, warn_unseen


# inverse regularisation strengths tried by the logistic probe, strongest regularisation first
DEFAULT_CS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

# an sgd probe that stopped earlier than this was stopped by the noise of a small validation part
MIN_STEPS = 100


def linear_probe(
    train_x: Any,
    train_y: Any,
    test_x: Any,
    test_y: Any,
    *,
    method: str = "logistic",
    standardize: bool = True,
    validation_fraction: float = 0.1,
    seed: int = 0,
    C: float | None = None,
    Cs: Sequence[float] = DEFAULT_CS,
    max_iter: int = 300,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    epochs: int = 100,
    patience: int = 2,
) -> dict[str, Any]:
    """Test accuracy of one linear layer trained on frozen embeddings.

    Two ways of training it. `"logistic"`: multinomial logistic regression (convex, no learning rate), whose
    regularisation is chosen on a validation part of the TRAINING rows and which is then fitted on all of them. `"sgd"`:
    one dense softmax layer trained by Adam in batches, stopped when the validation loss has not improved for `patience`
    epochs, best weights restored; this is the read-out of the G-SimCLR paper (section 4), except that the paper's code
    stops on the test split. Here the test split is looked at once, at the end.

    The random draws (validation split, batches) depend on `seed` only; the global generators are left
    alone. A test row whose class does not occur in training counts as wrong (with a warning).

    Args:
        train_x (`[N, D]` array or tensor): embeddings to learn from.
        train_y (`[N]` integers or strings): their labels, of at least two classes.
        test_x (`[Q, D]` array or tensor): embeddings to test on.
        test_y (`[Q]` integers or strings): their labels.
        method (`str`, defaults to `"logistic"`): `"logistic"` or `"sgd"`.
        standardize (`bool`, defaults to `True`): subtract the mean and divide by the standard deviation of every feature,
            both taken from the rows that are fitted.
        validation_fraction (`float`, defaults to 0.1): share of the training rows held out, drawn class by class.
        seed (`int`, defaults to 0): of every random draw.
        C (`float`, *optional*): logistic: a fixed inverse regularisation strength; nothing is held out then.
        Cs (`Sequence[float]`, defaults to 0.001 to 10 in powers of ten): logistic: the strengths to choose from, by
            validation accuracy, then by validation likelihood.
        max_iter (`int`, defaults to 300): logistic: limit of L-BFGS iterations.
        learning_rate (`float`, defaults to 0.001): sgd: of Adam.
        batch_size (`int`, defaults to 64): sgd: rows a step.
        epochs (`int`, defaults to 100): sgd: upper limit.
        patience (`int`, defaults to 2): sgd: epochs without a better validation loss before stopping.

    Returns:
        `dict`: `accuracy` (0 to 1), `per_class` (label to accuracy, for the classes of the test split),
        `validation_accuracy` (`None` with a fixed `C`), the protocol (`method`, `standardize`, `seed`, `n_train`,
        `n_validation`, `n_test`, `n_classes`), `converged` (for sgd: it stopped before `epochs` ended; a warning tells
        when not), for logistic `C`, for sgd `epochs` (trained) and `best_epoch`.

    Raises:
        ValueError: wrong shapes, NaN or infinity, one class only, too few rows to hold any out, a setting out of range.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.evaluation import linear_probe
    >>> x = np.r_[np.random.default_rng(0).normal(0, 1, (50, 4)), np.random.default_rng(1).normal(4, 1, (50, 4))]
    >>> y = np.repeat([0, 1], 50)
    >>> linear_probe(x[::2], y[::2], x[1::2], y[1::2])["accuracy"]
    1.0

    ```
    """
    check_choice("method", method, ("logistic", "sgd"))
    if not 0 < validation_fraction < 1:
        raise ValueError(f"`validation_fraction` is {validation_fraction!r}; expected a number between 0 and 1")
    train, test = as_pair("train_x", train_x, "test_x", test_x)
    train_labels = as_labels("train_y", train_y, len(train), "train_x")
    test_labels = as_labels("test_y", test_y, len(test), "test_x")
    classes, codes, answers = encode_labels(train_labels, test_labels)
    check_classes("train_y", classes)
    warn_unseen(answers)

    fixed = method == "logistic" and C is not None
    held_out = np.zeros(len(train), dtype=bool)
    if not fixed:
        held_out = stratified_holdout(codes, validation_fraction, seed)
        if not held_out.any():
            advice = (
                "raise `validation_fraction` or pass `C`" if method == "logistic" else "raise `validation_fraction`"
            )
            raise ValueError(
                f"`train_x` has {len(train)} rows of {len(classes)} classes: a `validation_fraction` of "
                f"{validation_fraction} holds out none of them; {advice}"
            )
    if method == "logistic":
        chosen = [check_positive("C", C)] if C is not None else sorted(check_positive("Cs", value) for value in Cs)
        if not chosen:
            raise ValueError("`Cs` is empty; expected at least one strength")
        predicted, details = _logistic(train, codes, test, held_out, chosen, standardize, max_iter)
    else:
        predicted, details = _sgd(
            train,
            codes,
            len(classes),
            test,
            held_out,
            standardize=standardize,
            seed=seed,
            learning_rate=check_positive("learning_rate", learning_rate),
            batch_size=check_count("batch_size", batch_size),
            epochs=check_count("epochs", epochs),
            patience=check_count("patience", patience),
        )
    correct = predicted == answers
    return {
        "accuracy": float(correct.mean()),
        "per_class": {label.item(): float(correct[test_labels == label].mean()) for label in np.unique(test_labels)},
        "method": method,
        "standardize": standardize,
        "seed": seed,
        "n_train": len(train),
        "n_validation": int(held_out.sum()),
        "n_test": len(test),
        "n_classes": len(classes),
        **details,
    }


def stratified_holdout(codes: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Boolean mask of the rows held out: `fraction` of all, spread over the classes; no class loses its last row."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(codes)
    # A random order inside each class puts row k of n at the place (k + u) / n, with one random u a class. The lowest
    # places hold the same share of every class; of classes smaller than 1 / fraction, a random part gives one row.
    order = rng.permutation(len(codes))
    by_class = order[np.argsort(codes[order], kind="stable")]
    within = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = (within + rng.random(len(sizes)).repeat(sizes)) / np.repeat(np.maximum(sizes, 1), sizes)
    place[within == np.repeat(sizes, sizes) - 1] = np.inf
    count = min(round(fraction * len(codes)), int(np.isfinite(place).sum()))
    held_out = np.zeros(len(codes), dtype=bool)
    held_out[by_class[np.argsort(place, kind="stable")[:count]]] = True
    return held_out


def _scaler(rows: Any, standardize: bool) -> tuple[Any, Any]:
    """Mean and standard deviation of every feature; a constant feature is left at zero."""
    if not standardize:
        return 0.0, 1.0
    mean = rows.mean(0)
    std = rows.std(0) if isinstance(rows, np.ndarray) else rows.std(0, correction=0)
    # a feature that is constant up to rounding carries nothing; dividing by the rounding error would blow it up
    std[std <= 1e-6 * abs(mean) + 1e-12] = 1.0
    return mean, std


def _logistic(
    train: torch.Tensor,
    codes: np.ndarray,
    test: torch.Tensor,
    held_out: np.ndarray,
    strengths: Sequence[float],
    standardize: bool,
    max_iter: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    rows, test_rows = train.double().cpu().numpy(), test.double().cpu().numpy()

    def fit(model: LogisticRegression, mask: np.ndarray) -> tuple[bool, Any, Any]:
        mean, std = _scaler(rows[mask], standardize)
        with warnings.catch_warnings():  # reported as `converged`
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit((rows[mask] - mean) / std, codes[mask])
        return bool(np.max(model.n_iter_) < max_iter), mean, std

    best, validation = strengths[0], None
    if held_out.any():
        # from strong to weak regularisation, each fit starts where the last ended
        model = LogisticRegression(max_iter=max_iter, warm_start=True, tol=1e-3)
        validation, best_likelihood = -1.0, -np.inf
        for strength in strengths:
            model.C = strength
            _, mean, std = fit(model, ~held_out)
            with np.errstate(divide="ignore"):  # a class that is ruled out has the logarithm -inf
                logs = model.predict_log_proba((rows[held_out] - mean) / std)
            accuracy = float((logs.argmax(1) == codes[held_out]).mean())
            # few held-out rows often tie in accuracy: the likelihood of the right class decides then
            likelihood = float(logs[np.arange(len(logs)), codes[held_out]].mean())
            if (accuracy, likelihood) > (validation, best_likelihood):
                best, validation, best_likelihood = strength, accuracy, likelihood
    final = LogisticRegression(C=best, max_iter=max_iter)
    converged, mean, std = fit(final, np.ones(len(rows), dtype=bool))
    predicted = final.predict((test_rows - mean) / std)
    return predicted, {"C": best, "validation_accuracy": validation, "converged": converged}


def _sgd(
    train: torch.Tensor,
    codes: np.ndarray,
    classes: int,
    test: torch.Tensor,
    held_out: np.ndarray,
    *,
    standardize: bool,
    seed: int,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    patience: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    device = train.device
    # the caller may sit inside no_grad, inference_mode or autocast (evaluation during training)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        mask = torch.as_tensor(held_out, device=device)
        labels = torch.as_tensor(codes, device=device)
        rows, validation_rows = train[~mask].float().clone(), train[mask].float().clone()
        mean, std = _scaler(rows, standardize)
        rows, validation_rows, test_rows = (
            (part - mean) / std for part in (rows, validation_rows, test.float().clone())
        )
        labels, validation_labels = labels[~mask], labels[mask]
        generator = torch.Generator().manual_seed(seed)
        # the problem is convex: zeros are as good a start as any, and a run that is cut short is not left with noise
        weight = torch.zeros(classes, rows.shape[1], device=device, requires_grad=True)
        bias = torch.zeros(classes, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([weight, bias], lr=learning_rate, eps=1e-7)
        best_loss, best_epoch, best, validation, epoch = float("inf"), 0, (weight, bias), 0.0, 0
        for epoch in range(1, epochs + 1):
            for chosen in torch.randperm(len(rows), generator=generator).to(device).split(batch_size):
                optimizer.zero_grad()
                F.cross_entropy(F.linear(rows[chosen], weight, bias), labels[chosen]).backward()
                optimizer.step()
            with torch.no_grad():
                logits = F.linear(validation_rows, weight, bias)
                loss = float(F.cross_entropy(logits, validation_labels))
                if loss < best_loss:
                    best_loss, best_epoch, best = loss, epoch, (weight.clone(), bias.clone())
                    validation = float((logits.argmax(1) == validation_labels).double().mean())
            if epoch - best_epoch >= patience:
                break
        with torch.no_grad():
            predicted = F.linear(test_rows, *best).argmax(1).cpu().numpy()
    converged = epoch - best_epoch >= patience
    steps = epoch * -(-len(rows) // batch_size)
    if not converged or steps < MIN_STEPS:
        seen = f"stopped after {steps} steps" if converged else f"was still improving when `epochs` ({epochs}) ended"
        warnings.warn(
            f"the sgd probe {seen} ({len(rows)} training and {len(validation_rows)} validation rows) and may be far from "
            'trained; raise `learning_rate`, `epochs` or `patience`, or use method="logistic"',
            stacklevel=3,
        )
    return predicted, {
        "validation_accuracy": validation,
        "converged": converged,
        "epochs": epoch,
        "best_epoch": best_epoch,
    }
