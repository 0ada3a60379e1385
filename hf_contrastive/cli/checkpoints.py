"""Checkpoints and data for the commands: load, check, embed. Imports torch, so commands import it when they run."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_contrastive.cli.common import CliError, WrongUsage, quiet_libraries
from hf_contrastive.hub.loading import CheckpointInfo, check_checkpoint
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel
from hf_contrastive.registry import REGISTRY
from hf_contrastive.utils import evaluation_mode


@dataclass
class Encoder:
    """A loaded checkpoint: what turns rows of images into embeddings.

    Args:
        model (`ContrastivePreTrainedModel`): in eval mode, on its device.
        processor: the image processor saved with it.
        name (`str`): what may be written into files: the hub id, or the folder's name without its path.
        device (`torch.device`): where the model is.
    """

    model: Any
    processor: Any
    name: str
    device: torch.device

    @property
    def channels(self) -> int:
        """Channels of the images that the model takes."""
        return int(getattr(self.model.config, "num_channels", 3))

    def readout(self, wanted: str | None) -> str:
        """The read-out to use; refuses one that the model does not have."""
        if wanted is None:
            return self.model.readouts[0]
        if wanted not in self.model.readouts:
            raise WrongUsage(
                f"--readout is {wanted!r}; {self.name} offers: {', '.join(self.model.readouts)} "
                f"(the first is the default)."
            )
        return wanted

    def weights_digest(self) -> str:
        """A short hash of all weights; equal exactly when the weights are."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def untrained(self, seed: int = 0) -> Encoder:
        """The same architecture and preprocessing with fresh weights drawn from `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = type(self.model)(self.model.config)
        return Encoder(model.float().eval().to(self.device), self.processor, f"untrained {self.name}", self.device)


def public_name(typed: str) -> str:
    """What may be written down of a model or data source: hub ids as they are, of local places only the last name."""
    path = Path(typed).expanduser()
    if path.exists() or path.is_absolute() or typed.startswith((".", "~")):
        return path.resolve().name
    return typed


def pick_device(wanted: str) -> torch.device:
    """The device that `--device` asks for; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        WrongUsage: no such device here.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WrongUsage(
            f"--device {wanted} cannot be used here ({reason}); type auto, cpu, cuda or cuda:1."
        ) from error
    return device


def load_encoder(checkpoint: str, device: str = "auto") -> Encoder:
    """Load a checkpoint of this library and its image processor.

    Args:
        checkpoint (`str`): folder or hub id.
        device (`str`): as `--device`.

    Raises:
        CliError: a model that is not of this library, a system for other data than images, no image processor.
        OSError, ValueError: what `check_checkpoint` found wrong.
    """
    from transformers import AutoImageProcessor, AutoModel

    target = pick_device(device)
    checkpoint = os.path.expanduser(checkpoint)
    info = look_at(checkpoint)
    if not info.is_adapter:
        if info.system is None:
            kind = f"a {info.model_type!r} model" if info.model_type else "a model without a model_type"
            raise CliError(
                f"{checkpoint} is {kind}, not a checkpoint of this library: expected one of "
                f"{', '.join(REGISTRY)}. To start a training from it, type: "
                f"hf-contrastive train {next(iter(REGISTRY))} --help."
            )
        if info.system.main_input != "pixel_values":
            raise CliError(
                f"{checkpoint} is a checkpoint of {info.system.title}, which takes {info.system.main_input}; this command "
                "embeds images."
            )
    with quiet_libraries():
        try:
            processor = AutoImageProcessor.from_pretrained(checkpoint)
        except (OSError, ValueError) as error:
            raise CliError(
                f"{checkpoint} has no readable preprocessor_config.json, so the image size and the normalisation it was "
                "trained with are not known. The recipes save it beside the weights; to add it, type: python -c 'from "
                'transformers import ViTImageProcessor; ViTImageProcessor(size={"height": 32, "width": 32}, '
                f'image_mean=[0.5]*3, image_std=[0.5]*3).save_pretrained("{checkpoint}")\' with the values of the '
                "training."
            ) from error
        model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32, use_safetensors=True)
    if not isinstance(model, ContrastivePreTrainedModel):
        raise CliError(
            f"{checkpoint} loads as {type(model).__name__}, which has no `encode`; expected a checkpoint of "
            f"{', '.join(REGISTRY)}."
        )
    return Encoder(model.eval().to(target), processor, public_name(checkpoint), target)


