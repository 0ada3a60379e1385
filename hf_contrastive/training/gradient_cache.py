"""Gradient cache: the gradient of a big batch at the memory of a chunk."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_contrastive.training.unwrap import unwrap_model


def cached_backward(
    model: nn.Module,
    inputs: dict[str, Any],
    chunk_size: int,
    *,
    scale: float | torch.Tensor = 1.0,
    before_backward: Callable[[Any], None] | None = None,
) -> Any:
    """Forward and backward of a whole batch while only one chunk's activations are in memory.

    Three steps (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021): embed all
    chunks without a graph; compute the objective on all embeddings and the gradient of the loss with respect to them;
    embed every chunk again, with the same random numbers, and push its part of that gradient back. Costs one more
    forward. Embeddings are gathered across processes once, in the objective.

    The gradients equal those of the big batch for models that treat every sample on its own. Batch norm in training
    mode does not: its statistics are those of a chunk (a warning says so once); running statistics move once per chunk,
    not twice. Works in a plain PyTorch loop, under autocast and with DistributedDataParallel (gradients are averaged
    over processes at the end, unless inside `model.no_sync()`).

    Args:
        model (`torch.nn.Module`): a pre-training model of this library, possibly wrapped; gradients are added to `.grad`.
        inputs (`dict`): arguments of the model's `forward`; tensors with the batch first.
        chunk_size (`int`): rows embedded at a time.
        scale (`float` or scalar `torch.Tensor`, defaults to 1.0): multiplies the gradient, for example 1 / accumulation
            steps, or `scaler.scale(torch.tensor(1.0))` with a `GradScaler`.
        before_backward (`Callable`, *optional*): gets the output before anything flows back; may raise.

    Returns:
        The output of `compute_objective`, detached; `loss` is not scaled.

    Raises:
        ValueError: `chunk_size` below 1, no input of `model.view_inputs`, or inputs of different length.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining
    >>> from hf_contrastive.training import cached_backward
    >>> config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[4]), projection_dims=[4])
    >>> model = SimCLRForPreTraining(config).eval()  # in training mode batch norm would see chunks
    >>> output = cached_backward(model, {"pixel_values": torch.rand(6, 2, 3, 8, 8)}, chunk_size=2)
    >>> output.projections.shape, model.projection_head.layers[0][0].weight.grad is not None
    (torch.Size([6, 2, 4]), True)

    ```
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"`chunk_size` is {chunk_size!r}, expected a whole number of rows, 1 or more.")
    module = unwrap_model(model)
    views = {name: inputs[name] for name in module.view_inputs if inputs.get(name) is not None}
    others = {name: value for name, value in inputs.items() if name not in module.view_inputs}
    chunks = list(_split(views, chunk_size, module))
    if len(chunks) > 1:
        _warn_about_batch_norm(module, chunk_size)
    ddp = model if isinstance(model, nn.parallel.DistributedDataParallel) else None
    _broadcast_buffers(ddp)

    # Pass 1: embeddings without graph. Buffers are put back, so that running statistics move in pass 2 only.
    device = next(module.parameters()).device
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    random_states, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            random_states.append(_random_state(device))
            parts.append(module.embed_views(**chunk))
        for buffer, before in buffers:
            buffer.copy_(before)
    lengths = [len(next(iter(part.values()))) for part in parts]
    embeds = {name: torch.cat([part[name] for part in parts]).detach() for name in parts[0]}
    for tensor in embeds.values():
        tensor.requires_grad_(tensor.is_floating_point())
    del parts

    # The objective sees the whole batch.
    outputs = module.compute_objective(embeds, **others)
    if before_backward is not None:
        before_backward(outputs)
    after = _random_state(device)
    with _no_autocast(device):
        (outputs.loss * scale).backward()
    gradients = {name: tensor.grad for name, tensor in embeds.items() if tensor.grad is not None}

    # Pass 2: every chunk again, with the random numbers of pass 1.
    start = 0
    for chunk, state, length in zip(chunks, random_states, lengths, strict=True):
        _set_random_state(state, device)
        again = module.embed_views(**chunk)
        pairs = [(again[name], gradient[start : start + length]) for name, gradient in gradients.items()]
        pairs = [(tensor, gradient) for tensor, gradient in pairs if tensor.requires_grad]
        if pairs:
            with _no_autocast(device):
                torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
        start += length
    _set_random_state(after, device)
    if ddp is not None and ddp.require_backward_grad_sync:
        average_gradients(module)
    return type(outputs)(
        **{name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in outputs.items()}
    )


def average_gradients(module: nn.Module) -> None:
    """Replace every gradient by its mean over the processes; does nothing in a single process.

    Args:
        module (`torch.nn.Module`): the same on every process. Parameters without gradient on every process stay so.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        return
    used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    used = used.to(parameters[0].device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    used_parameters = [parameter for parameter, flag in zip(parameters, used.tolist(), strict=True) if flag]
    by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for parameter in used_parameters:
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        parameter.grad = gradient
        by_dtype.setdefault(gradient.dtype, []).append(gradient)
    for gradients in by_dtype.values():
        # one message a dtype instead of one a tensor
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))


def _split(views: dict[str, Any], chunk_size: int, module: Any) -> Iterator[dict[str, Any]]:
    lengths = {name: len(value) for name, value in views.items()}
    if not lengths:
        raise ValueError(
            f"none of the inputs that {type(module).__name__} embeds was given; expected: {', '.join(module.view_inputs)}."
        )
    if len(set(lengths.values())) > 1:
        raise ValueError(f"inputs that are embedded must have the same number of rows, got {lengths}.")
    for start in range(0, next(iter(lengths.values())), chunk_size):
        yield {name: value[start : start + chunk_size] for name, value in views.items()}


def _warn_about_batch_norm(module: Any, chunk_size: int) -> None:
    norms = [name for name, part in module.named_modules() if isinstance(part, _BatchNorm) and part.training]
    if norms and not getattr(module, "_warned_about_chunk_statistics", False):
        module._warned_about_chunk_statistics = True
        warnings.warn(
            f"gradient cache: {len(norms)} batch norm layers (first: {norms[0]}) take their statistics from chunks of "
            f"{chunk_size} rows, so the result differs from one big batch. Use a larger chunk, or a backbone with group "
            "or layer norm, if that matters."
        )


def _broadcast_buffers(ddp: Any) -> None:
    # DistributedDataParallel does this in its forward, which is not called here.
    if ddp is None or not ddp.broadcast_buffers or not ddp.require_backward_grad_sync:
        return
    for buffer in ddp.module.buffers():
        dist.broadcast(buffer, 0)


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _set_random_state(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    # operations of the backward pass keep the types of their forward
    return torch.autocast(device.type, enabled=False)
