"""Contrastive search beside greedy search and beside the contrastive search that transformers had: time of one token.

Models with random weights. Methods: greedy search; `contrastive_search` of this library, with `low_memory` too; greedy and
both modes of contrastive search of an older transformers (4.49), which runs in an environment of its own. All methods take
turns in one run and load the same weights; nothing ends a sequence, so all of them generate the same number of tokens.

    python benchmarks/contrastive_search.py --peer-python OTHER_ENVIRONMENT/bin/python [--rounds 5] [--tokens 40]
    python benchmarks/contrastive_search.py --peer-python OTHER_ENVIRONMENT/bin/python --quick --no-write

Make the other environment first: python -m venv OTHER_ENVIRONMENT, and in it pip install transformers==4.49.0 torch.
Without it the comparison with that version is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import torch


SERVER = Path(__file__).with_name("decoding_server.py")
OLD = "transformers 4.49"

_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
_LLAMA = {"tie_word_embeddings": False, "max_position_embeddings": 2048, **_IDS}


@dataclass(frozen=True)
class Shape:
    """A model to build: kind and settings of its configuration, device and number format."""

    words: str
    kind: str
    config: dict[str, Any]
    device: str = "cpu"
    dtype: str = "float32"


SHAPES = {
    "gpt2": Shape(
        "GPT-2 small: 12 layers, width 768, 12 heads, vocabulary 50257", "gpt2", {"n_positions": 2048, **_IDS}
    ),
    "llama": Shape(
        "Llama of that size: 12 layers, width 768, 12 heads over 4 of keys and values, rotary, vocabulary 50257",
        "llama",
        {
            "vocab_size": 50257,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            **_LLAMA,
        },
    ),
    "llama-1b": Shape(
        "Llama with 1B parameters: 16 layers, width 2048, 32 heads over 8 of keys and values, vocabulary 128256, bfloat16",
        "llama",
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            **_LLAMA,
        },
        "cuda",
        "bfloat16",
    ),
}

# goals, at batch 1: at most so many times the time of greedy search, by k on a CPU ...
GOAL_GREEDY = {4: 1.25, 8: 1.4}
# ... and on a GPU
GOAL_GPU = 1.1
# at least so many times as fast as the fast mode of the old transformers, as its low_memory mode at this k
GOAL_OLD = 1.5
GOAL_OLD_LOW_AT, GOAL_OLD_LOW = 8, 4.0
# at most this share of a step outside the model
GOAL_OWN = 5.0


# --------------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Method:
    """One way to decode: what is asked of which environment."""

    side: str  # "new" or "old" environment
    kind: str  # of decoding_server.py
    k: int = 0
    low_memory: bool = False

    @property
    def words(self) -> str:
        if self.kind == "greedy":
            return "greedy" if self.side == "new" else f"{OLD}, greedy"
        name = "hf_contrastive" if self.kind == "ours" else OLD
        mode = ", low_memory" if self.low_memory else (", fast" if self.kind == "peer" else "")
        return f"{name}{mode}, k = {self.k}"


GREEDY = Method("new", "greedy")


def ours(k: int, low_memory: bool = False) -> Method:
    return Method("new", "ours", k, low_memory)


def peer(k: int, low_memory: bool = False) -> Method:
    return Method("old", "peer", k, low_memory)


def methods(ks: list[int], old: bool) -> list[Method]:
    """In the order of their turns: whoever is compared stands side by side. One by one at the largest k only."""
    found = [GREEDY, *(ours(k) for k in ks)]
    found += [*(peer(k) for k in ks), Method("old", "greedy")] if old else []
    found += [ours(ks[-1], low_memory=True)]
    return [*found, peer(ks[-1], low_memory=True)] if old else found


class Environment(common.Answering):
    """A process of decoding_server.py."""

    def __init__(self, python: str, threads: int) -> None:
        super().__init__([python, str(SERVER), str(threads)], threads, TOKENIZERS_PARALLELISM="false")
        self.facts = self.ask("hello")


# -------------------------------------------------------------------------------------------------------- measuring


@dataclass
class Measured:
    """All methods at one prompt length and batch size: answers of the server by method and round, reasons of absence."""

    length: int
    batch: int
    device: str
    rounds: dict[Method, list[dict[str, Any]]] = field(default_factory=dict)
    notes: dict[Method, str] = field(default_factory=dict)

    def seconds(self, method: Method) -> list[float]:
        """Of one step, by round."""
        return [statistics.median(answer["steps"]) for answer in self.rounds[method]]

    def ms(self, method: Method) -> float:
        return 1e3 * statistics.median(self.seconds(method))

    def ratio(self, method: Method, reference: Method) -> tuple[float, float, float]:
        return common.ratio(self.seconds(method), self.seconds(reference))

    def inside(self, method: Method) -> float:
        """Milliseconds of a step inside the model, at the median."""
        return 1e3 * statistics.median(statistics.median(answer["inside"]) for answer in self.rounds[method])

    def own_share(self, method: Method) -> float:
        """Percent of a step outside the model."""
        shares = [
            100 * (1 - inside / step)
            for answer in self.rounds[method]
            for step, inside in zip(answer["steps"], answer["inside"], strict=True)
        ]
        return statistics.median(shares)

    def cache(self, method: Method) -> int:
        return self.rounds[method][0]["cache_bytes"]

    def position(self, method: Method) -> int:
        """Positions in the cache after the last step of a method; the candidates not counted."""
        return self.length + len(self.rounds[method][0]["steps"]) + (method.kind != "greedy")

    def cache_of_greedy(self, method: Method) -> float:
        """What greedy search would hold at the same position."""
        return self.cache(GREEDY) * self.position(method) / self.position(GREEDY)

    def first_difference(self, method: Method) -> int | None:
        """Number of the first new token that is not that of this library at the same k; `None` when all are equal."""
        found, expected = (self.rounds[one][0]["tokens"] for one in (method, ours(method.k)))
        places = [
            place
            for row, other in zip(found, expected, strict=True)
            for place, (a, b) in enumerate(zip(row, other, strict=False), start=1)
            if a != b
        ]
        return min(places, default=None)

    def same(self, method: Method) -> str:
        if method.kind == "greedy":
            return "-"
        place = self.first_difference(method)
        return "yes" if place is None else f"until token {place - 1}"


def prompts(length: int, batch: int, vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(1, vocabulary, (batch, length), generator=generator).tolist()


def benchmark(
    shape: Shape, length: int, batch: int, environments: dict[str, Environment], args: argparse.Namespace
) -> Measured:
    result = Measured(length, batch, shape.device)
    ids = prompts(length, batch, shape.config.get("vocab_size", 50257))

    def run(method: Method, tokens: int) -> dict[str, Any]:
        return environments[method.side].ask(
            "decode", ids=ids, tokens=tokens, method=method.kind, k=method.k, low_memory=method.low_memory, path=None
        )

    def turn(method: Method) -> Callable[[], dict[str, Any]]:
        # one by one: long steps, so fewer of them. One step more than tokens: the last has no stamp at its end
        tokens = max(4, args.tokens // 3) if method.low_memory else args.tokens
        return lambda: run(method, tokens + 1)

    turns: dict[str, Callable[[], dict[str, Any]]] = {}
    by_words = {method.words: method for method in methods(args.k, "old" in environments)}
    for words, method in by_words.items():
        if method.side == "old" and method.low_memory and batch > 1:
            result.notes[method] = "one prompt at a time only"
            continue
        turns[words] = turn(method)
    rounds = args.rounds if batch == 1 else max(2, args.rounds // 2)
    for words, answers in common.take_turns(turns, rounds, warmup=0).items():
        result.rounds[by_words[words]] = answers
    return result


def warm_up(shape: Shape, environments: dict[str, Environment], args: argparse.Namespace) -> None:
    """Every method once, with few tokens: libraries are loaded, and ours has seen that the model can share its prefix."""
    for method in methods(args.k, "old" in environments):
        environments[method.side].ask(
            "decode",
            ids=prompts(16, 1, 1000),
            tokens=3,
            method=method.kind,
            k=method.k,
            low_memory=method.low_memory,
            path=None,
        )


# ---------------------------------------------------------------------------------------------------------- report

HEADER = [
    "method", "ms a token", "time / greedy", "method / hf_contrastive", "s in all", "cache MB", "cache / greedy",
    "% outside model", "same tokens",
]  # fmt: skip


def rows(result: Measured) -> list[list[str]]:
    lines = []
    for method, reason in result.notes.items():
        lines.append([method.words, reason, *["-"] * (len(HEADER) - 2)])
    for method, answers in result.rounds.items():
        same_k = ours(method.k, method.low_memory)
        against_ours = method.kind == "peer" and same_k in result.rounds
        lines.append(
            [
                method.words,
                f"{result.ms(method):.1f}",
                "1" if method == GREEDY else common.format_ratio(result.ratio(method, GREEDY)),
                common.format_ratio(result.ratio(method, same_k)) if against_ours else "-",
                f"{statistics.median(answer['seconds'] for answer in answers):.2f}",
                f"{result.cache(method) / 1e6:.1f}",
                f"{result.cache(method) / result.cache_of_greedy(method):.2f}",
                # a GPU works on after the call has come back
                f"{result.own_share(method):.1f}" if result.device == "cpu" else "-",
                result.same(method),
            ]
        )
    return lines


def found_in(results: list[Measured], batch: int = 1) -> list[Measured]:
    return [result for result in results if result.batch == batch]


def each(results: list[Measured], text: Callable[[Measured], str]) -> str:
    return "; ".join(f"prompt {result.length} {text(result)}" for result in results)


def by_model(done: dict[str, list[Measured]], text: Callable[[list[Measured]], str]) -> str:
    return "; ".join(f"{name}: {text(found)}" for name, results in done.items() if (found := found_in(results)))


def goal_lines(done: dict[str, list[Measured]], device: str, args: argparse.Namespace, old: bool) -> list[str]:
    """What was aimed at, and what was reached at batch 1."""
    lines = []
    for k in args.k:
        limit = GOAL_GREEDY.get(k) if device == "cpu" else GOAL_GPU
        if limit is None:
            continue

        def beside_greedy(result: Measured, k: int = k, limit: float = limit) -> str:
            value = result.ratio(ours(k), GREEDY)[0]
            text = common.verdict_at_most(value, limit)
            if value > limit and device == "cpu":
                bound = result.inside(ours(k)) / result.ms(GREEDY)
                text += f" (the model's own pass over {k} tokens alone: {bound:.2f})"
            return text

        reached = by_model(done, lambda found, text=beside_greedy: each(found, text))
        lines.append(f"at most {limit:g} x the time of greedy search a token at k = {k}, {WHERE[device]}: {reached}.")
    if device == "cpu" and not torch.cuda.is_available():
        lines.append(f"at most {GOAL_GPU:g} x the time of greedy search a token on a GPU: not measured on GPU.")
    if not old:
        lines.append(f"at least {GOAL_OLD:g} times as fast as the fast mode of {OLD}: not measured without it.")
    for k in args.k if old else ():
        reached = by_model(
            done,
            lambda found, k=k: each(found, lambda result: common.verdict(result.ratio(peer(k), ours(k))[0], GOAL_OLD)),
        )
        lines.append(f"at least {GOAL_OLD:g} times as fast as the fast mode of {OLD} at k = {k}: {reached}.")
    k = GOAL_OLD_LOW_AT
    if old and k == args.k[-1]:
        reached = by_model(
            done,
            lambda found: each(
                found,
                lambda result: common.verdict(result.ratio(peer(k, low_memory=True), ours(k))[0], GOAL_OLD_LOW),
            ),
        )
        aim = f"at least {GOAL_OLD_LOW:g} times as fast as the low_memory mode of {OLD} at k = {k}, with its cache memory"
        lines.append(f"{aim}: {reached}.")
    lines.append(f"keys and values of greedy search and k tokens, no more: {memory_verdicts(done, args)}.")
    if device == "cpu" and "gpt2" in done:
        lines.append(own_goal(done["gpt2"], args))
    lengths = sorted({result.length for results in done.values() for result in found_in(results)})
    if len(lengths) > 1:
        reached = by_model(done, lambda found: growth_verdict(found, args))
        lines.append(
            f"cost of a token grows no faster with length than that of greedy search, prompt {lengths[0]} to {lengths[-1]} "
            f"(growth / growth of greedy): {reached}."
        )
    return lines


WHERE = {"cpu": "batch 1, CPU", "cuda": "batch 1, GPU"}


def memory_verdicts(done: dict[str, list[Measured]], args: argparse.Namespace) -> str:
    """The cache after the last step against that of greedy search at the same position, k positions more."""
    worst = 0.0
    allowed = 1.0
    for results in done.values():
        for result in results:
            for k in args.k:
                method = ours(k)
                room = 1 + (k + 1) / result.position(method)
                value = result.cache(method) / result.cache_of_greedy(method)
                if value / room > worst / allowed:
                    worst, allowed = value, room
    return f"{common.verdict_at_most(worst, round(allowed, 3))} x that of greedy search, in the worst case"


def own_goal(results: list[Measured], args: argparse.Namespace) -> str:
    found = [
        f"k = {k} {each(found_in(results), lambda result, k=k: share_verdict(result.own_share(ours(k))))}"
        for k in args.k
    ]
    greedy = each(found_in(results), lambda result: f"{result.own_share(GREEDY):.1f} %")
    aim = f"less than {GOAL_OWN:g} % of a step outside the model at GPT-2's small size"
    return f"{aim}: {'; '.join(found)} (greedy search: {greedy})."


def share_verdict(value: float) -> str:
    return f"met ({value:.1f} %)" if value < GOAL_OWN else f"missed: {value:.1f} %"


def growth_verdict(results: list[Measured], args: argparse.Namespace) -> str:
    first, last = results[0], results[-1]
    found = []
    for k in args.k:
        value = last.ratio(ours(k), GREEDY)[0] / first.ratio(ours(k), GREEDY)[0]
        found.append(f"k = {k} {common.verdict_at_most(value, 1)}")
    return ", ".join(found)


def text_of(
    done: dict[str, list[Measured]], device: str, environments: dict[str, Environment], args: argparse.Namespace
) -> str:
    """The section as far as it was measured."""
    old = environments.get("old")
    beside = f" The other environment: {old.facts['versions']}." if old else ""
    parts = [
        f"## Contrastive search on {'a CPU' if device == 'cpu' else 'a GPU'}",
        common.facts("contrastive_search.py", ["torch", "transformers", "hf-contrastive"], args.threads) + beside,
        f"Random weights, penalty_alpha 0.6, {args.tokens} tokens (one by one: {max(4, args.tokens // 3)}), "
        f"{common.count(args.rounds, 'round')} in turns (half of them, at least 2, for several prompts); each environment is "
        "a process that loaded the same weights. Time of a token: median of the steps after the prefill, from one call of the "
        "logits processors to the next; ratios round by round, median (smallest to largest). `method / hf_contrastive`: "
        "above 1 where this library is faster, same k, same mode. `s in all`: the whole call, prefill included. Cache: keys "
        "and values held after the last step, beside those of greedy search for as many tokens. `same tokens`: as this library's "
        "default at that k.",
    ]
    for name, results in done.items():
        parts.append(f"### {SHAPES[name].words}")
        for result in results:
            parts.append(f"Prompt of {result.length} tokens, batch {result.batch}:")
            parts.append(common.table(HEADER, rows(result)))
    compared = [
        result.first_difference(method) is None
        for results in done.values()
        for result in results
        for method in result.rounds
        if method.kind != "greedy"
    ]
    parts.append(f"The same tokens as this library's default: {sum(compared)} of {len(compared)} decodings.")
    return "\n\n".join([*parts, common.goals(goal_lines(done, device, args, old is not None))])


def sections(device: str, environments: dict[str, Environment], args: argparse.Namespace) -> Iterator[str]:
    """Measure the models of a device; the section after every case, so that a run that is cut short leaves what it has."""
    done: dict[str, list[Measured]] = {}
    for name in args.shapes:
        shape = SHAPES[name]
        if shape.device != device:
            continue
        done[name] = []
        with tempfile.TemporaryDirectory() as folder:
            environments["new"].ask("make", kind=shape.kind, config=shape.config, folder=folder)
            for environment in environments.values():
                environment.ask(
                    "load", kind=shape.kind, config=shape.config, folder=folder, device=device, dtype=shape.dtype
                )
        warm_up(shape, environments, args)
        for batch in args.batches:
            for length in args.lengths if batch == 1 else args.several_lengths:
                result = benchmark(shape, length, batch, environments, args)
                done[name].append(result)
                print(
                    f"{name}, prompt {length}, batch {batch}", common.table(HEADER, rows(result)), sep="\n", flush=True
                )
                yield text_of(done, device, environments, args)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer-python", help="python of the environment with transformers 4.49; left out: no comparison"
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="which models")
    parser.add_argument("--lengths", type=int, nargs="+", help="prompt lengths (default: 128, 512, 1024)")
    parser.add_argument(
        "--several-lengths", type=int, nargs="+", help="prompt lengths for several prompts (default: as --lengths)"
    )
    parser.add_argument("--batches", type=int, nargs="+", help="prompts at once (default: 1 and 4)")
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8], help="candidates (default: 4 and 8)")
    # at 32 new tokens and more, matrices of GPT-2's kind are written column by column: usual texts are longer
    parser.add_argument("--tokens", type=int, default=40, help="timed tokens of a decoding (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in turns (default: 5; half for several prompts)")
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads (default: all cores, as torch does)")
    parser.add_argument(
        "--quick", action="store_true", help="2 rounds of 8 tokens, one prompt of 128 and of 1024 tokens"
    )
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="file to write (default: RESULTS.md)")
    parser.add_argument("--no-write", action="store_true", help="print the section instead of writing it")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.tokens = 2, 8
    args.lengths = args.lengths or ([128, 1024] if args.quick else [128, 512, 1024])
    args.several_lengths = sorted(args.several_lengths or args.lengths)
    args.batches = args.batches or ([1] if args.quick else [1, 4])
    args.lengths, args.k, args.batches = sorted(args.lengths), sorted(args.k), sorted(args.batches)
    longest = args.lengths[-1] + args.tokens + args.k[-1] + 1
    if "gpt2" in args.shapes and longest > SHAPES["gpt2"].config["n_positions"]:
        parser.error(f"{longest} positions are more than GPT-2 has here; take a shorter prompt or fewer tokens")
    if args.rounds < 1 or args.tokens < 2 or args.k[0] < 2 or args.batches[0] < 1:
        parser.error("--rounds and --batches must be at least 1, --tokens and --k at least 2")
    return args


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wanted_devices(shapes: Iterable[str]) -> list[str]:
    devices = {SHAPES[name].device for name in shapes}
    return [
        device for device in ("cpu", "cuda") if device in devices and (device == "cpu" or torch.cuda.is_available())
    ]


def main() -> None:
    args = parse()
    environments = {"new": Environment(sys.executable, args.threads)}
    if args.peer_python:
        environments["old"] = Environment(args.peer_python, args.threads)
    for device in wanted_devices(args.shapes):
        name = "contrastive-search" if device == "cpu" else "contrastive-search-gpu"
        text = ""
        for text in sections(device, environments, args):
            if not args.no_write:
                common.write_section(args.output, name, text)
                print(f"written: section '{name}' of {args.output.name}", flush=True)
        if args.no_write:
            print(text)
    for environment in environments.values():
        environment.close()


if __name__ == "__main__":
    main()