@dataclass
class EncoderPair:
    """A loaded pair of an image and a text encoder.

    Args:
        scorer (`ImageTextScorer`): the model with its processor.
        name (`str`): what may be written into files.
    """

    scorer: Any
    name: str

    def untrained(self, seed: int = 0) -> EncoderPair:
        """The same architecture and preprocessing with fresh weights drawn from `seed`."""
        from hf_contrastive.data import ImageTextScorer

        model = self.scorer.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = type(model)(model.config)
        device = next(model.parameters()).device
        scorer = ImageTextScorer(
            fresh.float(), self.scorer.processor, device=device, batch_size=self.scorer.batch_size
        )
        return EncoderPair(scorer, f"untrained {self.name}")


def load_pair(checkpoint: str, device: str = "auto", batch_size: int = 64) -> EncoderPair:
    """Load a pair of encoders of this library, or a CLIP-like model of transformers, and its processor.

    Args:
        checkpoint (`str`): folder or hub id.
        device (`str`): as `--device`.
        batch_size (`int`): images or texts at a time.

    Raises:
        CliError: a processor for one side only.
        OSError, ValueError: no pair of encoders, or what `check_checkpoint` found wrong.
    """
    from hf_contrastive.data import ImageTextScorer

    target = pick_device(device)
    checkpoint = os.path.expanduser(checkpoint)
    look_at(checkpoint)
    with quiet_libraries():
        scorer = ImageTextScorer.from_pretrained(checkpoint, device=target, batch_size=batch_size, dtype=torch.float32)
    if not all(hasattr(scorer.processor, part) for part in ("image_processor", "tokenizer")):
        raise CliError(
            f"{checkpoint} has a {type(scorer.processor).__name__} only; save an image processor and a tokenizer beside the weights."
        )
    return EncoderPair(scorer, public_name(checkpoint))


