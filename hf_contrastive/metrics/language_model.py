"""The language model that a metric of texts is computed with."""

from __future__ import annotations

from typing import Any


def language_model(
    metric: str, model_id: str | None, device: str | None, model: Any, tokenizer: Any
) -> tuple[Any, Any]:
    """A model and its tokenizer: those given, or those of a hub id or folder.

    Args:
        metric (`str`): who asks; for messages.
        model_id (`str`, *optional*): hub id or folder of a causal language model, read from safetensors, no remote code.
        device (`str`, *optional*): for the model of `model_id`; a GPU if there is one by default.
        model (`PreTrainedModel`, *optional*), tokenizer (`PreTrainedTokenizerBase`, *optional*): in place of `model_id`.

    Returns:
        `(model, tokenizer)`.

    Raises:
        ValueError: neither is given, both are, or one object is missing.
        OSError: there is no such model.
    """
    call = f"compute(..., model_id=) or compute(..., model=, tokenizer=) of {metric}"
    if isinstance(model, str):
        raise ValueError(f"`model` is the name {model!r}; pass it as model_id={model!r} ({call}).")
    if model_id is None:
        if model is None or tokenizer is None:
            missing = " and ".join(
                f"`{name}`" for name, given in (("model", model), ("tokenizer", tokenizer)) if given is None
            )
            raise ValueError(f"{metric} needs a language model, but {missing} is missing: {call}.")
        return model, tokenizer
    if model is not None or tokenizer is not None:
        raise ValueError(
            f"`model_id` is {model_id!r}, and `model` or `tokenizer` is given too; one is enough: {call}."
        )

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded: Any = AutoModelForCausalLM.from_pretrained(model_id, use_safetensors=True)
    loaded.to(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    return loaded.eval(), AutoTokenizer.from_pretrained(model_id)


__all__ = ["language_model"]
