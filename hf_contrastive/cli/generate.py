"""`hf-contrastive generate`: text from any language model by contrastive search, streamed."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from hf_contrastive.cli.common import CliError, WrongUsage, examples


EXAMPLES = examples(
    "hf-contrastive generate gpt2-large --prompt 'DeepMind Company is' --penalty-alpha 0.6 --top-k 5",
    "hf-contrastive generate my_model --max-new-tokens 200 < prompt.txt",
)


def command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder or hub id of a language model.")],
    prompt: Annotated[str | None, typer.Option(help="Text to go on with; standard input by default.")] = None,
    penalty_alpha: Annotated[float, typer.Option(help="Weight of the penalty, 0 (greedy) to 1.")] = 0.6,
    top_k: Annotated[int, typer.Option(help="Candidates of a step, 2 or more.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(help="Stop after that many tokens.")] = 128,
    penalty_scope: Annotated[str, typer.Option(help="Compare with: all, or generated text only.")] = "all",
    stop: Annotated[list[str] | None, typer.Option(help="Stop at this text; may be given several times.")] = None,
    low_memory: Annotated[bool, typer.Option("--low-memory", help="Candidates one after the other.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Write text by contrastive search, token by token as it comes."""
    if prompt is None:
        if sys.stdin.isatty():
            raise WrongUsage("there is no prompt; type --prompt 'some text', or pipe a text in.")
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise WrongUsage("the prompt is empty; give at least one word.")

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, TextStreamer
    from transformers.utils import logging

    from hf_contrastive.generation import generate_contrastive

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto_class.from_pretrained(checkpoint, dtype=dtype, use_safetensors=True).eval()
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise CliError(f"{checkpoint} is no language model that can be loaded: {error}") from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    streamer = TextStreamer(tokenizer, skip_prompt=not config.is_encoder_decoder, skip_special_tokens=True)
    generate_contrastive(
        model,
        prompt,
        tokenizer,
        penalty_alpha=penalty_alpha,
        top_k=top_k,
        penalty_scope=penalty_scope,
        low_memory=low_memory,
        streamer=streamer,
        stop_strings=stop or None,
        max_new_tokens=max_new_tokens,
    )