def look_at(checkpoint: str) -> CheckpointInfo:
    """`check_checkpoint`; a name that can only be a folder is not asked for on the hub."""
    if os.path.exists(checkpoint):
        return check_checkpoint(checkpoint)
    if "/" not in checkpoint and os.sep not in checkpoint:
        folders = sorted(path.name for path in Path().iterdir() if path.is_dir() and not path.name.startswith("."))
        near = difflib.get_close_matches(checkpoint, folders, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise CliError(
            f"no checkpoint folder {checkpoint} here.{hint} Type the path of a folder with config.json, or a hub id, which "
            "has the form user/name."
        )
    try:
        return check_checkpoint(checkpoint)
    except FileNotFoundError:  # it looked like a path; the message lists what is near
        raise
    except OSError as error:
        raise CliError(
            f"{checkpoint} is no folder here, and the hub did not hand out a checkpoint of that name: {error} Check the "
            "spelling, the network, and `hf auth login` for a private one."
        ) from error


_OPTION = re.compile(
    r"\b(image_column|label_column|keep_columns|split|name|test_fraction|on_unreadable|max_samples)=(?:'([^']*)')?"
)


def load_rows(dataset: str, options: dict[str, str] | None = None, **kwargs: Any) -> Any:
    """`load_images`, with the options of the command line in its messages.

    Args:
        dataset (`str`): as typed.
        options (`dict`, *optional*): option of this command by argument, where they differ (`{"split": "--test-split"}`).
        **kwargs: of `load_images`.

    Raises:
        CliError: what `load_images` refused.
    """
    from hf_contrastive.data import load_images

    def as_typed(match: re.Match[str]) -> str:
        option = (options or {}).get(match[1], "--" + match[1].replace("_", "-"))
        return f"{option} {match[2]}" if match[2] else option

    try:
        with quiet_libraries():
            return load_images(dataset, **kwargs)
    except ValueError as error:
        raise CliError(_OPTION.sub(as_typed, str(error))) from error


class ImageBatch:
    """Rows of a dataset to `pixel_values` and `index`; runs in the dataloader's workers.

    Args:
        processor: an image processor of transformers.
        channels (`int`): channels to convert the images to.
    """

    def __init__(self, processor: Any, channels: int) -> None:
        self.processor, self.channels = processor, channels

    def __call__(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        from hf_contrastive.data import images_to_arrays

        arrays = images_to_arrays([row["image"] for row in rows], self.channels, [row["index"] for row in rows])
        # processors rescale by 1/255 whatever the type is
        arrays = [a if a.dtype == np.uint8 else np.rint(a * 255).astype(np.uint8) for a in arrays]
        batch = self.processor(images=arrays, input_data_format="channels_last", return_tensors="pt")
        return batch["pixel_values"].float()


def pixel_batches(encoder: Encoder, rows: Any, batch_size: int, num_workers: int = 0) -> Iterator[torch.Tensor]:
    """Preprocessed batches `[batch, channels, height, width]` in the order of the rows, on the CPU."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        rows,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=ImageBatch(encoder.processor, encoder.channels),
        pin_memory=encoder.device.type == "cuda",
    )
    yield from loader


def encode_batches(
    encoder: Encoder,
    rows: Any,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    readout: str | None = None,
    normalize: bool = False,
    advance: Callable[[int], None] = lambda rows: None,
) -> np.ndarray:
    """Embeddings of all rows.

    Args:
        encoder (`Encoder`): the loaded checkpoint.
        rows: a `datasets.Dataset` with `image` and `index`.
        batch_size (`int`), num_workers (`int`): as for a dataloader.
        readout (`str`, *optional*), normalize (`bool`): as for `encode`.
        advance (`Callable`): called with the number of rows done, after each batch.

    Returns:
        `np.ndarray` `[rows, dim]`, float32.

    Raises:
        CliError: an embedding is NaN or infinite.
    """
    parts = []
    done = 0
    with evaluation_mode(encoder.model):
        for pixel_values in pixel_batches(encoder, rows, batch_size, num_workers):
            embeds = encoder.model.encode(pixel_values.to(encoder.device), readout=readout, normalize=normalize)
            part = embeds.float().cpu().numpy()
            check_finite(part, f"rows {done} to {done + len(part) - 1}", encoder.name, first=done)
            parts.append(part)
            done += len(part)
            advance(len(part))
    return np.concatenate(parts)


def check_finite(part: np.ndarray, what: str, name: str, first: int = 0) -> None:
    """Refuse embeddings of a training that diverged.

    Args:
        part (`np.ndarray` `[rows, dim]`): embeddings.
        what (`str`): which, for the message.
        name (`str`): of the checkpoint.
        first (`int`, defaults to 0): number of the first row.

    Raises:
        CliError: NaN or infinity.
    """
    bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
    if len(bad):
        raise CliError(
            f"{len(bad)} of the {len(part)} embeddings of {what} hold NaN or infinity (first: row {first + int(bad[0])}); the "
            f"training of {name} diverged. Take an earlier checkpoint."
        )


# Raw pixels of bigger images are averaged down to this side: a baseline needs no more, and memory stays small.
PIXEL_SIDE = 32


def raw_pixels(encoder: Encoder, rows: Any, *, batch_size: int = 64, num_workers: int = 0) -> tuple[np.ndarray, str]:
    """The images themselves as features: preprocessed as for the model, flattened.

    Returns:
        `(features [rows, dim], description)`.
    """
    parts, text = [], ""
    for pixel_values in pixel_batches(encoder, rows, batch_size, num_workers):
        if max(pixel_values.shape[2:]) > PIXEL_SIDE:
            pixel_values = torch.nn.functional.adaptive_avg_pool2d(pixel_values, PIXEL_SIDE)
        text = "x".join(str(size) for size in (*pixel_values.shape[2:], pixel_values.shape[1]))
        parts.append(pixel_values.flatten(1).numpy())
    return np.concatenate(parts), text


def rows_digest(rows: Any, samples: int = 64) -> str:
    """A short hash that tells two datasets apart: size, columns, labels, and the images of rows spread over it."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{len(rows)} {sorted(rows.column_names)}\n".encode())
    if "label" in rows.column_names:
        digest.update(repr(list(rows.with_format(None)["label"][:])).encode())
    for row in np.unique(np.linspace(0, len(rows) - 1, min(samples, len(rows))).astype(int)):
        digest.update(np.asarray(rows[int(row)]["image"]).tobytes())
    return digest.hexdigest()
