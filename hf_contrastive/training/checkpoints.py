"""Checkpoints of a run: what may be resumed from, and the files the Trainer itself does not write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import get_last_checkpoint

from hf_contrastive.hub.atomic import finish_interrupted_save
from hf_contrastive.hub.scrub import scrub_config
from hf_contrastive.training.unwrap import unwrap_model


BUFFERS_FILE = "buffers.safetensors"
STATE_FILE = "contrastive_state.json"
ARGUMENTS_FILE = "training_arguments.json"
STAGING_FOLDER = ".saving"

# Places and secrets of this machine; they say nothing about the method.
_LOCAL_ARGUMENTS = {
    *("output_dir", "logging_dir", "run_name", "hub_token", "resume_from_checkpoint", "local_rank", "deepspeed"),
    *("push_to_hub_token", "push_to_hub_organization", "trackio_space_id", "project"),
}


def write_training_arguments(args: Any, folder: str | Path) -> None:
    """Write `training_arguments.json`: the settings of the run, without places on this machine and without secrets.

    Args:
        args (`TrainingArguments`): of the run.
        folder (`str` or `Path`): where to.
    """
    settings = {name: value for name, value in args.to_dict().items() if name not in _LOCAL_ARGUMENTS}
    text = json.dumps(scrub_config(json.loads(json.dumps(settings, default=str))), indent=2, sort_keys=True)
    Path(folder, ARGUMENTS_FILE).write_text(text + "\n", encoding="utf-8")


def prepare_output_folder(output_dir: str | Path) -> None:
    """Complete saves that were written in full but killed while being moved into place.

    Args:
        output_dir (`str` or `Path`): the folder of the run; it need not exist.
    """
    for ready in Path(output_dir).glob(".checkpoint-*.ready"):
        finish_interrupted_save(Path(output_dir) / ready.name[1 : -len(".ready")])


def last_checkpoint(output_dir: str) -> str:
    """The newest checkpoint of a run.

    Args:
        output_dir (`str`): the folder of the run.

    Raises:
        ValueError: there is none.
    """
    found = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    if found is None:
        raise ValueError(f"`resume_from_checkpoint`: there is no checkpoint in {output_dir}; train afresh first.")
    return found


def save_buffers(model: Any, checkpoint: str | Path) -> None:
    """Save the buffers of a PEFT model (queues, running statistics) and the weights of its momentum encoders: an adapter
    file holds only its own tensors.

    Args:
        model: of the run; nothing is written when it is no PEFT model, whose weights hold all buffers.
        checkpoint (`str` or `Path`): the folder.
    """
    if hasattr(model, "peft_config"):
        state = {name: tensor.detach().cpu().clone() for name, tensor in _untrained_state(model).items()}
        if state:
            save_file(state, Path(checkpoint, BUFFERS_FILE))


def load_buffers(model: Any, checkpoint: str | Path) -> None:
    """Load what `save_buffers` wrote, if anything.

    Args:
        model: of the run.
        checkpoint (`str` or `Path`): the folder.
    """
    path = Path(checkpoint, BUFFERS_FILE)
    if path.is_file():
        saved = load_file(path)
        with torch.no_grad():
            for name, tensor in _untrained_state(model).items():
                tensor.copy_(saved[name])


def _untrained_state(model: Any) -> dict[str, torch.Tensor]:
    state = dict(model.named_buffers())
    inner = unwrap_model(model)
    parts = [part for _, part in inner.training_state()] if hasattr(inner, "training_state") else []
    held = {id(parameter) for part in parts for parameter in part.parameters()}
    return {**state, **{name: tensor for name, tensor in model.named_parameters() if id(tensor) in held}}


def separate_worker_seeds(loader: Any, args: Any) -> Any:
    """Let persistent workers take their seed from a generator of their own.

    They take it once a run, those of a resumed run once more: out of the training's own random numbers, that would
    shift every dropout mask after it.

    Args:
        loader (`DataLoader`): of the training rows, prepared by Accelerate or not; changed in place.
        args (`TrainingArguments`): of the run.

    Returns:
        The loader.
    """
    if args.dataloader_persistent_workers:
        getattr(loader, "base_dataloader", loader).generator = torch.Generator().manual_seed(args.seed)
    return loader


def check_resumable(checkpoint: str | Path, model_type: str | None) -> None:
    """Refuse to resume from something that is no checkpoint of this system's training.

    Args:
        checkpoint (`str` or `Path`): the folder.
        model_type (`str`, *optional*): of the model in training.

    Raises:
        ValueError: the folder is missing, is no training checkpoint, or belongs to another system.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        near = sorted(path.name for path in folder.parent.glob("checkpoint-*")) if folder.parent.is_dir() else []
        raise ValueError(
            f"`resume_from_checkpoint`: there is no folder {checkpoint}; "
            + (f"beside it are: {', '.join(near)}." if near else "no checkpoint lies beside it either; train afresh.")
        )
    if not (folder / "trainer_state.json").is_file():
        raise ValueError(
            f"`resume_from_checkpoint`: {checkpoint} holds no trainer_state.json, so it is no checkpoint of a training "
            "run. To start a new run from these weights, load them with from_pretrained instead."
        )
    config = folder / "config.json"
    if model_type and config.is_file():
        found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        if found != model_type:
            raise ValueError(
                f"`resume_from_checkpoint`: {checkpoint} is a checkpoint of {found!r}, but the model in training is "
                f"{model_type!r}; give a checkpoint of the same system."
            )


def check_load_result(missing: Iterable[str], unexpected: Iterable[str], tied: Iterable[str]) -> None:
    """Refuse a checkpoint that fits the model only in part: the resumed run would not be the same run.

    Args:
        missing (`Iterable[str]`): tensors of the model that the checkpoint does not hold.
        unexpected (`Iterable[str]`): tensors of the checkpoint that the model does not have.
        tied (`Iterable[str]`): tensors that share another's memory and are not saved.

    Raises:
        ValueError: something is missing or left over.
    """
    missing, unexpected = sorted(set(missing) - set(tied)), sorted(unexpected)
    if missing or unexpected:
        parts = [f"{len(missing)} tensors are missing ({', '.join(missing[:3])})"] if missing else []
        parts += [f"{len(unexpected)} are unknown ({', '.join(unexpected[:3])})"] if unexpected else []
        raise ValueError(
            f"the checkpoint does not fit this model: {'; '.join(parts)}. Resume with the configuration of the run that "
            "wrote it."
        )
