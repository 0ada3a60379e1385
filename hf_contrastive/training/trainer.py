"""`ContrastiveTrainer`: the Trainer of transformers for objectives over whole batches. It knows no system by name."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer
from transformers.trainer_utils import rotate_checkpoints, seed_worker, speed_metrics

from hf_contrastive.hub import TrainerHubMixin, atomic_folder
from hf_contrastive.training.callbacks import AfterOptimizerStepCallback, MetricsFileCallback, SetEpochCallback
from hf_contrastive.training.checkpoints import (
    STAGING_FOLDER,
    STATE_FILE,
    check_load_result,
    check_resumable,
    last_checkpoint,
    load_buffers,
    prepare_output_folder,
    save_buffers,
    separate_worker_seeds,
    write_training_arguments,
)
from hf_contrastive.training.epoch_order import hand_out_order_at_once
from hf_contrastive.training.gradient_cache import cached_backward
from hf_contrastive.training.monitors import (
    CollapseMonitor,
    NonFiniteLossError,
    describe_non_finite,
    non_finite_message,
    unclipped_norm,
)
from hf_contrastive.training.probes import PAIR_PROBES, embed_batches, limit_rows, probe_metrics
from hf_contrastive.training.training_arguments import ContrastiveTrainingArguments
from hf_contrastive.training.unwrap import unwrap_model


class ContrastiveTrainer(TrainerHubMixin, Trainer):
    """Trains any `ForPreTraining` model of this library; see `transformers.Trainer` for everything not said here.

    What it adds: `after_optimizer_step` of the model is called; epochs reach collator and sampler; a batch sampler can
    be given; gradient cache; a loss that is not finite stops the run before the weights change; collapse monitors;
    `evaluate()` measures embeddings (kNN, linear probe, retrieval); `metrics.jsonl`; checkpoints that are complete or
    absent; resuming that is exact on CPU; no pickle and no local path beside the final weights.

    Args:
        model (`PreTrainedModel`): follows `ContrastivePreTrainedModel`; a PEFT model around one is fine.
        args ([`ContrastiveTrainingArguments`]): settings.
        data_collator (`Callable`): rows to a batch of views.
        eval_data_collator (`Callable`, *optional*): rows to a batch without augmentation, for probes; needed by them.
        probe_dataset (`Dataset`, *optional*): labelled rows that kNN searches and the linear probe learns from.
        train_batch_sampler (`Sampler`, *optional*): yields lists of row numbers, one list per process and step, so that
            process r of W gets batches r, r + W, ...; replaces shuffling.
        **kwargs: as `transformers.Trainer`; `compute_loss_func` is refused, the objective belongs to the model.

    Raises:
        ValueError: settings that cannot work together; the message says what to change.

    Example:

    ```python
    >>> import tempfile, torch
    >>> from hf_contrastive import (
    ...     ContrastiveTrainer, ContrastiveTrainingArguments, ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining,
    ... )
    >>> backbone = ConvEncoderConfig(channels=[4], num_channels=1)
    >>> model = SimCLRForPreTraining(SimCLRConfig(backbone_config=backbone, projection_dims=[4]))
    >>> rows = [{"pixel_values": torch.rand(2, 1, 8, 8)} for _ in range(8)]
    >>> args = ContrastiveTrainingArguments(
    ...     tempfile.mkdtemp(), use_cpu=True, max_steps=1, per_device_train_batch_size=4, disable_tqdm=True,
    ... )
    >>> result = ContrastiveTrainer(model, args, train_dataset=rows).train()  # doctest: +ELLIPSIS
    {'train_runtime': ...
    >>> result.global_step
    1

    ```
    """

    args: ContrastiveTrainingArguments
    # The loss is the mean over a micro-batch; Trainer divides it by the number of micro-batches.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: Any = None,
        args: ContrastiveTrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        eval_data_collator: Any = None,
        probe_dataset: Any = None,
        train_batch_sampler: Any = None,
        callbacks: list[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        args = ContrastiveTrainingArguments("trainer_output") if args is None else args
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("`compute_loss_func` is not used here: the objective is `model.compute_objective`.")
        self.eval_data_collator = eval_data_collator
        self.probe_dataset, self.train_batch_sampler = probe_dataset, train_batch_sampler
        self.ignored_inputs: set[str] = set()
        self._staging: Path | None = None
        self._resume_state: dict[str, Any] | None = None
        self.monitor: CollapseMonitor | None = None
        if args.monitor_collapse:
            self.monitor = CollapseMonitor(
                args.collapse_std_threshold,
                args.collapse_rank_threshold,
                args.collapse_patience,
                args.chance_tolerance,
            )
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, callbacks=callbacks, **kwargs)
        inner = unwrap_model(self.model)
        forward = inspect.signature(type(inner).forward).parameters
        self._has_negatives = getattr(inner, "has_negatives", True)
        self._accepted = [name for name in forward if name != "self"]
        self._required = [n for n in self._accepted if forward[n].default is inspect.Parameter.empty]
        self._check_settings()
        told = SetEpochCallback(self.data_collator, train_batch_sampler, train_dataset, inner)
        for callback in (AfterOptimizerStepCallback(), told, MetricsFileCallback()):
            self.add_callback(callback)

    def _check_settings(self) -> None:
        args, sampler = self.args, self.train_batch_sampler
        if args.n_gpu > 1:
            raise ValueError(
                f"one process sees {args.n_gpu} GPUs; torch's DataParallel would compare rows of each GPU only. Launch "
                "with `accelerate launch` or `torchrun` (one process per GPU), or set CUDA_VISIBLE_DEVICES to one."
            )
        if args.gradient_cache_chunk_size and self.is_fsdp_enabled:
            raise ValueError(
                "`gradient_cache_chunk_size` works with data parallel training, not with FSDP; leave it out."
            )
        labelled = [probe for probe in args.probe_metrics if probe in ("knn", "linear")]
        if labelled and self.eval_dataset is not None and self.probe_dataset is None:
            raise ValueError(
                f"`probe_metrics` has {', '.join(labelled)}, which learn from labelled rows; pass `probe_dataset` "
                "(for example the training rows with labels)."
            )
        if args.probe_metrics and self.eval_dataset is not None and self.eval_data_collator is None:
            raise ValueError("`probe_metrics` embed images without augmentation; pass `eval_data_collator`.")
        if sampler is not None:
            size, processes = getattr(sampler, "batch_size", None), getattr(sampler, "num_processes", None)
            if size is not None and size != args.per_device_train_batch_size:
                raise ValueError(
                    f"`train_batch_sampler` makes batches of {size}, but `per_device_train_batch_size` is "
                    f"{args.per_device_train_batch_size}; make them equal."
                )
            if processes is not None and processes != args.world_size:
                raise ValueError(
                    f"`train_batch_sampler` was made for {processes} processes, but {args.world_size} are running; pass "
                    f"num_processes={args.world_size}."
                )

    # ---- Data ----

    def get_train_dataloader(self) -> DataLoader:
        """Batches of views; from `train_batch_sampler` when there is one."""
        self._check_rows()
        dataset: Any = self.train_dataset
        if self.train_batch_sampler is None:
            return separate_worker_seeds(hand_out_order_at_once(super().get_train_dataloader()), self.args)
        loader = DataLoader(dataset, batch_sampler=self.train_batch_sampler, **self._loading(self.data_collator))
        return separate_worker_seeds(self.accelerator.prepare(loader), self.args)

    def _loading(self, collator: Any) -> dict[str, Any]:
        args = self.args
        return {
            "collate_fn": collator,
            "num_workers": args.dataloader_num_workers,
            "pin_memory": args.dataloader_pin_memory,
            "persistent_workers": args.dataloader_persistent_workers,
            "multiprocessing_context": args.dataloader_multiprocessing_context,
            "prefetch_factor": args.dataloader_prefetch_factor,
            "worker_init_fn": partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        }

    def _check_rows(self) -> None:
        args = self.args
        dataset: Any = self.train_dataset
        batch = args.per_device_train_batch_size * args.world_size
        if batch == 1 and self._has_negatives:
            raise ValueError(
                "`per_device_train_batch_size` is 1 and there is one process: a batch of one has no negatives, its loss "
                "is always 0. Use 2 or more (gradient accumulation does not help; gradient_cache_chunk_size does)."
            )
        if dataset is None or not hasattr(dataset, "__len__"):
            return
        if len(dataset) == 0:
            raise ValueError("`train_dataset` is empty: 0 rows. Check the split name and any filter before training.")
        if args.dataloader_drop_last and len(dataset) < batch and self.train_batch_sampler is None:
            raise ValueError(
                f"`train_dataset` has {len(dataset)} rows, fewer than one batch of {batch} (per_device_train_batch_size "
                f"{args.per_device_train_batch_size} x {args.world_size} processes), and incomplete batches are dropped. "
                f"Set per_device_train_batch_size to at most {len(dataset) // args.world_size}."
            )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """All rows in order, without augmentation; nothing is dropped, duplicates of the last batch are cut later."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]  # ty: ignore[not-subscriptable]
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("there is nothing to evaluate: pass `eval_dataset` to the trainer or to `evaluate`.")
        return self._evaluation_loader(dataset, self.eval_data_collator or self.data_collator)

    def _evaluation_loader(self, dataset: Any, collator: Any) -> DataLoader:
        if not hasattr(dataset, "__len__") and self.args.world_size > 1:  # rows would be repeated, or a gather fail
            raise ValueError("several processes evaluate only data with a length; load this stream as a whole first.")
        options: dict[str, Any] = {**self._loading(collator), "persistent_workers": False}
        return self.accelerator.prepare(DataLoader(dataset, self.args.per_device_eval_batch_size, **options))

    def select_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What of a batch the model's `forward` takes; `sample_id_column` becomes `sample_ids`.

        Raises:
            ValueError: an input that the model needs, or the id column, is missing; the entries found are listed.
        """
        batch, column = dict(batch), self.args.sample_id_column
        if column is not None and "sample_ids" not in batch:
            if column not in batch or "sample_ids" not in self._accepted:
                what = f"the batch has {', '.join(batch)}" if column not in batch else "this model takes no sample_ids"
                raise ValueError(f"`sample_id_column` is {column!r}, but {what}.")
            batch["sample_ids"] = batch[column]
        missing = [name for name in self._required if name not in batch]
        if missing:
            raise ValueError(
                f"the model needs {', '.join(missing)}, but the batch has {', '.join(batch) or 'nothing'}; pass a "
                "`data_collator` that makes it (for images a MultiViewCollator)."
            )
        self.ignored_inputs |= {name for name in batch if name not in self._accepted and name != column}
        return {name: value for name, value in batch.items() if name in self._accepted}

    # ---- Training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; with `resume_from_checkpoint` (a folder, or `True` for the last one of `output_dir`) continue exactly.

        Streamed data without a length is continued exactly within its first pass only; later passes start anew.

        Raises:
            ValueError: nothing to resume from, or the checkpoint of another system.
            NonFiniteLossError: the loss or gradient became NaN or infinite.
        """
        if self.is_world_process_zero():
            prepare_output_folder(str(self.args.output_dir))
        self.accelerator.wait_for_everyone()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(str(self.args.output_dir))
        if resume_from_checkpoint:
            config = getattr(unwrap_model(self.model), "config", None)
            check_resumable(resume_from_checkpoint, getattr(config, "model_type", None))
        self._resume_state = self._read_state(resume_from_checkpoint or None)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One micro-batch forward and backward, in chunks with a gradient cache."""
        if self._resume_state is not None:
            self._restore_state(self._resume_state)
        chunk_size = self.args.gradient_cache_chunk_size
        try:
            if chunk_size is None:
                return super().training_step(model, inputs, num_items_in_batch)
            model.train()
            inputs = self.select_inputs(self._prepare_inputs(inputs))
            scale: Any = 1 / self.current_gradient_accumulation_steps
            if self.accelerator.scaler is not None:  # fp16
                scale = self.accelerator.scaler.scale(torch.tensor(scale, device=self.args.device))
            with self.accelerator.autocast():
                outputs = cached_backward(
                    model, inputs, chunk_size, scale=scale, before_backward=partial(self._watch, inputs)
                )
            return outputs.loss / self.current_gradient_accumulation_steps
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                "batch norm met a single row and has no statistics for it; use per_device_train_batch_size (and "
                "gradient_cache_chunk_size) of 2 or more."
            ) from error

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own loss of one micro-batch, watched."""
        inputs = self.select_inputs(inputs)
        outputs = model(**inputs)
        if outputs.get("loss") is None:
            raise ValueError(
                f"the model returned no loss, only {', '.join(outputs.keys())}; train a ForPreTraining model."
            )
        if model.training:
            self._watch(inputs, outputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _watch(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Stop all processes when any loss is not finite; look at the embeddings now and then."""
        finite = torch.isfinite(outputs.loss.detach()).all()
        if self.args.world_size > 1:
            flag = finite.to(torch.int32)
            dist.all_reduce(flag, op=dist.ReduceOp.MIN)
            finite = flag > 0
        if not bool(finite):
            self._stop("the loss", inputs, outputs)
        if self.monitor is not None and (step := self.state.global_step + 1) % self.args.monitor_steps == 0:
            guess, loss = getattr(unwrap_model(self.model), "chance_loss", None), float(outputs.loss.detach())
            self.monitor.update(outputs, loss, step, self.args.world_size, self._has_negatives, guess)

    def _stop(self, what: str, inputs: Any = None, outputs: Any = None) -> None:
        found = describe_non_finite(unwrap_model(self.model), inputs, outputs)
        if self.args.world_size > 1:
            found = [f"rank {rank}: {text}" for rank, part in enumerate(gather_object([found])) for text in part]
        raise NonFiniteLossError(non_finite_message(what, self.state.global_step + 1, found))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # gradients are averaged over processes here: all see the same norm; a loss scaler (fp16) skips such steps by itself
        grad_norm = super()._get_grad_norm(model, unclipped_norm(self.accelerator, model, grad_norm))
        if self.accelerator.scaler is None and not bool(torch.isfinite(torch.as_tensor(grad_norm))):
            self._stop("the gradient")
        return grad_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; training logs also carry the latest look at the embeddings."""
        if "loss" in logs and self.monitor is not None:
            logs = {**self.monitor.latest, **logs}
        super().log(logs, start_time)

    # ---- Evaluation ----

    def embed_dataset(self, dataset: Any, max_samples: int | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed a whole dataset, shared among the processes.

        Args:
            dataset (`Dataset`): rows for `eval_data_collator`.
            max_samples (`int`, *optional*): at most that many rows, drawn with `seed`.

        Returns:
            `(embeds [rows, dim], labels [rows] or None)` on the CPU, complete on every process, in the dataset's order.
        """
        args, model = self.args, unwrap_model(self.model)
        model.to(args.device)
        loader = self.get_eval_dataloader(limit_rows(dataset, max_samples, args.seed))
        return embed_batches(model, loader, self.accelerator, args.probe_readout, args.probe_label_column)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure the embeddings of a dataset; every number can be `metric_for_best_model`.

        Args:
            eval_dataset (`Dataset` or `dict` of them, *optional*): the trainer's own by default.
            ignore_keys: not used.
            metric_key_prefix (`str`): goes before every name.

        Returns:
            `eval_std`, `eval_effective_rank`, `eval_uniformity`, and by `probe_metrics` `eval_knn_top1`,
            `eval_linear_top1`, `eval_recall@1`, `eval_map@r`, `eval_alignment`, what `pair_metrics` returns; those of
            `compute_metrics` (given embeddings as predictions) when there is one; times.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):
            results: dict[str, float] = {}
            for name, part in dataset.items():
                results.update(self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}"))
            return results
        started, args = time.time(), self.args
        # the random numbers of training must not depend on when one evaluates
        with torch.random.fork_rng(devices=[]):
            embeds, labels = self.embed_dataset(dataset, args.probe_max_samples)
            train: tuple[Any, Any] = (None, None)
            if {"knn", "linear"} & set(args.probe_metrics) and self.probe_dataset is not None:
                train = self.embed_dataset(self.probe_dataset, args.probe_max_samples)
            pairs, rows = {}, limit_rows(dataset, args.probe_max_samples, args.seed)
            for probe, collator in (PAIR_PROBES[name] for name in args.probe_metrics if name in PAIR_PROBES):
                loader = self._evaluation_loader(rows, getattr(self, collator))
                pairs.update(probe(unwrap_model(self.model), loader, self.accelerator))
            measured: list[Any] = [None]
            if self.is_world_process_zero():
                try:
                    measured = [
                        probe_metrics(args.probe_metrics, embeds, labels, *train, k=args.probe_k, seed=args.seed)
                    ]
                    if self.compute_metrics is not None:
                        answers: Any = None if labels is None else labels.numpy()
                        measured[0].update(self.compute_metrics(EvalPrediction(embeds.numpy(), answers)))
                except Exception as error:
                    measured = [error]
            broadcast_object_list(measured)  # one process measures, all decide alike
        if isinstance(measured[0], Exception):
            raise measured[0]
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in {**measured[0], **pairs}.items()}
        steps = -(-len(embeds) // (args.per_device_eval_batch_size * args.world_size))
        metrics.update(speed_metrics(metric_key_prefix, started, num_samples=len(embeds), num_steps=steps))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics

    # ---- Checkpoints ----

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint elsewhere and move it into place when it is complete."""
        run = Path(super()._get_output_dir(trial))
        name, best = f"checkpoint-{self.state.global_step}", self.state.best_global_step
        staging, writes = run / STAGING_FOLDER, self.args.should_save
        if writes:
            shutil.rmtree(staging, ignore_errors=True)  # of a killed save
        self.accelerator.wait_for_everyone()
        losses = self.accelerator.gather(self._tr_loss.detach().float().reshape(1)).tolist()
        self._staging = staging
        try:
            with atomic_folder(run / name) if writes else contextlib.nullcontext() as target:
                super()._save_checkpoint(model, trial)
                self._staging = None
                if best and (best == self.state.global_step or (run / f"checkpoint-{best}").is_dir()):
                    self.state.best_model_checkpoint = str(run / f"checkpoint-{best}")
                self.accelerator.wait_for_everyone()
                if target is not None:
                    save_buffers(self.model, staging / name)
                    self.state.save_to_json(str(staging / name / "trainer_state.json"))
                    (staging / name / STATE_FILE).write_text(json.dumps(self._own_state(losses)), encoding="utf-8")
                    for path in (staging / name).iterdir():
                        os.rename(path, target / path.name)
        finally:
            self._staging = None
            if writes:
                shutil.rmtree(staging, ignore_errors=True)
        if writes:
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run / name))
        self.accelerator.wait_for_everyone()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:  # pushed once it is complete
            super()._push_from_checkpoint(checkpoint_folder)

    def _own_state(self, losses: list[float]) -> dict[str, Any]:
        return {
            "losses": losses,
            "last_logged": self._globalstep_last_logged,
            "monitor": None if self.monitor is None else self.monitor.state_dict(),
        }

    def _read_state(self, checkpoint: str | None) -> dict[str, Any] | None:
        path = None if checkpoint is None else Path(checkpoint) / STATE_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else None

    def _restore_state(self, state: dict[str, Any]) -> None:
        """The part of a log interval that lies before the checkpoint, so that the next log equals the uninterrupted one."""
        self._resume_state = None
        if len(state["losses"]) == self.args.world_size:
            self._tr_loss += state["losses"][self.args.process_index]
            self._globalstep_last_logged = state["last_logged"]
        if self.monitor is not None and state["monitor"] is not None:
            self.monitor.load_state_dict(state["monitor"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_buffers(self.model, resume_from_checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        tied = getattr(self.model, "all_tied_weights_keys", None) or {}
        check_load_result(load_result.missing_keys, load_result.unexpected_keys, tied)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights, configuration, processor and `training_arguments.json`; no pickled arguments."""
        output_dir = str(self.args.output_dir if output_dir is None else output_dir)
        if not self.args.should_save:
            return
        os.makedirs(output_dir, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        model.save_pretrained(output_dir, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)
        write_training_arguments(self.args, output_dir)
