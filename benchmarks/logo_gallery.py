"""One-shot identification as the gallery grows: references embedded, indexes built, searched, and how many logos are still right.

References are drawn logos of made-up brands, queries the first of them as in a photo (the settings of recipes/logo/glyphs.yaml), all of
brands that training has not seen. Speeds come from alternating rounds in one process.

    python benchmarks/logo_gallery.py [--checkpoint out/logo-glyphs] [--sizes 1000 10000 100000] [--quick] [--no-write]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

from hf_contrastive import LogoIdentifier, VectorIndex
from hf_contrastive.data import LogoViews, OcrNoise, RecordCollator, SceneViews, SimCLRViews, make_glyph_logos
from hf_contrastive.families.dual_encoder.record_encoding import encode_fused


SECTION = "logo-gallery"
PACKAGES = ("torch", "transformers", "faiss-cpu")
KINDS = ("exact", "flat", "hnsw")
#: of recipes/logo/glyphs.yaml
VIEWS: dict[str, Any] = {"num_views": 1, "crop_scale": (0.7, 1.0), "blur_p": 0.0}
SCENE, NOISE, DROPOUT = {"shrink": 0.6, "cover": 0.3}, (0.1, 0.2), 0.2
CHUNK = 2000


def train(folder: Path) -> Path:
    """The embedded default of the recipe, trained anew."""
    recipe = Path(__file__).resolve().parents[1] / "recipes" / "logo"
    words = [sys.executable, str(recipe / "train.py"), str(recipe / "glyphs.yaml"), "--output_dir", str(folder)]
    subprocess.run([*words, "--pictures", "false", "--save_strategy", "no"], check=True, stdout=subprocess.DEVNULL)
    return folder


def embed_queries(identifier: LogoIdentifier, size: int) -> tuple[np.ndarray, list[str]]:
    """The test brands as in a photo, and their names."""
    logos = make_glyph_logos("test")
    images = identifier.processor.image_processor
    views = SimCLRViews.logos(size, mean=images.image_mean, std=images.image_std, seed=1000, **VIEWS)
    texts = [text for text in make_glyph_logos("train")["text"][:] if text]
    collator = RecordCollator(
        SceneViews(LogoViews(views), **SCENE),
        identifier.processor,
        corrupt=OcrNoise(texts, *NOISE),
        text_dropout=DROPOUT,
        labels=False,
        mask_duplicates=False,
        seed=1000,
    )
    return encode_fused(identifier.model, logos, collator), logos["label"][:]


def embed_references(identifier: LogoIdentifier, count: int) -> tuple[np.ndarray, list[str], float]:
    """The test brands and further ones, `count` in all; with the seconds that embedding took."""
    test = make_glyph_logos("test")
    tables = [test, make_glyph_logos("others", count - len(test))] if count > len(test) else [test]
    parts, names, seconds = [], [], 0.0
    for table in tables:
        for start in range(0, len(table), CHUNK):
            rows = table.select(range(start, min(start + CHUNK, len(table))))
            images, texts = rows["image"][:], rows["text"][:]
            before = time.perf_counter()
            parts.append(identifier.embed(images, texts))
            seconds += time.perf_counter() - before
            names += rows["label"][:]
    return np.concatenate(parts), names, seconds


def one_by_one(index: VectorIndex, queries: np.ndarray) -> Callable[[], Any]:
    """Every query searched on its own."""
    return lambda: [index.search(row[None], k=5) for row in queries]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder of a training of glyphs.yaml (default: trained anew)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="references")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and faiss (default: 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.repeats, args.no_write = [250, 400], 1, True
    torch.set_num_threads(args.threads)
    import faiss

    faiss.omp_set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = train(Path(folder) / "logo") if args.checkpoint is None else args.checkpoint
        identifier = LogoIdentifier(AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint))
    queries, brands = embed_queries(identifier, identifier.processor.image_processor.size["height"])
    vectors, names, seconds = embed_references(identifier, max(args.sizes))

    built, searched, right = [], [], {}
    for size in args.sizes:
        indexes: dict[str, VectorIndex] = {}
        for kind in KINDS:
            one = LogoIdentifier(identifier.model, identifier.processor)
            before = time.perf_counter()
            one.add_embeddings(vectors[:size], names[:size], kind=kind)
            built.append(
                {"references": f"{size:,}", "index": kind, "built in, s": f"{time.perf_counter() - before:.2f}"}
            )
            assert one.index is not None
            indexes[kind] = one.index
        known = [brand in set(names[:size]) for brand in brands]
        asked, wanted = queries[known], [brand for brand, there in zip(brands, known, strict=True) if there]
        times = common.alternate({kind: one_by_one(index, asked) for kind, index in indexes.items()}, args.repeats)
        exact = indexes["exact"].search(asked, k=5).rows.numpy()
        for kind, index in indexes.items():
            near = index.search(asked, k=5)
            top = [
                float(np.mean([brand in found[:k] for brand, found in zip(wanted, near.ids, strict=True)]))
                for k in (1, 5)
            ]
            same = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(exact.tolist(), near.rows.tolist(), strict=True)])
            right[size, kind] = top[0]
            searched.append(
                {
                    "references": f"{size:,}",
                    "index": kind,
                    "top-1 %": f"{100 * top[0]:.1f}",
                    "top-5 %": f"{100 * top[1]:.1f}",
                    "recall@5 %": f"{100 * same:.1f}",
                    "ms a logo": f"{1000 * statistics.median(times[kind]) / len(asked):.3f}",
                    "time / exact": common.format_ratio(common.ratio(times[kind], times["exact"])),
                }
            )
    first, last = (right[size, "exact"] for size in (min(args.sizes), max(args.sizes)))
    lost = 1 - last / first if first else 0.0
    parts = [
        "## Logos: one reference a brand, growing galleries, CPU",
        common.facts("logo_gallery.py", PACKAGES, args.threads),
        f"{len(brands)} drawn logos as in a photo, looked for among drawn references of 32 pixels by the model of recipes/logo/glyphs.yaml "
        f"(seed 42, trained for {'this' if args.checkpoint is None else 'it before'}); embeddings of {vectors.shape[1]} numbers. Embedding "
        f"the references: {len(vectors) / seconds:,.0f} logos a second. Searches one by one, five references each; median of {args.repeats} "
        "alternating rounds (smallest to largest ratio). Many made-up names differ in one letter only, and icons share two letters, so "
        "the largest gallery is harder than one of real brands in this respect, and easier in that all drawings are clean.",
        common.table(list(built[0]), [[*row.values()] for row in built]),
        common.table(list(searched[0]), [[*row.values()] for row in searched]),
        f"Of the top-1 with {min(args.sizes):,} references {100 * lost:.0f} % are lost with {max(args.sizes):,}; no goal was set.",
    ]
    text = "\n\n".join(parts)
    print(text)
    if not args.no_write:
        common.write_section(common.RESULTS, SECTION, text)


if __name__ == "__main__":
    main()
