"""Makes `Trainer(push_to_hub=True)` push what `hf_contrastive.hub.push_to_hub` would push, and nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_contrastive.hub.push import RESUME_PATTERNS, prepare_folder, upload_prepared
from hf_contrastive.hub.scrub import is_local_path


logger = logging.get_logger(__name__)


class TrainerHubMixin:
    """Put before `transformers.Trainer` in the bases of a trainer: safe pushes and an honest card.

    transformers' own trainer uploads `training_args.bin` (a pickle with local paths) and writes a card that calls every
    model "a fine-tuned version of" something. This one sends only what `prepare_folder` lets through. With
    `hub_strategy="checkpoint"` or `"all_checkpoints"` the state that resuming needs (optimizer, schedule, random
    states) goes along, since the user asked for exactly that; `training_args.bin` never does.

    Set `trainer.card_fields` to a dictionary of arguments for `write_model_card` (`metrics`, `training`, `licence`,
    ...): they complete what the trainer knows itself.
    """

    card_fields: dict[str, Any] | None = None

    def card_arguments(self) -> dict[str, Any]:
        """Arguments for `write_model_card`: what the trainer knows, completed and overruled by `card_fields`."""
        me: Any = self
        args, fields = me.args, dict(self.card_fields or {})
        settings = {
            "epochs": args.num_train_epochs if args.max_steps <= 0 else None,
            "steps": me.state.global_step or None,
            "batch size per device": args.per_device_train_batch_size,
            "gradient accumulation": args.gradient_accumulation_steps,
            "learning rate": args.learning_rate,
            "schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
            "optimizer": str(getattr(args.optim, "value", args.optim)),
            "weight decay": args.weight_decay,
            "seed": args.seed,
            "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "float32",
        }
        runtime = [row["train_runtime"] for row in me.state.log_history if "train_runtime" in row]
        training = {
            "settings": {key: value for key, value in settings.items() if value is not None},
            "processes": args.world_size,
        }
        if runtime:
            training["wall_time"] = runtime[-1]
        training.update(fields.pop("training", None) or {})
        model = me.accelerator.unwrap_model(me.model)
        source = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
        result: dict[str, Any] = {"training": training, "log_history": list(me.state.log_history)}
        if me.hub_model_id is not None:
            result["repo_id"] = me.hub_model_id
        if source and not is_local_path(source) and source != me.hub_model_id:
            result["base_model"] = source
        return {**result, **fields}

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write `README.md` into the output folder; see `card_arguments`.

        Args:
            args, kwargs: what transformers' trainer takes; of these `license`, `tags`, `model_name` and
                `finetuned_from` are used.
        """
        from hf_contrastive.hub.cards import write_model_card
        from hf_contrastive.hub.push import _system_of

        me: Any = self
        if not me.is_world_process_zero():
            return
        options = self.card_arguments()
        folder = Path(me.args.output_dir)
        model = me.accelerator.unwrap_model(me.model)
        renamed = {"license": "licence", "model_name": "model_name", "finetuned_from": "base_model"}
        for theirs, ours in renamed.items():
            if kwargs.get(theirs):
                options.setdefault(ours, kwargs[theirs])
        tags = kwargs.get("tags") or []
        options["tags"] = [*options.get("tags", ()), *([tags] if isinstance(tags, str) else tags)]
        options.setdefault("spec", _system_of(model))
        options.setdefault("config", getattr(model, "config", None))
        options.setdefault("is_adapter", (folder / "adapter_config.json").is_file())
        write_model_card(folder, **options)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model with its card into the output folder and push what may leave.

        Args:
            commit_message, token, revision, private: as in transformers.
            blocking (`bool`): wait for the upload; `False` returns a future.
            kwargs: for `create_model_card`.

        Returns:
            `CommitInfo`, or a `Future` of it; `None` on other processes than the first.
        """
        me: Any = self
        me.callback_handler.on_push_begin(me.args, me.state, me.control)
        token = token if token is not None else me.args.hub_token
        if me.hub_model_id is None:
            me.init_hf_repo(token=token, private=private)
        me.save_model(_internal_call=True)
        if not me.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        me._finish_current_push()
        options: dict[str, Any] = {
            "commit_message": commit_message or "End of training",
            "token": token,
            "revision": revision if revision is not None else me.args.hub_revision,
        }
        return self._upload(Path(me.args.output_dir), blocking=blocking, **options)

    def _upload(
        self, folder: Path, *, blocking: bool, allow: tuple[str, ...] = (), card: Any = None, **options: Any
    ) -> Any:
        from huggingface_hub import HfApi

        me: Any = self
        repo_id = me.hub_model_id
        # Checked and copied now: a refusal must be seen, and the trainer may delete or rewrite the folder meanwhile.
        temporary = tempfile.TemporaryDirectory(prefix="hf_contrastive_push_")
        try:
            out = Path(temporary.name) / "upload"
            prepared = prepare_folder(folder, out, repo_id=repo_id, allow=allow, card=card)
        except BaseException:
            temporary.cleanup()
            raise

        def upload() -> Any:
            with temporary:
                return upload_prepared(prepared, repo_id, **options)

        return upload() if blocking else HfApi().run_as_future(upload)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        from transformers.trainer import PushInProgress
        from transformers.trainer_utils import HubStrategy, SaveStrategy

        me: Any = self
        if not me.is_world_process_zero() or me.args.hub_strategy == HubStrategy.END:
            return
        if not me.args.hub_always_push and me.push_in_progress is not None and not me.push_in_progress.is_done():
            return
        me.callback_handler.on_push_begin(me.args, me.state, me.control)
        if me.args.save_strategy == SaveStrategy.STEPS:
            message = f"Training in progress, step {me.state.global_step}"
        else:
            message = f"Training in progress, epoch {int(me.state.epoch)}"
        folder = Path(checkpoint_folder)
        options: dict[str, Any] = {"token": me.args.hub_token, "revision": me.args.hub_revision, "blocking": False}
        card = {**self.card_arguments(), "config": getattr(me.accelerator.unwrap_model(me.model), "config", None)}
        try:
            jobs = [self._upload(folder, card=card, commit_message=message, **options)]
        except ValueError as error:
            # A refusal must not end a training run; the push at its end will refuse aloud.
            logger.warning(f"nothing was pushed at step {me.state.global_step}: {error}")
            return
        if me.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if me.args.hub_strategy == HubStrategy.CHECKPOINT else folder.name
            jobs.append(
                self._upload(
                    folder,
                    allow=RESUME_PATTERNS,
                    card=False,
                    path_in_repo=place,
                    commit_message=f"{message}, checkpoint",
                    **options,
                )
            )
        if me.push_in_progress is None or me.push_in_progress.is_done():
            started: Any = jobs  # a list, as transformers itself hands over
            me.push_in_progress = PushInProgress(started)
        else:
            me.push_in_progress.jobs.extend(jobs)
