"""`GoalConditionedRewardTrainer`: what is logged and measured while a reward model is trained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers.trainer_utils import speed_metrics

from hf_contrastive.distributed import all_reduce_sum
from hf_contrastive.evaluation import answer_metrics
from hf_contrastive.training.probes import limit_rows
from hf_contrastive.training.trainer import ContrastiveTrainer
from hf_contrastive.training.unwrap import unwrap_model
from hf_contrastive.utils import evaluation_mode


#: scalars of the model's output whose means over the steps since the last log are logged
WATCHED = ("preference_loss", "contrastive_loss", "accuracy", "reward_margin", "pos_sim", "neg_sim")


class GoalConditionedRewardTrainer(ContrastiveTrainer):
    """[`ContrastiveTrainer`] for reward models on preference pairs.

    It logs both losses, the accuracy, the margin and the cosines of positive and negative states, as means over the steps
    and processes since the last log; `evaluate()` measures the same over a dataset of pairs, and `evaluate_completions()`
    how well rewards and Q-values tell right answers from wrong ones.

    Args:
        **kwargs: as for [`ContrastiveTrainer`]; `data_collator` is a `PreferenceCollator`, which makes the batches of the
            evaluation too.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive import (
    ...     ContrastiveTrainingArguments, GoalConditionedRewardConfig, GoalConditionedRewardModel, GoalConditionedRewardTrainer,
    ... )
    >>> from hf_contrastive.data import PreferenceCollator, load_preferences, tokenize_preferences, train_tokenizer
    >>> tokenizer = train_tokenizer(["2 + 3 = 5"], 300)
    >>> pairs = load_preferences([{"prompt": "2 + 3 =", "chosen": " 5", "rejected": " 6"}] * 4)
    >>> rows, _ = tokenize_preferences(pairs, tokenizer, max_length=16)
    >>> backbone = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 300}
    >>> model = GoalConditionedRewardModel(GoalConditionedRewardConfig(backbone_config=backbone))
    >>> args = ContrastiveTrainingArguments(
    ...     tempfile.mkdtemp(), use_cpu=True, max_steps=1, per_device_train_batch_size=4, disable_tqdm=True,
    ... )
    >>> trainer = GoalConditionedRewardTrainer(
    ...     model, args, train_dataset=rows, data_collator=PreferenceCollator(tokenizer),
    ... )
    >>> result = trainer.train()  # doctest: +ELLIPSIS
    {'train_runtime': ...
    >>> result.global_step
    1

    ```
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0
        self._saved_means: dict[str, Any] | None = None
        super().__init__(*args, **kwargs)

    # ---- Logging ----

    def _watch(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        super()._watch(inputs, outputs)
        for name in WATCHED:
            if outputs.get(name) is not None:
                value = outputs[name].detach().float()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1

    def _means(self) -> dict[str, float]:
        """Means since the last log over all processes; all of them have to call this."""
        if not self._sums:
            return {}
        names = list(self._sums)
        sums = all_reduce_sum(torch.stack([self._sums[name] for name in names]))
        return dict(zip(names, (sums / (self._steps * self.args.world_size)).tolist(), strict=True))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; training logs carry the means of both losses, accuracy, margin and cosines."""
        if "loss" in logs:
            means = self._means()
            if self.monitor is not None:  # what is watched at single steps
                self.monitor.latest = {k: v for k, v in self.monitor.latest.items() if k not in WATCHED}
            logs = {**logs, **means}
            self._sums, self._steps = {}, 0
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._saved_means = {"means": self._means(), "steps": self._steps}
        super()._save_checkpoint(model, trial)

    def _own_state(self, losses: list[float]) -> dict[str, Any]:
        return {**super()._own_state(losses), "watched": self._saved_means}

    def _restore_state(self, state: dict[str, Any]) -> None:
        super()._restore_state(state)
        watched = state.get("watched")
        if watched and len(state["losses"]) == self.args.world_size:
            self._steps = watched["steps"]
            self._sums = {
                name: torch.tensor(mean * self._steps, device=self.args.device)
                for name, mean in watched["means"].items()
            }

    # ---- Evaluation ----

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Losses and accuracy over a dataset of pairs, in eval mode; nothing is random (see `embed_views`).

        The means inside the contrastive loss go over the whole dataset, so that it does not depend on the batch size.

        Args:
            eval_dataset (`Dataset` or `dict` of them, *optional*): rows for `data_collator`; the trainer's own by default, at
                most `probe_max_samples` rows.
            ignore_keys: not used.
            metric_key_prefix (`str`): goes before every name.

        Returns:
            `eval_loss`, `eval_preference_loss`, `eval_contrastive_loss`, `eval_accuracy` (share of pairs whose chosen answer
            has the higher reward), `eval_reward_margin`, `eval_pos_sim`, `eval_neg_sim`, `eval_reward_mean` and
            `eval_reward_std` over the rewards of all answers, times.

        Raises:
            ValueError: no dataset, or rewards that are not finite.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):  # comes back here for every part
            return super().evaluate(dataset, ignore_keys, metric_key_prefix)
        started, args, model = time.time(), self.args, unwrap_model(self.model)
        model.to(args.device)
        loader = self.get_eval_dataloader(limit_rows(dataset, args.probe_max_samples, args.seed))
        parts: list[torch.Tensor] = []
        # a dataloader draws a seed; the random numbers of training must not depend on when one evaluates
        with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluation_mode(model):
            for batch in loader:
                batch = self._prepare_inputs(batch)
                with self.accelerator.autocast():
                    embeds = model.embed_views(**{k: v for k, v in batch.items() if k in model.view_inputs})
                    sums = model.pair_sums(embeds)
                rewards = [embeds["chosen_rewards"], embeds["rejected_rewards"]]
                margin = batch.get("margin")
                columns = [*rewards, torch.zeros_like(rewards[0]) if margin is None else margin]
                row = torch.stack([column.float() for column in columns], dim=1)
                row = row if sums is None else torch.cat([row, sums.float()], dim=1)
                parts.append(self.accelerator.gather_for_metrics(row).double().cpu())
        rows = torch.cat(parts)
        chosen, rejected = rows[:, 0], rows[:, 1]
        if not bool(torch.isfinite(rows[:, :2]).all()):
            wrong = int((~torch.isfinite(rows[:, :2]).all(1)).nonzero()[0])
            raise ValueError(
                f"the rewards of pair {wrong} of the dataset are {float(chosen[wrong])} and {float(rejected[wrong])}; the "
                "model's weights or its precision are broken."
            )
        sums = rows[:, 3:] if rows.shape[1] > 3 else None
        found = model.loss_terms(chosen, rejected, sums, rows[:, 2])
        both = rows[:, :2]
        values = {name: float(value) for name, value in found.items()}
        values |= {"reward_mean": float(both.mean()), "reward_std": float(both.std())}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        steps = -(-len(rows) // (args.per_device_eval_batch_size * args.world_size))
        metrics.update(speed_metrics(metric_key_prefix, started, num_samples=len(rows), num_steps=steps))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics

    def _own_rows(self, dataset: Any, column: str) -> list[int]:
        """Rows of this process, short ones first, so that little is padded."""
        lengths = [len(ids) for ids in dataset[column]]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        return order[self.args.process_index :: self.args.world_size]

    def compute_goal_state(self, dataset: Any = None, max_samples: int | None = None) -> torch.Tensor:
        """The goal: mean state at the end of the preferred answers of a dataset, shared among the processes.

        Args:
            dataset (`Dataset`, *optional*): pairs; the training rows by default.
            max_samples (`int`, *optional*): at most that many pairs, drawn with `seed`.

        Returns:
            `torch.FloatTensor` `[dim]`, the same on every process, for `model.set_goal_state`.
        """
        dataset = limit_rows(self.train_dataset if dataset is None else dataset, max_samples, self.args.seed)
        model = unwrap_model(self.model)
        model.to(self.args.device)
        rows = self._own_rows(dataset, "chosen_input_ids")
        count = torch.tensor(float(len(rows)), dtype=torch.float64)
        total = torch.zeros(model.config.state_size, dtype=torch.float64)
        if rows:
            loader = DataLoader(
                Subset(dataset, rows),
                self.args.per_device_eval_batch_size,
                collate_fn=self.data_collator,
            )
            with torch.random.fork_rng(devices=[]):
                total = model.compute_goal_state(loader).double().cpu() * len(rows)
        device = self.args.device if self.args.world_size > 1 else torch.device("cpu")
        total, count = all_reduce_sum(total.to(device)), all_reduce_sum(count.to(device))
        return (total / count).float().cpu()

    def score_completions(self, dataset: Any, collator: Any) -> list[dict[str, Any]]:
        """Rewards and Q-values of answers, token by token, shared among the processes.

        Args:
            dataset (`Dataset`): of `tokenize_completions`.
            collator (`AnswerCollator`): makes batches of its rows.

        Returns:
            A `dict` a row, in order: `reward`, and for every token of the answer `token_rewards` and `q_values` (`None`
            without a goal), `numpy` arrays.
        """
        model = unwrap_model(self.model)
        model.to(self.args.device)
        rows = self._own_rows(dataset, "input_ids")
        size = self.args.per_device_eval_batch_size
        found: list[tuple[int, dict[str, Any]]] = []
        with torch.no_grad(), evaluation_mode(model):
            for start in range(0, len(rows), size):
                places = rows[start : start + size]
                batch = self._prepare_inputs(collator([dataset[place] for place in places]))
                with self.accelerator.autocast():
                    outputs = model(batch["input_ids"], batch["attention_mask"])
                columns = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
                ends = (batch["attention_mask"] * columns).amax(1).tolist()
                actions = batch["num_actions"].tolist()
                rewards = outputs.rewards.float().tolist()
                courses = outputs.token_rewards.float().cpu().numpy()
                goals = None if outputs.q_values is None else outputs.q_values.float().cpu().numpy()
                for row, place in enumerate(places):
                    span = slice(ends[row] - actions[row], ends[row])
                    one = {"reward": rewards[row], "token_rewards": courses[row, span].copy(), "q_values": None}
                    if goals is not None:
                        one["q_values"] = goals[row, span].copy()
                    found.append((place, one))
        gathered = gather_object(found) if self.args.world_size > 1 else found
        return [one for _, one in sorted(gathered, key=lambda item: item[0])]

    def evaluate_completions(
        self,
        dataset: Any,
        collator: Any,
        *,
        threshold: float = 0.0,
        skip_tokens: int = 5,
        percentiles: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0),
    ) -> dict[str, Any]:
        """How well rewards and Q-values tell right answers from wrong ones (the paper's protocol).

        Args:
            dataset (`Dataset`): of `tokenize_completions`, with `is_correct`; for the vote `question_id` and
                `predicted_answer`.
            collator (`AnswerCollator`): makes batches of its rows.
            threshold (`float`, defaults to 0): an answer whose Q-value falls below is filtered.
            skip_tokens (`int`, defaults to 5): first tokens of an answer that do not count.
            percentiles (`tuple[float]`): parts of the answers for the partial AUROC.

        Returns:
            `dict`: what `hf_contrastive.evaluation.answer_metrics` finds: `auroc`, `partial_auroc`, `q_auroc`, `vote`, ...

        Raises:
            ValueError: labels of one class only.
        """
        columns = {
            name: list(dataset[name]) for name in ("question_id", "predicted_answer") if name in dataset.column_names
        }
        return answer_metrics(
            self.score_completions(dataset, collator),
            list(dataset["is_correct"]),
            columns.get("question_id"),
            columns.get("predicted_answer"),
            threshold=threshold,
            skip_tokens=skip_tokens,
            percentiles=percentiles,
        )


__all__ = ["GoalConditionedRewardTrainer"]
