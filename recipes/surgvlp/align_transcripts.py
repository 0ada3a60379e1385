"""Two transcripts of the same lectures as the two modalities: does MIL-NCE over several sentences help beside InfoNCE with one?

    python recipes/surgvlp/align_transcripts.py surgical_narrations --card model_cards/surgvlp.md

No video is needed. A small text encoder of SurgVLP learns from nothing: a sentence of the first transcript is compared with one sentence
of the second that overlaps it, drawn anew at every step (InfoNCE), and, in the second arm, also with its K candidates (MIL-NCE). Test: for
a sentence of lectures that were not trained on, the second transcript's sentences of all of them are ranked; a hit at k is a sentence
that overlaps it in time among the first k. Mean and spread over seeds go into the card.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig

from hf_contrastive import ConvEncoderConfig, DualEncoderProcessor, SurgVLPConfig, SurgVLPModel
from hf_contrastive.data import NarrationClips, image_processor, load_narrations, train_word_tokenizer
from hf_contrastive.data.transcripts import overlapping_sentences
from hf_contrastive.evaluation import nearest_neighbours
from hf_contrastive.losses import clip_loss, mil_nce
from hf_contrastive.recipes.common import machine, plain_errors
from hf_contrastive.reporting import markdown_table, mean_and_spread, say, write_section
from hf_contrastive.utils import evaluation_mode


NAME = "Two transcripts of five lectures"
#: options of MIL-NCE, none without it
ARMS: dict[str, dict[str, Any] | None] = {
    "InfoNCE alone": None,
    "InfoNCE + MIL-NCE": {},
    "InfoNCE + MIL-NCE on cosines": {"normalize": True, "temperature": 0.1},
}
KS = (1, 5, 10)


def new_model(processor: Any, length: int) -> SurgVLPModel:
    """A text encoder of two layers; the image encoder beside it is not used."""
    text = BertConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=length,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    return SurgVLPModel(
        SurgVLPConfig(
            vision_config=ConvEncoderConfig(channels=[4]), text_config=text, text_layers=2, text_length=length
        )
    )


def embed(model: SurgVLPModel, processor: Any, texts: Sequence[str]) -> torch.Tensor:
    """Vectors of texts, not normalised, with their gradients."""
    return model.embed_texts(**processor.tokenize(list(texts)))[1]


def train(
    model: SurgVLPModel,
    rows: NarrationClips,
    processor: Any,
    mil: dict[str, Any] | None,
    args: argparse.Namespace,
    seed: int,
) -> None:
    """Train one arm; both see the same sentences in the same order."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.text_model.parameters(), lr=args.learning_rate, weight_decay=1e-4)
    model.train()
    for epoch in range(args.epochs):
        rows.set_epoch(epoch)
        order = rng.permutation(len(rows))
        for start in range(0, len(order) - args.batch_size + 1, args.batch_size):
            plans = [rows.plan(int(row)) for row in order[start : start + args.batch_size]]
            drawn = []
            for plan in plans:
                other = plan["video"].other
                found = overlapping_sentences(other.starts, other.ends, plan["start"], plan["end"])
                drawn.append(other.texts[found[int(rng.integers(len(found)))]] if found else plan["anchor"])
            anchors = embed(model, processor, [plan["anchor"] for plan in plans])
            loss = clip_loss(anchors, embed(model, processor, drawn), 10.0)
            if mil is not None:
                others = embed(model, processor, [text for plan in plans for text in plan["others"]])
                loss = loss + mil_nce(anchors, others.view(len(plans), args.num_texts, -1), **mil)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


