"""`RecommenderTrainer`: what is drawn once an epoch, and full ranking while a recommender is trained."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Generator, Sequence
from typing import Any

import accelerate.optimizer
import numpy as np
from accelerate.utils import gather_object
from transformers.trainer_utils import speed_metrics

from hf_contrastive.evaluation import recommendation_metrics
from hf_contrastive.tensor_utils import distinct
from hf_contrastive.training.trainer import ContrastiveTrainer
from hf_contrastive.training.unwrap import unwrap_model


MASKS = ("train", "train+valid")
MACRO_METRICS = ("recall", "ndcg", "precision", "map", "mrr", "hit")


class RecommenderTrainer(ContrastiveTrainer):
    """[`ContrastiveTrainer`] for recommenders on an interaction log.

    Negatives, and what a system draws once an epoch (SGL's graphs), follow the epoch; `evaluate()` ranks the whole catalogue for
    every user of a part, so that `metric_for_best_model="recall@20"` with transformers' `EarlyStoppingCallback` stops on the valid
    part.

    Args:
        model ([`RecommenderModel`]): knows its training pairs (`set_interactions`).
        args ([`ContrastiveTrainingArguments`]): settings.
        train_dataset ([`TripletDataset`]): triples; they know their `data_collator`.
        eval_dataset ([`InteractionDataset`], *optional*): the log whose parts are ranked.
        ks (`Sequence[int]`, defaults to (10, 20)): lengths of the lists.
        metrics (`Sequence[str]`, defaults to recall and ndcg): what `evaluate()` measures, out of `MACRO_METRICS`.
        mask (`str`, defaults to `"train"`): what a user is not offered at test: `"train"` (MMRec, SSLRec, DCCF) or `"train+valid"`
            (RecBole). On the valid part it is always the training items.
        eval_split (`str`, defaults to `"valid"`): part that `evaluate()` ranks for.
        **kwargs: as for [`ContrastiveTrainer`].

    Raises:
        ValueError: an unknown mask or part.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive import ContrastiveTrainingArguments, MFConfig, MFModel
    >>> from hf_contrastive.data import TripletDataset, load_interactions
    >>> from hf_contrastive.training import RecommenderTrainer
    >>> data = load_interactions("planted")
    >>> model = MFModel(MFConfig(num_users=data.num_users, num_items=data.num_items))
    >>> model.set_interactions(*data.part("train"), user_tokens=data.user_tokens, item_tokens=data.item_tokens)
    >>> args = ContrastiveTrainingArguments(
    ...     tempfile.mkdtemp(), use_cpu=True, max_steps=2, per_device_train_batch_size=512, disable_tqdm=True,
    ... )
    >>> triples = TripletDataset(*data.part("train"), data.num_users, data.num_items)
    >>> trainer = RecommenderTrainer(model, args, train_dataset=triples, eval_dataset=data)
    >>> result = trainer.train()  # doctest: +ELLIPSIS
    {'train_runtime': ...
    >>> found = trainer.evaluate()  # doctest: +ELLIPSIS
    {'eval_recall@10': ...
    >>> 0 < found["eval_recall@20"] < 1
    True

    ```
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        *rest: Any,
        ks: Sequence[int] = (10, 20),
        metrics: Sequence[str] = ("recall", "ndcg"),
        mask: str = "train",
        eval_split: str = "valid",
        **kwargs: Any,
    ) -> None:
        if mask not in MASKS:
            raise ValueError(f"`mask` is {mask!r}; expected one of {', '.join(MASKS)}")
        if eval_split not in ("valid", "test"):
            raise ValueError(f"`eval_split` is {eval_split!r}; expected valid or test")
        unknown = [name for name in metrics if name not in MACRO_METRICS]
        if unknown or not metrics:
            raise ValueError(f"`metrics` is {list(metrics)}; expected names out of {', '.join(MACRO_METRICS)}")
        self.ks, self.metrics, self.mask, self.eval_split = tuple(ks), tuple(metrics), mask, eval_split
        triples = rest[0] if rest else kwargs.get("train_dataset")
        super().__init__(model, args, data_collator or getattr(triples, "collate", None), *rest, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As of every trainer of this library."""
        with _packages_looked_up_once():
            return super().train(*args, **kwargs)

    def floating_point_ops(self, inputs: Any) -> int:
        """0: transformers' estimate takes every row of the tables for used at every step."""
        return 0

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        split: str | None = None,
    ) -> dict[str, float]:
        """Rank all items for every user of a part; users without training items are left out.

        Args:
            eval_dataset ([`InteractionDataset`], *optional*): the trainer's own by default.
            ignore_keys: not used.
            metric_key_prefix (`str`): goes before every name.
            split (`str`, *optional*): `valid` or `test`; `eval_split` by default.

        Returns:
            `eval_<metric>@k` for every metric and k (means over users, see `recommendation_metrics`), `eval_users` (how many),
            times.

        Raises:
            ValueError: no log, or no user of the part has training items.
        """
        started = time.time()
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if not (hasattr(data, "part") and hasattr(data, "pairs")):
            raise ValueError(
                f"recommenders are evaluated on an InteractionDataset, got {type(data).__name__}; pass eval_dataset=data of "
                "load_interactions."
            )
        model = unwrap_model(self.model)
        model.to(self.args.device)
        found = self.rank(*model.vectors(), data, split or self.eval_split, self.metrics)
        users = found.pop("users")
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        metrics[f"{metric_key_prefix}_users"] = users
        metrics.update(speed_metrics(metric_key_prefix, started, num_samples=int(users)))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def rank(
        self,
        user_x: Any,
        item_x: Any,
        data: Any,
        split: str,
        metrics: Sequence[str] = MACRO_METRICS,
    ) -> dict[str, float]:
        """Metrics of any vectors on a part, shared among the processes.

        Args:
            user_x (`[num_users, dim]`), item_x (`[num_items, dim]`): vectors.
            data ([`InteractionDataset`]): the log.
            split (`str`): `valid` or `test`.
            metrics (`Sequence[str]`): out of `MACRO_METRICS`; all by default.

        Returns:
            `dict[str, float]`: as [`evaluate`] without prefix; the same on every process.
        """
        wanted = data.pairs(split)
        both = distinct(wanted[:, 0]), distinct(data.part("train")[0])
        users = np.intersect1d(*both, assume_unique=True)
        if not len(users):
            raise ValueError(
                f"the {split} part has {len(wanted)} pairs of no user with training items; check the split."
            )
        hidden = (
            data.pairs("train", "valid") if split == "test" and self.mask == "train+valid" else data.pairs("train")
        )
        own = users[self.args.process_index :: self.args.world_size]
        parts: list[tuple[dict[str, float], int]] = []
        if len(own):
            row = recommendation_metrics(
                user_x, item_x, relevant=wanted, exclude=hidden, ks=self.ks, metrics=metrics, users=own
            )
            parts = [({name: value for name, value in row.items() if "@" in name}, row["n_users"])]
        if self.args.world_size > 1:
            parts = gather_object(parts)
        total = sum(count for _, count in parts)
        means = {name: sum(row[name] * count for row, count in parts) / total for name in parts[0][0]}
        return {**means, "users": float(total)}


@contextlib.contextmanager
def _packages_looked_up_once() -> Generator[None]:
    """Accelerate searches the installed packages twice a step for an optimiser that makes its steps itself (LOMO); on small tables that
    takes half as long as Adam."""
    place: Any = accelerate.optimizer
    look_up = place.is_lomo_available
    place.is_lomo_available = functools.cache(look_up)
    try:
        yield
    finally:
        place.is_lomo_available = look_up


__all__ = ["MACRO_METRICS", "MASKS", "RecommenderTrainer"]
