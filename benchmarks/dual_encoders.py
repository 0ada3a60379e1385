"""Dual encoders: training steps beside the losses of open_clip and sentence-transformers on the same encoders, the gradient cache, and
embedding texts beside sentence-transformers.

    python benchmarks/dual_encoders.py [--batches 128 1024] [--cached 4096] [--text-encoder ID] [--quick] [--no-write]

A text encoder that cannot be had (no folder, no network) is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable
from typing import Any

import common
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPVisionConfig

from hf_contrastive import (
    ConvEncoderConfig,
    ConvEncoderModel,
    ConVIRTConfig,
    ConVIRTForPreTraining,
    ConVIRTModel,
    DualEncoderProcessor,
)
from hf_contrastive.data import image_processor, load_texts, split_sentences
from hf_contrastive.families.dual_encoder.text_encoding import encode_texts
from hf_contrastive.training import cached_backward


SECTION = "dual-encoders"
PACKAGES = ("torch", "transformers", "open_clip_torch", "sentence-transformers")
IMAGE, TOKENS, CHUNK = 32, 16, 128
# what two copies of the same differ by says how much of a ratio is noise
COPY = "hf_contrastive, a second copy"
ROUND_PAIRS = 1024  # a round has at least as many pairs


def build(seed: int = 0) -> Any:
    """Small encoders of CLIP's kind."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
    }
    config = ConVIRTConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=IMAGE, patch_size=8),
        text_config=CLIPTextConfig(
            **sizes, vocab_size=1000, max_position_embeddings=TOKENS, bos_token_id=998, eos_token_id=999
        ),
        image_pooling="pooler",
        text_pooling="pooler",
        projection_dim=128,
        lambda_image_to_text=0.5,
        temperature=0.07,
        learn_temperature=True,
        freeze_text_layers=0,
        freeze_text_embeddings=False,
    )
    return ConVIRTForPreTraining(config).train()


def make_batch(rows: int) -> dict[str, torch.Tensor]:
    """Made images and texts."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(1, 998, (rows, TOKENS), generator=generator)
    ids[:, -1] = 999
    return {
        "pixel_values": torch.randn(rows, 3, IMAGE, IMAGE, generator=generator),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }


def step_of(model: Any, batch: dict[str, torch.Tensor], loss_of: Callable[[Any], torch.Tensor]) -> Callable[[], float]:
    """One training step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def losses_of(batch: dict[str, torch.Tensor]) -> dict[str, Callable[[Any], torch.Tensor]]:
    """The same encoders and projections with the loss of every library."""
    theirs = importlib.import_module("sentence_transformers.sentence_transformer.losses")
    # no dependency, not even of development: the type checker must not look for it
    clip = importlib.import_module("open_clip").ClipLoss()

    def open_clip_loss(model: Any) -> torch.Tensor:
        embeds = model.embed_views(**batch)
        images, texts = (nn.functional.normalize(embeds[f"{side}_embeds"], dim=-1) for side in ("image", "text"))
        return clip(images, texts, model.logit_scale())

    class Nothing(nn.Module):
        """Their loss is made for a model; it is given embeddings here."""

        def forward(self, features: Any) -> Any:
            return features

    nothing: Any = Nothing()
    ranking: Any = theirs.MultipleNegativesRankingLoss(
        nothing, scale=1.0, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )

    def sentence_transformers_loss(model: Any) -> torch.Tensor:
        embeds = model.embed_views(**batch)
        ranking.scale = model.logit_scale()
        return ranking.compute_loss_from_embeddings([embeds["image_embeds"], embeds["text_embeds"]], None)

    return {
        "hf_contrastive": lambda model: model(**batch).loss,
        "open_clip": open_clip_loss,
        "sentence-transformers": sentence_transformers_loss,
        COPY: lambda model: model(**batch).loss,
    }


def repeated(method: Callable[[], Any], times: int) -> Callable[[], None]:
    """A round of several steps: one step of a small batch is too short to be told from the noise of the machine."""

    def run() -> None:
        for _ in range(times):
            method()

    return run


