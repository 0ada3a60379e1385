"""Callbacks of the training room; all of them also work with the plain `Trainer`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_contrastive.training.unwrap import unwrap_model


METRICS_FILE = "metrics.jsonl"


class AfterOptimizerStepCallback(TrainerCallback):
    """Calls `before_optimizer_step()` and `after_optimizer_step()` of the model around each real optimiser step (momentum
    encoders, queues, banks, frozen prototypes), and tells it how far training is (`training_progress`).

    Example:

    ```python
    >>> from hf_contrastive.training import AfterOptimizerStepCallback
    >>> callbacks = [AfterOptimizerStepCallback()]  # Trainer(..., callbacks=callbacks)

    ```
    """

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Runs once per optimiser step, when all gradients are there."""
        model = unwrap_model(kwargs["model"])
        model.training_progress = state.global_step / max(1, state.max_steps)
        if hasattr(model, "before_optimizer_step"):
            model.before_optimizer_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Runs once per optimiser step, also under gradient accumulation; not when the loss scaler skipped the step."""
        if not getattr(kwargs.get("optimizer"), "step_was_skipped", False):
            unwrap_model(kwargs["model"]).after_optimizer_step()


class SetEpochCallback(TrainerCallback):
    """Tells collators, samplers and datasets which epoch begins, also after resuming.

    Args:
        *targets: objects; those with a `set_epoch(epoch)` method are told.

    Example:

    ```python
    >>> from hf_contrastive.training import SetEpochCallback
    >>> callback = SetEpochCallback(None, "anything without set_epoch is left alone")

    ```
    """

    def __init__(self, *targets: Any) -> None:
        self.targets = [target for target in targets if callable(getattr(target, "set_epoch", None))]
        self.epoch = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed run begins inside or at the end of an epoch; the count of whole epochs is the next one's number."""
        self.epoch = int(state.epoch or 0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Counts epochs itself: `state.epoch` is a fraction of `max_steps` when the data has no length."""
        for target in self.targets:
            target.set_epoch(self.epoch)
        self.epoch += 1


class MetricsFileCallback(TrainerCallback):
    """Writes `metrics.jsonl` to the output folder: one JSON line per log, with `step`, `epoch`, and `time`.

    A resumed run first drops the lines after the step it resumes from, so that the file reads as if there had been no
    interruption (but for times and speeds). The summary of a whole call of `train()` (`train_runtime` and so on) is not
    part of it; that is in `trainer_state.json` and `all_results.json`.

    Example:

    ```python
    >>> from hf_contrastive.training import MetricsFileCallback
    >>> callbacks = [MetricsFileCallback()]  # Trainer(..., callbacks=callbacks)

    ```
    """

    def __init__(self) -> None:
        # what this process logged before training, for example the untrained model's evaluation
        self.before_training: list[str] = []
        self.has_trained = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the lines up to the step at which training starts."""
        path = Path(args.output_dir) / METRICS_FILE
        before_training, self.before_training, self.has_trained = self.before_training, [], True
        if not state.is_world_process_zero or not path.is_file():
            return
        kept = before_training
        if state.global_step > 0:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            lines = lines[: len(lines) - len(before_training)]
            kept = [line for line in lines if _step(line) <= state.global_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, path)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Append one line."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        line = {"step": state.global_step, "epoch": state.epoch, "time": round(time.time(), 3), **logs}
        path = Path(args.output_dir) / METRICS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(line, default=float) + "\n"
        if not self.has_trained:
            self.before_training.append(text)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):  # half a line of a killed run
        return float("inf")
