"""Two SimCLR views of an image: images per second on one core, against lightly's SimCLRTransform.

    python benchmarks/augmentation.py [--rounds 7] [--output augmentation.json]

Both get the same decoded images and the same settings (crop, flip, jitter, grey, blur, ImageNet's mean and std) and use
one thread. Rounds alternate between the two, so that a busy machine slows both; the ratio is the median of the
per-round ratios. What is not equal: lightly blurs with Pillow's box approximation of the Gaussian (any radius), this
library with a kernel of a tenth of the side, as the SimCLR paper says; lightly rounds to 8 bits after every step.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_contrastive.data import SimCLRViews


# side in pixels, images a round
SIZES = ((32, 256), (96, 96), (224, 24))


def make_images(size: int, count: int) -> list[Image.Image]:
    """Smooth random colour pictures: noise alone would be no picture, and a flat one would flatter the hue step."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in coarse]


def ours(size: int, small: bool) -> SimCLRViews:
    """SimCLR's CIFAR setting for small images, ImageNet's for the others."""
    if small:
        return SimCLRViews.imagenet(size, jitter_strength=0.5, blur_p=0.0)
    return SimCLRViews.imagenet(size)


def lightly_transform(size: int, small: bool) -> Callable[[Image.Image], list[torch.Tensor]] | None:
    """lightly's transform with the same settings, or nothing where lightly is not installed."""
    try:
        from lightly.transforms import SimCLRTransform  # ty: ignore[import-not-found]
    except ImportError:
        return None
    changes: dict[str, Any] = {"cj_strength": 0.5, "gaussian_blur": 0.0} if small else {}
    return SimCLRTransform(input_size=size, **changes)


def seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(size: int, count: int, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    images, indices = make_images(size, count), list(range(count))
    arrays = [np.array(image) for image in images]
    small = size <= 32
    views, peer = ours(size, small), lightly_transform(size, small)

    def run_ours(epoch: int, source: list[Any]) -> torch.Tensor:
        return views(source, indices, epoch)

    def run_peer() -> torch.Tensor:
        assert peer is not None
        made = [peer(image) for image in images]
        return torch.stack([torch.stack(pair) for pair in made])  # what a collator does with them

    assert run_ours(0, images).shape == (count, 2, 3, size, size)
    if peer is not None:
        assert run_peer().shape == (count, 2, 3, size, size)
    mine, mine_arrays, theirs = [], [], []
    for number in range(rounds):
        mine.append(seconds(lambda n=number: run_ours(n, images)))
        if peer is not None:
            theirs.append(seconds(run_peer))
        mine_arrays.append(seconds(lambda n=number: run_ours(n, arrays)))
    row: dict[str, Any] = {
        "size": size,
        "setting": "jitter 0.5, no blur" if small else "full set",
        "ours": count / statistics.median(mine),
        "ours_preloaded": count / statistics.median(mine_arrays),
        "lightly": None,
        "ratio": None,
    }
    if peer is not None:
        ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
        row |= {"lightly": count / statistics.median(theirs), "ratio": statistics.median(ratios)}
        row |= {"ratio_low": min(ratios), "ratio_high": max(ratios)}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| side | setting | this library, images/s | from arrays, images/s | lightly, images/s | ratio (lowest - highest round) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["lightly"] is None:
            peer, ratio = "not installed", "-"
        else:
            peer, ratio = (
                f"{row['lightly']:.0f}",
                f"{row['ratio']:.2f} ({row['ratio_low']:.2f} - {row['ratio_high']:.2f})",
            )
        lines.append(
            f"| {row['size']} | {row['setting']} | {row['ours']:.0f} | {row['ours_preloaded']:.0f} | {peer} | {ratio} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds per size (default: 7)")
    parser.add_argument("--output", type=Path, help="also write the rows as JSON")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    torch.set_num_threads(1)
    rows = [measure(size, count, options.rounds) for size, count in SIZES]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, 1 thread"
    print(f"Two SimCLR views of an image ({versions}, median of {options.rounds} rounds)\n\n{table(rows)}")
    if options.output is not None:
        options.output.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
