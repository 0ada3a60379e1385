"""Stage 1 of G-SimCLR: train the denoising autoencoder and embed the images with it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from hf_contrastive.data import EvalCollator, ProcessorTransform, image_processor
from hf_contrastive.distributed import is_main_process
from hf_contrastive.models.gsimclr.configuration_gsimclr import DenoisingAutoencoderConfig
from hf_contrastive.models.gsimclr.modeling_gsimclr import DenoisingAutoencoderModel


@dataclass
class AutoencoderArguments:
    """autoencoder: stage 1, whose features are clustered"""

    autoencoder_channels: list[int] = field(
        default_factory=lambda: [32, 64, 128], metadata={"help": "Channels of the encoder's stages."}
    )
    autoencoder_kernel_size: int = field(default=3, metadata={"help": "Side of the convolutions, odd."})
    autoencoder_noise_std: float = field(default=0.01, metadata={"help": "Noise on images in [0, 1]."})
    autoencoder_epochs: float = field(default=100, metadata={"help": "At most that many epochs."})
    autoencoder_batch_size: int = field(default=64, metadata={"help": "Images a batch."})
    autoencoder_learning_rate: float = field(default=1e-3, metadata={"help": "Of Adam."})
    autoencoder_patience: int = field(
        default=2, metadata={"help": "Stop after that many epochs without a lower validation error."}
    )
    autoencoder_validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training images held out for stopping (never the test split)."}
    )


class _PixelCollator:
    """Only the images of a batch, in [0, 1]."""

    def __init__(self, collator: EvalCollator) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.collator(rows)["pixel_values"]}


def train_autoencoder(
    dataset: Any,
    image_size: int,
    num_channels: int,
    arguments: AutoencoderArguments,
    args: TrainingArguments,
    dry_run: bool = False,
) -> np.ndarray:
    """Train the denoising autoencoder and return its features of all images.

    The model goes to `output_dir/autoencoder`; a finished one found there is used again when the run is resumed.

    Args:
        dataset (`datasets.Dataset`): rows with `image` and `index`.
        image_size (`int`): side of the images in pixels, a multiple of 2 to the number of stages.
        num_channels (`int`): 1 or 3.
        arguments ([`AutoencoderArguments`]): sizes and training.
        args (`TrainingArguments`): of the contrastive training; place, seed and device are taken from it.
        dry_run (`bool`, defaults to `False`): one step, and the features of the untrained model.

    Returns:
        `numpy.ndarray` `[rows, channels]`.

    Raises:
        FloatingPointError: the reconstruction error became NaN or infinite.
    """
    if dry_run:  # the Trainer makes its folder, a dry run leaves none
        with tempfile.TemporaryDirectory() as scratch:
            return _train(dataset, image_size, num_channels, arguments, args, Path(scratch), dry_run=True)
    folder = Path(args.output_dir or ".") / "autoencoder"
    return _train(dataset, image_size, num_channels, arguments, args, folder, dry_run=False)


def _train(
    dataset: Any,
    image_size: int,
    num_channels: int,
    arguments: AutoencoderArguments,
    args: TrainingArguments,
    folder: Path,
    dry_run: bool,
) -> np.ndarray:
    collator = _PixelCollator(EvalCollator(ProcessorTransform(image_processor(image_size), num_channels)))
    config = DenoisingAutoencoderConfig(
        channels=arguments.autoencoder_channels,
        kernel_size=arguments.autoencoder_kernel_size,
        noise_std=arguments.autoencoder_noise_std,
        num_channels=num_channels,
    )
    if args.resume_from_checkpoint and (folder / "config.json").is_file():
        model = DenoisingAutoencoderModel.from_pretrained(folder)
        return _features(model.to(args.device), dataset, collator)
    model = DenoisingAutoencoderModel(config).train()
    # a seeded part of the training images decides when to stop; the official notebook looks at the test images
    rows = np.random.RandomState(args.seed).permutation(len(dataset))
    held_out = max(1, round(len(rows) * arguments.autoencoder_validation_fraction))
    stage_args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=arguments.autoencoder_epochs,
        max_steps=1 if dry_run else -1,
        per_device_train_batch_size=arguments.autoencoder_batch_size,
        per_device_eval_batch_size=256,
        learning_rate=arguments.autoencoder_learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        adam_epsilon=1e-7,
        eval_strategy="no" if dry_run else "epoch",
        save_strategy="no" if dry_run else "epoch",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=not dry_run,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_strategy="epoch",
        remove_unused_columns=False,
        label_names=[],
        prediction_loss_only=True,
        max_grad_norm=0.0,
        seed=args.seed,
        use_cpu=args.use_cpu,
        bf16=args.bf16,
        dataloader_num_workers=args.dataloader_num_workers,
        dataloader_pin_memory=args.dataloader_pin_memory,
        disable_tqdm=args.disable_tqdm,
        report_to="none",
    )
    trainer = Trainer(
        model,
        stage_args,
        data_collator=collator,
        train_dataset=dataset.select(np.sort(rows[held_out:])),
        eval_dataset=dataset.select(np.sort(rows[:held_out])),
        callbacks=[] if dry_run else [EarlyStoppingCallback(arguments.autoencoder_patience)],
    )
    trainer.train()
    history = [row for row in trainer.state.log_history if "eval_loss" in row]
    if history and not np.isfinite(history[-1]["eval_loss"]):
        raise FloatingPointError(
            f"the autoencoder's validation error is {history[-1]['eval_loss']} after epoch {history[-1]['epoch']:g}; lower "
            f"--autoencoder_learning_rate (now {arguments.autoencoder_learning_rate:g})."
        )
    if not dry_run and is_main_process():
        model.save_pretrained(folder)
        losses = [{"epoch": row["epoch"], "validation_mse": row["eval_loss"]} for row in history]
        (folder / "history.json").write_text(json.dumps(losses, indent=2) + "\n", encoding="utf-8")
    return _features(model.to(args.device), dataset, collator)


def _features(model: DenoisingAutoencoderModel, dataset: Any, collator: Any) -> np.ndarray:
    loader = DataLoader(dataset, batch_size=256, collate_fn=collator)
    parts = [model.encode(batch["pixel_values"].to(model.device)).float().cpu().numpy() for batch in loader]
    return np.concatenate(parts)


__all__ = ["AutoencoderArguments", "train_autoencoder"]
