"""Decodes on request and says how long every step took: the part of contrastive_search.py that runs in each environment.

One process for each version of transformers, with the same code in all of them. It imports nothing of this repository
unless it is asked for our own contrastive search. Requests and answers are lines of JSON on stdin and stdout; started by
contrastive_search.py, not by hand.
"""

from __future__ import annotations

import itertools
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

import answering
import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList
from transformers.utils.logging import disable_progress_bar, set_verbosity_error


class Clock(LogitsProcessor):
    """Stamps the time whenever logits are ready. Every decoding loop asks its processors once a token, so two stamps are
    one step apart, and the time before the first is the prefill."""

    def __init__(self) -> None:
        self.stamps: list[float] = []
        self.forward: list[float] = []  # seconds inside the model, until each stamp
        self.inside = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if scores.is_cuda:
            torch.cuda.synchronize()
        self.stamps.append(time.perf_counter())
        self.forward.append(self.inside)
        return scores


def tensors_of(cache: Any) -> Iterator[Tensor]:
    """Key and value tensors of a cache of any version: a tuple, lists by layer, layers."""
    if isinstance(cache, Tensor):
        yield cache
    elif isinstance(cache, (tuple, list)):
        for part in cache:
            yield from tensors_of(part)
    elif hasattr(cache, "layers"):
        for layer in cache.layers:
            yield from tensors_of([layer.keys, layer.values])
    elif hasattr(cache, "key_cache"):
        yield from tensors_of([cache.key_cache, cache.value_cache])


def bytes_of(cache: Any) -> int:
    """Memory that a cache holds, room for what is to come included."""
    storages = [tensor.untyped_storage() for tensor in tensors_of(cache)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class Server:
    model: Any = None
    clock: Clock
    cache_bytes: int
    started: float

    def hello(self) -> dict[str, Any]:
        return {
            "versions": f"python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}, transformers "
            f"{transformers.__version__}",
            "cuda": torch.cuda.is_available(),
        }

    def make(self, kind: str, config: dict[str, Any], folder: str) -> dict[str, Any]:
        """Random weights, saved for every environment to load."""
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
        model.save_pretrained(folder)
        return {"parameters": model.num_parameters()}

    def load(self, kind: str, config: dict[str, Any], folder: str, device: str, dtype: str) -> dict[str, Any]:
        self.model = None
        settings = AutoConfig.for_model(kind, **config)  # what a file of another version says may be read differently
        model = AutoModelForCausalLM.from_pretrained(folder, config=settings, attn_implementation="sdpa")
        self.model = model.to(device, getattr(torch, dtype)).eval()
        # nothing ends a sequence early
        model.config.eos_token_id = model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        for part in (model.base_model, model.get_output_embeddings()):
            part.register_forward_pre_hook(self._enters)
            part.register_forward_hook(self._leaves)
        return {}

    def _enters(self, module: Any, inputs: Any) -> None:
        self.started = time.perf_counter()

    def _leaves(self, module: Any, inputs: Any, output: Any) -> None:
        self.clock.inside += time.perf_counter() - self.started
        if module is self.model.base_model:
            self.cache_bytes = bytes_of(output.past_key_values)

    def decode(
        self, ids: list[list[int]], tokens: int, method: str, k: int, low_memory: bool, path: str | None
    ) -> dict[str, Any]:
        """
        `method` is `"greedy"`, `"ours"` or `"peer"`. Returns seconds of every step after the prefill, of them inside the
        model, of the whole call, bytes of the cache after the last step, and the new tokens.
        """
        prompt = torch.tensor(ids, device=self.model.device)
        self.clock = Clock()
        options: dict[str, Any] = {}
        if method != "greedy":
            options = {"penalty_alpha": 0.6, "top_k": k, "low_memory": low_memory}
        if method == "ours":
            from hf_contrastive import contrastive_search

            options["custom_generate"] = contrastive_search
            if path is not None:
                options["candidate_path"] = path
        start = time.perf_counter()
        output = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([self.clock]),
            **options,
        )
        new = output[:, prompt.shape[1] :].tolist()
        seconds = time.perf_counter() - start
        stamps, forward = self.clock.stamps, self.clock.forward
        if len(stamps) != tokens or len(new[0]) != tokens:
            raise RuntimeError(f"{len(stamps)} steps and {len(new[0])} new tokens instead of {tokens}")
        return {
            "steps": [after - before for before, after in itertools.pairwise(stamps)],
            "inside": [after - before for before, after in itertools.pairwise(forward)],
            "seconds": seconds,
            "cache_bytes": self.cache_bytes,
            "tokens": new,
        }


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    torch.set_grad_enabled(False)
    set_verbosity_error()
    disable_progress_bar()
    answering.serve(Server)


if __name__ == "__main__":
    main()