def losses_alone(batch: dict[str, torch.Tensor], times: int) -> dict[str, Callable[[], None]]:
    """Every library's loss with its backward, from embeddings that are there already."""
    model = build()
    views = model.embed_views(**batch)
    embeds = {name: value.detach().requires_grad_() for name, value in views.items() if name.endswith("_embeds")}
    model.embed_views = lambda *_, **__: {**embeds, "image_features": None, "text_features": None}

    def step(loss_of: Callable[[Any], torch.Tensor]) -> Callable[[], None]:
        return repeated(lambda: loss_of(model).backward(), times)

    return {name: step(loss_of) for name, loss_of in losses_of(batch).items()}


def training_part(batches: list[int], repeats: int) -> tuple[list[list[str]], list[str]]:
    """Pairs a second of every library, and whether the losses agree."""
    rows, lines = [], []
    for size in batches:
        batch = make_batch(size)
        methods = {name: step_of(build(), batch, loss_of) for name, loss_of in losses_of(batch).items()}
        first = {name: method() for name, method in methods.items()}
        spread = max(first.values()) - min(first.values())
        steps = max(1, ROUND_PAIRS // size)
        seconds = common.alternate({name: repeated(method, steps) for name, method in methods.items()}, repeats)
        alone = common.alternate(losses_alone(batch, 10 * steps), repeats)
        for name, times in seconds.items():
            rows.append(
                [
                    str(size),
                    name,
                    f"{steps * size / statistics.median(times):.0f}",
                    common.format_ratio(common.ratio(times, seconds["hf_contrastive"])),
                    f"{1e3 * statistics.median(alone[name]) / (10 * steps):.2f}",
                    f"{first[name]:.6f}",
                ]
            )
        for name in ("open_clip", "sentence-transformers"):
            found = common.ratio(seconds[name], seconds["hf_contrastive"])[0]
            lines.append(
                f"at least as many pairs a second as {name}'s loss on the same encoders, batch {size}: "
                f"{common.verdict(found, 1.0)}."
            )
        assert spread < 1e-4, f"the losses of the first step differ by {spread}"
    return rows, lines


def cache_part(size: int, repeats: int) -> tuple[list[list[str]], list[str]]:
    """Seconds a pair of a big batch in chunks beside plain steps of one chunk."""
    model = build()
    big, small = make_batch(size), make_batch(CHUNK)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def cached() -> None:
        optimizer.zero_grad(set_to_none=True)
        cached_backward(model, big, CHUNK)
        optimizer.step()

    plain = step_of(model, small, lambda model: model(**small).loss)

    def plain_steps() -> None:  # as many pairs
        for _ in range(size // CHUNK):
            plain()

    seconds = common.alternate({"plain": plain_steps, "cached": cached}, repeats)
    found = common.ratio(seconds["cached"], seconds["plain"])
    rows = [
        [f"plain steps of {CHUNK}", f"{1e3 * statistics.median(seconds['plain']) / size:.3f}", "1"],
        [
            f"one step of {size} in chunks of {CHUNK}",
            f"{1e3 * statistics.median(seconds['cached']) / size:.3f}",
            common.format_ratio(found),
        ],
    ]
    line = f"gradient cache, batch {size}: at most 1.4 x the cost of a plain step per pair: {common.verdict_at_most(found[0], 1.4)}."
    return rows, [line]


def encode_part(encoder: str, count: int, repeats: int) -> tuple[list[list[str]], list[str], str]:
    """Texts a second beside `SentenceTransformer.encode` on the same encoder."""
    from sentence_transformers import SentenceTransformer

    try:
        theirs = SentenceTransformer(encoder, device="cpu")
    except (OSError, ValueError) as error:
        return [], [], f"The text encoder {encoder} could not be had ({type(error).__name__}): not measured."
    from transformers import AutoTokenizer

    vision = ConvEncoderModel(ConvEncoderConfig(channels=[8]))
    ours = ConVIRTModel.from_towers(vision, encoder, text_pooling="mean", freeze_text_layers=0).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    tokenizer.model_max_length = min(theirs.get_max_seq_length() or 256, 256)
    processor = DualEncoderProcessor(image_processor(16), tokenizer)
    texts = [one for text in load_texts("topics")["text"] for one in split_sentences(text)][:count]
    options: dict[str, Any] = {"readout": "backbone", "normalize": True}

    found: dict[str, torch.Tensor] = {}

    def own(bf16: bool) -> Callable[[], None]:
        def run() -> None:
            found["bf16" if bf16 else "own"] = encode_texts(ours, texts, processor, bf16=bf16, **options)

        return run

    def other() -> None:
        found["other"] = torch.as_tensor(
            theirs.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        )

    methods = {"hf_contrastive": own(False), "sentence-transformers": other, "hf_contrastive, bf16": own(True)}
    seconds = common.alternate(methods, repeats)
    difference = float((found["own"] - found["other"]).abs().max())
    halved = float((found["bf16"] * found["other"]).sum(1).min())
    rows = []
    for name, times in seconds.items():
        same = {"hf_contrastive": f"{difference:.1e}", "hf_contrastive, bf16": f"cosine at least {halved:.4f}"}.get(
            name, "-"
        )
        rows.append(
            [
                name,
                f"{len(texts) / statistics.median(times):.0f}",
                common.format_ratio(common.ratio(times, seconds["hf_contrastive"])),
                same,
            ]
        )
    value = common.ratio(seconds["sentence-transformers"], seconds["hf_contrastive"])[0]
    line = (
        f"as many texts a second as sentence-transformers on the same encoder, float32: {common.verdict(value, 1.0)}."
    )
    note = f"{len(texts)} sentences of this Python's help, {encoder}, mean of tokens, at most {tokenizer.model_max_length} tokens."
    return rows, [line], note


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1024], help="default: 128 1024")
    parser.add_argument("--cached", type=int, default=4096, help="batch of the gradient cache (default: 4096)")
    parser.add_argument("--text-encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="folder or hub id")
    parser.add_argument("--texts", type=int, default=2000, help="sentences that are embedded (default: 2000)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    if args.quick:
        args.batches, args.cached, args.texts, args.repeats, args.no_write = [16], 2 * CHUNK, 40, 1, True
    torch.set_num_threads(args.threads)
    trained, aims = training_part(args.batches, args.repeats)
    cached, more = cache_part(args.cached, args.repeats)
    encoded, last, note = encode_part(args.text_encoder, args.texts, args.repeats)
    parts = [
        "## Dual encoders, CPU",
        common.facts("dual_encoders.py", PACKAGES, args.threads),
        f"Image encoder and text encoder of CLIP's kind with 2 layers of 128, images of {IMAGE} pixels, texts of {TOKENS} tokens, AdamW, "
        f"float32; median of {args.repeats} alternating rounds (smallest to largest ratio). The other libraries' losses take the "
        'embeddings of the same encoders in the same loop; the loss of the first step is the same. "Loss alone": '
        "forward and backward from embeddings that are there already. A second copy of the same shows how much of a ratio is noise.",
        common.table(
            ["batch", "loss of", "pairs a second", "time / hf_contrastive", "loss alone, ms", "first loss"], trained
        ),
        "The gradient cache beside plain steps over as many pairs:",
        common.table(["step", "ms a pair", "time / plain"], cached),
    ]
    if encoded:
        parts += [
            note,
            common.table(["embedding", "texts a second", "time / hf_contrastive", "same vectors"], encoded),
        ]
    else:
        parts.append(note)
    text = "\n\n".join([*parts, common.goals([*aims, *more, *last])])
    print(text)
    if not args.no_write:
        common.write_section(common.RESULTS, SECTION, text)


if __name__ == "__main__":
    main()