@torch.no_grad()
def measure(model: SurgVLPModel, rows: NarrationClips, processor: Any) -> dict[str, float]:
    """Share of the sentences for which one of the first k overlaps it in time."""
    gallery, owner = [], []
    for number, video in enumerate(rows.videos):
        gallery += video.other.texts
        owner += [(number, place) for place in range(len(video.other))]
    right, queries = [], []
    for row, (number, _) in enumerate(rows.rows):
        plan = rows.plan(row)
        other = plan["video"].other
        found = {
            (number, place) for place in overlapping_sentences(other.starts, other.ends, plan["start"], plan["end"])
        }
        if found:
            right.append(found)
            queries.append(plan["anchor"])
    with evaluation_mode(model):
        vectors = [embed(model, processor, texts) for texts in (queries, gallery)]
    nearest = nearest_neighbours(vectors[0], vectors[1], k=min(max(KS), len(gallery)), exclude_self=False)[1]
    hits = np.array([[owner[place] in found for place in row] for row, found in zip(nearest, right, strict=True)])
    return {f"R@{k} %": 100 * float(hits[:, :k].any(1).mean()) for k in KS if k <= len(gallery)} | {
        "queries": len(queries),
        "gallery": len(gallery),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with splits/ and both folders of transcripts")
    parser.add_argument("--train-split", default="train_narration", help="default: %(default)s")
    parser.add_argument("--test-split", default="val", help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--epochs", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="default: %(default)s")
    parser.add_argument("--num-texts", type=int, default=2, help="K, candidates of MIL-NCE (default: %(default)s)")
    parser.add_argument("--max-length", type=int, default=77, help="tokens of a sentence (default: %(default)s)")
    parser.add_argument("--card", type=Path, help="model card that gets the table")
    args = parser.parse_args()
    started = time.time()
    with plain_errors():
        options = {"num_texts": args.num_texts}
        learned = NarrationClips(load_narrations(args.data, args.train_split), per="sentence", **options)
        held = NarrationClips(load_narrations(args.data, args.test_split), draw=False, **options)
        if len(learned) < args.batch_size:
            raise ValueError(f"{len(learned)} sentences to train on, fewer than --batch-size {args.batch_size}.")
    texts = [text for video in learned.videos for text in (*video.anchor.texts, *video.other.texts)]
    tokenizer = train_word_tokenizer(texts, "wordpiece", vocab_size=1000, max_length=args.max_length)
    processor = DualEncoderProcessor(image_processor(16), tokenizer)
    found: dict[str, list[dict[str, float]]] = {"untrained encoder": [], **{name: [] for name in ARMS}}
    for seed in args.seeds:
        learned.seed = seed
        torch.manual_seed(seed)
        start = new_model(processor, args.max_length)
        found["untrained encoder"].append(measure(start, held, processor))
        for name, mil in ARMS.items():
            model = new_model(processor, args.max_length)
            model.load_state_dict(start.state_dict())
            train(model, learned, processor, mil, args, seed)
            found[name].append(measure(model, held, processor))
            say(f"seed {seed}, {name}: {', '.join(f'{key} {value:.1f}' for key, value in found[name][-1].items())}")
    section = section_of(found, learned, args, time.time() - started)
    say(section)
    if args.card is not None:
        write_section(args.card, NAME, section)


def section_of(
    found: dict[str, list[dict[str, float]]], learned: NarrationClips, args: argparse.Namespace, seconds: float
) -> str:
    """The table of all seeds, with the command that makes it."""
    table = [
        {
            "model": name,
            **{key: mean_and_spread([row[key] for row in rows], 1) for key in rows[0] if key.startswith("R@")},
        }
        for name, rows in found.items()
    ]
    first, *others = ARMS
    cut = "R@5 %" if "R@5 %" in found[first][0] else "R@1 %"
    compared = []
    for name in others:
        gains = [two[cut] - one[cut] for one, two in zip(found[first], found[name], strict=True)]
        told = ", ".join(f"{gain:+.1f}" for gain in gains)
        compared.append(f"- {cut[:-2]}: {name} minus {first} by seed: {told}; mean {statistics.mean(gains):+.1f}.")
    steps = args.epochs * (len(learned) // args.batch_size)
    sizes = found[first][0]
    words = ["python", *sys.argv]
    lines = [
        f"### {NAME}",
        "",
        f"{len(learned)} training sentences of {len(learned.videos)} lectures, {steps} steps; {sizes['queries']:.0f} test sentences, "
        f"{sizes['gallery']:.0f} sentences of the second transcript to be ranked; mean ± standard deviation over the seeds "
        f"{', '.join(map(str, args.seeds))}.",
        "",
        markdown_table(table),
        "",
        *compared,
        "",
        f"{machine()}; {seconds / len(args.seeds):.0f} s a seed (on a shared machine); {datetime.date.today().isoformat()}. Command:",
        "",
        f"    {shlex.join(words)}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
