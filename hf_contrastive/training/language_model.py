"""`LanguageModelTrainer`: evaluation of language models while they are trained."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch.nn import functional as F
from transformers.trainer_utils import speed_metrics

from hf_contrastive.training.probes import limit_rows
from hf_contrastive.training.trainer import ContrastiveTrainer
from hf_contrastive.training.unwrap import unwrap_model
from hf_contrastive.utils import evaluation_mode


class LanguageModelTrainer(ContrastiveTrainer):
    """[`ContrastiveTrainer`] for systems that train a language model; `evaluate()` measures what one expects of these.

    Arguments are those of [`ContrastiveTrainer`]; `data_collator` makes the batches of the evaluation too.
    """

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Cross-entropy, perplexity and isotropy over all tokens of a dataset, in eval mode.

        Args:
            eval_dataset (`Dataset` or `dict` of them, *optional*): the trainer's own by default; at most
                `probe_max_samples` rows are taken.
            ignore_keys: not used.
            metric_key_prefix (`str`): goes before every name.

        Returns:
            `eval_loss` (nats a token), `eval_perplexity`, `eval_isotropy`
            (https://arxiv.org/abs/2210.14140, section 3; 1 = tokens of a text differ, 0 = all alike), times.

        Raises:
            ValueError: no dataset, or one in which nothing is predicted.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):  # comes back here for every part
            return super().evaluate(dataset, ignore_keys, metric_key_prefix)
        started, args, model = time.time(), self.args, unwrap_model(self.model)
        model.to(args.device)
        loader = self.get_eval_dataloader(limit_rows(dataset, args.probe_max_samples, args.seed))
        sums = torch.zeros(4, dtype=torch.float64)
        rows = 0
        # a dataloader draws a seed; the random numbers of training must not depend on when one evaluates
        with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluation_mode(model):
            for batch in loader:
                batch = self._prepare_inputs(batch)
                embeds = model.embed_views(batch["input_ids"], batch.get("attention_mask"))
                own = _row_sums(embeds, batch["labels"])
                gathered = self.accelerator.gather_for_metrics(own)
                sums += gathered.sum(0).cpu()
                rows += len(gathered)
        loss_sum, tokens, cosines, pairs = sums.tolist()
        if not tokens:
            raise ValueError("there is nothing to evaluate: no row of the dataset has a token that is predicted.")
        loss = loss_sum / tokens
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if pairs:
            found["isotropy"] = 1 - cosines / pairs
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        steps = -(-rows // (args.per_device_eval_batch_size * args.world_size))
        metrics.update(speed_metrics(metric_key_prefix, started, num_samples=rows, num_steps=steps))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics


def _row_sums(embeds: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """`[batch, 4]` in float64: sum of cross-entropies, tokens predicted, sum of cosines of pairs, pairs."""
    # on a GPU without float64 (MPS) the sums of a row still fit float32 well
    wide = torch.float32 if labels.device.type == "mps" else torch.float64
    targets = labels[:, 1:]
    scores = embeds["logits"][:, :-1].float()
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    mask = embeds["attention_mask"].to(wide)
    unit = F.normalize(embeds["last_hidden_state"].to(wide), dim=-1) * mask[..., None]
    lengths = mask.sum(1)
    # the sum of all cosines is the squared length of the sum of the unit vectors
    cosines = unit.sum(1).square().sum(1) - unit.square().sum((1, 2))
    parts = (losses.to(wide).view_as(targets).sum(1), (targets != -100).sum(1), cosines, lengths * (lengths - 1))
    return torch.stack([part.to(wide) for part in parts], dim=1)


__all__ = ["LanguageModelTrainer"]
